//! How this process itself connects outside: by way of the runner's proxy where it has one, to whom the machine or the configuration trusts. Who
//! asks says what an address may be, and by which code what fails is told. It must never send a byte of anything secret before TLS is there.

use crate::process::Environment;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared_proto::address::{Address, HostPattern, host_port};
use shared_proto::failure::Failure;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest head of a proxy's answer, bytes.
const PROXY_HEAD_MAX: usize = 8 * 1024;

/// Who connects: what it may connect to, and how it says what fails.
pub(crate) struct Caller<'a> {
    /// Whether it may connect to that address.
    pub(crate) allowed: &'a (dyn Fn(IpAddr) -> Result<(), Failure> + Sync),
    /// What it says of what fails.
    pub(crate) failed: &'a (dyn Fn(&dyn Display) -> Failure + Sync),
}

/// A connection to a host, made by the proxy where one is given.
///
/// # Errors
/// The caller's own.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    proxy: Option<&Address>,
    caller: &Caller<'_>,
) -> Result<TcpStream, Failure> {
    let failed = caller.failed;
    // a name that a proxy looks up is the proxy's to judge
    if let Ok(ip) = host.parse::<IpAddr>() {
        (caller.allowed)(ip)?;
    }
    let stream = match proxy {
        None => {
            let found = tokio::net::lookup_host((host, port)).await.map_err(|e| failed(&e))?;
            let mut last = failed(&"its name leads nowhere");
            let mut connected = None;
            for to in found {
                (caller.allowed)(to.ip())?;
                match TcpStream::connect(to).await {
                    Ok(stream) => {
                        connected = Some(stream);
                        break;
                    }
                    Err(e) => last = failed(&e),
                }
            }
            connected.ok_or(last)?
        }
        Some(proxy) => {
            let stream = TcpStream::connect((proxy.host.as_str(), proxy.port))
                .await
                .map_err(|e| failed(&format!("the proxy: {e}")))?;
            let at = host_port(host, port);
            passed(stream, &at).await.map_err(|what| failed(&format!("the proxy: {what}")))?
        }
    };
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The runner's proxy, where that host is to be asked by way of it.
pub(crate) fn proxy(environment: &Environment, host: &str) -> Option<Address> {
    let value = |name: &str| environment.get(name).and_then(|v| v.to_str()).unwrap_or_default();
    if value("NO_PROXY").split(',').map(str::trim).any(|entry| is_direct(entry, host)) {
        return None;
    }
    Address::parse(value("HTTPS_PROXY")).ok()
}

/// Whether an entry of NO_PROXY is for that host: a name is for what is below it, too.
fn is_direct(entry: &str, host: &str) -> bool {
    let name = entry.trim_start_matches("*.").trim_start_matches('.');
    let ip = host.parse::<IpAddr>();
    entry == "*"
        || HostPattern::parse(name).is_some_and(|pattern| pattern.names(host) || ip.is_ok_and(|ip| pattern.holds(ip)))
        || HostPattern::parse(&format!("*.{name}")).is_some_and(|pattern| pattern.names(host))
}

/// Has an HTTP proxy connect.
async fn passed(mut stream: TcpStream, at: &str) -> Result<TcpStream, String> {
    let request = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut head = Vec::new();
    // not a byte beyond the head: what follows is TLS
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > PROXY_HEAD_MAX {
            return Err("its answer has no end".into());
        }
        head.push(stream.read_u8().await.map_err(|e| e.to_string())?);
    }
    let line = String::from_utf8_lossy(&head);
    let line: String = line.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    if line.split(' ').nth(1) == Some("200") { Ok(stream) } else { Err(format!("it says {line:?}")) }
}

/// Whom to trust: those authorities, PEM, or the machine's.
///
/// # Errors
/// There are none.
pub(crate) fn tls(ca_pem: &str) -> Result<ClientConfig, String> {
    Ok(trusting(ca_pem)?.with_no_client_auth())
}

/// The same, as whom a certificate and its key say, PEM; empty: as nobody.
///
/// # Errors
/// There are no authorities, or certificate and key are none.
pub(crate) fn tls_as(ca_pem: &str, (certificate, key): (&str, &str)) -> Result<ClientConfig, String> {
    if certificate.is_empty() {
        return tls(ca_pem);
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|_| "the client's certificate cannot be read")?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "the client's key cannot be read")?;
    trusting(ca_pem)?.with_client_auth_cert(chain, key).map_err(|e| format!("the client's certificate: {e}"))
}

fn trusting(ca_pem: &str) -> Result<ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = if ca_pem.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)
    } else {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca_pem.as_bytes()).flatten())
    };
    if added == 0 {
        return Err("there are no certificate authorities that it could be checked with".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config: Result<ConfigBuilder<ClientConfig, WantsVerifier>, _> =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|e| e.to_string())?.with_root_certificates(roots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_hosts_are_asked_directly() {
        for (entry, host, direct) in [
            ("example.com", "example.com", true),
            ("example.com", "a.example.com", true),
            (".example.com", "a.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("*", "any", true),
            ("example.com", "notexample.com", false),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("", "any", false),
        ] {
            assert_eq!(is_direct(entry, host), direct, "{entry} {host}");
        }
    }
}
