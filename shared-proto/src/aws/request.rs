//! One request: what is certain about it before its body is seen.

use super::host::{Host, Place};
use super::operations::{Said, Service};
use super::signature::{Payload, Signature};
use crate::failure::{Code, Failure};
use crate::v1::{AwsRequest, HttpHeader};

/// The longest path with its query, bytes: what S3 and the query protocol take is far shorter.
pub const TARGET_MAX: usize = 32 * 1024;
/// The most that names and values of the headers may take together, bytes.
pub const HEADERS_MAX: usize = 48 * 1024;
/// The most headers.
const HEADERS_COUNT: usize = 128;
/// The longest form, bytes: CloudFormation's templates of 50 KiB, IAM's policies and SQS' messages of 1 MiB come encoded.
pub const FORM_MAX: usize = 4 * 1024 * 1024;
/// The longest name of an operation.
const ACTION_MAX: usize = 128;
/// Headers by which a service would do something else than method and path say.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// Headers of which one decides something: nobody must have to choose between two.
const SINGLE: [&str; 12] = [
    "authorization",
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "x-amz-target",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "x-amz-decoded-content-length",
    "x-amz-copy-source",
    "smithy-protocol",
];
/// What an URL that was signed ahead carries for that.
const SIGNED_AHEAD: [&str; 7] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-security-token",
];

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The service, by the name that its requests are signed for: `s3`, `ec2`, `monitoring`. Rules name it by [`Asked::prefix`].
    pub service: String,
    /// The operation; `None`: it is not known, or not certain. Where it is out of a form, the worker holds the form to it before it signs.
    pub operation: Option<&'static str>,
    /// The region; `None`: the host is of none.
    pub region: Option<String>,
    /// What it is signed with, and for which region.
    pub signature: Signature,
    /// What it says of its body.
    pub payload: Option<Payload>,
    /// Whether the body is a form that names the operation.
    pub form: bool,
}

// === impl Asked ===

impl Asked {
    /// The service as IAM's policies name it in actions, and rules of a runner's policy with them; where that is not the name in signatures.
    pub fn prefix(&self) -> &str {
        super::operations::prefix_of(&self.service)
    }
    /// `s3:GetObject`; with a question mark where the operation is not known.
    pub fn shown(&self) -> String {
        format!("{}:{}", self.prefix(), self.operation.unwrap_or("?"))
    }
}

/// Operations that are out of scope: what they hand out is a way past the runner.
const SESSIONS: [(&str, &str); 2] = [("ecs", "ExecuteCommand"), ("ssm", "StartSession")];

/// Reads it.
///
/// # Errors
/// `invalid_argument`, `too_large`: it is out of scope, malformed, its parts do not agree, or it could be read in two ways.
pub fn read(request: &AwsRequest) -> Result<Asked, Failure> {
    let wrong = |what: String| Code::InvalidArgument.on(what);
    if request.method.is_empty()
        || request.method.len() > 16
        || !request.method.bytes().all(|b| b.is_ascii_uppercase())
        || request.method == "CONNECT"
    {
        return Err(wrong("the request's method is none of AWS'".to_owned()));
    }
    let (path, query) = target(&request.target)?;
    check_headers(request)?;
    let host = Host::parse(&request.host)?;
    let signature = Signature::of(&request.headers, &query)?;
    if !host.signs(&signature.service) || !host.is_in(&signature.region) {
        return Err(wrong(format!(
            "the host {} is of {}, and the request is signed for {} in {}",
            request.host,
            host.shown(),
            signature.service,
            signature.region
        ))
        .next("Set the client's region to that of the endpoint, or leave its endpoint alone."));
    }
    let query = if signature.in_query { unsigned(query) } else { query };
    let payload = Payload::of(&request.headers)?;
    let named = Named { request, path, query: &query, host: &host, service: &signature.service };
    let (operation, form) = named.operation()?;
    if SESSIONS.contains(&(signature.service.as_str(), operation.unwrap_or_default())) {
        let what = format!("{}:{} opens a session", signature.service, operation.unwrap_or_default());
        return Err(wrong(format!(
            "{what}, whose WebSocket to another host, with a token of its own, does not go through a runner"
        ))
        .next("Run it where there are credentials; a shell in a pod is `runnerctl k8s exec`."));
    }
    let region = match &host.place {
        Place::Region(region) => Some(region.clone()),
        Place::Global(_) => None,
        Place::Anywhere => Some(signature.region.clone()),
    };
    Ok(Asked { service: signature.service.clone(), operation, region, signature, payload, form })
}

/// A request, on the way to its operation.
struct Named<'a> {
    request: &'a AwsRequest,
    path: &'a str,
    query: &'a [(String, String)],
    host: &'a Host<'a>,
    service: &'a str,
}

