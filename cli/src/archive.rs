//! Packs a folder into a tar.gz that depends on its content alone: sorted, without times and owners. What `.runnerignore` names
//! stays out (gitignore's rules), files of secrets unless it takes them in, and always `.git`, `.terraform` and states. No link may leave the
//! folder.

mod secret_files;

use flate2::{Compression, GzBuilder};
use ignore::gitignore::Gitignore;
use ignore::{DirEntry, WalkBuilder};
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::{ARCHIVE_PACKED_MAX, SOURCE_FILES_MAX, SOURCE_UNPACKED_MAX};
use shared_proto::failure::{Code, Failure};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

/// The longest name of a stack, bytes.
pub(crate) const NAME_MAX: usize = 63;
/// The file that names what stays out.
pub(crate) const IGNORE_FILE: &str = ".runnerignore";

/// The bounds of an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes, packed.
    pub(crate) packed: u64,
    /// Bytes, unpacked.
    pub(crate) unpacked: u64,
    /// Files, folders and links.
    pub(crate) entries: u64,
}

/// A packed folder in an unnamed temporary file, at its start.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The bytes.
    pub(crate) file: File,
    /// SHA-256 of them, lower-case hexadecimal.
    pub(crate) sha256: String,
    /// Their number.
    pub(crate) size: u64,
    /// Files, folders and links in it.
    pub(crate) entries: u64,
    /// What was left out because it holds secrets, by its name in the folder.
    pub(crate) secrets: Vec<PathBuf>,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { packed: ARCHIVE_PACKED_MAX, unpacked: SOURCE_UNPACKED_MAX, entries: SOURCE_FILES_MAX }
    }
}

/// Packs the folder. Blocking: call it on a thread of its own.
///
/// # Errors
/// `source_refused` with the path, `too_large` with the limit.
pub(crate) fn pack(root: &Path, limits: Limits) -> Result<Packed, Failure> {
    let root = root.canonicalize().map_err(|e| crate::stop::file(root, &e))?;
    if !root.is_dir() {
        return Err(refused(&root, "it is not a folder"));
    }
    let file = tempfile::tempfile().map_err(|e| crate::stop::file(&std::env::temp_dir(), &e))?;
    let sink = Sink { file, hash: Sha256::new(), size: 0, limit: limits.packed };
    // a gzip header without time and name; the level is part of the content hash, so it is fixed
    let gzip = GzBuilder::new().mtime(0).write(sink, Compression::new(6));
    let mut tar = tar::Builder::new(gzip);
    let mut counted = Counted { root: &root, limits, entries: 0, unpacked: 0 };
    let mut secrets: Vec<PathBuf> = Vec::new();
    for entry in walk(&root) {
        let entry = entry.map_err(|e| refused(&root, &e.to_string()))?;
        let name = entry.path().strip_prefix(&root).map_err(|_| refused(entry.path(), "it is outside the folder"))?;
        // what is in a folder comes right after it
        if entry.depth() == 0 || secrets.last().is_some_and(|folder| name.starts_with(folder)) {
            continue;
        }
        if holds_secrets(&entry, name) && !is_taken_in(&root, &entry) {
            secrets.push(name.to_owned());
            continue;
        }
        add(&mut tar, &entry, name, &mut counted)?;
    }
    let full = |e: io::Error| packing(&root, &e);
    let sink = tar.into_inner().and_then(flate2::write::GzEncoder::finish).map_err(full)?;
    let Sink { mut file, hash, size, .. } = sink;
    file.rewind().map_err(full)?;
    let sha256 = shared_proto::hex::encode(hash.finalize());
    Ok(Packed { file, sha256, size, entries: counted.entries, secrets })
}

fn walk(root: &Path) -> ignore::Walk {
    WalkBuilder::new(root)
        .standard_filters(false)
        .parents(false)
        .follow_links(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| entry.depth() == 0 || !is_left_out(entry.file_name().as_encoded_bytes()))
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .build()
}

/// What never travels, whatever `.runnerignore` says: history, the engine's own cache, and states, which hold secrets.
fn is_left_out(name: &[u8]) -> bool {
    name == b".git" || name == b".terraform" || name.windows(8).any(|w| w == b".tfstate")
}

