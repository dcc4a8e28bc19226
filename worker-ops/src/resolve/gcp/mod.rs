//! Credentials of Google Cloud: a file (a service account's key, a user's, an identity of elsewhere that is exchanged) or the metadata
//! server; and with either the service accounts that are acted as.
//!
//! ```text
//!   service_account    JWT, signed with its key ─▶ oauth2.googleapis.com ┐
//!   authorized_user    refresh token ───────────▶ oauth2.googleapis.com  ├─▶ access token ─▶ iamcredentials.googleapis.com, for each
//!   external_account   subject token ───────────▶ sts.googleapis.com     │                   service account that is acted as
//!   metadata           ─────────────────────────▶ the metadata server    ┘
//! ```
//! A file never says where a secret goes: only to these hosts, or where the connection's own endpoint_url says. The metadata server is
//! asked where the connection says so, and never otherwise. Programs that a file names are not run.

mod external;
mod file;
mod jwt;
mod metadata;
mod token;

use shared_proto::v1::target::Kind;
use shared_proto::v1::{GcpTarget, ResolveGcp};
use std::time::Duration;

use self::token::{Google, Token};
use super::{Resolved, step, unavailable, valid_until};
use crate::fault::Fault;
use crate::net::Dialer;

/// For all of it: less than the supervisor waits.
const DEADLINE: Duration = Duration::from_secs(18);
/// What tokens are for where nobody says. Narrower ones do not do: Cloud Asset Inventory and Secret Manager take no other scope, and what
/// may be done is what the account's roles say.
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// What a source gives.
struct Given {
    token: Token,
    /// The account, where the source says it.
    principal: String,
    /// Empty: it says none.
    project: String,
    quota_project: String,
}

/// A token for the connection's projects.
pub(super) async fn resolve(how: ResolveGcp, dialer: &Dialer) -> Result<Resolved, Fault> {
    match tokio::time::timeout(DEADLINE, resolve_unbounded(&how, dialer)).await {
        Ok(resolved) => resolved,
        Err(_) => Err(unavailable(format!("Google gave no token within {} s", DEADLINE.as_secs()))),
    }
}

async fn resolve_unbounded(how: &ResolveGcp, dialer: &Dialer) -> Result<Resolved, Fault> {
    let google = Google::new(&how.endpoint_url, dialer)?;
    let platform = [CLOUD_PLATFORM.to_owned()];
    let asked = if how.scopes.is_empty() { &platform[..] } else { &how.scopes };
    // what another account's token is asked for with is good for that
    let first = if how.impersonate.is_empty() { asked } else { &platform[..] };
    let mut given = match how.source.as_str() {
        "file" => file::resolve(how, &google, first).await?,
        "metadata" => metadata::resolve(how, if how.impersonate.is_empty() { &how.scopes } else { &[] }).await?,
        other => {
            return Err(unavailable(format!("{other:?} is no source of credentials of Google Cloud"))
                .next("Use file or metadata as the source in the connection's entry."));
        }
    };
    let quota_project = Some(&how.quota_project).filter(|p| !p.is_empty()).unwrap_or(&given.quota_project).clone();
    let found = if how.credentials_file.is_empty() { "the metadata server" } else { &how.credentials_file };
    let mut steps = vec![step("credentials", format!("{found}: {}", given.principal))];
    if let Some((account, delegates)) = how.impersonate.split_last() {
        let acts = token::Acts { account, delegates, seconds: how.impersonation_seconds, scopes: asked };
        given.token = google.act(&given.token, &acts, &quota_project).await?;
        given.principal.clone_from(account);
        steps.push(step("account", account.clone()));
    }
    let project = Some(&how.project).filter(|p| !p.is_empty()).unwrap_or(&given.project).clone();
    let valid_until_ms = valid_until(given.token.expiry_ms)?;
    let target = GcpTarget {
        access_token: given.token.value,
        project,
        quota_project,
        principal: given.principal,
        endpoint_url: how.endpoint_url.clone(),
    };
    Ok(Resolved { target: Kind::Gcp(target), valid_until_ms, steps })
}
