//! What is approved of a plan. Pulumi saves plans of updates alone, and such a plan says what must not be exceeded, of whatever state there is
//! then. So beside it are kept which state it was made of and what it would do; both are looked at again before it is applied.

use super::step::Step;
use crate::stop::io_failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::hex;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The most bytes that are read of a preview's events.
const EVENTS_MAX: u64 = 256 * 1024 * 1024;
/// The longest of those that is looked at: a resource before and after.
const EVENT_MAX: u64 = 16 * 1024 * 1024;
/// The most bytes of what is kept.
const KEPT_MAX: u64 = 64 * 1024 * 1024;

/// What is kept, and approved by its hash.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Approved {
    /// The hash of the state that it was made of.
    pub(super) state: String,
    /// That of Pulumi's own plan; none where it makes none.
    plan: Option<String>,
    /// What it would do, a hash a step.
    would: Vec<String>,
}

/// The files of a plan, beside the one that is approved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a>(pub(super) &'a Path);

// === impl Files ===

impl Files<'_> {
    /// Pulumi's own plan.
    pub(super) fn own(self) -> PathBuf {
        self.0.with_extension("pulumi")
    }
    /// The events of the preview, as Pulumi writes them down.
    pub(super) fn log(self) -> PathBuf {
        self.0.with_extension("log")
    }
    /// Those of them that it tells people of.
    pub(super) fn events(self) -> PathBuf {
        self.0.with_extension("events")
    }
    /// The hash of the state before it.
    pub(super) fn state(self) -> PathBuf {
        self.0.with_extension("state")
    }
}

// === impl Approved ===

impl Approved {
    /// What the preview's events tell. Those that people are told of are written apart.
    ///
    /// # Errors
    /// The file system; `too_large`.
    pub(super) fn of(files: Files<'_>) -> Result<Self, Failure> {
        let (log, events) = (files.log(), files.events());
        let failed = |path: &Path, e: &std::io::Error| io_failure(Code::EngineFailed, path.display(), e);
        let mut input = BufReader::new(opened(&log).map_err(|e| failed(&log, &e))?.take(EVENTS_MAX));
        let mut output = BufWriter::new(created(&events).map_err(|e| failed(&events, &e))?);
        let (mut would, mut line, mut read) = (Vec::new(), Vec::new(), 0);
        loop {
            line.clear();
            let length = input.by_ref().take(EVENT_MAX).read_until(b'\n', &mut line).map_err(|e| failed(&log, &e))?;
            read += length as u64;
            if length == 0 {
                break;
            }
            if length as u64 == EVENT_MAX || read >= EVENTS_MAX {
                return Err(Code::TooLarge.on(format!(
                    "the preview has an event of {EVENT_MAX} bytes or more, or events of {EVENTS_MAX} in all"
                )));
            }
            let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
            let body = &event["resOutputsEvent"];
            let step = Step::of(body);
            let internal = Step::of(&event["resourcePreEvent"]).is_some_and(|step| step.is_internal());
            if internal || step.as_ref().is_some_and(Step::is_internal) {
                continue;
            }
            output.write_all(&line).map_err(|e| failed(&events, &e))?;
            if step.is_some_and(|step| step.change().is_some() || step.outputs_change()) {
                would.push(hex::encode(Sha256::digest(body["metadata"].to_string())));
            }
        }
        output.flush().map_err(|e| failed(&events, &e))?;
        // steps that do not need each other come in any order
        would.sort();
        let state = text(&files.state()).map_err(|e| failed(&files.state(), &e))?;
        Ok(Self { state, plan: hash(&files.own()).map_err(|e| failed(&files.own(), &e))?, would })
    }

    /// Writes it down.
    ///
    /// # Errors
    /// The file system.
    pub(super) fn write(&self, files: Files<'_>) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(|e| Code::Internal.on(format!("the plan cannot be kept: {e}")))?;
        super::super::environment::private_file(files.0, &text)
    }

