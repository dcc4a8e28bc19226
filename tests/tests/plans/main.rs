//! Plans as people read them: what OpenTofu would do, seen by the command line, as JSON, in Markdown and beside another plan; what is sensitive in none of
//! them, and nothing of a plan obeyed by whoever shows it.

mod screens;

use anyhow::{Context as _, Result, ensure};
use runner_tests::ctl::Ctl;
use runner_tests::engine::{self, EngineKind};
use runner_tests::process::Ended;
use runner_tests::runner::Setup;
use runner_tests::world::Shared;
use runner_tests::{Component, ControlPlane, Engine, Runner, Scratch, Suite};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

const JOB: Duration = Duration::from_secs(120);
/// Sensitive to the engine and no variable of a job: only the engine's own mask keeps it in.
const PLANTED: [&str; 2] = ["planted-sensitive-one", "planted-sensitive-two"];

/// What all scenarios share.
struct Usual {
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
}

static USUAL: Shared<Usual> = Shared::new();

async fn usual() -> Result<&'static Usual> {
    USUAL
        .get(|| async {
            let control_plane = ControlPlane::start().await?;
            let engine = Engine::new(EngineKind::OpenTofu)?;
            let user = control_plane.admin();
            let runner = Setup::new()?.cold().engines(&[&engine]).start(user, "runner-1").await?;
            user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
            // its configuration stays on disk as long as the runner
            std::mem::forget(engine);
            let ctl = Ctl::new(&control_plane, user)?;
            Ok(Usual { control_plane, runner, ctl })
        })
        .await
}

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Tofu])
        .test("a_plan_is_read_in_every_form_and_nothing_sensitive_is_in_any", every_form)
        .test("plans_are_compared_and_exit_codes_say_what_there_is", compared)
        .test("what_would_be_destroyed_is_said_before_approval", before_approval)
        .test("what_others_have_changed_stands_apart", drift)
        .test("nothing_of_a_plan_is_obeyed", hostile)
        .test("what_people_see_at_80_columns", screens::screens)
        .run()
}

/// A module whose second form does one of everything to the first.
fn module(second: bool) -> String {
    let (n, secret) = if second { (2, PLANTED[1]) } else { (1, PLANTED[0]) };
    let changing = if second {
        r#"resource "terraform_data" "new" { input = "moves" }
moved {
  from = terraform_data.old
  to   = terraform_data.new
}"#
    } else {
        r#"resource "terraform_data" "old" { input = "moves" }
resource "terraform_data" "gone" { input = "goes" }"#
    };
    format!(
        r##"variable "password" {{
  sensitive = true
  default   = "{secret}"
}}
variable "size" {{
  type    = number
  default = {n}
}}
{changing}
resource "terraform_data" "replaced" {{ triggers_replace = {{ size = var.size }} }}
resource "terraform_data" "login" {{
  input = {{ name = "app-${{var.size}}", logins = [{{ user = "a", password = var.password }}] }}
}}
resource "terraform_data" "script" {{ input = "#!/bin/sh\necho ${{var.size}}\nexit\n" }}
module "net" {{
  source = "./net"
  size   = var.size
}}
output "size" {{ value = var.size }}
output "password" {{
  value     = var.password
  sensitive = true
}}
"##
    )
}
const NET: &str = r#"variable "size" {}
resource "terraform_data" "host" {
  for_each = toset([for n in range(var.size) : "host-${n}"])
  input    = each.key
}
"#;

fn folder(main: &str) -> Result<Scratch> {
    let folder = Scratch::new("module")?;
    std::fs::create_dir(folder.join("net"))?;
    folder.write("main.tf", main)?;
    folder.write("net/main.tf", NET)?;
    Ok(folder)
}

