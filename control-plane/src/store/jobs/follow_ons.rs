//! Stacks that are to be planned anew because outputs that they take are other ones: noted with the end of the job that told so, each stack once.
//! When it is its turn is the caller's to say.

use super::super::{Store, broken};
use super::{Job, JobKind, Phase};
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use sqlx::{FromRow, SqliteConnection};

/// A stack that is to be planned anew.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct FollowOn {
    /// The stack's id.
    pub stack: String,
    /// Whose it is.
    pub organization: String,
    /// The job whose outputs are other ones than before.
    pub after_job: String,
    /// Who made that one: the user's name.
    pub created_by: String,
}

impl Store {
    /// Those that are to be done, oldest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn follow_ons(&self, limit: u32) -> Result<Vec<FollowOn>, Failure> {
        sqlx::query_as(
            "SELECT stack, organization, after_job, created_by FROM follow_ons ORDER BY created_at_ms, stack LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(broken("listing what follows"))
    }

    /// That one was done, unless it is to be done again by now.
    ///
    /// # Errors
    /// `internal`.
    pub async fn followed(&self, done: &FollowOn) -> Result<(), Failure> {
        sqlx::query("DELETE FROM follow_ons WHERE stack = $1 AND after_job = $2")
            .bind(&done.stack)
            .bind(&done.after_job)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("noting what followed"))
    }
}

/// Notes the stacks that take outputs of a job's stack, where it applied something and has told of other ones than the job before it.
pub(super) async fn note(connection: &mut SqliteConnection, job: &Job) -> Result<(), Failure> {
    let failed = broken("noting what follows");
    let makes = matches!(job.kind, JobKind::Update | JobKind::Refresh | JobKind::Import);
    let Some(outputs) = job.outputs.as_ref().filter(|_| makes && job.has_applied()) else { return Ok(()) };
    let before: Option<String> = sqlx::query_scalar(
        "SELECT outputs FROM jobs WHERE stack = $1 AND id <> $2 AND outputs IS NOT NULL AND (phase IN ($3, $4) OR applied) ORDER BY id DESC LIMIT 1",
    )
    .bind(&job.stack)
    .bind(&job.id)
    .bind(Phase::Applied)
    .bind(Phase::NoChanges)
    .fetch_optional(&mut *connection)
    .await
    .map_err(&failed)?;
    if before.as_ref() == Some(outputs) {
        return Ok(());
    }
    // ids are in nothing else of an input
    sqlx::query(
        "INSERT INTO follow_ons (stack, organization, after_job, created_by, created_at_ms) \
         SELECT id, organization, $3, $4, $5 FROM stacks \
         WHERE organization = $1 AND deleted_at_ms IS NULL AND follows AND INSTR(inputs, '\"' || $2 || '\"') > 0 \
         ON CONFLICT (stack) DO UPDATE SET after_job = excluded.after_job, created_by = excluded.created_by",
    )
    .bind(&job.organization)
    .bind(&job.stack)
    .bind(&job.id)
    .bind(&job.created_by)
    .bind(now_ms())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed)
}
