//! The log as one thread has it: records are put into lines, lines are written, files follow one another.
//!
//! ```text
//!  push ─▶ pending lines ─ commit ─▶ the file (one write; all of them or none) ─ sync ─▶ the disk
//! ```
//! What cannot be written is cut off again, and the numbers go to the next ones: there is no gap that is nobody's.

use super::error::AuditError;
use super::files;
use super::key::{Key, PublicKey};
use super::line::{self, Digest, Parts, Point};
use super::own::{self, FileStart, KeyChange, Life, Removed, kind};
use super::record::fields;
use super::sink::Collector;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of the log is kept. The file that is written to is never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// At most so many files.
    pub files: Option<u64>,
    /// At most so many bytes.
    pub bytes: Option<u64>,
}

/// Whose log it is.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) runner: String,
    pub(super) instance: String,
    pub(super) version: String,
}

/// The log, held by whoever has this.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) folder: PathBuf,
    pub(super) whose: Whose,
    pub(super) key: Key,
    pub(super) file: File,
    /// Its number.
    pub(super) number: u64,
    /// Its length, bytes.
    pub(super) end: u64,
    /// Behind the end there may be part of what could not be written.
    pub(super) torn: bool,
    /// The last record that was written.
    pub(super) head: Point,
    /// The last one that was put into a line.
    pub(super) pending: Point,
    pub(super) buffer: Vec<u8>,
    /// Records since the last seal.
    pub(super) unsealed: u64,
    /// The last seal, with its line; `None`: there is none of this key in the file.
    pub(super) sealed: Option<(Point, String)>,
    /// The record by which the key before signed this one, where it is known; else empty.
    pub(super) key_line: String,
    pub(super) collector: Option<Collector>,
    /// Held as long as this lives.
    pub(super) _lock: File,
}

// === impl Keep ===

impl Default for Keep {
    fn default() -> Self {
        Self { files: Some(32), bytes: None }
    }
}

// === impl Log ===

impl Log {
    pub(super) const fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    pub(super) fn path(&self) -> PathBuf {
        files::path_of(&self.folder, self.number)
    }

    /// Puts a record into a line; it is written by [`Log::commit`]. The kinds that are signed are signed.
    pub(super) fn push(&mut self, kind: &str, fields: &[u8]) -> Point {
        let seq = self.pending.seq + 1;
        let parts = Parts { seq, time: line::now(), kind, fields, prev: &self.pending.hash };
        let (key, runner) = (&self.key, &self.whose.runner);
        let sign = kind::is_signed(kind.as_bytes()).then_some(|seq, digest: &Digest| key.sign(runner, seq, digest));
        let hash = line::build(&mut self.buffer, &parts, sign);
        self.pending = Point { seq, hash };
        self.pending
    }

    /// The one line that was put behind that place of the buffer, without its end.
    fn put_since(&self, start: usize) -> String {
        String::from_utf8_lossy(&self.buffer[start..]).trim_end().to_owned()
    }

    /// Writes what was put into lines: all of it, or nothing.
    pub(super) fn commit(&mut self) -> Result<(), AuditError> {
        let mended = if self.torn { self.mend() } else { Ok(()) };
        let written = mended.and_then(|()| {
            self.file.write_all(&self.buffer).inspect_err(|_| {
                self.torn = true;
                // now, or before the next one
                let _ = self.mend();
            })
        });
        if let Err(e) = written {
            self.forget();
            return Err(AuditError::Write(self.path(), Arc::new(e)));
        }
        self.end += self.buffer.len() as u64;
        self.unsealed += self.pending.seq - self.head.seq;
        self.head = self.pending;
        if let Some(collector) = &self.collector {
            collector.offer(&self.buffer);
        }
        self.buffer.clear();
        Ok(())
    }

    /// Puts nothing into lines that has not been written.
    fn forget(&mut self) {
        self.buffer.clear();
        self.pending = self.head;
    }

    fn mend(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.sync_data()?;
        self.torn = false;
        Ok(())
    }

    /// Waits until the disk has what was written.
    pub(super) fn sync(&self) -> Result<(), AuditError> {
        self.file.sync_data().map_err(|e| AuditError::Sync(self.path(), Arc::new(e)))
    }

    /// Writes a seal and waits for the disk.
    pub(super) fn seal(&mut self, reason: &str) -> Result<Point, AuditError> {
        let start = self.buffer.len();
        let sealed = self.push(kind::SEAL, &fields(&own::Seal { reason: reason.to_owned(), records: self.unsealed }));
        let line = self.put_since(start);
        self.commit()?;
        self.sealed = Some((sealed, line));
        self.unsealed = 0;
        self.sync()?;
        Ok(sealed)
    }

    /// Begins the next file. Where that fails, the log goes on in the one it has.
    pub(super) fn rotate(&mut self, reason: &str) -> Result<(), AuditError> {
        let number = self.number + 1;
        let path = files::path_of(&self.folder, number);
        let before = (std::mem::replace(&mut self.file, files::create(&path)?), self.number, self.end, self.torn);
        (self.number, self.end, self.torn) = (number, 0, false);
        let begun = self.begin(reason).and_then(|()| files::sync_folder(&self.folder));
        if begun.is_err() && self.end == 0 {
            // nothing has been written to it: as if it had not been made
            let _ = files::remove(&path);
            (self.file, self.number, self.end, self.torn) = before;
        }
        begun
    }

