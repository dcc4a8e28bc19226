//! `runner states`: the states that this runner keeps for stacks without a backend, for whoever owns the machine. Needs no running runner, asks
//! nobody over the network, and changes nothing.

use super::{columns, failed, new_file, out};
use crate::config::Config;
use crate::jobs::{Kept, KeptStates};
use clap::{Arg, ArgMatches, Command};
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::rfc3339;
use shared_proto::states::Head;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

/// One stack of the list.
#[derive(Debug, Serialize)]
struct Shown {
    stack: String,
    #[serde(flatten)]
    kept: Kept,
}

/// The subcommand.
pub(super) fn command(with_settings: impl Fn(Command) -> Command, output: impl Fn() -> Arg) -> Command {
    let stack = || Arg::new("stack").value_name("STACK").help("The stack's id, as `runnerctl stack list` shows it");
    let file = || clap::value_parser!(PathBuf);
    let list = Command::new("list")
        .about("The stacks whose states are here, or the versions of one")
        .arg(stack())
        .arg(output());
    let export = Command::new("export")
        .about("Write a state as its engine wrote it: to take the stack to a backend, or to another runner")
        .after_help(
            "It holds whatever the engine keeps there, secrets included: keep it as such. Exits 0 when it is written, 66 when there is none, 70 when \
             it does not open.",
        )
        .arg(stack().required(true))
        .arg(
            Arg::new("number")
                .long("number")
                .value_name("NUMBER")
                .value_parser(clap::value_parser!(u64).range(1..))
                .help("Which version [default: the newest]"),
        )
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("FILE")
                .value_parser(file())
                .conflicts_with("number")
                .help("A copy of a version, fetched from the bucket or the cluster that the states are in, or from a back-up"),
        )
        .arg(
            Arg::new("out")
                .short('o')
                .long("out")
                .value_name("FILE")
                .value_parser(file())
                .help("A new file to write it to, mode 0600; else standard output, where that is no terminal"),
        );
    Command::new("states")
        .about("The states that this runner keeps for stacks that have no backend")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(list))
        .subcommand(with_settings(export))
}

/// Runs it; the exit code.
pub(super) fn run(config: &Config, name: &str, matches: &ArgMatches, as_json: bool) -> i32 {
    let kept = KeptStates::of(&config.state_dir, config.jobs.states.key_file.as_deref());
    let stack = matches.get_one::<String>("stack").map(String::as_str);
    let done = match (name, stack) {
        ("export", Some(stack)) => export(&kept, stack, matches),
        _ => list(&kept, stack).map(|shown| out(&as_shown(&shown, stack, as_json))),
    };
    done.unwrap_or_else(|failure| failed(&failure))
}

fn list(kept: &KeptStates<'_>, stack: Option<&str>) -> Result<Vec<Shown>, Failure> {
    let stacks = match stack {
        Some(stack) if kept.kept(stack)? == Kept::default() => {
            return Err(Code::NotFound
                .on(format!("there are no states of a stack {stack} here"))
                .next("Name it by its id, as `runnerctl stack list` shows it, or leave it out."));
        }
        Some(stack) => vec![stack.to_owned()],
        None => kept.stacks()?,
    };
    let shown = |stack: String| {
        let kept = kept.kept(&stack)?;
        Ok(Shown { stack, kept })
    };
    stacks.into_iter().map(shown).collect()
}

