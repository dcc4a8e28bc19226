//! Jobs of a database that is an older copy: what it does not know of them their instances do, and what nobody knows is not run again.
//!
//! ```text
//!  restored: not accepted ─▶ never given out ─┬─ an instance presents it ─▶ accepted there, its events are told from the first on
//!                                             └─ nobody does in a while ──▶ lost (a later presentation still counts)
//!            accepted ─────▶ its instance asks for work ─┬─ and has it ───▶ goes on; events that are missing are told again
//!                                                        └─ has it not ───▶ lost: it ended after the back-up, or its folder is gone
//!  not in the copy ─▶ an instance presents it, with this control plane's seal ─▶ known
//! ```

use super::super::seal::Assigned;
use super::super::{Store, broken, is_taken, not_found, notices, rules};
use super::hand_out::fenced;
use super::{Job, JobEnd, JobKind, Phase, end, may_have_applied, read, select_jobs};
use prost::Message as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::{now_ms, v1};
use sqlx::SqliteConnection;
use std::collections::HashSet;

/// What a restore adds to the fencing tokens of jobs that nobody accepted: more than was ever given after the back-up.
const TOKENS: i64 = 1 << 32;
/// How long instances have to present what they were given after the back-up, milliseconds, from the control plane's start on.
pub(crate) const PRESENT_MS: i64 = 10 * 60 * 1000;

