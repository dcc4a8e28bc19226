//! The command line: what is asked of a running runner, and help.

mod audit;
mod compare;
mod engines;
mod plan_rules;
mod policy;
mod providers;
mod recordings;
mod seal_key;
mod states;

use crate::config::{Config, SETTINGS, Source};
use crate::policy::Policy;
use crate::{admin, exit, preflight};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use shared_proto::failure::{Code, Failure};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings that were given as flags.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Settings by key.
    pub values: BTreeMap<String, String>,
}

// === impl Flags ===

impl Flags {
    /// The configuration with these flags and this process's variables.
    ///
    /// # Errors
    /// One line on what is wrong.
    pub fn load(&self) -> Result<Config, crate::config::ConfigError> {
        Config::load(self.config.as_deref(), &self.values, &std::env::vars_os().collect())
    }

    fn of(matches: &ArgMatches) -> Self {
        Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            values: SETTINGS
                .iter()
                .filter_map(|s| Some((s.key.to_owned(), matches.get_one::<String>(s.key)?.clone())))
                .collect(),
        }
    }
}

fn with_settings(command: Command) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .value_hint(ValueHint::FilePath)
        .help(format!(
            "Configuration file [env: RUNNERD_CONFIG] [default: {} if it exists]",
            crate::config::DEFAULT_FILE
        ));
    SETTINGS.iter().fold(command.arg(config), |command, setting| {
        let default =
            if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
        command.arg(
            Arg::new(setting.key)
                .long(&*setting.flag().leak()) // once for each process; clap wants it for ever
                .value_name("VALUE")
                .help(format!("{} [env: {}]{default}", setting.help, setting.variable())),
        )
    })
}

fn command() -> Command {
    let output = || {
        Arg::new("output")
            .short('o')
            .long("output")
            .value_parser(["table", "json"])
            .default_value("table")
            .help("How it is printed")
    };
    Command::new("runner")
        // without the binary's name among the arguments, usage lines would begin with the subcommand
        .bin_name("runner")
        .about("Connects this network to its control plane: cloud operations and deployments, with credentials that never leave it")
        .version(shared_proto::VERSION)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(Command::new("run").about("Run until SIGTERM; a second one ends at once")))
        .subcommand(with_settings(
            Command::new("status")
                .about("How the runner on this machine is; exits 0 when it is ready, 75 when it is not, 69 when it does not run")
                .arg(output()),
        ))
        .subcommand(with_settings(
            Command::new("drain")
                .about("Take no new work until it is undone or the runner is started anew; what runs goes on")
                .after_help(
                    "Exits 0 when it is done, 75 when --wait came to its timeout or somebody else undid it, 69 when the runner does not run.",
                )
                .arg(
                    Arg::new("wait")
                        .long("wait")
                        .action(ArgAction::SetTrue)
                        .help("Wait until no operation runs and every job of this instance has ended and is reported"),
                )
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .value_name("SECONDS")
                        .requires("wait")
                        .value_parser(clap::value_parser!(u32).range(1..))
                        .help("Wait for so long at most [default: for as long as it takes]"),
                )
                .arg(
                    Arg::new("undo")
                        .long("undo")
                        .action(ArgAction::SetTrue)
                        .conflicts_with("wait")
                        .help("Take new work again"),
                )
                .arg(output()),
        ))
        .subcommand(with_settings(
            Command::new("isolation")
                .about("What workers would be isolated by on this machine, for whoever runs this; exits 78 where that is less than isolation.require")
                .arg(
                    Arg::new("profiles")
                        .long("profiles")
                        .action(ArgAction::SetTrue)
                        .help("Show as well what each kind of process may see, take and ask of the kernel"),
                )
                .arg(output()),
        ))
        .subcommand(with_settings(
            Command::new("upgrade")
                .about("Hand over to the program and configuration that are installed now, without a gap; what runs goes on")
                .after_help(
                    "Exits 0 when the new process is in charge, 69 when the runner does not run; else the one before is in charge as it was, and it \
                     exits with the code of the new one (78: its configuration), or 75.",
                )
                .arg(output()),
        ))
        .subcommand(
            Command::new("config").about("Its configuration").subcommand_required(true).arg_required_else_help(true).subcommand(
                with_settings(
                    Command::new("show").about("Each effective value and where it came from; never a secret").arg(output()),
                ),
            ),
        )
        .subcommand(audit::command(with_settings, output))
        .subcommand(policy::command(with_settings, output))
        .subcommand(engines::command(with_settings, output))
        .subcommand(providers::command(with_settings, output))
        .subcommand(seal_key::command(with_settings, output))
        .subcommand(states::command(with_settings, output))
        .subcommand(Command::new("version").about("Print the version").arg(output()))
        .disable_help_subcommand(true)
}

