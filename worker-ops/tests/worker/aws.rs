//! Operations on AWS: STS, EC2 and the Tagging API against moto; Cloud Control, throttling and refusals against a server that answers
//! with what AWS documents.

use anyhow::{Result, ensure};
use runner_tests::{Component, Moto, Suite};
use serde_json::{Value, json};
use shared_proto::documents::{ConnectionReport, Identity, Places, Resource, Resources};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{AwsTarget, ConnectionTest, GetResource, ListPlaces, ListResources, WhoAmI};

use crate::harness::operation;
use crate::server::{Asked, Server};

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[Component::Moto])
        .test("aws_identity_regions_and_tags", moto)
        .needs(&[])
        .test("cloud_control_lists_pages_and_filters", cloud_control)
        .test("aws_throttling_is_waited_out_and_told", throttling)
        .test("aws_refusals_keep_their_words", refusals)
        .test("aws_requests_that_cannot_be_made", impossible)
}

/// An account behind a stand-in.
pub(crate) fn target(url: &str) -> Target {
    Target::Aws(AwsTarget {
        access_key_id: "AKIAEXAMPLE".into(),
        secret_access_key: "s3cr3t-key".into(),
        session_token: "t0ken".into(),
        region: "eu-central-1".into(),
        endpoint_url: url.into(),
        expires_ms: 0,
    })
}

async fn moto() -> Result<()> {
    let moto = Moto::start().await?;
    let url = moto.url();
    let (account, arn) = moto.caller_identity().await?;
    let what = What::WhoAmI(WhoAmI::default());
    let identity: Identity = operation(what, target(&url)).await?.document()?;
    ensure!(identity.account == account && identity.principal == arn && !identity.id.is_empty(), "{identity:?}");
    let report: ConnectionReport =
        operation(What::ConnectionTest(ConnectionTest {}), target(&url)).await?.document()?;
    ensure!(report.provider == "aws" && report.identity == arn, "{report:?}");
    let regions: Places = operation(What::ListPlaces(ListPlaces::default()), target(&url)).await?.document()?;
    ensure!(regions.items.len() > 10 && regions.items.iter().any(|r| r.name == "eu-central-1"), "{regions:?}");
    for (name, team) in [("blue-1", "blue"), ("blue-2", "blue"), ("red-1", "red")] {
        moto.bucket(name, ("team", team)).await?;
    }
    let list = |tags: &[(&str, &str)], limit| {
        let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        What::ListResources(ListResources { types: vec!["tagged".into()], tags, limit, ..Default::default() })
    };
    let found: Resources = operation(list(&[("team", "blue")], 0), target(&url)).await?.document()?;
    let mut names: Vec<_> = found.items.iter().map(|r| r.id.as_str()).collect();
    names.sort_unstable();
    ensure!(names == ["arn:aws:s3:::blue-1", "arn:aws:s3:::blue-2"] && !found.truncated, "{found:?}");
    ensure!(
        found.items.iter().all(|r| r.type_name == "AWS::S3::Bucket" && r.tags.get("team").is_some_and(|t| t == "blue")),
        "{found:?}"
    );
    let given = operation(list(&[], 2), target(&url)).await?;
    let found: Resources = given.document()?;
    ensure!(found.items.len() == 2 && found.truncated && given.outcome.truncated, "{found:?} {:?}", given.outcome);
    Ok(())
}

fn description(name: &str, properties: &Value) -> Value {
    json!({"Identifier": name, "Properties": properties.to_string()})
}

