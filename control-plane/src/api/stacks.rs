//! Stacks: made, changed, deleted, and their jobs started.

use super::inputs::{self, Inputs};
use super::jobs::{JobView, JobViews};
use super::limits::Limits;
use super::new_job::{NewJobBody, make_job};
use super::scope;
use super::source::{Source, Variables, checked_connections, checked_names, checked_path, checked_version};
use super::stack_hooks::Hooks;
use super::values::{Reference, Sealed, Values, checked_sets};
use super::{ApiError, ApiState, Body, Caller, Named, OptionalBody, Params, Routes, checked};
use crate::sessions::LIST_MAX;
use crate::store::{Idempotency, NewStack, Runner, Stack};
use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use utoipa::{OpenApi, ToSchema};

/// Entries of a runner that a refusal names.
const SHOWN_MAX: usize = 20;
/// Jobs of a deleted stack that are looked through for the runner that has its state.
const JOBS_LOOKED_AT: u32 = 100;
/// Stacks of one organization.
pub(super) const STACKS_MAX: usize = 1000;

#[derive(OpenApi)]
#[openapi(paths(create, list, show, change, remove, start))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("post", "/stacks", create)
        .add("get", "/stacks", list)
        .add("get", "/stacks/{stack}", show)
        .add("put", "/stacks/{stack}", change)
        .add("delete", "/stacks/{stack}", remove)
        .add("post", "/stacks/{stack}/jobs", start)
}

/// A stack, as a user says it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StackBody {
    /// Like a DNS label, at most 63 characters.
    name: String,
    engine: Engine,
    /// The version of it that is asked for: a version, or a constraint such as `~> 1.9.0`; where absent, what the source asks for.
    engine_version: Option<String>,
    /// The runner that does its jobs, by id or name; the organization's default where absent.
    runner: Option<String>,
    source: Source,
    /// The folder inside the source that is the root module.
    path: Option<String>,
    /// The workspace of the configuration that its jobs are about; its default one where absent.
    workspace: Option<String>,
    /// Values by name: texts, numbers, booleans, lists and objects.
    #[serde(default)]
    variables: Variables,
    /// Variables whose values are in stores of the runner's own configuration, by name.
    #[serde(default)]
    secrets: BTreeMap<String, Reference>,
    /// Variables whose values only the runner can read, by name: a form for each of its keys.
    #[serde(default)]
    sealed: BTreeMap<String, Vec<Sealed>>,
    /// Sets of variables, each over those before it, and the stack's own over all of them.
    #[serde(default)]
    variable_sets: Vec<String>,
    /// Variables whose values are outputs of other stacks, by name: over those of sets, and in none of the other kinds.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, inputs::Input>)]
    inputs: Inputs,
    /// Whether an update is planned, and waits for its approval, once outputs of these stacks are other ones.
    #[serde(default)]
    follows: bool,
    /// Secret variables that may be shorter than eight bytes: such a value stays in what jobs record.
    #[serde(default)]
    not_redacted: Vec<String>,
    /// Entries of the runner's configuration whose credentials the engine gets.
    #[serde(default)]
    connections: Vec<String>,
    /// How long what may take in its jobs, beside what its runner allows.
    #[serde(default)]
    limits: Limits,
    /// What of its source its jobs run before and after plan and apply.
    #[serde(default)]
    hooks: Hooks,
}
/// What plans and applies.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Engine {
    OpenTofu,
    Terraform,
    Pulumi,
}
impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenTofu => "opentofu",
            Self::Terraform => "terraform",
            Self::Pulumi => "pulumi",
        })
    }
}

