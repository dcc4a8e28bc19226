//! What a process says to the kernel about itself.

use std::io;

/// Makes this process not dumpable: no other process of its uid may read its memory or environment, or trace it. Lost at execve.
///
/// # Errors
/// The system's.
pub fn forbid_dumps() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Whether this process may be dumped and traced.
///
/// # Errors
/// The system's.
pub fn dumpable() -> io::Result<bool> {
    Ok(nix::sys::prctl::get_dumpable()?)
}

/// Orphans below this process become its children, and it is told of their ends.
///
/// # Errors
/// The system's.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}