/// Whether it is known for secrets, or holds a private key.
fn holds_secrets(entry: &DirEntry, name: &Path) -> bool {
    let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
    // what cannot be read fails where it is added
    let holds_key = || open(entry.path()).and_then(secret_files::holds_key).unwrap_or(false);
    secret_files::is_named(name) || (is_file && secret_files::may_hold_key(name) && holds_key())
}

/// Whether an ignore file takes it in (`!NAME`): the nearest one that says anything of it decides, as it does in the walk.
fn is_taken_in(root: &Path, entry: &DirEntry) -> bool {
    let (path, is_dir) = (entry.path(), entry.file_type().is_some_and(|kind| kind.is_dir()));
    let mut folders = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root));
    let said = |folder: &Path| {
        let (rules, _) = Gitignore::new(folder.join(IGNORE_FILE));
        let matched = rules.matched(path, is_dir);
        (!matched.is_none()).then(|| matched.is_whitelist())
    };
    folders.find_map(said).unwrap_or(false)
}

/// Opens without following: what was a file a moment ago may be a link now, or a pipe.
fn open(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits())
        .open(path)
}

fn add<W: Write>(
    tar: &mut tar::Builder<W>,
    entry: &DirEntry,
    name: &Path,
    counted: &mut Counted<'_>,
) -> Result<(), Failure> {
    let path = entry.path();
    let read = |e: io::Error| refused(path, &e.to_string());
    let meta = path.symlink_metadata().map_err(read)?;
    counted.one_more()?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let kind = meta.file_type();
    if kind.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        return tar.append_data(&mut header, name, io::empty()).map_err(|e| packing(path, &e));
    }
    if kind.is_symlink() {
        let target = std::fs::read_link(path).map_err(read)?;
        check_link(name, &target).map_err(|why| refused(path, why))?;
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        return tar.append_link(&mut header, name, &target).map_err(|e| packing(path, &e));
    }
    if !kind.is_file() {
        return Err(refused(path, "it is neither file, folder nor link"));
    }
    let file = open(path).map_err(read)?;
    let meta = file.metadata().map_err(read)?;
    if !meta.is_file() {
        return Err(refused(path, "it changed while it was read"));
    }
    counted.bytes(meta.len())?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(if meta.mode() & 0o100 == 0 { 0o644 } else { 0o755 });
    header.set_size(meta.len());
    let mut content = Exactly { file: file.take(meta.len()), missing: meta.len() };
    tar.append_data(&mut header, name, &mut content).map_err(|e| packing(path, &e))
}

/// A link must stay inside: relative, its steps up first and never above the root. A step up after a step down could start from
/// where another link leads, so that counting would prove nothing.
fn check_link(name: &Path, target: &Path) -> Result<(), &'static str> {
    let mut depth = name.components().count() - 1;
    let mut down = false;
    for component in target.components() {
        match component {
            Component::Normal(_) => down = true,
            Component::CurDir => {}
            Component::ParentDir if down => return Err("the link goes down and up again"),
            Component::ParentDir => depth = depth.checked_sub(1).ok_or("the link leaves the folder")?,
            Component::RootDir | Component::Prefix(_) => return Err("the link is absolute and leaves the folder"),
        }
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> Failure {
    Code::SourceRefused
        .on(format!("{}: {why}", path.display()))
        .next(format!("Remove it, or name it in {IGNORE_FILE}."))
}

fn packing(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::FileTooLarge => too_large(path, &error.to_string()),
        io::ErrorKind::StorageFull => Code::DiskFull.on(format!("packing {}: {error}", path.display())),
        _ => refused(path, &error.to_string()),
    }
}

fn too_large(path: &Path, what: &str) -> Failure {
    Code::TooLarge.on(format!("{}: {what}", path.display())).next(format!("Name what is not needed in {IGNORE_FILE}."))
}

struct Counted<'a> {
    root: &'a Path,
    limits: Limits,
    entries: u64,
    unpacked: u64,
}

// === impl Counted ===

impl Counted<'_> {
    fn one_more(&mut self) -> Result<(), Failure> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(too_large(self.root, &format!("it holds more than {} files and folders", self.limits.entries)));
        }
        Ok(())
    }
    fn bytes(&mut self, more: u64) -> Result<(), Failure> {
        self.unpacked = self.unpacked.saturating_add(more);
        if self.unpacked > self.limits.unpacked {
            return Err(too_large(self.root, &format!("its files are larger than {} bytes", self.limits.unpacked)));
        }
        Ok(())
    }
}

