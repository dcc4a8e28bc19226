//! Stacks and jobs: what the API and the execution service read and write of them. Handing jobs out is in `hand_out`, what runners
//! report in `reports`, plans as documents in `plans`, what users decide in `decisions`, what others have changed in `drift`, what follows others in `follow_ons`.
//!
//! Every change of a job's phase is one transaction that reads the job as it is. This module must never hand out a job twice under
//! one fencing token, and never believe a report that does not carry the newest one.

mod decisions;
pub(super) mod drift;
mod follow_ons;
mod hand_out;
mod plans;
mod reports;
mod restored;
mod retention;
mod stacks;
#[cfg(test)]
pub(crate) mod tests;

pub use decisions::Cancelled;
pub use drift::Drift;
pub use follow_ons::FollowOn;
pub use hand_out::{Given, Standing};
pub use reports::Reported;
pub(crate) use restored::PRESENT_MS;
pub use retention::ArchivesInUse;
pub use stacks::{NewStack, Stack};

use super::{Store, broken, new_id, not_found};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::rules::Judgement;
use shared_proto::{bounds, now_ms, v1};
use sqlx::{FromRow, Sqlite, SqliteConnection, Transaction};

/// Jobs of one stack that wait their turn.
const PENDING_MAX: i64 = 100;

/// Jobs that have not ended and are looked through for what another waits for.
const OPEN_MAX: i64 = 1000;

/// Where a job stands. In the order of a job's way; the ends come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for an instance, or for its stack's turn.
    Pending,
    /// Given to an instance that has not accepted it yet.
    Assigned,
    /// Accepted; the source is fetched.
    Preparing,
    /// The engine plans.
    Planning,
    /// The plan is there.
    Planned,
    /// Someone has to say yes or no.
    AwaitingApproval,
    /// Approved; the engine applies, or is about to.
    Applying,
    /// End: applied.
    Applied,
    /// End: nothing was to be done.
    NoChanges,
    /// End: failed.
    Failed,
    /// End: cancelled.
    Canceled,
    /// End: the plan was refused.
    Discarded,
    /// End: nothing tells how it ended.
    Lost,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum JobKind {
    /// Plan only.
    Preview,
    /// Plan, approval, apply.
    Update,
    /// Plan of a refresh, approval, apply.
    Refresh,
    /// Plan of a destroy, approval, apply.
    Destroy,
    /// Read the outputs.
    Outputs,
    /// Plan of imports, approval, apply.
    Import,
    /// Read the resources of the state.
    State,
    /// Remove a lock of the state.
    Unlock,
    /// Read which versions of the state the runner's own store has.
    Versions,
    /// Make an earlier version of the state the newest one.
    Rollback,
}

/// The form of requests from which on a runner heeds rules, and knows versions of states.
const WITH_RULES: u32 = 3;

/// A job as it stands.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Job {
    /// `job_…`.
    pub id: String,
    /// Whose it is.
    pub organization: String,
    /// Its stack's id.
    pub stack: String,
    /// Its stack's name.
    pub stack_name: String,
    /// The runner that does it.
    pub runner: String,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub phase: Phase,
    /// Whether changes are applied without asking.
    pub approve_automatically: bool,
    /// The archive that it is made from, if it is.
    pub archive: Option<String>,
    /// Grows with each assignment.
    pub fencing_token: i64,
    /// The instance that has it.
    pub instance: Option<String>,
    /// Whether that instance accepted it.
    pub accepted: bool,
    /// When it was given out last.
    pub assigned_at_ms: Option<i64>,
    /// Who started it: the user's name.
    pub created_by: String,
    /// When.
    pub created_at_ms: i64,
    /// When it was accepted.
    pub started_at_ms: Option<i64>,
    /// When it ended.
    pub ended_at_ms: Option<i64>,
    /// The commit, or the archive's digest.
    pub revision: Option<String>,
    /// [`Plan`] as JSON, without its text.
    pub plan: Option<String>,
    /// The plan's text. Not in lists.
    pub plan_text: Option<String>,
    /// The outputs as JSON. Not in lists.
    pub outputs: Option<String>,
    /// [`JobEnd`] as JSON.
    pub result: Option<String>,
    /// Whether the runner's own result is there.
    pub reported: bool,
    /// The newest event's number.
    pub last_sequence: i64,
    /// What its events take, bytes.
    pub event_bytes: i64,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// Who discarded it.
    pub discarded_by: Option<String>,
    /// Who cancelled it.
    pub canceled_by: Option<String>,
    /// Whether the cancel does not wait.
    pub cancel_force: bool,
    /// How the workers were isolated that had it, the weakest of them.
    pub isolation_level: Option<String>,
    /// How often a secret was taken out of its events; none where no step has told.
    pub redacted: Option<i64>,
    /// What was secret and too short to be taken out: names as JSON.
    pub not_redacted: Option<String>,
    /// Of a refresh: it ends with its plan.
    pub preview_only: bool,
    /// Its source is not trusted.
    pub untrusted: bool,
    /// The runner's own policy may let it be applied without asking.
    pub reconcile: bool,
    /// What made it: `schedule NAME` or `webhook ID`; none: a user's request.
    pub origin: Option<String>,
    /// It is about a part of its stack.
    pub partial: bool,
    /// Its plan was applied, though it did not end well.
    pub applied: bool,
    /// When it was restored from an older back-up, unless its instance has told since what became of it.
    pub restored_at_ms: Option<i64>,
    /// When its events and its plan's text were removed for their age.
    pub events_removed_at_ms: Option<i64>,
}

