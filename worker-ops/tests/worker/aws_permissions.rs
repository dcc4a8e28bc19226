//! What credentials may do: simulated by a server that answers as IAM documents it, found out by calls against moto and against a server that
//! refuses some; and how a connection's test tells its steps.

use anyhow::{Context as _, Result, ensure};
use runner_tests::{Component, Moto, Suite};
use serde_json::{Value, json};
use shared_proto::documents::{ConnectionReport, PermissionReport};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{ConnectionTest, ProbePermissions, Step};

use crate::aws::target;
use crate::harness::{Worker, operation, request};
use crate::server::{Asked, Server};

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .test("aws_permissions_are_simulated", simulated)
        .test("aws_permissions_are_found_out_by_calls", called)
        .test("aws_a_test_tells_its_steps", steps)
        .needs(&[Component::Moto])
        .test("aws_permissions_of_moto", moto)
        .needs(&[])
}

fn probe(purpose: &str, narrowed: bool) -> What {
    What::ProbePermissions(ProbePermissions { purpose: purpose.into(), narrowed, ..Default::default() })
}

const IDENTITY: &str = "<R><GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/runner/jo</Arn><UserId>U</UserId>\
    <Account>123456789012</Account></GetCallerIdentityResult></R>";

fn allowed<'a>(report: &'a PermissionReport, action: &str) -> Result<(&'a str, &'a str)> {
    let item = report.items.iter().find(|item| item.action == action).context(action.to_owned())?;
    Ok((&item.allowed, &item.how))
}

async fn simulated() -> Result<()> {
    let server = Server::start(|asked, _| {
        if asked.body.contains("Action=GetCallerIdentity") {
            return (200, IDENTITY.to_owned());
        }
        let decision = |action: &str, decision: &str| {
            format!("<member><EvalActionName>{action}</EvalActionName><EvalDecision>{decision}</EvalDecision></member>")
        };
        let (results, more) = if asked.body.contains("Marker=2") {
            (decision("logs:FilterLogEvents", "implicitDeny"), "")
        } else {
            (decision("logs:describeloggroups", "allowed"), "<IsTruncated>true</IsTruncated><Marker>2</Marker>")
        };
        (200, format!(
            "<R><SimulatePrincipalPolicyResult><EvaluationResults>{results}</EvaluationResults>{more}</SimulatePrincipalPolicyResult></R>"
        ))
    })
    .await?;
    let report: PermissionReport = operation(probe("logs", false), target(&server.url)).await?.document()?;
    ensure!(report.purpose == "logs" && report.items.len() == 5, "{report:?}");
    ensure!(allowed(&report, "logs:DescribeLogGroups")?.0 == "yes", "{report:?}");
    let (no, how) = allowed(&report, "logs:FilterLogEvents")?;
    ensure!(
        no == "no" && how.contains("implicitDeny") && how.contains("arn:aws:iam::123456789012:role/runner"),
        "{how}"
    );
    ensure!(allowed(&report, "ec2:DescribeRegions")?.0 == "unknown", "{report:?}");
    let asked = server.asked();
    let first = &asked[1];
    ensure!(first.body.contains("PolicySourceArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Frunner"), "{first:?}");
    ensure!(first.body.contains("ActionNames.member.5=") && first.header("authorization").contains("/us-east-1/iam/"));
    ensure!(asked.len() == 3, "{asked:?}");
    let policy: Value = serde_json::from_str(&report.least_policy.text)?;
    ensure!(policy["Statement"][0]["Action"].as_array().is_some_and(|a| a.len() == 5), "{policy}");
    Ok(())
}

/// Lets in, and refuses to simulate and some more.
fn refuses(asked: &Asked) -> (u16, String) {
    let denied = |action: &str| {
        (
            400,
            json!({"__type": "AccessDeniedException", "message": format!("not authorized to perform: {action}")})
                .to_string(),
        )
    };
    let xml = |status, code: &str| (status, format!("<R><Error><Code>{code}</Code><Message>m</Message></Error></R>"));
    let target = asked.header("x-amz-target");
    match target {
        _ if asked.body.contains("Action=GetCallerIdentity") => (200, IDENTITY.to_owned()),
        _ if asked.body.contains("Action=SimulatePrincipalPolicy") => xml(403, "AccessDenied"),
        _ if asked.body.contains("Action=DescribeVpcs") => xml(403, "UnauthorizedOperation"),
        _ if asked.body.contains("DryRun=true") => xml(412, "DryRunOperation"),
        "AmazonSQS.ListQueues" => denied("sqs:ListQueues"),
        // what Cloud Control asks for is refused, not Cloud Control itself
        "CloudApiService.ListResources" => denied("SNS:ListTopics"),
        "CloudApiService.GetResource" => denied("cloudformation:GetResource"),
        "DynamoDB_20120810.DescribeTable" => (400, json!({"__type": "ResourceNotFoundException"}).to_string()),
        "secretsmanager.ListSecrets" => (400, json!({"__type": "ValidationException"}).to_string()),
        _ if target.is_empty() => (200, "<R/>".to_owned()),
        _ => (200, "{}".to_owned()),
    }
}

