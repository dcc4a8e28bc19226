//! What becomes of Pulumi's state and locks when a job is cancelled, or its worker dies.

use super::{JOB, Stack, Thing, Usual, program, usual};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::procfs;
use runner_tests::runner::signal;
use runner_tests::{archive, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(120);

/// A program with a thing that takes so long, and one that comes after it.
fn slow(stack: &Stack, seconds: u32) -> String {
    let things =
        [Thing("slow", "slow", "1", &format!(", seconds: {seconds}")), Thing("after", "after", "${slow.content}", "")];
    program(&stack.world, &things, "")
}

/// Starts an update that is in the middle of the slow thing; its id.
async fn applying(usual: &Usual, stack: &Stack, seconds: u32) -> Result<String> {
    let user = usual.control_plane.admin();
    let source = user.upload(archive::pack(&[archive::Entry::file("Pulumi.yaml", slow(stack, seconds))])?).await?;
    let body = json!({ "kind": "update", "approve_automatically": true, "source": source });
    let job = user.start_job(stack.name, &body).await?;
    user.job_in(&job, &["applying"], JOB).await?;
    eventually(SECONDS, "the slow thing to be begun", || async {
        Ok(stack.world.join("slow.begun").exists().then_some(()))
    })
    .await?;
    Ok(job)
}

async fn asked(usual: &Usual, job: &str) -> Result<usize> {
    let events = usual.control_plane.admin().events(job).await?;
    Ok(serde_json::to_string(&events)?.matches("^C received; cancelling").count())
}

pub(super) async fn cancel() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let stack = usual.stack("cancels").await?;
    let job = applying(usual, &stack, 600).await?;
    usual.text(&format!("job cancel {job}")).await?;
    let told = user.job_in(&job, &["canceled"], JOB).await?;
    ensure!(told.0["result"]["message"].as_str().is_some_and(|m| m.contains("stopped by itself")), "{}", told.0);
    ensure!(asked(usual, &job).await? == 1, "asked once");
    ensure!(!stack.world.join("slow").exists() && !stack.world.join("after").exists());
    // the state can be read, has no lock, and the next one goes on
    let list = usual.text("state list cancels").await?;
    ensure!(list.contains("pulumi:pulumi:Stack") && !list.contains("Thing::slow"), "{list}");
    usual.done(&stack, &slow(&stack, 0), "--auto-approve", "applied").await?;
    ensure!(stack.thing("after")? == "1");
    Ok(())
}

pub(super) async fn killed() -> Result<()> {
    // nobody else's worker
    let usual = Usual::new().await?;
    let user = usual.control_plane.admin();
    let stack = usual.stack("killed").await?;
    let job = applying(&usual, &stack, 8).await?;
    let worker = usual
        .runner
        .job_processes()
        .into_iter()
        .find(|process| {
            let words = procfs::command_line(process.pid);
            words.first().is_some_and(|w| w.ends_with("runner-worker-iac")) && words.get(1).is_some_and(|w| w == "step")
        })
        .context("a worker")?;
    signal(worker.pid, Signal::SIGKILL)?;
    user.job_in(&job, &["applied"], JOB).await?;
    user.whole(&job).await?;
    for command in ["plan", "apply"] {
        user.started_once(&job, command).await?;
    }
    let events = serde_json::to_string(&user.events(&job).await?)?;
    ensure!(events.contains("was ended by SIGKILL; another one goes on"), "{events}");
    for name in ["slow", "after"] {
        let told = events.matches(&format!("+ world:index:Thing {name} create: complete")).count();
        ensure!(told == 1, "{name} is told of {told} times: {events}");
    }
    ensure!(stack.thing("after")? == "1");
    Ok(())
}

pub(super) async fn lock() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let stack = usual.stack("locked").await?;
    usual.done(&stack, &slow(&stack, 0), "--auto-approve", "applied").await?;
    // as one that was killed leaves it
    let id = "c3089115-c042-4df1-8982-235670e98940";
    let folder = stack.of_state(usual, "pulumi/.pulumi/locks/organization/shop/locked");
    std::fs::create_dir_all(&folder)?;
    let holder = json!({ "pid": 12, "username": "ann", "hostname": "laptop", "timestamp": "2026-01-02T03:04:05Z" });
    std::fs::write(folder.join(format!("{id}.json")), holder.to_string())?;
    let changed = program(&stack.world, &[Thing("one", "one", "1", "")], "");
    let job = usual.done(&stack, &changed, "--auto-approve", "failed").await?;
    let told = user.job(&job).await?;
    ensure!(told.code() == "state_locked", "{}", told.0);
    let said = told.0["result"]["message"].as_str().unwrap_or_default();
    ensure!(said.contains("ann@laptop (pid 12) since 2026-01-02T03:04:05Z") && said.contains(id), "{said}");
    let shown: Value = usual.ctl.json(&["state", "lock", "locked"]).await?;
    ensure!(shown.to_string().contains(id), "{shown}");
    // by its id alone
    let words = |lock: &'static str| ["state", "unlock", "locked", lock, "--reason", "its holder is gone", "--force"];
    let ended = usual.run(&words("another-id")).await?;
    ensure!(ended.code() != 0 && format!("{ended:?}").contains("has no lock another-id"), "{ended:?}");
    ensure!(folder.join(format!("{id}.json")).exists());
    usual.run(&words(id)).await?.success()?;
    usual.done(&stack, &changed, "--auto-approve", "applied").await?;
    Ok(())
}
