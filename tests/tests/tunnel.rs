//! The tunnel cut in every way that a network knows: what was in flight ends in time, what is new fails at once, and it works
//! again soon after the way is open; an apply in progress does not notice.

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use nix::sys::signal::Signal;
use runner_tests::cluster::{ADMIN, LogSource, free_port};
use runner_tests::control_plane::{ControlPlane, Job, User, aws_environment};
use runner_tests::ctl::Ctl;
use runner_tests::engine::{EngineKind, slow_module};
use runner_tests::process::{Mark, Process, Program};
use runner_tests::proxy::{HttpProxy, Manner};
use runner_tests::runner::Setup;
use runner_tests::suite::scaled;
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, Cutter, Engine, Runner, Suite, Wire, eventually};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(30);
/// An operation in flight ends within this after a cut.
const LOST: Duration = Duration::from_secs(15);
/// A new operation is refused within this while there is no session.
const AT_ONCE: Duration = Duration::from_secs(1);
/// An operation works again within this of the way being open: nearly always, and always.
const BACK_P95: Duration = Duration::from_secs(6);
const BACK: Duration = Duration::from_secs(12);

static CLUSTER: Shared<Cluster> = Shared::new();

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(600)
        .needs(&[Component::Cluster])
        .test("reset_and_back", || cut_and_back(Wire::Reset))
        .test("silence_and_back", || cut_and_back(Wire::Silence))
        .test("coming_back_is_quick_again_and_again", quick_again)
        .test("control_plane_killed_and_back", control_plane_killed)
        .test("control_plane_asked_to_leave_and_back", control_plane_leaves)
        .test("sigterm_lets_operations_finish", drain)
        .test("a_second_sigterm_ends_at_once", second_sigterm)
        .test("a_followed_log_goes_on_over_cuts_each_line_once", follow_goes_on)
        .test("an_event_stream_of_a_log_goes_on_after_the_last_event", events_go_on)
        .test("several_instances_share_the_work", several_instances)
        .test("a_second_instance_with_the_same_id_gets_nothing", same_id)
        .test("connect_proxy", connect_proxy)
        .needs(&[])
        .test("proxies_that_refuse_or_answer_badly", bad_proxies)
        .needs(&[Component::Cluster, Component::NetworkNamespace])
        .test("address_changed", address_changed)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("an_apply_does_not_notice", apply_does_not_notice)
        .run()
}

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER.get(usual_cluster).await
}

/// A control plane, a wire, and a runner behind it with the entry `cluster`.
struct Line {
    // the runner goes first: it would only complain
    runner: Runner,
    wire: Cutter,
    control_plane: ControlPlane,
}

async fn line_with(more: impl FnOnce(Setup) -> Setup) -> Result<Line> {
    line_to(cluster().await?, more).await
}

async fn line_to(cluster: &Cluster, more: impl FnOnce(Setup) -> Setup) -> Result<Line> {
    let control_plane = ControlPlane::start().await?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let setup = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .tunnel_through(&wire)
        .execution_through(&wire);
    let user = control_plane.admin();
    let runner = more(setup).start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    Ok(Line { runner, wire, control_plane })
}

async fn line() -> Result<Line> {
    line_with(|setup| setup).await
}

const NAMESPACES: &str = "/connections/cluster/k8s/namespaces";

/// Waits until an operation works, and says how long that took.
async fn works_within(user: &User, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    // a little more than the limit, so that the figure is told
    eventually(limit + SECONDS, "an operation to work", || async { user.get(NAMESPACES).await.map(Some) }).await?;
    Ok(start.elapsed())
}

/// New operations fail at once while there is no session.
async fn refused_at_once(user: &User) -> Result<()> {
    let start = Instant::now();
    let (status, code) = user.refused(NAMESPACES).await?;
    ensure!((status, code.as_str()) == (503, "runner_unavailable"), "{status} {code}");
    ensure!(start.elapsed() < AT_ONCE, "refused only after {:?}", start.elapsed());
    Ok(())
}

