//! Where the state of a stack is. A configuration with a backend of its own keeps it there. One without keeps it in the runner's own store
//! ([`crate::store`]), by an override file in the working copy: the engine's own way, for both engines and every command.

use super::environment::private_file;
use super::taken::{self, Left, There, kept_in};
use super::{Engine, imports, kept_by};
use crate::stop::{Stop, io_failure};
use crate::store::keeper::Keeper;
use crate::store::server::{Serves, Serving};
use crate::store::{Backend, Facts, Served, Since, Store, Taken, Unopened, Where, Whose, goes_on_from, is_in_backend};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{self, Key, PLAIN, WORKSPACES};
use shared_proto::v1::{JobKind, JobRequest, JobStart, StateLock, StatePlace};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// The file in the working copy. `_override` makes the engine merge it over what the configuration says.
const OVERRIDE: &str = "runner_backend_override.tf.json";

/// What the configuration says about its backend.
#[derive(Debug, PartialEq, Eq)]
enum Configured {
    /// Nothing, or the local one: it would keep the state in the working copy, which goes with the job.
    Local,
    /// One of its own.
    Other(Backend),
}

/// Where the states of a job's stack are, as far as they are the runner's.
#[derive(Debug)]
pub(crate) struct Here<'a> {
    /// The step.
    pub(crate) start: &'a JobStart,
    /// The job.
    pub(crate) request: &'a JobRequest,
    /// What has its listener outlive this process.
    pub(crate) keeper: Option<&'a Keeper>,
    /// Where the runner's store is; none: in the stack's folder.
    pub(crate) place: &'a watch::Receiver<Option<StatePlace>>,
}

/// Runs `init` so that the state is kept in the right place, and says which that is. `serving`: the store from where it is served on, also where
/// `init` fails by what it says.
///
/// # Errors
/// What `init` fails with; `state_elsewhere`; what the store fails with; the file system.
pub(crate) async fn init(engine: &mut Engine, here: &Here<'_>, serving: &mut Option<Serving>) -> Result<(), Stop> {
    let may_have_backend = mentions_backend(&engine.common.root, engine.common.dialect.extensions())?;
    if may_have_backend {
        // the engine reads its own language best: what it then has set up is what the configuration says
        engine.init(false).await?;
        if let Configured::Other(backend) = configured(&engine.common.work.join("data"))? {
            if !here.request.workspace.is_empty() {
                engine.workspace(&here.request.workspace).await?;
            }
            here.leaves_nothing(&backend, engine).await?;
            engine.journal.note(format!("The state is in the configuration's own backend ({}).", backend.kind)).await;
            return Ok(());
        }
    }
    let folder = here.folder()?;
    super::private_folder(&folder)?;
    let elsewhere = &here.start.state_instance;
    // what is in another place every instance finds, and says what it does not
    let in_folder = !here.request.workspace.is_empty() || here.place.borrow().is_none();
    let workspace = here.request.workspace.as_str();
    if in_folder && !elsewhere.is_empty() {
        let is_here = match workspace {
            "" => Store::is_at(&folder),
            _ => here.own()?.join(PLAIN).exists(),
        };
        if !is_here {
            // an empty state here would have everything made a second time
            return Err(kept_by::on_another(elsewhere).into());
        }
        if workspace.is_empty() && !Store::was_put(&folder)? {
            // and one from before it went there whatever was made since
            let next = format!(
                "Take it here: `runner states export` there, as terraform.tfstate into {}. Or give the stack back to the runner of that instance.",
                folder.display()
            );
            return Err(kept_by::from_before(elsewhere, next).into());
        }
    }
    let backend = match workspace {
        // where it is and who asks is in the engine's environment
        "" => {
            *serving = Some(here.serve(engine).await?);
            json!({ "http": {} })
        }
        // The HTTP backend has no workspaces (it refuses to be asked for another than the default one), and a name that is not chosen
        // is not what `terraform.workspace` says. So these keep their state as the engine's own local backend does.
        _ => {
            let workspaces = folder.join(WORKSPACES);
            here.is_not_taken()?;
            kept_by::is_the_newest(here.start)?;
            super::private_folder(&workspaces)?;
            engine.state = (!here.request.untrusted).then(|| workspaces.clone());
            json!({ "local": { "path": folder.join(PLAIN), "workspace_dir": workspaces } })
        }
    };
    let content = json!({ "terraform": { "backend": &backend } });
    private_file(&engine.common.root.join(OVERRIDE), content.to_string().as_bytes())?;
    let place = match here.place.borrow().as_ref().filter(|_| workspace.is_empty()) {
        Some(place) => format!("the runner's store, in {}", states::shown(place)),
        None if workspace.is_empty() => "the runner's store".to_owned(),
        None => "the runner's state directory".to_owned(),
    };
    let note =
        format!("The configuration has no backend: its state is kept in {place}, by {OVERRIDE} in the working copy.");
    engine.journal.note(note).await;
    if engine.common.root.join(PLAIN).exists() {
        engine.journal.note("The terraform.tfstate that came with the source is not used.").await;
    }
    // of these the engine has nothing to do: where the newest state cannot be read they are the way out
    if matches!(here.request.kind(), JobKind::Versions | JobKind::Rollback) {
        return Ok(());
    }
    engine.init(may_have_backend).await?;
    is_ours(&engine.common.work.join("data"), &backend)?;
    if !workspace.is_empty() {
        engine.workspace(workspace).await?;
    }
    Ok(())
}