/// A stack.
#[derive(Serialize, ToSchema)]
struct StackView {
    id: String,
    name: String,
    engine: String,
    /// The version of it that is asked for; none: what the source asks for.
    engine_version: Option<String>,
    /// The runner's name; none: the organization's default.
    runner: Option<String>,
    source: Source,
    path: String,
    /// The workspace of the configuration; empty: its default one.
    workspace: String,
    variables: Variables,
    secrets: BTreeMap<String, Reference>,
    sealed: BTreeMap<String, Vec<Sealed>>,
    variable_sets: Vec<String>,
    #[schema(value_type = BTreeMap<String, inputs::Input>)]
    inputs: Inputs,
    follows: bool,
    /// Secret variables whose values stay in what jobs record, where they are shorter than eight bytes.
    not_redacted: Vec<String>,
    connections: Vec<String>,
    limits: Limits,
    hooks: Hooks,
    /// Another one whenever any of that is: a job that is made with it is made of the stack as it is here, or not at all.
    revision: String,
    /// The instance that applied its last plan, or may have: a stack without a backend has its state there.
    last_instance: Option<String>,
    created_at_ms: i64,
    last_job: Option<JobView>,
}
/// How a stack is deleted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    /// Also one whose resources nobody has destroyed: they stay.
    #[serde(default)]
    force: bool,
}
/// A stack that was deleted.
#[derive(Serialize, ToSchema)]
struct DeletedStack {
    id: String,
    name: String,
    /// Where its state stays, if it has no backend; none where no job has made one.
    state: Option<StateLeft>,
}
/// A state that nobody uses any more.
#[derive(Serialize, ToSchema)]
struct StateLeft {
    /// The instance that has it.
    instance_id: String,
    /// That instance's runner, by name.
    runner: String,
    /// Its folder inside that instance's state directory.
    folder: String,
}
/// A list of stacks.
#[derive(Serialize, ToSchema)]
struct StackList {
    items: Vec<StackView>,
}
/// Source, path and workspace, as the store keeps them.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptSource {
    pub(super) source: Source,
    pub(super) path: String,
    #[serde(default)]
    pub(super) workspace: String,
}

#[utoipa::path(post, path = "/api/v1/stacks", tag = "stacks", request_body = StackBody,
    responses((status = 201, body = StackView)))]
async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    Body(body): Body<StackBody>,
) -> Result<(StatusCode, Json<StackView>), ApiError> {
    let new = checked_stack(&state, &caller, None, body).await?;
    if state.store.stacks(caller.org(), STACKS_MAX as u32).await?.len() >= STACKS_MAX {
        return Err(Code::Busy.on(format!("there are {STACKS_MAX} stacks, which is the limit")).into());
    }
    let stack = state.store.create_stack(caller.org(), &new).await?;
    Ok((StatusCode::CREATED, Json(view(&state, &caller, stack).await?)))
}

#[utoipa::path(get, path = "/api/v1/stacks", tag = "stacks", params(("limit" = Option<u32>, Query)),
    responses((status = 200, body = StackList)))]
async fn list(State(state): State<ApiState>, caller: Caller, mut params: Params) -> Result<Json<StackList>, ApiError> {
    let limit = params.limit()?;
    params.finish()?;
    let mut items = Vec::new();
    for stack in state.store.stacks(caller.org(), limit).await? {
        items.push(view(&state, &caller, stack).await?);
    }
    Ok(Json(StackList { items }))
}

#[utoipa::path(get, path = "/api/v1/stacks/{stack}", tag = "stacks",
    params(("stack" = String, Path, description = "Id or name")), responses((status = 200, body = StackView)))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(stack): Named<String>,
) -> Result<Json<StackView>, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    Ok(Json(view(&state, &caller, stack).await?))
}

#[utoipa::path(put, path = "/api/v1/stacks/{stack}", tag = "stacks", request_body = StackBody,
    params(("stack" = String, Path, description = "Id or name")), responses((status = 200, body = StackView)))]
async fn change(
    State(state): State<ApiState>,
    caller: Caller,
    Named(stack): Named<String>,
    Body(body): Body<StackBody>,
) -> Result<Json<StackView>, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    let new = checked_stack(&state, &caller, Some(&stack), body).await?;
    let stack = state.store.update_stack(caller.org(), &stack.id, &new).await?;
    Ok(Json(view(&state, &caller, stack).await?))
}

#[utoipa::path(delete, path = "/api/v1/stacks/{stack}", tag = "stacks",
    request_body = Option<DeleteBody>, params(("stack" = String, Path, description = "Id or name")),
    responses((status = 200, body = DeletedStack)))]
async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Named(stack): Named<String>,
    OptionalBody(body): OptionalBody<DeleteBody>,
) -> Result<Json<DeletedStack>, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    if !body.force {
        inputs::carries_nothing(&state, &caller, &stack).await?;
    }
    let stack = state.store.delete_stack(caller.org(), &stack.id, body.force).await?;
    let left = match stack.last_instance {
        None => None,
        Some(instance_id) => {
            let jobs = state.store.jobs(caller.org(), Some(&stack.id), JOBS_LOOKED_AT).await?;
            let of = jobs.into_iter().find(|job| job.instance.as_ref() == Some(&instance_id));
            let runner = match of {
                Some(job) => state.store.runner(caller.org(), &job.runner).await.map(|r| r.name).unwrap_or_default(),
                None => String::new(),
            };
            Some(StateLeft { instance_id, runner, folder: format!("stacks/{}", stack.id) })
        }
    };
    Ok(Json(DeletedStack { id: stack.id, name: stack.name, state: left }))
}

