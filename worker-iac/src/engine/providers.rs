//! The engine's configuration where the runner's own names none: providers of which the runner has packages come from there and from nowhere
//! else, so that no registry is asked for them; the others come from their registries.

use crate::stop::io_failure;
use shared_proto::failure::{Code, Failure};
use std::collections::BTreeSet;
use std::path::Path;

/// The most providers that are told of.
const PROVIDERS_MAX: usize = 1024;
/// The most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 4096;

/// It, as a text (<https://developer.hashicorp.com/terraform/cli/config/config-file#provider-installation>). `packages`: their directory.
///
/// # Errors
/// The directory's name cannot stand in it.
pub(crate) fn installation(packages: &Path) -> Result<String, Failure> {
    let providers = providers(packages);
    if providers.is_empty() {
        return Ok(String::new());
    }
    let shown =
        packages.to_str().filter(|path| !path.contains(['"', '\\', '$', '%', '\n', '\r'])).ok_or_else(|| {
            let e = std::io::Error::from(std::io::ErrorKind::InvalidFilename);
            io_failure(Code::Internal, format_args!("the directory of providers {}", packages.display()), &e)
        })?;
    let names: Vec<_> = providers.iter().map(|provider| format!("\"{provider}\"")).collect();
    let names = names.join(", ");
    Ok(format!(
        "provider_installation {{\n  filesystem_mirror {{\n    path    = \"{shown}\"\n    include = [{names}]\n  }}\n  \
         direct {{\n    exclude = [{names}]\n  }}\n}}\n"
    ))
}

/// Of which there is a package, by their whole addresses.
fn providers(packages: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for host in names(packages) {
        for namespace in names(&packages.join(&host)) {
            for kind in names(&packages.join(&host).join(&namespace)) {
                let address = format!("{host}/{namespace}/{kind}");
                let start = format!("terraform-provider-{kind}_");
                let is_package = |name: &String| name.starts_with(&start) && name.ends_with(".zip");
                if found.len() < PROVIDERS_MAX && names(&packages.join(&address)).iter().any(is_package) {
                    found.insert(address);
                }
            }
        }
    }
    found
}

/// The plain names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let plain = |name: &String| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) && !name.starts_with('.')
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runner_has_comes_from_there_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(installation(folder.path()), Ok(String::new()));
        for path in [
            "a.example/x/time/terraform-provider-time_0.9.0_linux_amd64.zip",
            "a.example/x/time/terraform-provider-time_0.10.0_linux_amd64.zip",
            "a.example/x/null/terraform-provider-null_3.0.0_linux_amd64.zip",
            "a.example/x/empty/readme.txt",
            "a.example/x/quo\"te/terraform-provider-quo\"te_1.0.0_linux_amd64.zip",
            ".new/x/y/terraform-provider-y_1.0.0_linux_amd64.zip",
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            std::fs::write(path, "x").expect("writes");
        }
        let text = installation(folder.path()).expect("a text");
        let names = "[\"a.example/x/null\", \"a.example/x/time\"]";
        assert_eq!(
            text,
            format!(
                "provider_installation {{\n  filesystem_mirror {{\n    path    = \"{}\"\n    include = {names}\n  }}\n  \
                 direct {{\n    exclude = {names}\n  }}\n}}\n",
                folder.path().display()
            )
        );
        // no more than that are told of
        for n in 0..PROVIDERS_MAX {
            let kind = folder.path().join(format!("b.example/x/p{n}"));
            std::fs::create_dir_all(&kind).expect("makes");
            std::fs::write(kind.join(format!("terraform-provider-p{n}_1.0.0_linux_amd64.zip")), "x").expect("writes");
        }
        assert_eq!(providers(folder.path()).len(), PROVIDERS_MAX);
        let bad = folder.path().join("a\"b");
        std::fs::create_dir_all(bad.join("h/n")).expect("makes");
        std::fs::rename(folder.path().join("a.example/x/time"), bad.join("h/n/time")).expect("moves");
        assert!(installation(&bad).is_err());
    }
}
