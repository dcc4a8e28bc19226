//! What comes in from Git hosts, by addresses that take no token: `POST /api/v1/hooks/{id}`, signed by the hook's secret.
//!
//! ```text
//!  bounded ─▶ read, 1 MiB ─▶ signed? ─no─▶ 401, the same for an address that nobody has
//!                               └─yes─▶ too many? ─▶ came before? ─▶ read ─▶ for each stack: repository, branch, files ─▶ a job
//! ```
//! It must never make a job of a commit of another repository than the stack's own, never give a pull request more than an untrusted source gets unless
//! the hook says so, and never make two jobs of one delivery: what was signed is remembered by its digest, and each job by a key of that.

use super::due::acting;
use super::hooks::{Event, Host, PullRequest, Push, same_repository};
use super::new_job::{NewJobBody, make_job};
use super::stacks::source_of;
use super::webhooks::{OfPush, PullRequests, Route};
use super::{ApiError, ApiState, Caller, extract};
use crate::store::{Delivery, Idempotency, JobKind, Stack, Webhook};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::glob::Glob;
use shared_proto::now_ms;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The largest delivery, bytes. GitHub sends up to 25 MiB: of a push with thousands of commits, which is refused.
pub(super) const DELIVERY_MAX: usize = 1024 * 1024;
/// Deliveries that are being read or acted on at once.
const AT_ONCE: usize = 16;
/// How long one may take to come.
const READ_WITHIN: Duration = Duration::from_secs(15);
/// Signed deliveries of one hook in a window, and the window.
const RATE: u32 = 120;
const WINDOW: Duration = Duration::from_secs(60);

/// The deliveries that are under way, and how many of each hook there were lately. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Deliveries {
    slots: Arc<Semaphore>,
    /// Of hooks that are there, and whose secret the sender had: no more than there are.
    lately: Arc<Mutex<HashMap<String, (Instant, u32)>>>,
}

/// What is answered to one that is signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The jobs that were made of it.
    #[serde(default)]
    pub(super) jobs: Vec<Made>,
    /// The stacks of which none was, and why.
    #[serde(default)]
    pub(super) skipped: Vec<Skipped>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) said: Option<String>,
    /// It was refused, as it is not of the form that its host documents: sent again it is read again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) refused: bool,
}
/// A job that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) stack: String,
    pub(super) job: String,
}
/// A stack of which none was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Skipped {
    pub(super) stack: String,
    pub(super) why: String,
    /// It could not be made: sent again it is tried again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) failed: bool,
}

/// The route.
pub(super) fn arriving() -> Router<ApiState> {
    let route = post(arrive).layer(axum::middleware::from_fn(super::deadline));
    Router::new().route("/api/v1/hooks/{hook}", route)
}

// === impl Deliveries ===

impl Default for Deliveries {
    fn default() -> Self {
        Self { slots: Arc::new(Semaphore::new(AT_ONCE)), lately: Arc::default() }
    }
}

impl Deliveries {
    /// Counts a signed delivery of a hook.
    fn count(&self, hook: &str) -> Result<(), Failure> {
        let now = Instant::now();
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.retain(|_, (begun, _)| now.duration_since(*begun) < WINDOW);
        let (_, count) = lately.entry(hook.to_owned()).or_insert((now, 0));
        *count += 1;
        if *count > RATE {
            let message = format!("the hook has had {RATE} deliveries within {} s", WINDOW.as_secs());
            return Err(Code::Busy.on(message));
        }
        Ok(())
    }
}

async fn arrive(State(state): State<ApiState>, Path(hook): Path<String>, request: Request) -> Response {
    match answered(&state, &hook, request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(failure) => ApiError::from(failure).into_response(),
    }
}

