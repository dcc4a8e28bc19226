//! The launcher's part of a hand-over: a second pair, of the program that is now at the launcher's own path, is started beside the first;
//! once it says that it is up it is the pair, and the first one may leave. Then the launcher executes that program in its own place.
//!
//! ```text
//!   U ─▶ candidate ── R ─▶ the pair; G to the one before, which retires ── gone ─▶ execve: the same process, the new program
//!           └── ends, does not say so in time, cannot be started ─▶ K to the one before, which goes on as if nothing had been
//! ```
//! The launcher alone decides which of the two it is: each has been told, or has said it, before anything depends on it.

use super::{Child, Launcher, SPAWNER_GRACE, order};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, execve};
use runner_sandbox::{channel, inherited_descriptor};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, Instant};

/// How long a new pair may take to be up.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// What a supervisor that retires has beyond what it said that it takes: one that is later than that does not answer at all, and is killed.
const LATE: Duration = Duration::from_secs(5);
/// The launcher's state as it passes to the program that is executed in its place. A supervisor that is up says which one its own launcher
/// reads; where that is another one the launcher goes on as it is.
pub const FORMAT: u8 = 1;

/// Why a pair stays in charge, as it is told: the byte, and a number that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The new supervisor exited with that code.
    Exited(i32),
    /// That signal ended it.
    Signalled(i32),
    /// The new spawner ended.
    Spawner,
    /// It was not up in time.
    Late,
    /// It could not be started, for that reason of the system.
    NotStarted(i32),
    /// Another hand-over is under way, or the runner is stopping.
    Busy,
}

/// A pair that is not up yet.
pub(super) struct Candidate {
    pub(super) supervisor: Child,
    /// It ends with its supervisor.
    pub(super) spawner: Option<Child>,
    pub(super) control: Option<OwnedFd>,
    /// When it is killed, unless it was already.
    until: Option<Instant>,
    /// Why it is not to be, once it is not: it ends, or was killed.
    failed: Option<Kept>,
}

/// What is left of a pair that is in charge no more.
pub(super) struct Retiring {
    supervisor: Option<Child>,
    spawner: Option<Child>,
    /// Its end would be an order to end at once.
    control: Option<OwnedFd>,
    /// When the supervisor is killed; once it has ended, when a spawner that does not end is.
    until: Option<Instant>,
}

// === impl Kept ===

impl Kept {
    /// As an order.
    pub fn encode(self) -> [u8; 6] {
        let (why, number) = match self {
            Self::Exited(code) => (b'x', code),
            Self::Signalled(signal) => (b's', signal),
            Self::Spawner => (b'p', 0),
            Self::Late => (b'l', 0),
            Self::NotStarted(errno) => (b'n', errno),
            Self::Busy => (b'b', 0),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [order::KEPT, why, a, b, c, d]
    }
    /// From an order, without its first byte.
    pub fn decode(rest: &[u8]) -> Option<Self> {
        let (why, number) = rest.split_first()?;
        let number = i32::from_le_bytes(number.try_into().ok()?);
        Some(match why {
            b'x' => Self::Exited(number),
            b's' => Self::Signalled(number),
            b'p' => Self::Spawner,
            b'l' => Self::Late,
            b'n' => Self::NotStarted(number),
            b'b' => Self::Busy,
            _ => return None,
        })
    }
}

// === impl Candidate ===

impl Candidate {
    /// Whether it is not being ended.
    pub(super) fn goes_on(&self) -> bool {
        self.failed.is_none()
    }
}

// === impl Launcher ===

impl Launcher {
    /// The supervisor asks for a successor, which is to have that end.
    pub(super) fn succession(&mut self, end: Option<OwnedFd>) {
        let Some(end) = end else { return };
        let retires = self.retiring.iter().any(|r| r.supervisor.is_some());
        let busy = self.candidate.is_some() || retires || self.terminating > 0;
        if busy || self.leaving.is_some() {
            return self.kept(Kept::Busy);
        }
        self.manager.reloading();
        match self.start_candidate(&end) {
            Ok(candidate) => self.candidate = Some(candidate),
            Err(e) => {
                self.manager.ready();
                self.kept(Kept::NotStarted(e.raw_os_error().unwrap_or(0)));
            }
        }
    }

    fn start_candidate(&mut self, end: &OwnedFd) -> io::Result<Candidate> {
        let (for_supervisor, for_spawner) = channel::pair()?;
        let (control, for_control) = channel::pair()?;
        let spawner = self.start(self.spawner_role(!self.second), &[&for_spawner])?;
        let supervisor = match self.start(&[c"supervisor"], &[&for_supervisor, &for_control, end]) {
            Ok(supervisor) => supervisor,
            Err(e) => {
                self.retire(None, Some(spawner), None);
                return Err(e);
            }
        };
        let until = Some(Instant::now() + READY_WITHIN);
        Ok(Candidate { supervisor, spawner: Some(spawner), control: Some(control), until, failed: None })
    }

