//! What the control plane keeps: SQLite in WAL mode, migrations embedded, every query by organization.
//!
//! This module must never hand out a row without the caller saying whose it must be, and never store a token or an API key:
//! digests only.

mod connections;
mod issuers;
mod jobs;
#[path = "operations.rs"]
mod operation_records;
mod organizations;
mod runners;
mod users;

pub use connections::{Connection, Provider};
pub use issuers::{IssuerRecord, Signer};
#[cfg(test)]
pub(crate) use jobs::tests as jobs_tests;
pub use jobs::{Cancelled, Given, Job, JobEnd, JobKind, NewJob, NewStack, Phase, Plan, Reported, Stack, Standing};
pub use operation_records::OperationRecord;
pub use organizations::Organization;
pub(crate) use organizations::{not_found, taken};
pub use runners::{CertificateRecord, Ended, KeyRecord, NewCredentials, Runner};
pub use users::{Role, User};

use shared_proto::failure::{Code, Failure};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::broadcast;

/// Connections to the database at once.
const POOL: u32 = 8;
/// How long a query waits for a connection, and for another writer.
const WAIT: Duration = Duration::from_secs(10);
/// Revocations that a slow listener may lag behind; one that lags more checks its runner again.
const REVOCATIONS: usize = 1024;

/// The database, and who is told of a revocation. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    revocations: broadcast::Sender<String>,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's file.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database could not be opened or brought to this version's form.
    #[error("database {path}: {source}")]
    Open {
        /// Where.
        path: PathBuf,
        /// What sqlx said.
        source: sqlx::Error,
    },
    /// A migration failed.
    #[error("database {path}: bringing it to this version's form: {source}")]
    Migrate {
        /// Where.
        path: PathBuf,
        /// What sqlx said.
        source: sqlx::migrate::MigrateError,
    },
}

// === impl Store ===

impl Store {
    /// Opens the database, makes it where there is none, and brings it to this version's form.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let at = || path.to_owned();
        // made here with its mode: SQLite gives the journal's files the same
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::File { path: at(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(WAIT);
        let pool = SqlitePoolOptions::new()
            .max_connections(POOL)
            .acquire_timeout(WAIT)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path: at(), source })?;
        Self::migrated(pool, path).await
    }

    /// A database in memory, for tests.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn in_memory() -> Result<Self, StoreError> {
        let path = Path::new(":memory:");
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(SqliteConnectOptions::new().in_memory(true).foreign_keys(true))
            .await
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Self::migrated(pool, path).await
    }

    async fn migrated(pool: SqlitePool, path: &Path) -> Result<Self, StoreError> {
        sqlx::migrate!("./migrations")
            .run(&pool)
            .await
            .map_err(|source| StoreError::Migrate { path: path.to_owned(), source })?;
        Ok(Self { pool, revocations: broadcast::channel(REVOCATIONS).0 })
    }

    /// The pool, for the modules of this folder.
    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// The ids of runners that are revoked from now on. Subscribe before checking the runner, so that none is missed; after
    /// `Lagged` check it again.
    pub fn revocations(&self) -> broadcast::Receiver<String> {
        self.revocations.subscribe()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// `internal`.
    pub async fn ready(&self) -> Result<(), Failure> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop).map_err(broken("asking the database"))
    }

    /// Writes everything out and closes.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A new id: what it is, then time-ordered. The underscore keeps ids and names apart: a name has none.
pub(crate) fn new_id(kind: &str) -> String {
    format!("{kind}_{}", uuid::Uuid::now_v7().simple())
}

/// A database failure as callers see it; what happened is in the log.
pub(crate) fn broken(doing: &'static str) -> impl Fn(sqlx::Error) -> Failure {
    move |error| {
        tracing::error!(%error, "{doing} failed");
        Code::Internal.on(format!("{doing} failed in the control plane"))
    }
}

/// Whether a write was refused because something of that name exists.
pub(crate) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
