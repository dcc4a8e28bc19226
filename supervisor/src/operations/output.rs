//! From the worker's socket to the tunnel. A piece is read only once there is credit for it: what the reader does not take stays in the worker.

use super::body::{self, Item, Piece};
use crate::audit::recording::Event;
use crate::recordings::Recording;
use bytes::buf::Limit;
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use shared_proto::failure::Code;
use shared_proto::flow::Credit;
use shared_proto::frame::{self, FrameError, Header, Kind};
use shared_proto::v1;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::{SemaphorePermit, mpsc};

/// Read ahead from the socket, bytes: headers and small frames come along with others. Large ones go past it.
const READ_AHEAD: usize = 4 * 1024;
/// A worker that has sent nothing for this long waits for its target: it has started.
const STARTING_MAX: Duration = Duration::from_secs(1);

/// What is wrong with the worker, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Its socket has ended: so has it, or will at once, and its end says more.
    Ended(String),
    /// It sent what no worker sends, and may go on for ever.
    Malformed(String),
}

// === impl Broken ===

impl From<FrameError> for Broken {
    fn from(e: FrameError) -> Self {
        match e {
            FrameError::Io(e) => Self::Ended(format!("its socket ended early: {e}")),
            e => Self::Malformed(format!("the worker sent what no worker sends: {e}")),
        }
    }
}

/// The first header; until it comes, and no longer than a start takes, the worker counts as starting.
async fn first_header<R: AsyncRead + Unpin>(
    socket: &mut R,
    starting: Option<SemaphorePermit<'_>>,
) -> Result<Option<Header>, FrameError> {
    let mut header = std::pin::pin!(frame::read_header(socket));
    if let Ok(header) = tokio::time::timeout(STARTING_MAX, &mut header).await {
        return header;
    }
    drop(starting);
    header.await
}

/// Its last word, if it is one that there is.
fn ended(outcome: v1::Outcome) -> Result<v1::Outcome, Broken> {
    if outcome.code == "ok" || Code::from_name(&outcome.code).is_some() {
        return Ok(outcome);
    }
    Err(Broken::Malformed("the worker ended by a code that there is not".to_owned()))
}

/// What is told of what passes.
pub(super) struct Around<'a> {
    pub(super) moved: &'a AtomicU64,
    /// Where it is recorded.
    pub(super) recording: Option<&'a Recording>,
    /// Whether any of it went on.
    pub(super) begun: &'a mut bool,
}

/// Passes frames until the outcome.
pub(super) async fn pass<R: AsyncRead + Unpin>(
    socket: R,
    credit: Credit,
    items: &mpsc::Sender<Item>,
    starting: Option<SemaphorePermit<'_>>,
    Around { moved, recording, begun }: Around<'_>,
) -> Result<v1::Outcome, Broken> {
    let mut socket = BufReader::with_capacity(READ_AHEAD, socket);
    let mut first = Some(first_header(&mut socket, starting).await?);
    loop {
        let header = match first.take() {
            Some(header) => header,
            None => frame::read_header(&mut socket).await?,
        };
        let Some(Header { kind, length }) = header else {
            return Err(Broken::Ended("it closed its socket without an outcome".to_owned()));
        };
        let piece = match kind {
            Kind::Data => Piece::Data,
            Kind::Stderr => Piece::Stderr,
            Kind::Outcome => {
                let mut content = vec![0; length];
                socket.read_exact(&mut content).await.map_err(FrameError::from)?;
                return ended(v1::Outcome::decode(&content[..]).map_err(FrameError::from)?);
            }
            // one, and small: it costs no credit
            Kind::Head if !*begun => Piece::Head,
            found => return Err(FrameError::Unexpected { expected: Kind::Data, found }.into()),
        };
        *begun = true;
        if piece == Piece::Head {
            let mut bytes = body::piece(piece, length).limit(length);
            read_whole(&mut socket, &mut bytes).await?;
            send(items, bytes.into_inner().freeze()).await?;
            continue;
        }
        let mut left = length;
        while left > 0 {
            let Some(now) = credit.take(left).await else { return Err(Broken::Ended("its reader is gone".to_owned())) };
            let bytes = body::piece(piece, now);
            let content = bytes.len();
            let mut bytes = bytes.limit(now);
            read_whole(&mut socket, &mut bytes).await?;
            left -= now;
            moved.fetch_add(now as u64, Ordering::Relaxed);
            let bytes = bytes.into_inner().freeze();
            if let Some(recording) = recording {
                let shown = bytes.slice(content..);
                // before anybody sees it
                recording.put(if piece == Piece::Stderr { Event::Stderr(shown) } else { Event::Output(shown) }).await;
            }
            send(items, bytes).await?;
        }
    }
}

/// Fills the room that there is.
async fn read_whole<R: AsyncRead + Unpin>(socket: &mut R, room: &mut Limit<BytesMut>) -> Result<(), Broken> {
    while room.has_remaining_mut() {
        if socket.read_buf(room).await.map_err(FrameError::from)? == 0 {
            return Err(Broken::Ended("its socket ended within a frame".to_owned()));
        }
    }
    Ok(())
}

async fn send(items: &mpsc::Sender<Item>, bytes: Bytes) -> Result<(), Broken> {
    items.send(Item::Data(bytes)).await.map_err(|_| Broken::Ended("its reader is gone".to_owned()))
}
