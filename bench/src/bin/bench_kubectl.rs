//! kubectl through a runner, beside kubectl by the cluster's own address and beside kubectl over `ssh -R`, in turns: how long `get pods` takes, how
//! much later the events of a watch come, what a forwarded port carries, how long a list of very many pods takes and what memory it costs the
//! supervisor. API server, control plane and runner are the real ones. Build with `--release`.
//!
//! ```text
//! bench-kubectl [DIVISOR]     of the pods, events and bytes; 1 unless given
//! bench-kubectl hold          measures nothing: says how to reach it each way, and stands until its standard input ends
//! ```
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use runner_bench::ssh::Forward;
use runner_tests::cluster::{ADMIN, echoes, echoes_at};
use runner_tests::ctl::Ctl;
use runner_tests::process::{Mark, Program};
use runner_tests::world::World;
use runner_tests::{Cluster, Component, Scratch, procfs};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

/// How long anything may take.
const SECONDS: Duration = Duration::from_secs(300);
/// `get pods` on each way.
const GETS: usize = 60;
/// Before each of them, and before each list.
const BETWEEN: Duration = Duration::from_millis(300);
/// Lists of all pods on each way.
const LISTS: usize = 15;
/// Transfers over a forwarded port on each way.
const TRANSFERS: usize = 5;
/// Bytes of each, there and back.
const TRANSFER: usize = 256 << 20;
const MIB: f64 = (1 << 20) as f64;
/// What a link gives that is no loopback, MiB a second each way.
const LINK: f64 = 60.0;
/// Pods that are watched, and that are listed.
const WATCHED: usize = 5_000;
const LISTED: usize = 20_000;
/// Changes during a watch, and how many a second.
const EVENTS: usize = 2_000;
const EVENTS_EACH_SECOND: u64 = 200;
/// Requests that make pods, at a time.
const MAKING: usize = 16;
/// As a runner has it that is not told otherwise; tests have none.
const WARM: &str = "16";
/// What is forwarded to.
const POD: &str = "stream";

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_default();
    let divisor = word.parse().unwrap_or(1).max(1);
    runner_bench::to_end(run(divisor, word == "hold"))
}

/// A way to the cluster.
struct Way {
    name: &'static str,
    kubeconfig: PathBuf,
    home: PathBuf,
}

/// All of it.
struct Set {
    world: World,
    cluster: Cluster,
    ways: [Way; 3],
    _ssh: Forward,
    // its home has the token
    _ctl: Ctl,
    _files: Scratch,
}

/// Figures of one scenario, by way: direct, runner, ssh.
type Figures = [Vec<f64>; 3];

async fn run(divisor: usize, holds: bool) -> Result<bool> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say little");
    }
    for component in [Component::Cluster, Component::Kubectl] {
        ensure!(component.missing().is_none(), "{}", component.missing().unwrap_or_default());
    }
    let set = Set::start().await?;
    if holds {
        for way in &set.ways {
            println!("{}: HOME={} kubectl --kubeconfig {}", way.name, way.home.display(), way.kubeconfig.display());
        }
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
        return Ok(true);
    }
    let mut hold = true;
    hold &= set.gets(GETS / divisor.min(6)).await?;
    hold &= set.forwards(TRANSFER / divisor).await?;
    set.pods(WATCHED / divisor, 0).await?;
    hold &= set.watches(EVENTS / divisor.min(10)).await?;
    set.pods(LISTED / divisor, WATCHED / divisor).await?;
    hold &= set.lists(LISTED / divisor).await?;
    Ok(hold)
}

// === impl Set ===

