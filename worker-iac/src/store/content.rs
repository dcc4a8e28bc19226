//! What a store has to know of a state: <https://opentofu.org/docs/internals/json-format/>. One that the engine itself has encrypted says
//! its serial and its lineage alone.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a state says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Higher than that of every state before it.
    pub(super) serial: Option<u64>,
    /// That of the states of one origin; empty: it says none.
    pub(super) lineage: String,
    /// Instances of managed resources.
    pub(super) resources: u32,
    /// Whether the engine has encrypted it.
    pub(super) encrypted: bool,
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
    pub(super) fn of(state: &[u8]) -> Option<Self> {
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
