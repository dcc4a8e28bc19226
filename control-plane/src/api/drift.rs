//! Drift: which stacks somebody else has changed, since when, and what of them, as the last look at each found it.

use super::jobs::StackName;
use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use crate::store::Drift;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use utoipa::{OpenApi, ToSchema};

#[derive(OpenApi)]
#[openapi(paths(list, show))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("get", "/drift", list).add("get", "/stacks/{stack}/drift", show)
}

/// What the last look at a stack found.
#[derive(Serialize, ToSchema)]
struct DriftView {
    stack: StackName,
    /// Since when there is some; none: there is none.
    since_ms: Option<i64>,
    /// In how many resources, where there is some and that is known.
    resources: Option<i64>,
    checked_at_ms: i64,
    /// The job that looked.
    checked_by: String,
    /// The job whose plan has it.
    found_by: Option<String>,
}
/// A list of stacks that somebody has looked at.
#[derive(Serialize, ToSchema)]
struct DriftList {
    items: Vec<DriftView>,
}
/// One stack's drift, with what it is.
#[derive(Serialize, ToSchema)]
struct DriftDetail {
    #[serde(flatten)]
    view: DriftView,
    /// As `drift` of a plan as a document; none where there is none, or the plan has none of that form. No sensitive value is in it.
    #[schema(value_type = Vec<Object>)]
    drift: Value,
    /// How many resources more there are.
    left_out: u64,
}

#[utoipa::path(get, path = "/api/v1/drift", tag = "drift", params(("limit" = Option<u32>, Query)),
    responses((status = 200, body = DriftList, description = "Those with drift first, the oldest of it first")))]
async fn list(State(state): State<ApiState>, caller: Caller, mut params: Params) -> Result<Json<DriftList>, ApiError> {
    let limit = params.limit()?;
    params.finish()?;
    let items = state.store.drifts(caller.org(), limit).await?;
    Ok(Json(DriftList { items: items.into_iter().map(view).collect() }))
}

#[utoipa::path(get, path = "/api/v1/stacks/{stack}/drift", tag = "drift",
    params(("stack" = String, Path, description = "Id or name")),
    responses((status = 200, body = DriftDetail, description = "`not_found` where nobody has looked at the stack")))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(stack): Named<String>,
) -> Result<Json<DriftDetail>, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    let found = state.store.drift(caller.org(), &stack.id).await?.ok_or_else(|| {
        Code::NotFound
            .on(format!("nobody has looked for drift of stack {}", stack.name))
            .next(format!("Look: `runnerctl drift check {}`, or set a schedule.", stack.name))
    })?;
    let mut detail = DriftDetail { drift: Value::Array(Vec::new()), left_out: 0, view: view(found) };
    if let Some(job) = &detail.view.found_by
        && let Some(mut document) = document(&state, &caller, job).await?
    {
        detail.drift = document["drift"].take();
        detail.left_out = document["left_out"]["drift"].as_u64().unwrap_or(0);
    }
    Ok(Json(detail))
}

/// The plan of a job as a document, where it has one.
async fn document(state: &ApiState, caller: &Caller, job: &str) -> Result<Option<Value>, Failure> {
    match state.store.plan_document(caller.org(), job).await {
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        Err(failure) if failure.code == Code::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn view(drift: Drift) -> DriftView {
    DriftView {
        stack: StackName { id: drift.stack, name: drift.stack_name },
        since_ms: drift.since_ms,
        resources: drift.resources,
        checked_at_ms: drift.checked_at_ms,
        checked_by: drift.checked_by,
        found_by: drift.found_by,
    }
}
