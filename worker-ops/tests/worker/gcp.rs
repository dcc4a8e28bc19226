//! Operations on Google Cloud, against its services as their references document them.

use anyhow::{Context as _, Result, ensure};
use runner_tests::Suite;
use serde_json::{Value, json};
use shared_proto::documents::{ConnectionReport, Identity, LogSources, Places, Resource, Resources};
use shared_proto::inventory;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{
    ConnectionTest, GcpTarget, GetResource, K8sListNamespaces, ListLogs, ListPlaces, ListResources, TypeRefused, WhoAmI,
};
use std::collections::BTreeMap;

use crate::google::{Google, PROJECT, TOKEN, World, error};
use crate::harness::{Given, operation};

const INSTANCE: &str = "compute.googleapis.com/Instance";
const BUCKET: &str = "storage.googleapis.com/Bucket";

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("google_says_who_the_credentials_are", who)
        .test("google_lists_projects_over_pages", places)
        .test("google_resources_come_by_one_search", by_search)
        .test("google_resources_come_type_by_type_where_search_is_closed", type_by_type)
        .test("what_fails_of_google_is_told_beside_what_is_there", partly)
        .test("a_search_of_google_finds_no_type_that_was_not_asked_for", no_stray)
        .test("google_lists_filter_and_end_at_their_limit", limits)
        .test("google_gives_one_resource_with_its_properties", one)
        .test("google_is_refused_what_it_does_not_take", refusals)
        .test("the_project_that_is_billed_is_named_in_every_request", billed)
        .test("google_lists_logs", logs)
        .test("answers_that_google_does_not_give_end_the_operation", hostile)
}

pub(crate) fn target(url: &str) -> Target {
    Target::Gcp(GcpTarget {
        access_token: TOKEN.into(),
        project: PROJECT.into(),
        principal: "runner@shop-prod-1.iam.gserviceaccount.com".into(),
        endpoint_url: url.into(),
        ..Default::default()
    })
}
async fn ask(google: &Google, what: What) -> Result<Given> {
    let given = operation(what, target(&google.server.url)).await?;
    ensure!(!format!("{given:?}{}", given.text()).contains(TOKEN), "the token is told");
    google.clean()?;
    Ok(given)
}
fn list(types: &[&str]) -> ListResources {
    let types = match types {
        // as the supervisor has made it whole
        [] => inventory::all("gcp", false).iter().map(|t| t.name.to_owned()).collect(),
        named => named.iter().map(|t| (*t).to_owned()).collect(),
    };
    ListResources { types, ..Default::default() }
}
fn names(found: &Resources) -> Vec<&str> {
    found.items.iter().map(|r| r.name.as_str()).collect()
}

async fn who() -> Result<()> {
    let google = Google::start(World::default()).await?;
    let identity: Identity = ask(&google, What::WhoAmI(WhoAmI::default())).await?.document()?;
    ensure!(
        identity.provider == "gcp" && identity.principal == "runner@shop-prod-1.iam.gserviceaccount.com",
        "{identity:?}"
    );
    ensure!(identity.id == "112233" && identity.place.as_deref() == Some(PROJECT), "{identity:?}");
    let report: ConnectionReport = ask(&google, What::ConnectionTest(ConnectionTest {})).await?.document()?;
    ensure!(report.provider == "gcp" && report.identity == identity.principal, "{report:?}");
    ensure!(google.paths() == ["/tokeninfo", "/tokeninfo"], "{:?}", google.paths());
    // Google's own word goes before the source's
    let info = json!({"azp": "1", "sub": "42", "email": "ann@example.com"}).to_string();
    let told = World { instead: BTreeMap::from([("/tokeninfo", (200, info))]), ..Default::default() };
    let google = Google::start(told).await?;
    let identity: Identity = ask(&google, What::WhoAmI(WhoAmI::default())).await?.document()?;
    ensure!((identity.principal.as_str(), identity.id.as_str()) == ("ann@example.com", "42"), "{identity:?}");
    // whom tokeninfo does not know is not asked about there; a test sees that Google takes the token
    let google = Google::start(World::default()).await?;
    let audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k";
    let Target::Gcp(plain) = target(&google.server.url) else { anyhow::bail!("another target") };
    let federated = Target::Gcp(GcpTarget { principal: audience.into(), ..plain.clone() });
    let report: ConnectionReport = operation(What::ConnectionTest(ConnectionTest {}), federated).await?.document()?;
    ensure!(report.identity == audience && google.paths() == ["/v3/projects:search"], "{report:?}");
    // a token that is over
    let expired = || Target::Gcp(GcpTarget { access_token: "ya29.other".into(), ..plain.clone() });
    operation(What::WhoAmI(WhoAmI::default()), expired()).await?.failed("credentials_expired", "Invalid Value")?;
    operation(What::ListPlaces(ListPlaces::default()), expired())
        .await?
        .failed("credentials_expired", "invalid authentication credentials")
}