/// What a plan would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// The saved plan's digest: what an approval is for.
    pub sha256: String,
    /// Resources to add.
    pub add: u32,
    /// Resources to change.
    pub change: u32,
    /// Resources to remove.
    pub remove: u32,
    /// The engine's own rendering. Empty in lists.
    #[serde(default)]
    pub text: String,
    /// Whether there is anything to apply.
    pub has_changes: bool,
    /// How many resources it would create, replace, destroy and so on: of its document (`/jobs/{job}/plan`); none where there is none.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub summary: Option<shared_proto::plan::Summary>,
    /// What rules say of it; none where there are none. Without findings in lists.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub judgement: Option<Judgement>,
    /// Who has approved it so far, where rules ask for people.
    #[serde(default)]
    pub approvers: Vec<String>,
}

impl Plan {
    /// How many people rules ask for who approve it, beside whoever made the job.
    pub fn wanted(&self) -> u32 {
        self.judgement.as_ref().map_or(0, |judgement| judgement.approvals)
    }
}

/// How a job ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct JobEnd {
    /// `ok` or a failure code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub next_step: String,
    /// The engine's exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_exit_code: Option<i32>,
    /// The signal that ended the engine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine_signal: String,
    /// Where on the runner a state lies that the engine could not save. The state itself never comes here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rescued_state: String,
    /// Whether its runner has looked, where it has no end of its own, and nothing of it runs any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing_left: bool,
    /// The lock of the state that the engine could not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<KnownLock>,
    /// The plan was applied, though the job did not end well: a hook after it failed, or was cancelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applied: bool,
}

/// What an engine said of a lock, each part in its holder's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct KnownLock {
    /// By which it is removed.
    pub id: String,
    /// Where.
    pub path: String,
    /// What it was taken for.
    pub operation: String,
    /// By whom.
    pub who: String,
    /// The holder's engine.
    pub version: String,
    /// When.
    pub created: String,
    /// The same, by the holder's clock; 0: not known.
    pub created_ms: i64,
    /// The job whose engine made it, where the runner's own store says so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// Whether that engine is gone, by the word of the runner that had it.
    #[serde(default)]
    pub holder_gone: bool,
}

/// A job to be made.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its stack.
    pub stack: Stack,
    /// The runner that does it.
    pub runner: String,
    /// What it does.
    pub kind: JobKind,
    /// Whether changes are applied without asking.
    pub approve_automatically: bool,
    /// How it is asked for.
    pub manner: Manner,
    /// What of its stack it is about.
    pub scope: Scope,
    /// How long what may take.
    pub limits: v1::TimeLimits,
    /// What of the source runs before and after plan and apply.
    pub hooks: Option<v1::Hooks>,
    /// Where the code comes from.
    pub source: v1::Source,
    /// The engine's variables.
    pub variables: std::collections::HashMap<String, String>,
    /// Of these, those that are JSON and no texts.
    pub typed: Vec<String>,
    /// What variables refer to in stores of the runner's configuration.
    pub secrets: std::collections::HashMap<String, v1::SecretReference>,
    /// Variables that were sealed to the runner.
    pub sealed: Vec<v1::SealedVariable>,
    /// Secret ones that may stay in what is recorded.
    pub not_redacted: Vec<String>,
    /// Those of the stack that a job of an untrusted source does not get, by name.
    pub left_out: Vec<String>,
    /// Entries of the runner's configuration.
    pub connections: Vec<String>,
    /// The user's name.
    pub created_by: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// By which the request is known again.
    pub idempotency: Option<Idempotency>,
}