/// Refuses a source that has files which an engine takes in the place of ours, such as `X.tofu.json` for `X.tf.json`.
///
/// # Errors
/// `source_refused`.
pub(crate) fn is_free_of_ours(engine: &Engine) -> Result<(), Failure> {
    let failed = |e: &std::io::Error| io_failure(Code::SourceRefused, "the root module cannot be read", e);
    let stem = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let ours = [stem(OVERRIDE), stem(imports::BLOCKS)];
    for entry in std::fs::read_dir(&engine.common.root).map_err(|e| failed(&e))? {
        let name = entry.map_err(|e| failed(&e))?.file_name();
        if name.to_str().is_some_and(|name| ours.contains(&stem(name))) {
            let message = format!("the root module has a file {}, which is a name of the runner's own", name.display());
            return Err(Code::SourceRefused.on(message).next("Give it another name."));
        }
    }
    Ok(())
}

/// The same for an engine whose working copy is set up.
///
/// # Errors
/// What the store fails with; the file system.
pub(crate) async fn again(engine: &mut Engine, here: &Here<'_>) -> Result<Option<Serving>, Stop> {
    let Ok(set_up) = std::fs::read(engine.common.root.join(OVERRIDE)) else { return Ok(None) };
    let folder = here.folder()?;
    if !here.request.workspace.is_empty() {
        engine.state = (!here.request.untrusted).then(|| folder.join(WORKSPACES));
        return Ok(None);
    }
    let set_up: Value = serde_json::from_slice(&set_up).unwrap_or_default();
    let is_local = set_up["terraform"]["backend"].get("local").is_some();
    // planned by a runner that had no store. What runs in a job may write there what it likes: it gets no store to write to
    if is_local && !folder.join(shared_proto::states::VERSIONS).exists() {
        engine.state = Some(folder).filter(|_| !here.request.untrusted);
        return Ok(None);
    }
    Ok(Some(here.serve(engine).await?))
}

/// Writes down where the state is that is about to be applied to.
///
/// # Errors
/// The file system.
pub(crate) fn is_applied_to(engine: &Engine, here: &Here<'_>) -> Result<(), Failure> {
    if engine.common.root.join(OVERRIDE).exists() {
        return kept_by::this_instance(here.start);
    }
    let Configured::Other(backend) = configured(&engine.common.work.join("data"))? else { return Ok(()) };
    let own = here.own()?;
    super::private_folder(&own)?;
    Store::taken_to(&own, &backend)
}

// === impl Here ===

