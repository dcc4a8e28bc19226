//! Which guarantees hold for workers on this machine, by what the spawner found that it can do. It says what does not hold, always.

use crate::config::Isolation;
use crate::spawner::wire::Mechanisms;
use shared_proto::failure::{Code, Failure};

/// What a user needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// The runner's credentials and every other connection's cannot be read.
    CredentialsUnreadable,
    /// Memory, environment and files of other workers cannot be read.
    NeighboursUnreadable,
    /// No other process can be signalled.
    NeighboursUnsignalable,
    /// No file but those that the work needs can be reached.
    FilesUnreachable,
    /// No address but those that the work needs can be reached.
    AddressesEnforced,
    /// Memory has a bound.
    MemoryBounded,
    /// Processes have a bound.
    ProcessesBounded,
    /// No process stays behind.
    NothingLeftBehind,
}

/// How far one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// By this mechanism.
    Enforced(&'static str),
    /// Not for everything: why.
    Partial(&'static str),
    /// Not at all.
    Absent,
}

/// What is started for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An operation's worker.
    Operation,
    /// A job's worker, and all that it starts.
    Job,
}

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantees {
    /// The name for what holds for operations and jobs alike.
    pub level: Isolation,
    /// The name for what holds for operations.
    pub operations: Isolation,
    /// The name for what holds for jobs.
    pub jobs: Isolation,
    /// Jobs are root without its rights, and nothing more.
    jobs_are_root: bool,
    /// What does not hold, or not for everything: `operations: NAME (why)`.
    pub missing: Vec<String>,
}

impl Guarantee {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CredentialsUnreadable,
        Self::NeighboursUnreadable,
        Self::NeighboursUnsignalable,
        Self::FilesUnreachable,
        Self::AddressesEnforced,
        Self::MemoryBounded,
        Self::ProcessesBounded,
        Self::NothingLeftBehind,
    ];
    /// As users see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CredentialsUnreadable => "credentials_unreadable",
            Self::NeighboursUnreadable => "neighbours_unreadable",
            Self::NeighboursUnsignalable => "neighbours_unsignalable",
            Self::FilesUnreachable => "files_unreachable",
            Self::AddressesEnforced => "addresses_enforced",
            Self::MemoryBounded => "memory_bounded",
            Self::ProcessesBounded => "processes_bounded",
            Self::NothingLeftBehind => "nothing_left_behind",
        }
    }

    /// How far it holds with these mechanisms.
    pub const fn held(self, kind: Kind, m: &Mechanisms) -> Held {
        let domain = m.landlock > 0;
        match (self, kind) {
            (Self::CredentialsUnreadable, Kind::Operation) if m.namespaces => Held::Enforced("own root"),
            (Self::CredentialsUnreadable, Kind::Job) if m.job_root => Held::Enforced("own root"),
            (Self::CredentialsUnreadable, Kind::Job) if domain && m.jobs_are_root() => Held::Partial(
                "a job is root, though without its rights: it can change the mode of what root owns, for other users of this machine to read",
            ),
            (Self::CredentialsUnreadable, Kind::Job) if domain => Held::Partial(
                "a job can change the mode of what the runner's user owns, for other users of this machine to read",
            ),
            (Self::CredentialsUnreadable | Self::NeighboursUnreadable, _) if domain => Held::Enforced("Landlock"),
            (Self::NeighboursUnreadable | Self::NeighboursUnsignalable, Kind::Operation) if m.namespaces => {
                Held::Enforced("own pid namespace")
            }
            (
                Self::CredentialsUnreadable | Self::NeighboursUnreadable | Self::NeighboursUnsignalable,
                Kind::Operation,
            ) if m.own_user => Held::Enforced("own user"),
            (Self::NeighboursUnreadable | Self::NeighboursUnsignalable, Kind::Job) if m.job_root => {
                Held::Enforced("own pid namespace")
            }
            (Self::NeighboursUnsignalable, _) if m.landlock >= 6 => Held::Enforced("Landlock"),
            (Self::NeighboursUnsignalable, Kind::Operation) if m.seccomp => Held::Enforced("seccomp"),
            (Self::FilesUnreachable, Kind::Operation) if m.namespaces => Held::Enforced("own root"),
            (Self::FilesUnreachable, Kind::Operation) if domain => Held::Enforced("Landlock"),
            (Self::FilesUnreachable, Kind::Job) if m.job_root => Held::Enforced("own root"),
            (Self::FilesUnreachable, Kind::Job) if domain && m.jobs_are_root() => Held::Partial(
                "a job reads and changes modes as root does, though without its rights, and connects to root's sockets with a path",
            ),
            (Self::FilesUnreachable, Kind::Job) if domain => {
                Held::Partial("a job reads what is public on this machine, and connects to sockets with a path")
            }
            (Self::AddressesEnforced, Kind::Operation) if m.seccomp => Held::Enforced("seccomp"),
            (Self::AddressesEnforced, Kind::Job) if m.job_asks && m.job_network => {
                Held::Enforced("own network namespace, connections granted")
            }
            (Self::AddressesEnforced, Kind::Job) if m.job_asks => {
                Held::Partial("datagrams are not held back, and hosts are known by their addresses only")
            }
            (Self::AddressesEnforced, Kind::Operation) if m.namespaces => Held::Enforced("own network namespace"),
            (Self::MemoryBounded | Self::ProcessesBounded, Kind::Job) if m.job_cgroup => Held::Enforced("own cgroup"),
            (Self::ProcessesBounded, Kind::Job) if m.job_own_user => Held::Enforced("rlimit of its own user"),
            (Self::ProcessesBounded, Kind::Job) if m.job_processes_bounded => {
                Held::Enforced("rlimit in its user namespace")
            }
            (Self::MemoryBounded, Kind::Operation) if m.seccomp => Held::Enforced("rlimit"),
            (Self::MemoryBounded, Kind::Operation) => Held::Partial("each of its processes has a limit of its own"),
            (Self::ProcessesBounded | Self::NothingLeftBehind, Kind::Operation) if m.seccomp => {
                Held::Enforced("seccomp")
            }
            (Self::NothingLeftBehind, Kind::Operation) if m.namespaces => Held::Enforced("own pid namespace"),
            (Self::NothingLeftBehind, Kind::Job) if m.job_root => Held::Enforced("own pid namespace"),
            (Self::NothingLeftBehind, Kind::Job) => Held::Partial(
                "where a job ends its own first process, a process that made a session of its own is not found",
            ),
            (Self::NothingLeftBehind, _) => Held::Partial("a process that makes a session of its own is not found"),
            _ => Held::Absent,
        }
    }
}

