//! Engines by version: what a stack's source asks for is what its job gets, and what the runner does not have is said with the way to it.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::archive::Entry;
use runner_tests::control_plane::User;
use runner_tests::ctl::Ctl;
use runner_tests::engine::{EngineKind, quick_module, slow_module};
use runner_tests::process::Mark;
use runner_tests::runner::Setup;
use runner_tests::world::Shared;
use runner_tests::{Component, ControlPlane, Engine, Runner, Scratch, Suite, archive, tools};
use serde_json::{Value, json};
use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

const SECONDS: Duration = Duration::from_secs(30);
const JOB: Duration = Duration::from_secs(120);
/// What a program says that does as the real one otherwise.
const OLD: &str = "1.9.3";

struct Set {
    control_plane: ControlPlane,
    runner: Runner,
    engine: Engine,
    /// The directory of engines.
    directory: PathBuf,
}

static SET: Shared<Set> = Shared::new();

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Tofu])
        .test("a_stacks_version_is_taken_from_the_directory", of_the_stack)
        .test("an_engine_is_installed_from_a_mirror_and_a_job_runs_with_it", installed)
        .test("an_installation_that_is_killed_leaves_nothing_that_is_listed", killed)
        .test("providers_of_the_runners_own_are_installed_from_and_no_job_changes_them", providers)
        .test("what_the_source_requires_picks_the_engine_or_says_what_to_install", of_the_source)
        .run()
}

async fn set() -> Result<&'static Set> {
    SET.get(|| async {
        let control_plane = ControlPlane::start().await?;
        let engine = Engine::new(EngineKind::OpenTofu)?;
        let setup = Setup::new()?.cold();
        let directory = setup.folder().join("state").join("engines");
        let runner = setup.engines(&[&engine]).start(control_plane.admin(), "runner-1").await?;
        control_plane.admin().post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        Ok(Set { control_plane, runner, engine, directory })
    })
    .await
}

/// A program that says it is of that version.
fn program(set: &Set, version: &str) -> String {
    format!(
        "#!/bin/sh\nif [ \"$1\" = version ]; then echo '{{\"terraform_version\": \"{version}\"}}'; else exec {} \"$@\"; fi\n",
        set.engine.path().display()
    )
}

/// Puts it into the directory by hand. The runner was started before.
fn put(set: &Set, version: &str) -> Result<()> {
    let folder = set.directory.join("opentofu").join(version);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("tofu");
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, program(set, version))?;
    Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o555))?)
}

/// It packed as a vendor packs it, with its SHA-256.
fn packed(set: &Set, version: &str) -> Result<(Vec<u8>, String)> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in [("LICENSE", "of the vendor"), ("tofu", &program(set, version))] {
        writer.start_file(name, zip::write::SimpleFileOptions::default())?;
        writer.write_all(content.as_bytes())?;
    }
    let bytes = writer.finish()?.into_inner();
    let digest = archive::sha256(&bytes);
    Ok((bytes, digest))
}

/// A mirror that answers each request with these bytes, `held`: but the last of them. Where it is, and when somebody has asked.
async fn mirror(bytes: Vec<u8>, held: bool) -> Result<(String, Arc<Notify>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}/tofu/{{version}}", listener.local_addr()?);
    let asked = Arc::new(Notify::new());
    let told = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let _ = socket.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(&bytes[..bytes.len() - usize::from(held)]).await;
            told.notify_one();
            if held {
                // until the other end has gone
                let _ = socket.read(&mut request).await;
            }
        }
    });
    Ok((address, asked))
}

/// What `runner engines list` says of a version.
async fn listed(set: &Set, version: &str) -> Result<Option<Value>> {
    let said = set.runner.ask("engines", &["list", "-o", "json"])?.run(SECONDS).await?.success()?;
    let all: Vec<Value> = serde_json::from_str(&said)?;
    Ok(all.into_iter().find(|one| one["version"] == version))
}

/// The versions with which a job's engine planned.
async fn planned_with(user: &User, job: &str) -> Result<Vec<String>> {
    let started = user.events_of(job, "engine_started").await?;
    let plans = started.iter().filter(|s| s["command"] == "plan");
    Ok(plans.filter_map(|s| Some(s["version"].as_str()?.to_owned())).collect())
}

