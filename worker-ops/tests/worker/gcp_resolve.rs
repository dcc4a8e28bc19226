//! The resolver's sources of Google Cloud, against what gives tokens there as its references document it: signatures are verified, forms
//! are checked member by member, and whoever is asked is remembered.

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use runner_tests::{Scratch, Suite};
use serde_json::{Value, json};
use shared_proto::v1::resolve_reply::Kind as Reply;
use shared_proto::v1::resolve_request::How;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{GcpTarget, Outcome, ResolveGcp, ResolveReply, ResolveRequest};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::gcp_tokens::{
    ACCOUNT, AUDIENCE, PLATFORM, SUBJECT, by_assertion, exchanged, generated, given, key_file, machine, or_refused,
    refused,
};
use crate::harness::resolution;
use crate::server::{Asked, Server, pairs};

const FLAVOR: &str = "Metadata-Flavor: Google\r\n";

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("resolves_a_service_accounts_key", key)
        .test("resolves_a_users_login", user)
        .test("resolves_by_federation", federation)
        .test("a_subject_token_is_fetched_from_a_named_host_only", subject_by_url)
        .test("resolves_by_the_metadata_server_where_the_connection_says_so", metadata)
        .test("acts_as_a_chain_of_service_accounts", chain)
        .test("a_file_of_google_acts_as_the_account_that_it_names", acting_file)
        .test("a_file_of_google_that_gives_nothing_is_named_and_tells_no_secret", nothing)
        .test("a_hostile_file_of_google_leads_nowhere", hostile)
        .test("answers_of_google_that_are_no_token_are_refused", no_token)
}

async fn ask(how: ResolveGcp) -> Result<ResolveReply> {
    let reply = resolution(&ResolveRequest { connection: "prod".into(), how: Some(How::Gcp(how)) }).await?;
    if let Some(Reply::Failure(outcome)) = &reply.kind {
        let said = format!("{outcome:?}");
        ensure!(!said.contains("s3cr3t") && !said.contains("PRIVATE KEY") && !outcome.next_step.is_empty(), "{said}");
        ensure!(said.contains("connection \\\"prod\\\""), "{said}");
    }
    Ok(reply)
}
fn target(reply: &ResolveReply) -> Result<&GcpTarget> {
    match &reply.kind {
        Some(Reply::Target(target)) => match &target.kind {
            Some(Target::Gcp(target)) => Ok(target),
            _ => bail!("another target"),
        },
        other => bail!("{:?}", other.as_ref().map(|_| reply_failure(reply))),
    }
}
fn reply_failure(reply: &ResolveReply) -> Option<&Outcome> {
    match &reply.kind {
        Some(Reply::Failure(outcome)) => Some(outcome),
        _ => None,
    }
}
fn failed(reply: &ResolveReply, code: &str, words: &str) -> Result<()> {
    let outcome = reply_failure(reply).context("a failure")?;
    ensure!(outcome.code == code && outcome.message.contains(words), "{outcome:?}");
    Ok(())
}
fn left(reply: &ResolveReply) -> i64 {
    (reply.valid_until_ms - shared_proto::now_ms()) / 1000
}
fn how(folder: &Scratch, file: &Value, url: &str) -> Result<ResolveGcp> {
    let path = folder.write("credentials.json", file.to_string())?;
    Ok(ResolveGcp {
        source: "file".into(),
        credentials_file: path.display().to_string(),
        endpoint_url: url.into(),
        ..Default::default()
    })
}
async fn key() -> Result<()> {
    let folder = Scratch::new("gcp-key")?;
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let file = key_file(&pair)?;
    let public = pair.public_key().as_ref().to_vec();
    let server = Server::start(move |asked, _| or_refused(by_assertion(asked, &public, PLATFORM))).await?;
    let reply = ask(how(&folder, &file, &server.url)?).await?;
    let found = target(&reply)?;
    ensure!(
        found.access_token == "ya29.by-key" && found.principal == ACCOUNT && found.project == "shop-prod-1",
        "{found:?}"
    );
    ensure!(found.quota_project.is_empty() && found.endpoint_url == server.url && (895..=900).contains(&left(&reply)));
    // the entry's own project and scopes
    let public = pair.public_key().as_ref().to_vec();
    let narrow = "https://www.googleapis.com/auth/cloud-platform.read-only";
    let server = Server::start(move |asked, _| or_refused(by_assertion(asked, &public, narrow))).await?;
    let own = ResolveGcp {
        project: "lab-1".into(),
        quota_project: "billing-1".into(),
        scopes: vec![narrow.into()],
        ..how(&folder, &file, &server.url)?
    };
    let reply = ask(own).await?;
    let found = target(&reply)?;
    ensure!((found.project.as_str(), found.quota_project.as_str()) == ("lab-1", "billing-1"), "{found:?}");
    // another key than the account has
    let other = KeyPair::generate(KeySize::Rsa2048)?.public_key().as_ref().to_vec();
    let server = Server::start(move |asked, _| or_refused(by_assertion(asked, &other, PLATFORM))).await?;
    failed(&ask(how(&folder, &file, &server.url)?).await?, "credentials_expired", "Invalid JWT Signature.")
}