impl Set {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        cluster.namespace("many").await?;
        for n in 0..10 {
            cluster.create_pod("default", &format!("web-{n}"), &["app"], &json!({})).await?;
        }
        cluster.pod("default", POD, &["app"], &json!({})).await?;
        let world = World::beside(&cluster, |setup| setup.env("RUNNERD_WORKERS_WARM", WARM)).await?;
        let ctl = Ctl::new(&world.control_plane, world.user())?;
        let ssh = Forward::start(&[cluster.address()], Duration::ZERO).await?;
        let files = Scratch::new("kubeconfigs")?;
        let direct = files.write("direct", cluster.kubeconfig(cluster.address(), ADMIN))?;
        let over_ssh = files.write("ssh", cluster.kubeconfig(ssh.addresses[0], ADMIN))?;
        let through = files.join("runner");
        ctl.text(&["kubeconfig", "cluster", "--file", &through.display().to_string(), "--use"]).await?;
        let home = ctl.home().to_owned();
        let way = |name, kubeconfig| Way { name, kubeconfig, home: home.clone() };
        let ways = [way("direct", direct), way("runner", through), way("ssh", over_ssh)];
        Ok(Self { world, cluster, ways, _ssh: ssh, _ctl: ctl, _files: files })
    }

    fn supervisor(&self) -> Result<i32> {
        self.world.runner.supervisor()
    }

    /// Makes pods until there are so many in the namespace `many`.
    async fn pods(&self, until: usize, from: usize) -> Result<()> {
        let mut making = JoinSet::new();
        let node = json!({ "metadata": {}, "spec": { "containers": [{ "name": "app", "image": "stand-in:1" }] } });
        for n in from..until {
            while making.len() >= MAKING {
                making.join_next().await.context("one of them")???;
            }
            let (client, mut pod) = (self.cluster.client().clone(), node.clone());
            pod["metadata"] =
                json!({ "name": format!("many-{n:05}"), "labels": { "app": "many", "n": n.to_string() } });
            making.spawn(async move { client.post("/api/v1/namespaces/many/pods", &pod).await?.ok().map(drop) });
        }
        while let Some(made) = making.join_next().await {
            made??;
        }
        Ok(())
    }

    /// `kubectl get pods`, the program's start and the credential plug-in's included.
    async fn gets(&self, count: usize) -> Result<bool> {
        let mut took = Figures::default();
        for n in 0..count + 3 {
            for (way, took) in self.ways.iter().zip(&mut took) {
                // what the one before has left to do is not this one's
                tokio::time::sleep(BETWEEN).await;
                let begun = Instant::now();
                way.kubectl(&["get", "pods", "-n", "default"])?.run(SECONDS).await?.success()?;
                // the first ones fill the cache of what the API server has, and get the token
                if n >= 3 {
                    took.push(begun.elapsed().as_secs_f64() * 1000.0);
                }
            }
        }
        let [direct, runner, ssh] = took.each_ref().map(|t| percentile(t, 50));
        println!(
            "kubectl get pods, ms: direct p50 {direct:.1}, runner {runner:.1}, ssh -R {ssh:.1}; p95 {}",
            all(&took, 95)
        );
        Ok(promise("runner - direct, p50, ms", runner - direct, 10.0, false))
    }

    /// A forwarded port, there and back.
    async fn forwards(&self, bytes: usize) -> Result<bool> {
        let (mut rates, mut paced) = (Figures::default(), Figures::default());
        for _ in 0..TRANSFERS {
            for (at, way) in self.ways.iter().enumerate() {
                let forward =
                    way.kubectl(&["port-forward", &format!("pod/{POD}"), "-n", "default", "0:80"])?.start()?;
                let line =
                    forward.stdout().line(Mark::default(), SECONDS, "its port", |l| l.contains("127.0.0.1:")).await?;
                let rest = line.split_once("127.0.0.1:").context("a port")?.1;
                let port: u16 = rest.split(' ').next().context("a port")?.parse()?;
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                echoes(address, 1 << 20).await?;
                let begun = Instant::now();
                echoes(address, bytes).await?;
                rates[at].push(bytes as f64 / MIB / begun.elapsed().as_secs_f64());
                let begun = Instant::now();
                echoes_at(address, bytes, Some(LINK * MIB)).await?;
                paced[at].push(bytes as f64 / MIB / begun.elapsed().as_secs_f64());
                forward.end();
            }
        }
        let [direct, runner, ssh] = rates.each_ref().map(|t| percentile(t, 50));
        println!(
            "port-forward of {} MiB there and back, MiB/s: direct {direct:.0}, runner {runner:.0}, ssh -R {ssh:.0}",
            bytes >> 20
        );
        let held = promise("runner / direct", runner / direct, 0.8, true);
        let [direct, runner, ssh] = paced.each_ref().map(|t| percentile(t, 50));
        println!(
            "of what comes at {LINK:.0} MiB/s, as from a link of 500 Mbit/s: direct {direct:.0}, runner {runner:.0}, ssh -R {ssh:.0}"
        );
        Ok(promise("runner / direct", runner / direct, 0.8, true) && held)
    }

    /// How much later an event comes than by the cluster's own address, while all are watched at once.
    async fn watches(&self, events: usize) -> Result<bool> {
        let list = self.cluster.client().get("/api/v1/namespaces/many/pods").await?.ok()?;
        let pods = list["items"].as_array().context("pods")?.len();
        let version = list["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned();
        let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let mut watches = Vec::new();
        for (at, way) in self.ways.iter().enumerate() {
            let target = format!("/api/v1/namespaces/many/pods?watch=1&resourceVersion={version}");
            let mut child = way.command(&["get", "--raw", &target]).stdout(Stdio::piped()).spawn()?;
            let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
            let told = told.clone();
            watches.push((
                child,
                tokio::spawn(async move {
                    while let Ok(Some(line)) = lines.next_line().await {
                        let now = Instant::now();
                        let event: Value = serde_json::from_str(&line).unwrap_or_default();
                        let version =
                            event["object"]["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
                        let _ = told.send((at, version, now));
                    }
                }),
            ));
        }
        // until each has seen one
        let mut warm = [false; 3];
        while warm.contains(&false) {
            self.touch(0, "warm").await?;
            while let Ok(Some((at, ..))) = tokio::time::timeout(Duration::from_millis(200), seen.recv()).await {
                warm[at] = true;
            }
        }
        let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / EVENTS_EACH_SECOND));
        let mut touching = JoinSet::new();
        for n in 0..events {
            tick.tick().await;
            let client = self.cluster.client().clone();
            touching.spawn(async move { touch(&client, n % pods, &n.to_string()).await });
        }
        while let Some(touched) = touching.join_next().await {
            touched??;
        }
        let mut times: HashMap<String, [Option<Instant>; 3]> = HashMap::new();
        let mut whole = 0;
        while whole < events {
            let next = tokio::time::timeout(SECONDS, seen.recv()).await.context("all events on all ways")?;
            let (at, version, now) = next.context("a watch")?;
            let times = times.entry(version).or_default();
            times[at] = Some(now);
            whole += usize::from(times.iter().all(Option::is_some));
        }
        for (mut child, reading) in watches {
            reading.abort();
            child.kill().await?;
        }
        let later = |at: usize| -> Vec<f64> {
            let delay = |times: &[Option<Instant>; 3]| {
                let (there, here) = (times[at]?, times[0]?);
                Some(there.saturating_duration_since(here).as_secs_f64() * 1000.0)
            };
            times.values().filter_map(delay).collect()
        };
        let (runner, ssh) = (later(1), later(2));
        println!(
            "a watch of {pods} pods, {EVENTS_EACH_SECOND} events a second, later than direct, ms: runner p50 {:.1} p99 {:.1}, \
             ssh -R p50 {:.1} p99 {:.1}",
            percentile(&runner, 50),
            percentile(&runner, 99),
            percentile(&ssh, 50),
            percentile(&ssh, 99)
        );
        Ok(promise("runner, p99, ms", percentile(&runner, 99), 50.0, false))
    }

    async fn touch(&self, pod: usize, text: &str) -> Result<()> {
        touch(self.cluster.client(), pod, text).await
    }

    /// All pods as one document, and the supervisor's memory meanwhile.
    async fn lists(&self, pods: usize) -> Result<bool> {
        let mut took = Figures::default();
        let before = procfs::status_bytes(self.supervisor()?, "VmHWM")?;
        let mut bytes = 0;
        for n in 0..LISTS + 1 {
            for (way, took) in self.ways.iter().zip(&mut took) {
                tokio::time::sleep(BETWEEN).await;
                let begun = Instant::now();
                let list =
                    way.kubectl(&["get", "--raw", "/api/v1/namespaces/many/pods"])?.run(SECONDS).await?.success()?;
                if n > 0 {
                    took.push(begun.elapsed().as_secs_f64());
                }
                bytes = list.len();
            }
        }
        let peak = procfs::status_bytes(self.supervisor()?, "VmHWM")?;
        let [direct, runner, ssh] = took.each_ref().map(|t| percentile(t, 50));
        println!(
            "a list of {pods} pods ({} MiB), s: direct {direct:.2}, runner {runner:.2}, ssh -R {ssh:.2}; p95 {}; the supervisor's \
             peak {:.1} MiB before, {:.1} MiB after",
            bytes >> 20,
            all(&took, 95),
            before as f64 / (1 << 20) as f64,
            peak as f64 / (1 << 20) as f64
        );
        let flat =
            promise("the supervisor's peak grew by, MiB", (peak - before) as f64 / (1 << 20) as f64, 16.0, false);
        Ok(promise("direct / runner", direct / runner, 0.9, true) && flat)
    }
}

