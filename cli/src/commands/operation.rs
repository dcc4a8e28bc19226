//! `operation`: what is asked of runners right now, and lately.

use super::Session;
use crate::client::path;
use crate::output::{Format, table};
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::Failure;

/// Operations that are asked for at once, as many as the control plane gives.
const PART: u32 = 1000;

/// `operation`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum OperationCommand {
    /// Operations, running and past, the newest first; of one runner with --runner
    List {
        /// So many at most; the control plane's default is 100
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
        /// All that are kept: with -o json for `runner audit compare` on the runner's machine
        #[arg(long, conflicts_with = "limit")]
        all: bool,
    },
    /// One operation
    Show {
        /// Its id
        id: String,
    },
    /// Cancel one that runs
    Cancel {
        /// Its id
        id: String,
    },
}

/// `operation …`
pub(crate) async fn run(command: OperationCommand, session: &Session) -> Done {
    let client = &session.client;
    match command {
        OperationCommand::List { limit, all } => {
            let list = session.wait("listing operations", listed(session, limit, all)).await?;
            let wide = session.output.format == Format::Wide;
            session.output.document(&list, |list| operations(list, wide))
        }
        OperationCommand::Show { id } => {
            let one = session.wait("asking", client.get(&path(&["operations", &id], &[]))).await?;
            session.output.document(&one, |o| {
                table::fields([
                    ("id", table::text(o, "/id")),
                    ("kind", table::text(o, "/kind")),
                    ("connection", table::text(o, "/connection")),
                    ("runner", table::text(o, "/runner")),
                    ("user", table::text(o, "/user")),
                    ("started", table::moment(o, "/started_at_ms")),
                    ("ended", table::moment(o, "/ended_at_ms")),
                    ("result", table::text(o, "/code")),
                    ("isolation", table::text(o, "/isolation_level")),
                ])
            })
        }
        OperationCommand::Cancel { id } => {
            let at = path(&["operations", &id, "cancel"], &[]);
            let done = session.wait("cancelling", client.post(&at, &json!({}))).await?;
            session.output.document(&done, cancelled)
        }
    }
}

/// Asks for a list, in as many parts as it takes.
async fn listed(session: &Session, limit: Option<u32>, all: bool) -> Result<Value, Failure> {
    let limit = if all { Some(PART) } else { limit }.map(|limit| limit.to_string());
    let mut whole: Option<Value> = None;
    loop {
        let before = whole.as_ref().and_then(|whole| table::items(whole).last()).map(|o| table::text(o, "/id"));
        let query: Vec<_> =
            [("limit", limit.as_deref()), ("runner", session.runner.as_deref()), ("before", before.as_deref())]
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
        let mut part = session.client.get(&path(&["operations"], &query)).await?;
        let items = part["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let is_last = !all || items.len() < PART as usize;
        match whole.as_mut().and_then(|whole| whole["items"].as_array_mut()) {
            Some(before) => before.extend(items),
            None => {
                part["items"] = items.into();
                whole = Some(part);
            }
        }
        if is_last {
            return Ok(whole.unwrap_or_default());
        }
    }
}

/// Operations, one a line; `wide`: also how their workers are isolated.
fn operations(list: &Value, wide: bool) -> String {
    let mut columns = vec!["ID", "KIND", "CONNECTION", "RUNNER", "USER", "STARTED", "RESULT"];
    if wide {
        columns.push("ISOLATION");
    }
    let rows = table::items(list).iter().map(|o| {
        let mut row = vec![
            table::text(o, "/id"),
            table::text(o, "/kind"),
            table::text(o, "/connection"),
            table::text(o, "/runner"),
            table::text(o, "/user"),
            table::moment(o, "/started_at_ms"),
            match table::text(o, "/code") {
                code if code.is_empty() => "(running)".into(),
                code => code,
            },
        ];
        if wide {
            row.push(table::text(o, "/isolation_level"));
        }
        row
    });
    table::rows(&columns, rows, "No operations.")
}

/// What came of a cancel: an operation that had ended stays as it was.
fn cancelled(operation: &Value) -> String {
    let id = table::text(operation, "/id");
    match table::text(operation, "/code").as_str() {
        "" => format!("Operation {id}: cancel asked.\n"),
        "cancelled" => format!("Operation {id} is cancelled.\n"),
        code => format!("Operation {id} had ended already: {code}. Nothing was cancelled.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wide_list_says_how_workers_are_isolated() {
        let list = json!({"items": [{"id": "op_1", "code": "ok", "isolation_level": "confined"}, {"id": "op_2"}]});
        let (narrow, wide) = (operations(&list, false), operations(&list, true));
        assert!(!narrow.contains("confined") && wide.contains("ISOLATION") && wide.contains("confined"), "{wide}");
        assert!(wide.contains("op_2") && wide.contains("(running)"), "{wide}");
    }

    #[test]
    fn a_cancel_says_what_came_of_it() {
        let said = |code: Value| cancelled(&json!({"id": "op_1", "code": code}));
        assert_eq!(said(Value::Null), "Operation op_1: cancel asked.\n");
        assert_eq!(said("cancelled".into()), "Operation op_1 is cancelled.\n");
        for code in ["ok", "connection_lost"] {
            let text = said(code.into());
            assert!(text.contains("had ended already") && text.contains(code) && !text.contains("asked"), "{text}");
        }
    }
}
