//! Rules for plans: what a plan must not do, what somebody else has to approve, and what is worth a word. A set of them is a folder of files on
//! the runner, which nobody changes from outside, and one that the organization keeps in the control plane. Both are judged by, on the runner, before
//! anything is applied: the strictest word counts, so that no set can weaken another.
//!
//! A set must be read whole or not at all: a rule that was left out because nobody understood it would be one that allows.

mod folder;
#[cfg(feature = "rego")]
pub mod rego;

pub use folder::{FolderError, Gathering, load};

use crate::glob::{Glob, PATTERNS_MAX};
use crate::plan::Action;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most bytes of a set, as JSON.
pub const SET_MAX: usize = 256 * 1024;
/// The most rules of a set.
pub const RULES_MAX: usize = 256;
/// The most modules of Rego of a set.
pub const MODULES_MAX: usize = 64;
/// The longest name of a rule or a module, bytes.
pub const NAME_MAX: usize = 64;
/// The longest text that a rule says, bytes.
pub const MESSAGE_MAX: usize = 500;
/// The most people who may be asked for.
pub const APPROVALS_MAX: u32 = 10;
/// The most findings that are told; a denial is told before everything else.
pub const FINDINGS_MAX: usize = 100;
/// The most bytes of them, as JSON: an event has room for them.
pub const BYTES_MAX: usize = 48 * 1024;

/// Rules that are kept together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Set {
    /// Those that are made of patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<Rule>,
    /// Those that are programs (<https://www.openpolicyagent.org/docs/policy-language>).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rego: Vec<Module>,
    /// What the programs have as `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// A rule. It is about each change of a resource by itself, and of one that meets all that it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Its name, which a refusal says. Unique in its set.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// Of these actions: create, update, replace, delete, forget, read. Empty: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// Of resources of these types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Of resources of any other type than these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types_other_than: Vec<String>,
    /// Of resources at these addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Of resources in any other region than these, or in one that is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions_other_than: Vec<String>,
    /// In these stacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<String>,
    /// In these workspaces; the default one is `default`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<String>,
    /// In jobs of these kinds: preview, update, refresh, destroy, import.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Where the effect is `approve`: how many people, whoever made the job not among them. 1 where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approvals: Option<u32>,
    /// What whoever meets it is to know.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a rule does, the strictest last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It is said, and nothing else.
    Warn,
    /// Others have to approve.
    Approve,
    /// Nothing is applied.
    #[default]
    Deny,
}

/// A module of Rego. What counts is the package `runner.plan`: the sets `deny` and `warn` of texts, and the sets or objects of `approve`, whose
/// entries are numbers or objects with `approvals` and `message`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Its file's name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What rules say of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Judgement {
    /// What was found, denials first.
    pub findings: Vec<Finding>,
    /// How many findings more there are than are told.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u32,
    /// How many people have to approve it beside whoever made the job; 0: none has to.
    pub approvals: u32,
    /// Whether it must not be applied.
    pub denied: bool,
    /// Of the sets by which it was judged: where another one is in force it has to be judged anew.
    pub sets: String,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// Whose set it is of: `runner` or `organization`.
    pub source: String,
    /// The rule's name, or the module's.
    pub rule: String,
    /// What it does.
    pub effect: Effect,
    /// What it says.
    pub message: String,
    /// The resource; empty: the plan as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Where the effect is `approve`: how many people.
    #[serde(skip_serializing_if = "is_zero")]
    pub approvals: u32,
}

const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What `runner-worker-iac judge` is asked on its standard input, as JSON: what rules say of a plan that lies in a file. It answers with a
/// [`Judgement`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The set, as JSON.
    pub set: String,
    /// The file: what the engine gives with `show -json`.
    pub plan: std::path::PathBuf,
    /// The job's kind.
    pub kind: String,
    /// Its stack's name.
    pub stack: String,
    /// Its workspace; empty: the default one.
    pub workspace: String,
    /// Who made it.
    pub created_by: String,
}

// === impl Set ===