fn as_shown(shown: &[Shown], stack: Option<&str>, as_json: bool) -> String {
    if as_json {
        return serde_json::to_string(shown).unwrap_or_default();
    }
    let line = |first: &str, head: &Head| {
        let serial = head.serial.map_or_else(|| "-".to_owned(), |serial| serial.to_string());
        let (resources, bytes, time) =
            (head.resources.to_string(), head.bytes.to_string(), rfc3339(head.time_ms / 1000));
        [first, &head.number.to_string(), &serial, &resources, &bytes, &time, &head.job, &head.person]
            .map(plain)
            .to_vec()
    };
    let titles = ["STACK", "VERSION", "SERIAL", "RESOURCES", "BYTES", "TIME", "JOB", "PERSON"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for Shown { stack: id, kept } in shown {
        rows.extend(kept.place.iter().map(|place| vec![id.clone(), plain(&format!("in {place}"))]));
        let heads = kept.versions.iter().rev().take(if stack.is_some() { usize::MAX } else { 1 });
        rows.extend(heads.map(|head| line(id, head)));
        let files = kept.workspaces.iter().map(|file| format!("of a workspace, as it is: {}", file.display()));
        let pulumi = kept.pulumi.iter().map(|folder| format!("Pulumi's: {}", folder.display()));
        rows.extend(files.chain(pulumi).map(|what| vec![id.clone(), plain(&what)]));
    }
    match rows.len() {
        1 => "no states".to_owned(),
        _ => columns(&rows),
    }
}

/// What a file says, for a terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "")
}

fn export(kept: &KeptStates<'_>, stack: &str, matches: &ArgMatches) -> Result<i32, Failure> {
    let to = matches.get_one::<PathBuf>("out");
    if to.is_none() && io::stdout().is_terminal() {
        let message = "a state holds secrets, and standard output is a terminal";
        return Err(Code::InvalidArgument.on(message).next("Name a new file, --out FILE, or redirect it."));
    }
    let (head, state) = match matches.get_one::<PathBuf>("file") {
        Some(file) => kept.copy(stack, file)?,
        None => kept.version(stack, matches.get_one::<u64>("number").copied())?,
    };
    let written = match to {
        Some(to) => {
            let mut file = new_file(to)?;
            file.write_all(&state).and_then(|()| file.sync_all()).map_err(|e| (to.display().to_string(), e))
        }
        None => io::stdout().lock().write_all(&state).map_err(|e| ("standard output".to_owned(), e)),
    };
    written.map_err(|(what, e)| {
        Code::StateUnusable.on(format!("{what}: {e}")).next("Remove what is there of it, and write it anew.")
    })?;
    // beside the state
    let serial = head.serial.map(|serial| format!(", serial {serial}")).unwrap_or_default();
    let _ = writeln!(
        io::stderr(),
        "runner: version {}{serial}, {} resources, of {} by job {}",
        head.number,
        head.resources,
        rfc3339(head.time_ms / 1000),
        plain(&head.job)
    );
    if let Some(at) = kept.kept(stack)?.place.filter(|_| matches.get_one::<PathBuf>("file").is_none()) {
        let _ = writeln!(
            io::stderr(),
            "runner: the states of the stack are in {} since: this one is from before that",
            plain(&at)
        );
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_of_stacks_or_of_versions() {
        let head = |number| Head { number, serial: Some(number + 1), job: "job_1\u{1b}".into(), ..Head::default() };
        let kept = |versions, place| Kept { versions, place, ..Kept::default() };
        let elsewhere = Kept {
            workspaces: vec!["/w/terraform.tfstate".into()],
            pulumi: Some("/p".into()),
            ..kept(vec![], Some("s3://b/x".into()))
        };
        let shown = [
            Shown { stack: "s1".into(), kept: kept(vec![head(1), head(2)], None) },
            Shown { stack: "s2".into(), kept: elsewhere },
        ];
        let all = as_shown(&shown, None, false);
        let lines: Vec<_> = all.lines().collect();
        assert_eq!(lines.len(), 5, "{all}");
        assert!(all.contains("as it is: /w/terraform.tfstate") && lines[4].ends_with("Pulumi's: /p"), "{all}");
        assert!(lines[1].starts_with("s1     2 ") && lines[1].contains("1970-01-01T00:00:00Z  job_1"), "{all}");
        assert!(lines[2] == "s2     in s3://b/x" && !all.contains('\u{1b}'), "{all}");
        assert_eq!(as_shown(&shown[..1], Some("s1"), false).lines().count(), 3);
        assert_eq!(as_shown(&[], None, false), "no states");
        assert_eq!(as_shown(&[], None, true), "[]");
    }
}
