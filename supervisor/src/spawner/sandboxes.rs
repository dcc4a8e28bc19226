//! What each kind of worker is confined with on this machine: found out by doing it, once, before anything else.
//!
//! A trial is this very program in the mode `trial`, started as an operation's worker would be: it says by its exit code whether what
//! should be refused is refused. What cannot be had is left out, and the supervisor is told; it decides whether that is enough.

use super::scopes::Scopes;
use super::wire::{Launch, Mechanisms, READS_MAX, Refused};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use runner_sandbox::confine::{Confinement, Limits, Namespaces, Own, Root, User};
use runner_sandbox::landlock::{self, Access, Ruleset, Scope};
use runner_sandbox::seccomp::Filter;
use runner_sandbox::{inside, profiles, spawn};
use std::borrow::Cow;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Whatever workers do, the supervisor gets to answer its pings.
const NICENESS: i32 = 5;
/// An operation's worker: one program, some buffers, and the certificates of the world.
const OPERATION: Limits =
    Limits { descriptors: 1024, file_size: 64 << 20, memory: 512 << 20, processes: u64::MAX, niceness: NICENESS };
/// A resolver's plug-in may be any program.
const RESOLVER: Limits =
    Limits { descriptors: 1024, file_size: 64 << 20, memory: 4 << 30, processes: u64::MAX, niceness: NICENESS };
/// Engines start a provider for each module and region, and providers map what they like.
const JOB: Limits =
    Limits { descriptors: 65_536, file_size: u64::MAX, memory: u64::MAX, processes: u64::MAX, niceness: NICENESS };
/// Processes and threads of one job, where it has a user namespace of its own: an engine with a provider for each of fifty regions has fewer.
const JOB_PROCESSES: u64 = 8192;
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

/// What a job sees of this machine besides what it is told to use: the programs that an engine, its provisioners and git start, what they are
/// linked with and configured by, and whom TLS trusts. No home, no `/var`, no `/run`, no state of anybody.
const JOB_ROOT: &[&str] = &[
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/usr",
    "/opt",
    "/nix/store",
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki",
    "/etc/profile",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssh/ssh_config",
    "/etc/ssh/ssh_config.d",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ssl",
    "/etc/timezone",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];
/// The private keys of this machine's own services are nobody's: an empty folder lies over them.
const JOB_HIDDEN: &[&str] = &["/etc/ssl/private", "/etc/pki/tls/private"];
/// A job's /tmp: what its own TMPDIR is not used for.
const JOB_TMP: (u64, u64) = (256 << 20, 64 << 10);
const RESOLV_CONF: &str = "/etc/resolv.conf";

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
    /// A job's trial adds what it has to this.
    pub const JOB: i32 = 32;
    /// It is the first of a pid namespace, in a root without this machine's state.
    pub const JOB_ROOT: i32 = 1;
    /// Its own processes are shown.
    pub const JOB_PROCESSES: i32 = 2;
    /// It connects for what it starts.
    pub const JOB_ASKS: i32 = 4;
    /// What it starts is in a network namespace of its own.
    pub const JOB_NETWORK: i32 = 8;
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
    /// Where jobs get control groups of their own.
    scopes: Option<Scopes>,
    /// How a job is in namespaces, where it is.
    job_user: Option<User>,
    /// What every job reads on this machine, besides [`JOB_ROOT`].
    job_reads: Vec<PathBuf>,
}

/// The paths of an operation's worker, for its domain.
pub fn operation_paths() -> impl Iterator<Item = &'static Path> {
    OPERATION_ROOT.iter().map(Path::new)
}

