//! What the jobs of a stack took of memory and disk: what to expect of its next one. It lies where no job can write. It is a guess: must never
//! refuse a job for its memory, which others give back: such a one waits for them, and where there are none it runs.

use super::durable;
use super::folder::{private, read};
use crate::config::memory_kib;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use std::io;
use std::path::{Path, PathBuf};

/// The folder, in the state directory.
const FOLDER: &str = "peaks";
/// So many jobs of a stack are remembered, the newest.
const KEPT: usize = 10;
/// The most that is read of a file, bytes.
const FILE_MAX: u64 = 4096;
const MIB: u64 = 1 << 20;

/// What a job took at its most, bytes; 0: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peaks {
    pub(super) memory: u64,
    pub(super) disk: u64,
}

/// What there is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Of the file system that jobs are on, bytes.
    pub(super) disk: u64,
    /// Of memory, bytes; none: it is not known.
    pub(super) memory: Option<u64>,
    /// Whether other jobs are at work.
    pub(super) others: bool,
}

// === impl Peaks ===

impl Peaks {
    /// The higher ones of both.
    pub(super) fn or(self, other: Self) -> Self {
        Self { memory: self.memory.max(other.memory), disk: self.disk.max(other.disk) }
    }
    /// Whether a job that takes as much may begin.
    ///
    /// # Errors
    /// `busy` where it has to wait for others, `disk_full`.
    pub(super) fn fit(self, room: Room) -> Result<(), Failure> {
        if self.disk > room.disk {
            let code = if room.others { Code::Busy } else { Code::DiskFull };
            let message = format!(
                "jobs of this stack have taken up to {} MiB of the runner's disk, and {} MiB are free",
                self.disk / MIB,
                room.disk / MIB
            );
            return Err(code.on(message));
        }
        match room.memory {
            Some(free) if room.others && self.memory > free => Err(Code::Busy.on(format!(
                "jobs of this stack have taken up to {} MiB of memory, and {} MiB are free beside those at work",
                self.memory / MIB,
                free / MIB
            ))),
            _ => Ok(()),
        }
    }
}

// === impl Room ===

impl Room {
    /// As it is.
    pub(super) fn now(state_dir: &Path, others: bool) -> Self {
        // what the kernel could give without swapping
        let memory = memory_kib("MemAvailable").map(|kib| kib * 1024);
        let free = |system: nix::sys::statvfs::Statvfs| system.blocks_available() * system.fragment_size();
        Self { disk: nix::sys::statvfs::statvfs(state_dir).map_or(u64::MAX, free), memory, others }
    }
}

/// What to expect of the stack's next job; nothing where nothing is known.
pub(super) fn of_stack(state_dir: &Path, stack_id: &str) -> Peaks {
    known(&file_of(state_dir, stack_id)).into_iter().fold(Peaks::default(), Peaks::or)
}

/// Remembers what a job took.
///
/// # Errors
/// The file system.
pub(super) fn remember(state_dir: &Path, stack_id: &str, peaks: Peaks) -> io::Result<()> {
    let path = file_of(state_dir, stack_id);
    let mut all = known(&path);
    all.push(peaks);
    let newest = all.len().saturating_sub(KEPT);
    private(&state_dir.join(FOLDER))?;
    durable::replace(&path, &serde_json::to_vec(&all[newest..])?)
}

fn file_of(state_dir: &Path, stack_id: &str) -> PathBuf {
    // ids are checked where a job is taken; what is none is nobody's
    let plain = stack_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let name = if plain && !stack_id.is_empty() { stack_id } else { "none" };
    state_dir.join(FOLDER).join(format!("{name}.json"))
}

/// A file that cannot be read tells nothing.
fn known(path: &Path) -> Vec<Peaks> {
    let text = read(path, FILE_MAX).ok().flatten().unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_jobs_are_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(of_stack(folder.path(), "stk_1"), Peaks::default());
        for n in [90, 30, 5] {
            remember(folder.path(), "stk_1", Peaks { memory: n, disk: 100 - n }).expect("writes");
        }
        assert_eq!(of_stack(folder.path(), "stk_1"), Peaks { memory: 90, disk: 95 });
        assert_eq!(of_stack(folder.path(), "stk_2"), Peaks::default());
        for _ in 0..KEPT {
            remember(folder.path(), "stk_1", Peaks { memory: 7, disk: 8 }).expect("writes");
        }
        assert_eq!(of_stack(folder.path(), "stk_1"), Peaks { memory: 7, disk: 8 });
        let path = file_of(folder.path(), "stk_1");
        assert!(std::fs::metadata(&path).expect("is there").len() < FILE_MAX);
        std::fs::write(&path, "nonsense").expect("writes");
        assert_eq!(of_stack(folder.path(), "stk_1"), Peaks::default());
        remember(folder.path(), "../../x", Peaks::default()).expect("writes");
        assert_eq!(file_of(folder.path(), "../../x"), folder.path().join("peaks/none.json"));
    }

    #[test]
    fn who_fits_who_waits_and_who_is_refused() {
        let (expected, mib) = (Peaks { memory: 100 * MIB, disk: 200 * MIB }, MIB);
        let code = |disk: u64, memory: Option<u64>, others: bool| {
            expected.fit(Room { disk: disk * mib, memory: memory.map(|n| n * mib), others }).err()
        };
        assert_eq!(code(200, Some(100), true), None);
        let full = code(199, Some(1000), false).expect("refused");
        assert_eq!(full.code, Code::DiskFull);
        assert!(full.message.contains("up to 200 MiB") && full.message.contains("199 MiB are free"), "{full}");
        assert_eq!(code(199, Some(1000), true).map(|failure| failure.code), Some(Code::Busy));
        let waits = code(200, Some(99), true).expect("waits");
        assert_eq!(waits.code, Code::Busy);
        assert!(waits.message.contains("up to 100 MiB") && waits.message.contains("99 MiB are free"), "{waits}");
        // nobody would give any back
        assert_eq!((code(200, Some(99), false), code(200, None, true)), (None, None));
        let now = Room::now(Path::new("/"), false);
        assert!(now.disk > 0 && now.memory.is_some_and(|free| free > 0));
    }
}
