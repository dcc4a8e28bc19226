//! The runner's own policy: what may be asked of it at all, in `policy.toml`. The control plane cannot widen it.
//!
//! ```toml
//! version = 1
//!
//! [kubernetes]                  # there is this section: what no rule of it allows is denied
//! [[kubernetes.rule]]
//! name = "developers-read"
//! effect = "allow"
//! groups = ["developers"]
//! read_only = true
//! ```
//!
//! The shape: a table for each kind of work, and in it an ordered list of rules. One list for everything was the other choice. Kinds of
//! work have different matchers, so a rule that stands in its section can be checked for keys that mean nothing there, and needs no
//! `kind` that somebody forgets; that the section exists is the switch from allowed to denied; and the order that matters is only that
//! of rules that can meet the same request. Names of rules are unique in the whole file: logs and audit name nothing else.
//!
//! - The first rule that matches decides. No rule: denied. No such section: allowed, as without a policy. To deny a kind of work write
//!   its header, such as `[jobs]`, and no rule. A file in which there is nothing, not even its version, cannot be used.
//! - An allow rule matches what is certain to be what it says; a deny rule also what covers it or might be it (`rule`).
//! - What cannot be decided by its own form is refused before any rule ([`TargetError`]).
//! - A file that cannot be used denies everything: [`Policy::broken`]. So does a rule for plans, which belong to it: what they say is decided
//!   where a plan is made.
//! - People and groups are what the control plane says. They tell its users apart; a control plane that lies is bounded by the rest.

mod cases;
mod decision;
mod file;
mod kubernetes;
mod limits;
mod matchers;
mod reader;
mod request;
mod rule;
mod selector;
mod summary;
mod target;
#[cfg(test)]
mod tests;
mod window;

pub use cases::{CASES_MAX, Case, CaseResult, Cases};
pub use decision::{By, Decision, Effect, Secrets};
pub use file::{FILE_MAX, NAME_MAX, RULES_MAX, VERSION};
pub use kubernetes::{Attributes, Namespace, WayIn};
pub use limits::{CONCURRENCY_MAX, Limit, LimitError, Limits, Permit, RATE_MAX, Rate};
pub use matchers::{ENGINES, KINDS, PROVIDERS};
pub use reader::PolicyError;
pub use request::{CloudCall, JobCall, JobSource, Request, Section, What, reads};
pub use shared_proto::glob::{Glob, PATTERN_MAX, PATTERNS_MAX};
pub use summary::{RuleSummary, SectionSummary, Summary};
pub use target::{PARAMETERS_MAX, TARGET_MAX, TargetError};

/// The folder with rules for plans, beside the policy.
const PLAN_RULES_FOLDER: &str = "plan-rules";

use decision::Look;
use rule::{Matcher, Rule};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// What may be asked of this runner.
#[derive(Debug, Clone)]
pub struct Policy {
    state: State,
    /// The set of rules for plans, as JSON; empty: there is none.
    plan_rules: Arc<str>,
    /// Its file, where others than its owner may write there.
    loose: Option<std::path::PathBuf>,
}
#[derive(Debug, Clone)]
enum State {
    Absent,
    Broken(String),
    Read(BTreeMap<Section, Rules>),
}
/// One section.
#[derive(Debug, Clone)]
struct Rules {
    /// Of Kubernetes: whether exec and its like may be at all.
    exec: bool,
    /// Of Kubernetes: what holds where a rule says nothing.
    secrets: Secrets,
    rules: Vec<Arc<Rule>>,
}

/// Where the rules for plans are, by where the policy is.
pub fn plan_rules_folder(policy: &Path) -> std::path::PathBuf {
    policy.with_file_name(PLAN_RULES_FOLDER)
}

// === impl Policy ===

impl Policy {
    /// No policy: everything is allowed. Values of Secrets are masked here too.
    pub fn absent() -> Self {
        Self::with(State::Absent)
    }

    fn with(state: State) -> Self {
        Self { state, plan_rules: "".into(), loose: None }
    }

    /// A policy that could not be used, and why: everything is denied. A runner that forgot its policy must not go on without one.
    pub fn broken(reason: impl Into<String>) -> Self {
        Self::with(State::Broken(request::tame(&reason.into(), 1024)))
    }

