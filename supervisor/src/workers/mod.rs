//! The supervisor's end of the spawner's socket: starts workers, kills them, tells how they ended.
//!
//! One task owns the socket and the tables; whoever wants a worker sends it a message. A spawner that died and was started again by the
//! launcher arrives as a new socket: what ran under the old one counts as ended (`Exit::lost`), since nobody can tell how it ends.
//! It must never execute anything itself: the supervisor is multi-threaded and holds the keys.

mod link;
mod warm;

use crate::domains::Domains;
use crate::spawner::wire::{Launch, Mechanisms};
use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use runner_sandbox::PidFd;
use runner_sandbox::landlock::Ruleset;
use shared_proto::failure::{Code, Failure};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

pub use link::{Ends, Order};
pub(crate) use warm::Version;
pub use warm::{WARM_MAX, Warm};

/// What a worker whose socket has ended gets until its end is reported.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// Requests that wait for the socket's task at once; whoever comes later waits for a place.
const REQUESTS: usize = 256;

/// What a worker is.
#[derive(Debug)]
pub enum Program {
    /// `runner-worker-ops operation`: dies with the supervisor.
    Operation,
    /// `runner-worker-ops resolve`: dies with the supervisor.
    Resolver,
    /// `runner-worker-iac job`: outlives the supervisor.
    Job {
        /// Its working directory.
        directory: OwnedFd,
        /// The files that it reaches besides what every job does.
        reaches: Reaches,
    },
}

/// Files of one job.
#[derive(Debug, Clone, Default)]
pub struct Reaches {
    /// Its working directory, in which it does as it likes.
    pub work: PathBuf,
    /// What it reads. Fewer than three.
    pub reads: Vec<PathBuf>,
    /// Below what else it does as it likes. Fewer than three.
    pub writes: Vec<PathBuf>,
}

/// A worker that has executed its program.
#[derive(Debug)]
pub struct Started {
    /// Its process id; it leads a session of that id.
    pub pid: i32,
    /// The supervisor's end of its descriptor 3.
    pub socket: UnixStream,
    /// For an operation, the supervisor's end of its descriptor 4, over which it asks for connections.
    pub dial: Option<OwnedFd>,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<Exit>,
}

/// An operation's worker, which waits for its request.
#[derive(Debug)]
pub struct Operation {
    /// Itself.
    pub worker: Mortal,
    /// The supervisor's end of its descriptor 3.
    pub socket: UnixStream,
    /// The supervisor's end of its descriptor 4, over which it asks for connections.
    pub dial: Option<OwnedFd>,
}

/// A worker that is killed with all it started when this is dropped, unless its end was reported.
#[derive(Debug)]
pub struct Mortal {
    workers: Workers,
    pid: i32,
    exit: oneshot::Receiver<Exit>,
    ended: bool,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, where it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The spawner that could tell is gone.
    pub lost: bool,
}

/// Starts and kills workers. Cheap to clone; survives a spawner that is started again.
#[derive(Debug, Clone)]
pub struct Workers {
    requests: mpsc::Sender<Request>,
    domains: watch::Receiver<Domains>,
}

/// What the socket's task is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Start one.
    Start {
        /// Which program, and what is remembered of it.
        launch: Launch,
        /// A job's working directory, what else it writes, and what it reads.
        folders: Vec<OwnedFd>,
        /// How many of them are written, beside the first.
        writes: u8,
        /// The files that it reaches.
        domain: Option<OwnedFd>,
        /// Where the answer goes. Dropped by whoever does not want it any more: it is killed then.
        reply: oneshot::Sender<Result<Started, Failure>>,
    },
    /// Send a signal to one process of a job.
    Signal {
        /// The process.
        process: PidFd,
        /// The signal.
        signal: i32,
    },
    /// Send a signal to a worker's session.
    Kill {
        /// The session's leader.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// The launcher is to be told that the supervisor is up, or has read its configuration again.
    Ready,
    /// The launcher is to start a successor, which is to have that end; this process leaves within that time then.
    Upgrade {
        /// The end.
        end: OwnedFd,
        /// The time, in whole seconds.
        leaves_within: Duration,
    },
    /// The paths of the workers' programs have changed.
    Programs(crate::config::WorkerPaths),
}

// === impl Workers ===

impl Workers {
    /// Takes over the ends that the launcher gave, and runs their task. What the launcher orders comes from the second value.
    ///
    /// # Errors
    /// Descriptors that cannot be waited on.
    pub fn start_task(
        ends: Ends,
        paths: crate::config::WorkerPaths,
        domains: watch::Receiver<Domains>,
    ) -> std::io::Result<(Self, mpsc::Receiver<Order>)> {
        let (requests, received) = mpsc::channel(REQUESTS);
        let orders = link::start(ends, paths, received)?;
        Ok((Self { requests, domains }, orders))
    }

    /// Waits for the spawner's first word: what it can confine workers with. Before the task is started.
    ///
    /// # Errors
    /// It has ended, does not say it in time, or says something else.
    pub fn mechanisms(ends: &Ends) -> std::io::Result<Mechanisms> {
        link::first_word(ends)
    }

