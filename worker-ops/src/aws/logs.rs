//! CloudWatch Logs: groups, the streams of one, and lines, oldest first. A followed log is asked for again and again: that is all the API has
//! for whoever does not hold a connection of HTTP/2, <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/>.
//!
//! It must never give a line twice, nor hold more of them than [`KEPT_BYTES_MAX`].

use serde_json::{Value, json};
use shared_proto::documents::{LogLine, LogSource};
use shared_proto::failure::Code;
use shared_proto::inventory::{LIMIT_DEFAULT, LIMIT_MAX};
use shared_proto::v1::{ListLogs, Outcome, ReadLogs};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::connect::{Account, Asking, LOGS, Parameters};
use super::listing::PAGES_MAX;
use super::tree;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::socket::Output;

/// Lines where nobody says how many, and the most that can be asked for.
const LINES_DEFAULT: usize = 10_000;
const LINES_MAX: usize = 100_000;
/// What the newest lines may take until all have been seen, bytes: the oldest of them go where there are more.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Between two looks at a log that is followed: `FilterLogEvents` is allowed a few times a second, for all of an account.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A line may come this much later than its time says: what is newer than that is looked at again.
const LATE_MAX_MS: i64 = 60_000;
/// Lines of that window that are remembered, so that none is given twice. Where there are more, the window is shorter.
const REMEMBERED_MAX: usize = 50_000;
/// What CloudWatch takes: streams of one request.
const STREAMS_MAX: usize = 100;
/// Longer than any name of a group, stream or pattern that CloudWatch takes, bytes.
const TEXT_MAX: usize = 2048;

/// The newest lines, in their order.
struct Newest {
    lines: VecDeque<Vec<u8>>,
    most: usize,
    bytes: usize,
    /// There were more.
    cut: bool,
}

/// Lines that were given, by their ids, with their times.
#[derive(Default)]
struct Given {
    ids: HashMap<String, i64>,
    /// No line of before that is looked for any more.
    from_ms: i64,
}

