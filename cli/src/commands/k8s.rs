//! `k8s`: namespaces, pods, describe, logs; `exec` has a file of its own.

use super::log_lines::Lines;
use super::{Session, connection, exec, outcome};
use crate::args::seconds;
use crate::client::job_events::{self, BACKOFF, PATIENCE};
use crate::client::path;
use crate::output::{Format, escape::Filter, streams, table};
use crate::stop::{self, Done, Stop};
use http_body_util::BodyExt as _;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use std::time::Instant;
use tokio::io::AsyncWriteExt as _;

/// `k8s`
#[derive(Debug, clap::Args)]
pub(crate) struct K8s {
    /// The connection to the cluster; may be left out where there is one only
    #[arg(short = 'C', long, global = true, env = "RUNNERCTL_CONNECTION", value_name = "NAME")]
    connection: Option<String>,
    #[command(subcommand)]
    command: K8sCommand,
}

/// `k8s …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum K8sCommand {
    /// The cluster's namespaces
    #[command(visible_alias = "ns")]
    Namespaces,
    /// Pods
    Pods {
        /// In this namespace; the connection's own by default
        #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
        namespace: Option<String>,
        /// In all namespaces
        #[arg(short = 'A', long, conflicts_with = "namespace")]
        all_namespaces: bool,
        /// Only with these labels, such as app=web
        #[arg(short = 'l', long = "selector", value_name = "SELECTOR")]
        labels: Option<String>,
        /// Only with these fields, such as status.phase=Running
        #[arg(long = "field-selector", value_name = "SELECTOR")]
        fields: Option<String>,
    },
    /// A pod in detail, with its events
    Describe(Describe),
    /// A pod's log
    Logs(Logs),
    /// Run a command in a container
    Exec(exec::Exec),
}

/// `k8s describe`
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Describe {
    /// What it is; only pods are described
    #[arg(value_parser = PODS)]
    kind: Option<String>,
    #[command(flatten)]
    pod: PodName,
}

/// What the API calls the connection's own namespace.
const OWN_NAMESPACE: &str = "-";

/// How kubectl's users say that they mean a pod.
const PODS: [&str; 3] = ["pod", "pods", "po"];

/// Which pod.
#[derive(Debug, clap::Args)]
pub(crate) struct PodName {
    /// The pod, also as pod/NAME
    #[arg(value_parser = pod_name)]
    pub(crate) pod: String,
    /// Its namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// `k8s logs`
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pod: PodName,
    /// The container; may be left out where there is one only
    #[arg(short, long)]
    container: Option<String>,
    /// Of all containers, each line with its container's name
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Go on with what is logged from now on
    #[arg(short, long)]
    follow: bool,
    /// Of the container's previous run
    #[arg(short, long)]
    previous: bool,
    /// Not older than this: 30s, 5m, 1h
    #[arg(long, value_parser = seconds, allow_hyphen_values = true, value_name = "DURATION")]
    since: Option<u64>,
    /// Not older than that moment, in RFC 3339: 2026-01-02T15:04:05Z
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    since_time: Option<String>,
    /// Only the last lines; -1 for all
    #[arg(long, value_parser = lines, allow_negative_numbers = true, value_name = "LINES")]
    tail: Option<Tail>,
    /// At most so many bytes
    #[arg(long, allow_negative_numbers = true, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
    /// End where the connection is lost (connection_lost) instead of going on after the last line once it is back
    #[arg(long, requires = "follow")]
    no_resume: bool,
}

/// How much of a log's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// As kubectl has it: -1.
    All,
    /// So many lines.
    Lines(u32),
}

