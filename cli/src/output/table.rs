//! Tables for people: columns without lines, as `kubectl` has them, and lists of fields. Cells are made harmless one by one.

use super::escape;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Between two columns.
const GAP: usize = 3;
/// The narrowest column with its gap.
const NARROWEST: usize = 6;

/// The widths that columns have had, so that lines that come later stand below the others. Set as kubectl sets them.
#[derive(Debug, Default)]
pub(crate) struct Widths(Vec<usize>);

// === impl Widths ===

impl Widths {
    /// Of columns that are at least as wide as what will stand in them.
    pub(crate) fn at_least(columns: &[usize]) -> Self {
        Self(columns.iter().map(|width| NARROWEST.max(width + GAP)).collect())
    }
    /// Lines with their cells below each other.
    pub(crate) fn set(&mut self, lines: &[Vec<String>]) -> String {
        let lines: Vec<Vec<String>> =
            lines.iter().map(|line| line.iter().map(|cell| escape::line(cell)).collect()).collect();
        for line in &lines {
            // the last cell of a line reaches as far as it likes
            for (at, cell) in line.iter().enumerate().take(line.len().saturating_sub(1)) {
                if self.0.len() <= at {
                    self.0.resize(at + 1, NARROWEST);
                }
                self.0[at] = self.0[at].max(cell.chars().count() + GAP);
            }
        }
        let mut text = String::new();
        for line in &lines {
            let mut out = String::new();
            for (at, cell) in line.iter().enumerate() {
                out.push_str(cell);
                let width = self.0.get(at).copied().unwrap_or_default();
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
            text.push_str(out.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A table of rows; without rows, a sentence.
pub(crate) fn rows(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, empty: &str) -> String {
    let mut table = plain();
    table.set_header(header.iter().copied());
    let mut any = false;
    for row in rows {
        any = true;
        table.add_row(row.iter().map(|cell| cell_of(cell)));
    }
    if any { finish(&mut table) } else { format!("{empty}\n") }
}

/// Names and values.
pub(crate) fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = plain();
    for (name, value) in fields {
        table.add_row([format!("{name}:"), cell_of(&value)]);
    }
    finish(&mut table)
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn finish(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cell_of(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { escape::line(text) }
}

/// A field of a document as text: strings as they are, nothing for null or a missing one.
pub(crate) fn text(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    }
}

/// The items of a list.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.get("items").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Milliseconds since the epoch as a date, UTC.
pub(crate) fn moment(value: &Value, path: &str) -> String {
    match value.pointer(path).and_then(Value::as_i64) {
        Some(ms) if ms > 0 => shared_proto::identity::rfc3339(ms / 1000),
        _ => String::new(),
    }
}

/// How long ago a moment in milliseconds since the epoch was.
pub(crate) fn ago(value: &Value, path: &str) -> String {
    match value.pointer(path).and_then(Value::as_i64) {
        Some(ms) if ms > 0 => age((shared_proto::now_ms() - ms).max(0) / 1000),
        _ => String::new(),
    }
}

/// The age of an RFC 3339 moment, as kubectl shows it.
pub(crate) fn age_since(text: Option<&str>) -> String {
    text.and_then(|t| time::OffsetDateTime::parse(t, &time::format_description::well_known::Rfc3339).ok())
        .map_or_else(String::new, |t| age((shared_proto::now_ms() / 1000 - t.unix_timestamp()).max(0)))
}

/// Seconds as people read an age: `42s`, `5m12s`, `3h10m`, `2d4h`, `120d`.
fn age(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 != 0 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_cells_are_harmless() {
        let text = rows(
            &["NAME", "STATE"],
            [vec!["a".into(), "running".into()], vec!["longer\x1b[2J".into(), String::new()]],
            "none",
        );
        assert_eq!(text, "NAME          STATE\na             running\nlonger^[[2J   -\n");
        assert_eq!(rows(&["NAME"], [], "No pods."), "No pods.\n");
        assert_eq!(fields([("name", "x".to_owned()), ("a", "y\nz".to_owned())]), "name:   x\na:      y; z\n");
    }

    #[test]
    fn ages() {
        let shown: Vec<_> = [0, 119, 130, 600, 7200, 11_000, 90_000, 180_000, 900_000].map(age).into();
        assert_eq!(shown, ["0s", "119s", "2m10s", "10m", "120m", "3h3m", "25h", "2d2h", "10d"]);
        assert_eq!(age_since(Some("not a date")), "");
    }
}
