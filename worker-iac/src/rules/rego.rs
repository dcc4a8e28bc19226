//! What rules that are programs in Rego say of a plan. A program has the plan as `input`, its set's `data`, and nothing else.

use serde_json::Value;
use shared_proto::rules::rego::{self, PACKAGE};
use shared_proto::rules::{APPROVALS_MAX, Effect, Finding, MESSAGE_MAX, Set};

/// What the programs of a set say.
///
/// # Errors
/// One that cannot be used, or takes too long; whose set it is.
pub(super) fn run(source: &'static str, set: &Set, input: &Value) -> Result<Vec<Finding>, String> {
    let wrong = |what: String| format!("the rules of the {source} cannot be used: {what}");
    let values = rego::run(set, input).map_err(|what| wrong(what.chars().take(1000).collect()))?;
    let mut findings = Vec::new();
    for (name, effect) in [("deny", Effect::Deny), ("approve", Effect::Approve), ("warn", Effect::Warn)] {
        let found = entries(&values[name]).map_err(|what| wrong(format!("{PACKAGE}.{name} {what}")))?;
        for entry in found {
            let finding = finding(source, name, effect, &entry);
            findings.push(finding.map_err(|what| wrong(format!("an entry of {PACKAGE}.{name} {what}")))?);
        }
    }
    Ok(findings)
}

/// The entries of a set or a list; `true` is one without words, what is not there and `false` are none.
fn entries(of: &Value) -> Result<Vec<Value>, &'static str> {
    match of {
        Value::Null | Value::Bool(false) => Ok(Vec::new()),
        Value::Bool(true) => Ok(vec![Value::Null]),
        Value::Array(entries) => Ok(entries.clone()),
        _ => Err("is no set: write `contains`"),
    }
}

fn finding(source: &str, name: &str, effect: Effect, entry: &Value) -> Result<Finding, &'static str> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let (message, approvals) = match entry {
        Value::Null => ("", None),
        Value::String(message) => (message.as_str(), None),
        Value::Number(_) if effect == Effect::Approve => ("", entry.as_u64()),
        Value::Object(map) => {
            let approvals = map.get("approvals").map(|n| n.as_u64().unwrap_or(0));
            (if map.contains_key("msg") { text("msg") } else { text("message") }, approvals)
        }
        _ => return Err("is neither a text nor an object with `message`"),
    };
    let approvals = match (effect, approvals) {
        (Effect::Approve, None) => 1,
        (Effect::Approve, Some(n)) if (1..=u64::from(APPROVALS_MAX)).contains(&n) => u32::try_from(n).unwrap_or(1),
        (Effect::Approve, Some(_)) => return Err("asks for approvals that are not from 1 to 10"),
        _ => 0,
    };
    let rule = match text("rule") {
        "" => format!("rego:{name}"),
        rule => rule.chars().take(64).collect(),
    };
    let mut message: String = message.chars().take(MESSAGE_MAX).collect();
    if message.is_empty() {
        message = format!("{PACKAGE}.{name} holds");
    }
    let address = text("address").chars().take(1000).collect();
    Ok(Finding { source: source.to_owned(), rule, effect, message, address, approvals })
}
