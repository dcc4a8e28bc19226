//! The audit log as the supervisor has it: opened whenever the process before has let go of it, let go of for the one that follows, and asked
//! before anything is served.
//!
//! It must never let anything be served that it could not write down, unless the configuration says that this goes on.

use crate::audit::{
    Audit, AuditError, Decision, Health, Kind, Missing, OnFailure, Options, Point, PublicKey, Record, Sealed, Wait,
};
use crate::policy::{Attributes, CloudCall, JobCall, Namespace, What};
use crate::recordings;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{JobRequest, OperationRequest};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why nothing is written where another process has not let go.
const STILL_ANOTHERS: &str = "another process still has the audit log";
/// The folder in the state directory.
pub const FOLDER: &str = "audit";
/// How long a request waits for the log, where another process still has it.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// How many records of what was refused wait for it meanwhile; more are counted.
const NOTES_MAX: usize = 4096;
/// How often it is tried whether that one has let go, and how often where something else is wrong.
const HELD_AGAIN: Duration = Duration::from_millis(20);
const FAILED_AGAIN: Duration = Duration::from_secs(2);
/// Where the process that follows takes records of the one before, in the log's folder, and for how long: what was routed to that one goes on there.
const RELAY: &str = "relay";
const RELAY_FOR: Duration = Duration::from_secs(120);
/// The most that a record takes on that way, bytes, and how long each may take.
const RELAYED_MAX: u64 = 256 * 1024;
const RELAYED_WITHIN: Duration = Duration::from_secs(10);
/// The most of an exec's command line that is put together, bytes: the log cuts it much shorter.
const COMMAND_MAX: usize = 8 * 1024;

/// The log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    options: Options,
    state: watch::Sender<State>,
    /// Ends the task that opens it, and the one that takes records of the process before.
    opening: Mutex<CancellationToken>,
    /// What went on while there was no log to write to, and what was refused because of that.
    unwritten: AtomicU64,
    unwritten_refused: AtomicU64,
    /// Of both what the log is to say once it is open.
    untold: Mutex<Missing>,
    /// The newest seal of whichever log was open last.
    seals: watch::Sender<Option<Sealed>>,
    /// What writes beside it, and is waited for at the end.
    tasks: TaskTracker,
}

#[derive(Debug, Clone)]
enum State {
    /// Another process has it, or it cannot be opened: why not.
    Waits(Option<String>),
    Open(Audit),
    /// The process that follows has it, or may.
    Given,
    /// There is none.
    Off,
}

/// What an operation moved, bytes.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the user to the target.
    pub bytes_in: AtomicU64,
    /// From the target to the user.
    pub bytes_out: AtomicU64,
}

/// How it is, for whoever asks.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct RecorderStatus {
    /// `open`, `waits` or `given`.
    pub state: String,
    /// Number and hash of the last record.
    pub head: String,
    /// Records of what went on that are not in the log.
    pub lost: u64,
    /// Records of what was refused for want of the log.
    pub refused: u64,
    /// The last failure.
    pub trouble: String,
}

// === impl Recorder ===

impl Recorder {
    /// Opens the log in that state directory, now or once it can. `follows`: another process has it, whose records are taken when it has let go.
    pub fn start(state_dir: &Path, options: Options, follows: bool) -> Self {
        let inner = Inner {
            folder: state_dir.join(FOLDER),
            options,
            state: watch::Sender::new(State::Waits(None)),
            opening: Mutex::default(),
            unwritten: AtomicU64::new(0),
            unwritten_refused: AtomicU64::new(0),
            untold: Mutex::default(),
            seals: watch::Sender::new(None),
            tasks: TaskTracker::new(),
        };
        let recorder = Self { inner: Arc::new(inner) };
        recorder.open(follows);
        recorder
    }

