//! Schedules of stacks: set, shown, paused, removed, and run once now. What is done when their time has come is in `due`.

use super::jobs::{JobView, JobViews, StackName};
use super::{ApiError, ApiState, Body, Caller, Named, Params, Routes, checked, due};
use crate::cron::{Cron, Offset};
use crate::store::{Does, NewSchedule, Schedule};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use utoipa::{OpenApi, ToSchema};

/// Over how long stacks are spread where nobody says, seconds, and the most.
const JITTER_S: u32 = 300;
const JITTER_MAX_S: u32 = 3600;

#[derive(OpenApi)]
#[openapi(paths(all, list, show, set, remove, pause, resume, run))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("get", "/schedules", all)
        .add("get", "/stacks/{stack}/schedules", list)
        .add("get", "/stacks/{stack}/schedules/{schedule}", show)
        .add("put", "/stacks/{stack}/schedules/{schedule}", set)
        .add("delete", "/stacks/{stack}/schedules/{schedule}", remove)
        .add("post", "/stacks/{stack}/schedules/{schedule}/pause", pause)
        .add("post", "/stacks/{stack}/schedules/{schedule}/resume", resume)
        .add("post", "/stacks/{stack}/schedules/{schedule}/run", run)
}

/// A schedule, as a user says it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScheduleBody {
    kind: Does,
    /// MINUTE HOUR DAY MONTH WEEKDAY, as cron(5) has it; or @hourly, @daily (@midnight), @weekly, @monthly, @yearly (@annually).
    cron: String,
    /// The distance from UTC by which it is read, such as `+02:00`; UTC where absent.
    utc_offset: Option<String>,
    /// Over how long the stacks of one time are spread, seconds: at most 3600; 300 where absent.
    jitter_s: Option<u32>,
    /// What becomes of one that was missed, as the control plane was down; `run` where absent.
    #[serde(default)]
    late: Late,
}
/// What becomes of a time that was missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Late {
    /// It is made up for, once.
    #[default]
    Run,
    /// It is left out, and that is said.
    Skip,
}
/// A schedule.
#[derive(Serialize, ToSchema)]
struct ScheduleView {
    id: String,
    stack: StackName,
    name: String,
    kind: Does,
    cron: String,
    utc_offset: String,
    jitter_s: i64,
    late: Late,
    /// The user for whom its jobs are made: whoever has set it last.
    user: String,
    created_at_ms: i64,
    /// When it comes to its turn; none while it is paused.
    next_run_ms: Option<i64>,
    paused: Option<Paused>,
    /// Its last turn.
    last: Option<Last>,
    /// How many jobs, one after the other, have failed or could not be made.
    failures: i64,
}
/// Since when it is paused, and by whom, or why.
#[derive(Serialize, ToSchema)]
struct Paused {
    at_ms: i64,
    by: Option<String>,
}
/// What became of a turn.
#[derive(Serialize, ToSchema)]
struct Last {
    at_ms: i64,
    /// The job that was made.
    job: Option<String>,
    /// Why there is none.
    said: Option<String>,
}
/// A list of schedules.
#[derive(Serialize, ToSchema)]
struct ScheduleList {
    items: Vec<ScheduleView>,
}

#[utoipa::path(get, path = "/api/v1/schedules", tag = "schedules", params(("limit" = Option<u32>, Query)),
    responses((status = 200, body = ScheduleList)))]
async fn all(
    State(state): State<ApiState>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<ScheduleList>, ApiError> {
    let limit = params.limit()?;
    params.finish()?;
    let items = state.store.schedules(caller.org(), None, limit).await?;
    Ok(Json(ScheduleList { items: items.into_iter().map(view).collect() }))
}

#[utoipa::path(get, path = "/api/v1/stacks/{stack}/schedules", tag = "schedules",
    params(("stack" = String, Path, description = "Id or name")), responses((status = 200, body = ScheduleList)))]
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Named(stack): Named<String>,
) -> Result<Json<ScheduleList>, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    let items = state.store.schedules(caller.org(), Some(&stack.id), super::LIST_MAX).await?;
    Ok(Json(ScheduleList { items: items.into_iter().map(view).collect() }))
}

#[utoipa::path(get, path = "/api/v1/stacks/{stack}/schedules/{schedule}", tag = "schedules",
    params(("stack" = String, Path, description = "Id or name"), ("schedule" = String, Path)),
    responses((status = 200, body = ScheduleView)))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named((stack, name)): Named<(String, String)>,
) -> Result<Json<ScheduleView>, ApiError> {
    Ok(Json(view(named(&state, &caller, &stack, &name).await?)))
}

#[utoipa::path(put, path = "/api/v1/stacks/{stack}/schedules/{schedule}", tag = "schedules", request_body = ScheduleBody,
    params(("stack" = String, Path, description = "Id or name"), ("schedule" = String, Path)),
    responses((status = 200, body = ScheduleView, description = "Its jobs are made for the user who sets it")))]
