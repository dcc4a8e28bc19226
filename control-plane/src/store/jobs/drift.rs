//! What others have changed of what a stack manages, as far as anybody has looked: found by the plan of a refresh that nothing is applied of, gone
//! by the next that finds none, or by an apply, which takes it over or undoes it.

use super::super::{Store, broken};
use super::{Job, JobEnd, JobKind, Phase};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use sqlx::{FromRow, SqliteConnection};

/// What the last look at a stack found.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Drift {
    /// The stack's id.
    pub stack: String,
    /// The stack's name.
    pub stack_name: String,
    /// When it was looked last.
    pub checked_at_ms: i64,
    /// The job that looked.
    pub checked_by: String,
    /// Since when there is some; none: there is none.
    pub since_ms: Option<i64>,
    /// The job whose plan has it.
    pub found_by: Option<String>,
    /// In how many resources, where that is known.
    pub resources: Option<i64>,
}

/// What a job's end changes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drifted {
    /// There was none that anybody knew of.
    Found(Option<i64>),
    /// There was some.
    Gone,
}

/// What a job that has ended saw.
enum Seen {
    Some(Option<i64>),
    None,
    /// Somebody looked, or nobody had to: the state is what there is.
    Applied,
}

macro_rules! select_drift {
    ($rest:literal) => {
        concat!(
            "SELECT drift.stack, stacks.name AS stack_name, checked_at_ms, checked_by, since_ms, found_by, resources ",
            "FROM drift JOIN stacks ON stacks.id = drift.stack WHERE stacks.deleted_at_ms IS NULL AND drift.organization = $1 AND ",
            $rest
        )
    };
}

impl Store {
    /// What is known of the organization's stacks: where there is drift first, oldest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn drifts(&self, organization: &str, limit: u32) -> Result<Vec<Drift>, Failure> {
        sqlx::query_as(select_drift!("TRUE ORDER BY since_ms IS NULL, since_ms, stacks.name LIMIT $2"))
            .bind(organization)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing drift"))
    }

    /// What is known of one stack; none where nobody has looked.
    ///
    /// # Errors
    /// `internal`.
    pub async fn drift(&self, organization: &str, stack: &str) -> Result<Option<Drift>, Failure> {
        sqlx::query_as(select_drift!("drift.stack = $2"))
            .bind(organization)
            .bind(stack)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking drift up"))
    }
}

/// Takes down what a job that has ended saw; what that changes, if anything.
pub(super) async fn look(connection: &mut SqliteConnection, job: &Job) -> Result<Option<Drifted>, Failure> {
    let failed = broken("taking drift down");
    let Some(seen) = seen(job) else { return Ok(None) };
    let before: Option<Option<i64>> = sqlx::query_scalar("SELECT since_ms FROM drift WHERE stack = $1")
        .bind(&job.stack)
        .fetch_optional(&mut *connection)
        .await
        .map_err(&failed)?;
    let had = before.flatten();
    let (since, found_by, resources, changes) = match seen {
        // nobody has looked: nothing is said
        Seen::Applied if before.is_none() => return Ok(None),
        Seen::Some(resources) => {
            let changes = had.is_none().then_some(Drifted::Found(resources));
            (Some(had.unwrap_or_else(now_ms)), Some(&job.id), resources, changes)
        }
        Seen::None | Seen::Applied => (None, None, None, had.map(|_| Drifted::Gone)),
    };
    sqlx::query(
        "INSERT INTO drift (stack, organization, checked_at_ms, checked_by, since_ms, found_by, resources) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (stack) DO UPDATE SET checked_at_ms = $3, checked_by = $4, since_ms = $5, \
         found_by = $6, resources = $7",
    )
    .bind(&job.stack)
    .bind(&job.organization)
    .bind(now_ms())
    .bind(&job.id)
    .bind(since)
    .bind(found_by)
    .bind(resources)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(changes)
}

fn seen(job: &Job) -> Option<Seen> {
    if job.has_applied() && !job.partial {
        return matches!(job.kind, JobKind::Update | JobKind::Refresh | JobKind::Destroy).then_some(Seen::Applied);
    }
    if !job.preview_only || job.partial {
        return None;
    }
    let code = job.result.as_deref().and_then(|r| serde_json::from_str::<JobEnd>(r).ok()).unwrap_or_default().code;
    match job.phase {
        Phase::NoChanges => Some(Seen::None),
        // a plan that rules deny is a plan, and so is one that its hook fails of
        Phase::Planned | Phase::Failed
            if code == "ok" || [Code::PlanDenied, Code::HookFailed].iter().any(|known| code == known.as_str()) =>
        {
            let plan = job.plan()?;
            match plan.summary {
                Some(summary) if summary.drift > 0 => Some(Seen::Some(Some(summary.drift.into()))),
                // only outputs are other ones
                Some(_) => Some(Seen::None),
                None if plan.has_changes => Some(Seen::Some(None)),
                None => None,
            }
        }
        _ => None,
    }
}
