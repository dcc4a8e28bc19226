//! `runner engines`: the versions of engines that this machine has, and how they come and go. Needs no running runner.

use super::{columns, failed, out};
use crate::config::Config;
use crate::engines::install::{self, Done, Looked};
use crate::engines::release::{Place, Release, parse_sha256};
use crate::engines::{Engine, Engines};
use crate::exit;
use clap::{Arg, ArgMatches, Command};
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use shared_proto::version::Version;

/// One line of the list.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    engine: &'static str,
    /// Nothing: it is asked where it is used.
    version: Option<String>,
    path: String,
    /// Whether jobs get it where nobody asks for another version.
    default: bool,
    sha256: Option<String>,
    /// Who vouched for it; nothing: nobody.
    verified: Option<String>,
    /// Whether it is another than was installed.
    changed: bool,
}

/// The subcommand.
pub(super) fn command(with_settings: impl Fn(Command) -> Command, output: impl Fn() -> Arg) -> Command {
    let which = |command: Command| {
        command
            .arg(
                Arg::new("engine")
                    .value_name("ENGINE")
                    .required(true)
                    .value_parser(Engine::ALL.map(Engine::name))
                    .help("Which engine"),
            )
            .arg(
                Arg::new("version")
                    .value_name("VERSION")
                    .required(true)
                    .value_parser(Version::parse_whole)
                    .help("The version, written in full: 1.9.0"),
            )
    };
    let list = Command::new("list")
        .about("The engines that jobs get: those by version, and the one that is taken where nobody asks for another")
        .after_help("Exits 0, or 1 where one is another than was installed.")
        .arg(output());
    let install = which(Command::new("install"))
        .about("Put a version into the directory of engines, once its archive is verified: by a checksum, or by the vendor's signature")
        .after_help("Jobs that begin afterwards may ask for it; the runner is not restarted. Exits 0 when it is there, also when it was before.")
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("PLACE")
                .help("An address that the files lie below ({version} in it stands for the version), a folder with them, or the archive; else engines.mirror, else the vendor's own"),
        )
        .arg(
            Arg::new("sha256")
                .long("sha256")
                .value_name("DIGITS")
                .value_parser(|digits: &str| parse_sha256(digits).ok_or("it has 64 hexadecimal digits"))
                .help("What the archive's SHA-256 has to be; else that of engines.checksums, else that of the list which the vendor has signed"),
        );
    let remove = which(Command::new("remove"))
        .about("Take a version out of the directory of engines; what runs of it goes on, and a plan that it made cannot be applied any more");
    Command::new("engines")
        .about("The versions of OpenTofu, Terraform and Pulumi that this machine has")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(list))
        .subcommand(with_settings(install))
        .subcommand(with_settings(remove))
}

/// Runs it; the exit code.
pub(super) fn run(config: &Config, name: &str, matches: &ArgMatches, as_json: bool) -> i32 {
    let done = match name {
        "list" => list(config, as_json),
        "install" => install(config, matches),
        _ => release(matches)
            .and_then(|release| install::remove(config, &release))
            .map(|at| out(&format!("removed {}", at.display()))),
    };
    done.unwrap_or_else(|failure| failed(&failure))
}

fn release(matches: &ArgMatches) -> Result<Release, Failure> {
    let engine = matches.get_one::<String>("engine").and_then(|name| Engine::from_name(name));
    let version = matches.get_one::<Version>("version").cloned();
    let (Some(engine), Some(version)) = (engine, version) else {
        return Err(Code::InvalidArgument.on("an engine and its version have to be named"));
    };
    Ok(Release { engine, version })
}

fn install(config: &Config, matches: &ArgMatches) -> Result<i32, Failure> {
    let release = release(matches)?;
    let place = matches.get_one::<String>("from").or(config.engines.mirror.as_ref());
    let place = place.map_or(Place::Vendor, |place| Place::parse(place));
    let runtime = super::runtime()?;
    let named = matches.get_one::<[u8; 32]>("sha256").copied();
    let done = runtime.block_on(install::install(config, &release, &place, named))?;
    let (what, path, record) = match done {
        Done::Installed(path, record) => ("installed", path, record),
        Done::Already(path, record) => ("already there", path, record),
    };
    Ok(out(&format!("{what}: {} ({}; SHA-256 {})", path.display(), record.verified, record.sha256)))
}

