//! Whether a commit is signed by one of those whom an entry of the runner's configuration names. What is not is refused before anything of it
//! is checked out.

use super::program::Said;
use super::repository::Repository;
use crate::engine::private_folder;
use crate::source::access::Signers;
use crate::stop::Stop;
use shared_proto::failure::Code;
use std::path::Path;

/// # Errors
/// `source_refused`: it is not; `source_unavailable`: the program that would tell is not there.
pub(super) async fn check(
    repository: &mut Repository<'_, '_>,
    commit: &str,
    signers: &Signers,
    entry: &str,
) -> Result<(), Stop> {
    let said = match signers {
        Signers::Ssh(file) => {
            let file = format!("gpg.ssh.allowedSignersFile={}", file.display());
            verify(repository, &["-c", &file, "-c", "gpg.minTrustLevel=fully", "-c", "gpg.program=/bin/false"], commit)
                .await?
        }
        Signers::OpenPgp(keyring) => {
            let home = keyring.with_file_name("gnupg");
            private_folder(&home)?;
            let keys = keyring.display().to_string();
            let import = ["--batch", "--quiet", "--no-autostart", "--import", &keys];
            let imported = repository.git.other(Path::new("gpg"), &import, ("GNUPGHOME", &home)).await?;
            if !imported.ok {
                let message = format!("sources.{entry}: gpg does not read gpg_keyring: {}", imported.complaint());
                return Err(Code::CredentialsUnavailable.on(message).into());
            }
            let program = format!("gpg.program={}", by_home(&home)?);
            verify(repository, &["-c", &program, "-c", "gpg.ssh.program=/bin/false"], commit).await?
        }
    };
    if said.ok {
        repository
            .git
            .journal
            .note(format!("Commit {commit} is signed by one of those that sources.{entry} names."))
            .await;
        return Ok(());
    }
    let why = match said.complaint() {
        "" => "it has no signature".to_owned(),
        words => words.chars().filter(|c| !c.is_control()).collect(),
    };
    let message = format!("commit {commit} of {} is not signed as sources.{entry} asks for: {why}", repository.url);
    let next = "Sign the commit with a key that require_signature of that entry names.";
    Err(Code::SourceRefused.on(message).next(next).into())
}

async fn verify(repository: &mut Repository<'_, '_>, told: &[&str], commit: &str) -> Result<Said, Stop> {
    let mut arguments = told.to_vec();
    // a signature of another kind than is asked for is none
    arguments.extend(["-c", "gpg.x509.program=/bin/false", "verify-commit", "--raw", commit]);
    repository.run(&arguments).await
}

/// A program that is gpg with that home and no agent: git has no setting for it.
fn by_home(home: &Path) -> Result<String, Stop> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = home.with_file_name("gpg");
    let quoted = home.display().to_string().replace('\'', r"'\''");
    let script = format!("#!/bin/sh\nGNUPGHOME='{quoted}' exec gpg --batch --no-autostart \"$@\"\n");
    crate::engine::environment::private_file(&path, script.as_bytes())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
        .map_err(|e| crate::stop::io_failure(Code::Internal, format_args!("{}", path.display()), &e))?;
    Ok(path.display().to_string())
}
