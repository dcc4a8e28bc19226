//! The real binary, with a small worker in the place of `runner-worker-ops` and a small control plane in this process.

mod control_plane;
#[allow(dead_code)] // what it does is done by the example of its name
mod worker;

use control_plane::{ControlPlane, Session};
use shared_proto::flow::WINDOW_MAX;
use shared_proto::v1::{self, operation_input, operation_output, operation_request::What};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Nothing here takes that long on any machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Runner {
    process: Child,
    folder: tempfile::TempDir,
}

impl Runner {
    fn start(control_plane: &ControlPlane, more: &str) -> Self {
        Self::start_with(control_plane, more, Stdio::inherit())
    }
    fn start_with(control_plane: &ControlPlane, more: &str, log: Stdio) -> Self {
        Self::start_warm(control_plane, more, log, 0)
    }
    fn start_warm(control_plane: &ControlPlane, more: &str, log: Stdio, warm: u32) -> Self {
        Self::start_of(control_plane, more, log, warm, &worker::program())
    }
    fn start_of(control_plane: &ControlPlane, more: &str, log: Stdio, warm: u32, worker: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        control_plane.credentials().write(&folder.path().join("credentials.json")).expect("writes");
        let p = folder.path().display();
        let text = format!(
            "credentials = \"{p}/credentials.json\"\nstate_dir = \"{p}/state\"\nlog_format = \"json\"\n{more}\n\
             [workers]\nops = {worker:?}\niac = \"/bin/false\"\nwarm = {warm}\n\
             [connections.k]\nprovider = \"kubernetes\"\nin_cluster = true\n\
             [connections.a]\nprovider = \"aws\"\nsource = \"environment\"\n"
        );
        std::fs::write(folder.path().join("runner.toml"), text).expect("writes");
        let process = runner(folder.path(), &["run"]).stderr(log).spawn().expect("starts");
        Self { process, folder }
    }
    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.process.id() as i32), signal).expect("lives");
    }
    /// The launcher's child that plays this role.
    fn role(&self, role: &str) -> i32 {
        self.find(role).expect("runs")
    }
    /// The same, while it may be about to end or to start.
    fn find(&self, role: &str) -> Option<i32> {
        children(self.process.id() as i32).into_iter().find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|c| c.split(|b| *b == 0).nth(1) == Some(role.as_bytes()))
        })
    }
    fn status(&self) -> (i32, serde_json::Value) {
        let output = runner(self.folder.path(), &["status", "-o", "json"]).output().expect("runs");
        (output.status.code().expect("exits"), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
    async fn exit(mut self) -> (Option<i32>, Option<i32>) {
        let status = tokio::task::spawn_blocking(move || self.process.wait().expect("ends")).await.expect("joins");
        (status.code(), status.signal())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn runner(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
    command.args(arguments).arg("--config").arg(folder.join("runner.toml")).env_clear().env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|c| c.parse().ok()).collect()
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

fn exec(pod: &str) -> v1::OperationRequest {
    v1::OperationRequest {
        operation_id: format!("op-{pod}"),
        organization_id: "acme".into(),
        connection: "k".into(),
        output_credit: WINDOW_MAX,
        what: Some(What::K8sExec(v1::K8sExec { pod: pod.into(), stdin: true, ..Default::default() })),
        ..Default::default()
    }
}

fn unary(connection: &str, what: What) -> v1::OperationRequest {
    v1::OperationRequest { connection: connection.into(), what: Some(what), ..exec("x") }
}

fn describe(pod: &str) -> What {
    What::K8sDescribePod(v1::K8sDescribePod { namespace: String::new(), pod: pod.into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life() {
    let control_plane = ControlPlane::start().await;
    let runner = Runner::start(&control_plane, "");
    let early = control_plane.connection().await;
    // nothing before welcome
    let (outcome, _) = early.run(exec("echo")).await;
    assert_eq!(outcome.code, "conflict", "{}", outcome.message);
    let mut session = early.open().await;
    assert_eq!(session.hello.organization_id, "acme");
    assert_eq!(session.hello.connections.len(), 2);
    until("ready", || runner.status().0 == 0).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", runner.role("supervisor"))).expect("reads");
    let files = limits.lines().find(|l| l.starts_with("Max open files")).expect("a limit");
    let files: Vec<_> = files["Max open files".len()..].split_whitespace().take(2).collect();
    assert_eq!(files[0], files[1], "as many descriptors as the system allows");
    let (_, status) = runner.status();
    assert_eq!(status["isolation"]["level"], session.hello.isolation_level);
    assert!(!session.hello.isolation_missing.is_empty(), "nothing is perfect yet");
    assert_eq!(status["tunnel"]["session"], "s1");
    assert!(!status.to_string().contains(session.hello.api_key.as_str()));

    good_operations(&session).await;
    bad_operations(&session).await;
    killed_with_all_it_started(&session, &runner).await;

    let small = [runner.process.id() as i32, runner.role("spawner")].map(pss);
    eprintln!(
        "launcher and spawner: {small:?} KiB PSS; supervisor: {} KiB RSS",
        field(runner.role("supervisor"), "status", "VmRSS:")
    );

    // SIGTERM: says goodbye, finishes what is in flight, takes nothing new
    let mut slow = session.begin(exec("echo")).await;
    slow.first().await;
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    session.deregistered().await;
    slow.send(operation_input::Kind::StdinClosed(v1::StdinClosed {})).await;
    assert_eq!(slow.end().await.0.exit_code, 7);
    drop(session);
    let mut runner = runner;
    until("it has left", || runner.process.try_wait().expect("asked").is_some()).await;
    assert!(!runner.folder.path().join("state/admin.sock").exists(), "nobody answers there any more");
    assert_eq!(runner.exit().await, (Some(0), None));
}

async fn good_operations(session: &Session) {
    // 3 MiB in and out, each byte in its place
    let mut echo = session.begin(exec("echo")).await;
    let sent: Vec<u8> = (0..3_u32 << 18).flat_map(|n| n.to_le_bytes()).collect();
    let (outcome, back) = echo.through(&sent).await;
    assert_eq!((outcome.code.as_str(), outcome.exit_code), ("ok", 7), "{}", outcome.message);
    assert!(back == sent, "{} bytes came back", back.len());
    // a flood, whole
    let (outcome, data) = session.run(unary("k", describe("flood"))).await;
    assert_eq!((outcome.code.as_str(), data.len()), ("ok", worker::FLOOD));
    // many at once
    let many = (0..64).map(|_| async { session.run(unary("k", describe("hello"))).await });
    for (outcome, data) in futures_util::future::join_all(many).await {
        assert_eq!((outcome.code.as_str(), &data[..]), ("ok", &b"hello"[..]), "{}", outcome.message);
    }
}

async fn bad_operations(session: &Session) {
    let mut cases = vec![
        ("unknown_connection", unary("nope", describe("hello")), ""),
        ("wrong_provider", unary("a", describe("hello")), ""),
        ("wrong_provider", unary("k", What::AwsRequest(Default::default())), ""),
        (
            "wrong_provider",
            v1::OperationRequest { provider: "aws".into(), ..unary("k", describe("hello")) },
            "control plane",
        ),
        ("organization_mismatch", v1::OperationRequest { organization_id: "other".into(), ..exec("echo") }, ""),
        ("invalid_argument", v1::OperationRequest { what: None, ..exec("echo") }, ""),
        ("too_large", v1::OperationRequest { operation_id: "x".repeat(300_000), ..exec("echo") }, ""),
        ("deadline_exceeded", v1::OperationRequest { deadline_ms: 300, ..unary("k", describe("hang")) }, ""),
        // by which one abort() ends depends on what it may signal: not even itself
        ("worker_crashed", exec("abort"), "SIG"),
        ("worker_crashed", exec("exit"), "code 3"),
        ("worker_crashed", exec("garbage"), ""),
    ];
    for (code, request, said) in cases.drain(..) {
        let name = format!("{:?}", request.what);
        let (outcome, _) = session.run(request).await;
        assert_eq!(outcome.code, code, "{name}: {}", outcome.message);
        assert!(outcome.message.contains(said) && !outcome.next_step.is_empty(), "{name}: {outcome:?}");
    }
    // more than was granted, a second request, a terminal without rows
    for (code, kind) in [
        ("flow_violation", operation_input::Kind::Stdin(vec![0; 60_000].into())),
        ("invalid_argument", operation_input::Kind::Request(exec("echo"))),
        ("invalid_argument", operation_input::Kind::Resize(v1::TerminalSize { columns: 80, rows: 0 })),
    ] {
        let mut operation = session.begin(exec("hang")).await;
        operation.first().await;
        for _ in 0..64 {
            operation.send(kind.clone()).await;
        }
        assert_eq!(operation.end().await.0.code, code);
    }
    // and the next one works
    assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");
}

/// A proxy that says yes once, and stands for what is behind it: its port, and what it was asked.
async fn proxy() -> (u16, tokio::task::JoinHandle<String>) {
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = proxy.local_addr().expect("an address").port();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = proxy.accept().await.expect("accepts");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("reads"));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbehind the proxy").await.expect("writes");
        String::from_utf8(head).expect("text")
    });
    (port, asked)
}

/// A worker is connected to its connection's target, by whatever way leads there, and to nothing else; the operation ends as it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_connected_to_its_target_alone() {
    let control_plane = ControlPlane::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"the target").await.expect("writes");
        }
    });
    let (proxy_port, passed) = proxy().await;
    let connections: String = [format!("port-{port}"), format!("proxy-{proxy_port}"), "metadata-1".to_owned()]
        .iter()
        .map(|name| format!("[connections.{name}]\nprovider = \"kubernetes\"\nin_cluster = true\n"))
        .collect();
    let mut runner = Runner::start_with(&control_plane, &connections, Stdio::piped());
    let log = runner.process.stderr.take().expect("piped");
    let log = std::thread::spawn(move || std::io::read_to_string(log).expect("reads"));
    let session = control_plane.connection().await.open().await;
    let run = async |connection: &str, pod: &str| {
        let (outcome, data) = session.run(unary(connection, describe(pod))).await;
        assert_eq!(outcome.code, "ok", "{pod}: {}", outcome.message);
        String::from_utf8(data).expect("text")
    };
    let target = format!("port-{port}");
    assert_eq!(run(&target, "dial").await, "the target");
    assert_eq!(run(&format!("proxy-{proxy_port}"), "dial").await, "behind the proxy");
    let asked = passed.await.expect("ends");
    assert!(asked.starts_with("CONNECT target.example:6443 ") && asked.contains("Basic dTpzM2NyM3Q="), "{asked}");

    let others = run(&target, "dial-others").await;
    assert_eq!(others.matches("PolicyDenied").count(), 4, "{others}");
    let forbidden = run("metadata-1", "dial").await;
    assert!(forbidden.contains("PolicyDenied") && forbidden.contains("link-local"), "{forbidden}");
    let many = run(&target, "dial-many").await;
    assert_eq!(many.matches("PolicyDenied").count(), 256, "{many}");
    assert!(many.contains("TooLarge") && many.ends_with("ended\n"), "{many}");
    assert_eq!(run(&target, "dial-rubbish").await, "endedended");
    // and the next one works
    assert_eq!(run(&target, "dial").await, "the target");

    runner.signal(nix::sys::signal::Signal::SIGTERM);
    runner.exit().await;
    let log = log.join().expect("reads");
    let warned = |words: &str| log.lines().filter(|l| l.contains("WARN") && l.contains(words)).count();
    assert_eq!(warned("not its connection's target"), 4 + 256, "{log}");
    assert_eq!((warned("link-local"), warned("too many connections"), warned("as no worker does")), (1, 1, 1), "{log}");
    assert!(!log.contains("s3cr3t"), "{log}");
}