/// `k8s …`
pub(crate) async fn run(command: K8s, session: impl FnOnce() -> Done<Session>) -> Done {
    let named = command.connection.as_deref();
    if let K8sCommand::Exec(command) = command.command {
        // also a failure to get this far is one of ours, and not the remote command's
        let session = session().map_err(Stop::of_exec)?;
        return exec::run(command, named, &session).await;
    }
    let session = &session()?;
    let chosen = async || connection::choose(session, named, "kubernetes").await;
    match command.command {
        K8sCommand::Namespaces => {
            let work = async {
                let at = path(&["connections", &chosen().await?, "k8s", "namespaces"], &session.query([]));
                session.client.get(&at).await
            };
            let list = session.wait("listing namespaces", work).await?;
            session.output.document(&list, |list| {
                let rows = table::items(list).iter().map(|n| {
                    vec![table::text(n, "/name"), table::text(n, "/phase"), table::age_since(n["created_at"].as_str())]
                });
                table::rows(&["NAME", "STATUS", "AGE"], rows, "No namespaces.")
            })
        }
        K8sCommand::Pods { namespace, all_namespaces, labels, fields } => {
            let query = session.query([
                ("namespace", namespace.as_deref()),
                ("all_namespaces", all_namespaces.then_some("true")),
                ("labels", labels.as_deref()),
                ("fields", fields.as_deref()),
            ]);
            let work =
                async { session.client.get(&path(&["connections", &chosen().await?, "k8s", "pods"], &query)).await };
            let list = session.wait("listing pods", work).await?;
            let wide = session.output.format == Format::Wide;
            session.output.document(&list, |list| pods(list, all_namespaces, wide))
        }
        K8sCommand::Describe(Describe { pod, .. }) => {
            let work = async {
                let at = pod.path(&chosen().await?, None, &session.query([]));
                session.client.get(&at).await
            };
            let one = session.wait("asking", work).await?;
            session.output.document(&one, describe)
        }
        K8sCommand::Logs(command) => {
            let note = "the log is no longer followed; nothing goes on";
            session.interrupt.guard(note, async { logs(&command, &chosen().await?, session).await }).await
        }
        K8sCommand::Exec(_) => Ok(()),
    }
}

// === impl PodName ===

impl PodName {
    /// The pod's path, or that of something under it.
    pub(crate) fn path(&self, connection: &str, under: Option<&str>, query: &[(&str, &str)]) -> String {
        let namespace = self.namespace.as_deref().unwrap_or(OWN_NAMESPACE);
        let mut segments = vec!["connections", connection, "k8s", "namespaces", namespace, "pods", &self.pod];
        segments.extend(under);
        path(&segments, query)
    }
}

/// A pod's name, with or without the kind before it.
fn pod_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        None => Ok(text.to_owned()),
        Some((kind, name)) if PODS.contains(&kind) && !name.is_empty() => Ok(name.to_owned()),
        Some(_) => Err("it is neither a pod's name nor pod/NAME".to_owned()),
    }
}

/// A number of lines, -1 for all of them.
fn lines(text: &str) -> Result<Tail, String> {
    match text {
        "-1" => Ok(Tail::All),
        _ => text.parse().map(Tail::Lines).map_err(|_| "it is neither a number of lines nor -1 for all".to_owned()),
    }
}

/// What passes: the same may work in a while, also where it is the runner that is away.
fn is_passing(failure: &Failure) -> bool {
    job_events::is_passing(failure) || matches!(failure.code, Code::RunnerUnavailable | Code::RunnerLeaving)
}

