//! A job's connections to its HTTP proxies. The proxy looks names up and connects, so their addresses are nobody's here to check; what is
//! asked of it is read, and judged by its host, before it is passed on.
//!
//! ```text
//!   job ══ loopback pair ══▶ head read, judged, written anew ──▶ proxy      CONNECT: then bytes both ways, once the proxy has said yes
//!                              └─ 403 and why                              others: one request a connection
//! ```
//! It must never pass on a byte of a request that was not judged: what follows a CONNECT waits for the proxy's yes, and what follows a
//! request that is over ends the connection.

use super::policy::Policy;
use super::request::{self, Answer, HEAD_MAX, Malformed};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Connections to proxies at once; beyond it EAGAIN. Two descriptors each.
pub(super) const RELAYS_MAX: usize = 128;
/// How long a request's head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// What waits in each direction, bytes; more than a head.
const BUFFER: usize = 64 * 1024;

/// All of a job's.
#[derive(Debug, Default)]
pub(super) struct Relays {
    all: Vec<Relay>,
}

/// One of them.
#[derive(Debug)]
struct Relay {
    stage: Stage,
    /// The job's end of it.
    inner: Option<TcpStream>,
    proxy: TcpStream,
    /// To the proxy, and back.
    up: Pipe,
    down: Pipe,
    /// The proxy has said something.
    answered: bool,
    /// When a head must be there.
    due: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    /// The job's end is about to be connected: from there, and nobody else.
    Accepting { listener: TcpListener, from: SocketAddr },
    /// A request's head is read.
    Head,
    /// A CONNECT is passed on; nothing else is before its answer.
    Answer,
    /// So many bytes of the request's content are left.
    Content(u64),
    /// Bytes both ways.
    Tunnel,
    /// The request is over, what comes back is not.
    Over,
    /// Our own answer is written.
    Refused,
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    bytes: Vec<u8>,
    /// How many of them may be written.
    free: usize,
    /// The end was read, and was passed on.
    ended: bool,
    closed: bool,
}

/// A relay that is ready for the job's end.
#[derive(Debug)]
pub(super) struct Prepared {
    listener: TcpListener,
    proxy: TcpStream,
}

/// What a look gave.
enum Look {
    /// It goes on.
    Stays,
    /// It is over.
    Ends,
}

// === impl Prepared ===

impl Prepared {
    /// Begins to connect to the proxy, and listens for the job's end on this machine's loopback.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(proxy: SocketAddr) -> Result<Self, Errno> {
        let errno = |e: io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(errno)?;
        listener.set_nonblocking(true).map_err(errno)?;
        let family = if proxy.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let made: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        match connect(made.as_raw_fd(), &SockaddrStorage::from(proxy)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        Ok(Self { listener, proxy: made.into() })
    }

    /// Where the job's end is to be connected to.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// === impl Relays ===

impl Relays {
    pub(super) fn are_full(&self) -> bool {
        self.all.len() >= RELAYS_MAX
    }

    /// Takes over what was prepared; the job's end has that address.
    pub(super) fn add(&mut self, prepared: Prepared, from: SocketAddr) {
        let _ = prepared.proxy.set_nodelay(true);
        self.all.push(Relay {
            stage: Stage::Accepting { listener: prepared.listener, from },
            inner: None,
            proxy: prepared.proxy,
            up: Pipe::default(),
            down: Pipe::default(),
            answered: false,
            due: Some(Instant::now() + HEAD_WITHIN),
        });
    }

    /// What is to be waited for, and how.
    pub(super) fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.all.iter().flat_map(Relay::watched)
    }

    /// When something is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.all.iter().filter_map(|r| r.due).min()
    }

    /// Does what can be done without waiting. `refused` is told host and port, and why.
    pub(super) fn serve(&mut self, policy: &Policy, mut refused: impl FnMut(&str, &'static str)) {
        self.all.retain_mut(|relay| matches!(relay.serve(policy, &mut refused), Ok(Look::Stays)));
    }
}

