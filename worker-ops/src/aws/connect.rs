//! Where AWS' services are, how a request is signed, and when it is sent again.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http_body_util::Full;
use serde_json::Value;
use shared_proto::address::Address;
use shared_proto::aws::{self, is_region};
use shared_proto::failure::Code;
use shared_proto::v1::AwsTarget;
use std::time::{Duration, SystemTime};

use super::{errors, xml};
use crate::fault::Fault;
use crate::net::{Again, Client, Dialer, Endpoint, Request, read_all, url};

/// The longest answer that is taken, bytes.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// An account in one region.
pub(crate) struct Account {
    credentials: Credentials,
    region: String,
    /// A stand-in or private endpoint, for every service.
    endpoint_url: Option<Address>,
    dialer: Dialer,
}

/// How a service is spoken to. <https://smithy.io/2.0/aws/protocols/index.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A form with that version of the API goes, XML comes.
    Query(&'static str),
    /// JSON goes and comes, of the protocol's version, to the target before the dot.
    Json(&'static str, &'static str),
    /// A path is got, XML or JSON comes.
    Rest,
}

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    /// As requests to it are signed.
    pub(crate) signing: &'static str,
    pub(crate) protocol: Protocol,
}

pub(crate) const STS: Service = Service { signing: "sts", protocol: Protocol::Query("2011-06-15") };
pub(crate) const EC2: Service = Service { signing: "ec2", protocol: Protocol::Query("2016-11-15") };
pub(crate) const IAM: Service = Service { signing: "iam", protocol: Protocol::Query("2010-05-08") };
pub(crate) const CLOUD_CONTROL: Service =
    Service { signing: "cloudcontrolapi", protocol: Protocol::Json("1.0", "CloudApiService") };
pub(crate) const TAGGING: Service =
    Service { signing: "tagging", protocol: Protocol::Json("1.1", "ResourceGroupsTaggingAPI_20170126") };
pub(crate) const LOGS: Service = Service { signing: "logs", protocol: Protocol::Json("1.1", "Logs_20140328") };

/// Parameters of a call, in their order.
pub(crate) type Parameters<'p> = Vec<(&'p str, Value)>;

/// One service of an account, asked over one connection.
pub(crate) struct Asking<'a> {
    account: &'a Account,
    service: Service,
    /// For which region it is signed: not the account's where the service is in none.
    region: String,
    client: Client,
}

/// A request that is not signed yet.
struct Unsigned<'a> {
    method: &'static str,
    /// Path and query.
    target: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Bytes,
}

// === impl Account ===

impl Account {
    /// Checks target and region; connects with the first request.
    pub(crate) fn new(target: AwsTarget, asked: &str, dialer: &Dialer) -> Result<Self, Fault> {
        let has_key = !target.access_key_id.is_empty() && !target.secret_access_key.is_empty();
        let account = Self::at(target, asked, dialer)?;
        if !has_key {
            return Err(Fault::new(Code::CredentialsUnavailable, "the connection has no access key"));
        }
        Ok(account)
    }

    /// The same without a key: what it asks is not signed.
    pub(super) fn nobodys(target: AwsTarget, dialer: &Dialer) -> Result<Self, Fault> {
        Self::at(target, "", dialer)
    }

    fn at(target: AwsTarget, asked: &str, dialer: &Dialer) -> Result<Self, Fault> {
        let region = if asked.is_empty() { target.region } else { asked.to_owned() };
        if region.is_empty() {
            return Err(Fault::new(Code::InvalidArgument, "no region is named and the connection has none")
                .next("Name one with --region, or give the connection's entry a region."));
        }
        // it becomes part of a host's name
        if !is_region(&region) {
            return Err(Fault::new(Code::InvalidArgument, format!("{region:?} cannot be a region")));
        }
        let endpoint_url = Endpoint::instead(&target.endpoint_url)?;
        let token = Some(target.session_token).filter(|t| !t.is_empty());
        let credentials = Credentials::new(target.access_key_id, target.secret_access_key, token, None, "runner");
        Ok(Self { credentials, region, endpoint_url, dialer: dialer.clone() })
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }
    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }
    /// The way to a host of AWS: to itself, or to the connection's own endpoint in its place.
    pub(super) fn way(&self, host: String) -> Result<Endpoint, Fault> {
        Endpoint::of_service(host, self.endpoint_url.as_ref(), self.dialer.clone())
    }
    /// To ask a service in the account's region, or wherever it is where it is in none.
    pub(crate) fn ask(&self, service: Service) -> Result<Asking<'_>, Fault> {
        let at = aws::Endpoint::of(service.signing, &self.region);
        Ok(Asking { account: self, service, region: at.region, client: Client::new(self.way(at.host)?) })
    }
}

// === impl Asking ===

