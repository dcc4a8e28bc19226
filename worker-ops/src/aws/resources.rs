//! Resources: of one type through Cloud Control, of all types that have tags through the Tagging API.

use serde_json::{Value, json};
use shared_proto::documents::Resource;
use shared_proto::failure::Code;
use shared_proto::v1::{GetResource, ListResources, Outcome};
use std::collections::BTreeMap;

use super::connect::{Account, Service};
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::Found;
use crate::socket::Output;

/// Pages of one list: a service that gives empty pages for ever must not be read for ever.
const PAGES_MAX: u32 = 1000;

/// Lists resources.
pub(crate) async fn list(account: &mut Account, list: &ListResources, output: &mut Output) -> Result<Outcome, Fault> {
    let mut found = Found::new(list, output);
    for type_name in &list.types {
        let listed = match type_name.as_str() {
            "tagged" => by_tags(account, list, &mut found).await,
            _ => by_type(account, type_name, list, &mut found).await,
        };
        match listed {
            Ok(()) => {}
            // one that is asked for alone has failed as a whole
            Err(fault) if list.types.len() == 1 && list.refused.is_empty() => return Err(fault),
            Err(fault) => found.failed(type_name, &fault),
        }
        if found.is_full() {
            break;
        }
    }
    found.end().await
}

/// One resource with its properties.
pub(crate) async fn get(account: &mut Account, request: &GetResource, output: &mut Output) -> Result<Outcome, Fault> {
    check_type(&request.type_name)?;
    if request.identifier.is_empty() {
        return Err(Fault::new(Code::InvalidArgument, "no identifier is given"));
    }
    let description = description(account, &request.type_name, &request.identifier).await?;
    let resource = resource(&request.type_name, account.region(), &description);
    Document::whole(output, &resource).await?;
    Ok(done())
}

async fn by_type(
    account: &mut Account,
    type_name: &str,
    list: &ListResources,
    found: &mut Found<'_>,
) -> Result<(), Fault> {
    check_type(type_name)?;
    let mut token: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut body = json!({"TypeName": type_name, "MaxResults": 100});
        if let Some(token) = &token {
            body["NextToken"] = json!(token);
        }
        let page = account.json(Service::CloudControl, "CloudApiService.ListResources", &body).await?;
        for description in array(&page, "ResourceDescriptions") {
            let mut resource = resource(type_name, account.region(), description);
            // a list tells little more than identifiers; the resource itself tells its tags
            if !list.tags.is_empty() && tags_of(resource.properties.as_ref()).is_none() {
                match self::description(account, type_name, &resource.id).await {
                    Ok(description) => resource = self::resource(type_name, account.region(), &description),
                    // gone between the list and the look
                    Err(fault) if fault.code() == Code::TargetNotFound => continue,
                    Err(fault) => return Err(fault),
                }
            }
            resource.properties = None;
            if !found.add(&resource).await? {
                return Ok(());
            }
        }
        token = next(&page, "NextToken");
        if token.is_none() {
            return Ok(());
        }
    }
    found.cut();
    Ok(())
}

async fn by_tags(account: &mut Account, list: &ListResources, found: &mut Found<'_>) -> Result<(), Fault> {
    let filters: Vec<Value> = list
        .tags
        .iter()
        .map(|(key, value)| if value.is_empty() { json!({"Key": key}) } else { json!({"Key": key, "Values": [value]}) })
        .collect();
    let mut token: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut body = json!({"ResourcesPerPage": 100});
        if !filters.is_empty() {
            body["TagFilters"] = json!(filters);
        }
        if let Some(token) = &token {
            body["PaginationToken"] = json!(token);
        }
        let target = "ResourceGroupsTaggingAPI_20170126.GetResources";
        let page = account.json(Service::Tagging, target, &body).await?;
        for mapping in array(&page, "ResourceTagMappingList") {
            let arn = mapping.get("ResourceARN").and_then(Value::as_str).unwrap_or_default();
            let resource = Resource {
                type_name: arn_type(arn),
                id: arn.to_owned(),
                name: arn_name(arn).to_owned(),
                location: arn_region(arn).unwrap_or_default().to_owned(),
                tags: tags_of(Some(mapping)).unwrap_or_default(),
                ..Default::default()
            };
            if !found.add(&resource).await? {
                return Ok(());
            }
        }
        token = next(&page, "PaginationToken");
        if token.is_none() {
            return Ok(());
        }
    }
    found.cut();
    Ok(())
}

async fn description(account: &mut Account, type_name: &str, identifier: &str) -> Result<Value, Fault> {
    let body = json!({"TypeName": type_name, "Identifier": identifier});
    let mut answer = account.json(Service::CloudControl, "CloudApiService.GetResource", &body).await?;
    match answer.get_mut("ResourceDescription").map(Value::take) {
        Some(description) => Ok(description),
        None => Err(Fault::new(Code::TargetFailed, "cloudcontrolapi: an answer has no description of the resource")),
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
    let id = description.get("Identifier").and_then(Value::as_str).unwrap_or_default();
    Resource {
        type_name: type_name.to_owned(),
        id: id.to_owned(),
        name: arn_name(id).to_owned(),
        location: region.to_owned(),
        tags: tags_of(properties.as_ref()).unwrap_or_default(),
        properties,
        ..Default::default()
    }
}

/// Tags, in either of the two forms in which services write them; `None` where there are none to be seen.
fn tags_of(value: Option<&Value>) -> Option<BTreeMap<String, String>> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    match value?.get("Tags")? {
        Value::Array(list) => {
            Some(list.iter().filter_map(|t| Some((text(t.get("Key")?)?, text(t.get("Value")?)?))).collect())
        }
        Value::Object(map) => Some(map.iter().filter_map(|(k, v)| Some((k.clone(), text(v)?))).collect()),
        _ => None,
    }
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
fn next(page: &Value, name: &str) -> Option<String> {
    page.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned)
}

/// What an ARN (`arn:partition:service:region:account:resource`) says of the type: the service, and the kind where the resource names it.
fn arn_type(arn: &str) -> String {
    let mut parts = arn.splitn(6, ':').skip(2);
    let service = parts.next().unwrap_or_default();
    let resource = parts.nth(2).unwrap_or_default();
    // S3's resources are buckets and have no kind before them
    match resource.split_once(['/', ':']) {
        Some((kind, _)) if service != "s3" && !kind.is_empty() => format!("{service}:{kind}"),
        _ => service.to_owned(),
    }
}
/// What stands last in it; of what is no ARN: all of it.
fn arn_name(arn: &str) -> &str {
    if arn.starts_with("arn:") { arn.rsplit(['/', ':']).next().unwrap_or_default() } else { arn }
}
fn arn_region(arn: &str) -> Option<&str> {
    arn.split(':').nth(3).filter(|r| !r.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_arn_says() {
        for (arn, kind, region) in [
            ("arn:aws:s3:::bucket", "s3", None),
            ("arn:aws:ec2:eu-west-1:1:instance/i-1", "ec2:instance", Some("eu-west-1")),
            ("arn:aws:rds:eu-west-1:1:db:x", "rds:db", Some("eu-west-1")),
            ("arn:aws:sqs:eu-west-1:1:queue", "sqs", Some("eu-west-1")),
            ("nonsense", "", None),
        ] {
            assert_eq!((arn_type(arn).as_str(), arn_region(arn)), (kind, region), "{arn}");
        }
    }

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
        assert_eq!(tags_of(Some(&json!({"Tags": {"a": "b"}}))).expect("some").len(), 1);
        assert!(tags_of(Some(&json!({}))).is_none());
    }
}
