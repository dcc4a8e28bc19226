//! The runner's own store of states where it is in no folder: in a bucket (moto, with signatures), and in Secrets of a real API server. The same
//! stack is made, changed, gone back and freed; two instances; a server that goes in the middle of a save; workers that are killed at it.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::archive;
use runner_tests::control_plane::shown;
use runner_tests::cutter::Wire;
use runner_tests::engine::EngineKind;
use runner_tests::runner::{Setup, deploying, signal};
use runner_tests::{
    Cluster, Component, ControlPlane, Cutter, Engine, Moto, Runner, Suite, cluster, eventually, procfs,
};
use runner_tests::{Scratch, ctl::Ctl};
use serde_json::{Value, json};
use shared_proto::states::Root;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const JOB: Duration = Duration::from_secs(240);
const SECONDS: Duration = Duration::from_secs(60);
const BUCKET: &str = "states";
/// The secret part of the key that the bucket's connection has (`aws_environment`).
const SECRET: &str = "secret-of-the-tests";
const PREFIX: &str = "of/the-runner";
/// A worker that has lived for less counts as one that cannot live.
const LIVES: Duration = Duration::from_millis(1_100);
/// How long the wire to the bucket is, each way: a save takes long enough to be seen.
const FAR: Duration = Duration::from_millis(100);
/// So much more on the wire is a save of the state.
const A_SAVE: u64 = 400 * 1024;
/// Of it so many workers are killed: an engine does not try again for ever.
const IN_ONE_WRITE: u32 = 2;

/// Where a test has its states.
enum Server {
    Bucket(Moto),
    Secrets(Box<Cluster>),
}

struct Set {
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
    server: Server,
    _engine: Engine,
}

fn main() -> ExitCode {
    Suite::new()
        .limit(400)
        .needs(&[Component::Tofu, Component::Moto])
        .test("bucket::a_stack_is_made_changed_gone_back_and_freed", || async { life(bucket().await?).await })
        .test("bucket::what_is_not_allowed_is_said_before_anything_is_planned", forbidden_bucket)
        .test("bucket::a_server_that_goes_in_the_middle_of_a_save_costs_nothing", gone)
        .test("bucket::workers_killed_while_the_state_is_written_cost_nothing", killed)
        .test("bucket::another_instance_goes_on_and_takes_nothing_over_by_itself", instances)
        .needs(&[Component::Tofu, Component::Cluster])
        .test("secrets::a_stack_is_made_changed_gone_back_and_freed", || async { life(secrets().await?).await })
        .test("secrets::what_is_not_allowed_is_said_before_anything_is_planned", forbidden_secrets)
        .test("secrets::an_api_server_that_goes_in_the_middle_of_a_save_costs_nothing", gone_secrets)
        .run()
}

/// A setting of the place.
fn in_bucket(setup: Setup, moto: &Moto, endpoint: &str) -> Setup {
    let account =
        format!("provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = {endpoint:?}");
    let place = format!("place = \"s3\"\nconnection = \"keeps\"\nbucket = \"{BUCKET}\"\nprefix = \"{PREFIX}\"");
    setup.aws("other", moto).table("connections.keeps", &account).table("jobs.states", &place)
}

/// Requests that moto takes before it looks who asks.
async fn moto() -> Result<Moto> {
    let moto = Moto::start().await?;
    moto.bucket(BUCKET, ("of", "tests")).await?;
    Ok(moto)
}

async fn bucket() -> Result<Set> {
    let (control_plane, moto) = (ControlPlane::start().await?, moto().await?);
    let url = moto.url();
    let (engine, runner, ctl) = deploying(&control_plane, |setup| Ok(in_bucket(setup, &moto, &url))).await?;
    Ok(Set { control_plane, runner, ctl, server: Server::Bucket(moto), _engine: engine })
}

fn in_secrets(setup: Setup, cluster: &Cluster, token: &str) -> Result<Setup> {
    let setup = setup.kubernetes("keeps", &cluster.kubeconfig(cluster.address(), token))?;
    Ok(setup.table("jobs.states", "place = \"kubernetes\"\nconnection = \"keeps\"\nnamespace = \"default\""))
}

