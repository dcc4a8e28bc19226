//! Variables sealed to a runner: whoever has the control plane's database and keys cannot open them. HPKE (RFC 9180) in base mode, with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
//!
//! Organization, stack and variable are bound to what is sealed: in another place it does not open. This module must never say anything of
//! a value but that it does not open.

use crate::failure::{Code, Failure};
use crate::hex;
use crate::secret::Secret;
use crate::secrets::VALUE_MAX;
use crate::v1::SealedVariable;
use aws_lc_rs::agreement::{PrivateKey, X25519};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use sha2::{Digest as _, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// The runner's own keys, in its state directory: what [`Keys`] reads.
pub const FILE: &str = "seal.keys";
/// Keys that are kept to open with, the newest included.
pub const KEYS_MAX: usize = 16;
/// The longest file of them, bytes.
pub const FILE_MAX: u64 = 4096;
/// Sealed values of one job: variables, each counted once for each key that it is sealed to.
pub const SEALED_MAX: usize = 256;
/// Keys that one variable is sealed to.
pub const RECIPIENTS_MAX: usize = 16;
/// What is added to a value: the tag.
pub const ADDED: usize = 16;

/// What is the same for all that is sealed this way.
const INFO: &[u8] = b"runner sealed variable 1";
const KEY: usize = 32;

/// What a runner's instance tells of itself: whom variables are sealed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealKey([u8; KEY]);

/// An instance's own, the newest last.
pub struct Keys(Vec<Zeroizing<[u8; KEY]>>);

/// Where a value belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The organization's id.
    pub organization: &'a str,
    /// The stack's id.
    pub stack: &'a str,
    /// The variable's name.
    pub variable: &'a str,
}

// === impl Place ===

impl Place<'_> {
    /// Each part with its length before it: no two places are written alike.
    fn bound(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [self.organization, self.stack, self.variable] {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes
    }
}

// === impl SealKey ===

impl SealKey {
    /// From its 32 bytes. None: they are too many or too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
    /// From hexadecimal digits. None: it is none.
    pub fn from_text(text: &str) -> Option<Self> {
        let is_one = text.len() == 2 * KEY && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_one.then(|| Self::from_bytes(&hex::decode(text))).flatten()
    }
    /// For whoever is told of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
    /// As hexadecimal digits.
    pub fn text(&self) -> String {
        hex::encode(self.0)
    }
    /// By which people compare it, and by which what is sealed says to whom: the SHA-256 of the key.
    pub fn fingerprint(&self) -> String {
        hex::encode(&Sha256::digest(self.0)[..])
    }

    /// Seals a value.
    ///
    /// # Errors
    /// `too_large`; `internal`: the key is no point of the curve, or the system gives no randomness.
    pub fn seal(&self, place: &Place<'_>, value: &Secret) -> Result<SealedVariable, Failure> {
        if value.expose().len() > VALUE_MAX {
            let message =
                format!("the value of {} has {} bytes, the limit is {VALUE_MAX}", place.variable, value.expose().len());
            return Err(Code::TooLarge.on(message));
        }
        let to = HpkePublicKey(self.0.to_vec());
        let (encapsulated, ciphertext) = SUITE
            .seal(INFO, &place.bound(), value.expose().as_bytes(), &to)
            .map_err(|_| Code::Internal.on(format!("nothing can be sealed to the key {}", self.fingerprint())))?;
        Ok(SealedVariable {
            variable: place.variable.to_owned(),
            key: self.fingerprint(),
            encapsulated: encapsulated.0,
            ciphertext,
        })
    }
}

// === impl Keys ===