async fn cloud_control() -> Result<()> {
    let server = Server::start(|asked, _| {
        let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        let answer = match (asked.header("x-amz-target"), body["NextToken"].as_str(), body["Identifier"].as_str()) {
            ("CloudApiService.ListResources", None, _) => json!({
                "TypeName": body["TypeName"], "NextToken": "two",
                "ResourceDescriptions": [description("a", &json!({"BucketName": "a"})), description("b", &json!({}))],
            }),
            ("CloudApiService.ListResources", Some("two"), _) => json!({
                "ResourceDescriptions": [description("c", &json!({"Tags": [{"Key": "env", "Value": "prod"}]}))],
            }),
            ("CloudApiService.GetResource", _, Some("a")) => {
                let properties = json!({"BucketName": "a", "Tags": [{"Key": "env", "Value": "prod"}]});
                json!({"TypeName": body["TypeName"], "ResourceDescription": description("a", &properties)})
            }
            ("CloudApiService.GetResource", _, Some("b")) => {
                json!({"ResourceDescription": description("b", &json!({}))})
            }
            _ => return (400, json!({"__type": "ResourceNotFoundException", "Message": "was not found"}).to_string()),
        };
        (200, answer.to_string())
    })
    .await?;
    let list = |tags: &[(&str, &str)], limit| ListResources {
        types: vec!["AWS::Glue::Job".into()],
        place: "us-gov-west-1".into(),
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        limit,
        ..Default::default()
    };
    let ask = |list| operation(What::ListResources(list), target(&server.url));
    let names = |found: &Resources| found.items.iter().map(|r| r.id.clone()).collect::<Vec<_>>();
    let found: Resources = ask(list(&[], 0)).await?.document()?;
    ensure!(names(&found) == ["a", "b", "c"] && !found.truncated, "{found:?}");
    ensure!(found.items.iter().all(|r| r.location == "us-gov-west-1" && r.type_name == "AWS::Glue::Job"));
    let found: Resources = ask(list(&[], 2)).await?.document()?;
    ensure!(names(&found) == ["a", "b"] && found.truncated, "{found:?}");
    let found: Resources = ask(list(&[("env", "prod")], 0)).await?.document()?;
    ensure!(names(&found) == ["a", "c"], "{found:?}");
    let get = |identifier: &str| {
        let get =
            GetResource { type_name: "AWS::S3::Bucket".into(), identifier: identifier.into(), ..Default::default() };
        operation(What::GetResource(get), target(&server.url))
    };
    let one: Resource = get("a").await?.document()?;
    ensure!(one.tags.get("env").is_some_and(|v| v == "prod"), "{one:?}");
    ensure!(one.properties.as_ref().is_some_and(|p| p["BucketName"] == "a"), "{one:?}");
    get("gone").await?.failed("target_not_found", "was not found")?;
    let first = &server.asked()[0];
    let authorization = first.header("authorization");
    ensure!(authorization.contains("/us-gov-west-1/cloudcontrolapi/aws4_request"), "{authorization}");
    ensure!(first.header("x-amz-security-token") == "t0ken" && !format!("{first:?}").contains("s3cr3t"), "{first:?}");
    ensure!(first.header("content-type") == "application/x-amz-json-1.0", "{first:?}");
    Ok(())
}

const IDENTITY: &str = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
    <Arn>arn:aws:iam::1:user/u</Arn><UserId>U</UserId><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";

fn refused(code: &str) -> String {
    format!("<ErrorResponse><Error><Code>{code}</Code><Message>in {code}'s words</Message></Error></ErrorResponse>")
}

async fn throttling() -> Result<()> {
    let whoami = || What::WhoAmI(WhoAmI::default());
    let server = Server::start(|_: &Asked, before| match before {
        0 => (400, refused("Throttling")),
        1 => (503, "busy".to_owned()),
        _ => (200, IDENTITY.to_owned()),
    })
    .await?;
    let identity: Identity = operation(whoami(), target(&server.url)).await?.document()?;
    ensure!(identity.principal == "arn:aws:iam::1:user/u" && server.asked().len() == 3, "{identity:?}");
    let server = Server::start(|_: &Asked, _| (400, refused("Throttling"))).await?;
    operation(whoami(), target(&server.url)).await?.failed("target_throttled", "in Throttling's words")?;
    ensure!(server.asked().len() == 5, "{} attempts", server.asked().len());
    Ok(())
}

async fn refusals() -> Result<()> {
    for (status, reason, code) in [
        (403, "AccessDenied", "target_forbidden"),
        (403, "ExpiredToken", "credentials_expired"),
        (403, "InvalidClientTokenId", "credentials_expired"),
        (403, "SignatureDoesNotMatch", "credentials_unavailable"),
        (400, "InvalidAction", "target_refused"),
    ] {
        let server = Server::start(move |_: &Asked, _| (status, refused(reason))).await?;
        let given = operation(What::WhoAmI(WhoAmI::default()), target(&server.url)).await?;
        given.failed(code, &format!("in {reason}'s words"))?;
        ensure!((given.outcome.target_status, given.outcome.target_reason.as_str()) == (u32::from(status), reason));
        ensure!(server.asked().len() == 1, "{reason} is not asked again");
    }
    Ok(())
}

async fn impossible() -> Result<()> {
    let nowhere = || target("http://127.0.0.1:9");
    for (what, words) in [
        (What::WhoAmI(WhoAmI { place: "x.evil.example/".into() }), "cannot be a region"),
        (
            What::ListResources(ListResources { types: vec!["Bucket".into()], ..Default::default() }),
            "no type of resource",
        ),
        (What::GetResource(GetResource { type_name: "AWS::S3::Bucket".into(), ..Default::default() }), "no identifier"),
    ] {
        operation(what, nowhere()).await?.failed("invalid_argument", words)?;
    }
    let homeless = AwsTarget { access_key_id: "a".into(), secret_access_key: "b".into(), ..Default::default() };
    let what = What::WhoAmI(WhoAmI::default());
    operation(what, Target::Aws(homeless)).await?.failed("invalid_argument", "no region")
}
