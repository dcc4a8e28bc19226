//! What the operations that are of any provider ask of each, as the rules of the policy see it.
//!
//! It must never leave a call out that a worker makes for one of them.

use crate::config::Connection;
use crate::policy::{Attributes, CloudCall, Namespace, What};
use shared_proto::failure::{Code, Failure};
use shared_proto::inventory;
use shared_proto::v1::{ListResources, operation_request::What as Asked};

/// A type, and all that is asked for it.
pub(super) type OfType = (String, Vec<What>);

/// What such an operation asks for, but for a list of resources.
///
/// # Errors
/// `wrong_provider`: there is no such thing there.
pub(super) fn asks(asked: &Asked, entry: &Connection) -> Result<Vec<What>, Failure> {
    let provider = entry.provider();
    let cloud = |place: &str, aws: (&str, &str), gcp: (&str, &str), azure: (&str, &str)| {
        let (service, operation) = match provider {
            "aws" => aws,
            "gcp" => gcp,
            _ => azure,
        };
        vec![call(entry, place, service, Some(operation))]
    };
    let elsewhere = |what: &str, instead: &str| {
        Err(Code::WrongProvider.on(format!("{what} of a cluster are asked for in another way")).next(instead))
    };
    Ok(match asked {
        // of a cluster it is half a test
        Asked::WhoAmI(_) if provider == "kubernetes" => {
            vec![What::ConnectionTest { provider: provider.to_owned() }]
        }
        Asked::WhoAmI(who) => cloud(
            &who.place,
            ("sts", "GetCallerIdentity"),
            ("oauth2", "tokeninfo"),
            ("Microsoft.Resources", "subscriptions/read"),
        ),
        Asked::ListPlaces(_) if provider == "kubernetes" => {
            vec![What::Kubernetes(Box::new(Attributes::of_operation("list", "namespaces", Namespace::None, "")))]
        }
        Asked::ListPlaces(places) => cloud(
            &places.place,
            ("ec2", "DescribeRegions"),
            ("cloudresourcemanager", "projects.search"),
            ("Microsoft.Resources", "subscriptions/read"),
        ),
        Asked::GetResource(_) if provider == "kubernetes" => {
            return elsewhere("details", "Use `runnerctl k8s get` or `runnerctl k8s describe`.");
        }
        Asked::GetResource(get) if provider == "aws" => {
            vec![call(entry, &get.place, "cloudformation", Some("GetResource"))]
        }
        Asked::GetResource(get) if provider == "gcp" => inventory::gcp::get(&get.type_name)
            .iter()
            .map(|c| call(entry, &get.place, &c.service, c.operation.as_deref()))
            .collect(),
        Asked::GetResource(get) if provider == "azure" => {
            let mut calls = Vec::new();
            if inventory::find(provider, &get.type_name).is_none() {
                // which versions of its API a type has that is in no table
                calls.push(call(entry, &get.place, "Microsoft.Resources", Some("subscriptions/providers/read")));
            }
            let named = inventory::calls(provider, &get.type_name);
            calls.extend(named.iter().map(|c| call(entry, &get.place, &c.service, c.operation.as_deref())));
            calls
        }
        Asked::GetResource(get) => inventory::calls(provider, &get.type_name)
            .iter()
            .map(|c| call(entry, &get.place, &c.service, c.operation.as_deref()))
            .collect(),
        Asked::ListLogs(_) | Asked::ReadLogs(_) if provider == "kubernetes" => {
            return elsewhere("logs", "Use `runnerctl k8s logs`.");
        }
        Asked::ListLogs(logs) => cloud(
            &logs.place,
            ("logs", if logs.source.is_empty() { "DescribeLogGroups" } else { "DescribeLogStreams" }),
            ("logging", "logs.list"),
            (
                "Microsoft.OperationalInsights",
                if logs.source.is_empty() { "workspaces/read" } else { "workspaces/tables/read" },
            ),
        ),
        // the workspace tells the id by which it is queried
        Asked::ReadLogs(logs) if provider == "azure" => ["workspaces/read", "workspaces/query/read"]
            .map(|operation| call(entry, &logs.place, "Microsoft.OperationalInsights", Some(operation)))
            .into(),
        Asked::ReadLogs(logs) => cloud(
            &logs.place,
            ("logs", "FilterLogEvents"),
            ("logging", "entries.list"),
            ("Microsoft.OperationalInsights", "workspaces/query/read"),
        ),
        _ => Vec::new(),
    })
}

