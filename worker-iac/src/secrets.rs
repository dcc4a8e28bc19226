//! What must not be in a plan or a state that is told of: the job's secrets, and the values that the engine masks in one place and shows in another, where a provider has copied
//! them (`terraform_data` shows its `input` as `output`).

use runner_worker_iac::redaction::{Redaction, SHORTEST};
use std::collections::BTreeSet;

/// The most values that are looked for everywhere, and their bytes: each is looked for in some fifty forms. What is beyond is hidden where the engine
/// masks it.
const VALUES_MAX: usize = 256;
const BYTES_MAX: usize = 64 * 1024;

/// The values that an engine masks somewhere.
#[derive(Debug, Default)]
pub(crate) struct Sensitive {
    values: BTreeSet<String>,
    bytes: usize,
    /// How many did not fit.
    left_out: usize,
}

/// What is taken out of every text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    of_job: Redaction,
    of_engine: Redaction,
}

// === impl Sensitive ===

impl Sensitive {
    /// Takes one; a short one would hide everything.
    pub(crate) fn take(&mut self, value: &str) {
        if value.len() < SHORTEST || self.values.contains(value) {
            return;
        }
        if self.values.len() >= VALUES_MAX || self.bytes + value.len() > BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.bytes += value.len();
        self.values.insert(value.to_owned());
    }
    /// How many are not looked for.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }
}

// === impl Secrets ===

impl Secrets {
    /// Both of them; what is found counts as the job's.
    pub(crate) fn new(of_job: Redaction, sensitive: &Sensitive) -> Self {
        let of_engine = Redaction::new(sensitive.values.iter().map(String::as_str)).counting_on(&of_job);
        Self { of_job, of_engine }
    }
    /// The text without them.
    pub(crate) fn apply(&self, text: &mut String) {
        self.of_job.apply(text);
        self.of_engine.apply(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_looked_for_up_to_their_bound() {
        let mut found = Sensitive::default();
        for value in ["short", "a-value-of-some-length", "a-value-of-some-length"] {
            found.take(value);
        }
        assert_eq!((found.values.len(), found.left_out()), (1, 0));
        for n in 0..VALUES_MAX {
            found.take(&format!("value-number-{n}"));
        }
        assert_eq!((found.values.len(), found.left_out()), (VALUES_MAX, 1));
        let mut found = Sensitive::default();
        found.take(&"x".repeat(BYTES_MAX));
        found.take(&"y".repeat(SHORTEST));
        assert_eq!((found.values.len(), found.left_out()), (1, 1));
    }

    #[test]
    fn both_are_taken_out_and_counted_together() {
        let of_job = Redaction::new(["hunter2-hunter2"]);
        let mut found = Sensitive::default();
        found.take("masked-somewhere");
        let secrets = Secrets::new(of_job.clone(), &found);
        let mut text = "a hunter2-hunter2 b masked-somewhere c".to_owned();
        secrets.apply(&mut text);
        assert_eq!((text.as_str(), of_job.found()), ("a [redacted] b [redacted] c", 2));
    }
}
