//! `aws`: who we are there, regions, resources; and AWS' own clients through the connection.

use super::{Session, aws_proxy, connection};
use crate::args::pair;
use crate::client::path;
use crate::output::{Format, table};
use crate::stop::Done;
use serde_json::Value;
use std::ffi::OsString;

/// `aws`
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    override_usage = "runnerctl aws [OPTIONS] <COMMAND>\n       runnerctl aws [OPTIONS] -- <WORDS OF THE AWS CLI>...",
    after_help = "After `--` the AWS CLI runs with these words, through the connection: runnerctl aws -C account -- s3 ls\nIt needs no credentials on \
                  this machine, and its exit code is runnerctl's; 125 where runnerctl itself fails."
)]
pub(crate) struct Aws {
    /// The connection to the account; may be left out where there is one only
    #[arg(short = 'C', long, global = true, env = "RUNNERCTL_CONNECTION", value_name = "NAME")]
    connection: Option<String>,
    /// The region; the connection's own by default
    #[arg(long, global = true, value_name = "REGION")]
    region: Option<String>,
    #[command(subcommand)]
    command: Option<AwsCommand>,
    /// The AWS CLI with these words, through the connection
    #[arg(last = true, value_name = "WORDS OF THE AWS CLI")]
    words: Vec<OsString>,
}

/// `aws …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AwsCommand {
    /// Who the connection's credentials are
    Whoami,
    /// The account's regions
    Regions,
    /// Resources: of one type through Cloud Control, or all tagged ones
    Resources {
        /// A Cloud Control type, such as AWS::S3::Bucket
        #[arg(long = "type", value_name = "TYPE")]
        type_name: Option<String>,
        /// Only with this tag; may be given several times
        #[arg(long = "tag", value_parser = pair, value_name = "KEY=VALUE")]
        tags: Vec<(String, String)>,
        /// At most so many
        #[arg(long, value_name = "NUMBER")]
        limit: Option<u32>,
    },
    /// One resource with its properties
    Resource {
        /// Its Cloud Control type
        #[arg(long = "type", value_name = "TYPE")]
        type_name: String,
        /// Its primary identifier
        identifier: String,
    },
    /// A shell, or a program, whose clients of AWS go through the connection
    Shell {
        /// The program and its arguments, after `--`; a shell where there is none
        #[arg(last = true, value_name = "PROGRAM")]
        words: Vec<OsString>,
    },
}

// === impl Aws ===

impl Aws {
    /// Whether it runs a program, whose the signals of the terminal are.
    pub(crate) fn runs_a_program(&self) -> bool {
        matches!(self.command, None | Some(AwsCommand::Shell { .. }))
    }
}

/// `aws …`
pub(crate) async fn run(command: Aws, session: &Session) -> Done {
    let ask = async |what: &str, query: Vec<(&str, Option<&str>)>| {
        let own = query.into_iter().chain([("region", command.region.as_deref())]);
        let query = session.query(own);
        let chosen = connection::choose(session, command.connection.as_deref(), "aws").await?;
        session.client.get(&path(&["connections", &chosen, "aws", what], &query)).await
    };
    let program = async |words: &[OsString]| {
        let chosen = connection::choose(session, command.connection.as_deref(), "aws").await?;
        aws_proxy::run(session, &chosen, command.region.as_deref(), words).await
    };
    let Some(asked) = &command.command else {
        return program(&aws_proxy::of_the_cli(&command.words)).await;
    };
    match asked {
        AwsCommand::Shell { words } => program(words).await,
        AwsCommand::Whoami => {
            let who = session.wait("asking", ask("identity", vec![])).await?;
            session.output.document(&who, |who| {
                table::fields([
                    ("account", table::text(who, "/account")),
                    ("arn", table::text(who, "/arn")),
                    ("user id", table::text(who, "/user_id")),
                ])
            })
        }
        AwsCommand::Regions => {
            let list = session.wait("listing regions", ask("regions", vec![])).await?;
            session.output.document(&list, |list| {
                let rows =
                    table::items(list).iter().map(|r| vec![table::text(r, "/name"), table::text(r, "/opt_in_status")]);
                table::rows(&["NAME", "OPT-IN"], rows, "No regions.")
            })
        }
        AwsCommand::Resources { type_name, tags, limit } => {
            let tags: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let limit = limit.map(|n| n.to_string());
            let mut query = vec![("type", type_name.as_deref()), ("limit", limit.as_deref())];
            query.extend(tags.iter().map(|tag| ("tag", Some(tag.as_str()))));
            let list = session.wait("listing resources", ask("resources", query)).await?;
            if list["truncated"] == true {
                eprintln!("note: there are more; raise --limit or narrow it");
            }
            let wide = session.output.format == Format::Wide;
            session.output.document(&list, |list| resources(list, wide))
        }
        AwsCommand::Resource { type_name, identifier } => {
            let query = vec![("type", Some(type_name.as_str())), ("identifier", Some(identifier.as_str()))];
            let one = session.wait("asking", ask("resource", query)).await?;
            session.output.document(&one, |one| {
                let mut text = table::fields([
                    ("type", table::text(one, "/type_name")),
                    ("identifier", table::text(one, "/identifier")),
                    ("region", table::text(one, "/region")),
                    ("tags", tags_of(one)),
                ]);
                if !one["properties"].is_null() {
                    text.push_str(&serde_json::to_string_pretty(&one["properties"]).unwrap_or_default());
                    text.push('\n');
                }
                text
            })
        }
    }
}

fn tags_of(resource: &Value) -> String {
    resource["tags"].as_object().map_or_else(String::new, |tags| {
        tags.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
    })
}

fn resources(list: &Value, wide: bool) -> String {
    let mut header = vec!["TYPE", "IDENTIFIER", "REGION"];
    if wide {
        header.push("TAGS");
    }
    let rows = table::items(list).iter().map(|r| {
        let mut row = vec![table::text(r, "/type_name"), table::text(r, "/identifier"), table::text(r, "/region")];
        if wide {
            row.push(tags_of(r));
        }
        row
    });
    table::rows(&header, rows, "No resources found.")
}
