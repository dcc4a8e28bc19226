//! `k8s events`, and the events of one object.

use super::api::{Api, JSON};
use super::kinds::Kinds;
use super::watch::{Change, Watch};
use super::words::{self, Name, Place};
use crate::client::path;
use crate::commands::Session;
use crate::output::table::Widths;
use crate::output::{Format, table};
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::collections::{HashSet, VecDeque};

/// Events of one object that a description shows, at most: the newest.
const SHOWN_MAX: usize = 100;
/// Changes of events that are remembered while they are followed, so that none is shown twice.
const REMEMBERED_MAX: usize = 10_000;

/// `k8s events`
#[derive(Debug, clap::Args)]
pub(super) struct Events {
    #[command(flatten)]
    place: Place,
    /// Only of this object: KIND/NAME
    #[arg(long = "for", value_name = "KIND/NAME")]
    of: Option<String>,
    /// Only of these types, such as Warning
    #[arg(long, value_delimiter = ',', value_name = "TYPE")]
    types: Vec<String>,
    /// Go on with what happens
    #[arg(short, long)]
    watch: bool,
    /// Without the line of the columns' names
    #[arg(long)]
    no_headers: bool,
}

/// What is looked for.
struct Sought {
    namespace: Option<String>,
    fields: Option<String>,
    beginning: Option<String>,
}

