//! What a store has to know of a state: <https://opentofu.org/docs/internals/json-format/>. One that the engine itself has encrypted says
//! its serial and its lineage alone.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a state says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Higher than that of every state before it.
    pub(crate) serial: Option<u64>,
    /// That of the states of one origin; empty: it says none.
    pub(crate) lineage: String,
    /// Instances of managed resources.
    pub(crate) resources: u32,
    /// Whether the engine has encrypted it.
    pub(crate) encrypted: bool,
}

#[derive(Deserialize)]
struct State {
    serial: Option<u64>,
    lineage: Option<String>,
    encrypted_data: Option<IgnoredAny>,
    #[serde(default)]
    resources: Vec<Resource>,
}
#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    mode: String,
    #[serde(default)]
    instances: Vec<IgnoredAny>,
}

// === impl Facts ===

impl Facts {
    /// None: these bytes are no whole state.
    pub(crate) fn of(state: &[u8]) -> Option<Self> {
        if !shared_proto::ended::is_whole_state(state) {
            return None;
        }
        let state: State = serde_json::from_slice(state).ok()?;
        let managed = state.resources.iter().filter(|resource| resource.mode == "managed");
        let resources = managed.map(|resource| resource.instances.len()).sum::<usize>();
        Some(Self {
            serial: state.serial,
            lineage: state.lineage.unwrap_or_default(),
            resources: u32::try_from(resources).unwrap_or(u32::MAX),
            encrypted: state.encrypted_data.is_some(),
        })
    }
    /// Whether there is something in it; of one that is encrypted nobody can tell.
    pub(crate) fn would_be_missed(&self) -> bool {
        self.resources > 0 || self.encrypted
    }
}

#[derive(Deserialize)]
struct Managed {
    #[serde(default)]
    resources: Vec<ManagedResource>,
}
#[derive(Deserialize)]
struct ManagedResource {
    #[serde(default)]
    mode: String,
    #[serde(default)]
    module: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    instances: Vec<ManagedInstance>,
}
#[derive(Deserialize)]
struct ManagedInstance {
    index_key: Option<Value>,
    deposed: Option<String>,
    #[serde(default)]
    attributes: Value,
}
/// The instances that a state manages, by their addresses.
fn managed(state: &[u8]) -> Option<BTreeMap<String, Value>> {
    let state: Managed = serde_json::from_slice(state).ok()?;
    let mut all = BTreeMap::new();
    for resource in state.resources.into_iter().filter(|resource| resource.mode == "managed") {
        let ManagedResource { module, kind, name, instances, .. } = resource;
        for ManagedInstance { index_key, deposed, attributes } in instances {
            let index = index_key.map(|index| index.to_string()).unwrap_or_default();
            // no two of them have a space in them
            let address = format!("{module} {kind} {name} {index} {}", deposed.unwrap_or_default());
            all.insert(address, attributes);
        }
    }
    Some(all)
}

/// What may have become of a state's resources in another one that goes on from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// Nothing: it was put there just now.
    Nothing,
    /// They were changed: each is the same by its id; what has none is as it was.
    Changes,
}

/// Whether a state goes on from another one, wherever it is kept: it is of the same lineage and not older, or has whatever that one manages. (A backend
/// that was empty gives what is pushed to it a lineage of its own.) Of one that the engine has encrypted the lineage alone can be told.
pub(crate) fn goes_on_from(state: &[u8], other: &[u8], since: Since) -> bool {
    let (Some(is), Some(was)) = (Facts::of(state), Facts::of(other)) else { return false };
    if !was.lineage.is_empty() && is.lineage == was.lineage {
        return is.serial >= was.serial;
    }
    if is.encrypted || was.encrypted {
        return false;
    }
    let (Some(is), Some(was)) = (managed(state), managed(other)) else { return false };
    let same = |is: &Value, was: &Value| match was.get("id") {
        Some(id) if since == Since::Changes => is.get("id") == Some(id),
        _ => is == was,
    };
    was.iter().all(|(address, was)| is.get(address).is_some_and(|is| same(is, was)))
}

