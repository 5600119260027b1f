//! One data-plane thread: its runtime, its share of every listener, its live and its parked connections.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::net::TcpListener;

use crate::close::Refusal;
use crate::connection::{Arrival, Established, finish, serve, serve_established};
use crate::connection_log::{Refused, flush_in_time};
use crate::listener::{Listener, accept_loop};
use crate::parking::Lot;
use crate::pop::{CoreHandle, Pop};
use crate::record::Live;
use crate::relay::{Pair, reset_on_close};

/// What the connections of one thread share.
pub(crate) struct Core {
    pub(crate) pop: Arc<Pop>,
    pub(crate) live: Arc<Live>,
    lot: Arc<Lot<Established>>,
}

/// Starts a data-plane thread on these sockets. It ends when a drain is over.
pub(crate) fn start(
    pop: Arc<Pop>,
    number: usize,
    sockets: Vec<(Arc<Listener>, StdListener)>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("core-{number}")).spawn(move || {
        if let Err(error) = runtime.block_on(run(pop, number, sockets)) {
            tracing::error!(%error, core = number, "data-plane thread failed");
        }
    })
}

async fn run(pop: Arc<Pop>, number: usize, sockets: Vec<(Arc<Listener>, StdListener)>) -> io::Result<()> {
    let core =
        Arc::new(Core { live: Arc::clone(&pop.cores[number].live), lot: Arc::new(Lot::new()?), pop: Arc::clone(&pop) });
    for (listener, socket) in sockets {
        let socket = TcpListener::from_std(socket)?;
        let (core, pop) = (Arc::clone(&core), Arc::clone(&pop));
        let arrivals = Arc::clone(&listener);
        tokio::spawn(async move {
            let stop = pop.drain.listeners_close();
            accept_loop(socket, listener, stop, |stream, peer| {
                let at = Instant::now();
                arrivals.accepted.inc();
                match core.pop.open_connection(&arrivals) {
                    Some(open) => {
                        let arrival = Arrival { stream, peer, at, listener: Arc::clone(&arrivals), open };
                        tokio::spawn(serve(Arc::clone(&core), arrival));
                    }
                    None => {
                        reset_on_close(&stream);
                        arrivals.count_refusal(Refusal::TooManyConnections);
                        core.pop.log.refused(&Refused::at_accept(
                            &arrivals.name,
                            peer,
                            Refusal::TooManyConnections,
                            at,
                        ));
                    }
                }
            })
            .await;
        });
    }
    let flushing = Arc::clone(&pop);
    tokio::spawn(async move { flush_in_time(&flushing.log).await });
    let handle = &pop.cores[number];
    tokio::select! {
        woken = core.wake_parked() => woken?,
        () = core.pass_orders_on(handle) => {}
        () = pop.drain.over() => {}
    }
    pop.log.flush();
    Ok(())
}

impl Core {
    /// Leaves an idle connection in the lot.
    pub(crate) fn park(self: Arc<Self>, pair: Pair, connection: Established) {
        let record = Arc::clone(&connection.record);
        let deadline = pair.progress.deadline(&record);
        match self.lot.park(pair, connection, deadline) {
            Ok(None) => {
                self.pop.metrics.parked.inc();
                // An order given in the moment between the relay's end and this one would go unseen.
                if record.ordered().is_some() {
                    self.lot.orders_given();
                }
            }
            Ok(Some((pair, connection))) => {
                tokio::spawn(serve_established(self, pair, connection));
            }
            Err(error) => {
                tracing::error!(%error, "parked connection lost");
                self.live.remove(&record);
            }
        }
    }

    /// Serves on what leaves the lot.
    async fn wake_parked(self: &Arc<Self>) -> io::Result<()> {
        loop {
            for woken in self.lot.woken(|connection| connection.record.ordered()).await? {
                self.pop.metrics.parked.dec();
                match woken.load.record.ordered().or(woken.overdue) {
                    Some(close) => finish(self, woken.pair, woken.load, close),
                    None => {
                        tokio::spawn(serve_established(Arc::clone(self), woken.pair, woken.load));
                    }
                }
            }
        }
    }

    async fn pass_orders_on(&self, handle: &CoreHandle) {
        loop {
            handle.orders.notified().await;
            self.lot.orders_given();
        }
    }
}
