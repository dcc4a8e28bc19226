//! Kubernetes operations that give one document: namespaces, pods, one pod in detail.

use super::checked::{k8s_label, k8s_name, selector};
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use crate::store::Provider;
use axum::extract::State;
use axum::response::Response;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{K8sDescribePod, K8sListNamespaces, K8sListPods};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(paths(namespaces, pods, describe))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("get", "/connections/{connection}/k8s/namespaces", namespaces)
        .add("get", "/connections/{connection}/k8s/pods", pods)
        .add("get", "/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}", describe)
}

/// In a path, the namespace that the connection itself names, else `default`. No namespace is called so.
const OWN_NAMESPACE: &str = "-";

/// What the path of a pod names.
#[derive(Debug, serde::Deserialize)]
pub(super) struct PodPath {
    pub(super) connection: String,
    namespace: String,
    pod: String,
}

// === impl PodPath ===

impl PodPath {
    /// Namespace and pod, in form. An empty namespace is the connection's own, which a path calls `-`.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(super) fn checked(self) -> Result<(String, String), Failure> {
        let namespace = match self.namespace.as_str() {
            OWN_NAMESPACE => String::new(),
            _ => k8s_label("namespace", self.namespace)?,
        };
        Ok((namespace, k8s_name("pod", self.pod)?))
    }
}

/// A request to a Kubernetes connection.
pub(super) fn wanted(connection: String, runner: Option<String>, what: What, unary: bool) -> Wanted {
    Wanted { connection, runner, provider: Some(Provider::Kubernetes), what, unary }
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/k8s/namespaces", tag = "kubernetes",
    params(("connection" = String, Path, description = "Id or name"), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "`{items:[namespace]}`", body = Object)))]
async fn namespaces(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let runner = params.text("runner")?;
    params.finish()?;
    let what = What::K8sListNamespaces(K8sListNamespaces {});
    Running::start(&state, &caller, wanted(connection, runner, what, true)).await?.document(&state.documents).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/k8s/pods", tag = "kubernetes",
    params(("connection" = String, Path, description = "Id or name"), ("runner" = Option<String>, Query),
        ("namespace" = Option<String>, Query, description = "The connection's own default where absent"),
        ("all_namespaces" = Option<bool>, Query), ("labels" = Option<String>, Query, description = "Label selector"),
        ("fields" = Option<String>, Query, description = "Field selector")),
    responses((status = 200, description = "`{items:[pod]}`", body = Object)))]
async fn pods(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let runner = params.text("runner")?;
    let namespace = params.text("namespace")?.map(|n| k8s_label("namespace", n)).transpose()?;
    let all_namespaces = params.flag("all_namespaces")?;
    let labels = params.text("labels")?.map(|s| selector("labels", s)).transpose()?;
    let fields = params.text("fields")?.map(|s| selector("fields", s)).transpose()?;
    params.finish()?;
    if all_namespaces && namespace.is_some() {
        return Err(Code::InvalidArgument.on("namespace and all_namespaces exclude each other").into());
    }
    let what = What::K8sListPods(K8sListPods {
        namespace: namespace.unwrap_or_default(),
        all_namespaces,
        label_selector: labels.unwrap_or_default(),
        field_selector: fields.unwrap_or_default(),
    });
    Running::start(&state, &caller, wanted(connection, runner, what, true)).await?.document(&state.documents).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}", tag = "kubernetes",
    params(("connection" = String, Path, description = "Id or name"), ("namespace" = String, Path, description = "`-`: the connection's own"), ("pod" = String, Path),
        ("runner" = Option<String>, Query)),
    responses((status = 200, description = "The pod's summary, object and events", body = Object)))]
async fn describe(
    State(state): State<ApiState>,
    caller: Caller,
    Named(path): Named<PodPath>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let runner = params.text("runner")?;
    params.finish()?;
    let connection = path.connection.clone();
    let (namespace, pod) = path.checked()?;
    let what = What::K8sDescribePod(K8sDescribePod { namespace, pod });
    Running::start(&state, &caller, wanted(connection, runner, what, true)).await?.document(&state.documents).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_in_the_namespace_that_is_named_or_in_the_connections_own() {
        let path = |namespace: &str| {
            PodPath { connection: "c".into(), namespace: namespace.into(), pod: "p".into() }.checked()
        };
        assert_eq!(path("shop"), Ok(("shop".to_owned(), "p".to_owned())));
        assert_eq!(path("-"), Ok((String::new(), "p".to_owned())));
        for bad in ["", "--", "-a", "A"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
