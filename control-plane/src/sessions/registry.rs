//! What sessions need to know and to have remembered, as one small interface: the store and the five steps behind it in the
//! running program, a list in tests.

use crate::identity::{certificate_revoked, verify_session};
use crate::pki::Authority;
use crate::store::{Ended, Store};
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use shared_proto::secret::Secret;
use std::sync::Arc;

/// Who a runner says it is, and what it proves it with.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The chain of the TLS session, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The organization and the runner that the session is for, where it says so.
    pub session_for: Option<(String, String)>,
    /// Authenticates it beside its certificate.
    pub api_key: Secret,
}

/// Who it is. Routing uses this and nothing that a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The organization.
    pub organization: String,
    /// The runner.
    pub runner: String,
    /// The certificate's serial.
    pub serial: String,
}

/// How the last of a runner's sessions ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// It is still there.
    Present,
    /// It said that it leaves.
    Left,
    /// Its connection ended without a word.
    Lost,
}

/// The five steps, and the runner's row.
pub trait Registry: Send + Sync + 'static {
    /// Judges a claim: issuer, organization, revocation, dates, API key.
    fn verify(&self, claim: Claim) -> BoxFuture<'_, Result<Verified, Failure>>;
    /// Whether one that was verified still stands: neither the runner nor its certificate was revoked meanwhile.
    fn standing<'a>(&'a self, who: &'a Verified) -> BoxFuture<'a, Result<(), Failure>>;
    /// Has it remembered that a runner was there just now. A failure is the registry's to log: a session goes on without.
    fn seen<'a>(&'a self, who: &'a Verified, parting: Parting) -> BoxFuture<'a, ()>;
    /// When a runner was last there, Unix milliseconds.
    fn last_seen<'a>(&'a self, organization: &'a str, runner: &'a str) -> BoxFuture<'a, Option<i64>>;
}

/// The registry of the running program.
pub struct StoredRegistry {
    store: Store,
    authority: Arc<Authority>,
}

// === impl StoredRegistry ===

impl StoredRegistry {
    /// On this store, with this CA.
    pub fn new(store: Store, authority: Arc<Authority>) -> Self {
        Self { store, authority }
    }
}

impl Registry for StoredRegistry {
    fn verify(&self, claim: Claim) -> BoxFuture<'_, Result<Verified, Failure>> {
        Box::pin(async move {
            let session_for = claim.session_for.as_ref().map(|(o, r)| (o.as_str(), r.as_str()));
            let key = Some(claim.api_key.expose());
            let runner = verify_session(&claim.chain, session_for, key, &self.store, &self.authority).await?;
            Ok(Verified { organization: runner.organization, runner: runner.runner, serial: runner.serial })
        })
    }

    fn standing<'a>(&'a self, who: &'a Verified) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let runner = self.store.runner(&who.organization, &who.runner).await?;
            if runner.revoked_at_ms.is_some() {
                return Err(Code::CertificateRevoked.on(format!("runner {} ({}) was revoked", runner.name, runner.id)));
            }
            match self.store.certificate(&who.organization, &who.serial).await? {
                Some(certificate) if certificate.revoked_at_ms.is_none() => Ok(()),
                _ => Err(certificate_revoked(&who.serial, &runner.name)),
            }
        })
    }

    fn seen<'a>(&'a self, who: &'a Verified, parting: Parting) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let ended = match parting {
                // as long as it is connected nobody asks; after a crash of this program it was lost
                Parting::Present | Parting::Lost => Ended::Lost,
                Parting::Left => Ended::Left,
            };
            // the store has logged why it failed; the next one makes up for it
            let _ = self.store.runner_seen(&who.runner, now_ms(), Some(ended)).await;
        })
    }

    fn last_seen<'a>(&'a self, organization: &'a str, runner: &'a str) -> BoxFuture<'a, Option<i64>> {
        Box::pin(async move { self.store.runner(organization, runner).await.ok()?.last_seen_ms })
    }
}
