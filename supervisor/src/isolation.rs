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
    const fn as_str(self) -> &'static str {
        match self {
            Self::Operation => "operations",
            Self::Job => "jobs",
        }
    }
    const fn level(self, m: &Mechanisms) -> Isolation {
        match self {
            Self::Operation if m.namespaces && m.seccomp => Isolation::Namespaces,
            Self::Job if m.job_root && m.job_network && m.seccomp => Isolation::Namespaces,
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
        let (operations, jobs) = (Kind::Operation.level(m), Kind::Job.level(m));
        Self { level: operations.min(jobs), operations, jobs, missing }
    }

    /// Whether that is what the configuration requires.
    ///
    /// # Errors
    /// `isolation_too_weak`.
    pub fn suffice(&self, require: Isolation) -> Result<(), Failure> {
        if self.level >= require {
            return Ok(());
        }
        Err(Code::IsolationTooWeak.on(format!(
            "isolation.require is {}, workers get {} (operations {}, jobs {}); missing: {}",
            require.as_str(),
            self.level.as_str(),
            self.operations.as_str(),
            self.jobs.as_str(),
            self.missing.join(", ")
        )))
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
            ..Mechanisms::default()
        };
        let best = Guarantees::with(&all);
        assert_eq!((best.level, best.operations), (Isolation::Namespaces, Isolation::Namespaces));
        assert!(!best.missing.iter().any(|m| m.starts_with("operations")), "{:?}", best.missing);
        assert_eq!(best.missing, ["jobs: memory_bounded", "jobs: processes_bounded"]);
        // a job whose connections nobody can judge by their address is confined at best
        for less in [Mechanisms { job_network: false, ..all }, Mechanisms { job_root: false, ..all }] {
            assert_eq!(Guarantees::with(&less).jobs, Isolation::Confined);
        }

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
