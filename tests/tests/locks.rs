//! Lock truth: every combination of holder alive, holder killed, host gone and network cut, for the runner's own store, S3 and the Kubernetes
//! backend: who is said to hold the lock of a state, whether that is live, dead or cannot be told, and what may be removed without force. Beside
//! them, locks that an engine could not let go of, and those of somebody who has no job.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{Job, User, aws_environment};
use runner_tests::ctl::Ctl;
use runner_tests::process::{Ended, Program};
use runner_tests::runner::{Setup, signal};
use runner_tests::world::Shared;
use runner_tests::{
    Cluster, Component, ControlPlane, Cutter, Engine, EngineKind, Moto, Process, Runner, Scratch, Suite, Wire, archive,
    eventually, procfs,
};
use serde_json::{Value, json};
use shared_proto::states;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(60);
/// An engine waits a minute for a lock that is somebody else's.
const JOB: Duration = Duration::from_secs(180);
const BUCKET: &str = "states";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const REASON: &str = "nobody is at work any more";

static MOTO: Shared<Moto> = Shared::new();
static CLUSTER: Shared<Cluster> = Shared::new();

/// Where a state is, and so its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    /// The runner's own store.
    Own,
    S3,
    Kubernetes,
}
use Backend::{Kubernetes, Own, S3};

fn main() -> ExitCode {
    // most of it is waiting for an engine that waits for a lock
    let mut suite = Suite::new().limit(600).at_once(4);
    for (backend, name, needs) in [
        (Own, "own_store", &[Component::Tofu][..]),
        (S3, "s3", &[Component::Tofu, Component::Moto][..]),
        (Kubernetes, "kubernetes", &[Component::Tofu, Component::Cluster][..]),
    ] {
        let of = |what: &str| format!("{name}::{what}");
        suite = suite
            .needs(needs)
            .test(&of("holder_alive"), move || alive(backend))
            .test(&of("holder_killed"), move || killed(backend))
            .test(&of("host_gone_and_back"), move || gone_and_back(backend))
            .test(&of("host_gone_and_given_up"), move || given_up(backend))
            .test(&of("network_cut"), move || cut(backend));
        if backend != Own {
            suite = suite
                .test(&of("an_engine_that_could_not_let_go_of_it"), move || unreleased(backend))
                .test(&of("somebody_without_a_job"), move || by_hand(backend))
                .test(&of("somebody_without_a_job_while_one_was_lost"), move || by_hand_meanwhile(backend));
        }
    }
    suite.run()
}

/// A control plane, and a runner whose ways to it and to the states can be cut.
struct Set {
    backend: Backend,
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
    engine: Engine,
    /// To the tunnel and to the execution service.
    ways: [Cutter; 2],
    to_states: Option<Cutter>,
    /// What jobs wait for is made there.
    gates: Scratch,
}

async fn moto() -> Result<&'static Moto> {
    MOTO.get(|| async {
        let moto = Moto::start().await?;
        moto.bucket(BUCKET, ("of", "tests")).await?;
        Ok(moto)
    })
    .await
}
async fn cluster() -> Result<&'static Cluster> {
    CLUSTER.get(Cluster::start).await
}

async fn set(backend: Backend) -> Result<Set> {
    let control_plane = ControlPlane::start().await?;
    let (engine, gates) = (Engine::new(EngineKind::OpenTofu)?, Scratch::new("gates")?);
    // jobs may be another user's
    std::fs::set_permissions(gates.path(), std::fs::Permissions::from_mode(0o755))?;
    let at = control_plane.runner_address();
    let ways = [Cutter::new(at).await?, Cutter::new(at).await?];
    let states = match backend {
        Own => None,
        S3 => Some(moto().await?.url().trim_start_matches("http://").parse::<SocketAddr>()?),
        Kubernetes => Some(cluster().await?.address()),
    };
    let to_states = match states {
        Some(states) => Some(Cutter::new(states).await?),
        None => None,
    };
    let user = control_plane.admin();
    let setup = setup(backend, &engine, &gates, to_states.as_ref()).await?;
    let runner = setup.tunnel_through(&ways[0]).execution_through(&ways[1]).start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    match backend {
        Own => {}
        S3 => drop(user.connection("states", "aws", None).await?),
        Kubernetes => drop(user.connection("states", "kubernetes", None).await?),
    }
    let ctl = Ctl::new(&control_plane, user)?;
    Ok(Set { backend, control_plane, runner, ctl, engine, ways, to_states, gates })
}

