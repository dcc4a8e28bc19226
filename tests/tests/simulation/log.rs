//! What both ends log: shown, where one seed is looked into, with simulated times; and looked at, for how often the runner served an operation,
//! and which jobs it has let go.

use super::world::Shared;
use std::fmt;
use std::io::stderr;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry, fmt as lines};

/// Counts the ends of operations on the runner.
pub(crate) struct Served(pub(crate) Shared);

/// An operation's id, as its span has it.
struct Operation(String);

/// The fields that are looked for.
#[derive(Default)]
struct Found {
    message: String,
    operation: Option<String>,
    job: Option<String>,
}

/// Simulated time.
struct Simulated;

/// Does it with all that it logs on this thread looked at.
pub(crate) fn within<T>(served: Served, doing: impl FnOnce() -> T) -> T {
    let looked_at = Registry::default().with(served.with_filter(tracing_subscriber::filter::LevelFilter::INFO));
    if super::variable("RUNNER_SEED").is_none() {
        return tracing::subscriber::with_default(looked_at, doing);
    }
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info,turmoil=warn".to_owned());
    let shown = lines::layer().with_writer(stderr).with_timer(Simulated).with_filter(EnvFilter::new(filter));
    tracing::subscriber::with_default(looked_at.with(shown), doing)
}

impl FormatTime for Simulated {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:9.3}", shared_proto::chance::since_boot().as_secs_f64())
    }
}

impl Visit for Found {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "job" => self.job = Some(format!("{value:?}").trim_matches('"').to_owned()),
            "operation" => self.operation = Some(format!("{value:?}")),
            _ => {}
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Served {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = Found::default();
        attributes.record(&mut found);
        if let (Some(operation), Some(span)) = (found.operation, context.span(id)) {
            span.extensions_mut().insert(Operation(operation));
        }
    }
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut found = Found::default();
        event.record(&mut found);
        if let ("job released", Some(job)) = (found.message.as_str(), found.job) {
            self.0.lock().released.insert(job);
        }
        if found.message != "operation ended" {
            return;
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Operation(operation)) = span.extensions().get() {
                *self.0.lock().served.entry(operation.clone()).or_default() += 1;
            }
        }
    }
}
