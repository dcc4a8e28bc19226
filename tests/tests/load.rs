//! Much at once, readers that stop reading, long logs, many cancels: all correct by checksum, memory within its bounds, and at the
//! end every count back to where it was. `RUNNER_TEST_SCALE` (a percentage) makes the figures smaller.

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use runner_tests::archive::sha256;
use runner_tests::cluster::{ADMIN, LogSource};
use runner_tests::control_plane::{Executed, User};
use runner_tests::engine::EngineKind;
use runner_tests::https::Socket;
use runner_tests::procfs;
use runner_tests::runner::Setup;
use runner_tests::suite::{scale, scaled};
use runner_tests::world::Shared;
use runner_tests::{Cluster, Component, ControlPlane, Engine, Runner, Suite};
use serde_json::json;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// What a supervisor may have resident, whatever goes through it.
const RESIDENT_MAX: u64 = 64 * MIB;
/// All of a scenario's operations together.
const LONG: Duration = Duration::from_secs(900);
const SECONDS: Duration = Duration::from_secs(30);
/// Lines of each followed log.
const LINES: usize = 2000;

static CLUSTER: Shared<Cluster> = Shared::new();

fn streams() -> usize {
    usize::try_from(scaled(200)).unwrap_or(200)
}

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER
        .get(|| async {
            let mut sources: Vec<_> =
                (0..streams()).map(|n| LogSource::new("default", &format!("log-{n}"), &["app"])).collect();
            sources.push(LogSource::new("default", "big", &["app"]));
            let cluster = Cluster::with_logs(&sources).await?;
            for source in &sources {
                cluster.create_pod("default", &source.pod, &["app"], &json!({ "set": "load" })).await?;
            }
            for source in &sources {
                cluster.running("default", &source.pod).await?;
            }
            Ok(cluster)
        })
        .await
}

struct Set {
    runner: Runner,
    control_plane: ControlPlane,
}

async fn set() -> Result<Set> {
    let cluster = cluster().await?;
    let control_plane = ControlPlane::with_arguments(&["--user-streams", "4096"]).await?;
    let user = control_plane.admin();
    let runner = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .start(user, "runner-1")
        .await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    // everything that is made once is made
    user.get("/connections/cluster/k8s/namespaces").await?;
    runner.no_workers(SECONDS).await?;
    Ok(Set { runner, control_plane })
}

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(1800)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("streams_terminals_and_short_operations_at_once", much_at_once)
        .test("stopped_readers_hold_up_nobody", stopped_readers)
        .test("a_long_log_passes_with_flat_memory", long_log)
        .test("cancelled_follows_leave_nothing", cancelled_follows)
        .test("a_job_without_end_leaves_room_for_the_others", greedy_job)
        .run()
}

/// What counts must come back to.
struct Before {
    runner: procfs::Counts,
    control_plane: procfs::Counts,
}

impl Set {
    async fn before(&self) -> Result<Before> {
        self.control_plane.admin().client().forget_connections();
        let pid = self.control_plane.process().pid();
        Ok(Before { runner: self.runner.counts()?, control_plane: procfs::counts(pid)? })
    }
    async fn all_back(&self, before: &Before) -> Result<()> {
        let user = self.control_plane.admin();
        user.client().forget_connections();
        self.runner.no_workers(SECONDS).await?;
        self.runner.back_to(before.runner, SECONDS).await?;
        let pid = self.control_plane.process().pid();
        runner_tests::eventually(SECONDS, "the control plane's descriptors to be back", || async {
            let now = procfs::counts(pid)?;
            // the database keeps a few connections of its own
            ensure!(
                now.descriptors <= before.control_plane.descriptors + 16,
                "{now:?}, before {:?}",
                before.control_plane
            );
            Ok(Some(()))
        })
        .await?;
        let shown = user.get(&format!("/runners/{}", self.runner.id)).await?;
        ensure!(shown["instances"][0]["operations"] == json!(0), "{shown}");
        ensure!(cluster().await?.kwok().status().is_none(), "kwok is gone");
        Ok(())
    }
}

