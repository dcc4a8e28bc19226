//! Records of operations, and the cancel of one.

use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use crate::store::{OperationRecord, Role};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared_proto::failure::Failure;
use shared_proto::now_ms;
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
    /// The runner's own name for the connection, by which its audit log has it; none in what an earlier version wrote down.
    entry: Option<String>,
    /// The runner's name at that time.
    runner: String,
    /// The runner's id.
    runner_id: String,
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
    /// When this was answered: what was asked of runners up to then is there, as far as it is kept.
    at_ms: i64,
}

#[utoipa::path(get, path = "/api/v1/operations", tag = "operations", params(
    ("limit" = Option<u32>, Query), ("runner" = Option<String>, Query, description = "Of this runner only, by id or name"),
    ("before" = Option<String>, Query, description = "Older ones than this operation, by id")),
    responses((status = 200, description = "Newest first", body = OperationList)))]
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<OperationList>, ApiError> {
    let limit = params.number("limit", 1..=super::LIST_MAX)?.unwrap_or(LIST_DEFAULT);
    let (runner, before) = (params.text("runner")?, params.text("before")?);
    params.finish()?;
    let runner = match runner {
        Some(runner) => Some(state.store.runner(caller.org(), &runner).await?.id),
        None => None,
    };
    let at_ms = now_ms();
    state.ledger.written().await;
    let found = state.store.operations(caller.org(), runner.as_deref(), before.as_deref(), limit).await?;
    let items = found.into_iter().map(OperationView::from).collect();
    Ok(Json(OperationList { items, at_ms }))
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
            entry: o.entry,
            runner: o.runner_name,
            runner_id: o.runner,
            user: o.user_name,
            started_at_ms: o.started_at_ms,
            ended_at_ms: o.ended_at_ms,
            code: o.code,
            isolation_level: o.isolation_level,
        }
    }
}
