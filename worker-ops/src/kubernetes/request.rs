//! The operations that give one document. Lists are read in pages and passed on piece by piece, so that a cluster of any size takes
//! the memory of one page.

use http::Method;
use k8s_openapi::List;
use k8s_openapi::ListableResource;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::version::Info;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared_proto::documents::{self, ConnectionReport, KubernetesEvent, PodDescription};
use shared_proto::failure::Code;
use shared_proto::v1::{K8sDescribePod, K8sListPods, Outcome};

use super::connect::{Cluster, segment};
use super::{errors, status};
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::net::url;
use crate::socket::Output;

/// Objects in one page, as kubectl asks for them.
const PAGE: &str = "500";
/// Events of one object that are looked at: the API server keeps them for an hour, so more would be a flood.
const EVENTS_MAX: usize = 5000;

/// Reaches the API server and says who the connection's credentials are there.
pub(crate) async fn connection_test(cluster: &mut Cluster, output: &mut Output) -> Result<Outcome, Fault> {
    let identity = match user(cluster).await {
        Ok(user) => user.username.unwrap_or_default(),
        // an API server before 1.28, or one that does not let everyone ask: reachable all the same
        Err(fault) if matches!(fault.code(), Code::TargetNotFound | Code::TargetForbidden) => String::new(),
        Err(fault) => return Err(fault),
    };
    // not every user may see the version
    let version = match cluster.get::<Info>("/version").await {
        Ok(info) => Some(info.git_version),
        Err(fault) if fault.code() == Code::TargetForbidden && !identity.is_empty() => None,
        Err(fault) => return Err(fault),
    };
    let identity = if identity.is_empty() { "unknown (the API server does not say)".to_owned() } else { identity };
    Document::whole(output, &ConnectionReport { provider: "kubernetes".to_owned(), identity, version }).await?;
    Ok(done())
}

/// Who the connection's credentials are there.
pub(super) async fn user(cluster: &mut Cluster) -> Result<UserInfo, Fault> {
    let ask = SelfSubjectReview::default();
    let review: SelfSubjectReview = cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &ask).await?;
    Ok(review.status.and_then(|s| s.user_info).unwrap_or_default())
}

/// All namespaces.
pub(crate) async fn list_namespaces(cluster: &mut Cluster, output: &mut Output) -> Result<Outcome, Fault> {
    list(cluster, "/api/v1/namespaces", &[], output, |namespace: Namespace| documents::Namespace {
        name: namespace.metadata.name.unwrap_or_default(),
        phase: namespace.status.and_then(|s| s.phase).unwrap_or_default(),
        created_at: namespace.metadata.creation_timestamp.map(|t| t.0.to_string()),
        labels: namespace.metadata.labels.unwrap_or_default(),
    })
    .await
}

/// Pods of a namespace or of all, by label and field selectors.
pub(crate) async fn list_pods(
    cluster: &mut Cluster,
    request: &K8sListPods,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let path = if request.all_namespaces {
        "/api/v1/pods".to_owned()
    } else {
        format!("/api/v1/namespaces/{}/pods", segment("namespace", cluster.namespace(&request.namespace))?)
    };
    let mut query = Vec::new();
    if !request.label_selector.is_empty() {
        query.push(("labelSelector", request.label_selector.as_str()));
    }
    if !request.field_selector.is_empty() {
        query.push(("fieldSelector", request.field_selector.as_str()));
    }
    list(cluster, &path, &query, output, status::summary).await
}

/// One pod as the API server has it, with its events.
pub(crate) async fn describe_pod(
    cluster: &mut Cluster,
    request: &K8sDescribePod,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let namespace = segment("namespace", cluster.namespace(&request.namespace))?;
    let name = segment("pod", &request.pod)?;
    let mut object: serde_json::Value = cluster.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await?;
    if let Some(metadata) = object.get_mut("metadata").and_then(|m| m.as_object_mut()) {
        metadata.remove("managedFields");
    }
    let pod: Pod = serde_json::from_value(object.clone())
        .map_err(|e| Fault::new(Code::TargetFailed, format!("the pod is not what this version understands: {e}")))?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let (events, withheld) = match events(cluster, &namespace, &request.pod, &uid).await {
        Ok(events) => (events, None),
        // who may see the pod may not see its events: the pod is worth showing
        Err(fault) if fault.code() == Code::TargetForbidden => (Vec::new(), Some(fault.failure.message)),
        Err(fault) => return Err(fault),
    };
    Document::whole(output, &PodDescription { summary: status::summary(pod), object, events }).await?;
    Ok(Outcome { message: withheld.map(|w| format!("without events: {w}")).unwrap_or_default(), ..done() })
}

async fn events(cluster: &mut Cluster, namespace: &str, pod: &str, uid: &str) -> Result<Vec<KubernetesEvent>, Fault> {
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let selector = format!("involvedObject.name={pod},involvedObject.namespace={namespace},involvedObject.uid={uid}");
    let mut pages = Pages::new(path, &[("fieldSelector", selector.as_str())]);
    let mut found: Vec<(Option<Timestamp>, KubernetesEvent)> = Vec::new();
    while let Some(page) = pages.next::<Event>(cluster).await? {
        found.extend(page.into_iter().map(event));
        if found.len() >= EVENTS_MAX {
            break;
        }
    }
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, event)| event).collect())
}

