//! The types, each with where the service's own reference documents its list.

use super::{Id, Name, Paged, Shape};

const MAX_500: &[(&str, &str)] = &[("maxResults", "500")];
const SIZE_500: &[(&str, &str)] = &[("pageSize", "500")];
/// What could not be asked is named, and the rest is there.
const PARTIAL: &[(&str, &str)] = &[("maxResults", "500"), ("returnPartialSuccess", "true")];

/// Most types are like this one.
const PLAIN: Shape = Shape {
    type_name: "",
    service: "",
    list: "",
    query: SIZE_500,
    items: "",
    paged: Paged::Token,
    id: Id::Name(""),
    collection: "",
    get: "/v1/",
    name: Name::Last,
    location: "",
    state: "/state",
    labels: "/labels",
    created: "/createTime",
    page: "",
};
/// <https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList>
const COMPUTE: Shape = Shape {
    service: "compute",
    query: PARTIAL,
    id: Id::Link("//compute.googleapis.com/"),
    get: "/compute/v1/",
    state: "/status",
    created: "/creationTimestamp",
    ..PLAIN
};

/// Those of `inventory`'s table, in its order.
pub(in crate::gcp) const SHAPES: &[Shape] = &[
    Shape {
        type_name: "compute.googleapis.com/Instance",
        list: "/compute/v1/projects/{project}/aggregated/instances",
        items: "instances",
        paged: Paged::Aggregated,
        collection: "instances",
        page: "compute/instancesDetail/zones/{location}/instances/{name}",
        ..COMPUTE
    },
    Shape {
        type_name: "compute.googleapis.com/Disk",
        list: "/compute/v1/projects/{project}/aggregated/disks",
        items: "disks",
        paged: Paged::Aggregated,
        collection: "disks",
        page: "compute/disksDetail/zones/{location}/disks/{name}",
        ..COMPUTE
    },
    Shape {
        type_name: "compute.googleapis.com/Network",
        list: "/compute/v1/projects/{project}/global/networks",
        items: "items",
        collection: "networks",
        page: "networking/networks/details/{name}",
        ..COMPUTE
    },
    Shape {
        type_name: "compute.googleapis.com/Subnetwork",
        list: "/compute/v1/projects/{project}/aggregated/subnetworks",
        items: "subnetworks",
        paged: Paged::Aggregated,
        collection: "subnetworks",
        page: "networking/subnetworks/details/{location}/{name}",
        ..COMPUTE
    },
    Shape {
        type_name: "compute.googleapis.com/Firewall",
        list: "/compute/v1/projects/{project}/global/firewalls",
        items: "items",
        collection: "firewalls",
        page: "networking/firewalls/details/{name}",
        ..COMPUTE
    },
    Shape {
        type_name: "compute.googleapis.com/Address",
        list: "/compute/v1/projects/{project}/aggregated/addresses",
        items: "addresses",
        paged: Paged::Aggregated,
        collection: "addresses",
        page: "networking/addresses/list",
        ..COMPUTE
    },
    // https://cloud.google.com/kubernetes-engine/docs/reference/rest/v1/projects.locations.clusters/list
    Shape {
        type_name: "container.googleapis.com/Cluster",
        service: "container",
        list: "/v1/projects/{project}/locations/-/clusters",
        query: &[],
        items: "clusters",
        id: Id::Link("//container.googleapis.com/"),
        collection: "clusters",
        state: "/status",
        labels: "/resourceLabels",
        page: "kubernetes/clusters/details/{location}/{name}/details",
        ..PLAIN
    },
    // https://cloud.google.com/sql/docs/mysql/admin-api/rest/v1/instances/list
    Shape {
        type_name: "sqladmin.googleapis.com/Instance",
        service: "sqladmin",
        list: "/v1/projects/{project}/instances",
        query: MAX_500,
        items: "items",
        id: Id::Under("//cloudsql.googleapis.com/projects/{project}/instances/", "/name"),
        collection: "instances",
        location: "/region",
        labels: "/settings/userLabels",
        page: "sql/instances/{name}/overview",
        ..PLAIN
    },
    // https://cloud.google.com/storage/docs/json_api/v1/buckets/list
    Shape {
        type_name: "storage.googleapis.com/Bucket",
        service: "storage",
        list: "/storage/v1/b",
        query: MAX_500,
        items: "items",
        id: Id::Under("//storage.googleapis.com/", "/name"),
        collection: "",
        get: "/storage/v1/b/",
        location: "/location",
        created: "/timeCreated",
        page: "storage/browser/{name}",
        ..PLAIN
    },
    // by version 1, whose global host lists every region's: version 2 takes one region at a time
    // https://cloud.google.com/run/docs/reference/rest/v1/projects.locations.services/list
    Shape {
        type_name: "run.googleapis.com/Service",
        service: "run",
        list: "/v1/projects/{project}/locations/-/services",
        query: &[("limit", "500")],
        items: "items",
        paged: Paged::Continue,
        id: Id::Run,
        collection: "services",
        get: "/v2/",
        labels: "/metadata/labels",
        created: "/metadata/creationTimestamp",
        page: "run/detail/{location}/{name}",
        ..PLAIN
    },
    // https://cloud.google.com/functions/docs/reference/rest/v2/projects.locations.functions/list
    Shape {
        type_name: "cloudfunctions.googleapis.com/Function",
        service: "cloudfunctions",
        list: "/v2/projects/{project}/locations/-/functions",
        items: "functions",
        id: Id::Name("//cloudfunctions.googleapis.com/"),
        collection: "functions",
        get: "/v2/",
        page: "functions/details/{location}/{name}",
        ..PLAIN
    },
    // https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.topics/list
    Shape {
        type_name: "pubsub.googleapis.com/Topic",
        service: "pubsub",
        list: "/v1/projects/{project}/topics",
        items: "topics",
        id: Id::Name("//pubsub.googleapis.com/"),
        collection: "topics",
        page: "cloudpubsub/topic/detail/{name}",
        ..PLAIN
    },
    // https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.subscriptions/list
    Shape {
        type_name: "pubsub.googleapis.com/Subscription",
        service: "pubsub",
        list: "/v1/projects/{project}/subscriptions",
        items: "subscriptions",
        id: Id::Name("//pubsub.googleapis.com/"),
        collection: "subscriptions",
        page: "cloudpubsub/subscription/detail/{name}",
        ..PLAIN
    },
    // https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/list
    Shape {
        type_name: "iam.googleapis.com/ServiceAccount",
        service: "iam",
        list: "/v1/projects/{project}/serviceAccounts",
        query: &[("pageSize", "100")],
        items: "accounts",
        id: Id::Under("//iam.googleapis.com/projects/{project}/serviceAccounts/", "/uniqueId"),
        collection: "serviceAccounts",
        name: Name::At("/email"),
        page: "iam-admin/serviceaccounts/details/{last}",
        ..PLAIN
    },
    // https://cloud.google.com/bigquery/docs/reference/rest/v2/datasets/list
    Shape {
        type_name: "bigquery.googleapis.com/Dataset",
        service: "bigquery",
        list: "/bigquery/v2/projects/{project}/datasets",
        query: MAX_500,
        items: "datasets",
        id: Id::Under("//bigquery.googleapis.com/projects/{project}/datasets/", "/datasetReference/datasetId"),
        collection: "datasets",
        get: "/bigquery/v2/",
        location: "/location",
        page: "bigquery",
        ..PLAIN
    },
    // the names of secrets and what is said of them, never a version's content
    // https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets/list
    Shape {
        type_name: "secretmanager.googleapis.com/Secret",
        service: "secretmanager",
        list: "/v1/projects/{project}/secrets",
        items: "secrets",
        id: Id::Name("//secretmanager.googleapis.com/"),
        collection: "secrets",
        page: "security/secret-manager/secret/{name}",
        ..PLAIN
    },
    // https://cloud.google.com/artifact-registry/docs/reference/rest/v1/projects.locations.repositories/list
    Shape {
        type_name: "artifactregistry.googleapis.com/Repository",
        service: "artifactregistry",
        list: "/v1/projects/{project}/locations/-/repositories",
        items: "repositories",
        id: Id::Name("//artifactregistry.googleapis.com/"),
        collection: "repositories",
        page: "artifacts",
        ..PLAIN
    },
    // https://cloud.google.com/dns/docs/reference/rest/v1/managedZones/list
    Shape {
        type_name: "dns.googleapis.com/ManagedZone",
        service: "dns",
        list: "/dns/v1/projects/{project}/managedZones",
        query: MAX_500,
        items: "managedZones",
        id: Id::Under("//dns.googleapis.com/projects/{project}/managedZones/", "/id"),
        collection: "managedZones",
        get: "/dns/v1/",
        name: Name::At("/name"),
        created: "/creationTime",
        page: "net-services/dns/zones/{name}",
        ..PLAIN
    },
    // https://cloud.google.com/memorystore/docs/redis/reference/rest/v1/projects.locations.instances/list
    Shape {
        type_name: "redis.googleapis.com/Instance",
        service: "redis",
        list: "/v1/projects/{project}/locations/-/instances",
        items: "instances",
        id: Id::Name("//redis.googleapis.com/"),
        collection: "instances",
        page: "memorystore/redis/locations/{location}/instances/{name}/details",
        ..PLAIN
    },
    // https://cloud.google.com/spanner/docs/reference/rest/v1/projects.instances/list
    Shape {
        type_name: "spanner.googleapis.com/Instance",
        service: "spanner",
        list: "/v1/projects/{project}/instances",
        items: "instances",
        id: Id::Name("//spanner.googleapis.com/"),
        collection: "instances",
        page: "spanner/instances/{name}",
        ..PLAIN
    },
    // https://cloud.google.com/logging/docs/reference/v2/rest/v2/projects.sinks/list
    Shape {
        type_name: "logging.googleapis.com/LogSink",
        service: "logging",
        list: "/v2/projects/{project}/sinks",
        items: "sinks",
        id: Id::Under("//logging.googleapis.com/projects/{project}/sinks/", "/name"),
        collection: "sinks",
        get: "/v2/",
        page: "logs/router",
        ..PLAIN
    },
];
