//! Resources: of a type of the table by its service's own calls, of any other through Cloud Control, of all types that have tags through the
//! Tagging API.

use futures_util::stream::{StreamExt as _, iter};
use serde_json::{Value, json};
use shared_proto::documents::Resource;
use shared_proto::failure::Code;
use shared_proto::v1::{GetResource, ListResources, Outcome};
use std::collections::BTreeMap;

use super::arn::Arn;
use super::connect::{Account, Asking, CLOUD_CONTROL, TAGGING, malformed};
use super::kinds;
use super::listing::{self, Kept, PAGES_MAX};
use super::tree;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::{Found, Wanted};
use crate::socket::Output;

/// Types that are listed at once: a place takes seconds, and no service sees a burst.
const TYPES_AT_ONCE: usize = 6;

/// Lists resources: in the order of the types, however they come.
pub(crate) async fn list(account: &Account, list: &ListResources, output: &mut Output) -> Result<Outcome, Fault> {
    let wanted = Wanted::of(list);
    let mut found = Found::new(list, output);
    let most = found.room();
    let one = |type_name: &'_ String| {
        let (type_name, mut kept) = (type_name.clone(), Kept::new(&wanted, most));
        async move {
            let listed = match (type_name.as_str(), kinds::find(&type_name)) {
                ("tagged", _) => by_tags(account, list, &mut kept).await,
                (_, Some(kind)) => listing::list(account, kind, list, &mut kept).await,
                (_, None) => by_type(account, &type_name, list, &mut kept).await,
            };
            (type_name, kept, listed)
        }
    };
    let mut listed = iter(&list.types).map(one).buffered(TYPES_AT_ONCE);
    while let Some((type_name, kept, ended)) = listed.next().await {
        let nothing = kept.items.is_empty();
        for resource in &kept.items {
            if !found.add(resource).await? {
                break;
            }
        }
        if kept.more {
            found.cut();
        }
        kept.faults.iter().for_each(|fault| found.failed(&type_name, fault));
        match ended {
            Ok(()) => {}
            // credentials that are good no more are so for every type
            Err(fault) if (found.is_alone() && nothing) || fault.code() == Code::CredentialsExpired => {
                return Err(fault);
            }
            Err(fault) => found.failed(&type_name, &fault),
        }
        if found.is_full() {
            break;
        }
    }
    drop(listed);
    found.end().await
}

/// One resource with its properties.
pub(crate) async fn get(account: &Account, request: &GetResource, output: &mut Output) -> Result<Outcome, Fault> {
    check_type(&request.type_name)?;
    if request.identifier.is_empty() {
        return Err(Fault::new(Code::InvalidArgument, "no identifier is given"));
    }
    let description = description(&mut account.ask(CLOUD_CONTROL)?, &request.type_name, &request.identifier).await?;
    let resource = resource(&request.type_name, account.region(), &description);
    Document::whole(output, &resource).await?;
    Ok(done())
}

async fn by_type(account: &Account, type_name: &str, list: &ListResources, kept: &mut Kept<'_>) -> Result<(), Fault> {
    check_type(type_name)?;
    let mut asking = account.ask(CLOUD_CONTROL)?;
    let mut token = String::new();
    for _ in 0..PAGES_MAX {
        let mut parameters = vec![("TypeName", json!(type_name)), ("MaxResults", json!(100))];
        if !token.is_empty() {
            parameters.push(("NextToken", json!(token)));
        }
        let page = asking.call("ListResources", "", parameters).await?;
        for description in tree::at(&page, "ResourceDescriptions") {
            let mut resource = resource(type_name, account.region(), description);
            // a list tells little more than identifiers; the resource itself tells its tags
            if !list.tags.is_empty() && resource.tags.is_empty() {
                match self::description(&mut asking, type_name, &resource.id).await {
                    Ok(description) => resource = self::resource(type_name, account.region(), &description),
                    // gone between the list and the look
                    Err(fault) if fault.code() == Code::TargetNotFound => continue,
                    Err(fault) => return Err(fault),
                }
            }
            resource.properties = None;
            if !kept.add(resource) {
                return Ok(());
            }
        }
        token = tree::text(&page, "NextToken");
        if token.is_empty() {
            return Ok(());
        }
    }
    kept.more = true;
    Ok(())
}

