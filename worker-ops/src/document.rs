//! One JSON document on its way out, in pieces: no more of it is held than a frame.

use serde::Serialize;
use shared_proto::failure::Code;
use shared_proto::frame::Kind;

use crate::fault::Fault;
use crate::socket::Output;

/// A document whose main part is a list, `{"items":[…]}`.
pub(crate) struct Document<'a> {
    output: &'a mut Output,
    buffer: Vec<u8>,
    items: u64,
}

// === impl Document ===

impl<'a> Document<'a> {
    /// Sends a document that is whole already.
    pub(crate) async fn whole(output: &mut Output, document: &impl Serialize) -> Result<(), Fault> {
        output.data(&serde_json::to_vec(document).map_err(unwritable)?).await
    }

    /// Begins a list.
    pub(crate) fn list(output: &'a mut Output) -> Self {
        Self { output, buffer: br#"{"items":["#.to_vec(), items: 0 }
    }

    /// Adds an item.
    pub(crate) async fn item(&mut self, item: &impl Serialize) -> Result<(), Fault> {
        if self.items > 0 {
            self.buffer.push(b',');
        }
        self.items += 1;
        serde_json::to_writer(&mut self.buffer, item).map_err(unwritable)?;
        if self.buffer.len() >= Kind::Data.limit() {
            self.output.data(&self.buffer).await?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Ends the document; `rest` are further fields, each with a comma before it.
    pub(crate) async fn end(mut self, rest: &str) -> Result<(), Fault> {
        self.buffer.push(b']');
        self.buffer.extend_from_slice(rest.as_bytes());
        self.buffer.push(b'}');
        self.output.data(&self.buffer).await
    }
}

fn unwritable(error: serde_json::Error) -> Fault {
    Fault::new(Code::Internal, format!("the answer cannot be written as JSON: {error}"))
}
