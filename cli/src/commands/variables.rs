//! `variables`: sets of variables that several stacks share.

use super::Session;
use super::stack::{put_over, refers};
use crate::client::path;
use crate::output::{escape, table};
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::Code;

/// `variables`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum VariablesCommand {
    /// Put variables into a set, which is made where there is none; others in it stay
    Set {
        /// The set
        set: String,
        #[command(flatten)]
        variables: super::stack::Variables,
    },
    /// What is in a set
    Show {
        /// The set
        set: String,
    },
    /// All sets
    List,
    /// Take variables out of a set; without any, remove the set
    Remove {
        /// The set
        set: String,
        /// The variables
        names: Vec<String>,
    },
}

/// `variables …`
pub(crate) async fn run(command: VariablesCommand, session: &Session) -> Done {
    let client = &session.client;
    let at = |set: &str| path(&["variable-sets", set], &[]);
    match command {
        VariablesCommand::Set { set, variables } => {
            let (values, references) = (variables.values()?, variables.references());
            if values.is_none() && references.is_none() {
                return Err(Code::InvalidArgument
                    .on("nothing is to be put into the set")
                    .next("Give --var NAME=VALUE, --var-file FILE or --secret NAME=STORE:PATH.")
                    .into());
            }
            let work = async {
                let found = client.find(&at(&set)).await?.unwrap_or_default();
                let mut body = contents(&found);
                for (kind, given) in [("variables", values), ("secrets", references)] {
                    if let Some(given) = given {
                        put_over(&mut body, kind, &given);
                    }
                }
                client.put(&at(&set), &body).await
            };
            let changed = session.wait("changing", work).await?;
            session.output.document(&changed, shown)
        }
        VariablesCommand::Show { set } => {
            let found = session.wait("asking", client.get(&at(&set))).await?;
            session.output.document(&found, shown)
        }
        VariablesCommand::List => {
            let list = session.wait("listing sets", client.get("/variable-sets")).await?;
            session.output.document(&list, |list| {
                let rows = table::items(list).iter().map(|set| {
                    let count = |at: &str| set[at].as_object().map_or(0, serde_json::Map::len).to_string();
                    vec![
                        table::text(set, "/name"),
                        count("variables"),
                        count("secrets"),
                        table::text(set, "/changed_by"),
                        table::moment(set, "/changed_at_ms"),
                    ]
                });
                table::rows(&["NAME", "VALUES", "SECRETS", "CHANGED BY", "CHANGED"], rows, "No sets of variables.")
            })
        }
        VariablesCommand::Remove { set, names } if names.is_empty() => {
            session.wait("removing", client.delete(&at(&set))).await?;
            session.output.document(&Value::Null, |_| format!("The set {set} is removed.\n"))
        }
        VariablesCommand::Remove { set, names } => {
            let work = async {
                let mut body = contents(&client.get(&at(&set)).await?);
                for name in &names {
                    let mut had = false;
                    for kind in ["variables", "secrets"] {
                        had |= body[kind].as_object_mut().is_some_and(|all| all.remove(name).is_some());
                    }
                    if !had {
                        return Err(Code::NotFound.on(format!("the set {set} has no variable {name}")));
                    }
                }
                client.put(&at(&set), &body).await
            };
            let changed = session.wait("changing", work).await?;
            session.output.document(&changed, shown)
        }
    }
}

/// Of a set as it was read, what can be written again.
fn contents(set: &Value) -> Value {
    let part = |name: &str| if set[name].is_object() { set[name].clone() } else { json!({}) };
    json!({ "variables": part("variables"), "secrets": part("secrets") })
}

fn shown(set: &Value) -> String {
    let values = set["variables"].as_object().into_iter().flatten();
    let values =
        values.map(|(name, value)| vec![escape::line(name), "value".to_owned(), escape::line(&value.to_string())]);
    let secrets = set["secrets"].as_object().into_iter().flatten();
    let secrets =
        secrets.map(|(name, secret)| vec![escape::line(name), "secret".to_owned(), escape::line(&refers(secret))]);
    table::rows(&["NAME", "KIND", "VALUE"], values.chain(secrets), "The set is empty.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_shown_with_what_it_refers_to() {
        let set = json!({"name": "s", "variables": {"a": [1], "b": "x\u{1b}[31m"}, "secrets": {"c": {"from": "v", "path": "p/q", "key": "k"}}});
        let text = shown(&set);
        for part in ["[1]", "v:p/q#k"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(contents(&set)["secrets"], set["secrets"]);
        assert_eq!(contents(&Value::Null), json!({"variables": {}, "secrets": {}}));
    }
}
