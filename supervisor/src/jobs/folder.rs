//! A job's folder: what the supervisor believes is in `own/`, what the worker writes in `work/`. What matters is on disk, folder and
//! all, before anything follows from it.

use super::durable;
use super::identity::ProcessIdentity;
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared_proto::bounds::JOB_REQUEST_MAX;
use shared_proto::ended::{self, WorkerEnded};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{Held, Key};
use shared_proto::v1::{Assignment, JobRequest, JobResult};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The longest id, of a job or a stack, that becomes a folder's name.
const ID_MAX: usize = 128;
/// The largest small file that is read, bytes.
const SMALL_MAX: u64 = 256 * 1024;
/// What is to be free before a job is taken: bytes, and files. Its spool alone takes some of it beforehand.
const ROOM_BYTES: u64 = 8 << 20;
const ROOM_FILES: u64 = 128;
/// Folders that are not yet, or no longer, jobs.
const HIDDEN: char = '.';
/// The format of a job's folder as a whole: it changes with whatever a program of another version would misunderstand.
const FORMAT: u32 = 1;
/// How a file's checksum stands behind its content: a last member, which those who do not know it overlook.
const SEAL: &str = ",\"crc32c\":\"";
/// Bytes of it with its eight digits and the end.
const SEAL_LENGTH: usize = SEAL.len() + 10;

/// The jobs folder and the states of stacks.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: PathBuf,
    /// The file with the key of states, where the configuration names one.
    key_file: Option<PathBuf>,
}

/// One job's folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    /// An ending that the disk did not take: it is told all the same.
    unwritten: Arc<Mutex<Option<Ending>>>,
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
    /// The control plane's own mark on the assignment, hexadecimal; empty: an older one gave none.
    #[serde(default)]
    pub(super) seal: String,
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

/// What somebody has decided to apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Approved {
    /// The plan; empty: the one that is there.
    pub(super) plan_sha256: String,
    /// Everybody who has approved it.
    pub(super) by: Vec<String>,
}

/// `own/started-…`: that a step was started, and by which process, once that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) process: Option<ProcessIdentity>,
    /// Apply: the plan that was approved.
    #[serde(default)]
    pub(super) plan_sha256: String,
    /// Apply: who approved it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) approved_by: Vec<String>,
    /// Apply: the serial of the state that is here, before anything was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state_serial: Option<u64>,
    /// Where the states are of stacks without a backend; empty: in the stack's folder.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) states_at: String,
    /// A keyed digest of the secrets that it was given: others than the plan has are not applied with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) secrets: String,
    /// Whether that process was about to be told what to do: from here on the step may have been begun, whatever the job's own events say.
    /// None: the first versions did not say.
    #[serde(default)]
    pub(super) told: Option<bool>,
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
    /// Where a state lies that the engine could not save.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) rescued_state: String,
    /// Nothing of the job runs any more: it was looked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) nothing_left: bool,
    /// The lock in the runner's own store that its engine has left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lock: Option<Held>,
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
            rescued_state: self.rescued_state.clone(),
            nothing_left: self.nothing_left,
            lock: self.lock.as_ref().map(Held::left),
            ..Default::default()
        }
    }
}

// === impl Store ===

impl Store {
    /// Makes what is missing.
    pub(super) fn open(state_dir: &Path) -> Result<Self, Failure> {
        let store = Self { root: state_dir.to_owned(), key_file: None };
        for folder in ["jobs", "stacks"] {
            private(&store.root.join(folder)).map_err(|e| broken(&store.root.join(folder), &e))?;
        }
        durable::sync_folder(&store.root).map_err(|e| broken(&store.root, &e))?;
        Ok(store)
    }

    /// The same, whose states are sealed with the key of that file.
    pub(super) fn sealed_with(self, key_file: Option<PathBuf>) -> Self {
        Self { key_file, ..self }
    }

