//! Connects for the job: each connect() of its processes waits here for its answer. The address is copied once and judged; what is allowed
//! is connected by this process, outside, and the connected socket is put in the place of the caller's own. So reach is granted, not
//! filtered: whatever a process does beside connect() ends in its own empty network namespace.
//!
//! It must never wait: a blocking connect of a job waits in a list.
//!
//! Without a network namespace of the job's own nothing may go on by itself, because the address could be changed after it was judged: what
//! is allowed is then done here, on a copy of the caller's socket.

use super::policy::{Policy, Verdict};
use super::proxied::{Prepared, Relays};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, GetSockOpt, SetSockOpt, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockname,
    getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use runner_sandbox::notify::{Call, Listener, socket_kind};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Blocking connects that wait at once; beyond it EAGAIN.
pub(super) const WAITING_MAX: usize = 512;
/// The longest address, bytes: `struct sockaddr_storage`.
const ADDRESS_MAX: usize = 128;
/// Calls taken for one look: others have their turn.
const AT_ONCE: usize = 64;
/// Refusals that are written down, each address once.
const REFUSALS_MAX: usize = 32;
/// What a name server listens on.
const NAME_SERVER: u16 = 53;

/// The connections of one job.
#[derive(Debug)]
pub(super) struct Connector {
    listener: Listener,
    /// Whether the job is in a network namespace of its own.
    own_network: bool,
    /// Where questions for names go over TCP.
    name_server: Option<SocketAddr>,
    waiting: Vec<Waiting>,
    refusals: Vec<String>,
    /// To HTTP proxies.
    relays: Relays,
    /// Where the worker serves the state: on this machine's loopback where the job has none of its own.
    state: Option<SocketAddr>,
}

/// A blocking connect on its way.
#[derive(Debug)]
struct Waiting {
    call: Call,
    socket: OwnedFd,
    place: Place,
}

/// Where a socket goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    number: RawFd,
    close_on_exec: bool,
}

/// What a call is answered with.
enum Answer {
    Now(Result<i64, Errno>),
    /// By the kernel.
    GoOn,
    /// Once the connection is there.
    Later,
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(listener: Listener, own_network: bool, name_server: Option<SocketAddr>) -> Self {
        Self {
            listener,
            own_network,
            name_server,
            waiting: Vec::new(),
            refusals: Vec::new(),
            relays: Relays::default(),
            state: None,
        }
    }

