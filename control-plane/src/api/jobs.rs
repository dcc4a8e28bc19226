//! Jobs: looked at, followed, decided on.

use super::{ApiError, ApiState, Caller, Named, OptionalBody, Params, Routes, StreamPlace};
use crate::execution::{Change, WaitsFor};
use crate::store::{Job, JobEnd, JobKind, Plan, Store};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use utoipa::{OpenApi, ToSchema};

/// Events of one answer; also what a follower holds at once.
const EVENTS_MAX: u32 = 500;
/// A comment is sent where nothing else is for so long, so that nothing between closes the stream.
const SSE_ALIVE: Duration = Duration::from_secs(15);

#[derive(OpenApi)]
#[openapi(paths(list, show, plan, events, approve, discard, cancel))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("get", "/jobs", list)
        .add("get", "/jobs/{job}", show)
        .add("get", "/jobs/{job}/plan", plan)
        .add_stream("get", "/jobs/{job}/events", events)
        .add("post", "/jobs/{job}/approve", approve)
        .add("post", "/jobs/{job}/discard", discard)
        .add("post", "/jobs/{job}/cancel", cancel)
}

/// A job.
#[derive(Serialize, ToSchema)]
pub(super) struct JobView {
    id: String,
    stack: StackName,
    kind: JobKind,
    /// pending, assigned, preparing, planning, planned, awaiting_approval, applying, applied, no_changes, failed, canceled,
    /// discarded, lost.
    phase: &'static str,
    /// The runner's name.
    runner: String,
    /// The instance that has it.
    instance_id: Option<String>,
    approve_automatically: bool,
    /// A refresh that ends with its plan.
    preview_only: bool,
    /// Its source is not trusted: it got no secrets and no credentials.
    untrusted: bool,
    /// It is applied without asking where the runner's own policy lets it be.
    reconcile: bool,
    /// What made it: `schedule NAME` or `webhook ID`; none: a user's request.
    origin: Option<String>,
    created_by: String,
    created_at_ms: i64,
    started_at_ms: Option<i64>,
    ended_at_ms: Option<i64>,
    /// The commit, or the archive's digest.
    revision: Option<String>,
    plan: Option<Plan>,
    /// The engine's outputs; a sensitive one has no value.
    outputs: Option<serde_json::Value>,
    result: Option<JobEnd>,
    approved_by: Option<String>,
    canceled_by: Option<String>,
    /// How the workers were isolated that had it, the weakest of them: minimal, confined or namespaces; none where no worker had it.
    isolation_level: Option<String>,
    /// How often a secret was taken out of its events; none where no step of it has ended.
    redacted: Option<u64>,
    /// What was secret and too short to be taken out of them: variables, and connections as `connection NAME`.
    not_redacted: BTreeSet<String>,
    /// The newest event's number.
    last_sequence: u64,
    /// When its events and its plan were removed for their age; none: they are there.
    events_removed_at_ms: Option<i64>,
    /// What it waits for, where it is pending and that is known.
    waits_for: Option<WaitsFor>,
}
/// A stack that something is of.
#[derive(Serialize, ToSchema)]
pub(super) struct StackName {
    pub(super) id: String,
    pub(super) name: String,
}
/// A list of jobs.
#[derive(Serialize, ToSchema)]
struct JobList {
    items: Vec<JobView>,
}
/// Events of a job.
#[derive(Serialize, ToSchema)]
struct EventList {
    /// Each has a number, a time and a body that is named after its kind.
    #[schema(value_type = Vec<Object>)]
    items: Vec<v1::Event>,
}
/// An approval.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ApproveBody {
    /// The plan that is approved; refused where the job has another one.
    plan_sha256: Option<String>,
}
/// Nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DiscardBody {}
/// A cancel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    /// Do not wait for the engine. Where the job's instance does not answer, the job is given up as lost.
    #[serde(default)]
    force: bool,
}

/// What it takes to show jobs: the names of the organization's runners.
pub(super) struct JobViews {
    runners: HashMap<String, String>,
}

// === impl JobViews ===