impl Set {
    /// A set as JSON, checked.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(json: &str) -> Result<Self, String> {
        if json.len() > SET_MAX {
            return Err(format!("the rules take {} bytes, the limit is {SET_MAX}", json.len()));
        }
        let set: Self = serde_json::from_str(json).map_err(|e| e.to_string())?;
        set.check()?;
        Ok(set)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.rule.is_empty() && self.rego.is_empty()
    }

    /// The same as JSON.
    pub fn to_json(&self) -> String {
        // texts, numbers and lists, and a value that came as JSON
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What Rego is, whoever runs it says.
    fn check(&self) -> Result<(), String> {
        if self.rule.len() > RULES_MAX {
            return Err(format!("there are {} rules, the most is {RULES_MAX}", self.rule.len()));
        }
        if self.rego.len() > MODULES_MAX {
            return Err(format!("there are {} modules of Rego, the most is {MODULES_MAX}", self.rego.len()));
        }
        for (at, rule) in self.rule.iter().enumerate() {
            rule.check().map_err(|what| format!("rule {:?}: {what}", cut(&rule.name)))?;
            if self.rule[..at].iter().any(|earlier| earlier.name == rule.name) {
                return Err(format!("two rules have the name {:?}", rule.name));
            }
        }
        for (at, module) in self.rego.iter().enumerate() {
            name(&module.name).map_err(|what| format!("module {:?}: {what}", cut(&module.name)))?;
            if self.rego[..at].iter().any(|earlier| earlier.name == module.name) {
                return Err(format!("two modules have the name {:?}", module.name));
            }
        }
        if self.data.as_ref().is_some_and(|data| !data.is_object()) {
            return Err("data is no object".to_owned());
        }
        let length = self.to_json().len();
        if length > SET_MAX {
            return Err(format!("the rules take {length} bytes, the limit is {SET_MAX}"));
        }
        Ok(())
    }
}

// === impl Rule ===

impl Rule {
    fn check(&self) -> Result<(), String> {
        name(&self.name)?;
        const ACTIONS: [Action; 6] =
            [Action::Create, Action::Update, Action::Replace, Action::Delete, Action::Forget, Action::Read];
        const KINDS: [&str; 5] = ["preview", "update", "refresh", "destroy", "import"];
        for action in &self.actions {
            if !ACTIONS.iter().any(|known| known.as_str() == action) {
                return Err(format!("{action:?} is no action: there are {}", ACTIONS.map(Action::as_str).join(", ")));
            }
        }
        for kind in &self.kinds {
            if !KINDS.contains(&kind.as_str()) {
                return Err(format!("{kind:?} is no kind of job that plans: there are {}", KINDS.join(", ")));
            }
        }
        for (key, patterns) in self.patterns() {
            if patterns.len() > PATTERNS_MAX {
                return Err(format!("{key} has {} patterns, the most is {PATTERNS_MAX}", patterns.len()));
            }
            for pattern in patterns {
                Glob::parse(pattern).map_err(|what| format!("{key}: {what}"))?;
            }
        }
        if !self.types.is_empty() && !self.types_other_than.is_empty() {
            return Err("it has types and types_other_than: it can have one of them".to_owned());
        }
        match (self.effect, self.approvals) {
            (Effect::Approve, None | Some(1..=APPROVALS_MAX)) | (Effect::Deny | Effect::Warn, None) => {}
            (Effect::Approve, Some(_)) => return Err(format!("approvals must be from 1 to {APPROVALS_MAX}")),
            (_, Some(_)) => return Err("approvals are of the effect \"approve\"".to_owned()),
        }
        if self.message.len() > MESSAGE_MAX {
            return Err(format!("its message has {} bytes, the most is {MESSAGE_MAX}", self.message.len()));
        }
        Ok(())
    }

    fn patterns(&self) -> [(&'static str, &[String]); 6] {
        [
            ("types", &self.types),
            ("types_other_than", &self.types_other_than),
            ("addresses", &self.addresses),
            ("regions_other_than", &self.regions_other_than),
            ("stacks", &self.stacks),
            ("workspaces", &self.workspaces),
        ]
    }
}

// === impl Effect ===

impl Effect {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }
}