// === impl Named ===

impl Named<'_> {
    /// The operation, and whether the body is a form that names it.
    fn operation(&self) -> Result<(Option<&'static str>, bool), Failure> {
        let wrong = |what: &str| Code::InvalidArgument.on(what.to_owned());
        let header = |name: &str| single(&self.request.headers, name);
        let (target, form) = (header("x-amz-target")?, is_form(&self.request.method, &self.request.headers));
        let in_path = self.path.strip_prefix("/service/").and_then(|rest| rest.split_once("/operation/"));
        let actions: Vec<_> = self.query.iter().filter(|(name, _)| name == "Action").collect();
        let speaks = |protocol: &str| self.services().any(|s| s.speaks(protocol));
        let query = speaks("query") || speaks("ec2");
        let form = form && query;
        if !self.request.action.is_empty() && (!form || !is_action(&self.request.action)) {
            return Err(wrong(
                "an action is named for a request whose body is no form of the service, or it is no action",
            ));
        }
        if speaks("rest") {
            // what a service would make of that nobody can say
            let plain = target.is_none() && !form;
            return Ok((if plain { self.rest() } else { None }, form));
        }
        let said = [target.is_some(), form, in_path.is_some(), !actions.is_empty()];
        if said.iter().filter(|said| **said).count() > 1 {
            return Err(wrong("the request names its operation in more than one way"));
        }
        let post = self.request.method == "POST";
        let bare = post && self.path == "/" && self.query.is_empty();
        let operation = if let Some(target) = target.filter(|_| bare) {
            target.rsplit_once('.').and_then(|(prefix, name)| {
                self.services().filter(|s| s.speaks("json") && s.target == prefix).find_map(|s| s.named(name))
            })
        } else if let Some((prefix, name)) = in_path.filter(|_| post && self.query.is_empty()) {
            self.services().filter(|s| s.speaks("cbor") && s.target == prefix).find_map(|s| s.named(name))
        } else if form && bare {
            self.services().find_map(|s| s.named(&self.request.action))
        } else if let ([(_, action)], "/", "GET", false) =
            (actions.as_slice(), self.path, self.request.method.as_str(), self.request.body)
            && query
        {
            self.services().find_map(|s| s.named(action))
        } else {
            None
        };
        Ok((operation, form))
    }

    fn services(&self) -> impl Iterator<Item = &'static Service> {
        // a host of API Gateway is signed for under a name that the table has not
        self.host.services.iter().copied().filter(|s| s.signing == self.service || self.host.services.len() == 1)
    }

    fn rest(&self) -> Option<&'static str> {
        if self.path.split('/').any(is_odd) {
            return None;
        }
        let mut path = self.path.to_owned();
        let mut query = self.query.to_vec();
        let s3 = self.host.services.iter().any(|s| s.name == "s3");
        if s3 {
            if let Some(bucket) = self.host.bucket {
                path = if path == "/" { format!("/{bucket}") } else { format!("/{bucket}{path}") };
            }
            // a bucket with a slash behind it is the bucket
            if path.len() > 1 && path[1..].find('/') == Some(path.len() - 2) {
                path.pop();
            }
            // some clients add it to tell servers the operation; S3 does not look
            query.retain(|(name, _)| name != "x-id");
        }
        let names: Vec<String> = self.request.headers.iter().map(|h| h.name.to_ascii_lowercase()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said = Said { query: &query, headers: &names };
        let of =
            |path: &str| self.services().flat_map(|s| s.rest(&self.request.method, path, said)).collect::<Vec<_>>();
        let mut found = of(&path);
        if found.is_empty() && !s3 {
            // of no service do two paths differ by a slash at their ends alone, and clients have written them both ways
            found = match path.strip_suffix('/') {
                Some(bare) if !bare.is_empty() => of(bare),
                _ => of(&format!("{path}/")),
            };
        }
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// Whether the body is a form, by which the query protocol names its operation.
pub fn is_form(method: &str, headers: &[HttpHeader]) -> bool {
    let form = b"application/x-www-form-urlencoded";
    method == "POST"
        && headers.iter().any(|h| {
            h.name.eq_ignore_ascii_case("content-type")
                && h.value.get(..form.len()).is_some_and(|v| v.eq_ignore_ascii_case(form))
        })
}

/// The one action that a form names; `None` where it names none, more than one, or what is no name.
pub fn action(form: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(form).ok()?;
    let mut found = None;
    for pair in text.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // however it is written
        if decoded(name)?.trim().eq_ignore_ascii_case("action") && found.replace(decoded(value)?).is_some() {
            return None;
        }
    }
    found.filter(|action| is_action(action))
}

