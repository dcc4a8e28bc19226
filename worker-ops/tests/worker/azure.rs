//! Operations on Azure, against what stands in for it: `azure_stand_in` says how far that goes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shared_proto::documents::{ConnectionReport, Identity, LogLine, LogSources, Places, Resource, Resources};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{
    AzureTarget, ConnectionTest, GetResource, ListLogs, ListPlaces, ListResources, ReadLogs, TypeRefused, WhoAmI,
};

use runner_tests::Suite;

use crate::azure_stand_in::{Azure, Conduct, LOGS_TOKEN, OTHER, SUBSCRIPTION, Thing, management_token, refused};
use crate::harness::{Given, Worker, operation, request};
use crate::server::{Answer, Asked, Server};

const VM: &str = "Microsoft.Compute/virtualMachines";
const DISK: &str = "Microsoft.Compute/disks";
const GROUP: &str = "Microsoft.Resources/subscriptions/resourceGroups";

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("azure_identity_and_subscriptions", identity)
        .test("azure_resources_by_resource_graph", by_graph)
        .test("azure_resources_where_resource_graph_is_refused", without_graph)
        .test("azure_shows_no_type_that_was_not_asked_for", other_types)
        .test("azure_questions_keep_what_comes_from_outside_in_quotes", injection)
        .test("azure_resources_by_their_id", by_id)
        .test("azure_asks_what_the_rules_are_asked_about", agrees)
        .test("azure_workspaces_and_tables", workspaces)
        .test("azure_lines_of_a_table", lines)
        .test("azure_lines_too_long_for_one_answer_are_fewer", long_lines)
        .test("azure_filters_that_lead_elsewhere_are_asked_of_nobody", filters)
        .test("azure_lines_are_followed", followed)
        .test("azure_lists_end_however_many_pages_there_are", endless)
        .test("azure_answers_that_are_none", hostile)
        .test("azure_refusals_keep_their_words", refusals)
        .test("azure_throttling_is_waited_out_and_told", throttling)
}

fn azure_target(url: &str) -> AzureTarget {
    AzureTarget {
        management_token: management_token(),
        logs_token: LOGS_TOKEN.into(),
        subscription: SUBSCRIPTION.into(),
        tenant: "contoso.example".into(),
        cloud: "public".into(),
        endpoint_url: url.into(),
        logs_failure: String::new(),
        vault_token: String::new(),
        vault_failure: String::new(),
    }
}
fn target(url: &str) -> Target {
    Target::Azure(azure_target(url))
}
fn list(types: &[&str]) -> ListResources {
    ListResources { types: types.iter().map(|t| (*t).to_owned()).collect(), ..Default::default() }
}
async fn resources(list: ListResources, azure: &Azure) -> Result<Resources> {
    operation(What::ListResources(list), target(&azure.server.url)).await?.document()
}
fn names(found: &Resources) -> Vec<&str> {
    found.items.iter().map(|r| r.name.as_str()).collect()
}
fn things() -> Vec<Thing> {
    vec![
        Thing::new(VM, "web-1", &[("env", "prod"), ("team", "blue")]),
        Thing::new(VM, "web-2", &[("env", "test")]),
        Thing::new(DISK, "disk-1", &[("env", "prod")]),
        Thing::new("Microsoft.KeyVault/vaults", "vault-1", &[]),
        Thing::new("Microsoft.Maps/accounts", "maps-1", &[]),
        Thing::new("Microsoft.OperationalInsights/workspaces", "logs-1", &[]),
        Thing::new(GROUP, "Group-1", &[("env", "prod")]),
    ]
}
/// Nothing that is secret is in what came out.
fn no_secret(given: &Given) -> Result<()> {
    let all = format!("{given:?}{}", given.text());
    ensure!(!all.contains(LOGS_TOKEN) && !all.contains(&management_token()), "{all}");
    Ok(())
}

