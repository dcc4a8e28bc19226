//! Pulumi's events, one JSON object a line (<https://pkg.go.dev/github.com/pulumi/pulumi/sdk/v3/go/common/apitype#EngineEvent>), as typed events.
//! Values of the configuration are in them and never come through; what this version does not know is kept whole.

use super::step::{Op, Step};
use crate::events::output;
use serde_json::Value;
use shared_proto::v1::event::Body;
use shared_proto::v1::{ChangeSummary, Diagnostic, EngineMessage, PlannedChange, ResourceProgress};

/// The longest first line of what an error says, bytes: what is longer is its detail.
const SUMMARY_MAX: usize = 1024;

/// What one line says; `None`: nothing that anybody has to know.
pub(super) fn of_line(line: &str) -> Option<Body> {
    if line.trim().is_empty() {
        return None;
    }
    let Some(event) = line.starts_with('{').then(|| serde_json::from_str::<Value>(line).ok()).flatten() else {
        return Some(output("stdout", line));
    };
    let Some((kind, body)) = body(&event) else { return Some(message("", line)) };
    match kind {
        // the values of the configuration
        "preludeEvent" | "cancelEvent" => None,
        "resourcePreEvent" => Step::of(body).and_then(|step| begun(&step)),
        "resOutputsEvent" => Step::of(body).and_then(|step| done(&step)),
        "resOpFailedEvent" => Step::of(body).map(|step| progress(&step, "failed")),
        "diagnosticEvent" => diagnostic(body),
        "summaryEvent" => Some(summary(body)),
        "stdoutEvent" => Some(output("stdout", text(body, "message").trim_end())),
        "policyEvent" => Some(policy(body)),
        "progressEvent" => (body["done"] == true).then(|| output("stdout", &text(body, "message"))),
        _ => Some(message(kind, line)),
    }
}

/// What kind of event it is, and what it says.
pub(super) fn body(event: &Value) -> Option<(&str, &Value)> {
    let fields = event.as_object()?.iter();
    fields.map(|(key, value)| (key.as_str(), value)).find(|(key, _)| key.ends_with("Event"))
}

fn message(kind: &str, line: &str) -> Body {
    Body::EngineMessage(EngineMessage { r#type: kind.into(), json: line.into() })
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// What is planned is told once it is known in whole: with what a refresh has found.
fn begun(step: &Step<'_>) -> Option<Body> {
    match step.op {
        Op::Same | Op::Other("refresh") => None,
        // two others do it
        Op::Replace => None,
        _ if step.planning => None,
        _ => Some(progress(step, "started")),
    }
}

fn done(step: &Step<'_>) -> Option<Body> {
    match step.op {
        _ if step.planning && step.outputs_change() => {
            let (address, action, reason) = (step.address().into(), "update".into(), "outputs".into());
            let text = format!("~ outputs of {}", step.name());
            Some(Body::PlannedChange(PlannedChange { address, action, reason, text }))
        }
        _ if step.planning => step.change().map(|action| planned(step, action)),
        Op::Same | Op::Replace => None,
        // it was told of when it was made
        _ if step.outputs_change() => None,
        _ => Some(progress(step, "complete")),
    }
}

fn planned(step: &Step<'_>, action: &str) -> Body {
    let text = format!("{} {} {} {action}", step.sign(), step.kind, step.name());
    let (address, action) = (step.address().into(), action.into());
    Body::PlannedChange(PlannedChange { address, action, reason: String::new(), text })
}

fn progress(step: &Step<'_>, state: &str) -> Body {
    let action = step.action();
    let said = match state {
        "started" => "…".to_owned(),
        other => format!(": {other}"),
    };
    Body::ResourceProgress(ResourceProgress {
        address: step.address().into(),
        action: action.into(),
        state: state.into(),
        id: step.id().into(),
        text: format!("{} {} {} {action}{said}", step.sign(), step.kind, step.name()),
        ..ResourceProgress::default()
    })
}

fn diagnostic(body: &Value) -> Option<Body> {
    let severity = text(body, "severity");
    let said = text(body, "message");
    let said = said.trim();
    if severity == "debug" || body["ephemeral"] == true || said.is_empty() {
        return None;
    }
    let stream = match severity.as_str() {
        "info" => "stdout",
        "info#err" => "stderr",
        _ => {
            let (first, rest) = said.split_once('\n').unwrap_or((said, ""));
            let cut = first.len() > SUMMARY_MAX;
            let summary =
                if cut { first.chars().take(SUMMARY_MAX / 4).chain(['…']).collect() } else { first.to_owned() };
            let detail = if cut { said } else { rest.trim_start_matches('\n') }.to_owned();
            let urn = text(body, "urn");
            let address = super::step::address(&urn).to_owned();
            return Some(Body::Diagnostic(Diagnostic { severity, summary, detail, address, ..Diagnostic::default() }));
        }
    };
    Some(output(stream, said))
}

fn policy(body: &Value) -> Body {
    let severity = if body["enforcementLevel"] == "mandatory" { "error" } else { "warning" };
    let urn = text(body, "resourceUrn");
    Body::Diagnostic(Diagnostic {
        severity: severity.into(),
        summary: format!("policy {} of {}", text(body, "policyName"), text(body, "policyPackName")),
        detail: text(body, "message").trim().to_owned(),
        address: super::step::address(&urn).into(),
        ..Diagnostic::default()
    })
}

/// How many of each, as the engine says it to people: `2 to create, 1 to replace, 3 unchanged`. One that is replaced is added and removed, as
/// with the others.
fn summary(body: &Value) -> Body {
    let count = |op: &str| body["resourceChanges"][op].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    let is_preview = body["isPreview"] == true;
    let said: Vec<_> = [
        ("create", "to create", "created"),
        ("import", "to import", "imported"),
        ("update", "to update", "updated"),
        ("replace", "to replace", "replaced"),
        ("delete", "to delete", "deleted"),
        ("same", "unchanged", "unchanged"),
    ]
    .into_iter()
    .filter(|(op, ..)| count(op) > 0)
    .map(|(op, will, did)| format!("{} {}", count(op), if is_preview { will } else { did }))
    .collect();
    // one that failed is none that was applied
    let failed = matches!(body["result"].as_str(), Some("failed" | "canceled"));
    Body::ChangeSummary(ChangeSummary {
        add: count("create").saturating_add(count("replace")),
        change: count("update"),
        remove: count("delete").saturating_add(count("replace")),
        import: count("import"),
        operation: match (is_preview, failed) {
            (true, _) => "plan",
            (false, false) => "apply",
            (false, true) => "failed",
        }
        .into(),
        text: format!("Resources: {}", if said.is_empty() { "none".to_owned() } else { said.join(", ") }),
    })
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
