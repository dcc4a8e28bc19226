//! Unpacks an uploaded tar.gz by hand: every path goes component by component through folders opened without following a link, so
//! that no order of entries leads outside. What is refused is named, and the limits stop a bomb while it is still small.

use super::{DEPTH_MAX, PATH_MAX, Places, links};
use crate::cancel::Watcher;
use crate::stop::{Stop, io_failure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::{ARCHIVE_PACKED_MAX, SOURCE_FILES_MAX, SOURCE_UNPACKED_MAX};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::ArchiveSource;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tar::EntryType;

/// Bytes between two entries' contents: headers, long names, extensions, padding. A longer header is a bomb.
const HEADERS_MAX: u64 = 1024 * 1024;

/// How much may be unpacked.
#[derive(Debug, Clone, Copy)]
struct Limits {
    bytes: u64,
    entries: u64,
}

const LIMITS: Limits = Limits { bytes: SOURCE_UNPACKED_MAX, entries: SOURCE_FILES_MAX };

/// Checks the archive against its hash and unpacks it.
///
/// # Errors
/// `source_refused` naming the entry; `source_unavailable` where the archive is not there; `disk_full`; cancelled.
pub(super) async fn fetch(wanted: &ArchiveSource, places: &Places<'_>, cancel: &mut Watcher) -> Result<(), Stop> {
    let stop = Arc::new(AtomicBool::new(false));
    let (wanted, archive, target) = (wanted.clone(), places.archive.to_owned(), places.source.to_owned());
    let flag = Arc::clone(&stop);
    let mut work = tokio::task::spawn_blocking(move || {
        let file = checked(&archive, &wanted, &flag)?;
        unpack(file, &target, LIMITS, &flag)
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
    let unavailable = |e: &io::Error| io_failure(Code::SourceUnavailable, "the archive that the supervisor fetched", e);
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

fn unpack(packed: impl Read, target: &Path, limits: Limits, stop: &AtomicBool) -> Result<(), Failure> {
    let malformed = |e: &io::Error| Code::SourceRefused.on(format!("the archive is not a whole tar.gz: {e}"));
    let top = nix::fcntl::open(target, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| io_failure(Code::Internal, "the source folder", &e.into()))?;
    let left = Rc::new(Cell::new(HEADERS_MAX));
    let reader = Allowance { inner: flate2::read::MultiGzDecoder::new(packed), left: Rc::clone(&left) };
    let mut archive = tar::Archive::new(reader);
    let mut entries = archive.entries().map_err(|e| malformed(&e))?;
    let (mut count, mut bytes) = (0_u64, 0_u64);
    loop {
        left.set(HEADERS_MAX);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(|e| malformed(&e))?;
        if stop.load(Ordering::Relaxed) {
            return Err(Code::Cancelled.on("unpacking the archive"));
        }
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            // what `git archive` starts with: a comment
            continue;
        }
        count += 1;
        if count > limits.entries {
            return Err(
                Code::SourceRefused.on(format!("the archive has more than {} files and folders", limits.entries))
            );
        }
        let path = entry.path_bytes().into_owned();
        let refuse = |why: &str| Code::SourceRefused.on(format!("the archive's entry {}: {why}", shown(&path)));
        let parts = parts(&path).map_err(&refuse)?;
        let failed = |e: io::Error| match Errno::try_from(e) {
            Ok(Errno::ELOOP | Errno::ENOTDIR) => refuse("it goes through something that is no folder"),
            Ok(Errno::EEXIST | Errno::EISDIR) => refuse("another entry of that name is of another kind"),
            Ok(Errno::ENAMETOOLONG) => refuse("a part of its path is too long"),
            Ok(errno) => io_failure(Code::Internal, format_args!("unpacking {}", shown(&path)), &errno.into()),
            Err(_) => refuse("its content is not whole"),
        };
        match entry.header().entry_type() {
            EntryType::Directory => {
                folder(&top, &parts).map_err(failed)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let Some((name, parents)) = parts.split_last() else { return Err(refuse("it has no name")) };
                if path.ends_with(b"/") {
                    return Err(refuse("a file whose name ends with a slash"));
                }
                let size = entry.size();
                bytes = bytes.saturating_add(size);
                if bytes > limits.bytes {
                    return Err(
                        Code::SourceRefused.on(format!("the archive unpacks to more than {} bytes", limits.bytes))
                    );
                }
                let executable = entry.header().mode().unwrap_or_default() & 0o111 != 0;
                left.set(size.saturating_add(HEADERS_MAX));
                let folder = folder(&top, parents).map_err(failed)?;
                let mut file = new_file(&folder, name, executable).map_err(failed)?;
                copy(&mut entry, &mut file, size, stop).map_err(failed)?;
            }
            EntryType::Symlink => {
                let Some((name, parents)) = parts.split_last() else { return Err(refuse("it has no name")) };
                let to = entry.link_name_bytes().ok_or_else(|| refuse("a link without a target"))?.into_owned();
                if !links::stays_inside(parents.len(), &to) {
                    return Err(refuse(&format!("the link to {} leads out of the source", shown(&to))));
                }
                let folder = folder(&top, parents).map_err(failed)?;
                replace(&folder, name, SFlag::S_IFLNK).map_err(failed)?;
                symlinkat(to.as_slice(), &folder, *name).map_err(|e| failed(e.into()))?;
            }
            EntryType::Link => return Err(refuse("a hard link")),
            EntryType::Char | EntryType::Block => return Err(refuse("a device")),
            EntryType::Fifo => return Err(refuse("a FIFO")),
            other => return Err(refuse(&format!("an entry of the kind {:?}", char::from(other.as_byte())))),
        }
    }
}

/// A path as names; `.` is left out.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.len() > PATH_MAX {
        return Err("its path is too long");
    }
    if path.starts_with(b"/") {
        return Err("an absolute path");
    }
    if path.contains(&0) {
        return Err("a NUL in its path");
    }
    let parts: Vec<_> = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err("a path with `..`");
    }
    if parts.len() > DEPTH_MAX {
        return Err("its path is too deep");
    }
    Ok(parts)
}

/// Opens a folder below the top, making what is missing, never through a link.
fn folder(top: &OwnedFd, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let mut at = top.as_fd().try_clone_to_owned()?;
    for part in parts {
        match mkdirat(&at, *part, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        at = openat(&at, *part, flags, Mode::empty())?;
    }
    Ok(at)
}

/// Makes a new file; one that an earlier entry made goes first. No set-uid, no bits for others.
fn new_file(folder: &OwnedFd, name: &[u8], executable: bool) -> io::Result<File> {
    replace(folder, name, SFlag::S_IFREG)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(if executable { 0o700 } else { 0o600 });
    Ok(File::from(openat(folder, name, flags, mode)?))
}

/// Takes away an earlier entry of that name, if it is of the same kind.
fn replace(folder: &OwnedFd, name: &[u8], kind: SFlag) -> io::Result<()> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(found) if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == kind => {
            Ok(unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?)
        }
        Ok(_) => Err(Errno::EEXIST.into()),
    }
}

fn copy(from: &mut impl Read, to: &mut File, size: u64, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let mut copied = 0;
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        to.write_all(&buffer[..n])?;
        copied += n as u64;
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
    }
    if copied == size { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

/// A path as a message shows it: quoted, and not endless.
fn shown(path: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&path[..path.len().min(200)]).escape_debug().to_string();
    if path.len() > 200 {
        text.push('…');
    }
    format!("\"{text}\"")
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
