//! Every source of Azure credentials, against a directory and metadata services of our own.

use anyhow::{Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use prost::Message as _;
use runner_tests::{Scratch, Suite};
use serde_json::{Value, json};
use shared_proto::v1::resolve_reply::Kind as Reply;
use shared_proto::v1::resolve_request::How;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{AzureTarget, ResolveAzure, ResolveReply, ResolveRequest};
use std::collections::BTreeMap;

use crate::azure_stand_in::decoded;
use crate::harness::resolution;
use crate::server::{Answer, Asked, Server};

const APP: &str = "44444444-1bf0-4dda-aec3-cb9272f09590";
const SECRET: &str = "s3cr3t~Value.of=the+app&";
const TOKEN_PATH: &str = "/contoso.example/oauth2/v2.0/token";

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("resolves_an_azure_secret", secret)
        .test("resolves_an_azure_certificate", certificate)
        .test("resolves_azure_workload_identity", workload)
        .test("resolves_an_azure_managed_identity", managed)
        .test("azure_logs_may_be_refused_alone", logs_alone)
        .test("azure_directories_refusals_are_told_without_the_secret", refusals)
        .test("azure_sources_that_give_nothing_are_named", nothing)
}

fn how(source: &str, url: &str) -> ResolveAzure {
    ResolveAzure {
        source: source.into(),
        tenant: "contoso.example".into(),
        client_id: APP.into(),
        subscription: "s".into(),
        cloud: "public".into(),
        endpoint_url: url.into(),
        ..Default::default()
    }
}
async fn ask(how: ResolveAzure) -> Result<ResolveReply> {
    resolution(&ResolveRequest { connection: "prod".into(), how: Some(How::Azure(how)) }).await
}
fn azure(reply: &ResolveReply) -> Result<&AzureTarget> {
    match &reply.kind {
        Some(Reply::Target(target)) => match &target.kind {
            Some(Target::Azure(target)) => Ok(target),
            _ => bail!("another target"),
        },
        Some(Reply::Failure(outcome)) => bail!("{outcome:?}"),
        other => bail!("no target: {}", other.is_some()),
    }
}
fn failed(reply: &ResolveReply, code: &str, words: &str) -> Result<()> {
    let Some(Reply::Failure(outcome)) = &reply.kind else { bail!("no failure") };
    ensure!(outcome.code == code && outcome.message.contains(words) && !outcome.next_step.is_empty(), "{outcome:?}");
    ensure!(outcome.message.contains("connection \"prod\""), "{outcome:?}");
    let all = String::from_utf8_lossy(&reply.encode_to_vec()).into_owned();
    ensure!(!all.contains(SECRET) && !all.contains("h3ader"), "{all}");
    Ok(())
}
fn left(reply: &ResolveReply) -> i64 {
    (reply.valid_until_ms - shared_proto::now_ms()) / 1000
}
fn form(asked: &Asked) -> BTreeMap<String, String> {
    asked.body.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (decoded(k), decoded(v))).collect()
}
/// <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow#error-response>
fn refused(error: &str, number: u64, said: &str) -> Answer {
    let said = format!("AADSTS{number}: {said} Trace ID: 11 Correlation ID: 22 Timestamp: 2024-05-01 10:00:00Z");
    (401, json!({"error": error, "error_description": said, "error_codes": [number]}).to_string()).into()
}

/// The directory: the token that it gives tells for whom it is. `proves` says why a form proves nothing.
fn entra(asked: &Asked, lasts: i64, proves: impl Fn(&BTreeMap<String, String>) -> Option<Answer>) -> Answer {
    let form = form(asked);
    let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    if asked.line.trim_end() != format!("POST {TOKEN_PATH} HTTP/1.1") {
        return (404, String::new()).into();
    }
    if asked.header("content-type") != "application/x-www-form-urlencoded" || get("grant_type") != "client_credentials"
    {
        return refused("unsupported_grant_type", 70_003, "The app requested an unsupported grant type.");
    }
    if get("client_id") != APP {
        return refused("unauthorized_client", 700_016, "Application was not found in the directory.");
    }
    if let Some(answer) = proves(&form) {
        return answer;
    }
    let token = match get("scope") {
        "https://management.azure.com/.default" => "for-management",
        "https://api.loganalytics.io/.default" => "for-logs",
        _ => {
            return refused(
                "invalid_scope",
                70_011,
                "The provided value for the input parameter 'scope' is not valid.",
            );
        }
    };
    (
        200,
        json!({"token_type": "Bearer", "expires_in": lasts, "ext_expires_in": lasts, "access_token": token})
            .to_string(),
    )
        .into()
}