    /// The pair in charge goes on.
    fn kept(&self, why: Kept) {
        if let Some(control) = &self.control {
            // one that takes no orders ends, or waits no longer than it must
            let _ = channel::send(control.as_fd(), &why.encode(), &[]);
        }
    }

    /// The candidate is up: from here on it is in charge. `format`: the state that its own launcher reads.
    pub(super) fn succeeded(&mut self, format: u8) {
        let Some(candidate) = self.candidate.take_if(|c| c.goes_on()) else { return };
        if let Some(control) = &self.control {
            let _ = channel::send(control.as_fd(), &[order::GIVEN], &[]);
        }
        self.take_over(candidate);
        self.renews = format == FORMAT;
        if !self.renews {
            crate::say!(
                "runner: the new program has another launcher; this one goes on until the runner is started anew"
            );
        }
        self.manager.ready();
    }

    /// The pair of a candidate is the pair; the other one retires.
    pub(super) fn take_over(&mut self, candidate: Candidate) {
        let supervisor = self.supervisor.replace(candidate.supervisor);
        let spawner = std::mem::replace(&mut self.spawner, candidate.spawner);
        let control = std::mem::replace(&mut self.control, candidate.control);
        self.second = !self.second;
        // a spawner that has ended meanwhile is started again
        self.due = self.spawner.is_none().then(Instant::now);
        self.retire(supervisor, spawner, control);
    }

    fn retire(&mut self, supervisor: Option<Child>, spawner: Option<Child>, control: Option<OwnedFd>) {
        // a spawner ends with its supervisor
        let within = if supervisor.is_some() { self.leaves_within + LATE } else { SPAWNER_GRACE };
        if supervisor.is_some() || spawner.is_some() {
            self.retiring.push(Retiring { supervisor, spawner, control, until: Some(Instant::now() + within) });
        }
    }

    /// Ends a candidate that is not to be.
    pub(super) fn give_up(&mut self, why: Kept) {
        if let Some(candidate) = &mut self.candidate {
            candidate.failed.get_or_insert(why);
            candidate.until = None;
            // first of all: the end of its socket would be an order, on which it removed what is the other one's
            super::kill_child(&candidate.supervisor);
            // what it would still say counts no more
            candidate.control = None;
        }
    }

    /// The runner is told to end, and so is a candidate: in good order the first time, since it may serve already.
    pub(super) fn end_candidate(&mut self, first: bool) {
        match &mut self.candidate {
            Some(candidate) if first => {
                candidate.failed.get_or_insert(Kept::Busy);
                if let Some(control) = &candidate.control {
                    let _ = channel::send(control.as_fd(), &[order::DRAIN], &[]);
                }
            }
            _ => self.give_up(Kept::Busy),
        }
    }

    /// Takes a child's end, if it is one of these. `how`: its code, or its signal.
    pub(super) fn reap_other(&mut self, pid: Pid, how: Result<i32, Signal>) {
        if self.candidate.as_ref().is_some_and(|c| c.supervisor.pid == pid) {
            // its last word may be that it is up
            self.hear();
            let Some(candidate) = self.candidate.take_if(|c| c.supervisor.pid == pid) else {
                return self.reaped(pid, how);
            };
            let why = candidate.failed.unwrap_or(match how {
                Ok(code) => Kept::Exited(code),
                Err(signal) => Kept::Signalled(signal as i32),
            });
            crate::say!("runner: the new supervisor did not come up, the one before goes on");
            self.retire(None, candidate.spawner, None);
            self.manager.ready();
            // only now: nothing of it can still act
            return self.kept(why);
        }
        let candidates = self.candidate.as_mut().and_then(|c| c.spawner.take_if(|s| s.pid == pid));
        if candidates.is_some() {
            // 0: its supervisor is ending, and is what this is about
            if how != Ok(0) {
                self.give_up(Kept::Spawner);
            }
            return;
        }
        for retiring in &mut self.retiring {
            if retiring.supervisor.take_if(|c| c.pid == pid).is_some() {
                retiring.control = None;
                retiring.until = Some(Instant::now() + SPAWNER_GRACE);
            }
            let _ = retiring.spawner.take_if(|c| c.pid == pid);
        }
        self.retiring.retain(|r| r.supervisor.is_some() || r.spawner.is_some());
    }

    /// When something here is next due.
    pub(super) fn next_of_hand_over(&self) -> Option<Instant> {
        let candidate = self.candidate.iter().filter_map(|c| c.until);
        candidate.chain(self.retiring.iter().filter_map(|r| r.until)).min()
    }

