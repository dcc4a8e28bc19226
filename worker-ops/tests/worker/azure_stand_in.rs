//! What stands in for Azure, over real HTTP: it refuses what Azure's documentation says is refused, and answers in the documented forms. It is not
//! Azure: nothing here was recorded from a live account.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::server::{Answer, Asked, Server};

pub(crate) const SUBSCRIPTION: &str = "11111111-1bf0-4dda-aec3-cb9272f09590";
pub(crate) const OTHER: &str = "22222222-1bf0-4dda-aec3-cb9272f09590";
pub(crate) const WORKSPACE: &str = "33333333-1bf0-4dda-aec3-cb9272f09590";
pub(crate) const LOGS_TOKEN: &str = "t0ken-of-logs";
/// What is between where a question to Resource Graph says which resources, and its end.
const PROJECTED: &str = "| project id, name, type, location, tags, state, created";

/// A token as Entra gives them, of the application `app`.
pub(crate) fn management_token() -> String {
    use base64::Engine as _;
    let claims = json!({"aud": "https://management.azure.com/", "appid": "app", "oid": "object", "tid": "tenant"});
    format!("eyJh.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// How it behaves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Conduct {
    /// Resource Graph is refused with this status and code.
    pub(crate) no_graph: Option<(u16, &'static str)>,
    /// Rows of a page, of whatever list.
    pub(crate) page: usize,
}

/// A resource.
#[derive(Clone)]
pub(crate) struct Thing {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) tags: Vec<(&'static str, &'static str)>,
}

/// A line of the table AppTraces.
#[derive(Clone)]
pub(crate) struct Trace {
    /// Unix seconds.
    pub(crate) at: i64,
    pub(crate) message: String,
}

pub(crate) struct Azure {
    pub(crate) server: Server,
    traces: Arc<Mutex<Vec<Trace>>>,
}

/// What is there.
struct World {
    conduct: Conduct,
    things: Vec<Thing>,
    traces: Arc<Mutex<Vec<Trace>>>,
    url: Mutex<String>,
    throttled: AtomicUsize,
}

/// A request taken apart.
struct Wanted<'a> {
    method: &'a str,
    path: String,
    query: BTreeMap<String, String>,
    body: Value,
}

// === impl Azure ===

impl Azure {
    pub(crate) async fn start(conduct: Conduct, things: Vec<Thing>) -> anyhow::Result<Self> {
        let traces = Arc::new(Mutex::new(Vec::new()));
        let page = if conduct.page == 0 { 1000 } else { conduct.page };
        let world = Arc::new(World {
            conduct: Conduct { page, ..conduct },
            things,
            traces: traces.clone(),
            url: Mutex::default(),
            throttled: AtomicUsize::new(0),
        });
        let own = world.clone();
        let server = Server::start(move |asked, _| own.answer(asked)).await?;
        *world.url.lock().unwrap_or_else(PoisonError::into_inner) = server.url.clone();
        Ok(Self { server, traces })
    }

    /// These come in together.
    pub(crate) fn traces(&self, traces: &[(i64, &str)]) {
        let traces = traces.iter().map(|(at, message)| Trace { at: *at, message: (*message).to_owned() });
        self.traces.lock().unwrap_or_else(PoisonError::into_inner).extend(traces);
    }

    /// What was asked, as `METHOD PATH`, without queries.
    pub(crate) fn asked(&self) -> Vec<String> {
        let line = |asked: Asked| asked.line.split(['?', ' ']).take(2).collect::<Vec<_>>().join(" ");
        self.server.asked().into_iter().map(line).collect()
    }
}

// === impl Thing ===

impl Thing {
    pub(crate) fn new(kind: &'static str, name: &str, tags: &[(&'static str, &'static str)]) -> Self {
        Self { group: "Group-1", kind, name: name.to_owned(), tags: tags.to_vec() }
    }

    fn id(&self) -> String {
        let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{}", self.group);
        if self.is_group() {
            group.replace(self.group, &self.name)
        } else {
            format!("{group}/providers/{}/{}", self.kind, self.name)
        }
    }
    fn is_group(&self) -> bool {
        self.kind.eq_ignore_ascii_case("microsoft.resources/subscriptions/resourcegroups")
    }
    fn tags(&self) -> Value {
        self.tags.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect::<serde_json::Map<_, _>>().into()
    }
}

