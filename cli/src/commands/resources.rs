//! `resources`: of connections of every provider, in one table, as answers come.

use super::Session;
use crate::args::tag;
use crate::client::{path, read_lines};
use crate::output::table::{self, Widths};
use crate::output::{Format, remark};
use crate::stop::{Done, Stop};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::inventory;
use std::cell::RefCell;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What comes first is shown together after so long: lines that are set together stand below each other.
const HOLD: Duration = Duration::from_millis(300);
/// Every place that there is.
const EVERY: &str = "*";

/// `resources`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ResourcesCommand {
    /// Resources of connections: what each provider lists by itself, or of some types, or with some tags
    List(Where),
    /// Resources with a text in their name, their id or a tag
    Search {
        /// The text, whatever the case
        text: String,
        #[command(flatten)]
        place: Where,
    },
    /// One resource with its properties
    Get {
        /// The connection
        #[arg(short = 'C', long, env = "RUNNERCTL_CONNECTION", value_name = "NAME")]
        connection: String,
        /// Its type, as lists name it
        #[arg(long = "type", value_name = "TYPE")]
        type_name: String,
        /// Its region, project or subscription; the connection's own by default
        #[arg(long, visible_aliases = ["region", "project", "subscription"], value_name = "PLACE")]
        place: Option<String>,
        /// Its id, or what `resources list -o json` says as its identifier
        identifier: String,
    },
    /// The types that are listed where none is named
    Types {
        /// Of this provider
        #[arg(long, value_parser = PROVIDERS)]
        provider: Option<String>,
    },
}

/// The providers.
pub(super) const PROVIDERS: [&str; 4] = ["kubernetes", "aws", "gcp", "azure"];

/// Where resources are looked for, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    /// Of this connection; may be given several times; all by default
    #[arg(short = 'C', long, env = "RUNNERCTL_CONNECTION", value_name = "NAME", value_delimiter = ',')]
    connection: Vec<String>,
    /// Of connections of this provider
    #[arg(long, value_parser = PROVIDERS)]
    provider: Vec<String>,
    /// In this region, project, subscription or namespace; may be given several times; each connection's own by default
    #[arg(short = 'n', long, visible_aliases = ["region", "project", "subscription", "namespace"], value_name = "PLACE", value_delimiter = ',')]
    place: Vec<String>,
    /// In every region, project or subscription
    #[arg(long, visible_alias = "all-regions", conflicts_with = "place")]
    everywhere: bool,
    /// Of this type, such as AWS::S3::Bucket or deployments.apps; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// With this tag or label; may be given several times: all must be there
    #[arg(long = "tag", visible_alias = "label", value_parser = tag, value_name = "KEY[=VALUE]")]
    tags: Vec<String>,
    /// At most so many of each place; 1,000 by default
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,
}

/// `resources …`
pub(crate) async fn run(command: ResourcesCommand, session: &Session) -> Done {
    match command {
        ResourcesCommand::List(place) => list(&place, None, session).await,
        ResourcesCommand::Search { text, place } => list(&place, Some(&text), session).await,
        ResourcesCommand::Get { connection, type_name, place, identifier } => {
            let query = session.query([
                ("type", Some(type_name.as_str())),
                ("identifier", Some(identifier.as_str())),
                ("place", place.as_deref()),
            ]);
            let at = path(&["connections", &connection, "resource"], &query);
            let one = session.wait("asking", session.client.get(&at)).await?;
            session.output.document(&one, detail)
        }
        ResourcesCommand::Types { provider } => {
            let providers = PROVIDERS.iter().filter(|p| provider.as_deref().is_none_or(|only| only == **p));
            let items: Vec<Value> = providers
                .flat_map(|p| inventory::all(p, false).iter().map(move |t| json!({ "provider": p, "type": t.name })))
                .collect();
            session.output.document(&json!({ "items": items }), |list| {
                let rows =
                    table::items(list).iter().map(|t| vec![table::text(t, "/provider"), table::text(t, "/type")]);
                table::rows(&["PROVIDER", "TYPE"], rows, "No types.")
            })
        }
    }
}

async fn list(wanted: &Where, text: Option<&str>, session: &Session) -> Done {
    let limit = wanted.limit.map(|n| n.to_string());
    let many = |name: &'static str, all: &'_ [String]| all.iter().map(|v| (name, v.clone())).collect::<Vec<_>>();
    let own = [
        many("connection", &wanted.connection),
        many("provider", &wanted.provider),
        many("place", &wanted.place),
        many("type", &wanted.types),
        many("tag", &wanted.tags),
    ]
    .concat();
    let own = own.iter().map(|(name, value)| (*name, Some(value.as_str())));
    let every = wanted.everywhere.then_some(EVERY);
    let query = session.query(own.chain([("place", every), ("text", text), ("limit", limit.as_deref())]));
    let at = path(&["resources"], &query);
    let note = "the search was ended; nothing goes on";
    session.interrupt.guard(note, show(&at, wanted, session)).await
}

