//! A program whose worker has died: which process it is, and how it ended, by the word of the job's first process, which reaps it.
//!
//! Both stand in files of the job's folder, which what runs in the job cannot write where there is Landlock.

use crate::stop::Exit;
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
/// What the first process has reaped of the job's programs: `PID START CODE SIGNAL`, a line each.
const REAPED: &str = "reaped";
/// The most of it that is written, and read, bytes. A job that leaves so many programs has its own taken for lost.
const REAPED_MAX: u64 = 64 * 1024;
/// How often a process of others is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the first process may take to say how one ended.
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

/// Notes how a program of the job ended that had no worker any more, on disk. Before it is reaped: by its number.
pub(crate) fn note_reaped(pid: i32, start_time: u64, code: i32, signal: i32) -> io::Result<()> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(REAPED)?;
    if file.metadata()?.len() >= REAPED_MAX {
        return Ok(());
    }
    file.write_all(format!("{pid} {start_time} {code} {signal}\n").as_bytes())?;
    file.sync_all()
}

/// Forgets what an earlier step noted.
pub(crate) fn forget() {
    for name in [PROGRAM, REAPED] {
        let _ = std::fs::remove_file(name);
    }
}

// === impl Left ===

impl Left {
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
            return Some(Self::living(path).unwrap_or(Self { pid: 0, start_time: 0 }));
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

    /// Waits for its end. Nobody may have seen it: its worker may have reaped it before it died itself.
    pub(super) async fn ended(self) -> Exit {
        while self.alive() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let since = Instant::now();
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

    /// How it ended, where the first process has said so.
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
