//! The audit log as the runner's owner looks at it: its key, what the control plane was told of it, and what that keeps of the same operations.

use super::policy::{Place, SHOWN};
use super::recordings::RECORDED;
use super::{SECONDS, usual};
use anyhow::{Context as _, Result, ensure};
use http::Method;
use nix::sys::signal::Signal;
use runner_tests::control_plane::{User, shown};
use runner_tests::process::{Ended, Program};
use runner_tests::{Runner, eventually};
use serde_json::{Value, json};

/// A new key while it runs and while it does not, and what the control plane is told meanwhile.
pub(super) async fn the_key_changes_and_the_control_plane_is_told() -> Result<()> {
    let usual = usual().await?;
    let mut place = Place::new(usual, Some(SHOWN), "cluster").await?;
    let id = place.world.runner.id.clone();
    let newest = |user: User| {
        let id = id.clone();
        async move { Ok::<_, anyhow::Error>(user.get(&format!("/runners/{id}")).await?["audit"][0].clone()) }
    };
    let user = place.world.user().clone();
    let first = audit(&place.world.runner, &["key"]).await?.success()?;
    let first = usual.files.write("first.pub", first)?.display().to_string();
    ensure!(place.kubectl("get pods -n seen").await?.code() == 0);
    let mut before = Value::Null;
    for running in [true, true, false] {
        if !running {
            place.world.runner.process().signal(Signal::SIGTERM)?;
            place.world.runner.process().ended(SECONDS).await?;
        }
        let key = audit(&place.world.runner, &["key", "--rotate"]).await?.success()?;
        ensure!(key == audit(&place.world.runner, &["key"]).await?.success()?, "it is another");
        if !running {
            place.world.runner.start_again().await?;
        }
        let public: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        let told = eventually(SECONDS, "the control plane to be told", || async {
            Ok(Some(newest(user.clone()).await?).filter(|told| told["key"] == json!(public)))
        })
        .await?;
        ensure!(
            told["trouble"] == json!([]) && told["number"].as_i64() > before["number"].as_i64(),
            "{told} after {before}"
        );
        before = told;
    }
    // the key of the first day vouches for all that follows, and so does what the control plane was told
    let expected = format!("{}:{}", before["number"], before["hash"].as_str().context("a hash")?);
    let listed = place.ctl.text(&["runner", "audit", &id]).await?;
    ensure!(listed.contains(&expected), "{listed}");
    let good = audit(&place.world.runner, &["verify", "--key", &first, "--expected", &expected]).await?;
    ensure!(
        good.code() == 0 && good.stdout.matches("the key was changed").count() == 3,
        "{}{}",
        good.stdout,
        good.stderr
    );
    // somebody cuts the end off, where the runner does not look: it goes on, and verification alone finds nothing
    place.world.runner.process().signal(Signal::SIGTERM)?;
    place.world.runner.process().ended(SECONDS).await?;
    let file = place.world.runner.state().join("audit/audit-000001.jsonl");
    let text = std::fs::read_to_string(&file)?;
    let seals: Vec<_> = text.match_indices("\"kind\":\"seal\"").map(|(at, _)| at).collect();
    let kept = seals[seals.len() - 3];
    let end = kept + text[kept..].find('\n').context("a line")? + 1;
    std::fs::write(&file, &text[..end])?;
    ensure!(audit(&place.world.runner, &["verify"]).await?.code() == 0, "it was found");
    let bad = audit(&place.world.runner, &["verify", "--expected", &expected]).await?;
    ensure!(bad.code() == 1 && bad.stdout.contains("its end was cut off"), "{}{}", bad.stdout, bad.stderr);
    // and once the runner tells how far its log goes, the control plane warns
    place.world.runner.start_again().await?;
    eventually(SECONDS, "a warning", || async {
        let shown = place.ctl.text(&["runner", "show", &id]).await?;
        Ok(shown.contains("WARNING: its numbers went back").then_some(()))
    })
    .await
}

/// The two sides' records of the same operations agree, and where somebody changes one it is told.
pub(super) async fn the_two_records_are_compared() -> Result<()> {
    let usual = usual().await?;
    let place = Place::new(usual, Some(RECORDED), "cluster").await?;
    let runner = &place.world.runner;
    for text in [
        "get pods -n seen",
        "get nodes",
        "exec web-1 -n seen -c app -- true",
        "get pods -n seen",
        "logs web-1 -n seen -c app",
    ] {
        place.kubectl(text).await?;
    }
    let shell = ["k8s", "--connection", "cluster", "exec", "web-1", "-n", "default", "--", "true"];
    place.ctl.run(&shell).await?;
    let tricked = place.ask(place.world.user(), Method::GET, "/api/v1/../x", &[]).await?;
    ensure!(tricked.0 == 400, "{tricked:?}");
    // one that is cancelled while it runs
    let mut socket = place.world.user().exec("cluster", "default", "web-1", &["sh"], "stdin=true").await.ok();
    if let Some(socket) = &mut socket {
        let _ = socket.close().await;
    }
    ensure!(place.kubectl("get pods -n seen").await?.code() == 0);
    let kept = eventually(SECONDS, "all to have ended", || async {
        let kept = place.ctl.json(&["operation", "list", "--all"]).await?;
        let ended = kept["items"].as_array().is_some_and(|items| items.iter().all(|one| one["code"].is_string()));
        Ok(ended.then_some(kept))
    })
    .await?;
    let compare = async |kept: &Value| -> Result<(i32, Value)> {
        let file = usual.files.write("kept.json", kept.to_string())?.display().to_string();
        let ended = audit(runner, &["compare", "--with", &file, "--margin", "0", "-o", "json"]).await?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        Ok((ended.code(), serde_json::from_str(&ended.stdout).context(said)?))
    };
    let (code, agreed) = compare(&kept).await?;
    let count = kept["items"].as_array().map_or(0, Vec::len);
    ensure!(
        code == 0 && agreed["both"].as_u64() >= Some(7) && agreed["differences"] == json!([]),
        "{agreed} of {count}"
    );
    // the newest is first
    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut kept = kept.clone();
        if let Some(items) = kept["items"].as_array_mut() {
            change(items);
        }
        kept
    };
    let stranger = json!({ "id": "op_x", "kind": "k8s_exec", "user": "eve", "code": "ok", "runner_id": runner.id,
        "started_at_ms": kept["items"][2]["started_at_ms"] });
    for (kept, what) in [
        (changed(&|items| drop(items.remove(2))), "not_kept"),
        (changed(&|items| items.push(stranger.clone())), "not_in_the_log"),
        (changed(&|items| items[2]["user"] = json!("eve")), "differs"),
        (changed(&|items| items[2]["kind"] = json!("k8s_logs_of_another")), "differs"),
        (changed(&|items| items[2]["entry"] = json!("another")), "differs"),
        (changed(&|items| items[2]["code"] = json!("target_failed")), "differs"),
    ] {
        let (code, found) = compare(&kept).await?;
        let differences = found["differences"].as_array().context("a list")?;
        ensure!(code == 1 && differences.len() == 1 && differences[0]["what"] == what, "{what}: {found}");
    }
    let none = compare(&json!({ "items": [] })).await?;
    ensure!(none.0 == 66, "{none:?}");
    Ok(())
}

