//! Notifications: who is told of what becomes of jobs and stacks, set up, listed, tried, removed, and what was told. What sends is `notify`.

use super::notify::Place;
use super::{ApiError, ApiState, Body, Caller, Named, Params, Routes, checked};
use crate::store::{EVENTS, Notice, Notification, Role, new_id};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use utoipa::{OpenApi, ToSchema};

/// Notifications of one organization.
const NOTIFICATIONS_MAX: usize = 20;
/// A secret, bytes.
const SECRET: std::ops::RangeInclusive<usize> = 16..=512;

#[derive(OpenApi)]
#[openapi(paths(create, list, remove, notices, test))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("post", "/notifications", create)
        .add("get", "/notifications", list)
        .add("delete", "/notifications/{notification}", remove)
        .add("get", "/notifications/{notification}/notices", notices)
        .add("post", "/notifications/{notification}/test", test)
}

/// A notification to set up.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NotificationBody {
    name: String,
    /// `https://…`: a public address, unless the operator allows others. It is not shown again whole.
    url: String,
    /// By which what is told is signed: 16 to 512 bytes; `whsec_` and base64, or any text. It is not shown again.
    secret: String,
    /// drift_found, drift_gone, job_waits, job_failed, job_applied, schedule_paused; where absent all of them.
    #[serde(default)]
    events: Vec<String>,
}
/// A notification.
#[derive(Serialize, ToSchema)]
struct NotificationView {
    id: String,
    name: String,
    /// Where it goes, without path and query, which may be a secret.
    host: String,
    events: Vec<String>,
    created_by: String,
    created_at_ms: i64,
}
/// A list of notifications.
#[derive(Serialize, ToSchema)]
struct NotificationList {
    items: Vec<NotificationView>,
}
/// Something that is told.
#[derive(Serialize, ToSchema)]
struct NoticeView {
    /// By which its receiver knows it when it comes again.
    id: String,
    event: String,
    created_at_ms: i64,
    /// How often it was sent.
    tries: i64,
    /// When it was taken.
    told_at_ms: Option<i64>,
    /// When it is sent next; none, where it was not taken either: it was given up.
    next_at_ms: Option<i64>,
    /// What came of the last time: an HTTP status, or what failed.
    said: Option<String>,
}
/// A list of notices.
#[derive(Serialize, ToSchema)]
struct NoticeList {
    items: Vec<NoticeView>,
}

#[utoipa::path(post, path = "/api/v1/notifications", tag = "notifications", request_body = NotificationBody,
    responses((status = 201, body = NotificationView)))]
async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    Body(body): Body<NotificationBody>,
) -> Result<(StatusCode, Json<NotificationView>), ApiError> {
    caller.require(Role::Owner)?;
    if state.store.notifications(caller.org()).await?.len() >= NOTIFICATIONS_MAX {
        return Err(Code::Busy.on(format!("there are {NOTIFICATIONS_MAX} notifications, which is the limit")).into());
    }
    Place::parse(&body.url)?;
    if !SECRET.contains(&body.secret.len()) || body.secret.chars().any(char::is_control) {
        let message =
            format!("secret must have {} to {} bytes, and no control characters", SECRET.start(), SECRET.end());
        return Err(Code::InvalidArgument.on(message).into());
    }
    if !super::hooks::is_whole(&body.secret) {
        let message = "secret begins with whsec_, and what comes then is no base64";
        return Err(Code::InvalidArgument.on(message).into());
    }
    let new = Notification {
        id: new_id("ntf"),
        organization: caller.org().to_owned(),
        name: checked::name("name", &body.name)?,
        url: body.url,
        secret: body.secret,
        events: checked_events(&body.events)?,
        created_by: caller.user().name.clone(),
        created_at_ms: now_ms(),
    };
    state.store.create_notification(&new).await?;
    tracing::info!(
        organization = caller.org(),
        user = caller.user().id,
        notification = new.id,
        "a notification was set up"
    );
    Ok((StatusCode::CREATED, Json(view(new))))
}

#[utoipa::path(get, path = "/api/v1/notifications", tag = "notifications", responses((status = 200, body = NotificationList)))]
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    params: Params,
) -> Result<Json<NotificationList>, ApiError> {
    params.finish()?;
    let items = state.store.notifications(caller.org()).await?;
    Ok(Json(NotificationList { items: items.into_iter().map(view).collect() }))
}

#[utoipa::path(delete, path = "/api/v1/notifications/{notification}", tag = "notifications",
    params(("notification" = String, Path, description = "Id or name")), responses((status = 204)))]
async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Named(notification): Named<String>,
) -> Result<StatusCode, ApiError> {
    caller.require(Role::Owner)?;
    let found = state.store.notification(caller.org(), &notification).await?;
    state.store.remove_notification(caller.org(), &found.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/api/v1/notifications/{notification}/notices", tag = "notifications",
    params(("notification" = String, Path, description = "Id or name"), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = NoticeList, description = "Newest first")))]
async fn notices(
    State(state): State<ApiState>,
    caller: Caller,
    Named(notification): Named<String>,
    mut params: Params,
) -> Result<Json<NoticeList>, ApiError> {
    let limit = params.limit()?;
    params.finish()?;
    let found = state.store.notification(caller.org(), &notification).await?;
    let items = state.store.notices(&found.id, limit).await?;
    Ok(Json(NoticeList { items: items.into_iter().map(notice).collect() }))
}

#[utoipa::path(post, path = "/api/v1/notifications/{notification}/test", tag = "notifications",
    params(("notification" = String, Path, description = "Id or name")),
    responses((status = 202, body = Object, description = "`{id}` of a notice of the event `test`; what comes of it is among the notices")))]
async fn test(
    State(state): State<ApiState>,
    caller: Caller,
    Named(notification): Named<String>,
) -> Result<(StatusCode, Json<serde_json::Value>), ApiError> {
    caller.require(Role::Owner)?;
    let found = state.store.notification(caller.org(), &notification).await?;
    let id = state.store.tell(&found, "test").await?;
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({ "id": id }))))
}

/// Names of events, each once, as they are kept.
fn checked_events(names: &[String]) -> Result<String, Failure> {
    if let Some(name) = names.iter().find(|name| !EVENTS.contains(&name.as_str())) {
        let shown: String = name.chars().take(64).collect();
        return Err(Code::InvalidArgument.on(format!("events has {shown:?}: there are {}", EVENTS.join(", "))));
    }
    let wanted = EVENTS.into_iter().filter(|event| names.is_empty() || names.iter().any(|name| name == event));
    Ok(wanted.collect::<Vec<_>>().join(","))
}

fn view(of: Notification) -> NotificationView {
    NotificationView {
        host: Place::parse(&of.url).map(|place| place.authority().to_owned()).unwrap_or_default(),
        events: of.events.split(',').map(str::to_owned).collect(),
        id: of.id,
        name: of.name,
        created_by: of.created_by,
        created_at_ms: of.created_at_ms,
    }
}

fn notice(of: Notice) -> NoticeView {
    NoticeView {
        id: of.id,
        event: of.event,
        created_at_ms: of.created_at_ms,
        tries: of.tries,
        told_at_ms: of.told_at_ms,
        next_at_ms: of.next_at_ms,
        said: of.said,
    }
}
