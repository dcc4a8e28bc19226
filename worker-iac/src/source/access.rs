//! What a source is fetched with, by the entry of the runner's configuration that is for its address: files in the job's temporary folder that
//! nobody else reads, and an environment in which git gives them to the addresses of that entry's pattern, and to no other.
//!
//! A password is in git's configuration, which its environment carries, as a header for these addresses. A key is named by the program that git
//! runs for SSH. Neither is ever an argument, and both are gone once the source and what its code names were fetched.

use crate::engine::environment::private_file;
use crate::engine::private_folder;
use crate::process::Environment;
use crate::stop::io_failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shared_proto::failure::{Code, Failure};
use shared_proto::sources::{Pattern, Place, Scheme};
use shared_proto::v1::{JobStart, SourceAccess};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// In the job's temporary folder.
const FOLDER: &str = "access";
/// What git is told whatever it fetches: nobody's hooks, helpers and monitors take part.
const GUARD: [(&str, &str); 6] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("credential.helper", ""),
    ("protocol.ext.allow", "never"),
];
/// How SSH is used without an entry: no host is known then, and no key shown.
const SSH: &str =
    "ssh -F /dev/null -oBatchMode=yes -oStrictHostKeyChecking=yes -oIdentitiesOnly=yes -oIdentityFile=none";

/// What a step's source is fetched with.
pub(crate) struct Access {
    folder: PathBuf,
    /// The addresses that the entry is for, where there is one.
    pattern: Option<Pattern>,
    /// Whether modules get it too.
    modules: bool,
    /// Whether `file:` addresses are taken.
    allow_file: bool,
    /// What git is told of those addresses.
    told: Vec<(String, String)>,
    /// The program that git runs for SSH.
    ssh: Option<PathBuf>,
    /// For what is asked by HTTPS without git: user and password in one, and the password alone.
    authorization: Option<String>,
    password: String,
    /// Certificate authorities in the place of the machine's.
    ca_pem: String,
    /// Who has to have signed commits.
    pub(super) signers: Option<Signers>,
    /// The entry's name.
    pub(super) entry: String,
}

/// Who has to have signed commits.
#[derive(Debug)]
pub(super) enum Signers {
    /// Those in that file, as `allowed_signers` of ssh-keygen has them.
    Ssh(PathBuf),
    /// Those in that file of OpenPGP keys.
    OpenPgp(PathBuf),
}

/// The secrets of it, for redaction.
pub(crate) fn secrets(start: &JobStart) -> impl Iterator<Item = &str> {
    start.source_access.iter().flat_map(|access| [access.password.as_str(), access.ssh_key.as_str()])
}

// === impl Access ===

impl Access {
    /// Writes down what the step was told. `allow_file`: whether `file:` addresses are taken.
    ///
    /// # Errors
    /// `credentials_unavailable`: what cannot be given to git; the file system.
    pub(crate) fn write(start: &JobStart, tmp: &Path, allow_file: bool) -> Result<Self, Failure> {
        let folder = tmp.join(FOLDER);
        let mut access = Self {
            folder,
            pattern: None,
            modules: false,
            allow_file,
            told: Vec::new(),
            ssh: None,
            authorization: None,
            password: String::new(),
            ca_pem: String::new(),
            signers: None,
            entry: String::new(),
        };
        let Some(given) = &start.source_access else { return Ok(access) };
        private_folder(&access.folder)?;
        let wrong = |what: &str| Code::CredentialsUnavailable.on(format!("sources.{}: {what}", given.entry));
        let pattern = Pattern::parse(&given.pattern).map_err(|why| wrong(&format!("match {why}")))?;
        (access.modules, access.entry) = (given.modules, given.entry.clone());
        if !given.password.is_empty() {
            if given.password.chars().chain(given.user.chars()).any(char::is_control) || given.user.contains(':') {
                return Err(wrong("its user or token cannot be sent"));
            }
            access.password.clone_from(&given.password);
            access.authorization =
                Some(format!("Basic {}", STANDARD.encode(format!("{}:{}", given.user, given.password))));
        }
        access.ca_pem.clone_from(&given.ca_pem);
        let ca = access.file("ca.pem", given.ca_pem.as_bytes())?;
        for address in pattern.git_addresses() {
            let mut tell = |key: &str, value: String| access.told.push((format!("http.{address}.{key}"), value));
            // what is sent elsewhere would take the header with it
            tell("followRedirects", "false".into());
            if let Some(value) = &access.authorization {
                tell("extraHeader", format!("Authorization: {value}"));
            }
            if let Some(path) = &ca {
                tell("sslCAInfo", path.display().to_string());
            }
        }
        if pattern.place().scheme == Scheme::Ssh && !given.ssh_key.is_empty() {
            access.ssh = Some(access.ssh_program(given, &pattern)?);
        }
        access.signers = match (given.allowed_signers.as_str(), given.keyring.as_slice()) {
            ("", []) => None,
            ("", keyring) => access.file("keyring", keyring)?.map(Signers::OpenPgp),
            (signers, _) => access.file("allowed_signers", signers.as_bytes())?.map(Signers::Ssh),
        };
        access.pattern = Some(pattern);
        Ok(access)
    }

    /// A file that nobody else reads; none where there is nothing to write.
    fn file(&self, name: &str, content: &[u8]) -> Result<Option<PathBuf>, Failure> {
        if content.is_empty() {
            return Ok(None);
        }
        let path = self.folder.join(name);
        private_file(&path, content)?;
        Ok(Some(path))
    }

