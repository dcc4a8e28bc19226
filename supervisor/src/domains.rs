//! Which files workers reach: Landlock domains. Made here, where the configuration is known; the spawner only passes them on.
//!
//! - an operation reads what its program is linked with and the certificates that TLS trusts, and nothing else;
//! - a resolver reads this machine as the runner's user may, without what is the runner's own, and writes the clouds' caches;
//! - a job reads its own root's parts, or, where it has none, the same as a resolver without the files of connections and of sources' entries; it writes its own
//!   folder and its stack's state.
//!
//! It must never name the runner's credentials or state directory, nor a folder that either lies in.

use crate::config::{Config, Connection};
use crate::spawner::sandboxes::{job_paths, operation_paths};
use crate::spawner::wire::Mechanisms;
use crate::workers::Version;
use runner_sandbox::landlock::{Access, DEVICES, Ruleset, Scope};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Entries of one folder beside something excluded: what lies beyond is not reached.
const ENTRIES_MAX: usize = 4096;
/// Never reached: disks and memory as files.
const NEVER: [&str; 1] = ["/dev"];

/// The domains of one configuration. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Domains {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    operation: Fixed,
    resolver: Reach,
    job: Reach,
}

/// The same for all: entering it is all that an operation costs. A program is known to the kernel by its file, so one that was put in its
/// place has another.
#[derive(Debug)]
struct Fixed {
    program: PathBuf,
    made: Mutex<(Option<Version>, Arc<OwnedFd>)>,
}

/// Looked at anew for each worker: files come and go.
#[derive(Debug)]
struct Reach {
    /// Everything but these; `None`: only what is named.
    all_but: Option<Vec<PathBuf>>,
    /// Also where a folder on the way cannot be listed.
    named: Vec<PathBuf>,
    writes: Vec<PathBuf>,
}

// === impl Domains ===

impl Domains {
    /// Those of that configuration; none where this machine has no Landlock.
    ///
    /// # Errors
    /// The system's.
    pub fn new(config: &Config, mechanisms: &Mechanisms) -> io::Result<Self> {
        if mechanisms.landlock == 0 {
            return Ok(Self { inner: None });
        }
        let operation = Fixed::new(&config.workers.ops)?;
        let home = config.environment.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let in_home = |names: &[&str]| -> Vec<PathBuf> {
            home.iter().flat_map(|home| names.iter().map(|name| home.join(name))).collect()
        };
        let mut excluded: Vec<PathBuf> = NEVER.iter().map(PathBuf::from).collect();
        excluded.extend([config.state_dir.clone(), config.credentials.clone()]);
        excluded.extend(config.proxy.password_file.clone());
        let (folders, files) = config.of_secrets();
        excluded.extend(folders.into_iter().chain(files).cloned());
        let mut named = vec![config.workers.ops.clone()];
        let mut of_connections = in_home(&[".aws", ".kube", ".config/gcloud"]);
        of_connections.push(PathBuf::from("/var/run/secrets"));
        for connection in config.connections.values() {
            let file = connection.credentials_file();
            of_connections.extend(file.cloned());
            named.extend(file.cloned());
            if let Connection::Kubeconfig { exec_plugins, .. } = connection {
                named.extend(exec_plugins.iter().map(PathBuf::from));
            }
        }
        let of_sources: Vec<_> = config.sources.files().cloned().collect();
        of_connections.extend(of_sources.iter().cloned());
        named.extend(of_sources);
        let resolver = Reach {
            all_but: Some(excluded.clone()),
            named,
            writes: in_home(&[".aws/sso/cache", ".aws/cli/cache", ".kube/cache"]),
        };
        excluded.extend(of_connections);
        let named = [&config.workers.iac].into_iter().chain(&config.workers.reads).cloned();
        let named = named.chain(job_paths().map(Path::to_owned)).collect();
        // what its own root has, or else most of this machine
        let job = Reach { all_but: (!mechanisms.job_root).then_some(excluded), named, writes: Vec::new() };
        Ok(Self { inner: Some(Arc::new(Inner { operation, resolver, job })) })
    }

