//! What runner and control plane must agree on, and nothing else: the protocol's messages, identity, the credentials file,
//! API keys, failure codes, flow control, what workers say and ask over their sockets, and the records of a job's spool.
//!
//! This crate must never open a network connection, start a process or call a cloud: both sides and every worker link it. Of AWS it knows
//! names, since whoever passes a request on must read it alike, and of Azure its clouds' hosts.
#![forbid(unsafe_code)]

pub mod address;
pub mod ahead;
pub mod api_key;
pub mod aws;
pub mod azure;
pub mod begun;
pub mod bounds;
pub mod chance;
pub mod credentials;
pub mod dial;
pub mod documents;
pub mod ended;
pub mod exact;
pub mod failure;
pub mod file;
pub mod flow;
pub mod frame;
pub mod glob;
pub mod hex;
pub mod hooks;
pub mod identity;
pub mod inventory;
#[cfg(test)]
mod kept;
pub mod limits;
pub mod lines;
pub mod plan;
mod redacted;
pub mod rules;
pub mod sealed;
pub mod secret;
pub mod secrets;
pub mod sources;
pub mod spool;
pub mod states;
pub mod timeline;
pub mod version;

/// The protocol's messages and services, generated from `proto/runner/v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("runner.v1");
}

/// The ALPN name of the tunnel. `h2` on the same port is the execution service.
pub const TUNNEL_ALPN: &[u8] = b"runner-tunnel/1";
/// The ALPN name of the execution service.
pub const EXECUTION_ALPN: &[u8] = b"h2";
/// The version of `Session`'s conversation.
pub const PROTOCOL: u32 = 1;
/// The version of this build: runner, control plane and command line are released together.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use chance::now_ms;
