//! Tables with the API server's own columns, set as kubectl sets them.

use crate::output::table::{self, Widths};
use serde_json::Value;

/// A table as the API server made it.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns {
    /// Name, and whether it is for the wide form only.
    header: Vec<(String, bool)>,
    rows: Vec<Row>,
    /// Of the list or the object, to go on from.
    pub(super) version: String,
}

/// One object.
#[derive(Debug, Clone)]
struct Row {
    cells: Vec<String>,
    name: String,
    namespace: String,
    labels: String,
}

/// How it is shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// Also the columns for the wide form.
    pub(super) wide: bool,
    /// With each object's namespace.
    pub(super) namespaces: bool,
    /// With each object's labels.
    pub(super) labels: bool,
    /// Without the first line.
    pub(super) no_headers: bool,
    /// The kind before each name.
    pub(super) kind: Option<String>,
}

// === impl Columns ===

impl Columns {
    /// Of a `Table`, or of objects from a server that makes none.
    pub(super) fn read(document: &Value) -> Self {
        let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        let mut version = table::text(document, "/metadata/resourceVersion");
        if document["kind"] != "Table" {
            let header = vec![("Name".to_owned(), false), ("Age".to_owned(), false)];
            let objects =
                if document.get("items").is_some() { list(document, "items") } else { vec![document.clone()] };
            let rows = objects.iter().map(|o| {
                let age = table::age_since(o.pointer("/metadata/creationTimestamp").and_then(Value::as_str));
                Row::of(o, vec![table::text(o, "/metadata/name"), age])
            });
            return Self { header, rows: rows.collect(), version };
        }
        let header = list(document, "columnDefinitions");
        let header = header.iter().map(|c| (table::text(c, "/name"), c["priority"].as_i64().unwrap_or(0) > 0));
        let rows: Vec<_> = list(document, "rows")
            .iter()
            .map(|row| Row::of(&row["object"], list(row, "cells").iter().map(cell).collect()))
            .collect();
        if version.is_empty() {
            version = document["rows"]
                .as_array()
                .and_then(|rows| rows.last())
                .map(|row| table::text(row, "/object/metadata/resourceVersion"))
                .unwrap_or_default();
        }
        Self { header: header.collect(), rows, version }
    }
    /// The rows of another page.
    pub(super) fn add(&mut self, other: Self) {
        if self.header.is_empty() {
            self.header = other.header;
        }
        if self.version.is_empty() {
            self.version = other.version;
        }
        self.rows.extend(other.rows);
    }
    /// The header of an earlier one: in a watch only the first table of a stream has it.
    pub(super) fn with_header_of(mut self, earlier: &Self) -> Self {
        if self.header.is_empty() {
            self.header.clone_from(&earlier.header);
        }
        self
    }
    /// Only what has one of these names.
    pub(super) fn keep(&mut self, is_meant: impl Fn(&str) -> bool) {
        self.rows.retain(|row| is_meant(&row.name));
    }
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// Its lines; the header only where there is none above them yet.
    pub(super) fn lines(&self, look: &Look, widths: &mut Widths, header: bool) -> String {
        let shown = |wide: &bool| look.wide || !wide;
        let mut lines: Vec<Vec<String>> = Vec::new();
        if header && !look.no_headers {
            let mut line: Vec<_> =
                self.header.iter().filter(|(_, wide)| shown(wide)).map(|(name, _)| name.to_uppercase()).collect();
            if look.namespaces {
                line.insert(0, "NAMESPACE".into());
            }
            if look.labels {
                line.push("LABELS".into());
            }
            lines.push(line);
        }
        for row in &self.rows {
            let mut line: Vec<_> = self
                .header
                .iter()
                .zip(&row.cells)
                .filter(|((_, wide), _)| shown(wide))
                .map(|(_, c)| c.clone())
                .collect();
            if let (Some(kind), Some(first)) = (&look.kind, line.first_mut()) {
                *first = format!("{kind}/{first}");
            }
            if look.namespaces {
                line.insert(0, row.namespace.clone());
            }
            if look.labels {
                line.push(if row.labels.is_empty() { "<none>".into() } else { row.labels.clone() });
            }
            lines.push(line);
        }
        widths.set(&lines)
    }
}

// === impl Row ===

impl Row {
    fn of(object: &Value, cells: Vec<String>) -> Self {
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.map_or_else(String::new, |labels| {
            labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
        });
        Self {
            cells,
            name: table::text(object, "/metadata/name"),
            namespace: table::text(object, "/metadata/namespace"),
            labels,
        }
    }
}

/// A cell: of several lines only the first, as kubectl has it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => match text.split_once(['\n', '\r', '\u{c}']) {
            Some((first, _)) => format!("{first}..."),
            None => text.clone(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Columns {
        Columns::read(&json!({
            "kind": "Table", "metadata": {"resourceVersion": "7"},
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Restarts", "priority": 0}, {"name": "Age"},
                {"name": "Node", "priority": 1}],
            "rows": [
                {"cells": ["web-1", 3, "5m", "node-1"], "object": {"metadata": {"name": "web-1", "namespace": "seen", "labels": {"a": "b", "c": "d"}}}},
                {"cells": ["a\u{1b}[2Jb\nc", null, "5m"], "object": {"metadata": {"name": "x", "namespace": "n"}}},
            ],
        }))
    }

    #[test]
    fn columns_are_set_as_kubectl_sets_them() {
        let table = pods();
        let text = |look: &Look| table.lines(look, &mut Widths::default(), true);
        assert_eq!(
            text(&Look::default()),
            "NAME         RESTARTS   AGE\nweb-1        3          5m\na^[[2Jb...              5m\n"
        );
        let all =
            text(&Look { wide: true, namespaces: true, labels: true, no_headers: true, kind: Some("pod".into()) });
        assert!(all.starts_with("seen   pod/web-1        3     5m    node-1   a=b,c=d\n"), "{all}");
        assert_eq!(table.version, "7");
    }

    #[test]
    fn later_lines_stand_below_the_others() {
        let mut table = pods();
        table.keep(|name| name == "web-1");
        let row = json!({"cells": ["web-1", 3, "5m"], "object": {"metadata": {"name": "web-1"}}});
        let without = Columns::read(&json!({"kind": "Table", "columnDefinitions": null, "rows": [row]}));
        let mut widths = Widths::default();
        let first = table.lines(&Look::default(), &mut widths, true);
        let again = without.with_header_of(&table).lines(&Look::default(), &mut widths, false);
        assert_eq!(first.lines().nth(1), again.lines().next());
        assert_eq!(again.lines().count(), 1);
    }

    #[test]
    fn a_server_that_makes_no_tables() {
        let list = json!({"kind": "ThingList", "items": [{"metadata": {"name": "a"}}]});
        assert_eq!(Columns::read(&list).lines(&Look::default(), &mut Widths::default(), true), "NAME   AGE\na\n");
    }
}
