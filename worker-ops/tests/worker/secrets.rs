//! Secrets of stores: of a real API server, of moto, and of servers that check and answer as Vault's, Google's and Azure's references document
//! it. None of these three is what it stands in for.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use prost::Message as _;
use runner_tests::{Component, Moto, Suite, cluster};
use serde_json::{Value, json};
use shared_proto::frame::Kind;
use shared_proto::v1::secret_reply::Kind as Reply;
use shared_proto::v1::target::Kind as Kinds;
use shared_proto::v1::{
    AzureTarget, GcpTarget, Outcome, SecretRead, SecretReads, SecretReply, Target, VaultTarget, WorkerRequest,
};

use crate::aws;
use crate::harness::Worker;
use crate::kubernetes::{kubernetes, the_cluster};
use crate::server::{Asked, Plain, Server};

const VALUE: &str = "pl4nted-\"secret\"";

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[Component::Cluster])
        .test("secrets_of_a_cluster_are_read", of_kubernetes)
        .needs(&[Component::Moto])
        .test("secrets_of_aws_are_read", of_aws)
        .needs(&[])
        .test("secrets_of_a_vault_are_read", of_vault)
        .test("secrets_of_google_are_read", of_google)
        .test("secrets_of_a_key_vault_are_read", of_azure)
        .test("secrets_without_their_stores_target_are_refused", without_target)
}

/// What comes of these reads: values until one fails.
async fn read(
    kind: &str,
    target: Option<Kinds>,
    reads: &[(&str, &str)],
    of: SecretReads,
) -> Result<Vec<Result<String, Outcome>>> {
    let reads = reads.iter().map(|(path, key)| SecretRead { path: (*path).into(), key: (*key).into() }).collect();
    let secrets = SecretReads { kind: kind.into(), reads, ..of };
    let target = target.map(|kind| Target { kind: Some(kind) });
    let request = WorkerRequest { target, secrets: Some(secrets), ..WorkerRequest::default() };
    let mut worker = Worker::operation(&request).await?;
    let mut all = Vec::new();
    while let Some((kind, content)) = worker.frame().await? {
        ensure!(kind == Kind::Outcome, "{kind:?}");
        match SecretReply::decode(content)?.kind.context("something")? {
            Reply::Value(value) => all.push(Ok(String::from_utf8(value)?)),
            Reply::Failure(outcome) => {
                ensure!(!format!("{outcome:?}").contains("pl4nted"), "{outcome:?}");
                all.push(Err(outcome));
            }
        }
    }
    ensure!(worker.ended().await? == Some(0), "the exit code");
    Ok(all)
}

/// Each by itself: the value, or the code of its failure.
async fn each(
    kind: &str,
    target: Option<Kinds>,
    of: &SecretReads,
    table: &[(&str, &str, Result<&str, &str>)],
) -> Result<()> {
    for (path, key, expected) in table {
        let all = read(kind, target.clone(), &[(path, key)], of.clone()).await?;
        let found = all.first().context("an answer")?.as_ref().map(String::as_str).map_err(|o| o.code.as_str());
        ensure!(all.len() == 1 && found == *expected, "{kind} {path} {key}: {found:?}, not {expected:?}");
    }
    // all of one store by one worker, until the first that fails
    let good: Vec<_> = table.iter().filter(|(.., expected)| expected.is_ok()).map(|(p, k, _)| (*p, *k)).collect();
    let all = read(kind, target.clone(), &good, of.clone()).await?;
    ensure!(all.len() == good.len() && all.iter().all(Result::is_ok), "{all:?}");
    if let Some((path, key, _)) = table.iter().find(|(.., expected)| expected.is_err()) {
        let all = read(kind, target, &[good[0], (path, key), good[0]], of.clone()).await?;
        ensure!(all.len() == 2 && all[1].is_err(), "{all:?}");
    }
    Ok(())
}

