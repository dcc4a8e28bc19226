//! `runner audit compare`: the log beside what the control plane keeps of the same operations.
//!
//! Each side writes down by itself what was asked. What one has and the other lacks, and what the two tell differently, is for somebody to look
//! into: of an operation that the runner served the control plane has to know, and the other way round.

use super::audit::no_input;
use super::out;
use crate::audit::{self, Decision, Filter, Kind, Line, Record};
use crate::exit;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The longest file of the control plane's records that is read, bytes: it keeps 10,000 of an organization.
const FILE_MAX: u64 = 64 << 20;
/// Operations of the log that are held at once.
const OPERATIONS_MAX: usize = 1_000_000;
/// How many differences, and how many notes, are told in full. More are counted.
const TOLD_MAX: usize = 200;
/// How far the two clocks may be apart, seconds, where nobody says.
const MARGIN_S: u64 = 60;
/// What an operation is told to have ended by where its end did not arrive, or may not have: the two ends see that differently.
const ON_THE_WAY: [&str; 4] = ["connection_lost", "cancelled", "deadline_exceeded", "runner_leaving"];
/// What the control plane, or a runner before it has decided, says of an operation that never was: no log has those.
const NEVER_ASKED: [&str; 10] = [
    "connection_lost",
    "cancelled",
    "deadline_exceeded",
    "runner_leaving",
    "runner_unavailable",
    "no_runner",
    "busy",
    "too_large",
    "audit_unavailable",
    "internal",
];

