//! Connections: named targets. What one points at is an entry of the runner's own configuration, known here by name only.

use super::organizations::taken;
use super::{Store, broken, not_found};
use serde::{Deserialize, Serialize};
use shared_proto::failure::Failure;
use sqlx::FromRow;
use std::fmt;

/// What kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[sqlx(rename_all = "lowercase")]
pub enum Provider {
    /// A Kubernetes cluster.
    Kubernetes,
    /// An AWS account.
    Aws,
    /// Projects of Google Cloud.
    Gcp,
    /// Subscriptions of Azure.
    Azure,
}

/// A named target of an organization.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Connection {
    /// `con_…`.
    pub id: String,
    /// The organization.
    pub organization: String,
    /// The name, unique in the organization.
    pub name: String,
    /// What kind of target.
    pub provider: Provider,
    /// The id of the runner that reaches it; none: the organization's default.
    pub runner: Option<String>,
    /// The entry's name in the runner's configuration.
    pub entry: String,
    /// When it was made.
    pub created_at_ms: i64,
}

// === impl Provider ===

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubernetes => "kubernetes",
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
        })
    }
}

// === impl Store ===

impl Store {
    /// Makes a connection; its runner, where it has one, was looked up in the same organization.
    ///
    /// # Errors
    /// `conflict` where the name is taken.
    pub async fn create_connection(&self, connection: &Connection) -> Result<(), Failure> {
        sqlx::query(
            "INSERT INTO connections (id, organization, name, provider, runner, entry, created_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&connection.id)
        .bind(&connection.organization)
        .bind(&connection.name)
        .bind(connection.provider)
        .bind(&connection.runner)
        .bind(&connection.entry)
        .bind(connection.created_at_ms)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(|e| taken(e, "a connection", &connection.name, "making a connection"))
    }

    /// The organization's connections, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `internal`.
    pub async fn connections(&self, organization: &str, limit: u32) -> Result<Vec<Connection>, Failure> {
        sqlx::query_as("SELECT * FROM connections WHERE organization = $1 ORDER BY id LIMIT $2")
            .bind(organization)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing connections"))
    }

    /// The organization's connection of that id or name.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn connection(&self, organization: &str, id_or_name: &str) -> Result<Connection, Failure> {
        sqlx::query_as("SELECT * FROM connections WHERE organization = $1 AND (id = $2 OR name = $2)")
            .bind(organization)
            .bind(id_or_name)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a connection up"))?
            .ok_or_else(|| not_found("connection", id_or_name))
    }

    /// Removes the organization's connection of that id.
    ///
    /// # Errors
    /// `internal`.
    pub async fn delete_connection(&self, organization: &str, id: &str) -> Result<(), Failure> {
        sqlx::query("DELETE FROM connections WHERE organization = $1 AND id = $2")
            .bind(organization)
            .bind(id)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("removing a connection"))
    }
}
