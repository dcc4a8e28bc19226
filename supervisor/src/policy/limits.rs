//! How much at once and how often: what an allow rule bounds beside what it allows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most that `concurrency` may say.
pub const CONCURRENCY_MAX: u32 = 65_536;
/// The most that `rate` may say, for each of its periods.
pub const RATE_MAX: u32 = 1_000_000;

/// So many in that time. All of them may come at once; then they come back one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In which time.
    pub period: Duration,
}

/// The bounds of one rule, shared by all that it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Whose bounds they are: the rule's name.
    pub rule: Arc<str>,
    /// The most at once.
    pub concurrency: Option<u32>,
    /// The most in a time.
    pub rate: Option<Rate>,
}

/// A bound is reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// As many as may be are at work.
    #[error(
        "rule {rule:?} of the runner's policy allows {most} at once, and so many are at work: try again when one of them is done"
    )]
    Concurrency {
        /// The rule.
        rule: Arc<str>,
        /// The bound.
        most: u32,
    },
    /// As many as may be have come.
    #[error("rule {rule:?} of the runner's policy allows no more than {rate}: try again in {} s", .after.as_secs_f64().ceil())]
    Rate {
        /// The rule.
        rule: Arc<str>,
        /// The bound.
        rate: Rate,
        /// When there is room again.
        after: Duration,
    },
}

/// What is at work and what has come, by rule. It outlives a policy: a new one goes on with the same counts.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    // shared, for a permit is dropped wherever its work ends
    rules: Arc<Mutex<BTreeMap<Arc<str>, State>>>,
}

/// Room for one; dropped, the room is free again.
#[derive(Debug)]
#[must_use = "dropped, it frees the room at once"]
pub struct Permit {
    /// Nothing where the rule has no bound.
    held: Option<(Limits, Arc<str>)>,
}

#[derive(Debug, Default)]
struct State {
    at_work: u32,
    /// The rate for which `spent` counts.
    rate: Option<Rate>,
    /// What has been taken and has not come back, in nanoseconds × count, so that it is exact.
    spent: u128,
    /// When it was last looked at.
    seen: Option<Instant>,
}

// === impl Rate ===

impl Rate {
    /// From `60/minute`; second, minute and hour are the periods.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no rate: it must be like \"60/minute\", of second, minute or hour, from 1 to {RATE_MAX}"
            )
        };
        let (count, period) = text.split_once('/').ok_or_else(wrong)?;
        let count = Some(count).filter(|c| c.bytes().all(|b| b.is_ascii_digit())).and_then(|c| c.parse().ok());
        let count = count.filter(|count| (1..=RATE_MAX).contains(count)).ok_or_else(wrong)?;
        let seconds = match period {
            "second" => 1,
            "minute" => 60,
            "hour" => 3600,
            _ => return Err(wrong()),
        };
        Ok(Self { count, period: Duration::from_secs(seconds) })
    }
}
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = match self.period.as_secs() {
            1 => "second",
            60 => "minute",
            _ => "hour",
        };
        write!(f, "{}/{period}", self.count)
    }
}

// === impl Limits ===

impl Limits {
    /// Takes room for one, for as long as the permit lives. Nothing is spent where it is refused.
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn take(&self, limit: &Limit, now: Instant) -> Result<Permit, LimitError> {
        if limit.concurrency.is_none() && limit.rate.is_none() {
            return Ok(Permit { held: None });
        }
        let mut rules = self.lock();
        let state = rules.entry(Arc::clone(&limit.rule)).or_default();
        if let Some(most) = limit.concurrency
            && state.at_work >= most
        {
            return Err(LimitError::Concurrency { rule: Arc::clone(&limit.rule), most });
        }
        if let Some(rate) = limit.rate {
            state.spend(rate, now).map_err(|after| LimitError::Rate { rule: Arc::clone(&limit.rule), rate, after })?;
        }
        state.at_work = state.at_work.saturating_add(1);
        Ok(Permit { held: Some((self.clone(), Arc::clone(&limit.rule))) })
    }

    /// How many of a rule are at work.
    pub fn at_work(&self, rule: &str) -> u32 {
        self.lock().get(rule).map_or(0, |state| state.at_work)
    }

