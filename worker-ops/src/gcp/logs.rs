//! Cloud Logging: which logs there are, and their entries, oldest first.
//! <https://cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list>
//!
//! ```text
//!   read    newest first, page by page, until the limit ─▶ turned round ─▶ out
//!   follow  read, or all since then ─▶ every few seconds: what is after the newest, a while before it too ─▶ what is new ─▶ out
//! ```
//! It must never read another project's logs than the one that the operation is for, whatever the filter says.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared_proto::documents::{LogSource, LogSources};
use shared_proto::failure::Code;
use shared_proto::v1::{ListLogs, Outcome, ReadLogs};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::connect::Projects;
use super::entry::{line, log_id, log_name, quoted, time};
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::text;
use crate::socket::Output;

/// Where nobody says how many lines, or how many logs of a list.
const LINES_DEFAULT: usize = 10_000;
const SOURCES_DEFAULT: usize = 1000;
/// However many are asked for.
const LINES_MAX: usize = 100_000;
const SOURCES_MAX: usize = 10_000;
/// What is held of lines that wait to be turned round, bytes.
const HELD_MAX: usize = 16 * 1024 * 1024;
/// Pages of one list or of one reading. A page may be empty and yet not the last.
const PAGES_MAX: u32 = 1000;
/// Entries of a page; fewer where they are so long that an answer becomes too long.
const PAGE: u32 = 500;
/// The longest filter that Google takes, characters.
const FILTER_MAX: usize = 20_000;
/// Between two looks: a project may read 60 times a minute, all its readers together. <https://cloud.google.com/logging/quotas>
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Where that is too often.
const LOOK_LATER: Duration = Duration::from_secs(15);
/// Entries come late, and out of order: so far before the newest is looked again.
const LATE: SignedDuration = SignedDuration::from_secs(10);
/// The entries that are remembered as those that have come.
const SEEN_MAX: usize = 20_000;

/// The logs that have entries. <https://cloud.google.com/logging/docs/reference/v2/rest/v2/projects.logs/list>
pub(super) async fn list(projects: &mut Projects, list: &ListLogs, output: &mut Output) -> Result<Outcome, Fault> {
    if !list.source.is_empty() {
        return Err(Fault::new(Code::InvalidArgument, "a log of Cloud Logging has nothing below it that is listed"));
    }
    let path = format!("/v2/projects/{}/logs", projects.project()?);
    let limit = bounded(list.limit, SOURCES_DEFAULT, SOURCES_MAX);
    let (mut items, mut token) = (Vec::new(), String::new());
    let mut truncated = false;
    for page in 0..PAGES_MAX {
        let mut query = vec![("pageSize", "1000")];
        if !token.is_empty() {
            query.push(("pageToken", &token));
        }
        let answer = projects.get("logging", &path, &query).await?;
        let names = answer.get("logNames").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for name in names.iter().filter_map(Value::as_str).map(log_id).filter(|n| n.starts_with(&list.prefix)) {
            if items.len() == limit {
                truncated = true;
                break;
            }
            items.push(LogSource { name, kind: "log".to_owned(), ..Default::default() });
        }
        token = text(&answer, "/nextPageToken");
        if token.is_empty() || truncated {
            break;
        }
        truncated = page + 1 == PAGES_MAX;
    }
    let message = if truncated { format!("there are more than {} logs", items.len()) } else { String::new() };
    Document::whole(output, &LogSources { items, truncated }).await?;
    Ok(Outcome { truncated, message, ..done() })
}

/// Log lines.
pub(super) async fn read(projects: &mut Projects, read: &ReadLogs, output: &mut Output) -> Result<Outcome, Fault> {
    let mut reader = Reader::new(projects.project()?, read)?;
    if !read.follow {
        let limit = bounded(read.limit, LINES_DEFAULT, LINES_MAX);
        let held = reader.newest(projects, limit).await?;
        let (lines, truncated) = (held.lines.len(), held.cut);
        held.out(output).await?;
        let message = if truncated { format!("there are more than these {lines} lines") } else { String::new() };
        return Ok(Outcome { truncated, message, ..done() });
    }
    if read.limit > 0 {
        let held = reader.newest(projects, bounded(read.limit, LINES_DEFAULT, LINES_MAX)).await?;
        held.out(output).await?;
    } else {
        reader.new_ones(projects, output).await?;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match reader.new_ones(projects, output).await {
            Ok(()) => {}
            Err(fault) if fault.code() == Code::TargetThrottled => tokio::time::sleep(LOOK_LATER).await,
            Err(fault) => return Err(fault),
        }
    }
}

