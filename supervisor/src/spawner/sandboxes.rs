//! What each kind of worker is confined with on this machine: found out by doing it, once, before anything else.
//!
//! A trial is this very program in the mode `trial`, started as an operation's worker would be: it says by its exit code whether what
//! should be refused is refused. What cannot be had is left out, and the supervisor is told; it decides whether that is enough.

use super::scopes::Scopes;
use super::wire::{Launch, Mechanisms, READS_MAX, Refused};
use crate::config::Config;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use runner_sandbox::confine::{self, Confinement, Limits, Namespaces, Own, Root, User};
use runner_sandbox::landlock::{self, Access, Ruleset, Scope};
use runner_sandbox::mapped::Mapping;
use runner_sandbox::seccomp::Filter;
use runner_sandbox::{inside, profiles, spawn};
use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
/// A root that was put together this long ago is put together anew: what the machine has mounted or replaced since is in it then.
const STANDS: Duration = Duration::from_secs(60);
/// The first of the user ids that operations' workers get where this process is root: beyond those of people, services, systemd's own and
/// what containers are usually given.
pub const OWN_USERS: u32 = 1_900_000_000;

/// The first of those that jobs get, and how many there are. No two jobs that live have the same.
const JOB_USERS: u32 = OWN_USERS + 100_000;
const JOB_USERS_MAX: u32 = 65_536;

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
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
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
    /// Where operations need not put their root together.
    standing: Option<Standing>,
    /// Where this process is in an empty network namespace, for operations to share: that of the machine, for the others.
    machines_network: Option<File>,
    operation: Option<Filter>,
    resolver: Option<Filter>,
    /// The same, where what they refuse is told of.
    telling: Option<[Filter; 2]>,
    job: Option<Filter>,
    /// Where jobs get control groups of their own.
    scopes: Option<Scopes>,
    /// How a job is in namespaces, where it is.
    job_user: Option<User>,
    /// Whether it can also be a user of its own there, as far as this machine is concerned.
    job_can_be_own: bool,
    /// What every job reads on this machine, besides [`JOB_ROOT`].
    job_reads: Vec<PathBuf>,
}

/// The root of operations, put together once for all of them: each enters a copy.
struct Standing {
    /// `None` where it could not be had: each puts its own together then.
    namespace: Option<File>,
    since: Instant,
}

