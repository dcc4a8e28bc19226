//! Records of operations, and the cancel of one.

use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use crate::store::{OperationRecord, Role};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared_proto::failure::Failure;
use utoipa::{OpenApi, ToSchema};

/// Records of one list where the caller names no limit.
const LIST_DEFAULT: u32 = 100;

#[derive(OpenApi)]
#[openapi(paths(list, show, cancel))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("get", "/operations", list).add("get", "/operations/{operation}", show).add(
        "post",
        "/operations/{operation}/cancel",
        cancel,
    )
}

/// One operation, as it is remembered.
#[derive(Serialize, ToSchema)]
struct OperationView {
    id: String,
    kind: String,
    /// The connection's name at that time.
    connection: String,
    /// The runner's name at that time.
    runner: String,
    /// The user's name at that time.
    user: String,
    started_at_ms: i64,
    ended_at_ms: Option<i64>,
    /// `ok` or a failure code; none while it runs.
    code: Option<String>,
    /// How the worker is isolated that has or had it: minimal, confined or namespaces; none where no worker had it.
    isolation_level: Option<String>,
}
/// A list of operations.
#[derive(Serialize, ToSchema)]
struct OperationList {
    items: Vec<OperationView>,
}

#[utoipa::path(get, path = "/api/v1/operations", tag = "operations", params(("limit" = Option<u32>, Query)),
    responses((status = 200, description = "Newest first", body = OperationList)))]
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<OperationList>, ApiError> {
    let limit = params.number("limit", 1..=super::LIST_MAX)?.unwrap_or(LIST_DEFAULT);
    params.finish()?;
    state.ledger.written().await;
    let items = state.store.operations(caller.org(), limit).await?.into_iter().map(OperationView::from).collect();
    Ok(Json(OperationList { items }))
}

#[utoipa::path(get, path = "/api/v1/operations/{operation}", tag = "operations",
    params(("operation" = String, Path, description = "Id")), responses((status = 200, body = OperationView)))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(id): Named<String>,
) -> Result<Json<OperationView>, ApiError> {
    Ok(Json(find(&state, &caller, &id).await?.into()))
}

#[utoipa::path(post, path = "/api/v1/operations/{operation}/cancel", tag = "operations",
    params(("operation" = String, Path, description = "Id")),
    responses((status = 200, description = "The operation; one that has ended stays as it was", body = OperationView)))]
async fn cancel(
    State(state): State<ApiState>,
    caller: Caller,
    Named(id): Named<String>,
) -> Result<Json<OperationView>, ApiError> {
    let operation = find(&state, &caller, &id).await?;
    if operation.user_id != caller.user().id {
        caller.require(Role::Owner)?;
    }
    state.ledger.cancel(caller.org(), &id).await;
    Ok(Json(find(&state, &caller, &id).await?.into()))
}

async fn find(state: &ApiState, caller: &Caller, id: &str) -> Result<OperationRecord, Failure> {
    state.ledger.written().await;
    state.store.operation(caller.org(), id).await
}

impl From<OperationRecord> for OperationView {
    fn from(o: OperationRecord) -> Self {
        Self {
            id: o.id,
            kind: o.kind,
            connection: o.connection_name,
            runner: o.runner_name,
            user: o.user_name,
            started_at_ms: o.started_at_ms,
            ended_at_ms: o.ended_at_ms,
            code: o.code,
            isolation_level: o.isolation_level,
        }
    }
}
