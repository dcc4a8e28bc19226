//! `stack`: named pieces of infrastructure, and what `deploy` shares of one: variables and engines.

use super::Session;
use super::seal::{self, Seals};
use super::source::{OptionalSource, Source, shown};
use crate::archive::NAME_MAX;
use crate::args::{pair, seconds};
use crate::client::{Client, path};
use crate::config;
use crate::output::table;
use crate::stop::Done;
use serde_json::{Map, Value, json};
use shared_proto::exact;
use shared_proto::failure::{Code, Failure};
use shared_proto::hooks::{Hook, check_path};
use shared_proto::limits::{MAX, NAMES, in_words, least};
use std::path::PathBuf;

/// The engines that a runner can have; where nothing else decides, the first is taken.
pub(crate) const ENGINES: [&str; 3] = ["opentofu", "terraform", "pulumi"];

/// The word for no version in particular.
const ANY: &str = "any";
/// The word for no limit, and for no set of variables.
const NONE: &str = "none";

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
    /// Which stacks take outputs of which, each after those that it stands on
    Graph {
        /// As a graph for Graphviz
        #[arg(long)]
        dot: bool,
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
    /// Seal a variable's value to the stack's runner: the control plane keeps what it cannot read
    Seal {
        /// The stack
        name: String,
        /// The variable
        #[arg(value_name = "NAME")]
        variable: String,
        /// The file with the value; standard input without it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The fingerprint that `runner seal-key` says on the runner's host: seal to this key and no other
        #[arg(long = "seal-key", value_name = "FINGERPRINT")]
        keys: Vec<String>,
    },
    /// Remove a sealed variable
    Unseal {
        /// The stack
        name: String,
        /// The variable
        #[arg(value_name = "NAME")]
        variable: String,
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

/// Variables as they are given.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Variables {
    /// A variable's value; those that are given take the place of all that a stack has, and come to those of a set
    #[arg(long = "var", value_parser = pair, value_name = "NAME=VALUE")]
    vars: Vec<(String, String)>,
    /// A JSON object of variables, whose numbers, booleans, lists and objects stay what they are; --var goes over it
    #[arg(long = "var-file", value_name = "FILE")]
    var_files: Vec<PathBuf>,
    /// A variable whose value is in a store of the runner's configuration, and of an object the field that is meant; those that are given
    /// take the place of all that a stack has, and come to those of a set
    #[arg(long = "secret", value_parser = reference, value_name = "NAME=STORE:PATH[#FIELD]")]
    secrets: Vec<(String, Value)>,
}

/// `NAME=STORE:PATH[#FIELD]`.
fn reference(text: &str) -> Result<(String, Value), String> {
    let wrong = || "it is not NAME=STORE:PATH or NAME=STORE:PATH#FIELD".to_owned();
    let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    let (from, path) =
        rest.split_once(':').filter(|(from, path)| !from.is_empty() && !path.is_empty()).ok_or_else(wrong)?;
    let reference = match path.rsplit_once('#') {
        Some((path, key)) if !path.is_empty() && !key.is_empty() => json!({ "from": from, "path": path, "key": key }),
        Some(_) => return Err(wrong()),
        None => json!({ "from": from, "path": path }),
    };
    Ok((name.to_owned(), reference))
}

/// What a reference says, as it is written.
pub(crate) fn refers(reference: &Value) -> String {
    let text = |name: &str| reference[name].as_str().unwrap_or_default();
    let key = if text("key").is_empty() { String::new() } else { format!("#{}", text("key")) };
    format!("{}:{}{key}", text("from"), text("path"))
}

/// `NAME=STACK.OUTPUT`.
fn input(text: &str) -> Result<(String, Value), Failure> {
    let parts = text.split_once('=').and_then(|(name, of)| Some((name, of.split_once('.')?)));
    match parts {
        Some((name, (stack, output))) if ![name, stack, output].contains(&"") => {
            Ok((name.to_owned(), json!({ "stack": stack, "output": output })))
        }
        _ => Err(Code::InvalidArgument.on(format!("the input {text:?} is not NAME=STACK.OUTPUT"))),
    }
}

/// What inputs there are, as they are written.
fn inputs(stack: &Value) -> String {
    let all = stack["inputs"].as_object().into_iter().flatten();
    let said = all.map(|(name, of)| format!("{name}={}.{}", table::text(of, "/stack"), table::text(of, "/output")));
    said.collect::<Vec<_>>().join(", ")
}

/// What of a stack is no job's own, with the option that it is given by.
const OF_THE_STACK: [(&str, &str); 11] = [
    ("engine", "--engine"),
    ("engine_version", "--engine-version"),
    ("runner", "--runner"),
    ("path", "--path"),
    ("workspace", "--workspace"),
    ("variable_sets", "--variables-set"),
    ("inputs", "--input"),
    ("follows", "--follow"),
    ("connections", "--connection"),
    ("limits", "--limit"),
    ("hooks", "--hook"),
];

/// Refuses what would make a stack another one where only a job of it is made, whose stack stays as it is.
///
/// # Errors
/// `invalid_argument`, with the options.
pub(crate) fn stays(found: &Value, body: &Value, kind: &str) -> Result<(), Failure> {
    let now = writable(found);
    let changed: Vec<_> =
        OF_THE_STACK.into_iter().filter(|(name, _)| now[name] != body[name]).map(|(_, option)| option).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let (name, options) = (table::text(found, "/name"), changed.join(", "));
    Err(Code::InvalidArgument
        .on(format!("{options}: this belongs to the stack {name}, which a job of the kind {kind} leaves as it is"))
        .next(format!("Change the stack first: `runnerctl stack update {name} {} …`.", changed[0])))
}

/// The kinds that a variable may be of.
const KINDS: [&str; 4] = ["variables", "secrets", "sealed", "inputs"];

/// Puts variables of a kind into a document: those of their names that are of another kind go, others stay.
pub(crate) fn put_over(document: &mut Value, kind: &str, given: &Value) {
    for (name, value) in given.as_object().into_iter().flatten() {
        for other in KINDS.into_iter().filter(|other| *other != kind) {
            if let Some(all) = document.get_mut(other).and_then(Value::as_object_mut) {
                all.remove(name);
            }
        }
        document[kind][name] = value.clone();
    }
}

/// What belongs to a stack beside its source and engine.
#[derive(Debug, Default, clap::Args)]
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
    #[command(flatten)]
    variables: Variables,
    #[command(flatten)]
    pub(crate) seals: Seals,
    /// A set of variables that the stack's own lie over; may be given several times, each over those before it; "none": no set
    #[arg(long = "variables-set", value_name = "SET")]
    sets: Vec<String>,
    /// A variable that is an output of another stack, as its last job told it; given ones replace the stack's, and "none" takes them back
    #[arg(long = "input", value_name = "NAME=STACK.OUTPUT")]
    inputs: Vec<String>,
    /// Plan an update, which waits for its approval, once outputs that are inputs are other ones
    #[arg(long, value_name = "YES-OR-NO", value_parser = ["yes", "no"])]
    follow: Option<String>,
    /// A secret variable that may be shorter than eight bytes: its value then stays in what jobs record; given names replace the stack's
    #[arg(long = "not-redacted", value_name = "NAME")]
    not_redacted: Vec<String>,
    /// A connection whose credentials the engine gets; may be given several times
    #[arg(long = "connection", value_name = "NAME")]
    connections: Vec<String>,
    /// How long what may take in the stack's jobs: plan, apply, approval (a plan waits so long) or silence (nothing is said for so long), such as
    /// "apply=2h"; "none" takes a limit back
    #[arg(long = "limit", value_parser = limit, value_name = "NAME=DURATION")]
    limits: Vec<(&'static str, Option<u32>)>,
    /// An executable file of the source that jobs run: before-plan, after-plan, before-apply or after-apply, such as
    /// "before-plan=scripts/generate.sh"; "none" takes one back. The runner's own configuration has to let them run
    #[arg(long = "hook", value_parser = hook, value_name = "NAME=PATH")]
    hooks: Vec<(Hook, Option<String>)>,
}

/// `before-plan=scripts/generate.sh`, `before-plan=none`. Nothing behind the sign is none of both: a variable of a script may have been empty.
fn hook(text: &str) -> Result<(Hook, Option<String>), String> {
    let (name, path) = text.split_once('=').ok_or("it is not NAME=PATH")?;
    let hook = Hook::from_name(name)
        .ok_or_else(|| format!("there is no hook {name:?}; there are {}", Hook::ALL.map(Hook::name).join(", ")))?;
    if path == NONE {
        return Ok((hook, None));
    }
    check_path(path).map_err(|why| format!("{path:?} {why}"))?;
    Ok((hook, Some(path.to_owned())))
}

/// Under which name the API has it.
fn field(hook: Hook) -> String {
    hook.name().replace('-', "_")
}

/// `apply=2h`, `apply=none`.
fn limit(text: &str) -> Result<(&'static str, Option<u32>), String> {
    let (name, value) = pair(text)?;
    let name = NAMES
        .into_iter()
        .find(|known| *known == name)
        .ok_or_else(|| format!("there is no limit {name:?}; there are {}", NAMES.join(", ")))?;
    if value == NONE {
        return Ok((name, None));
    }
    match u32::try_from(seconds(&value)?) {
        Ok(seconds) if (least(name)..=MAX).contains(&seconds) => Ok((name, Some(seconds))),
        _ => Err(format!("{value} is not from {} to {}", in_words(least(name)), in_words(MAX))),
    }
}

// === impl Variables ===

impl Variables {
    /// Values, or none if none were given.
    pub(crate) fn values(&self) -> Result<Option<Value>, Failure> {
        if self.vars.is_empty() && self.var_files.is_empty() {
            return Ok(None);
        }
        let mut all = Map::new();
        for file in &self.var_files {
            // a variable may be secret: the message says where, never what
            let parsed = exact::object(&config::read_text(file)?)
                .map_err(|e| Code::InvalidArgument.on(format!("{}: {e}", file.display())))?;
            if let Some((name, _)) = parsed.iter().find(|(_, value)| value.is_null()) {
                return Err(Code::InvalidArgument
                    .on(format!("{}: the variable {name} is null, which is no value", file.display()))
                    .next("Leave it out: it then has its default."));
            }
            all.extend(parsed);
        }
        all.extend(self.vars.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))));
        Ok(Some(Value::Object(all)))
    }
    /// References, or none if none were given.
    pub(crate) fn references(&self) -> Option<Value> {
        let all: Map<String, Value> = self.secrets.iter().cloned().collect();
        (!all.is_empty()).then_some(Value::Object(all))
    }
}

