//! Connections for operations' workers, both ends of `shared_proto::dial`: for tests that start a worker in the supervisor's place, and for
//! workers that stand in for `runner-worker-ops`.

use anyhow::{Context as _, Result, bail};
use runner_sandbox::channel;
use shared_proto::dial::{REPLY_MAX, REQUEST_MAX, Reply, Request};
use shared_proto::failure::Code;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// One end.
#[derive(Debug)]
pub struct Dial(AsyncFd<OwnedFd>);

impl Dial {
    /// Takes an end over, such as a worker's inherited one.
    ///
    /// # Errors
    /// A descriptor that cannot be waited on.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        #[allow(deprecated)] // for types that do not own their descriptor
        AsyncFd::new(end).map(Self)
    }

    /// The supervisor's end, and the worker's for a process that is about to be started.
    ///
    /// # Errors
    /// The system's.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = channel::pair()?;
        Ok((Self::new(ours)?, theirs))
    }

    /// In the supervisor's place: connects whatever is asked for, until the worker has closed its end.
    ///
    /// # Errors
    /// A request that is none.
    pub async fn serve(self) -> Result<()> {
        loop {
            let mut buffer = [0; REQUEST_MAX];
            let got = self.0.async_io(Interest::READABLE, |e| channel::receive(e.as_fd(), &mut buffer)).await?;
            if got.length == 0 {
                return Ok(());
            }
            let request = Request::decode(&buffer[..got.length])?;
            let (reply, socket) = match TcpStream::connect((request.host(), request.port())).await {
                Ok(stream) => (Reply::Connected, Some(OwnedFd::from(stream.into_std()?))),
                Err(e) => (Reply::Failed(Code::TargetUnreachable.on(format!("{}: {e}", request.shown()))), None),
            };
            let (datagram, sockets): (_, Vec<_>) = (reply.encode(), socket.iter().map(|s| s.as_fd()).collect());
            self.0.async_io(Interest::WRITABLE, |e| channel::send(e.as_fd(), &datagram, &sockets)).await?;
        }
    }

    /// In the supervisor's place: connects nothing; gives what was asked for, `host:port` each, once the worker has closed its end.
    ///
    /// # Errors
    /// A request that is none.
    pub async fn refuse(self) -> Result<Vec<String>> {
        let mut asked = Vec::new();
        loop {
            let mut buffer = [0; REQUEST_MAX];
            let got = self.0.async_io(Interest::READABLE, |e| channel::receive(e.as_fd(), &mut buffer)).await?;
            if got.length == 0 {
                return Ok(asked);
            }
            let request = Request::decode(&buffer[..got.length])?;
            asked.push(request.shown());
            let reply = Reply::Failed(Code::TargetUnreachable.on(format!("{}: a test", request.shown()))).encode();
            self.0.async_io(Interest::WRITABLE, |e| channel::send(e.as_fd(), &reply, &[])).await?;
        }
    }

    /// In the worker's place: asks for a connection.
    ///
    /// # Errors
    /// What the supervisor says.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        match self.ask(&Request::new(host, port)?.encode()).await?.context("the dialling has ended")? {
            (Reply::Connected, Some(stream)) => Ok(stream),
            (Reply::Failed(failure), _) => bail!(failure),
            (Reply::Connected, None) => bail!("no socket came"),
        }
    }

    /// The same with any bytes; `None`: the supervisor has closed its end.
    ///
    /// # Errors
    /// An answer that is none.
    pub async fn ask(&self, datagram: &[u8]) -> Result<Option<(Reply, Option<TcpStream>)>> {
        if self.0.async_io(Interest::WRITABLE, |e| channel::send(e.as_fd(), datagram, &[])).await.is_err() {
            return Ok(None);
        }
        let mut buffer = [0; REPLY_MAX];
        let got = self.0.async_io(Interest::READABLE, |e| channel::receive(e.as_fd(), &mut buffer)).await;
        // closed with our question unread, it says so by a reset
        let Some(got) = got.ok().filter(|g| g.length > 0) else { return Ok(None) };
        let reply = Reply::decode(&buffer[..got.length], got.descriptors.len())?;
        let socket = got.descriptors.into_iter().next().map(std::net::TcpStream::from);
        Ok(Some((reply, socket.map(TcpStream::from_std).transpose()?)))
    }
}
