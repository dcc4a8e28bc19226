//! The control group that a job is in, version 2: what it uses of its bounds. Read only.

use std::path::{Path, PathBuf};

/// Where version 2 is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// What the names of jobs' groups begin with; then comes the first process's number.
pub const JOB_PREFIX: &str = "runner-job-";

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
}

/// The group that was made for the job whose first process that is; `None`: it is in none of its own.
pub fn of_job(pid: i32) -> Option<Group> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let below = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
    if !below.rsplit('/').next()?.starts_with(JOB_PREFIX) {
        return None;
    }
    let path =
        MOUNTS.iter().map(|mount| Path::new(mount).join(below)).find(|path| path.join("cgroup.procs").exists())?;
    Some(Group { path })
}

// === impl Group ===

impl Group {
    /// A file that holds one number; `None` where it is not there, or says `max`.
    pub fn number(&self, file: &str) -> Option<u64> {
        std::fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    /// A number of a file that holds one a line, each after its name.
    pub fn entry(&self, file: &str, name: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }
}
