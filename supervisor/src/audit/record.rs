//! What a record says, and how much of it fits.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

/// The longest id, bytes: operation, job, user, instance, a group.
pub const ID_MAX: usize = 128;
/// The longest name, bytes: of people and things, verbs, rules, codes.
pub const NAME_MAX: usize = 256;
/// The longest command line, bytes.
pub const COMMAND_MAX: usize = 4096;
/// The longest detail, bytes.
pub const DETAIL_MAX: usize = 1024;
/// How many groups a record names.
pub const GROUPS_MAX: usize = 32;

/// What kind of record it is. The log has kinds of its own beside these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something was asked, and allowed or refused.
    #[default]
    Decision,
    /// What was allowed has ended.
    End,
    /// A terminal was recorded: where, and the digest of the file.
    Recording,
    /// A recording was removed to make room: which, and why.
    RecordingRemoved,
    /// What decisions follow from has changed: configuration, policy, credentials.
    Change,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It was done.
    Allow,
    /// It was refused.
    Deny,
}

/// A record. What is empty or `None` does not stand in the log. A text above its limit is cut there, and [`Record::cut`] tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What kind it is.
    #[serde(skip)]
    pub kind: Kind,
    /// The operation's id, at most [`ID_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The job's id, at most [`ID_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Who asks: the user's id, at most [`ID_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's name, at most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The user's groups, at most [`GROUPS_MAX`] of at most [`ID_MAX`] bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What kind of operation: `list`, `exec`, `logs`, `update` … At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The verb, as the target names it (Kubernetes verb, cloud API action). At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verb: Option<String>,
    /// The cloud's service. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The kind of thing. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The namespace, project, region or stack it is in. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The thing's name. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The container. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The connection. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The provider. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// By which rule. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The runner's instance, at most [`ID_MAX`] bytes; where it is missing, that of the `started` record before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The first command line of an exec, redacted; at most [`COMMAND_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How it ended: a failure code of the runner, or `ok`. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The target's own status (HTTP), or the exit code of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Bytes from the user to the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Bytes from the target to the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// How long it took, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// The file of a recording. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// SHA-256 of what the record is about, in hexadecimal. At most [`NAME_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What else there is to say, redacted; at most [`DETAIL_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The members that were cut, with how many bytes they had (`groups`: how many there were). The log's own; what is given here is lost.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cut: BTreeMap<String, u64>,
}

/// Takes secrets out of a text before it is written: [`Record::command`] and [`Record::detail`] pass through it whole, before they are cut.
/// It is asked by whoever records, on their thread.
#[derive(Clone)]
pub struct Redact(Arc<Replace>);

type Replace = dyn Fn(&str) -> Cow<'_, str> + Send + Sync;

/// Compact JSON in which nothing can make a terminal do something, or look like something else.
struct Plain;

// === impl Kind ===

impl Kind {
    /// Every one.
    pub(super) const ALL: [Self; 5] =
        [Self::Decision, Self::End, Self::Recording, Self::RecordingRemoved, Self::Change];

    /// As it stands in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::End => "end",
            Self::Recording => "recording",
            Self::RecordingRemoved => "recording_removed",
            Self::Change => "change",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

// === impl Record ===

impl Record {
    /// Redacted, with every text within its limit.
    fn bounded(mut self, redact: Option<&Redact>) -> Self {
        let mut cut = BTreeMap::new();
        if let Some(redact) = redact {
            for text in [&mut self.command, &mut self.detail].into_iter().flatten() {
                *text = redact.0(text).into_owned();
            }
        }
        let texts = [
            ("operation", &mut self.operation, ID_MAX),
            ("job", &mut self.job, ID_MAX),
            ("user", &mut self.user, ID_MAX),
            ("user_name", &mut self.user_name, NAME_MAX),
            ("action", &mut self.action, NAME_MAX),
            ("verb", &mut self.verb, NAME_MAX),
            ("service", &mut self.service, NAME_MAX),
            ("resource", &mut self.resource, NAME_MAX),
            ("namespace", &mut self.namespace, NAME_MAX),
            ("name", &mut self.name, NAME_MAX),
            ("container", &mut self.container, NAME_MAX),
            ("connection", &mut self.connection, NAME_MAX),
            ("provider", &mut self.provider, NAME_MAX),
            ("rule", &mut self.rule, NAME_MAX),
            ("instance", &mut self.instance, ID_MAX),
            ("command", &mut self.command, COMMAND_MAX),
            ("code", &mut self.code, NAME_MAX),
            ("file", &mut self.file, NAME_MAX),
            ("digest", &mut self.digest, NAME_MAX),
            ("detail", &mut self.detail, DETAIL_MAX),
        ];
        for (name, text, max) in texts {
            if let Some(text) = text {
                shorten(name, text, max, &mut cut);
            }
        }
        for group in &mut self.groups {
            shorten("group", group, ID_MAX, &mut cut);
        }
        if self.groups.len() > GROUPS_MAX {
            cut.insert("groups".to_owned(), self.groups.len() as u64);
            self.groups.truncate(GROUPS_MAX);
        }
        Self { cut, ..self }
    }

    /// Its members as they stand in a line.
    pub(super) fn fields(self, redact: Option<&Redact>) -> Vec<u8> {
        fields(&self.bounded(redact))
    }
}

/// Of several of one name the longest is told.
fn shorten(name: &str, text: &mut String, max: usize, cut: &mut BTreeMap<String, u64>) {
    if text.len() > max {
        let length = cut.entry(name.to_owned()).or_default();
        *length = (*length).max(text.len() as u64);
        text.truncate(text.floor_char_boundary(max));
    }
}

/// The members of a JSON object, each with a comma before it.
pub(super) fn fields(of: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    // into memory, from texts and numbers: there is nothing that could fail
    let _ = of.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Plain));
    if out.len() < 3 {
        return Vec::new();
    }
    out[0] = b',';
    out.pop();
    out
}

