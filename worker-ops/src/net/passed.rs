//! Requests of others that are passed on: their bodies piece by piece, and what of their headers is between two hops alone.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use shared_proto::failure::Code;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

use crate::fault::Fault;
use crate::socket::{Incoming as Input, Input as Inputs};

/// Headers of one connection: RFC 9110, 7.6.1.
const OF_ONE_CONNECTION: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header, in lower case, is of one connection and goes no further.
pub(crate) fn of_one_connection(name: &str) -> bool {
    OF_ONE_CONNECTION.contains(&name)
}

/// Passes standard input into the request's body. Returns only where the caller's side is at fault.
pub(crate) async fn feed(input: &mut Inputs, into: mpsc::Sender<Bytes>) -> Fault {
    let mut into = Some(into);
    loop {
        match input.next().await {
            Ok(Some(Input::Stdin(bytes))) => {
                if let Some(open) = &into
                    && open.send(bytes).await.is_err()
                {
                    // the target has answered before it had all
                    into = None;
                }
            }
            Ok(Some(Input::StdinClosed)) => into = None,
            Ok(Some(Input::Resize { .. })) => {}
            // the end of the socket is the caller's cancel, and is watched elsewhere
            Ok(None) => return std::future::pending().await,
            Err(error) => return Fault::new(Code::Internal, error.to_string()),
        }
    }
}

/// A request's body, as it comes in. Without pieces there is none.
pub(crate) struct Passed {
    pub(crate) pieces: Option<mpsc::Receiver<Bytes>>,
    pub(crate) length: Option<u64>,
}

impl Body for Passed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.pieces {
            Some(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
            None => Poll::Ready(None),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.pieces.is_none()
    }
    fn size_hint(&self) -> SizeHint {
        match (&self.pieces, self.length) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(length)) => SizeHint::with_exact(length),
            (Some(_), None) => SizeHint::default(),
        }
    }
}
