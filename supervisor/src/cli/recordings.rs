//! `runner audit recordings` and `runner audit play`: what was recorded of terminals, and how it looked.

use super::audit::{no_input, refused};
use super::{new_file, out};
use crate::audit::recording::{Decrypted, RecipientKey, RecordingError, decrypt};
use crate::audit::{self, Digest, Filter, Record, Shelf, Shelved};
use crate::exit;
use clap::{Arg, ArgMatches, Command};
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

/// The longest file of a private key that is read, bytes.
const KEY_FILE_MAX: u64 = 4096;

/// One line of the list.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    file: String,
    operation: String,
    /// Nothing where the file is gone.
    bytes: Option<u64>,
    ms: Option<u64>,
    state: State,
    /// What the log says beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// How a file stands to what the log says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is what was recorded.
    AsRecorded,
    /// It is another than was recorded.
    Changed,
    /// The log has it, and nothing of its removal.
    Missing,
    /// The log has nothing of it, or no more.
    NotInTheLog,
    /// It has not ended: it is being made, or its runner was killed and has not been there since.
    NotEnded,
}

pub(super) fn list_command(command: Command) -> Command {
    command
        .about("The recordings of terminals, and whether each is what was recorded")
        .after_help("Exits 0, or 1 where one was changed or is missing.")
}

pub(super) fn play_command(command: Command) -> Command {
    let path = || clap::value_parser!(PathBuf);
    command
        .about("Decrypts a recording into asciicast v2, for `asciinema play` and whatever else reads that")
        .after_help("Exits 0 when it is whole and as the log has it, 1 when it is not, 66 when it is not there.")
        .arg(
            Arg::new("recording")
                .value_name("FILE")
                .required(true)
                .value_parser(path())
                .help("As `runner audit recordings` names it, or the path of a copy"),
        )
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("FILE")
                .required(true)
                .value_parser(path())
                .help("The private key, as `openssl genpkey -algorithm X25519` makes it"),
        )
        .arg(
            Arg::new("out")
                .short('o')
                .long("out")
                .value_name("FILE")
                .value_parser(path())
                .help("A new file to write it to, mode 0600; else standard output"),
        )
}

/// `runner audit recordings`.
pub(super) fn list(log: &Path, as_json: bool) -> Result<i32, Failure> {
    let shown = look(log)?;
    let bad = shown.iter().any(|one| matches!(one.state, State::Changed | State::Missing));
    if as_json {
        out(&serde_json::to_string(&shown).unwrap_or_default());
    } else if shown.is_empty() {
        out("no recordings");
    } else {
        let lines = shown.iter().map(|one| {
            let seconds = one.ms.map_or_else(|| "-".to_owned(), |ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100));
            let bytes = one.bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes} bytes"));
            let detail = one.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            format!("{}  {bytes}  {seconds}  {}{detail}", one.file, one.state.as_str())
        });
        out(&lines.collect::<Vec<_>>().join("\n"));
    }
    Ok(if bad { exit::GENERAL } else { 0 })
}

/// The recordings beside what the log says of them.
fn look(log: &Path) -> Result<Vec<Shown>, Failure> {
    // before the log: what ends meanwhile is in it
    let there = Shelf::of(log).list().map_err(|e| refused(format!("the folder of recordings: {e}")))?;
    let mut told = told(log)?;
    let mut shown = Vec::new();
    for one in there {
        let record = told.remove(&one.name);
        let state = match &record {
            _ if !one.has_ended => State::NotEnded,
            None => State::NotInTheLog,
            Some(record) if record.digest == Some(one.digest()?.to_string()) => State::AsRecorded,
            Some(_) => State::Changed,
        };
        let Record { ms, detail, .. } = record.unwrap_or_default();
        shown.push(Shown { file: one.name, operation: one.operation, bytes: Some(one.bytes), ms, state, detail });
    }
    let missing = told.into_iter().map(|(file, record)| Shown {
        file,
        operation: record.operation.unwrap_or_default(),
        bytes: None,
        ms: record.ms,
        state: State::Missing,
        detail: record.detail,
    });
    shown.extend(missing);
    shown.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(shown)
}

/// What the log says of each recording that it does not say is removed.
fn told(log: &Path) -> Result<BTreeMap<String, Record>, Failure> {
    let mut told = BTreeMap::new();
    for line in audit::tail(log, usize::MAX, false, Filter::default())? {
        let line = line?;
        let Some(record) = line.record() else { continue };
        match (record.kind, record.file.clone()) {
            (audit::Kind::Recording, Some(file)) => drop(told.insert(file, record)),
            (audit::Kind::RecordingRemoved, Some(file)) => drop(told.remove(&file)),
            _ => {}
        }
    }
    Ok(told)
}

