//! The metadata server: of a virtual machine, a pod of GKE, a service of Cloud Run.
//! <https://cloud.google.com/compute/docs/access/authenticate-workloads>

use http::Method;
use http::header::HeaderValue;
use http_body_util::Full;
use serde_json::Value;
use shared_proto::address::Address;
use shared_proto::v1::ResolveGcp;

use super::super::http::{Answer, exchange};
use super::super::unavailable;
use super::token::{document, token};
use super::{Given, Token};
use crate::fault::{Fault, words};
use crate::net::Dialer;
use crate::net::url::encode;

/// Where it is.
const HOST: &str = "metadata.google.internal";
/// By which both ends know that the other one is what it should be: a server that is led elsewhere does not send it.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");
const ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default";
const PROJECT: &str = "/computeMetadata/v1/project/project-id";

/// A token of the account that is attached to where the runner runs; `scopes`: narrower than the account's, where it can be.
pub(super) async fn resolve(how: &ResolveGcp, scopes: &[String]) -> Result<Given, Fault> {
    let host = how.environment.get("GCE_METADATA_HOST").map(String::as_str).filter(|h| !h.is_empty()).unwrap_or(HOST);
    let address = Address::parse(&format!("http://{host}"))
        .map_err(|e| unavailable(format!("the metadata server, by the variable GCE_METADATA_HOST: {e}")))?;
    let query = if scopes.is_empty() { String::new() } else { format!("?scopes={}", encode(&scopes.join(","))) };
    let answer = ask(&address, &format!("{ACCOUNT}/token{query}")).await?;
    let body = document(&address, &answer, &[])?;
    let lasts = body.get("expires_in").and_then(Value::as_i64);
    let expiry = lasts.map(|s| shared_proto::now_ms().saturating_add(s.saturating_mul(1000)));
    let token: Token = token(&address, &body, expiry, "access_token")?;
    let principal = line(&ask(&address, &format!("{ACCOUNT}/email")).await?).unwrap_or_default();
    let project = match how.project.as_str() {
        "" => line(&ask(&address, PROJECT).await?).unwrap_or_default(),
        // the entry's own is used
        _ => String::new(),
    };
    Ok(Given { token, principal, project, quota_project: String::new() })
}

async fn ask(address: &Address, path: &str) -> Result<Answer, Fault> {
    let next = "Run the runner on Google Cloud with a service account attached, or use source = \"file\" in the connection's entry.";
    let wrong = |why: String| unavailable(format!("the metadata server {why}")).next(next);
    let mut request = http::Request::builder()
        .method(Method::GET)
        .uri(path)
        .body(Full::default())
        .map_err(|_| wrong(format!("{}: no path", address.shown())))?;
    request.headers_mut().insert(FLAVOR.0, HeaderValue::from_static(FLAVOR.1));
    let answer = exchange(&Dialer::direct(), address, request).await.map_err(wrong)?;
    if answer.headers.get(FLAVOR.0).is_none_or(|v| v.as_bytes() != FLAVOR.1.as_bytes()) {
        return Err(wrong(format!("{}: what answers there is none of Google's", address.shown())));
    }
    if !answer.status.is_success() {
        let said = words(&String::from_utf8_lossy(&answer.body));
        return Err(wrong(format!("{} answered {}: {said}", address.shown(), answer.status)));
    }
    Ok(answer)
}

/// A text that is one word.
fn line(answer: &Answer) -> Option<String> {
    let text = std::str::from_utf8(&answer.body).ok()?.trim();
    (text.len() <= 256 && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.to_owned())
}
