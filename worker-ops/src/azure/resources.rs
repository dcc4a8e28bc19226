//! Resources of one subscription: by Resource Graph, or where that cannot be asked by Resource Manager's own list, type by type.

use serde_json::{Value, json};
use shared_proto::documents::Resource;
use shared_proto::failure::Code;
use shared_proto::v1::{GetResource, ListResources, Outcome};

use super::connect::{Account, PAGES_MAX};
use super::id::{GROUPS, Id, among, check_type};
use super::versions::{self, GRAPH, MANAGER};
use super::{errors, graph};
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::{Found, text, texts};
use crate::net::url;
use crate::socket::Output;

/// As many as Resource Graph gives at once.
const PAGE: u32 = 1000;

/// Lists resources.
pub(super) async fn list(account: &mut Account, list: &ListResources, output: &mut Output) -> Result<Outcome, Fault> {
    let subscription = account.subscription()?.to_owned();
    let mut found = Found::new(list, output);
    let (mut groups, mut others) = (Vec::new(), Vec::new());
    for type_name in &list.types {
        match check_type(type_name) {
            Ok(()) if type_name.eq_ignore_ascii_case(GROUPS) => groups.push(type_name.clone()),
            Ok(()) => others.push(type_name.clone()),
            Err(fault) if found.is_alone() => return Err(fault),
            Err(fault) => found.failed(type_name, &fault),
        }
    }
    let mut first = true;
    for (table, types) in [("resources", others), ("resourcecontainers", groups)] {
        if types.is_empty() || found.is_full() {
            continue;
        }
        let listed = match by_graph(account, &subscription, table, &types, list, &mut found).await {
            Err(fault) if errors::is_without_graph(&fault) => {
                one_by_one(account, &subscription, &types, &mut found).await
            }
            listed => listed,
        };
        match listed {
            Ok(()) => {}
            Err(fault) if first => return Err(fault),
            Err(fault) => types.iter().for_each(|t| found.failed(t, &fault)),
        }
        first = false;
    }
    found.end().await
}

/// <https://learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources>. Only the first page fails as a whole.
async fn by_graph(
    account: &mut Account,
    subscription: &str,
    table: &str,
    types: &[String],
    list: &ListResources,
    found: &mut Found<'_>,
) -> Result<(), Fault> {
    let target = format!("/providers/Microsoft.ResourceGraph/resources?api-version={GRAPH}");
    let query = graph::query(table, types, list);
    let mut token: Option<String> = None;
    for page in 0..PAGES_MAX {
        let mut options = json!({"resultFormat": "objectArray", "$top": PAGE});
        if let Some(token) = &token {
            options["$skipToken"] = json!(token);
        }
        let body = json!({"subscriptions": [subscription], "query": query, "options": options});
        let answer = match account.post(&target, &body).await {
            Ok(answer) => answer,
            Err(fault) if page == 0 => return Err(fault),
            Err(fault) => {
                types.iter().for_each(|t| found.failed(t, &fault));
                return Ok(());
            }
        };
        let Some(data) = answer["data"].as_array() else {
            return Err(Fault::new(Code::TargetRefused, "Azure Resource Graph: an answer has no data"));
        };
        for row in data {
            let state = text(row, "/state");
            if let Some(resource) = resource(account, types, row, state, &text(row, "/created"))
                && !found.add(&resource).await?
            {
                return Ok(());
            }
        }
        token = answer["$skipToken"].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        if token.is_none() {
            // a text, as documented
            if answer["resultTruncated"] == "true" || answer["resultTruncated"] == true {
                found.cut();
            }
            return Ok(());
        }
    }
    found.cut();
    Ok(())
}

/// Resource Manager's own lists: what is refused for the first type is so for all of them.
async fn one_by_one(
    account: &mut Account,
    subscription: &str,
    types: &[String],
    found: &mut Found<'_>,
) -> Result<(), Fault> {
    for (at, type_name) in types.iter().enumerate() {
        match of_type(account, subscription, type_name, found).await {
            Ok(()) => {}
            Err(fault) if at == 0 => return Err(fault),
            Err(fault) => found.failed(type_name, &fault),
        }
        if found.is_full() {
            break;
        }
    }
    Ok(())
}

