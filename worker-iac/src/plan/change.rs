//! What changes in a resource or an output: both sides of it walked through together, down to values that have no parts. What the engine masks on
//! either side is named and never shown; every text, keys and numbers included, is looked through for the job's secrets before it is cut.

use crate::masked::{Mask, any, clean, note};
use crate::secrets::{Secrets, Sensitive};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared_proto::plan::AttributeChange;
use std::collections::BTreeSet;

/// The most attributes of one resource or output.
pub(super) const ATTRIBUTES_MAX: usize = 200;
/// The most bytes of one value; a longer text is cut, a longer object or list left out.
pub(super) const VALUE_MAX: usize = 4096;
/// The most bytes of a path, an address or another short text.
pub(super) const NAME_MAX: usize = 1024;

/// Both sides of a change, as the engine gives them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta {
    pub(super) actions: Vec<String>,
    pub(super) before: Value,
    pub(super) after: Value,
    pub(super) after_unknown: Value,
    pub(super) before_sensitive: Value,
    pub(super) after_sensitive: Value,
    pub(super) replace_paths: Option<Vec<Vec<Value>>>,
    pub(super) importing: Option<Importing>,
}

/// Of an import.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Importing {
    pub(super) id: Option<String>,
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Key(String),
    Index(usize),
}

/// What is found on the way.
struct Walk<'a> {
    secrets: &'a Secrets,
    replace: Vec<Vec<At>>,
    path: Vec<At>,
    found: Vec<AttributeChange>,
    left_out: u32,
}

/// One place, on both sides.
#[derive(Clone, Copy)]
struct Place<'a> {
    before: &'a Value,
    after: &'a Value,
    unknown: &'a Value,
    before_mask: Mask<'a>,
    after_mask: Mask<'a>,
}

const NULL: &Value = &Value::Null;

// === impl Delta ===

impl Delta {
    /// What changes in it, at most [`ATTRIBUTES_MAX`], and how much more there is.
    pub(super) fn attributes(&self, secrets: &Secrets) -> (Vec<AttributeChange>, u32) {
        let replace = self.replace_paths.iter().flatten().map(|path| path.iter().map(At::of).collect()).collect();
        let mut walk = Walk { secrets, replace, path: Vec::new(), found: Vec::new(), left_out: 0 };
        walk.go(Place {
            before: &self.before,
            after: &self.after,
            unknown: &self.after_unknown,
            before_mask: Mask::of(&self.before_sensitive),
            after_mask: Mask::of(&self.after_sensitive),
        });
        (walk.found, walk.left_out)
    }
    /// Both sides and what is not known yet, without what the engine masks or is secret.
    pub(super) fn cleaned(&self, secrets: &Secrets) -> [Value; 3] {
        [
            clean(&self.before, Mask::of(&self.before_sensitive), secrets),
            clean(&self.after, Mask::of(&self.after_sensitive), secrets),
            clean(&self.after_unknown, Mask::Nothing, secrets),
        ]
    }
    /// Notes what the engine masks on either side.
    pub(super) fn note_sensitive(&self, found: &mut Sensitive) {
        note(&self.before, Mask::of(&self.before_sensitive), found);
        note(&self.after, Mask::of(&self.after_sensitive), found);
    }
    /// The paths that cannot be changed in place, as people write them.
    pub(super) fn replace_paths(&self, secrets: &Secrets) -> Vec<String> {
        let paths = self.replace_paths.iter().flatten().take(ATTRIBUTES_MAX);
        paths.map(|path| shown(&path.iter().map(At::of).collect::<Vec<_>>(), secrets)).collect()
    }
}

// === impl At ===

impl At {
    fn of(step: &Value) -> Self {
        match (step, step.as_u64().and_then(|n| usize::try_from(n).ok())) {
            (Value::String(key), _) => Self::Key(key.clone()),
            (_, Some(index)) => Self::Index(index),
            (other, None) => Self::Key(other.to_string()),
        }
    }
}

/// A path as people write it.
fn shown(path: &[At], secrets: &Secrets) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            At::Index(index) => text.push_str(&format!("[{index}]")),
            At::Key(key) => {
                let mut key = key.clone();
                secrets.apply(&mut key);
                let plain = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                match (plain, text.is_empty()) {
                    (true, true) => text.push_str(&key),
                    (true, false) => text.push_str(&format!(".{key}")),
                    (false, _) => text.push_str(&format!("[{}]", Value::from(key))),
                }
            }
        }
        if text.len() > NAME_MAX {
            break;
        }
    }
    // of a secret in two steps of it
    named(text, secrets)
}

/// A short text without secrets, cut where it is long.
pub(super) fn named(mut text: String, secrets: &Secrets) -> String {
    secrets.apply(&mut text);
    if cut(&mut text, NAME_MAX) > 0 {
        text.push('…');
    }
    text
}

/// Cuts a text to that many bytes; how many are left out.
fn cut(text: &mut String, most: usize) -> usize {
    let whole = text.len();
    let mut end = whole.min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    whole - end
}

fn key<'a>(of: &'a Value, key: &str) -> &'a Value {
    of.get(key).unwrap_or(NULL)
}

// === impl Walk ===