fn by_secret(form: &BTreeMap<String, String>) -> Option<Answer> {
    (form.get("client_secret").map(String::as_str) != Some(SECRET) || form.contains_key("client_assertion"))
        .then(|| refused("invalid_client", 7_000_215, "Invalid client secret provided."))
}

async fn secret() -> Result<()> {
    let folder = Scratch::new("azure-secret")?;
    let file = folder.write("secret", format!("{SECRET}\n"))?.display().to_string();
    for (lasts, margin) in [(3599, 895..=900), (600, 535..=540), (30, 0..=0)] {
        let server = Server::start(move |asked: &Asked, _| entra(asked, lasts, by_secret)).await?;
        let reply = ask(ResolveAzure { client_secret_file: file.clone(), ..how("client_secret", &server.url) }).await?;
        let target = azure(&reply)?;
        ensure!((target.management_token.as_str(), target.logs_token.as_str()) == ("for-management", "for-logs"));
        ensure!(
            (target.subscription.as_str(), target.cloud.as_str(), target.tenant.as_str())
                == ("s", "public", "contoso.example")
        );
        ensure!(
            target.endpoint_url == server.url && target.logs_failure.is_empty() && margin.contains(&left(&reply)),
            "{}",
            left(&reply)
        );
        ensure!(!String::from_utf8_lossy(&reply.encode_to_vec()).contains(SECRET), "more than the tokens");
    }
    let server = Server::start(|asked: &Asked, _| entra(asked, 0, by_secret)).await?;
    let reply = ask(ResolveAzure { client_secret_file: file, ..how("client_secret", &server.url) }).await?;
    failed(&reply, "credentials_expired", "have expired already")
}

/// Checks an assertion as Entra does: <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>.
fn by_certificate(form: &BTreeMap<String, String>, thumbprint: &str, key: &[u8]) -> Option<Answer> {
    let no = |said: &str| Some(refused("invalid_client", 700_027, said));
    if form.get("client_assertion_type").map(String::as_str)
        != Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
    {
        return no("no assertion type");
    }
    let assertion = form.get("client_assertion").map(String::as_str).unwrap_or_default();
    let Some((signing, signature)) = assertion.rsplit_once('.') else { return no("no JWT") };
    let part = |text: &str| {
        BASE64.decode(text).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok()).unwrap_or_default()
    };
    let (header, claims) = signing.split_once('.').map(|(h, c)| (part(h), part(c))).unwrap_or_default();
    if header != json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint}) {
        return no("The certificate with that thumbprint is not known.");
    }
    let verified = BASE64
        .decode(signature)
        .is_ok_and(|s| UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key).verify(signing.as_bytes(), &s).is_ok());
    if !verified {
        return no("Client assertion contains an invalid signature.");
    }
    let now = shared_proto::now_ms() / 1000;
    let number = |name: &str| claims[name].as_i64().unwrap_or(0);
    let life = number("exp") - number("nbf");
    if number("nbf") > now + 5 || number("exp") <= now || !(1..=600).contains(&life) {
        return Some(refused("invalid_client", 700_024, "Client assertion is not within its valid time range."));
    }
    let audience = format!("https://login.microsoftonline.com{TOKEN_PATH}");
    let unique = claims["jti"].as_str().is_some_and(|id| id.len() >= 32);
    (claims["aud"] != audience.as_str() || claims["iss"] != APP || claims["sub"] != APP || !unique)
        .then(|| refused("invalid_client", 50_027, "JWT token is invalid or malformed."))
}

