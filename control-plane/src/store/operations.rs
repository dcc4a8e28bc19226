//! Records of operations: who asked what, when, and how it ended. A bounded number is kept for each organization.

use super::{Store, broken, not_found};
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use sqlx::FromRow;

/// Records that are kept of each organization; older ones go.
pub(super) const KEPT: i64 = 10_000;

/// One operation, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct OperationRecord {
    /// `op_…`.
    pub id: String,
    /// The organization.
    pub organization: String,
    /// Such as `k8s_logs`.
    pub kind: String,
    /// The connection's id.
    pub connection: String,
    /// The connection's name at that time.
    pub connection_name: String,
    /// The entry of the runner's configuration that it stood for; none where an earlier version wrote it down.
    pub entry: Option<String>,
    /// The runner's id.
    pub runner: String,
    /// The runner's name at that time.
    pub runner_name: String,
    /// The user's id.
    pub user_id: String,
    /// The user's name at that time.
    pub user_name: String,
    /// When it started.
    pub started_at_ms: i64,
    /// When it ended.
    pub ended_at_ms: Option<i64>,
    /// `ok` or a failure's code, once it has ended.
    pub code: Option<String>,
    /// How the worker is isolated that has or had it; none where none had it.
    pub isolation_level: Option<String>,
}

impl Store {
    /// Writes down, in one transaction, what started, then how what is isolated, then what ended with which code; an operation's first end
    /// counts.
    ///
    /// # Errors
    /// `internal`.
    pub async fn write_operations(
        &self,
        started: &[OperationRecord],
        isolated: &[(String, &'static str)],
        ended: &[(String, String)],
    ) -> Result<(), Failure> {
        if started.is_empty() && isolated.is_empty() && ended.is_empty() {
            return Ok(());
        }
        let failed = broken("writing operations down");
        let mut transaction = self.pool().begin().await.map_err(&failed)?;
        for operation in started {
            sqlx::query(
                "INSERT INTO operations (id, organization, kind, connection, connection_name, runner, runner_name, user_id, \
                 user_name, started_at_ms, entry) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            )
            .bind(&operation.id)
            .bind(&operation.organization)
            .bind(&operation.kind)
            .bind(&operation.connection)
            .bind(&operation.connection_name)
            .bind(&operation.runner)
            .bind(&operation.runner_name)
            .bind(&operation.user_id)
            .bind(&operation.user_name)
            .bind(operation.started_at_ms)
            .bind(&operation.entry)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        }
        for (id, level) in isolated {
            sqlx::query("UPDATE operations SET isolation_level = $2 WHERE id = $1")
                .bind(id)
                .bind(level)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        let now = now_ms();
        for (id, code) in ended {
            sqlx::query("UPDATE operations SET ended_at_ms = $2, code = $3 WHERE id = $1 AND ended_at_ms IS NULL")
                .bind(id)
                .bind(now)
                .bind(code)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// The organization's operations, newest first, at most `limit`; of that runner, by id, and older than that operation, where these are named.
    ///
    /// # Errors
    /// `internal`.
    pub async fn operations(
        &self,
        organization: &str,
        runner: Option<&str>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<OperationRecord>, Failure> {
        let query = "SELECT * FROM operations WHERE organization = $1 AND ($2 IS NULL OR runner = $2) AND ($3 IS NULL OR id < $3) \
                     ORDER BY id DESC LIMIT $4";
        sqlx::query_as(query)
            .bind(organization)
            .bind(runner)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing operations"))
    }

    /// The organization's operation of that id.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn operation(&self, organization: &str, id: &str) -> Result<OperationRecord, Failure> {
        sqlx::query_as("SELECT * FROM operations WHERE organization = $1 AND id = $2")
            .bind(organization)
            .bind(id)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking an operation up"))?
            .ok_or_else(|| not_found("operation", id))
    }

    /// At the start: what was running when the control plane ended was lost with it.
    ///
    /// # Errors
    /// `internal`.
    pub async fn close_operations(&self) -> Result<(), Failure> {
        sqlx::query("UPDATE operations SET ended_at_ms = $1, code = 'connection_lost' WHERE ended_at_ms IS NULL")
            .bind(now_ms())
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("closing operations"))
    }

    /// Forgets the oldest ended records beyond [`KEPT`] of each organization.
    ///
    /// # Errors
    /// `internal`.
    pub async fn trim_operations(&self) -> Result<u64, Failure> {
        sqlx::query(
            "DELETE FROM operations WHERE ended_at_ms IS NOT NULL AND id IN (SELECT id FROM (SELECT id, ROW_NUMBER() OVER \
             (PARTITION BY organization ORDER BY id DESC) AS place FROM operations) AS ranked WHERE place > $1)",
        )
        .bind(KEPT)
        .execute(self.pool())
        .await
        .map(|r| r.rows_affected())
        .map_err(broken("forgetting old operations"))
    }
}
