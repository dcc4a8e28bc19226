//! The one shape of an error: `{"error":{"code","message","next_step","target_status"?,"target_reason"?}}`, with the status of
//! the table of failure codes.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::Outcome;
use utoipa::ToSchema;

/// A failure on its way to an HTTP client.
#[derive(Debug, Clone)]
pub struct ApiError {
    failure: Failure,
    target_status: Option<u32>,
    target_reason: Option<String>,
    operation: Option<String>,
}

/// The body of every error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// What failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// One of the failure codes.
    code: String,
    /// What failed, on what.
    message: String,
    /// What to do next.
    next_step: String,
    /// The target's own HTTP status, where the target refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_status: Option<u32>,
    /// The target's own word, where the target refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_reason: Option<String>,
}

// === impl ApiError ===

impl ApiError {
    /// From the end of an operation that is not `ok`.
    pub(crate) fn from_outcome(outcome: &Outcome) -> Self {
        Self {
            failure: Failure::from_wire(&outcome.code, &outcome.message, &outcome.next_step),
            target_status: (outcome.target_status != 0).then_some(outcome.target_status),
            target_reason: (!outcome.target_reason.is_empty()).then(|| outcome.target_reason.clone()),
            operation: None,
        }
    }
    /// The same, with the operation that it ended.
    #[must_use]
    pub(crate) fn of_operation(mut self, id: &str) -> Self {
        self.operation = Some(id.to_owned());
        self
    }
    /// What failed.
    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }
    /// The operation that it ended.
    pub(crate) fn operation(&self) -> Option<&str> {
        self.operation.as_deref()
    }
    /// Its code.
    pub fn code(&self) -> Code {
        self.failure.code
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self { failure, target_status: None, target_reason: None, operation: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.failure.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody {
            error: ErrorDetail {
                code: self.failure.code.as_str().to_owned(),
                message: self.failure.message,
                next_step: self.failure.next_step,
                target_status: self.target_status,
                target_reason: self.target_reason,
            },
        };
        // also where there is no body, as of HEAD
        let told = super::outcome::ascii(&serde_json::to_string(&body.error).unwrap_or_default());
        let mut response = (status, axum::Json(body)).into_response();
        if let Ok(told) = told {
            response.headers_mut().insert(super::ERROR_HEADER, told);
        }
        if self.failure.code == Code::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
        }
        if let Some(id) = self.operation.and_then(|id| id.parse().ok()) {
            response.headers_mut().insert(super::OPERATION_HEADER, id);
        }
        response
    }
}
