//! Schedules of stacks: what is to be done when, for whom, and what became of it last. When their time has come is the caller's to say.

use super::{Phase, Store, broken, new_id, not_found, notices};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use sqlx::FromRow;

/// Schedules of one stack.
const SCHEDULES_MAX: i64 = 20;

/// What a schedule has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum Does {
    /// A look at what others have changed: the plan of a refresh, and nothing else.
    Drift,
    /// A preview.
    Preview,
    /// An update, which waits for its approval.
    Update,
    /// An update, which is applied where the runner's own policy lets it be, and waits for its approval else.
    Reconcile,
}

/// A schedule as it stands.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Schedule {
    /// `sch_…`.
    pub id: String,
    /// Whose it is.
    pub organization: String,
    /// Its stack's id.
    pub stack: String,
    /// Its stack's name.
    pub stack_name: String,
    /// Its name, unique among the stack's.
    pub name: String,
    /// What it has done.
    pub does: Does,
    /// When, as cron has it.
    pub cron: String,
    /// By which distance from UTC.
    pub utc_offset: String,
    /// Over how long the stacks of one time are spread, seconds.
    pub jitter_s: i64,
    /// Whether one that was missed is made up for.
    pub late: bool,
    /// The user for whom its jobs are made.
    pub user_id: String,
    /// That user's name.
    pub user_name: String,
    /// When it was made.
    pub created_at_ms: i64,
    /// Since when it is paused.
    pub paused_at_ms: Option<i64>,
    /// By whom, or why.
    pub paused_by: Option<String>,
    /// The time that its line names next.
    pub slot_ms: i64,
    /// The same with its part of the jitter.
    pub due_ms: i64,
    /// When it came to its turn last.
    pub last_at_ms: Option<i64>,
    /// The job that it made then.
    pub last_job: Option<String>,
    /// What there is to say of it.
    pub last_said: Option<String>,
    /// How many, one after the other, have failed.
    pub failures: i64,
}

/// What a user says of a schedule.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name.
    pub name: String,
    /// What it has done.
    pub does: Does,
    /// When.
    pub cron: String,
    /// By which distance from UTC.
    pub utc_offset: String,
    /// Seconds.
    pub jitter_s: i64,
    /// Whether one that was missed is made up for.
    pub late: bool,
    /// The user's id and name.
    pub user: (String, String),
    /// Its next time, without and with its part of the jitter.
    pub next: (i64, i64),
}

/// What became of one turn.
#[derive(Debug, Clone)]
pub struct Turn {
    /// When it was.
    pub at_ms: i64,
    /// The next one, without and with its part of the jitter.
    pub next: (i64, i64),
    /// The job that was made.
    pub job: Option<String>,
    /// Why there is none, or what else there is to say.
    pub said: Option<String>,
    /// Failures, one after the other, up to now.
    pub failures: i64,
    /// Why it is paused from now on.
    pub pauses: Option<String>,
}

macro_rules! select_schedules {
    ($rest:literal) => {
        concat!(
            "SELECT schedules.id, schedules.organization, schedules.stack, stacks.name AS stack_name, schedules.name, does, cron, ",
            "utc_offset, jitter_s, late, user_id, user_name, schedules.created_at_ms, paused_at_ms, paused_by, slot_ms, due_ms, ",
            "last_at_ms, last_job, last_said, failures FROM schedules JOIN stacks ON stacks.id = schedules.stack ",
            "WHERE stacks.deleted_at_ms IS NULL AND ",
            $rest
        )
    };
}

impl Store {
    /// Makes a schedule of a stack, or changes the one of that name: what it did before stays.
    ///
    /// # Errors
    /// `busy` where the stack has as many as it may.
    pub async fn set_schedule(&self, organization: &str, stack: &str, new: &NewSchedule) -> Result<Schedule, Failure> {
        let failed = broken("setting a schedule");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let others: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM schedules WHERE stack = $1 AND name <> $2")
            .bind(stack)
            .bind(&new.name)
            .fetch_one(&mut *transaction)
            .await
            .map_err(&failed)?;
        if others >= SCHEDULES_MAX {
            return Err(Code::Busy.on(format!("the stack has {SCHEDULES_MAX} schedules, which is the limit")));
        }
        sqlx::query(
            "INSERT INTO schedules (id, organization, stack, name, does, cron, utc_offset, jitter_s, late, user_id, user_name, \
             created_at_ms, slot_ms, due_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
             ON CONFLICT (stack, name) DO UPDATE SET does = $5, cron = $6, utc_offset = $7, jitter_s = $8, late = $9, user_id = $10, \
             user_name = $11, slot_ms = $13, due_ms = $14, failures = 0",
        )
        .bind(new_id("sch"))
        .bind(organization)
        .bind(stack)
        .bind(&new.name)
        .bind(new.does)
        .bind(&new.cron)
        .bind(&new.utc_offset)
        .bind(new.jitter_s)
        .bind(new.late)
        .bind(&new.user.0)
        .bind(&new.user.1)
        .bind(now_ms())
        .bind(new.next.0)
        .bind(new.next.1)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        self.schedule(organization, stack, &new.name).await
    }

