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
pub const REPORT_SIZE: usize = 56;

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
    /// Start a worker; with it comes its socket, then an operation's end for asking for connections or a job's working directory, and last its
    /// domain.
    Start {
        /// Comes back in the reports.
        id: u64,
        /// Which, and how.
        launch: Launch,
        /// Whether the last descriptor is a Landlock ruleset.
        domain: bool,
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
}

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

/// From the spawner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The first one: what it confines workers with.
    Ready(Mechanisms),
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

// === impl Request ===

impl Request {
    /// The message that names a program; `None` for a path that is not absolute, too long, or has a zero byte.
    pub fn program(launch: Launch, path: &Path) -> Option<Self> {
        let bytes = path.as_os_str().as_bytes();
        if !path.is_absolute() || bytes.len() >= PATH_SIZE {
            return None;
        }
        Some(Self::Program { launch, path: CString::new(bytes).ok()? })
    }
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; REQUEST_SIZE];
        match self {
            Self::Start { id, launch, domain } => {
                out[0] = b'S';
                out[1] = *launch as u8;
                out[2] = u8::from(*domain);
                out[8..16].copy_from_slice(&id.to_le_bytes());
            }
            Self::Kill { pid, signal } => {
                out[0] = b'K';
                out[4..8].copy_from_slice(&signal.to_le_bytes());
                out[8..12].copy_from_slice(&pid.to_le_bytes());
            }
            Self::Program { launch, path } => {
                out[0] = b'P';
                out[1] = *launch as u8;
                out.resize(PROGRAM_SIZE, 0);
                let bytes = path.to_bytes();
                out[REQUEST_SIZE..REQUEST_SIZE + bytes.len()].copy_from_slice(bytes);
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
            }),
            (b'K', 0) => Some(Self::Kill { pid: int(head, 8)?, signal: int(head, 4)? }),
            (b'P', PATH_SIZE) => Some(Self::Program {
                launch: Launch::from_byte(head[1])?,
                path: CStr::from_bytes_until_nul(rest).ok()?.to_owned(),
            }),
            _ => None,
        }
    }
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
                out[1] = u8::from(m.namespaces) | u8::from(m.seccomp) << 1 | u8::from(m.own_user) << 2;
                out[2] = m.landlock;
                if let Some(refused) = m.refused {
                    out[3] = 1;
                    out[16..20].copy_from_slice(&refused.errno.to_le_bytes());
                    out[24..24 + STEP_SIZE].copy_from_slice(&refused.step);
                }
                return out;
            }
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
            b'R' => Self::Ready(Mechanisms {
                namespaces: message[1] & 1 != 0,
                seccomp: message[1] & 2 != 0,
                own_user: message[1] & 4 != 0,
                landlock: message[2],
                refused: match message[3] {
                    0 => None,
                    _ => Some(Refused { step: message[24..24 + STEP_SIZE].try_into().ok()?, errno: value }),
                },
            }),
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
            Request::Start { id: u64::MAX, launch: Launch::Job, domain: true },
            Request::Kill { pid: 7, signal: 9 },
            Request::program(Launch::Operation, Path::new("/usr/lib/runner/ops")).expect("a path"),
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