/// A followed log that has begun, and its operation's id.
async fn following(user: &User) -> Result<(runner_tests::https::Streaming, String)> {
    Cluster::append_log(&cluster().await?.log_file("seen", "web-1", "app"), "a line")?;
    let mut stream = user.follow("cluster", "seen", "web-1", "container=app&follow=true&tail=1").await?;
    let id = stream.headers.get("runner-operation").context("the operation's id")?.to_str()?.to_owned();
    stream.at_least(7).await?;
    Ok((stream, id))
}

async fn cut_and_back(how: Wire) -> Result<()> {
    let line = line().await?;
    let user = line.control_plane.admin();
    let before = line.runner.counts_at_rest(user, NAMESPACES, SECONDS).await?;
    let (mut stream, id) = following(user).await?;
    let slow = tokio::spawn({
        let user = user.clone();
        async move {
            let mut socket = user.exec("cluster", "seen", "web-1", &["sleep", "1000"], "container=app").await?;
            runner_tests::control_plane::Executed::read(&mut socket).await
        }
    });
    line.runner.operation_workers(2, SECONDS).await?;

    let start = Instant::now();
    line.wire.set(how);
    tokio::time::timeout(LOST, stream.rest()).await.context("a follow in flight ends in time")??;
    ensure!(stream.outcome()?["code"] == "connection_lost", "{}", stream.outcome()?);
    let executed = tokio::time::timeout(LOST, slow).await.context("an exec in flight ends in time")???;
    ensure!(executed.outcome["code"] == "connection_lost", "{}", executed.outcome);
    ensure!(start.elapsed() < LOST, "it took {:?}", start.elapsed());
    ensure!(user.get(&format!("/operations/{id}")).await?["code"] == "connection_lost");
    refused_at_once(user).await?;
    let shown = user.get(&format!("/runners/{}", line.runner.id)).await?;
    ensure!(shown["state"] == "lost" && shown["instances"] == json!([]), "{shown}");
    // the runner's end finds out as well, and keeps nothing of them
    line.runner.no_workers(LOST).await?;

    line.wire.set(Wire::Pass);
    let back = works_within(user, BACK).await?;
    ensure!(back < BACK, "it took {back:?}");
    line.runner.back_to(before, SECONDS).await
}

/// Lines that are logged all along, at a thousand a second and with their true times, until it is dropped.
struct Logging {
    over: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
}

