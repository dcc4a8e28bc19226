//! The engine's `-json` lines as typed events. Its own words are kept as they are; what this version does not know is kept whole,
//! as an `EngineMessage`; what is no JSON is an output line. Sensitive values never come through.

use crate::journal::cut;
use serde_json::Value;
use shared_proto::v1::event::Body;
use shared_proto::v1::{
    ChangeSummary, CodeSnippet, Diagnostic, EngineMessage, OutputLine, Outputs, PlannedChange, ResourceProgress,
};

/// The most bytes of outputs in one event; above it large values are left out, and say so.
const OUTPUTS_MAX: usize = 60 * 1024;
/// The most values of one diagnostic's code that are told.
const SNIPPET_VALUES: usize = 32;

/// One line of the engine's standard output.
pub(crate) fn of_line(line: &str) -> Option<Body> {
    if line.trim().is_empty() {
        return None;
    }
    let Some(message) = line.starts_with('{').then(|| serde_json::from_str::<Value>(line).ok()).flatten() else {
        return Some(output("stdout", line));
    };
    let kind = text(&message, "type");
    Some(match kind.as_str() {
        "planned_change" | "resource_drift" => planned_change(&message, &kind),
        "change_summary" => change_summary(&message),
        "diagnostic" => diagnostic(&message),
        "outputs" => match outputs(&message["outputs"]) {
            Some(outputs) => Body::Outputs(outputs),
            // a plan names outputs and has no values yet
            None => engine_message(&kind, line),
        },
        "init_output" => output("stdout", &text(&message, "@message")),
        _ => match progress(&message, &kind) {
            Some(progress) => Body::ResourceProgress(progress),
            // OpenTofu's init says what it does without a type
            None if kind.is_empty() && message["@message"].is_string() => output("stdout", &text(&message, "@message")),
            None => engine_message(&kind, line),
        },
    })
}

/// A line of output.
pub(crate) fn output(stream: &str, text: &str) -> Body {
    Body::OutputLine(OutputLine { stream: stream.into(), text: text.into() })
}

