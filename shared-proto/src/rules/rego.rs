//! Programs in Rego as they are read: by whoever judges a plan with them, and by whoever puts them in place, who is to hear of a slip before every
//! plan is denied for it. The interpreter must be kept from everything but what it is given: it has no clock, no network and no file.

use super::Set;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value as Rego};
use serde_json::Value;
use std::num::NonZeroU32;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// The package that counts.
pub const PACKAGE: &str = "runner.plan";
/// How long the programs of a set may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How often that is looked at, in steps.
const STEPS: NonZeroU32 = NonZeroU32::new(1024).unwrap();
/// What the interpreter of a hostile program may use of a stack before its own bounds end it, bytes.
const STACK: usize = 256 * 1024 * 1024;

/// How long all of it may take: reading programs is not measured by the interpreter, and doubles with every bracket inside another; nor is what is
/// done inside of a built-in function.
const WHOLE_MAX: Duration = Duration::from_secs(20);

/// What the programs of a set say of a plan: the value of [`PACKAGE`]. They run on a stack that is large enough, in a thread that is left to itself
/// after [`WHOLE_MAX`]: whoever calls it has nothing left to do then but to end.
///
/// # Errors
/// What is wrong with a program, in the interpreter's words; none is of the package that counts; it takes too long.
pub fn run(set: &Set, input: &Value) -> Result<Value, String> {
    within(WHOLE_MAX, set, input)
}

fn within(limit: Duration, set: &Set, input: &Value) -> Result<Value, String> {
    let (set, input, (tell, told)) = (set.clone(), Rego::from(input.clone()), mpsc::sync_channel(1));
    let work = move || {
        // where nobody waits any more nothing is to be told
        let _ = tell.send(evaluate(&set, input));
    };
    let thread = std::thread::Builder::new().name("rego".to_owned()).stack_size(STACK);
    thread.spawn(work).map_err(|e| e.to_string())?;
    told.recv_timeout(limit).unwrap_or_else(|e| {
        Err(match e {
            RecvTimeoutError::Timeout => {
                format!("what it says takes longer than {} s to read and to run", limit.as_secs())
            }
            RecvTimeoutError::Disconnected => "the interpreter of Rego has failed".to_owned(),
        })
    })
}

/// Whether the programs of a set can be read, and judge a plan with nothing in it: what is only met with something is not found. A set without
/// programs can.
///
/// # Errors
/// What is wrong with a program, in the interpreter's words.
pub fn read(set: &Set) -> Result<(), String> {
    if set.rego.is_empty() {
        return Ok(());
    }
    run(set, &of_nothing()).map(drop)
}

/// A plan with nothing in it, as a program has it.
fn of_nothing() -> Value {
    serde_json::json!({
        "job": {
            "kind": "preview", "stack": "", "workspace": "", "engine": "opentofu", "engine_version": "", "created_by": "", "groups": [],
            "connections": [],
        },
        "resource_changes": [],
        "resource_drift": [],
        "output_changes": {},
    })
}

/// The interpreter's words of an error, in a line: where it is, and what. It draws the place over several lines.
fn said(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next().and_then(|line| line.strip_prefix("--> ")), lines.find_map(|line| line.strip_prefix("error: ")))
    {
        (Some(place), Some(what)) => format!("{place}: {what}"),
        _ => text.trim().to_owned(),
    }
}

fn evaluate(set: &Set, input: Rego) -> Result<Value, String> {
    let mut engine = Engine::new();
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: TIME_MAX, check_interval: STEPS });
    // a call that goes wrong must not make a rule silent
    engine.set_strict_builtin_errors(true);
    for module in &set.rego {
        engine.add_policy(module.name.clone(), module.text.clone()).map_err(|e| said(&e))?;
    }
    let packages = engine.get_packages().map_err(|e| said(&e))?;
    if !packages.iter().any(|package| package == &format!("data.{PACKAGE}")) {
        return Err(format!("no module is of the package {PACKAGE}"));
    }
    if let Some(data) = &set.data {
        engine.add_data(Rego::from(data.clone())).map_err(|e| said(&e))?;
    }
    engine.set_input(input);
    let results = engine.eval_query(format!("data.{PACKAGE}"), false).map_err(|e| said(&e))?;
    let value = results.result.first().and_then(|result| result.expressions.first());
    let value = value.ok_or_else(|| format!("{PACKAGE} has no value"))?;
    let json = value.value.to_json_str().map_err(|e| said(&e))?;
    serde_json::from_str(&json).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Module;

    fn set(texts: &[&str]) -> Set {
        let module = |(n, text): (usize, &&str)| Module { name: format!("{n}.rego"), text: (*text).to_owned() };
        Set { rego: texts.iter().enumerate().map(module).collect(), ..Set::default() }
    }

    #[test]
    fn its_place_is_told_in_a_line() {
        let said = read(&set(&["package runner.plan\n\ndeny contains 7 7"])).expect_err("two numbers");
        assert!(said.starts_with("0.rego:3:17: "), "{said}");
    }

    #[test]
    fn a_slip_is_found_without_a_plan() {
        let good =
            "package runner.plan\ndeny contains msg if { some c in input.resource_changes; msg := data.lib.f(c) }";
        let lib = "package lib\nf(c) := c.address if { count(c.change.actions) > 0 }";
        assert_eq!(read(&set(&[good, lib])), Ok(()));
        assert_eq!(read(&Set::default()), Ok(()));
        for (what, texts) in [
            ("expecting", &["package runner.plan\ndeny contains msg if { msg := "][..]),
            ("no module is of the package", &["package other\nx := 1"]),
            ("not find function", &["package runner.plan\ndeny contains msg if { msg := nobody_has(1) }"]),
            ("unsafe", &["package runner.plan\ndeny contains msg if { msg := nobody }"]),
            ("unsafe", &["package runner.plan\ndeny contains msg if { input.x > y; msg := \"m\" }"]),
        ] {
            let said = read(&set(texts)).expect_err(what);
            assert!(said.contains(what) && !said.contains('\n'), "{what}: {said}");
        }
    }

    #[test]
    fn one_that_nobody_can_read_in_time_is_given_up() {
        let nested = |depth: usize| format!("package runner.plan\nx := {}1{}", "[".repeat(depth), "]".repeat(depth));
        let limit = Duration::from_secs(1);
        assert!(within(limit, &set(&[&nested(8)]), &of_nothing()).is_ok());
        let said = within(limit, &set(&[&nested(60)]), &of_nothing()).expect_err("for ever");
        assert!(said.contains("longer than 1 s"), "{said}");
    }
}
