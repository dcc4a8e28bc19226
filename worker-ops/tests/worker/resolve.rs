//! The resolver: kubeconfigs with their plug-ins, and every source of AWS credentials. The metadata services are servers of our own.

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use runner_tests::{Scratch, Suite, eventually};
use serde_json::json;
use shared_proto::frame::Kind;
use shared_proto::v1::resolve_reply::Kind as Reply;
use shared_proto::v1::resolve_request::How;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{
    AwsSession, AwsTarget, KubernetesTarget, ResolveAws, ResolveInCluster, ResolveKubeconfig, ResolveReply,
    ResolveRequest,
};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Worker, resolution};
use crate::server::{Asked, Server};

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("resolves_a_kubeconfig", kubeconfig)
        .test("resolves_with_a_plugin_that_is_named", plugin)
        .test("a_plugin_ends_with_its_resolver", plugin_ends)
        .test("in_cluster_needs_a_cluster", in_cluster)
        .test("resolves_aws_variables", aws_variables)
        .test("resolves_an_aws_profile", aws_profile)
        .test("resolves_the_role_of_a_container", container_role)
        .test("resolves_the_role_of_an_instance", instance_role)
        .test("aws_gives_a_session_of_a_role_and_nothing_else", aws_session)
        .test("a_role_that_cannot_be_assumed_is_named", aws_no_session)
        .test("aws_sources_that_give_nothing_are_named", aws_nothing)
}

async fn ask(how: How) -> Result<ResolveReply> {
    resolution(&ResolveRequest { connection: "prod".into(), how: Some(how) }).await
}
fn kubernetes(reply: &ResolveReply) -> Result<&KubernetesTarget> {
    match &reply.kind {
        Some(Reply::Target(target)) => match &target.kind {
            Some(Target::Kubernetes(target)) => Ok(target),
            _ => bail!("another target"),
        },
        other => bail!("{:?}", failure_of(other.as_ref())),
    }
}
fn aws(reply: &ResolveReply) -> Result<&AwsTarget> {
    match &reply.kind {
        Some(Reply::Target(target)) => match &target.kind {
            Some(Target::Aws(target)) => Ok(target),
            _ => bail!("another target"),
        },
        other => bail!("{:?}", failure_of(other.as_ref())),
    }
}
fn failure_of(kind: Option<&Reply>) -> Option<&shared_proto::v1::Outcome> {
    match kind {
        Some(Reply::Failure(outcome)) => Some(outcome),
        _ => None,
    }
}
fn failed(reply: &ResolveReply, code: &str, words: &str) -> Result<()> {
    let outcome = failure_of(reply.kind.as_ref()).context("a failure")?;
    ensure!(outcome.code == code && outcome.message.contains(words), "{outcome:?}");
    Ok(())
}
fn left(reply: &ResolveReply) -> i64 {
    (reply.valid_until_ms - shared_proto::now_ms()) / 1000
}

fn write_kubeconfig(folder: &Scratch, user: &str) -> Result<String> {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:6443'}}}}]\nusers:\n- name: u\n  user:\n    {user}\n"
    );
    Ok(folder.write("kubeconfig", text)?.display().to_string())
}

async fn kubeconfig() -> Result<()> {
    let folder = Scratch::new("kubeconfig")?;
    let path = write_kubeconfig(&folder, "token: t0ken")?;
    let how = |path: &str| How::Kubeconfig(ResolveKubeconfig { path: path.into(), ..Default::default() });
    let reply = ask(how(&path)).await?;
    ensure!(kubernetes(&reply)?.token == "t0ken" && (8..=10).contains(&left(&reply)), "{reply:?}");
    failed(
        &ask(how("/no/such/file")).await?,
        "credentials_unavailable",
        "connection \"prod\": the kubeconfig /no/such/file",
    )?;
    failed(&ask(how("kubeconfig")).await?, "credentials_unavailable", "not absolute")?;
    failed(&ask(how("/dev/zero")).await?, "credentials_unavailable", "no regular file")
}

