//! Any request to AWS, passed on as its client made it but for the signature: it is made anew, with the connection's credentials, for the
//! service and the region that host and old signature agree on. The answer comes back as AWS gave it, refusals too.
//!
//! ```text
//!   request ─▶ read as the supervisor read it ─▶ a form? its Action is the one that was decided on ─▶ signed ─▶ AWS ─▶ head, body
//! ```
//! It must never sign what the supervisor has not decided on, nor pass on a signature or a token that is not the connection's.

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use bytes::{Bytes, BytesMut};
use futures_util::TryFutureExt as _;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shared_proto::aws::{self, Asked, FORM_MAX, Payload};
use shared_proto::failure::Code;
use shared_proto::v1::{AwsRequest, AwsTarget, HttpHead, HttpHeader, Outcome};
use std::pin::pin;
use std::time::SystemTime;
use tokio::sync::mpsc;

use super::connect::Account;
use super::errors;
use crate::fault::{Fault, done};
use crate::net::Dialer;
use crate::net::http::lost;
use crate::net::passed::{Passed, feed, of_one_connection};
use crate::socket::{Incoming as Input, Input as Inputs, Output};

/// The digest of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Of a refusal's body so much is looked at for AWS' word, bytes.
const REFUSAL_MAX: usize = 64 * 1024;
/// Services that take a path as it is, and want the body's digest in a header.
const OF_S3: &[&str] = &["s3", "s3-object-lambda", "s3-outposts", "s3express"];
/// Headers that end here: the old signature and what belongs to it, and what is between two hops.
const NOT_PASSED: &[&str] = &[
    "authorization",
    "x-amz-date",
    "date",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "x-amz-region-set",
    "cookie",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "via",
];

/// What the request's body is, once it is known what is signed of it.
enum Content {
    /// It was gathered, or there is none.
    Whole(Bytes),
    /// It comes as it is sent; what is signed is what the client says of it, which AWS checks.
    Stream,
}

/// Passes the request on. `again`: where AWS refuses the credentials as expired, that is the outcome, and nothing of the answer goes on.
pub(super) async fn pass(
    target: AwsTarget,
    request: AwsRequest,
    again: bool,
    dialer: &Dialer,
    input: &mut Inputs,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let asked = aws::read(&request)?;
    let account = Account::new(target, &asked.signature.region, dialer)?;
    let endpoint = account.way(request.host.clone())?;
    let content = content(&request, &asked, input).await?;
    let (into, pieces) = mpsc::channel(1);
    let (body, fed) = match &content {
        Content::Stream => (Passed { length: request.body_length, pieces: Some(pieces) }, Some(into)),
        Content::Whole(bytes) if bytes.is_empty() => (Passed { length: None, pieces: None }, None),
        Content::Whole(bytes) => {
            let length = Some(bytes.len() as u64);
            // there is room for one
            let _ = into.try_send(bytes.clone());
            (Passed { length, pieces: Some(pieces) }, None)
        }
    };
    let outgoing = signed(&account, &endpoint.address.prefix, request, &asked, &content, body)?;
    let stream = endpoint.connect().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&endpoint, &e))?;
    // ends with the answer's body
    tokio::spawn(connection);
    let sending = sender.send_request(outgoing).map_err(|e| lost(&endpoint, &e));
    // one future to the end: a frame that was begun must not be lost in between
    let mut feeding = pin!(async {
        match fed {
            Some(into) => feed(input, into).await,
            None => std::future::pending().await,
        }
    });
    let answer = tokio::select! {
        answer = sending => answer?,
        fault = &mut feeding => return Err(fault),
    };
    let mut body = pin!(async {
        let (status, kind) = (answer.status(), errors::type_header(answer.headers()));
        let head = head(&answer);
        let (mut body, mut refusal) = (answer.into_body(), BytesMut::new());
        if again && status.is_client_error() {
            // it is looked at before any of it goes on
            while refusal.len() < REFUSAL_MAX
                && let Some(frame) = body.frame().await
            {
                if let Ok(data) = frame.map_err(|e| lost(&endpoint, &e))?.into_data() {
                    refusal.extend_from_slice(&data);
                }
            }
            let fault = errors::refusal(&asked.service, status, kind.clone(), &refusal);
            if fault.code() == Code::CredentialsExpired {
                return Err(fault);
            }
        }
        output.head(&head).await?;
        output.data(&refusal).await?;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|e| lost(&endpoint, &e))?.into_data() {
                if !status.is_success() && refusal.len() < REFUSAL_MAX {
                    refusal.extend_from_slice(&data[..data.len().min(REFUSAL_MAX - refusal.len())]);
                }
                output.data(&data).await?;
            }
        }
        if status.is_client_error() || status.is_server_error() {
            let fault = errors::refusal(&asked.service, status, kind, &refusal);
            return Ok(Outcome { target_status: fault.status, target_reason: fault.reason, ..done() });
        }
        Ok(done())
    });
    tokio::select! {
        ended = &mut body => ended,
        fault = feeding => Err(fault),
    }
}

