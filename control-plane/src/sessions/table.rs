//! All sessions of all runners, behind one short lock that never waits: who is there, and which session takes an operation.
//!
//! Nothing outside this file touches the map. A session is in it from its welcome to its end.

use super::Presence;
use super::channel::Channel;
use super::registry::Verified;
use super::succession::Announced;
use shared_proto::failure::{Code, Failure};
use shared_proto::flow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Instances of one runner at once; with those whose place another process has taken, twice as many sessions.
pub(crate) const INSTANCES_MAX: usize = 64;

/// What one session is told.
pub(crate) enum Command {
    /// Ask the runner at once; answer when it does.
    Probe(oneshot::Sender<()>),
    /// Say that the control plane leaves.
    Leave { reason: String, retry_after_ms: u32 },
    /// Another session has its place: say so once nothing is in flight on it.
    Succeeded,
}

/// An entry of the runner's configuration, as it reported it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Its name there.
    pub name: String,
    /// kubernetes, aws.
    pub provider: String,
}

/// What a runner said of itself in its Hello, cut to size. For people to read, never to route by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) instance_id: String,
    pub(crate) incarnation: String,
    pub(crate) version: String,
    pub(crate) hostname: String,
    pub(crate) isolation_level: String,
    pub(crate) isolation_missing: Vec<String>,
    pub(crate) connections: Vec<Entry>,
    pub(crate) engines: Vec<String>,
    pub(crate) seal_key: String,
    pub(crate) policy: serde_json::Value,
}

/// The newest certificate that a session's runner is known to have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SessionCertificate {
    /// Its serial.
    pub serial: String,
    /// When it ends, Unix milliseconds.
    pub not_after_ms: i64,
    /// Whether the instance has renewed it by itself; else it is the credentials file's.
    pub renewed: bool,
}

/// One session.
pub(crate) struct Live {
    pub(crate) id: String,
    pub(crate) who: Verified,
    pub(crate) about: About,
    pub(crate) connected_at_ms: i64,
    pub(crate) max_operations: u32,
    pub(crate) channel: Channel,
    pub(crate) budget: flow::Budget,
    pub(crate) send: flow::SendShare,
    pub(crate) healthy: AtomicBool,
    pub(crate) leaving: AtomicBool,
    /// It said that it takes nothing new; what is in flight goes on.
    pub(crate) draining: AtomicBool,
    /// What its policy comes to, as it said last.
    pub(crate) policy: Mutex<serde_json::Value>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Whoever shows what this is about gets its place.
    announced: Announced,
    /// Another process of its instance has its place: nothing new is routed here as long as that one takes it.
    succeeded: AtomicBool,
    certificate: Mutex<SessionCertificate>,
    /// Why it ended, once it has.
    pub(crate) ended: watch::Sender<Option<Failure>>,
    operations: AtomicU32,
    /// Woken whenever an operation ends.
    idle: tokio::sync::Notify,
}

/// The parts that a session is made of.
pub(crate) struct NewLive {
    pub(crate) id: String,
    pub(crate) who: Verified,
    pub(crate) about: About,
    pub(crate) max_operations: u32,
    pub(crate) draining: bool,
    pub(crate) channel: Channel,
    pub(crate) shares: flow::Shares,
    pub(crate) commands: mpsc::Sender<Command>,
}

/// One of a session's operations; the count goes back when it is dropped.
pub(crate) struct Slot {
    pub(crate) session: Arc<Live>,
}

/// Why no session takes an operation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoSlot {
    /// None is connected.
    Absent,
    /// All that are connected miss a round trip.
    Unhealthy,
    /// All that are connected are leaving.
    Leaving,
    /// All that are healthy are being drained.
    Draining,
    /// All healthy ones are full.
    Full,
}

/// An instance of a runner that is connected.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Instance {
    /// Its own id, kept in its state directory.
    pub instance_id: String,
    /// This session's.
    pub session_id: String,
    /// The runner's version.
    pub version: String,
    /// The machine's name.
    pub hostname: String,
    /// Since when, Unix milliseconds.
    pub connected_at_ms: i64,
    /// Whether it answers its round trips and is not leaving.
    pub healthy: bool,
    /// Whether it said that it leaves.
    pub leaving: bool,
    /// Whether it said that it takes no new work for now.
    pub draining: bool,
    /// Operations at this moment.
    pub operations: u32,
    /// namespaces, confined, minimal.
    pub isolation_level: String,
    /// Guarantees that do not hold there.
    pub isolation_missing: Vec<String>,
    /// The connections that its configuration names.
    pub connections: Vec<Entry>,
    /// The engines that it found.
    pub engines: Vec<String>,
    /// The key that variables are sealed to, as hexadecimal digits; empty: it has none.
    pub seal_key: String,
    /// What its policy comes to, in its own words; null: it does not say.
    pub policy: serde_json::Value,
    /// Its newest certificate.
    pub certificate: SessionCertificate,
}

#[derive(Default)]
pub(crate) struct Table {
    runners: Mutex<HashMap<Key, Vec<Arc<Live>>>>,
}

