//! A job's folder and the worker in it, as the supervisor would start it: own session, request on descriptor 3, events in the spool.
#![allow(dead_code, unreachable_pub, missing_docs)]

use prost::Message as _;
use shared_proto::frame::{Header, Kind};
use shared_proto::spool::Reader;
use shared_proto::states;
use shared_proto::v1::event::Body;
use shared_proto::v1::{
    ArchiveSource, EngineProgram, Event, GitSource, JobCancel, JobControl, JobFirst, JobKind, JobNotice, JobPing,
    JobRequest, JobResult, JobStart, Source, job_control, source,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Generous: a loaded machine is slow, and a test that waits for an event does not wait longer than it takes.
pub const LONG: Duration = Duration::from_secs(120);

/// The engines that are here.
pub fn engines() -> Vec<EngineProgram> {
    let cached = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/runner-test-tools/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).chain(cached).collect();
    let mut found = Vec::new();
    for (name, program) in [("opentofu", "tofu"), ("terraform", "terraform")] {
        let Some(path) = folders.iter().map(|f| f.join(program)).find(|p| p.is_file()) else {
            println!("SKIPPED: no {program} here");
            continue;
        };
        let said =
            Command::new(&path).args(["version", "-json"]).env("CHECKPOINT_DISABLE", "1").output().expect("runs");
        let text = String::from_utf8_lossy(&said.stdout);
        let value: serde_json::Value = serde_json::from_str(&text[text.find('{').unwrap_or(0)..]).expect("JSON");
        let version = value["terraform_version"].as_str().unwrap_or_default().to_owned();
        found.push(EngineProgram { name: name.into(), path: path.display().to_string(), version });
    }
    found
}

pub struct Job {
    pub folder: tempfile::TempDir,
    pub engine: EngineProgram,
    pub start: JobStart,
}

pub struct Running {
    pub child: Child,
    work: PathBuf,
}

