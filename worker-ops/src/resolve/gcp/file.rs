//! A credentials file, in the forms that Google's own tools write: <https://cloud.google.com/docs/authentication/application-default-credentials>.

use serde_json::Value;
use shared_proto::inventory::gcp::is_project;
use shared_proto::v1::ResolveGcp;
use std::path::Path;

use super::super::{file, unavailable};
use super::jwt::{self, Claims};
use super::token::{Acts, Google, OAUTH, account_of};
use super::{CLOUD_PLATFORM, Given, external};
use crate::fault::Fault;
use crate::net::url::form;

/// Where a user's refresh token goes: such a file names no place.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// How long a token is asked for of a service account that a file acts as, where it does not say, seconds.
pub(super) const LIFETIME: u32 = 3600;

/// A file's content, and how its failures begin.
pub(super) struct Content<'a> {
    value: &'a Value,
    shown: String,
}

/// A token by what the file says.
pub(super) async fn resolve(how: &ResolveGcp, google: &Google, scopes: &[String]) -> Result<Given, Fault> {
    let path = Path::new(&how.credentials_file);
    let shown = format!("the credentials file {}", path.display());
    if !path.is_absolute() {
        return Err(unavailable(format!("{shown}: its path is not absolute")));
    }
    let whole = file::read("the credentials file", path)?;
    let value: Value = serde_json::from_str(&whole)
        .map_err(|e| unavailable(format!("{shown} is no JSON (line {}, column {})", e.line(), e.column())))?;
    let content = Content { value: &value, shown };
    if content.text("type")? != "impersonated_service_account" {
        return by_type(how, google, &content, scopes).await;
    }
    // what `gcloud auth application-default login --impersonate-service-account` writes
    let url = content.text("service_account_impersonation_url")?;
    let account =
        account_of(url).ok_or_else(|| content.wrong("its service_account_impersonation_url is none of Google's"))?;
    let delegates = delegates(&content)?;
    let source = value.get("source_credentials").unwrap_or(&Value::Null);
    let source = Content { value: source, shown: format!("{}, source_credentials", content.shown) };
    let mut given = by_type(how, google, &source, &[CLOUD_PLATFORM.to_owned()]).await?;
    let acts = Acts { account, delegates: &delegates, seconds: LIFETIME, scopes };
    given.token = google.act(&given.token, &acts, "").await?;
    given.principal = account.to_owned();
    given.quota_project = content.project("quota_project_id");
    Ok(given)
}

async fn by_type(how: &ResolveGcp, google: &Google, content: &Content<'_>, scopes: &[String]) -> Result<Given, Fault> {
    match content.text("type")? {
        "service_account" => of_key(google, content, scopes).await,
        "authorized_user" => of_user(google, content, scopes).await,
        "external_account" => external::resolve(how, google, content, scopes).await,
        _ => Err(content
            .wrong("its type is none of service_account, authorized_user, external_account and impersonated_service_account")
            .next("Name a service account's key, an Application Default Credentials file or a credential configuration of workload identity federation.")),
    }
}

async fn of_key(google: &Google, content: &Content<'_>, scopes: &[String]) -> Result<Given, Fault> {
    content.of_google()?;
    let (account, uri) = (content.text("client_email")?, content.text("token_uri")?);
    let claims = Claims {
        account,
        key_id: content.optional("private_key_id"),
        audience: uri,
        scopes,
        now: shared_proto::now_ms() / 1000,
    };
    let assertion = jwt::signed(&claims, content.text("private_key")?)
        .map_err(|why| content.wrong(&format!("its private_key: {why}")))?;
    let form = form([("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)]);
    let token = google.exchange(("token_uri", uri, OAUTH), form, None, &[&assertion]).await?;
    let project = content.project("project_id");
    Ok(Given { token, principal: account.to_owned(), project, quota_project: content.project("quota_project_id") })
}

async fn of_user(google: &Google, content: &Content<'_>, scopes: &[String]) -> Result<Given, Fault> {
    content.of_google()?;
    let (secret, refresh) = (content.text("client_secret")?, content.text("refresh_token")?);
    let mut pairs = vec![
        ("grant_type", "refresh_token"),
        ("client_id", content.text("client_id")?),
        ("client_secret", secret),
        ("refresh_token", refresh),
    ];
    let narrower = scopes.join(" ");
    // it is refused what its user did not consent to, so it is asked for only where somebody named scopes
    if narrower != CLOUD_PLATFORM {
        pairs.push(("scope", &narrower));
    }
    let token = google.exchange(("token_uri", TOKEN_URI, OAUTH), form(pairs), None, &[secret, refresh]).await?;
    let principal = content.optional("account").to_owned();
    Ok(Given { token, principal, project: String::new(), quota_project: content.project("quota_project_id") })
}

fn delegates(content: &Content<'_>) -> Result<Vec<String>, Fault> {
    let wrong = || content.wrong("its delegates are no service accounts");
    let listed = match content.value.get("delegates") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(listed) => listed.as_array().ok_or_else(wrong)?,
    };
    let account = |d: &Value| {
        let name = d.as_str()?;
        let name = name.rsplit('/').next().unwrap_or(name);
        shared_proto::inventory::gcp::is_service_account(name).then(|| name.to_owned())
    };
    listed.iter().map(|d| account(d).ok_or_else(wrong)).collect()
}

// === impl Content ===

impl<'a> Content<'a> {
    /// A member that must be there, and be a text. Its value may be secret: no failure says it.
    pub(super) fn text(&self, name: &str) -> Result<&'a str, Fault> {
        match self.optional(name) {
            "" => Err(self.wrong(&format!("it has no {name}"))),
            text => Ok(text),
        }
    }
    pub(super) fn optional(&self, name: &str) -> &'a str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }
    pub(super) fn value(&self) -> &'a Value {
        self.value
    }
    /// A project, where it can be one: it becomes part of a path and of a header.
    pub(super) fn project(&self, name: &str) -> String {
        Some(self.optional(name)).filter(|p| is_project(p)).unwrap_or_default().to_owned()
    }
    pub(super) fn wrong(&self, what: &str) -> Fault {
        unavailable(format!("{}: {what}", self.shown))
    }
    /// Other universes have other hosts, to which no secret goes.
    pub(super) fn of_google(&self) -> Result<(), Fault> {
        match self.optional("universe_domain") {
            "" | "googleapis.com" => Ok(()),
            _ => Err(self.wrong("its universe_domain is not googleapis.com, and the runner knows no other")),
        }
    }
}
