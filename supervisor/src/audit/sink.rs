//! Handing lines on to a collector. The log never waits for it: what it does not take is dropped and counted.

use super::error::AuditError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// How many writes may wait for the collector. Each has at most [`super::writer::BATCH_MAX`] bytes of records.
const WAITING_MAX: usize = 64;
/// How long a socket may take a line.
const SEND_MAX: Duration = Duration::from_secs(1);
/// How long nothing is tried after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the log waits for what is still to be handed on.
const LINGER: Duration = Duration::from_secs(2);
/// Facility authpriv, severity notice.
const PRIORITY: u32 = 10 * 8 + 5;

/// Where each line is handed on to, after it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// A file or a named pipe that lines are appended to; made with mode 0600. [`super::Audit::reopen`] opens it anew, after it was moved.
    File(PathBuf),
    /// A Unix datagram socket that takes syslog messages (RFC 5424), as `/dev/log`.
    Syslog(PathBuf),
}

/// The log's end of it.
#[derive(Debug)]
pub(super) struct Collector {
    lines: SyncSender<Vec<u8>>,
    state: Arc<State>,
    ended: Receiver<()>,
    name: &'static str,
}

/// Has the collector opened anew, without waiting for anything.
#[derive(Debug, Clone)]
pub(super) struct Reopen(Arc<State>);

#[derive(Debug, Default)]
struct State {
    dropped: AtomicU64,
    reopen: AtomicBool,
}

/// The collector's thread.
struct Forward {
    sink: Sink,
    state: Arc<State>,
    open: Option<Open>,
    /// Nothing is tried before.
    not_before: Option<Instant>,
    host: String,
}

enum Open {
    File(File),
    Socket(UnixDatagram),
}

// === impl Collector ===

impl Collector {
    /// Starts the thread that hands on.
    pub(super) fn start(sink: Sink) -> Result<Self, AuditError> {
        let (lines, waiting) = sync_channel(WAITING_MAX);
        let (end, ended) = sync_channel(1);
        let state = Arc::new(State::default());
        let name = match &sink {
            Sink::File(_) => "file",
            Sink::Syslog(_) => "syslog",
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.chars().filter(char::is_ascii_graphic).take(255).collect();
        let host = if host.is_empty() { "-".to_owned() } else { host };
        let mut forward = Forward { sink, state: Arc::clone(&state), open: None, not_before: None, host };
        let thread = std::thread::Builder::new().name("audit-collector".to_owned());
        let run = move || {
            forward.run(&waiting);
            let _ = end.send(());
        };
        thread.spawn(run).map_err(|e| AuditError::Thread(Arc::new(e)))?;
        Ok(Self { lines, state, ended, name })
    }

    /// Hands lines on, or drops and counts them.
    pub(super) fn offer(&self, lines: &[u8]) {
        if let Err(TrySendError::Full(lines) | TrySendError::Disconnected(lines)) =
            self.lines.try_send(lines.to_owned())
        {
            self.state.dropped.fetch_add(count(&lines), Ordering::Relaxed);
        }
    }

    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn reopener(&self) -> Reopen {
        Reopen(Arc::clone(&self.state))
    }

    /// What it is called in the log.
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Waits for what is still to be handed on, not for long.
    pub(super) fn end(self) {
        drop(self.lines);
        let _: Result<(), RecvTimeoutError> = self.ended.recv_timeout(LINGER);
    }
}

// === impl Reopen ===

impl Reopen {
    /// Before the next line.
    pub(super) fn ask(&self) {
        self.0.reopen.store(true, Ordering::Relaxed);
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|b| **b == b'\n').count() as u64
}

// === impl Forward ===

impl Forward {
    fn run(&mut self, waiting: &Receiver<Vec<u8>>) {
        while let Ok(lines) = waiting.recv() {
            if self.state.reopen.swap(false, Ordering::Relaxed) {
                (self.open, self.not_before) = (None, None);
            }
            let sent = if self.not_before.is_some_and(|at| Instant::now() < at) { 0 } else { self.send(&lines) };
            self.state.dropped.fetch_add(count(&lines) - sent, Ordering::Relaxed);
        }
    }

