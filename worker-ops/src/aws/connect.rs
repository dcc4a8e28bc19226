//! Where AWS' services are, how a request is signed, and when it is sent again.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::Full;
use shared_proto::address::Address;
use shared_proto::failure::Code;
use shared_proto::v1::AwsTarget;
use std::time::{Duration, SystemTime};

use super::errors;
use crate::fault::Fault;
use crate::net::{Client, Dialer, Endpoint, Request, read_all, tls};

/// The longest answer that is taken, bytes.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// How often a request is sent at most: throttling and failures of the service's own pass.
const ATTEMPTS: u32 = 5;
/// The longest wait before the second attempt; it doubles from one to the next, and each wait is a random part of it.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(3);

/// An account in one region.
pub(crate) struct Account {
    credentials: Credentials,
    region: String,
    /// A stand-in or private endpoint, for every service.
    endpoint_url: Option<Address>,
    client: Option<(Service, Client)>,
    dialer: Dialer,
}

/// A service, by the name that it is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Sts,
    Ec2,
    CloudControl,
    Tagging,
}

// === impl Service ===

impl Service {
    /// In the host's name and in the signature alike.
    fn name(self) -> &'static str {
        match self {
            Self::Sts => "sts",
            Self::Ec2 => "ec2",
            Self::CloudControl => "cloudcontrolapi",
            Self::Tagging => "tagging",
        }
    }
}

// === impl Account ===

