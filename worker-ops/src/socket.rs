//! The inherited socket: frames in, frames out, and the moment at which the other end is gone.

use bytes::Bytes;
use prost::Message;
use shared_proto::failure::Code;
use shared_proto::frame::{self, FrameError, Header, Kind};
use shared_proto::v1::{HttpHead, Outcome, TerminalSize};
use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream as StdUnixStream;
use tokio::io::{AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::fault::Fault;

/// What is read ahead of the socket, bytes: requests and keystrokes. What is longer goes straight to where it is wanted. Whatever there is here
/// every worker touches at its start.
const READ_AHEAD: usize = 8 * 1024;

/// What comes in.
pub(crate) struct Input {
    socket: BufReader<OwnedReadHalf>,
}

/// What goes out. Each write waits until the supervisor has room: that is the back-pressure.
pub(crate) struct Output {
    socket: OwnedWriteHalf,
}

/// Tells when the supervisor has gone, however much unread input there is before the end.
pub(crate) struct Hangup {
    socket: UnixStream,
}

/// What comes in after the request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Stdin(Bytes),
    StdinClosed,
    Resize { columns: u32, rows: u32 },
}

/// Joins the socket to the runtime.
pub(crate) fn open(socket: StdUnixStream) -> io::Result<(Input, Output, Hangup)> {
    // an inherited descriptor comes as whoever made it left it: tokio needs it non-blocking
    socket.set_nonblocking(true)?;
    let watched = UnixStream::from_std(socket.try_clone()?)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    Ok((
        Input { socket: BufReader::with_capacity(READ_AHEAD, read) },
        Output { socket: write },
        Hangup { socket: watched },
    ))
}

// === impl Input ===

impl Input {
    /// The first frame.
    pub(crate) async fn request<M: Message + Default>(&mut self) -> Result<M, FrameError> {
        match frame::read_message(&mut self.socket, Kind::Request).await? {
            Some(request) => Ok(request),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Incoming>, FrameError> {
        let Some((kind, content)) = frame::read(&mut self.socket).await? else { return Ok(None) };
        Ok(Some(match kind {
            Kind::Data => Incoming::Stdin(content),
            Kind::StdinClosed => Incoming::StdinClosed,
            Kind::Resize => {
                let size = TerminalSize::decode(content)?;
                Incoming::Resize { columns: size.columns, rows: size.rows }
            }
            found => return Err(FrameError::Unexpected { expected: Kind::Data, found }),
        }))
    }
}

// === impl Output ===

impl Output {
    /// Sends bytes of the document, the log or standard output, in as many frames as they need.
    pub(crate) async fn data(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.pieces(Kind::Data, bytes).await
    }
    /// Sends the head of an answer that is passed on, before anything else.
    pub(crate) async fn head(&mut self, head: &HttpHead) -> Result<(), Fault> {
        let bytes = head.encode_to_vec();
        if bytes.len() > Kind::Head.limit() {
            let message =
                format!("the head of the answer has {} bytes, the limit is {}", bytes.len(), Kind::Head.limit());
            return Err(Fault::new(Code::TooLarge, message));
        }
        self.write(Kind::Head, &bytes).await.map_err(|error| Fault::new(Code::Cancelled, error.to_string()))
    }
    /// Sends bytes of standard error.
    pub(crate) async fn stderr(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.pieces(Kind::Stderr, bytes).await
    }
    /// Sends the last frame of an operation.
    pub(crate) async fn outcome(&mut self, outcome: &Outcome) -> Result<(), FrameError> {
        self.last(outcome).await
    }
    /// Sends the last frame, whatever message it carries.
    pub(crate) async fn last<M: Message>(&mut self, message: &M) -> Result<(), FrameError> {
        self.write(Kind::Outcome, &message.encode_to_vec()).await?;
        self.socket.flush().await?;
        Ok(())
    }

    async fn pieces(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Fault> {
        for piece in bytes.chunks(kind.limit()) {
            self.write(kind, piece).await.map_err(|error| Fault::new(Code::Cancelled, error.to_string()))?;
        }
        Ok(())
    }

    /// Header and content in one system call where the socket has room for both.
    async fn write(&mut self, kind: Kind, content: &[u8]) -> Result<(), FrameError> {
        let header = Header::new(kind, content.len())?.encode();
        let mut sent = 0;
        while sent < header.len() {
            sent += match self.socket.write_vectored(&[IoSlice::new(&header[sent..]), IoSlice::new(content)]).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                n => n,
            };
        }
        self.socket.write_all(&content[sent - header.len()..]).await?;
        Ok(())
    }
}

// === impl Hangup ===

impl Hangup {
    /// Returns when the supervisor has closed its end.
    pub(crate) async fn gone(&self) {
        loop {
            // readiness for "priority" is the one that is not woken by unread input, yet is by the end of it
            match self.socket.ready(Interest::PRIORITY).await {
                Ok(ready) if ready.is_read_closed() => return,
                Ok(_) => tokio::task::yield_now().await,
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_seen_behind_unread_input() {
        let (ours, theirs) = StdUnixStream::pair().expect("a socketpair");
        let (_input, _output, hangup) = open(ours).expect("opens");
        theirs.set_nonblocking(true).expect("non-blocking");
        let mut theirs = UnixStream::from_std(theirs).expect("joins the runtime");
        frame::write(&mut theirs, Kind::Data, b"unread").await.expect("written");
        let waiting = tokio::spawn(async move { hangup.gone().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(theirs);
        waiting.await.expect("it is seen");
    }

    #[tokio::test]
    async fn long_output_goes_out_in_frames_at_the_limit() {
        let (ours, theirs) = StdUnixStream::pair().expect("a socketpair");
        let (_input, mut output, _hangup) = open(ours).expect("opens");
        theirs.set_nonblocking(true).expect("non-blocking");
        let mut theirs = UnixStream::from_std(theirs).expect("joins the runtime");
        let sent: Vec<u8> = (0..3 * Kind::Data.limit() + 5).map(|n| n as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            output.data(&sent).await.expect("written");
            output.outcome(&crate::fault::done()).await.expect("written");
        });
        let (mut got, mut frames) = (Vec::new(), 0);
        loop {
            let (kind, content) = frame::read(&mut theirs).await.expect("reads").expect("a frame");
            if kind == Kind::Outcome {
                break;
            }
            frames += 1;
            got.extend_from_slice(&content);
        }
        writer.await.expect("ends");
        assert!(got == expected && frames == 4);
    }
}
