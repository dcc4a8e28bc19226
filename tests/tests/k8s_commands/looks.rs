//! What changes nothing: the same words to both, and what they print.

use super::*;
use runner_tests::eventually;

/// Tables and names, which are equal but for ages.
const SHOWN: &[&str] = &[
    "get pods -n seen",
    "get pods -n seen -o wide",
    "get pods -n seen -o name",
    "get pods -n seen --show-labels",
    "get pods -n seen --no-headers",
    "get po -n seen -l app=web",
    "get pods -n seen -l tier",
    "get pods -n seen -l app=none",
    "get pods -n seen --field-selector status.phase=Running",
    "get pods -n seen --field-selector metadata.name=web-1",
    "get pods -A",
    "get pods -A -o wide",
    "get pods",
    "get pod web-1 -n seen",
    "get pod web-1 web-2 -n seen",
    "get pod/web-1 service/shop -n seen",
    "get pods,services -n seen",
    "get pods,services,nosuchs.example.com -n seen",
    "get all -n seen",
    "get all -A",
    "get deployments -n seen",
    "get deploy -n seen -o wide",
    "get deployments.apps -n seen -o name",
    "get deployments.v1.apps rolling -n seen",
    "get replicasets -n seen",
    "get services -n seen -o wide",
    "get svc -A",
    "get configmaps -n seen",
    "get secrets -n seen",
    "get secret hidden -n seen -o name",
    "get nodes",
    "get nodes -o wide",
    "get no -o name",
    "get namespaces",
    "get ns seen",
    "get roles,rolebindings -n seen",
    "get role.rbac.authorization.k8s.io/look -n seen",
    "get clusterroles view edit",
    "get crd",
    "get apiservices",
    "get events -n seen --field-selector involvedObject.name=nothing-of-that-name",
    "get endpointslices -n seen -o name",
    "get storageclasses",
    "get leases -A -o name",
    "get pod web-1 -n seen --no-headers -o wide",
    "get replicasets,deployments -n seen -o wide",
    "events -n nowhere",
    "rollout status deployment/rolling -n seen",
    "logs web-1 -n seen -c app",
    "exec web-1 -n seen -c app -- echo out",
    "exec deployment/rolling -n seen -- echo out",
    "exec service/shop -n seen -c app -- echo out",
];

/// Documents, which are equal as values.
const DOCUMENTS: &[&str] = &[
    "get pods -n seen",
    "get pod web-1 -n seen",
    "get pod web-1 -n seen --show-managed-fields",
    "get pods,services -n seen",
    "get configmap settings -n seen",
    "get nodes",
    "get pods -n seen -l app=none",
    "get deployment rolling -n seen",
];

/// What fails, with our exit code.
const FAILURES: &[(&str, i32)] = &[
    ("get pod missing -n seen", 66),
    ("get pod web-1 missing -n seen", 66),
    ("get service/missing -n seen", 66),
    ("get namespace missing", 66),
    ("get pods -n seen -l 'a b'", 1),
    ("get pods -n seen --field-selector nosuch=x", 1),
];

pub(super) async fn shown() -> Result<()> {
    let usual = usual().await?;
    let mut different = Vec::new();
    for line in SHOWN {
        let (ours, theirs) = (usual.run(line).await?, usual.kubectl(line).await?);
        if theirs.code() != 0 {
            ensure!(ours.code() != 0, "{line} fails with kubectl and not with ours: {}", theirs.stderr);
            continue;
        }
        let found = difference(&same(&ours.stdout)?, &same(&theirs.stdout)?)
            .or_else(|| difference(&ours.stderr, &theirs.stderr));
        match (ours.code(), found) {
            (0, None) => {}
            (code, found) => different.push(format!("{line} ended with {code}\n{}", found.unwrap_or(ours.stderr))),
        }
    }
    ensure!(different.is_empty(), "{} of {} differ:\n{}", different.len(), SHOWN.len(), different.join("\n"));
    eprintln!("{} commands agree", SHOWN.len());
    Ok(())
}

