//! Webhooks of Git hosts: made, with an address and a secret that are shown once, listed, removed, and what came by them. What comes in is
//! `deliveries`' business.

use super::deliveries::Answer;
use super::hooks::Host;
use super::{ApiError, ApiState, Body, Caller, Named, Params, Routes};
use crate::store::{Delivery, Role, Stack, Webhook};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::glob::Glob;
use shared_proto::now_ms;
use utoipa::{OpenApi, ToSchema};

/// Webhooks of one organization.
const WEBHOOKS_MAX: usize = 100;
/// Stacks of one hook.
const ROUTES_MAX: usize = 50;
/// Patterns, and variables, of one route.
const PATTERNS_MAX: usize = 50;

#[derive(OpenApi)]
#[openapi(paths(create, list, remove, deliveries))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("post", "/webhooks", create)
        .add("get", "/webhooks", list)
        .add("delete", "/webhooks/{webhook}", remove)
        .add("get", "/webhooks/{webhook}/deliveries", deliveries)
}

/// What a push is made into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OfPush {
    /// An update, which waits for its approval.
    #[default]
    Update,
    /// A preview.
    Preview,
}
/// What becomes of pull requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PullRequests {
    /// They are previewed as of an untrusted source.
    #[default]
    Untrusted,
    /// Those whose branch is one of the repository itself get what the stack's own previews get: who may push there is trusted.
    TrustOwn,
    /// Nothing.
    Off,
}
/// A stack that a hook is about.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Id or name; kept, and shown, as id.
    pub(super) stack: String,
    /// Patterns, in which `*` stands for anything; where there are none, the stack's own reference, or the default branch where it has none.
    #[serde(default)]
    pub(super) branches: Vec<String>,
    /// Patterns of files, of which a push must have changed one. Where a host does not tell them all, it counts as if it had.
    #[serde(default)]
    pub(super) paths: Vec<String>,
    #[serde(default)]
    pub(super) kind: OfPush,
    #[serde(default)]
    pub(super) pull_requests: PullRequests,
    /// The stack's variables that previews of untrusted sources get.
    #[serde(default)]
    pub(super) variables: Vec<String>,
}
/// A webhook to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookBody {
    host: Host,
    routes: Vec<Route>,
}
/// A webhook.
#[derive(Serialize, ToSchema)]
struct WebhookView {
    /// A part of its address: who has that still needs the secret.
    id: String,
    host: String,
    routes: Vec<RouteView>,
    /// The user for whom its jobs are made.
    user: String,
    created_at_ms: i64,
}
/// A stack that a hook is about.
#[derive(Serialize, ToSchema)]
struct RouteView {
    /// Its name; its id where it is gone.
    name: String,
    #[serde(flatten)]
    route: Route,
}
/// A webhook that was just made.
#[derive(Serialize, ToSchema)]
struct NewWebhook {
    #[serde(flatten)]
    webhook: WebhookView,
    /// Where the host is to send to, below the API's address.
    path: String,
    /// By which the host signs. It is not shown again.
    secret: String,
}
/// A list of webhooks.
#[derive(Serialize, ToSchema)]
struct WebhookList {
    items: Vec<WebhookView>,
}
/// What came by a hook.
#[derive(Serialize, ToSchema)]
struct DeliveryView {
    /// The digest of what was signed.
    sha256: String,
    /// As the host names it.
    delivery: String,
    event: String,
    /// How often it came; jobs were made the first time alone.
    times: i64,
    received_at_ms: i64,
    /// What was answered: `jobs`, `skipped`, `said`.
    #[schema(value_type = Object)]
    answer: Answer,
}
/// A list of deliveries.
#[derive(Serialize, ToSchema)]
struct DeliveryList {
    items: Vec<DeliveryView>,
}

#[utoipa::path(post, path = "/api/v1/webhooks", tag = "webhooks", request_body = WebhookBody,
    responses((status = 201, body = NewWebhook, description = "Its jobs are made for the user who makes it")))]
async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    Body(body): Body<WebhookBody>,
) -> Result<(StatusCode, Json<NewWebhook>), ApiError> {
    caller.require(Role::Owner)?;
    if state.store.webhooks(caller.org()).await?.len() >= WEBHOOKS_MAX {
        return Err(Code::Busy.on(format!("there are {WEBHOOKS_MAX} webhooks, which is the limit")).into());
    }
    let routes = checked_routes(&state, &caller, body.routes).await?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Code::Internal.on(format!("no randomness: {e}")))?;
    let hook = Webhook {
        id: format!("whk_{}", shared_proto::hex::encode(id)),
        organization: caller.org().to_owned(),
        host: body.host.as_str().to_owned(),
        secret: body.host.secret()?,
        routes: serde_json::to_string(&routes).map_err(|e| Code::Internal.on(e.to_string()))?,
        user_id: caller.user().id.clone(),
        user_name: caller.user().name.clone(),
        created_at_ms: now_ms(),
    };
    state.store.create_webhook(&hook).await?;
    tracing::info!(organization = caller.org(), user = caller.user().id, host = hook.host, "a webhook was made");
    let (path, secret) = (format!("/api/v1/hooks/{}", hook.id), hook.secret.clone());
    let webhook = view(&state, &caller, hook).await?;
    Ok((StatusCode::CREATED, Json(NewWebhook { webhook, path, secret })))
}

