//! The usual set: a control plane, a cluster, an AWS stand-in, engines, and a runner that knows them all. One for a suite, since an
//! API server takes seconds to start; scenarios that cut or kill make their own control plane and runner beside its cluster.

use crate::cluster::LogSource;
use crate::control_plane::User;
use crate::runner::Setup;
use crate::{Cluster, ControlPlane, Engine, EngineKind, Moto, Runner, cluster};
use anyhow::Result;
use serde_json::json;
use tokio::sync::OnceCell;

/// Something that a suite starts once, at its first use. What it started ends with the test binary.
pub struct Shared<T>(OnceCell<Result<T, String>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Shared<T> {
    /// Not started yet.
    pub const fn new() -> Self {
        Self(OnceCell::const_new())
    }
    /// Starts it, or gives what was started.
    ///
    /// # Errors
    /// It does not start, or did not when it was tried: it is not tried again.
    pub async fn get<F: Future<Output = Result<T>>>(&self, start: impl FnOnce() -> F) -> Result<&T> {
        let started = self.0.get_or_init(|| async { start().await.map_err(|e| format!("{e:?}")) }).await;
        started.as_ref().map_err(|e| anyhow::anyhow!("what the suite shares did not start: {e}"))
    }
}

/// A control plane and a runner that reaches a cluster.
pub struct World {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The runner.
    pub runner: Runner,
}

/// A cluster with a pod `web-1` (containers `app` and `side`, each with lines of its own) in the namespace `seen`.
///
/// # Errors
/// A part does not start.
pub async fn usual_cluster() -> Result<Cluster> {
    usual_cluster_with(&[]).await
}
/// [`usual_cluster`], with pods more (the same containers) in the namespace `lines`: one for each test that writes lines while others read
/// theirs.
///
/// # Errors
/// A part does not start.
pub async fn usual_cluster_with(pods: &[&str]) -> Result<Cluster> {
    let containers = ["app", "side"];
    let mut all = vec![("seen", "web-1")];
    all.extend(pods.iter().map(|pod| ("lines", *pod)));
    let logs: Vec<_> = all.iter().map(|(namespace, pod)| LogSource::new(namespace, pod, &containers)).collect();
    let cluster = Cluster::with_logs(&logs).await?;
    if !pods.is_empty() {
        cluster.namespace("lines").await?;
    }
    for (namespace, pod) in all {
        let app = if namespace == "seen" { "web" } else { "lines" };
        cluster.pod(namespace, pod, &containers, &json!({ "app": app })).await?;
    }
    Ok(cluster)
}

impl World {
    /// A control plane and a runner with the entries `cluster` (an administrator's token) and `limited` (one who may look at
    /// pods in one namespace), and what `more` adds.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn beside(cluster: &Cluster, more: impl FnOnce(Setup) -> Setup) -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let runner = Self::runner(cluster, control_plane.admin(), "runner-1", more).await?;
        Ok(Self { control_plane, runner })
    }

    /// Another runner, default of its organization, with connections to the same cluster.
    ///
    /// # Errors
    /// It does not start.
    pub async fn runner(
        cluster: &Cluster,
        user: &User,
        name: &str,
        more: impl FnOnce(Setup) -> Setup,
    ) -> Result<Runner> {
        let setup = Setup::new()?
            .cold()
            .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), cluster::ADMIN))?
            .kubernetes("limited", &cluster.kubeconfig(cluster.address(), cluster::RESTRICTED))?;
        let runner = more(setup).start(user, name).await?;
        user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        user.connection("cluster", "kubernetes", None).await?;
        user.connection("limited", "kubernetes", None).await?;
        Ok(runner)
    }

    /// The administrator.
    pub fn user(&self) -> &User {
        self.control_plane.admin()
    }
}

/// The engines that are here.
pub fn engines() -> Vec<Engine> {
    [EngineKind::OpenTofu, EngineKind::Terraform].into_iter().filter_map(|k| Engine::new(k).ok()).collect()
}

/// A runner's AWS entry, and the connection to it.
///
/// # Errors
/// The API refuses.
pub async fn aws_connection(user: &User, name: &str) -> Result<()> {
    user.connection(name, "aws", None).await.map(|_| ())
}

/// Adds an AWS entry.
pub fn with_aws<'a>(moto: &'a Moto, name: &'a str) -> impl FnOnce(Setup) -> Setup + 'a {
    move |setup| setup.aws(name, moto)
}