/// What a list of resources asks for, by type: where none is named, all that are known.
///
/// # Errors
/// `invalid_argument`.
pub(super) fn by_type(list: &ListResources, entry: &Connection) -> Result<Vec<OfType>, Failure> {
    inventory::check(list)?;
    let provider = entry.provider();
    let named: Vec<String> = if list.types.is_empty() {
        inventory::all(provider, !list.tags.is_empty()).iter().map(|t| t.name.to_owned()).collect()
    } else {
        list.types.clone()
    };
    named.into_iter().map(|name| Ok((name.clone(), asks_for(&name, list, entry)?))).collect()
}

fn asks_for(name: &str, list: &ListResources, entry: &Connection) -> Result<Vec<What>, Failure> {
    let provider = entry.provider();
    if provider != "kubernetes" {
        let calls = inventory::calls(provider, name);
        return Ok(calls.iter().map(|c| call(entry, &list.place, &c.service, c.operation.as_deref())).collect());
    }
    let wrong = |what: &dyn std::fmt::Display| Code::InvalidArgument.on(format!("the type {name:?}: {what}"));
    let (resource, group) = inventory::resource_and_group(name);
    let mut asked = Vec::new();
    if !inventory::is_of_v1(group) {
        // the API server says which versions it has
        let about = Attributes::parse("GET", format!("/apis/{group}").as_bytes()).map_err(|e| wrong(&e))?;
        asked.push(What::Kubernetes(Box::new(about)));
    }
    // a worker leaves those out in a namespace that are in none
    let place = if inventory::CLUSTER_WIDE.contains(&name) { "" } else { &list.place };
    // as the API server reads what the worker asks for
    let target = inventory::list_target(name, "v1", place);
    let listed = Attributes::parse("GET", target.as_bytes()).map_err(|e| wrong(&e))?;
    let is_list = (listed.verb.as_str(), listed.resource.as_str(), listed.group.as_str()) == ("list", resource, group);
    if !is_list || !listed.subresource.is_empty() {
        return Err(wrong(&"nothing of that name is listed"));
    }
    asked.push(What::Kubernetes(Box::new(listed)));
    Ok(asked)
}

/// By what of the provider's resources of many types are found at once, without which they are listed type by type.
pub(super) fn search(list: &ListResources, entry: &Connection) -> Option<What> {
    let search = (entry.provider() == "gcp").then(inventory::gcp::search)?;
    Some(call(entry, &list.place, &search.service, search.operation.as_deref()))
}