/// Which changes of events were shown.
#[derive(Debug, Default)]
struct Seen {
    known: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

// === impl Seen ===

impl Seen {
    fn is_new(&mut self, key: (String, String)) -> bool {
        if !self.known.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// `k8s events`
pub(super) async fn run(command: Events, api: &Api, session: &Session) -> Done {
    let sought = session.wait("asking what there is", sought(&command, api)).await?;
    let fields = sought.fields.as_deref();
    let target = |more: &[(&str, &str)]| {
        let own = fields.map(|fields| ("fieldSelector", fields));
        at(sought.namespace.as_deref(), &own.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let is_meant = |event: &Value| {
        let name = event.pointer("/involvedObject/name").and_then(Value::as_str).unwrap_or_default();
        let kind = event["type"].as_str().unwrap_or_default();
        sought.beginning.as_ref().is_none_or(|beginning| name.starts_with(beginning))
            && (command.types.is_empty() || command.types.iter().any(|t| t.eq_ignore_ascii_case(kind)))
    };
    if command.watch {
        let following = follow(&command, api, session, &target, &is_meant);
        return session.interrupt.guard("events are no longer followed; nothing goes on", following).await;
    }
    let reading = async {
        let mut all = Vec::new();
        api.pages(target, JSON, |mut page| all.extend(items(&mut page).into_iter().filter(is_meant))).await?;
        Ok(all)
    };
    let mut all = session.wait("listing events", reading).await?;
    all.sort_by_key(moment);
    if !matches!(session.output.format, Format::Table | Format::Wide) {
        return session
            .output
            .document(&json!({ "apiVersion": "v1", "kind": "List", "items": all }), |_| String::new());
    }
    if all.is_empty() {
        match &sought.namespace {
            Some(namespace) => eprintln!("No events found in {} namespace.", crate::output::escape::line(namespace)),
            None => eprintln!("No events found."),
        }
        return Ok(());
    }
    let lines = header(&command).into_iter().chain(all.iter().map(|e| row(e, command.place.all_namespaces)));
    session.output.text(&Widths::default().set(&lines.collect::<Vec<_>>()))
}

async fn sought(command: &Events, api: &Api) -> Result<Sought, Failure> {
    let mut sought = Sought { namespace: None, fields: None, beginning: None };
    let mut namespaced = true;
    if let Some(object) = &command.of {
        let (kind, name) = words::one(std::slice::from_ref(object), None)?;
        let kinds = Kinds::of(api).await?;
        let kind = kinds.one(&kind)?;
        namespaced = kind.namespaced;
        let of_kind = format!("involvedObject.kind={}", kind.kind);
        match Name::read(&name) {
            Name::Whole(name) => sought.fields = Some(format!("{of_kind},involvedObject.name={name}")),
            Name::Beginning(beginning) => {
                sought.fields = Some(of_kind);
                sought.beginning = Some(beginning.to_owned());
            }
        }
    }
    if namespaced && !command.place.all_namespaces {
        sought.namespace = Some(api.namespace(command.place.namespace.as_deref()).await?);
    }
    Ok(sought)
}

/// What there is by time, and then each as it comes.
async fn follow(
    command: &Events,
    api: &Api,
    session: &Session,
    target: &impl Fn(&[(&str, &str)]) -> String,
    is_meant: &impl Fn(&Value) -> bool,
) -> Done {
    let (mut widths, mut first) = (Widths::default(), true);
    let mut watch = Watch::new(api, JSON);
    let mut seen = Seen::default();
    loop {
        let mut events = match watch.next(target).await? {
            Change::All(mut page) => items(&mut page),
            Change::One { gone: true, .. } => continue,
            Change::One { object, .. } => vec![object],
        };
        events.retain(|event| {
            let key = (table::text(event, "/metadata/uid"), table::text(event, "/metadata/resourceVersion"));
            is_meant(event) && seen.is_new(key)
        });
        events.sort_by_key(moment);
        for event in &events {
            match session.output.format {
                Format::Table | Format::Wide => {
                    let line = row(event, command.place.all_namespaces);
                    let lines: Vec<_> = if std::mem::take(&mut first) { header(command) } else { None }
                        .into_iter()
                        .chain([line])
                        .collect();
                    session.output.text(&widths.set(&lines))?;
                }
                _ => session.output.document(event, |_| String::new())?,
            }
        }
    }
}

/// Where the events of a namespace are, or of all of them.
fn at(namespace: Option<&str>, query: &[(&str, &str)]) -> String {
    match namespace {
        Some(namespace) => path(&["api", "v1", "namespaces", namespace, "events"], query),
        None => path(&["api", "v1", "events"], query),
    }
}

fn items(page: &mut Value) -> Vec<Value> {
    page["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

fn header(command: &Events) -> Option<Vec<String>> {
    if command.no_headers {
        return None;
    }
    let mut header = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(str::to_owned).to_vec();
    if command.place.all_namespaces {
        header.insert(0, "NAMESPACE".into());
    }
    Some(header)
}

fn row(event: &Value, namespaces: bool) -> Vec<String> {
    let object =
        format!("{}/{}", table::text(event, "/involvedObject/kind"), table::text(event, "/involvedObject/name"));
    let message = table::text(event, "/message");
    let mut row = vec![
        last_seen(event),
        table::text(event, "/type"),
        table::text(event, "/reason"),
        object,
        message.trim().to_owned(),
    ];
    if namespaces {
        row.insert(0, table::text(event, "/metadata/namespace"));
    }
    row
}

/// When it was seen last, in RFC 3339: texts of one form, which sort as the moments do.
fn moment(event: &Value) -> String {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .into_iter()
        .map(|at| table::text(event, at))
        .find(|text| !text.is_empty())
        // a fraction sorts behind the whole second
        .map(|text| text.replace('Z', ""))
        .unwrap_or_default()
}

/// As kubectl has it: `5m`, or `5m (x3 over 1h)`.
fn last_seen(event: &Value) -> String {
    let since = |at: &str| match table::age_since(event.pointer(at).and_then(Value::as_str)) {
        age if age.is_empty() => "<unknown>".to_owned(),
        age => age,
    };
    let first = if event["eventTime"].is_null() { since("/firstTimestamp") } else { since("/eventTime") };
    if event["series"].is_object() {
        let count = table::text(event, "/series/count");
        return format!("{} (x{count} over {first})", since("/series/lastObservedTime"));
    }
    match event["count"].as_i64() {
        Some(count) if count > 1 => format!("{} (x{count} over {first})", since("/lastTimestamp")),
        _ => first,
    }
}

/// The events of one object, the newest last; why there are none, where the cluster does not show them.
pub(super) async fn of_object(api: &Api, object: &Value) -> Result<Result<Vec<Value>, Failure>, Failure> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let field = format!("involvedObject.uid={}", table::text(object, "/metadata/uid"));
    let mut all = Vec::new();
    let target = |more: &[(&str, &str)]| at(namespace, &[&[("fieldSelector", field.as_str())], more].concat());
    match api.pages(target, JSON, |mut page| all.append(&mut items(&mut page))).await {
        Ok(()) => {}
        // the object itself may be looked at, and that is what was asked for
        Err(failure) if matches!(failure.code, Code::TargetForbidden | Code::PolicyDenied) => return Ok(Err(failure)),
        Err(failure) => return Err(failure),
    }
    all.sort_by_key(moment);
    let older = all.len().saturating_sub(SHOWN_MAX);
    Ok(Ok(all.split_off(older)))
}

/// What stands in the place of events that could not be read.
pub(super) fn not_read(failure: &Failure) -> String {
    format!("  could not be read: {} [{}]\n", crate::output::escape::line(&failure.message), failure.code)
}

/// A table of an object's events.
pub(super) fn of_object_table(events: &[Value]) -> String {
    let rows = events.iter().map(|event| {
        let source = ["/source/component", "/reportingComponent"].map(|at| table::text(event, at));
        let source = source.into_iter().find(|s| !s.is_empty()).unwrap_or_default();
        vec![
            format!("  {}", table::text(event, "/type")),
            table::text(event, "/reason"),
            last_seen(event),
            source,
            table::text(event, "/message").trim().to_owned(),
        ]
    });
    table::rows(&["  TYPE", "REASON", "LAST SEEN", "FROM", "MESSAGE"], rows, "  none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        let ago = |seconds: i64| shared_proto::identity::rfc3339(shared_proto::now_ms() / 1000 - seconds);
        let once = json!({"firstTimestamp": ago(300), "lastTimestamp": ago(300), "count": 1});
        let often = json!({"firstTimestamp": ago(600), "lastTimestamp": ago(300), "count": 3});
        let series = json!({"eventTime": ago(600), "series": {"count": 4, "lastObservedTime": ago(300)}});
        assert_eq!(
            [&once, &often, &series, &json!({})].map(last_seen),
            ["5m", "5m (x3 over 10m)", "5m (x4 over 10m)", "<unknown>"]
        );
        assert!(moment(&often) < moment(&json!({"eventTime": ago(299)})));
        assert!(
            moment(&json!({"eventTime": "2026-01-02T03:04:05.000001Z"}))
                > moment(&json!({"lastTimestamp": "2026-01-02T03:04:05Z"}))
        );
    }
}
