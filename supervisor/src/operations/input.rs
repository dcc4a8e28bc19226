//! From the tunnel to the worker's socket. HTTP/2 is read always and at once; what the worker has not taken yet is what we granted.

use super::body::{self, Item};
use super::request::check_terminal;
use crate::audit::recording::Event;
use crate::recordings::Recording;
use bytes::buf::Chain;
use bytes::{Buf as _, Bytes};
use prost::Message as _;
use shared_proto::bounds::DATA_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::flow::{Credit, Window, cost};
use shared_proto::frame::{Header, Kind};
use shared_proto::v1::{self, operation_input};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tonic::Streaming;

/// Messages without a cost (resizes, the end of standard input) that wait at once: nobody types so fast.
const FREE_MAX: usize = 256;

/// What waits to be written.
struct Pending {
    /// Header and content.
    bytes: Chain<Bytes, Bytes>,
    /// What is granted again once it is written.
    cost: u64,
    free: bool,
}

/// What bounds a message, and what is told of it.
pub(super) struct Around<'a> {
    pub(super) credit: &'a Credit,
    pub(super) items: &'a mpsc::Sender<Item>,
    pub(super) moved: &'a AtomicU64,
    /// Where it is recorded.
    pub(super) recording: Option<&'a Recording>,
}

/// Passes messages until something is wrong with them. Their end is no end of the operation: the worker goes on.
pub(super) async fn pass<W: AsyncWrite + Unpin>(
    input: &mut Streaming<v1::OperationInput>,
    mut socket: W,
    window: &mut Window,
    Around { credit, items, moved, recording }: Around<'_>,
) -> Failure {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let (mut open, mut stdin_open, mut writable) = (true, true, true);
    loop {
        if !open && (pending.is_empty() || !writable) {
            // nothing more can come of it
            return std::future::pending().await;
        }
        tokio::select! {
            message = input.message(), if open => match message {
                Ok(Some(message)) => match message.kind {
                    Some(operation_input::Kind::Flow(flow)) => credit.grant(flow.credit),
                    Some(operation_input::Kind::Stdin(bytes)) => {
                        if bytes.len() > DATA_MAX {
                            return Code::TooLarge.on(format!("a message carries {} bytes, the limit is {DATA_MAX}", bytes.len()));
                        }
                        if let Err(overrun) = window.received(cost(bytes.len())) {
                            return Code::FlowViolation.on(format!("standard input: {overrun}"));
                        }
                        if stdin_open {
                            moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                            if let Some(recording) = recording {
                                recording.put(Event::Input(bytes.clone())).await;
                            }
                            push(&mut pending, Kind::Data, bytes);
                        }
                    }
                    Some(operation_input::Kind::Resize(size)) => {
                        if let Err(failure) = check_terminal(&size) {
                            return failure;
                        }
                        if let Some(recording) = recording {
                            recording.put(resized(&size)).await;
                        }
                        push(&mut pending, Kind::Resize, size.encode_to_vec().into());
                    }
                    Some(operation_input::Kind::StdinClosed(_)) => {
                        stdin_open = false;
                        push(&mut pending, Kind::StdinClosed, Bytes::new());
                    }
                    Some(operation_input::Kind::Request(_)) => return Code::InvalidArgument.on("a second request came on the same stream"),
                    None => return Code::InvalidArgument.on("an empty message, or one of a kind that this runner does not know"),
                },
                Ok(None) => open = false,
                // the answer's way has gone with it, which whoever waits for that notices and tells from a cancel
                Err(status) if super::broke_off(&status) => {
                    tracing::debug!(detail = status.message(), "an operation's input broke off");
                    open = false;
                }
                Err(status) => return super::refused_message(&status),
            },
            written = write(&mut socket, &mut pending), if writable && !pending.is_empty() => match written {
                Ok(0) => {}
                Ok(cost) => match window.consumed(cost) {
                    0 => {}
                    grant => drop(items.send(Item::Data(body::flow(grant))).await),
                },
                // a worker may end before it has read all; its output says how
                Err(_) => {
                    writable = false;
                    pending.clear();
                }
            },
        }
        if pending.iter().filter(|p| p.free).count() > FREE_MAX {
            return Code::FlowViolation
                .on(format!("more than {FREE_MAX} messages wait for a worker that does not read"));
        }
    }
}

/// A size that was checked.
fn resized(size: &v1::TerminalSize) -> Event {
    let within = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    Event::Resize { width: within(size.columns), height: within(size.rows) }
}

fn push(pending: &mut VecDeque<Pending>, kind: Kind, content: Bytes) {
    let Ok(header) = Header::new(kind, content.len()) else { return };
    let cost = if kind == Kind::Data { cost(content.len()) } else { 0 };
    let header = Bytes::copy_from_slice(&header.encode());
    pending.push_back(Pending { bytes: header.chain(content), cost, free: cost == 0 });
}

/// Writes what the socket takes of the first; returns its cost once it is written whole. Nothing is lost where this is dropped.
async fn write<W: AsyncWrite + Unpin>(socket: &mut W, pending: &mut VecDeque<Pending>) -> std::io::Result<u64> {
    let Some(first) = pending.front_mut() else { return Ok(0) };
    // header and content in one system call
    let mut parts = [IoSlice::new(&[]); 2];
    let filled = first.bytes.chunks_vectored(&mut parts);
    let n = socket.write_vectored(&parts[..filled]).await?;
    if n == 0 {
        return Err(std::io::ErrorKind::WriteZero.into());
    }
    first.bytes.advance(n);
    if !first.bytes.has_remaining() { Ok(pending.pop_front().map_or(0, |p| p.cost)) } else { Ok(0) }
}
