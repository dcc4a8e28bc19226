//! The supervisor: sockets and its state directory. It starts no program and no process and signals none: the spawner does.
//! No tracing, no namespaces and mounts, no keys, no BPF, no io_uring, no change of users, owners or clocks.

use super::{
    CONNECTING, EVERYONE, EVERYONE_LEGACY, OWN_LIMITS, READING, READING_LEGACY, SOCKETS, SOCKETS_LEGACY, THREADS,
};
use crate::seccomp::{Allow, Profile, is_int};

/// The profile.
pub const SUPERVISOR: Profile = Profile {
    name: "supervisor",
    shared: &[EVERYONE, EVERYONE_LEGACY, SOCKETS, SOCKETS_LEGACY, READING, READING_LEGACY, CONNECTING, THREADS],
    own: &[OWN, OWN_LEGACY],
    asks: &[],
};

const OWN: &[Allow] = calls![
    prlimit64: OWN_LIMITS,
    // its state directory: whole on disk or not there
    mkdirat, unlinkat, renameat, renameat2, fchmod, fchmodat, fsync, fdatasync, ftruncate, flock, umask,
    // descriptors: copies, flags, locks; not owners, leases or notification
    fcntl: &[
        &[is_int(1, 0)],    // F_DUPFD
        &[is_int(1, 1)],    // F_GETFD
        &[is_int(1, 2)],    // F_SETFD
        &[is_int(1, 3)],    // F_GETFL
        &[is_int(1, 4)],    // F_SETFL
        &[is_int(1, 1030)], // F_DUPFD_CLOEXEC
    ],
    // FIONBIO, FIOCLEX, FIONREAD, TCGETS (whether it is a terminal), PIDFD_GET_INFO
    ioctl: &[
        &[is_int(1, 0x5421)],
        &[is_int(1, 0x5451)],
        &[is_int(1, 0x541B)],
        &[is_int(1, 0x5401)],
        &[is_int(1, 0xc040_ff0b)],
    ],
    // threads' names, and whether it may be dumped: only ever no
    prctl: &[&[is_int(0, 15)], &[is_int(0, 3)], &[is_int(0, 4), is_int(1, 0)]],
    // which process the spawner is to signal
    pidfd_open,
    // its own threads' and its own end: abort
    tgkill, tkill,
    // secrets that are read again get locked memory of their own
    mlock, mlock2, munlock,
    // domains for workers: made here, where the configuration is known, and entered by them. It can enter none that is wider than its own
    landlock_create_ruleset, landlock_add_rule,
];
#[cfg(target_arch = "x86_64")]
const OWN_LEGACY: &[Allow] = calls![mkdir, rmdir, unlink, rename, chmod];
#[cfg(not(target_arch = "x86_64"))]
const OWN_LEGACY: &[Allow] = &[];
