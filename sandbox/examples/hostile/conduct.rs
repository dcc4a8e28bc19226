//! What a hostile program does to whoever listens to it: on its own sockets and in its own part of the spool, in a worker's place. One at a
//! time, since each ends its operation or its job. Whether anything else was harmed is for its test to say.

use super::{Tried, call, last};
use prost::Message as _;
use shared_proto::frame::{Header, Kind};
use shared_proto::spool::Writer;
use shared_proto::v1::event::Body;
use shared_proto::v1::{
    Event, JobControl, JobNotice, JobPing, JobResult, Outcome, OutputLine, PhaseChanged, job_control, job_notice,
};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As many descriptors as one message carries.
const RIGHTS: usize = 253;
/// Messages of a flood of descriptors: ten thousand of them.
const MESSAGES: usize = 40;
/// A flood of events, bytes.
const FLOOD: usize = 16 << 20;
/// Where an operation asks for connections.
const DIAL: RawFd = 4;

fn words<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|e| e.to_string())
}

/// Until somebody ends this process.
fn wait() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// So many copies of a descriptor in one message, with one byte; waits where the other end takes them slowly.
fn pass(socket: RawFd, byte: u8, descriptor: RawFd, count: usize) -> Result<(), String> {
    let length = count * size_of::<RawFd>();
    // SAFETY: computes sizes.
    let (space, header) = unsafe { (libc::CMSG_SPACE(length as _) as usize, libc::CMSG_LEN(length as _) as usize) };
    let mut control = vec![0_u64; space.div_ceil(8)];
    let mut part = libc::iovec { iov_base: std::ptr::from_ref(&byte).cast_mut().cast(), iov_len: 1 };
    // SAFETY: all zero is a valid value of this plain struct; it and what it points at outlive the call; the control message has its room.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = space;
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = header;
        for n in 0..count {
            libc::CMSG_DATA(first).cast::<RawFd>().add(n).write_unaligned(descriptor);
        }
        if libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) < 0 { Err(last()) } else { Ok(()) }
    }
}

