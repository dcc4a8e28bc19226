//! `k8s describe`: one object of any kind in detail, with its conditions and its events. Pods have a description of their own.

use super::api::{Api, JSON};
use super::get::without_managed_fields;
use super::kinds::Kinds;
use super::words::{self, Found, Name};
use super::{PODS, PodName, events, pods};
use crate::client::path;
use crate::commands::Session;
use crate::output::{table, yaml};
use crate::stop::Done;
use serde_json::{Map, Value, json};
use shared_proto::failure::{Code, Failure};

/// An annotation that is longer is cut, characters: the whole object is in one of kubectl's own.
const ANNOTATION_MAX: usize = 100;
/// What is shown above the rest, or not at all.
const SHOWN_ABOVE: &[&str] = &["apiVersion", "kind", "metadata"];

/// `k8s describe`
#[derive(Debug, clap::Args)]
pub(super) struct Describe {
    /// KIND NAME or KIND/NAME; a name alone is a pod's; a star at its end stands for any rest
    #[arg(required = true, num_args = 1..=2, value_name = "KIND NAME")]
    pub(super) words: Vec<String>,
    /// Its namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    pub(super) namespace: Option<String>,
}

/// `k8s describe`
pub(super) async fn run(command: Describe, api: &Api, session: &Session) -> Done {
    let (kind, name) = words::one(&command.words, Some(PODS[0]))?;
    if PODS.contains(&kind.as_str()) && matches!(Name::read(&name), Name::Whole(_)) {
        return pod(PodName { pod: name, namespace: command.namespace }, api, session).await;
    }
    let looking = async {
        let kinds = Kinds::of(api).await?;
        words::find(api, &kinds, (&kind, &name), command.namespace.as_deref()).await
    };
    let mut found = session.wait("looking for it", looking).await?;
    if found.kind.is("", "Pod") {
        let pod_name = PodName { pod: found.name().to_owned(), namespace: found.namespace().map(str::to_owned) };
        return pod(pod_name, api, session).await;
    }
    without_managed_fields(&mut found.object);
    let events = session.wait("asking for its events", events::of_object(api, &found.object)).await?;
    let document = json!({ "object": found.object, "events": events.as_ref().map_or(Value::Null, |e| json!(e)) });
    session.output.document(&document, |_| described(&found, &events))
}

async fn pod(pod: PodName, api: &Api, session: &Session) -> Done {
    let (document, withheld) = session.wait("asking", read_pod(&pod, api, &session.query([]))).await?;
    session.output.document(&document, |one| pods::describe(one, withheld.as_ref()))
}

/// A pod with its events; and why they could not be read, where that is so.
async fn read_pod(pod: &PodName, api: &Api, query: &[(&str, &str)]) -> Result<(Value, Option<Failure>), Failure> {
    match api.client.get(&pod.path(&api.connection, None, query)).await {
        // where the runner may not read them it tells none, and not why
        Ok(mut one) if one["events"].as_array().is_some_and(Vec::is_empty) => {
            let withheld = events::of_object(api, &one["object"]).await.ok().and_then(Result::err);
            if withheld.is_some() {
                one["events"] = Value::Null;
            }
            Ok((one, withheld))
        }
        Ok(one) => Ok((one, None)),
        // events are asked for with the pod, and it may be they that are denied
        Err(failure) if failure.code == Code::PolicyDenied => {
            let namespace = api.namespace(pod.namespace.as_deref()).await?;
            let at = path(&["api", "v1", "namespaces", &namespace, "pods", &pod.pod], &[]);
            let mut object = api.get(&at, JSON).await?;
            without_managed_fields(&mut object);
            let withheld = events::of_object(api, &object).await?.err().unwrap_or(failure);
            Ok((json!({ "summary": pods::summary(&object), "object": object, "events": null }), Some(withheld)))
        }
        Err(failure) => Err(failure),
    }
}

