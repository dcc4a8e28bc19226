//! Operations on a real API server with kwok; what they give is compared with plain calls, and with the table that the API server makes
//! for kubectl.

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use runner_tests::cluster::LogSource;
use runner_tests::{Cluster, Component, Cutter, Suite, Wire, cluster, world};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared_proto::documents::{ConnectionReport, NamespaceList, Pod, PodDescription, PodList};
use shared_proto::frame::Kind;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{
    ConnectionTest, K8sDescribePod, K8sExec, K8sListNamespaces, K8sListPods, K8sLogs, KubernetesTarget, Outcome,
};
use std::io::Write as _;

use crate::harness::{Given, Worker, operation, request};
use crate::server::{Asked, Server};

static CLUSTER: world::Shared<Cluster> = world::Shared::new();

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[Component::Cluster])
        .test("connection_test_says_who_we_are", connection_test)
        .test("namespaces_agree_with_a_plain_call", namespaces)
        .test("pods_agree_with_kubectls_own_table", pods)
        .test("selectors_choose_pods", selectors)
        .test("long_lists_come_in_pages_and_whole", pages)
        .test("describe_gives_the_object_and_its_events", describe)
        .test("refusals_keep_the_servers_words", refusals)
        .test("a_certificate_of_another_ca_is_refused", other_ca)
        .test("logs_agree_with_plain_calls", logs)
        .test("logs_of_all_containers_have_prefixes", all_containers)
        .test("a_followed_log_comes_as_it_grows_and_ends_with_the_caller", follow)
        .test("a_connection_that_is_cut_is_lost", cut)
        .test("a_long_log_takes_little_memory", long_log)
        .needs(&[])
        .test("a_list_that_grew_too_old_goes_on", old_list)
}

pub(crate) async fn the_cluster() -> Result<&'static Cluster> {
    CLUSTER.get(|| world::usual_cluster_with(&["of-all", "of-cut"])).await
}

pub(crate) fn kubernetes(cluster: &Cluster, token: &str) -> KubernetesTarget {
    KubernetesTarget {
        server: format!("https://{}", cluster.address()),
        certificate_authority_pem: cluster.ca().to_owned(),
        token: token.to_owned(),
        ..Default::default()
    }
}
pub(crate) fn admin(cluster: &Cluster) -> Target {
    Target::Kubernetes(kubernetes(cluster, cluster::ADMIN))
}
async fn list(cluster: &Cluster, request: K8sListPods) -> Result<Given> {
    operation(What::K8sListPods(request), admin(cluster)).await
}

async fn connection_test() -> Result<()> {
    let cluster = the_cluster().await?;
    for (token, who) in [(cluster::ADMIN, "admin"), (cluster::RESTRICTED, cluster::RESTRICTED_USER)] {
        let target = Target::Kubernetes(kubernetes(cluster, token));
        let report: ConnectionReport = operation(What::ConnectionTest(ConnectionTest {}), target).await?.document()?;
        ensure!(report.provider == "kubernetes" && report.identity == who, "{report:?}");
        ensure!(report.version.as_deref().is_some_and(|v| v.starts_with('v')), "{report:?}");
    }
    Ok(())
}

async fn namespaces() -> Result<()> {
    let cluster = the_cluster().await?;
    let list: NamespaceList =
        operation(What::K8sListNamespaces(K8sListNamespaces {}), admin(cluster)).await?.document()?;
    let plain = cluster.read("/api/v1/namespaces").await?;
    let seen = plain["items"].as_array().context("items")?;
    for item in seen {
        // other scenarios make namespaces meanwhile
        let Some(ours) = list.items.iter().find(|n| item["metadata"]["name"] == n.name) else { continue };
        ensure!(item["status"]["phase"] == ours.phase && item["metadata"]["labels"] == json!(ours.labels));
        ensure!(item["metadata"]["creationTimestamp"] == json!(ours.created_at));
    }
    ensure!(["default", "kube-system", "seen"].iter().all(|n| list.items.iter().any(|i| i.name == *n)));
    Ok(())
}

