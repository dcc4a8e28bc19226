//! The runner's own store of states, with real OpenTofu: versions and the way back, sealed on disk; a plan that was overtaken; the lock of an
//! engine that was killed; workers that are killed while the state is written.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use runner_tests::archive::{self, Entry};
use runner_tests::control_plane::aws_environment;
use runner_tests::ctl::Ctl;
use runner_tests::engine::{self, EngineKind};
use runner_tests::procfs;
use runner_tests::runner::{Setup, deploying, signal};
use runner_tests::{Component, ControlPlane, Engine, Moto, Runner, Scratch, Suite, eventually};
use serde_json::{Value, json};
use shared_proto::states::VERSIONS;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const JOB: Duration = Duration::from_secs(180);
const SECONDS: Duration = Duration::from_secs(30);
/// A worker that has lived for less counts as one that cannot live.
const LIVES: Duration = Duration::from_millis(1_100);
/// The engine saves its state again some twenty seconds after it has.
const SAVES_AFTER: Duration = Duration::from_secs(15);
/// How old what is known of the runner's processes may be.
const PROCESSES_LOOKED: Duration = Duration::from_millis(20);
/// Workers that are killed as they write the same version.
const IN_ONE_WRITE: u32 = 4;

struct Set {
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
    _engine: Engine,
}

fn main() -> ExitCode {
    Suite::new()
        .limit(400)
        .needs(&[Component::Tofu])
        .test("an_earlier_version_is_gone_back_to_and_the_next_plan_shows_the_difference", back)
        .test("a_plan_that_a_newer_state_has_overtaken_is_not_applied", overtaken)
        .test("no_source_takes_its_state_out_of_the_store", stays_there)
        .test("the_lock_of_an_engine_that_was_killed_is_told_and_removed", lock)
        .test("workers_killed_while_the_state_is_written_cost_nothing", || killed(&[]))
        .test("workers_killed_while_the_state_is_written_cost_nothing_without_namespaces", without_namespaces)
        .test("what_one_stack_gives_another_takes_and_follows", follows)
        .test("a_state_goes_from_runner_to_runner_and_an_old_one_is_not_gone_on_with", between_runners)
        .test("a_workspaces_state_goes_from_runner_to_runner_as_well", workspace_between_runners)
        .needs(&[Component::Tofu, Component::Moto])
        .test("a_state_is_taken_to_a_backend_and_comes_back", taken_to_a_backend)
        .test("a_workspaces_state_is_taken_to_a_backend", workspace_taken)
        .test("a_backend_that_goes_or_is_another_one_is_noticed", backend_goes)
        .test("in_s3_with_a_session_that_ends_and_the_reading_one_while_it_plans", in_s3)
        .run()
}

async fn set_under(under: &[&str]) -> Result<Set> {
    let control_plane = ControlPlane::start().await?;
    let isolated = |setup: Setup| Ok(setup.table("isolation", "require = \"minimal\"").under(under.iter().copied()));
    let (engine, runner, ctl) = deploying(&control_plane, isolated).await?;
    Ok(Set { control_plane, runner, ctl, _engine: engine })
}

async fn set() -> Result<Set> {
    set_under(&[]).await
}

impl Set {
    /// A job of that kind to one of those ends; the job.
    async fn job(&self, stack: &str, body: Value, ends: &[&str]) -> Result<Value> {
        let user = self.control_plane.admin();
        let id = user.start_job(stack, &body).await?;
        Ok(user.job_in(&id, ends, JOB).await?.0)
    }
    /// Another runner, beside the first one.
    async fn other(&self) -> Result<Runner> {
        let isolated = Setup::new()?.cold().engines(&[&self._engine]).table("isolation", "require = \"minimal\"");
        isolated.start(self.control_plane.admin(), "runner-2").await
    }
    async fn applied(&self, stack: &str, greeting: &str) -> Result<Value> {
        let variables = json!({ "greeting": greeting });
        let job = json!({ "kind": "update", "approve_automatically": true, "variables": variables });
        self.job(stack, job, &["applied"]).await
    }
    fn folder(&self, stack: &Value) -> Result<PathBuf> {
        Ok(self.runner.state().join("stacks").join(stack["id"].as_str().context("an id")?))
    }
    fn state(&self, stack: &Value) -> Result<Value> {
        let state = engine::newest_state(&self.runner, stack["id"].as_str().context("an id")?)?;
        Ok(serde_json::from_slice(&state.context("a state")?)?)
    }
    fn versions(&self, stack: &Value) -> Result<Vec<u64>> {
        engine::versions_of(&self.runner, stack["id"].as_str().context("an id")?)
    }
}

const GREETS: &str = r#"
variable "greeting" { default = "planted-none" }
resource "terraform_data" "greets" { input = var.greeting }
output "greeting" { value = terraform_data.greets.output }
"#;

