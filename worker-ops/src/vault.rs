//! Secrets of a Vault's KV engine, by its HTTP API.
//!
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version>,
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v1#read-secret>

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, HeaderValue, USER_AGENT};
use http_body_util::Full;
use serde_json::Value;
use shared_proto::address::Address;
use shared_proto::failure::Code;
use shared_proto::v1::{SecretRead, VaultTarget};
use std::time::Duration;

use crate::fault::{Fault, words};
use crate::net::{Again, Client, Dialer, Endpoint, Request, read_all, tls, url};
use crate::secrets::of_fields;

/// The longest answer that is taken, bytes: a secret of Vault's own storage has at most half a MiB.
const ANSWER_MAX: usize = 2 * 1024 * 1024;
/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// A mount of the engine.
pub(crate) struct Vault {
    client: Client,
    token: HeaderValue,
    namespace: Option<HeaderValue>,
    mount: String,
    version: u32,
}

// === impl Vault ===

impl Vault {
    /// Checks the target; connects with the first request.
    pub(crate) fn new(target: VaultTarget, dialer: &Dialer) -> Result<Self, Fault> {
        let wrong = |what: String| Fault::new(Code::CredentialsUnavailable, what);
        let address = Address::parse(&target.address).map_err(|e| wrong(format!("the Vault's address: {e}")))?;
        let endpoint = if address.https && !target.certificate_authority_pem.is_empty() {
            let trust = tls::Trust::Pem(&target.certificate_authority_pem);
            let tls = (tls::client(&trust, None).map_err(wrong)?, tls::server_name(&address.host).map_err(wrong)?);
            Endpoint { address, tls: Some(tls), dialer: dialer.clone() }
        } else {
            Endpoint::new(address, dialer.clone())?
        };
        let header = |text: &str, what: &str| {
            let mut value =
                HeaderValue::from_str(text).map_err(|_| wrong(format!("{what} cannot be sent in a header")))?;
            value.set_sensitive(true);
            Ok::<_, Fault>(value)
        };
        if target.token.is_empty() {
            return Err(wrong("the file with the Vault's token is empty".to_owned()));
        }
        Ok(Self {
            client: Client::new(endpoint),
            token: header(&target.token, "the Vault's token")?,
            namespace: match target.namespace.as_str() {
                "" => None,
                name => Some(header(name, "the Vault's namespace")?),
            },
            mount: target.mount.split('/').map(url::encode).collect::<Vec<_>>().join("/"),
            version: target.version,
        })
    }

    /// One secret, of which a field may be meant.
    pub(crate) async fn read(&mut self, read: &SecretRead) -> Result<String, Fault> {
        let path = read.path.split('/').map(url::encode).collect::<Vec<_>>().join("/");
        let between = if self.version == 1 { "" } else { "/data" };
        let target = format!("/v1/{}{between}/{path}", self.mount);
        let mut again = Again::new(WAIT_MAX);
        let mut answer = loop {
            match self.attempt(&target).await {
                Ok(answer) => break answer,
                Err(fault) => again.after(fault, None).await?,
            }
        };
        let mut data = answer["data"].take();
        if self.version != 1 {
            data = data.get_mut("data").map(Value::take).unwrap_or_default();
        }
        match data {
            Value::Object(fields) => Ok(of_fields(fields, &read.key)?),
            // a version that was deleted has none
            Value::Null => Err(Fault::new(Code::TargetNotFound, "the Vault has no data there")),
            _ => Err(Fault::new(Code::TargetFailed, "the Vault's answer is not what its KV engine sends")),
        }
    }

    async fn attempt(&mut self, target: &str) -> Result<Value, Fault> {
        let mut builder = http::Request::get(format!("{}{target}", self.client.endpoint().address.prefix))
            .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .header("x-vault-request", "true")
            .header("x-vault-token", &self.token);
        if let Some(namespace) = &self.namespace {
            builder = builder.header("x-vault-namespace", namespace);
        }
        let request: Request = builder
            .body(Full::new(Bytes::new()))
            .map_err(|e| Fault::new(Code::Internal, format!("a request to the Vault cannot be made: {e}")))?;
        let answer = self.client.send(request).await?;
        let status = answer.status();
        let body = read_all(self.client.endpoint(), answer.into_body(), ANSWER_MAX).await?;
        let body = body.ok_or_else(|| {
            Fault::new(Code::TooLarge, format!("the Vault's answer is longer than {ANSWER_MAX} bytes"))
        })?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        match serde_json::from_slice(&body) {
            Ok(answer @ Value::Object(_)) => Ok(answer),
            _ => Err(Fault::new(Code::TargetFailed, "the Vault's answer is no JSON document")),
        }
    }
}

/// What its refusals mean: <https://developer.hashicorp.com/vault/api-docs#http-status-codes>.
fn refusal(status: StatusCode, body: &[u8]) -> Fault {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let said: Vec<_> = answer["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let said = words(&said.join("; "));
    let message = match said.as_str() {
        "" => format!("the Vault answered {status}"),
        said => format!("the Vault answered {status}: {said}"),
    };
    let code = match status.as_u16() {
        403 => Code::TargetForbidden,
        404 => Code::TargetNotFound,
        429 => Code::TargetThrottled,
        // a standby that leads elsewhere, which is not followed
        300..400 => Code::TargetFailed,
        400..500 => Code::TargetRefused,
        _ => Code::TargetFailed,
    };
    let fault = Fault::new(code, message).said(status.as_u16(), status.canonical_reason().unwrap_or_default());
    match code {
        Code::TargetForbidden => fault.next(
            "See that the token in the store's token_file is good still, and that its policies allow `read` of the path.",
        ),
        Code::TargetNotFound => fault.next("Check the path, and mount and version of the store's entry."),
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_refusals_mean() {
        for (status, body, code, said) in [
            (403, r#"{"errors":["permission denied"]}"#, Code::TargetForbidden, "permission denied"),
            (404, r#"{"errors":[]}"#, Code::TargetNotFound, "404"),
            (400, r#"{"errors":["bad","worse"]}"#, Code::TargetRefused, "bad; worse"),
            (429, "", Code::TargetThrottled, "429"),
            (307, "", Code::TargetFailed, "307"),
            (503, r#"{"errors":["Vault is sealed"]}"#, Code::TargetFailed, "sealed"),
        ] {
            let fault = refusal(StatusCode::from_u16(status).expect("a status"), body.as_bytes());
            assert!(fault.code() == code && fault.failure.message.contains(said), "{}", fault.failure);
        }
    }

    #[test]
    fn what_cannot_be_asked_is_told_without_the_token() {
        let good = VaultTarget {
            address: "http://127.0.0.1:8200".into(),
            token: "hvs.s3cr3t".into(),
            mount: "kv/team".into(),
            version: 2,
            ..VaultTarget::default()
        };
        assert_eq!(Vault::new(good.clone(), &Dialer::none()).expect("a vault").mount, "kv/team");
        for bad in [
            VaultTarget { address: "nonsense".into(), ..good.clone() },
            VaultTarget { token: String::new(), ..good.clone() },
            VaultTarget { token: "hvs.s3cr3t\nX: y".into(), ..good.clone() },
            VaultTarget { address: "https://v".into(), certificate_authority_pem: "no".into(), ..good },
        ] {
            let fault = Vault::new(bad, &Dialer::none()).err().expect("refused");
            assert!(fault.code() == Code::CredentialsUnavailable, "{}", fault.failure);
            assert!(!fault.failure.to_string().contains("s3cr3t"), "{}", fault.failure);
        }
    }
}
