//! Reads a plan as OpenTofu and Terraform give it with `show -json` (<https://opentofu.org/docs/internals/json-format/>), piece by piece: of the
//! state, the configuration and the variables nothing is taken, of the changes one is in memory at a time.

use super::change::{Delta, named};
use super::kept::{Kept, length};
use crate::rules::{Change, Judge, Regions};
use crate::secrets::{Secrets, Sensitive};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use shared_proto::bounds::PLAN_DOCUMENT_MAX;
use shared_proto::plan::{Action, Check, Document, Engine, Order, OutputChange, ResourceChange, VERSION};
use std::fmt;
use std::io::BufRead;
use std::marker::PhantomData;

/// The most bytes of all checks.
const CHECKS_BYTES: usize = 64 * 1024;
/// The most bytes of all outputs.
const OUTPUTS_BYTES: usize = 256 * 1024;
/// The most bytes of what somebody else has changed.
const DRIFT_BYTES: usize = 512 * 1024;
/// The most bytes of what the plan would do: what the others and the rest of the document leave.
const RESOURCES_BYTES: usize = PLAN_DOCUMENT_MAX - DRIFT_BYTES - OUTPUTS_BYTES - CHECKS_BYTES - 16 * 1024;
/// What one check says, texts.
const PROBLEMS_MAX: usize = 16;

/// What is known of a plan beside what the engine says of it.
#[derive(Debug, Clone)]
pub(super) struct About {
    /// The engine.
    pub(super) engine: Engine,
    /// What was planned.
    pub(super) kind: &'static str,
    /// Whether there is anything to apply.
    pub(super) has_changes: bool,
}

/// A change of a resource, as the engine gives it.
#[derive(Default, Deserialize)]
pub(super) struct RawChange {
    #[serde(default)]
    pub(super) address: String,
    pub(super) previous_address: Option<String>,
    pub(super) module_address: Option<String>,
    pub(super) mode: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) name: Option<String>,
    pub(super) provider_name: Option<String>,
    pub(super) deposed: Option<String>,
    pub(super) action_reason: Option<String>,
    pub(super) change: Delta,
}

/// A check, as the engine gives it.
#[derive(Deserialize)]
struct RawCheck {
    address: Option<CheckAddress>,
    status: Option<String>,
    instances: Option<Vec<RawInstance>>,
}
#[derive(Deserialize)]
struct CheckAddress {
    to_display: Option<String>,
}
#[derive(Deserialize)]
struct RawInstance {
    problems: Option<Vec<RawProblem>>,
}
#[derive(Deserialize)]
struct RawProblem {
    message: Option<String>,
}

/// A document that is being made.
pub(super) struct Making<'a, 'r> {
    secrets: &'a Secrets,
    /// Who judges it by rules, where there are any.
    judge: Option<&'a mut Judge<'r>>,
    document: Document,
    resources: Kept,
    drift: Kept,
    /// What outputs and checks still may take.
    outputs_left: usize,
    checks_left: usize,
    knows_format: bool,
}

/// Looks through a plan for what the engine masks in it.
///
/// # Errors
/// What is wrong with it, without anything that stands in it.
pub(super) fn sensitive(input: impl BufRead) -> Result<Sensitive, String> {
    let mut found = Sensitive::default();
    object(input, Masked(&mut found))?;
    Ok(found)
}

/// Looks through a plan for the regions that its providers are configured with.
///
/// # Errors
/// As [`sensitive`].
pub(super) fn regions(input: impl BufRead) -> Result<Regions, String> {
    let mut found = Configured::default();
    object(input, &mut found)?;
    Ok(Regions::of(&found.configuration, &found.variables))
}

/// Reads a plan; `judge` sees every change of it, whether the document has room for it or not.
///
/// # Errors
/// As [`sensitive`].
pub(super) fn read(
    input: impl BufRead,
    about: About,
    secrets: &Secrets,
    judge: Option<&mut Judge<'_>>,
) -> Result<Document, String> {
    let mut making = Making::new(about, secrets, judge);
    object(input, Top(&mut making))?;
    if !making.knows_format {
        return Err("it is of a format that is not known".to_owned());
    }
    Ok(making.finish())
}

/// One object; what comes before its brace, a warning, is passed over.
fn object(mut input: impl BufRead, visitor: impl for<'de> Visitor<'de, Value = ()>) -> Result<(), String> {
    loop {
        let read = input.fill_buf().map_err(|e| e.to_string())?;
        let at = read.iter().position(|b| *b == b'{');
        let (skipped, found) = (at.unwrap_or(read.len()), at.is_some() || read.is_empty());
        input.consume(skipped);
        if found {
            break;
        }
    }
    let mut deserializer = serde_json::Deserializer::from_reader(input);
    // its messages may quote what they found: only where and of which kind is said
    let failed = |e: serde_json::Error| format!("{:?} error at line {} column {}", e.classify(), e.line(), e.column());
    deserializer.deserialize_map(visitor).map_err(failed)
}

// === impl Making ===

