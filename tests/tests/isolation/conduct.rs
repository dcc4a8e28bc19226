//! What a hostile worker does to whoever listens to it, one thing for each operation and for each job, all at once: on its own sockets, and
//! in its own part of the spool. What ends is that operation or that job, by the right code, and nothing else.

use super::{Machine, SECONDS, kubeconfig, setup};
use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use runner_tests::control_plane::{ControlPlane, User};
use runner_tests::process::Mark;
use runner_tests::{Runner, archive, eventually, procfs};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Until the last of them has ended: a worker that is silent is waited for half a minute.
const JOBS: Duration = Duration::from_secs(70);
/// How much more memory the supervisor may have needed, bytes: the budget of its connection, and what the allocator keeps.
const MEMORY: u64 = 64 << 20;
/// Of a flood, what its reader takes before it goes, bytes.
const FLOOD_READ: usize = 8 << 20;

/// What an operation's worker does, and the code, or one of the codes, by which that operation ends.
const OPERATION: &[(&str, &str)] = &[
    ("well", "ok"),
    // its reader goes
    ("socket_flood", "cancelled"),
    ("frame_half", "cancelled"),
    ("frame_half_at_the_end", "worker_crashed"),
    ("header_half", "worker_crashed"),
    ("frame_huge", "worker_crashed"),
    ("frame_unknown", "worker_crashed"),
    ("frame_of_the_supervisor", "worker_crashed"),
    ("outcome_huge", "worker_crashed"),
    ("outcome_rubbish", "worker_crashed"),
    // the first one counts
    ("outcome_twice", "ok"),
    ("outcome_invented", "worker_crashed"),
    ("outcome_without_code", "worker_crashed"),
    // of its own operation it may say what it likes
    ("outcome_of_another", "connection_lost"),
    ("descriptors_passed", "ok or cancelled"),
    ("dial_descriptors", "ok"),
    ("dial_flood", "ok"),
    ("dial_rubbish", "ok"),
];

/// How a job ends that was stopped at what it tried, and then had nothing to do.
const STOPPED: (&str, &str) = ("planned", "ok");
const DAMAGED: (&str, &str) = ("failed", "spool_damaged");
const CRASHED: (&str, &str) = ("failed", "worker_crashed");

const FULL: (&str, &str) = ("failed", "worker_out_of_disk");

/// What a job's worker does, and how that job ends.
const JOB: &[(&str, (&str, &str))] = &[
    ("well", STOPPED),
    ("events_number_again", DAMAGED),
    ("events_number_left_out", DAMAGED),
    ("events_number_lied", DAMAGED),
    ("events_record_huge", DAMAGED),
    ("events_record_half", CRASHED),
    ("events_rubbish", DAMAGED),
    ("events_result_contradicted", STOPPED),
    ("events_phase_invented", ("failed", "internal")),
    ("events_flood", STOPPED),
    ("events_fifo", DAMAGED),
    ("events_device", STOPPED),
    ("events_socket", DAMAGED),
    ("events_folder", DAMAGED),
    ("events_hard_link", STOPPED),
    ("events_symbolic_link", DAMAGED),
    ("events_link_to_itself", DAMAGED),
    ("events_sparse", DAMAGED),
    ("events_truncated", CRASHED),
    ("events_changing", DAMAGED),
    ("events_lease", STOPPED),
    ("ended_fifo", CRASHED),
    ("ended_lie", CRASHED),
    ("ended_huge", CRASHED),
    ("refused_fifo", STOPPED),
    ("control_flood", CRASHED),
    ("control_frame_huge", CRASHED),
    ("control_frame_half", CRASHED),
    ("control_not_read", CRASHED),
    ("control_lie", STOPPED),
    ("control_descriptors", CRASHED),
    ("control_link", CRASHED),
    ("control_of_another", CRASHED),
    ("disk_without_end", FULL),
    ("disk_of_the_stack", FULL),
    ("inodes_without_end", FULL),
    (IN_FLIGHT, CRASHED),
];
/// The one that holds what every process of its user shares.
const IN_FLIGHT: &str = "descriptors_in_flight";

