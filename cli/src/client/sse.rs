//! Server-sent events, parsed from chunks with any boundaries (HTML standard, section 9.2). The size of one event is bounded.

/// The largest event, bytes.
const EVENT_MAX: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// The stream's last `id:` until here.
    pub(crate) id: String,
    /// `event:`; empty means `message`.
    pub(crate) kind: String,
    /// The `data:` lines, joined.
    pub(crate) data: String,
}

/// A stream's parser.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    id: String,
    kind: String,
    data: Option<String>,
}

/// An event larger than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is larger than {EVENT_MAX} bytes")]
pub(crate) struct TooLong;

// === impl Parser ===

impl Parser {
    /// Takes a chunk, gives the events that it completes.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        let mut events = Vec::new();
        for &byte in chunk {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_of_line()),
                _ => {
                    if self.line.len() + self.data.as_ref().map_or(0, String::len) >= EVENT_MAX {
                        return Err(TooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Option<SseEvent> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            return self.data.take().map(|data| SseEvent { id: self.id.clone(), kind, data });
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => self.kind = value.to_owned(),
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            // a comment (an empty name), `retry`, or what is not known
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nid: 1\ndata: {\"a\":1}\n\nid: 2\r\nevent: x\r\ndata: one\r\ndata:two\r\ndata\r\n\r\nevent: lost\n\n\
                          data: grün\rid: 3\r\revent: end\ndata:\n\ndata: not whole";

    fn expected() -> Vec<SseEvent> {
        [("1", "", "{\"a\":1}"), ("2", "x", "one\ntwo\n"), ("3", "", "grün"), ("3", "end", "")]
            .map(|(id, kind, data)| SseEvent { id: id.into(), kind: kind.into(), data: data.into() })
            .into()
    }

    #[test]
    fn chunks_may_end_anywhere() {
        let bytes = STREAM.as_bytes();
        assert_eq!(Parser::default().push(bytes).expect("short"), expected());
        for first in 0..bytes.len() {
            for second in (first..bytes.len()).step_by(3) {
                let mut parser = Parser::default();
                let mut events = parser.push(&bytes[..first]).expect("short");
                events.extend(parser.push(&bytes[first..second]).expect("short"));
                events.extend(parser.push(&bytes[second..]).expect("short"));
                assert_eq!(events, expected(), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn an_event_is_bounded() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1024 * 1024];
        let results: Vec<_> = (0..5).map(|_| parser.push(&chunk).is_err()).collect();
        assert_eq!(results, [false, false, false, false, true]);
    }
}
