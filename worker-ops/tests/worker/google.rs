//! Google Cloud's services as their references document them, on one address: what is asked is checked as Google checks it, and refused in
//! its words. What Google would not even find is remembered, and fails the test that looks.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::server::{Answer, Asked, Server};

pub(crate) const TOKEN: &str = "ya29.s3cr3t-token";
pub(crate) const PROJECT: &str = "shop-prod-1";

/// What this Google is like.
#[derive(Clone, Default)]
pub(crate) struct World {
    /// Services whose API is not enabled in the project.
    pub(crate) disabled: &'static [&'static str],
    /// Services that the account may not ask.
    pub(crate) forbidden: &'static [&'static str],
    /// The project that has to be billed.
    pub(crate) quota_project: Option<&'static str>,
    /// Items of a page, however many are asked for: a service may always give fewer.
    pub(crate) page: usize,
    /// What comes in the place of a path's answer, once it was asked as it should be.
    pub(crate) instead: BTreeMap<&'static str, Answer>,
    pub(crate) logs: Arc<Mutex<Vec<Value>>>,
}

pub(crate) struct Google {
    pub(crate) server: Server,
    strange: Arc<Mutex<Vec<String>>>,
}

/// A method, as its reference has it.
struct Method {
    verb: &'static str,
    path: &'static str,
    service: &'static str,
    /// The parameters of its query.
    query: &'static [&'static str],
    paged: Option<Paged>,
    items: fn() -> Vec<Value>,
}

/// How it pages: the parameter of the size, its most, and where items and token stand.
#[derive(Clone, Copy)]
struct Paged {
    size: &'static str,
    most: usize,
    items: &'static str,
}

const fn get(
    path: &'static str,
    service: &'static str,
    query: &'static [&'static str],
    paged: Option<Paged>,
    items: fn() -> Vec<Value>,
) -> Method {
    Method { verb: "GET", path, service, query, paged, items }
}
const fn paged(size: &'static str, most: usize, items: &'static str) -> Option<Paged> {
    Some(Paged { size, most, items })
}

const COMPUTE: &[&str] = &["maxResults", "pageToken", "returnPartialSuccess"];
const MAX: &[&str] = &["maxResults", "pageToken"];
const SIZE: &[&str] = &["pageSize", "pageToken"];