fn list(config: &Config, as_json: bool) -> Result<i32, Failure> {
    let shown = look(config)?;
    let changed = shown.iter().any(|one| one.changed);
    if as_json {
        out(&serde_json::to_string(&shown).unwrap_or_default());
    } else if shown.is_empty() {
        out("no engines; put one there with `runner engines install opentofu VERSION`");
    } else {
        out(&table(&shown));
    }
    Ok(if changed { exit::GENERAL } else { 0 })
}

fn look(config: &Config) -> Result<Vec<Shown>, Failure> {
    let engines = Engines::of(config);
    let mut all = Vec::new();
    for engine in Engine::ALL {
        let usual = engines.usual(engine).map(|path| Shown {
            engine: engine.name(),
            version: None,
            path: path.display().to_string(),
            default: true,
            sha256: None,
            verified: None,
            changed: false,
        });
        let has_usual = usual.is_some();
        all.extend(usual);
        let installed = engines.installed(engine);
        // what a job gets that asks for none, where there is nothing else
        let newest = installed.iter().find(|one| !one.version.is_pre_release()).or(installed.first());
        let newest = newest.filter(|_| !has_usual).map(|one| one.version.clone());
        for one in installed {
            let looked = Looked::at(&one)
                .map_err(|e| Code::StateUnusable.on(format!("{}: {e}", one.path.display())).next("Check its mode."))?;
            all.push(Shown {
                engine: engine.name(),
                default: newest.as_ref() == Some(&one.version),
                version: Some(one.version.to_string()),
                path: one.path.display().to_string(),
                changed: looked.is_changed(),
                sha256: Some(looked.sha256),
                verified: looked.record.map(|record| record.verified),
            });
        }
    }
    Ok(all)
}

fn table(shown: &[Shown]) -> String {
    let head = ["ENGINE", "VERSION", "", "PATH", "VERIFIED", "SHA-256"].map(str::to_owned).to_vec();
    let rows = shown.iter().map(|one| {
        let verified = match (&one.verified, one.changed) {
            (_, true) => "CHANGED since it was installed",
            (Some(verified), false) => verified,
            (None, false) => "-",
        };
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            one.engine.to_owned(),
            or_none(&one.version),
            if one.default { "default" } else { "" }.to_owned(),
            one.path.clone(),
            verified.to_owned(),
            or_none(&one.sha256),
        ]
    });
    columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    fn put(path: &std::path::Path) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
        std::fs::write(path, "x").expect("writes");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555)).expect("sets");
    }

    #[test]
    fn what_jobs_get_is_listed_with_who_vouches_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::load(None, &BTreeMap::new(), &BTreeMap::new()).expect("a configuration");
        config.engines.directory = folder.path().join("engines");
        config.engines.opentofu = Some("/usr/bin/tofu".into());
        config.environment.clear();
        let engines = config.engines.directory.clone();
        for path in [
            "opentofu/1.9.0/tofu",
            "terraform/1.11.4/terraform",
            "terraform/1.12.0-rc1/terraform",
            "pulumi/3.255.0/pulumi",
        ] {
            put(&engines.join(path));
        }
        let record = r#"{"sha256":"00","archive_sha256":"11","verified":"signed by K"}"#;
        std::fs::write(engines.join("opentofu/1.9.0/installed"), record).expect("writes");
        let shown = look(&config).map_err(|f| f.message).expect("looks");
        let brief: Vec<_> = shown
            .iter()
            .map(|s| (s.engine, s.version.as_deref(), s.default, s.verified.as_deref(), s.changed))
            .collect();
        assert_eq!(
            brief,
            [
                ("opentofu", None, true, None, false),
                ("opentofu", Some("1.9.0"), false, Some("signed by K"), true),
                ("terraform", Some("1.12.0-rc1"), false, None, false),
                ("terraform", Some("1.11.4"), true, None, false),
                ("pulumi", Some("3.255.0"), true, None, false),
            ]
        );
        let text = table(&shown);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("ENGINE     VERSION") && lines[0].ends_with("SHA-256"), "{text}");
        assert!(lines[1].contains("default  /usr/bin/tofu") && lines[2].contains("CHANGED"), "{text}");
    }
}
