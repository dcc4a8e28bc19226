//! A hostile program in the place of workers, at each level of isolation that a machine may give: what it tries, and what must not
//! succeed. What does succeed somewhere is named here, and in `docs/threat-model.md`.

mod adoption;
mod conduct;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::control_plane::ControlPlane;
use runner_tests::process::Mark;
use runner_tests::runner::{Setup, signal};
use runner_tests::scratch::Scratch;
use runner_tests::{Runner, Suite, archive, eventually, procfs, tools};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(30);
/// The program that a worker leaves behind, by its first argument.
const LEFT: &str = "left-by-a-worker";
/// Attempts that the hostile program makes at least.
const ATTEMPTS_MIN: usize = 90;

/// A machine, as far as isolation is concerned.
struct Machine {
    /// What the runner is started under.
    under: Vec<String>,
    /// The level that it must find, and that for operations alone.
    level: &'static str,
    operations: &'static str,
    /// Whether each job is a user of its own.
    own_users: bool,
    /// What succeeds for an operation's worker.
    operation: &'static [&'static str],
    /// What succeeds for a job's.
    job: Vec<&'static str>,
    /// What succeeds for an engine, besides.
    engine: &'static [&'static str],
    /// Whether the runner logs the system calls that are refused.
    tells: bool,
}

/// What its worker's own domain does not keep from an engine: the connection that its job is for, and reading what is public.
const ENGINE: &[&str] = &["granted_port"];

/// Without Landlock an engine is its worker's equal.
const ENGINE_WITHOUT_LANDLOCK: &[&str] = &[
    "granted_port",
    "worker_environ",
    "worker_memory",
    "parent_memory",
    "worker_descriptors",
    "worker_signal",
    "first_signal",
    "spool_written",
    "spool_replaced",
    "spool_added_to",
    "spool_linked",
];

/// What a job may do in namespaces: it starts programs, keeps data in its own memory, and reads what is public of this machine's programs.
const JOB_IN_NAMESPACES: &[&str] = &[
    "another_program",
    "child_process",
    // killed with the namespace: looked for when the job has ended
    "process_left_behind",
    // no cgroup
    "memory_without_end",
    "memory_file",
    "read_passwd",
    // sockets reach nothing but its own loopback, and what is connected for it
    "socket_tcp",
    "socket_unix",
    // its own, in memory
    "write_tmp",
];

/// What a job may do in namespaces without Landlock.
const JOB_WITHOUT_LANDLOCK: &[&str] = &[
    "another_program",
    "child_process",
    "process_left_behind",
    "memory_without_end",
    "memory_file",
    "read_passwd",
    "socket_tcp",
    "socket_unix",
    "write_tmp",
    // the names of the folders on the way to its own: nothing else is there
    "list_var",
    "state_directory",
];

/// What a job may do without them: as the runner's own user it changes modes and times of files that it cannot read, and it sees what is
/// public of this machine, other processes included.
const JOB_CONFINED: &[&str] = &[
    "another_program",
    "child_process",
    "process_left_behind",
    "memory_without_end",
    "memory_file",
    "read_passwd",
    "read_home",
    "list_var",
    "socket_tcp",
    "socket_unix",
    "credentials_chmod",
    "credentials_utimes",
    // only their number: what they are is not to be had
    "supervisor_descriptors",
    "processes_are_seen",
];

/// What of that it may not where the credentials file is root's, who lets the runner's group read it.
const OF_ITS_OWN_FILE: &[&str] = &["credentials_chmod", "credentials_utimes"];

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .test("namespaces", || tried(here(), "namespaces"))
        .test("no_namespaces_as_in_a_container", || tried(without("namespaces"), "no namespaces"))
        .test("namespaces_without_mounts", || tried(without("mount"), "no mounts"))
        .test("no_landlock", || tried(without("landlock"), "no Landlock"))
        .test("a_floor_that_this_machine_does_not_reach", a_floor_that_this_machine_does_not_reach)
        .test("an_unprivileged_user", || tried(unprivileged(), "unprivileged"))
        .test("an_unprivileged_user_without_namespaces", || {
            tried(unprivileged_without_namespaces(), "unprivileged, no namespaces")
        })
        .test("what_is_refused_is_told_by_name", || tried(telling(here()), "telling"))
        .test("what_is_refused_is_told_by_name_without_namespaces", || {
            tried(telling(without("namespaces")), "telling, no namespaces")
        })
        .test("misconduct_in_namespaces", || misconduct(here(), "namespaces"))
        .test("misconduct_without_namespaces", || misconduct(without("namespaces"), "no namespaces"))
        .test("misconduct_without_mounts", || misconduct(without("mount"), "no mounts"))
        .test("misconduct_without_landlock", || misconduct(without("landlock"), "no Landlock"))
        .test("misconduct_of_an_unprivileged_user", || misconduct(unprivileged(), "unprivileged"))
        .run()
}

