//! Recordings of terminals: asciicast v2, encrypted to a key of the customer's while they are made. The runner cannot read what it wrote.
//!
//! ```text
//! file    "RNREC001" │ SHA-256 of the recipient's public key, 32 bytes │ ephemeral X25519 public key, 32 bytes │ chunk*
//! chunk   length u32 LE │ AES-256-GCM ciphertext with its tag, that many bytes: at most 64 KiB and 16 bytes
//! key     HKDF-SHA256 of the X25519 secret; salt: ephemeral key, recipient's key; info: "runner-recording-v1"
//! nonce   number of the chunk from 0, 11 bytes, big-endian │ 1 in the last chunk, 0 in every other
//! ```
//! Each file has a key of its own, so numbers are good nonces. A chunk that is left out, doubled or moved does not decrypt, and a file
//! that was cut off has no last chunk.

use super::line::Digest;
pub use super::playback::{Decrypted, decrypt};
use super::recipient::public;
pub use super::recipient::{Recipient, RecipientKey};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The most that a chunk holds, bytes.
pub const CHUNK_MAX: usize = 64 << 10;
/// The longest title and command of a recording, bytes.
pub const TITLE_MAX: usize = 1024;
pub(super) const MAGIC: &[u8; 8] = b"RNREC001";
pub(super) const FAMILY: &[u8] = b"RNREC00";
const INFO: &[u8] = b"runner-recording-v1";
pub(super) const TAG: usize = 16;
/// A chunk is written when it has so much, or when [`Recorder::flush`] is called: what a crash may lose.
const FLUSH_BYTES: usize = 32 << 10;
/// The longest text of one event, bytes: what is longer is several of the same time.
const TEXT_MAX: usize = 4 << 10;
/// Each byte takes six in JSON at most.
const _: () = assert!(6 * TEXT_MAX + 64 < FLUSH_BYTES && 6 * 2 * TITLE_MAX + 256 < FLUSH_BYTES);

/// Why something was not recorded or read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The file cannot be made or written.
    #[error("recording {}: {}", .0.display(), .1)]
    File(PathBuf, Arc<io::Error>),
    /// What is read or written to cannot be.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// A key is none, or of another kind.
    #[error("it is no key for recordings: {0}")]
    Key(&'static str),
    /// The recording has reached its limit, bytes.
    #[error("the recording has reached its limit of {0} bytes")]
    Full(u64),
    /// Nothing could be encrypted.
    #[error("the recording could not be encrypted")]
    Encrypt,
    /// It does not start as a recording does.
    #[error("it is no recording")]
    NotOne,
    /// It is of another version: by the character that says which.
    #[error("it is a recording of version {0:?}, and this program knows version 1")]
    Version(char),
    /// It was encrypted to another key: the fingerprints of that one and of the one that was given.
    #[error("it was encrypted to the key {}, and the one that was given is {}", .0[0], .0[1])]
    OtherKey(Box<[Digest; 2]>),
    /// A chunk is not what was written.
    #[error("the recording was changed: chunk {chunk}, at byte {offset}, does not decrypt")]
    Damaged {
        /// Which chunk; the first is 0.
        chunk: u64,
        /// Where it starts.
        offset: u64,
    },
}

/// What a recording is of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Columns of the terminal.
    pub width: u16,
    /// Its rows.
    pub height: u16,
    /// What is shown as the title; cut at [`TITLE_MAX`] bytes.
    pub title: Option<String>,
    /// The command; cut at [`TITLE_MAX`] bytes.
    pub command: Option<String>,
}

/// What is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What was shown.
    Output(Bytes),
    /// What was shown, from standard error where that is apart.
    Stderr(Bytes),
    /// What was typed. It may hold passwords that are not shown.
    Input(Bytes),
    /// The terminal has another size.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// Records one session into one file, which is locked as long as this lives.
pub struct Recorder {
    path: PathBuf,
    file: File,
    key: LessSafeKey,
    chunks: u64,
    plain: Vec<u8>,
    hash: Sha256,
    bytes: u64,
    max: u64,
    start: Instant,
    output: Partial,
    stderr: Partial,
    input: Partial,
    failed: Option<RecordingError>,
}

/// A recording that has ended. Its file stays locked as long as this lives.
#[derive(Debug)]
pub struct Recorded {
    /// Its file.
    pub path: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
    /// SHA-256 of the file: what the log is told.
    pub sha256: Digest,
    /// How long the session was, milliseconds.
    pub ms: u64,
    _lock: File,
}

/// The start of a character whose rest has not come.
#[derive(Default)]
struct Partial(Vec<u8>);

/// The key of one file: from our half, the other's, and both public halves.
pub(super) fn file_key(
    ours: &PrivateKey,
    theirs: &[u8; 32],
    ephemeral: &[u8; 32],
    recipient: &[u8; 32],
) -> Result<LessSafeKey, RecordingError> {
    let theirs = UnparsedPublicKey::new(&X25519, theirs);
    agree(ours, theirs, RecordingError::Key("it has no secret in common with any other"), |secret| {
        let salt = Salt::new(HKDF_SHA256, &[&ephemeral[..], recipient].concat());
        let key = salt.extract(secret);
        let key = key.expand(&[INFO], &AES_256_GCM).map_err(|_| RecordingError::Encrypt)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    })
}

pub(super) fn nonce(chunk: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&chunk.to_be_bytes());
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

// === impl Recorder ===