async fn identity() -> Result<()> {
    let azure = Azure::start(Conduct { page: 1, ..Default::default() }, things()).await?;
    let ask = |what| operation(what, target(&azure.server.url));
    let who: Identity = ask(What::WhoAmI(WhoAmI::default())).await?.document()?;
    ensure!((who.provider.as_str(), who.principal.as_str(), who.id.as_str()) == ("azure", "app", "object"), "{who:?}");
    ensure!(who.account == "tenant" && who.place.as_deref() == Some(SUBSCRIPTION), "{who:?}");
    let report: ConnectionReport = ask(What::ConnectionTest(ConnectionTest {})).await?.document()?;
    ensure!(report.provider == "azure" && report.identity == "app in the tenant tenant", "{report:?}");
    let places: Places = ask(What::ListPlaces(ListPlaces::default())).await?.document()?;
    let shown: Vec<_> = places.items.iter().map(|p| (p.name.as_str(), p.title.as_str(), p.state.as_str())).collect();
    ensure!(shown == [(SUBSCRIPTION, "Production", "Enabled"), (OTHER, "Test", "Enabled")], "{places:?}");
    ensure!(places.items.iter().all(|p| p.kind == "subscription"));
    let one = format!("GET /subscriptions/{SUBSCRIPTION}");
    ensure!(azure.asked() == [one.as_str(), &one, "GET /subscriptions", "GET /subscriptions"], "{:?}", azure.asked());
    // without a subscription of its own it asks for what it sees
    let homeless = Target::Azure(AzureTarget { subscription: String::new(), ..azure_target(&azure.server.url) });
    let who: Identity = operation(What::WhoAmI(WhoAmI::default()), homeless.clone()).await?.document()?;
    ensure!(who.place.is_none() && azure.asked().last().is_some_and(|a| a == "GET /subscriptions"), "{who:?}");
    let given = operation(What::ListResources(list(&[VM])), homeless).await?;
    given.failed("invalid_argument", "no subscription is named")?;
    let elsewhere = WhoAmI { place: "33333333-0000-4dda-aec3-cb9272f09590".into() };
    let given = ask(What::WhoAmI(elsewhere)).await?;
    given.failed("target_not_found", "SubscriptionNotFound")?;
    let given = ask(What::WhoAmI(WhoAmI { place: "../x".into() })).await?;
    given.failed("invalid_argument", "no subscription's id")?;
    no_secret(&given)
}

async fn by_graph() -> Result<()> {
    let mut all = things();
    all.extend((0..2500).map(|n| Thing::new(DISK, &format!("many-{n:04}"), &[("many", "yes")])));
    let azure = Azure::start(Conduct::default(), all).await?;
    let found =
        resources(list(&["microsoft.compute/VIRTUALMACHINES", GROUP, "Microsoft.KeyVault/vaults"]), &azure).await?;
    ensure!(names(&found) == ["web-1", "web-2", "vault-1", "Group-1"] && found.failures.is_empty(), "{found:?}");
    let one = &found.items[0];
    ensure!(one.type_name == VM && one.state == "VM running" && one.location == "westeurope", "{one:?}");
    ensure!(one.tags.get("team").is_some_and(|t| t == "blue"), "{one:?}");
    ensure!(one.created_at.as_deref() == Some("2024-05-01T10:00:00.1234567Z") && one.properties.is_none(), "{one:?}");
    let id = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/Group-1/providers/{VM}/web-1");
    let link = format!("https://portal.azure.com/#@contoso.example/resource{id}");
    ensure!((one.id.as_str(), one.link.as_str()) == (id.as_str(), link.as_str()), "{one:?}");
    // one question for each table, none for anything else
    let graph = "POST /providers/Microsoft.ResourceGraph/resources";
    ensure!(azure.asked() == [graph, graph], "{:?}", azure.asked());

    let tagged = |tags: &[(&str, &str)]| ListResources {
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..list(&[VM, DISK, GROUP])
    };
    let found = resources(tagged(&[("env", "prod")]), &azure).await?;
    ensure!(names(&found) == ["disk-1", "web-1", "Group-1"], "{found:?}");
    let found = resources(tagged(&[("env", ""), ("team", "blue")]), &azure).await?;
    ensure!(names(&found) == ["web-1"], "{found:?}");
    for (text, expected) in
        [("WEB-", vec!["web-1", "web-2"]), ("\"test\"", vec![]), ("test", vec!["web-2"]), ("tést", vec![])]
    {
        let found = resources(ListResources { text: text.into(), ..list(&[VM]) }, &azure).await?;
        ensure!(names(&found) == expected, "{text}: {found:?}");
    }
    let before = azure.asked().len();
    let many = ListResources { tags: [("many".to_owned(), "yes".to_owned())].into(), limit: 2500, ..list(&[DISK]) };
    let found = resources(many.clone(), &azure).await?;
    ensure!(
        found.items.len() == 2500 && !found.truncated && azure.asked().len() == before + 3,
        "{}",
        found.items.len()
    );
    let found = resources(ListResources { limit: 2499, ..many.clone() }, &azure).await?;
    ensure!(found.items.len() == 2499 && found.truncated, "{}", found.items.len());
    let refused = vec![TypeRefused { type_name: VM.into(), message: "no VMs here".into() }];
    let found = resources(ListResources { refused, limit: 1, ..many }, &azure).await?;
    ensure!(found.failures.len() == 1 && found.failures[0].code == "policy_denied", "{:?}", found.failures);
    Ok(())
}

