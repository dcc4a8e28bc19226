//! Chains of roles and what their sessions say of whoever asks: against a server that keeps what STS documents of AssumeRole, and against moto.

use anyhow::{Context as _, Result, ensure};
use runner_tests::dial::Dial;
use runner_tests::{Component, Moto, Scratch, Suite};
use shared_proto::v1::resolve_reply::Kind as Reply;
use shared_proto::v1::resolve_request::How;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{AwsRole, AwsSession, AwsTarget, ResolveAws, ResolveAzure, ResolveReply, ResolveRequest};
use std::collections::BTreeMap;

use crate::harness::{Worker, answered, resolution};
use crate::resolve::decoded;
use crate::server::{Asked, Server};

const PERSON: &str = "jo=40example,op-1";

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .test("aws_roles_are_assumed_one_with_the_others_session", chain)
        .test("aws_a_role_of_a_chain_that_is_refused_is_named", refused)
        .test("aws_a_web_identity_is_exchanged", web_identity)
        .test("what_is_asked_of_a_cloud_the_supervisor_connects", connected)
        .needs(&[Component::Moto])
        .test("aws_a_chain_of_roles_of_moto", moto)
        .test("aws_a_web_identity_of_moto", web_identity_of_moto)
        .needs(&[])
}

fn role(n: u32) -> String {
    format!("arn:aws:iam::12345678901{n}:role/r{n}")
}

