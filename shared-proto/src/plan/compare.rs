//! Two plans side by side: what one would do that the other would not. What neither shows, a sensitive value, is taken for the same; what somebody
//! else has changed (drift) is not compared.

use super::{Action, AttributeChange, Document, VERSION};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What differs between a plan and one before it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`VERSION`] of who made it.
    pub version: u32,
    /// What the plan would do and the one before would not; what may be lost first, as in the others.
    pub new: Vec<Entry>,
    /// What the one before would do and this one would not.
    pub gone: Vec<Entry>,
    /// What both would do, and not alike.
    pub changed: Vec<Changed>,
    /// What both would do alike.
    pub same: u32,
    /// Something of either was left out, and so not compared.
    pub partial: bool,
}

/// A resource, or an output as `output.NAME`, and what is done with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its address; with the key behind it, of an object that a replacement has left.
    pub address: String,
    /// What is done.
    pub action: Action,
    /// What changes in it.
    pub attributes: Vec<AttributeChange>,
}

/// What both would do, and not alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// As in [`Entry`].
    pub address: String,
    /// What the plan before would do.
    pub was: Action,
    /// What this one would do.
    pub is: Action,
    /// Where they differ.
    pub attributes: Vec<Difference>,
}

/// What differs in one place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// As the plan before has it; none where it changes nothing there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<AttributeChange>,
    /// As this one has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<AttributeChange>,
}

// === impl Comparison ===

impl Comparison {
    /// Of a plan with the one before it.
    pub fn of(before: &Document, now: &Document) -> Self {
        let mut earlier: BTreeMap<String, Entry> =
            entries(before).map(|entry| (entry.address.clone(), entry)).collect();
        let mut found = Self { version: VERSION, partial: before.is_partial() || now.is_partial(), ..Self::default() };
        for entry in entries(now) {
            match earlier.remove(&entry.address) {
                None => found.new.push(entry),
                Some(was) => match differences(&was, &entry) {
                    Some(changed) => found.changed.push(changed),
                    None => found.same += 1,
                },
            }
        }
        found.gone = earlier.into_values().collect();
        let by_rank = |entry: &Entry| entry.action.rank();
        found.new.sort_by_key(by_rank);
        found.gone.sort_by_key(by_rank);
        found.changed.sort_by_key(|changed| changed.is.rank());
        found
    }
    /// Whether both would do the same, as far as that can be told.
    pub fn is_same(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty() && self.changed.is_empty()
    }
}

fn entries(of: &Document) -> impl Iterator<Item = Entry> {
    let resources = of.resources.iter().map(|resource| Entry {
        address: match &resource.deposed {
            Some(key) => format!("{} (deposed {key})", resource.address),
            None => resource.address.clone(),
        },
        action: resource.action,
        attributes: resource.attributes.clone(),
    });
    let outputs = of.outputs.iter().map(|output| Entry {
        address: format!("output.{}", output.name),
        action: output.action,
        attributes: output.attributes.clone(),
    });
    resources.chain(outputs)
}

fn differences(was: &Entry, is: &Entry) -> Option<Changed> {
    // a path may stand twice, where a value changes its type
    let by_path = |entry: &Entry| {
        let mut paths = BTreeMap::<_, Vec<_>>::new();
        for attribute in &entry.attributes {
            paths.entry(attribute.path.clone()).or_default().push(attribute.clone());
        }
        paths
    };
    let (mut earlier, now) = (by_path(was), by_path(is));
    let mut attributes = Vec::new();
    for (path, now) in now {
        let mut before = earlier.remove(&path).unwrap_or_default().into_iter();
        let mut now = now.into_iter();
        loop {
            let (was, is) = (before.next(), now.next());
            match (&was, &is) {
                (None, None) => break,
                (a, b) if a == b => {}
                _ => attributes.push(Difference { path: path.clone(), was, is }),
            }
        }
    }
    for (path, gone) in earlier {
        attributes.extend(gone.into_iter().map(|was| Difference { path: path.clone(), was: Some(was), is: None }));
    }
    attributes.sort_by(|a, b| a.path.cmp(&b.path));
    let differ = was.action != is.action || !attributes.is_empty();
    differ.then(|| Changed { address: is.address.clone(), was: was.action, is: is.action, attributes })
}

#[cfg(test)]
mod tests {
    use super::super::{LeftOut, OutputChange, ResourceChange};
    use super::*;
    use serde_json::json;

    fn resource(address: &str, action: Action, after: serde_json::Value) -> ResourceChange {
        let attribute = AttributeChange { path: "input".into(), after: Some(after), ..Default::default() };
        ResourceChange { address: address.into(), action, attributes: vec![attribute], ..Default::default() }
    }
    fn document(resources: Vec<ResourceChange>) -> Document {
        Document { version: VERSION, resources, ..Default::default() }
    }

    #[test]
    fn what_is_new_gone_changed_and_the_same() {
        use Action::{Create, Delete, Replace, Update};
        let mut before = document(vec![
            resource("a", Create, json!(1)),
            resource("b", Create, json!(1)),
            resource("c", Update, json!(1)),
            resource("gone", Create, json!(1)),
            resource("gone_too", Delete, json!(1)),
        ]);
        let mut now = document(vec![
            resource("a", Create, json!(1)),
            resource("b", Create, json!(2)),
            resource("c", Replace, json!(1)),
            resource("new", Create, json!(1)),
            resource("new_too", Delete, json!(1)),
        ]);
        let output = |path: &str| OutputChange {
            name: "o".into(),
            action: Update,
            attributes: vec![AttributeChange { path: path.into(), sensitive: true, ..Default::default() }],
            ..Default::default()
        };
        (before.outputs, now.outputs) = (vec![output("x")], vec![output("y")]);
        let found = Comparison::of(&before, &now);
        let names = |entries: &[Entry]| entries.iter().map(|e| e.address.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found.new), ["new_too", "new"]);
        assert_eq!(names(&found.gone), ["gone_too", "gone"]);
        assert_eq!(found.same, 1);
        let changed: Vec<_> = found.changed.iter().map(|c| (c.address.as_str(), c.was, c.is)).collect();
        assert_eq!(changed, [("c", Update, Replace), ("output.o", Update, Update), ("b", Create, Create)]);
        assert!(found.changed[0].attributes.is_empty());
        let of_output: Vec<_> =
            found.changed[1].attributes.iter().map(|d| (d.path.as_str(), d.was.is_some())).collect();
        assert_eq!(of_output, [("x", true), ("y", false)]);
        let value = &found.changed[2].attributes[0];
        assert_eq!(value.was.as_ref().and_then(|a| a.after.clone()), Some(json!(1)));
        assert_eq!(value.is.as_ref().and_then(|a| a.after.clone()), Some(json!(2)));
        assert!(!found.is_same() && !found.partial);
    }

    #[test]
    fn a_plan_is_the_same_as_itself_and_says_where_something_is_missing() {
        let mut one = document(vec![resource("a", Action::Create, json!({"deep": [1]}))]);
        // a value that changes its type stands twice
        let twice = AttributeChange { path: "input".into(), before: Some(json!("x")), ..Default::default() };
        one.resources[0].attributes.push(twice);
        assert!(Comparison::of(&one, &one).is_same());
        assert_eq!(Comparison::of(&one, &one).same, 1);
        one.left_out = LeftOut { attributes: 1, ..Default::default() };
        assert!(Comparison::of(&document(vec![]), &one).partial);
        assert!(Comparison::of(&Document::default(), &Document::default()).is_same());
    }
}
