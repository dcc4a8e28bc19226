//! Tells whoever wants to be told: each notice by an HTTPS POST, signed, again and again until it is taken or given up.
//!
//! Where it goes a user says, from inside of this network: so a name is looked up once, each address judged, and connected to is that address. It
//! must never connect to an address that is not a public one unless the operator has named its network, never follow a redirect, and never go by a
//! proxy, which would look the name up again.

use super::{ApiState, hooks};
use crate::store::{Notice, Notification};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use shared_proto::address::HostPattern;
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// All of one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Waits between attempts; after the last of them it is given up.
static WAITS: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(30),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
];
/// Attempts at once, and notices of one look.
const AT_ONCE: usize = 8;
const LOOK_MAX: u32 = 64;
/// How often it is looked at the latest.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The longest address, characters.
const URL_MAX: usize = 2048;
/// The longest head of an answer, bytes. Nothing else of it is read.
const HEAD_MAX: usize = 16 * 1024;

/// Networks beside the public ones where notifications may go, as the operator has named them. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Networks(Arc<Vec<HostPattern>>);

/// What sends.
pub struct Notifier {
    state: ApiState,
    tls: TlsConnector,
}

/// Where a notification goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    host: String,
    port: u16,
    /// With the port where that is not the scheme's own: the header `Host`.
    authority: String,
    /// Path and query.
    path: String,
}

// === impl Networks ===

impl Networks {
    /// These networks.
    pub fn new(networks: Vec<HostPattern>) -> Self {
        Self(Arc::new(networks))
    }
    /// Why nothing is sent to that address; `None`: it may be.
    fn forbid(&self, address: IpAddr) -> Option<&'static str> {
        let address = address.to_canonical();
        if self.0.iter().any(|network| network.holds(address)) {
            return None;
        }
        let public = match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        };
        (!public).then_some("no public address")
    }
}

/// Whether the Internet has it: <https://www.iana.org/assignments/iana-ipv4-special-registry/>.
fn is_public_v4(address: Ipv4Addr) -> bool {
    const OTHERS: [(Ipv4Addr, u32); 15] = [
        (Ipv4Addr::new(0, 0, 0, 0), 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        // a cloud's own, among public ones
        (Ipv4Addr::new(168, 63, 129, 16), 32),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 88, 99, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        // multicast, and what is reserved
        (Ipv4Addr::new(224, 0, 0, 0), 3),
    ];
    let within = |(network, bits): &(Ipv4Addr, u32)| {
        let mask = u32::MAX << (32 - bits);
        address.to_bits() & mask == network.to_bits()
    };
    !OTHERS.iter().any(within)
}

/// The same: of what is given out at all (2000::/3), what is no way to an IPv4 address and no example.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x2002 | 0x3fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

// === impl Place ===

impl Place {
    /// From `https://host[:port]/path?query`.
    ///
    /// # Errors
    /// `invalid_argument`, in words that do not repeat it: its path may be a secret.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Code::InvalidArgument.on(format!("url {why}"));
        if url.len() > URL_MAX {
            return Err(wrong("is longer than 2048 characters"));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("does not begin with https://"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user name in it"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || url.contains('#') {
            return Err(wrong("has no host, or a fragment"));
        }
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { host, port: authority.port_u16().unwrap_or(443), authority: authority.as_str().to_owned(), path })
    }

    /// Host, and port where that is not the scheme's own.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// An address of it that may be connected to.
    async fn address(&self, networks: &Networks) -> Result<SocketAddr, String> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<_> = found.map_err(|e| format!("the name cannot be looked up: {e}"))?.collect();
        let allowed = found.iter().find(|address| networks.forbid(address.ip()).is_none());
        allowed.copied().ok_or_else(|| match found.first().and_then(|address| networks.forbid(address.ip())) {
            Some(why) => format!(
                "the name leads to {why}, where nothing is sent unless the operator allows it (--notify-network)"
            ),
            None => "the name has no address".to_owned(),
        })
    }
}

// === impl Notifier ===

