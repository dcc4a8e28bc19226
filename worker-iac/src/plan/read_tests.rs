//! Plans as OpenTofu has written them (`testdata/`, made by `testdata/make`), and such as nobody should write.

use super::*;
use serde_json::json;
use shared_proto::plan::AttributeChange;

fn about() -> About {
    About { engine: Engine { name: "opentofu".into(), version: "1".into() }, kind: "update", has_changes: true }
}
fn read_with(json: &[u8], redaction: &Redaction) -> Result<Document, String> {
    read(json, about(), redaction)
}
fn document(of: &Value) -> Document {
    read_with(of.to_string().as_bytes(), &Redaction::default()).expect("reads")
}
/// One that is kept, by its name.
fn kept(name: &str) -> Document {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/testdata").join(format!("{name}.json"));
    let json = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    read_with(&json, &Redaction::default()).expect("reads")
}
/// In a line each: action, order, address and why.
fn heads(of: &[ResourceChange]) -> Vec<String> {
    let head = |r: &ResourceChange| {
        let order = r.order.map(|order| format!(" {order:?}")).unwrap_or_default();
        let moved = r.moved_from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let imported = r.imported_id.as_ref().map(|id| format!(" imports {id}")).unwrap_or_default();
        format!("{:?}{order} {} {}{moved}{imported}", r.action, r.address, r.reason).trim_end().to_owned()
    };
    of.iter().map(head).collect()
}
fn resource<'a>(of: &'a Document, address: &str) -> &'a ResourceChange {
    of.resources.iter().find(|r| r.address == address).unwrap_or_else(|| panic!("no {address}: {:?}", heads(&of.resources)))
}
fn attribute<'a>(of: &'a ResourceChange, path: &str) -> &'a AttributeChange {
    of.attributes.iter().find(|a| a.path == path).unwrap_or_else(|| panic!("no {path}: {of:?}"))
}
fn plan(changes: Value) -> Value {
    json!({"format_version": "1.2", "resource_changes": changes})
}
fn change(address: &str, actions: &[&str], before: Value, after: Value) -> Value {
    json!({"address": address, "mode": "managed", "type": "t", "name": "n", "provider_name": "p",
        "change": {"actions": actions, "before": before, "after": after}})
}

#[test]
fn every_action_has_its_word() {
    for (actions, expected) in [
        (&["no-op"][..], (Action::NoOp, None)),
        (&["create"], (Action::Create, None)),
        (&["read"], (Action::Read, None)),
        (&["update"], (Action::Update, None)),
        (&["delete"], (Action::Delete, None)),
        (&["forget"], (Action::Forget, None)),
        (&["delete", "create"], (Action::Replace, Some(Order::DeleteFirst))),
        (&["create", "delete"], (Action::Replace, Some(Order::CreateFirst))),
        (&["create", "forget"], (Action::Replace, Some(Order::ForgetOld))),
        (&["forget", "create"], (Action::Replace, Some(Order::ForgetOld))),
        (&["open"], (Action::Other, None)),
        (&[], (Action::Other, None)),
    ] {
        let actions: Vec<_> = actions.iter().map(|a| (*a).to_owned()).collect();
        assert_eq!(action(&actions), expected, "{actions:?}");
    }
}

#[test]
fn what_comes_before_and_what_nobody_knows_is_passed_over() {
    let mut of = plan(json!([change("t.n", &["create"], Value::Null, json!({"a": 1}))]));
    of["brand_new"] = json!({"deep": [[[{}]]]});
    of["resource_drift"] = Value::Null;
    of["complete"] = false.into();
    of["resource_changes"][0]["change"]["new"] = 1.into();
    let text = format!("\nWarning: something\n\n{of}");
    let document = read_with(text.as_bytes(), &Redaction::default()).expect("reads");
    assert_eq!(heads(&document.resources), ["Create t.n"]);
    assert!(!document.complete && !document.errored && document.has_changes);
    assert_eq!((document.version, document.kind.as_str()), (VERSION, "update"));
}

