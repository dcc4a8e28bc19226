//! Sources of stacks through the whole product: what an entry of the runner's configuration is for is fetched with its credentials, once, and no
//! more of it than is needed; nobody else gets them, and nothing of them is told.

use anyhow::{Context as _, Result, ensure};
use runner_tests::ctl::Ctl;
use runner_tests::runner::{Setup, deploying};
use runner_tests::served::{Answer, Https, Sshd, git, git_with, repository};
use runner_tests::{Component, ControlPlane, Engine, Runner, Scratch, Suite, suite};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::process::ExitCode;

const MAIN: &str = "output \"version\" { value = \"one\" }\n";
const TOKEN: &str = "planted-token-of-the-tests";
/// Of a repository's history, whole: 2 GiB.
const HISTORY: u64 = 2 << 30;
const BLOB: usize = 4 << 20;

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Tofu, Component::Git])
        .test("a_private_repository_and_its_modules_by_a_token", by_token)
        .test("a_private_repository_by_a_deploy_key", by_key)
        .test("a_package_of_an_oci_registry", package)
        .test("a_long_history_is_not_fetched", history)
        .run()
}

struct World {
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
    _engine: Engine,
}

impl World {
    async fn new(more: impl FnOnce(Setup) -> Result<Setup>) -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let (engine, runner, ctl) = deploying(&control_plane, more).await?;
        Ok(Self { control_plane, runner, ctl, _engine: engine })
    }
    /// Deploys, and gives the job; its code is the expected one.
    async fn deploy(&self, stack: &str, source: &[&str], code: &str) -> Result<Value> {
        let mut words = vec!["deploy", "--name", stack, "--auto-approve"];
        words.extend(source);
        let ended = self.ctl.run(&words).await?;
        let list = self.ctl.json(&["job", "list", "--stack", stack]).await?;
        let id = list["items"][0]["id"].as_str().with_context(|| format!("a job: {ended:?}"))?;
        let job = self.ctl.json(&["job", "show", id]).await?;
        ensure!(job["result"]["code"] == code, "{ended:?}\n{job:#}");
        let events = self.control_plane.admin().events(id).await?;
        for secret in [TOKEN, "PRIVATE KEY"] {
            let said = format!("{ended:?}{job}{events:?}");
            ensure!(!said.contains(secret), "{secret} was told: {said}");
        }
        Ok(job)
    }
    /// Nothing of what entries hold is left where jobs are.
    fn keeps_no_secret(&self) -> Result<()> {
        let found = std::process::Command::new("grep").args(["-rlF", "--", TOKEN]).arg(self.runner.state()).output()?;
        ensure!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
        Ok(())
    }
}

/// An entry of `[sources]`, with the files that it names in the runner's folder.
fn entry(setup: Setup, name: &str, pattern: &str, files: &[(&str, &str)], more: &str) -> Result<Setup> {
    let mut lines = format!("match = {pattern:?}\n{more}\n");
    for (key, content) in files {
        let path = setup.folder().write(format!("{name}.{key}"), content)?;
        lines.push_str(&format!("{key} = {:?}\n", path.display().to_string()));
    }
    Ok(setup.table(&format!("sources.{name}"), &lines))
}

async fn by_token() -> Result<()> {
    let root = Scratch::new("git")?;
    let server = Https::git(root.path(), Some(("robot", TOKEN)))?;
    repository(&root.join("org/net"), &[("main.tf", "output \"net\" { value = \"of-the-module\" }\n")])?;
    let module = server.url("org/net");
    let main =
        format!("module \"net\" {{ source = \"git::{module}\" }}\noutput \"net\" {{ value = module.net.net }}\n");
    let commit = repository(&root.join("org/app"), &[("main.tf", &main)])?;
    repository(&root.join("other/app"), &[("main.tf", MAIN)])?;
    let world = World::new(|setup| {
        let files = [("token_file", TOKEN), ("ca_file", server.ca_pem())];
        let setup = entry(setup, "shop", &server.url("org/*"), &files, "kind = \"token\"\nuser = \"robot\"")?;
        let files = [("token_file", "planted-but-wrong"), ("ca_file", server.ca_pem())];
        entry(setup, "all", &server.url("*"), &files, "kind = \"token\"\nuser = \"robot\"")
    })
    .await?;
    let job = world.deploy("app", &["--git", &server.url("org/app"), "--ref", "main"], "ok").await?;
    ensure!(job["revision"] == commit.as_str() && job["outputs"]["net"]["value"] == "of-the-module", "{job:#}");
    ensure!(server.asked().iter().any(|asked| asked.path.contains("/net/")), "the module was fetched");
    // the commit is there now: its objects are not asked for again
    let wants = || {
        let wants = |asked: &runner_tests::served::Asked| asked.body.windows(5).any(|w| w == b"want ");
        server.asked().iter().filter(|asked| asked.path.contains("/app/") && wants(asked)).count()
    };
    ensure!(wants() > 0, "it was fetched");
    server.forget();
    let job = world.deploy("app-2", &["--git", &server.url("org/app"), "--ref", "main"], "ok").await?;
    ensure!(job["revision"] == commit.as_str() && wants() == 0, "{job:#}");
    // the narrowest entry is the one, whatever a wider one holds
    world.deploy("other", &["--git", &server.url("other/app")], "source_unavailable").await?;
    let events = world.ctl.text(&["stack", "show", "app"]).await?;
    ensure!(events.contains(&server.url("org/app")), "{events}");
    world.keeps_no_secret()
}