async fn touch(client: &runner_tests::https::Client, pod: usize, text: &str) -> Result<()> {
    let patch = json!({ "metadata": { "annotations": { "touched": text } } });
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("/api/v1/namespaces/many/pods/many-{pod:05}");
    client.request(http::Method::PATCH, &path, &headers, patch.to_string()).await?.ok().map(drop)
}

// === impl Way ===

impl Way {
    fn variables(&self) -> Result<[(&'static str, String); 4]> {
        let own = runner_tests::tools::binary("runnerctl")?;
        let own = own.parent().context("a folder")?.display().to_string();
        Ok([
            ("HOME", self.home.display().to_string()),
            ("PATH", format!("{own}:{}", std::env::var("PATH").unwrap_or_default())),
            ("KUBECACHEDIR", self.home.join(format!("cache-{}", self.name)).display().to_string()),
            ("KUBECONFIG", self.kubeconfig.display().to_string()),
        ])
    }
    fn kubectl(&self, arguments: &[&str]) -> Result<Program> {
        let mut program =
            Program::component("kubectl")?.args(arguments.iter().copied()).named(format!("kubectl ({})", self.name));
        for (name, value) in self.variables()? {
            program = program.env(name, value);
        }
        Ok(program)
    }
    /// The same, its output to be read as it comes.
    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let program = runner_tests::tools::find("kubectl").unwrap_or_else(|| "kubectl".into());
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env_clear().kill_on_drop(true);
        if let Ok(variables) = self.variables() {
            command.envs(variables);
        }
        command
    }
}

/// Says whether it holds.
fn promise(what: &str, measured: f64, limit: f64, at_least: bool) -> bool {
    let holds = if at_least { measured >= limit } else { measured <= limit };
    let (bound, verdict) =
        (if at_least { "at least" } else { "at most" }, if holds { "holds" } else { "DOES NOT HOLD" });
    println!("  {what}: {measured:.2}, promised {bound} {limit}: {verdict}");
    holds
}

fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or(f64::NAN)
}

fn all(figures: &Figures, percent: usize) -> String {
    figures.each_ref().map(|f| format!("{:.1}", percentile(f, percent))).join(", ")
}
