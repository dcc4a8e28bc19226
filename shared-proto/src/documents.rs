//! The documents that unary operations give: JSON, made by a worker, passed through by supervisor and control plane, read by
//! the command line. Fields are only ever added; a reader ignores what it does not know.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who the connection's credentials are at the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// kubernetes or aws.
    pub provider: String,
    /// The user, account or role, as the target says it.
    pub identity: String,
    /// The target's own version, where it has one.
    pub version: Option<String>,
    /// What was tried, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// What was tried on the way to a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// credentials: they were found; role: it was assumed; endpoint: it was reached; identity: the target said who it is.
    pub name: String,
    /// Whether it went well.
    pub ok: bool,
    /// On what: a source, a role, a host. Never a secret.
    pub detail: String,
    /// What can be done where it did not go well; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next_step: String,
}

/// What a connection's credentials may do of all that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionReport {
    /// What it is for: browse or logs.
    pub purpose: String,
    /// One for each permission.
    pub items: Vec<Permission>,
    /// The least that the provider has to allow for that purpose.
    pub least_policy: LeastPolicy,
}

/// A permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// As the provider calls it: an action of IAM, a verb and a resource.
    pub action: String,
    /// yes, no or unknown.
    pub allowed: String,
    /// How that was found out, or why it was not.
    pub how: String,
}

/// A policy in the provider's own language.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeastPolicy {
    /// iam_policy or kubernetes_rbac.
    pub format: String,
    /// JSON or YAML, ready to be used.
    pub text: String,
}

/// `k8s namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceList {
    /// In the order of the API server.
    pub items: Vec<Namespace>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Active or Terminating.
    pub phase: String,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `k8s pods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodList {
    /// In the order of the API server.
    pub items: Vec<Pod>,
}

/// A pod, with what `kubectl get pods -o wide` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
    /// As kubectl computes it: Running, Completed, CrashLoopBackOff, Init:0/1, Terminating …
    pub status: String,
    /// Containers that are ready.
    pub ready: u32,
    /// Containers altogether.
    pub containers: u32,
    /// The containers' names, init containers last.
    pub container_names: Vec<String>,
    /// Restarts of all containers.
    pub restarts: u32,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
    /// The pod's address.
    pub ip: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `k8s describe`: the pod as the API server has it, and its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodDescription {
    /// The summary, as in a list.
    pub summary: Pod,
    /// The whole object, without managedFields.
    pub object: serde_json::Value,
    /// Oldest first.
    pub events: Vec<KubernetesEvent>,
}

/// An event of a Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesEvent {
    /// Normal or Warning.
    pub kind: String,
    /// Such as FailedScheduling.
    pub reason: String,
    /// In words.
    pub message: String,
    /// Who reported it.
    pub source: String,
    /// How often.
    pub count: u32,
    /// RFC 3339, the latest.
    pub last_seen: Option<String>,
}

/// Who a connection's credentials are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// aws, gcp, azure or kubernetes.
    pub provider: String,
    /// The caller: an ARN, an account's address, a user.
    pub principal: String,
    /// The caller's unique id, where it has one beside.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// AWS' account, Azure's tenant; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// The place that was asked: the connection's own where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// Where resources can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// In the order of the provider.
    pub items: Vec<Place>,
}

/// A region, a project, a subscription or a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As requests name it: eu-central-1, a project's or a subscription's id.
    pub name: String,
    /// region, project, subscription or namespace.
    pub kind: String,
    /// What people call it, where that is something else.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The provider's own word, such as opt-in-not-required, ACTIVE or Enabled.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
}

/// Resources of one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// In the order of the provider.
    pub items: Vec<Resource>,
    /// What could not be listed, and why; what could be is there.
    #[serde(default)]
    pub failures: Vec<ResourceFailure>,
    /// Whether there are more than the limit.
    pub truncated: bool,
}

/// A resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// As `inventory` writes it.
    pub type_name: String,
    /// By which the provider knows it: an ARN, a full resource name, a resource id, namespace/name.
    pub id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Region, zone, location or namespace; empty: it is in none.
    #[serde(default)]
    pub location: String,
    /// The provider's own word, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Tags or labels, where the provider told them.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Its page in the provider's console.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub link: String,
    /// What `GetResource` wants for it, where that is not the id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identifier: String,
    /// Its properties, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<serde_json::Value>,
}

/// What of a list there is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceFailure {
    /// The type, or empty: all of them.
    #[serde(default)]
    pub type_name: String,
    /// A failure code.
    pub code: String,
    /// What failed, on what.
    pub message: String,
    /// What can be done; may be empty.
    #[serde(default)]
    pub next_step: String,
}

/// Where log lines are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSources {
    /// In the order of the provider.
    pub items: Vec<LogSource>,
    /// Whether there are more than the limit.
    pub truncated: bool,
}

/// A log group, a stream of one, a log, a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSource {
    /// As requests name it.
    pub name: String,
    /// group, stream, log, workspace or table.
    pub kind: String,
    /// RFC 3339: of the newest line, where the provider says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<String>,
    /// What is stored, bytes, where the provider says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How long it is kept, days, where the provider says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

/// A line of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339 with milliseconds at least.
    pub time: String,
    /// The stream, resource or table that it is of; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Such as ERROR; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// Its text; where the provider has no text, one line of JSON.
    pub message: String,
}
