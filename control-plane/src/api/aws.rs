//! AWS operations: who the connection is, regions, resources.

use super::checked::{aws_identifier, aws_region, aws_tags, aws_type};
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use crate::store::Provider;
use axum::extract::State;
use axum::response::Response;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{AwsCallerIdentity, AwsGetResource, AwsListRegions, AwsListResources};
use utoipa::OpenApi;

/// Resources of one list.
const RESOURCES_MAX: u32 = 10_000;

#[derive(OpenApi)]
#[openapi(paths(identity, regions, resources, resource))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("get", "/connections/{connection}/aws/identity", identity)
        .add("get", "/connections/{connection}/aws/regions", regions)
        .add("get", "/connections/{connection}/aws/resources", resources)
        .add("get", "/connections/{connection}/aws/resource", resource)
}

async fn document(
    state: &ApiState,
    caller: &Caller,
    connection: String,
    runner: Option<String>,
    what: What,
) -> Result<Response, ApiError> {
    let wanted = Wanted { connection, runner, provider: Some(Provider::Aws), what, unary: true };
    Running::start(state, caller, wanted).await?.document(&state.documents).await
}

/// The parameters of every AWS request: runner and region.
fn common(params: &mut Params) -> Result<(Option<String>, String), Failure> {
    let region = params.text("region")?.map(|r| aws_region("region", r)).transpose()?;
    Ok((params.text("runner")?, region.unwrap_or_default()))
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/aws/identity", tag = "aws",
    params(("connection" = String, Path, description = "Id or name"), ("region" = Option<String>, Query),
        ("runner" = Option<String>, Query)),
    responses((status = 200, description = "Account, ARN and user id", body = Object)))]
async fn identity(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, region) = common(&mut params)?;
    params.finish()?;
    document(&state, &caller, connection, runner, What::AwsCallerIdentity(AwsCallerIdentity { region })).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/aws/regions", tag = "aws",
    params(("connection" = String, Path, description = "Id or name"), ("region" = Option<String>, Query),
        ("runner" = Option<String>, Query)),
    responses((status = 200, description = "`{items:[region]}`", body = Object)))]
async fn regions(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, region) = common(&mut params)?;
    params.finish()?;
    document(&state, &caller, connection, runner, What::AwsListRegions(AwsListRegions { region })).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/aws/resources", tag = "aws",
    params(("connection" = String, Path, description = "Id or name"), ("region" = Option<String>, Query),
        ("type" = Option<String>, Query, description = "Cloud Control type; absent: all that the Tagging API knows"),
        ("tag" = Option<Vec<String>>, Query, description = "KEY=VALUE, may be there several times"),
        ("limit" = Option<u32>, Query), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "`{items:[resource],truncated}`", body = Object)))]
async fn resources(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, region) = common(&mut params)?;
    let type_name = params.text("type")?.map(|t| aws_type("type", t)).transpose()?.unwrap_or_default();
    let tags = aws_tags("tag", params.all("tag"))?;
    let limit = params.number("limit", 1..=RESOURCES_MAX)?.unwrap_or(0);
    params.finish()?;
    if !type_name.is_empty() && !tags.is_empty() {
        return Err(Code::InvalidArgument
            .on("type and tag exclude each other: Cloud Control does not filter by tags")
            .into());
    }
    let what = What::AwsListResources(AwsListResources { region, type_name, tags, limit });
    document(&state, &caller, connection, runner, what).await
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/aws/resource", tag = "aws",
    params(("connection" = String, Path, description = "Id or name"), ("region" = Option<String>, Query),
        ("type" = String, Query, description = "Cloud Control type"), ("identifier" = String, Query),
        ("runner" = Option<String>, Query)),
    responses((status = 200, description = "The resource with its properties", body = Object)))]
async fn resource(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let (runner, region) = common(&mut params)?;
    let missing = |name: &str| Code::InvalidArgument.on(format!("the parameter {name} is missing"));
    let type_name = aws_type("type", params.text("type")?.ok_or_else(|| missing("type"))?)?;
    let identifier = aws_identifier("identifier", params.text("identifier")?.ok_or_else(|| missing("identifier"))?)?;
    params.finish()?;
    let what = What::AwsGetResource(AwsGetResource { region, type_name, identifier });
    document(&state, &caller, connection, runner, what).await
}
