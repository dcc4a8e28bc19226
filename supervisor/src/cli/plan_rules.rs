//! The cases of rules for plans: `tests.toml` in their folder, each a plan that lies beside it and what is to be said of it.
//!
//! ```toml
//! [[case]]
//! name = "the database is not destroyed"
//! plan = "plans/destroy.json"     # what `tofu show -json PLAN` gives
//! stack = "prod-shop"
//! expect = "deny"                 # or approve, warn, pass
//! rule = "databases-stay"
//! ```
//! They are judged by the program that judges the plans of jobs.

use serde::Deserialize;
use shared_proto::rules::{Effect, Judgement, Question};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cases, in the folder of the rules.
const FILE: &str = "tests.toml";
/// The longest file of cases, bytes.
const FILE_MAX: u64 = 256 * 1024;

/// A file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    #[serde(default)]
    case: Vec<Case>,
}

/// One of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    plan: PathBuf,
    #[serde(default = "update")]
    kind: String,
    #[serde(default)]
    stack: String,
    #[serde(default)]
    workspace: String,
    #[serde(default)]
    created_by: String,
    expect: Expected,
    /// The rule that has to say it.
    rule: Option<String>,
    /// How many people it has to ask for.
    approvals: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Deny,
    Approve,
    Warn,
    Pass,
}

/// How one came out: its name, whether it is as expected, and a line about it.
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) shown: String,
}

fn update() -> String {
    "update".to_owned()
}

/// Runs the cases of a folder; none where it has no such file. A case whose plan is not there fails, and the others are judged. `worker`: the
/// program that judges.
///
/// # Errors
/// The file, and what is wrong with it.
pub(super) fn run(folder: &Path, set: &str, worker: &Path) -> Result<Vec<Outcome>, String> {
    let path = folder.join(FILE);
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = match read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|e| wrong(&e))?,
    };
    let cases: Cases = toml::from_str(&text).map_err(|e| wrong(&e.to_string().trim_end()))?;
    cases.case.into_iter().map(|case| case.run(folder, set, worker)).collect()
}

fn read(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.len() > FILE_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_MAX} bytes")));
    }
    io::read_to_string(file)
}

impl Case {
    fn run(self, folder: &Path, set: &str, worker: &Path) -> Result<Outcome, String> {
        let question = Question {
            set: set.to_owned(),
            plan: folder.join(&self.plan),
            kind: self.kind,
            stack: self.stack,
            workspace: self.workspace,
            created_by: self.created_by,
        };
        if let Err(e) = std::fs::File::open(&question.plan) {
            let shown = format!("FAIL  {}: {}: {e}", self.name, question.plan.display());
            return Ok(Outcome { name: self.name, passed: false, shown });
        }
        let judgement = ask(worker, &question).map_err(|what| format!("case {:?}: {what}", self.name))?;
        let found = match (judgement.denied, judgement.approvals, judgement.findings.is_empty()) {
            (true, ..) => Expected::Deny,
            (false, 1.., _) => Expected::Approve,
            (false, 0, false) => Expected::Warn,
            (false, 0, true) => Expected::Pass,
        };
        let says = |finding: &shared_proto::rules::Finding| {
            let is_effect = match finding.effect {
                Effect::Deny => self.expect == Expected::Deny,
                Effect::Approve => self.expect == Expected::Approve,
                Effect::Warn => self.expect == Expected::Warn,
            };
            is_effect && self.rule.as_ref().is_some_and(|rule| *rule == finding.rule)
        };
        let passed = found == self.expect
            && (self.rule.is_none() || judgement.findings.iter().any(says))
            && self.approvals.is_none_or(|wanted| wanted == judgement.approvals);
        let said: Vec<_> = judgement
            .findings
            .iter()
            .map(|finding| format!("{} by {} {}", finding.effect.as_str(), finding.rule, finding.address))
            .collect();
        let said = if said.is_empty() { "nothing".to_owned() } else { said.join(", ") };
        let (name, expected) = (self.name, format!("{:?}", self.expect).to_lowercase());
        let by = self.rule.map(|rule| format!(" by {rule}")).unwrap_or_default();
        let people = self.approvals.map(|n| format!(" of {n}")).unwrap_or_default();
        let shown = match passed {
            true => format!("ok    {name}: {said}"),
            false => format!("FAIL  {name}: expected {expected}{by}{people}, got {said}"),
        };
        Ok(Outcome { name, passed, shown })
    }
}

fn ask(worker: &Path, question: &Question) -> Result<Judgement, String> {
    let failed = |e: io::Error| format!("{}: {e}", worker.display());
    let mut child = Command::new(worker)
        .arg("judge")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let json = serde_json::to_string(question).map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(json.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("{}: its answer: {e}", worker.display()))
}