/// A pod that kwok leaves alone, in that status.
async fn still(cluster: &Cluster, namespace: &str, name: &str, spec: Value, status: &Value) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let object = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name,"labels":{"n":name}},"spec":spec});
    cluster.create(&path, &object).await?;
    if !status.is_null() {
        cluster.patch_status(&format!("{path}/{name}"), status).await?;
    }
    Ok(())
}

/// NAME, READY, STATUS and RESTARTS, as the API server prints them for kubectl.
async fn table(cluster: &Cluster, path: &str) -> Result<Vec<Vec<String>>> {
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let answer = cluster.client().request(hyper::Method::GET, path, &headers, bytes::Bytes::new()).await?.ok()?;
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let rows = answer["rows"].as_array().context("rows")?;
    Ok(rows.iter().map(|r| r["cells"].as_array().into_iter().flatten().take(4).map(text).collect()).collect())
}
fn row(pod: &Pod) -> Vec<String> {
    vec![pod.name.clone(), format!("{}/{}", pod.ready, pod.containers), pod.status.clone(), pod.restarts.to_string()]
}

async fn pods() -> Result<()> {
    let cluster = the_cluster().await?;
    cluster.namespace("states").await?;
    let container = |name: &str| json!({"name": name, "image": "i"});
    let a = json!({"containers": [container("a")]});
    let ab = json!({"containers": [container("a"), container("b")]});
    let init = json!({"containers": [container("a")], "initContainers": [container("i"), container("j")]});
    let side = json!({
        "containers": [container("a")],
        "initContainers": [{"name":"s","image":"i","restartPolicy":"Always"}, container("j")]
    });
    let of = |name: &str, state: Value, ready: bool, restarts: i32| json!({"name":name,"image":"i","imageID":"","state":state,"ready":ready,"restartCount":restarts,"started":ready});
    let running = json!({"running": {}});
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let cases = [
        ("pending", a.clone(), Value::Null),
        ("running", a.clone(), json!({"phase":"Running","containerStatuses":[of("a", running.clone(), true, 2)]})),
        (
            "crashing",
            a.clone(),
            json!({"phase":"Running","containerStatuses":[of("a", json!({"waiting":{"reason":"CrashLoopBackOff"}}), false, 7)]}),
        ),
        ("completed", a.clone(), json!({"phase":"Succeeded","containerStatuses":[of("a", done.clone(), false, 0)]})),
        (
            "error",
            a.clone(),
            json!({"phase":"Failed","containerStatuses":[of("a", json!({"terminated":{"exitCode":1,"reason":"Error"}}), false, 0)]}),
        ),
        (
            "code",
            a.clone(),
            json!({"phase":"Failed","containerStatuses":[of("a", json!({"terminated":{"exitCode":2}}), false, 0)]}),
        ),
        (
            "signal",
            a.clone(),
            json!({"phase":"Failed","containerStatuses":[of("a", json!({"terminated":{"exitCode":137,"signal":9}}), false, 0)]}),
        ),
        ("evicted", a.clone(), json!({"phase":"Failed","reason":"Evicted","message":"no room"})),
        (
            "half",
            ab,
            json!({"phase":"Running","containerStatuses":[of("a", done.clone(), false, 0), of("b", running.clone(), true, 1)]}),
        ),
        (
            "init-waits",
            init.clone(),
            json!({"phase":"Pending","initContainerStatuses":[of("i", done.clone(), false, 0), of("j", running.clone(), false, 3)]}),
        ),
        (
            "init-fails",
            init.clone(),
            json!({"phase":"Pending","initContainerStatuses":[of("i", json!({"terminated":{"exitCode":3}}), false, 4)]}),
        ),
        (
            "init-done",
            init,
            json!({"phase":"Pending","initContainerStatuses":[of("i", done.clone(), false, 1), of("j", done.clone(), false, 0)],"containerStatuses":[of("a", json!({"waiting":{"reason":"PodInitializing"}}), false, 0)]}),
        ),
        (
            "sidecar",
            side,
            json!({"phase":"Running","initContainerStatuses":[of("s", running.clone(), true, 5), of("j", done, false, 1)],"containerStatuses":[of("a", running, true, 1)]}),
        ),
    ];
    for (name, spec, status) in &cases {
        still(cluster, "states", name, spec.clone(), status).await?;
    }
    let given: PodList =
        list(cluster, K8sListPods { namespace: "states".into(), ..Default::default() }).await?.document()?;
    let ours: Vec<_> = given.items.iter().map(row).collect();
    let theirs = table(cluster, "/api/v1/namespaces/states/pods").await?;
    ensure!(ours == theirs && ours.len() == cases.len(), "{ours:#?}\n{theirs:#?}");

    // and one that kwok runs
    let given: PodList = list(
        cluster,
        K8sListPods { namespace: "seen".into(), field_selector: "metadata.name=web-1".into(), ..Default::default() },
    )
    .await?
    .document()?;
    let pod = given.items.first().context("web-1")?;
    let plain = cluster.read("/api/v1/namespaces/seen/pods/web-1").await?;
    ensure!(plain["metadata"]["uid"] == pod.uid && plain["status"]["podIP"] == json!(pod.ip), "{pod:?}");
    ensure!(plain["spec"]["nodeName"] == json!(pod.node) && pod.container_names == ["app", "side"], "{pod:?}");
    ensure!(table(cluster, "/api/v1/namespaces/seen/pods").await?.contains(&row(pod)), "{pod:?}");
    Ok(())
}