impl Job {
    /// A job whose source is an archive of these files.
    pub fn new(engine: &EngineProgram, kind: JobKind, files: &[(&str, &str)]) -> Self {
        Self::within(tempfile::tempdir().expect("a folder"), engine, kind, files)
    }
    /// The same in that folder: below /tmp every program writes what it likes.
    pub fn within(folder: tempfile::TempDir, engine: &EngineProgram, kind: JobKind, files: &[(&str, &str)]) -> Self {
        let mut job = Self { folder, engine: engine.clone(), start: JobStart::default() };
        std::fs::create_dir_all(job.work()).expect("a folder");
        job.start = JobStart {
            request: Some(JobRequest {
                format: 1,
                job_id: "j1".into(),
                stack_id: STACK.into(),
                created_by: "ann".into(),
                kind: kind.into(),
                engine: engine.name.clone(),
                cancel_grace_seconds: 60,
                ..Default::default()
            }),
            step: "plan".into(),
            engine: Some(engine.clone()),
            state_directory: job.folder.path().join("stacks/s").display().to_string(),
            state_key: key().bytes().to_vec(),
            instance: "i1".into(),
            git_path: "/usr/bin/git".into(),
            next_sequence: 1,
            ..Default::default()
        };
        job.source(files);
        job
    }
    pub fn request(&mut self) -> &mut JobRequest {
        self.start.request.as_mut().expect("a request")
    }
    pub fn source(&mut self, files: &[(&str, &str)]) {
        self.archive(&packed(files));
    }
    pub fn archive(&mut self, bytes: &[u8]) {
        use sha2::Digest as _;
        let path = self.folder.path().join("source.tar.gz");
        std::fs::write(&path, bytes).expect("writes");
        let sha256 = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        self.start.archive_path = path.display().to_string();
        let kind = source::Kind::Archive(ArchiveSource { sha256, size: bytes.len() as u64 });
        self.request().source = Some(Source { kind: Some(kind), path: String::new() });
    }
    pub fn git(&mut self, url: &str, reference: &str) {
        self.git_source(GitSource { url: url.into(), reference: reference.into(), ..Default::default() }, "");
    }
    /// A Git source as it is, whose root module is in that folder.
    pub fn git_source(&mut self, git: GitSource, path: &str) {
        self.request().source = Some(Source { kind: Some(source::Kind::Git(git)), path: path.into() });
    }
    /// The same stack again, as a new job of another folder.
    pub fn again(&self, kind: JobKind) -> Self {
        let mut next = Self::new(&self.engine, kind, &[]);
        next.start.state_directory.clone_from(&self.start.state_directory);
        next.start.archive_path.clone_from(&self.start.archive_path);
        next.start.environment.clone_from(&self.start.environment);
        let request = self.start.request.clone().expect("a request");
        next.request().source.clone_from(&request.source);
        next.request().variables = request.variables;
        next
    }
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }
    pub fn begin(&self, step: &str) -> Running {
        self.begin_as("job", Some(&JobFirst::default()), step)
    }
    /// The step with its first process, whose workers are followed by others when they die.
    pub fn begin_followed(&self, step: &str) -> Running {
        let first = JobFirst { takes_over: true, ..Default::default() };
        self.begin_as("job", Some(&first), step)
    }
    fn begin_as(&self, mode: &str, first: Option<&JobFirst>, step: &str) -> Running {
        let mut start = self.start.clone();
        start.step = step.into();
        start.next_sequence = events(&self.work()).len() as u64 + 1;
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        // descriptor 3 without unsafe code: a shell moves it there; setsid as the spawner does
        let child = Command::new("sh")
            .args(["-c", "exec 3<&0 4<\"$0\" </dev/null; exec setsid \"$0\" \"$1\""])
            .args([env!("CARGO_BIN_EXE_runner-worker-iac"), mode])
            .current_dir(self.work())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("TF_CLI_ARGS", "-must-not-come-through")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("starts");
        for content in first.map(prost::Message::encode_to_vec).into_iter().chain([start.encode_to_vec()]) {
            ours.write_all(&Header::new(Kind::Request, content.len()).expect("fits").encode()).expect("writes");
            ours.write_all(&content).expect("writes");
        }
        // ours goes: the worker must go on without it
        Running { child, work: self.work() }
    }
    pub fn run(&self, step: &str) -> Vec<Event> {
        self.whole(self.begin(step))
    }
    /// The same without a first process, so in the test's own network.
    pub fn run_here(&self, step: &str) -> Vec<Event> {
        self.whole(self.begin_as("step", None, step))
    }
    fn whole(&self, mut running: Running) -> Vec<Event> {
        let status = running.wait();
        assert!(status.success(), "{status:?}");
        events(&self.work())
    }
    pub fn state(&self) -> serde_json::Value {
        let newest = *self.versions().last().expect("a state");
        serde_json::from_slice(&self.version(newest).1).expect("JSON")
    }
    /// The numbers of the versions in the store, in order.
    pub fn versions(&self) -> Vec<u64> {
        let folder = Path::new(&self.start.state_directory).join(states::VERSIONS);
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let numbers: BTreeSet<_> = names.filter_map(|name| states::number_of(name.to_str()?)).collect();
        numbers.into_iter().collect()
    }
    /// One of them, opened.
    pub fn version(&self, number: u64) -> (states::Head, Vec<u8>) {
        let folder = Path::new(&self.start.state_directory).join(states::VERSIONS);
        let file = std::fs::read(folder.join(states::file_name(number))).expect("a version");
        key().open(STACK, number, file).expect("opens")
    }
}

/// The stack that all jobs here are of, and the key of its states.
pub const STACK: &str = "s";
pub fn key() -> states::Key {
    states::Root::from_text(&"07".repeat(32)).expect("a key").of_stack(STACK)
}

