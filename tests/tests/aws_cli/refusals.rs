//! What is refused, and by whom: the proxy of runnerctl, the control plane, the worker that sees the body.

use super::usual;
use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use runner_tests::control_plane::aws_environment;
use serde_json::json;
use std::collections::BTreeMap;

/// What the script is answered, by its names for it: how the answer begins, and what is in it.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("connect example.org:443", "403", "\"example.org\" is no host of an AWS service"),
    ("connect 169.254.169.254:443", "403", "no host of an AWS service"),
    ("connect 169.254.169.254:80", "403", "no host of an AWS service"),
    ("connect 127.0.0.1:443", "403", "no host of an AWS service"),
    ("connect [::1]:443", "403", "no host of an AWS service"),
    ("connect sts.eu-central-1.amazonaws.com:80", "403", "only the port 443"),
    ("connect sts.eu-central-1.amazonaws.com.example.org:443", "403", "no host of an AWS service"),
    ("connect x.eu-central-1.elb.amazonaws.com:443", "403", "no host of an AWS service"),
    ("connect metadata.google.internal:443", "403", "no host of an AWS service"),
    ("password none", "407", ""),
    ("password wrong", "407", ""),
    ("plain", "403", "only CONNECT"),
    ("unsigned", "400", "the request is not signed"),
    ("twice signed", "400", "authorization stands in the request twice"),
    ("other host", "400", "its header says another one"),
    ("two hosts", "400", ""),
    ("absolute", "400", "names its host in the header alone"),
    ("other region", "400", "signed for sts in us-east-1"),
    ("other service", "400", "signed for iam in eu-central-1"),
    ("other key", "403", "AKIAOTHER, which is not the one that runnerctl gave"),
    ("two lengths", "400", ""),
    ("override", "400", "would make another request of it"),
    ("streamed signatures", "400", "chunks are signed one by one"),
    ("boto unsigned", "400", "invalid_argument the request is not signed"),
    ("boto other key sts", "403", "policy_denied"),
    ("boto other key ec2", "403", "policy_denied"),
    ("boto other key s3", "403", "policy_denied"),
    ("boto other key dynamodb", "403", "policy_denied"),
    ("boto other key lambda", "403", "policy_denied"),
    ("boto other key cloudwatch", "403", "policy_denied"),
];

pub(crate) async fn by_the_proxy() -> Result<()> {
    let usual = usual().await?;
    let before = usual.to_aws.len();
    let said = usual.boto("account", "refused.py", &[]).await?.success()?;
    for (name, status, part) in EXPECTED {
        let line = said
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
            .with_context(|| format!("{name} in {said}"))?;
        ensure!(line.starts_with(status) && line.contains(part), "{name}: {line}");
    }
    ensure!(said.lines().count() == EXPECTED.len(), "{said}");
    // the region is asked for, at the start, and nothing else has reached AWS
    ensure!(usual.to_aws.len() - before < 8 * 1024, "something of it went on");
    Ok(())
}

fn scope(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIAANY/20260101/eu-central-1/{service}/aws4_request, SignedHeaders=host, Signature=00"
    )
}

/// A request to STS by hand, but for what is given: its status, whether AWS answered, and what.
async fn by_hand(connection: &str, given: &[(&str, &str)], body: &str) -> Result<(u16, bool, String)> {
    let client = usual().await?.control_plane.admin().client();
    let mut headers = BTreeMap::from([
        ("aws-host", "sts.eu-central-1.amazonaws.com".to_owned()),
        ("aws-target", "/".to_owned()),
        ("aws-header-authorization", scope("sts")),
        ("aws-header-content-type", "application/x-www-form-urlencoded".to_owned()),
    ]);
    for (name, value) in given {
        headers.insert(name, (*value).to_owned());
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let path = format!("/api/v1/connections/{connection}/aws/request");
    let answer = client.request(Method::POST, &path, &headers, body.to_owned()).await?;
    Ok((answer.status.as_u16(), answer.headers.contains_key("runner-answer"), answer.text()))
}

/// AWS' word for it goes on as it is, and the runner asks its source again for the next request.
pub(crate) async fn expired() -> Result<()> {
    let usual = usual().await?;
    let form = "Action=GetCallerIdentity&Version=2011-06-15";
    let (status, of_aws, text) = by_hand("renewed", &[], form).await?;
    ensure!(status == 403 && of_aws && text.contains("<Code>ExpiredToken</Code>"), "{status} {text}");
    let id = aws_environment()["AWS_ACCESS_KEY_ID"];
    std::fs::write(&usual.profile, super::profile(id))?;
    let (status, of_aws, text) = by_hand("renewed", &[], form).await?;
    ensure!(status == 200 && of_aws && text.contains("<Arn>"), "{status} {text}");
    Ok(())
}

/// An operation of the runner's own is asked for once more, with what its source gives now, and nobody notices; once, and not again.
pub(crate) async fn again() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let refused = || usual.strict.stdout().text().lines().filter(|line| *line == "expired").count();
    // where the source has nothing else, that is said after the second time
    let identity = "/connections/again/identity";
    let before = refused();
    let (_, code) = user.refused(identity).await?;
    ensure!(code == "credentials_expired" && refused() == before + 2, "{code}, {} times", refused() - before);
    // what cannot be asked of AWS is refused with the credentials in hand, which are remembered
    let (_, code) = user.refused("/connections/again/resource?type=Nonsense&identifier=x").await?;
    ensure!(code == "invalid_argument", "{code}");
    let renewed = super::profile(aws_environment()["AWS_ACCESS_KEY_ID"]).replace("[renewed]", "[profile again]");
    std::fs::write(&usual.again, renewed)?;
    let before = refused();
    let who = user.get(identity).await?;
    ensure!(who["principal"] == "arn:aws:iam::1:user/x", "{who}");
    ensure!(refused() == before + 1, "the old key was tried {} times", refused() - before);
    Ok(())
}