    /// Where the state is reached, on whichever loopback that is.
    pub(super) fn reach_state(&mut self, address: SocketAddr) {
        self.state = Some(address);
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
    /// What goes by a proxy.
    pub(super) fn relays(&self) -> &Relays {
        &self.relays
    }
    /// What is on its way: writable once it is decided.
    pub(super) fn waiting(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.waiting.iter().map(|w| w.socket.as_fd())
    }

    /// Takes one call; to be called only where there is one. `false`: there is nobody left who could call.
    pub(super) fn take(&mut self, policy: &Policy) -> bool {
        let call = match self.listener.receive() {
            Ok(call) => call,
            // it was interrupted, or killed, before we looked
            Err(Errno::ENOENT | Errno::EINTR) => return true,
            Err(_) => return false,
        };
        match self.decide(&call, policy).unwrap_or_else(|errno| Answer::Now(Err(errno))) {
            Answer::Now(result) => self.listener.answer(call.id, result),
            Answer::GoOn => self.listener.go_on(call.id),
            Answer::Later => {}
        }
        true
    }

    /// How many calls are taken for one look.
    pub(super) const fn at_once() -> usize {
        AT_ONCE
    }

    /// Finishes what is decided, and passes on what goes by a proxy.
    pub(super) fn finish(&mut self, policy: &Policy) {
        let mut refused = Vec::new();
        self.relays.serve(policy, |host, why| refused.push((format!("{host}, asked of the proxy"), why)));
        for (what, why) in refused {
            self.refused(what, why);
        }
        let listener = &self.listener;
        self.waiting.retain(|waiting| {
            let result = match getsockopt(&waiting.socket, sockopt::SocketError) {
                Ok(0) if nix::sys::socket::getpeername::<SockaddrStorage>(waiting.socket.as_raw_fd()).is_err() => {
                    // still on its way, unless its caller is gone
                    return listener.waits(&waiting.call);
                }
                Ok(0) => block(&waiting.socket)
                    .and_then(|()| put(listener, &waiting.call, &waiting.socket, waiting.place))
                    .map(|()| 0),
                Ok(error) => Err(Errno::from_raw(error)),
                Err(errno) => Err(errno),
            };
            listener.answer(waiting.call.id, result);
            false
        });
    }

    fn decide(&mut self, call: &Call, policy: &Policy) -> Result<Answer, Errno> {
        let [number, address, length, ..] = call.arguments;
        let number = RawFd::try_from(number & 0xffff_ffff).map_err(|_| Errno::EBADF)?;
        let length = usize::try_from(length & 0xffff_ffff).unwrap_or(usize::MAX);
        if !(2..=ADDRESS_MAX).contains(&length) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; ADDRESS_MAX];
        self.listener.copy(call, address, &mut bytes[..length])?;
        let bytes = &bytes[..length];
        let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let Some(to) = internet(family, bytes)? else {
            // a path, netlink, or taking a connection back
            if self.own_network {
                return Ok(Answer::GoOn);
            }
            let copy = self.copy_of(call, number)?;
            return Ok(Answer::Now(connect_other(&copy, family, bytes, call.thread).map(|()| 0)));
        };
        let copy = self.copy_of(call, number)?;
        let kind = socket_kind(copy.as_fd())?;
        match kind.kind {
            libc::SOCK_STREAM if matches!(kind.protocol, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => {}
            // datagrams: inside, or to this machine's name servers, or to find out by which way one would go there
            libc::SOCK_DGRAM => return self.datagrams(&copy, to, policy),
            _ => return Err(Errno::EACCES),
        }
        let asks_names = self.own_network && to.port() == NAME_SERVER && to.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
        let to = match (policy.verdict(to), self.name_server) {
            (Verdict::Inside, Some(server)) if asks_names => server,
            (Verdict::Inside, _) => return Ok(Answer::GoOn),
            (Verdict::Outside, _) => to,
            (Verdict::Refused(_), _) if self.state == Some(to) => to,
            (Verdict::Refused(why), _) => {
                self.refused(to.to_string(), why);
                return Err(Errno::EACCES);
            }
        };
        if !kind.closed {
            let address = SockaddrStorage::from(to);
            // it is connected, or on its way, and stays so; what the kernel has to say about a second call it says itself
            return Ok(Answer::Now(connect(copy.as_raw_fd(), &address).map(|()| 0)));
        }
        let flags = OFlag::from_bits_truncate(fcntl(&copy, FcntlArg::F_GETFL)?);
        let waits = !flags.contains(OFlag::O_NONBLOCK);
        let prepared = match policy.is_proxy(to) {
            false => None,
            true if self.relays.are_full() => return Err(Errno::EAGAIN),
            true => Some(Prepared::new(to)?),
        };
        let to = match &prepared {
            None => to,
            Some(prepared) => prepared.address().map_err(|_| Errno::EIO)?,
        };
        let address = SockaddrStorage::from(to);
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        take_over(&copy, &made);
        let place = Place { number, close_on_exec: close_on_exec(call.thread, number) };
        let connected = connect(made.as_raw_fd(), &address);
        if let (Some(prepared), Ok(()) | Err(Errno::EINPROGRESS)) = (prepared, connected) {
            let own: SockaddrStorage = getsockname(made.as_raw_fd())?;
            let own = own.as_sockaddr_in().ok_or(Errno::EIO)?;
            self.relays.add(prepared, SocketAddr::new(own.ip().into(), own.port()));
        }
        match connected {
            Ok(()) => {
                if waits {
                    block(&made)?;
                }
                put(&self.listener, call, &made, place)?;
                Ok(Answer::Now(Ok(0)))
            }
            Err(Errno::EINPROGRESS) if !waits => {
                put(&self.listener, call, &made, place)?;
                Err(Errno::EINPROGRESS)
            }
            Err(Errno::EINPROGRESS) if self.waiting.len() >= WAITING_MAX => Err(Errno::EAGAIN),
            Err(Errno::EINPROGRESS) => {
                self.waiting.push(Waiting { call: *call, socket: made, place });
                Ok(Answer::Later)
            }
            Err(errno) => Err(errno),
        }
    }

    fn datagrams(&self, copy: &OwnedFd, to: SocketAddr, policy: &Policy) -> Result<Answer, Errno> {
        if self.own_network {
            return if to.ip().to_canonical().is_loopback() { Ok(Answer::GoOn) } else { Err(Errno::ENETUNREACH) };
        }
        let names = to.port() == NAME_SERVER && self.name_server == Some(to);
        if !names && policy.verdict(to) != Verdict::Outside {
            return Err(Errno::EACCES);
        }
        Ok(Answer::Now(connect(copy.as_raw_fd(), &SockaddrStorage::from(to)).map(|()| 0)))
    }

    /// A copy of the caller's descriptor, surely the caller's.
    fn copy_of(&self, call: &Call, number: RawFd) -> Result<OwnedFd, Errno> {
        let copy = self.listener.descriptor(call, number)?;
        // its thread's number may be another's by now
        if self.listener.waits(call) { Ok(copy) } else { Err(Errno::ESRCH) }
    }

    /// Writes it down for the job's worker, which tells it with how its engine ended.
    fn refused(&mut self, to: String, why: &str) {
        if self.refusals.len() >= REFUSALS_MAX || self.refusals.contains(&to) {
            return;
        }
        self.refusals.push(to.clone());
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            // nor a pipe that nobody reads: what runs in the job may put one there
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(Path::new(super::REFUSALS));
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{to}: {why}");
        }
    }
}