impl Recorder {
    /// Begins a recording in a new file with mode 0600, of at most `max` bytes.
    ///
    /// # Errors
    /// The file is there already or cannot be made; the recipient's key is a bad one.
    pub fn create(path: &Path, to: Recipient, header: &Header, max: u64) -> Result<Self, RecordingError> {
        let fail = |e| RecordingError::File(path.to_owned(), Arc::new(e));
        let ours = PrivateKey::generate(&X25519).map_err(|_| RecordingError::Encrypt)?;
        let ephemeral = public(&ours)?;
        let key = file_key(&ours, &to.0, &ephemeral, &to.0)?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
        // by which another process knows that it is being written
        file.try_lock().map_err(|e| fail(e.into()))?;
        let mut recorder = Self {
            path: path.to_owned(),
            file,
            key,
            chunks: 0,
            plain: Vec::with_capacity(FLUSH_BYTES),
            hash: Sha256::new(),
            bytes: 0,
            max,
            start: Instant::now(),
            output: Partial::default(),
            stderr: Partial::default(),
            input: Partial::default(),
            failed: None,
        };
        recorder.write(&[&MAGIC[..], &to.named(), &ephemeral].concat())?;
        let text = |text: &Option<String>| text.as_ref().map(|t| t[..t.floor_char_boundary(TITLE_MAX)].to_owned());
        let line = serde_json::json!({
            "version": 2,
            "width": header.width,
            "height": header.height,
            "timestamp": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            "title": text(&header.title),
            "command": text(&header.command),
        });
        recorder.append(&format!("{line}\n"))?;
        recorder.flush()?;
        Ok(recorder)
    }

    /// Records what came at that time, which is not before that of what came before it.
    ///
    /// # Errors
    /// It could not be written, or is above the limit: whether the session goes on without is the caller's.
    pub fn put(&mut self, at: Instant, event: &Event) -> Result<(), RecordingError> {
        let (kind, text) = match event {
            Event::Output(bytes) => ("o", self.output.text(bytes)),
            Event::Stderr(bytes) => ("o", self.stderr.text(bytes)),
            Event::Input(bytes) => ("i", self.input.text(bytes)),
            Event::Resize { width, height } => ("r", format!("{width}x{height}")),
        };
        self.event(at, kind, &text)
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what has come so far. Without this it is written in pieces of 32 KiB.
    ///
    /// # Errors
    /// As [`Recorder::put`].
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        if self.plain.is_empty() { Ok(()) } else { self.chunk(false) }
    }

    /// Ends the recording and waits for the disk.
    ///
    /// # Errors
    /// Its end could not be written.
    pub fn finish(mut self) -> Result<Recorded, RecordingError> {
        let now = Instant::now();
        for (kind, rest) in [("o", self.output.rest()), ("o", self.stderr.rest()), ("i", self.input.rest())] {
            self.event(now, kind, &rest)?;
        }
        self.chunk(true)?;
        self.file.sync_all().map_err(|e| RecordingError::File(self.path.clone(), Arc::new(e)))?;
        let sha256 = Digest::from_bytes(&self.hash.finalize().into());
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Recorded { path: self.path, bytes: self.bytes, sha256, ms, _lock: self.file })
    }

    fn event(&mut self, at: Instant, kind: &str, mut text: &str) -> Result<(), RecordingError> {
        let at = at.saturating_duration_since(self.start);
        while !text.is_empty() {
            let (piece, rest) = text.split_at(text.floor_char_boundary(TEXT_MAX));
            let piece = serde_json::Value::from(piece);
            self.append(&format!("[{}.{:06},\"{kind}\",{piece}]\n", at.as_secs(), at.subsec_micros()))?;
            text = rest;
        }
        Ok(())
    }

    /// Puts a line into the chunk, or into the next one: where a recording stops early, it stops behind a line.
    fn append(&mut self, line: &str) -> Result<(), RecordingError> {
        if self.plain.len() + line.len() > CHUNK_MAX {
            self.chunk(false)?;
        }
        self.plain.extend_from_slice(line.as_bytes());
        if self.plain.len() >= FLUSH_BYTES { self.chunk(false) } else { Ok(()) }
    }

    fn chunk(&mut self, is_last: bool) -> Result<(), RecordingError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut sealed = std::mem::take(&mut self.plain);
        let nonce = nonce(self.chunks, is_last);
        let done = self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed);
        let length = sealed.len() as u32;
        let written = match done {
            Err(_) => Err(RecordingError::Encrypt),
            // the last one always fits: it says that the recording ends here
            Ok(()) if !is_last && self.bytes + 4 + u64::from(length) > self.max => Err(RecordingError::Full(self.max)),
            Ok(()) => self.write(&[&length.to_le_bytes()[..], &sealed].concat()),
        };
        if let Err(e) = &written {
            // behind half a chunk nothing can be read; one that did not fit was never written, and its number is free
            if !matches!(e, RecordingError::Full(_)) {
                self.failed = Some(e.clone());
            }
            return written;
        }
        self.chunks += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        self.file.write_all(bytes).map_err(|e| RecordingError::File(self.path.clone(), Arc::new(e)))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({}, {} bytes)", self.path.display(), self.bytes)
    }
}

// === impl Partial ===

impl Partial {
    /// The text so far; what may become a character stays here.
    fn text(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let whole = match self.0.utf8_chunks().last() {
            // at most three bytes
            Some(last) if is_start(last.invalid()) => self.0.len() - last.invalid().len(),
            _ => self.0.len(),
        };
        let rest = self.0.split_off(whole);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }

    /// What has not become one.
    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// Whether these bytes, which are no character, are the start of one.
fn is_start(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}
