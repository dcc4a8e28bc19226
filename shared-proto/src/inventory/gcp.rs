//! Types of Google Cloud, as Cloud Asset Inventory names them, and what their names and those of projects and accounts are made of.
//!
//! The services are the first labels of their hosts, `SERVICE.googleapis.com`; the operations are what a rule of the policy writes after
//! them: `compute.instances.list`. Of an operation that goes by places (`instances.aggregatedList`) the one without them is named, as in IAM.

use super::{Call, Type};

/// Every service that lists or gets a resource.
pub const SERVICES: &[&str] = &[
    "cloudasset",
    "compute",
    "container",
    "sqladmin",
    "storage",
    "run",
    "cloudfunctions",
    "pubsub",
    "iam",
    "bigquery",
    "secretmanager",
    "artifactregistry",
    "dns",
    "redis",
    "spanner",
    "logging",
];
/// The longest name of a project, of an account or of a type, bytes.
const NAME_MAX: usize = 128;

const fn of(name: &'static str, service: &'static str, operations: &'static [&'static str]) -> Type {
    Type { name, service, operations }
}

/// Those that are listed where none is named.
pub(super) const TYPES: &[Type] = &[
    of("compute.googleapis.com/Instance", "compute", &["instances.list"]),
    of("compute.googleapis.com/Disk", "compute", &["disks.list"]),
    of("compute.googleapis.com/Network", "compute", &["networks.list"]),
    of("compute.googleapis.com/Subnetwork", "compute", &["subnetworks.list"]),
    of("compute.googleapis.com/Firewall", "compute", &["firewalls.list"]),
    of("compute.googleapis.com/Address", "compute", &["addresses.list"]),
    of("container.googleapis.com/Cluster", "container", &["clusters.list"]),
    of("sqladmin.googleapis.com/Instance", "sqladmin", &["instances.list"]),
    of("storage.googleapis.com/Bucket", "storage", &["buckets.list"]),
    of("run.googleapis.com/Service", "run", &["services.list"]),
    of("cloudfunctions.googleapis.com/Function", "cloudfunctions", &["functions.list"]),
    of("pubsub.googleapis.com/Topic", "pubsub", &["topics.list"]),
    of("pubsub.googleapis.com/Subscription", "pubsub", &["subscriptions.list"]),
    of("iam.googleapis.com/ServiceAccount", "iam", &["serviceAccounts.list"]),
    of("bigquery.googleapis.com/Dataset", "bigquery", &["datasets.list"]),
    of("secretmanager.googleapis.com/Secret", "secretmanager", &["secrets.list"]),
    of("artifactregistry.googleapis.com/Repository", "artifactregistry", &["repositories.list"]),
    of("dns.googleapis.com/ManagedZone", "dns", &["managedZones.list"]),
    of("redis.googleapis.com/Instance", "redis", &["instances.list"]),
    of("spanner.googleapis.com/Instance", "spanner", &["instances.list"]),
    of("logging.googleapis.com/LogSink", "logging", &["sinks.list"]),
];

/// All that is asked to get one resource: of a type of the table the service's own get; of another one Cloud Asset Inventory is searched,
/// and whose get that stands for cannot be told from the type's name.
pub fn get(type_name: &str) -> Vec<Call> {
    let call = |service: &str, operation: Option<String>| Call { service: service.to_owned(), operation };
    match super::find("gcp", type_name) {
        Some(known) => known
            .operations
            .iter()
            .map(|operation| call(known.service, Some(operation.replace(".list", ".get"))))
            .collect(),
        None => vec![call(service(type_name), None), search()],
    }
}

/// What is asked to search Cloud Asset Inventory, which knows resources of any type.
pub fn search() -> Call {
    Call { service: "cloudasset".to_owned(), operation: Some("assets.searchAllResources".to_owned()) }
}

/// The service that a type's name begins with.
pub(super) fn service(type_name: &str) -> &str {
    type_name.split(['.', '/']).next().unwrap_or_default()
}

/// Whether it can be the name of a type: `SERVICE.googleapis.com/Kind`. Cloud Asset Inventory takes patterns too, which would find types
/// that nobody asked the policy about.
pub fn is_type(text: &str) -> bool {
    let part =
        |p: &str, more: &[u8]| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    text.len() <= NAME_MAX
        && text.split_once(".googleapis.com/").is_some_and(|(service, kind)| part(service, b"-") && part(kind, b""))
}

/// Whether it can be a project's id or number; ids of old have a domain before them, `example.com:shop`.
/// <https://cloud.google.com/resource-manager/docs/creating-managing-projects>
pub fn is_project(text: &str) -> bool {
    let name = |p: &str, more: &[u8]| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        p.bytes().all(|b| inner(b) || more.contains(&b))
            && p.bytes().next().is_some_and(inner)
            && p.bytes().last().is_some_and(inner)
    };
    let (domain, id) = text.rsplit_once(':').map_or((None, text), |(domain, id)| (Some(domain), id));
    text.len() <= NAME_MAX && id.len() <= 30 && name(id, b"-") && domain.is_none_or(|d| name(d, b"-."))
}

/// Whether it can be a service account's address.
/// <https://cloud.google.com/iam/docs/service-account-types>
pub fn is_service_account(text: &str) -> bool {
    let plain = |p: &str, more: &[u8]| {
        !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b))
    };
    text.len() <= NAME_MAX
        && text.split_once('@').is_some_and(|(name, host)| {
            plain(name, b"-.") && plain(host, b"-.") && host.ends_with(".gserviceaccount.com")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_known_and_every_list_has_a_get() {
        for t in TYPES {
            assert!(SERVICES.contains(&t.service) && is_type(t.name), "{}", t.name);
            assert_eq!(service(t.name), t.service);
            let got = get(t.name);
            assert!(got.len() == 1 && got[0].operation.as_ref().is_some_and(|o| o.ends_with(".get")), "{got:?}");
        }
        assert!(SERVICES.contains(&search().service.as_str()));
        let other = get("dataflow.googleapis.com/Job");
        assert_eq!((other[0].service.as_str(), other[0].operation.as_deref()), ("dataflow", None));
        assert_eq!(other[1], search());
    }

    #[test]
    fn names() {
        for good in ["compute.googleapis.com/Instance", "vpc-access.googleapis.com/Connector2"] {
            assert!(is_type(good), "{good}");
        }
        for bad in [
            "",
            ".*",
            "compute.googleapis.com/.*",
            "compute.googleapis.com/Instance|.*",
            "c.mpute.googleapis.com/Instance",
            "compute.googleapis.com/",
            "k8s.io/Pod",
            "compute.googleapis.com/Inst/x",
        ] {
            assert!(!is_type(bad), "{bad}");
        }
        for good in ["shop-prod-1", "123456789012", "example.com:shop", &"p".repeat(30)] {
            assert!(is_project(good), "{good}");
        }
        for bad in ["", "-a", "a-", "Shop", "a/b", "a b", "a:b:", ":a", "a?b", "..", "a%2Fb", &"p".repeat(31)] {
            assert!(!is_project(bad), "{bad}");
        }
        for good in
            ["r@p.iam.gserviceaccount.com", "1-compute@developer.gserviceaccount.com", "p@appspot.gserviceaccount.com"]
        {
            assert!(is_service_account(good), "{good}");
        }
        for bad in [
            "",
            "r",
            "r@p",
            "@p.iam.gserviceaccount.com",
            "r/..@p.iam.gserviceaccount.com",
            "r@gserviceaccount.com.evil",
        ] {
            assert!(!is_service_account(bad), "{bad}");
        }
    }
}