/// What a resolver asks of others than its own machine goes through the runner's proxy, and never to a metadata service on somebody's word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_is_connected_through_the_runners_proxy() {
    let control_plane = ControlPlane::start().await;
    let (port, passed) = proxy().await;
    let entry = |host: &str| format!("[connections.\"asks-{host}\"]\nprovider = \"kubernetes\"\nin_cluster = true\n");
    let (public, metadata) = ("sts.example", "169.254.169.254");
    let configuration = format!(
        "[proxy]\nurl = \"http://127.0.0.1:{port}\"\nno_proxy = \"localhost,127.0.0.1\"\n{}{}",
        entry(public),
        entry(metadata)
    );
    let _runner = Runner::start_with(&control_plane, &configuration, Stdio::null());
    let session = control_plane.connection().await.open().await;
    let said = async |host: &str| {
        let (outcome, _) = session.run(unary(&format!("asks-{host}"), describe("hello"))).await;
        assert_eq!(outcome.code, "credentials_unavailable");
        outcome.message
    };
    let answer = said(public).await;
    assert!(answer.ends_with("behind the proxy"), "{answer}");
    let asked = passed.await.expect("ends");
    assert!(asked.starts_with("CONNECT sts.example:443 "), "{asked}");
    let answer = said(metadata).await;
    assert!(answer.contains("PolicyDenied") && answer.contains("link-local"), "{answer}");
}

