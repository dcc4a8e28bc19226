//! A connection to one target: the supervisor makes it and hands it over, through a proxy where the configuration names one; TLS is ours.

use runner_sandbox::channel;
use rustls_pki_types::ServerName;
use shared_proto::address::Address;
use shared_proto::ahead::ReadAhead;
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::dial::{REPLY_MAX, Reply, Request};
use shared_proto::failure::Code;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tls;
use crate::fault::{Fault, chain};

/// Questions that wait their turn; whoever comes later waits for a place.
const QUESTIONS: usize = 16;

/// Asks the supervisor for connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    questions: mpsc::Sender<Question>,
}

struct Question {
    request: Request,
    answer: oneshot::Sender<Result<Dialled, Fault>>,
}

/// A connection, and when it was asked for.
struct Dialled {
    stream: TcpStream,
    asked: Instant,
}

/// A target, and all that is needed to reach it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    /// For https: how to check the certificate, and the name that must stand in it.
    pub(crate) tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
    pub(crate) dialer: Dialer,
}

/// A stream with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<ReadAhead<TcpStream>>>),
}

// === impl Dialer ===

impl Dialer {
    /// Takes the channel over and runs its task: a question whose asker has gone must still have its answer read.
    ///
    /// # Errors
    /// A descriptor that cannot be waited on.
    pub(crate) fn start(channel: OwnedFd) -> io::Result<Self> {
        // deprecated for types that may name a descriptor they do not own; an OwnedFd owns it, and keeps it while it is registered
        #[allow(deprecated)]
        let channel = AsyncFd::new(channel)?;
        let (questions, mut waiting) = mpsc::channel::<Question>(QUESTIONS);
        tokio::spawn(async move {
            while let Some(Question { request, answer }) = waiting.recv().await {
                if answer.is_closed() {
                    continue;
                }
                match ask(&channel, &request).await {
                    Ok(answered) => drop(answer.send(answered)),
                    // out of step for good: whoever asks from now on is told so
                    Err(_) => return,
                }
            }
        });
        Ok(Self { questions })
    }

    /// One that connects itself: for a resolver that asks its own machine, a metadata service, or what stands in for a cloud, none of which is
    /// behind a proxy.
    pub(crate) fn direct() -> Self {
        let (questions, mut waiting) = mpsc::channel::<Question>(QUESTIONS);
        tokio::spawn(async move {
            while let Some(Question { request, answer }) = waiting.recv().await {
                let _ = answer.send(connected(&request).await);
            }
        });
        Self { questions }
    }

    /// To a cloud's own hosts this one, or to what an entry names in the place of all of them directly.
    pub(crate) fn or_direct(&self, endpoint_url: &str) -> Self {
        if endpoint_url.is_empty() { self.clone() } else { Self::direct() }
    }