impl Running {
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            assert!(Instant::now() < end, "the worker does not end: {:#?}", events(&self.work));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    /// Waits for an event.
    pub fn until(&self, what: &str, wanted: impl Fn(&Body) -> bool) {
        self.look(Duration::from_millis(10), what, wanted);
    }
    /// The same, and returns within microseconds of its being written.
    pub fn at_once(&self, what: &str, wanted: impl Fn(&Body) -> bool) {
        self.look(Duration::ZERO, what, wanted);
    }
    /// Waits for what no event tells, and returns within microseconds of it.
    pub fn until_true(&self, what: &str, wanted: impl Fn() -> bool) {
        let end = Instant::now() + LONG;
        while !wanted() {
            assert!(Instant::now() < end, "no {what}: {:#?}", events(&self.work));
        }
    }
    fn look(&self, every: Duration, what: &str, wanted: impl Fn(&Body) -> bool) {
        let end = Instant::now() + LONG;
        while !events(&self.work).iter().filter_map(|e| e.body.as_ref()).any(&wanted) {
            assert!(Instant::now() < end, "no {what}: {:#?}", events(&self.work));
            std::thread::sleep(every);
        }
    }
    pub fn control(&self) -> Control {
        let end = Instant::now() + LONG;
        // by a short path: the socket's own may be longer than an address holds
        let folder = File::open(&self.work).expect("opens");
        let path = format!("/proc/self/fd/{}/control.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LONG)).expect("sets");
                    return Control(stream);
                }
                Err(e) => assert!(Instant::now() < end, "no control socket: {e}: {:#?}", events(&self.work)),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    /// The worker below the first process, another one than that; its number.
    pub fn worker(&self, not: Option<i32>) -> i32 {
        let first = i32::try_from(self.child.id()).expect("a pid");
        let is = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|b| *b == 0).collect();
            *pid != first && Some(*pid) != not && words.get(1).is_some_and(|w| *w == b"step" || *w == b"follow")
        };
        let end = Instant::now() + LONG;
        loop {
            if let Some(worker) = session_of(first).into_iter().find(is) {
                return worker;
            }
            assert!(Instant::now() < end, "no worker: {:#?}", events(&self.work));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    /// The engine that runs: who leads a process group and neither is the first process nor a worker.
    pub fn engine(&self) -> nix::unistd::Pid {
        let first = i32::try_from(self.child.id()).expect("a pid");
        let leads = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let ours = line.split(|b| *b == 0).next().is_some_and(|w| w.ends_with(b"runner-worker-iac"));
            let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(*pid)));
            !ours && group.is_ok_and(|g| g.as_raw() == *pid)
        };
        nix::unistd::Pid::from_raw(session_of(first).into_iter().find(leads).expect("an engine"))
    }
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("signals");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // the whole session: the engine and what it started
        let session = i32::try_from(self.child.id()).unwrap_or_default();
        for pid in session_of(session) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// The processes of a session.
pub fn session_of(session: i32) -> BTreeSet<i32> {
    let pids = std::fs::read_dir("/proc").expect("reads").flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields.get(3).and_then(|s| s.parse().ok()) == Some(session) && fields.first() != Some(&"Z")
    })
    .collect()
}

pub struct Control(pub UnixStream);

impl Control {
    pub fn say(&mut self, kind: job_control::Kind) {
        let content = JobControl { kind: Some(kind) }.encode_to_vec();
        let mut bytes = Header::new(Kind::Control, content.len()).expect("fits").encode().to_vec();
        bytes.extend(content);
        self.0.write_all(&bytes).expect("writes");
    }
    pub fn cancel(&mut self, by: &str, force: bool) {
        self.say(job_control::Kind::Cancel(JobCancel { by: by.into(), force }));
    }
    /// Tells a worker that waits for it what the one before it was told.
    pub fn start(&mut self, start: &JobStart) {
        let content = start.encode_to_vec();
        self.0.write_all(&Header::new(Kind::Request, content.len()).expect("fits").encode()).expect("writes");
        self.0.write_all(&content).expect("writes");
    }
    pub fn ping(&mut self, nonce: u64) {
        self.say(job_control::Kind::Ping(JobPing { nonce }));
    }
    /// The next notice; `None` at the end.
    pub fn hear(&mut self) -> Option<shared_proto::v1::job_notice::Kind> {
        let mut header = [0; Header::SIZE];
        self.0.read_exact(&mut header).ok()?;
        let header = Header::decode(header).expect("a header");
        assert_eq!(header.kind, Kind::Control);
        let mut content = vec![0; header.length];
        self.0.read_exact(&mut content).expect("a whole frame");
        JobNotice::decode(content.as_slice()).expect("a notice").kind
    }
}

