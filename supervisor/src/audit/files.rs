//! The files of a log, and the few ways in which their folder is changed.
//!
//! ```text
//! STATE/audit/          0700
//!   audit-000001.jsonl  the records; the number of a file never comes again
//!   key                 the sealing key, 0600; key.new while it is changed
//!   lock                held by who writes
//!   untold              how many records are missing of which the log does not say so yet
//!   torn-000001-4711-…  what was cut off that file at that byte, with the start of its SHA-256; ".new" until the log says so
//! ```

use super::error::AuditError;
use super::line::{Digest, LINE_MAX};
use sha2::{Digest as _, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// How many torn ends are kept; the oldest go first.
const TORN_MAX: usize = 64;

/// Reads lines with where they stand, in bounded memory.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    offset: u64,
    number: u64,
}

/// What stands between two ends of lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    /// Where it starts, bytes.
    pub(super) offset: u64,
    /// Which line of the file it is; the first is 1.
    pub(super) number: u64,
    /// Without its end; of a line above [`LINE_MAX`] its first bytes.
    pub(super) bytes: &'a [u8],
    /// It has an end.
    pub(super) whole: bool,
    /// A line above [`LINE_MAX`] held a zero byte, which no record does.
    pub(super) has_zero: bool,
}

// === impl Lines ===

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(reader: R, offset: u64) -> Self {
        Self { reader, buffer: Vec::new(), offset, number: 0 }
    }

    /// Where the next line starts, bytes.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line; nothing at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Raw<'_>>> {
        self.buffer.clear();
        let limit = LINE_MAX as u64;
        let mut length = (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer)? as u64;
        if length == 0 {
            return Ok(None);
        }
        let mut whole = self.buffer.last() == Some(&b'\n');
        let mut has_zero = false;
        if whole {
            self.buffer.pop();
        } else if length == limit {
            (whole, has_zero) = self.pass(&mut length)?;
        }
        let (offset, number) = (self.offset, self.number + 1);
        (self.offset, self.number) = (offset + length, number);
        Ok(Some(Raw { offset, number, bytes: &self.buffer, whole, has_zero }))
    }

    /// Passes over the rest of a line that is too long.
    fn pass(&mut self, length: &mut u64) -> io::Result<(bool, bool)> {
        let mut has_zero = self.buffer.contains(&0);
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Ok((false, has_zero));
            }
            let end = available.iter().position(|b| *b == b'\n');
            let used = end.map_or(available.len(), |end| end + 1);
            has_zero |= available[..used].contains(&0);
            self.reader.consume(used);
            *length += used as u64;
            if end.is_some() {
                return Ok((true, has_zero));
            }
        }
    }
}

// === names ===

/// The name of the file of that number.
pub(super) fn name(number: u64) -> String {
    format!("audit-{number:06}.jsonl")
}

/// The number of a file by its name.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let number = digits.parse().ok()?;
    (number > 0 && name(number) == format!("audit-{digits}.jsonl")).then_some(number)
}

/// An end that was cut off a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Torn {
    /// Off which file, and at which byte.
    pub(super) file: u64,
    pub(super) offset: u64,
    /// The name that it is kept by: one torn end does not take the place of another.
    pub(super) name: String,
}

/// The files of the log in a folder, by number, oldest first.
pub(super) fn list(folder: &Path) -> Result<Vec<u64>, AuditError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder).map_err(AuditError::file(folder))? {
        let entry = entry.map_err(AuditError::file(folder))?;
        numbers.extend(number_of(Path::new(&entry.file_name())));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The same for whoever only reads: where there is no such folder there is no log.
pub(super) fn list_of_log(folder: &Path) -> Result<Vec<u64>, AuditError> {
    match list(folder) {
        Err(AuditError::File(_, e)) if e.kind() == io::ErrorKind::NotFound => Err(AuditError::NoLog(folder.to_owned())),
        listed => listed,
    }
}

/// The torn ends in a folder, oldest first; those that the log does not tell of yet, or the others.
pub(super) fn torn(folder: &Path, new: bool) -> Result<Vec<Torn>, AuditError> {
    let mut torn = Vec::new();
    for entry in fs::read_dir(folder).map_err(AuditError::file(folder))? {
        let entry = entry.map_err(AuditError::file(folder))?.file_name();
        let Some(name) = entry.to_str() else { continue };
        let is_new = name.ends_with(".new");
        let name = name.strip_suffix(".new").unwrap_or(name);
        let mut parts = name.strip_prefix("torn-").into_iter().flat_map(|n| n.splitn(3, '-'));
        if is_new == new
            && let (Some(file), Some(offset), Some(_)) = (parts.next(), parts.next(), parts.next())
            && let (Ok(file), Ok(offset)) = (file.parse(), offset.parse())
        {
            torn.push(Torn { file, offset, name: name.to_owned() });
        }
    }
    torn.sort_unstable();
    Ok(torn)
}

// === changes ===

/// Makes the folder where it is missing, for this user alone.
pub(super) fn make_folder(path: &Path) -> Result<(), AuditError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(AuditError::file(path))?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        sync_folder(parent)?;
    }
    Ok(())
}

