//! The runner's own store of states, for stacks whose configuration has no backend: versions, sealed, one lock. The engine reaches it by its
//! HTTP backend ([`server`]); where the pieces lie is a [`Place`]'s.
//!
//! ```text
//!  engine ── HTTP, loopback, the job's token ──▶ server ──▶ Store: lock, lineage, serial, seal ──▶ Place: whole files
//! ```
//! It must never take a state that does not follow the newest one, never change or remove one of the newest [`VERSIONS_MAX`], and never
//! hold the claim of a stack that another worker serves. What its files say is checked each time: who writes there is not only this program.

mod content;
pub(crate) mod keeper;
mod md5;
mod place;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use crate::stop::io_failure;
use content::Facts;
use place::{Directory, Place};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{self, Broken, FILE_MAX, HEAD_MAX, Head, Held, Key, LOCK_MAX, STATE_MAX, VERSIONS_MAX};
use std::io;
use std::path::Path;

/// A state in the stack's folder as it is: of a runner that had no store, or what an engine could not save and somebody put there.
const PLAIN: &str = "terraform.tfstate";
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

/// The states of one stack.
#[derive(Debug)]
pub(crate) struct Store {
    place: Box<dyn Place>,
    key: Key,
    whose: Whose,
    /// The head of the newest version, once it was looked for.
    newest: Option<Option<Head>>,
}

// === impl Store ===

impl Store {
    /// Opens that of a folder, and nobody else has it as long as this lives. A state that lies there as it is becomes a version: what is said
    /// of that.
    ///
    /// # Errors
    /// `busy`: another worker has it; `state_damaged`, `conflict`: what lies there cannot be taken; the file system.
    pub(crate) fn open(folder: &Path, key: Key, whose: Whose) -> Result<(Self, Option<String>), Failure> {
        let place = Directory::claim(folder)?;
        let mut store = Self { place: Box::new(place), key, whose, newest: None };
        let note = store.import(folder)?;
        Ok((store, note))
    }

    /// Whether there is a store in that folder, or a state that would become one's first version.
    pub(crate) fn is_at(folder: &Path) -> bool {
        let versions = std::fs::read_dir(folder.join(states::VERSIONS));
        versions.is_ok_and(|mut entries| entries.next().is_some()) || folder.join(PLAIN).exists()
    }

    fn import(&mut self, folder: &Path) -> Result<Option<String>, Failure> {
        let (plain, imported) = (folder.join(PLAIN), folder.join(IMPORTED));
        let shown = plain.display();
        let failed = |e: &io::Error| io_failure(Code::StateUnusable, format_args!("{shown}"), e);
        let state = match place::read(&plain, STATE_MAX + 1).map_err(|e| failed(&e))? {
            // an engine that locks a local state makes an empty file first, which to it is none
            None => return Ok(None),
            Some(state) if state.is_empty() => return Ok(None),
            Some(state) => state,
        };
        if state.len() > STATE_MAX {
            return Err(Code::TooLarge.on(format!("{shown} has more than {STATE_MAX} bytes")));
        }
        let facts = Facts::of(&state).ok_or_else(|| {
            let next = "Put a whole state there, or move the file away: without it the newest version is what counts.";
            Code::StateDamaged.on(format!("{shown} is no whole state")).next(next)
        })?;
        // one that was killed before it had renamed it, or that came with the store already
        let digest = self.key.digest(&state);
        let is_there = self.newest()?.is_some_and(|newest| newest.digest == digest);
        if !is_there {
            self.follows(&facts).map_err(|failure| {
                let next = "Look which of the two is right; move the file away where it is the version.";
                Code::Conflict.on(format!("{shown} is not taken in: {}", failure.message)).next(next)
            })?;
            self.add(state, facts, 0, String::new())?;
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
        if state.len() > STATE_MAX {
            return Err(too_large(state.len() as u64));
        }
        let facts =
            Facts::of(&state).ok_or_else(|| Code::InvalidArgument.on("what is to be written is no whole state"))?;
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
            let shown = format!("{}/{}", self.place.shown(), states::LOCK);
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
        match self.held()? {
            Some(before) if before.id() == held.id() => return Ok(None),
            Some(before) => return Ok(Some(before)),
            None => {}
        }
        let note = serde_json::to_vec(&held).map_err(|e| Code::Internal.on(format!("the note of a lock: {e}")))?;
        if note.len() > LOCK_MAX {
            return Err(Code::TooLarge.on(format!("what is said of the lock has more than {LOCK_MAX} bytes")));
        }
        self.place.set_lock(Some(&note)).map_err(|e| self.failed(&e))?;
        Ok(None)
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
        // what is there is to be looked for anew, whatever comes of this
        self.newest = None;
        self.place.add(number, (&first, &rest)).map_err(|e| self.failed(&e))?;
        self.newest = Some(Some(head));
        let numbers = self.numbers()?;
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
        let file = format!("{}/{}/{}", self.place.shown(), states::VERSIONS, states::file_name(number));
        let failure = Code::StateDamaged.on(format!("version {number} of the state, {file}: {broken}"));
        match broken {
            Broken::Key => failure.next(format!(
                "Put the runner's {} back that was there when it was written, from a back-up of the state directory.",
                states::ROOT
            )),
            _ => failure,
        }
    }

    fn failed(&self, e: &io::Error) -> Failure {
        io_failure(Code::StateUnusable, format_args!("the states of the stack in {}", self.place.shown()), e)
    }
}

/// A state of so many bytes is not taken.
fn too_large(bytes: u64) -> Failure {
    Code::TooLarge
        .on(format!("the state has {bytes} bytes, and the runner's store takes {STATE_MAX}"))
        .next("Divide the stack, or give it a backend of its own.")
}
