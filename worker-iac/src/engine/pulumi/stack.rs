//! The stack of a job: made ready, remembered as it was before a plan, looked at again before the plan is applied, and freed of a lock.

use super::approved::{Approved, Files, hash_of_state};
use super::{home, imports_beside, stack_name};
use crate::engine::Engine;
use crate::engine::dialect::{Command, Plan};
use crate::engine::environment::private_file;
use crate::engine::kept_by;
use crate::engine::taken::{self, Left, There, kept_in};
use crate::stop::{Stop, io_failure};
use crate::store::{Backend, Store};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{ImportedResource, JobRequest, JobStart};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many updates of a stack are kept beside its state: Pulumi writes two files for each, one of them a whole state, and clears none away.
const HISTORY_MAX: usize = 20;
/// Where they are, and where locks are, in the folder of a state; below it project and stack.
const HISTORY: &str = ".pulumi/history";
const LOCKS: &str = ".pulumi/locks/organization";
/// Where the stacks themselves are, in the same way.
const STACKS: &str = ".pulumi/stacks";

/// Chooses the stack, which is made where there is none, and sets its values; what the source has for it stays otherwise.
///
/// # Errors
/// The engine's; the file system.
pub(crate) async fn prepare(engine: &mut Engine, start: &JobStart) -> Result<(), Stop> {
    let request = start.request.clone().unwrap_or_default();
    let stack = stack_name(&request);
    let state = home::state_folder(&start.state_directory);
    let note = if state_is_here(engine, &state) {
        kept_by::is_the_newest(start)?;
        "The project has no backend: its state is kept in the runner's state directory."
    } else {
        "The state is in the project's own backend."
    };
    engine.journal.note(format!("{note} The job is about its stack {stack}.")).await;
    engine.workspace(stack).await?;
    leaves_nothing(engine, &request, start).await?;
    for setting in std::mem::take(&mut engine.settings) {
        engine.set(&setting).await?;
    }
    if !request.imports.is_empty() {
        private_file(
            &imports_beside(&super::super::plan_in(&engine.common.work)),
            imports(&request.imports)?.as_bytes(),
        )?;
    }
    clear_history(&below(&state, HISTORY, engine).join(stack));
    Ok(())
}

/// Refuses to go on with a backend of the project's own that does not have what is known of the state: what the runner has of it, or that it is in
/// another backend.
async fn leaves_nothing(engine: &mut Engine, request: &JobRequest, start: &JobStart) -> Result<(), Stop> {
    let (folder, state) = (Path::new(&start.state_directory), home::state_folder(&start.state_directory));
    let Some(own) = own_backend(engine) else { return Ok(()) };
    if let Some(before) = Store::taken_from(folder)? {
        if before.is_another_than(&own) && made(&engine.state().await?["deployment"]["resources"]).is_empty() {
            return taken::is_not_in(&before, &own, request, &engine.journal).await;
        }
        return Ok(());
    }
    let path = below(&state, STACKS, engine).join(format!("{}.json", stack_name(request)));
    let Some(left) = kept_in(&path)? else { return Ok(()) };
    let left: Value = serde_json::from_slice(&left)
        .map_err(|e| io_failure(Code::StateUnusable, path.display(), &std::io::Error::from(e)))?;
    let left = made(&left["checkpoint"]["latest"]["resources"]);
    if left.is_empty() {
        return Ok(());
    }
    let there = engine.state().await?;
    let there = made(&there["deployment"]["resources"]);
    let has = if left.iter().all(|(urn, id)| there.get(urn) == Some(id)) {
        There::Taken
    } else if there.is_empty() {
        There::Nothing
    } else {
        There::Another
    };
    let next = format!(
        "Take the state there: on the runner's machine `pulumi stack export` with {} as its backend and {} as its file of the passphrase, and \
         `pulumi stack import` into the new one.",
        home::file_url(&state),
        folder.join(home::PASSPHRASE).display()
    );
    let left = Left { backend: &own, what: format!("with {} resources", left.len()), there: has, next };
    left.judge(request, folder, &engine.journal).await
}

/// What a deployment has made, by URN, with the ids: neither the stack itself nor its providers.
fn made(resources: &Value) -> BTreeMap<&str, &Value> {
    let made = resources.as_array().into_iter().flatten().filter(|resource| {
        let kind = resource["type"].as_str().unwrap_or_default();
        kind != "pulumi:pulumi:Stack" && !kind.starts_with("pulumi:providers:")
    });
    made.filter_map(|resource| Some((resource["urn"].as_str()?, &resource["id"]))).collect()
}

/// Remembers which state a plan is made of.
///
/// # Errors
/// The engine's; the file system.
pub(crate) async fn remember_state(engine: &mut Engine, plan: &Path) -> Result<(), Stop> {
    let state = engine.state().await?;
    Ok(private_file(&Files(plan).state(), hash_of_state(&state).as_bytes())?)
}

/// Keeps what a preview has shown, for approval.
///
/// # Errors
/// The file system; `too_large`.
pub(crate) fn keep(plan: &Path) -> Result<(), Failure> {
    Approved::of(Files(plan))?.write(Files(plan))
}

/// Looks whether a plan is still what would be applied: its state is the same, and what Pulumi cannot save is previewed once more.
///
/// # Errors
/// `plan_stale`; the engine's; the file system.
pub(crate) async fn check(engine: &mut Engine, what: &Plan<'_>, plan: &Path) -> Result<(), Stop> {
    let approved = Approved::read(Files(plan))?;
    let state = hash_of_state(&engine.state().await?);
    if state != approved.state {
        return Err(Code::PlanStale.on("the stack was changed after the plan was made").into());
    }
    if Files(plan).own().exists() {
        return Ok(());
    }
    let again = plan.with_file_name("again.bin");
    private_file(&Files(&again).state(), state.as_bytes())?;
    engine.look_again(what, &again).await?;
    if !Approved::of(Files(&again))?.would_do_as(&approved) {
        let message = "another preview would do something else than the one that was approved";
        return Err(Code::PlanStale.on(message).into());
    }
    Ok(())
}