/// How a job is asked for, beside its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manner {
    /// Of a refresh: it ends with its plan, and nothing is applied.
    pub preview_only: bool,
    /// Its source is of somebody whom nobody has vouched for: a preview, without secrets and credentials.
    pub untrusted: bool,
    /// It is applied without asking where the runner's own policy lets it be.
    pub reconcile: bool,
    /// What made it: `schedule NAME` or `webhook ID`; none: a user's request.
    pub origin: Option<String>,
}

/// What of its stack a job is about: all of it, unless something is named.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scope {
    /// The workspace of the configuration; empty: its default one.
    pub workspace: String,
    /// Only these resources and modules, by address.
    pub targets: Vec<String>,
    /// Resources that are made anew, by address.
    pub replace: Vec<String>,
    /// What is taken into the state.
    pub imports: Vec<v1::ImportedResource>,
    /// The lock that is removed.
    pub lock_id: String,
    /// The version of the state that is gone back to; 0: none.
    pub state_version: u64,
    /// Why.
    pub reason: String,
}

/// What a request is known by when it is sent again, because its answer was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The sender's own: one request's, and its repetitions'.
    pub key: String,
    /// The SHA-256 of what was asked for.
    pub asked_sha256: Vec<u8>,
}

/// A job's row without the request, which is read only to be sent; `light`: also without the long texts. sqlx takes no text that is put
/// together at run time.
macro_rules! select_jobs {
    ($rest:literal) => {
        select_jobs!("jobs.plan_text, jobs.outputs, ", $rest)
    };
    (light $rest:literal) => {
        select_jobs!("NULL AS plan_text, NULL AS outputs, ", $rest)
    };
    ($texts:literal, $rest:literal) => {
        concat!(
            "SELECT jobs.id, jobs.organization, jobs.stack, stacks.name AS stack_name, jobs.runner, jobs.kind, jobs.phase, ",
            "jobs.approve_automatically, jobs.archive, jobs.fencing_token, jobs.instance, jobs.accepted, ",
            "jobs.assigned_at_ms, jobs.created_by, jobs.created_at_ms, jobs.started_at_ms, jobs.ended_at_ms, ",
            "jobs.revision, jobs.plan, jobs.result, jobs.reported, jobs.last_sequence, jobs.approved_by, ",
            "jobs.discarded_by, jobs.canceled_by, jobs.cancel_force, jobs.isolation_level, jobs.redacted, jobs.not_redacted, jobs.restored_at_ms, ",
            "jobs.events_removed_at_ms, ",
            "jobs.preview_only, jobs.untrusted, jobs.reconcile, jobs.origin, jobs.partial, jobs.applied, ",
            $texts,
            "jobs.event_bytes FROM jobs JOIN stacks ON stacks.id = jobs.stack ",
            $rest
        )
    };
}
use select_jobs;

// === impl Phase ===

impl Phase {
    /// Its name, as it is sent and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Planning => "planning",
            Self::Planned => "planned",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Applying => "applying",
            Self::Applied => "applied",
            Self::NoChanges => "no_changes",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Discarded => "discarded",
            Self::Lost => "lost",
        }
    }
    /// The phase of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        use Phase::*;
        [
            Pending,
            Assigned,
            Preparing,
            Planning,
            Planned,
            AwaitingApproval,
            Applying,
            Applied,
            NoChanges,
            Failed,
            Canceled,
            Discarded,
            Lost,
        ]
        .into_iter()
        .find(|p| p.as_str() == name)
    }
}

// === impl JobKind ===

impl JobKind {
    /// As a runner is told.
    pub const fn wire(self) -> v1::JobKind {
        match self {
            Self::Preview => v1::JobKind::Preview,
            Self::Update => v1::JobKind::Update,
            Self::Refresh => v1::JobKind::Refresh,
            Self::Destroy => v1::JobKind::Destroy,
            Self::Outputs => v1::JobKind::Outputs,
            Self::Import => v1::JobKind::Import,
            Self::State => v1::JobKind::State,
            Self::Unlock => v1::JobKind::Unlock,
            Self::Versions => v1::JobKind::Versions,
            Self::Rollback => v1::JobKind::Rollback,
        }
    }
    /// Whether it makes a plan.
    pub const fn plans(self) -> bool {
        self.applies() || matches!(self, Self::Preview)
    }
    /// Whether changes of its plan are to be applied.
    pub const fn applies(self) -> bool {
        matches!(self, Self::Update | Self::Refresh | Self::Destroy | Self::Import)
    }
}

