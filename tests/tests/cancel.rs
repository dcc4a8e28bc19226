//! A cancel in each phase of a job, with each engine: an engine that is at work gets one SIGINT, by its own count, and nobody else gets any; the
//! state stays what it was and gains what was made; nothing is locked, because the next job runs.

use anyhow::{Context as _, Result, ensure};
use runner_tests::archive::{Entry, pack};
use runner_tests::control_plane::{User, aws_environment};
use runner_tests::engine::{SENT, newest_state};
use runner_tests::runner::Setup;
use runner_tests::world::Shared;
use runner_tests::{Component, ControlPlane, Engine, EngineKind, Runner, Suite, eventually, procfs};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A job takes Pulumi a dozen commands, at the priority of jobs.
const JOB: Duration = Duration::from_secs(300);
const ENGINES: [(EngineKind, Component); 3] = [
    (EngineKind::OpenTofu, Component::Tofu),
    (EngineKind::Terraform, Component::Terraform),
    (EngineKind::Pulumi, Component::Pulumi),
];

fn main() -> ExitCode {
    let mut suite = Suite::new().limit(1500);
    for (kind, component) in ENGINES {
        suite = suite.needs(&[component]).test(&format!("{}_in_each_phase", kind.name()), move || in_each_phase(kind));
    }
    suite.run()
}

/// Who answers nobody: whoever asks waits until it is let go.
struct Silent {
    address: SocketAddr,
    asked: watch::Receiver<usize>,
    let_go: watch::Sender<bool>,
}

struct World {
    control_plane: ControlPlane,
    runner: Runner,
    /// Of each engine, for what each phase asks.
    silent: Vec<(EngineKind, Phase, Silent)>,
}

/// In which phase a job is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `preparing`: its source is on the way.
    Fetching,
    /// `preparing`: its working copy is made ready.
    Initializing,
    Planning,
    Waiting,
    Applying,
}

static WORLD: Shared<World> = Shared::new();

impl Silent {
    async fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let ((ask, asked), (let_go, gone)) = (watch::channel(0), watch::channel(false));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                ask.send_modify(|asked| *asked += 1);
                let mut gone = gone.clone();
                tokio::spawn(async move {
                    let _ = gone.wait_for(|gone| *gone).await;
                    drop(socket);
                });
            }
        });
        Ok(Self { address, asked, let_go })
    }
    async fn asked(&self) -> Result<()> {
        let mut asked = self.asked.clone();
        let waited = tokio::time::timeout(JOB, asked.wait_for(|asked| *asked > 0)).await;
        waited.context("nobody asks")?.map(drop).context("it is gone")
    }
}

impl World {
    async fn new() -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let user = control_plane.admin();
        let here = ENGINES.into_iter().filter(|(_, component)| component.missing().is_none());
        let engines = here.map(|(kind, _)| Engine::counting(kind)).collect::<Result<Vec<_>>>()?;
        let mut setup = Setup::new()?.cold().setting("jobs_at_once = 4").engines(&engines.iter().collect::<Vec<_>>());
        for (name, value) in aws_environment() {
            setup = setup.env(name, value);
        }
        let mut silent = Vec::new();
        for kind in engines.iter().map(Engine::kind) {
            for phase in [Phase::Fetching, Phase::Initializing, Phase::Planning] {
                let one = Silent::new().await?;
                // a job reaches of this machine's loopback what its connections are for, and nothing else
                let name = connection(kind, phase);
                let lines = format!(
                    "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://{}\"",
                    one.address
                );
                setup = setup.table(&format!("connections.{name}"), &lines);
                user.connection(&name, "aws", None).await?;
                silent.push((kind, phase, one));
            }
        }
        let runner = setup.start(user, "runner-1").await?;
        user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        // their programs and configuration stay on disk as long as the runner
        std::mem::forget(engines);
        Ok(Self { control_plane, runner, silent })
    }
    fn silent(&self, kind: EngineKind, phase: Phase) -> Option<&Silent> {
        let mut all = self.silent.iter();
        all.find(|(of, when, _)| *of == kind && *when == phase).map(|(.., silent)| silent)
    }
}

fn connection(kind: EngineKind, phase: Phase) -> String {
    format!("{}-{phase:?}", kind.name()).to_lowercase()
}

/// A stack of one engine, whose connections lead to who answers nobody.
struct Stack<'a> {
    world: &'a World,
    kind: EngineKind,
    name: String,
    id: String,
    folder: PathBuf,
}