/// The methods that there are; each was looked up at `https://cloud.google.com/SERVICE/docs/reference/rest`.
const METHODS: &[Method] = &[
    // https://cloud.google.com/resource-manager/reference/rest/v3/projects/search
    get(
        "/v3/projects:search",
        "cloudresourcemanager",
        &["query", "pageSize", "pageToken"],
        paged("pageSize", 1000, "projects"),
        || {
            let project = |id: &str, name: &str, state: &str| json!({"name": "projects/123456789012", "projectId": id, "displayName": name, "state": state});
            vec![
                project(PROJECT, "The shop", "ACTIVE"),
                project("lab-1", "lab-1", "ACTIVE"),
                project("old-1", "Old", "DELETE_REQUESTED"),
            ]
        },
    ),
    // https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList
    get(
        "/compute/v1/projects/shop-prod-1/aggregated/instances",
        "compute",
        COMPUTE,
        paged("maxResults", 500, "instances"),
        || {
            vec![
                compute("zones/europe-west1-b", "instances", "web-1", "prod"),
                compute("zones/europe-west1-c", "instances", "web-2", "test"),
            ]
        },
    ),
    get(
        "/compute/v1/projects/shop-prod-1/aggregated/disks",
        "compute",
        COMPUTE,
        paged("maxResults", 500, "disks"),
        || vec![compute("zones/europe-west1-b", "disks", "web-1", "prod")],
    ),
    get(
        "/compute/v1/projects/shop-prod-1/global/networks",
        "compute",
        COMPUTE,
        paged("maxResults", 500, "items"),
        || vec![compute("global", "networks", "default", "")],
    ),
    get(
        "/compute/v1/projects/shop-prod-1/aggregated/subnetworks",
        "compute",
        COMPUTE,
        paged("maxResults", 500, "subnetworks"),
        || vec![compute("regions/europe-west1", "subnetworks", "default", "")],
    ),
    get(
        "/compute/v1/projects/shop-prod-1/global/firewalls",
        "compute",
        COMPUTE,
        paged("maxResults", 500, "items"),
        || vec![compute("global", "firewalls", "allow-ssh", "")],
    ),
    get(
        "/compute/v1/projects/shop-prod-1/aggregated/addresses",
        "compute",
        COMPUTE,
        paged("maxResults", 500, "addresses"),
        || vec![compute("regions/europe-west1", "addresses", "front", "prod")],
    ),
    // https://cloud.google.com/compute/docs/reference/rest/v1/instances/get
    get("/compute/v1/projects/shop-prod-1/zones/europe-west1-b/instances/web-1", "compute", &[], None, || {
        vec![compute("zones/europe-west1-b", "instances", "web-1", "prod")]
    }),
    // https://cloud.google.com/kubernetes-engine/docs/reference/rest/v1/projects.locations.clusters/list
    get("/v1/projects/shop-prod-1/locations/-/clusters", "container", &[], None, || {
        vec![json!({"clusters": [cluster()], "missingZones": ["us-east1-b"]})]
    }),
    // https://cloud.google.com/kubernetes-engine/docs/reference/rest/v1/projects.locations.clusters/get
    get("/v1/projects/shop-prod-1/locations/europe-west1-b/clusters/main", "container", &[], None, || vec![cluster()]),
    // https://cloud.google.com/sql/docs/mysql/admin-api/rest/v1/instances/list
    get(
        "/v1/projects/shop-prod-1/instances",
        "sqladmin",
        &["filter", "maxResults", "pageToken"],
        paged("maxResults", 1000, "items"),
        || {
            vec![json!({"name": "orders", "region": "europe-west1", "state": "RUNNABLE", "project": PROJECT,
            "settings": {"userLabels": {"env": "prod"}}, "createTime": "2026-01-02T03:04:05.678Z"})]
        },
    ),
    // https://cloud.google.com/storage/docs/json_api/v1/buckets/list
    get(
        "/storage/v1/b",
        "storage",
        &["project", "maxResults", "pageToken", "prefix", "projection"],
        paged("maxResults", 1000, "items"),
        || vec![bucket("shop-logs", "prod"), bucket("shop-test", "test"), bucket("shop-old", "")],
    ),
    // https://cloud.google.com/storage/docs/json_api/v1/buckets/get
    get("/storage/v1/b/shop-logs", "storage", &["projection"], None, || vec![bucket("shop-logs", "prod")]),
    // https://cloud.google.com/run/docs/reference/rest/v1/projects.locations.services/list
    get(
        "/v1/projects/shop-prod-1/locations/-/services",
        "run",
        &["limit", "continue", "labelSelector"],
        paged("limit", 1000, "items"),
        || {
            let labels = json!({"cloud.googleapis.com/location": "europe-west1", "env": "prod"});
            let metadata = json!({"name": "front", "namespace": "123456789012", "labels": labels, "creationTimestamp": "2026-01-02T03:04:05Z"});
            vec![json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": metadata})]
        },
    ),
    // https://cloud.google.com/functions/docs/reference/rest/v2/projects.locations.functions/list
    get(
        "/v2/projects/shop-prod-1/locations/-/functions",
        "cloudfunctions",
        &["pageSize", "pageToken", "filter", "orderBy"],
        paged("pageSize", 1000, "functions"),
        || vec![named("locations/europe-west1/functions/resize")],
    ),
    // https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.topics/list
    get("/v1/projects/shop-prod-1/topics", "pubsub", SIZE, paged("pageSize", 1000, "topics"), || {
        vec![named("topics/orders")]
    }),
    get("/v1/projects/shop-prod-1/subscriptions", "pubsub", SIZE, paged("pageSize", 1000, "subscriptions"), || {
        vec![named("subscriptions/orders-mail")]
    }),
    // https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/list
    get("/v1/projects/shop-prod-1/serviceAccounts", "iam", SIZE, paged("pageSize", 100, "accounts"), || {
        let email = format!("web@{PROJECT}.iam.gserviceaccount.com");
        vec![
            json!({"name": format!("projects/{PROJECT}/serviceAccounts/{email}"), "uniqueId": "112233", "email": email}),
        ]
    }),
    // https://cloud.google.com/bigquery/docs/reference/rest/v2/datasets/list
    get(
        "/bigquery/v2/projects/shop-prod-1/datasets",
        "bigquery",
        &["all", "filter", "maxResults", "pageToken"],
        paged("maxResults", 1000, "datasets"),
        || {
            vec![
                json!({"id": "shop-prod-1:sales", "datasetReference": {"datasetId": "sales", "projectId": PROJECT}, "location": "EU", "labels": {"env": "prod"}}),
            ]
        },
    ),
    // https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets/list
    get(
        "/v1/projects/shop-prod-1/secrets",
        "secretmanager",
        &["pageSize", "pageToken", "filter"],
        paged("pageSize", 25_000, "secrets"),
        || vec![named("secrets/db-password")],
    ),
    // https://cloud.google.com/artifact-registry/docs/reference/rest/v1/projects.locations.repositories/list
    get(
        "/v1/projects/shop-prod-1/locations/-/repositories",
        "artifactregistry",
        &["pageSize", "pageToken", "filter", "orderBy"],
        paged("pageSize", 1000, "repositories"),
        || vec![named("locations/europe-west1/repositories/images")],
    ),
    // https://cloud.google.com/dns/docs/reference/rest/v1/managedZones/list
    get(
        "/dns/v1/projects/shop-prod-1/managedZones",
        "dns",
        &["maxResults", "pageToken", "dnsName"],
        paged("maxResults", 1000, "managedZones"),
        || {
            vec![
                json!({"id": "987", "name": "shop-example", "dnsName": "shop.example.", "creationTime": "2026-01-02T03:04:05.678Z"}),
            ]
        },
    ),
    // https://cloud.google.com/memorystore/docs/redis/reference/rest/v1/projects.locations.instances/list
    get("/v1/projects/shop-prod-1/locations/-/instances", "redis", SIZE, paged("pageSize", 1000, "instances"), || {
        vec![named("locations/europe-west1/instances/cache")]
    }),
    // https://cloud.google.com/spanner/docs/reference/rest/v1/projects.instances/list
    // on a host of its own, and so of the same path as Cloud SQL's: the names of its parameters tell it here
    get(
        "/v1/projects/shop-prod-1/instances",
        "spanner",
        &["pageSize", "pageToken", "filter"],
        paged("pageSize", 1000, "instances"),
        || vec![named("instances/ledger")],
    ),
    // https://cloud.google.com/logging/docs/reference/v2/rest/v2/projects.sinks/list
    get(
        "/v2/projects/shop-prod-1/sinks",
        "logging",
        &["pageSize", "pageToken", "filter"],
        paged("pageSize", 1000, "sinks"),
        || {
            vec![
                json!({"name": "_Default", "destination": "logging.googleapis.com/x", "createTime": "2026-01-02T03:04:05Z"}),
            ]
        },
    ),
    // https://cloud.google.com/logging/docs/reference/v2/rest/v2/projects.logs/list
    get(
        "/v2/projects/shop-prod-1/logs",
        "logging",
        &["pageSize", "pageToken", "resourceNames"],
        paged("pageSize", 1000, "logNames"),
        || {
            ["syslog", "cloudaudit.googleapis.com%2Factivity", "cloudaudit.googleapis.com%2Fdata_access"]
                .map(|id| json!(format!("projects/{PROJECT}/logs/{id}")))
                .into()
        },
    ),
    // https://cloud.google.com/asset-inventory/docs/reference/rest/v1/TopLevel/searchAllResources
    get(
        "/v1/projects/shop-prod-1:searchAllResources",
        "cloudasset",
        &["query", "assetTypes", "pageSize", "pageToken", "orderBy", "readMask"],
        paged("pageSize", 500, "results"),
        assets,
    ),
    // https://cloud.google.com/docs/authentication/token-types; by the header, as Google's own libraries ask
    Method {
        verb: "POST",
        path: "/tokeninfo",
        service: "oauth2",
        query: &[],
        paged: None,
        items: || vec![tokeninfo()],
    },
];

pub(crate) fn compute(place: &str, collection: &str, name: &str, env: &str) -> Value {
    let link = format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/{place}/{collection}/{name}");
    let mut document = json!({"id": "1", "name": name, "selfLink": link, "creationTimestamp": "2026-01-02T03:04:05.678-08:00", "status": "RUNNING"});
    if !env.is_empty() {
        document["labels"] = json!({"env": env});
    }
    document
}
fn cluster() -> Value {
    let link = format!("https://container.googleapis.com/v1/projects/{PROJECT}/zones/europe-west1-b/clusters/main");
    json!({"name": "main", "selfLink": link, "location": "europe-west1-b", "status": "RUNNING", "resourceLabels": {"env": "prod"}, "createTime": "2026-01-02T03:04:05+00:00"})
}
fn bucket(name: &str, env: &str) -> Value {
    let labels = if env.is_empty() { json!({}) } else { json!({"env": env}) };
    json!({"kind": "storage#bucket", "name": name, "location": "EUROPE-WEST1", "labels": labels, "timeCreated": "2026-01-02T03:04:05.678Z"})
}
fn named(path: &str) -> Value {
    json!({"name": format!("projects/{PROJECT}/{path}"), "state": "ACTIVE", "labels": {"env": "prod"}, "createTime": "2026-01-02T03:04:05Z"})
}
fn tokeninfo() -> Value {
    json!({"azp": "112233", "aud": "112233", "scope": "https://www.googleapis.com/auth/cloud-platform", "exp": "1800000000", "expires_in": "3000", "access_type": "online"})
}

/// What the inventory has: more types than are ever asked for.
fn assets() -> Vec<Value> {
    let asset = |kind: &str, path: &str, env: &str| {
        let host = kind.split('/').next().unwrap_or_default();
        json!({"name": format!("//{host}/projects/{PROJECT}/{path}"), "assetType": kind, "project": "projects/123456789012",
            "displayName": path.rsplit('/').next(), "location": "europe-west1", "state": "ACTIVE", "labels": {"env": env},
            "createTime": "2026-01-02T03:04:05Z", "versionedResources": [{"version": "v1", "resource": {"name": path}}]})
    };
    vec![
        asset("compute.googleapis.com/Instance", "zones/europe-west1-b/instances/web-1", "prod"),
        asset("compute.googleapis.com/Instance", "zones/europe-west1-b/instances/web-2", "test"),
        asset("run.googleapis.com/Service", "locations/europe-west1/services/front", "prod"),
        asset("secretmanager.googleapis.com/Secret", "secrets/db-password", "prod"),
        asset("dataflow.googleapis.com/Job", "locations/europe-west1/jobs/nightly", "prod"),
    ]
}

// === impl Google ===

impl Google {
    pub(crate) async fn start(world: World) -> Result<Self> {
        let strange = Arc::new(Mutex::new(Vec::new()));
        let seen = strange.clone();
        let server = Server::start(move |asked, _| {
            answer(&world, asked).unwrap_or_else(|what| {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what}: {:?}", asked.line));
                (404, "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>".to_owned())
            })
        })
        .await?;
        Ok(Self { server, strange })
    }

    /// Nothing was asked that Google does not have.
    pub(crate) fn clean(&self) -> Result<()> {
        let strange = self.strange.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(strange.is_empty(), "{strange:?}");
        ensure!(self.server.asked().iter().all(|asked| !asked.line.contains("s3cr3t")), "a token in a URL");
        Ok(())
    }

    /// The paths that were asked, in their order, without their queries.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.server.asked().iter().map(|asked| asked.parts().1).collect()
    }
}

