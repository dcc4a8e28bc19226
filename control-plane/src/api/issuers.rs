//! The issuing CAs of an organization: shown, and rotated with overlap.

use super::account::governed;
use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use crate::store::IssuerShown;
use axum::Json;
use axum::extract::State;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::CertificateFacts;
use utoipa::{OpenApi, ToSchema};

#[derive(OpenApi)]
#[openapi(paths(list, rotate))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("get", "/organizations/{organization}/ca", list).add(
        "post",
        "/organizations/{organization}/ca/rotate",
        rotate,
    )
}

/// An issuing CA.
#[derive(Serialize, ToSchema)]
struct IssuerView {
    serial: String,
    /// Its certificate, PEM.
    certificate: String,
    created_at_ms: i64,
    not_after_ms: i64,
    /// When another one took its place; what it issued is good to its end all the same.
    retired_at_ms: Option<i64>,
}
/// The issuing CAs of an organization, the one that issues first.
#[derive(Serialize, ToSchema)]
struct IssuerList {
    items: Vec<IssuerView>,
}

#[utoipa::path(get, path = "/api/v1/organizations/{organization}/ca", tag = "account",
    params(("organization" = String, Path, description = "Id or name")), responses((status = 200, body = IssuerList)))]
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Named(organization): Named<String>,
    params: Params,
) -> Result<Json<IssuerList>, ApiError> {
    let organization = governed(&state, &caller, &organization).await?;
    params.finish()?;
    shown(&state, &organization.id).await
}

#[utoipa::path(post, path = "/api/v1/organizations/{organization}/ca/rotate", tag = "account",
    params(("organization" = String, Path, description = "Id or name")), responses((status = 200, body = IssuerList)))]
async fn rotate(
    State(state): State<ApiState>,
    caller: Caller,
    Named(organization): Named<String>,
) -> Result<Json<IssuerList>, ApiError> {
    let organization = governed(&state, &caller, &organization).await?;
    let issuer = state.authority.make_issuer(&organization.id).map_err(Failure::from)?;
    state.store.rotate_issuer(&organization.id, &issuer).await?;
    tracing::info!(
        organization = organization.id,
        serial = issuer.serial,
        user = caller.user().id,
        "another issuing CA issues from now on"
    );
    shown(&state, &organization.id).await
}

async fn shown(state: &ApiState, organization: &str) -> Result<Json<IssuerList>, ApiError> {
    let items = state.store.issuers(organization).await?.into_iter().map(view).collect::<Result<_, Failure>>()?;
    Ok(Json(IssuerList { items }))
}

fn view(issuer: IssuerShown) -> Result<IssuerView, Failure> {
    let damaged = || Code::Internal.on(format!("issuing CA {} in the database is no certificate", issuer.serial));
    let der = CertificateDer::from_pem_slice(issuer.certificate.as_bytes()).map_err(|_| damaged())?;
    let facts = CertificateFacts::read(&der).map_err(|_| damaged())?;
    Ok(IssuerView {
        not_after_ms: facts.not_after.saturating_mul(1000),
        serial: issuer.serial,
        certificate: issuer.certificate,
        created_at_ms: issuer.created_at_ms,
        retired_at_ms: issuer.retired_at_ms,
    })
}
