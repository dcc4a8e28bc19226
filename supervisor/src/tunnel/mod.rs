//! The tunnel: dials the control plane, serves it on the connection that was dialled, and dials again when that ends.
//!
//! ```text
//!   attempt ──▶ connect, proxy, TLS ──▶ serve: Session.Open, then Operations.Run … ──▶ ended
//!      ▲                │ attempt failed                                                  │
//!      └── backoff (full jitter, from the attempt's start), or at once when the network changes ◀──┘
//! ```
//! It must never retry what a user has to mend in silence: every attempt that fails says its code and the next step.

pub mod backoff;
pub mod dial;
mod keeper;
pub mod leaf;
pub mod netwatch;
mod renewal;
mod serve;
mod session;
pub mod succession;
pub mod tls;

pub use keeper::{About, LastFailure, Parts, TunnelStatus, run};

use crate::config::Config;
use shared_proto::credentials::Credentials;
use shared_proto::failure::Failure;
use std::sync::Arc;

/// What the configuration and the credentials file say now; replaced whole at SIGHUP.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// The credentials.
    pub credentials: Credentials,
}

impl Settings {
    /// Reads the credentials file that the configuration names.
    ///
    /// # Errors
    /// What is wrong with the credentials file.
    pub fn load(config: Config) -> Result<Arc<Self>, Failure> {
        let mut credentials = Credentials::load(&config.credentials)?;
        credentials.api_key = crate::own::keep(&credentials.api_key);
        Ok(Arc::new(Self { config, credentials }))
    }
}