async fn killed_with_all_it_started(session: &Session, runner: &Runner) {
    let spawner = runner.role("spawner");
    until("no worker is left", || children(spawner).is_empty()).await;
    let mut operation = session.begin(exec("family")).await;
    let operation_output::Kind::Data(said) = operation.next().await else { panic!("no word") };
    let workers = children(spawner);
    assert_eq!((&said[..], workers.len()), (&b"alone"[..], 1));
    // a reset
    drop(operation);
    until("it is gone", || !Path::new(&format!("/proc/{}", workers[0])).exists()).await;
    until("no worker is left", || children(spawner).is_empty()).await;
    until("none is counted", || runner.status().1["operations"]["running"] == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spawner_and_supervisor_are_started_again() {
    let control_plane = ControlPlane::start().await;
    let runner = Runner::start(&control_plane, "[tunnel]\nbackoff_first_ms = 50");
    let session = control_plane.connection().await.open().await;
    let mut operation = session.begin(exec("hang")).await;
    operation.first().await;
    let spawner = runner.role("spawner");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(spawner), nix::sys::signal::Signal::SIGKILL).expect("lives");
    // its workers die with it, and that operation says so; the tunnel stays
    assert_eq!(operation.end().await.0.code, "worker_crashed");
    until("another spawner", || runner.find("spawner").is_some_and(|new| new != spawner)).await;
    let mut worked = false;
    for _ in 0..100 {
        worked = session.run(unary("k", describe("hello"))).await.0.code == "ok";
        if worked {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(worked);

    let mut operation = session.begin(exec("family")).await;
    operation.next().await;
    let worker = children(runner.role("spawner")).first().copied().expect("a worker");
    let supervisor = runner.role("supervisor");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL).expect("lives");
    until("the worker is gone", || !Path::new(&format!("/proc/{worker}")).exists()).await;
    let session = control_plane.connection().await.open().await;
    assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");

    // the first SIGTERM waits for what is in flight, the second does not
    let mut slow = session.begin(exec("hang")).await;
    slow.first().await;
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    until("draining", || runner.status().1["tunnel"]["state"] != "" && runner.status().0 != 1).await;
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(runner.exit().await, (Some(0), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_knows_no_hand_over_is_said_and_nothing_changes() {
    let control_plane = ControlPlane::start().await;
    let runner = Runner::start(&control_plane, "");
    let upgrade = async || {
        let mut command = self::runner(runner.folder.path(), &["upgrade"]);
        command.stderr(Stdio::piped());
        let ended = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("joins");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    until("the admin socket", || runner.status().1["live"] == true).await;
    // none is connected: nobody could give the place to another process
    let (code, said) = upgrade().await;
    assert!(code == Some(75) && said.contains("not connected"), "{code:?} {said}");
    let session = control_plane.connection().await.open().await;
    until("ready", || runner.status().0 == 0).await;
    let mut operation = session.begin(exec("hang")).await;
    operation.first().await;
    let (supervisor, spawner) = (runner.role("supervisor"), runner.role("spawner"));
    let (code, said) = upgrade().await;
    assert!(code == Some(75) && said.contains("older") && said.contains("restart"), "{code:?} {said}");
    assert_eq!((runner.role("supervisor"), runner.role("spawner")), (supervisor, spawner));
    assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");
    assert_eq!(runner.status().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_readers_hold_nobody_up() {
    let control_plane = ControlPlane::start().await;
    let runner = Runner::start(&control_plane, "budget_mib = 8");
    let session = control_plane.connection().await.open().await;
    let mut stopped = Vec::new();
    for _ in 0..50 {
        // granted little, and never again
        let mut operation =
            session.begin(v1::OperationRequest { output_credit: 4096, ..unary("k", describe("flood")) }).await;
        operation.next().await;
        stopped.push(operation);
    }
    let (outcome, data) = session.run(unary("k", describe("flood"))).await;
    assert_eq!((outcome.code.as_str(), data.len()), ("ok", worker::FLOOD));
    eprintln!("supervisor beside 50 stopped readers: {} KiB RSS", field(runner.role("supervisor"), "status", "VmRSS:"));
}

/// Workers wait for operations, each for one; they go with what they were started as, and whoever ends them disturbs nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_workers_serve_one_operation_each() {
    use nix::sys::signal::{Signal, kill};
    let control_plane = ControlPlane::start().await;
    let runner = Runner::start_warm(&control_plane, "", Stdio::inherit(), 4);
    let session = control_plane.connection().await.open().await;
    let spawner = runner.role("spawner");
    let operations = || runner.status().1["operations"].clone();
    let waiting = async |count: u64| until("so many wait", || operations()["waiting"] == count).await;
    let alive = || -> std::collections::BTreeSet<i32> { children(spawner).into_iter().collect() };

    waiting(2).await;
    let before = alive();
    assert_eq!(before.len(), 2);
    let mut hanging = session.begin(exec("family")).await;
    hanging.next().await;
    assert_eq!(operations()["started_warm"], 1);
    // another has its place, and the one that serves is one that waited
    waiting(2).await;
    assert!(before.is_subset(&alive()) && alive().len() == 3, "{before:?} {:?}", alive());
    drop(hanging);
    until("it is gone with its operation", || alive().len() == 2).await;
    assert!(!before.is_subset(&alive()), "one of {before:?} served, and serves no other");

    // more wait where more were needed at once, and no more than they may
    let many = (0..32).map(|_| async { session.run(unary("k", describe("hello"))).await });
    for (outcome, data) in futures_util::future::join_all(many).await {
        assert_eq!((outcome.code.as_str(), &data[..]), ("ok", &b"hello"[..]), "{}", outcome.message);
    }
    waiting(4).await;

    // whoever ends them all: the next operation has a new one, and the pool fills again
    for pid in alive() {
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("lives");
    }
    let (outcome, _) = session.run(unary("k", describe("hello"))).await;
    assert!(["ok", "worker_crashed"].contains(&outcome.code.as_str()), "{outcome:?}");
    waiting(4).await;
    assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");

    // a configuration that was read again has workers of its own
    waiting(4).await;
    let before = alive();
    runner.signal(Signal::SIGHUP);
    until("others wait", || operations()["waiting"] == 4 && alive().is_disjoint(&before)).await;

    // and they go with their supervisor
    let before = alive();
    kill(nix::unistd::Pid::from_raw(runner.role("supervisor")), Signal::SIGKILL).expect("lives");
    until("they are gone", || before.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())).await;
}

/// What is wrong with what was read again is told by the status, until it is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_is_refused_is_in_the_status() {
    use nix::sys::signal::Signal::SIGHUP;
    let control_plane = ControlPlane::start().await;
    let runner = Runner::start(&control_plane, "");
    let _session = control_plane.connection().await.open().await;
    until("ready", || runner.status().0 == 0).await;
    let refused = || runner.status().1["reload_refused"]["reason"].as_str().unwrap_or_default().to_owned();
    assert_eq!(refused(), "");
    let policy = runner.folder.path().join("policy.toml");
    std::fs::write(&policy, "version = 1\nx = 1\n").expect("writes");
    runner.signal(SIGHUP);
    until("the policy is refused", || refused().contains("policy.toml: line 2")).await;
    std::fs::remove_file(&policy).expect("removes");
    let path = runner.folder.path().join("runner.toml");
    let text = std::fs::read_to_string(&path).expect("reads");
    std::fs::write(&path, format!("{text}\n[audit]\nsink = \"file:{}/sink\"\n", runner.folder.path().display()))
        .expect("writes");
    runner.signal(SIGHUP);
    until("the sink is refused", || refused().contains("runner upgrade")).await;
    let shown = self::runner(runner.folder.path(), &["status"]).output().expect("runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("NOT READ AGAIN at 20"), "{shown}");
    std::fs::write(&path, text).expect("writes");
    runner.signal(SIGHUP);
    until("it is right", || refused().is_empty()).await;
}

/// What only its start needed it has given up: privileges, system calls, files, and what would put its memory on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_supervisor_confines_itself() {
    use nix::sys::signal::{Signal, kill};
    let control_plane = ControlPlane::start().await;
    let (reader, log) = std::io::pipe().expect("a pipe");
    let folder = tempfile::tempdir().expect("a folder");
    let p = folder.path().display();
    // not below the configuration's folder, which is read with all that is in it
    let outer = tempfile::tempdir().expect("a folder");
    let own = outer.path().join("own");
    let credentials = own.join("credentials.json");
    std::fs::create_dir(&own).expect("makes");
    control_plane.credentials().write(&credentials).expect("writes");
    let text = format!(
        "credentials = {credentials:?}\nstate_dir = \"{p}/state\"\nlog_format = \"json\"\n[workers]\nops = {:?}\n\
         iac = \"/bin/false\"\n[connections.k]\nprovider = \"kubernetes\"\nin_cluster = true\n",
        worker::program()
    );
    std::fs::write(folder.path().join("runner.toml"), text).expect("writes");
    let process = runner(folder.path(), &["run"]).stderr(log).spawn().expect("starts");
    let runner = Runner { process, folder };
    let lines = lines(reader);
    let session = control_plane.connection().await.open().await;
    assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");
    let supervisor = runner.role("supervisor");
    let missing: Vec<_> =
        session.hello.isolation_missing.iter().filter(|m| m.starts_with("supervisor: ")).cloned().collect();
    let (_, status) = runner.status();
    for what in &missing {
        assert!(status["isolation"]["missing"].as_array().expect("a list").iter().any(|m| m == what), "{status}");
    }
    let holds = |name: &str| !missing.iter().any(|m| m.starts_with(&format!("supervisor: {name}")));
    // what workers have here it has as well
    let level = session.hello.isolation_level.as_str();
    assert!(level == "minimal" || holds("system_calls_filtered"), "{missing:?}");
    assert!(level != "namespaces" || runner_sandbox::landlock::abi() == 0 || holds("files_unreachable"), "{missing:?}");

    // every thread: no capability in any set, no way to one, and a filter
    for thread in std::fs::read_dir(format!("/proc/{supervisor}/task")).expect("is there").flatten() {
        let text = std::fs::read_to_string(thread.path().join("status")).expect("reads");
        let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).expect(name).trim().to_owned();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            // the bounding set takes a capability to change
            let whole = set == "CapBnd:" && !nix::unistd::geteuid().is_root();
            assert!(whole || value(set) == "0000000000000000", "{set} {text}");
        }
        assert_eq!(value("NoNewPrivs:"), "1");
        assert_eq!(value("Seccomp:"), if holds("system_calls_filtered") { "2" } else { "0" }, "{text}");
    }

    // no core, not even to a handler (core(5)), and what is locked
    let limits = std::fs::read_to_string(format!("/proc/{supervisor}/limits")).expect("reads");
    let core = limits.lines().find_map(|l| l.strip_prefix("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["1", "1"]);
    let locked = field(supervisor, "status", "VmLck:");
    let least = if holds("memory_locked") { field(supervisor, "status", "VmRSS:") } else { 4 };
    assert!(locked >= least, "{locked} KiB are locked of {least}");

    // a file that replaces another one in its folder is read; one that lies elsewhere is not, by whatever name
    let copy = |to: &Path| std::fs::copy(&credentials, to).expect("copies");
    copy(&own.join("new"));
    std::fs::rename(own.join("new"), &credentials).expect("renames");
    runner.signal(Signal::SIGHUP);
    lines.wait("read again").await;
    if holds("files_unreachable") {
        let elsewhere = tempfile::tempdir().expect("a folder");
        let there = elsewhere.path().join("credentials.json");
        copy(&there);
        std::fs::remove_file(&credentials).expect("removes");
        std::os::unix::fs::symlink(&there, &credentials).expect("links");
        runner.signal(Signal::SIGHUP);
        assert!(lines.wait("not reloaded").await.contains("gave up when it started"));
        // the same name in another folder: what the kernel knows is the folder
        let aside = outer.path().join("aside");
        std::fs::rename(&own, &aside).expect("renames");
        std::fs::create_dir(&own).expect("makes");
        std::fs::copy(&there, &credentials).expect("copies");
        runner.signal(Signal::SIGHUP);
        let said = lines.wait("not reloaded").await;
        assert!(said.contains("Permission denied") && said.contains("Restart the runner"), "{said}");
        std::fs::remove_dir_all(&own).expect("removes");
        std::fs::rename(&aside, &own).expect("renames");
        std::fs::remove_file(&credentials).expect("removes");
        std::fs::copy(&there, &credentials).expect("copies");
        runner.signal(Signal::SIGHUP);
        lines.wait("read again").await;
    }
    assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");

    // ended by a signal that makes a core of others, it leaves none
    let directory = std::fs::read_link(format!("/proc/{supervisor}/cwd")).expect("reads");
    let cores = || {
        let names = std::fs::read_dir(&directory).expect("reads").flatten().map(|e| e.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("core")).count()
    };
    let before = cores();
    kill(nix::unistd::Pid::from_raw(supervisor), Signal::SIGABRT).expect("lives");
    lines.wait("ended by SIGABRT").await;
    assert_eq!(cores(), before);
}

/// The lines of a log.
struct Lines(std::sync::mpsc::Receiver<String>);

fn lines(log: std::io::PipeReader) -> Lines {
    use std::io::BufRead as _;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(log).lines().map_while(Result::ok) {
            eprintln!("{line}");
            let _ = sender.send(line);
        }
    });
    Lines(receiver)
}

impl Lines {
    /// The next one that has it.
    async fn wait(&self, text: &str) -> String {
        let mut found = String::new();
        until(text, || {
            self.0.try_iter().any(|line| {
                let is = line.contains(text);
                if is {
                    found = line;
                }
                is
            })
        })
        .await;
        found
    }
}

/// A program that was put in the place of another is what runs from then on, cold and warm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_replaced_is_not_used_any_more() {
    for warm in [0, 2] {
        let control_plane = ControlPlane::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("worker");
        let put = || {
            std::fs::copy(worker::program(), folder.path().join("new")).expect("copies");
            std::fs::rename(folder.path().join("new"), &program).expect("renames");
        };
        put();
        let first = std::fs::metadata(&program).expect("is there");
        let runner = Runner::start_of(&control_plane, "", Stdio::inherit(), warm, &program);
        let session = control_plane.connection().await.open().await;
        assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");
        put();
        let is_new = |pid: &i32| {
            use std::os::unix::fs::MetadataExt as _;
            std::fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|now| now.ino() != first.ino())
        };
        let spawner = runner.role("spawner");
        until("new ones wait", || {
            let workers = children(spawner);
            workers.len() == warm as usize && workers.iter().all(is_new)
        })
        .await;
        let mut operation = session.begin(exec("family")).await;
        operation.next().await;
        assert!(children(spawner).iter().all(is_new));
        assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");
    }
}

/// As a package does it while all goes on: what a worker may execute is made for the one file, and the next moment it is another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_replaced_at_any_moment_fails_no_operation() {
    let control_plane = ControlPlane::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["a", "b", "worker"] {
        std::fs::copy(worker::program(), at(name)).expect("copies");
    }
    let _runner = Runner::start_of(&control_plane, "", Stdio::inherit(), 0, &at("worker"));
    let session = control_plane.connection().await.open().await;
    let going = std::sync::Arc::new(());
    let (still, folder) = (std::sync::Arc::downgrade(&going), folder.path().to_owned());
    let replacing = std::thread::spawn(move || {
        for name in ["a", "b"].into_iter().cycle() {
            if still.upgrade().is_none() {
                return;
            }
            std::fs::hard_link(folder.join(name), folder.join("new")).expect("links");
            std::fs::rename(folder.join("new"), folder.join("worker")).expect("renames");
            std::thread::sleep(Duration::from_millis(7));
        }
    });
    for n in 0..200 {
        let outcome = session.run(unary("k", describe("hello"))).await.0;
        assert_eq!(outcome.code, "ok", "{n}: {outcome:?}");
    }
    drop(going);
    replacing.join().expect("it was replaced all along");
}

