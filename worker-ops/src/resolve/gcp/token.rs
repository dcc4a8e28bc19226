//! What gives tokens: Google's OAuth 2.0, its Security Token Service, and IAM for a service account's.

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body_util::Full;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use shared_proto::address::Address;
use shared_proto::failure::Code;
use std::time::Duration;

use super::super::http::{Answer, exchange};
use super::super::unavailable;
use crate::fault::Fault;
use crate::found::text;
use crate::net::{Dialer, Endpoint};

/// Where users and keys get tokens. <https://developers.google.com/identity/protocols/oauth2/service-account>
pub(super) const OAUTH: &[&str] = &["oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com"];
/// Where tokens of elsewhere are exchanged. <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>
pub(super) const STS: &[&str] = &["sts.googleapis.com"];
/// Where a service account's token is got.
/// <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>
const IAM: &str = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/";
const IAM_HOSTS: &[&str] = &["iamcredentials.googleapis.com"];
const GENERATE: &str = ":generateAccessToken";
/// How often something is asked at most: failures of Google's own pass.
const ATTEMPTS: u32 = 3;
const WAIT: Duration = Duration::from_millis(300);
/// The longest access token, bytes: it is sent in a header.
const TOKEN_MAX: usize = 16 * 1024;

/// An access token.
pub(super) struct Token {
    pub(super) value: String,
    /// Unix milliseconds.
    pub(super) expiry_ms: i64,
}

/// Google's hosts, or what stands in for all of them.
pub(super) struct Google {
    endpoint: Option<Address>,
    dialer: Dialer,
}

/// A service account that is acted as.
pub(super) struct Acts<'a> {
    pub(super) account: &'a str,
    /// By way of these, the first of them being the one that the first token's account may act as.
    pub(super) delegates: &'a [String],
    pub(super) seconds: u32,
    pub(super) scopes: &'a [String],
}

// === impl Google ===

impl Google {
    pub(super) fn new(endpoint_url: &str, dialer: &Dialer) -> Result<Self, Fault> {
        Ok(Self { endpoint: Endpoint::instead(endpoint_url)?, dialer: dialer.or_direct(endpoint_url) })
    }
    /// The way to them.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Where that is asked which a file names by a URL: at one of these hosts of Google's, by TLS. It is not the file that decides it.
    fn place(&self, what: &str, url: &str, hosts: &[&str]) -> Result<(Address, String), Fault> {
        let address =
            Address::parse(url).map_err(|e| unavailable(format!("the {what} in the credentials file: {e}")))?;
        let own = self
            .endpoint
            .as_ref()
            .is_some_and(|e| (&e.host, e.port, e.https) == (&address.host, address.port, address.https));
        let googles = address.https && address.port == 443 && hosts.contains(&address.host.as_str());
        if !own && !googles {
            let message = format!(
                "the {what} in the credentials file leads to {}, which is not {}",
                address.shown(),
                hosts.join(" or ")
            );
            return Err(unavailable(message).next("Get the file from Google again; nothing was sent."));
        }
        let path = if address.prefix.is_empty() { "/".to_owned() } else { address.prefix.clone() };
        match &self.endpoint {
            // its own path stands in that URL already
            Some(_) if own => Ok((address, path)),
            Some(endpoint) => Ok((endpoint.clone(), format!("{}{path}", endpoint.prefix))),
            None => Ok((address, path)),
        }
    }

    /// Sends a form that has secrets in it, and takes the token that it is answered with.
    pub(super) async fn exchange(
        &self,
        (what, url, hosts): (&str, &str, &[&str]),
        form: String,
        authorization: Option<HeaderValue>,
        secrets: &[&str],
    ) -> Result<Token, Fault> {
        let (address, path) = self.place(what, url, hosts)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        let answer = ask(&self.dialer, &address, &path, headers, form).await?;
        let body = document(&address, &answer, secrets)?;
        token(
            &address,
            &body,
            body.get("expires_in")
                .and_then(Value::as_i64)
                .map(|s| shared_proto::now_ms().saturating_add(s.saturating_mul(1000))),
            "access_token",
        )
    }

