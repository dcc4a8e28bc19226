//! Keeps a session: attempts, waits, and says what happened.

use super::backoff::{self, Backoff, Limits};
use super::dial::{Dial, PeerClock};
use super::leaf::Leaves;
use super::netwatch::{self, NetWatch};
use super::renewal::Renewal;
use super::session::{Conversation, Ended};
use super::succession::Succession;
use super::{Settings, serve};
use crate::audit::Sealed;
use crate::clock::{Suspension, since_boot};
use crate::engines::Engines;
use crate::operations::Operations;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::{TUNNEL_ALPN, v1};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Attempts that a change of the network brings about are this far apart at least: an interface that comes up says a dozen things.
const NETWORK_SPACING: Duration = Duration::from_millis(250);
/// What operations that were cut as the runner left get to say so.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How the tunnel is, as `runner status` shows it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelStatus {
    /// connecting, open, waiting, leaving.
    pub state: String,
    /// `host:port` of the control plane.
    pub endpoint: String,
    /// The session's id while it is open.
    pub session: String,
    /// The control plane's version, once it is known.
    pub control_plane: String,
    /// When the session was opened, Unix milliseconds; 0: it is not.
    pub since_ms: i64,
    /// When the control plane last answered a ping, Unix milliseconds.
    pub answered_ms: i64,
    /// The same by the time since boot, which nobody sets.
    #[serde(skip)]
    pub answered: Duration,
    /// The last round trip, milliseconds.
    pub round_trip_ms: f64,
    /// Attempts since the start.
    pub attempts: u64,
    /// What the last attempt or session failed with, while no session is open.
    pub last_failure: Option<LastFailure>,
}

/// What the last attempt failed with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastFailure {
    /// The code.
    pub code: String,
    /// What failed, on what.
    pub message: String,
    /// What to do next.
    pub next_step: String,
    /// When, Unix milliseconds.
    pub at_ms: i64,
}

/// What the tunnel is kept with.
pub struct Parts<D> {
    /// Configuration and credentials.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Dials.
    pub dialer: D,
    /// The control plane's clock.
    pub clock: PeerClock,
    /// The certificates.
    pub leaves: Leaves,
    /// Serves operations.
    pub operations: Operations,
    /// This instance's id.
    pub instance: Arc<str>,
    /// This process's.
    pub incarnation: Arc<str>,
    /// What the runner says of itself beside what the settings say.
    pub about: About,
    /// Where the tunnel says how it is.
    pub status: watch::Sender<TunnelStatus>,
    /// Whether nothing new is taken.
    pub draining: watch::Receiver<bool>,
    /// The audit log's newest seal.
    pub seals: watch::Receiver<Option<Sealed>>,
    /// Cancelled when the runner leaves.
    pub drain: CancellationToken,
    /// Whoever is to have the session's place.
    pub succession: Succession,
    /// Cancelled when what is in flight as the runner leaves has had its grace already.
    pub hurry: CancellationToken,
    /// What is shown until a session is welcome, where this process takes another one's place.
    pub token: Option<Secret>,
}

/// What the runner says of itself.
#[derive(Debug, Clone)]
pub struct About {
    /// The level of isolation.
    pub isolation_level: String,
    /// The guarantees that it does not give.
    pub isolation_missing: Vec<String>,
    /// The machine's name.
    pub hostname: String,
    /// The engines: which of them there are is looked at for each session.
    pub engines: Engines,
    /// The key that variables are sealed to; empty: there is none.
    pub seal_key: Vec<u8>,
}

// === impl TunnelStatus ===

impl TunnelStatus {
    pub(super) fn opened(&mut self, welcome: &v1::Welcome) {
        self.state = "open".to_owned();
        self.session.clone_from(&welcome.session_id);
        self.control_plane.clone_from(&welcome.version);
        self.since_ms = shared_proto::now_ms();
        self.answered_ms = self.since_ms;
        self.answered = since_boot();
        self.last_failure = None;
    }
    pub(super) fn answered(&mut self, round_trip: Duration) {
        self.answered_ms = shared_proto::now_ms();
        self.answered = since_boot();
        self.round_trip_ms = round_trip.as_secs_f64() * 1000.0;
    }
    fn waits(&mut self, failure: Option<&Failure>) {
        self.state = "waiting".to_owned();
        self.session.clear();
        self.since_ms = 0;
        if let Some(failure) = failure {
            self.last_failure = Some(LastFailure {
                code: failure.code.as_str().to_owned(),
                message: failure.message.clone(),
                next_step: failure.next_step.clone(),
                at_ms: shared_proto::now_ms(),
            });
        }
    }
}

