//! The launcher, `runner run`: the first process, on a machine and in a container alike. It starts spawner and supervisor as siblings,
//! joined by a socket, restarts either one, relays what it is told, and reaps what outlives them.
//!
//! As the first process of a container it must not end while there is something of a job left: it ends with it.
//!
//! ```text
//!   SIGTERM, SIGHUP ─▶ launcher ══ control socket ══▶ supervisor      T drain · N now · H reload · E a new end to a new spawner · P ask
//!    sd_notify ◀───────── │ restarts both                 ║ seqpacket     G given, K kept: `hand_over`
//!                         │                               ║               back: R ready · A supervisor and spawner answer · U a successor
//!                         └──────────────────────────▶ spawner        exits by itself when the supervisor's end closes
//! ```
//! It must stay tiny: no configuration, no logging framework, no runtime, no secret, no thread. What it has to say goes to standard error as it is.

pub mod hand_over;
mod notify;

use hand_over::{Candidate, Left, Retiring};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use notify::Manager;
use runner_sandbox::{channel, process, spawn};
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::{Duration, Instant};

/// The first and the longest wait before something is started again.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(5);
/// Whoever lived this long is started again without a wait that has grown.
const LIVED: Duration = Duration::from_secs(10);
/// How long a spawner may take to end after its supervisor.
const SPAWNER_GRACE: Duration = Duration::from_secs(2);
/// The most that a supervisor may say it takes to leave, seconds: more than its `tunnel.drain_grace_s` can be.
const LEAVES_MAX_S: u32 = 2 * 3600;

/// The argument of a spawner that uses the second range of numbers.
pub const SECOND: &CStr = c"second";

/// What the launcher tells the supervisor, one byte a message.
pub mod order {
    /// Leave: finish what is in flight.
    pub const DRAIN: u8 = b'T';
    /// End at once.
    pub const NOW: u8 = b'N';
    /// Read configuration and credentials again.
    pub const RELOAD: u8 = b'H';
    /// A new end to a new spawner comes with it.
    pub const END: u8 = b'E';
    /// Say whether you and the spawner still answer.
    pub const ASK: u8 = b'P';
    /// A successor is in charge: leave.
    pub const GIVEN: u8 = b'G';
    /// There is no successor, and why.
    pub const KEPT: u8 = b'K';
}

/// What the supervisor tells the launcher, one byte a message.
pub mod word {
    /// It is up, or has acted on a reload, whatever came of that; and which state a launcher of its program reads.
    pub const READY: u8 = b'R';
    /// It answers, and so does the spawner.
    pub const ALIVE: u8 = b'A';
    /// Start a successor, which is to have the end that comes with it. Then four bytes, little endian: the seconds that this one takes at
    /// most to leave, once the other is in charge.
    pub const UPGRADE: u8 = b'U';
}

struct Launcher {
    spawn: spawn::Spawner,
    signals: SignalFd,
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    supervisor: Option<Child>,
    spawner: Option<Child>,
    control: Option<OwnedFd>,
    manager: Manager,
    /// Drains asked for by signal.
    terminating: u32,
    /// What the launcher will exit with, once everything has ended.
    leaving: Option<i32>,
    /// Where this is the first process of a container, which life of that it is: everything there ends with it.
    life: Option<CString>,
    /// What it exits with where nothing but itself is left: of a first process, whose supervisor will not or cannot go on.
    gives_up: Option<i32>,
    restart: Backoff,
    /// When what is missing is started, or a spawner that does not end is killed.
    due: Option<Instant>,
    /// A pair that is to be the next.
    candidate: Option<Candidate>,
    /// Pairs that have handed over, and what is left of those that did not come up.
    retiring: Vec<Retiring>,
    /// What the supervisor in charge takes at most to leave once another one is.
    leaves_within: Duration,
    /// Whether this program is executed anew once it can be.
    renews: bool,
    /// Which of two ranges of numbers the spawner uses: two that live at once have not the same.
    second: bool,
}

struct Child {
    pid: Pid,
    since: Instant,
}

struct Backoff {
    next: Duration,
}

/// Runs until it is told to end or the supervisor ends for good; returns the exit code. `arguments` are those after `run`.
pub fn run(arguments: Vec<OsString>) -> i32 {
    let begun = crate::container::begin();
    exit_code(begun.and_then(|life| Launcher::new(arguments, life)).and_then(|mut l| l.serve()))
}

