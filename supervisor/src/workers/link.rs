//! The task that owns the socket to the spawner.
//!
//! It never blocks on one direction: requests that do not fit wait in `outgoing` (and no more are taken meanwhile), reports are read always.

use super::{Exit, Request, Started};
use crate::config::WorkerPaths;
use crate::launcher::hand_over::{FORMAT, Kept};
use crate::launcher::{order, word};
use crate::spawner::wire::{self, Launch, Report};
use nix::sys::socket::SockFlag;
use runner_sandbox::channel;
use shared_proto::failure::{Code, Failure};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

/// The two descriptors that the launcher gives a supervisor.
#[derive(Debug)]
pub struct Ends {
    /// To the spawner.
    pub spawner: OwnedFd,
    /// To the launcher: a new end to a new spawner comes here; its end means that the launcher is gone.
    pub launcher: OwnedFd,
    /// The state directory, or the nearest folder to it that is there.
    pub state: OwnedFd,
}

/// What the launcher orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Finish what is in flight, then end.
    Drain,
    /// End now. Also when the launcher is gone: nobody would start a spawner again, and the next launcher starts its own supervisor.
    Now,
    /// Read configuration and credentials again.
    Reload,
    /// A successor is in charge.
    Given,
    /// There is no successor.
    Kept(Kept),
}

/// How long the spawner may take to try what it can do.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long what must be sent waits where the system refuses to pass descriptors on.
const PAUSE: Duration = Duration::from_millis(100);
const TOO_MANY_UNDER_WAY: &str =
    "processes of the runner's user have more descriptors under way to each other than the system allows one user";
/// Orders that wait at once; each is acted on at once.
const ORDERS: usize = 16;

struct Link {
    spawner: Option<AsyncFd<OwnedFd>>,
    launcher: OwnedFd,
    /// As in [`Ends`].
    state: OwnedFd,
    paths: WorkerPaths,
    next: u64,
    outgoing: VecDeque<Outgoing>,
    /// Nothing is sent before.
    pause: Option<tokio::time::Instant>,
    starting: HashMap<u64, Starting>,
    live: HashMap<u64, oneshot::Sender<Exit>>,
}

struct Outgoing {
    request: wire::Request,
    descriptors: Vec<OwnedFd>,
}

struct Starting {
    socket: UnixStream,
    dial: Option<OwnedFd>,
    reply: oneshot::Sender<Result<Started, Failure>>,
}

pub(super) fn start(
    ends: Ends,
    paths: WorkerPaths,
    requests: mpsc::Receiver<Request>,
) -> io::Result<mpsc::Receiver<Order>> {
    let to_launcher = ends.launcher.try_clone()?;
    let launcher = crate::descriptor::watch(ends.launcher)?;
    let (tell, orders) = mpsc::channel(ORDERS);
    let mut link = Link {
        spawner: None,
        launcher: to_launcher,
        state: ends.state,
        paths,
        next: 1,
        outgoing: VecDeque::new(),
        pause: None,
        starting: HashMap::new(),
        live: HashMap::new(),
    };
    link.attach(ends.spawner)?;
    tokio::spawn(link.run(launcher, requests, tell));
    Ok(orders)
}

