//! The key that seals the log: Ed25519, made at the first start, known to this runner alone.

use super::error::AuditError;
use super::files;
use super::line::Digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// What every signed text starts with: a signature of this log is one of nothing else.
const DOMAIN: &str = "runner-audit-v1";
/// The start of an Ed25519 public key in DER (SubjectPublicKeyInfo).
const SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The longest key file that is read, bytes.
const FILE_MAX: u64 = 4096;

/// The public half of a log's key: what others verify with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// The key. Its secret is shown to nobody.
pub(super) struct Key {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// A fixed text around base64.
pub(super) struct Pem(pub(super) &'static str);

// === impl PublicKey ===

impl PublicKey {
    /// As PEM, which openssl reads.
    pub fn to_pem(self) -> String {
        Pem("PUBLIC KEY").wrap(&self.der())
    }

    /// From PEM, or from the base64 that stands in the log.
    ///
    /// # Errors
    /// It is none, or of another kind.
    pub fn from_text(text: &str) -> Result<Self, AuditError> {
        let der = Pem("PUBLIC KEY").unwrap(text).or_else(|| BASE64.decode(text.trim()).ok());
        let der = der.ok_or(AuditError::PublicKey("neither PEM nor base64"))?;
        let bytes = der.strip_prefix(SPKI).ok_or(AuditError::PublicKey("not an Ed25519 key"))?;
        Ok(Self(bytes.try_into().map_err(|_| AuditError::PublicKey("its length is another"))?))
    }

    /// SHA-256 of its DER form, as `openssl pkey -pubin -outform DER | sha256sum` gives it.
    pub fn fingerprint(self) -> Digest {
        Digest::of(&self.der())
    }

    /// As base64 of its DER form, as it stands in the log.
    pub fn to_base64(self) -> String {
        BASE64.encode(self.der())
    }

    fn der(self) -> Vec<u8> {
        [SPKI, &self.0].concat()
    }

    /// Whether this key's owner signed that digest, as the record of that number of that runner.
    pub(super) fn has_signed(self, runner: &str, seq: u64, digest: &Digest, signature: &[u8]) -> bool {
        let Ok(signature) = BASE64.decode(signature) else { return false };
        UnparsedPublicKey::new(&ED25519, self.0).verify(&message(runner, seq, digest), &signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_base64())
    }
}

// === impl Key ===

impl Key {
    /// Reads the key, or makes one where there is none. The second value is whether it was made now.
    pub(super) fn take(path: &Path) -> Result<(Self, bool), AuditError> {
        match Self::read(path) {
            Err(AuditError::File(_, e)) if e.kind() == io::ErrorKind::NotFound => Ok((Self::make(path)?, true)),
            read => Ok((read?, false)),
        }
    }

    /// Makes a new one in that file, whole on disk when this returns.
    pub(super) fn make(path: &Path) -> Result<Self, AuditError> {
        let failed = |_| AuditError::Key(path.to_owned(), "no key could be made");
        // version 1 of PKCS#8: openssl does not read the second one's public part
        let der = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(failed)?;
        let key = Self::from_der(path, der.as_ref())?;
        files::write_whole(path, Pem("PRIVATE KEY").wrap(der.as_ref()).as_bytes())?;
        Ok(key)
    }

    pub(super) fn read(path: &Path) -> Result<Self, AuditError> {
        let fail = |e| AuditError::file(path)(e);
        let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(AuditError::KeyExposed(path.to_owned(), mode));
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).map_err(fail)?;
        let der = Pem("PRIVATE KEY").unwrap(&text);
        Self::from_der(path, &der.ok_or_else(|| AuditError::Key(path.to_owned(), "it is not PEM"))?)
    }

    fn from_der(path: &Path, der: &[u8]) -> Result<Self, AuditError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
        let pair = pair.map_err(|_| AuditError::Key(path.to_owned(), "it is no Ed25519 key in PKCS#8"))?;
        let public = pair.public_key().as_ref().try_into();
        let public = public.map_err(|_| AuditError::Key(path.to_owned(), "its public key has another length"))?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    pub(super) const fn public(&self) -> PublicKey {
        self.public
    }

    /// The signature of that digest, as the record of that number of that runner.
    pub(super) fn sign(&self, runner: &str, seq: u64, digest: &Digest) -> String {
        BASE64.encode(self.pair.sign(&message(runner, seq, digest)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.public.fingerprint())
    }
}

fn message(runner: &str, seq: u64, digest: &Digest) -> Vec<u8> {
    format!("{DOMAIN}\n{runner}\n{seq}\n{digest}\n").into_bytes()
}

// === impl Pem ===

impl Pem {
    pub(super) fn wrap(&self, der: &[u8]) -> String {
        let text = BASE64.encode(der);
        let mut pem = format!("-----BEGIN {}-----\n", self.0);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).unwrap_or_default());
            pem.push('\n');
        }
        pem + &format!("-----END {}-----\n", self.0)
    }

    /// Nothing where it is not exactly one such block.
    pub(super) fn unwrap(&self, text: &str) -> Option<Vec<u8>> {
        let rest = text.trim().strip_prefix(&format!("-----BEGIN {}-----", self.0))?;
        let inner = rest.strip_suffix(&format!("-----END {}-----", self.0))?;
        BASE64.decode(inner.split_ascii_whitespace().collect::<String>()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let (first, made) = Key::take(&path).expect("makes");
        assert!(made);
        let (second, made) = Key::take(&path).expect("reads");
        assert!(!made && first.public() == second.public());
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("sets");
        let refused = Key::take(&path).map(drop).expect_err("exposed");
        assert!(matches!(&refused, AuditError::KeyExposed(_, 0o640)), "{refused}");
        assert!(!refused.next_step().is_empty());
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("sets");
        std::fs::write(&path, "nonsense").expect("writes");
        assert!(matches!(Key::take(&path), Err(AuditError::Key(..))));
        let secret = Pem("PRIVATE KEY").wrap(&[7; 48]);
        std::fs::write(&path, secret).expect("writes");
        assert!(matches!(Key::take(&path), Err(AuditError::Key(..))));
        std::fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink("elsewhere", &path).expect("links");
        assert!(Key::take(&path).is_err(), "a link was followed");
    }

    #[test]
    fn a_signature_is_of_one_runner_one_number_and_one_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let (key, _) = Key::take(&folder.path().join("key")).expect("makes");
        let (other, _) = Key::take(&folder.path().join("other")).expect("makes");
        let (digest, wrong) = (Digest::of(b"a"), Digest::of(b"b"));
        let signature = key.sign("r1", 5, &digest);
        let is = |key: &Key, runner, seq, digest: &Digest| {
            key.public().has_signed(runner, seq, digest, signature.as_bytes())
        };
        assert!(is(&key, "r1", 5, &digest));
        assert!(!is(&other, "r1", 5, &digest) && !is(&key, "r2", 5, &digest));
        assert!(!is(&key, "r1", 6, &digest) && !is(&key, "r1", 5, &wrong));
        assert!(!key.public().has_signed("r1", 5, &digest, b"?"));
    }

    #[test]
    fn a_public_key_reads_back_and_a_secret_is_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let (key, _) = Key::take(&path).expect("makes");
        let public = key.public();
        assert_eq!(PublicKey::from_text(&public.to_pem()).expect("reads"), public);
        assert_eq!(PublicKey::from_text(&public.to_base64()).expect("reads"), public);
        let secret = std::fs::read_to_string(&path).expect("reads");
        for bad in ["", "AAAA", &secret, &Pem("PUBLIC KEY").wrap(&[1; 44]), &Pem("PUBLIC KEY").wrap(SPKI)] {
            assert!(matches!(PublicKey::from_text(bad), Err(AuditError::PublicKey(_))));
        }
        let inner = secret.lines().nth(1).expect("a line");
        assert!(!format!("{key:?}").contains(&inner[24..40]));
    }
}
