//! A job that is asked for: by a user, by a schedule, by what a Git host tells. There is one way to make one, so that what is checked of one is
//! checked of all.

use super::limits::Limits;
use super::scope::{self, Import, Lock, Rollback};
use super::source::{Source, Variables, checked_names};
use super::stack_hooks::Hooks;
use super::stacks::{KeptSource, read_back, runner_of, values_of};
use super::values::{Reference, Sealed, Values};
use super::{ApiState, Caller};
use crate::store::{Idempotency, Job, JobKind, Manner, NewJob, Stack};
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// A job to start.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewJobBody {
    pub(super) kind: JobKind,
    /// Whether changes are applied without asking.
    #[serde(default)]
    pub(super) approve_automatically: bool,
    /// Of a `refresh`: it ends with its plan, which tells what others have changed; nothing is applied.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) preview_only: bool,
    /// Of a `preview`: its source is of somebody whom nobody has vouched for. It gets no connections but with the credentials that are for reading,
    /// nothing that is referred to or sealed, none of the variables that may stay in what is recorded, and of the others only what
    /// `stack_variables` names.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) untrusted: bool,
    /// Of an `update`: its plan is applied without asking where the runner's own policy lets it be.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) reconcile: bool,
    /// Of the stack's variables only these; where absent all of them, and of an untrusted source none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stack_variables: Option<Vec<String>>,
    /// The stack's `revision`: where it is another one by now, no job is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stack_revision: Option<String>,
    /// For this job alone, in the place of the stack's.
    pub(super) source: Option<Source>,
    /// For this job alone, over the stack's.
    #[serde(default)]
    pub(super) variables: Variables,
    /// Likewise.
    #[serde(default)]
    pub(super) secrets: BTreeMap<String, Reference>,
    /// Likewise.
    #[serde(default)]
    pub(super) sealed: BTreeMap<String, Vec<Sealed>>,
    /// For this job alone, beside the stack's.
    #[serde(default)]
    pub(super) not_redacted: Vec<String>,
    /// Only these resources and modules, by address; of a `state` job those whose attributes are wanted.
    #[serde(default)]
    pub(super) targets: Vec<String>,
    /// Resources that are made anew, by address.
    #[serde(default)]
    pub(super) replace: Vec<String>,
    /// What an `import` takes into the state.
    #[serde(default)]
    pub(super) imports: Vec<Import>,
    /// What an `unlock` removes.
    pub(super) lock: Option<Lock>,
    /// What a `rollback` goes back to.
    pub(super) rollback: Option<Rollback>,
}
impl NewJobBody {
    /// A job of that kind, and nothing else that is asked for.
    pub(super) fn of(kind: JobKind) -> Self {
        Self {
            kind,
            approve_automatically: false,
            preview_only: false,
            untrusted: false,
            reconcile: false,
            stack_variables: None,
            stack_revision: None,
            source: None,
            variables: Variables::default(),
            secrets: BTreeMap::new(),
            sealed: BTreeMap::new(),
            not_redacted: Vec::new(),
            targets: Vec::new(),
            replace: Vec::new(),
            imports: Vec::new(),
            lock: None,
            rollback: None,
        }
    }
}
/// Makes a job of a stack for a user, whoever or whatever asks for it: what is checked of one is checked of all.
///
/// # Errors
/// What is refused.
pub(super) async fn make_job(
    state: &ApiState,
    caller: &Caller,
    stack: Stack,
    body: NewJobBody,
    idempotency: Option<Idempotency>,
    origin: Option<String>,
) -> Result<Job, Failure> {
    if body.stack_revision.as_ref().is_some_and(|revision| *revision != stack.revision()) {
        // asked again, the answer is what came of it the first time
        if let Some(again) = &idempotency
            && let Some(job) = state.store.job_made(caller.org(), &caller.user().name, again).await?
        {
            return Ok(job);
        }
        let message = format!("the stack {} was changed by somebody else just now: no job was made", stack.name);
        return Err(Code::Conflict
            .on(message)
            .next("Do the same again: it makes the stack what is asked for, and starts a job of that."));
    }
    let manner = manner(&body, origin)?;
    let kept: KeptSource = read_back(&stack.source, &stack)?;
    let source = match body.source {
        Some(source) => source.checked(state, caller).await?,
        None => kept.source,
    };
    let own = Values { variables: body.variables, secrets: body.secrets, sealed: body.sealed };
    // what is of two kinds here would be of one once it lies over the stack's
    let own = own.checked()?;
    // of the stack's what the job is given
    let is_given = |name: &str| {
        body.stack_variables.as_ref().map_or(!manner.untrusted, |names| names.iter().any(|given| given == name))
    };
    let of_stack = values_of(state, caller, &stack).await?;
    let left_out = if manner.untrusted { left_out(&stack, &of_stack, is_given)? } else { Vec::new() };
    let of_stack = of_stack.only(is_given);
    // what nobody needs is asked of nobody
    let is_wanted = |name: &str| body.kind.plans() && is_given(name) && !own.names().any(|own| own == name);
    let inputs = super::inputs::values(state, caller, &stack, is_wanted).await?;
    let values = of_stack.over(Values { variables: inputs, ..Values::default() }).over(own).checked()?;
    let mut not_redacted: Vec<String> = read_back(&stack.not_redacted, &stack)?;
    not_redacted.extend(body.not_redacted);
    let runner = runner_of(state, caller, &stack).await?;
    let named = scope::Named {
        targets: body.targets,
        replace: body.replace,
        imports: body.imports,
        lock: body.lock,
        rollback: body.rollback,
    };
    let forced = named.lock.as_ref().is_none_or(|lock| lock.force);
    let scope = named.checked(body.kind, kept.workspace)?;
    if !forced {
        super::locks::may_go(state, &stack, &scope.lock_id).await?;
    }
    let new = NewJob {
        manner,
        scope,
        runner: runner.id,
        kind: body.kind,
        approve_automatically: body.approve_automatically,
        source: source.wire(kept.path),
        variables: values.variables.wire(),
        typed: values.variables.typed(),
        secrets: values.references(),
        sealed: values.sealed()?,
        not_redacted: checked_names(not_redacted)?,
        left_out,
        connections: read_back(&stack.connections, &stack)?,
        limits: read_back::<Limits>(&stack.limits, &stack)?.wire(),
        hooks: if body.kind.plans() { read_back::<Hooks>(&stack.hooks, &stack)?.wire() } else { None },
        created_by: caller.user().name.clone(),
        groups: caller.user().groups().map(str::to_owned).collect(),
        idempotency,
        stack,
    };
    state.jobs.create(new).await
}

