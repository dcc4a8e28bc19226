//! kubectl and helm through the runner, beside the same by the cluster's own address: what they print and how they end is equal.

mod audit;
mod helm;
mod people;
mod policy;
mod recordings;
mod streams;
mod table;

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;
use runner_tests::compare::{self, words};
use runner_tests::ctl::Ctl;
use runner_tests::process::{Ended, Program};
use runner_tests::world::{Shared, World, usual_cluster};
use runner_tests::{Cluster, Component, Scratch, Suite, cluster};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use table::{CHANGES, LOOKS, Step};

const SECONDS: Duration = Duration::from_secs(120);

/// What all scenarios share.
struct Usual {
    world: World,
    cluster: Cluster,
    ctl: Ctl,
    files: Scratch,
    sides: [Side; 2],
}

/// A way to the cluster.
struct Side {
    /// A namespace of its own; as long as the other's, so that columns stay where they are.
    namespace: &'static str,
    node: String,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

static USUAL: Shared<Usual> = Shared::new();

async fn usual() -> Result<&'static Usual> {
    USUAL
        .get(|| async {
            let mut cluster = usual_cluster().await?;
            cluster.controllers().await?;
            for container in ["app", "side"] {
                let file = cluster.log_file("seen", "web-1", container);
                for n in 0..5 {
                    // the API server's clock begins later
                    Cluster::append_log_at(&file, 1_767_225_600 + n, &format!("{container} says {n}"))?;
                }
            }
            let world =
                World::beside(&cluster, |setup| setup.policy(policy::SHOWN).expect("its folder is there")).await?;
            let ctl = Ctl::new(&world.control_plane, world.user())?;
            let files = files()?;
            let direct = files.write("direct.kubeconfig", cluster.kubeconfig(cluster.address(), cluster::ADMIN))?;
            let through = files.join("through.kubeconfig");
            ctl.text(&["kubeconfig", "cluster", "--file", &through.display().to_string(), "--use"]).await?;
            let mut sides = Vec::new();
            for (namespace, kubeconfig) in [("on-foot", direct), ("by-tram", through)] {
                let node = format!("node-{namespace}");
                cluster.namespace(namespace).await?;
                cluster.node(&node).await?;
                files.write(format!("{namespace}/pod.yaml"), pod("one", &node))?;
                files.write(format!("{namespace}/deployment.yaml"), deployment(&node))?;
                sides.push(Side { namespace, node, kubeconfig, cache: files.join(format!("{namespace}/cache")) });
            }
            let sides = sides.try_into().map_err(|_| anyhow::anyhow!("two sides"))?;
            Ok(Usual { world, cluster, ctl, files, sides })
        })
        .await
}

/// The files that the commands name, once for each side where they name its node.
fn files() -> Result<Scratch> {
    let files = Scratch::new("manifests")?;
    let config = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app\ndata:\n{data}");
    let server_side =
        |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: applied\ndata:\n  k: {value}\n");
    for side in ["on-foot", "by-tram"] {
        let write = |name: &str, text: &str| files.write(format!("{side}/{name}"), text);
        write("config.yaml", &config("  a: \"1\"\n  b: \"2\"\n"))?;
        write("config-changed.yaml", &config("  a: \"1\"\n  b: \"3\"\n"))?;
        write("server-side.yaml", &server_side("one"))?;
        write("server-side-changed.yaml", &server_side("two"))?;
        write("unknown-field.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: odd\nnosuch: field\n")?;
        write("malformed.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: Not_A_Name\nspec:\n  containers: []\n")?;
        write("kustomized/kustomization.yaml", "namePrefix: k-\nresources: [cm.yaml]\n")?;
        write("kustomized/cm.yaml", &server_side("kustomized"))?;
        // as large as an object gets
        write("big.txt", &"0123456789abcdef".repeat(50_000))?;
    }
    Ok(files)
}

fn pod(name: &str, node: &str) -> String {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [{ "name": "app", "image": "stand-in:1" }] },
    });
    object.to_string()
}

fn deployment(node: &str) -> String {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "nodeName": node, "tolerations": [{ "operator": "Exists" }], "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "app", "image": "stand-in:1" }] },
            },
        },
    });
    object.to_string()
}

// === impl Usual ===

impl Usual {
    /// A program of a side, with what a person has who sits there.
    fn program(&self, name: &str, side: &Side) -> Result<Program> {
        let home = self.ctl.home().display().to_string();
        let own = runner_tests::tools::binary("runnerctl")?;
        let own = own.parent().context("a folder")?.display().to_string();
        let path = format!("{own}:{}", std::env::var("PATH").unwrap_or_default());
        Ok(Program::component(name)?
            .folder(&self.files.join(side.namespace))
            .env("HOME", home)
            .env("PATH", path)
            .env("KUBECACHEDIR", side.cache.display().to_string())
            .env("KUBECONFIG", side.kubeconfig.display().to_string()))
    }

    async fn kubectl(&self, side: &Side, step: &Step) -> Result<Ended> {
        let text = step.words.replace("{ns}", side.namespace).replace("{node}", &side.node);
        let mut program = self.program("kubectl", side)?.args(words(&text));
        if let Some(input) = step.input {
            program = program.input(input);
        }
        if let Some((name, value)) = step.env {
            program = program.env(name, value);
        }
        program.run(SECONDS).await
    }

