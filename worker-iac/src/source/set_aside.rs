//! What a source must not say: how it is run. Folders that would be taken for programs, modules or hooks that somebody has vetted go from the
//! working copy, and files of settings are not read by anybody; both is told.
//!
//! Variables of a shell (`TF_CLI_ARGS` in an `.env`) have no way in at all: an engine's environment is made from nothing.

use crate::stop::io_failure;
use shared_proto::failure::{Code, Failure};
use std::path::Path;

/// Folders that are removed, by the ends of their paths, with whose they would be.
const FOLDERS: [(&[&str], &str); 3] = [
    (&[".terraform"], "modules and providers that an engine has put there before are not used"),
    (&["terraform.d", "plugins"], "providers come from where the runner's configuration says"),
    (&[".git"], "no hook and no setting of Git is taken from a source"),
];
/// Files that are read by nobody, in the top folder or any other.
const FILES: [(&[&str], &str); 4] = [
    (
        &[".terraformrc", "terraform.rc", ".tofurc", "tofu.rc", "credentials.tfrc.json"],
        "the engine's own settings are the runner's",
    ),
    (&[".netrc", "_netrc", ".git-credentials"], "credentials of hosts are the runner's"),
    (&[".gitconfig", ".ssh", ".aws", ".kube"], "the job's home is another folder"),
    (&[".env", ".envrc"], "variables such as TF_CLI_ARGS are not read from a source"),
];
/// How many are told.
const NOTES_MAX: usize = 20;

/// How a source is looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As it was fetched.
    First,
    /// Once a hook of it was run, which may have made anything: what nobody reads is told already.
    Again,
}

/// Takes away what has to go, and tells what has gone and what nobody reads. Within a source that is within its bounds.
///
/// # Errors
/// `source_refused`: what a hook has made and is neither a file, a folder nor a link; the file system.
pub(super) fn look(top: &Path, which: Look) -> Result<Vec<String>, Failure> {
    let broken = |path: &Path, e: &std::io::Error| io_failure(Code::Internal, format_args!("{}", path.display()), e);
    let (mut notes, mut more) = (Vec::new(), 0_usize);
    let mut tell = |what: String| if notes.len() < NOTES_MAX { notes.push(what) } else { more += 1 };
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> =
            std::fs::read_dir(&folder).map_err(|e| broken(&folder, &e))?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let shown = path.strip_prefix(top).unwrap_or(&path).display().to_string();
            let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
            let parent = folder.strip_prefix(top).ok().and_then(Path::file_name).and_then(|name| name.to_str());
            let is = |end: &[&str]| match end {
                [one] => *one == name,
                [first, second] => Some(*first) == parent && *second == name,
                _ => false,
            };
            if let Some((_, why)) = FOLDERS.iter().find(|(end, _)| is(end)) {
                // a link goes, and not what it leads to
                let removed = if found.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(|e| broken(&path, &e))?;
                tell(format!("{shown} of the source was set aside: {why}."));
                continue;
            }
            let kind = found.file_type();
            if !kind.is_dir() && !kind.is_file() && !kind.is_symlink() {
                return Err(Code::SourceRefused.on(format!("{shown} is neither a file, a folder nor a link")));
            }
            let unread = FILES.iter().filter(|_| which == Look::First).find(|(names, _)| names.contains(&name));
            if let Some((_, why)) = unread {
                tell(format!("{shown} of the source is not read: {why}."));
            }
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
    if more > 0 {
        notes.push(format!("{more} more such files and folders of the source were set aside or are not read."));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_run_goes_and_what_nobody_reads_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().join("source");
        let write = |path: &str| {
            let path = top.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            std::fs::write(path, "x").expect("writes");
        };
        let gone = [
            ".terraform/providers/registry.opentofu.org/x/y/1.0.0/linux_amd64/terraform-provider-y",
            "infra/.terraform/modules/modules.json",
            "terraform.d/plugins/linux_amd64/terraform-provider-z",
            ".git/hooks/post-checkout",
            "infra/.git/config",
        ];
        let stay = [
            ".terraformrc",
            "infra/.tofurc",
            ".netrc",
            ".env",
            "main.tf",
            "x_override.tf",
            ".terraform.lock.hcl",
            "plugins/kept",
            "terraform.d/other",
            ".gitmodules",
        ];
        gone.iter().chain(&stay).for_each(|path| write(path));
        std::fs::create_dir(folder.path().join("outside")).expect("makes");
        std::fs::write(folder.path().join("outside/kept"), "x").expect("writes");
        std::os::unix::fs::symlink("../../outside", top.join("plugins/.terraform")).expect("links");
        let notes = look(&top, Look::First).expect("looks");
        for path in gone {
            assert!(!top.join(path).exists(), "{path}");
        }
        for path in stay {
            assert!(top.join(path).exists(), "{path}");
        }
        assert!(folder.path().join("outside/kept").exists() && !top.join("plugins/.terraform").is_symlink());
        let told = |words: &str| notes.iter().filter(|note| note.contains(words)).count();
        assert_eq!((told("was set aside"), told("is not read")), (6, 4), "{notes:#?}");
        assert!(notes.iter().any(|note| note.starts_with("infra/.terraform of the source was set aside")));
        assert_eq!(look(&top, Look::First).expect("looks").len(), 4, "what has gone is told once");
        // a hook has made some anew, and what no source can have
        write(".terraform/modules/modules.json");
        let again = look(&top, Look::Again).expect("looks");
        assert!(
            matches!(again.as_slice(), [one] if one.starts_with(".terraform of the source was set aside")),
            "{again:?}"
        );
        nix::unistd::mkfifo(&top.join("pipe.tf"), nix::sys::stat::Mode::S_IRWXU).expect("makes");
        let refused = look(&top, Look::Again).expect_err("a pipe");
        assert_eq!(refused.code, Code::SourceRefused, "{refused}");
    }

    #[test]
    fn not_all_of_many_is_told() {
        let top = tempfile::tempdir().expect("a folder");
        for n in 0..NOTES_MAX + 3 {
            std::fs::create_dir_all(top.path().join(format!("m{n}/.terraform"))).expect("makes");
        }
        let notes = look(top.path(), Look::First).expect("looks");
        assert_eq!(notes.len(), NOTES_MAX + 1);
        assert!(notes.last().is_some_and(|note| note.starts_with("3 more")), "{notes:#?}");
    }
}
