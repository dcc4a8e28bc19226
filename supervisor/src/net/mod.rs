//! The ways out of this machine: TCP to the first address that answers, and the proxies on the way. The tunnel and the operations'
//! workers are connected by it; TLS is theirs.

pub mod http_connect;
pub mod no_proxy;
pub(crate) mod proxy;
mod socks;
pub(crate) mod tcp;
