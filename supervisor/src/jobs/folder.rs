//! A job's folder: what the supervisor believes is in `own/`, what the worker writes in `work/`. What matters is on disk, folder and
//! all, before anything follows from it.

use super::identity::ProcessIdentity;
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared_proto::bounds::JOB_REQUEST_MAX;
use shared_proto::ended::{self, WorkerEnded};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{Assignment, JobRequest, JobResult};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The longest id, of a job or a stack, that becomes a folder's name.
const ID_MAX: usize = 128;
/// The largest small file that is read, bytes.
const SMALL_MAX: u64 = 256 * 1024;
/// Folders that are not yet, or no longer, jobs.
const HIDDEN: char = '.';

/// The jobs folder and the states of stacks.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: PathBuf,
}

/// One job's folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
}

/// `own/assignment.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assigned {
    pub(super) format: u32,
    pub(super) job_id: String,
    pub(super) fencing_token: u64,
    pub(super) instance_id: String,
    /// Of the request, hexadecimal.
    pub(super) request_sha256: String,
    /// The instance that has the stack's state, if it has no backend; empty: none, or not known.
    #[serde(default)]
    pub(super) state_instance: String,
    /// Whether the control plane took our word for it.
    pub(super) accepted: bool,
    /// For people: what was last known.
    pub(super) phase: String,
}

/// A step with a marker of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Plan, or reading outputs.
    Plan,
    /// Applying an approved plan.
    Apply,
}

/// `own/started-…`: that a step was started, and by which process, once that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) process: Option<ProcessIdentity>,
    /// Apply: the plan that was approved.
    #[serde(default)]
    pub(super) plan_sha256: String,
    /// It is there, and cannot be read.
    #[serde(skip)]
    pub(super) damaged: bool,
}

/// `own/result.json`: the job's last event, where the supervisor had to write it in the worker's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) sequence: u64,
    pub(super) time_ms: i64,
    pub(super) phase: String,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) next_step: String,
}

// === impl Step ===

impl Step {
    const fn marker(self) -> &'static str {
        match self {
            Self::Plan => "started-plan",
            Self::Apply => "started-apply",
        }
    }
}

// === impl Ending ===

impl Ending {
    pub(super) fn result(&self) -> JobResult {
        JobResult {
            phase: self.phase.clone(),
            code: self.code.clone(),
            message: self.message.clone(),
            next_step: self.next_step.clone(),
            ..Default::default()
        }
    }
}

// === impl Store ===

impl Store {
    /// Makes what is missing.
    pub(super) fn open(state_dir: &Path) -> Result<Self, Failure> {
        let store = Self { root: state_dir.to_owned() };
        for folder in ["jobs", "stacks"] {
            private(&store.root.join(folder)).map_err(|e| broken(&store.root.join(folder), &e))?;
        }
        Ok(store)
    }

    /// Every folder that is there, by name, and what goes wrong with one of them alone.
    pub(super) fn list(&self) -> Result<Vec<Folder>, Failure> {
        let jobs = self.root.join("jobs");
        let entries = std::fs::read_dir(&jobs).map_err(|e| broken(&jobs, &e))?;
        let mut folders: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| !n.starts_with(HIDDEN)))
            .map(|path| Folder { path })
            .collect();
        folders.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(folders)
    }

    /// Removes what was neither finished nor kept.
    pub(super) fn sweep(&self) {
        for entry in std::fs::read_dir(self.root.join("jobs")).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(".new-") || name.starts_with(".gone-")) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Writes an assignment down: the folder is there as a whole, fsynced, or not at all.
    pub(super) fn create(&self, assignment: &Assignment, instance_id: &str) -> Result<Folder, Failure> {
        let id = checked_id(&assignment.job_id)?;
        if assignment.request.len() > JOB_REQUEST_MAX {
            return Err(Code::TooLarge.on(format!("the request of job {id} exceeds {JOB_REQUEST_MAX} bytes")));
        }
        let jobs = self.root.join("jobs");
        let (new, path) = (jobs.join(format!(".new-{id}")), jobs.join(id));
        let made = || -> io::Result<()> {
            let _ = std::fs::remove_dir_all(&new);
            for folder in [&new, &new.join("own"), &new.join("work")] {
                private(folder)?;
            }
            let assigned = Assigned {
                format: 1,
                job_id: id.to_owned(),
                fencing_token: assignment.fencing_token,
                instance_id: instance_id.to_owned(),
                request_sha256: hex(&assignment.request_sha256),
                state_instance: assignment.state_instance.clone(),
                accepted: false,
                phase: "assigned".into(),
            };
            write(&new.join("own/request.bin"), &assignment.request)?;
            write(&new.join("own/assignment.json"), &serde_json::to_vec(&assigned)?)?;
            for folder in [new.join("own"), new.clone()] {
                File::open(folder)?.sync_all()?;
            }
            std::fs::rename(&new, &path)?;
            File::open(&jobs)?.sync_all()
        };
        made().map_err(|e| broken(&path, &e))?;
        Ok(Folder { path })
    }

    /// Where a stack without a backend keeps its state.
    pub(super) fn stack(&self, stack_id: &str) -> Result<PathBuf, Failure> {
        Ok(self.root.join("stacks").join(checked_id(stack_id)?))
    }
}

// === impl Folder ===

