//! A place of states that other machines reach, too: nothing of this machine proves that nobody else serves them. So whoever serves a stack says
//! so in an object beside its states, the claim, and every write is made only over what was read:
//!
//! ```text
//!  claim, lock   replaced where they are as they were read     version   made where there is none of its number
//! ```
//! Of two that write at once one does, and the other is told. A claim of this instance is taken over, because the kernel proves that its holder
//! is gone: each worker of an instance locks the stack's folder as long as it lives. That of another instance is never taken over by itself,
//! however old it is: only by whoever says by its id that it may go.
//!
//! It must never write over what it has not read.

use super::Whose;
use super::place::{Directory, Place};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{Claim, Held, LOCK, LOCK_MAX, SERVING};
use std::cell::RefCell;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// How often it is looked again who serves the states, where others come between.
const ROUNDS_MAX: u32 = 3;
/// Random bytes of a claim's id.
const ID: usize = 12;

/// A note as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Empty: nobody is noted.
    pub(super) content: Vec<u8>,
    /// By which it is known whether it is still that.
    pub(super) tag: String,
}

/// What a place elsewhere can do. Each call is tried again by itself where what failed passes.
pub(super) trait Remote: Debug + Send {
    /// What it is called to people, the stack included.
    fn shown(&self) -> String;
    /// What a thing in it is called: a note, or a version.
    fn called(&self, name: &str) -> String;
    /// The largest state that it takes, bytes.
    fn largest(&self) -> usize;
    /// The numbers of the versions that are there, in their order.
    fn numbers(&self) -> io::Result<Vec<u64>>;
    /// The first so many bytes of a version. None: it is not there.
    fn read(&self, number: u64, most: usize) -> io::Result<Option<Vec<u8>>>;
    /// Adds a version of two parts, whole or not at all; `AlreadyExists`: there is another one of that number.
    fn add(&self, number: u64, parts: (&[u8], &[u8])) -> io::Result<()>;
    /// Removes a version; one that is not there is as good.
    fn remove(&self, number: u64) -> io::Result<()>;
    /// A note. None: it was never written.
    fn note(&self, name: &str) -> io::Result<Option<Note>>;
    /// Writes a note over the one of that tag, or where there is none; its new tag. `AlreadyExists`: it is another one by now.
    fn put_note(&self, name: &str, content: &[u8], over: Option<&str>) -> io::Result<String>;
    /// Whether it really refuses to write over what is another one: tried with that note, which is there with that tag.
    fn keeps_its_word(&self, name: &str, note: &Note) -> io::Result<bool>;
}

/// A place elsewhere, claimed.
#[derive(Debug)]
pub(super) struct Elsewhere {
    remote: Box<dyn Remote>,
    /// The claim's tag; none: it was released.
    claim: RefCell<Option<String>>,
    /// The tag of the lock's note as it was read last.
    lock: RefCell<Option<String>>,
    /// Whether the claim of another one was removed for this one, by its id or its lock's.
    freed: bool,
    /// The stack's folder on this machine: let go of when this goes, however it goes.
    _here: Arc<Directory>,
}

/// What is there before anything is written.
#[derive(Debug)]
pub(super) struct Before {
    claim: Option<Note>,
    numbers: Vec<u64>,
}

/// Why a store is not opened.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// It fails.
    Failed(Failure),
    /// Somebody else serves the states.
    Served(Box<Served>),
}

/// Who serves the states of a stack, that is not known to have ended.
#[derive(Debug)]
pub(crate) struct Served {
    /// What is told of it.
    pub(crate) failure: Failure,
    /// Who it is.
    pub(crate) claim: Claim,
    /// By which id it is removed: that of the lock that its engine has, else its own.
    pub(crate) id: String,
}

impl From<Failure> for Unopened {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

// === impl Before ===

impl Before {
    /// Looks.
    pub(super) fn look(remote: &dyn Remote) -> io::Result<Self> {
        Ok(Self { claim: remote.note(SERVING)?, numbers: remote.numbers()? })
    }
    /// Whether nobody has ever served states of that stack there.
    pub(super) fn is_nothing(&self) -> bool {
        self.claim.is_none() && self.numbers.is_empty()
    }
}

// === impl Elsewhere ===

impl Elsewhere {
    /// Claims the states. `here`: the stack's folder on this machine. `removes`: the id of the claim, or of the lock of its job,
    /// that is to go.
    pub(super) fn claim(
        remote: Box<dyn Remote>,
        here: Arc<Directory>,
        before: Before,
        whose: &Whose,
        removes: Option<&str>,
    ) -> Result<Self, Unopened> {
        let failed = |e: &io::Error| super::place_failed(&remote.shown(), e);
        let own = Claim {
            id: id().map_err(|e| failed(&e))?,
            instance: whose.instance.clone(),
            job: whose.job.clone(),
            person: whose.person.clone(),
            time_ms: shared_proto::now_ms(),
        };
        let content = serde_json::to_vec(&own).map_err(|e| Code::Internal.on(format!("a claim: {e}")))?;
        let (mut note, mut freed, mut rounds) = (before.claim, false, 0);
        let tag = loop {
            if let Some(held) = note.as_ref().filter(|note| !note.content.is_empty()) {
                freed |= may_go(&*remote, parsed(&*remote, &held.content)?, whose, removes)?;
            }
            let over = note.as_ref().map(|note| note.tag.as_str());
            match remote.put_note(SERVING, &content, over) {
                Ok(tag) => break tag,
                // another one came between
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && rounds < ROUNDS_MAX => rounds += 1,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let message = format!("others come and go who serve the states in {}", remote.shown());
                    return Err(Code::Busy.on(message).into());
                }
                Err(e) => return Err(failed(&e).into()),
            }
            note = remote.note(SERVING).map_err(|e| failed(&e))?;
        };
        let note = Note { content, tag };
        if !remote.keeps_its_word(SERVING, &note).map_err(|e| failed(&e))? {
            let message = format!(
                "{} writes over what it was asked to leave (If-None-Match, If-Match): states are not safe there",
                remote.shown()
            );
            let next = "Keep the states in a store that heeds the conditions of a PUT, as Amazon S3 does.";
            return Err(Code::StateUnusable.on(message).next(next).into());
        }
        let claim = RefCell::new(Some(note.tag));
        Ok(Self { remote, claim, lock: RefCell::default(), freed, _here: here })
    }
}

