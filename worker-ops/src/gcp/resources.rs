//! Resources: by one search of Cloud Asset Inventory where that may be, else type by type from the services themselves.

use serde_json::Value;
use shared_proto::documents::Resource;
use shared_proto::failure::Code;
use shared_proto::inventory::gcp::is_type;
use shared_proto::v1::{GetResource, ListResources, Outcome};
use std::collections::BTreeMap;

use super::connect::Projects;
use super::search::{self, Searched};
use super::shapes::{self, Paged, Shape};
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::{Found, text};
use crate::socket::Output;

/// Pages of one list: a service that gives empty pages for ever must not be read for ever.
const PAGES_MAX: u32 = 1000;
/// The places that are named of those that could not be asked.
const UNREACHABLE_SHOWN: usize = 8;

/// Lists resources.
pub(super) async fn list(projects: &mut Projects, list: &ListResources, output: &mut Output) -> Result<Outcome, Fault> {
    projects.project()?;
    let mut found = Found::new(list, output);
    let (mut types, mut closed) = (Vec::new(), None);
    for asked in &list.types {
        match shapes::find(asked) {
            Some(shape) => types.push(shape.type_name),
            None if is_type(asked) => types.push(asked.as_str()),
            None if found.is_alone() => return Err(no_type(asked)),
            None => found.failed(asked, &no_type(asked)),
        }
    }
    if list.search && !types.is_empty() {
        let tags: BTreeMap<&str, &str> = list.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        match search::list(projects, &types, &tags, &mut found).await? {
            Searched::All => return found.end().await,
            Searched::Closed(fault) => closed = Some(fault),
        }
    }
    for type_name in types {
        let listed = match shapes::find(type_name) {
            Some(shape) => by_type(projects, shape, &mut found).await,
            None => Err(by_search_only(type_name, closed.as_ref())),
        };
        match listed {
            Ok(()) => {}
            Err(fault) if found.is_alone() => return Err(fault),
            // these credentials are good for nothing any more
            Err(fault) if fault.code() == Code::CredentialsExpired => return Err(fault),
            Err(fault) => found.failed(type_name, &fault),
        }
        if found.is_full() {
            break;
        }
    }
    found.end().await
}

/// One resource with its properties: by its own service's get; of a type that is in no table by a search of Cloud Asset Inventory.
pub(super) async fn get(projects: &mut Projects, request: &GetResource, output: &mut Output) -> Result<Outcome, Fault> {
    let wrong = |what: String| {
        Fault::new(Code::InvalidArgument, what)
            .next("Name it by its full resource name, as a list does: //SERVICE.googleapis.com/projects/….")
    };
    let id = request.identifier.as_str();
    let Some(shape) = shapes::find(&request.type_name) else {
        if !is_type(&request.type_name) {
            return Err(no_type(&request.type_name));
        }
        if !id.starts_with("//") {
            return Err(wrong(format!("{id:?} is no resource's name")));
        }
        let gone =
            || Fault::new(Code::TargetNotFound, format!("Cloud Asset Inventory has no {} {id}", request.type_name));
        let resource = search::one(projects, &request.type_name, id).await?.ok_or_else(gone)?;
        Document::whole(output, &resource).await?;
        return Ok(done());
    };
    let path = shape.get_path(id).ok_or_else(|| wrong(format!("{id:?} is no {}", shape.type_name)))?;
    let document = projects.get(shape.service, &path, &[]).await?;
    let project = id.split('/').skip_while(|s| *s != "projects").nth(1).unwrap_or_else(|| projects.name()).to_owned();
    let told = shape.resource(&document, &project).unwrap_or_else(|| Resource {
        type_name: shape.type_name.to_owned(),
        name: shapes::last(id).to_owned(),
        ..Default::default()
    });
    Document::whole(output, &Resource { id: id.to_owned(), properties: Some(document), ..told }).await?;
    Ok(done())
}

