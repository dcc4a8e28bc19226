//! What sessions need to know and to have remembered, as one small interface: the store and the five steps behind it in the
//! running program, a list in tests.

use super::seals::Seal;
use crate::identity::{certificate_revoked, verify_session};
use crate::pki::{Authority, IssuedCertificate};
use crate::store::{Ended, NewCredentials, Store, key_known};
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use shared_proto::api_key::KeyDigest;
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The organization.
    pub organization: String,
    /// The runner.
    pub runner: String,
    /// The certificate's serial.
    pub serial: String,
    /// When the certificate ends, Unix milliseconds.
    pub not_after_ms: i64,
    /// The instance that the certificate belongs to, where one has renewed it by itself.
    pub instance: Option<String>,
    /// SHA-256 of the certificate's public key, hexadecimal.
    pub public_key_sha256: String,
    /// Of the API key.
    pub api_key: Option<KeyDigest>,
}

/// What a session asks to have certified.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// The session's, or the one that was renewed in it last.
    pub serial: String,
    /// The instance that it will belong to.
    pub instance: String,
    /// The signing request, PEM.
    pub request: String,
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
    /// Certifies an instance's new key, for as long as the certificate was good for that it follows.
    fn renew<'a>(&'a self, who: &'a Verified, renewal: Renewal) -> BoxFuture<'a, Result<IssuedCertificate, Failure>>;
    /// Has it remembered that a runner was there just now. A failure is the registry's to log: a session goes on without.
    fn seen<'a>(&'a self, who: &'a Verified, parting: Parting) -> BoxFuture<'a, ()>;
    /// Has it remembered how far an instance's audit log goes. A failure is the registry's to log.
    fn sealed<'a>(&'a self, who: &'a Verified, instance: &'a str, seal: Seal) -> BoxFuture<'a, ()>;
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
            Ok(Verified {
                organization: runner.organization,
                runner: runner.runner,
                serial: runner.serial,
                not_after_ms: runner.not_after_ms,
                instance: runner.instance,
                public_key_sha256: runner.public_key_sha256,
                api_key: Some(runner.api_key),
            })
        })
    }

    fn standing<'a>(&'a self, who: &'a Verified) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let runner = self.store.runner(&who.organization, &who.runner).await?;
            if runner.revoked_at_ms.is_some() {
                return Err(Code::CertificateRevoked.on(format!("runner {} ({}) was revoked", runner.name, runner.id)));
            }
            match self.store.certificate(&who.organization, &who.serial).await? {
                Some(certificate) if certificate.revoked_at_ms.is_some() => {
                    Err(certificate_revoked(&who.serial, &runner.name))
                }
                // one that is not there ended so long ago that it was forgotten: the session has outlived it
                _ => Ok(()),
            }
        })
    }

    fn renew<'a>(&'a self, who: &'a Verified, renewal: Renewal) -> BoxFuture<'a, Result<IssuedCertificate, Failure>> {
        Box::pin(async move {
            self.standing(who).await?;
            let api_key = who.api_key.ok_or_else(|| Code::ApiKeyInvalid.on("the session has no API key"))?;
            let before = self.store.certificate(&who.organization, &renewal.serial).await?.ok_or_else(|| {
                Code::CertificateInvalid
                    .on(format!("certificate {} ended so long ago that it was forgotten", renewal.serial))
            })?;
            let issuer = self.store.issuer(&who.organization).await?;
            let issued = self.authority.renew_runner(
                &issuer,
                &who.organization,
                &who.runner,
                &renewal.request,
                before.life_s(),
            )?;
            // the session's own key may be of a certificate that was made before keys were written down
            if issued.public_key_sha256 == who.public_key_sha256 {
                return Err(key_known());
            }
            self.store
                .keep_credentials(&NewCredentials {
                    organization: &who.organization,
                    runner: &who.runner,
                    serial: &issued.serial,
                    not_after_ms: issued.not_after_ms,
                    life_s: issued.life_s,
                    public_key_sha256: &issued.public_key_sha256,
                    api_key,
                    renews: Some((&renewal.instance, &renewal.serial)),
                })
                .await?;
            // a revocation that came between has revoked what it found
            if let Err(refused) = self.standing(who).await {
                let _ = self.store.revoke_certificate(&who.organization, &who.runner, &issued.serial).await;
                return Err(refused);
            }
            Ok(issued)
        })
    }

    fn sealed<'a>(&'a self, who: &'a Verified, instance: &'a str, seal: Seal) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // the store has logged why it failed, and the next one says more
            let _ = self.store.keep_seal(&who.runner, instance, &seal).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Organization, Runner};
    use rcgen::{CertificateParams, KeyPair, SanType};
    use rustls_pki_types::pem::PemObject as _;
    use shared_proto::api_key::{self, Purpose};

    struct World {
        _data: tempfile::TempDir,
        registry: StoredRegistry,
        key: Secret,
        /// The session's key and chain, as in the credentials file.
        pair: KeyPair,
        chain: Vec<CertificateDer<'static>>,
        who: Verified,
    }

    const ORG: &str = "org_a";
    const LIFE: u32 = 7;

    fn der(pem: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("PEM")
    }
    fn csr(pair: &KeyPair, uris: &[&str]) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|u| SanType::URI((*u).to_owned().try_into().expect("ascii"))).collect();
        params.serialize_request(pair).expect("a request").pem().expect("PEM")
    }

    impl World {
        async fn new() -> Self {
            let data = tempfile::tempdir().expect("a folder");
            let store = Store::in_memory().await.expect("a store");
            let authority = Arc::new(Authority::open(data.path(), vec![]).expect("a CA"));
            let issuer = authority.make_issuer(ORG).expect("an issuing CA");
            let organization =
                Organization { id: ORG.into(), name: "a".into(), default_runner: None, created_at_ms: 1 };
            store.create_organization(&organization, &issuer).await.expect("an organization");
            let runner = Runner {
                id: "run_1".into(),
                organization: ORG.into(),
                name: "r".into(),
                created_at_ms: 1,
                revoked_at_ms: None,
                last_seen_ms: None,
                ended: None,
            };
            store.create_runner(&runner).await.expect("a runner");
            let (pair, key) =
                (KeyPair::generate().expect("a key"), api_key::generate(Purpose::Runner).expect("random"));
            let issued = authority.issue_runner(&issuer, ORG, "run_1", &csr(&pair, &[]), Some(LIFE)).expect("issued");
            store
                .keep_credentials(&NewCredentials {
                    organization: ORG,
                    runner: "run_1",
                    serial: &issued.serial,
                    not_after_ms: issued.not_after_ms,
                    life_s: issued.life_s,
                    public_key_sha256: &issued.public_key_sha256,
                    api_key: api_key::parse(Purpose::Runner, key.expose()).expect("a key"),
                    renews: None,
                })
                .await
                .expect("kept");
            let registry = StoredRegistry::new(store, authority);
            let chain = der(&issued.chain);
            let claim = Claim { chain: chain.clone(), session_for: None, api_key: key.clone() };
            let who = registry.verify(claim).await.expect("verified");
            Self { _data: data, registry, key, pair, chain, who }
        }
        fn uri(&self) -> String {
            format!("spiffe://{}/org/{ORG}/runner/run_1", self.registry.authority.trust_domain())
        }
        async fn renew(&self, request: String) -> Result<IssuedCertificate, Failure> {
            let renewal = Renewal { serial: self.who.serial.clone(), instance: "i-1".into(), request };
            self.registry.renew(&self.who, renewal).await
        }
        async fn renew_anew(&self) -> Result<IssuedCertificate, Failure> {
            self.renew(csr(&KeyPair::generate().expect("a key"), &[&self.uri()])).await
        }
        async fn verify(&self, chain: Vec<CertificateDer<'static>>) -> Result<Verified, Failure> {
            let session_for = Some((ORG.to_owned(), "run_1".to_owned()));
            self.registry.verify(Claim { chain, session_for, api_key: self.key.clone() }).await
        }
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_its_instances_and_lasts_as_long_as_the_one_before() {
        let world = World::new().await;
        let issued = world.renew_anew().await.expect("renewed");
        assert_eq!(issued.life_s, i64::from(LIFE) * 86_400);
        let left = issued.not_after_ms - now_ms();
        assert!((left - issued.life_s * 1000).abs() < 60_000, "{left}");
        let who = world.verify(der(&issued.chain)).await.expect("known");
        assert_eq!((who.instance.as_deref(), &who.serial), (Some("i-1"), &issued.serial));
        // the one before is good to its end, and anybody's who has the file
        assert_eq!(world.verify(world.chain.clone()).await.expect("known").instance, None);
        // and so on
        let renewal = Renewal {
            serial: who.serial.clone(),
            instance: "i-1".into(),
            request: csr(&KeyPair::generate().expect("a key"), &[&world.uri()]),
        };
        let next = world.registry.renew(&who, renewal).await.expect("renewed");
        assert_eq!(next.life_s, issued.life_s);
    }

    #[tokio::test]
    async fn a_renewal_is_for_a_new_key_and_for_the_sessions_own_name() {
        let world = World::new().await;
        let (uri, pair) = (world.uri(), KeyPair::generate().expect("a key"));
        let good = csr(&pair, &[&uri]);
        let code = async |request: String| world.renew(request).await.err().map(|f| f.code);
        for (request, expected) in [
            (csr(&world.pair, &[&uri]), Code::Conflict),
            (csr(&pair, &[]), Code::OrganizationMismatch),
            (csr(&pair, &[&uri, &uri]), Code::OrganizationMismatch),
            (csr(&pair, &[&uri.replace("run_1", "run_2")]), Code::OrganizationMismatch),
            (csr(&pair, &[&uri.replace(ORG, "org_b")]), Code::OrganizationMismatch),
            (String::new(), Code::InvalidArgument),
            (good[..good.len() / 2].to_owned(), Code::InvalidArgument),
            ("x".repeat(17 * 1024), Code::TooLarge),
        ] {
            assert_eq!(code(request.clone()).await, Some(expected), "{request}");
        }
        assert_eq!(code(good.clone()).await, None);
        assert_eq!(code(good).await, Some(Code::Conflict));
    }

    #[tokio::test]
    async fn who_was_revoked_renews_nothing_and_what_was_renewed_is_revoked_too() {
        let world = World::new().await;
        let issued = world.renew_anew().await.expect("renewed");
        world.registry.store.revoke_runner(ORG, "run_1").await.expect("revoked");
        assert_eq!(world.renew_anew().await.map_err(|f| f.code).err(), Some(Code::CertificateRevoked));
        let refused = world.verify(der(&issued.chain)).await.expect_err("revoked");
        assert_eq!(refused.code, Code::CertificateRevoked);
        let kept = world.registry.store.certificate(ORG, &issued.serial).await.expect("asks").expect("there");
        assert!(kept.revoked_at_ms.is_some());
    }

    #[tokio::test]
    async fn after_a_rotation_new_ones_are_the_new_cas_and_old_ones_are_still_known() {
        let world = World::new().await;
        let (store, authority) = (&world.registry.store, &world.registry.authority);
        let before = world.renew_anew().await.expect("renewed");
        let issuer = authority.make_issuer(ORG).expect("a CA");
        store.rotate_issuer(ORG, &issuer).await.expect("rotated");
        let after = world.renew_anew().await.expect("renewed");
        assert!(after.chain.contains(&issuer.certificate) && !before.chain.contains(&issuer.certificate));
        for chain in [world.chain.clone(), der(&before.chain), der(&after.chain)] {
            world.verify(chain.clone()).await.expect("known");
            // without its CA beside it as well
            world.verify(chain[..1].to_vec()).await.expect("known");
        }
        let list = store.issuers(ORG).await.expect("a list");
        assert_eq!((list.len(), &list[0].serial), (2, &issuer.serial));
        assert!(list[0].retired_at_ms.is_none() && list[1].retired_at_ms.is_some());
        let keys: i64 =
            sqlx::query_scalar("SELECT COUNT(private_key) FROM issuers").fetch_one(store.pool()).await.expect("counts");
        assert_eq!(keys, 1, "a key of a CA that issues no more is still there");
        for n in 2..crate::store::ISSUERS_MAX {
            store.rotate_issuer(ORG, &authority.make_issuer(ORG).expect("a CA")).await.expect("rotated");
            assert_eq!(store.issuers(ORG).await.expect("a list").len() as i64, n + 1);
        }
        let refused = store.rotate_issuer(ORG, &issuer).await.expect_err("too many");
        assert_eq!(refused.code, Code::Busy);
        assert!(world.renew_anew().await.is_ok());
    }

    #[tokio::test]
    async fn a_session_that_has_outlived_its_certificates_record_stands() {
        let world = World::new().await;
        let forgotten = Verified { serial: "forgotten".into(), ..world.who.clone() };
        assert_eq!(world.registry.standing(&forgotten).await, Ok(()));
        world.registry.store.revoke_certificate(ORG, "run_1", &world.who.serial).await.expect("revoked");
        let refused = world.registry.standing(&world.who).await.map_err(|f| f.code);
        assert_eq!(refused, Err(Code::CertificateRevoked));
    }
}