/// Groups, or the streams of one.
pub(crate) async fn list(account: &Account, list: &ListLogs, output: &mut Output) -> Result<Outcome, Fault> {
    check([&list.source, &list.prefix])?;
    let limit = if list.limit == 0 { LIMIT_DEFAULT } else { list.limit.min(LIMIT_MAX) };
    let groups = list.source.is_empty();
    let (operation, items, prefix) = if groups {
        ("DescribeLogGroups", "logGroups", "logGroupNamePrefix")
    } else {
        ("DescribeLogStreams", "logStreams", "logStreamNamePrefix")
    };
    let mut asking = account.ask(LOGS)?;
    let mut document = Document::list(output);
    let (mut left, mut mark, mut truncated) = (limit, String::new(), false);
    'pages: for page in 0.. {
        if page == PAGES_MAX {
            truncated = true;
            break;
        }
        let mut parameters: Parameters<'_> = vec![("limit", json!(50))];
        if !groups {
            parameters.push(("logGroupName", json!(list.source)));
        }
        match list.prefix.as_str() {
            // the newest first, which goes with no prefix
            "" if !groups => parameters.extend([("orderBy", json!("LastEventTime")), ("descending", json!(true))]),
            "" => {}
            text => parameters.push((prefix, json!(text))),
        }
        if !mark.is_empty() {
            parameters.push(("nextToken", json!(mark)));
        }
        let answer = asking.call(operation, "", parameters).await?;
        for item in tree::at(&answer, items) {
            if left == 0 {
                truncated = true;
                break 'pages;
            }
            left -= 1;
            document.item(&if groups { group(item) } else { stream(item) }).await?;
        }
        mark = tree::text(&answer, "nextToken");
        if mark.is_empty() {
            break;
        }
    }
    document.end(&format!(r#","truncated":{truncated}"#)).await?;
    let message = if truncated { format!("there are more than {limit} of them") } else { String::new() };
    Ok(Outcome { truncated, message, ..done() })
}

/// Lines of a group.
pub(crate) async fn read(account: &Account, read: &ReadLogs, output: &mut Output) -> Result<Outcome, Fault> {
    check([&read.source, &read.filter].into_iter().chain(&read.streams))?;
    if read.source.is_empty() {
        return Err(Fault::new(Code::InvalidArgument, "no log group is named")
            .next("Name one that the list of log groups has, such as /aws/lambda/NAME."));
    }
    if read.streams.len() > STREAMS_MAX {
        return Err(Fault::new(Code::TooLarge, format!("at most {STREAMS_MAX} streams can be read at once")));
    }
    if read.limit as usize > LINES_MAX {
        return Err(Fault::new(Code::TooLarge, format!("at most {LINES_MAX} lines can be asked for")));
    }
    let mut asking = account.ask(LOGS)?;
    let most = match read.limit {
        0 if read.follow => LINES_MAX,
        0 => LINES_DEFAULT,
        limit => limit as usize,
    };
    let until = if read.until_ms == 0 { shared_proto::now_ms() } else { read.until_ms };
    let mut given = Given { from_ms: read.since_ms, ..Given::default() };
    let mut newest = Newest { lines: VecDeque::new(), most, bytes: 0, cut: false };
    // all is looked at before the first is given: what is asked for is the newest, and pages come oldest first
    pages(&mut asking, read, read.since_ms, Some(until), async |event| {
        if read.follow {
            given.is_new(event);
        }
        newest.push(line(event)?);
        Ok(())
    })
    .await?;
    let cut = newest.cut;
    for line in newest.lines {
        output.data(&line).await?;
    }
    if !read.follow {
        let message = if cut { "there are older lines, which are left out".to_owned() } else { String::new() };
        return Ok(Outcome { truncated: cut, message, ..done() });
    }
    let mut seen_to = until;
    loop {
        if read.until_ms != 0 && shared_proto::now_ms() > read.until_ms.saturating_add(LATE_MAX_MS) {
            return Ok(done());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let now = shared_proto::now_ms();
        given.forget(seen_to.saturating_sub(LATE_MAX_MS));
        let until = Some(read.until_ms).filter(|until| *until != 0);
        let from = given.from_ms;
        pages(&mut asking, read, from, until, async |event| {
            if given.is_new(event) {
                output.data(&line(event)?).await?;
            }
            Ok(())
        })
        .await?;
        seen_to = now;
    }
}

/// Every line between two moments, oldest first, page after page.
async fn pages(
    asking: &mut Asking<'_>,
    read: &ReadLogs,
    from_ms: i64,
    until_ms: Option<i64>,
    mut each: impl AsyncFnMut(&Value) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut mark = String::new();
    loop {
        let mut parameters: Parameters<'_> = vec![("startTime", json!(from_ms.max(0)))];
        // all streams' lines in one order; AWS does so in any case, other servers only where it is asked for
        parameters.push(("interleaved", json!(true)));
        // as its ARN where it is of another account
        let name = if read.source.starts_with("arn:") { "logGroupIdentifier" } else { "logGroupName" };
        parameters.push((name, json!(read.source)));
        parameters.extend(until_ms.map(|until| ("endTime", json!(until))));
        if !read.streams.is_empty() {
            parameters.push(("logStreamNames", json!(read.streams)));
        }
        if !read.filter.is_empty() {
            parameters.push(("filterPattern", json!(read.filter)));
        }
        if !mark.is_empty() {
            parameters.push(("nextToken", json!(mark)));
        }
        let answer = asking.call("FilterLogEvents", "", parameters).await?;
        for event in tree::at(&answer, "events") {
            each(event).await?;
        }
        // an empty page may have others behind it: the mark alone says where it ends
        let next = tree::text(&answer, "nextToken");
        if next.is_empty() || next == mark {
            return Ok(());
        }
        mark = next;
    }
}

fn group(item: &Value) -> LogSource {
    LogSource {
        name: tree::text(item, "logGroupName"),
        kind: "group".to_owned(),
        last_at: None,
        bytes: item.get("storedBytes").and_then(Value::as_u64),
        retention_days: item.get("retentionInDays").and_then(Value::as_u64).and_then(|days| u32::try_from(days).ok()),
    }
}

fn stream(item: &Value) -> LogSource {
    let newest = item.get("lastEventTimestamp").or_else(|| item.get("lastIngestionTime"));
    LogSource {
        name: tree::text(item, "logStreamName"),
        kind: "stream".to_owned(),
        last_at: newest.and_then(Value::as_i64).map(tree::moment),
        // CloudWatch says 0 of every stream since 2019
        bytes: None,
        retention_days: None,
    }
}

/// A document with the end of a line behind it.
fn line(event: &Value) -> Result<Vec<u8>, Fault> {
    let line = LogLine {
        time: tree::moment(time_of(event)),
        source: tree::text(event, "logStreamName"),
        severity: String::new(),
        message: tree::text(event, "message").trim_end_matches(['\r', '\n']).to_owned(),
    };
    let mut bytes = serde_json::to_vec(&line).map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn time_of(event: &Value) -> i64 {
    event.get("timestamp").and_then(Value::as_i64).unwrap_or_default()
}

fn check<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<(), Fault> {
    if texts.into_iter().all(|text| text.len() <= TEXT_MAX) {
        return Ok(());
    }
    Err(Fault::new(Code::InvalidArgument, format!("a name or a filter is longer than {TEXT_MAX} bytes")))
}

// === impl Newest ===

impl Newest {
    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.most || (self.bytes > KEPT_BYTES_MAX && self.lines.len() > 1) {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
            self.cut = true;
        }
    }
}

// === impl Given ===

impl Given {
    /// Remembers it; `false`: it was given before, or nobody knows any more whether it was.
    fn is_new(&mut self, event: &Value) -> bool {
        let (id, time) = (tree::text(event, "eventId"), time_of(event));
        if time < self.from_ms {
            return false;
        }
        if self.ids.insert(id, time).is_some() {
            return false;
        }
        if self.ids.len() > REMEMBERED_MAX {
            self.shorten();
        }
        true
    }

    /// Nothing of before that moment is looked for any more.
    fn forget(&mut self, before_ms: i64) {
        if before_ms > self.from_ms {
            self.from_ms = before_ms;
            self.ids.retain(|_, time| *time >= before_ms);
        }
    }

    /// The older half is looked for no more: what comes late of it is lost, which is better than to give it twice.
    fn shorten(&mut self) {
        let mut times: Vec<_> = self.ids.values().copied().collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        // all of one moment: it stays the last that is looked for
        self.forget(if middle > self.from_ms { middle } else { self.from_ms.saturating_add(1) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: usize, time: i64) -> Value {
        json!({"eventId": id.to_string(), "timestamp": time, "logStreamName": "s", "message": "m\n"})
    }

    #[test]
    fn the_newest_are_kept_within_both_bounds() {
        let mut newest = Newest { lines: VecDeque::new(), most: 2, bytes: 0, cut: false };
        newest.push(vec![1]);
        newest.push(vec![2]);
        assert!(!newest.cut);
        newest.push(vec![3]);
        assert!(newest.cut && newest.lines == [vec![2], vec![3]] && newest.bytes == 2);
        let mut newest = Newest { lines: VecDeque::new(), most: 10, bytes: 0, cut: false };
        newest.push(vec![0; KEPT_BYTES_MAX - 1]);
        newest.push(vec![0; 1]);
        assert!(!newest.cut && newest.lines.len() == 2);
        newest.push(vec![0; 1]);
        assert!(newest.cut && newest.lines.len() == 2 && newest.bytes == 2);
        // one alone is never left out
        newest.push(vec![0; KEPT_BYTES_MAX + 1]);
        assert!(newest.lines.len() == 1);
    }

    #[test]
    fn nothing_is_given_twice_and_what_is_remembered_has_a_bound() {
        let mut given = Given { from_ms: 1000, ..Given::default() };
        assert!(given.is_new(&event(1, 1000)) && !given.is_new(&event(1, 1000)));
        // late, but within what is looked at
        assert!(given.is_new(&event(2, 1000)) && given.is_new(&event(3, 2000)));
        given.forget(2000);
        assert!(!given.is_new(&event(4, 1999)) && !given.is_new(&event(3, 2000)) && given.ids.len() == 1);
        let mut given = Given::default();
        for n in 0..=REMEMBERED_MAX {
            assert!(given.is_new(&event(n, n as i64)));
        }
        assert!(given.ids.len() <= REMEMBERED_MAX / 2 + 1 && given.from_ms == REMEMBERED_MAX as i64 / 2);
        assert!(!given.is_new(&event(0, 0)) && !given.is_new(&event(REMEMBERED_MAX, REMEMBERED_MAX as i64)));
        // all of one moment
        let mut given = Given { from_ms: 5, ..Given::default() };
        for n in 0..=REMEMBERED_MAX {
            given.is_new(&event(n, 5));
        }
        assert!(given.ids.is_empty() && given.from_ms == 6);
    }

    #[test]
    fn lines_and_sources() {
        let text = String::from_utf8(line(&event(1, 1_767_323_045_250)).expect("a line")).expect("a text");
        assert_eq!(text, "{\"time\":\"2026-01-02T03:04:05.250Z\",\"source\":\"s\",\"message\":\"m\"}\n");
        let of = group(&json!({"logGroupName": "g", "storedBytes": 5, "retentionInDays": 7}));
        assert_eq!((of.name.as_str(), of.bytes, of.retention_days), ("g", Some(5), Some(7)));
        let of = stream(&json!({"logStreamName": "s", "lastEventTimestamp": 0}));
        assert_eq!(of.last_at.as_deref(), Some("1970-01-01T00:00:00.000Z"));
    }
}