    /// Starts a worker: always a new process.
    ///
    /// # Errors
    /// `busy` above the bound of processes; `internal` where it cannot be executed or the spawner is away.
    pub async fn start(&self, program: Program) -> Result<Started, Failure> {
        let (reply, answer) = oneshot::channel();
        let domains = self.domains.borrow().clone();
        let broken = |e: io::Error| Code::Internal.on(format!("a domain for a worker's files cannot be made: {e}"));
        let (mut folders, mut writes) = (Vec::new(), 0);
        let (launch, domain) = match program {
            Program::Operation => (Launch::Operation, domains.operation().map_err(broken)?),
            Program::Resolver => {
                let domain = blocking(move || domains.resolver()).await.map_err(broken)?;
                (Launch::Resolver, domain)
            }
            Program::Job { directory, reaches } => {
                folders.push(directory);
                for path in reaches.writes.iter().chain(&reaches.reads) {
                    let opened = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty());
                    folders.push(opened.map_err(|e| {
                        Code::Internal.on(format!("{}, which a job is to use: {}", path.display(), e.desc()))
                    })?);
                }
                writes = u8::try_from(reaches.writes.len()).unwrap_or(u8::MAX);
                let domain = blocking(move || {
                    let writes: Vec<_> = [reaches.work].into_iter().chain(reaches.writes).collect();
                    domains.job(&writes, &reaches.reads)
                });
                (Launch::Job, domain.await.map_err(broken)?)
            }
        };
        let gone = || Code::Internal.on("the task that starts workers has ended");
        self.requests.send(Request::Start { launch, folders, writes, domain, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Starts one for an operation.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub async fn operation(&self) -> Result<Operation, Failure> {
        let Started { pid, socket, dial, exit } = self.start(Program::Operation).await?;
        let worker = Mortal { workers: self.clone(), pid, exit, ended: false };
        Ok(Operation { worker, socket, dial })
    }

    /// Sends a signal to one process of a job: it may be of another user than this one, who has no right over others.
    pub async fn signal(&self, process: PidFd, signal: Signal) {
        let _ = self.requests.send(Request::Signal { process, signal: signal as i32 }).await;
    }

    /// Sends a signal to the whole session that the worker leads.
    pub async fn kill(&self, pid: i32, signal: i32) {
        let _ = self.requests.send(Request::Kill { pid, signal }).await;
    }

    /// The same from where nothing can be awaited, such as a drop. Goes on by itself where the queue is full.
    pub fn kill_soon(&self, pid: i32, signal: i32) {
        let requests = self.requests.clone();
        if let Err(mpsc::error::TrySendError::Full(request)) = requests.try_send(Request::Kill { pid, signal })
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { requests.send(request).await });
        }
    }

    /// Has the launcher told that the supervisor is up, or has acted on a reload.
    pub async fn ready(&self) {
        let _ = self.requests.send(Request::Ready).await;
    }

    /// Has the launcher start a successor, and give it that end. `leaves_within`: what this process takes at most to leave, once the successor
    /// is in charge; the launcher kills one that is still there after that.
    pub async fn upgrade(&self, end: OwnedFd, leaves_within: Duration) {
        let _ = self.requests.send(Request::Upgrade { end, leaves_within }).await;
    }

    /// Changes the programs of workers that are started from now on.
    pub async fn use_programs(&self, paths: crate::config::WorkerPaths) {
        let _ = self.requests.send(Request::Programs(paths)).await;
    }
}

/// Makes a domain on a thread for that: it looks at folders, and one of them may be on a file system that does not answer.
async fn blocking(make: impl FnOnce() -> io::Result<Option<Ruleset>> + Send + 'static) -> io::Result<Option<OwnedFd>> {
    let made = tokio::task::spawn_blocking(make).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    Ok(made?.map(OwnedFd::from))
}

// === impl Operation ===

impl Operation {
    /// Whether its end was reported.
    fn has_ended(&mut self) -> bool {
        self.worker.has_ended()
    }
}

// === impl Mortal ===

impl Mortal {
    /// Its socket ended without an outcome: how did it end? `None` where nobody tells in time.
    pub async fn exit(&mut self) -> Option<Exit> {
        let exit = tokio::time::timeout(EXIT_GRACE, &mut self.exit).await.ok()?.ok()?;
        self.ended = true;
        Some(exit)
    }

    fn has_ended(&mut self) -> bool {
        self.ended = self.ended || self.exit.try_recv().is_ok();
        self.ended
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        // once its end was reported its number may be somebody else's
        if !self.has_ended() {
            self.workers.kill_soon(self.pid, nix::libc::SIGKILL);
        }
    }
}

// === impl Exit ===

impl Exit {
    /// By the status that `wait(2)` gives; `None` for one that says no end.
    pub(crate) fn of_status(status: i32) -> Option<Self> {
        use nix::sys::wait::WaitStatus;
        match WaitStatus::from_raw(nix::unistd::Pid::from_raw(1), status).ok()? {
            WaitStatus::Exited(_, code) => Some(Self { code: Some(code), ..Self::default() }),
            WaitStatus::Signaled(_, signal, _) => Some(Self { signal: Some(signal as i32), ..Self::default() }),
            _ => None,
        }
    }
    /// As a failure of whatever the worker did.
    pub fn failure(&self) -> Failure {
        Code::WorkerCrashed.on(format!("the worker {self}"))
    }
    /// The signal that ended it, by its name.
    pub fn signal_name(&self) -> Option<String> {
        self.signal.map(|n| match nix::sys::signal::Signal::try_from(n) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => format!("signal {n}"),
        })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal_name(), self.code) {
            (Some(signal), _) => write!(f, "was ended by {signal}"),
            (None, Some(code)) => write!(f, "exited with code {code}"),
            (None, None) => f.write_str("was lost together with the spawner"),
        }
    }
}
