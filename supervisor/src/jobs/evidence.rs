//! What is left to tell what a step did that ended without its own word: the last of its resources, the state's serial before and after, a
//! lock that is left, and a state that the engine could not save, which is put where it outlives the job.
//!
//! All of it lies where what runs in the job may write: it is told to people, and of the lock alone it decides something, whether that is offered to
//! be removed. So a lock is believed only where its engine has no way to that file but around its isolation. The state stays on the runner.

use super::durable;
use super::folder::{self, Folder, Step};
use serde::Deserialize;
use shared_proto::begun::Begun;
use shared_proto::states::{self, Held, PLAIN};
use std::io;
use std::path::{Component, Path, PathBuf};

/// The largest state that is read, bytes.
const STATE_MAX: u64 = states::STATE_MAX as u64;
/// What is told of one text of the job's, characters.
const TEXT_MAX: usize = 256;
/// What an engine leaves in the working copy that could not save its state.
const ERRORED: &str = "errored.tfstate";
/// In the working copy of a stack whose state is here.
const OVERRIDE: &str = "runner_backend_override.tf.json";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    applied: bool,
    resource: String,
    begun: Begun,
    /// Whether the state is the runner's.
    here: bool,
    /// Where it is then; empty: in the stack's folder.
    states_at: String,
    serial: (Option<u64>, Option<u64>),
    /// The lock that the job's engine has left there.
    pub(super) lock: Option<Held>,
    /// Where the state is that was not saved; empty: there is none.
    pub(super) rescued: String,
    /// Why that one could not be put there.
    not_rescued: String,
}

// === impl Evidence ===

impl Evidence {
    /// Looks, and rescues. `path`: of the root module in the source. `before`: the state's serial when the step was started, and where states
    /// are; empty: in their folders.
    pub(super) fn of(
        folder: &Folder,
        stack: &Path,
        path: &str,
        step: Step,
        (resource, begun): (String, Begun),
        (before, states_at): (Option<u64>, String),
    ) -> Self {
        let here = keeps_state(folder, path);
        let applied = step == Step::Apply;
        let mut found = Self { applied, resource: shown(&resource), begun, here, ..Self::default() };
        if states_at.is_empty() {
            (found.serial, found.lock) = ((before, serial(stack)), lock(stack, &folder.name()));
        }
        found.states_at = states_at;
        match rescue(folder, stack, path) {
            Ok(at) => found.rescued = at.map(|at| at.display().to_string()).unwrap_or_default(),
            Err(e) => found.not_rescued = e.to_string(),
        }
        found
    }

    /// In sentences.
    pub(super) fn describe(&self) -> String {
        let mut said = Vec::new();
        said.push(match self.resource.as_str() {
            "" => "It has told of no resource.".to_owned(),
            last => format!("The last that it told of a resource: {last}."),
        });
        if self.applied {
            let begun = self.begun.to_string();
            said.extend((!begun.is_empty()).then_some(begun));
            let number = |serial: Option<u64>| serial.map_or_else(|| "none".to_owned(), |n| n.to_string());
            said.push(if self.here && !self.states_at.is_empty() {
                format!(
                    "The state is in {}: its serial is not known here, nor whether its lock was left. The next job of the stack says it.",
                    self.states_at
                )
            } else if self.here {
                let (before, after) = self.serial;
                format!("The state's serial was {} before and is {} now.", number(before), number(after))
            } else {
                "The state is in the configuration's own backend: its serial is not known here.".to_owned()
            });
        }
        said.extend(self.lock.as_ref().map(|held| states::left_in_words(&held.left())));
        if !self.rescued.is_empty() {
            said.push(format!("The state that the engine could not save is kept on the runner: {}.", self.rescued));
        }
        if !self.not_rescued.is_empty() {
            said.push(format!("The engine left {ERRORED}, which stays in the job's folder: {}.", self.not_rescued));
        }
        said.join(" ")
    }
}