/// The names of a stack's variables, of whatever kind, that a job is not given.
fn left_out(stack: &Stack, values: &Values, is_given: impl Fn(&str) -> bool) -> Result<Vec<String>, Failure> {
    let inputs = super::inputs::inputs_of(stack)?;
    let names = values.names().chain(inputs.keys().map(String::as_str)).filter(|name| !is_given(name));
    let names: BTreeSet<_> = names.map(str::to_owned).collect();
    Ok(names.into_iter().collect())
}

/// How a job is asked for, held against its kind.
fn manner(body: &NewJobBody, origin: Option<String>) -> Result<Manner, Failure> {
    for (field, given, kind, name) in [
        ("preview_only", body.preview_only, JobKind::Refresh, "refresh"),
        ("untrusted", body.untrusted, JobKind::Preview, "preview"),
        ("reconcile", body.reconcile, JobKind::Update, "update"),
    ] {
        if given && (body.kind != kind || body.approve_automatically) {
            let message = format!("{field} is of jobs of the kind {name} that are not approved automatically");
            return Err(Code::InvalidArgument.on(message));
        }
    }
    if body.preview_only && !body.targets.is_empty() {
        return Err(Code::InvalidArgument.on("preview_only looks at the whole stack, and heeds no targets"));
    }
    let NewJobBody { preview_only, untrusted, reconcile, .. } = *body;
    Ok(Manner { preview_only, untrusted, reconcile, origin })
}

const fn is_false(value: &bool) -> bool {
    !*value
}
