//! Reads a job's events from its spool. The worker writes it, and what runs in the job may write it too: nothing is believed that
//! is not checked, and opening it must neither follow a link nor wait for a writer.

use super::folder::Folder;
use prost::Message as _;
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
    /// The hash of the saved plan.
    pub(super) plan_sha256: String,
    /// Whether the last event is the job's result.
    pub(super) ended: bool,
}

// === impl Events ===

impl Events {
    pub(super) fn new(folder: &Folder) -> Self {
        Self { folder: folder.clone(), reader: None }
    }

    /// The next whole event; `None` where there is none yet.
    ///
    /// # Errors
    /// In words: what is wrong with the spool. It cannot be read on.
    pub(super) fn next(&mut self) -> Result<Option<Event>, String> {
        if self.reader.is_none() {
            self.reader = self.open()?;
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let Some(record) = reader.read().map_err(|e| e.to_string())? else { return Ok(None) };
        let event = Event::decode(record.content.as_slice())
            .map_err(|e| format!("the event {} is malformed: {e}", record.sequence))?;
        if event.sequence != record.sequence {
            return Err(format!("the event {} says that it is {}", record.sequence, event.sequence));
        }
        Ok(Some(event))
    }

    /// A spool that is not there yet, or has not its first bytes, is empty.
    fn open(&self) -> Result<Option<Reader>, String> {
        let path = self.folder.work().join("events");
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        let found = file.metadata().map_err(|e| e.to_string())?;
        if !found.is_file() {
            return Err("the spool is no regular file".into());
        }
        if found.len() < shared_proto::spool::MAGIC.len() as u64 {
            return Ok(None);
        }
        match Reader::new(file) {
            Ok(reader) => Ok(Some(reader)),
            Err(SpoolError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Reads all of it.
///
/// # Errors
/// What is wrong, in words, and what comes before it.
pub(super) fn tip(folder: &Folder) -> Result<Tip, (String, Tip)> {
    let mut events = Events::new(folder);
    let mut tip = Tip::default();
    loop {
        match events.next() {
            Ok(Some(event)) => {
                tip.last = event.sequence;
                tip.ended = matches!(event.body, Some(Body::Result(_)));
                match event.body {
                    Some(Body::PhaseChanged(changed)) => tip.phase = Some(changed.phase),
                    Some(Body::PlanSaved(plan)) => tip.plan_sha256 = plan.sha256,
                    Some(Body::Result(result)) => tip.phase = Some(result.phase),
                    _ => {}
                }
            }
            Ok(None) => return Ok(tip),
            Err(why) => return Err((why, tip)),
        }
    }
}
