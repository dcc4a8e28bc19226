//! `runner-worker-iac job`: the first process of a job. It starts the job's worker, connects for the job, and reaps what the job leaves.
//!
//! ```text
//!  spawner ──▶ first ──▶ worker ──▶ engine ──▶ providers …     in a network namespace of their own
//!                │  ◀── each connect() waits here ──┘
//!                ▼ connects outside, and puts the socket in its place
//! ```
//! Where there are pid namespaces it heads the job's: with it everything ends that the job has started, and no signal from inside ends it.
//! It lives as long as the job does, whoever else dies: a worker that dies is followed by another one, which goes on with the engine where
//! that one has left it. Engines are asked to stop by this process alone, each once: it outlives whoever wants that, and wants it itself
//! where nobody follows. Either way they still get their connections. It must stay small: one thread, no runtime, no credentials, nothing
//! parsed but one bounded message of the supervisor, the addresses of connect(), the names and answers of DNS, and the heads of requests
//! to proxies.

mod connect;
mod names;
mod policy;
mod proxied;
mod request;

use crate::store::keeper::{self, Gone};
use connect::Connector;
use names::Names;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use policy::Policy;
use prost::Message as _;
use runner_sandbox::confine::Limits;
use runner_sandbox::{channel, inside, process, profiles, sessions, spawn, stat};
use shared_proto::ended::{self, Left, WorkerEnded};
use shared_proto::frame::FrameError;
use shared_proto::v1::JobFirst;
use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What was refused, one a line: in the job's folder, for its worker.
pub(crate) const REFUSALS: &str = "refused";
/// The exit code of a worker that was started to follow another one, and has nothing to go on with.
pub(crate) const NOTHING_TO_FOLLOW: u8 = 3;
/// The most workers that follow the first one, in all.
const FOLLOWERS_MAX: u32 = 100;
/// The most of them one after the other that do not live for [`LIVES`]: what kills each of them kills the next.
const SHORT_MAX: u32 = 6;
const LIVES: Duration = Duration::from_secs(1);
/// Where the spawner puts this program's own file.
const PROGRAM: i32 = 4;
/// The most that an engine whose worker is gone gets to end by itself.
const GRACE_MAX: Duration = Duration::from_secs(30);
/// What an engine's own children get once it is gone: its plug-ins end with it, a provisioner's command may not.
const CHILDREN_MAX: Duration = Duration::from_secs(1);
/// No worker is to follow any more: whoever sends it is about to end the job.
const LAST: Signal = Signal::SIGUSR1;
/// The program with the number that comes with it is to be asked to stop, unless it was: its worker sends it, and the next one again.
pub(crate) const ASK: Signal = Signal::SIGUSR2;
/// The most programs whose having been asked is remembered; a job has one at a time.
const ASKED_MAX: usize = 64;
/// How often what is left is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The worker's own limits are this process's, but for descriptors.
const LIMITS: Limits =
    Limits { descriptors: u64::MAX, file_size: u64::MAX, memory: u64::MAX, processes: u64::MAX, niceness: 0 };
