//! How the runner is, gathered when somebody asks.

use crate::clock::since_boot;
use crate::intake::Intake;
use crate::isolation::Guarantees;
use crate::jobs::Jobs;
use crate::operations::Operations;
use crate::recorder::{Recorder, RecorderStatus};
use crate::tunnel::leaf::Leaves;
use crate::tunnel::{Settings, TunnelStatus};
use serde::{Deserialize, Serialize};
use shared_proto::bounds::{PING_INTERVAL, PING_MISSED};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Where it is gathered from.
#[derive(Debug)]
pub struct Facts {
    /// Configuration and credentials.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Why the last order to reload changed nothing, if it did not.
    pub reload_refused: watch::Receiver<Option<ReloadRefused>>,
    /// How the tunnel is.
    pub tunnel: watch::Receiver<TunnelStatus>,
    /// The certificates.
    pub leaves: Leaves,
    /// The operations.
    pub operations: Operations,
    /// The audit log.
    pub recorder: Recorder,
    /// The jobs.
    pub jobs: Jobs,
    /// What holds for workers.
    pub guarantees: Guarantees,
    /// This instance's id.
    pub instance: Arc<str>,
    /// Whether new work is taken.
    pub intake: Intake,
    /// Cancelled when the runner leaves.
    pub drain: CancellationToken,
    /// Where a hand-over is asked for.
    pub upgrades: mpsc::Sender<super::Upgrade>,
}

/// An order to read configuration, credentials and policy again that changed nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadRefused {
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// What is wrong with what was read.
    pub reason: String,
}

/// How the runner is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// The supervisor's process id.
    pub pid: u32,
    /// Its organization's id.
    pub organization: String,
    /// Its id.
    pub runner: String,
    /// The instance's id.
    pub instance: String,
    /// The supervisor answers.
    pub live: bool,
    /// The tunnel is open, the control plane answered a ping lately, and new work is taken.
    pub ready: bool,
    /// Ready, with a certificate that is valid now.
    pub healthy: bool,
    /// No new work is taken: `runner drain`.
    pub draining: bool,
    /// The tunnel.
    pub tunnel: TunnelStatus,
    /// The runner's certificate.
    pub certificate: Certificate,
    /// What holds for workers.
    pub isolation: Isolation,
    /// The policy: its file, and what is wrong with it; empty: nothing.
    pub policy: Policy,
    /// The audit log.
    pub audit: RecorderStatus,
    /// Operations.
    pub operations: Counts,
    /// Jobs, as `jobs` tells them.
    pub jobs: Vec<serde_json::Value>,
    /// Connections of the configuration.
    pub connections: Vec<Named>,
    /// Where the states are of stacks without a backend.
    pub states: String,
    /// Why it goes on with what it read before the last SIGHUP; none: it has read what is there.
    pub reload_refused: Option<ReloadRefused>,
}

/// The runner's certificate.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Its serial number.
    pub serial: String,
    /// Its issuer.
    pub issuer: String,
    /// First moment of validity, RFC 3339.
    pub not_before: String,
    /// Last moment of validity, RFC 3339.
    pub not_after: String,
    /// Whole days until then; negative: it is over.
    pub days_left: i64,
    /// When the runner asks for the next one, RFC 3339.
    pub renews_at: String,
    /// The file that it is from: the credentials file, or the renewed one in the state directory.
    pub file: String,
    /// Whether this instance has renewed it by itself.
    pub renewed: bool,
    /// What is wrong with the renewed one; empty: nothing.
    pub trouble: String,
}

/// What holds for workers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// The name for it.
    pub level: String,
    /// What the configuration requires.
    pub require: String,
    /// Guarantees that do not hold.
    pub missing: Vec<String>,
}

/// The policy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Its file.
    pub file: String,
    /// Whether that is there.
    pub there: bool,
    /// Why it cannot be used, and nothing is allowed; empty: it can.
    pub trouble: String,
}

/// Operations.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Running now.
    pub running: u32,
    /// At most at once.
    pub max: u32,
    /// Ended since the start.
    pub served: u64,
    /// Those of them, and of the running ones, whose worker was there before them.
    pub started_warm: u64,
    /// Workers that wait for one.
    pub waiting: usize,
}

/// A connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its provider.
    pub provider: String,
}

// === impl Status ===

impl Status {
    /// Operations that run, and jobs that have not ended or whose end is not reported.
    pub fn at_work(&self) -> (u32, usize) {
        let done = |job: &&serde_json::Value| job.get("done").and_then(serde_json::Value::as_bool) == Some(true);
        (self.operations.running, self.jobs.len() - self.jobs.iter().filter(done).count())
    }
}

