//! Resources on their way out, whatever the provider: what does not fit what was asked for is left out, what failed is told at the end.

use serde_json::Value;
use shared_proto::documents::{Resource, ResourceFailure};
use shared_proto::failure::Code;
use shared_proto::inventory::{LIMIT_DEFAULT, LIMIT_MAX};
use shared_proto::v1::{ListResources, Outcome};
use std::collections::BTreeMap;

use crate::document::Document;
use crate::fault::{Fault, done};
use crate::socket::Output;

/// The most failures of one list: one for each type, and some for what is within them.
const FAILURES_MAX: usize = 128;

/// What was found so far.
pub(crate) struct Found<'a> {
    document: Document<'a>,
    wanted: Wanted,
    limit: u32,
    left: u32,
    truncated: bool,
    alone: bool,
    failures: Vec<ResourceFailure>,
}

/// Which resources are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    tags: BTreeMap<String, String>,
    /// In lower case.
    text: String,
}

// === impl Wanted ===

impl Wanted {
    /// What a list says.
    pub(crate) fn of(list: &ListResources) -> Self {
        Self { tags: list.tags.iter().map(|(k, v)| (k.clone(), v.clone())).collect(), text: list.text.to_lowercase() }
    }

    /// Whether it is one of those that were asked for.
    pub(crate) fn fits(&self, resource: &Resource) -> bool {
        let tagged = self.tags.iter().all(|(k, v)| resource.tags.get(k).is_some_and(|t| v.is_empty() || t == v));
        let has = |text: &str| text.to_lowercase().contains(&self.text);
        tagged
            && (self.text.is_empty()
                || has(&resource.name)
                || has(&resource.id)
                || resource.tags.iter().any(|(k, v)| has(k) || has(v)))
    }
}

// === impl Found ===

impl<'a> Found<'a> {
    /// Begins the answer to a list.
    pub(crate) fn new(list: &ListResources, output: &'a mut Output) -> Self {
        let limit = match list.limit {
            0 => LIMIT_DEFAULT,
            n => n.min(LIMIT_MAX),
        };
        let refused = list.refused.iter().map(|refused| ResourceFailure {
            type_name: refused.type_name.clone(),
            code: Code::PolicyDenied.as_str().to_owned(),
            message: refused.message.clone(),
            next_step: String::new(),
        });
        Self {
            document: Document::list(output),
            wanted: Wanted::of(list),
            limit,
            left: limit,
            truncated: false,
            alone: list.types.len() == 1 && list.refused.is_empty(),
            failures: refused.take(FAILURES_MAX).collect(),
        }
    }

    /// Passes one on if it fits; `false` where the limit had been reached, and nothing more is to be looked for.
    pub(crate) async fn add(&mut self, resource: &Resource) -> Result<bool, Fault> {
        if !self.wanted.fits(resource) {
            return Ok(true);
        }
        if self.left == 0 {
            self.truncated = true;
            return Ok(false);
        }
        self.left -= 1;
        self.document.item(resource).await?;
        Ok(true)
    }

    /// How many more are taken.
    pub(crate) fn room(&self) -> usize {
        self.left as usize
    }

    /// There is more than what is looked for.
    pub(crate) fn cut(&mut self) {
        self.truncated = true;
    }

    /// Nothing more is passed on.
    pub(crate) fn is_full(&self) -> bool {
        self.truncated && self.left == 0
    }

    /// Whether one type is asked for and nothing else: what it fails with, the list has failed with as a whole.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// A type, or a part of it, could not be listed.
    pub(crate) fn failed(&mut self, type_name: &str, fault: &Fault) {
        if self.failures.len() < FAILURES_MAX {
            let outcome = fault.outcome();
            self.failures.push(ResourceFailure {
                type_name: type_name.to_owned(),
                code: outcome.code,
                message: outcome.message,
                next_step: outcome.next_step,
            });
        }
    }

    /// Ends the answer. What failed is no failure of the whole.
    pub(crate) async fn end(self) -> Result<Outcome, Fault> {
        let unwritable = |e: serde_json::Error| Fault::new(Code::Internal, e.to_string());
        let failures = serde_json::to_string(&self.failures).map_err(unwritable)?;
        let truncated = self.truncated;
        self.document.end(&format!(r#","failures":{failures},"truncated":{truncated}"#)).await?;
        let message = if truncated { format!("there are more than {} resources", self.limit) } else { String::new() };
        Ok(Outcome { truncated, message, ..done() })
    }
}

/// The text of a member of a JSON object; empty: it has none.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// An object of texts, such as labels.
pub(crate) fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}
