//! The states of a stack as its runner keeps them: each version one file, a head that can be read and the state itself sealed.
//!
//! ```text
//! version   "RNSTATE1 " │ head, one line of JSON │ "\n" │ nonce, 12 bytes │ state, AES-256-GCM │ tag, 16 bytes
//! ```
//! The stack and the whole head are bound to what is sealed: a file that was changed, renamed or put in another's place does not open. The head
//! must never say anything of what the state holds but how much it is: its digest is keyed, so that nobody can try out what it might be.

mod elsewhere;

use crate::hex;
use crate::secret::Secret;
use crate::v1::StateLock;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

pub use elsewhere::{Claim, S3, bucket_address, is_bucket, is_namespace, is_prefix, region_of, shown};

/// The runner's own key of states, in its state directory: what [`Root`] reads.
pub const ROOT: &str = "states.key";
/// In a stack's folder: its versions, each named by its number.
pub const VERSIONS: &str = "versions";
/// In a stack's folder: who has the lock of its state, [`Held`] as JSON.
pub const LOCK: &str = "lock.json";
/// Beside them, where they are in no folder: who serves them, [`Claim`] as JSON.
pub const SERVING: &str = "serving.json";
/// In a stack's folder, where its states are in none: where they are, in its first line; of a backend a hash of its configuration in the second one.
pub const KEPT_AT: &str = "kept-at";
/// How a place begins there that is none of the runner's.
pub const OWN_BACKEND: &str = "the configuration's own backend";
/// A state as an engine writes it into a file: in a stack's folder, or in one of a workspace below it.
pub const PLAIN: &str = "terraform.tfstate";
/// In a stack's folder: the states of the configuration's other workspaces than the default one, each in a folder of its name.
pub const WORKSPACES: &str = "workspaces";
/// In a stack's folder: what Pulumi keeps there.
pub const PULUMI: &str = "pulumi";
/// The largest state, bytes.
pub const STATE_MAX: usize = 64 * 1024 * 1024;
/// Versions of a state that are kept.
pub const VERSIONS_MAX: usize = 50;
/// The longest head, bytes, with what comes before it.
pub const HEAD_MAX: usize = 16 * 1024;
/// The longest note of a lock, bytes.
pub const LOCK_MAX: usize = 64 * 1024;
/// Of each part of what an engine says of its lock this much is told, bytes.
const TOLD_MAX: usize = 1024;
/// The largest file of a version, bytes.
pub const FILE_MAX: usize = HEAD_MAX + NONCE + STATE_MAX + TAG;

const MAGIC: &[u8] = b"RNSTATE1 ";
const NONCE: usize = 12;
const TAG: usize = 16;
const KEY: usize = 32;

/// The runner's key: what those of its stacks are made of.
#[derive(Clone)]
pub struct Root(Zeroizing<[u8; KEY]>);

/// The key of one stack's states: who has it can read those of no other.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY]>);

/// What can be read of a version without its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number: the first is 1, each later one is one more.
    pub number: u64,
    /// The engine's own number; none where the engine does not say it.
    #[serde(default)]
    pub serial: Option<u64>,
    /// By which the engine tells states of one origin from others; empty where it does not say it.
    #[serde(default)]
    pub lineage: String,
    /// When it was taken, by the runner's clock.
    pub time_ms: i64,
    /// The job whose engine wrote it.
    pub job: String,
    /// The instance of the runner.
    #[serde(default)]
    pub instance: String,
    /// Who made that job.
    #[serde(default)]
    pub person: String,
    /// Bytes of the state.
    pub bytes: u64,
    /// Resources that it manages.
    #[serde(default)]
    pub resources: u32,
    /// Of the state, keyed: of two versions that are the same it is the same.
    pub digest: String,
    /// Which key it is sealed with: a fingerprint.
    pub key: String,
    /// The version that was gone back to; 0: none.
    #[serde(default)]
    pub copy_of: u64,
    /// Why, in the words of whoever did.
    #[serde(default)]
    pub reason: String,
}

/// Who has the lock of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What the engine says of it, in its own form.
    pub info: serde_json::Value,
    /// The job whose engine it is.
    pub job: String,
    /// The instance of the runner.
    #[serde(default)]
    pub instance: String,
    /// Who made that job.
    #[serde(default)]
    pub person: String,
    /// When it was given, by the runner's clock.
    #[serde(default)]
    pub time_ms: i64,
}

/// Why a version cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It has no head that can be read.
    #[error("it has no whole head")]
    Head,
    /// It is sealed with another key.
    #[error("it is sealed with another key than this runner has for the stack")]
    Key,
    /// It does not open: it was changed, cut off, or is another stack's or version's.
    #[error("it was changed or cut off, or belongs in another place")]
    Sealed,
}

// === impl Root ===