/// This machine as it is.
fn here() -> Result<Machine> {
    Ok(Machine {
        under: Vec::new(),
        level: "namespaces",
        operations: "namespaces",
        own_users: true,
        operation: &[],
        job: JOB_IN_NAMESPACES.to_vec(),
        engine: ENGINE,
        tells: false,
    })
}

fn without(what: &str) -> Result<Machine> {
    let refuse = tools::binary("examples/refuse")?.display().to_string();
    let under = vec![refuse, what.to_owned(), "--".to_owned()];
    let (level, job, engine) = match what {
        "landlock" => ("namespaces", JOB_WITHOUT_LANDLOCK, ENGINE_WITHOUT_LANDLOCK),
        // as root, of whose files a job has too much
        _ => ("minimal", JOB_CONFINED, ENGINE),
    };
    let operations = if level == "minimal" { "confined" } else { level };
    Ok(Machine {
        under,
        level,
        operations,
        own_users: level == "namespaces",
        operation: &[],
        job: job.to_vec(),
        engine,
        tells: false,
    })
}

/// The runner as a user without any privilege.
fn unprivileged() -> Result<Machine> {
    unprivileged_after("true")
}

/// The same after that command of root's, in the runner's folder.
fn unprivileged_after(command: &str) -> Result<Machine> {
    // with a limit that cannot be raised again
    let script = format!(
        "chmod 755 .. . && chown -R 65534:65534 . && {command} && ulimit -c 0 && \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$@\""
    );
    let under = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    Ok(Machine {
        under,
        level: "namespaces",
        operations: "namespaces",
        own_users: false,
        operation: &[],
        job: JOB_IN_NAMESPACES.to_vec(),
        engine: ENGINE,
        tells: false,
    })
}

/// The same on a machine that has none: what a container should be, with credentials from a volume of secrets.
fn unprivileged_without_namespaces() -> Result<Machine> {
    let machine = unprivileged_after("chown 0:65534 credentials.json && chmod 640 credentials.json")?;
    let under = without("namespaces")?.under.into_iter().chain(machine.under).collect();
    let job = JOB_CONFINED.iter().copied().filter(|a| !OF_ITS_OWN_FILE.contains(a)).collect();
    Ok(Machine { under, level: "confined", operations: "confined", job, ..machine })
}

/// The same machine, with a runner that tells what its filters refuse: nothing else is refused, or allowed.
fn telling(machine: Result<Machine>) -> Result<Machine> {
    Ok(Machine { tells: true, ..machine? })
}

/// Whether what its filter refuses to an operation's worker is in the runner's log by name, where and only where that is asked for.
async fn is_told(machine: &Machine, runner: &Runner) -> Result<()> {
    const TOLD: &str = "was refused the system call ";
    let said = || runner.process().stderr().since(Mark::default());
    if !machine.tells {
        ensure!(!said().iter().any(|l| l.contains(TOLD)), "told without being asked: {:?}", said());
        return Ok(());
    }
    for call in ["ptrace", "bpf", "io_uring_setup"] {
        let told = |l: &String| l.contains(&format!(" of an operation {TOLD}{call} (number "));
        eventually(SECONDS, "a refused call's name", || async { Ok(said().iter().any(told).then_some(())) })
            .await
            .with_context(|| format!("{call} in {:?}", said()))?;
    }
    Ok(())
}

/// Whether `runner isolation` finds what the runner itself has found, which needs no runner.
async fn is_foreseen(machine: &Machine, runner: &Runner) -> Result<()> {
    let (foreseen, (_, status)) = (runner.isolation().await?, runner.status().await?);
    ensure!(foreseen["level"] == machine.level, "{foreseen}");
    let missing = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        // of the supervisor only one that runs can tell
        all.filter(|m| !m.starts_with("supervisor")).map(str::to_owned).collect()
    };
    let (foreseen, found) = (missing(&foreseen["missing"]), missing(&status["isolation"]["missing"]));
    ensure!(foreseen == found, "{foreseen:?}, and {found:?}");
    Ok(())
}

async fn tried(machine: Result<Machine>, name: &str) -> Result<()> {
    let machine = machine?;
    let control_plane = ControlPlane::start().await?;
    in_the_place_of_workers(&machine, name, &control_plane).await?;
    in_the_place_of_an_engine(&machine, name, &control_plane).await
}

