//! Every refusal of the five steps, with certificates made here and an issuing CA whose key the test has.

use super::*;
use crate::store::{IssuerRecord, NewCredentials, Organization, Runner};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use shared_proto::secret::Secret;

/// An organization with its CA, a runner `R`, and its API key.
struct Org {
    id: &'static str,
    issuer: IssuerRecord,
    key: Secret,
}

struct World {
    _data: tempfile::TempDir,
    store: Store,
    authority: Authority,
    a: Org,
    b: Org,
}

/// What is wrong with a certificate that is made by hand.
struct Leaf<'a> {
    uris: Vec<String>,
    usage: Vec<ExtendedKeyUsagePurpose>,
    days: (i64, i64),
    issuer: &'a IssuerRecord,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let store = Store::in_memory().await.expect("a store");
        let authority = Authority::open(data.path(), vec![]).expect("a CA");
        let a = Org::new("org_a", &store, &authority).await;
        let b = Org::new("org_b", &store, &authority).await;
        Self { _data: data, store, authority, a, b }
    }
    fn uri(&self, organization: &str, runner: &str) -> String {
        format!("spiffe://{}/org/{organization}/runner/{runner}", self.authority.trust_domain())
    }
    fn leaf<'a>(&self, org: &'a Org) -> Leaf<'a> {
        Leaf {
            uris: vec![self.uri(org.id, &org.runner())],
            usage: vec![ExtendedKeyUsagePurpose::ClientAuth],
            days: (-1, 1),
            issuer: &org.issuer,
        }
    }
    /// Makes the certificate and has the registry know it.
    async fn known(&self, org: &Org, leaf: Leaf<'_>) -> Vec<CertificateDer<'static>> {
        let chain = leaf.chain();
        let serial = CertificateFacts::read(&chain[0]).expect("a certificate").serial;
        let api_key = api_key::parse(Purpose::Runner, new_key().expose()).expect("a key");
        let runner = org.runner();
        let new = NewCredentials {
            organization: org.id,
            runner: &runner,
            serial: &serial,
            life_s: 1,
            public_key_sha256: &serial,
            renews: None,
            not_after_ms: i64::MAX,
            api_key,
        };
        self.store.keep_credentials(&new).await.expect("kept");
        chain
    }
    async fn check(&self, chain: &[CertificateDer<'_>], key: &str) -> Result<VerifiedRunner, Code> {
        verify_session(chain, None, Some(key), &self.store, &self.authority).await.map_err(|f| f.code)
    }
    async fn refused(&self, chain: &[CertificateDer<'_>]) -> Option<Code> {
        self.check(chain, self.a.key.expose()).await.err()
    }
}

// === impl Org ===

impl Org {
    async fn new(id: &'static str, store: &Store, authority: &Authority) -> Self {
        let issuer = authority.make_issuer(id).expect("an issuing CA");
        let organization =
            Organization { id: id.into(), name: id.replace('_', "-"), default_runner: None, created_at_ms: 1 };
        store.create_organization(&organization, &issuer).await.expect("an organization");
        let org = Self { id, issuer, key: new_key() };
        let runner = Runner {
            id: org.runner(),
            organization: id.into(),
            name: "r".into(),
            created_at_ms: 1,
            revoked_at_ms: None,
            last_seen_ms: None,
            ended: None,
        };
        store.create_runner(&runner).await.expect("a runner");
        let api_key = api_key::parse(Purpose::Runner, org.key.expose()).expect("a key");
        let new = NewCredentials {
            organization: id,
            runner: &runner.id,
            serial: "0",
            life_s: 1,
            public_key_sha256: "0",
            renews: None,
            not_after_ms: i64::MAX,
            api_key,
        };
        store.keep_credentials(&new).await.expect("kept");
        org
    }
    fn runner(&self) -> String {
        format!("run_of_{}", self.id)
    }
}

// === impl Leaf ===

impl Leaf<'_> {
    fn chain(self) -> Vec<CertificateDer<'static>> {
        let key = KeyPair::from_pem(self.issuer.private_key.expose()).expect("the issuer's key");
        let ca = Issuer::from_ca_cert_pem(&self.issuer.certificate, key).expect("the issuer");
        let mut params = CertificateParams::default();
        params.subject_alt_names = self.uris.into_iter().map(|u| SanType::URI(u.try_into().expect("ascii"))).collect();
        params.extended_key_usages = self.usage;
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now + time::Duration::days(self.days.0);
        params.not_after = now + time::Duration::days(self.days.1);
        let leaf = params.signed_by(&KeyPair::generate().expect("a key"), &ca).expect("signs");
        let issuer = CertificateDer::from_pem_slice(self.issuer.certificate.as_bytes()).expect("PEM");
        vec![leaf.der().clone(), issuer]
    }
}

