//! What all scenarios share: one control plane, one runner with both engines, and what states are kept in.

use super::scenario::Words;
use anyhow::{Context as _, Result};
use runner_tests::control_plane::{User, aws_environment};
use runner_tests::process::Program;
use runner_tests::runner::Setup;
use runner_tests::world::{Shared, engines};
use runner_tests::{
    Cluster, Component, ControlPlane, Engine, EngineKind, Moto, Postgres, Runner, Scratch, Web, cluster,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(30);
const REGION: &str = "eu-central-1";
/// Jobs at once: as many as the tests' own threads may ask for.
const AT_ONCE: &str = "jobs_at_once = 8";

/// The state of another stack, for whoever reads its outputs.
const OTHER: &str = r#"{"version":4,"terraform_version":"1.11.4","serial":1,"lineage":"other","outputs":{"said":{"value":"by another","type":"string"}},"resources":[]}"#;

pub(super) struct World {
    control_plane: ControlPlane,
    pub(super) runner: Runner,
    engines: Vec<Engine>,
    web: Web,
    moto: Option<Moto>,
    postgres: Option<Postgres>,
    cluster: Option<Cluster>,
    folder: Scratch,
}

static WORLD: Shared<World> = Shared::new();

/// The one that there is.
pub(super) async fn world() -> Result<&'static World> {
    WORLD.get(World::new).await
}

async fn if_here<T>(component: Component, start: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    if component.missing().is_some() { Ok(None) } else { start.await.map(Some) }
}

impl World {
    async fn new() -> Result<Self> {
        let (control_plane, web, moto, postgres, cluster) = tokio::try_join!(
            ControlPlane::start(),
            Web::start(),
            if_here(Component::Moto, Moto::start()),
            if_here(Component::Postgres, Postgres::start()),
            if_here(Component::Cluster, Cluster::start()),
        )?;
        let folder = Scratch::new("beside")?;
        let engines = engines();
        repository(&web).await?;
        web.folder().write("other.tfstate", OTHER)?;
        let user = control_plane.admin();
        let mut setup = Setup::new()?.cold().setting(AT_ONCE).engines(&engines.iter().collect::<Vec<_>>());
        for (name, value) in aws_environment() {
            setup = setup.env(name, value);
        }
        // a job reaches of this machine's loopback what its connections are for, and nothing else
        let (of_moto, of_postgres) = (moto.as_ref().map(Moto::url), postgres.as_ref().map(Postgres::endpoint));
        for (name, url) in [("web", Some(web.url())), ("account", of_moto), ("database", of_postgres)] {
            let Some(url) = url else { continue };
            let lines =
                format!("provider = \"aws\"\nsource = \"environment\"\nregion = {REGION:?}\nendpoint_url = {url:?}");
            setup = setup.table(&format!("connections.{name}"), &lines);
            user.connection(name, "aws", None).await?;
        }
        if let Some(cluster) = &cluster {
            let kubeconfig = cluster.kubeconfig(cluster.address(), cluster::ADMIN);
            folder.write("kubeconfig", &kubeconfig)?;
            setup = setup.kubernetes("cluster", &kubeconfig)?;
            user.connection("cluster", "kubernetes", None).await?;
        }
        if let Some(moto) = &moto {
            moto.bucket("states", ("of", "tests")).await?;
        }
        let runner = setup.start(user, "runner-1").await?;
        user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        Ok(Self { control_plane, runner, engines, web, moto, postgres, cluster, folder })
    }

    pub(super) fn user(&self) -> &User {
        self.control_plane.admin()
    }
    pub(super) fn engine(&self, kind: EngineKind) -> Result<&Engine> {
        self.engines.iter().find(|engine| engine.kind() == kind).context("the engine")
    }
    /// What is known, for whoever has that key.
    pub(super) fn words(&self, key: String) -> Words {
        Words {
            key,
            web: self.web.url(),
            postgres: self.postgres.as_ref().map(Postgres::url).unwrap_or_default(),
            moto: self.moto.as_ref().map(Moto::url).unwrap_or_default(),
        }
    }
    /// What a person has in the environment who has a connection's credentials.
    pub(super) fn credentials(&self, connections: &[&str]) -> BTreeMap<&'static str, String> {
        let mut all = BTreeMap::new();
        if let Some(moto) = self.moto.as_ref().filter(|_| connections.contains(&"account")) {
            all.extend(aws_environment().into_iter().map(|(name, value)| (name, value.to_owned())));
            all.extend([("AWS_REGION", REGION.to_owned()), ("AWS_ENDPOINT_URL", moto.url())]);
        }
        if self.cluster.is_some() && connections.contains(&"cluster") {
            all.insert("KUBE_CONFIG_PATH", self.folder.join("kubeconfig").display().to_string());
        }
        all
    }
}

/// A module in a repository, as a web server has one that knows nothing of Git: `v1`, and `v2`, which says something else.
async fn repository(web: &Web) -> Result<()> {
    if Component::Git.missing().is_some() {
        return Ok(());
    }
    let work = Scratch::new("repository")?;
    let git = async |words: &[&str]| -> Result<()> {
        let user = ["-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "init.defaultBranch=main"];
        let program = Program::component("git")?.args(user).args(words.iter().copied()).folder(work.path());
        program.run(SECONDS).await?.success().map(drop)
    };
    git(&["init", "-q"]).await?;
    for version in ["v1", "v2"] {
        let text = format!(
            "variable \"name\" {{}}\nresource \"terraform_data\" \"this\" {{ input = \"${{var.name}} {version}\" }}\noutput \"said\" {{ value = terraform_data.this.output }}\n"
        );
        work.write("part/main.tf", text)?;
        git(&["add", "-A"]).await?;
        git(&["commit", "-q", "-m", version]).await?;
        git(&["tag", version]).await?;
    }
    let bare = web.folder().join("module.git").display().to_string();
    git(&["clone", "-q", "--bare", ".", &bare]).await?;
    git(&["--git-dir", &bare, "update-server-info"]).await
}
