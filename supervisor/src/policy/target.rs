//! The target of an HTTP request, taken apart without making anything of it: what two readers could read in two ways is refused.
//!
//! Between this runner and whoever serves the request stand a client library, often a load balancer, the API server and its mux. Each of
//! them cleans paths in its own way. A rule holds only if all of them see the request that the rule was asked about.

use std::borrow::Cow;

/// The longest target, bytes.
pub const TARGET_MAX: usize = 64 << 10;
/// The most parameters in a query. Far above it Go's own parser gives up and reads none at all, `watch` neither.
pub const PARAMETERS_MAX: usize = 1024;
/// The most of what was asked that an error repeats, characters.
const SHOWN_MAX: usize = 64;

/// Why a request is not one that can be decided. It is refused whatever the rules say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A method that the API does not know.
    #[error(
        "the method {0:?} is not one of GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS: send one of them, in capitals"
    )]
    Method(String),
    /// Longer than [`TARGET_MAX`].
    #[error("the request's target is {0} bytes long, the most is {TARGET_MAX}: ask for less at once")]
    TooLong(usize),
    /// In absolute form, in authority form, or `*`.
    #[error("the request's target does not begin with `/`: send path and query only, without scheme and host")]
    NotAPath,
    /// A byte that has no place in a target.
    #[error("byte {at} of the request's target is {byte:#04x}: percent-encode it, if it belongs there at all")]
    Byte {
        /// The byte.
        byte: u8,
        /// Its place, from 0.
        at: usize,
    },
    /// There is a `#`.
    #[error("the request's target has a fragment, which is never sent: leave `#` out, or write %23")]
    Fragment,
    /// `//`.
    #[error("the request's path has an empty segment, `//`, which some readers drop and others keep: write one slash")]
    EmptySegment,
    /// `.` or `..`, encoded or not.
    #[error(
        "the request's path has a segment {0:?}, which some readers follow and others keep: write the path that it means"
    )]
    DotSegment(String),
    /// A `%` without two hexadecimal digits.
    #[error("{0:?} has a `%` without two hexadecimal digits behind it: a percent sign itself is %25")]
    Encoding(String),
    /// Not UTF-8 once decoded.
    #[error("{0:?} is not UTF-8 once it is decoded: nothing in the API has such a name")]
    NotUtf8(String),
    /// A character that the name of nothing has, or that readers take for something else.
    #[error("the path's segment {segment:?} has {character:?} in it once decoded: a name there has no such character")]
    Character {
        /// The segment as it came.
        segment: String,
        /// The first such character.
        character: char,
    },
    /// The part of a proxied path is encoded twice.
    #[error(
        "the proxied path's segment {0:?} is encoded twice: who decodes it once more sees another path; encode it once"
    )]
    EncodedTwice(String),
    /// A `;` where some see the end of a parameter.
    #[error(
        "{0:?} has a `;`, at which some readers split and others do not: write `&` between parameters, %3B for the character"
    )]
    Semicolon(String),
    /// More than [`PARAMETERS_MAX`].
    #[error("the request's query has {0} parameters, the most is {PARAMETERS_MAX}")]
    Parameters(usize),
    /// A parameter that decides is there more than once.
    #[error(
        "the query's parameter {0} is there more than once: one reader takes the first, another the last; send one"
    )]
    Repeated(&'static str),
    /// A parameter that decides has a value that does not tell what it means.
    #[error("the query's parameter {parameter} is {value:?}: {wanted}")]
    Value {
        /// Its name.
        parameter: &'static str,
        /// Its value, shortened.
        value: String,
        /// What would be right.
        wanted: &'static str,
    },
    /// A special prefix with nothing behind it.
    #[error("the path ends behind {0:?}: name what is to be watched or reached there")]
    NoKind(String),
}

/// A path's segment.
#[derive(Debug)]
pub(super) struct Segment<'a> {
    pub(super) raw: &'a str,
    pub(super) decoded: Cow<'a, str>,
}
/// A target taken apart.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// Without the empty one behind a slash at the end.
    pub(super) segments: Vec<Segment<'a>>,
    /// Whether the path ends with a slash.
    pub(super) slash: bool,
    pub(super) query: Option<&'a str>,
}

// === impl Target ===

