//! `runner audit`: what the audit log says, and whether it is as it was written. From its files alone: no running runner is needed.

use super::{compare, failed, out, recordings, written};
use crate::audit::{self, Against, Audit, Decision, Filter, Point, PublicKey, Target};
use crate::config::Config;
use crate::{admin, exit, recorder, supervisor};
use clap::{Arg, ArgAction, ArgMatches, Command};
use shared_proto::failure::{Code, Failure};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Lines that are shown where nobody says how many.
const LINES: u64 = 20;
/// What the log calls the instance where somebody changes its key and no runner runs.
const BY_HAND: &str = "runner-audit-key";

/// The subcommand.
pub(super) fn command(with_settings: impl Fn(Command) -> Command, output: impl Fn() -> Arg) -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let tail = Command::new("tail")
        .about("The last records, one JSON object a line")
        .arg(
            Arg::new("lines")
                .short('n')
                .long("lines")
                .value_name("N")
                .value_parser(clap::value_parser!(u64))
                .help(format!("So many [default: {LINES}]")),
        )
        .arg(Arg::new("follow").short('f').long("follow").action(ArgAction::SetTrue).help("Go on with what comes"))
        .arg(text("user", "NAME", "Of this user only, by id or name"))
        .arg(text("for-connection", "NAME", "Of this connection only"))
        .arg(text("decision", "WORD", "Of this decision only").value_parser(["allow", "deny"]))
        .arg(text("kind", "WORD", "Of this kind only").value_parser(audit::kinds().collect::<Vec<_>>()))
        .arg(text("operation", "ID", "Of this operation or job only"));
    let verify = Command::new("verify")
        .about("Whether the log is as it was written: names each record that was changed, dropped, swapped or cut off")
        .after_help("Exits 0 when it is, 1 when it is not, 66 when there is no log.")
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Copies of its files, in their order; else the log in the state directory"),
        )
        .arg(text("key", "FILE", "The public key that `runner audit key` printed, kept elsewhere"))
        .arg(text("expected", "NUMBER:HASH", "A record that has to be in it, by number and hash, known from elsewhere"))
        .arg(output());
    Command::new("audit")
        .about("What was asked of this runner, and what it decided")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(tail))
        .subcommand(with_settings(verify))
        .subcommand(with_settings(recordings::list_command(Command::new("recordings")).arg(output())))
        .subcommand(with_settings(recordings::play_command(Command::new("play"))))
        .subcommand(with_settings(compare::command(Command::new("compare")).arg(output())))
        .subcommand(with_settings(
            Command::new("key").about("The public key that seals the log, in PEM").arg(
                Arg::new("rotate")
                    .long("rotate")
                    .action(ArgAction::SetTrue)
                    .help("Make a new one first, which the one before signs and is gone"),
            ),
        ))
}

/// Runs it; the exit code.
pub(super) fn run(config: &Config, name: &str, matches: &ArgMatches, as_json: bool) -> i32 {
    let folder = config.state_dir.join(recorder::FOLDER);
    let done = match name {
        "tail" => tail(&folder, matches),
        "verify" => verify(folder, matches, as_json),
        "recordings" => recordings::list(&folder, as_json),
        "play" => recordings::play(&folder, matches),
        "compare" => compare::run(&folder, matches, as_json),
        _ if matches.get_flag("rotate") => rotate(config, &folder),
        _ => audit::public_key(&folder).map(|key| out(key.to_pem().trim_end())).map_err(Failure::from),
    };
    done.unwrap_or_else(|failure| failed(&failure))
}

/// A file that somebody named cannot be read.
pub(super) fn no_input(path: &Path, e: &std::io::Error) -> Failure {
    Code::NotFound.on(format!("{}: {e}", path.display())).next("Check the path and its permissions.")
}

/// What the system refuses.
pub(super) fn refused(message: String) -> Failure {
    Code::Internal.on(message).next("See to what the message names: its owner, its mode, its disk.")
}

/// A new key, made by whoever has the log: the runner, or this process where none runs.
fn rotate(config: &Config, folder: &Path) -> Result<i32, Failure> {
    if let Some(answer) = admin::client::rotate_audit_key(config) {
        return answer.map(|key| out(key.trim_end()));
    }
    let owner = std::fs::metadata(folder).map_err(|_| audit::AuditError::NoLog(folder.to_owned()))?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        let message = format!("{} belongs to another user: the key would be theirs no more", folder.display());
        return Err(Code::PermissionDenied.on(message).next("Ask as the user that the runner runs as."));
    }
    let options = supervisor::audit_options(config, &audit::runner_of(folder)?, BY_HAND);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| refused(format!("the runtime: {e}")))?;
    let (log, _) = Audit::open(folder, options)?;
    let changed = runtime.block_on(log.change_key());
    runtime.block_on(log.close())?;
    Ok(out(changed?.to_pem().trim_end()))
}

fn tail(folder: &Path, matches: &ArgMatches) -> Result<i32, Failure> {
    let one = |name: &str| matches.get_one::<String>(name).cloned();
    let decision = one("decision").map(|word| if word == "allow" { Decision::Allow } else { Decision::Deny });
    let filter = Filter {
        user: one("user"),
        connection: one("for-connection"),
        decision,
        kind: one("kind"),
        operation: one("operation"),
    };
    let lines = matches.get_one::<u64>("lines").copied().unwrap_or(LINES);
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    for line in audit::tail(folder, lines, matches.get_flag("follow"), filter)? {
        match written(&line?.text) {
            Ok(()) => {}
            // whoever reads it has seen enough
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => break,
            Err(e) => return Err(refused(format!("standard output: {e}"))),
        }
    }
    Ok(0)
}

fn verify(folder: PathBuf, matches: &ArgMatches, as_json: bool) -> Result<i32, Failure> {
    let usage = |message: String| Code::InvalidArgument.on(message);
    let key = match matches.get_one::<String>("key") {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| no_input(Path::new(path), &e))?;
            Some(PublicKey::from_text(&text)?)
        }
        None => None,
    };
    let expected = match matches.get_one::<String>("expected") {
        Some(text) => Some(text.parse::<Point>().map_err(|_| usage(format!("{text:?} is not NUMBER:HASH")))?),
        None => None,
    };
    let files: Vec<_> = matches.get_many::<PathBuf>("files").into_iter().flatten().cloned().collect();
    let target = if files.is_empty() { Target::Folder(folder) } else { Target::Files(files) };
    let report = audit::verify(&target, Against { key, expected })?;
    let told = out(&if as_json { serde_json::to_string(&report).unwrap_or_default() } else { report.to_string() });
    Ok(if report.is_good() { told } else { exit::GENERAL })
}
