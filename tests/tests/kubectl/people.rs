//! A connection that acts as whoever asks: the cluster's own rules decide, and its own audit log names the person.

use super::{SECONDS, usual, words};
use anyhow::{Context as _, Result, ensure};
use runner_tests::control_plane::User;
use runner_tests::ctl::Ctl;
use runner_tests::process::{Ended, Program};
use runner_tests::world::World;
use runner_tests::{cluster, eventually};
use serde_json::json;
use std::path::PathBuf;

/// Somebody with a kubectl.
struct Person {
    ctl: Ctl,
    kubeconfig: PathBuf,
}

impl Person {
    async fn new(world: &World, user: &User) -> Result<Self> {
        let ctl = Ctl::new(&world.control_plane, user)?;
        let kubeconfig = ctl.home().join("kubeconfig");
        ctl.text(&["kubeconfig", "people", "--use", "--file", &kubeconfig.display().to_string()]).await?;
        Ok(Self { ctl, kubeconfig })
    }
    async fn kubectl(&self, text: &str) -> Result<Ended> {
        let own = runner_tests::tools::binary("runnerctl")?;
        let own = own.parent().context("a folder")?.display();
        Program::component("kubectl")?
            .args(words(text))
            .env("HOME", self.ctl.home().display().to_string())
            .env("PATH", format!("{own}:{}", std::env::var("PATH").unwrap_or_default()))
            .env("KUBECONFIG", self.kubeconfig.display().to_string())
            .run(SECONDS)
            .await
    }
}

pub(super) async fn the_cluster_knows_the_person() -> Result<()> {
    let usual = usual().await?;
    let kubeconfig = usual.cluster.kubeconfig(usual.cluster.address(), cluster::ADMIN);
    let world = World::beside(&usual.cluster, |setup| {
        let setup = setup.kubernetes("people-file", &kubeconfig).expect("its folder is there");
        let file = setup.folder().join("people-file.kubeconfig").display().to_string();
        let lines = format!(
            "provider = \"kubernetes\"\nkubeconfig = {file:?}\nimpersonate = true\nimpersonate_prefix = \"runner:\""
        );
        // with workers that are ready ahead of need: none may be somebody else's
        let setup = setup.env("RUNNERD_WORKERS_WARM", "16").env("RUNNERD_LOG_LEVEL", "debug");
        setup.table("connections.people", &lines)
    })
    .await?;
    world.user().connection("people", "kubernetes", None).await?;
    let organization = world.user().organization.clone();
    // one by her name, the other by his group
    let bind = |name: &str, namespace: &str, subject: serde_json::Value| {
        let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": name },
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }] });
        let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name }, "subjects": [subject] });
        let base = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        async move {
            usual.cluster.create(&format!("{base}/roles"), &role).await?;
            usual.cluster.create(&format!("{base}/rolebindings"), &binding).await
        }
    };
    let subject =
        |kind: &str, name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
    bind("ada-looks", "seen", subject("User", "runner:ada")).await?;
    bind("shop-looks", "default", subject("Group", "runner:shop")).await?;
    let ada = Person::new(&world, &world.control_plane.user_in(&organization, "ada", "member", &[]).await?).await?;
    let bob =
        Person::new(&world, &world.control_plane.user_in(&organization, "bob", "member", &["shop"]).await?).await?;
    let requests = [
        (&ada, "get pods -n seen", true),
        (&ada, "get pods -n default", false),
        (&bob, "get pods -n default", true),
        (&ada, "delete pod web-1 -n seen", false),
        (&bob, "get pods -n seen", false),
        (&ada, "get nodes", false),
    ];
    let before = world.runner.mark();
    for (person, text, allowed) in [requests; 3].into_iter().flatten() {
        let ended = person.kubectl(text).await?;
        let forbidden = ended.stderr.contains("Forbidden");
        ensure!((ended.code() == 0) == allowed && forbidden != allowed, "{text}: {}", ended.stderr);
        // the cluster's own sentence, with the name that it knows
        ensure!(allowed || ended.stderr.contains("User \"runner:"), "{text}: {}", ended.stderr);
    }
    world.runner.message(before, SECONDS, "its worker was ready").await?;
    let who = ada.kubectl("auth whoami").await?.success()?;
    ensure!(who.contains("runner:ada") && who.contains("system:authenticated"), "{who}");
    // nobody becomes somebody else, and the operations of runnerctl are made as the person too
    let other = ada.kubectl("get pods -n default --as=runner:bob").await?;
    ensure!(other.code() == 1 && other.stderr.contains("policy_denied"), "{}", other.stderr);
    let pods = ada.ctl.run(&["k8s", "--connection", "people", "pods", "-n", "default"]).await?;
    ensure!(pods.stderr.contains("target_forbidden") && pods.stderr.contains("runner:ada"), "{}", pods.stderr);
    // what the connection's own credentials need for that is told with what people need
    let told = ada.ctl.run(&["connection", "permissions", "people"]).await?;
    ensure!(told.stdout.contains("verbs: [\"impersonate\"]"), "{told:?}");
    eventually(SECONDS, "the API server's audit log to name them", || async {
        let log = usual.cluster.audit_log()?;
        let named = |user: &str, namespace: &str, code: u64| {
            log.iter().any(|event| {
                event["impersonatedUser"]["username"] == user
                    && event["objectRef"]["namespace"] == namespace
                    && event["responseStatus"]["code"] == code
            })
        };
        let all = named("runner:ada", "seen", 200)
            && named("runner:ada", "default", 403)
            && named("runner:bob", "default", 200);
        Ok(all.then_some(()))
    })
    .await?;
    // a job is nobody's request
    let reason = world.user().post("/connections/people/test", &json!({})).await?;
    ensure!(reason["identity"].as_str().is_some_and(|i| i.contains("runner:admin")), "{reason}");
    Ok(())
}
