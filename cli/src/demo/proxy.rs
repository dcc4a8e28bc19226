//! The way between runner and control plane, so that the demonstration can cut it: a TCP proxy on loopback that understands
//! nothing of what passes.

use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Connections at once.
const CONNECTIONS: usize = 64;

/// The proxy; dropping it ends it.
#[derive(Debug)]
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

// === impl Proxy ===

impl Proxy {
    /// Listens on a free loopback port; where to is said later.
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (target, to) = watch::channel(None);
        let (open, is_open) = watch::channel(true);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((incoming, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                let target = *to.borrow();
                // cut: whoever dials is hung up on, as by a firewall that resets
                if let (Some(target), true) = (target, *is_open.borrow() && connections.len() < CONNECTIONS) {
                    connections.spawn(pass(incoming, target, is_open.clone()));
                }
            }
        });
        Ok(Self { address, target, open, task })
    }
    /// Where it passes connections on to.
    pub(super) fn point_at(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }
    /// Drops all connections and takes none.
    pub(super) fn cut(&self) {
        self.open.send_replace(false);
    }
    /// Takes connections again.
    pub(super) fn restore(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut incoming: TcpStream, target: SocketAddr, mut is_open: watch::Receiver<bool>) {
    let work = async {
        let mut outgoing = TcpStream::connect(target).await?;
        incoming.set_nodelay(true)?;
        outgoing.set_nodelay(true)?;
        copy_bidirectional(&mut incoming, &mut outgoing).await
    };
    tokio::select! {
        _ = work => (),
        _ = is_open.wait_for(|open| !open) => (),
    }
}

#[cfg(test)]
mod tests {
    use super::Proxy;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn it_passes_cuts_and_passes_again() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let proxy = Proxy::start().await.expect("starts");
        proxy.point_at(server.local_addr().expect("an address"));
        let pair = async || {
            let (client, accepted) = tokio::join!(TcpStream::connect(proxy.address), server.accept());
            (client.expect("connects"), accepted.expect("accepts").0)
        };
        let (mut client, mut peer) = pair().await;
        client.write_all(b"ping").await.expect("writes");
        let mut buf = [0; 4];
        peer.read_exact(&mut buf).await.expect("reads");
        assert_eq!(&buf, b"ping");
        proxy.cut();
        // both ends see it
        assert!(matches!(client.read(&mut buf).await, Ok(0) | Err(_)));
        assert!(matches!(peer.read(&mut buf).await, Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.address).await.expect("is accepted");
        assert!(matches!(refused.read(&mut buf).await, Ok(0) | Err(_)));
        proxy.restore();
        let (mut client, mut peer) = pair().await;
        peer.write_all(b"pong").await.expect("writes");
        client.read_exact(&mut buf).await.expect("reads");
        assert_eq!(&buf, b"pong");
    }
}
