//! Rows of Log Analytics as lines of a log.
//!
//! <https://learn.microsoft.com/azure/azure-monitor/logs/api/response-format>

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};
use shared_proto::documents::LogLine;
use shared_proto::failure::Code;

use crate::fault::{Fault, words};

/// Where tables write the text of a line, the first that has one.
const MESSAGES: &[&str] = &[
    "Message",
    "LogMessage",
    "SyslogMessage",
    "RenderedDescription",
    "OuterMessage",
    "ResultDescription",
    "Log_s",
    "log_s",
    "LogEntry",
    "RawData",
];
/// Where they write how bad it is.
const SEVERITIES: &[&str] = &["SeverityLevel", "Level", "LogLevel", "EventLevelName", "Severity", "level_s"];
/// Application Insights' numbers: <https://learn.microsoft.com/azure/azure-monitor/reference/tables/apptraces>.
const LEVELS: [&str; 5] = ["Verbose", "Information", "Warning", "Error", "Critical"];
/// What every row has and nobody looks for in a line.
const EVERYWHERE: &[&str] = &["TimeGenerated", "TenantId", "SourceSystem", "Type", "_ResourceId"];
/// When it was, without which there is no line.
const TIME: &str = "TimeGenerated";

/// A row.
pub(super) struct Row {
    pub(super) at: Timestamp,
    pub(super) line: LogLine,
    /// All of it as it came, by which it is known again.
    pub(super) whole: String,
}

/// What a query gave, oldest first.
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    /// Why there is not all of it.
    pub(super) partial: Option<String>,
}

/// Reads an answer.
///
/// # Errors
/// `target_refused`: it is none, or its rows have no time.
pub(super) fn read(answer: &Value, table: Option<&str>) -> Result<Rows, Fault> {
    let wrong = |what: &str| Fault::new(Code::TargetRefused, format!("Log Analytics: an answer {what}"));
    let first = answer["tables"].as_array().and_then(|t| t.first()).ok_or_else(|| wrong("has no table"))?;
    let columns = first["columns"].as_array().ok_or_else(|| wrong("has no columns"))?;
    let columns: Vec<&str> = columns.iter().map(|c| c["name"].as_str().unwrap_or_default()).collect();
    let rows = first["rows"].as_array().ok_or_else(|| wrong("has no rows"))?;
    if !rows.is_empty() && !columns.contains(&TIME) {
        return Err(wrong("has no TimeGenerated").next("Let the filter keep the column TimeGenerated."));
    }
    let mut left_out = 0;
    let mut read = Vec::with_capacity(rows.len());
    for row in rows {
        match row
            .as_array()
            .filter(|cells| cells.len() == columns.len())
            .and_then(|cells| self::row(&columns, cells, table))
        {
            Some(row) => read.push(row),
            None => left_out += 1,
        }
    }
    read.sort_by_key(|row| row.at);
    let error = answer["error"]["message"].as_str().map(|m| format!("Log Analytics gave only a part: {}", words(m)));
    let partial = error.or_else(|| (left_out > 0).then(|| format!("{left_out} rows without a time were left out")));
    Ok(Rows { rows: read, partial })
}

fn row(columns: &[&str], cells: &[Value], table: Option<&str>) -> Option<Row> {
    let cell = |name: &str| columns.iter().position(|c| *c == name).map(|at| &cells[at]).filter(|v| !is_empty(v));
    let shown = |names: &[&str]| names.iter().find_map(|name| cell(name));
    let at: Timestamp = cell(TIME)?.as_str()?.parse().ok()?;
    let severity = match shown(SEVERITIES) {
        Some(Value::Number(n)) => {
            let level = n.as_u64().and_then(|n| LEVELS.get(usize::try_from(n).ok()?));
            level.map_or_else(|| n.to_string(), |level| (*level).to_owned())
        }
        Some(value) => plain(value),
        None => String::new(),
    };
    let source = shown(&["_ResourceId", "Type"]).map(plain).unwrap_or_else(|| table.unwrap_or_default().to_owned());
    let message = shown(MESSAGES).map(plain).unwrap_or_else(|| {
        let told = |name: &str, value: &Value| !is_empty(value) && !EVERYWHERE.contains(&name);
        let rest: Map<String, Value> = columns
            .iter()
            .zip(cells)
            .filter(|(name, value)| told(name, value))
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        Value::Object(rest).to_string()
    });
    let line = LogLine { time: format!("{at:.3}"), source, severity, message };
    Some(Row { at, line, whole: Value::Array(cells.to_vec()).to_string() })
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value == ""
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(columns: &[&str], rows: Value) -> Value {
        let columns: Vec<_> = columns.iter().map(|name| json!({"name": name, "type": "string"})).collect();
        json!({"tables": [{"name": "PrimaryResult", "columns": columns, "rows": rows}]})
    }

    #[test]
    fn rows_are_lines_oldest_first() {
        let answer = answer(
            &["TimeGenerated", "Message", "SeverityLevel", "_ResourceId", "Type"],
            json!([
                ["2024-05-01T10:00:02.1234567Z", "two", 3, "/subscriptions/s/x", "AppTraces"],
                ["2024-05-01T10:00:01Z", "one\nmore", "warn", "", "AppTraces"],
                ["2024-05-01T10:00:03Z", "three", 9, null, null],
            ]),
        );
        let rows = read(&answer, Some("T")).expect("reads");
        let lines: Vec<_> = rows
            .rows
            .iter()
            .map(|r| &r.line)
            .map(|l| (l.time.as_str(), l.source.as_str(), l.severity.as_str(), l.message.as_str()))
            .collect();
        assert_eq!(
            lines,
            [
                ("2024-05-01T10:00:01.000Z", "AppTraces", "warn", "one\nmore"),
                ("2024-05-01T10:00:02.123Z", "/subscriptions/s/x", "Error", "two"),
                ("2024-05-01T10:00:03.000Z", "T", "9", "three"),
            ]
        );
        assert!(rows.partial.is_none());
    }

    #[test]
    fn what_has_no_text_is_a_line_of_json() {
        let answer = answer(
            &["TimeGenerated", "TenantId", "Category", "count_", "None"],
            json!([["2024-05-01T10:00:00Z", "t", "Administrative", 7, ""]]),
        );
        let rows = read(&answer, None).expect("reads");
        assert_eq!(rows.rows[0].line.message, r#"{"Category":"Administrative","count_":7}"#);
    }

    #[test]
    fn what_is_no_answer_and_what_is_only_a_part() {
        for bad in [
            json!({}),
            json!([]),
            json!({"tables": []}),
            json!({"tables": [{"columns": []}]}),
            json!({"tables": [{"rows": []}]}),
        ] {
            assert_eq!(read(&bad, None).err().expect("refused").code(), Code::TargetRefused);
        }
        let without = answer(&["count_"], json!([[1]]));
        let fault = read(&without, None).err().expect("refused");
        assert!(fault.failure.next_step.contains("TimeGenerated"), "{}", fault.failure);
        let some = answer(
            &["TimeGenerated"],
            json!([["2024-05-01T10:00:00Z"], [null], ["soon"], ["2024-05-01T10:00:00Z", 1], "x"]),
        );
        let rows = read(&some, None).expect("reads");
        assert_eq!((rows.rows.len(), rows.partial.as_deref()), (1, Some("4 rows without a time were left out")));
        let mut part = answer(&["TimeGenerated"], json!([]));
        part["error"] = json!({"code": "PartialError", "message": "There were some\nerrors"});
        assert!(read(&part, None).expect("reads").partial.expect("told").contains("There were some errors"));
    }
}