fn session() -> AwsSession {
    AwsSession {
        role_arn: role(3),
        external_id: "id-3".into(),
        session_name: PERSON.into(),
        duration_seconds: 900,
        policy: r#"{"Statement":[]}"#.into(),
        policy_arns: vec!["arn:aws:iam::aws:policy/ReadOnlyAccess".into()],
        chain: [1, 2].map(|n| AwsRole { role_arn: role(n), external_id: format!("id-{n}") }).into(),
        tags: [("person", "jo"), ("operation", "op-1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        source_identity: "jo".into(),
    }
}

async fn ask(url: &str, session: AwsSession) -> Result<ResolveReply> {
    let variables = [("AWS_ACCESS_KEY_ID", "AKLONG"), ("AWS_SECRET_ACCESS_KEY", "l0ng"), ("AWS_REGION", "eu-west-1")];
    let how = ResolveAws {
        source: "environment".into(),
        endpoint_url: url.to_owned(),
        environment: variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        session: Some(session),
        ..Default::default()
    };
    resolution(&ResolveRequest { connection: "prod".into(), how: Some(How::Aws(how)) }).await
}

fn target(reply: &ResolveReply) -> Result<&AwsTarget> {
    match &reply.kind {
        Some(Reply::Target(target)) => match &target.kind {
            Some(Target::Aws(target)) => Ok(target),
            other => anyhow::bail!("{other:?}"),
        },
        Some(Reply::Failure(outcome)) => anyhow::bail!("{outcome:?}"),
        other => anyhow::bail!("no target: {}", other.is_some()),
    }
}

fn form(asked: &Asked) -> BTreeMap<String, String> {
    asked.body.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (decoded(k), decoded(v))).collect()
}

/// A session for each role, whose key says which it is; `refused` is not given.
fn sts(asked: &Asked, refused: u32) -> (u16, String) {
    let form = form(asked);
    let n: u32 = form.get("RoleArn").and_then(|arn| arn.chars().last()?.to_digit(10)).unwrap_or(0);
    // each is asked for with the session of the one before
    let with = if n == 1 { "AKLONG".to_owned() } else { format!("ASIA{}", n - 1) };
    let authorization = asked.header("authorization");
    let token = if n == 1 { String::new() } else { format!("token-{}", n - 1) };
    if n == refused
        || !authorization.contains(&format!("Credential={with}/"))
        || asked.header("x-amz-security-token") != token
    {
        let error = format!("<Error><Code>AccessDenied</Code><Message>{with} may not</Message></Error>");
        return (403, format!("<ErrorResponse>{error}</ErrorResponse>"));
    }
    let credentials = format!(
        "<Credentials><AccessKeyId>ASIA{n}</AccessKeyId><SecretAccessKey>s3cr3t-{n}</SecretAccessKey>\
         <SessionToken>token-{n}</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>"
    );
    (200, format!("<AssumeRoleResponse><AssumeRoleResult>{credentials}</AssumeRoleResult></AssumeRoleResponse>"))
}

async fn chain() -> Result<()> {
    let server = Server::start(|asked, _| sts(asked, 0)).await?;
    let reply = ask(&server.url, session()).await?;
    let got = target(&reply)?;
    ensure!((got.access_key_id.as_str(), got.session_token.as_str()) == ("ASIA3", "token-3"), "{got:?}");
    let asked: Vec<_> = server.asked().iter().map(form).collect();
    let expected = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let same = [
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleSessionName", PERSON),
            ("DurationSeconds", "900"),
        ];
        same.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let (one, two, three) = (role(1), role(2), role(3));
    // tags and source identity are the first session's, and go on by themselves; the last one alone is narrowed
    ensure!(
        asked
            == [
                expected(&[
                    ("RoleArn", one.as_str()),
                    ("ExternalId", "id-1"),
                    ("Tags.member.1.Key", "operation"),
                    ("Tags.member.1.Value", "op-1"),
                    ("TransitiveTagKeys.member.1", "operation"),
                    ("Tags.member.2.Key", "person"),
                    ("Tags.member.2.Value", "jo"),
                    ("TransitiveTagKeys.member.2", "person"),
                    ("SourceIdentity", "jo"),
                ]),
                expected(&[("RoleArn", two.as_str()), ("ExternalId", "id-2")]),
                expected(&[
                    ("RoleArn", three.as_str()),
                    ("ExternalId", "id-3"),
                    ("Policy", r#"{"Statement":[]}"#),
                    ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
                ]),
            ],
        "{asked:#?}"
    );
    let steps: Vec<_> = reply.steps.iter().map(|step| (step.name.as_str(), step.detail.as_str(), step.ok)).collect();
    ensure!(steps.len() == 4 && steps.iter().all(|(_, _, ok)| *ok), "{steps:?}");
    ensure!(steps[0].0 == "credentials" && steps[0].1.contains("AKLONG") && steps[3].1.contains(&three), "{steps:?}");
    ensure!(!format!("{:?}", reply.steps).contains("l0ng") && !format!("{:?}", reply.steps).contains("s3cr3t"));

    // alone a role's tags go no further
    let server = Server::start(|asked, _| sts(asked, 0)).await?;
    let alone = AwsSession { role_arn: role(1), external_id: String::new(), chain: Vec::new(), ..session() };
    ask(&server.url, alone).await?;
    let asked = form(&server.asked()[0]);
    ensure!(asked.contains_key("Tags.member.2.Key") && asked.contains_key("Policy"), "{asked:?}");
    ensure!(!asked.keys().any(|key| key.starts_with("Transitive") || key == "ExternalId"), "{asked:?}");
    Ok(())
}

async fn refused() -> Result<()> {
    for n in 1..=3 {
        let server = Server::start(move |asked, _| sts(asked, n)).await?;
        let reply = ask(&server.url, session()).await?;
        let Some(Reply::Failure(outcome)) = &reply.kind else { anyhow::bail!("{reply:?}") };
        let with = if n == 1 {
            "the AWS source \"environment\"".to_owned()
        } else {
            format!("the session of {}", role(n - 1))
        };
        let says = format!("{with}: the role {} cannot be assumed: sts: AccessDenied", role(n));
        ensure!(outcome.code == "credentials_unavailable" && outcome.message.contains(&says), "{outcome:?}");
        ensure!(outcome.next_step.contains(&format!("the trust policy of {}", role(n))), "{outcome:?}");
        ensure!(outcome.next_step.contains("sts:TagSession"), "{outcome:?}");
        ensure!(outcome.next_step.contains("session's policies") == (n == 3), "{outcome:?}");
        ensure!(server.asked().len() == n as usize, "{}", server.asked().len());
    }
    Ok(())
}

/// Of a pod of EKS, whose token is in that file.
fn of_a_pod(folder: &Scratch, url: &str, session: Option<AwsSession>) -> Result<ResolveAws> {
    let token = folder.write("token", "a.web.token\n")?.display().to_string();
    let role = role(9);
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_ROLE_ARN", &role),
        ("AWS_ROLE_SESSION_NAME", "pod-1"),
        ("AWS_REGION", "eu-west-1"),
    ];
    Ok(ResolveAws {
        source: "instance_role".into(),
        endpoint_url: url.to_owned(),
        environment: variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        session,
        ..Default::default()
    })
}

async fn web_identity() -> Result<()> {
    let folder = Scratch::new("pod")?;
    let server = Server::start(|asked, _| {
        let known = form(asked).get("WebIdentityToken").is_some_and(|token| token == "a.web.token");
        if !known {
            let error = "<Error><Code>InvalidIdentityToken</Code><Message>no token of ours</Message></Error>";
            return (400, format!("<ErrorResponse>{error}</ErrorResponse>"));
        }
        let credentials = "<Credentials><AccessKeyId>ASIAPOD</AccessKeyId><SecretAccessKey>p0d</SecretAccessKey>\
             <SessionToken>token-pod</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>";
        let result = "AssumeRoleWithWebIdentityResult";
        (200, format!("<AssumeRoleWithWebIdentityResponse><{result}>{credentials}</{result}></AssumeRoleWithWebIdentityResponse>"))
    })
    .await?;
    let ask = async |how: ResolveAws| {
        resolution(&ResolveRequest { connection: "prod".into(), how: Some(How::Aws(how)) }).await
    };
    let reply = ask(of_a_pod(&folder, &server.url, None)?).await?;
    let got = target(&reply)?;
    let key = (got.access_key_id.as_str(), got.secret_access_key.as_str(), got.session_token.as_str());
    ensure!(key == ("ASIAPOD", "p0d", "token-pod"), "{got:?}");
    ensure!(got.region == "eu-west-1" && got.expires_ms > shared_proto::now_ms(), "{got:?}");
    let asked = &server.asked()[0];
    let role = role(9);
    let expected = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", &role),
        ("RoleSessionName", "pod-1"),
        ("WebIdentityToken", "a.web.token"),
    ];
    ensure!(form(asked) == expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), "{asked:?}");
    ensure!(asked.header("authorization").is_empty(), "there is no key to sign with");
    ensure!(!format!("{:?}", reply.steps).contains("web.token"), "{:?}", reply.steps);

    // what is missing or refused is said, without the token
    let missing = |name: &str, how: ResolveAws| {
        let environment = how.environment.into_iter().filter(|(n, _)| n != name).collect();
        ResolveAws { environment, ..how }
    };
    let how = of_a_pod(&folder, &server.url, None)?;
    folder.write("other", "another.token")?;
    let mut wrong = how.clone();
    wrong.environment.insert("AWS_WEB_IDENTITY_TOKEN_FILE".into(), folder.join("other").display().to_string());
    let mut gone = how.clone();
    gone.environment.insert("AWS_WEB_IDENTITY_TOKEN_FILE".into(), folder.join("gone").display().to_string());
    for (how, says) in [
        (missing("AWS_ROLE_ARN", how.clone()), "without AWS_ROLE_ARN"),
        (missing("AWS_REGION", ResolveAws { source: "environment".into(), ..how }), "without a region"),
        (wrong, "sts: InvalidIdentityToken"),
        (gone, "No such file"),
    ] {
        let reply = ask(how).await?;
        let Some(Reply::Failure(outcome)) = &reply.kind else { anyhow::bail!("{reply:?}") };
        ensure!(outcome.code == "credentials_unavailable" && outcome.message.contains(says), "{outcome:?}");
        ensure!(!outcome.message.contains("another.token") && !outcome.next_step.contains("another.token"));
    }
    Ok(())
}