    /// One that answers nobody.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { questions: mpsc::channel(1).0 }
    }

    async fn dial(&self, address: &Address) -> Result<Dialled, Fault> {
        let request = Request::new(&address.host, address.port)
            .map_err(|e| Fault::new(Code::TargetUnreachable, format!("{}: {e}", address.shown())))?;
        let (answer, answered) = oneshot::channel();
        let gone = || {
            let message = format!("{}: the supervisor connects this operation to nothing any more", address.shown());
            Fault::new(Code::Internal, message)
        };
        self.questions.send(Question { request, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn connected(request: &Request) -> Result<Dialled, Fault> {
    let asked = Instant::now();
    let failed =
        |why: String| Fault::new(Code::TargetUnreachable, format!("{}:{}: {why}", request.host(), request.port()));
    let connecting = TcpStream::connect((request.host(), request.port()));
    match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
        Ok(Ok(stream)) => Ok(Dialled { stream, asked }),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no connection within {} s", CONNECT_DEADLINE.as_secs()))),
    }
}

/// Asks once. The supervisor answers in its own time, which [`CONNECT_DEADLINE`] bounds.
async fn ask(channel: &AsyncFd<OwnedFd>, request: &Request) -> io::Result<Result<Dialled, Fault>> {
    let asked = Instant::now();
    let datagram = request.encode();
    channel.async_io(Interest::WRITABLE, |end| channel::send(end.as_fd(), &datagram, &[])).await?;
    let mut buffer = [0; REPLY_MAX];
    let received = channel.async_io(Interest::READABLE, |end| channel::receive(end.as_fd(), &mut buffer)).await?;
    let reply = Reply::decode(&buffer[..received.length], received.descriptors.len()).map_err(io::Error::other)?;
    match (reply, received.descriptors.into_iter().next()) {
        (Reply::Connected, Some(socket)) => {
            let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
            Ok(Ok(Dialled { stream, asked }))
        }
        (Reply::Failed(failure), _) => Ok(Err(failure.into())),
        (Reply::Connected, None) => Err(io::ErrorKind::InvalidData.into()),
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// At an address whose certificate, where it has one, the machine trusts.
    ///
    /// # Errors
    /// `target_unreachable`: the machine's certificates cannot be used, or the host is no name for one.
    pub(crate) fn new(address: Address, dialer: Dialer) -> Result<Self, Fault> {
        let wrong = |e| Fault::new(Code::TargetUnreachable, format!("{}: {e}", address.shown()));
        let tls = match address.https {
            true => Some((tls::system().map_err(wrong)?, tls::server_name(&address.host).map_err(wrong)?)),
            false => None,
        };
        Ok(Self { address, tls, dialer })
    }

    /// A cloud's service at its host, or at what the connection's entry names in the place of all of them.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub(crate) fn of_service(host: String, instead: Option<&Address>, dialer: Dialer) -> Result<Self, Fault> {
        let own = || Address { https: true, host, port: 443, prefix: String::new() };
        Self::new(instead.cloned().unwrap_or_else(own), dialer)
    }

    /// What an entry's `endpoint_url` names; empty: nothing.
    ///
    /// # Errors
    /// `credentials_unavailable`: it is no address.
    pub(crate) fn instead(endpoint_url: &str) -> Result<Option<Address>, Fault> {
        let wrong = |e| Fault::new(Code::CredentialsUnavailable, format!("the connection's endpoint_url: {e}"));
        match endpoint_url {
            "" => Ok(None),
            url => Address::parse(url).map(Some).map_err(wrong),
        }
    }

    /// Connects, within [`CONNECT_DEADLINE`] from the supervisor's beginning.
    pub(crate) async fn connect(&self) -> Result<Stream, Fault> {
        let Dialled { stream, asked } = self.dialer.dial(&self.address).await?;
        let Some((config, name)) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let left = CONNECT_DEADLINE.saturating_sub(asked.elapsed());
        let handshake = TlsConnector::from(config.clone()).connect(name.clone(), ReadAhead::new(stream));
        match tokio::time::timeout(left, handshake).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                let fault = self.unreachable(&format!("TLS: {}", chain(&error)));
                Err(if is_certificate(&error) {
                    fault.next(
                        "Check the certificate authority and the server name in the connection's entry, and whether something between re-signs TLS.",
                    )
                } else {
                    fault
                })
            }
            Err(_) => {
                let seconds = CONNECT_DEADLINE.as_secs();
                Err(self.unreachable(&format!("no connection within {seconds} s, it was at the TLS handshake")))
            }
        }
    }

    /// host:port.
    pub(crate) fn shown(&self) -> String {
        self.address.shown()
    }

    fn unreachable(&self, why: &str) -> Fault {
        Fault::new(Code::TargetUnreachable, format!("{}: {why}", self.shown()))
    }
}

fn is_certificate(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
        .is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_)))
}