impl<'a> Target<'a> {
    pub(super) fn parse(target: &'a [u8]) -> Result<Self, TargetError> {
        if target.len() > TARGET_MAX {
            return Err(TargetError::TooLong(target.len()));
        }
        if target.first() != Some(&b'/') {
            return Err(TargetError::NotAPath);
        }
        for (at, &byte) in target.iter().enumerate() {
            match byte {
                b'#' => return Err(TargetError::Fragment),
                b'\\' => return Err(TargetError::Byte { byte, at }),
                0x21..=0x7e => {}
                _ => return Err(TargetError::Byte { byte, at }),
            }
        }
        // nothing but ASCII is left
        let text = std::str::from_utf8(target).map_err(|e| TargetError::Byte { byte: 0xff, at: e.valid_up_to() })?;
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let path = &path[1..];
        let (path, slash) = path.strip_suffix('/').map_or((path, path.is_empty()), |path| (path, true));
        if path.is_empty() && text.starts_with("//") {
            return Err(TargetError::EmptySegment);
        }
        let pieces = path.split('/').filter(|_| !path.is_empty());
        let segments = pieces.map(Segment::parse).collect::<Result<_, _>>()?;
        Ok(Self { segments, slash, query })
    }

    /// The decoded path.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            path.push_str(&segment.decoded);
        }
        if self.slash {
            path.push('/');
        }
        path
    }

    /// The query's parameters, as Go reads them. `lines`: a value may hold tabs and ends of lines, as a command's words or the query of
    /// what is proxied do.
    pub(super) fn parameters(&self, lines: impl Fn(&str) -> bool) -> Result<Vec<(String, String)>, TargetError> {
        let Some(query) = self.query else { return Ok(Vec::new()) };
        let count = query.split('&').count();
        if count > PARAMETERS_MAX {
            return Err(TargetError::Parameters(count));
        }
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if pair.contains(';') {
                return Err(TargetError::Semicolon(shortened(pair)));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(&key.replace('+', " "))?.into_owned();
            let value = decode(&value.replace('+', " "))?.into_owned();
            let may = |c: char| !c.is_control() || (matches!(c, '\t' | '\n' | '\r') && lines(&key));
            if let Some(character) = key.chars().find(|c| c.is_control()).or(value.chars().find(|&c| !may(c))) {
                return Err(TargetError::Character { segment: shortened(pair), character });
            }
            parameters.push((key, value));
        }
        Ok(parameters)
    }
}

// === impl Segment ===

impl<'a> Segment<'a> {
    fn parse(raw: &'a str) -> Result<Self, TargetError> {
        if raw.is_empty() {
            return Err(TargetError::EmptySegment);
        }
        let decoded = decode(raw)?;
        if is_dots(&decoded) {
            return Err(TargetError::DotSegment(shortened(raw)));
        }
        if let Some(character) = decoded.chars().find(|c| c.is_control()) {
            return Err(TargetError::Character { segment: shortened(raw), character });
        }
        Ok(Self { raw, decoded })
    }

    /// For a segment by which something is decided. `%` too: decoded once more it would be another name.
    pub(super) fn decides(&self) -> Result<(), TargetError> {
        let odd = |c: &char| matches!(c, '/' | '\\' | '%' | '?' | '#' | ';') || c.is_whitespace();
        match self.decoded.chars().find(odd) {
            Some(character) => Err(TargetError::Character { segment: shortened(self.raw), character }),
            None => Ok(()),
        }
    }

    /// For a segment that goes on to what is proxied: anything, unless two servers could see two paths in it.
    pub(super) fn passes(&self) -> Result<(), TargetError> {
        let decoded = &*self.decoded;
        if decoded.contains('\\') {
            return Err(TargetError::Character { segment: shortened(self.raw), character: '\\' });
        }
        // the API server splits the decoded path, so an encoded slash is a slash there
        if decoded.contains('/') && decoded.split('/').any(str::is_empty) {
            return Err(TargetError::EmptySegment);
        }
        // some servers cut parameters off a segment at `;` before they look for dots
        if decoded.split('/').any(|piece| is_dots(piece.split(';').next().unwrap_or_default())) {
            return Err(TargetError::DotSegment(shortened(self.raw)));
        }
        // a percent sign may stand there for itself
        let digits =
            |at: usize| decoded.as_bytes().get(at + 1..at + 3).is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit));
        match decoded.match_indices('%').any(|(at, _)| digits(at)) {
            true => Err(TargetError::EncodedTwice(shortened(self.raw))),
            false => Ok(()),
        }
    }
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

pub(super) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn decode(text: &str) -> Result<Cow<'_, str>, TargetError> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
            _ => return Err(TargetError::Encoding(shortened(text))),
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| TargetError::NotUtf8(shortened(text)))
}
