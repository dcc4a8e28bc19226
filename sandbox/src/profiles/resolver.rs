//! A resolver of credentials: reads the files that the runner's configuration names, asks the cloud's own services, and runs the plug-ins
//! that the configuration allows.

use super::{FORKING, PROGRAM};
use crate::seccomp::{Allow, Profile};

/// The profile.
pub const RESOLVER: Profile =
    Profile { name: "resolver", shared: PROGRAM, own: &[FORKING, OWN, OWN_LEGACY], asks: &[] };

/// A plug-in keeps its cache, where the domain lets it; the resolver hands its request to itself in a file of memory, when it executes itself
/// once more with the environment that a cloud's own chain of credentials reads.
const OWN: &[Allow] = calls![
    memfd_create,
    mkdirat,
    unlinkat,
    renameat,
    renameat2,
    fchmod,
    fsync,
    fdatasync,
    ftruncate,
    pwritev,
    preadv,
    copy_file_range,
    sendfile,
    inotify_init1,
];
#[cfg(target_arch = "x86_64")]
const OWN_LEGACY: &[Allow] = calls![mkdir, unlink, rename, rmdir];
#[cfg(not(target_arch = "x86_64"))]
const OWN_LEGACY: &[Allow] = &[];
