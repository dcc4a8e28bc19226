//! Reading recordings: by whoever has the private key, which is not the runner.

use super::line::Digest;
use super::recipient::RecipientKey;
use super::recording::{CHUNK_MAX, FAMILY, MAGIC, RecordingError, TAG, file_key, nonce};
use aws_lc_rs::aead::Aad;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};
use std::sync::Arc;

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