/// Parses the settings of the hidden subcommand `supervisor`, which takes those of `run`. An error is an exit code; it has been printed.
///
/// # Errors
/// The exit code.
pub fn settings(arguments: Vec<OsString>) -> Result<Flags, i32> {
    let command = with_settings(Command::new("runner run")).no_binary_name(true);
    match command.try_get_matches_from(arguments) {
        Ok(matches) => Ok(Flags::of(&matches)),
        Err(e) => Err(print(&e)),
    }
}

fn print(error: &clap::Error) -> i32 {
    let _ = error.print();
    if error.use_stderr() { crate::exit::USAGE } else { 0 }
}

/// Runs what is neither launcher, spawner nor supervisor; returns the exit code.
pub fn run(arguments: Vec<OsString>) -> i32 {
    let matches = match command().no_binary_name(true).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(e) => return print(&e),
    };
    match matches.subcommand() {
        Some(("status", matches)) => with_config(matches, |config| admin::client::status(&config, is_json(matches))),
        Some(("drain", matches)) => with_config(matches, |config| {
            let wait = matches.get_flag("wait").then(|| matches.get_one::<u32>("timeout").map(|s| u64::from(*s)));
            let wish = match wait {
                _ if matches.get_flag("undo") => admin::client::Wish::Resume,
                None => admin::client::Wish::Drain,
                Some(seconds) => admin::client::Wish::DrainAndWait(seconds.map(Duration::from_secs)),
            };
            admin::client::drain(&config, &wish, is_json(matches))
        }),
        Some(("isolation", matches)) => {
            with_config(matches, |config| preflight::run(&config, matches.get_flag("profiles"), is_json(matches)))
        }
        Some(("upgrade", matches)) => with_config(matches, |config| admin::client::upgrade(&config, is_json(matches))),
        Some(("config", matches)) => match matches.subcommand() {
            Some(("show", matches)) => with_config(matches, |config| show(&config, is_json(matches))),
            _ => crate::exit::USAGE,
        },
        Some(("audit", matches)) => match matches.subcommand() {
            Some((name, matches)) => {
                with_config(matches, |config| audit::run(&config, name, matches, is_json(matches)))
            }
            None => crate::exit::USAGE,
        },
        Some(("policy", matches)) => match matches.subcommand() {
            Some((name, matches)) => {
                with_config(matches, |config| policy::run(&config, name, matches, is_json(matches)))
            }
            None => crate::exit::USAGE,
        },
        Some(("engines", matches)) => match matches.subcommand() {
            Some((name, matches)) => {
                with_config(matches, |config| engines::run(&config, name, matches, is_json(matches)))
            }
            None => crate::exit::USAGE,
        },
        Some(("providers", matches)) => match matches.subcommand() {
            Some((name, matches)) => {
                with_config(matches, |config| providers::run(&config, name, matches, is_json(matches)))
            }
            None => crate::exit::USAGE,
        },
        Some(("states", matches)) => match matches.subcommand() {
            Some((name, matches)) => {
                with_config(matches, |config| states::run(&config, name, matches, is_json(matches)))
            }
            None => crate::exit::USAGE,
        },
        Some(("seal-key", matches)) => {
            with_config(matches, |config| seal_key::run(&config, matches.get_flag("rotate"), is_json(matches)))
        }
        Some(("version", matches)) => {
            let version = shared_proto::VERSION;
            out(&if is_json(matches) {
                serde_json::json!({ "version": version, "protocol": shared_proto::PROTOCOL }).to_string()
            } else {
                format!("runner {version}")
            })
        }
        _ => crate::exit::USAGE,
    }
}

fn is_json(matches: &ArgMatches) -> bool {
    // not every command has it
    matches.try_get_one::<String>("output").ok().flatten().is_some_and(|o| o == "json")
}

fn with_config(matches: &ArgMatches, then: impl FnOnce(Config) -> i32) -> i32 {
    match Flags::of(matches).load() {
        Ok(config) => then(config),
        Err(e) => failed(&Code::ConfigurationUnusable.on(e.to_string())),
    }
}

