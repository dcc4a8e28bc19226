//! `drift`: what others have changed of what stacks manage, as the last look at each found it.

use super::Session;
use super::follow::{self, Approval};
use super::plan::{self, ExitCode};
use crate::client::path;
use crate::output::table;
use crate::stop::Done;
use serde_json::{Value, json};

/// `drift`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Drift {
    #[command(subcommand)]
    command: Option<DriftCommand>,
    #[command(flatten)]
    exit: ExitCode,
}

/// `drift …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DriftCommand {
    /// What of a stack it is: each resource, each attribute before and after
    Show {
        /// The stack
        stack: String,
        #[command(flatten)]
        exit: ExitCode,
    },
    /// Look now, and follow the job; nothing is changed
    Check {
        /// The stack
        stack: String,
        #[command(flatten)]
        exit: ExitCode,
    },
}

/// `drift [show|check]`
pub(crate) async fn run(drift: Drift, session: &Session) -> Done {
    let client = &session.client;
    match drift.command {
        None => {
            let list = session.wait("asking", client.get("/drift")).await?;
            session.output.document(&list, listed)?;
            drift.exit.end(table::items(&list).iter().any(|one| !one["since_ms"].is_null()))
        }
        Some(DriftCommand::Show { stack, exit }) => {
            let one = session.wait("asking", client.get(&path(&["stacks", &stack, "drift"], &[]))).await?;
            session.output.document(&one, |one| shown(one, session.output.colour))?;
            exit.end(!one["since_ms"].is_null())
        }
        Some(DriftCommand::Check { stack, exit }) => {
            let body = json!({ "kind": "refresh", "preview_only": true });
            let at = path(&["stacks", &stack, "jobs"], &[]);
            let job = session.wait("starting a job", client.post_once(&at, &body)).await?;
            follow::follow(session, &table::text(&job, "/id"), Approval::Watch, exit).await
        }
    }
}

fn listed(list: &Value) -> String {
    let rows = table::items(list).iter().map(|one| {
        let since = match one["since_ms"].is_null() {
            true => "none".to_owned(),
            false => table::moment(one, "/since_ms"),
        };
        vec![
            table::text(one, "/stack/name"),
            since,
            table::text(one, "/resources"),
            table::moment(one, "/checked_at_ms"),
            table::text(one, "/checked_by"),
        ]
    });
    let none = "Nobody has looked for drift: `runnerctl schedule set STACK NAME --cron LINE` has it looked for.";
    table::rows(&["STACK", "SINCE", "RESOURCES", "CHECKED", "BY"], rows, none)
}

fn shown(one: &Value, colour: bool) -> String {
    let (stack, checked) = (table::text(one, "/stack/name"), table::moment(one, "/checked_at_ms"));
    if one["since_ms"].is_null() {
        return format!("Stack {stack}: no drift, by job {} at {checked}.\n", table::text(one, "/checked_by"));
    }
    let since = table::moment(one, "/since_ms");
    let mut text = format!(
        "Stack {stack}: drift since {since}, found by job {}, checked at {checked}.\n\n",
        table::text(one, "/found_by")
    );
    text.push_str(&plan::drift(&one["drift"], colour));
    if let Some(more) = one["left_out"].as_u64().filter(|n| *n > 0) {
        text.push_str(&format!("… {more} resources more\n"));
    }
    text.push_str(&format!(
        "\nTake it over: runnerctl deploy --stack {stack} --kind refresh\nUndo it:      runnerctl deploy --stack {stack} --kind update\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_shown_by_resource_and_attribute() {
        let mut one = json!({
            "stack": { "name": "web" }, "since_ms": 1_767_571_200_000_i64, "found_by": "job_1", "checked_at_ms": 1_767_571_200_000_i64,
            "checked_by": "job_2", "resources": 1, "left_out": 2,
            "drift": [{ "address": "file.a", "action": "update", "attributes": [
                { "path": "content", "before": "as it was", "after": "as it is" }, { "path": "secret", "sensitive": true },
            ] }],
        });
        let text = shown(&one, false);
        for part in ["file.a", "content", "as it was", "as it is", "(sensitive)", "2 resources more", "--kind refresh"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(listed(&json!({ "items": [one.clone()] })).contains("web"));
        one["since_ms"] = Value::Null;
        assert!(shown(&one, false).contains("no drift, by job job_2"));
        assert!(listed(&json!({ "items": [] })).contains("Nobody has looked"));
    }
}