pub(super) fn first_word(ends: &Ends) -> io::Result<wire::Mechanisms> {
    let spawner = &ends.spawner;
    channel::send(spawner.as_fd(), &wire::Request::State.encode(), &[ends.state.as_fd()])?;
    use nix::poll::{PollFd, PollFlags, poll};
    let end = Instant::now() + READY_WITHIN;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
        match poll(&mut [PollFd::new(spawner.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not say that it is ready")),
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let mut buffer = [0; wire::REPORT_SIZE];
    let received = channel::receive(spawner.as_fd(), &mut buffer)?;
    match Report::decode(&buffer[..received.length]) {
        Some(Report::Ready(mechanisms)) => Ok(mechanisms),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it ended, or its first word is another")),
    }
}

impl Link {
    async fn run(
        mut self,
        launcher: AsyncFd<OwnedFd>,
        mut requests: mpsc::Receiver<Request>,
        orders: mpsc::Sender<Order>,
    ) {
        let mut launcher_lives = true;
        loop {
            // what was just asked goes out at once; what does not fit waits below for room
            if !self.outgoing.is_empty() && self.pause.is_none() && self.exchange().is_err() {
                self.lost();
            }
            if !launcher_lives && self.spawner.is_none() {
                // nobody is left who could start a worker, or the one who does; whoever asks is told so
                return;
            }
            tokio::select! {
                request = requests.recv(), if self.outgoing.is_empty() && self.spawner.is_some() => match request {
                    Some(request) => self.request(request),
                    None => return,
                },
                said = from_launcher(&launcher), if launcher_lives => match said {
                    Ok(FromLauncher::End(end)) => {
                        if let Err(e) = self.replace(end) {
                            tracing::error!(error = %e, "the new spawner's socket is unusable");
                        }
                    }
                    Ok(FromLauncher::Ask) => self.ask(),
                    Ok(FromLauncher::Order(order)) => drop(orders.try_send(order)),
                    Err(_) => {
                        launcher_lives = false;
                        let _ = orders.send(Order::Now).await;
                    }
                },
                () = until(self.pause), if self.pause.is_some() => self.pause = None,
                ready = ready(self.spawner.as_ref(), !self.outgoing.is_empty() && self.pause.is_none()), if self.spawner.is_some() => {
                    if ready.is_err() || self.exchange().is_err() {
                        self.lost();
                    }
                }
            }
        }
    }

    /// A new spawner: it knows nothing yet.
    fn replace(&mut self, end: OwnedFd) -> io::Result<()> {
        self.lost();
        let state = self.state.try_clone()?;
        self.outgoing.push_back(Outgoing { request: wire::Request::State, descriptors: vec![state] });
        self.attach(end)
    }

    fn attach(&mut self, end: OwnedFd) -> io::Result<()> {
        self.spawner = Some(crate::descriptor::watch(end)?);
        self.programs();
        Ok(())
    }

    fn programs(&mut self) {
        for (launch, path) in [(Launch::Operation, &self.paths.ops), (Launch::Job, &self.paths.iac)] {
            match wire::Request::program(launch, path) {
                Some(request) => self.outgoing.push_back(Outgoing { request, descriptors: Vec::new() }),
                None => tracing::error!(path = %path.display(), "a worker's path is not absolute or too long"),
            }
        }
        let bounds =
            wire::Request::Bounds { memory_mib: self.paths.job_memory_mib, processes: self.paths.job_processes };
        let tells = wire::Request::Tells { refused: self.paths.tells_refused };
        for request in [bounds, tells] {
            self.outgoing.push_back(Outgoing { request, descriptors: Vec::new() });
        }
        for request in self.paths.reads.iter().take(wire::READS_MAX).filter_map(|path| wire::Request::reads(path)) {
            self.outgoing.push_back(Outgoing { request, descriptors: Vec::new() });
        }
    }

    /// The launcher asks whether we answer. We do: it is told once the spawner does as well. Where it has not taken what it was asked before,
    /// it has not answered that either.
    fn ask(&mut self) {
        if self.outgoing.is_empty() && self.spawner.is_some() {
            self.outgoing.push_back(Outgoing { request: wire::Request::Ask, descriptors: Vec::new() });
        }
    }

    /// One word to the launcher. One that does not read is about to end, or asks again.
    fn tell(&self, word: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let _ = channel::send(self.launcher.as_fd(), word, descriptors);
    }

    /// The spawner is gone, and with it whoever could tell how its workers end.
    fn lost(&mut self) {
        if self.spawner.take().is_some() {
            tracing::warn!(live = self.live.len(), "spawner lost, waiting for the next");
        }
        self.outgoing.clear();
        for (_, starting) in self.starting.drain() {
            let _ = starting.reply.send(Err(Code::WorkerCrashed.on("the spawner ended while it started the worker")));
        }
        for (_, exit) in self.live.drain() {
            let _ = exit.send(Exit { lost: true, ..Exit::default() });
        }
    }

    fn request(&mut self, request: Request) {
        // no wait in here: whatever is put into `outgoing` is sent by the loop
        match request {
            Request::Ready => self.tell(&[word::READY, FORMAT], &[]),
            Request::Upgrade { end, leaves_within } => {
                let [a, b, c, d] = u32::try_from(leaves_within.as_secs()).unwrap_or(u32::MAX).to_le_bytes();
                self.tell(&[word::UPGRADE, a, b, c, d], &[end.as_fd()]);
            }
            Request::Programs(paths) => {
                self.paths = paths;
                self.programs();
            }
            Request::Signal { process, signal } => {
                let request = wire::Request::Signal { signal };
                self.outgoing.push_back(Outgoing { request, descriptors: vec![process.into()] });
            }
            Request::Kill { pid, signal } => self
                .outgoing
                .push_back(Outgoing { request: wire::Request::Kill { pid, signal }, descriptors: Vec::new() }),
            Request::Start { launch, folders, writes, domain, reply } => {
                if reply.is_closed() {
                    return;
                }
                let made = socket_pair().and_then(|pair| Ok((pair, dial_pair(launch)?)));
                let ((socket, theirs), (dial, asks)) = match made {
                    Ok(made) => made,
                    Err(e) => {
                        let _ = reply.send(Err(Code::Busy.on(format!("no socket for a worker: {e}"))));
                        return;
                    }
                };
                let id = self.next;
                self.next += 1;
                self.starting.insert(id, Starting { socket, dial, reply });
                let request = wire::Request::Start { id, launch, domain: domain.is_some(), writes };
                let descriptors = [theirs].into_iter().chain(asks).chain(folders).chain(domain).collect();
                self.outgoing.push_back(Outgoing { request, descriptors });
            }
        }
    }

    /// Sends what can be sent and reads what has come; an error means that the spawner is gone.
    fn exchange(&mut self) -> io::Result<()> {
        let mut buffer = [0; wire::REPORT_SIZE];
        loop {
            let Some(spawner) = &self.spawner else { return Ok(()) };
            match channel::receive(spawner.get_ref().as_fd(), &mut buffer) {
                Ok(received) if received.length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(received) => match Report::decode(&buffer[..received.length]) {
                    Some(report) => self.report(report),
                    None => return Err(io::ErrorKind::InvalidData.into()),
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        while let (Some(spawner), Some(next)) = (&self.spawner, self.outgoing.front()) {
            let descriptors: Vec<_> = next.descriptors.iter().map(|d| d.as_fd()).collect();
            match channel::send(spawner.get_ref().as_fd(), &next.request.encode(), &descriptors) {
                Ok(()) => drop(self.outgoing.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // somebody of our user has as many descriptors under way as one user may: our workers cannot, but they may not be alone
                Err(e) if e.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => {
                    if let wire::Request::Start { id, .. } = next.request {
                        self.outgoing.pop_front();
                        if let Some(starting) = self.starting.remove(&id) {
                            let _ = starting.reply.send(Err(Code::Busy.on(TOO_MANY_UNDER_WAY)));
                        }
                        continue;
                    }
                    self.pause = Some(tokio::time::Instant::now() + PAUSE);
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn report(&mut self, report: Report) {
        match report {
            // a spawner that was started again, on the same machine: what it found is known
            Report::Ready(mechanisms) => tracing::debug!(?mechanisms, "the spawner is ready"),
            Report::Here => self.tell(&[word::ALIVE], &[]),
            Report::Started { id, pid } => {
                let Some(Starting { socket, dial, reply }) = self.starting.remove(&id) else { return };
                let (tell, exit) = oneshot::channel();
                self.live.insert(id, tell);
                if reply.send(Ok(Started { pid, socket, dial, exit })).is_err() {
                    // whoever asked has gone
                    self.outgoing.push_back(Outgoing {
                        request: wire::Request::Kill { pid, signal: nix::libc::SIGKILL },
                        descriptors: Vec::new(),
                    });
                }
            }
            Report::Failed { id, errno } => {
                let Some(starting) = self.starting.remove(&id) else { return };
                let failure = match errno {
                    0 => Code::Busy.on("as many workers as may run at once are running"),
                    errno => Code::Internal
                        .on(format!(
                            "the worker's program cannot be started: {}",
                            nix::errno::Errno::from_raw(errno).desc()
                        ))
                        .next("Check the paths under [workers] in the runner's configuration."),
                };
                let _ = starting.reply.send(Err(failure));
            }
            Report::Exited { id, code } => self.ended(id, Exit { code: Some(code), ..Exit::default() }),
            Report::Signalled { id, signal } => self.ended(id, Exit { signal: Some(signal), ..Exit::default() }),
        }
    }

    fn ended(&mut self, id: u64, exit: Exit) {
        if let Some(tell) = self.live.remove(&id) {
            let _ = tell.send(exit);
        }
    }
}

async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Our end, and the worker's, which is blocking: what the worker makes of it is the worker's own choice.
fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    channel::take_no_descriptors(ours.as_fd());
    let ours = StdUnixStream::from(ours);
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// Our end, and the worker's, of what an operation or a resolver asks for connections with.
fn dial_pair(launch: Launch) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    if launch == Launch::Job {
        return Ok((None, None));
    }
    let (ours, theirs) = channel::pair()?;
    channel::take_no_descriptors(ours.as_fd());
    Ok((Some(ours), Some(theirs)))
}

/// Waits until there is something to read from the spawner, or room to write if there is something to write; clears what it found, so that the
/// next wait is for news.
async fn ready(spawner: Option<&AsyncFd<OwnedFd>>, write: bool) -> io::Result<()> {
    let Some(spawner) = spawner else { return std::future::pending().await };
    let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
    let mut guard = spawner.ready(interest).await?;
    guard.clear_ready();
    Ok(())
}

enum FromLauncher {
    Ask,
    End(OwnedFd),
    Order(Order),
}

/// What the launcher says; an error means that it is gone.
async fn from_launcher(launcher: &AsyncFd<OwnedFd>) -> io::Result<FromLauncher> {
    loop {
        let mut guard = launcher.readable().await?;
        let mut buffer = [0; 8];
        match channel::receive(launcher.get_ref().as_fd(), &mut buffer) {
            Ok(received) if received.length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => match (buffer[0], received.descriptors.into_iter().next()) {
                (order::END, Some(end)) => return Ok(FromLauncher::End(end)),
                (order::ASK, _) => return Ok(FromLauncher::Ask),
                (order::DRAIN, _) => return Ok(FromLauncher::Order(Order::Drain)),
                (order::NOW, _) => return Ok(FromLauncher::Order(Order::Now)),
                (order::RELOAD, _) => return Ok(FromLauncher::Order(Order::Reload)),
                (order::GIVEN, _) => return Ok(FromLauncher::Order(Order::Given)),
                (order::KEPT, _) => {
                    if let Some(why) = Kept::decode(&buffer[1..received.length]) {
                        return Ok(FromLauncher::Order(Order::Kept(why)));
                    }
                }
                _ => {}
            },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(e) => return Err(e),
        }
    }
}