async fn of_kubernetes() -> Result<()> {
    let cluster = the_cluster().await?;
    cluster.namespace("secrets").await?;
    let data = json!({
        "password": STANDARD.encode(VALUE), "user": STANDARD.encode("somebody"), "binary": STANDARD.encode([0xff, 0xfe]),
        "long": STANDARD.encode("x".repeat(64 * 1024 + 1))
    });
    let texts = json!({"password": STANDARD.encode(VALUE), "user": STANDARD.encode("somebody")});
    for (name, data) in [("mixed", data), ("texts", texts)] {
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data});
        cluster.create("/api/v1/namespaces/secrets/secrets", &object).await?;
    }
    let whole = json!({"password": VALUE, "user": "somebody"}).to_string();
    let admin = Kinds::Kubernetes(kubernetes(cluster, cluster::ADMIN));
    let table = [
        ("secrets/mixed", "password", Ok(VALUE)),
        ("secrets/texts", "", Ok(whole.as_str())),
        ("secrets/mixed", "none", Err("target_not_found")),
        ("secrets/mixed", "binary", Err("target_refused")),
        ("secrets/mixed", "", Err("target_refused")),
        ("secrets/mixed", "long", Err("too_large")),
        ("secrets/nothing", "a", Err("target_not_found")),
        ("nowhere/nothing", "a", Err("target_not_found")),
        ("secrets/../x", "a", Err("invalid_argument")),
    ];
    each("kubernetes", Some(admin), &SecretReads::default(), &table).await?;
    let nobody = Kinds::Kubernetes(kubernetes(cluster, cluster::RESTRICTED));
    let refused = read("kubernetes", Some(nobody), &[("secrets/mixed", "password")], SecretReads::default()).await?;
    ensure!(matches!(&refused[..], [Err(o)] if o.code == "target_forbidden"), "{refused:?}");
    let stranger = Kinds::Kubernetes(kubernetes(cluster, "no-token-of-anybody"));
    let refused = read("kubernetes", Some(stranger), &[("secrets/mixed", "password")], SecretReads::default()).await?;
    ensure!(matches!(&refused[..], [Err(o)] if o.code == "credentials_expired"), "{refused:?}");
    Ok(())
}

async fn of_aws() -> Result<()> {
    let moto = Moto::start().await?;
    let call = async |service: &str, target: &str, body: Value| {
        let headers = [("x-amz-target", target), ("content-type", "application/x-amz-json-1.1")];
        let answer = moto.call(service, Method::POST, "/", &headers, &body.to_string()).await?;
        ensure!(answer.status.is_success(), "{target}: {}", answer.text());
        Ok(())
    };
    let object = json!({"user": "somebody", "password": VALUE}).to_string();
    for body in [
        json!({"Name": "prod/plain", "SecretString": VALUE}),
        json!({"Name": "prod/object", "SecretString": object}),
        json!({"Name": "prod/binary", "SecretBinary": STANDARD.encode(VALUE)}),
    ] {
        call("secretsmanager", "secretsmanager.CreateSecret", body).await?;
    }
    for (name, kind, value) in [("/prod/plain", "String", VALUE), ("/prod/secret", "SecureString", object.as_str())] {
        call("ssm", "AmazonSSM.PutParameter", json!({"Name": name, "Type": kind, "Value": value})).await?;
    }
    let target = || Some(aws::target(&moto.url()));
    let table = [
        ("prod/plain", "", Ok(VALUE)),
        ("prod/object", "password", Ok(VALUE)),
        ("prod/object", "", Ok(object.as_str())),
        ("prod/binary", "", Ok(VALUE)),
        ("prod/plain", "password", Err("target_refused")),
        ("prod/object", "none", Err("target_not_found")),
        ("prod/nothing", "", Err("target_not_found")),
    ];
    each("aws-secrets-manager", target(), &SecretReads::default(), &table).await?;
    let table = [
        ("/prod/plain", "", Ok(VALUE)),
        ("/prod/secret", "password", Ok(VALUE)),
        ("/prod/nothing", "", Err("target_not_found")),
    ];
    each("aws-ssm", target(), &SecretReads::default(), &table).await?;
    // of another region there is nothing
    let elsewhere = SecretReads { place: "eu-north-1".into(), ..SecretReads::default() };
    let missed = read("aws-ssm", target(), &[("/prod/plain", "")], elsewhere).await?;
    ensure!(matches!(&missed[..], [Err(o)] if o.code == "target_not_found"), "{missed:?}");
    Ok(())
}