/// What the control plane keeps of operations, as `runnerctl operation list -o json` prints it.
#[derive(Debug, Default, Deserialize)]
struct Kept {
    items: Vec<KeptOperation>,
    /// When it was asked; nothing where an older one was.
    #[serde(default)]
    at_ms: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct KeptOperation {
    id: String,
    kind: String,
    /// The entry of the runner's configuration; nothing where an older control plane wrote it down.
    entry: Option<String>,
    user: String,
    runner_id: Option<String>,
    started_at_ms: i64,
    code: Option<String>,
    isolation_level: Option<String>,
}

/// What the log has of one.
#[derive(Debug, Clone, Default)]
struct Logged {
    user: String,
    kind: String,
    connection: String,
    at_ms: i64,
    code: Option<String>,
    decisions: u32,
}

/// Both sides of what is compared.
#[derive(Debug, Default)]
struct Sides {
    log: BTreeMap<String, Logged>,
    /// Times of the log's first and last record.
    span: Option<(i64, i64)>,
    kept: Kept,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Outcome {
    /// Operations that both have.
    both: u64,
    /// From when to when both would have them, Unix milliseconds; nothing where there is no such time.
    between_ms: Option<(i64, i64)>,
    differences: Vec<Difference>,
    more_differences: u64,
    notes: Vec<Note>,
    more_notes: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Difference {
    operation: String,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
enum What {
    /// The control plane has it and the log has nothing of it.
    NotInTheLog { kind: String, user: String, code: String },
    /// The log has it and the control plane has nothing of it.
    NotKept { kind: String, user: String },
    /// The two tell it differently.
    Differs { of: &'static str, log: String, kept: String },
    /// The log has more decisions than one about it: it was sent again.
    AskedAgain { times: u32 },
}

/// Something to know that is no difference: its way was cut, and each end saw another end of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Note {
    operation: String,
    log: String,
    kept: String,
}

pub(super) fn command(command: Command) -> Command {
    command
        .about("The log beside the control plane's records: operations that one side lacks, or that the two tell differently")
        .after_help(
            "Exits 0 when they agree, 1 when they do not, 66 when there is nothing to compare. Verify the log first: what was changed in it \
             is compared as it stands.",
        )
        .arg(
            Arg::new("kept")
                .long("with")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("What `runnerctl operation list --all -o json` printed"),
        )
        .arg(
            Arg::new("margin")
                .long("margin")
                .value_name("SECONDS")
                .value_parser(clap::value_parser!(u64).range(..=86_400))
                .help(format!("How far the two clocks may be apart [default: {MARGIN_S}]")),
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Files of the logs of all instances of the runner; else the log in the state directory"),
        )
}

/// `runner audit compare`.
pub(super) fn run(folder: &Path, matches: &ArgMatches, as_json: bool) -> Result<i32, Failure> {
    let files: Vec<_> = matches.get_many::<PathBuf>("files").into_iter().flatten().collect();
    let mut sides = Sides { kept: kept(matches.get_one::<PathBuf>("kept"))?, ..Sides::default() };
    let runner = match files.first() {
        None => audit::runner_of(folder)?,
        Some(file) => audit::runner_of_file(file)?,
    };
    sides.kept.items.retain(|one| one.runner_id.as_ref().is_none_or(|id| *id == runner));
    if files.is_empty() {
        for line in audit::tail(folder, usize::MAX, false, Filter::default())? {
            sides.take(&line?)?;
        }
    }
    for file in files {
        for line in audit::lines_of(file)? {
            sides.take(&line?)?;
        }
    }
    let margin = matches.get_one::<u64>("margin").copied().unwrap_or(MARGIN_S);
    let outcome = sides.compare(i64::try_from(margin).unwrap_or(i64::MAX / 1000) * 1000);
    out(&if as_json { serde_json::to_string(&outcome).unwrap_or_default() } else { outcome.to_string() });
    Ok(match (outcome.differences.is_empty(), outcome.both) {
        (false, _) => exit::GENERAL,
        (true, 0) if outcome.between_ms.is_none() => exit::NO_INPUT,
        (true, _) => 0,
    })
}

fn kept(path: Option<&PathBuf>) -> Result<Kept, Failure> {
    let path = path.cloned().unwrap_or_default();
    let wrong = |what: String| {
        let failure = Code::InvalidArgument.on(format!("{}: {what}", path.display()));
        failure.next("Give it what `runnerctl operation list -o json` prints.")
    };
    let mut text = String::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text))
        .map_err(|e| no_input(&path, &e))?;
    if text.len() as u64 > FILE_MAX {
        return Err(wrong(format!("it is longer than {FILE_MAX} bytes")));
    }
    serde_json::from_str(&text)
        .map_err(|e| wrong(format!("it is not what `runnerctl operation list -o json` prints: {e}")))
}

/// A time of the log in Unix milliseconds.
fn millis(time: &str) -> Option<i64> {
    let at = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

// === impl Sides ===

impl Sides {
    /// Takes a line of the log.
    fn take(&mut self, line: &Line) -> Result<(), Failure> {
        if let Some(at) = millis(&line.time) {
            let (from, to) = self.span.unwrap_or((at, at));
            self.span = Some((from.min(at), to.max(at)));
        }
        let Some(record) = line.record() else { return Ok(()) };
        let Record { kind, operation: Some(id), decision, code, user_name, action, connection, .. } = record else {
            return Ok(());
        };
        if self.log.len() >= OPERATIONS_MAX && !self.log.contains_key(&id) {
            let message = format!("the log has more than {OPERATIONS_MAX} operations: name fewer of its files");
            return Err(Code::InvalidArgument.on(message).next("Name them, those of some days at a time."));
        }
        match kind {
            Kind::Decision => {
                let logged = self.log.entry(id).or_default();
                logged.decisions += 1;
                logged.at_ms = millis(&line.time).unwrap_or_default();
                logged.user = user_name.unwrap_or_default();
                logged.kind = action.unwrap_or_default();
                logged.connection = connection.unwrap_or_default();
                if decision == Some(Decision::Deny) {
                    logged.code = code;
                }
            }
            // of one whose decision is in a file that is not here there is nothing to compare
            Kind::End => drop(self.log.get_mut(&id).map(|logged| logged.code = code)),
            Kind::Recording | Kind::RecordingRemoved | Kind::Change => {}
        }
        Ok(())
    }

    /// Compares; what one side lacks counts between the times at which both would have it, by that margin.
    fn compare(&self, margin_ms: i64) -> Outcome {
        let mut outcome = Outcome::default();
        let oldest = self.kept.items.iter().map(|one| one.started_at_ms).min();
        let newest = self.kept.at_ms.or_else(|| self.kept.items.iter().map(|one| one.started_at_ms).max());
        if let (Some((first, last)), Some(oldest), Some(newest)) = (self.span, oldest, newest) {
            let between = (first.max(oldest), last.min(newest));
            outcome.between_ms = Some(between).filter(|(from, to)| from <= to);
        }
        let both_would =
            |at: i64| outcome.between_ms.is_some_and(|(from, to)| (from + margin_ms..=to - margin_ms).contains(&at));
        let mut differences = Vec::new();
        let mut notes = Vec::new();
        let mut known = BTreeSet::new();
        for kept in &self.kept.items {
            known.insert(kept.id.as_str());
            match self.log.get(&kept.id) {
                Some(logged) => {
                    outcome.both += 1;
                    differences.extend(logged.differs(kept));
                    notes.extend(logged.ended_apart(kept));
                }
                None if kept.was_asked() && both_would(kept.started_at_ms) => {
                    let code = kept.code.clone().unwrap_or_else(|| "(running)".to_owned());
                    let what = What::NotInTheLog { kind: kept.kind.clone(), user: kept.user.clone(), code };
                    differences.push(Difference { operation: kept.id.clone(), what });
                }
                None => {}
            }
        }
        for (id, logged) in &self.log {
            let mut find = |what| differences.push(Difference { operation: id.clone(), what });
            // one whose id is none was never the control plane's to keep by it
            if logged.decisions > 1 {
                find(What::AskedAgain { times: logged.decisions });
            }
            if !known.contains(id.as_str()) && both_would(logged.at_ms) {
                find(What::NotKept { kind: logged.kind.clone(), user: logged.user.clone() });
            }
        }
        outcome.more_differences = differences.len().saturating_sub(TOLD_MAX) as u64;
        outcome.more_notes = notes.len().saturating_sub(TOLD_MAX) as u64;
        differences.truncate(TOLD_MAX);
        notes.truncate(TOLD_MAX);
        Outcome { differences, notes, ..outcome }
    }
}

// === impl KeptOperation ===

impl KeptOperation {
    /// Whether a runner has decided on it for certain.
    fn was_asked(&self) -> bool {
        match &self.code {
            // a worker had it
            _ if self.isolation_level.is_some() => true,
            None => false,
            Some(code) => !NEVER_ASKED.contains(&code.as_str()),
        }
    }
}

// === impl Logged ===

impl Logged {
    fn differs(&self, kept: &KeptOperation) -> Vec<Difference> {
        let pairs = [
            ("user", self.user.as_str(), Some(kept.user.as_str())),
            ("kind", self.kind.as_str(), Some(kept.kind.as_str())),
            ("connection", self.connection.as_str(), kept.entry.as_deref()),
        ];
        let differs = |(of, log, kept): (&'static str, &str, Option<&str>)| {
            let kept = kept.filter(|kept| *kept != log)?;
            Some(What::Differs { of, log: log.to_owned(), kept: kept.to_owned() })
        };
        let code = match (&self.code, &kept.code) {
            (Some(log), Some(code)) if log != code && !on_the_way(log, code) => {
                Some(What::Differs { of: "code", log: log.clone(), kept: code.clone() })
            }
            _ => None,
        };
        let all = pairs.into_iter().filter_map(differs).chain(code);
        all.map(|what| Difference { operation: kept.id.clone(), what }).collect()
    }

    /// Two ends of one that was cut on its way, or one that the runner has no end of.
    fn ended_apart(&self, kept: &KeptOperation) -> Option<Note> {
        let code = kept.code.clone()?;
        let log = self.code.clone();
        if log.as_ref().is_some_and(|log| *log == code || !on_the_way(log, &code)) {
            return None;
        }
        Some(Note { operation: kept.id.clone(), log: log.unwrap_or_else(|| "(no end)".to_owned()), kept: code })
    }
}

fn on_the_way(log: &str, kept: &str) -> bool {
    ON_THE_WAY.contains(&log) || ON_THE_WAY.contains(&kept)
}

// === impl Outcome ===

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |ms: i64| shared_proto::identity::rfc3339(ms / 1000);
        match self.between_ms {
            Some((from, to)) => writeln!(f, "both sides reach from {} to {}", shown(from), shown(to))?,
            None => writeln!(f, "there is no time that both sides reach over: what one of them lacks is not told")?,
        }
        writeln!(f, "operations that both have: {}", self.both)?;
        for difference in &self.differences {
            writeln!(f, "  DIFFERENT {}: {}", difference.operation, difference.what)?;
        }
        if self.more_differences > 0 {
            writeln!(f, "  DIFFERENT and {} more", self.more_differences)?;
        }
        for Note { operation, log, kept } in &self.notes {
            writeln!(f, "  note {operation}: cut on its way: {log} by the log, {kept} by the control plane")?;
        }
        if self.more_notes > 0 {
            writeln!(f, "  note and {} more", self.more_notes)?;
        }
        let differ = self.differences.len() as u64 + self.more_differences;
        if differ == 0 { write!(f, "they agree") } else { write!(f, "they do NOT agree: {differ} differences") }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInTheLog { kind, user, code } => {
                write!(f, "the log has nothing of it; the control plane has {kind} by {user:?}, which ended {code}")
            }
            Self::NotKept { kind, user } => {
                write!(f, "the control plane has nothing of it; the log has {kind} by {user:?}")
            }
            Self::Differs { of, log, kept } => write!(f, "{of} is {log:?} by the log, {kept:?} by the control plane"),
            Self::AskedAgain { times } => write!(f, "the log has {times} decisions about it"),
        }
    }
}

#[cfg(test)]
mod tests;
