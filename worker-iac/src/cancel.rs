//! Whether the job is asked to stop. A step only ever goes up: running, asked, forced.

use shared_proto::v1::JobBound;
use std::time::Duration;
use tokio::sync::watch;

/// How long a bound that was run into may take to be known.
const TOLD_WITHIN: Duration = Duration::from_millis(600);

/// What was asked of a job, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Cancel {
    /// Nothing: it runs.
    #[default]
    No,
    /// To stop by itself, within its grace.
    Asked(String),
    /// To be stopped at once.
    Forced(String),
}

/// The side that asks.
#[derive(Debug, Clone)]
pub(crate) struct Asker(watch::Sender<Cancel>, watch::Sender<Option<JobBound>>);

/// The side that watches.
#[derive(Debug, Clone)]
pub(crate) struct Watcher(watch::Receiver<Cancel>, watch::Receiver<Option<JobBound>>);

/// A new pair.
pub(crate) fn pair() -> (Asker, Watcher) {
    let ((asker, watcher), (bound, bounds)) = (watch::channel(Cancel::No), watch::channel(None));
    (Asker(asker, bound), Watcher(watcher, bounds))
}

// === impl Asker ===

impl Asker {
    /// Tells what bound the job has run into; the first one counts.
    pub(crate) fn ran_into(&self, bound: JobBound) {
        self.1.send_if_modified(|known| {
            let news = known.is_none();
            known.get_or_insert(bound);
            news
        });
    }
    /// Asks; asking again, or for less than what was asked before, changes nothing.
    pub(crate) fn ask(&self, by: &str, force: bool) {
        self.0.send_if_modified(|state| {
            let next = match (&*state, force) {
                (Cancel::No, false) => Cancel::Asked(by.to_owned()),
                (Cancel::No | Cancel::Asked(_), true) => Cancel::Forced(by.to_owned()),
                _ => return false,
            };
            *state = next;
            true
        });
    }
}

// === impl Watcher ===

impl Watcher {
    /// What bound the job has run into. Whoever tells it looks every quarter of a second: it is waited for so long.
    pub(crate) async fn bound(&mut self) -> Option<JobBound> {
        let told = tokio::time::timeout(TOLD_WITHIN, self.1.wait_for(Option::is_some)).await;
        told.ok()?.ok()?.clone()
    }
    /// What bound it is known to have run into.
    pub(crate) fn told(&self) -> Option<JobBound> {
        self.1.borrow().clone()
    }
    /// What is asked now.
    pub(crate) fn now(&self) -> Cancel {
        self.0.borrow().clone()
    }
    /// Waits until more is asked than `seen`; for ever if nothing is.
    pub(crate) async fn beyond(&mut self, seen: &Cancel) -> Cancel {
        match self.0.wait_for(|now| now != seen).await {
            Ok(now) => now.clone(),
            // nobody can ask any more
            Err(_) => std::future::pending().await,
        }
    }
    /// Waits until anything is asked.
    pub(crate) async fn asked(&mut self) -> Cancel {
        self.beyond(&Cancel::No).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_only_goes_up() {
        let (asker, mut watcher) = pair();
        asker.ask("a", false);
        asker.ask("b", false);
        assert_eq!(watcher.asked().await, Cancel::Asked("a".into()));
        asker.ask("c", true);
        asker.ask("d", false);
        asker.ask("e", true);
        assert_eq!(watcher.beyond(&Cancel::Asked("a".into())).await, Cancel::Forced("c".into()));
        assert_eq!(watcher.now(), Cancel::Forced("c".into()));
    }
}