/// An address of the internet families; `None`: of another.
fn internet(family: u16, bytes: &[u8]) -> Result<Option<SocketAddr>, Errno> {
    let port = |b: &[u8]| u16::from_be_bytes([b[2], b[3]]);
    if i32::from(family) == libc::AF_INET {
        let ip = bytes.get(4..8).and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or(Errno::EINVAL)?;
        return Ok(Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port(bytes))));
    }
    if i32::from(family) == libc::AF_INET6 {
        let ip = bytes.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()).ok_or(Errno::EINVAL)?;
        let scope = bytes.get(24..28).and_then(|b| <[u8; 4]>::try_from(b).ok()).map_or(0, u32::from_ne_bytes);
        return Ok(Some(SocketAddrV6::new(Ipv6Addr::from(ip), port(bytes), 0, scope).into()));
    }
    Ok(None)
}

/// Connects a copy of the caller's socket to an address of another family, as this process: it may reach no more than the caller.
fn connect_other(copy: &OwnedFd, family: u16, bytes: &[u8], thread: i32) -> Result<(), Errno> {
    if i32::from(family) != libc::AF_UNIX {
        // taking a connection back, netlink: what asks for them here does without
        return Err(Errno::EACCES);
    }
    let address = match bytes[2..].split_first() {
        Some((0, name)) => UnixAddr::new_abstract(name)?,
        Some(_) => UnixAddr::new(seen_from(&bytes[2..], thread)?.as_path())?,
        None => return Err(Errno::EINVAL),
    };
    // a full queue must not keep this process waiting
    let waits = !OFlag::from_bits_truncate(fcntl(copy, FcntlArg::F_GETFL)?).contains(OFlag::O_NONBLOCK);
    let limit = |seconds| {
        if waits {
            let _ = setsockopt(copy, sockopt::SendTimeout, &TimeVal::new(seconds, 0));
        }
    };
    limit(1);
    let connected = connect(copy.as_raw_fd(), &address);
    limit(0);
    connected
}

