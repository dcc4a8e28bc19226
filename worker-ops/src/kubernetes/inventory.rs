//! What is asked of any provider, of a cluster: who, where, and which resources. Resources are listed as the API server's own tables, which know
//! the state of any kind; of the objects themselves only their metadata comes, so no Secret's values do.

use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, HeaderValue};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;
use shared_proto::documents::{Identity, Place, Resource};
use shared_proto::failure::Code;
use shared_proto::inventory::{CLUSTER_WIDE, is_of_v1, list_target, resource_and_group};
use shared_proto::v1::{ListResources, Outcome};

use super::connect::{Cluster, segment};
use super::request::{self, Pages};
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::{Found, text, texts};
use crate::socket::Output;

/// With each row the metadata of its object: https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// Columns that say how it is, the best first.
const STATES: [&str; 2] = ["Status", "Ready"];

/// Who the connection's credentials are, and which namespace is the connection's own.
pub(crate) async fn who_am_i(cluster: &mut Cluster, output: &mut Output) -> Result<Outcome, Fault> {
    let user = match request::user(cluster).await {
        Ok(user) => user,
        // an API server before 1.28, or one that does not let everyone ask
        Err(fault) if matches!(fault.code(), Code::TargetNotFound | Code::TargetForbidden) => UserInfo::default(),
        Err(fault) => return Err(fault),
    };
    let identity = Identity {
        provider: "kubernetes".to_owned(),
        principal: user.username.unwrap_or_default(),
        id: user.uid.unwrap_or_default(),
        account: String::new(),
        place: Some(cluster.namespace("").to_owned()),
    };
    Document::whole(output, &identity).await?;
    Ok(done())
}

/// The namespaces.
pub(crate) async fn list_places(cluster: &mut Cluster, output: &mut Output) -> Result<Outcome, Fault> {
    request::list(cluster, "/api/v1/namespaces", &[], output, |namespace: Namespace| Place {
        name: namespace.metadata.name.unwrap_or_default(),
        kind: "namespace".to_owned(),
        title: String::new(),
        state: namespace.status.and_then(|s| s.phase).unwrap_or_default(),
    })
    .await
}

/// Resources of one namespace or of all.
pub(crate) async fn list(cluster: &mut Cluster, list: &ListResources, output: &mut Output) -> Result<Outcome, Fault> {
    let mut found = Found::new(list, output);
    for name in &list.types {
        // it is in no namespace
        if !list.place.is_empty() && CLUSTER_WIDE.contains(&name.as_str()) {
            continue;
        }
        match of_type(cluster, name, list, &mut found).await {
            Ok(()) => {}
            Err(fault) if found.is_alone() => return Err(fault),
            Err(fault) => found.failed(name, &fault),
        }
        if found.is_full() {
            break;
        }
    }
    found.end().await
}

async fn of_type(cluster: &mut Cluster, name: &str, list: &ListResources, found: &mut Found<'_>) -> Result<(), Fault> {
    let path = path(cluster, name, &list.place).await?;
    let selectors: Vec<String> =
        list.tags.iter().map(|(k, v)| if v.is_empty() { k.clone() } else { format!("{k}={v}") }).collect();
    let selector = selectors.join(",");
    let mut query = vec![("includeObject", "Metadata")];
    if !selector.is_empty() {
        query.push(("labelSelector", selector.as_str()));
    }
    let mut pages = Pages::new(path, &query);
    while let Some(uri) = pages.uri() {
        let mut request = cluster.request(Method::GET, &uri, Bytes::new())?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(TABLE));
        let page: Value = match cluster.document(request).await {
            Ok(page) => page,
            Err(fault) => {
                pages.newer(cluster, fault).await?;
                continue;
            }
        };
        pages.after(text(&page, "/metadata/continue"));
        let column = |name: &str| array(&page, "columnDefinitions").iter().position(|c| text(c, "/name") == name);
        let state = STATES.iter().find_map(|state| column(state));
        for row in array(&page, "rows") {
            let cell = state.and_then(|n| array(row, "cells").get(n));
            let resource = resource(name, &row["object"]["metadata"], cell);
            if !found.add(&resource).await? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn resource(type_name: &str, metadata: &Value, state: Option<&Value>) -> Resource {
    let (namespace, name) = (text(metadata, "/namespace"), text(metadata, "/name"));
    Resource {
        type_name: type_name.to_owned(),
        id: if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") },
        name,
        location: namespace,
        state: state.map(|s| s.as_str().map_or_else(|| s.to_string(), str::to_owned)).unwrap_or_default(),
        tags: texts(metadata.get("labels")),
        created_at: Some(text(metadata, "/creationTimestamp")).filter(|t| !t.is_empty()),
        ..Default::default()
    }
}

/// Where a type is listed. The groups of the table have a version that every API server has; another one says which it has.
async fn path(cluster: &mut Cluster, name: &str, namespace: &str) -> Result<String, Fault> {
    let (resource, group) = resource_and_group(name);
    segment("type", resource)?;
    let version = if is_of_v1(group) {
        "v1".to_owned()
    } else {
        let group = segment("group", group)?;
        let about: Value = cluster.get(&format!("/apis/{group}")).await?;
        segment("version", &text(&about, "/preferredVersion/version"))?
    };
    if !namespace.is_empty() {
        segment("namespace", namespace)?;
    }
    Ok(list_target(name, &version, namespace))
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