fn call(entry: &Connection, place: &str, service: &str, operation: Option<&str>) -> What {
    let place = if place.is_empty() { entry.place() } else { place };
    // these are in none, as they are in requests of AWS' own clients
    let region = Some(place).filter(|place| !place.is_empty() && !["iam", "route53"].contains(&service));
    match entry.provider() {
        "gcp" => What::Gcp(CloudCall::reading(service, operation)),
        "azure" => What::Azure(CloudCall::reading(service, operation)),
        _ => What::Aws(CloudCall::aws(service, operation, region)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Azure, AzureSource, Config};
    use shared_proto::v1::{self, GetResource, ListLogs, ListPlaces, ReadLogs, WhoAmI};
    use std::collections::BTreeMap;

    fn google() -> Connection {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.toml");
        std::fs::write(&path, "[connections.g]\nprovider = \"gcp\"\nsource = \"metadata\"\n").expect("writes");
        let mut config = Config::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).expect("loads");
        config.connections.remove("g").expect("a connection")
    }
    fn azure() -> Connection {
        Connection::Azure(Azure {
            source: AzureSource::ManagedIdentity,
            tenant: String::new(),
            client_id: String::new(),
            subscription: "s".into(),
            cloud: Default::default(),
            endpoint_url: String::new(),
        })
    }

    fn names(calls: &[What]) -> Vec<String> {
        let name = |what: &What| match what {
            What::Gcp(call) => format!("{}.{}", call.service, call.operation.as_deref().unwrap_or("?")),
            What::Azure(call) => {
                assert!(call.read_only && call.region.is_none());
                format!("{}/{}", call.service, call.operation.as_deref().unwrap_or("?"))
            }
            other => panic!("{other:?}"),
        };
        calls.iter().map(name).collect()
    }

    #[test]
    fn what_is_asked_of_google_cloud() {
        let google = google();
        let get =
            |type_name: &str| Asked::GetResource(v1::GetResource { type_name: type_name.into(), ..Default::default() });
        for (asked, expected) in [
            (Asked::WhoAmI(v1::WhoAmI::default()), vec!["oauth2.tokeninfo"]),
            (Asked::ListPlaces(v1::ListPlaces::default()), vec!["cloudresourcemanager.projects.search"]),
            (get("compute.googleapis.com/Instance"), vec!["compute.instances.get"]),
            (get("dataflow.googleapis.com/Job"), vec!["dataflow.?", "cloudasset.assets.searchAllResources"]),
            (Asked::ListLogs(v1::ListLogs::default()), vec!["logging.logs.list"]),
            (Asked::ReadLogs(v1::ReadLogs::default()), vec!["logging.entries.list"]),
        ] {
            assert_eq!(names(&asks(&asked, &google).expect("known")), expected);
        }
        let list = ListResources { types: vec!["run.googleapis.com/Service".into()], ..Default::default() };
        let types = by_type(&list, &google).expect("known");
        assert_eq!(names(&types[0].1), ["run.services.list"]);
        assert_eq!(names(search(&list, &google).as_slice()), ["cloudasset.assets.searchAllResources"]);
        let all = by_type(&ListResources::default(), &google).expect("known");
        assert_eq!(all.len(), inventory::all("gcp", false).len());
        // each of these only reads, and is known by its name
        assert!(all.iter().flat_map(|(_, calls)| calls).all(|what| matches!(what, What::Gcp(call) if call.read_only)));
    }

    /// As the API server itself reads the request that a worker makes of it.
    #[test]
    fn what_is_asked_of_a_cluster_is_what_the_api_server_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.toml");
        std::fs::write(&path, "[connections.k]\nprovider = \"kubernetes\"\nin_cluster = true\n").expect("writes");
        let mut config = Config::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).expect("loads");
        let cluster = config.connections.remove("k").expect("a connection");
        let list = |name: &str, place: &str| {
            by_type(&ListResources { types: vec![name.into()], place: place.into(), ..Default::default() }, &cluster)
        };
        let all = Namespace::All;
        let shop = || Namespace::Named("shop".into());
        for (name, place, resource, group, namespace) in [
            ("pods", "", "pods", "", all.clone()),
            ("pods", "shop", "pods", "", shop()),
            ("secrets.", "", "secrets", "", all.clone()),
            ("deployments.apps", "", "deployments", "apps", all.clone()),
            ("deployments.apps", "shop", "deployments", "apps", shop()),
            ("roles.rbac.authorization.k8s.io", "", "roles", "rbac.authorization.k8s.io", all),
            ("nodes", "shop", "nodes", "", Namespace::None),
            ("nodes.metrics.k8s.io", "", "nodes", "metrics.k8s.io", Namespace::None),
        ] {
            let by_type = list(name, place).expect(name);
            let Some(What::Kubernetes(asked)) = by_type[0].1.last() else { panic!("{name}: {by_type:?}") };
            assert_eq!((asked.verb.as_str(), asked.subresource.as_str()), ("list", ""), "{name}");
            assert_eq!((asked.resource.as_str(), asked.group.as_str()), (resource, group), "{name}");
            assert_eq!(asked.namespace, namespace, "{name} in {place:?}");
            // which versions a group has is asked where it is not known
            assert_eq!(by_type[0].1.len(), 1 + usize::from(!inventory::is_of_v1(group)), "{name}");
        }
        for t in inventory::all("kubernetes", false) {
            assert!(list(t.name, "").is_ok() && list(t.name, "shop").is_ok(), "{}", t.name);
        }
        // what the API server takes for something else than a list
        for (name, place) in [
            ("status", "shop"),
            ("finalize", "shop"),
            ("pods/log", ""),
            ("pods/web-1", "shop"),
            ("watch", ""),
            ("proxy", ""),
            ("pods", "shop/pods/x"),
            ("pods", ".."),
            ("%70ods", ""),
        ] {
            let refused = list(name, place).expect_err(name);
            assert_eq!(refused.code, Code::InvalidArgument, "{name} in {place:?}");
        }
    }

    /// The worker's suite has the same names: `azure_asks_what_the_rules_are_asked_about`.
    #[test]
    fn what_is_asked_of_azure() {
        let get =
            |type_name: &str| Asked::GetResource(GetResource { type_name: type_name.into(), ..Default::default() });
        let logs = |source: &str| Asked::ListLogs(ListLogs { source: source.into(), ..Default::default() });
        let insights = |operation: &str| format!("Microsoft.OperationalInsights/{operation}");
        for (asked, expected) in [
            (Asked::WhoAmI(WhoAmI::default()), vec!["Microsoft.Resources/subscriptions/read".to_owned()]),
            (Asked::ListPlaces(ListPlaces::default()), vec!["Microsoft.Resources/subscriptions/read".to_owned()]),
            (get("microsoft.compute/DISKS"), vec!["Microsoft.Compute/disks/read".to_owned()]),
            (
                get("Microsoft.Maps/accounts"),
                vec![
                    "Microsoft.Resources/subscriptions/providers/read".to_owned(),
                    "Microsoft.Maps/accounts/read".to_owned(),
                ],
            ),
            (logs(""), vec![insights("workspaces/read")]),
            (logs("g/w"), vec![insights("workspaces/tables/read")]),
            (
                Asked::ReadLogs(ReadLogs::default()),
                vec![insights("workspaces/read"), insights("workspaces/query/read")],
            ),
        ] {
            assert_eq!(names(&asks(&asked, &azure()).expect("it has such a thing")), expected, "{asked:?}");
        }
        let types = ["Microsoft.Maps/accounts/sub", "microsoft.resources/subscriptions/RESOURCEGROUPS", "odd"];
        let list = ListResources { types: types.map(str::to_owned).into(), ..Default::default() };
        let by_type = by_type(&list, &azure()).expect("fine");
        let asked: Vec<_> = by_type[..2].iter().map(|(_, calls)| names(calls)).collect();
        assert_eq!(
            asked,
            [["Microsoft.Maps/accounts/sub/read"], ["Microsoft.Resources/subscriptions/resourceGroups/read"]]
        );
        // what is no type of Azure's is not known, which rules that name methods deny
        assert!(matches!(&by_type[2].1[..], [What::Azure(call)] if call.operation.is_none() && !call.read_only));
        let all = super::by_type(&ListResources::default(), &azure()).expect("fine");
        assert_eq!(all.len(), inventory::all("azure", false).len());
        assert!(all.iter().all(|(name, calls)| names(calls) == [format!("{name}/read")]));
    }
}