impl Root {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn make() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self(bytes))
    }
    /// As its file has it: hexadecimal digits. None: it is none.
    pub fn from_text(text: &str) -> Option<Self> {
        let digits = text.trim();
        let is_one = digits.len() == 2 * KEY && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let bytes = Zeroizing::new(hex::decode(digits));
        is_one.then(|| key(&bytes)).flatten().map(Self)
    }
    /// For its file.
    pub fn text(&self) -> Secret {
        Secret::new(hex::encode(*self.0))
    }
    /// The key of one stack.
    pub fn of_stack(&self, stack: &str) -> Key {
        Key(derived(&self.0, "stack", stack.as_bytes()))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

// === impl Key ===

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Key {
    /// From its bytes. None: they are too many or too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        key(bytes).map(Self)
    }
    /// For whoever is to have it.
    pub fn bytes(&self) -> &[u8] {
        &*self.0
    }
    /// By which a file says that it is sealed with this key: it gives nothing of it away.
    pub fn fingerprint(&self) -> String {
        hex::encode(&derived(&self.0, "fingerprint", b"")[..8])
    }
    /// What a job's engine shows to be let to the state: the same for every process of the job, and no other job's.
    pub fn token(&self, job: &str) -> Secret {
        Secret::new(hex::encode(*derived(&self.0, "token", job.as_bytes())))
    }
    /// The digest of a state for its head.
    pub fn digest(&self, state: &[u8]) -> String {
        hex::encode(*derived(&self.0, "digest", state))
    }

    /// Seals a state under its head: what comes first in the file, and what comes then. None: the head is too long.
    pub fn seal(&self, stack: &str, head: &Head, mut state: Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut first = MAGIC.to_vec();
        serde_json::to_writer(&mut first, head).ok()?;
        first.push(b'\n');
        if first.len() > HEAD_MAX {
            return None;
        }
        let bound = bound(stack, &first);
        let nonce = self.sealing()?.seal_in_place_append_tag(Aad::from(bound), &mut state).ok()?;
        first.extend(nonce.as_ref());
        Some((first, state))
    }

    /// Opens the file of the version of that number.
    ///
    /// # Errors
    /// It is not that version of that stack's, as it was sealed with this key.
    pub fn open(&self, stack: &str, number: u64, mut file: Vec<u8>) -> Result<(Head, Vec<u8>), Broken> {
        let (head, end) = head(&file).ok_or(Broken::Head)?;
        if head.key != self.fingerprint() {
            return Err(Broken::Key);
        }
        let start = end + NONCE;
        let nonce = file.get(end..start).and_then(|nonce| Nonce::try_assume_unique_for_key(nonce).ok());
        let (Some(nonce), true) = (nonce, head.number == number) else { return Err(Broken::Sealed) };
        let bound = bound(stack, &file[..end]);
        let opening = self.sealing().ok_or(Broken::Sealed)?;
        let length =
            opening.open_in_place(nonce, Aad::from(bound), &mut file[start..]).map_err(|_| Broken::Sealed)?.len();
        file.drain(..start);
        file.truncate(length);
        Ok((head, file))
    }

    fn sealing(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &*derived(&self.0, "seal", b"")).ok()
    }
}

// === impl Held ===

impl Held {
    /// The lock's id; empty: the engine gave none.
    pub fn id(&self) -> &str {
        self.info["ID"].as_str().unwrap_or_default()
    }
    /// As a job's result has it, where whoever had it is gone: who says so is the one that serves the state. What the engine says of it is cut
    /// at 1 KiB each.
    pub fn left(&self) -> StateLock {
        let text = |name: &str| {
            let text = self.info[name].as_str().unwrap_or_default();
            text[..text.floor_char_boundary(TOLD_MAX)].replace(char::is_control, "")
        };
        StateLock {
            id: text("ID"),
            path: text("Path"),
            operation: text("Operation"),
            who: text("Who"),
            version: text("Version"),
            created: text("Created"),
            created_ms: self.time_ms,
            job: self.job.clone(),
            holder_gone: true,
        }
    }
}

/// Whether a lock's id can be a word of a command as it is. Those of engines are UUIDs; whoever has the token of a job's state may give another.
pub fn is_plain_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !id.starts_with('-')
}

/// The command that removes a lock, for people to copy.
pub fn unlock_in_words(id: &str) -> String {
    let id = if is_plain_id(id) { id } else { "ID" };
    format!("`runnerctl state unlock STACK {id} --reason TEXT`")
}

/// What is said of a lock that a job's engine has left in the runner's own store: with what to do about it.
pub fn left_in_words(lock: &StateLock) -> String {
    let command = unlock_in_words(&lock.id);
    format!("It has left the lock of the state (lock {}): look what it has done, then remove it, {command}.", lock.id)
}

/// The head of a version's file, and how long it is. None: there is no whole one.
pub fn head(file: &[u8]) -> Option<(Head, usize)> {
    let file = &file[..file.len().min(HEAD_MAX)];
    let end = file.iter().position(|b| *b == b'\n')? + 1;
    let head = serde_json::from_slice(file[..end].strip_prefix(MAGIC)?).ok()?;
    Some((head, end))
}

