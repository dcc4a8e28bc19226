//! `deploy`: from a folder, a Git repository or a package to infrastructure, in one command.

use super::Session;
use super::follow::{self, Approval};
use super::plan::ExitCode;
use super::source::OptionalSource;
use super::stack::{self, ENGINES, Options};
use crate::archive::{self, Limits, Packed};
use crate::client::{file_body, path};
use crate::output::{progress, table};
use crate::stop::{Done, Stop};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::path::{Path, PathBuf};

/// So many files of secrets that were left out are named, and the others counted.
const NAMED: usize = 10;

/// `deploy`
///
/// Without a terminal and without --auto-approve the job is left awaiting approval, and the exit code is 75.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("from").required(true).args(["dir", "url", "package", "stack"]))]
pub(crate) struct Deploy {
    /// The folder with the code; a .runnerignore in it names what stays out (and !NAME what does not), well-known files of secrets do by themselves
    dir: Option<PathBuf>,
    #[command(flatten)]
    source: OptionalSource,
    /// A stack as it is, with the source that it has
    #[arg(long, value_name = "NAME", conflicts_with_all = ["name"])]
    stack: Option<String>,
    /// The stack's name; the folder's by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The engine; what the stack has, for a new one pulumi where the folder has a Pulumi.yaml, else what the runner has, opentofu before
    /// terraform
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
    /// Only this resource or module, and what it depends on; may be given several times
    #[arg(long = "target", value_name = "ADDRESS")]
    targets: Vec<String>,
    /// Make this resource anew; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    replace: Vec<String>,
    /// Start the job and do not follow it
    #[arg(long, conflicts_with = "says_changes")]
    detach: bool,
    #[command(flatten)]
    exit: ExitCode,
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
    follow::follow(session, &id, Approval::Ask, command.exit).await
}

/// The engine that a folder is for, where one file alone tells.
fn engine_of(dir: &Path) -> Option<&'static str> {
    ["Pulumi.yaml", "Pulumi.yml", "Pulumi.json"].iter().any(|name| dir.join(name).is_file()).then_some("pulumi")
}

/// Makes the stack what was asked for and starts the job.
async fn start(command: &Deploy, session: &Session) -> Done<Value> {
    let client = &session.client;
    // all that can be known before anything is sent
    let values = command.options.seals.values()?;
    if let Some(dir) = &command.dir {
        is_folder(dir)?;
    }
    let fetched = command.source.value()?;
    let name = name(command)?;
    let at = path(&["stacks", &name], &[]);
    let existing = client.find(&at).await?;
    if existing.is_none() && command.stack.is_some() {
        return Err(Code::NotFound
            .on(format!("there is no stack {name:?}"))
            .next("Run `runnerctl stack list`.")
            .into());
    }
    // only an update makes the stack what was asked for; the others look at it as it is, or undo what is there
    let stays = existing.as_ref().filter(|_| command.kind != "update");
    if let Some(found) = stays {
        let mut body = stack::writable(found);
        if let Some(engine) = &command.engine {
            body["engine"] = engine.as_str().into();
        }
        command.options.make(&mut body, session.runner.as_deref())?;
        stack::stays(found, &body, &command.kind)?;
    }
    let named = command.engine.as_deref();
    let engine = if stays.is_some() || (named.is_none() && existing.is_some()) {
        None
    } else {
        // the stack's runner, unless another is to do it
        let own = existing.as_ref().map(|stack| table::text(stack, "/runner")).filter(|name| !name.is_empty());
        let runner = session.runner.as_deref().or(own.as_deref());
        let wanted = named.or(command.dir.as_deref().and_then(engine_of));
        let engine = stack::engine_of_runner(client, runner, wanted).await?;
        if named.is_none() {
            eprintln!("· engine: {engine}");
        }
        Some(engine)
    };
    let source = match (&command.stack, &command.dir, fetched) {
        (Some(_), ..) => None,
        (None, Some(dir), _) => Some(upload(session, dir).await?),
        (None, None, Some(source)) => Some(source),
        (None, None, None) => return Err(Stop::Exit(crate::stop::USAGE)),
    };
    if command.kind == "destroy" {
        // one that cannot be asked stops nobody
        let graph = client.get("/stack-graph").await.unwrap_or_default();
        if let Some(told) = stack::carried_by(&graph, &name) {
            eprintln!("! {told}");
        }
    }
    let mut job = json!({ "kind": command.kind, "approve_automatically": command.auto_approve });
    for (name, addresses) in [("targets", &command.targets), ("replace", &command.replace)] {
        if !addresses.is_empty() {
            job[name] = json!(addresses);
        }
    }
    match existing {
        Some(stack) if command.kind != "update" => {
            if let Some(source) = source {
                job["source"] = source;
            }
            command.options.put(&mut job)?;
            if !values.is_empty() {
                job["sealed"] = command.options.seals.seal(session, &stack, &values).await?;
            }
            command.options.mark(&mut job);
        }
        existing => {
            let mut body = existing
                .as_ref()
                .map_or_else(|| json!({ "name": name, "variables": {}, "connections": [] }), stack::writable);
            if let Some(source) = source {
                body["source"] = source;
            }
            if let Some(engine) = engine {
                body["engine"] = engine.into();
            }
            command.options.apply(&mut body, session.runner.as_deref())?;
            let seals = &command.options.seals;
            let made = match existing {
                Some(found) => stack::change(session, &found, body, seals, &values).await?,
                None => stack::make(session, body, seals, &values).await?,
            };
            // of the stack as it was made here, or not at all: somebody else may change it now; an earlier control plane tells none
            if let Some(revision) = made.get("revision") {
                job["stack_revision"] = revision.clone();
            }
        }
    }
    Ok(client.post_once(&path(&["stacks", &name, "jobs"], &[]), &job).await?)
}

