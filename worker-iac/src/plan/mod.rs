//! The plan as a document (shared-proto's `plan`): read from what the engine shows as JSON while it shows the same to people, and recorded in parts
//! before the plan is saved; whoever keeps rules judges it on the way. Nothing that the engine masks, and nothing that is secret to the job, must get
//! into it. Where it cannot be made the job goes on, unless there are rules: the engine's own words are the plan.

mod change;
mod kept;
mod previewed;
mod read;

use crate::engine::Engine;
use crate::engine::dialect::{Family, Plan};
use crate::journal::Journal;
use crate::rules::{Job, Regions, Rules};
use crate::secrets::{Secrets, Sensitive};
use crate::stop::Stop;
use read::About;
use runner_worker_iac::redaction::Redaction;
use shared_proto::bounds::PLAN_DOCUMENT_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::plan::parts;
use shared_proto::rules::{Judgement, Question};
use shared_proto::v1::event::Body;
use shared_proto::v1::{JobKind, PlanPart};
use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The most bytes that are read of a plan as JSON: the state and the configuration are in it, too.
const JSON_MAX: u64 = 64 * 1024 * 1024;

/// A document as JSON, and what was taken out of it.
struct Made {
    json: String,
    /// How many resources it imports.
    imports: u64,
    secrets: Secrets,
    judgement: Option<Judgement>,
    /// How many values that the engine masks are not looked for elsewhere.
    not_looked_for: usize,
}

/// By what a plan is judged.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub(crate) rules: Rules,
    pub(crate) job: Job,
}

/// A plan, as it was shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// As the engine shows it to people.
    pub(crate) text: String,
    /// What rules say of it; none: there are none.
    pub(crate) judgement: Option<Judgement>,
    /// What was taken out of it.
    pub(crate) secrets: Secrets,
    /// How many resources it imports; none: nobody can tell.
    pub(crate) imports: Option<u64>,
}

/// The plan as the engine shows it to people, and what rules say of it. What it shows to programs is asked for beside it, and recorded; it is
/// copied to `copy`, where a hook is to read it.
///
/// # Errors
/// The first of them is not to be had, or the job was cancelled; `plan_denied`: there are rules, and it cannot be judged.
pub(crate) async fn shown(
    engine: &mut Engine,
    journal: &Journal,
    plan: &Path,
    what: &Plan<'_>,
    has_changes: bool,
    judged: Judged,
    copy: Option<PathBuf>,
) -> Result<Shown, Stop> {
    let about = About { engine: engine.called(), kind: name(what.kind), has_changes };
    let (beside, family) = (engine.beside(), engine.family());
    let has_rules = !judged.rules.is_empty();
    let made = async {
        let file = beside.document(plan).await?;
        let again = file.try_clone().map_err(|e| e.to_string())?;
        let made = document(file, family, about, journal.redaction(), judged).await?;
        // of what nobody has looked through a hook could tell what is sensitive
        if let Some(at) = copy {
            let copied = tokio::task::spawn_blocking(move || put(again, &at)).await;
            if let Err(e) = copied.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                journal.note(format!("The hook after the plan has no document of it: {e}.")).await;
            }
        }
        Ok::<_, String>(made)
    };
    let (text, made) = tokio::join!(engine.show(what, plan), made);
    let mut text = text?;
    match made {
        Ok(Made { json, secrets, judgement, not_looked_for, imports }) => {
            // what it masks in one place it may show in another
            secrets.apply(&mut text);
            if not_looked_for > 0 {
                let note = format!(
                    "{not_looked_for} sensitive values are hidden where the engine masks them, and not looked for elsewhere."
                );
                journal.note(note).await;
            }
            record(journal, &json).await;
            Ok(Shown { text, judgement, secrets, imports: Some(imports) })
        }
        Err(why) if has_rules => Err(not_judged(&why).into()),
        Err(why) => {
            journal.note(format!("The plan is kept as the engine shows it only: {why}.")).await;
            Ok(Shown { text, judgement: None, secrets: Secrets::default(), imports: None })
        }
    }
}

/// Copies a document to a file of its own.
fn put(mut from: File, at: &Path) -> std::io::Result<()> {
    from.rewind()?;
    // of an earlier hook's
    let _ = std::fs::remove_file(at);
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(at)?;
    std::io::copy(&mut from, &mut to).map(drop)
}

