//! The builders of the real components, against the components: a suite that fails here says nothing about our own programs.

use anyhow::{Result, ensure};
use hyper::Method;
use runner_tests::engine::{EngineKind, quick_module};
use runner_tests::proxy::{HttpProxy, Manner};
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, Engine, Moto, Scratch, Suite, cluster};
use serde_json::json;
use std::process::ExitCode;

static CLUSTER: Shared<Cluster> = Shared::new();

async fn the_cluster() -> Result<&'static Cluster> {
    CLUSTER.get(usual_cluster).await
}

fn main() -> ExitCode {
    Suite::new()
        .needs(&[Component::Cluster])
        .test("cluster_runs_pods_and_tells_their_logs", cluster_logs)
        .test("cluster_refuses_the_restricted_user", cluster_refuses)
        .needs(&[Component::Moto])
        .test("moto_answers", moto_answers)
        .needs(&[Component::Tofu])
        .test("tofu_applies_without_the_network", || engine_applies(EngineKind::OpenTofu))
        .needs(&[Component::Terraform])
        .test("terraform_applies_without_the_network", || engine_applies(EngineKind::Terraform))
        .needs(&[])
        .test("proxy_asks_for_a_password", proxy_password)
        .run()
}

async fn cluster_logs() -> Result<()> {
    let cluster = the_cluster().await?;
    for (container, text) in [("app", "one"), ("app", "two"), ("side", "other")] {
        Cluster::append_log(&cluster.log_file("seen", "web-1", container), text)?;
    }
    ensure!(cluster.log("seen", "web-1", "container=app").await? == "one\ntwo\n");
    ensure!(cluster.log("seen", "web-1", "container=app&tailLines=1").await? == "two\n");
    ensure!(cluster.log("seen", "web-1", "container=side").await? == "other\n");
    Ok(())
}

async fn cluster_refuses() -> Result<()> {
    let restricted = the_cluster().await?.client().with_token(cluster::RESTRICTED);
    ensure!(restricted.get("/api/v1/namespaces/seen/pods").await?.status == 200);
    ensure!(restricted.get("/api/v1/namespaces/default/pods").await?.status == 403);
    ensure!(restricted.anonymous().get("/api/v1/namespaces").await?.status != 200);
    Ok(())
}

async fn moto_answers() -> Result<()> {
    let moto = Moto::start().await?;
    moto.bucket("tests", ("team", "blue")).await?;
    let (account, arn) = moto.caller_identity().await?;
    ensure!(account.len() == 12 && arn.starts_with("arn:aws:"), "{account} {arn}");
    let buckets = moto.call("s3", Method::GET, "/", &[], "").await?;
    ensure!(buckets.text().contains("<Name>tests</Name>"), "{}", buckets.text());
    Ok(())
}

async fn engine_applies(kind: EngineKind) -> Result<()> {
    let engine = Engine::new(kind)?;
    let folder = Scratch::new("module")?;
    folder.write("main.tf", quick_module())?;
    for arguments in [&["init", "-input=false"][..], &["apply", "-auto-approve", "-input=false"]] {
        engine.run(folder.path(), arguments).await?.success()?;
    }
    let outputs = engine.run(folder.path(), &["output", "-json"]).await?.success()?;
    let outputs: serde_json::Value = serde_json::from_str(&outputs)?;
    ensure!(outputs["greeting"]["value"] == json!("hello"), "{outputs}");
    Ok(())
}

async fn proxy_password() -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let proxy = HttpProxy::new(Manner::Password { user: "u".into(), password: "p".into() }).await?;
    let mut stream = tokio::net::TcpStream::connect(proxy.url().trim_start_matches("http://")).await?;
    stream.write_all(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 407"), "{answer}");
    Ok(())
}
