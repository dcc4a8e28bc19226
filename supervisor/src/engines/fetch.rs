//! A file by HTTP(S), for `runner engines install`: by way of the runner's proxy, with the machine's certificate authorities. What comes is
//! verified by whoever asked: a mirror may be plain HTTP.

use crate::config::Config;
use crate::net::proxy::Proxy;
use crate::net::tcp;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use shared_proto::address::host_and_port;
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::failure::{Code, Failure};
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// How often one address may send to another one.
const REDIRECTS_MAX: usize = 5;
/// How long nothing may come.
const SILENCE_MAX: Duration = Duration::from_secs(30);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Writes what is at an address, at most so many bytes of it.
///
/// # Errors
/// `source_unavailable`, `too_large`.
pub(super) async fn get(
    config: &Config,
    address: &str,
    most: u64,
    to: &mut (impl Write + Send),
) -> Result<(), Failure> {
    let mut address = address.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let (answer, uri) = ask(config, &address).await?;
        match answer.status() {
            StatusCode::OK => return take(answer.into_body(), &address, most, to).await,
            status if status.is_redirection() => {
                let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
                address = target(to, &uri)
                    .ok_or_else(|| unavailable(&address, "it sends to what is no address, or a less secure one"))?;
            }
            status => return Err(unavailable(&address, &format!("it is answered with {status}"))),
        }
    }
    Err(unavailable(&address, &format!("it sends to another address more than {REDIRECTS_MAX} times")))
}

fn unavailable(address: &str, what: &str) -> Failure {
    let shown = address.split('?').next().unwrap_or_default();
    Code::SourceUnavailable.on(format!("{shown}: {what}")).next(
        "Check the version and the runner's way there, its proxy for one; or name a mirror or a folder with --from.",
    )
}

/// Where an answer sends to that came from there. From TLS to no TLS nobody is sent.
fn target(to: &str, from: &Uri) -> Option<String> {
    let to = match to.strip_prefix('/') {
        Some(path) if !path.starts_with('/') => format!("{}://{}/{path}", from.scheme_str()?, from.authority()?),
        _ => to.to_owned(),
    };
    let good = to.starts_with("https://") || to.starts_with("http://") && from.scheme_str() == Some("http");
    good.then_some(to)
}

async fn ask(config: &Config, address: &str) -> Result<(http::Response<Incoming>, Uri), Failure> {
    let bad = || unavailable(address, "this is no address of HTTP(S)");
    let uri: Uri = address.parse().map_err(|_| bad())?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad()),
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?.clone();
    let (host, port) = host_and_port(&authority, if secure { 443 } else { 80 }).map_err(|_| bad())?;
    let connecting = connect(config, &host, port, secure);
    let stream = tokio::time::timeout(CONNECT_DEADLINE, connecting)
        .await
        .unwrap_or_else(|_| Err(format!("not connected within {CONNECT_DEADLINE:?}")))
        .map_err(|what| unavailable(address, &what))?;
    let failed = |e: &dyn std::fmt::Display| unavailable(address, &e.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    // it ends with the body, or with whoever reads it
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::get(path)
        .header(header::HOST, authority.as_str())
        .header(header::USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    let answer = tokio::time::timeout(SILENCE_MAX, sender.send_request(request))
        .await
        .map_err(|_| unavailable(address, "it does not answer"))?
        .map_err(|e| failed(&e))?;
    Ok((answer, uri))
}

/// Whoever may install an engine here may have it come from anywhere.
fn anywhere(_: IpAddr) -> Option<&'static str> {
    None
}

async fn connect(config: &Config, host: &str, port: u16, secure: bool) -> Result<Box<dyn Stream>, String> {
    let stream = match Proxy::of_runner(&config.proxy, host, port).map_err(|f| f.message)? {
        None => tcp::connect(host, port, anywhere, |_| {}).await.map_err(|e| e.to_string())?,
        Some(proxy) => {
            let mut stream =
                tcp::connect(&proxy.host, proxy.port, anywhere, |_| {}).await.map_err(|e| e.to_string())?;
            proxy.pass(&mut stream, host, port).await.map_err(|f| f.message)?;
            stream
        }
    };
    let _ = stream.set_nodelay(true);
    if !secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| "its host cannot be in a certificate".to_owned())?;
    let connector = TlsConnector::from(Arc::new(tls()?));
    connector.connect(name, stream).await.map(|s| Box::new(s) as Box<dyn Stream>).map_err(|e| format!("TLS: {e}"))
}

