//! One request to where a token is given, on a connection of its own. A resolver has the network; it follows no redirect and no proxy.

use bytes::Bytes;
use http::StatusCode;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shared_proto::address::Address;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fault::chain;
use crate::net::dial::Stream;
use crate::net::{Request, tls};

/// For one request and all of its answer.
const WITHIN: Duration = Duration::from_secs(8);
/// The longest answer, bytes: a token has some thousand.
const ANSWER_MAX: usize = 256 * 1024;

/// Sends it and reads the whole answer, whatever its status.
///
/// # Errors
/// Why there is none, with the host and without what was sent.
pub(super) async fn exchange(address: &Address, request: Request) -> Result<(StatusCode, Bytes), String> {
    let shown = address.shown();
    match tokio::time::timeout(WITHIN, unbounded(address, request)).await {
        Ok(answered) => answered.map_err(|e| format!("{shown}: {e}")),
        Err(_) => Err(format!("{shown}: no answer within {} s", WITHIN.as_secs())),
    }
}

async fn unbounded(address: &Address, mut request: Request) -> Result<(StatusCode, Bytes), String> {
    use http_body_util::BodyExt as _;
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|e| format!("cannot be reached: {e}"))?;
    let stream = if address.https {
        let connector = TlsConnector::from(tls::client(&tls::Trust::System, None)?);
        let name = tls::server_name(&address.host)?;
        let stream = connector.connect(name, stream).await.map_err(|e| format!("TLS: {}", chain(&e)))?;
        Stream::Tls(Box::new(stream))
    } else {
        Stream::Plain(stream)
    };
    let host = address.host_header().parse().map_err(|_| "cannot be a host".to_owned())?;
    request.headers_mut().insert(http::header::HOST, host);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| chain(&e))?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|e| chain(&e))?.into_data() {
                if whole.len() + data.len() > ANSWER_MAX {
                    return Err(format!("its answer is longer than {ANSWER_MAX} bytes"));
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok((status, Bytes::from(whole)))
    };
    // what the connection ends with, the request that waits for it is told
    let driven = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        biased;
        answered = exchange => answered,
        never = driven => match never {},
    }
}
