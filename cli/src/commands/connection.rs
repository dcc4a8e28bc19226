//! `connection`: named targets behind a runner. Also finds the connection that a command means.

use super::Session;
use crate::client::path;
use crate::output::table;
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};

/// `connection`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConnectionCommand {
    /// Create one
    Create {
        /// Its name
        name: String,
        /// What it reaches
        #[arg(long, value_parser = super::resources::PROVIDERS)]
        provider: String,
        /// Its entry in the runner's configuration; its own name by default
        #[arg(long, value_name = "NAME")]
        entry: Option<String>,
    },
    /// All connections
    List,
    /// One connection
    Show {
        /// The connection
        name: String,
    },
    /// Remove one; nothing changes at its target
    Delete {
        /// The connection
        name: String,
    },
    /// Who the connection's credentials are at its target
    Whoami {
        /// The connection
        name: String,
        /// Of AWS: the region that is asked
        #[arg(long, visible_alias = "region", value_name = "PLACE")]
        place: Option<String>,
    },
    /// Where its resources are: regions, projects, subscriptions, namespaces
    Places {
        /// The connection
        name: String,
    },
    /// Reach the target and say who the connection's credentials are there
    Test {
        /// The connection
        name: String,
    },
}

/// `connection …`
pub(crate) async fn run(command: ConnectionCommand, session: &Session) -> Done {
    let client = &session.client;
    match command {
        ConnectionCommand::Create { name, provider, entry } => {
            let mut body = json!({ "name": name, "provider": provider });
            if let Some(runner) = &session.runner {
                body["runner"] = runner.as_str().into();
            }
            if let Some(entry) = entry {
                body["entry"] = entry.into();
            }
            let made = session.wait("creating", client.post("/connections", &body)).await?;
            session.output.document(&made, |made| {
                let name = table::text(made, "/name");
                format!(
                    "Connection {name} created; its entry in the runner's configuration: [connections.{}].\nNow: runnerctl \
                     connection test {name}\n",
                    table::text(made, "/entry")
                )
            })
        }
        ConnectionCommand::List => {
            let list = session.wait("listing connections", client.get("/connections")).await?;
            session.output.document(&list, |list| {
                let rows = table::items(list).iter().map(row);
                table::rows(&["NAME", "PROVIDER", "RUNNER", "ENTRY", "CREATED"], rows, "No connections.")
            })
        }
        ConnectionCommand::Show { name } => {
            let one = session.wait("asking", client.get(&path(&["connections", &name], &[]))).await?;
            session.output.document(&one, |one| {
                let [name, provider, runner, entry, created] = cells(one);
                let id = table::text(one, "/id");
                table::fields([
                    ("name", name),
                    ("id", id),
                    ("provider", provider),
                    ("runner", runner),
                    ("entry", entry),
                    ("created", created),
                ])
            })
        }
        ConnectionCommand::Delete { name } => {
            session.wait("removing", client.delete(&path(&["connections", &name], &[]))).await?;
            session.output.document(&json!({ "deleted": name }), |_| format!("Connection {name} removed.\n"))
        }
        ConnectionCommand::Whoami { name, place } => {
            let at = path(&["connections", &name, "identity"], &session.query([("place", place.as_deref())]));
            let who = session.wait("asking", client.get(&at)).await?;
            session.output.document(&who, |who| {
                table::fields([
                    ("provider", table::text(who, "/provider")),
                    ("principal", table::text(who, "/principal")),
                    ("id", table::text(who, "/id")),
                    ("account", table::text(who, "/account")),
                    ("place", table::text(who, "/place")),
                ])
            })
        }
        ConnectionCommand::Places { name } => {
            let at = path(&["connections", &name, "places"], &session.query([]));
            let list = session.wait("asking", client.get(&at)).await?;
            session.output.document(&list, |list| {
                let rows = table::items(list)
                    .iter()
                    .map(|p| ["/name", "/kind", "/title", "/state"].map(|pointer| table::text(p, pointer)).into());
                table::rows(&["NAME", "KIND", "TITLE", "STATE"], rows, "No places.")
            })
        }
        ConnectionCommand::Test { name } => {
            let at = path(&["connections", &name, "test"], &session.query([]));
            let report = session.wait("testing the connection", client.post(&at, &json!({}))).await?;
            session.output.document(&report, |report| {
                table::fields([
                    ("provider", table::text(report, "/provider")),
                    ("identity", table::text(report, "/identity")),
                    ("version", table::text(report, "/version")),
                ])
            })
        }
    }
}

fn row(connection: &Value) -> Vec<String> {
    cells(connection).into()
}
fn cells(connection: &Value) -> [String; 5] {
    let runner = match table::text(connection, "/runner") {
        runner if runner.is_empty() => "(default)".into(),
        runner => runner,
    };
    [
        table::text(connection, "/name"),
        table::text(connection, "/provider"),
        runner,
        table::text(connection, "/entry"),
        table::moment(connection, "/created_at_ms"),
    ]
}

/// The connection that is meant: the one named, else the only one of that provider.
pub(crate) async fn choose(session: &Session, named: Option<&str>, provider: &str) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let list = session.client.get("/connections").await?;
    let fitting: Vec<&str> =
        table::items(&list).iter().filter(|c| c["provider"] == provider).filter_map(|c| c["name"].as_str()).collect();
    match fitting[..] {
        [one] => Ok(one.to_owned()),
        [] => Err(Code::NotFound
            .on(format!("there is no {provider} connection"))
            .next(format!("Run `runnerctl connection create NAME --provider {provider}`."))),
        _ => Err(Code::InvalidArgument
            .on(format!("there are {} {provider} connections: {}", fitting.len(), fitting.join(", ")))
            .next("Name one with --connection, or in RUNNERCTL_CONNECTION.")),
    }
}