/// <https://cloud.google.com/apis/design/errors#http_mapping>
pub(crate) fn error(status: u16, word: &str, message: &str, details: &Value) -> Answer {
    let error = json!({"code": status, "message": message, "status": word, "details": details});
    (status, json!({"error": error}).to_string())
}
fn invalid(message: &str) -> Answer {
    error(400, "INVALID_ARGUMENT", message, &json!([]))
}

/// `Err`: there is no such thing at all.
fn answer(world: &World, asked: &Asked) -> Result<Answer, &'static str> {
    let (verb, path, query) = asked.parts();
    if asked.header("authorization") != format!("Bearer {TOKEN}") {
        if path == "/tokeninfo" {
            return Ok((400, json!({"error": "invalid_token", "error_description": "Invalid Value"}).to_string()));
        }
        return Ok(error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", &json!([])));
    }
    if asked.header("x-goog-user-project") != world.quota_project.unwrap_or_default() {
        return Err("another project is billed");
    }
    if path == "/v2/entries:list" && verb == "POST" {
        let gone = gate(world, "logging").or_else(|| world.instead.get(path.as_str()).cloned());
        return Ok(gone.unwrap_or_else(|| entries(world, asked)));
    }
    let mut methods = METHODS.iter().filter(|m| m.path == path && m.verb == verb).collect::<Vec<_>>();
    methods.sort_by_key(|m| query.iter().filter(|(name, _)| !m.query.contains(&name.as_str())).count());
    let Some(method) = methods.first() else {
        return if path.contains("/gone") {
            Ok(error(404, "NOT_FOUND", "it was not found", &json!([])))
        } else {
            Err("no method")
        };
    };
    if verb == "GET" && !asked.body.is_empty() {
        return Err("a GET with a body");
    }
    if let Some(refused) = gate(world, method.service) {
        return Ok(refused);
    }
    if let Some((name, _)) = query.iter().find(|(name, _)| !method.query.contains(&name.as_str())) {
        return Ok(invalid(&format!(
            "Invalid JSON payload received. Unknown name \"{name}\": Cannot bind query parameter."
        )));
    }
    if let Some(instead) = world.instead.get(path.as_str()) {
        return Ok(instead.clone());
    }
    let value = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    if method.service == "storage" && path == "/storage/v1/b" && value("project") != Some(PROJECT) {
        return Ok(invalid("Required parameter: project"));
    }
    let items = (method.items)();
    let items = if method.service == "cloudasset" { searched(items, &query)? } else { items };
    let Some(paged) = method.paged else { return Ok((200, items[0].to_string())) };
    if value(paged.size).is_some_and(|size| !size.parse().is_ok_and(|n: usize| (1..=paged.most).contains(&n))) {
        return Ok(invalid(&format!("{} is out of range", paged.size)));
    }
    let goes_on = if method.service == "run" { "continue" } else { "pageToken" };
    // a token is of this list: made of its path, and of what else was asked
    let rest: Vec<_> = query.iter().filter(|(n, _)| n != goes_on).collect();
    let mark = format!("{path}{rest:?}").bytes().fold(7_u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let from = match value(goes_on) {
        None => 0,
        Some(token) => match token.strip_prefix(&format!("{mark:x}-")).and_then(|n| n.parse().ok()) {
            Some(from) => from,
            None => return Ok(invalid("page_token is not valid")),
        },
    };
    let size = if world.page == 0 { items.len().max(1) } else { world.page };
    let page: Vec<_> = items.iter().skip(from).take(size).cloned().collect();
    let next = (from + size < items.len()).then(|| format!("{mark:x}-{}", from + size));
    let mut answer = if path.contains("/aggregated/") {
        let mut places = json!({"zones/nowhere-1": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}});
        for item in page {
            let link = item["selfLink"].as_str().unwrap_or_default();
            let place = link.split('/').skip(7).take(2).collect::<Vec<_>>().join("/");
            places[&place][paged.items] = json!([item]);
        }
        json!({"items": places})
    } else if page.is_empty() {
        // as services leave out what is empty
        json!({})
    } else {
        json!({paged.items: page})
    };
    match (next, goes_on) {
        (Some(next), "continue") => answer["metadata"] = json!({"continue": next}),
        (Some(next), _) => answer["nextPageToken"] = json!(next),
        (None, _) => {}
    }
    Ok((200, answer.to_string()))
}