/// Welcome and the first operation travel on streams of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_overtakes_its_welcome_waits_for_it() {
    let control_plane = ControlPlane::start().await;
    let _runner = Runner::start(&control_plane, "");
    let early = control_plane.connection().await;
    let mut operation = early.begin(unary("k", describe("hello"))).await;
    let _session = early.open().await;
    assert_eq!(operation.end().await.0.code, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let control_plane = ControlPlane::start().await;
    let mut runner = Runner::start_with(&control_plane, "", Stdio::piped());
    drop(runner.process.stderr.take());
    let session = control_plane.connection().await.open().await;
    assert_eq!(session.run(unary("k", describe("hello"))).await.0.code, "ok");
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(runner.exit().await, (Some(0), None));
}

/// Whatever ends an operation, the log has one line of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_how_each_operation_ended() {
    let control_plane = ControlPlane::start().await;
    let mut runner =
        Runner::start_with(&control_plane, "[tunnel]\nbackoff_first_ms = 50\ndrain_grace_s = 1", Stdio::piped());
    let log = runner.process.stderr.take().expect("piped");
    let log = std::thread::spawn(move || std::io::read_to_string(log).expect("reads"));
    let session = control_plane.connection().await.open().await;
    let named = |id: &str, pod: &str| v1::OperationRequest { operation_id: id.into(), ..exec(pod) };

    session.run(v1::OperationRequest { operation_id: "good".into(), ..unary("k", describe("hello")) }).await;
    for pod in ["abort", "exit"] {
        session.run(named(pod, pod)).await;
    }
    let begun = async |session: &Session, id: &str| {
        let mut operation = session.begin(named(id, "hang")).await;
        operation.first().await;
        operation
    };
    // its caller goes
    drop(begun(&session, "left").await);
    let mut closed = begun(&session, "left-later").await;
    closed.half_close();
    drop(closed);
    until("nothing runs", || runner.status().1["operations"]["running"] == 0).await;
    // its connection goes
    let _open = begun(&session, "cut").await;
    let mut closed = begun(&session, "cut-later").await;
    closed.half_close();
    tokio::time::sleep(Duration::from_millis(100)).await;
    session.cut();
    // its runner goes
    let session = control_plane.connection().await.open().await;
    let _open = begun(&session, "to-the-end").await;
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(runner.exit().await, (Some(0), None));

    let log = log.join().expect("reads");
    let mut ends: Vec<(String, String, serde_json::Value, serde_json::Value)> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["message"] == "operation ended")
        .map(|line| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (text(&line["span"]["operation"]), text(&line["code"]), line["signal"].clone(), line["exit_code"].clone())
        })
        .collect();
    ends.sort_by(|a, b| a.0.cmp(&b.0));
    let none = serde_json::Value::Null;
    let died = ends.first().map(|end| end.2.clone()).unwrap_or_default();
    // which signal one abort() ends by depends on what it may signal: not even itself
    assert!(died.as_str().is_some_and(|signal| signal.starts_with("SIG")), "{ends:?}");
    let expected = [
        ("abort", "worker_crashed", died, none.clone()),
        ("cut", "connection_lost", none.clone(), none.clone()),
        ("cut-later", "connection_lost", none.clone(), none.clone()),
        ("exit", "worker_crashed", none.clone(), serde_json::json!(3)),
        ("good", "ok", none.clone(), none.clone()),
        ("left", "cancelled", none.clone(), none.clone()),
        ("left-later", "cancelled", none.clone(), none.clone()),
        ("to-the-end", "connection_lost", none.clone(), none),
    ]
    .map(|(id, code, signal, exit_code)| (id.to_owned(), code.to_owned(), signal, exit_code));
    assert_eq!(ends, expected, "{log}");
}

