//! An HTTP CONNECT proxy of the tests' own: with and without a password, and one that answers as no proxy should.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The longest request head that is read, bytes.
const HEAD_MAX: usize = 16 * 1024;

/// How it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Connects whoever asks.
    Open,
    /// Asks for this user and password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// Sends these bytes and closes.
    Says(Vec<u8>),
    /// Sends these bytes and stays.
    SaysAndStays(Vec<u8>),
    /// Answers well, as an HTTP/1.0 proxy with headers of its own, in two pieces.
    InPieces,
}

/// The proxy.
#[derive(Debug)]
pub struct HttpProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl HttpProxy {
    /// One on loopback.
    ///
    /// # Errors
    /// The system's.
    pub async fn new(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a proxy's listener")?;
        let address = listener.local_addr()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (manner, log) = (manner.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    // a client that goes away is no failure of the proxy
                    let _ = serve(stream, &manner, &log).await;
                });
            }
        });
        Ok(Self { address, asked, accepting })
    }
    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    /// What was asked of it: the target of each CONNECT, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: TcpStream, manner: &Manner, log: &Mutex<Vec<String>>) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < HEAD_MAX, "the head is too long");
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head
        .lines()
        .next()
        .and_then(|l| l.strip_prefix("CONNECT "))
        .and_then(|l| l.split(' ').next())
        .map(str::to_owned);
    let Some(target) = target else {
        client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n").await?;
        return Ok(());
    };
    log.lock().unwrap_or_else(PoisonError::into_inner).push(target.clone());
    match manner {
        Manner::Says(bytes) => return Ok(client.write_all(bytes).await?),
        Manner::SaysAndStays(bytes) => {
            client.write_all(bytes).await?;
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await?;
            return Ok(());
        }
        Manner::Password { user, password } => {
            let due = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            let given = head.lines().find_map(|l| {
                let (name, value) = l.split_once(':')?;
                name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
            });
            if given != Some(format!("Basic {due}")) {
                let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"tests\"\r\n\
                              content-length: 0\r\n\r\n";
                return Ok(client.write_all(answer.as_bytes()).await?);
            }
        }
        Manner::Open | Manner::InPieces => {}
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return Ok(client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await?);
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let answer: &[u8] = match manner {
        Manner::InPieces => b"HTTP/1.0 200 OK\r\nvia: tests\r\nx-filler: yes\r\n\r\n",
        _ => b"HTTP/1.1 200 Connection established\r\n\r\n",
    };
    let (first, second) = answer.split_at(9);
    client.write_all(first).await?;
    client.write_all(second).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
