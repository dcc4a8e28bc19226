//! A step of Pulumi's engine, as its events tell of it: what is done with one resource, and what it is before and after.

use serde_json::{Map, Value};

/// What the engine names a value that is known later: <https://pkg.go.dev/github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin#UnknownStringValue> and its like.
const UNKNOWN: [&str; 7] = [
    "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
];
/// The key by which an object says what it stands for, and what it has there for a secret and for an output.
/// <https://pkg.go.dev/github.com/pulumi/pulumi/sdk/v3/go/common/resource#SigKey>
const SIGNATURE: &str = "4dabf18193072939515e22adb298388d";
const SECRET: &str = "1b47061264138c4ac30d75fd1eb44270";
const OUTPUT: &str = "d0e6a833031e9bbcd3f4e8bde6ca49a4";
/// What the engine shows instead of one.
const SHOWN_SECRET: &str = "[secret]";
/// The type of what stands for the stack itself, whose outputs are the stack's.
pub(super) const STACK: &str = "pulumi:pulumi:Stack";
/// What the types of providers begin with, and the names of those that nobody has written down.
const PROVIDER: &str = "pulumi:providers:";
const DEFAULT: &str = "default";

/// One step.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(super) op: Op<'a>,
    urn: &'a str,
    /// The type of its resource.
    pub(crate) kind: &'a str,
    /// Whether it is only what would be done.
    pub(super) planning: bool,
    whole: &'a Value,
}

/// What is done. <https://pkg.go.dev/github.com/pulumi/pulumi/sdk/v3/go/common/apitype#OpType>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op<'a> {
    Same,
    Create,
    Update,
    Delete,
    Replace,
    /// Parts of a replacement.
    CreateReplacement,
    DeleteReplaced,
    Import,
    Read,
    Other(&'a str),
}

// === impl Step ===

impl<'a> Step<'a> {
    /// What an event of a resource tells.
    pub(crate) fn of(body: &'a Value) -> Option<Self> {
        let whole = &body["metadata"];
        let op = match whole["op"].as_str()? {
            "same" => Op::Same,
            "create" => Op::Create,
            "update" => Op::Update,
            "delete" => Op::Delete,
            "replace" => Op::Replace,
            "create-replacement" => Op::CreateReplacement,
            "delete-replaced" => Op::DeleteReplaced,
            "import" | "import-replacement" => Op::Import,
            "read" | "read-replacement" => Op::Read,
            other => Op::Other(other),
        };
        let (urn, kind) = (whole["urn"].as_str()?, whole["type"].as_str().unwrap_or_default());
        Some(Self { op, urn, kind, planning: body["planning"] == true, whole })
    }

    /// Its resource's address: its URN without what all of a stack have.
    pub(crate) fn address(&self) -> &'a str {
        address(self.urn)
    }
    /// Its resource's name.
    pub(crate) fn name(&self) -> &'a str {
        name(self.urn)
    }
    /// The provider of its resource.
    pub(crate) fn provider(&self) -> &'a str {
        provider(self.whole["provider"].as_str().unwrap_or_default())
    }
    /// The id of its resource, once it has one.
    pub(crate) fn id(&self) -> &'a str {
        let of = |side: &str| self.whole[side]["id"].as_str().filter(|id| !id.is_empty() && !UNKNOWN.contains(id));
        of("new").or(of("old")).unwrap_or_default()
    }
    /// Whether it is of a provider that nobody has written down, of which the engine tells nobody.
    pub(crate) fn is_internal(&self) -> bool {
        self.kind.starts_with(PROVIDER) && (self.name() == DEFAULT || self.name().starts_with("default_"))
    }
    /// Whether it is the stack itself.
    pub(crate) fn is_stack(&self) -> bool {
        self.kind == STACK
    }
    /// The sign that the engine has for it.
    pub(super) const fn sign(&self) -> &'static str {
        match self.op {
            Op::Create => "+",
            Op::Update => "~",
            Op::Delete => "-",
            Op::Replace => "+-",
            Op::CreateReplacement => "++",
            Op::DeleteReplaced => "--",
            Op::Import => "=",
            Op::Read => ">",
            Op::Same | Op::Other(_) => " ",
        }
    }
    /// What is done, in the words that all engines have.
    pub(super) const fn action(&self) -> &'a str {
        match self.op {
            Op::Same => "no-op",
            Op::Create | Op::CreateReplacement => "create",
            Op::Update => "update",
            Op::Delete | Op::DeleteReplaced => "delete",
            Op::Replace => "replace",
            Op::Import => "import",
            Op::Read => "read",
            Op::Other(op) => op,
        }
    }
    /// The same, of one that changes something by itself: a part of a replacement does not.
    pub(crate) fn change(&self) -> Option<&'a str> {
        match self.op {
            // read anew: what was found comes as what it is
            Op::Same | Op::Read | Op::CreateReplacement | Op::DeleteReplaced | Op::Other("refresh") => None,
            _ => Some(self.action()),
        }
    }
    /// Whether it is the stack, with other outputs than before.
    pub(crate) fn outputs_change(&self) -> bool {
        let none = |outputs: &Value| outputs.is_null() || outputs == &Value::Object(Map::new());
        let (old, new) = (&self.whole["old"]["outputs"], &self.whole["new"]["outputs"]);
        self.is_stack() && old != new && !(none(old) && none(new)) && self.op != Op::Delete
    }
    /// What it is before and after: inputs, or outputs where those are what changes.
    pub(crate) fn sides(&self, of: &str) -> (&'a Value, &'a Value) {
        (&self.whole["old"][of], &self.whole["new"][of])
    }
    /// Properties that change.
    pub(crate) fn changed_keys(&self) -> impl Iterator<Item = &'a str> {
        self.whole["diffs"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }
    /// Properties that cannot be changed in place.
    pub(crate) fn replace_keys(&self) -> Vec<Vec<Value>> {
        let keys = self.whole["keys"].as_array().into_iter().flatten();
        keys.map(|key| vec![key.clone()]).collect()
    }
}

