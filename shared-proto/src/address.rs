//! The address in a target's URL. Supervisor and worker must read the same one out of it: the worker asks for a connection to it, the
//! supervisor judges what is asked.

use http::uri::Authority;

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