impl Notifier {
    /// With the machine's own roots (and `SSL_CERT_FILE`).
    ///
    /// # Errors
    /// The TLS provider's.
    pub fn new(state: ApiState) -> Result<Self, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        let (known, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if known == 0 {
            tracing::warn!("this machine has no root certificates: no receiver of notifications can prove who it is");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { state, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Tells what is to be told, again and again.
    pub async fn follow(self) {
        let mut changes = self.state.jobs.changes();
        loop {
            let due = self.state.store.due_notices(now_ms(), LOOK_MAX).await.unwrap_or_default();
            let all = due.len() as u32 == LOOK_MAX;
            stream::iter(due).for_each_concurrent(AT_ONCE, |(notice, to)| self.tell(notice, to)).await;
            if all {
                continue;
            }
            tokio::select! {
                // what has changed may be told; that some were missed is no matter
                _ = changes.recv() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn tell(&self, notice: Notice, to: Notification) {
        let attempt = tokio::time::timeout(ATTEMPT, self.attempt(&notice, &to)).await;
        let outcome = attempt.unwrap_or_else(|_| Err(format!("it took longer than {} s", ATTEMPT.as_secs())));
        let (said, told) = match outcome {
            Ok(status) => (format!("HTTP {status}"), (200..300).contains(&status)),
            Err(why) => (why, false),
        };
        let wait = usize::try_from(notice.tries).ok().and_then(|tries| WAITS.get(tries)).filter(|_| !told);
        let next = wait.map(|wait| now_ms() + i64::try_from(wait.as_millis()).unwrap_or(0));
        if !told && next.is_none() {
            tracing::warn!(notification = to.id, notice = notice.id, said, "a notice was given up");
        }
        // the store has logged it; it is sent again then, and its receiver knows it by its id
        let _ = self.state.store.told(&notice, &said, told, next).await;
    }

    /// Sends it once; the answer's status.
    async fn attempt(&self, notice: &Notice, to: &Notification) -> Result<u16, String> {
        let place = Place::parse(&to.url).map_err(|failure| failure.message)?;
        let address = place.address(&self.state.networks).await?;
        let broke = |e: &dyn std::fmt::Display| format!("the connection failed: {e}");
        let stream = TcpStream::connect(address).await.map_err(|e| broke(&e))?;
        let name = ServerName::try_from(place.host.clone()).map_err(|_| "its host is no name".to_owned())?;
        let stream = self.tls.connect(name, stream).await.map_err(|e| broke(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broke(&e))?;
        // its failure shows at the request
        let connection = tokio::spawn(connection);
        let moment = (now_ms() / 1000).to_string();
        let request = Request::post(&place.path)
            .header(header::HOST, &place.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("runner-control-plane/", env!("CARGO_PKG_VERSION")))
            .header("runner-event", &notice.event)
            .header("webhook-id", &notice.id)
            .header("webhook-timestamp", &moment)
            .header("webhook-signature", hooks::signature(&notice.id, &moment, notice.body.as_bytes(), &to.secret))
            .body(Full::new(Bytes::from(notice.body.clone())))
            .map_err(|e| broke(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| broke(&e));
        connection.abort();
        Ok(answer?.status().as_u16())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_unless_the_operator_says_so() {
        let none = Networks::default();
        for (address, allowed) in [
            ("8.8.8.8", true),
            ("1.1.1.1", true),
            ("127.0.0.1", false),
            ("127.255.255.255", false),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("11.0.0.1", true),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("168.63.129.16", false),
            ("168.63.129.17", true),
            ("169.254.169.254", false),
            ("172.15.255.255", true),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("198.18.0.1", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1111", true),
            ("::1", false),
            ("::", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::a9fe:a9fe", false),
            ("2002:7f00:1::", false),
            ("2001:0:1::1", false),
            ("2001:db8::1", false),
            ("2001:4860:4860::8888", true),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
        ] {
            let parsed = address.parse().expect(address);
            assert_eq!(none.forbid(parsed).is_none(), allowed, "{address}");
        }
        let own = Networks::new(["127.0.0.0/8", "10.1.0.0/16", "::1"].map(|n| HostPattern::parse(n).expect(n)).into());
        for (address, allowed) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("::1", true),
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("169.254.169.254", false),
        ] {
            assert_eq!(own.forbid(address.parse().expect(address)).is_none(), allowed, "{address}");
        }
    }

    #[test]
    fn where_it_goes_is_an_https_address() {
        let place = Place::parse("https://hooks.example.com:8443/a/b?c=d").expect("a place");
        assert_eq!((place.host.as_str(), place.port, place.path.as_str()), ("hooks.example.com", 8443, "/a/b?c=d"));
        assert_eq!(
            Place::parse("https://[::1]").map(|p| (p.host, p.port, p.path)),
            Ok(("::1".into(), 443, "/".into()))
        );
        for bad in [
            "",
            "http://a/",
            "https://",
            "https://u:p@a/",
            "ftp://a",
            "a/b",
            "https://a/#x",
            "https://a b/",
            &format!("https://a/{}", "x".repeat(URL_MAX)),
        ] {
            let failure = Place::parse(bad).expect_err(bad);
            assert!(failure.code == Code::InvalidArgument && !failure.message.contains("u:p"), "{failure}");
        }
    }
}