async fn selectors() -> Result<()> {
    let cluster = the_cluster().await?;
    cluster.namespace("chosen").await?;
    let spec = json!({"containers": [{"name": "a", "image": "i"}]});
    for name in ["one", "two"] {
        still(cluster, "chosen", name, spec.clone(), &Value::Null).await?;
    }
    let names = |list: PodList| list.items.into_iter().map(|p| p.name).collect::<Vec<_>>();
    let ask = |labels: &str, fields: &str| K8sListPods {
        namespace: "chosen".into(),
        label_selector: labels.into(),
        field_selector: fields.into(),
        ..Default::default()
    };
    ensure!(names(list(cluster, ask("n in (one),n!=x", "")).await?.document()?) == ["one"]);
    ensure!(names(list(cluster, ask("", "metadata.name=two")).await?.document()?) == ["two"]);
    ensure!(names(list(cluster, ask("n=none", "")).await?.document()?).is_empty());
    let all = K8sListPods { all_namespaces: true, label_selector: "n in (one,two)".into(), ..Default::default() };
    ensure!(names(list(cluster, all).await?.document()?) == ["one", "two"]);
    // the connection's own namespace, where none is named
    let target = KubernetesTarget { namespace: "chosen".into(), ..kubernetes(cluster, cluster::ADMIN) };
    let given = operation(What::K8sListPods(K8sListPods::default()), Target::Kubernetes(target)).await?;
    ensure!(names(given.document()?) == ["one", "two"]);
    let own = || {
        let target = KubernetesTarget { namespace: "seen".into(), ..kubernetes(cluster, cluster::ADMIN) };
        Target::Kubernetes(target)
    };
    let describe = |pod: &str| What::K8sDescribePod(K8sDescribePod { namespace: String::new(), pod: pod.into() });
    let given: PodDescription = operation(describe("web-1"), own()).await?.document()?;
    ensure!(given.summary.namespace == "seen", "{}", given.summary.namespace);
    operation(describe("one"), own()).await?.failed("target_not_found", "\"one\" not found in namespace seen")?;
    let logs = K8sLogs { pod: "one".into(), ..Default::default() };
    let given = operation(What::K8sLogs(logs), own()).await?;
    given.failed("target_not_found", "\"one\" not found in namespace seen")?;
    // what is wrong is the API server's to say
    list(cluster, ask("a in (", "")).await?.failed("target_refused", "unable to parse")?;
    list(cluster, ask("", "spec.nothing=1")).await?.failed("target_refused", "field label not supported")?;
    for bad in ["../../secrets", "a/b", "A", "x?y"] {
        let given = list(cluster, K8sListPods { namespace: bad.into(), ..Default::default() }).await?;
        given.failed("invalid_argument", "cannot be the name of a namespace")?;
    }
    Ok(())
}