impl Logging {
    fn begin(file: PathBuf) -> Self {
        let (over, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, counts) = (over.clone(), written.clone());
        std::thread::spawn(move || {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).expect("the log");
            let start = Instant::now();
            while !ends.load(Ordering::Acquire) {
                let due = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                let mut lines = String::new();
                for n in counts.load(Ordering::Acquire)..due {
                    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                    let second = shared_proto::identity::rfc3339(i64::try_from(nanos.as_secs()).unwrap_or(0));
                    let second = second.trim_end_matches('Z');
                    lines.push_str(&format!("{second}.{:09}Z stdout F line {n}\n", nanos.subsec_nanos()));
                }
                file.write_all(lines.as_bytes()).expect("written");
                counts.fetch_max(due, Ordering::AcqRel);
                // the pace of what is logged
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { over, written }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

async fn follow_goes_on() -> Result<()> {
    const CUTS: u64 = 10;
    let log = LogSource::new("default", "talks", &["c"]);
    let cluster = Cluster::with_logs(&[log]).await?;
    cluster.pod("default", "talks", &["c"], &json!({})).await?;
    let file = cluster.log_file("default", "talks", "c");
    Cluster::append_log_at(&file, 1, "from before")?;
    // each cut is one of its own, and the waits do not grow
    let mut line =
        line_to(&cluster, |setup| setup.table("tunnel", "lasted_ms = 1\nbackoff_early_max_ms = 500")).await?;
    let ctl = Ctl::new(&line.control_plane, line.control_plane.admin())?;
    let logging = Logging::begin(file);
    let follows = ctl.start(&["k8s", "logs", "talks", "-n", "default", "-f", "--tail", "0"])?;
    let gives_up = ctl.start(&["k8s", "logs", "talks", "-n", "default", "-f", "--tail", "0", "--no-resume"])?;
    let shows = |process: &Process, line: u64| {
        let shown = process.stdout().text().contains(&format!("line {line}\n"));
        async move { Ok(shown.then_some(())) }
    };
    for cut in 0..CUTS {
        // one that is logged from now on: it is followed again
        let line_to_come = logging.written.load(Ordering::Acquire) + 300;
        eventually(SECONDS, "a new line", || shows(&follows, line_to_come)).await?;
        let mark = line.runner.mark();
        if cut % 5 == 4 {
            // not the runner's end of it, but ours
            line.control_plane.kill();
            line.control_plane.start_again().await?;
        } else {
            line.wire.set(if cut % 2 == 0 { Wire::Reset } else { Wire::Close });
            line.runner.message(mark, SECONDS, "session ended").await?;
            line.wire.set(Wire::Pass);
        }
        line.runner.session(mark, SECONDS).await?;
    }
    let until = logging.written.load(Ordering::Acquire);
    eventually(SECONDS, "all lines", || shows(&follows, until)).await?;
    drop(logging);
    follows.signal(Signal::SIGINT)?;
    ensure!(follows.ended(SECONDS).await?.code() == Some(130));
    let text = follows.stdout().text();
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| line.strip_prefix("line ").with_context(|| format!("{line:?}"))?.parse().context("a number"))
        .collect::<Result<_>>()?;
    let whole = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
    ensure!(whole.is_none(), "{whole:?}, over {} lines", numbers.len());
    let said = follows.stderr().text();
    ensure!(said.matches("the log goes on after its last line").count() as u64 == CUTS, "{said}");
    eprintln!("{} lines over {CUTS} cuts", numbers.len());

    ensure!(gives_up.ended(SECONDS).await?.code() == Some(69));
    ensure!(gives_up.stderr().text().contains("connection_lost"), "{}", gives_up.stderr().text());
    Ok(())
}

async fn quick_again() -> Result<()> {
    // each cut is one of its own: sessions that do not last make one long cut of them all, and the waits grow as in one
    let line = line_with(|setup| setup.table("tunnel", "lasted_ms = 1")).await?;
    let user = line.control_plane.admin();
    let mut took = Vec::new();
    for round in 0..scaled(20) {
        // cuts of different lengths, one a little longer, so that the backoff has grown
        let cut = Duration::from_millis(match round {
            3 => 20_000,
            7 => 60_000,
            11 => 110_000,
            _ => 200 + 400 * (round % 5),
        });
        line.wire.set(if round % 4 == 1 { Wire::Close } else { Wire::Reset });
        // the length of the cut is what is tested
        tokio::time::sleep(cut).await;
        refused_at_once(user).await?;
        line.wire.set(Wire::Pass);
        took.push(works_within(user, BACK).await?);
    }
    took.sort();
    let p95 = took[(took.len() * 95).div_ceil(100) - 1];
    eprintln!(
        "{} cuts; works again after {:?} (p50), {p95:?} (p95), {:?} (most)",
        took.len(),
        took[took.len() / 2],
        took.last()
    );
    ensure!(took.iter().all(|t| *t < BACK) && p95 < BACK_P95, "{took:?}");
    Ok(())
}

async fn control_plane_killed() -> Result<()> {
    let mut line = line().await?;
    let (_stream, id) = following(line.control_plane.admin()).await?;
    line.runner.operation_workers(1, SECONDS).await?;
    let mark = line.runner.mark();
    line.control_plane.kill();
    line.runner.message(mark, LOST, "session ended").await?;
    line.runner.no_workers(LOST).await?;
    line.control_plane.start_again().await?;
    let user = line.control_plane.admin();
    let back = works_within(user, BACK).await?;
    ensure!(back < BACK, "it took {back:?}");
    // what was in flight has its end in the list
    eventually(SECONDS, "the operation's end", || async {
        Ok((user.get(&format!("/operations/{id}")).await?["code"] == "connection_lost").then_some(()))
    })
    .await
}

async fn control_plane_leaves() -> Result<()> {
    let mut line = line().await?;
    let mark = line.runner.mark();
    line.control_plane.stop().await?;
    line.runner.message(mark, LOST, "session ended").await?;
    line.control_plane.start_again().await?;
    let back = works_within(line.control_plane.admin(), BACK).await?;
    ensure!(back < BACK, "it took {back:?}");
    Ok(())
}

async fn drain() -> Result<()> {
    let line = line().await?;
    let user = line.control_plane.admin();
    let mut socket = user.exec("cluster", "seen", "web-1", &["sh"], "container=app&stdin=true").await?;
    socket.send(0, b"echo begun\n").await?;
    let (_, begun) = socket.next().await?.context("the shell answers")?;
    ensure!(&begun[..] == b"begun\n");

    let mark = line.runner.mark();
    line.runner.process().signal(Signal::SIGTERM)?;
    line.runner.message(mark, SECONDS, "leaving").await?;
    // routed nowhere any more, and what runs goes on
    eventually(SECONDS, "new operations to be refused", || async {
        let (_, code) = user.refused(NAMESPACES).await?;
        Ok(["runner_unavailable", "runner_leaving"].contains(&code.as_str()).then_some(()))
    })
    .await?;
    // both ends say so
    let shown = user.get(&format!("/runners/{}", line.runner.id)).await?;
    ensure!(shown["state"] == "leaving", "{shown}");
    let (code, status) = line.runner.status().await?;
    ensure!(code == 75 && status["tunnel"]["state"] == "leaving", "{code} {status}");
    socket.send(0, b"echo still here; exit 5\n").await?;
    let ended = tokio::time::timeout(SECONDS, runner_tests::control_plane::Executed::read(&mut socket)).await??;
    ensure!(ended.text() == "still here\n" && ended.outcome["exit_code"] == json!(5), "{ended:?}");
    let status = line.runner.process().ended(SECONDS).await?;
    ensure!(status.code() == Some(0), "{status}");
    // it is written down after the session has gone
    eventually(SECONDS, "the runner to be shown as gone cleanly", || async {
        let shown = user.get(&format!("/runners/{}", line.runner.id)).await?;
        ensure!(shown["state"] == "left", "{shown}");
        Ok(Some(()))
    })
    .await
}

async fn second_sigterm() -> Result<()> {
    let line = line().await?;
    let user = line.control_plane.admin();
    let (mut stream, _) = following(user).await?;
    let mark = line.runner.mark();
    line.runner.process().signal(Signal::SIGTERM)?;
    line.runner.message(mark, SECONDS, "leaving").await?;
    let start = Instant::now();
    line.runner.process().signal(Signal::SIGTERM)?;
    line.runner.process().ended(Duration::from_secs(3)).await?;
    tokio::time::timeout(LOST, stream.rest()).await??;
    let code = stream.outcome()?["code"].clone();
    ensure!(code == "connection_lost" || code == "runner_leaving", "{code}");
    ensure!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    Ok(())
}

async fn several_instances() -> Result<()> {
    let line = line().await?;
    let cluster = cluster().await?;
    let user = line.control_plane.admin();
    let second = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .start_as(user, &line.runner.id)
        .await?;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(following(user).await?);
    }
    // the fewest operations first: half and half
    line.runner.operation_workers(5, SECONDS).await?;
    second.operation_workers(5, SECONDS).await?;
    let shown = user.get(&format!("/runners/{}", second.id)).await?;
    ensure!(shown["instances"].as_array().is_some_and(|i| i.len() == 2), "{shown}");

    // one goes: its five end, the others go on, and new ones find the other
    drop(second);
    let mut lost = 0;
    for (stream, _) in &mut streams {
        if tokio::time::timeout(Duration::from_millis(500), stream.rest()).await.is_ok() {
            ensure!(stream.outcome()?["code"] == "connection_lost", "{}", stream.outcome()?);
            lost += 1;
        }
    }
    ensure!(lost == 5, "{lost} were lost");
    user.get(NAMESPACES).await?;
    line.runner.operation_workers(5, SECONDS).await?;
    Ok(())
}

/// A copy of a state directory: neither its session nor its work are taken from the one that has them.
async fn same_id() -> Result<()> {
    let line = line().await?;
    let user = line.control_plane.admin();
    let setup = Setup::new()?;
    setup.folder().write("state/instance", std::fs::read(line.runner.state().join("instance"))?)?;
    let mark = line.runner.mark();
    let copy = setup.launch(user, &line.runner.id).await?;
    let mut refused = Mark::default();
    for _ in 0..3 {
        copy.failed_with(refused, SECONDS, "instance_conflict").await?;
        let conflict = |v: &Value| v["code"] == "instance_conflict";
        copy.process().stderr().message(refused, SECONDS, "execution service not reached", conflict).await?;
        refused = copy.mark();
    }
    let said = line.runner.process().stderr().since(mark);
    let disturbed = |line: &String| line.contains("session ended") || line.contains("execution service not reached");
    ensure!(!said.iter().any(disturbed), "{said:?}");
    user.get(NAMESPACES).await?;
    // once the first is gone it is a successor like any other
    line.runner.process().signal(Signal::SIGTERM)?;
    line.runner.process().ended(SECONDS).await?;
    copy.session(Mark::default(), SECONDS).await?;
    copy.message(Mark::default(), SECONDS, "execution service reached").await?;
    Ok(())
}

async fn connect_proxy() -> Result<()> {
    let cluster = cluster().await?;
    let control_plane = ControlPlane::start().await?;
    let user = control_plane.admin();
    let target = control_plane.runner_address().to_string();
    let open = HttpProxy::new(Manner::Open).await?;
    let pieces = HttpProxy::new(Manner::InPieces).await?;
    let password = HttpProxy::new(Manner::Password { user: "u".into(), password: "p@ss: word".into() }).await?;
    let kubeconfig = cluster.kubeconfig(cluster.address(), ADMIN);

    // by configuration
    for (name, proxy) in [("plain", &open), ("pieces", &pieces)] {
        let setup = Setup::new()?.table("proxy", &format!("url = {:?}\nno_proxy = \"\"", proxy.url()));
        let runner = setup.start(user, name).await?;
        ensure!(proxy.asked().contains(&target), "{name}: {:?}", proxy.asked());
        drop(runner);
    }
    // by the environment, and around it by NO_PROXY
    let runner = Setup::new()?.env("HTTPS_PROXY", open.url()).start(user, "environment").await?;
    ensure!(open.asked().iter().filter(|t| **t == target).count() >= 2, "{:?}", open.asked());
    drop(runner);
    let before = open.asked().len();
    let setup = Setup::new()?.env("HTTPS_PROXY", open.url()).env("NO_PROXY", "example.org,127.0.0.0/8");
    drop(setup.start(user, "around").await?);
    ensure!(open.asked().len() == before, "{:?}", open.asked());

    // with a password, and operations pass; the cluster is reached directly
    let setup = Setup::new()?.kubernetes("cluster", &kubeconfig)?;
    let file = setup.folder().write("proxy-password", "p@ss: word\n")?;
    let lines = format!("url = {:?}\nuser = \"u\"\npassword_file = {:?}", password.url(), file.display().to_string());
    let runner =
        setup.table("proxy", &lines).env("NO_PROXY", cluster.address().to_string()).start(user, "password").await?;
    user.connection("cluster", "kubernetes", Some(&runner.id)).await?;
    user.get(NAMESPACES).await?;
    ensure!(password.asked().contains(&target));
    ensure!(!runner.process().stderr().text().contains("p@ss"), "the proxy's password in the log");
    Ok(())
}

async fn bad_proxies() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let user = control_plane.admin();
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let mut closed = String::new();
    for (name, manner, code) in [
        ("password", Manner::Password { user: "u".into(), password: "other".into() }, "proxy_refused"),
        ("forbidden", Manner::Says(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_vec()), "proxy_refused"),
        ("unavailable", Manner::Says(b"HTTP/1.1 503 No\r\n\r\n".to_vec()), "proxy_refused"),
        ("garbage", Manner::Says(b"\x16\x03\x01 this is no answer\r\n\r\n".to_vec()), "proxy_failed"),
        ("closes", Manner::Says(Vec::new()), "proxy_failed"),
        ("half", Manner::Says(b"HTTP/1.1 200 OK\r\nvia".to_vec()), "proxy_failed"),
        ("long", Manner::Says(long.into_bytes()), "proxy_failed"),
        ("silent", Manner::SaysAndStays(Vec::new()), "proxy_failed"),
        ("half-and-silent", Manner::SaysAndStays(b"HTTP/1.1 200 OK\r\n".to_vec()), "proxy_failed"),
    ] {
        let proxy = HttpProxy::new(manner).await?;
        let id = user.register(name).await?;
        let setup = Setup::new()?;
        let file = setup.folder().write("proxy-password", "wrong-password")?;
        let lines = format!("url = {:?}\nuser = \"u\"\npassword_file = {:?}", proxy.url(), file.display().to_string());
        let runner = setup.table("proxy", &lines).launch(user, &id).await?;
        let failed = runner.failed_with(Mark::default(), SECONDS, code).await.with_context(|| name.to_owned())?;
        ensure!(failed["next_step"].as_str().is_some_and(|s| !s.is_empty()), "{name}: {failed}");
        ensure!(!failed.to_string().contains("wrong-password"), "{name}: {failed}");
        closed = proxy.url();
    }
    // nobody listens
    let id = user.register("nobody").await?;
    let runner = Setup::new()?.table("proxy", &format!("url = {closed:?}")).launch(user, &id).await?;
    let log = runner.process().stderr();
    log.message(Mark::default(), SECONDS, "attempt failed", |v| {
        v["code"] == "dial_failed" || v["code"] == "proxy_failed"
    })
    .await?;
    Ok(())
}

/// Runs `ip` and expects it to work.
async fn ip(arguments: &str) -> Result<()> {
    Program::component("ip")?.args(arguments.split(' ')).run(SECONDS).await?.success().map(|_| ())
}

/// A network namespace with one wire to this machine; it goes when this is dropped.
struct Namespace {
    name: String,
    outside: String,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for arguments in [["link", "del", &self.outside], ["netns", "del", &self.name]] {
            let _ = std::process::Command::new("ip").args(arguments).output();
        }
    }
}