/// `runner audit play`.
pub(super) fn play(log: &Path, matches: &ArgMatches) -> Result<i32, Failure> {
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    let key = private_key(&path("key"))?;
    let named = path("recording");
    let at = match Shelf::of(log).list() {
        Ok(there) if !named.exists() => there.into_iter().find(|one| Path::new(&one.name) == named).map(|one| one.path),
        _ => None,
    };
    let at = at.unwrap_or(named);
    let from = File::open(&at).map_err(|e| no_input(&at, &e))?;
    let done = match matches.get_one::<PathBuf>("out") {
        None => decrypt(io::BufReader::new(from), io::stdout().lock(), &key),
        Some(to) => {
            let file = new_file(to)?;
            decrypt(io::BufReader::new(from), io::BufWriter::new(file), &key)
        }
    };
    let read = done.map_err(|e| {
        let message = format!("{}: {e}", at.display());
        match e {
            RecordingError::OtherKey(_) | RecordingError::Key(_) => {
                Code::InvalidArgument.on(message).next("Give the private half of the key that it is encrypted to.")
            }
            RecordingError::Io(_) => refused(message),
            _ => Code::TargetRefused.on(message).next("Compare its SHA-256 with the log's: `runner audit recordings`."),
        }
    })?;
    let known = Shelved::at(at).and_then(|one| Some(told(log).ok()?.remove(&one.name)?.digest));
    let (said, good) = judged(read, known.as_ref().map(Option::as_deref));
    // beside the cast
    let _ = writeln!(io::stderr(), "runner: {said}");
    Ok(if good { 0 } else { exit::GENERAL })
}

/// What is to be said of a recording that was read; `known`: what the log has for its digest, where it has anything of it.
fn judged(read: Decrypted, known: Option<Option<&str>>) -> (String, bool) {
    let whole = if read.is_whole { "whole" } else { "NOT whole: it ends before the session did" };
    let digest: Digest = read.sha256;
    let (log, good) = match known {
        Some(Some(known)) if known == digest.to_string() => ("as the log here has it", true),
        Some(_) => ("and the log here has ANOTHER", false),
        None => ("compare it with the log's: there is nothing of it in one here", true),
    };
    (format!("{whole}; {} bytes; SHA-256 {digest}, {log}", read.bytes), good && read.is_whole)
}

fn private_key(path: &Path) -> Result<RecipientKey, Failure> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(KEY_FILE_MAX).read_to_string(&mut text))
        .map_err(|e| no_input(path, &e))?;
    RecipientKey::from_pem(&text).map_err(|e| {
        Code::InvalidArgument.on(format!("{}: {e}", path.display())).next("Give the file of the private key.")
    })
}

// === impl State ===

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AsRecorded => "as recorded",
            Self::Changed => "CHANGED",
            Self::Missing => "MISSING",
            Self::NotInTheLog => "not in the log",
            Self::NotEnded => "not ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::recording::{Event, Header};
    use crate::audit::{Audit, Kind, Options, Wait};
    use bytes::Bytes;
    use std::time::Instant;

    #[test]
    fn what_was_changed_or_taken_away_is_told_from_what_was_removed() {
        let log = tempfile::tempdir().expect("a folder");
        let key = RecipientKey::generate().expect("makes");
        let (audit, _) = Audit::open(log.path(), Options::new("run_1", "i_1")).expect("opens");
        let shelf = Shelf::of(log.path());
        let begin = |operation: &str| {
            let to = key.recipient().expect("public");
            shelf.begin(operation, to, &Header::default(), u64::MAX).expect("begins")
        };
        let record = |kind: Kind, file: &str, digest: Option<String>| {
            let record = Record { kind, file: Some(file.to_owned()), digest, ..Record::default() };
            audit.record_blocking(record, Wait::Written).expect("writes");
        };
        for operation in ["op_good", "op_changed", "op_gone", "op_removed"] {
            let mut recorder = begin(operation);
            recorder.put(Instant::now(), &Event::Output(Bytes::from_static(b"$ "))).expect("records");
            let recorded = recorder.finish().expect("ends");
            let one = Shelved::at(recorded.path.clone()).expect("its name");
            record(Kind::Recording, &one.name, Some(recorded.sha256.to_string()));
            shelf.end(&one).expect("renames");
            let path = recorded.path.with_extension("rec");
            match operation {
                "op_changed" => std::fs::write(path, "x").expect("writes"),
                "op_gone" => std::fs::remove_file(path).expect("removes"),
                "op_removed" => {
                    record(Kind::RecordingRemoved, &one.name, None);
                    std::fs::remove_file(path).expect("removes");
                }
                _ => {}
            }
        }
        let strange = Shelved::at("x-op_strange.rec".into()).expect("its name");
        std::fs::write(log.path().join("recordings").join(strange.name), "x").expect("writes");
        let _running = begin("op_running");
        let states: BTreeMap<_, _> = look(log.path())
            .map_err(|e| e.message)
            .expect("reads")
            .into_iter()
            .map(|s| (s.operation, s.state))
            .collect();
        let expected = [
            ("op_changed", State::Changed),
            ("op_good", State::AsRecorded),
            ("op_running", State::NotEnded),
            ("op_strange", State::NotInTheLog),
        ];
        // of what is gone the log has no operation here
        for (operation, state) in expected {
            assert_eq!(states.get(operation), Some(&state), "{operation}: {states:?}");
        }
        assert_eq!((states.len(), states.get("")), (5, Some(&State::Missing)), "{states:?}");
    }

    #[test]
    fn a_recording_is_good_where_it_is_whole_and_the_logs() {
        let sha256 = "ab".repeat(32).parse::<Digest>().expect("a digest");
        let read = |is_whole| Decrypted { sha256, bytes: 7, is_whole };
        let text = sha256.to_string();
        assert!(judged(read(true), Some(Some(&text))).1 && judged(read(true), None).1);
        for (read, known) in
            [(read(false), Some(Some(text.as_str()))), (read(true), Some(Some("other"))), (read(true), Some(None))]
        {
            assert!(!judged(read, known).1, "{known:?}");
        }
    }
}
