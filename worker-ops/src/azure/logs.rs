//! Logs: workspaces of a subscription, tables of one, and lines by the Log Analytics API.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use shared_proto::azure::is_guid;
use shared_proto::documents::{LogSource, LogSources};
use shared_proto::failure::Code;
use shared_proto::inventory::{LIMIT_DEFAULT, LIMIT_MAX};
use shared_proto::v1::{ListLogs, Outcome, ReadLogs};

use super::connect::{Account, PAGES_MAX};
use super::filter;
use super::follow::Follow;
use super::lines::{self, Rows};
use super::versions::WORKSPACES;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::text;
use crate::socket::Output;

/// Lines where nobody says how many, and the most of one query: an answer is held as a whole.
pub(super) const LINES_MAX: u32 = 10_000;
/// Lines that are too long for one answer are asked for in no smaller number.
const FEWEST: u32 = 100;
/// The longest name of a group, as Azure has it.
const GROUP_MAX: usize = 90;
/// The longest name of a workspace or a table.
const NAME_MAX: usize = 128;

/// `GROUP/WORKSPACE` or `GROUP/WORKSPACE/TABLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source<'a> {
    group: &'a str,
    workspace: &'a str,
    pub(super) table: Option<&'a str>,
}

/// What is asked of one workspace.
pub(super) struct Asked<'a> {
    pub(super) source: Source<'a>,
    pub(super) filter: &'a str,
    /// Path of the query.
    target: String,
}

// === impl Source ===

impl<'a> Source<'a> {
    /// # Errors
    /// `invalid_argument`.
    fn parse(text: &'a str) -> Result<Self, Fault> {
        let wrong = || {
            Fault::new(Code::InvalidArgument, format!("{text:?} is no source of logs"))
                .next("Name GROUP/WORKSPACE, or GROUP/WORKSPACE/TABLE, as the list of logs shows them.")
        };
        let mut parts = text.split('/');
        let (Some(group), Some(workspace), table, None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let fits = |name: &str, most: usize, marks: &str| {
            (1..=most).contains(&name.len())
                && name.chars().all(|c| c.is_alphanumeric() || marks.contains(c))
                && name != ".."
        };
        let is_table = |t: &str| fits(t, NAME_MAX, "_") && t.is_ascii() && !t.starts_with(|c: char| c.is_ascii_digit());
        if !fits(group, GROUP_MAX, "-_.()")
            || group == "."
            || !fits(workspace, NAME_MAX, "-_")
            || !table.is_none_or(is_table)
        {
            return Err(wrong());
        }
        Ok(Self { group, workspace, table })
    }

    fn path(&self, subscription: &str) -> String {
        let (group, workspace) = (crate::net::url::encode(self.group), crate::net::url::encode(self.workspace));
        format!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.OperationalInsights/workspaces/{workspace}"
        )
    }
}

// === impl Asked ===

