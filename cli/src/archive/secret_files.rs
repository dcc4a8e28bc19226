//! Files in which well-known programs keep secrets. A folder is sent to the control plane, which must never get one of them by accident: they
//! stay out of it, unless `.runnerignore` takes one in (`!.env`).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// What of a file is looked at for a private key, bytes: a chain of certificates with its key behind them is shorter.
const LOOKED_AT: u64 = 64 * 1024;

/// Files and folders by their name, wherever they are.
const NAMES: [&str; 18] = [
    ".aws",
    ".azure",
    ".env",
    ".envrc",
    ".git-credentials",
    ".gnupg",
    ".netrc",
    ".pgpass",
    ".ssh",
    ".terraformrc",
    ".tofurc",
    ".vault-token",
    "credentials.tfrc.json",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
    "terraform.rc",
];
/// Files and folders by the folder that they are in and their name.
const WITHIN: [(&str, &str); 3] = [(".config", "gcloud"), (".docker", "config.json"), (".kube", "config")];
/// What follows `.env.` in a file that shows what is wanted and has none of it.
const EXAMPLES: [&str; 3] = ["example", "sample", "template"];

/// Whether its name says that it holds secrets.
pub(super) fn is_named(path: &Path) -> bool {
    let text = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let Some(name) = text(path) else { return false };
    let folder = path.parent().and_then(text);
    NAMES.contains(&name.as_str())
        || name.strip_prefix(".env.").is_some_and(|kind| !EXAMPLES.contains(&kind))
        || WITHIN.iter().any(|(within, known)| folder.as_deref() == Some(*within) && name == *known)
}

/// Whether it may hold a private key: of names that are usual for certificates, too, and of JSON, which is what a key of a Google service account
/// comes as, the content decides.
pub(super) fn may_hold_key(path: &Path) -> bool {
    let is = |kind: &std::ffi::OsStr| ["pem", "key", "json"].iter().any(|known| kind.eq_ignore_ascii_case(known));
    path.extension().is_some_and(is)
}

/// Whether there is a private key at its beginning.
///
/// # Errors
/// It cannot be read.
pub(super) fn holds_key(file: File) -> std::io::Result<bool> {
    const END: &[u8] = b"PRIVATE KEY-----";
    let mut start = Vec::new();
    file.take(LOOKED_AT).read_to_end(&mut start)?;
    Ok(start.windows(END.len()).any(|at| at == END))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn secrets_have_well_known_names() {
        for name in [
            ".env",
            ".env.production",
            "a/.env.local",
            ".aws",
            "home/.ssh",
            ".config/gcloud",
            "x/.kube/config",
            "id_ed25519",
            "credentials.tfrc.json",
        ] {
            assert!(is_named(Path::new(name)), "{name}");
        }
        for name in [
            ".env.example",
            ".env.sample",
            ".env.template",
            "env",
            ".environment",
            "id_rsa.pub",
            ".kube",
            "kube/config",
            "gcloud",
            ".config",
            "main.tf",
        ] {
            assert!(!is_named(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_private_key_is_found_within_the_bound() {
        let found = |before: usize| {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(&vec![b'x'; before]).expect("writes");
            file.write_all(b"-----BEGIN EC PRIVATE KEY-----\nMHc").expect("writes");
            holds_key(File::open(file.path()).expect("opens")).expect("reads")
        };
        let line = "-----BEGIN EC PRIVATE KEY-----".len();
        let most = usize::try_from(LOOKED_AT).expect("fits") - line;
        assert_eq!([found(0), found(most), found(most + 1)], [true, true, false]);
    }
}
