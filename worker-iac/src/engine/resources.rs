//! The resources of a state, as the engine gives it to programs: their names, and what they hold where somebody asks for one. What is
//! sensitive does not leave. <https://opentofu.org/docs/internals/json-format/#state-representation>

use crate::masked::{Mask, clean, note};
use crate::secrets::{Secrets, Sensitive};
use runner_worker_iac::redaction::Redaction;
use serde_json::Value;
use shared_proto::v1::StateResource;

/// Resources that are told of at once.
pub(super) const RESOURCES_MAX: usize = 20_000;
/// Of one resource, bytes of its attributes.
const ATTRIBUTES_MAX: usize = 48 * 1024;
/// Modules in modules; the engines themselves know no bound.
const DEPTH_MAX: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    /// In the order of the state.
    pub(crate) found: Vec<StateResource>,
    /// More than can be told.
    pub(crate) left_out: usize,
    /// Sensitive values that are hidden where the engine knows of them, and nowhere else.
    pub(crate) not_looked_for: usize,
}

/// The resources of the state; where addresses are named, only those at them or below, with what they hold. `of_job`: the job's secrets.
pub(crate) fn of_state(state: &Value, addresses: &[String], of_job: Redaction) -> Resources {
    let root = &state["values"]["root_module"];
    let mut found = Sensitive::default();
    each(root, 0, &mut |resource| note(&resource["values"], Mask::of(&resource["sensitive_values"]), &mut found));
    let secrets = Secrets::new(of_job, &found);
    let mut resources = Resources { not_looked_for: found.left_out(), ..Resources::default() };
    each(root, 0, &mut |resource| {
        let address = resource["address"].as_str().unwrap_or_default();
        if !addresses.is_empty() && !addresses.iter().any(|wanted| is_at(address, wanted)) {
            return;
        }
        if resources.found.len() == RESOURCES_MAX {
            resources.left_out += 1;
        } else {
            resources.found.push(of(resource, !addresses.is_empty(), &secrets));
        }
    });
    resources
}

/// Every resource of a module and those in it.
fn each<'a>(module: &'a Value, depth: usize, see: &mut impl FnMut(&'a Value)) {
    module["resources"].as_array().into_iter().flatten().for_each(&mut *see);
    if depth < DEPTH_MAX {
        for child in module["child_modules"].as_array().into_iter().flatten() {
            each(child, depth + 1, see);
        }
    }
}

/// Whether a resource is at an address or below it: an instance of a resource, a resource of a module.
fn is_at(address: &str, wanted: &str) -> bool {
    address.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn of(resource: &Value, whole: bool, secrets: &Secrets) -> StateResource {
    let text = |key: &str| resource[key].as_str().unwrap_or_default().to_owned();
    let mask = Mask::of(&resource["sensitive_values"]);
    let head = StateResource {
        address: text("address"),
        mode: text("mode"),
        r#type: text("type"),
        name: text("name"),
        provider: text("provider_name"),
        tainted: resource["tainted"] == true,
        deposed: text("deposed_key"),
        ..StateResource::default()
    };
    let values = &resource["values"];
    told(head, (&values["id"], mask.key("id")), (values, mask), whole, secrets)
}

/// A resource with its id and, where they are asked for, its values; both without what is sensitive of them.
pub(super) fn told(
    head: StateResource,
    id: (&Value, Mask<'_>),
    values: (&Value, Mask<'_>),
    whole: bool,
    secrets: &Secrets,
) -> StateResource {
    let id = clean(id.0, id.1, secrets);
    // of a list of very many nobody reads them
    let mut attributes = if whole { clean(values.0, values.1, secrets).to_string() } else { String::new() };
    let mut left_out = 0;
    if attributes.len() > ATTRIBUTES_MAX {
        left_out = attributes.len() as u64;
        attributes.clear();
    }
    StateResource { id: id.as_str().unwrap_or_default().to_owned(), attributes, left_out, ..head }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state() -> Value {
        let resource = |address: &str| {
            json!({
                "address": address, "mode": "managed", "type": "t", "name": "n", "provider_name": "p", "tainted": true,
                "values": { "id": "1", "password": "s3cret", "list": ["a"] },
                "sensitive_values": { "password": true, "list": [] },
            })
        };
        let deep = json!({ "address": "module.m.module.n", "resources": [resource("module.m.module.n.t.n")] });
        let child = json!({
            "address": "module.m", "resources": [resource("module.m.t.n[0]"), resource("module.m.t.nn")],
            "child_modules": [deep]
        });
        json!({ "values": { "root_module": { "resources": [resource("t.n")], "child_modules": [child] } } })
    }
    fn addresses(wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<_> = wanted.iter().map(|w| (*w).to_owned()).collect();
        of_state(&state(), &wanted, Redaction::default()).found.into_iter().map(|r| r.address).collect()
    }

    #[test]
    fn resources_are_found_by_what_they_are_at_or_below() {
        assert_eq!(addresses(&[]), ["t.n", "module.m.t.n[0]", "module.m.t.nn", "module.m.module.n.t.n"]);
        assert_eq!(addresses(&["module.m.t.n"]), ["module.m.t.n[0]"]);
        assert_eq!(addresses(&["module.m.module.n", "t.n"]), ["t.n", "module.m.module.n.t.n"]);
        assert!(addresses(&["t"]).len() == 1 && addresses(&["mod"]).is_empty());
        assert!(of_state(&json!({}), &[], Redaction::default()).found.is_empty());
    }

    #[test]
    fn what_is_sensitive_does_not_leave() {
        let named = of_state(&state(), &["t.n".to_owned()], Redaction::default()).found.remove(0);
        assert_eq!(named.attributes, r#"{"id":"1","list":["a"],"password":"(sensitive)"}"#);
        assert!(named.tainted && named.id == "1");
        assert_eq!(of_state(&state(), &[], Redaction::default()).found.remove(0).attributes, "");
    }

    #[test]
    fn both_sides_of_the_bounds() {
        let with = |bytes: usize| {
            let values = json!({ "v": "x".repeat(bytes - r#"{"v":""}"#.len()) });
            let of = json!({ "values": { "root_module": { "resources": [{ "address": "a.b", "values": values }] } } });
            let found = of_state(&of, &["a.b".to_owned()], Redaction::default()).found.remove(0);
            (found.attributes.len(), found.left_out)
        };
        assert_eq!(with(ATTRIBUTES_MAX), (ATTRIBUTES_MAX, 0));
        assert_eq!(with(ATTRIBUTES_MAX + 1), (0, ATTRIBUTES_MAX as u64 + 1));
        let many = |count: usize| {
            let resources: Vec<_> = (0..count).map(|n| json!({ "address": format!("a.b[{n}]") })).collect();
            let of = of_state(
                &json!({ "values": { "root_module": { "resources": resources } } }),
                &[],
                Redaction::default(),
            );
            (of.found.len(), of.left_out)
        };
        assert_eq!(many(RESOURCES_MAX), (RESOURCES_MAX, 0));
        assert_eq!(many(RESOURCES_MAX + 1), (RESOURCES_MAX, 1));
    }
}