async fn secrets() -> Result<Set> {
    let (control_plane, cluster) = tokio::try_join!(ControlPlane::start(), Cluster::start())?;
    let (engine, runner, ctl) = deploying(&control_plane, |setup| in_secrets(setup, &cluster, cluster::ADMIN)).await?;
    let server = Server::Secrets(Box::new(cluster));
    Ok(Set { control_plane, runner, ctl, server, _engine: engine })
}

impl Set {
    /// A job of that kind to one of those ends; the job.
    async fn job(&self, stack: &str, body: Value, ends: &[&str]) -> Result<Value> {
        let user = self.control_plane.admin();
        let id = user.start_job(stack, &body).await?;
        Ok(user.job_in(&id, ends, JOB).await?.0)
    }
    async fn applied(&self, stack: &str, greeting: &str) -> Result<Value> {
        let variables = json!({ "greeting": greeting });
        let job = json!({ "kind": "update", "approve_automatically": true, "variables": variables });
        self.job(stack, job, &["applied"]).await
    }
    /// All that lies in the place, by name.
    async fn all(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        match &self.server {
            Server::Bucket(moto) => {
                for key in moto.keys(BUCKET).await? {
                    let content = moto.object(BUCKET, &key).await?.context("an object")?;
                    all.push((key, content));
                }
            }
            Server::Secrets(cluster) => {
                use base64::Engine as _;
                let list = cluster.read("/api/v1/namespaces/default/secrets").await?;
                for secret in list["items"].as_array().into_iter().flatten() {
                    let content = secret["data"]["content"].as_str().unwrap_or_default();
                    let content = base64::engine::general_purpose::STANDARD.decode(content)?;
                    all.push((secret["metadata"]["name"].as_str().context("a name")?.to_owned(), content));
                }
            }
        }
        Ok(all)
    }
}

/// Shows what a program of the job finds of credentials, and what becomes of one in an event.
const GREETS: &str = r#"
variable "greeting" { default = "planted-none" }
resource "terraform_data" "greets" {
  input = var.greeting
  provisioner "local-exec" {
    command = "env; tr '\\0' '\\n' < /proc/$PPID/environ; ls -la ..; echo secret-of-the-tests"
  }
}
output "greeting" { value = terraform_data.greets.output }
"#;

