//! The runner's own store of states, for stacks whose configuration has no backend: versions, sealed, one lock. The engine reaches it by its
//! HTTP backend ([`server`]); where the pieces lie is a [`Place`]'s.
//!
//! ```text
//!  engine ── HTTP, loopback, the job's token ──▶ server ──▶ Store: lock, lineage, serial, seal ──▶ Place: whole files or objects
//!                                                                             Directory ◀──────────┤
//!                                                    Elsewhere: claim, conditional writes ◀────────┴──▶ Bucket (S3), Cluster (Secrets)
//! ```
//! It must never take a state that does not follow the newest one, never change or remove one of the newest [`VERSIONS_MAX`], and never
//! hold the claim of a stack that another worker serves. What its files say is checked each time: who writes there is not only this program.

mod asks;
mod bucket;
mod cluster;
mod content;
mod elsewhere;
pub(crate) mod keeper;
mod md5;
mod place;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use crate::process::Environment;
use crate::stop::io_failure;
use bucket::Bucket;
use cluster::Cluster;
pub(crate) use content::{Facts, Since, goes_on_from};
use elsewhere::{Before, Elsewhere, Remote};
pub(crate) use elsewhere::{Served, Unopened};
pub(crate) use place::read as read_plain;
use place::{Directory, Place};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{
    self, Broken, FILE_MAX, HEAD_MAX, Head, Held, KEPT_AT, Key, LOCK_MAX, OWN_BACKEND, PLAIN, STATE_MAX, VERSIONS,
    VERSIONS_MAX,
};
use shared_proto::v1::StatePlace;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// The longest name of a place, bytes.
const KEPT_AT_MAX: usize = 4096;
/// The longest name of a backend's kind, bytes.
const KIND_MAX: usize = 64;
/// Why a version is there that lay in the stack's folder as it was.
const TAKEN_IN: &str = "taken in from terraform.tfstate";
/// Its name once it is a version.
const IMPORTED: &str = "terraform.tfstate.imported";

/// For whom a store is served.
#[derive(Debug, Clone, Default)]
pub(crate) struct Whose {
    /// The stack, by its id.
    pub(crate) stack: String,
    /// The job.
    pub(crate) job: String,
    /// The instance of the runner.
    pub(crate) instance: String,
    /// Who made the job.
    pub(crate) person: String,
}

/// A backend of the configuration's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    /// As the engine calls its kind.
    pub(crate) kind: String,
    /// A hash of all that is configured of it: of another one it is another.
    configuration: String,
}

/// A backend in which states are said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// In words.
    pub(crate) at: String,
    /// The hash of its configuration; none: an earlier version has not written it down.
    configuration: Option<String>,
    /// The file that says so.
    pub(crate) says: PathBuf,
}

/// A place elsewhere, as the runner's configuration names it.
#[derive(Debug, Clone)]
pub(crate) struct Where {
    /// With the credentials of now; none: states are in the stacks' folders.
    pub(crate) place: watch::Receiver<Option<StatePlace>>,
    /// By which proxy it is asked.
    pub(crate) environment: Environment,
}

/// The states of one stack.
#[derive(Debug)]
pub(crate) struct Store {
    place: Box<dyn Place>,
    key: Key,
    whose: Whose,
    /// The head of the newest version, once it was looked for.
    newest: Option<Option<Head>>,
}

// === impl Where ===

impl Where {
    fn remote(&self, stack: &str) -> Result<Box<dyn Remote>, Failure> {
        // it becomes part of a path
        if stack.is_empty() || !stack.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(Code::InvalidArgument.on("the stack's id is not of letters, digits, '-' and '_'"));
        }
        let place = self.place.borrow().clone().unwrap_or_default();
        if let Some(refused) = &place.refused {
            let connection = place.target.as_ref().map(|target| target.connection.as_str()).unwrap_or_default();
            let message = format!(
                "the states are in {}, and the connection {connection}: {}",
                states::shown(&place),
                refused.message
            );
            return Err(Failure::from_wire(&refused.code, &message, &refused.next_step));
        }
        let (told, environment) = (self.place.clone(), self.environment.clone());
        match (bucket::of(&place), cluster::of(&place)) {
            (Some(of), _) => Ok(Box::new(Bucket::new(of.clone(), stack, told, environment))),
            (_, Some(of)) => Ok(Box::new(Cluster::new(of, stack, told, environment))),
            (None, None) => {
                let message = "the runner that started the job keeps states in a place that this worker does not know";
                let next = "Start the runner anew: it is of another version than its programs.";
                Err(Code::UnsupportedVersion.on(message).next(next))
            }
        }
    }
}