#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", responses((status = 200, body = WebhookList)))]
async fn list(State(state): State<ApiState>, caller: Caller, params: Params) -> Result<Json<WebhookList>, ApiError> {
    params.finish()?;
    caller.require(Role::Owner)?;
    let mut items = Vec::new();
    for hook in state.store.webhooks(caller.org()).await? {
        items.push(view(&state, &caller, hook).await?);
    }
    Ok(Json(WebhookList { items }))
}

#[utoipa::path(delete, path = "/api/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path)),
    responses((status = 204)))]
async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Named(webhook): Named<String>,
) -> Result<StatusCode, ApiError> {
    caller.require(Role::Owner)?;
    state.store.remove_webhook(caller.org(), &webhook).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/api/v1/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(("webhook" = String, Path), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = DeliveryList, description = "Newest first; what was not signed is not among them")))]
async fn deliveries(
    State(state): State<ApiState>,
    caller: Caller,
    Named(webhook): Named<String>,
    mut params: Params,
) -> Result<Json<DeliveryList>, ApiError> {
    let limit = params.limit()?;
    params.finish()?;
    caller.require(Role::Owner)?;
    let hook = state.store.webhook(caller.org(), &webhook).await?;
    let items = state.store.deliveries(&hook.id, limit).await?;
    Ok(Json(DeliveryList { items: items.into_iter().map(delivery).collect() }))
}

/// Holds routes against their form, and names their stacks by id.
async fn checked_routes(state: &ApiState, caller: &Caller, mut routes: Vec<Route>) -> Result<Vec<Route>, Failure> {
    if !(1..=ROUTES_MAX).contains(&routes.len()) {
        return Err(Code::InvalidArgument.on(format!("routes names {} stacks: 1 to {ROUTES_MAX}", routes.len())));
    }
    for route in &mut routes {
        let stack = state.store.stack(caller.org(), &route.stack).await?;
        if super::stacks::source_of(&stack)?.git().is_none() {
            return Err(Code::InvalidArgument.on(format!("the source of stack {} is no Git repository", stack.name)));
        }
        for (field, patterns) in [("branches", &route.branches), ("paths", &route.paths)] {
            if patterns.len() > PATTERNS_MAX {
                return Err(
                    Code::TooLarge.on(format!("{field} has {} patterns, the limit is {PATTERNS_MAX}", patterns.len()))
                );
            }
            for pattern in patterns {
                Glob::parse(pattern).map_err(|why| Code::InvalidArgument.on(format!("{field}: {why}")))?;
            }
        }
        if route.variables.len() > PATTERNS_MAX {
            return Err(Code::TooLarge.on(format!("variables has more than {PATTERNS_MAX} names")));
        }
        if !route.variables.is_empty() {
            are_of(state, caller, &stack, &route.variables).await?;
        }
        route.stack = stack.id;
    }
    Ok(routes)
}

/// Refuses a name that is no variable of the stack, or of one that previews of untrusted sources never get: it is a mistake that nobody would notice.
async fn are_of(state: &ApiState, caller: &Caller, stack: &Stack, names: &[String]) -> Result<(), Failure> {
    let values = super::stacks::values_of(state, caller, stack).await?;
    let inputs = super::inputs::inputs_of(stack)?;
    for name in names {
        if values.variables.names().any(|known| known == name) || inputs.contains_key(name) {
            continue;
        }
        let shown: String = name.chars().take(100).collect();
        return Err(match values.names().any(|known| known == name) {
            true => Code::InvalidArgument.on(format!(
                "variables: {shown} of stack {} is a secret, which no preview of an untrusted source gets",
                stack.name
            )),
            false => Code::InvalidArgument
                .on(format!("variables: the stack {} has no variable {shown:?}", stack.name))
                .next("Name one that it has: `runnerctl stack show`; or give it one first."),
        });
    }
    Ok(())
}

async fn view(state: &ApiState, caller: &Caller, hook: Webhook) -> Result<WebhookView, Failure> {
    let kept: Vec<Route> = serde_json::from_str(&hook.routes)
        .map_err(|e| Code::Internal.on(format!("the routes of a webhook do not read back: {e}")))?;
    let mut routes = Vec::with_capacity(kept.len());
    for route in kept {
        let name = match state.store.stack(caller.org(), &route.stack).await {
            Ok(stack) => stack.name,
            Err(failure) if failure.code == Code::NotFound => route.stack.clone(),
            Err(failure) => return Err(failure),
        };
        routes.push(RouteView { name, route });
    }
    Ok(WebhookView { id: hook.id, host: hook.host, routes, user: hook.user_name, created_at_ms: hook.created_at_ms })
}

fn delivery(of: Delivery) -> DeliveryView {
    DeliveryView {
        answer: serde_json::from_str(&of.answer).unwrap_or_default(),
        sha256: of.sha256,
        delivery: of.delivery,
        event: of.event,
        times: of.times,
        received_at_ms: of.received_at_ms,
    }
}