impl Kind {
    /// As users see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operation => "operations",
            Self::Job => "jobs",
        }
    }
    const fn level(self, m: &Mechanisms) -> Isolation {
        match self {
            Self::Operation if m.namespaces && m.seccomp => Isolation::Namespaces,
            Self::Job if m.job_root && m.job_network && m.seccomp => Isolation::Namespaces,
            // all of root's files are what root without its rights may still read, and what it may let others read
            Self::Job if m.jobs_are_root() => Isolation::Minimal,
            _ if m.landlock > 0 && m.seccomp => Isolation::Confined,
            _ => Isolation::Minimal,
        }
    }
}

impl Guarantees {
    /// What holds with these mechanisms.
    pub fn with(m: &Mechanisms) -> Self {
        let mut missing = Vec::new();
        for kind in [Kind::Operation, Kind::Job] {
            for guarantee in Guarantee::ALL {
                let (name, held) = (guarantee.as_str(), guarantee.held(kind, m));
                let kind = kind.as_str();
                match held {
                    Held::Enforced(_) => {}
                    Held::Partial(why) => missing.push(format!("{kind}: {name} ({why})")),
                    Held::Absent => missing.push(format!("{kind}: {name}")),
                }
            }
        }
        if let Some(refused) = m.refused {
            missing.push(format!("operations: namespaces ({refused})"));
        }
        if let Some(refused) = m.job_refused {
            missing.push(format!("jobs: namespaces ({refused})"));
        }
        if m.job_root && !m.job_processes {
            missing.push("jobs: /proc (this machine hides parts of its own)".to_owned());
        }
        // operations have one wherever the runner is root
        if m.own_user && m.job_root && !m.job_own_user {
            let why = "the state directory's file system cannot show its files as another user's";
            missing.push(format!("jobs: a user of their own ({why})"));
        }
        if m.job_root && m.landlock == 0 {
            let why = "without Landlock an engine reads its worker's memory and writes its job's spool";
            missing.push(format!("jobs: an engine apart from its worker ({why})"));
        }
        let (operations, jobs) = (Kind::Operation.level(m), Kind::Job.level(m));
        Self { level: operations.min(jobs), operations, jobs, jobs_are_root: m.jobs_are_root(), missing }
    }

