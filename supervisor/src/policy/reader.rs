//! TOML with its lines: a table is read key by key, so that whatever is wrong is said with line, rule and key.

use shared_proto::glob::{Glob, PATTERNS_MAX};
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Why a file is no policy, or no list of cases.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It cannot be read.
    #[error("{}: {source}; see to its owner and its mode, the runner's user has to read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The rules for plans beside it.
    #[error(transparent)]
    PlanRules(#[from] shared_proto::rules::FolderError),
    /// It is longer than it may be.
    #[error("{}: it is longer than {most} bytes: patterns with `*` say more in less", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most.
        most: u64,
    },
    /// Something in it is wrong.
    #[error("{}line {line}: {at}{what}", path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default())]
    Wrong {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// The line, from 1.
        line: usize,
        /// Section, rule and key, as far as there are any, and a colon.
        at: String,
        /// What is wrong, and what would be right.
        what: String,
    },
}

/// Where in the file something stands.
#[derive(Debug, Clone)]
pub(super) struct Place<'t> {
    text: &'t str,
    /// Section and rule.
    within: String,
}
/// A table whose keys are all known.
pub(super) struct Keys<'t, 'i> {
    pub(super) place: Place<'t>,
    table: &'t DeTable<'i>,
    span: Range<usize>,
}

// === impl PolicyError ===

impl PolicyError {
    /// The same, of that file.
    #[must_use]
    pub(super) fn of(self, file: &Path) -> Self {
        match self {
            Self::Wrong { line, at, what, .. } => Self::Wrong { path: Some(file.to_owned()), line, at, what },
            other => other,
        }
    }
}

/// The text of a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, PolicyError> {
    let unreadable = |source| PolicyError::Unreadable { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let most = super::FILE_MAX;
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > most {
        return Err(PolicyError::TooLong { path: path.to_owned(), most });
    }
    Ok(Some(text))
}

/// The whole as a table; what is no TOML is said by its line.
pub(super) fn parse(text: &str) -> Result<Spanned<DeTable<'_>>, PolicyError> {
    DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        Place { text, within: String::new() }.wrong(
            at,
            "",
            e.message().split_whitespace().collect::<Vec<_>>().join(" "),
        )
    })
}

// === impl Place ===

impl<'t> Place<'t> {
    pub(super) const fn top(text: &'t str) -> Self {
        Self { text, within: String::new() }
    }
    /// One further in.
    pub(super) fn within(&self, what: &str) -> Self {
        let between = if self.within.is_empty() { "" } else { " " };
        Self { text: self.text, within: format!("{}{between}{what}", self.within) }
    }
    pub(super) fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        before.iter().filter(|b| **b == b'\n').count() + 1
    }
    pub(super) fn wrong(&self, at: usize, key: &str, what: impl Into<String>) -> PolicyError {
        let mut words = self.within.clone();
        if !key.is_empty() {
            words.push_str(if words.is_empty() { "key " } else { ", key " });
            words.push_str(key);
        }
        if !words.is_empty() {
            words.push_str(": ");
        }
        PolicyError::Wrong { path: None, line: self.line(at), at: words, what: what.into() }
    }
}

// === impl Keys ===

impl<'t, 'i> Keys<'t, 'i> {
    /// # Errors
    /// A key that is none of `known`.
    pub(super) fn new(
        place: Place<'t>,
        table: &'t DeTable<'i>,
        span: Range<usize>,
        known: &[&str],
    ) -> Result<Self, PolicyError> {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let shown: String = name.chars().take(64).collect();
                let what = format!("there is no such key here; there are {}", known.join(", "));
                return Err(place.wrong(key.span().start, &format!("{shown:?}"), what));
            }
        }
        Ok(Self { place, table, span })
    }

    /// From a value that has to be a table.
    pub(super) fn of(
        place: Place<'t>,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
        known: &[&str],
    ) -> Result<Self, PolicyError> {
        match value.get_ref() {
            DeValue::Table(table) => Self::new(place, table, value.span(), known),
            other => Err(place.wrong(value.span().start, key, format!("it is {}, it must be a table", kind(other)))),
        }
    }

    pub(super) fn line(&self) -> usize {
        self.place.line(self.span.start)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.table.get(key)
    }

    /// What is wrong with a key, at its line; with none, at the table's.
    pub(super) fn wrong(&self, key: &str, what: impl Into<String>) -> PolicyError {
        let at = self.get(key).map_or(self.span.start, |value| value.span().start);
        self.place.wrong(at, key, what)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'t str>, PolicyError> {
        self.get(key)
            .map(|value| value.get_ref().as_str().ok_or_else(|| self.misshapen(key, value, "a text")))
            .transpose()
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, PolicyError> {
        let flag = |value: &Spanned<DeValue<'i>>| {
            value.get_ref().as_bool().ok_or_else(|| self.misshapen(key, value, "true or false"))
        };
        self.get(key).map(flag).transpose()
    }

    pub(super) fn number(&self, key: &str, least: u32, most: u32) -> Result<Option<u32>, PolicyError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let integer = value.get_ref().as_integer().ok_or_else(|| self.misshapen(key, value, "a whole number"))?;
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| u32::try_from(n).ok());
        match number.filter(|n| (least..=most).contains(n)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, format!("it must be from {least} to {most}"))),
        }
    }

    /// A list of texts, each with its place in the file.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<(&'t str, usize)>>, PolicyError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let array = value.get_ref().as_array().ok_or_else(|| self.misshapen(key, value, "a list of texts"))?;
        if array.len() > PATTERNS_MAX {
            return Err(self.wrong(key, format!("the list has {} entries, the most is {PATTERNS_MAX}", array.len())));
        }
        let text = |entry: &'t Spanned<DeValue<'i>>| match entry.get_ref().as_str() {
            Some(text) => Ok((text, entry.span().start)),
            None => Err(self.misshapen(key, entry, "a text, as is each of the list")),
        };
        array.iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// The same of a rule, where a list of nothing would match nothing.
    pub(super) fn list(&self, key: &str) -> Result<Option<Vec<(&'t str, usize)>>, PolicyError> {
        match self.texts(key)? {
            Some(texts) if texts.is_empty() => {
                Err(self.wrong(key, "the list is empty, so that the rule cannot match; leave the key out for any"))
            }
            texts => Ok(texts),
        }
    }

    /// A list of patterns, each of which `check` may refuse further.
    pub(super) fn patterns<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, PolicyError> {
        let Some(texts) = self.list(key)? else { return Ok(None) };
        let parse = |(text, at): (&str, usize)| parse(text).map_err(|what| self.place.wrong(at, key, what));
        texts.into_iter().map(parse).collect::<Result<_, _>>().map(Some)
    }

    /// A list of patterns of any kind.
    pub(super) fn globs(&self, key: &str) -> Result<Option<Vec<Glob>>, PolicyError> {
        self.patterns(key, Glob::parse)
    }

    /// Tables under a key that is written `[[…]]`.
    pub(super) fn tables(&self, key: &str) -> Result<Vec<&'t Spanned<DeValue<'i>>>, PolicyError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let array = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.misshapen(key, value, "a list of tables, each with [[ ]]"))?;
        Ok(array.iter().collect())
    }

    pub(super) fn misshapen(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> PolicyError {
        self.place.wrong(value.span().start, key, format!("it is {}, it must be {wanted}", kind(value.get_ref())))
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