// === impl Relay ===

impl Relay {
    fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let flags = |read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, read);
            flags.set(PollFlags::POLLOUT, write);
            flags
        };
        let inner = match (&self.stage, &self.inner) {
            (Stage::Accepting { listener, .. }, _) => Some((listener.as_fd(), PollFlags::POLLIN)),
            (_, Some(inner)) => Some((inner.as_fd(), flags(self.takes_up(), self.down.free > 0))),
            _ => None,
        };
        let proxy = (self.proxy.as_fd(), flags(self.takes_down(), self.up.free > 0));
        inner.into_iter().chain([proxy]).filter(|(_, flags)| !flags.is_empty())
    }

    /// Whether the job is read from.
    fn takes_up(&self) -> bool {
        let most = match self.stage {
            Stage::Accepting { .. } => 0,
            Stage::Head => HEAD_MAX,
            // what comes early waits
            Stage::Answer => HEAD_MAX,
            Stage::Content(_) | Stage::Tunnel => BUFFER,
            // one more byte is one too many, and its end is of interest
            Stage::Over | Stage::Refused => 1,
        };
        !self.up.ended && self.up.bytes.len() < most
    }

    /// Whether the proxy is read from: nothing of it is of interest before a request was passed on.
    fn takes_down(&self) -> bool {
        let asked = !matches!(self.stage, Stage::Accepting { .. } | Stage::Head | Stage::Refused);
        asked && !self.down.ended && self.down.bytes.len() < BUFFER
    }

    fn serve(&mut self, policy: &Policy, refused: &mut impl FnMut(&str, &'static str)) -> io::Result<Look> {
        if !self.accept()? {
            return Ok(self.in_time());
        }
        let Some(mut inner) = self.inner.take() else { return Ok(Look::Ends) };
        let look = self.pass(&mut inner, policy, refused);
        self.inner = Some(inner);
        look
    }

    /// Whether the job's end is there.
    fn accept(&mut self) -> io::Result<bool> {
        let Stage::Accepting { listener, from } = &self.stage else { return Ok(true) };
        loop {
            match listener.accept() {
                Ok((stream, peer)) if peer == *from => {
                    stream.set_nonblocking(true)?;
                    let _ = stream.set_nodelay(true);
                    self.inner = Some(stream);
                    self.stage = Stage::Head;
                    return Ok(true);
                }
                // somebody else of this machine
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn in_time(&self) -> Look {
        if self.due.is_some_and(|due| due <= Instant::now()) { Look::Ends } else { Look::Stays }
    }

    fn pass(
        &mut self,
        inner: &mut TcpStream,
        policy: &Policy,
        refused: &mut impl FnMut(&str, &'static str),
    ) -> io::Result<Look> {
        if self.takes_up() {
            let room = if matches!(self.stage, Stage::Head | Stage::Answer) { HEAD_MAX } else { BUFFER };
            self.up.read(inner, room)?;
        }
        match self.stage {
            Stage::Head => {
                if self.up.bytes.is_empty() && self.up.ended {
                    return Ok(Look::Ends);
                }
                self.judge(policy, refused);
            }
            // another request over the same connection, or what nobody can tell
            Stage::Over if self.up.bytes.len() > self.up.free => return Ok(Look::Ends),
            Stage::Refused => self.up.bytes.clear(),
            _ => {}
        }
        self.let_up();
        match self.up.write(&mut self.proxy) {
            Ok(()) => {}
            Err(e) => self.unreachable(e)?,
        }
        if self.takes_down() {
            match self.down.read(&mut self.proxy, BUFFER) {
                Ok(()) => self.answered |= !self.down.bytes.is_empty(),
                Err(e) => self.unreachable(e)?,
            }
        }
        self.let_down();
        self.down.write(inner)?;
        self.end(inner)
    }

    /// Says that the proxy is not there, where it has said nothing yet.
    fn unreachable(&mut self, error: io::Error) -> io::Result<()> {
        if self.answered {
            return Err(error);
        }
        self.say(&Malformed(502, "the proxy cannot be reached"), &error.kind().to_string());
        Ok(())
    }

    /// Reads what is asked for, and passes it on or refuses it.
    fn judge(&mut self, policy: &Policy, refused: &mut impl FnMut(&str, &'static str)) {
        match request::request(&self.up.bytes) {
            Ok(None) if self.due.is_some_and(|due| due <= Instant::now()) => {
                self.say(&Malformed(408, "its head did not come in time"), "");
            }
            Ok(None) if self.up.ended => self.say(&Malformed(400, "its head is not whole"), ""),
            Ok(None) => {}
            Ok(Some(request)) => {
                let shown = shared_proto::address::host_port(&request.host, request.port);
                if let Err(why) = policy.asks(&request.host, request.port) {
                    refused(&shown, why);
                    return self.say(&Malformed(403, why), &shown);
                }
                self.due = None;
                drop(self.up.bytes.splice(..request.length, request.head.iter().copied()));
                self.up.free = request.head.len();
                self.stage = match request.body {
                    None => Stage::Answer,
                    Some(length) => Stage::Content(length),
                };
            }
            Err(malformed) => self.say(&malformed, ""),
        }
    }

    /// Our own answer, the last.
    fn say(&mut self, Malformed(status, why): &Malformed, what: &str) {
        let reason = match status {
            400 => "Bad Request",
            403 => "Forbidden",
            408 => "Request Timeout",
            411 => "Length Required",
            431 => "Request Header Fields Too Large",
            _ => "Bad Gateway",
        };
        let of = if what.is_empty() { String::new() } else { format!("{what}: ") };
        let body = format!("The runner does not pass this request on to the proxy: {of}{why}\n");
        self.up = Pipe::default();
        self.down.bytes = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes();
        self.down.free = self.down.bytes.len();
        self.down.ended = true;
        self.due = Some(Instant::now() + HEAD_WITHIN);
        self.stage = Stage::Refused;
    }

    /// What of the job's bytes may be passed on.
    fn let_up(&mut self) {
        match &mut self.stage {
            Stage::Content(left) => {
                let more = (self.up.bytes.len() - self.up.free) as u64;
                let taken = more.min(*left);
                *left -= taken;
                // within what is there
                self.up.free += taken as usize;
                if *left == 0 {
                    let over = self.up.bytes.len() > self.up.free;
                    self.up.bytes.truncate(self.up.free);
                    self.stage = Stage::Over;
                    // a second request is none that is passed on; its sender hears the end after the first one's answer
                    self.up.ended |= over;
                }
            }
            Stage::Tunnel => self.up.free = self.up.bytes.len(),
            _ => {}
        }
    }

    /// What of the proxy's bytes may be passed on.
    fn let_down(&mut self) {
        loop {
            if !matches!(self.stage, Stage::Answer) {
                if !matches!(self.stage, Stage::Accepting { .. } | Stage::Head) {
                    self.down.free = self.down.bytes.len();
                }
                return;
            }
            let held = &self.down.bytes[self.down.free..];
            match request::answer(held) {
                Ok(None) if !self.down.ended => return,
                Ok(None) => return self.say(&Malformed(502, "the proxy did not answer"), ""),
                Ok(Some((Answer::Interim, end, _))) => self.down.free += end,
                Ok(Some((Answer::Success, ..))) => self.stage = Stage::Tunnel,
                Ok(Some((Answer::Failure, _, line))) => {
                    // another try over this connection would not be read
                    let at = self.down.free + line;
                    drop(self.down.bytes.splice(at..at, *b"Connection: close\r\n"));
                    self.up.bytes.truncate(self.up.free);
                    self.stage = Stage::Over;
                }
                Err(malformed) => return self.say(&malformed, ""),
            }
        }
    }

    /// Passes ends on; both are: it is over.
    fn end(&mut self, inner: &TcpStream) -> io::Result<Look> {
        let passes = matches!(self.stage, Stage::Tunnel | Stage::Over);
        if passes && self.up.ended && self.up.bytes.is_empty() && !self.up.closed {
            let _ = self.proxy.shutdown(Shutdown::Write);
            self.up.closed = true;
        }
        if self.down.ended && self.down.bytes.is_empty() && !self.down.closed {
            let _ = inner.shutdown(Shutdown::Write);
            self.down.closed = true;
        }
        let over = self.down.closed && (self.up.ended || !matches!(self.stage, Stage::Tunnel | Stage::Refused));
        // whoever is gone wants no answer
        let gone = self.up.ended && matches!(self.stage, Stage::Refused) && self.down.bytes.is_empty();
        if over || gone {
            return Ok(Look::Ends);
        }
        Ok(self.in_time())
    }
}

// === impl Pipe ===

impl Pipe {
    /// Reads what is there, to at most so many bytes altogether.
    fn read(&mut self, from: &mut TcpStream, most: usize) -> io::Result<()> {
        let before = self.bytes.len();
        self.bytes.resize(most.max(before), 0);
        let read = from.read(&mut self.bytes[before..]);
        self.bytes.truncate(before + read.as_ref().map_or(0, |n| *n));
        match read {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Writes what may be written and is taken.
    fn write(&mut self, to: &mut TcpStream) -> io::Result<()> {
        if self.free == 0 {
            return Ok(());
        }
        match to.write(&self.bytes[..self.free]) {
            Ok(n) => {
                self.bytes.drain(..n);
                self.free -= n;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollTimeout, poll};
    use shared_proto::v1::JobFirst;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::JoinHandle;

    /// Relays that are served on a thread until all of them are over.
    struct Served {
        thread: JoinHandle<Vec<String>>,
    }

    /// Connected to a proxy at that address; all are served until they end.
    fn served(proxy: SocketAddr, count: usize) -> (Vec<TcpStream>, Served) {
        let first = JobFirst { hosts: vec!["*.good.example".into()], ..Default::default() };
        let policy = Policy::new(&first, true);
        let mut relays = Relays::default();
        let ends = (0..count).map(|_| add(&mut relays, proxy)).collect();
        let thread = std::thread::spawn(move || {
            let mut said = Vec::new();
            while !relays.all.is_empty() {
                look(&relays);
                relays.serve(&policy, |host, why| said.push(format!("{host}: {why}")));
            }
            said
        });
        (ends, Served { thread })
    }

    fn add(relays: &mut Relays, proxy: SocketAddr) -> TcpStream {
        let prepared = Prepared::new(proxy).expect("prepares");
        let end = TcpStream::connect(prepared.address().expect("an address")).expect("connects");
        end.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
        relays.add(prepared, end.local_addr().expect("an address"));
        end
    }

    fn look(relays: &Relays) {
        let mut all: Vec<_> = relays.watched().map(|(end, flags)| PollFd::new(end, flags)).collect();
        let left = relays.due().map_or(60_000, |due| due.saturating_duration_since(Instant::now()).as_millis() + 1);
        poll(&mut all, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).expect("polls");
    }

    /// A proxy that does that with its one connection.
    fn proxy<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (SocketAddr, JoinHandle<T>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        (address, std::thread::spawn(move || serve(listener.accept().expect("accepts").0)))
    }

    fn head(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut one = [0];
            stream.read_exact(&mut one).expect("a head");
            bytes.push(one[0]);
        }
        String::from_utf8(bytes).expect("text")
    }

    fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        // how it ends is another matter
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Somebody who tells when he may go on.
    fn gate() -> (impl FnOnce(), Receiver<()>) {
        let (go, wait) = channel();
        (move || go.send(()).expect("he waits"), wait)
    }

    #[test]
    fn a_tunnel_passes_bytes_both_ways_and_nothing_before_the_proxys_yes() {
        let (yes, wait) = gate();
        let (address, serving) = proxy(move |mut stream| {
            let asked = head(&mut stream);
            // what came early is not here
            wait.recv().expect("a sign");
            stream.set_nonblocking(true).expect("sets");
            let early = stream.read(&mut [0; 64]).map_err(|e| e.kind());
            stream.set_nonblocking(false).expect("sets");
            stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nwelcome").expect("writes");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("reads");
            all.reverse();
            stream.write_all(&all).expect("writes");
            (asked, early)
        });
        let (mut ends, served) = served(address, 1);
        let mut end = ends.remove(0);
        end.write_all(b"CONNECT a.good.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\nearly").expect("writes");
        yes();
        assert_eq!(head(&mut end), "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n");
        let mut welcome = [0; 7];
        end.read_exact(&mut welcome).expect("reads");
        let content: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let mut writing = end.try_clone().expect("clones");
        let sent = content.clone();
        let writer = std::thread::spawn(move || {
            writing.write_all(&sent).expect("writes");
            writing.shutdown(Shutdown::Write).expect("shuts");
        });
        let mut back = Vec::new();
        end.read_to_end(&mut back).expect("reads");
        writer.join().expect("wrote");
        back.reverse();
        assert!(back.starts_with(b"early") && back[5..] == content, "{} bytes", back.len());
        let (asked, early) = serving.join().expect("served");
        assert_eq!(asked, "CONNECT a.good.example:443 HTTP/1.1\r\nHost: a.good.example:443\r\n\r\n");
        assert_eq!(early, Err(ErrorKind::WouldBlock));
        drop(end);
        assert!(served.thread.join().expect("ends").is_empty());
    }

    #[test]
    fn after_the_proxys_no_nothing_more_is_passed_on() {
        let (address, serving) = proxy(|mut stream| {
            head(&mut stream);
            let no = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nno!\n";
            stream.write_all(no).expect("writes");
            rest(&mut stream)
        });
        let (mut ends, served) = served(address, 1);
        // the second one would be asked of the proxy if it were passed on with the first
        let both = "CONNECT a.good.example:443 HTTP/1.1\r\n\r\nCONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n";
        ends[0].write_all(both.as_bytes()).expect("writes");
        let said = head(&mut ends[0]);
        assert!(said.starts_with("HTTP/1.1 407 ") && said.contains("\r\nConnection: close\r\n"), "{said}");
        let _ = ends[0].write_all(b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n");
        assert!("no!\n".starts_with(&rest(&mut ends[0])));
        drop(ends);
        assert_eq!(serving.join().expect("served"), "");
        served.thread.join().expect("ends");
    }

    #[test]
    fn a_plain_request_is_one_and_its_content_is_as_long_as_it_says() {
        let (address, serving) = proxy(|mut stream| {
            let asked = head(&mut stream);
            let mut content = [0; 5];
            stream.read_exact(&mut content).expect("reads");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("writes");
            (asked, content, rest(&mut stream))
        });
        let (mut ends, served) = served(address, 1);
        ends[0]
            .write_all(b"POST http://a.good.example/x HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhe")
            .expect("writes");
        ends[0].write_all(b"llo").expect("writes");
        assert_eq!(head(&mut ends[0]), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
        // kept alive, as its sender believes
        let _ = ends[0].write_all(b"GET http://evil.example/ HTTP/1.1\r\n\r\n");
        assert!("hi".starts_with(&rest(&mut ends[0])));
        drop(ends);
        let (asked, content, more) = serving.join().expect("served");
        assert!(
            asked.starts_with("POST http://a.good.example:80/x HTTP/1.1\r\nHost: a.good.example:80\r\n"),
            "{asked}"
        );
        assert_eq!((&content, more.as_str()), (b"hello", ""));
        served.thread.join().expect("ends");
    }

    #[test]
    fn what_is_not_allowed_is_answered_here() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let asked = [
            ("CONNECT evil.example:443 HTTP/1.1\r\n\r\n", "403 Forbidden", "no host that jobs may reach"),
            ("CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n", "403 Forbidden", "a link-local address"),
            ("GET http://evil.example/ HTTP/1.1\r\n\r\n", "403 Forbidden", "no host that jobs may reach"),
            ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request", "no http:// URL"),
            ("\u{16}\u{3}\u{1} TLS\r\n\r\n", "400 Bad Request", "its first line"),
        ];
        let (ends, served) = served(address, asked.len());
        for ((request, status, why), mut end) in asked.into_iter().zip(ends) {
            end.write_all(request.as_bytes()).expect("writes");
            let said = rest(&mut end);
            assert!(said.starts_with(&format!("HTTP/1.1 {status}\r\n")) && said.contains(why), "{request}: {said}");
        }
        let mut said = served.thread.join().expect("ends");
        said.sort();
        assert_eq!(
            said,
            [
                "169.254.169.254:80: a link-local address",
                "evil.example:443: no host that jobs may reach",
                "evil.example:80: no host that jobs may reach"
            ]
        );
        // nothing came there but connections
        listener.set_nonblocking(true).expect("sets");
        while let Ok((mut stream, _)) = listener.accept() {
            assert_eq!(rest(&mut stream), "");
        }
    }

    #[test]
    fn a_proxy_that_is_not_there_or_is_none() {
        let closed = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address");
        let (rubbish, serving) = proxy(|mut stream| {
            head(&mut stream);
            stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").expect("writes");
        });
        for (address, why) in [(closed, "cannot be reached"), (rubbish, "as a proxy does")] {
            let (mut ends, served) = served(address, 1);
            ends[0].write_all(b"CONNECT a.good.example:443 HTTP/1.1\r\n\r\n").expect("writes");
            let said = rest(&mut ends[0]);
            assert!(said.starts_with("HTTP/1.1 502 ") && said.contains(why), "{said}");
            drop(ends);
            served.thread.join().expect("ends");
        }
        serving.join().expect("served");
    }

    #[test]
    fn a_head_that_does_not_come_and_a_stranger_at_the_door() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let policy = Policy::new(&JobFirst::default(), true);
        let mut relays = Relays::default();
        let prepared = Prepared::new(address).expect("prepares");
        let door = prepared.address().expect("an address");
        let mut stranger = TcpStream::connect(door).expect("connects");
        let mut end = TcpStream::connect(door).expect("connects");
        relays.add(prepared, end.local_addr().expect("an address"));
        end.write_all(b"CONNECT a.example:443 HTTP/1.1\r\n").expect("writes");
        while !matches!(relays.all[0].stage, Stage::Head) || relays.all[0].up.bytes.is_empty() {
            look(&relays);
            relays.serve(&policy, |_, _| {});
        }
        assert_eq!(rest(&mut stranger), "");
        let left = relays.due().expect("it is due").saturating_duration_since(Instant::now());
        assert!(left <= HEAD_WITHIN && left > HEAD_WITHIN / 2, "{left:?}");
        relays.all[0].due = Some(Instant::now());
        let reading = std::thread::spawn(move || rest(&mut end));
        while !relays.all.is_empty() {
            relays.serve(&policy, |_, _| {});
            if !relays.all.is_empty() {
                look(&relays);
            }
        }
        assert!(reading.join().expect("reads").starts_with("HTTP/1.1 408 "));
    }

    #[test]
    fn there_are_so_many_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let mut relays = Relays::default();
        let ends: Vec<_> = (0..RELAYS_MAX)
            .map(|_| {
                assert!(!relays.are_full());
                (add(&mut relays, address), listener.accept().expect("accepts"))
            })
            .collect();
        assert!(relays.are_full());
        drop(ends);
        let policy = Policy::new(&JobFirst::default(), true);
        while !relays.all.is_empty() {
            look(&relays);
            relays.serve(&policy, |_, _| {});
        }
        assert!(!relays.are_full());
    }
}