/// As many as one message carries, once there are few enough in flight.
fn pass_patiently(socket: RawFd, descriptor: RawFd) -> Result<(), String> {
    let mut tries = 0;
    while let Err(e) = pass(socket, 7, descriptor, RIGHTS) {
        // ETOOMANYREFS: who reads is behind
        if !e.contains("os error 109") || tries == 1000 {
            return Err(format!("after {tries} tries: {e}"));
        }
        tries += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The same again and again.
fn pass_many(socket: RawFd, descriptor: RawFd) -> Result<(), String> {
    (0..MESSAGES).try_for_each(|_| pass_patiently(socket, descriptor))
}

// === an operation's worker ===

/// Does that, on the socket of an operation that has its request.
pub(super) fn operation(name: &str, socket: &UnixStream) {
    let end =
        |code: &str| Outcome { code: code.into(), message: "the worker's own words".into(), ..Default::default() };
    let raw = |bytes: &[u8]| {
        let mut socket = socket;
        socket.write_all(bytes)
    };
    let frame = |kind: Kind, content: &[u8]| {
        let mut frame = Header { kind, length: content.len() }.encode().to_vec();
        frame.extend(content);
        frame
    };
    let outcome = |code: &str| frame(Kind::Outcome, &end(code).encode_to_vec());
    let huge = |kind: Kind| [kind as u8, 0xff, 0xff, 0xff];
    let piece = frame(Kind::Data, &[7; 32 * 1024]);
    let half = &piece[..1000];
    let _ = match name {
        "well" => raw(&frame(Kind::Data, b"well")).and_then(|()| raw(&outcome("ok"))),
        "socket_flood" => loop {
            if raw(&piece).is_err() {
                break Ok(());
            }
        },
        "frame_huge" => raw(&huge(Kind::Data)),
        "outcome_huge" => raw(&huge(Kind::Outcome)),
        "frame_half" => raw(half),
        "frame_half_at_the_end" => {
            let _ = raw(half);
            std::process::exit(0)
        }
        "header_half" => {
            let _ = raw(&piece[..2]);
            std::process::exit(0)
        }
        "frame_unknown" => raw(&[99, 0, 0, 0]),
        "frame_of_the_supervisor" => raw(&frame(Kind::Request, b"x")),
        "outcome_rubbish" => raw(&frame(Kind::Outcome, &[0xff; 16])),
        "outcome_twice" => {
            raw(&outcome("ok")).and_then(|()| raw(&outcome("target_forbidden"))).and_then(|()| raw(&piece))
        }
        "outcome_invented" => raw(&outcome("no_such\u{1b}[2J\n")),
        "outcome_without_code" => raw(&outcome("")),
        "outcome_of_another" => raw(&outcome("connection_lost")),
        "descriptors_passed" => {
            let header = Header { kind: Kind::Data, length: 1 }.encode();
            let passed = (0..MESSAGES).try_for_each(|_| {
                raw(&header).map_err(|e| e.to_string())?;
                pass_patiently(socket.as_raw_fd(), 0)
            });
            match passed {
                Ok(()) => raw(&outcome("ok")),
                // the byte that was announced
                Err(e) => {
                    raw(b"x").and_then(|()| raw(&frame(Kind::Stderr, e.as_bytes()))).and_then(|()| raw(&outcome("ok")))
                }
            }
        }
        "dial_descriptors" => {
            let _ = pass_many(DIAL, 0);
            raw(&outcome("ok"))
        }
        "dial_flood" => {
            let question = [&443_u16.to_be_bytes()[..], b"somewhere.example"].concat();
            // it blocks nobody: what does not fit is not sent
            for _ in 0..100_000 {
                let _ = call(
                    libc::SYS_sendto,
                    [DIAL.into(), question.as_ptr() as i64, question.len() as i64, libc::MSG_NOSIGNAL.into(), 0, 0],
                );
            }
            raw(&outcome("ok"))
        }
        "dial_rubbish" => {
            let rubbish = vec![0xff_u8; 64 * 1024];
            let _ = call(
                libc::SYS_sendto,
                [DIAL.into(), rubbish.as_ptr() as i64, rubbish.len() as i64, libc::MSG_NOSIGNAL.into(), 0, 0],
            );
            raw(&outcome("ok"))
        }
        _ => raw(&outcome("unimplemented")),
    };
    // whoever reads it ends this process
    wait()
}

// === a job's worker ===

/// The job's events, as far as they are well-formed.
struct Events {
    writer: Writer,
}

impl Events {
    fn open(path: &Path) -> Result<Self, String> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        Ok(Self { writer: Writer::open(words(file)?).map_err(|e| e.to_string())?.0 })
    }
    fn event(&mut self, body: Body) -> Result<(), String> {
        let event = Event {
            sequence: self.writer.next_sequence(),
            time_ms: shared_proto::now_ms(),
            engine_read: None,
            body: Some(body),
        };
        self.content(&event.encode_to_vec())
    }
    fn content(&mut self, content: &[u8]) -> Result<(), String> {
        self.writer.append(content).map_err(|e| e.to_string())?;
        self.writer.sync().map_err(|e| e.to_string())
    }
    fn phase(&mut self, phase: &str) -> Result<(), String> {
        self.event(Body::PhaseChanged(PhaseChanged { phase: phase.into(), ..Default::default() }))
    }
    fn line(&mut self, text: String) -> Result<(), String> {
        self.event(Body::OutputLine(OutputLine { stream: "stdout".into(), text }))
    }
    fn result(&mut self, phase: &str, code: &str, message: &str) -> Result<(), String> {
        let (phase, code, message) = (phase.into(), code.into(), message.into());
        self.event(Body::Result(JobResult { phase, code, message, ..Default::default() }))
    }
}

/// What is known of the job.
pub(super) struct Job {
    /// A file that is none of its business.
    pub(super) foreign: PathBuf,
    /// A socket that is none of its business.
    pub(super) foreign_socket: PathBuf,
    /// The state of its stack.
    pub(super) state: PathBuf,
    /// What the supervisor keeps of it.
    pub(super) own: PathBuf,
    /// A process that is none of its business.
    pub(super) bystander: String,
}

/// Does that, in the folder of a job that has its request. What was stopped ends as a job does that has nothing to do.
pub(super) fn job(name: &str, job: &Job) {
    // that it was started, for whoever counts
    if let Ok(mut started) = OpenOptions::new().append(true).create(true).open(job.state.join("started")) {
        let _ = started.write_all(b"started\n");
    }
    let why = match conduct(name, job) {
        Ok(_) => wait(),
        Err(why) => why,
    };
    let said = Events::open(Path::new("events"))
        .and_then(|mut events| events.phase("planning").and_then(|()| events.result("planned", "ok", &why)));
    if let Err(e) = said {
        eprintln!("hostile: {name}: {why}; {e}");
    }
}

fn conduct(name: &str, job: &Job) -> Tried {
    let spool = Path::new("events");
    let events = || {
        let mut events = Events::open(spool)?;
        events.phase("preparing").and_then(|()| events.phase("planning"))?;
        Ok::<_, String>(events)
    };
    let raw = |bytes: &[u8]| {
        let mut file = words(OpenOptions::new().append(true).open(spool))?;
        words(file.write_all(bytes).and_then(|()| file.sync_all()))
    };
    let done = || Ok("done".to_owned());
    match name {
        "well" => return Err("nothing was tried".to_owned()),
        // the log of events
        "events_number_again" => {
            events()?;
            let first = words(std::fs::read(spool))?;
            raw(&first[8..])?;
        }
        "events_number_left_out" => {
            events()?;
            let mut other = Events::open(Path::new("other"))?;
            (0..5).try_for_each(|_| other.content(b""))?;
            // the last of them, which has no content: sixteen bytes
            let bytes = words(std::fs::read("other"))?;
            raw(&bytes[bytes.len() - 16..])?;
        }
        "events_record_huge" => {
            events()?;
            raw(&[0xff; 64])?;
        }
        "events_record_half" => {
            events()?.line("half of this".to_owned())?;
            let whole = words(std::fs::metadata(spool))?.len();
            words(words(OpenOptions::new().write(true).open(spool))?.set_len(whole - 3))?;
            std::process::exit(0);
        }
        "events_rubbish" => events()?.content(&[0xff; 100])?,
        "events_number_lied" => {
            let event = Event { sequence: 77, ..Default::default() };
            events()?.content(&event.encode_to_vec())?;
        }
        "events_result_contradicted" => {
            let mut events = events()?;
            events.result("planned", "ok", "the first")?;
            events.result("failed", "engine_failed", "the second")?;
            events.phase("applied")?;
            std::process::exit(0);
        }
        "events_phase_invented" => {
            let mut events = events()?;
            for phase in ["applied", "no_such\u{1b}[2J", "pending", "lost"] {
                events.phase(phase)?;
            }
            events.result("no_such", "no_such\u{1b}[2J", "\u{1b}[2J")?;
            std::process::exit(0);
        }
        "events_flood" => {
            let mut events = events()?;
            let text = "x".repeat(60 * 1024);
            for _ in 0..FLOOD / text.len() {
                events.line(text.clone())?;
            }
            events.result("planned", "ok", "the flood is over")?;
            std::process::exit(0);
        }
        // other things in its place
        "events_fifo" => node(spool, libc::S_IFIFO, 0)?,
        "events_device" => node(spool, libc::S_IFCHR, 0x0105)?,
        "events_socket" => drop(words(UnixListener::bind(spool))?),
        "events_folder" => words(std::fs::create_dir(spool))?,
        "events_hard_link" => words(std::fs::hard_link(&job.foreign, spool))?,
        "events_symbolic_link" => words(std::os::unix::fs::symlink(&job.foreign, spool))?,
        "events_link_to_itself" => words(std::os::unix::fs::symlink(spool, spool))?,
        "events_sparse" => {
            events()?;
            let file = words(OpenOptions::new().write(true).open(spool))?;
            // as large as the file system lets it be
            let mut size = i64::MAX as u64;
            while file.set_len(size).is_err() {
                size /= 2;
            }
        }
        "events_truncated" => {
            let mut events = events()?;
            for n in 0..100 {
                events.line(format!("line {n}"))?;
            }
            until_told(|sequence| sequence > 0)?;
            words(words(OpenOptions::new().write(true).open(spool))?.set_len(0))?;
            std::process::exit(0);
        }
        "events_changing" => {
            let mut events = events()?;
            events.line("x".repeat(1000))?;
            // lengths, numbers and checksums while they are read
            let file = words(OpenOptions::new().write(true).open(spool))?;
            let end = words(file.metadata())?.len();
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    let at = 8 + n * 7 % (end - 8);
                    let _ = file.write_at(&n.to_le_bytes()[..1], at);
                    let _ = file.set_len(end - n % 900);
                }
            });
        }
        "events_lease" => {
            events()?;
            let file = words(OpenOptions::new().write(true).open(spool))?;
            call(libc::SYS_fcntl, [file.as_raw_fd().into(), 1024, libc::F_WRLCK.into(), 0, 0, 0])?;
            std::mem::forget(file);
        }
        "ended_fifo" => {
            events()?;
            node(Path::new("worker-ended.json"), libc::S_IFIFO, 0)?;
            dies()?;
        }
        "ended_lie" => {
            events()?;
            words(std::fs::write("worker-ended.json", b"{\"signal\":9,\"left\":\"asked\"}"))?;
            dies()?;
        }
        "ended_huge" => {
            events()?;
            words(words(File::create("worker-ended.json"))?.set_len(1 << 40))?;
            dies()?;
        }
        "refused_fifo" => {
            node(Path::new("refused"), libc::S_IFIFO, 0)?;
            // whoever connects for this job writes down there what it refused; then it has to go on
            let tried = [super::reach("169.254.169.254:80"), super::reach("169.254.170.2:80")];
            return Err(format!("{tried:?}"));
        }
        // its control socket
        "control_flood" => {
            events()?;
            answer(|mut stream| {
                let notice = notice(job_notice::Kind::Appended(u64::MAX));
                while stream.write_all(&notice).is_ok() {}
            })?;
        }
        "control_frame_huge" => {
            events()?;
            answer(|mut stream| drop(stream.write_all(&[Kind::Control as u8, 0xff, 0xff, 0xff])))?;
        }
        "control_frame_half" => {
            events()?;
            answer(|mut stream| {
                let _ = stream.write_all(&notice(job_notice::Kind::Appended(3))[..5]);
                wait()
            })?;
        }
        "control_not_read" => {
            events()?;
            answer(|_stream| wait())?;
        }
        "control_lie" => {
            let mut events = events()?;
            answer(|mut stream| {
                for kind in [
                    job_notice::Kind::StepEnded("apply".into()),
                    job_notice::Kind::Appended(0),
                    job_notice::Kind::Appended(u64::MAX),
                    job_notice::Kind::Pong(JobPing { nonce: u64::MAX }),
                ] {
                    let _ = stream.write_all(&notice(kind));
                }
            })?;
            until_told(|_| true)?;
            events.result("planned", "ok", "nobody believed it")?;
            std::process::exit(0);
        }
        "control_descriptors" => {
            events()?;
            answer(|stream| {
                // the content of a notice that never comes to its end
                let mut stream = stream;
                let _ = stream.write_all(&Header { kind: Kind::Control, length: 4000 }.encode());
                let _ = pass_many(stream.as_raw_fd(), 0);
                wait()
            })?;
        }
        "control_link" => {
            events()?;
            words(std::os::unix::fs::symlink(&job.foreign_socket, "control.sock"))?;
            dies()?;
        }
        "control_of_another" => {
            events()?;
            // a process that the job's first one did not start
            super::fork(|| {
                let _ = answer(|mut stream| while stream.write_all(&notice(job_notice::Kind::Appended(1))).is_ok() {});
                wait_for_the_parent()
            })?;
        }
        // for the next supervisor, while there is none
        "adoption_events_cut" => {
            events()?;
            until_alone();
            words(words(OpenOptions::new().write(true).open(spool))?.set_len(8))?;
            done_alone();
            std::process::exit(0);
        }
        "adoption_ended_forged" => {
            events()?;
            until_alone();
            words(std::fs::write("worker-ended.json", b"{\"signal\":9,\"left\":\"nothing\"}"))?;
            done_alone();
            std::process::exit(0);
        }
        "adoption_markers_forged" => {
            events()?;
            until_alone();
            // as if the step were another process's
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", job.bystander)).unwrap_or_default();
            let start =
                stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or("0").to_owned();
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let process =
                format!("{{\"pid\":{},\"start_time\":{start},\"boot_id\":\"{}\"}}", job.bystander, boot.trim());
            let marker = format!("{{\"process\":{process},\"plan_sha256\":\"\",\"told\":false}}");
            for name in ["started-plan", "started-apply", "result.json", "assignment.json", "acknowledged"] {
                for folder in [&job.own, Path::new("."), Path::new("../own")] {
                    let _ = std::fs::write(folder.join(name), &marker);
                }
                let _ = std::os::unix::fs::symlink(format!("../work/{name}"), job.own.join(name));
            }
            done_alone();
        }
        "adoption_socket_elsewhere" => {
            events()?;
            until_alone();
            words(std::os::unix::fs::symlink(&job.foreign_socket, "control.sock"))?;
            done_alone();
        }
        "adoption_spool_linked" => {
            events()?;
            until_alone();
            let _ = std::fs::rename(spool, "moved");
            words(std::os::unix::fs::symlink(&job.foreign, spool))?;
            done_alone();
        }
        // what every process of this user shares
        "descriptors_in_flight" => {
            let held = descriptors_in_flight()?;
            events()?.line(format!("{held} descriptors in flight"))?;
        }
        // until it is stopped
        "disk_without_end" => {
            events()?;
            fill(Path::new("data"), None)?;
        }
        "disk_of_the_stack" => {
            events()?;
            fill(&job.state, None)?;
        }
        "inodes_without_end" => {
            events()?;
            fill(Path::new("data"), Some(()))?;
        }
        _ => return Err("no such conduct".to_owned()),
    }
    done()
}

