//! How long what may take in the jobs of a stack, as users say it. What a runner allows is its own configuration's to say, and holds beside.

use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::limits::{MAX, NAMES, least};
use shared_proto::v1::TimeLimits;
use utoipa::ToSchema;

/// Limits of time, seconds, from 10 (of silence 60) to 7,776,000 (90 days); absent: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Of the plan, with source and init.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_seconds: Option<u32>,
    /// Of the apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    apply_seconds: Option<u32>,
    /// How long a plan waits for its approval; then it is discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_seconds: Option<u32>,
    /// How long a job may say nothing while it plans or applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    silence_seconds: Option<u32>,
}

impl Limits {
    /// The same, if each is one.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(super) fn checked(self) -> Result<Self, Failure> {
        let all = [self.plan_seconds, self.apply_seconds, self.approval_seconds, self.silence_seconds];
        let is_wrong = |name: &str, limit: Option<u32>| limit.is_some_and(|s| !(least(name)..=MAX).contains(&s));
        match NAMES.into_iter().zip(all).find(|(name, limit)| is_wrong(name, *limit)) {
            None => Ok(self),
            Some((name, limit)) => Err(Code::InvalidArgument.on(format!(
                "limits.{name}_seconds is {}, it must be from {} to {MAX}",
                limit.unwrap_or_default(),
                least(name)
            ))),
        }
    }
    /// As a runner is told them.
    pub(super) fn wire(&self) -> TimeLimits {
        let set = |limit: Option<u32>| limit.unwrap_or_default();
        TimeLimits {
            plan: set(self.plan_seconds),
            apply: set(self.apply_seconds),
            approval: set(self.approval_seconds),
            silence: set(self.silence_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_limit() {
        for (seconds, good) in [(9, false), (10, true), (7_776_000, true), (7_776_001, false)] {
            let limits = Limits { approval_seconds: Some(seconds), ..Limits::default() };
            assert_eq!(limits.clone().checked().is_ok(), good, "{seconds}");
            assert_eq!(limits.wire().approval, seconds);
        }
        for (seconds, good) in [(59, false), (60, true), (7_776_000, true), (7_776_001, false)] {
            let limits = Limits { silence_seconds: Some(seconds), ..Limits::default() };
            assert_eq!(limits.checked().is_ok(), good, "{seconds}");
        }
        let read: Limits = serde_json::from_str("{}").expect("reads");
        assert_eq!((read.wire(), serde_json::to_string(&read).ok()), (TimeLimits::default(), Some("{}".into())));
        assert!(serde_json::from_str::<Limits>(r#"{"plan": 10}"#).is_err());
    }
}
