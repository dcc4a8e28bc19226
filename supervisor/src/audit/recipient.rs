//! Whom recordings are encrypted to. Keys are as openssl makes them.

use super::key::Pem;
use super::line::Digest;
use super::recording::RecordingError;
use aws_lc_rs::agreement::{PrivateKey, X25519};
use aws_lc_rs::encoding::{AsBigEndian as _, Curve25519SeedBin};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The start of an X25519 public key in DER (SubjectPublicKeyInfo), and of a private one (PKCS#8).
const SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];
const PKCS8: &[u8] = &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20];

/// Whom recordings are encrypted to: the public half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient(pub(super) [u8; 32]);

/// The private half, which never comes near a runner but for reading.
pub struct RecipientKey(pub(super) PrivateKey);

// === impl Recipient ===

impl Recipient {
    /// From PEM, as `openssl pkey -pubout` writes it, or from base64 of its DER form.
    ///
    /// # Errors
    /// It is none, or of another kind.
    pub fn from_text(text: &str) -> Result<Self, RecordingError> {
        let base64 = base64::engine::general_purpose::STANDARD;
        let der = Pem("PUBLIC KEY").unwrap(text).or_else(|| base64.decode(text.trim()).ok());
        let der = der.ok_or(RecordingError::Key("neither PEM nor base64"))?;
        let bytes = der.strip_prefix(SPKI).ok_or(RecordingError::Key("not an X25519 key"))?;
        Ok(Self(bytes.try_into().map_err(|_| RecordingError::Key("its length is another"))?))
    }

    /// As PEM.
    pub fn to_pem(self) -> String {
        Pem("PUBLIC KEY").wrap(&[SPKI, &self.0].concat())
    }

    /// SHA-256 of its DER form.
    pub fn fingerprint(self) -> Digest {
        Digest::from_bytes(&self.named())
    }

    /// The same, as a recording names it.
    pub(super) fn named(self) -> [u8; 32] {
        Sha256::digest([SPKI, &self.0].concat()).into()
    }
}

// === impl RecipientKey ===

impl RecipientKey {
    /// A new one.
    ///
    /// # Errors
    /// None could be made.
    pub fn generate() -> Result<Self, RecordingError> {
        PrivateKey::generate(&X25519).map(Self).map_err(|_| RecordingError::Key("none could be made"))
    }

    /// From PEM, as `openssl genpkey -algorithm X25519` writes it.
    ///
    /// # Errors
    /// It is none, or of another kind.
    pub fn from_pem(text: &str) -> Result<Self, RecordingError> {
        let der = Pem("PRIVATE KEY").unwrap(text).ok_or(RecordingError::Key("not PEM"))?;
        let seed = der.strip_prefix(PKCS8).ok_or(RecordingError::Key("not an X25519 key in PKCS#8"))?;
        let key = PrivateKey::from_private_key(&X25519, seed);
        key.map(Self).map_err(|_| RecordingError::Key("its length is another"))
    }

    /// As PEM: the secret itself, to be written where only the customer reads it.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn to_secret_pem(&self) -> Result<String, RecordingError> {
        let seed: Curve25519SeedBin<'_> = self.0.as_be_bytes().map_err(|_| RecordingError::Key("it cannot be told"))?;
        Ok(Pem("PRIVATE KEY").wrap(&[PKCS8, seed.as_ref()].concat()))
    }

    /// Its public half.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn recipient(&self) -> Result<Recipient, RecordingError> {
        public(&self.0).map(Recipient)
    }
}

impl fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecipientKey")
    }
}

/// The public half.
pub(super) fn public(key: &PrivateKey) -> Result<[u8; 32], RecordingError> {
    let failed = RecordingError::Key("its public half cannot be told");
    let public = key.compute_public_key().map_err(|_| failed.clone())?;
    public.as_ref().try_into().map_err(|_| failed)
}