/// A log, and once more from where it was cut as long as it is followed.
async fn logs(command: &Logs, connection: &str, session: &Session) -> Done {
    // so many bytes of it would have to be counted over all connections
    let resumes = command.follow && !command.no_resume && command.limit_bytes.is_none();
    let mut log = Log {
        stdout: streams::stdout()?,
        filter: session.output.terminal.then(|| Filter::new(session.output.colour)),
        lines: resumes.then(|| Lines::new(command.all_containers, command.timestamps)),
        opened: 0,
    };
    let start = Instant::now();
    let mut from = From::Asked;
    let (mut backoff, mut cut_since) = (BACKOFF.0, None);
    loop {
        let opened = log.opened;
        let ended = read(command, connection, session, &from, &mut log).await;
        let failure = match &ended {
            Err(stop) => stop.failure().filter(|failure| is_passing(failure)),
            Ok(()) => None,
        };
        let (Some(failure), Some(lines), 1..) = (failure, &mut log.lines, log.opened) else { return ended };
        if log.opened > opened {
            (backoff, cut_since) = (BACKOFF.0, None);
            crate::output::remark(&format!("{}: the log goes on after its last line", failure.message));
        }
        if cut_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return ended;
        }
        from = match lines.resume() {
            Some(time) => From::Time(time),
            // nothing came yet of what is new since then
            None if command.tail == Some(Tail::Lines(0)) => From::Since(start.elapsed().as_secs() + 1),
            None => From::Asked,
        };
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Where a log begins.
enum From {
    /// Where the user says.
    Asked,
    /// So many seconds ago.
    Since(u64),
    /// At that time.
    Time(String),
}

/// Where a log goes.
struct Log {
    stdout: tokio::fs::File,
    filter: Option<Filter>,
    /// Where it goes on after a cut.
    lines: Option<Lines>,
    /// Streams whose head has come.
    opened: u32,
}

/// One stream of it, to its end.
async fn read(command: &Logs, connection: &str, session: &Session, from: &From, log: &mut Log) -> Done {
    let number = |n: Option<u64>| n.map(|n| n.to_string());
    let tail = match command.tail {
        Some(Tail::Lines(lines)) => Some(lines.into()),
        Some(Tail::All) | None => None,
    };
    let (tail, since, time) = match from {
        From::Asked => (number(tail), number(command.since), command.since_time.clone()),
        From::Since(seconds) => (None, Some(seconds.to_string()), None),
        From::Time(time) => (None, None, Some(time.clone())),
    };
    let limit = number(command.limit_bytes);
    let flag = |on: bool| on.then_some("true");
    let query = session.query([
        ("container", command.container.as_deref()),
        ("all_containers", flag(command.all_containers)),
        ("follow", flag(command.follow)),
        ("previous", flag(command.previous)),
        ("timestamps", flag(command.timestamps || log.lines.is_some())),
        ("tail", tail.as_deref()),
        ("since_seconds", since.as_deref()),
        ("since_time", time.as_deref()),
        ("limit_bytes", limit.as_deref()),
    ]);
    let at = command.pod.path(connection, Some("logs"), &query);
    let mut body = session.client.stream(&at, &[("accept", "text/plain")]).await?.into_body();
    log.opened += 1;
    let mut ended = None;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Code::ConnectionLost.on("the connection to the control plane was cut before the log's end"))?;
        match frame.into_data() {
            Ok(data) => {
                let data = log.lines.as_mut().map_or(data.clone(), |lines| lines.add(&data).into());
                if !data.is_empty() {
                    write(&mut log.stdout, log.filter.as_mut(), &data).await?;
                }
            }
            Err(other) => {
                if let Ok(trailers) = other.into_trailers() {
                    ended = trailers.get("runner-outcome").map(|v| outcome::read(v.as_bytes()));
                }
            }
        }
    }
    let ended = ended.unwrap_or_else(|| Err(outcome::missing())).map_err(choose_container);
    // what the next stream brings again is not written twice
    if log.lines.is_none() || !ended.as_ref().is_err_and(is_passing) {
        let rest = log.lines.as_mut().map(Lines::rest).unwrap_or_default();
        write(&mut log.stdout, log.filter.as_mut(), &rest).await?;
        if let Some(filter) = &mut log.filter {
            log.stdout.write_all(&filter.finish()).await.map_err(stop::stdout)?;
        }
        log.stdout.flush().await.map_err(stop::stdout)?;
    }
    Ok(ended.map(|_| ())?)
}

/// Bytes to standard output: as they are, or made harmless for a terminal.
pub(crate) async fn write(
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    filter: Option<&mut Filter>,
    data: &[u8],
) -> Done {
    let written = match filter {
        Some(filter) => to.write_all(&filter.push(data)).await,
        None => to.write_all(data).await,
    };
    // a follower wants to see each line when it comes
    match written {
        Ok(()) => to.flush().await.map_err(stop::stdout),
        Err(e) => Err(stop::stdout(e)),
    }
}

