//! Any request of the Kubernetes API, passed on as its client made it, and the answer as the API server gave it: whole documents, watches,
//! logs, and what is switched to for exec, attach and port-forward, whichever protocol that is.
//!
//! It must never pass on what authenticates somebody else than the connection, nor what speaks of the connection between two hops.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use shared_proto::ahead::Pieces;
use shared_proto::bounds::DATA_MAX;
use shared_proto::failure::Code;
use shared_proto::glob::Glob;
use shared_proto::v1::{HttpHead, HttpHeader, K8sRequest, Masking, Outcome};
use std::pin::pin;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::connect::Cluster;
use super::mask::{self, Answer, MaskError, Masker, Refused, WriteRefused, Writes};
use crate::fault::{Fault, done};
use crate::net::Stream;
use crate::net::http::lost;
use crate::net::passed::{Passed, feed, of_one_connection};
use crate::socket::{Incoming as Input, Input as Inputs, Output};

/// The longest path with its query, bytes: an API server takes 1 MiB of headers; the words of a command are in it.
const TARGET_MAX: usize = 64 * 1024;
/// The most headers that are passed on.
const HEADERS_MAX: usize = 64;
/// What exec, attach and port-forward are spoken in.
const SWITCHED: [&str; 2] = ["SPDY/3.1", "websocket"];
/// A bearer token among the subprotocols of a WebSocket: https://github.com/kubernetes/kubernetes/pull/47740.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Headers that are not between the client and the API server, beside those of one connection.
const NOT_PASSED: &[&str] = &["authorization", "cookie", "content-length", "expect", "forwarded", "host", "via"];
/// The same by what they begin with: `X-Remote-User` and others would be believed of an authenticating proxy.
const NOT_PASSED_PREFIXES: &[&str] = &["x-forwarded-", "x-remote-", "x-real-ip"];

/// Passes the request on. `masking`: the answer may have Secrets in it, of which no value is shown but of those types.
pub(super) async fn pass(
    cluster: &Cluster,
    request: K8sRequest,
    masking: Option<Masking>,
    input: &mut Inputs,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let (into, pieces) = mpsc::channel(1);
    let protocol = upgrade(&request.headers)?;
    // what comes in behind a request to switch is not its body
    let has_body = request.body && protocol.is_none();
    let body = Passed { length: request.body_length, pieces: has_body.then_some(pieces) };
    let request = outgoing(cluster, request, protocol.as_ref(), body)?;
    if let Some(masking) = masking {
        return masked(cluster, request, has_body.then_some(into), masking, input, output).await;
    }
    let endpoint = cluster.endpoint();
    let sending = send(cluster, request);
    if protocol.is_some() {
        let (answer, _sender) = sending.await?;
        let answer = accepted(cluster, answer).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return switched(cluster, answer, input, output).await;
        }
        output.head(&head(answer.status(), answer.headers())).await?;
        return answer_body(cluster, answer.into_body(), output).await;
    }
    // one future to the end: a frame that was begun must not be lost in between
    let mut feeding = pin!(feed(input, into));
    let (answer, _sender) = tokio::select! {
        sent = sending => sent?,
        fault = &mut feeding => return Err(fault),
    };
    let answer = accepted(cluster, answer).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::new(Code::TargetFailed, format!("{}: it switched protocols unasked", endpoint.shown())));
    }
    output.head(&head(answer.status(), answer.headers())).await?;
    tokio::select! {
        ended = answer_body(cluster, answer.into_body(), output) => ended,
        fault = &mut feeding => Err(fault),
    }
}

