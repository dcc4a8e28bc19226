//! What a job takes of the disk: measured from outside while it runs, in its own folder and in its stack's state, because no bound of the
//! kernel's is to be had for a folder. What is written between two looks, and what was deleted and is still open, it does not see; for that
//! there is the reserve.
//!
//! The job may do there what it likes meanwhile: nothing is followed, each look ends at the bounds, and what cannot be looked at counts as
//! beyond them.

use super::bounds::Hit;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Of its bounds, in hundredths: from here on a job is asked to end, while its engine can still write its state.
const SOFT: u64 = 85;
const MIB: u64 = 1 << 20;
/// Between two looks, and how many times as long as a look took at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const REST: u32 = 20;
/// Folders within folders.
const DEPTH_MAX: usize = 128;
/// What is to stay free of the file system: this, or a twentieth of it where that is less.
const RESERVE: u64 = 1 << 30;

/// The bounds of one job; `u64::MAX`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// Bytes in blocks.
    pub bytes: u64,
    /// Files and folders.
    pub files: u64,
}

/// One job's use.
#[derive(Debug)]
pub(super) struct Disk {
    folders: [PathBuf; 2],
    limits: DiskLimits,
    looking: Option<oneshot::Receiver<Use>>,
    due: Instant,
    asked: bool,
    peak: u64,
}

/// What one look has found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Use {
    bytes: u64,
    files: u64,
    /// What cannot be looked at, and why.
    hidden: Option<String>,
    /// What is free, where that is less than the reserve.
    scarce: Option<u64>,
    took: Duration,
}

// === impl Disk ===

impl Disk {
    pub(super) fn new(folders: [PathBuf; 2], limits: DiskLimits) -> Self {
        Self { folders, limits, looking: None, due: Instant::now(), asked: false, peak: 0 }
    }

    /// What it took at its most, bytes, of what was found; 0: nobody has looked.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    /// What the newest look has found, once; begins the next one when that is due.
    pub(super) fn look(&mut self) -> Option<Hit> {
        if self.limits == DiskLimits::NONE {
            return None;
        }
        if let Some(looking) = &mut self.looking {
            let found = match looking.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return None,
                found => found.unwrap_or_default(),
            };
            self.looking = None;
            self.due = Instant::now() + LOOK_EVERY.max(found.took * REST);
            return self.judge(&found);
        }
        if self.due <= Instant::now() {
            let (tell, found) = oneshot::channel();
            self.looking = Some(found);
            let (folders, limits) = (self.folders.clone(), self.limits);
            tokio::task::spawn_blocking(move || tell.send(Use::of(&folders, limits)));
        }
        None
    }

    fn judge(&mut self, found: &Use) -> Option<Hit> {
        self.peak = self.peak.max(found.bytes);
        let DiskLimits { bytes, files } = self.limits;
        let said = |over: &str| {
            let used = format!("it has {} MiB in {} files on the disk", found.bytes / MIB, found.files);
            format!("{used}, {over}")
        };
        let most = match (bytes, files) {
            (u64::MAX, files) => format!("of {files} files at most"),
            (bytes, u64::MAX) => format!("of {} MiB at most", bytes / MIB),
            (bytes, files) => format!("of {} MiB and {files} files at most", bytes / MIB),
        };
        let hit = |what: String, ends: bool| Some(Hit { what, asks: !ends, ends, memory: false, disk: true });
        if let Some(hidden) = &found.hidden {
            return hit(said(&format!("{most}, and what cannot be looked at: {hidden}")), true);
        }
        if found.bytes > bytes || found.files > files {
            return hit(said(&most), true);
        }
        if self.asked {
            return None;
        }
        let near = found.bytes > bytes / 100 * SOFT || found.files > files / 100 * SOFT;
        if let Some(free) = found.scarce.filter(|_| !near && found.bytes >= RESERVE) {
            self.asked = true;
            return hit(said(&format!("and no more than {} MiB are free for all", free / MIB)), false);
        }
        self.asked = near;
        if near { hit(said(&most), false) } else { None }
    }
}

// === impl DiskLimits ===

impl DiskLimits {
    /// No bounds.
    pub const NONE: Self = Self { bytes: u64::MAX, files: u64::MAX };
}

// === impl Use ===