impl Walk<'_> {
    fn go(&mut self, place: Place<'_>) {
        let unknown = any(place.unknown);
        let (before_mask, after_mask) = (place.before_mask.on(place.before), place.after_mask.on(place.after));
        let place = Place { before_mask, after_mask, ..place };
        let differs = unknown || place.before != place.after;
        if before_mask.is_all() || after_mask.is_all() {
            // of what is nothing on both sides nothing changes
            let only_sensitivity = !differs && !before_mask.same(after_mask) && !place.before.is_null();
            if differs || only_sensitivity {
                self.push(AttributeChange { sensitive: true, unknown, only_sensitivity, ..AttributeChange::default() });
            }
            return;
        }
        if !differs && before_mask.same(after_mask) {
            return;
        }
        let in_parts = match (place.unknown, place.before, place.after) {
            (Value::Array(_), _, Value::Array(_)) | (Value::Object(_), _, Value::Object(_)) => true,
            // a part that is unknown is missing in what is known: all of them may be
            (Value::Object(_), Value::Null | Value::Object(_), Value::Null) => true,
            _ => false,
        };
        if unknown && !in_parts {
            let mut change = AttributeChange { unknown: true, ..AttributeChange::default() };
            change.before = self.value(place.before, before_mask, &mut change.cut);
            self.push(change);
            return;
        }
        match (place.before, place.after) {
            (Value::Object(before), Value::Object(after)) => self.objects(place, before, after),
            (Value::Array(before), Value::Array(after)) => self.lists(place, before, after),
            (Value::Null, Value::Null) => self.objects(place, &Map::new(), &Map::new()),
            (Value::Object(before), Value::Null) if unknown || !before.is_empty() => {
                self.objects(place, before, &Map::new());
            }
            (Value::Null, Value::Object(after)) if unknown || !after.is_empty() => {
                self.objects(place, &Map::new(), after);
            }
            (Value::Array(before), Value::Null) if !before.is_empty() => self.lists(place, before, &[]),
            (Value::Null, Value::Array(after)) if !after.is_empty() => self.lists(place, &[], after),
            (before, after) if (has_parts(before) || has_parts(after)) && !before.is_null() && !after.is_null() => {
                // it changes its type
                self.go(Place { after: NULL, unknown: NULL, after_mask: Mask::Nothing, ..place });
                self.go(Place { before: NULL, before_mask: Mask::Nothing, ..place });
            }
            (before, after) => {
                let mut change = AttributeChange::default();
                change.before = self.value(before, before_mask, &mut change.cut);
                change.after = self.value(after, after_mask, &mut change.cut);
                self.push(change);
            }
        }
    }

    fn objects(&mut self, place: Place<'_>, before: &Map<String, Value>, after: &Map<String, Value>) {
        let mut keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        // what is unknown is missing in what is known
        keys.extend(place.unknown.as_object().into_iter().flat_map(Map::keys));
        for name in keys {
            self.path.push(At::Key(name.clone()));
            self.go(Place {
                before: before.get(name).unwrap_or(NULL),
                after: after.get(name).unwrap_or(NULL),
                unknown: key(place.unknown, name),
                before_mask: place.before_mask.key(name),
                after_mask: place.after_mask.key(name),
            });
            self.path.pop();
        }
    }

    /// What both lists begin and end with stays out of it; of lists as long as each other what is between is compared one by one, of others the
    /// one goes and the other comes.
    fn lists(&mut self, place: Place<'_>, before: &[Value], after: &[Value]) {
        let unknown = |at: usize| place.unknown.get(at).unwrap_or(NULL);
        let same = |a: usize, b: usize| {
            before[a] == after[b] && !any(unknown(b)) && place.before_mask.index(a).same(place.after_mask.index(b))
        };
        let shorter = before.len().min(after.len());
        let first = (0..shorter).take_while(|&at| same(at, at)).count();
        let last = (0..shorter - first).take_while(|&n| same(before.len() - 1 - n, after.len() - 1 - n)).count();
        let (old, new) = (first..before.len() - last, first..after.len() - last);
        if old.len() == new.len() {
            for at in old {
                self.at(
                    at,
                    Place {
                        before: &before[at],
                        after: &after[at],
                        unknown: unknown(at),
                        before_mask: place.before_mask.index(at),
                        after_mask: place.after_mask.index(at),
                    },
                );
            }
            return;
        }
        for at in old {
            let before_mask = place.before_mask.index(at);
            let (unknown, after_mask) = (NULL, Mask::Nothing);
            self.at(at, Place { before: &before[at], after: NULL, unknown, before_mask, after_mask });
        }
        for at in new {
            let after_mask = place.after_mask.index(at);
            let (unknown, before_mask) = (unknown(at), Mask::Nothing);
            self.at(at, Place { before: NULL, after: &after[at], unknown, before_mask, after_mask });
        }
    }

    fn at(&mut self, index: usize, place: Place<'_>) {
        self.path.push(At::Index(index));
        self.go(place);
        self.path.pop();
    }

    fn push(&mut self, change: AttributeChange) {
        if self.found.len() >= ATTRIBUTES_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        let within = |path: &Vec<At>| {
            let steps = path.len().min(self.path.len());
            path[..steps] == self.path[..steps]
        };
        let forces_replacement = self.replace.iter().any(within);
        self.found.push(AttributeChange { path: shown(&self.path, self.secrets), forces_replacement, ..change });
    }

    /// A value as it may be shown; nothing of null, and of what is too long.
    fn value(&self, value: &Value, mask: Mask<'_>, left_out: &mut u32) -> Option<Value> {
        let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        match clean(value, mask, self.secrets) {
            Value::Null => None,
            Value::String(mut text) => {
                *left_out = left_out.saturating_add(bytes(cut(&mut text, VALUE_MAX)));
                Some(text.into())
            }
            whole => {
                let length = whole.to_string().len();
                if length > VALUE_MAX {
                    *left_out = left_out.saturating_add(bytes(length));
                    return None;
                }
                Some(whole)
            }
        }
    }
}

fn has_parts(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Object(_))
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
