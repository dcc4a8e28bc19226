//! The states that the runner keeps for stacks without a backend, as whoever owns the machine sees them: which there are, and one of them as its
//! engine wrote it, so that a stack can be taken elsewhere. It only reads, beside jobs that are at work: a version is whole or not there. It must
//! never make a key or a folder, nor give out what does not open as that version of that stack.

use super::folder::{checked_id, read, read_first};
use super::key;
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{
    Broken, FILE_MAX, HEAD_MAX, Head, KEPT_AT, OWN_BACKEND, PLAIN, PULUMI, VERSIONS, WORKSPACES, file_name, head,
    number_of,
};
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The longest name of a place, bytes.
const KEPT_AT_MAX: u64 = 4096;

/// Those of a runner.
#[derive(Debug)]
pub(crate) struct KeptStates<'a> {
    state_dir: &'a Path,
    /// The file with the key that the configuration names.
    key_file: Option<&'a Path>,
}

/// What there is of a stack.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Kept {
    /// In the stack's folder, the oldest first; of one that cannot be read its number alone.
    pub(crate) versions: Vec<Head>,
    /// Where its states are, where they are not in its folder.
    pub(crate) place: Option<String>,
    /// The files of its named workspaces, which are as their engine wrote them.
    pub(crate) workspaces: Vec<PathBuf>,
    /// Where Pulumi keeps them.
    pub(crate) pulumi: Option<PathBuf>,
}

// === impl KeptStates ===

impl<'a> KeptStates<'a> {
    pub(crate) fn of(state_dir: &'a Path, key_file: Option<&'a Path>) -> Self {
        Self { state_dir, key_file }
    }

    /// The ids of stacks whose states are here, or were.
    ///
    /// # Errors
    /// The file system.
    pub(crate) fn stacks(&self) -> Result<Vec<String>, Failure> {
        let all = self.state_dir.join("stacks");
        let failed = |e: &io::Error| failed(&all, e);
        let mut stacks = Vec::new();
        let entries = match std::fs::read_dir(&all) {
            // one that has had no job yet
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.state_dir.is_dir() => return Ok(stacks),
            entries => entries.map_err(|e| failed(&e))?,
        };
        for entry in entries {
            let name = entry.map_err(|e| failed(&e))?.file_name().to_str().map(str::to_owned);
            let Some(stack) = name.filter(|name| checked_id(name).is_ok()) else { continue };
            if self.kept(&stack)? != Kept::default() {
                stacks.push(stack);
            }
        }
        stacks.sort_unstable();
        Ok(stacks)
    }

    /// What there is of a stack.
    ///
    /// # Errors
    /// No such id; the file system.
    pub(crate) fn kept(&self, stack: &str) -> Result<Kept, Failure> {
        let folder = self.folder(stack)?;
        let at = read(&folder.join(KEPT_AT), KEPT_AT_MAX).map_err(|e| failed(&folder.join(KEPT_AT), &e))?;
        // what comes behind the first line says which backend that is
        let place = at.and_then(|text| Some(String::from_utf8_lossy(&text).trim().lines().next()?.to_owned()));
        let mut kept = Kept { place, ..Kept::default() };
        let pulumi = folder.join(PULUMI);
        kept.pulumi = pulumi.is_dir().then_some(pulumi);
        let workspaces = folder.join(WORKSPACES);
        kept.workspaces.extend(names(&workspaces)?.iter().map(|name| workspaces.join(name).join(PLAIN)));
        kept.workspaces.retain(|file| file.is_file());
        kept.workspaces.sort_unstable();
        let path = folder.join(VERSIONS);
        for name in names(&path)? {
            let Some(number) = name.to_str().and_then(number_of) else { continue };
            let file = path.join(name);
            let first = read_first(&file, HEAD_MAX as u64).map_err(|e| failed(&file, &e))?;
            // gone since: one more is kept no longer
            let Some(first) = first else { continue };
            let found = head(&first).map_or_else(|| Head { number, ..Head::default() }, |(head, _)| head);
            kept.versions.push(found);
        }
        kept.versions.sort_unstable_by_key(|head| head.number);
        Ok(kept)
    }

    /// A version as its engine wrote it; none: the newest.
    ///
    /// # Errors
    /// `not_found`, with where the states are; `state_damaged`: it does not open; `state_unusable`: the key is not there; the file system.
    pub(crate) fn version(&self, stack: &str, number: Option<u64>) -> Result<(Head, Zeroizing<Vec<u8>>), Failure> {
        let kept = self.kept(stack)?;
        let number = number.or_else(|| kept.versions.last().map(|head| head.number)).unwrap_or_default();
        let path = self.folder(stack)?.join(VERSIONS).join(file_name(number));
        match read(&path, FILE_MAX as u64).map_err(|e| failed(&path, &e))? {
            Some(file) => self.open(stack, number, file, &path),
            None => Err(none(stack, number, &kept)),
        }
    }