    /// For an operation's worker.
    ///
    /// # Errors
    /// The system's.
    pub fn operation(&self) -> io::Result<Option<OwnedFd>> {
        self.inner.as_ref().map(|i| i.operation.current()?.try_clone()).transpose()
    }
    /// For a resolver.
    ///
    /// # Errors
    /// The system's.
    pub fn resolver(&self) -> io::Result<Option<Ruleset>> {
        self.inner.as_ref().map(|i| i.resolver.domain(&[], &[])).transpose()
    }
    /// For one job, which does as it likes below `writes` and reads `reads` besides.
    ///
    /// # Errors
    /// The system's.
    pub fn job(&self, writes: &[PathBuf], reads: &[PathBuf]) -> io::Result<Option<Ruleset>> {
        self.inner.as_ref().map(|i| i.job.domain(writes, reads)).transpose()
    }
}

// === impl Fixed ===

impl Fixed {
    fn new(program: &Path) -> io::Result<Self> {
        let version = Version::of(program);
        Ok(Self { made: Mutex::new((version, Arc::new(Self::make(program)?))), program: program.to_owned() })
    }
    fn make(program: &Path) -> io::Result<OwnedFd> {
        let domain = Ruleset::new(Scope { no_tcp: true, own_signals_and_sockets: true })?;
        for path in operation_paths() {
            domain.allow_path(path, Access::Read)?;
        }
        // what is executed must be in the domain in which it is
        domain.allow_path(program, Access::Read)?;
        Ok(domain.into())
    }
    fn current(&self) -> io::Result<Arc<OwnedFd>> {
        let version = Version::of(&self.program);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != version {
            *made = (version, Arc::new(Self::make(&self.program)?));
        }
        Ok(made.1.clone())
    }
}

// === impl Reach ===

impl Reach {
    fn domain(&self, writes: &[PathBuf], reads: &[PathBuf]) -> io::Result<Ruleset> {
        let domain = Ruleset::new(Scope { no_tcp: false, own_signals_and_sockets: true })?;
        let parts = self.all_but.as_deref().map(all_but).unwrap_or_default();
        for path in parts.iter().chain(&self.named).chain(reads) {
            domain.allow_path(path, Access::Read)?;
        }
        for path in self.writes.iter().chain(writes) {
            domain.allow_path(path, Access::Write)?;
        }
        devices(&domain)?;
        Ok(domain)
    }
}

fn devices(domain: &Ruleset) -> io::Result<()> {
    DEVICES.iter().try_for_each(|path| domain.allow_path(Path::new(path), Access::Use))
}

/// The largest parts of the file system that have none of the excluded paths in them. Symbolic links are left out: what they lead to is
/// there by itself, or is not to be reached.
fn all_but(excluded: &[PathBuf]) -> Vec<PathBuf> {
    // as the kernel will see them; what is not there yet lies where its nearest folder is
    let excluded: Vec<PathBuf> = excluded.iter().map(|path| real(path)).collect();
    let mut parts = Vec::new();
    walk(Path::new("/"), &excluded, &mut parts);
    parts
}

fn real(path: &Path) -> PathBuf {
    if let Ok(found) = std::fs::canonicalize(path) {
        return found;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

fn walk(folder: &Path, excluded: &[PathBuf], parts: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().take(ENTRIES_MAX) {
        let path = entry.path();
        if excluded.contains(&path) || entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            continue;
        }
        if excluded.iter().any(|e| e.starts_with(&path)) {
            walk(&path, excluded, parts);
        } else {
            parts.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_some_has_everything_beside_them_and_nothing_above() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().canonicalize().expect("real").join(name);
        for name in ["a/secret/deep", "a/open", "b"] {
            std::fs::create_dir_all(at(name)).expect("makes");
        }
        std::fs::write(at("key"), "x").expect("writes");
        std::os::unix::fs::symlink(at("a/secret"), at("way-in")).expect("links");
        // one of them is named by way of a link, one is not there yet
        std::os::unix::fs::symlink(at("a"), at("alias")).expect("links");
        let parts = all_but(&[at("alias/secret"), at("key"), at("later/file")]);
        for inside in ["a/open", "b"] {
            assert!(parts.contains(&at(inside)), "{inside} of {parts:?}");
        }
        for secret in [at("a/secret/deep"), at("key"), at("way-in/deep"), at("later/file")] {
            assert!(!parts.iter().any(|p| secret.starts_with(p)), "{secret:?} of {parts:?}");
        }
        assert!(parts.contains(&PathBuf::from("/usr")));
    }
}