impl<'a> Stack<'a> {
    async fn new(world: &'a World, kind: EngineKind) -> Result<Self> {
        let (user, name) = (world.control_plane.admin(), format!("cancels-{}", kind.name()));
        // Pulumi's place for states is asked for with the first one's address
        let mut phases: Vec<_> =
            world.silent.iter().filter(|(of, ..)| *of == kind).map(|(_, phase, _)| *phase).collect();
        phases.sort_by_key(|phase| *phase != Phase::Initializing);
        let connections: Vec<_> = phases.into_iter().map(|phase| connection(kind, phase)).collect();
        let source = user.upload(pack(&[Entry::file("Pulumi.yaml", ""), Entry::file("main.tf", "")])?).await?;
        let body = json!({ "name": name, "engine": kind.name(), "source": source, "connections": connections });
        let made = user.post("/stacks", &body).await?;
        let id = made["id"].as_str().context("an id")?.to_owned();
        let folder = world.runner.state().join("stacks").join(&id);
        Ok(Self { world, kind, name, id, folder })
    }
    fn user(&self) -> &User {
        self.world.control_plane.admin()
    }

    /// A source with these resources, and more.
    fn source(&self, names: &[&str], more: &str) -> Vec<Entry> {
        let mut text = String::new();
        if self.kind == EngineKind::Pulumi {
            let (head, things) = more.split_once("---").unwrap_or(("", more));
            text.push_str(&format!("name: shop\nruntime: yaml\n{head}resources:\n"));
            for name in names {
                text.push_str(&self.thing(name, ""));
            }
            text.push_str(things);
            return vec![Entry::file("Pulumi.yaml", text)];
        }
        for name in names {
            text.push_str(&format!("resource \"terraform_data\" \"{name}\" {{ input = \"{name}\" }}\n"));
        }
        vec![Entry::file("main.tf", text + more)]
    }
    /// A thing of Pulumi's world, which is files below the stack's state.
    fn thing(&self, name: &str, more: &str) -> String {
        let path = self.folder.join("world").join(name).display().to_string();
        format!("  {name}:\n    type: world:index:Thing\n    properties: {{ path: {path:?}, content: {name}{more} }}\n")
    }
    fn marker(&self, name: &str) -> PathBuf {
        self.folder.join("world").join(name)
    }

    /// The source of a job that stays in that phase.
    fn staying(&self, phase: Phase) -> Result<Vec<Entry>> {
        let silent = || self.world.silent(self.kind, phase).map(|silent| silent.address).context("a silent one");
        let is_pulumi = self.kind == EngineKind::Pulumi;
        let more = match phase {
            Phase::Fetching | Phase::Waiting => String::new(),
            Phase::Initializing if is_pulumi => {
                // the address is the connection's
                "backend: { url: \"s3://silent?region=eu-central-1\" }\n---".to_owned()
            }
            Phase::Initializing => format!("module \"m\" {{ source = \"http://{}/module.zip\" }}\n", silent()?),
            Phase::Planning if is_pulumi => self.thing("looks", ", checking: 3600"),
            Phase::Planning => format!(
                "data \"terraform_remote_state\" \"r\" {{\n  backend = \"http\"\n  config = {{ address = \"http://{}/\", retry_max = 0 }}\n}}\n",
                silent()?
            ),
            Phase::Applying if is_pulumi => self.thing("slow", ", seconds: 3600"),
            Phase::Applying => "resource \"time_sleep\" \"slow\" {\n  create_duration = \"3600s\"\n  depends_on = [terraform_data.more]\n}\n".to_owned(),
        };
        Ok(self.source(&["base", "more"], &more))
    }

    /// Starts an update of that source; its id.
    async fn start(&self, entries: &[Entry], approved: bool) -> Result<String> {
        let source = self.user().upload(pack(entries)?).await?;
        let body = json!({ "kind": "update", "approve_automatically": approved, "source": source });
        self.user().start_job(&self.name, &body).await
    }
    /// Starts a job that stays in that phase, and waits until it is there; its id.
    async fn begin(&self, phase: Phase) -> Result<String> {
        if phase == Phase::Fetching {
            let silent = self.world.silent(self.kind, phase).context("a silent one")?;
            let url = format!("https://{}/repository.git", silent.address);
            let body = json!({ "kind": "update", "source": { "git": { "url": url, "reference": "main" } } });
            let id = self.user().start_job(&self.name, &body).await?;
            silent.asked().await?;
            self.user().job_in(&id, &["preparing"], JOB).await?;
            return Ok(id);
        }
        let id = self.start(&self.staying(phase)?, phase == Phase::Applying).await?;
        match (phase, self.world.silent(self.kind, phase), self.kind) {
            (Phase::Waiting, ..) => drop(self.user().job_in(&id, &["awaiting_approval"], JOB).await?),
            (Phase::Planning, _, EngineKind::Pulumi) => self.there("looks.looked").await?,
            (Phase::Applying, _, EngineKind::Pulumi) => self.there("slow.begun").await?,
            (Phase::Applying, ..) => {
                eventually(JOB, "the slow resource to be in the making", || async {
                    let progress = self.user().events_of(&id, "resource_progress").await?;
                    let slow = |p: &Value| p["address"] == "time_sleep.slow" && p["state"] == "started";
                    Ok(progress.iter().any(slow).then_some(()))
                })
                .await?;
            }
            (_, silent, _) => silent.context("a silent one")?.asked().await?,
        }
        Ok(id)
    }
    async fn there(&self, name: &str) -> Result<()> {
        let marker = self.marker(name);
        eventually(JOB, "the provider to be at work", || async { Ok(marker.exists().then_some(())) }).await
    }

