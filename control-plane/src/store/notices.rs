//! Who is told of what becomes of jobs and stacks, and what is still to be told: each notice is written in the transaction that it tells of, and
//! sent by whoever finds it. Nothing of a plan, of outputs or of an engine's words is in one.

use super::jobs::drift::Drifted;
use super::{Job, JobEnd, Phase, Schedule, Store, broken, new_id, not_found, organizations};
use serde_json::json;
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use sqlx::{FromRow, SqliteConnection};

/// What there is to be told of.
pub const EVENTS: [&str; 6] =
    ["drift_found", "drift_gone", "job_waits", "job_failed", "job_applied", "schedule_paused"];
/// Notices of one receiver that are not told yet: what comes beyond that is not told.
const WAITING_MAX: i64 = 1000;
/// Of those that were told, or given up, the newest that are kept of each receiver.
const KEPT_MAX: i64 = 200;

/// Somebody who is told.
#[derive(Clone, PartialEq, Eq, FromRow)]
pub struct Notification {
    /// `ntf_…`.
    pub id: String,
    /// Whose it is.
    pub organization: String,
    /// Its name, unique in the organization.
    pub name: String,
    /// Where it is told.
    pub url: String,
    /// By which what is told is signed.
    pub secret: String,
    /// Of what: of [`EVENTS`], with a comma between.
    pub events: String,
    /// Who made it: the user's name.
    pub created_by: String,
    /// When.
    pub created_at_ms: i64,
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Notice {
    /// `ntc_…`.
    pub id: String,
    /// Who is told.
    pub notification: String,
    /// Of [`EVENTS`], or `test`.
    pub event: String,
    /// JSON, as it is sent.
    pub body: String,
    /// When what it tells of happened.
    pub created_at_ms: i64,
    /// How often it was sent.
    pub tries: i64,
    /// When it is sent next; none: it was told, or given up.
    pub next_at_ms: Option<i64>,
    /// What came of the last time.
    pub said: Option<String>,
    /// When it was told.
    pub told_at_ms: Option<i64>,
}

// === impl Notification ===

impl std::fmt::Debug for Notification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notification").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Store ===

impl Store {
    /// Has somebody told.
    ///
    /// # Errors
    /// `conflict` where the name is taken.
    pub async fn create_notification(&self, new: &Notification) -> Result<(), Failure> {
        sqlx::query(
            "INSERT INTO notifications (id, organization, name, url, secret, events, created_by, created_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&new.id)
        .bind(&new.organization)
        .bind(&new.name)
        .bind(&new.url)
        .bind(&new.secret)
        .bind(&new.events)
        .bind(&new.created_by)
        .bind(new.created_at_ms)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(|e| organizations::taken(e, "a notification", &new.name, "making a notification"))
    }

    /// Who is told in an organization, by name.
    ///
    /// # Errors
    /// `internal`.
    pub async fn notifications(&self, organization: &str) -> Result<Vec<Notification>, Failure> {
        sqlx::query_as("SELECT * FROM notifications WHERE organization = $1 ORDER BY name")
            .bind(organization)
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing notifications"))
    }

    /// The one of that id or name.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn notification(&self, organization: &str, id_or_name: &str) -> Result<Notification, Failure> {
        sqlx::query_as("SELECT * FROM notifications WHERE organization = $1 AND (id = $2 OR name = $2)")
            .bind(organization)
            .bind(id_or_name)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a notification up"))?
            .ok_or_else(|| not_found("notification", id_or_name))
    }

    /// Tells it no more.
    ///
    /// # Errors
    /// `internal`.
    pub async fn remove_notification(&self, organization: &str, id: &str) -> Result<(), Failure> {
        sqlx::query("DELETE FROM notifications WHERE organization = $1 AND id = $2")
            .bind(organization)
            .bind(id)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("removing a notification"))
    }

    /// What was told to one of them, and is to be, newest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn notices(&self, notification: &str, limit: u32) -> Result<Vec<Notice>, Failure> {
        sqlx::query_as("SELECT * FROM notices WHERE notification = $1 ORDER BY id DESC LIMIT $2")
            .bind(notification)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing notices"))
    }

    /// Writes down that something is to be told to one alone.
    ///
    /// # Errors
    /// `internal`.
    pub async fn tell(&self, notification: &Notification, event: &str) -> Result<String, Failure> {
        let mut connection = self.pool().acquire().await.map_err(broken("writing a notice"))?;
        let body = json!({ "organization": notification.organization });
        insert(&mut connection, &notification.id, event, body).await
    }

    /// What is to be told by then, to whom, the oldest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn due_notices(&self, now: i64, limit: u32) -> Result<Vec<(Notice, Notification)>, Failure> {
        let failed = broken("looking for notices");
        let notices: Vec<Notice> = sqlx::query_as("SELECT * FROM notices WHERE next_at_ms <= $1 ORDER BY id LIMIT $2")
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(&failed)?;
        let mut due = Vec::with_capacity(notices.len());
        for notice in notices {
            let to: Option<Notification> = sqlx::query_as("SELECT * FROM notifications WHERE id = $1")
                .bind(&notice.notification)
                .fetch_optional(self.pool())
                .await
                .map_err(&failed)?;
            due.extend(to.map(|to| (notice, to)));
        }
        Ok(due)
    }

    /// Notes what came of a notice: it is sent again then, or never.
    ///
    /// # Errors
    /// `internal`.
    pub async fn told(&self, notice: &Notice, said: &str, told: bool, next_at_ms: Option<i64>) -> Result<(), Failure> {
        let failed = broken("noting what came of a notice");
        let mut transaction = self.writing().await.map_err(&failed)?;
        sqlx::query(
            "UPDATE notices SET tries = tries + 1, said = $2, next_at_ms = $3, told_at_ms = CASE WHEN $4 THEN $5 END WHERE id = $1",
        )
        .bind(&notice.id)
        .bind(said)
        .bind(next_at_ms)
        .bind(told)
        .bind(now_ms())
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        sqlx::query(
            "DELETE FROM notices WHERE notification = $1 AND next_at_ms IS NULL AND id NOT IN \
             (SELECT id FROM notices WHERE notification = $1 AND next_at_ms IS NULL ORDER BY id DESC LIMIT $2)",
        )
        .bind(&notice.notification)
        .bind(KEPT_MAX)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }
}

