//! `runner`: register, credentials, list, show, default, revoke.

use super::Session;
use crate::client::{Client, path};
use crate::output::{progress, table};
use crate::stop::{self, Done};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use shared_proto::credentials::{CredentialsFile, VERSION};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use std::path::{Path, PathBuf};

/// `runner`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RunnerCommand {
    /// Make a runner known to the control plane
    Register {
        /// Its name
        name: String,
    },
    /// Write a credentials file for a runner; its key is made here and stays in that file
    GenerateCredentials {
        /// The runner
        name: String,
        /// The file to write, mode 0600
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long the certificate is valid; the control plane's default is 90
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: Option<u32>,
        /// Replace the file if there is one
        #[arg(long)]
        force: bool,
    },
    /// All runners
    List,
    /// A runner with its connected instances
    Show {
        /// The runner
        name: String,
    },
    /// How far its audit logs go, as it told: what `runner audit verify --expected` is given on its machine
    Audit {
        /// The runner
        name: String,
    },
    /// Use this runner where none is named
    SetDefault {
        /// The runner
        name: String,
    },
    /// Cut a runner off for good: its session ends within a second
    Revoke {
        /// The runner
        name: String,
    },
}

/// `runner …`
pub(crate) async fn run(command: RunnerCommand, session: &Session) -> Done {
    let client = &session.client;
    match command {
        RunnerCommand::Register { name } => {
            let made = session.wait("registering", client.post("/runners", &json!({ "name": name }))).await?;
            session.output.document(&made, |made| {
                let name = table::text(made, "/name");
                format!(
                    "Runner {name} registered ({}).\nNow: runnerctl runner generate-credentials {name} --out credentials.json\n",
                    table::text(made, "/id")
                )
            })
        }
        RunnerCommand::GenerateCredentials { name, out, days, force } => {
            check_target(&out, force)?;
            let spinner = progress::spinner("asking for a certificate");
            let made = session
                .interrupt
                .guard("no file was written", async { Ok(generate_credentials(client, &name, days).await?) })
                .await;
            spinner.finish_and_clear();
            let (file, answer) = made?;
            file.write(&out).map_err(|e| stop::file(&out, &e))?;
            session.output.document(&described(&answer, &out), |d| {
                format!(
                    "Credentials of runner {name} written to {}; valid until {}.\nNow, where the runner is to run: runner run \
                     --credentials {}\n",
                    out.display(),
                    table::moment(d, "/not_after_ms"),
                    out.display()
                )
            })
        }
        RunnerCommand::List => {
            let list = session.wait("listing runners", client.get("/runners")).await?;
            session.output.document(&list, runners)
        }
        RunnerCommand::Show { name } => {
            let runner = session.wait("asking", client.get(&path(&["runners", &name], &[]))).await?;
            session.output.document(&runner, show)
        }
        RunnerCommand::Audit { name } => {
            let list = session.wait("asking", client.get(&path(&["runners", &name, "audit"], &[]))).await?;
            session.output.document(&list, seals)
        }
        RunnerCommand::SetDefault { name } => {
            let at = path(&["runners", &name, "default"], &[]);
            let runner = session.wait("setting the default", client.post(&at, &json!({}))).await?;
            session.output.document(&runner, |r| format!("Runner {} is the default now.\n", table::text(r, "/name")))
        }
        RunnerCommand::Revoke { name } => {
            let at = path(&["runners", &name, "revoke"], &[]);
            let runner = session.wait("revoking", client.post(&at, &json!({}))).await?;
            session.output.document(&runner, |r| format!("Runner {} is revoked.\n", table::text(r, "/name")))
        }
    }
}

/// Makes a key, has it certified, composes the file's content. The key never leaves this process but into that file.
pub(crate) async fn generate_credentials(
    client: &Client,
    runner: &str,
    days: Option<u32>,
) -> Result<(CredentialsFile, Value), Failure> {
    let internal = |e: rcgen::Error| Code::Internal.on(format!("the key or its request could not be made: {e}"));
    let key = KeyPair::generate().map_err(internal)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, runner);
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(internal)?;
    let mut body = json!({ "csr": csr });
    if let Some(days) = days {
        body["days"] = days.into();
    }
    let answer = client.post(&path(&["runners", runner, "credentials"], &[]), &body).await.map_err(|failure| {
        if failure.code == Code::NotFound {
            failure.next(format!("Run `runnerctl runner register {runner}` first."))
        } else {
            failure
        }
    })?;
    let text = |name: &str| {
        answer
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| Code::UnsupportedVersion.on(format!("the control plane's answer has no {name:?}")))
    };
    let file = CredentialsFile {
        version: VERSION,
        organization: text("organization")?,
        runner: text("runner")?,
        tunnel_endpoint: text("tunnel_endpoint")?,
        execution_endpoint: text("execution_endpoint")?,
        ca: text("ca")?,
        certificate: text("certificate")?,
        private_key: Secret::new(key.serialize_pem()),
        api_key: Secret::new(text("api_key")?),
    };
    Ok((file, answer))
}

