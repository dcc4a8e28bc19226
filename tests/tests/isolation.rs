//! A hostile program in the place of workers, at each level of isolation that a machine may give: what it tries, and what must not
//! succeed. What does succeed somewhere is named here, and in `docs/threat-model.md`.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::control_plane::ControlPlane;
use runner_tests::process::Mark;
use runner_tests::runner::{Setup, signal};
use runner_tests::{Runner, Suite, eventually, procfs, tools};
use serde_json::json;
use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
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
    /// The level that it must find, for operations and jobs alike, and for operations.
    level: &'static str,
    /// Whether that floor has to be written down.
    minimal: bool,
    /// What succeeds for an operation's worker.
    operation: &'static [&'static str],
    /// What succeeds for a job's.
    job: &'static [&'static str],
}

/// What a job may do at every level so far: it starts programs, makes sockets and reads what is public, without bounds of its own; and as
/// the runner's own user it changes modes and times of files that it cannot read.
const JOB_RESIDUES: &[&str] = &[
    "credentials_chmod",
    "credentials_utimes",
    // only their number: what they are is not to be had
    "supervisor_descriptors",
    "processes_are_seen",
    "loopback_port",
    "control_plane",
    "metadata_aws",
    "metadata_ecs",
    "metadata_eks",
    "metadata_azure",
    "metadata_v6",
    "socket_tcp",
    "socket_unix",
    "read_passwd",
    "read_home",
    "list_var",
    "child_process",
    "another_program",
    "memory_without_end",
    "descriptors_without_end",
    "memory_file",
    "process_left_behind",
];

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .test("namespaces", || tried(here(), "namespaces"))
        .test("no_namespaces_as_in_a_container", || tried(without("namespaces"), "no namespaces"))
        .test("namespaces_without_mounts", || tried(without("mount"), "no mounts"))
        .test("no_landlock", || tried(without("landlock"), "no Landlock"))
        .test("an_unprivileged_user", || tried(unprivileged(), "unprivileged"))
        .run()
}

/// This machine as it is.
fn here() -> Result<Machine> {
    Ok(Machine { under: Vec::new(), level: "confined", minimal: false, operation: &[], job: JOB_RESIDUES })
}

fn without(what: &str) -> Result<Machine> {
    let refuse = tools::binary("examples/refuse")?.display().to_string();
    let under = vec![refuse, what.to_owned(), "--".to_owned()];
    let landlock = what != "landlock";
    Ok(Machine {
        under,
        level: if landlock { "confined" } else { "minimal" },
        minimal: !landlock,
        operation: &[],
        job: if landlock { JOB_RESIDUES } else { &[] },
    })
}

/// The runner as a user without any privilege.
fn unprivileged() -> Result<Machine> {
    let script = "chmod 755 .. . && chown -R 65534:65534 . && \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$@\"";
    let under = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    Ok(Machine { under, level: "confined", minimal: false, operation: &[], job: JOB_RESIDUES })
}