    /// What of a text is the side's own, or of the moment, by a word for it.
    fn same(&self, side: &Side, text: &str) -> Result<String> {
        let mut text = text.to_owned();
        for side in &self.sides {
            text = text.replace(side.namespace, "NAMESPACE");
        }
        let server = match side.namespace {
            "on-foot" => format!("https://{}", self.cluster.address()),
            _ => format!("https://{}/api/v1/connections/cluster/kubernetes", self.world.control_plane.api()),
        };
        text = text.replace(&server, "SERVER");
        for (pattern, by) in [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
            (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "TOKEN"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", "TIME"),
            (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4}", "TIME"),
            (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
            (r#"("?resourceVersion"?: ?)"?\d+"?"#, "${1}VERSION"),
            (r"\b10\.\d+\.\d+\.\d+\b", "ADDRESS"),
            (r"(?m)^[EWI]\d{4} [\d:.]+ +\d+", "LOGGED"),
            (r"web-[0-9a-f]{8,10}(-[0-9a-z]{5})?", "POD"),
            (r"pod-template-hash(=|: )[0-9a-z]+", "HASH"),
            (r"/tmp/(LIVE|MERGED)-\d+", "${1}"),
            (r"\b(\d+h)?(\d+m)?\d+s( ago)?\b", "AGE"),
            (r"\b\d+m\b", "AGE"),
            (r"\(x\d+ over AGE\)", ""),
            (r" +", " "),
        ] {
            text = Regex::new(pattern)?.replace_all(&text, by).into_owned();
        }
        Ok(text)
    }

    /// Each step on both sides; how often they differ, with what.
    async fn compare(&self, steps: &[Step]) -> Result<()> {
        let mut different = Vec::new();
        for step in steps {
            let mut said = Vec::new();
            for side in &self.sides {
                let ended = self.kubectl(side, step).await.with_context(|| step.words)?;
                let out = in_order(step, &self.same(side, &ended.stdout)?);
                let err = self.same(side, &ended.stderr)?;
                said.push((ended.code(), out, err));
            }
            let (foot, tram) = (&said[0], &said[1]);
            if foot.0 != step.code {
                bail!("kubectl {} by itself ended with {}: {}{}", step.words, foot.0, foot.1, foot.2);
            }
            if foot != tram {
                different.push(format!("kubectl {}\n{}", step.words, first_difference(foot, tram)));
            }
        }
        ensure!(different.is_empty(), "{} of {} differ:\n{}", different.len(), steps.len(), different.join("\n"));
        eprintln!("{} commands agree", steps.len());
        Ok(())
    }
}

/// What is printed as it comes, and so in whatever order: sorted; of how far something is: how it ended.
fn in_order(step: &Step, text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    if step.words.starts_with("rollout status") || step.words.starts_with("wait ") {
        return lines.last().map(|line| (*line).to_owned()).unwrap_or_default();
    }
    if step.words.starts_with("drain ") || step.words.contains("--all-containers") {
        lines.sort_unstable();
    }
    lines.join("\n")
}

fn first_difference(foot: &(i32, String, String), tram: &(i32, String, String)) -> String {
    let mut text = format!("  ended with {} and {}\n", foot.0, tram.0);
    for (name, a, b) in [("out", &foot.1, &tram.1), ("err", &foot.2, &tram.2)] {
        if let Some((a, b)) = compare::first_difference(a, b) {
            let cut = |line: &str| line.chars().take(400).collect::<String>();
            text.push_str(&format!("  {name}, direct:  {}\n  {name}, through: {}\n", cut(a), cut(b)));
        }
    }
    text
}

async fn what_changes_nothing() -> Result<()> {
    usual().await?.compare(LOOKS).await
}

async fn what_changes_something() -> Result<()> {
    let usual = usual().await?;
    usual.compare(CHANGES).await?;
    let copied = std::fs::read(usual.files.join("by-tram/back-by-tram"))?;
    ensure!(copied == std::fs::read(usual.files.join("by-tram/big.txt"))?, "what was copied is another");
    Ok(())
}

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(900)
        .needs(&[Component::Cluster, Component::Kubectl])
        .test("what_changes_nothing", what_changes_nothing)
        .test("what_changes_something", what_changes_something)
        .test("what_stays_open", streams::what_stays_open)
        .test("an_upgrade_by_either_protocol_carries_much_both_ways", streams::much_both_ways)
        .test("what_is_idle_lives", streams::what_is_idle_lives)
        .test("a_context_is_written_merged_and_removed_and_holds_no_secret", streams::contexts)
        .test("what_ends_before_the_cluster_says_so_to_kubectl", streams::failures)
        .test("secrets_are_masked", policy::secrets_are_masked)
        .test("a_policy_decides", policy::a_policy_decides)
        .test("lists_of_resources_go_by_the_same_rules", policy::lists_of_resources_go_by_the_same_rules)
        .test("a_time_window_ends_what_runs", policy::a_time_window_ends_what_runs)
        .test("tricks_do_not_pass", policy::tricks_do_not_pass)
        .test("everything_is_written_down", audit::everything_is_written_down)
        .test("terminals_are_recorded", recordings::terminals_are_recorded)
        .test("without_a_key_what_is_recorded_is_refused", recordings::without_a_key_what_is_recorded_is_refused)
        .test("a_recording_at_its_bound_ends_its_session", recordings::a_recording_at_its_bound_ends_its_session)
        .test("a_killed_runner_leaves_its_recording_told", recordings::a_killed_runner_leaves_its_recording_told)
        .test("the_key_changes_and_the_control_plane_is_told", audit::the_key_changes_and_the_control_plane_is_told)
        .test("the_two_records_are_compared", audit::the_two_records_are_compared)
        .test("the_cluster_knows_the_person", people::the_cluster_knows_the_person)
        .needs(&[Component::Cluster, Component::Kubectl, Component::Helm])
        .test("helm", helm::helm)
        .test("helm_where_secrets_are_masked", policy::helm_where_secrets_are_masked)
        .run()
}
