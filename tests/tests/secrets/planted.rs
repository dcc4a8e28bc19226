//! Two hundred secrets are planted in files, variables, a Vault and sealed values, shown by a real engine in every form that a program writes a
//! value in, and all that leaves the runner is searched for them.

use super::vault::{TOKEN, Vault};
use super::{SOON, World, files};
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use runner_tests::Scratch;
use runner_tests::suite::scaled;
use serde_json::{Value, json};
use shared_proto::sealed::FILE as SEAL_KEYS;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// All of them.
const PLANTED: u64 = 200;
/// Those of one stack.
const OF_A_STACK: usize = 40;

/// Where a secret is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    File,
    Variable,
    Vault,
    Sealed,
}

#[derive(Debug, Clone)]
struct Secret {
    name: String,
    value: String,
    /// Letters and digits in it that are nowhere else.
    core: String,
    at: At,
}

/// Letters and digits, other ones for each number.
fn core(n: u64) -> String {
    let mut at = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    (0..14)
        .map(|_| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b"ABCDEFGHJKMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789"[(at >> 33) as usize % 54])
        })
        .collect()
}

fn secret(n: u64) -> Secret {
    let core = core(n);
    let value = match n / 4 % 6 {
        0 => core.clone(),
        1 => format!("a\"b\\c'd-{core}"),
        2 => format!("{core}&x=<y>/z+? w%"),
        3 => format!("line of the first\nsecond {core} line\nthird-of-them-all"),
        4 => format!("äß-${{x}}-{core}-`d`"),
        _ => format!("{core}=="),
    };
    let at = [At::File, At::Variable, At::Vault, At::Sealed][n as usize % 4];
    Secret { name: format!("s{n}"), value, core, at }
}

impl Secret {
    /// What shows that the value, or most of it, is there, in whichever form.
    fn traces(&self) -> Vec<String> {
        let hex = shared_proto::hex::encode(&self.core);
        let mut all = vec![self.core.clone(), hex.to_ascii_uppercase(), hex];
        // what of its base64 does not depend on what is around it
        for offset in 0..3 {
            let padded = [&[0; 3][..offset], self.core.as_bytes()].concat();
            let (from, to) = ([0, 2, 3][offset], padded.len() / 3 * 4);
            for text in [STANDARD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                all.push(text[from..to].to_owned());
            }
        }
        all
    }
}

/// A module that shows each of its variables wherever an engine or a program shows something.
fn module(secrets: &[Secret]) -> String {
    let mut text = String::new();
    for Secret { name, .. } in secrets {
        let _ = write!(
            text,
            r#"
variable "{name}" {{ type = string }}
resource "terraform_data" "{name}" {{
  input = {{
    plain  = var.{name}
    url    = urlencode(var.{name})
    b64    = base64encode(var.{name})
    b64x   = base64encode("x${{var.{name}}}")
    b64xx  = base64encode("xx${{var.{name}}}y")
    json   = jsonencode({{ a = var.{name} }})
    twice  = jsonencode(jsonencode([var.{name}]))
    inside = "before ${{var.{name}}} after"
    lines  = split("\n", var.{name})
  }}
  provisioner "local-exec" {{
    environment = {{ S = var.{name} }}
    command     = <<-EOT
      printf 'plain %s\n' "$S"
      printf '%s' "$S" | od -An -v -tx1 | tr -d ' \n'; echo
      printf '%s' "$S" | od -An -v -tx1 | tr -d ' \n' | tr a-f A-F; echo
      printf '%s' "$S" | base64 -w 0; echo
      L="$(printf '%s\n' "$S" | head -n 1)"
      R="$(printf '%s' "$L" | cut -c6-)"
      printf 'in '; printf '%.5s' "$L"; printf '%s pieces\n' "$R"
      printf 'err %s\n' "$S" >&2
    EOT
  }}
}}
output "{name}" {{ value = terraform_data.{name}.output }}
check "{name}" {{
  assert {{
    condition     = length(var.{name}) < 3
    error_message = "it is ${{var.{name}}} and ${{base64encode(var.{name})}}"
  }}
}}
"#
        );
    }
    text
}

