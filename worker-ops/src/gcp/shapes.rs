//! How each type of the table is listed and got, and what of its document is told, as data.
//!
//! A resource's id is its full resource name, as Cloud Asset Inventory has it, whichever way it was found:
//! <https://cloud.google.com/asset-inventory/docs/resource-name-format>.

mod table;

use serde_json::Value;
use shared_proto::documents::Resource;
use shared_proto::inventory;

use self::table::SHAPES;
use crate::found::{text, texts};
use crate::net::url::encode;

/// The longest full resource name, bytes.
const ID_MAX: usize = 1024;

/// One type.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) type_name: &'static str,
    /// The first label of the service's host.
    pub(super) service: &'static str,
    /// The path of its list, with `{project}` in it.
    pub(super) list: &'static str,
    /// Added to the query of every page.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// The member that has the items; of an aggregated list: of each place's.
    pub(super) items: &'static str,
    pub(super) paged: Paged,
    id: Id,
    /// What stands before the last but one segment of an id that is got.
    collection: &'static str,
    /// The path of its get, to which the id's path is added.
    get: &'static str,
    name: Name,
    /// Pointers into its document.
    location: &'static str,
    state: &'static str,
    labels: &'static str,
    created: &'static str,
    /// The path of its page in the console, with `{name}` and `{location}` in it.
    page: &'static str,
}

/// How a list goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paged {
    /// `nextPageToken`, `pageToken`.
    Token,
    /// The same, and the items stand by place.
    Aggregated,
    /// `metadata.continue`, `continue`.
    Continue,
}

