//! The main job: each operation through the API and through `runnerctl` agrees with a plain call to the same API server or AWS
//! stand-in; a deployment does what the engine does by hand.

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use runner_tests::control_plane::{ENDS, User};
use runner_tests::ctl::Ctl;
use runner_tests::engine::{EngineKind, quick_module, slow_module};
use runner_tests::process::{Mark, Program};
use runner_tests::proxy::{HttpProxy, Manner};
use runner_tests::runner::{Setup, WITHOUT, given};
use runner_tests::world::{self, Shared, World, usual_cluster_with};
use runner_tests::{Cluster, Component, Engine, Moto, Scratch, Suite, archive, cluster, eventually, scratch};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(30);
const JOB: Duration = Duration::from_secs(120);
/// What a session may do, for a real STS.
const POLICY: &str = r#"{
  "Version": "2012-10-17",
  "Statement": [{ "Effect": "Allow", "Action": ["ec2:Describe*", "tag:Get*"], "Resource": "*" }]
}"#;

/// What all scenarios share.
struct Usual {
    world: World,
    cluster: Cluster,
    moto: Option<Moto>,
    proxy: HttpProxy,
}

static USUAL: Shared<Usual> = Shared::new();

async fn usual() -> Result<&'static Usual> {
    USUAL
        .get(|| async {
            let cluster = usual_cluster_with(&["of-ctl"]).await?;
            for n in 1..=3 {
                let labels = json!({ "app": "db", "n": n.to_string() });
                cluster.create_pod("default", &format!("db-{n}"), &["app"], &labels).await?;
            }
            for n in 1..=3 {
                cluster.running("default", &format!("db-{n}")).await?;
            }
            let moto = if Component::Moto.missing().is_none() { Some(Moto::start().await?) } else { None };
            let proxy = HttpProxy::new(Manner::Password { user: "u".into(), password: "p w".into() }).await?;
            let behind = |login: &str| {
                let url = proxy.url().replace("http://", &format!("http://{login}"));
                let kubeconfig = cluster.kubeconfig(cluster.address(), cluster::ADMIN);
                kubeconfig.replace("    server:", &format!("    proxy-url: {url}\n    server:"))
            };
            let (behind, locked) = (behind("u:p%20w@"), behind(""));
            cluster.service_account("seen", "viewer").await?;
            let kubeconfig = cluster.kubeconfig(cluster.address(), cluster::ADMIN);
            let restricted = cluster.kubeconfig(cluster.address(), cluster::RESTRICTED);
            let folder = Scratch::new("policies")?;
            let policy = folder.write("policy.json", POLICY)?;
            // read again with the configuration
            std::mem::forget(folder);
            let engines = world::engines();
            let world = World::beside(&cluster, |mut setup| {
                if let Some(moto) = &moto {
                    setup = setup.aws("account", moto);
                    setup = setup.aws_profile("by-profile", moto).expect("its folder is there");
                    setup = setup.table("connections.narrow", &narrow(moto, &policy));
                }
                for (name, kubeconfig, account) in [
                    ("bound", &kubeconfig, "seen/viewer"),
                    ("bound-behind", &behind, "seen/viewer"),
                    ("unbound", &kubeconfig, "seen/nobody"),
                    ("not-allowed", &restricted, "seen/viewer"),
                ] {
                    setup = setup.kubernetes(&format!("{name}-file"), kubeconfig).expect("its folder is there");
                    let file = setup.folder().join(format!("{name}-file.kubeconfig")).display().to_string();
                    let lines =
                        format!("provider = \"kubernetes\"\nkubeconfig = {file:?}\nservice_account = {account:?}");
                    setup = setup.table(&format!("connections.{name}"), &lines);
                }
                for (name, kubeconfig) in [("behind", &behind), ("locked", &locked)] {
                    setup = setup.kubernetes(name, kubeconfig).expect("its folder is there");
                }
                setup
                    .engines(&engines.iter().collect::<Vec<_>>())
                    .table("sources", "allow_file = true")
                    .reads(&repositories())
            })
            .await?;
            if let Some(moto) = &moto {
                moto.bucket("reports", ("team", "blue")).await?;
                moto.bucket("archive", ("team", "red")).await?;
                for name in ["account", "by-profile", "narrow"] {
                    world.user().connection(name, "aws", None).await?;
                }
            }
            let started = world.runner.message(Mark::default(), SECONDS, "runner started").await?;
            eprintln!("at level {}", started["isolation"].as_str().unwrap_or_default());
            // its configuration stays on disk as long as the runner
            std::mem::forget(engines);
            for name in ["behind", "locked", "bound", "bound-behind", "unbound", "not-allowed"] {
                world.user().connection(name, "kubernetes", None).await?;
            }
            Ok(Usual { world, cluster, moto, proxy })
        })
        .await
}

/// An AWS entry whose workers get a session of a role.
fn narrow(moto: &Moto, policy: &Path) -> String {
    format!(
        "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = {:?}\n\
         assume_role_arn = \"arn:aws:iam::123456789012:role/narrow\"\nexternal_id = \"of-the-tests\"\nsession_seconds = 900\n\
         session_policy_file = {:?}",
        moto.url(),
        policy.display().to_string()
    )
}

async fn ctl(usual: &Usual) -> Result<Ctl> {
    Ctl::new(&usual.world.control_plane, usual.world.user())
}

fn main() -> ExitCode {
    let suite = Suite::new()
        .needs(&[Component::Cluster])
        .test("namespaces_and_pods_agree_with_plain_calls", lists_agree)
        .test("a_described_pod_is_the_api_servers_own", describe_agrees)
        .test("logs_agree_with_plain_calls", logs_agree)
        .test("a_followed_log_comes_line_by_line_and_is_cancelled", follow_and_cancel)
        .test("exec_gives_output_input_and_exit_code", exec)
        .test("a_terminal_has_its_size_and_changes_it", terminal)
        .test("what_the_target_refuses_is_the_targets_own_word", refusals)
        .test("connections_are_tested_and_named", connections)
        .test("a_cluster_behind_a_proxy_is_reached_through_it", behind_a_proxy)
        .test("a_worker_gets_a_token_of_the_service_account_and_no_more", bound_token)
        .test("runnerctl_shows_the_same", runnerctl_kubernetes)
        .test("operations_are_listed_with_their_ends", operations_are_listed)
        .needs(&[Component::Cluster, Component::Moto])
        .test("aws_agrees_with_plain_calls", aws_agrees)
        .test("resources_of_all_connections_come_together", resources_together)
        .test("a_worker_gets_a_session_of_the_role_and_no_more", narrowed_session)
        .needs(&[Component::Cluster, Component::Tofu])
        .limit(300)
        .test("tofu_deploys_changes_and_destroys", || deploys(EngineKind::OpenTofu))
        .test("a_job_gets_a_token_of_the_service_account_and_no_more", bound_job)
        .test("behind_a_proxy_a_job_asks_for_hosts_that_it_may_reach", job_behind_a_proxy)
        .test("a_plan_may_be_discarded_and_a_job_cancelled", discard_and_cancel)
        .test("a_failing_module_ends_failed_with_its_diagnostics", failing_module)
        .test("runnerctl_deploys_a_folder", runnerctl_deploys)
        .test("a_part_of_a_stack_by_the_command_line", a_part)
        .needs(&[Component::Cluster, Component::Tofu, Component::Git])
        .test("a_git_source_is_taken_at_its_commit", git_source)
        .needs(&[Component::Cluster, Component::Terraform])
        .test("terraform_deploys_changes_and_destroys", || deploys(EngineKind::Terraform));
    // the whole suite once more where less is to be had; this run is at the machine's best
    let suite = match std::env::var_os(WITHOUT) {
        Some(_) => suite,
        None => suite
            .needs(&[Component::Cluster])
            .test("all_of_it_where_workers_are_confined", || again("root,namespaces", "confined"))
            // as root: operations are confined, and jobs in the same domain and filter, but root's
            .test("all_of_it_without_namespaces", || again("namespaces", "minimal"))
            .test("all_of_it_where_isolation_is_minimal", || again("namespaces,landlock", "minimal")),
    };
    suite.run()
}

