//! The CA as files, and its TLS with a client on the other end of a pipe.

use super::*;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn authority(data: &Path) -> Authority {
    Authority::open(data, vec![ServerName::Dns("localhost".into())]).expect("a CA")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A runner's certificate and key, as `runnerctl` would get them.
fn runner_identity(authority: &Authority) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let csr = CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("PEM");
    let issuer = authority.make_issuer("org_a").expect("an issuing CA");
    let issued = authority.issue_runner(&issuer, "org_a", "run_1", &csr, Some(90)).expect("issued");
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>().expect("PEM");
    (chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// Shakes hands as a runner would; gives the server's end, its failure in words of the table.
async fn handshake(
    server: &Authority,
    trusted: &Authority,
    identity: Option<Identity>,
) -> Result<Option<Vec<u8>>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.root().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut client = match identity {
        Some((chain, key)) => client.with_client_auth_cert(chain, key).expect("an identity"),
        None => client.with_no_client_auth(),
    };
    client.alpn_protocols = vec![shared_proto::TUNNEL_ALPN.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server.runner_tls_config().expect("TLS")));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let client = TlsConnector::from(Arc::new(client));
    let server = async {
        let accepted = accept(&acceptor, near).await;
        // its end closes here, which ends the client's read
        accepted.map(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    };
    let client = async {
        // a client that is refused learns of it by its first read, which also keeps its end open until then
        if let Ok(mut stream) = client.connect(name, far).await {
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
        }
    };
    tokio::join!(server, client).0
}

#[test]
fn the_root_stays_the_same_and_its_key_is_its_owners() {
    let data = tempfile::tempdir().expect("a folder");
    let first = authority(data.path()).root_pem().to_owned();
    let second = authority(data.path());
    assert_eq!(first, second.root_pem());
    assert!(second.trust_domain().ends_with(".runner.internal"));
    let mode = std::fs::metadata(data.path().join(ROOT_KEY_FILE)).expect("the key").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    drop((authority(a.path()), authority(b.path())));
    std::fs::copy(b.path().join(ROOT_KEY_FILE), a.path().join(ROOT_KEY_FILE)).expect("copies");
    let error = Authority::open(a.path(), vec![]).expect_err("refused").to_string();
    assert!(error.contains("not the key of"), "{error}");
    for (file, content) in [(ROOT_FILE, ""), (ROOT_FILE, "nonsense"), (ROOT_KEY_FILE, "nonsense")] {
        let data = tempfile::tempdir().expect("a folder");
        drop(authority(data.path()));
        std::fs::write(data.path().join(file), content).expect("writes");
        assert!(matches!(Authority::open(data.path(), vec![]), Err(PkiError::Content { .. })), "{file} {content:?}");
    }
    let data = tempfile::tempdir().expect("a folder");
    drop(authority(data.path()));
    std::fs::remove_file(data.path().join(ROOT_KEY_FILE)).expect("removes");
    assert!(matches!(Authority::open(data.path(), vec![]), Err(PkiError::File { .. })));
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let data = tempfile::tempdir().expect("a folder");
    let authority = authority(data.path());
    let issuer = authority.make_issuer("org_a").expect("an issuing CA");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let csr = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let issued = authority.issue_runner(&issuer, "org_a", "run_1", &csr, Some(7)).expect("issued");
    let leaf = CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("PEM");
    let facts = CertificateFacts::read(&leaf).expect("a certificate");
    assert_eq!(facts.uris, [format!("spiffe://{}/org/org_a/runner/run_1", authority.trust_domain())]);
    assert!(facts.client_auth && !facts.server_auth && !facts.is_ca);
    assert!(facts.public_key.ends_with(key.public_key_raw()));
    assert_eq!(facts.serial.len(), 32);
    assert_eq!(facts.not_after * 1000, issued.not_after_ms);
    assert!((7 * 86_400..=7 * 86_400 + 600).contains(&(facts.not_after - facts.not_before)));
    assert!(!facts.subject.contains("evil") && !facts.subject.contains("rcgen"));
}

#[test]
fn requests_that_are_none() {
    let data = tempfile::tempdir().expect("a folder");
    let authority = authority(data.path());
    let issuer = authority.make_issuer("org_a").expect("an issuing CA");
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let p384 = CertificateParams::default().serialize_request(&p384).expect("a request").pem().expect("PEM");
    let good = KeyPair::generate().expect("a key");
    let good = CertificateParams::default().serialize_request(&good).expect("a request").pem().expect("PEM");
    let mut forged = pem_bytes(&good);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = pem_text(&forged);
    for bad in ["", "nonsense", &good[..200], &p384, &forged, authority.root_pem()] {
        let failure = authority.issue_runner(&issuer, "org_a", "run_1", bad, Some(90)).expect_err("refused");
        assert_eq!(failure.code, Code::InvalidArgument, "{failure}");
    }
    let long = format!("{good}{}", "\n".repeat(20_000) + "x");
    assert_eq!(authority.issue_runner(&issuer, "o", "r", &long, Some(90)).expect_err("refused").code, Code::TooLarge);
    for days in [0, DAYS_MAX + 1] {
        assert!(authority.issue_runner(&issuer, "o", "r", &good, Some(days)).is_err());
    }
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let ed25519 = CertificateParams::default().serialize_request(&ed25519).expect("a request").pem().expect("PEM");
    authority.issue_runner(&issuer, "org_a", "run_1", &ed25519, Some(90)).expect("Ed25519 is taken");
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).map(str::trim).collect();
    base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
}
fn pem_text(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn server_names() {
    use std::str::FromStr as _;
    assert_eq!(ServerName::from_str("[::1]"), Ok(ServerName::Ip("::1".parse().expect("an address"))));
    assert_eq!(ServerName::from_str("CP.example"), Ok(ServerName::Dns("cp.example".into())));
    for bad in ["", "a b", "-a", "a..b", "*.a", "a/b", "https://a", "a:1"] {
        assert!(ServerName::from_str(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_runner_shakes_hands() {
    let data = tempfile::tempdir().expect("a folder");
    let authority = authority(data.path());
    let alpn = handshake(&authority, &authority, Some(runner_identity(&authority))).await.expect("shakes hands");
    assert_eq!(alpn.as_deref(), Some(shared_proto::TUNNEL_ALPN));
    authority.renew_server_certificate().expect("renews");
    handshake(&authority, &authority, Some(runner_identity(&authority))).await.expect("shakes hands");
}

#[tokio::test]
async fn each_refusal_of_tls_has_its_code() {
    let (data, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (authority, other) = (authority(data.path()), authority(other.path()));
    let code = |r: Result<Option<Vec<u8>>, Failure>| r.err().map(|f| f.code);
    assert_eq!(code(handshake(&authority, &authority, None).await), Some(Code::CertificateMissing));
    let strangers = runner_identity(&other);
    assert_eq!(code(handshake(&authority, &authority, Some(strangers)).await), Some(Code::UnknownCa));
    // the runner does not know this control plane, and says so by its alert
    let own = runner_identity(&authority);
    assert_eq!(code(handshake(&authority, &other, Some(own)).await), Some(Code::ServerUntrusted));

    for (usage, days, wanted) in [
        (rcgen::ExtendedKeyUsagePurpose::ServerAuth, (-1, 1), Code::CertificatePurpose),
        (rcgen::ExtendedKeyUsagePurpose::ClientAuth, (-2, -1), Code::CertificateExpired),
        (rcgen::ExtendedKeyUsagePurpose::ClientAuth, (1, 2), Code::CertificateNotYetValid),
    ] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![usage];
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now + time::Duration::days(days.0);
        params.not_after = now + time::Duration::days(days.1);
        let leaf = params.signed_by(&key, &authority.root).expect("signs");
        let identity = (vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()));
        assert_eq!(code(handshake(&authority, &authority, Some(identity)).await), Some(wanted));
    }
}

#[tokio::test]
async fn an_issuing_ca_makes_no_server() {
    // what an issuing CA signs is for clients, whatever it says: the runner's end refuses it
    let data = tempfile::tempdir().expect("a folder");
    let authority = authority(data.path());
    let issuer = authority.make_issuer("org_a").expect("an issuing CA");
    let ca_key = KeyPair::from_pem(issuer.private_key.expose()).expect("a key");
    let ca = Issuer::from_ca_cert_pem(&issuer.certificate, ca_key).expect("an issuer");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let now = time::OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - time::Duration::days(1), now + time::Duration::days(1));
    let leaf = params.signed_by(&key, &ca).expect("signs");
    let chain = [leaf.der().clone(), CertificateDer::from_pem_slice(issuer.certificate.as_bytes()).expect("PEM")];
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).expect("a root");
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .expect("a verifier");
    let refused = rustls::client::danger::ServerCertVerifier::verify_server_cert(
        &*verifier,
        &chain[0],
        &chain[1..],
        &rustls::pki_types::ServerName::try_from("localhost").expect("a name"),
        &[],
        rustls::pki_types::UnixTime::now(),
    );
    let error = refused.expect_err("refused");
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}