async fn called() -> Result<()> {
    let server = Server::start(|asked, _| refuses(asked)).await?;
    let report: PermissionReport = operation(probe("browse", false), target(&server.url)).await?.document()?;
    for (action, expected, how) in [
        ("sts:GetCallerIdentity", "yes", "called"),
        ("ec2:DescribeVpcs", "no", "UnauthorizedOperation"),
        ("ec2:DescribeInstances", "yes", "dry run"),
        ("ec2:DescribeRegions", "yes", "dry run"),
        ("sqs:ListQueues", "no", "sqs:ListQueues"),
        ("cloudformation:ListResources", "unknown", "SNS:ListTopics"),
        ("cloudformation:GetResource", "no", "cloudformation:GetResource"),
        ("dynamodb:DescribeTable", "yes", "not there"),
        ("secretsmanager:ListSecrets", "unknown", "ValidationException"),
        ("s3:ListAllMyBuckets", "yes", "called"),
        ("s3:GetBucketLocation", "unknown", "resource of its own"),
        ("tag:GetResources", "yes", "called"),
    ] {
        let (got, said) = allowed(&report, action)?;
        ensure!(got == expected && said.contains(how), "{action}: {got}, {said}");
    }
    ensure!(report.items.iter().all(|item| !item.action.contains('*')), "{report:?}");
    // what is narrowed by policies of its session is never simulated
    let server = Server::start(|asked, _| refuses(asked)).await?;
    operation(probe("logs", true), target(&server.url)).await?.document::<PermissionReport>()?;
    ensure!(!server.asked().iter().any(|asked| asked.body.contains("Simulate")), "{:?}", server.asked());
    Ok(())
}

async fn steps() -> Result<()> {
    let before = Step { name: "credentials".into(), ok: true, detail: "a profile".into(), next_step: String::new() };
    let test = async |url: &str| {
        let mut asked = request(What::ConnectionTest(ConnectionTest {}), target(url));
        asked.steps = vec![before.clone()];
        Worker::operation(&asked).await?.rest().await
    };
    let server = Server::start(|_: &Asked, _| (200, IDENTITY.to_owned())).await?;
    let report: ConnectionReport = test(&server.url).await?.document()?;
    let names: Vec<_> = report.steps.iter().map(|step| (step.name.as_str(), step.ok)).collect();
    ensure!(names == [("credentials", true), ("endpoint", true), ("identity", true)], "{report:?}");
    ensure!(report.steps[1].detail == "sts.eu-central-1.amazonaws.com", "{report:?}");
    let server = Server::start(|_: &Asked, _| {
        (403, "<R><Error><Code>AccessDenied</Code><Message>no</Message></Error></R>".to_owned())
    })
    .await?;
    test(&server.url)
        .await?
        .failed("target_forbidden", "step identity: sts: AccessDenied: no; before it: credentials (a profile)")?;
    // nobody is there
    let gone = Server::start(|_: &Asked, _| (200, String::new())).await?;
    let url = gone.url.clone();
    drop(gone);
    let given = test(&url).await?;
    ensure!(given.outcome.message.starts_with("step endpoint: ") && given.outcome.code != "ok", "{:?}", given.outcome);
    Ok(())
}

async fn moto() -> Result<()> {
    let moto = Moto::start().await?;
    // by the very calls: whatever is refused as malformed would be unknown
    let report: PermissionReport = operation(probe("browse", true), target(&moto.url())).await?.document()?;
    let unknown: Vec<_> = report.items.iter().filter(|item| item.allowed != "yes").collect();
    let known = ["cloudformation:GetResource", "cloudformation:ListResources", "s3:GetBucketLocation"];
    ensure!(unknown.iter().all(|item| known.contains(&item.action.as_str())), "{unknown:#?}");
    let report: PermissionReport = operation(probe("logs", true), target(&moto.url())).await?.document()?;
    ensure!(report.items.iter().all(|item| item.allowed == "yes"), "{report:#?}");
    Ok(())
}
