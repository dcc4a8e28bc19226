//! The unit of `deploy/systemd` in a guest with systemd as PID 1: install, start; restart, reload, stop and kill in mid-apply; a killed
//! supervisor, the watchdog, a scope that is stopped as by a machine that goes down, jobs that want too much, a wrong configuration. The
//! steps are in `tests/guest/run`. The guest is emulated: limits are generous, and nothing is measured.

use anyhow::{Context as _, Result, ensure};
use runner_tests::{Component, Scratch, Suite, tools};
use std::path::Path;
use std::process::ExitCode;

/// The guest's time altogether, seconds. Six minutes are enough where its host has two processors to itself; where it has a third of them, twenty.
const LIMIT: u64 = 1300;

/// One resource that takes a while, so that a restart falls into its apply, and two reloads before it.
const MODULE: &str = r#"
resource "terraform_data" "quick" { input = "first" }
resource "terraform_data" "slow" {
  depends_on = [terraform_data.quick]
  provisioner "local-exec" { command = "sleep 60" }
}
output "first" { value = terraform_data.quick.output }
"#;

/// What jobs do that want too much: all memory at once, more and more of it, and processes, processor and disk without end.
const GREEDY: [(&str, &str); 3] = [
    ("greedy", "head -c 700M /dev/zero | tail -c 600M | wc -c"),
    ("growing", r#"perl -e '$s = ""; for (1..60) { $s .= "x" x (8 << 20); select undef, undef, undef, 0.4 }'"#),
    (
        "starving",
        r#"for i in 1 2 3; do (while :; do :; done) & done; perl -e 'open F, ">", "$ENV{TMPDIR}/x"; while (1) { seek F, 0, 0; print F "x" x 65536 for 1..1024 }' & exec perl -e 'while (1) { my $p = fork; exec "sleep", "1234" if defined $p && !$p; select undef, undef, undef, 0.01 }'"#,
    ),
];

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(LIMIT + 60)
        .needs(&[Component::Guest, Component::Tofu])
        .test("the_unit_under_systemd", under_systemd)
        .run()
}

async fn under_systemd() -> Result<()> {
    let scratch = Scratch::new("guest")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (inside, outside) = (scratch.path().join("in"), scratch.path().join("out"));
    std::fs::create_dir_all(inside.join("bin"))?;
    std::fs::create_dir_all(inside.join("module"))?;
    std::fs::write(inside.join("module/main.tf"), MODULE)?;
    for (name, command) in GREEDY {
        let command = command.replace('"', "\\\"").replace("${", "$${");
        let module = format!(
            "resource \"terraform_data\" \"a\" {{\n  provisioner \"local-exec\" {{ command = \"{command}\" }}\n}}\n"
        );
        std::fs::create_dir_all(inside.join(name))?;
        std::fs::write(inside.join(name).join("main.tf"), module)?;
    }
    std::fs::copy(root.join("guest/run"), inside.join("run"))?;
    std::fs::copy(root.join("../deploy/systemd/runner.service"), inside.join("runner.service"))?;
    for program in ["runner", "runner-worker-ops", "runner-worker-iac", "runner-control-plane", "runnerctl"] {
        let to = inside.join("bin").join(program);
        // the emulated disk is slow, and debug information is most of a debug build
        let stripped =
            tokio::process::Command::new("strip").arg("-o").arg(&to).arg(tools::binary(program)?).status().await;
        ensure!(stripped.context("strip")?.success(), "strip {program}");
    }
    std::fs::copy(tools::find("tofu").context("tofu")?, inside.join("bin/tofu"))?;
    let output = tokio::process::Command::new(root.join("tools/guest"))
        .arg("run")
        .args([tools::folder().join("guest"), inside, outside.clone()])
        .arg(LIMIT.to_string())
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("guest: all steps hold"),
        "the guest ended with {}:\n{said}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        tail(&outside.join(".console"))
    );
    println!("{said}");
    Ok(())
}

fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
}