/// The name of a version's file: in order where they are sorted as texts.
pub fn file_name(number: u64) -> String {
    format!("{number:012}")
}

/// The number of the version whose file has that name.
pub fn number_of(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number| *number > 0 && file_name(*number) == name)
}

fn bound(stack: &str, head: &[u8]) -> Vec<u8> {
    [stack.as_bytes(), b"\0", head].concat()
}

fn key(bytes: &[u8]) -> Option<Zeroizing<[u8; KEY]>> {
    bytes.try_into().ok().map(Zeroizing::new)
}

/// One key or name out of another, for one purpose.
fn derived(from: &[u8; KEY], purpose: &str, of: &[u8]) -> Zeroizing<[u8; KEY]> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, from));
    context.update(b"runner states: ");
    context.update(purpose.as_bytes());
    context.update(b"\0");
    context.update(of);
    let mut key = Zeroizing::new([0; KEY]);
    // a tag of HMAC-SHA256 is as long
    key.copy_from_slice(context.sign().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root::from_text(&"0a".repeat(KEY)).expect("a key")
    }
    fn sealed(key: &Key, number: u64) -> Vec<u8> {
        let head = Head {
            number,
            serial: Some(7),
            job: "j".into(),
            key: key.fingerprint(),
            digest: "d".into(),
            ..Head::default()
        };
        let (mut file, rest) = key.seal("s1", &head, b"{\"serial\":7}".to_vec()).expect("seals");
        file.extend(rest);
        file
    }

    #[test]
    fn what_was_sealed_opens_as_it_was() {
        let key = root().of_stack("s1");
        let file = sealed(&key, 3);
        let state = b"{\"serial\":7}";
        assert!(!file.windows(state.len()).any(|part| part == state));
        let (head, end) = super::head(&file).expect("a head");
        assert_eq!((head.number, head.serial, file[end - 1]), (3, Some(7), b'\n'));
        let opened = key.open("s1", 3, file).expect("opens");
        assert_eq!((opened.0, opened.1.as_slice()), (head, &state[..]));
    }

    #[test]
    fn what_was_changed_moved_or_cut_does_not_open() {
        let key = root().of_stack("s1");
        let file = sealed(&key, 3);
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(key.open("s1", 3, changed).is_err(), "byte {at}");
            assert!(key.open("s1", 3, file[..at].to_vec()).is_err(), "cut at {at}");
        }
        assert_eq!(key.open("s1", 4, file.clone()), Err(Broken::Sealed), "another number");
        assert_eq!(key.open("s2", 3, file.clone()), Err(Broken::Sealed), "another stack's place");
        assert_eq!(root().of_stack("s2").open("s1", 3, file.clone()), Err(Broken::Key));
        let mut longer = file;
        longer.push(0);
        assert_eq!(key.open("s1", 3, longer), Err(Broken::Sealed));
        assert_eq!(key.open("s1", 3, Vec::new()), Err(Broken::Head));
    }

    #[test]
    fn both_sides_of_the_longest_head() {
        let key = root().of_stack("s1");
        let with = |reason: usize| {
            let head = Head { key: key.fingerprint(), reason: "r".repeat(reason), ..Head::default() };
            key.seal("s1", &head, Vec::new()).map(|(first, _)| first.len() - NONCE)
        };
        let room = HEAD_MAX - with(0).expect("seals");
        assert_eq!((with(room), with(room + 1)), (Some(HEAD_MAX), None));
    }

    #[test]
    fn keys_and_tokens_are_each_ones_own_and_print_nothing() {
        let (root, other) = (root(), Root::make().expect("a key"));
        assert_eq!(Root::from_text(root.text().expose()).expect("a key").text(), root.text());
        let (one, two) = (root.of_stack("s1"), root.of_stack("s2"));
        let tokens = [one.token("j1"), one.token("j2"), two.token("j1"), other.of_stack("s1").token("j1")];
        for (at, token) in tokens.iter().enumerate() {
            assert!(token.expose().len() == 64 && !tokens[..at].contains(token));
        }
        assert_ne!(one.digest(b"a"), two.digest(b"a"));
        let shown = format!("{root:?} {one:?}");
        assert_eq!(shown, "[secret] [secret]");
        for wrong in ["", "0a", &"0a".repeat(KEY + 1), &"0g".repeat(KEY)] {
            assert!(Root::from_text(wrong).is_none(), "{wrong}");
        }
        assert!(Key::from_bytes(one.bytes()).is_some() && Key::from_bytes(b"short").is_none());
    }

    #[test]
    fn files_are_named_by_their_numbers_alone() {
        assert_eq!((number_of("000000000012"), file_name(12).as_str()), (Some(12), "000000000012"));
        for other in ["12", "000000000000", "+00000000012", ".000000000012.new", ""] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