impl JobViews {
    pub(super) async fn of(state: &ApiState, caller: &Caller) -> Result<Self, Failure> {
        let runners = state.store.runners(caller.org(), super::LIST_MAX).await?;
        Ok(Self { runners: runners.into_iter().map(|r| (r.id, r.name)).collect() })
    }
    pub(super) fn view(&self, job: Job) -> JobView {
        JobView {
            plan: job.plan(),
            events_removed_at_ms: job.events_removed_at_ms,
            phase: job.phase.as_str(),
            redacted: job.redacted.and_then(|n| u64::try_from(n).ok()),
            not_redacted: job.not_redacted(),
            outputs: job.outputs.as_deref().and_then(|o| serde_json::from_str(o).ok()),
            result: job.result.as_deref().and_then(|r| serde_json::from_str(r).ok()),
            runner: self.runners.get(&job.runner).cloned().unwrap_or(job.runner),
            // one that was taken back has none, though it is remembered for a late Accept
            instance_id: job.instance.filter(|_| job.accepted || job.assigned_at_ms.is_some()),
            id: job.id,
            stack: StackName { id: job.stack, name: job.stack_name },
            kind: job.kind,
            approve_automatically: job.approve_automatically,
            preview_only: job.preview_only,
            untrusted: job.untrusted,
            reconcile: job.reconcile,
            origin: job.origin,
            created_by: job.created_by,
            created_at_ms: job.created_at_ms,
            started_at_ms: job.started_at_ms,
            ended_at_ms: job.ended_at_ms,
            revision: job.revision,
            approved_by: job.approved_by,
            canceled_by: job.canceled_by,
            isolation_level: job.isolation_level,
            last_sequence: u64::try_from(job.last_sequence).unwrap_or(0),
            waits_for: None,
        }
    }
    /// With what the pending ones wait for.
    async fn explained(&self, state: &ApiState, caller: &Caller, jobs: Vec<Job>) -> Result<Vec<JobView>, Failure> {
        let mut waiting = state.jobs.waiting(caller.org(), &jobs).await?;
        let explained = |job: Job| JobView { waits_for: waiting.remove(&job.id), ..self.view(job) };
        Ok(jobs.into_iter().map(explained).collect())
    }
}

#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs",
    params(("stack" = Option<String>, Query, description = "Id or name"), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = JobList, description = "Newest first")))]
async fn list(State(state): State<ApiState>, caller: Caller, mut params: Params) -> Result<Json<JobList>, ApiError> {
    let stack = params.text("stack")?;
    let limit = params.limit()?;
    params.finish()?;
    let stack = match stack {
        Some(stack) => Some(state.store.stack(caller.org(), &stack).await?.id),
        None => None,
    };
    let views = JobViews::of(&state, &caller).await?;
    let jobs = state.store.jobs(caller.org(), stack.as_deref(), limit).await?;
    let mut items = views.explained(&state, &caller, jobs).await?;
    // as with its text: of one job it is what is asked for, of all of them it is too much
    for judgement in items.iter_mut().filter_map(|job| job.plan.as_mut()?.judgement.as_mut()) {
        judgement.findings.clear();
    }
    Ok(Json(JobList { items }))
}

#[utoipa::path(get, path = "/api/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = JobView)))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(job): Named<String>,
) -> Result<Json<JobView>, ApiError> {
    let job = state.store.job(caller.org(), &job).await?;
    let views = JobViews::of(&state, &caller).await?;
    let waiting = state.jobs.waiting(caller.org(), std::slice::from_ref(&job)).await?.remove(&job.id);
    Ok(Json(JobView { waits_for: waiting, ..views.view(job) }))
}

#[utoipa::path(get, path = "/api/v1/jobs/{job}/plan", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = Object, description = "The plan as a document, as docs/plans.md describes it: version, engine, kind, \
        has_changes, complete, errored, summary, resources, outputs, drift, checks, left_out. No sensitive value is in it; `not_found` where \
        there is none")))]
async fn plan(State(state): State<ApiState>, caller: Caller, Named(job): Named<String>) -> Result<Response, ApiError> {
    let document = state.store.plan_document(caller.org(), &job).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response())
}

#[utoipa::path(post, path = "/api/v1/jobs/{job}/approve", tag = "jobs", request_body = Option<ApproveBody>,
    params(("job" = String, Path)), responses((status = 200, body = JobView)))]
async fn approve(
    State(state): State<ApiState>,
    caller: Caller,
    Named(job): Named<String>,
    OptionalBody(body): OptionalBody<ApproveBody>,
) -> Result<Json<JobView>, ApiError> {
    let job = state.jobs.approve(caller.org(), &job, &caller.user().name, body.plan_sha256.as_deref()).await?;
    Ok(Json(JobViews::of(&state, &caller).await?.view(job)))
}

#[utoipa::path(post, path = "/api/v1/jobs/{job}/discard", tag = "jobs", request_body = Option<DiscardBody>,
    params(("job" = String, Path)), responses((status = 200, body = JobView)))]
async fn discard(
    State(state): State<ApiState>,
    caller: Caller,
    Named(job): Named<String>,
    OptionalBody(DiscardBody {}): OptionalBody<DiscardBody>,
) -> Result<Json<JobView>, ApiError> {
    let job = state.jobs.discard(caller.org(), &job, &caller.user().name).await?;
    Ok(Json(JobViews::of(&state, &caller).await?.view(job)))
}