    /// Writes the first record of the file.
    pub(super) fn begin(&mut self, reason: &str) -> Result<(), AuditError> {
        let start = FileStart {
            format: own::FORMAT,
            file: self.number,
            reason: reason.to_owned(),
            runner: self.whose.runner.clone(),
            key: self.public_key().to_base64(),
            fingerprint: self.public_key().fingerprint(),
        };
        self.push(if self.head == Point::START { kind::KEY } else { kind::ROTATED }, &fields(&start));
        self.commit()?;
        self.unsealed = 0;
        self.sync()
    }

    /// Says who writes now, or does no more.
    pub(super) fn push_life(&mut self, kind: &str) {
        let life = Life { instance: self.whose.instance.clone(), version: self.whose.version.clone() };
        self.push(kind, &fields(&life));
    }

    /// What somebody did to the file while it was written to; its end is then where it really is.
    pub(super) fn changed_by_others(&mut self) -> Option<&'static str> {
        let ours = self.file.metadata().ok()?;
        let there = std::fs::metadata(self.path());
        if !there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Some("the file was removed or replaced while it was written to");
        }
        let length = ours.len();
        if self.torn || length == self.end {
            return None;
        }
        let what = if length < self.end { "the file was cut off" } else { "something was appended to the file" };
        self.end = length;
        Some(what)
    }

    /// Changes the key: the old one signs the new one, and the new one what comes after.
    pub(super) fn change_key(&mut self) -> Result<PublicKey, AuditError> {
        let (new, path) = (self.folder.join("key.new"), self.folder.join("key"));
        // 1. the new key, whole on disk and not in use
        let key = Key::make(&new)?;
        // 2. the old one's word for it, on disk: from here on the new one is the key, also after a crash
        let change = KeyChange {
            key: key.public().to_base64(),
            fingerprint: key.public().fingerprint(),
            before: self.public_key().fingerprint(),
        };
        let start = self.buffer.len();
        self.push(kind::KEY, &fields(&change));
        let line = self.put_since(start);
        if let Err(e) = self.commit() {
            let _ = files::remove(&new);
            return Err(e);
        }
        (self.key, self.key_line, self.sealed) = (key, line, None);
        let synced = self.sync();
        // 3. its place, whatever the disk said: it signs from now on
        std::fs::rename(&new, &path).map_err(AuditError::file(&path))?;
        files::sync_folder(&self.folder)?;
        synced.map(|()| self.public_key())
    }

    /// Removes the oldest files above what is kept, after the log says so.
    pub(super) fn retain(&mut self, keep: Keep) -> Result<(), AuditError> {
        let numbers = files::list(&self.folder)?;
        let old: Vec<u64> = numbers.into_iter().filter(|n| *n < self.number).collect();
        let mut sizes = Vec::new();
        for number in &old {
            let path = files::path_of(&self.folder, *number);
            sizes.push(std::fs::metadata(&path).map_err(AuditError::file(&path))?.len());
        }
        let (mut count, mut total) = (old.len() as u64 + 1, sizes.iter().sum::<u64>() + self.end);
        let mut gone = 0;
        for size in &sizes {
            if keep.files.is_none_or(|most| count <= most) && keep.bytes.is_none_or(|most| total <= most) {
                break;
            }
            (gone, count, total) = (gone + 1, count - 1, total - size);
        }
        let (Some(first), Some(last)) = (old.first(), old[..gone].last()) else { return Ok(()) };
        let next = old.get(gone).copied().unwrap_or(self.number);
        let end = before(&files::path_of(&self.folder, next))?;
        let bytes = sizes[..gone].iter().sum();
        let removed = Removed { first: *first, last: *last, bytes, last_seq: end.seq, last_hash: end.hash };
        self.push(kind::REMOVED, &fields(&removed));
        self.commit()?;
        self.unsealed = 0;
        // before anything is gone
        self.sync()?;
        for number in &old[..gone] {
            files::remove(&files::path_of(&self.folder, *number))?;
        }
        for torn in files::torn(&self.folder, false)?.iter().filter(|torn| torn.file <= *last) {
            files::remove(&self.folder.join(&torn.name))?;
        }
        files::sync_folder(&self.folder)
    }
}

/// The last record before a file, by its first line.
fn before(path: &Path) -> Result<Point, AuditError> {
    let fail = |what: &str| AuditError::file(path)(io::Error::other(what.to_owned()));
    let file = File::open(path).map_err(AuditError::file(path))?;
    let mut lines = files::Lines::new(io::BufReader::new(file), 0);
    let first = lines.next().map_err(AuditError::file(path))?.ok_or_else(|| fail("it is empty"))?;
    let first = line::parse(first.bytes).map_err(fail)?;
    Ok(Point { seq: first.seq.saturating_sub(1), hash: first.prev })
}
