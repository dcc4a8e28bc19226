//! Tells when the machine's addresses, links or routes change: then the way may be open again, and waiting on makes no sense.
//!
//! What changed is not looked at: any message of these groups is a reason. A machine that does not allow netlink (some sandboxes) simply
//! has no such hints.

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use tokio::io::unix::AsyncFd;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Read at once, bytes: a whole datagram of the kernel's.
const BUFFER: usize = 32 * 1024;
/// The header of a netlink message, bytes.
const HEADER: usize = 16;
/// NLMSG_DONE and below: the protocol's own messages, no news.
const CONTROL_MAX: u16 = 0xf;

/// The machine's network, watched.
#[derive(Debug)]
pub struct NetWatch {
    socket: Option<AsyncFd<OwnedFd>>,
}

// === impl NetWatch ===

impl NetWatch {
    /// Subscribes. Where that is not allowed it says so once, and never reports anything.
    pub fn new() -> Self {
        match subscribe() {
            Ok(socket) => Self { socket: Some(socket) },
            Err(e) => {
                tracing::info!(error = %e, "network changes cannot be watched here");
                Self { socket: None }
            }
        }
    }

    /// Forgets what has happened so far.
    pub fn forget(&mut self) {
        if let Some(socket) = &self.socket {
            drain(socket);
        }
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) {
        loop {
            let Some(socket) = &self.socket else { return std::future::pending().await };
            match socket.readable().await {
                Ok(mut guard) => {
                    guard.clear_ready();
                    if drain(socket) {
                        return;
                    }
                }
                Err(_) => self.socket = None,
            }
        }
    }
}

/// Whether this machine still has the address; where that cannot be told, it has.
pub fn is_ours(address: std::net::IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return true };
    interfaces.filter_map(|i| i.address).any(|a| {
        let v4 = a.as_sockaddr_in().map(|a| std::net::IpAddr::V4(a.ip()));
        v4.or_else(|| a.as_sockaddr_in6().map(|a| std::net::IpAddr::V6(a.ip()))) == Some(address.to_canonical())
    })
}

impl Default for NetWatch {
    fn default() -> Self {
        Self::new()
    }
}

fn subscribe() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    crate::descriptor::watch(socket)
}

/// Reads all there is; whether something of it was news.
fn drain(socket: &AsyncFd<OwnedFd>) -> bool {
    let mut buffer = vec![0; BUFFER];
    let mut news = false;
    loop {
        match recv(socket.get_ref().as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return news,
            Ok(length) => news |= is_news(&buffer[..length]),
            // more happened than the socket could hold
            Err(nix::errno::Errno::ENOBUFS) => news = true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return news,
        }
    }
}

/// Whether a datagram holds a message of the subscribed groups.
fn is_news(mut datagram: &[u8]) -> bool {
    while datagram.len() >= HEADER {
        let length = u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        if u16::from_ne_bytes([datagram[4], datagram[5]]) > CONTROL_MAX {
            return true;
        }
        if length < HEADER {
            return false;
        }
        let Some(rest) = datagram.get(length.next_multiple_of(4)..) else { return false };
        datagram = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, content: usize) -> Vec<u8> {
        let mut bytes = ((HEADER + content) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize((HEADER + content).next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn news_is_told_from_the_protocols_own_messages() {
        const RTM_NEWADDR: u16 = 20;
        const NLMSG_ERROR: u16 = 2;
        assert!(is_news(&message(RTM_NEWADDR, 8)));
        assert!(!is_news(&message(NLMSG_ERROR, 20)));
        assert!(is_news(&[message(NLMSG_ERROR, 21), message(RTM_NEWADDR, 8)].concat()));
        assert!(!is_news(&[]));
        assert!(!is_news(&message(RTM_NEWADDR, 0)[..HEADER - 1]));
        // lengths that lie must neither hang nor panic
        for length in [0_u32, 1, 15, u32::MAX] {
            let mut bytes = message(NLMSG_ERROR, 4);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(!is_news(&bytes));
        }
    }

    #[test]
    fn an_address_is_ours_or_it_is_not() {
        assert!(is_ours(std::net::Ipv4Addr::LOCALHOST.into()));
        assert!(is_ours(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()));
        // TEST-NET-1 (RFC 5737): nobody's
        assert!(!is_ours(std::net::Ipv4Addr::new(192, 0, 2, 1).into()));
    }

    #[tokio::test]
    async fn it_can_be_subscribed_to_and_says_nothing_by_itself() {
        let mut watch = NetWatch::new();
        watch.forget();
        tokio::select! {
            biased;
            () = watch.changed() => {}, // another test machine's network may change at any time
            () = tokio::task::yield_now() => {}
        }
    }
}
