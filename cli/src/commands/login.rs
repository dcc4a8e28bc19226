//! `login`, `context`, `whoami`.

use super::Session;
use crate::args::Global;
use crate::client::Client;
use crate::config::{self, ConfigFile, Context};
use crate::interrupt::Interrupt;
use crate::output::{Output, table};
use crate::stop::Done;
use crate::terminal;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::path::Path;

/// `login`
#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// The control plane's API: https://HOST:PORT
    url: String,
    /// The name to save it under; that of --context, or `default`, where there is none
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `context`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContextCommand {
    /// What is saved
    List,
    /// Make one the current one
    Use {
        /// Its name
        name: String,
    },
    /// Forget one, with its token
    Remove {
        /// Its name
        name: String,
    },
}

/// Tries the token, then saves it: from `--token-file`, else from the terminal or standard input.
pub(crate) async fn login(command: Login, global: &Global, interrupt: &Interrupt) -> Done {
    let ca = global.ca_file.as_ref().map(|path| config::read_text(path)).transpose()?;
    let token = match &global.token_file {
        Some(path) => config::read_token(path)?,
        None => {
            let asked = tokio::task::spawn_blocking(|| terminal::ask_secret("Token:"));
            let text = interrupt
                .guard("nothing was saved", async {
                    asked
                        .await
                        .map_err(std::io::Error::other)
                        .and_then(|asked| asked)
                        .map_err(|e| Code::InvalidArgument.on(format!("standard input: {e}")).into())
                })
                .await?;
            config::token(&text)?
        }
    };
    let context = Context { endpoint: command.url.trim_end_matches('/').to_owned(), ca, token };
    let path = ConfigFile::path()?;
    let name = command.name.as_deref().or(global.context.as_deref()).unwrap_or("default");
    let who = interrupt.guard("nothing was saved", async { Ok(enter(context, name, &path).await?) }).await?;
    Output::new(global.output).document(&who, |who| {
        format!(
            "Logged in as {} ({}) of organization {}; saved as context {} in {}.\n",
            table::text(who, "/user/name"),
            table::text(who, "/user/role"),
            table::text(who, "/organization/name"),
            name,
            path.display()
        )
    })
}

/// Tries the token, saves the context and makes it the current one; gives who we are.
pub(crate) async fn enter(context: Context, name: &str, path: &Path) -> Result<Value, Failure> {
    let who = Client::new(&context)?.get("/whoami").await.map_err(|failure| match failure.code {
        // it is what was just done
        Code::Unauthenticated => {
            failure.next("Check that the token is this control plane's and has not expired, or have a new one made.")
        }
        _ => failure,
    })?;
    let mut file = ConfigFile::load(path)?;
    file.contexts.insert(name.to_owned(), context);
    file.current = Some(name.to_owned());
    file.save(path)?;
    Ok(who)
}

/// `context …`: local, no token is shown.
pub(crate) fn context(command: ContextCommand, output: Output) -> Done {
    let path = ConfigFile::path()?;
    let mut file = ConfigFile::load(&path)?;
    let unknown =
        |name: &str| Code::NotFound.on(format!("there is no context {name:?}")).next("Run `runnerctl context list`.");
    match command {
        ContextCommand::List => {
            let items: Vec<Value> = file
                .contexts
                .iter()
                .map(|(name, c)| json!({"name": name, "endpoint": c.endpoint, "current": file.current.as_ref() == Some(name)}))
                .collect();
            output.document(&json!({ "items": items }), |list| {
                let rows = table::items(list).iter().map(|c| {
                    vec![
                        if c["current"] == true { "*".to_owned() } else { String::new() },
                        table::text(c, "/name"),
                        table::text(c, "/endpoint"),
                    ]
                });
                table::rows(&["CURRENT", "NAME", "ENDPOINT"], rows, "No context is saved. Run `runnerctl login URL`.")
            })
        }
        ContextCommand::Use { name } => {
            if !file.contexts.contains_key(&name) {
                return Err(unknown(&name).into());
            }
            file.current = Some(name);
            Ok(file.save(&path)?)
        }
        ContextCommand::Remove { name } => {
            if file.contexts.remove(&name).is_none() {
                return Err(unknown(&name).into());
            }
            if file.current.as_ref() == Some(&name) {
                file.current = None;
            }
            Ok(file.save(&path)?)
        }
    }
}

/// `whoami`
pub(crate) async fn whoami(session: &Session) -> Done {
    let who = session.wait("whoami", session.client.get("/whoami")).await?;
    session.output.document(&who, |who| {
        table::fields([
            ("user", table::text(who, "/user/name")),
            ("role", table::text(who, "/user/role")),
            ("organization", table::text(who, "/organization/name")),
            ("control plane", table::text(who, "/control_plane/version")),
        ])
    })
}