/// The stack's name: as it was given, else made of the folder's, which is said.
fn name(command: &Deploy) -> Result<String, Failure> {
    let wanted = |what: String| Code::InvalidArgument.on(what).next("Give the stack a name with --name.");
    match (&command.stack, &command.name, &command.dir) {
        (Some(stack), ..) => Ok(stack.clone()),
        (None, Some(name), _) => stack::checked_name(name),
        (None, None, Some(dir)) => {
            let name = archive::name_of(dir)?
                .ok_or_else(|| wanted(format!("the name of {} gives none for a stack", dir.display())))?;
            eprintln!("· stack: {name}, after the folder");
            Ok(name)
        }
        (None, None, None) => {
            Err(wanted("a deployment from Git or of a package needs a name for its stack".to_owned()))
        }
    }
}

/// A file is no source, and a mistake that is easily made.
fn is_folder(dir: &Path) -> Result<(), Failure> {
    let found = std::fs::metadata(dir).map_err(|e| crate::stop::file(dir, &e))?;
    if found.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Err(Code::InvalidArgument
        .on(format!("{} is a file; a deployment's source is a folder", dir.display()))
        .next(format!("Name the folder with all its files: `runnerctl deploy {}`.", parent.display())))
}

/// So many files and folders.
fn shown(entries: u64) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

/// What of a folder was left out because it holds secrets, and how it is sent all the same.
fn left_out(secrets: &[PathBuf]) -> Option<String> {
    let first = secrets.first()?;
    let mut names = secrets.iter().take(NAMED).map(|name| name.display().to_string()).collect::<Vec<_>>().join(", ");
    if secrets.len() > NAMED {
        names.push_str(&format!(" and {} more", secrets.len() - NAMED));
    }
    Some(format!(
        "left out, because it holds secrets: {names} (to send it, write !{} into {})",
        first.display(),
        archive::IGNORE_FILE
    ))
}

