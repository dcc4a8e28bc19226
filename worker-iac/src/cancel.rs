//! Whether the job is asked to stop. A step only ever goes up: running, asked, forced.

use tokio::sync::watch;

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
pub(crate) struct Asker(watch::Sender<Cancel>);

/// The side that watches.
#[derive(Debug, Clone)]
pub(crate) struct Watcher(watch::Receiver<Cancel>);

/// A new pair.
pub(crate) fn pair() -> (Asker, Watcher) {
    let (asker, watcher) = watch::channel(Cancel::No);
    (Asker(asker), Watcher(watcher))
}

// === impl Asker ===

impl Asker {
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