async fn places() -> Result<()> {
    for page in [0, 1, 2] {
        let google = Google::start(World { page, ..Default::default() }).await?;
        let places: Places = ask(&google, What::ListPlaces(ListPlaces::default())).await?.document()?;
        let shown: Vec<_> =
            places.items.iter().map(|p| (p.name.as_str(), p.title.as_str(), p.state.as_str())).collect();
        ensure!(
            shown == [(PROJECT, "The shop", "ACTIVE"), ("lab-1", "", "ACTIVE"), ("old-1", "Old", "DELETE_REQUESTED")],
            "{shown:?}"
        );
        ensure!(places.items.iter().all(|p| p.kind == "project"));
        ensure!(google.paths().len() == [1, 3, 2][page]);
    }
    let google = Google::start(World { disabled: &["cloudresourcemanager"], ..Default::default() }).await?;
    let given = ask(&google, What::ListPlaces(ListPlaces::default())).await?;
    given.failed("target_forbidden", "has not been used in project")?;
    let next = &given.outcome.next_step;
    ensure!(next.contains("gcloud services enable cloudresourcemanager.googleapis.com"), "{next}");
    Ok(())
}

async fn by_search() -> Result<()> {
    let google = Google::start(World { page: 1, ..Default::default() }).await?;
    let what = What::ListResources(ListResources { search: true, ..list(&[]) });
    let found: Resources = ask(&google, what).await?.document()?;
    ensure!(names(&found) == ["web-1", "web-2", "front", "db-password"] && found.failures.is_empty(), "{found:?}");
    ensure!(google.paths().iter().all(|p| p == "/v1/projects/shop-prod-1:searchAllResources"), "{:?}", google.paths());
    let first = &found.items[0];
    ensure!(
        first.id == format!("//compute.googleapis.com/projects/{PROJECT}/zones/europe-west1-b/instances/web-1"),
        "{first:?}"
    );
    ensure!(first.type_name == INSTANCE && first.state == "ACTIVE" && first.location == "europe-west1", "{first:?}");
    ensure!(first.created_at.as_deref() == Some("2026-01-02T03:04:05Z") && first.properties.is_none(), "{first:?}");
    ensure!(first.link.starts_with("https://console.cloud.google.com/compute/instancesDetail/"), "{first:?}");
    // labels are asked for, a text is looked for here
    let tags = [("env".to_owned(), "prod".to_owned())].into();
    let what = What::ListResources(ListResources { search: true, tags, text: "WEB".into(), ..list(&[]) });
    let found: Resources = ask(&google, what).await?.document()?;
    ensure!(names(&found) == ["web-1"], "{found:?}");
    let asked = google.server.asked();
    let (_, _, query) = asked.last().context("asked")?.parts();
    ensure!(query.iter().any(|(n, v)| n == "query" && v == "labels.env=prod"), "{query:?}");
    Ok(())
}

