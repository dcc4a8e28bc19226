//! Workers that are connected to a target ahead of need: for the next request of a person who has just made two on the same connection, as
//! kubectl does, which asks many things one after the other. What is saved is the connection's set-up.
//!
//! One must never serve another person, another connection, other credentials or another configuration than it was made ready for, and one
//! request only. It has authenticated nothing but a client certificate: the credentials in its hand are sent with a request alone.

use super::given::Given;
use crate::tunnel::Settings;
use shared_proto::v1;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The most that are ready at once: each is a process and a connection to somebody's API server.
const READY_MAX: usize = 8;
/// How long one is; and how long two requests of a person are apart at most for a third to be expected.
const READY_FOR: Duration = Duration::from_secs(10);
/// The most of whom it is remembered that they asked.
const ASKED_MAX: usize = 64;

/// For whom a worker is, and with what.
#[derive(Debug, Clone)]
pub(super) struct For {
    connection: String,
    person: String,
    resolved: Arc<v1::Target>,
    impersonation: Option<v1::Impersonation>,
    settings: Arc<Settings>,
}

/// Those that are ready. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    shelf: Arc<Mutex<Shelf<Given<'static>>>>,
    /// One was put there.
    put: Arc<Notify>,
}

#[derive(Debug)]
struct Shelf<T> {
    /// Oldest first.
    ready: VecDeque<(For, T, Instant)>,
    /// Who has asked lately, and on which connection; oldest first.
    asked: VecDeque<(String, String, Instant)>,
}

// === impl For ===

impl For {
    /// Whoever asks for that. `None`: nothing is made ready for such a request.
    pub(super) fn of(
        request: &v1::OperationRequest,
        resolved: &Arc<v1::Target>,
        impersonation: Option<&v1::Impersonation>,
        settings: &watch::Receiver<Arc<Settings>>,
    ) -> Option<Self> {
        let (Some(What::K8sRequest(_)), Some(Target::Kubernetes(_))) = (&request.what, &resolved.kind) else {
            return None;
        };
        Some(Self {
            connection: request.connection.clone(),
            person: request.caller.as_ref()?.user_name.clone(),
            resolved: resolved.clone(),
            impersonation: impersonation.cloned(),
            settings: settings.borrow().clone(),
        })
    }

    /// The target as a worker has it.
    pub(super) fn target(&self) -> v1::Target {
        of_worker(&self.resolved, self.impersonation.as_ref())
    }

    fn is(&self, other: &Self) -> bool {
        self.connection == other.connection
            && self.person == other.person
            && self.impersonation == other.impersonation
            && Arc::ptr_eq(&self.resolved, &other.resolved)
            && Arc::ptr_eq(&self.settings, &other.settings)
    }
}

/// What a worker is told of a target. Passing the proxy is ours: its password is none of the worker's business.
pub(super) fn of_worker(resolved: &v1::Target, impersonation: Option<&v1::Impersonation>) -> v1::Target {
    let mut target = resolved.clone();
    if let Some(Target::Kubernetes(target)) = &mut target.kind {
        target.proxy_url.clear();
        target.impersonation = impersonation.cloned();
    }
    target
}

// === impl Ready ===

impl Ready {
    /// Throws those away that have been ready for too long.
    pub(super) fn start_task() -> Self {
        let shelf = Arc::new(Mutex::new(Shelf { ready: VecDeque::new(), asked: VecDeque::new() }));
        let ready = Self { shelf, put: Arc::new(Notify::new()) };
        let (shelf, put) = (Arc::downgrade(&ready.shelf), ready.put.clone());
        tokio::spawn(async move {
            while let Some(shelf) = shelf.upgrade() {
                let (old, next) = lock(&shelf).remove_old(Instant::now());
                // they are killed where the lock is not held
                drop((old, shelf));
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => put.notified().await,
                }
            }
        });
        ready
    }

    /// One for them.
    pub(super) fn take(&self, whom: &For) -> Option<Given<'static>> {
        lock(&self.shelf).take(whom, Instant::now())
    }
    /// Whether they have asked before, and have none.
    pub(super) fn wants(&self, whom: &For) -> bool {
        lock(&self.shelf).wants(whom, Instant::now())
    }
    /// Keeps it for them, for a while.
    pub(super) fn put(&self, whom: For, given: Given<'static>) {
        let too_many = lock(&self.shelf).put(whom, given, Instant::now());
        self.put.notify_one();
        drop(too_many);
    }
}

