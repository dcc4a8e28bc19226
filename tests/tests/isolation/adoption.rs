//! What a hostile worker leaves for the next supervisor while there is none: whatever it is, nothing is run twice and no stranger signalled.

use super::{Machine, SECONDS, setup};
use anyhow::{Context as _, Result, ensure};
use runner_tests::control_plane::ControlPlane;
use runner_tests::process::Mark;
use runner_tests::{archive, eventually};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Until all of them have ended: what does not end by itself is ended by force.
const JOBS: Duration = Duration::from_secs(60);

/// What a job's worker does, and how that job ends. One that ends unseen is lost, whatever it has left; of one that is there to be taken over
/// the kernel may say how it ended then.
const CONDUCTS: &[(&str, &[&str])] = &[
    ("adoption_events_cut", &["job_lost"]),
    ("adoption_ended_forged", &["job_lost"]),
    ("adoption_markers_forged", &["job_lost", "worker_crashed"]),
    ("adoption_socket_elsewhere", &["job_lost", "worker_crashed"]),
    ("adoption_spool_linked", &["spool_damaged"]),
];

/// A process that is nobody's job.
struct Bystander(Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) async fn is_not_believed(machine: &Machine, name: &str, control_plane: &ControlPlane) -> Result<()> {
    let user = control_plane.admin();
    let setup = setup(machine)?.cold().setting("jobs_at_once = 8");
    let hostile = setup.folder().join("hostile").display().to_string();
    let real = setup.folder().join("real-worker-iac").display().to_string();
    let setup = setup
        .table("workers", &format!("ops = {hostile:?}\niac = {hostile:?}"))
        .table("engines", &format!("opentofu = {hostile:?}"))
        .reads(Path::new(&real));
    let mut runner = setup.start(user, "runner-4").await?;
    let source = user.upload(archive::module("")?).await?;
    let mut bystander = Bystander(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?);
    let targets = format!(
        "credentials={};admin={};state={};bystander={}",
        runner.folder().join("credentials.json").display(),
        runner.state().join("admin.sock").display(),
        runner.state().display(),
        bystander.0.id()
    );
    let mut jobs = Vec::new();
    for (conduct, codes) in CONDUCTS {
        let stack = json!({
            "name": conduct.replace('_', "-"), "engine": "opentofu", "source": source, "runner": runner.id
        });
        let stack = user.post("/stacks", &stack).await?["id"].as_str().context("an id")?.to_owned();
        let variables = json!({ "targets": format!("conduct={conduct};{targets}") });
        let job = user.start_job(&stack, &json!({ "kind": "preview", "variables": variables })).await?;
        user.job_in(&job, &["planning"], SECONDS).await?;
        jobs.push((*conduct, *codes, stack, job));
    }
    runner.kill_all_but_jobs().await?;
    for (conduct, _, _, job) in &jobs {
        let work = runner.state().join("jobs").join(job).join("work");
        std::fs::write(work.join("alone"), b"")?;
        eventually(SECONDS, &format!("what {conduct} leaves"), || async {
            Ok(work.join("done-alone").exists().then_some(()))
        })
        .await?;
    }
    runner.start_again().await?;
    // what is decided before that is decided without it
    runner.message(Mark::default(), SECONDS, "execution service reached").await?;
    for (conduct, codes, stack, job) in &jobs {
        user.post(&format!("/jobs/{job}/cancel"), &json!({ "force": true })).await.ok();
        let ended = eventually(JOBS, &format!("the end of {conduct}"), || async {
            let job = user.get(&format!("/jobs/{job}")).await?;
            Ok(job["ended_at_ms"].is_i64().then_some(job))
        })
        .await?;
        ensure!(codes.iter().any(|code| ended["result"]["code"] == *code), "{conduct}: {ended}");
        ensure!(!ended.to_string().contains("PRIVATE KEY"), "{conduct}: {ended}");
        let started = std::fs::read_to_string(runner.state().join("stacks").join(stack).join("started"))?;
        ensure!(started.lines().count() == 1, "{conduct} was started again");
    }
    runner.no_workers(SECONDS).await?;
    ensure!(bystander.0.try_wait()?.is_none(), "a stranger was signalled");
    eprintln!("{name}, for the next supervisor: {} of a job, none was believed", CONDUCTS.len());
    Ok(())
}
