//! Hooks by which Git hosts tell of pushes and pull requests, and what came by them: each once, by the digest of what was signed.

use super::{Store, broken, not_found};
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use sqlx::FromRow;

/// Deliveries of one hook that are remembered; jobs are known again for longer, by their idempotency keys.
const DELIVERIES_MAX: i64 = 1000;

/// A hook.
#[derive(Clone, PartialEq, Eq, FromRow)]
pub struct Webhook {
    /// `whk_…`: unguessable, a part of its address.
    pub id: String,
    /// Whose it is.
    pub organization: String,
    /// github, gitlab, bitbucket or gitea.
    pub host: String,
    /// By which the host signs.
    pub secret: String,
    /// JSON: which stacks it is about.
    pub routes: String,
    /// The user for whom its jobs are made.
    pub user_id: String,
    /// That user's name.
    pub user_name: String,
    /// When it was made.
    pub created_at_ms: i64,
}

/// Something that came by one.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Delivery {
    /// Of what was signed.
    pub sha256: String,
    /// As the host names it.
    pub delivery: String,
    /// The host's name for what it tells of.
    pub event: String,
    /// JSON: what was answered.
    pub answer: String,
    /// How often it came.
    pub times: i64,
    /// When it came last.
    pub received_at_ms: i64,
}

// === impl Webhook ===

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("host", &self.host).finish_non_exhaustive()
    }
}

// === impl Store ===

impl Store {
    /// Makes a hook.
    ///
    /// # Errors
    /// `internal`.
    pub async fn create_webhook(&self, new: &Webhook) -> Result<(), Failure> {
        sqlx::query(
            "INSERT INTO webhooks (id, organization, host, secret, routes, user_id, user_name, created_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&new.id)
        .bind(&new.organization)
        .bind(&new.host)
        .bind(&new.secret)
        .bind(&new.routes)
        .bind(&new.user_id)
        .bind(&new.user_name)
        .bind(new.created_at_ms)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(broken("making a webhook"))
    }

    /// The organization's hooks, oldest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn webhooks(&self, organization: &str) -> Result<Vec<Webhook>, Failure> {
        sqlx::query_as("SELECT * FROM webhooks WHERE organization = $1 ORDER BY created_at_ms, id")
            .bind(organization)
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing webhooks"))
    }

    /// The organization's hook of that id.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn webhook(&self, organization: &str, id: &str) -> Result<Webhook, Failure> {
        let found = self.webhook_of_any(id).await?;
        found.filter(|hook| hook.organization == organization).ok_or_else(|| not_found("webhook", id))
    }

    /// The hook of that id, whosever it is: for what comes in by its address, before it is known who sends.
    ///
    /// # Errors
    /// `internal`.
    pub async fn webhook_of_any(&self, id: &str) -> Result<Option<Webhook>, Failure> {
        sqlx::query_as("SELECT * FROM webhooks WHERE id = $1")
            .bind(id)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a webhook up"))
    }

    /// Removes a hook, and what came by it.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_webhook(&self, organization: &str, id: &str) -> Result<(), Failure> {
        let gone = sqlx::query("DELETE FROM webhooks WHERE organization = $1 AND id = $2")
            .bind(organization)
            .bind(id)
            .execute(self.pool())
            .await
            .map_err(broken("removing a webhook"))?;
        if gone.rows_affected() == 0 { Err(not_found("webhook", id)) } else { Ok(()) }
    }

    /// What was answered to a delivery of that digest, if it came before; it is counted.
    ///
    /// # Errors
    /// `internal`.
    pub async fn delivered_before(&self, hook: &str, sha256: &str) -> Result<Option<String>, Failure> {
        sqlx::query_scalar(
            "UPDATE webhook_deliveries SET times = times + 1, received_at_ms = $3 WHERE hook = $1 AND sha256 = $2 RETURNING answer",
        )
        .bind(hook)
        .bind(sha256)
        .bind(now_ms())
        .fetch_optional(self.pool())
        .await
        .map_err(broken("looking a delivery up"))
    }

    /// Remembers a delivery; the oldest beyond the bound go.
    ///
    /// # Errors
    /// `internal`.
    pub async fn delivered(&self, hook: &str, new: &Delivery) -> Result<(), Failure> {
        let failed = broken("remembering a delivery");
        let mut transaction = self.writing().await.map_err(&failed)?;
        sqlx::query(
            "INSERT INTO webhook_deliveries (hook, sha256, delivery, event, answer, times, received_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (hook, sha256) DO UPDATE SET delivery = $3, event = $4, answer = $5",
        )
        .bind(hook)
        .bind(&new.sha256)
        .bind(&new.delivery)
        .bind(&new.event)
        .bind(&new.answer)
        .bind(new.times)
        .bind(new.received_at_ms)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        sqlx::query(
            "DELETE FROM webhook_deliveries WHERE hook = $1 AND sha256 NOT IN \
             (SELECT sha256 FROM webhook_deliveries WHERE hook = $1 ORDER BY received_at_ms DESC LIMIT $2)",
        )
        .bind(hook)
        .bind(DELIVERIES_MAX)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// What came by a hook, newest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn deliveries(&self, hook: &str, limit: u32) -> Result<Vec<Delivery>, Failure> {
        sqlx::query_as(
            "SELECT sha256, delivery, event, answer, times, received_at_ms FROM webhook_deliveries WHERE hook = $1 \
             ORDER BY received_at_ms DESC LIMIT $2",
        )
        .bind(hook)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(broken("listing deliveries"))
    }
}
