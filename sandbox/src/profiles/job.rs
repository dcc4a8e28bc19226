//! A job: its worker, git, the engine and everything that the engine starts, which is whatever a module says. What is left out is what no
//! build tool needs and attackers do: namespaces and mounts, tracing, keys, BPF, performance counters, userfaultfd, io_uring, modules,
//! System V and POSIX queues, raw and exotic sockets, handles, clocks, other processes' priorities, and the change of users.

use super::{FORKING, PROGRAM};
use crate::seccomp::{Allow, Profile, is_int, numbers};

/// The profile.
pub const JOB: Profile = Profile { name: "job", shared: PROGRAM, own: &[FORKING, OWN, OWN_LEGACY], asks: &[] };
/// The same, where somebody connects for it: whoever holds the listener of its filter.
pub const JOB_ASKING: Profile = Profile { name: "job that is connected", asks: &[numbers::connect], ..JOB };

pub(super) const OWN: &[Allow] = calls![
    preadv, pwritev, preadv2, pwritev2, msync, mlock, munlock,
    openat2, mkdirat, unlinkat, renameat, renameat2, linkat, symlinkat, fchmod, fchmodat, fchmodat2, fchown, fchownat, utimensat,
    fsync, fdatasync, sync_file_range, fallocate, ftruncate, truncate, copy_file_range, sendfile, splice, tee, readahead,
    getxattr, lgetxattr, fgetxattr, listxattr, llistxattr, flistxattr, setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr,
    fremovexattr, memfd_create, rt_sigqueueinfo, rt_tgsigqueueinfo,
    // a narrower domain and filter for what it starts
    landlock_create_ruleset, landlock_add_rule, landlock_restrict_self, seccomp,
    // FIFOs and regular files; devices need a capability that it has not
    mknodat,
    ioprio_get,
    ioprio_set: &[&[is_int(0, 1), is_int(1, 0)]],
];
#[cfg(target_arch = "x86_64")]
pub(super) const OWN_LEGACY: &[Allow] = calls![
    mkdir,
    rmdir,
    unlink,
    rename,
    link,
    symlink,
    chmod,
    chown,
    lchown,
    utime,
    utimes,
    futimesat,
    creat,
    inotify_init,
    mknod,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const OWN_LEGACY: &[Allow] = &[];
