//! Providers that a job installs from the runner's own packages, with the real engines: no registry is asked, and the lock file has the last word.

mod common;

use common::{Job, engines, phases, result};
use sha2::{Digest as _, Sha256};
use shared_proto::v1::{EngineProgram, JobKind};
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

const MODULE: &str = r#"
terraform {
  required_providers {
    time = {
      source  = "hashicorp/time"
      version = "0.14.2"
    }
  }
}
resource "time_static" "a" {}
"#;

/// The provider of the tests' own mirror, if it is here.
fn provider() -> Option<PathBuf> {
    let tools = std::env::var_os("RUNNER_TEST_TOOLS").map(PathBuf::from);
    let cached = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/runner-test-tools"));
    let found = tools.or(cached)?.join("bin/terraform-provider-time");
    if !found.is_file() {
        println!("SKIPPED: no terraform-provider-time here");
        return None;
    }
    Some(found)
}

/// A package of it, with that said beside.
fn package(provider: &Path, beside: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    writer.start_file("terraform-provider-time_v0.14.2", stored).expect("begins");
    writer.write_all(&std::fs::read(provider).expect("reads")).expect("writes");
    writer.start_file("LICENSE", stored).expect("begins");
    writer.write_all(beside.as_bytes()).expect("writes");
    writer.finish().expect("ends").into_inner()
}

fn host(engine: &EngineProgram) -> &'static str {
    if engine.name == "opentofu" { "registry.opentofu.org" } else { "registry.terraform.io" }
}

/// Puts a package where the runner has it; the lock file that knows it.
fn put(folder: &Path, engine: &EngineProgram, package: &[u8]) -> String {
    let folder = folder.join(host(engine)).join("hashicorp/time");
    std::fs::create_dir_all(&folder).expect("makes");
    std::fs::write(folder.join("terraform-provider-time_0.14.2_linux_amd64.zip"), package).expect("writes");
    let digest: String = Sha256::digest(package).iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "provider \"{}/hashicorp/time\" {{\n  version     = \"0.14.2\"\n  constraints = \"0.14.2\"\n  hashes = [\n    \"zh:{digest}\",\n  ]\n}}\n",
        host(engine)
    )
}

fn job(engine: &EngineProgram, packages: &Path, files: &[(&str, &str)]) -> Job {
    let mut job = Job::new(engine, JobKind::Update, files);
    job.start.environment.insert("RUNNER_PROVIDERS".into(), packages.display().to_string());
    job
}

#[test]
fn a_job_installs_what_the_runner_has_and_its_lock_file_knows() {
    let Some(provider) = provider() else { return };
    for engine in engines() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = put(folder.path(), &engine, &package(&provider, "as it was"));
        let files = [("main.tf", MODULE), (".terraform.lock.hcl", &*lock)];
        let planned = job(&engine, folder.path(), &files);
        let events = planned.run("plan");
        assert_eq!(phases(&events).last(), Some(&"awaiting_approval"), "{events:#?}");
        assert_eq!(result(&planned.run("apply")).phase, "applied");
        // without a lock file too: the package is the runner's
        let events = job(&engine, folder.path(), &[("main.tf", MODULE)]).run("plan");
        assert_eq!(phases(&events).last(), Some(&"awaiting_approval"), "{events:#?}");
        // somebody has put another one in its place
        put(folder.path(), &engine, &package(&provider, "and something else"));
        let events = job(&engine, folder.path(), &files).run("plan");
        assert_eq!(result(&events).code, "engine_failed", "{events:#?}");
        assert!(result(&events).message.contains("init ended with"), "{}", result(&events).message);
    }
}
