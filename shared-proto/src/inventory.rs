//! The types of resources that a runner lists, by provider, and what a provider calls the operations by which they are listed: the supervisor
//! decides on these, the worker does these, the command line offers these names.
//!
//! It must never leave out an operation that a worker does for a type: the runner's policy would not be asked about it.

mod aws;
mod azure;
pub mod gcp;
mod kubernetes;

pub use aws::{
    action as aws_action, actions as aws_actions, asked as aws_asked, is_global as aws_is_global,
    is_listed as aws_is_listed, services as aws_services,
};
pub use kubernetes::CLUSTER_WIDE;

use crate::failure::{Code, Failure};
use crate::v1::ListResources;
use crate::v1::operation_request::What;

/// The most types of one list.
pub const TYPES_MAX: usize = 64;
/// The most tags that are asked for at once: AWS takes no more.
pub const TAGS_MAX: usize = 50;
/// The longest text that is looked for, name of a type or of a place, and key or value of a tag, bytes.
pub const TEXT_MAX: usize = 256;
/// Where nobody says how many resources.
pub const LIMIT_DEFAULT: u32 = 1000;
/// However many resources are asked for.
pub const LIMIT_MAX: u32 = 10_000;

/// A type of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// As requests and answers name it: `AWS::EC2::Instance`, `compute.googleapis.com/Instance`, `Microsoft.Compute/virtualMachines`,
    /// `deployments.apps`.
    pub name: &'static str,
    /// The service that lists it, as a rule of the policy names it.
    pub service: &'static str,
    /// The operations of it that do so, as a rule names them; one of another service has that before it, as in `tag:GetResources`. Of
    /// Kubernetes: none, the verb is list.
    pub operations: &'static [&'static str],
}

/// What of a service is asked for a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// As a rule of the policy names it.
    pub service: String,
    /// As well; `None`: not known, which rules that name operations deny.
    pub operation: Option<String>,
}

/// The types that are listed where none is named; `tagged`: where tags are asked for.
pub fn all(provider: &str, tagged: bool) -> &'static [Type] {
    match provider {
        "aws" if tagged => aws::TAGGED,
        "aws" => aws::TYPES,
        "gcp" => gcp::TYPES,
        "azure" => azure::TYPES,
        "kubernetes" => kubernetes::TYPES,
        _ => &[],
    }
}

/// The type of that name, whatever the case, if it is one that is listed in a way of its own.
pub fn find(provider: &str, name: &str) -> Option<&'static Type> {
    let named = |t: &&Type| t.name.eq_ignore_ascii_case(name);
    all(provider, false).iter().find(named).or_else(|| all(provider, true).iter().find(named))
}

/// Of which provider a type is, by the form of its name.
pub fn provider_of(type_name: &str) -> &'static str {
    let lower = type_name.to_ascii_lowercase();
    if lower.contains("::") || lower == "tagged" {
        "aws"
    } else if lower.contains(".googleapis.com/") {
        "gcp"
    } else if lower.contains('/') {
        "azure"
    } else {
        "kubernetes"
    }
}

/// The resource and the API group (empty: the core one) of a type of a cluster, `pods` or `deployments.apps`: as a worker asks for it, and so as
/// rules decide it.
pub fn resource_and_group(type_name: &str) -> (&str, &str) {
    type_name.split_once('.').unwrap_or((type_name, ""))
}

/// Where a type of a cluster is listed, in a namespace or (empty) in all: as a worker asks for it, and so as rules decide it. `version`: of its
/// group.
pub fn list_target(type_name: &str, version: &str, namespace: &str) -> String {
    let (resource, group) = resource_and_group(type_name);
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/{version}") };
    if namespace.is_empty() {
        format!("{root}/{resource}")
    } else {
        format!("{root}/namespaces/{namespace}/{resource}")
    }
}

/// Whether every API server has the version `v1` of an API group (empty: the core one). Of another it is asked which it has.
pub fn is_of_v1(group: &str) -> bool {
    ["", "apps", "batch", "networking.k8s.io"].contains(&group)
}

/// All that is asked to list resources of a type; of clouds only.
pub fn calls(provider: &str, type_name: &str) -> Vec<Call> {
    if let Some(known) = find(provider, type_name) {
        let call = |operation: &&str| {
            let (service, operation) = operation.split_once(':').unwrap_or((known.service, operation));
            Call { service: service.to_owned(), operation: Some(operation.to_owned()) }
        };
        return known.operations.iter().map(call).collect();
    }
    let call = |service: &str, operation: Option<&str>| {
        vec![Call { service: service.to_owned(), operation: operation.map(str::to_owned) }]
    };
    match provider {
        // of any type, by Cloud Control
        "aws" => call("cloudformation", Some("ListResources")),
        // by Resource Graph: whoever may read a type is shown it
        "azure" => match type_name.split_once('/') {
            Some((service, kind)) => call(service, Some(&format!("{kind}/read"))),
            None => call(type_name, None),
        },
        // by Cloud Asset Inventory: whose listing it stands for cannot be told from the type's name
        "gcp" => call(gcp::service(type_name), None),
        _ => Vec::new(),
    }
}