async fn without_graph() -> Result<()> {
    for conduct in [(403, "AuthorizationFailed"), (409, "MissingSubscriptionRegistration")] {
        let mut all = things();
        all.extend((0..7).map(|n| Thing::new(DISK, &format!("many-{n}"), &[])));
        let azure = Azure::start(Conduct { no_graph: Some(conduct), page: 3 }, all).await?;
        let found = resources(list(&["microsoft.compute/disks", VM, GROUP]), &azure).await?;
        ensure!(found.items.len() == 8 + 2 + 1 && found.failures.is_empty() && !found.truncated, "{found:?}");
        let one = found.items.iter().find(|r| r.name == "web-1").context("a VM")?;
        ensure!(one.type_name == VM && one.created_at.as_deref() == Some("2024-05-01T10:00:00Z"), "{one:?}");
        ensure!(found.items.iter().all(|r| r.state == "Succeeded"), "{found:?}");
        ensure!(found.items.last().is_some_and(|r| r.type_name == GROUP && r.name == "Group-1"), "{found:?}");
        let tagged = ListResources { tags: [("env".to_owned(), "prod".to_owned())].into(), ..list(&[DISK, VM]) };
        ensure!(names(&resources(tagged, &azure).await?) == ["disk-1", "web-1"]);
        let of = |end: &str| azure.asked().iter().filter(|a| a.ends_with(end)).count();
        // eight disks are three pages, twice; two machines one; groups are asked for once
        ensure!(of("/resources") == 2 * 3 + 2 + 3 && of("/resourcegroups") == 1, "{:?}", azure.asked());
    }
    Ok(())
}

async fn other_types() -> Result<()> {
    let row = |kind: &str, id: &str| json!({"id": id, "name": "n", "type": kind, "location": "x", "tags": null});
    let server = Server::start(move |_: &Asked, _| {
        let data = [
            row("microsoft.keyvault/vaults", "/v"),
            row("microsoft.compute/disks", "/d"),
            row("microsoft.compute/disks", ""),
            json!(1),
            json!({"id": "/x"}),
        ];
        (200, json!({"totalRecords": 5, "count": 5, "data": data, "facets": [], "resultTruncated": "true"}).to_string())
    })
    .await?;
    let given = operation(What::ListResources(list(&[DISK])), target(&server.url)).await?;
    let found: Resources = given.document()?;
    ensure!(found.items.len() == 1 && found.items[0].id == "/d" && found.items[0].type_name == DISK, "{found:?}");
    ensure!(found.truncated && given.outcome.truncated, "{found:?}");
    // a type that could be none is not asked for, and is no failure of the others
    let mixed = operation(What::ListResources(list(&["x') or (1", DISK])), target(&server.url)).await?;
    let found: Resources = mixed.document()?;
    ensure!(
        found.items.len() == 1 && found.failures.len() == 1 && found.failures[0].code == "invalid_argument",
        "{found:?}"
    );
    let before = server.asked().len();
    let alone = operation(What::ListResources(list(&["x') or (1"])), target(&server.url)).await?;
    alone.failed("invalid_argument", "no type of resource")?;
    ensure!(server.asked().len() == before);
    Ok(())
}

async fn injection() -> Result<()> {
    let evil = "x'] == '' or true // \\";
    let azure = Azure::start(
        Conduct::default(),
        vec![
            Thing::new(DISK, "odd", &[("x'] == '' or true // \\", "a\\'b")]),
            Thing::new(DISK, "plain", &[("k", "v")]),
        ],
    )
    .await?;
    let asked = |key: &str, value: &str, text: &str| ListResources {
        tags: [(key.to_owned(), value.to_owned())].into(),
        text: text.into(),
        ..list(&[DISK])
    };
    for (key, value, text, expected) in [
        (evil, "", "", vec!["odd"]),
        (evil, "a\\'b", "", vec!["odd"]),
        ("k", evil, "", vec![]),
        ("k", "v", "' or true", vec![]),
        ("k') or true //", "", "", vec![]),
        (evil, "", "a\\'b", vec!["odd"]),
    ] {
        let found = resources(asked(key, value, text), &azure).await?;
        ensure!(names(&found) == expected && found.failures.is_empty(), "{key} {value} {text}: {found:?}");
    }
    Ok(())
}