fn gate(world: &World, service: &str) -> Option<Answer> {
    let host = format!("{service}.googleapis.com");
    if world.disabled.contains(&service) {
        let metadata = json!({"service": host, "consumer": "projects/123456789012"});
        let info = json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "domain": "googleapis.com", "metadata": metadata}]);
        let words = format!("{service} API has not been used in project 123456789012 before or it is disabled.");
        return Some(error(403, "PERMISSION_DENIED", &words, &info));
    }
    let words = format!("The caller does not have permission on {service}");
    world.forbidden.contains(&service).then(|| error(403, "PERMISSION_DENIED", &words, &json!([])))
}

/// What the query's labels and name leave, as far as its language is used here.
fn searched(items: Vec<Value>, query: &[(String, String)]) -> Result<Vec<Value>, &'static str> {
    let all = |name: &str| query.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    let types = all("assetTypes");
    if types.is_empty() || types.iter().any(|t| t.contains(['*', '|', '(', '['])) {
        return Err("a search for more than was asked for");
    }
    let terms = all("query").join(" ");
    let fits = |item: &Value| {
        terms.split(" AND ").filter(|t| !t.is_empty()).all(|term| match term.split_once(['=', ':']) {
            Some(("name", name)) => item["name"] == name.trim_matches('"'),
            Some((label, value)) => {
                let held = &item["labels"][label.trim_start_matches("labels.")];
                if value == "*" { held.is_string() } else { held == value }
            }
            None => false,
        })
    };
    // the last of them comes whatever was asked: a worker must not take it
    let stray = |item: &Value| item["assetType"] == "dataflow.googleapis.com/Job" && terms.is_empty();
    let asked = |item: &Value| types.iter().any(|t| item["assetType"] == t.as_str());
    Ok(items.into_iter().filter(|item| (asked(item) && fits(item)) || stray(item)).collect())
}