    /// The organization's schedules, of one stack where one is given, by stack and name.
    ///
    /// # Errors
    /// `internal`.
    pub async fn schedules(
        &self,
        organization: &str,
        stack: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Schedule>, Failure> {
        sqlx::query_as(select_schedules!(
            "schedules.organization = $1 AND ($2 IS NULL OR schedules.stack = $2) ORDER BY stacks.name, schedules.name LIMIT $3"
        ))
        .bind(organization)
        .bind(stack)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(broken("listing schedules"))
    }

    /// The schedule of that name.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn schedule(&self, organization: &str, stack: &str, name: &str) -> Result<Schedule, Failure> {
        sqlx::query_as(select_schedules!(
            "schedules.organization = $1 AND schedules.stack = $2 AND schedules.name = $3"
        ))
        .bind(organization)
        .bind(stack)
        .bind(name)
        .fetch_optional(self.pool())
        .await
        .map_err(broken("looking a schedule up"))?
        .ok_or_else(|| not_found("schedule", name))
    }

    /// Removes a schedule; jobs that it made stay.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_schedule(&self, organization: &str, stack: &str, name: &str) -> Result<(), Failure> {
        let gone = sqlx::query("DELETE FROM schedules WHERE organization = $1 AND stack = $2 AND name = $3")
            .bind(organization)
            .bind(stack)
            .bind(name)
            .execute(self.pool())
            .await
            .map_err(broken("removing a schedule"))?;
        if gone.rows_affected() == 0 { Err(not_found("schedule", name)) } else { Ok(()) }
    }

    /// Pauses a schedule, by whom or why; `None`: it goes on, from `next`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn pause_schedule(
        &self,
        schedule: &Schedule,
        by: Option<&str>,
        next: (i64, i64),
    ) -> Result<Schedule, Failure> {
        sqlx::query(
            "UPDATE schedules SET paused_at_ms = CASE WHEN $2 IS NULL THEN NULL ELSE COALESCE(paused_at_ms, $3) END, \
             paused_by = $2, slot_ms = $4, due_ms = $5, failures = 0 WHERE id = $1",
        )
        .bind(&schedule.id)
        .bind(by)
        .bind(now_ms())
        .bind(next.0)
        .bind(next.1)
        .execute(self.pool())
        .await
        .map_err(broken("pausing a schedule"))?;
        self.schedule(&schedule.organization, &schedule.stack, &schedule.name).await
    }

    /// The schedules whose time has come by then, of all organizations, the one that waits longest first; and those whose last job failed after
    /// `failures` others: whoever is told of that should not be told a day later.
    ///
    /// # Errors
    /// `internal`.
    pub async fn due_schedules(&self, now: i64, failures: i64, limit: u32) -> Result<Vec<Schedule>, Failure> {
        sqlx::query_as(select_schedules!(
            "paused_at_ms IS NULL AND (due_ms <= $1 OR (failures >= $3 AND EXISTS (SELECT 1 FROM jobs WHERE jobs.id = last_job AND \
             jobs.phase IN ($4, $5)))) ORDER BY due_ms LIMIT $2"
        ))
            .bind(now)
            .bind(i64::from(limit))
            .bind(failures)
            .bind(Phase::Failed)
            .bind(Phase::Lost)
            .fetch_all(self.pool())
            .await
            .map_err(broken("looking for due schedules"))
    }

    /// When the next one's time comes.
    ///
    /// # Errors
    /// `internal`.
    pub async fn next_schedule(&self) -> Result<Option<i64>, Failure> {
        sqlx::query_scalar(
            "SELECT MIN(due_ms) FROM schedules JOIN stacks ON stacks.id = schedules.stack \
             WHERE paused_at_ms IS NULL AND stacks.deleted_at_ms IS NULL",
        )
        .fetch_one(self.pool())
        .await
        .map_err(broken("looking for the next schedule"))
    }

    /// Notes what became of a schedule's turn, and tells where that pauses it, unless somebody else has, or it was changed meanwhile.
    ///
    /// # Errors
    /// `internal`.
    pub async fn had_turn(&self, schedule: &Schedule, turn: &Turn) -> Result<(), Failure> {
        let failed = broken("noting what a schedule did");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let noted = sqlx::query(
            "UPDATE schedules SET slot_ms = $3, due_ms = $4, last_at_ms = $5, last_job = $6, last_said = $7, failures = $8, \
             paused_at_ms = CASE WHEN $9 IS NULL THEN paused_at_ms ELSE $5 END, paused_by = COALESCE($9, paused_by) \
             WHERE id = $1 AND slot_ms = $2",
        )
        .bind(&schedule.id)
        .bind(schedule.slot_ms)
        .bind(turn.next.0)
        .bind(turn.next.1)
        .bind(turn.at_ms)
        .bind(&turn.job)
        .bind(&turn.said)
        .bind(turn.failures)
        .bind(&turn.pauses)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        if let Some(why) = turn.pauses.as_deref().filter(|_| noted.rows_affected() == 1) {
            notices::paused(&mut transaction, schedule, why).await?;
        }
        transaction.commit().await.map_err(failed)
    }
}
