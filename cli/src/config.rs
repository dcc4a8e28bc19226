//! Where the control plane is and who we are to it: named contexts in `$XDG_CONFIG_HOME/runnerctl/config.json` (mode 0600),
//! over which flags and the environment go. A token goes only to the endpoint that it was saved with.

use crate::stop::{self, Done};
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The largest configuration, CA or token file, bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    /// The context that is used when none is named.
    #[serde(default)]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One control plane and one user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// `https://host:port`, or `http://` on loopback.
    pub(crate) endpoint: String,
    /// The control plane's CA, PEM; none for plain HTTP on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The user's token.
    pub(crate) token: Secret,
}

/// What flags and the environment say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--context`
    pub(crate) context: Option<String>,
    /// `--endpoint`
    pub(crate) endpoint: Option<String>,
    /// `--ca-file`
    pub(crate) ca_file: Option<PathBuf>,
    /// `--token-file`
    pub(crate) token_file: Option<PathBuf>,
}

// === impl ConfigFile ===

impl ConfigFile {
    /// Where it is.
    ///
    /// # Errors
    /// Neither XDG_CONFIG_HOME nor HOME is set.
    pub(crate) fn path() -> Result<PathBuf, Failure> {
        let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        folder("XDG_CONFIG_HOME")
            .filter(|p| p.is_absolute())
            .or_else(|| folder("HOME").map(|home| home.join(".config")))
            .map(|base| base.join("runnerctl").join("config.json"))
            .ok_or_else(|| {
                Code::InvalidArgument.on("neither XDG_CONFIG_HOME nor HOME is set").next("Set one of them to a folder.")
            })
    }
    /// Reads it; a missing one is empty. One that others can read is refused: its tokens may be known to them.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(stop::file(path, &e)),
        };
        let meta = file.metadata().map_err(|e| stop::file(path, &e))?;
        if meta.mode() & 0o077 != 0 {
            return Err(Code::CredentialsPermissions
                .on(format!("{} has mode {:04o}, others can read or change it", path.display(), meta.mode() & 0o7777))
                .next(format!("Run `chmod 600 {}`.", path.display())));
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).map_err(|e| stop::file(path, &e))?;
        // serde's own message may quote a value, and one of the values is the token
        serde_json::from_str(&text).map_err(|e| {
            Code::InvalidArgument
                .on(format!(
                    "{} is not a runnerctl configuration (line {}, column {})",
                    path.display(),
                    e.line(),
                    e.column()
                ))
                .next("Correct it, or remove it and run `runnerctl login` again.")
        })
    }
    /// Writes it with mode 0600, whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| stop::file(folder, &e))?;
        let failed = |e: std::io::Error| stop::file(path, &e);
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        shared_proto::file::write_whole(path, &text, 0o600).map_err(failed)
    }
}

/// The context to use: the named or current one, with what flags and environment say over it.
pub(crate) fn resolve(file: &ConfigFile, overrides: &Overrides) -> Done<Context> {
    let named = overrides.context.as_ref().or(file.current.as_ref());
    let saved = match named {
        Some(name) => file.contexts.get(name).cloned(),
        None => None,
    };
    if let (Some(name), None) = (&overrides.context, &saved) {
        return Err(Code::InvalidArgument
            .on(format!("there is no context {name:?}"))
            .next("Run `runnerctl context list`, or `runnerctl login` for a new one.")
            .into());
    }
    let endpoint =
        overrides.endpoint.clone().or_else(|| saved.as_ref().map(|c| c.endpoint.clone())).ok_or_else(|| {
            Code::Unauthenticated
                .on("no control plane is known")
                .next("Run `runnerctl login URL`, or set RUNNERCTL_ENDPOINT.")
        })?;
    // a saved token is for the endpoint that it was saved with, and for no other
    let saved = saved.filter(|c| c.endpoint.trim_end_matches('/') == endpoint.trim_end_matches('/'));
    let token = match &overrides.token_file {
        Some(path) => read_token(path)?,
        None => saved.as_ref().map(|c| c.token.clone()).ok_or_else(|| {
            Code::Unauthenticated
                .on(format!("there is no token for {endpoint}"))
                .next("Run `runnerctl login URL`, or set RUNNERCTL_TOKEN_FILE.")
        })?,
    };
    let ca = match &overrides.ca_file {
        Some(path) => Some(read_text(path)?),
        None => saved.and_then(|c| c.ca),
    };
    Ok(Context { endpoint, ca, token })
}

