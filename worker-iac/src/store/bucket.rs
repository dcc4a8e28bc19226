//! States in a bucket that speaks S3: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>. Versions are objects that are made
//! where there is none (`If-None-Match: *`), notes are replaced over the one that was read (`If-Match`): so a store that heeds neither is
//! refused. A note that nobody is in is an empty object: it is never deleted, because not every store deletes by condition.
//!
//! It must never send a state that is not sealed.

use super::asks::{Answer, Server, Trouble, again};
use super::elsewhere::{NOTE_MAX, Note, Remote};
use crate::net;
use crate::process::Environment;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::header::{ETAG, HOST, HeaderMap, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use quick_xml::Reader;
use quick_xml::events::Event;
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{self, S3, STATE_MAX, VERSIONS, bucket_address, region_of};
use shared_proto::v1::{AwsTarget, StateBucket, StatePlace, state_place, target};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The longest list or refusal that is read, bytes.
const ANSWER_MAX: usize = 1024 * 1024;
/// What is read of a refusal of what else would be shorter, bytes.
const REFUSAL_MAX: usize = 4096;
/// Of a server's own words, characters.
const WORDS_MAX: usize = 300;
/// A tag that no object has.
const NO_TAG: &str = "\"00000000000000000000000000000000\"";

/// A stack's part of a bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    bucket: StateBucket,
    stack: String,
    /// With the credentials of now.
    place: watch::Receiver<Option<StatePlace>>,
    environment: Environment,
    runtime: Handle,
}

/// What is asked.
#[derive(Default)]
struct Asked<'a> {
    method: Method,
    /// The object's name below the stack's; empty: the bucket itself.
    name: &'a str,
    query: String,
    headers: Vec<(&'static str, String)>,
    content: Bytes,
    /// Of the answer so many bytes are read.
    most: usize,
}

// === impl Bucket ===

impl Bucket {
    /// That of a stack in the place that is said, which is a bucket. On a thread of a runtime.
    pub(super) fn new(
        bucket: StateBucket,
        stack: &str,
        place: watch::Receiver<Option<StatePlace>>,
        environment: Environment,
    ) -> Self {
        Self { bucket, stack: stack.to_owned(), place, environment, runtime: Handle::current() }
    }

    /// The connection's credentials, and its name.
    fn account(&self) -> Result<(AwsTarget, String), Failure> {
        let place = self.place.borrow();
        let said = place.as_ref().and_then(|place| place.target.as_ref());
        let connection = said.map(|target| target.connection.clone()).unwrap_or_default();
        match said.and_then(|said| said.target.as_ref()?.kind.clone()) {
            Some(target::Kind::Aws(account)) => Ok((account, connection)),
            _ => Err(Code::CredentialsUnavailable
                .on(format!("the connection {connection} of jobs.states came without credentials of AWS"))),
        }
    }

