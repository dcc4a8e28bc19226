//! Source archives, uploaded by content hash.

use super::{ApiError, ApiState, Caller, Named, Params, Routes};
use crate::execution::ArchiveHash;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::Code;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(paths(exists, upload))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("head", "/archives/{sha256}", exists).add_stream("put", "/archives/{sha256}", upload)
}

#[utoipa::path(head, path = "/api/v1/archives/{sha256}", tag = "archives",
    params(("sha256" = String, Path, description = "Of the tar.gz, lower-case hexadecimal")),
    responses((status = 200, description = "The organization has it"), (status = 404, description = "It has not")))]
async fn exists(
    State(state): State<ApiState>,
    caller: Caller,
    Named(sha256): Named<String>,
    params: Params,
) -> Result<Response, ApiError> {
    params.finish()?;
    let hash = ArchiveHash::parse(&sha256)?;
    match state.jobs.archives().size(caller.org(), &hash).await {
        Some(size) => {
            let mut response = StatusCode::OK.into_response();
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            Ok(response)
        }
        None => Err(Code::NotFound.on(format!("there is no archive {sha256}")).into()),
    }
}

#[utoipa::path(put, path = "/api/v1/archives/{sha256}", tag = "archives",
    params(("sha256" = String, Path, description = "Of the tar.gz, lower-case hexadecimal")),
    request_body(content = Vec<u8>, content_type = "application/gzip"),
    responses((status = 201, description = "It is kept, whole and checked")))]
async fn upload(
    State(state): State<ApiState>,
    caller: Caller,
    Named(sha256): Named<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    params.finish()?;
    let hash = ArchiveHash::parse(&sha256)?;
    let said = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if let Some(said) = said.filter(|said| *said > ARCHIVE_PACKED_MAX) {
        return Err(Code::TooLarge
            .on(format!("the archive has {said} bytes, the limit is {ARCHIVE_PACKED_MAX}"))
            .next("Leave out what the deployment does not need, in .runnerignore.")
            .into());
    }
    // the body's own bound is the archive's, counted as it comes
    let _place = state.streams.take(&caller.user().id)?;
    state.jobs.archives().keep(caller.org(), &hash, body.into_data_stream()).await?;
    Ok(StatusCode::CREATED)
}
