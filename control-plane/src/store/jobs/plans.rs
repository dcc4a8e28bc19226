//! A job's plan as a document: put together of the parts that come with its events, in order and once each, and given out once it is whole.
//! What does not go together, is too long or is no such document is dropped: the job goes on without it.

use super::super::{Store, broken};
use super::read;
use shared_proto::failure::{Code, Failure};
use shared_proto::plan::{Document, Summary};
use shared_proto::{bounds, v1};
use sqlx::{FromRow, SqliteConnection};

/// A document may come in so many parts.
const PARTS_MAX: u32 = bounds::PLAN_DOCUMENT_MAX.div_ceil(1024) as u32;

/// What there is of one.
#[derive(FromRow)]
struct Held {
    parts: i64,
    received: i64,
    document: String,
}

// === impl Held ===

impl Held {
    fn takes(&self, part: &v1::PlanPart) -> bool {
        i64::from(part.number) == self.received + 1
            && i64::from(part.of) == self.parts
            && self.document.len() + part.json.len() <= bounds::PLAN_DOCUMENT_MAX
    }
    fn is_whole(&self) -> bool {
        self.received == self.parts
    }
}

// === impl Store ===

impl Store {
    /// The plan of the organization's job of that id, as JSON.
    ///
    /// # Errors
    /// `not_found` for a job that the organization does not have, and for one without such a document.
    pub async fn plan_document(&self, organization: &str, id: &str) -> Result<String, Failure> {
        let failed = broken("reading a plan");
        let mut connection = self.pool().acquire().await.map_err(&failed)?;
        read(&mut connection, organization, id).await?;
        let found: Option<String> =
            sqlx::query_scalar("SELECT document FROM plans WHERE job = $1 AND received = parts")
                .bind(id)
                .fetch_optional(&mut *connection)
                .await
                .map_err(&failed)?;
        found.ok_or_else(|| {
            Code::NotFound
                .on(format!("job {id} has no plan as a document"))
                .next("Look at the job: it has not planned yet, or has the engine's own words only (`runnerctl plan show --text`).")
        })
    }
}

/// Takes the parts of a report, in their order; the summary of the document, once that is whole.
pub(super) async fn take(
    connection: &mut SqliteConnection,
    job: &str,
    parts: Vec<v1::PlanPart>,
) -> Result<Option<Summary>, Failure> {
    if parts.is_empty() {
        return Ok(None);
    }
    let failed = broken("storing a plan");
    let mut held: Option<Held> = sqlx::query_as("SELECT parts, received, document FROM plans WHERE job = $1")
        .bind(job)
        .fetch_optional(&mut *connection)
        .await
        .map_err(&failed)?;
    for part in parts {
        // the step was begun anew
        if part.number == 1 && (1..=PARTS_MAX).contains(&part.of) {
            held = Some(Held { parts: part.of.into(), received: 0, document: String::new() });
        }
        held = held.filter(|held| held.takes(&part)).map(|held| Held {
            received: held.received + 1,
            document: held.document + &part.json,
            ..held
        });
    }
    let mut summary = None;
    if let Some(whole) = held.as_ref().filter(|held| held.is_whole()) {
        match Document::read(&whole.document) {
            Ok(document) => summary = Some(document.summary),
            Err(_) => held = None,
        }
    }
    match held {
        None => sqlx::query("DELETE FROM plans WHERE job = $1").bind(job),
        Some(Held { parts, received, document }) => sqlx::query(
            "INSERT INTO plans (job, parts, received, document) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (job) DO UPDATE SET parts = $2, received = $3, document = $4",
        )
        .bind(job)
        .bind(parts)
        .bind(received)
        .bind(document),
    }
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(summary)
}