    /// What is in a file that is a copy of a version, wherever it was kept.
    ///
    /// # Errors
    /// `not_found`, `state_damaged`, `state_unusable`; the file system.
    pub(crate) fn copy(&self, stack: &str, path: &Path) -> Result<(Head, Zeroizing<Vec<u8>>), Failure> {
        let file = read(path, FILE_MAX as u64).map_err(|e| failed(path, &e))?;
        let file = file.ok_or_else(|| Code::NotFound.on(format!("{} is not there", path.display())))?;
        let number = head(&file).map_or(0, |(head, _)| head.number);
        self.open(stack, number, file, path)
    }

    fn open(
        &self,
        stack: &str,
        number: u64,
        file: Vec<u8>,
        path: &Path,
    ) -> Result<(Head, Zeroizing<Vec<u8>>), Failure> {
        let key = key::existing(self.state_dir, self.key_file, checked_id(stack)?)?;
        let opened = key.open(stack, number, file).map(|(head, state)| (head, Zeroizing::new(state)));
        opened.map_err(|broken| {
            let next = match broken {
                Broken::Key => "Name the state directory, or `jobs.states.key_file`, of the runner that wrote it.",
                _ => "Look whether it is that stack's, by its id (`runnerctl stack list`); else take another version.",
            };
            Code::StateDamaged.on(format!("{} cannot be opened: {broken}", path.display())).next(next)
        })
    }

    fn folder(&self, stack: &str) -> Result<PathBuf, Failure> {
        Ok(self.state_dir.join("stacks").join(checked_id(stack)?))
    }
}

/// What is in a folder; nothing where it is not there.
fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>, Failure> {
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(folder, &e)),
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(|e| failed(folder, &e))?.file_name())).collect(),
    }
}

/// What cannot be read on this machine is for whoever asks to set right.
fn failed(path: &Path, error: &io::Error) -> Failure {
    let next = match error.kind() {
        io::ErrorKind::PermissionDenied => "Run it as the runner's user.",
        io::ErrorKind::NotFound => {
            "Name the runner's own state directory: --state-dir, or its configuration with --config."
        }
        _ => "Look at what is there.",
    };
    Code::StateUnusable.on(format!("{}: {error}", path.display())).next(next)
}

