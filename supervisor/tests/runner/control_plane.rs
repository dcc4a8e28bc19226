//! As much of a control plane as a runner needs: a listener with its own CA, the session's conversation, and the caller of operations.

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shared_proto::api_key::{self, Purpose};
use shared_proto::credentials::{CredentialsFile, VERSION};
use shared_proto::flow::cost;
use shared_proto::secret::Secret;
use shared_proto::v1::operations_client::OperationsClient;
use shared_proto::v1::session_client::SessionClient;
use shared_proto::v1::{self, control_message as control, operation_input, operation_output, runner_message};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::body::Body;

type Send = hyper::client::conn::http2::SendRequest<Body>;

/// The listener, and what runners know of it.
pub(crate) struct ControlPlane {
    accepted: Mutex<mpsc::Receiver<Connection>>,
    credentials: CredentialsFile,
}

/// A connection that a runner dialled.
pub(crate) struct Connection {
    send: Send,
    socket: std::net::TcpStream,
}

/// An open session.
pub(crate) struct Session {
    connection: Connection,
    pub(crate) hello: v1::Hello,
    deregistered: tokio::sync::oneshot::Receiver<()>,
    talk: tokio::task::JoinHandle<()>,
}

/// An operation in flight.
pub(crate) struct Operation {
    input: mpsc::Sender<v1::OperationInput>,
    output: Streaming<v1::OperationOutput>,
    credit: u64,
}

#[derive(Clone)]
struct Transport(Send);

impl tower::Service<http::Request<Body>> for Transport {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + std::marker::Send>>;
    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let (config, credentials) = identity(port);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (give, accepted) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (acceptor, give) = (acceptor.clone(), give.clone());
                tokio::spawn(async move {
                    let _ = socket.set_nodelay(true);
                    let own = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned().expect("a descriptor"));
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    if stream.get_ref().1.alpn_protocol() != Some(shared_proto::TUNNEL_ALPN) {
                        return;
                    }
                    let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                        .timer(TokioTimer::new())
                        .initial_stream_window_size(8 << 20)
                        .initial_connection_window_size(64 << 20)
                        .handshake(TokioIo::new(stream))
                        .await
                        .expect("speaks HTTP/2");
                    let _ = give.send(Connection { send, socket: own }).await;
                    let _ = connection.await;
                });
            }
        });
        Self { accepted: Mutex::new(accepted), credentials }
    }
    pub(crate) fn credentials(&self) -> CredentialsFile {
        self.credentials.clone()
    }
    /// The next connection that comes in.
    pub(crate) async fn connection(&self) -> Connection {
        let mut accepted = self.accepted.lock().await;
        tokio::time::timeout(crate::PATIENCE, accepted.recv()).await.expect("in time").expect("a connection")
    }
}

impl Connection {
    fn operations(&self) -> OperationsClient<Transport> {
        OperationsClient::with_origin(Transport(self.send.clone()), http::Uri::from_static("http://runner"))
    }
    pub(crate) async fn begin(&self, request: v1::OperationRequest) -> Operation {
        let (input, messages) = mpsc::channel(4);
        input.send(v1::OperationInput { kind: Some(operation_input::Kind::Request(request)) }).await.expect("open");
        let output = self.operations().run(ReceiverStream::new(messages)).await.expect("answers").into_inner();
        Operation { input, output, credit: 0 }
    }
    /// Runs one to its end, granting what comes.
    pub(crate) async fn run(&self, request: v1::OperationRequest) -> (v1::Outcome, Vec<u8>) {
        self.begin(request).await.end().await
    }
    /// Opens the session and welcomes the runner.
    pub(crate) async fn open(self) -> Session {
        let mut client =
            SessionClient::with_origin(Transport(self.send.clone()), http::Uri::from_static("http://runner"));
        let (say, messages) = mpsc::channel(16);
        let mut incoming = client.open(ReceiverStream::new(messages)).await.expect("answers").into_inner();
        let Some(runner_message::Kind::Hello(hello)) = incoming.message().await.expect("speaks").and_then(|m| m.kind)
        else {
            panic!("no Hello")
        };
        let welcome = v1::Welcome {
            session_id: "s1".into(),
            version: "0.1.0".into(),
            control_plane_time_ms: shared_proto::now_ms(),
            ..Default::default()
        };
        let said = |kind| v1::ControlMessage { kind: Some(kind) };
        say.send(said(control::Kind::Welcome(welcome))).await.expect("open");
        let (tell, deregistered) = tokio::sync::oneshot::channel();
        let (welcomed, is_welcome) = tokio::sync::oneshot::channel();
        let talk = tokio::spawn(async move {
            let (mut tell, mut welcomed) = (Some(tell), Some(welcomed));
            while let Ok(Some(message)) = incoming.message().await {
                match message.kind {
                    Some(runner_message::Kind::Ping(p)) => {
                        let _ = say.send(said(control::Kind::Pong(v1::Pong { nonce: p.nonce }))).await;
                        // its first ping comes once it is open
                        welcomed.take().map(|w| w.send(()));
                    }
                    Some(runner_message::Kind::Deregister(_)) => drop(tell.take().map(|t| t.send(()))),
                    _ => {}
                }
            }
        });
        is_welcome.await.expect("a ping");
        Session { connection: self, hello, deregistered, talk }
    }
}