    /// Whether that is what the configuration requires.
    ///
    /// # Errors
    /// `isolation_too_weak`.
    pub fn suffice(&self, require: Isolation) -> Result<(), Failure> {
        if self.level >= require {
            return Ok(());
        }
        let next = if self.jobs_are_root {
            "Run the runner as a user of its own, not as root; or where namespaces are allowed, so that jobs have a root of their own; or write a \
             lower isolation.require down."
        } else if self.level == Isolation::Confined {
            "Run it where user namespaces and mounts in them are allowed (as root, or with kernel.apparmor_restrict_unprivileged_userns=0 \
             or a profile; containers usually refuse them); or write a lower isolation.require down."
        } else {
            "Run it on a kernel with Landlock and seccomp, which containers usually allow; or write a lower isolation.require down."
        };
        Err(Code::IsolationTooWeak
            .on(format!(
                "isolation.require is {}, workers get {} (operations {}, jobs {}); missing: {}",
                require.as_str(),
                self.level.as_str(),
                self.operations.as_str(),
                self.jobs.as_str(),
                self.missing.join(", ")
            ))
            .next(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_above_what_there_is_refuses_to_start() {
        let nothing = Guarantees::with(&Mechanisms::default());
        assert_eq!(nothing.suffice(Isolation::Minimal), Ok(()));
        for floor in [Isolation::Confined, Isolation::Namespaces] {
            assert_eq!(nothing.suffice(floor).map_err(|f| f.code), Err(Code::IsolationTooWeak));
        }
    }

    #[test]
    fn what_does_not_hold_is_said() {
        let all = Mechanisms {
            namespaces: true,
            landlock: 7,
            seccomp: true,
            own_user: true,
            job_root: true,
            job_processes: true,
            job_asks: true,
            job_network: true,
            job_own_user: true,
            ..Mechanisms::default()
        };
        let best = Guarantees::with(&all);
        assert_eq!((best.level, best.operations), (Isolation::Namespaces, Isolation::Namespaces));
        assert!(!best.missing.iter().any(|m| m.starts_with("operations")), "{:?}", best.missing);
        assert_eq!(best.missing, ["jobs: memory_bounded"]);
        let shared = Guarantees::with(&Mechanisms { job_own_user: false, ..all });
        assert_eq!((shared.level, shared.missing.len()), (Isolation::Namespaces, 3), "{:?}", shared.missing);
        // a job whose connections nobody can judge by their address is confined at best
        for less in [Mechanisms { job_network: false, ..all }, Mechanisms { job_root: false, ..all }] {
            assert_eq!(Guarantees::with(&less).jobs, Isolation::Confined);
        }

        // root without its rights is still the owner of root's files
        let root = Guarantees::with(&Mechanisms { job_root: false, job_own_user: false, root: true, ..all });
        assert_eq!((root.operations, root.jobs), (Isolation::Namespaces, Isolation::Minimal));
        assert!(root.missing.iter().any(|m| m.starts_with("jobs: credentials_unreadable (")), "{:?}", root.missing);
        let refused = root.suffice(Isolation::Confined).expect_err("jobs are root");
        assert!(refused.next_step.contains("not as root"), "{refused}");
        let hint = |m: Mechanisms| Guarantees::with(&m).suffice(Isolation::Namespaces).expect_err("too weak").next_step;
        assert!(hint(Mechanisms { job_root: false, ..all }).contains("user namespaces"));
        assert!(hint(Mechanisms::default()).contains("Landlock"));
        let apart = Guarantees::with(&Mechanisms { landlock: 0, ..all });
        assert!(apart.missing.iter().any(|m| m.contains("engine apart")), "{:?}", apart.missing);

        let old = Guarantees::with(&Mechanisms { landlock: 2, seccomp: true, ..Mechanisms::default() });
        assert_eq!(old.level, Isolation::Confined);
        assert!(old.missing.contains(&"jobs: neighbours_unsignalable".to_owned()), "{:?}", old.missing);

        let refused = Some(crate::spawner::wire::Refused::new("clone", 1));
        let none = Guarantees::with(&Mechanisms { refused, ..Mechanisms::default() });
        assert_eq!(none.level, Isolation::Minimal);
        assert!(
            none.missing.iter().any(|m| m.starts_with("operations: namespaces (clone: EPERM")),
            "{:?}",
            none.missing
        );
        assert_eq!(none.missing.iter().filter(|m| m.starts_with("jobs: ")).count(), Guarantee::ALL.len());
    }
}
