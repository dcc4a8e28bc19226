//! How the runner is, gathered when somebody asks.

use crate::isolation::Guarantees;
use crate::jobs::Jobs;
use crate::operations::Operations;
use crate::tunnel::{Settings, TunnelStatus};
use serde::{Deserialize, Serialize};
use shared_proto::bounds::{PING_INTERVAL, PING_MISSED};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where it is gathered from.
#[derive(Debug)]
pub struct Facts {
    /// Configuration and credentials.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// How the tunnel is.
    pub tunnel: watch::Receiver<TunnelStatus>,
    /// The operations.
    pub operations: Operations,
    /// The jobs.
    pub jobs: Jobs,
    /// What holds for workers.
    pub guarantees: Guarantees,
    /// This instance's id.
    pub instance: Arc<str>,
    /// Cancelled when the runner leaves.
    pub drain: CancellationToken,
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
    /// The tunnel is open and the control plane answered a ping lately.
    pub ready: bool,
    /// Ready, with a certificate that is valid now.
    pub healthy: bool,
    /// The tunnel.
    pub tunnel: TunnelStatus,
    /// The runner's certificate.
    pub certificate: Certificate,
    /// What holds for workers.
    pub isolation: Isolation,
    /// Operations.
    pub operations: Counts,
    /// Jobs, as `jobs` tells them.
    pub jobs: Vec<serde_json::Value>,
    /// Connections of the configuration.
    pub connections: Vec<Named>,
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

impl Facts {
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
        let lately = (2 * PING_INTERVAL + PING_MISSED).as_millis() as i64;
        let ready = tunnel.state == "open" && now - tunnel.answered_ms < lately;
        let counts = self.operations.counts();
        let jobs = self.jobs.summary().await.unwrap_or_default();
        let facts = &credentials.facts;
        Status {
            version: shared_proto::VERSION.to_owned(),
            pid: std::process::id(),
            organization: credentials.organization.clone(),
            runner: credentials.runner.clone(),
            instance: self.instance.to_string(),
            live: true,
            ready,
            healthy: ready && facts.check_dates(now, None).is_ok(),
            tunnel,
            certificate: Certificate {
                serial: facts.serial.clone(),
                issuer: facts.issuer.clone(),
                not_before: shared_proto::identity::rfc3339(facts.not_before),
                not_after: shared_proto::identity::rfc3339(facts.not_after),
                days_left: (facts.not_after - now / 1000).div_euclid(86_400),
            },
            isolation: Isolation {
                level: self.guarantees.level.as_str().to_owned(),
                require: config.isolation_require.as_str().to_owned(),
                missing: self.guarantees.missing.clone(),
            },
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
