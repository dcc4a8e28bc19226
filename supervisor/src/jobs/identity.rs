//! Which process a number means: a process id is used again, so a start time, the boot, the container's life and, where the kernel has one,
//! a number that is never used again go with it. What is known of a step is its first process; the worker is the oldest of that one's
//! children.

use crate::container;
use runner_sandbox::{PidFd, Stat, stat};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One process of one boot of this machine, and of one life of the container that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessIdentity {
    pub(super) pid: i32,
    /// Clock ticks after boot.
    pub(super) start_time: u64,
    pub(super) boot_id: String,
    /// That of its pidfd, which no other process of this boot has; older kernels give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unique: Option<u64>,
    /// Where the runner is a container's first process: processes of another life are gone, and their numbers are others'.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) container: String,
}

// === impl ProcessIdentity ===

impl ProcessIdentity {
    /// Of a process that is there now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let process = PidFd::open(pid).ok()?;
        // what is seen from here on holds for the pidfd's process, or that one has ended
        let (stat, unique) = (stat(pid)?, process.unique());
        let container = container::life().to_owned();
        Some(Self { pid, start_time: stat.start_time, boot_id: boot_id(), unique, container })
    }
    /// Whether that very process lives; a zombie does not.
    pub(super) fn alive(&self) -> bool {
        self.of_this_boot()
            && self.is_held()
            && stat(self.pid).is_some_and(|s| s.start_time == self.start_time && !s.dead())
    }
    /// Whether the number is still that process's, by the number that is not used again; true where there is none.
    fn is_held(&self) -> bool {
        self.unique.is_none_or(|unique| PidFd::open(self.pid).is_ok_and(|now| now.unique() == Some(unique)))
    }
    /// A hold on it, as long as it lives: it tells how it ended, where the kernel tells that of what others reap.
    pub(super) fn hold(&self) -> Option<PidFd> {
        let process = PidFd::open(self.pid).ok()?;
        self.alive().then_some(process)
    }
    /// Whether neither the machine nor the container was started anew since.
    pub(super) fn of_this_boot(&self) -> bool {
        self.boot_id == boot_id() && self.container == container::life()
    }
    /// Whether it is stopped (SIGSTOP, a debugger).
    pub(super) fn stopped(&self) -> bool {
        self.of_this_boot() && stat(self.pid).is_some_and(|s| s.start_time == self.start_time && is_stopped(&s))
    }
    /// Whether its worker is, or it itself.
    pub(super) fn works_not(&self) -> bool {
        self.stopped() || self.worker().and_then(stat).is_some_and(|s| is_stopped(&s))
    }
    /// The worker: what it started first, while that lives. What an engine leaves becomes its child too, but later, and an engine leads a group.
    pub(super) fn worker(&self) -> Option<i32> {
        if !self.alive() {
            return None;
        }
        let children =
            runner_sandbox::sessions::listed_children(self.pid).into_iter().filter_map(|pid| Some((pid, stat(pid)?)));
        // whoever left its session, or leads a group, is an engine or what one has left
        let workers = children.filter(|(_, s)| s.session == self.pid && s.group == self.pid);
        workers.min_by_key(|(pid, s)| (s.start_time, *pid)).map(|(pid, _)| pid)
    }
    /// Whether nothing of the session that it led runs any more. One that may be a stranger's by now may be its own.
    pub(super) fn is_over(&self) -> bool {
        !self.of_this_boot() || (!self.alive() && runner_sandbox::sessions::members(self.pid).is_empty())
    }
    /// Whether its number may still name its session: it was of this boot and life, and nobody else has the number.
    fn number_is_its_own(&self) -> bool {
        self.of_this_boot() && stat(self.pid).is_none_or(|s| s.start_time == self.start_time)
    }
    /// What lives of the session that it led, where that is surely this job's: at least one of them works in the job's folder.
    pub(super) fn session(&self, folder: &Path) -> Vec<i32> {
        if !self.number_is_its_own() {
            return Vec::new();
        }
        let members = runner_sandbox::sessions::members(self.pid);
        let ours = members.contains(&self.pid) || members.iter().any(|pid| works_in(*pid, folder));
        if ours { members } else { Vec::new() }
    }
    /// Those of its session that lead a process group of their own: the engines. What they started is theirs to tell. For where it is dead.
    pub(super) fn engines(&self, folder: &Path) -> Vec<i32> {
        let members = self.session(folder).into_iter().filter(|pid| *pid != self.pid);
        members.filter(|pid| stat(*pid).is_some_and(|s| s.group == *pid && s.session == self.pid)).collect()
    }
}

const fn is_stopped(stat: &Stat) -> bool {
    matches!(stat.state, b'T' | b't')
}

fn works_in(pid: i32, folder: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd: PathBuf| cwd.starts_with(folder))
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_start_time_or_boot_does_not() {
        let own = ProcessIdentity::of(i32::try_from(std::process::id()).expect("a pid")).expect("is there");
        assert!(own.alive() && !own.stopped() && own.hold().is_some() && !own.is_over());
        if let Some(unique) = own.unique {
            // the same number, start and boot: another process all the same
            let other = ProcessIdentity { unique: Some(unique + 1), ..own.clone() };
            assert!(!other.alive() && other.hold().is_none());
        }
        let older: ProcessIdentity =
            serde_json::from_str(&serde_json::to_string(&own).expect("JSON").replace("unique", "other"))
                .expect("reads");
        assert!(older.unique.is_none() && older.alive());
        let mut later = own.clone();
        later.start_time += 1;
        assert!(!later.alive() && later.session(Path::new("/")).is_empty());
        let mut before = own.clone();
        before.boot_id = "another".into();
        assert!(!before.alive() && before.session(Path::new("/")).is_empty() && before.is_over());
        // the same number and start time on the same boot, as a container's next life may have them
        let mut before = own;
        before.container = "another life".into();
        assert!(!before.alive() && !before.stopped() && !before.of_this_boot());
        assert!(before.session(Path::new("/")).is_empty() && before.engines(Path::new("/")).is_empty());
    }
}
