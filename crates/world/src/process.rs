//! Programs that end with us, however we end.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::deadline::{LONG, eventually};
use crate::lines::Lines;

/// Told of a log when something went wrong, in bytes.
const TOLD: usize = 3000;
/// How long one that is dropped may take to end by itself.
const QUIT_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What makes a server of PostgreSQL end at once, its own children before it.
const QUIT: Signal = Signal::QUIT;
/// What no program can ignore, as some are told to ignore others from a shell's background.
pub(crate) const KILL: Signal = Signal::KILL;

/// A program that runs; dropping it makes it quit.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Ends it at once: when it is dropped, and when we end without that.
    quits_by: Signal,
}

impl Process {
    /// Starts it, and reads what it says on standard error line by line.
    pub(crate) fn told(mut command: Command) -> io::Result<(Self, Lines)> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Self { child: spawn(command, KILL)?, quits_by: KILL };
        let said = process.child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((process, Lines::of("stderr", said)?))
    }

    /// Starts it. What it says goes to the end of the log.
    pub(crate) fn start(mut command: Command, log: &Path) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: spawn(command, QUIT)?, quits_by: QUIT })
    }

    /// Runs it to its end.
    pub(crate) async fn run(command: Command, log: &Path) -> io::Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut process = Self::start(command, log)?;
        let status = eventually(&program, LONG, async || process.child.try_wait()).await?;
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("{program} ended with {status}; {}", tail(log))))
    }

    /// Its status, once it has ended.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// An error once it has ended.
    pub(crate) fn still_runs(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("it ended with {status}"))),
        }
    }

    /// Ends it by this signal, and waits.
    pub(crate) async fn end(mut self, signal: Signal, within: Duration) -> io::Result<ExitStatus> {
        self.signal(signal)?;
        eventually("the end of a process", within, async || self.child.try_wait()).await
    }

    /// Kills it and those that it has started, and waits until none is left.
    pub(crate) async fn kill_all(mut self) -> io::Result<()> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let children: Vec<Pid> = children.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect();
        self.child.kill()?;
        for &child in &children {
            // It may have ended with its parent.
            let _ = kill_process(child, Signal::KILL);
        }
        eventually("the end of a killed process", LONG, async || {
            let left = children.iter().any(|&child| is_alive(child));
            Ok(self.child.try_wait()?.filter(|_| !left))
        })
        .await
        .map(drop)
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(id, signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = self.signal(self.quits_by);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > QUIT_WITHIN {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// The end of a log, for messages.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(TOLD);
    format!("its log ends with:\n{}", String::from_utf8_lossy(&text[from..]))
}

/// An entry that nobody has waited for yet counts as dead.
fn is_alive(id: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

type Order = (Command, Signal, Sender<io::Result<Child>>);

/// Starts a program that this signal ends as soon as we end. It is done on a thread that lives as long as the process: the
/// kernel takes the end of the thread that started a child for the end of its parent.
pub(crate) fn spawn(command: Command, quits_by: Signal) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let gone = |_| io::Error::other("the thread that starts programs is gone");
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, incoming) = channel();
        // Where no thread can be had, the first order finds nobody there.
        let _ = std::thread::Builder::new().name("spawner".to_owned()).spawn(move || serve(&incoming));
        orders
    });
    let (answer, answered) = channel();
    spawner.send((command, quits_by, answer)).map_err(|_| gone(()))?;
    answered.recv().map_err(|_| gone(()))?
}

fn serve(orders: &Receiver<Order>) {
    for (mut command, quits_by, answer) in orders {
        // SAFETY: between fork and exec the closure does one system call and takes no lock.
        #[allow(unsafe_code, reason = "it is the child that has to say what ends it")]
        unsafe {
            command.pre_exec(move || Ok(set_parent_process_death_signal(Some(quits_by))?));
        }
        // Whoever ordered it may be gone; then it ends at once.
        if let Err(unwanted) = answer.send(command.spawn()) {
            drop(unwanted.0.map(|child| Process { child, quits_by }));
        }
    }
}
