//! Rules that are programs in Rego, run by regorus. A program has the plan as `input`, its set's `data`, and nothing else: no clock, no network, no
//! file.

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value as Rego};
use serde_json::Value;
use shared_proto::rules::{APPROVALS_MAX, Effect, Finding, MESSAGE_MAX, Set};
use std::num::NonZeroU32;
use std::time::Duration;

/// The package that counts.
const PACKAGE: &str = "runner.plan";
/// How long the programs of a set may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How often that is looked at, in steps.
const STEPS: NonZeroU32 = NonZeroU32::new(1024).unwrap();
/// What the interpreter of a hostile program may use of a stack before its own bounds end it, bytes.
const STACK: usize = 256 * 1024 * 1024;

/// What the programs of a set say.
///
/// # Errors
/// One that cannot be used, or takes too long; whose set it is.
pub(super) fn run(source: &'static str, set: &Set, input: &Value) -> Result<Vec<Finding>, String> {
    let wrong = |what: String| format!("the rules of the {source} cannot be used: {what}");
    let said = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rules".to_owned()).stack_size(STACK);
        let running = thread.spawn_scoped(scope, || evaluate(set, input)).map_err(|e| e.to_string())?;
        running.join().map_err(|_| "the interpreter of Rego has failed".to_owned())?
    });
    let said = said.map_err(|what| wrong(what.chars().take(1000).collect()))?;
    let mut findings = Vec::new();
    for (name, effect) in [("deny", Effect::Deny), ("approve", Effect::Approve), ("warn", Effect::Warn)] {
        let found = entries(&said[name]).map_err(|what| wrong(format!("{PACKAGE}.{name} {what}")))?;
        for entry in found {
            let finding = finding(source, name, effect, &entry);
            findings.push(finding.map_err(|what| wrong(format!("an entry of {PACKAGE}.{name} {what}")))?);
        }
    }
    Ok(findings)
}

fn evaluate(set: &Set, input: &Value) -> Result<Value, String> {
    let mut engine = Engine::new();
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: TIME_MAX, check_interval: STEPS });
    // a call that goes wrong must not make a rule silent
    engine.set_strict_builtin_errors(true);
    let failed = |e: &dyn std::fmt::Display| e.to_string().trim().to_owned();
    for module in &set.rego {
        engine.add_policy(module.name.clone(), module.text.clone()).map_err(|e| failed(&e))?;
    }
    let packages = engine.get_packages().map_err(|e| failed(&e))?;
    if !packages.iter().any(|package| package == &format!("data.{PACKAGE}")) {
        return Err(format!("no module is of the package {PACKAGE}"));
    }
    if let Some(data) = &set.data {
        engine.add_data(Rego::from(data.clone())).map_err(|e| failed(&e))?;
    }
    engine.set_input(Rego::from(input.clone()));
    let results = engine.eval_query(format!("data.{PACKAGE}"), false).map_err(|e| failed(&e))?;
    let said = results.result.first().and_then(|result| result.expressions.first());
    let said = said.ok_or_else(|| format!("{PACKAGE} has no value"))?;
    let json = said.value.to_json_str().map_err(|e| failed(&e))?;
    serde_json::from_str(&json).map_err(|e| e.to_string())
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