async fn of_the_stack() -> Result<()> {
    let set = set().await?;
    put(set, OLD)?;
    let user = set.control_plane.admin();
    let ctl = Ctl::new(&set.control_plane, user)?;
    let folder = Scratch::new("by-version")?;
    folder.write("main.tf", quick_module())?;
    let dir = folder.path().display().to_string();
    let deploy = ["deploy", &dir, "--name", "by-version", "--engine-version", "~> 1.9.0", "--auto-approve"];
    let said = ctl.run(&deploy).await?;
    ensure!(said.code() == 0, "{said:?}");
    let stack = user.get("/stacks/by-version").await?;
    ensure!(stack["engine_version"] == "~> 1.9.0", "{stack}");
    let job = stack["last_job"]["id"].as_str().unwrap_or_default().to_owned();
    ensure!(planned_with(user, &job).await? == [OLD], "{:?}", user.events_of(&job, "engine_started").await?);
    let notes = user.events_of(&job, "output_line").await?;
    ensure!(
        notes.iter().any(|n| n["text"] == "opentofu 1.9.3 is taken. What is asked for: ~> 1.9.0 (the stack)."),
        "{notes:?}"
    );
    // taken back: what the runner takes otherwise
    let destroy = ["deploy", "--stack", "by-version", "--engine-version", "any", "--auto-approve"];
    ensure!(ctl.run(&destroy).await?.code() == 0);
    let stack = user.get("/stacks/by-version").await?;
    let job = stack["last_job"]["id"].as_str().unwrap_or_default().to_owned();
    let used = planned_with(user, &job).await?;
    ensure!(stack["engine_version"].is_null() && used.len() == 1 && used != [OLD], "{stack} {used:?}");
    ensure!(ctl.run(&["deploy", "--stack", "by-version", "--engine-version", "newest"]).await?.code() == 64);
    Ok(())
}

async fn installed() -> Result<()> {
    let set = set().await?;
    let (bytes, digest) = packed(set, "1.8.7")?;
    let (mirror, _) = mirror(bytes, false).await?;
    let install = |arguments: &[&str]| {
        let mut all = vec!["install", "opentofu", "1.8.7", "--from", &mirror];
        all.extend(arguments);
        set.runner.ask("engines", &all)
    };
    // what comes from there is not what a signed list is
    let refused = install(&[])?.run(SECONDS).await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("does not vouch for"), "{refused:?}");
    let refused = install(&["--sha256", &"0".repeat(64)])?.run(SECONDS).await?;
    ensure!(refused.stderr.contains("source_refused") && refused.stderr.contains(&digest), "{refused:?}");
    ensure!(listed(set, "1.8.7").await?.is_none());
    let said = install(&["--sha256", &digest])?.run(SECONDS).await?.success()?;
    ensure!(said.starts_with("installed: "), "{said}");
    let said = install(&["--sha256", &digest])?.run(SECONDS).await?.success()?;
    ensure!(said.starts_with("already there: "), "{said}");
    let one = listed(set, "1.8.7").await?.context("it is listed")?;
    ensure!(one["verified"] == "checksum named at its installation" && one["changed"] == false, "{one}");
    let user = set.control_plane.admin();
    let source = user.upload(archive::module(quick_module())?).await?;
    let stack = json!({ "name": "installed", "engine": "opentofu", "engine_version": "1.8.7", "source": source });
    user.post("/stacks", &stack).await?;
    let job = user.start_job("installed", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&job, &["applied"], JOB).await?;
    ensure!(planned_with(user, &job).await? == ["1.8.7"]);
    set.runner.ask("engines", &["remove", "opentofu", "1.8.7"])?.run(SECONDS).await?.success()?;
    ensure!(listed(set, "1.8.7").await?.is_none());
    let job = user.start_job("installed", &json!({ "kind": "preview" })).await?;
    let ended = user.job_in(&job, &["failed"], JOB).await?;
    ensure!(ended.0["result"]["code"] == "engine_version_missing", "{}", ended.0);
    Ok(())
}

async fn killed() -> Result<()> {
    let set = set().await?;
    let (bytes, digest) = packed(set, "1.8.6")?;
    let (slow, asked) = mirror(bytes.clone(), true).await?;
    let install =
        |from: &str| set.runner.ask("engines", &["install", "opentofu", "1.8.6", "--sha256", &digest, "--from", from]);
    let process = install(&slow)?.start()?;
    process.unless_ended(async { tokio::time::timeout(SECONDS, asked.notified()).await.context("it asks") }).await?;
    process.signal(Signal::SIGKILL)?;
    process.ended(SECONDS).await?;
    ensure!(listed(set, "1.8.6").await?.is_none());
    let (whole, _) = mirror(bytes, false).await?;
    install(&whole)?.run(SECONDS).await?.success()?;
    ensure!(listed(set, "1.8.6").await?.is_some());
    let names = std::fs::read_dir(&set.directory)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let names: Vec<_> = names.filter(|name| name != "opentofu").collect();
    ensure!(names == [".lock"], "{names:?}");
    Ok(())
}