impl Here<'_> {
    fn folder(&self) -> Result<PathBuf, Failure> {
        match self.start.state_directory.as_str() {
            "" => Err(Code::Internal.on("the stack has no backend and the runner named no folder for its state")),
            folder => Ok(PathBuf::from(folder)),
        }
    }

    /// The folder that is the state's alone: the stack's, or that of the named workspace.
    fn own(&self) -> Result<PathBuf, Failure> {
        let folder = self.folder()?;
        Ok(match self.request.workspace.as_str() {
            "" => folder,
            workspace => folder.join(WORKSPACES).join(workspace),
        })
    }

    /// Refuses to go on with a backend of the configuration's own that does not have what is known of the state: what the runner has of it, or that it is in
    /// another backend.
    async fn leaves_nothing(&self, backend: &Backend, engine: &mut Engine) -> Result<(), Stop> {
        let own = self.own()?;
        if let Some(before) = Store::taken_from(&own)? {
            if !before.is_another_than(backend) {
                return Ok(());
            }
            let there = engine.pulled().await?;
            // one that was destroyed is there still; that of a workspace was made with it
            let has = there.is_some_and(|(_, facts)| self.request.workspace.is_empty() || facts.would_be_missed());
            return match has {
                true => Ok(()),
                false => taken::is_not_in(&before, backend, self.request, &engine.journal).await,
            };
        }
        let Some(left) = self.left(&own).await? else { return Ok(()) };
        let facts = Facts::of(&left).unwrap_or_default();
        if !facts.would_be_missed() {
            return Ok(());
        }
        let there = match engine.pulled().await? {
            None => There::Nothing,
            Some((there, _)) if goes_on_from(there.as_bytes(), &left, Since::Nothing) => There::Taken,
            Some(_) => There::Another,
        };
        let what = match facts.encrypted {
            true => "that is encrypted".to_owned(),
            false => format!("with {} resources", facts.resources),
        };
        let (how, away) = match self.request.workspace.as_str() {
            "" => ("`runner states export` on the runner's machine writes it".to_owned(), own.join(states::VERSIONS)),
            _ => (format!("it is {} on the runner's machine", own.join(PLAIN).display()), own.join(PLAIN)),
        };
        // one that was changed there since, or is encrypted, cannot be told
        let next = format!(
            "Take the state there: {how}, and `state push` puts it into the backend. Where it is there already, and was changed since, move {} away.",
            away.display()
        );
        Left { backend, what, there, next }.judge(self.request, &own, &engine.journal).await
    }

    /// Refuses to go on with the state of a workspace that was taken to a backend.
    fn is_not_taken(&self) -> Result<(), Failure> {
        let own = self.own()?;
        let Some(Taken { at, says, .. }) = Store::taken_from(&own)? else { return Ok(()) };
        let back =
            format!("`state pull` from there, into {}, and remove {}", own.join(PLAIN).display(), says.display());
        Err(is_in_backend(&format!("workspace {}", self.request.workspace), &at, "configuration", &back))
    }

    /// What the runner has of the state.
    async fn left(&self, own: &Path) -> Result<Option<Vec<u8>>, Stop> {
        if !self.request.workspace.is_empty() {
            return Ok(kept_in(&own.join(PLAIN))?);
        }
        let (folder, at, another) = (own.to_owned(), self.elsewhere(), self.start.state_instance.clone());
        let (key, whose) = (self.key()?, self.whose());
        let looking = tokio::task::spawn_blocking(move || Store::left(&folder, at.as_ref(), key, whose, &another));
        let left = looking.await.unwrap_or_else(|_| Err(Code::Internal.on("reading the store of states panicked")));
        left.map_err(Stop::from)
    }

    /// The place that the runner's configuration names, where it names one.
    fn elsewhere(&self) -> Option<Where> {
        let environment = &self.start.environment;
        let environment = environment.iter().map(|(name, value)| (name.clone(), value.into())).collect();
        self.place.borrow().is_some().then(|| Where { place: self.place.clone(), environment })
    }

    fn whose(&self) -> Whose {
        Whose {
            stack: self.request.stack_id.clone(),
            job: self.request.job_id.clone(),
            instance: self.start.instance.clone(),
            person: self.request.created_by.clone(),
        }
    }

    fn key(&self) -> Result<Key, Failure> {
        Key::from_bytes(&self.start.state_key).ok_or_else(|| {
            let message = "the stack has no backend, and the runner that started the job has no key for its states";
            Code::UnsupportedVersion
                .on(message)
                .next("Start the runner anew: it is of another version than its programs.")
        })
    }

    /// Opens the store, serves it, and tells the engine where.
    async fn serve(&self, engine: &mut Engine) -> Result<Serving, Stop> {
        let (folder, key, request) = (self.folder()?, self.key()?, self.request);
        let token = key.token(&request.job_id);
        let whose = self.whose();
        let removes = (request.kind() == JobKind::Unlock).then(|| request.lock_id.clone());
        let at = self.elsewhere();
        let (another, goes) = (self.start.state_instance.clone(), removes.clone());
        let opening = tokio::task::spawn_blocking(move || match at {
            Some(at) => Store::open_elsewhere(&folder, &at, key, whose, &another, goes.as_deref()),
            None => {
                let (store, note) = Store::open(&folder, key, whose)?;
                Ok((store, note.into_iter().collect()))
            }
        });
        let opened = opening.await;
        let opened = opened.unwrap_or_else(|_| Err(Code::Internal.on("opening the store of states panicked").into()));
        let (store, notes) = opened.map_err(|e| match e {
            Unopened::Failed(failure) => failure.into(),
            Unopened::Served(by) => served(*by),
        })?;
        for note in notes {
            engine.journal.note(note).await;
        }
        let serves = Serves { removes, reads_only: request.untrusted };
        let serving = Keeper::listeners(self.keeper).and_then(|all| Serving::start(store, token, all, serves));
        let serving = serving.map_err(|e| io_failure(Code::Internal, "the state cannot be served", &e))?;
        let environment = serving.environment().map(|(name, value)| (name.to_owned(), value.into()));
        engine.common.environment.extend(environment);
        Ok(serving)
    }
}

