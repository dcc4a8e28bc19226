//! Folders of this machine, shown to another user as its own: an id-mapped mount. On disk nothing changes, so whoever owned the files before
//! still reads, writes and removes what that user has made. Takes root, and a file system that knows it (most do since Linux 5.12).

use crate::confine::Own;
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const OPEN_TREE_CLONE: libc::c_ulong = 1;
const AT_RECURSIVE: libc::c_ulong = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_ulong = 4;

/// Says which user this process's files are shown as.
#[derive(Debug)]
pub struct Mapping(OwnedFd);

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

// === impl Mapping ===

impl Mapping {
    /// Files of this process's user and group are shown as that one's; those of all others as nobody's. Call it from single-threaded processes
    /// only.
    ///
    /// # Errors
    /// The system's; EPERM where this process may not speak for that user.
    pub fn new(own: Own) -> io::Result<Self> {
        let (wait, go) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (told, tell) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: the child makes plain system calls on descriptors that it has, and ends by _exit: nothing that takes a lock or allocates.
        let child = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => hold_a_namespace([wait.as_raw_fd(), go.as_raw_fd(), tell.as_raw_fd()]),
            pid => Pid::from_raw(pid),
        };
        drop((wait, tell));
        let mapped = || -> io::Result<OwnedFd> {
            let mut byte = [0];
            if nix::unistd::read(&told, &mut byte)? == 0 {
                return Err(Errno::EPERM.into());
            }
            let of = |name: &str| File::options().write(true).open(format!("/proc/{child}/{name}"));
            of("uid_map")?.write_all(format!("{} {} 1", nix::unistd::geteuid(), own.uid).as_bytes())?;
            of("gid_map")?.write_all(format!("{} {} 1", nix::unistd::getegid(), own.gid).as_bytes())?;
            Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
        };
        let made = mapped();
        drop(go);
        let _ = waitpid(child, None);
        made.map(Self)
    }

    /// Whether the file system of that folder can be shown so: by doing it, with a mount that nobody sees.
    pub fn can_show(&self, folder: BorrowedFd<'_>) -> bool {
        // SAFETY: an empty path that is terminated; the mount is attached nowhere, and goes with its descriptor.
        unsafe { open(folder.as_raw_fd(), c"", self.0.as_raw_fd()) }.is_ok()
    }
}

impl AsFd for Mapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The child of [`Mapping::new`]: makes a user namespace, says so, and is there until it is told that nobody needs it.
fn hold_a_namespace([wait, go, tell]: [RawFd; 3]) -> ! {
    // SAFETY: system calls on integers and on locals, in a process of their own, which they end.
    unsafe {
        let mut byte = 0_u8;
        libc::close(go);
        if libc::unshare(libc::CLONE_NEWUSER) == 0 {
            libc::write(tell, (&raw const byte).cast(), 1);
            libc::read(wait, (&raw mut byte).cast(), 1);
        }
        libc::_exit(0)
    }
}

/// A mount of what lies there, with all below it, shown as the mapping says; attached nowhere yet.
///
/// # Safety
/// Makes system calls only; `path` is terminated.
unsafe fn open(folder: RawFd, path: &std::ffi::CStr, mapping: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: system calls on a terminated path and on a local in the kernel's layout; the descriptor is new and ours.
    unsafe {
        let flags = OPEN_TREE_CLONE | AT_RECURSIVE | (libc::O_CLOEXEC | libc::AT_EMPTY_PATH) as libc::c_ulong;
        let tree = libc::syscall(libc::SYS_open_tree, folder, path.as_ptr(), flags);
        let tree = OwnedFd::from_raw_fd(RawFd::try_from(Errno::result(tree)?).map_err(|_| Errno::EBADF)?);
        let attr =
            MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns: u64::from(mapping.unsigned_abs()) };
        let flags = AT_RECURSIVE | libc::AT_EMPTY_PATH as libc::c_ulong;
        let (raw, size) = (tree.as_raw_fd(), size_of::<MountAttr>());
        let shown = libc::syscall(libc::SYS_mount_setattr, raw, c"".as_ptr(), flags, &raw const attr, size);
        Errno::result(shown)?;
        Ok(tree)
    }
}

/// Mounts it there; for a child that shares its parent's memory (`spawn`).
///
/// # Safety
/// As [`open`], with two terminated paths, in a mount namespace of its own.
pub(crate) unsafe fn mount(from: &std::ffi::CStr, to: &std::ffi::CStr, mapping: RawFd) -> Result<(), Errno> {
    // SAFETY: as above.
    unsafe {
        let tree = open(libc::AT_FDCWD, from, mapping)?;
        let (raw, to) = (tree.as_raw_fd(), to.as_ptr());
        let moved = libc::syscall(libc::SYS_move_mount, raw, c"".as_ptr(), libc::AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH);
        Errno::result(moved)?;
        Ok(())
    }
}
