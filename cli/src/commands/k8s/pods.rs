//! Pods in a table, and one in detail.

use super::events;
use crate::output::table;
use serde_json::{Value, json};
use shared_proto::failure::Failure;

pub(super) fn pods(list: &Value, namespaces: bool, wide: bool) -> String {
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

/// What is told of a pod above the rest, of the pod as the API server has it. A container that waits says more than the pod's phase.
pub(super) fn summary(object: &Value) -> Value {
    let statuses = object.pointer("/status/containerStatuses").and_then(Value::as_array);
    let waits = statuses.into_iter().flatten().map(|status| table::text(status, "/state/waiting/reason"));
    let status = [table::text(object, "/status/reason")]
        .into_iter()
        .chain(waits)
        .find(|reason| !reason.is_empty())
        .unwrap_or_else(|| table::text(object, "/status/phase"));
    let status =
        if object.pointer("/metadata/deletionTimestamp").is_some() { "Terminating".to_owned() } else { status };
    json!({
        "name": table::text(object, "/metadata/name"), "namespace": table::text(object, "/metadata/namespace"),
        "status": status, "node": table::text(object, "/spec/nodeName"), "ip": table::text(object, "/status/podIP"),
    })
}

/// A pod in detail; `withheld`: why its events could not be read.
pub(super) fn describe(pod: &Value, withheld: Option<&Failure>) -> String {
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
    if let Some(failure) = withheld {
        return text + &events::not_read(failure);
    }
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
    fn a_pods_own_words_are_its_status() {
        let status = |object: Value| summary(&object)["status"].clone();
        assert_eq!(status(json!({"status": {"phase": "Running"}})), "Running");
        assert_eq!(status(json!({"status": {"phase": "Failed", "reason": "Evicted"}})), "Evicted");
        let waits = json!([{"state": {"running": {}}}, {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        assert_eq!(status(json!({"status": {"phase": "Running", "containerStatuses": waits}})), "CrashLoopBackOff");
        assert_eq!(
            status(json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}})),
            "Terminating"
        );
    }

    #[test]
    fn a_description_names_containers_and_events() {
        let pod = json!({
            "summary": {"name": "web", "namespace": "n", "status": "Running"},
            "object": {"spec": {"containers": [{"name": "main", "image": "i:1"}]}, "status": {"containerStatuses":
                [{"name": "main", "ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}},
            "events": [{"kind": "Warning", "reason": "BackOff", "message": "back-off", "source": "kubelet", "count": 4}],
        });
        let text = describe(&pod, None);
        for part in ["waiting CrashLoopBackOff", "i:1", "BackOff", "back-off"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
