//! Recordings of terminals, as the runner's owner and whoever may look at them do.

use super::audit::{audit, own};
use super::policy::Place;
use super::{SECONDS, Usual, usual};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::control_plane::{Executed, User, shown};
use runner_tests::https::Socket;
use runner_tests::process::{Ended, Mark, Program};
use runner_tests::runner::{Setup, signal};
use runner_tests::world::World;
use runner_tests::{Runner, eventually};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// All of Kubernetes, and shells in the namespace that is looked at recorded.
pub(super) const RECORDED: &str = r#"version = 1
[kubernetes]
[[kubernetes.rule]]
name = "shell"
effect = "allow"
namespaces = ["seen"]
resources = ["pods/exec", "pods/attach"]
record = true
[[kubernetes.rule]]
name = "all"
effect = "allow"
"#;

/// A key pair as docs/audit.md has it made.
struct KeyPair {
    private: PathBuf,
    public: PathBuf,
}

// === impl KeyPair ===

impl KeyPair {
    async fn new(usual: &Usual, name: &str) -> Result<Self> {
        let (private, public) = (usual.files.join(format!("{name}.pem")), usual.files.join(format!("{name}.pub")));
        for arguments in [
            vec!["genpkey", "-algorithm", "X25519", "-out", &shown(&private)],
            vec!["pkey", "-in", &shown(&private), "-pubout", "-out", &shown(&public)],
        ] {
            Program::new("/usr/bin/openssl").args(arguments).run(SECONDS).await?.success()?;
        }
        Ok(Self { private, public })
    }
}

/// A runner whose policy has shells recorded; `audit`: more of its settings.
async fn recorded(usual: &Usual, key: Option<&KeyPair>, audit: &str) -> Result<Place> {
    let key = key.map(|key| format!("recording_key = {:?}\n", shown(&key.public))).unwrap_or_default();
    let setup =
        |setup: Setup| setup.policy(RECORDED).expect("its folder is there").table("audit", &format!("{key}{audit}"));
    let world = World::beside(&usual.cluster, setup).await?;
    Place::of(world, usual, "cluster").await
}

/// The recordings as the runner lists them.
async fn recordings(runner: &Runner) -> Result<(i32, Vec<Value>)> {
    let ended = audit(runner, &["recordings", "-o", "json"]).await?;
    let listed = serde_json::from_str(&ended.stdout).with_context(|| format!("{}{}", ended.stdout, ended.stderr))?;
    Ok((ended.code(), listed))
}

/// Runs a command in the container that is looked at, with what it reads.
async fn exec(user: &User, command: &[&str], input: Option<&[u8]>) -> Result<Executed> {
    let query = if input.is_some() { "container=app&stdin=true" } else { "container=app" };
    let mut socket = user.exec("cluster", "seen", "web-1", command, query).await?;
    if let Some(input) = input {
        socket.send(0, input).await?;
        socket.send(5, b"").await?;
    }
    tokio::time::timeout(SECONDS / 2, Executed::read(&mut socket)).await?
}

/// What a recording has of a kind of events, joined; how the command ended, and what it said beside.
async fn play(runner: &Runner, file: &str, key: &Path) -> Result<(Ended, impl Fn(&str) -> String)> {
    let ended = audit(runner, &["play", file, "--key", &shown(key)]).await?;
    let events: Vec<(f64, String, String)> =
        ended.stdout.lines().skip(1).map(serde_json::from_str).collect::<Result<_, _>>()?;
    let joined =
        move |kind: &str| events.iter().filter(|(_, of, _)| of == kind).map(|(.., text)| text.as_str()).collect();
    Ok((ended, joined))
}