/// Gathers what must be seen as a whole before it is signed: a form, whose action must be the one that was decided on, and a body of which
/// the client says no digest.
async fn content(request: &AwsRequest, asked: &Asked, input: &mut Inputs) -> Result<Content, Fault> {
    if !request.body {
        if asked.form && !request.action.is_empty() {
            return Err(mismatch(request, None));
        }
        return Ok(Content::Whole(Bytes::new()));
    }
    // URLs of S3 that are signed ahead say nothing of a body
    let ahead = asked.signature.in_query && OF_S3.contains(&asked.service.as_str());
    if !asked.form && (asked.payload.is_some() || ahead) {
        return Ok(Content::Stream);
    }
    let whole = gathered(input).await?;
    if asked.form && !request.action.is_empty() {
        let found = aws::action(&whole);
        if found.as_deref() != Some(request.action.as_str()) {
            return Err(mismatch(request, found));
        }
    }
    Ok(Content::Whole(whole))
}

fn mismatch(request: &AwsRequest, found: Option<String>) -> Fault {
    let found = found.map_or_else(|| "no one action".to_owned(), |found| format!("the action {found}"));
    let message =
        format!("the request was sent as {}, and the form in its body names {found}: not signed", request.action);
    Fault::new(Code::InvalidArgument, message)
}

async fn gathered(input: &mut Inputs) -> Result<Bytes, Fault> {
    let mut whole = BytesMut::new();
    loop {
        match input.next().await {
            Ok(Some(Input::Stdin(bytes))) if whole.len() + bytes.len() > FORM_MAX => {
                let message =
                    format!("the request's body is longer than {FORM_MAX} bytes and says no digest of itself");
                return Err(Fault::new(Code::TooLarge, message)
                    .next("Send the body's SHA-256 in the header x-amz-content-sha256; `runnerctl aws` does."));
            }
            Ok(Some(Input::Stdin(bytes))) => whole.extend_from_slice(&bytes),
            Ok(Some(Input::StdinClosed)) => return Ok(whole.freeze()),
            Ok(Some(Input::Resize { .. })) => {}
            // the end of the socket is the caller's cancel, and is watched elsewhere
            Ok(None) => return std::future::pending().await,
            Err(error) => return Err(Fault::new(Code::Internal, error.to_string())),
        }
    }
}

/// The request as it goes out, with the connection's signature.
fn signed(
    account: &Account,
    prefix: &str,
    request: AwsRequest,
    asked: &Asked,
    content: &Content,
    body: Passed,
) -> Result<http::Request<Passed>, Fault> {
    let wrong = |what: String| Fault::new(Code::InvalidArgument, what);
    let internal = |e: String| Fault::new(Code::Internal, format!("a request to AWS cannot be signed: {e}"));
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| wrong(format!("{:?} is no method of AWS", request.method)))?;
    let target = if asked.signature.in_query { aws::without_signature(&request.target) } else { request.target };
    let length = body.length;
    let mut outgoing = http::Request::builder()
        .method(method)
        .uri(format!("{prefix}{target}"))
        .body(body)
        .map_err(|e| wrong(format!("no request can be made of it: {e}")))?;
    *outgoing.headers_mut() = passed(&request.headers)?;
    let host = HeaderValue::from_str(&request.host).map_err(|_| wrong(format!("{:?} is no host", request.host)))?;
    outgoing.headers_mut().insert(HOST, host);
    if let Some(length) = length {
        outgoing.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }

    let s3 = OF_S3.contains(&asked.service.as_str());
    let mut settings = SigningSettings::default();
    if s3 {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    if s3 || asked.payload.is_some() {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let identity = account.credentials().clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&asked.signature.region)
        .name(&asked.service)
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(|e| internal(e.to_string()))?
        .into();
    let payload = match (content, &asked.payload) {
        (Content::Whole(bytes), _) if !bytes.is_empty() => SignableBody::Bytes(bytes),
        (_, Some(Payload::Digest(digest))) => SignableBody::Precomputed(digest.clone()),
        (_, Some(Payload::Unsigned)) | (Content::Stream, None) => SignableBody::UnsignedPayload,
        (Content::Stream, Some(Payload::UnsignedTrailer)) => SignableBody::StreamingUnsignedPayloadTrailer,
        (Content::Whole(_), _) => SignableBody::Precomputed(EMPTY.to_owned()),
    };
    let mut headers = Vec::with_capacity(outgoing.headers().len());
    for (name, value) in outgoing.headers() {
        if is_signed(name) {
            let text = std::str::from_utf8(value.as_bytes())
                .map_err(|_| wrong(format!("the value of the header {name} is no text, and must be signed")))?;
            headers.push((name.as_str(), text));
        }
    }
    let url = format!("https://{}{target}", request.host);
    let signable = SignableRequest::new(outgoing.method().as_str(), &url, headers.into_iter(), payload)
        .map_err(|e| internal(e.to_string()))?;
    let (instructions, _) = sign(signable, &params).map_err(|e| internal(e.to_string()))?.into_parts();
    instructions.apply_to_request_http1x(&mut outgoing);
    Ok(outgoing)
}