impl Account {
    /// Checks target and region; connects with the first request.
    pub(crate) fn new(target: AwsTarget, asked: &str, dialer: &Dialer) -> Result<Self, Fault> {
        let region = if asked.is_empty() { target.region } else { asked.to_owned() };
        if region.is_empty() {
            return Err(Fault::new(Code::InvalidArgument, "no region is named and the connection has none")
                .next("Name one with --region, or give the connection's entry a region."));
        }
        // it becomes part of a host's name
        if !is_region(&region) {
            return Err(Fault::new(Code::InvalidArgument, format!("{region:?} cannot be a region")));
        }
        let wrong = |e| Fault::new(Code::CredentialsUnavailable, format!("the connection's endpoint_url: {e}"));
        let endpoint_url = match target.endpoint_url.as_str() {
            "" => None,
            url => Some(Address::parse(url).map_err(wrong)?),
        };
        if target.access_key_id.is_empty() || target.secret_access_key.is_empty() {
            return Err(Fault::new(Code::CredentialsUnavailable, "the connection has no access key"));
        }
        let token = Some(target.session_token).filter(|t| !t.is_empty());
        let credentials = Credentials::new(target.access_key_id, target.secret_access_key, token, None, "runner");
        Ok(Self { credentials, region, endpoint_url, client: None, dialer: dialer.clone() })
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }
    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }
    /// The way to a host of AWS: to itself, or to the connection's own endpoint in its place.
    pub(super) fn way(&self, host: String) -> Result<Endpoint, Fault> {
        endpoint(host, self.endpoint_url.as_ref(), self.dialer.clone())
    }

    /// A call of the query protocol: a form goes, XML comes.
    pub(crate) async fn query(&mut self, service: Service, form: String) -> Result<Bytes, Fault> {
        let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        self.call(service, &headers, form.into()).await
    }

    /// A call of the JSON protocol, to `target`.
    pub(crate) async fn json(
        &mut self,
        service: Service,
        target: &str,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value, Fault> {
        let version = match service {
            Service::CloudControl => "application/x-amz-json-1.0",
            _ => "application/x-amz-json-1.1",
        };
        let headers = [("content-type", version), ("x-amz-target", target)];
        let answer = self.call(service, &headers, body.to_string().into()).await?;
        serde_json::from_slice(&answer).map_err(|e| {
            Fault::new(Code::TargetFailed, format!("{}: an answer is not the JSON that AWS sends: {e}", service.name()))
        })
    }

    /// Sends until there is an answer that stays: every call here reads, so sending one twice does no harm.
    async fn call(&mut self, service: Service, headers: &[(&str, &str)], body: Bytes) -> Result<Bytes, Fault> {
        let mut attempt = 1;
        loop {
            let fault = match self.attempt(service, headers, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let passes = matches!(fault.code(), Code::TargetThrottled | Code::TargetFailed | Code::TargetLost);
            if !passes || attempt == ATTEMPTS {
                return Err(fault);
            }
            let most = (WAIT_FIRST * 2_u32.pow(attempt - 1)).min(WAIT_MAX);
            tokio::time::sleep(random_part(most)).await;
            attempt += 1;
        }
    }

    async fn attempt(&mut self, service: Service, headers: &[(&str, &str)], body: Bytes) -> Result<Bytes, Fault> {
        let client = match &mut self.client {
            Some((of, client)) if *of == service => client,
            other => {
                let host = format!("{}.{}.{}", service.name(), self.region, domain(&self.region));
                let endpoint = endpoint(host, self.endpoint_url.as_ref(), self.dialer.clone())?;
                &mut other.insert((service, Client::new(endpoint))).1
            }
        };
        let address = client.endpoint().address.clone();
        let request = signed(&self.credentials, &self.region, service, &address, headers, body)?;
        let answer = client.send(request).await?;
        let (status, type_header) = (answer.status(), errors::type_header(answer.headers()));
        let body = read_all(client.endpoint(), answer.into_body(), ANSWER_MAX).await?.ok_or_else(|| {
            Fault::new(Code::TargetFailed, format!("{}: an answer is longer than {ANSWER_MAX} bytes", address.shown()))
        })?;
        if status.is_success() { Ok(body) } else { Err(errors::refusal(service.name(), status, type_header, &body)) }
    }
}

/// Lower case letters, digits and dashes, as in eu-central-1.
fn is_region(text: &str) -> bool {
    text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

/// The domain of the partition that a region is in. The supervisor connects to these only.
fn domain(region: &str) -> &'static str {
    match region {
        r if r.starts_with("cn-") => "amazonaws.com.cn",
        r if r.starts_with("us-isob-") => "sc2s.sgov.gov",
        r if r.starts_with("us-isof-") => "csp.hci.ic.gov",
        r if r.starts_with("us-iso-") => "c2s.ic.gov",
        r if r.starts_with("eu-isoe-") => "cloud.adc-e.uk",
        r if r.starts_with("eusc-") => "amazonaws.eu",
        // aws and aws-us-gov
        _ => "amazonaws.com",
    }
}

fn endpoint(host: String, given: Option<&Address>, dialer: Dialer) -> Result<Endpoint, Fault> {
    let address = match given {
        Some(address) => address.clone(),
        None => Address { https: true, host, port: 443, prefix: String::new() },
    };
    let tls = if address.https {
        let wrong = |e| Fault::new(Code::TargetUnreachable, format!("{}: {e}", address.shown()));
        Some((tls::client(&tls::Trust::System, None).map_err(wrong)?, tls::server_name(&address.host).map_err(wrong)?))
    } else {
        None
    };
    Ok(Endpoint { address, tls, dialer })
}

/// A POST with signature version 4 over its host, its content and the given headers.
fn signed(
    credentials: &Credentials,
    region: &str,
    service: Service,
    address: &Address,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Request, Fault> {
    let internal = |e: String| Fault::new(Code::Internal, format!("a request to AWS cannot be signed: {e}"));
    let scheme = if address.https { "https" } else { "http" };
    let host = address.host_header();
    let path = format!("{}/", address.prefix);
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service.name())
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| internal(e.to_string()))?
        .into();
    let signable = headers.iter().copied().chain([("host", host.as_str())]);
    let url = format!("{scheme}://{host}{path}");
    let signable = SignableRequest::new("POST", &url, signable, SignableBody::Bytes(&body))
        .map_err(|e| internal(e.to_string()))?;
    let (instructions, _) = sign(signable, &params).map_err(|e| internal(e.to_string()))?.into_parts();
    let mut builder = http::Request::builder()
        .method("POST")
        .uri(&path)
        .header(HOST, &host)
        .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let mut request = builder.body(Full::new(body)).map_err(|e| internal(e.to_string()))?;
    instructions.apply_to_request_http1x(&mut request);
    debug_assert!(request.headers().contains_key(CONTENT_TYPE));
    Ok(request)
}

/// A random part of a time, so that those who were refused together do not come back together.
fn random_part(most: Duration) -> Duration {
    let n = getrandom::u32().unwrap_or(u32::MAX / 2);
    most.mul_f64(f64::from(n) / f64::from(u32::MAX))
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
    fn endpoints() {
        for (service, region, host) in [
            (Service::Sts, "eu-central-1", "sts.eu-central-1.amazonaws.com"),
            (Service::Ec2, "cn-north-1", "ec2.cn-north-1.amazonaws.com.cn"),
            (Service::CloudControl, "us-gov-west-1", "cloudcontrolapi.us-gov-west-1.amazonaws.com"),
            (Service::Tagging, "us-isob-east-1", "tagging.us-isob-east-1.sc2s.sgov.gov"),
        ] {
            let name = format!("{}.{region}.{}", service.name(), domain(region));
            assert_eq!(name, host);
        }
    }

    #[test]
    fn a_request_is_signed_for_service_and_region_and_does_not_show_the_key() {
        let credentials = Credentials::new("AKID", "s3cr3t", Some("t0ken".into()), None, "test");
        let address = Address::parse("http://127.0.0.1:5000").expect("a URL");
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", "A.B")];
        let request =
            signed(&credentials, "eu-west-1", Service::Tagging, &address, &headers, "{}".into()).expect("signs");
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
