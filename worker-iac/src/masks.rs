//! What is taken out of a job's events: the secrets that its step has, and those that came later. Of the latter the newest are kept, more than
//! can be good at one time. Must never print itself.

use runner_worker_iac::redaction::Redaction;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Values that came later: each takes some fifty forms that are looked for. A session lasts a quarter of an hour at least, and a job has 32
/// connections at most.
const LATER_MAX: usize = 1024;

/// The values, and who is told of them. Does not print itself.
#[derive(Clone)]
pub(crate) struct Masks(Arc<Mutex<Values>>, watch::Sender<Redaction>);

#[derive(Default)]
struct Values {
    of_step: Vec<Zeroizing<String>>,
    later: VecDeque<Zeroizing<String>>,
}

impl Masks {
    /// With nothing to take out yet.
    pub(crate) fn new(told: watch::Sender<Redaction>) -> Self {
        Self(Arc::default(), told)
    }
    /// These are the step's secrets, in the place of those that were said before.
    pub(crate) fn set<'a>(&self, secrets: impl Iterator<Item = &'a str>) {
        let mut values = self.values();
        values.of_step = secrets.map(|secret| Zeroizing::new(secret.to_owned())).collect();
        self.tell(&values);
    }
    /// There are these as well, from now on.
    pub(crate) fn add<'a>(&self, secrets: impl Iterator<Item = &'a str>) {
        let mut values = self.values();
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            if values.later.iter().any(|known| known.as_str() == secret) {
                continue;
            }
            if values.later.len() >= LATER_MAX {
                values.later.pop_front();
            }
            values.later.push_back(Zeroizing::new(secret.to_owned()));
        }
        self.tell(&values);
    }
    fn values(&self) -> MutexGuard<'_, Values> {
        // what is in there is whole however somebody ended
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn tell(&self, values: &Values) {
        let all = values.of_step.iter().chain(&values.later).map(|secret| secret.as_str());
        let redaction = Redaction::new(all).counting_on(&self.1.borrow());
        self.1.send_replace(redaction);
    }
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Masks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_what_came_later_are_kept() {
        let (told, heard) = watch::channel(Redaction::default());
        let masks = Masks::new(told);
        let all: Vec<_> = (0..=LATER_MAX).map(|n| format!("secret-{n:05}")).collect();
        masks.add(all.iter().map(String::as_str));
        let mut text = format!("{} {} {}", all[0], all[1], all[LATER_MAX]);
        heard.borrow().apply(&mut text);
        assert!(text.contains(&all[0]) && !text.contains(&all[1]) && !text.contains(&all[LATER_MAX]), "{text}");
    }

    #[test]
    fn what_came_later_stays_and_the_steps_own_is_replaced() {
        let (told, heard) = watch::channel(Redaction::default());
        let masks = Masks::new(told);
        let shown = || {
            let mut text = "first-secret second-secret third-secret".to_owned();
            heard.borrow().apply(&mut text);
            ["first-secret", "second-secret", "third-secret"].map(|secret| text.contains(secret))
        };
        masks.set(["first-secret"].into_iter());
        assert_eq!(shown(), [false, true, true]);
        masks.add(["third-secret"].into_iter());
        assert_eq!(shown(), [false, true, false]);
        masks.set(["second-secret"].into_iter());
        assert_eq!(shown(), [true, false, false]);
        assert_eq!(format!("{masks:?}"), "Masks");
    }
}