fn new_key() -> Secret {
    api_key::generate(Purpose::Runner).expect("random")
}

#[tokio::test]
async fn a_runner_with_its_own_things_is_let_in() {
    let world = World::new().await;
    let chain = world.known(&world.a, world.leaf(&world.a)).await;
    let verified = world.check(&chain, world.a.key.expose()).await.expect("verified");
    assert_eq!((verified.organization.as_str(), verified.runner), ("org_a", world.a.runner()));
    // the issuing CA is looked up: a chain of the leaf alone will do
    world.check(&chain[..1], world.a.key.expose()).await.expect("verified");
    let claimed = Some(("org_a", "run_of_org_a"));
    verify_session(&chain, claimed, Some(world.a.key.expose()), &world.store, &world.authority)
        .await
        .expect("verified");
}

#[tokio::test]
async fn a_certificate_that_the_authority_issues_is_let_in() {
    let world = World::new().await;
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    // nothing of this may show up in the certificate
    params.subject_alt_names = vec![SanType::URI(world.uri("org_b", "run_of_org_b").try_into().expect("ascii"))];
    let csr = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let issued = world.authority.issue_runner(&world.a.issuer, "org_a", "run_of_org_a", &csr, Some(1)).expect("issued");
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>().expect("certificates");
    let api_key = api_key::parse(Purpose::Runner, new_key().expose()).expect("a key");
    let new = NewCredentials {
        organization: "org_a",
        runner: "run_of_org_a",
        serial: &issued.serial,
        life_s: issued.life_s,
        public_key_sha256: &issued.public_key_sha256,
        renews: None,
        not_after_ms: issued.not_after_ms,
        api_key,
    };
    world.store.keep_credentials(&new).await.expect("kept");
    let verified = world.check(&chain, world.a.key.expose()).await.expect("verified");
    assert_eq!((verified.organization.as_str(), verified.serial), ("org_a", issued.serial));
}

#[tokio::test]
async fn no_certificate_and_what_is_none() {
    let world = World::new().await;
    assert_eq!(world.refused(&[]).await, Some(Code::CertificateMissing));
    assert_eq!(world.refused(&[CertificateDer::from(vec![1, 2, 3])]).await, Some(Code::CertificateInvalid));
    let chain = world.known(&world.a, world.leaf(&world.a)).await;
    let long: Vec<_> = std::iter::repeat_n(chain[0].clone(), CHAIN_MAX + 1).collect();
    assert_eq!(world.refused(&long).await, Some(Code::CertificateInvalid));
}

#[tokio::test]
async fn an_issuer_that_is_not_ours() {
    let world = World::new().await;
    // one of another control plane, and one that carries our issuer's very name and URI
    let data = tempfile::tempdir().expect("a folder");
    let other = Authority::open(data.path(), vec![]).expect("a CA").make_issuer("org_a").expect("an issuing CA");
    let chain = world.known(&world.a, Leaf { issuer: &other, ..world.leaf(&world.a) }).await;
    assert_eq!(world.refused(&chain).await, Some(Code::UnknownCa));
    // the real issuing CA beside it does not help
    let real = CertificateDer::from_pem_slice(world.a.issuer.certificate.as_bytes()).expect("PEM");
    assert_eq!(world.refused(&[chain[0].clone(), real]).await, Some(Code::UnknownCa));
}

#[tokio::test]
async fn an_organization_under_anothers_issuer() {
    let world = World::new().await;
    let chain = world.known(&world.a, Leaf { issuer: &world.b.issuer, ..world.leaf(&world.a) }).await;
    assert_eq!(world.refused(&chain).await, Some(Code::CertificateOrganization));
}

#[tokio::test]
async fn another_trust_domain() {
    let world = World::new().await;
    let uris = vec!["spiffe://other.example/org/org_a/runner/run_of_org_a".to_owned()];
    let chain = world.known(&world.a, Leaf { uris, ..world.leaf(&world.a) }).await;
    assert_eq!(world.refused(&chain).await, Some(Code::CertificateOrganization));
}

