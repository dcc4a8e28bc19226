//! The framing of a worker's inherited socket: a header of four bytes, then the content.
//!
//! ```text
//! byte 0     kind
//! bytes 1-3  length of the content, little endian
//! ```
//! Data frames carry plain bytes, so that the supervisor passes them on in pieces as large as the reader's credit allows,
//! without decoding anything. Every kind has its own largest length; a longer frame ends the worker.

use bytes::{Bytes, BytesMut};
use prost::Message;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To a worker, first: its encoded request (`WorkerRequest`, `ResolveRequest`, `JobStart`).
    Request = 1,
    /// Standard input to a worker, or data from it: plain bytes.
    Data = 2,
    /// Standard error from a worker: plain bytes.
    Stderr = 3,
    /// To a worker: an encoded `TerminalSize`.
    Resize = 4,
    /// To a worker: no more standard input will come.
    StdinClosed = 5,
    /// From a worker, last: an encoded `Outcome` (or `ResolveReply`).
    Outcome = 6,
    /// On a job's control socket: an encoded `JobControl` or `JobNotice`.
    Control = 7,
    /// From a worker, before any data: the encoded `HttpHead` of an answer that is passed on.
    Head = 8,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// How many bytes follow.
    pub length: usize,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// More than the kind allows.
    #[error("a frame of kind {kind:?} is {length} bytes long, the limit is {limit}")]
    TooLong {
        /// The frame's kind.
        kind: Kind,
        /// What its header says.
        length: usize,
        /// What it may be.
        limit: usize,
    },
    /// Another kind was due.
    #[error("a frame of kind {found:?} came where {expected:?} was due")]
    Unexpected {
        /// What was due.
        expected: Kind,
        /// What came.
        found: Kind,
    },
    /// The content is not the message that its kind says.
    #[error("the content of a frame is malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The socket failed or ended within a frame.
    #[error("the socket ended: {0}")]
    Io(#[from] io::Error),
}

// === impl Kind ===

impl Kind {
    /// The largest content of this kind, bytes.
    pub const fn limit(self) -> usize {
        match self {
            // a request, its credentials and, for a job, its variables
            Self::Request => 4 * 1024 * 1024,
            Self::Data | Self::Stderr => crate::bounds::DATA_MAX,
            Self::Resize | Self::StdinClosed => 64,
            // an outcome is small; a resolver's reply carries certificates
            Self::Outcome => 256 * 1024,
            Self::Control => 4 * 1024,
            Self::Head => crate::bounds::HEAD_MAX,
        }
    }
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Data,
            3 => Self::Stderr,
            4 => Self::Resize,
            5 => Self::StdinClosed,
            6 => Self::Outcome,
            7 => Self::Control,
            8 => Self::Head,
            _ => return None,
        })
    }
}

// === impl Header ===

impl Header {
    /// The length of an encoded header.
    pub const SIZE: usize = 4;

    /// A header for content of that length.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] above the kind's limit.
    pub fn new(kind: Kind, length: usize) -> Result<Self, FrameError> {
        let limit = kind.limit();
        if length > limit { Err(FrameError::TooLong { kind, length, limit }) } else { Ok(Self { kind, length }) }
    }
    /// As it stands on the socket.
    pub fn encode(self) -> [u8; Self::SIZE] {
        let l = (self.length as u32).to_le_bytes();
        [self.kind as u8, l[0], l[1], l[2]]
    }
    /// From the socket.
    ///
    /// # Errors
    /// An unknown kind, or a length above the kind's limit.
    pub fn decode(bytes: [u8; Self::SIZE]) -> Result<Self, FrameError> {
        let kind = Kind::from_byte(bytes[0]).ok_or(FrameError::UnknownKind(bytes[0]))?;
        Self::new(kind, u32::from_le_bytes([bytes[1], bytes[2], bytes[3], 0]) as usize)
    }
}