/// <https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors>
pub(crate) fn refused(status: u16, code: &str, message: &str) -> Answer {
    (status, json!({"error": {"code": code, "message": message}}).to_string()).into()
}

fn ok(body: &Value) -> Answer {
    (200, body.to_string()).into()
}

// === impl World ===

impl World {
    fn answer(&self, asked: &Asked) -> Answer {
        let mut words = asked.line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|p| p.split_once('='));
        let wanted = Wanted {
            method,
            path: decoded(path),
            query: pairs.map(|(k, v)| (decoded(k), decoded(v))).collect(),
            body: serde_json::from_str(&asked.body).unwrap_or_default(),
        };
        let logs = path.starts_with("/v1/");
        let token = if logs { LOGS_TOKEN.to_owned() } else { management_token() };
        if asked.header("authorization") != format!("Bearer {token}") {
            return refused(401, "InvalidAuthenticationToken", "The access token is invalid.");
        }
        if method == "POST" && (asked.header("content-type") != "application/json" || wanted.body.is_null()) {
            return refused(415, "UnsupportedMediaType", "The content media type is not supported.");
        }
        if logs { self.logs(&wanted) } else { self.manager(&wanted) }
    }

    fn manager(&self, wanted: &Wanted<'_>) -> Answer {
        let lower = wanted.path.to_lowercase();
        let own = format!("/subscriptions/{SUBSCRIPTION}");
        let version = |versions: &[&str]| {
            let given = wanted.query.get("api-version").map(String::as_str).unwrap_or_default();
            versions.contains(&given)
        };
        let wrong_version = || refused(400, "InvalidApiVersionParameter", "The api-version is invalid.");
        if let Some(subscription) = lower.strip_prefix("/subscriptions/").and_then(|p| p.split('/').next())
            && subscription != SUBSCRIPTION
            && subscription != OTHER
        {
            return refused(
                404,
                "SubscriptionNotFound",
                &format!("The subscription '{subscription}' could not be found."),
            );
        }
        match (wanted.method, lower.as_str()) {
            // https://learn.microsoft.com/rest/api/resources/subscriptions/list
            ("GET", "/subscriptions") if version(&["2022-12-01"]) => {
                let subscription = |id: &str, name: &str| json!({"id": format!("/subscriptions/{id}"), "subscriptionId": id, "displayName": name, "state": "Enabled", "tenantId": "tenant"});
                self.paged(wanted, vec![subscription(SUBSCRIPTION, "Production"), subscription(OTHER, "Test")])
            }
            ("GET", path) if path == own && version(&["2022-12-01"]) => {
                ok(&json!({"id": own, "subscriptionId": SUBSCRIPTION, "displayName": "Production", "state": "Enabled"}))
            }
            ("POST", "/providers/microsoft.resourcegraph/resources") if version(&["2022-10-01"]) => {
                self.graph(&wanted.body)
            }
            // https://learn.microsoft.com/rest/api/resources/resources/list
            ("GET", path) if path == format!("{own}/resources") && version(&["2021-04-01"]) => self.resources(wanted),
            // https://learn.microsoft.com/rest/api/resources/resource-groups/list
            ("GET", path) if path == format!("{own}/resourcegroups") && version(&["2021-04-01"]) => {
                let groups = self.things.iter().filter(|t| t.is_group()).map(|t| {
                    json!({"id": t.id(), "name": t.name, "type": "Microsoft.Resources/resourceGroups", "location": "westeurope", "tags": t.tags(), "properties": {"provisioningState": "Succeeded"}})
                });
                self.paged(wanted, groups.collect())
            }
            // https://learn.microsoft.com/rest/api/resources/providers/get
            ("GET", path) if path == format!("{own}/providers/microsoft.maps") && version(&["2021-04-01"]) => {
                ok(&json!({
                    "id": format!("{own}/providers/Microsoft.Maps"), "namespace": "Microsoft.Maps", "registrationState": "Registered",
                    "resourceTypes": [{"resourceType": "accounts", "locations": ["Global"], "apiVersions": ["2024-07-01-preview", "2023-06-01", "2021-02-01"]}],
                }))
            }
            // https://learn.microsoft.com/rest/api/loganalytics/workspaces/list
            ("GET", path)
                if path == format!("{own}/providers/microsoft.operationalinsights/workspaces")
                    && version(&["2023-09-01"]) =>
            {
                let workspaces = self.things.iter().filter(|t| t.kind.ends_with("/workspaces")).map(workspace);
                ok(&json!({"value": workspaces.collect::<Vec<_>>()}))
            }
            // https://learn.microsoft.com/rest/api/loganalytics/tables/list-by-workspace
            ("GET", path) if path.ends_with("/workspaces/logs-1/tables") && version(&["2023-09-01"]) => {
                let table = |name: &str, days: u32| json!({"id": format!("{}/{name}", wanted.path), "name": name, "type": "Microsoft.OperationalInsights/workspaces/tables", "properties": {"plan": "Analytics", "retentionInDays": days, "schema": {"name": name}}});
                ok(&json!({"value": [table("AppTraces", 30), table("AppRequests", 30), table("Syslog", 90)]}))
            }
            ("GET", path) => match self.things.iter().find(|t| t.id().eq_ignore_ascii_case(path)) {
                None => refused(404, "ResourceNotFound", "The Resource was not found."),
                Some(thing) => {
                    let known = match thing.kind.to_lowercase().as_str() {
                        "microsoft.maps/accounts" => "2023-06-01",
                        "microsoft.compute/virtualmachines" => "2024-07-01",
                        "microsoft.compute/disks" => "2024-03-02",
                        "microsoft.operationalinsights/workspaces" => "2023-09-01",
                        "microsoft.resources/subscriptions/resourcegroups" => "2021-04-01",
                        _ => "none",
                    };
                    if !version(&[known]) {
                        return wrong_version();
                    }
                    let mut found =
                        if thing.kind.ends_with("/workspaces") { workspace(thing) } else { self.described(thing) };
                    found["properties"]["timeCreated"] = json!("2024-05-01T10:00:00.5Z");
                    ok(&found)
                }
            },
            _ => refused(405, "MethodNotAllowed", "The method is not allowed, or the api-version is not."),
        }
    }

    fn described(&self, thing: &Thing) -> Value {
        json!({"id": thing.id(), "name": thing.name, "type": thing.kind, "location": "westeurope", "tags": thing.tags(), "properties": {"provisioningState": "Succeeded"}})
    }

    /// A page of a list by `$skiptoken`, with an absolute link to the next one.
    fn paged(&self, wanted: &Wanted<'_>, all: Vec<Value>) -> Answer {
        let from: usize = wanted.query.get("$skiptoken").and_then(|t| t.parse().ok()).unwrap_or(0);
        let rest = all.len().saturating_sub(from + self.conduct.page);
        let page: Vec<_> = all.into_iter().skip(from).take(self.conduct.page).collect();
        let mut answer = json!({"value": page});
        if rest > 0 {
            let mut query = wanted.query.clone();
            query.insert("$skiptoken".into(), (from + self.conduct.page).to_string());
            let query: Vec<_> =
                query.iter().map(|(k, v)| format!("{k}={}", v.replace(' ', "%20").replace('\'', "%27"))).collect();
            let url = self.url.lock().unwrap_or_else(PoisonError::into_inner).clone();
            answer["nextLink"] = json!(format!("{url}{}?{}", wanted.path, query.join("&")));
        }
        ok(&answer)
    }

    fn resources(&self, wanted: &Wanted<'_>) -> Answer {
        let filter = wanted.query.get("$filter").map(String::as_str).unwrap_or_default();
        let kind = filter.strip_prefix("resourceType eq '").and_then(|f| f.strip_suffix('\''));
        let Some(kind) = kind.filter(|k| !k.contains('\'')) else {
            return refused(
                400,
                "InvalidFilterInQueryString",
                &format!("Invalid $filter '{filter}' specified in the query string."),
            );
        };
        let expand = wanted.query.get("$expand").map(String::as_str).unwrap_or_default();
        let known = ["createdTime", "changedTime", "provisioningState"];
        if expand.split(',').any(|name| !known.contains(&name)) {
            return refused(400, "InvalidExpandQueryOption", "The $expand is invalid.");
        }
        let things = self.things.iter().filter(|t| !t.is_group() && t.kind.eq_ignore_ascii_case(kind));
        let shown = things.map(|t| json!({"id": t.id(), "name": t.name, "type": t.kind, "location": "westeurope", "tags": t.tags(), "createdTime": "2024-05-01T10:00:00Z", "provisioningState": "Succeeded"}));
        self.paged(wanted, shown.collect())
    }

    /// <https://learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources>
    fn graph(&self, body: &Value) -> Answer {
        if let Some((status, code)) = self.conduct.no_graph {
            if status == 429 && self.throttled.fetch_add(1, Ordering::Relaxed) > 0 {
                return self.found(body);
            }
            let mut answer = refused(status, code, "The client does not have authorization to perform the action.");
            if status == 429 {
                answer.headers.push(("Retry-After", "1".into()));
            }
            return answer;
        }
        self.found(body)
    }

    fn found(&self, body: &Value) -> Answer {
        let top = body["options"]["$top"].as_u64().unwrap_or(0);
        if body["subscriptions"] != json!([SUBSCRIPTION])
            || body["options"]["resultFormat"] != "objectArray"
            || !(1..=1000).contains(&top)
        {
            return refused(400, "BadRequest", "Please provide below info when asking for support");
        }
        let Some(fits) = body["query"].as_str().and_then(Question::read) else {
            return refused(400, "InvalidQuery", "Query is invalid. ParserFailure");
        };
        let mut things: Vec<_> = self.things.iter().filter(|t| fits.fits(t)).collect();
        things.sort_by_key(|t| t.id());
        let from: usize = body["options"]["$skipToken"].as_str().and_then(|t| t.parse().ok()).unwrap_or(0);
        let size = self.conduct.page.min(top as usize);
        let data: Vec<_> = things.iter().skip(from).take(size).map(|t| {
            // it writes types in lower case, and groups' as it likes
            json!({"id": t.id(), "name": t.name, "type": t.kind.to_lowercase(), "location": "westeurope", "tags": t.tags(), "state": "VM running", "created": "2024-05-01T10:00:00.1234567Z"})
        }).collect();
        let mut answer = json!({"totalRecords": things.len(), "count": data.len(), "data": data, "facets": [], "resultTruncated": "false"});
        if things.len() > from + size {
            answer["$skipToken"] = json!((from + size).to_string());
        }
        ok(&answer)
    }

    /// <https://learn.microsoft.com/azure/azure-monitor/logs/api/request-format>
    fn logs(&self, wanted: &Wanted<'_>) -> Answer {
        if wanted.method != "POST" || wanted.path != format!("/v1/workspaces/{WORKSPACE}/query") {
            return refused(404, "PathNotFoundError", "The requested path does not exist");
        }
        let query = wanted.body["query"].as_str().unwrap_or_default();
        let wrong = |near: &str| {
            let inner = json!({"code": "SyntaxError", "message": "A recognition error occurred in the query.", "innererror": {"code": "SYN0002", "message": format!("Query could not be parsed at '{near}'")}});
            let error = json!({"error": {"code": "BadArgumentError", "message": "The request had some invalid properties", "innererror": inner}});
            Answer::from((400, error.to_string()))
        };
        let mut lines = query.lines();
        if lines.next() != Some("AppTraces") {
            return wrong(query);
        }
        let mut traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut top = None;
        for line in lines {
            if let Some(text) = line.strip_prefix("| where Message has '").and_then(|l| l.strip_suffix('\'')) {
                traces.retain(|t| t.message.contains(text));
            } else if let Some(n) = line.strip_prefix("| top ").and_then(|l| l.strip_suffix(" by TimeGenerated desc")) {
                top = n.parse::<usize>().ok();
            } else if line.starts_with("| where ingestion_time() > ago(") && line.ends_with("s)") {
                // all of it came in just now
            } else {
                return wrong(line);
            }
        }
        if let Some((since, until)) = wanted.body["timespan"].as_str().and_then(|t| t.split_once('/')) {
            let seconds =
                |text: &str| text.parse::<k8s_openapi::jiff::Timestamp>().map(|t| t.as_second()).unwrap_or(-1);
            let within = seconds(since)..=seconds(until);
            traces.retain(|t| within.contains(&t.at));
        }
        traces.sort_by_key(|t| std::cmp::Reverse(t.at));
        traces.truncate(top.unwrap_or(usize::MAX));
        let rows: Vec<_> = traces
            .iter()
            .map(|t| {
                let at = k8s_openapi::jiff::Timestamp::from_second(t.at).map(|t| t.to_string()).unwrap_or_default();
                json!(["tenant", at, t.message, 2, "/subscriptions/x/app", "AppTraces"])
            })
            .collect();
        let column = |name: &str, kind: &str| json!({"name": name, "type": kind});
        let columns = json!([
            column("TenantId", "string"),
            column("TimeGenerated", "datetime"),
            column("Message", "string"),
            column("SeverityLevel", "int"),
            column("_ResourceId", "string"),
            column("Type", "string")
        ]);
        ok(&json!({"tables": [{"name": "PrimaryResult", "columns": columns, "rows": rows}]}))
    }
}