/// Where an id comes from.
#[derive(Debug, Clone, Copy)]
enum Id {
    /// The document's link, from its `projects/` on, after this host.
    Link(&'static str),
    /// Its name, which is the whole path, after this host.
    Name(&'static str),
    /// This, with `{project}` and what a pointer leads to.
    Under(&'static str, &'static str),
    /// A service of Cloud Run, whose place is a label.
    Run,
}

/// What people call it.
#[derive(Debug, Clone, Copy)]
enum Name {
    /// The last segment of its id.
    Last,
    /// What a pointer leads to.
    At(&'static str),
}

/// The shape of a type, whatever the case of its name.
pub(super) fn find(type_name: &str) -> Option<&'static Shape> {
    let known = inventory::find("gcp", type_name)?;
    SHAPES.iter().find(|shape| shape.type_name == known.name)
}

// === impl Shape ===

impl Shape {
    /// The path of its list.
    pub(super) fn list_path(&self, project: &str) -> String {
        self.list.replace("{project}", &encode(project))
    }

    /// The path by which one is got; `None`: that is no id of this type.
    pub(super) fn get_path(&self, id: &str) -> Option<String> {
        let (host, path) = id.strip_prefix("//")?.split_once('/')?;
        let plain = |s: &str| !s.is_empty() && s != "." && s != ".." && !s.chars().any(char::is_control);
        let segments: Vec<&str> = path.split('/').collect();
        let ours = self.id_host() == host && id.len() <= ID_MAX && segments.iter().all(|s| plain(s));
        let fits = match (self.collection, segments.as_slice()) {
            ("", [_]) => true,
            (collection, ["projects", .., found, _]) => *found == collection,
            _ => false,
        };
        if !ours || !fits {
            return None;
        }
        // GKE's clusters have the zone or region that the API asks for as a location
        let places = self.service == "container";
        let segment =
            |s: &&str| if places && matches!(*s, "zones" | "regions") { "locations".to_owned() } else { encode(s) };
        Some(format!("{}{}", self.get, segments.iter().map(segment).collect::<Vec<_>>().join("/")))
    }

    /// The host that ids of this type begin with.
    fn id_host(&self) -> &'static str {
        let prefix = match self.id {
            Id::Link(prefix) | Id::Name(prefix) | Id::Under(prefix, _) => prefix,
            Id::Run => "//run.googleapis.com/",
        };
        prefix.trim_start_matches('/').split('/').next().unwrap_or_default()
    }

    /// What a document of a list tells; `None`: it tells not which resource it is.
    pub(super) fn resource(&self, document: &Value, project: &str) -> Option<Resource> {
        let named = |pointer: &str| Some(text(document, pointer)).filter(|t| !t.is_empty());
        let id = match self.id {
            Id::Link(host) => {
                let link = named("/selfLink")?;
                format!("{host}{}", &link[link.find("projects/")?..])
            }
            Id::Name(host) => format!("{host}{}", named("/name")?),
            Id::Under(prefix, pointer) => format!("{}{}", prefix.replace("{project}", project), named(pointer)?),
            Id::Run => format!(
                "//run.googleapis.com/projects/{project}/locations/{}/services/{}",
                text(document, "/metadata/labels/cloud.googleapis.com~1location"),
                named("/metadata/name")?
            ),
        };
        let resource = Resource {
            type_name: self.type_name.to_owned(),
            name: match self.name {
                Name::Last => last(&id).to_owned(),
                Name::At(pointer) => text(document, pointer),
            },
            location: match self.location {
                "" => location(&id).to_owned(),
                pointer => text(document, pointer).to_lowercase(),
            },
            state: text(document, self.state),
            tags: texts(document.pointer(self.labels)),
            created_at: named(self.created),
            link: String::new(),
            id,
            ..Default::default()
        };
        Some(self.linked(resource, project))
    }

    /// The same with its page in the console.
    pub(super) fn linked(&self, mut resource: Resource, project: &str) -> Resource {
        let page = self
            .page
            .replace("{location}", &encode(&resource.location))
            .replace("{last}", &encode(last(&resource.id)))
            .replace("{name}", &encode(&resource.name));
        resource.link = format!("https://console.cloud.google.com/{page}?project={}", encode(project));
        resource
    }
}

/// The last segment of an id.
pub(super) fn last(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}

/// The zone, region or location in an id; `global` where it is in none that is named so.
fn location(id: &str) -> &str {
    let mut segments = id.split('/');
    while let Some(segment) = segments.next() {
        if matches!(segment, "zones" | "regions" | "locations") {
            return segments.next().unwrap_or_default();
        }
    }
    "global"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is asked by such a path is what the policy is asked about.
    #[test]
    fn every_type_is_listed_and_got_by_the_service_and_method_that_the_policy_is_asked_about() {
        let table = inventory::all("gcp", false);
        assert_eq!(
            SHAPES.iter().map(|s| s.type_name).collect::<Vec<_>>(),
            table.iter().map(|t| t.name).collect::<Vec<_>>()
        );
        for (shape, known) in SHAPES.iter().zip(table) {
            assert_eq!(shape.service, known.service, "{}", shape.type_name);
            // the collection in the path is the one in the method, and nothing stands after it
            let path = shape.list_path("p1");
            let listed = if path == "/storage/v1/b" { "buckets" } else { last(&path) };
            assert_eq!(known.operations, [format!("{listed}.list")], "{}", shape.type_name);
            let id = match shape.collection {
                "" => format!("//{}/x", shape.id_host()),
                collection => format!("//{}/projects/p1/locations/l/{collection}/x", shape.id_host()),
            };
            let got = shape.get_path(&id).expect(&id);
            assert!(got.starts_with(shape.get) && got.ends_with("/x"), "{got}");
            assert!(shape.collection.is_empty() || shape.collection == listed, "{}", shape.type_name);
            assert_eq!(find(&shape.type_name.to_uppercase()).map(|s| s.type_name), Some(shape.type_name));
        }
    }

    #[test]
    fn an_id_leads_to_a_resource_of_its_type_and_nowhere_else() {
        let path = |type_name: &str, id: &str| find(type_name).expect(type_name).get_path(id);
        let instance = "compute.googleapis.com/Instance";
        for (type_name, id, expected) in [
            (
                instance,
                "//compute.googleapis.com/projects/p/zones/z/instances/i",
                "/compute/v1/projects/p/zones/z/instances/i",
            ),
            (
                "container.googleapis.com/Cluster",
                "//container.googleapis.com/projects/p/zones/z/clusters/c",
                "/v1/projects/p/locations/z/clusters/c",
            ),
            ("storage.googleapis.com/Bucket", "//storage.googleapis.com/b.example", "/storage/v1/b/b.example"),
            (
                "sqladmin.googleapis.com/Instance",
                "//cloudsql.googleapis.com/projects/p/instances/i",
                "/v1/projects/p/instances/i",
            ),
            (
                "pubsub.googleapis.com/Topic",
                "//pubsub.googleapis.com/projects/p/topics/a b?x",
                "/v1/projects/p/topics/a%20b%3Fx",
            ),
        ] {
            assert_eq!(path(type_name, id).as_deref(), Some(expected));
        }
        for bad in [
            "",
            "i",
            "projects/p/zones/z/instances/i",
            "//evil.example/projects/p/zones/z/instances/i",
            "//compute.googleapis.com/projects/p/zones/z/disks/i",
            "//compute.googleapis.com/projects/p/zones/z/instances/i/serialPort",
            "//compute.googleapis.com/projects/p/zones/../instances/i",
            "//compute.googleapis.com/projects//instances/i",
            "//compute.googleapis.com/projects/p/zones/z/instances/",
            "//compute.googleapis.com/instances/i",
        ] {
            assert_eq!(path(instance, bad), None, "{bad}");
        }
        let long = |n: usize| {
            let start = "//compute.googleapis.com/projects/p/zones/z/instances/";
            format!("{start}{}", "i".repeat(n - start.len()))
        };
        assert!(path(instance, &long(ID_MAX)).is_some() && path(instance, &long(ID_MAX + 1)).is_none());
        // no version of a secret, and nothing in a bucket
        assert_eq!(
            path(
                "secretmanager.googleapis.com/Secret",
                "//secretmanager.googleapis.com/projects/p/secrets/s/versions/1"
            ),
            None
        );
        assert_eq!(path("storage.googleapis.com/Bucket", "//storage.googleapis.com/b/o"), None);
    }

    #[test]
    fn what_a_document_tells() {
        let document = json!({
            "name": "web-1", "selfLink": "https://www.googleapis.com/compute/v1/projects/shop/zones/europe-west1-b/instances/web-1",
            "status": "RUNNING", "labels": {"env": "prod"}, "creationTimestamp": "2026-01-01T00:00:00.000-07:00",
        });
        let shape = find("compute.googleapis.com/Instance").expect("known");
        let found = shape.resource(&document, "shop").expect("told");
        assert_eq!(found.id, "//compute.googleapis.com/projects/shop/zones/europe-west1-b/instances/web-1");
        assert_eq!(
            (found.name.as_str(), found.location.as_str(), found.state.as_str()),
            ("web-1", "europe-west1-b", "RUNNING")
        );
        assert_eq!(
            found.link,
            "https://console.cloud.google.com/compute/instancesDetail/zones/europe-west1-b/instances/web-1?project=shop"
        );
        assert!(shape.resource(&json!({"name": "x"}), "shop").is_none());
        let bucket = find("storage.googleapis.com/Bucket").expect("known");
        let found = bucket.resource(&json!({"name": "b", "location": "EU"}), "shop").expect("told");
        assert_eq!((found.id.as_str(), found.location.as_str()), ("//storage.googleapis.com/b", "eu"));
        let network = find("compute.googleapis.com/Network").expect("known");
        let link = json!({"selfLink": "https://www.googleapis.com/compute/v1/projects/shop/global/networks/n"});
        assert_eq!(network.resource(&link, "shop").expect("told").location, "global");
    }
}