/// A reader that fails where the file is shorter than its header says.
struct Exactly {
    file: io::Take<File>,
    missing: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        self.missing -= n as u64;
        if n == 0 && self.missing > 0 && !buf.is_empty() {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        Ok(n)
    }
}

/// Writes to the file, hashes, and holds the bound.
struct Sink {
    file: File,
    hash: Sha256,
    size: u64,
    limit: u64,
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.size + buf.len() as u64 > self.limit {
            let what = format!("packed it is larger than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        let n = self.file.write(buf)?;
        self.hash.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A name for a folder's stack: its own name, made fit; none where nothing of it can stay.
///
/// # Errors
/// There is no such folder.
pub(crate) fn name_of(root: &Path) -> Result<Option<String>, Failure> {
    let root: PathBuf = root.canonicalize().map_err(|e| crate::stop::file(root, &e))?;
    let own = root.file_name().unwrap_or_default().to_string_lossy();
    let fit: String =
        own.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let fit = fit.trim_start_matches('-');
    let name = fit[..fit.len().min(NAME_MAX)].trim_end_matches('-');
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, content).expect("writes");
        }
        dir
    }
    fn names(dir: &Path) -> Vec<String> {
        let packed = pack(dir, Limits::default()).expect("packs");
        tar::Archive::new(flate2::read::GzDecoder::new(packed.file))
            .entries()
            .expect("entries")
            .map(|e| e.expect("an entry").path().expect("a path").display().to_string())
            .collect()
    }
    fn code(dir: &Path, limits: Limits) -> Option<Code> {
        pack(dir, limits).err().map(|f| f.code)
    }

    #[test]
    fn what_is_ignored_and_what_never_travels() {
        let dir = folder(&[
            ("main.tf", "x"),
            (".terraform.lock.hcl", "x"),
            (".terraform/providers/p", "x"),
            (".git/config", "x"),
            ("terraform.tfstate", "secret"),
            ("terraform.tfstate.backup", "secret"),
            ("terraform.tfstate.d/a/x", "secret"),
            ("modules/a/main.tf", "x"),
            ("modules/a/.terraform/x", "x"),
            ("modules/a/keep.log", "x"),
            ("modules/a/.runnerignore", "!keep.log\n"),
            ("build/out", "x"),
            ("notes.log", "x"),
            (".hidden", "x"),
            (".gitignore", "main.tf\n"),
            (".runnerignore", "build/\n*.log\n!terraform.tfstate\n"),
        ]);
        assert_eq!(
            names(dir.path()),
            [
                ".gitignore",
                ".hidden",
                ".runnerignore",
                ".terraform.lock.hcl",
                "main.tf",
                "modules",
                "modules/a",
                "modules/a/.runnerignore",
                "modules/a/keep.log",
                "modules/a/main.tf",
            ]
        );
    }