/// Organization and runner: a caller that names another organization's runner finds nothing.
type Key = (String, String);

// === impl Live ===

impl Live {
    pub(crate) fn new(new: NewLive) -> Arc<Self> {
        Arc::new(Self {
            budget: flow::Budget::new(new.shares.receive, new.max_operations),
            send: flow::SendShare::new(new.shares.send),
            certificate: Mutex::new(SessionCertificate {
                serial: new.who.serial.clone(),
                not_after_ms: new.who.not_after_ms,
                renewed: new.who.instance.is_some(),
            }),
            id: new.id,
            who: new.who,
            policy: Mutex::new(new.about.policy.clone()),
            about: new.about,
            connected_at_ms: shared_proto::now_ms(),
            max_operations: new.max_operations,
            channel: new.channel,
            healthy: AtomicBool::new(true),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(new.draining),
            commands: new.commands,
            announced: Announced::default(),
            succeeded: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            operations: AtomicU32::new(0),
            idle: tokio::sync::Notify::new(),
        })
    }
    pub(crate) fn certificate(&self) -> SessionCertificate {
        self.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub(crate) fn renewed(&self, certificate: SessionCertificate) {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = certificate;
    }
    pub(crate) fn operations(&self) -> u32 {
        self.operations.load(Ordering::Acquire)
    }
    pub(crate) fn routable(&self) -> bool {
        self.healthy.load(Ordering::Acquire) && !self.leaving.load(Ordering::Acquire) && !self.channel.closed()
    }
    /// Whoever shows the token with that digest within its life gets this session's place, once.
    pub(crate) fn announce(&self, token_sha256: [u8; 32], now: Instant) {
        if !self.succeeded() {
            self.announced.announce(token_sha256, now);
        }
    }
    /// Another process of its instance has its place; it is told so once nothing is in flight on it.
    fn give_way(&self) {
        self.succeeded.store(true, Ordering::Release);
        // where its queue is full it is seen at its next round
        let _ = self.commands.try_send(Command::Succeeded);
    }
    /// Whether another process of its instance has its place.
    pub(crate) fn succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Acquire)
    }
    /// Whether it takes operations.
    fn takes(&self) -> bool {
        self.routable() && !self.draining.load(Ordering::Acquire)
    }
    /// Ends it, for this reason unless it has ended already. Its operations and its own task see it at once.
    pub(crate) fn close(&self, why: Failure) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why);
            }
            first
        });
    }
    /// Waits until it has ended.
    pub(crate) async fn ended(&self) -> Failure {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            // the sender is in `self`: it cannot be gone
            _ => Code::ConnectionLost.on("the session ended"),
        }
    }
    /// Waits until it has no operation.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.idle.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.operations() == 0 {
                return;
            }
            changed.await;
        }
    }
    fn view(&self) -> Instance {
        Instance {
            instance_id: self.about.instance_id.clone(),
            session_id: self.id.clone(),
            version: self.about.version.clone(),
            hostname: self.about.hostname.clone(),
            connected_at_ms: self.connected_at_ms,
            healthy: self.routable(),
            leaving: self.leaving.load(Ordering::Acquire) || self.succeeded(),
            draining: self.draining.load(Ordering::Acquire),
            operations: self.operations(),
            isolation_level: self.about.isolation_level.clone(),
            isolation_missing: self.about.isolation_missing.clone(),
            connections: self.about.connections.clone(),
            engines: self.about.engines.clone(),
            seal_key: self.about.seal_key.clone(),
            policy: self.policy.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            certificate: self.certificate(),
        }
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.session.operations.fetch_sub(1, Ordering::AcqRel);
        self.session.idle.notify_waiters();
    }
}