fn choose_container(failure: Failure) -> Failure {
    if failure.code == Code::InvalidArgument && failure.message.contains("container") {
        failure.next("Name one with -c, or take --all-containers.")
    } else {
        failure
    }
}

fn pods(list: &Value, namespaces: bool, wide: bool) -> String {
    let mut header = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["IP", "NODE", "CONTAINERS"]);
    }
    let rows = table::items(list).iter().map(|pod| {
        let mut row = vec![
            table::text(pod, "/name"),
            format!("{}/{}", table::text(pod, "/ready"), table::text(pod, "/containers")),
            table::text(pod, "/status"),
            table::text(pod, "/restarts"),
            table::age_since(pod["created_at"].as_str()),
        ];
        if namespaces {
            row.insert(0, table::text(pod, "/namespace"));
        }
        if wide {
            let names = pod["container_names"].as_array().map_or(&[][..], Vec::as_slice);
            row.extend([
                table::text(pod, "/ip"),
                table::text(pod, "/node"),
                names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            ]);
        }
        row
    });
    table::rows(&header, rows, "No pods found.")
}

fn describe(pod: &Value) -> String {
    let object = &pod["object"];
    let list = |at: &str| object.pointer(at).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let map = |at: &str| {
        object.pointer(at).and_then(Value::as_object).map_or_else(String::new, |map| {
            map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", ")
        })
    };
    let mut text = table::fields([
        ("name", table::text(pod, "/summary/name")),
        ("namespace", table::text(pod, "/summary/namespace")),
        ("status", table::text(pod, "/summary/status")),
        ("reason", table::text(object, "/status/reason")),
        ("message", table::text(object, "/status/message")),
        ("node", table::text(pod, "/summary/node")),
        ("ip", table::text(pod, "/summary/ip")),
        ("service account", table::text(object, "/spec/serviceAccountName")),
        ("priority", table::text(object, "/spec/priority")),
        ("started", table::text(object, "/status/startTime")),
        ("labels", map("/metadata/labels")),
        ("annotations", map("/metadata/annotations")),
        ("qos class", table::text(object, "/status/qosClass")),
    ]);
    for (title, at, statuses) in [
        ("init containers", "/spec/initContainers", "/status/initContainerStatuses"),
        ("containers", "/spec/containers", "/status/containerStatuses"),
    ] {
        let containers = list(at);
        if containers.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{title}\n"));
        let rows = containers.iter().map(|c| {
            let status = list(statuses).iter().find(|s| s["name"] == c["name"]).unwrap_or(&Value::Null);
            vec![
                format!("  {}", table::text(c, "/name")),
                table::text(c, "/image"),
                state(status),
                table::text(status, "/ready"),
                table::text(status, "/restartCount"),
            ]
        });
        text.push_str(&table::rows(&["  NAME", "IMAGE", "STATE", "READY", "RESTARTS"], rows, ""));
    }
    let conditions = list("/status/conditions");
    if !conditions.is_empty() {
        text.push_str("\nconditions\n");
        let rows = conditions.iter().map(|c| {
            vec![
                format!("  {}", table::text(c, "/type")),
                table::text(c, "/status"),
                table::text(c, "/reason"),
                table::text(c, "/message"),
            ]
        });
        text.push_str(&table::rows(&["  TYPE", "STATUS", "REASON", "MESSAGE"], rows, ""));
    }
    text.push_str("\nevents\n");
    let rows = pod["events"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|e| {
        vec![
            format!("  {}", table::text(e, "/kind")),
            table::text(e, "/reason"),
            table::age_since(e["last_seen"].as_str()),
            table::text(e, "/count"),
            table::text(e, "/source"),
            table::text(e, "/message"),
        ]
    });
    text.push_str(&table::rows(&["  TYPE", "REASON", "LAST SEEN", "COUNT", "FROM", "MESSAGE"], rows, "  none"));
    text
}

