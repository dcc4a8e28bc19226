//! `deploy`: from a folder or a Git repository to infrastructure, in one command.

use super::Session;
use super::follow::{self, Approval};
use super::stack::{self, ENGINES, OptionalGit, Options};
use crate::archive::{self, Limits, Packed};
use crate::client::{file_body, path};
use crate::output::{progress, table};
use crate::stop::{Done, Stop};
use serde_json::{Value, json};
use shared_proto::failure::Code;
use std::path::{Path, PathBuf};

/// `deploy`
///
/// Without a terminal and without --auto-approve the job is left awaiting approval, and the exit code is 75.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("from").required(true).args(["dir", "url", "stack"]))]
pub(crate) struct Deploy {
    /// The folder with the code; a .runnerignore in it names what stays out
    dir: Option<PathBuf>,
    #[command(flatten)]
    git: OptionalGit,
    /// A stack as it is, with the source that it has
    #[arg(long, value_name = "NAME", conflicts_with_all = ["name"])]
    stack: Option<String>,
    /// The stack's name; the folder's by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The engine; what the stack has, opentofu for a new one
    #[arg(long, value_parser = ENGINES)]
    engine: Option<String>,
    #[command(flatten)]
    options: Options,
    /// Apply without asking
    #[arg(long)]
    auto_approve: bool,
    /// What to do
    #[arg(long, value_parser = ["update", "preview", "destroy", "refresh"], default_value = "update")]
    kind: String,
    /// Start the job and do not follow it
    #[arg(long)]
    detach: bool,
}

/// `deploy`
pub(crate) async fn run(command: Deploy, session: &Session) -> Done {
    let note = "no job was started";
    let job = session.interrupt.guard(note, start(&command, session)).await?;
    let id = table::text(&job, "/id");
    if command.detach {
        return session.output.document(&job, |_| format!("Job {id} started.\nFollow it: runnerctl job watch {id}\n"));
    }
    eprintln!("· job {id}");
    follow::follow(session, &id, Approval::Ask).await
}

/// Makes the stack what was asked for and starts the job.
async fn start(command: &Deploy, session: &Session) -> Done<Value> {
    let client = &session.client;
    let (name, source) = match (&command.stack, &command.dir, &command.git.url) {
        (Some(name), ..) => (name.clone(), None),
        (None, Some(dir), _) => {
            let name = command.name.clone().or_else(|| archive::name_of(dir)).ok_or_else(|| {
                Code::InvalidArgument
                    .on(format!("{} gives no name for a stack", dir.display()))
                    .next("Give the stack a name with --name.")
            })?;
            (name, Some(upload(session, dir).await?))
        }
        (None, None, Some(url)) => {
            let name = command.name.clone().ok_or_else(|| {
                Code::InvalidArgument
                    .on("a deployment from Git needs a name for its stack")
                    .next("Give the stack a name with --name.")
            })?;
            (name, Some(stack::git(url, command.git.reference.as_deref().unwrap_or_default())))
        }
        (None, None, None) => return Err(Stop::Exit(crate::stop::USAGE)),
    };
    let mut job = json!({ "kind": command.kind, "approve_automatically": command.auto_approve });
    let at = path(&["stacks", &name], &[]);
    match client.find(&at).await? {
        None if command.stack.is_some() => {
            return Err(Code::NotFound
                .on(format!("there is no stack {name:?}"))
                .next("Run `runnerctl stack list`.")
                .into());
        }
        // only an update makes the source the stack's own; the others look at it, or undo what is there
        Some(_) if command.kind != "update" => {
            if let Some(source) = source {
                job["source"] = source;
            }
            if let Some(variables) = command.options.variables()? {
                job["variables"] = variables;
            }
        }
        existing => {
            let mut body = existing.as_ref().map_or_else(
                || json!({ "name": name, "engine": "opentofu", "variables": {}, "connections": [] }),
                stack::writable,
            );
            if let Some(source) = source {
                body["source"] = source;
            }
            if let Some(engine) = &command.engine {
                body["engine"] = engine.as_str().into();
            }
            command.options.apply(&mut body, session.runner.as_deref())?;
            match existing {
                Some(_) => client.put(&at, &body).await?,
                None => client.post("/stacks", &body).await?,
            };
        }
    }
    Ok(client.post(&path(&["stacks", &name, "jobs"], &[]), &job).await?)
}

/// Packs the folder and sends it, unless the control plane has that very content.
async fn upload(session: &Session, dir: &Path) -> Done<Value> {
    let spinner = progress::spinner(format!("packing {}", dir.display()));
    let folder = dir.to_owned();
    let packed = tokio::task::spawn_blocking(move || archive::pack(&folder, Limits::default())).await;
    spinner.finish_and_clear();
    let Packed { file, sha256, size, entries } =
        packed.map_err(|e| Code::Internal.on(format!("packing {}: {e}", dir.display())))??;
    let at = path(&["archives", &sha256], &[]);
    if session.client.exists(&at).await? {
        eprintln!("· source: {entries} entries, unchanged");
    } else {
        let bar = progress::bytes(size, "uploading");
        let counted = bar.clone();
        let body = file_body(file, move |sent| counted.inc(sent));
        let sent = session.client.upload(&at, size, body).await;
        bar.finish_and_clear();
        sent?;
        eprintln!("· source: {entries} entries, {size} bytes uploaded");
    }
    Ok(json!({ "archive": { "sha256": sha256, "size": size } }))
}
