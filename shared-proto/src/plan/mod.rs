//! A plan as a document: what a job would change, in words of our own, whatever engine made it. The job's worker makes it, the control plane
//! keeps it, and who shows it reads it. Fields are only ever added; a reader ignores what it does not know.
//!
//! A sensitive value must never be in it: where the engine masks one, there is none here, and what is secret to the job is taken out of every text.

pub mod compare;
pub mod words;

use crate::bounds;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of this form.
pub const VERSION: u32 = 1;

/// A plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`] of who made it.
    pub version: u32,
    /// The engine that planned.
    pub engine: Engine,
    /// What was planned: update, preview, refresh or destroy.
    pub kind: String,
    /// Whether there is anything to apply, by the engine's own word.
    pub has_changes: bool,
    /// Whether applying it does all that the configuration asks for: else the engine has put something off, and plans again after it.
    #[serde(default = "yes")]
    pub complete: bool,
    /// Whether the engine failed over it: then it is a part of a plan, and cannot be applied.
    #[serde(default)]
    pub errored: bool,
    /// How much there is of each; of all, what was left out included.
    pub summary: Summary,
    /// What would become of resources: what is replaced and destroyed first. What stays as it is and where it is is not among them.
    #[serde(default)]
    pub resources: Vec<ResourceChange>,
    /// What would become of outputs.
    #[serde(default)]
    pub outputs: Vec<OutputChange>,
    /// What somebody else has changed since the last job: no part of what the plan would do.
    #[serde(default)]
    pub drift: Vec<ResourceChange>,
    /// Checks of the configuration, those that failed first.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What did not fit.
    #[serde(default)]
    pub left_out: LeftOut,
}

/// Which engine it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// opentofu, terraform …
    pub name: String,
    /// Its version.
    pub version: String,
}

/// How many of each. One that is replaced is neither created nor deleted here; one that is moved or imported counts there too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Created.
    pub create: u32,
    /// Changed in place.
    pub update: u32,
    /// Destroyed and created.
    pub replace: u32,
    /// Destroyed.
    pub delete: u32,
    /// Taken over from what is there already.
    pub import: u32,
    /// Left as they are and no longer looked after.
    pub forget: u32,
    /// Data that is read as the plan is applied.
    pub read: u32,
    /// Under another address than before.
    pub moved: u32,
    /// That stay as they are.
    pub unchanged: u32,
    /// Outputs that change.
    pub outputs: u32,
    /// Changed by somebody else.
    pub drift: u32,
    /// Checks that failed.
    pub checks_failed: u32,
}

/// What would become of a resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceChange {
    /// Its full address.
    pub address: String,
    /// The address of its module; empty: the root module.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub module: String,
    /// managed, data …
    pub mode: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name in the module.
    pub name: String,
    /// The provider's address.
    pub provider: String,
    /// What is done.
    pub action: Action,
    /// In which order, of one that is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Why, in the engine's own token; empty where it says nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Its address before, of one that is moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<String>,
    /// By which id it is imported; empty where that is not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported_id: Option<String>,
    /// The key of an object that an earlier replacement has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deposed: Option<String>,
    /// Paths of attributes that cannot be changed in place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replace_paths: Vec<String>,
    /// What changes in it, by path.
    pub attributes: Vec<AttributeChange>,
    /// How many more of them there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub attributes_left_out: u32,
}

/// What is done with a resource or an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: it is moved, or imported as it is.
    NoOp,
    /// It is made.
    Create,
    /// It is changed in place.
    Update,
    /// It is destroyed and made anew.
    Replace,
    /// It is destroyed.
    Delete,
    /// It stays and is no longer looked after.
    Forget,
    /// It is read as the plan is applied.
    Read,
    /// One that this version does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// In which order one is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Destroyed, then created.
    DeleteFirst,
    /// Created, then the old one destroyed.
    CreateFirst,
    /// Created, and the old one no longer looked after.
    ForgetOld,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

/// What changes in one place: a value that has no parts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttributeChange {
    /// Where: `tags.team`, `rules[0].port`, `tags["a.b"]`; empty: an output as a whole.
    pub path: String,
    /// What is there now; none where there is nothing, or it is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What is there then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// What is there then is known after the plan was applied.
    #[serde(skip_serializing_if = "is_false")]
    pub unknown: bool,
    /// Neither is shown.
    #[serde(skip_serializing_if = "is_false")]
    pub sensitive: bool,
    /// The value stays, and becomes sensitive or ceases to be.
    #[serde(skip_serializing_if = "is_false")]
    pub only_sensitivity: bool,
    /// It cannot be changed in place.
    #[serde(skip_serializing_if = "is_false")]
    pub forces_replacement: bool,
    /// Bytes that were left out of `before` and `after`.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut: u32,
}

