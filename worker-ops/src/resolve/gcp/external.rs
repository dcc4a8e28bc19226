//! Workload identity federation: a token of elsewhere is exchanged for one of Google's.
//! <https://google.aip.dev/auth/4117>, <https://cloud.google.com/iam/docs/workload-identity-federation>
//!
//! It must never run the program that such a file may name, nor fetch from a host that the connection's entry does not name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};
use http_body_util::Full;
use serde_json::Value;
use shared_proto::address::Address;
use shared_proto::v1::ResolveGcp;
use std::path::Path;

use super::super::http::exchange;
use super::super::{file, unavailable};
use super::file::{Content, LIFETIME};
use super::token::{Acts, Google, STS, account_of};
use super::{CLOUD_PLATFORM, Given};
use crate::fault::Fault;
use crate::net::url::{encode, form};

/// Headers of the request for a subject token.
const HEADERS_MAX: usize = 16;

/// A token by what the file says.
pub(super) async fn resolve(
    how: &ResolveGcp,
    google: &Google,
    content: &Content<'_>,
    scopes: &[String],
) -> Result<Given, Fault> {
    content.of_google()?;
    let url = content.optional("service_account_impersonation_url");
    let account = match url {
        "" => None,
        url => Some(
            account_of(url)
                .ok_or_else(|| content.wrong("its service_account_impersonation_url is none of Google's"))?,
        ),
    };
    let subject = subject_token(how, google, content).await?;
    let audience = content.text("audience")?;
    // the account's token is the one with the scopes that were asked for
    let scope = if account.is_some() { CLOUD_PLATFORM.to_owned() } else { scopes.join(" ") };
    let workforce = content.optional("workforce_pool_user_project");
    let options = serde_json::json!({"userProject": workforce}).to_string();
    let mut pairs = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", audience),
        ("scope", &scope),
        ("subject_token_type", content.text("subject_token_type")?),
        ("subject_token", &subject),
    ];
    let secret = content.optional("client_secret");
    let client = match content.optional("client_id") {
        "" => None,
        id => Some(basic(id, secret).ok_or_else(|| content.wrong("its client_id and client_secret cannot be sent"))?),
    };
    if !workforce.is_empty() && client.is_none() {
        pairs.push(("options", &options));
    }
    let uri = content.text("token_url")?;
    let token = google.exchange(("token_url", uri, STS), form(pairs), client, &[&subject, secret]).await?;
    let quota_project = content.project("quota_project_id");
    let mut given = Given { token, principal: audience.to_owned(), project: String::new(), quota_project };
    if let Some(account) = account {
        let lifetime = content.value().pointer("/service_account_impersonation/token_lifetime_seconds");
        let seconds = lifetime.and_then(Value::as_u64).and_then(|s| u32::try_from(s).ok()).unwrap_or(LIFETIME);
        let acts = Acts { account, delegates: &[], seconds, scopes };
        given.token = google.act(&given.token, &acts, "").await?;
        given.principal = account.to_owned();
    }
    Ok(given)
}

/// <https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1>
fn basic(id: &str, secret: &str) -> Option<HeaderValue> {
    let pair = STANDARD.encode(format!("{}:{}", encode(id), encode(secret)));
    let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn subject_token(how: &ResolveGcp, google: &Google, content: &Content<'_>) -> Result<String, Fault> {
    let source = content.value().get("credential_source").unwrap_or(&Value::Null);
    let member = |name: &str| source.get(name).and_then(Value::as_str).unwrap_or_default();
    let (text, shown) = match (member("file"), member("url")) {
        (path, "") if !path.is_empty() => {
            if !Path::new(path).is_absolute() {
                return Err(content.wrong("the path of its credential_source is not absolute"));
            }
            (file::read("the subject token", Path::new(path))?, format!("the subject token {path}"))
        }
        ("", url) if !url.is_empty() => fetch(how, google, content, source, url).await?,
        _ if source.get("executable").is_some() => {
            return Err(content
                .wrong("its credential_source is a program, which is not run")
                .next("Have the program write its token into a file, and make the configuration anew with that file as its source."));
        }
        _ => {
            return Err(content
                .wrong("its credential_source is neither a file nor a URL")
                .next("Make the configuration anew with a file or a URL as its source; sources of AWS and certificates are not known to the runner."));
        }
    };
    let token = match source.pointer("/format/type").and_then(Value::as_str).unwrap_or("text") {
        "text" => text.trim().to_owned(),
        "json" => {
            let name = source.pointer("/format/subject_token_field_name").and_then(Value::as_str).unwrap_or_default();
            let document: Value =
                serde_json::from_str(&text).map_err(|_| unavailable(format!("{shown} is no JSON document")))?;
            document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        }
        _ => return Err(content.wrong("the format of its credential_source is neither text nor json")),
    };
    if token.is_empty() { Err(unavailable(format!("{shown} has no token in it"))) } else { Ok(token) }
}

/// From a host that the connection's entry names: a file that somebody else wrote must not have the runner ask just anybody.
async fn fetch(
    how: &ResolveGcp,
    google: &Google,
    content: &Content<'_>,
    source: &Value,
    url: &str,
) -> Result<(String, String), Fault> {
    let wrong = |what: &str| content.wrong(&format!("the url of its credential_source: {what}"));
    let uri: http::Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
    let bare = url.split('?').next().unwrap_or_default();
    let address = Address::parse(bare).map_err(wrong)?;
    let named = |h: &String| *h == address.host || *h == address.shown();
    if !how.subject_token_hosts.iter().any(named) {
        return Err(wrong(&format!("{} is not among the entry's subject_token_hosts", address.shown()))
            .next("Name the host there if the subject token is to be fetched from it."));
    }
    let mut request = http::Request::builder()
        .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
        .body(Full::default())
        .map_err(|_| wrong("it has no path"))?;
    let headers = source.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten().take(HEADERS_MAX) {
        let name = HeaderName::try_from(name).map_err(|_| wrong("a name of its headers is none"))?;
        let value = value.as_str().and_then(|v| HeaderValue::from_str(v).ok());
        request.headers_mut().insert(name, value.ok_or_else(|| wrong("a value of its headers is none"))?);
    }
    let answer = exchange(google.dialer(), &address, request)
        .await
        .map_err(|why| unavailable(format!("the subject token: {why}")))?;
    let shown = format!("the subject token from {}", address.shown());
    if !answer.status.is_success() {
        return Err(unavailable(format!("{shown}: it answered {}", answer.status)));
    }
    let text = String::from_utf8(answer.body.to_vec()).map_err(|_| unavailable(format!("{shown} is no text")))?;
    Ok((text, shown))
}
