//! Users: who may ask for what, by a token of which a digest is kept.

use super::organizations::taken;
use super::{Store, broken};
use serde::{Deserialize, Serialize};
use shared_proto::api_key::KeyDigest;
use shared_proto::failure::Failure;
use sqlx::FromRow;
use std::fmt;

/// What a user may do, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[sqlx(rename_all = "lowercase")]
pub enum Role {
    /// Operations, stacks and jobs of the organization.
    Member,
    /// Also the organization's users, runners and connections.
    Owner,
    /// Also organizations.
    Admin,
}

/// A user of one organization.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct User {
    /// `usr_…`.
    pub id: String,
    /// The organization.
    pub organization: String,
    /// The name, unique in the organization.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at_ms: i64,
    /// The groups that it is in, with a comma between; see [`User::groups`].
    pub member_of: String,
}

// === impl User ===

impl User {
    /// The groups that it is in.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.member_of.split(',').filter(|name| !name.is_empty())
    }
}

// === impl Role ===

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Member => "member",
            Self::Owner => "owner",
            Self::Admin => "admin",
        })
    }
}

// === impl Store ===

impl Store {
    /// Makes a user with a token.
    ///
    /// # Errors
    /// `conflict` where the name is taken.
    pub async fn create_user(&self, user: &User, token: &KeyDigest) -> Result<(), Failure> {
        sqlx::query(
            "INSERT INTO users (id, organization, name, role, token_sha256, created_at_ms, member_of) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&user.id)
        .bind(&user.organization)
        .bind(&user.name)
        .bind(user.role)
        .bind(shared_proto::hex::encode(token.as_bytes()))
        .bind(user.created_at_ms)
        .bind(&user.member_of)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(|e| taken(e, "a user", &user.name, "making a user"))
    }

    /// Gives a user another token; the old one, and what was got with it, is worth nothing from now on.
    ///
    /// # Errors
    /// `internal`.
    pub async fn set_user_token(&self, user: &str, token: &KeyDigest) -> Result<(), Failure> {
        let failed = broken("changing a user's token");
        let changed = async {
            let mut transaction = self.pool().begin().await?;
            sqlx::query("UPDATE users SET token_sha256 = $2 WHERE id = $1")
                .bind(user)
                .bind(shared_proto::hex::encode(token.as_bytes()))
                .execute(&mut *transaction)
                .await?;
            sqlx::query("DELETE FROM kube_tokens WHERE user_id = $1").bind(user).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        changed.await.map_err(failed)
    }

    /// Keeps a user's token for the Kubernetes API of one connection, and forgets those that are over.
    ///
    /// # Errors
    /// `internal`.
    pub async fn add_kube_token(
        &self,
        user: &str,
        connection: &str,
        token: &KeyDigest,
        expires_at_ms: i64,
    ) -> Result<(), Failure> {
        let failed = broken("keeping a token");
        let kept = async {
            sqlx::query("DELETE FROM kube_tokens WHERE expires_at_ms < $1")
                .bind(shared_proto::now_ms())
                .execute(self.pool())
                .await?;
            sqlx::query(
                "INSERT INTO kube_tokens (token_sha256, user_id, connection, expires_at_ms) VALUES ($1, $2, $3, $4)",
            )
            .bind(shared_proto::hex::encode(token.as_bytes()))
            .bind(user)
            .bind(connection)
            .bind(expires_at_ms)
            .execute(self.pool())
            .await
        };
        kept.await.map(drop).map_err(failed)
    }

    /// Whose token for the Kubernetes API that is, and of which connection, if it is anyone's and not over.
    ///
    /// # Errors
    /// `internal`.
    pub async fn user_by_kube_token(&self, token: &KeyDigest) -> Result<Option<(User, String)>, Failure> {
        #[derive(FromRow)]
        struct Found {
            #[sqlx(flatten)]
            user: User,
            connection: String,
        }
        let found: Option<Found> = sqlx::query_as(
            "SELECT users.*, kube_tokens.connection FROM kube_tokens JOIN users ON users.id = kube_tokens.user_id \
             WHERE kube_tokens.token_sha256 = $1 AND kube_tokens.expires_at_ms > $2",
        )
        .bind(shared_proto::hex::encode(token.as_bytes()))
        .bind(shared_proto::now_ms())
        .fetch_optional(self.pool())
        .await
        .map_err(broken("looking a token up"))?;
        Ok(found.map(|found| (found.user, found.connection)))
    }

    /// Whose token that is, if it is anyone's.
    ///
    /// # Errors
    /// `internal`.
    pub async fn user_by_token(&self, token: &KeyDigest) -> Result<Option<User>, Failure> {
        sqlx::query_as("SELECT * FROM users WHERE token_sha256 = $1")
            .bind(shared_proto::hex::encode(token.as_bytes()))
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a token up"))
    }

    /// The organization's user of that id, if it is still there.
    ///
    /// # Errors
    /// `internal`.
    pub async fn user(&self, organization: &str, id: &str) -> Result<Option<User>, Failure> {
        sqlx::query_as("SELECT * FROM users WHERE organization = $1 AND id = $2")
            .bind(organization)
            .bind(id)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a user up"))
    }

    /// The organization's user of that name, if it is still there.
    ///
    /// # Errors
    /// `internal`.
    pub async fn user_by_name(&self, organization: &str, name: &str) -> Result<Option<User>, Failure> {
        sqlx::query_as("SELECT * FROM users WHERE organization = $1 AND name = $2")
            .bind(organization)
            .bind(name)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a user up"))
    }

    /// The organization's users, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `internal`.
    pub async fn users(&self, organization: &str, limit: u32) -> Result<Vec<User>, Failure> {
        sqlx::query_as("SELECT * FROM users WHERE organization = $1 ORDER BY id LIMIT $2")
            .bind(organization)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing users"))
    }
}
