//! How many operations a second a runner does, each in a process of its own: from a caller in the control plane's process through tunnel,
//! supervisor and spawner to a fresh worker of the real kind and back. Control plane, tunnel and runner are the real ones. First an operation
//! that needs no target (a list of pods whose namespace the worker refuses before it connects), then pods of a real API server, where one is
//! here. Beside each: the processor time that an operation takes, and who takes it. Build with `--release`.
//!
//! ```text
//! bench-operations [SECONDS]     for each number of callers at once; 3 unless given
//! ```
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use runner_bench::serve;
use runner_control_plane::operations::Output;
use runner_control_plane::sessions::Sessions;
use runner_tests::cluster::ADMIN;
use runner_tests::runner::Setup;
use runner_tests::{Cluster, Component, ControlPlane, Runner};
use serde_json::json;
use shared_proto::failure::Code;
use shared_proto::v1;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Callers at once.
const CALLERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// What is promised of operations that need no target.
const PROMISED: (f64, Duration) = (1000.0, Duration::from_millis(50));
/// Before they are counted: by then as many workers wait as are asked for.
const WARM_UP: Duration = Duration::from_secs(2);
/// Pods of the API server's.
const PODS: usize = 10;
/// The code of what was done.
const OK: &str = "ok";
/// An API server that nobody connects to.
const NOBODY: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: nobody\n  cluster:\n    server: http://127.0.0.1:9\nusers:\n\
                      - name: nobody\n  user:\n    token: none\ncontexts:\n- name: nobody\n  context:\n    cluster: nobody\n    \
                      user: nobody\ncurrent-context: nobody\n";
/// A namespace that there cannot be.
const NOWHERE: &str = "no/where";

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(3);
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let ended = runtime.block_on(run(Duration::from_secs(seconds)));
    runner_tests::process::end_all();
    runner_tests::scratch::remove_root();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}\n{}", runner_tests::process::recent_logs());
            ExitCode::FAILURE
        }
    }
}

async fn run(counted: Duration) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say little");
    }
    let set = Set::start(None).await?;
    println!("operations that need no target, each in a process of its own, at level {}:", set.level());
    let best = set.rates(NOWHERE, Code::InvalidArgument.as_str(), counted).await?;
    println!(
        "promised at some number of callers: {} a second with p99 under {} ms: {}",
        PROMISED.0,
        PROMISED.1.as_millis(),
        verdict(&best)
    );
    set.end();

    if let Some(reason) = Component::Cluster.missing() {
        println!("pods of a real API server: left out ({reason})");
        return Ok(());
    }
    let cluster = Cluster::start().await?;
    for n in 0..PODS {
        cluster.create_pod("default", &format!("pod-{n}"), &["app"], &json!({})).await?;
    }
    let set = Set::start(Some(&cluster)).await?;
    println!("lists of {PODS} pods of a real API server on the same processors, each by a fresh worker:");
    set.rates("default", OK, counted).await?;
    set.end();
    Ok(())
}

/// A control plane in this process, and a runner.
struct Set {
    caller: Arc<Caller>,
    runner: Runner,
    /// Its processes: of those that were there before the first operation.
    supervisor: i32,
    spawner: i32,
    stop: CancellationToken,
    _data: ControlPlane,
}

struct Caller {
    sessions: Sessions,
    organization: String,
    runner: String,
    asked: AtomicU64,
}

/// With so many callers.
struct Rate {
    callers: usize,
    each_second: f64,
    p99: Duration,
}

/// Processor time of those who take part, ticks of the clock.
#[derive(Clone, Copy)]
struct Spent {
    supervisor: u64,
    spawner: u64,
    workers: u64,
    control_plane: u64,
}

impl Set {
    async fn start(cluster: Option<&Cluster>) -> Result<Self> {
        let mut data = ControlPlane::start().await?;
        let runner_id = data.admin().register("bench").await?;
        let organization = data.admin().organization.clone();
        let credentials = data.admin().credentials(&runner_id).await?;
        data.stop().await?;
        let stop = CancellationToken::new();
        let (sessions, address) = serve(&data.data(), stop.clone()).await?;
        let kubeconfig = match cluster {
            Some(cluster) => cluster.kubeconfig(cluster.address(), ADMIN),
            None => NOBODY.to_owned(),
        };
        let setup = Setup::new()?.credentials(credentials).endpoint(address).kubernetes("cluster", &kubeconfig)?;
        let runner = setup.start_as(data.admin(), &runner_id).await?;
        let processes = runner.processes();
        let supervisor = processes.supervisor.context("a supervisor")?.pid;
        let spawner = processes.spawner.context("a spawner")?.pid;
        let caller = Caller { sessions, organization, runner: runner_id, asked: AtomicU64::new(0) };
        Ok(Self { caller: Arc::new(caller), runner, supervisor, spawner, stop, _data: data })
    }