async fn tried(machine: Result<Machine>, name: &str) -> Result<()> {
    let machine = machine?;
    let control_plane = ControlPlane::start().await?;
    let user = control_plane.admin();
    let setup = Setup::new()?;
    // where an unprivileged user reaches them, wherever they were built
    let hostile = setup.folder().join("hostile");
    let programs = [("runner", "runner"), ("examples/hostile", "hostile"), ("runner-worker-ops", "real-worker-ops")];
    for (program, name) in programs {
        let copy = setup.folder().join(name);
        std::fs::copy(tools::binary(program)?, &copy)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    let hostile = hostile.display().to_string();
    let kubeconfig = |targets: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Config\",\"current-context\":\"c\",\"clusters\":[{{\"name\":\"c\",\"cluster\":{{\"server\":\
             \"http://127.0.0.1:1\"}}}}],\"users\":[{{\"name\":\"u\",\"user\":{{\"token\":{}}}}}],\"contexts\":[{{\"name\":\"c\",\
             \"context\":{{\"cluster\":\"c\",\"user\":\"u\"}}}}]}}",
            json!(targets)
        )
    };
    let floor = if machine.minimal { "minimal" } else { machine.level };
    let program = setup.folder().join("runner");
    let setup = setup
        .program(program)
        .kubernetes("target", &kubeconfig("nothing"))?
        .kubernetes("other", &kubeconfig("a secret of another connection"))?
        .table("isolation", &format!("require = {floor:?}"))
        .table("workers", &format!("ops = {hostile:?}\niac = {hostile:?}"))
        .table("engines", &format!("opentofu = {hostile:?}"))
        .under(machine.under.clone());
    let runner = setup.start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    let level = level(&runner).await?;
    ensure!(level == machine.level, "the level is {level}, expected {}", machine.level);

    let loopback = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let abstract_name = format!("runner-tests-{}-{}", std::process::id(), runner.id);
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
    let processes = runner.processes();
    let mut targets = vec![
        format!("credentials={}", runner.folder().join("credentials.json").display()),
        format!("state={}", runner.state().display()),
        format!("admin={}", runner.state().join("admin.sock").display()),
        format!("other_connection={}", runner.folder().join("other.kubeconfig").display()),
        format!("supervisor={}", processes.supervisor.context("a supervisor")?.pid),
        format!("spawner={}", processes.spawner.context("a spawner")?.pid),
        format!("launcher={}", runner.process().pid()),
        format!("loopback={}", loopback.local_addr()?),
        format!("control_plane={}", control_plane.runner_address()),
        format!("abstract={abstract_name}"),
    ];

    // the first job's worker is the neighbour of the second's
    let mut reports = Vec::new();
    for stack in ["one", "two"] {
        let known = runner.processes().jobs;
        user.stack(stack, "opentofu", "").await?;
        let variables = json!({ "targets": targets.join(";") });
        let job = user.start_job(stack, &json!({ "kind": "preview", "variables": variables })).await?;
        let file = runner.state().join("jobs").join(&job).join("work/hostile.report");
        let report =
            eventually(SECONDS, "the job's report", || async { Ok(std::fs::read_to_string(&file).ok()) }).await?;
        reports.push(report);
        let worker = runner.processes().others.into_iter().chain(runner.processes().jobs).find(|p| !known.contains(p));
        targets.push(format!("neighbour={}", worker.context("the job's worker")?.pid));
    }
    std::fs::write(runner.folder().join("target.kubeconfig"), kubeconfig(&targets.join(";")))?;
    user.connection("target", "kubernetes", Some(&runner.id)).await?;
    let job = reports.pop().context("a report")?;
    judge(name, "job", &job, machine.job, machine.minimal)?;
    let mut stream = user.follow("target", "default", "any", "").await?;
    let operation = String::from_utf8(stream.rest().await?)?;
    judge(name, "operation", &operation, machine.operation, false)?;

    // the tunnel, the session and the processes are as they were
    let now = runner.processes();
    ensure!(now.supervisor.is_some() && now.spawner.is_some(), "{now:?}");
    let ended = runner.process().stderr().since(Mark::default());
    ensure!(!ended.iter().any(|l| l.contains("session ended")), "{ended:?}");
    for process in procfs::all() {
        if procfs::command_line(process.pid).first().is_some_and(|a| a == LEFT) {
            signal(process.pid, Signal::SIGKILL)?;
        }
    }
    Ok(())
}

/// The level that the runner says it found.
async fn level(runner: &Runner) -> Result<String> {
    let said = runner.message(Mark::default(), SECONDS, "runner started").await?;
    Ok(said["isolation"].as_str().context("its isolation")?.to_owned())
}

/// Exactly what is named may have succeeded. `anything`: the level promises nothing for this kind.
fn judge(machine: &str, kind: &str, report: &str, allowed: &[&str], anything: bool) -> Result<()> {
    let rows: Vec<Vec<&str>> = report.lines().map(|l| l.splitn(3, '\t').collect()).collect();
    ensure!(rows.len() >= ATTEMPTS_MIN, "only {} attempts: {report}", rows.len());
    let untold: Vec<_> = rows.iter().filter(|r| r.get(2).is_some_and(|why| why.starts_with("not told"))).collect();
    ensure!(untold.is_empty(), "{untold:?}");
    let succeeded: BTreeSet<&str> =
        rows.iter().filter(|r| r.get(1) == Some(&"SUCCEEDED")).filter_map(|r| r.first().copied()).collect();
    eprintln!("{machine}, {kind}: {} attempts, {} succeeded: {succeeded:?}", rows.len(), succeeded.len());
    let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
    let surprising: Vec<_> = succeeded.difference(&allowed).collect();
    ensure!(anything || surprising.is_empty(), "succeeded: {surprising:?}\n{report}");
    Ok(())
}
