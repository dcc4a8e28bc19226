//! One process, whatever becomes of its number: a pidfd. Linux 5.3 and newer have it.

use crate::stat;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// The file system of pidfds (`linux/magic.h`).
const PIDFS: nix::libc::c_long = 0x5049_4446;

/// `struct pidfd_info` of `linux/pidfd.h`, as it first was: later kernels take it at this size.
#[repr(C)]
#[derive(Debug, Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    /// Pid, thread group, parent, and the eight user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}
const INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: u32 = 0xc000_ff0b | (size_of::<Info>() as u32) << 16;

/// A process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// That of this number. Whoever found the number by looking looks again afterwards: what still holds then, holds for the process of the
    /// pidfd, or that one has ended.
    ///
    /// # Errors
    /// ESRCH where there is none, EINVAL for a number that means others than one process; the system's.
    pub fn open(pid: i32) -> Result<Self, Errno> {
        open(pid, 0).map(Self)
    }

    /// One that was received.
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Its number in this process's pid namespace; `None` where it has ended, is not to be seen from here, or is no process.
    pub fn pid(&self) -> Option<i32> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).ok()?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
        (pid > 0 && stat(pid).is_some()).then_some(pid)
    }

    /// A number that no other process of this boot has, before or after it, whatever becomes of its pid. `None` before Linux 6.9.
    pub fn unique(&self) -> Option<u64> {
        let system = nix::sys::statfs::fstatfs(&self.0).ok()?.filesystem_type().0;
        if system != PIDFS {
            return None;
        }
        Some(nix::sys::stat::fstat(&self.0).ok()?.st_ino)
    }

    /// How it ended, once it has and was reaped, whoever reaped it: as `wait(2)` says it. `None` as long as it has not, and before Linux
    /// 6.15.
    pub fn exit_status(&self) -> Option<i32> {
        let mut info = Info { mask: INFO_EXIT, ..Info::default() };
        // SAFETY: the descriptor is open; the kernel writes no more than the size that the request's number has.
        let asked = unsafe { libc::ioctl(self.0.as_raw_fd(), GET_INFO as _, &raw mut info) };
        (asked == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
    }

    /// Sends it a signal; 0: whether that may be.
    ///
    /// # Errors
    /// ESRCH where it has ended; EPERM; EBADF for what is no process.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a system call on integers and no pointer.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, none, 0) };
        Errno::result(sent).map(drop)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(process: PidFd) -> Self {
        process.0
    }
}

/// `pidfd_open`.
pub(crate) fn open(pid: i32, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers, gives a new descriptor, close-on-exec.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    let descriptor = RawFd::try_from(Errno::result(opened)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_pidfd_means_its_process_and_never_the_next_with_its_number() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        let pid = i32::try_from(child.id()).expect("a pid");
        let process = PidFd::open(pid).expect("opens");
        assert_eq!((process.pid(), process.signal(0)), (Some(pid), Ok(())));
        assert_eq!(process.exit_status(), None);
        let own = PidFd::open(i32::try_from(std::process::id()).expect("a pid")).expect("opens");
        assert_eq!(process.unique(), PidFd::open(pid).expect("opens").unique());
        assert!(process.unique() != own.unique() || own.unique().is_none());
        process.signal(libc::SIGKILL).expect("kills");
        child.wait().expect("ends");
        assert_eq!((process.pid(), process.signal(libc::SIGKILL)), (None, Err(Errno::ESRCH)));
        // it is reaped: the kernels that tell anything tell by what it was ended
        assert!(matches!(process.exit_status(), None | Some(libc::SIGKILL)), "{:?}", process.exit_status());
        for none in [0, -1, i32::MAX] {
            assert!(PidFd::open(none).is_err(), "{none}");
        }
        let file = std::fs::File::open("/dev/null").expect("opens");
        let other = PidFd::from_descriptor(file.into());
        assert_eq!((other.pid(), other.signal(0)), (None, Err(Errno::EBADF)));
        assert_eq!((other.unique(), other.exit_status()), (None, None));
    }
}