fn engine_message(kind: &str, line: &str) -> Body {
    Body::EngineMessage(EngineMessage { r#type: kind.into(), json: line.into() })
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn count(value: &Value, key: &str) -> u32 {
    value[key].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
}

fn planned_change(message: &Value, kind: &str) -> Body {
    let change = &message["change"];
    let reason = text(change, "reason");
    Body::PlannedChange(PlannedChange {
        address: text(&change["resource"], "addr"),
        action: text(change, "action"),
        // drift is what somebody else changed, not what the plan would
        reason: if kind == "resource_drift" && reason.is_empty() { "drift".into() } else { reason },
        text: text(message, "@message"),
    })
}

fn change_summary(message: &Value) -> Body {
    let changes = &message["changes"];
    Body::ChangeSummary(ChangeSummary {
        add: count(changes, "add"),
        change: count(changes, "change"),
        remove: count(changes, "remove"),
        import: count(changes, "import"),
        operation: text(changes, "operation"),
        text: text(message, "@message"),
    })
}

fn diagnostic(message: &Value) -> Body {
    let diagnostic = &message["diagnostic"];
    let range = &diagnostic["range"];
    Body::Diagnostic(Diagnostic {
        severity: text(diagnostic, "severity"),
        summary: text(diagnostic, "summary"),
        detail: text(diagnostic, "detail"),
        address: text(diagnostic, "address"),
        file: text(range, "filename"),
        line: count(&range["start"], "line"),
        snippet: snippet(&diagnostic["snippet"]),
    })
}

/// The code that a diagnostic is about: <https://developer.hashicorp.com/terraform/cli/commands/validate#json>, `snippet`.
fn snippet(snippet: &Value) -> Option<CodeSnippet> {
    let code = text(snippet, "code");
    if code.is_empty() {
        return None;
    }
    let values = snippet["values"].as_array().into_iter().flatten().take(SNIPPET_VALUES);
    let said = |value: &Value| format!("{} {}", text(value, "traversal"), text(value, "statement"));
    Some(CodeSnippet {
        context: text(snippet, "context"),
        code,
        line: count(snippet, "start_line"),
        values: values.map(said).collect(),
    })
}

/// The hooks: `apply_…`, `refresh_…`, `provision_…`, `ephemeral_op_…`, with `_start`, `_progress`, `_complete`, `_errored`.
fn progress(message: &Value, kind: &str) -> Option<ResourceProgress> {
    let (what, moment) = kind.rsplit_once('_')?;
    let state = match moment {
        "start" => "started",
        "progress" => "running",
        "complete" => "complete",
        "errored" => "failed",
        _ => return None,
    };
    let hook = message["hook"].as_object().map(|_| &message["hook"])?;
    let address = text(&hook["resource"], "addr");
    let action = match what {
        "apply" | "ephemeral_op" => text(hook, "action"),
        "refresh" => "refresh".to_owned(),
        "provision" => format!("provision:{}", text(hook, "provisioner")),
        _ => return None,
    };
    Some(ResourceProgress {
        address,
        action,
        state: state.into(),
        elapsed_seconds: hook["elapsed_seconds"].as_f64().unwrap_or_default(),
        id: text(hook, "id_value"),
        text: text(message, "@message"),
    })
}

/// Outputs as an event, from `{name: {sensitive, type, value}}`; `None` where there are names and no values. Sensitive values
/// become null.
pub(crate) fn outputs(value: &Value) -> Option<Outputs> {
    let mut outputs = value.as_object()?.clone();
    if !outputs.is_empty() && outputs.values().all(|output| output.get("type").is_none()) {
        return None;
    }
    for output in outputs.values_mut().filter_map(Value::as_object_mut) {
        if output.get("sensitive").and_then(Value::as_bool) != Some(false) {
            output.insert("value".into(), Value::Null);
            output.insert("sensitive".into(), true.into());
        }
    }
    let mut json = Value::from(outputs.clone()).to_string();
    if json.len() > OUTPUTS_MAX {
        // the largest go first, until the rest fits
        let mut sizes: Vec<_> = outputs.iter().map(|(name, o)| (o.to_string().len(), name.clone())).collect();
        sizes.sort_by(|a, b| b.cmp(a));
        let mut total = json.len();
        for (size, name) in sizes {
            if total <= OUTPUTS_MAX {
                break;
            }
            if let Some(output) = outputs.get_mut(&name) {
                *output =
                    serde_json::json!({ "sensitive": false, "type": "dynamic", "value": null, "left_out_bytes": size });
                total = total.saturating_sub(size) + output.to_string().len();
            }
        }
        json = Value::from(outputs).to_string();
        cut(&mut json, OUTPUTS_MAX);
    }
    Some(Outputs { json })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(line: &str) -> Body {
        of_line(line).expect("an event")
    }

    #[test]
    fn every_known_line_has_its_type() {
        let resource = r#""resource":{"addr":"terraform_data.a"}"#;
        for (line, expected) in [
            (
                format!(r#"{{"@message":"m","type":"planned_change","change":{{{resource},"action":"create"}}}}"#),
                "PlannedChange",
            ),
            (
                format!(r#"{{"@message":"m","type":"resource_drift","change":{{{resource},"action":"update"}}}}"#),
                "PlannedChange",
            ),
            (
                r#"{"@message":"Plan: 1 to add","type":"change_summary","changes":{"add":1,"operation":"plan"}}"#
                    .into(),
                "ChangeSummary",
            ),
            (
                format!(r#"{{"@message":"m","type":"apply_start","hook":{{{resource},"action":"create"}}}}"#),
                "ResourceProgress",
            ),
            (
                format!(
                    r#"{{"@message":"m","type":"apply_progress","hook":{{{resource},"action":"create","elapsed_seconds":10}}}}"#
                ),
                "ResourceProgress",
            ),
            (format!(r#"{{"@message":"m","type":"apply_errored","hook":{{{resource}}}}}"#), "ResourceProgress"),
            (
                format!(r#"{{"@message":"m","type":"refresh_complete","hook":{{{resource},"id_value":"x"}}}}"#),
                "ResourceProgress",
            ),
            (
                format!(
                    r#"{{"@message":"m","type":"provision_errored","hook":{{{resource},"provisioner":"local-exec"}}}}"#
                ),
                "ResourceProgress",
            ),
            (
                format!(r#"{{"@message":"m","type":"ephemeral_op_complete","hook":{{{resource},"action":"open"}}}}"#),
                "ResourceProgress",
            ),
            (r#"{"type":"diagnostic","diagnostic":{"severity":"error","summary":"s"}}"#.into(), "Diagnostic"),
            (r#"{"type":"outputs","outputs":{"o":{"sensitive":false,"type":"string","value":"x"}}}"#.into(), "Outputs"),
            (r#"{"type":"outputs","outputs":{"o":{"sensitive":false,"action":"create"}}}"#.into(), "EngineMessage"),
            (r#"{"type":"version","terraform":"1.11.4"}"#.into(), "EngineMessage"),
            (r#"{"type":"brand_new_start","hook":{}}"#.into(), "EngineMessage"),
            (r#"{"type":"init_output","@message":"Initializing"}"#.into(), "OutputLine"),
            (r#"{"@message":"Initializing the backend...","@level":"info"}"#.into(), "OutputLine"),
            ("Successfully configured".into(), "OutputLine"),
            ("{broken".into(), "OutputLine"),
            ("[1]".into(), "OutputLine"),
        ] {
            let shown = format!("{:?}", body(&line));
            assert!(shown.starts_with(expected), "{line} gave {shown}");
        }
        assert_eq!(of_line("  "), None);
    }

    #[test]
    fn diagnostics_have_their_code() {
        // as OpenTofu 1.12 writes one
        let line = r#"{"@message":"Error: Unsuitable value type","type":"diagnostic","diagnostic":{"severity":"error","summary":"Unsuitable value type","detail":"A number is required.","address":"terraform_data.a","range":{"filename":"main.tf","start":{"line":3,"column":11,"byte":60},"end":{"line":3,"column":16,"byte":65}},"snippet":{"context":"resource \"terraform_data\" \"a\"","code":"  count = var.n","start_line":3,"highlight_start_offset":10,"highlight_end_offset":15,"values":[{"traversal":"var.n","statement":"is \"one\""}]}}}"#;
        let Body::Diagnostic(said) = body(line) else { panic!("a diagnostic") };
        let expected = CodeSnippet {
            context: "resource \"terraform_data\" \"a\"".into(),
            code: "  count = var.n".into(),
            line: 3,
            values: vec!["var.n is \"one\"".into()],
        };
        assert_eq!((said.line, said.snippet), (3, Some(expected)));
        for none in ["null", r#"{"context":null,"code":""}"#] {
            let line = format!(r#"{{"type":"diagnostic","diagnostic":{{"summary":"s","snippet":{none}}}}}"#);
            let Body::Diagnostic(said) = body(&line) else { panic!("a diagnostic") };
            assert_eq!(said.snippet, None, "{none}");
        }
    }

    #[test]
    fn the_engines_words_and_numbers_are_kept() {
        let line = r#"{"@message":"Plan: 2 to add, 0 to change, 1 to destroy.","type":"change_summary","changes":{"add":2,"change":0,"import":3,"remove":1,"operation":"plan"}}"#;
        let Body::ChangeSummary(summary) = body(line) else { panic!("a summary") };
        assert_eq!((summary.add, summary.change, summary.remove, summary.import), (2, 0, 1, 3));
        assert_eq!(summary.text, "Plan: 2 to add, 0 to change, 1 to destroy.");
        let unknown = r#"{"type":"x","deep":{"kept":[1,2]}}"#;
        let Body::EngineMessage(kept) = body(unknown) else { panic!("kept") };
        assert_eq!(kept.json, unknown);
    }

    #[test]
    fn sensitive_values_are_null_and_large_ones_left_out() {
        let value = serde_json::json!({
            "plain": {"sensitive": false, "type": "string", "value": "v"},
            "secret": {"sensitive": true, "type": "string", "value": "hidden"},
            "odd": {"type": "string", "value": "hidden"},
            "large": {"sensitive": false, "type": "string", "value": "x".repeat(OUTPUTS_MAX)},
        });
        let json = outputs(&value).expect("outputs").json;
        assert!(!json.contains("hidden") && json.len() < OUTPUTS_MAX, "{json}");
        let back: Value = serde_json::from_str(&json).expect("still JSON");
        assert_eq!(back["plain"]["value"], "v");
        assert_eq!(back["secret"], serde_json::json!({"sensitive": true, "type": "string", "value": null}));
        assert_eq!(back["odd"]["sensitive"], true);
        assert!(back["large"]["left_out_bytes"].as_u64().is_some_and(|n| n > 60_000));
    }
}