async fn type_by_type() -> Result<()> {
    let closed = [
        World { disabled: &["cloudasset"], ..Default::default() },
        World { forbidden: &["cloudasset"], ..Default::default() },
        World { forbidden: &["cloudasset"], page: 1, ..Default::default() },
    ];
    for (n, world) in closed.into_iter().enumerate() {
        let google = Google::start(world).await?;
        let found: Resources =
            ask(&google, What::ListResources(ListResources { search: true, ..list(&[]) })).await?.document()?;
        let types: Vec<_> = found.items.iter().map(|r| r.type_name.as_str()).collect();
        for t in inventory::all("gcp", false) {
            ensure!(types.contains(&t.name), "{} is missing", t.name);
        }
        ensure!(found.items.len() == 24, "{n}: {} {:?}", found.items.len(), names(&found));
        for resource in &found.items {
            ensure!(
                resource.id.starts_with("//") && !resource.name.is_empty() && !resource.link.is_empty(),
                "{resource:?}"
            );
            ensure!(!resource.location.is_empty(), "{resource:?}");
        }
        // a zone that GKE could not ask is told, and nothing else
        ensure!(found.failures.len() == 1 && found.failures[0].message.contains("us-east1-b"), "{:?}", found.failures);
        let named = |name: &str| found.items.iter().find(|r| r.name == name).context(name.to_owned());
        let sql = named("orders")?;
        ensure!(sql.id == format!("//cloudsql.googleapis.com/projects/{PROJECT}/instances/orders"), "{sql:?}");
        ensure!((sql.state.as_str(), sql.location.as_str()) == ("RUNNABLE", "europe-west1"), "{sql:?}");
        let run = named("front")?;
        ensure!(run.created_at.is_some() && !run.tags.is_empty(), "{run:?}");
        let account = named("web@shop-prod-1.iam.gserviceaccount.com")?;
        ensure!(account.id.ends_with("/serviceAccounts/112233"), "{account:?}");
        ensure!(named("shop-logs")?.tags.get("env").is_some_and(|v| v == "prod"));
    }
    // where the policy denies the search it is not even tried
    let google = Google::start(World::default()).await?;
    let found: Resources = ask(&google, What::ListResources(list(&[]))).await?.document()?;
    ensure!(found.items.len() == 24 && !google.paths().iter().any(|p| p.contains(":searchAllResources")));
    Ok(())
}

async fn partly() -> Result<()> {
    let google =
        Google::start(World { disabled: &["run", "cloudasset"], forbidden: &["secretmanager"], ..Default::default() })
            .await?;
    let refused = vec![TypeRefused { type_name: BUCKET.into(), message: "rule x".into() }];
    let types = [
        INSTANCE,
        "run.googleapis.com/Service",
        "secretmanager.googleapis.com/Secret",
        "dataflow.googleapis.com/Job",
        ".*",
    ];
    let what = What::ListResources(ListResources { search: true, refused, ..list(&types) });
    let found: Resources = ask(&google, what).await?.document()?;
    ensure!(names(&found) == ["web-1", "web-2"], "{found:?}");
    let told: Vec<_> = found.failures.iter().map(|f| (f.type_name.as_str(), f.code.as_str())).collect();
    ensure!(
        told == [
            (BUCKET, "policy_denied"),
            (".*", "invalid_argument"),
            ("run.googleapis.com/Service", "target_forbidden"),
            ("secretmanager.googleapis.com/Secret", "target_forbidden"),
            ("dataflow.googleapis.com/Job", "target_forbidden"),
        ],
        "{told:?}"
    );
    ensure!(
        found.failures[2].next_step.contains("gcloud services enable run.googleapis.com"),
        "{:?}",
        found.failures[2]
    );
    ensure!(found.failures[3].message.contains("The caller does not have permission on secretmanager"));
    ensure!(found.failures[4].next_step.contains("gcloud services enable cloudasset.googleapis.com"));
    // one that is asked for alone has failed as a whole
    let alone = ask(&google, What::ListResources(list(&["secretmanager.googleapis.com/Secret"]))).await?;
    alone.failed("target_forbidden", "The caller does not have permission")?;
    let alone = ask(&google, What::ListResources(list(&["dataflow.googleapis.com/Job"]))).await?;
    alone.failed("policy_denied", "Cloud Asset Inventory alone")?;
    // places that could not be asked, as Compute Engine says it
    let body =
        json!({"items": {"zones/a": {"warning": {"code": "UNREACHABLE"}}}, "unreachables": ["projects/x/zones/b"]});
    let path = "/compute/v1/projects/shop-prod-1/aggregated/instances";
    let google =
        Google::start(World { instead: BTreeMap::from([(path, (200, body.to_string()))]), ..Default::default() })
            .await?;
    let found: Resources = ask(&google, What::ListResources(list(&[INSTANCE]))).await?.document()?;
    ensure!(found.failures.len() == 1 && found.failures[0].message.contains("2 places"), "{found:?}");
    Ok(())
}

