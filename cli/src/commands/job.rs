//! `job`: runs of a stack.

use super::follow::{self, Approval, Words};
use super::plan::ExitCode;
use super::{Session, rules};
use crate::client::job_events::JobEvent;
use crate::client::path;
use crate::output::{Format, table};
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::plan::{Summary, words};
use shared_proto::rules::BY_POLICY;
use shared_proto::timeline::Timeline;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Events are fetched in pages of this many, the most that the API gives.
const PAGE: u64 = 500;

/// `job`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum JobCommand {
    /// Jobs, the newest first
    List {
        /// Of this stack only
        #[arg(long, value_name = "NAME")]
        stack: Option<String>,
        /// At most so many
        #[arg(long, value_name = "NUMBER")]
        limit: Option<u32>,
    },
    /// One job
    Show {
        /// Its id
        id: String,
    },
    /// Follow a job to its end and exit by its result
    Watch {
        /// Its id
        id: String,
        #[command(flatten)]
        exit: ExitCode,
    },
    /// Have the plan applied
    Approve {
        /// Its id
        id: String,
        /// Only if the plan has this digest
        #[arg(long, value_name = "SHA256")]
        plan: Option<String>,
    },
    /// Throw the plan away; nothing changes
    Discard {
        /// Its id
        id: String,
    },
    /// Stop a job: asks the engine first, so that its state is kept
    Cancel {
        /// Its id
        id: String,
        /// End the engine at once; its state may be left behind
        #[arg(long)]
        force: bool,
    },
    /// Where the state lies that a job's engine could not save: on its runner, which it never leaves
    Rescue {
        /// Its id
        id: String,
        /// Copy it there; for whoever is on the runner's machine
        #[arg(long, value_name = "FILE")]
        to: Option<std::path::PathBuf>,
    },
    /// What a job has said until now
    Logs {
        /// Its id
        id: String,
    },
    /// What its apply did to each resource, and when, as a picture (SVG)
    Timeline {
        /// Its id
        id: String,
        /// Write it there
        #[arg(long, value_name = "FILE")]
        to: std::path::PathBuf,
    },
}

/// `job …`
pub(crate) async fn run(command: JobCommand, session: &Session) -> Done {
    let client = &session.client;
    match command {
        JobCommand::List { stack, limit } => {
            let limit = limit.map(|n| n.to_string());
            let query: Vec<(&str, &str)> = [("stack", stack.as_deref()), ("limit", limit.as_deref())]
                .into_iter()
                .filter_map(|(name, value)| value.map(|value| (name, value)))
                .collect();
            let list = session.wait("listing jobs", client.get(&path(&["jobs"], &query))).await?;
            session.output.document(&list, jobs)
        }
        JobCommand::Show { id } => {
            let one = session.wait("asking", client.get(&path(&["jobs", &id], &[]))).await?;
            session.output.document(&one, show)
        }
        JobCommand::Watch { id, exit } => follow::follow(session, &id, Approval::Watch, exit).await,
        JobCommand::Approve { id, plan } => {
            let job = session.wait("approving", follow::approve(session, &id, plan.as_deref())).await?;
            session.output.document(&job, |job| match rules::people(job) {
                Some(wanted) => {
                    format!("Job {id}: you have approved it, and it goes on waiting for others: {wanted}.\n")
                }
                None => format!("Job {id} approved.\nFollow it: runnerctl job watch {id}\n"),
            })
        }
        JobCommand::Discard { id } => {
            let at = path(&["jobs", &id, "discard"], &[]);
            let job = session.wait("discarding", client.post(&at, &json!({}))).await?;
            session.output.document(&job, |_| format!("Job {id}: its plan is discarded, nothing changed.\n"))
        }
        JobCommand::Cancel { id, force } => {
            let job = session.wait("cancelling", cancel(session, &id, force)).await?;
            session.output.document(&job, |job| cancelled(&id, job, force))
        }
        JobCommand::Rescue { id, to } => {
            let job = session.wait("asking", client.get(&path(&["jobs", &id], &[]))).await?;
            let found = rescued(&job)?;
            let Some(to) = to else { return session.output.document(&found, lies) };
            copy(&found, &to)?;
            session.output.document(&found, |_| format!("The state is in {}.\n", to.display()))
        }
        JobCommand::Timeline { id, to } => {
            session.interrupt.guard("the picture was not drawn", timeline(session, &id, &to)).await
        }
        JobCommand::Logs { id } => session.interrupt.guard("the log was not read to its end", logs(session, &id)).await,
    }
}