// === impl Options ===

impl Options {
    /// Puts what was given of variables into a stack's document, in the place of those of its kind, or into a job's.
    pub(crate) fn put(&self, document: &mut Value) -> Result<(), Failure> {
        for (kind, given) in [("variables", self.variables.values()?), ("secrets", self.variables.references())] {
            if let Some(given) = given {
                document[kind] = json!({});
                put_over(document, kind, &given);
            }
        }
        Ok(())
    }

    /// Puts the variables that may stay in what is recorded into a stack's or a job's document.
    pub(crate) fn mark(&self, document: &mut Value) {
        if !self.not_redacted.is_empty() {
            document["not_redacted"] = json!(self.not_redacted);
        }
    }
    /// Puts what was given into a stack's document.
    pub(crate) fn apply(&self, stack: &mut Value, runner: Option<&str>) -> Result<(), Failure> {
        self.put(stack)?;
        self.mark(stack);
        self.make(stack, runner)
    }
    /// Puts what was given and is no job's own into a stack's document.
    pub(crate) fn make(&self, stack: &mut Value, runner: Option<&str>) -> Result<(), Failure> {
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
        match self.sets.as_slice() {
            [] => {}
            [none] if none == NONE => stack["variable_sets"] = json!([]),
            sets => stack["variable_sets"] = json!(sets),
        }
        match self.inputs.as_slice() {
            [] => {}
            [none] if none == NONE => stack["inputs"] = json!({}),
            inputs => {
                stack["inputs"] = json!({});
                for given in inputs {
                    let (name, value) = input(given)?;
                    put_over(stack, "inputs", &json!({ name: value }));
                }
            }
        }
        if let Some(follow) = &self.follow {
            stack["follows"] = (follow == "yes").into();
        }
        if !self.connections.is_empty() {
            stack["connections"] = json!(self.connections);
        }
        for (name, seconds) in &self.limits {
            stack["limits"][format!("{name}_seconds")] = json!(seconds);
        }
        for (hook, path) in &self.hooks {
            stack["hooks"][field(*hook)] = json!(path);
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
        "secrets",
        "sealed",
        "variable_sets",
        "inputs",
        "follows",
        "not_redacted",
        "connections",
        "limits",
        "hooks",
    ] {
        match stack.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => out[name] = value.clone(),
        }
    }
    out
}

