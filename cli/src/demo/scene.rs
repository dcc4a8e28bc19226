//! The scene of the demonstration and what happens on it, step by step, through the same code as the commands.

use super::engine::{self, Engine};
use super::narrate::Narrator;
use super::programs::{Binaries, Programs, engine_process};
use super::proxy::Proxy;
use super::standin::StandIn;
use crate::archive::{self, Limits};
use crate::client::job_events::{JobEvent, JobEvents};
use crate::client::{Client, path};
use crate::commands::k8s::exec;
use crate::commands::{login, runner};
use crate::config::{self, Context};
use crate::output::table;
use crate::stop;
use http_body_util::BodyExt as _;
use serde_json::json;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::event::Body;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a job may take.
const JOB: Duration = Duration::from_secs(45);
/// How long the way stays cut.
const CUT: Duration = Duration::from_secs(4);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// The names of what the demonstration makes.
const RUNNER: &str = "demo-runner";
const CONNECTION: &str = "cluster";
const STACK: &str = "demo-stack";

/// The code that is deployed: no provider to download, a few seconds of work that can be watched.
const CODE: &str = r#"variable "release" { type = string }
variable "pace" { type = string }

resource "terraform_data" "step" {
  count            = 5
  triggers_replace = var.release
  input            = "step ${count.index + 1} of release ${var.release}"
  provisioner "local-exec" {
    command = "sleep ${(count.index + 1) * tonumber(var.pace)}"
  }
}

output "release" { value = var.release }
"#;

/// What runs and how it is reached.
pub(super) struct Scene {
    client: Client,
    folder: PathBuf,
    engine: Engine,
    proxy: Proxy,
    /// None where the user's own cluster is used.
    standin: Option<StandIn>,
    /// The pod that is looked at: namespace and name.
    pod: Option<(String, String)>,
}

// === impl Scene ===

impl Scene {
    /// Starts everything and joins it, as a user would.
    pub(super) async fn set(
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
        folder: &Path,
        programs: &mut Programs,
        narrator: &mut Narrator,
    ) -> Result<Self, Failure> {
        let since = Instant::now();
        let binaries = Binaries::find()?;
        let engine = engine::find(folder).await?;
        narrator.step("engine", &format!("engine: {}", engine.from), since, &[], json!({ "engine": engine.name }));

        let since = Instant::now();
        let internal = |e: std::io::Error| Code::Internal.on(e.to_string());
        let proxy = Proxy::start().await.map_err(internal)?;
        let dialled = format!("https://{}", proxy.address);
        let data = folder.join("control-plane");
        let arguments = [
            "--data",
            &utf8(&data)?,
            "--api-listen",
            "127.0.0.1:0",
            "--runner-listen",
            "127.0.0.1:0",
            "--name",
            "127.0.0.1",
            "--tunnel-endpoint",
            &dialled,
            "--execution-endpoint",
            &dialled,
        ];
        programs.start("control-plane", &binaries.path("runner-control-plane"), &arguments, folder)?;
        let ready = programs.ready("READY ").await?;
        let api = table::text(&ready, "/api");
        let runners = address(&table::text(&ready, "/runner"))?;
        proxy.point_at(runners);
        let what = format!("control plane at {api}, with a CA, a database and an administrator's token of its own");
        narrator.step("control_plane", &what, since, &[], ready);

        let since = Instant::now();
        let token = config::read_token(&data.join("admin-token"))?;
        let ca = config::read_text(&data.join("ca.pem"))?;
        let saved = folder.join("config/runnerctl/config.json");
        let account = Context { endpoint: api, ca: Some(ca), token };
        let client = Client::new(&account)?;
        let who = login::enter(account, "demo", &saved).await?;
        let what = format!(
            "logged in as {} of organization {}",
            table::text(&who, "/user/name"),
            table::text(&who, "/organization/name")
        );
        narrator.step("login", &what, since, &[], who);

        let since = Instant::now();
        client.post("/runners", &json!({ "name": RUNNER })).await?;
        let (credentials, _) = runner::generate_credentials(&client, RUNNER, None).await?;
        let file = folder.join("credentials.json");
        credentials.write(&file).map_err(|e| stop::file(&file, &e))?;
        client.post(&path(&["runners", RUNNER, "default"], &[]), &json!({})).await?;
        let what = format!(
            "runner {RUNNER:?} registered; its key was made here, and its credentials file is {}",
            file.display()
        );
        narrator.step("credentials", &what, since, &[], json!({ "file": file }));

        let since = Instant::now();
        let standin = if kubeconfig.is_some() { None } else { Some(standin().await?) };
        let cluster = match (&kubeconfig, &standin) {
            (Some(file), _) => file.canonicalize().map_err(|e| stop::file(file, &e))?,
            (None, Some(standin)) => {
                let file = folder.join("kubeconfig");
                private(&file, &standin.kubeconfig())?;
                file
            }
            (None, None) => return Err(Code::Internal.on("there is no cluster")),
        };
        let settings = settings(folder, &engine, &cluster, context.as_deref())?;
        let config = folder.join("runner.toml");
        private(&config, &settings)?;
        programs.start("runner", &binaries.path("runner"), &["run", "--config", &utf8(&config)?], folder)?;
        let scene = Self { client, folder: folder.to_owned(), engine, proxy, standin, pod: None };
        scene.until_runner("connected", programs).await?;
        narrator.step(
            "runner",
            "runner started; it dialled out and is connected",
            since,
            &[],
            json!({ "state": "connected" }),
        );
        Ok(scene)
    }