// === impl Manner ===

impl Manner {
    /// Whether a runner of before it would not heed it.
    fn is_new(&self) -> bool {
        self.preview_only || self.untrusted || self.reconcile
    }
}

// === impl Job ===

impl Job {
    /// Whether changes of its plan are to be applied.
    pub fn applies(&self) -> bool {
        self.kind.applies() && !self.preview_only
    }
    /// Whether its plan was applied, whatever came of it afterwards.
    pub fn has_applied(&self) -> bool {
        self.phase == Phase::Applied || self.applied
    }
    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.ended_at_ms.is_some()
    }
    /// The plan, if there is one.
    pub fn plan(&self) -> Option<Plan> {
        let plan: Plan = serde_json::from_str(self.plan.as_deref()?).ok()?;
        Some(Plan { text: self.plan_text.clone().unwrap_or_default(), ..plan })
    }
    /// What was secret and too short to be taken out of its events.
    pub fn not_redacted(&self) -> std::collections::BTreeSet<String> {
        self.not_redacted.as_deref().and_then(|names| serde_json::from_str(names).ok()).unwrap_or_default()
    }
    /// The token as it is sent.
    pub fn token(&self) -> u64 {
        u64::try_from(self.fencing_token).unwrap_or(0)
    }
}

// === impl Store ===

impl Store {
    /// A transaction that may write from its beginning: one that reads first and then writes is refused by SQLite, without
    /// waiting, where another wrote in between.
    pub(super) async fn writing(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.pool().begin_with("BEGIN IMMEDIATE").await
    }

    /// Makes a job of a stack; where its idempotency key has made one, that is given, however far it has come.
    ///
    /// # Errors
    /// `too_large` for a request that no runner takes, `busy` where too many wait, `not_found` where the stack has gone, `conflict`
    /// where the key has made another job than this.
    pub async fn create_job(&self, new: NewJob) -> Result<Job, Failure> {
        let failed = broken("making a job");
        let id = new_id("job");
        let archive = match &new.source.kind {
            Some(v1::source::Kind::Archive(archive)) => Some(archive.sha256.clone()),
            _ => None,
        };
        let partial = !new.scope.targets.is_empty();
        let request = v1::JobRequest {
            // a runner that knows nothing of a scope must not take all of the stack for it, nor any version of the engine, nor a kind, nor do
            // without rules, limits or hooks, nor without a variable that it is referred to, nor fetch another source
            format: match new.kind {
                _ if new.hooks.is_some() => 5,
                _ if is_new(&new.source) => 4,
                _ if new.limits != v1::TimeLimits::default() => 4,
                _ if !new.secrets.is_empty() || !new.sealed.is_empty() => 4,
                _ if new.manner.is_new() => 4,
                JobKind::Versions | JobKind::Rollback => WITH_RULES,
                _ if new.scope == Scope::default() && new.stack.engine_version.is_none() => 1,
                _ => 2,
            },
            job_id: id.clone(),
            organization_id: new.stack.organization.clone(),
            runner_id: new.runner.clone(),
            stack_id: new.stack.id.clone(),
            stack_name: new.stack.name.clone(),
            kind: new.kind.wire().into(),
            engine: new.stack.engine.clone(),
            engine_version: new.stack.engine_version.clone().unwrap_or_default(),
            source: Some(new.source),
            variables: new.variables,
            connections: new.connections,
            approve_automatically: new.approve_automatically,
            created_by: new.created_by.clone(),
            cancel_grace_seconds: 0,
            not_redacted: new.not_redacted,
            groups: Some(v1::Groups { names: new.groups }),
            targets: new.scope.targets,
            replace: new.scope.replace,
            workspace: new.scope.workspace,
            imports: new.scope.imports,
            lock_id: new.scope.lock_id,
            state_version: new.scope.state_version,
            reason: new.scope.reason,
            // those that are in force when it is given out
            rules: String::new(),
            limits: (new.limits != v1::TimeLimits::default()).then_some(new.limits),
            hooks: new.hooks,
            secrets: new.secrets,
            sealed: new.sealed,
            typed: new.typed,
            preview_only: new.manner.preview_only,
            untrusted: new.manner.untrusted,
            reconcile: new.manner.reconcile,
            left_out: new.left_out,
        }
        .encode_to_vec();
        if request.len() > bounds::JOB_REQUEST_MAX {
            return Err(Code::TooLarge.on(format!(
                "the job's request takes {} bytes, a runner takes {}",
                request.len(),
                bounds::JOB_REQUEST_MAX
            )));
        }
        let digest = Sha256::digest(&request).to_vec();
        let mut transaction = self.writing().await.map_err(&failed)?;
        if let Some(job) =
            made_before(&mut transaction, &new.stack.organization, &new.created_by, &new.idempotency).await?
        {
            return Ok(job);
        }
        let (key, asked) = new.idempotency.map(|i| (i.key, i.asked_sha256)).unzip();
        let waiting: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE stack = $1 AND ended_at_ms IS NULL")
            .bind(&new.stack.id)
            .fetch_one(&mut *transaction)
            .await
            .map_err(&failed)?;
        if waiting >= PENDING_MAX {
            return Err(Code::Busy.on(format!("stack {} has {waiting} jobs that have not ended", new.stack.name)));
        }
        let made = sqlx::query(
            "INSERT INTO jobs (id, organization, stack, runner, kind, phase, approve_automatically, request, request_sha256, \
             archive, created_by, created_at_ms, idempotency_key, asked_sha256, preview_only, untrusted, reconcile, origin, partial) \
             SELECT $1, organization, id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19 FROM stacks \
             WHERE organization = $2 AND id = $3 AND deleted_at_ms IS NULL",
        )
        .bind(&id)
        .bind(&new.stack.organization)
        .bind(&new.stack.id)
        .bind(&new.runner)
        .bind(new.kind)
        .bind(Phase::Pending)
        .bind(new.approve_automatically)
        .bind(request)
        .bind(digest)
        .bind(archive)
        .bind(&new.created_by)
        .bind(now_ms())
        .bind(key)
        .bind(asked)
        .bind(new.manner.preview_only)
        .bind(new.manner.untrusted)
        .bind(new.manner.reconcile)
        .bind(&new.manner.origin)
        .bind(partial)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        if made.rows_affected() == 0 {
            return Err(not_found("stack", &new.stack.name));
        }
        let job = read(&mut transaction, &new.stack.organization, &id).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(job)
    }