fn described(found: &Found, events: &Result<Vec<Value>, Failure>) -> String {
    let object = &found.object;
    let map = |at: &str, max: usize| {
        object.pointer(at).and_then(Value::as_object).map_or_else(String::new, |map| {
            let shown = |(k, _): &(&String, &Value)| k.as_str() != "kubectl.kubernetes.io/last-applied-configuration";
            let one = |(k, v): (&String, &Value)| format!("{k}={}", cut(v.as_str().unwrap_or_default(), max));
            map.iter().filter(shown).map(one).collect::<Vec<_>>().join(", ")
        })
    };
    let created = object.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let owners = owners.iter().map(|o| format!("{}/{}", table::text(o, "/kind"), table::text(o, "/name")));
    let mut text = table::fields(
        [
            ("name", found.name().to_owned()),
            ("namespace", found.namespace().unwrap_or_default().to_owned()),
            ("kind", format!("{} ({})", found.kind.kind, found.kind.api_version())),
            ("labels", map("/metadata/labels", usize::MAX)),
            ("annotations", map("/metadata/annotations", ANNOTATION_MAX)),
            ("created", created.map_or_else(String::new, |c| format!("{c} ({} ago)", table::age_since(Some(c))))),
            ("owned by", owners.collect::<Vec<_>>().join(", ")),
            ("deleted", table::text(object, "/metadata/deletionTimestamp")),
        ]
        .into_iter()
        .filter(|(name, value)| !value.is_empty() || !matches!(*name, "owned by" | "deleted" | "namespace")),
    );
    let fields = object.as_object().into_iter().flatten().filter(|(name, _)| !SHOWN_ABOVE.contains(&name.as_str()));
    // what is wanted comes before what is
    let (status, others): (Vec<_>, Vec<_>) = fields.partition(|(name, _)| *name == "status");
    for (name, value) in others.into_iter().chain(status) {
        let mut value = value.clone();
        if let Some(status) = value.as_object_mut().filter(|_| name == "status") {
            status.remove("conditions");
        }
        if found.kind.is("", "Secret") && matches!(name.as_str(), "data" | "stringData") {
            value = without_values(&value);
        }
        text.push_str(&section(name, &value));
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !conditions.is_empty() {
        text.push_str("\nconditions\n");
        let rows = conditions.iter().map(|c| {
            vec![
                format!("  {}", table::text(c, "/type")),
                table::text(c, "/status"),
                table::text(c, "/reason"),
                table::age_since(c["lastTransitionTime"].as_str()),
                table::text(c, "/message"),
            ]
        });
        text.push_str(&table::rows(&["  TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows, ""));
    }
    text.push_str("\nevents\n");
    match events {
        Ok(events) => text.push_str(&events::of_object_table(events)),
        Err(failure) => text.push_str(&events::not_read(failure)),
    }
    text
}

/// A part of an object, with each field below another.
fn section(name: &str, value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Object(map) if map.is_empty() => String::new(),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::Object(_) | Value::Array(_) => {
            let lines: String = yaml::to_string(value).lines().map(|line| format!("  {line}\n")).collect();
            format!("\n{name}\n{lines}")
        }
        other => format!("\n{name}\n  {}", yaml::to_string(other)),
    }
}

/// The names of a Secret's values: what is secret is not shown by the way.
fn without_values(data: &Value) -> Value {
    let names = data.as_object().into_iter().flatten();
    Value::Object(names.map(|(name, _)| (name.clone(), "(not shown)".into())).collect::<Map<_, _>>())
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::tests::some;
    use super::*;
    use crate::client::tests::{answer, api};

    #[test]
    fn an_object_of_any_kind_is_described() {
        let kinds = some();
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "n", "labels": {"a": "b"}, "annotations": {"long": "x".repeat(300)},
                "ownerReferences": [{"kind": "Shop", "name": "s"}]},
            "spec": {"replicas": 2, "template": {"image": "i\u{1b}[2J"}},
            "status": {"conditions": [{"type": "Available", "status": "True", "message": "fine"}], "readyReplicas": 1},
        });
        let found = Found { kind: kinds.one("deploy").expect("is there").clone(), object };
        let events =
            vec![json!({"type": "Warning", "reason": "Bad", "message": "because", "source": {"component": "c"}})];
        let text = described(&found, &Ok(events));
        for part in [
            "name:          web\n",
            "Deployment (apps/v1)",
            "owned by:      Shop/s\n",
            "\nspec\n  replicas: 2\n  template:\n    image: \"i\\u001b[2J\"\n",
            "\nstatus\n  readyReplicas: 1\n",
            "  Available   True",
            "Bad      <unknown>   c      because",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains(&"x".repeat(101)) && !text.contains('\u{1b}'), "{text}");
        let refused = described(&found, &Err(shared_proto::failure::Code::TargetForbidden.on("no")));
        assert!(refused.contains("could not be read: no [target_forbidden]"), "{refused}");
    }

    #[tokio::test]
    async fn a_pod_is_described_also_where_its_events_are_refused() {
        let refused = |code: &str| {
            answer(403, &format!(r#"{{"error": {{"code": "{code}", "message": "list events is denied"}}}}"#))
        };
        let object = r#"{"metadata": {"name": "web", "namespace": "n", "uid": "u", "managedFields": []}, "status": {"phase": "Running"}}"#;
        for (whole, events) in [("policy_denied", "policy_denied"), ("", "target_forbidden")] {
            let client = api(move |asked| match asked.path.as_str() {
                "/api/v1/connections/c/k8s/namespaces/n/pods/web" if whole.is_empty() => {
                    answer(200, &format!(r#"{{"summary": {{"name": "web"}}, "object": {object}, "events": []}}"#))
                }
                "/api/v1/connections/c/k8s/namespaces/n/pods/web" => refused(whole),
                "/api/v1/connections/c/kubernetes/api/v1/namespaces/n/pods/web" => answer(200, object),
                path => {
                    assert!(path.starts_with("/api/v1/connections/c/kubernetes/api/v1/namespaces/n/events?"), "{path}");
                    refused(events)
                }
            })
            .await;
            let pod = PodName { pod: "web".into(), namespace: Some("n".into()) };
            let (one, withheld) = read_pod(&pod, &Api::to(client), &[]).await.expect("the pod");
            assert_eq!((&one["summary"]["name"], &one["events"]), (&json!("web"), &Value::Null));
            let text = pods::describe(&one, withheld.as_ref());
            let line = format!("\nevents\n  could not be read: list events is denied [{events}]\n");
            assert!(text.ends_with(&line) && !text.contains("none"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_pod_without_events_has_none_and_one_that_is_denied_is_not_shown() {
        let client = api(|asked| match asked.path.contains("/events") {
            true => answer(200, r#"{"items": []}"#),
            false => answer(200, r#"{"object": {"metadata": {"namespace": "n"}}, "events": []}"#),
        })
        .await;
        let pod = PodName { pod: "web".into(), namespace: Some("n".into()) };
        let (one, withheld) = read_pod(&pod, &Api::to(client), &[]).await.expect("the pod");
        assert!(withheld.is_none() && pods::describe(&one, None).ends_with("\nevents\n  none\n"));
        let client = api(|_| answer(403, r#"{"error": {"code": "policy_denied", "message": "no"}}"#)).await;
        let denied = read_pod(&pod, &Api::to(client), &[]).await.expect_err("is denied");
        assert_eq!(denied.code, Code::PolicyDenied);
    }

    #[test]
    fn a_secret_shows_no_value() {
        let text = section("data", &without_values(&json!({"password": "aHVudGVyMg=="})));
        assert_eq!(text, "\ndata\n  password: (not shown)\n".replace("(not", "\"(not").replace("shown)", "shown)\""));
    }
}