/// The same, in the place of a launcher that has executed this program; the first argument is what that one has left.
pub fn resume(mut arguments: Vec<OsString>) -> i32 {
    if arguments.is_empty() {
        return crate::exit::USAGE;
    }
    let left = Left::read(&arguments.remove(0));
    exit_code(left.and_then(|left| Launcher::new(arguments, crate::container::resumed())?.resumed(left).serve()))
}

fn exit_code(ended: io::Result<i32>) -> i32 {
    ended.unwrap_or_else(|e| {
        crate::say!("runner: {e}");
        crate::exit::OS_ERROR
    })
}

/// Exit codes of the supervisor that starting it again cannot heal: done, and those of sysexits that name the user's part.
const fn is_final(code: i32) -> bool {
    matches!(
        code,
        0 | crate::exit::USAGE
            | crate::exit::NO_INPUT
            | crate::exit::UNAVAILABLE
            | crate::exit::NO_PERMISSION
            | crate::exit::CONFIG
    )
}

/// Whether no process of ours is left. An orphan of a job is one.
fn is_alone() -> bool {
    let any = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, any) == Err(Errno::ECHILD)
}

fn c_string(text: &std::ffi::OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Launcher {
    /// `life`: of the container whose first process this is.
    fn new(arguments: Vec<OsString>, life: Option<CString>) -> io::Result<Self> {
        process::become_subreaper()?;
        // how many descriptors may be on their way for a user goes by the sender's limit: jobs have half of this
        if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        }
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGCHLD] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let ours =
            |name: &std::ffi::OsStr| notify::VARIABLES.iter().any(|v| name == *v) || name == crate::container::VARIABLE;
        let environment = std::env::vars_os().filter(|(name, _)| !ours(name)).map(|(name, value)| {
            let mut pair = name.into_vec();
            pair.push(b'=');
            pair.extend(value.into_vec());
            CString::new(pair).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        });
        Ok(Self {
            spawn: spawn::Spawner::new()?,
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            // the very file that runs here, also where it was replaced meanwhile
            program: c_string(std::env::current_exe()?.as_os_str())?,
            arguments: arguments.iter().map(|a| c_string(a)).collect::<io::Result<_>>()?,
            environment: environment.chain(life.clone().map(Ok)).collect::<io::Result<_>>()?,
            supervisor: None,
            spawner: None,
            control: None,
            manager: Manager::from_environment(|name| std::env::var_os(name)),
            terminating: 0,
            leaving: None,
            life,
            gives_up: None,
            restart: Backoff { next: RESTART_FIRST },
            due: Some(Instant::now()),
            candidate: None,
            retiring: Vec::new(),
            leaves_within: Duration::ZERO,
            renews: false,
            second: false,
        })
    }

    fn resumed(mut self, left: Left) -> Self {
        (self.supervisor, self.spawner) = (Some(left.supervisor), Some(left.spawner));
        (self.control, self.second, self.due) = (Some(left.control), left.second, None);
        process::shed_start();
        self
    }

    fn serve(&mut self) -> io::Result<i32> {
        loop {
            if let Some(code) = self.leaving
                && self.supervisor.is_none()
                && self.spawner.is_none()
                && self.candidate.is_none()
                && self.retiring.is_empty()
            {
                return Ok(code);
            }
            let next = self.due.into_iter().chain(self.manager.ask).chain(self.next_of_hand_over()).min();
            let timeout = match next.map(|d| d.saturating_duration_since(Instant::now())) {
                None => PollTimeout::NONE,
                // rounded up: one round too early would spin
                Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
            };
            let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            let controls = self.control.iter().chain(self.candidate.iter().filter_map(|c| c.control.as_ref()));
            watched.extend(controls.map(|c| PollFd::new(c.as_fd(), PollFlags::POLLIN)));
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            while let Ok(Some(signal)) = self.signals.read_signal() {
                self.signal(signal.ssi_signo as i32);
            }
            self.hear();
            self.reap();
            if self.manager.asks(Instant::now()) {
                self.order(order::ASK);
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.due = None;
                self.due()?;
            }
            self.due_of_hand_over();
        }
    }

    fn signal(&mut self, signal: i32) {
        match Signal::try_from(signal) {
            Ok(Signal::SIGHUP) => {
                self.manager.reloading();
                self.order(order::RELOAD);
            }
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(_) => {
                self.terminating += 1;
                self.manager.stopping();
                self.end_candidate(self.terminating == 1);
                if self.terminating > 1 {
                    self.end_retiring();
                }
                if self.supervisor.is_none() {
                    // between two starts; where jobs would end with us, the next one is started to ask them
                    if self.life.is_none() || self.terminating > 1 || is_alone() {
                        self.leaving.get_or_insert(0);
                    }
                } else {
                    self.order(if self.terminating == 1 { order::DRAIN } else { order::NOW });
                }
            }
        }
    }

    fn order(&self, order: u8) {
        let sent = self.control.as_ref().map(|c| channel::send(c.as_fd(), &[order], &[]));
        // a supervisor that does not take its orders is told in the way that it cannot refuse
        if order == order::NOW && !matches!(sent, Some(Ok(()))) {
            self.supervisor.iter().for_each(kill_child);
        }
    }

    /// Acts on what the supervisors say.
    fn hear(&mut self) {
        while let Some((words, descriptor)) = next_word(&mut self.control) {
            match words[0] {
                word::READY if self.terminating == 0 => self.manager.ready(),
                word::ALIVE => self.manager.answered(),
                word::UPGRADE => {
                    let [_, a, b, c, d, ..] = words;
                    let said = u32::from_le_bytes([a, b, c, d]);
                    // an older one says nothing
                    let within = if said == 0 { LEAVES_MAX_S } else { said.min(LEAVES_MAX_S) };
                    self.leaves_within = Duration::from_secs(within.into());
                    self.succession(descriptor);
                }
                _ => {}
            }
        }
        while let Some(candidate) = &mut self.candidate
            && let Some((words, _)) = next_word(&mut candidate.control)
        {
            if words[0] == word::READY {
                self.succeeded(words[1]);
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ok(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Err(signal)),
                Err(Errno::EINTR) => continue,
                _ => return,
            };
            self.reaped(pid, code);
        }
    }

    fn reaped(&mut self, pid: Pid, code: Result<i32, Signal>) {
        if let Some(ended) = self.supervisor.take_if(|c| c.pid == pid) {
            self.supervisor_ended(&ended, code);
        } else if let Some(ended) = self.spawner.take_if(|c| c.pid == pid) {
            self.spawner_ended(&ended, code);
        } else {
            // or an orphan, such as a job's worker that outlived its spawner
            self.reap_other(pid, code);
        }
    }

    fn supervisor_ended(&mut self, ended: &Child, code: Result<i32, Signal>) {
        self.control = None;
        // what it has let go of its successor goes on with; where that is nothing yet it ends, and is followed as any other
        if self.terminating == 0
            && let Some(candidate) = self.candidate.take_if(|c| c.goes_on())
        {
            crate::say!("runner: the supervisor ended while it handed over, its successor is in charge");
            return self.take_over(candidate);
        }
        let last = match code {
            Ok(code) if self.terminating > 0 || is_final(code) => Some(code),
            Err(signal) if self.terminating > 0 => Some(128 + signal as i32),
            Ok(code) => {
                crate::say!("runner: the supervisor exited with code {code}, starting it again");
                None
            }
            Err(signal) => {
                crate::say!("runner: the supervisor was ended by {signal}, starting it again");
                None
            }
        };
        if self.life.is_some() && last != Some(0) && self.terminating < 2 {
            self.gives_up = last;
        } else {
            self.leaving = last;
        }
        match self.leaving {
            Some(_) => self.manager.stopping(),
            None => self.manager.status("the supervisor is started again; jobs go on"),
        }
        // the spawner ends with it; both are started together when both are gone
        self.due =
            Some(if self.spawner.is_some() { Instant::now() + SPAWNER_GRACE } else { self.restart.after(ended) });
    }

    fn spawner_ended(&mut self, ended: &Child, code: Result<i32, Signal>) {
        if self.leaving.is_some() {
            return;
        }
        // 0: the supervisor's end has closed, so the supervisor is ending and is what this is about
        if self.supervisor.is_some() {
            match code {
                Ok(0) => {}
                Ok(code) => crate::say!("runner: the spawner exited with code {code}, starting it again"),
                Err(signal) => crate::say!("runner: the spawner was ended by {signal}, starting it again"),
            }
        }
        self.due = Some(self.restart.after(ended));
    }

    /// Starts what is missing.
    fn due(&mut self) -> io::Result<()> {
        match (&self.supervisor, &self.spawner) {
            (None, Some(_)) => {
                // it should have ended with its supervisor
                self.spawner.iter().for_each(kill_child);
                Ok(())
            }
            _ if self.leaving.is_some() => Ok(()),
            (None, None) => {
                if let Some(code) = self.gives_up.take() {
                    if is_alone() {
                        self.leaving = Some(code);
                        return Ok(());
                    }
                    crate::say!(
                        "runner: the supervisor ended with code {code}; it is started again, because jobs would end with this container"
                    );
                }
                let (for_supervisor, for_spawner) = channel::pair()?;
                let (control, for_control) = channel::pair()?;
                self.spawner = Some(self.start(self.spawner_role(self.second), &[&for_spawner])?);
                self.supervisor = Some(self.start(&[c"supervisor"], &[&for_supervisor, &for_control])?);
                self.control = Some(control);
                process::shed_start();
                if self.terminating > 0 {
                    // one that died before it had asked the jobs to stop
                    self.order(order::DRAIN);
                }
                Ok(())
            }
            (Some(_), None) => {
                let (for_supervisor, for_spawner) = channel::pair()?;
                self.spawner = Some(self.start(self.spawner_role(self.second), &[&for_spawner])?);
                if let Some(control) = &self.control
                    && channel::send(control.as_fd(), &[order::END], &[for_supervisor.as_fd()]).is_err()
                {
                    // the supervisor is about to end, which is seen next; or it cannot be given anything now, and a later one it can
                    self.spawner.iter().for_each(kill_child);
                }
                Ok(())
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// The arguments of a spawner: which range of numbers it uses.
    fn spawner_role(&self, second: bool) -> &'static [&'static CStr] {
        if second { &[c"spawner", SECOND] } else { &[c"spawner"] }
    }

    /// In a session of its own: a terminal's Ctrl-C is the launcher's to relay.
    fn start(&mut self, role: &[&CStr], inherit: &[&OwnedFd]) -> io::Result<Child> {
        // the spawner needs neither arguments nor variables; less for its workers to find in its memory
        let is_spawner = role[0] == c"spawner";
        let mut arguments: Vec<&CStr> = [c"runner"].into_iter().chain(role.iter().copied()).collect();
        let mut environment: Vec<&CStr> = Vec::new();
        if !is_spawner {
            arguments.extend(self.arguments.iter().map(CString::as_c_str));
            environment.extend(self.environment.iter().map(CString::as_c_str));
        }
        let inherit: Vec<_> = inherit.iter().map(|d| d.as_fd()).collect();
        let pid = self
            .spawn
            .spawn(&spawn::Plan {
                program: spawn::Program::Path(&self.program),
                arguments: &arguments,
                environment: &environment,
                inherit: &inherit,
                directory: None,
                silent: is_spawner,
                own_session: true,
                dies_with_parent: true,
                confine: None,
                handover: None,
            })
            .map_err(|e| io::Error::from_raw_os_error(e.errno as i32))?;
        Ok(Child { pid: Pid::from_raw(pid), since: Instant::now() })
    }
}

fn kill_child(child: &Child) {
    let _ = kill(child.pid, Signal::SIGKILL);
}

/// What a supervisor says next, and what comes with it; nothing where it has said no more. One that is ending has no control socket then,
/// which SIGCHLD tells.
fn next_word(control: &mut Option<OwnedFd>) -> Option<([u8; 8], Option<OwnedFd>)> {
    let mut buffer = [0; 8];
    loop {
        match channel::receive(control.as_ref()?.as_fd(), &mut buffer) {
            Ok(received) if received.length > 0 => return Some((buffer, received.descriptors.into_iter().next())),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
            // told once, where it ended before it had read all: what it said last is still there
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            _ => *control = None,
        }
    }
}

impl Backoff {
    /// When to start again what has ended.
    fn after(&mut self, ended: &Child) -> Instant {
        if ended.since.elapsed() >= LIVED {
            self.next = RESTART_FIRST;
        }
        let wait = self.next;
        self.next = (self.next * 2).min(RESTART_MAX);
        Instant::now() + wait
    }
}