    /// No log at all: for simulations, whose time stands still while a disk is waited for. Nothing in the product uses it.
    pub fn off() -> Self {
        let inner = Inner {
            folder: PathBuf::new(),
            options: Options::new("", ""),
            state: watch::Sender::new(State::Off),
            opening: Mutex::default(),
            unwritten: AtomicU64::new(0),
            unwritten_refused: AtomicU64::new(0),
            untold: Mutex::default(),
            seals: watch::Sender::new(None),
            tasks: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens it, and tries again until it can.
    fn open(&self, follows: bool) {
        let stop = CancellationToken::new();
        *self.inner.opening.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        let (inner, ended) = (self.inner.clone(), stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut told = false;
            loop {
                let (folder, options) = (inner.folder.clone(), inner.options.clone());
                let opened = tokio::task::spawn_blocking(move || Audit::open(&folder, options)).await;
                let pause = match opened {
                    Ok(Ok((audit, found))) => {
                        if found.cut.is_some() || found.damaged_line.is_some() || found.key_lost {
                            tracing::warn!(
                                ?found,
                                "the audit log was not as it was left; the log itself says what of it"
                            );
                        }
                        if follows {
                            let taking = relay(inner.folder.join(RELAY), audit.clone());
                            tokio::spawn(ended.clone().run_until_cancelled_owned(taking));
                        }
                        tokio::spawn(ended.run_until_cancelled_owned(pass_seals(audit.seals(), inner.seals.clone())));
                        let recorder = Self { inner: inner.clone() };
                        // before all that waits for it
                        recorder.tell_to(&audit);
                        inner.state.send_replace(State::Open(audit));
                        // and what was counted meanwhile
                        recorder.tell();
                        inner.tasks.spawn(recordings::left_behind(recorder));
                        return;
                    }
                    Ok(Err(AuditError::Held(_))) => HELD_AGAIN,
                    Ok(Err(e)) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::error!(error = %e, next_step = e.next_step(), "the audit log cannot be opened");
                        }
                        inner.state.send_replace(State::Waits(Some(e.to_string())));
                        FAILED_AGAIN
                    }
                    Err(e) => {
                        inner.state.send_replace(State::Waits(Some(e.to_string())));
                        FAILED_AGAIN
                    }
                };
                tokio::time::sleep(pause).await;
            }
        }));
    }

    /// Lets go of it for the process that follows, which from now on writes down what is still asked here.
    pub async fn give(&self) {
        self.inner.opening.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        // from here on it is the next one's
        let _ = std::fs::remove_file(self.inner.folder.join(RELAY));
        self.tell();
        if let State::Open(audit) = self.inner.state.send_replace(State::Given)
            && let Err(e) = audit.close().await
        {
            tracing::error!(error = %e, "the audit log was not sealed at its end");
        }
    }

    /// Takes it back from a process that did not follow.
    pub fn take_back(&self) {
        self.inner.state.send_replace(State::Waits(None));
        self.open(false);
    }

    /// The log, once it is open.
    async fn audit(&self) -> Result<Audit, String> {
        let mut state = self.inner.state.subscribe();
        let open = state.wait_for(|state| !matches!(state, State::Waits(None)));
        match tokio::time::timeout(OPEN_WITHIN, open).await.map(|state| state.map(|state| state.clone())) {
            Ok(Ok(State::Open(audit))) => Ok(audit),
            Ok(Ok(State::Waits(Some(why)))) => Err(why),
            Ok(Ok(State::Given)) => Err("the process that follows has the audit log".to_owned()),
            _ => Err(STILL_ANOTHERS.to_owned()),
        }
    }

    /// The log's folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// What writes beside the log, and into it at its end.
    pub fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Waits until all of that has ended. Nothing new may come.
    pub async fn written(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Writes down what was decided, before it is done; and what must not be lost.
    ///
    /// # Errors
    /// `audit_unavailable`: it cannot be, and so must not be done.
    pub async fn record(&self, record: Record) -> Result<(), Failure> {
        if matches!(*self.inner.state.borrow(), State::Off) {
            return Ok(());
        }
        let open = self.inner.options.on_failure == OnFailure::Open;
        if matches!(*self.inner.state.borrow(), State::Given) {
            let path = self.inner.folder.join(RELAY);
            let relayed = tokio::time::timeout(RELAYED_WITHIN, hand_on(&path, Relayed::of(record))).await;
            return match relayed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
                Ok(()) => Ok(()),
                Err(_) if open => {
                    self.inner.unwritten.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
                Err(e) => {
                    Err(Code::AuditUnavailable.on(format!("the process that follows does not take the record: {e}")))
                }
            };
        }
        let audit = match self.audit().await {
            Ok(audit) => audit,
            Err(why) => {
                self.missed(!open, &why);
                return if open { Ok(()) } else { Err(Code::AuditUnavailable.on(why)) };
            }
        };
        match audit.record(record, Wait::Written).await {
            Ok(_) => Ok(()),
            Err(_) if open => {
                self.inner.unwritten.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => Err(Code::AuditUnavailable.on(e.to_string()).next(e.next_step())),
        }
    }

    /// Writes down what cannot be refused any more.
    pub fn note(&self, record: Record) {
        // not while it is looked at: what is counted looks at it again, and whoever opens the log may wait in between
        let state = self.inner.state.borrow().clone();
        match state {
            State::Open(audit) => audit.note(record),
            State::Given => {
                let path = self.inner.folder.join(RELAY);
                // its own log says nothing of one that is gone
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(RELAYED_WITHIN, hand_on(&path, Relayed::of(record))).await;
                });
            }
            // a runner that has just started opens it now
            State::Waits(None) if self.inner.tasks.len() < NOTES_MAX => {
                let recorder = self.clone();
                self.inner.tasks.spawn(async move {
                    match recorder.audit().await {
                        Ok(audit) => audit.note(record),
                        Err(why) => recorder.missed(false, &why),
                    }
                });
            }
            State::Waits(why) => self.missed(false, why.as_deref().unwrap_or(STILL_ANOTHERS)),
            State::Off => {}
        }
    }

    /// Counts a record of what went on, or was refused, while the log could not be opened.
    fn missed(&self, refused: bool, why: &str) {
        let (lost, refused) = (u64::from(!refused), u64::from(refused));
        self.inner.unwritten.fetch_add(lost, Ordering::Relaxed);
        self.inner.unwritten_refused.fetch_add(refused, Ordering::Relaxed);
        self.inner.untold.lock().unwrap_or_else(PoisonError::into_inner).add(lost, refused, &why);
        self.tell();
    }

    /// Has the log say what was counted before it was open; later, where it is not.
    fn tell(&self) {
        let state = self.inner.state.borrow().clone();
        if let State::Open(audit) = state {
            self.tell_to(&audit);
        }
    }

    fn tell_to(&self, audit: &Audit) {
        let mut untold = self.inner.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if !untold.is_nothing()
            && let Err(back) = audit.missed(std::mem::take(&mut *untold))
        {
            *untold = back;
        }
    }

    /// Makes another key for the log, which the one before signs.
    ///
    /// # Errors
    /// `audit_unavailable`: it was not made, or the disk did not confirm it.
    pub async fn change_key(&self) -> Result<PublicKey, Failure> {
        let audit = self.audit().await.map_err(|why| Code::AuditUnavailable.on(why))?;
        audit.change_key().await.map_err(|e| Code::AuditUnavailable.on(e.to_string()).next(e.next_step()))
    }

    /// The newest seal, and each one to come: what is told elsewhere.
    pub fn seals(&self) -> watch::Receiver<Option<Sealed>> {
        self.inner.seals.subscribe()
    }

    /// Has the collector's file opened anew.
    pub fn reopen(&self) {
        if let State::Open(audit) = &*self.inner.state.borrow() {
            audit.reopen();
        }
    }

    /// How it is.
    pub fn status(&self) -> RecorderStatus {
        let state = self.inner.state.borrow().clone();
        let unwritten = self.inner.unwritten.load(Ordering::Relaxed);
        let unwritten_refused = self.inner.unwritten_refused.load(Ordering::Relaxed);
        let plain = |state: &str, trouble: String| RecorderStatus {
            state: state.to_owned(),
            lost: unwritten,
            refused: unwritten_refused,
            trouble,
            ..RecorderStatus::default()
        };
        match state {
            State::Waits(why) => plain("waits", why.unwrap_or_default()),
            State::Given => plain("given", String::new()),
            State::Off => plain("off", String::new()),
            State::Open(audit) => {
                let (Health { lost, refused, last_error, .. }, head): (Health, Point) = (audit.health(), audit.head());
                RecorderStatus {
                    state: "open".to_owned(),
                    head: head.to_string(),
                    lost: lost + unwritten,
                    refused: refused + unwritten_refused,
                    trouble: last_error.unwrap_or_default(),
                }
            }
        }
    }
}

