//! What stays open: attach, port-forward, proxy and watches; much both ways over what was switched to; contexts, and what fails on the way.

use super::table::SPDY;
use super::{SECONDS, Side, Usual, pod, usual, words};
use anyhow::{Context as _, Result, ensure};
use runner_tests::cluster::echoes;
use runner_tests::ctl::Ctl;
use runner_tests::process::{Mark, Process, Program};
use runner_tests::suite::scaled;
use runner_tests::world::World;
use runner_tests::{Cluster, eventually};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::Code;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Each way, bytes: a gibibyte at its full figure.
fn much() -> usize {
    usize::try_from(scaled(1 << 30)).unwrap_or(1 << 30)
}

/// What those scenarios work with: a pod of each side's own.
async fn with_pods() -> Result<&'static Usual> {
    let usual = usual().await?;
    for side in &usual.sides {
        let path = format!("/api/v1/namespaces/{}/pods", side.namespace);
        if !usual.cluster.client().get(&format!("{path}/stream")).await?.status.is_success() {
            let object: Value = serde_json::from_str(&pod("stream", &side.node))?;
            usual.cluster.create(&path, &object).await?;
        }
        usual.cluster.running(side.namespace, "stream").await?;
    }
    Ok(usual)
}

impl Usual {
    fn start(&self, side: &Side, text: &str, env: Option<(&str, &str)>) -> Result<Process> {
        let text = text.replace("{ns}", side.namespace);
        let mut program = self.program("kubectl", side)?.args(words(&text)).named(format!("kubectl {text}"));
        if let Some((name, value)) = env {
            program = program.env(name, value);
        }
        program.start()
    }
}

/// The address that a line of kubectl's names.
async fn address(process: &Process, before: &str) -> Result<SocketAddr> {
    let line = process.stdout().line(Mark::default(), SECONDS, "its address", |l| l.contains(before)).await?;
    let rest = line.split_once(before).context("it is there")?.1;
    Ok(rest.split_whitespace().next().context("an address")?.parse()?)
}

pub(super) async fn what_stays_open() -> Result<()> {
    let usual = with_pods().await?;
    let log = usual.cluster.shared_log_file();
    Cluster::append_log(&log, "before anybody attached")?;
    for side in &usual.sides {
        for env in [None, Some(SPDY)] {
            let attached = usual.start(side, "attach stream -n {ns}", env)?;
            // from when it is attached
            eventually(SECONDS, "a line of the container's", || async {
                Cluster::append_log(&log, "while somebody is attached")?;
                Ok(attached.stdout().text().contains("while somebody").then_some(()))
            })
            .await?;
            attached.end();
        }
        let proxy = usual.start(side, "proxy --port=0", None)?;
        let at = address(&proxy, "Starting to serve on ").await?;
        let client = runner_tests::https::Client::plain(at);
        let namespaces: Value = client.get("/api/v1/namespaces").await?.json()?;
        ensure!(namespaces["kind"] == "NamespaceList", "{namespaces}");
        proxy.end();

        let watch = usual.start(side, "get configmaps -n {ns} -w", None)?;
        let mark = watch.stdout().mark();
        let object = json!({ "metadata": { "name": "seen-by-the-watch" } });
        usual.cluster.create(&format!("/api/v1/namespaces/{}/configmaps", side.namespace), &object).await?;
        watch.stdout().line(mark, SECONDS, "the new one", |l| l.contains("seen-by-the-watch")).await?;
        watch.end();

        let follow = usual.start(side, "logs -f stream -n {ns}", None)?;
        follow.stdout().line(Mark::default(), SECONDS, "what there was", |l| l.contains("before anybody")).await?;
        let mark = follow.stdout().mark();
        Cluster::append_log(&log, "and a line behind")?;
        follow.stdout().line(mark, SECONDS, "the new line", |l| l.contains("and a line behind")).await?;
        follow.end();
    }
    // nothing is left of what was ended
    usual.world.runner.no_workers(SECONDS).await
}

