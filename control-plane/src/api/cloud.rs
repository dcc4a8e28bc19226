//! What can be asked of a connection of any provider: who it is there, where its resources are, one of them, and its logs.

use super::checked;
use super::logs;
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Version};
use shared_proto::failure::{Code, Failure};
use shared_proto::inventory::LIMIT_MAX;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{GetResource, ListLogs, ListPlaces, ProbePermissions, ReadLogs, WhoAmI};
use utoipa::OpenApi;

/// Streams of a log group that are asked for by name.
const STREAMS_MAX: usize = 100;

#[derive(OpenApi)]
#[openapi(paths(identity, permissions, places, resource, log_sources, log_lines))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("get", "/connections/{connection}/identity", identity)
        .add("get", "/connections/{connection}/permissions", permissions)
        .add("get", "/connections/{connection}/places", places)
        .add("get", "/connections/{connection}/resource", resource)
        .add("get", "/connections/{connection}/log-sources", log_sources)
        .add_stream("get", "/connections/{connection}/log-lines", log_lines)
}

async fn document(
    state: &ApiState,
    caller: &Caller,
    connection: String,
    runner: Option<String>,
    what: What,
) -> Result<Response, ApiError> {
    let wanted = Wanted { connection, runner, provider: None, what, unary: true };
    Running::start(state, caller, wanted).await?.document(&state.documents).await
}

/// The parameters of each of them: runner and place.
fn common(params: &mut Params) -> Result<(Option<String>, String), Failure> {
    let place = params.text("place")?.map(|p| checked::word("place", p)).transpose()?;
    Ok((params.text("runner")?, place.unwrap_or_default()))
}

fn missing(name: &str) -> Failure {
    Code::InvalidArgument.on(format!("the parameter {name} is missing"))
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/identity", tag = "clouds",
    params(("connection" = String, Path, description = "Id or name"),
        ("place" = Option<String>, Query, description = "Of AWS: the region whose STS is asked"), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "Who the connection's credentials are", body = Object)))]
async fn identity(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, place) = common(&mut params)?;
    params.finish()?;
    document(&state, &caller, connection, runner, What::WhoAmI(WhoAmI { place })).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/permissions", tag = "clouds",
    params(("connection" = String, Path, description = "Id or name"),
        ("place" = Option<String>, Query, description = "Of AWS: the region that is asked; of a cluster: the namespace; absent: all"),
        ("runner" = Option<String>, Query)),
    responses((status = 200, description = "What the connection's credentials may do of all that it is for, and the least policy: \
        `{purpose,items:[{action,allowed,how}],least_policy:{format,text}}`", body = Object)))]
async fn permissions(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, place) = common(&mut params)?;
    params.finish()?;
    let what = What::ProbePermissions(ProbePermissions { place, ..Default::default() });
    document(&state, &caller, connection, runner, what).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/places", tag = "clouds",
    params(("connection" = String, Path, description = "Id or name"), ("place" = Option<String>, Query), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "Regions, projects, subscriptions or namespaces: `{items:[place]}`", body = Object)))]
async fn places(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, place) = common(&mut params)?;
    params.finish()?;
    document(&state, &caller, connection, runner, What::ListPlaces(ListPlaces { place })).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/resource", tag = "clouds",
    params(("connection" = String, Path, description = "Id or name"), ("place" = Option<String>, Query),
        ("type" = String, Query, description = "As lists name it"), ("identifier" = String, Query), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "The resource with its properties", body = Object)))]
async fn resource(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, place) = common(&mut params)?;
    let type_name = checked::word("type", params.text("type")?.ok_or_else(|| missing("type"))?)?;
    let identifier = params.text("identifier")?.ok_or_else(|| missing("identifier"))?;
    let identifier = checked::identifier("identifier", identifier)?;
    params.finish()?;
    document(&state, &caller, connection, runner, What::GetResource(GetResource { place, type_name, identifier })).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/log-sources", tag = "clouds",
    params(("connection" = String, Path, description = "Id or name"), ("place" = Option<String>, Query),
        ("source" = Option<String>, Query, description = "What is in it; absent: what there is"),
        ("prefix" = Option<String>, Query), ("limit" = Option<u32>, Query), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "Where log lines are: `{items:[source],truncated}`", body = Object)))]
async fn log_sources(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, place) = common(&mut params)?;
    let text = |params: &mut Params, name: &str| {
        params.text(name)?.map(|t| checked::identifier(name, t)).transpose().map(Option::unwrap_or_default)
    };
    let (source, prefix) = (text(&mut params, "source")?, text(&mut params, "prefix")?);
    let limit = params.number("limit", 1..=LIMIT_MAX)?.unwrap_or(0);
    params.finish()?;
    document(&state, &caller, connection, runner, What::ListLogs(ListLogs { place, source, prefix, limit })).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/log-lines", tag = "clouds",
    params(("connection" = String, Path, description = "Id or name"), ("place" = Option<String>, Query),
        ("source" = String, Query, description = "As a list of sources names it"),
        ("stream" = Option<Vec<String>>, Query, description = "May be there several times; absent: all"),
        ("filter" = Option<String>, Query, description = "In the provider's own language"),
        ("since_ms" = Option<i64>, Query, description = "Unix milliseconds; absent: an hour ago"), ("until_ms" = Option<i64>, Query),
        ("follow" = Option<bool>, Query), ("limit" = Option<u32>, Query), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "One JSON object a line, with the trailer `runner-outcome`; as events, each chunk as \
        `data:` lines, at the end `event: outcome`",
        content((String = "application/x-ndjson"), (String = "text/event-stream")))))]
async fn log_lines(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    version: Version,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, place) = common(&mut params)?;
    let source = checked::identifier("source", params.text("source")?.ok_or_else(|| missing("source"))?)?;
    let streams: Vec<String> =
        params.all("stream").into_iter().map(|s| checked::identifier("stream", s)).collect::<Result<_, _>>()?;
    if streams.len() > STREAMS_MAX {
        return Err(Code::TooLarge.on(format!("at most {STREAMS_MAX} streams can be asked for by name")).into());
    }
    let filter = params.text("filter")?.map(|f| checked::filter("filter", f)).transpose()?.unwrap_or_default();
    let moment = |params: &mut Params, name: &str| params.number(name, 1..=i64::MAX);
    let since_ms = moment(&mut params, "since_ms")?.unwrap_or_else(|| shared_proto::now_ms() - logs::SINCE_DEFAULT_MS);
    let until_ms = moment(&mut params, "until_ms")?.unwrap_or(0);
    let follow = params.flag("follow")?;
    let limit = params.number("limit", 1..=logs::LINES_MAX)?.unwrap_or(0);
    params.finish()?;
    if follow && until_ms != 0 {
        return Err(Code::InvalidArgument.on("follow and until_ms exclude each other").into());
    }
    let what = ReadLogs { place, source, streams, filter, since_ms, until_ms, follow, limit };
    let wanted = Wanted { connection, runner, provider: None, what: What::ReadLogs(what), unary: false };
    logs::stream(&state, &caller, wanted, &headers, version, "application/x-ndjson").await
}