/// The paths of a job's root, for its domain.
pub fn job_paths() -> impl Iterator<Item = &'static Path> {
    JOB_ROOT.iter().map(Path::new)
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
            job: profiles::FIRST.compile().ok(),
            scopes: None,
            job_user: None,
            job_reads: Vec::new(),
        };
        let Ok(program) = File::open("/proc/self/exe") else { return found };
        let mut trial_of = |role: &CStr, confinement: &Confinement<'_>| -> Result<i32, spawn::SpawnError> {
            let pid = spawn.spawn(&spawn::Plan {
                program: spawn::Program::File(program.as_fd()),
                arguments: &[c"runner", role],
                environment: &[],
                inherit: &[program.as_fd()],
                directory: None,
                silent: true,
                own_session: true,
                dies_with_parent: true,
                confine: Some(confinement),
                handover: None,
            })?;
            Ok(match waitpid(Pid::from_raw(pid), None) {
                Ok(WaitStatus::Exited(_, code)) => code,
                _ => -1,
            })
        };
        let mut trial = |confinement: &Confinement<'_>| trial_of(c"trial", confinement);
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
        let users = [User::Shared, User::Same];
        for user in users.into_iter().filter(|user| root || *user != User::Shared) {
            let namespaces = Namespaces { user, network: true, root: Some(shown.clone()) };
            let alone = user == User::Same;
            // in another user namespace there is only the one user
            let own = (found.mechanisms.own_user && !alone).then_some(Own { uid: OWN_USERS, gid: OWN_USERS });
            let confined = Confinement { namespaces: Some(&namespaces), own, filter: found.operation.as_ref(), ..bare };
            match trial(&confined) {
                Ok(code) if code == good => {
                    found.mechanisms.namespaces = true;
                    found.mechanisms.own_user &= !alone;
                    found.mechanisms.refused = None;
                    found.namespaces = Some(namespaces);
                    break;
                }
                Ok(_) => found.mechanisms.refused = Some(Refused::new("the trial", 0)),
                Err(e) => found.mechanisms.refused = Some(Refused::new(e.step, e.errno as i32)),
            }
        }

        let job_root = found.root_of_jobs();
        let bare = Confinement { limits: JOB, filter: found.job.as_ref(), ..bare };
        let mut has = 0;
        for user in users.into_iter().filter(|user| root || *user != User::Shared) {
            let namespaces = Namespaces { user, network: false, root: Some(job_root.clone()) };
            let domain = domain_of_root(&program, found.mechanisms.landlock > 0);
            let confined = Confinement { namespaces: Some(&namespaces), domain: domain.as_ref(), ..bare };
            match trial_of(c"trial-job", &confined) {
                Ok(code) if code >= trial::JOB && code & trial::JOB_ROOT != 0 => {
                    (has, found.job_user, found.mechanisms.job_refused) = (code - trial::JOB, Some(user), None);
                    break;
                }
                Ok(_) => found.mechanisms.job_refused = Some(Refused::new("the trial", 0)),
                Err(e) => found.mechanisms.job_refused = Some(Refused::new(e.step, e.errno as i32)),
            }
        }
        if found.job_user.is_none() {
            has = trial_of(c"trial-job", &bare).map_or(0, |code| (code - trial::JOB).max(0));
        }
        found.mechanisms.job_root = has & trial::JOB_ROOT != 0;
        found.mechanisms.job_processes = found.mechanisms.job_root && has & trial::JOB_PROCESSES != 0;
        found.mechanisms.job_asks = has & trial::JOB_ASKS != 0;
        found.mechanisms.job_network = has & trial::JOB_NETWORK != 0;
        found.mechanisms.job_processes_bounded = found.job_user == Some(User::Same) && !root;
        found.scopes = Scopes::find(spawn, &program);
        found.mechanisms.job_cgroup = found.scopes.is_some();
        found.share_an_empty_network();
        found
    }

    /// Enters one, where nobody but this process has to be asked: without a user namespace in between.
    fn share_an_empty_network(&mut self) {
        let Some(namespaces) = self.namespaces.as_mut().filter(|n| n.user == User::Shared) else { return };
        let Ok(machines) = File::open("/proc/self/ns/net") else { return };
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok() {
            namespaces.network = false;
            self.machines_network = Some(machines);
        }
    }

    pub(super) fn mechanisms(&self) -> Mechanisms {
        self.mechanisms
    }

    pub(super) fn scopes(&self) -> Option<&Scopes> {
        self.scopes.as_ref()
    }

    /// Whether the worker is the first process of a pid namespace, whose exit codes stand for signals.
    pub(super) fn is_first(&self, launch: Launch) -> bool {
        launch == Launch::Job || launch == Launch::Operation && self.namespaces.is_some()
    }

    /// Forgets what every job reads besides.
    pub(super) fn forget_reads(&mut self) {
        self.job_reads.clear();
    }
    /// Every job reads that.
    pub(super) fn reads(&mut self, path: &CStr) {
        if self.job_reads.len() < READS_MAX {
            self.job_reads.push(PathBuf::from(OsStr::from_bytes(path.to_bytes())));
        }
    }

    /// The same for every job.
    fn root_of_jobs(&self) -> Root {
        let mut root = Root::default().memory(Path::new("/tmp"), JOB_TMP.0, JOB_TMP.1).processes();
        for path in JOB_ROOT.iter().map(Path::new).chain(self.job_reads.iter().map(PathBuf::as_path)) {
            root = root.show(path);
        }
        for path in JOB_HIDDEN.iter().map(Path::new).filter(|path| path.is_dir()) {
            root = root.memory(path, 4096, 1);
        }
        for (path, to) in [
            ("/dev/fd", c"/proc/self/fd"),
            ("/dev/stdin", c"/proc/self/fd/0"),
            ("/dev/stdout", c"/proc/self/fd/1"),
            ("/dev/stderr", c"/proc/self/fd/2"),
        ] {
            root = root.link(Path::new(path), to);
        }
        root
    }

    /// The namespaces of a worker. A job's root has its own folders in it: `folders` are its working directory, what else it writes, and what
    /// it reads.
    pub(super) fn namespaces(&self, launch: Launch, folders: &[OwnedFd], writes: usize) -> Option<Cow<'_, Namespaces>> {
        match launch {
            Launch::Operation => self.namespaces.as_ref().map(Cow::Borrowed),
            Launch::Resolver => None,
            Launch::Job => {
                let user = self.job_user?;
                // anew for each: what is named may come and go
                let mut root = self.root_of_jobs();
                let paths = folders.iter().filter_map(|f| {
                    // as this machine knows them
                    std::fs::read_link(format!("/proc/self/fd/{}", f.as_raw_fd())).ok()
                });
                for (n, path) in paths.enumerate() {
                    root = if n <= writes { root.write(&path) } else { root.show(&path) };
                    if n == 0 {
                        root = root.write_as(&path, Path::new(profiles::JOB_FOLDER)).start_in(&path);
                    }
                }
                if self.mechanisms.job_network {
                    root = root.text(Path::new(RESOLV_CONF), resolv_conf().as_bytes());
                } else {
                    root = root.show(Path::new(RESOLV_CONF));
                }
                Some(Cow::Owned(Namespaces { user, network: false, root: Some(root) }))
            }
        }
    }

    /// What a worker is confined with. `slot`: its number among those that live, for a user of its own.
    pub(super) fn of<'a>(
        &'a self,
        launch: Launch,
        slot: u32,
        namespaces: Option<&'a Namespaces>,
        domain: Option<&'a Ruleset>,
    ) -> Confinement<'a> {
        let (limits, filter) = match launch {
            Launch::Operation => (OPERATION, &self.operation),
            Launch::Resolver => (RESOLVER, &self.resolver),
            Launch::Job => (JOB, &self.job),
        };
        let filter = filter.as_ref();
        let bounded = launch == Launch::Job && self.job_user == Some(User::Same) && !nix::unistd::geteuid().is_root();
        let limits = if bounded { Limits { processes: JOB_PROCESSES, ..limits } } else { limits };
        if launch == Launch::Operation {
            let id = OWN_USERS + 1 + slot;
            let own = self.mechanisms.own_user.then_some(Own { uid: id, gid: id });
            return Confinement { limits, namespaces, network: None, own, domain, filter };
        }
        // both have work to do as the user that the runner is: files of the connection's credentials, the state directory
        let network = self.machines_network.as_ref().map(|n| n.as_fd());
        Confinement { limits, namespaces, network, own: None, domain, filter }
    }
}

