//! Types of Kubernetes: `RESOURCE.GROUP`, as rules of the policy name them.

use super::Type;

/// Those of [`TYPES`] that are in no namespace.
pub const CLUSTER_WIDE: &[&str] = &["nodes", "namespaces"];

const fn of(name: &'static str) -> Type {
    Type { name, service: "", operations: &[] }
}

/// Those that are listed where none is named: what people look for. No Secrets, and no ConfigMaps, which are not told by their names.
pub(super) const TYPES: &[Type] = &[
    of("nodes"),
    of("namespaces"),
    of("pods"),
    of("services"),
    of("persistentvolumeclaims"),
    of("deployments.apps"),
    of("statefulsets.apps"),
    of("daemonsets.apps"),
    of("jobs.batch"),
    of("cronjobs.batch"),
    of("ingresses.networking.k8s.io"),
];