/// Takes the lock of a log: who has it writes.
pub(super) fn lock(folder: &Path) -> Result<File, AuditError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(AuditError::file(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AuditError::Held(folder.to_owned())),
        Err(TryLockError::Error(e)) => Err(AuditError::file(&path)(e)),
    }
}

/// Makes a file of the log that must not be there yet.
pub(super) fn create(path: &Path) -> Result<File, AuditError> {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true).mode(0o600).open(path).map_err(AuditError::file(path))
}

/// Opens a file of the log to append to it.
pub(super) fn append_to(path: &Path) -> Result<File, AuditError> {
    OpenOptions::new().append(true).open(path).map_err(AuditError::file(path))
}

/// Waits for the names in a folder.
pub(super) fn sync_folder(path: &Path) -> Result<(), AuditError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(AuditError::file(path))
}

/// Writes a file that is there as a whole or not at all, for this user alone.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<(), AuditError> {
    let partial = path.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let mut options = OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut f| f.write_all(content).and_then(|()| f.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if let Err(e) = written {
        let _ = fs::remove_file(&partial);
        return Err(AuditError::file(path)(e));
    }
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Keeps what stands behind that byte of a file aside, and cuts it off. Only when the copy is on disk is anything cut.
pub(super) fn cut(folder: &Path, number: u64, offset: u64) -> Result<(), AuditError> {
    let path = path_of(folder, number);
    let mut from = OpenOptions::new().read(true).write(true).open(&path).map_err(AuditError::file(&path))?;
    let (_, sha256) = digest(&path, offset)?;
    let aside = folder.join(format!("torn-{number:06}-{offset}-{}.new", &sha256.as_str()[..8]));
    // 1. the copy, and its name
    let mut options = OpenOptions::new();
    let copied = options.write(true).create(true).truncate(true).mode(0o600).open(&aside).and_then(|mut to| {
        from.seek(SeekFrom::Start(offset))?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    });
    copied.map_err(AuditError::file(&aside))?;
    sync_folder(folder)?;
    // 2. the file: before anything takes its place
    from.set_len(offset).and_then(|()| from.sync_all()).map_err(AuditError::file(&path))
}

/// How long a file is behind that byte, and the SHA-256 of that.
pub(super) fn digest(path: &Path, offset: u64) -> Result<(u64, Digest), AuditError> {
    let mut hash = Sha256::new();
    let mut read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        io::copy(&mut file, &mut hash)
    };
    let length = read().map_err(AuditError::file(path))?;
    Ok((length, Digest::from_bytes(&hash.finalize().into())))
}

/// Removes the oldest torn ends above [`TORN_MAX`].
pub(super) fn prune_torn(folder: &Path) -> Result<(), AuditError> {
    let torn = torn(folder, false)?;
    for old in torn.iter().take(torn.len().saturating_sub(TORN_MAX)) {
        remove(&folder.join(&old.name))?;
    }
    Ok(())
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), AuditError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(AuditError::file(path)(e)),
        _ => Ok(()),
    }
}

/// A file's name for people.
pub(super) fn shown(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// The path of a file by its number.
pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(name(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        for (name, number) in [
            ("audit-000001.jsonl", Some(1)),
            ("audit-999999.jsonl", Some(999_999)),
            ("audit-1000000.jsonl", Some(1_000_000)),
            ("audit-000000.jsonl", None),
            ("audit-1.jsonl", None),
            ("audit-0000001.jsonl", None),
            ("audit-+00001.jsonl", None),
            ("audit-000001.jsonl.gz", None),
            ("lock", None),
        ] {
            assert_eq!(number_of(Path::new(name)), number, "{name}");
        }
    }

    #[test]
    fn lines_are_bounded_on_both_sides_of_the_limit() {
        for (length, kept) in [(0, 0), (LINE_MAX - 1, LINE_MAX - 1), (LINE_MAX, LINE_MAX), (3 * LINE_MAX + 7, LINE_MAX)]
        {
            let mut bytes = vec![b'x'; length];
            bytes.extend_from_slice(b"\nnext\nrest");
            let mut lines = Lines::new(io::BufReader::with_capacity(100, &bytes[..]), 0);
            let first = lines.next().expect("reads").expect("a line");
            assert_eq!((first.offset, first.number, first.whole, first.bytes.len()), (0, 1, true, kept), "{length}");
            let second = lines.next().expect("reads").expect("a line");
            assert_eq!((second.offset, second.bytes, second.whole), (length as u64 + 1, &b"next"[..], true));
            let third = lines.next().expect("reads").expect("a line");
            assert_eq!((third.bytes, third.whole, third.number), (&b"rest"[..], false, 3));
            assert!(lines.next().expect("reads").is_none());
            assert_eq!(lines.offset(), bytes.len() as u64);
        }
        let mut zeros = vec![0; 2 * LINE_MAX];
        zeros.push(b'\n');
        let mut lines = Lines::new(&zeros[..], 0);
        let line = lines.next().expect("reads").expect("a line");
        assert!(line.whole && line.has_zero);
    }
}
