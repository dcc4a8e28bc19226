//! What operations run, and their records. One task owns both: requests send it what starts and what ends, and it writes the
//! records in batches, so that a thousand short operations cost a few transactions.
//!
//! A record may reach the disk a moment after its operation began: this is a list for people, the runner's audit log is the proof.

use crate::store::{OperationRecord, Store};
use shared_proto::failure::Code;
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Entries that wait to be written.
const WAITING_MAX: usize = 4096;
/// Entries of one transaction.
const BATCH_MAX: usize = 512;
/// Ended operations between two times that old records are forgotten.
const TRIM_EVERY: usize = 1000;

/// The list of running operations and of records. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Ledger(mpsc::Sender<Entry>);

/// A running operation's line. Dropped without an end it ends as `cancelled`: its caller left.
#[derive(Debug)]
pub(crate) struct Line {
    ledger: Ledger,
    id: String,
    cancel: CancellationToken,
    written: bool,
}

#[derive(Debug)]
enum Entry {
    Started(Box<OperationRecord>, CancellationToken),
    Isolated { id: String, level: &'static str },
    Ended { id: String, code: String },
    Cancel { organization: String, id: String, done: oneshot::Sender<()> },
    Written(oneshot::Sender<()>),
}

struct Clerk {
    store: Store,
    running: HashMap<String, Running>,
    ended: usize,
}
struct Running {
    organization: String,
    cancel: CancellationToken,
}

// === impl Ledger ===

impl Ledger {
    /// Starts the task. It ends when the last handle is gone and everything is written.
    pub fn start(store: Store) -> (Self, tokio::task::JoinHandle<()>) {
        let (send, receive) = mpsc::channel(WAITING_MAX);
        let clerk = Clerk { store, running: HashMap::new(), ended: 0 };
        (Self(send), tokio::spawn(clerk.work(receive)))
    }

    /// Writes down that an operation starts.
    pub(crate) async fn started(&self, record: OperationRecord) -> Line {
        let (id, cancel) = (record.id.clone(), CancellationToken::new());
        // the task outlives every handle, unless the program is ending
        let _ = self.0.send(Entry::Started(Box::new(record), cancel.clone())).await;
        Line { ledger: self.clone(), id, cancel, written: false }
    }
    /// Cancels a running operation of the organization. One that has ended stays as it is.
    pub(crate) async fn cancel(&self, organization: &str, id: &str) {
        let (done, wait) = oneshot::channel();
        let entry = Entry::Cancel { organization: organization.to_owned(), id: id.to_owned(), done };
        if self.0.send(entry).await.is_ok() {
            let _ = wait.await;
        }
    }
    /// Waits until what was said before is in the database.
    pub(crate) async fn written(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(Entry::Written(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

// === impl Line ===

impl Line {
    /// The operation's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
    /// Resolves when a user cancels the operation.
    pub(crate) fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }
    /// Writes down how its worker is isolated.
    pub(crate) fn isolated(&self, level: &'static str) {
        self.enter(Entry::Isolated { id: self.id.clone(), level });
    }
    /// Writes down how it ended; the first end counts.
    pub(crate) fn end(&mut self, code: &str) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        self.enter(Entry::Ended { id: self.id.clone(), code: code.to_owned() });
    }

    fn enter(&self, entry: Entry) {
        if let Err(mpsc::error::TrySendError::Full(entry)) = self.ledger.0.try_send(entry) {
            // it must not be lost; as many wait here as operations ran
            let ledger = self.ledger.0.clone();
            tokio::spawn(async move {
                let _ = ledger.send(entry).await;
            });
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end(Code::Cancelled.as_str());
    }
}

// === impl Clerk ===

impl Clerk {
    async fn work(mut self, mut receive: mpsc::Receiver<Entry>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while receive.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let (mut records, mut levels, mut ends, mut replies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for entry in batch.drain(..) {
                match entry {
                    Entry::Started(record, cancel) => {
                        let running = Running { organization: record.organization.clone(), cancel };
                        self.running.insert(record.id.clone(), running);
                        records.push(*record);
                    }
                    Entry::Isolated { id, level } => levels.push((id, level)),
                    // whatever was cancelled has its end already
                    Entry::Ended { id, code } => {
                        if self.running.remove(&id).is_some() {
                            ends.push((id, code));
                        }
                    }
                    Entry::Cancel { organization, id, done } => {
                        if self.running.get(&id).is_some_and(|r| r.organization == organization)
                            && let Some(running) = self.running.remove(&id)
                        {
                            running.cancel.cancel();
                            ends.push((id, Code::Cancelled.as_str().to_owned()));
                        }
                        replies.push(done);
                    }
                    Entry::Written(done) => replies.push(done),
                }
            }
            if let Err(failure) = self.store.write_operations(&records, &levels, &ends).await {
                tracing::error!(code = %failure.code, "records of operations were not written: {}", failure.message);
            }
            for reply in replies {
                let _ = reply.send(());
            }
            self.ended += ends.len();
            if self.ended >= TRIM_EVERY {
                self.ended = 0;
                // the store has logged why it failed; the next time makes up for it
                let _ = self.store.trim_operations().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, organization: &str) -> OperationRecord {
        OperationRecord {
            id: id.into(),
            organization: organization.into(),
            kind: "k8s_logs".into(),
            connection: "con_1".into(),
            connection_name: "c".into(),
            entry: None,
            runner: "run_1".into(),
            runner_name: "r".into(),
            user_id: "usr_1".into(),
            user_name: "u".into(),
            started_at_ms: 1,
            ended_at_ms: None,
            code: None,
            isolation_level: None,
        }
    }

    #[tokio::test]
    async fn every_operation_ends_once() {
        let store = Store::in_memory().await.expect("a store");
        let (ledger, clerk) = Ledger::start(store.clone());
        let mut good = ledger.started(record("op_1", "a")).await;
        let left = ledger.started(record("op_2", "a")).await;
        let mut cancelled = ledger.started(record("op_3", "a")).await;
        good.isolated("confined");
        good.end("ok");
        good.end("internal");
        drop(left);
        ledger.cancel("b", "op_3").await;
        assert!(!cancelled.cancelled().is_cancelled(), "another organization cancelled it");
        ledger.cancel("a", "op_3").await;
        assert!(cancelled.cancelled().is_cancelled());
        cancelled.end("ok");
        ledger.written().await;
        let codes: Vec<_> =
            store.operations("a", None, None, 10).await.expect("lists").into_iter().map(|o| o.code).collect();
        assert_eq!(codes, [Some("cancelled".into()), Some("cancelled".into()), Some("ok".into())]);
        assert_eq!(store.operations("b", None, None, 10).await.expect("lists"), []);
        drop((ledger, good, cancelled));
        clerk.await.expect("the task ends with its last handle");
    }
}
