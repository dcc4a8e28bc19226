//! Ends a step that takes longer than it may, or says nothing for too long: it is asked to stop, as by a cancel. Time passes whichever process
//! attends the step: a worker that follows another one goes by when the step began. Must never end a step by itself.

use crate::cancel::Asker;
use crate::journal;
use shared_proto::limits::in_words;
use shared_proto::v1::event::Body;
use shared_proto::v1::{JobBound, TimeLimits};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What the limits of one step are measured by.
#[derive(Debug)]
pub(crate) struct Limits {
    step: Option<Duration>,
    silence: Option<Duration>,
    name: &'static str,
    /// How long the step had been under way when this process came to it.
    passed: Duration,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// To look again, after so long.
    Later(Duration),
    /// To ask for its end, because of this.
    Now(String),
    /// Nothing, ever.
    Never,
}

impl Limits {
    /// Those of a step that begins.
    pub(crate) fn from_now(limits: &TimeLimits, step: &str) -> Self {
        let (limit, name) = match step {
            "apply" => (limits.apply, "the apply"),
            _ => (limits.plan, "the plan"),
        };
        let set = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { step: set(limit), silence: set(limits.silence), name, passed: Duration::ZERO }
    }

    /// Those of a step that began when its events say.
    pub(crate) fn since(limits: &TimeLimits, step: &str, events: &Path) -> Self {
        let first = if step == "apply" { "applying" } else { "preparing" };
        let passed = began(events, first).map_or(0, |began| shared_proto::now_ms().saturating_sub(began));
        // clocks go back as well
        Self { passed: Duration::from_millis(passed.try_into().unwrap_or(0)), ..Self::from_now(limits, step) }
    }

    /// What is due so long after this process came to the step, and after anything was said.
    fn due(&self, here: Duration, silent: Duration) -> Due {
        let left = |limit: Duration, used: Duration| (limit, limit.saturating_sub(used));
        let step = self.step.map(|limit| left(limit, self.passed + here));
        let silence = self.silence.map(|limit| left(limit, silent));
        let words = |limit: Duration| in_words(limit.as_secs().try_into().unwrap_or(u32::MAX));
        match (step, silence) {
            (Some((limit, Duration::ZERO)), _) => {
                Due::Now(format!("{} took longer than its limit of {}", self.name, words(limit)))
            }
            (_, Some((limit, Duration::ZERO))) => {
                Due::Now(format!("nothing was said for the limit of {}", words(limit)))
            }
            (Some((_, one)), Some((_, other))) => Due::Later(one.min(other)),
            (Some((_, left)), None) | (None, Some((_, left))) => Due::Later(left),
            (None, None) => Due::Never,
        }
    }

    /// Asks for the step's end where it is over one of them; `appended` changes with every event.
    pub(crate) async fn keep(self, mut appended: watch::Receiver<u64>, asker: Asker) {
        let start = Instant::now();
        let mut said = start;
        let what = loop {
            let wait = match self.due(start.elapsed(), said.elapsed()) {
                Due::Now(what) => break what,
                Due::Later(wait) => wait,
                Due::Never => return,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                heard = appended.changed() => match heard {
                    Ok(()) => said = Instant::now(),
                    // nothing can be said any more
                    Err(_) => return,
                },
            }
        };
        asker.ran_into(JobBound { what: what.clone(), time: true, ..JobBound::default() });
        asker.ask(&format!("the runner, because {what}"), false);
    }
}

/// When the phase was last begun, milliseconds since 1970.
fn began(events: &Path, phase: &str) -> Option<i64> {
    let times = journal::told(events).filter_map(|event| match event.body {
        Some(Body::PhaseChanged(changed)) if changed.phase == phase => Some(event.time_ms),
        _ => None,
    });
    times.last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::{self, Cancel};
    use shared_proto::v1::{Event, PhaseChanged};

    const LIMITS: TimeLimits = TimeLimits { plan: 60, apply: 90, approval: 0, silence: 20 };

    fn due(limits: &Limits, here: u64, silent: u64) -> Due {
        limits.due(Duration::from_secs(here), Duration::from_secs(silent))
    }

    #[test]
    fn both_sides_of_each_limit() {
        let seconds = |n| Due::Later(Duration::from_secs(n));
        let over = |what: &str| Due::Now(what.to_owned());
        let (plan, apply) = (Limits::from_now(&LIMITS, "plan"), Limits::from_now(&LIMITS, "apply"));
        assert_eq!(due(&plan, 0, 0), seconds(20));
        assert_eq!(due(&plan, 59, 0), seconds(1));
        assert_eq!(due(&plan, 60, 0), over("the plan took longer than its limit of 1 min"));
        assert_eq!(due(&apply, 89, 19), seconds(1));
        assert_eq!(due(&apply, 90, 0), over("the apply took longer than its limit of 1 min 30 s"));
        assert_eq!(due(&apply, 30, 20), over("nothing was said for the limit of 20 s"));
        let none = Limits::from_now(&TimeLimits::default(), "apply");
        assert_eq!(due(&none, 1_000_000, 1_000_000), Due::Never);
        let quiet = Limits::from_now(&TimeLimits { silence: 20, ..TimeLimits::default() }, "plan");
        assert_eq!(due(&quiet, 1_000_000, 5), seconds(15));
    }

    #[tokio::test]
    async fn what_is_over_is_asked_to_stop_and_the_bound_is_known() {
        let (asker, mut watcher) = cancel::pair();
        let (_appended, heard) = watch::channel(0);
        let short = Duration::from_millis(20);
        Limits { step: None, silence: Some(short), name: "the plan", passed: Duration::ZERO }.keep(heard, asker).await;
        let bound = watcher.told().expect("a bound");
        assert!(bound.time && !bound.memory && !bound.disk);
        assert_eq!(watcher.asked().await, Cancel::Asked(format!("the runner, because {}", bound.what)));
    }

    #[test]
    fn whoever_follows_goes_by_when_the_step_began() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events");
        let phases = [("preparing", 500), ("planning", 400), ("applying", 80)].map(|(phase, ago)| {
            let time_ms = shared_proto::now_ms() - ago * 1000;
            let body = Some(Body::PhaseChanged(PhaseChanged { phase: phase.into(), ..PhaseChanged::default() }));
            Event { time_ms, body, ..Event::default() }
        });
        journal::write_told(&path, phases);
        let apply = Limits::since(&LIMITS, "apply", &path);
        assert!((80..85).contains(&apply.passed.as_secs()), "{apply:?}");
        // what is over already is over at once
        assert!(matches!(due(&Limits::since(&LIMITS, "plan", &path), 0, 0), Due::Now(_)));
    }
}
