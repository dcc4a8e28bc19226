//! Small messages and descriptors over a `SOCK_SEQPACKET` pair: what joins launcher, spawner and supervisor.
//!
//! A message arrives whole or not at all, its descriptors with it. What is longer than the receiver's buffer, or carries more
//! descriptors than it expects, is an error: the peer is not who we think it is.

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// The most descriptors that one message carries.
pub const DESCRIPTORS_MAX: usize = 5;
/// The kernel's own limit.
const SCM_MAX_FD: usize = 253;

/// What came with one message.
#[derive(Debug)]
pub struct Received {
    /// Bytes that were written to the buffer; 0: the peer has closed its end.
    pub length: usize,
    /// The descriptors, in their order, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// A connected pair, both ends close-on-exec and non-blocking.
///
/// # Errors
/// The system's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Has the kernel refuse its peer to pass descriptors to this end of a socket (SO_PASSRIGHTS, Linux 6.16). Whether it does: where it cannot
/// they are closed as the bytes are read that they came with.
pub fn take_no_descriptors(socket: BorrowedFd<'_>) -> bool {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    // SAFETY: reads an int that outlives the call, with the size that it has.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    set == 0
}

/// Sends one message with its descriptors; never blocks and never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` where the peer's queue is full; the system's.
pub fn send(channel: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(|d| d.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let sent = sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(message)], rights, flags, None)?;
    if sent == message.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

/// Receives one message with its descriptors; never blocks.
///
/// # Errors
/// `WouldBlock` where there is none; `InvalidData` for one that is too long or carries too much; the system's.
pub fn receive(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    // room for as many as the kernel passes at once: those that did not fit would be lost open
    let mut space = cmsg_space!([RawFd; SCM_MAX_FD]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    if let Ok(rights) = message.cmsgs() {
        for right in rights {
            if let ControlMessageOwned::ScmRights(raw) = right {
                // SAFETY: the kernel has just made these descriptors for this process; nothing else knows them.
                descriptors.extend(raw.into_iter().map(|d| unsafe { OwnedFd::from_raw_fd(d) }));
            }
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(Received { length: message.bytes, descriptors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (a, b) = pair().expect("a pair");
        let (mut kept, given) = UnixStream::pair().expect("a pair");
        let mut buffer = [0; 64];
        assert_eq!(receive(b.as_fd(), &mut buffer).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        send(a.as_fd(), b"first", &[given.as_fd()]).expect("sends");
        send(a.as_fd(), b"second", &[]).expect("sends");
        drop(given);
        let first = receive(b.as_fd(), &mut buffer).expect("receives");
        assert_eq!((&buffer[..first.length], first.descriptors.len()), (&b"first"[..], 1));
        let mut taken = UnixStream::from(first.descriptors.into_iter().next().expect("one"));
        taken.write_all(b"x").expect("writes");
        kept.read_exact(&mut buffer[..1]).expect("the same socket");
        let second = receive(b.as_fd(), &mut buffer).expect("receives");
        assert_eq!((&buffer[..second.length], second.descriptors.len()), (&b"second"[..], 0));
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut buffer).expect("an end").length, 0);
    }

    #[test]
    fn an_end_that_takes_no_descriptors_has_its_peer_refused() {
        let (ours, theirs) = pair().expect("a pair");
        let (_kept, given) = UnixStream::pair().expect("a pair");
        send(theirs.as_fd(), b"before", &[given.as_fd()]).expect("sends");
        if !take_no_descriptors(ours.as_fd()) {
            return;
        }
        let refused = send(theirs.as_fd(), b"after", &[given.as_fd()]).expect_err("is refused");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        // the other way, and without any, all is as before
        send(ours.as_fd(), b"back", &[given.as_fd()]).expect("sends");
        send(theirs.as_fd(), b"plain", &[]).expect("sends");
        let mut buffer = [0; 8];
        for (text, count) in [(&b"before"[..], 1), (b"plain", 0)] {
            let received = receive(ours.as_fd(), &mut buffer).expect("receives");
            assert_eq!((&buffer[..received.length], received.descriptors.len()), (text, count));
        }
    }

    #[test]
    fn too_long_and_too_many_are_refused_and_leak_nothing() {
        let (a, b) = pair().expect("a pair");
        send(a.as_fd(), &[7; 65], &[]).expect("sends");
        assert_eq!(receive(b.as_fd(), &mut [0; 64]).expect_err("too long").kind(), io::ErrorKind::InvalidData);
        let (mut kept, given) = UnixStream::pair().expect("a pair");
        send(a.as_fd(), b"x", &[given.as_fd(); DESCRIPTORS_MAX + 1]).expect("sends");
        drop(given);
        assert!(receive(b.as_fd(), &mut [0; 64]).is_err());
        // every copy that was received is closed again
        assert_eq!(kept.read(&mut [0; 1]).expect("an end"), 0);
    }
}
