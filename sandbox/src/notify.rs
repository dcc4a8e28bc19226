//! Answering system calls for others: the listener of a filter whose profile [asks](crate::seccomp::Profile::asks).
//!
//! A call waits until it is answered. What its arguments point at lies in the caller's memory, which the caller may change at any time: it is
//! copied once, judged and acted on by that copy. To let a call go on after looking ([`Listener::go_on`]) is to trust what may have changed
//! meanwhile; only where whatever it then does is harmless. <https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html>

use crate::pidfd;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

const IOCTL_RECEIVE: u64 = 0xc050_2100;
const IOCTL_ANSWER: u64 = 0xc018_2101;
const IOCTL_IS_VALID: u64 = 0x4008_2102;
const IOCTL_PUT: u64 = 0x4018_2103;
const IOCTL_FLAGS: u64 = 0x4008_2104;
const ANSWER_GO_ON: u32 = 1;
const PUT_AT: u32 = 1;
const WAKE_UP_HERE: u64 = 1;
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;

/// The kernel's `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// The kernel's `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// The kernel's `struct seccomp_notif_addfd`.
#[repr(C)]
struct Put {
    id: u64,
    flags: u32,
    source: u32,
    at: u32,
    at_flags: u32,
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// By which it is answered.
    pub id: u64,
    /// The thread that makes it, in this process's pid namespace.
    pub thread: i32,
    /// Its number.
    pub number: libc::c_long,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// The listener of a filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Calls that a filter refuses and that are told of: each once, and no more than so many.
#[derive(Debug, Default)]
pub struct Refusals(Vec<libc::c_long>);

/// Calls that are told of at most.
pub const REFUSALS_MAX: usize = 64;

// === impl Refusals ===

impl Refusals {
    /// Answers a call as the filter would have: EPERM. What is to be told of it; `None`: it was told before, or there were too many.
    pub fn answer(&mut self, listener: &Listener, call: &Call) -> Option<String> {
        listener.answer(call.id, Err(Errno::EPERM));
        if self.0.len() >= REFUSALS_MAX || self.0.contains(&call.number) {
            return None;
        }
        self.0.push(call.number);
        let name = crate::seccomp::name_of(call.number).unwrap_or("one without a name here");
        Some(format!("refused the system call {name} (number {})", call.number))
    }
}

// === impl Listener ===

impl Listener {
    /// One that a child handed over; whether it is one shows with its first use.
    pub fn new(descriptor: OwnedFd) -> Self {
        let listener = Self(descriptor);
        // caller and answerer on one processor: twice as fast where the kernel knows it, and nothing lost where it does not
        // SAFETY: the flag is passed by value.
        unsafe { libc::ioctl(listener.0.as_raw_fd(), IOCTL_FLAGS as _, WAKE_UP_HERE) };
        listener
    }

    /// The next call. Waits for one: poll first.
    ///
    /// # Errors
    /// ENOENT: whoever made it is gone again; the system's.
    pub fn receive(&self) -> Result<Call, Errno> {
        let mut n = Notification::default();
        // SAFETY: writes a struct of the kernel's layout, all zero as it demands.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_RECEIVE as _, &raw mut n) })?;
        let thread = i32::try_from(n.pid).map_err(|_| Errno::ESRCH)?;
        Ok(Call { id: n.id, thread, number: n.number.into(), arguments: n.arguments })
    }

    /// Whether the call still waits. To be asked after everything that was looked up by the thread's number: it may be another's by then.
    pub fn waits(&self, call: &Call) -> bool {
        // SAFETY: reads the id.
        unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_IS_VALID as _, &raw const call.id) == 0 }
    }

    /// Answers with the call's result. That the caller is gone is no error.
    pub fn answer(&self, id: u64, result: Result<i64, Errno>) {
        let (value, error) = match result {
            Ok(value) => (value, 0),
            Err(errno) => (0, -(errno as i32)),
        };
        self.send(&Answer { id, value, error, flags: 0 });
    }

    /// Lets the kernel do it, with arguments as they are by then.
    pub fn go_on(&self, id: u64) {
        self.send(&Answer { id, value: 0, error: 0, flags: ANSWER_GO_ON });
    }

    fn send(&self, answer: &Answer) {
        // SAFETY: reads a struct of the kernel's layout.
        unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_ANSWER as _, std::ptr::from_ref(answer)) };
    }

    /// Puts a copy of a descriptor in the caller's place of that number, whatever was there.
    ///
    /// # Errors
    /// The system's; ENOENT where the caller is gone.
    pub fn put(&self, id: u64, source: BorrowedFd<'_>, at: RawFd, close_on_exec: bool) -> Result<(), Errno> {
        let (source, at) = (source.as_raw_fd().cast_unsigned(), at.cast_unsigned());
        let at_flags = if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
        let put = Put { id, flags: PUT_AT, source, at, at_flags };
        // SAFETY: reads a struct of the kernel's layout.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_PUT as _, &raw const put) }).map(drop)
    }

    /// Copies what an argument points at.
    ///
    /// # Errors
    /// The system's; EFAULT where less than that is there.
    pub fn copy(&self, call: &Call, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let address = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        let here = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
        let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: to.len() };
        // SAFETY: writes at most `to.len()` bytes to `to`; the other address is looked up in the other process and may be anything.
        let copied = unsafe { libc::process_vm_readv(call.thread, &raw const here, 1, &raw const there, 1, 0) };
        match Errno::result(copied)?.cast_unsigned() {
            n if n == to.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// A copy of one of the caller's descriptors: the same open file.
    ///
    /// # Errors
    /// The system's.
    pub fn descriptor(&self, call: &Call, number: RawFd) -> Result<OwnedFd, Errno> {
        let process = match pidfd::open(call.thread, PIDFD_THREAD) {
            // before Linux 6.9 there is only one of whole processes
            Err(Errno::EINVAL) => pidfd::open(process_of(call.thread).ok_or(Errno::ESRCH)?, 0)?,
            other => other?,
        };
        // SAFETY: returns a new descriptor or fails.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        let copy = i32::try_from(Errno::result(copy)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just made it for this process; nothing else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(copy) })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The process of a thread.
fn process_of(thread: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// What kind of socket it is, as far as connecting for others has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketKind {
    /// SOCK_STREAM, SOCK_DGRAM …
    pub kind: libc::c_int,
    /// IPPROTO_TCP, IPPROTO_UDP …
    pub protocol: libc::c_int,
    /// Of a TCP socket: whether it was never connected, or is closed.
    pub closed: bool,
}

/// Looks at a socket.
///
/// # Errors
/// ENOTSOCK; the system's.
pub fn socket_kind(socket: BorrowedFd<'_>) -> Result<SocketKind, Errno> {
    const TCP_CLOSE: u8 = 7;
    let kind = option(socket, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let protocol = option(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    // the first byte of `struct tcp_info` is the state
    let state = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO).map_or(TCP_CLOSE, |info| info.to_ne_bytes()[0]);
    Ok(SocketKind { kind, protocol, closed: state == TCP_CLOSE })
}

/// The first four bytes of an option's value.
fn option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> Result<libc::c_int, Errno> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: writes at most `length` bytes to a local of that size.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    Errno::result(result).map(|_| value)
}