// === impl Backend ===

impl Backend {
    /// The one of that kind with that configuration.
    pub(crate) fn new(kind: &str, configuration: &str) -> Self {
        // what runs in a job can write what it is read from
        let kind =
            kind.chars().filter(|c| c.is_ascii_alphanumeric() || ['-', '_'].contains(c)).take(KIND_MAX).collect();
        Self { kind, configuration: shared_proto::hex::encode(Sha256::digest(configuration)) }
    }
}

// === impl Taken ===

impl Taken {
    /// Whether it is known to be another one than that.
    pub(crate) fn is_another_than(&self, backend: &Backend) -> bool {
        self.configuration.as_ref().is_some_and(|configuration| *configuration != backend.configuration)
    }
}

// === impl Store ===

impl Store {
    /// Opens that of a folder, and nobody else has it as long as this lives. A state that lies there as it is becomes a version: what is said
    /// of that.
    ///
    /// # Errors
    /// `busy`: another worker has it; `state_damaged`, `conflict`: what lies there cannot be taken; `state_elsewhere`; the file system.
    pub(crate) fn open(folder: &Path, key: Key, whose: Whose) -> Result<(Self, Option<String>), Failure> {
        let place = Directory::claim(folder)?;
        let kept = kept_at(folder)?;
        let came_back = is_taken_back(folder, kept.as_deref())?;
        if let Some(at) = kept.filter(|_| !came_back) {
            if place.numbers().map_err(|e| place_failed(&place.shown(), &e))?.is_empty() {
                return Err(is_elsewhere(folder, &at, &place.shown()));
            }
            // somebody has put them back
            unkept(folder)?;
        }
        let mut store = Self { place: Box::new(place), key, whose, newest: None };
        let note = store.import(folder, came_back)?;
        Ok((store, note))
    }

    /// Opens that of a stack in the place that the runner's configuration names, and nobody else has it as long as this is not released. States that
    /// lie in the stack's folder are moved there: what is said of that. `another`: the instance that has had the stack, if not this one;
    /// `removes`: whose claim is to go. On a thread that may wait, of a runtime.
    ///
    /// # Errors
    /// Those of [`Self::open`]; somebody else serves them; `state_unusable`, `target_forbidden`, `credentials_unavailable` and the like of the place.
    pub(crate) fn open_elsewhere(
        folder: &Path,
        at: &Where,
        key: Key,
        whose: Whose,
        another: &str,
        removes: Option<&str>,
    ) -> Result<(Self, Vec<String>), Unopened> {
        let remote = at.remote(&whose.stack)?;
        let shown = remote.shown();
        let failed = |e: &io::Error| place_failed(&shown, e);
        let here = Arc::new(Directory::claim(folder)?);
        let moves = here.numbers().map_err(|e| failed(&e))?;
        let before = Before::look(&*remote).map_err(|e| failed(&e))?;
        let kept = kept_at(folder)?;
        let came_back = is_taken_back(folder, kept.as_deref())?;
        // an empty state would have everything made a second time
        if before.is_nothing() && moves.is_empty() {
            match &kept {
                Some(other) if *other != shown && !came_back => return Err(is_elsewhere(folder, other, &shown).into()),
                None if !another.is_empty() && !folder.join(PLAIN).exists() => {
                    let message =
                        format!("the stack's last job was on the instance {another}, and nothing is in {shown}");
                    let next = "Have all instances keep states in one place, or run the job on that instance.";
                    return Err(Code::StateElsewhere.on(message).next(next).into());
                }
                _ => {}
            }
        }
        let place = Elsewhere::claim(remote, here.clone(), before, &whose, removes)?;
        let mut store = Self { place: Box::new(place), key, whose, newest: None };
        match store.begin(folder, &here, &moves, kept) {
            Ok(notes) => Ok((store, notes)),
            Err(failure) => {
                store.release();
                Err(failure.into())
            }
        }
    }

