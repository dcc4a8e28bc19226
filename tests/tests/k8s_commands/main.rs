//! `runnerctl k8s` beside kubectl: what both print of the same is equal; and what kubectl has no word for.

mod changes;
mod looks;
mod screens;
mod ways;

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;
use runner_tests::cluster::{ADMIN, LogSource};
use runner_tests::compare::{first_difference, words};
use runner_tests::ctl::Ctl;
use runner_tests::process::{Ended, Program};
use runner_tests::world::{Shared, World};
use runner_tests::{Cluster, Component, Scratch, Suite};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(120);

/// What all scenarios share.
struct Usual {
    world: World,
    cluster: Cluster,
    ctl: Ctl,
    files: Scratch,
    kubeconfig: PathBuf,
}

static USUAL: Shared<Usual> = Shared::new();

async fn usual() -> Result<&'static Usual> {
    USUAL
        .get(|| async {
            let mut cluster = Cluster::with_logs(&[
                LogSource::new("seen", "web-1", &["app", "side"]),
                LogSource::new("many", "many-1", &["app", "side"]),
                LogSource::new("many", "many-2", &["app"]),
                LogSource::new("many", "many-3", &["app"]),
            ])
            .await?;
            cluster.controllers().await?;
            cluster.pod("seen", "web-1", &["app", "side"], &json!({ "app": "web" })).await?;
            cluster.pod("seen", "web-2", &["app"], &json!({ "app": "web", "tier": "back" })).await?;
            let shop = json!({ "metadata": { "name": "shop" }, "spec": { "selector": { "app": "web" }, "ports": [
                { "name": "http", "port": 80, "targetPort": 8080 }] } });
            cluster.create("/api/v1/namespaces/seen/services", &shop).await?;
            let settings = json!({ "metadata": { "name": "settings" }, "data": { "a": "1", "text": "two\nlines\n" } });
            cluster.create("/api/v1/namespaces/seen/configmaps", &settings).await?;
            let secret = json!({ "metadata": { "name": "hidden" }, "stringData": { "password": "hunter2-hunter2" } });
            cluster.create("/api/v1/namespaces/seen/secrets", &secret).await?;
            cluster.create("/apis/apps/v1/namespaces/seen/deployments", &deployment("rolling", 2)).await?;
            let world = World::beside(&cluster, |setup| setup).await?;
            let ctl = Ctl::new(&world.control_plane, world.user())?;
            let files = Scratch::new("commands")?;
            let kubeconfig = files.write("direct.kubeconfig", cluster.kubeconfig(cluster.address(), ADMIN))?;
            let usual = Usual { world, cluster, ctl, files, kubeconfig };
            usual.kubectl("rollout status deployment/rolling -n seen --timeout=60s").await?.success()?;
            Ok(usual)
        })
        .await
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "nodeName": "node-1", "tolerations": [{ "operator": "Exists" }], "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "app", "image": "stand-in:1" }] },
            },
        },
    })
}

// === impl Usual ===

impl Usual {
    /// `runnerctl k8s …` on the connection to the cluster.
    fn ours(&self, line: &str) -> Result<Program> {
        let mut all = vec!["k8s".to_owned(), "-C".to_owned(), "cluster".to_owned()];
        all.extend(words(line));
        self.ctl.program(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }
    async fn run(&self, line: &str) -> Result<Ended> {
        self.ours(line)?.run(SECONDS).await.with_context(|| line.to_owned())
    }
    /// The same, where it ends well.
    async fn text(&self, line: &str) -> Result<String> {
        self.run(line).await?.success().with_context(|| line.to_owned())
    }
    async fn kubectl(&self, line: &str) -> Result<Ended> {
        let program = Program::component("kubectl")?
            .env("KUBECONFIG", self.kubeconfig.display().to_string())
            .env("KUBECACHEDIR", self.files.join("cache").display().to_string())
            .folder(self.files.path());
        program.args(words(line)).run(SECONDS).await.with_context(|| line.to_owned())
    }
}

/// A text without what is of the moment.
fn same(text: &str) -> Result<String> {
    let mut text = text.to_owned();
    for (pattern, by) in [
        (r"\b(\d+d)?(\d+h)?(\d+m)?\d+s( ago)?\b", "AGE"),
        (r"\b(\d+h)?\d+m\b", "AGE"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"(AGE|TIME) +", "$1 "),
        (r"(?m) +$", ""),
    ] {
        text = Regex::new(pattern)?.replace_all(&text, by).into_owned();
    }
    Ok(text)
}

/// The first line in which two texts differ.
fn difference(ours: &str, theirs: &str) -> Option<String> {
    let (a, b) = first_difference(ours, theirs)?;
    Some(format!("  ours:   {a:?}\n  theirs: {b:?}"))
}

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(600)
        .needs(&[Component::Cluster, Component::Kubectl])
        .test("what_is_shown_is_what_kubectl_shows", looks::shown)
        .test("documents_are_the_api_servers_own", looks::documents)
        .test("what_fails_has_its_code_and_the_api_servers_words", looks::failures)
        .test("what_the_policy_denies_is_told", looks::policy)
        .test("what_people_see_at_80_columns", screens::screens)
        .test("ports_are_forwarded_and_come_back_whole", ways::port_forward)
        .test("what_the_tunnel_cuts_ends_with_its_code", ways::cut)
        .test("a_silent_way_is_found_to_be_lost", ways::silence)
        .test("a_pod_that_is_gone_ends_its_forwarding", ways::pod_gone)
        .test("files_are_copied_both_ways_and_nothing_gets_out", ways::copies)
        .test("logs_of_many_pods_come_once_over_cuts", ways::many_logs)
        .test("a_watch_goes_on_over_a_cut", ways::watches)
        .test("what_is_changed_is_as_kubectl_sees_it", changes::change)
        .test("a_shell_is_offered_names", changes::completion)
        .test("what_is_used_is_as_kubectl_tops_it", looks::top)
        .run()
}