// === impl Table ===

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Live>>>> {
        // nothing panics while holding it
        self.runners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a session in, unless another one has its instance id: that one comes back. With a hand-over token (else empty) it takes the
    /// place of the one that has announced it, which is given.
    pub(crate) fn insert(&self, live: &Arc<Live>, token: &[u8], now: Instant) -> Result<Option<Arc<Live>>, Taken> {
        let mut runners = self.lock();
        let sessions = runners.entry(key(&live.who)).or_default();
        if sessions.len() >= 2 * INSTANCES_MAX {
            return Err(Taken::Full);
        }
        let holder = sessions.iter().find(|s| s.about.instance_id == live.about.instance_id && !s.succeeded()).cloned();
        let predecessor = match holder {
            None if token.is_empty() => None,
            Some(holder) if token.is_empty() => return Err(Taken::Instance(holder)),
            Some(holder) if holder.announced.redeem(token, now) => {
                holder.give_way();
                Some(holder)
            }
            _ => return Err(Taken::Token),
        };
        if sessions.iter().filter(|s| !s.succeeded()).count() >= INSTANCES_MAX {
            return Err(Taken::Full);
        }
        sessions.push(live.clone());
        Ok(predecessor)
    }

    /// A session keeps its place, or has it back: nobody is to come, and whoever has come finishes what it has.
    pub(crate) fn take_back(&self, live: &Live) {
        let runners = self.lock();
        live.announced.withdraw();
        if !live.succeeded() {
            return;
        }
        for session in runners.get(&key(&live.who)).into_iter().flatten() {
            if session.id != live.id && session.about.instance_id == live.about.instance_id && !session.succeeded() {
                session.give_way();
            }
        }
        live.succeeded.store(false, Ordering::Release);
    }

    /// Lets a session go. Whether it was the runner's last.
    pub(crate) fn remove(&self, live: &Live) -> bool {
        let mut runners = self.lock();
        let key = key(&live.who);
        let Some(sessions) = runners.get_mut(&key) else { return true };
        sessions.retain(|s| s.id != live.id);
        let last = sessions.is_empty();
        if last {
            runners.remove(&key);
        }
        last
    }

    /// The healthy session with the fewest operations, and one of its operations.
    pub(crate) fn choose(&self, organization: &str, runner: &str) -> Result<Slot, NoSlot> {
        let runners = self.lock();
        let Some(sessions) = runners.get(&(organization.to_owned(), runner.to_owned())) else {
            return Err(NoSlot::Absent);
        };
        // one whose place another has is there for when that one is gone
        let succeeded = !sessions.iter().any(|s| s.takes() && !s.succeeded());
        let takes = |s: &&Arc<Live>| s.takes() && s.succeeded() == succeeded;
        let Some(least) = sessions.iter().filter(takes).min_by_key(|s| s.operations()) else {
            return Err(match presence(sessions) {
                Presence::Leaving => NoSlot::Leaving,
                Presence::Draining => NoSlot::Draining,
                _ => NoSlot::Unhealthy,
            });
        };
        let session = if least.operations() < least.max_operations {
            least
        } else {
            // limits may differ between instances
            sessions.iter().filter(takes).find(|s| s.operations() < s.max_operations).ok_or(NoSlot::Full)?
        };
        // counts only grow under the lock, so the limit holds
        session.operations.fetch_add(1, Ordering::AcqRel);
        Ok(Slot { session: session.clone() })
    }

    pub(crate) fn of_runner(&self, organization: &str, runner: &str) -> Vec<Arc<Live>> {
        self.lock().get(&(organization.to_owned(), runner.to_owned())).cloned().unwrap_or_default()
    }

    /// The sessions of a runner, whichever organization's: ids of runners are unique.
    pub(crate) fn of_runner_id(&self, runner: &str) -> Vec<Arc<Live>> {
        self.lock().iter().filter(|((_, r), _)| r == runner).flat_map(|(_, s)| s.iter().cloned()).collect()
    }

    /// Which process of an instance has its session.
    pub(crate) fn incarnation(&self, who: &Verified, instance: &str) -> Option<String> {
        let runners = self.lock();
        let of_instance = runners.get(&key(who))?.iter().filter(|s| s.about.instance_id == instance);
        let session = of_instance.min_by_key(|s| s.succeeded())?;
        Some(session.about.incarnation.clone())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.lock().values().flatten().cloned().collect()
    }

    pub(crate) fn instances(&self, organization: &str, runner: &str) -> Vec<Instance> {
        let mut instances: Vec<_> = self.of_runner(organization, runner).iter().map(|s| s.view()).collect();
        instances.sort_by(|a, b| (a.connected_at_ms, &a.session_id).cmp(&(b.connected_at_ms, &b.session_id)));
        instances
    }
}

/// Whether a runner with these sessions is there, and what it would do with an operation.
pub(crate) fn presence(sessions: &[Arc<Live>]) -> Presence {
    match sessions {
        [] => Presence::Absent,
        some if some.iter().any(|s| s.takes()) => Presence::Connected,
        some if some.iter().all(|s| s.leaving.load(Ordering::Acquire)) => Presence::Leaving,
        some if some.iter().any(|s| s.routable()) => Presence::Draining,
        _ => Presence::Unhealthy,
    }
}

/// Why a session is not taken in.
pub(crate) enum Taken {
    /// Another live session has its instance id.
    Instance(Arc<Live>),
    /// No session has announced its token, or that was used, or is over.
    Token,
    /// The runner has too many.
    Full,
}

fn key(who: &Verified) -> Key {
    (who.organization.clone(), who.runner.clone())
}

// === impl NoSlot ===

impl NoSlot {
    /// As the caller is told; `seen`: when the runner was last there, in words.
    pub(crate) fn failure(&self, runner: &str, seen: &str) -> Failure {
        match self {
            Self::Absent => Code::RunnerUnavailable.on(format!("runner {runner} is not connected; {seen}")),
            Self::Unhealthy => {
                Code::RunnerUnavailable.on(format!("runner {runner} is connected but does not answer; {seen}"))
            }
            Self::Leaving => Code::RunnerLeaving.on(format!("runner {runner} is shutting down; {seen}")),
            Self::Draining => Code::RunnerLeaving
                .on(format!("runner {runner} is being drained and takes nothing new"))
                .next("Name another runner, or run `runner drain --undo` on the runner's machine."),
            Self::Full => Code::Busy.on(format!("runner {runner} has as many operations as it takes at once")),
        }
    }
}
