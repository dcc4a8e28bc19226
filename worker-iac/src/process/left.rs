//! A program whose worker has died: which process it is, and how it ended, by the word of whoever reaped it: that worker, or the job's first
//! process.
//!
//! Both stand in files of the job's folder, which what runs in the job cannot write where there is Landlock.

use crate::stop::Exit;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use runner_sandbox::stat;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Which program runs, for whoever takes over: a line `PID START`, or `start PATH` while it is being started.
const PROGRAM: &str = "program";
/// The most that is read of it, bytes: a path is no longer.
const NOTE_MAX: u64 = 4200;
/// How the job's programs ended, noted before each was reaped: `PID START CODE SIGNAL`, a line each.
const REAPED: &str = "reaped";
/// The most of it that is written, and read, bytes. A job that leaves so many programs has its own taken for lost.
const REAPED_MAX: u64 = 64 * 1024;
/// How often a process of others is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long whoever reaps one may take to say how it ended.
const REAPED_WITHIN: Duration = Duration::from_secs(5);

/// A program that may still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// Its number, which leads its process group.
    pub(crate) pid: i32,
    /// Clock ticks after boot.
    start_time: u64,
}

/// Notes that this program is about to be started: until it is noted itself it is known by its command line.
pub(super) fn note_start(path: &Path) -> io::Result<()> {
    let mut line = b"start ".to_vec();
    line.extend(path.as_os_str().as_bytes());
    write_note(line)
}

/// Notes that this child of ours runs now.
pub(super) fn note(pid: i32) -> io::Result<()> {
    let Some(stat) = stat(pid) else { return Ok(()) };
    write_note(format!("{pid} {}", stat.start_time).into_bytes())
}

/// In place and at once: a full disk takes it too, and a worker that is killed leaves it as it was or as it is to be.
fn write_note(mut line: Vec<u8>) -> io::Result<()> {
    line.push(b'\n');
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    options.open(PROGRAM)?.write_all_at(&line, 0)
}

/// Notes how a program of the job ended. Before it is reaped, by its number: nobody else could say it afterwards.
pub(crate) fn note_reaped(pid: i32, start_time: u64, code: i32, signal: i32) -> io::Result<()> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(REAPED)?;
    if file.metadata()?.len() >= REAPED_MAX {
        return Ok(());
    }
    // whoever reads it lives on the same host: what a crash of that leaves of it is of no use to anybody
    file.write_all(format!("{pid} {start_time} {code} {signal}\n").as_bytes())
}

/// Waits for the end of a child of this process, and notes it. `died`: wakes whenever a child has ended.
pub(super) async fn note_end(pid: i32, died: &mut tokio::signal::unix::Signal) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let (code, signal) = loop {
        match waitid(Id::Pid(Pid::from_raw(pid)), flags) {
            Ok(WaitStatus::Exited(_, code)) => break (code, 0),
            Ok(WaitStatus::Signaled(_, signal, _)) => break (0, signal as i32),
            Ok(_) if died.recv().await.is_some() => {}
            Err(Errno::EINTR) => {}
            _ => return,
        }
    };
    if let Some(stat) = stat(pid) {
        let _ = note_reaped(pid, stat.start_time, code, signal);
    }
}

/// Forgets what an earlier step noted.
pub(crate) fn forget() {
    for name in [PROGRAM, REAPED] {
        let _ = std::fs::remove_file(name);
    }
}

// === impl Left ===

impl Left {
    /// One that is not there, and of which nobody can say how it ended.
    pub(crate) const GONE: Self = Self { pid: 0, start_time: 0 };

    /// What the worker before this one noted, or has started and could not note any more.
    pub(crate) fn find() -> Option<Self> {
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(PROGRAM).ok()?;
        let mut noted = Vec::new();
        file.take(NOTE_MAX).read_to_end(&mut noted).ok()?;
        // what is behind the line is an older, longer one
        let line = noted.split(|b| *b == b'\n').next()?;
        if let Some(path) = line.strip_prefix(b"start ") {
            // none: it was not started, or has ended already
            return Some(Self::living(path).unwrap_or(Self::GONE));
        }
        let (pid, start_time) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let (pid, start_time) = (pid.parse().ok()?, start_time.parse().ok()?);
        (pid > 1).then_some(Self { pid, start_time })
    }

    /// The oldest process of the session that leads a group, has become the first process's child, and was started as that: what an engine
    /// leaves behind leads groups too.
    fn living(path: &[u8]) -> Option<Self> {
        let (first, own) = (nix::unistd::getppid().as_raw(), nix::unistd::getpid().as_raw());
        let session = nix::unistd::getsid(None).ok()?.as_raw();
        let members = runner_sandbox::sessions::members(session).into_iter().filter(|pid| *pid != own);
        let engines = members.filter_map(|pid| Some((pid, stat(pid).filter(|s| s.group == pid && s.parent == first)?)));
        // a script's interpreter has it among its arguments
        let is = |pid: i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).take(3).any(|word| word == path)
        };
        let oldest = engines.filter(|(pid, _)| is(*pid)).min_by_key(|(pid, stat)| (stat.start_time, *pid));
        oldest.map(|(pid, stat)| Self { pid, start_time: stat.start_time })
    }

    /// Whether that very process lives.
    pub(crate) fn alive(self) -> bool {
        stat(self.pid).is_some_and(|s| s.start_time == self.start_time && !s.dead())
    }

    /// Waits for its end. `gone`: since when it is, where that was seen before; whoever waits may be dropped in between and wait again.
    /// Where the disk is full, nobody may be able to say how it ended.
    pub(super) async fn ended(self, gone: &mut Option<Instant>) -> Exit {
        while self.alive() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let since = *gone.get_or_insert_with(Instant::now);
        loop {
            if let Some(exit) = self.reaped() {
                return exit;
            }
            if since.elapsed() > REAPED_WITHIN {
                return Exit::Unknown;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How it ended, where that was said.
    fn reaped(self) -> Option<Exit> {
        let text = std::fs::read_to_string(REAPED).ok()?;
        text.lines().rev().find_map(|line| {
            let mut numbers = line.split(' ');
            let its = numbers.next()? == self.pid.to_string() && numbers.next()? == self.start_time.to_string();
            let (code, signal): (i32, i32) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
            its.then_some(if signal > 0 { Exit::Signal(signal) } else { Exit::Code(code) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cancel, journal, process};
    use shared_proto::v1::EngineRead;
    use tokio::sync::watch;

    #[tokio::test]
    async fn whoever_waits_for_an_end_that_nobody_noted_is_told_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let (_secrets, redaction) = watch::channel(Default::default());
        let opened = journal::open(&at("events"), &at("reserve"), redaction, 1, EngineRead::default());
        let (journal, _progress, _closing) = opened.expect("opens");
        let (_asker, mut cancel) = cancel::pair();
        let (out, err) = (at("out"), at("err"));
        let left = Left { pid: 0, start_time: 0 };
        let read = EngineRead::default();
        let asks = process::Asks::Itself;
        let orphan =
            process::Orphan { path: Path::new("engine"), left, output: (&out, &err), read, asked: false, asks };
        let taken = process::take_over(orphan, &mut cancel, Duration::from_secs(60), &journal, async |_| {});
        let ended = tokio::time::timeout(4 * REAPED_WITHIN, taken).await.expect("ends");
        assert_eq!(ended.expect("an end"), Exit::Unknown);
    }
}