/// The same where values are masked: what is written is looked at as a whole before any of it goes out.
async fn masked(
    cluster: &Cluster,
    mut request: http::Request<Passed>,
    into: Option<mpsc::Sender<Bytes>>,
    masking: Masking,
    input: &mut Inputs,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    mask::request_headers(request.headers_mut()).map_err(Fault::from)?;
    let method = request.method().clone();
    if let Some(into) = into {
        let mut writes = Writes::new(request.headers()).map_err(Fault::from)?;
        loop {
            match input.next().await {
                Ok(Some(Input::Stdin(bytes))) => writes.push(&bytes).map_err(Fault::from)?,
                Ok(Some(Input::StdinClosed)) => break,
                Ok(Some(Input::Resize { .. })) => {}
                Ok(None) => return std::future::pending().await,
                Err(error) => return Err(Fault::new(Code::Internal, error.to_string())),
            }
        }
        // the channel has room for the one
        let _ = into.try_send(writes.finish().map_err(Fault::from)?);
    }
    let (answer, _sender) = send(cluster, request).await?;
    let answer = accepted(cluster, answer).await?;
    let form = Answer::of(&method, answer.status(), answer.headers(), masking.watch).map_err(Fault::from)?;
    // the supervisor has read them as patterns
    let shown = masking.shown_types.iter().filter_map(|shown| Glob::parse(shown).ok()).collect();
    let mut masker = Masker::new(form, shown);
    let mut headers = answer.headers().clone();
    mask::answer_headers(&mut headers);
    output.head(&head(answer.status(), &headers)).await?;
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| lost(cluster.endpoint(), &e))?.into_data() {
            output.data(&masker.push(&data).map_err(Fault::from)?).await?;
        }
    }
    masker.finish().map_err(Fault::from)?;
    Ok(done())
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::NotAcceptable { .. } => Code::NotAcceptable,
            _ => Code::InvalidArgument,
        };
        Self::new(code, refused.to_string()).next(refused.next_step())
    }
}

impl From<WriteRefused> for Fault {
    fn from(refused: WriteRefused) -> Self {
        Self::new(refused.code(), refused.to_string()).next(refused.next_step())
    }
}

impl From<MaskError> for Fault {
    fn from(error: MaskError) -> Self {
        let code = if matches!(error, MaskError::TooLarge { .. }) { Code::TooLarge } else { Code::TargetFailed };
        Self::new(code, error.to_string()).next(error.next_step())
    }
}

/// Sends the request over the connection that is there, or over a new one. The answer's body comes as long as there is the sender.
async fn send(
    cluster: &Cluster,
    mut request: http::Request<Passed>,
) -> Result<(Response<Incoming>, SendRequest<Passed>), Fault> {
    let endpoint = cluster.endpoint();
    if let Some(stream) = cluster.take_connection()
        && let Ok(mut sender) = over(cluster, stream).await
    {
        match sender.try_send_request(request).await {
            Ok(answer) => return Ok((answer, sender)),
            // it was closed meanwhile; of a request that comes back nothing was sent
            Err(mut failed) => match failed.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(lost(endpoint, failed.error())),
            },
        }
    }
    let mut sender = over(cluster, endpoint.connect().await?).await?;
    let answer = sender.send_request(request).await.map_err(|e| lost(endpoint, &e))?;
    Ok((answer, sender))
}

/// HTTP on a connection to the API server, for one request.
async fn over(cluster: &Cluster, stream: Stream) -> Result<SendRequest<Passed>, Fault> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(cluster.endpoint(), &e))?;
    // ends with the answer's body, or with what was switched to
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// An answer to these credentials. Where the API server does not accept them, that is not the client's affair: the control plane has let it in.
async fn accepted(cluster: &Cluster, answer: Response<Incoming>) -> Result<Response<Incoming>, Fault> {
    if answer.status() == StatusCode::UNAUTHORIZED {
        return Err(super::errors::refusal(cluster.endpoint(), answer).await);
    }
    Ok(answer)
}

/// The protocol that the client asks to switch to. Those of exec, attach and port-forward alone: over another one, HTTP/2 without TLS above all,
/// further requests could go that nobody has decided on.
fn upgrade(headers: &[HttpHeader]) -> Result<Option<HeaderValue>, Fault> {
    let asked: Vec<_> = headers.iter().filter(|h| h.name.eq_ignore_ascii_case(UPGRADE.as_str())).collect();
    let known = match asked.as_slice() {
        [] => return Ok(None),
        [one] => SWITCHED.iter().find(|known| known.as_bytes().eq_ignore_ascii_case(&one.value)),
        _ => None,
    };
    match known {
        Some(known) => Ok(Some(HeaderValue::from_static(known))),
        None => {
            let said: Vec<_> = asked.iter().map(|h| String::from_utf8_lossy(&h.value)).collect();
            let message = format!("no request switches to {:?} here", said.join(", "));
            Err(Fault::new(Code::InvalidArgument, message).next("Use SPDY/3.1 or WebSocket, as kubectl does."))
        }
    }
}

