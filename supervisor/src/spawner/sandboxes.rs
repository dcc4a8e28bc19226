//! What each kind of worker is confined with on this machine: found out by doing it, once, before anything else.
//!
//! A trial is this very program in the mode `trial`, started as an operation's worker would be: it says by its exit code whether what
//! should be refused is refused. What cannot be had is left out, and the supervisor is told; it decides whether that is enough.

use super::wire::{Launch, Mechanisms};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use runner_sandbox::confine::{Confinement, Limits, Namespaces, Own, Root};
use runner_sandbox::landlock::{self, Access, Ruleset, Scope};
use runner_sandbox::seccomp::Filter;
use runner_sandbox::{profiles, spawn};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

/// Whatever workers do, the supervisor gets to answer its pings.
const NICENESS: i32 = 5;
/// An operation's worker: one program, some buffers, and the certificates of the world.
const OPERATION: Limits = Limits { descriptors: 1024, file_size: 64 << 20, memory: 512 << 20, niceness: NICENESS };
/// A resolver's plug-in may be any program.
const RESOLVER: Limits = Limits { descriptors: 1024, file_size: 64 << 20, memory: 4 << 30, niceness: NICENESS };
/// Engines start a provider for each module and region, and providers map what they like.
const JOB: Limits = Limits { descriptors: 65_536, file_size: u64::MAX, memory: u64::MAX, niceness: NICENESS };
/// The first of the user ids that operations' workers get where this process is root: beyond those of people, services, systemd's own and
/// what containers are usually given.
pub const OWN_USERS: u32 = 1_900_000_000;

/// What an operation's worker sees of this machine: what its program is linked with, and whom TLS trusts.
const OPERATION_ROOT: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// The exit codes of a trial.
pub mod trial {
    /// Everything is as it should be.
    pub const GOOD: i32 = 0;
    /// A file is there that should not be.
    pub const SEES_FILES: i32 = 10;
    /// A socket can be made.
    pub const MAKES_SOCKETS: i32 = 11;
    /// Other processes are there.
    pub const SEES_PROCESSES: i32 = 12;
}

/// What workers get here.
pub(super) struct Sandboxes {
    mechanisms: Mechanisms,
    namespaces: Option<Namespaces>,
    /// Where this process is in an empty network namespace, for operations to share: that of the machine, for the others.
    machines_network: Option<File>,
    operation: Option<Filter>,
    resolver: Option<Filter>,
    job: Option<Filter>,
}

/// The paths of an operation's worker, for its domain.
pub fn operation_paths() -> impl Iterator<Item = &'static Path> {
    OPERATION_ROOT.iter().map(Path::new)
}

// === impl Sandboxes ===

impl Sandboxes {
    /// Tries what there is. Takes a few milliseconds.
    pub(super) fn find(spawn: &mut spawn::Spawner) -> Self {
        let mut found = Self {
            mechanisms: Mechanisms {
                landlock: u8::try_from(landlock::abi()).unwrap_or(u8::MAX),
                ..Mechanisms::default()
            },
            namespaces: None,
            machines_network: None,
            operation: profiles::OPERATION.compile().ok(),
            resolver: profiles::RESOLVER.compile().ok(),
            job: profiles::JOB.compile().ok(),
        };
        let Ok(program) = File::open("/proc/self/exe") else { return found };
        let mut trial = |confinement: &Confinement<'_>| -> Result<i32, spawn::SpawnError> {
            let pid = spawn.spawn(&spawn::Plan {
                program: spawn::Program::File(program.as_fd()),
                arguments: &[c"runner", c"trial"],
                environment: &[],
                inherit: &[],
                directory: None,
                silent: true,
                own_session: true,
                dies_with_parent: true,
                confine: Some(confinement),
            })?;
            Ok(match waitpid(Pid::from_raw(pid), None) {
                Ok(WaitStatus::Exited(_, code)) => code,
                _ => -1,
            })
        };
        let bare =
            Confinement { limits: OPERATION, namespaces: None, network: None, own: None, domain: None, filter: None };

        let filter = found.operation.take();
        found.mechanisms.seccomp =
            filter.is_some() && trial(&Confinement { filter: filter.as_ref(), ..bare }) == Ok(trial::SEES_FILES);
        if found.mechanisms.seccomp {
            found.operation = filter;
        } else {
            (found.resolver, found.job) = (None, None);
        }
        // what a trial that sees nothing else says
        let good = if found.mechanisms.seccomp { trial::GOOD } else { trial::MAKES_SOCKETS };