pub(super) async fn documents() -> Result<()> {
    let usual = usual().await?;
    for line in DOCUMENTS {
        let line = format!("{line} -o json");
        let (ours, theirs) = (usual.text(&line).await?, usual.kubectl(&line).await?.success()?);
        let (ours, theirs): (Value, Value) = (serde_json::from_str(&ours)?, serde_json::from_str(&theirs)?);
        ensure!(
            ours == theirs,
            "{line}\n{}",
            difference(&format!("{ours:#}"), &format!("{theirs:#}")).unwrap_or_default()
        );
    }
    // what is written as YAML is read as the same
    for line in ["get configmap settings -n seen", "get pod web-1 -n seen", "get deployment rolling -n seen"] {
        let (yaml, json) =
            (usual.text(&format!("{line} -o yaml")).await?, usual.text(&format!("{line} -o json")).await?);
        let file = usual.files.write("document.yaml", &yaml)?;
        let read =
            usual.kubectl(&format!("label --local -f {} read=again -o json", file.display())).await?.success()?;
        let (mut read, json): (Value, Value) = (serde_json::from_str(&read)?, serde_json::from_str(&json)?);
        let labels = read["metadata"]["labels"].as_object_mut().context("labels")?;
        labels.remove("read");
        if labels.is_empty() {
            read["metadata"].as_object_mut().context("metadata")?.remove("labels");
        }
        ensure!(read == json, "{line}\n{}", difference(&format!("{read:#}"), &format!("{json:#}")).unwrap_or_default());
    }
    eprintln!("{} documents agree", DOCUMENTS.len());
    Ok(())
}

pub(super) async fn failures() -> Result<()> {
    let usual = usual().await?;
    for (line, code) in FAILURES {
        let (ours, theirs) = (usual.run(line).await?, usual.kubectl(line).await?);
        ensure!(theirs.code() == 1, "kubectl {line}: {theirs:?}");
        ensure!(ours.code() == *code, "{line} ended with {}: {}", ours.code(), ours.stderr);
        let said = ours.stderr.lines().next().and_then(|l| l.strip_prefix("error: ")).context("an error")?;
        let words = said.rsplit_once(" [").map_or(said, |(words, _)| words);
        ensure!(theirs.stderr.contains(words), "{line}: {words:?} is not in {:?}", theirs.stderr);
        ensure!(same(&ours.stdout)? == same(&theirs.stdout)?, "{line}: {}", ours.stdout);
    }
    for (line, code, said) in [
        ("get nosuchkind", 66, "target_not_found"),
        ("get pods -o name a/b -n seen", 64, "invalid_argument"),
        ("get pod web-1 -A", 64, "-n"),
        ("get pod web-1 -l a=b -n seen", 64, "either"),
        ("pods -o name", 64, "names"),
    ] {
        let ended = usual.run(line).await?;
        ensure!(
            ended.code() == code && ended.stderr.contains(said),
            "{line} ended with {}: {}",
            ended.code(),
            ended.stderr
        );
    }
    // what the target refuses is forbidden, and what fails before it has its own code
    let limited = usual.ctl.run(&["k8s", "-C", "limited", "get", "nodes"]).await?;
    ensure!(limited.code() == 77 && limited.stderr.contains("[target_forbidden]"), "{}", limited.stderr);
    let one = usual.ctl.run(&["k8s", "-C", "limited", "get", "pod", "web-1", "-n", "seen"]).await?;
    ensure!(one.code() == 0 && one.stdout.contains("web-1"), "{}{}", one.stdout, one.stderr);
    let by_runner = usual.run("--runner runner-1 get pod web-1 -n seen").await?;
    ensure!(by_runner.code() == 0 && by_runner.stdout.contains("web-1"), "{}", by_runner.stderr);
    let nobody = usual.run("--runner nobody get pod web-1 -n seen").await?;
    ensure!(nobody.code() != 0 && nobody.stderr.contains("nobody"), "{}", nobody.stderr);
    usual.world.user().connection("not-there", "kubernetes", None).await?;
    let unknown = usual.ctl.run(&["k8s", "-C", "not-there", "get", "pods"]).await?;
    ensure!(unknown.code() == 78 && unknown.stderr.contains("[unknown_connection]"), "{}", unknown.stderr);
    if usual.ctl.run(&["k8s", "-C", "nobody", "get", "pods"]).await?.code() != 66 {
        bail!("a connection that there is not");
    }
    Ok(())
}

/// Only reading in one namespace.
const POLICY: &str = r#"
version = 1
[kubernetes]
exec = false
[[kubernetes.rule]]
name = "discovery"
effect = "allow"
paths = ["/api", "/apis"]
[[kubernetes.rule]]
name = "one-namespace"
effect = "allow"
namespaces = ["seen"]
read_only = true
"#;