/// Keeps a session until the runner leaves.
pub async fn run<D: Dial>(mut parts: Parts<D>) {
    let mut settings = parts.settings.clone();
    let mut network = NetWatch::new();
    let mut suspension = Suspension::default();
    let mut backoff = Backoff::new(limits(&settings.borrow()));
    while !parts.drain.is_cancelled() {
        let now = settings.borrow_and_update().clone();
        backoff.limit(limits(&now));
        network.forget();
        let started = Instant::now();
        let (welcomed, ended) = attempt(&parts, &now, &mut network).await;
        let lasted = welcomed.is_some_and(|since| since.elapsed() >= now.config.tunnel.lasted);
        let retry_after = match &ended {
            Ended::Refused(_, after) | Ended::Left(_, after) => *after,
            Ended::Failed(_) | Ended::Drained | Ended::Woke(_) => None,
        };
        report(&ended, welcomed.is_some());
        let failure = match &ended {
            Ended::Failed(f) | Ended::Refused(f, _) => Some(f),
            Ended::Left(..) | Ended::Drained | Ended::Woke(_) => None,
        };
        parts.status.send_modify(|s| s.waits(failure));
        if matches!(ended, Ended::Drained) {
            break;
        }
        if lasted || matches!(ended, Ended::Woke(_)) {
            backoff.reset();
        }
        if welcomed.is_some() {
            // what was during a session was its own matter
            suspension = Suspension::default();
            // it was good once
            parts.token = None;
        }
        if matches!(ended, Ended::Woke(_)) {
            continue;
        }
        // the cut begins where a session ended, not where it had begun
        let from = if lasted { Instant::now() } else { started };
        let next = backoff.after(from, Instant::now(), backoff::random(), retry_after);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            away = suspension.woke(), if retry_after.is_none() => {
                tracing::info!(suspended_s = away.as_secs(), "this machine was suspended, trying at once");
                backoff.reset();
            }
            () = network.changed(), if retry_after.is_none() => {
                tracing::info!("the network changed, trying at once");
                tokio::time::sleep_until(started + NETWORK_SPACING).await;
            }
            Ok(()) = settings.changed() => {}
            () = parts.drain.cancelled() => {}
        }
    }
    parts.status.send_modify(|s| s.state = "leaving".to_owned());
}

/// One attempt, and the session if it comes to one.
async fn attempt<D: Dial>(parts: &Parts<D>, settings: &Settings, network: &mut NetWatch) -> (Option<Instant>, Ended) {
    let endpoint = &settings.credentials.tunnel;
    parts.status.send_modify(|s| {
        s.state = "connecting".to_owned();
        s.endpoint = endpoint.authority();
        s.attempts += 1;
    });
    let leaf = parts.leaves.current(&settings.credentials);
    if let Err(failure) = leaf.facts.check_dates(shared_proto::now_ms(), parts.clock.now_ms()) {
        // said before the other end's alert says it; tried all the same: our clock may be the one that is wrong
        tracing::warn!(code = %failure.code, detail = failure.message, "certificate dates");
    }
    let connected = tokio::select! {
        connected = parts.dialer.dial(endpoint, TUNNEL_ALPN) => connected,
        () = parts.drain.cancelled() => return (None, Ended::Drained),
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(failure) => return (None, Ended::Failed(failure)),
    };
    let config = &settings.config;
    let operations = parts.operations.session(config.budget, config.max_operations);
    let local = connected.local;
    let probe = Arc::new(Notify::new());
    let (welcomed, mut was_welcomed) = oneshot::channel();
    let conversation = Conversation {
        hello: hello(parts, settings),
        clock: parts.clock.clone(),
        operations: operations.clone(),
        status: parts.status.clone(),
        draining: parts.draining.clone(),
        settings: parts.settings.clone(),
        seals: parts.seals.clone(),
        drain: parts.drain.clone(),
        grace: config.drain_grace(),
        probe: probe.clone(),
        renewal: Renewal { leaves: parts.leaves.clone(), settings: parts.settings.clone(), clock: parts.clock.clone() },
        succession: parts.succession.clone(),
        hurry: parts.hurry.clone(),
        welcomed,
    };
    let over = operations.clone();
    let serving =
        serve::serve(connected, conversation, operations, config.budget, config.max_operations, parts.drain.clone());
    let ended = tokio::select! {
        ended = serving => ended,
        address = moved(network, local, &probe) => Ended::Failed(
            Code::ConnectionLost
                .on(format!("this machine lost the address {address}, from which the session was opened"))
                .next("Nothing to do: the runner dials again."),
        ),
    };
    over.over();
    if let Ended::Refused(why, _) = &ended {
        parts.leaves.refused(&leaf, &settings.credentials, why);
    }
    if matches!(ended, Ended::Drained) {
        // the process ends next: what was cut says so before
        let _ = tokio::time::timeout(LAST_WORDS, over.idle()).await;
    }
    (was_welcomed.try_recv().ok(), ended)
}