/// Until somebody says that there is no supervisor.
fn until_alone() {
    while !Path::new("alone").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn done_alone() {
    let _ = std::fs::write("done-alone", b"");
}

/// A file that is none.
fn node(path: &Path, kind: libc::mode_t, device: i64) -> Result<(), String> {
    let name = std::ffi::CString::new(path.display().to_string()).map_err(|e| e.to_string())?;
    let arguments = [libc::AT_FDCWD.into(), name.as_ptr() as i64, (kind | 0o600).into(), device, 0, 0];
    call(libc::SYS_mknodat, arguments).map(drop)
}

/// Ends as by a fault of its own.
fn dies() -> Result<(), String> {
    // SAFETY: ends this process.
    unsafe { libc::raise(libc::SIGKILL) };
    // the first of a pid namespace: nothing but its end is left to it
    std::process::exit(137)
}

fn notice(kind: job_notice::Kind) -> Vec<u8> {
    let content = JobNotice { kind: Some(kind) }.encode_to_vec();
    let mut frame = Header { kind: Kind::Control, length: content.len() }.encode().to_vec();
    frame.extend(content);
    frame
}

/// Listens on the control socket, and has each supervisor that comes met so.
fn answer(meet: impl Fn(UnixStream) + Copy + Send + 'static) -> Result<(), String> {
    let listener = words(UnixListener::bind("control.sock"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || meet(stream));
        }
    });
    Ok(())
}

