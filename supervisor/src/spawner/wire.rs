//! What supervisor and spawner say to each other: fixed-size messages, one a datagram. Sockets and folders travel beside them.
//!
//! Both ends are of one binary and one start, so there is no version in it; a length or tag that is not known is an error all the same.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The longest path of a worker's program, bytes, its final zero included: Linux's own limit.
pub const PATH_SIZE: usize = 4096;
/// The length of a request.
pub const REQUEST_SIZE: usize = 16;
/// The length of the message that names a program.
pub const PROGRAM_SIZE: usize = REQUEST_SIZE + PATH_SIZE;
/// The length of a report.
pub const REPORT_SIZE: usize = 88;

/// How a worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Launch {
    /// An operation: dies with spawner and supervisor.
    Operation = 1,
    /// A credential resolver: the same.
    Resolver = 2,
    /// A job: outlives both.
    Job = 3,
}

/// From the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a worker; with it comes its socket, then an operation's end for asking for connections, or a job's working directory and what
    /// else it writes and reads, and last its domain.
    Start {
        /// Comes back in the reports.
        id: u64,
        /// Which, and how.
        launch: Launch,
        /// Whether the last descriptor is a Landlock ruleset.
        domain: bool,
        /// How many of a job's are written, after the working directory, before those that are read.
        writes: u8,
    },
    /// The first one: with it comes the state directory, or the nearest folder to it that is there. [`Report::Ready`] answers it.
    State,
    /// [`Report::Here`] answers it.
    Ask,
    /// Send a signal to one process, which comes as a pidfd: one of a job.
    Signal {
        /// The signal.
        signal: i32,
    },
    /// Send a signal to a session.
    Kill {
        /// Its leader.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// The program for operations and resolvers ([`Launch::Operation`]) or for jobs ([`Launch::Job`]).
    Program {
        /// For which.
        launch: Launch,
        /// Its absolute path.
        path: CString,
    },
    /// What a job may have: memory where it has a control group of its own, processes where they can be counted.
    Bounds {
        /// Memory, MiB.
        memory_mib: u32,
        /// Processes and threads.
        processes: u32,
    },
    /// Whether it tells what the filters of operations' workers and resolvers refuse.
    Tells {
        /// Whether it does.
        refused: bool,
    },
    /// What every job reads, besides what is the same for all machines; forgotten with the next [`Request::Program`] for jobs.
    Reads {
        /// Its absolute path.
        path: CString,
    },
}

/// The most paths that every job reads.
pub const READS_MAX: usize = 128;

/// What workers are confined with on this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mechanisms {
    /// Operations: namespaces of their own and an own root.
    pub namespaces: bool,
    /// Landlock's version; 0: none.
    pub landlock: u8,
    /// System call filters.
    pub seccomp: bool,
    /// Operations: a user each.
    pub own_user: bool,
    /// Why there are no namespaces.
    pub refused: Option<Refused>,
    /// Jobs: a root, a pid namespace and others of their own.
    pub job_root: bool,
    /// Jobs: their own processes are shown in that root.
    pub job_processes: bool,
    /// Jobs: somebody connects for them.
    pub job_asks: bool,
    /// Jobs: a network namespace of their own.
    pub job_network: bool,
    /// Jobs: a control group each.
    pub job_cgroup: bool,
    /// Jobs: their processes are counted by themselves.
    pub job_processes_bounded: bool,
    /// Jobs: a user each, to whom the folders that are a job's are shown as its own.
    pub job_own_user: bool,
    /// The runner is root: jobs are, too, though without its rights, where they have no user of their own.
    pub root: bool,
    /// Why jobs have no root of their own.
    pub job_refused: Option<Refused>,
}

/// A step that could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    step: [u8; STEP_SIZE],
    /// Its reason; 0: it was done, and did not do what it should.
    pub errno: i32,
}

/// The longest name of a step, bytes.
const STEP_SIZE: usize = 24;

/// Where the two stand in a report.
const REFUSED_AT: [usize; 2] = [16, 52];

/// From the spawner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The answer to [`Request::State`]: what it confines workers with.
    Ready(Mechanisms),
    /// The answer to [`Request::Ask`].
    Here,
    /// It has executed its program.
    Started {
        /// Of the request.
        id: u64,
        /// Its process id.
        pid: i32,
    },
    /// There is no worker. `errno` 0: the bound of processes is reached.
    Failed {
        /// Of the request.
        id: u64,
        /// Why.
        errno: i32,
    },
    /// It has exited by itself.
    Exited {
        /// Of the request.
        id: u64,
        /// Its code.
        code: i32,
    },
    /// It was ended by a signal.
    Signalled {
        /// Of the request.
        id: u64,
        /// The signal.
        signal: i32,
    },
}

// === impl Mechanisms ===

