//! Starting and confining worker processes on Linux.
//!
//! The only crate with `unsafe`: system calls are wrapped here once, thinly, with a safe signature. It must never read configuration,
//! hold a secret or log: the launcher and the spawner link little more than this.

#![allow(unsafe_code)] // denied in the workspace; here each block says why it is sound

#[macro_use]
pub mod seccomp;
pub mod addresses;
pub mod cgroup;
pub mod channel;
pub mod confine;
mod inherited;
pub mod inside;
pub mod landlock;
pub mod locked;
pub mod mapped;
pub mod nested;
pub mod notify;
pub mod own;
mod pidfd;
pub mod process;
pub mod profiles;
pub mod sessions;
pub mod spawn;
mod stat;

pub use inherited::{inherited_descriptor, inherited_socket};
pub use pidfd::PidFd;
pub use stat::{Stat, stat};