async fn pages() -> Result<()> {
    let cluster = the_cluster().await?;
    cluster.namespace("many").await?;
    let spec = json!({"containers": [{"name": "a", "image": "i"}]});
    let null = Value::Null;
    futures_util::stream::iter(0..520)
        .map(Ok)
        .try_for_each_concurrent(16, |n| {
            let (spec, null) = (spec.clone(), &null);
            async move { still(cluster, "many", &format!("p{n:03}"), spec, null).await }
        })
        .await?;
    let given: PodList =
        list(cluster, K8sListPods { namespace: "many".into(), ..Default::default() }).await?.document()?;
    let expected: Vec<_> = (0..520).map(|n| format!("p{n:03}")).collect();
    ensure!(given.items.iter().map(|p| &p.name).eq(expected.iter()), "{} pods", given.items.len());
    Ok(())
}

async fn describe() -> Result<()> {
    let cluster = the_cluster().await?;
    cluster.namespace("described").await?;
    let spec = json!({"containers": [{"name": "a", "image": "i"}]});
    still(cluster, "described", "p", spec, &Value::Null).await?;
    let plain = cluster.read("/api/v1/namespaces/described/pods/p").await?;
    for (name, second, count) in [("late", 30, 3), ("early", 10, 1)] {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "described"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "described", "uid": plain["metadata"]["uid"]},
            "type": "Warning", "reason": name, "message": "m", "count": count, "source": {"component": "kubelet"},
            "lastTimestamp": format!("2026-01-01T00:00:{second}Z"),
        });
        cluster.create("/api/v1/namespaces/described/events", &event).await?;
    }
    let what = |namespace: &str, pod: &str| {
        What::K8sDescribePod(K8sDescribePod { namespace: namespace.into(), pod: pod.into() })
    };
    let given: PodDescription = operation(what("described", "p"), admin(cluster)).await?.document()?;
    let seen: Vec<_> = given.events.iter().map(|e| (e.reason.as_str(), e.count, e.source.as_str())).collect();
    ensure!(seen == [("early", 1, "kubelet"), ("late", 3, "kubelet")], "{seen:?}");
    ensure!(given.summary.status == "Pending" && given.object["metadata"].get("managedFields").is_none());
    ensure!(given.object["spec"] == plain["spec"] && given.object["metadata"]["uid"] == plain["metadata"]["uid"]);
    let gone = operation(what("described", "gone"), admin(cluster)).await?;
    gone.failed("target_not_found", "\"gone\" not found in namespace described")?;
    operation(what("described", ""), admin(cluster)).await?.failed("invalid_argument", "no pod is named")?;
    // whoever may not see events sees the pod all the same
    let limited = Target::Kubernetes(kubernetes(cluster, cluster::RESTRICTED));
    let given = operation(what("seen", "web-1"), limited).await?;
    let described: PodDescription = given.document()?;
    ensure!(
        described.summary.name == "web-1" && given.outcome.message.contains("without events"),
        "{:?}",
        given.outcome
    );
    Ok(())
}