    /// An object's key.
    fn key(&self, name: &str) -> String {
        let parts = [self.bucket.prefix.as_str(), &self.stack, name];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    fn ask(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let stays = |what: String| Trouble::Stays(Code::StateUnusable.on(format!("jobs.states: {what}")));
        let (account, _) = self.account().map_err(Trouble::Stays)?;
        let address = bucket_address(&self.bucket, &account).map_err(|what| stays(format!("its endpoint: {what}")))?;
        let region = region_of(&self.bucket, &account).map_err(|what| stays(what.to_owned()))?;
        let path = match asked.name {
            "" => format!("/{}", self.bucket.name),
            name => format!("/{}/{}", self.bucket.name, self.key(name)),
        };
        let mark = if asked.query.is_empty() { "" } else { "?" };
        let target = format!("{}{path}{mark}{}", address.prefix, asked.query);
        let request = signed(&account, region, (address.https, &address.host_header()), &target, asked)
            .map_err(|e| Trouble::Stays(Code::Internal.on(format!("a request to S3 cannot be signed: {e}"))))?;
        let tls = match address.https {
            true => Some(Arc::new(net::tls(&self.bucket.ca_pem).map_err(stays)?)),
            false => None,
        };
        // without TLS there is nothing that a proxy could pass on unseen
        let proxy = net::proxy(&self.environment, &address.host).filter(|_| address.https);
        let server = Server { address, proxy, tls, tls_name: String::new() };
        server.ask(&self.runtime, request, asked.most)
    }

    /// What an answer is that is none of those that were hoped for.
    fn refused(&self, what: &str, answer: &Answer) -> Trouble {
        let found = texts(&answer.content, &["Code", "Message"]).unwrap_or_default();
        let word = |name: &str| {
            let text = found.iter().find(|(found, _)| found == name).map_or("", |(_, text)| text);
            text.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect::<String>()
        };
        let (code, message) = (word("Code"), word("Message"));
        let said = format!("{what} is answered with {} {code}: {message}", answer.status.as_u16());
        let connection = self.account().map(|(_, connection)| connection).unwrap_or_default();
        let (bucket, below) = (&self.bucket.name, self.shown());
        match (answer.status.as_u16(), code.as_str()) {
            // it is renewed before it ends, unless the supervisor is away
            (_, "ExpiredToken" | "TokenRefreshRequired") => Trouble::Passes(Code::CredentialsExpired.on(said)),
            (_, "RequestTimeTooSkewed") => Trouble::Stays(Code::StateUnusable.on(said).next("Set this machine's clock.")),
            (401, _) | (403, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken") => Trouble::Stays(
                Code::TargetForbidden.on(said).next(format!("Correct the credentials of the connection {connection}.")),
            ),
            (403, _) => Trouble::Stays(Code::TargetForbidden.on(said).next(format!(
                "Allow the identity of the connection {connection} s3:ListBucket on the bucket {bucket}, and s3:GetObject, s3:PutObject and \
                 s3:DeleteObject on what is below {below}."
            ))),
            (404, "NoSuchBucket") => Trouble::Stays(
                Code::StateUnusable.on(said).next(format!("Make the bucket {bucket}, or correct jobs.states.bucket.")),
            ),
            (301 | 307 | 400, "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed") => Trouble::Stays(
                Code::StateUnusable.on(said).next("Name the bucket's own region: jobs.states.region."),
            ),
            // others write at the same time: one of them has by the next time
            (409 | 429 | 500.., _) | (_, "SlowDown" | "RequestTimeout") => {
                Trouble::Passes(Code::StateUnusable.on(said).next("Look at that server; try again in a while."))
            }
            _ => Trouble::Stays(Code::StateUnusable.on(said)),
        }
    }

    /// Makes or replaces an object; its tag. None: the condition does not hold.
    fn put(&self, name: &str, content: Bytes, over: Option<&str>) -> Result<Option<String>, Trouble> {
        let condition = match over {
            None => ("if-none-match", "*".to_owned()),
            Some(tag) => ("if-match", tag.to_owned()),
        };
        let headers = vec![condition, ("content-type", "application/octet-stream".to_owned())];
        let asked = Asked { method: Method::PUT, name, headers, content, most: ANSWER_MAX, ..Asked::default() };
        let answer = self.ask(&asked)?;
        match answer.status {
            StatusCode::OK => tag(&answer.headers).map(Some).ok_or_else(|| {
                let message = format!("{} was written, and no ETag was told", self.called(name));
                Trouble::Stays(Code::StateUnusable.on(message))
            }),
            StatusCode::PRECONDITION_FAILED => Ok(None),
            // there is none that could be replaced
            StatusCode::NOT_FOUND if over.is_some() && !is_about_bucket(&answer) => Ok(None),
            _ => Err(self.refused(&format!("PUT {}", self.called(name)), &answer)),
        }
    }

    /// The first so many bytes of an object, and its tag. `part`: no more is asked for, which cannot be done of one that may be empty.
    fn get(&self, name: &str, most: usize, part: bool) -> Result<Option<Note>, Trouble> {
        let range = part.then(|| ("range", format!("bytes=0-{}", most.max(1) - 1)));
        // of a refusal a little more is read
        let asked =
            Asked { name, headers: range.into_iter().collect(), most: most.max(REFUSAL_MAX), ..Asked::default() };
        let answer = self.ask(&asked)?;
        match answer.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                let mut content = answer.content;
                content.truncate(most);
                Ok(Some(Note { content, tag: tag(&answer.headers).unwrap_or_default() }))
            }
            // of an object without content
            StatusCode::RANGE_NOT_SATISFIABLE if part => Ok(Some(Note { content: Vec::new(), tag: String::new() })),
            StatusCode::NOT_FOUND if !is_about_bucket(&answer) => Ok(None),
            _ => Err(self.refused(&format!("GET {}", self.called(name)), &answer)),
        }
    }
}