/// This suite, on a machine that seems to lack that.
async fn again(without: &str, level: &str) -> Result<()> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .arg("--nocapture")
        .env(WITHOUT, without)
        .kill_on_drop(true)
        .output()
        .await?;
    let said = [output.stdout, output.stderr].map(|o| String::from_utf8_lossy(&o).into_owned()).concat();
    ensure!(output.status.success(), "without {without}: {}\n{said}", output.status);
    ensure!(said.contains(&format!("at level {level}")), "it did not run at level {level}: {said}");
    Ok(())
}

fn names(list: &Value) -> Vec<String> {
    let name = |v: &Value| v["name"].as_str().or_else(|| v["metadata"]["name"].as_str()).unwrap_or_default().to_owned();
    list["items"].as_array().map(|items| items.iter().map(name).collect()).unwrap_or_default()
}

async fn lists_agree() -> Result<()> {
    let usual = usual().await?;
    let (user, plain) = (usual.world.user(), usual.cluster.client());
    let ours = user.get("/connections/cluster/k8s/namespaces").await?;
    let theirs = plain.get("/api/v1/namespaces").await?.ok()?;
    ensure!(names(&ours) == names(&theirs), "{ours} {theirs}");
    ensure!(ours["items"].as_array().is_some_and(|i| i.iter().all(|n| n["phase"] == "Active")), "{ours}");

    for (query, path) in [
        ("namespace=seen", "/api/v1/namespaces/seen/pods"),
        ("", "/api/v1/namespaces/default/pods"),
        ("all_namespaces=true", "/api/v1/pods"),
        ("namespace=default&labels=app%3Ddb", "/api/v1/namespaces/default/pods?labelSelector=app%3Ddb"),
        ("all_namespaces=true&labels=n%20in%20(1%2C2)", "/api/v1/pods?labelSelector=n%20in%20(1%2C2)"),
        ("all_namespaces=true&fields=metadata.name%3Ddb-3", "/api/v1/pods?fieldSelector=metadata.name%3Ddb-3"),
        ("all_namespaces=true&labels=app%3Dnone", "/api/v1/pods?labelSelector=app%3Dnone"),
    ] {
        let ours = user.get(&format!("/connections/cluster/k8s/pods?{query}")).await?;
        let theirs = plain.get(path).await?.ok()?;
        ensure!(names(&ours) == names(&theirs), "{query}: {:?} and {:?}", names(&ours), names(&theirs));
        let (Some(ours), Some(theirs)) = (ours["items"].as_array(), theirs["items"].as_array()) else { continue };
        for (our, their) in ours.iter().zip(theirs) {
            ensure!(our["namespace"] == their["metadata"]["namespace"], "{our}");
            ensure!(our["uid"] == their["metadata"]["uid"], "{our}");
            ensure!(our["status"] == their["status"]["phase"], "{our}");
            ensure!(our["node"] == their["spec"]["nodeName"], "{our}");
            ensure!(our["ip"] == their["status"]["podIP"], "{our}");
            let containers = their["spec"]["containers"].as_array().map_or(0, Vec::len);
            ensure!(our["containers"] == json!(containers) && our["ready"] == json!(containers), "{our}");
        }
    }
    Ok(())
}

async fn describe_agrees() -> Result<()> {
    let usual = usual().await?;
    let uid = usual.cluster.read("/api/v1/namespaces/seen/pods/web-1").await?["metadata"]["uid"].clone();
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "web-1.seen" }, "type": "Warning", "reason": "TestedOften",
        "message": "an event of the tests", "count": 3, "source": { "component": "tests" }, "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": { "apiVersion": "v1", "kind": "Pod", "name": "web-1", "namespace": "seen", "uid": uid },
    });
    usual.cluster.create("/api/v1/namespaces/seen/events", &event).await?;
    let ours = usual.world.user().get("/connections/cluster/k8s/namespaces/seen/pods/web-1").await?;
    let mut theirs = usual.cluster.read("/api/v1/namespaces/seen/pods/web-1").await?;
    if let Some(metadata) = theirs["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let mut object = ours["object"].clone();
    // a single object has them at its top, whichever way it was read
    for v in [&mut object, &mut theirs] {
        if let Some(v) = v.as_object_mut() {
            v.remove("kind");
            v.remove("apiVersion");
        }
    }
    ensure!(object == theirs, "{object}\n{theirs}");
    ensure!(ours["summary"]["container_names"] == json!(["app", "side"]), "{}", ours["summary"]);
    let events = ours["events"].as_array().context("events")?;
    ensure!(
        events.iter().any(|e| e["reason"] == "TestedOften" && e["kind"] == "Warning" && e["count"] == json!(3)),
        "{events:?}"
    );
    Ok(())
}

async fn logs_agree() -> Result<()> {
    let usual = usual().await?;
    let now = shared_proto::now_ms() / 1000;
    let app = usual.cluster.log_file("seen", "web-1", "app");
    let side = usual.cluster.log_file("seen", "web-1", "side");
    for n in 0..200 {
        // an hour ago, and now
        Cluster::append_log_at(
            &app,
            if n < 150 { now - 3600 } else { now },
            &format!("app line {n} äöü \u{1b}[31mred"),
        )?;
    }
    for n in 0..20 {
        Cluster::append_log(&side, &format!("side line {n}"))?;
    }
    for (ours, theirs) in [
        ("container=app", "container=app"),
        ("container=side", "container=side"),
        ("container=app&tail=7", "container=app&tailLines=7"),
        ("container=app&tail=0", "container=app&tailLines=0"),
        ("container=app&timestamps=true&tail=5", "container=app&timestamps=true&tailLines=5"),
        ("container=app&since_seconds=600", "container=app&sinceSeconds=600"),
        ("container=app&limit_bytes=1000", "container=app&limitBytes=1000"),
        ("container=app&previous=true", "container=app&previous=true"),
    ] {
        let mut stream = usual.world.user().follow("cluster", "seen", "web-1", ours).await?;
        let text = String::from_utf8(stream.rest().await?)?;
        let outcome = stream.outcome().with_context(|| ours.to_owned())?;
        ensure!(outcome["code"] == "ok", "{ours}: {outcome}");
        let reference = usual.cluster.log("seen", "web-1", theirs).await?;
        ensure!(text == reference, "{ours}: {} and {} bytes", text.len(), reference.len());
    }
    // all containers, each line with whose it is
    let mut stream = usual.world.user().follow("cluster", "seen", "web-1", "all_containers=true&tail=3").await?;
    let text = String::from_utf8(stream.rest().await?)?;
    for (container, last) in [("app", "app line 199"), ("side", "side line 19")] {
        let prefix = format!("[pod/web-1/{container}] ");
        let lines: Vec<_> = text.lines().filter_map(|l| l.strip_prefix(&prefix)).collect();
        ensure!(lines.len() == 3 && lines[2].starts_with(last), "{text}");
    }
    // a pod with two containers and none named
    let refused = usual.world.user().refused("/connections/cluster/k8s/namespaces/seen/pods/web-1/logs").await?;
    ensure!(refused.0 == 400, "{refused:?}");
    Ok(())
}

