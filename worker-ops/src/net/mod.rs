//! The way to a target: TCP, perhaps a proxy, perhaps TLS, and HTTP/1.1 on it. Shared by the providers.
//!
//! Nothing here reads a file or an environment variable, and an address comes from the runner's own configuration only.

pub(crate) mod dial;
pub(crate) mod http;
pub(crate) mod tls;
pub(crate) mod url;

pub(crate) use self::dial::{Endpoint, Proxy};
pub(crate) use self::http::{Client, Request, read_all};