async fn by_key() -> Result<()> {
    let root = Scratch::new("git")?;
    let commit = repository(&root.join("org/app"), &[("main.tf", MAIN)])?;
    let server = Sshd::start()?;
    let (key, known) = (std::fs::read_to_string(server.key())?, server.known_hosts()?);
    let pattern = format!("{}/*", server.url(&root.join("org"))?);
    let world = World::new(|setup| {
        entry(setup, "deploy", &pattern, &[("key_file", &key), ("known_hosts_file", &known)], "kind = \"ssh\"")
    })
    .await?;
    let url = server.url(&root.join("org/app"))?;
    let job = world.deploy("app", &["--git", &url], "ok").await?;
    ensure!(job["revision"] == commit.as_str(), "{job:#}\n{}", server.log());
    Ok(())
}

async fn package() -> Result<()> {
    let packed = runner_tests::archive::module(MAIN)?;
    let digest = |bytes: &[u8]| format!("sha256:{}", shared_proto::hex::encode(Sha256::digest(bytes)));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&packed), "size": packed.len()}],
    })
    .to_string();
    let named = digest(manifest.as_bytes());
    let server = Https::start(move |asked| match asked.path.as_str() {
        "/v2/org/app/manifests/v1" => Answer::of("application/vnd.oci.image.manifest.v1+json", manifest.clone()),
        path if path.starts_with("/v2/org/app/blobs/") => Answer::of("application/octet-stream", packed.clone()),
        _ => Answer::status(404),
    })?;
    let pattern = format!("oci://{}/*", server.address());
    let world =
        World::new(|setup| entry(setup, "hub", &pattern, &[("ca_file", server.ca_pem())], "kind = \"none\"")).await?;
    let job = world.deploy("app", &["--from", &format!("oci://{}/org/app:v1", server.address())], "ok").await?;
    ensure!(job["revision"] == named.as_str(), "{job:#}");
    let shown = world.ctl.text(&["stack", "show", "app"]).await?;
    ensure!(shown.contains(&format!("oci://{}/org/app:v1", server.address())), "{shown}");
    world.deploy("none", &["--from", &format!("oci://{}/org/none:v1", server.address())], "source_unavailable").await?;
    Ok(())
}

/// A history of so many bytes that cannot be packed smaller, each commit in the place of the one before.
fn long_history(at: &Path, bytes: u64) -> Result<String> {
    repository(at, &[("main.tf", MAIN)])?;
    let count = bytes.div_ceil(BLOB as u64).max(2);
    for n in 0..count {
        let mut content = vec![0; BLOB];
        getrandom::fill(&mut content).map_err(|e| anyhow::anyhow!("{e}"))?;
        let mut stream =
            format!("commit refs/heads/main\ncommitter t <t@t> {} +0000\ndata 1\nx\n", 1_800_000_000 + n).into_bytes();
        stream.extend(format!("from refs/heads/main^0\nM 644 inline large-{}.bin\ndata {BLOB}\n", n % 2).into_bytes());
        stream.extend(content);
        stream.push(b'\n');
        git_with(at, &["fast-import", "--quiet", "--force"], &stream)?;
    }
    let stream = b"commit refs/heads/main\ncommitter t <t@t> 1900000000 +0000\ndata 1\nx\nfrom refs/heads/main^0\nD large-0.bin\nD large-1.bin\n";
    git_with(at, &["fast-import", "--quiet", "--force"], stream)?;
    git(at, &["rev-parse", "main"])
}

async fn history() -> Result<()> {
    let root = Scratch::new("git")?;
    let at = root.join("app");
    let wanted = HISTORY * suite::scale() / 100;
    let commit = long_history(&at, wanted)?;
    let held = git(&at, &["count-objects", "-v"])?;
    let kib: u64 = held
        .lines()
        .filter_map(|l| l.strip_prefix("size-pack: ").or_else(|| l.strip_prefix("size: ")))
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    ensure!(kib * 1024 >= wanted, "{held}");
    let server = Https::git(root.path(), None)?;
    let world =
        World::new(|setup| entry(setup, "app", &server.url("*"), &[("ca_file", server.ca_pem())], "kind = \"none\""))
            .await?;
    for (stack, reference) in [("by-branch", "main"), ("by-commit", &commit as &str)] {
        server.forget();
        let job = world.deploy(stack, &["--git", &server.url("app"), "--ref", reference], "ok").await?;
        ensure!(job["revision"] == commit.as_str(), "{job:#}");
        ensure!(server.sent() < 64 * 1024, "{stack}: {} bytes of {wanted} were sent", server.sent());
    }
    let said = std::process::Command::new("du").args(["-sk"]).arg(world.runner.state()).output()?;
    let kib: u64 = String::from_utf8_lossy(&said.stdout).split_whitespace().next().context("a number")?.parse()?;
    ensure!(kib * 1024 < wanted / 4, "the runner's state directory has {kib} KiB");
    Ok(())
}