    /// Takes in what lies in the stack's folder, and writes down there that states are elsewhere; what is said of that. `kept`: where they were said
    /// to be.
    fn begin(
        &mut self,
        folder: &Path,
        here: &Directory,
        moves: &[u64],
        kept: Option<String>,
    ) -> Result<Vec<String>, Failure> {
        let (mut notes, shown) = (Vec::new(), self.place.shown());
        if kept.as_deref().is_some_and(is_backend) {
            // what came back is there before anything says so
            notes.extend(self.import(folder, true)?);
        }
        if kept.as_ref() != Some(&shown) {
            keep_at(folder, &shown)?;
            notes
                .extend(kept.map(|at| format!("The states of the stack were in {at} before, and are in {shown} now.")));
        }
        if !moves.is_empty() {
            notes.push(self.move_in(here, moves)?);
        }
        notes.extend(self.import(folder, false)?);
        Ok(notes)
    }

    /// Gives it back; nothing is asked of it after that. Without it a place elsewhere is only this instance's.
    pub(crate) fn release(&self) {
        self.place.release();
    }

    /// Whether somebody else's claim was removed for this one.
    pub(crate) fn freed(&self) -> bool {
        self.place.freed()
    }

    /// Puts the versions of the stack's folder where states are now, as they are, and its lock; what is said of that.
    fn move_in(&mut self, here: &Directory, numbers: &[u64]) -> Result<String, Failure> {
        let (from, to) = (here.shown(), self.place.shown());
        let of_here = |e: &io::Error| place_failed(&from, e);
        let there = self.numbers()?;
        for number in numbers {
            let file = here.read(*number, FILE_MAX + 1).map_err(|e| of_here(&e))?.unwrap_or_default();
            if there.contains(number) {
                // one that was killed had moved it
                if self.place.read(*number, FILE_MAX + 1).map_err(|e| self.failed(&e))?.as_ref() == Some(&file) {
                    continue;
                }
            } else if there.last().is_none_or(|last| last < number) {
                self.place.add(*number, (&file, &[])).map_err(|e| self.failed(&e))?;
                continue;
            }
            let message = format!("{from} and {to} have states of the stack that do not follow one another");
            let next = format!("Look which are right; move {from}/{} away where those in {to} are.", states::VERSIONS);
            return Err(Code::Conflict.on(message).next(next));
        }
        if let (Some(lock), None) =
            (here.lock().map_err(|e| of_here(&e))?, self.place.lock().map_err(|e| self.failed(&e))?)
        {
            self.place.set_lock(Some(&lock)).map_err(|e| self.failed(&e))?;
        }
        here.set_aside().map_err(|e| of_here(&e))?;
        Ok(format!("The versions of the state in {from} were moved to {to}."))
    }

    /// The newest state that the runner has of a stack whose configuration has a backend by now. None: there is none, or it
    /// was taken to the backend. What is elsewhere is only looked at, and only where this instance knows that there is something, or another
    /// instance, `another`, has had the stack. On a thread that may wait, of a runtime.
    ///
    /// # Errors
    /// Those of [`Self::open`], and of the place.
    pub(crate) fn left(
        folder: &Path,
        at: Option<&Where>,
        key: Key,
        whose: Whose,
        another: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let kept = kept_at(folder)?;
        if kept.as_deref().is_some_and(is_backend) {
            return Ok(None);
        }
        if Self::is_at(folder) {
            return Self::open(folder, key, whose)?.0.read();
        }
        let Some(at) = at.filter(|_| kept.is_some() || !another.is_empty()) else { return Ok(None) };
        let remote = at.remote(&whose.stack)?;
        let failed = |e: &io::Error| place_failed(&remote.shown(), e);
        let Some(newest) = remote.numbers().map_err(|e| failed(&e))?.last().copied() else { return Ok(None) };
        let file = remote.read(newest, FILE_MAX + 1).map_err(|e| failed(&e))?.unwrap_or_default();
        let opened = key.open(&whose.stack, newest, file);
        opened.map(|(_, state)| Some(state)).map_err(|broken| damaged(newest, &remote.called(VERSIONS), broken))
    }