// === impl Facts ===

impl Facts {
    /// How the runner is after something was done, or why that was not done.
    ///
    /// # Errors
    /// It cannot be put into words.
    pub(super) async fn document(&self, done: std::io::Result<()>) -> serde_json::Result<Vec<u8>> {
        match done {
            Ok(()) => serde_json::to_vec(&self.status().await),
            Err(e) => serde_json::to_vec(&serde_json::json!({ "error": format!("the state directory: {e}") })),
        }
    }

    /// Hands over to another process, and says what came of it.
    ///
    /// # Errors
    /// It cannot be put into words.
    pub(super) async fn upgraded(&self) -> serde_json::Result<Vec<u8>> {
        let (reply, answer) = oneshot::channel();
        // one at a time: whoever finds another one waiting is told so
        let asked = self.upgrades.try_send(reply).is_ok();
        let answer = if asked { answer.await.ok() } else { None };
        serde_json::to_vec(&match answer {
            Some(Ok(upgraded)) => serde_json::json!({ "upgraded": upgraded }),
            Some(Err(refusal)) => serde_json::json!({
                "error": refusal.failure.message,
                "next_step": refusal.failure.next_step,
                "exit": refusal.exit,
            }),
            None => serde_json::json!({ "error": "another hand-over is under way, or the runner is stopping" }),
        })
    }

    /// Makes another key for the audit log, and says its public half or why there is none.
    ///
    /// # Errors
    /// It cannot be put into words.
    pub(super) async fn audit_key_rotated(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&match self.recorder.change_key().await {
            Ok(key) => serde_json::json!({ "key": key.to_pem() }),
            Err(failure) => serde_json::json!({ "error": failure.message, "next_step": failure.next_step }),
        })
    }

    /// Gathers.
    pub async fn status(&self) -> Status {
        let settings = self.settings.borrow().clone();
        let mut tunnel = self.tunnel.borrow().clone();
        // what is in flight goes on over a tunnel that takes nothing new
        if self.drain.is_cancelled() {
            tunnel.state = "leaving".to_owned();
        }
        let (config, credentials) = (&settings.config, &settings.credentials);
        let now = shared_proto::now_ms();
        let lately = 2 * PING_INTERVAL + PING_MISSED;
        let draining = self.intake.draining();
        let ready = !draining && tunnel.state == "open" && since_boot().saturating_sub(tunnel.answered) < lately;
        let counts = self.operations.counts();
        let jobs = self.jobs.summary().await.unwrap_or_default();
        let leaf = self.leaves.current(credentials);
        let facts = &leaf.facts;
        Status {
            version: shared_proto::VERSION.to_owned(),
            pid: std::process::id(),
            organization: credentials.organization.clone(),
            runner: credentials.runner.clone(),
            instance: self.instance.to_string(),
            live: true,
            draining,
            ready,
            healthy: ready && facts.check_dates(now, None).is_ok(),
            tunnel,
            certificate: Certificate {
                serial: facts.serial.clone(),
                issuer: facts.issuer.clone(),
                not_before: shared_proto::identity::rfc3339(facts.not_before),
                not_after: shared_proto::identity::rfc3339(facts.not_after),
                days_left: (facts.not_after - now / 1000).div_euclid(86_400),
                renews_at: shared_proto::identity::rfc3339(facts.renewal_due()),
                file: if leaf.renewed { self.leaves.path() } else { credentials.path.clone() }.display().to_string(),
                renewed: leaf.renewed,
                trouble: self.leaves.trouble().map(|f| f.to_string()).unwrap_or_default(),
            },
            isolation: Isolation {
                level: self.guarantees.level.as_str().to_owned(),
                require: config.isolation_require.as_str().to_owned(),
                missing: self.guarantees.missing.clone(),
            },
            states: config.jobs.states.called(),
            reload_refused: self.reload_refused.borrow().clone(),
            policy: Policy {
                file: config.policy.path.display().to_string(),
                there: config.policy.path.exists(),
                trouble: settings.policy.reason().unwrap_or_default().to_owned(),
            },
            audit: self.recorder.status(),
            operations: Counts {
                running: counts.running,
                max: config.max_operations,
                served: counts.served,
                started_warm: counts.started_warm,
                waiting: counts.waiting,
            },
            jobs: jobs.iter().filter_map(|j| serde_json::to_value(j).ok()).collect(),
            connections: config
                .connections
                .iter()
                .map(|(name, c)| Named { name: name.clone(), provider: c.provider().to_owned() })
                .collect(),
        }
    }
}
