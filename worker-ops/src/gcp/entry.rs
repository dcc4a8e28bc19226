//! An entry of a log as a line, and the names of logs.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use shared_proto::documents::LogLine;
use shared_proto::failure::Code;

use super::shapes::last;
use crate::fault::Fault;
use crate::found::text;
use crate::net::url::encode;

/// Labels of a resource that tell it from others of its type, the most telling first.
const TELLING: [&str; 9] = [
    "pod_name",
    "service_name",
    "job_name",
    "function_name",
    "cluster_name",
    "instance_id",
    "database_id",
    "bucket_name",
    "dataset_id",
];

/// The id of a log in its name, as people write it: what stands in it as `%2F` is a slash.
pub(super) fn log_id(name: &str) -> String {
    last(name).replace("%2F", "/").replace("%2f", "/")
}

/// The whole name of a log: of this project where only its id is given.
pub(super) fn log_name(project: &str, source: &str) -> String {
    match source.strip_prefix("projects/").and_then(|rest| rest.split_once("/logs/")) {
        Some((of, id)) => format!("projects/{of}/logs/{}", encode(&id.replace("%2F", "/").replace("%2f", "/"))),
        None => format!("projects/{project}/logs/{}", encode(&source.replace("%2F", "/"))),
    }
}

/// A text in the language of filters. <https://cloud.google.com/logging/docs/view/logging-query-language>
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// When it was, or when it came where it does not say.
pub(super) fn time(entry: &Value) -> String {
    let at = text(entry, "/timestamp");
    if at.is_empty() { text(entry, "/receiveTimestamp") } else { at }
}

pub(super) fn line(entry: &Value) -> Result<Vec<u8>, Fault> {
    let at = time(entry);
    let line = LogLine {
        // whole seconds have no fraction as Google writes them
        time: at.parse::<Timestamp>().map_or(at, |t| format!("{t:.9}").replace("000000Z", "Z")),
        source: source(entry),
        severity: Some(text(entry, "/severity")).filter(|s| s != "DEFAULT").unwrap_or_default(),
        message: message(entry),
    };
    let mut bytes = serde_json::to_vec(&line).map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The type of the resource, and which one it is where that is told.
fn source(entry: &Value) -> String {
    let kind = text(entry, "/resource/type");
    let told = TELLING.iter().map(|label| text(entry, &format!("/resource/labels/{label}"))).find(|t| !t.is_empty());
    match told {
        Some(name) => format!("{kind}/{name}"),
        None => kind,
    }
}

/// Its text; one line of JSON where it has none.
fn message(entry: &Value) -> String {
    if let Some(said) = entry.get("textPayload").and_then(Value::as_str) {
        return said.trim_end_matches(['\r', '\n']).to_owned();
    }
    if let Some(document) = entry.get("jsonPayload") {
        let said = ["message", "msg"].iter().find_map(|name| document.get(*name)?.as_str());
        return said.map_or_else(|| document.to_string(), |s| s.trim_end_matches(['\r', '\n']).to_owned());
    }
    let other = ["protoPayload", "httpRequest"].iter().find_map(|name| entry.get(*name));
    other.map(Value::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_log_has_one_name() {
        assert_eq!(
            log_id("projects/p/logs/cloudaudit.googleapis.com%2Factivity"),
            "cloudaudit.googleapis.com/activity"
        );
        for source in ["cloudaudit.googleapis.com/activity", "projects/p/logs/cloudaudit.googleapis.com%2Factivity"] {
            assert_eq!(log_name("p", source), "projects/p/logs/cloudaudit.googleapis.com%2Factivity");
        }
        assert_eq!(log_name("p", "x\" OR \"y"), "projects/p/logs/x%22%20OR%20%22y");
    }

    #[test]
    fn what_an_entry_says() {
        for (payload, expected) in [
            (json!({"textPayload": "a\nb\n"}), "a\nb"),
            (json!({"jsonPayload": {"message": "m", "x": 1}}), "m"),
            (json!({"jsonPayload": {"x": 1}}), r#"{"x":1}"#),
            (json!({"protoPayload": {"methodName": "m"}}), r#"{"methodName":"m"}"#),
            (json!({}), ""),
        ] {
            assert_eq!(message(&payload), expected);
        }
        let line = |at: &str| {
            let bytes = line(&json!({"timestamp": at})).expect("a line");
            serde_json::from_slice::<LogLine>(&bytes).expect("JSON").time
        };
        assert_eq!(line("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00.000Z");
        assert_eq!(line("2026-01-01T00:00:00.123456789Z"), "2026-01-01T00:00:00.123456789Z");
        assert_eq!(line("2026-01-01T00:00:00.120Z"), "2026-01-01T00:00:00.120Z");
        let of = json!({"resource": {"type": "k8s_container", "labels": {"cluster_name": "c", "pod_name": "web-1"}}});
        assert_eq!(source(&of), "k8s_container/web-1");
    }
}
