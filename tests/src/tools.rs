//! Where programs are: our own beside the test binary, the real components where `tests/tools/install` puts them.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Something real that a suite may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// etcd, kube-apiserver and kwok.
    Cluster,
    /// kubectl, and what makes deployments roll: the controller manager.
    Kubectl,
    /// helm.
    Helm,
    /// The AWS stand-in.
    Moto,
    /// The AWS CLI and boto3.
    AwsClients,
    /// OpenTofu with the provider mirror.
    Tofu,
    /// Terraform with the provider mirror.
    Terraform,
    /// The provider that makes what a manifest says.
    KubectlProvider,
    /// A PostgreSQL server.
    Postgres,
    /// Pulumi with its host for YAML and a provider.
    Pulumi,
    /// The git program.
    Git,
    /// OpenSSH's server and client.
    Ssh,
    /// Network namespaces, which root may make.
    NetworkNamespace,
    /// A virtual machine with systemd, and what it takes to run it.
    Guest,
    /// The programs of an earlier version, in the folder that [`OLD`] names.
    Old,
}

/// The variable that names them.
pub const OLD: &str = "RUNNER_TEST_OLD";

/// The folder of the built components.
pub fn folder() -> PathBuf {
    let given = std::env::var_os("RUNNER_TEST_TOOLS").map(PathBuf::from);
    given.unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"), PathBuf::from);
        cache.join("runner-test-tools")
    })
}

/// A component's program: in the tools' folder, else on PATH, else where the system keeps servers.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(folder().join("bin"))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|p| is_executable(p))
}

/// An engine's program: the one that `TEST_` and its name name, as `TEST_PULUMI`, else a component's.
pub fn engine(program: &str) -> Option<PathBuf> {
    let named = std::env::var_os(format!("TEST_{}", program.to_uppercase())).map(PathBuf::from);
    named.or_else(|| find(program))
}

/// A program of PostgreSQL, where Debian has its newest version, which is on nobody's PATH.
pub fn postgres(program: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin").join(program)))
        })
        .filter(|(_, path)| is_executable(path))
        .collect();
    found.sort();
    found.pop().map(|(_, path)| path).or_else(|| find(program))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// One of our own programs. `cargo test --workspace` builds them all; `RUNNER_TEST_BIN` may name other folders (as PATH does).
///
/// # Errors
/// It was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("RUNNER_TEST_BIN")
        && let Some(found) = std::env::split_paths(&given).map(|d| d.join(name)).find(|p| is_executable(p))
    {
        return Ok(found);
    }
    let me = std::env::current_exe()?;
    // target/PROFILE/deps/SUITE-HASH, or target/PROFILE/runner-bench
    let mut folder = me.parent().map(Path::to_path_buf).unwrap_or_default();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    if is_executable(&path) {
        return Ok(path);
    }
    bail!(
        "{} is missing: build the whole workspace (cargo test --workspace, or cargo build --workspace)",
        path.display()
    )
}

/// Whether what is missing fails: `REQUIRE_COMPONENTS=1`.
pub(crate) fn required() -> bool {
    std::env::var_os("REQUIRE_COMPONENTS").is_some_and(|v| v == "1")
}

impl Component {
    /// Whether it is to be had here, for a test that is in no suite: where it is not, that is printed.
    ///
    /// # Panics
    /// It is not, and `REQUIRE_COMPONENTS=1`.
    pub fn is_here(self) -> bool {
        let Some(why) = self.missing() else { return true };
        assert!(!required(), "{why}");
        println!("SKIPPED: {why}");
        false
    }

    /// Why it is not to be had here; `None` where it is.
    pub fn missing(self) -> Option<String> {
        let program = |name: &str| match find(name) {
            Some(_) => None,
            None => Some(format!("{name} is not here: run tests/tools/install")),
        };
        let exists = |path: PathBuf| {
            if path.exists() { None } else { Some(format!("{} is not here: run tests/tools/install", path.display())) }
        };
        match self {
            Self::Cluster => ["etcd", "kube-apiserver", "kwok"]
                .into_iter()
                .find_map(program)
                .or_else(|| exists(folder().join("kwok-stages"))),
            Self::Kubectl => ["kubectl", "kube-controller-manager"].into_iter().find_map(program),
            Self::Helm => program("helm"),
            Self::Moto => program("moto_server"),
            Self::AwsClients => program("aws").or_else(|| exists(folder().join("moto/bin/python3"))),
            Self::Tofu => program("tofu").or_else(|| exists(folder().join("mirror"))),
            Self::Terraform => program("terraform")
                .map(|_| "terraform is not on PATH, and its licence lets nobody build it here".to_owned())
                .or_else(|| exists(folder().join("mirror"))),
            Self::Pulumi => engine("pulumi")
                .is_none()
                .then(|| "pulumi is not here: run tests/tools/install".to_owned())
                .or_else(|| program("pulumi-language-yaml"))
                .or_else(|| exists(folder().join("plugins/pulumi"))),
            Self::KubectlProvider => {
                exists(folder().join("mirror/registry.opentofu.org/gavinbunney/kubectl/1.19.0/linux_amd64"))
            }
            Self::Postgres => ["initdb", "postgres"]
                .into_iter()
                .find(|p| postgres(p).is_none())
                .map(|p| format!("{p} is not here: run tests/tools/install")),
            Self::Git => find("git").is_none().then(|| "git is not here: install it".to_owned()),
            Self::Ssh => ["sshd", "ssh", "ssh-keygen"]
                .into_iter()
                .find(|p| find(p).is_none())
                .map(|p| format!("{p} is not here: install openssh-server and openssh-client")),
            Self::Guest => ["qemu-system-x86_64", "strip"]
                .into_iter()
                .find_map(program)
                .or_else(|| exists(folder().join("guest/disk.img"))),
            Self::Old => match std::env::var_os(OLD).map(PathBuf::from) {
                None => Some(format!("{OLD} names no folder with an earlier version's programs")),
                Some(folder) => {
                    ["runner", "runner-worker-ops", "runner-worker-iac", "runner-control-plane", "runnerctl"]
                        .map(|name| folder.join(name))
                        .into_iter()
                        .find(|path| !is_executable(path))
                        .map(|path| format!("{} is not here: build that version", path.display()))
                }
            },
            Self::NetworkNamespace => {
                if !nix::unistd::geteuid().is_root() {
                    Some("network namespaces need root".to_owned())
                } else if find("ip").is_none() || find("nsenter").is_none() {
                    Some("ip or nsenter is not here: install iproute2 and util-linux".to_owned())
                } else {
                    None
                }
            }
        }
    }

    /// Whether its absence fails the suites even where `REQUIRE_COMPONENTS=1`: some things no installer can bring, and CI builds no earlier
    /// version.
    pub const fn can_be_installed(self) -> bool {
        !matches!(self, Self::Terraform | Self::NetworkNamespace | Self::Old)
    }
}