// === impl Judgement ===

impl Judgement {
    /// Takes a finding down.
    pub fn find(&mut self, finding: Finding) {
        match finding.effect {
            Effect::Deny => self.denied = true,
            Effect::Approve => self.approvals = self.approvals.max(finding.approvals.max(1)),
            Effect::Warn => {}
        }
        self.findings.push(finding);
        if self.findings.len() > 2 * FINDINGS_MAX {
            self.cut();
        }
    }

    /// Brings what matters most to the front, and leaves out what is too much.
    pub fn cut(&mut self) {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.effect));
        let mut bytes = 0;
        let fits = |finding: &&Finding| {
            // with what JSON adds, of which control characters take most
            bytes += serde_json::to_string(finding).map_or(0, |json| json.len() + 1);
            bytes <= BYTES_MAX
        };
        let most = self.findings.iter().take_while(fits).count().min(FINDINGS_MAX);
        let more = self.findings.len() - most;
        self.left_out = self.left_out.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        self.findings.truncate(most);
    }

    /// Why it is denied, in a sentence.
    pub fn denial(&self) -> String {
        let denials = || self.findings.iter().filter(|finding| finding.effect == Effect::Deny);
        let Some(first) = denials().next() else { return "a rule denies the plan".to_owned() };
        let more = match denials().count().saturating_sub(1) {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        let of = if first.address.is_empty() { String::new() } else { format!(" for {}", first.address) };
        format!("rule {} of the {} denies the plan{of}: {}{more}", first.rule, first.source, first.message)
    }
}

/// In the place of a person, where the runner's own policy lets a plan be applied that reconciles. No user is called so.
pub const BY_POLICY: &str = "the runner's own policy";

/// How many of those who approved count: each once, and neither whoever made the job nor a policy.
pub fn others(approved_by: &[String], created_by: &str) -> u32 {
    let counts = |name: &&String| !name.is_empty() && *name != created_by && *name != BY_POLICY;
    let others: std::collections::BTreeSet<_> = approved_by.iter().filter(counts).collect();
    u32::try_from(others.len()).unwrap_or(u32::MAX)
}

/// Letters, digits, `-`, `.` and `_`.
fn name(name: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(fits) {
        return Err(format!("a name has letters, digits, `-`, `.` and `_`, from 1 to {NAME_MAX} of them"));
    }
    Ok(())
}