/// Cancels a job. To whoever asks that of one that has ended, the control plane only says that it is as it was: here it is a mistake.
async fn cancel(session: &Session, id: &str, force: bool) -> Result<Value, Failure> {
    let job = session.client.get(&path(&["jobs", id], &[])).await?;
    if !job["ended_at_ms"].is_null() {
        let (phase, when) = (table::text(&job, "/phase"), table::moment(&job, "/ended_at_ms"));
        return Err(Code::Conflict
            .on(format!("job {id} has ended as {} at {when}: there is nothing to cancel", phase.replace('_', " ")))
            .next(format!("Look at what it did: `runnerctl job show {id}`.")));
    }
    session.client.post(&path(&["jobs", id, "cancel"], &[]), &json!({ "force": force })).await
}

/// What a cancel came to.
fn cancelled(id: &str, job: &Value, force: bool) -> String {
    match table::text(job, "/phase").as_str() {
        "canceled" => format!("Job {id} is cancelled, before anything was changed.\n"),
        "lost" => format!("Job {id} is given up as lost: what its instance did meanwhile is not known.\n"),
        _ => {
            let how = if force { "forced" } else { "asked" };
            format!("Job {id}: cancel {how}.\nFollow it: runnerctl job watch {id}\n")
        }
    }
}

async fn logs(session: &Session, id: &str) -> Done {
    let mut words = Words::of_log(session.output);
    told(session, id, |event| match session.output.format {
        Format::Table | Format::Wide | Format::Name => words.event(&event),
        // one event a line, so that a reader need not hold them all
        Format::Json | Format::Yaml => session.output.line(&event.json.to_string()),
    })
    .await
}

/// Hands over each event that a job has told until now.
async fn told(session: &Session, id: &str, mut take: impl FnMut(JobEvent) -> Done) -> Done {
    let mut last = 0_u64;
    loop {
        let (after, limit) = (last.to_string(), PAGE.to_string());
        let at = path(&["jobs", id, "events"], &[("after", &after), ("limit", &limit)]);
        let page = session.client.get(&at).await?;
        let events: Vec<JobEvent> = table::items(&page).iter().cloned().filter_map(JobEvent::read).collect();
        let Some(newest) = events.last().map(|e| e.sequence).filter(|n| *n > last) else {
            return if last == 0 { still_kept(session, id).await } else { Ok(()) };
        };
        last = newest;
        for event in events {
            take(event)?;
        }
    }
}

/// Whether a job that tells nothing has nothing to tell.
async fn still_kept(session: &Session, id: &str) -> Done {
    let job = session.client.get(&path(&["jobs", id], &[])).await?;
    match table::moment(&job, "/events_removed_at_ms") {
        there if there.is_empty() => Ok(()),
        removed => Err(Code::NotFound
            .on(format!("what job {id} has said was removed on {removed}: the control plane keeps it for so long"))
            .next(format!("Look at what is kept: `runnerctl job show {id}`."))
            .into()),
    }
}

async fn timeline(session: &Session, id: &str, to: &Path) -> Done {
    let job = session.client.get(&path(&["jobs", id], &[])).await?;
    let mut timeline = Timeline::default();
    told(session, id, |event| {
        if let Ok(event) = serde_json::from_value(event.json) {
            timeline.take(&event);
        }
        Ok(())
    })
    .await?;
    if timeline.is_empty() {
        return Err(Code::NotFound
            .on(format!("job {id} has told of no resource that it made, changed or destroyed"))
            .next("Name a job that has applied a plan: `runnerctl job list`.")
            .into());
    }
    let text = |at| table::text(&job, at);
    let title = format!("{} · {} · {} · {}", text("/stack/name"), text("/kind"), text("/phase"), text("/id"));
    let written = OpenOptions::new().write(true).create_new(true).open(to);
    written.and_then(|mut file| file.write_all(timeline.svg(&title).as_bytes())).map_err(|e| {
        Code::InvalidArgument.on(format!("{}: {e}", to.display())).next("Name a file that is not there yet.")
    })?;
    session.output.document(&json!({ "file": to }), |_| format!("The picture is in {}.\n", to.display()))
}

