//! Which hosts are reached without the proxy: NO_PROXY as curl and Go read it.
//!
//! Entries are separated by commas or spaces: `*`, a name (itself and all below it), `.suffix` or `*.suffix` (only what is below),
//! an address, a network (`10.0.0.0/8`), each with an optional `:port`.

use std::net::IpAddr;

/// A parsed list. An entry that is none of these matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    All,
    Name { name: String, itself: bool, port: Option<u16> },
    Network { address: IpAddr, bits: u8, port: Option<u16> },
}

// === impl NoProxy ===

impl NoProxy {
    /// Parses a list.
    pub fn parse(list: &str) -> Self {
        Self(list.split([',', ' ', '\t']).filter(|e| !e.is_empty()).filter_map(Entry::parse).collect())
    }

    /// Whether the host, a name or an address without brackets, is reached directly.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|a| a.to_canonical());
        let same_port = |wanted: &Option<u16>| wanted.is_none_or(|p| p == port);
        self.0.iter().any(|entry| match (entry, address) {
            (Entry::All, _) => true,
            (Entry::Name { name, itself, port }, None) => {
                same_port(port)
                    && match host.strip_suffix(name.as_str()) {
                        Some("") => *itself,
                        Some(below) => below.ends_with('.'),
                        None => false,
                    }
            }
            (Entry::Network { address: network, bits, port }, Some(address)) => {
                same_port(port) && within(address, *network, *bits)
            }
            _ => false,
        })
    }
}

// === impl Entry ===

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = unbracketed(address).parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return (bits <= most).then_some(Self::Network { address, bits, port: None });
        }
        // an IPv6 address has colons of its own
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (text, None),
        };
        if let Ok(address) = unbracketed(host).parse::<IpAddr>() {
            let address = address.to_canonical();
            return Some(Self::Network { address, bits: if address.is_ipv4() { 32 } else { 128 }, port });
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let (name, itself) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
            Some(suffix) => (suffix.to_owned(), false),
            None => (host, true),
        };
        (!name.is_empty()).then_some(Self::Name { name, itself, port })
    }
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let number = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    address.is_ipv4() == network.is_ipv4() && number(address) & mask == number(network) & mask
}

#[cfg(test)]
mod tests {
    use super::NoProxy;

    #[test]
    fn the_table() {
        for (list, host, port, direct) in [
            ("", "a.example", 443, false),
            ("*", "a.example", 443, true),
            ("*", "10.0.0.1", 443, true),
            ("example", "example", 443, true),
            ("example.com", "a.example.com", 443, true),
            ("example.com", "notexample.com", 443, false),
            ("example.com", "example.com.evil", 443, false),
            (".example.com", "example.com", 443, false),
            (".example.com", "a.example.com", 443, true),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("EXAMPLE.com", "Example.COM.", 443, true),
            ("example.com:8443", "example.com", 443, false),
            ("example.com:443", "example.com", 443, true),
            ("a, b ,c", "b", 443, true),
            ("a b\tc", "c", 443, true),
            ("10.0.0.0/8", "10.255.0.1", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8", "ten.example", 443, false),
            ("10.0.0.7", "10.0.0.7", 443, true),
            ("10.0.0.7:80", "10.0.0.7", 443, false),
            ("10.0.0.7", "110.0.0.7", 443, false),
            ("0.0.0.0/0", "8.8.8.8", 443, true),
            ("0.0.0.0/0", "::1", 443, false),
            ("::1", "::1", 443, true),
            ("[::1]:443", "::1", 443, true),
            ("[::1]:80", "::1", 443, false),
            ("fd00::/8", "fd12::1", 443, true),
            ("fd00::/8", "fe80::1", 443, false),
            ("10.0.0.7", "::ffff:10.0.0.7", 443, true),
            ("10.0.0.0/33", "10.0.0.1", 443, false),
            ("host:port", "host", 443, false),
            (".", "a", 443, false),
            (",,", "a", 443, false),
        ] {
            assert_eq!(NoProxy::parse(list).matches(host, port), direct, "{list:?} and {host:?}:{port}");
        }
    }
}
