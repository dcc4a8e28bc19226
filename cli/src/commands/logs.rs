//! `logs`: CloudWatch, Cloud Logging and Log Analytics through a runner.

use super::Session;
use super::outcome;
use crate::args::seconds;
use crate::client::{path, read_lines};
use crate::output::{Format, escape, table};
use crate::stop::Done;
use serde_json::Value;

/// `logs`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum LogsCommand {
    /// Where log lines are: groups, logs, workspaces; or what is in one: its streams, its tables
    List {
        #[command(flatten)]
        of: Of,
        /// What is in this one
        source: Option<String>,
        /// Whose names begin with this
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// At most so many
        #[arg(long, value_name = "NUMBER")]
        limit: Option<u32>,
    },
    /// Log lines, oldest first
    Read {
        #[command(flatten)]
        of: Of,
        /// Where they are, as `logs list` names it
        source: String,
        /// Of CloudWatch: only of this stream; may be given several times
        #[arg(long = "stream", value_name = "STREAM")]
        streams: Vec<String>,
        /// In the provider's own language: a filter pattern of CloudWatch, a filter of Cloud Logging, KQL
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// Not older than this: 30s, 5m, 1h; an hour by default
        #[arg(long, value_parser = seconds, value_name = "DURATION")]
        since: Option<u64>,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// At most so many, the newest
        #[arg(long, visible_alias = "tail", value_name = "NUMBER")]
        limit: Option<u32>,
    },
}

/// Whose.
#[derive(Debug, clap::Args)]
pub(crate) struct Of {
    /// The connection
    #[arg(short = 'C', long, env = "RUNNERCTL_CONNECTION", value_name = "NAME")]
    connection: String,
    /// The region, project or subscription; the connection's own by default
    #[arg(long, visible_aliases = ["region", "project", "subscription"], value_name = "PLACE")]
    place: Option<String>,
}

/// `logs …`
pub(crate) async fn run(command: LogsCommand, session: &Session) -> Done {
    match command {
        LogsCommand::List { of, source, prefix, limit } => {
            let limit = limit.map(|n| n.to_string());
            let query = session.query([
                ("place", of.place.as_deref()),
                ("source", source.as_deref()),
                ("prefix", prefix.as_deref()),
                ("limit", limit.as_deref()),
            ]);
            let at = path(&["connections", &of.connection, "log-sources"], &query);
            let list = session.wait("listing", session.client.get(&at)).await?;
            session.output.document(&list, sources)
        }
        LogsCommand::Read { of, source, streams, filter, since, follow, limit } => {
            let since = since.map(|s| {
                let ms = i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1000);
                shared_proto::now_ms().saturating_sub(ms).max(1).to_string()
            });
            let limit = limit.map(|n| n.to_string());
            let own = [
                ("place", of.place.as_deref()),
                ("source", Some(source.as_str())),
                ("filter", filter.as_deref()),
                ("since_ms", since.as_deref()),
                ("follow", follow.then_some("true")),
                ("limit", limit.as_deref()),
            ];
            let streams = streams.iter().map(|stream| ("stream", Some(stream.as_str())));
            let query = session.query(own.into_iter().chain(streams));
            let at = path(&["connections", &of.connection, "log-lines"], &query);
            session.interrupt.guard("the log is no longer followed; nothing goes on", read(&at, session)).await
        }
    }
}

async fn read(at: &str, session: &Session) -> Done {
    let answer = session.client.stream(at, &[("accept", "application/x-ndjson")]).await?;
    let ended = read_lines(answer, |line| match session.output.format {
        Format::Json | Format::Yaml => session.output.line(&line.to_string()),
        _ => session.output.line(&shown(&line)),
    })
    .await?;
    match ended {
        Some(trailer) => Ok(outcome::read(trailer.as_bytes()).map(|_| ())?),
        None => Err(outcome::missing().into()),
    }
}

/// Time, where it is from, how grave it is, and the text.
fn shown(line: &Value) -> String {
    let parts = ["/time", "/source", "/severity", "/message"].map(|pointer| table::text(line, pointer));
    parts.iter().filter(|p| !p.is_empty()).map(|p| escape::line(p.trim_end())).collect::<Vec<_>>().join(" ")
}

fn sources(list: &Value) -> String {
    if list["truncated"] == true {
        eprintln!("note: there are more; raise --limit or name a --prefix");
    }
    let rows = table::items(list).iter().map(|s| {
        let number = |pointer: &str| table::text(s, pointer);
        let kept = match number("/retention_days") {
            days if days.is_empty() => days,
            days => format!("{days} days"),
        };
        vec![number("/name"), number("/kind"), number("/last_at"), number("/bytes"), kept]
    });
    table::rows(&["NAME", "KIND", "NEWEST", "BYTES", "KEPT"], rows, "No logs.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_is_one_line_and_harmless() {
        let line = json!({"time": "2026-01-02T03:04:05.006Z", "source": "web", "message": "a\u{1b}[2J\nb\n"});
        assert_eq!(shown(&line), "2026-01-02T03:04:05.006Z web a^[[2J; b");
    }
}
