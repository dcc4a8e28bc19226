//! `stack`: named pieces of infrastructure, and what `deploy` shares of one: variables and engines.

use super::Session;
use super::source::{OptionalSource, Source, shown};
use crate::archive::NAME_MAX;
use crate::args::pair;
use crate::client::{Client, path};
use crate::config;
use crate::output::table;
use crate::stop::Done;
use serde_json::{Map, Value, json};
use shared_proto::failure::{Code, Failure};
use std::path::PathBuf;

/// The engines that a runner can have; where nothing else decides, the first is taken.
pub(crate) const ENGINES: [&str; 3] = ["opentofu", "terraform", "pulumi"];

/// The word for no version in particular.
const ANY: &str = "any";

/// `stack`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum StackCommand {
    /// Create one from a Git repository or a package (`deploy DIR` creates one from a folder)
    Create {
        /// Its name
        name: String,
        /// The engine; what the runner has, opentofu before terraform before pulumi
        #[arg(long, value_parser = ENGINES)]
        engine: Option<String>,
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        options: Options,
    },
    /// All stacks
    List,
    /// One stack with its last job
    Show {
        /// The stack
        name: String,
    },
    /// Change what is named, keep the rest
    Update {
        /// The stack
        name: String,
        /// The engine
        #[arg(long, value_parser = ENGINES)]
        engine: Option<String>,
        #[command(flatten)]
        source: OptionalSource,
        #[command(flatten)]
        options: Options,
    },
    /// Forget a stack (destroy what it made first: deploy --stack NAME --kind destroy)
    Delete {
        /// The stack
        name: String,
        /// Also where what it made was not destroyed: it stays
        #[arg(long)]
        force: bool,
    },
}

/// What belongs to a stack beside its source and engine.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The version of the engine: one version, or a constraint such as "~> 1.9.0"; "any" takes back what was asked for
    #[arg(long, value_name = "VERSION")]
    engine_version: Option<String>,
    /// The folder inside the source that is the root module
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// The workspace of the configuration, made where it has none of that name; "default": its default one
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// A variable's value; given variables replace the stack's
    #[arg(long = "var", value_parser = pair, value_name = "NAME=VALUE")]
    vars: Vec<(String, String)>,
    /// A JSON object of variables; --var goes over it
    #[arg(long = "var-file", value_name = "FILE")]
    var_files: Vec<PathBuf>,
    /// A secret variable that may be shorter than eight bytes: its value then stays in what jobs record; given names replace the stack's
    #[arg(long = "not-redacted", value_name = "NAME")]
    not_redacted: Vec<String>,
    /// A connection whose credentials the engine gets; may be given several times
    #[arg(long = "connection", value_name = "NAME")]
    connections: Vec<String>,
}

// === impl Options ===

impl Options {
    /// The variables, or none if none were given: then the stack's stay.
    pub(crate) fn variables(&self) -> Result<Option<Value>, Failure> {
        if self.vars.is_empty() && self.var_files.is_empty() {
            return Ok(None);
        }
        let mut all = Map::new();
        for file in &self.var_files {
            // a variable may be secret: the message says where, never what
            let parsed: Map<String, Value> = serde_json::from_str(&config::read_text(file)?).map_err(|e| {
                Code::InvalidArgument.on(format!(
                    "{} is not a JSON object (line {}, column {})",
                    file.display(),
                    e.line(),
                    e.column()
                ))
            })?;
            all.extend(parsed);
        }
        all.extend(self.vars.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))));
        Ok(Some(Value::Object(all)))
    }
    /// Puts the variables that may stay in what is recorded into a stack's or a job's document.
    pub(crate) fn mark(&self, document: &mut Value) {
        if !self.not_redacted.is_empty() {
            document["not_redacted"] = json!(self.not_redacted);
        }
    }
    /// Puts what was given into a stack's document.
    pub(crate) fn apply(&self, stack: &mut Value, runner: Option<&str>) -> Result<(), Failure> {
        match self.engine_version.as_deref() {
            None => {}
            Some(ANY) => stack["engine_version"] = Value::Null,
            Some(version) => stack["engine_version"] = version.into(),
        }
        if let Some(path) = &self.path {
            stack["path"] = path.as_str().into();
        }
        if let Some(workspace) = &self.workspace {
            stack["workspace"] = workspace.as_str().into();
        }
        if let Some(variables) = self.variables()? {
            stack["variables"] = variables;
        }
        self.mark(stack);
        if !self.connections.is_empty() {
            stack["connections"] = json!(self.connections);
        }
        if let Some(runner) = runner {
            stack["runner"] = runner.into();
        }
        Ok(())
    }
}

