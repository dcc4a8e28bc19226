//! The socket that a worker is born with, on descriptor 3.
//!
//! A descriptor number says nothing about what stands behind it, so it is checked before it is adopted, and adopted once: a second
//! owner of the same number would close what the first one still uses.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockType, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};

/// Where the spawner puts it.
const INHERITED: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over the Unix stream socket on descriptor 3; it will not be passed on to a program that this process executes.
///
/// # Errors
/// Nothing open there, something other than a Unix stream socket, or taken already.
pub fn inherited_socket() -> io::Result<UnixStream> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "descriptor 3 was taken already"));
    }
    // SAFETY: borrowed for this function only, and used for system calls that fail on a closed descriptor.
    let descriptor = unsafe { BorrowedFd::borrow_raw(INHERITED) };
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "descriptor 3 is not a Unix stream socket");
    let mode = fstat(descriptor)?.st_mode;
    if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err(wrong());
    }
    if getsockopt(&descriptor, sockopt::SockType)? != SockType::Stream {
        return Err(wrong());
    }
    if nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(INHERITED)
        .ok()
        .and_then(|a| nix::sys::socket::SockaddrLike::family(&a))
        != Some(AddressFamily::Unix)
    {
        return Err(wrong());
    }
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: open, as the calls above have shown; whoever executed this program left it to us, and TAKEN makes us its only owner.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(INHERITED) }))
}

/// Takes over an inherited descriptor of any kind, by its number, once; it will not be passed on to a program that this process executes.
///
/// # Errors
/// Nothing open there, a standard stream, or taken already.
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    static OTHERS: AtomicU32 = AtomicU32::new(0);
    let bit: u32 = match number {
        INHERITED..32 => 1 << number,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a number that a child is given")),
    };
    let taken = if number == INHERITED {
        TAKEN.swap(true, Ordering::AcqRel)
    } else {
        OTHERS.fetch_or(bit, Ordering::AcqRel) & bit != 0
    };
    if taken {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the descriptor was taken already"));
    }
    // SAFETY: borrowed for one system call, which fails on a closed descriptor.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: open, as the call above has shown; whoever executed this program left it to us, and `taken` makes us its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
