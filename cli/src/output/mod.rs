//! What commands give: one document on standard output, as a table, JSON or YAML. Progress, questions and errors go to standard
//! error, never here. Text from outside is made harmless for a terminal (`escape`).

pub(crate) mod escape;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod yaml;

use crate::stop::{self, Done};
use serde_json::Value;
use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people, with more columns.
    Wide,
    /// For programs.
    Json,
    /// For people and programs.
    Yaml,
    /// Kinds and names only, of `k8s get` and the like
    Name,
}

/// Where and how results are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// `-o`
    pub(crate) format: Format,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
    /// Colours may be used on standard output.
    pub(crate) colour: bool,
}

// === impl Output ===

/// Whether the user wants none (no-color.org).
fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

/// Whether what goes wrong is said in colours.
pub(crate) fn colours_errors() -> bool {
    std::io::stderr().is_terminal() && !no_colour()
}

/// A remark on standard error, dim where a terminal shows it: what a person may want to know, and nobody has asked for.
pub(crate) fn remark(text: &str) {
    let (dim, end) = if colours_errors() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    eprintln!("{dim}· {}{end}", escape::line(text));
}

impl Output {
    /// By the flag, the terminal and NO_COLOR.
    pub(crate) fn new(format: Format) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { format, terminal, colour: terminal && !no_colour() }
    }
    /// Writes a document: as it is for JSON and YAML, by `table` for people.
    pub(crate) fn document(&self, value: &Value, table: impl FnOnce(&Value) -> String) -> Done {
        let text = match self.format {
            Format::Table | Format::Wide | Format::Name => table(value),
            Format::Json => serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
            Format::Yaml => yaml::to_string(value),
        };
        self.text(&text)
    }
    /// Writes text, made harmless where people read it.
    pub(crate) fn text(&self, text: &str) -> Done {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&self.shown(text)).and_then(|()| stdout.flush()).map_err(stop::stdout)
    }
    /// Text as it is written. What is for people is harmless wherever it goes: a file or a pager shows it on a terminal later. What is for
    /// programs is as it is, unless a terminal shows it at once.
    fn shown<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        match self.format {
            Format::Json | Format::Yaml if !self.terminal => text.as_bytes().into(),
            _ => escape::text(text.as_bytes(), self.colour).into(),
        }
    }
    /// Writes one line.
    pub(crate) fn line(&self, line: &str) -> Done {
        self.text(&format!("{line}\n"))
    }
}

/// The standard streams for streaming: written and read on threads of their own, so that a reader that stopped reading holds
/// nothing but its stream.
pub(crate) mod streams {
    use shared_proto::failure::{Code, Failure};
    use std::os::fd::AsFd;
    use tokio::fs::File;

    fn open(stream: &impl AsFd) -> Result<File, Failure> {
        let own = stream.as_fd().try_clone_to_owned();
        own.map(|fd| File::from_std(fd.into())).map_err(|e| Code::Internal.on(format!("a standard stream: {e}")))
    }
    /// Standard output.
    pub(crate) fn stdout() -> Result<File, Failure> {
        open(&std::io::stdout())
    }
    /// Standard error.
    pub(crate) fn stderr() -> Result<File, Failure> {
        open(&std::io::stderr())
    }
    /// Standard input.
    pub(crate) fn stdin() -> Result<File, Failure> {
        open(&std::io::stdin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read_is_harmless_wherever_it_goes() {
        let words = "\u{1b}]0;owned\u{7}\u{1b}[2J\0 \u{1b}[31mred\u{1b}[0m\n";
        let shown = |format, terminal| Output { format, terminal, colour: terminal }.shown(words).into_owned();
        for format in [Format::Table, Format::Wide] {
            assert_eq!(shown(format, false), b"^[]0;owned^G^[[2J^@ red\n");
            assert_eq!(shown(format, true), b"^[]0;owned^G^[[2J^@ \x1b[31mred\x1b[0m\n\x1b[0m");
        }
        for format in [Format::Json, Format::Yaml] {
            assert_eq!(shown(format, false), words.as_bytes());
        }
    }
}
