//! Plans as OpenTofu has written them (`testdata/`, made by `testdata/make`), and such as nobody should write.

use super::*;
use runner_worker_iac::redaction::Redaction;
use serde_json::{Value, json};
use shared_proto::plan::{AttributeChange, Summary};

fn about() -> About {
    About { engine: Engine { name: "opentofu".into(), version: "1".into() }, kind: "update", has_changes: true }
}
fn read_with(json: &[u8], secrets: &Secrets) -> Result<Document, String> {
    read(json, about(), secrets, None)
}
fn document(of: &Value) -> Document {
    read_with(of.to_string().as_bytes(), &Secrets::default()).expect("reads")
}
/// One that is kept, by its name.
fn kept(name: &str) -> Document {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/testdata").join(format!("{name}.json"));
    let json = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let secrets = Secrets::new(Redaction::default(), &sensitive(json.as_slice()).expect("reads"));
    read_with(&json, &secrets).expect("reads")
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
    of.resources
        .iter()
        .find(|r| r.address == address)
        .unwrap_or_else(|| panic!("no {address}: {:?}", heads(&of.resources)))
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
    let document = read_with(text.as_bytes(), &Secrets::default()).expect("reads");
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
        format!(
            r#"{{"format_version": "1.2", "resource_changes": [{{"address": "a", "change": {{"actions": ["create"], "after": {deep}}}}}]}}"#
        ),
    ] {
        let why = read_with(bad.as_bytes(), &Secrets::default()).expect_err(&bad);
        assert!(!why.contains("hidden"), "{why}");
    }
    // what is deep where nobody looks is no matter
    let ignored = format!(r#"{{"format_version": "1.2", "prior_state": {deep}, "resource_changes": []}}"#);
    assert!(read_with(ignored.as_bytes(), &Secrets::default()).is_ok());
    assert!(read_with(b"{\"format_version\": \"1.2\", \"x\": \"\xff\"}", &Secrets::default()).is_ok());
}