async fn set(
    State(state): State<ApiState>,
    caller: Caller,
    Named((stack, name)): Named<(String, String)>,
    Body(body): Body<ScheduleBody>,
) -> Result<Json<ScheduleView>, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    let cron: Cron = body.cron.parse().map_err(|why| wrong("cron", why))?;
    let offset: Offset = body.utc_offset.as_deref().unwrap_or("UTC").parse().map_err(|why| wrong("utc_offset", why))?;
    let jitter_s = body.jitter_s.unwrap_or(JITTER_S);
    if jitter_s > JITTER_MAX_S {
        return Err(wrong("jitter_s", format!("{jitter_s} s is more than {JITTER_MAX_S} s, an hour")).into());
    }
    let jitter_s = i64::from(jitter_s);
    let new = NewSchedule {
        name: checked::name("schedule", &name)?,
        does: body.kind,
        next: due::next(&cron, offset, &stack.id, jitter_s, now_ms())?,
        cron: cron.to_string(),
        utc_offset: offset.to_string(),
        jitter_s,
        late: body.late == Late::Run,
        user: (caller.user().id.clone(), caller.user().name.clone()),
    };
    Ok(Json(view(state.store.set_schedule(caller.org(), &stack.id, &new).await?)))
}

#[utoipa::path(delete, path = "/api/v1/stacks/{stack}/schedules/{schedule}", tag = "schedules",
    params(("stack" = String, Path, description = "Id or name"), ("schedule" = String, Path)), responses((status = 204)))]
async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Named((stack, name)): Named<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    state.store.remove_schedule(caller.org(), &stack.id, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/api/v1/stacks/{stack}/schedules/{schedule}/pause", tag = "schedules",
    params(("stack" = String, Path, description = "Id or name"), ("schedule" = String, Path)),
    responses((status = 200, body = ScheduleView)))]
async fn pause(
    State(state): State<ApiState>,
    caller: Caller,
    Named((stack, name)): Named<(String, String)>,
) -> Result<Json<ScheduleView>, ApiError> {
    let schedule = named(&state, &caller, &stack, &name).await?;
    let next = (schedule.slot_ms, schedule.due_ms);
    Ok(Json(view(state.store.pause_schedule(&schedule, Some(&caller.user().name), next).await?)))
}

#[utoipa::path(post, path = "/api/v1/stacks/{stack}/schedules/{schedule}/resume", tag = "schedules",
    params(("stack" = String, Path, description = "Id or name"), ("schedule" = String, Path)),
    responses((status = 200, body = ScheduleView, description = "What came meanwhile is not made up for")))]
async fn resume(
    State(state): State<ApiState>,
    caller: Caller,
    Named((stack, name)): Named<(String, String)>,
) -> Result<Json<ScheduleView>, ApiError> {
    let schedule = named(&state, &caller, &stack, &name).await?;
    let next = due::next_of(&schedule, now_ms())?;
    Ok(Json(view(state.store.pause_schedule(&schedule, None, next).await?)))
}

#[utoipa::path(post, path = "/api/v1/stacks/{stack}/schedules/{schedule}/run", tag = "schedules",
    params(("stack" = String, Path, description = "Id or name"), ("schedule" = String, Path)),
    responses((status = 201, body = JobView, description = "What it would do in its turn, now, for whoever asks")))]
async fn run(
    State(state): State<ApiState>,
    caller: Caller,
    Named((stack, name)): Named<(String, String)>,
) -> Result<(StatusCode, Json<JobView>), ApiError> {
    let schedule = named(&state, &caller, &stack, &name).await?;
    let job = due::make(&state, &caller, &schedule, None).await?;
    let views = JobViews::of(&state, &caller).await?;
    Ok((StatusCode::CREATED, Json(views.view(job))))
}

async fn named(state: &ApiState, caller: &Caller, stack: &str, name: &str) -> Result<Schedule, Failure> {
    let stack = state.store.stack(caller.org(), stack).await?;
    state.store.schedule(caller.org(), &stack.id, name).await
}

fn wrong(field: &str, why: String) -> Failure {
    Code::InvalidArgument.on(format!("{field}: {why}"))
}

fn view(schedule: Schedule) -> ScheduleView {
    let (job, said) = (schedule.last_job, schedule.last_said);
    ScheduleView {
        id: schedule.id,
        stack: StackName { id: schedule.stack, name: schedule.stack_name },
        name: schedule.name,
        kind: schedule.does,
        cron: schedule.cron,
        utc_offset: schedule.utc_offset,
        jitter_s: schedule.jitter_s,
        late: if schedule.late { Late::Run } else { Late::Skip },
        user: schedule.user_name,
        created_at_ms: schedule.created_at_ms,
        next_run_ms: schedule.paused_at_ms.is_none().then_some(schedule.due_ms),
        paused: schedule.paused_at_ms.map(|at_ms| Paused { at_ms, by: schedule.paused_by }),
        last: schedule.last_at_ms.map(|at_ms| Last { at_ms, job, said }),
        failures: schedule.failures,
    }
}