/// Passes seals on, as long as there is a log.
async fn pass_seals(mut from: watch::Receiver<Option<Sealed>>, to: watch::Sender<Option<Sealed>>) {
    // the last one that was there counts as well
    from.mark_changed();
    while from.changed().await.is_ok() {
        let sealed = from.borrow_and_update().clone();
        to.send_if_modified(|told| {
            let news = sealed.is_some() && *told != sealed;
            if news {
                *told = sealed;
            }
            news
        });
    }
}

/// A record on its way from the process before.
#[derive(serde::Serialize, serde::Deserialize)]
struct Relayed {
    kind: Kind,
    record: Record,
}

impl Relayed {
    fn of(record: Record) -> Self {
        Self { kind: record.kind, record }
    }
}

/// Hands a record on to the process that follows, and waits until that has it. It may not listen yet.
async fn hand_on(path: &Path, relayed: Relayed) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&relayed)?;
    line.push(b'\n');
    let mut stream = loop {
        match UnixStream::connect(path).await {
            Ok(stream) => break stream,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                tokio::time::sleep(HELD_AGAIN).await;
            }
            Err(e) => return Err(e),
        }
    };
    stream.write_all(&line).await?;
    match stream.read_u8().await? {
        b'+' => Ok(()),
        _ => Err(std::io::Error::other("it cannot be written down")),
    }
}