async fn misconduct(machine: Result<Machine>, name: &str) -> Result<()> {
    let (machine, control_plane) = (machine?, ControlPlane::start().await?);
    conduct::ends_alone(&machine, name, &control_plane).await?;
    adoption::is_not_believed(&machine, name, &control_plane).await
}

/// Its programs where an unprivileged user reaches them, wherever they were built; and not where temporary files are: a job has its own of
/// those.
fn setup(machine: &Machine) -> Result<Setup> {
    let setup =
        Setup::in_folder(Scratch::below(Path::new("/var/tmp"), &format!("runner-tests-{}", std::process::id()))?)?;
    let programs = [
        ("runner", "runner"),
        ("examples/hostile", "hostile"),
        ("runner-worker-ops", "real-worker-ops"),
        ("runner-worker-iac", "real-worker-iac"),
    ];
    for (program, name) in programs {
        let copy = setup.folder().join(name);
        std::fs::copy(tools::binary(program)?, &copy)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    setup.folder().write("mirror/provider", "what its neighbours execute")?;
    let mirror = setup.folder().join("mirror");
    let setup = setup.reads(&mirror);
    let program = setup.folder().join("runner");
    let require = format!("require = {:?}", machine.level);
    let require = format!("{require}\nlog_refused_calls = {}", machine.tells);
    Ok(setup.program(program).table("isolation", &require).under(machine.under.clone()))
}

/// A kubeconfig with that address and token.
fn kubeconfig(server: &str, token: &str) -> String {
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Config\",\"current-context\":\"c\",\"clusters\":[{{\"name\":\"c\",\"cluster\":{{\"server\":\
         \"http://{server}\"}}}}],\"users\":[{{\"name\":\"u\",\"user\":{{\"token\":{}}}}}],\"contexts\":[{{\"name\":\"c\",\
         \"context\":{{\"cluster\":\"c\",\"user\":\"u\"}}}}]}}",
        json!(token)
    )
}

/// What a hostile program is told of the runner that it attacks, and of the machine.
fn targets(runner: &Runner, control_plane: &ControlPlane, loopback: std::net::SocketAddr) -> Result<Vec<String>> {
    let processes = runner.processes();
    Ok(vec![
        format!("credentials={}", runner.folder().join("credentials.json").display()),
        format!("state={}", runner.state().display()),
        format!("admin={}", runner.state().join("admin.sock").display()),
        format!("other_connection={}", runner.folder().join("other.kubeconfig").display()),
        format!("supervisor={}", processes.supervisor.context("a supervisor")?.pid),
        format!("spawner={}", processes.spawner.context("a spawner")?.pid),
        format!("launcher={}", runner.process().pid()),
        format!("loopback={loopback}"),
        format!("control_plane={}", control_plane.runner_address()),
        format!("mirror={}", runner.folder().join("mirror").display()),
        format!("engine={}", runner.folder().join("hostile").display()),
    ])
}

async fn report_of(runner: &Runner, job: &str, file: &str) -> Result<String> {
    let file = runner.state().join("jobs").join(job).join("work").join(file);
    eventually(SECONDS, "the job's report", || async { Ok(std::fs::read_to_string(&file).ok()) }).await
}

