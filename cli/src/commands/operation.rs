//! `operation`: what is asked of runners right now, and lately.

use super::Session;
use crate::client::path;
use crate::output::{Format, table};
use crate::stop::Done;
use serde_json::{Value, json};

/// `operation`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum OperationCommand {
    /// Operations, running and past
    List,
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
        OperationCommand::List => {
            let list = session.wait("listing operations", client.get("/operations")).await?;
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