    /// The program that git runs for SSH, which shows the key to the entry's place alone: SSH itself knows hosts and no paths.
    fn ssh_program(&self, given: &SourceAccess, pattern: &Pattern) -> Result<PathBuf, Failure> {
        // without the end of its last line a key is none
        let key = self.folder.join("key");
        private_file(&key, format!("{}\n", given.ssh_key.trim_end()).as_bytes())?;
        let known = self.folder.join("known_hosts");
        private_file(&known, given.known_hosts.as_bytes())?;
        let path = self.folder.join("ssh");
        private_file(&path, script(pattern, &key, &known).as_bytes())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| io_failure(Code::Internal, format_args!("{}", path.display()), &e))?;
        Ok(path)
    }

    /// Whether the entry is for that place.
    pub(super) fn covers(&self, place: &Place) -> bool {
        self.pattern.as_ref().is_some_and(|pattern| pattern.covers(place))
    }

    /// What is to be sent to that place, where the entry is for it.
    pub(super) fn authorization(&self, place: &Place) -> Option<&str> {
        self.authorization.as_deref().filter(|_| self.covers(place))
    }

    /// The same for who takes a token alone.
    pub(super) fn bearer(&self, place: &Place) -> Option<String> {
        (!self.password.is_empty() && self.covers(place)).then(|| format!("Bearer {}", self.password))
    }

    /// Whom to trust as that host, PEM; empty: whom the machine trusts.
    pub(super) fn authorities(&self, host: &str, port: u16) -> &str {
        let place = self.pattern.as_ref().map(Pattern::place);
        if place.is_some_and(|place| place.host == host && place.port == port) { &self.ca_pem } else { "" }
    }

    /// Of a git that fetches the source itself: nothing is sent to another address.
    pub(super) fn of_source(&self) -> Environment {
        let redirects = ("http.followRedirects".to_owned(), "false".to_owned());
        self.environment("https:ssh", std::iter::once(redirects).chain(self.told.clone()), self.ssh.as_deref())
    }

    /// Of an engine that fetches what the source's code names.
    pub(crate) fn of_modules(&self) -> Environment {
        let told = self.told.iter().filter(|_| self.modules).cloned();
        self.environment("http:https:ssh", told, self.ssh.as_deref().filter(|_| self.modules))
    }

    fn environment(
        &self,
        protocols: &str,
        told: impl Iterator<Item = (String, String)>,
        ssh: Option<&Path>,
    ) -> Environment {
        let mut environment = Environment::new();
        let protocols = if self.allow_file { format!("{protocols}:file") } else { protocols.to_owned() };
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_ALLOW_PROTOCOL", &protocols),
        ] {
            environment.insert(name.into(), value.into());
        }
        match ssh {
            Some(program) => {
                environment.insert("GIT_SSH".into(), program.into());
                environment.insert("GIT_SSH_VARIANT".into(), "ssh".into());
            }
            None => drop(environment.insert("GIT_SSH_COMMAND".into(), SSH.into())),
        }
        let guard = GUARD.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut count = 0;
        for (n, (key, value)) in guard.chain(told).enumerate() {
            environment.insert(format!("GIT_CONFIG_KEY_{n}"), key.into());
            environment.insert(format!("GIT_CONFIG_VALUE_{n}"), value.into());
            count = n + 1;
        }
        environment.insert("GIT_CONFIG_COUNT".into(), count.to_string().into());
        environment
    }

    /// Removes what was written down.
    pub(crate) fn forget(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("entry", &self.entry).field("pattern", &self.pattern).finish_non_exhaustive()
    }
}

/// A text as one word of the shell's.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn script(pattern: &Pattern, key: &Path, known: &Path) -> String {
    let place = pattern.place();
    let at = if place.user.is_empty() { place.host.clone() } else { format!("{}@{}", place.user, place.host) };
    // as git asks for a repository: https://git-scm.com/docs/pack-protocol#_ssh_transport
    let asked = |path: &str, rest: &str| format!("{}{rest}", quoted(&format!("git-upload-pack '{path}")));
    let path = place.path.strip_suffix(".git").unwrap_or(&place.path);
    let covered: Vec<_> = ["", "/"]
        .into_iter()
        .flat_map(|root| match (pattern.is_below(), path) {
            (true, "") => vec![asked(root, "*")],
            (true, path) => vec![asked(&format!("{root}{path}/"), "*")],
            (false, path) => vec![asked(&format!("{root}{path}'"), ""), asked(&format!("{root}{path}.git'"), "")],
        })
        .collect();
    let known = format!("UserKnownHostsFile=\"{}\"", known.display());
    format!(
        r#"#!/bin/sh
# Shows a key to one place alone, and reaches no host that is not known.
before= last= at=22 word=
for next; do
  [ "$word" = -p ] && at=$next
  word=$next before=$last last=$next
done
key=none
case $last in
  *..*) ;;
  {covered}) [ "$before" = {at} ] && [ "$at" = {port} ] && key={key} ;;
esac
exec ssh -F /dev/null -oBatchMode=yes -oStrictHostKeyChecking=yes -o{known} -oGlobalKnownHostsFile=/dev/null \
  -oUpdateHostKeys=no -oIdentitiesOnly=yes -oIdentityAgent=none -oIdentityFile="$key" -oPreferredAuthentications=publickey \
  -oForwardAgent=no -oClearAllForwardings=yes -oPermitLocalCommand=no -oProxyCommand=none -oControlPath=none "$@"
"#,
        covered = covered.join("|"),
        at = quoted(&at),
        port = place.port,
        key = quoted(&key.display().to_string()),
        known = quoted(&known),
    )
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
