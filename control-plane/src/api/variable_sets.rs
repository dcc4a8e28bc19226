//! Sets of variables that several stacks share: listed, shown, put in place whole, removed. What is sealed is of one stack, and in none.

use super::source::Variables;
use super::values::{Reference, Values};
use super::{ApiError, ApiState, Body, Caller, Named, Params, Routes, checked};
use crate::store::VariableSet;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use std::collections::BTreeMap;
use utoipa::{OpenApi, ToSchema};

#[derive(OpenApi)]
#[openapi(paths(list, show, put, remove))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("get", "/variable-sets", list)
        .add("get", "/variable-sets/{set}", show)
        .add("put", "/variable-sets/{set}", put)
        .add("delete", "/variable-sets/{set}", remove)
}

/// What is in a set, as a user says it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetBody {
    /// Values by name, as of a stack.
    #[serde(default)]
    variables: Variables,
    /// References by name, as of a stack.
    #[serde(default)]
    secrets: BTreeMap<String, Reference>,
}
/// A set of variables.
#[derive(Serialize, ToSchema)]
struct SetView {
    name: String,
    variables: Variables,
    secrets: BTreeMap<String, Reference>,
    changed_by: String,
    changed_at_ms: i64,
}
/// A list of sets.
#[derive(Serialize, ToSchema)]
struct SetList {
    items: Vec<SetView>,
}

#[utoipa::path(get, path = "/api/v1/variable-sets", tag = "variables", responses((status = 200, body = SetList)))]
async fn list(State(state): State<ApiState>, caller: Caller, params: Params) -> Result<Json<SetList>, ApiError> {
    params.finish()?;
    let sets = state.store.variable_sets(caller.org()).await?;
    Ok(Json(SetList { items: sets.into_iter().map(view).collect::<Result<_, _>>()? }))
}

#[utoipa::path(get, path = "/api/v1/variable-sets/{set}", tag = "variables", params(("set" = String, Path)),
    responses((status = 200, body = SetView)))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(set): Named<String>,
) -> Result<Json<SetView>, ApiError> {
    Ok(Json(view(state.store.variable_set(caller.org(), &set).await?)?))
}

#[utoipa::path(put, path = "/api/v1/variable-sets/{set}", tag = "variables", request_body = SetBody,
    params(("set" = String, Path)), responses((status = 200, body = SetView)))]
async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    Named(set): Named<String>,
    Body(body): Body<SetBody>,
) -> Result<Json<SetView>, ApiError> {
    let name = checked::name("name", &set)?;
    let values = Values { variables: body.variables, secrets: body.secrets, ..Values::default() }.checked()?;
    let json = |e: serde_json::Error| Code::Internal.on(format!("writing a set of variables down: {e}"));
    let set = VariableSet {
        name,
        variables: serde_json::to_string(&values.variables).map_err(json)?,
        secrets: serde_json::to_string(&values.secrets).map_err(json)?,
        changed_by: caller.user().name.clone(),
        changed_at_ms: 0,
    };
    state.store.set_variable_set(caller.org(), &set).await?;
    Ok(Json(view(state.store.variable_set(caller.org(), &set.name).await?)?))
}

#[utoipa::path(delete, path = "/api/v1/variable-sets/{set}", tag = "variables", params(("set" = String, Path)),
    responses((status = 204)))]
async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Named(set): Named<String>,
) -> Result<StatusCode, ApiError> {
    state.store.remove_variable_set(caller.org(), &set).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is in a set, for a job.
///
/// # Errors
/// `internal`: it does not read back.
pub(super) fn values(set: &VariableSet) -> Result<Values, Failure> {
    Ok(Values {
        variables: read_back(&set.variables, &set.name)?,
        secrets: read_back(&set.secrets, &set.name)?,
        ..Values::default()
    })
}

fn view(set: VariableSet) -> Result<SetView, Failure> {
    let Values { variables, secrets, .. } = values(&set)?;
    let VariableSet { name, changed_by, changed_at_ms, .. } = set;
    Ok(SetView { name, variables, secrets, changed_by, changed_at_ms })
}

fn read_back<T: serde::de::DeserializeOwned>(text: &str, set: &str) -> Result<T, Failure> {
    serde_json::from_str(text)
        .map_err(|e| Code::Internal.on(format!("the set of variables {set} in the database does not read back: {e}")))
}
