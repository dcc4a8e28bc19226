//! The folder of recordings: a file each, named by when it was begun and for which operation.
//!
//! ```text
//! 20260301T091502123Z-op_1.part   is being written, and locked by whoever does
//! 20260301T091502123Z-op_1.rec    has ended, and the log has its digest
//! ```
//! A `.part` that nobody has locked is of a process that was killed.

use super::error::AuditError;
use super::files;
use super::line::{self, Digest};
use super::recording::{Header, Recipient, Recorder, RecordingError};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder's name in the log's.
const FOLDER: &str = "recordings";
const BEGUN: &str = "part";
const ENDED: &str = "rec";

/// The folder.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

/// A recording that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelved {
    /// Its file's name once it has ended: what the log knows it by.
    pub name: String,
    /// The operation that it is of.
    pub operation: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
    /// It has ended.
    pub has_ended: bool,
}

// === impl Shelf ===

impl Shelf {
    /// Of the log in that folder. Makes nothing.
    pub fn of(log: &Path) -> Self {
        Self { folder: log.join(FOLDER) }
    }

    /// Begins a recording of that operation, of at most `max` bytes.
    ///
    /// # Errors
    /// The file cannot be made; the recipient's key is a bad one.
    pub fn begin(&self, operation: &str, to: Recipient, header: &Header, max: u64) -> Result<Recorder, RecordingError> {
        files::make_folder(&self.folder).map_err(|e| match e {
            AuditError::File(path, e) => RecordingError::File(path, e),
            e => RecordingError::Io(Arc::new(io::Error::other(e.to_string()))),
        })?;
        let mut time = line::show(&line::now());
        time.retain(|c| c.is_ascii_alphanumeric());
        let path = self.folder.join(format!("{time}-{operation}.{BEGUN}"));
        Recorder::create(&path, to, header, max).inspect_err(|e| {
            // one that was there is another one's
            if !matches!(e, RecordingError::File(_, e) if e.kind() == ErrorKind::AlreadyExists) {
                let _ = files::remove(&path);
            }
        })
    }

    /// Gives a recording that has ended its name.
    ///
    /// # Errors
    /// The system's.
    pub fn end(&self, of: &Shelved) -> io::Result<()> {
        std::fs::rename(&of.path, self.folder.join(&of.name))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Its recordings, the oldest first. None where there is no folder.
    ///
    /// # Errors
    /// The system's.
    pub fn list(&self) -> io::Result<Vec<Shelved>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(mut shelved) = Shelved::at(entry.path()) else { continue };
            match entry.metadata() {
                Ok(about) if about.is_file() => shelved.bytes = about.len(),
                // removed meanwhile, or none of ours
                _ => continue,
            }
            found.push(shelved);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Those that were being written when their process was killed.
    ///
    /// # Errors
    /// The system's.
    pub fn left_behind(&self) -> io::Result<Vec<Shelved>> {
        let mut found = self.list()?;
        found.retain(|one| !one.has_ended);
        let mut left = Vec::new();
        for one in found {
            match File::open(&one.path).and_then(|file| file.try_lock().map_err(is_held)) {
                Ok(()) => left.push(one),
                // of the process before, which goes on with it; or it ended meanwhile
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(left)
    }

    /// Removes the oldest of those that have ended until all together have at most `most` bytes; `told` is called before each.
    ///
    /// # Errors
    /// The system's.
    pub fn prune(&self, most: u64, mut told: impl FnMut(&Shelved)) -> io::Result<()> {
        let all = self.list()?;
        let mut total: u64 = all.iter().map(|one| one.bytes).sum();
        for one in all.iter().filter(|one| one.has_ended) {
            if total <= most {
                break;
            }
            told(one);
            match std::fs::remove_file(&one.path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => total -= one.bytes,
            }
        }
        Ok(())
    }
}

fn is_held(e: TryLockError) -> io::Error {
    e.into()
}

// === impl Shelved ===

impl Shelved {
    /// By its path; nothing where it has not the name of one.
    pub fn at(path: PathBuf) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        let has_ended = match extension {
            ENDED => true,
            BEGUN => false,
            _ => return None,
        };
        let stem = path.file_stem()?.to_str()?;
        let (_, operation) = stem.split_once('-')?;
        let (name, operation) = (format!("{stem}.{ENDED}"), operation.to_owned());
        Some(Self { name, operation, path, bytes: 0, has_ended })
    }

    /// SHA-256 of the file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn digest(&self) -> Result<Digest, AuditError> {
        files::digest(&self.path, 0).map(|(_, digest)| digest)
    }
}