fn lock<T>(shelf: &Mutex<Shelf<T>>) -> MutexGuard<'_, Shelf<T>> {
    // nothing in there can be left half done
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Shelf ===

impl<T> Shelf<T> {
    fn take(&mut self, whom: &For, now: Instant) -> Option<T> {
        let theirs = |(of, _, since): &(For, T, Instant)| of.is(whom) && is_recent(*since, now);
        let at = self.ready.iter().position(theirs)?;
        self.ready.remove(at).map(|(_, ready, _)| ready)
    }

    /// Remembers that they have asked.
    fn wants(&mut self, whom: &For, now: Instant) -> bool {
        if self.ready.iter().any(|(of, ..)| of.is(whom)) {
            return false;
        }
        let theirs = |(connection, person, _): &(String, String, Instant)| {
            *connection == whom.connection && *person == whom.person
        };
        let before = self.asked.iter().position(theirs).and_then(|at| self.asked.remove(at));
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((whom.connection.clone(), whom.person.clone(), now));
        before.is_some_and(|(.., when)| is_recent(when, now))
    }

    /// What had to go for it.
    fn put(&mut self, whom: For, ready: T, now: Instant) -> Option<T> {
        let too_many = if self.ready.len() >= READY_MAX { self.ready.pop_front() } else { None };
        self.ready.push_back((whom, ready, now));
        too_many.map(|(_, ready, _)| ready)
    }

    /// Takes the old ones off, and says when the next one is.
    fn remove_old(&mut self, now: Instant) -> (Vec<T>, Option<Instant>) {
        let old = self.ready.iter().take_while(|(.., since)| !is_recent(*since, now)).count();
        let old = self.ready.drain(..old).map(|(_, ready, _)| ready).collect();
        (old, self.ready.front().map(|(.., since)| *since + READY_FOR))
    }
}