/// A package as a registry has it, of the tests' own mirror.
fn package() -> Result<Vec<u8>> {
    let provider = tools::find("terraform-provider-time").context("terraform-provider-time is not here")?;
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    writer.start_file("terraform-provider-time_v0.14.2", options)?;
    writer.write_all(&std::fs::read(provider)?)?;
    Ok(writer.finish()?.into_inner())
}

async fn providers() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    // a runner whose configuration says nothing of where providers come from
    let setup = Setup::new()?.cold();
    let directory = setup.folder().join("state").join("providers");
    let engine = format!("opentofu = {:?}", set.engine.path().display().to_string());
    let runner = setup.table("engines", &engine).start(user, "of-its-own").await?;
    let package = package()?;
    let folder = Scratch::new("mirror")?;
    folder.write("terraform-provider-time_0.14.2_linux_amd64.zip", &package)?;
    let provider = "registry.opentofu.org/hashicorp/time";
    let locked = |digest: &str| {
        format!("provider \"{provider}\" {{\n  version = \"0.14.2\"\n  hashes = [\n    \"zh:{digest}\",\n  ]\n}}\n")
    };
    let mirror = folder.path().display().to_string();
    let add = async |digest: &str| {
        let lock = folder.write("lock.hcl", locked(digest))?.display().to_string();
        runner.ask("providers", &["add", &lock, "--from", &mirror])?.run(SECONDS).await
    };
    let refused = add(&"0".repeat(64)).await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("source_refused"), "{refused:?}");
    let digest = archive::sha256(&package);
    let said = add(&digest).await?.success()?;
    ensure!(said.starts_with("added: "), "{said}");
    let listed = runner.ask("providers", &["list"])?.run(SECONDS).await?.success()?;
    ensure!(listed.starts_with(&format!("{provider} 0.14.2  ")), "{listed}");
    // the engine of a job would change it if it could; where isolation is minimal, it can
    let at = directory.join(provider);
    let started = runner.message(Mark::default(), SECONDS, "runner started").await?;
    let tries = match started["isolation"].as_str() {
        Some("minimal") => "true".to_owned(),
        _ => format!("! touch {at}/x && ! rm -f {at}/*.zip", at = at.display()),
    };
    let module = format!(
        "{}\nresource \"terraform_data\" \"tries\" {{\n  provisioner \"local-exec\" {{\n    command = {tries:?}\n  }}\n}}\n",
        slow_module(0),
    );
    let files = [Entry::file("main.tf", module), Entry::file(".terraform.lock.hcl", locked(&digest))];
    let source = user.upload(archive::pack(&files)?).await?;
    let stack = json!({ "name": "of-its-own", "engine": "opentofu", "runner": "of-its-own", "source": source });
    user.post("/stacks", &stack).await?;
    let job = user.start_job("of-its-own", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&job, &["applied"], JOB).await?;
    let names: Vec<_> = std::fs::read_dir(&at)?.flatten().map(|e| e.file_name()).collect();
    ensure!(names == ["terraform-provider-time_0.14.2_linux_amd64.zip"], "{names:?}");
    Ok(())
}

async fn of_the_source() -> Result<()> {
    let set = set().await?;
    put(set, OLD)?;
    let user = set.control_plane.admin();
    // the engine looks at it as well, so the real one has to be allowed
    let module = |required: &str| format!("terraform {{\n  required_version = {required:?}\n}}\n{}", quick_module());
    user.stack("required", "opentofu", &module(">= 1.10")).await?;
    let job = user.start_job("required", &json!({ "kind": "preview" })).await?;
    let ended = user.job_in(&job, &["planned"], JOB).await?;
    let used = planned_with(user, &job).await?;
    ensure!(used.len() == 1 && used != [OLD], "{used:?} {:?}", ended.0);
    user.stack("nowhere", "opentofu", &module("~> 99.2.0")).await?;
    let job = user.start_job("nowhere", &json!({ "kind": "preview" })).await?;
    let ended = user.job_in(&job, &["failed"], JOB).await?;
    let result = &ended.0["result"];
    ensure!(result["code"] == "engine_version_missing", "{result}");
    ensure!(result["next_step"] == "Install it on the runner: `runner engines install opentofu 99.2.0`.", "{result}");
    ensure!(planned_with(user, &job).await?.is_empty(), "it was not begun");
    Ok(())
}