/// A token from a file.
pub(crate) fn read_token(path: &Path) -> Result<Secret, Failure> {
    token(read_text(path)?.trim())
}

/// Checks a token's form, so that a cut one is told apart from a wrong one.
pub(crate) fn token(text: &str) -> Result<Secret, Failure> {
    use shared_proto::api_key::{Purpose, parse};
    if text.trim().is_empty() {
        return Err(Code::InvalidArgument
            .on("no token was given")
            .next("Type it at the terminal, send it on standard input, or name its file with --token-file."));
    }
    parse(Purpose::User, text)
        .map(|_| Secret::new(text))
        .map_err(|e| Code::InvalidArgument.on(format!("this is not a token: {e}")).next("Copy the token again, whole."))
}

/// A small text file.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| stop::file(path, &e);
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|f| f.take(FILE_MAX + 1).read_to_string(&mut text)).map_err(failed)?;
    if read as u64 > FILE_MAX {
        return Err(Code::TooLarge.on(format!("{} is larger than {FILE_MAX} bytes", path.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn secret() -> Secret {
        shared_proto::api_key::generate(shared_proto::api_key::Purpose::User).expect("randomness")
    }
    fn sample() -> ConfigFile {
        ConfigFile {
            current: Some("a".into()),
            contexts: BTreeMap::from([(
                "a".to_owned(),
                Context { endpoint: "https://a:1".into(), ca: Some("pem".into()), token: secret() },
            )]),
        }
    }

    #[test]
    fn it_is_private_and_comes_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("runnerctl/config.json");
        assert!(ConfigFile::load(&path).expect("a missing file is empty").contexts.is_empty());
        sample().save(&path).expect("saves");
        let mode = |p: &Path| std::fs::metadata(p).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
        sample().save(&path).expect("saves again");
        assert_eq!(ConfigFile::load(&path).expect("loads").contexts["a"].endpoint, "https://a:1");
        for bad in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bad)).expect("chmod");
            assert_eq!(ConfigFile::load(&path).expect_err("refused").code, Code::CredentialsPermissions);
        }
    }

    #[test]
    fn a_broken_file_never_shows_its_token() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("config.json");
        let mut f =
            std::fs::OpenOptions::new().write(true).create(true).mode(0o600).truncate(true).open(&path).expect("opens");
        f.write_all(br#"{"contexts":{"a":{"endpoint":"x","token":["rnt_hidden"],"rnt_hidden":1}}}"#).expect("writes");
        let failure = ConfigFile::load(&path).expect_err("refused");
        assert!(!failure.message.contains("rnt_hidden"), "{}", failure.message);
    }

    #[test]
    fn what_is_no_token_is_named() {
        for (text, said) in [("", "no token was given"), (" \n", "no token was given"), ("rnt_x", "not a token")] {
            let failure = token(text).expect_err("refused");
            assert!(failure.message.contains(said) && !failure.message.contains("rnt_x"), "{failure}");
        }
    }

    #[test]
    fn a_token_goes_to_its_own_endpoint_only() {
        let file = sample();
        let of = |endpoint: &str| resolve(&file, &Overrides { endpoint: Some(endpoint.into()), ..Default::default() });
        assert_eq!(of("https://a:1/").expect("the same").token, file.contexts["a"].token);
        assert_eq!(of("https://evil:1").expect_err("no token").failure().map(|f| f.code), Some(Code::Unauthenticated));
        let missing = resolve(&file, &Overrides { context: Some("b".into()), ..Default::default() });
        assert_eq!(missing.expect_err("unknown").failure().map(|f| f.code), Some(Code::InvalidArgument));
    }
}