    /// Writes down that the states of a stack are in that backend from now on: what the runner still has of it is not gone on with.
    ///
    /// # Errors
    /// The file system.
    pub(crate) fn taken_to(folder: &Path, backend: &Backend) -> Result<(), Failure> {
        keep_at(folder, &format!("{OWN_BACKEND} ({})\n{}", backend.kind, backend.configuration))
    }

    /// Whether what is in that folder was put there by somebody, and nothing has come after it: then it is gone on with, whichever instance has had the
    /// stack last.
    ///
    /// # Errors
    /// The file system.
    pub(crate) fn was_put(folder: &Path) -> Result<bool, Failure> {
        if has_plain(folder) {
            return Ok(true);
        }
        let versions = folder.join(VERSIONS);
        let failed = |e: &io::Error| place_failed(&versions.display().to_string(), e);
        let newest = match place::numbers_in(&versions) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
            numbers => numbers.unwrap_or_default().last().copied(),
        };
        let Some(newest) = newest else { return Ok(false) };
        let first = place::read(&versions.join(states::file_name(newest)), HEAD_MAX).map_err(|e| failed(&e))?;
        Ok(first.and_then(|first| states::head(&first)).is_some_and(|(head, _)| head.reason == TAKEN_IN))
    }

    /// In which backend the states of a stack are, where that is written down.
    ///
    /// # Errors
    /// The file system.
    pub(crate) fn taken_from(folder: &Path) -> Result<Option<Taken>, Failure> {
        let text = kept_text(folder)?;
        let mut lines = text.lines();
        let Some(at) = lines.next().filter(|at| is_backend(at)) else { return Ok(None) };
        let configuration = lines.next().map(str::to_owned);
        Ok(Some(Taken { at: at.to_owned(), configuration, says: folder.join(KEPT_AT) }))
    }

    /// Whether there is a store in that folder, or a state that would become one's first version.
    pub(crate) fn is_at(folder: &Path) -> bool {
        let versions = std::fs::read_dir(folder.join(states::VERSIONS));
        versions.is_ok_and(|mut entries| entries.next().is_some()) || folder.join(PLAIN).exists()
    }

    /// Takes in a state that lies in the stack's folder; what is said of that. `came_back`: from a backend, which may have given it a lineage of
    /// its own: then it has to have what was here before that.
    fn import(&mut self, folder: &Path, came_back: bool) -> Result<Option<String>, Failure> {
        let (plain, imported) = (folder.join(PLAIN), folder.join(IMPORTED));
        let shown = plain.display();
        let failed = |e: &io::Error| io_failure(Code::StateUnusable, format_args!("{shown}"), e);
        let state = match place::read(&plain, STATE_MAX + 1).map_err(|e| failed(&e))? {
            // an engine that locks a local state makes an empty file first, which to it is none
            None => return Ok(None),
            Some(state) if state.is_empty() => return Ok(None),
            Some(state) => state,
        };
        let largest = self.place.largest();
        if state.len() > largest {
            return Err(Code::TooLarge.on(format!("{shown} has more than {largest} bytes")));
        }
        let facts = Facts::of(&state).ok_or_else(|| {
            let next = "Put a whole state there, or move the file away: without it the newest version is what counts.";
            Code::StateDamaged.on(format!("{shown} is no whole state")).next(next)
        })?;
        // one that was killed before it had renamed it, or that came with the store already
        let digest = self.key.digest(&state);
        let is_there = self.newest()?.is_some_and(|newest| newest.digest == digest);
        if !is_there {
            if let Err(failure) = self.follows(&facts)
                && !(came_back && self.read()?.is_some_and(|newest| goes_on_from(&state, &newest, Since::Changes)))
            {
                let next = format!(
                    "Look which of the two is right; move the file away where it is the version, and {} where it is the file.",
                    self.place.called(VERSIONS)
                );
                return Err(Code::Conflict.on(format!("{shown} is not taken in: {}", failure.message)).next(next));
            }
            self.add(state, facts, 0, TAKEN_IN.to_owned())?;
        }
        if came_back {
            // not before it is there, nor after nothing shows any more that it came
            unkept(folder)?;
        }
        std::fs::rename(&plain, &imported).map_err(|e| failed(&e))?;
        self.place.settle().map_err(|e| failed(&e))?;
        let number = self.newest()?.map_or(0, |newest| newest.number);
        Ok(Some(format!("{shown} is version {number} of the state now, and kept as {IMPORTED}.")))
    }

    /// The newest state. None: there is none yet.
    ///
    /// # Errors
    /// `state_damaged`; the file system.
    pub(crate) fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self.newest()? {
            None => Ok(None),
            Some(newest) => self.version(newest.number).map(Some),
        }
    }

    /// Takes a state that follows the newest one, from whoever has the lock of that id. The same once more changes nothing.
    ///
    /// # Errors
    /// `invalid_argument`, `too_large`, `state_locked`, `conflict`, `disk_full`; the newest one is what it was.
    pub(crate) fn write(&mut self, lock: &str, state: Vec<u8>) -> Result<(), Failure> {
        if state.len() > self.place.largest() {
            return Err(too_large(state.len() as u64, self.place.largest()));
        }
        let facts =
            Facts::of(&state).ok_or_else(|| Code::InvalidArgument.on("what is to be written is no whole state"))?;
        self.place.is_ours().map_err(|e| self.failed(&e))?;
        match self.held()? {
            Some(held) if !lock.is_empty() && held.id() == lock => {}
            Some(held) => {
                return Err(Code::StateLocked.on(format!("the state is written without its lock, {}", held.id())));
            }
            None => return Err(Code::StateLocked.on(format!("the lock {lock} is not there any more"))),
        }
        let digest = self.key.digest(&state);
        if self.newest()?.is_some_and(|newest| newest.digest == digest) {
            return self.place.settle().map_err(|e| self.failed(&e));
        }
        self.follows(&facts)?;
        self.add(state, facts, 0, String::new())
    }

    /// Makes the version of that number the newest one, as another version with the next serial.
    ///
    /// # Errors
    /// `not_found`, `state_damaged`, `state_locked`, `conflict`: a state that the engine has encrypted; `disk_full`.
    pub(crate) fn roll_back(&mut self, number: u64, reason: &str) -> Result<Head, Failure> {
        if let Some(held) = self.held()? {
            let message = format!("the state is locked by job {} (lock {})", held.job, held.id());
            return Err(Code::StateLocked.on(message));
        }
        if !self.numbers()?.contains(&number) {
            let next = "Look which there are: `runnerctl state versions STACK`.";
            return Err(Code::NotFound.on(format!("there is no version {number} of the state")).next(next));
        }
        let state = self.version(number)?;
        let facts = Facts::of(&state).ok_or_else(|| self.damaged(number, Broken::Sealed))?;
        if facts.encrypted {
            let message = "the engine has encrypted the state, and its serial with it, which would have to be another";
            return Err(Code::Conflict.on(message).next("Push an earlier state with the engine itself."));
        }
        // the newest one itself may be what cannot be read, and had a serial of its own
        let versions = self.versions()?;
        let unreadable = versions.iter().filter(|version| version.is_err()).count() as u64;
        let highest = versions.iter().flatten().filter_map(|head| head.serial).max();
        let serial = highest.max(facts.serial).unwrap_or(0).saturating_add(1 + unreadable);
        let state = content::with_serial(&state, serial).ok_or_else(|| self.damaged(number, Broken::Sealed))?;
        let facts = Facts { serial: Some(serial), ..facts };
        self.add(state, facts, number, reason.to_owned())?;
        self.newest()?.ok_or_else(|| Code::Internal.on("the version that was just made is not there"))
    }

    /// The heads of the versions that there are, in their order; of one that has none its number.
    ///
    /// # Errors
    /// The file system.
    pub(crate) fn versions(&self) -> Result<Vec<Result<Head, u64>>, Failure> {
        let heads = self.numbers()?.into_iter().map(|number| match self.head(number) {
            Ok(head) => Ok(Ok(head)),
            Err(failure) if failure.code == Code::StateDamaged => Ok(Err(number)),
            Err(failure) => Err(failure),
        });
        heads.collect()
    }

    /// Who has the lock. None: nobody.
    ///
    /// # Errors
    /// `state_damaged`; the file system.
    pub(crate) fn held(&self) -> Result<Option<Held>, Failure> {
        let Some(note) = self.place.lock().map_err(|e| self.failed(&e))? else { return Ok(None) };
        serde_json::from_slice(&note).map(Some).map_err(|_| {
            let shown = self.place.called(states::LOCK);
            let next = format!("Make sure that nobody is at work on the state, then remove {shown}.");
            Code::StateDamaged.on(format!("the note of the lock, {shown}, cannot be read")).next(next)
        })
    }

    /// Gives the lock to whoever says this of it in the engine's form, or says who has it. Whoever has it gets it again.
    ///
    /// # Errors
    /// `invalid_argument`, `too_large`; `disk_full`.
    pub(crate) fn lock(&mut self, info: &[u8]) -> Result<Option<Held>, Failure> {
        let info =
            serde_json::from_slice(info).map_err(|_| Code::InvalidArgument.on("the lock is not said in JSON"))?;
        let Whose { job, instance, person, .. } = self.whose.clone();
        let held = Held { info, job, instance, person, time_ms: shared_proto::now_ms() };
        if held.id().is_empty() {
            return Err(Code::InvalidArgument.on("the lock has no id"));
        }
        self.place.is_ours().map_err(|e| self.failed(&e))?;
        match self.held()? {
            Some(before) if before.id() == held.id() => return Ok(None),
            Some(before) => return Ok(Some(before)),
            None => {}
        }
        let note = serde_json::to_vec(&held).map_err(|e| Code::Internal.on(format!("the note of a lock: {e}")))?;
        if note.len() > LOCK_MAX {
            return Err(Code::TooLarge.on(format!("what is said of the lock has more than {LOCK_MAX} bytes")));
        }
        match self.place.set_lock(Some(&note)) {
            Ok(()) => Ok(None),
            // another one came between
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match self.held()? {
                Some(before) => Ok(Some(before)),
                None => Err(self.failed(&e)),
            },
            Err(e) => Err(self.failed(&e)),
        }
    }

    /// Takes the lock of that id back; where there is none, none.
    ///
    /// # Errors
    /// `conflict`: the lock is another one.
    pub(crate) fn unlock(&mut self, id: &str) -> Result<(), Failure> {
        match self.held()? {
            Some(held) if held.id() != id => {
                Err(Code::Conflict.on(format!("the lock of the state is {}, and not {id}", held.id())))
            }
            Some(_) => self.place.set_lock(None).map_err(|e| self.failed(&e)),
            None => Ok(()),
        }
    }

    /// Whether a state may come after the newest one.
    fn follows(&mut self, facts: &Facts) -> Result<(), Failure> {
        let Some(newest) = self.newest()? else { return Ok(()) };
        if !newest.lineage.is_empty() && facts.lineage != newest.lineage {
            let message = format!("its lineage is {:?}, that of version {} is another", facts.lineage, newest.number);
            return Err(Code::Conflict.on(message));
        }
        match (facts.serial, newest.serial) {
            (Some(serial), Some(before)) if serial <= before => {
                let message = format!("its serial is {serial}, that of version {} is {before}", newest.number);
                Err(Code::Conflict.on(message))
            }
            _ => Ok(()),
        }
    }

    /// Writes a version, and removes those that are too many.
    fn add(&mut self, state: Vec<u8>, facts: Facts, copy_of: u64, reason: String) -> Result<(), Failure> {
        let number = self.numbers()?.last().copied().unwrap_or(0) + 1;
        let follows = self.newest.as_ref().map(|newest| newest.as_ref().map_or(0, |newest| newest.number));
        if follows.is_some_and(|last| last + 1 != number) {
            return Err(self.overtaken(number - 1));
        }
        let Whose { stack, job, instance, person } = self.whose.clone();
        let head = Head {
            number,
            serial: facts.serial,
            lineage: facts.lineage,
            time_ms: shared_proto::now_ms(),
            job,
            instance,
            person,
            bytes: state.len() as u64,
            resources: facts.resources,
            digest: self.key.digest(&state),
            key: self.key.fingerprint(),
            copy_of,
            reason,
        };
        let (first, rest) = self
            .key
            .seal(&stack, &head, state)
            .ok_or_else(|| Code::TooLarge.on(format!("what is said of the state has more than {HEAD_MAX} bytes")))?;
        // what is there is to be looked for anew, whatever comes of this; but what was overtaken once stays so
        let before = self.newest.take();
        if let Err(e) = self.place.add(number, (&first, &rest)) {
            let overtaken = e.kind() == io::ErrorKind::AlreadyExists;
            self.newest = before.filter(|_| overtaken);
            return Err(if overtaken { self.overtaken(number) } else { self.failed(&e) });
        }
        let numbers = self.numbers()?;
        // its number may have been free because it was removed for the many that came after it
        if let Some(last) = numbers.last().filter(|last| **last != number) {
            self.newest = before;
            return Err(self.overtaken(*last));
        }
        self.newest = Some(Some(head));
        for old in &numbers[..numbers.len().saturating_sub(VERSIONS_MAX)] {
            // one that stays is looked for again the next time
            let _ = self.place.remove(*old);
        }
        Ok(())
    }

    fn newest(&mut self) -> Result<Option<Head>, Failure> {
        if let Some(newest) = &self.newest {
            return Ok(newest.clone());
        }
        let newest = self.numbers()?.last().map(|number| self.head(*number)).transpose()?;
        self.newest = Some(newest.clone());
        Ok(newest)
    }

    fn numbers(&self) -> Result<Vec<u64>, Failure> {
        self.place.numbers().map_err(|e| self.failed(&e))
    }

    fn head(&self, number: u64) -> Result<Head, Failure> {
        let first = self.place.read(number, HEAD_MAX).map_err(|e| self.failed(&e))?.unwrap_or_default();
        let (head, _) = states::head(&first).ok_or_else(|| self.damaged(number, Broken::Head))?;
        if head.number == number { Ok(head) } else { Err(self.damaged(number, Broken::Sealed)) }
    }

    fn version(&self, number: u64) -> Result<Vec<u8>, Failure> {
        let file = self.place.read(number, FILE_MAX + 1).map_err(|e| self.failed(&e))?.unwrap_or_default();
        let opened = self.key.open(&self.whose.stack, number, file);
        opened.map(|(_, state)| state).map_err(|broken| self.damaged(number, broken))
    }

    fn damaged(&self, number: u64, broken: Broken) -> Failure {
        damaged(number, &self.place.called(VERSIONS), broken)
    }

    /// Somebody else has written that version, which is not what this state follows.
    fn overtaken(&self, number: u64) -> Failure {
        let message =
            format!("another job has meanwhile written version {number} of the state in {}", self.place.shown());
        let next = "Look which of the two states is right; a new job goes on from the newest version.";
        Code::Conflict.on(message).next(next)
    }

    fn failed(&self, e: &io::Error) -> Failure {
        place_failed(&self.place.shown(), e)
    }
}