async fn refusals() -> Result<()> {
    let cluster = the_cluster().await?;
    let limited = Target::Kubernetes(kubernetes(cluster, cluster::RESTRICTED));
    let given = operation(What::K8sListPods(K8sListPods::default()), limited.clone()).await?;
    given.failed("target_forbidden", "User \"restricted\" cannot list resource \"pods\"")?;
    ensure!((given.outcome.target_status, given.outcome.target_reason.as_str()) == (403, "Forbidden"));
    ensure!(given.data.is_empty());
    // a refused upgrade keeps its words too
    let exec = K8sExec {
        namespace: "seen".into(),
        pod: "web-1".into(),
        container: "app".into(),
        command: vec!["true".into()],
        ..Default::default()
    };
    operation(What::K8sExec(exec.clone()), limited).await?.failed("target_forbidden", "pods/exec")?;
    let gone = K8sExec { pod: "gone".into(), ..exec };
    let gone = operation(What::K8sExec(gone), admin(cluster)).await?;
    gone.failed("target_not_found", "\"gone\" not found in namespace seen")?;
    let stranger = Target::Kubernetes(kubernetes(cluster, "wrong"));
    let given = operation(What::K8sListNamespaces(K8sListNamespaces {}), stranger).await?;
    given.failed("credentials_expired", "Unauthorized")?;
    ensure!(given.outcome.target_status == 401);
    Ok(())
}

async fn other_ca() -> Result<()> {
    let cluster = the_cluster().await?;
    let key = runner_tests::pki::new_key()?;
    let other = rcgen::CertificateParams::new(vec!["127.0.0.1".into()])?.self_signed(&key)?.pem();
    let target = KubernetesTarget { certificate_authority_pem: other, ..kubernetes(cluster, cluster::ADMIN) };
    let what = || What::ConnectionTest(ConnectionTest {});
    let given = operation(what(), Target::Kubernetes(target.clone())).await?;
    given.failed("target_unreachable", &format!("{}: TLS: ", cluster.address()))?;
    ensure!(given.outcome.next_step.contains("certificate authority"), "{:?}", given.outcome);
    let other_name =
        KubernetesTarget { tls_server_name: "other.example".into(), ..kubernetes(cluster, cluster::ADMIN) };
    operation(what(), Target::Kubernetes(other_name)).await?.failed("target_unreachable", "other.example")?;
    let named =
        KubernetesTarget { tls_server_name: "kubernetes.default.svc".into(), ..kubernetes(cluster, cluster::ADMIN) };
    ensure!(operation(what(), Target::Kubernetes(named)).await?.outcome.code == "ok");
    let anyone =
        KubernetesTarget { insecure_skip_tls_verify: true, certificate_authority_pem: String::new(), ..target };
    ensure!(operation(what(), Target::Kubernetes(anyone)).await?.outcome.code == "ok");
    Ok(())
}

fn app_logs() -> K8sLogs {
    K8sLogs { namespace: "seen".into(), pod: "web-1".into(), container: "app".into(), ..Default::default() }
}
async fn log(cluster: &Cluster, request: K8sLogs) -> Result<Given> {
    operation(What::K8sLogs(request), admin(cluster)).await
}

async fn logs() -> Result<()> {
    let cluster = the_cluster().await?;
    let file = cluster.log_file("seen", "web-1", "app");
    for n in 0..100 {
        Cluster::append_log_at(&file, 1_700_000_000 + n, &format!("old {n}"))?;
    }
    for n in 0..10 {
        Cluster::append_log(&file, &format!("new {n}"))?;
    }
    for (request, query) in [
        (app_logs(), ""),
        (K8sLogs { tail_lines: Some(3), ..app_logs() }, "&tailLines=3"),
        (K8sLogs { since_seconds: Some(3600), ..app_logs() }, "&sinceSeconds=3600"),
        (K8sLogs { timestamps: true, tail_lines: Some(5), ..app_logs() }, "&timestamps=true&tailLines=5"),
        (K8sLogs { limit_bytes: Some(20), ..app_logs() }, "&limitBytes=20"),
        (K8sLogs { previous: true, ..app_logs() }, "&previous=true"),
    ] {
        let given = log(cluster, request).await?;
        ensure!(given.outcome.code == "ok", "{query}: {:?}", given.outcome);
        let plain = cluster.log("seen", "web-1", &format!("container=app{query}")).await?;
        ensure!(given.text() == plain && !plain.is_empty(), "{query}: {:?}\n{plain:?}", given.text());
    }
    let unnamed = K8sLogs { container: String::new(), ..app_logs() };
    log(cluster, unnamed.clone()).await?.failed("invalid_argument", "web-1, it has app, side")?;
    log(cluster, K8sLogs { container: "no".into(), ..app_logs() }).await?.failed("target_refused", "no")?;
    log(cluster, K8sLogs { pod: "gone".into(), ..unnamed }).await?.failed("target_not_found", "gone")?;
    log(cluster, K8sLogs { tail_lines: Some(-1), ..app_logs() }).await?.failed("target_refused", "tailLines")?;
    Ok(())
}

