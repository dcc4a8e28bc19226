//! An organization's rules for plans: shown, put in place whole, removed. They are checked for their form; what they mean is found out where plans are judged.

use super::{ApiError, ApiState, Body, Caller, Params, Routes};
use crate::store::{Role, Rules};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::rules::Set;
use utoipa::{OpenApi, ToSchema};

#[derive(OpenApi)]
#[openapi(paths(show, put, remove))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("get", "/rules", show).add("put", "/rules", put).add("delete", "/rules", remove)
}

/// An organization's rules.
#[derive(Serialize, ToSchema)]
struct RulesView {
    /// The set: `rule`, `rego` and `data`, as docs/rules.md describes them.
    #[schema(value_type = Object)]
    rules: Value,
    changed_by: Option<String>,
    changed_at_ms: Option<i64>,
}

#[utoipa::path(get, path = "/api/v1/rules", tag = "rules", responses((status = 200, body = RulesView)))]
async fn show(State(state): State<ApiState>, caller: Caller, params: Params) -> Result<Json<RulesView>, ApiError> {
    params.finish()?;
    shown(&state, &caller).await
}

#[utoipa::path(put, path = "/api/v1/rules", tag = "rules", request_body = Object, responses((status = 200, body = RulesView)))]
async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    Body(set): Body<Value>,
) -> Result<Json<RulesView>, ApiError> {
    caller.require(Role::Owner)?;
    let json = set.to_string();
    let set =
        Set::parse(&json).map_err(|what| Code::InvalidArgument.on(format!("the rules cannot be used: {what}")))?;
    let json = Some(set.to_json()).filter(|_| !set.is_empty());
    state.store.set_rules(caller.org(), json.as_deref(), &caller.user().name).await?;
    tracing::info!(organization = caller.org(), user = caller.user().id, "the rules for plans were changed");
    shown(&state, &caller).await
}

#[utoipa::path(delete, path = "/api/v1/rules", tag = "rules", responses((status = 204)))]
async fn remove(State(state): State<ApiState>, caller: Caller) -> Result<StatusCode, ApiError> {
    caller.require(Role::Owner)?;
    state.store.set_rules(caller.org(), None, &caller.user().name).await?;
    tracing::info!(organization = caller.org(), user = caller.user().id, "the rules for plans were removed");
    Ok(StatusCode::NO_CONTENT)
}

async fn shown(state: &ApiState, caller: &Caller) -> Result<Json<RulesView>, ApiError> {
    let found = state.store.rules(caller.org()).await?;
    Ok(Json(match found {
        Some(found) => view(found)?,
        None => RulesView { rules: Value::Object(serde_json::Map::new()), changed_by: None, changed_at_ms: None },
    }))
}

fn view(found: Rules) -> Result<RulesView, Failure> {
    let rules =
        serde_json::from_str(&found.json).map_err(|_| Code::Internal.on("the rules in the database are no JSON"))?;
    Ok(RulesView { rules, changed_by: Some(found.changed_by), changed_at_ms: Some(found.changed_at_ms) })
}