    /// Every folder that is there, by name, and what goes wrong with one of them alone.
    pub(super) fn list(&self) -> Result<Vec<Folder>, Failure> {
        let jobs = self.root.join("jobs");
        let entries = std::fs::read_dir(&jobs).map_err(|e| broken(&jobs, &e))?;
        let mut folders: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| !n.starts_with(HIDDEN)))
            .map(Folder::at)
            .collect();
        folders.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(folders)
    }

    /// Puts what was neither finished nor kept out of the way of new jobs; it is to be removed.
    pub(super) fn sweep(&self) -> Vec<PathBuf> {
        let jobs = self.root.join("jobs");
        let mut gone = Vec::new();
        for entry in std::fs::read_dir(&jobs).into_iter().flatten().flatten() {
            let (name, mut path) = (entry.file_name(), entry.path());
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(".new-") {
                let aside = jobs.join(format!(".gone{name}-{}", shared_proto::now_ms()));
                if std::fs::rename(&path, &aside).is_ok() {
                    path = aside;
                }
            } else if !name.starts_with(".gone-") && !name.starts_with(".gone.") {
                continue;
            }
            gone.push(path);
        }
        gone
    }

    /// Whether there is room for one more job.
    pub(super) fn has_room(&self) -> Result<(), Failure> {
        let jobs = self.root.join("jobs");
        let system = nix::sys::statvfs::statvfs(&jobs).map_err(|e| broken(&jobs, &e.into()))?;
        if system.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
            return Err(Code::StateUnusable.on(format!("{}: it can only be read", jobs.display())));
        }
        let bytes = system.blocks_available() * system.fragment_size();
        // a file system that has no fixed number of files says 0 of 0
        let files = if system.files() == 0 { u64::MAX } else { system.files_available() };
        enough(bytes, files).map_err(|what| Code::DiskFull.on(format!("{}: {what}", jobs.display())))
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
            super::removal::remove_tree(&new)?;
            for folder in [&new, &new.join("own"), &new.join("work")] {
                private(folder)?;
            }
            let assigned = Assigned {
                format: FORMAT,
                job_id: id.to_owned(),
                fencing_token: assignment.fencing_token,
                instance_id: instance_id.to_owned(),
                request_sha256: shared_proto::hex::encode(&assignment.request_sha256),
                state_instance: assignment.state_instance.clone(),
                seal: shared_proto::hex::encode(&assignment.seal),
                accepted: false,
                phase: "assigned".into(),
            };
            durable::write_new(&new.join("own/request.bin"), &assignment.request)?;
            durable::write_new(&new.join("own/assignment.json"), &seal(serde_json::to_vec(&assigned)?))?;
            for folder in [new.join("own"), new.clone()] {
                durable::sync_folder(&folder)?;
            }
            durable::rename(&new, &path)?;
            durable::sync_folder(&jobs)
        };
        if let Err(e) = made() {
            // a full disk needs the room
            let _ = super::removal::remove_tree(&new);
            return Err(broken(&path, &e));
        }
        Ok(Folder::at(path))
    }

    /// What the states of a stack without a backend are sealed with.
    pub(super) fn state_key(&self, stack_id: &str) -> Result<Key, Failure> {
        super::key::of_stack(&self.root, self.key_file.as_deref(), checked_id(stack_id)?)
    }

    /// Where the states of a stack without a backend are.
    pub(super) fn stack(&self, stack_id: &str) -> Result<PathBuf, Failure> {
        Ok(self.root.join("stacks").join(checked_id(stack_id)?))
    }
}

// === impl Folder ===

impl Folder {
    fn at(path: PathBuf) -> Self {
        Self { path, unwritten: Arc::default() }
    }
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

