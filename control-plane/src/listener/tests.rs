//! The runners' port over real TCP and TLS, with the CA, the registry and credentials as they are handed out.

use super::*;
use crate::execution::{Archives, Jobs};
use crate::pki::{Authority, ServerName};
use crate::sessions::fake::{FakeRunner, hello, poll_until, until};
use crate::sessions::{Presence, Settings, StoredRegistry};
use crate::store::{NewCredentials, Organization, Runner, Store};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use shared_proto::api_key::{self, Purpose};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1;
use shared_proto::v1::execution_client::ExecutionClient;
use shared_proto::v1::operations_client::OperationsClient;
use std::time::Instant;
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;

struct World {
    _data: tempfile::TempDir,
    store: Store,
    authority: Arc<Authority>,
    sessions: Sessions,
    address: SocketAddr,
    stop: CancellationToken,
}

/// What a credentials file would hold.
struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    api_key: Secret,
    hello: v1::Hello,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let store = Store::in_memory().await.expect("a store");
        let names = vec![ServerName::Dns("localhost".into())];
        let authority = Arc::new(Authority::open(data.path(), names).expect("a CA"));
        let registry = Arc::new(StoredRegistry::new(store.clone(), authority.clone()));
        let sessions = Sessions::new(registry.clone(), Settings::default());
        tokio::spawn(sessions.clone().follow_revocations(store.revocations()));
        let archives = Archives::open(&data.path().join("archives")).await.expect("archives");
        let execution = Execution::new(Jobs::new(store.clone(), archives), sessions.clone(), registry);
        let tls = Arc::new(authority.runner_tls_config().expect("TLS"));
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = port.local_addr().expect("an address");
        let stop = CancellationToken::new();
        tokio::spawn(Listener::new(tls, sessions.clone(), execution).serve(port, stop.clone()));
        Self { _data: data, store, authority, sessions, address, stop }
    }

    /// An organization with one runner, and that runner's credentials.
    async fn register(&self, organization: &str, runner: &str) -> Credentials {
        let issuer = self.authority.make_issuer(organization).expect("an issuing CA");
        let name = organization.replace('_', "-");
        let new = Organization { id: organization.into(), name, default_runner: None, created_at_ms: 1 };
        self.store.create_organization(&new, &issuer).await.expect("an organization");
        let new = Runner {
            id: runner.into(),
            organization: organization.into(),
            name: runner.replace('_', "-"),
            created_at_ms: 1,
            revoked_at_ms: None,
            last_seen_ms: None,
            ended: None,
        };
        self.store.create_runner(&new).await.expect("a runner");
        let pair = KeyPair::generate().expect("a key");
        let csr = CertificateParams::default().serialize_request(&pair).expect("a request").pem().expect("PEM");
        let issued = self.authority.issue_runner(&issuer, organization, runner, &csr, Some(1)).expect("issued");
        let api_key = api_key::generate(Purpose::Runner).expect("a key");
        let new = NewCredentials {
            organization,
            runner,
            serial: &issued.serial,
            life_s: issued.life_s,
            public_key_sha256: &issued.public_key_sha256,
            renews: None,
            not_after_ms: issued.not_after_ms,
            api_key: api_key::parse(Purpose::Runner, api_key.expose()).expect("a key"),
        };
        self.store.keep_credentials(&new).await.expect("kept");
        Credentials {
            chain: CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>().expect("PEM"),
            key: PrivateKeyDer::Pkcs8(pair.serialize_der().into()),
            hello: v1::Hello {
                organization_id: organization.into(),
                api_key: api_key.expose().into(),
                ..hello(runner, "i-1")
            },
            api_key,
        }
    }

    async fn connect(&self, who: &Credentials, alpn: &[&[u8]]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.root().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(who.chain.clone(), who.key.clone_key())
            .expect("an identity");
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        let stream = TcpStream::connect(self.address).await.expect("the port is open");
        stream.set_nodelay(true).expect("a socket");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("mutual TLS")
    }

    async fn tunnel(&self, who: &Credentials, hello: v1::Hello) -> FakeRunner {
        FakeRunner::over(self.connect(who, &[TUNNEL_ALPN]).await, hello)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_runner_is_welcome_serves_and_is_revoked_within_a_second() {
    let world = World::new().await;
    let who = world.register("org_a", "run_1").await;
    let runner = world.tunnel(&who, who.hello.clone()).await.welcome().await;
    let request = v1::OperationRequest { connection: "hang".into(), ..Default::default() };
    let mut operation = world.sessions.run("org_a", "run_1", request).await.expect("a session");
    until(&mut runner.state.running.subscribe(), |n| *n == 1).await;
    let start = Instant::now();
    world.store.revoke_runner("org_a", "run_1").await.expect("revoked");
    let ended = tokio::time::timeout(Duration::from_secs(60), operation.next()).await.expect("in time");
    assert!(matches!(ended, crate::operations::Output::Outcome(o) if o.code == "certificate_revoked"));
    assert_eq!(runner.refused().await, "certificate_revoked");
    poll_until(|| world.sessions.presence("org_a", "run_1") == Presence::Absent).await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let again = world.tunnel(&who, who.hello.clone()).await;
    assert_eq!(again.refused().await, "certificate_revoked");
    poll_until(|| world.sessions.counts() == (0, 0)).await;
}

#[tokio::test]
async fn parts_of_two_credentials_do_not_go_together() {
    let world = World::new().await;
    let a = world.register("org_a", "run_1").await;
    let b = world.register("org_b", "run_2").await;
    let cases = [
        (b.hello.clone(), Code::OrganizationMismatch),
        (v1::Hello { api_key: b.hello.api_key.clone(), ..a.hello.clone() }, Code::ApiKeyOtherRunner),
        (v1::Hello { api_key: String::new(), ..a.hello.clone() }, Code::ApiKeyInvalid),
        (v1::Hello { runner_id: "run_2".into(), ..a.hello.clone() }, Code::OrganizationMismatch),
    ];
    for (hello, code) in cases {
        assert_eq!(world.tunnel(&a, hello).await.refused().await, code.as_str());
    }
    assert_eq!(world.sessions.counts(), (0, 0));
}

#[tokio::test]
async fn alpn_keeps_tunnel_and_execution_service_apart() {
    let world = World::new().await;
    let who = world.register("org_a", "run_1").await;
    let stream = world.connect(&who, &[EXECUTION_ALPN]).await;
    let (channel, _driver) = crate::sessions::handshake(stream, 8 << 20, 8).await.expect("HTTP/2");
    let mut client = ExecutionClient::with_origin(channel.clone(), crate::sessions::origin());
    let call = |key: &str| {
        let mut request =
            tonic::Request::new(v1::WorkRequest { instance_id: "i-1".into(), slots: 1, ..Default::default() });
        request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().expect("ASCII"));
        request
    };
    let mut work = client.work(call(who.api_key.expose())).await.expect("work").into_inner();
    let first = work.message().await.expect("goes on").expect("an item");
    assert!(matches!(first.kind, Some(v1::work_item::Kind::Heartbeat(_))));
    let stranger = api_key::generate(Purpose::Runner).expect("a key");
    let refused = client.work(call(stranger.expose())).await.map(drop).expect_err("refused");
    assert_eq!(Failure::from_status(&refused).expect("typed").code, Code::ApiKeyInvalid);
    // no other service is behind it
    let none = tokio_stream::empty();
    let other = OperationsClient::with_origin(channel, crate::sessions::origin()).run(none).await;
    assert_eq!(other.map(drop).expect_err("not here").code(), tonic::Code::Unimplemented);
    // neither of the two: closed
    let mut stream = world.connect(&who, &[]).await;
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn handshakes_in_progress_are_bounded_and_cut() {
    let world = World::new().await;
    let who = world.register("org_a", "run_1").await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        silent.push(TcpStream::connect(world.address).await.expect("accepted"));
    }
    let mut extra = TcpStream::connect(world.address).await.expect("accepted");
    let turned_away = tokio::time::timeout(Duration::from_secs(60), extra.read(&mut [0])).await.expect("in time");
    assert!(matches!(turned_away, Ok(0) | Err(_)), "closed without a byte");
    for stream in &mut silent {
        let cut = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut [0])).await.expect("in time");
        assert!(matches!(cut, Ok(0) | Err(_)));
    }
    let _runner = world.tunnel(&who, who.hello.clone()).await.welcome().await;
}
