//! `runner seal-key`: whom variables are sealed to, as it is on this machine: what people compare with what a control plane tells.

use super::{failed, out};
use crate::config::Config;
use crate::secrets;
use clap::{Arg, ArgAction, Command};
use serde_json::json;
use shared_proto::failure::{Code, Failure};
use shared_proto::sealed::{KEYS_MAX, SealKey};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The subcommand.
pub(super) fn command(with_settings: impl Fn(Command) -> Command, output: impl Fn() -> Arg) -> Command {
    with_settings(
        Command::new("seal-key")
            .about("The fingerprint of the key that variables are sealed to for this instance, to compare with what `runnerctl` shows")
            .after_help(format!(
                "The runner makes it when it first starts. With --rotate the control plane is told of the new one when the runner is started \
                 next, or by `runner upgrade`; what was sealed before opens still, with the last {KEYS_MAX} keys. Exits 78 where there is none, \
                 or no key can be made."
            ))
            .arg(Arg::new("rotate").long("rotate").action(ArgAction::SetTrue).help("Make a new one; those before stay to open with"))
            .arg(output()),
    )
}

/// Runs it; the exit code.
pub(super) fn run(config: &Config, rotate: bool, as_json: bool) -> i32 {
    match shown(&config.state_dir, rotate) {
        Ok((newest, older)) => {
            let older: Vec<_> = older.iter().map(SealKey::fingerprint).collect();
            if as_json {
                let told = json!({ "fingerprint": newest.fingerprint(), "key": newest.text(), "older": older });
                return out(&told.to_string());
            }
            out(&newest.fingerprint())
        }
        Err(failure) => failed(&failure),
    }
}

/// The newest, and those before it.
fn shown(state_dir: &Path, rotate: bool) -> Result<(SealKey, Vec<SealKey>), Failure> {
    if rotate {
        is_ours(state_dir)?;
        secrets::rotate(state_dir)?;
    }
    let mut keys = secrets::existing(state_dir)?;
    let none = || {
        Code::StateUnusable
            .on(format!("{} has no key for sealed variables", state_dir.display()))
            .next("Start the runner once, which makes it; or name its state directory with --state-dir.")
    };
    Ok((keys.pop().ok_or_else(none)?, keys))
}

/// A file that another user writes is not the runner's to read.
fn is_ours(state_dir: &Path) -> Result<(), Failure> {
    let owner = std::fs::metadata(state_dir).map(|folder| folder.uid());
    let owner = owner.map_err(|e| Code::StateUnusable.on(format!("{}: {e}", state_dir.display())))?;
    if nix::unistd::geteuid().as_raw() == owner {
        return Ok(());
    }
    let message = format!("{} belongs to another user: the key would be theirs no more", state_dir.display());
    Err(Code::StateUnusable.on(message).next("Run it as the runner's user."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_shown_and_one_is_made_when_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let failure = shown(folder.path(), false).expect_err("none");
        assert!(failure.code == Code::StateUnusable && failure.next_step.contains("Start the runner"), "{failure}");
        let first = secrets::public(folder.path()).expect("made");
        assert_eq!(shown(folder.path(), false), Ok((first, vec![])));
        let (second, older) = shown(folder.path(), true).expect("rotates");
        assert!(second != first && older == [first]);
        assert_eq!(shown(folder.path(), false), Ok((second, vec![first])));
        assert!(shown(&folder.path().join("nowhere"), true).is_err());
    }
}
