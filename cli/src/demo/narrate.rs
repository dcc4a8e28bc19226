//! What the demonstration says: a few plain lines with timings, or one JSON object a step.

use crate::output::escape;
use serde_json::{Value, json};
use std::io::Write as _;
use std::time::Instant;

/// Says what happens, on standard output.
#[derive(Debug)]
pub(super) struct Narrator {
    json: bool,
    start: Instant,
    count: u32,
}

// === impl Narrator ===

impl Narrator {
    /// For people, or for scripts.
    pub(super) fn new(json: bool) -> Self {
        Self { json, start: Instant::now(), count: 0 }
    }
    /// A step was done: its name for scripts, what happened, how long it took, and what there is to see.
    pub(super) fn step(&mut self, name: &str, what: &str, since: Instant, lines: &[String], detail: Value) {
        self.count += 1;
        let took = since.elapsed();
        if self.json {
            self.object(&json!({
                "step": name, "number": self.count, "ok": true, "what": what, "ms": took.as_millis() as u64,
                "at_ms": self.start.elapsed().as_millis() as u64, "lines": lines, "detail": detail,
            }));
            return;
        }
        self.write(&format!("{:>2}. {what}  [{:.2} s]\n", self.count, took.as_secs_f64()));
        for line in lines {
            self.write(&format!("      {line}\n"));
        }
    }
    /// A step failed.
    pub(super) fn failed(&mut self, message: &str) {
        if self.json {
            let at = self.start.elapsed().as_millis() as u64;
            self.object(
                &json!({ "step": "failed", "number": self.count + 1, "ok": false, "what": message, "at_ms": at }),
            );
        } else {
            self.write(&format!("{:>2}. FAILED: {message}\n", self.count + 1));
        }
    }
    /// Words between steps; nothing for scripts.
    pub(super) fn say(&self, text: &str) {
        if !self.json {
            self.write(&format!("{text}\n"));
        }
    }
    /// The last object: how to go on, or how long it all took.
    pub(super) fn finish(&self, name: &str, detail: Value) {
        if self.json {
            let at = self.start.elapsed().as_millis() as u64;
            self.object(&json!({ "step": name, "ok": true, "at_ms": at, "detail": detail }));
        }
    }
    /// Seconds since the start.
    pub(super) fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn object(&self, value: &Value) {
        self.write(&format!("{value}\n"));
    }
    /// A reader that went away does not end the demonstration: it still has to clean up.
    fn write(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(&escape::text(text.as_bytes(), false)).and_then(|()| stdout.flush());
    }
}