// === impl Redact ===

impl Redact {
    /// By that function.
    pub fn new(by: impl Fn(&str) -> Cow<'_, str> + Send + Sync + 'static) -> Self {
        Self(Arc::new(by))
    }
}

impl fmt::Debug for Redact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redact")
    }
}

// === impl Plain ===

impl serde_json::ser::Formatter for Plain {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.bytes().all(|b| b.is_ascii() && b != 0x7f) {
            return to.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some((at, hidden)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            to.write_all(&rest.as_bytes()[..at])?;
            for unit in hidden.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            rest = &rest[at + hidden.len_utf8()..];
        }
        to.write_all(rest.as_bytes())
    }
}

/// What a terminal obeys, or does not show, or shows other text by: JSON itself escapes only what is below the space.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::super::line::{self, Digest, LINE_MAX, Parts};
    use super::*;

    fn full(text: &str) -> Record {
        let is = |max: usize| Some(text.chars().cycle().take(max).collect::<String>());
        let (id, name) = (is(ID_MAX + 1), is(NAME_MAX + 1));
        Record {
            operation: id.clone(),
            job: id.clone(),
            user: id.clone(),
            user_name: name.clone(),
            groups: vec![id.clone().unwrap_or_default(); GROUPS_MAX + 1],
            action: name.clone(),
            verb: name.clone(),
            service: name.clone(),
            resource: name.clone(),
            namespace: name.clone(),
            name: name.clone(),
            container: name.clone(),
            connection: name.clone(),
            provider: name.clone(),
            decision: Some(Decision::Deny),
            rule: name.clone(),
            instance: id,
            command: is(COMMAND_MAX + 1),
            code: name.clone(),
            status: Some(i32::MIN),
            bytes_in: Some(u64::MAX),
            bytes_out: Some(u64::MAX),
            ms: Some(u64::MAX),
            file: name.clone(),
            digest: name,
            detail: is(DETAIL_MAX + 1),
            ..Record::default()
        }
    }

    #[test]
    fn the_longest_record_fits_into_a_line() {
        for text in ["\0", "\u{7f}", "x", "\"", "\u{202e}", "\u{e0001}"] {
            let mut out = Vec::new();
            let fields = full(text).fields(None);
            let parts =
                Parts { seq: u64::MAX, time: line::now(), kind: "decision", fields: &fields, prev: &Digest::NONE };
            line::build(&mut out, &parts, Some(|_, _: &Digest| "A".repeat(88)));
            assert!(out.len() < LINE_MAX, "{text:?}: {}", out.len());
            out.pop();
            assert!(line::parse(&out).is_ok());
            let read: Record = serde_json::from_slice(&out).expect("reads");
            assert_eq!((read.cut.len(), read.groups.len()), (22, GROUPS_MAX));
        }
    }

    #[test]
    fn both_sides_of_each_limit() {
        let at = Record { command: Some("x".repeat(COMMAND_MAX)), ..Record::default() }.bounded(None);
        assert!(at.cut.is_empty() && at.command.is_some_and(|c| c.len() == COMMAND_MAX));
        let above = Record { command: Some("x".repeat(COMMAND_MAX + 1)), ..Record::default() }.bounded(None);
        assert_eq!(above.cut.get("command"), Some(&(COMMAND_MAX as u64 + 1)));
        assert!(above.command.is_some_and(|c| c.len() == COMMAND_MAX));
        // never within a character
        let wide = Record { user: Some("é".repeat(ID_MAX)), ..Record::default() }.bounded(None);
        assert_eq!(wide.user.map(|u| u.len()), Some(ID_MAX));
        let odd = Record { user: Some(format!("x{}", "é".repeat(ID_MAX))), ..Record::default() }.bounded(None);
        assert_eq!(odd.user.map(|u| u.len()), Some(ID_MAX - 1));
        let groups = Record { groups: vec!["g".to_owned(); GROUPS_MAX], ..Record::default() }.bounded(None);
        assert!(groups.cut.is_empty() && groups.groups.len() == GROUPS_MAX);
    }

    #[test]
    fn a_secret_is_taken_out_before_anything_is_cut() {
        let redact = Redact::new(|text| text.replace("hunter2", "[redacted]").into());
        let start = "x".repeat(COMMAND_MAX - 3);
        let record = Record { command: Some(format!("{start}hunter2")), ..Record::default() };
        let text = String::from_utf8(record.fields(Some(&redact))).expect("text");
        assert!(!text.contains("hun") && text.contains("x[re\""), "{text}");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_stands_in_a_line() {
        let evil = "a\u{1b}[2J\u{9b}31m\u{202e}\u{feff}\r\n\0\u{7f}é😀\u{e0041}b";
        let fields = Record { name: Some(evil.to_owned()), ..Record::default() }.fields(None);
        let text = String::from_utf8(fields).expect("text");
        assert!(!text.chars().any(|c| c.is_control() || is_hidden(c)) && text.contains("é😀"), "{text}");
        let read: Record = serde_json::from_str(&format!("{{{}}}", &text[1..])).expect("reads");
        assert_eq!(read.name.as_deref(), Some(evil));
        assert_eq!(Record::default().fields(None), b"");
    }
}