/// A plug-in that is this script.
fn write_plugin(folder: &Scratch, script: &str) -> Result<String> {
    let path = folder.write("plugin", format!("#!/bin/sh\n{script}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}
fn exec_user(command: &str) -> String {
    format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: '{command}', args: [get-token], interactiveMode: Never}}"
    )
}

async fn plugin() -> Result<()> {
    let folder = Scratch::new("plugin")?;
    let script = r#"[ "$1" = get-token ] || exit 9
echo "{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"$GIVEN\",\"expirationTimestamp\":\"2999-01-01T00:00:00Z\"}}""#;
    let command = write_plugin(&folder, script)?;
    let path = write_kubeconfig(&folder, &exec_user(&command))?;
    let mut how = ResolveKubeconfig { path, exec_plugins: vec![command.clone()], ..Default::default() };
    how.environment.insert("GIVEN".into(), "from-the-plugin".into());
    let reply = ask(How::Kubeconfig(how.clone())).await?;
    ensure!(kubernetes(&reply)?.token == "from-the-plugin" && (895..=900).contains(&left(&reply)), "{reply:?}");
    how.exec_plugins = vec!["/usr/bin/other".into()];
    failed(&ask(How::Kubeconfig(how)).await?, "credentials_unavailable", &command)
}

async fn plugin_ends() -> Result<()> {
    let folder = Scratch::new("plugin-ends")?;
    // it starts another process, and neither ends by itself
    let command = write_plugin(&folder, "sleep 600 & echo $$ $! > pids\nwait")?;
    let path = write_kubeconfig(&folder, &exec_user(&command))?;
    let how = How::Kubeconfig(ResolveKubeconfig { path, exec_plugins: vec![command], ..Default::default() });
    let mut worker = Worker::start("resolve").await?;
    let request = ResolveRequest { connection: "prod".into(), how: Some(how) };
    worker.send(Kind::Request, &request.encode_to_vec()).await?;
    let file = folder.join("pids");
    let pids = eventually(Duration::from_secs(30), "the plug-in to start", || async {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let pids: Vec<u32> = text.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        Ok((pids.len() == 2).then_some(pids))
    })
    .await?;
    ensure!(worker.cancel().await? == Some(0));
    eventually(Duration::from_secs(10), "the plug-in and its child to be gone", || async {
        let lives = |pid: &u32| {
            // what nobody has reaped yet is dead all the same
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().and_then(|s| s.trim().chars().next()).is_some_and(|state| state != 'Z')
        };
        Ok((!pids.iter().any(lives)).then_some(()))
    })
    .await
}

async fn in_cluster() -> Result<()> {
    if Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists() {
        return Ok(()); // this is one
    }
    failed(&ask(How::InCluster(ResolveInCluster {})).await?, "credentials_unavailable", "service account's token")
}

fn aws_how(source: &str, variables: &[(&str, &str)]) -> ResolveAws {
    let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ResolveAws { source: source.into(), environment, endpoint_url: "http://127.0.0.1:1".into(), ..Default::default() }
}

async fn aws_variables() -> Result<()> {
    let variables = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("AWS_REGION", "eu-west-1")];
    let reply = ask(How::Aws(aws_how("environment", &variables))).await?;
    let target = aws(&reply)?;
    ensure!(
        (target.access_key_id.as_str(), target.secret_access_key.as_str(), target.region.as_str())
            == ("AKID", "s3cr3t", "eu-west-1")
    );
    ensure!(target.endpoint_url == "http://127.0.0.1:1");
    // the entry's region wins
    let how = ResolveAws { region: "us-east-2".into(), ..aws_how("environment", &variables) };
    ensure!(aws(&ask(How::Aws(how)).await?)?.region == "us-east-2");
    failed(
        &ask(How::Aws(aws_how("environment", &variables[1..]))).await?,
        "credentials_unavailable",
        "AWS_ACCESS_KEY_ID",
    )
}

