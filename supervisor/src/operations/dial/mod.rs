//! Connections for an operation's worker, which can open none itself: it asks, over a descriptor of its own, and is handed a connected
//! socket (`shared_proto::dial` has the words).
//!
//! ```text
//!   worker ── host, port ──▶ its target's? ─▶ addresses, none forbidden ─▶ TCP, the proxy ──▶ socket ── worker: TLS, HTTP
//!                                 └─ no: refused, and said in the log
//! ```
//! It must never connect to anything but the target that the operation was decided on, whatever the worker says.

mod reach;
mod way;

pub(crate) use reach::Reach;

use crate::config;
use nix::sys::socket::{setsockopt, sockopt};
use runner_sandbox::channel;
use shared_proto::dial::{DIALS_MAX, Malformed, REPLY_MAX, REQUEST_MAX, Reply, Request};
use shared_proto::failure::{Code, Failure};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// What ends the dialling before its time.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the worker asked as no worker does: {0}")]
    Malformed(#[from] Malformed),
    #[error("the worker asked as no worker does: descriptors came with its request")]
    Descriptors,
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// Answers until the worker has closed its end, asks for too much, or asks as no worker does.
/// `own` says what the runner's own proxy is now.
pub(crate) async fn serve(end: OwnedFd, reach: &Reach, own: impl Fn() -> config::Proxy) {
    match answer(end, reach, own).await {
        Ok(()) => {}
        // its end is closed: it may have ended by itself
        Err(Broken::Socket(e)) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
        Err(e) => tracing::warn!(error = %e, "nothing more is connected for this operation"),
    }
}

async fn answer(end: OwnedFd, reach: &Reach, own: impl Fn() -> config::Proxy) -> Result<(), Broken> {
    // one reply at a time is read: a worker that reads none must not have the system hold a crowd of sockets for it
    setsockopt(&end, sockopt::SndBuf, &(2 * REPLY_MAX)).map_err(io::Error::from)?;
    let channel = crate::descriptor::watch(end)?;
    for _ in 0..DIALS_MAX {
        let Some(request) = receive(&channel).await? else { return Ok(()) };
        let connected =
            if reach.allows(&request) { way::connect(&request, reach, &own()).await } else { Err(stray(&request)) };
        reply(&channel, connected).await?;
    }
    let Some(_) = receive(&channel).await? else { return Ok(()) };
    tracing::warn!(limit = DIALS_MAX, "the worker asked for too many connections");
    let failure = Code::TooLarge
        .on(format!("the operation needs more than {DIALS_MAX} connections"))
        .next("Ask for less at once.");
    reply(&channel, Err(failure)).await
}

/// Whoever asks for that is none of our workers, or not any more.
fn stray(request: &Request) -> Failure {
    tracing::warn!(asked = request.shown(), "the worker asked for what is not its connection's target: refused");
    Code::PolicyDenied
        .on(format!(
            "{}: it is not the connection's target, and a worker is connected to nothing else",
            request.shown()
        ))
        .next("Report it, with the runner's log.")
}

/// The next request; `None` once the worker has closed its end.
async fn receive(channel: &AsyncFd<OwnedFd>) -> Result<Option<Request>, Broken> {
    let mut buffer = [0; REQUEST_MAX];
    let received = channel.async_io(Interest::READABLE, |end| channel::receive(end.as_fd(), &mut buffer)).await?;
    if received.length == 0 {
        return Ok(None);
    }
    if !received.descriptors.is_empty() {
        return Err(Broken::Descriptors);
    }
    Ok(Some(Request::decode(&buffer[..received.length])?))
}

/// Says it, and gives the socket away.
async fn reply(channel: &AsyncFd<OwnedFd>, connected: Result<TcpStream, Failure>) -> Result<(), Broken> {
    let (reply, stream) = match connected {
        // it stays non-blocking, and leaves this process's runtime
        Ok(stream) => (Reply::Connected, Some(OwnedFd::from(stream.into_std()?))),
        Err(failure) => (Reply::Failed(failure), None),
    };
    let datagram = reply.encode();
    let descriptors: Vec<_> = stream.iter().map(|s| s.as_fd()).collect();
    Ok(channel.async_io(Interest::WRITABLE, |end| channel::send(end.as_fd(), &datagram, &descriptors)).await?)
}

#[cfg(test)]
mod tests;
