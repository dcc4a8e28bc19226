//! Ways into a pod: forwarded ports, copied files, exec; and how they end when the tunnel does.

use super::*;
use nix::sys::signal::Signal;
use runner_tests::cluster::echoes;
use runner_tests::cutter::{Cutter, Wire};
use runner_tests::process::{Mark, Process};
use runner_tests::runner::Setup;
use runner_tests::{ControlPlane, Runner, eventually};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Each way, bytes.
const MUCH: usize = 16 << 20;

/// A control plane, a wire, and a runner behind it.
pub(super) struct Line {
    pub(super) runner: Runner,
    pub(super) wire: Cutter,
    pub(super) ctl: Ctl,
    _control_plane: ControlPlane,
}

/// To the cluster that all share.
pub(super) async fn line(cluster: &Cluster) -> Result<Line> {
    let control_plane = ControlPlane::start().await?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let setup = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .table("tunnel", "lasted_ms = 1\nbackoff_early_max_ms = 500")
        .tunnel_through(&wire)
        .execution_through(&wire);
    let user = control_plane.admin();
    let runner = setup.start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    let ctl = Ctl::new(&control_plane, user)?;
    Ok(Line { runner, wire, ctl, _control_plane: control_plane })
}

/// Where a forwarded port is.
async fn forwarded(process: &Process, remote: &str) -> Result<SocketAddr> {
    let is_it = |l: &str| l.starts_with("Forwarding from ") && l.contains(&format!("-> {remote} "));
    let line = process.ready(SECONDS, "the forwarded port", is_it).await?;
    Ok(line.split(' ').nth(2).context("an address")?.parse()?)
}

pub(super) async fn port_forward() -> Result<()> {
    let usual = usual().await?;
    let process = usual.ours("port-forward web-1 0:80 0:81 -n seen")?.start()?;
    let (first, second) = (forwarded(&process, "80").await?, forwarded(&process, "81").await?);
    ensure!(first.ip().is_loopback() && second.ip().is_loopback());
    echoes(first, MUCH).await?;
    let several = tokio::join!(echoes(first, MUCH / 8), echoes(second, MUCH / 8), echoes(first, 1), echoes(second, 2));
    several.0.and(several.1).and(several.2).and(several.3)?;
    process.signal(Signal::SIGINT)?;
    ensure!(process.ended(SECONDS).await?.code() == Some(130), "{}", process.stderr().text());

    // a service's port by its name, a deployment's pod, a name's beginning
    for (target, remote) in [("service/shop 0:http", "8080"), ("deployment/rolling 0:80", "80"), ("web-2* 0:7", "7")] {
        let process = usual.ours(&format!("port-forward {target} -n seen"))?.start()?;
        echoes(forwarded(&process, remote).await?, 1000).await?;
        process.end();
    }
    for (line, code, said) in [
        ("port-forward missing 80 -n seen", 66, "target_not_found"),
        ("port-forward service/shop 81 -n seen", 66, "has no port"),
        ("port-forward configmap/settings 80 -n seen", 64, "names no pods"),
        ("port-forward web-* 80 -n seen", 64, "web-1, web-2"),
    ] {
        let ended = usual.run(line).await?;
        ensure!(ended.code() == code && ended.stderr.contains(said), "{line}: {} {}", ended.code(), ended.stderr);
        ensure!(ended.stdout.is_empty(), "it said that it forwards: {}", ended.stdout);
    }
    // a port that is taken
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let ended = usual.run(&format!("port-forward web-1 {}:80 -n seen", taken.local_addr()?.port())).await?;
    ensure!(ended.code() == 64 && ended.stderr.contains("cannot be listened on"), "{}", ended.stderr);
    usual.world.runner.no_workers(SECONDS).await
}

