//! The launcher, `runner run`: the first process, on a machine and in a container alike. It starts spawner and supervisor as siblings,
//! joined by a socket, restarts either one, relays what it is told, and reaps what outlives them.
//!
//! ```text
//!   SIGTERM, SIGHUP ─▶ launcher ══ control socket ══▶ supervisor      T drain · N now · H reload · E a new end to a new spawner
//!                         │ restarts both                 ║ seqpacket
//!                         └──────────────────────────▶ spawner        exits by itself when the supervisor's end closes
//! ```
//! It must stay tiny: no configuration, no logging framework, no runtime, no secret, no thread. What it has to say goes to standard error as it is.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
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
    /// Drains asked for by signal.
    terminating: u32,
    /// What the launcher will exit with, once everything has ended.
    leaving: Option<i32>,
    restart: Backoff,
    /// When what is missing is started, or a spawner that does not end is killed.
    due: Option<Instant>,
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
    match Launcher::new(arguments).and_then(|mut l| l.serve()) {
        Ok(code) => code,
        Err(e) => {
            crate::say!("runner: {e}");
            crate::exit::OS_ERROR
        }
    }
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

fn c_string(text: &std::ffi::OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Launcher {
    fn new(arguments: Vec<OsString>) -> io::Result<Self> {
        process::become_subreaper()?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGCHLD] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let environment = std::env::vars_os().map(|(name, value)| {
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
            environment: environment.collect::<io::Result<_>>()?,
            supervisor: None,
            spawner: None,
            control: None,
            terminating: 0,
            leaving: None,
            restart: Backoff { next: RESTART_FIRST },
            due: Some(Instant::now()),
        })
    }

    fn serve(&mut self) -> io::Result<i32> {
        loop {
            if let Some(code) = self.leaving
                && self.supervisor.is_none()
                && self.spawner.is_none()
            {
                return Ok(code);
            }
            let timeout = match self.due.map(|d| d.saturating_duration_since(Instant::now())) {
                None => PollTimeout::NONE,
                // rounded up: one round too early would spin
                Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
            };
            match poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            while let Ok(Some(signal)) = self.signals.read_signal() {
                self.signal(signal.ssi_signo as i32);
            }
            self.reap();
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.due = None;
                self.due()?;
            }
        }
    }

    fn signal(&mut self, signal: i32) {
        match Signal::try_from(signal) {
            Ok(Signal::SIGHUP) => self.order(order::RELOAD),
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(_) => {
                self.terminating += 1;
                if self.supervisor.is_none() {
                    // between two starts
                    self.leaving.get_or_insert(0);
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
            self.kill(self.supervisor.as_ref());
        }
    }

    fn kill(&self, child: Option<&Child>) {
        if let Some(child) = child {
            let _ = kill(child.pid, Signal::SIGKILL);
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
            if let Some(ended) = self.supervisor.take_if(|c| c.pid == pid) {
                self.supervisor_ended(&ended, code);
            } else if let Some(ended) = self.spawner.take_if(|c| c.pid == pid) {
                self.spawner_ended(&ended, code);
            }
            // else an orphan, such as a job's worker that outlived its spawner
        }
    }

    fn supervisor_ended(&mut self, ended: &Child, code: Result<i32, Signal>) {
        self.control = None;
        match code {
            Ok(code) if self.terminating > 0 || is_final(code) => self.leaving = Some(code),
            Err(signal) if self.terminating > 0 => self.leaving = Some(128 + signal as i32),
            Ok(code) => crate::say!("runner: the supervisor exited with code {code}, starting it again"),
            Err(signal) => crate::say!("runner: the supervisor was ended by {signal}, starting it again"),
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
                self.kill(self.spawner.as_ref());
                Ok(())
            }
            _ if self.leaving.is_some() => Ok(()),
            (None, None) => {
                let (for_supervisor, for_spawner) = channel::pair()?;
                let (control, for_control) = channel::pair()?;
                self.spawner = Some(self.start(c"spawner", &[&for_spawner])?);
                self.supervisor = Some(self.start(c"supervisor", &[&for_supervisor, &for_control])?);
                self.control = Some(control);
                process::shed_start();
                Ok(())
            }
            (Some(_), None) => {
                let (for_supervisor, for_spawner) = channel::pair()?;
                self.spawner = Some(self.start(c"spawner", &[&for_spawner])?);
                if let Some(control) = &self.control {
                    // where the supervisor is about to end this fails, and its end is seen next
                    let _ = channel::send(control.as_fd(), &[order::END], &[for_supervisor.as_fd()]);
                }
                Ok(())
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// In a session of its own: a terminal's Ctrl-C is the launcher's to relay.
    fn start(&mut self, role: &CStr, inherit: &[&OwnedFd]) -> io::Result<Child> {
        let arguments: Vec<&CStr> =
            [c"runner", role].into_iter().chain(self.arguments.iter().map(CString::as_c_str)).collect();
        // the spawner needs neither; less for its workers to find in its memory
        let is_spawner = role == c"spawner";
        let environment: Vec<&CStr> =
            if is_spawner { Vec::new() } else { self.environment.iter().map(CString::as_c_str).collect() };
        let inherit: Vec<_> = inherit.iter().map(|d| d.as_fd()).collect();
        let pid = self
            .spawn
            .spawn(&spawn::Plan {
                program: spawn::Program::Path(&self.program),
                arguments: if is_spawner { &arguments[..2] } else { &arguments },
                environment: &environment,
                inherit: &inherit,
                directory: None,
                silent: is_spawner,
                own_session: true,
                dies_with_parent: true,
                confine: None,
                handover: None,
            })
            .map_err(|e| io::Error::new(io::Error::from(e.errno).kind(), e))?;
        Ok(Child { pid: Pid::from_raw(pid), since: Instant::now() })
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
