//! What the connection's credentials may do of all that it is for: the API server is asked about each, which changes nothing and which every user
//! may do, <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access>.

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use shared_proto::documents::{LeastPolicy, Permission, PermissionReport};
use shared_proto::failure::Code;
use shared_proto::inventory;
use shared_proto::v1::{Outcome, ProbePermissions};
use std::collections::{BTreeMap, BTreeSet};

use super::connect::Cluster;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::socket::Output;

/// What is asked for beside the lists of types: to look at a pod and its events, and to read its logs.
const BROWSE: [(&str, &str); 2] = [("get", "pods"), ("list", "events")];
const LOGS: [(&str, &str); 4] = [("list", "namespaces"), ("list", "pods"), ("get", "pods"), ("get", "pods/log")];
/// The version, which is no resource.
const VERSION: &str = "/version";

/// What the connection's own credentials need where requests are made as whoever asks, which everything else is then the role of.
const IMPERSONATION: &str = "---
# for the connection's own credentials, which act as whoever asks; the role above is for those people
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: runner-impersonate
rules:
- apiGroups: [\"\"]
  resources: [\"users\", \"groups\"]
  verbs: [\"impersonate\"]
";

/// Finds out: in one namespace where one is named, else in all of them.
pub(crate) async fn probe(
    cluster: &mut Cluster,
    asked: &ProbePermissions,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let mut items = Vec::new();
    for (verb, resource) in needed(&asked.purpose) {
        let (name, group) = inventory::resource_and_group(resource);
        let (name, subresource) = name.split_once('/').map_or((name, None), |(name, sub)| (name, Some(sub)));
        let in_namespace = !inventory::CLUSTER_WIDE.contains(&resource) && !asked.place.is_empty();
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(name.to_owned()),
            subresource: subresource.map(str::to_owned),
            namespace: in_namespace.then(|| asked.place.clone()),
            ..Default::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        items.push(review(cluster, format!("{verb} {resource}"), spec).await?);
    }
    let attributes = NonResourceAttributes { path: Some(VERSION.to_owned()), verb: Some("get".to_owned()) };
    let spec = SelfSubjectAccessReviewSpec { non_resource_attributes: Some(attributes), ..Default::default() };
    items.push(review(cluster, format!("get {VERSION}"), spec).await?);
    let impersonates = if cluster.impersonates() { IMPERSONATION } else { "" };
    let text = least_role(&asked.purpose) + impersonates;
    let least_policy = LeastPolicy { format: "kubernetes_rbac".to_owned(), text };
    let report = PermissionReport { purpose: asked.purpose.clone(), items, least_policy };
    Document::whole(output, &report).await?;
    Ok(done())
}

async fn review(cluster: &mut Cluster, action: String, spec: SelfSubjectAccessReviewSpec) -> Result<Permission, Fault> {
    let ask = SelfSubjectAccessReview { spec, ..Default::default() };
    let answer: Result<SelfSubjectAccessReview, Fault> =
        cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &ask).await;
    let (allowed, how) = match answer.map(|review| review.status.unwrap_or_default()) {
        Ok(status) if status.allowed => ("yes", "the API server's review".to_owned()),
        Ok(status) => match status.evaluation_error.filter(|error| !error.is_empty()) {
            Some(error) => ("unknown", crate::fault::words(&error)),
            None => ("no", "the API server's review".to_owned()),
        },
        Err(fault) if matches!(fault.code(), Code::TargetForbidden | Code::TargetNotFound) => {
            ("unknown", fault.failure.message)
        }
        Err(fault) => return Err(fault),
    };
    Ok(Permission { action, allowed: allowed.to_owned(), how })
}

/// Verbs and resources, each once.
fn needed(purpose: &str) -> BTreeSet<(&'static str, &'static str)> {
    match purpose {
        "logs" => LOGS.into_iter().collect(),
        _ => inventory::all("kubernetes", false).iter().map(|t| ("list", t.name)).chain(BROWSE).collect(),
    }
}

/// The least role for a purpose, ready for `kubectl apply`.
fn least_role(purpose: &str) -> String {
    // by group and verbs, so that what goes together stands together
    let mut verbs: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (verb, resource) in needed(purpose) {
        let (name, group) = inventory::resource_and_group(resource);
        verbs.entry((group, name)).or_default().insert(verb);
    }
    let mut rules: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((group, name), verbs) in verbs {
        rules.entry((group, verbs.into_iter().collect())).or_default().push(name);
    }
    let list = |words: &[&str]| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: runner-{purpose}\nrules:\n"
    );
    for ((group, verbs), resources) in rules {
        text.push_str(&format!(
            "- apiGroups: [{group:?}]\n  resources: [{}]\n  verbs: [{}]\n",
            list(&resources),
            list(&verbs)
        ));
    }
    text.push_str(&format!("- nonResourceURLs: [{VERSION:?}]\n  verbs: [\"get\"]\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_role() {
        assert_eq!(
            least_role("logs"),
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: runner-logs\nrules:\n\
             - apiGroups: [\"\"]\n  resources: [\"pods/log\"]\n  verbs: [\"get\"]\n\
             - apiGroups: [\"\"]\n  resources: [\"pods\"]\n  verbs: [\"get\", \"list\"]\n\
             - apiGroups: [\"\"]\n  resources: [\"namespaces\"]\n  verbs: [\"list\"]\n\
             - nonResourceURLs: [\"/version\"]\n  verbs: [\"get\"]\n"
        );
        let browse = least_role("browse");
        assert!(browse.contains("\"deployments\"") && !browse.contains("secrets") && !browse.contains('*'), "{browse}");
    }
}