fn jobs(list: &Value) -> String {
    // what nothing keeps from being given out needs no word
    let waits = |job: &Value| follow::waits(job).filter(|_| !job["waits_for"].is_null());
    let mut header = vec!["ID", "STACK", "KIND", "PHASE", "RUNNER", "CREATED"];
    let notes = table::items(list).iter().any(|job| waits(job).is_some());
    if notes {
        header.push("NOTE");
    }
    let rows = table::items(list).iter().map(|job| {
        let mut row: Vec<_> =
            ["/id", "/stack/name", "/kind", "/phase", "/runner"].map(|at| table::text(job, at)).into();
        row.push(table::moment(job, "/created_at_ms"));
        if notes {
            row.push(waits(job).unwrap_or_default());
        }
        row
    });
    table::rows(&header, rows, "No jobs.")
}

/// Who has approved its plan: several where rules asked for them, and the runner's policy in the place of a person.
fn approvers(job: &Value) -> String {
    let several = job["plan"]["approvers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let several: Vec<_> = several.collect();
    match table::text(job, "/approved_by") {
        policy if policy == BY_POLICY => format!("{policy}, which lets it reconcile"),
        one if several.is_empty() && one == table::text(job, "/created_by") && job["approve_automatically"] == true => {
            format!("{one}, with the job")
        }
        last if several.is_empty() => last,
        _ => several.join(", "),
    }
}

/// How it was asked for, where that is not by its kind alone.
fn manner(job: &Value) -> &'static str {
    match [&job["preview_only"], &job["untrusted"], &job["reconcile"]].map(|flag| flag == true) {
        [true, ..] => "a look at drift: nothing is applied",
        [_, true, _] => "a preview of an untrusted source: without secrets and credentials",
        [_, _, true] => "applied without asking where the runner's own policy lets it be",
        _ => "",
    }
}

fn show(job: &Value) -> String {
    let summary = serde_json::from_value::<Summary>(job["plan"]["summary"].clone()).ok();
    let plan = if job["plan"].is_null() {
        String::new()
    } else if let Some(summary) = &summary {
        words::summary(summary)
    } else {
        format!(
            "{} to add, {} to change, {} to destroy",
            table::text(job, "/plan/add"),
            table::text(job, "/plan/change"),
            table::text(job, "/plan/remove")
        )
    };
    let fields = [
        ("id", table::text(job, "/id")),
        ("stack", table::text(job, "/stack/name")),
        ("kind", table::text(job, "/kind")),
        ("phase", table::text(job, "/phase")),
        ("runner", table::text(job, "/runner")),
        ("isolation", table::text(job, "/isolation_level")),
        ("revision", table::text(job, "/revision")),
        ("by", table::text(job, "/created_by")),
        ("made by", table::text(job, "/origin")),
        ("is", manner(job).to_owned()),
        ("created", table::moment(job, "/created_at_ms")),
        ("started", table::moment(job, "/started_at_ms")),
        ("ended", table::moment(job, "/ended_at_ms")),
        ("plan", plan),
        ("rules", rules::summary(&rules::judgement(job))),
        ("approvals", rules::people(job).unwrap_or_default()),
        ("approved by", if rules::people(job).is_some() { String::new() } else { approvers(job) }),
        ("cancelled by", table::text(job, "/canceled_by")),
        ("result", table::text(job, "/result/code")),
        ("engine", engine(job)),
        ("message", table::text(job, "/result/message")),
        ("next", table::text(job, "/result/next_step")),
        ("events", table::text(job, "/last_sequence")),
        ("redacted", redacted(job)),
    ];
    // of most jobs there is nothing to say of these
    let said = |(name, value): &(&str, String)| {
        !value.is_empty() || !matches!(*name, "made by" | "is" | "cancelled by" | "engine")
    };
    let mut text = table::fields(fields.into_iter().filter(said));
    if summary.is_some() {
        text.push_str(&format!("\nIts plan: runnerctl plan show {}\n", table::text(job, "/id")));
    }
    if !table::text(job, "/result/rescued_state").is_empty() {
        let id = table::text(job, "/id");
        text.push_str(&format!("\nIts engine could not save the state, which is kept: runnerctl job rescue {id}\n"));
    }
    if may_leave_a_lock(job) {
        let stack = table::text(job, "/stack/name");
        text.push_str(&format!("\nWhat is known of the lock of its state: runnerctl state lock {stack}\n"));
    }
    if let Some(why) = follow::waits(job) {
        text.push_str(&format!("\nIt {why}\n"));
    }
    let findings = rules::findings(&rules::judgement(job));
    if !findings.is_empty() {
        text.push_str(&format!("\n{}\n", findings.join("\n")));
    }
    if job["phase"] == "awaiting_approval" {
        let id = table::text(job, "/id");
        text.push_str(&format!("\nIt awaits approval: runnerctl job approve {id}, or runnerctl job discard {id}\n"));
    }
    text
}