fn is_action(text: &str) -> bool {
    (1..=ACTION_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The target without what an URL that was signed ahead carries for that.
pub fn without_signature(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let own = |pair: &&str| {
        let name = decoded(pair.split('=').next().unwrap_or_default()).unwrap_or_default();
        !SIGNED_AHEAD.iter().any(|s| name.eq_ignore_ascii_case(s))
    };
    let kept: Vec<&str> = query.split('&').filter(own).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

fn unsigned(query: Vec<(String, String)>) -> Vec<(String, String)> {
    query.into_iter().filter(|(name, _)| !SIGNED_AHEAD.iter().any(|s| name.eq_ignore_ascii_case(s))).collect()
}

/// The header's value; `None` where there is none.
///
/// # Errors
/// `invalid_argument`: there are two, or it is no text.
pub(super) fn single<'a>(headers: &'a [HttpHeader], name: &str) -> Result<Option<&'a str>, Failure> {
    let mut all = headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(header), None) => match std::str::from_utf8(&header.value) {
            Ok(value) => Ok(Some(value.trim())),
            Err(_) => Err(Code::InvalidArgument.on(format!("the header {name} is no text"))),
        },
        (Some(_), Some(_)) => Err(Code::InvalidArgument.on(format!("the header {name} stands in the request twice"))),
    }
}

fn check_headers(request: &AwsRequest) -> Result<(), Failure> {
    let wrong = |what: String| Code::InvalidArgument.on(what);
    let headers = &request.headers;
    if headers.len() > HEADERS_COUNT {
        return Err(
            Code::TooLarge.on(format!("the request has {} headers, the limit is {HEADERS_COUNT}", headers.len()))
        );
    }
    let size: usize = headers.iter().map(|h| h.name.len() + h.value.len()).sum();
    if size > HEADERS_MAX {
        return Err(Code::TooLarge.on(format!("the request's headers have {size} bytes, the limit is {HEADERS_MAX}")));
    }
    for header in headers {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        // an underscore is a dash to some servers; names of S3's metadata have them
        let folded = header.name.replace('_', "-");
        let decides = |name: &&str| folded.eq_ignore_ascii_case(name);
        if header.name.is_empty()
            || !header.name.bytes().all(plain)
            || (folded != header.name && SINGLE.iter().chain(&OVERRIDES).any(decides))
        {
            return Err(wrong(format!("{:?} is no header's name", header.name.chars().take(64).collect::<String>())));
        }
        if header.value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(wrong(format!("the value of the header {} is none", header.name)));
        }
        if OVERRIDES.iter().any(|o| header.name.eq_ignore_ascii_case(o)) {
            return Err(wrong(format!("the header {} would make another request of it", header.name)));
        }
    }
    for name in SINGLE {
        single(headers, name)?;
    }
    let host = single(headers, "host")?;
    if let Some(host) = host
        && !host.strip_suffix(":443").unwrap_or(host).eq_ignore_ascii_case(&request.host)
    {
        return Err(wrong(format!("the request is for the host {}, and its header says another one", request.host)));
    }
    match (single(headers, "transfer-encoding")?, single(headers, "content-length")?) {
        (Some(_), Some(_)) => Err(wrong("the request's body has a length and an encoding that has none".to_owned())),
        (None, Some(length)) => match length.parse::<u64>() {
            Ok(length) if request.body_length.unwrap_or(length) == length => Ok(()),
            _ => Err(wrong("the request's body has another length than its header says".to_owned())),
        },
        _ => Ok(()),
    }
}

type Pairs = Vec<(String, String)>;

/// Path, and the query decoded.
fn target(target: &str) -> Result<(&str, Pairs), Failure> {
    if target.len() > TARGET_MAX {
        return Err(
            Code::TooLarge.on(format!("the path with its query has {} bytes, the limit is {TARGET_MAX}", target.len()))
        );
    }
    // an URL with its host would be another request to some servers
    if !target.starts_with('/') || !target.bytes().all(|b| b.is_ascii_graphic()) || target.contains('#') {
        return Err(Code::InvalidArgument.on("the request's target is no path"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decoded(name), decoded(value)) {
            (Some(name), Some(value)) => pairs.push((name, value)),
            _ => return Err(Code::InvalidArgument.on("the request's query is malformed")),
        }
    }
    Ok((path, pairs))
}

/// Whether a segment is written as no client of AWS writes it, so that a service might take it for another one.
fn is_odd(segment: &str) -> bool {
    if matches!(segment, "." | "..") || segment.contains(['\\', ';']) {
        return true;
    }
    let bytes = segment.as_bytes();
    bytes.iter().enumerate().any(|(at, b)| {
        if *b != b'%' {
            return false;
        }
        let byte = bytes
            .get(at + 1..at + 3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        byte.is_none_or(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    })
}

/// What a part of a query or a form means; `None` where it is malformed.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}