async fn follow_and_cancel() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let file = usual.cluster.shared_log_file();
    Cluster::append_log(&file, "before")?;
    let mut stream = user.follow("cluster", "default", "db-1", "follow=true&tail=1").await?;
    let id = stream.headers.get("runner-operation").context("the operation's id")?.to_str()?.to_owned();
    ensure!(stream.at_least(7).await? == b"before\n");
    for n in 0..5 {
        Cluster::append_log(&file, &format!("live {n}"))?;
        let line = tokio::time::timeout(SECONDS, stream.at_least(7)).await??;
        ensure!(line == format!("live {n}\n").as_bytes(), "{}", String::from_utf8_lossy(&line));
    }
    user.post(&format!("/operations/{id}/cancel"), &json!({})).await?;
    tokio::time::timeout(SECONDS, stream.rest()).await.context("a cancelled follow ends")??;
    ensure!(stream.outcome()?["code"] == "cancelled", "{}", stream.outcome()?);
    eventually(SECONDS, "the operation's end to be noted", || async {
        Ok((user.get(&format!("/operations/{id}")).await?["code"] == "cancelled").then_some(()))
    })
    .await?;

    // as server-sent events
    let path = "/api/v1/connections/cluster/k8s/namespaces/default/pods/db-1/logs?follow=true&tail=1";
    let mut events = user.client().stream(path, &[("accept", "text/event-stream")]).await?;
    ensure!(events.headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream")));
    let mut text = String::new();
    while !text.contains("data: live 4") {
        let piece = tokio::time::timeout(SECONDS, events.next()).await??.context("the stream goes on")?;
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    Ok(())
}

async fn exec() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let run = |command: &'static [&'static str]| user.exec_to_end("cluster", "default", "db-1", command, None);
    let ended = run(&["echo", "hello", "wide  world"]).await?;
    ensure!(ended.text() == "hello wide  world\n" && ended.outcome["code"] == "ok", "{ended:?}");
    let ended = run(&["sh", "-c", "echo out; echo err >&2; exit 42"]).await?;
    ensure!(ended.stdout == b"out\n" && ended.stderr == b"err\n", "{ended:?}");
    ensure!(ended.outcome["code"] == "ok" && ended.outcome["exit_code"] == json!(42), "{}", ended.outcome);

    let mut input = vec![0; 3 << 20];
    getrandom::fill(&mut input)?;
    let back = user.exec_to_end("cluster", "default", "db-1", &["cat"], Some(&input)).await?;
    ensure!(archive::sha256(&back.stdout) == archive::sha256(&input), "{} bytes came back", back.stdout.len());

    // the same command by the cluster's own working folder
    let ended = run(&["pwd"]).await?;
    ensure!(ended.text().trim() == usual.cluster.work_folder().display().to_string(), "{ended:?}");
    let ended = run(&["/no/such/program"]).await?;
    ensure!(ended.outcome["code"] != "ok" || ended.outcome["exit_code"] != json!(0), "{}", ended.outcome);
    Ok(())
}

async fn terminal() -> Result<()> {
    let usual = usual().await?;
    let query = "stdin=true&tty=true&columns=91&rows=33";
    let mut socket = usual.world.user().exec("cluster", "default", "db-1", &["sh"], query).await?;
    ensure!(socket.protocol.as_deref() == Some("runner.exec.v1"), "{:?}", socket.protocol);
    let mut seen = String::new();
    // kwok sets the size as the message comes: ask until it is there
    let mut size_is = async |socket: &mut runner_tests::https::Socket, size: &str| -> Result<()> {
        let end = tokio::time::Instant::now() + SECONDS;
        loop {
            socket.send(0, b"stty size\n").await?;
            let from = seen.len();
            let figures = |l: &str| {
                let mut words = l.trim_start_matches("# ").split(' ');
                words.by_ref().take(2).filter(|w| w.parse::<u32>().is_ok()).count() == 2 && words.next().is_none()
            };
            while !seen[from..].lines().any(figures) {
                let (kind, bytes) =
                    tokio::time::timeout_at(end, socket.next()).await.context(seen.clone())??.context("open")?;
                ensure!(kind == 1, "a terminal has one stream, not {kind}: {}", String::from_utf8_lossy(&bytes));
                seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            if seen[from..].contains(size) {
                return Ok(());
            }
        }
    };
    size_is(&mut socket, "33 91").await?;
    socket.send(4, json!({ "columns": 120, "rows": 50 }).to_string().as_bytes()).await?;
    size_is(&mut socket, "50 120").await?;
    socket.send(0, b"exit 7\n").await?;
    let ended = tokio::time::timeout(SECONDS, runner_tests::control_plane::Executed::read(&mut socket)).await??;
    ensure!(ended.outcome["exit_code"] == json!(7), "{}", ended.outcome);
    Ok(())
}

async fn refusals() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let forbidden = user.ask(Method::GET, "/connections/limited/k8s/pods?namespace=default", &Value::Null).await?;
    ensure!(forbidden.status == 403 && forbidden.code() == "target_forbidden", "{}", forbidden.text());
    let error = forbidden.json()?["error"].clone();
    ensure!(error["target_status"] == json!(403) && error["target_reason"] == "Forbidden", "{error}");
    let plain = usual.cluster.client().with_token(runner_tests::cluster::RESTRICTED);
    let theirs = plain.get("/api/v1/namespaces/default/pods").await?.json()?;
    let theirs = theirs["message"].as_str().context("a message")?;
    ensure!(error["message"].as_str().is_some_and(|m| m.contains(theirs)), "{error} and {theirs}");
    // what it may do it can
    ensure!(names(&user.get("/connections/limited/k8s/pods?namespace=seen").await?) == ["web-1"]);

    ensure!(
        user.refused("/connections/cluster/k8s/namespaces/default/pods/none").await?
            == (404, "target_not_found".into())
    );
    ensure!(
        user.refused("/connections/cluster/k8s/namespaces/default/pods/none/logs").await?
            == (404, "target_not_found".into())
    );
    Ok(())
}

