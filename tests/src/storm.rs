//! Everyone comes back at once: a fleet of light sessions and one ordinary runner, whose control plane is killed and started again.

use crate::cluster::ADMIN;
use crate::control_plane::ControlPlane;
use crate::light::{self, Fleet};
use crate::runner::Setup;
use crate::{Cluster, procfs, wait};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NAMESPACES: &str = "/connections/cluster/k8s/namespaces";
/// For what is not measured.
const SETTING_UP: Duration = Duration::from_secs(300);

/// How it went.
#[derive(Debug)]
pub struct Figures {
    /// How many light sessions there were.
    pub sessions: usize,
    /// From the control plane's start until each session was welcome, in order.
    pub back: Vec<Duration>,
    /// From there until the ordinary runner's first operation was served.
    pub served_after: Duration,
    /// Its operations from then on until all sessions were back; none of them failed.
    pub served: u64,
    /// The longest of them.
    pub slowest: Duration,
    /// Processor time of the control plane from its start until all were back.
    pub processor: Duration,
    /// What the control plane has resident for each session, bytes.
    pub memory: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |part: usize| self.back.get((self.back.len() * part / 100).min(self.back.len().saturating_sub(1)));
        let seconds = |d: Option<&Duration>| d.map_or(f64::NAN, Duration::as_secs_f64);
        write!(
            f,
            "{} sessions: back after {:.1} s (p50), {:.1} s (p99), {:.1} s (all); control plane {:.1} s of processor, {:.0} KiB a session; \
             the ordinary runner served after {:.1} s, then {} operations, the slowest {:.0} ms, none failed",
            self.sessions,
            seconds(at(50)),
            seconds(at(99)),
            seconds(self.back.last()),
            self.processor.as_secs_f64(),
            self.memory as f64 / 1024.0,
            self.served_after.as_secs_f64(),
            self.served,
            self.slowest.as_secs_f64() * 1e3,
        )
    }
}

/// Lets it happen.
///
/// # Errors
/// A part does not start, not all are back within the limit, or the ordinary runner is not served.
pub async fn storm(cluster: &Cluster, sessions: usize, limit: Duration) -> Result<Figures> {
    // no more descriptors than a shell gives, unless it asks for them
    let mut control_plane = ControlPlane::with_descriptors(sessions as u64 / 2).await?;
    let user = control_plane.admin().clone();
    let setup = Setup::new()?.kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?;
    let runner = setup.start(&user, "ordinary").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    let credentials = light::credentials(&control_plane, sessions).await?;
    user.get(NAMESPACES).await?;
    let resident = |of: &ControlPlane| procfs::status_bytes(of.process().pid(), "VmRSS");
    let before = resident(&control_plane)?;
    let fleet = Fleet::start(control_plane.runner_address(), credentials)?;
    fleet.all_open(SETTING_UP).await?;
    let memory = resident(&control_plane)?.saturating_sub(before) / sessions as u64;
    user.get(NAMESPACES).await?;

    let mark = runner.mark();
    control_plane.kill();
    fleet.none_open(SETTING_UP).await?;
    runner.message(mark, SETTING_UP, "session ended").await?;
    fleet.opened();
    let start = Instant::now();
    control_plane.start_again().await?;
    let pid = control_plane.process().pid();
    let done = AtomicBool::new(false);
    let all_back = async {
        fleet.all_open(limit.saturating_sub(start.elapsed())).await?;
        done.store(true, Ordering::Release);
        procfs::processor(pid)
    };
    let ordinary = async {
        let left = limit.saturating_sub(start.elapsed());
        let first = || async { user.get(NAMESPACES).await.map(Some) };
        wait::eventually(left, "an operation of the ordinary runner", first).await?;
        let (served_after, mut served, mut slowest) = (start.elapsed(), 0_u64, Duration::ZERO);
        // one more when all are back, so that there is one
        let mut last = false;
        while !last {
            last = done.load(Ordering::Acquire);
            let began = Instant::now();
            user.get(NAMESPACES).await.with_context(|| format!("operation {served} of the ordinary runner"))?;
            slowest = slowest.max(began.elapsed());
            served += 1;
        }
        Ok((served_after, served, slowest))
    };
    let (processor, (served_after, served, slowest)) = tokio::try_join!(all_back, ordinary)?;
    let back: Vec<_> = fleet.opened().into_iter().map(|at| at.saturating_duration_since(start)).collect();
    ensure!(back.len() >= sessions, "{} sessions were welcome", back.len());
    Ok(Figures { sessions, back, served_after, served, slowest, processor, memory })
}