/// Jobs ask the name server of their own network namespace, as this machine asks its own: what stands there beside the servers counts.
fn resolv_conf() -> String {
    let machines = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let mut text = "nameserver 127.0.0.1\n".to_owned();
    for line in machines.lines().filter(|l| ["search ", "domain ", "options "].iter().any(|w| l.starts_with(w))).take(8)
    {
        if text.len() + line.len() < 2048 {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// For a job's trial: all that its root has.
fn domain_of_root(program: &File, landlock: bool) -> Option<Ruleset> {
    if !landlock {
        return None;
    }
    let domain = Ruleset::new(Scope { no_tcp: false, own_signals_and_sockets: true }).ok()?;
    for path in JOB_ROOT.iter().map(Path::new) {
        let access = if path.starts_with("/dev") { Access::Use } else { Access::Read };
        domain.allow_path(path, access).ok()?;
    }
    domain.allow(program, Access::Read).ok()?;
    Some(domain)
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

/// The mode `trial-job`: what the first process of a job has.
pub fn try_job() -> i32 {
    let mut has = trial::JOB;
    if nix::unistd::getpid().as_raw() == 1 && !Path::new("/var").exists() {
        has |= trial::JOB_ROOT;
    }
    if File::open("/proc/self/stat").is_ok() {
        has |= trial::JOB_PROCESSES;
    }
    has | try_inside().unwrap_or(0)
}

/// Starts something inside and connects for it, which is to say: refuses it what it asks for.
fn try_inside() -> Option<i32> {
    let program = runner_sandbox::inherited_descriptor(3).ok()?;
    let asking = profiles::JOB_ASKING.compile().ok()?;
    let plan = spawn::Plan {
        program: spawn::Program::File(program.as_fd()),
        arguments: &[c"runner", c"trial-inside"],
        environment: &[],
        inherit: &[],
        directory: None,
        silent: true,
        own_session: false,
        dies_with_parent: false,
        confine: None,
        handover: None,
    };
    let inside = inside::start(&mut spawn::Spawner::new().ok()?, &plan, JOB, Some(&asking), None).ok()?;
    let listener = inside.listener?;
    let call = listener.receive().ok()?;
    // an address that lies in its memory, and its socket
    let mut family = [0; 2];
    let copied = listener.copy(&call, call.arguments[1], &mut family);
    let socket = i32::try_from(call.arguments[0] & 0xffff_ffff).ok().and_then(|n| listener.descriptor(&call, n).ok());
    listener.answer(call.id, Err(nix::errno::Errno::EOWNERDEAD));
    let answered = matches!(waitpid(Pid::from_raw(inside.pid), None), Ok(WaitStatus::Exited(_, trial::GOOD)));
    if !answered || copied.is_err() || u16::from_ne_bytes(family) != 2 || socket.is_none() {
        return None;
    }
    Some(trial::JOB_ASKS | if inside.stub.is_some() { trial::JOB_NETWORK } else { 0 })
}

/// The mode `trial-inside`: connects, and is told what nobody but whoever asked for that would tell.
pub fn try_to_connect() -> i32 {
    let refused = std::net::TcpStream::connect(("127.0.0.1", 9)).err().and_then(|e| e.raw_os_error());
    if refused == Some(nix::libc::EOWNERDEAD) { trial::GOOD } else { trial::MAKES_SOCKETS }
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
