//! `k8s rollout`: how far a deployment, a stateful set or a daemon set is, and starting its pods anew.

use super::api::{Api, JSON};
use super::kinds::Kinds;
use super::watch::{Change, Watch};
use super::words::{self, Found};
use crate::args::seconds;
use crate::commands::Session;
use crate::stop::Done;
use http::Method;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::time::Duration;

/// A patch that is merged as the kind says.
const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// What kubectl writes too, so that either sees what the other did.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// `k8s rollout`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Rollout {
    /// Wait until it is rolled out; 0 where it is, 1 where it failed, 75 where --timeout has passed
    Status {
        #[command(flatten)]
        which: Which,
        /// Wait no longer than this: 30s, 5m; 0 does not end by itself
        #[arg(long, value_parser = seconds, default_value = "0", value_name = "DURATION")]
        timeout: u64,
        /// Say how far it is, and do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Replace its pods by new ones, as its own strategy says
    Restart {
        #[command(flatten)]
        which: Which,
    },
}

/// Of which object.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// KIND NAME or KIND/NAME: a deployment, a statefulset or a daemonset
    #[arg(required = true, num_args = 1..=2, value_name = "KIND NAME")]
    words: Vec<String>,
    /// Its namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    namespace: Option<String>,
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Waits(String),
    Done(String),
    Failed(String),
}

/// `k8s rollout`
pub(super) async fn run(command: Rollout, api: &Api, session: &Session) -> Done {
    match command {
        Rollout::Status { which, timeout, no_wait } => {
            let found = session.wait("looking for it", find(&which, api)).await?;
            let title = found.title();
            let waiting = session
                .interrupt
                .guard("it is no longer waited for; it goes on by itself", status(&found, no_wait, api, session));
            if timeout == 0 {
                return waiting.await;
            }
            tokio::time::timeout(Duration::from_secs(timeout), waiting).await.unwrap_or_else(|_| {
                Err(Code::DeadlineExceeded
                    .on(format!("{title} was not rolled out within {timeout} s"))
                    .next(format!("It goes on by itself. {}", look_at(&found)))
                    .into())
            })
        }
        Rollout::Restart { which } => {
            let restarting = async {
                let found = find(&which, api).await?;
                let now = shared_proto::identity::rfc3339(shared_proto::now_ms() / 1000);
                let patch = json!({ "spec": { "template": { "metadata": { "annotations": { (RESTARTED): now } } } } });
                api.send(
                    Method::PATCH,
                    &found.path(None, &[("fieldManager", super::FIELD_MANAGER)]),
                    STRATEGIC,
                    &patch,
                )
                .await?;
                Ok(found)
            };
            let found = session.wait("restarting", restarting).await?;
            let done = json!({ "restarted": found.title() });
            session.output.document(&done, |_| format!("{} restarted\n", found.title()))
        }
    }
}

async fn find(which: &Which, api: &Api) -> Result<Found, Failure> {
    let (kind, name) = words::one(&which.words, None)?;
    let kinds = Kinds::of(api).await?;
    let found = words::find(api, &kinds, (&kind, &name), which.namespace.as_deref()).await?;
    if found.kind.group != "apps" || !matches!(found.kind.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet") {
        return Err(Code::InvalidArgument
            .on(format!("{} is not rolled out", found.title()))
            .next("Name a deployment, a statefulset or a daemonset."));
    }
    Ok(found)
}

/// What to run to see more of it.
fn look_at(found: &Found) -> String {
    let place = found.namespace().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
    format!("Look at it: runnerctl k8s describe {}{place}", found.title())
}

async fn status(found: &Found, no_wait: bool, api: &Api, session: &Session) -> Done {
    let field = format!("metadata.name={}", found.name());
    let target = |more: &[(&str, &str)]| {
        found.kind.path(found.namespace(), None, None, &[&[("fieldSelector", field.as_str())], more].concat())
    };
    let mut watch = Watch::new(api, JSON);
    let mut said = String::new();
    loop {
        let objects = match watch.next(&target).await? {
            Change::All(mut page) => page["items"].as_array_mut().map(std::mem::take).unwrap_or_default(),
            Change::One { gone: true, .. } => Vec::new(),
            Change::One { object, .. } => vec![object],
        };
        let Some(object) = objects.first() else {
            return Err(Code::TargetNotFound.on(format!("{} is no more", found.title())).into());
        };
        match state(&found.kind.kind, found.name(), object) {
            State::Done(text) => return session.output.line(&text),
            State::Failed(text) => {
                return Err(Code::TargetRefused.on(text).next(look_at(found)).into());
            }
            State::Waits(text) => {
                if text != said {
                    session.output.line(&text)?;
                    said = text;
                }
                if no_wait {
                    return Ok(());
                }
            }
        }
    }
}