/// Starts a job. A request that is sent again with the key of its first time, as its answer was lost, is answered with the job that it made.
#[utoipa::path(post, path = "/api/v1/stacks/{stack}/jobs", tag = "jobs", request_body = NewJobBody,
    params(("stack" = String, Path, description = "Id or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 63 letters, digits, dashes or underscores; the user's own")),
    responses((status = 201, body = JobView)))]
async fn start(
    State(state): State<ApiState>,
    caller: Caller,
    Named(stack): Named<String>,
    headers: HeaderMap,
    Body(body): Body<NewJobBody>,
) -> Result<(StatusCode, Json<JobView>), ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    let idempotency = match checked::idempotency_key(&headers)? {
        None => None,
        Some(key) => {
            let asked = json(&(&stack.id, &body))?;
            Some(Idempotency { key, asked_sha256: Sha256::digest(asked).to_vec() })
        }
    };
    let job = make_job(&state, &caller, stack, body, idempotency, None).await?;
    let views = JobViews::of(&state, &caller).await?;
    Ok((StatusCode::CREATED, Json(views.view(job))))
}

/// The stack's source as it is kept.
///
/// # Errors
/// `internal`.
pub(super) fn source_of(stack: &Stack) -> Result<Source, Failure> {
    Ok(read_back::<KeptSource>(&stack.source, stack)?.source)
}

async fn checked_stack(
    state: &ApiState,
    caller: &Caller,
    own: Option<&Stack>,
    body: StackBody,
) -> Result<NewStack, Failure> {
    let runner = match &body.runner {
        Some(runner) => Some(usable(state.store.runner(caller.org(), runner).await?)?.id),
        None => None,
    };
    let connections = checked_connections(body.connections)?;
    if let Some(runner) = runner.as_deref().or(caller.organization().default_runner.as_deref()) {
        known_to_runner(state, caller, runner, &connections)?;
        let instances = state.sessions.instances(caller.org(), runner);
        runner_has(&body.engine.to_string(), &instances.into_iter().map(|i| i.engines).collect::<Vec<_>>())?;
    }
    let kept = KeptSource {
        path: checked_path(body.path.unwrap_or_default())?,
        workspace: scope::checked_workspace(body.workspace.unwrap_or_default())?,
        source: body.source.checked(state, caller).await?,
    };
    let values = Values { variables: body.variables, secrets: body.secrets, sealed: body.sealed }.checked()?;
    let sets = checked_sets(body.variable_sets)?;
    for set in &sets {
        state.store.variable_set(caller.org(), set).await?;
    }
    let inputs = inputs::checked(state, caller, own, body.inputs).await?;
    if let Some(twice) = values.names().find(|name| inputs.contains_key(*name)) {
        return Err(Code::InvalidArgument.on(format!("the variable {twice} has a value, and is an input as well")));
    }
    Ok(NewStack {
        name: checked::name("name", &body.name)?,
        engine: body.engine.to_string(),
        engine_version: body.engine_version.map(checked_version).transpose()?,
        runner,
        source: json(&kept)?,
        variables: json(&values.variables)?,
        secrets: json(&values.secrets)?,
        sealed: json(&values.sealed)?,
        variable_sets: json(&sets)?,
        inputs: json(&inputs)?,
        follows: body.follows,
        not_redacted: json(&checked_names(body.not_redacted)?)?,
        connections: json(&connections)?,
        limits: json(&body.limits.checked()?)?,
        hooks: json(&body.hooks.checked()?)?,
    })
}

/// The values of a stack's variables: of its sets in their order, and its own over them.
pub(super) async fn values_of(state: &ApiState, caller: &Caller, stack: &Stack) -> Result<Values, Failure> {
    let mut values = Values::default();
    for set in read_back::<Vec<String>>(&stack.variable_sets, stack)? {
        let set = state.store.variable_set(caller.org(), &set).await?;
        values = values.over(super::variable_sets::values(&set)?);
    }
    let own = Values {
        variables: read_back(&stack.variables, stack)?,
        secrets: read_back(&stack.secrets, stack)?,
        sealed: read_back(&stack.sealed, stack)?,
    };
    Ok(values.over(own))
}

/// Refuses an entry that no instance of the runner has: a job would only fail of it later. Where none is connected, or one has more
/// entries than it could tell, nobody knows.
fn known_to_runner(state: &ApiState, caller: &Caller, runner: &str, names: &[String]) -> Result<(), Failure> {
    let instances = state.sessions.instances(caller.org(), runner);
    if instances.is_empty() || instances.iter().any(|i| i.connections.len() >= LIST_MAX) {
        return Ok(());
    }
    let entries: BTreeSet<&str> = instances.iter().flat_map(|i| &i.connections).map(|e| e.name.as_str()).collect();
    match names.iter().find(|name| !entries.contains(name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let has = entries.into_iter().take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
            let has = if has.is_empty() { "no connections".to_owned() } else { format!("these: {has}") };
            Err(Code::UnknownConnection
                .on(format!("the runner's configuration has no connection {name:?}; it has {has}")))
        }
    }
}

