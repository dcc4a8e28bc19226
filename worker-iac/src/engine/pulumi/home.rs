//! What Pulumi finds in its environment: a home of the job's own with the runner's plug-ins in it, where the stack's state is, and the passphrase
//! that its secrets are encrypted with. The passphrase is made here, once a stack, and never leaves the state's folder.

use super::super::dialect::Place;
use super::super::environment::{PROVIDERS, private_file};
use super::super::{kept_by, private_folder};
use super::project::{Backend, Project};
use crate::process::Environment;
use crate::stop::io_failure;
use crate::store::{Store, Taken, is_in_backend};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::PULUMI;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// In a stack's state folder: the passphrase, beside what Pulumi keeps there.
pub(super) const PASSPHRASE: &str = "pulumi-passphrase";
/// Of the job's own data: Pulumi's home. What is downloaded for a plan is there for its application.
const HOME: &str = "pulumi";
/// In the runner's directory of providers: plug-ins, each in a folder as Pulumi names it (`resource-aws-v6.0.0`).
const PLUGINS: &str = "pulumi";
/// The most plug-ins that are looked at, and the most files of one that are shown.
const PLUGINS_MAX: usize = 1024;
/// Of the passphrase, bytes.
const PASSPHRASE_BYTES: usize = 32;

/// The folder of a stack's state, where the runner keeps it.
pub(super) fn state_folder(state_directory: &str) -> PathBuf {
    Path::new(state_directory).join(PULUMI)
}

/// The environment. <https://www.pulumi.com/docs/iac/cli/environment-variables/>
///
/// # Errors
/// What the project may not say; `state_elsewhere`; the file system.
pub(super) fn environment(place: &Place<'_>) -> Result<Environment, Failure> {
    let project = Project::read(place.root)?;
    let start = place.start;
    if start.state_directory.is_empty() {
        return Err(Code::Internal.on("the runner named no folder for the stack's state"));
    }
    let folder = Path::new(&start.state_directory);
    let backend = match project.backend()? {
        Backend::Own(url) => url,
        Backend::Runner => {
            let state = state_folder(&start.state_directory);
            if let Some(Taken { at, says, .. }) = Store::taken_from(folder)? {
                let (into, says) = (file_url(&state), says.display());
                let back = format!("`pulumi stack import` into {into}, and remove {says}");
                return Err(is_in_backend("stack", &at, "project", &back));
            }
            if !start.state_instance.is_empty() && !state.exists() {
                // an empty state here would have everything made a second time
                return Err(kept_by::on_another(&start.state_instance));
            }
            private_folder(&state)?;
            file_url(&state)
        }
    };
    private_folder(folder)?;
    let home = place.folders.work.join("data").join(HOME);
    private_folder(&home)?;
    if let Some(packages) = start.environment.get(PROVIDERS) {
        link_plugins(&Path::new(packages).join(PLUGINS), &home.join("plugins"))?;
    }
    let passphrase = passphrase(folder)?;
    let mut environment = Environment::new();
    for (name, value) in [
        ("PULUMI_HOME", home.into_os_string()),
        ("PULUMI_BACKEND_URL", backend.into()),
        ("PULUMI_CONFIG_PASSPHRASE_FILE", passphrase.into_os_string()),
    ] {
        environment.insert(name.into(), value);
    }
    for (name, value) in [
        ("PULUMI_SKIP_UPDATE_CHECK", "true"),
        // plug-ins are the runner's, or the registry's; not what lies on a PATH
        ("PULUMI_IGNORE_AMBIENT_PLUGINS", "true"),
        // events of a preview as of everything else, and `--event-log`
        ("PULUMI_ENABLE_STREAMING_JSON_PREVIEW", "true"),
        ("PULUMI_DEBUG_COMMANDS", "true"),
        // a stack of which the source has no values is encrypted as it was
        ("PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER", "true"),
        // each is a whole state, and nobody would clear them away
        ("PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS", "true"),
        ("NO_COLOR", "1"),
    ] {
        environment.insert(name.into(), value.into());
    }
    Ok(environment)
}

