//! The spawner: executes workers for the supervisor. Single-threaded, no runtime, no configuration, no secret; a loop around `poll`.
//!
//! ```text
//!  supervisor ── Start, Signal, … ──────▶ ┌─────────┐ ── clone, execve ──▶ workers, each the leader of its own session
//!             ◀─ Started, Exited, … ───── │ spawner │ ◀── SIGCHLD ────────
//!                                         └─────────┘
//! ```
//! It lives as long as the supervisor that it was started with: at that end's end of file it kills what must not outlive it and exits; jobs
//! go on as the launcher's children. Nothing that an operation started stays: its process group is killed, then whatever else is left of its
//! session, which shows as an orphan below this process (a subreaper). A process that made a session of its own is not caught; that takes
//! a pid namespace.

pub mod sandboxes;
pub mod scopes;
pub mod wire;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use runner_sandbox::confine::Confinement;
use runner_sandbox::landlock::{Access, Ruleset};
use runner_sandbox::notify::{Listener, Refusals};
use runner_sandbox::{PidFd, channel, inside, own, process, sessions, spawn};
use sandboxes::Sandboxes;
use scopes::Bounds;
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Instant;
use wire::{Launch, Report, Request};

/// Requests that are taken before it is looked again who has ended: under load the next one is there before one is done, and workers that
/// nobody reaps count as live ones.
const REQUESTS_A_ROUND: usize = 16;
/// Live workers at once: twice the operations of a session by default, with room for resolvers and jobs.
pub const WORKERS_MAX: usize = 2048;
struct Spawner {
    supervisor: OwnedFd,
    children: SignalFd,
    spawn: spawn::Spawner,
    sandboxes: Sandboxes,
    ops: CString,
    iac: CString,
    live: HashMap<i32, Worker>,
    slots: Slots,
    /// Jobs that are asked a scope for, by the process that asks.
    settling: HashMap<i32, Settling>,
    bounds: Bounds,
    /// At most two reports for each worker: the supervisor reads them always.
    reports: VecDeque<Report>,
}

/// A job whose start is told once its scope is there, or nobody says so in time.
struct Settling {
    id: u64,
    pid: i32,
    until: Instant,
}

struct Worker {
    id: u64,
    launch: Launch,
    /// Its number among those that live.
    slot: u32,
    /// Where it is told of what it is refused.
    told: Option<Told>,
}

/// Calls of a worker that its filter refuses.
struct Told {
    listener: Listener,
    refusals: Refusals,
}

/// Numbers for those that live, each to one at a time.
struct Slots {
    free: Vec<u32>,
}

impl Slots {
    /// So many, from the first or from the second range of them.
    fn new(count: usize, second: bool) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX / 2);
        let first = if second { count } else { 0 };
        Self { free: (first..first + count).rev().collect() }
    }
    /// The one that was free for the shortest time; `None`: all are taken.
    fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }
    fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

/// Starts a worker under that filter, which asks this process; as the plan says where the kernel asks nobody.
fn start_telling(
    spawner: &mut spawn::Spawner,
    plan: &spawn::Plan<'_>,
    telling: &Confinement<'_>,
) -> (Result<i32, spawn::SpawnError>, Option<Told>) {
    let Ok((here, there)) = UnixDatagram::pair() else { return (spawner.spawn(plan), None) };
    let asking = spawn::Plan { confine: Some(telling), handover: Some(there.as_fd()), ..*plan };
    match spawner.spawn(&asking) {
        Ok(pid) => {
            let told = inside::take(&here).ok().map(|(listener, _)| Told { listener, refusals: Refusals::default() });
            (Ok(pid), told)
        }
        Err(_) => (spawner.spawn(plan), None),
    }
}

/// Runs until the supervisor's end closes; returns the exit code. `second`: another spawner of this runner may be alive, whose workers have
/// the first range of numbers.
pub fn run(supervisor: OwnedFd, second: bool) -> i32 {
    match Spawner::new(supervisor, second).and_then(|mut s| s.serve().inspect_err(|_| s.end())) {
        Ok(()) => 0,
        Err(e) => {
            crate::say!("runner spawner: {e}");
            nix::libc::EXIT_FAILURE
        }
    }
}