    /// Forgets what no rule of a new policy counts any more, and what is not at work. For after a policy was read again.
    pub fn keep(&self, still: impl Fn(&str) -> bool) {
        self.lock().retain(|rule, state| state.at_work > 0 || still(rule));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, State>> {
        // nothing under the lock can be half done
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Permit ===

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((limits, rule)) = self.held.take()
            && let Some(state) = limits.lock().get_mut(&rule)
        {
            state.at_work = state.at_work.saturating_sub(1);
        }
    }
}

// === impl State ===

impl State {
    /// Takes one, or says when there is one.
    fn spend(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        // each costs a period and there is room for `count` of them; `count` nanoseconds come back in each one that passes
        let (one, count) = (rate.period.as_nanos(), u128::from(rate.count));
        if self.rate != Some(rate) {
            // another rate after a new policy: what was spent of the old one is of another measure
            (self.rate, self.spent) = (Some(rate), 0);
        }
        let passed = self.seen.map_or(0, |seen| now.saturating_duration_since(seen).as_nanos());
        self.spent = self.spent.saturating_sub(passed.saturating_mul(count));
        self.seen = Some(self.seen.map_or(now, |seen| seen.max(now)));
        let over = (self.spent + one).saturating_sub(one * count);
        if over > 0 {
            return Err(Duration::from_nanos(u64::try_from(over.div_ceil(count)).unwrap_or(u64::MAX)));
        }
        self.spent += one;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(concurrency: Option<u32>, rate: Option<&str>) -> Limit {
        Limit { rule: "r".into(), concurrency, rate: rate.map(|r| Rate::parse(r).unwrap()) }
    }

    #[test]
    fn when_there_is_room_again_is_told_in_whole_seconds() {
        let after = Duration::from_nanos(1_084_764_665);
        let rate = Rate::parse("10/minute").unwrap();
        let said = LimitError::Rate { rule: "r".into(), rate, after }.to_string();
        assert!(said.ends_with("try again in 2 s"), "{said}");
    }

    #[test]
    fn a_permit_frees_its_room() {
        let (limits, limit, now) = (Limits::default(), limit(Some(2), None), Instant::now());
        let first = limits.take(&limit, now).unwrap();
        let _second = limits.take(&limit, now).unwrap();
        assert!(matches!(limits.take(&limit, now), Err(LimitError::Concurrency { most: 2, .. })));
        drop(first);
        assert_eq!(limits.at_work("r"), 1);
        let _third = limits.take(&limit, now).unwrap();
        assert!(limits.take(&limit, now).is_err());
    }

    #[test]
    fn a_rate_says_when_to_come_back() {
        let (limits, limit, now) = (Limits::default(), limit(None, Some("3/minute")), Instant::now());
        for _ in 0..3 {
            drop(limits.take(&limit, now).unwrap());
        }
        let Err(LimitError::Rate { after, .. }) = limits.take(&limit, now) else { panic!() };
        assert_eq!(after, Duration::from_secs(20));
        assert!(limits.take(&limit, now + after - Duration::from_nanos(1)).is_err());
        drop(limits.take(&limit, now + after).unwrap());
        assert!(limits.take(&limit, now + after).is_err());
        // a clock that went back gives nothing
        assert!(limits.take(&limit, now).is_err());
    }

    #[test]
    fn a_refusal_spends_nothing() {
        let (limits, limit, now) = (Limits::default(), limit(Some(1), Some("2/hour")), Instant::now());
        let first = limits.take(&limit, now).unwrap();
        for _ in 0..10 {
            assert!(matches!(limits.take(&limit, now), Err(LimitError::Concurrency { .. })));
        }
        drop(first);
        drop(limits.take(&limit, now).unwrap());
        assert!(matches!(limits.take(&limit, now), Err(LimitError::Rate { .. })));
        assert_eq!(limits.at_work("r"), 0);
    }

    #[test]
    fn a_new_policy_keeps_what_is_at_work() {
        let (limits, now) = (Limits::default(), Instant::now());
        let permit = limits.take(&limit(Some(1), None), now).unwrap();
        limits.keep(|_| false);
        assert!(limits.take(&limit(Some(1), None), now).is_err());
        drop(permit);
        limits.keep(|_| false);
        assert!(limits.lock().is_empty());
    }

    #[test]
    fn both_sides_of_a_rate() {
        for good in ["1/second", "1000000/hour", "60/minute"] {
            assert_eq!(Rate::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "0/second", "1000001/hour", "1/day", "-1/second", "+1/second", "1", "/second", "1 / second"] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_window_of_a_period_has_more_than_twice(count in 1u32..20, gaps in proptest::collection::vec(0u64..20_000, 1..80)) {
            // a full bucket, and what comes back in the period: the bound of every token bucket
            let (limits, start) = (Limits::default(), Instant::now());
            let limit = limit(None, Some(&format!("{count}/minute")));
            let mut taken = Vec::new();
            let mut at = Duration::ZERO;
            for gap in gaps {
                at += Duration::from_millis(gap);
                if limits.take(&limit, start + at).is_ok() {
                    taken.push(at);
                }
            }
            for first in &taken {
                let within = taken.iter().filter(|t| *t >= first && **t - *first < Duration::from_secs(60)).count();
                prop_assert!(within <= 2 * count as usize);
            }
        }
    }
}