async fn connections() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let report = user.post("/connections/cluster/test", &json!({})).await?;
    ensure!(report["provider"] == "kubernetes" && report["version"].is_string(), "{report}");
    // an entry that the runner does not have, and one of another provider
    user.connection("nowhere", "kubernetes", None).await?;
    ensure!(user.refused("/connections/nowhere/k8s/namespaces").await?.1 == "unknown_connection");
    ensure!(user.refused("/connections/cluster/log-sources").await?.1 == "wrong_provider");
    let body = json!({ "name": "called-aws", "provider": "aws", "entry": "cluster" });
    user.post("/connections", &body).await?;
    ensure!(user.refused("/connections/called-aws/identity").await?.1 == "wrong_provider");
    ensure!(user.refused("/connections/cluster/k8s/namespaces?runner=none").await? == (404, "not_found".into()));
    let runner = user.get(&format!("/runners/{}", usual.world.runner.id)).await?;
    ensure!(runner["state"] == "connected" && runner["default"] == json!(true), "{runner}");
    let instance = &runner["instances"][0];
    ensure!(instance["healthy"] == json!(true) && instance["version"] == shared_proto::VERSION, "{instance}");
    let entries = instance["connections"].as_array().context("connections")?;
    ensure!(entries.iter().any(|e| e["name"] == "cluster" && e["provider"] == "kubernetes"), "{instance}");
    Ok(())
}

async fn behind_a_proxy() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let report = user.post("/connections/behind/test", &json!({})).await?;
    ensure!(report["identity"] == "admin", "{report}");
    let (direct, through) = ("/connections/cluster/k8s/namespaces", "/connections/behind/k8s/namespaces");
    ensure!(names(&user.get(through).await?) == names(&user.get(direct).await?));
    let asked = usual.proxy.asked();
    ensure!(asked.len() >= 2 && asked.iter().all(|a| *a == usual.cluster.address().to_string()), "{asked:?}");
    // without its password
    let answer = user.ask(Method::GET, "/connections/locked/k8s/namespaces", &Value::Null).await?;
    let said = answer.text();
    ensure!(
        answer.code() == "target_unreachable" && said.contains("407") && said.contains("through the proxy"),
        "{said}"
    );
    Ok(())
}

async fn bound_token() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    // the kubeconfig is an administrator's: what the workers have is the service account's
    for name in ["bound", "bound-behind"] {
        let report = user.post(&format!("/connections/{name}/test"), &json!({})).await?;
        ensure!(report["identity"] == "system:serviceaccount:seen:viewer", "{report}");
        let pods = user.get(&format!("/connections/{name}/k8s/pods?namespace=seen")).await?;
        ensure!(names(&pods) == ["web-1"], "{pods}");
        let refused = user.refused(&format!("/connections/{name}/k8s/pods?namespace=default")).await?;
        ensure!(refused == (403, "target_forbidden".into()), "{refused:?}");
    }
    let said = async |name: &str| {
        let answer = user.ask(Method::GET, &format!("/connections/{name}/k8s/namespaces"), &Value::Null).await?;
        anyhow::Ok((answer.code(), answer.text()))
    };
    let (code, text) = said("unbound").await?;
    ensure!(code == "target_not_found" && text.contains("seen/nobody"), "{text}");
    let (code, text) = said("not-allowed").await?;
    ensure!(code == "target_forbidden" && text.contains("serviceaccounts/token"), "{text}");
    Ok(())
}

/// A job's engine has the token of the service account, and nothing of what it was asked for with.
async fn bound_job() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let module = r##"resource "terraform_data" "who" {
  provisioner "local-exec" {
    command = <<-EOT
      file=$(grep -o '"tokenFile":"[^"]*"' "$KUBECONFIG" | cut -d'"' -f4)
      token=$(cut -d. -f2 "$file" | tr '_-' '/+')
      echo "whose: $(echo "$token==" | base64 -d 2>/dev/null | grep -o 'system:serviceaccount:[a-z:]*')"
      echo "administrators: $(cat "$KUBECONFIG" "$file" | grep -c admin-token)"
    EOT
  }
}
"##;
    let source = user.upload(archive::module(module)?).await?;
    let body = json!({ "name": "bound", "engine": "opentofu", "source": source, "connections": ["bound"] });
    user.post("/stacks", &body).await?;
    let (id, _) = job(user, "bound", &json!({ "kind": "update", "approve_automatically": true }), &["applied"]).await?;
    let events = format!("{:?}", user.events_of(&id, "resource_progress").await?);
    for line in ["whose: system:serviceaccount:seen:viewer", "administrators: 0"] {
        ensure!(events.contains(line), "{events}");
    }
    Ok(())
}

/// What a job asks of the runner's proxy is read, whatever program asks: only hosts that it may reach get there.
async fn job_behind_a_proxy() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let proxy = HttpProxy::new(Manner::Says(b"HTTP/1.1 200 OK\r\n\r\nthe proxy's word\n".to_vec())).await?;
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let cluster = usual.cluster.kubeconfig(usual.cluster.address(), cluster::ADMIN);
    let setup = Setup::new()?
        .kubernetes("cluster", &cluster)?
        .engines(&[&engine])
        .table("proxy", &format!("url = {:?}\nno_proxy = \"127.0.0.1\"", proxy.url()))
        .env("RUNNERD_JOBS_HOSTS", "*.good.example,192.0.2.0/24");
    let runner = setup.start(user, "behind-a-proxy").await?;
    let (host, port) = proxy
        .url()
        .trim_start_matches("http://")
        .split_once(':')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .context("an address")?;
    let target = usual.cluster.address().to_string();
    let control_plane = usual.world.control_plane.runner_address().to_string();
    let asked = [
        ("CONNECT a.good.example:443", "200"),
        ("CONNECT 192.0.2.9:443", "200"),
        // what its connection is for
        (&format!("CONNECT {target}"), "200"),
        ("GET http://a.good.example/x", "405"),
        ("CONNECT evil.example:443", "403"),
        ("CONNECT 169.254.169.254:80", "403"),
        ("CONNECT 2852039166:80", "403"),
        ("CONNECT [::ffff:169.254.169.254]:80", "403"),
        ("CONNECT 127.0.0.1:22", "403"),
        (&format!("CONNECT {control_plane}"), "403"),
        ("GET http://evil.example/x", "403"),
        ("GET /x", "400"),
    ]
    .map(|(what, status)| (what.to_owned(), status));
    let mut script = String::new();
    for (what, _) in &asked {
        script.push_str(&format!(
            "exec 3<>/dev/tcp/{host}/{port}; printf '{what} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; IFS=' ' read -r _ status _ <&3; \
             echo \"asked {what}: $status\"; exec 3>&-\n"
        ));
    }
    let module = format!(
        "resource \"terraform_data\" \"asks\" {{\n  provisioner \"local-exec\" {{\n    interpreter = [\"bash\", \"-c\"]\n    \
         command = <<-EOT\n{script}EOT\n  }}\n}}\n"
    );
    let source = user.upload(archive::module(&module)?).await?;
    let body = json!({
        "name": "behind-a-proxy", "engine": "opentofu", "source": source, "runner": runner.id, "connections": ["cluster"],
    });
    user.post("/stacks", &body).await?;
    let start = json!({ "kind": "update", "approve_automatically": true });
    let (id, _) = job(user, "behind-a-proxy", &start, &["applied"]).await?;
    let said = format!("{:?}", user.events_of(&id, "resource_progress").await?);
    for (what, status) in &asked {
        ensure!(said.contains(&format!("asked {what}: {status}")), "{what}, expected {status}: {said}");
    }
    let allowed = ["a.good.example:443".to_owned(), "192.0.2.9:443".to_owned(), target];
    ensure!(proxy.asked() == allowed, "{:?}", proxy.asked());
    let notes = format!("{:?}", user.events_of(&id, "output_line").await?);
    for note in ["addresses of hosts were not checked", "refused a connection to evil.example:443, asked of the proxy"]
    {
        ensure!(notes.contains(note), "{notes}");
    }
    Ok(())
}

