//! Which instances ask for work now: one Work stream each. The newest one of an instance's process counts; another process with the same
//! id takes its place only with the instance's session. One short lock over a private map.

use super::service::HELD_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Items on their way to one instance.
pub(super) const ITEMS_MAX: usize = 64;

/// Instances of one runner that ask for work at once.
const INSTANCES_MAX: usize = 64;

/// All Work streams. Cloning is cheap.
#[derive(Clone, Default)]
pub(super) struct Streams {
    inner: Arc<Mutex<HashMap<(String, String), Open>>>,
    /// Since when those are away of which something is waited for, by the steady clock.
    away: Arc<Mutex<HashMap<(String, String), i64>>>,
}

struct Open {
    id: uuid::Uuid,
    incarnation: String,
    /// Jobs that the instance does at once.
    slots: u32,
    items: mpsc::Sender<Result<v1::WorkItem, Status>>,
    replaced: CancellationToken,
    /// Jobs of its own that it presented and that are not wanted; as many as it may hold.
    refused: HashSet<String>,
}

/// One stream's place among them.
pub(super) struct Place {
    streams: Streams,
    key: (String, String),
    id: uuid::Uuid,
    incarnation: String,
    /// Cancelled when the same instance asks anew.
    pub(super) replaced: CancellationToken,
}

// === impl Streams ===

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Open>> {
        // nothing panics while holding it
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Takes a stream in, in the place of an older one of the same process. `session`: the process that has the instance's session.
    ///
    /// # Errors
    /// `instance_conflict` where another process has the session, or asks for work and there is no session to tell which of them is right;
    /// `busy` where the runner has too many.
    pub(super) fn enter(
        &self,
        runner: &str,
        instance: &str,
        incarnation: &str,
        session: Option<&str>,
        slots: u32,
        items: mpsc::Sender<Result<v1::WorkItem, Status>>,
    ) -> Result<Place, Failure> {
        let key = (runner.to_owned(), instance.to_owned());
        let (id, replaced) = (uuid::Uuid::now_v7(), CancellationToken::new());
        let refused = HashSet::new();
        let open = Open { id, incarnation: incarnation.to_owned(), slots, items, replaced, refused };
        has_the_session(instance, incarnation, session)?;
        let mut streams = self.lock();
        if session.is_none()
            && let Some(older) = streams.get(&key)
            && is_another(&older.incarnation, incarnation)
        {
            return Err(Code::InstanceConflict.on(format!("another process asks for work as instance {instance}")));
        }
        if !streams.contains_key(&key) && streams.keys().filter(|(r, _)| r == runner).count() >= INSTANCES_MAX {
            return Err(Code::Busy.on(format!("{INSTANCES_MAX} instances of the runner ask for work already")));
        }
        // only once it is in: a place that is dropped gives itself up
        let place = Place {
            streams: self.clone(),
            key: key.clone(),
            id: open.id,
            incarnation: incarnation.to_owned(),
            replaced: open.replaced.clone(),
        };
        if let Some(older) = streams.insert(key, open) {
            older.replaced.cancel();
        }
        drop(streams);
        Ok(place)
    }
    /// Which of these instances, runner first, have not asked for work since a moment of the steady clock, as far as it was looked: that is done
    /// again and again, with all for which somebody waits.
    pub(super) fn away_since(
        &self,
        of: &HashSet<(String, String)>,
        before_ms: i64,
        now_ms: i64,
    ) -> Vec<(String, String)> {
        let present: HashSet<_> = self.lock().keys().cloned().collect();
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.retain(|key, _| of.contains(key) && !present.contains(key));
        for key in of.iter().filter(|key| !present.contains(*key)) {
            away.entry(key.clone()).or_insert(now_ms);
        }
        away.iter().filter(|(_, since)| **since <= before_ms).map(|(key, _)| key.clone()).collect()
    }
    /// The runner's instances that ask for work now.
    pub(super) fn present(&self, runner: &str) -> Vec<String> {
        self.lock().keys().filter(|(r, _)| r == runner).map(|(_, instance)| instance.clone()).collect()
    }
    /// The same, each with how many jobs it does at once.
    pub(super) fn slots(&self, runner: &str) -> Vec<(String, u32)> {
        self.lock().iter().filter(|((r, _), _)| r == runner).map(|((_, i), open)| (i.clone(), open.slots)).collect()
    }
    /// Tells an instance something outside of its stream's own rounds, if it is there and reads.
    pub(super) fn tell(&self, runner: &str, instance: &str, kind: v1::work_item::Kind) {
        let items = self.lock().get(&(runner.to_owned(), instance.to_owned())).map(|open| open.items.clone());
        if let Some(items) = items {
            let _ = items.try_send(Ok(v1::WorkItem { kind: Some(kind) }));
        }
    }
    /// Notes that a job which the instance has is not wanted.
    pub(super) fn refuse(&self, runner: &str, instance: &str, job: &str) {
        if let Some(open) = self.lock().get_mut(&(runner.to_owned(), instance.to_owned()))
            && open.refused.len() < HELD_MAX
        {
            open.refused.insert(job.to_owned());
        }
    }
    /// Whether that was noted on the instance's present stream.
    pub(super) fn refuses(&self, runner: &str, instance: &str, job: &str) -> bool {
        let key = (runner.to_owned(), instance.to_owned());
        self.lock().get(&key).is_some_and(|open| open.refused.contains(job))
    }
}

/// Whether two processes are not one. An older runner does not say which it is.
fn is_another(one: &str, other: &str) -> bool {
    !one.is_empty() && !other.is_empty() && one != other
}

/// Refuses a process where another one has the instance's session; where none has it, nothing speaks against it.
fn has_the_session(instance: &str, incarnation: &str, session: Option<&str>) -> Result<(), Failure> {
    match session {
        Some(session) if is_another(session, incarnation) => {
            Err(Code::InstanceConflict.on(format!("another process is connected as instance {instance}")))
        }
        _ => Ok(()),
    }
}

// === impl Place ===

impl Place {
    /// Whether it may go on, where `session` is the process that has the instance's session.
    ///
    /// # Errors
    /// `instance_conflict`.
    pub(super) fn stands(&self, session: Option<&str>) -> Result<(), Failure> {
        has_the_session(&self.key.1, &self.incarnation, session)
    }
    /// Gives the place up; whether it was still this stream's.
    pub(super) fn leave(&self) -> bool {
        let mut streams = self.streams.lock();
        let own = streams.get(&self.key).is_some_and(|open| open.id == self.id);
        if own {
            streams.remove(&self.key);
        }
        own
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
