//! What comes in: JSON bodies, queries and path segments, each refused in the API's own error shape.

use super::ApiError;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderValue, header};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use shared_proto::failure::{Code, Failure};
use std::str::FromStr;

/// The most parameters of a query.
const PARAMS_MAX: usize = 512;

/// What is read of a body beyond the limit, bytes, so that its sender gets to see the answer.
const DISCARDED_MAX: usize = 64 * 1024 * 1024;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body that may be left out, with its content type; nothing counts as `{}`.
#[derive(Debug)]
pub(crate) struct OptionalBody<T>(pub(crate) T);

/// The path's segments.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) T);

/// The query. Each parameter is taken by name; what is left over in the end is refused.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, String)>);

// === impl Body ===

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        json(parts, read(body, super::BODY_MAX).await?, state).await.map(Self)
    }
}

// === impl OptionalBody ===

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let mut body = read(body, super::BODY_MAX).await?;
        if body.is_empty() {
            body = Bytes::from_static(b"{}");
            parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        json(parts, body, state).await.map(Self)
    }
}

async fn json<T: DeserializeOwned, S: Send + Sync>(parts: Parts, body: Bytes, state: &S) -> Result<T, ApiError> {
    let whole = Request::from_parts(parts, axum::body::Body::from(body));
    match axum::Json::<T>::from_request(whole, state).await {
        Ok(axum::Json(body)) => Ok(body),
        Err(rejection) => Err(body_refused(&rejection).into()),
    }
}

/// Reads a body. One that is too large is still read, and thrown away, up to a bound: a client that is in the middle of sending
/// would see a broken connection instead of the answer.
///
/// # Errors
/// `too_large` beyond `limit` bytes; `invalid_argument` where it breaks off.
pub(super) async fn read(mut body: axum::body::Body, limit: usize) -> Result<Bytes, Failure> {
    let mut kept = BytesMut::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Code::InvalidArgument.on(format!("the body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if discarded == 0 && kept.len() + data.len() <= limit {
            kept.extend_from_slice(&data);
            continue;
        }
        discarded += data.len();
        if discarded > DISCARDED_MAX {
            break;
        }
    }
    if discarded > 0 {
        return Err(Code::TooLarge.on(format!("the body is larger than {limit} bytes")));
    }
    Ok(kept.freeze())
}

fn body_refused(rejection: &JsonRejection) -> Failure {
    if rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE {
        return Code::TooLarge.on(format!("the body is larger than {} bytes", super::BODY_MAX));
    }
    let text = rejection.body_text();
    let text = text.strip_prefix("Failed to deserialize the JSON body into the target type: ").unwrap_or(&text);
    Code::InvalidArgument.on(text.chars().take(300).collect::<String>())
}

// === impl Named ===

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            Err(rejection) => Err(Code::InvalidArgument.on(format!("the path: {}", rejection.body_text())).into()),
        }
    }
}

// === impl Params ===

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(pairs)) if pairs.len() > PARAMS_MAX => Err(Code::TooLarge
                .on(format!("the query has {} parameters, the limit is {PARAMS_MAX}", pairs.len()))
                .into()),
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(Code::InvalidArgument.on(format!("the query: {}", rejection.body_text())).into()),
        }
    }
}

impl Params {
    /// The one value of a parameter; empty counts as absent.
    ///
    /// # Errors
    /// `invalid_argument` where it is there twice.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        let mut values = self.all(name);
        if values.len() > 1 {
            return Err(Code::InvalidArgument.on(format!("the parameter {name} is there {} times", values.len())));
        }
        Ok(values.pop().filter(|v| !v.is_empty()))
    }
    /// All values of a parameter, in their order.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(n, _)| n == name);
        self.0 = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }
    /// A yes or no; absent is no, present without a value is yes.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        match &self.all(name)[..] {
            [] => Ok(false),
            [value] => match value.as_str() {
                "" | "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                other => Err(Code::InvalidArgument.on(format!("{name} must be true or false, not {:?}", cut(other)))),
            },
            many => Err(Code::InvalidArgument.on(format!("the parameter {name} is there {} times", many.len()))),
        }
    }
    /// A number within bounds.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(crate) fn number<N>(&mut self, name: &str, bounds: std::ops::RangeInclusive<N>) -> Result<Option<N>, Failure>
    where
        N: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse::<N>() {
            Ok(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => Err(Code::InvalidArgument.on(format!(
                "{name} must be a number from {} to {}, not {:?}",
                bounds.start(),
                bounds.end(),
                cut(&text)
            ))),
        }
    }
    /// Refuses what no one asked for: a mistyped parameter must not be dropped silently.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Code::InvalidArgument.on(format!("there is no parameter {:?} here", cut(name)))),
        }
    }
    /// `limit`, at most [`super::LIST_MAX`]; what a list has where the caller names none.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(crate) fn limit(&mut self) -> Result<u32, Failure> {
        Ok(self.number("limit", 1..=super::LIST_MAX)?.unwrap_or(super::LIST_MAX))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