/// The engine of a new stack: the named one, else one that its runner has now. What a connected runner does not have is refused before
/// anything is sent to it; where nothing is connected nobody knows.
///
/// # Errors
/// The named runner is not there; `engine_missing`.
pub(crate) async fn engine_of_runner(
    client: &Client,
    runner: Option<&str>,
    named: Option<&str>,
) -> Result<&'static str, Failure> {
    let runner = match runner {
        Some(runner) => Some(client.get(&path(&["runners", runner], &[])).await?),
        None => table::items(&client.get("/runners").await?).iter().find(|r| r["default"] == true).cloned(),
    };
    let instances = runner.as_ref().and_then(|r| r["instances"].as_array()).map_or(&[][..], Vec::as_slice);
    let has = |engine: &str| {
        instances.iter().filter_map(|i| i["engines"].as_array()).flatten().any(|e| e.as_str() == Some(engine))
    };
    let wanted = |engine: &&str| named.is_none_or(|named| named == *engine);
    if let Some(engine) = ENGINES.into_iter().filter(wanted).find(|engine| has(engine)) {
        return Ok(engine);
    }
    if instances.is_empty() {
        return Ok(ENGINES.into_iter().find(wanted).unwrap_or(ENGINES[0]));
    }
    let name = runner.as_ref().map(|r| table::text(r, "/name")).unwrap_or_default();
    let found: Vec<_> = ENGINES.into_iter().filter(|engine| has(engine)).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Err(Code::EngineMissing.on(match named {
        Some(named) => format!("runner {name} has no {named}; of engines it has {found}"),
        None => format!("runner {name} has neither {}", ENGINES.join(" nor ")),
    }))
}

/// A name that the control plane takes for a new stack.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn checked_name(name: &str) -> Result<String, Failure> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-') && !name.ends_with('-')
    {
        return Ok(name.to_owned());
    }
    Err(Code::InvalidArgument
        .on(format!("{name:?} is no name for a stack"))
        .next(format!("Give --name 1 to {NAME_MAX} lower-case letters, digits or dashes, with no dash first or last.")))
}

/// Of a stack as it was read, what can be written again.
pub(crate) fn writable(stack: &Value) -> Value {
    let mut out = json!({});
    for name in [
        "name",
        "engine",
        "engine_version",
        "runner",
        "source",
        "path",
        "workspace",
        "variables",
        "not_redacted",
        "connections",
    ] {
        match stack.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => out[name] = value.clone(),
        }
    }
    out
}

/// `stack …`
pub(crate) async fn run(command: StackCommand, session: &Session) -> Done {
    let client = &session.client;
    let runner = session.runner.as_deref();
    match command {
        StackCommand::Create { name, engine, source, options } => {
            let source = source.value()?;
            let work = async {
                let engine = engine_of_runner(client, runner, engine.as_deref()).await?;
                let mut body = json!({ "name": name, "engine": engine, "source": source });
                options.apply(&mut body, runner)?;
                client.post("/stacks", &body).await
            };
            let made = session.wait("creating", work).await?;
            session.output.document(&made, |made| {
                format!("Stack {name} created ({}).\nNow: runnerctl deploy --stack {name}\n", table::text(made, "/id"))
            })
        }
        StackCommand::List => {
            let list = session.wait("listing stacks", client.get("/stacks")).await?;
            session.output.document(&list, |list| {
                let rows = table::items(list).iter().map(|s| {
                    vec![
                        table::text(s, "/name"),
                        table::text(s, "/engine"),
                        shown(s),
                        table::text(s, "/runner"),
                        table::text(s, "/last_job/phase"),
                        table::text(s, "/id"),
                    ]
                });
                table::rows(&["NAME", "ENGINE", "SOURCE", "RUNNER", "LAST JOB", "ID"], rows, "No stacks.")
            })
        }
        StackCommand::Show { name } => {
            let one = session.wait("asking", client.get(&path(&["stacks", &name], &[]))).await?;
            session.output.document(&one, |s| {
                let names = |at: &str| match s.pointer(at) {
                    Some(Value::Object(map)) => map.keys().cloned().collect::<Vec<_>>().join(", "),
                    Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
                    _ => String::new(),
                };
                table::fields([
                    ("name", table::text(s, "/name")),
                    ("id", table::text(s, "/id")),
                    ("engine", table::text(s, "/engine")),
                    ("engine version", table::text(s, "/engine_version")),
                    ("source", shown(s)),
                    ("path", table::text(s, "/path")),
                    ("workspace", table::text(s, "/workspace")),
                    ("runner", table::text(s, "/runner")),
                    ("variables", names("/variables")),
                    ("not redacted", names("/not_redacted")),
                    ("connections", names("/connections")),
                    ("last job", table::text(s, "/last_job/id")),
                    ("its phase", table::text(s, "/last_job/phase")),
                ])
            })
        }
        StackCommand::Update { name, engine, source, options } => {
            let at = path(&["stacks", &name], &[]);
            let source = source.value()?;
            let work = async {
                let mut body = writable(&client.get(&at).await?);
                if let Some(engine) = engine {
                    body["engine"] = engine.into();
                }
                if let Some(source) = source {
                    body["source"] = source;
                }
                options.apply(&mut body, runner)?;
                client.put(&at, &body).await
            };
            let changed = session.wait("changing", work).await?;
            session.output.document(&changed, |_| format!("Stack {name} changed.\n"))
        }
        StackCommand::Delete { name, force } => {
            let at = path(&["stacks", &name], &[]);
            let gone = session.wait("removing", client.delete_with(&at, &json!({ "force": force }))).await?;
            session.output.document(&gone, |gone| deleted(&name, force, gone))
        }
    }
}