async fn address_changed() -> Result<()> {
    let number = std::process::id() % 250;
    let namespace = Namespace { name: format!("rt{number}"), outside: format!("rt{number}o") };
    let (name, outside, inside) = (&namespace.name, &namespace.outside, format!("rt{number}i"));
    let net = format!("10.213.{number}");
    ip(&format!("netns add {name}")).await?;
    ip(&format!("link add {outside} type veth peer name {inside} netns {name}")).await?;
    ip(&format!("addr add {net}.1/24 dev {outside}")).await?;
    ip(&format!("link set {outside} up")).await?;
    let within = |arguments: &str| ip_within(name.clone(), arguments.to_owned());
    within("link set lo up").await?;
    within(&format!("addr add {net}.2/24 dev {inside}")).await?;
    within(&format!("link set {inside} up")).await?;

    let host: SocketAddr = format!("{net}.1:{}", free_port()?).parse()?;
    let endpoint = format!("https://{host}");
    let arguments = ["--name", &host.ip().to_string(), "--tunnel-endpoint", &endpoint];
    let control_plane = ControlPlane::listening(host, &arguments).await?;
    let user = control_plane.admin();
    // the API server is on this machine's loopback: in the namespace the wire to it is a proxy's listener on the veth
    let cluster = cluster().await?;
    let forward = forward(format!("{net}.1:0").parse()?, cluster.address()).await?;
    let kubeconfig =
        cluster.kubeconfig(forward.0, ADMIN).replace("    server:", "    tls-server-name: 127.0.0.1\n    server:");
    let mut setup =
        Setup::new()?.kubernetes("cluster", &kubeconfig)?.under(["nsenter", &format!("--net=/run/netns/{name}")]);
    for (name, value) in aws_environment() {
        setup = setup.env(name, value);
    }
    let runner = setup.start(user, "moves").await?;
    user.connection("cluster", "kubernetes", Some(&runner.id)).await?;
    user.get(NAMESPACES).await?;
    let (mut stream, _) = following(user).await?;

    // the address goes, and nothing tells the other end; a new one comes after a while
    within(&format!("addr del {net}.2/24 dev {inside}")).await?;
    tokio::time::timeout(LOST, stream.rest()).await.context("what was in flight ends in time")??;
    ensure!(stream.outcome()?["code"] == "connection_lost", "{}", stream.outcome()?);
    within(&format!("addr add {net}.3/24 dev {inside}")).await?;
    let first = works_within(user, BACK).await?;
    // and in one go: moved at once, with the old path dead
    within(&format!("addr del {net}.3/24 dev {inside}")).await?;
    within(&format!("addr add {net}.4/24 dev {inside}")).await?;
    let second = works_within(user, BACK).await?;
    eprintln!("after an address came: {first:?}; after it changed in one go: {second:?}");
    ensure!(first < BACK && second < BACK, "{first:?} {second:?}");
    forward.1.abort();
    drop(runner);
    Ok(())
}

