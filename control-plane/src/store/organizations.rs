//! Organizations: the tenants.

use super::{IssuerRecord, Store, broken, is_taken};
use shared_proto::failure::{Code, Failure};
use sqlx::{FromRow, SqliteConnection};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Organization {
    /// `org_…`.
    pub id: String,
    /// Its name, unique in the control plane.
    pub name: String,
    /// The id of the runner that takes what names no other.
    pub default_runner: Option<String>,
    /// When it was made.
    pub created_at_ms: i64,
}

impl Store {
    /// Makes an organization together with its issuing CA. `issuer` is made for `organization.id`.
    ///
    /// # Errors
    /// `conflict` where the name is taken.
    pub async fn create_organization(&self, organization: &Organization, issuer: &IssuerRecord) -> Result<(), Failure> {
        let failed = broken("making an organization");
        let mut transaction = self.pool().begin().await.map_err(&failed)?;
        insert(&mut transaction, organization).await?;
        super::issuers::insert(&mut transaction, &organization.id, issuer, organization.created_at_ms).await?;
        transaction.commit().await.map_err(failed)
    }

    /// All of them, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `internal`.
    pub async fn organizations(&self, limit: u32) -> Result<Vec<Organization>, Failure> {
        sqlx::query_as("SELECT * FROM organizations ORDER BY id LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing organizations"))
    }

    /// The one of that id or name.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn organization(&self, id_or_name: &str) -> Result<Organization, Failure> {
        sqlx::query_as("SELECT * FROM organizations WHERE id = $1 OR name = $1")
            .bind(id_or_name)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking an organization up"))?
            .ok_or_else(|| not_found("organization", id_or_name))
    }

    /// Has a runner of the organization take what names no other.
    ///
    /// # Errors
    /// `internal`.
    pub async fn set_default_runner(&self, organization: &str, runner: &str) -> Result<(), Failure> {
        sqlx::query("UPDATE organizations SET default_runner = $2 WHERE id = $1")
            .bind(organization)
            .bind(runner)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("setting the default runner"))
    }
}

async fn insert(connection: &mut SqliteConnection, organization: &Organization) -> Result<(), Failure> {
    sqlx::query("INSERT INTO organizations (id, name, created_at_ms) VALUES ($1, $2, $3)")
        .bind(&organization.id)
        .bind(&organization.name)
        .bind(organization.created_at_ms)
        .execute(connection)
        .await
        .map(drop)
        .map_err(|e| taken(e, "an organization", &organization.name, "making an organization"))
}

/// What an unknown id gives, and an id of another organization: word by word the same.
pub(crate) fn not_found(what: &str, id_or_name: &str) -> Failure {
    let shown: String = id_or_name.chars().take(128).collect();
    Code::NotFound.on(format!("there is no {what} {shown:?}"))
}

/// `conflict` where the name is taken, else what the database failed at.
pub(crate) fn taken(error: sqlx::Error, what: &str, name: &str, doing: &'static str) -> Failure {
    if is_taken(&error) {
        Code::Conflict.on(format!("there is {what} {name:?} already")).next("Choose another name.")
    } else {
        broken(doing)(error)
    }
}