fn cut(name: &str) -> String {
    name.chars().take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Set, String> {
        Set::parse(&value.to_string())
    }

    #[test]
    fn a_set_is_read_whole_or_not_at_all() {
        let set = parse(&json!({
            "rule": [
                { "name": "stays", "effect": "deny", "actions": ["delete", "replace"], "types": ["aws_db_*"] },
                { "name": "two", "effect": "approve", "approvals": 2, "stacks": ["prod-*"] },
                { "name": "look", "effect": "warn", "regions_other_than": ["eu-*"], "message": "m" },
            ],
            "rego": [{ "name": "a.rego", "text": "package runner.plan" }],
            "data": { "a": 1 },
        }))
        .expect("a set");
        assert_eq!(Set::parse(&set.to_json()).expect("the same"), set);
        for (wrong, words) in [
            (json!({ "rules": [] }), "unknown field `rules`"),
            (json!({ "rule": [{ "name": "a", "typs": ["x"] }] }), "unknown field `typs`"),
            (json!({ "rule": [{ "effect": "deny" }] }), "a name has"),
            (json!({ "rule": [{ "name": "a b" }] }), "a name has"),
            (json!({ "rule": [{ "name": "a" }, { "name": "a" }] }), "two rules"),
            (json!({ "rule": [{ "name": "a", "effect": "allow" }] }), "unknown variant `allow`"),
            (json!({ "rule": [{ "name": "a", "actions": ["destroy"] }] }), "no action"),
            (json!({ "rule": [{ "name": "a", "kinds": ["outputs"] }] }), "no kind"),
            (json!({ "rule": [{ "name": "a", "types": [""] }] }), "types: a pattern is empty"),
            (json!({ "rule": [{ "name": "a", "types": ["a"], "types_other_than": ["b"] }] }), "one of them"),
            (json!({ "rule": [{ "name": "a", "approvals": 1 }] }), "of the effect"),
            (json!({ "rule": [{ "name": "a", "effect": "approve", "approvals": 0 }] }), "from 1"),
            (json!({ "rule": [{ "name": "a", "effect": "approve", "approvals": 11 }] }), "to 10"),
            (json!({ "rule": [{ "name": "a", "message": "m".repeat(501) }] }), "501 bytes"),
            (json!({ "rego": [{ "name": "a", "text": "" }, { "name": "a", "text": "" }] }), "two modules"),
            (json!({ "data": [] }), "no object"),
        ] {
            let error = parse(&wrong).expect_err(words);
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_set_is_bounded() {
        let rules = |n: usize| json!({ "rule": (0..n).map(|n| json!({ "name": n.to_string() })).collect::<Vec<_>>() });
        assert!(parse(&rules(RULES_MAX)).is_ok() && parse(&rules(RULES_MAX + 1)).is_err());
        let modules = |n: usize| json!({ "rego": (0..n).map(|n| json!({ "name": n.to_string(), "text": "" })).collect::<Vec<_>>() });
        assert!(parse(&modules(MODULES_MAX)).is_ok() && parse(&modules(MODULES_MAX + 1)).is_err());
        let patterns = |n: usize| json!({ "rule": [{ "name": "a", "types": vec!["x"; n] }] });
        assert!(parse(&patterns(PATTERNS_MAX)).is_ok() && parse(&patterns(PATTERNS_MAX + 1)).is_err());
        let text = |n: usize| json!({ "rego": [{ "name": "a", "text": "x".repeat(n) }] });
        let rest = text(0).to_string().len();
        assert!(parse(&text(SET_MAX - rest)).is_ok() && parse(&text(SET_MAX - rest + 1)).is_err());
    }

    #[test]
    fn whoever_made_the_job_is_not_among_those_who_approve() {
        for (names, expected) in [(&[][..], 0), (&["ada"], 0), (&["bob", "bob"], 1), (&["bob", "ada", "", "eve"], 2)] {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(others(&names, "ada"), expected, "{names:?}");
        }
    }

    #[test]
    fn the_strictest_word_counts_and_is_told_first() {
        let mut judgement = Judgement::default();
        let finding = |rule: &str, effect, approvals| Finding {
            source: "runner".into(),
            rule: rule.into(),
            effect,
            message: "m".into(),
            address: "a.b".into(),
            approvals,
        };
        for n in 0..3 * FINDINGS_MAX {
            judgement.find(finding(&n.to_string(), Effect::Warn, 0));
        }
        assert!(!judgement.denied && judgement.approvals == 0);
        judgement.find(finding("one", Effect::Approve, 0));
        judgement.find(finding("three", Effect::Approve, 3));
        judgement.find(finding("two", Effect::Approve, 2));
        assert_eq!((judgement.denied, judgement.approvals), (false, 3));
        judgement.find(finding("no", Effect::Deny, 0));
        judgement.cut();
        assert!(judgement.denied);
        assert_eq!((judgement.findings.len(), judgement.left_out), (FINDINGS_MAX, 204));
        assert_eq!(judgement.findings[0].rule, "no");
        assert_eq!(judgement.denial(), "rule no of the runner denies the plan for a.b: m");
        // and all of it has room in an event
        for n in 0..FINDINGS_MAX {
            judgement
                .find(Finding { message: "\u{1}".repeat(MESSAGE_MAX), ..finding(&n.to_string(), Effect::Deny, 0) });
        }
        judgement.cut();
        let length = serde_json::to_string(&judgement).expect("JSON").len();
        assert!(judgement.denied && length <= BYTES_MAX + 1024, "{length}");
        assert!(judgement.findings.len() > 10 && judgement.left_out > 200);
    }
}
