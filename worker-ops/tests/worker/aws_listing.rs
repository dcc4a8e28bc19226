//! What is listed of an account: what boto3's plain calls say of what stands in moto must be what the worker says; paging, refusals and the
//! shape of requests against a server that answers with what AWS documents.

use anyhow::{Context as _, Result, ensure};
use runner_tests::{Component, Moto, Suite, tools};
use serde_json::{Value, json};
use shared_proto::documents::{Resource, Resources};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{ListResources, TypeRefused};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::aws::target;
use crate::harness::operation;
use crate::server::{Asked, Server};

const REPOSITORY: &str = "AWS::ECR::Repository";
/// What the script may take.
const SCRIPT: Duration = Duration::from_secs(300);

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[Component::Moto, Component::AwsClients])
        .test("aws_lists_what_boto3_lists", as_boto3)
        .needs(&[])
        .test("aws_pages_are_followed_to_their_end", pages)
        .test("aws_a_type_that_is_refused_is_no_end_of_a_list", partial)
        .test("aws_buckets_of_other_regions_are_left_out", buckets)
        .test("aws_expired_credentials_end_a_list", expired)
}

fn list(types: &[&str], tags: &[(&str, &str)]) -> ListResources {
    ListResources {
        types: types.iter().map(|t| (*t).to_owned()).collect(),
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    }
}

fn all_types() -> Vec<&'static str> {
    shared_proto::inventory::all("aws", false).iter().map(|t| t.name).collect()
}

async fn listed(list: ListResources, url: &str) -> Result<Resources> {
    operation(What::ListResources(list), target(url)).await?.document()
}

/// What boto3 makes in moto, and what it says of it.
async fn made(moto: &Moto, more: u32) -> Result<BTreeMap<String, Vec<Value>>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/worker/aws_made.py");
    let mut command = tokio::process::Command::new(tools::folder().join("moto/bin/python3"));
    command
        .args([script, &more.to_string()])
        .env_clear()
        .env("AWS_ENDPOINT_URL", moto.url())
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "s3cr3t-key")
        .env("AWS_DEFAULT_REGION", "eu-central-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        // a client that asks another endpoint all the same must not leave the machine
        .env("HTTPS_PROXY", "http://127.0.0.1:9")
        .kill_on_drop(true);
    let ended = tokio::time::timeout(SCRIPT, command.output()).await.context("boto3 in time")??;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(serde_json::from_slice(&ended.stdout)?)
}

/// As the script says it.
fn shown(resource: &Resource, tags: bool) -> Value {
    let identifier = if resource.identifier.is_empty() { &resource.id } else { &resource.identifier };
    let tags = if tags { json!(resource.tags) } else { json!({}) };
    json!({"id": resource.id, "name": resource.name, "tags": tags, "state": resource.state, "identifier": identifier})
}

fn sorted(items: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut all: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    all.sort();
    all
}

