//! The answer of `Run`, written by hand: a message's bytes are read from the worker's socket into the very buffer that HTTP/2 sends, behind
//! the prefixes of gRPC and of the message, so that nothing is copied on the way.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use prost::Message as _;
use shared_proto::failure::Code;
use shared_proto::v1::{self, operation_output};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// gRPC's prefix: a byte for compression, four for the length.
const PREFIX: usize = 5;
/// A field's tag and its length, at most, bytes: lengths stay under 2 MiB.
const FIELD: usize = 4;

/// A part of the answer.
#[derive(Debug)]
pub(super) enum Item {
    /// A message.
    Data(Bytes),
    /// The last message.
    Last(Bytes),
}

/// The answer's body.
#[derive(Debug)]
pub(super) struct RunBody {
    items: mpsc::Receiver<Item>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Messages,
    Trailers,
    Done,
}

/// What a piece of output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// `OperationOutput.data`.
    Data,
    /// `OperationOutput.stderr`.
    Stderr,
    /// `OperationOutput.head`, encoded as it is.
    Head,
}

// === impl RunBody ===

impl RunBody {
    pub(super) fn new(items: mpsc::Receiver<Item>) -> Self {
        Self { items, state: State::Messages }
    }
}

impl Body for RunBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.state {
            State::Messages => self.items.poll_recv(cx).map(|item| {
                let bytes = match item {
                    Some(Item::Data(bytes)) => bytes,
                    Some(Item::Last(bytes)) => {
                        self.state = State::Trailers;
                        bytes
                    }
                    // its task is gone, by a panic: still one outcome
                    None => {
                        self.state = State::Trailers;
                        outcome(&Code::Internal.on("the supervisor's task for this operation failed").outcome())
                    }
                };
                Some(Ok(Frame::data(bytes)))
            }),
            State::Trailers => {
                self.state = State::Done;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            State::Done => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Done
    }
}

/// The answer around the body.
pub(super) fn response(body: RunBody) -> Response<tonic::body::Body> {
    let mut response = Response::new(tonic::body::Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A message with this outcome.
pub(super) fn outcome(outcome: &v1::Outcome) -> Bytes {
    message(operation_output::Kind::Outcome(outcome.clone()))
}

/// A message with this credit.
pub(super) fn flow(credit: u64) -> Bytes {
    message(operation_output::Kind::Flow(v1::Flow { credit }))
}

/// The first message of a worker's: how that is isolated, and its first credit.
pub(super) fn taken(isolation: &str, credit: u64) -> Bytes {
    let kind = Some(operation_output::Kind::Flow(v1::Flow { credit }));
    encoded(&v1::OperationOutput { kind, isolation_level: isolation.to_owned() })
}

fn message(kind: operation_output::Kind) -> Bytes {
    encoded(&v1::OperationOutput { kind: Some(kind), ..Default::default() })
}

fn encoded(message: &v1::OperationOutput) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    prefix(&mut bytes, length);
    // fails only for want of room, and there is just enough
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn prefix(bytes: &mut BytesMut, length: usize) {
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
}

/// A buffer with everything before a piece's `length` bytes in it, and room for just those.
pub(super) fn piece(kind: Piece, length: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(PREFIX + FIELD + length);
    let digits = match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => 3,
    };
    prefix(&mut bytes, 1 + digits + length);
    bytes.put_u8(match kind {
        Piece::Data => 2 << 3 | 2,
        Piece::Stderr => 3 << 3 | 2,
        Piece::Head => 5 << 3 | 2,
    });
    prost::encoding::encode_varint(length as u64, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_the_message_that_prost_would_write() {
        for length in [0, 1, 127, 128, 16_383, 16_384, shared_proto::bounds::DATA_MAX] {
            let content = Bytes::from(vec![7; length]);
            for (kind, theirs) in [
                (Piece::Data, operation_output::Kind::Data(content.clone())),
                (Piece::Stderr, operation_output::Kind::Stderr(content.clone())),
            ] {
                let mut ours = piece(kind, length);
                ours.extend_from_slice(&content);
                assert_eq!(ours.freeze(), message(theirs), "{length}");
            }
        }
        let head =
            v1::HttpHead { status: 200, headers: vec![v1::HttpHeader { name: "a".into(), value: vec![7; 300] }] };
        let mut ours = piece(Piece::Head, head.encoded_len());
        head.encode(&mut ours).expect("fits");
        assert_eq!(ours.freeze(), message(operation_output::Kind::Head(head)));
    }
}