/// A runner that reaches the states by that way.
async fn setup(backend: Backend, engine: &Engine, gates: &Scratch, way: Option<&Cutter>) -> Result<Setup> {
    let setup = Setup::new()?.cold().setting("jobs_at_once = 4").engines(&[engine]).reads(gates.path());
    let Some(way) = way else { return Ok(setup) };
    if backend == Kubernetes {
        return setup.kubernetes("states", &cluster().await?.kubeconfig(way.address(), ADMIN));
    }
    let entry = format!(
        "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://{}\"",
        way.address()
    );
    let setup = aws_environment().into_iter().fold(setup, |setup, (name, value)| setup.env(name, value));
    Ok(setup.table("connections.states", &entry))
}

/// What a stack is: its state, and a resource that is there once a file is.
fn module(backend: Backend, key: &str, gate: &Path) -> String {
    let backend = match backend {
        Own => String::new(),
        S3 => format!(
            "terraform {{\n  backend \"s3\" {{\n    bucket = \"{BUCKET}\"\n    key = \"{key}\"\n    use_path_style = true\n    \
             use_lockfile = true\n    skip_credentials_validation = true\n    skip_requesting_account_id = true\n  }}\n}}\n"
        ),
        Kubernetes => {
            format!("terraform {{\n  backend \"kubernetes\" {{\n    secret_suffix = \"{key}\"\n  }}\n}}\n")
        }
    };
    let gate = gate.display();
    format!(
        "{backend}resource \"terraform_data\" \"first\" {{ input = \"made\" }}\n\
         resource \"terraform_data\" \"held\" {{\n  depends_on = [terraform_data.first]\n  \
         provisioner \"local-exec\" {{ command = \"until [ -e {gate} ]; do sleep 0.1; done\" }}\n}}\n"
    )
}

impl Set {
    fn user(&self) -> &User {
        self.control_plane.admin()
    }
    fn gate(&self, key: &str) -> std::path::PathBuf {
        self.gates.join(key)
    }
    /// What waits for that goes on.
    fn open(&self, key: &str) -> Result<()> {
        Ok(std::fs::write(self.gate(key), "")?)
    }
    /// A key of states that nobody else has.
    fn key(&self, name: &str) -> String {
        format!("{name}-{}", self.control_plane.api().port())
    }
    /// A stack whose state has that key.
    async fn stack(&self, name: &str, key: &str) -> Result<Value> {
        let source = self.user().upload(archive::module(&module(self.backend, key, &self.gate(key)))?).await?;
        let connections: &[&str] = if self.backend == Own { &[] } else { &["states"] };
        let stack = json!({ "name": name, "engine": "opentofu", "source": source, "connections": connections });
        self.user().post("/stacks", &stack).await
    }
    /// A stack and its job, whose engine is in the middle of its apply and stays there; the job.
    async fn holding(&self, name: &str, key: &str) -> Result<String> {
        self.stack(name, key).await?;
        let id = self.user().start_job(name, &json!({ "kind": "update", "approve_automatically": true })).await?;
        eventually(JOB, "the resource that waits", || async {
            let job = self.user().job(&id).await?;
            ensure!(!job.ended(), "{}", job.0);
            let progress = self.user().events_of(&id, "resource_progress").await?;
            let waits = |p: &Value| p["address"] == "terraform_data.held" && p["state"] == "started";
            Ok(progress.iter().any(waits).then_some(()))
        })
        .await?;
        Ok(id)
    }
    async fn done(&self, stack: &str, kind: &str, ends: &[&str]) -> Result<Job> {
        let id =
            self.user().start_job(stack, &json!({ "kind": kind, "approve_automatically": kind == "update" })).await?;
        self.user().job_in(&id, ends, JOB).await
    }
    /// A job that is kept from the state by its lock: what it ends with.
    async fn finds(&self, stack: &str) -> Result<Job> {
        let job = self.done(stack, "preview", &["failed"]).await?;
        ensure!(job.code() == "state_locked", "{}", job.0);
        Ok(job)
    }
    /// The stack's next job does its work, and its state is whole.
    async fn goes_on(&self, stack: &str, key: &str) -> Result<()> {
        self.open(key)?;
        self.done(stack, "update", &["applied", "no_changes"]).await?;
        let listed = self.ctl.json(&["state", "list", stack]).await?;
        let addresses: Vec<_> = listed["items"].as_array().into_iter().flatten().map(|one| &one["address"]).collect();
        ensure!(addresses == ["terraform_data.first", "terraform_data.held"], "{listed}");
        ensure!(self.lock(stack, key).await?.is_none(), "a lock is left");
        ensure!(self.ctl.text(&["state", "lock", stack]).await?.starts_with("No job"), "a lock is told of");
        Ok(())
    }

