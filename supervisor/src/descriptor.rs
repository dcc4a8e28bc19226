//! Descriptors that tokio has no type for: seqpacket and netlink sockets.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Waits on a descriptor that this process owns.
///
/// # Errors
/// One that cannot be waited on.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // deprecated for types that may name a descriptor they do not own; an OwnedFd owns it, and keeps it while it is registered
    #[allow(deprecated)]
    AsyncFd::new(descriptor)
}
