//! The lines of a table as they come in. Log Analytics has nothing to follow: it is asked again and again for what it has taken in since a
//! moment before the last question, because lines come minutes late and in any order, and what was shown is known again.

use k8s_openapi::jiff::Timestamp;
use shared_proto::v1::{Outcome, ReadLogs};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use super::connect::Account;
use super::lines::Row;
use super::logs::{Asked, LINES_MAX, write};
use crate::fault::{Fault, done};
use crate::socket::Output;

/// Between two questions: Log Analytics takes 200 in half a minute from all of an identity's, and lines are some minutes old when they come.
const PAUSE: Duration = Duration::from_secs(5);
/// What is asked for once more each time.
const OVERLAP: Duration = Duration::from_secs(120);

/// What was shown, and of what comes what is shown.
pub(super) struct Follow<'a> {
    asked: &'a Asked<'a>,
    /// Lines that may still be shown; `None`: any number.
    left: Option<u32>,
    /// Nothing older is shown.
    since: Timestamp,
    until_ms: i64,
    hasher: RandomState,
    /// When the last question was asked.
    last: Instant,
    /// How often each row was in the last answer, for two lines may be the same. Never more than two answers have rows.
    seen: HashMap<u64, u32>,
}

// === impl Follow ===

impl<'a> Follow<'a> {
    /// Asks for what came in a moment ago, before what there is is looked for: of that only what is shown is to be shown.
    pub(super) async fn begin(asked: &'a Asked<'a>, read: &ReadLogs, account: &mut Account) -> Result<Self, Fault> {
        let last = Instant::now();
        let rows = asked.lines(account, &since_ago(OVERLAP), None, LINES_MAX).await?;
        let mut follow = Self::new(asked, read, last);
        follow.know(&rows.rows);
        Ok(follow)
    }

    fn new(asked: &'a Asked<'a>, read: &ReadLogs, last: Instant) -> Self {
        Self {
            asked,
            left: (read.limit > 0).then_some(read.limit),
            since: Timestamp::from_millisecond(read.since_ms).unwrap_or(Timestamp::MIN),
            until_ms: read.until_ms,
            hasher: RandomState::new(),
            last,
            seen: HashMap::new(),
        }
    }

    /// These were shown.
    pub(super) fn shown(&mut self, rows: &[Row]) {
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        self.left = self.left.map(|left| left.saturating_sub(count));
        self.know(rows);
    }

    fn know(&mut self, rows: &[Row]) {
        for (hash, nth) in counted(&self.hasher, rows) {
            let seen = self.seen.entry(hash).or_insert(0);
            *seen = nth.max(*seen);
        }
    }

    /// Until the limit or the end of the time that was asked for, or until nobody reads any more.
    pub(super) async fn run(mut self, account: &mut Account, output: &mut Output) -> Result<Outcome, Fault> {
        loop {
            if self.left == Some(0) || (self.until_ms > 0 && shared_proto::now_ms() >= self.until_ms) {
                return Ok(done());
            }
            let window = OVERLAP + self.last.elapsed();
            self.last = Instant::now();
            let rows = self.asked.lines(account, &since_ago(window), None, LINES_MAX).await?;
            if rows.rows.len() >= LINES_MAX as usize {
                let told = format!(
                    "{LINES_MAX} lines and more came within {} s: only the newest are shown\n",
                    window.as_secs()
                );
                output.stderr(told.as_bytes()).await?;
            }
            if let Some(partial) = &rows.partial {
                output.stderr(format!("{partial}\n").as_bytes()).await?;
            }
            for row in self.fresh(&rows.rows) {
                write(output, row).await?;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What of an answer was not shown yet, as far as it is to be.
    fn fresh<'r>(&mut self, rows: &'r [Row]) -> Vec<&'r Row> {
        let counted = counted(&self.hasher, rows);
        let mut fresh = Vec::new();
        for (row, (hash, nth)) in rows.iter().zip(&counted) {
            let is_new = *nth > self.seen.get(hash).copied().unwrap_or(0);
            if is_new && row.at >= self.since && self.left != Some(0) {
                self.left = self.left.map(|left| left - 1);
                fresh.push(row);
            }
        }
        // of rows that are alike the last one has the count
        self.seen = counted.into_iter().collect();
        fresh
    }
}

/// What was taken in since then, by the service's own clock.
fn since_ago(window: Duration) -> String {
    format!("| where ingestion_time() > ago({}s)\n", window.as_secs() + 1)
}

/// Each row by its hash, and which of its like it is.
fn counted(hasher: &RandomState, rows: &[Row]) -> Vec<(u64, u32)> {
    let mut counts: HashMap<u64, u32> = HashMap::new();
    let count = |row: &Row| {
        let hash = hasher.hash_one(&row.whole);
        let count = counts.entry(hash).or_insert(0);
        *count += 1;
        (hash, *count)
    };
    rows.iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::super::lines::{self, Rows};
    use super::*;
    use serde_json::json;

    fn rows(cells: &[(i64, &str)]) -> Rows {
        let rows: Vec<_> = cells
            .iter()
            .map(|(second, text)| json!([Timestamp::from_second(*second).expect("a time").to_string(), text]))
            .collect();
        let columns = json!([{"name": "TimeGenerated"}, {"name": "Message"}]);
        lines::read(&json!({"tables": [{"columns": columns, "rows": rows}]}), Some("T")).expect("reads")
    }

    fn texts(rows: &[&Row]) -> Vec<String> {
        rows.iter().map(|row| row.line.message.clone()).collect()
    }

    #[test]
    fn each_line_is_shown_once_however_often_it_comes() {
        let asked = Asked::none();
        let read = ReadLogs { since_ms: 5_000, limit: 0, ..Default::default() };
        let mut follow = Follow::new(&asked, &read, Instant::now());
        follow.know(&rows(&[(9, "left out"), (10, "a")]).rows);
        follow.shown(&rows(&[(10, "a"), (11, "b")]).rows);
        let mut fresh = |cells: &[(i64, &str)]| texts(&follow.fresh(&rows(cells).rows));
        assert_eq!(fresh(&[(9, "left out"), (10, "a"), (11, "b"), (12, "c")]), ["c"]);
        // what comes late is shown, but nothing from before the time that was asked for
        assert_eq!(fresh(&[(4, "before"), (9, "left out"), (10, "late"), (12, "c"), (12, "c")]), ["late", "c"]);
        assert_eq!(fresh(&[(10, "late"), (12, "c"), (12, "c")]), Vec::<String>::new());
        assert_eq!(fresh(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_limit_counts_all_that_is_shown() {
        let asked = Asked::none();
        let read = ReadLogs { limit: 3, ..Default::default() };
        let mut follow = Follow::new(&asked, &read, Instant::now());
        follow.shown(&rows(&[(10, "a"), (11, "b")]).rows);
        assert_eq!(texts(&follow.fresh(&rows(&[(12, "c"), (13, "d")]).rows)), ["c"]);
        assert_eq!(follow.left, Some(0));
    }
}