async fn web_identity_of_moto() -> Result<()> {
    let (folder, moto) = (Scratch::new("pod")?, Moto::start().await?);
    let last = AwsSession { chain: Vec::new(), ..session() };
    let how = of_a_pod(&folder, &moto.url(), Some(last))?;
    let reply = resolution(&ResolveRequest { connection: "prod".into(), how: Some(How::Aws(how)) }).await?;
    ensure!(target(&reply)?.access_key_id.starts_with("ASIA") && reply.steps.len() == 2, "{reply:?}");
    Ok(())
}

/// So that it goes through the runner's proxy; what an entry names in a cloud's place is asked directly.
async fn connected() -> Result<()> {
    let folder = Scratch::new("connected")?;
    let secret = folder.write("secret", "s3cr3t")?.display().to_string();
    let keys = [("AWS_ACCESS_KEY_ID", "AKLONG"), ("AWS_SECRET_ACCESS_KEY", "l0ng"), ("AWS_REGION", "eu-west-1")];
    let of_keys = ResolveAws {
        source: "environment".into(),
        environment: keys.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        session: Some(session()),
        ..Default::default()
    };
    let azure = ResolveAzure {
        source: "client_secret".into(),
        tenant: "00000000-0000-4000-8000-000000000001".into(),
        client_id: "00000000-0000-4000-8000-000000000002".into(),
        cloud: "public".into(),
        client_secret_file: secret,
        ..Default::default()
    };
    for (how, host) in [
        (How::Aws(of_keys.clone()), "sts.eu-west-1.amazonaws.com:443"),
        (How::Aws(of_a_pod(&folder, "", None)?), "sts.eu-west-1.amazonaws.com:443"),
        (How::Azure(azure), "login.microsoftonline.com:443"),
        (How::Aws(ResolveAws { endpoint_url: "http://127.0.0.1:1".into(), ..of_keys }), ""),
    ] {
        let (dial, asks) = Dial::pair()?;
        let refusing = tokio::spawn(dial.refuse());
        let request = ResolveRequest { connection: "prod".into(), how: Some(how) };
        let reply = answered(Worker::start_dialling("resolve", asks)?, &request).await?;
        let Some(Reply::Failure(outcome)) = &reply.kind else { anyhow::bail!("{reply:?}") };
        ensure!(outcome.code == "credentials_unavailable", "{outcome:?}");
        ensure!(!outcome.next_step.contains("trust policy"), "nobody has refused the role: {outcome:?}");
        let asked = refusing.await??;
        ensure!(asked.iter().all(|asked| asked == host) && asked.is_empty() == host.is_empty(), "{host}: {asked:?}");
    }
    Ok(())
}

async fn moto() -> Result<()> {
    let moto = Moto::start().await?;
    let reply = ask(&moto.url(), session()).await?;
    let got = target(&reply)?;
    ensure!(got.access_key_id.starts_with("ASIA") && !got.session_token.is_empty(), "{got:?}");
    let what = shared_proto::v1::operation_request::What::WhoAmI(shared_proto::v1::WhoAmI::default());
    let given = crate::harness::operation(what, Target::Aws(got.clone())).await?;
    let who: shared_proto::documents::Identity = given.document()?;
    ensure!(who.principal.ends_with(&format!("assumed-role/r3/{PERSON}")), "{who:?}");
    let _ = reply.steps.last().context("steps")?;
    Ok(())
}