async fn by_tags(account: &Account, list: &ListResources, kept: &mut Kept<'_>) -> Result<(), Fault> {
    let filters: Vec<Value> = list
        .tags
        .iter()
        .map(|(key, value)| if value.is_empty() { json!({"Key": key}) } else { json!({"Key": key, "Values": [value]}) })
        .collect();
    let mut asking = account.ask(TAGGING)?;
    let mut token = String::new();
    for _ in 0..PAGES_MAX {
        let mut parameters = vec![("ResourcesPerPage", json!(100))];
        if !filters.is_empty() {
            parameters.push(("TagFilters", json!(filters)));
        }
        if !token.is_empty() {
            parameters.push(("PaginationToken", json!(token)));
        }
        let page = asking.call(kinds::TAGGED.operation, "", parameters).await?;
        for mapping in tree::at(&page, kinds::TAGGED.items) {
            let (id, tags) = (tree::text(mapping, "ResourceARN"), tree::tags(mapping, "Tags"));
            if !kept.add(Arn::parse(&id).resource(tags)) {
                return Ok(());
            }
        }
        token = tree::text(&page, kinds::TAGGED.next.1);
        if token.is_empty() {
            return Ok(());
        }
    }
    kept.more = true;
    Ok(())
}

async fn description(asking: &mut Asking<'_>, type_name: &str, identifier: &str) -> Result<Value, Fault> {
    let parameters = vec![("TypeName", json!(type_name)), ("Identifier", json!(identifier))];
    let mut answer = asking.call("GetResource", "", parameters).await?;
    match answer.get_mut("ResourceDescription").map(Value::take) {
        Some(description) => Ok(description),
        None => Err(malformed("cloudcontrolapi", "it has no description of the resource")),
    }
}

/// `AWS::Service::Resource`, or one of a third party.
fn check_type(type_name: &str) -> Result<(), Fault> {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric());
    if type_name.len() <= 196 && (3..=4).contains(&type_name.split("::").count()) && type_name.split("::").all(part) {
        return Ok(());
    }
    Err(Fault::new(Code::InvalidArgument, format!("{type_name:?} is no type of resource"))
        .next("Name one as Cloud Control does, such as AWS::S3::Bucket."))
}

fn resource(type_name: &str, region: &str, description: &Value) -> Resource {
    // properties travel as a text that holds JSON
    let properties = description
        .get("Properties")
        .and_then(Value::as_str)
        .map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())));
    let id = tree::text(description, "Identifier");
    Resource {
        type_name: type_name.to_owned(),
        name: Arn::parse(&id).last().to_owned(),
        location: region.to_owned(),
        tags: properties.as_ref().map_or_else(BTreeMap::new, |p| tree::tags(p, "Tags")),
        properties,
        id,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        assert!(check_type("AWS::S3::Bucket").is_ok() && check_type("AWS::ApiGateway::RestApi::MODULE").is_ok());
        for bad in ["", "S3", "AWS::S3", "AWS::S3::", "AWS::S3::Buck et", "AWS::S3::Bucket\"}", &"A::B::C".repeat(40)] {
            assert_eq!(check_type(bad).expect_err(bad).code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn properties_and_tags() {
        let described = json!({"Identifier": "b", "Properties": r#"{"Tags":[{"Key":"env","Value":"prod"}],"N":1}"#});
        let found = resource("AWS::S3::Bucket", "eu-west-1", &described);
        assert_eq!(found.tags.get("env").map(String::as_str), Some("prod"));
        assert_eq!(found.properties.expect("some")["N"], 1);
    }
}