/// How its engine ended, where that was not well.
fn engine(job: &Value) -> String {
    match (table::text(job, "/result/engine_signal"), table::text(job, "/result/engine_exit_code")) {
        (signal, _) if !signal.is_empty() => format!("ended by {signal}"),
        (_, code) if !code.is_empty() => format!("ended with exit code {code}"),
        _ => String::new(),
    }
}

/// Whether its engine has not ended by itself, or was kept from its state by a lock.
fn may_leave_a_lock(job: &Value) -> bool {
    let by_code = ["job_lost", "worker_crashed", "state_locked"].map(Value::from).contains(&job["result"]["code"]);
    by_code || !table::text(job, "/result/engine_signal").is_empty()
}

/// What is known of a state that was rescued.
fn rescued(job: &Value) -> Result<Value, Failure> {
    let (id, at) = (table::text(job, "/id"), table::text(job, "/result/rescued_state"));
    if at.is_empty() {
        return Err(Code::NotFound
            .on(format!("job {id} has left no state that its engine could not save"))
            .next("Look at how it ended with `runnerctl job show`."));
    }
    Ok(json!({
        "job": id,
        "stack": table::text(job, "/stack/name"),
        "runner": table::text(job, "/runner"),
        "instance_id": table::text(job, "/instance_id"),
        "path": at,
    }))
}

fn lies(found: &Value) -> String {
    let text = |name: &str| table::text(found, name);
    let fields = table::fields([
        ("job", text("/job")),
        ("stack", text("/stack")),
        ("runner", text("/runner")),
        ("instance", text("/instance_id")),
        ("path", text("/path")),
    ]);
    format!(
        "{fields}\nIt stays on the runner's machine. Compare it with the stack's state there, and give it to the engine: state push {}\n",
        text("/path")
    )
}

/// Copies it, where this is the runner's machine; never over something.
fn copy(found: &Value, to: &std::path::Path) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let from = table::text(found, "/path");
    let failed = |e: std::io::Error| {
        Code::NotFound.on(format!("{from}: {e}")).next(format!(
            "It lies on the machine of the runner {} (instance {}): copy it there.",
            table::text(found, "/runner"),
            table::text(found, "/instance_id")
        ))
    };
    let mut state = std::fs::File::open(&from).map_err(failed)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(|e| {
        Code::InvalidArgument.on(format!("{}: {e}", to.display())).next("Name a file that is not there.")
    })?;
    std::io::copy(&mut state, &mut file).map(drop).map_err(failed)
}