/// A log's content as the reader must see it, and written as the container runtime does.
fn write_log(file: &Path, lines: usize, name: &str) -> Result<String> {
    let mut written = String::new();
    let mut seen = String::new();
    for n in 0..lines {
        let text = format!("{name} {n} {}", "0123456789abcdef".repeat(4));
        written.push_str(&format!("2026-01-01T00:00:00.000000000Z stdout F {text}\n"));
        seen.push_str(&text);
        seen.push('\n');
    }
    std::fs::write(file, written)?;
    Ok(seen)
}

async fn much_at_once() -> Result<()> {
    let cluster = cluster().await?;
    let set = set().await?;
    let user = set.control_plane.admin();
    let before = set.before().await?;
    let mut expected = Vec::new();
    for n in 0..streams() {
        expected.push(write_log(&cluster.log_file("default", &format!("log-{n}"), "app"), LINES, &format!("log-{n}"))?);
    }
    let pods = cluster.read("/api/v1/namespaces/default/pods?labelSelector=set%3Dload").await?;
    let pods = pods["items"].as_array().map_or(0, Vec::len);
    let start = Instant::now();

    let followed = expected.into_iter().enumerate().map(|(n, text)| {
        let user = user.clone();
        tokio::spawn(async move {
            let mut stream = user.follow("cluster", "default", &format!("log-{n}"), "follow=true").await?;
            let got = stream.at_least(text.len()).await?;
            ensure!(sha256(&got) == sha256(text.as_bytes()), "log-{n}: {} bytes of {}", got.len(), text.len());
            Ok::<_, anyhow::Error>(())
        })
    });
    let terminals = (0..scaled(50)).map(|n| {
        let user = user.clone();
        tokio::spawn(async move {
            terminal(&user, &format!("log-{}", n % scaled(200))).await.with_context(|| format!("terminal {n}"))
        })
    });
    let short = (0..scaled(500)).map(|n| {
        let user = user.clone();
        tokio::spawn(async move {
            let list = user.get("/connections/cluster/k8s/pods?namespace=default&labels=set%3Dload").await?;
            let got = list["items"].as_array().map_or(0, Vec::len);
            ensure!(got == pods, "operation {n}: {got} pods of {pods}");
            Ok(())
        })
    });
    let all: FuturesUnordered<_> = followed.chain(terminals).chain(short).collect();
    let results: Vec<_> = tokio::time::timeout(LONG, all.collect()).await.context("all of it")?;
    let mut failures = Vec::new();
    for result in &results {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(e)) => failures.push(format!("{e:#}")),
            Err(e) => failures.push(e.to_string()),
        }
    }
    ensure!(
        failures.is_empty(),
        "{} of {} failed: {:?}",
        failures.len(),
        results.len(),
        &failures[..failures.len().min(5)]
    );
    let peak = set.runner.resident_peak()?;
    eprintln!("{} operations in {:?}, supervisor's peak {} MiB", results.len(), start.elapsed(), peak / MIB);
    ensure!(peak < RESIDENT_MAX, "the supervisor had {} MiB", peak / MIB);
    set.all_back(&before).await
}

/// A terminal that takes 64 KiB of any bytes and says their digest.
async fn terminal(user: &User, pod: &str) -> Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    getrandom::fill(&mut bytes)?;
    // kwok closes a terminal without its last words: the shell stays until they were read
    let script = format!("stty raw -echo; echo ready; head -c {} | sha256sum; head -c 1 >/dev/null", bytes.len());
    let query = "stdin=true&tty=true&columns=80&rows=24";
    let mut socket = user.exec("cluster", "default", pod, &["sh", "-c", &script], query).await?;
    let mut seen = Vec::new();
    while !seen.windows(5).any(|w| w == b"ready") {
        let (_, bytes) = socket.next().await?.context("the terminal answers")?;
        seen.extend_from_slice(&bytes);
    }
    for piece in bytes.chunks(4096) {
        socket.send(0, piece).await?;
    }
    let digest = sha256(&bytes);
    seen.clear();
    while !String::from_utf8_lossy(&seen).contains(&digest) {
        let (kind, bytes) = socket.next().await?.context("the terminal answers")?;
        ensure!(kind == 1, "{kind} {} after {}", String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&bytes);
    }
    socket.send(0, b"x").await?;
    let ended = Executed::read(&mut socket).await?;
    ensure!(ended.outcome["exit_code"] == json!(0), "{}", ended.outcome);
    Ok(())
}