fn show(config: &Config, json: bool) -> i32 {
    // one that cannot be used is for `runner policy check` to tell
    if let Some(lacks) = Policy::load(&config.policy.path).ok().and_then(|policy| config.lacks_for(&policy)) {
        eprintln!("runner: {lacks}");
    }
    if json {
        let values: serde_json::Map<_, _> = config
            .shown
            .iter()
            .map(|s| (s.key.clone(), serde_json::json!({ "value": s.value, "source": s.source.as_str() })))
            .collect();
        return out(&serde_json::Value::Object(values).to_string());
    }
    let width = config.shown.iter().map(|s| s.key.len()).max().unwrap_or(0);
    let lines = config.shown.iter().map(|s| {
        let source = match (s.source, &config.file) {
            (Source::File, Some(path)) => format!("file {}", path.display()),
            (source, _) => source.as_str().to_owned(),
        };
        format!("{:width$}  {}  ({source})", s.key, if s.value.is_empty() { "-" } else { &s.value })
    });
    out(&lines.collect::<Vec<_>>().join("\n"))
}

/// What a command waits with that is done with the network.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Code::Internal.on(format!("this process cannot wait for anything: {e}")))
}

/// Says what failed, as everything here does: what it is, its code, and what to do about it. The exit code.
pub(crate) fn failed(failure: &Failure) -> i32 {
    eprintln!("runner: {} [{}]\nnext: {}", failure.message, failure.code, failure.next_step);
    failure.code.exit()
}

/// Rows in columns, without what would stand at a line's end for nothing. A row may have fewer than the first: its last takes no part in the widths.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() == count || row.len() > column + 1);
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A file that is not there yet, for this user alone.
fn new_file(path: &Path) -> Result<File, Failure> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            Code::Conflict.on(format!("{} is there already", path.display())).next("Name a file that is not there.")
        }
        _ => Code::StateUnusable
            .on(format!("{}: {e}", path.display()))
            .next("Name a file in a folder that you may write in."),
    })
}

/// Prints a result. A reader that has gone is no failure.
pub(crate) fn out(text: &str) -> i32 {
    match written(text) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("runner: standard output: {e}");
            exit::OS_ERROR
        }
        _ => 0,
    }
}

/// A line on standard output.
pub(crate) fn written(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_is_asked_of_is_there() {
        let parses = |words: &[&str]| {
            let words = ["policy", "check"].iter().chain(words);
            command().no_binary_name(true).try_get_matches_from(words).map(drop).map_err(|e| e.to_string())
        };
        for kind in crate::policy::KINDS {
            assert_eq!(parses(&["--job", kind, "--engine", "terraform"]), Ok(()), "{kind}");
        }
        for words in [&["--job", "nonsense"][..], &["--job", "update", "--engine", "x"], &["--connection-test", "x"]] {
            let refused = parses(words).expect_err("there is none");
            assert!(refused.contains("possible values: "), "{words:?}: {refused}");
        }
    }

    #[test]
    fn usage_lines_begin_with_the_program() {
        for (line, usage) in [
            ("run --help", "Usage: runner run"),
            ("status --help", "Usage: runner status"),
            ("drain --help", "Usage: runner drain"),
            ("upgrade --help", "Usage: runner upgrade"),
            ("config show --help", "Usage: runner config show"),
            ("audit tail --help", "Usage: runner audit tail"),
            ("audit verify --help", "Usage: runner audit verify"),
            ("audit recordings --help", "Usage: runner audit recordings"),
            ("audit play --help", "Usage: runner audit play"),
            ("audit compare --help", "Usage: runner audit compare"),
            ("audit key --help", "Usage: runner audit key"),
            ("policy check --help", "Usage: runner policy check"),
            ("policy test --help", "Usage: runner policy test"),
            ("providers add --help", "Usage: runner providers add"),
            ("seal-key --help", "Usage: runner seal-key"),
            ("states list --help", "Usage: runner states list"),
            ("states export --help", "Usage: runner states export"),
            ("engines list --help", "Usage: runner engines list"),
            ("engines install --help", "Usage: runner engines install"),
            ("engines remove --help", "Usage: runner engines remove"),
            ("--help", "Usage: runner "),
        ] {
            let help =
                command().no_binary_name(true).try_get_matches_from(line.split(' ')).expect_err(line).to_string();
            assert!(help.contains(usage), "{line}: {help}");
        }
    }
}
