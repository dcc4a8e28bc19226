//! Runners, their certificates and their API keys.

use super::organizations::taken;
use super::{Store, broken, not_found};
use shared_proto::api_key::KeyDigest;
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use sqlx::FromRow;

/// Certificates of one runner that are neither expired nor revoked and were handed out by the API; and those that its instances have
/// renewed by themselves. Counted apart: instances that come and go must not keep an operator from making credentials.
pub(super) const CERTIFICATES_MAX: i64 = 256;
/// How long an expired certificate is remembered with its API key, milliseconds: its refusal names the date, not an unknown serial.
const EXPIRED_KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// A registered runner.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Runner {
    /// `run_…`.
    pub id: String,
    /// The organization.
    pub organization: String,
    /// The name, unique among the organization's runners that are not revoked.
    pub name: String,
    /// When it was registered.
    pub created_at_ms: i64,
    /// When it was revoked.
    pub revoked_at_ms: Option<i64>,
    /// When an instance of it was last heard of, as far as it was written down: at the end of a session.
    pub last_seen_ms: Option<i64>,
    /// How the last session ended.
    pub ended: Option<Ended>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(rename_all = "lowercase")]
pub enum Ended {
    /// The runner said that it leaves.
    Left,
    /// It was lost, or the control plane ended it.
    Lost,
}

/// A runner's certificate as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct CertificateRecord {
    /// The serial.
    pub serial: String,
    /// The organization whose CA issued it.
    pub organization: String,
    /// The runner it was issued to.
    pub runner: String,
    /// When it expires.
    pub not_after_ms: i64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was revoked.
    pub revoked_at_ms: Option<i64>,
    /// The instance that it belongs to; `None`: whoever has the credentials file.
    pub instance: Option<String>,
    /// How long it is good for, seconds; `None`: it was made by an earlier version.
    pub life_s: Option<i64>,
}

/// Whose API key that is.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct KeyRecord {
    /// The organization.
    pub organization: String,
    /// The runner.
    pub runner: String,
    /// When it was revoked.
    pub revoked_at_ms: Option<i64>,
}

/// What is kept of credentials that are handed out.
#[derive(Debug, Clone)]
pub struct NewCredentials<'a> {
    /// The organization.
    pub organization: &'a str,
    /// The runner.
    pub runner: &'a str,
    /// The certificate's serial.
    pub serial: &'a str,
    /// When it expires.
    pub not_after_ms: i64,
    /// How long it is good for, seconds.
    pub life_s: i64,
    /// SHA-256 of its public key, hexadecimal.
    pub public_key_sha256: &'a str,
    /// The API key's digest: of a new one, or of the one with which the certificate was renewed.
    pub api_key: KeyDigest,
    /// Where it was renewed: the instance that it belongs to, and the serial that it follows.
    pub renews: Option<(&'a str, &'a str)>,
}

// === impl CertificateRecord ===

impl CertificateRecord {
    /// How long it was made to be good for, seconds.
    pub fn life_s(&self) -> i64 {
        // an earlier version did not write it down: whole days
        self.life_s.unwrap_or_else(|| (self.not_after_ms - self.created_at_ms + 43_200_000) / 86_400_000 * 86_400)
    }
}

impl Store {
    /// Registers a runner.
    ///
    /// # Errors
    /// `conflict` where the name is taken.
    pub async fn create_runner(&self, runner: &Runner) -> Result<(), Failure> {
        sqlx::query("INSERT INTO runners (id, organization, name, created_at_ms) VALUES ($1, $2, $3, $4)")
            .bind(&runner.id)
            .bind(&runner.organization)
            .bind(&runner.name)
            .bind(runner.created_at_ms)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(|e| taken(e, "a runner", &runner.name, "registering a runner"))
    }

    /// The organization's runners, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `internal`.
    pub async fn runners(&self, organization: &str, limit: u32) -> Result<Vec<Runner>, Failure> {
        sqlx::query_as("SELECT * FROM runners WHERE organization = $1 ORDER BY id LIMIT $2")
            .bind(organization)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing runners"))
    }