/// The states are somebody else's of whom nothing here proves that he has ended: told as a lock is, and removed like one.
fn served(by: Served) -> Stop {
    let Served { failure, claim, id } = by;
    let lock = StateLock {
        id,
        operation: "serves the states".to_owned(),
        who: format!("the instance {} of the runner", claim.instance),
        created_ms: claim.time_ms,
        job: claim.job,
        ..StateLock::default()
    };
    Stop::Locked(failure, Box::new(lock), None)
}

/// Whether any file could name a backend at all. Wide: a comment is enough. Where no file has the word, there is none.
fn mentions_backend(root: &Path, extensions: &[&str]) -> Result<bool, Failure> {
    let failed = |e: &std::io::Error| io_failure(Code::SourceRefused, "the root module cannot be read", e);
    for entry in std::fs::read_dir(root).map_err(|e| failed(&e))? {
        let entry = entry.map_err(|e| failed(&e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !extensions.iter().any(|extension| name.ends_with(extension)) || name == OVERRIDE {
            continue;
        }
        // a link inside of the source, or a folder of that name: the engine decides
        let Ok(content) = std::fs::read(entry.path()) else { return Ok(true) };
        let has = |word: &[u8]| content.windows(word.len()).any(|window| window == word);
        if has(b"backend") || has(b"cloud") || (name.ends_with(".json") && has(b"\\u")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What `init` has set up; none: nothing.
fn set_up(data: &Path) -> Result<Option<Value>, Failure> {
    let content = match std::fs::read(data.join("terraform.tfstate")) {
        Ok(content) => content,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_failure(Code::Internal, "what init has set up", &e)),
    };
    let found = serde_json::from_slice(&content);
    found.map_err(|e| Code::EngineFailed.on(format!("what init has set up is no JSON: {e}")))
}

/// The backend that `init` has set up.
fn configured(data: &Path) -> Result<Configured, Failure> {
    let found = set_up(data)?.unwrap_or_default();
    Ok(match found["backend"]["type"].as_str() {
        None | Some("" | "local") => Configured::Local,
        Some(kind) => Configured::Other(Backend::new(kind, &found["backend"]["config"].to_string())),
    })
}

/// Refuses what `init` has set up where it is not the backend that it was given: engines merge override files in the order of their names, and one of
/// the source's may come after ours. Its state would be lost with the working copy, or be somewhere else.
fn is_ours(data: &Path, backend: &Value) -> Result<(), Failure> {
    let found = set_up(data)?.ok_or_else(|| Code::EngineFailed.on("init has set up no backend"))?;
    let (kind, wanted) = backend.as_object().into_iter().flatten().next().map_or(("", &Value::Null), |(k, v)| (k, v));
    let found = &found["backend"];
    let said = found["config"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let is_wanted = |(name, value): (&String, &Value)| wanted.get(name) == Some(value);
    let all = wanted.as_object().map_or(0, serde_json::Map::len);
    if found["type"] == kind && said.clone().count() == all && said.clone().all(is_wanted) {
        return Ok(());
    }
    let message = format!(
        "an override file of the root module says where the state is, after {OVERRIDE}: it would not be in the runner's store"
    );
    Err(Code::SourceRefused.on(message).next(
        "Take the backend out of the override files. A backend of the configuration's own stands in a file that is none.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_has_set_up_is_what_it_was_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let is = |backend: &Value, found: Value| {
            std::fs::write(folder.path().join("terraform.tfstate"), found.to_string()).expect("writes");
            is_ours(folder.path(), backend)
        };
        let http = json!({ "http": {} });
        assert!(is(&http, json!({"backend": {"type": "http", "config": {"address": null, "username": null}}})).is_ok());
        let local = json!({ "local": { "path": "/a/terraform.tfstate", "workspace_dir": "/a/workspaces" } });
        let config = json!({"path": "/a/terraform.tfstate", "workspace_dir": "/a/workspaces"});
        assert!(is(&local, json!({"backend": {"type": "local", "config": config}})).is_ok());
        for (backend, found) in [
            (&http, json!({"backend": {"type": "local", "config": {"path": null}}})),
            (&http, json!({"backend": {"type": "http", "config": {"address": "http://elsewhere"}}})),
            (&http, json!({"version": 3})),
            (
                &local,
                json!({"backend": {"type": "local", "config": {"path": "x.tfstate", "workspace_dir": "/a/workspaces"}}}),
            ),
            (&local, json!({"backend": {"type": "local", "config": {"path": "/a/terraform.tfstate"}}})),
        ] {
            let refused = is(backend, found.clone()).expect_err("another backend");
            assert_eq!(refused.code, Code::SourceRefused, "{found}");
        }
        std::fs::remove_file(folder.path().join("terraform.tfstate")).expect("removes");
        assert!(is_ours(folder.path(), &http).is_err());
    }

    #[test]
    fn what_may_name_a_backend_is_left_to_the_engine() {
        for (name, content, expected) in [
            ("main.tf", "resource \"terraform_data\" \"a\" {}", false),
            ("main.tf", "terraform {\n backend \"s3\" {}\n}", true),
            ("main.tf", "terraform {\n cloud {}\n}", true),
            ("main.tf", "# no backend here", true),
            ("x.tf.json", "{\"terraform\":{\"b\\u0061ckend\":{}}}", true),
            ("notes.txt", "backend", false),
            (OVERRIDE, "backend", false),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join(name), content).expect("writes");
            assert_eq!(
                mentions_backend(folder.path(), &[".tf", ".tf.json"]).expect("reads"),
                expected,
                "{name} {content}"
            );
        }
    }

    #[test]
    fn what_init_has_set_up_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(configured(folder.path()).expect("reads"), Configured::Local);
        for (content, expected) in [
            (r#"{"backend":{"type":"local"}}"#, Some(Configured::Local)),
            (r#"{"backend":{"type":"s3"}}"#, Some(Configured::Other(Backend::new("s3", "null")))),
            (
                r#"{"backend":{"type":"s3","config":{"a":1}}}"#,
                Some(Configured::Other(Backend::new("s3", r#"{"a":1}"#))),
            ),
            (r#"{"version":3}"#, Some(Configured::Local)),
            ("not JSON", None),
        ] {
            std::fs::write(folder.path().join("terraform.tfstate"), content).expect("writes");
            assert_eq!(configured(folder.path()).ok(), expected, "{content}");
        }
    }
}
