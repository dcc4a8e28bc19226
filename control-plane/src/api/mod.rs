//! The HTTP API under `/api/v1`: JSON, server-sent events, WebSocket. What users, the command line and the console use.
//!
//! It must never answer about another organization's things otherwise than about unknown ones, and never name a path, a variable
//! or a command of the runner's machine.

mod caller;
mod error;
mod extract;
mod routes;
mod streams;

pub use caller::Caller;
pub use error::ApiError;
pub(crate) use extract::{Body, Named, Params};
pub(crate) use routes::Routes;
pub use streams::{StreamLimit, StreamPlace};

use crate::pki::Authority;
use crate::sessions::Sessions;
use crate::store::Store;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use shared_proto::failure::Code;
use std::path::PathBuf;
use std::sync::Arc;

/// The header that names the operation in the answer to a request that started one.
pub(crate) const OPERATION_HEADER: &str = "runner-operation";
/// The largest JSON body, bytes.
pub(crate) const BODY_MAX: usize = 1024 * 1024;
/// The most items of a list where the caller names no limit, and the most that it may name.
pub(crate) const LIST_MAX: u32 = 1000;

/// What the API's routes work with. Cloning is cheap.
#[derive(Clone)]
pub struct ApiState {
    /// The database.
    pub store: Store,
    /// The CA.
    pub authority: Arc<Authority>,
    /// The runners that are connected.
    pub sessions: Sessions,
    /// Where runners find the control plane.
    pub endpoints: Endpoints,
    /// The open streams of each user.
    pub streams: StreamLimit,
    /// The data folder.
    pub data: PathBuf,
}

/// Where runners find the control plane, as it stands in their credentials files.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// `https://host:port` of the tunnel.
    pub tunnel: String,
    /// `https://host:port` of the execution service.
    pub execution: String,
}

/// Ends a request whose answer does not begin in time.
pub(crate) async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(routes::DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::from(
            Code::DeadlineExceeded.on(format!("the request was not answered within {} s", routes::DEADLINE.as_secs())),
        )
        .into_response(),
    }
}
