//! `state`: what the engine has written down of a stack: its resources, its outputs, its lock. Each command is a job of the stack's runner,
//! under its policy; reading changes nothing.

use super::Session;
use super::follow::{self, Approval};
use super::plan::ExitCode;
use crate::client::job_events::JobEvents;
use crate::client::{Client, path};
use crate::output::{progress, remark, table, yaml};
use crate::stop::{Done, Stop};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{self, event::Body};

/// `state`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum StateCommand {
    /// The resources of a stack's state
    List {
        /// The stack
        stack: String,
        /// Only this resource, or what is in this module; may be given several times
        #[arg(value_name = "ADDRESS")]
        addresses: Vec<String>,
    },
    /// A resource with its attributes; sensitive ones are not shown
    Show {
        /// The stack
        stack: String,
        /// Its address, such as aws_instance.web[0] or module.net
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
    /// The outputs; sensitive ones are not shown
    Outputs {
        /// The stack
        stack: String,
    },
    /// Take a resource that is there into the state: planned, shown and approved as any change
    Import {
        /// The stack
        stack: String,
        /// The address that it gets; the configuration has it already
        #[arg(value_name = "ADDRESS")]
        address: String,
        /// As its provider names it
        #[arg(value_name = "ID")]
        id: String,
        /// Apply without asking
        #[arg(long)]
        auto_approve: bool,
    },
    /// Who holds the lock that a job of a stack could not have, and what proves it
    Lock {
        /// The stack
        stack: String,
    },
    /// The versions of the state that the runner's own store has, the newest last
    Versions {
        /// The stack
        stack: String,
    },
    /// Make an earlier version of the state the newest one
    ///
    /// The state is what changes, and nothing that it tells of: the next plan shows the difference. The version is added as another one, with the
    /// next serial; no version is removed.
    Rollback {
        /// The stack
        stack: String,
        /// The version's number
        #[arg(value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        number: u64,
        /// Why; kept with the job and with the version
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Remove a lock that nobody holds any more
    ///
    /// One whose holder is known to have ended is removed. For any other, first make sure that nobody is at work on the state, also outside
    /// of the runner, then use --force.
    Unlock {
        /// The stack
        stack: String,
        /// The lock's id, as the engine gave it where it could not have the lock
        #[arg(value_name = "LOCK")]
        lock: String,
        /// Why it may go; kept with the job
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Also where nothing proves that its holder has ended: whoever holds it may be writing
        #[arg(long)]
        force: bool,
    },
}

// === impl StateCommand ===

impl StateCommand {
    fn stack(&self) -> &str {
        match self {
            Self::List { stack, .. }
            | Self::Show { stack, .. }
            | Self::Outputs { stack }
            | Self::Import { stack, .. }
            | Self::Lock { stack }
            | Self::Versions { stack }
            | Self::Rollback { stack, .. }
            | Self::Unlock { stack, .. } => stack,
        }
    }
}

/// `state …`
pub(crate) async fn run(command: StateCommand, session: &Session) -> Done {
    if let Some(runner) = &session.runner {
        session.wait("asking", has_runner(&session.client, command.stack(), runner)).await?;
    }
    match command {
        StateCommand::List { stack, addresses } => {
            let read = read(session, &stack, "state", &addresses).await?;
            let whole = !addresses.is_empty();
            let items: Vec<_> = read.resources.iter().map(|resource| document(resource, whole)).collect();
            for note in &read.notes {
                eprintln!("· {}", crate::output::escape::line(note));
            }
            session.output.document(&json!({ "items": items }), listed)
        }
        StateCommand::Show { stack, address } => {
            let read = read(session, &stack, "state", std::slice::from_ref(&address)).await?;
            let items: Vec<_> = read.resources.iter().map(|resource| document(resource, true)).collect();
            session.output.document(&json!({ "items": items }), shown)
        }
        StateCommand::Outputs { stack } => {
            let read = read(session, &stack, "outputs", &[]).await?;
            session.output.document(&read.outputs, |outputs| match outputs.as_object() {
                Some(all) if !all.is_empty() => table::rows(&["NAME", "VALUE"], all.iter().map(output_row), ""),
                _ => "No outputs.\n".to_owned(),
            })
        }
        StateCommand::Import { stack, address, id, auto_approve } => {
            let imports = json!([{ "address": address, "id": id }]);
            let job = json!({ "kind": "import", "imports": imports, "approve_automatically": auto_approve });
            let job = start(session, &stack, &job).await?;
            follow::follow(session, &job, Approval::Ask, ExitCode::default()).await
        }
        StateCommand::Lock { stack } => {
            let at = path(&["stacks", &stack, "lock"], &[]);
            let known = session.wait("asking", session.client.get(&at)).await?;
            session.output.document(&known, |known| lock(&stack, known))
        }
        StateCommand::Versions { stack } => {
            let read = read(session, &stack, "versions", &[]).await?;
            let items: Vec<_> = read.versions.iter().map(version).collect();
            session.output.document(&json!({ "items": items }), versions)
        }
        StateCommand::Rollback { stack, number, reason } => {
            let job = json!({ "kind": "rollback", "rollback": { "version": number, "reason": reason } });
            let job = start(session, &stack, &job).await?;
            follow::follow(session, &job, Approval::Watch, ExitCode::default()).await
        }
        StateCommand::Unlock { stack, lock, reason, force } => {
            let job = json!({ "kind": "unlock", "lock": { "id": lock, "reason": reason, "force": force } });
            let job = start(session, &stack, &job).await?;
            follow::follow(session, &job, Approval::Watch, ExitCode::default()).await
        }
    }
}

/// Refuses a runner that is not the stack's: a state is where the stack's jobs are.
async fn has_runner(client: &Client, stack: &str, named: &str) -> Result<(), Failure> {
    let found = client.get(&path(&["stacks", stack], &[])).await?;
    let own = table::text(&found, "/runner");
    if own == named {
        return Ok(());
    }
    // by its id, or the default one
    let runner = client.get(&path(&["runners", named], &[])).await?;
    let is_own = if own.is_empty() { runner["default"] == true } else { table::text(&runner, "/name") == own };
    if is_own {
        return Ok(());
    }
    let own = if own.is_empty() { "the organization's default runner".to_owned() } else { format!("runner {own}") };
    Err(Code::InvalidArgument
        .on(format!("--runner: the stack {stack} is of {own}, and its state is asked for there"))
        .next(format!(
            "Leave --runner (and RUNNERCTL_RUNNER) out, or change the stack first: `runnerctl stack update {stack} --runner {named}`."
        )))
}

async fn start(session: &Session, stack: &str, job: &Value) -> Done<String> {
    let at = path(&["stacks", stack, "jobs"], &[]);
    let job = session.wait("starting a job", session.client.post_once(&at, job)).await?;
    let id = table::text(&job, "/id");
    eprintln!("· job {id}");
    Ok(id)
}

/// What a job has read.
#[derive(Default)]
struct Read {
    resources: Vec<v1::StateResource>,
    versions: Vec<v1::StateVersion>,
    outputs: Value,
    notes: Vec<String>,
}

/// Has a job read something, and gives what it has told.
async fn read(session: &Session, stack: &str, kind: &str, addresses: &[String]) -> Done<Read> {
    let mut job = json!({ "kind": kind });
    if !addresses.is_empty() {
        job["targets"] = json!(addresses);
    }
    let job = start(session, stack, &job).await?;
    let spinner = progress::spinner("the engine reads the state");
    let note = format!("job {job} goes on; stop it with `runnerctl job cancel {job}`");
    let waiting = |why: &str| spinner.suspend(|| remark(&format!("job {job} {why}")));
    let told = session.interrupt.guard(&note, told(session, &job, waiting)).await;
    spinner.finish_and_clear();
    told
}

/// What a job tells. `waiting` hears, once, why one does not begin.
async fn told(session: &Session, job: &str, waiting: impl Fn(&str)) -> Done<Read> {
    let mut read = Read { outputs: json!({}), ..Read::default() };
    let mut events = JobEvents::after(&session.client, job, 0);
    let mut complaints = Vec::new();
    let wait = tokio::time::sleep(follow::WAITS);
    tokio::pin!(wait);
    let mut silent = true;
    loop {
        let event = tokio::select! {
            biased;
            event = events.next(|_| {}) => event?,
            () = &mut wait, if silent => {
                silent = false;
                if let Some(why) = follow::waits_for(session, job).await {
                    waiting(&why);
                }
                continue;
            }
        };
        let Some(event) = event else { break };
        silent = false;
        match event.body {
            Some(Body::StateResource(resource)) => read.resources.push(resource),
            Some(Body::StateVersion(version)) => read.versions.push(version),
            Some(Body::Outputs(outputs)) => read.outputs = serde_json::from_str(&outputs.json).unwrap_or_default(),
            Some(Body::OutputLine(line)) if line.stream == "runner" && line.text.contains("more resources") => {
                read.notes.push(line.text);
            }
            Some(Body::Diagnostic(diagnostic)) if diagnostic.severity == "error" => {
                complaints.push(follow::diagnostic_of(&diagnostic));
            }
            Some(Body::Result(r)) => match follow::ending(&r.phase, &r.code, &r.message, &r.next_step) {
                None => return Ok(read),
                Some(stop) => {
                    for complaint in complaints {
                        remark(&complaint);
                    }
                    return Err(stop);
                }
            },
            _ => {}
        }
    }
    // it ended without a result of its own
    let current = session.client.get(&path(&["jobs", job], &[])).await?;
    let text = |at: &str| table::text(&current, at);
    let ending =
        follow::ending(&text("/phase"), &text("/result/code"), &text("/result/message"), &text("/result/next_step"));
    Err(ending.unwrap_or_else(|| Stop::from(Code::Internal.on(format!("job {job} has ended and told nothing")))))
}

fn document(resource: &v1::StateResource, whole: bool) -> Value {
    let mut one = json!({
        "address": resource.address, "mode": resource.mode, "type": resource.r#type, "name": resource.name,
        "provider": resource.provider, "id": resource.id, "tainted": resource.tainted,
    });
    if !resource.deposed.is_empty() {
        one["deposed"] = resource.deposed.as_str().into();
    }
    if whole && resource.left_out == 0 {
        one["attributes"] = serde_json::from_str(&resource.attributes).unwrap_or_default();
    } else if whole {
        one["left_out_bytes"] = resource.left_out.into();
    }
    one
}

fn version(version: &v1::StateVersion) -> Value {
    if version.unreadable {
        return json!({ "number": version.number, "unreadable": true });
    }
    let mut one = json!({
        "number": version.number, "serial": version.serial, "time_ms": version.time_ms, "job": version.job,
        "person": version.person, "bytes": version.bytes, "resources": version.resources,
    });
    if version.copy_of > 0 {
        one["copy_of"] = version.copy_of.into();
        one["reason"] = version.reason.as_str().into();
    }
    one
}

fn versions(list: &Value) -> String {
    let row = |one: &Value| {
        let text = |at: &str| table::text(one, at);
        let note = match (one["unreadable"] == true, &one["copy_of"]) {
            (true, _) => "unreadable".to_owned(),
            (_, Value::Null) => String::new(),
            (_, of) => format!("back to {of}: {}", text("/reason")),
        };
        let when = table::moment(one, "/time_ms");
        let (number, serial, resources) = (text("/number"), text("/serial"), text("/resources"));
        vec![number, serial, resources, text("/bytes"), when, text("/person"), text("/job"), note]
    };
    table::rows(
        &["VERSION", "SERIAL", "RESOURCES", "BYTES", "WHEN", "WHO", "JOB", "NOTE"],
        table::items(list).iter().map(row),
        "The store has no version of the state yet.",
    )
}

fn listed(list: &Value) -> String {
    let rows = table::items(list).iter().map(|one| {
        let id = table::text(one, "/id");
        vec![table::text(one, "/address"), remarks(one), if id.chars().count() > 40 { cut(&id) } else { id }]
    });
    table::rows(&["ADDRESS", "NOTE", "ID"], rows, "The state has no resources.")
}

fn cut(text: &str) -> String {
    format!("{}…", text.chars().take(39).collect::<String>())
}

fn remarks(one: &Value) -> String {
    let deposed = table::text(one, "/deposed");
    let notes = [
        (table::text(one, "/mode") == "data").then(|| "data".to_owned()),
        (one["tainted"] == true).then(|| "tainted".to_owned()),
        (!deposed.is_empty()).then(|| format!("deposed {deposed}")),
    ];
    notes.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn shown(list: &Value) -> String {
    let one = |one: &Value| {
        let mut text = format!("# {} ({})", table::text(one, "/address"), table::text(one, "/provider"));
        let notes = remarks(one);
        if !notes.is_empty() {
            text.push_str(&format!(": {notes}"));
        }
        text.push('\n');
        match one.get("attributes") {
            Some(attributes) => text.push_str(&yaml::to_string(attributes)),
            None => text.push_str(&format!("[{} bytes left out]\n", table::text(one, "/left_out_bytes"))),
        }
        text
    };
    table::items(list).iter().map(one).collect::<Vec<_>>().join("\n")
}

/// What is known of a lock, and what can be done.
fn lock(stack: &str, known: &Value) -> String {
    let (is_found, verdict) = (!known["lock"].is_null(), table::text(known, "/holder/verdict"));
    if !is_found && verdict.is_empty() {
        return "No job of the stack has found its state locked since one had the lock.\n".to_owned();
    }
    let id = if is_found { table::text(known, "/lock/id") } else { "not known".to_owned() };
    let job = match table::text(known, "/holder/job") {
        none if none.is_empty() => "JOB".to_owned(),
        job => job,
    };
    let (verdict, what) = match (verdict.as_str(), is_found) {
        ("live", _) => ("live", format!("Wait for it, or stop it: `runnerctl job cancel {job}`.")),
        ("dead", true) => ("dead", format!("Remove it: `runnerctl state unlock {stack} {id} --reason TEXT`.")),
        ("dead", false) => {
            ("dead", "If it has left the lock, the next job of the stack says so, and its id.".to_owned())
        }
        (_, true) => (
            "cannot tell",
            format!(
                "Ask whoever holds it. If nobody is at work: `runnerctl state unlock {stack} {id} --reason TEXT --force`."
            ),
        ),
        (_, false) => ("cannot tell", format!("Look at its runner, and at the job: `runnerctl job show {job}`.")),
    };
    let fields = [
        ("lock", id),
        ("path", table::text(known, "/lock/path")),
        ("of", table::text(known, "/lock/who")),
        ("for", table::text(known, "/lock/operation")),
        ("since", table::text(known, "/lock/created")),
        ("found by", table::text(known, "/found_by")),
        ("asked by", table::text(known, "/asked_by")),
        ("holder", verdict.to_owned()),
        ("job", table::text(known, "/holder/job")),
        ("by", table::text(known, "/holder/person")),
        ("runner", table::text(known, "/holder/runner")),
        ("instance", table::text(known, "/holder/instance_id")),
        ("machine", table::text(known, "/holder/host")),
        ("unheard since", table::moment(known, "/holder/silent_since_ms")),
        ("evidence", table::text(known, "/holder/evidence")),
    ];
    let fields = table::fields(fields.into_iter().filter(|(_, value)| !value.is_empty()));
    format!("{fields}{what}\n")
}

fn output_row((name, output): (&String, &Value)) -> Vec<String> {
    let value = match &output["value"] {
        _ if output["sensitive"] == true => "(sensitive)".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    vec![name.clone(), value]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::{answer, api, silent};
    use crate::interrupt::Interrupt;
    use crate::output::{Format, Output};

    #[tokio::test]
    async fn what_a_read_waits_for_is_said() {
        let client = api(|asked| match asked.path.contains("/events") {
            // nothing is ever told
            true => silent(),
            false => {
                let waits_for =
                    json!({"reason": "job", "job": "job_1", "phase": "awaiting_approval", "since_ms": 1000});
                answer(200, &json!({"id": "job_2", "phase": "pending", "waits_for": waits_for}).to_string())
            }
        })
        .await;
        let session =
            Session { client, output: Output::new(Format::Table), runner: None, interrupt: Interrupt::listen() };
        let (tell, mut said) = tokio::sync::mpsc::unbounded_channel();
        let waiting = |why: &str| tell.send(why.to_owned()).expect("is heard");
        tokio::select! {
            ended = told(&session, "job_2", waiting) => panic!("it ended: {:?}", ended.err()),
            why = said.recv() => {
                let why = why.expect("is said");
                assert!(why.starts_with("waits for job job_1") && why.contains("`runnerctl job approve job_1`"), "{why}");
            }
        }
    }

    #[tokio::test]
    async fn a_runner_that_is_not_the_stacks_is_refused() {
        let client = api(|asked| match asked.path.as_str() {
            "/api/v1/stacks/own" => answer(200, r#"{"name": "own", "runner": "one"}"#),
            "/api/v1/stacks/usual" => answer(200, r#"{"name": "usual", "runner": null}"#),
            "/api/v1/runners/rnr_1" => answer(200, r#"{"id": "rnr_1", "name": "one", "default": false}"#),
            "/api/v1/runners/two" => answer(200, r#"{"id": "rnr_2", "name": "two", "default": true}"#),
            "/api/v1/runners/one" => answer(200, r#"{"id": "rnr_1", "name": "one", "default": false}"#),
            _ => answer(404, r#"{"error": {"code": "not_found", "message": "there is none"}}"#),
        })
        .await;
        for (stack, runner) in [("own", "one"), ("own", "rnr_1"), ("usual", "two")] {
            assert_eq!(has_runner(&client, stack, runner).await, Ok(()), "{stack} {runner}");
        }
        for (stack, runner, own) in [("own", "two", "runner one"), ("usual", "one", "default runner")] {
            let failure = has_runner(&client, stack, runner).await.expect_err(runner);
            assert_eq!(failure.code, Code::InvalidArgument);
            let next = format!("stack update {stack} --runner {runner}");
            assert!(failure.message.contains(own) && failure.next_step.contains(&next), "{failure}");
        }
        assert_eq!(has_runner(&client, "own", "gone").await.map_err(|f| f.code), Err(Code::NotFound));
    }

    fn resource() -> v1::StateResource {
        v1::StateResource {
            address: "module.m.t.n[0]".into(),
            mode: "managed".into(),
            provider: "p".into(),
            id: "i".repeat(60),
            tainted: true,
            attributes: r#"{"id":"i","password":"(sensitive)"}"#.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_state_is_a_table_and_a_resource_its_attributes() {
        let list = listed(&json!({ "items": [document(&resource(), false)] }));
        assert!(list.contains("module.m.t.n[0]   tainted") && list.contains('…'), "{list}");
        assert!(document(&resource(), false).get("attributes").is_none());
        let text = shown(&json!({ "items": [document(&resource(), true)] }));
        assert!(
            text.starts_with("# module.m.t.n[0] (p): tainted\n") && text.contains("password: \"(sensitive)\""),
            "{text}"
        );
        let large = v1::StateResource { attributes: String::new(), left_out: 70_000, ..resource() };
        assert!(shown(&json!({ "items": [document(&large, true)] })).contains("[70000 bytes left out]"));
    }

    #[test]
    fn what_is_known_of_a_lock_says_what_to_do() {
        assert!(lock("s", &json!({ "lock": null })).starts_with("No job"));
        for (verdict, next) in [
            ("live", "job cancel"),
            ("dead", "unlock s L1 --reason TEXT`"),
            ("cannot_tell", "unlock s L1 --reason TEXT --force`"),
        ] {
            let text = lock("s", &json!({ "lock": { "id": "L1" }, "holder": { "verdict": verdict, "evidence": "e" } }));
            assert!(text.contains(next), "{text}");
        }
        // its holder is known before anybody has found it
        let holder = |verdict: &str| {
            json!({ "verdict": verdict, "evidence": "e", "job": "job_1", "person": "ann", "runner": "r", "host": "vm",
                    "silent_since_ms": if verdict == "cannot_tell" { json!(1_000) } else { Value::Null } })
        };
        for (verdict, next) in
            [("live", "job cancel job_1"), ("dead", "the next job"), ("cannot_tell", "job show job_1")]
        {
            let text = lock("s", &json!({ "lock": null, "holder": holder(verdict) }));
            assert!(text.contains(next) && text.contains("ann") && text.contains("vm"), "{text}");
            assert!(!text.contains("unlock"), "{text}");
            assert_eq!(text.contains("unheard since"), verdict == "cannot_tell", "{text}");
        }
    }

    #[test]
    fn outputs_are_rows() {
        let row = |output: Value| output_row((&"o".to_owned(), &output)).remove(1);
        assert_eq!(row(json!({ "value": "a b" })), "a b");
        assert_eq!(row(json!({ "value": [1, "x"] })), "[1,\"x\"]");
        assert_eq!(row(json!({ "value": null, "sensitive": true })), "(sensitive)");
    }
}