impl Session {
    pub(crate) async fn begin(&self, request: v1::OperationRequest) -> Operation {
        self.connection.begin(request).await
    }
    pub(crate) async fn run(&self, request: v1::OperationRequest) -> (v1::Outcome, Vec<u8>) {
        tokio::time::timeout(crate::PATIENCE, self.connection.run(request)).await.expect("in time")
    }
    /// Has the connection go without a word.
    pub(crate) fn cut(&self) {
        self.connection.socket.shutdown(std::net::Shutdown::Both).expect("is open");
    }
    pub(crate) async fn deregistered(&mut self) {
        tokio::time::timeout(crate::PATIENCE, &mut self.deregistered).await.expect("in time").expect("deregisters");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.talk.abort();
    }
}

impl Operation {
    pub(crate) async fn send(&self, kind: operation_input::Kind) {
        // an operation that has ended takes nothing more
        let _ = self.input.send(v1::OperationInput { kind: Some(kind) }).await;
    }
    /// Says that nothing more comes from here.
    pub(crate) fn half_close(&mut self) {
        self.input = mpsc::channel(1).0;
    }
    /// The next message that is no credit.
    pub(crate) async fn next(&mut self) -> operation_output::Kind {
        loop {
            let message = tokio::time::timeout(crate::PATIENCE, self.output.message()).await.expect("in time");
            match message.expect("a good end").expect("not the end").kind.expect("a kind") {
                operation_output::Kind::Flow(flow) => self.credit += flow.credit,
                kind => return kind,
            }
        }
    }
    /// Waits for the worker's first sign.
    pub(crate) async fn first(&mut self) {
        let kind = self.next().await;
        assert!(matches!(kind, operation_output::Kind::Stderr(_)), "{kind:?}");
    }
    /// Reads to the end, granting what comes.
    pub(crate) async fn end(&mut self) -> (v1::Outcome, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let length = match self.next().await {
                operation_output::Kind::Outcome(outcome) => {
                    assert!(self.output.message().await.expect("a good end").is_none(), "more after the outcome");
                    return (outcome, data);
                }
                operation_output::Kind::Data(bytes) => {
                    data.extend_from_slice(&bytes);
                    bytes.len()
                }
                operation_output::Kind::Stderr(bytes) => bytes.len(),
                operation_output::Kind::Flow(_) | operation_output::Kind::Head(_) => 0,
            };
            self.send(operation_input::Kind::Flow(v1::Flow { credit: cost(length) })).await;
        }
    }
    /// Sends these as standard input within the credit, closes it, and reads to the end.
    pub(crate) async fn through(&mut self, mut bytes: &[u8]) -> (v1::Outcome, Vec<u8>) {
        let mut data = Vec::new();
        let mut closed = false;
        loop {
            while !bytes.is_empty() && self.credit >= cost(1024.min(bytes.len())) {
                let n = bytes.len().min((self.credit - cost(0)) as usize).min(shared_proto::bounds::DATA_MAX);
                self.credit -= cost(n);
                self.send(operation_input::Kind::Stdin(bytes[..n].to_vec().into())).await;
                bytes = &bytes[n..];
            }
            if bytes.is_empty() && !closed {
                closed = true;
                self.send(operation_input::Kind::StdinClosed(v1::StdinClosed {})).await;
            }
            match self.output.message().await.expect("a good end").expect("not the end").kind.expect("a kind") {
                operation_output::Kind::Flow(flow) => self.credit += flow.credit,
                operation_output::Kind::Data(more) => {
                    data.extend_from_slice(&more);
                    self.send(operation_input::Kind::Flow(v1::Flow { credit: cost(more.len()) })).await;
                }
                operation_output::Kind::Stderr(_) | operation_output::Kind::Head(_) => {}
                operation_output::Kind::Outcome(outcome) => return (outcome, data),
            }
        }
    }
}

/// A CA, a server certificate for 127.0.0.1, and a runner's credentials.
fn identity(port: u16) -> (rustls::ServerConfig, CredentialsFile) {
    let (ca_key, server_key, runner_key) = (key(), key(), key());
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("signs");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let mut server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let server_certificate = server.signed_by(&server_key, &issuer).expect("signs");
    let mut runner = rcgen::CertificateParams::default();
    runner.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    runner.subject_alt_names =
        vec![rcgen::SanType::URI("spiffe://test/org/acme/runner/r1".to_owned().try_into().expect("ascii"))];
    let runner_certificate = runner.signed_by(&runner_key, &issuer).expect("signs");

    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).expect("a CA");
    let provider = runner_supervisor::tunnel::tls::provider();
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .expect("builds");
    let chain: Vec<CertificateDer<'static>> = vec![server_certificate.der().clone()];
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der())))
        .expect("fits");
    config.alpn_protocols = vec![shared_proto::TUNNEL_ALPN.to_vec(), shared_proto::EXECUTION_ALPN.to_vec()];
    let endpoint = format!("https://127.0.0.1:{port}");
    let credentials = CredentialsFile {
        version: VERSION,
        organization: "acme".into(),
        runner: "r1".into(),
        tunnel_endpoint: endpoint.clone(),
        execution_endpoint: endpoint,
        ca: ca_certificate.pem(),
        certificate: runner_certificate.pem(),
        private_key: Secret::new(runner_key.serialize_pem()),
        api_key: api_key::generate(Purpose::Runner).expect("random"),
    };
    (config, credentials)
}

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().expect("a key")
}
