//! Reads a plan as Pulumi tells of it while it previews: a line an event. One resource is in memory at a time.

use super::change::{Delta, Importing};
use super::read::{About, Making, RawChange};
use crate::engine::pulumi::step::{Step, known, marks};
use crate::rules::Judge;
use crate::secrets::Secrets;
use serde_json::{Map, Value};
use shared_proto::plan::Document;
use std::collections::BTreeSet;
use std::io::BufRead;

/// Reads one.
///
/// # Errors
/// What is wrong with it, without anything that stands in it.
pub(super) fn read(
    input: impl BufRead,
    about: About,
    secrets: &Secrets,
    judge: Option<&mut Judge<'_>>,
) -> Result<Document, String> {
    // what a refresh finds is what it would write down
    let of_others = about.kind == "refresh";
    let mut making = Making::new(about, secrets, judge);
    for line in input.lines() {
        let line = line.map_err(|e| e.to_string())?;
        let event = match serde_json::from_str::<Value>(&line) {
            Ok(event) => event,
            // what nobody can read may be what a rule is about
            Err(_) if making.is_judged() && !line.trim().is_empty() => {
                return Err("a line of it is no event".to_owned());
            }
            Err(_) => continue,
        };
        let Some(step) = Step::of(&event["resOutputsEvent"]) else { continue };
        if step.outputs_change() {
            outputs(&mut making, &step);
            continue;
        }
        let Some(action) = step.change() else { continue };
        let change = change(&step, action, if of_others { "outputs" } else { "inputs" });
        if of_others { making.drifted(change) } else { making.resource(change) }
    }
    Ok(making.finish())
}

fn change(step: &Step<'_>, action: &str, of: &str) -> RawChange {
    let (before, after) = step.sides(of);
    let actions: &[&str] = match action {
        // Pulumi makes the new one first, unless it is told otherwise, which it does not say
        "replace" => &["create", "delete"],
        // one that is imported is not changed by that
        "import" => &["no-op"],
        other => &[other],
    };
    let mut change = delta(before, after, actions);
    for key in step.changed_keys() {
        // both are shown alike, and are not: a secret
        if change.before.get(key) == change.after.get(key)
            && let Some(before) = change.before.as_object_mut()
        {
            before.remove(key);
        }
    }
    change.replace_paths = Some(step.replace_keys());
    if action == "import" {
        change.importing = Some(Importing { id: Some(step.id().to_owned()) });
    }
    let mode = if step.is_stack() { "component" } else { "managed" };
    RawChange {
        address: step.address().to_owned(),
        mode: Some(mode.to_owned()),
        kind: Some(step.kind.to_owned()),
        name: Some(step.name().to_owned()),
        provider_name: Some(step.provider().to_owned()),
        change,
        ..RawChange::default()
    }
}

fn delta(before: &Value, after: &Value, actions: &[&str]) -> Delta {
    let ((before_sensitive, _), (after_sensitive, after_unknown)) = (marks(before), marks(after));
    Delta {
        actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        before: before.clone(),
        after: known(after),
        after_unknown,
        before_sensitive,
        after_sensitive,
        ..Delta::default()
    }
}

fn outputs(making: &mut Making<'_, '_>, step: &Step<'_>) {
    let none = Map::new();
    let (before, after) = step.sides("outputs");
    let (before, after) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (was, is) = (before.get(name), after.get(name));
        let action = match (was, is) {
            (was, is) if was == is => continue,
            (None, _) => "create",
            (_, None) => "delete",
            _ => "update",
        };
        let null = Value::Null;
        making.output(name.clone(), &delta(was.unwrap_or(&null), is.unwrap_or(&null), &[action]));
    }
}

#[cfg(test)]
#[path = "previewed_tests.rs"]
mod tests;