pub(super) async fn much_both_ways() -> Result<()> {
    let usual = with_pods().await?;
    let side = &usual.sides[1];
    for env in [None, Some(("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false"))] {
        let forward = usual.start(side, "port-forward pod/stream -n {ns} 0:80", env)?;
        let line = forward.stdout().line(Mark::default(), SECONDS, "its port", |l| l.contains("127.0.0.1:")).await?;
        let port = line.split_once("127.0.0.1:").context("a port")?.1.split(' ').next().context("a port")?.parse()?;
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        echoes(at, much()).await?;
        // several at once, and again after them
        let both = tokio::join!(echoes(at, much() / 8), echoes(at, much() / 8));
        both.0.and(both.1)?;
        echoes(at, 1).await?;
        forward.end();
    }
    let input: Vec<u8> = (0..much()).map(|n| b'a' + (n % 26) as u8).collect();
    for env in [None, Some(SPDY)] {
        let mut program = usual.program("kubectl", side)?.args(words("exec -i stream -n by-tram -- sha256sum"));
        if let Some((name, value)) = env {
            program = program.env(name, value);
        }
        let ended = program.input(input.clone()).run(SECONDS).await?.success()?;
        ensure!(ended.starts_with(&shared_proto::hex::encode(&Sha256::digest(&input)[..])), "{ended}");
    }
    usual.world.runner.no_workers(SECONDS).await
}

/// What nobody says anything over lives as long as both ends do: five minutes at its full figure.
pub(super) async fn what_is_idle_lives() -> Result<()> {
    let usual = with_pods().await?;
    let (side, seconds) = (&usual.sides[1], scaled(300));
    let kubectl = runner_tests::tools::find("kubectl").context("kubectl")?;
    let late = format!("(sleep {seconds}; echo late) | {} exec -i stream -n by-tram -- cat", kubectl.display());
    let mut idle = Vec::new();
    for env in [None, Some(SPDY)] {
        let mut program = usual.program("sh", side)?.args(["-c", &late]);
        if let Some((name, value)) = env {
            program = program.env(name, value);
        }
        idle.push(program.run(Duration::from_secs(seconds) + SECONDS));
    }
    let forward = usual.start(side, "port-forward pod/stream -n {ns} 0:80", None)?;
    let line = forward.stdout().line(Mark::default(), SECONDS, "its port", |l| l.contains("127.0.0.1:")).await?;
    let port = line.split_once("127.0.0.1:").context("a port")?.1.split(' ').next().context("a port")?.parse()?;
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let mut open = TcpStream::connect(at).await?;
    open.write_all(b"a").await?;
    ensure!(open.read_u8().await? == b'a');
    for ended in futures_util::future::join_all(idle).await {
        let said = ended?.success()?;
        ensure!(said == "late\n", "{said:?}");
    }
    open.write_all(b"b").await?;
    ensure!(open.read_u8().await? == b'b');
    forward.end();
    usual.world.runner.no_workers(SECONDS).await
}

