//! From the worker's socket to the tunnel. A piece is read only once there is credit for it: what the reader does not take stays in the worker.

use super::body::{self, Item, Piece};
use bytes::BufMut as _;
use prost::Message as _;
use shared_proto::flow::Credit;
use shared_proto::frame::{self, FrameError, Header, Kind};
use shared_proto::v1;
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;

/// Read ahead from the socket, bytes: headers and small frames come along with others. Large ones go past it.
const READ_AHEAD: usize = 4 * 1024;

/// Passes frames until the outcome. An error is what is wrong with the worker, in words.
pub(super) async fn pass<R: AsyncRead + Unpin>(
    socket: R,
    credit: Credit,
    items: &mpsc::Sender<Item>,
) -> Result<v1::Outcome, String> {
    let mut socket = BufReader::with_capacity(READ_AHEAD, socket);
    let ended = |e: FrameError| format!("it sent what no worker sends: {e}");
    loop {
        let header = frame::read_header(&mut socket).await.map_err(ended)?;
        let Some(Header { kind, length }) = header else {
            return Err("it closed its socket without an outcome".to_owned());
        };
        let piece = match kind {
            Kind::Data => Piece::Data,
            Kind::Stderr => Piece::Stderr,
            Kind::Outcome => {
                let mut content = vec![0; length];
                socket.read_exact(&mut content).await.map_err(|e| ended(e.into()))?;
                return v1::Outcome::decode(&content[..]).map_err(|e| ended(e.into()));
            }
            found => return Err(ended(FrameError::Unexpected { expected: Kind::Data, found })),
        };
        let mut left = length;
        while left > 0 {
            let Some(now) = credit.take(left).await else { return Err("its reader is gone".to_owned()) };
            let bytes = body::piece(piece, now);
            let mut room = bytes.limit(now);
            while room.has_remaining_mut() {
                let read = socket.read_buf(&mut room).await.map_err(|e| ended(e.into()))?;
                if read == 0 {
                    return Err("its socket ended within a frame".to_owned());
                }
            }
            left -= now;
            if items.send(Item::Data(room.into_inner().freeze())).await.is_err() {
                return Err("its reader is gone".to_owned());
            }
        }
    }
}
