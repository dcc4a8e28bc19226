//! Sets of variables that several stacks of an organization share. What is in them is JSON as the API gives it; no value of a secret ever is.

use super::{Store, broken, not_found};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use sqlx::FromRow;

/// The most sets of one organization.
const SETS_MAX: i64 = 256;

/// A set.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct VariableSet {
    /// Its name, unique among the organization's sets.
    pub name: String,
    /// Values, JSON by variable.
    pub variables: String,
    /// References, JSON by variable.
    pub secrets: String,
    /// Who changed it last: the user's name.
    pub changed_by: String,
    /// When.
    pub changed_at_ms: i64,
}

impl Store {
    /// The organization's sets, by name.
    ///
    /// # Errors
    /// `internal`.
    pub async fn variable_sets(&self, organization: &str) -> Result<Vec<VariableSet>, Failure> {
        sqlx::query_as(
            "SELECT name, variables, secrets, changed_by, changed_at_ms FROM variable_sets WHERE organization = $1 ORDER BY name",
        )
        .bind(organization)
        .fetch_all(self.pool())
        .await
        .map_err(broken("listing sets of variables"))
    }

    /// The organization's set of that name.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn variable_set(&self, organization: &str, name: &str) -> Result<VariableSet, Failure> {
        sqlx::query_as(
            "SELECT name, variables, secrets, changed_by, changed_at_ms FROM variable_sets WHERE organization = $1 AND name = $2",
        )
        .bind(organization)
        .bind(name)
        .fetch_optional(self.pool())
        .await
        .map_err(broken("looking a set of variables up"))?
        .ok_or_else(|| not_found("set of variables", name))
    }

    /// Puts a set in the place of the one of its name. Jobs that were made before keep what they were made with.
    ///
    /// # Errors
    /// `busy`: there are too many.
    pub async fn set_variable_set(&self, organization: &str, set: &VariableSet) -> Result<(), Failure> {
        let failed = broken("keeping a set of variables");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let others: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM variable_sets WHERE organization = $1 AND name <> $2")
                .bind(organization)
                .bind(&set.name)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
        if others >= SETS_MAX {
            return Err(Code::Busy.on(format!("there are {SETS_MAX} sets of variables, which is the limit")));
        }
        sqlx::query(
            "INSERT INTO variable_sets (organization, name, variables, secrets, changed_by, changed_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (organization, name) DO UPDATE SET variables = $3, secrets = $4, \
             changed_by = $5, changed_at_ms = $6",
        )
        .bind(organization)
        .bind(&set.name)
        .bind(&set.variables)
        .bind(&set.secrets)
        .bind(&set.changed_by)
        .bind(now_ms())
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Removes a set that no stack has.
    ///
    /// # Errors
    /// `not_found`; `conflict` with the names of the stacks that have it.
    pub async fn remove_variable_set(&self, organization: &str, name: &str) -> Result<(), Failure> {
        let failed = broken("removing a set of variables");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let stacks: Vec<(String, String)> = sqlx::query_as(
            "SELECT name, variable_sets FROM stacks WHERE organization = $1 AND deleted_at_ms IS NULL AND variable_sets <> '[]' \
             ORDER BY name",
        )
        .bind(organization)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        let has =
            |sets: &str| serde_json::from_str::<Vec<String>>(sets).is_ok_and(|sets| sets.iter().any(|set| set == name));
        let users: Vec<_> = stacks.iter().filter(|(_, sets)| has(sets)).map(|(stack, _)| stack.as_str()).collect();
        if !users.is_empty() {
            return Err(Code::Conflict
                .on(format!("the set {name} is used by {}", users.join(", ")))
                .next("Take it out of these stacks first: `runnerctl stack update STACK --variables-set …`."));
        }
        let removed = sqlx::query("DELETE FROM variable_sets WHERE organization = $1 AND name = $2")
            .bind(organization)
            .bind(name)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        if removed.rows_affected() == 0 {
            return Err(not_found("set of variables", name));
        }
        transaction.commit().await.map_err(failed)
    }
}