// === impl Stream ===

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;

    fn endpoint(dialer: Dialer) -> Endpoint {
        let address = Address { https: false, host: "target.example".into(), port: 6443, prefix: String::new() };
        Endpoint { address, tls: None, dialer }
    }

    /// A dialer, and the supervisor's end of its channel.
    fn dialer() -> (Dialer, AsyncFd<OwnedFd>) {
        let (ours, theirs) = channel::pair().expect("a pair");
        #[allow(deprecated)]
        let theirs = AsyncFd::new(theirs).expect("joins the runtime");
        (Dialer::start(ours).expect("starts"), theirs)
    }

    async fn asked(end: &AsyncFd<OwnedFd>) -> Vec<u8> {
        let mut buffer = [0; 512];
        let got = end.async_io(Interest::READABLE, |e| channel::receive(e.as_fd(), &mut buffer)).await;
        buffer[..got.expect("receives").length].to_vec()
    }

    fn say(end: &AsyncFd<OwnedFd>, datagram: &[u8], socket: Option<&TcpStream>) {
        let descriptors: Vec<_> = socket.iter().map(|s| s.as_fd()).collect();
        channel::send(end.get_ref().as_fd(), datagram, &descriptors).expect("sends");
    }

    #[tokio::test]
    async fn a_connection_is_asked_for_and_used() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (dialer, end) = dialer();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let made = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let connecting = tokio::spawn(async move { endpoint(dialer).connect().await });
        assert_eq!(asked(&end).await, b"\x19\x2btarget.example");
        say(&end, &Reply::Connected.encode(), Some(&made));
        drop(made);
        let mut stream = connecting.await.expect("ends").expect("connects");
        stream.write_all(b"x").await.expect("writes");
        let (mut peer, _) = listener.accept().await.expect("accepts");
        assert_eq!(peer.read_u8().await.expect("reads"), b'x');
    }

    #[tokio::test]
    async fn a_refusal_is_the_supervisors_own() {
        let (dialer, end) = dialer();
        let connecting = tokio::spawn(async move { endpoint(dialer).connect().await });
        asked(&end).await;
        let failure = Code::PolicyDenied.on("target.example:6443: no").next("Do not.");
        say(&end, &Reply::Failed(failure.clone()).encode(), None);
        assert_eq!(connecting.await.expect("ends").err().map(|f| f.failure), Some(failure));
    }

    #[tokio::test]
    async fn what_is_no_answer_ends_it() {
        for (datagram, with) in [(&b"\0"[..], false), (b"\x01", false), (b"\x02", true), (b"\0more", true)] {
            let (dialer, end) = dialer();
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let made = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
            let asking = endpoint(dialer);
            let again = asking.clone();
            let connecting = tokio::spawn(async move { asking.connect().await });
            asked(&end).await;
            say(&end, datagram, Some(&made).filter(|_| with));
            let fault = connecting.await.expect("ends").err().expect("no connection");
            assert_eq!(fault.code(), Code::Internal, "{datagram:?}");
            // and at once for whoever asks now, or once the supervisor has closed its end
            assert_eq!(again.connect().await.err().map(|f| f.code()), Some(Code::Internal));
        }
        let (dialer, end) = dialer();
        drop(end);
        assert_eq!(endpoint(dialer).connect().await.err().map(|f| f.code()), Some(Code::Internal));
    }

    #[tokio::test]
    async fn an_answer_goes_to_whoever_asked_for_it() {
        let (dialer, end) = dialer();
        let gone = endpoint(dialer.clone());
        let impatient = tokio::time::timeout(Duration::from_millis(20), gone.connect());
        assert!(impatient.await.is_err());
        let connecting = tokio::spawn(async move { endpoint(dialer).connect().await });
        for n in ["first", "second"] {
            asked(&end).await;
            say(&end, &Reply::Failed(Code::TargetUnreachable.on(n)).encode(), None);
        }
        let fault = connecting.await.expect("ends").err().expect("refused");
        assert_eq!(fault.failure.message, "second");
    }

    #[tokio::test]
    async fn a_host_that_cannot_be_asked_for_is_named() {
        let (dialer, _end) = dialer();
        let mut endpoint = endpoint(dialer);
        endpoint.address.host = "h".repeat(254);
        let fault = endpoint.connect().await.err().expect("refused");
        assert!(fault.code() == Code::TargetUnreachable && fault.failure.message.contains("253"), "{}", fault.failure);
    }
}
