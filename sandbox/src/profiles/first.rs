//! The first process of a job: it starts the job's worker, connects for the job and reaps what the job leaves. What it may ask of the kernel
//! its worker may ask at most, so it has all of [`JOB`](super::JOB), and what starting and serving that worker takes.

use super::{CLONE_NAMESPACES, PROGRAM, job};
use crate::seccomp::{Allow, Profile, is_int, lacks};

/// The profile.
pub const FIRST: Profile =
    Profile { name: "first of a job", shared: PROGRAM, own: &[OWN, job::OWN, job::OWN_LEGACY], asks: &[] };

/// A child that shares memory with its parent, which stands still until it has executed, and has its exit told as SIGCHLD.
const VFORK: u32 = (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as u32;

const OWN: &[Allow] = calls![
    // as its worker may, and the one kind of child that is in a user and a network namespace of its own. What that child becomes is under a
    // filter that allows neither
    clone: &[
        &[lacks(0, CLONE_NAMESPACES)],
        &[is_int(0, VFORK | libc::CLONE_NEWUSER as u32 | libc::CLONE_NEWNET as u32)],
    ],
    // giving up what the new user namespace gave
    capset,
    // the address that a connect names lies in the caller's memory
    process_vm_readv,
    // what kind of socket it has
    pidfd_getfd,
];