/// The stacks of one kind that a node of the graph names.
fn names(node: &Value, at: &str) -> String {
    node[at].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// What is said where a stack is to be destroyed whose outputs others take.
pub(crate) fn carried_by(graph: &Value, stack: &str) -> Option<String> {
    let node = table::items(graph).iter().find(|node| table::text(node, "/stack") == stack)?;
    let others = names(node, "carries");
    let told = format!("outputs of {stack} are inputs of {others}: their next plan finds them missing");
    (!others.is_empty()).then_some(told)
}

fn as_table(graph: &Value) -> String {
    let rows = table::items(graph)
        .iter()
        .map(|node| vec![table::text(node, "/stack"), names(node, "stands_on"), names(node, "carries")]);
    table::rows(&["STACK", "TAKES OUTPUTS OF", "GIVES OUTPUTS TO"], rows, "No stack takes outputs of another.")
}

/// <https://graphviz.org/doc/info/lang.html>. Names of stacks are letters, digits and dashes.
fn as_dot(graph: &Value) -> String {
    let mut text = String::from("digraph stacks {\n  rankdir = LR\n");
    for node in table::items(graph) {
        let name = table::text(node, "/stack");
        text.push_str(&format!("  {name:?}\n"));
        for under in node["stands_on"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text.push_str(&format!("  {under:?} -> {name:?}\n"));
        }
    }
    text + "}\n"
}

/// `stack …`
pub(crate) async fn run(command: StackCommand, session: &Session) -> Done {
    let client = &session.client;
    let runner = session.runner.as_deref();
    match command {
        StackCommand::Create { name, engine, source, options } => {
            let (source, values) = (source.value()?, options.seals.values()?);
            let work = async {
                let engine = engine_of_runner(client, runner, engine.as_deref()).await?;
                let mut body = json!({ "name": name, "engine": engine, "source": source });
                options.apply(&mut body, runner)?;
                make(session, body, &options.seals, &values).await
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
                    ("limits", limits(s)),
                    ("hooks", hooks(s)),
                    ("source", shown(s)),
                    ("path", table::text(s, "/path")),
                    ("workspace", table::text(s, "/workspace")),
                    ("runner", table::text(s, "/runner")),
                    ("variables", names("/variables")),
                    ("secrets", secrets(&s["secrets"])),
                    ("sealed", names("/sealed")),
                    ("sets", names("/variable_sets")),
                    ("inputs", inputs(s)),
                    ("follows them", if s["follows"] == true { "yes".into() } else { String::new() }),
                    ("not redacted", names("/not_redacted")),
                    ("connections", names("/connections")),
                    ("last job", table::text(s, "/last_job/id")),
                    ("its phase", table::text(s, "/last_job/phase")),
                ])
            })
        }
        StackCommand::Graph { dot } => {
            let graph = session.wait("asking", client.get("/stack-graph")).await?;
            session.output.document(&graph, |graph| if dot { as_dot(graph) } else { as_table(graph) })
        }
        StackCommand::Update { name, engine, source, options } => {
            let at = path(&["stacks", &name], &[]);
            let values = options.seals.values()?;
            let source = source.value()?;
            let work = async {
                let found = client.get(&at).await?;
                let mut body = writable(&found);
                if let Some(engine) = engine {
                    body["engine"] = engine.into();
                }
                if let Some(source) = source {
                    body["source"] = source;
                }
                options.apply(&mut body, runner)?;
                change(session, &found, body, &options.seals, &values).await
            };
            let changed = session.wait("changing", work).await?;
            session.output.document(&changed, |_| format!("Stack {name} changed.\n"))
        }
        StackCommand::Seal { name, variable, file, keys } => {
            seal::run(&name, Seals::one(variable, file, keys), session).await
        }
        StackCommand::Unseal { name, variable } => {
            let at = path(&["stacks", &name], &[]);
            let work = async {
                let mut body = writable(&client.get(&at).await?);
                if body["sealed"].as_object_mut().and_then(|all| all.remove(&variable)).is_none() {
                    return Err(Code::NotFound.on(format!("stack {name} has no sealed variable {variable}")));
                }
                client.put(&at, &body).await
            };
            let changed = session.wait("changing", work).await?;
            session
                .output
                .document(&changed, |_| format!("The sealed variable {variable} of stack {name} is removed.\n"))
        }
        StackCommand::Delete { name, force } => {
            let at = path(&["stacks", &name], &[]);
            let gone = session.wait("removing", client.delete_with(&at, &json!({ "force": force }))).await?;
            session.output.document(&gone, |gone| deleted(&name, force, gone))
        }
    }
}

