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
use super::recipient::public;
pub use super::recipient::{Recipient, RecipientKey};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most that a chunk holds, bytes.
pub const CHUNK_MAX: usize = 64 << 10;
/// The longest title and command of a recording, bytes.
pub const TITLE_MAX: usize = 1024;
const MAGIC: &[u8; 8] = b"RNREC001";
const FAMILY: &[u8] = b"RNREC00";
const INFO: &[u8] = b"runner-recording-v1";
const TAG: usize = 16;
/// A chunk is written when it has so much, or after so long: what a crash may lose.
const FLUSH_BYTES: usize = 32 << 10;
const FLUSH_AFTER: Duration = Duration::from_secs(1);
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

/// Records one session into one file.
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
    flushed: Instant,
    output: Partial,
    input: Partial,
    failed: Option<RecordingError>,
}

/// A recording that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its file.
    pub path: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
    /// SHA-256 of the file: what the log is told.
    pub sha256: Digest,
    /// How long the session was, milliseconds.
    pub ms: u64,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decrypted {
    /// SHA-256 of the encrypted file, to compare with what the log has.
    pub sha256: Digest,
    /// Bytes of asciicast.
    pub bytes: u64,
    /// It is there to its end. Otherwise it was cut off, or the runner died while it recorded; what there is, is as it was written.
    pub is_whole: bool,
}

/// The start of a character whose rest has not come.
#[derive(Default)]
struct Partial(Vec<u8>);

/// The key of one file: from our half, the other's, and both public halves.
fn file_key(
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

fn nonce(chunk: u64, is_last: bool) -> Nonce {
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
        let now = Instant::now();
        let mut recorder = Self {
            path: path.to_owned(),
            file,
            key,
            chunks: 0,
            plain: Vec::with_capacity(FLUSH_BYTES),
            hash: Sha256::new(),
            bytes: 0,
            max,
            start: now,
            flushed: now,
            output: Partial::default(),
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

    /// What the terminal showed.
    ///
    /// # Errors
    /// It could not be written, or is above the limit: whether the session goes on without is the caller's.
    pub fn output(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        let text = self.output.text(bytes);
        self.event("o", &text)
    }

    /// What was typed. It may hold passwords that are not shown: record it only where that was asked for.
    ///
    /// # Errors
    /// As [`Recorder::output`].
    pub fn input(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        let text = self.input.text(bytes);
        self.event("i", &text)
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// As [`Recorder::output`].
    pub fn resize(&mut self, width: u16, height: u16) -> Result<(), RecordingError> {
        self.event("r", &format!("{width}x{height}"))
    }

    /// Writes what has come so far. Without this it is written after 32 KiB, or with what comes after a second.
    ///
    /// # Errors
    /// As [`Recorder::output`].
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        if self.plain.is_empty() { Ok(()) } else { self.chunk(false) }
    }

    /// Ends the recording and waits for the disk.
    ///
    /// # Errors
    /// Its end could not be written.
    pub fn finish(mut self) -> Result<Recorded, RecordingError> {
        for (kind, rest) in [("o", self.output.rest()), ("i", self.input.rest())] {
            self.event(kind, &rest)?;
        }
        self.chunk(true)?;
        self.file.sync_all().map_err(|e| RecordingError::File(self.path.clone(), Arc::new(e)))?;
        let sha256 = Digest::from_bytes(&self.hash.finalize().into());
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Recorded { path: self.path, bytes: self.bytes, sha256, ms })
    }

    fn event(&mut self, kind: &str, text: &str) -> Result<(), RecordingError> {
        if text.is_empty() {
            return Ok(());
        }
        let at = self.start.elapsed();
        let text = serde_json::Value::from(text);
        self.append(&format!("[{}.{:06},\"{kind}\",{text}]\n", at.as_secs(), at.subsec_micros()))
    }

    fn append(&mut self, line: &str) -> Result<(), RecordingError> {
        for part in line.as_bytes().chunks(CHUNK_MAX - FLUSH_BYTES) {
            self.plain.extend_from_slice(part);
            if self.plain.len() >= FLUSH_BYTES || self.flushed.elapsed() >= FLUSH_AFTER {
                self.chunk(false)?;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, is_last: bool) -> Result<(), RecordingError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut sealed = std::mem::take(&mut self.plain);
        self.flushed = Instant::now();
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

// === reading ===

/// Reads a recording into asciicast v2, in bounded memory. What was written before an error is as it was recorded.
///
/// # Errors
/// It is no recording, is for another key, or was changed; it cannot be read, or what comes out of it cannot be written.
pub fn decrypt(mut from: impl Read, mut to: impl Write, key: &RecipientKey) -> Result<Decrypted, RecordingError> {
    let io = |e| RecordingError::Io(Arc::new(e));
    let mut head = [0; 72];
    let length = fill(&mut from, &mut head).map_err(io)?;
    if length < head.len() || &head[..8] != MAGIC {
        return Err(match head[7] {
            version if length >= 8 && &head[..7] == FAMILY && version != MAGIC[7] => {
                RecordingError::Version(char::from(version))
            }
            _ => RecordingError::NotOne,
        });
    }
    let (named, ephemeral) = (head[8..40].try_into().unwrap_or_default(), head[40..].try_into().unwrap_or_default());
    let recipient = key.recipient()?;
    if named != recipient.named() {
        let keys = [Digest::from_bytes(&named), recipient.fingerprint()];
        return Err(RecordingError::OtherKey(Box::new(keys)));
    }
    let key = file_key(&key.0, &ephemeral, &ephemeral, &recipient.0)?;
    let mut hash = Sha256::new();
    hash.update(head);
    let (mut chunk, mut offset, mut bytes, mut is_whole) = (0, head.len() as u64, 0, false);
    let mut sealed = Vec::new();
    loop {
        let damaged = RecordingError::Damaged { chunk, offset };
        let mut length = [0; 4];
        let got = fill(&mut from, &mut length).map_err(io)?;
        hash.update(&length[..got]);
        if is_whole && got > 0 {
            return Err(damaged);
        }
        if got < 4 {
            break;
        }
        let length = u32::from_le_bytes(length) as usize;
        if !(TAG..=CHUNK_MAX + TAG).contains(&length) {
            return Err(damaged);
        }
        sealed.resize(length, 0);
        let got = fill(&mut from, &mut sealed).map_err(io)?;
        hash.update(&sealed[..got]);
        if got < length {
            break;
        }
        // in place, which leaves nothing of it where it fails
        let mut copy = sealed.clone();
        let plain = match key.open_in_place(nonce(chunk, false), Aad::empty(), &mut sealed) {
            Ok(plain) => plain,
            Err(_) => {
                is_whole = true;
                key.open_in_place(nonce(chunk, true), Aad::empty(), &mut copy).map_err(|_| damaged)?
            }
        };
        to.write_all(plain).map_err(io)?;
        bytes += plain.len() as u64;
        (chunk, offset) = (chunk + 1, offset + 4 + length as u64);
    }
    to.flush().map_err(io)?;
    Ok(Decrypted { sha256: Digest::from_bytes(&hash.finalize().into()), bytes, is_whole })
}

/// Fills the buffer as far as there is something; gives how far.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
