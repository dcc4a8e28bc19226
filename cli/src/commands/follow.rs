//! Follows a job: shows the engine's own words as they come, asks for approval where it may, and ends by the job's result.

use super::applying::Applying;
use super::plan::{self, ExitCode};
use super::{Session, rules};
use crate::client::job_events::{JobEvent, JobEvents};
use crate::client::path;
use crate::output::{Format, Output, escape, table};
use crate::stop::{self, Done, Stop};
use crate::terminal;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::hooks::Hook;
use shared_proto::v1::{self, event::Body};
use std::time::Duration;

/// Whether a plan waits for us is asked this often once it is there; the phase may be the control plane's alone.
const LOOK: Duration = Duration::from_millis(300);

/// Whether a plan still waits is asked this often while somebody is asked about it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A job that has not begun after this long is explained.
pub(super) const WAITS: Duration = Duration::from_secs(2);

/// What to do when a plan awaits approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Approval {
    /// Somebody else decides: go on watching.
    Watch,
    /// Ask on the terminal; without one say how to approve, and exit 75.
    Ask,
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Output,
    Error,
}

/// Where the words go: standard output for people, standard error beside a document.
#[derive(Debug)]
pub(crate) struct Words {
    output: Output,
    /// Where what is said beside the engine's own words goes.
    beside: Stream,
    /// What was said of the event at hand.
    said: Vec<(Stream, String)>,
    /// Lines that the plan's own text makes superfluous when it comes.
    held: Vec<String>,
    /// The plan's text came in pieces already.
    in_pieces: bool,
    /// The plan was shown: an engine that applies it tells of each change once more.
    planned: bool,
    /// The outputs as they were last shown.
    outputs: String,
}

// === impl Words ===

