//! Landlock: a domain around a process and all that it will ever start, which can only be narrowed.
//!
//! A ruleset is made once, by whoever starts processes, and taken on by each child before it executes. It names files by what they are,
//! not by their names, so it holds in another root as well. <https://docs.kernel.org/userspace-api/landlock.html>
//!
//! What it does not stop, at any version: stat, chmod, utimes and inotify on files without a rule; limits, priorities and processor masks of
//! other processes; System V memory. The system call filter refuses these.

use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Removing and making entries of every kind.
const CHANGE_DIR: u64 = 0b1_1111_1111 << 4;
const REFER: u64 = 1 << 13; // ABI 2
const TRUNCATE: u64 = 1 << 14; // ABI 3
const IOCTL_DEV: u64 = 1 << 15; // ABI 5
/// Rights that a rule for something other than a folder may have.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

const BIND_TCP: u64 = 1 << 0; // ABI 4
const CONNECT_TCP: u64 = 1 << 1; // ABI 4

const SCOPE_ABSTRACT_UNIX: u64 = 1 << 0; // ABI 6
const SCOPE_SIGNAL: u64 = 1 << 1; // ABI 6

pub(crate) const RULE_PATH: libc::c_int = 1;
const CREATE_RULESET_VERSION: u32 = 1;

/// The kernel's `struct landlock_ruleset_attr`.
#[repr(C)]
struct RulesetAttr {
    files: u64,
    network: u64,
    scoped: u64,
}

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
pub(crate) struct PathAttr {
    pub(crate) access: u64,
    pub(crate) parent: libc::c_int,
}

/// What may be done to a file, or below a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, list and execute.
    Read,
    /// Everything.
    Write,
    /// Read and write what is there; make nothing. For devices.
    Use,
}

/// What it handles besides files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Whether binding and connecting TCP sockets is refused (ABI 4).
    pub no_tcp: bool,
    /// Whether signals and abstract sockets reach no further than the domain (ABI 6).
    pub own_signals_and_sockets: bool,
}

/// A domain that processes can enter.
#[derive(Debug)]
pub struct Ruleset {
    descriptor: OwnedFd,
    /// The rights over files that it handles: what no rule gives of these is refused.
    handled: u64,
}

/// The devices that every program may use.
pub const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// The version of Landlock here; 0: none.
pub fn abi() -> u32 {
    // SAFETY: with this flag the call reads no memory and changes nothing.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<RulesetAttr>(), 0, CREATE_RULESET_VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

const fn handled_files(abi: u32) -> u64 {
    let mut all = EXECUTE | WRITE_FILE | READ_FILE | READ_DIR | CHANGE_DIR;
    if abi >= 2 {
        all |= REFER;
    }
    if abi >= 3 {
        all |= TRUNCATE;
    }
    if abi >= 5 {
        all |= IOCTL_DEV;
    }
    all
}

/// The rights that a rule has for it, as far as this kernel knows them: to a folder, or to a file.
pub(crate) fn rights(access: Access, folder: bool) -> u64 {
    let all = match access {
        Access::Read => EXECUTE | READ_FILE | READ_DIR,
        Access::Write => u64::MAX,
        Access::Use => READ_FILE | WRITE_FILE | READ_DIR | IOCTL_DEV | TRUNCATE,
    };
    all & handled_files(abi()) & if folder { u64::MAX } else { OF_FILES }
}

const fn scoped(abi: u32, scope: Scope) -> (u64, u64) {
    let network = if scope.no_tcp && abi >= 4 { BIND_TCP | CONNECT_TCP } else { 0 };
    let own = if scope.own_signals_and_sockets && abi >= 6 { SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL } else { 0 };
    (network, own)
}

// === impl Ruleset ===

impl Ruleset {
    /// A domain in which every right over files is refused that no [`Ruleset::allow`] gives, with as much of `scope` as this kernel knows.
    ///
    /// # Errors
    /// The system's: ENOSYS and EOPNOTSUPP where there is no Landlock.
    pub fn new(scope: Scope) -> io::Result<Self> {
        Self::handling(handled_files(abi()), scope)
    }

    /// A domain inside of another one, which reads what that one reads: only writing, making and removing are refused where no
    /// [`Ruleset::allow`] gives them. Like every domain it keeps its processes from looking into those outside.
    ///
    /// # Errors
    /// The system's: ENOSYS and EOPNOTSUPP where there is no Landlock.
    pub fn of_writing(scope: Scope) -> io::Result<Self> {
        Self::handling(handled_files(abi()) & !(EXECUTE | READ_FILE | READ_DIR | IOCTL_DEV), scope)
    }

    fn handling(handled: u64, scope: Scope) -> io::Result<Self> {
        let (network, own) = scoped(abi(), scope);
        let attr = RulesetAttr { files: handled, network, scoped: own };
        // a kernel that knows less takes a longer struct whose rest is zero
        // SAFETY: reads `attr`, which lives, with its own size; returns a new descriptor.
        let fd = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0_u32)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: the kernel has just made it for this process (close-on-exec by itself); nothing else knows it.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(fd) }, handled })
    }

    /// Gives rights over an open file, or over everything below an open folder.
    ///
    /// # Errors
    /// The system's.
    pub fn allow(&self, what: impl AsFd, access: Access) -> io::Result<()> {
        use nix::sys::stat::SFlag;
        let what = what.as_fd();
        let mode = SFlag::from_bits_truncate(nix::sys::stat::fstat(what)?.st_mode) & SFlag::S_IFMT;
        let attr = PathAttr { access: rights(access, mode == SFlag::S_IFDIR) & self.handled, parent: what.as_raw_fd() };
        // SAFETY: reads `attr`, which lives, in the layout that this kind of rule has.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, self.descriptor.as_raw_fd(), RULE_PATH, &raw const attr, 0_u32)
        };
        if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The same by name; what is not there is no error and allows nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn allow_path(&self, path: &std::path::Path, access: Access) -> io::Result<()> {
        use nix::fcntl::{OFlag, open};
        match open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty()) {
            Ok(file) => self.allow(file, access),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// One that another process made and passed on; whether it is one shows when it is entered.
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self { descriptor, handled: handled_files(abi()) }
    }

    /// What a child enters by.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<Ruleset> for OwnedFd {
    fn from(ruleset: Ruleset) -> Self {
        ruleset.descriptor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_asked_for_what_it_knows_and_no_more() {
        assert_eq!(handled_files(1), 0x1fff);
        assert_eq!(handled_files(2), 0x3fff);
        assert_eq!(handled_files(3), 0x7fff);
        assert_eq!(handled_files(4), 0x7fff);
        assert_eq!(handled_files(7), 0xffff);
        let all = Scope { no_tcp: true, own_signals_and_sockets: true };
        assert_eq!((scoped(3, all), scoped(5, all), scoped(6, all)), ((0, 0), (3, 0), (3, 3)));
        assert_eq!(scoped(7, Scope { no_tcp: false, own_signals_and_sockets: false }), (0, 0));
    }
}