async fn life(set: Set) -> Result<()> {
    let user = set.control_plane.admin();
    let stack = user.stack("greets", "opentofu", GREETS).await?;
    let id = stack["id"].as_str().context("an id")?;
    let first = set.applied("greets", "planted-one").await?;
    let events = user.events(first["id"].as_str().context("an id")?).await?;
    let said = Value::from(events).to_string();
    let by = match &set.server {
        Server::Bucket(_) => format!("s3://{BUCKET}/{PREFIX}"),
        Server::Secrets(_) => "secrets://keeps/default".to_owned(),
    };
    ensure!(said.contains(&format!("its state is kept in the runner's store, in {by}")), "{said}");
    // no program of the job has the credentials of the place, and where a value of them turns up it is taken out
    ensure!(said.contains("PATH=") && !said.contains("AWS_") && !said.contains(cluster::ADMIN), "{said}");
    if matches!(set.server, Server::Bucket(_)) {
        ensure!(said.contains("[redacted]") && !said.contains(SECRET), "{said}");
    }
    for greeting in ["planted-two", "planted-three"] {
        set.applied("greets", greeting).await?;
    }
    let listed = set.ctl.json(&["state", "versions", "greets"]).await?;
    let items = listed["items"].as_array().context("a list")?;
    let numbers: Vec<_> = items.iter().map(|v| (v["number"].as_u64(), v["resources"].as_u64())).collect();
    ensure!(numbers == [(Some(1), Some(1)), (Some(2), Some(1)), (Some(3), Some(1))], "{listed}");
    for (name, content) in set.all().await? {
        let has = |text: &str| content.windows(text.len()).any(|part| part == text.as_bytes());
        ensure!(!has("planted-") && !has("terraform_data"), "{name} has a state as it is");
    }
    let here = set.runner.state().join("stacks").join(id).join("versions");
    ensure!(std::fs::read_dir(&here).is_ok_and(|mut entries| entries.next().is_none()), "a version is on the runner");
    let text = set.ctl.text(&["state", "list", "greets"]).await?;
    ensure!(text.contains("terraform_data.greets"), "{text}");
    let text = set.ctl.text(&["state", "show", "greets", "terraform_data.greets"]).await?;
    ensure!(text.contains("planted-three"), "{text}");

    let none = set.ctl.run(&["state", "rollback", "greets", "9", "--reason", "a test"]).await?;
    ensure!(none.code() != 0 && none.stderr.contains("no version 9"), "{none:?}");
    let said = set.ctl.run(&["state", "rollback", "greets", "1", "--reason", "it was right then"]).await?;
    ensure!(said.code() == 0, "{said:?}");
    let outputs = set.ctl.json(&["state", "outputs", "greets"]).await?;
    ensure!(outputs.to_string().contains("planted-one"), "it was not gone back to: {outputs}");
    let preview = json!({ "kind": "preview", "variables": { "greeting": "planted-three" } });
    let preview = set.job("greets", preview, &["planned", "no_changes"]).await?;
    ensure!(preview["phase"] == "planned", "{preview}");

    // nor is anything made a second time where the stack gets a backend of its own
    let own = "terraform {\n  backend \"inmem\" {}\n}\n";
    let with_own = user.upload(archive::module(&format!("{own}{GREETS}"))?).await?;
    let before = user.change_stack("greets", "source", &with_own).await?;
    let job =
        set.job("greets", json!({ "kind": "update", "approve_automatically": true }), &["failed", "applied"]).await?;
    ensure!(job["result"]["code"] == "state_elsewhere", "{job}");
    user.change_stack("greets", "source", &before).await?;

    // a version that is fetched from there opens with the runner's key
    let folder = Scratch::new("fetched")?;
    let all = set.all().await?;
    let (_, content) =
        all.iter().find(|(name, _)| name.ends_with("000003") || name.ends_with("-v3")).context("version 3")?;
    std::fs::write(folder.join("version"), content)?;
    let file = folder.join("version").display().to_string();
    let state = set.runner.ask("states", &["export", id, "--file", &file])?.run(SECONDS).await?.success()?;
    ensure!(state.contains("planted-three") && state.contains("terraform_data"), "{state}");
    let said = set.runner.ask("states", &["export", id])?.run(SECONDS).await?;
    ensure!(said.code() == 66 && said.stderr.contains(&by) && said.stderr.contains("--file"), "{said:?}");

    // an engine that is killed leaves its lock, which is told and removed
    let id = user.applying("killed", 600, (JOB, SECONDS)).await?;
    let worker = set.runner.job_worker(SECONDS).await?;
    let engine = procfs::descendants(worker.pid).into_iter().find(|process| process.comm == "tofu");
    signal(engine.context("an engine")?.pid, Signal::SIGKILL)?;
    let job = user.job_in(&id, &["failed", "lost"], JOB).await?;
    ensure!(job.phase() == "failed" && job.0["result"]["engine_signal"] == "SIGKILL", "{}", job.0);
    let next = set.job("killed", json!({ "kind": "preview" }), &["failed", "planned"]).await?;
    ensure!(next["result"]["code"] == "state_locked", "{next}");
    let known = user.get("/stacks/killed/lock").await?;
    ensure!(known["holder"]["verdict"] == "dead" && known["holder"]["job"] == id.as_str(), "{known}");
    let lock = known["lock"]["id"].as_str().context("an id")?;
    let said = set.ctl.run(&["state", "unlock", "killed", lock, "--reason", "its engine was killed"]).await?;
    ensure!(said.code() == 0, "{said:?}");
    let next = set.job("killed", json!({ "kind": "preview" }), &["failed", "planned"]).await?;
    ensure!(next["phase"] == "planned", "{next}");

    let (_, status) = set.runner.status().await?;
    ensure!(status["states"] == by.as_str(), "{status}");
    Ok(())
}

/// What a job says that cannot have its states: nothing was planned, and what is to be done.
async fn refused(set: &Set, code: &str, next_step: &str) -> Result<()> {
    let user = set.control_plane.admin();
    user.stack("greets", "opentofu", GREETS).await?;
    let id = user.start_job("greets", &json!({ "kind": "update", "approve_automatically": true })).await?;
    let job = user.job_in(&id, &["failed"], JOB).await?;
    ensure!(job.code() == code, "{}", job.0);
    let said = job.0["result"]["next_step"].as_str().unwrap_or_default();
    ensure!(said.contains(next_step), "{}", job.0);
    let events = Value::from(user.events(&id).await?).to_string();
    ensure!(!events.contains("\"planning\""), "{events}");
    // whose state is elsewhere is served all the same
    let own = "terraform {\n  backend \"http\" { address = \"http://127.0.0.1:1/\" }\n}\n";
    user.stack("own", "opentofu", own).await?;
    let id = user.start_job("own", &json!({ "kind": "preview" })).await?;
    let job = user.job_in(&id, &["failed"], JOB).await?;
    ensure!(job.code() == "engine_failed", "{}", job.0);
    Ok(())
}