impl Words {
    /// By the format.
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            beside: Stream::Error,
            said: Vec::new(),
            held: Vec::new(),
            in_pieces: false,
            planned: false,
            outputs: String::new(),
        }
    }
    /// Of a job's log, which is all that was asked for: nothing of it goes beside it.
    pub(crate) fn of_log(output: Output) -> Self {
        Self { beside: Stream::Output, ..Self::new(output) }
    }
    fn say(&mut self, line: &str) {
        let to = match self.output.format {
            Format::Table | Format::Wide | Format::Name => Stream::Output,
            Format::Json | Format::Yaml => self.beside,
        };
        self.said.push((to, line.to_owned()));
    }
    fn note(&mut self, line: &str) {
        self.said.push((self.beside, line.to_owned()));
    }
    fn release(&mut self) {
        for line in std::mem::take(&mut self.held) {
            self.say(&line);
        }
    }
    /// Writes what was said.
    fn write(&mut self) -> Done {
        for (to, line) in std::mem::take(&mut self.said) {
            match to {
                Stream::Output => self.output.line(&line)?,
                Stream::Error => {
                    let text = escape::text(format!("{line}\n").as_bytes(), self.output.colour);
                    eprint!("{}", String::from_utf8_lossy(&text));
                }
            }
        }
        Ok(())
    }
    /// Shows one event.
    pub(crate) fn event(&mut self, event: &JobEvent) -> Done {
        self.take(event);
        self.write()
    }
    /// Shows a remark of ours.
    fn remark(&mut self, line: &str) -> Done {
        self.note(line);
        self.write()
    }
    /// What there is to say of an event.
    fn take(&mut self, event: &JobEvent) {
        let Some(body) = &event.body else { return };
        match body {
            Body::PlannedChange(_) if self.planned => {}
            Body::PlannedChange(change) => {
                self.held.push(own_words(&change.text, || format!("{}: {}", change.address, change.action)))
            }
            Body::ChangeSummary(summary) if summary.operation == "plan" => self.held.push(summary_of(summary)),
            Body::PlanSaved(plan) => {
                self.planned = true;
                // the pieces of a long one were all of it
                if std::mem::take(&mut self.in_pieces) {
                    self.held.clear();
                } else if !plan.text.is_empty() {
                    self.held.retain(|line| line.starts_with("Plan:") && !plan.text.contains(line.as_str()));
                    self.say(plan.text.trim_end());
                }
                self.release();
            }
            Body::PhaseChanged(phase) => {
                self.release();
                let detail = if phase.detail.is_empty() { String::new() } else { format!(": {}", phase.detail) };
                self.note(&format!("· {}{detail}", phase.phase.replace('_', " ")));
            }
            Body::SourceResolved(source) => {
                let from = if source.reference.is_empty() { String::new() } else { format!(" ({})", source.reference) };
                self.note(&format!("· source: {} {}{from}", source.kind, source.revision));
            }
            // what is asked of the engine beside its work is of no interest to anybody
            Body::EngineStarted(engine)
                if matches!(engine.command.as_str(), "version" | "show" | "state" | "output") => {}
            Body::EngineStarted(engine) => {
                self.note(&format!("· {} {}: {}", engine.engine, engine.version, engine.command));
            }
            Body::HookStarted(hook) => self.note(&format!("· hook {}: {}", hook.hook, hook.program)),
            Body::OutputLine(line) if line.stream == "plan" => {
                self.in_pieces = true;
                self.say(line.text.trim_end());
            }
            Body::OutputLine(line) if line.stream == "stdout" => self.say(&line.text),
            Body::OutputLine(line) if Hook::from_name(&line.stream).is_some() => {
                self.note(&format!("{}: {}", line.stream, line.text));
            }
            Body::OutputLine(line) => self.note(&line.text),
            Body::ResourceProgress(progress) => self.say(&own_words(&progress.text, || {
                let what = format!("{}: {} {}", progress.address, progress.action, progress.state);
                if progress.elapsed_seconds > 0.0 { format!("{what} ({:.0}s)", progress.elapsed_seconds) } else { what }
            })),
            Body::ChangeSummary(summary) => self.say(&summary_of(summary)),
            Body::Diagnostic(diagnostic) => self.say(&diagnostic_of(diagnostic)),
            Body::Outputs(outputs) => {
                let text = outputs_of(&outputs.json);
                if !text.is_empty() && text != self.outputs {
                    self.say(&text);
                    self.outputs = text;
                }
            }
            Body::CancelProgress(cancel) => self.note(&format!("· cancel {} by {}", cancel.step, cancel.by)),
            Body::EngineMessage(message) if matches!(message.r#type.as_str(), "version" | "outputs") => {}
            Body::EngineMessage(message) => {
                let words = serde_json::from_str::<Value>(&message.json).ok();
                if let Some(words) = words.as_ref().and_then(|v| v.get("@message")).and_then(Value::as_str) {
                    self.note(words);
                }
            }
            Body::StateResource(resource) => self.say(&resource.address),
            Body::PlanJudged(judged) => {
                for line in rules::findings(&serde_json::from_str(&judged.json).unwrap_or_default()) {
                    self.note(&line);
                }
            }
            Body::StateVersion(version) => self.say(&format!("version {}", version.number)),
            // told in words already, and shown by `plan show`
            Body::Redacted(_) | Body::PlanPart(_) => {}
            Body::Result(_) => self.release(),
        }
    }
}

