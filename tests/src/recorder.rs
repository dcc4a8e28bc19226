//! A wire that keeps what passes on it: plain, or with TLS that it ends and begins again, so that what is within can be looked at.

use crate::https::{provider, roots};
use crate::pki;
use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The most that is kept, bytes; what comes later passes all the same.
const KEPT_MAX: usize = 256 * 1024 * 1024;
/// Read at once, bytes.
const READ: usize = 64 * 1024;

/// The wire.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    kept: Kept,
    accepting: tokio::task::JoinHandle<()>,
}

type Kept = Arc<Mutex<Vec<u8>>>;

/// TLS at both its ends.
#[derive(Clone)]
struct Tls {
    accept: tokio_rustls::TlsAcceptor,
    connect: tokio_rustls::TlsConnector,
}

impl Recorder {
    /// To a target without TLS.
    ///
    /// # Errors
    /// The system's.
    pub async fn plain(target: SocketAddr) -> Result<Self> {
        Self::start(target, None).await
    }

    /// To a target with TLS whose CA is that; and the CA of this end.
    ///
    /// # Errors
    /// The system's, or a PEM that is none.
    pub async fn tls(target: SocketAddr, ca_pem: &str) -> Result<(Self, String)> {
        let (server, pem) = pki::server_tls()?;
        let mut client = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(ca_pem)?)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = Tls { accept: Arc::new(server).into(), connect: Arc::new(client).into() };
        Ok((Self::start(target, Some(tls)).await?, pem))
    }

    async fn start(target: SocketAddr, tls: Option<Tls>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a recorder's listener")?;
        let address = listener.local_addr()?;
        let kept = Kept::default();
        let into = kept.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, into) = (tls.clone(), into.clone());
                tokio::spawn(async move {
                    // an end that goes away is no failure of the wire
                    let _ = serve(stream, target, tls, into).await;
                });
            }
        });
        Ok(Self { address, kept, accepting })
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// How many bytes have passed.
    pub fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
    /// Whether none have.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether that has passed, in one piece and in either direction.
    pub fn has(&self, text: &str) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.windows(text.len()).any(|w| w == text.as_bytes())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, target: SocketAddr, tls: Option<Tls>, kept: Kept) -> Result<()> {
    let onward = TcpStream::connect(target).await?;
    match tls {
        None => both(stream, onward, kept).await,
        Some(Tls { accept, connect }) => {
            let onward = connect.connect(ServerName::IpAddress(target.ip().into()), onward).await?;
            both(accept.accept(stream).await?, onward, kept).await
        }
    }
}

async fn both<A, B>(a: A, b: B, kept: Kept) -> Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let ((from_a, to_a), (from_b, to_b)) = (tokio::io::split(a), tokio::io::split(b));
    tokio::try_join!(one(from_a, to_b, kept.clone()), one(from_b, to_a, kept)).map(|_| ())
}

async fn one(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, kept: Kept) -> Result<()> {
    // in order of its own: two directions and many connections must not tear a word apart
    let mut said = Vec::new();
    let mut buffer = vec![0; READ];
    loop {
        let n = from.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        said.extend_from_slice(&buffer[..n]);
        {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() + said.len() < KEPT_MAX {
                // with the end of what came before, so that a word in two pieces is found
                kept.extend_from_slice(&said);
                kept.push(0);
            }
        }
        let tail = said.len().saturating_sub(256);
        said.drain(..tail);
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
    }
}
