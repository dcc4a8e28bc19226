//! What was decided, by what, and how to say so.

use super::limits::Limit;
use super::request::Section;
use super::rule::{Rule, Unmet};
use serde::Serialize;
use shared_proto::glob::Glob;
use std::sync::Arc;
use std::time::Duration;

/// Whether it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The first rule that matched.
    Rule(Arc<str>),
    /// The section is there and none of its rules matched.
    Default(Section),
    /// `exec = false` of the section.
    Exec,
    /// The section names operations in a rule, and it cannot be told which one this is.
    UnknownOperation(Section),
    /// There is a policy, without such a section.
    NoSection(Section),
    /// There is no policy.
    NoPolicy,
    /// There is one that cannot be read.
    Broken,
}

/// Which values of Secret objects go out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Secrets {
    /// None.
    #[default]
    Masked,
    /// All.
    Shown,
    /// Those of Secrets whose `type` one of these matches.
    ShownTypes(Vec<Glob>),
}

/// A decision about one request.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Whether it may be.
    pub effect: Effect,
    /// What decided.
    pub by: By,
    /// One sentence for whoever asked: what decided what. It has no control character.
    pub sentence: String,
    /// What may be shown of Secret objects, if there are any in the answer.
    pub secrets: Secrets,
    /// Whether the terminal that the request opens has to be recorded: without that it must not be. False of what opens none.
    pub record: bool,
    /// Of a job: whether its plan may be applied without asking where it reconciles. Only a rule says so, never the lack of one.
    pub reconcile: bool,
    /// What [`super::Limits::take`] has to agree to first, of an allowed request.
    pub limit: Option<Limit>,
    /// How long the time window of the rule that allows it still holds; `None`: it has none, or one that has no end.
    pub left: Option<Duration>,
    /// The rules that were looked at, in order.
    pub(super) looks: Vec<Look>,
    /// What was asked, by the keys of the rules.
    pub(super) facts: Vec<(&'static str, String)>,
}

/// One rule that was looked at.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) rule: Arc<Rule>,
    /// `None`: it matched.
    pub(super) unmet: Option<Unmet>,
}

// === impl Effect ===

impl Effect {
    /// `allow` or `deny`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

// === impl By ===

impl By {
    /// Its name, in log, audit and tests: a rule's own name, or words in parentheses that no rule can be called.
    pub fn name(&self) -> String {
        match self {
            Self::Rule(name) => name.to_string(),
            Self::Default(section) => format!("(default of section {section})"),
            Self::Exec => "(exec = false of section kubernetes)".to_owned(),
            Self::UnknownOperation(section) => format!("(unknown operation in section {section})"),
            Self::NoSection(section) => format!("(no section {section})"),
            Self::NoPolicy => "(no policy)".to_owned(),
            Self::Broken => "(broken policy)".to_owned(),
        }
    }
}

// === impl Secrets ===

impl Secrets {
    /// Whether the values of a Secret of that type go out.
    pub fn shows(&self, kind: &str) -> bool {
        match self {
            Self::Masked => false,
            Self::Shown => true,
            Self::ShownTypes(types) => types.iter().any(|t| t.matches(kind)),
        }
    }

    /// As a file has it, in words.
    pub(super) fn written(&self) -> String {
        match self {
            Self::Masked => "masked".to_owned(),
            Self::Shown => "shown".to_owned(),
            Self::ShownTypes(types) => {
                let types: Vec<&str> = types.iter().map(Glob::as_str).collect();
                format!("shown_types {}", types.join(", "))
            }
        }
    }
}

// === impl Decision ===

impl Decision {
    /// Whether it may be.
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// A line for each rule that was looked at, with why it did not match, and one for what decided in the end.
    pub fn explain(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.looks.iter().map(|look| look.line(&self.facts)).collect();
        lines.push(format!("{}: {}", self.effect.as_str(), self.sentence));
        if self.record {
            lines.push("recorded: what is shown and what is typed".to_owned());
        }
        if self.reconcile {
            lines.push("reconcile: a plan that sets right is applied without asking".to_owned());
        }
        lines
    }
}

// === impl Look ===

impl Look {
    fn line(&self, facts: &[(&'static str, String)]) -> String {
        let rule = &self.rule;
        let head = format!("rule {} ({})", rule.name, rule.effect.as_str());
        let Some(unmet) = self.unmet else {
            return format!("{head}: matches");
        };
        let wanted = rule.written(unmet.key);
        let asked = facts.iter().find(|(key, _)| *key == unmet.key).map(|(_, value)| value.as_str());
        let why = if unmet.may { "cannot be told to match" } else { "does not match" };
        match asked {
            Some(asked) => format!("{head}: {} = {wanted} {why}: asked is {asked}", unmet.key),
            None => format!("{head}: {} = {wanted} {why} now", unmet.key),
        }
    }
}