fn own_words(text: &str, otherwise: impl FnOnce() -> String) -> String {
    if text.is_empty() { otherwise() } else { text.to_owned() }
}
fn summary_of(s: &v1::ChangeSummary) -> String {
    own_words(&s.text, || {
        format!("{}: {} to add, {} to change, {} to destroy.", s.operation, s.add, s.change, s.remove)
    })
}
/// A diagnostic as the engine says it.
pub(crate) fn diagnostic_of(d: &v1::Diagnostic) -> String {
    let severity = if d.severity == "warning" { "Warning" } else { "Error" };
    let mut text = format!("{severity}: {}", d.summary);
    let snippet = d.snippet.as_ref();
    if !d.file.is_empty() {
        let within = snippet.map(|s| s.context.as_str()).filter(|context| !context.is_empty());
        let within = within.map(|context| format!(", in {context}")).unwrap_or_default();
        text.push_str(&format!("\n  on {} line {}{within}", d.file, d.line));
    }
    if !d.address.is_empty() {
        text.push_str(&format!("\n  with {}", d.address));
    }
    if let Some(snippet) = snippet {
        for (n, line) in snippet.code.lines().enumerate() {
            text.push_str(&format!("\n{:>6}: {line}", snippet.line as usize + n));
        }
        text.extend(snippet.values.iter().map(|value| format!("\n        {value}")));
    }
    if !d.detail.is_empty() {
        text.push_str(&format!("\n  {}", d.detail.replace('\n', "\n  ")));
    }
    text
}
fn outputs_of(json: &str) -> String {
    let Ok(Value::Object(outputs)) = serde_json::from_str(json) else { return String::new() };
    if outputs.is_empty() {
        return String::new();
    }
    let lines = outputs.iter().map(|(name, output)| {
        let value = if output["sensitive"] == true { "<sensitive>".to_owned() } else { output["value"].to_string() };
        format!("\n{name} = {value}")
    });
    format!("Outputs:\n{}", lines.collect::<String>())
}

/// Follows a job to its end, or to where somebody has to decide.
pub(crate) async fn follow(session: &Session, job: &str, approval: Approval, exit: ExitCode) -> Done {
    let client = &session.client;
    let at = path(&["jobs", job], &[]);
    let mut events = JobEvents::after(client, job, 0);
    let mut words = Words::new(session.output);
    let mut result = None;
    // the plan's digest, once there is one and until it was decided on
    let mut plan: Option<String> = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let wait = tokio::time::sleep(WAITS);
    tokio::pin!(wait);
    let mut silent = true;
    let mut applying = Applying::default();
    loop {
        let event = tokio::select! {
            biased;
            () = session.interrupt.requested() => {
                applying.end();
                return Err(Stop::Interrupted(goes_on(job)));
            }
            event = events.next(|failure| {
                let why = escape::line(&failure.message);
                applying.beside(|| eprintln!("· the control plane does not answer, trying again ({why})"));
            }) => event?,
            () = &mut wait, if silent => {
                silent = false;
                if let Some(why) = waits_for(session, job).await {
                    words.remark(&format!("· {why}"))?;
                }
                continue;
            }
            _ = look.tick(), if applying.is_shown() || (plan.is_some() && approval == Approval::Ask) => {
                if applying.is_shown() {
                    applying.draw();
                    continue;
                }
                // a passing failure here is the event stream's to judge
                if let Ok(current) = client.get(&at).await {
                    match table::text(&current, "/phase").as_str() {
                        "awaiting_approval" => {
                            let sha256 = plan.take().unwrap_or_default();
                            decide(session, job, &sha256).await?;
                        }
                        "preparing" | "planning" | "planned" => {}
                        _ => plan = None,
                    }
                }
                continue;
            }
        };
        let Some(event) = event else { break };
        silent = false;
        match &event.body {
            Some(Body::PlanSaved(saved)) if saved.has_changes => plan = Some(saved.sha256.clone()),
            Some(Body::Result(r)) => result = Some(r.clone()),
            Some(Body::PhaseChanged(phase)) if phase.phase == "applying" => plan = None,
            _ => {}
        }
        applying.beside(|| words.event(&event))?;
        if let Some(body) = &event.body {
            applying.take(body);
        }
    }
    applying.end();
    let current = client.get(&at).await?;
    let (phase, failure) = match result {
        Some(r) => (r.phase.clone(), ending(&r.phase, &r.code, &r.message, &r.next_step)),
        None => {
            let text = |at: &str| table::text(&current, at);
            let phase = text("/phase");
            let failure = ending(&phase, &text("/result/code"), &text("/result/message"), &text("/result/next_step"));
            (phase, failure)
        }
    };
    session.output.document(&current, |_| format!("Job {job}: {}.\n", phase.replace('_', " ")))?;
    failure.map_or(Ok(()), Err)?;
    exit.end(current["plan"]["has_changes"] == true)
}