fn damaged(number: u64, versions: &str, broken: Broken) -> Failure {
    let file = format!("{versions}/{}", states::file_name(number));
    let failure = Code::StateDamaged.on(format!("version {number} of the state, {file}: {broken}"));
    match broken {
        Broken::Key => failure.next(format!(
            "Put the runner's {} back that was there when it was written, from a back-up of the state directory.",
            states::ROOT
        )),
        _ => failure,
    }
}

/// What fails at a place: a failure of its own, or the file system's.
fn place_failed(shown: &str, e: &io::Error) -> Failure {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
        Some(failure) => {
            let message = format!("the states of the stack in {shown}: {}", failure.message);
            failure.code.on(message).next(failure.next_step.clone())
        }
        None => io_failure(Code::StateUnusable, format_args!("the states of the stack in {shown}"), e),
    }
}

/// Where the states of a stack's folder are said to be; none: in it.
fn kept_at(folder: &Path) -> Result<Option<String>, Failure> {
    Ok(kept_text(folder)?.lines().next().map(str::to_owned))
}

/// What says it: in its first line; behind that of a backend comes which one that is.
fn kept_text(folder: &Path) -> Result<String, Failure> {
    let path = folder.join(KEPT_AT);
    let text = place::read(&path, KEPT_AT_MAX).map_err(|e| place_failed(&path.display().to_string(), &e))?;
    Ok(String::from_utf8_lossy(&text.unwrap_or_default()).trim().to_owned())
}