/// Writes down what a report has changed of a job that was in this phase, for whoever wants to be told.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    job: &Job,
    was: Phase,
    drifted: Option<Drifted>,
) -> Result<(), Failure> {
    let event = match job.phase {
        phase if phase == was => None,
        Phase::AwaitingApproval => Some("job_waits"),
        Phase::Failed | Phase::Lost => Some("job_failed"),
        Phase::Applied => Some("job_applied"),
        _ => None,
    };
    let of_drift = drifted.map(|drifted| match drifted {
        Drifted::Found(_) => "drift_found",
        Drifted::Gone => "drift_gone",
    });
    for event in event.into_iter().chain(of_drift) {
        tell_all(connection, &job.organization, event, &body(job, drifted)).await?;
    }
    Ok(())
}

/// Writes down that a schedule was paused by what became of its jobs, and why, for whoever wants to be told.
pub(super) async fn paused(connection: &mut SqliteConnection, of: &Schedule, why: &str) -> Result<(), Failure> {
    let body = json!({
        "organization": of.organization,
        "stack": { "id": of.stack, "name": of.stack_name },
        "schedule": { "id": of.id, "name": of.name, "kind": of.does, "why": why },
    });
    tell_all(connection, &of.organization, "schedule_paused", &body).await
}

/// Writes something down for everybody in an organization who wants to be told of it.
async fn tell_all(
    connection: &mut SqliteConnection,
    organization: &str,
    event: &str,
    body: &serde_json::Value,
) -> Result<(), Failure> {
    let receivers: Vec<(String,)> = sqlx::query_as(
        "SELECT id FROM notifications WHERE organization = $1 AND (',' || events || ',') LIKE ('%,' || $2 || ',%')",
    )
    .bind(organization)
    .bind(event)
    .fetch_all(&mut *connection)
    .await
    .map_err(broken("looking for who is told"))?;
    for (receiver,) in receivers {
        insert(connection, &receiver, event, body.clone()).await?;
    }
    Ok(())
}

/// The same of a job that has just been given up as lost.
pub(super) async fn lost(connection: &mut SqliteConnection, job: &Job) -> Result<(), Failure> {
    write(connection, &Job { phase: Phase::Lost, ..job.clone() }, job.phase, None).await
}

fn body(job: &Job, drifted: Option<Drifted>) -> serde_json::Value {
    let end: JobEnd = job.result.as_deref().and_then(|r| serde_json::from_str(r).ok()).unwrap_or_default();
    let code = match job.phase {
        Phase::Lost => "job_lost",
        _ => end.code.as_str(),
    };
    let resources = match drifted {
        Some(Drifted::Found(resources)) => resources,
        _ => None,
    };
    json!({
        "organization": job.organization,
        "stack": { "id": job.stack, "name": job.stack_name },
        "job": { "id": job.id, "kind": job.kind, "phase": job.phase.as_str(), "code": code, "created_by": job.created_by, "origin": job.origin },
        "drift": drifted.map(|_| json!({ "resources": resources })),
    })
}

async fn insert(
    connection: &mut SqliteConnection,
    notification: &str,
    event: &str,
    body: serde_json::Value,
) -> Result<String, Failure> {
    let (id, now) = (new_id("ntc"), now_ms());
    let mut body = body;
    for (name, value) in [("version", json!(1)), ("id", json!(id)), ("event", json!(event)), ("time_ms", json!(now))] {
        body[name] = value;
    }
    sqlx::query(
        "INSERT INTO notices (id, notification, event, body, created_at_ms, next_at_ms) SELECT $1, $2, $3, $4, $5, $5 \
         WHERE (SELECT COUNT(*) FROM notices WHERE notification = $2 AND next_at_ms IS NOT NULL) < $6",
    )
    .bind(&id)
    .bind(notification)
    .bind(event)
    .bind(body.to_string())
    .bind(now)
    .bind(WAITING_MAX)
    .execute(connection)
    .await
    .map_err(broken("writing a notice"))?;
    Ok(id)
}