impl Usual {
    async fn ctl(&self, line: &str) -> Result<Ended> {
        self.ctl.run(&line.split(' ').collect::<Vec<_>>()).await
    }
    async fn text(&self, line: &str) -> Result<String> {
        self.ctl.text(&line.split(' ').collect::<Vec<_>>()).await
    }
    /// Deploys a folder; the end, and the id of the job.
    async fn deploy(&self, folder: &Scratch, stack: &str, options: &str) -> Result<(Ended, String)> {
        let path = folder.path().display().to_string();
        let mut words = vec!["deploy", &path, "--name", stack];
        words.extend(options.split_whitespace());
        let ended = self.ctl.run(&words).await?;
        Ok((ended, self.last_job(stack).await?))
    }
    async fn last_job(&self, stack: &str) -> Result<String> {
        let list = self.ctl.json(&["job", "list", "--stack", stack]).await?;
        Ok(list["items"][0]["id"].as_str().context("a job")?.to_owned())
    }
    /// A stack of the module's first form, applied, and a preview of its second; the jobs.
    async fn shop(&self, stack: &str) -> Result<(String, String)> {
        let (ended, applied) = self.deploy(&folder(&module(false))?, stack, "--auto-approve").await?;
        ensure!(ended.code() == 0, "{ended:?}");
        let (ended, preview) = self.deploy(&folder(&module(true))?, stack, "--kind preview").await?;
        ensure!(ended.code() == 0, "{ended:?}");
        Ok((applied, preview))
    }
}

fn code(ended: &Ended, expected: i32) -> Result<()> {
    ensure!(ended.code() == expected, "not {expected}: {ended:?}");
    Ok(())
}

async fn every_form() -> Result<()> {
    let usual = usual().await?;
    let (applied, preview) = usual.shop("forms").await?;
    let table = usual.text(&format!("plan show {preview}")).await?;
    let first = "1 to replace, 1 to destroy, 2 to change, 1 to create, 1 to move, 2 outputs to change";
    let broken = format!("forms: {first}\n").replace(" outputs to", "\n  outputs to");
    ensure!(table.starts_with(&broken), "{table}");
    for expected in [
        "  -   terraform_data.gone  (no longer in the configuration)\n",
        "      triggers_replace.size: 1 → 2  # forces replacement\n",
        "      input.logins[0].password: (sensitive)\n",
        "        - echo 1\n        + echo 2\n",
        "  module.net\n    +   terraform_data.host[\"host-1\"]\n",
        "      terraform_data.new  (moved from terraform_data.old)\n",
        "(known after apply)",
    ] {
        ensure!(table.contains(expected), "{expected}: {table}");
    }
    // what may be lost comes first
    ensure!(table.find("terraform_data.gone") < table.find("Other changes"), "{table}");
    let json = usual.ctl.json(&["plan", "show", "forms"]).await?;
    let document = usual.control_plane.admin().get(&format!("/jobs/{preview}/plan")).await?;
    ensure!(json == document, "{json}\n{document}");
    ensure!(json["summary"]["replace"] == 1 && json["kind"] == "preview" && json["has_changes"] == true, "{json}");
    ensure!(json["resources"][0]["address"] == "terraform_data.gone", "{json}");
    // the engine's own numbers count a replacement in both
    let job = usual.control_plane.admin().get(&format!("/jobs/{preview}")).await?;
    ensure!(
        job["plan"]["add"] == 2 && job["plan"]["remove"] == 2 && job["plan"]["summary"] == json["summary"],
        "{job}"
    );
    let shown = usual.text(&format!("job show {preview}")).await?;
    ensure!(shown.contains("1 to replace, 1 to destroy") && shown.contains("runnerctl plan show"), "{shown}");
    let words = usual.text(&format!("plan show {preview} --text")).await?;
    ensure!(words.contains("Plan: 2 to add, 2 to change, 2 to destroy."), "{words}");
    let markdown = usual.text(&format!("plan render {preview}")).await?;
    ensure!(markdown.starts_with("### <code>forms</code>: 1 to replace"), "{markdown}");
    ensure!(markdown.contains("| <code>-</code> destroy | <code>terraform&#95;data&#46;gone</code> |"), "{markdown}");
    let status = usual.text(&format!("plan render {preview} --status")).await?;
    ensure!(status.trim_end() == first, "{status}");
    // and of all that: nothing that is sensitive, in whatever form
    let yaml = usual.text(&format!("plan show {preview} -o yaml")).await?;
    let compared = usual.ctl.run(&["plan", "compare", &preview, &applied, "-o", "json"]).await?.stdout;
    let events = serde_json::to_string(&usual.control_plane.admin().events(&preview).await?)?;
    let made = usual.ctl.json(&["plan", "show", &applied]).await?.to_string();
    for text in [table, json.to_string(), yaml, words, markdown, status, compared, events, job.to_string(), made] {
        for planted in PLANTED {
            ensure!(!text.contains(planted), "{text}");
        }
    }
    Ok(())
}