impl Mechanisms {
    /// Whether jobs are root, though without its rights: of a root runner, where they have no root of their own.
    pub const fn jobs_are_root(&self) -> bool {
        self.root && !self.job_root
    }
}

// === impl Launch ===

impl Launch {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Operation,
            2 => Self::Resolver,
            3 => Self::Job,
            _ => return None,
        })
    }
}

fn sent(path: &Path) -> Option<CString> {
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() || bytes.len() >= PATH_SIZE {
        return None;
    }
    CString::new(bytes).ok()
}

// === impl Request ===

impl Request {
    /// The message that names a program; `None` for a path that is not absolute, too long, or has a zero byte.
    pub fn program(launch: Launch, path: &Path) -> Option<Self> {
        Some(Self::Program { launch, path: sent(path)? })
    }
    /// The message that names what every job reads; `None` for the same.
    pub fn reads(path: &Path) -> Option<Self> {
        Some(Self::Reads { path: sent(path)? })
    }
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; REQUEST_SIZE];
        match self {
            Self::Start { id, launch, domain, writes } => {
                out[0] = b'S';
                out[1] = *launch as u8;
                out[2] = u8::from(*domain);
                out[3] = *writes;
                out[8..16].copy_from_slice(&id.to_le_bytes());
            }
            Self::State => out[0] = b'F',
            Self::Ask => out[0] = b'A',
            Self::Signal { signal } => {
                out[0] = b'G';
                out[4..8].copy_from_slice(&signal.to_le_bytes());
            }
            Self::Kill { pid, signal } => {
                out[0] = b'K';
                out[4..8].copy_from_slice(&signal.to_le_bytes());
                out[8..12].copy_from_slice(&pid.to_le_bytes());
            }
            Self::Program { launch, path } => {
                (out[0], out[1]) = (b'P', *launch as u8);
                with_path(&mut out, path);
            }
            Self::Bounds { memory_mib, processes } => {
                out[0] = b'B';
                out[4..8].copy_from_slice(&memory_mib.to_le_bytes());
                out[8..12].copy_from_slice(&processes.to_le_bytes());
            }
            Self::Tells { refused } => (out[0], out[1]) = (b'T', u8::from(*refused)),
            Self::Reads { path } => {
                out[0] = b'D';
                with_path(&mut out, path);
            }
        }
        out
    }
    /// As it was received; `None` for what nobody sends.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (head, rest) = message.split_at_checked(REQUEST_SIZE)?;
        match (head[0], rest.len()) {
            (b'S', 0) => Some(Self::Start {
                id: u64::from_le_bytes(head[8..16].try_into().ok()?),
                launch: Launch::from_byte(head[1])?,
                domain: head[2] != 0,
                writes: head[3],
            }),
            (b'F', 0) => Some(Self::State),
            (b'A', 0) => Some(Self::Ask),
            (b'G', 0) => Some(Self::Signal { signal: int(head, 4)? }),
            (b'K', 0) => Some(Self::Kill { pid: int(head, 8)?, signal: int(head, 4)? }),
            (b'B', 0) => Some(Self::Bounds {
                memory_mib: int(head, 4)?.cast_unsigned(),
                processes: int(head, 8)?.cast_unsigned(),
            }),
            (b'T', 0) => Some(Self::Tells { refused: head[1] != 0 }),
            (b'P', PATH_SIZE) => Some(Self::Program {
                launch: Launch::from_byte(head[1])?,
                path: CStr::from_bytes_until_nul(rest).ok()?.to_owned(),
            }),
            (b'D', PATH_SIZE) => Some(Self::Reads { path: CStr::from_bytes_until_nul(rest).ok()?.to_owned() }),
            _ => None,
        }
    }
}

fn with_path(message: &mut Vec<u8>, path: &CStr) {
    message.resize(PROGRAM_SIZE, 0);
    let bytes = path.to_bytes();
    message[REQUEST_SIZE..REQUEST_SIZE + bytes.len()].copy_from_slice(bytes);
}

// === impl Refused ===

impl Refused {
    /// That step, cut to size.
    pub fn new(step: &str, errno: i32) -> Self {
        let mut bytes = [0; STEP_SIZE];
        for (place, byte) in bytes.iter_mut().zip(step.bytes().filter(|b| b.is_ascii_graphic() || *b == b' ')) {
            *place = byte;
        }
        Self { step: bytes, errno }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let step: String = self.step.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
        match self.errno {
            0 => write!(f, "{step} did not hold"),
            errno => write!(f, "{step}: {}", nix::errno::Errno::from_raw(errno)),
        }
    }
}

// === impl Report ===