    /// The job that a user's idempotency key has made, if it has made one.
    ///
    /// # Errors
    /// `conflict` where it has made another job than this.
    pub async fn job_made(&self, organization: &str, by: &str, key: &Idempotency) -> Result<Option<Job>, Failure> {
        let mut connection = self.pool().acquire().await.map_err(broken("looking for a job by its request"))?;
        made_before(&mut connection, organization, by, &Some(key.clone())).await
    }

    /// The organization's jobs, newest first, of one stack where one is given; without their long texts.
    ///
    /// # Errors
    /// `internal`.
    pub async fn jobs(&self, organization: &str, stack: Option<&str>, limit: u32) -> Result<Vec<Job>, Failure> {
        sqlx::query_as(select_jobs!(
            light "WHERE jobs.organization = $1 AND ($2 IS NULL OR jobs.stack = $2) ORDER BY jobs.id DESC LIMIT $3"
        ))
        .bind(organization)
        .bind(stack)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(broken("listing jobs"))
    }

    /// The organization's jobs that have not ended, oldest first, without their long texts; so many at most that nobody looks at more.
    ///
    /// # Errors
    /// `internal`.
    pub async fn open_jobs(&self, organization: &str) -> Result<Vec<Job>, Failure> {
        sqlx::query_as(select_jobs!(
            light "WHERE jobs.organization = $1 AND jobs.ended_at_ms IS NULL ORDER BY jobs.id LIMIT $2"
        ))
        .bind(organization)
        .bind(OPEN_MAX)
        .fetch_all(self.pool())
        .await
        .map_err(broken("listing open jobs"))
    }

    /// The organization's job of that id.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn job(&self, organization: &str, id: &str) -> Result<Job, Failure> {
        let mut connection = self.pool().acquire().await.map_err(broken("looking a job up"))?;
        read(&mut connection, organization, id).await
    }

    /// Events of a job after a number, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `not_found` for a job that the organization does not have.
    pub async fn job_events(
        &self,
        organization: &str,
        id: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<v1::Event>, Failure> {
        self.job(organization, id).await?;
        let rows: Vec<(Vec<u8>,)> =
            sqlx::query_as("SELECT event FROM job_events WHERE job = $1 AND sequence > $2 ORDER BY sequence LIMIT $3")
                .bind(id)
                .bind(i64::try_from(after).unwrap_or(i64::MAX))
                .bind(i64::from(limit))
                .fetch_all(self.pool())
                .await
                .map_err(broken("reading a job's events"))?;
        rows.iter()
            .map(|(bytes,)| v1::Event::decode(&bytes[..]))
            .collect::<Result<_, _>>()
            .map_err(|e| Code::Internal.on(format!("an event of job {id} in the database does not read back: {e}")))
    }
}