    /// How often the job's engine was sent SIGINT, by its own count.
    async fn sent(&self, job: &str) -> Result<usize> {
        let lines = self.user().events_of(job, "output_line").await?;
        Ok(lines.iter().filter(|line| line["text"] == SENT).count())
    }
    /// The names of what the state tells of; it is whole, and nobody's.
    fn state(&self) -> Result<Vec<String>> {
        if self.kind != EngineKind::Pulumi {
            let state = newest_state(&self.world.runner, &self.id)?.context("a state")?;
            let state: Value = serde_json::from_slice(&state)?;
            let resources = state["resources"].as_array().context("resources")?;
            return Ok(resources.iter().filter_map(|r| r["name"].as_str().map(str::to_owned)).collect());
        }
        let kept = self.folder.join("pulumi/.pulumi");
        let state = std::fs::read(kept.join("stacks/shop").join(format!("{}.json", self.name)))?;
        let state: Value = serde_json::from_slice(&state)?;
        let locks = std::fs::read_dir(kept.join("locks/organization/shop").join(&self.name));
        ensure!(locks.map_or(0, Iterator::count) == 0, "a lock is left");
        let resources = state["checkpoint"]["latest"]["resources"].as_array().context("resources")?;
        let things = resources.iter().filter_map(|r| r["urn"].as_str()?.split_once("Thing::"));
        let mut names: Vec<_> = things.map(|(_, name)| name.to_owned()).collect();
        names.sort();
        Ok(names)
    }
}

async fn in_each_phase(kind: EngineKind) -> Result<()> {
    let world = WORLD.get(World::new).await?;
    let stack = Stack::new(world, kind).await?;
    let user = stack.user();
    let base = stack.start(&stack.source(&["base"], ""), true).await?;
    user.job_in(&base, &["applied"], JOB).await?;
    let before = stack.state()?;
    ensure!(before == ["base"], "{before:?}");
    for phase in [Phase::Fetching, Phase::Initializing, Phase::Planning, Phase::Waiting, Phase::Applying] {
        canceled(&stack, phase).await.with_context(|| format!("{phase:?}"))?;
        // what was made before stays, and what was made meanwhile is known
        let expected: &[&str] = if phase == Phase::Applying { &["base", "more"] } else { &["base"] };
        let known = stack.state()?;
        let known: Vec<_> = known.iter().filter(|name| *name != "slow").collect();
        ensure!(known == expected, "{phase:?}: {known:?}");
    }
    let last = stack.start(&stack.source(&["base", "more", "last"], ""), true).await?;
    user.job_in(&last, &["applied"], JOB).await?;
    ensure!(stack.state()? == ["base", "last", "more"], "{:?}", stack.state()?);
    Ok(())
}

async fn canceled(stack: &Stack<'_>, phase: Phase) -> Result<()> {
    let user = stack.user();
    let id = stack.begin(phase).await?;
    // where an engine is at work
    let expected = usize::from(!matches!(phase, Phase::Fetching | Phase::Waiting));
    user.post(&format!("/jobs/{id}/cancel"), &json!({})).await?;
    if expected > 0 {
        eventually(JOB, "the engine to be sent SIGINT", || async { Ok((stack.sent(&id).await? > 0).then_some(())) })
            .await?;
        // it has heard, and may end what it waits for; a git that fetches is ended in the middle
        if let Some(silent) = stack.world.silent(stack.kind, phase) {
            silent.let_go.send_replace(true);
        }
    }
    let job = user.job_in(&id, &["canceled"], JOB).await?;
    ensure!(job.code() == "cancelled", "{}", job.0);
    // its end is known before the last of its events came
    eventually(JOB, "all of its events", || async { Ok(user.whole(&id).await.ok()) }).await?;
    let sent = stack.sent(&id).await?;
    ensure!(sent == expected, "it was sent SIGINT {sent} times: {}", job.0);
    let steps = user.events_of(&id, "cancel_progress").await?;
    ensure!(!steps.iter().any(|step| step["step"] == "forced"), "{steps:?}");
    let events = serde_json::to_string(&user.events(&id).await?)?;
    for twice in ["Two interrupts", "Forcefully shutting down", "SIGTERM"] {
        ensure!(!events.contains(twice), "{twice}: {events}");
    }
    let folder = stack.world.runner.state().join("jobs").join(&id);
    eventually(JOB, "nothing of the job to be left", || async {
        let left = procfs::working_in(&folder);
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await
}