fn is_recent(when: Instant, now: Instant) -> bool {
    now.saturating_duration_since(when) < READY_FOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::Policy;
    use std::collections::BTreeMap;

    /// A request of a person on a connection, with what it resolved to and which configuration was in force.
    struct Asked {
        connection: &'static str,
        person: &'static str,
        what: What,
        resolved: Arc<v1::Target>,
        impersonation: Option<v1::Impersonation>,
        settings: watch::Receiver<Arc<Settings>>,
    }

    impl Asked {
        fn whom(&self) -> Option<For> {
            let request = v1::OperationRequest {
                connection: self.connection.into(),
                caller: Some(v1::Caller { user_name: self.person.into(), ..Default::default() }),
                what: Some(self.what.clone()),
                ..Default::default()
            };
            For::of(&request, &self.resolved, self.impersonation.as_ref(), &self.settings)
        }
    }

    fn kubernetes(token: &str) -> Arc<v1::Target> {
        let target = v1::KubernetesTarget { token: token.into(), proxy_url: "http://p".into(), ..Default::default() };
        Arc::new(v1::Target { kind: Some(Target::Kubernetes(target)) })
    }
    fn impersonation(user: &str) -> Option<v1::Impersonation> {
        Some(v1::Impersonation { user: user.into(), ..Default::default() })
    }
    fn settings() -> watch::Receiver<Arc<Settings>> {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("runner.toml");
        std::fs::write(&config, format!("state_dir = {0:?}\ncredentials = {0:?}\n", folder.path())).expect("writes");
        let config = Config::load(Some(&config), &BTreeMap::new(), &BTreeMap::new()).expect("loads");
        let credentials = crate::tunnel::leaf::tests::credentials(folder.path(), 0, 1);
        watch::channel(Arc::new(Settings { config, credentials, policy: Policy::absent(), limits: Default::default() }))
            .1
    }
    fn asked() -> Asked {
        Asked {
            connection: "prod",
            person: "ada",
            what: What::K8sRequest(v1::K8sRequest::default()),
            resolved: kubernetes("t"),
            impersonation: impersonation("ada"),
            settings: settings(),
        }
    }
    fn shelf() -> Shelf<u32> {
        Shelf { ready: VecDeque::new(), asked: VecDeque::new() }
    }

    #[test]
    fn one_is_for_its_person_connection_credentials_and_configuration_alone() {
        let now = Instant::now();
        let first = asked();
        let whom = first.whom().expect("a request of Kubernetes");
        let mut shelf = shelf();
        assert!(shelf.put(whom.clone(), 1, now).is_none());
        let changes: [fn(&mut Asked); 6] = [
            |a| a.connection = "other",
            |a| a.person = "bob",
            // the same words, got anew
            |a| a.resolved = kubernetes("t"),
            |a| a.impersonation = impersonation("bob"),
            |a| a.impersonation = None,
            |a| a.settings = settings(),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut other = Asked {
                what: first.what.clone(),
                resolved: first.resolved.clone(),
                impersonation: first.impersonation.clone(),
                settings: first.settings.clone(),
                ..first
            };
            change(&mut other);
            assert_eq!(shelf.take(&other.whom().expect("a request of Kubernetes"), now), None, "{n}");
        }
        assert_eq!(shelf.take(&whom, now), Some(1));
        assert_eq!(shelf.take(&whom, now), None, "once");
    }

    #[test]
    fn what_is_no_request_of_kubernetes_has_none() {
        let mut other = asked();
        other.what = What::K8sListPods(v1::K8sListPods::default());
        assert!(other.whom().is_none());
        let mut other = asked();
        other.resolved = Arc::new(v1::Target { kind: Some(Target::Aws(v1::AwsTarget::default())) });
        assert!(other.whom().is_none());
    }

    #[test]
    fn the_worker_is_told_whom_to_act_as_and_not_the_proxy() {
        let Some(Target::Kubernetes(target)) = asked().whom().expect("one").target().kind else { panic!("another") };
        assert_eq!((target.token.as_str(), target.proxy_url.as_str()), ("t", ""));
        assert_eq!(target.impersonation, impersonation("ada"));
    }

    #[test]
    fn it_is_made_for_a_third_request_where_two_came_close_together() {
        let start = Instant::now();
        let whom = asked().whom().expect("one");
        let mut shelf = shelf();
        assert!(!shelf.wants(&whom, start));
        assert!(!shelf.wants(&whom, start + READY_FOR), "too far apart");
        assert!(shelf.wants(&whom, start + READY_FOR * 2 - Duration::from_millis(1)));
        shelf.put(whom.clone(), 1, start);
        assert!(!shelf.wants(&whom, start + READY_FOR * 2), "there is one");
        // whoever is remembered is bounded
        for n in 0..=ASKED_MAX {
            let mut other = whom.clone();
            other.person = n.to_string();
            shelf.wants(&other, start);
        }
        assert_eq!(shelf.asked.len(), ASKED_MAX);
    }

    #[test]
    fn it_is_there_for_a_while_and_few_at_once() {
        let start = Instant::now();
        let whom = asked().whom().expect("one");
        let mut shelf = shelf();
        for n in 0..READY_MAX {
            assert_eq!(shelf.put(whom.clone(), n as u32, start), None);
        }
        assert_eq!(shelf.put(whom.clone(), 99, start + Duration::from_secs(1)), Some(0));
        let over = start + READY_FOR;
        assert_eq!(shelf.remove_old(over - Duration::from_millis(1)), (vec![], Some(over)));
        let old: Vec<_> = (1..READY_MAX as u32).collect();
        assert_eq!(shelf.remove_old(over), (old, Some(over + Duration::from_secs(1))));
        assert_eq!(shelf.take(&whom, over + Duration::from_secs(1)), None, "too old, whoever looks after it");
        assert_eq!(shelf.remove_old(over + Duration::from_secs(1)), (vec![99], None));
    }
}