async fn compared() -> Result<()> {
    let usual = usual().await?;
    let (applied, preview) = usual.shop("sides").await?;
    let (again, third) =
        usual.deploy(&folder(&module(true))?, "sides", "--kind preview --var size=3 --exit-code").await?;
    code(&again, 2)?;
    // by itself beside the plan before
    let ended = usual.ctl(&format!("plan compare {third} --exit-code")).await?;
    code(&ended, 2)?;
    for expected in [
        "sides: 1 new, 0 gone, ",
        &format!("job {third} beside job {preview}"),
        "  +   module.net.terraform_data.host[\"host-2\"]  (create)\n",
        "      triggers_replace.size\n        before: 1 → 2  # forces replacement\n        now: 1 → 3  # forces replacement\n",
    ] {
        ensure!(ended.stdout.contains(expected), "{expected}: {}", ended.stdout);
    }
    let json = usual.ctl.json(&["plan", "compare", "sides", &applied]).await?;
    ensure!(json["job"] == third.as_str() && json["with"] == applied.as_str(), "{json}");
    ensure!(json["gone"].as_array().is_some_and(|gone| !gone.is_empty()) && json["same"] == 0, "{json}");
    code(&usual.ctl(&format!("plan compare {third} {third} --exit-code")).await?, 0)?;
    code(&usual.ctl(&format!("plan compare {third}")).await?, 0)?;
    // the first has none before it
    let ended = usual.ctl(&format!("plan compare {applied}")).await?;
    code(&ended, 66)?;
    for line in ["plan show", "plan render", "plan render --status", "job watch"] {
        code(&usual.ctl(&format!("{line} {third} --exit-code")).await?, 2)?;
        code(&usual.ctl(&format!("{line} {third}")).await?, 0)?;
    }
    // nothing to do is no change; what is applied had changes
    let (nothing, job) = usual.deploy(&folder(&module(false))?, "sides", "--kind preview --exit-code").await?;
    code(&nothing, 0)?;
    for line in ["plan show", "plan render", "plan show --text"] {
        code(&usual.ctl(&format!("{line} {job} --exit-code")).await?, 0)?;
    }
    ensure!(usual.text(&format!("plan render {job} --status")).await? == "nothing to do\n");
    code(&usual.deploy(&folder(&module(true))?, "sides", "--auto-approve --exit-code").await?.0, 2)?;
    let failed = usual.deploy(&folder("resource {")?, "sides", "--kind preview --exit-code").await?;
    code(&failed.0, 1)?;
    let ended = usual.ctl(&format!("plan show {}", failed.1)).await?;
    code(&ended, 66)?;
    ensure!(ended.stderr.contains("no plan"), "{ended:?}");
    // of a stack the last that has one
    ensure!(usual.text("plan show sides").await?.contains("job job_"));
    code(&usual.ctl("plan show no-such-stack").await?, 66)?;
    Ok(())
}

async fn before_approval() -> Result<()> {
    let usual = usual().await?;
    let (ended, _) = usual.deploy(&folder(&module(false))?, "asks", "--auto-approve").await?;
    code(&ended, 0)?;
    let (ended, job) = usual.deploy(&folder(&module(true))?, "asks", "--exit-code").await?;
    code(&ended, 75)?;
    // the engine's own words, and once more what would be lost
    ensure!(ended.stdout.contains("Plan: 2 to add, 2 to change, 2 to destroy."), "{ended:?}");
    let said = "\n1 to replace, 1 to destroy, 2 to change, 1 to create, 1 to move, 2 outputs to change\n  -   terraform_data.gone  (no longer in the configuration)\n  -/+ terraform_data.replaced  (destroyed, then created: cannot be changed in place)\n";
    ensure!(ended.stderr.contains(said), "{}", ended.stderr);
    ensure!(ended.stderr.contains(&format!("runnerctl plan show {job}")), "{}", ended.stderr);
    usual.text(&format!("job discard {job}")).await?;
    Ok(())
}