impl Spawner {
    fn new(supervisor: OwnedFd, second: bool) -> io::Result<Self> {
        process::become_subreaper()?;
        // the launcher says when it is over, by the supervisor's end; what a terminal or a service manager sends to all is not for us
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let mut watched = SigSet::empty();
        watched.add(Signal::SIGCHLD);
        // before it is looked at; where it cannot be, each child does it
        let _ = own::bound_children();
        let mut spawn = spawn::Spawner::new()?;
        let sandboxes = Sandboxes::find(&mut spawn);
        Ok(Self {
            supervisor,
            children: SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            spawn,
            sandboxes,
            ops: CString::default(),
            iac: CString::default(),
            live: HashMap::new(),
            slots: Slots::new(WORKERS_MAX, second),
            settling: HashMap::new(),
            bounds: Bounds { memory: u64::MAX, processes: u64::MAX },
            reports: VecDeque::new(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        process::shed_start();
        loop {
            let mut interest = PollFlags::POLLIN;
            if !self.reports.is_empty() {
                interest |= PollFlags::POLLOUT;
            }
            let mut watched = vec![
                PollFd::new(self.supervisor.as_fd(), interest),
                PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
            ];
            let told: Vec<_> = self.live.iter().filter_map(|(pid, w)| Some((*pid, w.told.as_ref()?))).collect();
            watched.extend(told.iter().map(|(_, told)| PollFd::new(told.listener.as_fd(), PollFlags::POLLIN)));
            let told: Vec<_> = told.into_iter().map(|(pid, _)| pid).collect();
            // rounded up: one round too early would spin
            let due = self.settling.values().map(|s| s.until).min();
            let timeout = due.map_or(PollTimeout::NONE, |due| {
                let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut watched, timeout) {
                Err(Errno::EINTR) => continue,
                other => drop(other?),
            }
            let reap = watched[1].any().unwrap_or(true);
            let flags: Vec<_> = watched[2..].iter().map(|w| w.revents().unwrap_or(PollFlags::empty())).collect();
            for (pid, flags) in told.into_iter().zip(flags) {
                self.tell(pid, flags);
            }
            if reap {
                while let Ok(Some(_)) = self.children.read_signal() {}
                self.reap();
            }
            self.settle_late();
            if !self.receive()? {
                self.end();
                return Ok(());
            }
            self.report()?;
        }
    }

    /// Takes what has come, or some of it; `false` at the supervisor's end.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; wire::PROGRAM_SIZE];
        for _ in 0..REQUESTS_A_ROUND {
            let received = match channel::receive(self.supervisor.as_fd(), &mut buffer) {
                Ok(received) if received.length == 0 => return Ok(false),
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(e) => return Err(e),
            };
            let mut descriptors = received.descriptors.into_iter();
            match Request::decode(&buffer[..received.length]) {
                Some(Request::Start { id, launch, domain, writes }) => {
                    let domain = if domain { descriptors.next_back().map(Ruleset::from_descriptor) } else { None };
                    let report = self.start(id, launch, writes.into(), descriptors.collect(), domain);
                    self.reports.extend(report);
                }
                Some(Request::Bounds { memory_mib, processes }) => {
                    self.bounds = Bounds { memory: u64::from(memory_mib) << 20, processes: processes.into() };
                }
                Some(Request::State) => {
                    if let Some(state) = descriptors.next() {
                        self.sandboxes.keep_state_in(state.as_fd());
                    }
                    self.reports.push_back(Report::Ready(self.sandboxes.mechanisms()));
                }
                // one answer is enough for all that asked meanwhile
                Some(Request::Ask) if self.reports.contains(&Report::Here) => {}
                Some(Request::Ask) => self.reports.push_back(Report::Here),
                Some(Request::Signal { signal }) => {
                    if let Some(process) = descriptors.next() {
                        self.signal(&PidFd::from_descriptor(process), signal);
                    }
                }
                Some(Request::Kill { pid, signal }) => self.kill(pid, signal),
                Some(Request::Program { launch: Launch::Job, path }) => {
                    self.iac = path;
                    self.sandboxes.forget_reads();
                }
                Some(Request::Tells { refused }) => self.sandboxes.tell(refused),
                Some(Request::Reads { path }) => self.sandboxes.reads(&path),
                Some(Request::Program { path, .. }) => self.ops = path,
                None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(true)
    }

    fn start(
        &mut self,
        id: u64,
        launch: Launch,
        writes: usize,
        descriptors: Vec<OwnedFd>,
        domain: Option<Ruleset>,
    ) -> Option<Report> {
        let Some((socket, others)) = descriptors.split_first() else {
            return Some(Report::Failed { id, errno: Errno::EBADF as i32 });
        };
        let Some(slot) = self.slots.take() else { return Some(Report::Failed { id, errno: 0 }) };
        let (path, arguments) = match launch {
            Launch::Operation => (&self.ops, [c"runner-worker-ops", c"operation"]),
            Launch::Resolver => (&self.ops, [c"runner-worker-ops", c"resolve"]),
            Launch::Job => (&self.iac, [c"runner-worker-iac", c"job"]),
        };
        // opened here: a worker's own root may not show it
        let program = match open(path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(program) => program,
            Err(errno) => {
                self.slots.give_back(slot);
                return Some(Report::Failed { id, errno: errno as i32 });
            }
        };
        // the domain was made for the file that was at this path then, and it may have been replaced since
        if let Some(Err(e)) = domain.as_ref().map(|domain| domain.allow(&program, Access::Read)) {
            self.slots.give_back(slot);
            return Some(Report::Failed { id, errno: e.raw_os_error().unwrap_or(Errno::EACCES as i32) });
        }
        let job = launch == Launch::Job;
        let user = match self.sandboxes.user_of(launch) {
            Ok(user) => user,
            Err(e) => {
                self.slots.give_back(slot);
                return Some(Report::Failed { id, errno: e.raw_os_error().unwrap_or(Errno::EAGAIN as i32) });
            }
        };
        if launch == Launch::Operation {
            self.sandboxes.renew(&mut self.spawn);
        }
        let namespaces = self.sandboxes.namespaces(launch, others, writes, user.as_ref());
        // a job's first process starts its own program once more; the others ask for connections
        let second = if job { Some(&program) } else { others.first() };
        let inherit: Vec<_> = [socket].into_iter().chain(second).map(|d| d.as_fd()).collect();
        let (processes, domain) = (self.bounds.processes, domain.as_ref());
        let confine = self.sandboxes.of(launch, slot, processes, namespaces.as_deref(), domain, user.as_ref());
        let plan = spawn::Plan {
            program: spawn::Program::File(program.as_fd()),
            arguments: &arguments,
            environment: &[],
            inherit: &inherit,
            directory: others.first().filter(|_| job).map(|d| d.as_fd()),
            silent: true,
            own_session: true,
            dies_with_parent: !job,
            confine: Some(&confine),
            handover: None,
        };
        let (started, told) = match self.sandboxes.telling(launch) {
            None => (self.spawn.spawn(&plan), None),
            Some(filter) => start_telling(&mut self.spawn, &plan, &Confinement { filter: Some(filter), ..confine }),
        };
        match started {
            Ok(pid) => {
                self.live.insert(pid, Worker { id, launch, slot, told });
                // it waits for its first word meanwhile
                let asks = self.sandboxes.scopes().filter(|_| job).map(|s| s.ask(&mut self.spawn, pid, self.bounds));
                if let Some(Ok(asks)) = asks {
                    self.settling.insert(asks, Settling { id, pid, until: Instant::now() + scopes::ANSWER_WITHIN });
                    return None;
                }
                Some(Report::Started { id, pid })
            }
            Err(e) => {
                self.slots.give_back(slot);
                Some(Report::Failed { id, errno: e.errno as i32 })
            }
        }
    }

    /// A worker asks about what its filter refuses: it stays refused, and is told of.
    fn tell(&mut self, pid: i32, flags: PollFlags) {
        let Some(worker) = self.live.get_mut(&pid) else { return };
        let Some(told) = &mut worker.told else { return };
        if flags.contains(PollFlags::POLLIN) {
            // whoever made it may be gone again
            if let Ok(call) = told.listener.receive()
                && let Some(what) = told.refusals.answer(&told.listener, &call)
            {
                let kind = if worker.launch == Launch::Operation { "an operation" } else { "a resolver" };
                crate::say!("runner spawner: the worker {pid} of {kind} was {what}");
            }
        } else if !flags.is_empty() {
            // nobody is left who could ask
            worker.told = None;
        }
    }

    /// A signal to a session. For an operation its leader's group suffices: the leader's end has the rest killed (`reap`).
    fn kill(&self, pid: i32, signal: i32) {
        let known = self.live.get(&pid);
        // 1 would be everybody; ourselves and the launcher lead sessions too
        if pid <= 1 || (known.is_none() && self.is_ours(pid)) {
            return;
        }
        let mortal = known.is_some_and(|w| w.launch != Launch::Job);
        if mortal && signal == Signal::SIGKILL as i32 {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        } else {
            let _ = sessions::signal(pid, signal);
        }
    }

    /// A signal to one process of a job, also of one that an earlier spawner started: those of other users are nobody's business here.
    fn signal(&self, process: &PidFd, signal: i32) {
        let Some(pid) = process.pid() else { return };
        if !self.is_ours(pid) && sandboxes::is_a_jobs(pid) {
            let _ = process.signal(signal);
        }
    }

    /// Nobody has answered in time: it goes without.
    fn settle_late(&mut self) {
        let now = Instant::now();
        let late: Vec<i32> = self.settling.iter().filter(|(_, s)| s.until <= now).map(|(asks, _)| *asks).collect();
        for asks in late {
            let _ = nix::sys::signal::kill(Pid::from_raw(asks), Signal::SIGKILL);
            if let Some(Settling { id, pid, .. }) = self.settling.remove(&asks) {
                self.reports.push_back(Report::Started { id, pid });
            }
        }
    }

    fn is_ours(&self, pid: i32) -> bool {
        let own = nix::unistd::getpid();
        let launcher = nix::unistd::getppid();
        [own.as_raw(), launcher.as_raw()].contains(&pid)
            || nix::unistd::getsid(Some(launcher)).is_ok_and(|session| session.as_raw() == pid)
    }

    /// Reaps what has ended. Looked at first and killed with all it started while its process id is still its own, then reaped.
    fn reap(&mut self) {
        loop {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let (pid, code, signal) = match waitid(Id::All, flags) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                _ => return,
            };
            if let Some(Settling { id, pid: job, .. }) = self.settling.remove(&pid.as_raw()) {
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                self.reports.push_back(Report::Started { id, pid: job });
                continue;
            }
            // a job that ended before its scope was there has started all the same
            if let Some(asks) = self.settling.iter().find(|(_, s)| s.pid == pid.as_raw()).map(|(asks, _)| *asks)
                && let Some(Settling { id, pid, .. }) = self.settling.remove(&asks)
            {
                self.reports.push_back(Report::Started { id, pid });
            }
            let worker = self.live.remove(&pid.as_raw());
            let mortal = worker.as_ref().is_some_and(|w| w.launch != Launch::Job);
            if mortal {
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            // what a pid namespace had in it has gone with its first process
            let contained = worker.as_ref().is_some_and(|w| self.sandboxes.is_first(w.launch));
            if mortal && !contained && self.has_orphans() {
                sessions::kill(pid.as_raw());
            }
            if let Some(Worker { id, launch, slot, .. }) = worker {
                self.slots.give_back(slot);
                self.reports.push_back(match (code, signal) {
                    // the first process of a pid namespace is ended by no signal but SIGKILL: its handlers exit so instead. And the first
                    // one of a job says so how its worker ended
                    (Some(code @ 129..=192), _) if self.sandboxes.is_first(launch) => {
                        Report::Signalled { id, signal: code - 128 }
                    }
                    (Some(code), _) => Report::Exited { id, code },
                    (None, signal) => Report::Signalled { id, signal: signal.map_or(0, |s| s as i32) },
                });
            }
        }
    }

    /// Whether this process has children that it did not start: they were left behind by one that ended. Where the kernel does not tell,
    /// it may be.
    fn has_orphans(&self) -> bool {
        let pid = nix::unistd::getpid();
        let Ok(children) = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) else { return true };
        children.split_whitespace().filter_map(|c| c.parse().ok()).any(|c: i32| !self.live.contains_key(&c))
    }

    fn report(&mut self) -> io::Result<()> {
        while let Some(report) = self.reports.front() {
            match channel::send(self.supervisor.as_fd(), &report.encode(), &[]) {
                Ok(()) => drop(self.reports.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // its end is seen when we read
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The supervisor is gone: nothing of its operations stays.
    fn end(&mut self) {
        for (pid, _) in self.live.iter().filter(|(_, w)| w.launch != Launch::Job) {
            let _ = killpg(Pid::from_raw(*pid), Signal::SIGKILL);
            sessions::kill(*pid);
        }
    }
}