/// What a kind of process is confined with, for people.
#[derive(Debug, Clone)]
pub struct Described {
    /// The profile of its system calls.
    pub name: &'static str,
    /// Which process it is.
    pub what: &'static str,
    /// What else holds for it: a name, and what that is.
    pub facts: Vec<(&'static str, String)>,
    /// The calls that it may make, each with its condition.
    pub calls: Vec<String>,
}

/// What there is for workers on this machine whose state is in that folder, as a spawner finds it.
///
/// # Errors
/// The system's.
pub fn probe(state: BorrowedFd<'_>) -> io::Result<Mechanisms> {
    let mut found = Sandboxes::find(&mut spawn::Spawner::new()?);
    found.keep_state_in(state);
    Ok(found.mechanisms())
}

/// What each kind of process is confined with, as far as the mechanisms go.
pub fn described(m: &Mechanisms, config: &Config) -> Vec<Described> {
    let shown = |paths: &[&str]| paths.join(" ");
    let number = |n: u64| if n == u64::MAX { "no limit of the process's own".to_owned() } else { n.to_string() };
    let limits = |l: &Limits| {
        vec![
            ("descriptors", number(l.descriptors.min(workers_descriptors()))),
            ("bytes of a file", number(l.file_size)),
            ("bytes of memory", number(l.memory)),
            ("niceness", format!("{} more than the runner's", l.niceness)),
        ]
    };
    let calls = |p: &runner_sandbox::seccomp::Profile| {
        if !m.seccomp {
            return vec!["all: there is no filter here".to_owned()];
        }
        let mut calls: Vec<_> = p.calls().map(ToString::to_string).collect();
        calls.sort_unstable();
        calls
    };
    let reads = config.workers.reads.iter().map(|p| format!(" {}", p.display())).collect::<String>();
    let job_sees = if m.job_root || m.landlock > 0 {
        format!("{}{reads}, and its own folders", shown(JOB_ROOT))
    } else {
        "all that the runner's user reads: there is neither a root of its own nor Landlock here".to_owned()
    };
    let operation_sees = if m.namespaces || m.landlock > 0 {
        shown(OPERATION_ROOT)
    } else {
        "all that the runner's user reads: there is neither a root of its own nor Landlock here".to_owned()
    };
    let describe =
        |p: &runner_sandbox::seccomp::Profile, what, mut facts: Vec<(&'static str, String)>, l: Option<&Limits>| {
            facts.extend(l.map(limits).unwrap_or_default());
            Described { name: p.name, what, facts, calls: calls(p) }
        };
    let writes = |what: &str| ("writes", what.to_owned());
    let network = |what: &str| ("network", what.to_owned());
    vec![
        describe(
            &profiles::OPERATION,
            "the worker of one operation, of any provider",
            vec![
                ("sees", operation_sees),
                writes("nothing"),
                network("the sockets that it is handed, to its connection's target"),
            ],
            Some(&OPERATION),
        ),
        describe(
            &profiles::RESOLVER,
            "what reads a connection's credentials, with its plug-ins",
            vec![
                ("sees", "the files of that connection, and what programs need".to_owned()),
                writes("its plug-in's cache"),
                network("this machine's"),
            ],
            Some(&RESOLVER),
        ),
        describe(
            &profiles::FIRST,
            "the first process of a job: it connects for what it starts, and reaps it",
            vec![
                ("sees", job_sees.clone()),
                writes("the job's folders"),
                network("this machine's, to hosts that jobs.hosts allows"),
            ],
            Some(&JOB),
        ),
        describe(
            &profiles::JOB_ASKING,
            "a job's worker, and the engine and git that it starts, which are in a domain inside its own",
            vec![
                ("sees", job_sees),
                writes(
                    "the job's folders; the engine only its working copy, its data, temporary files and the stack's state",
                ),
                network(if m.job_network {
                    "none but what the first process connects"
                } else {
                    "what its filter lets it connect"
                }),
            ],
            Some(&JOB),
        ),
        describe(
            &profiles::SUPERVISOR,
            "the supervisor itself, once it has begun",
            vec![(
                "sees",
                "its configuration, credentials and state directory, and what TLS and names need".to_owned(),
            )],
            None,
        ),
    ]
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
                root: nix::unistd::geteuid().is_root(),
                ..Mechanisms::default()
            },
            namespaces: None,
            standing: None,
            machines_network: None,
            operation: profiles::OPERATION.compile().ok(),
            resolver: profiles::RESOLVER.compile().ok(),
            telling: None,
            job: profiles::FIRST.compile().ok(),
            scopes: None,
            job_user: None,
            job_can_be_own: false,
            job_reads: Vec::new(),
        };
        let Ok(program) = File::open("/proc/self/exe") else { return found };
        let mut trial = |confinement: &Confinement<'_>| trial_of(spawn, &program, c"trial", confinement);
        let bare = BARE;

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
            match trial_of(spawn, &program, c"trial-job", &confined) {
                Ok(code) if code >= trial::JOB && code & trial::JOB_ROOT != 0 => {
                    (has, found.job_user, found.mechanisms.job_refused) = (code - trial::JOB, Some(user), None);
                    break;
                }
                Ok(_) => found.mechanisms.job_refused = Some(Refused::new("the trial", 0)),
                Err(e) => found.mechanisms.job_refused = Some(Refused::new(e.step, e.errno as i32)),
            }
        }
        if found.job_user.is_none() {
            has = trial_of(spawn, &program, c"trial-job", &bare).map_or(0, |code| (code - trial::JOB).max(0));
        }
        let mapping = Mapping::new(job_user(0)).ok().filter(|_| root && found.job_user == Some(User::Shared));
        if let Some(mapping) = mapping {
            let namespaces = Namespaces { user: User::Shared, network: false, root: Some(job_root) };
            let domain = domain_of_root(&program, found.mechanisms.landlock > 0);
            let (own, files_as) = (Some(job_user(0)), Some(&mapping));
            let confined =
                Confinement { namespaces: Some(&namespaces), domain: domain.as_ref(), own, files_as, ..bare };
            found.job_can_be_own = trial_of(spawn, &program, c"trial-job", &confined) == Ok(trial::JOB + has);
        }
        found.mechanisms.job_root = has & trial::JOB_ROOT != 0;
        found.mechanisms.job_processes = found.mechanisms.job_root && has & trial::JOB_PROCESSES != 0;
        found.mechanisms.job_asks = has & trial::JOB_ASKS != 0;
        found.mechanisms.job_network = has & trial::JOB_NETWORK != 0;
        found.mechanisms.job_processes_bounded = found.job_user == Some(User::Same) && !root;
        found.scopes = Scopes::find(spawn, &program);
        found.mechanisms.job_cgroup = found.scopes.is_some();
        found.share_an_empty_network();
        found.stand(spawn, &program, good);
        found
    }

    /// Has the root of operations put together by a process of its own, where a child may enter another's, and tries whether it holds as well.
    fn stand(&mut self, spawn: &mut spawn::Spawner, program: &File, good: i32) {
        if self.namespaces.as_ref().is_none_or(|n| n.user != User::Shared) {
            return;
        }
        self.standing = Some(self.put_together(spawn, program));
        let confined = self.of(Launch::Operation, 0, u64::MAX, self.namespaces.as_ref(), None, None);
        if trial_of(spawn, program, c"trial", &confined) != Ok(good) {
            self.standing = None;
        }
    }

    /// Puts the root of operations together again, where it was too long ago.
    pub(super) fn renew(&mut self, spawn: &mut spawn::Spawner) {
        if self.standing.as_ref().is_some_and(|s| s.since.elapsed() >= STANDS)
            && let Ok(program) = File::open("/proc/self/exe")
        {
            self.standing = Some(self.put_together(spawn, &program));
        }
    }

    fn put_together(&self, spawn: &mut spawn::Spawner, program: &File) -> Standing {
        let bare = Confinement { namespaces: self.namespaces.as_ref(), ..BARE };
        let namespace = UnixStream::pair().ok().and_then(|(ours, theirs)| {
            let pid = spawn.spawn(&trial_plan(program, &[c"runner", c"trial-wait"], &[theirs.as_fd()], &bare)).ok()?;
            let namespace = confine::root_of(pid).ok();
            // it has done what it was for
            drop(ours);
            let _ = waitpid(Pid::from_raw(pid), None);
            namespace
        });
        Standing { namespace, since: Instant::now() }
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

    /// Jobs' folders will be below that one.
    pub(super) fn keep_state_in(&mut self, state: BorrowedFd<'_>) {
        self.mechanisms.job_own_user =
            self.job_can_be_own && Mapping::new(job_user(0)).is_ok_and(|mapping| mapping.can_show(state));
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

    /// Whether what the filters of operations and resolvers refuse is to be told of.
    pub(super) fn tell(&mut self, refused: bool) {
        let compiled =
            || Some([profiles::OPERATION.compile_telling().ok()?, profiles::RESOLVER.compile_telling().ok()?]);
        self.telling = if refused && self.mechanisms.seccomp { compiled() } else { None };
    }

    /// The filter for a worker of that kind that asks this process about what it refuses.
    pub(super) fn telling(&self, launch: Launch) -> Option<&Filter> {
        let [operation, resolver] = self.telling.as_ref()?;
        match launch {
            Launch::Operation => Some(operation),
            Launch::Resolver => Some(resolver),
            // what it starts has a listener for connect(), and the kernel takes one for all filters of a process
            Launch::Job => None,
        }
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
        for path in JOB_ROOT.iter().map(Path::new) {
            root = root.show(path);
        }
        // named because jobs read them: whoever may read them here
        for path in &self.job_reads {
            root = root.show_as_own(path);
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
    pub(super) fn namespaces(
        &self,
        launch: Launch,
        folders: &[OwnedFd],
        writes: usize,
        user: Option<&JobUser>,
    ) -> Option<Cow<'_, Namespaces>> {
        match launch {
            Launch::Operation => self.namespaces.as_ref().map(Cow::Borrowed),
            Launch::Resolver => None,
            Launch::Job => {
                let namespace = self.job_user?;
                // anew for each: what is named may come and go
                let mut root = self.root_of_jobs();
                let paths = folders.iter().filter_map(|f| {
                    // as this machine knows them
                    std::fs::read_link(format!("/proc/self/fd/{}", f.as_raw_fd())).ok()
                });
                for (n, path) in paths.enumerate() {
                    root = if n <= writes { root.write(&path) } else { root.show_as_own(&path) };
                    if n == 0 {
                        root = root.write_as(&path, Path::new(profiles::JOB_FOLDER)).start_in(&path);
                    }
                }
                let (users, groups) = people(user.map(|u| u.own));
                root = root.text(Path::new("/etc/passwd"), users.as_bytes());
                root = root.text(Path::new("/etc/group"), groups.as_bytes());
                if self.mechanisms.job_network {
                    root = root.text(Path::new(RESOLV_CONF), resolv_conf().as_bytes());
                } else {
                    root = root.show(Path::new(RESOLV_CONF));
                }
                Some(Cow::Owned(Namespaces { user: namespace, network: false, root: Some(root) }))
            }
        }
    }

    /// The user of a job's own that it gets: one that no process has. Looked for among all, because jobs outlive whoever started them.
    ///
    /// # Errors
    /// The system's; `QuotaExceeded` where every number is taken.
    pub(super) fn user_of(&self, launch: Launch) -> io::Result<Option<JobUser>> {
        if launch != Launch::Job || !self.mechanisms.job_own_user {
            return Ok(None);
        }
        let taken: HashSet<u32> = users_of_processes().collect();
        // the first is the trials'
        let free = (1..JOB_USERS_MAX).map(job_user).find(|own| !taken.contains(&own.uid));
        let own = free.ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Some(JobUser { own, mapping: Mapping::new(own)? }))
    }

    /// What a worker is confined with. `slot`: its number among those that live, for a user of its own; `processes`: what a job may have.
    pub(super) fn of<'a>(
        &'a self,
        launch: Launch,
        slot: u32,
        processes: u64,
        namespaces: Option<&'a Namespaces>,
        domain: Option<&'a Ruleset>,
        user: Option<&'a JobUser>,
    ) -> Confinement<'a> {
        let (limits, filter) = match launch {
            Launch::Operation => (OPERATION, &self.operation),
            Launch::Resolver => (RESOLVER, &self.resolver),
            Launch::Job => (JOB, &self.job),
        };
        let limits = Limits { descriptors: limits.descriptors.min(workers_descriptors()), ..limits };
        let filter = filter.as_ref();
        let alone = self.job_user == Some(User::Same) && !nix::unistd::geteuid().is_root();
        let bounded = launch == Launch::Job && (alone || user.is_some());
        let limits = if bounded { Limits { processes, ..limits } } else { limits };
        if launch == Launch::Operation {
            let id = OWN_USERS + 1 + slot;
            let own = self.mechanisms.own_user.then_some(Own { uid: id, gid: id });
            let standing = self.standing.as_ref().and_then(|s| s.namespace.as_ref()).map(|n| n.as_fd());
            return Confinement { limits, namespaces, network: None, standing, own, files_as: None, domain, filter };
        }
        // a resolver reads files of its connection's credentials, as the user that the runner is
        let network = self.machines_network.as_ref().map(|n| n.as_fd());
        let (own, files_as) = (user.map(|u| u.own), user.map(|u| &u.mapping));
        Confinement { limits, namespaces, network, standing: None, own, files_as, domain, filter }
    }
}