/// Puts the state that the engine could not save beside the stack's own one; where it then is, if there is any.
///
/// # Errors
/// It is there, and cannot be taken.
pub(super) fn rescue(folder: &Folder, stack: &Path, path: &str) -> io::Result<Option<PathBuf>> {
    let Some(root) = root(folder, path) else { return Ok(None) };
    let Some(state) = folder::read(&root.join(ERRORED), STATE_MAX)? else { return Ok(None) };
    if !shared_proto::ended::is_whole_state(&state) {
        let what = format!("it has {} bytes, and they are no whole state", state.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let at = stack.join(format!("errored-{}.tfstate", folder.name()));
    durable::replace(&at, &state)?;
    durable::sync_folder(stack)?;
    Ok(Some(at))
}

/// The serial of the newest state in a stack's folder.
pub(super) fn serial(stack: &Path) -> Option<u64> {
    #[derive(Deserialize)]
    struct State {
        serial: u64,
    }
    let versions = stack.join(states::VERSIONS);
    let names = std::fs::read_dir(&versions).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let newest = names.filter_map(|name| states::number_of(name.to_str()?)).max();
    if let Some(newest) = newest {
        let first = folder::read_first(&versions.join(states::file_name(newest)), states::HEAD_MAX as u64).ok()??;
        return states::head(&first)?.0.serial;
    }
    let content = folder::read(&stack.join(PLAIN), STATE_MAX).ok()??;
    serde_json::from_slice::<State>(&content).ok().map(|state| state.serial)
}

/// The lock that a job's engine has left there: its id and when it was given. The rest is the engine's words, which nobody here looks through
/// for secrets.
fn lock(stack: &Path, job: &str) -> Option<Held> {
    let content = folder::read(&stack.join(states::LOCK), states::LOCK_MAX as u64).ok()??;
    let held = serde_json::from_slice::<Held>(&content).ok().filter(|held| held.job == job)?;
    let created = shared_proto::identity::rfc3339(held.time_ms / 1000);
    let info = serde_json::json!({ "ID": held.id(), "Created": created });
    // what an engine of ours gives is a UUID; it becomes a part of a command
    if !states::is_plain_id(held.id()) {
        return None;
    }
    Some(Held { info, job: held.job, time_ms: held.time_ms, ..Held::default() })
}

/// Whether the state of the step in that folder is the runner's own.
pub(super) fn keeps_state(folder: &Folder, path: &str) -> bool {
    root(folder, path).is_some_and(|root| std::fs::symlink_metadata(root.join(OVERRIDE)).is_ok())
}

/// The root module, where that is in the working copy: what ran in the job may have put links there. Nothing of it runs any more.
fn root(folder: &Folder, path: &str) -> Option<PathBuf> {
    let work = folder.work().canonicalize().ok()?;
    let inside = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let root = work.join("source").join(inside.collect::<PathBuf>()).canonicalize().ok()?;
    root.starts_with(&work).then_some(root)
}

/// A text of the job's for one line of people's.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::folder::Store;
    use super::*;

    #[test]
    fn what_is_left_is_told_and_links_are_not_followed() {
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::open(place.path()).expect("opens");
        let assignment = shared_proto::v1::Assignment { job_id: "j1".into(), ..Default::default() };
        let folder = store.create(&assignment, "i1").expect("creates");
        let stack = store.stack("s1").expect("a name");
        std::fs::create_dir_all(&stack).expect("makes");
        let mut begun = Begun::default();
        for address in ["a", "b"] {
            let (address, action, state) = (address.into(), "create".into(), "started".into());
            let of = shared_proto::v1::ResourceProgress { address, action, state, ..Default::default() };
            begun.take(&shared_proto::v1::event::Body::ResourceProgress(of));
        }
        let looked = |states_at: String| {
            let told = ("a\u{1b}[1m create started".into(), begun.clone());
            Evidence::of(&folder, &stack, "deep/module", Step::Apply, told, (Some(3), states_at))
        };
        let look = || looked(String::new());
        let nothing = look();
        assert_eq!((nothing.serial, nothing.rescued.as_str(), nothing.here), ((Some(3), None), "", false));
        assert!(nothing.describe().contains("the configuration's own backend"), "{}", nothing.describe());
        assert!(nothing.describe().contains("resource: a[1m create started."), "{}", nothing.describe());
        let begun = "Begun, and not told to be done: a (create), b (create).";
        assert!(nothing.describe().contains(begun), "{}", nothing.describe());

        let root = folder.work().join("source/deep/module");
        std::fs::create_dir_all(&root).expect("makes");
        std::fs::write(root.join(OVERRIDE), "{}").expect("writes");
        std::fs::write(root.join(ERRORED), r#"{"serial":8}"#).expect("writes");
        std::fs::write(stack.join(PLAIN), r#"{"version":4,"serial":6,"resources":[]}"#).expect("writes");
        assert_eq!(serial(&stack), Some(6), "of a runner that had no store");
        let key = states::Root::make().expect("a key").of_stack("s1");
        std::fs::create_dir_all(stack.join(states::VERSIONS)).expect("makes");
        for (number, serial) in [(9, 5), (10, 7)] {
            let head = states::Head { number, serial: Some(serial), ..Default::default() };
            let (first, _) = key.seal("s1", &head, Vec::new()).expect("seals");
            std::fs::write(stack.join(states::VERSIONS).join(states::file_name(number)), first).expect("writes");
        }
        let info = serde_json::json!({ "ID": "the-lock", "Who": "somebody" });
        let leave = |job: &str| {
            let held = Held { info: info.clone(), job: job.into(), ..Held::default() };
            std::fs::write(stack.join(states::LOCK), serde_json::to_vec(&held).expect("JSON")).expect("writes");
        };
        leave("another");
        assert_eq!(look().lock, None);
        leave("j1");
        let told = look().lock.expect("its own").left();
        assert_eq!(
            (told.id.as_str(), told.created.as_str(), told.who.as_str()),
            ("the-lock", "1970-01-01T00:00:00Z", "")
        );
        let found = look();
        let kept = stack.join("errored-j1.tfstate");
        assert_eq!(found.rescued, kept.display().to_string());
        assert_eq!(std::fs::read(&kept).expect("reads"), br#"{"serial":8}"#);
        for part in
            ["serial was 3 before and is 7 now", "has left the lock of the state (lock the-lock)", "errored-j1.tfstate"]
        {
            assert!(found.describe().contains(part), "{part}: {}", found.describe());
        }
        let elsewhere = looked("s3://states".into()).describe();
        assert!(elsewhere.contains("The state is in s3://states: its serial is not known here"), "{elsewhere}");
        assert!(!elsewhere.contains("the-lock") && elsewhere.contains("errored-j1.tfstate"), "{elsewhere}");
        // of one that is no state nothing is said
        for other in ["", "RNSTATE1 {}\n", "RNSTATE1 {\"number\":10"] {
            std::fs::write(stack.join(states::VERSIONS).join(states::file_name(10)), other).expect("writes");
            assert_eq!(serial(&stack), None, "{other}");
        }

        std::fs::remove_file(&kept).expect("removes");
        // a disk that was full when the engine wrote it
        for cut in ["", "{", r#"{"serial":"#, "{}", "[1]"] {
            std::fs::write(root.join(ERRORED), cut).expect("writes");
            let refused = look();
            assert_eq!(refused.rescued, "", "{cut:?}");
            assert!(refused.describe().contains("no whole state"), "{}", refused.describe());
            assert!(rescue(&folder, &stack, "deep/module").is_err() && !kept.exists());
        }
        let elsewhere = place.path().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("module")).expect("makes");
        std::fs::write(elsewhere.join("module").join(ERRORED), "another's").expect("writes");
        std::fs::remove_dir_all(folder.work().join("source/deep")).expect("removes");
        std::os::unix::fs::symlink(&elsewhere, folder.work().join("source/deep")).expect("links");
        assert_eq!(look().rescued, "");
        std::fs::remove_file(folder.work().join("source/deep")).expect("removes");
        std::fs::create_dir_all(&root).expect("makes");
        std::os::unix::fs::symlink(elsewhere.join("module").join(ERRORED), root.join(ERRORED)).expect("links");
        let refused = look();
        assert_eq!(refused.rescued, "");
        assert!(refused.describe().contains("stays in the job's folder"), "{}", refused.describe());
        assert!(!kept.exists());
    }
}
