//! Addresses, and the encoding of what stands in a path or a query.

use std::fmt::Write as _;

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) https: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What stands before every path; no slash at its end.
    pub(crate) prefix: String,
}

// === impl Address ===

impl Address {
    /// From `http://host[:port][/prefix]` or the same with https.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it: it may carry a password.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        let uri: ::http::Uri = url.trim().parse().map_err(|_| "it is no URL")?;
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
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err("it has no host");
        }
        let port = port(authority, if https { 443 } else { 80 })?;
        Ok(Self { https, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// host:port, as it is shown and dialled.
    pub(crate) fn shown(&self) -> String {
        host_port(&self.host, self.port)
    }

    /// The value of the Host header: the port only where it is not the scheme's own.
    pub(crate) fn host_header(&self) -> String {
        if self.port == if self.https { 443 } else { 80 } {
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
        } else {
            self.shown()
        }
    }
}

/// The port of an authority without a user name; one that is no number of a port is wrong and not absent.
pub(crate) fn port(authority: &::http::uri::Authority, default: u16) -> Result<u16, &'static str> {
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Ok(default),
        Some(rest) => rest.strip_prefix(':').and_then(|p| p.parse().ok()).ok_or("its port is no port"),
        None => Err("it has no host"),
    }
}

/// host:port with the brackets that an IPv6 address needs.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A text as one segment of a path, or as a value in a query: everything but RFC 3986's unreserved characters is escaped.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Name and value pairs as a query, or as the body of a form.
pub(crate) fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&encode(name));
        out.push('=');
        out.push_str(&encode(value));
    }
    out
}

/// The text that escapes stand for; `None` where they are malformed or are not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
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
            "https://x/?a=b",
            "https://x:99999",
            "/etc/passwd",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_encoded_stays_in_its_segment() {
        assert_eq!(encode("../a b/ü?#&=+"), "..%2Fa%20b%2F%C3%BC%3F%23%26%3D%2B");
        assert_eq!(decode(&encode("p@ss:w/ö")).as_deref(), Some("p@ss:w/ö"));
        assert_eq!(decode("%zz"), None);
        assert_eq!(form([("a", "1 2"), ("b", "c=d")]), "a=1%202&b=c%3Dd");
    }
}