#[test]
fn what_is_no_plan_is_refused_and_nothing_of_it_is_said() {
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    for bad in [
        String::new(),
        "hidden".into(),
        "{".into(),
        "{}".into(),
        r#"{"format_version": "2.0", "resource_changes": []}"#.into(),
        r#"{"format_version": 1}"#.into(),
        r#"{"format_version": "1.2", "resource_changes": "hidden"}"#.into(),
        r#"{"format_version": "1.2", "resource_changes": [{"address": "hidden"}]}"#.into(),
        r#"{"format_version": "1.2", "resource_changes": [{"address": "a", "change": {"actions": "hidden"}}]}"#.into(),
        r#"{"format_version": "1.2", "errored": "hidden"}"#.into(),
        r#"{"format_version": "1.2", "hidden": "#.into(),
        format!(r#"{{"format_version": "1.2", "resource_changes": [{{"address": "a", "change": {{"actions": ["create"], "after": {deep}}}}}]}}"#),
    ] {
        let why = read_with(bad.as_bytes(), &Redaction::default()).expect_err(&bad);
        assert!(!why.contains("hidden"), "{why}");
    }
    // what is deep where nobody looks is no matter
    let ignored = format!(r#"{{"format_version": "1.2", "prior_state": {deep}, "resource_changes": []}}"#);
    assert!(read_with(ignored.as_bytes(), &Redaction::default()).is_ok());
    assert!(read_with(b"{\"format_version\": \"1.2\", \"x\": \"\xff\"}", &Redaction::default()).is_ok());
}

#[test]
fn secrets_are_in_no_text_of_it() {
    let redaction = Redaction::new(["hunter2-hunter2"]);
    let secret = "hunter2-hunter2";
    let mut one = change(&format!("t.n[\"{secret}\"]"), &["delete", "create"], json!({"a": secret}), json!({secret: 1}));
    for field in ["module_address", "previous_address", "name", "type", "provider_name", "deposed", "action_reason"] {
        one[field] = format!("x-{secret}").into();
    }
    one["change"]["importing"] = json!({"id": secret});
    let mut of = plan(json!([one.clone()]));
    of["resource_drift"] = json!([one]);
    of["output_changes"] = json!({secret: {"actions": ["create"], "after": secret}});
    of["checks"] = json!([{"address": {"to_display": secret}, "status": "fail", "instances": [{"problems": [{"message": secret}]}]}]);
    of["variables"] = json!({"password": {"value": "another-secret-of-it"}});
    let document = read_with(of.to_string().as_bytes(), &redaction).expect("reads");
    let text = serde_json::to_string(&document).expect("JSON");
    assert!(!text.contains("hunter2") && !text.contains("another-secret"), "{text}");
    assert!(document.summary.drift == 1 && document.summary.checks_failed == 1 && document.summary.outputs == 1);
    assert!(redaction.found() > 10);
}

#[test]
fn a_plan_larger_than_a_document_keeps_what_may_be_lost_and_counts_the_rest() {
    let value = "v".repeat(3000);
    let mut changes: Vec<_> =
        (0..1500).map(|n| change(&format!("t.n[{n}]"), &["create"], Value::Null, json!({"a": value}))).collect();
    changes.push(change("t.lost", &["delete"], json!({"a": value}), Value::Null));
    let mut of = plan(changes.into());
    let drift = change("t.drift", &["update"], json!({"a": value}), json!({"b": value}));
    of["resource_drift"] = vec![drift; 400].into();
    of["output_changes"] = (0..400).map(|n| (format!("o{n}"), json!({"actions": ["create"], "after": value}))).collect();
    of["checks"] = (0..2000)
        .map(|n| json!({"address": {"to_display": format!("check.{n}")}, "status": "fail", "instances": [{"problems": [{"message": value}]}]}))
        .collect();
    let document = document(&of);
    let length = serde_json::to_string(&document).expect("JSON").len();
    assert!(length <= PLAN_DOCUMENT_MAX && length > PLAN_DOCUMENT_MAX / 3, "{length}");
    let (summary, left_out) = (document.summary, document.left_out);
    assert_eq!((summary.create, summary.delete, summary.drift), (1500, 1, 400));
    assert_eq!((summary.outputs, summary.checks_failed), (400, 2000));
    assert_eq!(document.resources[0].address, "t.lost");
    assert_eq!(document.resources[0].attributes.len(), 1);
    assert_eq!(document.resources.len() + usize::try_from(left_out.resources).expect("fits"), 1501);
    assert_eq!(document.outputs.len() + usize::try_from(left_out.outputs).expect("fits"), 400);
    assert_eq!(document.checks.len() + usize::try_from(left_out.checks).expect("fits"), 2000);
    assert!(left_out.attributes > 0 && document.is_partial());
}

#[test]
fn what_only_stays_is_counted_and_what_is_moved_or_imported_as_it_is_is_shown() {
    let mut moved = change("t.new", &["no-op"], json!({"a": 1}), json!({"a": 1}));
    moved["previous_address"] = "t.old".into();
    let mut here = change("t.here", &["no-op"], json!({}), json!({}));
    here["previous_address"] = "t.here".into();
    let mut imported = change("t.in", &["update"], json!({"a": 1}), json!({"a": 2}));
    imported["change"]["importing"] = json!({"id": "i-1"});
    let of = plan(json!([moved, here, imported, change("t.same", &["no-op"], json!({}), json!({}))]));
    let document = document(&of);
    assert_eq!(heads(&document.resources), ["Update t.in  imports i-1", "NoOp t.new  from t.old"]);
    let summary = document.summary;
    assert_eq!((summary.moved, summary.import, summary.update, summary.unchanged), (1, 1, 1, 2));
}
