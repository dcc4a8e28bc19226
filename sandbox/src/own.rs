//! What a process does to itself, once, before it starts a thread: it locks its memory, and gives up what only its start needed.
//!
//! The order is the caller's: locking may take a capability, a domain and a filter take `no_new_privs`, and a filter allows none of the calls
//! made here.

use crate::landlock::{self, PathAttr, RULE_PATH};
use crate::seccomp::Profile;
use crate::spawn;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const BIND_TCP: u64 = 1 << 0; // ABI 4
const SCOPE_ABSTRACT_UNIX: u64 = 1 << 0; // ABI 6
/// As the kernel bounds it by default, bytes.
const LOCKED_BY_OTHERS: u64 = 8 << 20;

/// Why memory is not locked.
#[derive(Debug, thiserror::Error)]
pub enum Unlocked {
    /// The limit of locked memory, bytes. With one, memory that comes later could not be had at all.
    #[error("locked memory is limited to {} KiB", .0 / 1024)]
    Limit(u64),
    /// The system's reason.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// The files that a process reaches from now on.
#[derive(Debug, Default)]
pub struct Files {
    /// Folders whose names below it may list.
    pub lists: Vec<PathBuf>,
    /// What it reads, folders with all that is below them.
    pub reads: Vec<PathBuf>,
    /// What it does as it likes with.
    pub writes: Vec<PathBuf>,
}

/// Keeps all memory of this process, what it has and what it will have, from being written to swap; page by page as they are used.
///
/// # Errors
/// Where there is a limit and it cannot be lifted, or the system's.
pub fn lock_memory() -> Result<(), Unlocked> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(io::Error::from)?;
    if soft != RLIM_INFINITY && setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        // as far as it goes, for what is locked by itself
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
        return Err(Unlocked::Limit(hard));
    }
    // SAFETY: takes flags, and changes no content of memory.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if locked < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

/// Bounds what this process and those that it starts may lock, where it is not bounded closer.
///
/// # Errors
/// The system's.
pub fn bound_locked_memory() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let bound = hard.min(LOCKED_BY_OTHERS);
    Ok(setrlimit(Resource::RLIMIT_MEMLOCK, bound, bound)?)
}

/// The limit under which no core is made. Of 0 bytes, none is written to a file, and a `core_pattern` that is a pipe gets it all the same
/// (core(5)); under one byte the kernel makes none at all: too little for a file, and the sign of a handler's own crash for a pipe
/// (`fs/coredump.c`).
pub const NO_CORE: u64 = 1;

/// No core of this process is ever made, whatever happens to it.
///
/// # Errors
/// The system's.
pub fn forbid_core() -> io::Result<()> {
    // where the limit is 0 already, and may not be raised
    Ok(setrlimit(Resource::RLIMIT_CORE, NO_CORE, NO_CORE).or_else(|_| setrlimit(Resource::RLIMIT_CORE, 0, 0))?)
}

/// Gives up every capability in every set, and every way to a new one.
///
/// # Errors
/// The system's.
pub fn drop_privileges() -> io::Result<()> {
    // SAFETY: system calls on integers and on locals of theirs; they take rights of this process, and give none.
    unsafe {
        spawn::drop_bounds();
        spawn::drop_capabilities().map_err(|_| io::Error::last_os_error())?;
    }
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Takes out of what children can gain by executing whatever there is to gain, once instead of in each of them. One that is not confined inherits
/// what this process has. Without CAP_SETPCAP nothing changes.
///
/// # Errors
/// The system's.
pub fn bound_children() -> io::Result<()> {
    // SAFETY: as above.
    unsafe {
        spawn::inherit_capabilities().map_err(|_| io::Error::last_os_error())?;
        spawn::drop_bounds();
    }
    Ok(())
}

/// Enters a Landlock domain: these files and no others, no TCP port of its own (ABI 4), no abstract socket of others (ABI 6). Signals are
/// not held back. What is not there is left out. After [`drop_privileges`].
///
/// # Errors
/// The system's: ENOSYS and EOPNOTSUPP where there is no Landlock.
pub fn enter_domain(files: &Files) -> io::Result<()> {
    let abi = landlock::abi();
    let all = landlock::rights(landlock::Access::Write, true);
    let (network, scoped) = (if abi >= 4 { BIND_TCP } else { 0 }, if abi >= 6 { SCOPE_ABSTRACT_UNIX } else { 0 });
    let attr = [all, network, scoped];
    // SAFETY: reads `attr`, which lives and is laid out as the kernel's struct of three 64-bit words, with its own size; returns a descriptor.
    let made = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attr.as_ptr(), size_of_val(&attr), 0_u32) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    let made = i32::try_from(made).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made it for this process; nothing else knows it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(made) };
    for path in &files.lists {
        allow(&ruleset, path, READ_DIR)?;
    }
    for path in &files.reads {
        allow(&ruleset, path, READ_FILE | READ_DIR)?;
    }
    for path in &files.writes {
        allow(&ruleset, path, all)?;
    }
    // SAFETY: takes a descriptor and flags.
    let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if entered < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn allow(ruleset: &OwnedFd, path: &Path, rights: u64) -> io::Result<()> {
    let file = match open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let folder = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    let rights = rights & landlock::rights(landlock::Access::Write, folder);
    let attr = PathAttr { access: rights, parent: file.as_raw_fd() };
    // SAFETY: reads `attr`, which lives, in the layout that this kind of rule has.
    let added =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH, &raw const attr, 0_u32) };
    if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// No other system calls than these from here on, for every thread of this process. After [`drop_privileges`].
///
/// # Errors
/// The system's; also where a thread could not be included.
pub fn filter(profile: &Profile) -> io::Result<()> {
    let filter = profile.compile()?;
    let program = filter.as_program();
    // SAFETY: reads `program` and what it points at, both of which live.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    match installed {
        0 => Ok(()),
        failed if failed < 0 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} is under another filter"))),
    }
}