    #[test]
    fn files_of_secrets_stay_out_unless_they_are_taken_in() {
        let key = "-----BEGIN PRIVATE KEY-----\n";
        let files = [
            (".env", "x"),
            (".env.example", "x"),
            (".aws/credentials", "x"),
            (".config/gcloud/credentials.db", "x"),
            ("certs/ca.pem", "-----BEGIN CERTIFICATE-----\n"),
            ("certs/server.pem", key),
            ("data.json", "{}"),
            ("robot.json", "{\"type\": \"service_account\", \"private_key\": \"-----BEGIN PRIVATE KEY-----\\nMII\"}"),
            ("certs/tls.key", key),
            ("id_rsa", "x"),
            ("id_rsa.pub", "x"),
            ("main.tf", "x"),
        ];
        let dir = folder(&files);
        let sent = [".config", ".env.example", "certs", "certs/ca.pem", "data.json", "id_rsa.pub", "main.tf"];
        assert_eq!(names(dir.path()), sent);
        let secrets = |dir: &Path| {
            let all = pack(dir, Limits::default()).expect("packs").secrets;
            all.iter().map(|name| name.display().to_string()).collect::<Vec<_>>()
        };
        let out = [".aws", ".config/gcloud", ".env", "certs/server.pem", "certs/tls.key", "id_rsa", "robot.json"];
        assert_eq!(secrets(dir.path()), out);
        // what is named in an ignore file is not told of, what it takes in is sent
        fs::write(dir.path().join(IGNORE_FILE), "id_rsa\n!.aws/\n!.env\n").expect("writes");
        fs::write(dir.path().join("certs").join(IGNORE_FILE), "!tls.key\n").expect("writes");
        assert_eq!(secrets(dir.path()), [".config/gcloud", "certs/server.pem", "robot.json"]);
        let sent = names(dir.path());
        for name in [".aws", ".aws/credentials", ".env", "certs/tls.key"] {
            assert!(sent.iter().any(|sent| sent == name), "{name}: {sent:?}");
        }
        assert!(!sent.iter().any(|sent| sent == "id_rsa"), "{sent:?}");
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let files = [("b.tf", "2"), ("a.tf", "1"), ("d/c.sh", "3")];
        let one = folder(&files);
        let mut reversed = files;
        reversed.reverse();
        let two = folder(&reversed);
        fs::set_permissions(one.path().join("a.tf"), fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::File::open(one.path().join("b.tf"))
            .and_then(|f| f.set_modified(std::time::UNIX_EPOCH))
            .expect("another time");
        let hash = |dir: &tempfile::TempDir| pack(dir.path(), Limits::default()).expect("packs").sha256;
        assert_eq!(hash(&one), hash(&two));
        fs::set_permissions(one.path().join("d/c.sh"), fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_ne!(hash(&one), hash(&two), "whether a file can be executed is content");
        let packed = pack(two.path(), Limits::default()).expect("packs");
        assert_eq!((packed.file.metadata().expect("a file").len(), packed.entries), (packed.size, 4));
    }

    #[test]
    fn links_stay_inside() {
        for (target, good) in [
            ("a", true),
            ("./a", true),
            ("../a", true),
            ("../d/../a", false),
            ("../../a", false),
            ("/etc/passwd", false),
            ("../../etc/passwd", false),
            ("x/../../../a", false),
        ] {
            let dir = folder(&[("a", "x"), ("d/b", "x")]);
            symlink(target, dir.path().join("d/link")).expect("links");
            let expected = (!good).then_some(Code::SourceRefused);
            assert_eq!(code(dir.path(), Limits::default()), expected, "{target}");
        }
        let dir = folder(&[("a", "x")]);
        symlink("/", dir.path().join("everything")).expect("links");
        assert!(pack(dir.path(), Limits::default()).expect_err("refused").message.contains("everything"));
    }

    #[test]
    fn bounds() {
        let dir = folder(&[("a", "12345"), ("b", "12345")]);
        let limits = Limits::default();
        assert_eq!(code(dir.path(), Limits { entries: 1, ..limits }), Some(Code::TooLarge));
        assert_eq!(code(dir.path(), Limits { unpacked: 9, ..limits }), Some(Code::TooLarge));
        assert_eq!(code(dir.path(), Limits { packed: 20, ..limits }), Some(Code::TooLarge));
        assert_eq!(code(dir.path(), Limits { entries: 2, unpacked: 10, packed: 4096 }), None);
    }

    #[test]
    fn odd_things_are_refused() {
        let dir = folder(&[("a", "x")]);
        assert_eq!(code(&dir.path().join("a"), Limits::default()), Some(Code::SourceRefused));
        assert_eq!(code(&dir.path().join("missing"), Limits::default()), Some(Code::InvalidArgument));
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
        assert_eq!(code(dir.path(), Limits::default()), Some(Code::SourceRefused));
    }

    #[test]
    fn a_long_name_is_kept() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(150));
        let dir = folder(&[(&long, "x")]);
        assert!(names(dir.path()).contains(&long));
    }

    #[test]
    fn names_for_stacks() {
        let long = "x".repeat(62) + "_y";
        let dir = folder(&[("a", "x")]);
        for (own, fit) in [
            ("My Stack.v2", Some("my-stack-v2")),
            ("My_Infra", Some("my-infra")),
            ("_a_", Some("a")),
            ("ä1", Some("1")),
            (&long, Some(&long[..62])),
            ("___", None),
        ] {
            let path = dir.path().join(own);
            fs::create_dir(&path).expect("a folder");
            assert_eq!(name_of(&path).expect("is there").as_deref(), fit, "{own}");
        }
        assert_eq!(name_of(Path::new("/")), Ok(None));
        assert!(name_of(&dir.path().join("missing")).is_err_and(|f| f.message.contains("missing")));
    }
}