async fn forbidden_bucket() -> Result<()> {
    // it has a bucket, and from then on knows nobody
    let (control_plane, moto) = (ControlPlane::start().await?, Moto::strict(2).await?);
    moto.bucket(BUCKET, ("of", "tests")).await?;
    let url = moto.url();
    let (engine, runner, ctl) = deploying(&control_plane, |setup| Ok(in_bucket(setup, &moto, &url))).await?;
    let set = Set { control_plane, runner, ctl, server: Server::Bucket(moto), _engine: engine };
    refused(&set, "target_forbidden", "Correct the credentials of the connection keeps.").await
}

async fn forbidden_secrets() -> Result<()> {
    let (control_plane, cluster) = tokio::try_join!(ControlPlane::start(), Cluster::start())?;
    let (engine, runner, ctl) =
        deploying(&control_plane, |setup| in_secrets(setup, &cluster, cluster::RESTRICTED)).await?;
    let server = Server::Secrets(Box::new(cluster));
    let set = Set { control_plane, runner, ctl, server, _engine: engine };
    refused(&set, "target_forbidden", "get, list, create, update and delete of secrets in the namespace default").await
}

/// An apply that is at it for so many seconds, and has made something by then.
fn slow(seconds: u32) -> String {
    format!(
        r#"
terraform {{
  required_providers {{
    time = {{
      source  = "hashicorp/time"
      version = "0.14.2"
    }}
  }}
}}
resource "terraform_data" "first" {{ input = "planted-first" }}
resource "time_sleep" "wait" {{
  create_duration = "{seconds}s"
  depends_on      = [terraform_data.first]
}}
"#
    )
}

/// The place goes while an engine is at work, and comes back once the job has ended: what the engine could not save is kept, and goes on.
async fn goes(set: &mut Set, mut switch: impl AsyncFnMut(&mut Server, bool) -> Result<()>) -> Result<()> {
    let user = set.control_plane.admin().clone();
    let stack = user.stack("slow", "opentofu", &slow(12)).await?;
    let id = user.start_job("slow", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&id, &["applying"], JOB).await?;
    eventually(JOB, "the second resource to be in the making", || async {
        let progress = Value::from(user.events_of(&id, "resource_progress").await?).to_string();
        Ok(progress.contains("time_sleep.wait").then_some(()))
    })
    .await?;
    switch(&mut set.server, false).await?;
    let job = user.job_in(&id, &["failed"], JOB).await?;
    ensure!(job.code() == "state_unusable", "{}", job.0);
    let kept = job.0["result"]["rescued_state"].as_str().context("a state that was kept")?.to_owned();
    let state: Value = serde_json::from_slice(&std::fs::read(&kept)?)?;
    ensure!(state["resources"].as_array().map(Vec::len) == Some(2), "{state}");
    switch(&mut set.server, true).await?;
    // its lock is left, and told as that of an engine that is gone
    let next = set.job("slow", json!({ "kind": "preview" }), &["failed", "planned"]).await?;
    ensure!(next["result"]["code"] == "state_locked", "{next}");
    let known = user.get("/stacks/slow/lock").await?;
    ensure!(known["holder"]["verdict"] == "dead", "{known}");
    let lock = known["lock"]["id"].as_str().context("an id")?;
    let said = set.ctl.run(&["state", "unlock", "slow", lock, "--reason", "the server was gone"]).await?;
    ensure!(said.code() == 0, "{said:?}");
    // what was kept is put where the next job takes it in
    let folder = set.runner.state().join("stacks").join(stack["id"].as_str().context("an id")?);
    std::fs::rename(&kept, folder.join("terraform.tfstate"))?;
    let next = set.job("slow", json!({ "kind": "preview" }), &["failed", "planned", "no_changes"]).await?;
    ensure!(next["phase"] == "no_changes", "{next}");
    Ok(())
}