/// An URN without its stack and project: what is left is one resource's in a stack.
/// <https://www.pulumi.com/docs/concepts/resources/names/#urns>
pub(super) fn address(urn: &str) -> &str {
    urn.strip_prefix("urn:pulumi:").and_then(|rest| rest.splitn(3, "::").nth(2)).unwrap_or(urn)
}

/// The name at the end of an URN; there may be colons in it. What is no URN has none.
pub(super) fn name(urn: &str) -> &str {
    let address = Some(address(urn)).filter(|address| *address != urn);
    address.and_then(|address| address.split_once("::")).map_or("", |(_, name)| name)
}

/// The name of the package that a reference to a provider is of.
pub(super) fn provider(reference: &str) -> &str {
    address(reference).strip_prefix(PROVIDER).and_then(|rest| rest.split("::").next()).unwrap_or_default()
}

/// What of a value is secret or unknown, as two more values of its form in which `true` stands for what is.
pub(crate) fn marks(value: &Value) -> (Value, Value) {
    let pairs = |(key, value): (&String, &Value)| {
        let (secret, unknown) = marks(value);
        ((key.clone(), secret), (key.clone(), unknown))
    };
    match value {
        Value::String(text) if text == SHOWN_SECRET => (true.into(), false.into()),
        Value::String(text) if UNKNOWN.contains(&text.as_str()) => (false.into(), true.into()),
        Value::Object(map) => match map.get(SIGNATURE).and_then(Value::as_str) {
            Some(SECRET) => (true.into(), false.into()),
            Some(OUTPUT) if map.get("secret").is_some_and(|secret| secret == true) => (true.into(), false.into()),
            Some(OUTPUT) if !map.contains_key("value") => (false.into(), true.into()),
            _ => {
                let (secret, unknown): (Map<_, _>, Map<_, _>) = map.iter().map(pairs).unzip();
                (secret.into(), unknown.into())
            }
        },
        Value::Array(items) => {
            let (secret, unknown): (Vec<_>, Vec<_>) = items.iter().map(marks).unzip();
            (secret.into(), unknown.into())
        }
        _ => (false.into(), false.into()),
    }
}

/// A value without what is unknown in it.
pub(crate) fn known(value: &Value) -> Value {
    match value {
        Value::String(text) if UNKNOWN.contains(&text.as_str()) => Value::Null,
        Value::Array(items) => items.iter().map(known).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), known(value))).filter(|(_, value)| !value.is_null()).collect()
        }
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_urn_in_its_parts() {
        let urn = "urn:pulumi:dev::shop::my:Component$world:index:Thing::one::more";
        assert_eq!(address(urn), "my:Component$world:index:Thing::one::more");
        assert_eq!(name(urn), "one::more");
        assert_eq!(provider("urn:pulumi:dev::shop::pulumi:providers:world::default::1-2"), "world");
        for odd in ["", "x", "urn:pulumi:dev", "urn:pulumi:dev::shop"] {
            assert_eq!((address(odd), name(odd), provider(odd)), (odd, "", ""));
        }
    }

    #[test]
    fn secrets_and_unknowns_are_found_at_any_depth() {
        let secret = json!({ SIGNATURE: SECRET, "ciphertext": "[secret]" });
        let value = json!({ "a": [secret, "[secret]", "x"], "b": { "c": UNKNOWN[0] }, "d": { SIGNATURE: OUTPUT }, "e": { SIGNATURE: OUTPUT, "secret": true } });
        let (secret, unknown) = marks(&value);
        assert_eq!(secret["a"], json!([true, true, false]));
        assert_eq!((&secret["b"]["c"], &secret["d"], &secret["e"]), (&json!(false), &json!(false), &json!(true)));
        assert_eq!((&unknown["b"]["c"], &unknown["d"], &unknown["e"]), (&json!(true), &json!(true), &json!(false)));
        assert_eq!(known(&value)["b"], json!({}));
        assert_eq!(known(&json!([UNKNOWN[1], 1])), json!([null, 1]));
    }
}
