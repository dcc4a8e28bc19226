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

/// `aws whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsIdentity {
    /// The account's number.
    pub account: String,
    /// The caller's ARN.
    pub arn: String,
    /// The caller's unique id.
    pub user_id: String,
    /// The region that was asked: the connection's own where none is named. An earlier runner does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// `aws regions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsRegions {
    /// Regions that are enabled for the account.
    pub items: Vec<AwsRegion>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsRegion {
    /// Such as eu-central-1.
    pub name: String,
    /// Such as opt-in-not-required.
    pub opt_in_status: Option<String>,
}

/// `aws resources`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AwsResources {
    /// In the order of the service.
    pub items: Vec<AwsResource>,
    /// Whether there are more than the limit.
    pub truncated: bool,
}

/// A resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AwsResource {
    /// The Cloud Control type (AWS::S3::Bucket), or what the ARN says (s3).
    pub type_name: String,
    /// Cloud Control's primary identifier, or the ARN.
    pub identifier: String,
    /// The region.
    pub region: String,
    /// Its tags, where the service told them.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Its properties, where the service told them.
    #[serde(default)]
    pub properties: Option<serde_json::Value>,
}
