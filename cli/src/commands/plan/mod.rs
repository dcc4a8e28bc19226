//! `plan`: a job's plan as people read it, beside the one before it, and for a pull request. What stands in a plan comes from outside: it is shown,
//! never obeyed, by a terminal as little as by whoever renders Markdown.

mod compared;
mod lines;
mod markdown;
mod values;

use super::{Session, rules};
use crate::client::job_events::JobEvent;
use crate::client::path;
use crate::output::{escape, table};
use crate::stop::{CHANGES, Done, Stop};
use crate::terminal;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::plan::compare::Comparison;
use shared_proto::plan::{Document, ResourceChange, words};
use shared_proto::rules::Judgement;
use shared_proto::v1::event::Body;

/// How many of a stack's jobs are looked through for one with a plan.
const JOBS: &str = "200";
/// Events are fetched in pages of this many.
const PAGE: u64 = 500;
/// The columns of what is no terminal.
const COLUMNS: usize = 80;

/// `plan`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PlanCommand {
    /// A plan: what may be lost first, then by module, each attribute as it is and as it would be
    Show {
        /// A job's id, or a stack's name for its last plan
        #[arg(value_name = "JOB|STACK")]
        of: String,
        /// The engine's own words instead
        #[arg(long)]
        text: bool,
        #[command(flatten)]
        exit: ExitCode,
    },
    /// What a plan would do that another one would not
    Compare {
        /// A job's id, or a stack's name for its last plan
        #[arg(value_name = "JOB|STACK")]
        of: String,
        /// The job to compare with; the stack's plan before by default
        #[arg(value_name = "OTHER-JOB")]
        with: Option<String>,
        #[command(flatten)]
        exit: ExitCode,
    },
    /// A plan in Markdown, for a comment of a pull request
    Render {
        /// A job's id, or a stack's name for its last plan
        #[arg(value_name = "JOB|STACK")]
        of: String,
        /// One line of at most 140 characters instead, for the status of a commit
        #[arg(long)]
        status: bool,
        #[command(flatten)]
        exit: ExitCode,
    },
}

/// Exit codes for pipelines.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct ExitCode {
    /// Exit with 2 where there are changes (of `compare`: differences), 0 where there are none
    #[arg(long = "exit-code")]
    pub(crate) says_changes: bool,
}

/// A plan and whose it is.
#[derive(Debug)]
pub(super) struct Plan {
    /// The job's id and its stack's name.
    job: String,
    stack: String,
    document: Document,
    /// As it came: a later version may say more.
    json: Value,
    /// What rules have said of it.
    judgement: Judgement,
    /// Who has approved it, of those whom they want.
    approvers: Vec<String>,
}

// === impl Plan ===

impl Plan {
    /// One line for the status of a commit: what rules make of it, then counts. Nothing that the plan itself says.
    fn status(&self) -> String {
        let counts = words::status(&self.document);
        let Some(verdict) = rules::verdict_in_short(&self.judgement, &self.approvers) else { return counts };
        words::fitted(format!("{verdict}; {counts}"))
    }
    /// What rules make of it, and each thing that they have found.
    fn of_rules(&self) -> Vec<String> {
        let verdict = rules::verdict(&self.judgement, &self.approvers);
        verdict.into_iter().chain(rules::findings(&self.judgement)).collect()
    }
}

// === impl ExitCode ===

impl ExitCode {
    /// The end of a command that found changes, or none.
    pub(crate) fn end(self, changes: bool) -> Done {
        if self.says_changes && changes { Err(Stop::Exit(CHANGES)) } else { Ok(()) }
    }
}

