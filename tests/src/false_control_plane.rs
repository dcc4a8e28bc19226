//! A control plane that a runner trusts and that does as the test says: it has the real one's root, welcomes the runner, and then
//! sends what no control plane should.

use crate::{ControlPlane, https, pki};
use anyhow::{Context as _, Result, bail};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use shared_proto::v1;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const DEADLINE: Duration = Duration::from_secs(30);

/// Where a runner may be led to.
pub struct FalseControlPlane {
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
    address: SocketAddr,
}

/// A session with a runner that believes in it.
pub struct FalseSession {
    channel: Channel,
    control: mpsc::Sender<v1::ControlMessage>,
    runner: tonic::Streaming<v1::RunnerMessage>,
    /// What the runner said of itself.
    pub hello: v1::Hello,
}

impl FalseControlPlane {
    /// One with a server certificate of that control plane's root.
    ///
    /// # Errors
    /// The system's.
    pub async fn new(real: &ControlPlane) -> Result<Self> {
        let (root, key) = (real.root()?, pki::new_key()?);
        let chain = root.issue(
            &key,
            &pki::Forgery {
                uris: Vec::new(),
                names: vec!["127.0.0.1".into(), "localhost".into()],
                usage: vec![ExtendedKeyUsagePurpose::ServerAuth],
                since: 3600,
                until: 3600,
            },
        )?;
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let roots = Arc::new(https::roots(root.pem())?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, https::provider()).build()?;
        let mut config = rustls::ServerConfig::builder_with_provider(https::provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?)?;
        config.alpn_protocols = vec![shared_proto::TUNNEL_ALPN.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, acceptor: tokio_rustls::TlsAcceptor::from(Arc::new(config)), address })
    }
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// Waits for a runner's tunnel: TLS is done, nothing was sent. Connections for something else are let go.
    ///
    /// # Errors
    /// None comes.
    pub async fn accept(&self) -> Result<TlsStream<TcpStream>> {
        let accept = async {
            loop {
                let (stream, _) = self.listener.accept().await?;
                stream.set_nodelay(true)?;
                if let Ok(stream) = self.acceptor.accept(stream).await {
                    return Ok(stream);
                }
            }
        };
        tokio::time::timeout(DEADLINE, accept).await.context("no runner came")?
    }
    /// Waits for a runner's tunnel and calls it as a control plane would, until the runner has said who it is; welcome is not said.
    ///
    /// # Errors
    /// None comes, or it does not speak.
    pub async fn session(&self) -> Result<FalseSession> {
        let stream = self.accept().await?;
        let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::other("the tunnel is used up")) }
        });
        let channel = Endpoint::from_static("http://runner").connect_with_connector(connector).await?;
        let (control, messages) = mpsc::channel(16);
        let mut client = v1::session_client::SessionClient::new(channel.clone());
        let open = client.open(ReceiverStream::new(messages));
        let mut runner = tokio::time::timeout(DEADLINE, open).await.context("Session.Open")??.into_inner();
        let first = tokio::time::timeout(DEADLINE, runner.message()).await.context("hello")??;
        let Some(v1::RunnerMessage { kind: Some(v1::runner_message::Kind::Hello(hello)) }) = first else {
            bail!("the runner did not say hello first")
        };
        Ok(FalseSession { channel, control, runner, hello })
    }
}

impl FalseSession {
    /// Sends anything.
    ///
    /// # Errors
    /// The session is gone.
    pub async fn send(&self, kind: v1::control_message::Kind) -> Result<()> {
        Ok(self.control.send(v1::ControlMessage { kind: Some(kind) }).await?)
    }
    /// Welcomes the runner, and answers its pings from then on.
    ///
    /// # Errors
    /// The session is gone.
    pub async fn welcome(mut self) -> Result<Channel> {
        let welcome = v1::Welcome {
            session_id: "false-session".into(),
            version: shared_proto::VERSION.into(),
            control_plane_time_ms: shared_proto::now_ms(),
            ping_interval_ms: 3000,
            notice: String::new(),
        };
        self.send(v1::control_message::Kind::Welcome(welcome)).await?;
        let channel = self.channel.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = self.runner.message().await {
                if let Some(v1::runner_message::Kind::Ping(ping)) = message.kind {
                    let pong = v1::control_message::Kind::Pong(v1::Pong { nonce: ping.nonce });
                    if self.send(pong).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(channel)
    }
    /// The runner's next message.
    ///
    /// # Errors
    /// The session ended with an error, or nothing came.
    pub async fn next(&mut self) -> Result<Option<v1::RunnerMessage>> {
        Ok(tokio::time::timeout(DEADLINE, self.runner.message()).await.context("nothing came")??)
    }
}
