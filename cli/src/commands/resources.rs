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
    session.interrupt.guard(note, show(&at, session)).await
}

/// What comes, as it comes.
async fn show(at: &str, session: &Session) -> Done {
    let mut shown = Shown::new(session);
    let mut ended = None;
    let answer = session.client.stream(at, &[("accept", "application/x-ndjson")]).await?;
    read_lines(answer, |line| {
        if let Some(resource) = line.get("resource") {
            shown.resource(resource)
        } else if let Some(failure) = line.get("failure") {
            shown.failure(failure);
            Ok(())
        } else {
            ended = line.get("end").cloned();
            Ok(())
        }
    })
    .await?;
    let Some(end) = ended else {
        return Err(Code::ConnectionLost
            .on("the connection to the control plane was cut before the list's end")
            .into());
    };
    shown.end(&end)
}

/// What was shown so far.
struct Shown<'a> {
    session: &'a Session,
    widths: Widths,
    any: bool,
    items: Vec<Value>,
    failures: Vec<Value>,
}

// === impl Shown ===

impl<'a> Shown<'a> {
    fn new(session: &'a Session) -> Self {
        Self { session, widths: Widths::default(), any: false, items: Vec::new(), failures: Vec::new() }
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
        let wide = self.session.output.format == Format::Wide;
        let mut lines = Vec::new();
        if !self.any {
            self.any = true;
            let mut header = vec!["CONNECTION", "TYPE", "NAME", "LOCATION", "STATE"];
            header.extend(if wide { &["ID", "TAGS"][..] } else { &[] });
            lines.push(header.into_iter().map(str::to_owned).collect());
        }
        let cell = |pointer: &str| match table::text(resource, pointer) {
            text if text.is_empty() => "-".to_owned(),
            text => text,
        };
        let name = if table::text(resource, "/name").is_empty() { cell("/id") } else { cell("/name") };
        let mut line = vec![cell("/connection"), cell("/type_name"), name, cell("/location"), cell("/state")];
        if wide {
            line.extend([cell("/id"), tags_of(resource)]);
        }
        lines.push(line);
        let text = self.widths.set(&lines);
        self.session.output.text(&text)
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
        } else if !self.any && self.failures.is_empty() {
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
