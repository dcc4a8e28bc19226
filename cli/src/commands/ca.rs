//! `ca`: the issuing CAs of an organization.

use super::Session;
use crate::client::path;
use crate::output::table;
use crate::stop::Done;
use serde_json::{Value, json};

/// `ca`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CaCommand {
    /// The issuing CAs: the one that issues, and those before it
    List {
        /// Of which organization; yours by default
        #[arg(long, value_name = "NAME")]
        organization: Option<String>,
    },
    /// Have a new CA issue from now on. What the one before has issued is good to its end: nothing is to be done on runners
    Rotate {
        /// Of which organization; yours by default
        #[arg(long, value_name = "NAME")]
        organization: Option<String>,
    },
}

/// `ca …`
pub(crate) async fn run(command: CaCommand, session: &Session) -> Done {
    match command {
        CaCommand::List { organization } => {
            let work = async {
                let organization = super::organization::named(session, organization).await?;
                session.client.get(&path(&["organizations", &organization, "ca"], &[])).await
            };
            let list = session.wait("listing issuing CAs", work).await?;
            session.output.document(&list, issuers)
        }
        CaCommand::Rotate { organization } => {
            let work = async {
                let organization = super::organization::named(session, organization).await?;
                session.client.post(&path(&["organizations", &organization, "ca", "rotate"], &[]), &json!({})).await
            };
            let list = session.wait("rotating", work).await?;
            session.output.document(&list, |list| {
                format!("Issuing CA {} issues from now on.\n{}", table::text(list, "/items/0/serial"), issuers(list))
            })
        }
    }
}

fn issuers(list: &Value) -> String {
    let rows = table::items(list).iter().map(|ca| {
        let retired = ca["retired_at_ms"].is_i64();
        vec![
            table::text(ca, "/serial"),
            if retired { "retired".into() } else { "issues".into() },
            table::moment(ca, "/created_at_ms"),
            if retired { table::moment(ca, "/retired_at_ms") } else { String::new() },
            table::moment(ca, "/not_after_ms"),
        ]
    });
    table::rows(&["SERIAL", "STATE", "CREATED", "RETIRED", "UNTIL"], rows, "No issuing CAs.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_issues_is_told_from_those_before() {
        let shown = issuers(&json!({"items": [
            {"serial": "b", "created_at_ms": 2, "retired_at_ms": null, "not_after_ms": 9},
            {"serial": "a", "created_at_ms": 1, "retired_at_ms": 2, "not_after_ms": 8},
        ]}));
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].starts_with('b') && lines[1].contains("issues"), "{shown}");
        assert!(lines[2].starts_with('a') && lines[2].contains("retired"), "{shown}");
    }
}