async fn by_id() -> Result<()> {
    let azure = Azure::start(Conduct::default(), things()).await?;
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/Group-1");
    let get = |type_name: &str, identifier: &str, place: &str| {
        let get = GetResource { type_name: type_name.into(), identifier: identifier.into(), place: place.into() };
        operation(What::GetResource(get), target(&azure.server.url))
    };
    let id = format!("{group}/providers/{VM}/web-1");
    let one: Resource =
        get(VM, &id.to_uppercase().replace("/SUBSCRIPTIONS", "/subscriptions"), "").await?.document()?;
    ensure!(one.type_name == VM && one.id == id && one.state == "Succeeded", "{one:?}");
    ensure!(one.created_at.as_deref() == Some("2024-05-01T10:00:00.5Z"), "{one:?}");
    ensure!(one.properties.as_ref().is_some_and(|p| p["properties"]["provisioningState"] == "Succeeded"), "{one:?}");
    let one: Resource = get(GROUP, &group, SUBSCRIPTION).await?.document()?;
    ensure!(one.type_name == GROUP && one.name == "Group-1", "{one:?}");
    // one that is in no table: its provider tells the versions, of which the newest that is no preview is taken
    let before = azure.asked().len();
    let maps = format!("{group}/providers/Microsoft.Maps/accounts/maps-1");
    let one: Resource = get("Microsoft.Maps/accounts", &maps, "").await?.document()?;
    ensure!(one.name == "maps-1", "{one:?}");
    let asked = azure.asked()[before..].to_vec();
    ensure!(
        asked == [format!("GET /subscriptions/{SUBSCRIPTION}/providers/Microsoft.Maps"), format!("GET {maps}")],
        "{asked:?}"
    );
    get(VM, &format!("{id}0"), "").await?.failed("target_not_found", "ResourceNotFound")?;
    // the rules were asked about another type, another subscription, or could not tell
    let before = azure.asked().len();
    let vault = format!("{group}/providers/Microsoft.KeyVault/vaults/vault-1");
    for (type_name, identifier, place, words) in [
        (VM, vault.as_str(), "", "and Microsoft.Compute/virtualMachines is asked for"),
        (GROUP, &id, "", "is asked for"),
        (VM, &id, OTHER, "not in the subscription"),
        (VM, &id.replace(SUBSCRIPTION, OTHER), "", "not in the subscription"),
        (VM, &format!("{id}/../web-2"), "", "no id of a resource"),
        (VM, &format!("{id}?api-version=x"), "", "no id of a resource"),
        (VM, &format!("{id}/providers/{VM}/x"), "", "no id of a resource"),
        (VM, "web-1", "", "no id of a resource"),
        (VM, "", "", "no id of a resource"),
        ("", &id, "", "no type of resource"),
    ] {
        get(type_name, identifier, place).await?.failed("invalid_argument", words)?;
    }
    ensure!(azure.asked().len() == before, "{:?}", azure.asked());
    Ok(())
}