/// Why a job does not begin, where the control plane can tell.
pub(super) async fn waits_for(session: &Session, job: &str) -> Option<String> {
    let current = session.client.get(&path(&["jobs", job], &[])).await.ok()?;
    waits(&current)
}

/// What a job waits for, of one that has not begun.
pub(crate) fn waits(job: &Value) -> Option<String> {
    if table::text(job, "/phase") != "pending" {
        return None;
    }
    let (id, phase) = (table::text(job, "/waits_for/job"), table::text(job, "/waits_for/phase"));
    Some(match table::text(job, "/waits_for/reason").as_str() {
        "job" if phase == "awaiting_approval" => {
            let since = match table::moment(job, "/waits_for/since_ms") {
                unknown if unknown.is_empty() => unknown,
                moment => format!(" since {moment}"),
            };
            format!(
                "waits for job {id} of the same stack, which awaits approval{since}: `runnerctl job approve {id}` or `runnerctl job discard {id}`"
            )
        }
        "job" => format!("waits for job {id} of the same stack, which is {phase}"),
        "slot" => match table::text(job, "/waits_for/slots").as_str() {
            "1" => "waits for the runner's one slot for jobs".to_owned(),
            slots => format!("waits for one of the runner's {slots} slots for jobs"),
        },
        "instance" => {
            "waits for an instance of the runner that takes jobs; `runnerctl runner list` shows them".to_owned()
        }
        "state" => format!(
            "waits for the instance {} of the runner, which may have the stack's state; `runnerctl runner list` shows what it does",
            table::text(job, "/waits_for/instance")
        ),
        "restored" => "was restored from an older back-up of the control plane: an instance that has it says so when it connects, \
             else it ends as lost"
            .to_owned(),
        // it is about to be given out
        _ => "waits for an instance of the runner with room for it; `runnerctl runner list` shows them".to_owned(),
    })
}

/// How a job's end is a command's end.
pub(crate) fn ending(phase: &str, code: &str, message: &str, next_step: &str) -> Option<Stop> {
    if matches!(phase, "applied" | "no_changes" | "planned") {
        return None;
    }
    let message = if message.is_empty() { format!("the job ended {phase}") } else { message.to_owned() };
    let code = match (code, phase) {
        ("" | "ok", "canceled" | "discarded") => return Some(Stop::Exit(Code::Cancelled.exit())),
        ("" | "ok", "lost") => Code::JobLost.as_str(),
        ("" | "ok", _) => Code::EngineFailed.as_str(),
        (code, _) => code,
    };
    Some(Failure::from_wire(code, &message, next_step).into())
}

fn goes_on(job: &str) -> String {
    format!("job {job} goes on; follow it with `runnerctl job watch {job}`, stop it with `runnerctl job cancel {job}`")
}

