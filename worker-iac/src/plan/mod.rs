//! The plan as a document (shared-proto's `plan`): read from what the engine shows as JSON while it shows the same to people, and recorded in parts
//! before the plan is saved. Nothing that the engine masks, and nothing that is secret to the job, must get into it. Where it cannot be made the job
//! goes on: the engine's own words are the plan.

mod change;
mod kept;
mod previewed;
mod read;

use crate::engine::Engine;
use crate::engine::dialect::{Family, Plan};
use crate::journal::Journal;
use crate::secrets::{Secrets, Sensitive};
use crate::stop::Stop;
use read::About;
use runner_worker_iac::redaction::Redaction;
use shared_proto::bounds::PLAN_DOCUMENT_MAX;
use shared_proto::plan::parts;
use shared_proto::v1::event::Body;
use shared_proto::v1::{JobKind, PlanPart};
use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::path::Path;

/// The most bytes that are read of a plan as JSON: the state and the configuration are in it, too.
const JSON_MAX: u64 = 64 * 1024 * 1024;

/// A document as JSON, and what was taken out of it.
struct Made {
    json: String,
    secrets: Secrets,
    /// How many values that the engine masks are not looked for elsewhere.
    not_looked_for: usize,
}

/// The plan as the engine shows it to people. What it shows to programs is asked for beside it, and recorded.
///
/// # Errors
/// The first of them is not to be had, or the job was cancelled.
pub(crate) async fn shown(
    engine: &mut Engine,
    journal: &Journal,
    plan: &Path,
    what: &Plan<'_>,
    has_changes: bool,
) -> Result<String, Stop> {
    let about = About { engine: engine.called(), kind: name(what.kind), has_changes };
    let (beside, family) = (engine.beside(), engine.family());
    let made = async { document(beside.document(plan).await?, family, about, journal.redaction()).await };
    let (text, made) = tokio::join!(engine.show(what, plan), made);
    let mut text = text?;
    match made {
        Ok(Made { json, secrets, not_looked_for }) => {
            // what it masks in one place it may show in another
            secrets.apply(&mut text);
            if not_looked_for > 0 {
                let note = format!(
                    "{not_looked_for} sensitive values are hidden where the engine masks them, and not looked for elsewhere."
                );
                journal.note(note).await;
            }
            record(journal, &json).await;
        }
        Err(why) => journal.note(format!("The plan is kept as the engine shows it only: {why}.")).await,
    }
    Ok(text)
}

async fn document(file: File, family: Family, about: About, redaction: Redaction) -> Result<Made, String> {
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length > JSON_MAX {
        return Err(format!("as JSON it takes {length} bytes, the limit is {JSON_MAX}"));
    }
    let made = tokio::task::spawn_blocking(move || make(&file, family, about, redaction));
    let made = made.await.map_err(|e| e.to_string())?.map_err(|why| format!("its JSON cannot be read ({why})"))?;
    if made.json.len() > PLAN_DOCUMENT_MAX {
        return Err(format!("it takes {} bytes, the limit is {PLAN_DOCUMENT_MAX}", made.json.len()));
    }
    Ok(made)
}

fn make(mut file: &File, family: Family, about: About, redaction: Redaction) -> Result<Made, String> {
    let sensitive = match family {
        Family::Language => read::sensitive(BufReader::new(file))?,
        // it gives no value that it masks
        Family::Pulumi => Sensitive::default(),
    };
    file.rewind().map_err(|e| e.to_string())?;
    let secrets = Secrets::new(redaction, &sensitive);
    let document = match family {
        Family::Language => read::read(BufReader::new(file), about, &secrets)?,
        Family::Pulumi => previewed::read(BufReader::new(file), about, &secrets)?,
    };
    let json = serde_json::to_string(&document).map_err(|e| e.to_string())?;
    Ok(Made { json, secrets, not_looked_for: sensitive.left_out() })
}

async fn record(journal: &Journal, json: &str) {
    let parts = parts(json);
    let of = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    for (number, part) in (1..).zip(parts) {
        journal.record(Body::PlanPart(PlanPart { number, of, json: part.to_owned() })).await;
    }
}

const fn name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Preview => "preview",
        JobKind::Refresh => "refresh",
        JobKind::Destroy => "destroy",
        JobKind::Import => "import",
        _ => "update",
    }
}