/// What is read, and how far.
struct Reader {
    project: String,
    /// Without its times.
    filter: String,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    page: u32,
    /// The entries that have come, from a while before the newest on.
    seen: BTreeSet<Key>,
    /// What is no longer asked for: this one, and all before it.
    floor: Option<Key>,
}

/// When an entry was, and what tells it from others of that moment.
type Key = (Timestamp, String);

/// Lines, the oldest first, as they go out.
#[derive(Default)]
struct Held {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    cut: bool,
}

// === impl Reader ===

impl Reader {
    fn new(project: &str, read: &ReadLogs) -> Result<Self, Fault> {
        let wrong = |what: &str| Fault::new(Code::InvalidArgument, what);
        if !read.streams.is_empty() {
            return Err(
                wrong("logs of Cloud Logging have no streams").next("Name what of the log is wanted in the filter.")
            );
        }
        if read.filter.chars().count() > FILTER_MAX {
            return Err(Fault::new(Code::TooLarge, format!("the filter has more than {FILTER_MAX} characters")));
        }
        let time = |ms: i64| match ms {
            0 => Ok(None),
            ms => Timestamp::from_millisecond(ms).map(Some).map_err(|_| wrong("a time is none")),
        };
        let mut filter = Vec::new();
        if !read.source.is_empty() {
            filter.push(format!("logName={}", quoted(&log_name(project, &read.source))));
        }
        if !read.filter.trim().is_empty() {
            // a comment in it ends with its line
            filter.push(format!("({}\n)", read.filter));
        }
        let (since, until) = (time(read.since_ms)?, time(read.until_ms)?);
        if read.follow && until.is_some() {
            return Err(wrong("what is followed has no end"));
        }
        if since.zip(until).is_some_and(|(since, until)| since > until) {
            return Err(wrong("it ends before it begins"));
        }
        Ok(Self {
            project: project.to_owned(),
            filter: filter.join(" AND "),
            since,
            until,
            page: PAGE,
            seen: BTreeSet::new(),
            floor: None,
        })
    }

    /// The newest entries, and whether there are more.
    async fn newest(&mut self, projects: &mut Projects, limit: usize) -> Result<Held, Fault> {
        let mut held = Held::default();
        let mut token = String::new();
        for _ in 0..PAGES_MAX {
            let page = self.ask(projects, self.since, "timestamp desc", &mut token).await?;
            for entry in entries(&page) {
                let line = line(entry)?;
                if held.lines.len() == limit || held.bytes + line.len() > HELD_MAX {
                    held.cut = true;
                    self.forget(key(entry));
                    return Ok(held);
                }
                self.see(entry);
                held.bytes += line.len();
                held.lines.push_front(line);
            }
            if token.is_empty() {
                return Ok(held);
            }
        }
        held.cut = true;
        Ok(held)
    }

