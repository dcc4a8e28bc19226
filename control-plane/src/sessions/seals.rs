//! What a runner tells of the end of its audit log: read, and believed where its signature is right. docs/audit.md says how a line is made.
//!
//! The log itself stays with the runner. By a seal that is kept here its owner can tell later that its end was cut off, or all of it written anew.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shared_proto::{hex, v1};

/// The longest line of a log that is read here, bytes.
const LINE_MAX: usize = 2048;
/// What every signed text of a log starts with.
const DOMAIN: &str = "runner-audit-v1";
/// The start of an Ed25519 public key in DER (SubjectPublicKeyInfo).
const SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A seal whose signature is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Its number in the log.
    pub number: i64,
    /// Its hash.
    pub hash: String,
    /// The key that signed it, base64 of its DER form.
    pub key: String,
    /// SHA-256 of that form.
    pub fingerprint: String,
    /// The record as it stands in the log.
    pub line: String,
    /// The record that tells of this key, which the one before signed, if its signature is that one's; empty: none came.
    pub key_line: String,
}

/// A line that was taken apart.
struct Line<'a> {
    number: i64,
    kind: String,
    hash: &'a str,
    signed: &'a str,
    signature: String,
    /// Where it tells of a key.
    key: Option<String>,
}

// === impl Seal ===

impl Seal {
    /// What that runner tells.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(crate) fn read(runner: &str, told: &v1::AuditSeal) -> Result<Self, &'static str> {
        let line = Line::read(&told.line)?;
        if line.kind != "seal" {
            return Err("the record is no seal");
        }
        if !line.is_signed_by(&told.key, runner) {
            return Err("its signature is not one of the key that came with it");
        }
        if told.key_line.len() > LINE_MAX {
            return Err("the record of its key is too long");
        }
        let fingerprint = hex::encode(Sha256::digest(der(&told.key).ok_or("its key is none")?));
        Ok(Self {
            number: line.number,
            hash: line.hash.to_owned(),
            key: told.key.clone(),
            fingerprint,
            line: told.line.clone(),
            key_line: told.key_line.clone(),
        })
    }

    /// Whether that key has signed this seal's key as the one that follows it, in the log of that runner.
    pub(crate) fn follows(&self, before: &str, runner: &str) -> bool {
        let Ok(line) = Line::read(&self.key_line) else { return false };
        line.kind == "key" && line.key.as_ref() == Some(&self.key) && line.is_signed_by(before, runner)
    }
}

// === impl Line ===

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Result<Self, &'static str> {
        if text.len() > LINE_MAX {
            return Err("the line is too long");
        }
        let value: Value = serde_json::from_str(text).map_err(|_| "the line is no JSON")?;
        let member = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (hashed, rest) = text.rsplit_once(",\"hash\":\"").ok_or("the line has no hash")?;
        let hash = rest.strip_suffix("\"}").ok_or("the hash is not the line's last member")?;
        if hex::encode(Sha256::digest(hashed)) != hash {
            return Err("the line's hash does not fit");
        }
        let (signed, _) = hashed.rsplit_once(",\"sig\":\"").ok_or("the line has no signature")?;
        Ok(Self {
            number: value.get("seq").and_then(Value::as_i64).ok_or("the line has no number")?,
            kind: member("kind").unwrap_or_default(),
            hash,
            signed,
            signature: member("sig").unwrap_or_default(),
            key: member("key"),
        })
    }

    fn is_signed_by(&self, key: &str, runner: &str) -> bool {
        let digest = hex::encode(Sha256::digest(self.signed));
        let message = format!("{DOMAIN}\n{runner}\n{}\n{digest}\n", self.number);
        let (Some(der), Ok(signature)) = (der(key), BASE64.decode(&self.signature)) else { return false };
        UnparsedPublicKey::new(&ED25519, &der[SPKI.len()..]).verify(message.as_bytes(), &signature).is_ok()
    }
}