impl Remote for Bucket {
    fn shown(&self) -> String {
        format!("s3://{}/{}", self.bucket.name, self.key(""))
    }
    fn called(&self, name: &str) -> String {
        format!("s3://{}/{}", self.bucket.name, self.key(name))
    }
    fn largest(&self) -> usize {
        STATE_MAX
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let prefix = format!("{}/", self.key(VERSIONS));
        let query = format!("list-type=2&max-keys=1000&prefix={}", prefix.replace('/', "%2F"));
        again(|_| {
            let asked = Asked { query: query.clone(), most: ANSWER_MAX, ..Asked::default() };
            let answer = self.ask(&asked)?;
            if answer.status != StatusCode::OK {
                return Err(self.refused(&format!("a list of s3://{}/{prefix}", self.bucket.name), &answer));
            }
            let unreadable = |what: &str| {
                let message = format!("the list of s3://{}/{prefix} {what}", self.bucket.name);
                Trouble::Stays(Code::StateUnusable.on(message))
            };
            let found = texts(&answer.content, &["Key", "IsTruncated"]).ok_or_else(|| unreadable("cannot be read"))?;
            if !found.iter().any(|(name, text)| name == "IsTruncated" && text == "false") {
                return Err(unreadable("has no end: there are more than 1000 objects, or it says nothing of that"));
            }
            let keys = found.iter().filter(|(name, _)| name == "Key");
            let mut numbers: Vec<_> =
                keys.filter_map(|(_, key)| states::number_of(key.strip_prefix(&prefix)?)).collect();
            numbers.sort_unstable();
            Ok(numbers)
        })
    }

    fn read(&self, number: u64, most: usize) -> io::Result<Option<Vec<u8>>> {
        let name = version(number);
        again(|_| Ok(self.get(&name, most, true)?.map(|note| note.content)))
    }

