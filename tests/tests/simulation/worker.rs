//! Jobs' workers as a supervisor sees them: a process with a number, a socket from which it takes its word, and a spool. What they do to it a
//! seed decides; they go on while supervisors die.

use super::chance::Chance;
use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use prost::Message as _;
use runner_supervisor::workers::Exit;
use shared_proto::frame::{self, Kind};
use shared_proto::spool::Writer;
use shared_proto::v1::event::Body;
use shared_proto::v1::{self, Event, JobFirst, JobStart};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

/// All workers of one world, and what they did.
#[derive(Default)]
pub(crate) struct Workers {
    running: Vec<Worker>,
    /// What was written of each job, in order.
    pub(crate) written: BTreeMap<String, Vec<Event>>,
    /// How often a worker was told to do a step.
    pub(crate) told: BTreeMap<(String, String), u32>,
    /// Those that died before their end.
    pub(crate) died: Vec<String>,
}

struct Worker {
    child: Child,
    folder: PathBuf,
    socket: Option<UnixStream>,
    heard: Vec<u8>,
    exit: Option<oneshot::Sender<Exit>>,
    chance: Chance,
    doing: Option<Doing>,
    canceled: bool,
}

struct Doing {
    job: String,
    spool: Writer<File>,
    next: Duration,
    left: VecDeque<Body>,
    /// Dies in the place of its last words.
    dies: bool,
}

// === impl Workers ===

impl Workers {
    /// Starts one in that folder; its number, the supervisor's end of its socket, and how it ends.
    pub(crate) fn start(
        &mut self,
        folder: PathBuf,
        chance: Chance,
    ) -> Result<(i32, UnixStream, oneshot::Receiver<Exit>)> {
        let mut command = Command::new("sleep");
        let child = command.arg("10000").process_group(0).stdin(Stdio::null()).spawn().context("sleep")?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let (tell, exit) = oneshot::channel();
        let pid = i32::try_from(child.id())?;
        self.running.push(Worker {
            child,
            folder,
            socket: Some(theirs),
            heard: Vec::new(),
            exit: Some(tell),
            chance,
            doing: None,
            canceled: false,
        });
        Ok((pid, ours, exit))
    }

    /// A signal for one of them: what it does with it is up to the signal.
    pub(crate) fn signal(&mut self, pid: i32, kills: bool) {
        for worker in &mut self.running {
            if i64::from(worker.child.id()) == i64::from(pid) {
                worker.canceled |= !kills;
                if kills {
                    worker.end(None);
                }
            }
        }
        self.running.retain_mut(|worker| worker.lives());
    }

    /// What they do until that moment.
    pub(crate) fn go_on(&mut self, now: Duration) -> Result<()> {
        for worker in &mut self.running {
            if worker.doing.is_none() && !worker.take_word(now, &mut self.told)? {
                continue;
            }
            worker.work(now, &mut self.written, &mut self.died)?;
        }
        self.running.retain_mut(|worker| worker.lives());
        Ok(())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }
}

// === impl Worker ===

impl Worker {
    /// Takes what it is told, once that is whole; `false`: not yet, or never.
    fn take_word(&mut self, now: Duration, told: &mut BTreeMap<(String, String), u32>) -> Result<bool> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        let mut buffer = [0; 16 * 1024];
        let over = loop {
            match socket.read(&mut buffer) {
                Ok(0) => break true,
                Ok(length) => self.heard.extend_from_slice(&buffer[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break false,
                // with something of ours unread, as it died
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break true,
                Err(e) => return Err(e.into()),
            }
        };
        let mut words = self.heard.as_slice();
        let first = frame::read_message::<JobFirst, _>(&mut words, Kind::Request).now_or_never();
        let start = frame::read_message::<JobStart, _>(&mut words, Kind::Request).now_or_never();
        let (Some(Ok(Some(_))), Some(Ok(Some(start)))) = (first, start) else {
            if over {
                // whoever started it died before it said what to do
                self.end(Some(70));
            }
            return Ok(false);
        };
        self.socket = None;
        let request = start.request.context("a request")?;
        *told.entry((request.job_id.clone(), start.step.clone())).or_default() += 1;
        let path = self.folder.join("events");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let (spool, _) = Writer::open(file)?;
        let left = script(&start.step, request.kind(), &mut self.chance);
        let next = now + self.chance.time(20, 1500);
        self.doing = Some(Doing { job: request.job_id, spool, next, left, dies: self.chance.once_in(12) });
        Ok(true)
    }

    fn work(
        &mut self,
        now: Duration,
        written: &mut BTreeMap<String, Vec<Event>>,
        died: &mut Vec<String>,
    ) -> Result<()> {
        let Some(doing) = &mut self.doing else { return Ok(()) };
        // after its last word it does not listen
        if std::mem::take(&mut self.canceled) && !doing.left.is_empty() {
            doing.left = [result("canceled", "cancelled")].into();
            doing.dies = false;
        }
        while doing.next <= now {
            if doing.dies && doing.left.len() <= 1 {
                died.push(doing.job.clone());
                self.end(None);
                return Ok(());
            }
            let Some(body) = doing.left.pop_front() else {
                self.end(Some(0));
                return Ok(());
            };
            let time_ms = i64::try_from(now.as_millis())?;
            let event = Event { sequence: doing.spool.next_sequence(), time_ms, engine_read: None, body: Some(body) };
            doing.spool.append(&event.encode_to_vec())?;
            written.entry(doing.job.clone()).or_default().push(event);
            doing.next += self.chance.time(5, 1000);
        }
        Ok(())
    }

    /// Ends with that code, or by SIGKILL.
    fn end(&mut self, code: Option<i32>) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let signal = code.is_none().then_some(9);
        if let Some(exit) = self.exit.take() {
            let _ = exit.send(Exit { code, signal, lost: false });
        }
        self.doing = None;
    }

    fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn phase(phase: &str) -> Body {
    Body::PhaseChanged(v1::PhaseChanged { phase: phase.into(), ..v1::PhaseChanged::default() })
}

fn result(phase: &str, code: &str) -> Body {
    Body::Result(v1::JobResult { phase: phase.into(), code: code.into(), ..v1::JobResult::default() })
}

/// What a worker says in one step.
fn script(step: &str, kind: v1::JobKind, chance: &mut Chance) -> VecDeque<Body> {
    let started = |command: &str| {
        Body::EngineStarted(v1::EngineStarted {
            engine: "opentofu".into(),
            version: "1".into(),
            command: command.into(),
            host: "here".into(),
        })
    };
    let mut said = VecDeque::from(match step {
        "apply" => [phase("applying"), started("apply")],
        _ => [phase("planning"), started("plan")],
    });
    for n in 0..chance.below(30) {
        let text = format!("line {n} of {step}: {}", "x".repeat(chance.below(2000) as usize));
        said.push_back(Body::OutputLine(v1::OutputLine { stream: "stdout".into(), text }));
    }
    if step == "apply" {
        said.push_back(result("applied", "ok"));
        return said;
    }
    let has_changes = !chance.once_in(6);
    let text = "Plan: 1 to add, 0 to change, 0 to destroy.".into();
    said.push_back(Body::PlanSaved(v1::PlanSaved { sha256: "ab".repeat(32), has_changes, text }));
    match (kind, has_changes) {
        (v1::JobKind::Preview, _) => said.push_back(result("planned", "ok")),
        (_, false) => said.push_back(result("no_changes", "ok")),
        (_, true) => said.extend([phase("planned"), phase("awaiting_approval")]),
    }
    said
}