#[test]
fn secrets_are_in_no_text_of_it() {
    let redaction = Redaction::new(["hunter2-hunter2"]);
    let secrets = Secrets::new(redaction.clone(), &Sensitive::default());
    let secret = "hunter2-hunter2";
    let mut one =
        change(&format!("t.n[\"{secret}\"]"), &["delete", "create"], json!({"a": secret}), json!({secret: 1}));
    for field in ["module_address", "previous_address", "name", "type", "provider_name", "deposed", "action_reason"] {
        one[field] = format!("x-{secret}").into();
    }
    one["change"]["importing"] = json!({"id": secret});
    let mut of = plan(json!([one.clone()]));
    of["resource_drift"] = json!([one]);
    of["output_changes"] = json!({secret: {"actions": ["create"], "after": secret}});
    of["checks"] = json!([{"address": {"to_display": secret}, "status": "fail", "instances": [{"problems": [{"message": secret}]}]}]);
    of["variables"] = json!({"password": {"value": "another-secret-of-it"}});
    let document = read_with(of.to_string().as_bytes(), &secrets).expect("reads");
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
    of["output_changes"] =
        (0..400).map(|n| (format!("o{n}"), json!({"actions": ["create"], "after": value}))).collect();
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

#[test]
fn what_is_masked_in_one_place_is_shown_in_no_other() {
    let mut one =
        change("t.a", &["update"], json!({"input": "masked-before"}), json!({"input": "masked-after", "n": 12345678}));
    one["change"]["before_sensitive"] = json!({"input": true});
    one["change"]["after_sensitive"] = json!({"input": true, "n": true});
    let mut of = plan(json!([
        change(
            "t.b",
            &["update"],
            json!({"output": "x masked-before x"}),
            json!({"output": {"masked-after": [12345678]}})
        ),
        one
    ]));
    of["output_changes"] = json!({
        "hidden": {"actions": ["create"], "after": {"deep": ["masked-output"]}, "after_sensitive": true},
        "shown": {"actions": ["create"], "after": "masked-output", "after_sensitive": false},
    });
    let json = of.to_string();
    let found = sensitive(json.as_bytes()).expect("reads");
    let secrets = Secrets::new(Redaction::default(), &found);
    let document = read_with(json.as_bytes(), &secrets).expect("reads");
    let text = serde_json::to_string(&document).expect("JSON");
    assert!(!text.contains("masked") && !text.contains("12345678"), "{text}");
    assert!(text.contains("x [redacted] x"), "{text}");
    let mut words = "- masked-before + masked-after".to_owned();
    secrets.apply(&mut words);
    assert_eq!(words, "- [redacted] + [redacted]");
}

#[test]
fn one_of_everything_as_opentofu_plans_it() {
    let of = kept("everything");
    assert_eq!(
        heads(&of.resources),
        [
            "Delete terraform_data.counted[1] delete_because_count_index",
            "Delete terraform_data.counted[2] delete_because_count_index",
            "Delete terraform_data.gone delete_because_no_resource_config",
            "Replace DeleteFirst terraform_data.replaced replace_because_cannot_update",
            "Replace CreateFirst terraform_data.replaced_first replace_because_cannot_update",
            "Forget terraform_data.forgotten delete_because_no_resource_config",
            "Update terraform_data.changed",
            "Update terraform_data.secret",
            "Update module.net.terraform_data.in[\"a.b\"]",
            "Update module.net.terraform_data.in[\"c\"]",
            "Create time_rotating.drifts",
            "Create module.more.terraform_data.in[\"a.b\"]",
            "Create module.more.terraform_data.in[\"c\"]",
            "NoOp terraform_data.imported  imports an-id",
            "NoOp terraform_data.new  from terraform_data.old",
        ]
    );
    let expected = Summary {
        create: 3,
        update: 4,
        replace: 2,
        delete: 3,
        import: 1,
        forget: 1,
        moved: 1,
        unchanged: 2,
        outputs: 4,
        drift: 1,
        checks_failed: 1,
        ..Default::default()
    };
    assert_eq!(of.summary, expected);
    assert!(!of.errored && of.complete && !of.is_partial());
    assert_eq!(resource(&of, "module.net.terraform_data.in[\"c\"]").module, "module.net");

    let changed = resource(&of, "terraform_data.changed");
    let paths: Vec<_> = changed.attributes.iter().map(|a| a.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "input.list[1]",
            "input.list[2]",
            "input.of",
            "input.tags[\"odd key\"]",
            "input.tags.team",
            "input.text",
            "output"
        ]
    );
    assert!(attribute(changed, "input.of").unknown && attribute(changed, "output").unknown);
    assert_eq!(attribute(changed, "output").before.as_ref().map(|v| &v["tags"]["team"]), Some(&json!("blue")));
    let replaced = resource(&of, "terraform_data.replaced");
    assert!(attribute(replaced, "triggers_replace.version").forces_replacement);
    assert!(attribute(replaced, "id").unknown && !attribute(replaced, "id").forces_replacement);
    assert_eq!(replaced.replace_paths, ["triggers_replace"]);

    let secret = resource(&of, "terraform_data.secret");
    for path in ["input.login.password", "input.list[1]"] {
        let hidden = attribute(secret, path);
        assert!(hidden.sensitive && hidden.before.is_none() && hidden.after.is_none(), "{hidden:?}");
    }
    // its provider shows it again, without a mask
    let output = attribute(secret, "output").before.as_ref().expect("it was there");
    assert_eq!(output["login"], json!({"name": "app", "password": "[redacted]"}));
    let outputs: Vec<_> = of
        .outputs
        .iter()
        .map(|o| (o.name.as_str(), o.action, o.attributes[0].path.as_str(), o.attributes[0].sensitive))
        .collect();
    let expected = [
        ("hidden", Action::Update, "", true),
        ("id", Action::Create, "", false),
        ("object", Action::Update, "b[1]", false),
        ("text", Action::Update, "", false),
    ];
    assert_eq!(outputs, expected);
    assert_eq!(heads(&of.drift), ["Delete time_rotating.drifts"]);
    let checks: Vec<_> = of.checks.iter().map(|c| (c.address.as_str(), c.status.as_str(), c.problems.len())).collect();
    assert_eq!(checks, [("check.health", "fail", 1), ("check.good", "pass", 0)]);
}

#[test]
fn the_other_kinds_of_plans() {
    let created = kept("create");
    assert_eq!((created.summary.create, created.resources.len(), created.summary.outputs), (14, 14, 3));
    assert!(
        created.resources.iter().all(|r| r.action == Action::Create && r.attributes.iter().all(|a| a.before.is_none()))
    );
    let refresh = kept("refresh");
    assert_eq!((refresh.resources.len(), refresh.summary.drift), (0, 1), "{refresh:#?}");
    let destroy = kept("destroy");
    assert!(
        destroy.resources.iter().all(|r| r.action == Action::Delete && r.attributes.iter().all(|a| a.after.is_none()))
    );
    assert_eq!(destroy.summary.create, 0);
    for name in ["create", "everything", "refresh", "destroy"] {
        let of = kept(name);
        let text = serde_json::to_string(&of).expect("JSON");
        assert!(!text.contains("planted"), "{name}: {text}");
        assert_eq!(Document::read(&text), Ok(of), "{name}");
    }
}