async fn as_boto3() -> Result<()> {
    let moto = Moto::start().await?;
    let url = moto.url();
    let made = made(&moto, 7).await?;
    let types = all_types();
    ensure!(made.keys().map(String::as_str).collect::<BTreeSet<_>>() == types.iter().copied().collect(), "{made:?}");
    let began = Instant::now();
    let found = listed(list(&types, &[]), &url).await?;
    ensure!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    ensure!(found.failures.is_empty() && !found.truncated, "{:?}", found.failures);
    for (type_name, expected) in &made {
        // in a list that asks for no tags, these are not asked for
        // them one by one; and moto's Tagging API knows no repositories
        let tags =
            !["AWS::IAM::Role", "AWS::IAM::User", "AWS::Route53::HostedZone", REPOSITORY].contains(&type_name.as_str());
        let got = found.items.iter().filter(|r| r.type_name == *type_name);
        let expected = expected.iter().cloned().map(|mut item| {
            if !tags {
                item["tags"] = json!({});
            }
            item
        });
        let (got, expected) = (sorted(got.map(|r| shown(r, true))), sorted(expected));
        ensure!(got == expected, "{type_name}: {got:#?}\nboto3: {expected:#?}");
    }
    for resource in &found.items {
        let console = "https://console.aws.amazon.com/";
        ensure!(resource.link.starts_with(console) && !resource.link.contains(['{', '}']), "{resource:?}");
        let global = ["iam", "route53"].iter().any(|s| resource.id.starts_with(&format!("arn:aws:{s}:")));
        ensure!(resource.location == if global { "" } else { "eu-central-1" }, "{resource:?}");
        if let Some(at) = &resource.created_at {
            ensure!(at.starts_with("20") && at.contains('T'), "{resource:?}");
        }
        ensure!(!serde_json::to_string(resource)?.contains("s3cr3t"), "{resource:?}");
    }
    let dated: BTreeSet<_> =
        found.items.iter().filter(|r| r.created_at.is_some()).map(|r| r.type_name.as_str()).collect();
    // of a service of ECS moto tells no time, of the others AWS does not
    ensure!(dated.len() == 12, "{dated:?}");

    // by tags and by type: whatever has it
    let blue = listed(list(&types, &[("team", "blue")]), &url).await?;
    let expected = made.iter().filter(|(type_name, _)| *type_name != REPOSITORY).flat_map(|(_, items)| items);
    let expected: BTreeSet<_> =
        expected.filter(|item| item["tags"]["team"] == "blue").map(|item| item["id"].to_string()).collect();
    let got: BTreeSet<_> = blue.items.iter().map(|r| json!(r.id).to_string()).collect();
    ensure!(got == expected && blue.failures.is_empty(), "{:?}\n{:?}", expected.difference(&got), blue.failures);
    ensure!(blue.items.iter().all(|r| r.tags.get("team").is_some_and(|t| t == "blue")));

    // in another region than home there is nothing of what is in none, nor of what is elsewhere
    let elsewhere = ListResources { place: "us-west-2".into(), ..list(&["AWS::IAM::Role", "AWS::S3::Bucket"], &[]) };
    let found = listed(elsewhere, &url).await?;
    ensure!(found.items.iter().map(|r| r.name.as_str()).collect::<Vec<_>>() == ["elsewhere"], "{found:?}");
    let home = ListResources { place: "us-east-1".into(), ..list(&["AWS::IAM::Role"], &[]) };
    ensure!(listed(home, &url).await?.items.len() == 1);

    // whatever has tags: of the types of the table it is called as there, and is known by the same
    let tagged = listed(list(&["tagged"], &[("team", "blue")]), &url).await?;
    let by_id: BTreeMap<_, _> = blue.items.iter().map(|r| (r.id.as_str(), r)).collect();
    ensure!(tagged.items.len() > 20, "{tagged:?}");
    for resource in &tagged.items {
        let Some(same) = by_id.get(resource.id.as_str()) else { continue };
        // what these are called is not in their ARNs
        let named = !["AWS::EC2::SecurityGroup", "AWS::Route53::HostedZone"].contains(&&*same.type_name);
        ensure!(resource.type_name == same.type_name, "{resource:?} {same:?}");
        ensure!(resource.name == same.name || !named, "{resource:?} {same:?}");
        ensure!(
            resource.identifier == same.identifier
                || ["AWS::SQS::Queue", "AWS::ECS::Service"].contains(&&*same.type_name),
            "{resource:?} {same:?}"
        );
    }
    Ok(())
}

fn form(asked: &Asked, name: &str) -> String {
    let pair = asked.body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    pair.unwrap_or_default().to_owned()
}

