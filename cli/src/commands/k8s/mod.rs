//! `k8s`: Kubernetes through a runner, for those without kubectl. What is here asks the Kubernetes API of a connection as the control plane
//! passes it through, or runs `tar` in a container; `namespaces`, `pods`, one pod's description, one pod's log and `exec` have operations of their own.

mod api;
mod change;
mod columns;
pub(crate) mod complete;
mod cp;
mod describe;
mod events;
pub(crate) mod exec;
mod get;
mod kinds;
mod log;
mod log_lines;
mod many_logs;
mod pods;
mod port_forward;
mod rollout;
mod spdy;
mod targets;
mod top;
mod unpack;
mod watch;
mod words;

use crate::client::path;
use crate::commands::{Session, connection};
use crate::output::{Format, escape::Filter, table};
use crate::stop::{self, Done, Stop};
use api::Api;
use shared_proto::failure::Failure;
use tokio::io::AsyncWriteExt as _;

/// `k8s`
#[derive(Debug, clap::Args)]
pub(crate) struct K8s {
    /// The connection to the cluster; may be left out where there is one only
    #[arg(short = 'C', long, global = true, env = "RUNNERCTL_CONNECTION", value_name = "NAME")]
    connection: Option<String>,
    /// The namespace, for those who write it before the verb, as kubectl takes it
    // Each verb that heeds one has its own of the same id, which says what it means there and is what is read: clap fills that from here unless it
    // is given behind the verb.
    #[arg(id = "namespace", short = 'n', long = "namespace", global = true, hide = true)]
    _namespace: Option<String>,
    #[command(subcommand)]
    command: K8sCommand,
}

/// `k8s …`
#[derive(Debug, clap::Subcommand)]
enum K8sCommand {
    /// The cluster's namespaces
    #[command(visible_alias = "ns")]
    Namespaces,
    /// Pods
    Pods {
        /// In this namespace; the connection's own by default
        #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
        namespace: Option<String>,
        /// In all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Only with these labels, such as app=web
        #[arg(short = 'l', long = "selector", value_name = "SELECTOR")]
        labels: Option<String>,
        /// Only with these fields, such as status.phase=Running
        #[arg(long = "field-selector", value_name = "SELECTOR")]
        fields: Option<String>,
    },
    /// Objects of any kind
    Get(get::Get),
    /// The kinds that the cluster knows
    #[command(visible_alias = "api-resources")]
    Kinds,
    /// A pod, or any other object, in detail, with its events
    Describe(describe::Describe),
    /// A pod's log, or those of many
    Logs(log::Logs),
    /// What has happened, by time
    Events(events::Events),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Copy files into a container and out of it
    Cp(cp::Cp),
    /// Forward ports of this machine to a pod's
    PortForward(port_forward::PortForward),
    /// What pods and nodes use
    #[command(subcommand)]
    Top(top::Top),
    /// How far a deployment is, and starting its pods anew
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// Set how many there are to be of something
    Scale(change::Scale),
    /// Make objects as files say
    Apply(change::Apply),
    /// Delete objects
    Delete(change::Delete),
}

/// What the API calls the connection's own namespace.
const OWN_NAMESPACE: &str = "-";

/// Who sets the fields that are set here.
const FIELD_MANAGER: &str = "runnerctl";

/// How kubectl's users say that they mean a pod.
const PODS: [&str; 3] = ["pod", "pods", "po"];

/// Which pod.
#[derive(Debug, Clone)]
struct PodName {
    pod: String,
    /// None: the connection's own.
    namespace: Option<String>,
}

// === impl K8s ===

impl K8s {
    /// Whether `-o name` means something to it.
    pub(crate) fn has_names(&self) -> bool {
        matches!(self.command, K8sCommand::Get(_))
    }
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
    match command.command {
        K8sCommand::Namespaces => namespaces(named, session).await,
        K8sCommand::Pods { namespace, all_namespaces, labels, fields } => {
            let query = session.query([
                // all of them, whatever else is named, as with kubectl: a namespace may be the environment's
                ("namespace", namespace.as_deref().filter(|_| !all_namespaces)),
                ("all_namespaces", all_namespaces.then_some("true")),
                ("labels", labels.as_deref()),
                ("fields", fields.as_deref()),
            ]);
            let work = async {
                let chosen = connection::choose(session, named, "kubernetes").await?;
                session.client.get(&path(&["connections", &chosen, "k8s", "pods"], &query)).await
            };
            let list = session.wait("listing pods", work).await?;
            let wide = session.output.format == Format::Wide;
            session.output.document(&list, |list| pods::pods(list, all_namespaces, wide))
        }
        K8sCommand::Get(command) => get::run(command, &chosen(named, session).await?, session).await,
        K8sCommand::Kinds => kinds::table(&chosen(named, session).await?, session).await,
        K8sCommand::Describe(command) => describe::run(command, &chosen(named, session).await?, session).await,
        K8sCommand::Logs(command) => log::run(command, named, session).await,
        K8sCommand::Events(command) => events::run(command, &chosen(named, session).await?, session).await,
        K8sCommand::Exec(_) => Ok(()),
        K8sCommand::Cp(command) => cp::run(command, &chosen(named, session).await?, session).await,
        K8sCommand::PortForward(command) => port_forward::run(command, &chosen(named, session).await?, session).await,
        K8sCommand::Top(command) => top::run(command, &chosen(named, session).await?, session).await,
        K8sCommand::Rollout(command) => rollout::run(command, &chosen(named, session).await?, session).await,
        K8sCommand::Scale(command) => change::scale(command, &chosen(named, session).await?, session).await,
        K8sCommand::Apply(command) => change::apply(command, &chosen(named, session).await?, session).await,
        K8sCommand::Delete(command) => change::delete(command, &chosen(named, session).await?, session).await,
    }
}