impl Asking<'_> {
    /// A call of an operation; of a REST service: a GET of that path. XML comes as the same shape as JSON would: see [`xml::tree`].
    pub(crate) async fn call(
        &mut self,
        operation: &str,
        path: &str,
        parameters: Parameters<'_>,
    ) -> Result<Value, Fault> {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let pairs: Vec<_> = parameters.iter().map(|(name, value)| (*name, plain(value))).collect();
        let pairs = || pairs.iter().map(|(name, value)| (*name, value.as_str()));
        let answer = match self.service.protocol {
            Protocol::Query(version) => {
                let form = url::form([("Action", operation), ("Version", version)].into_iter().chain(pairs()));
                let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
                self.send(&Unsigned { method: "POST", target: "/", headers: &headers, body: form.into() }).await?
            }
            Protocol::Json(version, target) => {
                let (kind, target) = (format!("application/x-amz-json-{version}"), format!("{target}.{operation}"));
                let headers = [("content-type", kind.as_str()), ("x-amz-target", target.as_str())];
                let body: serde_json::Map<_, _> = parameters.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                let body = Value::Object(body).to_string().into();
                self.send(&Unsigned { method: "POST", target: "/", headers: &headers, body }).await?
            }
            Protocol::Rest => {
                let query = url::form(pairs());
                let mark = if query.is_empty() || path.contains('?') { "" } else { "?" };
                let target = format!("{path}{mark}{query}");
                self.send(&Unsigned { method: "GET", target: &target, headers: &[], body: Bytes::new() }).await?
            }
        };
        let first = answer.iter().find(|b| !b.is_ascii_whitespace());
        let read = match first {
            Some(b'<') => xml::tree(&answer),
            _ => serde_json::from_slice(&answer).map_err(|e| format!("malformed JSON: {e}")),
        };
        read.map_err(|what| malformed(self.service.signing, &what))
    }

    /// Sends until there is an answer that stays: every call here reads, so sending one twice does no harm.
    async fn send(&mut self, request: &Unsigned<'_>) -> Result<Bytes, Fault> {
        let mut again = Again::new(WAIT_MAX);
        loop {
            match self.attempt(request).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => again.after(fault, None).await?,
            }
        }
    }

    async fn attempt(&mut self, request: &Unsigned<'_>) -> Result<Bytes, Fault> {
        let address = self.client.endpoint().address.clone();
        let credentials = &self.account.credentials;
        let request = match credentials.access_key_id() {
            "" => unsigned(&address, request)?,
            _ => signed(credentials, &self.region, self.service.signing, &address, request)?,
        };
        let answer = self.client.send(request).await?;
        let (status, type_header) = (answer.status(), errors::type_header(answer.headers()));
        let body = read_all(self.client.endpoint(), answer.into_body(), ANSWER_MAX).await?.ok_or_else(|| {
            Fault::new(Code::TargetFailed, format!("{}: an answer is longer than {ANSWER_MAX} bytes", address.shown()))
        })?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(errors::refusal(self.service.signing, status, type_header, &body))
        }
    }
}

/// An answer that has not what it must have.
pub(super) fn malformed(service: &str, what: &str) -> Fault {
    Fault::new(Code::TargetFailed, format!("{service}: an answer is not what AWS sends: {what}"))
}

/// A request with its host and the given headers.
fn unsigned(address: &Address, request: &Unsigned<'_>) -> Result<Request, Fault> {
    let mut builder = http::Request::builder()
        .method(request.method)
        .uri(format!("{}{}", address.prefix, request.target))
        .header(HOST, address.host_header())
        .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")));
    for (name, value) in request.headers {
        builder = builder.header(*name, *value);
    }
    let internal = |e| Fault::new(Code::Internal, format!("a request to AWS cannot be made: {e}"));
    builder.body(Full::new(request.body.clone())).map_err(internal)
}

/// The same with signature version 4 over its host, its content and the given headers.
fn signed(
    credentials: &Credentials,
    region: &str,
    signing: &str,
    address: &Address,
    request: &Unsigned<'_>,
) -> Result<Request, Fault> {
    let internal = |e: String| Fault::new(Code::Internal, format!("a request to AWS cannot be signed: {e}"));
    let scheme = if address.https { "https" } else { "http" };
    let host = address.host_header();
    let target = format!("{}{}", address.prefix, request.target);
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    // S3 takes a path as it stands, and wants to be told what was signed of the body
    if signing == "s3" {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(signing)
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(|e| internal(e.to_string()))?
        .into();
    let signable = request.headers.iter().copied().chain([("host", host.as_str())]);
    let url = format!("{scheme}://{host}{target}");
    let signable = SignableRequest::new(request.method, &url, signable, SignableBody::Bytes(&request.body))
        .map_err(|e| internal(e.to_string()))?;
    let (instructions, _) = sign(signable, &params).map_err(|e| internal(e.to_string()))?.into_parts();
    let mut request = unsigned(address, request)?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> AwsTarget {
        AwsTarget { access_key_id: "AKID".into(), secret_access_key: "s3cr3t".into(), ..Default::default() }
    }

    #[test]
    fn a_region_cannot_lead_to_another_host() {
        for bad in ["", "x.evil.example/", "eu-central-1.evil", "EU", "-a", "a-", "1a", "a b", &"a".repeat(33)] {
            assert_eq!(Account::new(target(), bad, &Dialer::none()).err().expect(bad).code(), Code::InvalidArgument);
        }
        assert_eq!(Account::new(target(), "eu-central-1", &Dialer::none()).expect("a region").region(), "eu-central-1");
    }

    #[test]
    fn a_request_is_signed_for_service_and_region_and_does_not_show_the_key() {
        let credentials = Credentials::new("AKID", "s3cr3t", Some("t0ken".into()), None, "test");
        let address = Address::parse("http://127.0.0.1:5000").expect("a URL");
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", "A.B")];
        let unsigned = Unsigned { method: "POST", target: "/", headers: &headers, body: "{}".into() };
        let request = signed(&credentials, "eu-west-1", "tagging", &address, &unsigned).expect("signs");
        let header =
            |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let authorization = header("authorization");
        assert!(authorization.contains("/eu-west-1/tagging/aws4_request"), "{authorization}");
        assert!(
            authorization.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target"),
            "{authorization}"
        );
        assert!(!authorization.contains("s3cr3t"));
        assert_eq!((header("host").as_str(), header("x-amz-security-token").as_str()), ("127.0.0.1:5000", "t0ken"));
    }
}
