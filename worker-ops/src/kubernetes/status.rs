//! What `kubectl get pods` shows of a pod: the same rules as Kubernetes 1.35's own printer.

use k8s_openapi::api::core::v1::{Container, ContainerState, Pod, PodCondition, PodStatus};
use shared_proto::documents;

/// The printer's reason for a pod whose node is gone.
const NODE_LOST: &str = "NodeLost";

/// STATUS, READY and RESTARTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) status: String,
    pub(crate) ready: u32,
    pub(crate) containers: u32,
    pub(crate) restarts: u32,
}

/// A pod as it stands in a list.
pub(crate) fn summary(pod: Pod) -> documents::Pod {
    let shown = shown(&pod);
    let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
    let init = spec.init_containers.unwrap_or_default();
    documents::Pod {
        namespace: pod.metadata.namespace.unwrap_or_default(),
        name: pod.metadata.name.unwrap_or_default(),
        uid: pod.metadata.uid.unwrap_or_default(),
        status: shown.status,
        ready: shown.ready,
        containers: shown.containers,
        container_names: spec.containers.into_iter().chain(init).map(|c| c.name).collect(),
        restarts: shown.restarts,
        created_at: pod.metadata.creation_timestamp.map(|t| t.0.to_string()),
        node: spec.node_name,
        ip: status.pod_ip,
        labels: pod.metadata.labels.unwrap_or_default(),
    }
}

/// What the printer makes of a pod. The order of its steps matters: later ones override earlier ones.
pub(crate) fn shown(pod: &Pod) -> Shown {
    let (no_spec, no_status) = Default::default();
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let init_specs = spec.init_containers.as_deref().unwrap_or_default();
    let conditions = status.conditions.as_deref().unwrap_or_default();

    let phase = status.phase.as_deref().unwrap_or_default();
    let mut reason = text(&status.reason).unwrap_or(phase).to_owned();
    if conditions.iter().any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")) {
        "SchedulingGated".clone_into(&mut reason);
    }

    let sidecars = init_specs.iter().filter(|c| is_sidecar(c)).count();
    let containers = count(spec.containers.len() + sidecars);
    let (mut ready, mut restarts) = (0, 0);

    let init = initialization(status, init_specs);
    ready += init.ready;
    restarts += init.restarts;
    if let Some(init_reason) = &init.reason {
        init_reason.clone_into(&mut reason);
    }
    if init.reason.is_none() || has(conditions, "Initialized") {
        // only what still runs beside the containers counts from here on
        restarts = init.sidecar_restarts;
        let (mut running, mut error) = (false, None);
        for container in status.container_statuses.iter().flatten().rev() {
            restarts += restart_count(container.restart_count);
            let state = container.state.as_ref().unwrap_or(&EMPTY);
            if let Some(waiting) = state.waiting.as_ref().and_then(|w| text(&w.reason)) {
                waiting.clone_into(&mut reason);
            } else if let Some(terminated) = &state.terminated {
                reason = ended("", terminated);
                if terminated.exit_code != 0 {
                    error = Some(reason.clone());
                }
            } else if container.ready && state.running.is_some() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            if running && has(conditions, "Ready") {
                "Running".clone_into(&mut reason);
            } else if let Some(error) = error {
                reason = error;
            } else if running {
                "NotReady".clone_into(&mut reason);
            }
        }
    }

    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some(NODE_LOST) {
            "Unknown".clone_into(&mut reason);
        } else if phase != "Succeeded" && phase != "Failed" {
            "Terminating".clone_into(&mut reason);
        }
    }
    Shown { status: reason, ready, containers, restarts }
}

/// How far the init containers have come.
struct Initialization {
    /// Set while they are not done.
    reason: Option<String>,
    ready: u32,
    restarts: u32,
    sidecar_restarts: u32,
}

const EMPTY: ContainerState = ContainerState { running: None, terminated: None, waiting: None };

fn initialization(status: &PodStatus, specs: &[Container]) -> Initialization {
    let mut init = Initialization { reason: None, ready: 0, restarts: 0, sidecar_restarts: 0 };
    for (n, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let sidecar = specs.iter().any(|c| c.name == container.name && is_sidecar(c));
        let restarts = restart_count(container.restart_count);
        init.restarts += restarts;
        if sidecar {
            init.sidecar_restarts += restarts;
        }
        let state = container.state.as_ref().unwrap_or(&EMPTY);
        if state.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
            continue;
        }
        if sidecar && container.started == Some(true) {
            init.ready += u32::from(container.ready);
            continue;
        }
        let waiting = state.waiting.as_ref().and_then(|w| text(&w.reason)).filter(|r| *r != "PodInitializing");
        init.reason = Some(match (&state.terminated, waiting) {
            (Some(terminated), _) => ended("Init:", terminated),
            (None, Some(waiting)) => format!("Init:{waiting}"),
            (None, None) => format!("Init:{n}/{}", specs.len()),
        });
        break;
    }
    init
}