pub(super) async fn contexts() -> Result<()> {
    let usual = usual().await?;
    let file = usual.files.write("own/kubeconfig", "apiVersion: v1\nkind: Config\nclusters:\n- name: mine\n  cluster: {server: https://mine.example}\nusers:\n- name: mine\n  user: {token: \"123\"}\ncontexts:\n- name: mine\n  context: {cluster: mine, user: mine}\ncurrent-context: mine\n")?;
    let at = file.display().to_string();
    let run = |arguments: &'static [&'static str]| {
        let mut all = arguments.to_vec();
        all.extend(["--file", &at]);
        let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
        async move { usual.ctl.text(&all.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let said = run(&["kubeconfig", "cluster", "limited", "-n", "seen"]).await?;
    ensure!(said.contains("Wrote context runner-cluster") && said.contains("runner-limited"), "{said}");
    run(&["kubeconfig", "--all"]).await?;
    let config = |arguments: &str| {
        let program = Program::component("kubectl").map(|p| p.args(["--kubeconfig", &at]).args(words(arguments)));
        async move { program?.run(SECONDS).await?.success() }
    };
    // kubectl takes it, what is the user's own is as it was, and each is there once
    ensure!(config("config get-contexts -o name").await? == "mine\nrunner-cluster\nrunner-limited\n");
    ensure!(config("config current-context").await? == "mine\n");
    ensure!(
        config("config view --raw -o jsonpath={.users[?(@.name==\"mine\")].user.token}").await?.trim_end() == "123"
    );
    let text = std::fs::read_to_string(&file)?;
    let token = usual.world.user().token();
    ensure!(!text.contains(token) && !text.contains("rnc_") && !text.contains("rnt_"), "a secret is in it: {text}");
    run(&["kubeconfig", "cluster", "--use"]).await?;
    ensure!(config("config current-context").await? == "runner-cluster\n");
    run(&["kubeconfig", "cluster", "limited", "--remove"]).await?;
    ensure!(config("config get-contexts -o name").await? == "mine\n");
    // the token is good for the one connection's Kubernetes API alone
    let made = usual.world.user().post("/connections/cluster/k8s/token", &json!({})).await?;
    let bearer = made["token"].as_str().context("a token")?.to_owned();
    let narrow = usual.world.user().client().with_token(&bearer);
    for (path, status) in [
        ("/api/v1/connections/cluster/kubernetes/api/v1/namespaces", 200),
        ("/api/v1/connections/limited/kubernetes/api/v1/namespaces", 403),
        ("/api/v1/connections/cluster/k8s/namespaces", 401),
        ("/api/v1/whoami", 401),
    ] {
        let answer = narrow.get(path).await?;
        ensure!(answer.status == status, "{path}: {} {}", answer.status, answer.text());
    }
    Ok(())
}

/// Failures on the way are told by kubectl in the words of the table of codes.
pub(super) async fn failures() -> Result<()> {
    let usual = usual().await?;
    let world = World::beside(&usual.cluster, |setup| setup).await?;
    let ctl = Ctl::new(&world.control_plane, world.user())?;
    world.user().connection("not-there", "kubernetes", None).await?;
    let file = usual.files.join("failures.kubeconfig").display().to_string();
    ctl.text(&["kubeconfig", "cluster", "not-there", "--file", &file]).await?;
    let own = runner_tests::tools::binary("runnerctl")?;
    let path = format!("{}:{}", own.parent().context("a folder")?.display(), std::env::var("PATH").unwrap_or_default());
    let kubectl = |words_of: &str| {
        let program = Program::component("kubectl").map(|p| {
            p.args(["--kubeconfig", &file])
                .args(words(words_of))
                .env("PATH", path.clone())
                .env("HOME", ctl.home().display().to_string())
        });
        async move { anyhow::Ok(program?.run(SECONDS).await?) }
    };
    let unknown = kubectl("--context runner-not-there get --raw /api").await?;
    ensure!(unknown.code() == 1 && unknown.stderr.contains("unknown_connection"), "{}", unknown.stderr);
    ensure!(kubectl("--context runner-cluster get --raw /api").await?.code() == 0);
    let follow = Program::component("kubectl")?
        .args(["--kubeconfig", &file])
        .args(words("--context runner-cluster get pods -n seen -w"))
        .env("PATH", path.clone())
        .env("HOME", ctl.home().display().to_string())
        .start()?;
    follow.stdout().line(Mark::default(), SECONDS, "the pod", |l| l.contains("web-1")).await?;
    world.runner.process().signal(nix::sys::signal::Signal::SIGKILL)?;
    // never hangs, and never looks like a good end
    follow.ended(SECONDS).await?;
    eventually(Duration::from_secs(20), "the runner to be missed", || async {
        let gone = kubectl("--context runner-cluster get --raw /api").await?;
        Ok((gone.code() == 1 && gone.stderr.contains("runner_unavailable")).then_some(()))
    })
    .await?;
    // also where kubectl asks first what there is
    let cache = usual.files.join("failures.cache").display().to_string();
    let gone = kubectl(&format!("--context runner-cluster --cache-dir {cache} get pods -n seen")).await?;
    let failure = Code::RunnerUnavailable.on("");
    let is_told = [failure.code.as_str(), &failure.next_step].iter().all(|part| gone.stderr.contains(part));
    ensure!(gone.code() == 1 && is_told, "{}", gone.stderr);
    Ok(())
}