/// The KV engine, of both versions, as its API documents it.
fn vault(asked: &Asked) -> Plain {
    let errors = |status, said: &[&str]| (status, json!({ "errors": said }).to_string());
    let (verb, path, query) = asked.parts();
    if verb != "GET" || !query.is_empty() || asked.header("x-vault-request") != "true" {
        return errors(400, &["it is asked otherwise"]);
    }
    if asked.header("x-vault-token") != "hvs.good" {
        return errors(403, &["permission denied", "invalid token"]);
    }
    let fields = json!({"user": "somebody", "password": VALUE, "port": 5432});
    match (path.as_str(), asked.header("x-vault-namespace")) {
        ("/v1/kv/team/data/apps/shop", "ns") | ("/v1/secret/data/apps/shop", "") => {
            (200, json!({"data": {"data": fields, "metadata": {"version": 3}}}).to_string())
        }
        ("/v1/kv1/apps/shop", "") => (200, json!({"data": fields, "lease_duration": 2_764_800}).to_string()),
        ("/v1/secret/data/with%20space", "") => (200, json!({"data": {"data": {"a": "with-a-space"}}}).to_string()),
        // a version that was deleted
        ("/v1/secret/data/apps/gone", "") => (404, json!({"data": {"data": null, "metadata": {}}}).to_string()),
        ("/v1/secret/data/apps/denied", "") => errors(403, &["1 error occurred: permission denied"]),
        ("/v1/secret/data/apps/sealed", "") => errors(503, &["Vault is sealed"]),
        ("/v1/secret/data/apps/nonsense", "") => (200, format!("{VALUE} is no JSON")),
        ("/v1/secret/data/apps/long", "") => {
            (200, json!({"data": {"data": {"a": "x".repeat(64 * 1024 + 1)}}}).to_string())
        }
        _ => errors(404, &[]),
    }
}

async fn of_vault() -> Result<()> {
    let server = Server::start(|asked, _| vault(asked)).await?;
    let of = |mount: &str, version: u32, token: &str, namespace: &str| SecretReads {
        vault: Some(VaultTarget {
            address: server.url.clone(),
            token: token.into(),
            mount: mount.into(),
            version,
            namespace: namespace.into(),
            ..VaultTarget::default()
        }),
        ..SecretReads::default()
    };
    let whole = json!({"user": "somebody", "password": VALUE, "port": 5432}).to_string();
    let table = [
        ("apps/shop", "password", Ok(VALUE)),
        ("apps/shop", "port", Ok("5432")),
        ("apps/shop", "", Ok(whole.as_str())),
        ("with space", "a", Ok("with-a-space")),
        ("apps/shop", "none", Err("target_not_found")),
        ("apps/gone", "a", Err("target_not_found")),
        ("apps/nothing", "a", Err("target_not_found")),
        ("apps/denied", "a", Err("target_forbidden")),
        ("apps/sealed", "a", Err("target_failed")),
        ("apps/nonsense", "a", Err("target_failed")),
        ("apps/long", "a", Err("too_large")),
    ];
    each("vault", None, &of("secret", 2, "hvs.good", ""), &table).await?;
    let table = [("apps/shop", "password", Ok(VALUE)), ("apps/none", "", Err("target_not_found"))];
    each("vault", None, &of("kv/team", 2, "hvs.good", "ns"), &table).await?;
    each("vault", None, &of("kv1", 1, "hvs.good", ""), &table).await?;
    let refused = read("vault", None, &[("apps/shop", "a")], of("secret", 2, "hvs.b4d", "")).await?;
    ensure!(
        matches!(&refused[..], [Err(o)] if o.code == "target_forbidden" && !o.message.contains("b4d")),
        "{refused:?}"
    );
    drop(server);
    let nobody = VaultTarget {
        address: "http://127.0.0.1:9".into(),
        token: "t".into(),
        mount: "a".into(),
        version: 2,
        ..VaultTarget::default()
    };
    let nobody = SecretReads { vault: Some(nobody), ..SecretReads::default() };
    let refused = read("vault", None, &[("apps/shop", "a")], nobody).await?;
    ensure!(matches!(&refused[..], [Err(o)] if o.code == "target_unreachable"), "{refused:?}");
    Ok(())
}

