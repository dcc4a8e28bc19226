//! What a resolver itself asks over HTTP: one request on one connection of its own, the answer whole and bounded, no redirect followed.
//!
//! It must never be used by an operation's worker, which makes no connection, and never say more of an address than host and port.

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shared_proto::address::Address;
use shared_proto::bounds::CONNECT_DEADLINE;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fault::chain;
use crate::net::{Request, tls};

/// The longest answer that is taken, bytes: tokens have a few thousand.
const ANSWER_MAX: usize = 256 * 1024;
/// How long one request may take, all in all.
const DEADLINE: Duration = Duration::from_secs(10);

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends it; its URI is a path and perhaps a query.
///
/// # Errors
/// Why there is no answer, with the address.
pub(super) async fn exchange(address: &Address, mut request: Request) -> Result<Answer, String> {
    let at = |why: String| format!("{}: {why}", address.shown());
    let host = HeaderValue::from_str(&address.host_header()).map_err(|_| at("no host name".to_owned()))?;
    request.headers_mut().insert(HOST, host);
    let exchanging = async {
        let connecting = TcpStream::connect((address.host.as_str(), address.port));
        let stream = match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
            Ok(stream) => stream.map_err(|e| e.to_string())?,
            Err(_) => return Err(format!("no connection within {} s", CONNECT_DEADLINE.as_secs())),
        };
        if !address.https {
            return send(stream, request).await;
        }
        let (config, name) = (tls::client(&tls::Trust::System, None)?, tls::server_name(&address.host)?);
        let stream =
            TlsConnector::from(config).connect(name, stream).await.map_err(|e| format!("TLS: {}", chain(&e)))?;
        send(stream, request).await
    };
    match tokio::time::timeout(DEADLINE, exchanging).await {
        Ok(answer) => answer.map_err(at),
        Err(_) => Err(at(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
    // ends with the sender; what it ends with, the request that waits for it is told
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let (head, body) = sender.send_request(request).await.map_err(|e| chain(&e))?.into_parts();
    let body = http_body_util::Limited::new(body, ANSWER_MAX);
    let body = http_body_util::BodyExt::collect(body)
        .await
        .map_err(|e| format!("the answer cannot be read, or has more than {ANSWER_MAX} bytes: {e}"))?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}