/// `plan …`
pub(crate) async fn run(command: PlanCommand, session: &Session) -> Done {
    match command {
        PlanCommand::Show { of, text: true, exit } => {
            let job = session.wait("asking", job_of(session, &of)).await?;
            session.interrupt.guard("the plan was not read to its end", text(session, &job)).await?;
            exit.end(job["plan"]["has_changes"] == true)
        }
        PlanCommand::Show { of, text: false, exit } => {
            let plan = session.wait("asking", find(session, &of)).await?;
            let width = terminal::size().map_or(COLUMNS, |(columns, _)| usize::from(columns));
            session.output.document(&plan.json, |_| shown(&plan, width, session.output.colour))?;
            exit.end(plan.document.has_changes)
        }
        PlanCommand::Compare { of, with, exit } => {
            let (before, now) = session.wait("asking", pair(session, &of, with.as_deref())).await?;
            let comparison = Comparison::of(&before.document, &now.document);
            let width = terminal::size().map_or(COLUMNS, |(columns, _)| usize::from(columns));
            let mut json = serde_json::to_value(&comparison).unwrap_or_default();
            (json["job"], json["with"]) = (now.job.clone().into(), before.job.clone().into());
            session.output.document(&json, |_| {
                let lines = compared::lines(&comparison, &before.job, &now.job, &now.stack, width);
                lines::text(&lines, session.output.colour)
            })?;
            exit.end(!comparison.is_same())
        }
        PlanCommand::Render { of, status, exit } => {
            let plan = session.wait("asking", find(session, &of)).await?;
            let (name, mut text) = match status {
                true => ("status", plan.status()),
                false => ("markdown", markdown::render(&plan)),
            };
            let json = json!({ "job": plan.job, "stack": plan.stack, name: text });
            session.output.document(&json, |_| {
                if status {
                    text.push('\n');
                }
                text
            })?;
            exit.end(plan.document.has_changes)
        }
    }
}

/// What is to be known before a plan is approved: how much there is of each, and each thing that would be destroyed. None where there is no such
/// document.
pub(super) async fn before_approval(session: &Session, job: &str) -> Option<String> {
    let plan = find(session, job).await.ok()?;
    let mut text = format!("{}\n", words::summary(&plan.document.summary));
    text.push_str(&lines::text(&lines::heads_of_destroyed(&plan.document), false));
    Some(text)
}

/// The drift of a plan alone: what others have changed.
pub(super) fn drift(of: &Value, colour: bool) -> String {
    let width = terminal::size().map_or(COLUMNS, |(columns, _)| usize::from(columns));
    let drift: Vec<ResourceChange> = serde_json::from_value(of.clone()).unwrap_or_default();
    lines::text(&lines::of_resources(&drift, width), colour)
}

fn shown(plan: &Plan, width: usize, colour: bool) -> String {
    let document = &plan.document;
    let engine = [&document.engine.name, &document.engine.version].map(|text| escape::line(text)).join(" ");
    let mut lines = lines::headings(&format!("{}: {}", escape::line(&plan.stack), words::status(document)), width);
    lines.push(lines::Line::remark(&format!(
        "job {}, {}, {engine}",
        escape::line(&plan.job),
        escape::line(&document.kind)
    )));
    lines.extend(plan.of_rules().iter().map(|line| lines::Line::remark(&escape::line(line))));
    lines.extend(lines::of(document, width));
    if document.is_partial() {
        let words = format!("the engine's own words: runnerctl plan show {} --text", escape::line(&plan.job));
        lines.push(lines::Line::blank());
        lines.push(lines::Line::remark(&lines::left_out(&document.left_out)));
        lines.push(lines::Line::remark(&words));
    }
    lines::text(&lines, colour)
}

/// The job that is meant: by its id, or the last one of a stack that has a plan.
async fn job_of(session: &Session, of: &str) -> Result<Value, Failure> {
    if of.starts_with("job_") {
        return session.client.get(&path(&["jobs", of], &[])).await;
    }
    let jobs = jobs_of(session, of).await?;
    let last = jobs.into_iter().find(has_plan).ok_or_else(|| {
        Code::NotFound
            .on(format!("no job of stack {of} has a plan"))
            .next(format!("Make one: runnerctl deploy --stack {of} --kind preview"))
    })?;
    session.client.get(&path(&["jobs", &table::text(&last, "/id")], &[])).await
}

