//! Jobs that make what is in a Kubernetes cluster: a real API server, a real provider with the credentials of the stack's connection, and the
//! state in S3, whose lock is one there.

use anyhow::{Context as _, Result, bail, ensure};
use hyper::Method;
use runner_tests::control_plane::Job;
use runner_tests::runner::Setup;
use runner_tests::world::{Shared, engines};
use runner_tests::{
    Cluster, Component, ControlPlane, Engine, EngineKind, Moto, Runner, Scratch, Suite, archive, cluster, eventually,
};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(60);
const JOB: Duration = Duration::from_secs(240);
const BUCKET: &str = "states";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A control plane and a runner with engines, a cluster and an AWS stand-in.
struct Set {
    control_plane: ControlPlane,
    _runner: Runner,
    cluster: Cluster,
    moto: Moto,
    engines: Vec<Engine>,
}

static SET: Shared<Set> = Shared::new();

fn main() -> ExitCode {
    let of = |kind: EngineKind, what: &str| format!("{}::{what}", kind.name());
    let mut suite = Suite::new().limit(400);
    for (kind, engine) in [(EngineKind::OpenTofu, Component::Tofu), (EngineKind::Terraform, Component::Terraform)] {
        let needs = [engine, Component::Cluster, Component::Moto, Component::KubectlProvider];
        suite = suite
            .needs(&needs)
            .test(&of(kind, "what_is_made_changed_and_destroyed"), move || life(kind))
            .test(&of(kind, "what_the_cluster_forbids"), move || forbidden(kind))
            .test(&of(kind, "a_state_that_is_written_is_locked_for_everybody"), move || locked(kind))
            .test(&of(kind, "an_api_server_that_is_killed_in_the_middle"), move || killed(kind));
    }
    suite.run()
}

/// What a stack's configuration says: its state, and things in the cluster, each after the one before.
fn module(name: &str, things: &[Thing<'_>]) -> String {
    let mut text = format!(
        r#"terraform {{
  required_providers {{
    kubectl = {{
      source  = "gavinbunney/kubectl"
      version = "1.19.0"
    }}
    time = {{
      source  = "hashicorp/time"
      version = "0.14.2"
    }}
  }}
  backend "s3" {{
    bucket                      = "{BUCKET}"
    key                         = "{name}"
    use_path_style              = true
    use_lockfile                = true
    skip_credentials_validation = true
    skip_requesting_account_id  = true
  }}
}}
"#
    );
    let mut before = None;
    for thing in things {
        let address = match thing {
            Thing::Map(map, greeting) => {
                text.push_str(&format!(
                    r#"resource "kubectl_manifest" "{map}" {{
  yaml_body = <<-EOT
    apiVersion: v1
    kind: ConfigMap
    metadata: {{ name: {name}-{map}, namespace: default, labels: {{ by: jobs }} }}
    data: {{ greeting: {greeting} }}
  EOT
"#
                ));
                format!("kubectl_manifest.{map}")
            }
            Thing::Wait(seconds) => {
                text.push_str(&format!("resource \"time_sleep\" \"wait\" {{\n  create_duration = \"{seconds}s\"\n"));
                "time_sleep.wait".to_owned()
            }
        };
        let after = before.replace(address).map(|before| format!("  depends_on = [{before}]\n"));
        text.push_str(&format!("{}}}\n", after.unwrap_or_default()));
    }
    text
}

/// A part of it: a config map with a greeting, or so many seconds.
enum Thing<'a> {
    Map(&'a str, &'a str),
    Wait(u32),
}

async fn set() -> Result<&'static Set> {
    SET.get(Set::new).await
}