/// By which of Azure's own rights each request is allowed: as the supervisor asks its rules about them (`what_is_asked_of_azure` there).
async fn agrees() -> Result<()> {
    let right = |request: &str| {
        let lower = request.to_lowercase();
        let path = lower.replace(SUBSCRIPTION, "s").replace("/resourcegroups/group-1", "/g");
        match path.as_str() {
            "get /subscriptions" | "get /subscriptions/s" => "Microsoft.Resources/subscriptions/read",
            "get /subscriptions/s/g/providers/microsoft.compute/disks/disk-1" => "Microsoft.Compute/disks/read",
            "get /subscriptions/s/providers/microsoft.maps" => "Microsoft.Resources/subscriptions/providers/read",
            "get /subscriptions/s/g/providers/microsoft.maps/accounts/maps-1" => "Microsoft.Maps/accounts/read",
            "get /subscriptions/s/providers/microsoft.operationalinsights/workspaces"
            | "get /subscriptions/s/g/providers/microsoft.operationalinsights/workspaces/logs-1" => {
                "Microsoft.OperationalInsights/workspaces/read"
            }
            "get /subscriptions/s/g/providers/microsoft.operationalinsights/workspaces/logs-1/tables" => {
                "Microsoft.OperationalInsights/workspaces/tables/read"
            }
            path if path.starts_with("post /v1/workspaces/") => "Microsoft.OperationalInsights/workspaces/query/read",
            // shows of each type what its own right allows
            "post /providers/microsoft.resourcegraph/resources" => "TYPE/read",
            _ => "none",
        }
    };
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/Group-1/providers");
    let get = |type_name: &str, name: &str| {
        What::GetResource(GetResource {
            type_name: type_name.into(),
            identifier: format!("{group}/{type_name}/{name}"),
            ..Default::default()
        })
    };
    let logs = |source: &str| What::ListLogs(ListLogs { source: source.into(), ..Default::default() });
    let subscriptions = "Microsoft.Resources/subscriptions/read";
    for (what, expected) in [
        (What::WhoAmI(WhoAmI::default()), vec![subscriptions]),
        (What::ListPlaces(ListPlaces::default()), vec![subscriptions]),
        (What::ListResources(list(&[DISK])), vec!["TYPE/read"]),
        (get(DISK, "disk-1"), vec!["Microsoft.Compute/disks/read"]),
        (
            get("Microsoft.Maps/accounts", "maps-1"),
            vec!["Microsoft.Resources/subscriptions/providers/read", "Microsoft.Maps/accounts/read"],
        ),
        (logs(""), vec!["Microsoft.OperationalInsights/workspaces/read"]),
        (logs("Group-1/logs-1"), vec!["Microsoft.OperationalInsights/workspaces/tables/read"]),
        (
            What::ReadLogs(reading("")),
            vec![
                "Microsoft.OperationalInsights/workspaces/read",
                "Microsoft.OperationalInsights/workspaces/query/read",
            ],
        ),
    ] {
        let azure = Azure::start(Conduct::default(), things()).await?;
        let given = operation(what.clone(), target(&azure.server.url)).await?;
        ensure!(given.outcome.code == "ok", "{given:?}");
        let rights: Vec<_> = azure.asked().iter().map(|request| right(request)).collect();
        ensure!(rights == expected, "{what:?}: {:?}", azure.asked());
    }
    Ok(())
}

async fn workspaces() -> Result<()> {
    let mut all = things();
    all.push(Thing::new("Microsoft.OperationalInsights/workspaces", "other-1", &[]));
    let azure = Azure::start(Conduct::default(), all).await?;
    let ask = |source: &str, prefix: &str, limit| {
        let list = ListLogs { source: source.into(), prefix: prefix.into(), limit, ..Default::default() };
        operation(What::ListLogs(list), target(&azure.server.url))
    };
    let shown = |found: &LogSources| found.items.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    let found: LogSources = ask("", "", 0).await?.document()?;
    ensure!(shown(&found) == ["Group-1/logs-1", "Group-1/other-1"] && !found.truncated, "{found:?}");
    ensure!(found.items.iter().all(|s| s.kind == "workspace" && s.retention_days == Some(30)), "{found:?}");
    let found: LogSources = ask("Group-1/logs-1", "app", 0).await?.document()?;
    ensure!(shown(&found) == ["Group-1/logs-1/AppTraces", "Group-1/logs-1/AppRequests"], "{found:?}");
    ensure!(found.items.iter().all(|s| s.kind == "table"), "{found:?}");
    let given = ask("Group-1/logs-1", "", 2).await?;
    let found: LogSources = given.document()?;
    ensure!(found.items.len() == 2 && found.truncated && given.outcome.truncated, "{found:?}");
    let found: LogSources = ask("Group-1/logs-1", "", 3).await?.document()?;
    ensure!(found.items.len() == 3 && !found.truncated, "{found:?}");
    ask("Group-1/logs-1/AppTraces", "", 0).await?.failed("invalid_argument", "nothing more")?;
    ask("../x", "", 0).await?.failed("invalid_argument", "no source of logs")?;
    ask("Group-1/none", "", 0).await?.failed("target_not_found", "ResourceNotFound")
}

fn reading(filter: &str) -> ReadLogs {
    ReadLogs {
        source: "Group-1/logs-1/AppTraces".into(),
        filter: filter.into(),
        since_ms: 1_000_000,
        until_ms: 2_000_000,
        ..Default::default()
    }
}
fn texts(given: &Given) -> Result<Vec<String>> {
    let lines = given.text().lines().map(serde_json::from_str::<LogLine>).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.into_iter().map(|l| l.message).collect())
}