async fn jobs_of(session: &Session, stack: &str) -> Result<Vec<Value>, Failure> {
    let list = session.client.get(&path(&["jobs"], &[("stack", stack), ("limit", JOBS)])).await?;
    Ok(table::items(&list).to_vec())
}

fn has_plan(job: &Value) -> bool {
    job["plan"]["summary"].is_object()
}

async fn find(session: &Session, of: &str) -> Result<Plan, Failure> {
    read(session, &job_of(session, of).await?).await
}

async fn read(session: &Session, job: &Value) -> Result<Plan, Failure> {
    let (id, stack) = (table::text(job, "/id"), table::text(job, "/stack/name"));
    let mut json = session.client.get(&path(&["jobs", &id, "plan"], &[])).await?;
    let document = Document::read(&json.to_string())
        .map_err(|e| Code::Internal.on(format!("the plan of job {id} does not read: {e}")))?;
    with_judgement(&mut json, job);
    Ok(Plan { job: id, stack, document, json, judgement: rules::judgement(job), approvers: rules::approvers(job) })
}

/// Puts beside a plan what its job has of rules: what they say of it, and who has approved it. Where there are no rules it is as it was.
fn with_judgement(plan: &mut Value, job: &Value) {
    if job["plan"]["judgement"].is_null() {
        return;
    }
    for name in ["judgement", "approvers"] {
        if let (Some(plan), Some(of_job)) = (plan.as_object_mut(), job["plan"].get(name).filter(|v| !v.is_null())) {
            plan.insert(name.to_owned(), of_job.clone());
        }
    }
}

/// A plan and the one that it is compared with, the earlier one first.
async fn pair(session: &Session, of: &str, with: Option<&str>) -> Result<(Plan, Plan), Failure> {
    let job = job_of(session, of).await?;
    let before = match with {
        Some(with) => job_of(session, with).await?,
        None => before(session, &job).await?,
    };
    Ok((read(session, &before).await?, read(session, &job).await?))
}

/// The last job of the same stack before this one that has a plan.
async fn before(session: &Session, job: &Value) -> Result<Value, Failure> {
    let id = table::text(job, "/id");
    // by its id: its name may be another stack's by now
    let jobs = jobs_of(session, &table::text(job, "/stack/id")).await?;
    let earlier = jobs.into_iter().skip_while(|other| table::text(other, "/id") != id).skip(1);
    earlier.into_iter().find(has_plan).ok_or_else(|| {
        Code::NotFound
            .on(format!("the stack of job {id} has no plan before it"))
            .next("Name the job to compare with; `runnerctl job list --stack NAME` has them.")
    })
}

/// The engine's own words: in the job, or where they are long in its events.
async fn text(session: &Session, job: &Value) -> Done {
    let id = table::text(job, "/id");
    let (mut last, mut found) = (0_u64, false);
    loop {
        let (after, limit) = (last.to_string(), PAGE.to_string());
        let page = session.client.get(&path(&["jobs", &id, "events"], &[("after", &after), ("limit", &limit)])).await?;
        let events: Vec<JobEvent> = table::items(&page).iter().cloned().filter_map(JobEvent::read).collect();
        let Some(newest) = events.last().map(|e| e.sequence).filter(|n| *n > last) else { break };
        last = newest;
        for event in &events {
            match &event.body {
                Some(Body::OutputLine(line)) if line.stream == "plan" => {
                    found = true;
                    session.output.line(line.text.trim_end())?;
                }
                Some(Body::PlanSaved(plan)) if !found => {
                    found = true;
                    session.output.line(plan.text.trim_end())?;
                }
                _ => {}
            }
        }
    }
    if found { Ok(()) } else { Err(Code::NotFound.on(format!("job {id} has no plan")).into()) }
}

#[cfg(test)]
mod tests;