/// No metadata service, and a home without files.
fn isolated<'a>(home: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("HOME", home), ("AWS_EC2_METADATA_DISABLED", "true")];
    all.extend_from_slice(more);
    all
}

async fn aws_profile() -> Result<()> {
    let folder = Scratch::new("aws-home")?;
    folder.write(".aws/credentials", "[prod]\naws_access_key_id = AKPROD\naws_secret_access_key = s3cr3t\n[default]\naws_access_key_id = AKDEF\naws_secret_access_key = d\n")?;
    folder.write(".aws/config", "[profile prod]\nregion = eu-north-1\n[profile process]\ncredential_process = echo '{\"Version\":1,\"AccessKeyId\":\"AKPROC\",\"SecretAccessKey\":\"p\"}'\n")?;
    let home = folder.path().display().to_string();
    let how = |profile: &str| ResolveAws { profile: profile.into(), ..aws_how("profile", &isolated(&home, &[])) };
    let reply = ask(How::Aws(how("prod"))).await?;
    let target = aws(&reply)?;
    ensure!((target.access_key_id.as_str(), target.region.as_str()) == ("AKPROD", "eu-north-1"), "{target:?}");
    ensure!((8..=10).contains(&left(&reply)), "{}", left(&reply));
    ensure!(aws(&ask(How::Aws(how(""))).await?)?.access_key_id == "AKDEF");
    ensure!(aws(&ask(How::Aws(how("process"))).await?)?.access_key_id == "AKPROC");
    let named = ResolveAws {
        environment: isolated(&home, &[("AWS_PROFILE", "prod")])
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect(),
        ..how("")
    };
    ensure!(aws(&ask(How::Aws(named)).await?)?.access_key_id == "AKPROD");
    let reply = ask(How::Aws(how("nobody"))).await?;
    failed(&reply, "credentials_unavailable", "the AWS profile \"nobody\" is not there")?;
    failed(&reply, "credentials_unavailable", &format!("{home}/.aws/config does not have it"))?;
    ensure!(!format!("{:?}", failure_of(reply.kind.as_ref())).contains("s3cr3t"));
    Ok(())
}

fn role() -> String {
    json!({"AccessKeyId": "AKROLE", "SecretAccessKey": "s3cr3t", "Token": "t0ken", "Expiration": "2999-01-01T00:00:00Z",
           "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z"})
    .to_string()
}

async fn container_role() -> Result<()> {
    let server = Server::start(|asked: &Asked, _| match asked.header("authorization") {
        "let-me" => (200, role()),
        _ => (401, String::new()),
    })
    .await?;
    let uri = format!("{}/creds", server.url);
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let-me"),
        ("AWS_REGION", "eu-west-1"),
    ];
    let reply = ask(How::Aws(aws_how("instance_role", &isolated("/nonexistent", &variables)))).await?;
    let target = aws(&reply)?;
    ensure!((target.access_key_id.as_str(), target.session_token.as_str()) == ("AKROLE", "t0ken"), "{target:?}");
    ensure!((895..=900).contains(&left(&reply)), "{}", left(&reply));
    Ok(())
}

async fn instance_role() -> Result<()> {
    let server = Server::start(|asked: &Asked, _| {
        let path = asked.line.split(' ').nth(1).unwrap_or_default();
        match path {
            "/latest/api/token" => (200, "imds-token".to_owned()),
            "/latest/meta-data/placement/region" => (200, "ap-south-1".to_owned()),
            p if p.trim_end_matches('/').ends_with("security-credentials") => (200, "the-role".to_owned()),
            p if p.ends_with("/the-role") => (200, role()),
            _ => (404, String::new()),
        }
    })
    .await?;
    let variables = [("HOME", "/nonexistent"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url.as_str())];
    let reply = ask(How::Aws(aws_how("instance_role", &variables))).await;
    let reply = reply.with_context(|| format!("{:?}", server.asked()))?;
    let target = aws(&reply)?;
    ensure!(
        (target.access_key_id.as_str(), target.region.as_str()) == ("AKROLE", "ap-south-1"),
        "{:?}",
        server.asked()
    );
    Ok(())
}

