//! Jobs on their way to an instance: assigned, taken back, accepted, held.
//!
//! ```text
//!   pending ──assign──▶ assigned (token + 1) ──accept──▶ preparing, bound to the instance
//!      ▲                   │
//!      └── 30 s, or the ───┘  the token stays: an Accept that comes late is good until someone else was given the job
//!          Work stream ended
//! ```

use super::super::seal::Assigned;
use super::super::{Store, broken, is_taken, not_found, rules};
use super::{Job, JobKind, Phase, WITH_RULES, read, select_jobs};
use crate::clock::steady_ms;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::{now_ms, v1};

/// Pending jobs that are looked at for one assignment.
const CANDIDATES_MAX: i64 = 64;
/// How long a job waits for the instance that may have its stack's state, milliseconds.
const PREFERENCE_MS: i64 = 15_000;
/// How long a stack's next job waits for the instance to have done with the one before, milliseconds.
const SETTLE_MS: i64 = 30_000;
/// Jobs of one instance that are followed at once.
const FOLLOWED_MAX: i64 = 1000;
/// How long an ended job's instance is told again that the folder may go, milliseconds.
const RELEASE_AGAIN_MS: i64 = 10 * 60 * 1000;

/// A job as it is given to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its id.
    pub job_id: String,
    /// This assignment's token.
    pub fencing_token: u64,
    /// An encoded JobRequest.
    pub request: Vec<u8>,
    /// Its digest.
    pub request_sha256: Vec<u8>,
    /// The instance that has the stack's state, if it has no backend; none: nobody, or not known.
    pub state_instance: Option<String>,
    /// This control plane's mark on it.
    pub seal: Vec<u8>,
}

/// How an instance stands to a job that it names with a fencing token.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// This runner has no such job.
    Unknown,
    /// The token is an older one, or the job is another instance's.
    Fenced(Box<Job>),
    /// It is this instance's.
    Held(Box<Job>),
}

/// The instance of that runner which may have a stack's state. That of another runner, which the stack had before, is none that a job of this
/// one could be given.
macro_rules! preferred {
    ($runner:literal) => {
        concat!(
            "CASE WHEN EXISTS (SELECT 1 FROM jobs AS had WHERE had.stack = stacks.id AND had.instance = stacks.last_instance AND had.runner <> ",
            $runner,
            ") THEN NULL ELSE stacks.last_instance END AS preferred"
        )
    };
}

#[derive(sqlx::FromRow)]
struct Candidate {
    id: String,
    last_instance: Option<String>,
    preferred: Option<String>,
    created_at_ms: i64,
}

/// Whether a job that was made then still waits for an instance that is not here. By whichever clock: one that was set back must not make
/// that a year.
fn is_preferred(created_at_ms: i64) -> bool {
    (0..PREFERENCE_MS).contains(&(now_ms() - created_at_ms))
}

/// The same request with those rules.
fn with_rules(request: Vec<u8>, rules: String) -> Result<Vec<u8>, Failure> {
    let unreadable = |e| Code::Internal.on(format!("a job's request does not read back: {e}"));
    let asked = v1::JobRequest::decode(request.as_slice()).map_err(unreadable)?;
    if asked.rules == rules {
        return Ok(request);
    }
    let format = if rules.is_empty() { asked.format } else { asked.format.max(WITH_RULES) };
    Ok(v1::JobRequest { rules, format, ..asked }.encode_to_vec())
}

