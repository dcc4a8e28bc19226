//! A rule that is made of patterns. It is about what may be meant too: what of a change is not known meets it.

use super::{Change, Job, Regions};
use shared_proto::glob::Glob;
use shared_proto::plan::Action;
use shared_proto::rules::{Effect, Finding, Rule};

/// A rule that is about the job, ready to look at changes.
pub(super) struct Patterns<'a> {
    source: &'static str,
    rule: &'a Rule,
    types: Vec<Glob>,
    types_other_than: Vec<Glob>,
    addresses: Vec<Glob>,
    regions_other_than: Vec<Glob>,
}

impl<'a> Patterns<'a> {
    /// `None`: the rule is about other jobs.
    pub(super) fn new(source: &'static str, rule: &'a Rule, job: &Job) -> Option<Self> {
        let is_meant = meets(&globs(&rule.stacks), &job.stack)
            && meets(&globs(&rule.workspaces), job.workspace())
            && (rule.kinds.is_empty() || rule.kinds.contains(&job.kind));
        is_meant.then(|| Self {
            source,
            rule,
            types: globs(&rule.types),
            types_other_than: globs(&rule.types_other_than),
            addresses: globs(&rule.addresses),
            regions_other_than: globs(&rule.regions_other_than),
        })
    }

    /// What it says of a change.
    pub(super) fn find(&self, change: &Change, regions: &Regions) -> Option<Finding> {
        let rule = self.rule;
        // what is only read is meant where the rule names that
        let is_action = match change.action {
            Action::NoOp => false,
            Action::Other => true,
            Action::Read if rule.actions.is_empty() => false,
            action => rule.actions.is_empty() || rule.actions.iter().any(|named| named == action.as_str()),
        };
        let other = |patterns: &[Glob], text: &str| patterns.is_empty() || !any(patterns, text);
        if !is_action
            || !meets(&self.types, &change.kind)
            || !other(&self.types_other_than, &change.kind)
            || !meets(&self.addresses, &change.address)
        {
            return None;
        }
        let mut what = match change.action {
            Action::Create => "it is created",
            Action::Update => "it is changed",
            Action::Replace => "it is replaced",
            Action::Delete => "it is destroyed",
            Action::Forget => "it is no longer looked after",
            Action::Read => "it is read",
            Action::NoOp | Action::Other => "something is done with it that is not known",
        }
        .to_owned();
        if !self.regions_other_than.is_empty() {
            what.push_str(&regions.other_than(&self.regions_other_than, change)?);
        }
        if !rule.message.is_empty() {
            what = format!("{} ({what})", rule.message);
        }
        Some(Finding {
            source: self.source.to_owned(),
            rule: rule.name.clone(),
            effect: rule.effect,
            message: what,
            address: change.address.clone(),
            approvals: if rule.effect == Effect::Approve { rule.approvals.unwrap_or(1) } else { 0 },
        })
    }
}

/// The set was checked: each of them is a pattern.
fn globs(patterns: &[String]) -> Vec<Glob> {
    patterns.iter().filter_map(|pattern| Glob::parse(pattern).ok()).collect()
}
fn any(patterns: &[Glob], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}
fn meets(patterns: &[Glob], text: &str) -> bool {
    patterns.is_empty() || any(patterns, text)
}