async fn pages() -> Result<()> {
    let server = Server::start(|asked, _| {
        let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        let target = asked.header("x-amz-target");
        let zone = |id: &str| format!("<HostedZone><Id>/hostedzone/{id}</Id><Name>{id}.test.</Name></HostedZone>");
        let answer = match (target, body["ExclusiveStartTableName"].as_str()) {
            ("DynamoDB_20120810.ListTables", None) => {
                json!({"TableNames": ["a", "123"], "LastEvaluatedTableName": "123"}).to_string()
            }
            ("DynamoDB_20120810.ListTables", Some("123")) => json!({"TableNames": ["c"]}).to_string(),
            ("DynamoDB_20120810.DescribeTable", _) => {
                let name = &body["TableName"];
                if name == "c" {
                    // gone between the list and the look
                    return (400, json!({"__type": "x#ResourceNotFoundException", "message": "no"}).to_string());
                }
                let arn = format!("arn:aws:dynamodb:eu-central-1:1:table/{}", name.as_str().unwrap_or("?"));
                json!({"Table": {"TableName": name, "TableArn": arn, "CreationDateTime": 1_767_323_045.25}}).to_string()
            }
            ("ResourceGroupsTaggingAPI_20170126.GetResources", _) if body["PaginationToken"] == "more" => {
                let arn = "arn:aws:dynamodb:eu-central-1:1:table/123";
                json!({"PaginationToken": "", "ResourceTagMappingList":
                    [{"ResourceARN": arn, "Tags": [{"Key": "k", "Value": "v"}]}]})
                .to_string()
            }
            ("ResourceGroupsTaggingAPI_20170126.GetResources", _) => {
                json!({"PaginationToken": "more", "ResourceTagMappingList": []}).to_string()
            }
            _ if asked.line.starts_with("GET /2013-04-01/hostedzone?maxitems=100&marker=Z2 ") => {
                format!("<R><HostedZones>{}</HostedZones></R>", zone("Z2"))
            }
            _ if asked.line.starts_with("GET /2013-04-01/hostedzone?maxitems=100 ") => {
                format!("<R><HostedZones>{}</HostedZones><NextMarker>Z2</NextMarker></R>", zone("Z1"))
            }
            _ if form(asked, "Action") == "ListRoles" && form(asked, "Marker") == "m%2F1" => {
                "<R><ListRolesResult><Roles><member><Arn>arn:aws:iam::1:role/b</Arn><RoleName>b</RoleName></member></Roles>\
                 </ListRolesResult></R>"
                    .to_owned()
            }
            _ if form(asked, "Action") == "ListRoles" => "<R><ListRolesResult><Roles><member><Arn>arn:aws:iam::1:role/a</Arn>\
                <RoleName>a</RoleName><CreateDate>2026-01-02T03:04:05Z</CreateDate></member></Roles><Marker>m/1</Marker>\
                </ListRolesResult></R>"
                .to_owned(),
            _ => return (400, json!({"__type": "UnknownOperationException", "message": asked.line}).to_string()),
        };
        (200, answer)
    })
    .await?;
    let found =
        listed(list(&["AWS::DynamoDB::Table", "aws::route53::hostedzone", "AWS::IAM::Role"], &[]), &server.url).await?;
    let names: Vec<_> = found.items.iter().map(|r| r.name.as_str()).collect();
    ensure!(names == ["a", "123", "Z1.test.", "Z2.test.", "a", "b"] && found.failures.is_empty(), "{found:?}");
    ensure!(found.items[0].created_at.as_deref() == Some("2026-01-02T03:04:05.250Z"), "{found:?}");
    ensure!(found.items[1].tags.get("k").is_some_and(|v| v == "v") && found.items[0].tags.is_empty(), "{found:?}");
    ensure!(found.items[4].created_at.as_deref() == Some("2026-01-02T03:04:05Z"), "{found:?}");
    // each is signed for its service, and the global ones for their own region
    let signed = |what: &str, scope: &str| {
        let asked = server.asked();
        let found = asked
            .iter()
            .find(|a| a.line.contains(what) || a.body.contains(what) || a.header("x-amz-target").contains(what));
        found.is_some_and(|a| a.header("authorization").contains(scope))
    };
    for (what, scope) in [
        ("ListTables", "/eu-central-1/dynamodb/"),
        ("GetResources", "/eu-central-1/tagging/"),
        ("hostedzone", "/us-east-1/route53/"),
        ("ListRoles", "/us-east-1/iam/"),
    ] {
        ensure!(signed(what, scope), "{what} is not signed for {scope}");
    }
    // the limit is of all together
    let limited = ListResources { limit: 3, ..list(&["AWS::DynamoDB::Table", "AWS::IAM::Role"], &[]) };
    let given = operation(What::ListResources(limited), target(&server.url)).await?;
    let found: Resources = given.document()?;
    ensure!(found.items.len() == 3 && found.truncated && given.outcome.truncated, "{found:?}");
    Ok(())
}