    /// In this order: else the runner would dial again meanwhile.
    fn end(self) {
        drop(self.runner);
        self.stop.cancel();
    }

    /// How its workers are isolated, as it says itself.
    fn level(&self) -> String {
        let instances = self.caller.sessions.instances(&self.caller.organization, &self.caller.runner);
        instances.first().map(|i| i.isolation_level.clone()).unwrap_or_default()
    }

    async fn rates(&self, namespace: &'static str, code: &'static str, counted: Duration) -> Result<Vec<Rate>> {
        println!(
            "  {:>7}  {:>9}  {:>7}  {:>7}   µs of a processor each: {:>10}  {:>7}  {:>7}  {:>22}",
            "callers", "a second", "p50 ms", "p99 ms", "supervisor", "spawner", "worker", "control plane, callers"
        );
        let mut rates = Vec::new();
        for callers in CALLERS {
            self.calls(callers, namespace, code, WARM_UP).await?;
            let before = self.spent()?;
            let start = Instant::now();
            let mut took = self.calls(callers, namespace, code, counted).await?;
            let lasted = start.elapsed();
            let spent = self.spent()?;
            took.sort();
            let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
            let rate = Rate { callers, each_second: took.len() as f64 / lasted.as_secs_f64(), p99: at(99) };
            let tick = 1e6 / ticks_a_second()? / took.len() as f64;
            let each = |of: fn(&Spent) -> u64| (of(&spent).saturating_sub(of(&before)) as f64 * tick) as u64;
            println!(
                "  {:>7}  {:>9.0}  {:>7.2}  {:>7.2}   {:>35}  {:>7}  {:>7}  {:>22}",
                rate.callers,
                rate.each_second,
                ms(at(50)),
                ms(rate.p99),
                each(|s| s.supervisor),
                each(|s| s.spawner),
                each(|s| s.workers),
                each(|s| s.control_plane)
            );
            rates.push(rate);
        }
        Ok(rates)
    }

    /// So many callers, one operation after the other each.
    async fn calls(
        &self,
        callers: usize,
        namespace: &'static str,
        code: &'static str,
        lasts: Duration,
    ) -> Result<Vec<Duration>> {
        let end = Instant::now() + lasts;
        let mut all = JoinSet::new();
        for _ in 0..callers {
            let caller = self.caller.clone();
            all.spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let start = Instant::now();
                    let ended = caller.once(namespace).await?;
                    ensure!(ended.code == code, "{} {}", ended.code, ended.message);
                    took.push(start.elapsed());
                }
                Ok(took)
            });
        }
        let mut took = Vec::new();
        while let Some(one) = all.join_next().await {
            took.extend(one??);
        }
        Ok(took)
    }

    fn spent(&self) -> Result<Spent> {
        let supervisor = ticks(self.supervisor)?;
        let spawner = ticks(self.spawner)?;
        let own = ticks(i32::try_from(std::process::id())?)?;
        // what it has reaped are its workers
        Ok(Spent { supervisor: supervisor[0], spawner: spawner[0], workers: spawner[1], control_plane: own[0] })
    }
}

impl Caller {
    async fn once(&self, namespace: &str) -> Result<v1::Outcome> {
        let list = v1::K8sListPods { namespace: namespace.into(), ..Default::default() };
        let request = v1::OperationRequest {
            operation_id: format!("bench-{}", self.asked.fetch_add(1, Ordering::Relaxed)),
            organization_id: self.organization.clone(),
            caller: Some(v1::Caller { user_id: "bench".into(), user_name: "bench".into(), ..Default::default() }),
            connection: "cluster".into(),
            what: Some(v1::operation_request::What::K8sListPods(list)),
            ..Default::default()
        };
        let mut operation = self.sessions.run(&self.organization, &self.runner, request).await?;
        loop {
            if let Output::Outcome(outcome) = operation.next().await {
                return Ok(outcome);
            }
        }
    }
}

fn verdict(rates: &[Rate]) -> String {
    let holds = |r: &&Rate| r.each_second >= PROMISED.0 && r.p99 < PROMISED.1;
    match rates.iter().filter(holds).max_by(|a, b| a.each_second.total_cmp(&b.each_second)) {
        Some(rate) => format!("{:.0} with {} callers", rate.each_second, rate.callers),
        None => "DOES NOT HOLD".to_owned(),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a process has used of processors itself, and those that it has reaped, ticks.
fn ticks(pid: i32) -> Result<[u64; 2]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // its name may hold anything; what follows are numbers from the third on
    let (_, numbers) = text.rsplit_once(')').context("no name")?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
    let sum = |from: usize| numbers.get(from..from + 2).map(|n| n.iter().sum()).context("too few numbers");
    Ok([sum(11)?, sum(13)?])
}

fn ticks_a_second() -> Result<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?;
    Ok(ticks.context("no clock")? as f64)
}