/// When an event was last seen, and what is shown of it.
fn event(event: Event) -> (Option<Timestamp>, KubernetesEvent) {
    // an event has its time and its count in one of two places, by who reported it
    let at = event
        .series
        .as_ref()
        .and_then(|s| s.last_observed_time.as_ref().map(|t| t.0))
        .or(event.last_timestamp.map(|t| t.0))
        .or(event.event_time.map(|t| t.0))
        .or(event.first_timestamp.map(|t| t.0))
        .or(event.metadata.creation_timestamp.map(|t| t.0));
    let count = event.series.and_then(|s| s.count).or(event.count).unwrap_or(1);
    let component = event.source.as_ref().and_then(|s| s.component.clone()).filter(|c| !c.is_empty());
    let shown = KubernetesEvent {
        kind: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        source: component.or(event.reporting_component).unwrap_or_default(),
        count: u32::try_from(count).unwrap_or(0).max(1),
        last_seen: at.map(|t| t.to_string()),
    };
    (at, shown)
}

/// Reads a list and passes it on as `{"items":[…]}`.
pub(super) async fn list<T, D, F>(
    cluster: &mut Cluster,
    path: &str,
    query: &[(&str, &str)],
    output: &mut Output,
    show: F,
) -> Result<Outcome, Fault>
where
    T: ListableResource + DeserializeOwned,
    D: Serialize,
    F: Fn(T) -> D,
{
    let mut pages = Pages::new(path.to_owned(), query);
    let mut document = Document::list(output);
    while let Some(page) = pages.next::<T>(cluster).await? {
        for item in page {
            document.item(&show(item)).await?;
        }
    }
    document.end("").await?;
    Ok(done())
}

/// The pages of one list.
pub(super) struct Pages {
    path: String,
    query: String,
    /// `None` after the last page.
    token: Option<String>,
}

// === impl Pages ===

impl Pages {
    pub(super) fn new(path: String, query: &[(&str, &str)]) -> Self {
        let query = url::form(query.iter().copied().chain([("limit", PAGE)]));
        Self { path, query, token: Some(String::new()) }
    }

    async fn next<T: ListableResource + DeserializeOwned>(
        &mut self,
        cluster: &mut Cluster,
    ) -> Result<Option<Vec<T>>, Fault> {
        let Some(uri) = self.uri() else { return Ok(None) };
        let page: List<T> = match cluster.get(&uri).await {
            Ok(page) => page,
            Err(fault) => {
                self.newer(cluster, fault).await?;
                cluster.get(&self.uri().unwrap_or_default()).await?
            }
        };
        self.after(page.metadata.continue_.unwrap_or_default());
        Ok(Some(page.items))
    }

    /// Where the next page is; none after the last one.
    pub(super) fn uri(&self) -> Option<String> {
        let Self { path, query, token } = self;
        let token = token.as_deref()?;
        Some(match token {
            "" => format!("{path}?{query}"),
            token => format!("{path}?{query}&continue={}", url::encode(token)),
        })
    }

    /// What a page says of the next one.
    pub(super) fn after(&mut self, token: String) {
        self.token = Some(token).filter(|t| !t.is_empty());
    }

    /// Goes on after a page that did not come, if that is because the list took longer than the API server keeps its snapshot: it gives a token
    /// to go on with from the present.
    ///
    /// # Errors
    /// The fault itself, where that is not why.
    pub(super) async fn newer(&mut self, cluster: &mut Cluster, fault: Fault) -> Result<(), Fault> {
        let Some(uri) = self.uri().filter(|_| fault.status == 410 && self.token.as_deref() != Some("")) else {
            return Err(fault);
        };
        let request = cluster.request(Method::GET, &uri, bytes::Bytes::new())?;
        self.token = Some(errors::continuation(&cluster.send_any(request).await?).ok_or(fault)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_dated_by_whoever_reported_them() {
        let parse = |value| event(serde_json::from_value(value).expect("an event"));
        let (at, old) = parse(json!({
            "metadata": {}, "involvedObject": {}, "type": "Warning", "reason": "BackOff", "message": "m", "count": 4,
            "source": {"component": "kubelet"}, "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": "2026-01-02T00:00:00Z"
        }));
        assert_eq!(
            (old.count, old.source.as_str(), old.last_seen.as_deref()),
            (4, "kubelet", Some("2026-01-02T00:00:00Z"))
        );
        let (later, new) = parse(json!({
            "metadata": {}, "involvedObject": {}, "eventTime": "2026-01-02T00:00:00.000000Z",
            "reportingComponent": "scheduler",
            "series": {"count": 9, "lastObservedTime": "2026-01-03T00:00:00.000000Z"}
        }));
        assert_eq!((new.count, new.source.as_str()), (9, "scheduler"));
        assert!(at < later);
    }
}