/// The same state under another serial; every other member stays as it is written. None: it is no state.
pub(super) fn with_serial(state: &[u8], serial: u64) -> Option<Vec<u8>> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(state).ok()?;
    let serial = serde_json::value::to_raw_value(&serial).ok()?;
    members.insert("serial".into(), &serial);
    serde_json::to_vec(&members).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_state_says_what_it_is() {
        let state = br#"{"version":4,"serial":7,"lineage":"l","resources":[
            {"mode":"managed","instances":[{},{"a":1}]},{"mode":"data","instances":[{}]},{"mode":"managed"}]}"#;
        let found = Facts::of(state).expect("a state");
        assert_eq!(found, Facts { serial: Some(7), lineage: "l".into(), resources: 2, encrypted: false });
        let encrypted = Facts::of(br#"{"serial":1,"lineage":"l","meta":{},"encrypted_data":"x"}"#).expect("a state");
        assert!(encrypted.encrypted && encrypted.serial == Some(1));
        for other in ["", "{}", "[1]", r#"{"serial":-1}"#, r#"{"serial":"1"}"#, r#"{"serial":1"#] {
            assert_eq!(Facts::of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_state_goes_on_from_another_by_its_lineage_or_by_what_it_manages() {
        let state = |lineage: &str, serial: u64, instances: &[(&str, Value)]| {
            let resources: Vec<_> = instances
                .iter()
                .map(|(name, attributes)| {
                    let (kind, name) = name.split_once('.').expect("an address");
                    json!({ "mode": "managed", "type": kind, "name": name, "instances": [{ "attributes": attributes }] })
                })
                .collect();
            json!({ "version": 4, "serial": serial, "lineage": lineage, "resources": resources }).to_string()
        };
        let goes_on = |is: &str, was: &str| goes_on_from(is.as_bytes(), was.as_bytes(), Since::Nothing);
        let came_back = |is: &str, was: &str| goes_on_from(is.as_bytes(), was.as_bytes(), Since::Changes);
        let (a, b) = (("t.a", json!({ "id": "1", "x": 1 })), ("t.b", json!({ "x": 1 })));
        let was = state("l", 7, &[a.clone(), b.clone()]);
        assert!(goes_on(&was, &was) && goes_on(&state("l", 8, &[]), &was), "of one lineage");
        assert!(!goes_on(&state("l", 6, &[a.clone(), b.clone()]), &was), "an older one");
        // pushed to a backend that was empty, and more made there since; but not what was exported before something was changed here
        assert!(goes_on(&state("m", 1, &[a.clone(), b.clone()]), &was));
        assert!(goes_on(&state("m", 1, &[a.clone(), b.clone(), ("t.c", json!({ "id": "3" }))]), &was));
        for other in [
            vec![],
            vec![("t.a", json!({ "id": "1", "x": 2 })), b.clone()],
            vec![a.clone()],
            vec![("t.a", json!({ "id": "2", "x": 1 })), b.clone()],
            vec![a.clone(), ("t.b", json!({ "x": 2 }))],
            vec![("u.a", a.1.clone()), b.clone()],
        ] {
            assert!(!goes_on(&state("m", 9, &other), &was), "{other:?}");
        }
        // when it comes back its resources may have been changed, and are the same ones
        let changed = |id: &str| state("m", 1, &[("t.a", json!({ "id": id, "x": 2 })), b.clone()]);
        assert!(
            came_back(&changed("1"), &was) && !came_back(&changed("2"), &was) && !came_back(&state("m", 9, &[]), &was)
        );
        // an index is part of the address, and its kind of it
        let of = |index: Value| {
            let instances = json!([{ "index_key": index, "attributes": { "id": "1" } }]);
            json!({ "version": 4, "serial": 1, "lineage": index.to_string(), "resources": [
                { "mode": "managed", "type": "t", "name": "a", "instances": instances }] })
            .to_string()
        };
        assert!(!goes_on(&of(json!(0)), &of(json!("0"))));
        let encrypted = |lineage: &str| json!({ "serial": 1, "lineage": lineage, "encrypted_data": "x" }).to_string();
        assert!(goes_on(&encrypted("l"), &encrypted("l")) && !goes_on(&encrypted("m"), &encrypted("l")));
        assert!(!goes_on("", &was) && !goes_on(&was, "{}"));
    }

    #[test]
    fn only_its_serial_changes() {
        let state = br#"{"serial":7,"n":1.10000000000000000001e400,"s":"\u00e4","resources":[{"serial":7}]}"#;
        let other = with_serial(state, 12).expect("a state");
        let text = String::from_utf8(other).expect("text");
        for part in [r#""serial":12"#, "1.10000000000000000001e400", r#""\u00e4""#, r#"[{"serial":7}]"#] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(with_serial(b"[]", 1), None);
    }
}
