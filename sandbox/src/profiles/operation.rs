//! A worker of one operation: bytes between sockets that it was given, and certificates read from files. It makes no process, opens no
//! socket and signals nobody.

use super::{EVERYONE, EVERYONE_LEGACY, OWN_LIMITS, READING, READING_LEGACY, SOCKETS, SOCKETS_LEGACY, THREADS};
use crate::seccomp::{Allow, Profile, is_int};

/// The profile.
pub const OPERATION: Profile = Profile {
    name: "operation",
    shared: &[EVERYONE, EVERYONE_LEGACY, SOCKETS, SOCKETS_LEGACY, READING, READING_LEGACY, THREADS],
    own: &[OWN],
    asks: &[],
};

const OWN: &[Allow] = calls![
    prlimit64: OWN_LIMITS,
    // descriptors: copies, flags; not owners, leases or notification
    fcntl: &[
        &[is_int(1, 0)],    // F_DUPFD
        &[is_int(1, 1)],    // F_GETFD
        &[is_int(1, 2)],    // F_SETFD
        &[is_int(1, 3)],    // F_GETFL
        &[is_int(1, 4)],    // F_SETFL
        &[is_int(1, 1030)], // F_DUPFD_CLOEXEC
    ],
    // FIONBIO, FIOCLEX, FIONREAD, TCGETS (whether it is a terminal)
    ioctl: &[&[is_int(1, 0x5421)], &[is_int(1, 0x5451)], &[is_int(1, 0x541B)], &[is_int(1, 0x5401)]],
    // its name, and whether it may be dumped: only ever no
    prctl: &[&[is_int(0, 15)], &[is_int(0, 3)], &[is_int(0, 4), is_int(1, 0)]],
    // between its own parts: the runtime tells itself of signals so
    socketpair: &[&[is_int(0, 1)]], // AF_UNIX
    // its own start, by the descriptor of its program. What it could execute later would be no more than it is
    execveat: &[&[is_int(4, 0x1000)]],
];