async fn by_type(projects: &mut Projects, shape: &Shape, found: &mut Found<'_>) -> Result<(), Fault> {
    let project = projects.project()?.to_owned();
    let path = shape.list_path(&project);
    let mut token = String::new();
    let mut unreachable: Vec<String> = Vec::new();
    for _ in 0..PAGES_MAX {
        let mut query = shape.query.to_vec();
        if shape.service == "storage" {
            query.push(("project", &project));
        }
        if !token.is_empty() {
            query.push((if shape.paged == Paged::Continue { "continue" } else { "pageToken" }, &token));
        }
        let page = projects.get(shape.service, &path, &query).await?;
        for document in documents(shape, &page) {
            let Some(resource) = shape.resource(document, &project) else { continue };
            if !found.add(&resource).await? {
                return Ok(());
            }
        }
        not_reached(&page, &mut unreachable);
        token = match shape.paged {
            Paged::Continue => text(&page, "/metadata/continue"),
            Paged::Token | Paged::Aggregated => text(&page, "/nextPageToken"),
        };
        if token.is_empty() {
            break;
        }
    }
    if !token.is_empty() {
        found.cut();
    }
    if !unreachable.is_empty() {
        let shown: Vec<_> = unreachable.iter().take(UNREACHABLE_SHOWN).map(String::as_str).collect();
        let message = format!(
            "{}: {} places could not be asked, among them {}",
            shape.service,
            unreachable.len(),
            shown.join(", ")
        );
        found.failed(shape.type_name, &Fault::new(Code::TargetFailed, message));
    }
    Ok(())
}

/// The documents of a page.
fn documents<'a>(shape: &Shape, page: &'a Value) -> Vec<&'a Value> {
    let array = |of: &'a Value| of.get(shape.items).and_then(Value::as_array).into_iter().flatten();
    match shape.paged {
        Paged::Aggregated => {
            page.get("items").and_then(Value::as_object).into_iter().flatten().flat_map(|(_, of)| array(of)).collect()
        }
        Paged::Token | Paged::Continue => array(page).collect(),
    }
}

/// The places that a service says it could not ask, in whichever of the ways in which services say it.
fn not_reached(page: &Value, into: &mut Vec<String>) {
    let names = ["unreachable", "unreachables", "missingZones"];
    let named = names.iter().filter_map(|n| page.get(n)?.as_array()).flatten().filter_map(Value::as_str);
    let by_place = page.get("items").and_then(Value::as_object).into_iter().flatten();
    let warned = by_place.filter(|(_, of)| text(of, "/warning/code") == "UNREACHABLE").map(|(place, _)| place.as_str());
    for place in named.chain(warned) {
        if into.len() < usize::from(u8::MAX) && !into.iter().any(|p| p == place) {
            into.push(place.to_owned());
        }
    }
}

fn no_type(type_name: &str) -> Fault {
    Fault::new(Code::InvalidArgument, format!("{type_name:?} is no type of resource"))
        .next("Name one as Cloud Asset Inventory does, such as compute.googleapis.com/Instance.")
}

/// A type that only the inventory lists.
fn by_search_only(type_name: &str, closed: Option<&Fault>) -> Fault {
    match closed {
        Some(fault) => fault.clone(),
        None => Fault::new(
            Code::PolicyDenied,
            format!(
                "{type_name} is listed by Cloud Asset Inventory alone, and the runner's own policy denies to search it"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_could_not_be_asked_is_told_once() {
        let mut places = Vec::new();
        not_reached(
            &json!({"unreachable": ["a", 1], "missingZones": ["b"], "items": {
                "zones/c": {"warning": {"code": "UNREACHABLE"}}, "zones/d": {"warning": {"code": "NO_RESULTS_ON_PAGE"}},
            }}),
            &mut places,
        );
        not_reached(&json!({"unreachables": ["a"], "items": []}), &mut places);
        assert_eq!(places, ["a", "b", "zones/c"]);
    }
}