pub(super) async fn nothing_leaves() -> Result<()> {
    let all: Vec<_> = (0..scaled(PLANTED).max(8)).map(secret).collect();
    let of = |at: At| all.iter().filter(move |secret| secret.at == at);
    let vault =
        Vault::start(of(At::Vault).map(|s| (s.name.clone(), s.value.clone())).collect::<BTreeMap<_, _>>()).await?;
    let world = World::new(|setup| {
        let named: Vec<_> = of(At::File).map(|s| (s.name.as_str(), s.value.as_str())).collect();
        let mut setup = files(setup, "s*", &named)?;
        for secret in of(At::Variable) {
            setup = setup.env(&format!("PLANTED_{}", secret.name), &secret.value);
        }
        let token = setup.folder().write("vault-token", format!("{TOKEN}\n"))?;
        let lines = format!(
            "kind = \"vault\"\nallow = [\"*\"]\naddress = \"http://{}\"\ntoken_file = {:?}",
            vault.address,
            token.display().to_string()
        );
        Ok(setup
            .table("secrets.variables", "kind = \"environment\"\nallow = [\"PLANTED_*\"]")
            .table("secrets.vault", &lines))
    })
    .await?;
    let folder = Scratch::new("values")?;
    let mut said = Vec::new();
    let mut jobs = Vec::new();
    for (n, some) in all.chunks(OF_A_STACK).enumerate() {
        let stack = format!("stack-{n}");
        let mut options: Vec<String> = Vec::new();
        for secret in some {
            let name = &secret.name;
            match secret.at {
                At::File => options.extend(["--secret".into(), format!("{name}=files:{name}")]),
                At::Variable => options.extend(["--secret".into(), format!("{name}=variables:PLANTED_{name}")]),
                At::Vault => options.extend(["--secret".into(), format!("{name}=vault:{name}#value")]),
                At::Sealed => {
                    let file = folder.write(name, &secret.value)?;
                    options.extend(["--sealed".into(), format!("{name}={}", file.display())]);
                }
            }
        }
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let (ended, job) = world.deploy(&stack, &module(some), &options).await?;
        ensure!(job["phase"] == "applied", "{}", job["result"]);
        // the engine had every one of them, as it is
        let state: Value = serde_json::from_str(&world.state(&stack).await?)?;
        for Secret { name, value, .. } in some {
            ensure!(state["outputs"][name]["value"]["plain"] == value.as_str(), "{name} is not what was planted");
        }
        said.push((format!("deploy {stack}"), format!("{ended:?}")));
        jobs.push(job["id"].as_str().context("an id")?.to_owned());
        let user = world.control_plane.admin();
        let targets: Vec<_> = some.iter().map(|s| format!("terraform_data.{}", s.name)).collect();
        for body in [
            json!({"kind": "outputs"}),
            json!({"kind": "state", "targets": targets}),
            json!({"kind": "preview", "replace": targets}),
        ] {
            let id = user.start_job(&stack, &body).await?;
            let job = user.job_in(&id, &["no_changes", "planned", "failed"], 5 * SOON).await?;
            ensure!(job.phase() != "failed", "{body}: {}", job.code());
            jobs.push(id);
        }
    }
    // what the API answers
    let user = world.control_plane.admin();
    for path in ["/stacks", "/jobs", "/runners", "/variable-sets", "/operations", "/whoami"] {
        said.push((path.to_owned(), user.get(path).await?.to_string()));
    }
    for id in &jobs {
        said.push((format!("job {id}"), user.get(&format!("/jobs/{id}")).await?.to_string()));
        let events = user.events(id).await?;
        said.push((format!("events of {id}"), json!(events).to_string()));
        let plan = user.client().get(&format!("/api/v1/jobs/{id}/plan")).await?;
        said.push((format!("plan of {id}"), plan.text()));
        said.push((format!("log of {id}"), format!("{:?}", world.ctl.run(&["job", "logs", id]).await?)));
    }
    for (name, path) in [("console", "/"), ("description", "/api/v1/openapi.json")] {
        said.push((name.to_owned(), user.client().get(path).await?.text()));
    }
    // something was there to be taken out
    let redacted: u64 =
        user.get("/jobs").await?["items"].as_array().into_iter().flatten().filter_map(|j| j["redacted"].as_u64()).sum();
    ensure!(redacted > 10 * all.len() as u64, "{redacted} of {}", all.len());
    // what the runner says of itself
    said.push(("the runner's log".to_owned(), world.runner.process().stderr().text()));
    let audit = world.runner.ask("audit", &["tail"])?.run(SOON).await?;
    said.push(("the audit log".to_owned(), format!("{audit:?}")));
    let mut found = Vec::new();
    for (what, text) in &said {
        search(&all, what, text.as_bytes(), &mut found);
    }
    // what the control plane keeps, byte for byte
    let data = world.control_plane.data();
    let mut bytes = 0;
    for path in every_file(&data)? {
        let content = std::fs::read(&path)?;
        bytes += content.len();
        search(&all, &path.display().to_string(), &content, &mut found);
    }
    ensure!(bytes > 100_000, "only {bytes} bytes in {}", data.display());
    ensure!(found.is_empty(), "{} traces, among them {:?}", found.len(), &found[..found.len().min(10)]);
    // a search that finds nothing has to be one that could
    let mut control = Vec::new();
    let shown = format!("x{}", STANDARD.encode(format!("xx{}y", all[0].value)));
    search(&all, "control", shown.as_bytes(), &mut control);
    ensure!(!control.is_empty(), "the search finds nothing");
    cannot_be_opened(&world, &data)?;
    Ok(())
}

/// What opens sealed values is nowhere in what the control plane has, in no form in which a key is written.
fn cannot_be_opened(world: &World, data: &Path) -> Result<()> {
    let text = std::fs::read_to_string(world.runner.state().join(SEAL_KEYS))?;
    let digits = text.trim();
    let key = shared_proto::hex::decode(digits);
    ensure!(key.len() == 32, "one key");
    let forms = [
        key.clone(),
        digits.as_bytes().to_vec(),
        digits.to_uppercase().into_bytes(),
        STANDARD.encode(&key).into_bytes(),
    ];
    for path in every_file(data)? {
        let content = std::fs::read(&path)?;
        for form in &forms {
            ensure!(!content.windows(form.len()).any(|part| part == form), "{} has the runner's key", path.display());
        }
    }
    Ok(())
}

fn search(all: &[Secret], what: &str, content: &[u8], found: &mut Vec<String>) {
    let text = String::from_utf8_lossy(content);
    for secret in all {
        for trace in secret.traces() {
            if text.contains(&trace) {
                found.push(format!("{} ({:?}) as {trace} in {what}", secret.name, secret.at));
            }
        }
    }
}

fn every_file(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let (path, kind) = {
            let entry = entry?;
            (entry.path(), entry.file_type()?)
        };
        if kind.is_dir() {
            all.extend(every_file(&path)?);
        } else if kind.is_file() {
            all.push(path);
        }
    }
    Ok(all)
}