impl<'a, 'r> Making<'a, 'r> {
    /// Of a plan with nothing in it.
    pub(super) fn new(about: About, secrets: &'a Secrets, judge: Option<&'a mut Judge<'r>>) -> Self {
        let About { engine, kind, has_changes } = about;
        let kind = kind.into();
        let document = Document { version: VERSION, engine, kind, has_changes, complete: true, ..Document::default() };
        Self {
            secrets,
            judge,
            document,
            resources: Kept::new(RESOURCES_BYTES),
            drift: Kept::new(DRIFT_BYTES),
            outputs_left: OUTPUTS_BYTES,
            checks_left: CHECKS_BYTES,
            knows_format: false,
        }
    }

    /// Whether somebody judges it.
    pub(super) fn is_judged(&self) -> bool {
        self.judge.is_some()
    }

    /// Takes what would become of a resource.
    pub(super) fn resource(&mut self, raw: RawChange) {
        if let Some(judge) = &mut self.judge {
            judge.change(&raw.judged(self.secrets));
        }
        let change = self.change(raw);
        let summary = &mut self.document.summary;
        let count = match change.action {
            Action::Create => &mut summary.create,
            Action::Update => &mut summary.update,
            Action::Replace => &mut summary.replace,
            Action::Delete => &mut summary.delete,
            Action::Forget => &mut summary.forget,
            Action::Read => &mut summary.read,
            Action::NoOp | Action::Other => &mut summary.unchanged,
        };
        let stays = change.moved_from.is_none() && change.imported_id.is_none();
        if change.action != Action::NoOp || stays {
            *count = count.saturating_add(1);
        }
        summary.moved = summary.moved.saturating_add(change.moved_from.is_some().into());
        summary.import = summary.import.saturating_add(change.imported_id.is_some().into());
        if change.action != Action::NoOp || !stays {
            self.resources.push(change);
        }
    }

    /// Takes what somebody else has changed.
    pub(super) fn drifted(&mut self, raw: RawChange) {
        if let Some(judge) = &mut self.judge {
            judge.drifted(&raw.judged(self.secrets));
        }
        let change = self.change(raw);
        if change.action != Action::NoOp {
            self.document.summary.drift = self.document.summary.drift.saturating_add(1);
            self.drift.push(change);
        }
    }

    fn change(&self, raw: RawChange) -> ResourceChange {
        let RawChange { change: delta, .. } = raw;
        let named = |text: Option<String>| text.map_or_else(String::new, |text| named(text, self.secrets));
        let optional = |text: Option<String>| text.filter(|text| !text.is_empty()).map(|text| named(Some(text)));
        let (action, order) = action(&delta.actions);
        let (attributes, attributes_left_out) = delta.attributes(self.secrets);
        ResourceChange {
            // where it is the same as before it is not moved
            moved_from: optional(raw.previous_address.filter(|before| *before != raw.address)),
            address: named(Some(raw.address)),
            module: named(raw.module_address),
            mode: named(raw.mode),
            kind: named(raw.kind),
            name: named(raw.name),
            provider: named(raw.provider_name),
            action,
            order,
            reason: named(raw.action_reason),
            imported_id: delta.importing.as_ref().map(|importing| named(importing.id.clone())),
            deposed: optional(raw.deposed),
            replace_paths: delta.replace_paths(self.secrets),
            attributes,
            attributes_left_out,
        }
    }

    /// Takes what would become of an output.
    pub(super) fn output(&mut self, name: String, delta: &Delta) {
        if let Some(judge) = &mut self.judge {
            let [before, after, unknown] = delta.cleaned(self.secrets);
            let name = named(name.clone(), self.secrets);
            judge.output(&Change { name, actions: delta.actions.clone(), before, after, unknown, ..Change::default() });
        }
        let (action, _) = action(&delta.actions);
        if action == Action::NoOp {
            return;
        }
        let (attributes, attributes_left_out) = delta.attributes(self.secrets);
        let mut output = OutputChange { name: named(name, self.secrets), action, attributes, attributes_left_out };
        let document = &mut self.document;
        document.summary.outputs = document.summary.outputs.saturating_add(1);
        if length(&output) > self.outputs_left {
            let count = u32::try_from(std::mem::take(&mut output.attributes).len()).unwrap_or(u32::MAX);
            output.attributes_left_out = output.attributes_left_out.saturating_add(count);
        }
        let length = length(&output);
        if length > self.outputs_left {
            document.left_out.outputs = document.left_out.outputs.saturating_add(1);
            return;
        }
        self.outputs_left -= length;
        document.left_out.attributes = document.left_out.attributes.saturating_add(output.attributes_left_out);
        document.outputs.push(output);
    }

    fn check(&mut self, raw: RawCheck) {
        let named = |text: Option<String>| text.map_or_else(String::new, |text| named(text, self.secrets));
        let problems = raw.instances.into_iter().flatten().flat_map(|instance| instance.problems.unwrap_or_default());
        let check = Check {
            address: named(raw.address.and_then(|address| address.to_display)),
            status: named(raw.status),
            problems: problems.take(PROBLEMS_MAX).map(|problem| named(problem.message)).collect(),
        };
        let document = &mut self.document;
        if matches!(check.status.as_str(), "fail" | "error") {
            document.summary.checks_failed = document.summary.checks_failed.saturating_add(1);
        }
        let length = length(&check);
        if length > self.checks_left {
            document.left_out.checks = document.left_out.checks.saturating_add(1);
            return;
        }
        self.checks_left -= length;
        document.checks.push(check);
    }

