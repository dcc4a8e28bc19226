//! `schedule`: jobs that a stack has made by itself.

use super::Session;
use super::follow::{self, Approval};
use super::plan::ExitCode;
use crate::args::seconds;
use crate::client::path;
use crate::output::{escape, table};
use crate::stop::Done;
use serde_json::{Value, json};

/// What a schedule can do.
const KINDS: [&str; 4] = ["drift", "preview", "update", "reconcile"];

/// The longest time over which stacks are spread, seconds.
const JITTER_MAX: u64 = 3600;

/// A duration of an hour at most.
fn jitter(text: &str) -> Result<u64, String> {
    match seconds(text)? {
        within @ 0..=JITTER_MAX => Ok(within),
        _ => Err(format!("{text} is more than 1h")),
    }
}

/// `schedule`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Make a schedule, or change it; its jobs are made for whoever sets it
    Set {
        /// The stack
        stack: String,
        /// The schedule's name
        name: String,
        /// When: "MINUTE HOUR DAY MONTH WEEKDAY" as cron has it, or @hourly, @daily, @weekly, @monthly, @yearly
        #[arg(long, value_name = "LINE")]
        cron: String,
        /// What: look for drift, preview, update (waits for approval), or reconcile (an update that the runner's own policy may let be)
        #[arg(long, value_parser = KINDS, default_value = "drift")]
        kind: String,
        /// The distance from UTC by which the line is read
        #[arg(long, value_name = "+HH:MM", allow_hyphen_values = true)]
        utc_offset: Option<String>,
        /// Over how long stacks are spread, at most 1h; 5m by default
        #[arg(long, value_name = "DURATION", value_parser = jitter)]
        jitter: Option<u64>,
        /// What becomes of a time that was missed
        #[arg(long, value_parser = ["run", "skip"], default_value = "run")]
        late: String,
    },
    /// One schedule
    Show {
        /// The stack
        stack: String,
        /// The schedule's name
        name: String,
    },
    /// The schedules of a stack, or of all
    List {
        /// The stack
        stack: Option<String>,
    },
    /// Remove a schedule; its jobs stay
    Remove {
        /// The stack
        stack: String,
        /// The schedule's name
        name: String,
    },
    /// Have it make no jobs until it is resumed
    Pause {
        /// The stack
        stack: String,
        /// The schedule's name
        name: String,
    },
    /// Have it go on
    Resume {
        /// The stack
        stack: String,
        /// The schedule's name
        name: String,
    },
    /// Do now what it would do in its turn, and follow the job
    Run {
        /// The stack
        stack: String,
        /// The schedule's name
        name: String,
        #[command(flatten)]
        exit: ExitCode,
    },
}

/// `schedule …`
pub(crate) async fn run(command: ScheduleCommand, session: &Session) -> Done {
    let client = &session.client;
    let at = |stack: &str, rest: &[&str]| path(&[&["stacks", stack, "schedules"][..], rest].concat(), &[]);
    match command {
        ScheduleCommand::Set { stack, name, cron, kind, utc_offset, jitter, late } => {
            let mut body = json!({ "cron": cron, "kind": kind, "late": late });
            if let Some(offset) = utc_offset {
                body["utc_offset"] = offset.into();
            }
            if let Some(jitter) = jitter {
                body["jitter_s"] = jitter.into();
            }
            let set = session.wait("setting the schedule", client.put(&at(&stack, &[&name]), &body)).await?;
            session.output.document(&set, shown)
        }
        ScheduleCommand::Show { stack, name } => {
            let one = session.wait("asking", client.get(&at(&stack, &[&name]))).await?;
            session.output.document(&one, shown)
        }
        ScheduleCommand::List { stack } => {
            let at = stack.map_or_else(|| path(&["schedules"], &[]), |stack| at(&stack, &[]));
            let list = session.wait("listing schedules", client.get(&at)).await?;
            session.output.document(&list, listed)
        }
        ScheduleCommand::Remove { stack, name } => {
            session.wait("removing the schedule", client.delete(&at(&stack, &[&name]))).await?;
            session.output.document(&Value::Null, |_| format!("Schedule {} is removed.\n", escape::line(&name)))
        }
        ScheduleCommand::Pause { stack, name } => {
            let at = at(&stack, &[&name, "pause"]);
            let one = session.wait("pausing the schedule", client.post(&at, &json!({}))).await?;
            session.output.document(&one, shown)
        }
        ScheduleCommand::Resume { stack, name } => {
            let at = at(&stack, &[&name, "resume"]);
            let one = session.wait("resuming the schedule", client.post(&at, &json!({}))).await?;
            session.output.document(&one, shown)
        }
        ScheduleCommand::Run { stack, name, exit } => {
            let at = at(&stack, &[&name, "run"]);
            let job = session.wait("starting a job", client.post(&at, &json!({}))).await?;
            follow::follow(session, &table::text(&job, "/id"), Approval::Ask, exit).await
        }
    }
}

