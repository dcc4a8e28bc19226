//! One request of a client: whether it may go on, what must be known of its body before, and the answer on its way back.
//!
//! It must never send on anything of a request that is not signed with the throw-away key: a client that signs with another one has found
//! credentials, which are not ours to pass around.

use super::keys::Keys;
use super::refusal::{self, Form};
use crate::client::{Body, Client, Kept, empty, full};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use shared_proto::aws::{self, FORM_MAX, headers as names};
use shared_proto::failure::{Code, Failure};
use shared_proto::hex;
use shared_proto::v1::{AwsRequest, HttpHeader};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest body that is gathered because its digest must be told first, bytes: a function's code of 50 MB in JSON is 67 of them. Bodies
/// that tell it themselves, as S3's do, are not gathered.
const GATHERED_MAX: usize = 96 * 1024 * 1024;
/// All of them at once, in units of [`UNIT`].
const GATHERED_ALL: usize = 256 * 1024 * 1024 / UNIT;
/// The unit in which gathered bytes are counted.
const UNIT: usize = 64 * 1024;
/// Headers of one connection: RFC 9110, 7.6.1; and others that end here.
const NOT_PASSED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "expect",
    "host",
];

/// Passes requests on.
pub(super) struct Passing {
    client: Client,
    /// The route of the connection.
    path: String,
    keys: Arc<Keys>,
    kept: Kept,
    gathered: Arc<Semaphore>,
}

/// A body, what it says of its operation, and its digest where the request does not tell it.
struct Content {
    body: Body,
    action: Option<String>,
    digest: Option<String>,
    /// Held until the body was sent.
    held: Option<OwnedSemaphorePermit>,
}

// === impl Passing ===

impl Passing {
    /// To that route.
    pub(super) fn new(client: Client, path: String, keys: Arc<Keys>) -> Self {
        Self { client, path, keys, kept: Kept::default(), gathered: Arc::new(Semaphore::new(GATHERED_ALL)) }
    }

    /// The answer to a request that came for that host: AWS' own, or a failure as AWS would tell it.
    pub(super) async fn pass(&self, host: &str, request: Request<Incoming>) -> Response<Body> {
        let (headers, head) = (request.headers().clone(), request.method() == http::Method::HEAD);
        match self.passed(host, request).await {
            Ok(response) => response,
            Err(failure) => {
                if head {
                    // an answer to HEAD has no words
                    eprintln!("· {failure}");
                }
                let service = aws::Host::parse(host).map_or("", |host| host.service());
                refusal::answer(Form::of(&headers, service), &failure)
            }
        }
    }

