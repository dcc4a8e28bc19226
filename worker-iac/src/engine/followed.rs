//! What a worker finds that follows one which died in the middle of a step: by the spool, which command runs or ran, how far its output
//! was read, and whether it was asked to stop.

use super::{Complaint, dialect};
use crate::process::{Asks, Left, Orphan};
use prost::Message as _;
use shared_proto::hooks::Hook;
use shared_proto::spool::Reader;
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineRead, Event};
use std::fs::File;
use std::path::Path;

/// A step that can be gone on with.
#[derive(Debug)]
pub(crate) struct Followed {
    /// The engine's command: `plan`, `apply`, or `output` once that was applied; or `after-apply`, the hook that comes then.
    pub(crate) command: String,
    /// Of the hook: how the apply before it ended, `ok` or a failure code.
    pub(crate) result: String,
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
        let noted = Left::find();
        while let Ok(Some(record)) = reader.read() {
            let event = Event::decode(record.content.as_slice()).ok()?;
            let read = event.engine_read.unwrap_or_default();
            match event.body? {
                Body::PhaseChanged(changed) => (phase, found) = (changed.phase, None),
                Body::Result(_) => return None,
                Body::EngineStarted(started) => {
                    dialect = dialect::named(&started.engine).ok();
                    let (command, version) = (started.command, started.version);
                    let (complaint, result) = (Complaint::default(), String::new());
                    found = noted.map(|left| Self { command, result, version, left, read, asked: false, complaint });
                }
                Body::HookStarted(started) => {
                    // none is noted where it was not begun: nobody saw its end then, and it is not begun again
                    let left = noted.unwrap_or(Left::GONE);
                    dialect = None;
                    let (command, result, version) = (started.hook, started.result, String::new());
                    let complaint = Complaint::default();
                    found = Some(Self { command, result, version, left, read, asked: false, complaint });
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
            // of a hook before it nothing was changed
            "applying" => found.is_hook() || matches!(found.command.as_str(), "apply" | "output"),
            _ => false,
        };
        worth_it.then_some(found)
    }

    /// Whether it is the hook after the apply.
    pub(crate) fn is_hook(&self) -> bool {
        self.command == Hook::AfterApply.name()
    }

    /// As it is attended.
    pub(crate) fn orphan<'a>(&self, path: &'a Path, output: (&'a Path, &'a Path), asks: Asks) -> Orphan<'a> {
        Orphan { path, left: self.left, output, read: self.read, asked: self.asked, asks }
    }

    /// Asks it to stop, in place of the worker that cannot yet.
    pub(crate) fn ask(&mut self) {
        if !std::mem::replace(&mut self.asked, true) && self.left.alive() {
            let asks = if self.is_hook() { Asks::Group } else { Asks::Itself };
            crate::process::ask(nix::unistd::Pid::from_raw(self.left.pid), asks);
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