async fn no_stray() -> Result<()> {
    let google = Google::start(World::default()).await?;
    let what = What::ListResources(ListResources { search: true, ..list(&[INSTANCE]) });
    let found: Resources = ask(&google, what).await?.document()?;
    // Google sent one more, of a type that nobody asked the policy about
    ensure!(names(&found) == ["web-1", "web-2"], "{found:?}");
    for bad in [
        ".*",
        "compute.googleapis.com/.*",
        "compute.googleapis.com/Instance|secretmanager.googleapis.com/Secret",
        "k8s.io/Pod",
    ] {
        let what = What::ListResources(ListResources { search: true, ..list(&[bad]) });
        ask(&google, what).await?.failed("invalid_argument", "no type of resource")?;
    }
    ensure!(google.paths().len() == 1, "{:?}", google.paths());
    Ok(())
}

async fn limits() -> Result<()> {
    let google = Google::start(World { page: 1, ..Default::default() }).await?;
    for search in [true, false] {
        for (limit, expected, truncated) in [(1, 1, true), (2, 2, false), (3, 2, false)] {
            let given = ask(&google, What::ListResources(ListResources { limit, search, ..list(&[INSTANCE]) })).await?;
            let found: Resources = given.document()?;
            ensure!(
                (found.items.len(), found.truncated, given.outcome.truncated) == (expected, truncated, truncated),
                "{limit}: {found:?}"
            );
        }
    }
    let tagged = |value: &str| {
        let tags = [("env".to_owned(), value.to_owned())].into();
        What::ListResources(ListResources { tags, ..list(&[BUCKET]) })
    };
    let found: Resources = ask(&google, tagged("prod")).await?.document()?;
    ensure!(names(&found) == ["shop-logs"], "{found:?}");
    let found: Resources = ask(&google, tagged("")).await?.document()?;
    ensure!(names(&found) == ["shop-logs", "shop-test"], "{found:?}");
    Ok(())
}

