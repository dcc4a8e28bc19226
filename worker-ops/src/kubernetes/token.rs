//! A bound token of a service account, from the API server itself (TokenRequest): what workers get where the connection's entry names one.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use shared_proto::failure::Code;
use shared_proto::v1::{BoundToken, KubernetesTarget};

use super::connect::{Cluster, segment};
use crate::fault::Fault;
use crate::net::Dialer;

/// The token and when it ends, Unix milliseconds. Asked for with the target's own credentials.
pub(crate) async fn bound(
    wanted: BoundToken,
    target: KubernetesTarget,
    dialer: &Dialer,
) -> Result<(String, i64), Fault> {
    let namespace = segment("namespace", &wanted.namespace)?;
    let account = segment("service account", &wanted.service_account)?;
    let mut cluster = Cluster::new(target, None, dialer)?;
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: wanted.audiences,
            expiration_seconds: Some(wanted.duration_seconds.into()),
            bound_object_ref: None,
        },
        ..Default::default()
    };
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer: TokenRequest = cluster.post(&path, &request).await.map_err(|mut fault| {
        let of = format!("a token of the service account {}/{}", wanted.namespace, wanted.service_account);
        fault.failure.message = format!("{of}: {}", fault.failure.message);
        match fault.code() {
            Code::TargetForbidden => fault.next(
                "Allow the connection's own identity to create serviceaccounts/token of that account, or take service_account out of the entry.",
            ),
            _ => fault,
        }
    })?;
    let status = answer.status.filter(|s| !s.token.is_empty()).ok_or_else(|| {
        Fault::new(
            Code::TargetFailed,
            format!("{}: the answer to a TokenRequest has no token", cluster.endpoint().shown()),
        )
    })?;
    Ok((status.token, status.expiration_timestamp.0.as_millisecond()))
}