pub(super) async fn ends_alone(machine: &Machine, name: &str, control_plane: &ControlPlane) -> Result<()> {
    let user = control_plane.admin();
    let mut setup = setup(machine)?.cold().setting("jobs_at_once = 48");
    // bounds that a bomb comes to soon, and a flood of events does not
    setup = setup.env("RUNNERD_JOBS_DISK_MIB", "64").env("RUNNERD_JOBS_FILES", "5000");
    let hostile = setup.folder().join("hostile").display().to_string();
    let real = setup.folder().join("real-worker-iac").display().to_string();
    for (conduct, _) in OPERATION {
        setup = setup.kubernetes(&entry(conduct), &kubeconfig("127.0.0.1:1", &format!("conduct={conduct}")))?;
    }
    let setup = setup
        .table("workers", &format!("ops = {hostile:?}\niac = {hostile:?}"))
        .table("engines", &format!("opentofu = {hostile:?}"))
        .reads(Path::new(&real));
    let runner = setup.start(user, "runner-3").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    for (conduct, _) in OPERATION {
        user.connection(&entry(conduct), "kubernetes", Some(&runner.id)).await?;
    }
    let source = user.upload(archive::module("")?).await?;
    operation(user, "well").await?;
    let supervisor = runner.supervisor()?;
    let (counts, memory) = (runner.counts()?, runner.resident()?);

    let (operations, jobs) = tokio::try_join!(
        try_join_all(OPERATION.iter().map(|(conduct, _)| operation(user, conduct))),
        try_join_all(JOB.iter().map(|(conduct, _)| job(user, &runner, &source, conduct))),
    )?;
    let mut wrong = Vec::new();
    for ((conduct, expected), record) in OPERATION.iter().zip(&operations) {
        if !expected.split(" or ").any(|code| record["code"] == code) {
            wrong.push(format!("operation {conduct}: {record}"));
        }
    }
    for ((conduct, (phase, code)), job) in JOB.iter().zip(&jobs) {
        if job["phase"] != **phase || job["result"]["code"] != **code {
            wrong.push(format!("job {conduct}: {job}"));
        }
        ensure!(!job.to_string().contains("PRIVATE KEY"), "{job}");
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    // everything else is as it was
    operation(user, "well").await?;
    let after = job(user, &runner, &source, "well").await?;
    ensure!(after["result"]["code"] == "ok", "{after}");
    ensure!(runner.supervisor()? == supervisor, "the supervisor is another one");
    let log = runner.process().stderr().since(Mark::default());
    ensure!(!log.iter().any(|l| l.contains("session ended") || l.contains("spawner lost")), "{log:?}");
    runner.no_workers(SECONDS).await?;
    runner.back_to(counts, SECONDS).await?;
    let peak = runner.resident_peak()?;
    ensure!(peak <= memory + MEMORY, "the supervisor had {peak} bytes, and {memory} before");
    eprintln!(
        "{name}, own sockets and spool: {} of an operation and {} of a job, each ended alone; the supervisor had {} MiB at its most, {} before",
        OPERATION.len(),
        JOB.len(),
        peak >> 20,
        memory >> 20
    );
    Ok(())
}

/// The name of the connection whose worker does that.
fn entry(conduct: &str) -> String {
    conduct.replace('_', "-")
}

/// An operation whose worker does that; its record at its end.
async fn operation(user: &User, conduct: &str) -> Result<Value> {
    let connection = entry(conduct);
    let newest = || async {
        let records = user.get("/operations?limit=200").await?;
        let all = records["items"].as_array().context("records")?;
        Ok::<_, anyhow::Error>(all.iter().find(|r| r["connection"] == *connection).cloned())
    };
    let before = newest().await?.map(|r| r["id"].clone());
    let following = user.follow(&connection, "default", "any", "");
    match conduct {
        "socket_flood" => {
            following.await?.at_least(FLOOD_READ).await?;
        }
        // nothing comes of it
        "frame_half" => tokio::select! {
            _ = following => anyhow::bail!("something came of half a frame"),
            record = eventually(SECONDS, "its worker", || async {
                Ok(newest().await?.filter(|r| r["isolation_level"].is_string()))
            }) => drop(record?),
        },
        // where the kernel lets descriptors through, bytes that they come with are not told of: as half a frame it ends with its reader
        "descriptors_passed" => {
            let mut stream = following.await?;
            let _ = tokio::time::timeout(Duration::from_secs(5), stream.rest()).await;
        }
        // a failure breaks it off, or comes at once
        _ => {
            if let Ok(mut stream) = following.await {
                let _ = stream.rest().await;
            }
        }
    }
    eventually(SECONDS, "the operation's end", || async {
        Ok(newest().await?.filter(|r| r["ended_at_ms"].is_i64() && Some(&r["id"]) != before.as_ref()))
    })
    .await
}

/// A job whose worker does that; what it is at its end.
async fn job(user: &User, runner: &Runner, source: &Value, conduct: &str) -> Result<Value> {
    let stack = format!("{}-{}", entry(conduct), shared_proto::now_ms());
    let stack_of = json!({ "name": stack, "engine": "opentofu", "source": source, "runner": runner.id });
    user.post("/stacks", &stack_of).await?;
    let (credentials, admin) = (runner.folder().join("credentials.json"), runner.state().join("admin.sock"));
    let targets = format!("conduct={conduct};credentials={};admin={}", credentials.display(), admin.display());
    let id = user.start_job(&stack, &json!({ "kind": "preview", "variables": { "targets": targets } })).await?;
    if conduct == IN_FLIGHT {
        beside_descriptors_in_flight(user, runner, source, &id).await?;
    }
    // a worker that does as it is told to end would have ended; these are ended by force
    if conduct.starts_with("control_") || conduct == IN_FLIGHT {
        user.job_in(&id, &["planning"], SECONDS).await.ok();
        user.post(&format!("/jobs/{id}/cancel"), &json!({ "force": true })).await.ok();
    }
    eventually(JOBS, &format!("the end of {conduct}, {id}"), || async {
        let job = user.get(&format!("/jobs/{id}")).await?;
        Ok(job["ended_at_ms"].is_i64().then_some(job))
    })
    .await
}

/// While as many descriptors are on their way as one user may have there, workers are started as before, and as isolated.
async fn beside_descriptors_in_flight(user: &User, runner: &Runner, source: &Value, id: &str) -> Result<()> {
    eventually(SECONDS, "descriptors in flight", || async {
        let events = user.events(id).await?;
        Ok(events.iter().any(|e| e.to_string().contains("descriptors in flight")).then_some(()))
    })
    .await?;
    let record = operation(user, "well").await?;
    ensure!(record["code"] == "ok", "{record}");
    let first = || {
        let all = procfs::descendants(runner.process().pid());
        all.into_iter().map(|p| p.pid).filter(|pid| procfs::command_line(*pid).get(1).is_some_and(|mode| mode == "job"))
    };
    let known: Vec<i32> = first().collect();
    ensure!(!known.is_empty(), "the first process of the job that holds them is not found");
    let mut beside = std::pin::pin!(Box::pin(job(user, runner, source, "control_not_read")));
    // its first process connects for it: it has who asks, as all others have
    let found =
        eventually(SECONDS, "another job", || async { Ok(first().find(|pid| !known.contains(pid) && asked(*pid))) });
    tokio::select! {
        found = found => drop(found.context("one for which somebody connects")?),
        job = &mut beside => anyhow::bail!("it ended: {job:?}"),
    }
    let job = beside.await?;
    ensure!(job["result"]["code"] == "worker_crashed", "{job}");
    Ok(())
}

/// Whether a process is asked by the kernel what others may connect to.
fn asked(pid: i32) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|e| std::fs::read_link(e.path()).is_ok_and(|to| to.to_string_lossy().contains("seccomp")))
}