/// The organization's job of that id, inside a transaction.
async fn read(connection: &mut SqliteConnection, organization: &str, id: &str) -> Result<Job, Failure> {
    sqlx::query_as(select_jobs!("WHERE jobs.organization = $1 AND jobs.id = $2"))
        .bind(organization)
        .bind(id)
        .fetch_optional(connection)
        .await
        .map_err(broken("looking a job up"))?
        .ok_or_else(|| not_found("job", id))
}

/// Ends a job that no instance will end any more.
async fn end(connection: &mut SqliteConnection, id: &str, phase: Phase, end: &JobEnd) -> Result<(), Failure> {
    let result = serde_json::to_string(end).map_err(|e| Code::Internal.on(format!("a job's result: {e}")))?;
    sqlx::query(
        "UPDATE jobs SET phase = $2, result = $3, ended_at_ms = $4, request = x'' WHERE id = $1 AND ended_at_ms IS NULL",
    )
    .bind(id)
    .bind(phase)
    .bind(result)
    .bind(now_ms())
    .execute(connection)
    .await
    .map(drop)
    .map_err(broken("ending a job"))
}

/// The job's instance has begun to apply its plan there: a stack without a backend has its state there from now on. Jobs that only
/// plan, or are refused because the state is elsewhere, change nothing of that.
async fn has_applied(connection: &mut SqliteConnection, job: &Job) -> Result<(), Failure> {
    sqlx::query("UPDATE stacks SET last_instance = COALESCE($2, last_instance) WHERE id = $1")
        .bind(&job.stack)
        .bind(&job.instance)
        .execute(connection)
        .await
        .map(drop)
        .map_err(broken("noting where a stack's state is"))
}

/// The job has ended without anybody knowing how far it came: its instance may have made the stack's first state. Where another
/// instance has one, only a plan that was made and approved shows that this one has it too.
async fn may_have_applied(connection: &mut SqliteConnection, job: &Job) -> Result<(), Failure> {
    if job.approved_by.is_some() {
        return has_applied(connection, job).await;
    }
    if !job.accepted || !job.applies() || !(job.approve_automatically || job.reconcile) {
        return Ok(());
    }
    sqlx::query("UPDATE stacks SET last_instance = COALESCE(last_instance, $2) WHERE id = $1")
        .bind(&job.stack)
        .bind(&job.instance)
        .execute(connection)
        .await
        .map(drop)
        .map_err(broken("noting where a stack's state may be"))
}

/// The job that a request's key has made.
async fn made_before(
    connection: &mut SqliteConnection,
    organization: &str,
    by: &str,
    idempotency: &Option<Idempotency>,
) -> Result<Option<Job>, Failure> {
    let Some(Idempotency { key, asked_sha256 }) = idempotency else { return Ok(None) };
    let made: Option<(String, Vec<u8>)> = sqlx::query_as(
        "SELECT id, asked_sha256 FROM jobs WHERE organization = $1 AND created_by = $2 AND idempotency_key = $3",
    )
    .bind(organization)
    .bind(by)
    .bind(key)
    .fetch_optional(&mut *connection)
    .await
    .map_err(broken("looking for a job by its request"))?;
    match made {
        None => Ok(None),
        Some((id, asked)) if asked == *asked_sha256 => read(connection, organization, &id).await.map(Some),
        Some((id, _)) => Err(Code::Conflict
            .on(format!("the idempotency key {key} has made the job {id}, which was asked for in other words"))
            .next("Give each request a key of its own.")),
    }
}

/// Whether a runner that knows Git as it was and archives alone would not fetch that.
fn is_new(source: &v1::Source) -> bool {
    match &source.kind {
        Some(v1::source::Kind::Git(git)) => git.submodules || git.lfs || git.sparse.is_some(),
        Some(v1::source::Kind::Oci(_) | v1::source::Kind::Registry(_)) => true,
        Some(v1::source::Kind::Archive(_)) | None => false,
    }
}