/// The most that a worker may have: half of what the supervisor has. The kernel counts those on their way in messages by user, and holds the
/// sum against the sender's own limit: so whatever workers send, and nobody takes, the supervisor can still send.
fn workers_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, most)| most / 2)
}

/// The user of one job.
pub(super) struct JobUser {
    own: Own,
    mapping: Mapping,
}

const fn job_user(number: u32) -> Own {
    Own { uid: JOB_USERS + number, gid: JOB_USERS + number }
}

/// The real user ids of the processes that live.
fn users_of_processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|e| user_of_process(e.ok()?.file_name().to_str()?.parse().ok()?))
}

fn user_of_process(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a process may be a job's, by its user: one of jobs, or the runner's own, as which they run where they have none.
pub(super) fn is_a_jobs(pid: i32) -> bool {
    let jobs = JOB_USERS..JOB_USERS + JOB_USERS_MAX;
    user_of_process(pid).is_some_and(|user| jobs.contains(&user) || user == nix::unistd::geteuid().as_raw())
}

/// A job's `passwd` and `group`: whom its programs find themselves to be. This machine's people are not its business.
fn people(own: Option<Own>) -> (String, String) {
    let own = own.unwrap_or_else(|| Own { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() });
    let mut users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n".to_owned();
    let mut groups = "root:x:0:\nnogroup:x:65534:\n".to_owned();
    if ![0, 65_534].contains(&own.uid) {
        users.push_str(&format!("runner:x:{}:{}:runner:{}:/bin/sh\n", own.uid, own.gid, profiles::JOB_FOLDER));
    }
    if ![0, 65_534].contains(&own.gid) {
        groups.push_str(&format!("runner:x:{}:\n", own.gid));
    }
    (users, groups)
}

/// An operation's limits and nothing else.
const BARE: Confinement<'_> = Confinement {
    limits: OPERATION,
    namespaces: None,
    network: None,
    standing: None,
    own: None,
    files_as: None,
    domain: None,
    filter: None,
};

/// This program in that role, confined so.
fn trial_plan<'a>(
    program: &'a File,
    arguments: &'a [&'a CStr],
    inherit: &'a [BorrowedFd<'a>],
    confinement: &'a Confinement<'a>,
) -> spawn::Plan<'a> {
    spawn::Plan {
        program: spawn::Program::File(program.as_fd()),
        arguments,
        environment: &[],
        inherit,
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        confine: Some(confinement),
        handover: None,
    }
}

/// What a trial says by its exit code; -1 where a signal has ended it.
fn trial_of(
    spawn: &mut spawn::Spawner,
    program: &File,
    role: &CStr,
    confinement: &Confinement<'_>,
) -> Result<i32, spawn::SpawnError> {
    let pid = spawn.spawn(&trial_plan(program, &[c"runner", role], &[program.as_fd()], confinement))?;
    Ok(match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, code)) => code,
        _ => -1,
    })
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
