//! How far an apply is, for whoever follows it on a terminal: a bar below the engine's words, with how many resources are done of those that are
//! planned, and which of those at work takes longest. Standard output has none of it.

use crate::output::{escape, progress};
use indicatif::ProgressBar;
use shared_proto::begun::is_planned;
use shared_proto::v1::event::Body;
use std::collections::HashMap;
use std::time::Instant;

/// Resources at work that are looked at; an engine works at ten at once unless it is told otherwise.
const AT_WORK_MAX: usize = 4096;

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct Applying {
    /// What the plan changes: a replacement counts twice, as it is done in two steps.
    planned: u64,
    done: u64,
    at_work: HashMap<(String, String), Instant>,
    bar: Option<ProgressBar>,
}

impl Applying {
    /// Takes what an event says.
    pub(crate) fn take(&mut self, body: &Body) {
        match body {
            Body::ChangeSummary(summary) if summary.operation == "plan" => {
                self.planned = u64::from(summary.add) + u64::from(summary.change) + u64::from(summary.remove);
            }
            Body::PhaseChanged(changed) if changed.phase == "applying" => {
                (self.done, self.at_work) = (0, HashMap::new());
                self.bar = (self.planned > 0).then(|| progress::resources(self.planned));
            }
            Body::ResourceProgress(of) if is_planned(&of.action) => {
                let key = (of.address.clone(), of.action.clone());
                match of.state.as_str() {
                    "started" if self.at_work.len() < AT_WORK_MAX => {
                        self.at_work.insert(key, Instant::now());
                    }
                    "complete" => {
                        self.at_work.remove(&key);
                        self.done += 1;
                    }
                    "failed" => {
                        self.at_work.remove(&key);
                    }
                    _ => {}
                }
            }
            Body::Result(_) => self.end(),
            _ => {}
        }
        self.draw();
    }
    /// Whether there is something to draw anew as time goes by.
    pub(crate) fn is_shown(&self) -> bool {
        self.bar.is_some()
    }
    /// As it is now.
    pub(crate) fn draw(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.min(self.planned));
            bar.set_message(self.words(Instant::now()));
        }
    }
    /// Does it with nothing drawn where it may write.
    pub(crate) fn beside<T>(&self, doing: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(doing),
            None => doing(),
        }
    }
    /// Nothing is shown any more.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn words(&self, now: Instant) -> String {
        let slowest = self.at_work.iter().min_by(|a, b| a.1.cmp(b.1).then_with(|| a.0.cmp(b.0)));
        let Some(((address, _), since)) = slowest else { return String::new() };
        let others = match self.at_work.len() {
            1 => String::new(),
            all => format!(", of {all} at work"),
        };
        let seconds = u32::try_from(now.duration_since(*since).as_secs()).unwrap_or(u32::MAX);
        let took = shared_proto::limits::in_words(seconds);
        escape::line(&format!("slowest: {address} for {took}{others}"))
    }
}

impl Drop for Applying {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1::{ChangeSummary, PhaseChanged, ResourceProgress};
    use std::time::Duration;

    fn of(address: &str, action: &str, state: &str) -> Body {
        let (address, action, state) = (address.to_owned(), action.to_owned(), state.to_owned());
        Body::ResourceProgress(ResourceProgress { address, action, state, ..ResourceProgress::default() })
    }

    #[tokio::test]
    async fn what_is_done_of_what_is_planned_and_what_takes_longest() {
        let mut applying = Applying::default();
        let summary = ChangeSummary { add: 2, remove: 1, operation: "plan".into(), ..ChangeSummary::default() };
        applying.take(&Body::ChangeSummary(summary));
        applying.take(&of("data.x.read", "read", "started"));
        assert!(!applying.is_shown());
        applying.take(&Body::PhaseChanged(PhaseChanged { phase: "applying".into(), ..PhaseChanged::default() }));
        assert!(applying.is_shown());
        assert_eq!(applying.words(Instant::now()), "");
        applying.take(&of("x.a\u{1b}[2J", "create", "started"));
        let later = Instant::now() + Duration::from_secs(90);
        let said = applying.words(later);
        assert!(said.starts_with("slowest: x.a") && said.ends_with("for 1 min 30 s"), "{said}");
        assert!(!said.contains('\u{1b}'));
        for state in ["started", "complete"] {
            applying.take(&of("x.a\u{1b}[2J", "provision:local-exec", state));
            assert!(applying.words(later).ends_with("for 1 min 30 s"), "one resource: {}", applying.words(later));
        }
        applying.take(&of("x.b", "delete", "started"));
        assert!(applying.words(later).contains("x.a") && applying.words(later).ends_with(", of 2 at work"));
        applying.take(&of("x.a\u{1b}[2J", "create", "complete"));
        assert!(applying.words(later).contains("x.b"));
        applying.take(&of("x.b", "delete", "failed"));
        assert_eq!((applying.done, applying.planned, applying.words(later)), (1, 3, String::new()));
        applying.end();
        assert!(!applying.is_shown());
    }

    #[tokio::test]
    async fn an_apply_of_nothing_known_shows_no_bar() {
        let mut applying = Applying::default();
        applying.take(&Body::PhaseChanged(PhaseChanged { phase: "applying".into(), ..PhaseChanged::default() }));
        assert!(!applying.is_shown());
        assert_eq!(applying.beside(|| 7), 7);
    }
}