/// Whether a text is in any file below a folder, as it is.
fn is_in(folder: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let has = |content: Vec<u8>| content.windows(text.len()).any(|part| part == text.as_bytes());
        if (path.is_dir() && is_in(&path, text)?) || (path.is_file() && has(std::fs::read(&path)?)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives a list and something sensitive.
const GIVES: &str = r#"
variable "greeting" { default = "a" }
output "ids" { value = [var.greeting, "b"] }
output "key" {
  value     = "planted-key"
  sensitive = true
}
"#;
const TAKES: &str = r#"
variable "ids" { type = list(string) }
resource "terraform_data" "each" {
  for_each = toset(var.ids)
  input    = each.value
}
output "count" { value = length(var.ids) }
"#;
const WRONG: &str = r#"variable "n" { default = "one" }
resource "terraform_data" "a" {
  count = tonumber(var.n)
}
"#;

async fn follows() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    user.stack("network", "opentofu", GIVES).await?;
    let app = user.stack("app", "opentofu", TAKES).await?;
    let changed = set.ctl.run(&["stack", "update", "app", "--input", "ids=network.ids", "--follow", "yes"]).await?;
    ensure!(changed.code() == 0, "{changed:?}");
    let shown = set.ctl.text(&["stack", "show", "app"]).await?;
    ensure!(shown.contains("ids=network.ids"), "{shown}");
    let early = set.ctl.run(&["deploy", "--stack", "app", "--auto-approve"]).await?;
    ensure!(early.code() != 0 && early.stderr.contains("input_missing"), "{early:?}");
    ensure!(early.stderr.contains("runnerctl deploy --stack network"), "{early:?}");
    // what it stands on is made, and it follows
    for (greeting, made) in [("a", 2), ("c", 2)] {
        let first = set.applied("network", greeting).await?;
        let origin = format!("after {}", first["id"].as_str().context("an id")?);
        let id = eventually(JOB, "the stack to be planned anew", || async {
            let jobs = set.ctl.json(&["job", "list", "--stack", "app"]).await?;
            let job = jobs["items"].as_array().into_iter().flatten().find(|job| job["origin"] == origin.as_str());
            Ok(job.and_then(|job| job["id"].as_str()).map(str::to_owned))
        })
        .await?;
        user.job_in(&id, &["awaiting_approval"], JOB).await?;
        set.ctl.text(&["job", "approve", &id]).await?;
        user.job_in(&id, &["applied"], JOB).await?;
        let state = set.state(&app)?;
        let keys = state["resources"][0]["instances"].as_array().context("instances")?;
        ensure!(keys.len() == made && keys.iter().any(|one| one["index_key"] == greeting), "{state}");
    }
    let graph = set.ctl.text(&["stack", "graph"]).await?;
    ensure!(graph.lines().nth(1).is_some_and(|line| line.starts_with("network")), "{graph}");
    let kept = set.ctl.run(&["stack", "delete", "network"]).await?;
    ensure!(kept.code() != 0 && kept.stderr.contains("inputs of app"), "{kept:?}");
    // a sensitive one is in no place from which it could be given
    set.ctl.text(&["stack", "update", "app", "--input", "ids=network.key"]).await?;
    let refused = set.ctl.run(&["deploy", "--stack", "app", "--auto-approve"]).await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("is sensitive"), "{refused:?}");
    // what fails is shown with its code
    user.stack("wrong", "opentofu", WRONG).await?;
    let wrong = set.ctl.run(&["deploy", "--stack", "wrong", "--auto-approve"]).await?;
    let said = format!("{}{}", wrong.stdout, wrong.stderr);
    for part in
        ["line 3, in resource \"terraform_data\" \"a\"", "     3:   count = tonumber(var.n)", "var.n is \"one\""]
    {
        ensure!(wrong.code() != 0 && said.contains(part), "{part}: {said}");
    }
    Ok(())
}

async fn back() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let stack = user.stack("greets", "opentofu", GREETS).await?;
    for greeting in ["planted-one", "planted-two", "planted-three"] {
        set.applied("greets", greeting).await?;
    }
    let listed = set.ctl.json(&["state", "versions", "greets"]).await?;
    let items = listed["items"].as_array().context("a list")?;
    let numbers: Vec<_> = items.iter().map(|v| (v["number"].as_u64(), v["resources"].as_u64())).collect();
    ensure!(numbers == [(Some(1), Some(1)), (Some(2), Some(1)), (Some(3), Some(1))], "{listed}");
    let serials: Vec<_> = items.iter().filter_map(|v| v["serial"].as_u64()).collect();
    ensure!(serials.is_sorted() && serials.len() == 3, "{listed}");
    ensure!(!is_in(&set.folder(&stack)?, "planted-")?, "a state lies there as it is");
    let text = set.ctl.text(&["state", "versions", "greets"]).await?;
    ensure!(text.starts_with("VERSION") && text.lines().count() == 4, "{text}");

    let none = set.ctl.run(&["state", "rollback", "greets", "9", "--reason", "a test"]).await?;
    ensure!(none.code() != 0 && none.stderr.contains("no version 9"), "{none:?}");
    let said = set.ctl.run(&["state", "rollback", "greets", "1", "--reason", "it was right then"]).await?;
    ensure!(said.code() == 0, "{said:?}");
    let state = set.state(&stack)?;
    ensure!(state["outputs"]["greeting"]["value"] == "planted-one", "{state}");
    ensure!(state["serial"].as_u64() > serials.last().copied(), "{state}");
    let listed = set.ctl.json(&["state", "versions", "greets"]).await?;
    let last = listed["items"].as_array().and_then(|items| items.last()).context("the newest")?;
    ensure!(last["number"] == 4 && last["copy_of"] == 1 && last["reason"] == "it was right then", "{listed}");
    // nothing but the state has changed: what it tells of is as it was, and the engine says so
    let preview = json!({ "kind": "preview", "variables": { "greeting": "planted-three" } });
    let preview = set.job("greets", preview, &["planned", "no_changes"]).await?;
    ensure!(preview["phase"] == "planned", "{preview}");
    set.applied("greets", "planted-three").await?;
    ensure!(set.state(&stack)?["outputs"]["greeting"]["value"] == "planted-three");
    ensure!(set.versions(&stack)? == [1, 2, 3, 4, 5]);
    Ok(())
}