    /// From the text of a file.
    ///
    /// # Errors
    /// The line, the rule and the key that are wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        file::parse(text).map(|sections| Self::with(State::Read(sections)))
    }

    /// From a file, [`Self::absent`] if there is none, and from the folder of rules for plans beside it. Whoever starts with it turns an error into [`Self::broken`]; whoever reads it
    /// again keeps the one that it has.
    ///
    /// # Errors
    /// That it cannot be read, or what is wrong in it.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let policy = match reader::read(path)? {
            None => Self::absent(),
            Some(text) => Self::parse(&text).map_err(|e| e.of(path))?,
        };
        let rules = shared_proto::rules::load(&plan_rules_folder(path))?.filter(|rules| !rules.is_empty());
        let by_others = |of: &std::fs::Metadata| of.permissions().mode() & 0o022 != 0;
        let loose = std::fs::metadata(path).is_ok_and(|of| by_others(&of)).then(|| path.to_owned());
        Ok(Self { plan_rules: rules.map_or_else(String::new, |rules| rules.to_json()).into(), loose, ..policy })
    }

    /// The set of rules for plans ([`shared_proto::rules`]), as JSON; empty: there is none.
    pub fn plan_rules(&self) -> &str {
        &self.plan_rules
    }

    /// Why it is broken, if it is.
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Broken(reason) => Some(reason),
            State::Absent | State::Read(_) => None,
        }
    }

    /// Whether it has a rule of that name; for [`Limits::keep`].
    pub fn has_rule(&self, name: &str) -> bool {
        match &self.state {
            State::Read(sections) => sections.values().flat_map(|s| &s.rules).any(|rule| &*rule.name == name),
            State::Absent | State::Broken(_) => false,
        }
    }

    /// The names of its rules that have terminals recorded.
    pub fn recording_rules(&self) -> Vec<String> {
        match &self.state {
            State::Read(sections) => {
                let rules = sections.values().flat_map(|section| &section.rules);
                rules.filter(|rule| rule.record).map(|rule| rule.name.to_string()).collect()
            }
            State::Absent | State::Broken(_) => Vec::new(),
        }
    }

    /// What is most likely not what its writer meant, though it can be used: a file that others may write; actions of AWS that no operation is
    /// called, of which a deny rule denies nothing (no error, as AWS has newer operations than this runner knows).
    pub fn warnings(&self) -> Vec<String> {
        let loose = self.loose.iter().map(|path| {
            format!(
                "{0} may be written by others than its owner, who then say what is allowed: chmod go-w {0}",
                path.display()
            )
        });
        let mut warnings: Vec<String> = loose.collect();
        let State::Read(sections) = &self.state else { return warnings };
        let rules = sections.get(&Section::Aws).map_or(&[][..], |section| &section.rules);
        for rule in rules {
            let Matcher::Cloud(matcher) = &rule.matcher else { continue };
            for pattern in matcher.operations.globs().iter().filter(|glob| !shared_proto::aws::is_of_an_operation(glob))
            {
                warnings.push(format!(
                    "rule {}: no operation of AWS that this runner knows is called {}, so that it matches nothing: rules name operations of the \
                     API, not IAM's actions (listing a bucket is s3:ListObjectsV2, where IAM has s3:ListBucket)",
                    rule.name,
                    pattern.as_str()
                ));
            }
        }
        warnings
    }

    /// Decides. An allowed request still needs the [`Permit`] of [`Decision::limit`].
    pub fn decide(&self, request: &Request, now: SystemTime) -> Decision {
        let section = request.section();
        let sections = match &self.state {
            State::Absent => {
                return plain(request, Effect::Allow, By::NoPolicy, "the runner has no policy, and without one allows");
            }
            State::Broken(reason) => {
                let why = format!("the runner's policy cannot be used ({reason}), and until it can it denies");
                return plain(request, Effect::Deny, By::Broken, &why);
            }
            State::Read(sections) => sections,
        };
        let Some(rules) = sections.get(&section) else {
            let why = format!("the runner's policy has no section {section}, and so allows");
            return plain(request, Effect::Allow, By::NoSection(section), &why);
        };
        rules.decide(request, section, now)
    }
}

// === impl Rules ===

impl Rules {
    fn decide(&self, request: &Request, section: Section, now: SystemTime) -> Decision {
        if let What::Kubernetes(it) = &request.what
            && let Some(way) = it.way_in()
            && !self.exec
        {
            let why = format!(
                "section {section} of the runner's policy has exec = false, which with {} denies",
                way.as_str()
            );
            return plain(request, Effect::Deny, By::Exec, &why);
        }
        if let What::Aws(call) | What::Gcp(call) | What::Azure(call) = &request.what
            && call.operation.is_none()
            && self.names_operations()
        {
            let why = format!("section {section} of the runner's policy goes by operations, and so denies");
            return plain(request, Effect::Deny, By::UnknownOperation(section), &why);
        }
        let mut looks = Vec::new();
        for rule in &self.rules {
            let unmet = rule.look(request, now);
            looks.push(Look { rule: Arc::clone(rule), unmet });
            if unmet.is_some() {
                continue;
            }
            let verb = if rule.effect == Effect::Allow { "allows" } else { "denies" };
            let why = format!("rule {} of the runner's policy {verb}", rule.name);
            let mut decision = plain(request, rule.effect, By::Rule(Arc::clone(&rule.name)), &why);
            if rule.effect == Effect::Allow {
                decision.secrets = rule.secrets.clone().unwrap_or_else(|| self.secrets.clone());
                decision.limit = rule.limit.clone();
                decision.left = rule.window.as_ref().and_then(|window| window.left(now));
                decision.record = rule.record && request.opens_terminal();
                decision.reconcile = rule.reconcile;
            }
            decision.looks = looks;
            return decision;
        }
        let why = format!("no rule of section {section} of the runner's policy allows");
        Decision { looks, ..plain(request, Effect::Deny, By::Default(section), &why) }
    }

    fn names_operations(&self) -> bool {
        self.rules.iter().any(|rule| matches!(&rule.matcher, Matcher::Cloud(it) if it.operations.is_given()))
    }
}

fn plain(request: &Request, effect: Effect, by: By, why: &str) -> Decision {
    let sentence = format!("{why} {}", request.shown());
    Decision {
        effect,
        by,
        sentence,
        secrets: Secrets::Masked,
        record: false,
        reconcile: false,
        limit: None,
        left: None,
        looks: Vec::new(),
        facts: request.facts(),
    }
}