    /// The token of a service account, by an account that may create it.
    pub(super) async fn act(&self, by: &Token, acts: &Acts<'_>, quota_project: &str) -> Result<Token, Fault> {
        let (address, path) = self.place("service account", &format!("{IAM}{}{GENERATE}", acts.account), IAM_HOSTS)?;
        let named = |account: &String| format!("projects/-/serviceAccounts/{account}");
        let body = json!({
            "delegates": acts.delegates.iter().map(named).collect::<Vec<_>>(),
            "scope": acts.scopes,
            "lifetime": format!("{}s", acts.seconds),
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(AUTHORIZATION, bearer(&by.value)?);
        if !quota_project.is_empty() {
            let project =
                HeaderValue::from_str(quota_project).map_err(|_| unavailable("the quota project is no name"))?;
            headers.insert("x-goog-user-project", project);
        }
        let answer = ask(&self.dialer, &address, &path, headers, body.to_string()).await?;
        let body = document(&address, &answer, &[&by.value]).map_err(|mut fault| {
            fault.failure.message = format!("the service account {} cannot be acted as: {}", acts.account, fault.failure.message);
            fault.next("Give the identity before it roles/iam.serviceAccountTokenCreator on that account, and enable iamcredentials.googleapis.com.")
        })?;
        let expiry = text(&body, "/expireTime").parse::<Timestamp>().ok().map(|t| t.as_millisecond());
        token(&address, &body, expiry, "accessToken")
    }
}

/// The service account in a URL by which its token is got; `None`: it is none of that form.
pub(super) fn account_of(url: &str) -> Option<&str> {
    let account = url.strip_prefix(IAM)?.strip_suffix(GENERATE)?;
    shared_proto::inventory::gcp::is_service_account(account).then_some(account)
}

/// A header's value with the token, which nothing shows.
fn bearer(token: &str) -> Result<HeaderValue, Fault> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| unavailable("the token cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn ask(
    dialer: &Dialer,
    address: &Address,
    path: &str,
    headers: HeaderMap,
    body: String,
) -> Result<Answer, Fault> {
    let mut attempt = 1;
    loop {
        let mut request = http::Request::builder()
            .method(Method::POST)
            .uri(path)
            .body(Full::new(body.clone().into()))
            .map_err(|_| unavailable(format!("{}: its path is none", address.shown())))?;
        request.headers_mut().clone_from(&headers);
        match exchange(dialer, address, request).await {
            Ok(answer) if answer.status.is_server_error() && attempt < ATTEMPTS => {}
            Ok(answer) => return Ok(answer),
            Err(_) if attempt < ATTEMPTS => {}
            Err(why) => return Err(unavailable(why)),
        }
        tokio::time::sleep(WAIT * attempt).await;
        attempt += 1;
    }
}

/// The JSON of an answer that is a success; of another one its own words, without what was sent.
pub(super) fn document(address: &Address, answer: &Answer, secrets: &[&str]) -> Result<Value, Fault> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok().filter(Value::is_object);
    if answer.status.is_success() {
        // what is in it is secret, so nothing of it is told
        return body.ok_or_else(|| unavailable(format!("{}: its answer is no JSON document", address.shown())));
    }
    let body = body.unwrap_or_default();
    // OAuth 2.0 has words at the top, IAM an object: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
    let (code, mut said) = match body.get("error") {
        Some(Value::String(code)) => (code.clone(), text(&body, "/error_description")),
        Some(Value::Object(_)) => (text(&body, "/error/status"), text(&body, "/error/message")),
        _ => (String::new(), String::new()),
    };
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        said = said.replace(secret, "[secret]");
    }
    let mut message = format!("{} answered {}", address.shown(), answer.status);
    for part in [&code, &said] {
        if !part.is_empty() {
            message = format!("{message}: {part}");
        }
    }
    let fault = unavailable(message).said(answer.status.as_u16(), &*code);
    Err(match code.as_str() {
        "invalid_grant" => Fault { failure: Code::CredentialsExpired.on(fault.failure.message.clone()), ..fault }
            .next("Make the credentials file anew (a key may be deleted or disabled, a user's login ended), or see to the runner's clock."),
        _ => fault,
    })
}