async fn lines() -> Result<()> {
    let azure = Azure::start(Conduct::default(), things()).await?;
    azure.traces(&[(1500, "two"), (1001, "one"), (1600, "three\nlines'"), (999, "before"), (2001, "after")]);
    let ask = |read: ReadLogs| operation(What::ReadLogs(read), target(&azure.server.url));
    let given = ask(reading("")).await?;
    ensure!(given.outcome.code == "ok" && texts(&given)? == ["one", "two", "three\nlines'"], "{given:?}");
    let first: LogLine = serde_json::from_str(given.text().lines().next().context("a line")?)?;
    ensure!(
        first.time == "1970-01-01T00:16:41.000Z"
            && first.severity == "Warning"
            && first.source == "/subscriptions/x/app",
        "{first:?}"
    );
    ensure!(texts(&ask(reading(" | where Message has 'two' ;")).await?)? == ["two"]);
    let whole = ReadLogs { source: "Group-1/logs-1".into(), ..reading("AppTraces\n| where Message has 'e'") };
    ensure!(texts(&ask(whole).await?)? == ["one", "three\nlines'"]);
    let given = ask(ReadLogs { limit: 2, ..reading("") }).await?;
    ensure!(texts(&given)? == ["two", "three\nlines'"] && given.outcome.truncated, "{given:?}");
    let given = ask(ReadLogs { limit: 3, ..reading("") }).await?;
    ensure!(texts(&given)?.len() == 3 && !given.outcome.truncated, "{given:?}");
    let given = ask(reading("nonsense")).await?;
    given.failed("target_refused", "could not be parsed at '| nonsense'")?;
    no_secret(&given)?;
    ask(ReadLogs { source: "Group-1/none/AppTraces".into(), ..reading("") })
        .await?
        .failed("target_not_found", "ResourceNotFound")?;
    let queries = azure.server.asked().into_iter().filter(|a| a.line.starts_with("POST")).count();
    ensure!(queries == 6, "{queries}");
    for (read, code, words) in [
        (
            ReadLogs { source: "Group-1/logs-1".into(), ..reading("") },
            "invalid_argument",
            "neither a table nor a filter",
        ),
        (
            ReadLogs { source: "Group-1/logs-1".into(), follow: true, ..reading("AppTraces") },
            "invalid_argument",
            "only a table",
        ),
        (ReadLogs { streams: vec!["x".into()], ..reading("") }, "invalid_argument", "no streams"),
        (ReadLogs { limit: 10_001, ..reading("") }, "too_large", "10000 lines"),
        (ReadLogs { since_ms: 2_000_001, ..reading("") }, "invalid_argument", "ends before it begins"),
    ] {
        ask(read).await?.failed(code, words)?;
    }
    ensure!(ask(ReadLogs { limit: 10_000, ..reading("") }).await?.outcome.code == "ok");
    // without a token for logs the others go on
    let without = AzureTarget {
        logs_token: String::new(),
        logs_failure: "AADSTS500011: not allowed".into(),
        ..azure_target(&azure.server.url)
    };
    let given = operation(What::ReadLogs(reading("")), Target::Azure(without.clone())).await?;
    given.failed("credentials_unavailable", "no token for Log Analytics: AADSTS500011")?;
    let found: LogSources = operation(What::ListLogs(ListLogs::default()), Target::Azure(without)).await?.document()?;
    ensure!(found.items.len() == 1, "{found:?}");
    Ok(())
}

async fn long_lines() -> Result<()> {
    let azure = Azure::start(Conduct::default(), things()).await?;
    let long = "x".repeat(100 * 1024);
    let traces: Vec<_> = (0..400).map(|n| (1100 + n, long.as_str())).collect();
    azure.traces(&traces);
    let given = operation(What::ReadLogs(reading("")), target(&azure.server.url)).await?;
    ensure!(given.outcome.code == "ok" && given.outcome.truncated, "{:?}", given.outcome);
    ensure!(given.outcome.message.contains("only the newest 156"), "{:?}", given.outcome);
    let texts = texts(&given)?;
    ensure!(texts.len() == 156 && texts.iter().all(|t| *t == long), "{}", texts.len());
    Ok(())
}

async fn filters() -> Result<()> {
    let azure = Azure::start(Conduct::default(), things()).await?;
    for filter in [
        "| union workspace('other').AppTraces",
        "join (arg ('').resources) on x",
        "['adx']('x')",
        ".drop table AppTraces",
    ] {
        let given = operation(What::ReadLogs(reading(filter)), target(&azure.server.url)).await?;
        given.failed("invalid_argument", "stays in the workspace")?;
    }
    ensure!(azure.asked().is_empty(), "{:?}", azure.asked());
    Ok(())
}