async fn overtaken() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let stack = user.stack("greets", "opentofu", GREETS).await?;
    set.applied("greets", "one").await?;
    let body = json!({ "kind": "update", "variables": { "greeting": "two" } });
    let waits = set.job("greets", body, &["awaiting_approval"]).await?;
    let id = waits["id"].as_str().context("an id")?;
    // another state, as somebody puts it there who has changed it by hand
    let mut state = set.state(&stack)?;
    state["serial"] = (state["serial"].as_u64().context("a serial")? + 1).into();
    std::fs::write(set.folder(&stack)?.join("terraform.tfstate"), state.to_string())?;
    user.post(&format!("/jobs/{id}/approve"), &json!({})).await?;
    let job = user.job_in(id, &["failed", "applied"], JOB).await?;
    ensure!((job.phase(), job.code()) == ("failed", "plan_stale"), "{}", job.0);
    ensure!(set.state(&stack)?["outputs"]["greeting"]["value"] == "one");
    set.applied("greets", "two").await?;
    Ok(())
}

async fn lock() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let id = user.applying("killed", 600, (JOB, SECONDS)).await?;
    let worker = set.runner.job_worker(SECONDS).await?;
    let engine = procfs::descendants(worker.pid).into_iter().find(|process| process.comm == "tofu");
    signal(engine.context("an engine")?.pid, Signal::SIGKILL)?;
    let job = user.job_in(&id, &["failed", "lost"], JOB).await?;
    ensure!(job.phase() == "failed" && job.0["result"]["engine_signal"] == "SIGKILL", "{}", job.0);
    // whoever comes next is told at once, and what to do
    let start = Instant::now();
    let next = set.job("killed", json!({ "kind": "preview" }), &["failed", "planned"]).await?;
    ensure!(next["result"]["code"] == "state_locked" && start.elapsed() < Duration::from_secs(45), "{next}");
    let known = user.get("/stacks/killed/lock").await?;
    ensure!(known["holder"]["verdict"] == "dead" && known["holder"]["job"] == id.as_str(), "{known}");
    let lock = known["lock"]["id"].as_str().context("an id")?;
    let another = set.ctl.run(&["state", "unlock", "killed", "another", "--reason", "a test", "--force"]).await?;
    ensure!(another.code() != 0 && another.stderr.contains(lock), "{another:?}");
    let said = set.ctl.run(&["state", "unlock", "killed", lock, "--reason", "its engine was killed"]).await?;
    ensure!(said.code() == 0, "{said:?}");
    let next = set.job("killed", json!({ "kind": "preview" }), &["failed", "planned"]).await?;
    ensure!(next["phase"] == "planned", "{next}");
    Ok(())
}

/// The state is in a bucket; what is made says whose credentials its program has.
const IN_S3: &str = r#"
terraform {
  backend "s3" {
    bucket       = "states"
    key          = "of/the/tests.tfstate"
    use_lockfile = true
  }
}
resource "terraform_data" "one" {
  provisioner "local-exec" {
    command = "echo profile=$AWS_PROFILE, key=[$AWS_SECRET_ACCESS_KEY]; grep -c credential_process $AWS_CONFIG_FILE"
  }
}
"#;

