//! The processes of a session, found in /proc: what a worker and all it started without leaving its session are.
//!
//! What it cannot find: a process that made a session of its own (`setsid`). Only a pid namespace or a cgroup catches that.

use crate::stat;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;

/// How often a kill looks again for what was forked meanwhile; each round has killed all that it saw.
const ROUNDS: usize = 16;

/// The live processes of the session that `leader` leads or led; zombies do not count.
pub fn members(leader: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| stat(*pid).is_some_and(|s| s.session == leader && !s.dead()))
        .collect()
}

/// Kills every process of the session with SIGKILL, and what they forked meanwhile; returns how many were seen in all.
pub fn kill(leader: i32) -> usize {
    // 0 and 1 would be the kernel's own and this machine's first
    if leader <= 1 {
        return 0;
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..ROUNDS {
        let fresh = members(leader).into_iter().filter(|pid| seen.insert(*pid)).collect::<Vec<_>>();
        if fresh.is_empty() {
            break;
        }
        for pid in fresh {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    seen.len()
}

/// Sends a signal once to each process of the session.
///
/// # Errors
/// ESRCH where there is none; EINVAL for a signal that there is not.
pub fn signal(leader: i32, signal: i32) -> Result<usize, Errno> {
    let signal = Signal::try_from(signal)?;
    if leader <= 1 {
        return Err(Errno::EINVAL);
    }
    if signal == Signal::SIGKILL {
        return match kill(leader) {
            0 => Err(Errno::ESRCH),
            n => Ok(n),
        };
    }
    let members = members(leader);
    for pid in &members {
        let _ = nix::sys::signal::kill(Pid::from_raw(*pid), signal);
    }
    if members.is_empty() { Err(Errno::ESRCH) } else { Ok(members.len()) }
}
