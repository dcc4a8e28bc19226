//! Google Cloud's services as their references document them, on one address: what is asked is checked as Google checks it, and refused in
//! its words. What Google would not even find is remembered, and fails the test that looks.

mod methods;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use self::methods::METHODS;
use crate::server::{Asked, Plain, Server};

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
    pub(crate) instead: BTreeMap<&'static str, Plain>,
    pub(crate) logs: Arc<Mutex<Vec<Value>>>,
}

pub(crate) struct Google {
    pub(crate) server: Server,
    strange: Arc<Mutex<Vec<String>>>,
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
pub(crate) fn error(status: u16, word: &str, message: &str, details: &Value) -> Plain {
    let error = json!({"code": status, "message": message, "status": word, "details": details});
    (status, json!({"error": error}).to_string())
}
fn invalid(message: &str) -> Plain {
    error(400, "INVALID_ARGUMENT", message, &json!([]))
}

/// `Err`: there is no such thing at all.
fn answer(world: &World, asked: &Asked) -> Result<Plain, &'static str> {
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

fn gate(world: &World, service: &str) -> Option<Plain> {
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
fn entries(world: &World, asked: &Asked) -> Plain {
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