async fn gone() -> Result<()> {
    let (control_plane, moto) = (ControlPlane::start().await?, moto().await?);
    let to: SocketAddr = moto.url().trim_start_matches("http://").parse()?;
    let wire = Cutter::new(to).await?;
    let url = format!("http://{}", wire.address());
    let (engine, runner, ctl) = deploying(&control_plane, |setup| Ok(in_bucket(setup, &moto, &url))).await?;
    let mut set = Set { control_plane, runner, ctl, server: Server::Bucket(moto), _engine: engine };
    goes(&mut set, async |_, there| {
        wire.set(if there { Wire::Pass } else { Wire::Reset });
        Ok(())
    })
    .await
}

async fn gone_secrets() -> Result<()> {
    let mut set = secrets().await?;
    goes(&mut set, async |server, there| {
        let Server::Secrets(cluster) = server else { return Ok(()) };
        match there {
            true => cluster.start_api_server_again().await,
            false => {
                cluster.kill_api_server();
                Ok(())
            }
        }
    })
    .await
}

/// An apply of most of a minute, whose state is of more than a MiB.
const LONG: &str = r#"
terraform {
  required_providers {
    time = {
      source  = "hashicorp/time"
      version = "0.14.2"
    }
  }
}
resource "terraform_data" "large" {
  input = join("", [for n in range(1024) : join("", [for m in range(64) : "0123456789abcdef"])])
}
resource "time_sleep" "first" {
  create_duration = "21s"
  depends_on      = [terraform_data.large]
}
resource "time_sleep" "second" {
  create_duration = "5s"
  depends_on      = [time_sleep.first]
}
"#;

async fn killed() -> Result<()> {
    let (control_plane, moto) = (ControlPlane::start().await?, moto().await?);
    let to: SocketAddr = moto.url().trim_start_matches("http://").parse()?;
    let wire = Cutter::with_delay(to, FAR).await?;
    let url = format!("http://{}", wire.address());
    let (engine, runner, ctl) = deploying(&control_plane, |setup| Ok(in_bucket(setup, &moto, &url))).await?;
    let set = Set { control_plane, runner, ctl, server: Server::Bucket(moto), _engine: engine };
    let user = set.control_plane.admin();
    user.stack("long", "opentofu", LONG).await?;
    let id = user.start_job("long", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&id, &["applying"], JOB).await?;
    let Server::Bucket(moto) = &set.server else { return Ok(()) };
    // workers that were killed, that which lives and since when it is seen, the versions, and the kills since there was a new one
    let (mut kills, mut seen, mut versions, mut in_write) = (0, None, BTreeSet::new(), 0);
    let (mut before, mut looked, end) = (wire.bytes(), Instant::now(), Instant::now() + JOB);
    while !user.job(&id).await?.ended() {
        ensure!(Instant::now() < end, "the job does not end, after {kills} kills");
        let keys = moto.keys(BUCKET).await?.into_iter().filter(|key| key.contains("/versions/"));
        let found: BTreeSet<String> = keys.collect();
        if found != versions {
            (versions, in_write) = (found, 0);
        }
        let worker = set.runner.processes().jobs.into_iter().find(|w| !w.ended()).map(|w| w.pid);
        if worker != seen.map(|(pid, _)| pid) {
            seen = worker.map(|pid| (pid, Instant::now()));
        }
        // between two looks at the job: a save takes some hundred milliseconds
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let bytes = wire.bytes();
            if looked.elapsed() > Duration::from_millis(300) {
                (before, looked) = (bytes, Instant::now());
            }
            if bytes < before + A_SAVE {
                continue;
            }
            before = bytes;
            let lives = seen.filter(|(_, since)| since.elapsed() > LIVES || kills == 0);
            if let Some((pid, _)) = lives.filter(|_| in_write < IN_ONE_WRITE)
                && signal(pid, Signal::SIGKILL).is_ok()
            {
                (seen, kills, in_write) = (None, kills + 1, in_write + 1);
            }
        }
    }
    let job = user.job(&id).await?;
    ensure!(job.phase() == "applied" && job.code() == "ok", "after {kills} kills: {}", job.0);
    eprintln!("{kills} workers killed as they wrote the state");
    ensure!(kills >= 2, "only {kills} were killed as they wrote the state");
    user.started_once(&id, "apply").await?;
    let listed = set.ctl.json(&["state", "versions", "long"]).await?;
    let items = listed["items"].as_array().context("a list")?;
    ensure!(items.len() >= 2 && items.iter().all(|item| item["unreadable"] != true), "{listed}");
    ensure!(job.0["result"]["rescued_state"].is_null(), "{}", job.0);
    let next = set.job("long", json!({ "kind": "preview" }), &["no_changes", "planned", "failed"]).await?;
    ensure!(next["phase"] == "no_changes", "{next}");
    Ok(())
}