/// A command of the runner's program on its machine.
pub(super) async fn own(runner: &Runner, arguments: &[&str]) -> Result<Ended> {
    Program::own("runner")?
        .args(arguments.iter().copied())
        .env("RUNNERD_CONFIG", shown(&runner.folder().join("runner.toml")))
        .run(SECONDS)
        .await
}

/// The audit log of a runner, as its owner looks at it.
pub(super) async fn audit(runner: &Runner, arguments: &[&str]) -> Result<Ended> {
    own(runner, &[&["audit"], arguments].concat()).await
}

pub(super) async fn everything_is_written_down() -> Result<()> {
    let usual = usual().await?;
    let mut place = Place::new(usual, Some(SHOWN), "cluster").await?;
    ensure!(place.kubectl("get pods -n seen").await?.code() == 0);
    ensure!(place.kubectl("exec web-1 -n seen -c app -- sh -c 'echo so; exit 3'").await?.code() == 3);
    let tricked = place.ask(place.world.user(), Method::GET, "/api/v1/../x", &[]).await?;
    ensure!(tricked.0 == 400, "{tricked:?}");
    let lines = |text: String| -> Result<Vec<Value>> {
        text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    };
    let records = lines(audit(&place.world.runner, &["tail", "-n", "1000"]).await?.success()?)?;
    let find = |wanted: Value| {
        let has =
            |record: &&Value| wanted.as_object().is_some_and(|w| w.iter().all(|(name, value)| record[name] == *value));
        records.iter().find(has).cloned().with_context(|| format!("no {wanted} in {records:#?}"))
    };
    let listed = find(json!({
        "kind": "decision", "decision": "allow", "rule": "all", "user_name": "admin", "connection": "cluster",
        "provider": "kubernetes", "action": "k8s_request", "verb": "list", "resource": "pods", "namespace": "seen",
    }))?;
    let ended = find(json!({ "kind": "end", "operation": listed["operation"], "code": "ok" }))?;
    ensure!(ended["bytes_out"].as_u64().is_some_and(|bytes| bytes > 100), "{ended}");
    find(json!({
        "kind": "decision", "verb": "create", "resource": "pods/exec", "name": "web-1", "container": "app",
        "command": "sh -c 'echo so; exit 3'",
    }))?;
    find(json!({ "kind": "decision", "decision": "deny", "code": "invalid_argument" }))?;
    // an operation of runnerctl's own, a job's decision and end, and a change of what is decided by
    place.ctl.text(&["k8s", "--connection", "cluster", "pods", "-n", "seen"]).await?;
    place.world.runner.process().signal(Signal::SIGHUP)?;
    eventually(SECONDS, "the change to be written down", || async {
        let text = audit(&place.world.runner, &["tail", "--kind", "change"]).await?.success()?;
        Ok(text.contains("digest").then_some(()))
    })
    .await?;
    let good = audit(&place.world.runner, &["verify"]).await?;
    ensure!(good.code() == 0, "{}{}", good.stdout, good.stderr);
    // killed in the middle of it: the log is whole, and says so
    place.world.runner.process().signal(Signal::SIGKILL)?;
    place.world.runner.process().ended(SECONDS).await?;
    place.world.runner.start_again().await?;
    eventually(SECONDS, "it to serve", || async {
        Ok((place.kubectl("get pods -n seen").await?.code() == 0).then_some(()))
    })
    .await?;
    let good = audit(&place.world.runner, &["verify"]).await?;
    ensure!(good.code() == 0, "{}{}", good.stdout, good.stderr);
    // somebody changes one byte of what was denied
    let key = audit(&place.world.runner, &["key"]).await?.success()?;
    let key = usual.files.write("audit.pub", key)?.display().to_string();
    let file = place.world.runner.state().join("audit/audit-000001.jsonl");
    let changed = std::fs::read_to_string(&file)?.replacen("\"deny\"", "\"allow\"", 1);
    let copy = usual.files.write("changed.jsonl", changed)?.display().to_string();
    let bad = audit(&place.world.runner, &["verify", "--key", &key, &copy]).await?;
    ensure!(bad.code() == 1 && bad.stdout.contains("changed.jsonl"), "{} {}{}", bad.code(), bad.stdout, bad.stderr);
    Ok(())
}