/// What comes, as it comes.
async fn show(at: &str, wanted: &Where, session: &Session) -> Done {
    // without them the columns are only wider
    let connections = match session.output.format {
        Format::Json | Format::Yaml => Value::Null,
        _ => session.client.get("/connections").await.unwrap_or_default(),
    };
    let shown = RefCell::new(Shown::new(session, wanted.widths(&connections)));
    let mut ended = None;
    let answer = session.client.stream(at, &[("accept", "application/x-ndjson")]).await?;
    let read = {
        let held = Notify::new();
        let reading = read_lines(answer, |line| {
            let mut shown = shown.borrow_mut();
            if let Some(resource) = line.get("resource") {
                shown.resource(resource)?;
                if shown.rows.due.is_some() {
                    held.notify_one();
                }
            } else if let Some(failure) = line.get("failure") {
                shown.failure(failure);
            } else {
                ended = line.get("end").cloned();
            }
            Ok(())
        });
        tokio::pin!(reading);
        loop {
            let due = shown.borrow().rows.due;
            tokio::select! {
                read = &mut reading => break read,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    shown.borrow_mut().release()?;
                }
                // lines are held that were not there when the time was looked at
                () = held.notified(), if due.is_none() => {}
            }
        }
    };
    let mut shown = shown.into_inner();
    shown.release()?;
    read?;
    let Some(end) = ended else {
        return Err(Code::ConnectionLost
            .on("the connection to the control plane was cut before the list's end")
            .into());
    };
    shown.end(&end)
}

/// Lines of the table. The first ones are held until they are due.
struct Rows {
    widths: Widths,
    wide: bool,
    held: Vec<Vec<String>>,
    /// When those that are held are to be shown.
    due: Option<Instant>,
    any: bool,
}

/// What was shown so far.
struct Shown<'a> {
    session: &'a Session,
    rows: Rows,
    items: Vec<Value>,
    failures: Vec<Value>,
}

// === impl Where ===

impl Where {
    /// How wide the columns of connections and types are at least: what comes late is then no wider.
    fn widths(&self, connections: &Value) -> Widths {
        let is_meant = |connection: &&Value| {
            let is_one_of = |all: &[String], at: &str| all.contains(&table::text(connection, at));
            let named = &self.connection;
            (named.is_empty() || is_one_of(named, "/name") || is_one_of(named, "/id"))
                && (self.provider.is_empty() || is_one_of(&self.provider, "/provider"))
        };
        let known: Vec<&Value> = table::items(connections).iter().filter(is_meant).collect();
        let name = known.iter().map(|c| table::text(c, "/name").chars().count()).max().unwrap_or_default();
        let is_asked = |provider: &str| {
            let of_one = known.iter().any(|c| c["provider"] == provider);
            of_one || (known.is_empty() && (self.provider.is_empty() || self.provider.iter().any(|p| p == provider)))
        };
        let of_providers = PROVIDERS
            .into_iter()
            .filter(|provider| is_asked(provider))
            .flat_map(|provider| inventory::all(provider, !self.tags.is_empty()))
            .map(|t| t.name);
        let types: Vec<&str> = match self.types.is_empty() {
            true => of_providers.collect(),
            false => self.types.iter().map(String::as_str).collect(),
        };
        let type_name = types.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        Widths::at_least(&[name.max("CONNECTION".len()), type_name.max("TYPE".len())])
    }
}

// === impl Rows ===

impl Rows {
    fn new(widths: Widths, wide: bool) -> Self {
        Self { widths, wide, held: Vec::new(), due: None, any: false }
    }
    /// Takes a resource; gives what is to be shown now.
    fn add(&mut self, resource: &Value) -> String {
        let is_first = !std::mem::replace(&mut self.any, true);
        if is_first {
            let mut header = vec!["CONNECTION", "TYPE", "NAME", "LOCATION", "STATE"];
            header.extend(if self.wide { &["ID", "TAGS"][..] } else { &[] });
            self.held.push(header.into_iter().map(str::to_owned).collect());
            self.due = Some(Instant::now() + HOLD);
        }
        self.held.push(row(resource, self.wide));
        if self.due.is_some() { String::new() } else { self.release() }
    }
    /// What was held.
    fn release(&mut self) -> String {
        self.due = None;
        self.widths.set(&std::mem::take(&mut self.held))
    }
}

/// A resource's line.
fn row(resource: &Value, wide: bool) -> Vec<String> {
    let cell = |pointer: &str| match table::text(resource, pointer) {
        text if text.is_empty() => "-".to_owned(),
        text => text,
    };
    let name = if table::text(resource, "/name").is_empty() { cell("/id") } else { cell("/name") };
    let mut line = vec![cell("/connection"), cell("/type_name"), name, cell("/location"), cell("/state")];
    if wide {
        line.extend([cell("/id"), tags_of(resource)]);
    }
    line
}

// === impl Shown ===

impl<'a> Shown<'a> {
    fn new(session: &'a Session, widths: Widths) -> Self {
        let wide = session.output.format == Format::Wide;
        Self { session, rows: Rows::new(widths, wide), items: Vec::new(), failures: Vec::new() }
    }
    /// Whether all of it is one document.
    fn is_whole(&self) -> bool {
        matches!(self.session.output.format, Format::Json | Format::Yaml)
    }

