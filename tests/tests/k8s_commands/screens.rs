//! What people see on a terminal of 80 columns, kept as files. `UPDATE_DOCS=1` writes them anew.

use super::*;
use std::path::Path;

/// The same of what is not `k8s`: all the words.
const OTHERS: &[(&str, &str)] = &[
    ("help-resources", "resources -h"),
    ("help-resources-list", "resources list -h"),
    ("help-cloud-logs", "logs read -h"),
    ("help-connection", "connection -h"),
    ("resources-list", "resources list -C cluster --type deployments.apps,services --namespace seen"),
    ("resources-none", "resources search nothing-is-called-so -C cluster --type pods"),
    ("resources-no-type", "resources list -C cluster --type nosuchtype"),
    ("resources-types", "resources types --provider kubernetes"),
    ("resources-elsewhere", "resources get -C cluster --type pods web-1"),
    ("logs-elsewhere", "logs list -C cluster"),
    ("connection-whoami", "connection whoami cluster"),
    ("connection-test", "connection test cluster"),
];
/// File, and the words after `k8s`.
const SCREENS: &[(&str, &str)] = &[
    ("help", "-h"),
    ("help-get", "get -h"),
    ("help-logs", "logs -h"),
    ("help-port-forward", "port-forward -h"),
    ("help-cp", "cp -h"),
    ("help-apply", "apply -h"),
    ("get-pods", "get pods web-1 web-2 -n seen"),
    ("get-pods-wide", "get pods web-1 web-2 -n seen -o wide"),
    ("get-several", "get svc/shop cm/settings deployment/rolling -n seen"),
    ("get-nothing", "get pods -n seen -l app=none"),
    ("get-missing", "get pod missing -n seen"),
    ("get-no-kind", "get nosuchkind"),
    ("describe-deployment", "describe deployment rolling -n seen"),
    ("describe-configmap", "describe cm/settings -n seen"),
    ("describe-secret", "describe secret hidden -n seen"),
    ("events", "events -n seen --for pod/web-1"),
    ("top-nodes", "top nodes"),
    ("rollout-status", "rollout status deployment/rolling -n seen"),
    ("forbidden", "get nodes"),
];

pub(super) async fn screens() -> Result<()> {
    let usual = usual().await?;
    for (name, count, minutes) in [("first", 1, 90), ("second", 3, 5)] {
        let at = |minutes: i64| shared_proto::identity::rfc3339(shared_proto::now_ms() / 1000 - minutes * 60);
        let event = json!({
            "metadata": { "name": name }, "type": "Warning", "reason": "Tested", "count": count,
            "message": format!("the {name} message\u{1b}[2J"), "source": { "component": "tests" },
            "firstTimestamp": at(minutes * 2), "lastTimestamp": at(minutes),
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": "seen", "name": "web-1" },
        });
        usual.cluster.create("/api/v1/namespaces/seen/events", &event).await?;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/k8s_commands/screens");
    let mut different = Vec::new();
    let of_k8s = SCREENS.iter().map(|(name, line)| {
        let connection = if *name == "forbidden" { "limited" } else { "cluster" };
        let mut all = vec!["k8s".to_owned(), "-C".to_owned(), connection.to_owned()];
        all.extend(words(line));
        (name, format!("k8s {line}"), all)
    });
    let others = OTHERS.iter().map(|(name, line)| (name, (*line).to_owned(), words(line)));
    for (name, line, all) in of_k8s.chain(others) {
        let is_help = name.starts_with("help");
        let program = if is_help {
            // with nothing of the environment in it
            Program::own("runnerctl")?.args(all)
        } else {
            usual.ctl.program(&all.iter().map(String::as_str).collect::<Vec<_>>())?
        };
        let ended = program.env("COLUMNS", "80").run(SECONDS).await?;
        let shown = |text: &str| if is_help { Ok(text.to_owned()) } else { of_the_moment(text) };
        let text = format!(
            "$ runnerctl {line}\n{}{}(exit code {})\n",
            shown(&ended.stdout)?,
            shown(&ended.stderr)?,
            ended.code()
        );
        ensure!(!text.contains('\u{1b}'), "{name} shows an escape");
        if let Some(wide) = text.lines().skip(1).find(|l| is_help && l.chars().count() > 80) {
            different.push(format!("{name}: {wide:?} is wider than 80 columns"));
        }
        different.extend(runner_tests::screens::difference(&folder, name, &text)?);
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    // the same events as kubectl has
    let line = "events -n seen --for pod/web-1";
    let (ours, theirs) = (usual.text(line).await?, usual.kubectl(line).await?.success()?);
    ensure!(same(&ours)? == same(&theirs)?.replace('\u{1b}', "^["), "{ours}\n{theirs}");
    Ok(())
}

/// Without what is another one each time.
fn of_the_moment(text: &str) -> Result<String> {
    let mut text = same(text)?;
    for (pattern, by) in [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r"\b10\.\d+\.\d+\.\d+\b", "ADDRESS"),
        (r"rolling-[0-9a-f]{8,10}(-[0-9a-z]{5})?", "rolling-HASH"),
        (r"(ADDRESS) +", "$1 "),
        // as wide as the longest age of the moment
        (r"(?m)^(LAST SEEN|\d+h) +", "$1 "),
        (r"resourceVersion: .*", "resourceVersion: VERSION"),
        (r"the kubeconfig \S+", "the kubeconfig FILE"),
        (r"127\.0\.0\.1:\d+", "HOST:PORT"),
        (r"Scaled up replica set .*", "Scaled up replica set"),
    ] {
        text = Regex::new(pattern)?.replace_all(&text, by).into_owned();
    }
    Ok(text)
}
