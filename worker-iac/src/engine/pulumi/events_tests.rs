//! Events as Pulumi has written them (`plan/testdata/pulumi-*.events`), and such as nobody should write.

use super::*;
use serde_json::json;

/// All that one says, a line each.
fn told(name: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/plan/testdata")
        .join(format!("pulumi-{name}.events"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter_map(of_line).map(|body| shown(&body)).collect()
}
fn shown(body: &Body) -> String {
    match body {
        Body::PlannedChange(c) => format!("plan {} {} {} | {}", c.address, c.action, c.reason, c.text),
        Body::ResourceProgress(p) => format!("{} {} {} {} | {}", p.state, p.address, p.action, p.id, p.text),
        Body::ChangeSummary(s) => format!("{} {}/{}/{} {}", s.operation, s.add, s.change, s.remove, s.text),
        Body::Diagnostic(d) => format!("{} {} {} {}", d.severity, d.address, d.summary, d.detail),
        Body::OutputLine(line) => format!("{} {}", line.stream, line.text),
        other => format!("{other:?}"),
    }
}

#[test]
fn what_a_preview_would_do() {
    assert_eq!(
        told("change"),
        [
            "plan world:index:Thing::one update  | ~ world:index:Thing one update",
            "plan world:index:Thing::three replace  | +- world:index:Thing three replace",
            "plan pulumi:pulumi:Stack::shop-dev update outputs | ~ outputs of shop-dev",
            "plan 1/1/1 Resources: 1 to update, 1 to replace, 2 unchanged",
        ]
    );
    assert_eq!(
        told("refresh"),
        [
            "plan world:index:Thing::three delete  | - world:index:Thing three delete",
            "plan world:index:Thing::one update  | ~ world:index:Thing one update",
            "plan 0/1/1 Resources: 1 to update, 1 to delete, 2 unchanged",
        ]
    );
}

#[test]
fn what_is_done_and_fails_and_is_cancelled() {
    let told = told("cancelled");
    for expected in [
        "started world:index:Thing::one update /w/one | ~ world:index:Thing one update…",
        "complete world:index:Thing::one update /w/one | ~ world:index:Thing one update: complete",
        "error world:index:Thing::bad no such luck ",
        "failed world:index:Thing::bad create  | + world:index:Thing bad create: failed",
        "failed 1/1/0 Resources: 1 created, 1 updated, 2 unchanged",
    ] {
        assert!(told.iter().any(|line| line == expected), "{expected}: {told:#?}");
    }
    assert!(told.iter().any(|line| line.starts_with("stdout ^C received; cancelling.")), "{told:#?}");
}

#[test]
fn what_is_not_known_is_kept_and_what_nobody_needs_is_not() {
    let of = |value: Value| of_line(&value.to_string());
    let Some(Body::EngineMessage(kept)) = of(json!({ "sequence": 1, "brandNewEvent": { "deep": [1] } })) else {
        panic!("kept")
    };
    assert_eq!((kept.r#type.as_str(), kept.json.contains("deep")), ("brandNewEvent", true));
    for none in [
        json!({ "preludeEvent": { "config": { "shop:password": "hunter2-hunter2" } } }),
        json!({ "cancelEvent": {} }),
        json!({ "diagnosticEvent": { "severity": "debug", "message": "x" } }),
        json!({ "diagnosticEvent": { "severity": "info", "message": "x", "ephemeral": true } }),
        json!({ "progressEvent": { "message": "x", "done": false } }),
        json!({ "resourcePreEvent": {} }),
    ] {
        assert_eq!(of(none.clone()), None, "{none}");
    }
    assert_eq!(of_line(" "), None);
    for (line, expected) in [("plainly", "stdout plainly"), ("{broken", "stdout {broken")] {
        assert_eq!(of_line(line).map(|body| shown(&body)).as_deref(), Some(expected));
    }
    let policy = json!({ "policyEvent": { "enforcementLevel": "mandatory", "policyName": "p", "policyPackName": "k", "message": "m\n" } });
    assert_eq!(of(policy).map(|body| shown(&body)).as_deref(), Some("error  policy p of k m"));
    let long = json!({ "diagnosticEvent": { "severity": "error", "message": "x".repeat(SUMMARY_MAX + 1) } });
    let Some(Body::Diagnostic(long)) = of(long) else { panic!("an error") };
    assert!(long.summary.len() < SUMMARY_MAX && long.detail.len() == SUMMARY_MAX + 1);
}
