//! One process, whatever becomes of its number: a pidfd. Linux 5.3 and newer have it.

use crate::stat;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

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
        process.signal(libc::SIGKILL).expect("kills");
        child.wait().expect("ends");
        assert_eq!((process.pid(), process.signal(libc::SIGKILL)), (None, Err(Errno::ESRCH)));
        for none in [0, -1, i32::MAX] {
            assert!(PidFd::open(none).is_err(), "{none}");
        }
        let file = std::fs::File::open("/dev/null").expect("opens");
        let other = PidFd::from_descriptor(file.into());
        assert_eq!((other.pid(), other.signal(0)), (None, Err(Errno::EBADF)));
    }
}