    fn resource(&mut self, resource: &Value) -> Done {
        if self.is_whole() {
            self.items.push(resource.clone());
            return Ok(());
        }
        let text = self.rows.add(resource);
        self.write(&text)
    }
    fn release(&mut self) -> Done {
        let text = self.rows.release();
        self.write(&text)
    }
    fn write(&self, text: &str) -> Done {
        if text.is_empty() { Ok(()) } else { self.session.output.text(text) }
    }

    fn failure(&mut self, failure: &Value) {
        self.failures.push(failure.clone());
        if self.is_whole() {
            return;
        }
        let text = |pointer: &str| table::text(failure, pointer);
        let place = [text("/connection"), text("/place"), text("/type_name")];
        let place = place.iter().filter(|p| !p.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
        remark(&format!("{place}: {} ({})", text("/message"), text("/code")));
    }

    /// Ends it: a list of which nothing could be had has failed, with what failed first.
    fn end(self, end: &Value) -> Done {
        if self.is_whole() {
            let whole = json!({ "items": &self.items, "failures": &self.failures, "truncated": end["truncated"] });
            self.session.output.document(&whole, |_| String::new())?;
        } else if !self.rows.any && self.failures.is_empty() {
            self.session.output.text("No resources found.\n")?;
        }
        match self.failures.first() {
            Some(failure) if end["asked"] == 0 => {
                let text = |pointer: &str| table::text(failure, pointer);
                let failure: Failure = Failure::from_wire(&text("/code"), &text("/message"), &text("/next_step"));
                // it was shown, but for what to do
                if !self.is_whole() && !failure.next_step.is_empty() {
                    remark(&failure.next_step);
                }
                Err(Stop::Exit(failure.code.exit()))
            }
            _ => Ok(()),
        }
    }
}

fn tags_of(resource: &Value) -> String {
    let tags = resource["tags"].as_object().into_iter().flatten();
    let tags: Vec<String> = tags.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if tags.is_empty() { "-".to_owned() } else { tags.join(",") }
}

fn detail(one: &Value) -> String {
    let mut text = table::fields([
        ("type", table::text(one, "/type_name")),
        ("id", table::text(one, "/id")),
        ("name", table::text(one, "/name")),
        ("location", table::text(one, "/location")),
        ("state", table::text(one, "/state")),
        ("created", table::text(one, "/created_at")),
        ("tags", tags_of(one)),
        ("console", table::text(one, "/link")),
    ]);
    if !one["properties"].is_null() {
        text.push_str(&serde_json::to_string_pretty(&one["properties"]).unwrap_or_default());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command};
    use clap::Parser as _;

    fn wanted(words: &[&str]) -> Where {
        let words = ["runnerctl", "resources", "list"].iter().chain(words);
        match Arguments::try_parse_from(words).expect("parses").command {
            Command::Resources(ResourcesCommand::List(wanted)) => wanted,
            other => panic!("{other:?}"),
        }
    }

    fn resource(type_name: &str, name: &str) -> Value {
        json!({ "connection": "c", "type_name": type_name, "name": name, "location": "here", "state": "up" })
    }

    #[test]
    fn columns_line_up_whenever_a_line_comes() {
        let connections = json!({ "items": [
            { "name": "a-long-connection", "provider": "aws" },
            { "name": "c", "provider": "kubernetes" },
        ] });
        let longest = |provider: &str| {
            let names = inventory::all(provider, false).iter().map(|t| t.name);
            names.max_by_key(|name| name.len()).unwrap_or_default()
        };
        for (words, connections, long) in [
            (&[][..], &connections, longest("aws")),
            (&[], &Value::Null, longest("azure")),
            (&["-C", "c"], &connections, longest("kubernetes")),
            (&["--provider", "gcp"], &connections, longest("gcp")),
            (
                &["--type", "pods,AWS::Some::VeryLongTypeThatIsOnNoListOfOurs"],
                &connections,
                "AWS::Some::VeryLongTypeThatIsOnNoListOfOurs",
            ),
        ] {
            let mut rows = Rows::new(wanted(words).widths(connections), false);
            // those that come at once
            assert_eq!(rows.add(&resource("pods", "x")) + &rows.add(&resource("pods", "a-longer-name")), "");
            let text = rows.release() + &rows.add(&resource(long, "y"));
            let at: Vec<_> = text.lines().map(|line| line.find("here").or(line.find("LOCATION"))).collect();
            assert!(at.len() == 4 && at.iter().all(|column| *column == at[0]), "{words:?}\n{text}");
        }
    }

    #[test]
    fn columns_are_no_wider_than_what_is_asked_for() {
        let mut rows = Rows::new(wanted(&["-C", "c", "--type", "pods"]).widths(&Value::Null), false);
        rows.add(&resource("pods", "x"));
        assert_eq!(
            rows.release(),
            "CONNECTION   TYPE   NAME   LOCATION   STATE\nc            pods   x      here       up\n"
        );
        assert_eq!(rows.release(), "");
    }
}
