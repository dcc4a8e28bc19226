//! `notification`: who is told of what becomes of jobs and stacks.

use super::Session;
use crate::client::path;
use crate::config;
use crate::output::{escape, table};
use crate::stop::Done;
use crate::terminal;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The longest secret that is read, bytes.
const SECRET_MAX: u64 = 4096;

/// `notification`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NotificationCommand {
    /// Have somebody told, by an HTTPS POST that is signed
    Create {
        /// Its name
        name: String,
        /// Where: https://…
        #[arg(long, value_name = "URL")]
        url: String,
        /// A file with the secret by which it is signed; standard input by default
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Of what; may be given several times, all by default
        #[arg(long = "event", value_name = "EVENT", value_parser = ["drift_found", "drift_gone", "job_waits", "job_failed", "job_applied", "schedule_paused"])]
        events: Vec<String>,
    },
    /// All notifications
    List,
    /// Tell it no more
    Remove {
        /// Its name
        name: String,
    },
    /// Tell it something that means nothing
    Test {
        /// Its name
        name: String,
    },
    /// What was told, and what came of it, newest first
    Notices {
        /// Its name
        name: String,
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: u32,
    },
}

/// `notification …`
pub(crate) async fn run(command: NotificationCommand, session: &Session) -> Done {
    let client = &session.client;
    let at = |name: &str, rest: &[&str]| path(&[&["notifications", name][..], rest].concat(), &[]);
    match command {
        NotificationCommand::Create { name, url, secret_file, events } => {
            let secret = secret(secret_file.as_deref())?;
            let body = json!({ "name": name, "url": url, "secret": secret, "events": events });
            let made = session.wait("setting it up", client.post("/notifications", &body)).await?;
            session.output.document(&made, |made| {
                format!(
                    "Notification {} is set up.\nTry it: runnerctl notification test {0}\n",
                    table::text(made, "/name")
                )
            })
        }
        NotificationCommand::List => {
            let list = session.wait("listing notifications", client.get("/notifications")).await?;
            session.output.document(&list, listed)
        }
        NotificationCommand::Remove { name } => {
            session.wait("removing the notification", client.delete(&at(&name, &[]))).await?;
            session.output.document(&Value::Null, |_| format!("Notification {} is removed.\n", escape::line(&name)))
        }
        NotificationCommand::Test { name } => {
            let told = session.wait("telling", client.post(&at(&name, &["test"]), &json!({}))).await?;
            session.output.document(&told, |told| {
                let id = table::text(told, "/id");
                format!(
                    "Notice {id} is on its way.\nWhat comes of it: runnerctl notification notices {}\n",
                    escape::line(&name)
                )
            })
        }
        NotificationCommand::Notices { name, limit } => {
            let at = path(&["notifications", &name, "notices"], &[("limit", &limit.to_string())]);
            let list = session.wait("asking", client.get(&at)).await?;
            session.output.document(&list, notices)
        }
    }
}

/// From a file, or standard input: never from an argument, which others can read.
fn secret(file: Option<&Path>) -> Result<String, Failure> {
    let text = match file {
        Some(file) => config::read_text(file)?,
        None => {
            if terminal::can_ask() {
                eprintln!("The secret, and then the end of the input (Ctrl-D):");
            }
            let mut text = String::new();
            std::io::stdin()
                .take(SECRET_MAX)
                .read_to_string(&mut text)
                .map_err(|e| Code::InvalidArgument.on(format!("standard input: {e}")))?;
            text
        }
    };
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn listed(list: &Value) -> String {
    let rows = table::items(list).iter().map(|one| {
        let events = one["events"].as_array().map_or(&[][..], Vec::as_slice);
        let events = events.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
        vec![table::text(one, "/name"), table::text(one, "/host"), events, table::text(one, "/created_by")]
    });
    table::rows(&["NAME", "HOST", "EVENTS", "BY"], rows, "Nobody is told of anything.")
}

fn notices(list: &Value) -> String {
    let rows = table::items(list).iter().map(|one| {
        let state = match (one["told_at_ms"].is_null(), one["next_at_ms"].is_null()) {
            (false, _) => "told",
            (true, false) => "waits",
            (true, true) => "given up",
        };
        vec![
            table::moment(one, "/created_at_ms"),
            table::text(one, "/event"),
            state.to_owned(),
            table::text(one, "/tries"),
            table::text(one, "/said"),
            table::text(one, "/id"),
        ]
    });
    table::rows(&["CREATED", "EVENT", "STATE", "TRIES", "SAID", "ID"], rows, "Nothing was told.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_notifications() {
        let list = json!({ "items": [{ "name": "chat", "host": "hooks.example.com", "events": ["job_failed"], "created_by": "ann" }] });
        assert!(listed(&list).contains("hooks.example.com"));
        let told = json!({ "items": [
            { "id": "ntc_1", "event": "test", "created_at_ms": 1, "tries": 1, "told_at_ms": 2, "next_at_ms": null, "said": "HTTP 200" },
            { "id": "ntc_2", "event": "test", "created_at_ms": 1, "tries": 6, "told_at_ms": null, "next_at_ms": null, "said": "HTTP 500" },
            { "id": "ntc_3", "event": "test", "created_at_ms": 1, "tries": 0, "told_at_ms": null, "next_at_ms": 1, "said": null },
        ] });
        let text = notices(&told);
        for part in ["told", "given up", "waits", "HTTP 500"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_secret_is_read_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        std::fs::write(&file, "0123456789abcdef\r\n").expect("writes");
        assert_eq!(secret(Some(&file)).as_deref(), Ok("0123456789abcdef"));
    }
}