fn outgoing(
    cluster: &Cluster,
    request: K8sRequest,
    switches: Option<&HeaderValue>,
    body: Passed,
) -> Result<http::Request<Passed>, Fault> {
    let wrong = |what: String| Fault::new(Code::InvalidArgument, what);
    let method = Method::from_bytes(request.method.as_bytes())
        .ok()
        .filter(|method| *method != Method::CONNECT)
        .ok_or_else(|| wrong(format!("{:?} is no method of the Kubernetes API", request.method)))?;
    if !request.target.starts_with('/') || request.target.len() > TARGET_MAX {
        return Err(wrong(format!("the request's path is none, or longer than {TARGET_MAX} bytes")));
    }
    let endpoint = cluster.endpoint();
    let mut outgoing = http::Request::builder()
        .method(method)
        .uri(format!("{}{}", endpoint.address.prefix, request.target))
        .body(body)
        .map_err(|e| wrong(format!("no request can be made of it: {e}")))?;
    let headers = outgoing.headers_mut();
    *headers = passed(&request.headers)?;
    let host = HeaderValue::from_str(&endpoint.address.host_header())
        .map_err(|_| Fault::new(Code::TargetUnreachable, format!("{}: no host name", endpoint.shown())))?;
    headers.insert(HOST, host);
    if let Some(length) = request.body_length.filter(|_| request.body) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(protocol) = switches {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    cluster.authenticate(headers);
    Ok(outgoing)
}

/// Those of the client's headers that are the API server's business.
fn passed(given: &[HttpHeader]) -> Result<HeaderMap, Fault> {
    let wrong = |what: String| Fault::new(Code::InvalidArgument, what);
    if given.len() > HEADERS_MAX {
        return Err(wrong(format!("the request has {} headers, the limit is {HEADERS_MAX}", given.len())));
    }
    let mut headers = HeaderMap::with_capacity(given.len() + 4);
    for header in given {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| wrong(format!("{:?} is no header's name", header.name)))?;
        if of_one_connection(name.as_str())
            || NOT_PASSED.contains(&name.as_str())
            || NOT_PASSED_PREFIXES.iter().any(|p| name.as_str().starts_with(p))
        {
            continue;
        }
        let mut value = HeaderValue::from_bytes(&header.value)
            .map_err(|_| wrong(format!("the value of the header {name} is none")))?;
        if name == SEC_WEBSOCKET_PROTOCOL {
            value = without_token(&value);
        }
        headers.append(name, value);
    }
    Ok(headers)
}