/// Removes a lock. Pulumi removes all that a stack has: where the state is here, that one has to be the only one.
///
/// # Errors
/// `not_found`, `conflict`; the engine's.
pub(crate) async fn unlock(
    engine: &mut Engine,
    request: &JobRequest,
    start: &JobStart,
    lock: &str,
) -> Result<(), Stop> {
    let state = home::state_folder(&start.state_directory);
    if state_is_here(engine, &state) {
        let found = names(&below(&state, LOCKS, engine).join(stack_name(request)));
        let locks: Vec<_> = found.iter().filter_map(|name| name.strip_suffix(".json")).collect();
        if !locks.contains(&lock) {
            return Err(Code::NotFound
                .on(format!("the stack has no lock {lock}"))
                .next("Start a job: nothing is in its way.")
                .into());
        }
        if locks.len() > 1 {
            let message = format!("the stack has {} locks, and Pulumi removes all of them or none", locks.len());
            return Err(Code::Conflict.on(message).next("Wait for what holds the others, and try again.").into());
        }
    }
    engine.command(&Command::Unlock(lock)).await.map(drop)
}

fn state_is_here(engine: &Engine, state: &Path) -> bool {
    backend(engine).starts_with("file://") && state.exists()
}

/// Writes down where the state is that is about to be applied to.
///
/// # Errors
/// The file system.
pub(crate) fn is_applied_to(engine: &Engine, start: &JobStart) -> Result<(), Failure> {
    match own_backend(engine) {
        None => kept_by::this_instance(start),
        Some(own) => Store::taken_to(Path::new(&start.state_directory), &own),
    }
}

/// The backend, where it is the project's own.
fn own_backend(engine: &Engine) -> Option<Backend> {
    let url = backend(engine);
    let kind = url.split("://").next().unwrap_or_default();
    (kind != "file").then(|| Backend::new(kind, url))
}

/// The address of the state.
fn backend(engine: &Engine) -> &str {
    engine.common.environment.get("PULUMI_BACKEND_URL").and_then(|url| url.to_str()).unwrap_or_default()
}

/// Where a project has something in the folder of its state.
fn below(state: &Path, what: &str, engine: &Engine) -> PathBuf {
    let project = engine.common.options.prefix.split("::").nth(1).unwrap_or_default();
    state.join(what).join(project)
}

/// <https://www.pulumi.com/docs/iac/cli/commands/pulumi_import/>
fn imports(imports: &[ImportedResource]) -> Result<String, Failure> {
    let mut resources = Vec::with_capacity(imports.len());
    for import in imports {
        let (kind, name) = import.address.split_once("::").ok_or_else(|| {
            Code::InvalidArgument
                .on(format!("{:?} is no resource of Pulumi", import.address))
                .next("Name it by its type and its name: aws:s3/bucket:Bucket::logs.")
        })?;
        resources.push(json!({ "type": kind, "name": name, "id": import.id }));
    }
    Ok(json!({ "resources": resources }).to_string())
}

/// Removes what is beyond the newest updates. It is nobody's state: where that fails it stays.
fn clear_history(folder: &Path) {
    let mut updates: Vec<_> = names(folder);
    // STACK-MOMENT.history.json and STACK-MOMENT.checkpoint.json, and what the file system's attributes are kept in: by moment, both lie together
    updates.sort();
    let moment = |name: &String| name.split('.').next().unwrap_or_default().to_owned();
    let mut moments: Vec<_> = updates.iter().map(moment).collect();
    moments.dedup();
    let old: Vec<_> = moments.iter().rev().skip(HISTORY_MAX).collect();
    for name in updates.iter().filter(|name| old.contains(&&moment(name))) {
        let failed = std::fs::remove_file(folder.join(name));
        if let Err(e) = failed.map_err(|e| io_failure(Code::StateUnusable, name, &e)) {
            eprintln!("runner-worker-iac: an old update stays: {e}");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_named_by_type_and_name() {
        let import = |address: &str| ImportedResource { address: address.into(), id: "i-${1}".into() };
        assert_eq!(
            imports(&[import("aws:s3/bucket:Bucket::logs::eu")]).expect("fine"),
            r#"{"resources":[{"id":"i-${1}","name":"logs::eu","type":"aws:s3/bucket:Bucket"}]}"#
        );
        assert_eq!(imports(&[import("aws_s3_bucket.logs")]).expect_err("none").code, Code::InvalidArgument);
    }

    #[test]
    fn the_newest_updates_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |n: usize| {
            for end in ["history.json", "history.json.attrs", "checkpoint.json"] {
                std::fs::write(folder.path().join(format!("dev-{:019}.{end}", 1_795_887_402_000 + n)), "x")
                    .expect("writes");
            }
        };
        (0..HISTORY_MAX).for_each(put);
        clear_history(folder.path());
        assert_eq!(names(folder.path()).len(), 3 * HISTORY_MAX);
        put(HISTORY_MAX);
        clear_history(folder.path());
        let left = names(folder.path());
        assert_eq!(left.len(), 3 * HISTORY_MAX);
        assert!(!left.iter().any(|name| name.contains("402000.")) && left.iter().any(|name| name.contains("402020.")));
        clear_history(Path::new("/nowhere"));
    }
}
