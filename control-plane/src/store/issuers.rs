//! The issuing CAs, one an organization.

use super::{Store, broken, not_found};
use shared_proto::failure::Failure;
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
    /// The issuing CA of an organization, with its key.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn issuer(&self, organization: &str) -> Result<IssuerRecord, Failure> {
        let failed = broken("reading an issuing CA");
        let row = sqlx::query(
            "SELECT public_key_sha256, serial, certificate, private_key FROM issuers WHERE organization = $1",
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

    /// The issuing CA of an organization without its key, if there is such an organization.
    ///
    /// # Errors
    /// `internal`.
    pub async fn signer_of(&self, organization: &str) -> Result<Option<Signer>, Failure> {
        sqlx::query_as("SELECT organization, public_key_sha256, certificate FROM issuers WHERE organization = $1")
            .bind(organization)
            .fetch_optional(self.pool())
            .await
            .map_err(broken("looking an issuing CA up"))
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