impl Keys {
    /// A first one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn make() -> Result<Self, getrandom::Error> {
        Self(Vec::new()).rotated()
    }
    /// With a new one after these; of too many the oldest goes.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn rotated(mut self) -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY]);
        getrandom::fill(&mut *bytes)?;
        self.0.push(bytes);
        let over = self.0.len().saturating_sub(KEYS_MAX);
        self.0.drain(..over);
        Ok(self)
    }
    /// As their file has them: a line of hexadecimal digits each. None: it has none, or something else.
    pub fn from_text(text: &str) -> Option<Self> {
        let one = |line: &str| {
            let is_one = line.len() == 2 * KEY && line.bytes().all(|b| b.is_ascii_hexdigit());
            let bytes = Zeroizing::new(hex::decode(line));
            is_one.then(|| bytes.as_slice().try_into().ok().map(Zeroizing::new)).flatten()
        };
        let keys: Vec<_> = text.lines().map(one).collect::<Option<_>>()?;
        (1..=KEYS_MAX).contains(&keys.len()).then_some(Self(keys))
    }
    /// For their file.
    pub fn text(&self) -> Secret {
        let mut text = Zeroizing::new(String::new());
        for key in &self.0 {
            text.push_str(&Zeroizing::new(hex::encode(**key)));
            text.push('\n');
        }
        Secret::new(text.as_str())
    }
    /// The public halves, the newest last.
    pub fn public(&self) -> Vec<SealKey> {
        let half = |key: &Zeroizing<[u8; KEY]>| {
            let key = PrivateKey::from_private_key(&X25519, &**key).ok()?;
            SealKey::from_bytes(key.compute_public_key().ok()?.as_ref())
        };
        self.0.iter().filter_map(half).collect()
    }
    /// The one that is told.
    pub fn newest(&self) -> Option<SealKey> {
        self.public().pop()
    }

    /// Opens one of the forms of a variable, whichever is sealed to one of these keys.
    ///
    /// # Errors
    /// `sealed_unreadable`: none is, or it was changed, or belongs in another place.
    pub fn open(&self, place: &Place<'_>, forms: &[&SealedVariable]) -> Result<Secret, Failure> {
        let own: Vec<_> = self.public().iter().map(SealKey::fingerprint).collect();
        let found = forms.iter().find_map(|form| Some((form, own.iter().position(|key| *key == form.key)?)));
        let variable = place.variable;
        let Some((form, at)) = found else {
            let to: Vec<_> = forms.iter().map(|form| form.key.chars().take(16).collect::<String>()).collect();
            return Err(Code::SealedUnreadable.on(format!(
                "the variable {variable} is sealed to {}, and this instance has none of these keys",
                to.join(", ")
            )));
        };
        let opened = SUITE.open(
            &EncapsulatedSecret(form.encapsulated.clone()),
            INFO,
            &place.bound(),
            &form.ciphertext,
            &HpkePrivateKey::from(self.0[at].to_vec()),
        );
        let changed = || {
            Code::SealedUnreadable.on(format!(
                "what is sealed for the variable {variable} was changed, or belongs to another organization, stack or variable"
            ))
        };
        let bytes = Zeroizing::new(opened.map_err(|_| changed())?);
        let text = std::str::from_utf8(&bytes).map_err(|_| changed())?;
        Ok(Secret::new(text))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place { organization: "org_1", stack: "stk_1", variable: "password" };

    #[test]
    fn what_is_sealed_opens_with_its_key_in_its_place_and_nowhere_else() {
        let keys = Keys::make().expect("randomness");
        let key = keys.newest().expect("a key");
        let sealed = key.seal(&PLACE, &Secret::new("hunter2-hunter2")).expect("seals");
        assert_eq!(sealed.ciphertext.len(), "hunter2-hunter2".len() + ADDED);
        assert_eq!(keys.open(&PLACE, &[&sealed]).expect("opens").expose(), "hunter2-hunter2");
        for other in [
            Place { organization: "org_2", ..PLACE },
            Place { stack: "stk_2", ..PLACE },
            Place { variable: "other", ..PLACE },
            // the same letters, parted elsewhere
            Place { organization: "org_1s", stack: "tk_1", ..PLACE },
        ] {
            let failure = keys.open(&other, &[&sealed]).expect_err("another place");
            assert!(
                failure.code == Code::SealedUnreadable && failure.message.contains("belongs to another"),
                "{failure}"
            );
        }
        for at in 0..sealed.ciphertext.len() {
            let mut changed = sealed.clone();
            changed.ciphertext[at] ^= 1;
            assert!(keys.open(&PLACE, &[&changed]).is_err(), "{at}");
        }
        let changed = SealedVariable { encapsulated: vec![0; KEY], ..sealed.clone() };
        assert!(keys.open(&PLACE, &[&changed]).is_err());
        let stranger = Keys::make().expect("randomness");
        let failure = stranger.open(&PLACE, &[&sealed]).expect_err("another's");
        assert!(
            failure.message.contains(&sealed.key[..16]) && failure.message.contains("none of these keys"),
            "{failure}"
        );
        // one that says it were sealed to a key that it is not sealed to
        let forged = SealedVariable { key: stranger.newest().expect("a key").fingerprint(), ..sealed };
        assert!(stranger.open(&PLACE, &[&forged]).is_err());
    }

    #[test]
    fn older_keys_open_and_the_newest_is_told() {
        let mut keys = Keys::make().expect("randomness");
        let first = keys.newest().expect("a key");
        let sealed = first.seal(&PLACE, &Secret::new("hunter2-hunter2")).expect("seals");
        for _ in 1..KEYS_MAX {
            keys = keys.rotated().expect("randomness");
        }
        assert!(keys.public().len() == KEYS_MAX && keys.newest() != Some(first));
        assert!(keys.open(&PLACE, &[&sealed]).is_ok());
        keys = keys.rotated().expect("randomness");
        assert!(keys.public().len() == KEYS_MAX && keys.open(&PLACE, &[&sealed]).is_err());
    }

    #[test]
    fn keys_come_back_from_their_file_and_are_in_no_debug() {
        let keys = Keys::make().and_then(Keys::rotated).expect("randomness");
        let text = keys.text();
        assert!(text.expose().len() as u64 <= FILE_MAX);
        let again = Keys::from_text(text.expose()).expect("reads");
        assert_eq!(again.public(), keys.public());
        assert_eq!(format!("{keys:?}"), "Keys(2)");
        for bad in ["", "x", &text.expose()[1..], &format!("{}\n", text.expose()), &"00".repeat(33)] {
            assert!(Keys::from_text(bad).is_none(), "{bad}");
        }
        let key = keys.newest().expect("a key");
        assert_eq!(SealKey::from_text(&key.text()), Some(key));
        assert!(SealKey::from_text("x").is_none() && SealKey::from_bytes(&[0; 31]).is_none());
    }

    #[test]
    fn both_sides_of_a_values_length() {
        let key = Keys::make().expect("randomness").newest().expect("a key");
        assert!(key.seal(&PLACE, &Secret::new("x".repeat(VALUE_MAX))).is_ok());
        let failure = key.seal(&PLACE, &Secret::new("x".repeat(VALUE_MAX + 1))).expect_err("too long");
        assert_eq!(failure.code, Code::TooLarge);
        // a point of small order: nobody's key
        assert!(SealKey([0; KEY]).seal(&PLACE, &Secret::new("x")).is_err());
    }
}