/// Asks whether the plan is to be applied, and has it applied or discarded.
async fn decide(session: &Session, job: &str, sha256: &str) -> Done {
    // the plan may be long, and what it would destroy far up
    if let Some(said) = plan::before_approval(session, job).await {
        eprint!("\n{said}");
    }
    // whoever made the job is none of the people whom rules ask for
    if let Some(wanted) = wants_people(session, job).await {
        eprintln!("· job {job} awaits approval by others: {wanted}");
        eprintln!("next: have them run `runnerctl job approve {job}`   (look at it: runnerctl plan show {job})");
        return Err(Stop::Exit(stop::AWAITING));
    }
    if !terminal::can_ask() {
        eprintln!("· job {job} awaits approval");
        eprintln!(
            "next: runnerctl job approve {job}   (or: runnerctl job discard {job}; look at it: runnerctl plan show {job})"
        );
        return Err(Stop::Exit(stop::AWAITING));
    }
    let asked = tokio::task::spawn_blocking(|| {
        terminal::ask("\nApply this plan? \"yes\" applies it, anything else discards it:")
    });
    let answer = tokio::select! {
        () = session.interrupt.requested() => {
            return Err(Stop::Interrupted(format!(
                "job {job} awaits approval: `runnerctl job approve {job}` or `runnerctl job discard {job}`"
            )));
        }
        // it was decided on by somebody else, or its time is over: what comes of it is told as it comes
        () = decided(session, job) => {
            eprintln!("\n· job {job} no longer waits for an answer");
            return Ok(());
        }
        answer = asked => answer.map_err(std::io::Error::other).and_then(|a| a),
    };
    let answer = answer.map_err(|e| Code::InvalidArgument.on(format!("standard input: {e}")))?;
    if answer == "yes" {
        approve(session, job, Some(sha256)).await?;
    } else {
        session.client.post(&path(&["jobs", job, "discard"], &[]), &json!({})).await?;
    }
    Ok(())
}

/// Ends when the job does not await its approval any more.
async fn decided(session: &Session, job: &str) {
    let at = path(&["jobs", job], &[]);
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        // one that cannot be asked for just now may be waiting still
        if session.client.get(&at).await.is_ok_and(|current| table::text(&current, "/phase") != "awaiting_approval") {
            return;
        }
    }
}

/// What rules still want of others, where they do.
async fn wants_people(session: &Session, job: &str) -> Option<String> {
    let job = session.client.get(&path(&["jobs", job], &[])).await.ok()?;
    rules::people(&job)
}