#[utoipa::path(post, path = "/api/v1/jobs/{job}/cancel", tag = "jobs", request_body = Option<CancelBody>,
    params(("job" = String, Path)), responses((status = 200, body = JobView)))]
async fn cancel(
    State(state): State<ApiState>,
    caller: Caller,
    Named(job): Named<String>,
    OptionalBody(body): OptionalBody<CancelBody>,
) -> Result<Json<JobView>, ApiError> {
    let job = state.jobs.cancel(caller.org(), &job, &caller.user().name, body.force).await?;
    Ok(Json(JobViews::of(&state, &caller).await?.view(job)))
}

#[utoipa::path(get, path = "/api/v1/jobs/{job}/events", tag = "jobs",
    params(("job" = String, Path), ("after" = Option<u64>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = EventList, description = "With `Accept: text/event-stream`: followed, `id:` is the number, \
        `event: end` after the last")))]
async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    Named(job): Named<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = params.number("after", 0..=i64::MAX.unsigned_abs())?.unwrap_or(0);
    let limit = params.number("limit", 1..=EVENTS_MAX)?.unwrap_or(EVENTS_MAX);
    params.finish()?;
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let follows =
        accepts.filter_map(|v| v.split(';').next()).any(|v| v.trim().eq_ignore_ascii_case("text/event-stream"));
    if !follows {
        let items = state.store.job_events(caller.org(), &job, after, limit).await?;
        return Ok(Json(EventList { items }).into_response());
    }
    let after = match headers.get("last-event-id") {
        None => after,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|v| v.trim().parse().ok())
            .ok_or_else(|| Code::InvalidArgument.on("the header last-event-id is not an event's number"))?,
    };
    // before the first look, so that nothing between the two is missed
    let changes = state.jobs.changes();
    state.store.job(caller.org(), &job).await?;
    let follower = Follower {
        store: state.store.clone(),
        organization: caller.org().to_owned(),
        job,
        after,
        ready: VecDeque::new(),
        changes,
        leaving: state.leaving.clone(),
        place: Some(state.streams.take(&caller.user().id)?),
    };
    let mut response = Response::new(axum::body::Body::from_stream(stream::unfold(follower, Follower::step)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One reader of a job's events. It holds one answer of the store at most, and reads on as its client takes them.
struct Follower {
    store: Store,
    organization: String,
    job: String,
    after: u64,
    ready: VecDeque<v1::Event>,
    changes: broadcast::Receiver<Change>,
    leaving: CancellationToken,
    /// Taken out with the end: there is nothing after it.
    place: Option<StreamPlace>,
}

// === impl Follower ===

impl Follower {
    async fn step(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        self.place.as_ref()?;
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.sequence;
                return Some((one(&event), self));
            }
            match self.look().await {
                Ok(Some(end)) => {
                    self.place = None;
                    return Some((Ok(end), self));
                }
                Ok(None) if !self.ready.is_empty() => continue,
                Ok(None) => {}
                Err(failure) => {
                    self.place = None;
                    return Some((Err(std::io::Error::other(failure.message)), self));
                }
            }
            tokio::select! {
                () = self.leaving.cancelled() => return None,
                () = tokio::time::sleep(SSE_ALIVE) => return Some((Ok(Bytes::from_static(b": alive\n\n")), self)),
                () = news(&mut self.changes, &self.job) => {}
            }
        }
    }

    /// Reads on; the end, where there is nothing more and will be nothing more.
    async fn look(&mut self) -> Result<Option<Bytes>, Failure> {
        // the job first: what it says has ended has all its events in the second look
        let job = self.store.job(&self.organization, &self.job).await?;
        self.ready = self.store.job_events(&self.organization, &self.job, self.after, EVENTS_MAX).await?.into();
        if !self.ready.is_empty() || !job.ended() {
            return Ok(None);
        }
        let phase = job.phase.as_str();
        Ok(Some(Bytes::from(format!("event: end\ndata: {{\"phase\":\"{phase}\"}}\n\n"))))
    }
}

fn one(event: &v1::Event) -> Result<Bytes, std::io::Error> {
    // JSON has no line breaks of its own
    let json = serde_json::to_string(event)?;
    Ok(Bytes::from(format!("id: {}\ndata: {json}\n\n", event.sequence)))
}

/// Waits for something new about the job.
async fn news(changes: &mut broadcast::Receiver<Change>, job: &str) {
    loop {
        match changes.recv().await {
            Ok(change) if change.job == job => return,
            Ok(_) => {}
            // some were missed: look
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            // cannot be: the state has a sender
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