async fn narrowed_session() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let ours = user.get("/connections/narrow/identity").await?;
    ensure!(
        ours["principal"].as_str().is_some_and(|arn| arn.ends_with(":assumed-role/narrow/runner-narrow")),
        "{ours}"
    );
    let regions = user.get("/connections/narrow/places").await?;
    ensure!(names(&regions).contains(&"eu-central-1".to_owned()), "{regions}");
    Ok(())
}

async fn runnerctl_kubernetes() -> Result<()> {
    let usual = usual().await?;
    let ctl = ctl(usual).await?;
    let user = usual.world.user();
    ensure!(ctl.json(&["whoami"]).await?["organization"]["id"] == json!(user.organization));
    ensure!(ctl.text(&["runner", "list"]).await?.contains("runner-1"));
    let ours = ctl.json(&["k8s", "-C", "cluster", "namespaces"]).await?;
    ensure!(names(&ours) == names(&user.get("/connections/cluster/k8s/namespaces").await?), "{ours}");
    let ours = ctl.json(&["k8s", "-C", "cluster", "pods", "-n", "default", "-l", "app=db"]).await?;
    ensure!(names(&ours) == ["db-1", "db-2", "db-3"], "{ours}");
    let table = ctl.text(&["k8s", "-C", "cluster", "pods", "-A"]).await?;
    ensure!(table.contains("web-1") && table.contains("db-2") && table.contains("Running"), "{table}");
    let text = ctl.text(&["k8s", "-C", "cluster", "describe", "web-1", "-n", "seen"]).await?;
    ensure!(text.contains("web-1") && text.contains("side"), "{text}");

    Cluster::append_log(&usual.cluster.log_file("lines", "of-ctl", "side"), "the last of side")?;
    let log = ctl.text(&["k8s", "-C", "cluster", "logs", "of-ctl", "-n", "lines", "-c", "side", "--tail", "1"]).await?;
    ensure!(log == "the last of side\n", "{log:?}");
    let ended =
        ctl.run(&["k8s", "-C", "cluster", "exec", "db-1", "--", "sh", "-c", "echo out; echo err >&2; exit 9"]).await?;
    ensure!((ended.code(), ended.stdout.as_str()) == (9, "out\n"), "{ended:?}");
    ensure!(ended.stderr.contains("err\n"), "{ended:?}");
    let program = ctl.program(&["k8s", "-C", "cluster", "exec", "-i", "db-1", "--", "cat"])?.input("piped in\n");
    ensure!(program.run(SECONDS).await?.success()? == "piped in\n");

    // refusals are exit codes of the table, and one line says what to do
    for (arguments, code, word) in [
        (&["k8s", "-C", "cluster", "describe", "none"][..], 66, "target_not_found"),
        (&["k8s", "-C", "limited", "pods", "-n", "default"], 77, "target_forbidden"),
        (&["k8s", "-C", "absent", "pods"], 66, "not_found"),
        (&["k8s", "-C", "cluster", "pods", "--no-such-flag"], 64, "--no-such-flag"),
    ] {
        let ended = ctl.run(arguments).await?;
        ensure!(ended.code() == code && ended.stderr.contains(word), "{arguments:?}: {ended:?}");
    }
    Ok(())
}

async fn operations_are_listed() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let answer = user.ask(Method::GET, "/connections/cluster/k8s/namespaces", &Value::Null).await?;
    let id = answer.headers.get("runner-operation").context("the operation's id")?.to_str()?.to_owned();
    let one = eventually(SECONDS, "the operation's end to be noted", || async {
        let one = user.get(&format!("/operations/{id}")).await?;
        Ok(one["ended_at_ms"].is_i64().then_some(one))
    })
    .await?;
    ensure!(one["code"] == "ok" && one["kind"].is_string(), "{one}");
    ensure!(is_level(&one["isolation_level"]), "{one}");
    let list = user.get("/operations").await?;
    let listed = list["items"].as_array().context("a list")?.iter().find(|o| o["id"] == json!(id));
    ensure!(listed.is_some_and(|o| o["isolation_level"] == one["isolation_level"]), "{id} in {list}");

    // what no worker had is not said to have been isolated
    user.connection("entry-that-is-not-there", "kubernetes", None).await?;
    let path = "/connections/entry-that-is-not-there/k8s/namespaces";
    ensure!(user.ask(Method::GET, path, &Value::Null).await?.status != 200);
    let list = user.get("/operations").await?;
    let refused = list["items"].as_array().context("a list")?.iter().find(|o| o["code"] == "unknown_connection");
    ensure!(refused.is_some_and(|o| o["isolation_level"].is_null()), "{list}");
    Ok(())
}

fn is_level(level: &Value) -> bool {
    ["minimal", "confined", "namespaces"].iter().any(|l| level == l)
}

async fn aws_agrees() -> Result<()> {
    let usual = usual().await?;
    let (user, moto) = (usual.world.user(), usual.moto.as_ref().context("moto")?);
    let (account, arn) = moto.caller_identity().await?;
    let ours = user.get("/connections/account/identity").await?;
    ensure!(ours["account"] == json!(account) && ours["principal"] == json!(arn), "{ours} and {account} {arn}");
    let by_profile = user.get("/connections/by-profile/identity").await?;
    ensure!(by_profile["account"] == json!(account), "{by_profile}");
    let regions = user.get("/connections/account/places").await?;
    ensure!(names(&regions).contains(&"eu-central-1".to_owned()), "{regions}");

    let ctl = ctl(usual).await?;
    let listed = async |words: &[&str]| -> Result<Vec<String>> {
        let list = ctl.json(&[&["resources", "list", "-C", "account"], words].concat()).await?;
        let items = list["items"].as_array().context("a list")?;
        Ok(items.iter().filter_map(|i| i["id"].as_str().map(str::to_owned)).collect())
    };
    let all = listed(&["--type", "tagged"]).await?;
    for bucket in ["reports", "archive"] {
        ensure!(all.iter().any(|id| id.ends_with(bucket)), "{all:?}");
    }
    for (tag, expected) in [("team=blue", "reports"), ("team=red", "archive")] {
        let found = listed(&["--tag", tag]).await?;
        ensure!(found.len() == 1 && found[0].ends_with(expected), "{found:?}");
    }
    ensure!(listed(&["--tag", "team=green"]).await?.is_empty());
    let who = ctl.text(&["connection", "whoami", "account"]).await?;
    ensure!(who.contains(&account) && who.contains(&arn), "{who}");
    // moto knows no Cloud Control: its refusal must come as the target's own, and nothing hangs
    let refused = ctl.run(&["resources", "list", "-C", "account", "--type", "AWS::Glue::Job"]).await?;
    ensure!(!refused.status.success() && refused.stderr.contains("(target_"), "{refused:?}");
    Ok(())
}