/// A stack as it was read, with the runner that it is to have.
fn of_runner(found: &Value, body: &Value) -> Value {
    json!({ "id": found["id"], "runner": body["runner"] })
}

/// Makes a stack. What is sealed is sealed for its id, which it has then.
pub(crate) async fn make(
    session: &Session,
    body: Value,
    seals: &Seals,
    values: &seal::Values,
) -> Result<Value, Failure> {
    let made = session.client.post("/stacks", &body).await?;
    if values.is_empty() {
        return Ok(made);
    }
    let mut body = writable(&made);
    put_over(&mut body, "sealed", &seals.seal(session, &made, values).await?);
    session.client.put(&path(&["stacks", &table::text(&made, "/name")], &[]), &body).await
}

/// Changes a stack that is there to what it is to be.
pub(crate) async fn change(
    session: &Session,
    found: &Value,
    mut body: Value,
    seals: &Seals,
    values: &seal::Values,
) -> Result<Value, Failure> {
    let sealed = seals.seal(session, &of_runner(found, &body), values).await?;
    put_over(&mut body, "sealed", &sealed);
    session.client.put(&path(&["stacks", &table::text(found, "/name")], &[]), &body).await
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

/// Each variable with what it refers to.
fn secrets(all: &Value) -> String {
    let one = |(name, reference): (&String, &Value)| format!("{name}={}", refers(reference));
    all.as_object().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

/// A stack's limits, as they are given.
fn limits(stack: &Value) -> String {
    let set = |name: &str| stack["limits"][format!("{name}_seconds")].as_u64().and_then(|s| u32::try_from(s).ok());
    let all = NAMES.iter().filter_map(|name| Some(format!("{name} {}", in_words(set(name)?))));
    all.collect::<Vec<_>>().join(", ")
}

/// A stack's hooks, as they are given.
fn hooks(stack: &Value) -> String {
    let path = |hook: Hook| stack["hooks"][field(hook)].as_str().map(|path| format!("{}={path}", hook.name()));
    Hook::ALL.into_iter().filter_map(path).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_given_kept_and_taken_back() {
        assert_eq!(hook("before-plan=scripts/a b.sh"), Ok((Hook::BeforePlan, Some("scripts/a b.sh".into()))));
        assert_eq!(hook("after-apply=none"), Ok((Hook::AfterApply, None)));
        for wrong in
            ["after-apply=", "before-plan", "before-init=a.sh", "before-plan=/bin/sh", "before-plan=../a.sh", "=a.sh"]
        {
            assert!(hook(wrong).is_err(), "{wrong}");
        }
        let mut stack = json!({"hooks": {"before_plan": "old.sh", "after_apply": "tell.sh"}});
        let given =
            ["before-plan=new.sh", "after-plan=look.sh", "after-apply=none"].map(|text| hook(text).expect("a hook"));
        let options = Options { hooks: given.to_vec(), ..Options::default() };
        options.apply(&mut stack, None).expect("applies");
        assert_eq!(stack["hooks"], json!({"before_plan": "new.sh", "after_plan": "look.sh", "after_apply": null}));
        assert_eq!(hooks(&stack), "before-plan=new.sh, after-plan=look.sh");
        assert_eq!(writable(&stack)["hooks"], stack["hooks"]);
    }

    #[test]
    fn inputs_and_their_graph_as_they_are_written() {
        let mut stack = json!({ "name": "app", "variables": {"vpc": "old", "size": 2} });
        let options = |inputs: &[&str]| Options {
            inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
            ..Options::default()
        };
        options(&["vpc=net.id", "zone=dns.zone.id"]).apply(&mut stack, None).expect("applies");
        assert_eq!(stack["variables"], json!({"size": 2}));
        assert_eq!(stack["inputs"]["zone"], json!({"stack": "dns", "output": "zone.id"}));
        assert_eq!(inputs(&stack), "vpc=net.id, zone=dns.zone.id");
        options(&["none"]).apply(&mut stack, None).expect("applies");
        assert_eq!(stack["inputs"], json!({}));
        for bad in ["vpc", "vpc=net", "=net.id", "vpc=.id", "vpc=net."] {
            assert!(options(&[bad]).apply(&mut stack, None).is_err(), "{bad}");
        }
        let graph = json!({"items": [
            {"stack": "net", "stands_on": [], "carries": ["app"]},
            {"stack": "app", "stands_on": ["net"], "carries": []},
        ]});
        assert_eq!(as_dot(&graph), "digraph stacks {\n  rankdir = LR\n  \"net\"\n  \"app\"\n  \"net\" -> \"app\"\n}\n");
        assert!(as_table(&graph).contains("net     -                  app"), "{}", as_table(&graph));
        let told = "outputs of net are inputs of app: their next plan finds them missing";
        assert_eq!(carried_by(&graph, "net").as_deref(), Some(told));
        assert_eq!((carried_by(&graph, "app"), carried_by(&Value::Null, "net")), (None, None));
    }

    #[test]
    fn variables_replace_and_merge() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("v.json");
        std::fs::write(&file, r#"{"a": [1], "b": "file"}"#).expect("writes");
        let given = |vars: &[(&str, &str)], files: &[PathBuf]| {
            let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Variables { vars, var_files: files.to_vec(), secrets: vec![] }.values()
        };
        assert_eq!(given(&[], &[]), Ok(None));
        let all = given(&[("b", "flag")], std::slice::from_ref(&file));
        assert_eq!(all, Ok(Some(json!({"a": [1], "b": "flag"}))));
        std::fs::write(&file, r#"["hidden"]"#).expect("writes");
        let failure = given(&[], std::slice::from_ref(&file)).expect_err("no object");
        assert!(!failure.message.contains("hidden"));
        for (text, at) in [(r#"{"big": 12345678901234567890123}"#, "big"), (r#"{"a": 1, "a": 2}"#, "a")] {
            std::fs::write(&file, text).expect("writes");
            let failure = given(&[], std::slice::from_ref(&file)).expect_err("refused");
            assert!(failure.code == Code::InvalidArgument && failure.message.contains(at), "{failure}");
        }
    }

    #[test]
    fn a_variable_that_is_null_is_refused_by_its_name() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let given = Variables { var_files: vec![file.path().to_owned()], ..Variables::default() };
        std::fs::write(file.path(), r#"{"a": 1, "b": null}"#).expect("writes");
        let failure = given.values().expect_err("is no value");
        assert!(failure.code == Code::InvalidArgument && failure.message.contains("variable b is null"), "{failure}");
        assert!(failure.next_step.starts_with("Leave it out"), "{failure}");
        std::fs::write(file.path(), r#"{"a": {"b": null}}"#).expect("writes");
        assert_eq!(given.values(), Ok(Some(json!({"a": {"b": null}}))));
    }

    #[test]
    fn references_are_read_as_they_are_shown() {
        for text in ["a=v:apps/shop#password", "a=v:arn:aws:secretsmanager:eu:1:secret:x", "a=v:p"] {
            let (name, reference) = reference(text).expect(text);
            assert_eq!(format!("{name}={}", refers(&reference)), text);
        }
        for bad in ["", "a", "a=", "a=v", "a=v:", "a=:p", "=v:p", "a=v:p#", "a=v:#k"] {
            assert!(reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_that_is_given_anew_is_of_one_kind() {
        let secret = json!({"from": "v", "path": "p"});
        let mut stack = json!({"variables": {"a": 1, "b": 2}, "secrets": {"c": secret}, "sealed": {"d": []}});
        let mut options = Options::default();
        options.variables.secrets = vec![("a".into(), secret.clone()), ("d".into(), secret.clone())];
        options.sets = vec!["base".into(), "team".into()];
        options.apply(&mut stack, None).expect("applies");
        let expected = json!({
            "variables": {"b": 2}, "secrets": {"a": secret, "d": secret}, "sealed": {}, "variable_sets": ["base", "team"]
        });
        assert_eq!(stack, expected);
        put_over(&mut stack, "sealed", &json!({"b": [1]}));
        assert_eq!((&stack["variables"], &stack["sealed"]), (&json!({}), &json!({"b": [1]})));
        let none = Options { sets: vec![NONE.into()], ..Options::default() };
        none.apply(&mut stack, None).expect("applies");
        assert_eq!(stack["variable_sets"], json!([]));
        // of a job that has none nothing is said
        let mut job = json!({});
        put_over(&mut job, "variables", &json!({"x": 1}));
        assert_eq!(job, json!({"variables": {"x": 1}}));
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
    fn what_belongs_to_the_stack_is_named_where_the_stack_stays() {
        let found = json!({
            "id": "1", "name": "shop", "engine": "opentofu", "engine_version": null, "runner": "r1", "path": "a", "workspace": "",
            "variables": {"x": "1"}, "variable_sets": ["base"], "inputs": {}, "follows": false, "connections": ["c"], "limits": {}
        });
        let mut body = writable(&found);
        let same = Options {
            path: Some("a".into()),
            sets: vec!["base".into()],
            connections: vec!["c".into()],
            not_redacted: vec!["x".into()],
            ..Options::default()
        };
        same.make(&mut body, Some("r1")).expect("applies");
        assert_eq!(stays(&found, &body, "preview"), Ok(()));
        let others: [(&str, Options); 8] = [
            ("--engine-version", Options { engine_version: Some("1.9.0".into()), ..Options::default() }),
            ("--path", Options { path: Some("b".into()), ..Options::default() }),
            ("--workspace", Options { workspace: Some("blue".into()), ..Options::default() }),
            ("--variables-set", Options { sets: vec!["team".into()], ..Options::default() }),
            ("--input", Options { inputs: vec!["vpc=net.id".into()], ..Options::default() }),
            ("--follow", Options { follow: Some("yes".into()), ..Options::default() }),
            ("--connection", Options { connections: vec!["d".into()], ..Options::default() }),
            ("--limit", Options { limits: vec![("plan", Some(60))], ..Options::default() }),
        ];
        for (option, options) in others {
            let mut body = writable(&found);
            options.make(&mut body, Some("r1")).expect("applies");
            let failure = stays(&found, &body, "preview").expect_err(option);
            assert_eq!(failure.code, Code::InvalidArgument);
            assert!(failure.message.starts_with(&format!("{option}: ")), "{failure}");
            assert!(failure.next_step.contains("stack update shop"), "{failure}");
        }
        for (name, option) in [("engine", "--engine"), ("runner", "--runner")] {
            let mut body = writable(&found);
            body[name] = "other".into();
            assert!(stays(&found, &body, "destroy").expect_err(option).message.starts_with(&format!("{option}: ")));
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
            let options = Options { engine_version: given.map(str::to_owned), ..Options::default() };
            options.apply(&mut stack, None).expect("applies");
            assert_eq!(stack["engine_version"], expected, "{given:?}");
        }
    }

    #[test]
    fn limits_are_given_kept_and_taken_back() {
        assert_eq!(limit("apply=1h30m"), Ok(("apply", Some(5400))));
        assert_eq!(limit("silence=none"), Ok(("silence", None)));
        assert_eq!((limit("plan=10s"), limit("plan=90d")), (Ok(("plan", Some(10))), Ok(("plan", Some(7_776_000)))));
        assert_eq!(limit("silence=60s"), Ok(("silence", Some(60))));
        for wrong in ["plan=9s", "plan=91d", "plan", "other=1h", "plan=soon", "silence=59s"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
        let mut stack = json!({"limits": {"plan_seconds": 60, "apply_seconds": 90}});
        let given = ["apply=none", "approval=2d"].map(|text| limit(text).expect("a limit"));
        let options = Options { limits: given.to_vec(), ..Options::default() };
        options.apply(&mut stack, None).expect("applies");
        assert_eq!(stack["limits"], json!({"plan_seconds": 60, "apply_seconds": null, "approval_seconds": 172_800}));
        assert_eq!(limits(&stack), "plan 1 min, approval 2 d");
    }
}
