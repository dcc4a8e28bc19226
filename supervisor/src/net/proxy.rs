//! The proxy on the way to a host, and how it is passed.

use super::http_connect::{self, Login};
use super::no_proxy::NoProxy;
use super::socks;
use crate::config;
use shared_proto::address::{host_and_port, host_port};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use tokio::io::{AsyncRead, AsyncWrite};

/// An HTTP proxy that understands CONNECT, or a SOCKS 5 proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    kind: Kind,
    pub(crate) host: String,
    pub(crate) port: u16,
    login: Option<Login>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

// === impl Proxy ===

impl Proxy {
    /// From `http://[user:password@]host[:port]` or the same with socks5.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.trim().split_once("://").ok_or("it is no URL")?;
        let (kind, default_port) = match scheme {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            _ => return Err("only http:// and socks5:// proxies are supported"),
        };
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let decode = |part| decode(part).ok_or("its user or password is badly escaped");
                (Some(Login::new(decode(user)?, Secret::new(decode(password)?))), authority)
            }
            None => (None, rest),
        };
        let authority = authority.trim_end_matches('/').parse().map_err(|_| "it has no host or a bad port")?;
        let (host, port) = host_and_port(&authority, default_port)?;
        Ok(Self { kind, host, port, login })
    }

    /// The runner's own on the way to that host, unless it is to be reached directly.
    ///
    /// # Errors
    /// The password file cannot be read.
    pub(crate) fn of_runner(config: &config::Proxy, host: &str, port: u16) -> Result<Option<Self>, Failure> {
        let Some(url) = config.url.as_ref().filter(|_| !NoProxy::parse(&config.no_proxy).matches(host, port)) else {
            return Ok(None);
        };
        Ok(Some(Self { kind: Kind::Http, host: url.host.clone(), port: url.port, login: Login::load(config)? }))
    }

    /// Whether what is asked of it is HTTP.
    pub(crate) fn is_http(&self) -> bool {
        self.kind == Kind::Http
    }

    /// host:port.
    pub(crate) fn shown(&self) -> String {
        host_port(&self.host, self.port)
    }

    /// Has the proxy at the other end connect the stream.
    ///
    /// # Errors
    /// `proxy_refused` with its word for it; `proxy_failed` for an answer that is none.
    pub(crate) async fn pass<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        host: &str,
        port: u16,
    ) -> Result<(), Failure> {
        match self.kind {
            Kind::Http => http_connect::connect(stream, &host_port(host, port), self.login.as_ref()).await,
            Kind::Socks5 => {
                socks::connect(stream, host, port, self.login.as_ref()).await.map_err(|refused| match refused {
                    socks::Refused::Word(word) => Code::ProxyRefused.on(word),
                    socks::Refused::Failed(what) => Code::ProxyFailed.on(what),
                })
            }
        }
    }
}

/// The text that escapes stand for; `None` where they are malformed or are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn proxies() {
        let p = Proxy::parse("http://u%40x:p%3Aw@proxy:3128/").expect("a proxy");
        assert_eq!((p.host.as_str(), p.port, p.kind), ("proxy", 3128, Kind::Http));
        let login = p.login.expect("a login");
        assert_eq!((login.user(), login.password().expose()), ("u@x", "p:w"));
        let p = Proxy::parse("socks5h://[::1]").expect("a proxy");
        assert_eq!((p.shown().as_str(), p.kind), ("[::1]:1080", Kind::Socks5));
        for bad in ["", "proxy:3128", "https://proxy", "http://", "http://u:%zz@p", "http://u:%ff@p", "http://p:99999"]
        {
            assert!(Proxy::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_runners_own_proxy_is_passed_unless_a_host_is_exempt() {
        let url = Some(config::ProxyUrl { host: "proxy".into(), port: 3128 });
        let own = config::Proxy { url, no_proxy: ".amazonaws.com".into(), user: None, password_file: None };
        let on_the_way = |config: &config::Proxy, host| Proxy::of_runner(config, host, 443).expect("no password file");
        assert_eq!(on_the_way(&own, "cp.example").map(|p| p.shown()), Some("proxy:3128".to_owned()));
        assert!(on_the_way(&own, "sts.eu-central-1.amazonaws.com").is_none());
        assert!(on_the_way(&config::Proxy { url: None, ..own }, "cp.example").is_none());
    }

    /// A SOCKS proxy that answers with these bytes: the verdict, what it was sent, and what of its answer was left.
    async fn socks(url: &str, host: &str, answer: &[u8]) -> (Result<(), Failure>, Vec<u8>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(answer).await.expect("room");
        theirs.shutdown().await.expect("shuts");
        let verdict = Proxy::parse(url).expect("a proxy").pass(&mut ours, host, 6443).await;
        let (mut left, mut sent) = (Vec::new(), Vec::new());
        ours.read_to_end(&mut left).await.expect("reads");
        drop(ours);
        theirs.read_to_end(&mut sent).await.expect("reads");
        (verdict, sent, left)
    }

    #[tokio::test]
    async fn socks_asks_by_name_and_by_address_and_leaves_what_follows() {
        let good = b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50hello";
        let (verdict, sent, left) = socks("socks5://p", "a.example", good).await;
        assert_eq!((verdict, &left[..]), (Ok(()), &b"hello"[..]));
        assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x19\x2b");
        let named = b"\x05\x02\x01\x00\x05\x00\x00\x03\x02px\x00\x50";
        let (verdict, sent, left) = socks("socks5://u:p%20w@p", "::1", named).await;
        assert_eq!((verdict, &left[..]), (Ok(()), &b""[..]));
        let address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x19, 0x2b];
        assert_eq!(sent, [&b"\x05\x01\x02\x01\x01u\x03p w\x05\x01\x00\x04"[..], &address].concat());
    }

    #[tokio::test]
    async fn a_socks_proxy_that_refuses_is_quoted_and_the_password_is_not() {
        for (answer, code, words) in [
            (&b"\x05\xff"[..], Code::ProxyRefused, "way of logging in"),
            (b"\x05\x02\x01\x01", Code::ProxyRefused, "refused user and password"),
            (b"\x05\x02\x01\x00\x05\x05\x00\x01", Code::ProxyRefused, "SOCKS reply 5"),
            (b"\x05\x02\x01\x00\x05\x00\x00\x09", Code::ProxyFailed, "does not answer as a SOCKS 5 proxy"),
            (b"\x05\x02\x01\x00\x04\x00\x00\x01", Code::ProxyFailed, "does not answer as a SOCKS 5 proxy"),
            (b"HTTP/1.1 400 Bad Request\r\n", Code::ProxyFailed, "does not answer as a SOCKS 5 proxy"),
            (b"\x05", Code::ProxyFailed, ""),
            (b"\x05\x02\x01\x00\x05\x00\x00\x01\x7f", Code::ProxyFailed, ""),
        ] {
            let failure = socks("socks5://u:s3cr3t@p", "a", answer).await.0.expect_err("refused");
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(words) && !failure.message.contains("s3cr3t"), "{failure}");
        }
    }
}