/// Kills the worker, where it lives, and has the next one told the same; its number.
pub fn follow(running: &Running, job: &Job, step: &str, worker: i32) -> i32 {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL);
    let next = running.worker(Some(worker));
    tell(running, job, step);
    next
}

/// Has the worker that waits for it told what the one before was.
pub fn tell(running: &Running, job: &Job, step: &str) {
    let mut control = running.control();
    loop {
        match control.hear() {
            Some(shared_proto::v1::job_notice::Kind::Waits(true)) => break,
            Some(_) => {}
            // the socket was still the dead one's
            None => control = running.control(),
        }
    }
    control.start(&JobStart { step: step.into(), ..job.start.clone() });
}

/// All events in the spool, as far as they are whole; numbered without a gap, or it panics.
pub fn events(work: &Path) -> Vec<Event> {
    let Ok(file) = File::open(work.join("events")) else { return Vec::new() };
    let Ok(mut reader) = Reader::new(file) else { return Vec::new() };
    let mut events = Vec::new();
    while let Some(record) = reader.read().expect("a whole spool") {
        let event = Event::decode(record.content.as_slice()).expect("an event");
        assert_eq!(event.sequence, record.sequence);
        events.push(event);
    }
    events
}

pub fn bodies(events: &[Event]) -> impl Iterator<Item = &Body> {
    events.iter().filter_map(|e| e.body.as_ref())
}

pub fn result(events: &[Event]) -> JobResult {
    match events.last().and_then(|e| e.body.clone()) {
        Some(Body::Result(result)) => result,
        _ => panic!("the last event is no result: {events:#?}"),
    }
}

pub fn phases(events: &[Event]) -> Vec<&str> {
    bodies(events)
        .filter_map(|b| match b {
            Body::PhaseChanged(p) => Some(p.phase.as_str()),
            _ => None,
        })
        .collect()
}

/// The first engine that is here.
pub fn engine() -> Option<EngineProgram> {
    let engine = engines().into_iter().next();
    if engine.is_none() {
        println!("SKIPPED: no engine here");
    }
    engine
}

/// Files as a tar.gz.
pub fn packed(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if path.ends_with(".sh") { 0o755 } else { 0o644 });
        tar.append_data(&mut header, path, content.as_bytes()).expect("packs");
    }
    tar.into_inner().expect("packs").finish().expect("packs")
}

pub fn outputs(events: &[Event]) -> serde_json::Value {
    let last = bodies(events).filter_map(|b| match b {
        Body::Outputs(outputs) => Some(outputs.json.clone()),
        _ => None,
    });
    serde_json::from_str(&last.last().expect("outputs")).expect("JSON")
}

/// A backend of the kind `http`, for as long as the test's process lives: what is put there is what is got. Its address.
pub fn keep_states(kept: std::sync::Arc<std::sync::Mutex<Vec<u8>>>) -> std::net::SocketAddr {
    keep_states_and_answer(kept, None)
}

/// The same, which answers whoever asks for a lock with that status and body.
pub fn keep_states_and_answer(
    kept: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    locks: Option<(&'static str, &'static str)>,
) -> std::net::SocketAddr {
    use std::io::{BufRead as _, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut request, mut length) = (String::new(), 0);
            let _ = reader.read_line(&mut request);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
            }
            let mut body = vec![0; length];
            let mut kept = kept.lock().expect("whole");
            if reader.read_exact(&mut body).is_ok() && request.starts_with("POST") {
                kept.clone_from(&body);
            }
            let status = if request.starts_with("GET") && kept.is_empty() { "404 Not Found" } else { "200 OK" };
            let content = if request.starts_with("GET") { kept.as_slice() } else { &[] };
            let (status, content) = match locks {
                Some((status, body)) if request.starts_with("LOCK") => (status, body.as_bytes()),
                _ => (status, content),
            };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", content.len());
            let mut stream = reader.into_inner();
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content));
        }
    });
    address
}
