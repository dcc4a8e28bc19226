//! A wire that can be cut: a TCP proxy between the runner and the control plane (or anything else), switched while it runs.
//!
//! ```text
//!   Pass      bytes go both ways, later by `delay` each way, in order, however many
//!   Silence   bytes are taken and dropped, ends of file too, new connections are accepted and nothing answers
//!   SilenceUp, SilenceDown   the same in one direction, towards the target or from it: a half-open path
//!   Reset     every connection is reset, new ones are reset at once
//!   Close     every connection is closed, new ones are closed at once
//! ```

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A piece of a copy, bytes.
const PIECE: usize = 64 * 1024;
/// Pieces on their way in one direction while there is a delay: 64 MiB, more than any window in the product.
const PIECES: usize = 1024;
/// On a wire without delay a copy holds one piece and no more, so that back-pressure passes through.
const NO_DELAY_PIECES: usize = 1;

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Passes everything on.
    Pass,
    /// Takes everything and passes nothing on.
    Silence,
    /// The same for what goes to the target.
    SilenceUp,
    /// The same for what comes from it.
    SilenceDown,
    /// Resets what is open and what comes.
    Reset,
    /// Closes what is open and what comes.
    Close,
}

/// What connections are told. Two switches in quick succession are seen as one, so cuts are counted: none is missed.
#[derive(Debug, Clone, Copy)]
struct State {
    wire: Wire,
    cuts: u64,
    last_cut: Wire,
}

/// The proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct Cutter {
    address: SocketAddr,
    state: watch::Sender<State>,
    target: watch::Sender<SocketAddr>,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicUsize,
    accepted: AtomicU64,
    bytes: AtomicU64,
}

impl Cutter {
    /// A wire to a target.
    ///
    /// # Errors
    /// The system's.
    pub async fn new(target: SocketAddr) -> Result<Self> {
        Self::with_delay(target, Duration::ZERO).await
    }