    /// The lock as it is where the state is, in its holder's words. None: there is none.
    async fn lock(&self, stack: &str, key: &str) -> Result<Option<Value>> {
        match self.backend {
            Own => {
                let stack = self.user().get(&format!("/stacks/{stack}")).await?;
                let folder = self.runner.state().join("stacks").join(stack["id"].as_str().context("an id")?);
                match std::fs::read(folder.join(states::LOCK)) {
                    Ok(held) => Ok(Some(serde_json::from_slice::<states::Held>(&held)?.info)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(e.into()),
                }
            }
            S3 => {
                let path = format!("/{BUCKET}/{key}.tflock");
                let answer = moto().await?.call("s3", http::Method::GET, &path, &[], "").await?;
                match answer.status.as_u16() {
                    200 => Ok(Some(serde_json::from_str(&answer.text())?)),
                    404 => Ok(None),
                    status => bail!("{status}: {}", answer.text()),
                }
            }
            Kubernetes => {
                let leases = cluster().await?.read(LEASES).await?;
                let is_its =
                    |lease: &&Value| lease["metadata"]["name"].as_str().is_some_and(|name| name.ends_with(key));
                let lease = leases["items"].as_array().into_iter().flatten().find(is_its);
                let Some(lease) = lease.filter(|lease| lease["spec"]["holderIdentity"].is_string()) else {
                    return Ok(None);
                };
                let info = lease["metadata"]["annotations"].as_object().into_iter().flatten().find_map(|(_, text)| {
                    let info: Value = serde_json::from_str(text.as_str()?).ok()?;
                    info["ID"].is_string().then_some(info)
                });
                info.context("a lease that says nothing of its lock").map(Some)
            }
        }
    }
    async fn lock_id(&self, stack: &str, key: &str) -> Result<String> {
        let lock = self.lock(stack, key).await?.context("there is no lock")?;
        Ok(lock["ID"].as_str().context("an id")?.to_owned())
    }

    /// What is said of the lock, as a program reads it and as a person does.
    async fn told(&self, stack: &str) -> Result<(Value, String)> {
        let args = ["state", "lock", stack];
        Ok((self.ctl.json(&args).await?, self.ctl.text(&args).await?))
    }
    /// The same, where the verdict is that and the holder that job.
    async fn said(&self, stack: &str, verdict: &str, job: &str) -> Result<(Value, String)> {
        let (known, text) = self.told(stack).await?;
        let holder = &known["holder"];
        ensure!((&holder["verdict"], &holder["job"]) == (&verdict.into(), &job.into()), "{known}");
        let made = self.user().job(job).await?;
        let host = nix::unistd::gethostname()?.into_string().map_err(|_| anyhow::anyhow!("the machine's name"))?;
        for (part, expected) in [
            ("person", made.0["created_by"].as_str()),
            ("runner", Some("runner-1")),
            ("instance_id", made.0["instance_id"].as_str()),
            ("host", Some(host.as_str())),
        ] {
            ensure!(expected.is_some() && holder[part].as_str() == expected, "{part}: {known}");
            ensure!(text.contains(expected.unwrap_or_default()), "{part}: {text}");
        }
        ensure!(text.contains(&verdict.replace('_', " ")), "{text}");
        ensure!(text.contains(holder["evidence"].as_str().context("evidence")?), "{text}");
        // without force only a dead one's is offered, and by its id
        let is_offered = text.contains("state unlock") && !text.contains("--force");
        ensure!(is_offered == (verdict == "dead" && known["lock"]["id"].is_string()), "{text}");
        Ok((known, text))
    }
    /// The same once it is so.
    async fn comes_to(&self, stack: &str, verdict: &str, job: &str) -> Result<(Value, String)> {
        eventually(SECONDS, &format!("the holder to be {verdict}"), || async {
            self.said(stack, verdict, job).await.map(Some)
        })
        .await
    }
    async fn unlock(&self, stack: &str, lock: &str, force: bool) -> Result<Ended> {
        let mut words = vec!["state", "unlock", stack, lock, "--reason", REASON];
        words.extend(force.then_some("--force"));
        self.ctl.run(&words).await
    }
    /// It is refused without force, and says why.
    async fn not_removed(&self, stack: &str, lock: &str, why: &str) -> Result<String> {
        let refused = self.unlock(stack, lock, false).await?;
        ensure!(refused.code() == 1 && refused.stderr.contains(why), "{why}: {refused:?}");
        Ok(refused.stderr)
    }
    /// Before anybody has met the lock that an engine has left its end is proven; where the runner's own store has it, so is the lock's id.
    async fn is_told_dead(&self, stack: &str, key: &str, job: &str, evidence: &str) -> Result<()> {
        let (known, _) = self.said(stack, "dead", job).await?;
        let (id, expected) = match self.backend {
            Own => (self.lock_id(stack, key).await?.into(), "the runner's own store"),
            S3 | Kubernetes => (Value::Null, evidence),
        };
        ensure!(known["lock"]["id"] == id, "{id}: {known}");
        ensure!(known["holder"]["evidence"].to_string().contains(expected), "{expected}: {known}");
        Ok(())
    }
    /// The engine of that job has left its lock, and its end is proven: it is removed without force, and no other one is.
    async fn is_dead_and_removed(&self, stack: &str, key: &str, job: &str, evidence: &str) -> Result<()> {
        let lock = self.lock_id(stack, key).await?;
        let found = self.finds(stack).await?;
        ensure!(found.0["result"]["lock"]["id"] == lock.as_str(), "{}", found.0);
        let (known, _) = self.said(stack, "dead", job).await?;
        ensure!(known["lock"]["id"] == lock.as_str() && known["found_by"] == found.0["id"], "{known}");
        let said = known["holder"]["evidence"].as_str().unwrap_or_default();
        // the store's word is enough where it has given it
        let expected = if self.backend == Own { "the runner's own store" } else { evidence };
        ensure!(said.contains(expected), "{expected}: {known}");
        let refused = self.not_removed(stack, "another", &lock).await?;
        ensure!(!refused.contains("--force"), "{refused}");
        let forced = self.unlock(stack, "another", true).await?;
        ensure!(forced.code() != 0 && format!("{}{}", forced.stdout, forced.stderr).contains(&lock), "{forced:?}");
        ensure!(self.lock_id(stack, key).await? == lock, "another lock was removed than the named one");
        let removed = self.unlock(stack, &lock, false).await?;
        ensure!(removed.code() == 0, "{removed:?}");
        ensure!(self.lock(stack, key).await?.is_none(), "it was not removed");
        Ok(())
    }

    /// The machine goes: the runner, its jobs and their engines.
    async fn host_goes(&self) -> Result<()> {
        self.runner.kill_all_but_jobs().await?;
        eventually(SECONDS, "no process of a job to be left", || async {
            let left = self.runner.job_processes();
            for process in &left {
                // one that has just ended is as good
                let _ = signal(process.pid, Signal::SIGKILL);
            }
            Ok(left.is_empty().then_some(()))
        })
        .await
    }
    /// The engine of a job that is at work.
    async fn engine(&self) -> Result<i32> {
        eventually(SECONDS, "an engine", || async {
            let worker = self.runner.job_worker(SECONDS).await?;
            let engine = procfs::descendants(worker.pid).into_iter().find(|process| process.comm == "tofu");
            Ok(engine.map(|engine| engine.pid))
        })
        .await
    }

    /// The engine as somebody has it who has no runner.
    async fn by_hand(&self, folder: &Scratch, arguments: &[&str]) -> Result<Program> {
        let program = self.engine.program(folder.path(), arguments);
        Ok(match self.backend {
            Own => bail!("the runner's own store is nobody else's"),
            S3 => aws_environment()
                .into_iter()
                .fold(program, |program, (name, value)| program.env(name, value))
                .env("AWS_REGION", "eu-central-1")
                .env("AWS_ENDPOINT_URL", moto().await?.url()),
            Kubernetes => {
                let cluster = cluster().await?;
                let path = folder.write("kubeconfig", cluster.kubeconfig(cluster.address(), ADMIN))?;
                program.env("KUBE_CONFIG_PATH", path.display().to_string())
            }
        })
    }
    /// Somebody who applies by hand, and has the lock; goes on until that is opened.
    async fn holds_by_hand(&self, stack: &str, key: &str, gate: &str) -> Result<(Process, Scratch, Value)> {
        let folder = Scratch::new("by-hand")?;
        folder.write("main.tf", module(self.backend, key, &self.gate(gate)))?;
        self.by_hand(&folder, &["init", "-input=false"]).await?.run(SECONDS).await?.success()?;
        let process = self.by_hand(&folder, &["apply", "-input=false", "-auto-approve"]).await?.start()?;
        let lock = eventually(SECONDS, "the lock of somebody", || self.lock(stack, key));
        let lock = process.unless_ended(lock).await?;
        Ok((process, folder, lock))
    }
}

async fn alive(backend: Backend) -> Result<()> {
    let set = set(backend).await?;
    let key = set.key("alive");
    let id = set.holding("alive", &key).await?;
    let lock = set.lock_id("alive", &key).await?;
    let (known, text) = set.said("alive", "live", &id).await?;
    ensure!(known["lock"].is_null() && text.contains(&format!("job cancel {id}")), "{text}");
    let refused = set.not_removed("alive", &lock, &id).await?;
    ensure!(refused.contains("at work still") && !refused.contains("--force"), "{refused}");
    ensure!(set.lock_id("alive", &key).await? == lock);
    if backend != Own {
        // another stack on the same state
        set.stack("other", &key).await?;
        let found = set.finds("other").await?;
        let by = found.0["result"]["lock"]["who"].as_str().context("who has it")?;
        let message = found.0["result"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains(by) && message.contains(&lock), "{}", found.0);
        let (known, text) = set.told("other").await?;
        ensure!(known["holder"]["verdict"] == "cannot_tell" && known["lock"]["id"] == lock.as_str(), "{known}");
        ensure!(text.contains(by) && text.contains(&format!("job {id} of the stack alive")), "{text}");
        set.not_removed("other", &lock, "nothing proves that its holder has ended").await?;
        set.said("alive", "live", &id).await?;
    }
    set.open(&key)?;
    set.user().job_in(&id, &["applied"], JOB).await?;
    set.goes_on("alive", &key).await
}

async fn killed(backend: Backend) -> Result<()> {
    let set = set(backend).await?;
    let key = set.key("killed");
    let id = set.holding("killed", &key).await?;
    signal(set.engine().await?, Signal::SIGKILL)?;
    let job = set.user().job_in(&id, &["failed"], JOB).await?;
    ensure!(job.0["result"]["engine_signal"] == "SIGKILL", "{}", job.0);
    // what happened, and what was in the making, without asking anybody else
    let shown = set.ctl.text(&["job", "show", &id]).await?;
    for part in ["ended by SIGKILL", "terraform_data.held", "runnerctl state lock killed"] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    if backend == Own {
        let lock = set.lock_id("killed", &key).await?;
        ensure!(shown.contains(&format!("state unlock STACK {lock}")), "{shown}");
    }
    set.is_told_dead("killed", &key, &id, "SIGKILL").await?;
    set.is_dead_and_removed("killed", &key, &id, "ended by SIGKILL").await?;
    set.goes_on("killed", &key).await
}

async fn gone_and_back(backend: Backend) -> Result<()> {
    let mut set = set(backend).await?;
    let key = set.key("gone");
    let id = set.holding("gone", &key).await?;
    let lock = set.lock_id("gone", &key).await?;
    set.host_goes().await?;
    let (known, text) = set.comes_to("gone", "cannot_tell", &id).await?;
    ensure!(known["holder"]["silent_since_ms"].as_i64().is_some_and(|since| since > 0), "{known}");
    ensure!(text.contains("has not been heard of since"), "{text}");
    set.not_removed("gone", &lock, "has not been heard of since").await?;
    // it is the same machine, and nothing of the job is there
    set.runner.start_again().await?;
    let job = set.user().job_in(&id, &["lost"], JOB).await?;
    ensure!(job.code() == "job_lost", "{}", job.0);
    set.is_told_dead("gone", &key, &id, "nothing of that job runs any more").await?;
    set.is_dead_and_removed("gone", &key, &id, "nothing of that job runs any more").await?;
    set.goes_on("gone", &key).await
}

async fn given_up(backend: Backend) -> Result<()> {
    let mut set = set(backend).await?;
    let key = set.key("lost");
    let id = set.holding("lost", &key).await?;
    let lock = set.lock_id("lost", &key).await?;
    set.host_goes().await?;
    set.comes_to("lost", "cannot_tell", &id).await?;
    set.user().post(&format!("/jobs/{id}/cancel"), &json!({ "force": true })).await?;
    set.user().job_in(&id, &["lost"], SECONDS).await?;
    let (known, _) = set.said("lost", "cannot_tell", &id).await?;
    ensure!(known["holder"]["evidence"].to_string().contains("nobody has seen how that engine ended"), "{known}");
    let forced = json!({ "kind": "unlock", "lock": { "id": lock, "reason": REASON, "force": true } });
    let (unlocks, second) = if backend == Own {
        // the store is on that machine: it waits for it
        let unlocks = set.user().start_job("lost", &forced).await?;
        set.runner.start_again().await?;
        (unlocks, None)
    } else {
        // another machine goes on
        let setup = setup(backend, &set.engine, &set.gates, set.to_states.as_ref()).await?;
        let second = setup.start(set.user(), "runner-2").await?;
        set.user().post(&format!("/runners/{}/default", second.id), &json!({})).await?;
        let found = set.finds("lost").await?;
        ensure!(found.0["result"]["lock"]["id"] == lock.as_str(), "{}", found.0);
        let (known, text) = set.said("lost", "cannot_tell", &id).await?;
        ensure!(known["lock"]["id"] == lock.as_str() && text.contains("--force"), "{text}");
        let refused = set.not_removed("lost", &lock, "nobody has seen how that engine ended").await?;
        ensure!(refused.contains("--force"), "{refused}");
        (set.user().start_job("lost", &forced).await?, Some(second))
    };
    let job = set.user().job_in(&unlocks, &["applied"], JOB).await?;
    ensure!(set.lock("lost", &key).await?.is_none(), "it was not removed");
    // who, why, and that it was forced: with the job, and in the log of the runner that did it
    let by = job.0["created_by"].as_str().context("a person")?;
    let said = serde_json::to_string(&set.user().events(&unlocks).await?)?;
    ensure!(said.contains(&format!("{by} removes the lock {lock}: {REASON} (forced)")), "{said}");
    let runner = second.as_ref().unwrap_or(&set.runner);
    let records = audit(runner)?;
    let record = records.iter().find(|record| record["job"] == unlocks.as_str()).context("a record")?;
    ensure!((&record["user_name"], &record["name"]) == (&by.into(), &lock.as_str().into()), "{record}");
    ensure!(record["detail"].as_str().is_some_and(|why| why.contains(REASON) && why.contains("(forced)")), "{record}");
    set.goes_on("lost", &key).await
}

/// What a runner's audit log has.
fn audit(runner: &Runner) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(runner.state().join("audit"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let text = std::fs::read_to_string(&path)?;
            records.extend(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
        }
    }
    Ok(records)
}

async fn cut(backend: Backend) -> Result<()> {
    let set = set(backend).await?;
    let key = set.key("cut");
    let id = set.holding("cut", &key).await?;
    let lock = set.lock_id("cut", &key).await?;
    let engine = set.engine().await?;
    for way in &set.ways {
        way.set(Wire::Silence);
    }
    let (known, _) = set.comes_to("cut", "cannot_tell", &id).await?;
    ensure!(known["holder"]["silent_since_ms"].as_i64().is_some_and(|since| since > 0), "{known}");
    set.not_removed("cut", &lock, "has not been heard of since").await?;
    ensure!(set.engine().await? == engine, "its engine did not go on");
    for way in &set.ways {
        way.set(Wire::Reset);
        way.set(Wire::Pass);
    }
    set.comes_to("cut", "live", &id).await?;
    set.not_removed("cut", &lock, "at work still").await?;
    set.open(&key)?;
    set.user().job_in(&id, &["applied"], JOB).await?;
    set.goes_on("cut", &key).await
}

/// The states cannot be reached when the engine wants to write, and to let go.
async fn unreleased(backend: Backend) -> Result<()> {
    let set = set(backend).await?;
    let key = set.key("unreleased");
    let id = set.holding("kept", &key).await?;
    let way = set.to_states.as_ref().context("a way")?;
    way.set(Wire::Reset);
    set.open(&key)?;
    let job = set.user().job_in(&id, &["failed"], JOB).await?;
    ensure!(job.0["result"]["engine_exit_code"] == 1, "{}", job.0);
    ensure!(job.0["result"]["rescued_state"].as_str().is_some_and(|at| at.contains("errored-")), "{}", job.0);
    let (known, _) = set.said("kept", "dead", &id).await?;
    ensure!(known["holder"]["evidence"].to_string().contains("could not let go of it"), "{known}");
    way.set(Wire::Pass);
    set.is_dead_and_removed("kept", &key, &id, "end with exit code 1").await?;
    set.goes_on("kept", &key).await
}

async fn by_hand(backend: Backend) -> Result<()> {
    let set = set(backend).await?;
    let key = set.key("hand");
    set.stack("hand", &key).await?;
    let (process, _folder, lock) = set.holds_by_hand("hand", &key, &key).await?;
    let found = set.finds("hand").await?;
    let (id, who) = (lock["ID"].as_str().context("an id")?, lock["Who"].as_str().context("who")?);
    ensure!(found.0["result"]["message"].as_str().is_some_and(|said| said.contains(who)), "{}", found.0);
    let (known, text) = set.told("hand").await?;
    ensure!(known["holder"]["verdict"] == "cannot_tell" && known["holder"]["job"].is_null(), "{known}");
    ensure!((&known["lock"]["id"], &known["lock"]["who"]) == (&id.into(), &who.into()), "{known}");
    ensure!(text.contains("no job of this stack was at work") && text.contains("Ask whoever holds it"), "{text}");
    set.not_removed("hand", id, "nothing proves that its holder has ended").await?;
    set.open(&key)?;
    let ended = process.ended(SECONDS).await?;
    ensure!(ended.success(), "{}", process.stderr().text());
    set.goes_on("hand", &key).await
}

/// Its job is taken for one that holds the lock, and somebody has removed that by hand and made another.
async fn by_hand_meanwhile(backend: Backend) -> Result<()> {
    let mut set = set(backend).await?;
    let key = set.key("meanwhile");
    let id = set.holding("meanwhile", &key).await?;
    let lock = set.lock_id("meanwhile", &key).await?;
    set.host_goes().await?;
    let folder = Scratch::new("removes")?;
    folder.write("main.tf", module(backend, &key, &set.gate(&key)))?;
    set.by_hand(&folder, &["init", "-input=false"]).await?.run(SECONDS).await?.success()?;
    set.by_hand(&folder, &["force-unlock", "-force", &lock]).await?.run(SECONDS).await?.success()?;
    let gate = set.key("gate");
    let (process, _folder, lock) = set.holds_by_hand("meanwhile", &key, &gate).await?;
    set.runner.start_again().await?;
    set.user().job_in(&id, &["lost"], JOB).await?;
    let other = lock["ID"].as_str().context("an id")?;
    let found = set.finds("meanwhile").await?;
    ensure!(found.0["result"]["lock"]["id"] == other, "{}", found.0);
    // its runner has looked, and nothing of the job runs: this one is somebody else's all the same
    let (known, text) = set.told("meanwhile").await?;
    ensure!(known["holder"]["verdict"] == "cannot_tell" && known["holder"]["job"].is_null(), "{known}");
    ensure!(text.contains(&id) && text.contains("nothing that it told proves"), "{text}");
    set.not_removed("meanwhile", other, "nothing proves that its holder has ended").await?;
    set.open(&gate)?;
    ensure!(process.ended(SECONDS).await?.success(), "{}", process.stderr().text());
    set.goes_on("meanwhile", &key).await
}