async fn resources_together() -> Result<()> {
    let usual = usual().await?;
    let (user, ctl) = (usual.world.user(), ctl(usual).await?);
    let ids = |list: &Value, connection: &str| -> Vec<String> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let of = items.iter().filter(|i| i["connection"] == connection);
        of.filter_map(|i| i["id"].as_str().map(str::to_owned)).collect()
    };
    let pods = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let id = |p: &Value| Some(format!("{}/{}", p["namespace"].as_str()?, p["name"].as_str()?));
        items.iter().filter_map(id).collect()
    };
    // of a cluster, as the API server lists them
    let all = ctl.json(&["resources", "list", "-C", "cluster", "--type", "pods"]).await?;
    let plain = user.get("/connections/cluster/k8s/pods?all_namespaces=true").await?;
    ensure!(!pods(&plain).is_empty() && ids(&all, "cluster") == pods(&plain), "{all} and {plain}");
    let labelled = ctl.json(&[
        "resources",
        "list",
        "-C",
        "cluster",
        "--type",
        "pods",
        "--label",
        "app=db",
        "--namespace",
        "default",
    ]);
    let plain = user.get("/connections/cluster/k8s/pods?namespace=default&labels=app%3Ddb").await?;
    let labelled = labelled.await?;
    ensure!(!pods(&plain).is_empty() && ids(&labelled, "cluster") == pods(&plain), "{labelled} and {plain}");
    ensure!(labelled["items"][0]["state"].is_string() && labelled["items"][0]["tags"]["app"] == "db", "{labelled}");
    // a kind that is in no table, and one that is none
    let roles = ctl.json(&["resources", "list", "-C", "cluster", "--type", "clusterroles.rbac.authorization.k8s.io"]);
    ensure!(ids(&roles.await?, "cluster").contains(&"cluster-admin".to_owned()));
    let none = ctl.run(&["resources", "list", "-C", "cluster", "--type", "nothings"]).await?;
    ensure!(!none.status.success() && none.stderr.contains("(target_not_found)"), "{none:?}");
    // without a type: of many, and no Secret among them
    let whole = ctl.json(&["resources", "list", "-C", "cluster"]).await?;
    let kinds: BTreeSet<&str> =
        whole["items"].as_array().context("a list")?.iter().filter_map(|i| i["type_name"].as_str()).collect();
    ensure!(["pods", "nodes", "namespaces", "services"].iter().all(|k| kinds.contains(k)), "{kinds:?}");
    ensure!(!kinds.contains("secrets") && whole["failures"] == json!([]), "{kinds:?} {}", whole["failures"]);
    // over all connections: what one has beside what others cannot have
    let found = ctl.json(&["resources", "search", "report", "--tag", "team"]).await?;
    ensure!(ids(&found, "account").iter().any(|id| id.ends_with("reports")), "{found}");
    ensure!(ids(&found, "by-profile").iter().any(|id| id.ends_with("reports")), "{found}");
    let refused: Vec<&str> =
        found["failures"].as_array().context("a list")?.iter().filter_map(|f| f["connection"].as_str()).collect();
    ensure!(refused.contains(&"not-allowed"), "{found}");
    let text = ctl.run(&["resources", "search", "reports", "--provider", "aws", "--tag", "team=blue"]).await?;
    let line = text.stdout.lines().nth(1).unwrap_or_default();
    ensure!(text.stdout.starts_with("CONNECTION") && line.contains("reports"), "{text:?}");
    // limits, and what is no place
    let cut = ctl.json(&[
        "resources",
        "list",
        "-C",
        "cluster",
        "--type",
        "clusterroles.rbac.authorization.k8s.io",
        "--limit",
        "3",
    ]);
    let cut = cut.await?;
    ensure!(ids(&cut, "cluster").len() == 3 && cut["truncated"] == true, "{cut}");
    let nowhere = ctl.run(&["resources", "list", "-C", "account", "--tag", "team", "--region", "Nowhere/"]).await?;
    ensure!(!nowhere.status.success() && nowhere.stderr.contains("cannot be a region"), "{nowhere:?}");
    Ok(())
}

/// Starts a job and waits for one of those phases.
async fn job(user: &User, stack: &str, body: &Value, phases: &[&str]) -> Result<(String, Value)> {
    let id = user.start_job(stack, body).await?;
    let job = user.job_in(&id, phases, JOB).await?;
    Ok((id, job.0))
}

/// The job once it has ended: a preview is planned a moment before.
async fn ended(user: &User, id: &str) -> Result<Value> {
    eventually(SECONDS, "the job's end", || async {
        let job = user.get(&format!("/jobs/{id}")).await?;
        Ok(job["ended_at_ms"].is_i64().then_some(job))
    })
    .await
}