/// Before a certificate is asked for: whether the file could be written.
fn check_target(out: &Path, force: bool) -> Result<(), Failure> {
    if !force && out.symlink_metadata().is_ok() {
        return Err(Code::InvalidArgument
            .on(format!("{} exists already", out.display()))
            .next("Name another file, or replace it with --force."));
    }
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if folder.is_dir() {
        Ok(())
    } else {
        Err(Code::InvalidArgument.on(format!("{} is not a folder", folder.display())).next("Create it first."))
    }
}

/// What may be shown of the answer: nothing secret.
fn described(answer: &Value, out: &Path) -> Value {
    let mut shown = json!({ "file": out.display().to_string() });
    for name in ["organization", "runner", "serial", "not_after_ms", "tunnel_endpoint", "execution_endpoint"] {
        shown[name] = answer.get(name).cloned().unwrap_or_default();
    }
    shown
}

fn ago(runner: &Value) -> String {
    match table::ago(runner, "/last_seen_ms") {
        age if age.is_empty() => "never".into(),
        age => format!("{age} ago"),
    }
}

fn runners(list: &Value) -> String {
    let rows = table::items(list).iter().map(|r| {
        let instances = r["instances"].as_array().map_or(0, Vec::len);
        vec![
            table::text(r, "/name"),
            table::text(r, "/state"),
            if r["default"] == true { "yes".into() } else { String::new() },
            instances.to_string(),
            table::text(r, "/instances/0/version"),
            ago(r),
            table::text(r, "/id"),
        ]
    });
    let header = ["NAME", "STATE", "DEFAULT", "INSTANCES", "VERSION", "LAST SEEN", "ID"];
    table::rows(&header, rows, "No runners. Run `runnerctl runner register NAME`.")
}

fn show(runner: &Value) -> String {
    let mut text = table::fields([
        ("name", table::text(runner, "/name")),
        ("id", table::text(runner, "/id")),
        ("state", table::text(runner, "/state")),
        ("default", table::text(runner, "/default")),
        ("created", table::moment(runner, "/created_at_ms")),
        ("last seen", ago(runner)),
    ]);
    for instance in runner["instances"].as_array().map_or(&[][..], Vec::as_slice) {
        let names = |list: &str, field: &str| {
            let list = instance[list].as_array().map_or(&[][..], Vec::as_slice);
            list.iter().map(|item| table::text(item, field)).collect::<Vec<_>>().join(", ")
        };
        text.push_str("\ninstance\n");
        text.push_str(&table::fields([
            ("  id", table::text(instance, "/instance_id")),
            ("  host", table::text(instance, "/hostname")),
            ("  version", table::text(instance, "/version")),
            ("  connected", table::moment(instance, "/connected_at_ms")),
            ("  healthy", table::text(instance, "/healthy")),
            ("  draining", table::text(instance, "/draining")),
            ("  operations", table::text(instance, "/operations")),
            ("  isolation", table::text(instance, "/isolation_level")),
            ("  missing", names("isolation_missing", "")),
            (
                "  certificate",
                format!(
                    "{} until {}, {}",
                    table::text(instance, "/certificate/serial"),
                    table::moment(instance, "/certificate/not_after_ms"),
                    if instance["certificate"]["renewed"] == true {
                        "renewed by the instance"
                    } else {
                        "of the credentials file"
                    }
                ),
            ),
            ("  engines", names("engines", "")),
            ("  seal key", table::text(instance, "/seal_key/fingerprint")),
            ("  policy", policy(&instance["policy"])),
            ("  connections", names("connections", "/name")),
        ]));
    }
    for seal in runner["audit"].as_array().map_or(&[][..], Vec::as_slice) {
        text.push_str("\naudit log\n");
        text.push_str(&table::fields([
            ("  instance", table::text(seal, "/instance_id")),
            (
                "  sealed up to",
                format!("number {}, {} ago", table::text(seal, "/number"), table::ago(seal, "/received_at_ms")),
            ),
            ("  key", table::text(seal, "/fingerprint")),
        ]));
        for warning in troubles(seal) {
            text.push_str(&format!("  WARNING: {warning}\n"));
        }
    }
    text
}

/// What does not fit together in what a runner told of its audit log, in words.
fn troubles(seal: &Value) -> Vec<String> {
    let words = seal["trouble"].as_array().map_or(&[][..], Vec::as_slice);
    let told = words.iter().filter_map(Value::as_str).map(|word| match word {
        "number_back" => "its numbers went back: its end was cut off, or an old copy was put in its place".to_owned(),
        "rewritten" => "a record of it is another one than before: it was written anew".to_owned(),
        "key_changed" => "another key signs it, which the one before did not sign".to_owned(),
        other => other.to_owned(),
    });
    told.collect()
}