async fn answered(state: &ApiState, id: &str, request: Request) -> Result<Answer, Failure> {
    let _slot = state.deliveries.slots.try_acquire().map_err(|_| Code::Busy.on("too many deliveries at once"))?;
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let hook = if is_id(id) { state.store.webhook_of_any(id).await? } else { None };
    // what nobody has is held against a secret that nobody has: it takes as long
    let (host, secret) = match &hook {
        Some(hook) => (Host::named(&hook.host).unwrap_or(Host::Github), hook.secret.as_str()),
        None => (Host::Github, ""),
    };
    let signed = host.is_signed(&parts.headers, &body, secret, now_ms());
    let Some(hook) = hook.filter(|_| signed) else {
        return Err(Code::Unauthenticated
            .on("there is no such hook, or the delivery is not signed by its secret")
            .next("Check address and secret at the Git host."));
    };
    state.deliveries.count(&hook.id)?;
    let sha256 = shared_proto::hex::encode(Sha256::digest(&body));
    if let Some(answer) = state.store.delivered_before(&hook.id, &sha256).await? {
        let before: Answer = serde_json::from_str(&answer).unwrap_or_default();
        // a job that was made is known again by its key
        if !before.refused && !before.skipped.iter().any(|skipped| skipped.failed) {
            return Ok(before);
        }
    }
    let (delivery, event) = host.named_in(&parts.headers);
    let (answer, refused) = match host.read(&event, &body) {
        Ok(read) => (act(state, &hook, read, &sha256).await?, None),
        Err(failure) => {
            let said = format!("refused: {failure}");
            (Answer { said: Some(said), refused: true, ..Answer::default() }, Some(failure))
        }
    };
    let made = answer.jobs.len();
    tracing::info!(hook = hook.host, organization = hook.organization, event, jobs = made, "a delivery of a Git host");
    let text = serde_json::to_string(&answer).map_err(|e| Code::Internal.on(e.to_string()))?;
    let received_at_ms = now_ms();
    let kept = Delivery { sha256, delivery, event, answer: text, times: 1, received_at_ms };
    state.store.delivered(&hook.id, &kept).await?;
    refused.map_or(Ok(answer), Err)
}

async fn read(body: Body) -> Result<Bytes, Failure> {
    let read = tokio::time::timeout(READ_WITHIN, extract::read(body, DELIVERY_MAX)).await;
    read.unwrap_or_else(|_| Err(Code::DeadlineExceeded.on("the delivery did not come in time")))
}

/// Whether it could be a hook's: `whk_` and 32 digits.
fn is_id(text: &str) -> bool {
    text.strip_prefix("whk_").is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

async fn act(state: &ApiState, hook: &Webhook, event: Event, sha256: &str) -> Result<Answer, Failure> {
    let said = |text: &str| Ok(Answer { said: Some(text.to_owned()), ..Answer::default() });
    let routes: Vec<Route> = serde_json::from_str(&hook.routes)
        .map_err(|e| Code::Internal.on(format!("the routes of a webhook do not read back: {e}")))?;
    let Some(caller) = acting(state, &hook.organization, &hook.user_id).await? else {
        return said("the user who has made the hook is gone: make another one");
    };
    let mut answer = Answer::default();
    match event {
        Event::Ping => return said("the hook is there"),
        Event::Nothing(why) => return said(&why),
        Event::Pushes(pushes) => {
            for push in &pushes {
                for route in &routes {
                    let job = Wanted::of_push(push, route);
                    job.make(state, &caller, hook, sha256, &mut answer).await?;
                }
            }
        }
        Event::PullRequest(request) => {
            for route in &routes {
                let job = Wanted::of_pull_request(&request, route);
                job.make(state, &caller, hook, sha256, &mut answer).await?;
            }
        }
    }
    Ok(answer)
}

/// What a delivery would have made of a stack.
struct Wanted<'a> {
    route: &'a Route,
    repository: &'a [String],
    branch: &'a str,
    default_branch: Option<&'a str>,
    commit: &'a str,
    files: Option<&'a [String]>,
    /// What of pull requests it is; none: it is of a push.
    pull_request: Option<&'a PullRequest>,
}

// === impl Wanted ===

impl<'a> Wanted<'a> {
    fn of_push(push: &'a Push, route: &'a Route) -> Self {
        Self {
            route,
            repository: &push.repository,
            branch: &push.branch,
            default_branch: push.default_branch.as_deref(),
            commit: &push.commit,
            files: push.files.as_deref(),
            pull_request: None,
        }
    }
    fn of_pull_request(request: &'a PullRequest, route: &'a Route) -> Self {
        Self {
            route,
            repository: &request.repository,
            branch: &request.target,
            default_branch: request.default_branch.as_deref(),
            commit: &request.head,
            files: None,
            pull_request: Some(request),
        }
    }