const ROLE: &str = "arn:aws:iam::123456789012:role/narrow";
const POLICY: &str = r#"{"Statement":[{"Action":"s3:List*","Effect":"Allow","Resource":"*"}],"Version":"2012-10-17"}"#;

fn session() -> AwsSession {
    AwsSession {
        role_arn: ROLE.into(),
        external_id: "of-the-customer".into(),
        session_name: "runner-prod".into(),
        duration_seconds: 900,
        policy: POLICY.into(),
        policy_arns: vec!["arn:aws:iam::aws:policy/ReadOnlyAccess".into()],
        ..Default::default()
    }
}

/// STS as it is documented: what is not a parameter of AssumeRole, or not within its bounds, is refused.
fn sts(asked: &Asked) -> (u16, String) {
    let refuse = |code: &str, message: &str| {
        let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>");
        (
            400,
            format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">{error}<RequestId>r</RequestId></ErrorResponse>"
            ),
        )
    };
    let form: Vec<(String, String)> =
        asked.body.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (decoded(k), decoded(v))).collect();
    let get = |name: &str| form.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).unwrap_or_default();
    let known = |name: &str| {
        matches!(
            name,
            "Action" | "Version" | "RoleArn" | "RoleSessionName" | "ExternalId" | "DurationSeconds" | "Policy"
        ) || name
            .strip_prefix("PolicyArns.member.")
            .and_then(|n| n.strip_suffix(".arn"))
            .is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 10))
    };
    if let Some((name, _)) = form.iter().find(|(name, _)| !known(name)) {
        return refuse("ValidationError", &format!("{name} is no parameter"));
    }
    if get("Action") != "AssumeRole" || get("Version") != "2011-06-15" {
        return refuse("InvalidAction", "only AssumeRole");
    }
    let signed = asked.header("authorization");
    if !signed.contains("Credential=AKLONG/") || !signed.contains("/eu-west-1/sts/aws4_request") {
        return refuse("InvalidClientTokenId", "another key, region or service");
    }
    if get("RoleArn") != ROLE || get("ExternalId") != "of-the-customer" {
        return refuse("AccessDenied", "User AKLONG is not authorized to perform sts:AssumeRole");
    }
    let seconds = get("DurationSeconds").parse::<u32>().unwrap_or(0);
    let policies: usize = form.iter().filter(|(k, _)| k.starts_with("Policy")).map(|(_, v)| v.chars().count()).sum();
    if !(900..=43_200).contains(&seconds) || !(2..=64).contains(&get("RoleSessionName").len()) || policies > 2048 {
        return refuse("ValidationError", "out of bounds");
    }
    if serde_json::from_str::<serde_json::Value>(get("Policy")).is_err() {
        return refuse("MalformedPolicyDocument", "not JSON");
    }
    let credentials = "<Credentials><AccessKeyId>ASIASESSION</AccessKeyId><SecretAccessKey>s3ss10n</SecretAccessKey>\
        <SessionToken>narrow-token</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>";
    let user = format!(
        "<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/narrow/{0}</Arn><AssumedRoleId>AROA:{0}</AssumedRoleId></AssumedRoleUser>",
        get("RoleSessionName")
    );
    (
        200,
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>{credentials}{user}</AssumeRoleResult></AssumeRoleResponse>"
        ),
    )
}

/// As a form is read.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?')
            }
            b => b,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Of every source: what leaves the resolver is the session.