/// Approves a job's plan: that very one, where its digest is known.
pub(crate) async fn approve(session: &Session, job: &str, sha256: Option<&str>) -> Result<Value, Failure> {
    let body = match sha256 {
        Some(sha256) if !sha256.is_empty() => json!({ "plan_sha256": sha256 }),
        _ => json!({}),
    };
    session.client.post(&path(&["jobs", job, "approve"], &[]), &body).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::{answer, api};
    use crate::interrupt::Interrupt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_question_ends_with_the_plan_that_it_is_about() {
        let looks = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&looks);
        let client = api(move |_| match seen.fetch_add(1, Ordering::SeqCst) {
            0 => answer(200, r#"{"phase": "awaiting_approval"}"#),
            1 => answer(503, r#"{"error": {"code": "busy", "message": "not now"}}"#),
            _ => answer(200, r#"{"phase": "discarded", "result": {"code": "plan_expired"}}"#),
        })
        .await;
        let session =
            Session { client, output: Output::new(Format::Table), runner: None, interrupt: Interrupt::listen() };
        decided(&session, "job_1").await;
        assert!(looks.load(Ordering::SeqCst) >= 3);
        assert_eq!(exit("discarded", "plan_expired"), 1);
    }

    #[test]
    fn all_of_a_log_goes_to_standard_output() {
        let event = |body: Body| JobEvent { sequence: 1, body: Some(body), json: Value::Null };
        let line = |stream: &str, text: &str| {
            event(Body::OutputLine(v1::OutputLine { stream: stream.into(), text: text.into() }))
        };
        let hook = Hook::ALL[0].name();
        let events = [
            event(Body::PhaseChanged(v1::PhaseChanged { phase: "planning".into(), ..Default::default() })),
            line("stdout", "of the engine"),
            line("runner", "of the runner"),
            line(hook, "of a hook"),
            event(Body::CancelProgress(v1::CancelProgress { step: "asked".into(), by: "ann".into() })),
        ];
        let of_hook = format!("{hook}: of a hook");
        let lines = ["· planning", "of the engine", "of the runner", &of_hook, "· cancel asked by ann"];
        let output = Output::new(Format::Table);
        let said = |mut words: Words| {
            events.iter().for_each(|event| words.take(event));
            words.said
        };
        let log = said(Words::of_log(output));
        assert_eq!(log, lines.map(|line| (Stream::Output, line.to_owned())));
        let followed = said(Words::new(output));
        let beside: Vec<_> = followed.iter().map(|(to, _)| *to == Stream::Error).collect();
        assert_eq!(beside, [true, false, true, true, true]);
    }

    fn exit(phase: &str, code: &str) -> i32 {
        ending(phase, code, "m", "").map_or(0, |stop| stop.report())
    }

    #[test]
    fn a_jobs_end_is_an_exit_code() {
        for phase in ["applied", "no_changes", "planned"] {
            assert_eq!(exit(phase, "ok"), 0);
        }
        assert_eq!(exit("failed", "engine_failed"), 1);
        assert_eq!(exit("failed", "engine_missing"), 78);
        assert_eq!(exit("failed", ""), 1);
        assert_eq!(exit("canceled", "ok"), 1);
        assert_eq!(exit("discarded", ""), 1);
        assert_eq!(exit("lost", ""), 70);
    }

    #[test]
    fn what_a_job_waits_for() {
        let said = |why: Value| waits(&json!({"phase": "pending", "waits_for": why})).expect("waits");
        assert_eq!(said(json!({"reason": "slot", "slots": 2})), "waits for one of the runner's 2 slots for jobs");
        assert_eq!(said(json!({"reason": "slot", "slots": 1})), "waits for the runner's one slot for jobs");
        assert!(
            said(json!({"reason": "job", "job": "job_1", "phase": "applying"})).contains("job_1 of the same stack")
        );
        let approval = said(json!({"reason": "job", "job": "job_1", "phase": "awaiting_approval", "since_ms": 1000}));
        assert!(
            approval.contains("awaits approval since 1970-01-01T00:00:01Z: `runnerctl job approve job_1`"),
            "{approval}"
        );
        assert!(
            said(json!({"reason": "instance"})).contains("takes jobs") && said(Value::Null).contains("room for it")
        );
        assert!(
            said(json!({"reason": "state", "instance": "i-1"})).starts_with("waits for the instance i-1 of the runner")
        );
        assert_eq!(waits(&json!({"phase": "planning", "waits_for": null})), None);
    }

    #[test]
    fn words_are_the_engines() {
        let d = v1::Diagnostic {
            severity: "error".into(),
            summary: "Invalid".into(),
            detail: "a\nb".into(),
            address: "x.y".into(),
            file: "main.tf".into(),
            line: 3,
            snippet: None,
        };
        assert_eq!(diagnostic_of(&d), "Error: Invalid\n  on main.tf line 3\n  with x.y\n  a\n  b");
        let snippet = v1::CodeSnippet {
            context: "resource \"x\" \"y\"".into(),
            code: "  count = [\n    var.n".into(),
            line: 3,
            values: vec!["var.n is \"one\"".into()],
        };
        assert_eq!(
            diagnostic_of(&v1::Diagnostic { snippet: Some(snippet), ..d }),
            "Error: Invalid\n  on main.tf line 3, in resource \"x\" \"y\"\n  with x.y\n     3:   count = [\n     4:     var.n\n        var.n is \"one\"\n  a\n  b"
        );
        assert_eq!(
            outputs_of(r#"{"a":{"value":"x"},"s":{"value":null,"sensitive":true}}"#),
            "Outputs:\n\na = \"x\"\ns = <sensitive>"
        );
        let summary =
            v1::ChangeSummary { text: "Plan: 2 to add, 0 to change, 1 to destroy.".into(), ..Default::default() };
        assert_eq!(summary_of(&summary), summary.text);
    }
}