    /// Reads it.
    ///
    /// # Errors
    /// `plan_stale`: it is not there, or not as it was.
    pub(super) fn read(files: Files<'_>) -> Result<Self, Failure> {
        let approved: Self = text(files.0)
            .and_then(|text| serde_json::from_str(&text).map_err(Into::into))
            .map_err(|e| io_failure(Code::PlanStale, "the saved plan", &e))?;
        let own = hash(&files.own()).map_err(|e| io_failure(Code::PlanStale, "the saved plan", &e))?;
        if own != approved.plan {
            return Err(Code::PlanStale.on("the saved plan is another than was approved"));
        }
        Ok(approved)
    }

    /// Whether another preview would do the same.
    pub(super) fn would_do_as(&self, other: &Self) -> bool {
        self.would == other.would
    }
}

/// The hash of a state, in whatever order its fields are.
pub(super) fn hash_of_state(state: &Value) -> String {
    hex::encode(Sha256::digest(state["deployment"].to_string()))
}

/// What the engine may write where it stands is believed as far as it is a file.
fn opened(path: &Path) -> std::io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

fn created(path: &Path) -> std::io::Result<File> {
    let _ = std::fs::remove_file(path);
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    opened(path)?.take(KEPT_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The hash of a file; none where there is none.
fn hash(path: &Path) -> std::io::Result<Option<String>> {
    let mut file = match opened(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash)?;
    Ok(Some(hex::encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: &str, op: &str, of: &str, content: &str) -> String {
        let metadata = json!({ "op": op, "urn": format!("urn:pulumi:dev::shop::{of}"), "type": of.split("::").next(), "new": { "inputs": { "content": content } } });
        json!({ "sequence": 1, kind: { "metadata": metadata, "planning": true } }).to_string()
    }
    fn of(path: &Path, lines: &[String]) -> Approved {
        let files = Files(path);
        std::fs::write(files.log(), lines.join("\n")).expect("writes");
        std::fs::write(files.state(), "a-state").expect("writes");
        Approved::of(files).expect("reads")
    }

    #[test]
    fn a_plan_is_what_it_would_do_in_any_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plan.bin");
        let one = event("resOutputsEvent", "create", "world:index:Thing::one", "1");
        let two = event("resOutputsEvent", "delete", "world:index:Thing::two", "2");
        let same = event("resOutputsEvent", "same", "world:index:Thing::three", "3");
        let begun = event("resourcePreEvent", "create", "world:index:Thing::one", "1");
        let internal = event("resOutputsEvent", "create", "pulumi:providers:world::default_1_0_0", "");
        let whole = of(&path, &[begun, one.clone(), same.clone(), two.clone(), internal, "no JSON".into()]);
        assert_eq!((whole.would.len(), whole.state.as_str()), (2, "a-state"));
        let told = std::fs::read_to_string(Files(&path).events()).expect("reads");
        assert!(told.lines().count() == 4 && !told.contains("providers"), "{told}");
        let other = folder.path().join("again.bin");
        assert!(whole.would_do_as(&of(&other, &[two.clone(), one.clone()])));
        let changed = event("resOutputsEvent", "create", "world:index:Thing::one", "other");
        for different in [vec![one], vec![changed, two], vec![]] {
            assert!(!whole.would_do_as(&of(&other, &different)), "{different:?}");
        }
    }

    #[test]
    fn what_is_not_as_it_was_approved_is_stale() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plan.bin");
        std::fs::write(Files(&path).own(), "a plan").expect("writes");
        let approved = of(&path, &[]);
        approved.write(Files(&path)).expect("writes");
        assert_eq!(Approved::read(Files(&path)), Ok(approved));
        let stale = || Approved::read(Files(&path)).expect_err("stale").code;
        std::fs::write(Files(&path).own(), "another plan").expect("writes");
        assert_eq!(stale(), Code::PlanStale);
        std::fs::remove_file(Files(&path).own()).expect("removes");
        assert_eq!(stale(), Code::PlanStale);
        std::fs::write(&path, "{").expect("writes");
        assert_eq!(stale(), Code::PlanStale);
    }
}