async fn in_the_place_of_workers(machine: &Machine, name: &str, control_plane: &ControlPlane) -> Result<()> {
    let user = control_plane.admin();
    let setup = setup(machine)?;
    let hostile = setup.folder().join("hostile").display().to_string();
    let real = setup.folder().join("real-worker-iac").display().to_string();
    let nowhere = "127.0.0.1:1";
    let setup = setup
        .kubernetes("target", &kubeconfig(nowhere, "nothing"))?
        .kubernetes("other", &kubeconfig(nowhere, "a secret of another connection"))?
        .table("workers", &format!("ops = {hostile:?}\niac = {hostile:?}"))
        .table("engines", &format!("opentofu = {hostile:?}"))
        .reads(Path::new(&real));
    let runner = setup.start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    let level = level(&runner).await?;
    ensure!(level == machine.level, "the level is {level}, expected {}", machine.level);

    let loopback = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let abstract_name = format!("runner-tests-{}-{}", std::process::id(), runner.id);
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
    let mut targets = targets(&runner, control_plane, loopback.local_addr()?)?;
    targets.push(format!("abstract={abstract_name}"));

    // the first job's worker is the neighbour of the second's
    let (mut reports, mut users) = (Vec::new(), BTreeSet::new());
    for stack in ["one", "two"] {
        let known = runner.processes().jobs;
        user.stack(stack, "opentofu", "").await?;
        let variables = json!({ "targets": targets.join(";") });
        let job = user.start_job(stack, &json!({ "kind": "preview", "variables": variables })).await?;
        let report = report_of(&runner, &job, "hostile.report").await?;
        reports.push(report);
        let worker = runner.processes().jobs.into_iter().find(|p| !known.contains(p));
        let worker = worker.context("the job's worker")?.pid;
        users.extend(procfs::user(worker));
        targets.push(format!("neighbour={worker}"));
    }
    let own_users = users.len() == 2 && users.iter().all(|user| (1_900_100_001..1_900_165_536).contains(user));
    ensure!(own_users == machine.own_users, "the jobs' users are {users:?}");
    std::fs::write(runner.folder().join("target.kubeconfig"), kubeconfig(nowhere, &targets.join(";")))?;
    user.connection("target", "kubernetes", Some(&runner.id)).await?;
    let job = reports.pop().context("a report")?;
    judge(name, "job", &job, &machine.job)?;
    let mut stream = user.follow("target", "default", "any", "").await?;
    let operation = String::from_utf8(stream.rest().await?)?;
    judge(name, "operation", &operation, machine.operation)?;
    is_told(machine, &runner).await?;
    is_foreseen(machine, &runner).await?;

    let records = eventually(SECONDS, "the operation's level", || async {
        let records = user.get("/operations").await?;
        Ok(records["items"][0]["isolation_level"].is_string().then_some(records))
    })
    .await?;
    ensure!(records["items"][0]["isolation_level"] == machine.operations, "{records}");

    // the tunnel, the session and the processes are as they were
    let now = runner.processes();
    ensure!(now.supervisor.is_some() && now.spawner.is_some(), "{now:?}");
    let ended = runner.process().stderr().since(Mark::default());
    ensure!(!ended.iter().any(|l| l.contains("session ended")), "{ended:?}");

    // whatever a job's worker left ends with it, wherever it has hidden
    ensure!(!running(LEFT, 0).is_empty(), "the workers left nothing behind, so that nothing can be seen");
    for worker in job_workers(&runner) {
        signal(worker, Signal::SIGKILL)?;
    }
    eventually(SECONDS, "the end of what the jobs left", || async { Ok(running(LEFT, 0).is_empty().then_some(())) })
        .await
}

async fn in_the_place_of_an_engine(machine: &Machine, name: &str, control_plane: &ControlPlane) -> Result<()> {
    let user = control_plane.admin();
    let setup = setup(machine)?;
    let [hostile, ops, iac] =
        ["hostile", "real-worker-ops", "real-worker-iac"].map(|name| setup.folder().join(name).display().to_string());
    // what its job's connections are for, one of them without an answer; and what nobody has granted
    let granted = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let forbidden = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let datagrams = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let stuck = Stuck::new()?;
    let granted_address = granted.local_addr()?;
    let _accepting =
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { while granted.accept().await.is_ok() {} }));
    let setup = setup
        .kubernetes("other", &kubeconfig("127.0.0.1:1", "a secret of another connection"))?
        .kubernetes("granted", &kubeconfig(&granted_address.to_string(), "x"))?
        .kubernetes("stuck", &kubeconfig(&stuck.address.to_string(), "x"))?
        .table("workers", &format!("ops = {ops:?}\niac = {iac:?}"))
        .table("engines", &format!("opentofu = {hostile:?}"));
    let runner = setup.start(user, "runner-2").await?;
    for connection in ["granted", "stuck"] {
        user.connection(connection, "kubernetes", Some(&runner.id)).await?;
    }
    let abstract_name = format!("runner-tests-{}-{}", std::process::id(), runner.id);
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
    let mut targets = targets(&runner, control_plane, forbidden.local_addr()?)?;
    targets.extend([
        format!("abstract={abstract_name}"),
        // whoever it is: another process of this machine
        format!("neighbour={}", runner.processes().spawner.context("a spawner")?.pid),
        format!("granted={granted_address}"),
        format!("stuck={}", stuck.address),
        format!("datagrams={}", datagrams.local_addr()?),
    ]);
    let source = user.upload(archive::module(&format!("# {}\n", targets.join(";")))?).await?;
    let stack = json!({
        "name": "engine", "engine": "opentofu", "source": source, "runner": runner.id, "connections": ["granted", "stuck"]
    });
    user.post("/stacks", &stack).await?;
    let job = user.start_job("engine", &json!({ "kind": "preview" })).await?;
    let report = report_of(&runner, &job, "data/hostile.report").await?;
    let allowed: Vec<_> = machine.job.iter().chain(machine.engine).copied().collect();
    judge(name, "engine", &report, &allowed)?;
    ensure!(report.contains("granted_port\tSUCCEEDED"), "{report}");
    // nobody has come where nobody may, whatever the program believes
    let came = tokio::time::timeout(Duration::from_millis(1), forbidden.accept()).await;
    ensure!(came.is_err(), "{came:?} has come to a forbidden port");
    let arrived = datagrams.try_recv(&mut [0; 8]);
    ensure!(arrived.is_err() || machine.level != "namespaces", "a datagram has left the job");
    user.post(&format!("/jobs/{job}/cancel"), &json!({ "force": true })).await?;
    eventually(SECONDS, "the end of what the engine left", || async { Ok(running(LEFT, 0).is_empty().then_some(())) })
        .await
}