impl Set {
    async fn new() -> Result<Self> {
        let (control_plane, cluster, moto) = tokio::try_join!(ControlPlane::start(), Cluster::start(), Moto::start())?;
        moto.bucket(BUCKET, ("of", "tests")).await?;
        let (user, engines) = (control_plane.admin(), engines());
        let runner = Setup::new()?
            .cold()
            .setting("jobs_at_once = 4")
            .engines(&engines.iter().collect::<Vec<_>>())
            .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), cluster::ADMIN))?
            .kubernetes("limited", &cluster.kubeconfig(cluster.address(), cluster::RESTRICTED))?
            .aws("account", &moto)
            .start(user, "runner-1")
            .await?;
        user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        for (name, provider) in [("cluster", "kubernetes"), ("limited", "kubernetes"), ("account", "aws")] {
            user.connection(name, provider, None).await?;
        }
        Ok(Self { control_plane, _runner: runner, cluster, moto, engines })
    }

    async fn stack(&self, name: &str, kind: EngineKind, connection: &str, things: &[Thing<'_>]) -> Result<()> {
        let user = self.control_plane.admin();
        let source = user.upload(archive::module(&module(name, things))?).await?;
        let connections = [connection, "account"];
        let body = json!({ "name": name, "engine": kind.name(), "source": source, "connections": connections });
        user.post("/stacks", &body).await.map(drop)
    }
    /// Starts a job of another source than the stack's; its id.
    async fn start(&self, name: &str, kind: &str, things: &[Thing<'_>]) -> Result<String> {
        let user = self.control_plane.admin();
        let source = user.upload(archive::module(&module(name, things))?).await?;
        user.start_job(name, &json!({ "kind": kind, "approve_automatically": true, "source": source })).await
    }
    /// The same, to its end.
    async fn done(&self, name: &str, kind: &str, things: &[Thing<'_>], end: &str) -> Result<(String, Job)> {
        let id = self.start(name, kind, things).await?;
        let job = self.control_plane.admin().job_in(&id, &[end], JOB).await?;
        Ok((id, job))
    }

    /// An object of the bucket; `None`: there is none.
    async fn object(&self, key: &str) -> Result<Option<String>> {
        let answer = self.moto.call("s3", Method::GET, &format!("/{BUCKET}/{key}"), &[], "").await?;
        match answer.status.as_u16() {
            200 => Ok(Some(answer.text())),
            404 => Ok(None),
            status => bail!("{status}: {}", answer.text()),
        }
    }
    /// The names of what the stack's state tells of, and nobody holds it.
    async fn state(&self, name: &str) -> Result<Vec<String>> {
        ensure!(self.object(&format!("{name}.tflock")).await?.is_none(), "a lock is left");
        let state: Value = serde_json::from_str(&self.object(name).await?.context("a state")?)?;
        let resources = state["resources"].as_array().context("resources")?;
        Ok(resources.iter().filter_map(|r| Some(format!("{}.{}", r["type"].as_str()?, r["name"].as_str()?))).collect())
    }
    /// What a config map says; `None`: there is none.
    async fn greeting(&self, name: &str) -> Result<Option<String>> {
        let answer = self.cluster.client().get(&format!("{CONFIG_MAPS}/{name}")).await?;
        match answer.status.as_u16() {
            404 => Ok(None),
            _ => Ok(answer.ok()?["data"]["greeting"].as_str().map(str::to_owned)),
        }
    }
    async fn errors(&self, job: &str) -> Result<String> {
        let all = self.control_plane.admin().events_of(job, "diagnostic").await?;
        let errors = all.iter().filter(|d| d["severity"] == "error");
        Ok(errors.map(|d| format!("{} {}\n", d["summary"], d["detail"])).collect())
    }
    /// Waits until the job waits as its source says.
    async fn waits(&self, job: &str) -> Result<()> {
        eventually(JOB, "the wait to begin", || async {
            let progress = self.control_plane.admin().events_of(job, "resource_progress").await?;
            let begun = |p: &Value| p["address"] == "time_sleep.wait" && p["state"] == "started";
            Ok(progress.iter().any(begun).then_some(()))
        })
        .await
    }
}

async fn life(kind: EngineKind) -> Result<()> {
    let set = set().await?;
    let name = format!("life-{}", kind.name());
    let map = format!("{name}-one");
    let things = [Thing::Map("one", "hello"), Thing::Map("two", "there")];
    set.stack(&name, kind, "cluster", &things).await?;
    set.done(&name, "preview", &things, "planned").await?;
    ensure!(set.greeting(&map).await?.is_none(), "a preview has made it");
    let (id, _) = set.done(&name, "update", &things, "applied").await?;
    ensure!(set.greeting(&map).await?.as_deref() == Some("hello"));
    ensure!(set.state(&name).await? == ["kubectl_manifest.one", "kubectl_manifest.two"]);
    let user = set.control_plane.admin();
    let told = serde_json::to_string(&user.events(&id).await?)?;
    ensure!(!told.contains(cluster::ADMIN) && !told.contains("secret-of-the-tests"), "a credential in an event");
    set.done(&name, "update", &things, "no_changes").await?;

    // one is changed by the job, and one by somebody else, who is overruled
    let body = json!({ "data": { "greeting": "by hand" } });
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("{CONFIG_MAPS}/{name}-two");
    set.cluster.client().request(Method::PATCH, &path, &headers, body.to_string()).await?.ok()?;
    let changed = [Thing::Map("one", "bye"), Thing::Map("two", "there")];
    let (_, job) = set.done(&name, "update", &changed, "applied").await?;
    ensure!(job.0["plan"]["change"] == 2 && job.0["plan"]["add"] == 0, "{}", job.0["plan"]);
    for (map, expected) in [("one", "bye"), ("two", "there")] {
        ensure!(set.greeting(&format!("{name}-{map}")).await?.as_deref() == Some(expected), "{map}");
    }
    set.done(&name, "destroy", &changed, "applied").await?;
    ensure!(set.greeting(&map).await?.is_none() && set.state(&name).await?.is_empty());
    Ok(())
}

async fn forbidden(kind: EngineKind) -> Result<()> {
    let set = set().await?;
    let name = format!("forbidden-{}", kind.name());
    let things = [Thing::Wait(0), Thing::Map("one", "hello")];
    set.stack(&name, kind, "limited", &things).await?;
    let (id, job) = set.done(&name, "update", &things, "failed").await?;
    ensure!(job.code() == "engine_failed" && job.0["result"]["engine_exit_code"] == 1, "{}", job.0);
    let said = set.errors(&id).await?;
    let user = format!("User \\\"{}\\\" cannot", cluster::RESTRICTED_USER);
    ensure!(said.contains("forbidden") && said.contains(&user.replace('\\', "")) | said.contains(&user), "{said}");
    // what was made before it is known, what was forbidden is not there
    ensure!(set.state(&name).await? == ["time_sleep.wait"], "{:?}", set.state(&name).await?);
    ensure!(set.greeting(&format!("{name}-one")).await?.is_none());
    Ok(())
}

async fn locked(kind: EngineKind) -> Result<()> {
    let set = set().await?;
    let name = format!("locked-{}", kind.name());
    let things = [Thing::Map("one", "hello"), Thing::Wait(600)];
    set.stack(&name, kind, "cluster", &things).await?;
    let id = set.start(&name, "update", &things).await?;
    set.waits(&id).await?;
    let lock: Value = serde_json::from_str(&set.object(&format!("{name}.tflock")).await?.context("a lock")?)?;
    // somebody else, by hand
    let engine = set.engines.iter().find(|engine| engine.kind() == kind).context("the engine")?;
    let folder = Scratch::new("by-hand")?;
    folder.write("main.tf", module(&name, &things))?;
    let by_hand = async |arguments: &[&str]| {
        let program = engine.program(folder.path(), arguments);
        let program = runner_tests::control_plane::aws_environment().into_iter().fold(program, |p, (n, v)| p.env(n, v));
        program.env("AWS_REGION", "eu-central-1").env("AWS_ENDPOINT_URL", set.moto.url()).run(SECONDS).await
    };
    by_hand(&["init", "-input=false", "-no-color"]).await?.success()?;
    let refused = by_hand(&["plan", "-input=false", "-no-color", "-refresh=false"]).await?;
    let holder = lock["ID"].as_str().context("an id")?;
    ensure!(refused.code() == 1 && refused.stderr.contains("state lock"), "{refused:?}");
    ensure!(refused.stderr.contains(holder), "{holder}: {refused:?}");
    // cancelled, it writes what there is and lets go of it
    let user = set.control_plane.admin();
    user.post(&format!("/jobs/{id}/cancel"), &json!({})).await?;
    user.job_in(&id, &["canceled"], JOB).await?;
    ensure!(set.state(&name).await?.contains(&"kubectl_manifest.one".to_owned()));
    set.done(&name, "update", &things[..1], "no_changes").await?;
    Ok(())
}

async fn killed(kind: EngineKind) -> Result<()> {
    // nobody else's cluster
    let mut set = Set::new().await?;
    let name = format!("killed-{}", kind.name());
    let things = |seconds| [Thing::Map("one", "hello"), Thing::Wait(seconds), Thing::Map("two", "there")];
    set.stack(&name, kind, "cluster", &things(0)).await?;
    // long enough for it to be dead by then
    let id = set.start(&name, "update", &things(20)).await?;
    set.waits(&id).await?;
    set.cluster.kill_api_server();
    let job = set.control_plane.admin().job_in(&id, &["failed"], JOB).await?;
    ensure!(job.code() == "engine_failed" && job.0["result"]["engine_exit_code"] == 1, "{}", job.0);
    let said = set.errors(&id).await?;
    ensure!(said.contains("connection refused"), "{said}");
    let known = set.state(&name).await?;
    ensure!(known == ["kubectl_manifest.one", "time_sleep.wait"], "{known:?}");
    set.cluster.start_api_server_again().await?;
    let (_, job) = set.done(&name, "update", &things(20), "applied").await?;
    ensure!(job.0["plan"]["add"] == 1 && job.0["plan"]["change"] == 0, "{}", job.0["plan"]);
    for (map, expected) in [("one", "hello"), ("two", "there")] {
        ensure!(set.greeting(&format!("{name}-{map}")).await?.as_deref() == Some(expected), "{map}");
    }
    Ok(())
}