impl Asked<'_> {
    /// One that is asked nothing.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { source: Source { group: "", workspace: "", table: None }, filter: "", target: String::new() }
    }

    /// Asks for the newest lines of a query, the table's own first words being `before`. Where they are too long for one answer, for fewer.
    pub(super) async fn lines(
        &self,
        account: &mut Account,
        before: &str,
        timespan: Option<&str>,
        mut most: u32,
    ) -> Result<Rows, Fault> {
        let mut fewer = false;
        loop {
            let tail = format!("| top {most} by TimeGenerated desc");
            let mut body = json!({"query": filter::query(self.source.table, before, self.filter, &tail)});
            if let Some(timespan) = timespan {
                body["timespan"] = json!(timespan);
            }
            // https://learn.microsoft.com/azure/azure-monitor/logs/api/request-format
            match account.query(&self.target, &body).await {
                Ok(answer) => {
                    let mut rows = lines::read(&answer, self.source.table)?;
                    if fewer && rows.rows.len() >= most as usize {
                        rows.partial = Some(format!("the lines are long: only the newest {most} are shown"));
                    }
                    return Ok(rows);
                }
                Err(fault) if fault.code() == Code::TooLarge && most > FEWEST => {
                    most /= 4;
                    fewer = true;
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// The workspaces of a subscription, or the tables of one:
/// <https://learn.microsoft.com/rest/api/loganalytics/workspaces/list>, <https://learn.microsoft.com/rest/api/loganalytics/tables/list-by-workspace>.
pub(super) async fn list(account: &mut Account, list: &ListLogs, output: &mut Output) -> Result<Outcome, Fault> {
    let subscription = account.subscription()?.to_owned();
    let source = if list.source.is_empty() { None } else { Some(Source::parse(&list.source)?) };
    if source.is_some_and(|source| source.table.is_some()) {
        return Err(Fault::new(Code::InvalidArgument, format!("nothing more is in {}", list.source))
            .next("Name a workspace as GROUP/WORKSPACE."));
    }
    let mut target = match &source {
        None => format!(
            "/subscriptions/{subscription}/providers/Microsoft.OperationalInsights/workspaces?api-version={WORKSPACES}"
        ),
        Some(source) => format!("{}/tables?api-version={WORKSPACES}", source.path(&subscription)),
    };
    let limit = if list.limit == 0 { LIMIT_DEFAULT } else { list.limit.min(LIMIT_MAX) } as usize;
    let prefix = list.prefix.to_lowercase();
    let (mut items, mut truncated) = (Vec::new(), true);
    'pages: for _ in 0..PAGES_MAX {
        let (page, next) = account.page(&target).await?;
        for found in page.iter().filter_map(|item| described(item, source.as_ref())) {
            let own = found.name.rsplit('/').next().unwrap_or_default().to_lowercase();
            if !own.starts_with(&prefix) && !found.name.to_lowercase().starts_with(&prefix) {
                continue;
            }
            if items.len() == limit {
                break 'pages;
            }
            items.push(found);
        }
        match next {
            Some(next) => target = next,
            None => {
                truncated = false;
                break;
            }
        }
    }
    Document::whole(output, &LogSources { items, truncated }).await?;
    let message = if truncated { format!("there are more than {limit}") } else { String::new() };
    Ok(Outcome { truncated, message, ..done() })
}

/// A workspace by the group that its id has, a table by its workspace. What could not be asked for again is none.
fn described(item: &Value, within: Option<&Source<'_>>) -> Option<LogSource> {
    let own = text(item, "/name");
    let (name, kind) = match within {
        Some(source) => (format!("{}/{}/{own}", source.group, source.workspace), "table"),
        None => {
            let id = text(item, "/id");
            let group = id.split('/').nth(4)?;
            (format!("{group}/{own}"), "workspace")
        }
    };
    Source::parse(&name).ok()?;
    let days = item.pointer("/properties/retentionInDays").and_then(Value::as_u64);
    Some(LogSource {
        name,
        kind: kind.to_owned(),
        retention_days: days.and_then(|days| u32::try_from(days).ok()),
        ..Default::default()
    })
}

/// Lines, oldest first; where followed, for as long as somebody reads.
pub(super) async fn read(account: &mut Account, read: &ReadLogs, output: &mut Output) -> Result<Outcome, Fault> {
    let subscription = account.subscription()?.to_owned();
    let source = Source::parse(&read.source)?;
    filter::check(&read.filter)?;
    let invalid = |what: &str, next: &str| Err(Fault::new(Code::InvalidArgument, what).next(next));
    if !read.streams.is_empty() {
        return invalid("a workspace has no streams", "Leave the streams out, and filter by a column.");
    }
    if source.table.is_none() && read.filter.trim().is_empty() {
        return invalid(
            "neither a table nor a filter is named",
            "Name GROUP/WORKSPACE/TABLE, or a query in KQL as the filter.",
        );
    }
    if source.table.is_none() && read.follow {
        return invalid("only a table can be followed", "Name GROUP/WORKSPACE/TABLE.");
    }
    if read.limit > LINES_MAX && !read.follow {
        let message = format!("Log Analytics is asked for at most {LINES_MAX} lines at once");
        return Err(Fault::new(Code::TooLarge, message).next("Ask for less at once, or for a shorter time."));
    }
    let timespan = timespan(read.since_ms, read.until_ms)?;
    let workspace = account.get(&format!("{}?api-version={WORKSPACES}", source.path(&subscription))).await?;
    let id = text(&workspace, "/properties/customerId");
    if !is_guid(&id) {
        return Err(Fault::new(Code::TargetRefused, "Azure: a workspace has no id by which it is queried"));
    }
    let asked = Asked { source, filter: &read.filter, target: format!("/v1/workspaces/{id}/query") };
    let follow = if read.follow { Some(Follow::begin(&asked, read, account).await?) } else { None };
    let most = if read.limit == 0 { LINES_MAX } else { read.limit.min(LINES_MAX) };
    // one more than is shown tells whether there are more
    let mut rows = asked.lines(account, "", Some(&timespan), most + 1).await?;
    let more = rows.rows.len() > most as usize;
    if more {
        rows.rows.drain(..rows.rows.len() - most as usize);
    }
    for row in &rows.rows {
        write(output, row).await?;
    }
    if let Some(mut follow) = follow {
        follow.shown(&rows.rows);
        return follow.run(account, output).await;
    }
    let message =
        rows.partial.or_else(|| more.then(|| format!("there are more than {most} lines: the newest are shown")));
    Ok(Outcome { truncated: message.is_some(), message: message.unwrap_or_default(), ..done() })
}

pub(super) async fn write(output: &mut Output, row: &lines::Row) -> Result<(), Fault> {
    let mut line = serde_json::to_vec(&row.line)
        .map_err(|e| Fault::new(Code::Internal, format!("a line cannot be written as JSON: {e}")))?;
    line.push(b'\n');
    output.data(&line).await
}

/// An ISO 8601 interval.
fn timespan(since_ms: i64, until_ms: i64) -> Result<String, Fault> {
    let until_ms = if until_ms == 0 { shared_proto::now_ms() } else { until_ms };
    let moment = |ms| Timestamp::from_millisecond(ms);
    match (moment(since_ms), moment(until_ms)) {
        (Ok(since), Ok(until)) if since <= until => Ok(format!("{since:.3}/{until:.3}")),
        _ => Err(Fault::new(Code::InvalidArgument, "the time that is asked for ends before it begins")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let source = Source::parse("my-group (x)".replace(' ', "_").as_str()).err();
        assert!(source.is_some());
        let source = Source::parse("g_(1)/logs-1/AppTraces").expect("fine");
        assert_eq!((source.group, source.workspace, source.table), ("g_(1)", "logs-1", Some("AppTraces")));
        assert!(
            source
                .path("S")
                .ends_with("/resourceGroups/g_%281%29/providers/Microsoft.OperationalInsights/workspaces/logs-1")
        );
        assert!(Source::parse("g/w").expect("fine").table.is_none());
        for bad in [
            "",
            "g",
            "g/",
            "/w",
            "g/w/",
            "g/w/T/x",
            "../w",
            "g/..",
            "./w",
            "g/w/T | union X",
            "g/w/T\n",
            "g/w/1T",
            "g w/x",
            "g/w?x",
            "g/w/Tä",
        ] {
            assert_eq!(Source::parse(bad).expect_err(bad).code(), Code::InvalidArgument);
        }
        for (length, fine) in [(GROUP_MAX, true), (GROUP_MAX + 1, false)] {
            assert_eq!(Source::parse(&format!("{}/w", "g".repeat(length))).is_ok(), fine);
        }
        for (length, fine) in [(NAME_MAX, true), (NAME_MAX + 1, false)] {
            assert_eq!(Source::parse(&format!("g/w/{}", "t".repeat(length))).is_ok(), fine);
        }
    }

    #[test]
    fn times() {
        assert_eq!(timespan(0, 1500).expect("fine"), "1970-01-01T00:00:00.000Z/1970-01-01T00:00:01.500Z");
        assert!(timespan(1, 0).expect("fine").starts_with("1970-01-01T00:00:00.001Z/20"));
        assert!(timespan(2, 1).is_err() && timespan(i64::MAX, 0).is_err() && timespan(0, i64::MAX).is_err());
    }
}