fn google(asked: &Asked) -> Plain {
    let refused = |code: u16, status: &str| {
        (code, json!({"error": {"code": code, "status": status, "message": "no"}}).to_string())
    };
    if asked.header("authorization") != "Bearer ya29.good" {
        return refused(401, "UNAUTHENTICATED");
    }
    let payload = |value: &str| json!({"name": "n", "payload": {"data": STANDARD.encode(value)}}).to_string();
    let (verb, path, _) = asked.parts();
    match (verb.as_str(), path.as_str()) {
        ("GET", "/v1/projects/shop-1/secrets/db/versions/latest:access") => (200, payload(VALUE)),
        ("GET", "/v1/projects/shop-1/secrets/db/versions/3:access") => (200, payload("the-third-one")),
        ("GET", "/v1/projects/shop-1/secrets/odd/versions/latest:access") => {
            (200, json!({"payload": {"data": VALUE}}).to_string())
        }
        ("GET", "/v1/projects/shop-1/secrets/denied/versions/latest:access") => refused(403, "PERMISSION_DENIED"),
        _ => refused(404, "NOT_FOUND"),
    }
}

async fn of_google() -> Result<()> {
    let server = Server::start(|asked, _| google(asked)).await?;
    let target = |token: &str| {
        let target = GcpTarget { access_token: token.into(), endpoint_url: server.url.clone(), ..GcpTarget::default() };
        Some(Kinds::Gcp(target))
    };
    let of = SecretReads { place: "shop-1".into(), ..SecretReads::default() };
    let table = [
        ("db", "", Ok(VALUE)),
        ("db/versions/3", "", Ok("the-third-one")),
        ("none", "", Err("target_not_found")),
        ("denied", "", Err("target_forbidden")),
        ("odd", "", Err("target_failed")),
    ];
    each("gcp", target("ya29.good"), &of, &table).await?;
    for (target, of, code) in [
        (target("ya29.bad"), of, "credentials_expired"),
        (target("ya29.good"), SecretReads::default(), "invalid_argument"),
    ] {
        let refused = read("gcp", target, &[("db", "")], of).await?;
        ensure!(matches!(&refused[..], [Err(o)] if o.code == code), "{refused:?}");
    }
    Ok(())
}

fn azure(asked: &Asked) -> Plain {
    let refused = |code: u16, status: &str| (code, json!({"error": {"code": status, "message": "no"}}).to_string());
    if asked.header("authorization") != "Bearer good" {
        return refused(401, "Unauthorized");
    }
    let (_, path, query) = asked.parts();
    if query != [("api-version".to_owned(), "7.4".to_owned())] {
        return refused(400, "BadParameter");
    }
    let value =
        |value: &str| (200, json!({"value": value, "id": "https://shop.vault.azure.net/secrets/db/0a"}).to_string());
    match path.as_str() {
        "/secrets/db/" => value(VALUE),
        "/secrets/db/0a" => value("an-older-one"),
        "/secrets/denied/" => refused(403, "Forbidden"),
        _ => refused(404, "SecretNotFound"),
    }
}

async fn of_azure() -> Result<()> {
    let server = Server::start(|asked, _| azure(asked)).await?;
    let target = |token: &str| {
        let target =
            AzureTarget { vault_token: token.into(), endpoint_url: server.url.clone(), ..AzureTarget::default() };
        Some(Kinds::Azure(AzureTarget { vault_failure: "Entra has said no".into(), ..target }))
    };
    let of = || SecretReads { vault_name: "shop".into(), ..SecretReads::default() };
    let table = [
        ("db", "", Ok(VALUE)),
        ("db/0a", "", Ok("an-older-one")),
        ("none", "", Err("target_not_found")),
        ("denied", "", Err("target_forbidden")),
    ];
    each("azure", target("good"), &of(), &table).await?;
    let refused = read("azure", target(""), &[("db", "")], of()).await?;
    ensure!(
        matches!(&refused[..], [Err(o)] if o.code == "credentials_unavailable" && o.message.contains("Entra has said no")),
        "{refused:?}"
    );
    let refused = read("azure", target("bad"), &[("db", "")], of()).await?;
    ensure!(matches!(&refused[..], [Err(o)] if o.code == "credentials_expired"), "{refused:?}");
    Ok(())
}

async fn without_target() -> Result<()> {
    for kind in ["kubernetes", "aws-ssm", "gcp", "azure", "vault", "other"] {
        let refused = read(kind, None, &[("a", "")], SecretReads::default()).await?;
        ensure!(matches!(&refused[..], [Err(o)] if o.code == "internal"), "{refused:?}");
    }
    Ok(())
}
