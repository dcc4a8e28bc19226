//! The supervisor confines itself: after its start it needs sockets, its state directory, and the files that it may be told to read again.
//!
//! It must come before the first thread and before credentials are read. What a machine does not have is said, and it goes on without.

use crate::config::{Config, Connection, DEFAULT_FILE};
use crate::spawner::sandboxes::operation_paths;
use crate::spawner::wire::Mechanisms;
use runner_sandbox::locked::Locked;
use runner_sandbox::own::{self, Files};
use runner_sandbox::profiles::SUPERVISOR;
use shared_proto::secret::{Keep, Secret};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What names are looked up by, besides the libraries that are loaded for it, and how many processors there are to be had. Whole folders:
/// files in them are replaced by others of their names.
const SYSTEM: [&str; 6] =
    ["/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/nix/store", "/sys/fs/cgroup"];
/// Other processes' numbers, parents and sessions.
const PROCESSES: &str = "/proc";
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The folders whose files it can still read; `None`: all that its user may.
    reads: Option<Vec<PathBuf>>,
    /// What does not hold: `supervisor: NAME (why)`.
    pub missing: Vec<String>,
}

struct InLocked(Locked);

impl Keep for InLocked {
    fn text(&self) -> &str {
        // it was a text when it was put there
        std::str::from_utf8(self.0.bytes()).unwrap_or_default()
    }
}

/// The same secret, in memory of its own. Where there is no such memory, as it was.
pub fn keep(secret: &Secret) -> Secret {
    match Locked::new(secret.expose().as_bytes()) {
        Ok(locked) => Secret::kept(Arc::new(InLocked(locked))),
        Err(_) => secret.clone(),
    }
}

// === impl Own ===

impl Own {
    /// Locks memory, gives up privileges, enters a domain and a filter of system calls. The state directory must be there.
    ///
    /// # Errors
    /// Privileges could not be given up, which no machine refuses.
    pub fn confine(config: &Config, mechanisms: &Mechanisms) -> io::Result<Self> {
        let mut own = Self::default();
        let mut lacks = |name: &str, why: String| own.missing.push(format!("supervisor: {name} ({why})"));
        // 1. no core, and nothing in swap: the second may take a privilege
        if let Err(e) = own::forbid_core() {
            lacks("core_dumps_off", e.to_string());
        }
        if let Err(why) = own::lock_memory() {
            lacks("memory_locked", format!("{why}: only the API key is locked"));
        }
        // 2. what may only be done by root was done by now
        own::drop_privileges()?;
        // 3. files
        let files = files(config);
        // in a domain it sees the folders of no process outside, and by these it finds what a job left whose first process died. In
        // namespaces nothing is left then
        let entered = if mechanisms.job_root {
            own::enter_domain(&files).map_err(|e| format!("Landlock: {e}"))
        } else {
            Err("jobs without namespaces are found by the folders that they work in".to_owned())
        };
        match entered {
            Ok(()) => own.reads = Some(files.reads.into_iter().chain(files.writes).collect()),
            Err(why) => own.missing.push(format!("supervisor: files_unreachable ({why})")),
        }
        // 4. system calls, when all of these have been made
        if let Err(e) = own::filter(&SUPERVISOR) {
            own.missing.push(format!("supervisor: system_calls_filtered (seccomp: {e})"));
        }
        Ok(own)
    }

    /// Whether the files that a configuration names are where those of the first one were.
    ///
    /// # Errors
    /// The first that is not, in words.
    pub fn still_reads(&self, config: &Config) -> Result<(), String> {
        let Some(folders) = &self.reads else { return Ok(()) };
        let outside = |file: &&PathBuf| !folders.iter().any(|folder| real(file).starts_with(folder));
        match named(config).chain(config.of_secrets().0).find(outside) {
            None => Ok(()),
            Some(file) => Err(format!(
                "{} lies in a folder that the runner gave up when it started: restart the runner to have it read there",
                file.display()
            )),
        }
    }
}

/// The files that a configuration has the supervisor read, whenever.
fn named(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let policies = config.connections.values().filter_map(Connection::policy_file);
    config
        .file
        .iter()
        .chain([&config.credentials, &config.policy.path])
        .chain(&config.proxy.password_file)
        .chain(config.audit.recording_key.as_ref().map(|key| &key.file))
        .chain(policies)
        .chain(config.jobs.states.files())
        .chain(config.of_secrets().1)
}

fn files(config: &Config) -> Files {
    let mut reads: Vec<PathBuf> = operation_paths().map(Path::to_owned).collect();
    reads.extend(SYSTEM.iter().chain([&PROCESSES]).map(PathBuf::from));
    // by which a panic names its places
    reads.extend(std::env::current_exe());
    reads.extend(Path::new(DEFAULT_FILE).parent().map(Path::to_owned));
    // the folders, by the name that is configured and by where that leads: a file is replaced by another one of its name
    for file in named(config) {
        let by_name = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        reads.extend(by_name.parent().map(real));
        reads.extend(real(file).parent().map(Path::to_owned));
    }
    // these as they are
    reads.extend(config.of_secrets().0.into_iter().map(|folder| real(folder)));
    let mut writes = vec![real(&config.state_dir)];
    if let Some(crate::audit::Sink::File(path)) = &config.audit.sink {
        writes.extend(path.parent().map(real));
    }
    writes.extend(DEVICES.iter().map(PathBuf::from));
    // the domains of resolvers and jobs are made of what is beside the runner's own files: names, and nothing of what is in them
    Files { lists: vec![PathBuf::from("/")], reads, writes }
}

/// Without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