/// As an address; whatever stands in the path is the path's.
pub(super) fn file_url(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut url = "file://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => url.push(char::from(*byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

/// The file with the passphrase, which is made where there is none.
fn passphrase(folder: &Path) -> Result<PathBuf, Failure> {
    let path = folder.join(PASSPHRASE);
    let failed = |e: &std::io::Error| io_failure(Code::StateUnusable, path.display(), e);
    if path.try_exists().map_err(|e| failed(&e))? {
        return Ok(path);
    }
    let mut bytes = [0; PASSPHRASE_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| failed(&std::io::Error::other(e.to_string())))?;
    // whole or not at all: what was encrypted with a part of it could not be read again
    let new = folder.join(format!("{PASSPHRASE}.new"));
    private_file(&new, shared_proto::hex::encode(bytes).as_bytes())?;
    std::fs::File::open(&new).and_then(|file| file.sync_all()).map_err(|e| failed(&e))?;
    std::fs::rename(&new, &path).map_err(|e| failed(&e))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| failed(&e))?;
    Ok(path)
}

/// Makes the runner's plug-ins be among the job's own: Pulumi looks for folders there, and into them through links.
fn link_plugins(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, e: &std::io::Error| io_failure(Code::Internal, path.display(), e);
    for plugin in std::fs::read_dir(from).into_iter().flatten().flatten().take(PLUGINS_MAX) {
        let Ok(files) = std::fs::read_dir(plugin.path()) else { continue };
        let own = to.join(plugin.file_name());
        private_folder(&own)?;
        for file in files.flatten().take(PLUGINS_MAX) {
            match symlink(file.path(), own.join(file.file_name())) {
                // of the step before
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                linked => linked.map_err(|e| failed(&own, &e))?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::environment::Folders;
    use super::*;
    use shared_proto::v1::JobStart;
    use std::os::unix::fs::PermissionsExt as _;

    struct Set {
        folder: tempfile::TempDir,
        start: JobStart,
    }

    impl Set {
        fn new(project: &str) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("Pulumi.yaml"), project).expect("writes");
            let state_directory = folder.path().join("a state").display().to_string();
            Self { start: JobStart { state_directory, ..JobStart::default() }, folder }
        }
        fn environment(&self) -> Result<Environment, Failure> {
            let folders = Folders { work: self.folder.path(), tmp: self.folder.path() };
            environment(&Place { start: &self.start, folders: &folders, root: self.folder.path() })
        }
    }

    #[test]
    fn a_stack_has_one_passphrase_that_only_it_can_read() {
        let set = Set::new("name: shop");
        let of = || {
            let environment = set.environment().expect("an environment");
            let path = PathBuf::from(&environment["PULUMI_CONFIG_PASSPHRASE_FILE"]);
            let mode = std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);
            let url = environment["PULUMI_BACKEND_URL"].to_str().expect("text").to_owned();
            assert!(url.starts_with("file:///") && url.ends_with("/a%20state/pulumi"), "{url}");
            let passphrase = std::fs::read_to_string(&path).expect("reads");
            assert!(!format!("{environment:?}").contains(&passphrase));
            passphrase
        };
        assert_eq!(of().len(), 2 * PASSPHRASE_BYTES);
        assert_eq!(of(), of());
    }

    #[test]
    fn a_state_that_is_elsewhere_is_not_begun_anew() {
        let mut set = Set::new("name: shop");
        set.start.state_instance = "other".into();
        assert_eq!(set.environment().expect_err("elsewhere").code, Code::StateElsewhere);
        std::fs::create_dir_all(state_folder(&set.start.state_directory)).expect("makes");
        assert!(set.environment().is_ok());
        let mut own = Set::new("name: shop\nbackend: { url: s3://bucket }");
        own.start.state_instance = "other".into();
        assert_eq!(own.environment().expect("elsewhere for all")["PULUMI_BACKEND_URL"], "s3://bucket");
    }

    #[test]
    fn the_runners_plug_ins_are_the_jobs() {
        let mut set = Set::new("name: shop");
        let packages = set.folder.path().join("packages");
        let plugin = packages.join("pulumi/resource-world-v1.0.0");
        std::fs::create_dir_all(&plugin).expect("makes");
        std::fs::write(plugin.join("pulumi-resource-world"), "x").expect("writes");
        set.start.environment.insert(PROVIDERS.into(), packages.display().to_string());
        for _ in 0..2 {
            let home = PathBuf::from(&set.environment().expect("an environment")["PULUMI_HOME"]);
            let linked = home.join("plugins/resource-world-v1.0.0/pulumi-resource-world");
            assert_eq!(std::fs::read(linked).expect("reads"), b"x");
        }
    }
}