/// What of the request AWS wants signed; others, such as `accept-encoding`, a proxy may change on the way.
fn is_signed(name: &HeaderName) -> bool {
    matches!(name.as_str(), "host" | "content-type" | "content-md5") || name.as_str().starts_with("x-amz-")
}

/// Those of the client's headers that are AWS' business. Values of one name are joined, so that what is signed is what is sent.
fn passed(given: &[HttpHeader]) -> Result<HeaderMap, Fault> {
    let wrong = |what: String| Fault::new(Code::InvalidArgument, what);
    let mut headers = HeaderMap::<HeaderValue>::with_capacity(given.len() + 6);
    for header in given {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| wrong(format!("{:?} is no header's name", header.name)))?;
        if of_one_connection(name.as_str()) || NOT_PASSED.contains(&name.as_str()) {
            continue;
        }
        let joined = match headers.get(&name) {
            Some(earlier) => [earlier.as_bytes(), b",", &header.value].concat(),
            None => header.value.clone(),
        };
        let value =
            HeaderValue::from_bytes(&joined).map_err(|_| wrong(format!("the value of the header {name} is none")))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The answer's head, without what is between AWS and here. What it says of the body's length stays.
fn head(answer: &Response<Incoming>) -> HttpHead {
    let headers = answer.headers().iter().filter(|(name, _)| !of_one_connection(name.as_str()));
    let headers = headers.map(|(name, value)| HttpHeader { name: name.to_string(), value: value.as_bytes().to_vec() });
    HttpHead { status: u32::from(answer.status().as_u16()), headers: headers.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, target: &str, service: &str, more: &[(&str, &str)]) -> AwsRequest {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIATHROWAWAY/20260101/eu-west-1/{service}/aws4_request, SignedHeaders=host, Signature=0ld"
        );
        let mut all = vec![
            ("authorization", authorization.as_str()),
            ("x-amz-date", "20260101T000000Z"),
            ("x-amz-security-token", "thr0waway"),
        ];
        all.extend_from_slice(more);
        AwsRequest {
            method: "PUT".into(),
            host: host.into(),
            target: target.into(),
            headers: all
                .into_iter()
                .map(|(n, v)| HttpHeader { name: n.to_owned(), value: v.as_bytes().to_vec() })
                .collect(),
            ..Default::default()
        }
    }

    fn outgoing(request: AwsRequest, content: &Content) -> http::Request<Passed> {
        let asked = aws::read(&request).expect("reads");
        let target = AwsTarget {
            access_key_id: "AKIAREAL".into(),
            secret_access_key: "s3cr3t".into(),
            session_token: "t0ken".into(),
            ..Default::default()
        };
        let account = Account::new(target, "eu-west-1", &Dialer::none()).expect("an account");
        signed(&account, "", request, &asked, content, Passed { pieces: None, length: None }).expect("signs")
    }

    fn header<'a>(request: &'a http::Request<Passed>, name: &str) -> &'a str {
        request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    #[test]
    fn nothing_of_the_clients_signature_goes_on() {
        let request = request(
            "b.s3.eu-west-1.amazonaws.com",
            "/k%20ey//x",
            "s3",
            &[
                ("x-amz-meta-a", "1"),
                ("x-amz-meta-a", "2"),
                ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
                ("expect", "100-continue"),
                ("connection", "x"),
                ("cookie", "a=b"),
            ],
        );
        let request = outgoing(request, &Content::Stream);
        let authorization = header(&request, "authorization");
        assert!(authorization.contains("AKIAREAL/") && authorization.contains("/eu-west-1/s3/aws4_request"));
        assert!(!authorization.contains("THROWAWAY") && !authorization.contains("0ld"), "{authorization}");
        assert_eq!(header(&request, "x-amz-security-token"), "t0ken");
        assert_eq!(header(&request, "x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        assert_ne!(header(&request, "x-amz-date"), "20260101T000000Z");
        assert_eq!((header(&request, "x-amz-meta-a"), request.uri().path()), ("1,2", "/k%20ey//x"));
        for gone in ["expect", "connection", "cookie"] {
            assert!(!request.headers().contains_key(gone), "{gone}");
        }
        assert!(authorization.contains("host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-security-token"));
    }

    #[test]
    fn an_url_that_was_signed_ahead_is_signed_by_header() {
        let ahead = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIATHROWAWAY%2F20260101%2Feu-west-1%2Fs3%2Faws4_request\
                     &X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00&versionId=1";
        let mut request = request("s3.eu-west-1.amazonaws.com", ahead, "s3", &[]);
        request.headers.clear();
        let request = outgoing(request, &Content::Stream);
        assert_eq!(request.uri().to_string(), "/b/k?versionId=1");
        assert!(header(&request, "authorization").contains("AKIAREAL/"));
    }
}