async fn deploys(kind: EngineKind) -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let name = format!("deploys-{}", kind.name());
    let stack = user.stack(&name, kind.name(), quick_module()).await?;
    ensure!(stack["engine"] == kind.name(), "{stack}");

    // a preview changes nothing
    let (id, preview) = job(user, &name, &json!({ "kind": "preview" }), &["planned"]).await?;
    ensure!(is_level(&preview["isolation_level"]), "{preview}");
    ensure!(preview["plan"]["add"] == json!(2) && preview["plan"]["has_changes"] == json!(true), "{preview}");
    ensure!(preview["plan"]["text"].as_str().is_some_and(|t| t.contains("2 to add")), "{preview}");
    ensure!(!user.events_of(&id, "planned_change").await?.is_empty());

    let preview = ended(user, &id).await?;
    ensure!(preview["redacted"].is_u64() && preview["not_redacted"] == json!([]), "{preview}");
    // a secret that cannot be taken out of what is recorded is refused, unless its owner says that it may stay, which is shown
    let short = json!({ "kind": "preview", "variables": { "secret": "pin-777" } });
    let (id, refused) = job(user, &name, &short, ENDS).await?;
    ensure!(refused["result"]["code"] == "secret_too_short", "{refused}");
    ensure!(!format!("{refused} {:?}", user.events(&id).await?).contains("pin-777"), "a secret in an event");
    let mut marked = short;
    marked["not_redacted"] = json!(["secret"]);
    let (id, _) = job(user, &name, &marked, &["planned"]).await?;
    let shown = ended(user, &id).await?;
    ensure!(shown["not_redacted"] == json!(["secret"]), "{shown}");

    // an update waits for its approval, and applies that plan
    let (id, waiting) = job(user, &name, &json!({ "kind": "update" }), &["awaiting_approval"]).await?;
    let plan = waiting["plan"]["sha256"].as_str().context("the plan's digest")?.to_owned();
    let wrong =
        user.ask(Method::POST, &format!("/jobs/{id}/approve"), &json!({ "plan_sha256": "0".repeat(64) })).await?;
    ensure!(wrong.status == 409, "{} {}", wrong.status, wrong.text());
    user.post(&format!("/jobs/{id}/approve"), &json!({ "plan_sha256": plan })).await?;
    let applied = user.job_in(&id, &["applied"], JOB).await?;
    ensure!(applied.code() == "ok", "{}", applied.0);
    let outputs = &applied.0["outputs"];
    ensure!(outputs["greeting"]["value"] == "hello", "{outputs}");
    ensure!(outputs["hidden"]["value"].is_null() && outputs["hidden"]["sensitive"] == json!(true), "{outputs}");
    let events = user.events(&id).await?;
    ensure!(!events.iter().any(|e| e.to_string().contains("s3cr3t-value")), "a secret in an event");
    ensure!(events.last().is_some_and(|e| e.to_string().contains("\"result\"")), "{:?}", events.last());
    for state in ["started", "complete"] {
        ensure!(user.events_of(&id, "resource_progress").await?.iter().any(|p| p["state"] == state), "{state}");
    }
    // a second approval is too late
    ensure!(user.ask(Method::POST, &format!("/jobs/{id}/approve"), &json!({})).await?.status == 409);

    // nothing to do
    let (_, nothing) = job(user, &name, &json!({ "kind": "update" }), &["no_changes"]).await?;
    ensure!(nothing["plan"]["has_changes"] == json!(false), "{nothing}");

    // a change, approved beforehand, with a variable of this job
    let body = json!({ "kind": "update", "approve_automatically": true, "variables": { "greeting": "good evening" } });
    let (_, changed) = job(user, &name, &body, &["applied"]).await?;
    ensure!(changed["outputs"]["greeting"]["value"] == "good evening", "{changed}");
    let (_, outputs) = job(user, &name, &json!({ "kind": "outputs" }), ENDS).await?;
    ensure!(outputs["outputs"]["greeting"]["value"] == "good evening", "{outputs}");
    let body = json!({ "kind": "refresh", "approve_automatically": true, "variables": { "greeting": "good evening" } });
    let (_, refreshed) = job(user, &name, &body, &["applied", "no_changes"]).await?;
    ensure!(refreshed["result"]["code"] == "ok", "{refreshed}");

    let (_, gone) =
        job(user, &name, &json!({ "kind": "destroy", "approve_automatically": true }), &["applied"]).await?;
    ensure!(gone["plan"]["remove"] == json!(2), "{gone}");

    // by hand the same plan has the same words
    let engine = Engine::new(kind)?;
    let folder = Scratch::new("by-hand")?;
    folder.write("main.tf", quick_module())?;
    engine.run(folder.path(), &["init", "-input=false"]).await?.success()?;
    let by_hand = engine.run(folder.path(), &["plan", "-input=false", "-no-color"]).await?.success()?;
    let words = by_hand.lines().find(|l| l.starts_with("Plan:")).context("a plan's last line")?;
    ensure!(
        preview["plan"]["text"].as_str().is_some_and(|t| t.contains(words)),
        "{words:?} in {}",
        preview["plan"]["text"]
    );
    // the runner's processes are gone with their jobs
    usual.world.runner.no_workers(SECONDS).await
}

async fn discard_and_cancel() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    user.stack("discards", "opentofu", &slow_module(60)).await?;
    let (id, _) = job(user, "discards", &json!({ "kind": "update" }), &["awaiting_approval"]).await?;
    // one job at a time for a stack
    let second = user.start_job("discards", &json!({ "kind": "preview" })).await?;
    ensure!(user.job(&second).await?.phase() == "pending", "{}", user.job(&second).await?.0);
    user.post(&format!("/jobs/{id}/discard"), &json!({})).await?;
    user.job_in(&id, &["discarded"], SECONDS).await?;
    user.job_in(&second, &["planned"], JOB).await?;

    let body = json!({ "kind": "update", "approve_automatically": true });
    let (id, _) = job(user, "discards", &body, &["applying"]).await?;
    eventually(SECONDS, "the slow resource to be in the making", || async {
        Ok(user.events_of(&id, "resource_progress").await?.iter().any(|p| p["state"] == "started").then_some(()))
    })
    .await?;
    user.post(&format!("/jobs/{id}/cancel"), &json!({})).await?;
    let cancelled = user.job_in(&id, &["canceled"], JOB).await?;
    ensure!(cancelled.code() == "cancelled" || cancelled.code() == "ok", "{}", cancelled.0);
    ensure!(user.events_of(&id, "cancel_progress").await?.iter().any(|c| c["step"] == "asked"));
    // one that waits for its approval ends with the same word in its events
    let (id, _) = job(user, "discards", &json!({ "kind": "update" }), &["awaiting_approval"]).await?;
    user.post(&format!("/jobs/{id}/cancel"), &json!({})).await?;
    user.job_in(&id, &["canceled"], SECONDS).await?;
    let ends = eventually(SECONDS, "its last event", || async {
        let ends = user.events_of(&id, "result").await?;
        Ok((!ends.is_empty()).then_some(ends))
    })
    .await?;
    ensure!(ends.len() == 1 && ends[0]["phase"] == "canceled" && ends[0]["code"] == "cancelled", "{ends:?}");
    // the engine kept its state: the stack can be worked on
    let (_, gone) = job(user, "discards", &json!({ "kind": "destroy", "approve_automatically": true }), ENDS).await?;
    ensure!(gone["result"]["code"] == "ok", "{gone}");
    Ok(())
}

async fn failing_module() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let failing = "resource \"terraform_data\" \"bad\" {\n  provisioner \"local-exec\" {\n    command = \"echo doomed >&2; exit 3\"\n  }\n}\n";
    user.stack("fails", "opentofu", failing).await?;
    let body = json!({ "kind": "update", "approve_automatically": true });
    let (id, failed) = job(user, "fails", &body, &["failed"]).await?;
    ensure!(failed["result"]["code"] == "engine_failed", "{failed}");
    let diagnostics = user.events_of(&id, "diagnostic").await?;
    ensure!(diagnostics.iter().any(|d| d["severity"] == "error"), "{diagnostics:?}");

    user.stack("unreadable", "opentofu", "resource {").await?;
    let (_, failed) = job(user, "unreadable", &json!({ "kind": "preview" }), &["failed"]).await?;
    ensure!(failed["result"]["code"] == "engine_failed", "{failed}");
    Ok(())
}

/// Where the repositories are, which jobs read.
fn repositories() -> PathBuf {
    scratch::root().join("repositories")
}

async fn git(folder: &std::path::Path, arguments: &[&str]) -> Result<String> {
    let mut all = vec![
        "-c",
        "safe.directory=*",
        "-c",
        "user.name=tests",
        "-c",
        "user.email=tests@localhost",
        "-c",
        "init.defaultBranch=main",
    ];
    all.extend_from_slice(arguments);
    Program::component("git")?.args(all).folder(folder).run(SECONDS).await?.success()
}