async fn in_s3() -> Result<()> {
    let (control_plane, moto) = (ControlPlane::start().await?, Moto::start().await?);
    moto.bucket("states", ("of", "tests")).await?;
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let user = control_plane.admin();
    let session = |role: &str| {
        format!(
            "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = {:?}\n\
             assume_role_arn = \"arn:aws:iam::123456789012:role/{role}\"\nsession_seconds = 900",
            moto.url()
        )
    };
    let setup = Setup::new()?.cold().engines(&[&engine]).aws("other", &moto);
    let account = format!("{}\nplan_with = \"account-read\"", session("writes"));
    let setup = setup.table("connections.account", &account).table("connections.account-read", &session("reads"));
    let runner = setup.start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    let ctl = Ctl::new(&control_plane, user)?;
    let source = user.upload(runner_tests::archive::module(IN_S3)?).await?;
    let stack = json!({ "name": "s3", "engine": "opentofu", "source": source, "connections": ["account"] });
    user.post("/stacks", &stack).await?;
    let id = user.start_job("s3", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&id, &["applied"], JOB).await?;
    let said = ctl.text(&["job", "logs", &id]).await?;
    ensure!(said.contains("profile=account, key=[]"), "{said}");
    let all = user.events(&id).await?;
    let note = "In the place of the connection account the plan has the credentials of account-read.";
    ensure!(all.iter().any(|event| event.to_string().contains(note)), "{all:?}");
    let kept = moto.call("s3", http::Method::GET, "/states/of/the/tests.tfstate", &[], "").await?;
    ensure!(kept.status.is_success() && kept.text().contains("terraform_data"), "{}", kept.status);
    let locked = moto.call("s3", http::Method::GET, "/states/of/the/tests.tfstate.tflock", &[], "").await?;
    ensure!(!locked.status.is_success(), "its lock was left");
    // the picture of it
    let picture = runner.folder().join("timeline.svg");
    let path = picture.display().to_string();
    ctl.text(&["job", "timeline", &id, "--to", &path]).await?;
    let drawn = std::fs::read_to_string(&picture)?;
    ensure!(drawn.starts_with("<svg ") && drawn.contains("terraform_data.one: create"), "{drawn}");
    let again = ctl.run(&["job", "timeline", &id, "--to", &path]).await?;
    ensure!(again.code() != 0 && again.stderr.contains("not there yet"), "{again:?}");
    Ok(())
}

/// Files of the source that would have the state elsewhere, where it is lost, are refused; so is a backend where there is a state already, and an
/// import of what the state has.
async fn stays_there() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let source = async |more: &[(&str, &str)]| {
        let files = more.iter().copied().chain([("main.tf", GREETS)]);
        let entries: Vec<_> = files.map(|(name, text)| Entry::file(name, text)).collect();
        user.upload(archive::pack(&entries)?).await
    };
    let local = "terraform {\n  backend \"local\" {}\n}\n";
    let elsewhere = "terraform {\n  backend \"inmem\" {}\n}\n";
    for (n, (file, content)) in [
        ("zz_override.tf", local),
        ("zz_override.tofu", local),
        ("runner_backend_override.tofu.json", "{}"),
        ("runner_backend_override.tofu", "# nothing"),
        ("runner_imports.tofu.json", "{}"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("hostile-{n}");
        let stack = json!({ "name": name, "engine": "opentofu", "source": source(&[(file, content)]).await? });
        user.post("/stacks", &stack).await?;
        let job =
            set.job(&name, json!({ "kind": "update", "approve_automatically": true }), &["failed", "applied"]).await?;
        ensure!(job["result"]["code"] == "source_refused", "{file}: {}", job["result"]);
    }
    // one that ours comes after is as none; and what the state has is not imported, and not said to be
    let stack = json!({ "name": "kept", "engine": "opentofu", "source": source(&[("a_override.tf", local)]).await? });
    let stack = user.post("/stacks", &stack).await?;
    set.applied("kept", "planted-one").await?;
    ensure!(set.versions(&stack)?.len() == 1, "it is in the store");
    let import = json!({ "kind": "import", "approve_automatically": true,
        "imports": [{ "address": "terraform_data.greets", "id": "another" }], "variables": { "greeting": "planted-one" } });
    let job = set.job("kept", import, &["failed", "applied", "no_changes"]).await?;
    ensure!(job["result"]["message"].as_str().unwrap_or_default().contains("imports 0 of the 1"), "{}", job["result"]);
    // a backend of its own that knows nothing of it
    let with_own = source(&[("backend.tf", elsewhere)]).await?;
    user.change_stack("kept", "source", &with_own).await?;
    let job =
        set.job("kept", json!({ "kind": "update", "approve_automatically": true }), &["failed", "applied"]).await?;
    ensure!(job["result"]["code"] == "state_elsewhere", "{}", job["result"]);
    let said = job["result"]["message"].as_str().unwrap_or_default();
    ensure!(said.contains("with 1 resources") && said.contains("(inmem)"), "{said}");
    Ok(())
}

/// The backend that the stack gets later.
const BACKEND: &str = r#"
terraform {
  backend "s3" {
    bucket       = "states"
    key          = "taken/there.tfstate"
    use_lockfile = true
  }
}
"#;

/// A runner with a connection to a bucket.
async fn with_bucket() -> Result<(Moto, Set)> {
    let (control_plane, moto) = (ControlPlane::start().await?, Moto::start().await?);
    moto.bucket("states", ("of", "tests")).await?;
    let (engine, runner, ctl) = deploying(&control_plane, |setup| Ok(setup.aws("account", &moto))).await?;
    Ok((moto, Set { control_plane, runner, ctl, _engine: engine }))
}

