//! Previews as Pulumi has written them (`testdata/pulumi-*.events`).

use super::*;
use runner_worker_iac::redaction::Redaction;
use serde_json::json;
use shared_proto::plan::{Action, Engine, ResourceChange, Summary};

fn document(name: &str, kind: &'static str, secrets: &Secrets) -> Document {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/plan/testdata")
        .join(format!("pulumi-{name}.events"));
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let engine = Engine { name: "pulumi".into(), version: "3.255.0".into() };
    read(text.as_slice(), About { engine, kind, has_changes: true }, secrets, None).expect("reads")
}
fn attributes(of: &ResourceChange) -> Vec<String> {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
    of.attributes
        .iter()
        .map(|a| {
            format!(
                "{} {} {} {}{}{}",
                a.path,
                value(&a.before),
                value(&a.after),
                a.unknown,
                a.sensitive,
                a.forces_replacement
            )
        })
        .collect()
}

#[test]
fn a_change_and_a_replacement() {
    let document = document("change", "update", &Secrets::default());
    assert_eq!(document.summary, Summary { update: 1, replace: 1, outputs: 2, ..Summary::default() });
    let heads: Vec<_> = document
        .resources
        .iter()
        .map(|r| (r.action, r.address.as_str(), r.kind.as_str(), r.name.as_str(), r.provider.as_str()))
        .collect();
    assert_eq!(
        heads,
        [
            (Action::Replace, "world:index:Thing::three", "world:index:Thing", "three", "world"),
            (Action::Update, "world:index:Thing::one", "world:index:Thing", "one", "world"),
        ]
    );
    assert_eq!(
        attributes(&document.resources[0]),
        ["content 5 - truefalsefalse", "path \"/w/three\" \"/w/drei\" falsefalsetrue"]
    );
    assert_eq!(document.resources[0].replace_paths, ["path"]);
    assert_eq!(attributes(&document.resources[1]), ["content \"hello\" \"changed\" falsefalsefalse"]);
    let outputs: Vec<_> = document.outputs.iter().map(|o| (o.name.as_str(), o.action)).collect();
    assert_eq!(outputs, [("greeting", Action::Update), ("more", Action::Create)]);
}

#[test]
fn what_is_secret_is_named_and_not_shown() {
    let secrets = Secrets::new(Redaction::new(["/w/three"]), &Default::default());
    let document = document("create", "update", &secrets);
    assert_eq!(document.summary.create, 4);
    let two = document.resources.iter().find(|r| r.name == "two").expect("two");
    assert_eq!(attributes(two), ["content - - falsetruefalse", "path - \"/w/two\" falsefalsefalse"]);
    let hidden = document.outputs.iter().find(|o| o.name == "hidden").expect("hidden");
    assert!(hidden.attributes[0].sensitive && hidden.attributes[0].after.is_none());
    let json = serde_json::to_string(&document).expect("JSON");
    assert!(!json.contains("[secret]") && !json.contains("/w/three") && !json.contains("ciphertext"), "{json}");
}

#[test]
fn what_a_refresh_finds_is_what_others_have_done() {
    let document = document("refresh", "refresh", &Secrets::default());
    assert_eq!(document.summary, Summary { drift: 2, ..Summary::default() });
    let one = document.drift.iter().find(|r| r.name == "one").expect("one");
    assert_eq!(attributes(one), ["content \"changed\" \"drifted\\n\" falsefalsefalse", "size 7 8 falsefalsefalse"]);
    assert!(document.drift.iter().any(|r| r.name == "three" && r.action == Action::Delete));
}

#[test]
fn the_end_of_everything_and_an_import() {
    let whole = document("destroy", "destroy", &Secrets::default());
    assert_eq!(whole.summary.delete, 3);
    let metadata = json!({
        "op": "import", "urn": "urn:pulumi:dev::shop::world:index:Thing::x", "type": "world:index:Thing",
        "new": { "id": "/w/x", "inputs": { "path": "/w/x" } }, "old": { "id": "/w/x", "inputs": { "path": "/w/x" } }
    });
    let line = json!({ "resOutputsEvent": { "metadata": metadata, "planning": true } }).to_string();
    let about = About { engine: Engine::default(), kind: "import", has_changes: true };
    let document = read(line.as_bytes(), about, &Secrets::default(), None).expect("reads");
    assert_eq!((document.summary.import, document.resources[0].imported_id.as_deref()), (1, Some("/w/x")));
}
