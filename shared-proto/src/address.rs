//! The address in a target's URL. Supervisor and worker must read the same one out of it: the worker asks for a connection to it, the
//! supervisor judges what is asked.

use http::uri::Authority;
use std::net::IpAddr;

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether it is reached by TLS.
    pub https: bool,
    /// A name or an address, without the brackets of an IPv6 address.
    pub host: String,
    /// The port; the scheme's own where the URL names none.
    pub port: u16,
    /// What stands before every path; no slash at its end.
    pub prefix: String,
}

/// Hosts that a list allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// That name.
    Name(String),
    /// Every name below it.
    Below(String),
    /// A network, or an address as one of a single address.
    Network {
        /// Any address in it.
        address: IpAddr,
        /// How many leading bits its addresses share.
        bits: u8,
    },
}

// === impl HostPattern ===

impl HostPattern {
    /// From `name`, `*.name`, an address, or `address/bits`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let most = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Network { bits: most(&address), address });
        }
        if let Some((address, bits)) = text.split_once('/') {
            let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
            return (bits <= most(&address)).then_some(Self::Network { address, bits });
        }
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let name = name.trim_end_matches('.');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return None;
        }
        Some(if below { Self::Below(name.to_owned()) } else { Self::Name(name.to_owned()) })
    }

    /// Whether it allows that name, which has no final dot.
    pub fn names(&self, asked: &str) -> bool {
        match self {
            Self::Name(name) => asked.eq_ignore_ascii_case(name),
            Self::Below(name) => {
                let (asked, name) = (asked.as_bytes(), name.as_bytes());
                asked.len() > name.len() + 1
                    && asked[asked.len() - name.len() - 1] == b'.'
                    && asked[asked.len() - name.len()..].eq_ignore_ascii_case(name)
            }
            Self::Network { .. } => false,
        }
    }

    /// Whether it allows that address itself.
    pub fn holds(&self, ip: IpAddr) -> bool {
        match self {
            Self::Network { address, bits } => match (ip, address) {
                (IpAddr::V4(ip), IpAddr::V4(network)) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                    ip.to_bits() & mask == network.to_bits() & mask
                }
                (IpAddr::V6(ip), IpAddr::V6(network)) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
                    ip.to_bits() & mask == network.to_bits() & mask
                }
                _ => false,
            },
            Self::Name(_) | Self::Below(_) => false,
        }
    }
}

// === impl Address ===

impl Address {
    /// From `http://host[:port][/prefix]` or the same with https.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it: it may carry a password.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let uri: http::Uri = url.trim().parse().map_err(|_| "it is no URL")?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it begins neither with https:// nor with http://"),
        };
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("it has a user name in it");
        }
        if uri.query().is_some() {
            return Err("it has a query");
        }
        let (host, port) = host_and_port(authority, if https { 443 } else { 80 })?;
        Ok(Self { https, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// host:port, as it is shown and dialled.
    pub fn shown(&self) -> String {
        host_port(&self.host, self.port)
    }

    /// The value of the Host header: the port only where it is not the scheme's own.
    pub fn host_header(&self) -> String {
        if self.port == if self.https { 443 } else { 80 } {
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
        } else {
            self.shown()
        }
    }
}

/// The host, without brackets, and the port of an authority without a user name; a port that is no number of a port is wrong and not absent.
///
/// # Errors
/// What is wrong with it.
pub fn host_and_port(authority: &Authority, default: u16) -> Result<(String, u16), &'static str> {
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => default,
        Some(rest) => rest.strip_prefix(':').and_then(|p| p.parse().ok()).ok_or("its port is no port")?,
        None => return Err("it has no host"),
    };
    match authority.host().trim_start_matches('[').trim_end_matches(']') {
        "" => Err("it has no host"),
        host => Ok((host.to_owned(), port)),
    }
}

/// host:port with the brackets that an IPv6 address needs.
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let a = Address::parse("https://[::1]:6443/k8s/clusters/c-1/").expect("a URL");
        assert_eq!((a.shown().as_str(), a.prefix.as_str()), ("[::1]:6443", "/k8s/clusters/c-1"));
        let a = Address::parse("https://api.example").expect("a URL");
        assert_eq!((a.port, a.host_header().as_str(), a.prefix.as_str()), (443, "api.example", ""));
        for bad in [
            "",
            "api.example:6443",
            "ftp://x",
            "https://u:p@x",
            "https://",
            "https://:443",
            "https://x/?a=b",
            "https://x:99999",
            "/etc/passwd",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
