//! Round trips, counted on the wire.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_postgres::tokio_postgres::types::Type;
use edgeproxy_postgres::{
    Direct, PoolSettings, ReadPolicy, RegionPool, RegionSettings, Server, ServerPool, Session, Statement, connect,
};
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{Link, TcpPath, Wan};
use edgeproxy_world::{LONG, eventually};

use crate::stage::{INSERT, contact, primary_is, reach, run, server, until};

fn through(path: &TcpPath, of: &ScratchPostgres) -> Server {
    server(of).at_port(path.address().port())
}

/// Far enough for an answer to come in one piece.
fn link() -> Link {
    Link::half_of(Duration::from_millis(4))
}

async fn counted<T>(path: &TcpPath, work: impl Future<Output = T>) -> (u64, T) {
    let before = path.flights();
    let done = work.await;
    (path.flights() - before, done)
}

#[test]
fn a_statement_takes_one_round_trip() {
    run(async {
        let wan = Wan::start(1)?;
        let primary = ScratchPostgres::start("lhr").await?;
        let path = wan.tcp(primary.address(), link())?;
        let (connection, _) = connect(&through(&path, &primary), &Direct).await.unwrap();
        // Startup, and the two of the login.
        assert_eq!(path.flights(), 3);

        let parameters = contact(&"typed");
        let (flights, inserted) = counted(&path, connection.execute_typed(INSERT, &parameters)).await;
        assert_eq!((flights, inserted.unwrap()), (1, 1));

        let (flights, statement) = counted(&path, connection.prepared(INSERT, &[])).await;
        assert_eq!(flights, 1);
        let statement = statement.unwrap();
        for _ in 0..3 {
            let (flights, again) = counted(&path, connection.prepared(INSERT, &[])).await;
            assert_eq!((flights, again.unwrap().params().len()), (0, 3));
            let values = [&"cached" as _, &"bench@test.local" as _, &"Benchmark" as _];
            let (flights, inserted) = counted(&path, connection.execute(&statement, &values)).await;
            assert_eq!((flights, inserted.unwrap()), (1, 1));
        }
        // Other types make another statement of the same text.
        for given in [Type::INT8, Type::TEXT, Type::INT8] {
            let statement = connection.prepared("SELECT $1", std::slice::from_ref(&given)).await.unwrap();
            assert_eq!(statement.params(), [given]);
        }
        let (flights, sync) = counted(&path, connection.check_connection()).await;
        assert_eq!((flights, sync.unwrap()), (1, ()));
        Ok(())
    });
}

#[test]
fn a_checkout_takes_none_also_the_first() {
    run(async {
        let wan = Wan::start(1)?;
        let primary = ScratchPostgres::start("lhr").await?;
        let path = wan.tcp(primary.address(), link())?;
        let settings = PoolSettings { kept_idle: 2, ..PoolSettings::default() };
        let pool = ServerPool::new(through(&path, &primary), reach(), settings);
        still(&path, 6).await?;
        for _ in 0..5 {
            let (flights, both) =
                counted(&path, async { (pool.get().await.unwrap(), pool.get().await.unwrap()) }).await;
            assert_eq!(flights, 0);
            both.0.check_connection().await.unwrap();
            both.1.check_connection().await.unwrap();
        }
        assert_eq!(path.accepted(), 2);
        Ok(())
    });
}

#[test]
fn a_write_with_its_token_takes_one_as_does_a_whole_transaction_and_a_fenced_read() {
    run(async {
        let wan = Wan::start(1)?;
        let primary = ScratchPostgres::start("lhr").await?;
        let standby = primary.standby("syd").await?;
        let (there, here) = (wan.tcp(primary.address(), link())?, wan.tcp(standby.address(), link())?);
        // Nobody looks in between.
        let mut settings = RegionSettings::new(vec![through(&there, &primary), through(&here, &standby)]);
        settings.region = Some("syd".into());
        settings.monitor.interval = Duration::from_secs(3);
        let pool = RegionPool::new(settings, &(reach() as Arc<_>));
        until(&pool, "a primary and a replica", primary_is(0)).await?;
        // A connection of the pool (3) and the monitor (3 + prepare + look), on both.
        still(&there, 8).await?;
        still(&here, 8).await?;

        let mut session = Session::new(pool.clone(), None);
        let parameters = contact(&"with token");
        let (flights, written) = counted(&there, session.write(Statement::new(INSERT, &parameters))).await;
        assert_eq!((flights, written.unwrap().affected), (1, 1));
        assert_eq!(session.token().unwrap().timeline, 1);

        let statements = [Statement::new(INSERT, &parameters), Statement::new(INSERT, &parameters)];
        let (flights, written) = counted(&there, session.transaction(&statements)).await;
        let written = written.unwrap();
        assert_eq!((flights, written.len(), written[1].affected), (1, 2, 1));

        // Once it is there, to read it takes one round trip, and that one here.
        standby.catch_up(&primary).await?;
        let before = there.flights();
        let count: Statement<'_> = "SELECT count(*) FROM contacts".into();
        let (flights, read) = counted(&here, session.read(count)).await;
        let read = read.unwrap();
        assert_eq!((flights, read.server, read.rows[0].get::<_, i64>(0)), (1, 1, 3));
        for policy in [ReadPolicy::Any, ReadPolicy::MaxLag(LONG)] {
            let (flights, read) =
                counted(&here, pool.read(policy, Statement::new("SELECT $1", &[(&1_i32, Type::INT4)]))).await;
            assert_eq!((flights, read.unwrap().server), (1, 1));
        }
        assert_eq!(there.flights(), before);
        let (flights, read) = counted(&there, pool.read(ReadPolicy::Primary, count)).await;
        assert_eq!((flights, read.unwrap().server), (1, 0));
        Ok(())
    });
}

/// Waits until the client has spoken so often.
async fn still(path: &TcpPath, flights: u64) -> io::Result<()> {
    eventually("connections", LONG, async || Ok((path.flights() >= flights).then_some(()))).await?;
    assert_eq!(path.flights(), flights);
    // What was said last is answered.
    tokio::time::sleep(Duration::from_millis(30)).await;
    Ok(())
}