    /// Lists pods, follows a log, runs a command.
    pub(super) async fn kubernetes(&mut self, narrator: &mut Narrator) -> Result<(), Failure> {
        let since = Instant::now();
        let body = json!({ "name": CONNECTION, "provider": "kubernetes", "runner": RUNNER });
        self.client.post("/connections", &body).await?;
        let report = self.client.post(&path(&["connections", CONNECTION, "test"], &[]), &json!({})).await?;
        let kind = if self.standin.is_some() { "a stand-in cluster inside this demo" } else { "your cluster" };
        let what = format!("connection {CONNECTION:?} reaches {kind} as {}", table::text(&report, "/identity"));
        narrator.step("connection", &what, since, &[], report);

        let since = Instant::now();
        let list =
            self.client.get(&path(&["connections", CONNECTION, "k8s", "pods"], &[("all_namespaces", "true")])).await?;
        let pods = table::items(&list);
        let lines: Vec<String> = pods
            .iter()
            .take(6)
            .map(|p| {
                format!(
                    "{:<14} {:<22} {}",
                    table::text(p, "/namespace"),
                    table::text(p, "/name"),
                    table::text(p, "/status")
                )
            })
            .collect();
        let what = format!("{} pods listed through the tunnel", pods.len());
        narrator.step("pods", &what, since, &lines, json!({ "pods": pods.len() }));
        let running = pods.iter().find(|p| p["status"] == "Running" && p["containers"] == 1);
        let Some(pod) = running.or_else(|| pods.iter().find(|p| p["status"] == "Running")) else {
            narrator.say("      no pod runs there: the log and the command are left out");
            return Ok(());
        };
        let (namespace, name) = (table::text(pod, "/namespace"), table::text(pod, "/name"));
        let container = table::text(pod, "/container_names/0");
        let at = ["connections", CONNECTION, "k8s", "namespaces", &namespace, "pods", &name];
        let under = |what| [&at[..], &[what]].concat();

        let since = Instant::now();
        let query = [("container", container.as_str()), ("follow", "true"), ("tail", "2")];
        let (lines, first) = self.follow_log(&path(&under("logs"), &query), since).await?;
        let what =
            format!("log of {name} followed for {} lines, the first after {} ms, then cancelled", lines.len(), first);
        narrator.step("log", &what, since, &lines, json!({ "lines": lines.len(), "first_line_ms": first }));

        let since = Instant::now();
        let query = [("container", container.as_str()), ("command", "hostname")];
        let (said, code) = exec::capture(&self.client, &path(&under("exec"), &query)).await?;
        let what = format!("command `hostname` run in {name}: exit code {code}");
        narrator.step("exec", &what, since, &[said.trim().to_owned()], json!({ "exit_code": code, "output": said }));
        self.pod = Some((namespace, name));
        Ok(())
    }