/// Reads a header; `None` at a clean end of the socket.
///
/// # Errors
/// What [`Header::decode`] says, and an end within the header.
pub async fn read_header<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Header>, FrameError> {
    let mut bytes = [0; Header::SIZE];
    let mut have = 0;
    while have < bytes.len() {
        match reader.read(&mut bytes[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => have += n,
        }
    }
    Header::decode(bytes).map(Some)
}

/// Reads a whole frame; `None` at a clean end of the socket.
///
/// # Errors
/// As [`read_header`], and an end within the content.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<(Kind, Bytes)>, FrameError> {
    let Some(header) = read_header(reader).await? else { return Ok(None) };
    let mut content = BytesMut::zeroed(header.length);
    reader.read_exact(&mut content).await?;
    Ok(Some((header.kind, content.freeze())))
}

/// Reads a frame that must be of one kind and carry one message; `None` at a clean end of the socket.
///
/// # Errors
/// As [`read`]; another kind; a malformed message.
pub async fn read_message<M: Message + Default, R: AsyncRead + Unpin>(
    reader: &mut R,
    expected: Kind,
) -> Result<Option<M>, FrameError> {
    match read(reader).await? {
        None => Ok(None),
        Some((found, _)) if found != expected => Err(FrameError::Unexpected { expected, found }),
        Some((_, content)) => Ok(Some(M::decode(content)?)),
    }
}

/// Writes a frame; does not flush.
///
/// # Errors
/// Content above the kind's limit; a socket that ended.
pub async fn write<W: AsyncWrite + Unpin>(writer: &mut W, kind: Kind, content: &[u8]) -> Result<(), FrameError> {
    let header = Header::new(kind, content.len())?.encode();
    if content.len() <= 4096 {
        // one write for a small frame: its reader wakes once
        let mut whole = [0; Header::SIZE + 4096];
        whole[..Header::SIZE].copy_from_slice(&header);
        whole[Header::SIZE..Header::SIZE + content.len()].copy_from_slice(content);
        writer.write_all(&whole[..Header::SIZE + content.len()]).await?;
    } else {
        writer.write_all(&header).await?;
        writer.write_all(content).await?;
    }
    Ok(())
}

/// Writes a frame that carries one message; does not flush.
///
/// # Errors
/// As [`write()`].
pub async fn write_message<M: Message, W: AsyncWrite + Unpin>(
    writer: &mut W,
    kind: Kind,
    message: &M,
) -> Result<(), FrameError> {
    write(writer, kind, &message.encode_to_vec()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_sides_of_every_limit() {
        for kind in [
            Kind::Request,
            Kind::Data,
            Kind::Stderr,
            Kind::Resize,
            Kind::StdinClosed,
            Kind::Outcome,
            Kind::Control,
            Kind::Head,
        ] {
            let content = vec![7; kind.limit()];
            let (mut a, mut b) = tokio::io::duplex(kind.limit() + Header::SIZE);
            write(&mut a, kind, &content).await.expect("at the limit");
            let (found, back) = read(&mut b).await.expect("reads").expect("a frame");
            assert!(found == kind && back == content);
            assert!(matches!(write(&mut a, kind, &vec![7; kind.limit() + 1]).await, Err(FrameError::TooLong { .. })));
            let mut header = Header { kind, length: kind.limit() + 1 }.encode();
            assert!(matches!(Header::decode(header), Err(FrameError::TooLong { .. })));
            header[0] = 99;
            assert!(matches!(Header::decode(header), Err(FrameError::UnknownKind(99))));
        }
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_error_and_one_between_frames_is_not() {
        let mut whole = Header::new(Kind::Data, 3).expect("short").encode().to_vec();
        whole.extend(b"abc");
        for cut in 0..whole.len() {
            let result = read(&mut &whole[..cut]).await;
            match cut {
                0 => assert!(matches!(result, Ok(None))),
                _ => assert!(matches!(result, Err(FrameError::Io(_))), "cut at {cut}"),
            }
        }
    }
}
