//! The issuing CAs: of each organization one that issues, and those before it, by which their certificates are still known.

use super::{Store, broken, not_found};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use shared_proto::secret::Secret;
use sqlx::{FromRow, Row as _, SqliteConnection};

/// An issuing CA as it is kept.
#[derive(Debug, Clone)]
pub struct IssuerRecord {
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
    pub public_key_sha256: String,
    /// Its certificate's serial.
    pub serial: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PKCS#8 PEM.
    pub private_key: Secret,
}

/// Issuing CAs of one organization that are kept, the present one included: more rotations than that within two years are a mistake.
pub(crate) const ISSUERS_MAX: i64 = 32;
/// How long a retired one is kept, milliseconds: longer than any certificate that it issued is good for.
const RETIRED_KEPT_MS: i64 = (crate::pki::DAYS_MAX as i64 + 30) * 24 * 60 * 60 * 1000;

/// An issuing CA as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct IssuerShown {
    /// Its certificate's serial.
    pub serial: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// When it was made.
    pub created_at_ms: i64,
    /// When another one took its place.
    pub retired_at_ms: Option<i64>,
}

/// An issuing CA by its public half: whose it is.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Signer {
    /// The organization that it issues for.
    pub organization: String,
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
    pub public_key_sha256: String,
    /// Its certificate, PEM.
    pub certificate: String,
}

impl Store {
    /// The issuing CA of an organization that issues now, with its key.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn issuer(&self, organization: &str) -> Result<IssuerRecord, Failure> {
        let failed = broken("reading an issuing CA");
        let row = sqlx::query(
            "SELECT public_key_sha256, serial, certificate, private_key FROM issuers \
             WHERE organization = $1 AND retired_at_ms IS NULL",
        )
        .bind(organization)
        .fetch_optional(self.pool())
        .await
        .map_err(&failed)?
        .ok_or_else(|| not_found("organization", organization))?;
        Ok(IssuerRecord {
            public_key_sha256: row.try_get(0).map_err(&failed)?,
            serial: row.try_get(1).map_err(&failed)?,
            certificate: row.try_get(2).map_err(&failed)?,
            private_key: Secret::new(row.try_get::<String, _>(3).map_err(&failed)?),
        })
    }

    /// Whose issuing CA has this public key, if any has.
    ///
    /// # Errors
    /// `internal`.
    pub async fn signer_by_key(&self, public_key_sha256: &str) -> Result<Option<Signer>, Failure> {
        sqlx::query_as("SELECT organization, public_key_sha256, certificate FROM issuers WHERE public_key_sha256 = $1")
            .bind(public_key_sha256)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking an issuing CA up"))
    }

    /// The issuing CAs of an organization without their keys, newest first; none where there is no such organization.
    ///
    /// # Errors
    /// `internal`.
    pub async fn signers_of(&self, organization: &str) -> Result<Vec<Signer>, Failure> {
        sqlx::query_as(
            "SELECT organization, public_key_sha256, certificate FROM issuers WHERE organization = $1 \
             ORDER BY created_at_ms DESC",
        )
        .bind(organization)
        .fetch_all(self.pool())
        .await
        .map_err(broken("looking an issuing CA up"))
    }

    /// The same to be shown, newest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn issuers(&self, organization: &str) -> Result<Vec<IssuerShown>, Failure> {
        sqlx::query_as(
            "SELECT serial, certificate, created_at_ms, retired_at_ms FROM issuers WHERE organization = $1 \
             ORDER BY retired_at_ms IS NOT NULL, retired_at_ms DESC",
        )
        .bind(organization)
        .fetch_all(self.pool())
        .await
        .map_err(broken("listing issuing CAs"))
    }

    /// Has another CA issue from now on. The one before it stays to be known by, and its key goes.
    ///
    /// # Errors
    /// `busy` where there are too many already.
    pub async fn rotate_issuer(&self, organization: &str, issuer: &IssuerRecord) -> Result<(), Failure> {
        let failed = broken("rotating an issuing CA");
        let now = now_ms();
        let mut transaction = self.pool().begin().await.map_err(&failed)?;
        // written first: of two rotations at once the second waits for the first
        sqlx::query("DELETE FROM issuers WHERE organization = $1 AND retired_at_ms < $2")
            .bind(organization)
            .bind(now - RETIRED_KEPT_MS)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM issuers WHERE organization = $1")
            .bind(organization)
            .fetch_one(&mut *transaction)
            .await
            .map_err(&failed)?;
        if kept >= ISSUERS_MAX {
            return Err(Code::Busy
                .on(format!("the organization has {kept} issuing CAs whose certificates are still good, the limit is {ISSUERS_MAX}"))
                .next("Wait until certificates of the oldest have ended; a runner is cut off with `runnerctl runner revoke`."));
        }
        sqlx::query(
            "UPDATE issuers SET retired_at_ms = $2, private_key = NULL WHERE organization = $1 AND retired_at_ms IS NULL",
        )
        .bind(organization)
        .bind(now)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        insert(&mut transaction, organization, issuer, now).await?;
        transaction.commit().await.map_err(failed)
    }
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    organization: &str,
    issuer: &IssuerRecord,
    now_ms: i64,
) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO issuers (organization, public_key_sha256, serial, certificate, private_key, created_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(organization)
    .bind(&issuer.public_key_sha256)
    .bind(&issuer.serial)
    .bind(&issuer.certificate)
    .bind(issuer.private_key.expose())
    .bind(now_ms)
    .execute(connection)
    .await
    .map(drop)
    .map_err(broken("keeping an issuing CA"))
}
