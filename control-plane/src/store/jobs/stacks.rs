//! Stacks: named pieces of infrastructure, each with a source, an engine, variables and connections.

use super::super::{Store, broken, new_id, not_found, taken};
use super::{JobKind, Phase};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use sqlx::{FromRow, SqliteConnection};

/// A stack. Source, variables and connections are JSON as the API gives it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Stack {
    /// `stk_…`.
    pub id: String,
    /// Whose it is.
    pub organization: String,
    /// Its name, unique among the organization's stacks.
    pub name: String,
    /// `opentofu`, `terraform` or `pulumi`.
    pub engine: String,
    /// The version of it that is asked for: a version or a constraint.
    pub engine_version: Option<String>,
    /// The runner that does its jobs; none: the organization's default.
    pub runner: Option<String>,
    /// Where the code comes from.
    pub source: String,
    /// The engine's variables.
    pub variables: String,
    /// Secret variables that may stay in what is recorded.
    pub not_redacted: String,
    /// Entries of the runner's configuration.
    pub connections: String,
    /// How long what may take in its jobs.
    pub limits: String,
    /// What of its source its jobs run before and after plan and apply.
    pub hooks: String,
    /// What variables refer to in its stores.
    pub secrets: String,
    /// Variables that were sealed to it.
    pub sealed: String,
    /// Sets of variables, by name.
    pub variable_sets: String,
    /// Variables that are outputs of other stacks.
    pub inputs: String,
    /// Whether it is planned anew once outputs of these are other ones.
    pub follows: bool,
    /// The instance that applied its last plan, or may have: one without a backend has its state there.
    pub last_instance: Option<String>,
    /// When it was made.
    pub created_at_ms: i64,
}

// === impl Stack ===

impl Stack {
    /// Of all that users say of it: another one where any of that is. Whoever changes it and then starts a job sees by it whether somebody else has
    /// changed it in between.
    pub fn revision(&self) -> String {
        let follows = if self.follows { "follows" } else { "" };
        let said = [
            self.name.as_str(),
            &self.engine,
            self.engine_version.as_deref().unwrap_or_default(),
            self.runner.as_deref().unwrap_or_default(),
            &self.source,
            &self.variables,
            &self.not_redacted,
            &self.connections,
            &self.limits,
            &self.hooks,
            &self.secrets,
            &self.sealed,
            &self.variable_sets,
            &self.inputs,
            follows,
        ];
        let mut digest = Sha256::new();
        for text in said {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        shared_proto::hex::encode(&digest.finalize()[..16])
    }
}

/// What a user says of a stack.
#[derive(Debug, Clone)]
pub struct NewStack {
    /// Its name.
    pub name: String,
    /// `opentofu`, `terraform` or `pulumi`.
    pub engine: String,
    /// A version or a constraint.
    pub engine_version: Option<String>,
    /// The runner's id.
    pub runner: Option<String>,
    /// JSON.
    pub source: String,
    /// JSON.
    pub variables: String,
    /// JSON.
    pub not_redacted: String,
    /// JSON.
    pub connections: String,
    /// JSON.
    pub limits: String,
    /// JSON.
    pub hooks: String,
    /// JSON.
    pub secrets: String,
    /// JSON.
    pub sealed: String,
    /// JSON.
    pub variable_sets: String,
    /// JSON.
    pub inputs: String,
    /// Whether it is planned anew once these are other ones.
    pub follows: bool,
}

macro_rules! select_stacks {
    ($rest:literal) => {
        concat!(
            "SELECT id, organization, name, engine, engine_version, runner, source, variables, not_redacted, connections, last_instance, ",
            "secrets, sealed, variable_sets, inputs, follows, limits, hooks, created_at_ms ",
            "FROM stacks WHERE organization = $1 AND deleted_at_ms IS NULL ",
            $rest
        )
    };
}

impl Store {
    /// Makes a stack.
    ///
    /// # Errors
    /// `conflict` where the name is taken.
    pub async fn create_stack(&self, organization: &str, new: &NewStack) -> Result<Stack, Failure> {
        let id = new_id("stk");
        sqlx::query(
            "INSERT INTO stacks (id, organization, name, engine, runner, source, variables, connections, created_at_ms, \
             not_redacted, engine_version, limits, secrets, sealed, variable_sets, inputs, follows, hooks) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
        )
        .bind(&id)
        .bind(organization)
        .bind(&new.name)
        .bind(&new.engine)
        .bind(&new.runner)
        .bind(&new.source)
        .bind(&new.variables)
        .bind(&new.connections)
        .bind(now_ms())
        .bind(&new.not_redacted)
        .bind(&new.engine_version)
        .bind(&new.limits)
        .bind(&new.secrets)
        .bind(&new.sealed)
        .bind(&new.variable_sets)
        .bind(&new.inputs)
        .bind(new.follows)
        .bind(&new.hooks)
        .execute(self.pool())
        .await
        .map_err(|e| taken(e, "a stack", &new.name, "making a stack"))?;
        self.stack(organization, &id).await
    }

    /// The organization's stacks, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `internal`.
    pub async fn stacks(&self, organization: &str, limit: u32) -> Result<Vec<Stack>, Failure> {
        sqlx::query_as(select_stacks!("ORDER BY id LIMIT $2"))
            .bind(organization)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing stacks"))
    }