    /// The worker's control socket, as a place to connect to: a socket, and no link to one.
    pub(super) fn open_control(&self) -> io::Result<OwnedFd> {
        let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
        let socket = OpenOptions::new().read(true).custom_flags(flags).open(self.work().join("control.sock"))?;
        if !socket.metadata()?.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no socket"));
        }
        Ok(socket.into())
    }

    /// How the worker of the newest step died, if it did: what the job itself says, and may be anything.
    pub(super) fn worker_ended(&self) -> Option<WorkerEnded> {
        let content = read(&self.work().join(ended::FILE), ended::SIZE_MAX).ok()??;
        serde_json::from_slice(&content).ok()
    }

    /// What was assigned.
    pub(super) fn assigned(&self) -> Result<Assigned, Failure> {
        let found: serde_json::Value = self
            .read_json("assignment.json")
            .map_err(|e| self.damaged(format!("assignment.json: {e}")))?
            .ok_or_else(|| self.damaged("there is no assignment.json".into()))?;
        // its format first: what else stands there, that one says
        if let Some(format) = found["format"].as_u64().filter(|format| *format != u64::from(FORMAT)) {
            let message =
                format!("job folder {}: it is of format {format}, and this runner knows {FORMAT}", self.name());
            return Err(Code::UnsupportedVersion
                .on(message)
                .next("It is left as it is. Start the runner's version that wrote it, which goes on with it."));
        }
        let assigned: Assigned =
            serde_json::from_value(found).map_err(|e| self.damaged(format!("assignment.json: {e}")))?;
        if assigned.job_id != self.name() {
            return Err(self.damaged("assignment.json is of another job".into()));
        }
        Ok(assigned)
    }
    /// The request, if it is still what was assigned.
    pub(super) fn request(&self, assigned: &Assigned) -> Result<JobRequest, Failure> {
        let bytes = self.request_bytes(assigned)?;
        JobRequest::decode(bytes.as_slice()).map_err(|e| self.damaged(format!("request.bin: {e}")))
    }
    /// The same as it came.
    pub(super) fn request_bytes(&self, assigned: &Assigned) -> Result<Vec<u8>, Failure> {
        use sha2::Digest as _;
        let bytes = read(&self.own().join("request.bin"), JOB_REQUEST_MAX as u64)
            .map_err(|e| self.damaged(format!("request.bin: {e}")))?
            .ok_or_else(|| self.damaged("there is no request.bin".into()))?;
        if shared_proto::hex::encode(sha2::Sha256::digest(&bytes)) != assigned.request_sha256 {
            return Err(self.damaged("request.bin is not what was assigned".into()));
        }
        Ok(bytes)
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
        // a marker that cannot be read is one: the step is never started again, and its process is known by the copy
        match self.read_json(step.marker()) {
            Ok(marker) => Ok(marker),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let copy = self.read_json::<Marker>(&copy_of(step)).ok().flatten();
                Ok(Some(Marker { damaged: true, ..copy.unwrap_or_default() }))
            }
            Err(e) => Err(broken(&self.own().join(step.marker()), &e)),
        }
    }
    /// Says that a step is started, for good. A copy comes first: without it an engine could run on whose process nobody knows.
    pub(super) fn mark(&self, step: Step, marker: &Marker) -> Result<(), Failure> {
        self.write_json(&copy_of(step), marker)?;
        self.write_json(step.marker(), marker)
    }

    /// The last number that the control plane has.
    pub(super) fn acknowledged(&self) -> u64 {
        let text = read(&self.own().join("acknowledged"), 64).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // what is lost here is only sent a second time; a number that is too high would leave events out
        let whole = text.trim().split_once(' ').filter(|(number, sum)| *sum == checksum(number.as_bytes()));
        whole.and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
    }
    /// Notes it. Not waited for: sending an event again is harmless.
    pub(super) fn acknowledge(&self, sequence: u64) -> io::Result<()> {
        let (new, number) = (self.own().join("acknowledged.new"), sequence.to_string());
        durable::create(&new, format!("{number} {}\n", checksum(number.as_bytes())).as_bytes())?;
        durable::rename(&new, &self.own().join("acknowledged"))
    }

    /// The supervisor's own ending of the job.
    pub(super) fn ending(&self) -> Result<Option<Ending>, Failure> {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if unwritten.is_some() {
            return Ok(unwritten);
        }
        self.read_json("result.json").map_err(|e| broken(&self.own().join("result.json"), &e))
    }
    /// Ends the job; an ending that is there and can be read stays. Where the disk does not take it, it is known until this program ends.
    pub(super) fn end(&self, ending: &Ending) -> Result<(), Failure> {
        if let Ok(Some(_)) = self.ending() {
            return Ok(());
        }
        let written = self.write_json("result.json", ending);
        if written.is_err() {
            *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending.clone());
        }
        written
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
        super::removal::remove_tree(&gone)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match read(&self.own().join(name), SMALL_MAX)? {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(unseal(&bytes)?)
                .map(Some)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
        }
    }
    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let path = self.own().join(name);
        let written = || -> io::Result<()> {
            durable::replace(&path, &seal(serde_json::to_vec(value)?))?;
            durable::sync_folder(&self.own())
        };
        written().map_err(|e| broken(&path, &e))
    }
}

/// Where a marker is a second time: no damage of one sector takes both.
fn copy_of(step: Step) -> String {
    format!("{}.copy", step.marker())
}

/// An id that may be a folder's name: it comes from the control plane.
pub(super) fn checked_id(id: &str) -> Result<&str, Failure> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(fine) {
        return Err(Code::InvalidArgument.on("an id of a job or a stack is not 1 to 128 letters, digits, '-' or '_'"));
    }
    Ok(id)
}

/// Whether a job can be begun with so much.
fn enough(bytes: u64, files: u64) -> Result<(), String> {
    if bytes < ROOM_BYTES {
        return Err(format!("{} KiB are free, and a job is taken from {} MiB on", bytes >> 10, ROOM_BYTES >> 20));
    }
    if files < ROOM_FILES {
        return Err(format!("{files} more files fit, and a job is taken from {ROOM_FILES} on"));
    }
    Ok(())
}

/// Makes a folder for this user alone.
pub(super) fn private(path: &Path) -> io::Result<()> {
    durable::make_folder(path)
}

/// A JSON object with the checksum of itself as its last member.
fn seal(mut json: Vec<u8>) -> Vec<u8> {
    if json.pop_if(|last| *last == b'}').is_some() {
        let sum = checksum(&json);
        json.extend_from_slice(format!("{SEAL}{sum}\"}}").as_bytes());
    }
    json
}