impl Place for Elsewhere {
    fn shown(&self) -> String {
        self.remote.shown()
    }
    fn called(&self, name: &str) -> String {
        self.remote.called(name)
    }
    fn largest(&self) -> usize {
        self.remote.largest()
    }
    fn freed(&self) -> bool {
        self.freed
    }

    fn is_ours(&self) -> io::Result<()> {
        let note = self.remote.note(SERVING)?;
        if note.as_ref().is_some_and(|note| self.claim.borrow().as_ref() == Some(&note.tag)) {
            return Ok(());
        }
        let by = note.and_then(|note| serde_json::from_slice::<Claim>(&note.content).ok());
        let by = by.map_or_else(String::new, |by| format!(" by job {} on the instance {}", by.job, by.instance));
        let message = format!("the states in {} were taken over{by}: this job has them no more", self.shown());
        let next = "Look which of the two jobs is right. What this one could not save is kept on its runner.";
        Err(io::Error::other(Code::StateLocked.on(message).next(next)))
    }

    fn release(&self) {
        if let Some(tag) = self.claim.take() {
            // where it cannot be, the next worker of this instance takes it over, and of another one it is asked
            let _ = self.remote.put_note(SERVING, b"", Some(&tag));
        }
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        self.remote.numbers()
    }
    fn read(&self, number: u64, most: usize) -> io::Result<Option<Vec<u8>>> {
        self.remote.read(number, most)
    }
    fn add(&self, number: u64, parts: (&[u8], &[u8])) -> io::Result<()> {
        self.remote.add(number, parts)
    }
    fn settle(&self) -> io::Result<()> {
        // what was answered is there for good
        Ok(())
    }
    fn remove(&self, number: u64) -> io::Result<()> {
        self.remote.remove(number)
    }

    fn lock(&self) -> io::Result<Option<Vec<u8>>> {
        let note = self.remote.note(LOCK)?;
        *self.lock.borrow_mut() = note.as_ref().map(|note| note.tag.clone());
        Ok(note.map(|note| note.content).filter(|content| !content.is_empty()))
    }

    fn set_lock(&self, note: Option<&[u8]>) -> io::Result<()> {
        let over = self.lock.borrow().clone();
        if note.is_none() && over.is_none() {
            return Ok(());
        }
        // what nobody is noted in stays where it is: it is what the next note is written over
        let tag = self.remote.put_note(LOCK, note.unwrap_or_default(), over.as_deref())?;
        *self.lock.borrow_mut() = Some(tag);
        Ok(())
    }
}

/// The claim in a note.
fn parsed(remote: &dyn Remote, content: &[u8]) -> Result<Claim, Failure> {
    serde_json::from_slice(content).map_err(|_| {
        let at = remote.called(SERVING);
        let next = format!("Make sure that nobody is at work on the state, then remove {at}.");
        Code::StateDamaged.on(format!("the claim of the states, {at}, cannot be read")).next(next)
    })
}

/// Whether a claim goes because its id was said, or that of the lock which the engine of its job has; one of this instance goes without.
fn may_go(remote: &dyn Remote, claim: Claim, whose: &Whose, removes: Option<&str>) -> Result<bool, Unopened> {
    if !claim.instance.is_empty() && claim.instance == whose.instance {
        return Ok(false);
    }
    let lock = remote.note(LOCK).map_err(|e| super::place_failed(&remote.shown(), &e))?;
    // one that cannot be read is told by whoever asks for the lock
    let lock = lock.and_then(|note| serde_json::from_slice::<Held>(&note.content).ok());
    let lock = lock.filter(|held| held.job == claim.job).map(|held| held.id().to_owned());
    if removes.is_some_and(|id| id == claim.id || lock.as_deref() == Some(id)) {
        return Ok(true);
    }
    Err(Unopened::Served(Box::new(served(remote, claim, lock))))
}

/// `lock`: the id of the lock that the engine of its job has.
fn served(remote: &dyn Remote, claim: Claim, lock: Option<String>) -> Served {
    let id = lock.filter(|id| !id.is_empty()).unwrap_or_else(|| claim.id.clone());
    let message = format!(
        "the states in {} are served by job {} of {}, on the instance {}, and nothing proves here that it has ended",
        remote.shown(),
        claim.job,
        claim.person,
        claim.instance
    );
    let next = format!(
        "Wait for that job. Where its instance is gone for good: `runnerctl state unlock STACK {id} --force --reason TEXT`."
    );
    Served { failure: Code::StateLocked.on(message).next(next), claim, id }
}

fn id() -> io::Result<String> {
    let mut bytes = [0; ID];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(shared_proto::hex::encode(bytes))
}

/// The most that is read of a note, bytes: a longer one is none.
pub(super) const NOTE_MAX: usize = LOCK_MAX;