async fn one() -> Result<()> {
    let google = Google::start(World::default()).await?;
    let get = |type_name: &str, identifier: &str| {
        What::GetResource(GetResource {
            type_name: type_name.into(),
            identifier: identifier.into(),
            ..Default::default()
        })
    };
    let id = format!("//compute.googleapis.com/projects/{PROJECT}/zones/europe-west1-b/instances/web-1");
    let found: Resource = ask(&google, get(INSTANCE, &id)).await?.document()?;
    ensure!(found.id == id && found.state == "RUNNING" && found.location == "europe-west1-b", "{found:?}");
    ensure!(found.properties.as_ref().is_some_and(|p| p["selfLink"].is_string()), "{found:?}");
    let id = format!("//container.googleapis.com/projects/{PROJECT}/zones/europe-west1-b/clusters/main");
    let found: Resource = ask(&google, get("container.googleapis.com/Cluster", &id)).await?.document()?;
    ensure!(found.name == "main" && found.tags.get("env").is_some_and(|v| v == "prod"), "{found:?}");
    let found: Resource =
        ask(&google, get("Storage.googleapis.com/bucket", "//storage.googleapis.com/shop-logs")).await?.document()?;
    ensure!(found.type_name == BUCKET && found.location == "europe-west1", "{found:?}");
    // what is in no table, by the inventory
    let job = format!("//dataflow.googleapis.com/projects/{PROJECT}/locations/europe-west1/jobs/nightly");
    let found: Resource = ask(&google, get("dataflow.googleapis.com/Job", &job)).await?.document()?;
    ensure!(
        found.name == "nightly" && found.properties == Some(json!({"name": "locations/europe-west1/jobs/nightly"})),
        "{found:?}"
    );
    ask(&google, get("dataflow.googleapis.com/Job", "//dataflow.googleapis.com/x"))
        .await?
        .failed("target_not_found", "has no")?;
    let gone = format!("//compute.googleapis.com/projects/{PROJECT}/zones/europe-west1-b/instances/gone");
    ask(&google, get(INSTANCE, &gone)).await?.failed("target_not_found", "it was not found")?;
    for (kind, bad) in [
        (INSTANCE, "web-1"),
        (INSTANCE, "//evil.example/x"),
        (BUCKET, "//storage.googleapis.com/b/o"),
        ("dataflow.googleapis.com/Job", "x"),
    ] {
        ask(&google, get(kind, bad)).await?.failed("invalid_argument", "is no")?;
    }
    ask(&google, get("Bucket", "//storage.googleapis.com/b")).await?.failed("invalid_argument", "no type")
}

async fn refusals() -> Result<()> {
    let path = "/v1/projects/shop-prod-1/topics";
    let topics = || What::ListResources(list(&["pubsub.googleapis.com/Topic"]));
    for (status, word, code, times) in [
        (403, "PERMISSION_DENIED", "target_forbidden", 1),
        (404, "NOT_FOUND", "target_not_found", 1),
        (400, "INVALID_ARGUMENT", "target_refused", 1),
        (429, "RESOURCE_EXHAUSTED", "target_throttled", 5),
        (503, "UNAVAILABLE", "target_failed", 5),
    ] {
        let instead = BTreeMap::from([(path, error(status, word, "in its words", &json!([])))]);
        let google = Google::start(World { instead, ..Default::default() }).await?;
        let given = ask(&google, topics()).await?;
        given.failed(code, "in its words")?;
        ensure!(
            (given.outcome.target_status, given.outcome.target_reason.as_str()) == (u32::from(status), word),
            "{:?}",
            given.outcome
        );
        ensure!(google.paths().len() == times, "{word} was asked {} times", google.paths().len());
    }
    // a token that ends in the midst of many types ends it all
    let over = error(401, "UNAUTHENTICATED", "it is over", &json!([]));
    let google = Google::start(World { instead: BTreeMap::from([(path, over)]), ..Default::default() }).await?;
    ask(&google, What::ListResources(list(&[]))).await?.failed("credentials_expired", "it is over")?;
    let cluster = What::K8sListNamespaces(K8sListNamespaces {});
    operation(cluster, Target::Gcp(GcpTarget::default())).await?.failed("wrong_provider", "gcp")?;
    let nowhere = |project: &str| {
        Target::Gcp(GcpTarget {
            access_token: TOKEN.into(),
            project: project.into(),
            endpoint_url: "http://127.0.0.1:9".into(),
            ..Default::default()
        })
    };
    operation(topics(), nowhere("")).await?.failed("invalid_argument", "no project is named")?;
    let place = ListResources { place: "../../x".into(), ..list(&[INSTANCE]) };
    operation(What::ListResources(place), nowhere("")).await?.failed("invalid_argument", "no project's id")
}

async fn billed() -> Result<()> {
    let google = Google::start(World { quota_project: Some("billing-1"), ..Default::default() }).await?;
    let Target::Gcp(plain) = target(&google.server.url) else { anyhow::bail!("another target") };
    let target = Target::Gcp(GcpTarget { quota_project: "billing-1".into(), ..plain });
    let given =
        operation(What::ListResources(ListResources { search: true, ..list(&[INSTANCE]) }), target.clone()).await?;
    ensure!(given.document::<Resources>()?.items.len() == 2);
    operation(What::WhoAmI(WhoAmI::default()), target).await?.document::<Identity>()?;
    google.clean()
}