        if found.mechanisms.landlock > 0 {
            let domain = domain(&program);
            let confined = Confinement { domain: domain.as_ref(), filter: found.operation.as_ref(), ..bare };
            if domain.is_none() || trial(&confined) != Ok(good) {
                found.mechanisms.landlock = 0;
            }
        }

        let root = nix::unistd::geteuid().is_root();
        if root {
            let own = Some(Own { uid: OWN_USERS, gid: OWN_USERS });
            found.mechanisms.own_user = trial(&Confinement { own, ..bare }).is_ok();
        }

        let shown = OPERATION_ROOT.iter().fold(Root::default(), |root, path| root.show(Path::new(path)));
        for user in [false, true] {
            if !user && !root {
                continue;
            }
            let namespaces = Namespaces { user, network: true, root: shown.clone() };
            // in another user namespace there is only the one user
            let own = (found.mechanisms.own_user && !user).then_some(Own { uid: OWN_USERS, gid: OWN_USERS });
            let confined = Confinement { namespaces: Some(&namespaces), own, filter: found.operation.as_ref(), ..bare };
            match trial(&confined) {
                Ok(code) if code == good => {
                    found.mechanisms.namespaces = true;
                    found.mechanisms.own_user &= !user;
                    found.mechanisms.refused = None;
                    found.namespaces = Some(namespaces);
                    break;
                }
                Ok(_) => found.mechanisms.refused = Some(super::wire::Refused::new("the trial", 0)),
                Err(e) => found.mechanisms.refused = Some(super::wire::Refused::new(e.step, e.errno as i32)),
            }
        }
        found.share_an_empty_network();
        found
    }

    /// Enters one, where nobody but this process has to be asked: without a user namespace in between.
    fn share_an_empty_network(&mut self) {
        let Some(namespaces) = self.namespaces.as_mut().filter(|n| !n.user) else { return };
        let Ok(machines) = File::open("/proc/self/ns/net") else { return };
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok() {
            namespaces.network = false;
            self.machines_network = Some(machines);
        }
    }

    pub(super) fn mechanisms(&self) -> Mechanisms {
        self.mechanisms
    }

    /// Whether the worker is the first process of a pid namespace, whose exit codes stand for signals.
    pub(super) fn is_first(&self, launch: Launch) -> bool {
        launch == Launch::Operation && self.namespaces.is_some()
    }

    /// What a worker is confined with. `slot`: its number among those that live, for a user of its own.
    pub(super) fn of<'a>(&'a self, launch: Launch, slot: u32, domain: Option<&'a Ruleset>) -> Confinement<'a> {
        let (limits, filter) = match launch {
            Launch::Operation => (OPERATION, &self.operation),
            Launch::Resolver => (RESOLVER, &self.resolver),
            Launch::Job => (JOB, &self.job),
        };
        let filter = filter.as_ref();
        if launch == Launch::Operation {
            let id = OWN_USERS + 1 + slot;
            let own = self.mechanisms.own_user.then_some(Own { uid: id, gid: id });
            return Confinement { limits, namespaces: self.namespaces.as_ref(), network: None, own, domain, filter };
        }
        // both have work to do as the user that the runner is: files of the connection's credentials, the state directory
        let network = self.machines_network.as_ref().map(|n| n.as_fd());
        Confinement { limits, namespaces: None, network, own: None, domain, filter }
    }
}

/// As an operation's worker gets it from the supervisor.
fn domain(program: &File) -> Option<Ruleset> {
    let domain = Ruleset::new(Scope { no_tcp: true, own_signals_and_sockets: true }).ok()?;
    for path in operation_paths() {
        domain.allow_path(path, Access::Read).ok()?;
    }
    domain.allow(program, Access::Read).ok()?;
    Some(domain)
}

/// The mode `trial`: looks for what should not be there.
pub fn try_it() -> i32 {
    if std::os::unix::net::UnixDatagram::unbound().is_ok() {
        return trial::MAKES_SOCKETS;
    }
    // whatever the machine, these two are there for everybody
    for path in ["/etc/passwd", "/proc/self/stat"] {
        if File::open(path).is_ok() {
            return trial::SEES_FILES;
        }
    }
    if std::fs::read_dir("/proc").is_ok_and(|entries| entries.count() > 0) {
        return trial::SEES_PROCESSES;
    }
    trial::GOOD
}
