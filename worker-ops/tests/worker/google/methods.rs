//! The methods that there are, and what they give.

use serde_json::{Value, json};

use super::PROJECT;

/// A method, as its reference has it.
pub(super) struct Method {
    pub(super) verb: &'static str,
    pub(super) path: &'static str,
    pub(super) service: &'static str,
    /// The parameters of its query.
    pub(super) query: &'static [&'static str],
    pub(super) paged: Option<Paged>,
    pub(super) items: fn() -> Vec<Value>,
}

/// How it pages: the parameter of the size, its most, and where items and token stand.
#[derive(Clone, Copy)]
pub(super) struct Paged {
    pub(super) size: &'static str,
    pub(super) most: usize,
    pub(super) items: &'static str,
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
const SIZE: &[&str] = &["pageSize", "pageToken"];

/// The methods that there are; each was looked up at `https://cloud.google.com/SERVICE/docs/reference/rest`.
pub(super) const METHODS: &[Method] = &[
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

fn compute(place: &str, collection: &str, name: &str, env: &str) -> Value {
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
