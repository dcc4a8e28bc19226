//! The reading end of one operation: takes what the runner sends as it comes, and finds out how it ended.

use super::input::{Feed, Feeding};
use super::{Held, Output};
use crate::sessions::{CUT, Channel, origin};
use bytes::Bytes;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::operation_output::Kind;
use shared_proto::v1::operations_client::OperationsClient;
use shared_proto::{bounds, flow, v1};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What a document's operation gets beyond its deadline before this end ends it: the supervisor's own answer is better.
const DEADLINE_SLACK: Duration = Duration::from_secs(2);
/// A message's tags and an outcome's words, bytes.
const MESSAGE_SLACK: usize = 16 * 1024;

/// From this size on a payload is most of the buffer that it was decoded from, bytes.
const SHARES_BUFFER: usize = 32 * 1024;

/// What the reading task works with.
pub(super) struct Reading {
    pub(super) held: Arc<Held>,
    pub(super) feed: Arc<Feed>,
    pub(super) out: mpsc::UnboundedSender<Output>,
    pub(super) isolated: watch::Sender<Option<&'static str>>,
    pub(super) deadline_ms: u32,
}

impl Reading {
    /// Reads to the end; says once how it ended.
    pub(super) async fn run(self, channel: Channel, feeding: Feeding) {
        let session = &self.held.slot.session;
        let deadline = async {
            match self.deadline_ms {
                0 => std::future::pending().await,
                ms => tokio::time::sleep(Duration::from_millis(u64::from(ms)) + DEADLINE_SLACK).await,
            }
        };
        let outcome = tokio::select! {
            outcome = self.read(channel, feeding) => outcome,
            why = session.ended() => ended(&session.who.runner, &why).outcome(),
            () = deadline => Code::DeadlineExceeded
                .on(format!("the runner gave no answer within {} ms", self.deadline_ms))
                .outcome(),
        };
        self.feed.end();
        // the caller may have left
        let _ = self.out.send(Output::Outcome(outcome));
    }

    async fn read(&self, channel: Channel, feeding: Feeding) -> v1::Outcome {
        let mut client = OperationsClient::with_origin(channel, origin())
            .max_decoding_message_size(bounds::MESSAGE_MAX + MESSAGE_SLACK)
            .max_encoding_message_size(bounds::FIRST_MESSAGE_MAX);
        let mut stream = match client.run(feeding).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return self.failed(&status).outcome(),
        };
        let mut begun = false;
        loop {
            let kind = match stream.message().await {
                Ok(Some(message)) => {
                    if let Some(level) = crate::isolation::level(&message.isolation_level) {
                        self.isolated.send_if_modified(|known| known.replace(level) != Some(level));
                    }
                    message.kind
                }
                Ok(None) => return lost(self.runner(), "it ended the operation without an outcome").outcome(),
                Err(status) => return self.failed(&status).outcome(),
            };
            let output = match kind {
                Some(Kind::Data(bytes)) => Output::Data(own(bytes)),
                Some(Kind::Stderr(bytes)) => Output::Stderr(own(bytes)),
                Some(Kind::Flow(v1::Flow { credit })) => {
                    self.feed.granted_to_us(credit);
                    continue;
                }
                // one, which no window counts
                Some(Kind::Head(head)) if !begun => Output::Head(head),
                Some(Kind::Head(_)) => return Code::FlowViolation.on("the runner sent a head behind others").outcome(),
                Some(Kind::Outcome(outcome)) => return outcome,
                None => return Code::FlowViolation.on("the runner sent an empty message").outcome(),
            };
            begun = true;
            if let Output::Data(bytes) | Output::Stderr(bytes) = &output
                && let Err(overrun) = self.held.window().received(flow::cost(bytes.len()))
            {
                // the stream is reset as it is dropped
                return Code::FlowViolation.on(format!("the runner: {overrun}")).outcome();
            }
            if self.out.send(output).is_err() {
                return Code::Cancelled.on("the caller left").outcome();
            }
        }
    }

    fn runner(&self) -> &str {
        &self.held.slot.session.who.runner
    }

    /// What the stream's own failure means to the caller.
    fn failed(&self, status: &tonic::Status) -> Failure {
        if let Some(failure) = Failure::from_status(status) {
            return failure;
        }
        match status.code() {
            tonic::Code::DeadlineExceeded => Code::DeadlineExceeded.on("the runner gave it up at its deadline"),
            tonic::Code::OutOfRange => Code::FlowViolation.on("the runner sent a message that is too large"),
            _ => {
                // a library's words: they say nothing to the caller
                tracing::debug!(
                    runner = self.runner(),
                    detail = line(status.message()),
                    "an operation's stream broke off"
                );
                lost(self.runner(), CUT)
            }
        }
    }
}

/// A payload that keeps nothing else alive: what is decoded shares the whole receive buffer, and a small piece that waits for a
/// slow reader would hold many times its cost.
fn own(bytes: Bytes) -> Bytes {
    if bytes.len() < SHARES_BUFFER { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// What a session's end means to its operations.
fn ended(runner: &str, why: &Failure) -> Failure {
    match why.code {
        Code::CertificateRevoked => why.clone(),
        _ => lost(runner, &why.message),
    }
}

/// The runner's connection is gone. It is told by its id, which whoever knows its name puts that in the place of.
fn lost(runner: &str, why: &str) -> Failure {
    Code::ConnectionLost.on(format!("runner {runner}: {why}"))
}

fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
