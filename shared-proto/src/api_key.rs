//! API keys of runners and tokens of users: 256 random bits with a recognisable prefix and a checksum, so that a truncated or
//! mistyped one is told apart from a wrong one, and secret scanners find it. The control plane stores a digest only.
//!
//! `rnk_` (runner key), `rnt_` (user's token) or `rnc_` (a user's token for one cluster), 43 characters of base64url, 6 of base64url checksum (CRC-32C).

use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a key is for; part of its text, so that one cannot be used as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Authenticates a runner beside its certificate.
    Runner,
    /// Authenticates a user to the API.
    User,
    /// Authenticates a user to the Kubernetes API of one connection, for a while.
    Cluster,
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    /// The prefix is another one.
    #[error("it does not start with {0:?}")]
    Prefix(&'static str),
    /// Too short or too long.
    #[error("it is not {0} characters long")]
    Length(usize),
    /// The checksum does not fit: mistyped or cut.
    #[error("its checksum does not fit; it was mistyped or cut")]
    Checksum,
}

/// The digest of a key, as it is stored: SHA-256, which suffices for 256 random bits.
#[derive(Debug, Clone, Copy, Eq)]
pub struct KeyDigest([u8; 32]);

// === impl Purpose ===

impl Purpose {
    /// The prefix of its keys.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Runner => "rnk_",
            Self::User => "rnt_",
            Self::Cluster => "rnc_",
        }
    }
}

const BODY: usize = 43;
const CHECKSUM: usize = 6;

/// A new key.
///
/// # Errors
/// Only where the system has no randomness to give.
pub fn generate(purpose: Purpose) -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let body = URL_SAFE_NO_PAD.encode(bytes);
    Ok(Secret::new(format!("{}{body}{}", purpose.prefix(), checksum(purpose, &body))))
}

/// Checks a key's form and gives its digest.
///
/// # Errors
/// [`MalformedKey`], which never carries the key.
pub fn parse(purpose: Purpose, key: &str) -> Result<KeyDigest, MalformedKey> {
    let rest = key.strip_prefix(purpose.prefix()).ok_or(MalformedKey::Prefix(purpose.prefix()))?;
    if rest.len() != BODY + CHECKSUM || !rest.is_ascii() {
        return Err(MalformedKey::Length(purpose.prefix().len() + BODY + CHECKSUM));
    }
    let (body, sum) = rest.split_at(BODY);
    if checksum(purpose, body) != sum {
        return Err(MalformedKey::Checksum);
    }
    Ok(KeyDigest(Sha256::digest(key.as_bytes()).into()))
}

fn checksum(purpose: Purpose, body: &str) -> String {
    let sum = crc32c::crc32c_append(crc32c::crc32c(purpose.prefix().as_bytes()), body.as_bytes());
    URL_SAFE_NO_PAD.encode(sum.to_be_bytes())
}

// === impl KeyDigest ===

impl KeyDigest {
    /// As it was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// To be stored.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyDigest {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_form_and_its_digest() {
        let key = generate(Purpose::Runner).expect("random");
        assert_eq!(key.expose().len(), 53);
        assert_eq!(parse(Purpose::Runner, key.expose()), parse(Purpose::Runner, key.expose()));
        assert_ne!(
            parse(Purpose::Runner, key.expose()),
            parse(Purpose::Runner, generate(Purpose::Runner).expect("random").expose())
        );
    }

    #[test]
    fn every_single_change_is_noticed() {
        let key = generate(Purpose::Runner).expect("random");
        assert_eq!(parse(Purpose::User, key.expose()), Err(MalformedKey::Prefix("rnt_")));
        for i in 0..key.expose().len() {
            let mut bytes = key.expose().as_bytes().to_vec();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            assert!(parse(Purpose::Runner, std::str::from_utf8(&bytes).expect("ascii")).is_err(), "at {i}");
            assert!(parse(Purpose::Runner, &key.expose()[..i]).is_err(), "cut at {i}");
        }
    }
}
