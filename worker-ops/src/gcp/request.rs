//! Who the connection's credentials are, and which projects they see.

use serde_json::Value;
use shared_proto::documents::{ConnectionReport, Identity, Place, Places};
use shared_proto::v1::Outcome;

use super::connect::Projects;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::text;
use crate::socket::Output;
use crate::steps::Steps;

/// Pages of one list: a service that gives empty pages for ever must not be read for ever.
const PAGES_MAX: u32 = 100;
/// Projects of one list.
const PROJECTS_MAX: usize = 10_000;
/// How the principal begins of a token that was exchanged and is no service account's.
const FEDERATED: &str = "//iam.googleapis.com/";

/// Reaches Google and says who the credentials are.
pub(super) async fn connection_test(
    projects: &mut Projects,
    mut steps: Steps,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let identity = told(projects).await;
    let identity = steps.identified("oauth2.googleapis.com", identity)?;
    let report = ConnectionReport {
        provider: "gcp".to_owned(),
        identity: identity.principal,
        version: None,
        steps: steps.into_inner(),
    };
    Document::whole(output, &report).await?;
    Ok(done())
}

/// Who Google says that the credentials are, once it has taken them.
async fn told(projects: &mut Projects) -> Result<Identity, Fault> {
    if projects.principal().starts_with(FEDERATED) {
        // whom tokeninfo does not know; that Google takes the token is what is tested
        projects.get("cloudresourcemanager", "/v3/projects:search", &[("pageSize", "1")]).await?;
    }
    identity(projects).await
}

/// The account and its unique id.
pub(super) async fn who_am_i(projects: &mut Projects, output: &mut Output) -> Result<Outcome, Fault> {
    let identity = identity(projects).await?;
    Document::whole(output, &identity).await?;
    Ok(done())
}

/// The projects that the credentials see.
/// <https://cloud.google.com/resource-manager/reference/rest/v3/projects/search>
pub(super) async fn list_projects(projects: &mut Projects, output: &mut Output) -> Result<Outcome, Fault> {
    let (mut items, mut token, mut pages) = (Vec::new(), String::new(), 0);
    let truncated = loop {
        let mut query = vec![("pageSize", "500")];
        if !token.is_empty() {
            query.push(("pageToken", &token));
        }
        let page = projects.get("cloudresourcemanager", "/v3/projects:search", &query).await?;
        let found = page.get("projects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        items.extend(found.iter().filter(|p| !text(p, "/projectId").is_empty()).map(|p| Place {
            name: text(p, "/projectId"),
            kind: "project".to_owned(),
            title: Some(text(p, "/displayName")).filter(|t| *t != text(p, "/projectId")).unwrap_or_default(),
            state: text(p, "/state"),
        }));
        token = text(&page, "/nextPageToken");
        pages += 1;
        if token.is_empty() || items.len() > PROJECTS_MAX || pages == PAGES_MAX {
            break !token.is_empty() || items.len() > PROJECTS_MAX;
        }
    };
    items.truncate(PROJECTS_MAX);
    let message = if truncated { format!("there are more than {} projects", items.len()) } else { String::new() };
    Document::whole(output, &Places { items }).await?;
    Ok(Outcome { truncated, message, ..done() })
}

/// By the token's own description: the address is in it where the token has the scope for it, else the source of the credentials has
/// said it. The token goes in a header, never in a URL.
async fn identity(projects: &mut Projects) -> Result<Identity, Fault> {
    let place = Some(projects.name().to_owned()).filter(|p| !p.is_empty());
    let known = projects.principal().to_owned();
    let identity = |principal: String, id: String| Identity {
        provider: "gcp".to_owned(),
        principal,
        id,
        account: String::new(),
        place: place.clone(),
    };
    if known.starts_with(FEDERATED) {
        // Google's security token service gave it for this very audience, and tokeninfo knows no token of its
        return Ok(identity(known, String::new()));
    }
    let info = projects.post("oauth2", "/tokeninfo", None).await?;
    let (address, sub, azp) = (text(&info, "/email"), text(&info, "/sub"), text(&info, "/azp"));
    let id = if sub.is_empty() { azp } else { sub };
    let principal = [address, known, id.clone()].into_iter().find(|p| !p.is_empty()).unwrap_or_default();
    Ok(identity(principal, id))
}