async fn certificate() -> Result<()> {
    let folder = Scratch::new("azure-certificate")?;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
    let certificate = rcgen::CertificateParams::new(vec!["app.example".into()])?.self_signed(&key)?;
    let thumbprint = BASE64.encode(digest(&SHA256, certificate.der()));
    let public = key.public_key_raw().to_vec();
    let write = |name: &str, text: String| anyhow::Ok(folder.write(name, text)?.display().to_string());
    let good = write("good", format!("{}{}", certificate.pem(), key.serialize_pem()))?;
    let known = thumbprint.clone();
    let server =
        Server::start(move |asked: &Asked, _| entra(asked, 3600, |form| by_certificate(form, &known, &public))).await?;
    let with =
        |file: &str| ask(ResolveAzure { certificate_file: file.into(), ..how("client_certificate", &server.url) });
    let reply = with(&good).await?;
    ensure!(azure(&reply)?.management_token == "for-management" && azure(&reply)?.logs_token == "for-logs");
    let assertions: Vec<_> = server.asked().iter().map(|a| form(a)["client_assertion"].clone()).collect();
    ensure!(assertions.len() == 2 && assertions[0] != assertions[1], "each is used once");
    // the key of another certificate signs for nobody
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
    let mixed = write("mixed", format!("{}{}", certificate.pem(), other.serialize_pem()))?;
    failed(&with(&mixed).await?, "credentials_unavailable", "invalid signature")?;
    let own = rcgen::CertificateParams::new(vec!["x.example".into()])?.self_signed(&other)?;
    let unknown = write("unknown", format!("{}{}", own.pem(), other.serialize_pem()))?;
    failed(&with(&unknown).await?, "credentials_unavailable", "AADSTS700027")?;
    let before = server.asked().len();
    let curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    for (name, text, words) in [
        ("no-key", certificate.pem(), "holds no key"),
        ("no-certificate", key.serialize_pem(), "holds no certificate"),
        ("curve", format!("{}{}", certificate.pem(), curve.serialize_pem()), "no RSA key"),
        ("empty", String::new(), "holds no certificate"),
    ] {
        failed(&with(&write(name, text)?).await?, "credentials_unavailable", words)?;
    }
    failed(&with("/no/such/file").await?, "credentials_unavailable", "/no/such/file")?;
    ensure!(server.asked().len() == before);
    Ok(())
}

async fn workload() -> Result<()> {
    let folder = Scratch::new("azure-workload")?;
    let token = "eyJh.ZmVkZXJhdGVk.c2ln";
    let file = folder.write("token", format!("{token}\n"))?.display().to_string();
    let server = Server::start(move |asked: &Asked, _| {
        entra(asked, 3600, |form| {
            (form.get("client_assertion").map(String::as_str) != Some(token) || form.contains_key("client_secret"))
                .then(|| {
                    refused(
                        "invalid_request",
                        70_021,
                        "No matching federated identity record found for presented assertion.",
                    )
                })
        })
    })
    .await?;
    let named = ResolveAzure { federated_token_file: file.clone(), ..how("workload_identity", &server.url) };
    ensure!(azure(&ask(named).await?)?.logs_token == "for-logs");
    let environment = [("AZURE_FEDERATED_TOKEN_FILE".to_owned(), file.clone())].into();
    let told = ResolveAzure { environment, ..how("workload_identity", &server.url) };
    let reply = ask(told).await?;
    ensure!(azure(&reply)?.management_token == "for-management");
    ensure!(!String::from_utf8_lossy(&reply.encode_to_vec()).contains(token), "more than the tokens");
    failed(
        &ask(how("workload_identity", &server.url)).await?,
        "credentials_unavailable",
        "without AZURE_FEDERATED_TOKEN_FILE",
    )?;
    let wrong = folder.write("wrong", "another")?.display().to_string();
    let reply = ask(ResolveAzure { federated_token_file: wrong, ..how("workload_identity", &server.url) }).await?;
    failed(&reply, "credentials_unavailable", "AADSTS70021: No matching federated identity record")?;
    for (name, text) in [("none", ""), ("two", "a b"), ("long", &"a".repeat(32 * 1024 + 1))] {
        let file = folder.write(name, text)?.display().to_string();
        let reply = ask(ResolveAzure { federated_token_file: file, ..how("workload_identity", &server.url) }).await?;
        failed(&reply, "credentials_unavailable", "it holds no token")?;
    }
    Ok(())
}