/// The command line of OpenTofu for whoever has the bucket, in a folder.
async fn by_hand(engine: &Engine, moto: &Moto, folder: &Path, arguments: &[&str]) -> Result<String> {
    let credentials = aws_environment().into_iter().map(|(name, value)| (name, value.to_owned()));
    let all = credentials.chain([("AWS_REGION", "eu-central-1".to_owned()), ("AWS_ENDPOINT_URL", moto.url())]);
    let program = all.fold(engine.program(folder, arguments), |program, (name, value)| program.env(name, value));
    program.run(JOB).await?.success()
}

async fn backend_goes() -> Result<()> {
    let (moto, set) = with_bucket().await?;
    let user = set.control_plane.admin();
    let source = async |rest: &str| user.upload(archive::module(&format!("{GREETS}{rest}"))?).await;
    let another = BACKEND.replace("taken/there.tfstate", "taken/another.tfstate");
    ensure!(another != BACKEND, "the same backend");
    let (none, first, second) = (source("").await?, source(BACKEND).await?, source(&another).await?);
    for workspace in ["", "blue"] {
        let name = format!("goes{workspace}");
        let stack = json!({ "name": name, "engine": "opentofu", "source": first, "connections": ["account"], "workspace": workspace });
        user.post("/stacks", &stack).await?;
        let job = async |kind: &str, source: &Value, phase: &str| {
            user.change_stack(&name, "source", source).await?;
            let job = json!({ "kind": kind, "approve_automatically": kind == "update" });
            let ends: &[&str] = match kind {
                "update" => &["failed", "applied", "no_changes"],
                _ => &["failed", "planned", "no_changes"],
            };
            let job = set.job(&name, job, ends).await?;
            ensure!(job["phase"] == phase, "{workspace}: {job}");
            anyhow::Ok(job["result"].clone())
        };
        // who only looked has put nothing anywhere
        job("preview", &first, "planned").await?;
        job("preview", &none, "planned").await?;
        job("update", &first, "applied").await?;
        // nothing is made a second time
        for (source, why) in [(&none, "has none now"), (&second, "another one, which has none")] {
            let refused = job("update", source, "failed").await?;
            ensure!(refused["code"] == "state_elsewhere", "{workspace}: {refused}");
            ensure!(refused["message"].as_str().unwrap_or_default().contains(why), "{workspace}: {refused}");
        }
        // a look is told
        job("preview", &second, "planned").await?;
        // it was there all the time
        job("update", &first, "no_changes").await?;
        // which it is once it was taken there
        let hand = Scratch::new("by-hand")?;
        let by_hand = async |words: &[&str]| by_hand(&set._engine, &moto, hand.path(), words).await;
        hand.write("main.tf", format!("{GREETS}{BACKEND}"))?;
        by_hand(&["init", "-input=false"]).await?;
        if !workspace.is_empty() {
            by_hand(&["workspace", "select", workspace]).await?;
        }
        hand.write("taken.json", by_hand(&["state", "pull"]).await?)?;
        hand.write("main.tf", format!("{GREETS}{another}"))?;
        by_hand(&["init", "-input=false", "-reconfigure"]).await?;
        if !workspace.is_empty() {
            by_hand(&["workspace", "select", "-or-create=true", workspace]).await?;
        }
        by_hand(&["state", "push", "taken.json"]).await?;
        job("update", &second, "no_changes").await?;
    }
    Ok(())
}

async fn workspace_taken() -> Result<()> {
    let (moto, set) = with_bucket().await?;
    let user = set.control_plane.admin();
    let source = async |rest: &str| user.upload(archive::module(&format!("{GREETS}{rest}"))?).await;
    let (without, with) = (source("").await?, source(BACKEND).await?);
    let stack = json!({ "name": "blues", "engine": "opentofu", "source": without, "connections": ["account"], "workspace": "blue" });
    let stack = user.post("/stacks", &stack).await?;
    let update = || {
        set.job(
            "blues",
            json!({ "kind": "update", "approve_automatically": true }),
            &["failed", "applied", "no_changes"],
        )
    };
    ensure!(update().await?["phase"] == "applied");
    user.change_stack("blues", "source", &with).await?;
    let refused = update().await?;
    ensure!(refused["result"]["code"] == "state_elsewhere", "{refused}");
    let file = set.folder(&stack)?.join("workspaces/blue/terraform.tfstate");
    let next = refused["result"]["next_step"].as_str().unwrap_or_default();
    ensure!(next.contains(&file.display().to_string()) && !next.contains("states export"), "{next}");
    let hand = Scratch::new("by-hand")?;
    hand.write("main.tf", format!("{GREETS}{BACKEND}"))?;
    for words in [
        &["init", "-input=false"][..],
        &["workspace", "select", "-or-create=true", "blue"],
        &["state", "push", &file.display().to_string()],
    ] {
        by_hand(&set._engine, &moto, hand.path(), words).await?;
    }
    ensure!(update().await?["phase"] == "no_changes");
    // what the runner still has is not gone on with
    user.change_stack("blues", "source", &without).await?;
    let refused = update().await?;
    ensure!(refused["result"]["code"] == "state_elsewhere", "{refused}");
    ensure!(refused["result"]["next_step"].as_str().unwrap_or_default().contains("blue/kept-at"), "{refused}");
    std::fs::write(&file, by_hand(&set._engine, &moto, hand.path(), &["state", "pull"]).await?)?;
    std::fs::remove_file(file.with_file_name("kept-at"))?;
    ensure!(update().await?["phase"] == "no_changes");
    Ok(())
}