/// The place that an operation names; empty: none, which is the connection's own.
pub fn place(what: &What) -> &str {
    match what {
        What::WhoAmI(r) => &r.place,
        What::ListPlaces(r) => &r.place,
        What::ListResources(r) => &r.place,
        What::GetResource(r) => &r.place,
        What::ListLogs(r) => &r.place,
        What::ReadLogs(r) => &r.place,
        What::ProbePermissions(r) => &r.place,
        _ => "",
    }
}

/// Whether a request keeps to the bounds, and has nothing in it that no name has.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub fn check(list: &ListResources) -> Result<(), Failure> {
    if list.types.len() > TYPES_MAX {
        return Err(Code::TooLarge.on(format!("at most {TYPES_MAX} types can be asked for at once")));
    }
    if list.tags.len() > TAGS_MAX {
        return Err(Code::TooLarge.on(format!("at most {TAGS_MAX} tags can be asked for")));
    }
    if list.limit > LIMIT_MAX {
        return Err(Code::TooLarge.on(format!("at most {LIMIT_MAX} resources can be asked for at once")));
    }
    let tags = list.tags.iter().flat_map(|(key, value)| [("a tag", key), ("a tag", value)]);
    let types = list.types.iter().map(|t| ("a type", t));
    for (what, text) in types.chain(tags).chain([("the place", &list.place), ("the text", &list.text)]) {
        if text.len() > TEXT_MAX || text.chars().any(char::is_control) {
            return Err(Code::InvalidArgument
                .on(format!("{what} is longer than {TEXT_MAX} bytes, or has a character in it that no name has")));
        }
    }
    if list.types.iter().any(String::is_empty) || list.tags.keys().any(String::is_empty) {
        return Err(Code::InvalidArgument.on("a type or the key of a tag is empty"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name_and_has_what_it_is_asked_by() {
        for provider in ["aws", "gcp", "azure", "kubernetes"] {
            assert!(all(provider, false).len() <= TYPES_MAX, "{provider}");
            for t in all(provider, false).iter().chain(all(provider, true)) {
                assert_eq!(find(provider, &t.name.to_ascii_uppercase()).map(|t| t.name), Some(t.name));
                assert_eq!(provider_of(t.name), provider, "{}", t.name);
                assert_eq!(calls(provider, t.name).len(), t.operations.len(), "{}", t.name);
                assert!(provider == "kubernetes" || !t.operations.is_empty(), "{}", t.name);
            }
        }
    }

    #[test]
    fn both_sides_of_what_may_be_asked_for() {
        let good = ListResources {
            types: vec!["a".repeat(TEXT_MAX); TYPES_MAX],
            tags: (0..TAGS_MAX).map(|n| (n.to_string(), String::new())).collect(),
            limit: LIMIT_MAX,
            ..Default::default()
        };
        assert!(check(&good).is_ok());
        let wrong = |change: &dyn Fn(&mut ListResources)| {
            let mut list = good.clone();
            change(&mut list);
            check(&list).expect_err("refused").code
        };
        assert_eq!(wrong(&|l| l.types.push("a".into())), Code::TooLarge);
        assert_eq!(wrong(&|l| drop(l.tags.insert("x".into(), String::new()))), Code::TooLarge);
        assert_eq!(wrong(&|l| l.limit += 1), Code::TooLarge);
        assert_eq!(wrong(&|l| l.types[0].push('a')), Code::InvalidArgument);
        assert_eq!(wrong(&|l| l.types[0].clear()), Code::InvalidArgument);
        assert_eq!(wrong(&|l| l.text = "a\nb".into()), Code::InvalidArgument);
        assert_eq!(wrong(&|l| l.place = "a".repeat(TEXT_MAX + 1)), Code::InvalidArgument);
    }

    #[test]
    fn a_type_that_is_in_no_table_is_asked_for_in_the_providers_general_way() {
        let call = |service: &str, operation: Option<&str>| {
            vec![Call { service: service.into(), operation: operation.map(str::to_owned) }]
        };
        assert_eq!(calls("aws", "AWS::Glue::Job"), call("cloudformation", Some("ListResources")));
        assert_eq!(calls("azure", "Microsoft.Maps/accounts"), call("Microsoft.Maps", Some("accounts/read")));
        assert_eq!(calls("gcp", "dataflow.googleapis.com/Job"), call("dataflow", None));
        assert!(calls("kubernetes", "pods").is_empty());
    }
}