async fn drift() -> Result<()> {
    let usual = usual().await?;
    let main = r#"terraform {
  required_providers {
    time = {
      source  = "hashicorp/time"
      version = "0.14.2"
    }
  }
}
resource "time_rotating" "key" { rotation_days = 30 }
resource "terraform_data" "other" { input = "same" }
"#;
    let (ended, job) = usual.deploy(&folder(main)?, "drifts", "--auto-approve").await?;
    code(&ended, 0)?;
    // its time has come: whoever looks finds it gone
    let stack = usual.control_plane.admin().get(&format!("/jobs/{job}")).await?["stack"]["id"].clone();
    let stack = stack.as_str().context("a stack")?;
    let newest = engine::newest_state(&usual.runner, stack)?.context("a state")?;
    let mut kept: Value = serde_json::from_slice(&newest)?;
    let resources = kept["resources"].as_array_mut().context("resources")?;
    let key = resources.iter_mut().find(|r| r["type"] == "time_rotating").context("the key")?;
    key["instances"][0]["attributes"]["rotation_rfc3339"] = "2020-01-01T00:00:00Z".into();
    // as somebody puts a state there who has changed it by hand
    kept["serial"] = (kept["serial"].as_u64().context("a serial")? + 1).into();
    std::fs::write(usual.runner.state().join("stacks").join(stack).join("terraform.tfstate"), kept.to_string())?;
    let (ended, preview) = usual.deploy(&folder(main)?, "drifts", "--kind preview").await?;
    code(&ended, 0)?;
    let json = usual.ctl.json(&["plan", "show", &preview]).await?;
    ensure!(json["summary"]["drift"] == 1 && json["summary"]["create"] == 1, "{json}");
    ensure!(json["drift"][0]["address"] == "time_rotating.key" && json["drift"][0]["action"] == "delete", "{json}");
    let table = usual.text("plan show drifts").await?;
    ensure!(table.starts_with("drifts: 1 to create; 1 changed by others\n"), "{table}");
    let (plan, apart) = table.split_once("\nChanged by others").context(table.clone())?;
    ensure!(plan.contains("  +   time_rotating.key\n") && apart.contains("  -   time_rotating.key\n"), "{table}");
    let refresh = usual.deploy(&folder(main)?, "drifts", "--kind refresh --exit-code").await?;
    code(&refresh.0, 75)?;
    let json = usual.ctl.json(&["plan", "show", &refresh.1]).await?;
    ensure!(json["kind"] == "refresh" && json["has_changes"] == true && json["summary"]["drift"] == 1, "{json}");
    usual.text(&format!("job discard {}", refresh.1)).await?;
    Ok(())
}

async fn hostile() -> Result<()> {
    let usual = usual().await?;
    let keys = [
        "\\u001b[2J\\u001b]0;owned\\u0007",
        "</code></details><script>alert(1)</script>",
        "`` ``` ```````` @everyone #1 www.example.org",
        "| a | b |\\n\\n# heading\\n\\n[x](javascript:alert(1))",
        "\\u202e\\u009b2J",
    ];
    let quoted: Vec<_> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    let main = format!(
        "resource \"terraform_data\" \"a\" {{\n  for_each = toset([{}])\n  input = {{ (each.key) = each.key }}\n}}\n",
        quoted.join(", ")
    );
    let (ended, job) = usual.deploy(&folder(&main)?, "hostile", "--kind preview").await?;
    code(&ended, 0)?;
    let table = usual.text(&format!("plan show {job}")).await?;
    let markdown = usual.text(&format!("plan render {job}")).await?;
    for text in [&table, &markdown] {
        ensure!(!text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
    }
    ensure!(table.contains("5 to create"), "{table}");
    // outside of the fenced block, which no line of it closes, there is no sign of any of it
    let (head, block) = markdown.split_once("`````````diff\n").context(markdown.clone())?;
    let (_, end) = block.split_once("\n`````````\n").context(markdown.clone())?;
    for sign in ["@", "script>", "www.", "](", "# heading"] {
        ensure!(!head.contains(sign) && !end.contains(sign), "{sign}: {markdown}");
    }
    ensure!(end == "\n</details>\n", "{end:?}");
    let json = usual.ctl.json(&["plan", "show", &job]).await?;
    ensure!(json["resources"].as_array().map(Vec::len) == Some(5), "{json}");
    Ok(())
}