    /// Does what is due.
    pub(super) fn due_of_hand_over(&mut self) {
        let now = Instant::now();
        if self.candidate.as_ref().and_then(|c| c.until).is_some_and(|until| until <= now) {
            self.give_up(Kept::Late);
        }
        for retiring in self.retiring.iter_mut().filter(|r| r.until.is_some_and(|until| until <= now)) {
            retiring.until = None;
            match &retiring.supervisor {
                Some(supervisor) => {
                    crate::say!("runner: the supervisor that was to leave does not, and is killed");
                    super::kill_child(supervisor);
                }
                None => retiring.spawner.iter().for_each(super::kill_child),
            }
        }
        if self.renews && self.retiring.is_empty() && self.candidate.is_none() {
            self.renew();
        }
    }

    /// A second order to end is for those that retire as well.
    pub(super) fn end_retiring(&self) {
        self.retiring.iter().filter_map(|r| r.supervisor.as_ref()).for_each(super::kill_child);
    }

    /// Executes the program that is now at this one's path, in its place: the process stays, and so do its children.
    fn renew(&mut self) {
        let (Some(supervisor), Some(spawner), Some(control)) = (&self.supervisor, &self.spawner, &self.control) else {
            // one of them is about to be started again, or to end
            return;
        };
        if self.terminating > 0 || self.leaving.is_some() || self.due.is_some() {
            return;
        }
        self.renews = false;
        let state = format!(
            "{FORMAT} {} {} {} {} {} {}",
            supervisor.pid,
            supervisor.since.elapsed().as_millis(),
            spawner.pid,
            spawner.since.elapsed().as_millis(),
            control.as_raw_fd(),
            u8::from(self.second),
        );
        let executed = (|| {
            let words = ["runner", "resume", &state].into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
            let environment: Vec<CString> = std::env::vars_os()
                .filter(|(name, _)| name != crate::container::VARIABLE)
                .map(|(name, value)| CString::new([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()))
                // the processes of before are those of this life
                .chain(self.life.clone().map(Ok))
                .collect::<Result<_, _>>()?;
            fcntl(control, FcntlArg::F_SETFD(FdFlag::empty()))?;
            let arguments: Vec<_> = words.iter().chain(&self.arguments).map(CString::as_c_str).collect();
            let environment: Vec<_> = environment.iter().map(CString::as_c_str).collect();
            // signals stay blocked, and those that came meanwhile are pending still
            execve(&self.program, &arguments, &environment).map_err(io::Error::from).map(|_| ())
        })();
        if let Err(e) = executed {
            let _ = fcntl(control, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
            crate::say!("runner: the new launcher cannot be executed, this one goes on: {e}");
        }
    }
}

/// What a launcher has been left by the one in whose place it was executed.
pub(super) struct Left {
    pub(super) supervisor: Child,
    pub(super) spawner: Child,
    pub(super) control: OwnedFd,
    pub(super) second: bool,
}

impl Left {
    /// As [`Launcher::renew`] writes it.
    pub(super) fn read(state: &OsString) -> io::Result<Self> {
        let not_read = || io::Error::new(io::ErrorKind::InvalidInput, "only a launcher resumes another one's work");
        let numbers: Vec<u64> = state
            .to_str()
            .ok_or_else(not_read)?
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| not_read())?;
        let [format, supervisor, supervisor_ms, spawner, spawner_ms, control, second] = numbers[..] else {
            return Err(not_read());
        };
        if format != u64::from(FORMAT) || second > 1 {
            return Err(not_read());
        }
        let child = |pid: u64, ms: u64| {
            let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1).ok_or_else(not_read)?;
            let now = Instant::now();
            let since = now.checked_sub(Duration::from_millis(ms)).unwrap_or(now);
            Ok::<_, io::Error>(Child { pid: Pid::from_raw(pid), since })
        };
        let (supervisor, spawner) = (child(supervisor, supervisor_ms)?, child(spawner, spawner_ms)?);
        let control = inherited_descriptor(i32::try_from(control).map_err(|_| not_read())?)?;
        Ok(Self { supervisor, spawner, control, second: second == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_pair_is_kept_is_told_and_understood() {
        let all = [
            Kept::Exited(78),
            Kept::Exited(-1),
            Kept::Signalled(9),
            Kept::Spawner,
            Kept::Late,
            Kept::NotStarted(8),
            Kept::Busy,
        ];
        for why in all {
            let told = why.encode();
            assert_eq!((told[0], Kept::decode(&told[1..])), (order::KEPT, Some(why)));
        }
        for bad in [&b""[..], b"x", b"x\0\0\0", b"x\0\0\0\0\0", b"?\0\0\0\0"] {
            assert_eq!(Kept::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_state_that_no_launcher_has_left_is_not_resumed() {
        for bad in ["", "1", "2 10 0 11 0 4 0", "1 10 0 11 0 4", "1 10 0 11 0 4 2", "1 1 0 11 0 4 0", "1 x 0 11 0 4 0"]
        {
            assert!(Left::read(&bad.into()).is_err(), "{bad:?}");
        }
        assert!(
            Left::read(&"1 4294967296 0 11 0 4 0".into()).is_err() && Left::read(&"1 10 0 11 0 2 0".into()).is_err()
        );
    }
}