/// As kubectl says it.
fn state(kind: &str, name: &str, object: &Value) -> State {
    let number = |at: &str| object.pointer(at).and_then(Value::as_i64);
    let of_status = |at: &str| number(&format!("/status/{at}")).unwrap_or(0);
    let observed = of_status("observedGeneration");
    let is_seen = observed > 0 && number("/metadata/generation").unwrap_or(0) <= observed;
    let wanted = number("/spec/replicas").unwrap_or(1);
    match kind {
        "Deployment" => {
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
            let too_late = conditions
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
            let (updated, all) = (of_status("updatedReplicas"), of_status("replicas"));
            let available = of_status("availableReplicas");
            let waits =
                |what: String| State::Waits(format!("Waiting for deployment {name:?} rollout to finish: {what}..."));
            if !is_seen {
                State::Waits("Waiting for deployment spec update to be observed...".into())
            } else if too_late {
                State::Failed(format!("deployment {name:?} exceeded its progress deadline"))
            } else if updated < wanted {
                waits(format!("{updated} out of {wanted} new replicas have been updated"))
            } else if all > updated {
                waits(format!("{} old replicas are pending termination", all - updated))
            } else if available < updated {
                waits(format!("{available} of {updated} updated replicas are available"))
            } else {
                State::Done(format!("deployment {name:?} successfully rolled out"))
            }
        }
        "DaemonSet" => {
            let (updated, wanted) = (of_status("updatedNumberScheduled"), of_status("desiredNumberScheduled"));
            let available = of_status("numberAvailable");
            let waits =
                |what: String| State::Waits(format!("Waiting for daemon set {name:?} rollout to finish: {what}..."));
            if object.pointer("/spec/updateStrategy/type").is_some_and(|t| t != "RollingUpdate") {
                State::Failed("rollout status is only available for RollingUpdate strategy type".into())
            } else if !is_seen {
                State::Waits("Waiting for daemon set spec update to be observed...".into())
            } else if updated < wanted {
                waits(format!("{updated} out of {wanted} new pods have been updated"))
            } else if available < wanted {
                waits(format!("{available} of {wanted} updated pods are available"))
            } else {
                State::Done(format!("daemon set {name:?} successfully rolled out"))
            }
        }
        _ => {
            let (ready, updated) = (of_status("readyReplicas"), of_status("updatedReplicas"));
            let partition = number("/spec/updateStrategy/rollingUpdate/partition");
            let revision = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
            let (current, next) = (revision("/status/currentRevision"), revision("/status/updateRevision"));
            if object.pointer("/spec/updateStrategy/type").is_some_and(|t| t != "RollingUpdate") {
                State::Failed("rollout status is only available for RollingUpdate strategy type".into())
            } else if !is_seen {
                State::Waits("Waiting for statefulset spec update to be observed...".into())
            } else if ready < wanted {
                State::Waits(format!("Waiting for {} pods to be ready...", wanted - ready))
            } else if let Some(partition) = partition {
                if updated < wanted - partition {
                    let wanted = wanted - partition;
                    State::Waits(format!(
                        "Waiting for partitioned roll out to finish: {updated} out of {wanted} new pods have been updated..."
                    ))
                } else {
                    State::Done(format!("partitioned roll out complete: {updated} new pods have been updated..."))
                }
            } else if current != next {
                State::Waits(format!(
                    "waiting for statefulset rolling update to complete {updated} pods at revision {next}..."
                ))
            } else {
                let all = of_status("currentReplicas");
                State::Done(format!("statefulset rolling update complete {all} pods at revision {current}..."))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_deployment_is() {
        let of = |status: Value| {
            state(
                "Deployment",
                "web",
                &json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status}),
            )
        };
        let waits = |text: &str| State::Waits(format!("Waiting for deployment \"web\" rollout to finish: {text}..."));
        assert!(matches!(of(json!({"observedGeneration": 1})), State::Waits(t) if t.contains("observed")));
        let mut status = json!({"observedGeneration": 2, "updatedReplicas": 1});
        assert_eq!(of(status.clone()), waits("1 out of 3 new replicas have been updated"));
        status = json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4});
        assert_eq!(of(status.clone()), waits("1 old replicas are pending termination"));
        status = json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2});
        assert_eq!(of(status.clone()), waits("2 of 3 updated replicas are available"));
        status["availableReplicas"] = 3.into();
        assert_eq!(of(status.clone()), State::Done("deployment \"web\" successfully rolled out".into()));
        status["conditions"] = json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        assert!(matches!(of(status), State::Failed(_)));
    }

    #[test]
    fn where_to_look_is_said_with_its_namespace() {
        let kind = super::super::kinds::tests::some().one("deploy").expect("is there").clone();
        let found = Found { kind, object: json!({"metadata": {"name": "web", "namespace": "shop"}}) };
        assert_eq!(look_at(&found), "Look at it: runnerctl k8s describe deployment.apps/web -n shop");
    }

    #[test]
    fn how_far_the_others_are() {
        let daemons = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "desiredNumberScheduled": 2,
            "updatedNumberScheduled": 2, "numberAvailable": 1}});
        assert!(matches!(state("DaemonSet", "d", &daemons), State::Waits(t) if t.contains("1 of 2 updated pods")));
        let set = json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1,
            "readyReplicas": 1, "currentReplicas": 1, "currentRevision": "a", "updateRevision": "a"}});
        assert!(matches!(state("StatefulSet", "s", &set), State::Done(t) if t.contains("at revision a")));
    }
}
