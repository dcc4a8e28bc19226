//! Packages of providers that jobs install from: a directory in the engines' own packed layout
//! (<https://developer.hashicorp.com/terraform/cli/config/config-file#filesystem_mirror>), which jobs read and cannot write.
//!
//! ```text
//! DIRECTORY/registry.opentofu.org/hashicorp/time/terraform-provider-time_0.14.2_linux_amd64.zip
//! ```
//! It is filled from dependency lock files: what comes in has a hash that such a file names, whoever it was got from. Nothing that a job has
//! downloaded comes into it.

pub mod add;
mod hashes;
pub mod lock;

use super::turn::{Turn, sync, unusable};
use crate::config::Config;
use shared_proto::failure::{Code, Failure};
use shared_proto::version::Version;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The most packages that are listed.
pub const PACKAGES_MAX: usize = 4096;
/// The longest part of a provider's address, bytes.
const PART_MAX: usize = 128;

/// A provider by its whole address: `registry.opentofu.org/hashicorp/time`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Provider {
    host: String,
    namespace: String,
    kind: String,
}

/// A version of a provider for this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Of which provider.
    pub provider: Provider,
    /// Its version.
    pub version: Version,
}

// === impl Provider ===

impl Provider {
    /// An address as lock files have it: host, namespace and type.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_part = |part: &&str| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
            (1..=PART_MAX).contains(&part.len()) && part.bytes().all(plain) && !part.starts_with(['.', '-'])
        };
        let parts: Vec<_> = text.split('/').collect();
        match parts.as_slice() {
            [host, namespace, kind] if parts.iter().all(is_part) => {
                let [host, namespace, kind] = [host, namespace, kind].map(|part| (*part).to_owned());
                Ok(Self { host, namespace, kind })
            }
            _ => {
                let shown: String = text.chars().take(PART_MAX).collect();
                Err(format!("{shown:?} is no provider, as registry.opentofu.org/hashicorp/time is one"))
            }
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.namespace, self.kind)
    }
}

// === impl Package ===

impl Package {
    /// What its file is called.
    fn file(&self) -> String {
        format!("terraform-provider-{}_{}_{}.zip", self.provider.kind, self.version, platform())
    }
    /// Where it is in the directory, or would be.
    pub fn place(&self, directory: &Path) -> PathBuf {
        directory.join(self.provider.to_string()).join(self.file())
    }
    /// That of a file of that name.
    fn of_file(provider: &Provider, name: &str) -> Option<Self> {
        let version = name
            .strip_prefix(&format!("terraform-provider-{}_", provider.kind))?
            .strip_suffix(&format!("_{}.zip", platform()))?;
        Some(Self { provider: provider.clone(), version: Version::parse_whole(version).ok()? })
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.provider, self.version)
    }
}

/// As the engines call this machine.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux_{architecture}")
}

/// What is in the directory for this machine, in order, with where it is.
pub fn list(directory: &Path) -> Vec<(Package, PathBuf)> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).take(PACKAGES_MAX).collect()
    };
    let mut all = Vec::new();
    for host in names(directory) {
        for namespace in names(&directory.join(&host)) {
            for kind in names(&directory.join(&host).join(&namespace)) {
                let Ok(provider) = Provider::parse(&format!("{host}/{namespace}/{kind}")) else { continue };
                let folder = directory.join(provider.to_string());
                let packages = names(&folder).into_iter().filter_map(|name| {
                    let path = folder.join(&name);
                    Some((Package::of_file(&provider, &name)?, path)).filter(|(_, path)| path.is_file())
                });
                all.extend(packages);
            }
        }
    }
    all.sort();
    all.truncate(PACKAGES_MAX);
    all
}

/// Takes a package out.
///
/// # Errors
/// `not_found`, `state_unusable`.
pub fn remove(config: &Config, package: &Package) -> Result<PathBuf, Failure> {
    let directory = &config.engines.providers;
    let at = package.place(directory);
    let turn = Turn::begin(config, directory)?;
    match std::fs::rename(&at, turn.removed()) {
        Ok(()) => sync(&at).map(|()| at.clone()).map_err(|e| unusable(&at, &e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Code::NotFound
            .on(format!("{package} is not in {}", directory.display()))
            .next("List what there is: `runner providers list`.")),
        Err(e) => Err(unusable(&at, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_provider_is_an_address_of_three_plain_parts() {
        let text = "registry.opentofu.org/hashicorp/time";
        assert_eq!(Provider::parse(text).map(|p| p.to_string()).as_deref(), Ok(text));
        let long = format!("a/b/{}", "c".repeat(PART_MAX + 1));
        assert!(Provider::parse(&long[..long.len() - 1]).is_ok());
        for bad in
            ["", "hashicorp/time", "a/b/c/d", "a//c", "a/../c", "a/./c", "a/-b/c", "A/b/c", "a/b/c\"", "a/b/c d", &long]
        {
            assert!(Provider::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_named_as_it_has_to_be_is_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |path: String| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            fs::write(path, "x").expect("writes");
        };
        let here = platform();
        for path in [
            format!("a.example/x/time/terraform-provider-time_0.10.0_{here}.zip"),
            format!("a.example/x/time/terraform-provider-time_0.9.0_{here}.zip"),
            format!("a.example/x/time/terraform-provider-other_0.9.0_{here}.zip"),
            format!("a.example/x/time/terraform-provider-time_0.9_{here}.zip"),
            "a.example/x/time/terraform-provider-time_0.9.0_plan9_mips.zip".to_owned(),
            format!(".new/x/time/terraform-provider-time_0.9.0_{here}.zip"),
            ".lock".to_owned(),
        ] {
            put(path);
        }
        let listed: Vec<_> = list(folder.path()).into_iter().map(|(package, _)| package.to_string()).collect();
        assert_eq!(listed, ["a.example/x/time 0.9.0", "a.example/x/time 0.10.0"]);
        let (package, path) = list(folder.path()).remove(0);
        assert_eq!(package.place(folder.path()), path);
        assert!(list(&folder.path().join("nowhere")).is_empty());
    }
}