fn ended(prefix: &str, state: &k8s_openapi::api::core::v1::ContainerStateTerminated) -> String {
    match (text(&state.reason), state.signal.unwrap_or(0)) {
        (Some(reason), _) => format!("{prefix}{reason}"),
        (None, 0) => format!("{prefix}ExitCode:{}", state.exit_code),
        (None, signal) => format!("{prefix}Signal:{signal}"),
    }
}

fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|t| !t.is_empty())
}
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}
/// Whether the first condition of that type is true.
fn has(conditions: &[PodCondition], kind: &str) -> bool {
    conditions.iter().find(|c| c.type_ == kind).is_some_and(|c| c.status == "True")
}
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
fn restart_count(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Pod {
        serde_json::from_value(
            json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":spec,"status":status}),
        )
        .expect("a pod")
    }
    fn container(name: &str, state: Value, ready: bool, restarts: i32) -> Value {
        json!({"name":name,"image":"i","imageID":"","state":state,"ready":ready,"restartCount":restarts,"started":ready})
    }
    fn one(state: Value, ready: bool, restarts: i32) -> Value {
        json!([container("a", state, ready, restarts)])
    }

    /// (what, spec, status, STATUS, READY, RESTARTS), each as `kubectl get pods` prints it.
    fn table() -> Vec<(&'static str, Value, Value, &'static str, &'static str, u32)> {
        let a = json!({"containers":[{"name":"a"}]});
        let ab = json!({"containers":[{"name":"a"},{"name":"b"}]});
        let init = json!({"containers":[{"name":"a"}],"initContainers":[{"name":"i"},{"name":"j"}]});
        let side =
            json!({"containers":[{"name":"a"}],"initContainers":[{"name":"s","restartPolicy":"Always"},{"name":"j"}]});
        let running = json!({"running":{}});
        let done = json!({"terminated":{"exitCode":0,"reason":"Completed"}});
        let failed = |code: i32| json!({"terminated":{"exitCode":code,"reason":"Error"}});
        let waiting = |reason: &str| json!({"waiting":{"reason":reason}});
        let ready = json!([{"type":"Ready","status":"True"}]);
        vec![
            ("new", a.clone(), json!({"phase":"Pending"}), "Pending", "0/1", 0),
            (
                "running",
                a.clone(),
                json!({"phase":"Running","containerStatuses":one(running.clone(), true, 3)}),
                "Running",
                "1/1",
                3,
            ),
            (
                "not ready yet",
                a.clone(),
                json!({"phase":"Running","containerStatuses":one(running.clone(), false, 0)}),
                "Running",
                "0/1",
                0,
            ),
            (
                "creating",
                a.clone(),
                json!({"phase":"Pending","containerStatuses":one(waiting("ContainerCreating"), false, 0)}),
                "ContainerCreating",
                "0/1",
                0,
            ),
            (
                "image",
                a.clone(),
                json!({"phase":"Pending","containerStatuses":one(waiting("ImagePullBackOff"), false, 0)}),
                "ImagePullBackOff",
                "0/1",
                0,
            ),
            (
                "crash loop",
                a.clone(),
                json!({"phase":"Running","containerStatuses":one(waiting("CrashLoopBackOff"), false, 7)}),
                "CrashLoopBackOff",
                "0/1",
                7,
            ),
            (
                "completed",
                a.clone(),
                json!({"phase":"Succeeded","containerStatuses":one(done.clone(), false, 0)}),
                "Completed",
                "0/1",
                0,
            ),
            (
                "error",
                a.clone(),
                json!({"phase":"Failed","containerStatuses":one(failed(1), false, 0)}),
                "Error",
                "0/1",
                0,
            ),
            (
                "out of memory",
                a.clone(),
                json!({"phase":"Failed","containerStatuses":one(json!({"terminated":{"exitCode":137,"reason":"OOMKilled"}}), false, 0)}),
                "OOMKilled",
                "0/1",
                0,
            ),
            (
                "exit code",
                a.clone(),
                json!({"phase":"Failed","containerStatuses":one(json!({"terminated":{"exitCode":2}}), false, 0)}),
                "ExitCode:2",
                "0/1",
                0,
            ),
            (
                "signal",
                a.clone(),
                json!({"phase":"Failed","containerStatuses":one(json!({"terminated":{"exitCode":137,"signal":9}}), false, 0)}),
                "Signal:9",
                "0/1",
                0,
            ),
            ("evicted", a.clone(), json!({"phase":"Failed","reason":"Evicted"}), "Evicted", "0/1", 0),
            (
                "gated",
                a.clone(),
                json!({"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated"}]}),
                "SchedulingGated",
                "0/1",
                0,
            ),
            (
                "one done, one runs, not ready",
                ab.clone(),
                json!({"phase":"Running","containerStatuses":[container("a", done.clone(), false, 0), container("b", running.clone(), true, 1)]}),
                "NotReady",
                "1/2",
                1,
            ),
            (
                "one done, one runs, ready",
                ab.clone(),
                json!({"phase":"Running","conditions":ready,"containerStatuses":[container("a", done.clone(), false, 0), container("b", running.clone(), true, 0)]}),
                "Running",
                "1/2",
                0,
            ),
            (
                "one done, one failed",
                ab.clone(),
                json!({"phase":"Running","containerStatuses":[container("a", done.clone(), false, 0), container("b", failed(3), false, 0)]}),
                "Error",
                "0/2",
                0,
            ),
            (
                "the first container's word wins",
                ab,
                json!({"phase":"Running","containerStatuses":[container("a", waiting("CrashLoopBackOff"), false, 2), container("b", failed(3), false, 1)]}),
                "CrashLoopBackOff",
                "0/2",
                3,
            ),
            (
                "init not begun",
                init.clone(),
                json!({"phase":"Pending","initContainerStatuses":[container("i", waiting("PodInitializing"), false, 0), container("j", waiting("PodInitializing"), false, 0)]}),
                "Init:0/2",
                "0/1",
                0,
            ),
            (
                "init half way",
                init.clone(),
                json!({"phase":"Pending","initContainerStatuses":[container("i", done.clone(), true, 0), container("j", running.clone(), false, 0)],"containerStatuses":one(waiting("PodInitializing"), false, 0)}),
                "Init:1/2",
                "0/1",
                0,
            ),
            (
                "init done, containers begin",
                init.clone(),
                json!({"phase":"Pending","initContainerStatuses":[container("i", done.clone(), true, 4), container("j", done.clone(), true, 0)],"containerStatuses":one(waiting("PodInitializing"), false, 0)}),
                "PodInitializing",
                "0/1",
                0,
            ),
            (
                "init fails",
                init.clone(),
                json!({"phase":"Pending","initContainerStatuses":[container("i", failed(1), false, 2)]}),
                "Init:Error",
                "0/1",
                2,
            ),
            (
                "init crash loop",
                init.clone(),
                json!({"phase":"Pending","initContainerStatuses":[container("i", waiting("CrashLoopBackOff"), false, 5)]}),
                "Init:CrashLoopBackOff",
                "0/1",
                5,
            ),
            (
                "init exit code",
                init.clone(),
                json!({"phase":"Pending","initContainerStatuses":[container("i", json!({"terminated":{"exitCode":4}}), false, 0)]}),
                "Init:ExitCode:4",
                "0/1",
                0,
            ),
            (
                "init signal",
                init.clone(),
                json!({"phase":"Pending","initContainerStatuses":[container("i", json!({"terminated":{"exitCode":137,"signal":9}}), false, 0)]}),
                "Init:Signal:9",
                "0/1",
                0,
            ),
            (
                "initialized, an init container runs again",
                init,
                json!({"phase":"Running","conditions":[{"type":"Initialized","status":"True"}],"initContainerStatuses":[container("i", running.clone(), false, 3)],"containerStatuses":one(waiting("CrashLoopBackOff"), false, 1)}),
                "CrashLoopBackOff",
                "0/1",
                1,
            ),
            (
                "a sidecar counts",
                side.clone(),
                json!({"phase":"Running","initContainerStatuses":[container("s", running.clone(), true, 2), container("j", done.clone(), true, 5)],"containerStatuses":one(running.clone(), true, 1)}),
                "Running",
                "2/2",
                3,
            ),
            (
                "a sidecar runs, init goes on",
                side,
                json!({"phase":"Pending","initContainerStatuses":[container("s", running, true, 2), container("j", waiting("PodInitializing"), false, 0)]}),
                "Init:1/2",
                "1/2",
                2,
            ),
        ]
    }

    #[test]
    fn as_kubectl_prints_it() {
        for (what, spec, status, expected, ready, restarts) in table() {
            let shown = shown(&pod(spec, status));
            assert_eq!(
                (shown.status.as_str(), format!("{}/{}", shown.ready, shown.containers).as_str(), shown.restarts),
                (expected, ready, restarts),
                "{what}"
            );
        }
    }

    #[test]
    fn deletion() {
        let at = |mut pod: Pod| {
            pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
            shown(&pod).status
        };
        let a = json!({"containers":[{"name":"a"}]});
        assert_eq!(at(pod(a.clone(), json!({"phase":"Running"}))), "Terminating");
        assert_eq!(at(pod(a.clone(), json!({"phase":"Running","reason":"NodeLost"}))), "Unknown");
        assert_eq!(at(pod(a.clone(), json!({"phase":"Succeeded"}))), "Succeeded");
        assert_eq!(at(pod(a, json!({"phase":"Failed","reason":"Evicted"}))), "Evicted");
    }

    #[test]
    fn a_summary_names_init_containers_last() {
        let spec = json!({"containers":[{"name":"a"}],"initContainers":[{"name":"i"}],"nodeName":"n"});
        let summary = summary(pod(spec, json!({"phase":"Running","podIP":"10.0.0.1"})));
        assert_eq!(summary.container_names, ["a", "i"]);
        assert_eq!((summary.node.as_deref(), summary.ip.as_deref()), (Some("n"), Some("10.0.0.1")));
    }
}
