//! A control group for each job, from systemd: a transient scope, asked for over the system bus by busctl. So a job is in no cgroup of the
//! unit's: its bounds are its own, a restart of the unit finds nothing in the way, and a machine that goes down asks the scope itself to end.
//!
//! Only where this process is root and systemd the machine's; whether it works is found out by doing it, once.

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use runner_sandbox::{cgroup, spawn};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where busctl is.
const BUSCTL: &CStr = c"/usr/bin/busctl";
/// How long one question may take.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long systemd may take to do what it said it would.
const DONE_WITHIN: Duration = Duration::from_secs(2);
/// What a stop of the scope sends to everything in it, with no effect on anybody but the job's first process, which passes it on once.
const KILL_SIGNAL: i32 = nix::libc::SIGWINCH;
/// Below the default of 100: the supervisor goes first.
const WEIGHT: u64 = 50;

/// Bounds of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes; swap is not to be had.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// Asks for scopes.
#[derive(Debug)]
pub(super) struct Scopes;

// === impl Scopes ===

impl Scopes {
    /// Tries it with a process of its own.
    pub(super) fn find(spawn: &mut spawn::Spawner, program: &File) -> Option<Self> {
        let here = nix::unistd::geteuid().is_root() && Path::new("/run/systemd/system").is_dir();
        if !here || nix::unistd::access(BUSCTL, nix::unistd::AccessFlags::X_OK).is_err() {
            return None;
        }
        let bounds = Bounds { memory: 64 << 20, processes: 16 };
        let (ours, theirs) = UnixStream::pair().ok()?;
        let waits = spawn
            .spawn(&spawn::Plan {
                program: spawn::Program::File(program.as_fd()),
                arguments: &[c"runner", c"trial-wait"],
                environment: &[],
                inherit: &[theirs.as_fd()],
                directory: None,
                silent: true,
                own_session: true,
                dies_with_parent: true,
                confine: None,
                handover: None,
            })
            .ok()?;
        let holds = Self.ask(spawn, waits, bounds).is_ok_and(ended_well) && settled(waits, bounds);
        drop(ours);
        let _ = waitpid(Pid::from_raw(waits), None);
        holds.then_some(Self)
    }

    /// Asks for a scope for that process; the number of the process that asks, whose end is the answer.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(super) fn ask(&self, spawn: &mut spawn::Spawner, pid: i32, bounds: Bounds) -> Result<i32, spawn::SpawnError> {
        let words = [
            "busctl",
            "--system",
            "--quiet",
            "call",
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
        ];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words.extend([format!("{}{pid}.scope", cgroup::JOB_PREFIX), "fail".into(), "10".into()]);
        let property = |name: &str, kind: &str, value: String| [name.to_owned(), kind.to_owned(), value];
        words.extend(["PIDs".to_owned(), "au".to_owned(), "1".to_owned(), pid.to_string()]);
        for (name, kind, value) in [
            ("MemoryMax", "t", bounds.memory.to_string()),
            ("MemorySwapMax", "t", "0".to_owned()),
            ("TasksMax", "t", bounds.processes.to_string()),
            ("CPUWeight", "t", WEIGHT.to_string()),
            ("IOWeight", "t", WEIGHT.to_string()),
            ("KillSignal", "i", KILL_SIGNAL.to_string()),
            ("SendSIGHUP", "b", "false".to_owned()),
            ("CollectMode", "s", "inactive-or-failed".to_owned()),
            ("Description", "s", "a job of the runner".to_owned()),
        ] {
            words.extend(property(name, kind, value));
        }
        words.push("0".to_owned());
        let words: Vec<CString> = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
        spawn.spawn(&spawn::Plan {
            program: spawn::Program::Path(BUSCTL),
            arguments: &words,
            environment: &[],
            inherit: &[],
            directory: None,
            silent: true,
            own_session: true,
            dies_with_parent: true,
            confine: None,
            handover: None,
        })
    }
}

fn ended_well(asks: i32) -> bool {
    let end = Instant::now() + ANSWER_WITHIN;
    loop {
        match waitpid(Pid::from_raw(asks), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            Ok(WaitStatus::StillAlive) => {
                let _ = nix::sys::signal::kill(Pid::from_raw(asks), nix::sys::signal::Signal::SIGKILL);
            }
            Ok(status) => return matches!(status, WaitStatus::Exited(_, 0)),
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Whether the process comes to be in its scope, and the kernel has the bounds.
fn settled(pid: i32, bounds: Bounds) -> bool {
    let end = Instant::now() + DONE_WITHIN;
    while Instant::now() < end {
        if let Some(group) = cgroup::of_job(pid) {
            return group.number("memory.max") == Some(bounds.memory)
                && group.number("pids.max") == Some(bounds.processes);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// The mode `trial-wait`: lives until whoever has started it lets go.
pub fn wait() -> i32 {
    let Ok(mut socket) = runner_sandbox::inherited_socket() else { return 1 };
    let _: io::Result<usize> = io::Read::read(&mut socket, &mut [0]);
    0
}