/// Neither a forwarded port nor a command looks as if it had ended well when the tunnel ends.
pub(super) async fn cut() -> Result<()> {
    let usual = usual().await?;
    for how in [Wire::Reset, Wire::Close] {
        let line = line(&usual.cluster).await?;
        let forward = line.ctl.start(&["k8s", "port-forward", "web-1", "0:80", "-n", "seen"])?;
        let address = forwarded(&forward, "80").await?;
        let mut open = TcpStream::connect(address).await?;
        open.write_all(b"there").await?;
        let mut back = [0; 5];
        open.read_exact(&mut back).await?;
        let exec = line.ctl.start(&[
            "k8s",
            "exec",
            "web-1",
            "-n",
            "seen",
            "-c",
            "app",
            "--",
            "sh",
            "-c",
            "echo began; sleep 1000",
        ])?;
        exec.ready(SECONDS, "the command", |l| l == "began").await?;
        line.wire.set(how);
        for (process, code) in [(&forward, 69), (&exec, 125)] {
            let ended = process.ended(SECONDS).await?;
            let said = process.stderr().text();
            ensure!(ended.code() == Some(code) && said.contains("[connection_lost]"), "{how:?}: {ended:?} {said}");
        }
        // and who was connected does not take it for an end
        let rest = tokio::time::timeout(SECONDS, open.read(&mut back)).await?;
        ensure!(rest.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{how:?}: {rest:?}");
        // new ones are refused at once while there is no session
        let refused = line.ctl.run(&["k8s", "port-forward", "web-1", "0:80", "-n", "seen"]).await?;
        ensure!(
            refused.code() == 69 && refused.stderr.contains("[runner_unavailable]"),
            "{} {}",
            refused.code(),
            refused.stderr
        );
        let mark = line.runner.mark();
        line.wire.set(Wire::Pass);
        line.runner.session(mark, SECONDS).await?;
        let again = line.ctl.start(&["k8s", "port-forward", "web-1", "0:80", "-n", "seen"])?;
        echoes(forwarded(&again, "80").await?, 1000).await?;
    }
    Ok(())
}

/// A way that says nothing any more is one that is lost, found by asking.
pub(super) async fn silence() -> Result<()> {
    let usual = usual().await?;
    let wire = Cutter::new(usual.world.control_plane.api()).await?;
    let start =
        usual.ours("port-forward web-1 0:80 -n seen")?.env("RUNNERCTL_ENDPOINT", format!("https://{}", wire.address()));
    let forward = start.start()?;
    echoes(forwarded(&forward, "80").await?, 1000).await?;
    wire.set(Wire::Silence);
    let begin = std::time::Instant::now();
    let ended = forward.ended(SECONDS).await?;
    let said = forward.stderr().text();
    ensure!(ended.code() == Some(69) && said.contains("[connection_lost]"), "{ended:?} {said}");
    ensure!(begin.elapsed() < Duration::from_secs(30), "found after {:?}", begin.elapsed());
    eprintln!("found after {:?}", begin.elapsed());
    Ok(())
}

/// A pod that is deleted is not a way that was lost.
pub(super) async fn pod_gone() -> Result<()> {
    let usual = usual().await?;
    usual.cluster.pod("seen", "brief", &["app"], &json!({})).await?;
    let line = line(&usual.cluster).await?;
    let forward = line.ctl.start(&["k8s", "port-forward", "brief", "0:80", "-n", "seen"])?;
    forwarded(&forward, "80").await?;
    usual.text("delete pod brief -n seen --grace-period 0 --wait").await?;
    // whatever ends the way now finds the pod gone
    line.wire.set(Wire::Reset);
    let mark = line.runner.mark();
    line.wire.set(Wire::Pass);
    let ended = forward.ended(SECONDS).await?;
    ensure!(ended.code() == Some(69), "{ended:?} {}", forward.stderr().text());
    line.runner.session(mark, SECONDS).await?;
    Ok(())
}

pub(super) async fn copies() -> Result<()> {
    let usual = usual().await?;
    let home = usual.ctl.home();
    let there = usual.cluster.work_folder().join("copies");
    std::fs::create_dir_all(&there)?;
    let big: Vec<u8> = (0..MUCH).map(|n| (n * 7 + n / 257) as u8).collect();
    std::fs::write(home.join("big"), &big)?;
    std::fs::create_dir_all(home.join("tree/inner"))?;
    std::fs::write(home.join("tree/a"), "one")?;
    std::fs::write(home.join("tree/inner/b"), "two")?;
    std::os::unix::fs::symlink("/etc/passwd", home.join("tree/link"))?;
    // into it
    usual.text("cp big web-1:copies/renamed -n seen -c app").await?;
    ensure!(std::fs::read(there.join("renamed"))? == big, "what arrived is another");
    usual.text("cp big seen/web-1:copies -c app").await?;
    ensure!(std::fs::read(there.join("big"))? == big, "into a folder");
    let said = usual.text("cp tree web-1:copies/forest -n seen -c app").await?;
    ensure!(said.contains("2 files"), "{said}");
    ensure!(std::fs::read_to_string(there.join("forest/inner/b"))? == "two" && !there.join("forest/link").exists());
    // out of it; what kubectl takes out is the same
    std::os::unix::fs::symlink("/etc/passwd", there.join("forest/link"))?;
    usual.text("cp web-1:copies/renamed back -n seen -c app").await?;
    ensure!(std::fs::read(home.join("back"))? == big, "what came back is another");
    let out = usual.run("cp web-1:copies/forest out -n seen -c app").await?;
    ensure!(
        out.code() == 0 && out.stderr.contains("link is left out") || out.stderr.contains("left out"),
        "{}",
        out.stderr
    );
    usual.kubectl("cp seen/web-1:copies/forest theirs -c app").await?.success()?;
    for name in ["a", "inner/b"] {
        ensure!(
            std::fs::read(home.join("out").join(name))? == std::fs::read(usual.files.join("theirs").join(name))?,
            "{name}"
        );
    }
    ensure!(!home.join("out/link").exists(), "a link came out");
    for (line, code, said) in [
        ("cp web-1:copies/nosuch x -n seen -c app", 1, "ended with"),
        ("cp nosuch web-1:x -n seen -c app", 64, "nosuch"),
        ("cp big missing:x -n seen", 66, "target_not_found"),
        ("cp big other -n seen", 64, "POD:PATH"),
        ("cp web-1:.. x -n seen -c app", 64, "names no file"),
    ] {
        let ended = usual.run(line).await?;
        ensure!(ended.code() == code && ended.stderr.contains(said), "{line}: {} {}", ended.code(), ended.stderr);
    }
    ensure!(!home.join("x").exists(), "something is there of what failed");
    usual.world.runner.no_workers(SECONDS).await
}

/// Lines of several pods, each once, over cuts; and those of a pod that comes later.
pub(super) async fn many_logs() -> Result<()> {
    const LINES: u64 = 400;
    let usual = usual().await?;
    let cluster = &usual.cluster;
    cluster.namespace("many").await?;
    let labels = json!({ "app": "many" });
    cluster.pod("many", "many-1", &["app", "side"], &labels).await?;
    cluster.pod("many", "many-2", &["app"], &labels).await?;
    let sources = [("many-1", "app"), ("many-1", "side"), ("many-2", "app"), ("many-3", "app")];
    for (pod, container) in sources {
        Cluster::append_log(&cluster.log_file("many", pod, container), "line 0")?;
    }
    // as kubectl has them, but for the brackets' words
    let ours = usual.text("logs -l app=many -n many").await?;
    let theirs = usual.kubectl("logs -l app=many -n many --all-containers --prefix").await?.success()?;
    let mut sorted: Vec<_> = ours.lines().collect();
    sorted.sort_unstable();
    ensure!(sorted == ["[many-1/app] line 0", "[many-1/side] line 0", "[many-2/app] line 0"], "{ours}");
    let mut of_kubectl: Vec<_> = theirs.lines().map(|l| l.replace("[pod/", "[")).collect();
    of_kubectl.sort_unstable();
    ensure!(of_kubectl == sorted, "{theirs}\n{ours}");
    let line = line(cluster).await?;
    let follows = line.ctl.start(&["k8s", "logs", "-l", "app=many", "-n", "many", "-f"])?;
    for (pod, container) in &sources[..3] {
        let wanted = format!("[{pod}/{container}] line 0");
        follows.stdout().line(Mark::default(), SECONDS, "the first lines", |l| l == wanted).await?;
    }
    cluster.pod("many", "many-3", &["app"], &labels).await?;
    follows.stdout().line(Mark::default(), SECONDS, "the new pod's", |l| l == "[many-3/app] line 0").await?;
    for n in 1..=LINES {
        for (pod, container) in sources {
            Cluster::append_log(&cluster.log_file("many", pod, container), &format!("line {n}"))?;
        }
        if n == LINES / 4 || n == LINES / 2 {
            // each cut is one of streams that are open
            for (pod, container) in sources {
                let wanted = format!("[{pod}/{container}] line {n}");
                follows.stdout().line(Mark::default(), SECONDS, &wanted, |l| l == wanted).await?;
            }
            let mark = line.runner.mark();
            line.wire.set(if n == LINES / 2 { Wire::Reset } else { Wire::Close });
            line.runner.message(mark, SECONDS, "session ended").await?;
            line.wire.set(Wire::Pass);
            line.runner.session(mark, SECONDS).await?;
        }
    }
    for (pod, container) in sources {
        let wanted = format!("[{pod}/{container}] line {LINES}");
        follows.stdout().line(Mark::default(), SECONDS, &wanted, |l| l == wanted).await?;
    }
    follows.signal(Signal::SIGINT)?;
    ensure!(follows.ended(SECONDS).await?.code() == Some(130));
    let text = follows.stdout().text();
    for (pod, container) in sources {
        let before = format!("[{pod}/{container}] line ");
        let numbers: Vec<u64> =
            text.lines().filter_map(|l| l.strip_prefix(&before)).map(str::parse).collect::<Result<_, _>>()?;
        ensure!(numbers == (0..=LINES).collect::<Vec<_>>(), "{before}: {numbers:?}");
    }
    let said = follows.stderr().text();
    let told = said.matches("the logs go on after their last lines").count();
    ensure!((1..=2).contains(&told), "{told} times: {said}");
    // a bound on how many at once is told, and the others wait for their turn
    let bounded = usual.ours("logs many-* -n many -f --max-streams 2")?.start()?;
    bounded.stderr().line(Mark::default(), SECONDS, "the bound", |l| l.contains("2 containers are followed")).await?;
    bounded.end();
    // a deployment's pods share one log here
    Cluster::append_log(&cluster.shared_log_file(), "of the deployment")?;
    let of_deployment = usual.text("logs deployment/rolling -n seen").await?;
    ensure!(of_deployment.matches("/app] of the deployment").count() == 2, "{of_deployment}");
    for (line, code) in [
        ("logs -l app=nobody -n many", 66),
        ("logs nobody-* -n many", 66),
        ("logs deployment/nobody -n many", 66),
        ("logs configmap/settings -n seen", 64),
    ] {
        let ended = usual.run(line).await?;
        ensure!(ended.code() == code, "{line}: {} {}", ended.code(), ended.stderr);
    }
    usual.world.runner.no_workers(SECONDS).await
}

/// A watch goes on over a cut with what has changed meanwhile.
pub(super) async fn watches() -> Result<()> {
    let usual = usual().await?;
    let line = line(&usual.cluster).await?;
    usual.cluster.namespace("watched").await?;
    let make = |name: &'static str| {
        let object = json!({ "metadata": { "name": name } });
        async move { usual.cluster.create("/api/v1/namespaces/watched/configmaps", &object).await }
    };
    make("before").await?;
    make("late-first").await?;
    let shows = async |process: &Process, what: &str| {
        process.stdout().line(Mark::default(), SECONDS, what, |l| l.starts_with(what)).await.map(|_| ())
    };
    let table = line.ctl.start(&["k8s", "get", "configmaps", "-n", "watched", "-w"])?;
    let names = line.ctl.start(&["k8s", "get", "cm", "-n", "watched", "-w", "-o", "name"])?;
    let only = line.ctl.start(&["k8s", "get", "cm", "late-*", "-n", "watched", "-w"])?;
    shows(&table, "before").await?;
    shows(&names, "configmap/before").await?;
    // one that has not begun yet is not begun again by itself
    shows(&only, "late-first").await?;
    make("later").await?;
    shows(&table, "later").await?;
    shows(&names, "configmap/later").await?;
    let mark = line.runner.mark();
    line.wire.set(Wire::Reset);
    line.runner.message(mark, SECONDS, "session ended").await?;
    make("meanwhile").await?;
    line.wire.set(Wire::Pass);
    line.runner.session(mark, SECONDS).await?;
    shows(&table, "meanwhile").await?;
    make("late-again").await?;
    shows(&table, "late-again").await?;
    shows(&only, "late-again").await?;
    for process in [&table, &names, &only] {
        process.signal(Signal::SIGINT)?;
        ensure!(process.ended(SECONDS).await?.code() == Some(130));
    }
    for name in ["before", "late-first", "later", "meanwhile", "late-again"] {
        ensure!(table.stdout().text().matches(&format!("{name} ")).count() == 1, "{name}:\n{}", table.stdout().text());
    }
    ensure!(!only.stdout().text().contains("before"), "{}", only.stdout().text());
    // nothing is left of what was ended
    eventually(SECONDS, "the workers to end", || async { line.runner.no_workers(SECONDS).await.map(Some) }).await
}