#[test]
fn what_is_wrong_from_the_start_has_its_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = |text: &str, arguments: &[&str]| {
        std::fs::write(folder.path().join("runner.toml"), text).expect("writes");
        let output = runner(folder.path(), arguments).stderr(Stdio::piped()).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let state = format!("state_dir = \"{}/s\"\n", folder.path().display());
    assert_eq!(code("", &["run", "--nonsense"]).0, Some(64));
    assert_eq!(code("x = 1", &["run"]).0, Some(78));
    let (status, said) = code(&format!("{state}credentials = \"/nonexistent\""), &["run"]);
    assert!(status == Some(78) && said.contains("credentials_unreadable"), "{status:?} {said}");
    let (status, said) = code(&format!("{state}[engines]\nopentofu = \"/nowhere/tofu\""), &["run"]);
    assert!(status == Some(78) && said.contains("engines.opentofu: /nowhere/tofu does not exist"), "{status:?} {said}");
    assert_eq!(code(&state, &["status"]).0, Some(69));
    assert_eq!(code(&state, &["config", "show", "-o", "json"]).0, Some(0));
    let version = Command::new(env!("CARGO_BIN_EXE_runner")).arg("version").output().expect("runs");
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(code("", &["supervisor"]).0, Some(71));
}

#[test]
fn what_this_machine_gives_is_shown_without_credentials_or_a_control_plane() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!("state_dir = \"{}/s\"\n", folder.path().display());
    std::fs::write(folder.path().join("runner.toml"), config).expect("writes");
    let shown = |arguments: &[&str]| {
        let output = runner(folder.path(), arguments).stdout(Stdio::piped()).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let all: serde_json::Value =
        serde_json::from_str(&shown(&["isolation", "--profiles", "-o", "json"])).expect("JSON");
    for kind in ["operations", "jobs"] {
        let guarantees = all[kind]["guarantees"].as_object().expect("guarantees");
        assert!(guarantees.len() == 8 && guarantees["credentials_unreadable"]["held"] == "enforced", "{all}");
    }
    let calls = |name: &str| {
        let profiles = all["profiles"].as_array().expect("profiles");
        let found = profiles.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name}: {all}"));
        found["calls"].to_string()
    };
    let operation = calls("operation");
    assert!(operation.contains("\"read\"") && !operation.contains("\"connect"), "{operation}");
    // its own limits, but for that of cores
    assert!(operation.contains("prlimit64[a0=0x0,a1!=0x4|a0=0x0,a2=0x0]"), "{operation}");
    assert!(calls("job that is connected").contains("\"connect\"") && calls("supervisor").contains("\"flock\""));
    let table = shown(&["isolation"]);
    assert!(table.starts_with("level ") && table.contains("addresses_enforced"), "{table}");
    assert!(!table.contains("profile "), "{table}");
    assert!(!folder.path().join("s").exists(), "it leaves nothing");
}

fn field(pid: i32, file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn pss(pid: i32) -> u64 {
    field(pid, "smaps_rollup", "Pss:")
}