fn listed(list: &Value) -> String {
    let rows = table::items(list).iter().map(|one| {
        let mut row: Vec<_> = ["/stack/name", "/name", "/kind", "/cron"].map(|at| table::text(one, at)).into();
        row.push(match one["paused"].is_null() {
            true => table::moment(one, "/next_run_ms"),
            false => format!("paused: {}", table::text(one, "/paused/by")),
        });
        row.push(last(one));
        row
    });
    table::rows(&["STACK", "NAME", "KIND", "CRON", "NEXT", "LAST"], rows, "No schedules.")
}

fn shown(one: &Value) -> String {
    let paused = match one["paused"].is_null() {
        true => String::new(),
        false => format!("since {}, by {}", table::moment(one, "/paused/at_ms"), table::text(one, "/paused/by")),
    };
    let failures = one["failures"].as_i64().filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default();
    table::fields([
        ("stack", table::text(one, "/stack/name")),
        ("name", table::text(one, "/name")),
        ("kind", table::text(one, "/kind")),
        ("cron", format!("{} (UTC{})", table::text(one, "/cron"), table::text(one, "/utc_offset"))),
        ("spread over", format!("{} s", table::text(one, "/jitter_s"))),
        ("missed", format!("{} late", table::text(one, "/late"))),
        ("for", table::text(one, "/user")),
        ("next run", table::moment(one, "/next_run_ms")),
        ("paused", paused),
        ("last", last(one)),
        ("failures", failures),
    ])
}

fn last(one: &Value) -> String {
    if one["last"].is_null() {
        return String::new();
    }
    let said = [table::text(one, "/last/job"), table::text(one, "/last/said")].join(" ");
    format!("{} {}", table::moment(one, "/last/at_ms"), said.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_schedule() {
        let mut one = json!({
            "stack": { "name": "web" }, "name": "nightly", "kind": "drift", "cron": "0 6 * * *", "utc_offset": "+02:00", "jitter_s": 300,
            "late": "run", "user": "ann", "next_run_ms": 1_767_571_200_000_i64, "paused": null, "failures": 0,
            "last": { "at_ms": 1_767_484_800_000_i64, "job": null, "said": "skipped: job job_1 of stack web is planning" },
        });
        let text = shown(&one);
        assert!(text.contains("0 6 * * * (UTC+02:00)") && text.contains("2026-01-05"), "{text}");
        assert!(text.contains("skipped: job job_1") && !text.contains("since"), "{text}");
        let list = json!({ "items": [one.clone()] });
        assert!(listed(&list).contains("nightly"));
        one["paused"] = json!({ "at_ms": 1, "by": "5 jobs, one after the other, have failed" });
        assert!(shown(&one).contains("5 jobs") && listed(&json!({ "items": [one] })).contains("paused: 5 jobs"));
    }

    #[test]
    fn a_jitter_is_an_hour_at_most() {
        assert_eq!((jitter("60m"), jitter("3600"), jitter("0s")), (Ok(3600), Ok(3600), Ok(0)));
        assert_eq!(jitter("61m"), Err("61m is more than 1h".to_owned()));
        assert!(jitter("soon").is_err());
    }
}
