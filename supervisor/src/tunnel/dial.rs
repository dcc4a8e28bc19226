//! The way to the control plane: TCP, directly or through a proxy, then TLS; all of it within one deadline. Used for the tunnel and for the
//! execution service alike.

use super::leaf::Leaves;
use super::{Settings, tls};
use crate::clock::since_boot;
use crate::net::proxy::Proxy;
use crate::net::tcp;
use nix::sys::socket::{setsockopt, sockopt};
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::credentials::Endpoint;
use shared_proto::failure::{Code, Failure};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

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
    leaves: Leaves,
}

/// The control plane's clock, once a session has told it: for judging certificate dates. Kept as what it said at zero of the time since boot,
/// so that a step of this machine's own clock does not move it.
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

/// A way to the other end. The runner's own is [`Dialer`]; a simulation has another one.
pub trait Dial: Send + Sync + 'static {
    /// What is read from and written to.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Connects, within a time of its own.
    fn dial(
        &self,
        endpoint: &Endpoint,
        alpn: &'static [u8],
    ) -> impl Future<Output = Result<Dialled<Self::Stream>, Failure>> + Send;
}

/// Why the other end refused a connection after its handshake, once it has.
pub type Refusal = Arc<dyn Fn() -> Option<Failure> + Send + Sync>;

/// A connection, however it came about.
pub struct Dialled<S> {
    /// After its handshake.
    pub stream: S,
    /// This machine's own address of it, where it has one.
    pub local: Option<IpAddr>,
    /// Ask it when the stream failed.
    pub refusal: Refusal,
}

// === impl PeerClock ===

const UNKNOWN: i64 = i64::MIN;

fn boot_ms() -> i64 {
    i64::try_from(since_boot().as_millis()).unwrap_or(i64::MAX)
}

impl Default for PeerClock {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(UNKNOWN)))
    }
}

impl PeerClock {
    /// The control plane has just said its time, Unix milliseconds.
    pub fn told(&self, ms: i64) {
        self.0.store(ms.saturating_sub(boot_ms()), Ordering::Relaxed);
    }
    /// Its time now, if it is known.
    pub fn now_ms(&self) -> Option<i64> {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => None,
            at_boot => Some(boot_ms().saturating_add(at_boot)),
        }
    }
}

// === impl Dialer ===

/// What the attempt is at, for the message when time is up.
const STEPS: [&str; 4] = ["resolving the name", "connecting", "the proxy's answer", "the TLS handshake"];

impl Dialer {
    /// A dialer for these settings.
    pub fn new(settings: watch::Receiver<Arc<Settings>>, clock: PeerClock, leaves: Leaves) -> Self {
        Self { settings, clock, leaves }
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
        let at = |now| {
            step.store(if now == tcp::Step::Resolving { 0 } else { 1 }, Ordering::Relaxed);
        };
        let stream = match Proxy::of_runner(&settings.config.proxy, &endpoint.host, endpoint.port)? {
            None => tcp::connect(&endpoint.host, endpoint.port, |_| None, at)
                .await
                .map_err(|e| Code::DialFailed.on(format!("{}: {e}", endpoint.authority())))?,
            Some(proxy) => {
                let mut stream = tcp::connect(&proxy.host, proxy.port, |_| None, at).await.map_err(|e| {
                    Code::DialFailed
                        .on(format!("proxy {}: {e}", proxy.shown()))
                        .next("Check the proxy's address in the runner's configuration or HTTPS_PROXY.")
                })?;
                step.store(2, Ordering::Relaxed);
                proxy.pass(&mut stream, &endpoint.host, endpoint.port).await.map_err(|mut f| {
                    f.message = format!("proxy {}: {}", proxy.shown(), f.message);
                    f
                })?;
                stream
            }
        };
        watch_over(&stream).map_err(|e| Code::DialFailed.on(format!("{}: {e}", endpoint.authority())))?;
        step.store(3, Ordering::Relaxed);
        let leaf = self.leaves.current(&settings.credentials);
        tls::handshake(stream, endpoint, &settings.credentials, &leaf, alpn, self.clock.clone()).await
    }
}

impl Dial for Dialer {
    type Stream = tls::Stream;

    async fn dial(&self, endpoint: &Endpoint, alpn: &'static [u8]) -> Result<Dialled<tls::Stream>, Failure> {
        let Connected { stream, verdict } = self.connect(endpoint, alpn).await?;
        let local = stream.tcp().local_addr().ok().map(|a| a.ip());
        Ok(Dialled { stream, local, refusal: Arc::new(move || verdict.told()) })
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
    fn the_peers_clock_is_unknown_until_it_is_told() {
        let clock = PeerClock::default();
        assert_eq!(clock.now_ms(), None);
        clock.told(shared_proto::now_ms() + 3_600_000);
        let ahead = clock.now_ms().expect("told") - shared_proto::now_ms();
        assert!((3_590_000..=3_610_000).contains(&ahead), "{ahead}");
    }
}