    /// What has come since, oldest first.
    async fn new_ones(&mut self, projects: &mut Projects, output: &mut Output) -> Result<(), Fault> {
        let late = self.seen.last().map(|(newest, _)| newest.checked_sub(LATE).unwrap_or(*newest));
        let after = late.max(self.floor.as_ref().map(|(at, _)| *at)).max(self.since);
        let mut token = String::new();
        for _ in 0..PAGES_MAX {
            let page = self.ask(projects, after, "timestamp asc", &mut token).await?;
            for entry in entries(&page) {
                if self.see(entry) {
                    output.data(&line(entry)?).await?;
                }
            }
            if token.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A page, and the token of the next one in the place of its own.
    async fn ask(
        &mut self,
        projects: &mut Projects,
        after: Option<Timestamp>,
        order: &str,
        token: &mut String,
    ) -> Result<Value, Fault> {
        let mut filter: Vec<String> = Some(self.filter.clone()).into_iter().filter(|f| !f.is_empty()).collect();
        filter.extend(after.map(|at| format!("timestamp>=\"{at}\"")));
        filter.extend(self.until.map(|at| format!("timestamp<\"{at}\"")));
        loop {
            let mut body = json!({
                "resourceNames": [format!("projects/{}", self.project)],
                "filter": filter.join(" AND "),
                "orderBy": order,
                "pageSize": self.page,
            });
            if !token.is_empty() {
                body["pageToken"] = json!(token);
            }
            match projects.post("logging", "/v2/entries:list", Some(&body)).await {
                Ok(page) => {
                    *token = text(&page, "/nextPageToken");
                    return Ok(page);
                }
                // entries may have 256 KiB each
                Err(fault) if fault.code() == Code::TooLarge && self.page > 1 => self.page /= 2,
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Whether it is new. What is too long before the newest is forgotten, and asked for no more.
    fn see(&mut self, entry: &Value) -> bool {
        let key = key(entry);
        if self.floor.as_ref().is_some_and(|floor| key <= *floor) {
            return false;
        }
        let new = self.seen.insert(key);
        let from = self.seen.last().map(|(newest, _)| newest.checked_sub(LATE).unwrap_or(*newest));
        while self.seen.len() > SEEN_MAX || self.seen.first().map(|(at, _)| *at) < from {
            let Some(oldest) = self.seen.pop_first() else { break };
            self.forget(oldest);
        }
        new
    }

    fn forget(&mut self, key: Key) {
        self.floor = self.floor.take().max(Some(key));
    }
}

fn key(entry: &Value) -> Key {
    (time(entry).parse().unwrap_or_default(), text(entry, "/insertId"))
}

// === impl Held ===

impl Held {
    async fn out(self, output: &mut Output) -> Result<(), Fault> {
        for line in self.lines {
            output.data(&line).await?;
        }
        Ok(())
    }
}

fn bounded(asked: u32, default: usize, most: usize) -> usize {
    match asked {
        0 => default,
        n => usize::try_from(n).unwrap_or(most).min(most),
    }
}

fn entries(page: &Value) -> &[Value] {
    page.get("entries").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: &str, id: &str) -> Value {
        json!({"timestamp": at, "insertId": id, "textPayload": "x"})
    }
    fn reader() -> Reader {
        Reader::new("p", &ReadLogs::default()).expect("a reader")
    }

    #[test]
    fn an_entry_comes_once_however_late() {
        let mut reader = reader();
        assert!(
            reader.see(&entry("2026-01-01T00:00:20Z", "a")) && !reader.see(&entry("2026-01-01T00:00:20.000Z", "a"))
        );
        assert!(reader.see(&entry("2026-01-01T00:00:20Z", "b")));
        // late, and in time
        assert!(reader.see(&entry("2026-01-01T00:00:11Z", "c")) && !reader.see(&entry("2026-01-01T00:00:11Z", "c")));
        assert!(reader.see(&entry("2026-01-01T00:00:40Z", "d")));
        assert_eq!(reader.seen.len(), 1);
        // too late: it is not even asked for
        assert!(!reader.see(&entry("2026-01-01T00:00:20Z", "a")));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut reader = reader();
        for n in 0..SEEN_MAX + 10 {
            assert!(reader.see(&entry("2026-01-01T00:00:20Z", &format!("{n:06}"))));
        }
        assert_eq!(reader.seen.len(), SEEN_MAX);
        for forgotten in ["000000", "000009"] {
            assert!(!reader.see(&entry("2026-01-01T00:00:20Z", forgotten)), "{forgotten}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let with = |change: &dyn Fn(&mut ReadLogs)| {
            let mut read = ReadLogs::default();
            change(&mut read);
            Reader::new("p", &read).map(|r| r.filter).map_err(|f| f.code())
        };
        assert_eq!(with(&|r| r.streams.push("s".into())), Err(Code::InvalidArgument));
        assert_eq!(with(&|r| (r.since_ms, r.until_ms) = (2, 1)), Err(Code::InvalidArgument));
        assert_eq!(with(&|r| (r.follow, r.until_ms) = (true, 1)), Err(Code::InvalidArgument));
        assert_eq!(with(&|r| r.since_ms = i64::MAX), Err(Code::InvalidArgument));
        assert_eq!(with(&|r| r.filter = "ä".repeat(FILTER_MAX + 1)), Err(Code::TooLarge));
        assert!(with(&|r| r.filter = "ä".repeat(FILTER_MAX)).is_ok());
        let filter = with(&|r| (r.source, r.filter) = ("syslog".into(), "severity>=ERROR -- all".into()));
        assert_eq!(filter.as_deref(), Ok("logName=\"projects/p/logs/syslog\" AND (severity>=ERROR -- all\n)"));
    }
}