impl Store {
    /// Says of every open job that it is an older copy's. Tokens that were given for it since are no good for accepting it.
    ///
    /// # Errors
    /// `internal`.
    pub async fn mark_restored(&self) -> Result<u64, Failure> {
        sqlx::query(
            "UPDATE jobs SET restored_at_ms = $1, phase = CASE WHEN accepted THEN phase ELSE $3 END, \
             fencing_token = fencing_token + CASE WHEN accepted THEN 0 ELSE $2 END WHERE ended_at_ms IS NULL",
        )
        .bind(now_ms())
        .bind(TOKENS)
        .bind(Phase::Pending)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected())
        .map_err(broken("marking restored jobs"))
    }

    /// At the control plane's start: instances have their time to present what they have from now on.
    ///
    /// # Errors
    /// `internal`.
    pub async fn await_presentations(&self) -> Result<u64, Failure> {
        sqlx::query("UPDATE jobs SET restored_at_ms = $1 WHERE restored_at_ms IS NOT NULL AND ended_at_ms IS NULL")
            .bind(now_ms())
            .execute(self.pool())
            .await
            .map(|done| done.rows_affected())
            .map_err(broken("looking restored jobs up"))
    }

    /// Ends as lost what was restored before that moment without having been accepted, and what nobody has presented since. The jobs.
    ///
    /// # Errors
    /// `internal`.
    pub async fn give_up_restored(&self, before_ms: i64) -> Result<Vec<Job>, Failure> {
        let failed = broken("ending restored jobs");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let jobs: Vec<Job> = sqlx::query_as(select_jobs!(
            light "WHERE jobs.restored_at_ms <= $1 AND NOT jobs.accepted AND jobs.ended_at_ms IS NULL"
        ))
        .bind(before_ms)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        for job in &jobs {
            let what = "the control plane was restored from an older back-up, and whether the job was run since is not known: \
                        no instance has it";
            lose(&mut transaction, job, what).await?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(jobs)
    }

    /// An instance has said what it has: this job is its, as it is known here.
    ///
    /// # Errors
    /// `internal`.
    pub async fn confirm_job(&self, job: &Job) -> Result<(), Failure> {
        if job.restored_at_ms.is_none() {
            return Ok(());
        }
        sqlx::query("UPDATE jobs SET restored_at_ms = NULL WHERE id = $1")
            .bind(&job.id)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("confirming a job"))
    }

    /// The open jobs that are an instance's, and that it does not have: `held` is all that it has.
    ///
    /// # Errors
    /// `internal`.
    pub async fn absent_jobs(
        &self,
        runner: &str,
        instance: &str,
        held: &HashSet<String>,
    ) -> Result<Vec<String>, Failure> {
        let open = self.open_of_instance(runner, instance).await?;
        Ok(open.into_iter().map(|job| job.id).filter(|id| !held.contains(id)).collect())
    }

    /// Ends those of an instance's jobs as lost that are still open. The jobs.
    ///
    /// # Errors
    /// `internal`.
    pub async fn lose_jobs(&self, runner: &str, instance: &str, ids: &[String]) -> Result<Vec<Job>, Failure> {
        let failed = broken("ending lost jobs");
        let mut jobs = self.open_of_instance(runner, instance).await?;
        jobs.retain(|job| ids.contains(&job.id));
        let mut transaction = self.writing().await.map_err(&failed)?;
        for job in &jobs {
            let what = if job.restored_at_ms.is_some() {
                "the control plane was restored from an older back-up, and the job has ended since: its instance does not have it \
                 any more"
            } else {
                "its instance says that it does not have the job: the folder was lost, or damaged and set aside"
            };
            lose(&mut transaction, job, what).await?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(jobs)
    }

    /// Runner and instance of the jobs that are at work: of those that an instance must tell the end of, or have it told.
    ///
    /// # Errors
    /// `internal`.
    pub async fn instances_at_work(&self) -> Result<HashSet<(String, String)>, Failure> {
        let all: Vec<(String, String)> = sqlx::query_as(
            "SELECT DISTINCT runner, instance FROM jobs WHERE accepted AND ended_at_ms IS NULL AND phase <> $1",
        )
        .bind(Phase::AwaitingApproval)
        .fetch_all(self.pool())
        .await
        .map_err(broken("looking for instances at work"))?;
        Ok(all.into_iter().collect())
    }

    /// Ends what is at work on an instance as lost: it is away for so long. A plan that waits for its approval goes on waiting. The jobs.
    ///
    /// # Errors
    /// `internal`.
    pub async fn lapse_jobs(&self, runner: &str, instance: &str, away_s: u64) -> Result<Vec<Job>, Failure> {
        let failed = broken("ending the jobs of an instance that is away");
        let mut jobs = self.open_of_instance(runner, instance).await?;
        jobs.retain(|job| job.phase != Phase::AwaitingApproval);
        let mut transaction = self.writing().await.map_err(&failed)?;
        for job in &jobs {
            let what = format!(
                "its instance {instance} has not been heard of for {away_s} s: it is gone, as a container without a volume is, or cut off"
            );
            lose(&mut transaction, job, &what).await?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(jobs)
    }

    async fn open_of_instance(&self, runner: &str, instance: &str) -> Result<Vec<Job>, Failure> {
        sqlx::query_as(select_jobs!(
            light "WHERE jobs.runner = $1 AND jobs.instance = $2 AND jobs.accepted AND jobs.ended_at_ms IS NULL"
        ))
        .bind(runner)
        .bind(instance)
        .fetch_all(self.pool())
        .await
        .map_err(broken("looking for what an instance has lost"))
    }

    /// Takes a job over that an instance presents with this control plane's own seal: it was accepted there after the back-up that this
    /// database is a copy of. Doing it again changes nothing.
    ///
    /// # Errors
    /// `invalid_argument` for what was never assigned, `fenced` where the job went on without the instance, `busy` where another job of the
    /// stack is at work: later.
    pub async fn present_job(
        &self,
        organization: &str,
        runner: &str,
        presented: &v1::PresentRequest,
    ) -> Result<Job, Failure> {
        let failed = broken("taking a job over");
        let digest = Sha256::digest(&presented.request);
        let assigned = Assigned {
            organization,
            runner,
            instance: &presented.instance_id,
            job: &presented.job_id,
            token: presented.fencing_token,
            request_sha256: &digest,
        };
        if !self.seal().is_on(assigned, &presented.seal) {
            return Err(Code::InvalidArgument.on(format!("job {} was not assigned here", presented.job_id)));
        }
        // sealed, it is what was made here
        let request = v1::JobRequest::decode(presented.request.as_slice())
            .map_err(|e| Code::InvalidArgument.on(format!("the request of job {}: {e}", presented.job_id)))?;
        let token = i64::try_from(presented.fencing_token).unwrap_or(i64::MAX);
        let mut transaction = self.writing().await.map_err(&failed)?;
        match read(&mut transaction, organization, &presented.job_id).await {
            Ok(job) if job.accepted => {
                let own = job.token() == presented.fencing_token
                    && job.instance.as_deref() == Some(presented.instance_id.as_str());
                return if own { Ok(job) } else { Err(fenced(&job)) };
            }
            // in no copy, and not restored: it has gone on
            Ok(job) if job.restored_at_ms.is_none() && job.fencing_token >= token => return Err(fenced(&job)),
            Ok(_) => {}
            Err(failure) if failure.code == Code::NotFound => {
                adopt_stack(&mut transaction, organization, &request).await?;
                insert(&mut transaction, organization, runner, &request, &digest).await?;
            }
            Err(failure) => return Err(failure),
        }
        // that this one was given out shows that what was at work on the stack at the time of the back-up had ended
        let before: Vec<Job> = sqlx::query_as(select_jobs!(
            light "WHERE jobs.stack = $1 AND jobs.id <> $2 AND jobs.accepted AND jobs.ended_at_ms IS NULL AND jobs.restored_at_ms IS NOT NULL"
        ))
        .bind(&request.stack_id)
        .bind(&request.job_id)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        for job in &before {
            let what = "the control plane was restored from an older back-up, and the job has ended since: its stack's next one was begun";
            lose(&mut transaction, job, what).await?;
        }
        // one that was given out meanwhile and that nobody accepted waits again: its instance does not take it as long as it has this one
        sqlx::query("UPDATE jobs SET phase = $3, assigned_at_ms = NULL WHERE stack = $1 AND id <> $2 AND phase = $4")
            .bind(&request.stack_id)
            .bind(&request.job_id)
            .bind(Phase::Pending)
            .bind(Phase::Assigned)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        sqlx::query(
            "UPDATE jobs SET accepted = TRUE, phase = $2, instance = $3, fencing_token = $4, started_at_ms = $5, \
             assigned_at_ms = COALESCE(assigned_at_ms, $5), ended_at_ms = NULL, result = NULL, request = x'', \
             restored_at_ms = NULL, rules_sha256 = $6 WHERE id = $1",
        )
        .bind(&presented.job_id)
        .bind(Phase::Preparing)
        .bind(&presented.instance_id)
        .bind(token)
        .bind(now_ms())
        .bind(rules::digest(&request.rules))
        .execute(&mut *transaction)
        .await
        .map_err(|e| {
            if is_taken(&e) {
                Code::Busy.on(format!("another job of stack {} is at work", request.stack_name))
            } else {
                failed(e)
            }
        })?;
        let job = read(&mut transaction, organization, &presented.job_id).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(job)
    }
}

/// Ends a job of which nobody knows how it ended. Its token stays: should its instance have it after all, its result counts.
async fn lose(connection: &mut SqliteConnection, job: &Job, what: &str) -> Result<(), Failure> {
    let ending = JobEnd {
        code: Code::JobLost.as_str().into(),
        message: what.into(),
        next_step: Code::JobLost.next_step().into(),
        ..JobEnd::default()
    };
    end(connection, &job.id, Phase::Lost, &ending).await?;
    notices::lost(connection, job).await?;
    may_have_applied(connection, job).await
}

/// The stack of a job that is not here, from what its request says of it; its name has the id's end where somebody took the name since.
async fn adopt_stack(
    connection: &mut SqliteConnection,
    organization: &str,
    request: &v1::JobRequest,
) -> Result<(), Failure> {
    let failed = broken("taking a stack over");
    let known: Option<String> = sqlx::query_scalar("SELECT organization FROM stacks WHERE id = $1")
        .bind(&request.stack_id)
        .fetch_optional(&mut *connection)
        .await
        .map_err(&failed)?;
    match known {
        Some(whose) if whose == organization => return Ok(()),
        Some(_) => return Err(not_found("stack", &request.stack_id)),
        None => {}
    }
    let (kind, path) = match &request.source {
        Some(v1::Source { kind: Some(kind), path }) => (crate::api::stored_source(kind), path.as_str()),
        _ => (json!({}), ""),
    };
    let end = request.stack_id.len().saturating_sub(8);
    // a name is ASCII, and at most 63 of it
    let other = format!("{:.54}-{}", request.stack_name, request.stack_id.get(end..).unwrap_or_default());
    for name in [request.stack_name.as_str(), &other] {
        let made = sqlx::query(
            "INSERT INTO stacks (id, organization, name, engine, source, variables, connections, created_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&request.stack_id)
        .bind(organization)
        .bind(name)
        .bind(&request.engine)
        .bind(json!({ "source": kind, "path": path }).to_string())
        .bind(json!(request.variables).to_string())
        .bind(json!(request.connections).to_string())
        .bind(now_ms())
        .execute(&mut *connection)
        .await;
        match made {
            Ok(_) => {
                tracing::warn!(stack = request.stack_id, name, "a stack that was not in the back-up is known again");
                return Ok(());
            }
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Code::Conflict.on(format!("stack {} is not here, and its name is taken", request.stack_name)))
}

/// The row of a job that is not here, as one that nobody accepted.
async fn insert(
    connection: &mut SqliteConnection,
    organization: &str,
    runner: &str,
    request: &v1::JobRequest,
    digest: &[u8],
) -> Result<(), Failure> {
    let kind = match request.kind() {
        v1::JobKind::Preview => JobKind::Preview,
        v1::JobKind::Update => JobKind::Update,
        v1::JobKind::Refresh => JobKind::Refresh,
        v1::JobKind::Destroy => JobKind::Destroy,
        v1::JobKind::Outputs => JobKind::Outputs,
        v1::JobKind::Import => JobKind::Import,
        v1::JobKind::State => JobKind::State,
        v1::JobKind::Unlock => JobKind::Unlock,
        v1::JobKind::Versions => JobKind::Versions,
        v1::JobKind::Rollback => JobKind::Rollback,
        v1::JobKind::Unspecified => {
            return Err(Code::InvalidArgument.on(format!("job {} is of no kind", request.job_id)));
        }
    };
    let archive = match request.source.as_ref().and_then(|s| s.kind.as_ref()) {
        Some(v1::source::Kind::Archive(archive)) => Some(&archive.sha256),
        _ => None,
    };
    sqlx::query(
        "INSERT INTO jobs (id, organization, stack, runner, kind, phase, approve_automatically, request, request_sha256, \
         archive, created_by, created_at_ms, preview_only, untrusted, reconcile, partial) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, x'', $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(&request.job_id)
    .bind(organization)
    .bind(&request.stack_id)
    .bind(runner)
    .bind(kind)
    .bind(Phase::Pending)
    .bind(request.approve_automatically)
    .bind(digest)
    .bind(archive)
    .bind(&request.created_by)
    .bind(made_at(&request.job_id).unwrap_or_else(now_ms))
    .bind(request.preview_only)
    .bind(request.untrusted)
    .bind(request.reconcile)
    .bind(!request.targets.is_empty())
    .execute(connection)
    .await
    .map(drop)
    .map_err(broken("taking a job over"))
}

/// When a job was made: its id says so.
fn made_at(id: &str) -> Option<i64> {
    let made = uuid::Uuid::try_parse(id.split('_').next_back()?).ok()?.get_timestamp()?;
    let (seconds, nanos) = made.to_unix();
    i64::try_from(seconds * 1000 + u64::from(nanos / 1_000_000)).ok()
}