async fn aws_session() -> Result<()> {
    let server = Server::start(|asked: &Asked, _| match asked.line.split(' ').nth(1).unwrap_or_default() {
        "/creds" => (200, role().replace("AKROLE", "AKLONG")),
        _ => sts(asked),
    })
    .await?;
    let folder = Scratch::new("aws-session")?;
    folder.write(".aws/credentials", "[prod]\naws_access_key_id = AKLONG\naws_secret_access_key = l0ng\n")?;
    let (home, uri) = (folder.path().display().to_string(), format!("{}/creds", server.url));
    let region = ("AWS_REGION", "eu-west-1");
    let keys = [region, ("AWS_ACCESS_KEY_ID", "AKLONG"), ("AWS_SECRET_ACCESS_KEY", "l0ng")];
    let container = [region, ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())];
    for (source, profile, variables) in
        [("environment", "", &keys[..]), ("profile", "prod", &[region]), ("instance_role", "", &container)]
    {
        let how = ResolveAws {
            profile: profile.into(),
            endpoint_url: server.url.clone(),
            session: Some(session()),
            ..aws_how(source, &isolated(&home, variables))
        };
        let reply = ask(How::Aws(how)).await?;
        let target = aws(&reply)?;
        let got = (target.access_key_id.as_str(), target.secret_access_key.as_str(), target.session_token.as_str());
        ensure!(got == ("ASIASESSION", "s3ss10n", "narrow-token"), "{source}: {target:?}");
        ensure!(target.region == "eu-west-1" && target.endpoint_url == server.url, "{source}: {target:?}");
        ensure!((895..=900).contains(&left(&reply)), "{source}: {}", left(&reply));
        ensure!(!String::from_utf8_lossy(&reply.encode_to_vec()).contains("l0ng"), "{source}: more than the session");
    }
    let form = decoded(&server.asked().last().context("asked")?.body);
    ensure!(form.contains(&format!("Policy={POLICY}")) && form.contains("RoleSessionName=runner-prod"), "{form}");
    Ok(())
}

async fn aws_no_session() -> Result<()> {
    let server = Server::start(|asked: &Asked, _| sts(asked)).await?;
    let keys = [("AWS_ACCESS_KEY_ID", "AKLONG"), ("AWS_SECRET_ACCESS_KEY", "l0ng"), ("AWS_REGION", "eu-west-1")];
    let with = |session: AwsSession, variables: &[(&str, &str)]| {
        let how = aws_how("environment", &isolated("/nonexistent", variables));
        How::Aws(ResolveAws { endpoint_url: server.url.clone(), session: Some(session), ..how })
    };
    let stranger = AwsSession { external_id: String::new(), ..session() };
    let reply = ask(with(stranger, &keys)).await?;
    failed(&reply, "credentials_unavailable", &format!("the role {ROLE} cannot be assumed"))?;
    failed(&reply, "credentials_unavailable", "AccessDenied")?;
    failed(&reply, "credentials_unavailable", "not authorized to perform")?;
    let malformed = AwsSession { policy: "{".into(), ..session() };
    failed(&ask(with(malformed, &keys)).await?, "credentials_unavailable", "MalformedPolicyDocument")?;
    failed(&ask(with(session(), &keys[..2])).await?, "credentials_unavailable", "without a region")?;
    // without the keys the role is not asked for at all
    failed(&ask(with(session(), &keys[2..])).await?, "credentials_unavailable", "AWS_ACCESS_KEY_ID")?;
    let asked = server.asked().len();
    ensure!(asked == 2, "{asked}");
    Ok(())
}

async fn aws_nothing() -> Result<()> {
    let alone = isolated("/nonexistent", &[]);
    failed(&ask(How::Aws(aws_how("instance_role", &alone))).await?, "credentials_unavailable", "the instance's role")?;
    let profile = ask(How::Aws(aws_how("profile", &alone))).await?;
    failed(&profile, "credentials_unavailable", "the AWS profile \"default\" is not there")?;
    failed(&ask(How::Aws(aws_how("guess", &alone))).await?, "credentials_unavailable", "\"guess\" is no source")
}