/// <https://learn.microsoft.com/rest/api/resources/resources/list>, <https://learn.microsoft.com/rest/api/resources/resource-groups/list>
async fn of_type(
    account: &mut Account,
    subscription: &str,
    type_name: &str,
    found: &mut Found<'_>,
) -> Result<(), Fault> {
    let groups = type_name.eq_ignore_ascii_case(GROUPS);
    let mut target = if groups {
        format!("/subscriptions/{subscription}/resourcegroups?api-version={MANAGER}")
    } else {
        let filter = format!("resourceType eq '{type_name}'");
        let query = url::form([
            ("$filter", filter.as_str()),
            ("$expand", "createdTime,provisioningState"),
            ("api-version", MANAGER),
        ]);
        format!("/subscriptions/{subscription}/resources?{query}")
    };
    let types = [type_name.to_owned()];
    for _ in 0..PAGES_MAX {
        let (items, next) = account.page(&target).await?;
        for mut item in items {
            if groups {
                // there it has a shorter name than where it is asked for
                item["type"] = json!(GROUPS);
            }
            let state = text(&item, if groups { "/properties/provisioningState" } else { "/provisioningState" });
            if let Some(resource) = resource(account, &types, &item, state, &text(&item, "/createdTime"))
                && !found.add(&resource).await?
            {
                return Ok(());
            }
        }
        match next {
            Some(next) => target = next,
            None => return Ok(()),
        }
    }
    found.cut();
    Ok(())
}

/// One resource with its properties. The rules were asked about its type: an id of another is refused.
pub(super) async fn get(account: &mut Account, get: &GetResource, output: &mut Output) -> Result<Outcome, Fault> {
    check_type(&get.type_name)?;
    let id = Id::parse(&get.identifier)?;
    let other = |what: String| Fault::new(Code::InvalidArgument, format!("{}: {what}", get.identifier));
    if !id.type_name.eq_ignore_ascii_case(&get.type_name) {
        return Err(other(format!("it is of the type {}, and {} is asked for", id.type_name, get.type_name))
            .next("Name the type that the id has."));
    }
    if let Some(place) = account.place()
        && !place.eq_ignore_ascii_case(id.subscription)
    {
        return Err(other(format!("it is not in the subscription {place}")).next("Name its subscription as the place."));
    }
    let version = versions::of(account, id.subscription, &get.type_name).await?;
    let answer = account.get(&format!("{}?api-version={version}", id.path())).await?;
    let first = |pointers: &[&str]| {
        pointers.iter().map(|p| text(&answer, p)).find(|found| !found.is_empty()).unwrap_or_default()
    };
    let state = first(&["/properties/provisioningState", "/properties/state", "/properties/status"]);
    let created = first(&[
        "/properties/timeCreated",
        "/properties/creationTime",
        "/properties/createdAt",
        "/properties/creationDate",
        "/properties/createdDate",
        "/systemData/createdAt",
    ]);
    let types = [get.type_name.clone()];
    let mut named = answer.clone();
    named["type"] = json!(get.type_name);
    let mut resource = resource(account, &types, &named, state, &created)
        .ok_or_else(|| Fault::new(Code::TargetRefused, "Azure: an answer is no resource"))?;
    resource.properties = Some(answer);
    Document::whole(output, &resource).await?;
    Ok(done())
}

/// `None`: it is of a type that was not asked for, or has no id.
fn resource(account: &Account, types: &[String], row: &Value, state: String, created: &str) -> Option<Resource> {
    let id = text(row, "/id");
    let type_name = among(types, row["type"].as_str()?)?;
    (!id.is_empty()).then(|| Resource {
        type_name: type_name.to_owned(),
        name: text(row, "/name"),
        location: text(row, "/location"),
        state,
        tags: texts(row.get("tags")),
        created_at: moment(created),
        link: account.link(&id),
        id,
        ..Default::default()
    })
}

/// RFC 3339; of some types it is told in another way, which nobody needs to guess at.
fn moment(text: &str) -> Option<String> {
    let at: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    Some(at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment("2024-05-01T10:00:00.1234567+00:00").as_deref(), Some("2024-05-01T10:00:00.1234567Z"));
        assert_eq!((moment(""), moment("Wed, 1 May 2024 10:00:00 GMT")), (None, None));
    }
}