/// The same object, if it is what was sealed. One without a checksum is of a version that wrote none.
fn unseal(json: &[u8]) -> io::Result<&[u8]> {
    let (content, seal) = json.split_at(json.len().saturating_sub(SEAL_LENGTH));
    match seal.strip_prefix(SEAL.as_bytes()) {
        Some(sum) if sum.get(..8) != Some(checksum(content).as_bytes()) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not fit"))
        }
        _ => Ok(json),
    }
}

/// CRC-32C, as hexadecimal digits.
fn checksum(content: &[u8]) -> String {
    format!("{:08x}", shared_proto::spool::checksum_of(content))
}

/// Reads a file that may be missing, and may not have more bytes than that.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let content = read_first(path, most + 1)?;
    if content.as_ref().is_some_and(|content| content.len() as u64 > most) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
    }
    Ok(content)
}

/// Reads the first so many bytes of a file that may be missing.
pub(super) fn read_first(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
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
    file.take(most).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// A failure of the file system.
pub(super) fn broken(path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
        io::ErrorKind::ReadOnlyFilesystem => Code::StateUnusable,
        _ if error.raw_os_error() == Some(nix::libc::EIO) => Code::StateUnusable,
        _ => Code::Internal,
    };
    code.on(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_a_job_at_both_sides_of_the_bound() {
        assert_eq!(enough(ROOM_BYTES, ROOM_FILES), Ok(()));
        assert!(enough(ROOM_BYTES - 1, ROOM_FILES).is_err_and(|what| what.contains("8191 KiB are free")));
        assert!(enough(ROOM_BYTES, ROOM_FILES - 1).is_err_and(|what| what.contains("127 more files fit")));
    }

    #[test]
    fn an_ending_that_the_disk_does_not_take_is_known_all_the_same() {
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::open(place.path()).expect("opens");
        let assignment = Assignment { job_id: "j1".into(), ..Assignment::default() };
        let folder = store.create(&assignment, "i1").expect("creates");
        let ending = |code: &str| Ending {
            sequence: 1,
            time_ms: 1,
            phase: "failed".into(),
            code: code.into(),
            message: String::new(),
            next_step: String::new(),
            rescued_state: String::new(),
            nothing_left: false,
            lock: None,
        };
        // nothing can be made where no folder is
        std::fs::rename(folder.own(), place.path().join("away")).expect("moves");
        assert!(folder.end(&ending("first")).is_err());
        let told = |folder: &Folder| folder.clone().ending().ok().flatten().map(|e| e.code);
        assert_eq!(told(&folder).as_deref(), Some("first"));
        std::fs::rename(place.path().join("away"), folder.own()).expect("moves");
        assert!(folder.end(&ending("second")).is_ok());
        assert_eq!(told(&folder).as_deref(), Some("first"), "the first one stays");
        // one that cannot be read does not keep the job from its end
        let folder = store.list().expect("lists").remove(0);
        std::fs::write(folder.own().join("result.json"), "{").expect("writes");
        assert!(folder.ending().is_err());
        folder.end(&ending("third")).expect("writes");
        assert_eq!(told(&store.list().expect("lists").remove(0)).as_deref(), Some("third"));
    }

    #[test]
    fn a_folder_of_another_format_is_refused_by_name_and_one_without_checksums_is_read() {
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::open(place.path()).expect("opens");
        let assignment = Assignment { job_id: "j1".into(), fencing_token: 7, ..Assignment::default() };
        let folder = store.create(&assignment, "i1").expect("creates");
        let path = folder.own().join("assignment.json");
        let written = folder.assigned().expect("reads");
        for (format, code) in [(0, Code::UnsupportedVersion), (2, Code::UnsupportedVersion)] {
            std::fs::write(&path, format!(r#"{{"format":{format},"of":"another shape"}}"#)).expect("writes");
            assert_eq!(folder.assigned().map_err(|e| e.code), Err(code));
        }
        std::fs::write(&path, r#"{"of":"no format"}"#).expect("writes");
        assert_eq!(folder.assigned().map_err(|e| e.code), Err(Code::SpoolDamaged));
        // what earlier versions wrote, and what a later one of this format may add
        let mut plain = serde_json::to_value(&written).expect("serializes");
        plain["added_later"] = "is overlooked".into();
        std::fs::write(&path, plain.to_string()).expect("writes");
        assert_eq!(folder.assigned().expect("reads"), written);
        std::fs::write(folder.own().join("acknowledged"), "12\n").expect("writes");
        assert_eq!(folder.acknowledged(), 0, "sent again, which is harmless");
        folder.acknowledge(12).expect("writes");
        assert_eq!(folder.acknowledged(), 12);
    }
}
