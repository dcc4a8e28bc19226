//! Starts a process for which this one connects: in a network namespace of its own where that is to be had, and under a filter whose
//! listener is here.

use crate::confine::{Confinement, Limits, Namespaces, User};
use crate::notify::Listener;
use crate::seccomp::Filter;
use crate::spawn::{Handed, Plan, SpawnError, Spawner};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

/// A process for which this one connects.
#[derive(Debug)]
pub struct Inside {
    /// Its number; a child of this process.
    pub pid: i32,
    /// Its calls that wait for their answer. `None`: this kernel asks nobody, and it connects by itself.
    pub listener: Option<Listener>,
    /// In its own network namespace: the socket of its name server, on port 53 of its loopback. `None`: it is in this process's.
    pub stub: Option<UdpSocket>,
}

/// Starts it: what the plan says, within those limits, under `asking`, or under `plain` where the kernel asks nobody.
///
/// # Errors
/// The step that failed without any of the mechanisms that may be missing.
pub fn start(
    spawner: &mut Spawner,
    plan: &Plan<'_>,
    limits: Limits,
    asking: Option<&Filter>,
    plain: Option<&Filter>,
) -> Result<Inside, SpawnError> {
    let bare = Confinement {
        limits,
        namespaces: None,
        network: None,
        standing: None,
        own: None,
        files_as: None,
        domain: None,
        filter: asking,
    };
    let own = Namespaces { user: User::Nameless, network: true, root: None };
    if asking.is_some() {
        for namespaces in [Some(&own), None] {
            let (here, there) = UnixDatagram::pair().map_err(|e| failed("socketpair", &e))?;
            let confine = Confinement { namespaces, ..bare };
            let plan = Plan { confine: Some(&confine), handover: Some(there.as_fd()), ..*plan };
            match spawner.spawn(&plan) {
                Ok(pid) => {
                    let (listener, stub) = take(&here).map_err(|e| failed("handover", &e.into()))?;
                    return Ok(Inside { pid, listener: Some(listener), stub });
                }
                // what is used up now comes back, and who used it up must not have others start with less
                Err(e) if used_up(e.errno) => return Err(e),
                Err(_) => {}
            }
        }
    }
    let confine = Confinement { filter: plain, ..bare };
    let pid = spawner.spawn(&Plan { confine: Some(&confine), handover: None, ..*plan })?;
    Ok(Inside { pid, listener: None, stub: None })
}

/// Whether that is no mechanism that is missing, but something that somebody has too much of: memory, descriptors, those on their way.
const fn used_up(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE | Errno::ETOOMANYREFS | Errno::EAGAIN
    )
}

fn failed(step: &'static str, e: &std::io::Error) -> SpawnError {
    SpawnError { step, errno: Errno::from_raw(e.raw_os_error().unwrap_or(0)) }
}

/// What a child handed over that was started with a [`Plan::handover`].
///
/// # Errors
/// The system's; it handed over something else, or nothing.
pub fn take(socket: &UnixDatagram) -> Result<(Listener, Option<UdpSocket>), Errno> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for right in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = right {
            // SAFETY: the kernel has just made these descriptors for this process; nothing else knows them.
            descriptors.extend(raw.into_iter().map(|d| unsafe { OwnedFd::from_raw_fd(d) }));
        }
    }
    let listener = descriptors.pop().ok_or(Errno::EBADF)?;
    let stub = match (byte[0], descriptors.pop()) {
        (Handed::STUB_AND_LISTENER, Some(stub)) => Some(UdpSocket::from(stub)),
        (Handed::LISTENER, None) => None,
        _ => return Err(Errno::EBADMSG),
    };
    Ok((Listener::new(listener), stub))
}
