//! Reads a job's events from its spool. The worker writes it, and what runs in the job may write it too: nothing is believed that
//! is not checked, and opening it must neither follow a link nor wait for a writer.

use super::folder::Folder;
use prost::Message as _;
use shared_proto::begun::Begun;
use shared_proto::failure::{Code, Failure};
use shared_proto::rules::BY_POLICY;
use shared_proto::spool::{Reader, SpoolError};
use shared_proto::v1::Event;
use shared_proto::v1::event::Body;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

/// The events of one job, in order.
#[derive(Debug)]
pub(super) struct Events {
    folder: Folder,
    reader: Option<Reader>,
}

/// Where a spool ends now.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tip {
    /// The newest whole event's number.
    pub(super) last: u64,
    /// The newest phase.
    pub(super) phase: Option<String>,
    /// When it began, milliseconds since 1970.
    pub(super) phase_ms: i64,
    /// The hash of the saved plan.
    pub(super) plan_sha256: String,
    /// How many people rules ask for who approve it, beside whoever made the job.
    pub(super) approvals: u32,
    /// Whether it was told that the plan is applied by the runner's own policy.
    pub(super) by_policy: bool,
    /// Whether there is the job's result.
    pub(super) ended: bool,
    /// What was last told of a resource.
    pub(super) resource: String,
    /// What an apply has begun, and told no end of.
    pub(super) begun: Begun,
}

// === impl Events ===

impl Events {
    pub(super) fn new(folder: &Folder) -> Self {
        Self { folder: folder.clone(), reader: None }
    }

    /// The next whole event; `None` where there is none yet.
    ///
    /// # Errors
    /// What is wrong with the spool. It cannot be read on.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Failure> {
        if self.reader.is_none() {
            self.reader = self.open()?;
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let Some(record) = reader.read().map_err(|e| unreadable(&e))? else { return Ok(None) };
        let event = Event::decode(record.content.as_slice())
            .map_err(|e| Code::SpoolDamaged.on(format!("the event {} is malformed: {e}", record.sequence)))?;
        if event.sequence != record.sequence {
            let message = format!("the event {} says that it is {}", record.sequence, event.sequence);
            return Err(Code::SpoolDamaged.on(message));
        }
        Ok(Some(event))
    }

    /// A spool that is not there yet, or has not its first bytes, is empty.
    fn open(&self) -> Result<Option<Reader>, Failure> {
        let broken = |e: std::io::Error| unreadable(&e.into());
        let path = self.folder.work().join("events");
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            // or leased by somebody, who is asked by the kernel to let go
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => return Ok(None),
            Err(e) => return Err(broken(e)),
        };
        let found = file.metadata().map_err(broken)?;
        if !found.is_file() {
            return Err(Code::SpoolDamaged.on("the spool is no regular file"));
        }
        match shared_proto::spool::is_new(&file) {
            Ok(true) => Ok(None),
            Ok(false) => Reader::new(file).map(Some).map_err(|e| unreadable(&e)),
            Err(e) => Err(broken(e)),
        }
    }
}

fn unreadable(error: &SpoolError) -> Failure {
    match error {
        // whoever made it so: what cannot be read is damaged
        SpoolError::Io(_) => Code::SpoolDamaged.on(error.to_string()),
        _ => error.code().on(error.to_string()),
    }
}

/// Reads all of it, or up to the job's result: what comes after that is nobody's business.
///
/// # Errors
/// What is wrong, in words, and what comes before it.
pub(super) fn tip(folder: &Folder) -> Result<Tip, Box<(Failure, Tip)>> {
    let mut events = Events::new(folder);
    let mut tip = Tip::default();
    loop {
        match events.next() {
            Ok(Some(event)) => {
                tip.last = event.sequence;
                tip.ended = matches!(event.body, Some(Body::Result(_)));
                if let Some(body) = &event.body {
                    tip.begun.take(body);
                }
                match event.body {
                    Some(Body::PhaseChanged(changed)) => {
                        tip.by_policy = changed.phase == "awaiting_approval" && changed.detail == BY_POLICY;
                        (tip.phase, tip.phase_ms) = (Some(changed.phase), event.time_ms);
                    }
                    Some(Body::ResourceProgress(of)) => {
                        tip.resource = format!("{} {} {}", of.address, of.action, of.state);
                    }
                    Some(Body::PlanSaved(plan)) => tip.plan_sha256 = plan.sha256,
                    Some(Body::PlanJudged(judged)) => tip.approvals = judged.approvals,
                    Some(Body::Result(result)) => {
                        tip.phase = Some(result.phase);
                        return Ok(tip);
                    }
                    _ => {}
                }
            }
            Ok(None) => return Ok(tip),
            Err(why) => return Err(Box::new((why, tip))),
        }
    }
}