async fn followed() -> Result<()> {
    let azure = Azure::start(Conduct::default(), things()).await?;
    azure.traces(&[(1001, "zero"), (1500, "one")]);
    let read = ReadLogs { follow: true, until_ms: 0, limit: 4, ..reading("") };
    let mut worker =
        Worker::operation(&request(What::ReadLogs(ReadLogs { limit: 0, ..read.clone() }), target(&azure.server.url)))
            .await?;
    let mut shown = worker.at_least(1).await?;
    while shown.iter().filter(|b| **b == b'\n').count() < 2 {
        shown.extend(worker.at_least(1).await?);
    }
    // one comes, one comes late, and one that is like another
    azure.traces(&[(1600, "two"), (1400, "late"), (1600, "two")]);
    while shown.iter().filter(|b| **b == b'\n').count() < 5 {
        shown.extend(worker.at_least(1).await?);
    }
    let shown = String::from_utf8(shown)?;
    let lines = shown.lines().map(serde_json::from_str::<LogLine>).collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<_> = lines.iter().map(|l| l.message.as_str()).collect();
    ensure!(texts == ["zero", "one", "late", "two", "two"], "{texts:?}");
    ensure!(worker.cancel().await? == Some(0));
    // it ends by itself where a limit or an end is named
    let given =
        operation(What::ReadLogs(ReadLogs { until_ms: 1_700_000, ..read.clone() }), target(&azure.server.url)).await?;
    ensure!(given.outcome.code == "ok", "{given:?}");
    let given = operation(What::ReadLogs(ReadLogs { limit: 2, ..read }), target(&azure.server.url)).await?;
    ensure!(self::texts(&given)? == ["two", "two"] && given.outcome.code == "ok", "{given:?}");
    Ok(())
}

async fn endless() -> Result<()> {
    // every page has one more, by either way of telling it
    let server = Server::start(|asked: &Asked, before| {
        let url = format!("http://{}", asked.header("host"));
        let path = asked.line.split(['?', ' ']).nth(1).unwrap_or_default();
        let item = json!({"id": format!("/d/{before}"), "name": "n", "type": "microsoft.compute/disks", "subscriptionId": "s"});
        let link = format!("{url}{path}?api-version=x&$skiptoken={before}");
        let page = json!({"value": [item], "nextLink": link, "data": [item], "$skipToken": before.to_string(), "resultTruncated": "false"});
        (200, page.to_string())
    })
    .await?;
    let given = operation(What::ListResources(list(&[DISK])), target(&server.url)).await?;
    let found: Resources = given.document()?;
    ensure!(found.items.len() == 200 && found.truncated && given.outcome.truncated, "{}", found.items.len());
    ensure!(server.asked().len() == 200, "{}", server.asked().len());
    let given = operation(What::ListPlaces(ListPlaces::default()), target(&server.url)).await?;
    let places: Places = given.document()?;
    ensure!(places.items.len() == 200 && given.outcome.truncated, "{}", places.items.len());
    Ok(())
}

async fn hostile() -> Result<()> {
    let value = |link: &str| json!({"value": [], "nextLink": link}).to_string();
    let elsewhere = Server::start(|_: &Asked, _| (200, json!({"value": []}).to_string())).await?;
    let there = format!("{}/subscriptions?api-version=2022-12-01", elsewhere.url);
    let cases: Vec<(Answer, &str, &str)> = vec![
        ((200, value(&there)).into(), "target_refused", "somewhere else"),
        ((200, value("https://management.azure.com/subscriptions?x")).into(), "target_refused", "somewhere else"),
        ((200, value("/subscriptions?x")).into(), "target_refused", "somewhere else"),
        ((200, "<html>".to_owned()).into(), "target_refused", "not the JSON"),
        ((200, "{}".to_owned()).into(), "target_failed", "should be a list"),
        ((200, String::new()).into(), "target_refused", "not the JSON"),
        (
            Answer { status: 302, headers: vec![("Location", there.clone())], body: String::new() },
            "target_refused",
            "302",
        ),
        (Answer { status: 307, headers: vec![("Location", there)], body: String::new() }, "target_refused", "307"),
        ((200, " ".repeat(32 * 1024 * 1024 + 1)).into(), "too_large", "longer than"),
    ];
    for (answer, code, words) in cases {
        let Answer { status, headers, body } = answer;
        let server =
            Server::start(move |_: &Asked, _| Answer { status, headers: headers.clone(), body: body.clone() }).await?;
        let given = operation(What::ListPlaces(ListPlaces::default()), target(&server.url)).await?;
        given.failed(code, words)?;
        no_secret(&given)?;
    }
    ensure!(elsewhere.asked().is_empty(), "{:?}", elsewhere.asked());
    // at the limit it is read
    let whole = json!({"value": []}).to_string();
    let server =
        Server::start(move |_: &Asked, _| (200, format!("{whole}{}", " ".repeat(32 * 1024 * 1024 - whole.len()))))
            .await?;
    let places: Places = operation(What::ListPlaces(ListPlaces::default()), target(&server.url)).await?.document()?;
    ensure!(places.items.is_empty());
    let not_graph = Server::start(|_: &Asked, _| (200, json!({"data": {"rows": []}}).to_string())).await?;
    operation(What::ListResources(list(&[DISK])), target(&not_graph.url)).await?.failed("target_refused", "no data")?;
    let deep = Server::start(|_: &Asked, _| (200, "[".repeat(100_000))).await?;
    operation(What::ListPlaces(ListPlaces::default()), target(&deep.url))
        .await?
        .failed("target_refused", "not the JSON")
}

