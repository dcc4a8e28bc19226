//! What a cluster's user may do, asked of a real API server; and that the least role that is told is enough, and no more than is needed.

use anyhow::{Context as _, Result, ensure};
use runner_tests::{Component, Suite};
use serde_json::{Value, json};
use shared_proto::documents::PermissionReport;
use shared_proto::v1::ProbePermissions;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;

use crate::harness::operation;
use crate::kubernetes::{admin, kubernetes, the_cluster};

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite.needs(&[Component::Cluster]).test("the_least_role_of_a_cluster_is_enough", least_role).needs(&[])
}

async fn least_role() -> Result<()> {
    let cluster = the_cluster().await?;
    for purpose in ["browse", "logs"] {
        let probe = || What::ProbePermissions(ProbePermissions { purpose: purpose.into(), ..Default::default() });
        let all: PermissionReport = operation(probe(), admin(cluster)).await?.document()?;
        ensure!(all.items.iter().all(|item| item.allowed == "yes"), "{all:?}");
        ensure!(all.least_policy.format == "kubernetes_rbac" && all.purpose == purpose, "{all:?}");

        let account = format!("least-{purpose}");
        cluster.service_account("default", &account).await?;
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        let ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let made = cluster.create(&path, &ask).await?;
        let token = made["status"]["token"].as_str().context("a token")?.to_owned();
        let target = || Target::Kubernetes(kubernetes(cluster, &token));
        let before: PermissionReport = operation(probe(), target()).await?.document()?;
        // everybody may see the version
        let may: Vec<_> = before.items.iter().filter(|item| item.allowed != "no").map(|i| i.action.as_str()).collect();
        ensure!(may == ["get /version"], "{before:?}");

        let role: Value = serde_saphyr::from_str(&all.least_policy.text)?;
        cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": account}],
        });
        cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await?;
        // the authorizer sees a new binding when its watch has told it
        let mut refused = Vec::new();
        for _ in 0..100 {
            let after: PermissionReport = operation(probe(), target()).await?.document()?;
            refused = after.items.into_iter().filter(|item| item.allowed != "yes").collect();
            if refused.is_empty() {
                break;
            }
        }
        ensure!(refused.is_empty(), "{refused:?}");
    }
    Ok(())
}