/// Seals, one a line.
fn seals(list: &Value) -> String {
    let rows = table::items(list).iter().map(|seal| {
        vec![
            table::text(seal, "/instance_id"),
            table::moment(seal, "/received_at_ms"),
            format!("{}:{}", table::text(seal, "/number"), table::text(seal, "/hash")),
            table::text(seal, "/fingerprint"),
            troubles(seal).join("; "),
        ]
    });
    table::rows(
        &["INSTANCE", "TOLD", "NUMBER:HASH", "KEY", "WARNING"],
        rows,
        "It has told nothing of an audit log yet.",
    )
}

/// What a runner's policy comes to, in a line.
fn policy(policy: &Value) -> String {
    match policy["state"].as_str() {
        Some("absent") => return "none: what the connections' credentials allow".to_owned(),
        Some("broken") => return format!("broken, nothing is allowed: {}", table::text(policy, "/reason")),
        Some(_) => {}
        None => return String::new(),
    }
    let sections = policy["sections"].as_object().into_iter().flatten();
    let bound = sections.filter(|(_, section)| section["default"] == "deny").map(|(name, section)| {
        let rules = section["rules"].as_array().map_or(0, Vec::len);
        let allow = section["rules"].as_array().into_iter().flatten().filter(|r| r["effect"] == "allow").count();
        match (rules, policy["cut"] == true) {
            (_, true) => format!("{name}: by rules"),
            (0, _) => format!("{name}: nothing"),
            _ => format!("{name}: by {allow} of {rules} rules"),
        }
    });
    let bound: Vec<_> = bound.collect();
    if bound.is_empty() { "all is allowed".to_owned() } else { format!("{}; all else is allowed", bound.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_not_replaced_by_accident() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("c.json");
        assert!(check_target(&out, false).is_ok());
        std::fs::write(&out, "x").expect("writes");
        assert_eq!(check_target(&out, false).expect_err("exists").code, Code::InvalidArgument);
        assert!(check_target(&out, true).is_ok());
        assert!(check_target(&dir.path().join("missing/c.json"), true).is_err());
    }

    #[test]
    fn a_runner_is_shown_with_what_it_can_do() {
        let runner = json!({"name": "office", "state": "leaving", "instances": [{"instance_id": "i-1", "engines":
            ["opentofu", "terraform"], "isolation_level": "confined", "isolation_missing": ["netns", "cgroup"],
            "connections": [{"name": "prod", "provider": "kubernetes"}, {"name": "account", "provider": "aws"}]}]});
        let shown = show(&runner);
        let value = |name: &str| {
            let mut values = shown.lines().filter_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'));
            values.next().unwrap_or_default().trim().to_owned()
        };
        assert_eq!(
            ["state", "engines", "connections", "isolation", "missing"].map(value),
            ["leaving", "opentofu, terraform", "prod, account", "confined", "netns, cgroup"],
            "{shown}"
        );
        let listed = runners(&json!({"items": [runner]}));
        assert!(listed.lines().any(|l| l.starts_with("office") && l.contains("leaving")), "{listed}");
    }

    #[test]
    fn what_does_not_fit_in_an_audit_log_is_told() {
        let seal = |trouble: Value| json!({"instance_id": "i-1", "number": 4711, "hash": "abc", "fingerprint": "f00", "trouble": trouble});
        let shown = show(&json!({"name": "office", "audit": [seal(json!(["number_back", "key_changed"]))]}));
        for part in ["number 4711", "f00", "WARNING: its numbers went back", "WARNING: another key signs it"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!show(&json!({"name": "office", "audit": [seal(json!([]))]})).contains("WARNING"));
        let listed = seals(&json!({"items": [seal(json!(["rewritten"]))]}));
        assert!(listed.contains("4711:abc") && listed.contains("written anew"), "{listed}");
    }

    #[test]
    fn a_policy_in_a_line() {
        let section = |default: &str, rules: Value| json!({ "default": default, "rules": rules });
        let read = json!({ "state": "read", "sections": {
            "jobs": section("deny", json!([])), "aws": section("allow", json!([])),
            "kubernetes": section("deny", json!([{ "effect": "allow" }, { "effect": "deny" }])),
        } });
        for (given, shown) in [
            (read, "jobs: nothing, kubernetes: by 1 of 2 rules; all else is allowed"),
            (json!({ "state": "broken", "reason": "line 1" }), "broken, nothing is allowed: line 1"),
            (json!({ "state": "absent" }), "none: what the connections' credentials allow"),
            (Value::Null, ""),
        ] {
            assert_eq!(policy(&given), shown);
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = described(&json!({"api_key": "rnk_x", "serial": "1", "certificate": "pem"}), Path::new("f"));
        assert_eq!((shown.get("api_key"), &shown["serial"]), (None, &json!("1")));
    }
}