/// Resolves when the machine has lost the session's own address: what is sent from it gets no answer, and no error either. At any other
/// change the session has its other end asked.
async fn moved(network: &mut NetWatch, local: Option<IpAddr>, probe: &Notify) -> IpAddr {
    loop {
        network.changed().await;
        match local {
            Some(address) if !netwatch::is_ours(address) => return address,
            _ => probe.notify_one(),
        }
    }
}

fn hello<D>(parts: &Parts<D>, settings: &Settings) -> v1::Hello {
    let (config, credentials) = (&settings.config, &settings.credentials);
    v1::Hello {
        protocol: shared_proto::PROTOCOL,
        version: shared_proto::VERSION.to_owned(),
        organization_id: credentials.organization.clone(),
        runner_id: credentials.runner.clone(),
        instance_id: parts.instance.to_string(),
        api_key: credentials.api_key.expose().to_owned(),
        runner_time_ms: shared_proto::now_ms(),
        isolation_level: parts.about.isolation_level.clone(),
        isolation_missing: parts.about.isolation_missing.clone(),
        max_operations: config.max_operations,
        budget_bytes: config.budget,
        connections: config
            .connections
            .iter()
            .map(|(name, c)| v1::ConnectionEntry { name: name.clone(), provider: c.provider().to_owned() })
            .collect(),
        hostname: parts.about.hostname.clone(),
        engines: parts.about.engines.names(),
        incarnation: parts.incarnation.to_string(),
        draining: *parts.draining.borrow(),
        policy: settings.policy.summary_text(),
        hand_over_token: parts.token.iter().flat_map(|token| token.expose().bytes()).collect(),
        seal_key: parts.about.seal_key.clone(),
    }
}

fn report(ended: &Ended, was_open: bool) {
    match (ended, was_open) {
        (Ended::Failed(f) | Ended::Refused(f, _), true) => {
            tracing::warn!(reason = f.message, code = %f.code, "session ended");
        }
        (Ended::Failed(f) | Ended::Refused(f, _), false) => {
            tracing::warn!(code = %f.code, detail = f.message, next_step = f.next_step, "attempt failed");
        }
        (Ended::Left(reason, after), _) => {
            tracing::info!(reason, retry_after_ms = after.map_or(0, |d| d.as_millis() as u64), "session ended");
        }
        (Ended::Woke(away), _) => {
            tracing::info!(reason = "this machine was suspended", suspended_s = away.as_secs(), "session ended");
        }
        (Ended::Drained, true) => tracing::info!(reason = "the runner is stopping", "session ended"),
        (Ended::Drained, false) => {}
    }
}

fn limits(settings: &Settings) -> Limits {
    let t = &settings.config.tunnel;
    Limits { first: t.backoff_first, early_max: t.backoff_early_max, max: t.backoff_max }
}