/// An Ed25519 key in its DER form.
fn der(key: &str) -> Option<Vec<u8>> {
    let der = BASE64.decode(key).ok()?;
    (der.len() == SPKI.len() + 32 && der.starts_with(SPKI)).then_some(der)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    /// A log's key.
    pub(crate) struct Key(Ed25519KeyPair);

    impl Key {
        pub(crate) fn new() -> Self {
            let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("makes");
            Self(Ed25519KeyPair::from_pkcs8(der.as_ref()).expect("reads"))
        }
        pub(crate) fn public(&self) -> String {
            BASE64.encode([SPKI, self.0.public_key().as_ref()].concat())
        }
        /// A line of the log of `run_1`, as docs/audit.md has it.
        pub(crate) fn line(&self, number: i64, kind: &str, members: &str) -> String {
            let signed = format!(
                "{{\"seq\":{number},\"time\":\"2026-03-01T09:15:02.123Z\",\"kind\":\"{kind}\"{members},\"prev\":\"\""
            );
            let digest = hex::encode(Sha256::digest(&signed));
            let signature = self.0.sign(format!("{DOMAIN}\nrun_1\n{number}\n{digest}\n").as_bytes());
            let hashed = format!("{signed},\"sig\":\"{}\"", BASE64.encode(signature));
            format!("{hashed},\"hash\":\"{}\"}}", hex::encode(Sha256::digest(&hashed)))
        }
        pub(crate) fn seal(&self, number: i64) -> v1::AuditSeal {
            v1::AuditSeal { line: self.line(number, "seal", ""), key: self.public(), key_line: String::new() }
        }
    }

    #[test]
    fn a_seal_is_believed_where_its_key_signed_it_for_that_runner() {
        let key = Key::new();
        let told = key.seal(7);
        let seal = Seal::read("run_1", &told).expect("is believed");
        assert_eq!((seal.number, seal.hash.len(), seal.fingerprint.len()), (7, 64, 64));
        assert!(Seal::read("run_2", &told).is_err());
        assert!(Seal::read("run_1", &v1::AuditSeal { key: Key::new().public(), ..told.clone() }).is_err());
        assert!(Seal::read("run_1", &v1::AuditSeal { line: key.line(7, "end", ""), ..told.clone() }).is_err());
        assert!(Seal::read("run_1", &v1::AuditSeal { key: "x".to_owned(), ..told.clone() }).is_err());
        for byte in 0..told.line.len() {
            let mut changed = told.line.clone().into_bytes();
            changed[byte] ^= 1;
            if let Ok(line) = String::from_utf8(changed) {
                assert!(Seal::read("run_1", &v1::AuditSeal { line, ..told.clone() }).is_err(), "byte {byte}");
            }
        }
        for (length, fits) in [(LINE_MAX, true), (LINE_MAX + 1, false)] {
            let without = key.line(7, "seal", ",\"x\":\"\"").len();
            let line = key.line(7, "seal", &format!(",\"x\":\"{}\"", "y".repeat(length - without)));
            assert_eq!(
                (line.len(), Seal::read("run_1", &v1::AuditSeal { line, ..told.clone() }).is_ok()),
                (length, fits)
            );
        }
    }

    #[test]
    fn a_key_follows_the_one_that_signed_it() {
        let (first, second) = (Key::new(), Key::new());
        let names = |key: &Key| format!(",\"key\":\"{}\"", key.public());
        let seal =
            |key_line: String| Seal::read("run_1", &v1::AuditSeal { key_line, ..second.seal(9) }).expect("is believed");
        assert!(seal(first.line(8, "key", &names(&second))).follows(&first.public(), "run_1"));
        assert!(!seal(first.line(8, "key", &names(&second))).follows(&first.public(), "run_2"));
        assert!(!seal(first.line(8, "key", &names(&first))).follows(&first.public(), "run_1"));
        assert!(!seal(first.line(8, "seal", &names(&second))).follows(&first.public(), "run_1"));
        assert!(!seal(second.line(8, "key", &names(&second))).follows(&first.public(), "run_1"));
        assert!(!seal(String::new()).follows(&first.public(), "run_1"));
    }
}