/// How fast a command's output comes, bytes a second.
async fn speed(user: &User, bytes: u64) -> Result<f64> {
    let count = bytes.to_string();
    let mut socket = user.exec("cluster", "default", "big", &["head", "-c", &count, "/dev/zero"], "").await?;
    let start = Instant::now();
    let mut got = 0;
    while let Some((kind, piece)) = socket.next().await? {
        match kind {
            1 => got += piece.len() as u64,
            3 => break,
            _ => bail!("{}", String::from_utf8_lossy(&piece)),
        }
    }
    ensure!(got == bytes, "{got} of {bytes} bytes");
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

async fn stopped_readers() -> Result<()> {
    let cluster = cluster().await?;
    let set = set().await?;
    let user = set.control_plane.admin();
    let before = set.before().await?;
    let sample = 48 * MIB;
    speed(user, sample / 4).await?;
    let mut alone = [speed(user, sample).await?, speed(user, sample).await?, speed(user, sample).await?];
    alone.sort_by(f64::total_cmp);

    let mut stopped = Vec::new();
    for _ in 0..scaled(100) {
        // nobody ever reads; it would send for ever
        stopped.push(user.exec("cluster", "default", "big", &["cat", "/dev/zero"], "").await?);
    }
    set.runner.operation_workers(stopped.len(), SECONDS).await?;
    // the systems' buffers on the way take gigabytes first; what is to be measured begins when all stand still
    let sources = || -> Result<Vec<u64>> {
        let cats = procfs::descendants(cluster.kwok().pid()).into_iter().filter(|p| p.comm == "cat");
        cats.map(|p| procfs::written(p.pid)).collect()
    };
    let last = std::cell::RefCell::new(Vec::new());
    runner_tests::eventually(Duration::from_secs(120), "the stopped ones to stand still", || async {
        let now = sources()?;
        let still = now.len() == stopped.len() && now == *last.borrow();
        *last.borrow_mut() = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(still.then_some(()))
    })
    .await?;
    let mut beside = [speed(user, sample).await?, speed(user, sample).await?, speed(user, sample).await?];
    beside.sort_by(f64::total_cmp);
    let peak = set.runner.resident_peak()?;
    let at_control_plane = procfs::status_bytes(set.control_plane.process().pid(), "VmHWM")?;
    eprintln!(
        "alone {:.0} MiB/s, beside {} stopped readers {:.0} MiB/s; supervisor {} MiB, control plane {} MiB",
        alone[1] / MIB as f64,
        stopped.len(),
        beside[1] / MIB as f64,
        peak / MIB,
        at_control_plane / MIB
    );
    // short operations go on as well
    let start = Instant::now();
    user.get("/connections/cluster/k8s/namespaces").await?;
    ensure!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    ensure!(beside[1] > alone[1] / 2.0, "{} beside, {} alone", beside[1], alone[1]);
    ensure!(peak < RESIDENT_MAX, "the supervisor had {} MiB", peak / MIB);
    ensure!(at_control_plane < 160 * MIB, "the control plane had {} MiB", at_control_plane / MIB);
    drop(stopped);
    set.all_back(&before).await
}

async fn long_log() -> Result<()> {
    let cluster = cluster().await?;
    let set = set().await?;
    let user = set.control_plane.admin();
    let before = set.before().await?;
    let text = "x".repeat(1000);
    let line = format!("2026-01-01T00:00:00.000000000Z stdout F {text}\n");
    let lines = 2048 * MIB * scale() / 100 / line.len() as u64;
    let file = cluster.log_file("default", "big", "app");
    let mut writer = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&file)?);
    for _ in 0..lines {
        writer.write_all(line.as_bytes())?;
    }
    writer.flush()?;
    drop(writer);

    let mut stream = user.follow("cluster", "default", "big", "").await?;
    let (start, mut got, mut looked) = (Instant::now(), 0u64, 0u64);
    let (mut least, mut most, mut worker_most) = (u64::MAX, 0, 0);
    while let Some(piece) = stream.next().await? {
        got += piece.len() as u64;
        if got - looked > 32 * MIB {
            looked = got;
            let now = set.runner.resident()?;
            (least, most) = (least.min(now), most.max(now));
            for worker in set.runner.processes().operations {
                worker_most = worker_most.max(procfs::status_bytes(worker.pid, "VmRSS").unwrap_or(0));
            }
        }
    }
    ensure!(stream.outcome()?["code"] == "ok", "{}", stream.outcome()?);
    ensure!(got == lines * 1001, "{got} bytes of {}", lines * 1001);
    eprintln!(
        "{} MiB in {:?}; supervisor {} to {} MiB, worker at most {} MiB",
        got / MIB,
        start.elapsed(),
        least / MIB,
        most / MIB,
        worker_most / MIB
    );
    std::fs::write(&file, "")?;
    ensure!(most < RESIDENT_MAX && worker_most < RESIDENT_MAX, "supervisor {most}, worker {worker_most}");
    ensure!(most.saturating_sub(least.min(most)) < 16 * MIB, "the supervisor grew from {least} to {most}");
    set.all_back(&before).await
}