/// Says it from now on.
fn keep_at(folder: &Path, shown: &str) -> Result<(), Failure> {
    let path = folder.join(KEPT_AT);
    let written = shared_proto::file::write_whole(&path, format!("{shown}\n").as_bytes(), 0o600);
    written.map_err(|e| place_failed(&path.display().to_string(), &e))
}

/// Whether that place is a backend, and no place of the runner's.
fn is_backend(at: &str) -> bool {
    at.starts_with(OWN_BACKEND)
}

/// Whether a state has come back from a backend that is to be gone on with: it lies in the stack's folder. `kept`: where states are said to be.
///
/// # Errors
/// `state_elsewhere`: they are in a backend, and nothing has come back.
fn is_taken_back(folder: &Path, kept: Option<&str>) -> Result<bool, Failure> {
    let Some(at) = kept.filter(|at| is_backend(at)) else { return Ok(false) };
    if has_plain(folder) {
        return Ok(true);
    }
    let back = format!("`state pull` from there, into {}", folder.join(PLAIN).display());
    Err(is_in_backend("stack", at, "configuration", &back))
}

/// Whether a state lies in that folder as it is. What an engine that locks a local state makes first is an empty file, which to it is none.
fn has_plain(folder: &Path) -> bool {
    folder.join(PLAIN).metadata().is_ok_and(|file| file.len() > 0)
}

