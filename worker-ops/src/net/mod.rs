//! The way to a target: a connection that the supervisor made, perhaps TLS, and HTTP/1.1 on it. Shared by the providers.
//!
//! Nothing here opens a socket or looks a name up, but for the resolver, which has a network of its own; nothing reads a file or an environment
//! variable but the system's certificates; an address comes from the runner's own configuration only.

mod again;
pub(crate) mod dial;
pub(crate) mod http;
pub(crate) mod passed;
pub(crate) mod tls;
pub(crate) mod url;

pub(crate) use self::again::Again;
pub(crate) use self::dial::{Dialer, Endpoint, Stream};
pub(crate) use self::http::{Client, Request, read_all};