/// The token in an answer, fit for a header.
pub(super) fn token(address: &Address, body: &Value, expiry_ms: Option<i64>, name: &str) -> Result<Token, Fault> {
    let wrong = |what: &str| unavailable(format!("{}: {what}", address.shown()));
    let value = body.get(name).and_then(Value::as_str).unwrap_or_default();
    if value.is_empty() || value.len() > TOKEN_MAX || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("its answer has no access token"));
    }
    let expiry_ms = expiry_ms.ok_or_else(|| wrong("its answer does not say how long the token lasts"))?;
    Ok(Token { value: value.to_owned(), expiry_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(endpoint: &str, url: &str) -> Result<String, String> {
        let google = Google::new(endpoint, &Dialer::none()).map_err(|f| f.failure.message)?;
        let placed = google.place("token_uri", url, OAUTH).map_err(|f| f.failure.message)?;
        Ok(format!("{} {}", placed.0.shown(), placed.1))
    }

    #[tokio::test]
    async fn a_file_does_not_say_where_its_secret_goes() {
        assert_eq!(leads("", "https://oauth2.googleapis.com/token").as_deref(), Ok("oauth2.googleapis.com:443 /token"));
        assert_eq!(
            leads("", "https://accounts.google.com/o/oauth2/token").as_deref(),
            Ok("accounts.google.com:443 /o/oauth2/token")
        );
        let stand_in = "http://127.0.0.1:5000/google";
        assert_eq!(
            leads(stand_in, "https://oauth2.googleapis.com/token").as_deref(),
            Ok("127.0.0.1:5000 /google/token")
        );
        assert_eq!(leads(stand_in, "http://127.0.0.1:5000/token").as_deref(), Ok("127.0.0.1:5000 /token"));
        for bad in [
            "https://evil.example/token",
            "https://oauth2.googleapis.com.evil.example/token",
            "https://evil.example/oauth2.googleapis.com",
            "https://x.oauth2.googleapis.com/token",
            "https://storage.googleapis.com/bucket/token",
            "http://oauth2.googleapis.com/token",
            "https://oauth2.googleapis.com:8443/token",
            "https://u:p@oauth2.googleapis.com/token",
            "http://127.0.0.1:5001/token",
            "http://metadata.google.internal/token",
            "file:///etc/passwd",
            "",
        ] {
            assert!(leads("", bad).is_err() && leads(stand_in, bad).is_err(), "{bad}");
        }
        assert!(leads("", "http://127.0.0.1:5000/token").is_err());
    }

    #[test]
    fn the_account_in_a_url() {
        let url = |account: &str| format!("{IAM}{account}{GENERATE}");
        let account = "r@p.iam.gserviceaccount.com";
        assert_eq!(account_of(&url(account)), Some(account));
        for bad in
            [url("x/../y"), url(""), format!("https://evil.example/{account}{GENERATE}"), format!("{IAM}{account}")]
        {
            assert_eq!(account_of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn both_sides_of_a_token() {
        let address = Address::parse("https://oauth2.googleapis.com").expect("a URL");
        let got = |value: &str| token(&address, &json!({"access_token": value}), Some(1), "access_token");
        assert!(got(&"a".repeat(TOKEN_MAX)).is_ok() && got(&"a".repeat(TOKEN_MAX + 1)).is_err());
        for bad in ["", "a b", "a\nb", "ä"] {
            assert!(got(bad).is_err(), "{bad:?}");
        }
        assert!(token(&address, &json!({"access_token": "a"}), None, "access_token").is_err());
    }
}