/// A container's state in a word or two, as `kubectl describe` has it.
fn state(status: &Value) -> String {
    let Some((name, detail)) = status["state"].as_object().and_then(|state| state.iter().next()) else {
        return String::new();
    };
    let mut text = name.clone();
    for extra in [table::text(detail, "/reason"), table::text(detail, "/exitCode")] {
        if !extra.is_empty() {
            text.push_str(&format!(" {extra}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(line: &str) -> Result<K8sCommand, String> {
        use clap::Parser as _;
        let words = ["runnerctl", "k8s"].into_iter().chain(line.split(' '));
        match crate::args::Arguments::try_parse_from(words).map_err(|e| e.to_string())?.command {
            crate::args::Command::K8s(K8s { command, .. }) => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_is_named_as_with_kubectl() {
        for line in [
            "describe web",
            "describe pod web",
            "describe pods web -n shop",
            "describe po web",
            "describe pod/web",
            "logs web",
            "logs pod/web -f",
            "logs pods/web",
            "exec web -- sh",
            "exec po/web -it -- sh -c x/y",
        ] {
            let (K8sCommand::Describe(Describe { pod, .. })
            | K8sCommand::Logs(Logs { pod, .. })
            | K8sCommand::Exec(exec::Exec { pod, .. })) = parsed(line).expect(line)
            else {
                panic!("{line}")
            };
            assert_eq!(pod.pod, "web", "{line}");
            let namespace = if line.contains("-n shop") { "shop" } else { "-" };
            assert!(pod.path("c", None, &[]).ends_with(&format!("/namespaces/{namespace}/pods/web")), "{line}");
        }
        // a pod may be called so
        assert!(matches!(parsed("describe pod"), Ok(K8sCommand::Describe(d)) if d.pod.pod == "pod"));
        for line in ["describe", "describe deployment web", "describe pod web more", "logs deployment/web", "logs pod/"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn how_much_of_a_log() {
        let tail = |text: &str| -> Result<_, String> {
            match parsed(&format!("logs web --tail {text}"))? {
                K8sCommand::Logs(logs) => Ok(logs.tail),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(tail("-1"), Ok(Some(Tail::All)));
        assert_eq!(tail("0"), Ok(Some(Tail::Lines(0))));
        for (line, said) in [
            ("logs web --tail -5", "-1 for all"),
            ("logs web --tail=x", "-1 for all"),
            ("logs web --since -5m", "such as 30s"),
            ("logs web --limit-bytes -5", "invalid value '-5'"),
        ] {
            let refused = parsed(line).expect_err(line);
            assert!(refused.contains(said) && !refused.contains("unexpected argument"), "{line}: {refused}");
        }
    }

    #[test]
    fn pods_as_kubectl_shows_them() {
        let list = json!({"items": [{"namespace": "n", "name": "web", "status": "Running", "ready": 1, "containers": 2,
            "container_names": ["a", "b"], "restarts": 3, "ip": "10.0.0.1", "node": null}]});
        assert_eq!(
            pods(&list, false, false),
            "NAME   READY   STATUS    RESTARTS   AGE\nweb    1/2     Running   3          -\n"
        );
        assert!(
            pods(&list, true, true)
                .contains("n           web    1/2     Running   3          -     10.0.0.1   -      a,b")
        );
        assert_eq!(pods(&json!({"items": []}), false, false), "No pods found.\n");
    }

    #[test]
    fn a_description_names_containers_and_events() {
        let pod = json!({
            "summary": {"name": "web", "namespace": "n", "status": "Running"},
            "object": {"spec": {"containers": [{"name": "main", "image": "i:1"}]}, "status": {"containerStatuses":
                [{"name": "main", "ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}},
            "events": [{"kind": "Warning", "reason": "BackOff", "message": "back-off", "source": "kubelet", "count": 4}],
        });
        let text = describe(&pod);
        for part in ["waiting CrashLoopBackOff", "i:1", "BackOff", "back-off"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
