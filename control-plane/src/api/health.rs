//! Live and ready, for whoever watches the process. No token, nothing about anyone.

use super::{ApiError, ApiState};
use axum::extract::State;
use shared_proto::failure::Code;

/// The process answers.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// It takes requests: the database answers, and it is not on its way out.
pub(super) async fn ready(State(state): State<ApiState>) -> Result<&'static str, ApiError> {
    if state.leaving.is_cancelled() {
        return Err(Code::Busy.on("the control plane is shutting down").into());
    }
    state.store.ready().await?;
    Ok("ok\n")
}