impl Report {
    /// As it is sent.
    pub fn encode(self) -> [u8; REPORT_SIZE] {
        let mut out = [0; REPORT_SIZE];
        let (tag, id, value) = match self {
            Self::Ready(m) => {
                out[0] = b'R';
                let flags = [
                    m.namespaces,
                    m.seccomp,
                    m.own_user,
                    m.job_root,
                    m.job_processes,
                    m.job_asks,
                    m.job_network,
                    m.job_processes_bounded,
                    m.job_cgroup,
                    m.job_own_user,
                    m.root,
                ];
                let bits = flags.iter().rev().fold(0_u16, |bits, flag| bits << 1 | u16::from(*flag));
                [out[1], out[4]] = bits.to_le_bytes();
                out[2] = m.landlock;
                for (n, refused) in [m.refused, m.job_refused].into_iter().enumerate() {
                    let Some(refused) = refused else { continue };
                    let at = REFUSED_AT[n];
                    out[3] |= 1 << n;
                    out[at..at + 4].copy_from_slice(&refused.errno.to_le_bytes());
                    out[at + 8..at + 8 + STEP_SIZE].copy_from_slice(&refused.step);
                }
                return out;
            }
            Self::Here => (b'H', 0, 0),
            Self::Started { id, pid } => (b'S', id, pid),
            Self::Failed { id, errno } => (b'F', id, errno),
            Self::Exited { id, code } => (b'E', id, code),
            Self::Signalled { id, signal } => (b'G', id, signal),
        };
        out[0] = tag;
        out[8..16].copy_from_slice(&id.to_le_bytes());
        out[16..20].copy_from_slice(&value.to_le_bytes());
        out
    }
    /// As it was received; `None` for what nobody sends.
    pub fn decode(message: &[u8]) -> Option<Self> {
        if message.len() != REPORT_SIZE {
            return None;
        }
        let id = u64::from_le_bytes(message[8..16].try_into().ok()?);
        let value = int(message, 16)?;
        Some(match message[0] {
            b'R' => {
                let flag = |n: u8| u16::from_le_bytes([message[1], message[4]]) & 1 << n != 0;
                let refused = |n: usize| -> Option<Refused> {
                    let at = REFUSED_AT[n];
                    let step = message[at + 8..at + 8 + STEP_SIZE].try_into().ok()?;
                    (message[3] & 1 << n != 0).then_some(Refused { step, errno: int(message, at)? })
                };
                Self::Ready(Mechanisms {
                    namespaces: flag(0),
                    seccomp: flag(1),
                    own_user: flag(2),
                    job_root: flag(3),
                    job_processes: flag(4),
                    job_asks: flag(5),
                    job_network: flag(6),
                    job_processes_bounded: flag(7),
                    job_cgroup: flag(8),
                    job_own_user: flag(9),
                    root: flag(10),
                    landlock: message[2],
                    refused: refused(0),
                    job_refused: refused(1),
                })
            }
            b'H' => Self::Here,
            b'S' => Self::Started { id, pid: value },
            b'F' => Self::Failed { id, errno: value },
            b'E' => Self::Exited { id, code: value },
            b'G' => Self::Signalled { id, signal: value },
            _ => return None,
        })
    }
}

fn int(message: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_and_nothing_else_is_one() {
        let requests = [
            Request::Start { id: u64::MAX, launch: Launch::Job, domain: true, writes: 2 },
            Request::State,
            Request::Ask,
            Request::Signal { signal: 2 },
            Request::Kill { pid: 7, signal: 9 },
            Request::program(Launch::Operation, Path::new("/usr/lib/runner/ops")).expect("a path"),
            Request::Bounds { memory_mib: u32::MAX, processes: 7 },
            Request::Tells { refused: true },
            Request::Tells { refused: false },
            Request::reads(Path::new("/srv/mirror")).expect("a path"),
        ];
        for request in requests {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Some(request));
            for cut in 0..bytes.len() {
                assert_eq!(Request::decode(&bytes[..cut]).filter(|_| cut != REQUEST_SIZE), None);
            }
        }
        let refused = Refused::new("root file system that is long", 1);
        assert!(refused.to_string().starts_with("root file system that is: EPERM"));
        let refused = Some(refused);
        for report in [
            Report::Ready(Mechanisms { landlock: 7, seccomp: true, refused, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { namespaces: true, own_user: true, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { job_root: true, job_processes: true, refused, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { job_asks: true, job_network: true, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { job_processes_bounded: true, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { job_cgroup: true, refused, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { job_own_user: true, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { root: true, ..Mechanisms::default() }),
            Report::Ready(Mechanisms { job_refused: Some(Refused::new("clone", 28)), ..Mechanisms::default() }),
            Report::Here,
            Report::Started { id: 1, pid: 2 },
            Report::Failed { id: 1, errno: 2 },
            Report::Exited { id: 1, code: -1 },
            Report::Signalled { id: 1, signal: 9 },
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(&[0; REPORT_SIZE]), None);
        assert_eq!(Request::decode(&[0; REQUEST_SIZE]), None);
        assert_eq!(Request::program(Launch::Job, Path::new("relative")), None);
    }
}