async fn logs() -> Result<()> {
    let google = Google::start(World { page: 1, ..Default::default() }).await?;
    let logs = |prefix: &str, limit| What::ListLogs(ListLogs { prefix: prefix.into(), limit, ..Default::default() });
    let found: LogSources = ask(&google, logs("", 0)).await?.document()?;
    let names: Vec<_> = found.items.iter().map(|l| l.name.as_str()).collect();
    ensure!(
        names == ["syslog", "cloudaudit.googleapis.com/activity", "cloudaudit.googleapis.com/data_access"],
        "{names:?}"
    );
    let found: LogSources = ask(&google, logs("cloudaudit.", 0)).await?.document()?;
    ensure!(found.items.len() == 2 && !found.truncated && found.items[0].kind == "log", "{found:?}");
    for (limit, truncated) in [(2, true), (3, false)] {
        let given = ask(&google, logs("", limit)).await?;
        ensure!(given.document::<LogSources>()?.truncated == truncated && given.outcome.truncated == truncated);
    }
    let below = ListLogs { source: "syslog".into(), ..Default::default() };
    ask(&google, What::ListLogs(below)).await?.failed("invalid_argument", "nothing below it")
}

async fn hostile() -> Result<()> {
    let path = "/v1/projects/shop-prod-1/topics";
    let topics = || What::ListResources(list(&["pubsub.googleapis.com/Topic"]));
    let world = |answer: (u16, String)| World { instead: BTreeMap::from([(path, answer)]), ..Default::default() };
    let redirect = json!({"error": {"code": 302, "message": "over there"}}).to_string();
    for (answer, code, words) in [
        ((200, "not json".to_owned()), "target_refused", "not the JSON document"),
        ((200, "[]".to_owned()), "target_refused", "not the JSON document"),
        ((200, format!("{{\"x\":\"{}\"}}", "x".repeat(16 << 20))), "too_large", "longer than"),
        ((302, redirect), "target_refused", "over there"),
        ((403, "<html>".to_owned()), "target_forbidden", "403"),
    ] {
        let google = Google::start(world(answer)).await?;
        ask(&google, topics()).await?.failed(code, words)?;
        ensure!(google.paths().len() == 1, "{:?}", google.paths());
    }
    // of the right form, and all else wrong
    let odd: [(Value, usize); 4] = [
        (json!({"topics": "x", "nextPageToken": 7}), 0),
        (json!({"topics": [1, null, {}, {"name": 5}, {"name": ""}]}), 0),
        (json!({"topics": [{"name": "projects/x/topics/a\u{1b}[2J", "labels": {"a": 1, "b": "c"}}]}), 1),
        (json!({"topics": {"a": "b"}}), 0),
    ];
    for (body, expected) in odd {
        let google = Google::start(world((200, body.to_string()))).await?;
        let found: Resources = ask(&google, topics()).await?.document()?;
        ensure!(found.items.len() == expected, "{found:?}");
    }
    // pages without end, and with nothing in them
    let google = Google::start(world((200, json!({"nextPageToken": "again"}).to_string()))).await?;
    let given = ask(&google, topics()).await?;
    ensure!(given.document::<Resources>()?.truncated && given.outcome.truncated && google.paths().len() == 1000);
    let search = BTreeMap::from([(
        "/v1/projects/shop-prod-1:searchAllResources",
        (200, json!({"nextPageToken": "again"}).to_string()),
    )]);
    let google = Google::start(World { instead: search, ..Default::default() }).await?;
    let given = ask(&google, What::ListResources(ListResources { search: true, ..list(&[INSTANCE]) })).await?;
    ensure!(given.document::<Resources>()?.truncated && google.paths().len() == 1000);
    Ok(())
}