    /// The document.
    pub(super) fn finish(self) -> Document {
        let mut document = self.document;
        (document.left_out.resources, document.left_out.drift) = (self.resources.left_out, self.drift.left_out);
        let (resources, of_resources) = self.resources.into_resources();
        let (drift, of_drift) = self.drift.into_resources();
        (document.resources, document.drift) = (resources, drift);
        let missing = of_resources.saturating_add(of_drift);
        document.left_out.attributes = document.left_out.attributes.saturating_add(missing);
        document.checks.sort_by_key(|check| !matches!(check.status.as_str(), "fail" | "error"));
        document
    }
}

// === impl RawChange ===

impl RawChange {
    /// As rules see it. Names are whole: what is cut could be what a pattern asks for.
    fn judged(&self, secrets: &Secrets) -> Change {
        let without = |text: Option<&String>| {
            let mut text = text.cloned().unwrap_or_default();
            secrets.apply(&mut text);
            text
        };
        let [before, after, unknown] = self.change.cleaned(secrets);
        Change {
            address: without(Some(&self.address)),
            module: without(self.module_address.as_ref()),
            mode: without(self.mode.as_ref()),
            kind: without(self.kind.as_ref()),
            name: without(self.name.as_ref()),
            provider: without(self.provider_name.as_ref()),
            action: action(&self.change.actions).0,
            actions: self.change.actions.clone(),
            before,
            after,
            unknown,
        }
    }
}

/// What the engine's list of actions means.
fn action(actions: &[String]) -> (Action, Option<Order>) {
    let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
    match actions.as_slice() {
        ["no-op"] => (Action::NoOp, None),
        ["create"] => (Action::Create, None),
        ["update"] => (Action::Update, None),
        ["delete"] => (Action::Delete, None),
        ["read"] => (Action::Read, None),
        ["forget"] => (Action::Forget, None),
        ["delete", "create"] => (Action::Replace, Some(Order::DeleteFirst)),
        ["create", "delete"] => (Action::Replace, Some(Order::CreateFirst)),
        ["forget", "create"] | ["create", "forget"] => (Action::Replace, Some(Order::ForgetOld)),
        _ => (Action::Other, None),
    }
}

// === what of the JSON is looked at ===

struct Top<'m, 'a, 'r>(&'m mut Making<'a, 'r>);

impl<'de> Visitor<'de> for Top<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plan")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let making = self.0;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "format_version" => {
                    let version = map.next_value::<String>()?;
                    making.knows_format = matches!(version.split('.').next(), Some("0" | "1"));
                    if !making.knows_format {
                        return Err(A::Error::custom("a format that is not known"));
                    }
                }
                "resource_changes" => map.next_value_seed(Each::new(|raw| making.resource(raw)))?,
                "resource_drift" => map.next_value_seed(Each::new(|raw| making.drifted(raw)))?,
                "output_changes" => {
                    map.next_value_seed(EachOf::new(|name, delta: Delta| making.output(name, &delta)))?
                }
                "checks" => map.next_value_seed(Each::new(|raw| making.check(raw)))?,
                "complete" => making.document.complete = map.next_value::<Option<bool>>()?.unwrap_or(true),
                "errored" => making.document.errored = map.next_value::<Option<bool>>()?.unwrap_or(false),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Masked<'m>(&'m mut Sensitive);

impl<'de> Visitor<'de> for Masked<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plan")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let found = self.0;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "resource_changes" | "resource_drift" => {
                    map.next_value_seed(Each::new(|raw: RawChange| raw.change.note_sensitive(found)))?;
                }
                "output_changes" => map.next_value_seed(EachOf::new(|_, delta: Delta| delta.note_sensitive(found)))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// What says how providers are configured.
#[derive(Default)]
struct Configured {
    configuration: Value,
    variables: Value,
}

impl<'de> Visitor<'de> for &mut Configured {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plan")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "configuration" => {
                    let mut configuration = map.next_value::<Value>()?;
                    self.configuration["provider_config"] = configuration["provider_config"].take();
                }
                "variables" => self.variables = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The items of a list, one after the other; null is an empty one.
struct Each<T, F>(F, PhantomData<T>);

impl<T, F: FnMut(T)> Each<T, F> {
    fn new(take: F) -> Self {
        Self(take, PhantomData)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> DeserializeSeed<'de> for Each<T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Each<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            self.0(item);
        }
        Ok(())
    }
}

/// The entries of an object, one after the other; null is an empty one.
struct EachOf<T, F>(F, PhantomData<T>);

impl<T, F: FnMut(String, T)> EachOf<T, F> {
    fn new(take: F) -> Self {
        Self(take, PhantomData)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(String, T)> DeserializeSeed<'de> for EachOf<T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(String, T)> Visitor<'de> for EachOf<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, item)) = map.next_entry()? {
            self.0(name, item);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