/// What the runner's policy denies is told as such, whichever way it goes.
pub(super) async fn policy() -> Result<()> {
    let usual = usual().await?;
    let world = World::beside(&usual.cluster, |setup| setup.policy(POLICY).expect("its folder is there")).await?;
    let ctl = Ctl::new(&world.control_plane, world.user())?;
    let run = async |line: &str| {
        let mut all = vec!["k8s".to_owned(), "-C".to_owned(), "cluster".to_owned()];
        all.extend(words(line));
        ctl.run(&all.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    for line in [
        "get pods -n seen",
        "get pods,services -n seen -o json",
        "describe deployment rolling -n seen",
        "logs deployment/rolling -n seen",
        "events -n seen",
        "rollout status deployment/rolling -n seen",
    ] {
        let ended = run(line).await?;
        ensure!(ended.code() == 0, "{line}: {} {}", ended.code(), ended.stderr);
    }
    for (line, code) in [
        ("get pods -n default", 77),
        ("get pods -A", 77),
        ("get pods", 77),
        ("get nodes", 77),
        ("port-forward web-1 80 -n seen", 77),
        ("cp web-1:x x -n seen -c app", 77),
        ("exec web-1 -n seen -c app -- true", 125),
        ("delete pod web-1 -n seen", 77),
        ("scale deployment/rolling --replicas 9 -n seen", 77),
        ("rollout restart deployment/rolling -n seen", 77),
    ] {
        let ended = run(line).await?;
        let is_denied = ended.code() == code && ended.stderr.contains("[policy_denied]") && ended.stdout.is_empty();
        ensure!(is_denied, "{line}: {} {}{}", ended.code(), ended.stdout, ended.stderr);
    }
    // values of Secrets are masked, and a mask is not written back
    let secret = usual.text("get secret hidden -n seen -o yaml").await?;
    ensure!(!secret.contains("aHVudGVyMi1odW50ZXIy") && secret.contains("password:"), "{secret}");
    std::fs::write(usual.ctl.home().join("masked.yaml"), secret)?;
    let written = usual.run("apply -f masked.yaml -n seen --force-conflicts").await?;
    ensure!(written.code() == 64 && written.stderr.contains("[masked_write]"), "{} {}", written.code(), written.stderr);
    Ok(())
}

/// Figures as metrics-server has them, which are kept here as any other object.
pub(super) async fn top() -> Result<()> {
    let usual = usual().await?;
    let before = usual.run("top pods -n seen").await?;
    ensure!(before.code() == 66 && before.stderr.contains("does not measure"), "{}", before.stderr);
    for (plural, kind, scope) in [("nodes", "NodeMetrics", "Cluster"), ("pods", "PodMetrics", "Namespaced")] {
        let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.metrics.k8s.io"), "annotations": { "api-approved.kubernetes.io": "unapproved, for a test" } },
            "spec": {
                "group": "metrics.k8s.io", "scope": scope, "names": { "plural": plural, "kind": kind },
                "versions": [{ "name": "v1beta1", "served": true, "storage": true, "schema": schema }],
            },
        });
        usual.cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
    }
    let usage = |cpu: &str, memory: &str| json!({ "cpu": cpu, "memory": memory });
    let object = |kind: &str, name: &str, more: Value| {
        let mut object = json!({ "apiVersion": "metrics.k8s.io/v1beta1", "kind": kind, "metadata": { "name": name },
            "timestamp": "2026-01-02T03:04:05Z", "window": "30s" });
        if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
            object.extend(more.clone());
        }
        object
    };
    let node = object("NodeMetrics", "node-1", json!({ "usage": usage("1250m", "512Mi") }));
    // a definition is served a moment after it was taken
    eventually(SECONDS, "the metrics", || async {
        usual.cluster.create("/apis/metrics.k8s.io/v1beta1/nodes", &node).await.map(Some)
    })
    .await?;
    let containers = json!({ "containers": [{ "name": "app", "usage": usage("1500000n", "2048Ki") }, { "name": "side", "usage": usage("2m", "1Mi") }] });
    for pod in ["web-1", "web-2"] {
        let pod = object("PodMetrics", pod, containers.clone());
        let at = "/apis/metrics.k8s.io/v1beta1/namespaces/seen/pods";
        eventually(SECONDS, "the metrics", || async { usual.cluster.create(at, &pod).await.map(Some) }).await?;
    }
    for line in [
        "top nodes",
        "top node node-1",
        "top pods -n seen",
        "top pods -A",
        "top pod web-1 -n seen",
        "top pods -n seen --containers",
    ] {
        let (ours, theirs) = (usual.text(line).await?, usual.kubectl(line).await?.success()?);
        ensure!(difference(&same(&ours)?, &same(&theirs)?).is_none(), "{line}\n{ours}\n{theirs}");
    }
    // the core's pods are still what is meant by the word
    ensure!(usual.text("get pods web-1 -n seen -o name").await? == "pod/web-1\n");
    Ok(())
}