    /// The organization's runner of that id or name; of several of a name the one that is not revoked, else the newest.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn runner(&self, organization: &str, id_or_name: &str) -> Result<Runner, Failure> {
        sqlx::query_as(
            "SELECT * FROM runners WHERE organization = $1 AND (id = $2 OR name = $2) \
             ORDER BY CASE WHEN revoked_at_ms IS NULL THEN 0 ELSE 1 END, id DESC LIMIT 1",
        )
        .bind(organization)
        .bind(id_or_name)
        .fetch_optional(self.pool())
        .await
        .map_err(broken("looking a runner up"))?
        .ok_or_else(|| not_found("runner", id_or_name))
    }

    /// Revokes a runner with its certificates and API keys, and tells the sessions. Doing it again changes nothing.
    ///
    /// # Errors
    /// `internal`.
    pub async fn revoke_runner(&self, organization: &str, runner: &str) -> Result<(), Failure> {
        let failed = broken("revoking a runner");
        let now = now_ms();
        let mut transaction = self.pool().begin().await.map_err(&failed)?;
        for statement in [
            "UPDATE runners SET revoked_at_ms = $3 WHERE organization = $1 AND id = $2 AND revoked_at_ms IS NULL",
            "UPDATE certificates SET revoked_at_ms = $3 WHERE organization = $1 AND runner = $2 AND revoked_at_ms IS NULL",
            "UPDATE api_keys SET revoked_at_ms = $3 WHERE organization = $1 AND runner = $2 AND revoked_at_ms IS NULL",
        ] {
            sqlx::query(statement)
                .bind(organization)
                .bind(runner)
                .bind(now)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        sqlx::query("UPDATE organizations SET default_runner = NULL WHERE id = $1 AND default_runner = $2")
            .bind(organization)
            .bind(runner)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        // an error only says that no session listens
        let _ = self.revocations.send(runner.to_owned());
        Ok(())
    }

    /// Writes down when a runner was heard of, and how its session ended.
    ///
    /// # Errors
    /// `internal`.
    pub async fn runner_seen(&self, runner: &str, at_ms: i64, ended: Option<Ended>) -> Result<(), Failure> {
        sqlx::query("UPDATE runners SET last_seen_ms = $2, ended = $3 WHERE id = $1")
            .bind(runner)
            .bind(at_ms)
            .bind(ended)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(broken("writing down when a runner was seen"))
    }

    /// Keeps what is needed to know a certificate again, and its API key where that is new.
    ///
    /// # Errors
    /// `busy` where the runner has too many that are still good; `conflict` where the key of a renewed one is not new.
    pub async fn keep_credentials(&self, new: &NewCredentials<'_>) -> Result<(), Failure> {
        let failed = broken("keeping a certificate");
        let now = now_ms();
        let mut transaction = self.pool().begin().await.map_err(&failed)?;
        for statement in [
            // a key goes with the last certificate of its credentials, renewed ones included
            "DELETE FROM api_keys WHERE runner = $1 AND serial IN \
             (SELECT serial FROM certificates WHERE runner = $1 AND not_after_ms < $2) AND NOT EXISTS \
             (SELECT 1 FROM certificates c WHERE c.runner = $1 AND c.api_key_sha256 = api_keys.sha256 AND c.not_after_ms >= $2)",
            "DELETE FROM certificates WHERE runner = $1 AND not_after_ms < $2",
        ] {
            sqlx::query(statement)
                .bind(new.runner)
                .bind(now - EXPIRED_KEPT_MS)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        let good: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM certificates WHERE runner = $1 AND revoked_at_ms IS NULL AND not_after_ms > $2 \
             AND (instance IS NOT NULL) = $3",
        )
        .bind(new.runner)
        .bind(now)
        .bind(new.renews.is_some())
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        if good >= CERTIFICATES_MAX {
            return Err(Code::Busy
                .on(format!("the runner has {good} certificates that are still good, the limit is {CERTIFICATES_MAX}"))
                .next("Revoke the runner and register it again."));
        }
        if new.renews.is_some() {
            let known: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM certificates WHERE organization = $1 AND public_key_sha256 = $2",
            )
            .bind(new.organization)
            .bind(new.public_key_sha256)
            .fetch_one(&mut *transaction)
            .await
            .map_err(&failed)?;
            if known > 0 {
                return Err(key_known());
            }
        }
        sqlx::query(
            "INSERT INTO certificates (serial, organization, runner, not_after_ms, created_at_ms, instance, life_s, \
             public_key_sha256, renews, api_key_sha256) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(new.serial)
        .bind(new.organization)
        .bind(new.runner)
        .bind(new.not_after_ms)
        .bind(now)
        .bind(new.renews.map(|(instance, _)| instance))
        .bind(new.life_s)
        .bind(new.public_key_sha256)
        .bind(new.renews.map(|(_, serial)| serial))
        .bind(shared_proto::hex::encode(new.api_key.as_bytes()))
        .execute(&mut *transaction)
        .await
        .map_err(|e| if super::is_taken(&e) { key_known() } else { failed(e) })?;
        if new.renews.is_some() {
            return transaction.commit().await.map_err(failed);
        }
        sqlx::query(
            "INSERT INTO api_keys (sha256, organization, runner, serial, created_at_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(shared_proto::hex::encode(new.api_key.as_bytes()))
        .bind(new.organization)
        .bind(new.runner)
        .bind(new.serial)
        .bind(now)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// The certificate of that serial that the organization's CA issued, if it did.
    ///
    /// # Errors
    /// `internal`.
    pub async fn certificate(&self, organization: &str, serial: &str) -> Result<Option<CertificateRecord>, Failure> {
        sqlx::query_as("SELECT * FROM certificates WHERE organization = $1 AND serial = $2")
            .bind(organization)
            .bind(serial)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking a certificate up"))
    }

    /// Revokes one certificate, and has the runner's sessions checked again.
    ///
    /// # Errors
    /// `internal`.
    pub async fn revoke_certificate(&self, organization: &str, runner: &str, serial: &str) -> Result<(), Failure> {
        sqlx::query(
            "UPDATE certificates SET revoked_at_ms = $4 WHERE organization = $1 AND runner = $2 AND serial = $3",
        )
        .bind(organization)
        .bind(runner)
        .bind(serial)
        .bind(now_ms())
        .execute(self.pool())
        .await
        .map_err(broken("revoking a certificate"))?;
        let _ = self.revocations.send(runner.to_owned());
        Ok(())
    }

    /// Whose API key that is, if it is anyone's.
    ///
    /// # Errors
    /// `internal`.
    pub async fn api_key(&self, key: &KeyDigest) -> Result<Option<KeyRecord>, Failure> {
        sqlx::query_as("SELECT organization, runner, revoked_at_ms FROM api_keys WHERE sha256 = $1")
            .bind(shared_proto::hex::encode(key.as_bytes()))
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking an API key up"))
    }
}

/// Whoever asks for a renewal with a key that was certified before may not be the only one who has it.
pub(crate) fn key_known() -> Failure {
    Code::Conflict
        .on("the signing request's key was certified before: a renewal is for a new one")
        .next("Nothing to do: the runner makes another key and asks again.")
}