    fn add(&self, number: u64, parts: (&[u8], &[u8])) -> io::Result<()> {
        let (name, content) = (version(number), Bytes::from([parts.0, parts.1].concat()));
        let made = again(|first| {
            if self.put(&name, content.clone(), None)?.is_some() {
                return Ok(true);
            }
            // one whose answer was lost may have been taken: no other has the same nonce
            Ok(!first && self.get(&name, content.len() + 1, true)?.is_some_and(|there| there.content == content))
        })?;
        if made { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        let name = version(number);
        again(|_| {
            let asked = Asked { method: Method::DELETE, name: &name, most: ANSWER_MAX, ..Asked::default() };
            let answer = self.ask(&asked)?;
            match answer.status {
                StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
                _ => Err(self.refused(&format!("DELETE {}", self.called(&name)), &answer)),
            }
        })
    }

    fn note(&self, name: &str) -> io::Result<Option<Note>> {
        let note = again(|_| self.get(name, NOTE_MAX + 1, false))?;
        match &note {
            Some(note) if note.content.len() > NOTE_MAX => {
                let message = format!("{} has more than {NOTE_MAX} bytes: it is no note", self.called(name));
                Err(io::Error::other(Code::StateDamaged.on(message)))
            }
            Some(note) if note.tag.is_empty() => {
                let message = format!("{} comes without an ETag", self.called(name));
                Err(io::Error::other(Code::StateUnusable.on(message)))
            }
            _ => Ok(note),
        }
    }

    fn put_note(&self, name: &str, content: &[u8], over: Option<&str>) -> io::Result<String> {
        let tag = again(|first| {
            if let Some(tag) = self.put(name, Bytes::copy_from_slice(content), over)? {
                return Ok(Some(tag));
            }
            let there = if first { None } else { self.get(name, NOTE_MAX + 1, false)? };
            // its answer was lost: a claim and a lock are each one's own
            Ok(there.filter(|there| there.content == content).map(|there| there.tag))
        })?;
        tag.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    fn keeps_its_word(&self, name: &str, note: &Note) -> io::Result<bool> {
        let refuses =
            |over: Option<&str>| again(|_| Ok(self.put(name, Bytes::copy_from_slice(&note.content), over)?.is_none()));
        Ok(refuses(None)? && refuses(Some(NO_TAG))?)
    }
}

/// The name of a version's object below its stack's.
fn version(number: u64) -> String {
    format!("{VERSIONS}/{}", states::file_name(number))
}

fn tag(headers: &HeaderMap) -> Option<String> {
    headers.get(ETAG).and_then(|value| value.to_str().ok()).filter(|tag| !tag.is_empty()).map(str::to_owned)
}

/// Whether what is not there is the bucket itself.
fn is_about_bucket(answer: &Answer) -> bool {
    let found = texts(&answer.content, &["Code"]).unwrap_or_default();
    found.iter().any(|(_, code)| code == "NoSuchBucket")
}

/// A request with a signature of version 4 over all that is sent. `at`: whether by TLS, and the host.
fn signed(
    account: &AwsTarget,
    region: &str,
    at: (bool, &str),
    target: &str,
    asked: &Asked<'_>,
) -> Result<Request<Full<Bytes>>, String> {
    let (https, host) = at;
    let token = Some(account.session_token.clone()).filter(|token| !token.is_empty());
    let (id, key) = (account.access_key_id.as_str(), account.secret_access_key.as_str());
    let identity = Credentials::new(id, key, token, None, "runner").into();
    // S3 takes a path as it stands, and wants to be told what was signed of the content
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(S3)
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let headers = asked.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let url = format!("{}://{host}{target}", if https { "https" } else { "http" });
    let signable = headers.clone().chain([("host", host)]);
    let body = SignableBody::Bytes(&asked.content);
    let signable = SignableRequest::new(asked.method.as_str(), &url, signable, body).map_err(|e| e.to_string())?;
    let (instructions, _) = sign(signable, &params).map_err(|e| e.to_string())?.into_parts();
    let request = Request::builder().method(asked.method.clone()).uri(target);
    let request = request.header(HOST, host).header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")));
    let request = headers.fold(request, |request, (name, value)| request.header(name, value));
    let mut request = request.body(Full::new(asked.content.clone())).map_err(|e| e.to_string())?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

/// The texts of the elements of these names, in their order. None: it is no XML.
fn texts(xml: &[u8], names: &[&str]) -> Option<Vec<(String, String)>> {
    let mut reader = Reader::from_reader(xml);
    let (mut found, mut open, mut buffer) = (Vec::new(), None::<(String, String)>, Vec::new());
    loop {
        match reader.read_event_into(&mut buffer).ok()? {
            Event::Start(start) => {
                let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                open = names.contains(&name.as_str()).then(|| (name, String::new()));
            }
            Event::Text(text) => {
                if let Some((_, inner)) = &mut open {
                    inner.push_str(&text.decode().ok()?);
                }
            }
            Event::GeneralRef(reference) => {
                if let Some((_, inner)) = &mut open {
                    match reference.resolve_char_ref().ok()? {
                        Some(c) => inner.push(c),
                        None => {
                            inner.push_str(quick_xml::escape::resolve_predefined_entity(&reference.decode().ok()?)?)
                        }
                    }
                }
            }
            Event::End(_) => found.extend(open.take()),
            Event::Eof => return Some(found),
            _ => {}
        }
        buffer.clear();
    }
}

/// The bucket of a place, if it is one.
pub(super) fn of(place: &StatePlace) -> Option<&StateBucket> {
    match &place.kind {
        Some(state_place::Kind::Bucket(bucket)) => Some(bucket),
        _ => None,
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