fn workspace(thing: &Thing) -> Value {
    json!({"id": thing.id(), "name": thing.name, "type": "Microsoft.OperationalInsights/workspaces", "location": "westeurope", "tags": thing.tags(), "properties": {"customerId": WORKSPACE, "provisioningState": "Succeeded", "retentionInDays": 30}})
}

/// A question to Resource Graph, as far as one is understood here; whatever else stands in it is a syntax error.
struct Question {
    groups: bool,
    types: Vec<String>,
    tags: Vec<(String, Option<String>)>,
    text: String,
}

// === impl Question ===

impl Question {
    fn read(query: &str) -> Option<Self> {
        let mut lines = query.lines();
        let groups = match lines.next()? {
            "resources" => false,
            "resourcecontainers" => true,
            _ => return None,
        };
        let mut types = Vec::new();
        let mut rest = lines.next()?.strip_prefix("| where type in~ (")?.strip_suffix(')')?;
        while !rest.is_empty() {
            let (text, after) = unquoted(rest)?;
            types.push(text);
            rest = after.strip_prefix(", ").unwrap_or(after);
        }
        let (mut tags, mut text) = (Vec::new(), String::new());
        for line in lines.by_ref() {
            if let Some(rest) = line.strip_prefix("| where isnotnull(tags[") {
                let (key, rest) = unquoted(rest)?;
                (rest == "])").then_some(())?;
                tags.push((key, None));
            } else if let Some(rest) = line.strip_prefix("| where tostring(tags[") {
                let (key, rest) = unquoted(rest)?;
                let (value, rest) = unquoted(rest.strip_prefix("]) == ")?)?;
                rest.is_empty().then_some(())?;
                tags.push((key, Some(value)));
            } else if let Some(rest) = line.strip_prefix("| where name contains ") {
                let (first, rest) = unquoted(rest)?;
                let (second, rest) = unquoted(rest.strip_prefix(" or id contains ")?)?;
                let (third, rest) = unquoted(rest.strip_prefix(" or tostring(tags) contains ")?)?;
                (rest.is_empty() && first == second && second == third).then_some(())?;
                text = first.to_lowercase();
            } else {
                (line.starts_with("| extend state = coalesce(") && line.contains(", created = coalesce("))
                    .then_some(())?;
                break;
            }
        }
        (lines.next()? == PROJECTED && lines.next()? == "| order by id asc" && lines.next().is_none()).then_some(())?;
        Some(Self { groups, types, tags, text })
    }

    fn fits(&self, thing: &Thing) -> bool {
        let tag = |key: &str| thing.tags.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let has = |text: &str| text.to_lowercase().contains(&self.text);
        self.groups == thing.is_group()
            && self.types.iter().any(|t| t.eq_ignore_ascii_case(thing.kind))
            && self.tags.iter().all(|(k, v)| tag(k).is_some_and(|found| v.as_ref().is_none_or(|v| v == found)))
            && (has(&thing.name) || has(&thing.id()) || has(&thing.tags().to_string()))
    }
}

/// The text of a literal, and what stands behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.strip_prefix('\'')?.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[at + 2..])),
            '\\' => match chars.next()?.1 {
                'u' => {
                    let digits: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                    out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                c @ ('\\' | '\'') => out.push(c),
                _ => return None,
            },
            c if c.is_control() => return None,
            c => out.push(c),
        }
    }
    None
}

/// What stands in a path, a query or a form.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?')
            }
            b => b,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
