//! A stack's state and outputs as Pulumi exports them (<https://www.pulumi.com/docs/iac/cli/commands/pulumi_stack_export/>). It is never asked for
//! secrets: they are encrypted in what it gives, and shown as what they are.

use super::super::resources::{RESOURCES_MAX, Resources, told};
use super::step::{address, marks, name, provider};
use crate::masked::Mask;
use crate::secrets::Secrets;
use runner_worker_iac::redaction::Redaction;
use serde_json::{Map, Value, json};
use shared_proto::v1::{Outputs, StateResource};

/// The resources of a stack; where addresses are named, only those, with what they hold.
pub(super) fn of_state(state: &Value, addresses: &[String], of_job: Redaction) -> Resources {
    let secrets = Secrets::new(of_job, &Default::default());
    let mut resources = Resources::default();
    for resource in state["deployment"]["resources"].as_array().into_iter().flatten() {
        let urn = resource["urn"].as_str().unwrap_or_default();
        let is_named = |wanted: &String| wanted == urn || wanted == address(urn);
        if !addresses.is_empty() && !addresses.iter().any(is_named) {
            continue;
        }
        if resources.found.len() == RESOURCES_MAX {
            resources.left_out += 1;
        } else {
            resources.found.push(of(resource, urn, !addresses.is_empty(), &secrets));
        }
    }
    resources
}

fn of(resource: &Value, urn: &str, whole: bool, secrets: &Secrets) -> StateResource {
    let text = |key: &str| resource[key].as_str().unwrap_or_default().to_owned();
    let (secret, _) = marks(&resource["outputs"]);
    let mode = match (resource["custom"] == true, resource["external"] == true) {
        (_, true) => "read",
        (true, false) => "managed",
        (false, false) => "component",
    };
    let head = StateResource {
        address: address(urn).into(),
        mode: mode.into(),
        r#type: text("type"),
        name: name(urn).into(),
        provider: provider(&text("provider")).into(),
        tainted: resource["taint"] == true,
        deposed: if resource["delete"] == true { "to be deleted".into() } else { String::new() },
        ..StateResource::default()
    };
    told(head, (&resource["id"], Mask::Nothing), (&resource["outputs"], Mask::of(&secret)), whole, secrets)
}

/// The outputs of a stack, as an event: a secret is none.
pub(super) fn outputs(said: &Value) -> Option<Outputs> {
    let said = said.as_object()?.iter();
    let outputs: Map<_, _> = said
        .map(|(name, value)| {
            let (secret, _) = marks(value);
            let sensitive = crate::masked::any(&secret);
            let kind = match value {
                Value::String(_) | Value::Null => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                Value::Array(_) => "list",
                Value::Object(_) => "object",
            };
            (name.clone(), json!({ "sensitive": sensitive, "type": kind, "value": value }))
        })
        .collect();
    crate::events::outputs(&outputs.into())
}

#[cfg(test)]
mod tests {
    use super::super::step::STACK;
    use super::*;

    fn state() -> Value {
        let secret =
            json!({ "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:x" });
        json!({ "version": 3, "deployment": { "resources": [
            { "urn": format!("urn:pulumi:dev::shop::{STACK}::shop-dev"), "custom": false, "type": STACK, "outputs": { "a": 1 } },
            {
                "urn": "urn:pulumi:dev::shop::world:index:Thing::one", "custom": true, "id": "/w/one", "type": "world:index:Thing",
                "provider": "urn:pulumi:dev::shop::pulumi:providers:world::default::6a47", "taint": true,
                "outputs": { "path": "/w/one", "content": secret, "url": "https://x/of-the-job-itself" },
            },
            { "urn": "urn:pulumi:dev::shop::world:index:Thing::old", "custom": true, "delete": true, "external": true, "type": "world:index:Thing" },
        ]}})
    }

    #[test]
    fn resources_are_named_and_what_is_secret_does_not_leave() {
        let all = of_state(&state(), &[], Redaction::default()).found;
        let shown: Vec<_> = all.iter().map(|r| format!("{} {} {} {}", r.address, r.mode, r.id, r.deposed)).collect();
        assert_eq!(
            shown,
            [
                "pulumi:pulumi:Stack::shop-dev component  ",
                "world:index:Thing::one managed /w/one ",
                "world:index:Thing::old read  to be deleted",
            ]
        );
        assert!(all.iter().all(|r| r.attributes.is_empty()));
        for wanted in ["world:index:Thing::one", "urn:pulumi:dev::shop::world:index:Thing::one"] {
            let one = of_state(&state(), &[wanted.to_owned()], Redaction::new(["of-the-job-itself"])).found;
            let [one] = one.as_slice() else { panic!("one: {one:?}") };
            assert_eq!(one.attributes, r#"{"content":"(sensitive)","path":"/w/one","url":"https://x/[redacted]"}"#);
            assert!(one.tainted && one.provider == "world" && one.name == "one");
        }
        assert!(of_state(&json!({}), &[], Redaction::default()).found.is_empty());
    }

    #[test]
    fn outputs_are_told_without_what_is_secret() {
        let said = json!({ "a": "x", "b": "[secret]", "c": { "d": ["[secret]"] }, "e": 1 });
        let json: Value = serde_json::from_str(&outputs(&said).expect("outputs").json).expect("JSON");
        assert_eq!(json["a"], json!({ "sensitive": false, "type": "string", "value": "x" }));
        for name in ["b", "c"] {
            assert_eq!((&json[name]["sensitive"], &json[name]["value"]), (&json!(true), &Value::Null), "{name}");
        }
        assert_eq!(outputs(&json!([])), None);
        assert_eq!(outputs(&json!({})).expect("none").json, "{}");
    }

    #[test]
    fn both_sides_of_the_bound() {
        let many = |count: usize| {
            let one = |n| json!({ "urn": format!("urn:pulumi:dev::shop::t::{n}") });
            let resources: Vec<_> = (0..count).map(one).collect();
            let found = of_state(&json!({ "deployment": { "resources": resources } }), &[], Redaction::default());
            (found.found.len(), found.left_out)
        };
        assert_eq!(many(RESOURCES_MAX), (RESOURCES_MAX, 0));
        assert_eq!(many(RESOURCES_MAX + 1), (RESOURCES_MAX, 1));
    }
}