/// The Kubernetes API of the connection that is meant.
async fn chosen(named: Option<&str>, session: &Session) -> Result<Api, Failure> {
    Api::of(session, named).await
}

async fn namespaces(named: Option<&str>, session: &Session) -> Done {
    let work = async {
        let chosen = connection::choose(session, named, "kubernetes").await?;
        session.client.get(&path(&["connections", &chosen, "k8s", "namespaces"], &session.query([]))).await
    };
    let list = session.wait("listing namespaces", work).await?;
    session.output.document(&list, |list| {
        let rows = table::items(list).iter().map(|n| {
            vec![table::text(n, "/name"), table::text(n, "/phase"), table::age_since(n["created_at"].as_str())]
        });
        table::rows(&["NAME", "STATUS", "AGE"], rows, "No namespaces.")
    })
}

// === impl PodName ===

impl PodName {
    /// The pod's path, or that of something under it.
    fn path(&self, connection: &str, under: Option<&str>, query: &[(&str, &str)]) -> String {
        let namespace = self.namespace.as_deref().unwrap_or(OWN_NAMESPACE);
        let mut segments = vec!["connections", connection, "k8s", "namespaces", namespace, "pods", &self.pod];
        segments.extend(under);
        path(&segments, query)
    }
}

/// Bytes to standard output: as they are, or made harmless for a terminal.
async fn write(to: &mut (impl tokio::io::AsyncWrite + Unpin), filter: Option<&mut Filter>, data: &[u8]) -> Done {
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

#[cfg(test)]
mod tests {
    use super::log::Tail;
    use super::*;

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
            let pod = match parsed(line).expect(line) {
                K8sCommand::Describe(describe) => {
                    let (kind, name) = words::one(&describe.words, Some("pods")).expect(line);
                    assert!(PODS.contains(&kind.as_str()), "{line}");
                    PodName { pod: name, namespace: describe.namespace }
                }
                K8sCommand::Logs(logs) => logs.one().expect(line).expect(line),
                K8sCommand::Exec(exec) => {
                    let (_, name) = words::one(&[exec.target], Some("pods")).expect(line);
                    PodName { pod: name, namespace: None }
                }
                other => panic!("{line}: {other:?}"),
            };
            assert_eq!(pod.pod, "web", "{line}");
            let namespace = if line.contains("-n shop") { "shop" } else { "-" };
            assert!(pod.path("c", None, &[]).ends_with(&format!("/namespaces/{namespace}/pods/web")), "{line}");
        }
        // a pod may be called so
        assert!(matches!(parsed("describe pod"), Ok(K8sCommand::Describe(d)) if d.words == ["pod"]));
        for line in ["describe", "describe pod web more", "logs", "logs web -l a=b"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        // several
        for line in ["logs -l app=web", "logs deployment/web", "logs web-*", "logs pod/web-*"] {
            assert!(
                matches!(parsed(line), Ok(K8sCommand::Logs(logs)) if logs.one().is_ok_and(|one| one.is_none())),
                "{line}"
            );
        }
        assert!(matches!(parsed("logs pod/"), Ok(K8sCommand::Logs(logs)) if logs.one().is_err()));
    }

    #[test]
    fn a_namespace_may_stand_before_the_verb() {
        let of_get = |line: &str| match parsed(line) {
            Ok(K8sCommand::Get(get)) => get.place.namespace,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(of_get("-n shop get pods").as_deref(), Some("shop"));
        assert_eq!(of_get("--namespace=shop get pods").as_deref(), Some("shop"));
        // what comes later counts, as with kubectl
        assert_eq!(of_get("-n shop get pods -n other").as_deref(), Some("other"));
        let Ok(K8sCommand::Delete(delete)) = parsed("-n shop delete pod web") else { panic!("delete") };
        assert_eq!(delete.namespace.as_deref(), Some("shop"));
        let Ok(K8sCommand::Pods { namespace, .. }) = parsed("-n shop pods") else { panic!("pods") };
        assert_eq!(namespace.as_deref(), Some("shop"));
        assert!(parsed("-n shop pods -A").is_ok() && parsed("-n shop namespaces").is_ok());
    }

    #[test]
    fn what_people_type() {
        for line in [
            "get pods -n seen -l app=web -w",
            "get pod/web svc/shop -o yaml",
            "get all -A -o wide",
            "kinds",
            "events -A -w --for deployment/web --types Warning",
            "cp ./a web:/b -c app",
            "port-forward service/shop 8080:http 0:9090",
            "top pods -A --containers",
            "top nodes",
            "rollout status deployment/web --timeout 5m",
            "rollout restart deploy web",
            "scale deployment/web --replicas 3",
            "apply -f a.yaml -f - --force-conflicts",
            "delete pod web-1 --wait --timeout 30s",
            "delete pods -l app=web",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {:?}", parsed(line));
        }
        for line in [
            "get",
            "port-forward web",
            "scale deployment/web",
            "apply",
            "delete",
            "top",
            "rollout",
            "cp a",
            "port-forward web x:y:z",
        ] {
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
}