    /// Gives how many lines it took.
    fn send(&mut self, lines: &[u8]) -> u64 {
        let mut sent = 0;
        for line in lines.split_inclusive(|b| *b == b'\n') {
            // once anew: a daemon that was started again has another socket of the same name
            let done = self.send_one(line).or_else(|e| {
                self.open = None;
                if matches!(self.sink, Sink::Syslog(_)) && e.kind() != io::ErrorKind::WouldBlock {
                    self.send_one(line)
                } else {
                    Err(e)
                }
            });
            if done.is_err() {
                self.open = None;
                self.not_before = Some(Instant::now() + PAUSE);
                break;
            }
            sent += 1;
        }
        sent
    }

    fn send_one(&mut self, line: &[u8]) -> io::Result<()> {
        let host = &self.host;
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::new(&self.sink)?),
        };
        match open {
            Open::File(file) => file.write_all(line),
            Open::Socket(socket) => socket.send(&message(host, line)).map(drop),
        }
    }
}

// === impl Open ===

impl Open {
    fn new(sink: &Sink) -> io::Result<Self> {
        match sink {
            Sink::File(path) => {
                // a pipe that nobody reads must not hold the thread up
                let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
                let mut options = OpenOptions::new();
                options.append(true).create(true).mode(0o600).custom_flags(flags).open(path).map(Self::File)
            }
            Sink::Syslog(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(SEND_MAX))?;
                Ok(Self::Socket(socket))
            }
        }
    }
}

/// As RFC 5424 has it; the time is the record's.
fn message(host: &str, line: &[u8]) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let time = super::line::parse(line).map_or("-".to_owned(), |l| super::line::show(l.time));
    let head = format!("<{PRIORITY}>1 {time} {host} runner {} audit - ", std::process::id());
    [head.as_bytes(), line].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_gets_messages_also_after_its_daemon_was_started_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let collector = Collector::start(Sink::Syslog(path.clone())).expect("starts");
        let mut buffer = [0; 1024];
        for _ in 0..2 {
            let daemon = UnixDatagram::bind(&path).expect("binds");
            daemon.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
            collector.offer(b"{\"seq\":1}\n");
            let length = daemon.recv(&mut buffer).expect("receives");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(text.starts_with("<85>1 - ") && text.ends_with(" audit - {\"seq\":1}"), "{text}");
            std::fs::remove_file(&path).expect("removes");
        }
        assert_eq!(collector.dropped(), 0);
        collector.end();
    }

    #[test]
    fn a_collector_that_is_down_is_counted_and_held_up_by_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes");
        for sink in
            [Sink::File(folder.path().join("no/such")), Sink::Syslog(folder.path().join("none")), Sink::File(pipe)]
        {
            let collector = Collector::start(sink.clone()).expect("starts");
            for _ in 0..3 * WAITING_MAX {
                collector.offer(b"a\nb\n");
            }
            let state = Arc::clone(&collector.state);
            collector.end();
            assert_eq!(state.dropped.load(Ordering::Relaxed), 6 * WAITING_MAX as u64, "{sink:?}");
        }
    }

    #[test]
    fn a_file_that_was_moved_is_opened_anew_on_demand() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("out"), folder.path().join("out.1"));
        let collector = Collector::start(Sink::File(path.clone())).expect("starts");
        collector.offer(b"one\n");
        while std::fs::read(&path).map_or(0, |b| b.len()) < 4 {
            std::thread::yield_now();
        }
        std::fs::rename(&path, &moved).expect("moves");
        collector.reopener().ask();
        collector.offer(b"two\n");
        collector.end();
        assert_eq!(std::fs::read(&path).expect("reads"), b"two\n");
        assert_eq!(std::fs::read(&moved).expect("reads"), b"one\n");
    }
}
