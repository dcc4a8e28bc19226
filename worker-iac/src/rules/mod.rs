//! Rules for plans, applied: each change of a plan is shown to every set of rules, and what they say together is the judgement.
//!
//! What rules see has nothing in it that the engine masks or that is secret to the job: a set comes from outside too, and what it says is told. It
//! must fail closed: where a set cannot be used, or a plan cannot be read whole, nothing is applied.

mod patterns;
mod region;
mod rego;

pub(crate) use region::Regions;

use crate::secrets::Secrets;
use patterns::Patterns;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared_proto::plan::Action;
use shared_proto::rules::{Judgement, Set};
use shared_proto::v1::JobStart;

/// Of the runner's own set.
pub(crate) const RUNNER: &str = "runner";
/// Of the organization's.
pub(crate) const ORGANIZATION: &str = "organization";

/// The sets that are in force for a job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    sets: Vec<(&'static str, Set)>,
    digest: String,
}

/// What is planned, as far as rules ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct Job {
    pub(crate) kind: String,
    pub(crate) stack: String,
    pub(crate) workspace: String,
    pub(crate) engine: String,
    pub(crate) engine_version: String,
    pub(crate) created_by: String,
    pub(crate) groups: Vec<String>,
    pub(crate) connections: Vec<String>,
}

/// A change of a resource or an output, without what is secret.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) address: String,
    pub(crate) module: String,
    pub(crate) mode: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) provider: String,
    pub(crate) action: Action,
    /// In the engine's words.
    pub(crate) actions: Vec<String>,
    pub(crate) before: Value,
    pub(crate) after: Value,
    pub(crate) unknown: Value,
}

/// Sees all changes of one plan.
pub(crate) struct Judge<'a> {
    rules: &'a Rules,
    patterns: Vec<Patterns<'a>>,
    regions: Regions,
    judgement: Judgement,
    /// What programs are given, where there are any.
    input: Option<Input>,
}

#[derive(Default)]
struct Input {
    job: Value,
    resource_changes: Vec<Value>,
    resource_drift: Vec<Value>,
    output_changes: serde_json::Map<String, Value>,
}

// === impl Rules ===

impl Rules {
    /// Those that a step is told.
    ///
    /// # Errors
    /// A set that cannot be used, and whose it is.
    pub(crate) fn of(start: &JobStart) -> Result<Self, String> {
        let organization = start.request.as_ref().map_or("", |request| request.rules.as_str());
        Self::new(&start.rules, organization)
    }

    /// From both sets as JSON; empty: there is none.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn new(runner: &str, organization: &str) -> Result<Self, String> {
        let mut rules = Self::default();
        for (source, json) in [(RUNNER, runner), (ORGANIZATION, organization)] {
            if !json.is_empty() {
                let set =
                    Set::parse(json).map_err(|what| format!("the rules of the {source} cannot be used: {what}"))?;
                rules.sets.push((source, set));
            }
        }
        rules.sets.retain(|(_, set)| !set.is_empty());
        if !rules.sets.is_empty() {
            let mut hash = Sha256::new();
            for text in [runner, organization] {
                hash.update(text.len().to_be_bytes());
                hash.update(text);
            }
            rules.digest = shared_proto::hex::encode(hash.finalize());
        }
        Ok(rules)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// What stands for the sets; empty where there are none.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether any of them asks for regions: then those of providers have to be known.
    pub(crate) fn ask_for_regions(&self) -> bool {
        self.sets.iter().flat_map(|(_, set)| &set.rule).any(|rule| !rule.regions_other_than.is_empty())
    }

    /// Who sees the changes of a plan of that job.
    pub(crate) fn judge(&self, job: &Job, regions: Regions) -> Judge<'_> {
        let patterns = self.sets.iter().flat_map(|(source, set)| set.rule.iter().map(|rule| (*source, rule)));
        let patterns = patterns.filter_map(|(source, rule)| Patterns::new(source, rule, job)).collect();
        let programs = self.sets.iter().any(|(_, set)| !set.rego.is_empty());
        let input = programs.then(|| Input { job: job.to_json(), ..Input::default() });
        Judge { rules: self, patterns, regions, judgement: Judgement::default(), input }
    }
}

// === impl Judge ===

impl Judge<'_> {
    /// A change that the plan would make.
    pub(crate) fn change(&mut self, change: &Change) {
        for patterns in &self.patterns {
            if let Some(finding) = patterns.find(change, &self.regions) {
                self.judgement.find(finding);
            }
        }
        if let Some(input) = &mut self.input {
            input.resource_changes.push(change.to_json());
        }
    }
    /// What somebody else has changed.
    pub(crate) fn drifted(&mut self, change: &Change) {
        if let Some(input) = &mut self.input {
            input.resource_drift.push(change.to_json());
        }
    }
    /// A change of an output.
    pub(crate) fn output(&mut self, change: &Change) {
        if let Some(input) = &mut self.input {
            input.output_changes.insert(change.name.clone(), change.sides());
        }
    }

    /// All was seen. `secrets`: what must not be in what is said.
    ///
    /// # Errors
    /// A program that cannot be used, or did not end in time.
    pub(crate) fn finish(self, secrets: &Secrets) -> Result<Judgement, String> {
        let mut judgement = self.judgement;
        if let Some(input) = self.input {
            let input = json!({
                "job": input.job, "resource_changes": input.resource_changes, "resource_drift": input.resource_drift,
                "output_changes": input.output_changes,
            });
            let with_programs = self.rules.sets.iter().filter(|(_, set)| !set.rego.is_empty());
            for (source, set) in with_programs {
                for mut finding in rego::run(source, set, &input)? {
                    secrets.apply(&mut finding.message);
                    secrets.apply(&mut finding.address);
                    judgement.find(finding);
                }
            }
        }
        judgement.cut();
        judgement.sets.clone_from(&self.rules.digest);
        Ok(judgement)
    }
}

// === impl Job, Change ===

impl Job {
    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind, "stack": self.stack, "workspace": self.workspace(), "engine": self.engine,
            "engine_version": self.engine_version, "created_by": self.created_by, "groups": self.groups,
            "connections": self.connections,
        })
    }
    fn workspace(&self) -> &str {
        if self.workspace.is_empty() { "default" } else { &self.workspace }
    }
}

impl Change {
    /// As engines give it with `show -json`, but for what is secret.
    fn to_json(&self) -> Value {
        json!({
            "address": self.address, "module_address": self.module, "mode": self.mode, "type": self.kind,
            "name": self.name, "provider_name": self.provider, "change": self.sides(),
        })
    }
    fn sides(&self) -> Value {
        json!({ "actions": self.actions, "before": self.before, "after": self.after, "after_unknown": self.unknown })
    }
}

#[cfg(test)]
mod tests;