/// What is said of a state that is in a backend, where the source names none now. `of`: whose it is; `source`: what names a backend; `back`: how it
/// is taken back.
pub(crate) fn is_in_backend(of: &str, at: &str, source: &str, back: &str) -> Failure {
    let message = format!("the state of the {of} is in {at}, and the {source} has none now");
    let next = format!("Put the backend into the {source} again. Or take the state back: {back}.");
    Code::StateElsewhere.on(message).next(next)
}

/// They are the runner's own again, and in no other place that is known.
fn unkept(folder: &Path) -> Result<(), Failure> {
    let path = folder.join(KEPT_AT);
    std::fs::remove_file(&path).map_err(|e| place_failed(&path.display().to_string(), &e))
}

fn is_elsewhere(folder: &Path, at: &str, shown: &str) -> Failure {
    let message = format!("the states of the stack were kept in {at}, and there are none in {shown}");
    let next = format!(
        "Name that place in [jobs.states] again, or copy what is in it; where the stack is to begin anew, remove {}.",
        folder.join(KEPT_AT).display()
    );
    Code::StateElsewhere.on(message).next(next)
}

/// A state of so many bytes is not taken.
fn too_large(bytes: u64, largest: usize) -> Failure {
    Code::TooLarge
        .on(format!("the state has {bytes} bytes, and the runner's store takes {largest}"))
        .next("Divide the stack, or give it a backend of its own.")
}