async fn managed() -> Result<()> {
    let token = |resource: &str| match resource {
        "https://management.azure.com" => "for-management",
        "https://api.loganalytics.io" => "for-logs",
        _ => "",
    };
    let server = Server::start(move |asked: &Asked, _| {
        let target = asked.line.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: BTreeMap<_, _> = query.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (decoded(k), decoded(v))).collect();
        let get = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let on = (shared_proto::now_ms() / 1000 + 7200).to_string();
        let given = token(get("resource"));
        let user = get("client_id");
        if !asked.line.starts_with("GET ") || given.is_empty() || !(user.is_empty() || user == APP) {
            return (400, json!({"error": "invalid_request", "error_description": "Identity not found"}).to_string());
        }
        let given = if user.is_empty() { given.to_owned() } else { format!("{given}-of-user") };
        match path {
            // https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
            "/metadata/identity/oauth2/token" if get("api-version") == "2018-02-01" && asked.header("metadata") == "true" => {
                (200, json!({"access_token": given, "client_id": "c", "expires_in": "7200", "expires_on": on, "resource": get("resource"), "token_type": "Bearer"}).to_string())
            }
            // https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference
            "/msi/token" if get("api-version") == "2019-08-01" && asked.header("x-identity-header") == "h3ader" => {
                (200, json!({"access_token": given, "expires_on": on, "resource": get("resource"), "token_type": "Bearer", "client_id": "c"}).to_string())
            }
            _ => (400, json!({"statusCode": 400, "message": "Bad request"}).to_string()),
        }
    })
    .await?;
    let own = |variables: &[(&str, &str)]| ResolveAzure {
        source: "managed_identity".into(),
        environment: variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    };
    let endpoint = format!("{}/msi/token", server.url);
    let app = [("IDENTITY_ENDPOINT", endpoint.as_str()), ("IDENTITY_HEADER", "h3ader")];
    let machine = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.url.as_str())];
    for variables in [&app[..], &machine] {
        let reply = ask(own(variables)).await?;
        let target = azure(&reply)?;
        ensure!((target.management_token.as_str(), target.logs_token.as_str()) == ("for-management", "for-logs"));
        ensure!(
            (895..=900).contains(&left(&reply)) && target.cloud == "public" && target.tenant.is_empty(),
            "{}",
            left(&reply)
        );
        ensure!(!String::from_utf8_lossy(&reply.encode_to_vec()).contains("h3ader"), "more than the tokens");
        let assigned = ask(ResolveAzure { client_id: APP.into(), ..own(variables) }).await?;
        ensure!(azure(&assigned)?.management_token == "for-management-of-user");
        let other = ask(ResolveAzure { client_id: "nobody".into(), ..own(variables) }).await?;
        failed(&other, "credentials_unavailable", "Identity not found")?;
    }
    let wrong = [("IDENTITY_ENDPOINT", endpoint.as_str()), ("IDENTITY_HEADER", "h3ader\r\nX: y")];
    failed(&ask(own(&wrong)).await?, "credentials_unavailable", "no header")?;
    let wrong = [("IDENTITY_ENDPOINT", endpoint.as_str()), ("IDENTITY_HEADER", "other")];
    failed(&ask(own(&wrong)).await?, "credentials_unavailable", "Bad request")?;
    // no other source asks it, whatever the environment says
    let before = server.asked().len();
    let environment = own(&app).environment;
    let reply = ask(ResolveAzure { environment, ..how("client_secret", "http://127.0.0.1:9") }).await?;
    failed(&reply, "credentials_unavailable", "the application's secret")?;
    ensure!(server.asked().len() == before);
    Ok(())
}

async fn logs_alone() -> Result<()> {
    let folder = Scratch::new("azure-logs")?;
    let file = folder.write("secret", SECRET)?.display().to_string();
    let server = Server::start(|asked: &Asked, _| {
        entra(asked, 3600, |form| {
            let logs = form.get("scope").is_some_and(|s| s.contains("loganalytics"));
            logs.then(|| refused("invalid_resource", 500_011, "The resource principal was not found in the tenant."))
        })
    })
    .await?;
    let reply = ask(ResolveAzure { client_secret_file: file, ..how("client_secret", &server.url) }).await?;
    let target = azure(&reply)?;
    ensure!(target.management_token == "for-management" && target.logs_token.is_empty(), "{target:?}");
    ensure!(
        target.logs_failure.contains("AADSTS500011") && !target.logs_failure.contains("Trace ID"),
        "{}",
        target.logs_failure
    );
    Ok(())
}