fn none(stack: &str, number: u64, kept: &Kept) -> Failure {
    let not_found = |message: String, next: String| Code::NotFound.on(message).next(next);
    match kept {
        Kept { versions, .. } if !versions.is_empty() => not_found(
            format!("there is no version {number} of the state of the stack {stack}"),
            format!("Look which there are: `runner states list {stack}`."),
        ),
        Kept { place: Some(place), .. } if place.starts_with(OWN_BACKEND) => not_found(
            format!("the states of the stack {stack} are in {place}"),
            "Have its engine give it there: `tofu state pull`, or `pulumi stack export`.".to_owned(),
        ),
        Kept { place: Some(place), .. } => not_found(
            format!("the states of the stack {stack} are in {place}"),
            "Fetch the version from there with its own tools, and name the copy: --file FILE (docs/deployments.md)."
                .to_owned(),
        ),
        Kept { workspaces, .. } if !workspaces.is_empty() => not_found(
            format!("the stack {stack} has states of named workspaces alone"),
            format!("They are files as their engine wrote them: `runner states list {stack}` names them."),
        ),
        Kept { pulumi: Some(folder), .. } => not_found(
            format!("the states of the stack {stack} are Pulumi's"),
            format!("Have Pulumi export them: `pulumi stack export`, with file://{} as its backend.", folder.display()),
        ),
        _ => not_found(
            format!("there are no states of a stack {stack} here"),
            "Look which stacks there are: `runner states list`. Those with a backend have theirs there.".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::states::Key;

    fn write(state_dir: &Path, key: &Key, stack: &str, number: u64, state: &[u8]) -> PathBuf {
        let head = Head { number, serial: Some(number), key: key.fingerprint(), ..Head::default() };
        let (first, rest) = key.seal(stack, &head, state.to_vec()).expect("seals");
        let folder = state_dir.join("stacks").join(stack).join(VERSIONS);
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(file_name(number));
        std::fs::write(&path, [first, rest].concat()).expect("writes");
        path
    }

    #[test]
    fn what_is_kept_is_listed_and_opens() {
        let dir = tempfile::tempdir().expect("a folder");
        let key = |stack| key::of_stack(dir.path(), None, stack).expect("a key");
        write(dir.path(), &key("s1"), "s1", 9, b"nine");
        write(dir.path(), &key("s1"), "s1", 10, b"ten");
        let other = write(dir.path(), &key("s2"), "s2", 1, b"one");
        std::fs::create_dir_all(dir.path().join("stacks/s5/workspaces/blue")).expect("a folder");
        std::fs::write(dir.path().join("stacks/s5/workspaces/blue/terraform.tfstate"), "{}").expect("writes");
        std::fs::create_dir_all(dir.path().join("stacks/s6/pulumi")).expect("a folder");
        std::fs::create_dir_all(dir.path().join("stacks/s3")).expect("a folder");
        std::fs::write(dir.path().join("stacks/s3").join(KEPT_AT), "s3://b/x\n").expect("writes");
        std::fs::create_dir_all(dir.path().join("stacks/s7")).expect("a folder");
        let in_backend = format!("{OWN_BACKEND} (s3)\n{}\n", "a1".repeat(32));
        std::fs::write(dir.path().join("stacks/s7").join(KEPT_AT), in_backend).expect("writes");
        for nothing in ["stacks/s4", "stacks/.x"] {
            std::fs::create_dir_all(dir.path().join(nothing)).expect("a folder");
        }
        let kept = KeptStates::of(dir.path(), None);
        assert_eq!(kept.stacks().expect("reads"), ["s1", "s2", "s3", "s5", "s6", "s7"]);
        assert_eq!(kept.kept("s7").expect("reads").place, Some(format!("{OWN_BACKEND} (s3)")));
        let numbers: Vec<_> = kept.kept("s1").expect("reads").versions.iter().map(|head| head.number).collect();
        assert_eq!(numbers, [9, 10]);
        for (number, state) in [(None, b"ten".as_slice()), (Some(9), b"nine"), (Some(10), b"ten")] {
            let (head, found) = kept.version("s1", number).expect("opens");
            assert!(*found == state && number.is_none_or(|number| number == head.number), "{number:?}");
        }
        // a copy from wherever, under its own stack alone
        assert_eq!(*kept.copy("s2", &other).expect("opens").1, b"one");
        let failure = kept.copy("s1", &other).expect_err("another's");
        assert!(failure.code == Code::StateDamaged && failure.next_step.contains("key_file"), "{failure}");
        for (stack, number, words) in [
            ("s1", Some(8), "runner states list s1"),
            ("s3", None, "--file"),
            ("s4", None, "runner states list`"),
            ("s5", None, "as their engine wrote them"),
            ("s6", None, "pulumi stack export"),
            ("s7", None, "tofu state pull"),
            ("nobody", None, "runner states list`"),
        ] {
            let failure = kept.version(stack, number).expect_err(stack);
            assert!(failure.code == Code::NotFound && failure.next_step.contains(words), "{failure}");
        }
        for id in ["", ".", "..", "a/b", &"x".repeat(129)] {
            assert_eq!(kept.version(id, None).expect_err(id).code, Code::InvalidArgument, "{id}");
        }
    }

    #[test]
    fn a_wrong_folder_is_told_from_an_empty_one() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(KeptStates::of(dir.path(), None).stacks(), Ok(vec![]));
        let failure = KeptStates::of(&dir.path().join("nowhere"), None).stacks().expect_err("it is not there");
        assert!(failure.code == Code::StateUnusable && failure.next_step.contains("--state-dir"), "{failure}");
        let failure = KeptStates::of(dir.path(), None).copy("s1", dir.path()).expect_err("a folder");
        assert_eq!(failure.code, Code::StateUnusable, "{failure}");
    }

    #[test]
    fn what_was_changed_does_not_open_and_no_key_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = write(dir.path(), &key::of_stack(dir.path(), None, "s1").expect("a key"), "s1", 1, b"state");
        let kept = KeptStates::of(dir.path(), None);
        let whole = std::fs::read(&path).expect("reads");
        for at in [whole.len() - 1, whole.len() - 20, 20] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, changed).expect("writes");
            assert_eq!(kept.version("s1", None).expect_err("changed").code, Code::StateDamaged, "{at}");
        }
        std::fs::write(&path, b"nothing").expect("writes");
        assert_eq!(kept.kept("s1").expect("reads").versions, [Head { number: 1, ..Head::default() }]);
        std::fs::write(&path, whole).expect("writes");
        std::fs::remove_file(dir.path().join("states.key")).expect("removes");
        assert_eq!(kept.version("s1", None).expect_err("no key").code, Code::StateUnusable);
        assert!(!dir.path().join("states.key").exists(), "a new one opens nothing");
    }
}
