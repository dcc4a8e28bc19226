//! How a place elsewhere is asked: one request a connection, tried again where what failed passes by itself. Called from threads that may wait.
//! Whatever comes back is bounded, and of what failed no more is said than where and how: never a header.

use crate::net;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use shared_proto::address::Address;
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::failure::{Code, Failure};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;

/// How long it is tried again what failed of what passes by itself; and how long the first and the longest wait take.
const TRIED_FOR: Duration = Duration::from_secs(30);
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long one request may take, with a content of the largest size.
const WITHIN: Duration = Duration::from_secs(120);

/// Where a place is, and how it is reached.
pub(super) struct Server {
    pub(super) address: Address,
    /// By way of which proxy.
    pub(super) proxy: Option<Address>,
    /// Whom to trust, and as whom; none: it is asked without TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The name in its certificate; empty: its host.
    pub(super) tls_name: String,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The first so many bytes of its content.
    pub(super) content: Vec<u8>,
}

/// Why there is no answer that stays.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may be another in a moment.
    Passes(Failure),
    /// It stays as it is.
    Stays(Failure),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

// === impl Trouble ===

impl Trouble {
    fn failure(self) -> Failure {
        match self {
            Self::Passes(failure) | Self::Stays(failure) => failure,
        }
    }
}

/// Does what may fail of what passes by itself, until it does not, or for too long. `first`: whether this is the first time: what was answered in
/// vain before may have been done.
///
/// # Errors
/// The last [`Failure`], in an error of the system's kind.
pub(super) fn again<T>(mut does: impl FnMut(bool) -> Result<T, Trouble>) -> io::Result<T> {
    let (start, mut wait, mut first) = (Instant::now(), WAIT_FIRST, true);
    loop {
        match does(std::mem::take(&mut first)) {
            Ok(done) => return Ok(done),
            Err(Trouble::Passes(_)) if start.elapsed() + wait < TRIED_FOR => std::thread::sleep(wait),
            Err(trouble) => return Err(io::Error::other(trouble.failure())),
        }
        wait = (wait * 2).min(WAIT_MAX);
    }
}

// === impl Server ===

impl Server {
    /// One request, and of what is answered the first so many bytes.
    pub(super) fn ask(&self, runtime: &Handle, request: Request<Full<Bytes>>, most: usize) -> Result<Answer, Trouble> {
        let passes = |what: &dyn std::fmt::Display| {
            let message = format!("{}: {what}", self.address.shown());
            Trouble::Passes(Code::StateUnusable.on(message).next("Look at that server, and at the way to it."))
        };
        runtime.block_on(async {
            let asking = tokio::time::timeout(WITHIN, self.answer(request, most)).await;
            asking.unwrap_or_else(|_| Err(passes(&format!("no answer within {} s", WITHIN.as_secs()))))
        })
    }

    async fn answer(&self, request: Request<Full<Bytes>>, most: usize) -> Result<Answer, Trouble> {
        let at = self.address.shown();
        let failed = |what: &dyn std::fmt::Display| {
            Code::StateUnusable.on(format!("{at}: {what}")).next("Look at that server, and at the way to it.")
        };
        let passes = |what: &dyn std::fmt::Display| Trouble::Passes(failed(what));
        let connecting = tokio::time::timeout(CONNECT_DEADLINE, self.connect(&failed)).await;
        let stream =
            connecting.unwrap_or_else(|_| Err(passes(&format!("not connected within {CONNECT_DEADLINE:?}"))))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| passes(&e))?;
        // it ends with the body, or with whoever reads it
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|e| passes(&e));
        let read = match answer {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let content = first(body, most).await.map_err(|e| passes(&format!("its answer broke off: {e}")));
                content.map(|content| Answer { status: head.status, headers: head.headers, content })
            }
            Err(trouble) => Err(trouble),
        };
        connection.abort();
        read
    }

    async fn connect(
        &self,
        failed: &(dyn Fn(&dyn std::fmt::Display) -> Failure + Sync),
    ) -> Result<Box<dyn Stream>, Trouble> {
        let Address { host, port, .. } = &self.address;
        // the runner's own configuration says where it is
        let allowed = |_: IpAddr| Ok::<_, Failure>(());
        let caller = net::Caller { allowed: &allowed, failed };
        let stream = net::connect(host, *port, self.proxy.as_ref(), &caller).await.map_err(Trouble::Passes)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = if self.tls_name.is_empty() { host } else { &self.tls_name };
        let name = ServerName::try_from(name.clone())
            .map_err(|_| Trouble::Stays(failed(&"its host cannot be in a certificate")))?;
        match TlsConnector::from(tls.clone()).connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            // whom it does not trust now it does not in a moment
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let next = "Name who issued its certificate: jobs.states.ca_file, or what the connection trusts.";
                Err(Trouble::Stays(failed(&format!("TLS: {e}")).next(next)))
            }
            Err(e) => Err(Trouble::Passes(failed(&format!("TLS: {e}")))),
        }
    }
}

/// The first so many bytes; what comes behind them is not waited for.
async fn first(mut body: Incoming, most: usize) -> Result<Vec<u8>, hyper::Error> {
    let mut content = Vec::new();
    while content.len() < most {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            let left = most - content.len();
            content.extend_from_slice(&data[..data.len().min(left)]);
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_is_tried_again() {
        let failure = || Code::StateUnusable.on("it");
        let mut asked = Vec::new();
        let done = again(|first| {
            asked.push(first);
            if asked.len() < 3 { Err(Trouble::Passes(failure())) } else { Ok(7) }
        });
        assert_eq!((done.expect("does"), asked), (7, vec![true, false, false]));
        let mut times = 0;
        let ended = again::<()>(|_| {
            times += 1;
            Err(Trouble::Stays(failure()))
        });
        let ended = ended.expect_err("stays");
        let inner = ended.get_ref().and_then(|e| e.downcast_ref::<Failure>()).expect("a failure");
        assert_eq!((times, inner.code), (1, Code::StateUnusable));
    }
}