/// A session of a role for each person, which says who that is; a test of the connection says how it was got.
pub(crate) async fn named() -> Result<()> {
    let usual = usual().await?;
    let admin = usual.control_plane.admin();
    let other = usual.control_plane.user(&admin.organization, "jo-k", "member").await?;
    let own = admin.get("/whoami").await?["user"]["name"].as_str().context("a name")?.to_owned();
    for (user, name) in [(admin, own.as_str()), (&other, "jo-k"), (admin, own.as_str())] {
        let who = user.get("/connections/named/identity").await?;
        let principal = who["principal"].as_str().unwrap_or_default();
        ensure!(principal.ends_with(&format!(":assumed-role/named/r,{name}")), "{who}");
    }
    let report = other.post("/connections/named/test", &json!({})).await?;
    let steps: Vec<_> = report["steps"].as_array().into_iter().flatten().map(|step| step["name"].clone()).collect();
    ensure!(steps == ["credentials", "role", "endpoint", "identity"], "{report}");
    ensure!(report["steps"].to_string().contains("r,jo-k"), "{report}");
    let permissions = other.get("/connections/named/permissions").await?;
    ensure!(
        permissions["least_policy"]["format"] == "iam_policy" && permissions["purpose"] == "browse",
        "{permissions}"
    );
    Ok(())
}

/// Past runnerctl: whoever has a token of the API asks by hand.
pub(crate) async fn by_the_rest() -> Result<()> {
    let usual = usual().await?;
    let ask = async |given: &[(&str, &str)], body: &str| by_hand("account", given, body).await;
    let form = "Action=GetCallerIdentity&Version=2011-06-15";
    for given in [&[][..], &[("aws-action", "GetCallerIdentity")]] {
        let (status, of_aws, text) = ask(given, form).await?;
        ensure!(status == 200 && of_aws && text.contains("<Arn>"), "{status} {text}");
    }
    let before = usual.to_aws.len();
    let iam = scope("iam");
    let long = "a".repeat(129);
    let large = format!("{form}&x={}", "a".repeat(4 * 1024 * 1024));
    for (given, body, part) in [
        // decided on as one thing, and another one in the body
        (
            &[("aws-action", "GetCallerIdentity")][..],
            "Action=AssumeRole&Version=2011-06-15",
            "names the action AssumeRole: not signed",
        ),
        (&[("aws-action", "GetCallerIdentity")], "Action=GetCallerIdentity&Action=AssumeRole", "names no one action"),
        (&[("aws-action", "GetCallerIdentity")], "Action=GetCallerIdentity&%61ction=AssumeRole", "names no one action"),
        (&[("aws-action", "GetCallerIdentity")], "", "names no one action"),
        (&[("aws-action", long.as_str())], form, "or it is no action"),
        (
            &[("aws-action", "GetCallerIdentity"), ("aws-header-content-type", "text/plain")],
            form,
            "no form of the service",
        ),
        (&[("aws-target", "/?Action=AssumeRole")], form, "in more than one way"),
        (&[("aws-host", "169.254.169.254")], form, "no host of an AWS service"),
        (&[("aws-host", "127.0.0.1")], form, "no host of an AWS service"),
        (&[("aws-header-authorization", iam.as_str())], form, "signed for iam"),
        (&[("aws-header-authorization", "Bearer x")], form, "only AWS4-HMAC-SHA256 is passed on"),
        (&[("aws-header-host", "iam.amazonaws.com")], form, "its header says another one"),
        (&[("aws-target", "https://iam.amazonaws.com/")], form, "no path"),
        (&[], large.as_str(), "longer than 4194304 bytes"),
    ] {
        let (status, of_aws, text) = ask(given, body).await?;
        ensure!((400..500).contains(&status) && !of_aws && text.contains(part), "{given:?}: {status} {text}");
    }
    ensure!(usual.to_aws.len() == before, "something of it went on");
    // of another provider, and nobody's
    let headers = [
        ("aws-host", "sts.eu-central-1.amazonaws.com"),
        ("aws-target", "/"),
        ("aws-header-authorization", &scope("sts")),
    ];
    let client = usual.control_plane.admin().client();
    let answer = client
        .anonymous()
        .request(Method::GET, "/api/v1/connections/account/aws/request", &headers, String::new())
        .await?;
    ensure!(answer.status.as_u16() == 401, "{answer:?}");
    Ok(())
}
