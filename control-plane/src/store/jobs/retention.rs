//! What is old and large goes: the events of jobs that ended long ago, and their plans. That a job was, who made and approved it, what it changed in
//! numbers and how it ended stays for good. Must never remove what a runner may still tell of, nor the last job of a stack.

use super::super::{Store, broken};
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use std::collections::HashSet;

/// Organizations and the archives that are theirs.
pub type ArchivesInUse = HashSet<(String, String)>;

/// Jobs of one transaction: others write in between.
const AT_ONCE: i64 = 20;

impl Store {
    /// Removes events and plans of jobs that ended before, some of them; gives how many jobs that were.
    ///
    /// # Errors
    /// `internal`.
    pub async fn forget_events(&self, before_ms: i64) -> Result<usize, Failure> {
        let failed = broken("removing old events");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let old: Vec<(String,)> = sqlx::query_as(
            "SELECT id FROM jobs WHERE ended_at_ms < $1 AND events_removed_at_ms IS NULL AND reported AND id < \
             (SELECT MAX(newer.id) FROM jobs newer WHERE newer.stack = jobs.stack AND newer.reported) LIMIT $2",
        )
        .bind(before_ms)
        .bind(AT_ONCE)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        for (job,) in &old {
            for statement in ["DELETE FROM job_events WHERE job = $1", "DELETE FROM plans WHERE job = $1"] {
                sqlx::query(statement).bind(job).execute(&mut *transaction).await.map_err(&failed)?;
            }
            sqlx::query("UPDATE jobs SET plan_text = NULL, event_bytes = 0, events_removed_at_ms = $2 WHERE id = $1")
                .bind(job)
                .bind(now_ms())
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(old.len())
    }

    /// The archives that are still of use: those of stacks, and of jobs whose events are kept.
    ///
    /// # Errors
    /// `internal`.
    pub async fn archives_in_use(&self) -> Result<ArchivesInUse, Failure> {
        let failed = broken("looking which archives are in use");
        let mut used: ArchivesInUse = sqlx::query_as(
            "SELECT DISTINCT organization, archive FROM jobs WHERE archive IS NOT NULL AND events_removed_at_ms IS NULL",
        )
        .fetch_all(self.pool())
        .await
        .map_err(&failed)?
        .into_iter()
        .collect();
        let stacks: Vec<(String, String)> =
            sqlx::query_as("SELECT organization, source FROM stacks WHERE deleted_at_ms IS NULL")
                .fetch_all(self.pool())
                .await
                .map_err(failed)?;
        for (organization, source) in stacks {
            let source: serde_json::Value = serde_json::from_str(&source).unwrap_or_default();
            if let Some(sha256) = source.pointer("/archive/sha256").and_then(serde_json::Value::as_str) {
                used.insert((organization, sha256.to_owned()));
            }
        }
        Ok(used)
    }
}
