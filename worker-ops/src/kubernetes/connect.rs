//! The connection to an API server, from the resolved target alone.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared_proto::address::Address;
use shared_proto::failure::Code;
use shared_proto::v1::{Impersonation, KubernetesTarget};
use std::cell::Cell;

use super::errors;
use crate::fault::Fault;
use crate::net::{Client, Dialer, Endpoint, Request, Stream, read_all, tls, url};

/// The longest answer that is taken as one JSON document, bytes: a page of 500 large pods is a tenth of it.
const DOCUMENT_MAX: usize = 64 * 1024 * 1024;
/// The longest name of a namespace, pod or container (RFC 1123 subdomain).
const NAME_MAX: usize = 253;

/// What the names of the headers begin with that say as whom the API server is to act.
const IMPERSONATE: &str = "impersonate-";

/// An API server, with what authenticates to it.
pub(crate) struct Cluster {
    client: Client,
    authorization: Option<HeaderValue>,
    impersonation: Vec<(HeaderName, HeaderValue)>,
    namespace: String,
    /// A connection that was made ahead of need.
    connection: Cell<Option<Stream>>,
}

// === impl Cluster ===

impl Cluster {
    /// Checks the target; connects with the first request, where there is no `connection` yet.
    pub(crate) fn new(target: KubernetesTarget, connection: Option<Stream>, dialer: &Dialer) -> Result<Self, Fault> {
        let wrong = |what: String| Fault::new(Code::CredentialsUnavailable, what);
        let address = Address::parse(&target.server).map_err(|e| wrong(format!("the API server's URL: {e}")))?;
        let tls = if address.https {
            let trust = if target.insecure_skip_tls_verify {
                tls::Trust::Anyone
            } else if target.certificate_authority_pem.is_empty() {
                tls::Trust::System
            } else {
                tls::Trust::Pem(&target.certificate_authority_pem)
            };
            let identity = match (target.client_certificate_pem.as_str(), target.client_key_pem.as_str()) {
                ("", "") => None,
                pair => Some(pair),
            };
            let name =
                if target.tls_server_name.is_empty() { address.host.as_str() } else { target.tls_server_name.as_str() };
            Some((tls::client(&trust, identity).map_err(wrong)?, tls::server_name(name).map_err(wrong)?))
        } else {
            None
        };
        let authorization = match target.token.trim() {
            "" => None,
            token => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| wrong("the token has characters that a token cannot have".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let impersonation = target.impersonation.map(|who| impersonation(&who)).transpose()?.unwrap_or_default();
        let namespace = if target.namespace.is_empty() { "default".to_owned() } else { target.namespace };
        let client = Client::new(Endpoint { address, tls, dialer: dialer.clone() });
        Ok(Self { client, authorization, impersonation, namespace, connection: Cell::new(connection) })
    }

    /// Whether requests are made as whoever asks.
    pub(crate) fn impersonates(&self) -> bool {
        !self.impersonation.is_empty()
    }

    /// To the same API server, over a connection of its own.
    pub(crate) fn another(&self) -> Self {
        Self {
            client: self.client.another(),
            authorization: self.authorization.clone(),
            impersonation: self.impersonation.clone(),
            namespace: self.namespace.clone(),
            connection: Cell::default(),
        }
    }

    /// The connection that was there before the request, to whoever asks first.
    pub(crate) fn take_connection(&self) -> Option<Stream> {
        self.connection.take()
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.client.endpoint()
    }

    /// The namespace that was asked for, or the connection's own.
    pub(crate) fn namespace<'a>(&'a self, asked: &'a str) -> &'a str {
        if asked.is_empty() { &self.namespace } else { asked }
    }

    /// A request to a path (with its query).
    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request, Fault> {
        let uri = format!("{}{path}", self.endpoint().address.prefix);
        let mut request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|e| Fault::new(Code::InvalidArgument, format!("no request can be made of it: {e}")))?;
        self.authenticate(request.headers_mut());
        Ok(request)
    }

    /// Puts in who asks: the connection's credentials, and as whom the API server is to act. Where that is said, whatever of it was there goes;
    /// else it is what the supervisor has allowed.
    pub(crate) fn authenticate(&self, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        if !self.impersonation.is_empty() {
            let impersonates = |name: &HeaderName| name.as_str().starts_with(IMPERSONATE);
            for name in headers.keys().filter(|name| impersonates(name)).cloned().collect::<Vec<_>>() {
                headers.remove(name);
            }
        }
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        for (name, value) in &self.impersonation {
            headers.append(name.clone(), value.clone());
        }
    }

    /// Sends a request; an answer that is no success becomes a fault.
    pub(crate) async fn send(&mut self, request: Request) -> Result<Response<Incoming>, Fault> {
        let answer = self.client.send(request).await?;
        if answer.status().is_success() || answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        Err(errors::refusal(self.endpoint(), answer).await)
    }

    /// Sends a request and gives the answer's body, whatever its status.
    pub(crate) async fn send_any(&mut self, request: Request) -> Result<Bytes, Fault> {
        let answer = self.client.send(request).await?;
        Ok(read_all(self.endpoint(), answer.into_body(), DOCUMENT_MAX).await?.unwrap_or_default())
    }

    /// Gets one JSON document.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Fault> {
        let mut request = self.request(Method::GET, path, Bytes::new())?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        self.document(request).await
    }

