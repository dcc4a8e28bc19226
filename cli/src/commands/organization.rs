//! `organization` and `user`.

use super::Session;
use crate::client::path;
use crate::output::table;
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::Failure;

/// `organization`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum OrganizationCommand {
    /// Create one
    Create {
        /// Its name
        name: String,
    },
    /// All that you may see
    List,
}

/// `user`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Create one; its token is shown once
    Create {
        /// The user's name
        name: String,
        /// What the user may do
        #[arg(long, value_parser = ["admin", "owner", "member"], default_value = "member")]
        role: String,
        /// A group that the user is in, as runners are told it: for their policy and for clusters that know the user; more than once for more
        #[arg(long = "group", value_name = "NAME")]
        groups: Vec<String>,
        /// Of which organization; yours by default
        #[arg(long, value_name = "NAME")]
        organization: Option<String>,
    },
    /// Users of an organization
    List {
        /// Of which organization; yours by default
        #[arg(long, value_name = "NAME")]
        organization: Option<String>,
    },
}

/// `organization …`
pub(crate) async fn organization(command: OrganizationCommand, session: &Session) -> Done {
    let client = &session.client;
    match command {
        OrganizationCommand::Create { name } => {
            let made = session.wait("creating", client.post("/organizations", &json!({ "name": name }))).await?;
            session.output.document(&made, |made| {
                format!("Organization {} created ({}).\n", table::text(made, "/name"), table::text(made, "/id"))
            })
        }
        OrganizationCommand::List => {
            let list = session.wait("listing organizations", client.get("/organizations")).await?;
            session.output.document(&list, |list| {
                let rows = table::items(list)
                    .iter()
                    .map(|o| vec![table::text(o, "/name"), table::text(o, "/id"), table::moment(o, "/created_at_ms")]);
                table::rows(&["NAME", "ID", "CREATED"], rows, "No organizations.")
            })
        }
    }
}

/// `user …`
pub(crate) async fn user(command: UserCommand, session: &Session) -> Done {
    match command {
        UserCommand::Create { name, role, groups, organization } => {
            let work = async {
                let at = users(session, organization).await?;
                session.client.post(&at, &json!({ "name": name, "role": role, "groups": groups })).await
            };
            let made = session.wait("creating", work).await?;
            session.output.document(&made, |made| {
                format!(
                    "User {} created ({}). The token, shown this once:\n{}\n",
                    table::text(made, "/name"),
                    table::text(made, "/role"),
                    table::text(made, "/token")
                )
            })
        }
        UserCommand::List { organization } => {
            let work = async { session.client.get(&users(session, organization).await?).await };
            let list = session.wait("listing users", work).await?;
            session.output.document(&list, |list| {
                let rows = table::items(list)
                    .iter()
                    .map(|u| vec![table::text(u, "/name"), table::text(u, "/role"), groups(u), table::text(u, "/id")]);
                table::rows(&["NAME", "ROLE", "GROUPS", "ID"], rows, "No users.")
            })
        }
    }
}

fn groups(user: &Value) -> String {
    let groups = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
    groups.collect::<Vec<_>>().join(",")
}

async fn users(session: &Session, organization: Option<String>) -> Result<String, Failure> {
    let organization = named(session, organization).await?;
    Ok(path(&["organizations", &organization, "users"], &[]))
}

/// The organization that was named, else the caller's own.
pub(crate) async fn named(session: &Session, organization: Option<String>) -> Result<String, Failure> {
    match organization {
        Some(name) => Ok(name),
        None => {
            let who: Value = session.client.get("/whoami").await?;
            Ok(table::text(&who, "/organization/id"))
        }
    }
}