async fn all_containers() -> Result<()> {
    let cluster = the_cluster().await?;
    Cluster::append_log(&cluster.log_file("lines", "of-all", "side"), "from the side")?;
    let all = K8sLogs {
        namespace: "lines".into(),
        pod: "of-all".into(),
        container: String::new(),
        all_containers: true,
        tail_lines: Some(1),
        ..app_logs()
    };
    let given = log(cluster, all.clone()).await?;
    ensure!(given.outcome.code == "ok", "{:?}", given.outcome);
    let lines: Vec<_> = given.text().lines().map(str::to_owned).collect();
    ensure!(lines.last().is_some_and(|l| l == "[pod/of-all/side] from the side"), "{lines:?}");
    // followed, both come
    let mut worker =
        Worker::operation(&request(What::K8sLogs(K8sLogs { follow: true, ..all.clone() }), admin(cluster))).await?;
    worker.at_least("[pod/of-all/side] from the side\n".len()).await?;
    for container in ["app", "side"] {
        Cluster::append_log(&cluster.log_file("lines", "of-all", container), &format!("followed {container}"))?;
    }
    let mut text = String::new();
    while !["app", "side"].iter().all(|c| text.contains(&format!("[pod/of-all/{c}] followed {c}\n"))) {
        text.push_str(&String::from_utf8(worker.at_least(1).await?)?);
    }
    ensure!(worker.cancel().await? == Some(0));
    let both = K8sLogs { container: "app".into(), ..all };
    log(cluster, both).await?.failed("invalid_argument", "at once")
}

/// A pod with a log of its own is made at the cluster's start; this one shares its log with nobody who writes.
async fn follow() -> Result<()> {
    let cluster = the_cluster().await?;
    cluster.pod("default", "followed", &["c"], &json!({})).await?;
    let file = cluster.shared_log_file();
    Cluster::append_log(&file, "first")?;
    // its only container need not be named
    let logs = K8sLogs {
        namespace: "default".into(),
        pod: "followed".into(),
        follow: true,
        tail_lines: Some(1),
        ..Default::default()
    };
    let mut worker = Worker::operation(&request(What::K8sLogs(logs), admin(cluster))).await?;
    ensure!(worker.at_least(6).await? == b"first\n");
    for n in 0..20 {
        let line = format!("line {n}");
        Cluster::append_log(&file, &line)?;
        ensure!(worker.at_least(line.len() + 1).await? == format!("{line}\n").as_bytes(), "{line}");
    }
    ensure!(worker.cancel().await? == Some(0));
    Ok(())
}