async fn between_runners() -> Result<()> {
    let set = set().await?;
    let (user, other) = (set.control_plane.admin(), set.other().await?);
    let stack = user.stack("goes", "opentofu", GREETS).await?;
    let id = stack["id"].as_str().context("an id")?;
    let give = async |runner: &Runner| user.change_stack("goes", "runner", &json!(runner.id)).await;
    let update = |greeting: &str| {
        let variables = json!({ "greeting": greeting });
        let job = json!({ "kind": "update", "approve_automatically": true, "variables": variables });
        set.job("goes", job, &["failed", "applied", "no_changes"])
    };
    let take = async |from: &Runner, to: &Runner| {
        let folder = to.state().join("stacks").join(id);
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        let to = folder.join("terraform.tfstate").display().to_string();
        from.ask("states", &["export", id, "-o", &to])?.run(SECONDS).await?.success().map(drop)
    };
    set.applied("goes", "planted-one").await?;
    give(&other).await?;
    ensure!(update("planted-one").await?["result"]["code"] == "state_elsewhere", "nothing is there");
    take(&set.runner, &other).await?;
    // a look takes it in, and it is gone on with after that, too
    let preview = json!({ "kind": "preview", "variables": { "greeting": "planted-one" } });
    let looked = set.job("goes", preview, &["failed", "planned", "no_changes"]).await?;
    ensure!(looked["phase"] == "no_changes", "{looked}");
    ensure!(update("planted-two").await?["phase"] == "applied");
    // what the first one still has is from before that
    give(&set.runner).await?;
    let refused = update("planted-two").await?;
    ensure!(refused["result"]["code"] == "state_elsewhere", "{refused}");
    ensure!(refused["result"]["next_step"].as_str().unwrap_or_default().contains("states export"), "{refused}");
    take(&other, &set.runner).await?;
    ensure!(update("planted-two").await?["phase"] == "no_changes");
    ensure!(update("planted-three").await?["phase"] == "applied");
    Ok(())
}

async fn workspace_between_runners() -> Result<()> {
    let set = set().await?;
    let (user, other) = (set.control_plane.admin(), set.other().await?);
    let source = user.upload(archive::module(GREETS)?).await?;
    let stack = json!({ "name": "blues", "engine": "opentofu", "source": source, "workspace": "blue" });
    let stack = user.post("/stacks", &stack).await?;
    let id = stack["id"].as_str().context("an id")?;
    let give = async |runner: &Runner| user.change_stack("blues", "runner", &json!(runner.id)).await;
    let update = async |greeting: &str, phase: &str| {
        let variables = json!({ "greeting": greeting });
        let job = json!({ "kind": "update", "approve_automatically": true, "variables": variables });
        let job = set.job("blues", job, &["failed", "applied", "no_changes"]).await?;
        ensure!(job["phase"] == phase, "{job}");
        anyhow::Ok(job["result"].clone())
    };
    update("planted-one", "applied").await?;
    give(&other).await?;
    // nor where it has the state of another workspace
    let default = other.state().join("stacks").join(id).join("versions/000000000001");
    std::fs::create_dir_all(default.parent().context("a folder")?)?;
    std::fs::write(&default, "of the default one")?;
    ensure!(update("planted-one", "failed").await?["code"] == "state_elsewhere", "nothing is there");
    other.take_stack(&set.runner, id).await?;
    update("planted-one", "no_changes").await?;
    update("planted-two", "applied").await?;
    // what the first one still has is from before that
    give(&set.runner).await?;
    let refused = update("planted-two", "failed").await?;
    ensure!(refused["code"] == "state_elsewhere", "{refused}");
    ensure!(refused["next_step"].as_str().unwrap_or_default().contains("kept-by"), "{refused}");
    set.runner.take_stack(&other, id).await?;
    update("planted-two", "no_changes").await?;
    update("planted-three", "applied").await?;
    update("planted-four", "applied").await?;
    Ok(())
}