/// Refuses an engine that no instance of the runner has found, of each of which there are its engines. Where none is connected nobody knows.
fn runner_has(engine: &str, instances: &[Vec<String>]) -> Result<(), Failure> {
    let found: BTreeSet<&str> = instances.iter().flatten().map(String::as_str).collect();
    if instances.is_empty() || found.contains(engine) {
        return Ok(());
    }
    let has = found.into_iter().collect::<Vec<_>>().join(", ");
    let has = if has.is_empty() { "none".to_owned() } else { has };
    Err(Code::EngineMissing.on(format!("the runner has no {engine}; of engines it has {has}")))
}

/// The stack's runner, else the organization's default.
///
/// # Errors
/// `no_runner`, `not_found`, `conflict` where it was revoked.
pub(super) async fn runner_of(state: &ApiState, caller: &Caller, stack: &Stack) -> Result<Runner, Failure> {
    let Some(runner) = stack.runner.as_deref().or(caller.organization().default_runner.as_deref()) else {
        return Err(Code::NoRunner.on(format!(
            "stack {} names no runner and organization {} has no default",
            stack.name,
            caller.organization().name
        )));
    };
    usable(state.store.runner(caller.org(), runner).await?)
}

fn usable(runner: Runner) -> Result<Runner, Failure> {
    if runner.revoked_at_ms.is_some() {
        return Err(Code::Conflict.on(format!("runner {} was revoked", runner.name)).next("Name another runner."));
    }
    Ok(runner)
}

async fn view(state: &ApiState, caller: &Caller, stack: Stack) -> Result<StackView, Failure> {
    let kept: KeptSource = read_back(&stack.source, &stack)?;
    let runner = match &stack.runner {
        Some(id) => Some(state.store.runner(caller.org(), id).await?.name),
        None => None,
    };
    let last_job = match state.store.jobs(caller.org(), Some(&stack.id), 1).await?.pop() {
        Some(job) => Some(JobViews::of(state, caller).await?.view(job)),
        None => None,
    };
    Ok(StackView {
        revision: stack.revision(),
        variables: read_back(&stack.variables, &stack)?,
        secrets: read_back(&stack.secrets, &stack)?,
        sealed: read_back(&stack.sealed, &stack)?,
        variable_sets: read_back(&stack.variable_sets, &stack)?,
        inputs: inputs::shown(state, caller, &stack).await?,
        follows: stack.follows,
        not_redacted: read_back(&stack.not_redacted, &stack)?,
        connections: read_back(&stack.connections, &stack)?,
        limits: read_back(&stack.limits, &stack)?,
        hooks: read_back(&stack.hooks, &stack)?,
        id: stack.id,
        name: stack.name,
        engine: stack.engine,
        engine_version: stack.engine_version,
        runner,
        source: kept.source,
        path: kept.path,
        workspace: kept.workspace,
        last_instance: stack.last_instance,
        created_at_ms: stack.created_at_ms,
        last_job,
    })
}

fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Code::Internal.on(format!("writing a stack down: {e}")))
}

/// What the store keeps of a stack as JSON.
///
/// # Errors
/// `internal`.
pub(super) fn read_back<T: serde::de::DeserializeOwned>(text: &str, stack: &Stack) -> Result<T, Failure> {
    serde_json::from_str(text)
        .map_err(|e| Code::Internal.on(format!("stack {} in the database does not read back: {e}", stack.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stacks_engine_is_one_that_its_runner_has_or_may_have() {
        let has = |instances: &[&[&str]]| {
            let instances: Vec<Vec<String>> =
                instances.iter().map(|engines| engines.iter().map(|e| (*e).to_owned()).collect()).collect();
            runner_has("opentofu", &instances).map_err(|f| (f.code, f.message))
        };
        assert_eq!(has(&[]), Ok(()));
        assert_eq!(has(&[&["terraform"], &["opentofu"]]), Ok(()));
        let refused = |message: &str| Err((Code::EngineMissing, message.to_owned()));
        assert_eq!(has(&[&["terraform"]]), refused("the runner has no opentofu; of engines it has terraform"));
        assert_eq!(has(&[&[]]), refused("the runner has no opentofu; of engines it has none"));
    }
}