async fn git_source() -> Result<()> {
    let usual = usual().await?;
    let user = usual.world.user();
    let work = Scratch::below(&repositories(), "repository")?;
    git(work.path(), &["init", "-q"]).await?;
    work.write("infra/main.tf", quick_module())?;
    git(work.path(), &["add", "-A"]).await?;
    git(work.path(), &["commit", "-q", "-m", "one"]).await?;
    let first = git(work.path(), &["rev-parse", "HEAD"]).await?.trim().to_owned();
    git(work.path(), &["tag", "v1"]).await?;
    work.write("infra/main.tf", quick_module().replace("hello", "second"))?;
    git(work.path(), &["commit", "-q", "-a", "-m", "two"]).await?;
    let second = git(work.path(), &["rev-parse", "HEAD"]).await?.trim().to_owned();
    given(&repositories()).await?;
    let url = format!("file://{}", work.path().display());
    for (name, reference, commit) in [
        ("git-tag", "v1", &first),
        ("git-branch", "main", &second),
        ("git-commit", first.as_str(), &first),
        ("git-head", "", &second),
    ] {
        let body = json!({
            "name": name, "engine": "opentofu", "path": "infra", "source": { "git": { "url": url, "reference": reference } },
        });
        user.post("/stacks", &body).await?;
        let (_, planned) = job(user, name, &json!({ "kind": "preview" }), &["planned"]).await?;
        ensure!(planned["revision"] == json!(commit), "{name}: {planned}");
    }
    Ok(())
}

/// Targets, replacements, a workspace, an import, and what the state holds.
async fn a_part() -> Result<()> {
    let usual = usual().await?;
    let ctl = ctl(usual).await?;
    let folder = Scratch::new("a-part")?;
    let secret = "a-value-that-stays";
    folder.write(
        "main.tf",
        format!(
            r#"variable "hidden" {{
  default   = "{secret}"
  sensitive = true
}}
resource "terraform_data" "a" {{ input = terraform.workspace }}
resource "terraform_data" "b" {{ input = {{ of = var.hidden }} }}
resource "terraform_data" "c" {{ count = 2 }}
output "a" {{ value = terraform_data.a.output }}
output "b" {{
  value     = var.hidden
  sensitive = true
}}
"#
        ),
    )?;
    let path = folder.path().display().to_string();
    let deploy = |more: &[&str]| {
        let words = ["deploy", &path, "--name", "part", "--auto-approve"].into_iter().chain(more.iter().copied());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let run = async |words: Vec<String>| ctl.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let done = run(deploy(&["--workspace", "blue", "--target", "terraform_data.c[1]", "--target", "terraform_data.a"]))
        .await?;
    ensure!(done.code() == 0, "{done:?}");
    let addresses = async |words: &[&str]| -> Result<Vec<String>> {
        let list = ctl.json(words).await?;
        Ok(list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|i| i["address"].as_str().unwrap_or("").to_owned())
            .collect())
    };
    let here = addresses(&["state", "list", "part"]).await?;
    ensure!(here == ["terraform_data.a", "terraform_data.c[1]"], "{here:?}");
    ensure!(ctl.text(&["state", "outputs", "part"]).await?.contains("blue"));

    let replaced = run(deploy(&["--replace", "terraform_data.a"])).await?;
    ensure!(
        replaced.code() == 0
            && replaced.stdout.contains("must be replaced") | replaced.stdout.contains("will be replaced"),
        "{replaced:?}"
    );
    let table = ctl.text(&["state", "list", "part"]).await?;
    ensure!(table.contains("ADDRESS") && table.contains("terraform_data.c[0]"), "{table}");
    let shown = ctl.run(&["state", "show", "part", "terraform_data.b"]).await?;
    ensure!(shown.code() == 0 && shown.stdout.contains("(sensitive)"), "{shown:?}");
    for ended in [&shown, &ctl.run(&["state", "outputs", "part", "-o", "json"]).await?] {
        ensure!(ended.code() == 0 && !format!("{ended:?}").contains(secret), "{ended:?}");
    }
    let none = ctl.run(&["state", "show", "part", "terraform_data.z"]).await?;
    ensure!(none.code() == 66 && none.stderr.contains("state list"), "{none:?}");

    // taken out by a destroy of it alone, and in again by its id
    let gone = run(deploy(&["--kind", "destroy", "--target", "terraform_data.c[0]"])).await?;
    ensure!(gone.code() == 0, "{gone:?}");
    let taken = ctl.run(&["state", "import", "part", "terraform_data.c[0]", "the-id", "--auto-approve"]).await?;
    ensure!(taken.code() == 0 && taken.stdout.contains("1 to import"), "{taken:?}");
    let found = ctl.json(&["state", "show", "part", "terraform_data.c[0]"]).await?;
    ensure!(found["items"][0]["id"] == "the-id", "{found}");

    // nobody has found it locked
    ensure!(ctl.text(&["state", "lock", "part"]).await?.starts_with("No job"));
    let refused = ctl.run(&["state", "unlock", "part", "some-id", "--reason", "a test"]).await?;
    ensure!(refused.code() == 1 && refused.stderr.contains("Start a job"), "{refused:?}");
    ensure!(!refused.stderr.contains("--force"), "{refused:?}");
    let bad = ctl.run(&["state", "import", "part", "-x", "y"]).await?;
    ensure!(bad.code() == 64, "{bad:?}");
    Ok(())
}

async fn runnerctl_deploys() -> Result<()> {
    let usual = usual().await?;
    let ctl = ctl(usual).await?;
    let folder = Scratch::new("module")?;
    folder.write("main.tf", quick_module())?;
    folder.write(".runnerignore", "*.log\n")?;
    folder.write("noise.log", "x".repeat(1000))?;
    let path = folder.path().display().to_string();
    // without a terminal and without approval the job waits
    let ended = ctl.run(&["deploy", &path, "--name", "by-ctl"]).await?;
    ensure!(ended.code() == 75, "{ended:?}");
    let list = ctl.json(&["job", "list", "--stack", "by-ctl"]).await?;
    let id = list["items"][0]["id"].as_str().or_else(|| list[0]["id"].as_str()).context(list.to_string())?.to_owned();
    ctl.text(&["job", "approve", &id]).await?;
    let watched = ctl.run(&["job", "watch", &id]).await?;
    ensure!(watched.code() == 0, "{watched:?}");
    let said = format!("{}{}", watched.stdout, watched.stderr);
    ensure!(said.contains("2 added") || said.contains("applied"), "{said}");
    // again: nothing to do; and a change
    ensure!(ctl.run(&["deploy", &path, "--name", "by-ctl", "--auto-approve"]).await?.code() == 0);
    let changed = ctl.run(&["deploy", &path, "--name", "by-ctl", "--auto-approve", "--var", "greeting=bye"]).await?;
    ensure!(changed.code() == 0, "{changed:?}");
    let shown = ctl.json(&["stack", "show", "by-ctl"]).await?;
    ensure!(shown["name"] == "by-ctl", "{shown}");
    // a failure is an exit code
    folder.write("main.tf", "resource {")?;
    let failed = ctl.run(&["deploy", &path, "--name", "by-ctl", "--auto-approve"]).await?;
    ensure!(failed.code() == 1, "{failed:?}");
    Ok(())
}