async fn partial() -> Result<()> {
    let server = Server::start(|asked, _| match asked.header("x-amz-target") {
        "AmazonSQS.ListQueues" => {
            (200, json!({"QueueUrls": ["https://sqs.eu-central-1.amazonaws.com/1/q"]}).to_string())
        }
        "secretsmanager.ListSecrets" => (200, json!({"SecretList": []}).to_string()),
        _ => (400, json!({"__type": "AccessDeniedException", "Message": "you may not"}).to_string()),
    })
    .await?;
    let mut asked = list(&["AWS::ECS::Cluster", "AWS::SQS::Queue", "AWS::SecretsManager::Secret"], &[]);
    asked.refused = vec![TypeRefused { type_name: "AWS::EC2::VPC".into(), message: "by policy".into() }];
    let found = listed(asked, &server.url).await?;
    ensure!(found.items.len() == 1 && found.items[0].id == "arn:aws:sqs:eu-central-1:1:q", "{found:?}");
    let failed: Vec<_> = found.failures.iter().map(|f| (f.type_name.as_str(), f.code.as_str())).collect();
    ensure!(
        failed
            == [
                ("AWS::EC2::VPC", "policy_denied"),
                ("AWS::ECS::Cluster", "target_forbidden"),
                // the queue is there without its tags, and that is said
                ("AWS::SQS::Queue", "target_forbidden"),
            ],
        "{failed:?}"
    );
    ensure!(found.failures[2].message.contains("the tags of these resources"), "{found:?}");
    // where tags are asked for it cannot be told whether it has them
    let asked = list(&["AWS::SQS::Queue", "AWS::SecretsManager::Secret"], &[("a", "")]);
    let found = listed(asked, &server.url).await?;
    ensure!(found.items.is_empty() && found.failures.len() == 1, "{found:?}");
    // alone it is all that was asked for
    let alone = operation(What::ListResources(list(&["AWS::ECS::Cluster"], &[])), target(&server.url)).await?;
    alone.failed("target_forbidden", "you may not")
}

async fn buckets() -> Result<()> {
    let server = Server::start(|asked, _| {
        let path = asked.line.split(' ').nth(1).unwrap_or_default();
        let bucket = |name: &str, region: &str| {
            let region =
                if region.is_empty() { String::new() } else { format!("<BucketRegion>{region}</BucketRegion>") };
            format!("<Bucket><Name>{name}</Name><CreationDate>2026-01-02T03:04:05.000Z</CreationDate>{region}</Bucket>")
        };
        let answer = match path {
            "/?max-buckets=1000&bucket-region=eu-central-1" => format!(
                "<R><Buckets>{}{}{}{}{}</Buckets></R>",
                bucket("told", "eu-central-1"),
                bucket("elsewhere", "eu-west-1"),
                bucket("asked", ""),
                bucket("asked-elsewhere", ""),
                bucket("closed", "")
            ),
            "/asked?location" => "<LocationConstraint>eu-central-1</LocationConstraint>".to_owned(),
            "/asked-elsewhere?location" => "<LocationConstraint/>".to_owned(),
            "/closed?location" => {
                return (403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>".to_owned());
            }
            _ => json!({"ResourceTagMappingList": []}).to_string(),
        };
        (200, answer)
    })
    .await?;
    let found = listed(list(&["AWS::S3::Bucket"], &[]), &server.url).await?;
    let names: Vec<_> = found.items.iter().map(|r| r.name.as_str()).collect();
    ensure!(names == ["told", "asked"] && found.failures.len() == 1, "{found:?}");
    let asked = server.asked();
    let first = asked.iter().find(|a| a.line.starts_with("GET /?")).context("a list")?;
    ensure!(first.header("authorization").contains("/eu-central-1/s3/"), "{first:?}");
    ensure!(first.header("x-amz-content-sha256").len() == 64, "{first:?}");
    Ok(())
}

async fn expired() -> Result<()> {
    let server = Server::start(|asked, _| match asked.header("x-amz-target") {
        "AmazonSQS.ListQueues" => (200, json!({"QueueUrls": []}).to_string()),
        _ => (400, json!({"__type": "ExpiredTokenException", "message": "it has expired"}).to_string()),
    })
    .await?;
    let given =
        operation(What::ListResources(list(&["AWS::SQS::Queue", "AWS::ECS::Cluster"], &[])), target(&server.url));
    let given = given.await?;
    given.failed("credentials_expired", "it has expired")?;
    ensure!(given.data.is_empty(), "{}", given.text());
    Ok(())
}
