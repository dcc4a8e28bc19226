//! What the control plane keeps: SQLite in WAL mode, migrations embedded, every query by organization.
//!
//! This module must never hand out a row without the caller saying whose it must be, and never store a token or an API key:
//! digests only.

mod connections;
mod issuers;
mod jobs;
mod notices;
#[path = "operations.rs"]
mod operation_records;
mod organizations;
mod rules;
mod runners;
mod schedules;
mod seal;
mod seals;
mod users;
mod variable_sets;
mod webhooks;

pub use connections::{Connection, Provider};
#[cfg(test)]
pub(crate) use issuers::ISSUERS_MAX;
pub use issuers::{IssuerRecord, IssuerShown, Signer};
pub(crate) use jobs::PRESENT_MS;
#[cfg(test)]
pub(crate) use jobs::tests as jobs_tests;
pub use jobs::{
    ArchivesInUse, Cancelled, Drift, FollowOn, Given, Idempotency, Job, JobEnd, JobKind, KnownLock, Manner, NewJob,
    NewStack, Phase, Plan, Reported, Scope, Stack, Standing,
};
pub use notices::{EVENTS, Notice, Notification};
pub use operation_records::OperationRecord;
pub use organizations::Organization;
pub(crate) use organizations::{not_found, taken};
pub use rules::Rules;
pub(crate) use runners::key_known;
pub use runners::{CertificateRecord, Ended, KeyRecord, NewCredentials, Runner};
pub use schedules::{Does, NewSchedule, Schedule, Turn};
pub use seals::SealRecord;
pub use users::{Role, User};
pub use variable_sets::VariableSet;
pub use webhooks::{Delivery, Webhook};

use shared_proto::failure::{Code, Failure};
use sqlx::Connection as _;
use sqlx::migrate::MigrateError;
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
    seal: seal::Seal,
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
    /// A later version has brought the database to its form, and nothing leads back from there.
    #[error(
        "{}: database {path} was written by a newer version, which this one does not know (migration {migration}). Nothing was changed: \
         start that version, or put a copy of the data folder from before it in its place",
        Code::UnsupportedVersion
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// The first step that is not known here.
        migration: i64,
    },
    /// A migration failed.
    #[error("database {path}: bringing it to this version's form: {source}")]
    Migrate {
        /// Where.
        path: PathBuf,
        /// What sqlx said.
        source: MigrateError,
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
            // readers do not wait for the writer; and FULL, because in WAL mode NORMAL, sqlx's and many others' default, waits for the disk at
            // checkpoints only: what was acknowledged to a runner or a user must be there after a power cut, not just after a crash
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(WAIT);
        let pool = SqlitePoolOptions::new()
            .max_connections(POOL)
            .acquire_timeout(WAIT)
            // SQLite itself rolls back a transaction that the disk had no room for; sqlx then waits for its end for good
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
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

    /// On connections of the caller's own, for simulations; `path` is what errors say.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn on(pool: SqlitePool, path: &Path) -> Result<Self, StoreError> {
        Self::migrated(pool, path).await
    }

    async fn migrated(pool: SqlitePool, path: &Path) -> Result<Self, StoreError> {
        sqlx::migrate!("./migrations").run(&pool).await.map_err(|source| match source {
            MigrateError::VersionMissing(migration) => StoreError::Newer { path: path.to_owned(), migration },
            source => StoreError::Migrate { path: path.to_owned(), source },
        })?;
        let seal = seal::Seal::of(&pool).await.map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Self { pool, seal, revocations: broadcast::channel(REVOCATIONS).0 })
    }

    /// The pool, for the modules of this folder.
    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    fn seal(&self) -> &seal::Seal {
        &self.seal
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

    /// Writes a copy of a database in a file, as it is at one moment, into a new file of its owner alone. Everybody else goes on meanwhile,
    /// another process too; nothing is brought to this version's form.
    ///
    /// # Errors
    /// `internal`, `disk_full`, `disk_unwritable`.
    pub async fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
        use sqlx::Connection as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let failed = broken("copying the database");
        let io = |e: std::io::Error| failed(sqlx::Error::Io(e));
        // made here with its mode: an empty file may be written to
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(io)?;
        let options = SqliteConnectOptions::new().filename(from).create_if_missing(false).busy_timeout(WAIT);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.map_err(&failed)?;
        sqlx::query("VACUUM INTO $1").bind(to.to_string_lossy()).execute(&mut connection).await.map_err(&failed)?;
        connection.close().await.map_err(&failed)?;
        // SQLite does not wait for the disk here
        file.sync_all().map_err(io)
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

/// A database failure as callers see it; what happened is in the log. A disk that takes nothing has codes of its own: it is nobody's bug.
pub(crate) fn broken(doing: &'static str) -> impl Fn(sqlx::Error) -> Failure {
    move |error| {
        tracing::error!(%error, "{doing} failed");
        let failure = |code: Code| code.on(format!("{doing} failed in the control plane"));
        match disk(&error) {
            Some(Code::DiskFull) => failure(Code::DiskFull).next("Free space in the control plane's data folder."),
            Some(code) => failure(code),
            None => failure(Code::Internal),
        }
    }
}

/// Whether it is the disk: by SQLite's result codes, the primary one in the low byte.
fn disk(error: &sqlx::Error) -> Option<Code> {
    const READONLY: i32 = 8;
    const IOERR: i32 = 10;
    const FULL: i32 = 13;
    const CANTOPEN: i32 = 14;
    if let sqlx::Error::Io(error) = error {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        return match error.kind() {
            StorageFull | QuotaExceeded => Some(Code::DiskFull),
            ReadOnlyFilesystem => Some(Code::DiskUnwritable),
            _ => None,
        };
    }
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    match code & 0xff {
        FULL => Some(Code::DiskFull),
        // a journal's file that cannot be made or grown is said so
        READONLY | IOERR | CANTOPEN => Some(Code::DiskUnwritable),
        _ => None,
    }
}

/// Whether a write was refused because something of that name exists.
pub(crate) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

#[cfg(test)]
mod tests;