/// Of this process's descriptors, in quarters: what the job itself may have.
const DESCRIPTORS: u64 = 3;

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirstError {
    #[error("its first word on descriptor 3: {0}")]
    Word(#[from] FrameError),
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("the job's worker cannot be started: {0}")]
    Start(#[from] spawn::SpawnError),
}

/// Where it is.
enum State {
    /// The worker lives.
    Serving,
    /// The worker was ended by this signal; its engines are asked to end until `until`, then what is left is killed.
    Ending { signal: i32, left: Left, until: Instant },
}

struct First {
    spawner: spawn::Spawner,
    program: OwnedFd,
    worker: Pid,
    /// Workers that may still follow this one, and the signal that ended the one before.
    followers: u32,
    /// How many in a row have died young, and when the present one was started.
    short: u32,
    since: Instant,
    died_by: i32,
    /// Programs that were asked to stop, with their start.
    asked: VecDeque<(i32, u64)>,
    signals: SignalFd,
    /// Of each worker's network namespace: an engine stays in that of the worker that has started it.
    networks: Vec<Network>,
    name_servers: Vec<SocketAddr>,
    policy: Policy,
    grace: Duration,
    state: State,
    /// Answers in the place of workers, once there are none to come.
    gone: Gone,
}

/// A network namespace of a worker and what it started, or none of their own.
struct Network {
    connector: Option<Connector>,
    names: Option<Names>,
    /// Where the worker gives what is to outlive it.
    keeper: OwnedFd,
    /// The listener by which its engine reaches its state.
    kept: Option<OwnedFd>,
    /// Whether nobody says when the last of those is gone who may connect.
    unwatched: bool,
}

/// Runs until nothing of the job is left; returns the exit code: the worker's, or 128 and the signal that ended it.
///
/// # Errors
/// There is no worker, and nothing of it was started.
pub(crate) fn run() -> Result<u8, FirstError> {
    process::become_subreaper()?;
    // its worker is of the same user, and without a user namespace between them of the same rights
    process::forbid_dumps()?;
    let mut socket = runner_sandbox::inherited_socket()?;
    let word = crate::start::read(&mut socket)?;
    let first = JobFirst::decode(word.as_slice()).map_err(FrameError::from)?;
    // what an earlier step left
    for name in [REFUSALS, ended::FILE] {
        let _ = std::fs::remove_file(name);
    }
    let mut first = First::start(&first, socket)?;
    first.serve()
}

impl First {
    fn start(first: &JobFirst, socket: UnixStream) -> Result<Self, FirstError> {
        let mut mask = SigSet::empty();
        let signals = [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGWINCH,
            LAST,
            ASK,
        ];
        for signal in signals {
            mask.add(signal);
        }
        mask.thread_block().map_err(io::Error::from)?;
        let signals =
            SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(io::Error::from)?;
        let program = runner_sandbox::inherited_descriptor(PROGRAM)?;
        let mut spawner = spawn::Spawner::new()?;
        let (keeper, theirs) = channel::pair()?;
        let inside = start_inside(&mut spawner, &program, &[c"step"], &[socket.as_fd(), theirs.as_fd()])?;
        let name_servers: Vec<_> = first.name_servers.iter().filter_map(|s| s.parse().ok()).collect();
        let (worker, own_network) = (Pid::from_raw(inside.pid), inside.stub.is_some());
        Ok(Self {
            spawner,
            program,
            worker,
            followers: if first.takes_over { FOLLOWERS_MAX } else { 0 },
            short: 0,
            since: Instant::now(),
            died_by: 0,
            asked: VecDeque::new(),
            signals,
            networks: vec![Network::new(inside, &name_servers, keeper)?],
            name_servers,
            policy: Policy::new(first, own_network),
            grace: Duration::from_secs(first.grace_seconds.into()).min(GRACE_MAX),
            state: State::Serving,
            gone: Gone::default(),
        })
    }

    fn serve(&mut self) -> Result<u8, FirstError> {
        loop {
            let (signals, calls) = self.wait()?;
            for (network, calls) in self.networks.iter_mut().zip(calls) {
                if calls {
                    network.connect(&self.policy);
                }
                if let Some(connector) = &mut network.connector {
                    connector.finish(&self.policy);
                }
                if let Some(names) = &mut network.names {
                    names.serve(&mut self.policy);
                }
            }
            self.networks.retain(Network::is_used);
            if signals {
                while let Ok(Some(signal)) = self.signals.read_signal() {
                    match i32::try_from(signal.ssi_signo).unwrap_or(0) {
                        ask if ask == ASK as i32 => self.ask(signal.ssi_int),
                        other => self.relay(other),
                    }
                }
            }
            if let Some(code) = self.reap() {
                kill_all();
                return Ok(code);
            }
            if let Some(code) = self.end() {
                kill_all();
                return Ok(code);
            }
        }
    }

    /// Waits for whatever comes first: whether it was a signal, and in which networks there are calls.
    fn wait(&self) -> io::Result<(bool, Vec<bool>)> {
        let none = vec![false; self.networks.len()];
        let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // where each one's listener is among them
        let mut listeners = Vec::with_capacity(self.networks.len());
        for network in &self.networks {
            listeners.push(network.connector.as_ref().map(|_| watched.len()));
            if let Some(connector) = &network.connector {
                watched.push(PollFd::new(connector.listener(), PollFlags::POLLIN));
                watched.extend(connector.waiting().map(|w| PollFd::new(w, PollFlags::POLLOUT)));
                watched.extend(connector.relays().watched().map(|(end, flags)| PollFd::new(end, flags)));
            }
            if let Some(names) = &network.names {
                watched.extend(names.sockets().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
            }
        }
        let looks = matches!(self.state, State::Ending { .. }).then(|| Instant::now() + LOOK_EVERY);
        let names = self.networks.iter().filter_map(|n| n.names.as_ref().and_then(Names::due));
        let relays = self.networks.iter().filter_map(|n| n.connector.as_ref()?.relays().due());
        let due = looks.into_iter().chain(names).chain(relays).min();
        let timeout = match due {
            None => PollTimeout::NONE,
            // rounded up: one round too early would spin
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut watched, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((true, none)),
            Err(e) => return Err(e.into()),
        }
        let is_ready = |place: Option<usize>| place.is_some_and(|at| watched[at].any().unwrap_or(false));
        Ok((watched[0].any().unwrap_or(true), listeners.into_iter().map(is_ready).collect()))
    }

    /// What is sent to this process alone is for the worker; what a terminal or a service manager sends to all it has already.
    fn relay(&mut self, signal: i32) {
        if signal == LAST as i32 {
            self.followers = 0;
        }
        // SIGWINCH is what a scope that is stopped sends to all, and what nobody else minds
        let asks = [Signal::SIGTERM as i32, Signal::SIGWINCH as i32].contains(&signal);
        if asks && matches!(self.state, State::Serving) {
            let _ = kill(self.worker, Signal::SIGTERM);
        }
    }

    /// Reaps what has ended; the exit code, where the worker ended by itself.
    fn reap(&mut self) -> Option<u8> {
        loop {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let (pid, code, signal) = match waitid(Id::All, flags) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code, 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 0, signal as i32),
                Err(Errno::EINTR) => continue,
                _ => return None,
            };
            // what led a group may be an engine without its worker: whoever takes over asks for this. While its number is its own
            if pid != self.worker
                && let Some(stat) = stat(pid.as_raw()).filter(|s| s.group == pid.as_raw())
                && let Err(e) = crate::process::note_reaped(pid.as_raw(), stat.start_time, code, signal)
            {
                eprintln!("runner-worker-iac: how {pid} ended cannot be noted: {e}");
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            match signal {
                _ if pid != self.worker => {}
                0 if code == i32::from(NOTHING_TO_FOLLOW) && self.died_by > 0 => self.ask_engines(self.died_by),
                0 => return Some(u8::try_from(code).unwrap_or(u8::MAX)),
                signal => self.worker_died(signal),
            }
        }
    }

    /// Has another worker go on with what this one has started. Where that is not to be, its engines are asked to end.
    fn worker_died(&mut self, signal: i32) {
        if !matches!(self.state, State::Serving) {
            return;
        }
        self.short = if self.since.elapsed() < LIVES { self.short + 1 } else { 0 };
        if self.followers == 0 || self.short > SHORT_MAX {
            return self.ask_engines(signal);
        }
        self.followers -= 1;
        self.died_by = signal;
        self.since = Instant::now();
        let text = CString::new(signal.to_string()).unwrap_or_default();
        if let Err(e) = self.follow(&text) {
            eprintln!("runner-worker-iac: no worker follows: {e}");
            self.ask_engines(signal);
        }
    }

    /// Starts a worker that follows, with the listeners of those before it.
    fn follow(&mut self, signal: &CStr) -> Result<(), FirstError> {
        let (keeper, theirs) = channel::pair()?;
        for network in &mut self.networks {
            network.keep();
        }
        let kept = self.networks.iter().filter_map(|network| network.kept.as_ref());
        let newest: Vec<_> = kept.rev().take(keeper::KEPT_MAX).map(|kept| kept.as_fd()).collect();
        keeper::give(keeper.as_fd(), &newest)?;
        let inside = start_inside(&mut self.spawner, &self.program, &[c"follow", signal], &[theirs.as_fd()])?;
        self.worker = Pid::from_raw(inside.pid);
        self.networks.push(Network::new(inside, &self.name_servers, keeper)?);
        Ok(())
    }

    /// Asks a program of the job to stop, once: a second time would make an engine drop its state. Where its number is negated all of its
    /// process group is asked, which is there as long as it is.
    fn ask(&mut self, number: i32) {
        let (pid, group) = (number.saturating_abs(), number < 0);
        let seen = stat(pid);
        // of another one it is not known who asks
        let ours = seen.map_or(!group, |s| s.group == pid && s.session == session());
        let which = (pid, seen.map_or(0, |s| s.start_time));
        if pid <= 1 || !ours || self.asked.contains(&which) {
            return;
        }
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(which);
        // an engine alone: its children get what it decides to give them
        let _ = kill(Pid::from_raw(number), Signal::SIGINT);
    }

    /// Asks each engine that is left.
    fn ask_engines(&mut self, signal: i32) {
        for network in &mut self.networks {
            network.keep();
        }
        self.gone = Gone::at(self.networks.iter_mut().filter_map(|network| network.kept.take()));
        let engines = engines(&others());
        for engine in &engines {
            self.ask(*engine);
        }
        let (left, grace) =
            if engines.is_empty() { (Left::Nothing, Duration::ZERO) } else { (Left::Killed, self.grace) };
        self.state = State::Ending { signal, left, until: Instant::now() + grace };
    }

    /// Goes on with the end of a job whose worker has died; the exit code at the end.
    fn end(&mut self) -> Option<u8> {
        let State::Ending { signal, left, until } = &mut self.state else { return None };
        self.gone.answer();
        // looked at once: who ends between two looks would be in one of them only
        let rest = others();
        if *left == Left::Killed && engines(&rest).is_empty() {
            (*left, *until) = (Left::Asked, Instant::now() + CHILDREN_MAX);
        }
        if !rest.is_empty() && Instant::now() < *until {
            return None;
        }
        if *left == Left::Nothing && !rest.is_empty() {
            *left = Left::Killed;
        }
        let ended = WorkerEnded { signal: *signal, left: *left };
        let code = u8::try_from(128 + *signal).unwrap_or(u8::MAX);
        if let Err(e) = write_down(&ended) {
            eprintln!("runner-worker-iac: {}: {e}", ended::FILE);
        }
        Some(code)
    }
}

/// Starts a worker in a network namespace of its own, as far as there is one.
fn start_inside(
    spawner: &mut spawn::Spawner,
    program: &OwnedFd,
    mode: &[&CStr],
    inherit: &[BorrowedFd<'_>],
) -> Result<inside::Inside, spawn::SpawnError> {
    let (asking, plain) = (profiles::JOB_ASKING.compile().ok(), profiles::JOB.compile().ok());
    let arguments: Vec<&CStr> = [c"runner-worker-iac"].into_iter().chain(mode.iter().copied()).collect();
    let plan = spawn::Plan {
        program: spawn::Program::File(program.as_fd()),
        arguments: &arguments,
        environment: &[],
        inherit,
        directory: None,
        silent: true,
        own_session: false,
        dies_with_parent: false,
        confine: None,
        handover: None,
    };
    // how many may be on their way between processes goes by user: a job that has its most there keeps no other from being started
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    let limits = Limits { descriptors: most / 4 * DESCRIPTORS, ..LIMITS };
    inside::start(spawner, &plan, limits, asking.as_ref(), plain.as_ref())
}

// === impl Network ===

impl Network {
    fn new(inside: inside::Inside, name_servers: &[SocketAddr], keeper: OwnedFd) -> io::Result<Self> {
        let own_network = inside.stub.is_some();
        let first_server = name_servers.first().copied();
        let names = inside.stub.map(|stub| Names::new(stub, name_servers.to_vec())).transpose()?;
        let connector = inside.listener.map(|listener| Connector::new(listener, own_network, first_server));
        let unwatched = connector.is_none() && names.is_none();
        Ok(Self { connector, names, keeper, kept: None, unwatched })
    }

    /// Whether anybody may be in it still.
    fn is_used(&self) -> bool {
        self.connector.is_some() || self.names.is_some() || self.unwatched
    }

    /// Takes what its worker has given to be kept.
    fn keep(&mut self) {
        if let Some((listener, address)) = keeper::given(self.keeper.as_fd()) {
            self.kept = Some(listener);
            if let Some(connector) = &mut self.connector {
                connector.reach_state(address);
            }
        }
    }

    fn connect(&mut self, policy: &Policy) {
        // it was given before anybody could call for it
        self.keep();
        for _ in 0..Connector::at_once() {
            let Some(connector) = &mut self.connector else { return };
            if !connector.take(policy) {
                // the last who could call, or ask for a name, is gone
                (self.connector, self.names) = (None, None);
                return;
            }
            let mut next = [PollFd::new(connector.listener(), PollFlags::POLLIN)];
            let ready = poll(&mut next, PollTimeout::ZERO).is_ok();
            let said = next[0].revents().filter(|_| ready).unwrap_or(PollFlags::empty());
            if said.contains(PollFlags::POLLHUP) {
                // said again and again, while taking a call only says that there is none
                (self.connector, self.names) = (None, None);
                return;
            }
            if !said.contains(PollFlags::POLLIN) {
                return;
            }
        }
    }
}

/// That of this process, and of all that is the job's.
fn session() -> i32 {
    nix::unistd::getsid(None).unwrap_or(nix::unistd::getpid()).as_raw()
}

/// The live processes of this session beside this one: where there is no /proc, none.
fn others() -> Vec<i32> {
    let own = nix::unistd::getpid().as_raw();
    sessions::members(session()).into_iter().filter(|pid| *pid != own).collect()
}

/// Those of them that lead a process group of their own: the engines. What they started is theirs to tell.
fn engines(of: &[i32]) -> Vec<i32> {
    of.iter().copied().filter(|pid| stat(*pid).is_some_and(|s| s.group == *pid && !s.dead())).collect()
}

/// Ends what is left, reaped by the way: this process is the parent of every orphan of the job. In a pid namespace the kernel does it.
fn kill_all() {
    if nix::unistd::getpid().as_raw() == 1 {
        return;
    }
    // each round kills all children that there are, and inherits theirs
    for _ in 0..1000 {
        for child in sessions::children(nix::unistd::getpid().as_raw()) {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        match waitpid(None, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn write_down(ended: &WorkerEnded) -> io::Result<()> {
    // what the job has put there may be a pipe that nobody reads
    let _ = std::fs::remove_file(ended::FILE);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(ended::FILE)?;
    file.write_all(&serde_json::to_vec(ended)?)?;
    file.sync_all()
}