/// What rules say of a saved plan.
///
/// # Errors
/// `plan_denied`: it cannot be judged.
pub(crate) async fn judge(
    engine: &Engine,
    journal: &Journal,
    plan: &Path,
    kind: JobKind,
    judged: Judged,
) -> Result<Judgement, Failure> {
    let about = About { engine: engine.called(), kind: name(kind), has_changes: true };
    let (beside, family) = (engine.beside(), engine.family());
    let made = async { document(beside.document(plan).await?, family, about, journal.redaction(), judged).await };
    let judgement = made.await.map_err(|why| not_judged(&why))?.judgement;
    Ok(judgement.unwrap_or_default())
}

/// What rules say of a plan that lies in a file.
///
/// # Errors
/// Why it cannot be judged.
pub(crate) fn judge_file(question: Question) -> Result<Judgement, String> {
    let Question { set, plan, kind, stack, workspace, created_by } = question;
    let rules = Rules::new(&set, "")?;
    let file = File::open(&plan).map_err(|e| format!("{}: {e}", plan.display()))?;
    let about = About { engine: shared_proto::plan::Engine::default(), kind: "update", has_changes: true };
    let job = Job { kind, stack, workspace, created_by, ..Job::default() };
    let made = make(&file, Family::Language, about, Redaction::default(), Judged { rules, job });
    Ok(made.map_err(|why| format!("{}: {why}", plan.display()))?.judgement.unwrap_or_default())
}

/// A plan that nobody could judge must not be applied.
fn not_judged(why: &str) -> Failure {
    Code::PlanDenied
        .on(format!("there are rules for plans, and this one could not be judged by them: {why}"))
        .next("Correct the rules, or what the message names: `runner policy test` on the runner's machine tries them.")
}

async fn document(
    file: File,
    family: Family,
    about: About,
    redaction: Redaction,
    judged: Judged,
) -> Result<Made, String> {
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length > JSON_MAX {
        return Err(format!("as JSON it takes {length} bytes, the limit is {JSON_MAX}"));
    }
    let made = tokio::task::spawn_blocking(move || make(&file, family, about, redaction, judged));
    let made = made.await.map_err(|e| e.to_string())??;
    if made.json.len() > PLAN_DOCUMENT_MAX {
        return Err(format!("it takes {} bytes, the limit is {PLAN_DOCUMENT_MAX}", made.json.len()));
    }
    Ok(made)
}

fn make(mut file: &File, family: Family, about: About, redaction: Redaction, judged: Judged) -> Result<Made, String> {
    let mut again = || file.rewind().map(|()| BufReader::new(file)).map_err(|e| e.to_string());
    let unreadable = |why: String| format!("its JSON cannot be read ({why})");
    let sensitive = match family {
        Family::Language => read::sensitive(again()?).map_err(unreadable)?,
        // it gives no value that it masks
        Family::Pulumi => Sensitive::default(),
    };
    let secrets = Secrets::new(redaction, &sensitive);
    let Judged { rules, job } = judged;
    let regions = match (family, rules.ask_for_regions()) {
        (Family::Language, true) => read::regions(again()?).map_err(unreadable)?,
        _ => Regions::default(),
    };
    let mut judge = (!rules.is_empty()).then(|| rules.judge(&job, regions));
    let document = match family {
        Family::Language => read::read(again()?, about, &secrets, judge.as_mut()),
        Family::Pulumi => previewed::read(again()?, about, &secrets, judge.as_mut()),
    };
    let document = document.map_err(unreadable)?;
    let judgement = judge.map(|judge| judge.finish(&secrets)).transpose()?;
    let json = serde_json::to_string(&document).map_err(|e| e.to_string())?;
    let imports = document.summary.import.into();
    Ok(Made { json, secrets, judgement, not_looked_for: sensitive.left_out(), imports })
}

async fn record(journal: &Journal, json: &str) {
    let parts = parts(json);
    let of = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    for (number, part) in (1..).zip(parts) {
        journal.record(Body::PlanPart(PlanPart { number, of, json: part.to_owned() })).await;
    }
}

pub(crate) const fn name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Preview => "preview",
        JobKind::Refresh => "refresh",
        JobKind::Destroy => "destroy",
        JobKind::Import => "import",
        _ => "update",
    }
}
