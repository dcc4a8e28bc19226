//! The source of a job: an uploaded archive, a commit of a Git repository, an artifact of an OCI registry or a module of a registry of modules,
//! in the folder `source/` of the job. It is made by somebody else: nothing in it may lead outside of that folder, and nothing in it is run here.

pub(crate) mod access;
mod archive;
mod git;
mod links;
mod oci;
mod registry;
mod set_aside;
mod unpacked;
mod web;
mod zipped;

use crate::cancel::Watcher;
use crate::configuration;
use crate::journal::Journal;
use crate::process::Environment;
use crate::stop::{Stop, io_failure};
use access::Access;
use set_aside::Look;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{Source, SourceResolved, source};
use std::path::{Component, Path, PathBuf};

/// The longest path inside of a source, bytes.
const PATH_MAX: usize = 4096;
/// The deepest folder inside of a source.
const DEPTH_MAX: usize = 64;

/// What fetching needs to know.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    /// Where the source goes: an empty folder.
    pub(crate) source: &'a Path,
    /// The job's folder.
    pub(crate) work: &'a Path,
    /// Its temporary one.
    pub(crate) tmp: &'a Path,
    /// The archive that the supervisor fetched.
    pub(crate) archive: &'a Path,
    /// The git program.
    pub(crate) git: &'a Path,
    /// The environment for git: proxy settings and the like.
    pub(crate) environment: &'a Environment,
    /// Whether `file:` addresses are taken: by the runner's own configuration only.
    pub(crate) allow_file: bool,
    /// What it is fetched with.
    pub(crate) access: &'a Access,
    /// The folder with its commits that were fetched before; empty: none is kept.
    pub(crate) cache: &'a Path,
}

/// Fetches the source. The second value is the folder in it that the root module's path begins at.
///
/// # Errors
/// `source_refused`, `source_unavailable`, `disk_full`; cancelled.
pub(crate) async fn fetch(
    wanted: &Source,
    places: &Places<'_>,
    cancel: &mut Watcher,
    journal: &Journal,
) -> Result<(SourceResolved, String), Stop> {
    std::fs::create_dir_all(places.source)
        .map_err(|e| io_failure(Code::Internal, "cannot make the source folder", &e))?;
    let mut folder = String::new();
    let resolved = match &wanted.kind {
        Some(source::Kind::Archive(wanted)) => {
            archive::fetch(wanted, places, cancel).await?;
            SourceResolved { kind: "archive".into(), revision: wanted.sha256.clone(), reference: String::new() }
        }
        Some(source::Kind::Git(git)) => git::fetch(git, &wanted.path, places, cancel, journal).await?,
        Some(source::Kind::Oci(artifact)) => oci::fetch(artifact, places, cancel).await?,
        Some(source::Kind::Registry(module)) => {
            let (resolved, of_module) = registry::fetch(module, places, cancel, journal).await?;
            folder = of_module;
            resolved
        }
        None => return Err(Code::SourceRefused.on("the job names no source").into()),
    };
    look(places.source, Look::First, journal).await?;
    Ok((resolved, folder))
}

/// Looks through the source.
async fn look(source: &Path, which: Look, journal: &Journal) -> Result<(), Stop> {
    let top = source.to_owned();
    let looked = tokio::task::spawn_blocking(move || set_aside::look(&top, which)).await;
    for note in looked.unwrap_or_else(|_| Err(Code::Internal.on("looking through the source panicked")))? {
        journal.note(note).await;
    }
    Ok(())
}

/// Holds what a hook has left of the source against what a source may be: what goes of one that was fetched goes of it too. Links may lead out by
/// now, as those of an environment for Python do; not those that stand for the configuration, which is read here.
///
/// # Errors
/// `source_refused`.
pub(crate) async fn look_again(source: &Path, root: &Path, extensions: &[&str], journal: &Journal) -> Result<(), Stop> {
    look(source, Look::Again, journal).await?;
    let failed = |e: std::io::Error| io_failure(Code::SourceRefused, "the source after its hook", &e);
    let top = source.canonicalize().map_err(failed)?;
    for (name, path) in configuration::files(root, extensions).map_err(failed)? {
        let inside = path.canonicalize().is_ok_and(|path| path.starts_with(&top) && path.is_file());
        if !inside {
            let message = format!("{name}, as the hook has left it, is no file of the source");
            return Err(Code::SourceRefused.on(message).into());
        }
    }
    Ok(())
}

/// The folder of the root module inside of the source, as an absolute path.
///
/// # Errors
/// `source_refused`: a path that leaves the source, is not there, or holds no configuration.
pub(crate) fn root_module(source: &Path, path: &str, extensions: &[&str]) -> Result<PathBuf, Failure> {
    let root = root_folder(source, path)?;
    let is_configuration = |name: &str| extensions.iter().any(|extension| name.ends_with(extension));
    let mut entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
    if entries.any(|entry| entry.file_name().to_str().is_some_and(is_configuration)) {
        return Ok(root);
    }
    let shown = if path.is_empty() { "." } else { path };
    let what = format!("the folder {shown:?} of the source holds no file ending in {}", extensions.join(", "));
    Err(Code::SourceRefused.on(what))
}

/// The same before there has to be any configuration in it.
///
/// # Errors
/// `source_refused`: a path that leaves the source, or is no folder.
pub(crate) fn root_folder(source: &Path, path: &str) -> Result<PathBuf, Failure> {
    let refuse = |what: String| Err(Code::SourceRefused.on(what));
    if path.len() > PATH_MAX || path.contains('\0') {
        return refuse("the root module's path is too long or holds a NUL".into());
    }
    let relative = Path::new(path);
    if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return refuse(format!("the root module's path {path:?} is not a relative path inside of the source"));
    }
    let top = source.canonicalize().map_err(|e| io_failure(Code::Internal, "the source folder", &e))?;
    let Ok(root) = source.join(relative).canonicalize() else {
        return refuse(format!("the source has no folder {path:?}"));
    };
    if !root.starts_with(&top) {
        return refuse(format!("the root module's path {path:?} leads out of the source"));
    }
    match root.is_dir() {
        true => Ok(root),
        false => refuse(format!("{path:?} in the source is not a folder")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_module_is_inside_or_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().join("source");
        for inside in ["", "a/b", "empty"] {
            std::fs::create_dir_all(top.join(inside)).expect("a folder");
        }
        std::fs::create_dir_all(folder.path().join("outside")).expect("a folder");
        for file in ["main.tf", "a/b/x.tf.json", "file"] {
            std::fs::write(top.join(file), "").expect("writes");
        }
        std::fs::write(folder.path().join("outside/main.tf"), "").expect("writes");
        std::os::unix::fs::symlink("../outside", top.join("out")).expect("links");
        std::os::unix::fs::symlink("a/b", top.join("in")).expect("links");
        let extensions = &[".tf", ".tf.json"];
        for good in ["", ".", "a/b", "./a/b", "in"] {
            assert!(root_module(&top, good, extensions).is_ok(), "{good}");
        }
        let long = "a/".repeat(PATH_MAX);
        for bad in ["..", "a/../..", "/", "/etc", "out", "nothing", "empty", "file", "main.tf", "a\0b", &long] {
            let failure = root_module(&top, bad, extensions).expect_err(bad);
            assert_eq!(failure.code, Code::SourceRefused, "{bad}");
        }
    }
}