async fn ip_within(name: String, arguments: String) -> Result<()> {
    ip(&format!("-n {name} {arguments}")).await
}

/// Passes connections on from an address to another.
async fn forward(from: SocketAddr, to: SocketAddr) -> Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind(from).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut there) = tokio::net::TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                }
            });
        }
    });
    Ok((address, task))
}

async fn apply_does_not_notice() -> Result<()> {
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let mut line = line_with(|setup| setup.engines(&[&engine])).await?;
    let user = line.control_plane.admin().clone();
    user.stack("slow", "opentofu", &slow_module(40)).await?;
    let body = json!({ "kind": "update", "approve_automatically": true });
    let id = user.start_job("slow", &body).await?;
    user.job_in(&id, &["applying"], Duration::from_secs(120)).await?;
    let worker = line.runner.job_worker(SECONDS).await?;

    line.wire.set(Wire::Reset);
    refused_soon(&user).await?;
    line.wire.set(Wire::Pass);
    works_within(&user, BACK).await?;
    line.wire.set(Wire::Silence);
    refused_soon(&user).await?;
    line.control_plane.kill();
    line.wire.set(Wire::Pass);
    line.control_plane.start_again().await?;
    works_within(&user, BACK).await?;
    // cut once more, and open only when the engine has done its work
    line.wire.set(Wire::Close);
    eventually(Duration::from_secs(120), "the engine to be done", || async {
        Ok(runner_tests::procfs::gone(&worker).then_some(()))
    })
    .await?;
    line.wire.set(Wire::Pass);
    let job: Job = user.job_in(&id, &["applied"], Duration::from_secs(60)).await?;
    ensure!(job.code() == "ok" && job.0["outputs"]["greeting"]["value"] == "hello", "{}", job.0);
    let events = user.events(&id).await?;
    ensure!(job.0["last_sequence"] == json!(events.len()), "{} of {}", events.len(), job.0["last_sequence"]);
    // and as server-sent events the same, with a resumption in the middle
    let middle = events.len() / 2;
    let path = format!("/api/v1/jobs/{id}/events");
    let last = middle.to_string();
    let headers = [("accept", "text/event-stream"), ("last-event-id", last.as_str())];
    let mut stream = user.client().stream(&path, &headers).await?;
    let text = String::from_utf8(tokio::time::timeout(SECONDS, stream.rest()).await??)?;
    let ids: Vec<usize> = text.lines().filter_map(|l| l.strip_prefix("id:")?.trim().parse().ok()).collect();
    ensure!(ids == (middle + 1..=events.len()).collect::<Vec<_>>(), "{ids:?}");
    ensure!(text.contains("event: end"), "{text}");
    line.runner.no_workers(SECONDS).await
}

