//! `runner providers`: the packages of providers that jobs install from, and how they come and go. Needs no running runner.

use super::{failed, out};
use crate::config::Config;
use crate::engines::providers::add::{self, Done};
use crate::engines::providers::{self, Package, Provider, lock};
use crate::engines::release::Place;
use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use shared_proto::failure::{Code, Failure};
use shared_proto::version::Version;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The subcommand.
pub(super) fn command(with_settings: impl Fn(Command) -> Command, output: impl Fn() -> Arg) -> Command {
    let list = Command::new("list").about("The packages that jobs install from").arg(output());
    let add = Command::new("add")
        .about("Get the packages that a lock file names, and keep those that have one of its hashes")
        .after_help("Exits 0 when all of them are there, also when they were before.")
        .arg(
            Arg::new("lock")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("A .terraform.lock.hcl, as `tofu init` or `tofu providers lock` writes it"),
        )
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("PLACE")
                .help("The address of a network mirror, or a folder as `tofu providers mirror` fills it; else the providers' own registries"),
        );
    let remove = Command::new("remove")
        .about("Take a package out; jobs that have installed it go on")
        .arg(
            Arg::new("provider")
                .value_name("PROVIDER")
                .required(true)
                .value_parser(Provider::parse)
                .help("By its whole address: registry.opentofu.org/hashicorp/time"),
        )
        .arg(
            Arg::new("version")
                .value_name("VERSION")
                .required(true)
                .value_parser(Version::parse_whole)
                .help("The version, written in full: 0.14.2"),
        );
    Command::new("providers")
        .about("The packages of providers that jobs of this machine install from")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(list))
        .subcommand(with_settings(add))
        .subcommand(with_settings(remove))
}

/// Runs it; the exit code.
pub(super) fn run(config: &Config, name: &str, matches: &ArgMatches, as_json: bool) -> i32 {
    let done = match name {
        "list" => Ok(list(config, as_json)),
        "add" => add(config, matches),
        _ => remove(config, matches),
    };
    done.unwrap_or_else(|failure| failed(&failure))
}

fn list(config: &Config, as_json: bool) -> i32 {
    let all = providers::list(&config.engines.providers);
    if as_json {
        let one = |(package, path): &(Package, PathBuf)| json!({ "provider": package.provider.to_string(), "version": package.version.to_string(), "path": path.display().to_string() });
        return out(&serde_json::Value::from(all.iter().map(one).collect::<Vec<_>>()).to_string());
    }
    if all.is_empty() {
        return out("no packages; add those of a lock file with `runner providers add FILE`");
    }
    let lines = all.iter().map(|(package, path)| format!("{package}  {}", path.display()));
    out(&lines.collect::<Vec<_>>().join("\n"))
}

fn add(config: &Config, matches: &ArgMatches) -> Result<i32, Failure> {
    let path = matches.get_one::<PathBuf>("lock").cloned().unwrap_or_default();
    let text = lock_file(&path)?;
    let locked = lock::parse(&text).map_err(|what| {
        Code::SourceRefused.on(format!("{}: {what}", path.display())).next("Name a file that an engine has written.")
    })?;
    let place = matches.get_one::<String>("from").map_or(Place::Vendor, |place| Place::parse(place));
    let runtime = super::runtime()?;
    for one in &locked {
        // as each is done: a later one may fail
        match runtime.block_on(add::add(config, one, &place))? {
            Done::Added(path, hash) => out(&format!("added: {} ({hash})", path.display())),
            Done::Already(path, hash) => out(&format!("already there: {} ({hash})", path.display())),
        };
    }
    Ok(0)
}

fn lock_file(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let length = std::fs::File::open(path)
        .and_then(|file| file.take(lock::LOCK_MAX + 1).read_to_string(&mut text))
        .map_err(|e| Code::SourceUnavailable.on(format!("{}: {e}", path.display())).next("Check the path."))?;
    if length as u64 > lock::LOCK_MAX {
        return Err(Code::TooLarge.on(format!("{} is longer than {} bytes", path.display(), lock::LOCK_MAX)));
    }
    Ok(text)
}

fn remove(config: &Config, matches: &ArgMatches) -> Result<i32, Failure> {
    let provider = matches.get_one::<Provider>("provider").cloned();
    let (Some(provider), Some(version)) = (provider, matches.get_one::<Version>("version").cloned()) else {
        return Err(Code::InvalidArgument.on("a provider and its version have to be named"));
    };
    let at = providers::remove(config, &Package { provider, version })?;
    Ok(out(&format!("removed {}", at.display())))
}