    async fn passed(&self, host: &str, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
            return Err(Code::InvalidArgument.on("a request within a tunnel names its host in the header alone"));
        }
        let mut asked = AwsRequest {
            method: parts.method.to_string(),
            host: host.to_owned(),
            target: parts.uri.path_and_query().map_or_else(|| "/".to_owned(), |p| p.as_str().to_owned()),
            headers: listed(&parts.headers),
            body: !body.is_end_stream(),
            body_length: body.size_hint().exact().filter(|_| !body.is_end_stream()),
            action: String::new(),
        };
        let read = aws::read(&asked)?;
        if read.signature.access_key_id != self.keys.access_key_id {
            return Err(Code::PolicyDenied
                .on(format!(
                    "the request is signed with the key {}, which is not the one that runnerctl gave",
                    read.signature.access_key_id
                ))
                .next(
                    "Sign with what is in the environment: no other profile, no role that the client assumes itself.",
                ));
        }
        let content = self.content(&asked, &read, body).await?;
        asked.action = content.action.unwrap_or_default();
        let mut headers = marked(&parts.headers);
        let mut put = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Code::InvalidArgument.on(format!("what goes into the header {name} is no value")))?;
            headers.insert(name, value);
            Ok::<_, Failure>(())
        };
        put(names::HOST, &asked.host)?;
        put(names::TARGET, &asked.target)?;
        if !asked.action.is_empty() {
            put(names::ACTION, &asked.action)?;
        }
        if let Some(digest) = &content.digest {
            put(DIGEST, digest)?;
        }
        let answer = self.client.pass(&self.kept, parts.method, &self.path, headers, content.body).await;
        drop(content.held);
        Ok(answered(answer?))
    }

    /// What of the body must be seen before it goes on: a form, which names its operation, and a body of which nobody tells the digest and
    /// which is too long for the runner to gather.
    async fn content(&self, asked: &AwsRequest, read: &aws::Asked, body: Incoming) -> Result<Content, Failure> {
        let plain = |body| Content { body, action: None, digest: None, held: None };
        if !asked.body {
            return Ok(plain(empty()));
        }
        if read.form {
            let (bytes, held) = self.gather(body, FORM_MAX).await?;
            return Ok(Content { action: aws::action(&bytes), body: full(bytes), digest: None, held: Some(held) });
        }
        let short = asked.body_length.is_some_and(|length| length <= FORM_MAX as u64);
        let ahead = read.signature.in_query && read.signature.service.starts_with("s3");
        if read.payload.is_some() || short || ahead {
            return Ok(plain(passing(body)));
        }
        let (bytes, held) = self.gather(body, GATHERED_MAX).await?;
        let digest = hex::encode(Sha256::digest(&bytes));
        Ok(Content { body: full(bytes), action: None, digest: Some(digest), held: Some(held) })
    }

    async fn gather(&self, mut body: Incoming, most: usize) -> Result<(Bytes, OwnedSemaphorePermit), Failure> {
        let closed = |_| Code::Internal.on("no memory is given out any more");
        let units = |bytes: usize| u32::try_from(bytes.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX);
        // all of it at once, or two that wait for each other's would wait for ever
        let expected = body.size_hint().exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(most).min(most);
        let held = self.gathered.clone().acquire_many_owned(units(expected)).await.map_err(closed)?;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Code::Cancelled.on(format!("the request's body broke off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > most {
                    return Err(Code::TooLarge
                        .on(format!("the request's body is longer than {most} bytes and says no digest of itself")));
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok((whole.freeze(), held))
    }
}

/// The header by which AWS is told a body's digest, on its way.
const DIGEST: &str = "aws-header-x-amz-content-sha256";

fn passing(body: Incoming) -> Body {
    body.map_err(std::io::Error::other).boxed()
}

fn listed(headers: &HeaderMap) -> Vec<HttpHeader> {
    headers.iter().map(|(n, v)| HttpHeader { name: n.to_string(), value: v.as_bytes().to_vec() }).collect()
}

/// Whether a header ends here, of which the others say that it is between two hops.
fn ends_here(name: &HeaderName, headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    NOT_PASSED.contains(&name.as_str())
        || named.flat_map(|v| v.split(',')).any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
}

/// The client's headers, under names that meet none of the way's own.
fn marked(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        if !ends_here(name, headers)
            && let Ok(name) = HeaderName::try_from(format!("{}{name}", names::PREFIX))
        {
            out.append(name, value.clone());
        }
    }
    out
}

/// AWS' answer without what is of this way.
fn answered(answer: Response<Incoming>) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(passing(body));
    *response.status_mut() = parts.status;
    for (name, value) in &parts.headers {
        // the length stays: of an answer to HEAD it is all there is
        if name == header::CONTENT_LENGTH || !(ends_here(name, &parts.headers) || name == names::ANSWER) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_meet_none_of_the_ways_own() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "AWS4-HMAC-SHA256 x"),
            ("host", "h"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("expect", "100-continue"),
            ("x-amz-meta-a", "1"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append("x-amz-meta-a", HeaderValue::from_static("2"));
        let marked = marked(&headers);
        let mut names: Vec<_> = marked.iter().map(|(n, v)| format!("{n}={}", v.to_str().expect("text"))).collect();
        names.sort();
        assert_eq!(
            names,
            ["aws-header-authorization=AWS4-HMAC-SHA256 x", "aws-header-x-amz-meta-a=1", "aws-header-x-amz-meta-a=2"]
        );
    }
}
