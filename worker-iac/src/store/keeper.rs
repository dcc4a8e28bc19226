//! Sockets that outlive their worker. An engine goes on when its worker is killed, and its state's address must go on being one: so each
//! worker has the first process of the job keep its listener, and the next one gets it from there. What connects meanwhile waits.
//!
//! A listener stays in the network namespace in which it was made, whoever has it: that of the engine.

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt};
use runner_sandbox::channel;
use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

/// What an engine is told that nobody serves any more: no answer that it would ask for again.
const GONE: &[u8] = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// The most of those answers that are held open.
const ANSWERED_MAX: usize = 64;
/// Listeners that are handed on at once: those that were made last.
pub(crate) const KEPT_MAX: usize = channel::DESCRIPTORS_MAX;

/// A worker's end of the pair over which it hands its listener to the job's first process, and gets those of workers before it.
#[derive(Debug)]
pub(crate) struct Keeper(OwnedFd);

// === impl Keeper ===

impl Keeper {
    /// The one that this process was started with, at that number. None: it has none, and nothing outlives it.
    pub(crate) fn inherited(number: i32) -> Option<Self> {
        let descriptor = runner_sandbox::inherited_descriptor(number).ok()?;
        let is_pair = getsockopt(&descriptor, sockopt::SockType).ok() == Some(SockType::SeqPacket);
        is_pair.then_some(Self(descriptor))
    }

    /// A listener on this worker's loopback, kept; with those that were kept of workers before.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listeners(keeper: Option<&Self>) -> io::Result<Vec<TcpListener>> {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut all = vec![own];
        if let Some(Self(keeper)) = keeper {
            let before = channel::receive(keeper.as_fd(), &mut [0; 1]).map_or_else(|_| Vec::new(), |r| r.descriptors);
            all.extend(before.into_iter().map(TcpListener::from));
            channel::send(keeper.as_fd(), b"L", &[all[0].as_fd()])?;
        }
        for listener in &all {
            listener.set_nonblocking(true)?;
        }
        Ok(all)
    }
}

/// Answers engines whose state nobody will serve any more: at once and for good, so that they write it into a file while they have time to. What
/// they send is not read.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    listeners: Vec<TcpListener>,
    /// What was answered and is not to be reset before that is read.
    answered: VecDeque<TcpStream>,
}

impl Gone {
    /// Answers there from now on.
    pub(crate) fn at(listeners: impl IntoIterator<Item = OwnedFd>) -> Self {
        let listeners =
            listeners.into_iter().map(TcpListener::from).filter(|l| l.set_nonblocking(true).is_ok()).collect();
        Self { listeners, answered: VecDeque::new() }
    }

    /// Answers who has connected since the last time; never waits.
    pub(crate) fn answer(&mut self) {
        for listener in &self.listeners {
            while let Ok((mut stream, _)) = listener.accept() {
                // a new connection has room for it
                let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(GONE));
                let _ = stream.shutdown(Shutdown::Write);
                if self.answered.len() == ANSWERED_MAX {
                    self.answered.pop_front();
                }
                self.answered.push_back(stream);
            }
        }
    }
}

/// What a worker has given to be kept since it was asked last, the newest, with where it is reached.
pub(crate) fn given(by: BorrowedFd<'_>) -> Option<(OwnedFd, SocketAddr)> {
    let mut newest = None;
    while let Ok(received) = channel::receive(by, &mut [0; 1]) {
        if received.length == 0 {
            break;
        }
        let listener = received.descriptors.into_iter().next();
        newest = listener.and_then(|l| Some((address(&l)?, l))).map(|(address, l)| (l, address)).or(newest);
    }
    newest
}

/// Gives a worker that is about to follow what is kept.
///
/// # Errors
/// The system's.
pub(crate) fn give(to: BorrowedFd<'_>, kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    if kept.is_empty() { Ok(()) } else { channel::send(to, b"L", kept) }
}

fn address(listener: &OwnedFd) -> Option<SocketAddr> {
    let address: SockaddrStorage = getsockname(listener.as_raw_fd()).ok()?;
    if address.family() != Some(AddressFamily::Inet) {
        return None;
    }
    let address = address.as_sockaddr_in()?;
    Some(SocketAddr::new(address.ip().into(), address.port()))
}
