//! Starting and confining worker processes on Linux.
//!
//! The only crate with `unsafe`: system calls are wrapped here once, thinly, with a safe signature.

mod inherited;

pub use inherited::inherited_socket;
