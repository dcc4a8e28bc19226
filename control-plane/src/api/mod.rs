//! The HTTP API under `/api/v1`: JSON, server-sent events, WebSocket. What users, the command line and the console use.
//!
//! It must never answer about another organization's things otherwise than about unknown ones, and never name a path, a variable
//! or a command of the runner's machine.

mod account;
mod archives;
mod aws_pass;
mod caller;
mod checked;
mod cloud;
mod connections;
mod deliveries;
mod document;
mod drift;
mod due;
mod error;
mod exec;
mod extract;
mod follow_ons;
mod health;
mod hooks;
mod inputs;
mod issuers;
mod jobs;
mod kubernetes;
mod ledger;
mod limits;
mod listener;
mod locks;
mod log_events;
mod logs;
mod new_job;
mod notifications;
mod notify;
mod operations;
mod outcome;
mod pass;
mod passing;
mod resources;
mod routes;
mod rules;
mod runners;
mod running;
mod schedules;
mod scope;
mod source;
mod stack_hooks;
mod stacks;
mod streams;
#[cfg(test)]
mod tests;
mod values;
mod variable_sets;
mod webhooks;

pub(crate) use account::{add_organization, new_token};
pub use caller::Caller;
pub use deliveries::Deliveries;
pub(crate) use due::follow as follow_schedules;
pub use error::ApiError;
pub(crate) use extract::{Body, Named, OptionalBody, Params};
pub(crate) use follow_ons::follow as follow_outputs;
pub use ledger::Ledger;
pub use listener::ApiListener;
pub use notify::{Networks, Notifier};
pub(crate) use routes::Routes;
pub use running::Documents;
pub(crate) use source::stored_source;
pub use streams::{StreamLimit, StreamPlace};

use crate::execution::Jobs;
use crate::pki::Authority;
use crate::sessions::Sessions;
use crate::store::Store;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use shared_proto::failure::Code;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;

/// The header that names the operation in the answer to a request that started one.
pub(crate) const OPERATION_HEADER: &str = "runner-operation";
/// The header that tells a failure as the body does, for answers that have none.
pub(crate) const ERROR_HEADER: &str = "runner-error";
/// The header that says that a document was cut at a limit.
pub(crate) const TRUNCATED_HEADER: &str = "runner-truncated";
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
    /// The operations that run, and the records of those that did.
    pub ledger: Ledger,
    /// The open streams of each user.
    pub streams: StreamLimit,
    /// The memory of documents that are being collected.
    pub documents: Documents,
    /// Jobs, stacks' archives and what becomes of them.
    pub jobs: Jobs,
    /// What comes in from Git hosts, without a token.
    pub deliveries: Deliveries,
    /// Where notifications may go.
    pub networks: Networks,
    /// Cancelled when the control plane shuts down.
    pub leaving: CancellationToken,
}

/// Where runners find the control plane, as it stands in their credentials files.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// `https://host:port` of the tunnel.
    pub tunnel: String,
    /// `https://host:port` of the execution service.
    pub execution: String,
}

/// All routes behind a token.
fn routes() -> Routes {
    Routes::new()
        .merge(account::routes())
        .merge(issuers::routes())
        .merge(runners::routes())
        .merge(connections::routes())
        .merge(kubernetes::routes())
        .merge(pass::routes())
        .merge(logs::routes())
        .merge(exec::routes())
        .merge(cloud::routes())
        .merge(resources::routes())
        .merge(operations::routes())
        .merge(locks::routes())
        .merge(rules::routes())
        .merge(variable_sets::routes())
        .merge(inputs::routes())
        .merge(stacks::routes())
        .merge(jobs::routes())
        .merge(schedules::routes())
        .merge(drift::routes())
        .merge(webhooks::routes())
        .merge(notifications::routes())
        .merge(archives::routes())
}

/// The parts of the OpenAPI description, in the order of its pages.
fn documents() -> Vec<utoipa::openapi::OpenApi> {
    vec![
        account::Document::openapi(),
        issuers::Document::openapi(),
        runners::Document::openapi(),
        connections::Document::openapi(),
        kubernetes::Document::openapi(),
        pass::Document::openapi(),
        logs::Document::openapi(),
        exec::Document::openapi(),
        cloud::Document::openapi(),
        resources::Document::openapi(),
        operations::Document::openapi(),
        locks::Document::openapi(),
        rules::Document::openapi(),
        variable_sets::Document::openapi(),
        inputs::Document::openapi(),
        stacks::Document::openapi(),
        jobs::Document::openapi(),
        schedules::Document::openapi(),
        drift::Document::openapi(),
        webhooks::Document::openapi(),
        notifications::Document::openapi(),
        archives::Document::openapi(),
    ]
}

/// The whole API.
pub fn router(state: ApiState) -> Router {
    let description = document::openapi();
    let api = routes()
        .into_router()
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .merge(aws_pass::passing())
        .layer(middleware::from_fn_with_state(state.clone(), caller::authenticate));
    let passing = pass::passing().layer(middleware::from_fn_with_state(state.clone(), caller::authenticate_cluster));
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/api/v1/openapi.json", get(move || async move { axum::Json(description) }))
        .merge(api)
        .merge(passing)
        .merge(deliveries::arriving())
        .fallback(pass::elsewhere)
        .method_not_allowed_fallback(|| async {
            ApiError::from(Code::MethodNotAllowed.on("this path does not take this method"))
        })
        .with_state(state)
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