/// Until a supervisor has come and has pinged, and so has looked at the events before.
fn until_told(enough: impl Fn(u64) -> bool) -> Result<(), String> {
    let _ = std::fs::remove_file("control.sock");
    let listener = words(UnixListener::bind("control.sock"))?;
    for mut stream in listener.incoming().flatten() {
        let _ = stream.write_all(&notice(job_notice::Kind::Appended(100)));
        let mut header = [0; Header::SIZE];
        while stream.read_exact(&mut header).is_ok() {
            let mut content = vec![0; usize::from(header[1]) | usize::from(header[2]) << 8];
            if stream.read_exact(&mut content).is_err() {
                break;
            }
            if let Ok(JobControl { kind: Some(job_control::Kind::Ping(ping)) }) = JobControl::decode(&content[..])
                && enough(ping.nonce)
            {
                return Ok(());
            }
        }
    }
    Err("nobody came".to_owned())
}

fn wait_for_the_parent() {
    // SAFETY: reads a number.
    while unsafe { libc::getppid() } != 1 {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// As many descriptors as may be, in messages that nobody takes, in sockets that nobody but the messages has.
fn descriptors_in_flight() -> Result<usize, String> {
    let mut held = 0;
    let mut kept: Vec<UnixStream> = Vec::new();
    for _ in 0..2000 {
        let (one, other) = words(UnixStream::pair())?;
        let mut here = 0;
        while here < 8 && pass(one.as_raw_fd(), 0, 0, RIGHTS).is_ok() {
            (here, held) = (here + 1, held + RIGHTS);
        }
        kept.extend([one, other]);
        if here < 8 {
            break;
        }
    }
    std::mem::forget(kept);
    Ok(held)
}

/// Files until it is stopped: large ones, or many empty ones.
fn fill(folder: &Path, many: Option<()>) -> Result<(), String> {
    let _ = std::fs::create_dir(folder);
    let block = vec![7_u8; 1 << 20];
    for n in 0_u64.. {
        let mut file = words(File::create(folder.join(format!("bomb-{n}"))))?;
        if many.is_some() {
            continue;
        }
        for _ in 0..8 {
            words(file.write_all(&block))?;
        }
        // no faster than somebody who looks every second can see
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
