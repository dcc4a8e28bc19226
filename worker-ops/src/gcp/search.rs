//! Cloud Asset Inventory: resources of many types by one search.
//! <https://cloud.google.com/asset-inventory/docs/reference/rest/v1/TopLevel/searchAllResources>
//!
//! It must never be asked for a type that is not in the request: types are patterns there, so none is sent that is more than a name, and
//! what comes of another type is left out.

use serde_json::Value;
use shared_proto::documents::Resource;
use shared_proto::failure::Code;
use std::collections::{BTreeMap, BTreeSet};

use super::connect::Projects;
use super::shapes;
use crate::fault::Fault;
use crate::found::{Found, text, texts};

/// Pages of one search.
const PAGES_MAX: u32 = 1000;
/// What is told of each resource in a list.
const FIELDS: &str = "name,assetType,displayName,location,labels,createTime,state";

/// How far a search came.
pub(super) enum Searched {
    /// To its end, or to what is enough.
    All,
    /// Nowhere: these credentials may not, the API is not enabled, or it knows one of the types not.
    Closed(Fault),
}

/// Lists resources of these types, which are names.
pub(super) async fn list(
    projects: &mut Projects,
    types: &[&str],
    tags: &BTreeMap<&str, &str>,
    found: &mut Found<'_>,
) -> Result<Searched, Fault> {
    let project = projects.project()?.to_owned();
    let wanted: BTreeSet<&str> = types.iter().copied().collect();
    let terms = query(tags);
    let mut token = String::new();
    for page in 0..PAGES_MAX {
        let mut query = vec![("pageSize", "500"), ("readMask", FIELDS)];
        query.extend(types.iter().map(|t| ("assetTypes", *t)));
        query.extend([("query", terms.as_str()), ("pageToken", token.as_str())].iter().filter(|(_, v)| !v.is_empty()));
        let answer = match asked(projects, &project, &query).await {
            Ok(answer) => answer,
            Err(fault) if page == 0 && (fault.code() == Code::TargetForbidden || fault.status == 400) => {
                return Ok(Searched::Closed(fault));
            }
            // what was found before is there
            Err(fault) if page > 0 && fault.code() != Code::CredentialsExpired => {
                found.failed("", &fault);
                return Ok(Searched::All);
            }
            Err(fault) => return Err(fault),
        };
        let results = answer.get("results").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for result in results.iter().filter(|r| wanted.contains(text(r, "/assetType").as_str())) {
            if !found.add(&resource(result, &project)).await? {
                return Ok(Searched::All);
            }
        }
        token = text(&answer, "/nextPageToken");
        if token.is_empty() {
            return Ok(Searched::All);
        }
    }
    found.cut();
    Ok(Searched::All)
}

/// One resource with all that the inventory has of it; `None`: it has none of that type and name.
pub(super) async fn one(projects: &mut Projects, type_name: &str, id: &str) -> Result<Option<Resource>, Fault> {
    let project = projects.project()?.to_owned();
    let terms = format!("name={}", quoted(id));
    let query = [("pageSize", "10"), ("readMask", "*"), ("assetTypes", type_name), ("query", terms.as_str())];
    let answer = asked(projects, &project, &query).await?;
    let results = answer.get("results").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let same = |r: &&Value| text(r, "/name") == id && text(r, "/assetType") == type_name;
    Ok(results.iter().find(same).map(|result| Resource {
        // the resource as its own service has it, where the inventory has that
        properties: Some(result.pointer("/versionedResources/0/resource").unwrap_or(result).clone()),
        ..resource(result, &project)
    }))
}

async fn asked(projects: &mut Projects, project: &str, query: &[(&str, &str)]) -> Result<Value, Fault> {
    projects.get("cloudasset", &format!("/v1/projects/{project}:searchAllResources"), query).await
}

fn resource(result: &Value, project: &str) -> Resource {
    let id = text(result, "/name");
    let display = text(result, "/displayName");
    let resource = Resource {
        type_name: text(result, "/assetType"),
        // some are shown by their whole path
        name: shapes::last(if display.is_empty() { &id } else { &display }).to_owned(),
        location: text(result, "/location"),
        state: text(result, "/state"),
        tags: texts(result.get("labels")),
        created_at: Some(text(result, "/createTime")).filter(|t| !t.is_empty()),
        id,
        ..Default::default()
    };
    match shapes::find(&resource.type_name) {
        Some(shape) => shape.linked(resource, project),
        None => resource,
    }
}

/// Labels, as far as the language of queries can say them; the rest is looked at here. A text is not sent: the inventory looks for words,
/// and a text may stand within one. <https://cloud.google.com/asset-inventory/docs/query-syntax>
fn query(tags: &BTreeMap<&str, &str>) -> String {
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
    let term = |(key, value): (&&str, &&str)| match (*key, *value) {
        (key, _) if key.is_empty() || !plain(key) => None,
        (key, "") => Some(format!("labels.{key}:*")),
        (key, value) if plain(value) => Some(format!("labels.{key}={value}")),
        _ => None,
    };
    tags.iter().filter_map(term).collect::<Vec<_>>().join(" AND ")
}

/// A text as one of the language of queries.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_can_say() {
        let said = |tags: &[(&'static str, &'static str)]| query(&tags.iter().copied().collect());
        assert_eq!(said(&[]), "");
        assert_eq!(said(&[("env", "prod"), ("team", "")]), "labels.env=prod AND labels.team:*");
        // what is no label is looked at here, and is no part of the language
        assert_eq!(said(&[("env", "a OR b"), ("x) OR (y", "z"), ("ok", "1")]), "labels.ok=1");
        assert_eq!(quoted(r#"//x/"y\"#), r#""//x/\"y\\""#);
    }
}
