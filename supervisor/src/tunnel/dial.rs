//! The way to the control plane: TCP, directly or through a proxy, then TLS; all of it within one deadline. Used for the tunnel and for the
//! execution service alike.

use super::{Settings, no_proxy::NoProxy, proxy, tls};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use nix::sys::socket::{setsockopt, sockopt};
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::credentials::Endpoint;
use shared_proto::failure::{Code, Failure};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The most addresses of a name that are tried in one attempt.
const ADDRESSES_MAX: usize = 8;
/// Between the starts of two of them.
const ADDRESS_DELAY: Duration = Duration::from_millis(250);
/// Unacknowledged data for that long: the connection is dead, milliseconds.
const USER_TIMEOUT_MS: u32 = 10_000;
/// An idle connection is probed after so many seconds, this often, until it is dead.
const KEEPALIVE_IDLE_S: u32 = 10;
const KEEPALIVE_INTERVAL_S: u32 = 3;
const KEEPALIVE_COUNT: u32 = 3;

/// Dials. Cheap to clone; takes the newest settings for each attempt.
#[derive(Debug, Clone)]
pub struct Dialer {
    settings: watch::Receiver<Arc<Settings>>,
    clock: PeerClock,
}

/// How far the control plane's clock is from ours, once a session has told it: for judging certificate dates.
#[derive(Debug, Clone)]
pub struct PeerClock(Arc<AtomicI64>);

/// An established connection.
#[derive(Debug)]
pub struct Connected {
    /// The stream. What the other end refuses in TLS shows at its first read.
    pub stream: tls::Stream,
    /// Why the other end refused it, once it has: ask it when the stream failed.
    pub verdict: tls::Verdict,
}

// === impl PeerClock ===

const UNKNOWN: i64 = i64::MIN;

impl Default for PeerClock {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(UNKNOWN)))
    }
}

impl PeerClock {
    /// The control plane has just said its time, Unix milliseconds.
    pub fn told(&self, ms: i64) {
        self.0.store(ms.saturating_sub(shared_proto::now_ms()), Ordering::Relaxed);
    }
    /// Its time now, if it is known.
    pub fn now_ms(&self) -> Option<i64> {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => None,
            offset => Some(shared_proto::now_ms().saturating_add(offset)),
        }
    }
}

// === impl Dialer ===

/// What the attempt is at, for the message when time is up.
const STEPS: [&str; 4] = ["resolving the name", "connecting", "the proxy's answer", "the TLS handshake"];

impl Dialer {
    /// A dialer for these settings.
    pub fn new(settings: watch::Receiver<Arc<Settings>>, clock: PeerClock) -> Self {
        Self { settings, clock }
    }

    /// Connects, passes the proxy and shakes hands, all within [`CONNECT_DEADLINE`].
    ///
    /// # Errors
    /// What failed, on which address, and what to do.
    pub async fn connect(&self, endpoint: &Endpoint, alpn: &'static [u8]) -> Result<Connected, Failure> {
        let settings = self.settings.borrow().clone();
        let step = AtomicU8::new(0);
        match tokio::time::timeout(CONNECT_DEADLINE, self.attempt(&settings, endpoint, alpn, &step)).await {
            Ok(result) => result,
            Err(_) => {
                let what = STEPS[usize::from(step.load(Ordering::Relaxed)).min(STEPS.len() - 1)];
                let code = if what == STEPS[2] { Code::ProxyFailed } else { Code::DialFailed };
                Err(code.on(format!(
                    "{}: not connected within {CONNECT_DEADLINE:?}, it was at {what}",
                    endpoint.authority()
                )))
            }
        }
    }

    async fn attempt(
        &self,
        settings: &Settings,
        endpoint: &Endpoint,
        alpn: &'static [u8],
        step: &AtomicU8,
    ) -> Result<Connected, Failure> {
        let config = &settings.config.proxy;
        let through =
            config.url.as_ref().filter(|_| !NoProxy::parse(&config.no_proxy).matches(&endpoint.host, endpoint.port));
        let stream = match through {
            None => tcp(&endpoint.host, endpoint.port, step)
                .await
                .map_err(|e| Code::DialFailed.on(format!("{}: {e}", endpoint.authority())))?,
            Some(proxy) => {
                let mut stream = tcp(&proxy.host, proxy.port, step).await.map_err(|e| {
                    Code::DialFailed
                        .on(format!("proxy {}: {e}", proxy.authority()))
                        .next("Check the proxy's address in the runner's configuration or HTTPS_PROXY.")
                })?;
                step.store(2, Ordering::Relaxed);
                let login = proxy::Login::load(config)?;
                proxy::connect(&mut stream, &endpoint.authority(), login.as_ref()).await.map_err(|mut f| {
                    f.message = format!("proxy {}: {}", proxy.authority(), f.message);
                    f
                })?;
                stream
            }
        };
        step.store(3, Ordering::Relaxed);
        tls::handshake(stream, endpoint, &settings.credentials, alpn, self.clock.clone()).await
    }
}

/// Connects to the first address that answers; a later one is tried when the earlier did not answer soon.
async fn tcp(host: &str, port: u16, step: &AtomicU8) -> io::Result<TcpStream> {
    step.store(0, Ordering::Relaxed);
    let addresses = interleave(tokio::net::lookup_host((host, port)).await?.collect());
    step.store(1, Ordering::Relaxed);
    let mut attempts: FuturesUnordered<_> = addresses
        .into_iter()
        .take(ADDRESSES_MAX)
        .zip(0..)
        .map(|(address, n): (SocketAddr, u32)| async move {
            tokio::time::sleep(ADDRESS_DELAY * n).await;
            TcpStream::connect(address).await.map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))
        })
        .collect();
    let mut failed = io::Error::other("the name has no address");
    while let Some(result) = attempts.next().await {
        match result {
            Ok(stream) => {
                watch_over(&stream)?;
                return Ok(stream);
            }
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

/// The resolver's order, families taking turns, so that a family without a route costs one delay and no more.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        match (same.next(), other.next()) {
            (None, None) => return turns,
            (a, b) => turns.extend(a.into_iter().chain(b)),
        }
    }
}

/// No delay for small writes, and a dead peer is noticed by the kernel as well.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("an address")).collect::<Vec<SocketAddr>>();
        assert_eq!(
            interleave(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"])),
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"])
        );
        assert_eq!(interleave(Vec::new()), Vec::new());
    }

    #[test]
    fn the_peers_clock_is_unknown_until_it_is_told() {
        let clock = PeerClock::default();
        assert_eq!(clock.now_ms(), None);
        clock.told(shared_proto::now_ms() + 3_600_000);
        let ahead = clock.now_ms().expect("told") - shared_proto::now_ms();
        assert!((3_590_000..=3_610_000).contains(&ahead), "{ahead}");
    }
}