/// Packs the folder and sends it, unless the control plane has that very content.
async fn upload(session: &Session, dir: &Path) -> Done<Value> {
    let spinner = progress::spinner(format!("packing {}", dir.display()));
    let folder = dir.to_owned();
    let packed = tokio::task::spawn_blocking(move || archive::pack(&folder, Limits::default())).await;
    spinner.finish_and_clear();
    let Packed { file, sha256, size, entries, secrets } =
        packed.map_err(|e| Code::Internal.on(format!("packing {}: {e}", dir.display())))??;
    if let Some(said) = left_out(&secrets) {
        crate::output::remark(&said);
    }
    let at = path(&["archives", &sha256], &[]);
    if session.client.exists(&at).await? {
        eprintln!("· source: {}, unchanged", shown(entries));
    } else {
        let bar = progress::bytes(size, "uploading");
        let counted = bar.clone();
        let body = file_body(file, move |sent| counted.inc(sent));
        let sent = session.client.upload(&at, size, body).await;
        bar.finish_and_clear();
        sent?;
        eprintln!("· source: {}, {size} bytes uploaded", shown(entries));
    }
    Ok(json!({ "archive": { "sha256": sha256, "size": size } }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command};
    use crate::client::tests::{answer, api};
    use crate::interrupt::Interrupt;
    use crate::output::{Format, Output};
    use clap::Parser as _;
    use std::sync::{Arc, Mutex};

    /// Deploys a new stack at an API whose default runner, or the named one, has these engines; gives what was asked, with the stack's engine.
    async fn asked_with(engines: Value, words: &[&str]) -> Vec<String> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let client = api(move |request| {
            let (method, path) = (request.method.as_str(), request.path.trim_start_matches("/api/v1"));
            let body = std::str::from_utf8(&request.body).unwrap_or_default();
            let engine =
                serde_json::from_str(body).map_or_else(|_| String::new(), |body: Value| table::text(&body, "/engine"));
            seen.lock().expect("not poisoned").push(format!("{method} {path} {engine}").trim_end().to_owned());
            let here = json!([{"engines": engines}]);
            match (method, path) {
                ("GET", "/runners") => {
                    let other = json!({"default": false, "instances": [{"engines": ["opentofu"]}]});
                    answer(200, &json!({"items": [other, {"default": true, "instances": here}]}).to_string())
                }
                ("GET", "/runners/other") => answer(200, &json!({"default": false, "instances": here}).to_string()),
                ("POST", "/stacks" | "/stacks/shop/jobs") => answer(201, "{}"),
                _ => answer(404, r#"{"error":{"code":"not_found","message":"no"}}"#),
            }
        })
        .await;
        let command = parsed(&[&["--git", "https://example.org/x.git", "--name", "shop"], words].concat());
        let runner = words.iter().position(|w| *w == "--runner").map(|at| words[at + 1].to_owned());
        let session = Session { client, output: Output::new(Format::Table), runner, interrupt: Interrupt::listen() };
        let refused = start(&command, &session).await.err();
        let mut asked = asked.lock().expect("not poisoned").clone();
        asked.extend(refused.iter().map(|stop| format!("{:?}", stop.failure().expect("a failure").code)));
        asked
    }

    #[tokio::test]
    async fn a_new_stacks_engine_is_one_that_its_runner_has() {
        for (engines, words, asked, engine) in [
            (json!(["opentofu", "terraform"]), &[][..], "/runners", "opentofu"),
            (json!(["terraform"]), &[], "/runners", "terraform"),
            (json!(["terraform"]), &["--runner", "other"], "/runners/other", "terraform"),
        ] {
            assert_eq!(
                asked_with(engines, words).await,
                [
                    "GET /stacks/shop".to_owned(),
                    format!("GET {asked}"),
                    format!("POST /stacks {engine}"),
                    "POST /stacks/shop/jobs".to_owned()
                ]
            );
        }
        let asked = asked_with(json!(["opentofu", "terraform"]), &["--engine", "terraform"]).await;
        assert_eq!(asked[2..], ["POST /stacks terraform", "POST /stacks/shop/jobs"]);
        // one that it does not have is refused before anything is made or sent
        for (engines, words) in [(json!(["terraform"]), &["--engine", "opentofu"][..]), (json!([]), &[])] {
            assert_eq!(asked_with(engines, words).await, ["GET /stacks/shop", "GET /runners", "EngineMissing"]);
        }
    }

    fn parsed(words: &[&str]) -> Deploy {
        match Arguments::try_parse_from(["runnerctl", "deploy"].iter().chain(words)).expect("parses").command {
            Command::Deploy(command) => command,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_a_preview_cannot_change_of_its_stack_is_refused_before_anything_is_sent() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let client = api(move |request| {
            let body = std::str::from_utf8(&request.body).unwrap_or_default();
            seen.lock().expect("not poisoned").push(format!("{} {body}", request.method));
            let stack = json!({
                "id": "stk_1", "name": "shop", "engine": "opentofu", "runner": null, "path": "", "variables": {}, "connections": ["a"]
            });
            answer(if request.method == "GET" { 200 } else { 201 }, &stack.to_string())
        })
        .await;
        let session =
            Session { client, output: Output::new(Format::Table), runner: None, interrupt: Interrupt::listen() };
        let deploy = async |words: &[&str]| {
            start(&parsed(&[&["--stack", "shop", "--kind", "preview"], words].concat()), &session).await
        };
        for words in [
            &["--variables-set", "base"][..],
            &["--engine-version", "1.9.0"],
            &["--path", "b"],
            &["--connection", "b"],
            &["--engine", "terraform"],
            &["--limit", "plan=1h"],
            &["--hook", "after-plan=none"],
            &["--ref", "none-such"],
            &["--lfs"],
        ] {
            let stop = deploy(words).await.expect_err("refused");
            let failure = stop.failure().expect("a failure");
            assert!(failure.code == Code::InvalidArgument && failure.message.starts_with(words[0]), "{failure}");
        }
        assert!(asked.lock().expect("not poisoned").iter().all(|request| request.starts_with("GET ")));
        deploy(&["--connection", "a", "--engine", "opentofu", "--var", "x=1"]).await.expect("starts");
        let asked = asked.lock().expect("not poisoned");
        assert!(asked.last().is_some_and(|last| last.starts_with("POST ") && last.contains(r#""x":"1""#)), "{asked:?}");
    }

    #[test]
    fn a_file_is_no_source() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("main.tf");
        std::fs::write(&file, "").expect("writes");
        assert_eq!(is_folder(dir.path()), Ok(()));
        let failure = is_folder(&file).expect_err("refused");
        assert!(failure.message.contains("main.tf is a file"), "{failure}");
        assert!(failure.next_step.contains(&format!("deploy {}", dir.path().display())), "{failure}");
        assert!(is_folder(&dir.path().join("none")).expect_err("refused").message.contains("No such file"));
        assert_eq!((shown(1), shown(2)), ("1 entry".to_owned(), "2 entries".to_owned()));
    }

    #[test]
    fn what_holds_secrets_is_named_with_how_to_send_it() {
        let names = |n: usize| (0..n).map(|n| PathBuf::from(format!(".env.{n}"))).collect::<Vec<_>>();
        assert_eq!(left_out(&[]), None);
        let all = left_out(&names(NAMED)).expect("says");
        assert!(all.contains(".env.9 (") && all.contains("!.env.0 into .runnerignore"), "{all}");
        assert!(left_out(&names(NAMED + 2)).expect("says").contains(".env.9 and 2 more ("));
    }

    #[test]
    fn a_stacks_name_is_known_and_good_before_anything_is_sent() {
        let dir = tempfile::tempdir().expect("a folder");
        let (infra, none) = (dir.path().join("My_Infra"), dir.path().join("___"));
        for folder in [&infra, &none] {
            std::fs::create_dir(folder).expect("a folder");
        }
        let (infra, none) = (infra.display().to_string(), none.display().to_string());
        assert_eq!(name(&parsed(&[&infra])).as_deref(), Ok("my-infra"));
        assert_eq!(name(&parsed(&[&infra, "--name", "shop"])).as_deref(), Ok("shop"));
        for words in [&[&*infra, "--name", "My_Infra"][..], &[&none], &["--git", "https://example.org/x.git"]] {
            let failure = name(&parsed(words)).expect_err("refused");
            assert_eq!(failure.code, Code::InvalidArgument, "{words:?}");
            assert!(format!("{failure}").contains("--name"), "{failure}");
        }
    }

    #[test]
    fn a_folder_with_a_project_is_pulumis() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("main.tf"), "").expect("writes");
        assert_eq!(engine_of(folder.path()), None);
        std::fs::create_dir(folder.path().join("Pulumi.json")).expect("makes");
        assert_eq!(engine_of(folder.path()), None);
        std::fs::write(folder.path().join("Pulumi.yaml"), "name: shop").expect("writes");
        assert_eq!(engine_of(folder.path()), Some("pulumi"));
    }
}