    /// Makes the job, or says why not. Only what is nobody's fault but the control plane's fails: the host sends it again.
    async fn make(
        &self,
        state: &ApiState,
        caller: &Caller,
        hook: &Webhook,
        sha256: &str,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let stack = match state.store.stack(caller.org(), &self.route.stack).await {
            Ok(stack) => stack,
            Err(failure) if failure.code == Code::NotFound => {
                answer.skipped.push(Skipped {
                    stack: self.route.stack.clone(),
                    why: "the stack is gone".into(),
                    failed: false,
                });
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let name = stack.name.clone();
        let body = match self.body(&stack)? {
            Ok(body) => body,
            Err(why) => {
                answer.skipped.push(Skipped { stack: name, why, failed: false });
                return Ok(());
            }
        };
        let digest = Sha256::digest(format!("{} {} {} {sha256}", hook.id, stack.id, self.commit));
        let key = format!("hook-{}", &shared_proto::hex::encode(digest)[..40]);
        let asked_sha256 = Sha256::digest(&key).to_vec();
        let idempotency = Some(Idempotency { key, asked_sha256 });
        // not the whole id: with that and the secret deliveries are made
        let origin = Some(format!("webhook {}", hook.host));
        match make_job(state, caller, stack, body, idempotency, origin).await {
            Ok(job) => answer.jobs.push(Made { stack: name, job: job.id }),
            Err(failure) if matches!(failure.code, Code::Internal | Code::DiskFull | Code::DiskUnwritable) => {
                return Err(failure);
            }
            Err(failure) => {
                let why = format!("{}: {}", failure.code, failure.message);
                answer.skipped.push(Skipped { stack: name, why, failed: true });
            }
        }
        Ok(())
    }

    /// What is asked of the job, or why there is none.
    fn body(&self, stack: &Stack) -> Result<Result<NewJobBody, String>, Failure> {
        let source = source_of(stack)?;
        let no = |why: &str| Ok(Err(why.to_owned()));
        let Some((url, reference)) = source.git() else { return no("its source is an archive") };
        if !same_repository(url, self.repository) {
            return no("its source is another repository");
        }
        if !self.is_its_branch(reference) {
            return no("it is of another branch");
        }
        let touched = |files: &[String]| files.iter().any(|file| matches(&self.route.paths, file));
        if !self.route.paths.is_empty() && !self.files.is_none_or(touched) {
            return no("no file of its paths was changed");
        }
        let of = match (self.pull_request, self.route.pull_requests) {
            (None, _) => NewJobBody::of(match self.route.kind {
                OfPush::Update => JobKind::Update,
                OfPush::Preview => JobKind::Preview,
            }),
            (Some(_), PullRequests::Off) => return no("pull requests are not previewed"),
            (Some(request), PullRequests::TrustOwn) if request.own => NewJobBody::of(JobKind::Preview),
            (Some(_), _) => NewJobBody {
                untrusted: true,
                stack_variables: Some(self.route.variables.clone()),
                ..NewJobBody::of(JobKind::Preview)
            },
        };
        Ok(Ok(NewJobBody { source: source.at(self.commit), ..of }))
    }

    /// Whether it is one of the route's branches; where that names none, the stack's own reference, or the default branch where it has none.
    fn is_its_branch(&self, reference: &str) -> bool {
        if !self.route.branches.is_empty() {
            return matches(&self.route.branches, self.branch);
        }
        let reference = reference.strip_prefix("refs/heads/").unwrap_or(reference);
        match reference {
            "" | "HEAD" => self.default_branch == Some(self.branch),
            reference => reference == self.branch,
        }
    }
}

/// Whether any of these patterns, which were checked when they were taken, fits.
fn matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().filter_map(|pattern| Glob::parse(pattern).ok()).any(|glob| glob.matches(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_has_so_many_deliveries_in_a_window() {
        let deliveries = Deliveries::default();
        for _ in 0..RATE {
            assert!(deliveries.count("whk_a").is_ok());
        }
        assert_eq!(deliveries.count("whk_a").expect_err("too many").code, Code::Busy);
        assert!(deliveries.count("whk_b").is_ok(), "others are not bounded by it");
    }

    #[test]
    fn ids_have_one_form() {
        assert!(is_id(&format!("whk_{}", "0a".repeat(16))));
        for bad in ["", "whk_", "whk_0", &format!("whk_{}", "0g".repeat(16)), &format!("stk_{}", "0a".repeat(16))] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
