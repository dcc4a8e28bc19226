//! Unpacks a tar.gz by hand, and checks what it is first. What is refused is named, and the limits stop a bomb while it is still small.

use super::unpacked::{Entry, LIMITS, Limits, Target};
use super::{Places, zipped};
use crate::cancel::Watcher;
use crate::stop::{Stop, io_failure};
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::ArchiveSource;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tar::EntryType;

/// Bytes between two entries' contents: headers, long names, extensions, padding. A longer header is a bomb.
const HEADERS_MAX: u64 = 1024 * 1024;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packed {
    /// As tar.gz.
    TarGz,
    /// As zip.
    Zip,
}

/// Checks the archive that the supervisor fetched against its hash and unpacks it.
///
/// # Errors
/// `source_refused` naming the entry; `source_unavailable` where the archive is not there; `disk_full`; cancelled.
pub(super) async fn fetch(wanted: &ArchiveSource, places: &Places<'_>, cancel: &mut Watcher) -> Result<(), Stop> {
    unpack_file(places.archive, wanted, Packed::TarGz, places.source, cancel).await
}

/// Checks an archive against its hash and unpacks it.
///
/// # Errors
/// As of [`fetch`].
pub(super) async fn unpack_file(
    archive: &Path,
    wanted: &ArchiveSource,
    packed: Packed,
    target: &Path,
    cancel: &mut Watcher,
) -> Result<(), Stop> {
    let stop = Arc::new(AtomicBool::new(false));
    let (wanted, archive, target) = (wanted.clone(), archive.to_owned(), target.to_owned());
    let flag = Arc::clone(&stop);
    let mut work = tokio::task::spawn_blocking(move || {
        let file = checked(&archive, &wanted, &flag)?;
        match packed {
            Packed::TarGz => unpack(file, &target, LIMITS, &flag),
            Packed::Zip => zipped::unpack(file, &target, LIMITS, &flag),
        }
    });
    let done = tokio::select! {
        done = &mut work => done,
        _ = cancel.asked() => {
            stop.store(true, Ordering::Relaxed);
            let _ = work.await;
            return Err(Stop::Canceled { forced: false, exit: None });
        }
    };
    Ok(done.unwrap_or_else(|_| Err(Code::Internal.on("unpacking the archive panicked")))?)
}

/// Opens the archive and checks size and hash; the very file that was checked is given back.
fn checked(path: &Path, wanted: &ArchiveSource, stop: &AtomicBool) -> Result<File, Failure> {
    let unavailable = |e: &io::Error| io_failure(Code::SourceUnavailable, "the archive", e);
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| unavailable(&e))?;
    let found = file.metadata().map_err(|e| unavailable(&e))?;
    if !found.is_file() {
        return Err(Code::SourceRefused.on("the archive is no regular file"));
    }
    if found.len() > ARCHIVE_PACKED_MAX {
        return Err(Code::SourceRefused.on(format!("the archive is larger than {ARCHIVE_PACKED_MAX} bytes")));
    }
    if found.len() != wanted.size {
        let message = format!("the archive has {} bytes, the job says {}", found.len(), wanted.size);
        return Err(Code::SourceRefused.on(message));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer).map_err(|e| unavailable(&e))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Code::Cancelled.on("unpacking the archive"));
        }
    }
    let digest = shared_proto::hex::encode(hash.finalize());
    if digest != wanted.sha256.to_ascii_lowercase() {
        return Err(
            Code::SourceRefused.on(format!("the archive's SHA-256 is {digest}, the job says {}", wanted.sha256))
        );
    }
    file.seek(SeekFrom::Start(0)).map_err(|e| unavailable(&e))?;
    Ok(file)
}

/// Lets only so many bytes through: between entries a header's worth, within an entry its own size.
struct Allowance<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Allowance<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.left.get()).unwrap_or(usize::MAX);
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a header is larger than any sensible one"));
        }
        let length = buffer.len().min(left);
        let n = self.inner.read(&mut buffer[..length])?;
        self.left.set(self.left.get() - n as u64);
        Ok(n)
    }
}

fn unpack(packed: impl Read, folder: &Path, limits: Limits, stop: &AtomicBool) -> Result<(), Failure> {
    let malformed = |e: &io::Error| Code::SourceRefused.on(format!("the archive is not a whole tar.gz: {e}"));
    let mut target = Target::open(folder, limits, stop)?;
    let left = Rc::new(Cell::new(HEADERS_MAX));
    let reader = Allowance { inner: flate2::read::MultiGzDecoder::new(packed), left: Rc::clone(&left) };
    let mut archive = tar::Archive::new(reader);
    let mut entries = archive.entries().map_err(|e| malformed(&e))?;
    loop {
        left.set(HEADERS_MAX);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(|e| malformed(&e))?;
        target.goes_on()?;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            // what `git archive` starts with: a comment
            continue;
        }
        let path = entry.path_bytes().into_owned();
        let (link, other);
        let made = match kind {
            EntryType::Directory => Entry::Folder,
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                left.set(size.saturating_add(HEADERS_MAX));
                let executable = entry.header().mode().unwrap_or_default() & 0o111 != 0;
                Entry::File { size, executable, content: &mut entry }
            }
            EntryType::Symlink => match entry.link_name_bytes() {
                Some(to) => {
                    link = to.into_owned();
                    Entry::Link(&link)
                }
                None => Entry::Refused("a link without a target"),
            },
            EntryType::Link => Entry::Refused("a hard link"),
            EntryType::Char | EntryType::Block => Entry::Refused("a device"),
            EntryType::Fifo => Entry::Refused("a FIFO"),
            kind => {
                other = format!("an entry of the kind {:?}", char::from(kind.as_byte()));
                Entry::Refused(&other)
            }
        };
        target.make(&path, made)?;
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