async fn instances() -> Result<()> {
    let (control_plane, moto) = (ControlPlane::start().await?, moto().await?);
    let (engine, user) = (Engine::new(EngineKind::OpenTofu)?, control_plane.admin());
    let folder = Scratch::new("key")?;
    let key = Root::make().map_err(|e| anyhow::anyhow!("{e}"))?;
    let key = folder.write("states.key", key.text().expose())?;
    let id = user.register("runner-1").await?;
    user.post(&format!("/runners/{id}/default"), &json!({})).await?;
    let setup = || -> Result<Setup> {
        let account = format!(
            "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = {:?}",
            moto.url()
        );
        let place =
            format!("place = \"s3\"\nconnection = \"keeps\"\nbucket = \"{BUCKET}\"\nkey_file = {:?}", shown(&key));
        let setup = Setup::new()?.cold().engines(&[&engine]).aws("other", &moto);
        Ok(setup.table("connections.keeps", &account).table("jobs.states", &place))
    };
    let ctl = Ctl::new(&control_plane, user)?;
    let run = async |stack: &str, body: Value, ends: &[&str]| -> Result<Value> {
        let id = user.start_job(stack, &body).await?;
        Ok(user.job_in(&id, ends, JOB).await?.0)
    };
    let update = |greeting: &str| json!({ "kind": "update", "approve_automatically": true, "variables": { "greeting": greeting } });
    user.stack("greets", "opentofu", GREETS).await?;
    let first = setup()?.start_as(user, &id).await?;
    run("greets", update("planted-one"), &["applied"]).await?;
    // one that is killed with all that it has leaves who served, and its engine's lock
    let killed = user.applying("killed", 600, (JOB, SECONDS)).await?;
    first.job_worker(SECONDS).await?;
    for process in first.processes().first {
        signal(process.pid, Signal::SIGKILL)?;
    }
    let job = user.job_in(&killed, &["failed", "lost"], JOB).await?;
    drop(first);

    let second = setup()?.start_as(user, &id).await?;
    let next = run("greets", update("planted-two"), &["applied"]).await?;
    ensure!(next["instance_id"].is_string() && next["instance_id"] != job.0["instance_id"], "{next}");
    let versions = ctl.json(&["state", "versions", "greets"]).await?;
    ensure!(versions["items"].as_array().map(Vec::len) == Some(2), "{versions}");
    let next = run("killed", json!({ "kind": "preview" }), &["failed", "planned"]).await?;
    ensure!(next["result"]["code"] == "state_locked", "{next}");
    let said = next["result"]["message"].as_str().unwrap_or_default();
    ensure!(said.contains(&killed) && said.contains("nothing proves here that it has ended"), "{next}");
    let known = user.get("/stacks/killed/lock").await?;
    let lock = known["lock"]["id"].as_str().context("an id")?;
    ensure!(known["holder"]["job"] == killed.as_str() && known["holder"]["verdict"] != "live", "{known}");
    let said = ctl.run(&["state", "unlock", "killed", lock, "--force", "--reason", "that machine is gone"]).await?;
    ensure!(said.code() == 0, "{said:?}");
    let next = run("killed", json!({ "kind": "preview" }), &["failed", "planned"]).await?;
    ensure!(next["phase"] == "planned", "{next}");
    drop(second);

    // without the key of the others what is there stays closed, and nothing is begun anew
    let account = format!(
        "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = {:?}",
        moto.url()
    );
    let place = format!("place = \"s3\"\nconnection = \"keeps\"\nbucket = \"{BUCKET}\"");
    let third = Setup::new()?.cold().engines(&[&engine]).aws("other", &moto);
    let third = third.table("connections.keeps", &account).table("jobs.states", &place).start_as(user, &id).await?;
    let next = run("greets", update("planted-three"), &["failed", "applied"]).await?;
    ensure!(next["result"]["code"] == "state_damaged", "{next}");
    drop(third);
    Ok(())
}