/// Reads a terminal until something stands in it.
async fn until(socket: &mut Socket, seen: &mut String, what: &str) -> Result<()> {
    let read = async {
        while !seen.contains(what) {
            let (kind, bytes) = socket.next().await?.context("it ended")?;
            ensure!(kind == 1, "not {kind}: {}", String::from_utf8_lossy(&bytes));
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(())
    };
    tokio::time::timeout(SECONDS, read).await.with_context(|| format!("no {what:?} in {seen:?}"))?
}

pub(super) async fn terminals_are_recorded() -> Result<()> {
    let usual = usual().await?;
    let key = KeyPair::new(usual, "recorded").await?;
    let place = recorded(usual, Some(&key), "").await?;
    let (user, runner) = (place.world.user(), &place.world.runner);
    // without a terminal: both streams, and what is read
    let command = ["sh", "-c", "cat; echo done; exit 3"];
    let plain = exec(user, &command, Some("typed é\n".as_bytes())).await?;
    ensure!(plain.outcome["exit_code"] == json!(3), "{}", plain.outcome);
    let (code, listed) = recordings(runner).await?;
    ensure!(code == 0 && listed.len() == 1 && listed[0]["state"] == "as_recorded", "{listed:?}");
    let file = listed[0]["file"].as_str().context("a name")?.to_owned();
    let (played, events) = play(runner, &file, &key.private).await?;
    ensure!(
        played.code() == 0 && played.stderr.contains("whole") && played.stderr.contains("as the log here has it"),
        "{}",
        played.stderr
    );
    ensure!((events("o"), events("i")) == (plain.text(), "typed é\n".to_owned()), "{}", played.stdout);
    ensure!(
        played.stdout.lines().next().is_some_and(|head| head.contains("seen/web-1") && head.contains("echo done")),
        "{}",
        played.stdout
    );
    // a terminal, with its sizes
    let mut socket =
        user.exec("cluster", "seen", "web-1", &["sh"], "container=app&stdin=true&tty=true&columns=91&rows=33").await?;
    let mut seen = String::new();
    socket.send(0, b"echo a$((1+1))b\n").await?;
    until(&mut socket, &mut seen, "a2b").await?;
    socket.send(4, json!({ "columns": 120, "rows": 50 }).to_string().as_bytes()).await?;
    socket.send(0, b"exit 7\n").await?;
    let ended = tokio::time::timeout(SECONDS, Executed::read(&mut socket)).await??;
    ensure!(ended.outcome["exit_code"] == json!(7), "{}", ended.outcome);
    let (_, listed) = recordings(runner).await?;
    let other =
        listed.iter().filter_map(|one| one["file"].as_str()).find(|name| *name != file).context("another")?.to_owned();
    let (played, events) = play(runner, &other, &key.private).await?;
    ensure!(events("o") == seen + &ended.text(), "{}", played.stdout);
    ensure!(
        (events("i"), events("r")) == ("echo a$((1+1))b\nexit 7\n".to_owned(), "120x50".to_owned()),
        "{}",
        played.stdout
    );
    ensure!(played.stdout.starts_with("{") && played.stdout.contains("\"width\":91"), "{}", played.stdout);
    // runnerctl's own, and what is outside of the rule
    let shell = ["k8s", "--connection", "cluster", "exec", "web-1", "-n", "seen", "-c", "app", "--", "echo", "so"];
    ensure!(place.ctl.text(&shell).await? == "so\n", "it is another");
    ensure!(recordings(runner).await?.1.len() == 3);
    // what is switched to is the client's own protocol: refused, with what to use
    for text in ["exec web-1 -n seen -c app -- echo in", "attach web-1 -n seen -c app"] {
        for websockets in ["true", "false"] {
            let program = place.program("kubectl")?.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
            let ended = program.args(super::words(text)).run(SECONDS).await?;
            let said = format!("{}{}", ended.stdout, ended.stderr);
            ensure!(
                ended.code() == 1 && said.contains("not_recorded") && said.contains("runnerctl k8s exec"),
                "{text}: {said}"
            );
        }
    }
    ensure!(place.kubectl("get pods -n seen").await?.code() == 0);
    ensure!(recordings(runner).await?.1.len() == 3);
    runner.audit_verifies().await?;
    // another's key opens nothing, and what is changed or taken away is told
    let stranger = KeyPair::new(usual, "stranger").await?;
    let ended = audit(runner, &["play", &file, "--key", &shown(&stranger.private)]).await?;
    ensure!(
        ended.code() == 64 && ended.stdout.is_empty() && ended.stderr.contains("encrypted to the key"),
        "{}",
        ended.stderr
    );
    let folder = runner.state().join("audit/recordings");
    let text = std::fs::read(folder.join(&file))?;
    ensure!(!text.windows(5).any(|w| w == b"typed"), "it is there in clear");
    std::fs::write(folder.join(&file), &text[..text.len() - 1])?;
    std::fs::remove_file(folder.join(&other))?;
    let (code, listed) = recordings(runner).await?;
    let state = |name: &str| listed.iter().find(|one| one["file"] == name).map(|one| one["state"].clone());
    ensure!(
        code == 1 && state(&file) == Some(json!("changed")) && state(&other) == Some(json!("missing")),
        "{listed:?}"
    );
    let (played, _) = play(runner, &file, &key.private).await?;
    ensure!(
        played.code() == 1 && played.stderr.contains("NOT whole") && played.stderr.contains("ANOTHER"),
        "{}",
        played.stderr
    );
    Ok(())
}

pub(super) async fn without_a_key_what_is_recorded_is_refused() -> Result<()> {
    let usual = usual().await?;
    let place = recorded(usual, None, "").await?;
    let runner = &place.world.runner;
    runner.message(Mark::default(), SECONDS, "terminals that the policy has recorded are refused").await?;
    let refused = exec(place.world.user(), &["true"], None).await?;
    let text = refused.outcome.to_string();
    ensure!(refused.outcome["code"] == "not_recorded" && text.contains("audit.recording_key"), "{text}");
    ensure!(place.kubectl("get pods -n seen").await?.code() == 0);
    eventually(SECONDS, "it to be written down", || async {
        let denied = audit(runner, &["tail", "--decision", "deny"]).await?.success()?;
        Ok((denied.contains("\"code\":\"not_recorded\"") && denied.contains("\"rule\":\"shell\"")).then_some(()))
    })
    .await?;
    for (arguments, code, says) in [
        (vec!["policy", "check"], 78, "record = true of rule shell"),
        (
            vec!["policy", "check", "--request", "POST", "/api/v1/namespaces/seen/pods/a/exec"],
            77,
            "audit.recording_key",
        ),
        (vec!["policy", "check", "--request", "GET", "/api/v1/namespaces/seen/pods"], 0, ""),
        (vec!["config", "show"], 0, "audit.recording_key"),
    ] {
        let ended = own(runner, &arguments).await?;
        ensure!(
            ended.code() == code && ended.stderr.contains(says),
            "{arguments:?}: {} {}",
            ended.code(),
            ended.stderr
        );
    }
    place.world.runner.no_workers(SECONDS).await
}

pub(super) async fn a_recording_at_its_bound_ends_its_session() -> Result<()> {
    let usual = usual().await?;
    let key = KeyPair::new(usual, "bound").await?;
    let place = recorded(usual, Some(&key), "recording_mib = 1\nrecordings_mib = 2").await?;
    let (user, runner) = (place.world.user(), &place.world.runner);
    let run = async |command: &str| exec(user, &["sh", "-c", command], None).await;
    // just below it, and above; what goes on would go on for a minute
    let fits = run("yes | head -c 500000").await?;
    ensure!(fits.outcome["exit_code"] == json!(0) && fits.stdout.len() == 500_000, "{}", fits.outcome);
    for _ in 0..2 {
        let ended = run("yes | head -c 3000000; sleep 60").await?;
        let text = ended.outcome.to_string();
        ensure!(ended.outcome["code"] == "not_recorded" && text.contains("audit.recording_mib"), "{text}");
    }
    runner.no_workers(SECONDS).await?;
    // the first one goes for those that came after it, when the last has ended
    let listed = eventually(SECONDS, "the oldest to go", || async {
        Ok(Some(recordings(runner).await?).filter(|(code, listed)| *code == 0 && listed.len() == 2))
    })
    .await?
    .1;
    ensure!(listed.iter().all(|one| one["state"] == "as_recorded"), "{listed:?}");
    let removed = audit(runner, &["tail", "--kind", "recording_removed"]).await?.success()?;
    ensure!(removed.lines().count() == 1, "{removed}");
    for one in &listed {
        ensure!(one["detail"].as_str().is_some_and(|detail| detail.contains("limit")), "{one}");
        let (_, events) = play(runner, one["file"].as_str().context("a name")?, &key.private).await?;
        let text = events("o");
        ensure!(text.len() > 300_000 && "y\n".repeat(text.len() / 2 + 1).starts_with(&text), "{} bytes", text.len());
    }
    runner.audit_verifies().await
}

pub(super) async fn a_killed_runner_leaves_its_recording_told() -> Result<()> {
    let usual = usual().await?;
    let key = KeyPair::new(usual, "killed").await?;
    let place = recorded(usual, Some(&key), "").await?;
    let runner = &place.world.runner;
    let mut socket = place
        .world
        .user()
        .exec("cluster", "seen", "web-1", &["sh"], "container=app&stdin=true&tty=true&columns=80&rows=24")
        .await?;
    let mut seen = String::new();
    socket.send(0, b"echo a$((1+1))b\n").await?;
    until(&mut socket, &mut seen, "a2b").await?;
    let folder = runner.state().join("audit/recordings");
    let (_, listed) = recordings(runner).await?;
    ensure!(listed.len() == 1 && listed[0]["state"] == "not_ended", "{listed:?}");
    let file = listed[0]["file"].as_str().context("a name")?.to_owned();
    let begun = shown(&folder.join(&file).with_extension("part"));
    // what was seen is written at once, by a thread of its own
    eventually(SECONDS, "what was seen to be written", || async {
        Ok(play(runner, &begun, &key.private).await?.1("o").contains("a2b").then_some(()))
    })
    .await?;
    let mark = runner.mark();
    signal(runner.supervisor()?, Signal::SIGKILL)?;
    runner.session(mark, SECONDS).await?;
    let told = eventually(SECONDS, "it to be told", || async {
        let (_, listed) = recordings(runner).await?;
        Ok(listed.into_iter().find(|one| one["state"] == "as_recorded"))
    })
    .await?;
    ensure!(told["file"] == json!(file) && told["detail"].as_str().is_some_and(|d| d.contains("killed")), "{told}");
    let (played, events) = play(runner, &file, &key.private).await?;
    ensure!(
        played.code() == 1 && played.stderr.contains("NOT whole") && played.stderr.contains("as the log here has it"),
        "{}",
        played.stderr
    );
    ensure!(events("o").contains("a2b"), "{}", played.stdout);
    runner.audit_verifies().await
}
