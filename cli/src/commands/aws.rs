//! `aws`: AWS' own clients through a connection.

use super::{Session, aws_proxy, connection};
use crate::client::path;
use crate::stop::{Done, Stop};
use shared_proto::failure::Code;
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
    let program = async |words: &[OsString]| {
        let chosen = connection::choose(session, command.connection.as_deref(), "aws").await?;
        // before any client runs into it, which would not show why
        let known = session.client.get(&path(&["connections", &chosen], &[])).await;
        let known = known.map_err(|failure| Stop::from(failure).of_exec())?;
        if known["provider"] != "aws" {
            let provider = known["provider"].as_str().unwrap_or_default();
            let wrong = Code::WrongProvider
                .on(format!("the connection {chosen} is of the provider {provider}"))
                .next("Name a connection to AWS; `runnerctl connection list` has them.");
            return Err(Stop::from(wrong).of_exec());
        }
        aws_proxy::run(session, &chosen, command.region.as_deref(), words).await
    };
    let Some(asked) = &command.command else {
        return program(&aws_proxy::of_the_cli(&command.words)).await;
    };
    match asked {
        AwsCommand::Shell { words } => program(words).await,
    }
}