    /// A wire that is so long, each way.
    ///
    /// # Errors
    /// The system's.
    pub async fn with_delay(target: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a wire's listener")?;
        let address = listener.local_addr()?;
        let (sender, state) = watch::channel(State { wire: Wire::Pass, cuts: 0, last_cut: Wire::Close });
        let (target, targets) = watch::channel(target);
        let shared = Arc::new(Shared::default());
        let counts = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                let (state, target, counts) = (state.clone(), *targets.borrow(), Arc::clone(&counts));
                tokio::spawn(async move {
                    counts.connections.fetch_add(1, Ordering::Relaxed);
                    serve(stream, target, state, delay, &counts).await;
                    counts.connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { address, state: sender, target, shared, accepting })
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
    /// Switches it.
    pub fn set(&self, wire: Wire) {
        self.state.send_modify(|state| {
            state.wire = wire;
            if matches!(wire, Wire::Reset | Wire::Close) {
                state.cuts += 1;
                state.last_cut = wire;
            }
        });
    }
    /// Leads new connections elsewhere.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
    /// Connections that came, ever.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
    /// Bytes that were passed on, both ways.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Wire::Close);
    }
}

/// Makes closing a reset.
fn reset_on_close(stream: &TcpStream) {
    let _ = nix::sys::socket::setsockopt(
        stream,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    );
}

async fn serve(
    client: TcpStream,
    target: SocketAddr,
    mut state: watch::Receiver<State>,
    delay: Duration,
    counts: &Arc<Shared>,
) {
    let cuts = state.borrow().cuts;
    loop {
        let now = state.borrow_and_update().wire;
        match now {
            Wire::Reset => return reset_on_close(&client),
            Wire::Close => return,
            Wire::Pass => break,
            // nothing is heard of it at the other end until the way is open, as of a SYN that is sent again
            Wire::Silence | Wire::SilenceUp | Wire::SilenceDown => {
                if state.changed().await.is_err() {
                    return;
                }
            }
        }
    }
    let Ok(server) = TcpStream::connect(target).await else { return reset_on_close(&client) };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let ended = {
        let up = copy(&mut client_read, &mut server_write, state.clone(), Wire::SilenceUp, delay, counts);
        let down = copy(&mut server_read, &mut client_write, state.clone(), Wire::SilenceDown, delay, counts);
        let both = async { tokio::join!(up, down) };
        tokio::select! {
            _ = both => Wire::Pass,
            ended = async {
                match state.wait_for(|state| state.cuts != cuts).await {
                    Err(_) => Wire::Close,
                    Ok(state) => state.last_cut,
                }
            } => ended,
        }
    };
    if ended == Wire::Reset {
        for (read, write) in [(client_read, client_write), (server_read, server_write)] {
            if let Ok(stream) = read.reunite(write) {
                reset_on_close(&stream);
            }
        }
    }
}

/// Copies one direction, each piece `delay` after it came; ends it with the direction's own end. Nothing passes in silence, nor while the
/// wire is `silent`.
async fn copy(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    silent: Wire,
    delay: Duration,
    counts: &Shared,
) {
    let pieces = if delay.is_zero() { NO_DELAY_PIECES } else { PIECES };
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(pieces);
    let is_silent = move |state: &State| state.wire == Wire::Silence || state.wire == silent;
    let read = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => {
                    // an error only says that the wire goes
                    let _ = state.wait_for(|state| !is_silent(state)).await;
                    return;
                }
                Ok(n) => {
                    if is_silent(&state.borrow()) {
                        continue;
                    }
                    if sender.send((Instant::now() + delay, buffer[..n].to_vec())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let write = async {
        while let Some((due, piece)) = receiver.recv().await {
            if !delay.is_zero() {
                tokio::time::sleep_until(due).await;
            }
            counts.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn passes_is_late_is_silent_and_resets() {
        let wire = Cutter::with_delay(echo().await, Duration::from_millis(20)).await.expect("binds");
        let mut stream = TcpStream::connect(wire.address()).await.expect("connects");
        let start = Instant::now();
        stream.write_all(b"abc").await.expect("writes");
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.expect("reads");
        assert!(&back == b"abc" && start.elapsed() >= Duration::from_millis(40));

        wire.set(Wire::Silence);
        stream.write_all(b"lost").await.expect("writes");
        let read = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut back)).await;
        assert!(read.is_err(), "nothing comes");

        // in one direction as well, and nobody is told of an end
        let mut other = TcpStream::connect(wire.address()).await.expect("connects");
        for half in [Wire::SilenceUp, Wire::SilenceDown] {
            wire.set(Wire::Pass);
            other.write_all(b"abc").await.expect("writes");
            other.read_exact(&mut back).await.expect("reads");
            wire.set(half);
            other.write_all(b"lost").await.expect("writes");
            let read = tokio::time::timeout(Duration::from_millis(200), other.read_exact(&mut back)).await;
            assert!(read.is_err(), "nothing comes");
        }
        other.shutdown().await.expect("ends");
        let read = tokio::time::timeout(Duration::from_millis(200), other.read(&mut back)).await;
        assert!(read.is_err(), "its end comes");
        wire.set(Wire::Pass);
        assert_eq!(other.read(&mut back).await.expect("reads"), 0);

        wire.set(Wire::Reset);
        let error = stream.read_exact(&mut back).await.expect_err("is reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        wire.set(Wire::Pass);
        let mut stream = TcpStream::connect(wire.address()).await.expect("connects");
        stream.write_all(b"abc").await.expect("writes");
        stream.read_exact(&mut back).await.expect("reads");
        // a cut is a cut, however soon the wire is whole again
        wire.set(Wire::Reset);
        wire.set(Wire::Pass);
        let error = stream.read_exact(&mut back).await.expect_err("is reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut stream = TcpStream::connect(wire.address()).await.expect("connects");
        stream.write_all(b"abc").await.expect("writes");
        stream.shutdown().await.expect("ends");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("reads");
        assert_eq!(all, b"abc");
    }
}
