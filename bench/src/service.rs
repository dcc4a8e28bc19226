//! The local services that streams are connected to: one that sends for ever, one that sends back, one that says a byte at once.

use anyhow::Result;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sends for ever.
    Source,
    /// Sends back what it gets.
    Echo,
    /// Sends a byte at once, and stays.
    Hello,
}

/// Where they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Services {
    source: SocketAddr,
    echo: SocketAddr,
    hello: SocketAddr,
}

// === impl Services ===

impl Services {
    /// Starts them; they end with the process.
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self {
            source: serve(Kind::Source).await?,
            echo: serve(Kind::Echo).await?,
            hello: serve(Kind::Hello).await?,
        })
    }
    /// Where one is.
    pub(crate) const fn address(&self, kind: Kind) -> SocketAddr {
        match kind {
            Kind::Source => self.source,
            Kind::Echo => self.echo,
            Kind::Hello => self.hello,
        }
    }
}

async fn serve(kind: Kind) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // a peer that goes away is how every stream ends
                let _ = one(stream, kind).await;
            });
        }
    });
    Ok(address)
}

async fn one(mut stream: TcpStream, kind: Kind) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match kind {
        Kind::Source => {
            let piece = vec![0x5a; 256 * 1024];
            loop {
                stream.write_all(&piece).await?;
            }
        }
        Kind::Echo => {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return Ok(()),
                    n => stream.write_all(&buffer[..n]).await?,
                }
            }
        }
        Kind::Hello => {
            stream.write_all(&[1]).await?;
            let _ = stream.read(&mut [0; 16]).await?;
            Ok(())
        }
    }
}