async fn taken_to_a_backend() -> Result<()> {
    let (moto, set) = with_bucket().await?;
    let user = set.control_plane.admin();
    let source = async |files: &[(&str, &str)]| {
        let entries: Vec<_> = files.iter().map(|(name, text)| Entry::file(name, *text)).collect();
        user.upload(archive::pack(&entries)?).await
    };
    let (without, with) =
        (source(&[("main.tf", GREETS)]).await?, source(&[("main.tf", GREETS), ("backend.tf", BACKEND)]).await?);
    let begun = json!({ "name": "moves", "engine": "opentofu", "source": without, "connections": ["account"] });
    let stack = user.post("/stacks", &begun).await?;
    let id = stack["id"].as_str().context("an id")?;
    let update = |greeting: &str| {
        let variables = json!({ "greeting": greeting });
        set.job(
            "moves",
            json!({ "kind": "update", "approve_automatically": true, "variables": variables }),
            &["failed", "applied", "no_changes"],
        )
    };
    for greeting in ["planted-one", "planted-two"] {
        ensure!(update(greeting).await?["phase"] == "applied", "{greeting}");
    }

    // nothing is made a second time, and what to do is said
    user.change_stack("moves", "source", &with).await?;
    let refused = update("planted-two").await?;
    ensure!(refused["result"]["code"] == "state_elsewhere", "{refused}");
    let next = refused["result"]["next_step"].as_str().unwrap_or_default();
    ensure!(next.contains("runner states export") && next.contains("state push"), "{next}");

    // which is done: by who has the runner's machine, and with the engine by hand
    let hand = Scratch::new("by-hand")?;
    let ask = async |arguments: &[&str]| set.runner.ask("states", arguments)?.run(SECONDS).await;
    let listed: Value = serde_json::from_str(&ask(&["list", "-o", "json"]).await?.success()?)?;
    ensure!(listed[0]["stack"] == id && listed[0]["versions"].as_array().is_some_and(|all| all.len() == 2), "{listed}");
    let first = ask(&["export", id, "--number", "1"]).await?.success()?;
    ensure!(first.contains("planted-one") && !first.contains("planted-two"), "{first}");
    let exported = hand.join("exported.json");
    let to = exported.display().to_string();
    let said = ask(&["export", id, "-o", &to]).await?;
    ensure!(said.code() == 0 && said.stderr.contains("version 2, serial ") && said.stdout.is_empty(), "{said:?}");
    ensure!(std::fs::metadata(&exported)?.permissions().mode() & 0o777 == 0o600, "others may read it");
    let again = ask(&["export", id, "-o", &to]).await?;
    ensure!(again.code() != 0 && again.stderr.contains("is there already"), "{again:?}");
    let nobody = ask(&["export", "stk_nobody", "-o", &hand.join("x").display().to_string()]).await?;
    ensure!(nobody.code() == 66 && nobody.stderr.contains("runner states list"), "{nobody:?}");
    for (name, text) in [("main.tf", GREETS), ("backend.tf", BACKEND)] {
        hand.write(format!("source/{name}"), text)?;
    }
    let source = hand.join("source");
    let by_hand = async |arguments: &[&str]| by_hand(&set._engine, &moto, &source, arguments).await;
    by_hand(&["init", "-input=false"]).await?;
    by_hand(&["state", "push", &to]).await?;

    // a look changes nothing of where it is; the first update does
    let at = set.folder(&stack)?.join("kept-at");
    let looked = set
        .job(
            "moves",
            json!({ "kind": "preview", "variables": { "greeting": "planted-two" } }),
            &["planned", "no_changes", "failed"],
        )
        .await?;
    ensure!(looked["phase"] == "no_changes" && !at.exists(), "{looked}");
    let next = update("planted-two").await?;
    ensure!(next["phase"] == "no_changes", "{next}");
    ensure!(std::fs::read_to_string(&at)?.contains("own backend (s3)"), "it is not said where they are");
    ensure!(ask(&["list"]).await?.success()?.contains("own backend (s3)"), "nor to people");
    ensure!(update("planted-three").await?["phase"] == "applied");
    ensure!(set.versions(&stack)?.len() == 2, "the runner's own store was written to");

    // the way back: what the runner still has is not gone on with
    user.change_stack("moves", "source", &without).await?;
    for kind in ["preview", "update"] {
        let job = json!({ "kind": kind, "approve_automatically": kind == "update" });
        let refused = set.job("moves", job, &["failed", "planned", "applied", "no_changes"]).await?;
        ensure!(refused["result"]["code"] == "state_elsewhere", "{kind}: {refused}");
        let next = refused["result"]["next_step"].as_str().unwrap_or_default();
        ensure!(next.contains("state pull") && next.contains("terraform.tfstate"), "{next}");
    }
    // nor is whatever somebody puts there
    let plain = set.folder(&stack)?.join("terraform.tfstate");
    std::fs::write(&plain, r#"{"version":4,"serial":9,"lineage":"another","resources":[]}"#)?;
    let refused = set.job("moves", json!({ "kind": "preview" }), &["failed", "planned", "no_changes"]).await?;
    ensure!(refused["result"]["code"] == "conflict" && at.exists(), "{refused}");
    let pulled = by_hand(&["state", "pull"]).await?;
    std::fs::write(set.folder(&stack)?.join("terraform.tfstate"), pulled)?;
    let back = update("planted-three").await?;
    ensure!(back["phase"] == "no_changes" && !at.exists(), "{back}");
    ensure!(set.versions(&stack)?.len() == 3 && set.state(&stack)?["outputs"]["greeting"]["value"] == "planted-three");
    ensure!(update("planted-four").await?["phase"] == "applied", "it goes on from there");
    Ok(())
}

/// An apply of a minute, at whose twentieth and fortieth second and end the engine saves its state, of some MiB.
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
  create_duration = "21s"
  depends_on      = [time_sleep.first]
}
resource "time_sleep" "third" {
  create_duration = "5s"
  depends_on      = [time_sleep.second]
}
"#;