async fn refusals() -> Result<()> {
    let folder = Scratch::new("azure-refusals")?;
    let file = folder.write("secret", SECRET)?.display().to_string();
    let elsewhere =
        Server::start(|_: &Asked, _| (200, json!({"access_token": "stolen", "expires_in": 3600}).to_string())).await?;
    let there = format!("{}{TOKEN_PATH}", elsewhere.url);
    let token = |token: &str| (200, json!({"access_token": token, "expires_in": 3600}).to_string()).into();
    let cases: Vec<(Answer, &str, &str)> = vec![
        (
            refused("invalid_client", 7_000_215, &format!("Invalid client secret provided: {SECRET}.")),
            "credentials_unavailable",
            "AADSTS7000215: Invalid client secret provided: ….",
        ),
        (
            refused("invalid_client", 7_000_222, "The provided client secret keys are expired."),
            "credentials_expired",
            "AADSTS7000222",
        ),
        (
            refused("invalid_request", 90_002, "Tenant 'contoso.example' not found."),
            "credentials_unavailable",
            "AADSTS90002",
        ),
        ((503, "<html>busy</html>".to_owned()).into(), "credentials_unavailable", "it answered 503"),
        (
            Answer { status: 302, headers: vec![("Location", there.clone())], body: String::new() },
            "credentials_unavailable",
            "not followed",
        ),
        (
            Answer { status: 307, headers: vec![("Location", there)], body: String::new() },
            "credentials_unavailable",
            "not followed",
        ),
        ((200, "{}".to_owned()).into(), "credentials_unavailable", "no token"),
        ((200, "nonsense".to_owned()).into(), "credentials_unavailable", "no token"),
        (token("a\r\nX-Evil: y"), "credentials_unavailable", "no token"),
        ((200, json!({"access_token": "t"}).to_string()).into(), "credentials_unavailable", "how long"),
        ((200, " ".repeat(256 * 1024 + 1)).into(), "credentials_unavailable", "more than 262144 bytes"),
    ];
    for (answer, code, words) in cases {
        let Answer { status, headers, body } = answer;
        let server =
            Server::start(move |_: &Asked, _| Answer { status, headers: headers.clone(), body: body.clone() }).await?;
        let reply = ask(ResolveAzure { client_secret_file: file.clone(), ..how("client_secret", &server.url) }).await?;
        failed(&reply, code, words)?;
    }
    ensure!(elsewhere.asked().is_empty(), "{:?}", elsewhere.asked());
    Ok(())
}

async fn nothing() -> Result<()> {
    let folder = Scratch::new("azure-nothing")?;
    let nowhere = "http://127.0.0.1:9";
    let with = |text: &str| {
        let file = folder.write("secret", text).map(|p| p.display().to_string());
        async move { ask(ResolveAzure { client_secret_file: file?, ..how("client_secret", nowhere) }).await }
    };
    for text in ["", "\n", "a\nb", "a\tb", &"a".repeat(4097)] {
        failed(&with(text).await?, "credentials_unavailable", "holds no secret")?;
    }
    failed(&with(&"a".repeat(4096)).await?, "credentials_unavailable", "127.0.0.1:9")?;
    failed(&ask(how("client_secret", nowhere)).await?, "credentials_unavailable", "the application's secret")?;
    failed(&ask(how("guess", nowhere)).await?, "credentials_unavailable", "\"guess\" is no source")?;
    let file = folder.write("secret", SECRET)?.display().to_string();
    let good = ResolveAzure { client_secret_file: file, ..how("client_secret", nowhere) };
    for (wrong, words) in [
        (ResolveAzure { tenant: "../x".into(), ..good.clone() }, "no ids"),
        (ResolveAzure { client_id: "x".into(), ..good.clone() }, "no ids"),
        (ResolveAzure { cloud: "mars".into(), ..good.clone() }, "no cloud"),
        (ResolveAzure { endpoint_url: "nonsense".into(), ..good }, "endpoint_url"),
    ] {
        failed(&ask(wrong).await?, "credentials_unavailable", words)?;
    }
    Ok(())
}