async fn cancelled_follows() -> Result<()> {
    let cluster = cluster().await?;
    let set = set().await?;
    let user = set.control_plane.admin();
    write_log(&cluster.log_file("default", "log-0", "app"), 10, "log-0")?;
    let before = set.before().await?;
    let resident = set.runner.resident()?;
    let all = scaled(10_000);
    let start = Instant::now();
    let one = |n: u64| async move {
        let mut stream = user.follow("cluster", "default", "log-0", "follow=true").await?;
        // some at once, some after a piece
        if n.is_multiple_of(2) {
            stream.next().await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let mut results = futures_util::stream::iter((0..all).map(one)).buffer_unordered(24);
    while let Some(result) = results.next().await {
        result?;
    }
    drop(results);
    set.all_back(&before).await?;
    let now = set.runner.resident()?;
    eprintln!("{all} in {:?}; supervisor {} MiB before, {} after", start.elapsed(), resident / MIB, now / MIB);
    ensure!(now < RESIDENT_MAX, "the supervisor has {} MiB", now / MIB);
    user.get("/connections/cluster/k8s/namespaces").await?;
    Ok(())
}

/// Spins on more processors than there are, writes the same file again and again, and makes processes as long as it can; then it leaves its
/// engine room for a thread, without which that would end.
const GREEDY: &str = r#"for i in 1 2 3 4 5 6; do (while :; do :; done) & done; perl -e 'open F, ">", "$ENV{TMPDIR}/x"; while (1) { seek F, 0, 0; print F "x" x 65536 for 1..1024 }' & echo greedy; exec perl -e 'while (defined(my $p = fork)) { exec "sleep", "4321" unless $p; push @p, $p } kill KILL => splice @p, -20; waitpid -1, 0 for 1..20; sleep 4321'"#;
/// The processes that it may have.
const GREEDY_PROCESSES: usize = 400;

/// What holds without control groups: the supervisor stands before its workers for the processor, and a job's processes have an end.
async fn greedy_job() -> Result<()> {
    let cluster = cluster().await?;
    let control_plane = ControlPlane::start().await?;
    let user = control_plane.admin();
    let runner = Setup::new()?
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .engines(&[&Engine::new(EngineKind::OpenTofu)?])
        .env("RUNNERD_JOBS_PROCESSES", GREEDY_PROCESSES.to_string())
        .start(user, "runner-1")
        .await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    let mut terminal = user.exec("cluster", "default", "log-0", &["cat"], "stdin=true").await?;
    echo(&mut terminal, 0).await?;

    let command = GREEDY.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "$${");
    let module = format!(
        "resource \"terraform_data\" \"a\" {{\n  provisioner \"local-exec\" {{ command = \"{command}\" }}\n}}\n"
    );
    user.stack("greedy", "opentofu", &module).await?;
    let job = user.start_job("greedy", &json!({ "kind": "update", "approve_automatically": true })).await?;
    let sleeping = || procfs::all().into_iter().filter(|p| p.comm == "sleep" && is_greedy(p.pid)).count();
    runner_tests::eventually(SECONDS * 2, "the job to have all the processes that it may have", || async {
        let (before, _) = (sleeping(), tokio::time::sleep(Duration::from_millis(300)).await);
        Ok((before > GREEDY_PROCESSES / 2 && before == sleeping()).then_some(()))
    })
    .await?;
    ensure!(sleeping() < GREEDY_PROCESSES, "it has {} processes", sleeping());

    // as long as several pings take, each of which is told by the runner
    let during = Duration::from_secs(scaled(60).max(12));
    let (start, mut echoes, mut lists, mut round_trips) = (Instant::now(), Vec::new(), Vec::new(), Vec::new());
    while start.elapsed() < during {
        echoes.push(echo(&mut terminal, echoes.len() + 1).await?);
        let asked = Instant::now();
        user.get("/connections/cluster/k8s/namespaces").await?;
        lists.push(asked.elapsed());
        let (_, status) = runner.status().await?;
        let last = status["tunnel"]["round_trip_ms"].as_f64().context("a round trip")?;
        round_trips.push(Duration::from_secs_f64(last / 1000.0));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (name, took) in [("echo of a terminal", &mut echoes), ("list", &mut lists), ("ping", &mut round_trips)] {
        took.sort();
        eprintln!("{name}: {} times, p50 {:?}, most {:?}", took.len(), took[took.len() / 2], took[took.len() - 1]);
    }
    // promised
    ensure!(round_trips.last().is_some_and(|most| *most < Duration::from_secs(1)), "a ping took {round_trips:?}");
    ensure!(lists.last().is_some_and(|most| *most < Duration::from_secs(10)), "an operation took {lists:?}");
    ensure!(runner.resident_peak()? < RESIDENT_MAX, "the supervisor had {} bytes", runner.resident_peak()?);
    let shown = user.job(&job).await?;
    ensure!(shown.phase() == "applying", "{shown:?}");

    user.post(&format!("/jobs/{job}/cancel"), &json!({ "force": true })).await?;
    user.job_in(&job, &["canceled", "failed"], SECONDS * 2).await?;
    runner_tests::eventually(SECONDS, "its processes to be gone", || async { Ok((sleeping() == 0).then_some(())) })
        .await?;
    echo(&mut terminal, usize::MAX).await?;
    Ok(())
}

fn is_greedy(pid: i32) -> bool {
    procfs::command_line(pid).get(1).is_some_and(|a| a == "4321")
}

/// A line there and back.
async fn echo(terminal: &mut Socket, number: usize) -> Result<Duration> {
    let line = format!("line {number}\n");
    let start = Instant::now();
    terminal.send(0, line.as_bytes()).await?;
    let mut seen = Vec::new();
    while seen.len() < line.len() {
        let (kind, bytes) = terminal.next().await?.context("the terminal answers")?;
        ensure!(kind == 1, "{kind} {}", String::from_utf8_lossy(&bytes));
        seen.extend_from_slice(&bytes);
    }
    ensure!(seen == line.as_bytes(), "{}", String::from_utf8_lossy(&seen));
    Ok(start.elapsed())
}