/// Subprotocols, but for one that is a token.
fn without_token(protocols: &HeaderValue) -> HeaderValue {
    let text = protocols.to_str().unwrap_or_default();
    let kept: Vec<_> = text.split(',').map(str::trim).filter(|p| !p.starts_with(TOKEN_PROTOCOL)).collect();
    HeaderValue::from_str(&kept.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

/// The answer's head, without what is between the API server and here. What it says of the body's length stays.
fn head(status: StatusCode, headers: &HeaderMap) -> HttpHead {
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let stays = |name: &HeaderName| match name.as_str() {
        "connection" | "upgrade" => switched,
        "content-length" => true,
        name => !of_one_connection(name) && !NOT_PASSED.contains(&name),
    };
    let headers = headers.iter().filter(|(name, _)| stays(name));
    let headers = headers.map(|(name, value)| HttpHeader { name: name.to_string(), value: value.as_bytes().to_vec() });
    HttpHead { status: u32::from(status.as_u16()), headers: headers.collect() }
}

/// Passes the body on, to its end: in messages as large as they may be where much comes, and whatever there is at once.
async fn answer_body(cluster: &Cluster, mut body: Incoming, output: &mut Output) -> Result<Outcome, Fault> {
    let mut piece = BytesMut::new();
    loop {
        let mut next = body.frame().await;
        let ended = loop {
            match next {
                None => break Some(Ok(done())),
                Some(Err(e)) => break Some(Err(lost(cluster.endpoint(), &e))),
                Some(Ok(frame)) => frame.into_data().map_or((), |data| piece.extend_from_slice(&data)),
            }
            if piece.len() >= DATA_MAX {
                break None;
            }
            match body.frame().now_or_never() {
                Some(more) => next = more,
                None => break None,
            }
        };
        output.data(&piece).await?;
        piece.clear();
        if let Some(ended) = ended {
            return ended;
        }
    }
}

/// Passes on what both sides say in the protocol that was switched to. Ends when the API server does.
async fn switched(
    cluster: &Cluster,
    answer: Response<Incoming>,
    input: &mut Inputs,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let endpoint = cluster.endpoint();
    output.head(&head(answer.status(), answer.headers())).await?;
    let upgraded = hyper::upgrade::on(answer).await.map_err(|e| lost(endpoint, &e))?;
    let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
    let from_target = async {
        // messages as large as they may be where much comes
        let (mut from, mut buffer) = (Pieces::new(&mut from, DATA_MAX), BytesMut::new());
        loop {
            match from.next(&mut buffer).await {
                Ok(0) => return Ok(done()),
                Ok(_) => output.data(&buffer).await?,
                Err(e) => return Err(lost(endpoint, &e)),
            }
        }
    };
    let to_target = async {
        loop {
            let sent = match input.next().await {
                Ok(Some(Input::Stdin(bytes))) => match to.write_all(&bytes).await {
                    Ok(()) => to.flush().await,
                    failed => failed,
                },
                Ok(Some(Input::StdinClosed)) => to.shutdown().await,
                Ok(Some(Input::Resize { .. })) => Ok(()),
                // the end of the socket is the caller's cancel, and is watched elsewhere
                Ok(None) => return std::future::pending().await,
                Err(error) => return Fault::new(Code::Internal, error.to_string()),
            };
            if sent.is_err() {
                // what is wrong with the other side, whoever reads from it sees
                return std::future::pending().await;
            }
        }
    };
    tokio::select! {
        ended = from_target => ended,
        fault = to_target => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(headers: &[(&str, &str)]) -> Vec<HttpHeader> {
        headers.iter().map(|(n, v)| HttpHeader { name: (*n).to_owned(), value: v.as_bytes().to_vec() }).collect()
    }

    #[test]
    fn what_is_between_two_hops_and_what_says_who_asks_does_not_go_on() {
        let headers = given(&[
            ("Accept", "application/json"),
            ("Authorization", "Bearer x"),
            ("Connection", "keep-alive, x-own"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "7"),
            ("X-Remote-User", "admin"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Cookie", "a=b"),
            ("Host", "elsewhere"),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4"),
        ]);
        let found = passed(&headers).expect("headers");
        let names: Vec<_> = found.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["accept", "sec-websocket-protocol"]);
        assert_eq!(found[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        for bad in [given(&[("a b", "x")]), given(&[("a", "x\r\ny: z")]), given(&[("a", "b"); HEADERS_MAX + 1])] {
            assert!(passed(&bad).is_err());
        }
        assert!(passed(&given(&[("a", "b"); HEADERS_MAX])).is_ok());
    }

    #[test]
    fn only_what_exec_is_spoken_in_is_switched_to() {
        for (headers, expected) in [
            (&[][..], Some(None)),
            (&[("Upgrade", "websocket")], Some(Some("websocket"))),
            (&[("upgrade", "WebSocket")], Some(Some("websocket"))),
            (&[("upgrade", "SPDY/3.1")], Some(Some("SPDY/3.1"))),
            (&[("upgrade", "h2c")], None),
            (&[("upgrade", "websocket, h2c")], None),
            (&[("upgrade", "websocket"), ("upgrade", "h2c")], None),
            (&[("upgrade", "TLS/1.0")], None),
        ] {
            let found = upgrade(&given(headers)).ok().map(|p| p.map(|p| p.to_str().expect("text").to_owned()));
            assert_eq!(found, expected.map(|p| p.map(str::to_owned)), "{headers:?}");
        }
    }
}