    /// The organization's stack of that id or name.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn stack(&self, organization: &str, id_or_name: &str) -> Result<Stack, Failure> {
        sqlx::query_as(select_stacks!("AND (id = $2 OR name = $2)"))
            .bind(organization)
            .bind(id_or_name)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a stack up"))?
            .ok_or_else(|| not_found("stack", id_or_name))
    }

    /// The outputs that a stack's jobs told of last, as JSON; none: none has.
    ///
    /// # Errors
    /// `internal`.
    pub(crate) async fn last_outputs(&self, stack: &str) -> Result<Option<String>, Failure> {
        sqlx::query_scalar(
            "SELECT outputs FROM jobs WHERE stack = $1 AND outputs IS NOT NULL AND (phase IN ($2, $3) OR applied) ORDER BY id DESC LIMIT 1",
        )
        .bind(stack)
        .bind(Phase::Applied)
        .bind(Phase::NoChanges)
        .fetch_optional(self.pool())
        .await
        .map_err(broken("looking outputs up"))
    }

    /// Replaces what a user says of a stack. Jobs that were made before keep what they were made with.
    ///
    /// # Errors
    /// `not_found`, `conflict` where the new name is taken.
    pub async fn update_stack(&self, organization: &str, id: &str, new: &NewStack) -> Result<Stack, Failure> {
        let changed = sqlx::query(
            "UPDATE stacks SET name = $3, engine = $4, runner = $5, source = $6, variables = $7, connections = $8, \
             not_redacted = $9, engine_version = $10, limits = $11, secrets = $12, sealed = $13, variable_sets = $14, inputs = $15, follows = $16, \
             hooks = $17 \
             WHERE organization = $1 AND id = $2 AND deleted_at_ms IS NULL",
        )
        .bind(organization)
        .bind(id)
        .bind(&new.name)
        .bind(&new.engine)
        .bind(&new.runner)
        .bind(&new.source)
        .bind(&new.variables)
        .bind(&new.connections)
        .bind(&new.not_redacted)
        .bind(&new.engine_version)
        .bind(&new.limits)
        .bind(&new.secrets)
        .bind(&new.sealed)
        .bind(&new.variable_sets)
        .bind(&new.inputs)
        .bind(new.follows)
        .bind(&new.hooks)
        .execute(self.pool())
        .await
        .map_err(|e| taken(e, "a stack", &new.name, "changing a stack"))?;
        if changed.rows_affected() == 0 {
            return Err(not_found("stack", id));
        }
        self.stack(organization, id).await
    }

    /// Deletes a stack as it is last, and gives it; its jobs stay to be read. What it manages is left as it is, which is only done where it
    /// manages nothing that anybody knows of, or with `force`.
    ///
    /// # Errors
    /// `not_found`, `conflict` while a job of it has not ended, `stack_not_empty`.
    pub async fn delete_stack(&self, organization: &str, id: &str, force: bool) -> Result<Stack, Failure> {
        let failed = broken("deleting a stack");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let stack: Option<Stack> = sqlx::query_as(select_stacks!("AND id = $2"))
            .bind(organization)
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
        let stack = stack.ok_or_else(|| not_found("stack", id))?;
        let open: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM jobs WHERE stack = $1 AND ended_at_ms IS NULL)")
                .bind(id)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
        if open {
            return Err(Code::Conflict
                .on(format!("stack {} has a job that has not ended", stack.name))
                .next("Wait for it, or cancel it."));
        }
        if !force && let Some(job) = changed_last(&mut transaction, id).await? {
            let name = &stack.name;
            return Err(Code::StackNotEmpty
                .on(format!("job {job} made or changed what stack {name} manages, and no job has destroyed it since"))
                .next(format!(
                    "Destroy it first: `runnerctl deploy --stack {name} --kind destroy`. Or forget the stack and leave what it made: \
                     `runnerctl stack delete {name} --force`."
                )));
        }
        sqlx::query("UPDATE stacks SET deleted_at_ms = $2 WHERE id = $1")
            .bind(id)
            .bind(now_ms())
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(stack)
    }
}

/// The newest update of a stack that applied its plan, or may have, unless all was destroyed since.
async fn changed_last(connection: &mut SqliteConnection, stack: &str) -> Result<Option<String>, Failure> {
    sqlx::query_scalar(
        "SELECT id FROM jobs WHERE stack = $1 AND kind IN ($2, $9) AND (phase = $3 OR (accepted AND \
         (approved_by IS NOT NULL OR approve_automatically OR reconcile) AND (phase = $4 OR (phase IN ($5, $6) AND plan IS NOT NULL)))) \
         AND id > COALESCE((SELECT MAX(id) FROM jobs WHERE stack = $1 AND kind = $7 AND (phase IN ($3, $8) OR applied)), '') \
         ORDER BY id DESC LIMIT 1",
    )
    .bind(stack)
    .bind(JobKind::Update)
    .bind(Phase::Applied)
    .bind(Phase::Lost)
    .bind(Phase::Failed)
    .bind(Phase::Canceled)
    .bind(JobKind::Destroy)
    .bind(Phase::NoChanges)
    .bind(JobKind::Import)
    .fetch_optional(connection)
    .await
    .map_err(broken("looking up what a stack made"))
}