/// What is left of a deleted stack.
fn deleted(name: &str, force: bool, gone: &Value) -> String {
    let mut text = format!("Stack {name} removed{}.\n", if force { "; what it made, if anything, stays" } else { "" });
    if !gone["state"].is_null() {
        text.push_str(&format!(
            "Its state stays where it was: in its backend, or, if it has none, in {} of the state directory of instance {} of runner {}.\n",
            table::text(gone, "/state/folder"),
            table::text(gone, "/state/instance_id"),
            table::text(gone, "/state/runner"),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_replace_and_merge() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("v.json");
        std::fs::write(&file, r#"{"a": [1], "b": "file"}"#).expect("writes");
        let options = |vars: &[(&str, &str)], files: &[PathBuf]| Options {
            engine_version: None,
            path: None,
            workspace: None,
            vars: vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            var_files: files.to_vec(),
            not_redacted: vec![],
            connections: vec![],
        };
        assert_eq!(options(&[], &[]).variables(), Ok(None));
        let all = options(&[("b", "flag")], std::slice::from_ref(&file)).variables();
        assert_eq!(all, Ok(Some(json!({"a": [1], "b": "flag"}))));
        std::fs::write(&file, r#"["hidden"]"#).expect("writes");
        let failure = options(&[], &[file]).variables().expect_err("no object");
        assert!(!failure.message.contains("hidden"));
    }

    #[test]
    fn where_a_deleted_stacks_state_stays() {
        assert_eq!(deleted("shop", false, &json!({"state": null})), "Stack shop removed.\n");
        let state = json!({"folder": "stacks/stk_1", "instance_id": "i-1", "runner": "r"});
        let text = deleted("shop", true, &json!({ "state": state }));
        for part in ["what it made, if anything, stays", "stacks/stk_1", "instance i-1 of runner r"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_read_can_be_written() {
        let read = json!({"id": "1", "name": "n", "runner": null, "engine_version": "~> 1.9", "last_job": {}, "variables": {"a": "b"}, "not_redacted": ["a"]});
        let written = json!({"name": "n", "engine_version": "~> 1.9", "variables": {"a": "b"}, "not_redacted": ["a"]});
        assert_eq!(writable(&read), written);
    }

    #[test]
    fn the_version_of_the_engine_is_asked_for_kept_or_taken_back() {
        for (given, expected) in [(None, json!("1.8.0")), (Some("~> 1.9"), json!("~> 1.9")), (Some(ANY), Value::Null)] {
            let mut stack = json!({"engine_version": "1.8.0"});
            let options = Options {
                engine_version: given.map(str::to_owned),
                path: None,
                workspace: None,
                vars: vec![],
                var_files: vec![],
                not_redacted: vec![],
                connections: vec![],
            };
            options.apply(&mut stack, None).expect("applies");
            assert_eq!(stack["engine_version"], expected, "{given:?}");
        }
    }
}