#[tokio::test]
async fn uris_that_are_no_runners() {
    let world = World::new().await;
    let good = world.uri("org_a", "run_of_org_a");
    for uris in [vec![], vec![good.clone(), good.clone()], vec!["https://x".into()], vec![format!("{good}/x")]] {
        let chain = world.known(&world.a, Leaf { uris: uris.clone(), ..world.leaf(&world.a) }).await;
        assert_eq!(world.refused(&chain).await, Some(Code::CertificateInvalid), "{uris:?}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_purpose() {
    let world = World::new().await;
    for usage in [vec![], vec![ExtendedKeyUsagePurpose::ServerAuth]] {
        let chain = world.known(&world.a, Leaf { usage, ..world.leaf(&world.a) }).await;
        assert_eq!(world.refused(&chain).await, Some(Code::CertificatePurpose));
    }
    // the issuing CA itself was issued by the root, which is no runners' issuer
    let ca = CertificateDer::from_pem_slice(world.a.issuer.certificate.as_bytes()).expect("PEM");
    assert_eq!(world.refused(&[ca]).await, Some(Code::UnknownCa));
}

#[tokio::test]
async fn dates() {
    let world = World::new().await;
    let past = world.known(&world.a, Leaf { days: (-2, -1), ..world.leaf(&world.a) }).await;
    assert_eq!(world.refused(&past).await, Some(Code::CertificateExpired));
    let future = world.known(&world.a, Leaf { days: (1, 2), ..world.leaf(&world.a) }).await;
    assert_eq!(world.refused(&future).await, Some(Code::CertificateNotYetValid));
}

#[tokio::test]
async fn a_session_for_someone_else() {
    let world = World::new().await;
    let chain = world.known(&world.a, world.leaf(&world.a)).await;
    for claimed in [("org_b", "run_of_org_a"), ("org_a", "run_of_org_b"), ("", ""), ("org_b", "run_of_org_b")] {
        let key = Some(world.a.key.expose());
        let refused = verify_session(&chain, Some(claimed), key, &world.store, &world.authority).await;
        assert_eq!(refused.expect_err("refused").code, Code::OrganizationMismatch, "{claimed:?}");
    }
}

#[tokio::test]
async fn runners_and_certificates_that_the_registry_does_not_know() {
    let world = World::new().await;
    let uris = vec![world.uri("org_a", "run_nobody")];
    let chain = world.known(&world.a, Leaf { uris, ..world.leaf(&world.a) }).await;
    assert_eq!(world.refused(&chain).await, Some(Code::UnknownRunner));
    // a runner's name is not its id
    let uris = vec![world.uri("org_a", "r")];
    let chain = world.known(&world.a, Leaf { uris, ..world.leaf(&world.a) }).await;
    assert_eq!(world.refused(&chain).await, Some(Code::UnknownRunner));
    assert_eq!(world.refused(&world.leaf(&world.a).chain()).await, Some(Code::CertificateInvalid));
}

#[tokio::test]
async fn revoked() {
    let world = World::new().await;
    let chain = world.known(&world.a, world.leaf(&world.a)).await;
    let other = world.known(&world.a, world.leaf(&world.a)).await;
    let serial = CertificateFacts::read(&chain[0]).expect("a certificate").serial;
    let mut told = world.store.revocations();
    world.store.revoke_certificate("org_a", "run_of_org_a", &serial).await.expect("revokes");
    let next_step = async |chain: &[CertificateDer<'_>]| {
        let (claimed, key) = (Some(("org_a", "run_of_org_a")), Some(world.a.key.expose()));
        let refused = verify_session(chain, claimed, key, &world.store, &world.authority).await.expect_err("refused");
        assert_eq!(refused.code, Code::CertificateRevoked);
        refused.next_step
    };
    assert!(next_step(&chain).await.contains("runner generate-credentials"));
    assert_eq!(world.refused(&other).await, None);
    world.store.revoke_runner("org_a", "run_of_org_a").await.expect("revokes");
    // new credentials are refused for it: only a new runner helps
    for chain in [&chain, &other] {
        assert!(next_step(chain).await.starts_with("Register a new runner with `runnerctl runner register`"));
    }
    assert_eq!(told.recv().await.expect("told"), "run_of_org_a");
    assert_eq!(told.recv().await.expect("told"), "run_of_org_a");
}

#[tokio::test]
async fn api_keys() {
    let world = World::new().await;
    let chain = world.known(&world.a, world.leaf(&world.a)).await;
    let unknown = new_key();
    let user = api_key::generate(Purpose::User).expect("random");
    for bad in ["", "rnk_", "x", unknown.expose(), user.expose(), &world.a.key.expose()[..52]] {
        assert_eq!(world.check(&chain, bad).await, Err(Code::ApiKeyInvalid));
    }
    assert_eq!(world.check(&chain, world.b.key.expose()).await, Err(Code::ApiKeyOtherRunner));
    let none = verify_session(&chain, None, None, &world.store, &world.authority).await.expect_err("refused");
    assert_eq!(none.code, Code::ApiKeyInvalid);
    assert!(!none.to_string().contains("rnk_"));
}