/// The machine's certificate authorities, or those that SSL_CERT_FILE names.
fn tls() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err("this machine has no certificate authorities (install ca-certificates)".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

async fn take(mut body: Incoming, address: &str, most: u64, to: &mut impl Write) -> Result<(), Failure> {
    let mut left = most;
    loop {
        let next = tokio::time::timeout(SILENCE_MAX, body.frame())
            .await
            .map_err(|_| unavailable(address, &format!("nothing has come for {SILENCE_MAX:?}")))?;
        let Some(frame) = next else { return Ok(()) };
        let frame = frame.map_err(|e| unavailable(address, &format!("it broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        left = left
            .checked_sub(data.len() as u64)
            .ok_or_else(|| Code::TooLarge.on(format!("what is at {address} is longer than {most} bytes")))?;
        to.write_all(&data).map_err(|e| Code::StateUnusable.on(format!("writing what is at {address}: {e}")))?;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Answers each request with what is there for its path; what was asked for.
    pub(in crate::engines) async fn server(
        answers: &[(&'static str, Vec<u8>)],
    ) -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (seen, answers): (_, BTreeMap<_, _>) = (asked.clone(), answers.iter().cloned().collect());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = socket.read_u8().await else { break };
                    request.push(byte);
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec();
                let answer = answers.get(path.as_str()).unwrap_or(&none);
                seen.lock().expect("whole").push(path);
                let _ = socket.write_all(answer).await;
                let _ = socket.shutdown().await;
            }
        });
        (address, asked)
    }
    fn config(variables: &[(&str, &str)]) -> Config {
        let variables = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Config::load(None, &BTreeMap::new(), &variables).expect("a configuration")
    }
    fn found(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
    }
    fn sends_to(to: &str) -> Vec<u8> {
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into()
    }

    #[tokio::test]
    async fn a_file_comes_whole_within_its_bound_or_not_at_all() {
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort".to_vec();
        let answers = [
            ("/file", found("content")),
            ("/a", sends_to("/b")),
            ("/b", sends_to("/file")),
            ("/cut", cut),
            ("/loop", sends_to("/loop")),
            ("/away", sends_to("ftp://x/")),
        ];
        let (address, _) = server(&answers).await;
        let config = config(&[]);
        let get = async |path: &str, most: u64| {
            let mut to = Vec::new();
            get(&config, &format!("{address}{path}"), most, &mut to)
                .await
                .map(|()| String::from_utf8_lossy(&to).into_owned())
        };
        assert_eq!(get("/file", 7).await.as_deref(), Ok("content"));
        assert_eq!(get("/a", 7).await.as_deref(), Ok("content"));
        assert_eq!(get("/file", 6).await.expect_err("too long").code, Code::TooLarge);
        for path in ["/none", "/cut", "/loop", "/away"] {
            let failure = get(path, 100).await.expect_err(path);
            assert_eq!(failure.code, Code::SourceUnavailable, "{path}");
            assert!(failure.next_step.contains("--from"), "{failure}");
        }
        let failure =
            super::get(&config, "http://127.0.0.1:1/x?token=secret", 1, &mut Vec::new()).await.expect_err("nobody");
        assert!(!failure.message.contains("secret"), "{failure}");
        for address in ["ftp://x/", "http:///x", "http://user:secret@127.0.0.1:1/x", "nothing"] {
            let failure = super::get(&config, address, 1, &mut Vec::new()).await.expect_err(address);
            assert_eq!(failure.code, Code::SourceUnavailable, "{address}");
        }
    }

    #[tokio::test]
    async fn it_goes_by_way_of_the_runners_proxy() {
        let (proxy, asked) = server(&[]).await;
        let config = config(&[("RUNNERD_PROXY_URL", &proxy)]);
        let failure = get(&config, "https://engines.example/x", 1, &mut Vec::new()).await.expect_err("refused");
        assert_eq!(*asked.lock().expect("whole"), ["engines.example:443"], "{failure}");
    }

    #[test]
    fn nobody_is_sent_from_tls_to_no_tls() {
        for (from, to, good) in [
            ("https://a/x", "https://b/y", true),
            ("https://a/x", "http://b/y", false),
            ("http://a/x", "http://b/y", true),
            ("http://a/x", "https://b/y", true),
            ("https://a/x", "/y", true),
            ("https://a/x", "//b/y", false),
            ("https://a/x", "", false),
        ] {
            assert_eq!(target(to, &from.parse().expect("an address")).is_some(), good, "{from} {to}");
        }
    }
}
