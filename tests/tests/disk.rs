//! The runner's disk fails under it: full, without files, only to be read. What runs goes on, what cannot be written is counted, results are
//! told, new jobs are refused by name, and operations do not notice.

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::User;
use runner_tests::engine::{EngineKind, quick_module};
use runner_tests::runner::Setup;
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, ControlPlane, Engine, Runner, Suite, eventually};
use serde_json::json;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(30);
const JOB: Duration = Duration::from_secs(120);
/// Lines of the talkative engine: far more than the room that is kept for its last words.
const LINES: u32 = 20_000;

static CLUSTER: Shared<Cluster> = Shared::new();

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("full_disk_in_mid_apply_that_is_freed", || full(true))
        .test("full_disk_in_mid_apply_that_stays_full", || full(false))
        .test("no_inodes_in_mid_apply", no_inodes)
        .test("read_only_while_a_plan_waits", read_only)
        .run()
}

/// A runner whose state directory is a small file system of its own.
struct Set {
    runner: Runner,
    control_plane: ControlPlane,
    disk: Small,
    engine: Engine,
}

/// A file system in memory, which goes with the test.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, options: &str) -> Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&at)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(options)).context("mounting a small file system")?;
        Ok(Self(at))
    }
    fn remount(&self, read_only: bool) -> Result<()> {
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        flags.set(MsFlags::MS_RDONLY, read_only);
        Ok(mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>)?)
    }
    /// Takes every block that is free.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        for size in [1 << 20, 4096] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        Ok(path)
    }
    /// Takes every file that there may be.
    fn fill_inodes(&self) -> Result<PathBuf> {
        let folder = self.0.join("files");
        std::fs::create_dir(&folder)?;
        for n in 0_u32.. {
            if File::create(folder.join(n.to_string())).is_err() {
                break;
            }
        }
        Ok(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// `place`: what of the state directory is on it; empty: all.
async fn set(place: &str, options: &str) -> Result<Set> {
    let cluster = CLUSTER.get(usual_cluster).await?;
    let control_plane = ControlPlane::start().await?;
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let user = control_plane.admin();
    let setup = Setup::new()?.cold().kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?;
    let disk = Small::mount(setup.folder().join("state").join(place), &format!("{options},mode=700"))?;
    let runner = setup.engines(&[&engine]).start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    Ok(Set { runner, control_plane, disk, engine })
}

/// A module whose engine waits for a file to go, says much, and waits once more.
fn talkative(lines: u32) -> String {
    format!(
        r#"resource "terraform_data" "talks" {{
  provisioner "local-exec" {{
    command = <<-END
      touch waits holds talks
      while [ -e waits ]; do sleep 0.1; done
      i=0
      while [ $i -lt {lines} ]; do echo line $i of many; i=$((i+1)); done
      rm talks
      while [ -e holds ]; do sleep 0.1; done
    END
  }}
}}
"#
    )
}

/// Starts such a job and waits until it waits; its working copy.
async fn talking(set: &Set, stack: &str, lines: u32) -> Result<(String, PathBuf)> {
    let user = set.control_plane.admin();
    user.stack(stack, "opentofu", &talkative(lines)).await?;
    let id = user.start_job(stack, &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&id, &["applying"], JOB).await?;
    let source = set.runner.state().join("jobs").join(&id).join("work/source");
    gone_or_there(&source.join("waits"), true).await?;
    Ok((id, source))
}

async fn gone_or_there(path: &Path, there: bool) -> Result<()> {
    let what = format!("{} to be {}", path.display(), if there { "there" } else { "gone" });
    eventually(JOB, &what, || async { Ok((path.exists() == there).then_some(())) }).await
}

/// Operations are served, and a new job is refused by that name.
async fn others(user: &User, code: &str) -> Result<()> {
    user.get("/connections/cluster/k8s/namespaces").await.context("an operation")?;
    let stack = format!("refused-{code}").replace('_', "-");
    user.stack(&stack, "opentofu", quick_module()).await?;
    let id = user.start_job(&stack, &json!({ "kind": "preview" })).await?;
    let job = user.job_in(&id, &["failed"], JOB).await?;
    ensure!(job.code() == code, "{}", job.0);
    ensure!(user.events_of(&id, "engine_started").await?.is_empty(), "something of it was started");
    Ok(())
}

/// Nobody asked the engine to stop, and it was started once.
async fn engine_went_on(user: &User, id: &str) -> Result<()> {
    let asked = user.events_of(id, "cancel_progress").await?;
    ensure!(asked.is_empty(), "the engine was asked to stop: {asked:?}");
    let started = user.events_of(id, "engine_started").await?;
    ensure!(started.iter().filter(|e| e["command"] == "apply").count() == 1, "{started:?}");
    Ok(())
}