impl Store {
    /// Gives the runner's next job to an instance that takes `slots` at once, if there is one for it. `present`: the runner's instances
    /// that ask for work now.
    ///
    /// # Errors
    /// `internal`.
    pub async fn assign_next(
        &self,
        runner: &str,
        instance: &str,
        slots: u32,
        present: &[String],
    ) -> Result<Option<Given>, Failure> {
        let failed = broken("assigning a job");
        // most looks find nothing: they must not take the write lock
        let waiting: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM jobs WHERE runner = $1 AND phase = $2)")
            .bind(runner)
            .bind(Phase::Pending)
            .fetch_one(self.pool())
            .await
            .map_err(&failed)?;
        if !waiting {
            return Ok(None);
        }
        let mut transaction = self.writing().await.map_err(&failed)?;
        let now = now_ms();
        // a plan that waits for its approval keeps nobody busy
        let busy: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM jobs WHERE runner = $1 AND instance = $2 AND ended_at_ms IS NULL AND phase NOT IN ($3, $4)",
        )
        .bind(runner)
        .bind(instance)
        .bind(Phase::Pending)
        .bind(Phase::AwaitingApproval)
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        if busy >= i64::from(slots) {
            return Ok(None);
        }
        let candidates: Vec<Candidate> = sqlx::query_as(
            concat!(
                "SELECT jobs.id, stacks.last_instance, jobs.created_at_ms, ",
                preferred!("$1"),
                " FROM jobs JOIN stacks ON stacks.id = jobs.stack \
                 WHERE jobs.runner = $1 AND jobs.phase = $2 AND jobs.restored_at_ms IS NULL AND NOT EXISTS (SELECT 1 FROM jobs AS other \
                 WHERE other.stack = jobs.stack AND other.phase <> $2 AND (other.ended_at_ms IS NULL OR \
                 (other.accepted AND NOT other.reported AND other.phase <> $3 AND other.ended_at_ms > $4 AND other.ended_at_ms <= $6))) \
                 ORDER BY jobs.id LIMIT $5"
            ),
        )
        .bind(runner)
        .bind(Phase::Pending)
        // one that ended here by a user's decision is still its instance's for a moment, which would not take the next
        .bind(Phase::Lost)
        .bind(now - SETTLE_MS)
        .bind(CANDIDATES_MAX)
        // what ended later than now did so by another clock
        .bind(now)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        let next = candidates.into_iter().find(|c| match &c.preferred {
            None => true,
            Some(last) if last == instance => true,
            // the state may be there: it is that instance's while it is here, or may be back in a moment
            Some(last) => !present.contains(last) && !is_preferred(c.created_at_ms),
        });
        let Some(next) = next else { return Ok(None) };
        let (request, organization, kind): (Vec<u8>, String, JobKind) =
            sqlx::query_as("SELECT request, organization, kind FROM jobs WHERE id = $1")
                .bind(&next.id)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
        // it may have waited for long: its plan is judged by the rules that are in force now
        let (request, rules_sha256) = match kind.plans() {
            true => {
                let in_force = rules::in_force(&mut transaction, &organization).await?;
                let digest = rules::digest(&in_force);
                (with_rules(request, in_force)?, Some(digest))
            }
            false => (request, None),
        };
        let request_sha256 = Sha256::digest(&request).to_vec();
        let token: i64 = sqlx::query_scalar(
            "UPDATE jobs SET phase = $2, instance = $3, assigned_at_ms = $4, fencing_token = fencing_token + 1, request = $5, \
             request_sha256 = $6, rules_sha256 = $7 WHERE id = $1 RETURNING fencing_token",
        )
        .bind(&next.id)
        .bind(Phase::Assigned)
        .bind(instance)
        .bind(steady_ms())
        .bind(&request)
        .bind(&request_sha256)
        .bind(rules_sha256)
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        let fencing_token = u64::try_from(token).unwrap_or(0);
        let seal = self.seal().mark(Assigned {
            organization: &organization,
            runner,
            instance,
            job: &next.id,
            token: fencing_token,
            request_sha256: &request_sha256,
        });
        let state_instance = next.last_instance;
        Ok(Some(Given { job_id: next.id, fencing_token, request, request_sha256, state_instance, seal }))
    }

    /// The instance that a pending job waits for, because it may have the stack's state: for as long as it is `present`, else for a moment.
    ///
    /// # Errors
    /// `internal`.
    pub(crate) async fn preferred_instance(&self, job: &Job, present: &[String]) -> Result<Option<String>, Failure> {
        let last: Option<String> =
            sqlx::query_scalar(concat!("SELECT ", preferred!("$2"), " FROM stacks WHERE stacks.id = $1"))
                .bind(&job.stack)
                .bind(&job.runner)
                .fetch_one(self.pool())
                .await
                .map_err(broken("looking for the instance that has a state"))?;
        let is_waited_for = |last: &String| present.contains(last) || is_preferred(job.created_at_ms);
        Ok(last.filter(is_waited_for))
    }

    /// Counts the time to accept anew for all that are assigned: the clock may have been another one when they were. Once, at the start.
    ///
    /// # Errors
    /// `internal`.
    pub async fn begin_leases(&self) -> Result<(), Failure> {
        sqlx::query("UPDATE jobs SET assigned_at_ms = $1 WHERE phase = $2")
            .bind(steady_ms())
            .bind(Phase::Assigned)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("looking through assigned jobs"))
    }

    /// Has jobs wait again that were assigned before a moment (of the steady clock) and not accepted; those of one instance where one is given. How
    /// many they were.
    ///
    /// # Errors
    /// `internal`.
    pub async fn take_back(&self, runner: &str, instance: Option<&str>, before_ms: i64) -> Result<u64, Failure> {
        sqlx::query(
            "UPDATE jobs SET phase = $4, assigned_at_ms = NULL WHERE runner = $1 AND ($2 IS NULL OR instance = $2) \
             AND phase = $3 AND assigned_at_ms <= $5",
        )
        .bind(runner)
        .bind(instance)
        .bind(Phase::Assigned)
        .bind(Phase::Pending)
        .bind(before_ms)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected())
        .map_err(broken("taking jobs back"))
    }

    /// Binds a job to the instance that has it on its disk. Doing it again changes nothing.
    ///
    /// # Errors
    /// `not_found`, `fenced`, `cancelled` where the job ended meanwhile, `invalid_argument` for another request's digest.
    pub async fn accept_job(
        &self,
        organization: &str,
        runner: &str,
        request: &v1::AcceptRequest,
    ) -> Result<Job, Failure> {
        let failed = broken("accepting a job");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let job = read(&mut transaction, organization, &request.job_id).await?;
        if job.runner != runner {
            return Err(not_found("job", &request.job_id));
        }
        let digest: Vec<u8> = sqlx::query_scalar("SELECT request_sha256 FROM jobs WHERE id = $1")
            .bind(&job.id)
            .fetch_one(&mut *transaction)
            .await
            .map_err(&failed)?;
        if job.token() != request.fencing_token || job.instance.as_deref() != Some(&request.instance_id) {
            return Err(fenced(&job));
        }
        if job.ended() && !job.accepted {
            return Err(Code::Cancelled.on(format!(
                "job {} ended {} before it was accepted",
                job.id,
                job.phase.as_str()
            )));
        }
        if digest != request.request_sha256 {
            return Err(Code::InvalidArgument.on(format!("the digest is not that of the request of job {}", job.id)));
        }
        if job.accepted {
            return Ok(job);
        }
        // the request is on the instance's disk now, with the variables in it; here it is needed no more
        sqlx::query("UPDATE jobs SET accepted = TRUE, phase = $2, started_at_ms = $3, request = x'' WHERE id = $1")
            .bind(&job.id)
            .bind(Phase::Preparing)
            .bind(now_ms())
            .execute(&mut *transaction)
            .await
            // taken back, and another job of the stack was given out since
            .map_err(|e| if is_taken(&e) { fenced(&job) } else { failed(e) })?;
        let job = read(&mut transaction, organization, &job.id).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(job)
    }

    /// Jobs that an instance accepted and that it may still have to be told something about.
    ///
    /// # Errors
    /// `internal`.
    pub async fn jobs_of_instance(&self, runner: &str, instance: &str) -> Result<Vec<Job>, Failure> {
        sqlx::query_as(select_jobs!(
            light "WHERE jobs.runner = $1 AND jobs.instance = $2 AND jobs.accepted AND \
             (jobs.ended_at_ms IS NULL OR NOT jobs.reported OR jobs.ended_at_ms > $3) ORDER BY jobs.id DESC LIMIT $4"
        ))
        .bind(runner)
        .bind(instance)
        .bind(now_ms() - RELEASE_AGAIN_MS)
        .bind(FOLLOWED_MAX)
        .fetch_all(self.pool())
        .await
        .map_err(broken("looking an instance's jobs up"))
    }

    /// How an instance stands to a job.
    ///
    /// # Errors
    /// `internal`.
    pub async fn standing(
        &self,
        organization: &str,
        runner: &str,
        instance: &str,
        job: &str,
        token: u64,
    ) -> Result<Standing, Failure> {
        let job = match self.job(organization, job).await {
            Ok(job) if job.runner == runner => Box::new(job),
            Ok(_) => return Ok(Standing::Unknown),
            Err(failure) if failure.code == Code::NotFound => return Ok(Standing::Unknown),
            Err(failure) => return Err(failure),
        };
        let holds = job.accepted && job.token() == token && job.instance.as_deref() == Some(instance);
        Ok(if holds { Standing::Held(job) } else { Standing::Fenced(job) })
    }
}

/// The job went on without this instance.
pub(super) fn fenced(job: &Job) -> Failure {
    Code::Fenced.on(format!("job {} is under fencing token {} now", job.id, job.fencing_token))
}
