//! One operation as its caller holds it: what comes out, what may be put in, and its one outcome.
//!
//! ```text
//!   runner ══ HTTP/2 stream ══▶ reading task ──▶ queue, bounded by the Window ──▶ Operation::next ──▶ the caller
//!          ◀═════ Feed ═════════ grants (summed up) ◀── Window::consumed ──────────┘
//!                                stdin, resize (bounded, stdin by Credit) ◀── Input
//! ```
//!
//! The reading task takes everything from HTTP/2 at once, so a reader that stops holds nobody else up; what it holds is what its
//! window granted. It must never wait for the caller, and the caller's `next` must never wait for the network's other direction.

mod input;
mod read;
#[cfg(test)]
mod tests;

pub use input::{Closed, Input};

use crate::sessions::Slot;
use bytes::Bytes;
use input::Feed;
use shared_proto::failure::Code;
use shared_proto::flow::{self, Window};
use shared_proto::v1;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// What comes out of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The head of an answer that is passed on: once, before anything else.
    Head(v1::HttpHead),
    /// A document's bytes, log bytes, standard output.
    Data(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// How it ended: the last, and then again for whoever asks again.
    Outcome(v1::Outcome),
}

/// An operation. Dropping it cancels: the stream is reset.
pub struct Operation {
    runner_instance: String,
    queue: mpsc::UnboundedReceiver<Output>,
    held: Arc<Held>,
    input: Input,
    isolation: watch::Receiver<Option<&'static str>>,
    feed: Arc<Feed>,
    reading: AbortHandle,
    outcome: Option<v1::Outcome>,
}

/// What an operation holds of its session, given back when the caller and the reading task have both let go.
struct Held {
    // the window goes back before the place: the budget is made for that many windows
    window: Mutex<Window>,
    slot: Slot,
}

// === impl Operation ===

impl Operation {
    /// Opens the stream on the slot's session. Does not wait for it.
    pub(crate) fn start(slot: Slot, mut request: v1::OperationRequest) -> Self {
        let (window, credit) = slot.session.budget.window();
        request.output_credit = credit;
        let runner_instance = slot.session.about.instance_id.clone();
        let credit = flow::Credit::new(0, Some(slot.session.send.clone()));
        let channel = slot.session.channel.clone();
        let deadline_ms = request.deadline_ms;
        let (feed, feeding, input) = input::pair(request, credit);
        // not bounded by a number: by the window, and by one outcome
        let (out, queue) = mpsc::unbounded_channel();
        let held = Arc::new(Held { window: Mutex::new(window), slot });
        let (isolated, isolation) = watch::channel(None);
        let reading = read::Reading { held: held.clone(), feed: feed.clone(), out, isolated, deadline_ms };
        let reading = tokio::spawn(reading.run(channel, feeding)).abort_handle();
        Self { runner_instance, queue, held, input, isolation, feed, reading, outcome: None }
    }

    /// The instance that serves it.
    pub fn runner_instance(&self) -> &str {
        &self.runner_instance
    }

    /// How the worker is isolated that has it, once one has it. It is known before anything that the worker says.
    pub fn isolation(&self) -> watch::Receiver<Option<&'static str>> {
        self.isolation.clone()
    }

    /// What may be put into it.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// What comes next; waits for it. May be given up and called again.
    pub async fn next(&mut self) -> Output {
        if let Some(outcome) = &self.outcome {
            return Output::Outcome(outcome.clone());
        }
        let output = match self.queue.recv().await {
            Some(output) => output,
            // the reading task always says how it ended, unless it was itself ended from outside
            None => Output::Outcome(Code::ConnectionLost.on("the operation's task ended").outcome()),
        };
        match &output {
            Output::Data(bytes) | Output::Stderr(bytes) => {
                let grant = self.held.window().consumed(flow::cost(bytes.len()));
                if grant > 0 {
                    self.feed.grant(grant);
                }
            }
            Output::Head(_) => {}
            Output::Outcome(outcome) => self.outcome = Some(outcome.clone()),
        }
        output
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // the response goes with the task, the request with the feed: HTTP/2 resets what has neither
        self.reading.abort();
        self.feed.end();
    }
}

// === impl Held ===

impl Held {
    fn window(&self) -> MutexGuard<'_, Window> {
        // nothing panics while holding it
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
