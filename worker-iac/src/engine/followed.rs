//! What a worker finds that follows one which died in the middle of a step: by the spool, which command runs or ran, how far its output
//! was read, and whether it was asked to stop.

use super::{Complaint, dialect};
use crate::process::Left;
use prost::Message as _;
use shared_proto::spool::Reader;
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineRead, Event};
use std::fs::File;
use std::path::Path;

/// A step that can be gone on with.
#[derive(Debug)]
pub(crate) struct Followed {
    /// The engine's command: `plan`, `apply`, or `output` once that was applied.
    pub(crate) command: String,
    /// The engine's version.
    pub(crate) version: String,
    /// The process of that command.
    pub(super) left: Left,
    /// How far its output is in the spool.
    pub(crate) read: EngineRead,
    /// Whether it was asked to stop.
    pub(super) asked: bool,
    /// What it has complained of.
    pub(super) complaint: Complaint,
}

// === impl Followed ===

impl Followed {
    /// Looks into the spool. `None`: there is nothing to go on with; the step had not begun, is over, or was at something that changes
    /// nothing and is not worth it.
    pub(crate) fn find(events: &Path) -> Option<Self> {
        let mut reader = Reader::new(File::open(events).ok()?).ok()?;
        let (mut phase, mut found, mut dialect) = (String::new(), None::<Self>, None);
        while let Ok(Some(record)) = reader.read() {
            let event = Event::decode(record.content.as_slice()).ok()?;
            let read = event.engine_read.unwrap_or_default();
            match event.body? {
                Body::PhaseChanged(changed) => (phase, found) = (changed.phase, None),
                Body::Result(_) => return None,
                Body::EngineStarted(started) => {
                    let left = Left::find()?;
                    dialect = dialect::named(&started.engine).ok();
                    let (command, version) = (started.command, started.version);
                    let complaint = Complaint::default();
                    found = Some(Self { command, version, left, read, asked: false, complaint });
                }
                body => {
                    if let Some(found) = &mut found {
                        found.read = read;
                        found.asked |= matches!(body, Body::CancelProgress(_));
                        if let Some(dialect) = dialect {
                            found.complaint.hear(&body, dialect);
                        }
                    }
                }
            }
        }
        let found = found?;
        let worth_it = match phase.as_str() {
            "planning" => found.command == "plan",
            "applying" => matches!(found.command.as_str(), "apply" | "output"),
            _ => false,
        };
        worth_it.then_some(found)
    }

    /// Asks it to stop, in place of the worker that cannot yet.
    pub(crate) fn ask(&mut self) {
        if !std::mem::replace(&mut self.asked, true) && self.left.alive() {
            crate::process::ask(nix::unistd::Pid::from_raw(self.left.pid));
        }
    }

    /// Ends it where its end is of no interest: it is started anew.
    pub(crate) fn end(&self) {
        if self.left.alive() {
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(self.left.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