/// Waits until the control plane has noticed that the session is gone.
async fn refused_soon(user: &User) -> Result<()> {
    eventually(LOST, "the cut to be noticed", || async {
        let answer = user.ask(Method::GET, NAMESPACES, &Value::Null).await?;
        Ok((answer.code() == "runner_unavailable").then_some(()))
    })
    .await
}

/// The lines of a followed log as events, gone on with after each cut by the last event's id.
async fn events_go_on() -> Result<()> {
    const LINES: usize = 4000;
    let mut line = line().await?;
    let user = line.control_plane.admin().clone();
    let file = cluster().await?.log_file("seen", "web-1", "app");
    let from = std::fs::read_to_string(&file)?.lines().count();
    let writing = tokio::spawn(async move {
        for n in 0..LINES {
            Cluster::append_log(&file, &format!("event {n}"))?;
            if n % 10 == 9 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        anyhow::Ok(())
    });
    let path = "/api/v1/connections/cluster/k8s/namespaces/seen/pods/web-1/logs?container=app&follow=true";
    let (mut id, mut seen, mut cuts) = (None::<String>, Vec::new(), 0);
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while seen.len() < from + LINES {
        ensure!(std::time::Instant::now() < deadline, "{} of {} lines", seen.len(), from + LINES);
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(id.as_deref().map(|id| ("last-event-id", id)));
        let Ok(mut stream) = user.client().stream(path, &headers).await else { continue };
        if !stream.status.is_success() {
            // not back yet
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let (mut text, begun) = (String::new(), seen.len());
        while let Ok(Ok(Some(piece))) = tokio::time::timeout(Duration::from_secs(20), stream.next()).await {
            text.push_str(std::str::from_utf8(&piece)?);
            while let Some((event, rest)) = text.split_once("\n\n").map(|(e, r)| (e.to_owned(), r.to_owned())) {
                text = rest;
                if event.contains("event: outcome") {
                    continue;
                }
                for field in event.lines() {
                    match field.split_once(": ") {
                        Some(("id", value)) => id = Some(value.to_owned()),
                        Some(("data", value)) if !value.is_empty() => seen.push(value.to_owned()),
                        _ => {}
                    }
                }
            }
            if seen.len() >= begun + LINES / 6 && cuts < 5 {
                cuts += 1;
                line.wire.set(Wire::Reset);
                line.wire.set(Wire::Pass);
            }
            if seen.len() >= from + LINES {
                break;
            }
        }
    }
    writing.await??;
    let events: Vec<_> = seen.iter().filter(|l| l.starts_with("event ")).cloned().collect();
    let expected: Vec<_> = (0..LINES).map(|n| format!("event {n}")).collect();
    ensure!(events == expected, "{} lines, {} expected; {cuts} cuts", events.len(), expected.len());
    eprintln!("{LINES} lines over {cuts} cuts");
    let refused = user.client().stream(path, &[("accept", "text/event-stream"), ("last-event-id", "x")]).await?;
    ensure!(refused.status == 400, "{}", refused.status);
    line.runner.no_workers(SECONDS).await?;
    line.control_plane.kill();
    Ok(())
}
