//! An organization's rules for plans, as they are sent with its jobs. They are judged by on runners; here nobody reads what is in them.

use super::{Store, broken};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use sqlx::{FromRow, SqliteConnection};

/// The set of an organization.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Rules {
    /// The set, as JSON.
    pub json: String,
    /// Who changed it last: the user's name.
    pub changed_by: String,
    /// When.
    pub changed_at_ms: i64,
}

/// The set that is in force within a transaction, as JSON; empty: there is none.
pub(super) async fn in_force(connection: &mut SqliteConnection, organization: &str) -> Result<String, Failure> {
    let json: Option<String> = sqlx::query_scalar("SELECT json FROM rules WHERE organization = $1")
        .bind(organization)
        .fetch_optional(connection)
        .await
        .map_err(broken("reading the rules"))?;
    Ok(json.unwrap_or_default())
}

/// A set as it is kept beside a job whose plan is judged by it: the job's request is kept until it is accepted only.
pub(super) fn digest(json: &str) -> Vec<u8> {
    Sha256::digest(json).to_vec()
}

impl Store {
    /// The organization's set; `None`: it has none.
    ///
    /// # Errors
    /// `internal`.
    pub async fn rules(&self, organization: &str) -> Result<Option<Rules>, Failure> {
        sqlx::query_as("SELECT json, changed_by, changed_at_ms FROM rules WHERE organization = $1")
            .bind(organization)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("reading the rules"))
    }

    /// Puts a set in the place of the one that there is; `None`: in the place of it there is none.
    ///
    /// # Errors
    /// `internal`.
    pub async fn set_rules(&self, organization: &str, json: Option<&str>, by: &str) -> Result<(), Failure> {
        let query = match json {
            Some(json) => sqlx::query(
                "INSERT INTO rules (organization, json, changed_by, changed_at_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (organization) DO UPDATE SET json = $2, changed_by = $3, changed_at_ms = $4",
            )
            .bind(organization)
            .bind(json)
            .bind(by)
            .bind(now_ms()),
            None => sqlx::query("DELETE FROM rules WHERE organization = $1").bind(organization),
        };
        query.execute(self.pool()).await.map(drop).map_err(broken("keeping the rules"))
    }
}