/// What would become of an output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputChange {
    /// Its name.
    pub name: String,
    /// create, update or delete.
    pub action: Action,
    /// What changes in it.
    pub attributes: Vec<AttributeChange>,
    /// How many more of them there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub attributes_left_out: u32,
}

/// A check of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// What it is of.
    pub address: String,
    /// pass, fail, error or unknown.
    pub status: String,
    /// What it says where it failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// How much did not fit, and is counted in the summary only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Resources.
    pub resources: u32,
    /// Resources of the drift.
    pub drift: u32,
    /// Outputs.
    pub outputs: u32,
    /// Checks.
    pub checks: u32,
    /// Attributes of resources and outputs that are there.
    pub attributes: u32,
}

// === impl Document ===

impl Document {
    /// Reads one.
    ///
    /// # Errors
    /// It is no such document, or one of a form that cannot be read.
    pub fn read(json: &str) -> Result<Self, String> {
        let document: Self = serde_json::from_str(json).map_err(|e| e.to_string())?;
        match document.version {
            // what comes later only adds to it
            VERSION.. => Ok(document),
            other => Err(format!("there is no version {other}")),
        }
    }
    /// Whether something of it is missing.
    pub fn is_partial(&self) -> bool {
        self.left_out != LeftOut::default()
    }
}

/// The parts of a document that go into one event each, at most [`bounds::PLAN_PART`] bytes long.
pub fn parts(json: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), json);
    while !rest.is_empty() {
        let mut end = rest.len().min(bounds::PLAN_PART);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (part, behind) = rest.split_at(end);
        parts.push(part);
        rest = behind;
    }
    parts
}

// === impl Action ===

impl Action {
    /// Its name, as the document has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoOp => "no_op",
            Self::Create => "create",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Forget => "forget",
            Self::Read => "read",
            Self::Other => "other",
        }
    }
    /// How much may be lost by it: the order in which plans are read, what is lost for good first.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Replace | Self::Delete => 0,
            Self::Forget | Self::Other => 1,
            Self::Update => 2,
            Self::Create => 3,
            Self::Read | Self::NoOp => 4,
        }
    }
    /// Whether what is there now is destroyed.
    pub const fn destroys(self) -> bool {
        matches!(self, Self::Replace | Self::Delete)
    }
}

fn yes() -> bool {
    true
}
fn is_false(value: &bool) -> bool {
    !value
}
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_later_version_adds_is_ignored_and_what_is_no_document_is_refused() {
        let later = json!({
            "version": VERSION + 1, "engine": {"name": "opentofu", "version": "9", "new": 1}, "kind": "update",
            "has_changes": true, "summary": {"create": 1, "explode": 2}, "brand_new": {},
            "resources": [{"address": "a.b", "action": "explode", "order": "sideways", "attributes": [{"path": "x", "after": 1}]}],
        });
        let read = Document::read(&later.to_string()).expect("reads");
        assert_eq!((read.summary.create, read.resources[0].action), (1, Action::Other));
        assert_eq!(read.resources[0].order, Some(Order::Other));
        assert!(read.complete && !read.errored && !read.is_partial());
        for bad in ["", "{}", "[]", "{\"version\":1}", "{\"version\":\"1\"}"] {
            assert!(Document::read(bad).is_err(), "{bad}");
        }
        let mut old = later;
        old["version"] = 0.into();
        assert_eq!(Document::read(&old.to_string()).map(drop), Err("there is no version 0".to_owned()));
    }

    #[test]
    fn what_is_not_there_is_not_written_and_reads_back() {
        let document = Document {
            version: VERSION,
            resources: vec![ResourceChange {
                address: "a.b".into(),
                action: Action::NoOp,
                attributes: vec![AttributeChange { path: "x".into(), sensitive: true, ..Default::default() }],
                ..Default::default()
            }],
            complete: true,
            ..Default::default()
        };
        let json = serde_json::to_string(&document).expect("JSON");
        assert!(json.contains(r#"{"path":"x","sensitive":true}"#) && json.contains(r#""no_op""#), "{json}");
        assert_eq!(Document::read(&json), Ok(document));
    }

    #[test]
    fn parts_are_whole_characters_and_put_together_the_document() {
        for text in ["", "x", &"é".repeat(bounds::PLAN_PART), &"x".repeat(bounds::PLAN_PART + 1)] {
            let parts = parts(text);
            assert!(parts.iter().all(|part| !part.is_empty() && part.len() <= bounds::PLAN_PART));
            assert_eq!(parts.concat(), text);
            assert!(parts.len() <= text.len() / (bounds::PLAN_PART - 3) + 1, "{}", parts.len());
        }
    }
}