/// <https://cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list>
fn entries(world: &World, asked: &Asked) -> Answer {
    let Ok(body) = serde_json::from_str::<Value>(&asked.body) else { return invalid("Invalid JSON payload received.") };
    let known = ["resourceNames", "filter", "orderBy", "pageSize", "pageToken"];
    if let Some(name) = body.as_object().into_iter().flatten().map(|(n, _)| n).find(|n| !known.contains(&n.as_str())) {
        return invalid(&format!("Invalid JSON payload received. Unknown name \"{name}\""));
    }
    if asked.header("content-type") != "application/json"
        || body["resourceNames"] != json!([format!("projects/{PROJECT}")])
    {
        return invalid("resource_names is not valid");
    }
    if !(1..=1000).contains(&body["pageSize"].as_u64().unwrap_or(0)) {
        return invalid("page_size is out of range");
    }
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let mut found = world.logs.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for term in text("filter").split(" AND ").filter(|t| !t.is_empty()) {
        // times of one form compare as texts do
        let quoted =
            |prefix: &str| term.strip_prefix(prefix).map(|v| v.trim_matches('"').trim_end_matches('Z').to_owned());
        let at = |e: &Value| e["timestamp"].as_str().unwrap_or_default().trim_end_matches('Z').to_owned();
        if let Some(from) = quoted("timestamp>=") {
            found.retain(|e| at(e) >= from);
        } else if let Some(until) = quoted("timestamp<") {
            found.retain(|e| at(e) < until);
        } else if let Some(log) = term.strip_prefix("logName=") {
            found.retain(|e| e["logName"] == log.trim_matches('"'));
        } else if let Some(severity) = term.strip_prefix("(severity=").and_then(|t| t.strip_suffix("\n)")) {
            found.retain(|e| e["severity"] == severity);
        } else {
            return invalid(&format!("Unparseable filter: {term}"));
        }
    }
    let at = |e: &Value| e["timestamp"].as_str().unwrap_or_default().trim_end_matches('Z').to_owned();
    match text("orderBy").as_str() {
        "timestamp asc" => found.sort_by_key(at),
        "timestamp desc" => found.sort_by_key(|e| std::cmp::Reverse(at(e))),
        _ => return invalid("order_by is not valid"),
    }
    let from: usize = text("pageToken").trim_start_matches("page-").parse().unwrap_or(0);
    let asked_for = body["pageSize"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let size = if world.page == 0 { asked_for } else { world.page.min(asked_for) };
    let page: Vec<_> = found.iter().skip(from).take(size).cloned().collect();
    let mut answer = if page.is_empty() { json!({}) } else { json!({"entries": page}) };
    if from + size < found.len() {
        answer["nextPageToken"] = json!(format!("page-{}", from + size));
    }
    (200, answer.to_string())
}
