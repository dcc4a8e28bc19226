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

use crate::config::{Config, PolicyFile};
use crate::policy::{Limits, Policy};
use shared_proto::credentials::Credentials;
use shared_proto::failure::Failure;
use std::sync::Arc;

/// The policy of a configuration; none where there is no file that anybody named.
fn policy(config: &Config) -> Result<Policy, String> {
    let PolicyFile { path, named } = &config.policy;
    if *named && !path.exists() {
        return Err(format!("{}: there is no such file, and the configuration names it", path.display()));
    }
    let policy = Policy::load(path).map_err(|e| e.to_string())?;
    for warning in policy.warnings() {
        tracing::warn!(warning, "the policy");
    }
    Ok(policy)
}

/// What the configuration and the credentials file say now; replaced whole at SIGHUP.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// The credentials.
    pub credentials: Credentials,
    /// What may be asked of the runner.
    pub policy: Policy,
    /// What of that is at work; it outlives each of them.
    pub limits: Limits,
}

impl Settings {
    /// Reads the credentials file and the policy that the configuration names. A policy that cannot be used allows nothing: a runner must
    /// not start with less of one than it was given.
    ///
    /// # Errors
    /// What is wrong with the credentials file.
    pub fn load(config: Config) -> Result<Arc<Self>, Failure> {
        let policy = policy(&config).unwrap_or_else(|reason| {
            tracing::error!(reason, "the policy cannot be used: nothing is allowed until it can");
            Policy::broken(reason)
        });
        Self::with(config, policy, Limits::default())
    }

    /// The same for whoever takes over from a process that serves: with less it must not.
    ///
    /// # Errors
    /// What is wrong with the credentials file, or with the policy.
    pub fn whole(config: Config) -> Result<Arc<Self>, String> {
        let policy = policy(&config)?;
        Self::with(config, policy, Limits::default()).map_err(|failure| failure.to_string())
    }

    /// Reads them again, whole or not at all.
    ///
    /// # Errors
    /// What is wrong with the credentials file, or with the policy.
    pub fn again(&self, config: Config) -> Result<Arc<Self>, String> {
        let policy = policy(&config)?;
        let limits = self.limits.clone();
        limits.keep(|rule| policy.has_rule(rule));
        Self::with(config, policy, limits).map_err(|failure| failure.to_string())
    }

    fn with(config: Config, policy: Policy, limits: Limits) -> Result<Arc<Self>, Failure> {
        if let Some(reason) = config.lacks_for(&policy) {
            tracing::error!(reason, "terminals that the policy has recorded are refused");
        }
        let mut credentials = Credentials::load(&config.credentials)?;
        credentials.api_key = crate::own::keep(&credentials.api_key);
        Ok(Arc::new(Self { config, credentials, policy, limits }))
    }
}
