//! Connections: named targets, and the test of one.

use super::checked;
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Body, Caller, Named, Params, Routes};
use crate::store::{Connection, Provider, Role, new_id};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use shared_proto::v1::ConnectionTest;
use shared_proto::v1::operation_request::What;
use std::collections::HashMap;
use utoipa::{OpenApi, ToSchema};

/// Connections of one organization.
const CONNECTIONS_MAX: usize = 1000;

#[derive(OpenApi)]
#[openapi(paths(create, list, show, remove, test))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("post", "/connections", create)
        .add("get", "/connections", list)
        .add("get", "/connections/{connection}", show)
        .add("delete", "/connections/{connection}", remove)
        .add("post", "/connections/{connection}/test", test)
}

/// A connection to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewConnection {
    /// Like a DNS label, at most 63 characters.
    name: String,
    provider: Provider,
    /// The runner that reaches it, by id or name; the organization's default where absent.
    runner: Option<String>,
    /// Its entry in the runner's configuration; its own name where absent.
    entry: Option<String>,
}
/// A connection.
#[derive(Serialize, ToSchema)]
struct ConnectionView {
    id: String,
    name: String,
    provider: Provider,
    /// The runner's name; none: the organization's default.
    runner: Option<String>,
    entry: String,
    created_at_ms: i64,
}
/// A list of connections.
#[derive(Serialize, ToSchema)]
struct ConnectionList {
    items: Vec<ConnectionView>,
}

#[utoipa::path(post, path = "/api/v1/connections", tag = "connections", request_body = NewConnection,
    responses((status = 201, body = ConnectionView)))]
async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    Body(new): Body<NewConnection>,
) -> Result<(StatusCode, Json<ConnectionView>), ApiError> {
    caller.require(Role::Owner)?;
    let name = checked::name("name", &new.name)?;
    let entry = checked::entry("entry", new.entry.as_deref().unwrap_or(&name))?;
    let runner = match &new.runner {
        Some(runner) => Some(state.store.runner(caller.org(), runner).await?),
        None => None,
    };
    if let Some(runner) = runner.as_ref().filter(|r| r.revoked_at_ms.is_some()) {
        return Err(Code::Conflict
            .on(format!("runner {} was revoked", runner.name))
            .next("Name another runner.")
            .into());
    }
    if state.store.connections(caller.org(), CONNECTIONS_MAX as u32).await?.len() >= CONNECTIONS_MAX {
        return Err(Code::Busy.on(format!("there are {CONNECTIONS_MAX} connections, which is the limit")).into());
    }
    let connection = Connection {
        id: new_id("con"),
        organization: caller.org().to_owned(),
        name,
        provider: new.provider,
        runner: runner.as_ref().map(|r| r.id.clone()),
        entry,
        created_at_ms: now_ms(),
    };
    state.store.create_connection(&connection).await?;
    Ok((StatusCode::CREATED, Json(view(connection, runner.map(|r| r.name)))))
}

#[utoipa::path(get, path = "/api/v1/connections", tag = "connections", params(("limit" = Option<u32>, Query)),
    responses((status = 200, body = ConnectionList)))]
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<ConnectionList>, ApiError> {
    let limit = params.limit()?;
    params.finish()?;
    let runners = state.store.runners(caller.org(), super::LIST_MAX).await?;
    let names: HashMap<String, String> = runners.into_iter().map(|r| (r.id, r.name)).collect();
    let connections = state.store.connections(caller.org(), limit).await?;
    let named = |c: Connection| {
        let runner = c.runner.as_ref().map(|id| names.get(id).unwrap_or(id).clone());
        view(c, runner)
    };
    Ok(Json(ConnectionList { items: connections.into_iter().map(named).collect() }))
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}", tag = "connections",
    params(("connection" = String, Path, description = "Id or name")), responses((status = 200, body = ConnectionView)))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
) -> Result<Json<ConnectionView>, ApiError> {
    let connection = state.store.connection(caller.org(), &connection).await?;
    let runner = runner_name(&state, &caller, &connection).await?;
    Ok(Json(view(connection, runner)))
}

#[utoipa::path(delete, path = "/api/v1/connections/{connection}", tag = "connections",
    params(("connection" = String, Path, description = "Id or name")), responses((status = 204)))]
async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
) -> Result<StatusCode, ApiError> {
    caller.require(Role::Owner)?;
    let connection = state.store.connection(caller.org(), &connection).await?;
    state.store.delete_connection(caller.org(), &connection.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/api/v1/connections/{connection}/test", tag = "connections",
    params(("connection" = String, Path, description = "Id or name"), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "Who the connection's credentials are at the target", body = Object)))]
async fn test(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let runner = params.text("runner")?;
    params.finish()?;
    let what = What::ConnectionTest(ConnectionTest {});
    let wanted = Wanted { connection, runner, provider: None, what, unary: true };
    Running::start(&state, &caller, wanted).await?.document(&state.documents).await
}

async fn runner_name(state: &ApiState, caller: &Caller, connection: &Connection) -> Result<Option<String>, Failure> {
    match &connection.runner {
        Some(id) => Ok(Some(state.store.runner(caller.org(), id).await?.name)),
        None => Ok(None),
    }
}

fn view(connection: Connection, runner: Option<String>) -> ConnectionView {
    ConnectionView {
        id: connection.id,
        name: connection.name,
        provider: connection.provider,
        runner,
        entry: connection.entry,
        created_at_ms: connection.created_at_ms,
    }
}