    /// A few lines of a followed log, at most 5 s of it, and when the first came; then it is dropped, which cancels it.
    async fn follow_log(&self, at: &str, since: Instant) -> Result<(Vec<String>, u64), Failure> {
        let mut body = self.client.stream(at, &[("accept", "text/plain")]).await?.into_body();
        let (mut text, mut first) = (String::new(), None);
        let enough = |text: &str| text.lines().count() >= 5;
        let read = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| Code::ConnectionLost.on(format!("the log ended early: {e}")))?;
                if let Ok(data) = frame.into_data() {
                    first.get_or_insert_with(|| since.elapsed().as_millis() as u64);
                    text.push_str(&String::from_utf8_lossy(&data));
                }
                if enough(&text) || text.len() > 64 * 1024 {
                    break;
                }
            }
            Ok::<(), Failure>(())
        };
        // a quiet pod is no failure
        match tokio::time::timeout(Duration::from_secs(5), read).await {
            Ok(done) => done?,
            Err(_elapsed) => {}
        }
        Ok((text.lines().take(5).map(str::to_owned).collect(), first.unwrap_or_default()))
    }

    /// Deploys the stack for the first time, with approval.
    pub(super) async fn deploy(&mut self, narrator: &mut Narrator) -> Result<(), Failure> {
        let since = Instant::now();
        let code = self.folder.join("code");
        std::fs::create_dir_all(&code).map_err(|e| stop::file(&code, &e))?;
        let main = code.join("main.tf");
        std::fs::write(&main, CODE).map_err(|e| stop::file(&main, &e))?;
        let packed = tokio::task::spawn_blocking(move || archive::pack(&code, Limits::default()))
            .await
            .map_err(|e| Code::Internal.on(e.to_string()))??;
        let at = path(&["archives", &packed.sha256], &[]);
        let bytes = crate::client::file_body(packed.file, |_| {});
        self.client.upload(&at, packed.size, bytes).await?;
        let body = json!({
            "name": STACK, "engine": self.engine.name, "runner": RUNNER, "connections": [],
            "source": { "archive": { "sha256": packed.sha256, "size": packed.size } },
            "variables": { "release": "1", "pace": "0.2" },
        });
        self.client.post("/stacks", &body).await?;
        let job = self.start_job().await?;
        let mut seen = Seen::default();
        let mut events = JobEvents::after(&self.client, &job, 0);
        self.until_plan(&job, &mut events, &mut seen).await?;
        let lines = seen.summaries();
        narrator.step(
            "plan",
            "first deployment planned by the runner, with its own credentials and engine",
            since,
            &lines,
            json!({ "job": job }),
        );

        let since = Instant::now();
        self.approve(&job, &seen).await?;
        seen.read(&mut events, |_| false).await?;
        seen.must_end("applied")?;
        let what = format!("plan approved and applied; {} events", seen.all.len());
        narrator.step("apply", &what, since, &seen.applied(), json!({ "job": job, "events": seen.all.len() }));
        Ok(())
    }

    /// Deploys a change and cuts the tunnel in mid-apply.
    pub(super) async fn cut(&mut self, narrator: &mut Narrator) -> Result<(), Failure> {
        let since = Instant::now();
        let at = path(&["stacks", STACK], &[]);
        let mut body = crate::commands::stack::writable(&self.client.get(&at).await?);
        body["variables"] = json!({ "release": "2", "pace": "2" });
        self.client.put(&at, &body).await?;
        let job = self.start_job().await?;
        let mut seen = Seen::default();
        let mut events = JobEvents::after(&self.client, &job, 0);
        self.until_plan(&job, &mut events, &mut seen).await?;
        self.approve(&job, &seen).await?;
        // in mid-apply: the first step is done, four are to come
        let first = |e: &JobEvent| matches!(&e.body, Some(Body::ResourceProgress(p)) if p.state == "complete" && p.action == "create");
        seen.read(&mut events, first).await?;
        narrator.step(
            "change",
            "a change deployed with approval; its apply is under way",
            since,
            &seen.summaries(),
            json!({ "job": job }),
        );

        let since = Instant::now();
        let cut_ms = shared_proto::now_ms();
        self.proxy.cut();
        let (code, took) = self.until_refused(since).await?;
        let alive = engine_process(&self.engine.path);
        let lines = [
            format!("an operation fails at once: {code} after {took} ms"),
            match alive {
                Some(pid) => format!("the engine goes on: process {pid} is alive"),
                None => "the engine's process is not to be seen from here; its events will tell".to_owned(),
            },
        ];
        let detail = json!({ "code": code.as_str(), "operation_ms": took, "engine_pid": alive });
        narrator.step("cut", "the tunnel and the execution service are cut off", since, &lines, detail);

        let wait = CUT.saturating_sub(since.elapsed());
        tokio::time::sleep(wait).await;
        let restored_ms = shared_proto::now_ms();
        let since = Instant::now();
        self.proxy.restore();
        self.until_works().await?;
        let back = since.elapsed();
        narrator.step(
            "restored",
            "the way is open again and operations work",
            since,
            &[],
            json!({ "ms": back.as_millis() as u64 }),
        );

        let since = Instant::now();
        seen.read(&mut events, |_| false).await?;
        seen.must_end("applied")?;
        let during: Vec<&JobEvent> =
            seen.all.iter().filter(|e| (cut_ms..=restored_ms).contains(&e.time_ms())).collect();
        let done = during.iter().filter(|e| first(e)).count();
        let count = seen.all.len();
        let lines = [
            format!(
                "{} of them were written while the way was cut; resources completed in that time: {done}",
                during.len()
            ),
            seen.applied().join(" "),
        ];
        let what = format!("job applied; all events 1..{count} arrived, each once");
        let detail = json!({ "job": job, "events": count, "while_cut": during.len(), "completed_while_cut": done });
        if during.is_empty() {
            return Err(Code::Internal.on("no event of the job was written while the way was cut"));
        }
        narrator.step("applied", &what, since, &lines, detail);
        Ok(())
    }

    /// What to try next.
    pub(super) fn invite(&self, narrator: &Narrator) {
        let program = std::env::current_exe().map_or_else(|_| "runnerctl".to_owned(), |p| p.display().to_string());
        let config = self.folder.join("config");
        let mut commands = vec![format!("{program} runner list"), format!("{program} k8s pods -A -o wide")];
        if let Some((namespace, pod)) = &self.pod {
            commands.push(format!("{program} k8s logs -n {namespace} {pod} -f"));
            let shell = if self.standin.is_some() { "sh" } else { "/bin/sh" };
            commands.push(format!("{program} k8s exec -n {namespace} -it {pod} -- {shell}"));
        }
        commands.extend([
            format!(
                "{program} deploy {} --name {STACK} --var release=3 --var pace=1",
                self.folder.join("code").display()
            ),
            format!("{program} job list"),
            format!("{program} operation list"),
        ]);
        narrator.say(&format!("\nDone in {:.1} s. Try, in another terminal:\n", narrator.elapsed()));
        narrator.say(&format!("  export XDG_CONFIG_HOME={}", config.display()));
        for command in &commands {
            narrator.say(&format!("  {command}"));
        }
        let environment = json!({ "XDG_CONFIG_HOME": config });
        narrator.finish("ready", json!({ "environment": environment, "commands": commands, "folder": self.folder }));
    }

    // ---- parts of steps

    async fn start_job(&self) -> Result<String, Failure> {
        let body = json!({ "kind": "update", "approve_automatically": false });
        let job = self.client.post(&path(&["stacks", STACK, "jobs"], &[]), &body).await?;
        Ok(table::text(&job, "/id"))
    }

    /// Until the job's plan awaits approval.
    async fn until_plan(&self, job: &str, events: &mut JobEvents, seen: &mut Seen) -> Result<(), Failure> {
        seen.read(events, |e| matches!(e.body, Some(Body::PlanSaved(_)))).await?;
        let at = path(&["jobs", job], &[]);
        until(PATIENCE, "the job did not come to await approval", async || {
            let phase = table::text(&self.client.get(&at).await?, "/phase");
            Ok((phase == "awaiting_approval").then_some(()))
        })
        .await
    }

    async fn approve(&self, job: &str, seen: &Seen) -> Result<(), Failure> {
        let body = json!({ "plan_sha256": seen.plan()? });
        self.client.post(&path(&["jobs", job, "approve"], &[]), &body).await.map(|_| ())
    }

    async fn until_runner(&self, state: &str, programs: &mut Programs) -> Result<(), Failure> {
        let at = path(&["runners", RUNNER], &[]);
        until(PATIENCE, &format!("the runner was not {state}"), async || {
            if let Some(name) = programs.ended() {
                return Err(Code::Internal.on(format!("{name} ended")));
            }
            Ok((table::text(&self.client.get(&at).await?, "/state") == state).then_some(()))
        })
        .await
    }

    /// Until an operation is refused because the runner is away; how long that one took.
    async fn until_refused(&self, since: Instant) -> Result<(Code, u128), Failure> {
        let at = path(&["connections", CONNECTION, "k8s", "namespaces"], &[]);
        loop {
            let asked = Instant::now();
            match self.client.get(&at).await {
                Err(failure) if failure.code == Code::RunnerUnavailable => {
                    return Ok((failure.code, asked.elapsed().as_millis()));
                }
                Err(failure) if !matches!(failure.code, Code::ConnectionLost | Code::RunnerLeaving) => {
                    return Err(failure);
                }
                _ if since.elapsed() > PATIENCE => {
                    return Err(Code::Internal.on("operations still work though the way is cut"));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn until_works(&self) -> Result<(), Failure> {
        let at = path(&["connections", CONNECTION, "k8s", "namespaces"], &[]);
        until(PATIENCE, "operations did not work again", async || match self.client.get(&at).await {
            Ok(_) => Ok(Some(())),
            Err(f) if matches!(f.code, Code::RunnerUnavailable | Code::ConnectionLost) => Ok(None),
            Err(failure) => Err(failure),
        })
        .await
    }
}

/// The events of a job that were seen.
#[derive(Debug, Default)]
struct Seen {
    all: Vec<JobEvent>,
}

// === impl Seen ===

impl Seen {
    /// Reads on until an event is found, or the job's end. The numbers are checked where they are read.
    async fn read(&mut self, events: &mut JobEvents, found: impl Fn(&JobEvent) -> bool) -> Result<(), Failure> {
        let read = async {
            while let Some(event) = events.next(|_| {}).await? {
                let (is_found, is_result) = (found(&event), matches!(event.body, Some(Body::Result(_))));
                self.all.push(event);
                if is_found {
                    return Ok(());
                }
                // a job that failed before what was waited for says why
                if is_result {
                    return self.must_end("applied");
                }
            }
            Ok(())
        };
        let limit = format!("the job said nothing of it within {} s", JOB.as_secs());
        tokio::time::timeout(JOB, read).await.unwrap_or_else(|_| Err(Code::DeadlineExceeded.on(limit)))
    }
    fn must_end(&self, phase: &str) -> Result<(), Failure> {
        let result = self.all.iter().rev().find_map(|e| match &e.body {
            Some(Body::Result(result)) => Some(result),
            _ => None,
        });
        match result {
            Some(result) if result.phase == phase => Ok(()),
            Some(result) => Err(Failure::from_wire(
                &result.code,
                &format!("the job ended {}: {}", result.phase, result.message),
                &result.next_step,
            )),
            None => Err(Code::Internal.on("the job's events ended without a result")),
        }
    }
    fn plan(&self) -> Result<&str, Failure> {
        let plan = self.all.iter().rev().find_map(|e| match &e.body {
            Some(Body::PlanSaved(plan)) => Some(plan.sha256.as_str()),
            _ => None,
        });
        plan.ok_or_else(|| Code::Internal.on("the job has no plan"))
    }
    /// The engine's own words on what it would do.
    fn summaries(&self) -> Vec<String> {
        self.summary(|operation| operation == "plan")
    }
    /// The engine's own words on what it did.
    fn applied(&self) -> Vec<String> {
        self.summary(|operation| operation != "plan")
    }
    fn summary(&self, of: impl Fn(&str) -> bool) -> Vec<String> {
        self.all
            .iter()
            .filter_map(|e| match &e.body {
                Some(Body::ChangeSummary(summary)) if of(&summary.operation) => Some(summary.text.clone()),
                _ => None,
            })
            .collect()
    }
}

/// Looks until there is something, with a bound.
async fn until<T>(
    limit: Duration,
    otherwise: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            return Err(Code::DeadlineExceeded.on(format!("{otherwise} within {} s", limit.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn standin() -> Result<StandIn, Failure> {
    StandIn::start().await.map_err(|e| Code::Internal.on(format!("the stand-in cluster did not start: {e}")))
}

/// The runner's configuration.
fn settings(folder: &Path, engine: &Engine, cluster: &Path, context: Option<&str>) -> Result<String, Failure> {
    // JSON's strings are TOML's, for what paths and names hold
    let text = |s: &str| json!(s).to_string();
    let path = |p: PathBuf| Ok::<_, Failure>(text(&utf8(&p)?));
    let context = context.map_or_else(String::new, |c| format!("context = {}\n", text(c)));
    Ok(format!(
        "credentials = {}\nstate_dir = {}\n\n[tunnel]\nbackoff_first_ms = 200\nbackoff_early_max_ms = 1000\nlasted_ms = 1000\n\
         drain_grace_s = 2\n\n[isolation]\nrequire = \"minimal\"\n\n[engines]\n{} = {}\n\n[connections.{CONNECTION}]\nprovider = \
         \"kubernetes\"\nkubeconfig = {}\n{context}",
        path(folder.join("credentials.json"))?,
        path(folder.join("state"))?,
        engine.name,
        path(engine.path.clone())?,
        path(cluster.to_owned())?,
    ))
}

/// `https://address:port` as a socket's address.
fn address(url: &str) -> Result<SocketAddr, Failure> {
    url.trim_start_matches("https://")
        .parse()
        .map_err(|_| Code::Internal.on(format!("the control plane said that it serves runners at {url:?}")))
}

fn utf8(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Code::InvalidArgument.on(format!("{} is not UTF-8", path.display())))
}

/// A file for this user alone.
fn private(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| stop::file(path, &e))
}