/// <https://developers.google.com/identity/protocols/oauth2/web-server#offline>
async fn user() -> Result<()> {
    let folder = Scratch::new("gcp-user")?;
    let file = json!({"type": "authorized_user", "client_id": "c.apps.googleusercontent.com", "client_secret": "s3cr3t-of-client",
        "refresh_token": "1//s3cr3t-refresh", "quota_project_id": "billing-1", "account": ""});
    let server = Server::start(|asked, before| {
        let form: BTreeMap<_, _> = pairs(&asked.body).into_iter().collect();
        let expected = BTreeMap::from(
            [
                ("grant_type", "refresh_token"),
                ("client_id", "c.apps.googleusercontent.com"),
                ("client_secret", "s3cr3t-of-client"),
                ("refresh_token", "1//s3cr3t-refresh"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        match before {
            // a failure of Google's own passes
            0 => (503, "busy".to_owned()),
            1 if form == expected => given("ya29.of-user"),
            _ => refused("invalid_grant", "Token has been expired or revoked: 1//s3cr3t-refresh"),
        }
    })
    .await?;
    let reply = ask(how(&folder, &file, &server.url)?).await?;
    let found = target(&reply)?;
    ensure!(
        found.access_token == "ya29.of-user" && found.project.is_empty() && found.quota_project == "billing-1",
        "{found:?}"
    );
    failed(&ask(how(&folder, &file, &server.url)?).await?, "credentials_expired", "expired or revoked: [secret]")
}

fn external(source: &Value, more: &Value) -> Value {
    let mut file = json!({"type": "external_account", "audience": AUDIENCE, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token", "credential_source": source});
    for (name, value) in more.as_object().into_iter().flatten() {
        file[name] = value.clone();
    }
    file
}

async fn federation() -> Result<()> {
    let folder = Scratch::new("gcp-federation")?;
    let text = folder.write("token", format!("{SUBJECT}\n"))?;
    let document = folder.write("token.json", json!({"access_token": SUBJECT}).to_string())?;
    let sources = [
        json!({"file": text}),
        json!({"file": text, "format": {"type": "text"}}),
        json!({"file": document, "format": {"type": "json", "subject_token_field_name": "access_token"}}),
    ];
    for source in &sources {
        let server = Server::start(|asked, _| exchanged(asked, PLATFORM)).await?;
        let reply =
            ask(how(&folder, &external(source, &json!({"quota_project_id": "billing-1"})), &server.url)?).await?;
        let found = target(&reply)?;
        ensure!(
            found.access_token == "ya29.d.federated"
                && found.principal == AUDIENCE
                && found.quota_project == "billing-1",
            "{found:?}"
        );
    }
    let url =
        format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken");
    let acts = json!({"service_account_impersonation_url": url, "service_account_impersonation": {"token_lifetime_seconds": 2800}});
    let server = Server::start(|asked, before| match before {
        0 => exchanged(asked, PLATFORM),
        _ => generated(
            asked,
            "ya29.d.federated",
            ACCOUNT,
            &json!({"delegates": [], "scope": [PLATFORM], "lifetime": "2800s"}),
            "ya29.acted",
        ),
    })
    .await?;
    let reply = ask(how(&folder, &external(&sources[0], &acts), &server.url)?).await?;
    let found = target(&reply)?;
    ensure!((found.access_token.as_str(), found.principal.as_str()) == ("ya29.acted", ACCOUNT), "{found:?}");
    ensure!((330..=340).contains(&left(&reply)), "{}", left(&reply));
    let no = |source: Value| how(&folder, &external(&source, &json!({})), "http://127.0.0.1:9");
    for (source, words) in [
        (json!({"executable": {"command": "/bin/touch /tmp/run"}}), "is a program, which is not run"),
        (
            json!({"environment_id": "aws1", "regional_cred_verification_url": "https://sts.amazonaws.com"}),
            "neither a file nor a URL",
        ),
        (json!({"file": "relative"}), "not absolute"),
        (json!({"file": "/no/such/token"}), "the subject token /no/such/token"),
        (json!({"file": "/dev/zero"}), "no regular file"),
        (
            json!({"file": document, "format": {"type": "json", "subject_token_field_name": "other"}}),
            "has no token in it",
        ),
        (json!({"file": text, "format": {"type": "xml"}}), "neither text nor json"),
    ] {
        failed(&ask(no(source)?).await?, "credentials_unavailable", words)?;
    }
    Ok(())
}

async fn subject_by_url() -> Result<()> {
    let folder = Scratch::new("gcp-subject")?;
    let issuer = Server::start(|asked, _| {
        let (verb, path, query) = asked.parts();
        let fits = verb == "GET"
            && path == "/token"
            && query == [("audience".to_owned(), "x".to_owned())]
            && asked.header("x-from") == "runner";
        if fits { (200, json!({"value": SUBJECT}).to_string()) } else { (403, String::new()) }
    })
    .await?;
    let google = Server::start(|asked, _| exchanged(asked, PLATFORM)).await?;
    let source = json!({"url": format!("{}/token?audience=x", issuer.url), "headers": {"X-From": "runner"},
        "format": {"type": "json", "subject_token_field_name": "value"}});
    let plain = how(&folder, &external(&source, &json!({})), &google.url)?;
    failed(&ask(plain.clone()).await?, "credentials_unavailable", "is not among the entry's subject_token_hosts")?;
    ensure!(issuer.asked().is_empty() && google.asked().is_empty(), "nobody is asked");
    let host = issuer.url.trim_start_matches("http://").to_owned();
    for named in [host.clone(), "127.0.0.1".to_owned()] {
        let how = ResolveGcp { subject_token_hosts: vec![named], ..plain.clone() };
        ensure!(target(&ask(how).await?)?.access_token == "ya29.d.federated");
    }
    let other = ResolveGcp { subject_token_hosts: vec!["127.0.0.1:1".into(), "localhost".into()], ..plain };
    failed(&ask(other).await?, "credentials_unavailable", "subject_token_hosts")
}

async fn metadata() -> Result<()> {
    let server = Server::with(FLAVOR, |asked, _| machine(asked)).await?;
    let at = |server: &Server| {
        let host = server.url.trim_start_matches("http://").to_owned();
        ResolveGcp {
            source: "metadata".into(),
            environment: [("GCE_METADATA_HOST".to_owned(), host)].into(),
            ..Default::default()
        }
    };
    let reply = ask(at(&server)).await?;
    let found = target(&reply)?;
    ensure!(
        (found.access_token.as_str(), found.principal.as_str(), found.project.as_str())
            == ("ya29.of-machine", ACCOUNT, "shop-prod-1"),
        "{found:?}"
    );
    let scoped = ResolveGcp { scopes: vec![PLATFORM.into()], project: "lab-1".into(), ..at(&server) };
    let reply = ask(scoped).await?;
    ensure!(target(&reply)?.access_token == "ya29.narrower" && target(&reply)?.project == "lab-1");
    // what answers there and is none of Google's gets no further
    let other = Server::start(|asked, _| machine(asked)).await?;
    failed(&ask(at(&other)).await?, "credentials_unavailable", "none of Google's")?;
    ensure!(other.asked().len() == 1);
    let none = Server::with(FLAVOR, |_, _| (404, "no service account".to_owned())).await?;
    failed(&ask(at(&none)).await?, "credentials_unavailable", "answered 404 Not Found: no service account")?;
    let nobody =
        ResolveGcp { environment: [("GCE_METADATA_HOST".to_owned(), "127.0.0.1:1".to_owned())].into(), ..at(&none) };
    failed(&ask(nobody).await?, "credentials_unavailable", "the metadata server 127.0.0.1:1")?;
    // a file that cannot be read does not lead to the metadata server
    let asked = server.asked().len();
    let file = ResolveGcp { source: "file".into(), credentials_file: "/no/such".into(), ..at(&server) };
    failed(&ask(file).await?, "credentials_unavailable", "the credentials file /no/such")?;
    ensure!(server.asked().len() == asked);
    failed(&ask(ResolveGcp { source: "cli".into(), ..at(&server) }).await?, "credentials_unavailable", "is no source")
}

async fn chain() -> Result<()> {
    let folder = Scratch::new("gcp-chain")?;
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let (first, last) = ("first@shop-prod-1.iam.gserviceaccount.com", "last@shop-prod-1.iam.gserviceaccount.com");
    let narrow = "https://www.googleapis.com/auth/logging.read";
    let public = Arc::new(pair.public_key().as_ref().to_vec());
    let google = move |asked: &Asked, before: usize| match before {
        0 => or_refused(by_assertion(asked, &public, PLATFORM)),
        _ => {
            let body = json!({"delegates": [format!("projects/-/serviceAccounts/{first}")], "scope": [narrow], "lifetime": "1800s"});
            generated(asked, "ya29.by-key", last, &body, "ya29.of-last")
        }
    };
    let server = Server::start(google).await?;
    let plain = how(&folder, &key_file(&pair)?, &server.url)?;
    let acts = |impersonate: &[&str]| ResolveGcp {
        impersonate: impersonate.iter().map(|a| (*a).to_owned()).collect(),
        impersonation_seconds: 1800,
        scopes: vec![narrow.into()],
        ..plain.clone()
    };
    let reply = ask(acts(&[first, last])).await?;
    let found = target(&reply)?;
    ensure!((found.access_token.as_str(), found.principal.as_str()) == ("ya29.of-last", last), "{found:?}");
    ensure!((330..=340).contains(&left(&reply)), "{}", left(&reply));
    let public = Arc::new(pair.public_key().as_ref().to_vec());
    let server = Server::start(move |asked, before| match before {
        0 => or_refused(by_assertion(asked, &public, PLATFORM)),
        _ => generated(asked, "ya29.by-key", last, &json!({}), ""),
    })
    .await?;
    let denied =
        ResolveGcp { endpoint_url: server.url.clone(), ..acts(&["other@shop-prod-1.iam.gserviceaccount.com"]) };
    let reply = ask(denied).await?;
    failed(&reply, "credentials_unavailable", "cannot be acted as")?;
    let outcome = reply_failure(&reply).context("a failure")?;
    ensure!(
        outcome.message.contains("iam.serviceAccounts.getAccessToken")
            && outcome.next_step.contains("serviceAccountTokenCreator"),
        "{outcome:?}"
    );
    Ok(())
}

/// What `gcloud auth application-default login --impersonate-service-account` writes.
async fn acting_file() -> Result<()> {
    let folder = Scratch::new("gcp-acting")?;
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let last = "last@shop-prod-1.iam.gserviceaccount.com";
    let url = format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{last}:generateAccessToken");
    let file = |delegates: Value| -> Result<Value> {
        let source = key_file(&pair)?;
        Ok(json!({"type": "impersonated_service_account", "service_account_impersonation_url": url,
            "delegates": delegates, "source_credentials": source}))
    };
    let public = pair.public_key().as_ref().to_vec();
    let server = Server::start(move |asked, before| match before {
        0 => or_refused(by_assertion(asked, &public, PLATFORM)),
        _ => {
            let body = json!({"delegates": [format!("projects/-/serviceAccounts/{ACCOUNT}")], "scope": [PLATFORM], "lifetime": "3600s"});
            generated(asked, "ya29.by-key", last, &body, "ya29.of-last")
        }
    })
    .await?;
    let reply =
        ask(how(&folder, &file(json!([format!("projects/-/serviceAccounts/{ACCOUNT}")]))?, &server.url)?).await?;
    let found = target(&reply)?;
    ensure!((found.access_token.as_str(), found.principal.as_str()) == ("ya29.of-last", last), "{found:?}");
    let wrong = how(&folder, &file(json!(["somebody@example.com"]))?, &server.url)?;
    failed(&ask(wrong).await?, "credentials_unavailable", "its delegates are no service accounts")?;
    let mut nested = file(Value::Null)?;
    nested["source_credentials"] = file(Value::Null)?;
    failed(&ask(how(&folder, &nested, &server.url)?).await?, "credentials_unavailable", "its type is none of")
}

async fn nothing() -> Result<()> {
    let folder = Scratch::new("gcp-nothing")?;
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let whole = key_file(&pair)?;
    let without = |name: &str, value: Value| {
        let mut file = whole.clone();
        file[name] = value;
        how(&folder, &file, "http://127.0.0.1:9")
    };
    for (name, value, words) in [
        ("type", json!("s3cr3t"), "its type is none of"),
        ("type", json!(null), "it has no type"),
        ("private_key", json!(null), "it has no private_key"),
        ("private_key", json!("s3cr3t"), "its private_key: it is no key in PEM"),
        (
            "private_key",
            json!("-----BEGIN PRIVATE KEY-----\nczNjcjN0\n-----END PRIVATE KEY-----\n"),
            "no RSA key of 2048",
        ),
        ("client_email", json!(5), "it has no client_email"),
        ("token_uri", json!(""), "it has no token_uri"),
        ("universe_domain", json!("s3ns.example"), "universe_domain is not googleapis.com"),
    ] {
        failed(&ask(without(name, value)?).await?, "credentials_unavailable", words)?;
    }
    let path = folder.write("broken.json", "{\"private_key\": \"s3cr3t\", oops")?.display().to_string();
    let broken = ResolveGcp { source: "file".into(), credentials_file: path, ..Default::default() };
    failed(&ask(broken).await?, "credentials_unavailable", "is no JSON (line 1,")?;
    let relative = ResolveGcp { source: "file".into(), credentials_file: "key.json".into(), ..Default::default() };
    failed(&ask(relative).await?, "credentials_unavailable", "not absolute")?;
    // nobody is there
    failed(&ask(how(&folder, &whole, "http://127.0.0.1:1")?).await?, "credentials_unavailable", "127.0.0.1:1")
}

async fn hostile() -> Result<()> {
    let folder = Scratch::new("gcp-hostile")?;
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let thief = Server::start(|_, _| given("ya29.x")).await?;
    let mut file = key_file(&pair)?;
    for uri in [
        format!("{}/token", thief.url),
        "https://oauth2.googleapis.com.evil.example/token".to_owned(),
        "http://169.254.169.254/token".to_owned(),
    ] {
        file["token_uri"] = json!(uri);
        failed(&ask(how(&folder, &file, "")?).await?, "credentials_unavailable", "which is not oauth2.googleapis.com")?;
    }
    let token = folder.write("token", SUBJECT)?;
    let source = json!({"file": token});
    let elsewhere = external(&source, &json!({"token_url": format!("{}/v1/token", thief.url)}));
    failed(&ask(how(&folder, &elsewhere, "")?).await?, "credentials_unavailable", "which is not sts.googleapis.com")?;
    let url = format!("{}/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken", thief.url);
    let elsewhere = external(&source, &json!({"service_account_impersonation_url": url}));
    failed(&ask(how(&folder, &elsewhere, "")?).await?, "credentials_unavailable", "is none of Google's")?;
    ensure!(thief.asked().is_empty(), "{:?}", thief.asked().len());
    // Google's own answer leads elsewhere: nothing goes there
    let leads = Server::with("Location: http://127.0.0.1:1/\r\n", |_, _| (307, String::new())).await?;
    failed(&ask(how(&folder, &key_file(&pair)?, &leads.url)?).await?, "credentials_unavailable", "answered 307")?;
    ensure!(leads.asked().len() == 1);
    Ok(())
}

async fn no_token() -> Result<()> {
    let folder = Scratch::new("gcp-no-token")?;
    let file = key_file(&KeyPair::generate(KeySize::Rsa2048)?)?;
    for (status, body, code, words) in [
        (200, json!({"access_token": "", "expires_in": 3600}), "credentials_unavailable", "no access token"),
        (200, json!({"access_token": "s3cr3t\nx", "expires_in": 3600}), "credentials_unavailable", "no access token"),
        (200, json!({"access_token": "s3cr3t"}), "credentials_unavailable", "how long the token lasts"),
        (200, json!({"access_token": "s3cr3t", "expires_in": 0}), "credentials_expired", "expired already"),
        (200, json!({"access_token": "s3cr3t", "expires_in": -1}), "credentials_expired", "expired already"),
        (200, json!("s3cr3t"), "credentials_unavailable", "no JSON document"),
        (
            403,
            json!({"error": {"status": "PERMISSION_DENIED", "message": "in words"}}),
            "credentials_unavailable",
            "in words",
        ),
    ] {
        let server = Server::start(move |_, _| (status, body.to_string())).await?;
        failed(&ask(how(&folder, &file, &server.url)?).await?, code, words)?;
    }
    for (size, fits) in [(256 * 1024, true), (256 * 1024 + 1, false)] {
        let server = Server::start(move |_, _| {
            let body = json!({"access_token": "ya29.x", "expires_in": 3600}).to_string();
            (200, format!("{body}{}", " ".repeat(size - body.len())))
        })
        .await?;
        let reply = ask(how(&folder, &file, &server.url)?).await?;
        ensure!(target(&reply).is_ok() == fits, "{size}");
    }
    let soon = Server::start(|_, _| (200, json!({"access_token": "ya29.x", "expires_in": 360}).to_string())).await?;
    let reply = ask(how(&folder, &file, &soon.url)?).await?;
    ensure!(target(&reply).is_ok() && (295..=300).contains(&left(&reply)), "{}", left(&reply));
    Ok(())
}
