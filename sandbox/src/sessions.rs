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

/// The children of a process; zombies do not count. All processes are looked through.
pub fn children(parent: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|s| s.parent == parent && !s.dead()))
        .collect()
}

/// The same of a process of one thread, by the kernel's own list where it has one: it costs little however many processes there are, and may
/// lack one while another one ends.
pub fn listed_children(parent: i32) -> Vec<i32> {
    let Ok(list) = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")) else {
        return children(parent);
    };
    let listed = list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    listed.filter(|pid| stat(*pid).is_some_and(|s| s.parent == parent && !s.dead())).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn children_are_those_that_live() {
        // a shell of one thread, with a child; and one that has ended and is not reaped
        let script = "sleep 1000 >/dev/null 2>&1 & p=$!; true & read -r wait; kill $p";
        let mut shell = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().expect("starts");
        let parent = i32::try_from(shell.id()).expect("a pid");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while children(parent).len() != 1 || listed_children(parent) != children(parent) {
            assert!(std::time::Instant::now() < end, "{:?} {:?}", children(parent), listed_children(parent));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(shell.stdin.take());
        shell.wait().expect("ends");
        assert!(children(parent).is_empty() && listed_children(parent).is_empty());
    }
}
