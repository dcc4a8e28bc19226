//! Pods behind what is named: a deployment's, a service's, those with labels.

use super::api::Api;
use super::kinds::Kinds;
use super::words::{self, Found, Selectors, objects};
use crate::output::table;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};

/// The labels by which something finds its pods, as a selector's text.
pub(super) fn selector(found: &Found) -> Result<String, Failure> {
    let spec = &found.object["spec"];
    let kind = (found.kind.group.as_str(), found.kind.kind.as_str());
    let labels = match kind {
        ("", "Service" | "ReplicationController") => of_labels(&spec["selector"]),
        _ => [of_labels(&spec["selector"]["matchLabels"]), of_expressions(&spec["selector"]["matchExpressions"])]
            .concat(),
    };
    if labels.is_empty() {
        return Err(Code::InvalidArgument
            .on(format!("{} names no pods", found.title()))
            .next("Name a pod, or what has pods by a selector: a deployment, a service, a job."));
    }
    Ok(labels.join(","))
}

fn of_labels(labels: &Value) -> Vec<String> {
    let labels = labels.as_object().into_iter().flatten();
    labels.filter_map(|(name, value)| value.as_str().map(|value| format!("{name}={value}"))).collect()
}

fn of_expressions(expressions: &Value) -> Vec<String> {
    let one = |e: &Value| {
        let key = table::text(e, "/key");
        let values: Vec<_> = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match e["operator"].as_str()? {
            "In" => Some(format!("{key} in ({})", values.join(","))),
            "NotIn" => Some(format!("{key} notin ({})", values.join(","))),
            "Exists" => Some(key),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    };
    expressions.as_array().into_iter().flatten().filter_map(one).collect()
}

/// The pod that serves: the one that is meant itself, or of what is meant one that is ready, else one that runs.
pub(super) async fn pod(
    api: &Api,
    kinds: &Kinds,
    (kind, name): (&str, &str),
    namespace: Option<&str>,
) -> Result<(Found, Value), Failure> {
    let found = words::find(api, kinds, (kind, name), namespace).await?;
    if found.kind.is("", "Pod") {
        let pod = found.object.clone();
        return Ok((found, pod));
    }
    let selectors = Selectors { labels: Some(selector(&found)?), fields: None };
    let mut pods = objects(api, kinds.one("pods")?, found.namespace(), &selectors).await?;
    pods.retain(|pod| pod["status"]["phase"] == "Running" && pod.pointer("/metadata/deletionTimestamp").is_none());
    pods.sort_by_key(|pod| (!is_ready(pod), table::text(pod, "/metadata/creationTimestamp")));
    match pods.into_iter().next() {
        Some(pod) => Ok((found, pod)),
        None => Err(Code::TargetNotFound
            .on(format!("no pod of {} runs", found.title()))
            .next(format!("Look at it: runnerctl k8s describe {}", found.title()))),
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The pod's port that is meant by a number or a name; a service's port leads to its pods' own.
pub(super) fn port(found: &Found, pod: &Value, wanted: &str) -> Result<u16, Failure> {
    let unknown = |what: &str| {
        Code::TargetNotFound
            .on(format!("{} has no port {wanted:?}{what}", found.title()))
            .next("Name it by its number.")
    };
    if !found.kind.is("", "Service") {
        return number(wanted).or_else(|| named(pod, wanted)).ok_or_else(|| unknown(""));
    }
    let ports = found.object.pointer("/spec/ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let of_service = ports
        .iter()
        .find(|port| port["name"] == wanted || number(wanted).is_some_and(|n| port["port"] == n))
        .ok_or_else(|| unknown(""))?;
    match &of_service["targetPort"] {
        Value::String(name) => number(name).or_else(|| named(pod, name)).ok_or_else(|| unknown(" at its pod")),
        Value::Null => number(&table::text(of_service, "/port")).ok_or_else(|| unknown("")),
        target => number(&target.to_string()).ok_or_else(|| unknown("")),
    }
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|n| *n > 0)
}

fn named(pod: &Value, name: &str) -> Option<u16> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let mut ports = containers.into_iter().flatten().filter_map(|c| c["ports"].as_array()).flatten();
    ports.find(|port| port["name"] == name).and_then(|port| number(&table::text(port, "/containerPort")))
}

#[cfg(test)]
mod tests {
    use super::super::kinds::tests::some;
    use super::*;
    use serde_json::json;

    fn found(kind: &str, object: Value) -> Found {
        let mut of = some().one("deploy").expect("is there").clone();
        if kind == "Service" {
            (of.group, of.kind) = (String::new(), kind.to_owned());
        }
        Found { kind: of, object }
    }

    #[test]
    fn selectors() {
        let deployment = found(
            "Deployment",
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}}}),
        );
        assert_eq!(selector(&deployment), Ok("a=b,c in (d,e),!f".into()));
        assert_eq!(selector(&found("Service", json!({"spec": {"selector": {"a": "b"}}}))), Ok("a=b".into()));
        assert_eq!(selector(&found("Service", json!({"spec": {}}))).map_err(|f| f.code), Err(Code::InvalidArgument));
    }

    #[test]
    fn ports() {
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service = found(
            "Service",
            json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"port": 80, "name": "web", "targetPort": "http"}, {"port": 81, "targetPort": 9}, {"port": 82}]}}),
        );
        let of = |found: &Found, wanted: &str| port(found, &pod, wanted).map_err(|f| f.code);
        for (wanted, expected) in [("80", 8080), ("web", 8080), ("81", 9), ("82", 82)] {
            assert_eq!(of(&service, wanted), Ok(expected), "{wanted}");
        }
        assert_eq!(of(&service, "8080"), Err(Code::TargetNotFound));
        let deployment = found("Deployment", json!({"metadata": {"name": "d"}}));
        assert_eq!((of(&deployment, "http"), of(&deployment, "7")), (Ok(8080), Ok(7)));
        for wrong in ["0", "65536", "nosuch", ""] {
            assert_eq!(of(&deployment, wrong), Err(Code::TargetNotFound), "{wrong}");
        }
    }
}
