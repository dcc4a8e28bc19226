//! Starting and confining worker processes on Linux.
//!
//! The only crate with `unsafe`: system calls are wrapped here once, thinly, with a safe signature. It must never read configuration,
//! hold a secret or log: the launcher and the spawner link little more than this.

#![allow(unsafe_code)] // denied in the workspace; here each block says why it is sound

pub mod channel;
mod inherited;
pub mod process;
pub mod sessions;
pub mod spawn;

pub use inherited::{inherited_descriptor, inherited_socket};
