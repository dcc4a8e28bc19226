//! What archives of every kind are unpacked with: every path goes component by component through folders opened without following a link, so
//! that no order of entries leads outside.

use super::{DEPTH_MAX, PATH_MAX, links};
use crate::stop::io_failure;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use shared_proto::bounds::{SOURCE_FILES_MAX, SOURCE_UNPACKED_MAX};
use shared_proto::failure::{Code, Failure};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// How much may be unpacked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

pub(super) const LIMITS: Limits = Limits { bytes: SOURCE_UNPACKED_MAX, entries: SOURCE_FILES_MAX };

/// Where an archive is unpacked, and how much of it was.
pub(super) struct Target<'a> {
    top: OwnedFd,
    limits: Limits,
    stop: &'a AtomicBool,
    count: u64,
    bytes: u64,
}

/// One entry.
pub(super) enum Entry<'a, R> {
    /// A folder.
    Folder,
    /// A file of so many bytes.
    File { size: u64, executable: bool, content: &'a mut R },
    /// A link to that.
    Link(&'a [u8]),
    /// What is no part of a source.
    Refused(&'a str),
}

// === impl Target ===

impl<'a> Target<'a> {
    /// # Errors
    /// The folder is not there.
    pub(super) fn open(folder: &Path, limits: Limits, stop: &'a AtomicBool) -> Result<Self, Failure> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let top = nix::fcntl::open(folder, flags, Mode::empty())
            .map_err(|e| io_failure(Code::Internal, "the source folder", &e.into()))?;
        Ok(Self { top, limits, stop, count: 0, bytes: 0 })
    }

    /// Whether it was cancelled meanwhile.
    ///
    /// # Errors
    /// It was.
    pub(super) fn goes_on(&self) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) { Err(Code::Cancelled.on("unpacking the archive")) } else { Ok(()) }
    }

    /// Makes what an entry says.
    ///
    /// # Errors
    /// `source_refused` naming it; `disk_full`; cancelled.
    pub(super) fn make<R: Read>(&mut self, path: &[u8], entry: Entry<'_, R>) -> Result<(), Failure> {
        self.goes_on()?;
        self.count += 1;
        if self.count > self.limits.entries {
            let message = format!("the archive has more than {} files and folders", self.limits.entries);
            return Err(Code::SourceRefused.on(message));
        }
        let refuse = |why: &str| Code::SourceRefused.on(format!("the archive's entry {}: {why}", shown(path)));
        let parts = parts(path).map_err(&refuse)?;
        let failed = |e: io::Error| match Errno::try_from(e) {
            Ok(Errno::ELOOP | Errno::ENOTDIR) => refuse("it goes through something that is no folder"),
            Ok(Errno::EEXIST | Errno::EISDIR) => refuse("another entry of that name is of another kind"),
            Ok(Errno::ENAMETOOLONG) => refuse("a part of its path is too long"),
            Ok(errno) => io_failure(Code::Internal, format_args!("unpacking {}", shown(path)), &errno.into()),
            Err(_) => refuse("its content is not whole"),
        };
        let named = || parts.split_last().ok_or_else(|| refuse("it has no name"));
        match entry {
            Entry::Folder => drop(folder(&self.top, &parts).map_err(failed)?),
            Entry::File { size, executable, content } => {
                let (name, parents) = named()?;
                if path.ends_with(b"/") {
                    return Err(refuse("a file whose name ends with a slash"));
                }
                self.bytes = self.bytes.saturating_add(size);
                if self.bytes > self.limits.bytes {
                    let message = format!("the archive unpacks to more than {} bytes", self.limits.bytes);
                    return Err(Code::SourceRefused.on(message));
                }
                let folder = folder(&self.top, parents).map_err(failed)?;
                let mut file = new_file(&folder, name, executable).map_err(failed)?;
                copy(content, &mut file, size, self.stop).map_err(failed)?;
            }
            Entry::Link(to) => {
                let (name, parents) = named()?;
                if !links::stays_inside(parents.len(), to) {
                    return Err(refuse(&format!("the link to {} leads out of the source", shown(to))));
                }
                let folder = folder(&self.top, parents).map_err(failed)?;
                replace(&folder, name, SFlag::S_IFLNK).map_err(failed)?;
                symlinkat(to, &folder, *name).map_err(|e| failed(e.into()))?;
            }
            Entry::Refused(why) => return Err(refuse(why)),
        }
        Ok(())
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
        copied += n as u64;
        // what has no end must not be written to its end
        if copied > size {
            break;
        }
        to.write_all(&buffer[..n])?;
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
    }
    if copied == size { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

/// A path as a message shows it: quoted, and not endless.
pub(super) fn shown(path: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&path[..path.len().min(200)]).escape_debug().to_string();
    if path.len() > 200 {
        text.push('…');
    }
    format!("\"{text}\"")
}