    /// Posts one JSON document and gets another.
    pub(crate) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, Fault> {
        let body = serde_json::to_vec(body).map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
        let mut request = self.request(Method::POST, path, body.into())?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        self.document(request).await
    }

    /// Sends a request that is answered with one JSON document.
    pub(crate) async fn document<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, Fault> {
        let answer = self.send(request).await?;
        let shown = self.endpoint().shown();
        let body = read_all(self.endpoint(), answer.into_body(), DOCUMENT_MAX).await?.ok_or_else(|| {
            Fault::new(Code::TargetFailed, format!("{shown}: an answer is longer than {DOCUMENT_MAX} bytes"))
        })?;
        serde_json::from_slice(&body).map_err(|e| {
            Fault::new(Code::TargetFailed, format!("{shown}: an answer is not what a Kubernetes API server sends: {e}"))
        })
    }
}

/// The headers that say as whom the API server is to act.
fn impersonation(who: &Impersonation) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    let value = |text: &String| {
        HeaderValue::from_str(text)
            .map_err(|_| Fault::new(Code::InvalidArgument, format!("{text:?} cannot be the name of a user or a group")))
    };
    let mut headers = vec![(HeaderName::from_static("impersonate-user"), value(&who.user)?)];
    for group in &who.groups {
        headers.push((HeaderName::from_static("impersonate-group"), value(group)?));
    }
    Ok(headers)
}

/// A name that came from the control plane, as a segment of a path.
pub(crate) fn segment(what: &str, name: &str) -> Result<String, Fault> {
    if name.is_empty() {
        return Err(Fault::new(Code::InvalidArgument, format!("no {what} is named")));
    }
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.len() > NAME_MAX || !name.bytes().all(fits) || name.starts_with('.') || name.ends_with('.') {
        return Err(Fault::new(Code::InvalidArgument, format!("{name:?} cannot be the name of a {what}")));
    }
    Ok(url::encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_segment_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a b", "A", "a%2fb", "a?b", "ü", &"a".repeat(254)] {
            assert_eq!(segment("pod", bad).expect_err(bad).code(), Code::InvalidArgument);
        }
        assert_eq!(segment("pod", "web-0.x").expect("a name"), "web-0.x");
    }

    #[test]
    fn a_target_that_cannot_be_used_is_named_without_its_secrets() {
        let secret = "s3cr3t";
        let good = KubernetesTarget { server: "http://127.0.0.1:1".into(), ..Default::default() };
        for bad in [
            KubernetesTarget { server: format!("https://u:{secret}@x"), ..good.clone() },
            KubernetesTarget { token: format!("{secret}\n{secret}"), ..good.clone() },
            KubernetesTarget { server: "https://x".into(), certificate_authority_pem: secret.into(), ..good.clone() },
            KubernetesTarget {
                server: "https://x".into(),
                insecure_skip_tls_verify: true,
                client_certificate_pem: secret.into(),
                ..good.clone()
            },
        ] {
            let fault = Cluster::new(bad, None, &Dialer::none()).err().expect("refused");
            assert_eq!(fault.code(), Code::CredentialsUnavailable);
            assert!(!fault.failure.to_string().contains(secret), "{}", fault.failure);
        }
        assert!(Cluster::new(good, None, &Dialer::none()).is_ok());
    }
}