async fn cut() -> Result<()> {
    let cluster = the_cluster().await?;
    let wire = Cutter::new(cluster.address()).await?;
    let target =
        KubernetesTarget { server: format!("https://{}", wire.address()), ..kubernetes(cluster, cluster::ADMIN) };
    Cluster::append_log(&cluster.log_file("lines", "of-cut", "side"), "before the cut")?;
    let logs = K8sLogs {
        namespace: "lines".into(),
        pod: "of-cut".into(),
        container: "side".into(),
        follow: true,
        tail_lines: Some(1),
        ..app_logs()
    };
    let mut worker = Worker::operation(&request(What::K8sLogs(logs), Target::Kubernetes(target.clone()))).await?;
    worker.at_least(1).await?;
    let command = vec!["sleep".into(), "60".into()];
    let exec = K8sExec {
        namespace: "lines".into(),
        pod: "of-cut".into(),
        container: "app".into(),
        command,
        stdin: true,
        ..Default::default()
    };
    let terminal = Worker::operation(&request(What::K8sExec(exec), Target::Kubernetes(target))).await?;
    runner_tests::eventually(std::time::Duration::from_secs(30), "both connections", || async {
        Ok((wire.connections() >= 2).then_some(()))
    })
    .await?;
    wire.set(Wire::Reset);
    worker.rest().await?.failed("target_lost", &wire.address().to_string())?;
    let given = terminal.rest().await?;
    ensure!(["target_lost", "target_unreachable"].contains(&given.outcome.code.as_str()), "{:?}", given.outcome);
    Ok(())
}

async fn long_log() -> Result<()> {
    let cluster = Cluster::with_logs(&[LogSource::new("default", "long", &["c"])]).await?;
    cluster.pod("default", "long", &["c"], &json!({})).await?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(cluster.log_file("default", "long", "c"))?);
    let (mut expected, mut bytes) = (Sha256::new(), 0_u64);
    let lines = 1000 * runner_tests::suite::scaled(400);
    for n in 0..lines {
        let text = format!("{n} {}\n", "x".repeat(240));
        expected.update(&text);
        bytes += text.len() as u64;
        write!(file, "2026-01-01T00:00:00.000000000Z stdout F {text}")?;
    }
    file.flush()?;
    let logs = K8sLogs { namespace: "default".into(), pod: "long".into(), container: "c".into(), ..Default::default() };
    let mut worker = Worker::operation(&request(What::K8sLogs(logs), admin(&cluster))).await?;
    // while it still runs, and has most behind it
    let (mut seen, mut count, mut looked) = (Sha256::new(), 0, false);
    let outcome = loop {
        match worker.frame().await?.context("an outcome")? {
            (Kind::Data, content) => {
                seen.update(&content);
                count += content.len() as u64;
                if !looked && count > bytes / 10 * 9 {
                    looked = true;
                    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid()))?;
                    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("VmHWM")?;
                    let peak: u64 = peak.trim().trim_end_matches(" kB").parse()?;
                    ensure!(peak < 48 * 1024, "{peak} KiB at its peak");
                }
            }
            (Kind::Outcome, content) => break <Outcome as prost::Message>::decode(content)?,
            other => anyhow::bail!("{other:?}"),
        }
    };
    ensure!(
        outcome.code == "ok" && count == bytes && seen.finalize() == expected.finalize(),
        "{count} of {bytes}: {outcome:?}"
    );
    Ok(())
}

async fn old_list() -> Result<()> {
    let server = Server::start(|asked: &Asked, _| {
        let list = |name: &str, next: &str| {
            let items = json!([{"metadata": {"name": name}}]);
            json!({"kind": "NamespaceList", "apiVersion": "v1", "metadata": {"continue": next}, "items": items}).to_string()
        };
        let token = asked.line.split("continue=").nth(1).and_then(|t| t.split(' ').next()).unwrap_or_default();
        match token {
            "" => (200, list("one", "a%/")),
            "a%25%2F" => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {"continue": "b"}, "status": "Failure",
                                    "reason": "Expired", "message": "too old", "code": 410});
                (410, status.to_string())
            }
            _ => (200, list("two", "")),
        }
    })
    .await?;
    let target = Target::Kubernetes(KubernetesTarget { server: server.url.clone(), ..Default::default() });
    let list: NamespaceList = operation(What::K8sListNamespaces(K8sListNamespaces {}), target).await?.document()?;
    ensure!(list.items.iter().map(|n| n.name.as_str()).eq(["one", "two"]), "{list:?}");
    Ok(())
}