async fn missing(user: &User, id: &str) -> Result<u64> {
    let notes = user.events_of(id, "output_line").await?;
    let counts = notes.iter().filter_map(|note| {
        let (count, _) = note["text"].as_str()?.split_once(" events are missing here: the disk did not take them.")?;
        count.parse::<u64>().ok()
    });
    Ok(counts.sum())
}

async fn full(freed: bool) -> Result<()> {
    let set = set("", "size=64m").await?;
    let user = set.control_plane.admin();
    let (id, source) = talking(&set, "talks", LINES).await?;
    let filler = set.disk.fill()?;
    others(user, "disk_full").await?;
    std::fs::remove_file(source.join("waits"))?;
    gone_or_there(&source.join("talks"), false).await?;
    others_again(user).await?;
    if freed {
        std::fs::remove_file(&filler)?;
    }
    std::fs::remove_file(source.join("holds"))?;
    let job = user.job_in(&id, &["applied", "failed"], JOB).await?;
    // its state could not be written, which the store of states says
    let expected = if freed { ("applied", "ok") } else { ("failed", "disk_full") };
    ensure!((job.phase(), job.code()) == expected, "{}", job.0);
    engine_went_on(user, &id).await?;
    let missing = missing(user, &id).await?;
    ensure!(missing > 0, "nothing is marked as missing: {}", job.0);
    if freed {
        set.engine.agrees(&set.runner, user, &id, &talkative(LINES)).await?;
    } else {
        // what the engine could not save is not in its state, and the job has said so
        std::fs::remove_file(&filler)?;
    }
    // the same stack goes on once there is room
    let again = user.start_job("talks", &json!({ "kind": "preview" })).await?;
    user.job_in(&again, &["planned", "no_changes"], JOB).await?;
    Ok(())
}

async fn others_again(user: &User) -> Result<()> {
    user.get("/connections/cluster/k8s/namespaces").await.context("an operation on a full disk").map(drop)
}

async fn no_inodes() -> Result<()> {
    let set = set("", "size=256m,nr_inodes=2000").await?;
    let user = set.control_plane.admin();
    let (id, source) = talking(&set, "talks", 10).await?;
    let files = set.disk.fill_inodes()?;
    others(user, "disk_full").await?;
    std::fs::remove_file(source.join("waits"))?;
    std::fs::remove_file(source.join("holds"))?;
    // whether it can write its state without a new file is the engine's to say
    let job = user.job_in(&id, &["applied", "failed"], JOB).await?;
    ensure!(matches!(job.code(), "ok" | "disk_full"), "{}", job.0);
    engine_went_on(user, &id).await?;
    std::fs::remove_dir_all(&files)?;
    if job.code() == "ok" {
        set.engine.agrees(&set.runner, user, &id, &talkative(10)).await?;
    }
    let again = user.start_job("talks", &json!({ "kind": "preview" })).await?;
    user.job_in(&again, &["planned", "no_changes"], JOB).await?;
    Ok(())
}

async fn read_only() -> Result<()> {
    // the lock beside it is held open for writing, which a file system that is to be read only does not allow
    let set = set("jobs", "size=256m").await?;
    let user = set.control_plane.admin();
    user.stack("waits", "opentofu", quick_module()).await?;
    let id = user.start_job("waits", &json!({ "kind": "update" })).await?;
    let plan = user.job_in(&id, &["awaiting_approval"], JOB).await?;
    // whoever has just written there closes it
    eventually(SECONDS, "the disk to be made read-only", || async { Ok(set.disk.remount(true).ok()) }).await?;
    others(user, "state_unusable").await?;
    let body = json!({ "plan_sha256": plan.0["plan"]["sha256"] });
    user.post(&format!("/jobs/{id}/approve"), &body).await?;
    let job = user.job_in(&id, &["failed"], JOB).await?;
    ensure!(job.code() == "state_unusable", "{}", job.0);
    let started = user.events_of(&id, "engine_started").await?;
    ensure!(started.iter().all(|e| e["command"] != "apply"), "what cannot be marked was started: {started:?}");
    set.disk.remount(false)?;
    set.engine.agrees(&set.runner, user, &id, quick_module()).await?;
    let again = user.start_job("waits", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&again, &["applied"], JOB).await?;
    user.events(&id).await?;
    set.engine.agrees(&set.runner, user, &again, quick_module()).await?;
    Ok(())
}