/// How often a secret was taken out of what the job recorded, and what was too short for it.
fn redacted(job: &Value) -> String {
    let count = table::text(job, "/redacted");
    let names: Vec<_> = job["not_redacted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.is_empty() { count } else { format!("{count}; too short to be: {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::{answer, api};
    use crate::interrupt::Interrupt;
    use crate::output::Output;

    #[tokio::test]
    async fn what_has_ended_is_not_cancelled() {
        let client = api(|asked| {
            let of = |phase: &str, ended: Value| json!({"phase": phase, "ended_at_ms": ended}).to_string();
            match (asked.method.as_str(), asked.path.trim_start_matches("/api/v1/jobs/")) {
                ("GET", "job_1") => answer(200, &of("canceled", 1000.into())),
                ("GET", "job_2") => answer(200, &of("applying", Value::Null)),
                ("GET", "job_3") => answer(200, &of("pending", Value::Null)),
                ("POST", "job_2/cancel") => answer(200, &of("applying", Value::Null)),
                ("POST", "job_3/cancel") => answer(200, &of("canceled", 2000.into())),
                other => panic!("{other:?}"),
            }
        })
        .await;
        let session =
            Session { client, output: Output::new(Format::Table), runner: None, interrupt: Interrupt::listen() };
        let failure = cancel(&session, "job_1", false).await.expect_err("it has ended");
        assert_eq!(failure.code, Code::Conflict);
        assert!(failure.message.contains("ended as canceled at 1970-01-01T00:00:01Z"), "{failure}");
        for (id, said) in [("job_2", "cancel asked"), ("job_3", "is cancelled, before anything was changed")] {
            let job = cancel(&session, id, false).await.expect("cancels");
            assert!(cancelled(id, &job, false).contains(said), "{id}");
        }
    }

    #[test]
    fn a_job_says_what_was_redacted_of_it() {
        let text = |job: Value| show(&job);
        assert!(text(json!({"redacted": 3, "not_redacted": []})).contains("3\n"));
        let said = text(json!({"redacted": 0, "not_redacted": ["pin", "connection c"]}));
        assert!(said.contains("0; too short to be: pin, connection c"), "{said}");
        assert!(!text(json!({"redacted": null, "not_redacted": []})).contains("too short"));
    }

    #[test]
    fn a_job_says_who_has_approved_it() {
        let said = |job: Value| {
            let text = show(&job);
            let line = text.lines().find_map(|line| line.strip_prefix("approved by:")).expect("a line");
            line.trim().to_owned()
        };
        let two = json!({"phase": "applied", "approved_by": "eve", "plan": {"judgement": {"approvals": 2}, "approvers": ["bob", "eve"]}});
        assert_eq!(said(two), "bob, eve");
        assert_eq!(said(json!({"approved_by": "bob", "created_by": "ada", "plan": {"approvers": []}})), "bob");
        let own = json!({"approved_by": "ada", "created_by": "ada", "approve_automatically": true, "plan": {}});
        assert_eq!(said(own), "ada, with the job");
        let policy = said(json!({"approved_by": BY_POLICY, "reconcile": true, "plan": {}}));
        assert_eq!(policy, "the runner's own policy, which lets it reconcile");
    }

    #[test]
    fn a_job_whose_engine_was_killed_says_so_and_where_its_lock_is_told_of() {
        let text = |result: Value| show(&json!({"id": "job_1", "stack": {"name": "shop"}, "result": result}));
        for result in [
            json!({"code": "engine_failed", "engine_signal": "SIGKILL"}),
            json!({"code": "job_lost"}),
            json!({"code": "worker_crashed"}),
            json!({"code": "state_locked", "engine_exit_code": 1}),
        ] {
            assert!(text(result.clone()).contains("runnerctl state lock shop"), "{result}");
        }
        assert!(text(json!({"code": "engine_failed", "engine_signal": "SIGKILL"})).contains("ended by SIGKILL"));
        let failed = text(json!({"code": "engine_failed", "engine_exit_code": 1}));
        assert!(failed.contains("ended with exit code 1") && !failed.contains("state lock"), "{failed}");
        assert!(!text(json!({"code": "ok"})).contains("engine"));
    }

    #[test]
    fn a_state_that_was_rescued_is_named_and_copied_where_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("errored-job_1.tfstate"), folder.path().join("copy"));
        let job =
            |at: &str| json!({"id": "job_1", "runner": "r1", "instance_id": "i1", "result": {"rescued_state": at}});
        assert_eq!(rescued(&job("")).map_err(|e| e.code), Err(Code::NotFound));
        let found = rescued(&job(&from.display().to_string())).expect("is there");
        assert!(lies(&found).contains("errored-job_1.tfstate"), "{}", lies(&found));
        let elsewhere = copy(&found, &to).expect_err("it is not on this machine");
        assert!(elsewhere.next_step.contains("r1 (instance i1)"), "{elsewhere}");
        std::fs::write(&from, "a state").expect("writes");
        copy(&found, &to).expect("copies");
        assert_eq!(std::fs::read(&to).expect("reads"), b"a state");
        assert_eq!(copy(&found, &to).map_err(|e| e.code), Err(Code::InvalidArgument), "never over something");
    }

    #[test]
    fn a_list_says_what_jobs_wait_for() {
        let job = |phase: &str, waits_for: Value| json!({"id": "job_1", "phase": phase, "waits_for": waits_for});
        let list =
            json!({"items": [job("pending", json!({"reason": "slot", "slots": 2})), job("planning", Value::Null)]});
        let text = jobs(&list);
        assert!(text.contains("NOTE") && text.contains("waits for one of the runner's 2 slots"), "{text}");
        let text = jobs(&json!({"items": [job("pending", Value::Null)]}));
        assert!(!text.contains("NOTE") && !text.contains("waits"), "{text}");
    }
}