impl Folder {
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
    /// The worker's folder.
    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }
    /// The supervisor's folder.
    pub(super) fn own(&self) -> PathBuf {
        self.path.join("own")
    }
    /// The worker's folder, opened: never through a link.
    pub(super) fn open_work(&self) -> io::Result<OwnedFd> {
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
        Ok(OpenOptions::new().read(true).custom_flags(flags).open(self.work())?.into())
    }

    /// How the worker of the newest step died, if it did: what the job itself says, and may be anything.
    pub(super) fn worker_ended(&self) -> Option<WorkerEnded> {
        let content = read(&self.work().join(ended::FILE), ended::SIZE_MAX).ok()??;
        serde_json::from_slice(&content).ok()
    }

    /// What was assigned.
    pub(super) fn assigned(&self) -> Result<Assigned, Failure> {
        let assigned: Assigned = self
            .read_json("assignment.json")
            .map_err(|e| self.damaged(format!("assignment.json: {e}")))?
            .ok_or_else(|| self.damaged("there is no assignment.json".into()))?;
        if assigned.format != 1 || assigned.job_id != self.name() {
            return Err(self.damaged("assignment.json is of another job or format".into()));
        }
        Ok(assigned)
    }
    /// The request, if it is still what was assigned.
    pub(super) fn request(&self, assigned: &Assigned) -> Result<JobRequest, Failure> {
        use sha2::Digest as _;
        let bytes = read(&self.own().join("request.bin"), JOB_REQUEST_MAX as u64)
            .map_err(|e| self.damaged(format!("request.bin: {e}")))?
            .ok_or_else(|| self.damaged("there is no request.bin".into()))?;
        if hex(&sha2::Sha256::digest(&bytes)) != assigned.request_sha256 {
            return Err(self.damaged("request.bin is not what was assigned".into()));
        }
        JobRequest::decode(bytes.as_slice()).map_err(|e| self.damaged(format!("request.bin: {e}")))
    }
    fn damaged(&self, what: String) -> Failure {
        Code::SpoolDamaged.on(format!("job folder {}: {what}", self.name()))
    }
    /// Writes it down anew.
    pub(super) fn assign(&self, assigned: &Assigned) -> Result<(), Failure> {
        self.write_json("assignment.json", assigned)
    }

    /// Whether a step was started.
    pub(super) fn marker(&self, step: Step) -> Result<Option<Marker>, Failure> {
        // a marker that cannot be read is one: the step is never started again
        match self.read_json(step.marker()) {
            Ok(marker) => Ok(marker),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Ok(Some(Marker { process: None, plan_sha256: String::new(), damaged: true }))
            }
            Err(e) => Err(broken(&self.own().join(step.marker()), &e)),
        }
    }
    /// Says that a step is started, for good.
    pub(super) fn mark(&self, step: Step, marker: &Marker) -> Result<(), Failure> {
        self.write_json(step.marker(), marker)
    }

    /// The last number that the control plane has.
    pub(super) fn acknowledged(&self) -> u64 {
        let text = read(&self.own().join("acknowledged"), 64).ok().flatten().unwrap_or_default();
        // what is lost here is only sent a second time
        String::from_utf8_lossy(&text).trim().parse().unwrap_or(0)
    }
    /// Notes it. Not waited for: sending an event again is harmless.
    pub(super) fn acknowledge(&self, sequence: u64) -> io::Result<()> {
        let new = self.own().join("acknowledged.new");
        std::fs::write(&new, format!("{sequence}\n"))?;
        std::fs::rename(&new, self.own().join("acknowledged"))
    }

    /// The supervisor's own ending of the job.
    pub(super) fn ending(&self) -> Result<Option<Ending>, Failure> {
        self.read_json("result.json").map_err(|e| broken(&self.own().join("result.json"), &e))
    }
    /// Ends the job; an ending that is there stays.
    pub(super) fn end(&self, ending: &Ending) -> Result<(), Failure> {
        match self.ending()? {
            Some(_) => Ok(()),
            None => self.write_json("result.json", ending),
        }
    }

    /// Moves it aside, for somebody to look at.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.path.with_file_name(format!(".damaged-{}-{}", self.name(), shared_proto::now_ms()));
        std::fs::rename(&self.path, &aside)?;
        Ok(aside)
    }
    /// Removes it: first from sight, so that half a folder is never adopted.
    pub(super) fn remove(&self) -> io::Result<()> {
        let gone = self.path.with_file_name(format!(".gone-{}", self.name()));
        std::fs::rename(&self.path, &gone)?;
        std::fs::remove_dir_all(gone)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match read(&self.own().join(name), SMALL_MAX)? {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
        }
    }
    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let path = self.own().join(name);
        let written = || -> io::Result<()> {
            let new = self.own().join(format!("{name}.new"));
            let _ = std::fs::remove_file(&new);
            write(&new, &serde_json::to_vec(value)?)?;
            std::fs::rename(&new, &path)?;
            File::open(self.own())?.sync_all()
        };
        written().map_err(|e| broken(&path, &e))
    }
}

/// An id that may be a folder's name: it comes from the control plane.
fn checked_id(id: &str) -> Result<&str, Failure> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(fine) {
        return Err(Code::InvalidArgument.on("an id of a job or a stack is not 1 to 128 letters, digits, '-' or '_'"));
    }
    Ok(id)
}

/// Makes a folder for this user alone.
pub(super) fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a new file and waits for the disk.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a file that may be missing, at most so many bytes of it.
fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    // neither a link nor a pipe that nobody writes
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
    }
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
    }
    Ok(Some(content))
}

/// A failure of the file system.
pub(super) fn broken(path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
        _ => Code::Internal,
    };
    code.on(format!("{}: {error}", path.display()))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