/// A path as a thread means it: what starts from its own folder or its own descriptors does so here as well.
fn seen_from(path: &[u8], thread: i32) -> Result<PathBuf, Errno> {
    let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
    let path = Path::new(OsStr::from_bytes(&path[..end]));
    if path.as_os_str().is_empty() {
        return Err(Errno::EINVAL);
    }
    let of_thread = |rest: &Path| Path::new("/proc").join(thread.to_string()).join(rest);
    Ok(match path.strip_prefix("/proc/self").or_else(|_| path.strip_prefix("/proc/thread-self")) {
        Ok(rest) => of_thread(rest),
        Err(_) if path.is_absolute() => path.to_owned(),
        Err(_) => of_thread(&Path::new("cwd").join(path)),
    })
}

fn put(listener: &Listener, call: &Call, socket: &OwnedFd, place: Place) -> Result<(), Errno> {
    listener.put(call.id, socket.as_fd(), place.number, place.close_on_exec)
}

fn block(socket: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlag::from_bits_truncate(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).map(drop)
}

/// The options that programs set before they connect.
fn take_over(from: &OwnedFd, to: &OwnedFd) {
    fn copy<O>(from: &OwnedFd, to: &OwnedFd, option: O)
    where
        O: GetSockOpt + SetSockOpt<Val = <O as GetSockOpt>::Val> + Copy,
    {
        if let Ok(value) = getsockopt(from, option) {
            let _ = setsockopt(to, option, &value);
        }
    }
    copy(from, to, sockopt::KeepAlive);
    copy(from, to, sockopt::TcpNoDelay);
    copy(from, to, sockopt::TcpKeepIdle);
    copy(from, to, sockopt::TcpKeepInterval);
    copy(from, to, sockopt::TcpKeepCount);
    copy(from, to, sockopt::ReceiveTimeout);
    copy(from, to, sockopt::SendTimeout);
}

/// Whether the caller's descriptor closes when it executes; where nothing tells, it does.
fn close_on_exec(thread: i32, number: RawFd) -> bool {
    let info = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
    flags.and_then(|f| i32::from_str_radix(f.trim(), 8).ok()).is_none_or(|f| f & libc::O_CLOEXEC != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_caller() {
        for (path, expected) in [
            (&b"/run/x.sock\0\0"[..], Some("/run/x.sock")),
            (b"/proc/self/fd/199/plugin", Some("/proc/7/fd/199/plugin")),
            (b"/proc/thread-self/fd/3/x", Some("/proc/7/fd/3/x")),
            (b"/proc/selfish/x", Some("/proc/selfish/x")),
            (b"x.sock\0", Some("/proc/7/cwd/x.sock")),
            (b"\0x", None),
        ] {
            assert_eq!(seen_from(path, 7).ok().as_deref(), expected.map(Path::new), "{path:?}");
        }
    }

    #[test]
    fn addresses_are_read_whole_or_not_at_all() {
        let v4 = [2, 0, 0x01, 0xbb, 127, 0, 0, 1];
        assert_eq!(internet(2, &v4), Ok(Some("127.0.0.1:443".parse().expect("an address"))));
        assert_eq!(internet(2, &v4[..7]), Err(Errno::EINVAL));
        let mut v6 = vec![10, 0, 0x01, 0xbb, 0, 0, 0, 0];
        v6.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(internet(10, &v6), Ok(Some("[fe80::1]:443".parse().expect("an address"))));
        v6.extend(3_u32.to_ne_bytes());
        assert_eq!(internet(10, &v6).ok().flatten().map(|a| a.to_string()), Some("[fe80::1%3]:443".to_owned()));
        assert_eq!(internet(10, &v6[..23]), Err(Errno::EINVAL));
        assert_eq!(internet(1, b"\x01\0/x"), Ok(None));
    }
}