/// Takes records of the process before, as long as that may have some. Only this user can reach it: the folder is its own alone.
async fn relay(path: PathBuf, audit: Audit) {
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "records of the process before are not taken"),
    };
    let over = tokio::time::sleep(RELAY_FOR);
    tokio::pin!(over);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => break,
            },
            () = &mut over => break,
        };
        let audit = audit.clone();
        tokio::spawn(tokio::time::timeout(RELAYED_WITHIN, async move {
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            BufReader::new(read.take(RELAYED_MAX)).read_line(&mut line).await?;
            let Relayed { kind, record } = serde_json::from_str(&line)?;
            let kept = audit.record(Record { kind, ..record }, Wait::Written).await.is_ok();
            write.write_all(if kept { b"+" } else { b"-" }).await
        }));
    }
    let _ = std::fs::remove_file(&path);
}

/// A record of what was decided about an operation. `asked`: what it asks for, as far as that could be read, what it is about last.
pub fn of_operation(request: &OperationRequest, kind: &str, provider: &str, asked: &[What]) -> Record {
    let caller = request.caller.clone().unwrap_or_default();
    let record = Record {
        kind: Kind::Decision,
        operation: given(&request.operation_id),
        user: given(&caller.user_id),
        user_name: given(&caller.user_name),
        groups: caller.groups,
        action: given(kind),
        connection: given(&request.connection),
        provider: given(provider),
        ..Record::default()
    };
    let beside: Vec<_> = asked.iter().rev().skip(1).rev().filter_map(beside).collect();
    let record = Record { detail: given(&beside.join(", ")), ..record };
    match asked.last() {
        Some(What::Kubernetes(attributes)) => with_attributes(record, attributes),
        Some(What::Aws(call) | What::Gcp(call) | What::Azure(call)) => with_call(record, call),
        _ => record,
    }
}

/// What an operation asks for beside what it is about, such as to act as somebody else.
fn beside(what: &What) -> Option<String> {
    match what {
        What::Kubernetes(it) => Some(format!("{} {} {}", it.verb, it.resource, it.name)),
        _ => None,
    }
}

fn with_attributes(record: Record, it: &Attributes) -> Record {
    let namespace = match &it.namespace {
        Namespace::Named(name) => given(name),
        Namespace::All => given("*"),
        Namespace::None | Namespace::Unknown => None,
    };
    Record {
        verb: given(&it.verb),
        resource: given(&if it.is_resource { it.resource_name() } else { it.path.clone() }),
        namespace,
        name: given(&it.name),
        container: it.container.clone(),
        command: if it.command.is_empty() { None } else { Some(command(&it.command)) },
        ..record
    }
}

fn with_call(record: Record, call: &CloudCall) -> Record {
    Record { service: given(&call.service), verb: call.operation.clone(), namespace: call.region.clone(), ..record }
}

/// A record of what was decided about a job.
pub fn of_job(request: &JobRequest, job: &JobCall) -> Record {
    Record {
        kind: Kind::Decision,
        job: given(&request.job_id),
        user_name: given(&request.created_by),
        action: given(&job.kind),
        service: given(&job.engine),
        namespace: given(&job.stack),
        resource: given(job.source.as_str()),
        // what an unlock removes, and whoever asked for it or for a roll-back says why
        name: given(&request.lock_id),
        detail: given(&request.reason),
        connection: given(&request.connections.join(",")),
        ..Record::default()
    }
}