async fn refusals() -> Result<()> {
    for (status, reason, code) in [
        (401, "ExpiredAuthenticationToken", "credentials_expired"),
        (401, "InvalidAuthenticationTokenTenant", "credentials_expired"),
        (403, "AuthorizationFailed", "target_forbidden"),
        (404, "SubscriptionNotFound", "target_not_found"),
        (400, "InvalidApiVersionParameter", "target_refused"),
    ] {
        let server =
            Server::start(move |_: &Asked, _| refused(status, reason, &format!("in {reason}'s words"))).await?;
        let given = operation(What::ListPlaces(ListPlaces::default()), target(&server.url)).await?;
        given.failed(code, &format!("Azure: {reason}: in {reason}'s words"))?;
        ensure!((given.outcome.target_status, given.outcome.target_reason.as_str()) == (u32::from(status), reason));
        ensure!(server.asked().len() == 1, "{reason} is not asked again");
        no_secret(&given)?;
        // where Resource Graph is refused so is what stands in for it, and that is all that is asked
        let given = operation(What::ListResources(list(&[DISK, VM])), target(&server.url)).await?;
        ensure!(given.outcome.code == code && server.asked().len() <= 3, "{given:?} {:?}", server.asked().len());
    }
    let wrong =
        Target::Azure(AzureTarget { management_token: "eyJh.e30.c2ln".into(), ..azure_target("http://127.0.0.1:9") });
    operation(What::WhoAmI(WhoAmI::default()), wrong).await?.failed("credentials_unavailable", "does not say whose")
}

async fn throttling() -> Result<()> {
    let azure = Azure::start(Conduct { no_graph: Some((429, "RateLimiting")), page: 0 }, things()).await?;
    let began = std::time::Instant::now();
    ensure!(names(&resources(list(&[VM]), &azure).await?) == ["web-1", "web-2"]);
    ensure!(began.elapsed() >= std::time::Duration::from_secs(1) && azure.asked().len() == 2, "{:?}", began.elapsed());
    let places = || What::ListPlaces(ListPlaces::default());
    let busy = |wait: &'static str| {
        move |_: &Asked, _| Answer {
            headers: vec![("Retry-After", wait.into())],
            ..refused(429, "TooManyRequests", "slow down")
        }
    };
    // what is too long to wait for is told at once
    let server = Server::start(busy("6")).await?;
    let given = operation(places(), target(&server.url)).await?;
    given.failed("target_throttled", "slow down")?;
    ensure!(server.asked().len() == 1 && given.outcome.next_step == "Try again in 6 s.", "{given:?}");
    let server = Server::start(busy("0")).await?;
    operation(places(), target(&server.url)).await?.failed("target_throttled", "slow down")?;
    ensure!(server.asked().len() == 5, "{} attempts", server.asked().len());
    let server = Server::start(|_: &Asked, before| match before {
        0 => (503, "busy".to_owned()),
        1 => (500, Value::Null.to_string()),
        _ => (200, json!({"value": []}).to_string()),
    })
    .await?;
    let found: Places = operation(places(), target(&server.url)).await?.document()?;
    ensure!(found.items.is_empty() && server.asked().len() == 3);
    Ok(())
}
