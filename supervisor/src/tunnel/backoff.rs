//! How long to wait before the next attempt: full jitter, growing, with one ceiling in the first two minutes of a cut and another after.
//! Counted from the attempt's start, so that a slow failure does not add to the wait.

use std::time::Duration;
use tokio::time::Instant;

/// How long a cut counts as a short one.
pub const EARLY: Duration = Duration::from_secs(120);

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The ceiling of the first wait.
    pub first: Duration,
    /// The highest ceiling in the first two minutes of a cut.
    pub early_max: Duration,
    /// The highest ceiling after them.
    pub max: Duration,
}

/// The state of one cut.
#[derive(Debug, Clone)]
pub struct Backoff {
    limits: Limits,
    failures: u32,
    cut_since: Option<Instant>,
}

// === impl Backoff ===

impl Backoff {
    /// Starts with no cut.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, failures: 0, cut_since: None }
    }

    /// Other limits from now on.
    pub const fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A session has lasted: the next cut starts anew.
    pub const fn reset(&mut self) {
        self.failures = 0;
        self.cut_since = None;
    }

    /// An attempt that began at `started` has failed. Returns when the next may begin; `random` is in 0.0 ..= 1.0. The other end may ask
    /// for a longer wait (`retry_after`), which is then spread over half as much again, so that not everybody comes back at once.
    pub fn after(&mut self, started: Instant, now: Instant, random: f64, retry_after: Option<Duration>) -> Instant {
        let since = *self.cut_since.get_or_insert(started);
        let ceiling = self.ceiling(now.saturating_duration_since(since));
        self.failures = self.failures.saturating_add(1);
        let random = random.clamp(0.0, 1.0);
        let own = started + ceiling.mul_f64(random);
        match retry_after {
            Some(wanted) => own.max(now + wanted + (wanted / 2).mul_f64(random)),
            None => own,
        }
    }

    fn ceiling(&self, cut: Duration) -> Duration {
        let most = if cut < EARLY { self.limits.early_max } else { self.limits.max };
        self.limits.first.saturating_mul(1 << self.failures.min(16)).min(most)
    }
}

pub use shared_proto::chance::random;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { first: Duration::from_millis(500), early_max: Duration::from_secs(5), max: Duration::from_secs(30) };

    #[test]
    fn it_grows_to_the_early_ceiling_then_to_the_late_one_and_starts_again() {
        let start = Instant::now();
        let mut backoff = Backoff::new(LIMITS);
        let mut ceilings = Vec::new();
        for _ in 0..6 {
            ceilings.push((backoff.after(start, start, 1.0, None) - start).as_millis());
        }
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 5000, 5000]);
        let late = start + EARLY;
        assert_eq!(backoff.after(late, late, 1.0, None) - late, Duration::from_secs(30));
        backoff.reset();
        assert_eq!(backoff.after(late, late, 1.0, None) - late, Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_its_ceiling_and_none_ends_before_the_attempt_began(
            attempts in prop::collection::vec((0.0f64..=1.0, 0u64..10_000), 1..60)
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut backoff = Backoff::new(LIMITS);
            for (random, took) in attempts {
                let began = now;
                now += Duration::from_millis(took);
                let next = backoff.after(began, now, random, None);
                prop_assert!(next >= began);
                let most = if now - start < EARLY { LIMITS.early_max } else { LIMITS.max };
                prop_assert!(next - began <= most);
                now = now.max(next);
            }
        }

        #[test]
        fn a_wanted_wait_is_honoured_and_spread(random in 0.0f64..=1.0, wanted in 0u64..60_000) {
            let now = Instant::now();
            let wanted = Duration::from_millis(wanted);
            let next = Backoff::new(LIMITS).after(now, now, random, Some(wanted));
            prop_assert!(next >= now + wanted);
            prop_assert!(next <= now + (wanted + wanted / 2).max(LIMITS.first));
        }
    }
}