/// The same with what came of it.
pub fn decided(record: Record, rule: &str, denied: Option<&Failure>) -> Record {
    let detail = denied.map(|failure| failure.message.clone()).or_else(|| record.detail.clone());
    Record {
        decision: Some(if denied.is_some() { Decision::Deny } else { Decision::Allow }),
        rule: given(rule),
        code: denied.map(|failure| failure.code.as_str().to_owned()),
        detail,
        ..record
    }
}

fn given(text: &str) -> Option<String> {
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

/// A command line as a shell would take it.
pub fn command(words: &[String]) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=,@+%".contains(&b));
        if plain {
            line.push_str(word);
        } else {
            line.push('\'');
            line.push_str(&word.replace('\'', "'\\''"));
            line.push('\'');
        }
        if line.len() > COMMAND_MAX {
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Against, Noted, Target, verify};

    fn record(operation: &str) -> Record {
        decided(Record { operation: given(operation), ..Record::default() }, "(no policy)", None)
    }
    fn options() -> Options {
        Options::new("run_1", "instance-1")
    }
    fn good(folder: &Path, records: usize) {
        let report = verify(&Target::Folder(folder.join(FOLDER)), Against::default()).expect("readable");
        assert!(report.is_good(), "{report}");
        let lines = std::fs::read_to_string(folder.join(FOLDER).join("audit-000001.jsonl")).expect("reads");
        assert_eq!(lines.lines().filter(|line| line.contains("\"decision\":\"allow\"")).count(), records, "{lines}");
    }

    #[tokio::test]
    async fn the_one_that_follows_goes_on_with_the_log_and_one_that_does_not_gives_it_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Recorder::start(folder.path(), options(), false);
        first.record(record("op_1")).await.expect("writes");
        // what comes to the next one meanwhile waits
        let second = Recorder::start(folder.path(), options(), true);
        let waiting = tokio::spawn({
            let second = second.clone();
            async move { second.record(record("op_2")).await }
        });
        // and so does what is only noted
        second.note(record("op_2b"));
        first.give().await;
        waiting.await.expect("joins").expect("writes");
        // what was routed to the one before
        first.record(record("op_1b")).await.expect("is handed on");
        // and what comes to one that was itself the one that followed
        let third = Recorder::start(folder.path(), options(), true);
        second.give().await;
        second.record(record("op_1c")).await.expect("is handed on");
        third.give().await;
        second.take_back();
        second.record(record("op_1d")).await.expect("writes");
        assert_eq!((first.status().state.as_str(), second.status().state.as_str()), ("given", "open"));
        // one that failed to follow lets go of it
        second.give().await;
        first.take_back();
        first.record(record("op_3")).await.expect("writes");
        first.give().await;
        good(folder.path(), 7);
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_done_unless_that_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        // in the place of the folder
        std::fs::write(folder.path().join(FOLDER), "").expect("writes");
        let closed = Recorder::start(folder.path(), options(), false);
        let failure = closed.record(record("op_1")).await.expect_err("not written");
        assert_eq!(failure.code, Code::AuditUnavailable);
        let open = Recorder::start(folder.path(), Options { on_failure: OnFailure::Open, ..options() }, false);
        open.record(record("op_1")).await.expect("goes on");
        assert_eq!(open.status().lost, 1);
        // and by itself once it can
        std::fs::remove_file(folder.path().join(FOLDER)).expect("removes");
        let mut state = closed.inner.state.subscribe();
        open.give().await;
        state.wait_for(|state| matches!(state, State::Open(_))).await.expect("opens");
        // what was refused meanwhile is in it
        let missing = || {
            let report = verify(&Target::Folder(folder.path().join(FOLDER)), Against::default()).expect("readable");
            let told = report.notes.iter().filter_map(|note| match note.what {
                Noted::Missing { lost, refused, .. } => Some((lost, refused)),
                _ => None,
            });
            told.collect::<Vec<_>>()
        };
        closed.record(record("op_2")).await.expect("writes");
        assert_eq!((missing(), closed.status().refused), (vec![(0, 1)], 1));
        // and told once
        closed.record(record("op_3")).await.expect("writes");
        assert_eq!(missing(), [(0, 1)]);
        closed.give().await;
        good(folder.path(), 2);
    }

    #[test]
    fn a_command_is_one_line_that_a_shell_takes() {
        let words = ["sh", "-c", "echo 'a b'; rm x", ""].map(str::to_owned);
        assert_eq!(command(&words), r"sh -c 'echo '\''a b'\''; rm x' ''");
        assert!(command(&vec!["x".repeat(1000); 100]).len() < 2 * COMMAND_MAX);
    }
}
