//! How an operation fails: the code, the words, and what the target itself said.

use shared_proto::failure::{Code, Failure};
use shared_proto::v1::Outcome;

/// The longest piece of a target's own words that goes on, characters.
const WORDS_MAX: usize = 2000;

/// A failure, with the target's own status and word for it where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) failure: Failure,
    /// The target's HTTP status; 0: none.
    pub(crate) status: u32,
    /// The target's word for it, such as `Forbidden`.
    pub(crate) reason: String,
}

// === impl Fault ===

impl Fault {
    /// A failure that the target said nothing about.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        code.on(words(&message.into())).into()
    }
    /// The same with a better next step.
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.failure = self.failure.next(step);
        self
    }
    /// The same with where something was looked for.
    pub(crate) fn looked_in(mut self, place: &str) -> Self {
        self.failure.message = words(&format!("{} in {place}", self.failure.message));
        self
    }
    /// The same with what the target itself said.
    pub(crate) fn said(mut self, status: u16, reason: impl Into<String>) -> Self {
        self.status = u32::from(status);
        self.reason = reason.into();
        self
    }
    pub(crate) fn code(&self) -> Code {
        self.failure.code
    }
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome { target_status: self.status, target_reason: self.reason.clone(), ..self.failure.outcome() }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self { failure, status: 0, reason: String::new() }
    }
}

/// The outcome of an operation that did what was asked.
pub(crate) fn done() -> Outcome {
    Outcome { code: "ok".to_owned(), ..Default::default() }
}

/// A text from outside, fit to be shown: one line, no control characters, bounded.
pub(crate) fn words(text: &str) -> String {
    let mut out = String::new();
    for (n, word) in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).enumerate() {
        if n > 0 {
            out.push(' ');
        }
        out.push_str(word);
    }
    if out.chars().count() > WORDS_MAX {
        out = out.chars().take(WORDS_MAX).collect();
        out.push('…');
    }
    out
}

/// An error with all its causes, outermost first, without saying the same twice.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_bounded_line() {
        assert_eq!(words(" a\nb\t\u{1b}[31mc  d\r\n"), "a b [31mc d");
        let long = words(&"ä".repeat(WORDS_MAX + 1));
        assert_eq!(long.chars().count(), WORDS_MAX + 1);
        assert_eq!(words(&"ä".repeat(WORDS_MAX)), "ä".repeat(WORDS_MAX));
    }

    #[test]
    fn an_outcome_keeps_what_the_target_said() {
        let outcome = Fault::new(Code::TargetForbidden, "no").said(403, "Forbidden").outcome();
        assert_eq!(
            (outcome.code.as_str(), outcome.target_status, outcome.target_reason.as_str()),
            ("target_forbidden", 403, "Forbidden")
        );
    }
}