impl Use {
    /// Of those folders; no more of them than there may be.
    fn of(folders: &[PathBuf], limits: DiskLimits) -> Self {
        let start = Instant::now();
        let mut found = Self::default();
        for folder in folders {
            found.add(folder, limits);
        }
        found.scarce = folders.first().and_then(|folder| scarce(folder));
        found.took = start.elapsed();
        found
    }

    fn add(&mut self, folder: &Path, limits: DiskLimits) {
        let mut due = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = due.pop() {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                // gone, or another thing by now
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(e) => return self.hide(&folder, &e.to_string()),
            };
            for entry in entries.flatten() {
                let Ok(known) = entry.metadata() else { continue };
                self.files += 1;
                // one with several names is counted once in all
                self.bytes +=
                    known.blocks() * 512 / known.nlink().max(1).min(if known.is_dir() { 1 } else { u64::MAX });
                if self.bytes > limits.bytes || self.files > limits.files {
                    return;
                }
                if known.is_dir() && depth == DEPTH_MAX {
                    return self.hide(&folder, "it is too deep");
                }
                if known.is_dir() {
                    due.push((entry.path(), depth + 1));
                }
            }
        }
    }

    fn hide(&mut self, folder: &Path, why: &str) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        self.hidden = Some(format!("a folder {:?}: {why}", name.chars().take(64).collect::<String>()));
    }
}

/// What is free there, bytes, where that is less than is to stay so.
fn scarce(folder: &Path) -> Option<u64> {
    let system = nix::sys::statvfs::statvfs(folder).ok()?;
    let block = system.fragment_size();
    let free = system.blocks_available() * block;
    (free < RESERVE.min(system.blocks() * block / 20)).then_some(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 64 * 1024;

    fn folder_of(files: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("deep")).expect("makes");
        for n in 0..files {
            std::fs::write(folder.path().join(format!("deep/{n}")), vec![7; FILE as usize]).expect("writes");
        }
        folder
    }
    fn judged(folder: &Path, limits: DiskLimits) -> Option<(bool, bool)> {
        let folders = [folder.to_owned(), folder.join("is not there")];
        let mut disk = Disk::new(folders.clone(), limits);
        let found = Use { scarce: None, ..Use::of(&folders, limits) };
        disk.judge(&found).map(|hit| (hit.asks, hit.ends))
    }

    #[test]
    fn both_sides_of_each_bound() {
        let folder = folder_of(10);
        let all = Use::of(&[folder.path().to_owned()], DiskLimits::NONE);
        assert_eq!(all.files, 11);
        assert!(all.bytes >= 10 * FILE, "{all:?}");
        let (asked, ended) = (Some((true, false)), Some((false, true)));
        for (bytes, files, expected) in [
            (all.bytes * 2, u64::MAX, None),
            (all.bytes, u64::MAX, asked),
            (all.bytes - 1, u64::MAX, ended),
            (u64::MAX, 110, None),
            (u64::MAX, 11, asked),
            (u64::MAX, 10, ended),
        ] {
            assert_eq!(judged(folder.path(), DiskLimits { bytes, files }), expected, "{bytes} {files}");
        }
    }

    #[test]
    fn sparse_files_take_nothing_links_are_not_followed_and_two_names_are_one_file() {
        let folder = folder_of(1);
        let before = Use::of(&[folder.path().to_owned()], DiskLimits::NONE);
        let sparse = std::fs::File::create(folder.path().join("sparse")).expect("makes");
        sparse.set_len(1 << 40).expect("grows");
        std::os::unix::fs::symlink("/", folder.path().join("out")).expect("links");
        std::fs::hard_link(folder.path().join("deep/0"), folder.path().join("again")).expect("links");
        let after = Use::of(&[folder.path().to_owned()], DiskLimits::NONE);
        assert_eq!((after.files, after.bytes), (before.files + 3, before.bytes));
    }

    #[test]
    fn what_is_too_deep_to_be_looked_at_is_beyond() {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = DiskLimits { bytes: 1 << 40, files: 1 << 20 };
        let deep = |levels: usize| (0..levels).fold(folder.path().to_owned(), |path, _| path.join("d"));
        std::fs::create_dir_all(deep(DEPTH_MAX)).expect("makes");
        assert_eq!(judged(folder.path(), limits), None);
        std::fs::create_dir(deep(DEPTH_MAX + 1)).expect("makes");
        assert_eq!(judged(folder.path(), limits), Some((false, true)));
    }
}