/// An address where a connection is neither made nor refused: those who wait to be accepted are as many as may.
struct Stuck {
    address: std::net::SocketAddr,
    _listener: OwnedFd,
    _waiting: Vec<std::net::TcpStream>,
}

impl Stuck {
    fn new() -> Result<Self> {
        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
        };
        let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
        listen(&listener, Backlog::new(1)?)?;
        let name: SockaddrIn = getsockname(listener.as_raw_fd())?;
        let address = std::net::SocketAddr::from((name.ip(), name.port()));
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300));
        let mut waiting = Vec::new();
        while let Ok(stream) = connect() {
            waiting.push(stream);
            ensure!(waiting.len() < 16, "its queue has no end");
        }
        Ok(Self { address, _listener: listener, _waiting: waiting })
    }
}

/// The workers of that runner's jobs, whichever program plays them.
fn job_workers(runner: &Runner) -> Vec<i32> {
    let all = procfs::descendants(runner.process().pid()).into_iter().map(|p| p.pid);
    all.filter(|pid| procfs::command_line(*pid).get(1).is_some_and(|mode| mode == "step")).collect()
}

/// The processes whose argument of that place is that.
fn running(argument: &str, place: usize) -> Vec<i32> {
    let is = |pid: i32| procfs::command_line(pid).get(place).is_some_and(|a| a == argument);
    procfs::all().into_iter().map(|p| p.pid).filter(|pid| is(*pid)).collect()
}

/// What is required is there, or it does not start and says what is missing.
async fn a_floor_that_this_machine_does_not_reach() -> Result<()> {
    let machine = without("namespaces")?;
    let setup = Setup::new()?.table("isolation", "require = \"namespaces\"").under(machine.under);
    let runner = setup.setting("credentials = \"/nonexistent\"").launch_as_it_is("nobody")?;
    let status = runner.process().ended(SECONDS).await?;
    let said = runner.process().stderr().text();
    ensure!(status.code() == Some(78) && said.contains("isolation_too_weak"), "{status:?} {said}");
    ensure!(said.contains("jobs: namespaces (clone: EPERM"), "{said}");
    // jobs of a root runner without namespaces are root: that is not confined
    let setup = Setup::new()?.table("isolation", "require = \"confined\"").under(without("namespaces")?.under);
    let runner = setup.setting("credentials = \"/nonexistent\"").launch_as_it_is("root")?;
    let status = runner.process().ended(SECONDS).await?;
    let said = runner.process().stderr().text();
    ensure!(status.code() == Some(78) && said.contains("not as root"), "{status:?} {said}");
    Ok(())
}

/// The level that the runner says it found.
async fn level(runner: &Runner) -> Result<String> {
    let said = runner.message(Mark::default(), SECONDS, "runner started").await?;
    Ok(said["isolation"].as_str().context("its isolation")?.to_owned())
}

/// Exactly what is named may have succeeded.
fn judge(machine: &str, kind: &str, report: &str, allowed: &[&str]) -> Result<()> {
    let rows: Vec<Vec<&str>> = report.lines().map(|l| l.splitn(3, '\t').collect()).collect();
    ensure!(rows.len() >= ATTEMPTS_MIN, "only {} attempts: {report}", rows.len());
    let untold: Vec<_> = rows.iter().filter(|r| r.get(2).is_some_and(|why| why.starts_with("not told"))).collect();
    ensure!(untold.is_empty(), "{untold:?}");
    let succeeded: BTreeSet<&str> =
        rows.iter().filter(|r| r.get(1) == Some(&"SUCCEEDED")).filter_map(|r| r.first().copied()).collect();
    eprintln!("{machine}, {kind}: {} attempts, {} succeeded: {succeeded:?}", rows.len(), succeeded.len());
    let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
    let surprising: Vec<_> = succeeded.difference(&allowed).collect();
    ensure!(surprising.is_empty(), "succeeded: {surprising:?}\n{report}");
    Ok(())
}