async fn without_namespaces() -> Result<()> {
    let refuse = runner_tests::tools::binary("examples/refuse")?.display().to_string();
    killed(&[&refuse, "namespaces", "--"]).await
}

/// A write takes milliseconds, in which a busy machine may not look: then another job is tried.
const TRIES: usize = 3;

async fn killed(under: &[&str]) -> Result<()> {
    let set = set_under(under).await?;
    let (mut kills, mut in_writes) = (0, 0);
    for number in 1..=TRIES {
        let (killed, in_write) = killed_in(&set, &format!("long-{number}")).await?;
        eprintln!("{killed} workers killed, as they wrote the state: {in_write:?}");
        (kills, in_writes) = (kills + killed, in_writes + in_write.len());
        if kills >= 5 && in_writes > 0 {
            return Ok(());
        }
    }
    bail!("only {kills} were killed, in {in_writes} writes of the state")
}

/// One job whose workers are killed, most of them as they write the state: how many, and how often at which write.
async fn killed_in(set: &Set, name: &str) -> Result<(usize, BTreeMap<String, u32>)> {
    let user = set.control_plane.admin();
    let stack = user.stack(name, "opentofu", LONG).await?;
    let id = user.start_job(name, &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&id, &["applying"], JOB).await?;
    // a worker that is killed before its engine has begun ends the job: nobody begins it again
    eventually(JOB, "its engine at work", || async {
        Ok(user.events_of(&id, "resource_progress").await?.iter().any(|p| p["state"] == "started").then_some(()))
    })
    .await?;
    let folder = set.folder(&stack)?.join(VERSIONS);
    // the version that is being written, and how many there are
    let written = || {
        let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        let writes = names.iter().find_map(|name| name.strip_suffix(".new").map(str::to_owned));
        (writes, names.iter().filter(|name| !name.ends_with(".new")).count())
    };
    let mut saved = (0, Instant::now());
    // the worker that lives, and since when it is seen
    let (mut seen, mut kills, mut in_write) = (None, 0, BTreeMap::new());
    let mut looked: Option<Instant> = None;
    eventually(JOB, "the job's end", || {
        // between two looks at the job: a write takes milliseconds
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            // which takes longer than a write
            if looked.is_none_or(|looked| looked.elapsed() > PROCESSES_LOOKED) {
                let worker = set.runner.processes().jobs.into_iter().find(|w| !w.ended()).map(|w| w.pid);
                if worker != seen.map(|(pid, _)| pid) {
                    seen = worker.map(|pid| (pid, Instant::now()));
                }
                looked = Some(Instant::now());
            }
            let Some((pid, since)) = seen else { continue };
            let (lives, (writes, versions)) = (since.elapsed(), written());
            if versions != saved.0 {
                saved = (versions, Instant::now());
            }
            // who is killed for no reason now would be too young to be killed at the next save
            let is_due = lives > 4 * LIVES && saved.1.elapsed() < SAVES_AFTER;
            // an engine does not try again for ever
            let writes = writes.filter(|number| in_write.get(number).is_none_or(|kills| *kills < IN_ONE_WRITE));
            if lives > LIVES && (writes.is_some() || is_due) && signal(pid, Signal::SIGKILL).is_ok() {
                (seen, looked) = (None, None);
                kills += 1;
                writes.into_iter().for_each(|number| *in_write.entry(number).or_insert(0) += 1);
            }
        }
        let user = user.clone();
        let id = id.clone();
        async move { Ok(user.job(&id).await?.ended().then_some(())) }
    })
    .await?;
    let job = user.job(&id).await?;
    ensure!(job.phase() == "applied" && job.code() == "ok", "after {kills} kills: {}", job.0);
    user.whole(&id).await?;
    user.started_once(&id, "apply").await?;
    let state = set.state(&stack)?;
    ensure!(state["resources"].as_array().map(Vec::len) == Some(4), "resources are missing");
    ensure!(set.versions(&stack)? == [1, 2, 3], "{:?}", set.versions(&stack)?);
    let left: Vec<_> = std::fs::read_dir(set.folder(&stack)?)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!left.iter().any(|name| name.to_string_lossy().contains("errored") || name == "lock.json"), "{left:?}");
    ensure!(job.0["result"]["rescued_state"].is_null(), "{}", job.0);
    let next = set.job(name, json!({ "kind": "preview" }), &["no_changes", "planned", "failed"]).await?;
    ensure!(next["phase"] == "no_changes", "{next}");
    Ok((kills, in_write))
}
