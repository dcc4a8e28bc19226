//! Patterns with `*`, which stands for any characters, none too; and lists of them.

use std::fmt;

/// The longest pattern, bytes: the longest name of a Kubernetes object, and room for a group or a scheme.
pub const PATTERN_MAX: usize = 512;
/// The most patterns in one list.
pub const PATTERNS_MAX: usize = 256;

/// One pattern. Nothing but `*` is special, and there is no way to write a star that stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    written: String,
    /// What stands between the stars. One piece: no star at all.
    pieces: Vec<String>,
}

// === impl Glob ===

impl Glob {
    /// A pattern as it was written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a pattern is empty".to_owned());
        }
        if text.len() > PATTERN_MAX {
            return Err(format!("a pattern is {} bytes long, the most is {PATTERN_MAX}", text.len()));
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(format!("{text:?} begins or ends with a space, or has a control character: leave that out"));
        }
        let mut pieces: Vec<String> = text.split('*').map(str::to_owned).collect();
        // `**` says what `*` says
        let last = pieces.len() - 1;
        let mut at = 0;
        pieces.retain(|piece| {
            at += 1;
            at == 1 || at == last + 1 || !piece.is_empty()
        });
        Ok(Self { written: text.to_owned(), pieces })
    }

    /// The same, for what is compared without regard to the case of ASCII letters. Give [`Self::matches`] lower-case text.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_lower(text: &str) -> Result<Self, String> {
        let written = text.to_owned();
        Ok(Self { written, ..Self::parse(&text.to_ascii_lowercase())? })
    }

    /// Whether it matches the whole text. Takes time by the length of the two: each piece is looked for behind the last one, once, and
    /// the first place that fits is as good as any later one.
    pub fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = self.pieces.as_slice() else {
            return self.pieces.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
            return false;
        };
        for piece in between {
            match rest.find(piece.as_str()) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        true
    }

    /// Whether it has no star.
    pub fn is_plain(&self) -> bool {
        self.pieces.len() == 1
    }

    /// Whether it is stars only, which match everything.
    pub fn is_all(&self) -> bool {
        self.pieces.len() > 1 && self.pieces.iter().all(String::is_empty)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.written
    }
}
impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Slow and plainly right.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| naive(rest, &text[at..])),
            ([p, pattern @ ..], [t, text @ ..]) => p == t && naive(pattern, text),
            _ => false,
        }
    }

    #[test]
    fn what_matches() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a/b c", true),
            ("**", "x", true),
            ("a", "a", true),
            ("a", "A", false),
            ("a", "aa", false),
            ("a*", "a", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("ab*ba", "aba", false),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a**b", "ab", true),
            ("ä*", "äö", true),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn both_sides_of_a_pattern() {
        assert!(Glob::parse(&"a".repeat(PATTERN_MAX)).is_ok());
        for bad in ["", " ", " a", "a ", "a\nb", "\u{a0}", &"a".repeat(PATTERN_MAX + 1)] {
            assert!(Glob::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_worst_pattern_takes_no_time() {
        let pattern = Glob::parse(&"a*".repeat(PATTERN_MAX / 2)).unwrap();
        let text = "a".repeat(1 << 16) + "b";
        assert!(pattern.matches(&text));
        let pattern = Glob::parse(&format!("{}c", "*a".repeat(PATTERN_MAX / 2 - 1))).unwrap();
        assert!(!pattern.matches(&text));
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_one(pattern in "[ab*]{1,9}", text in "[ab]{0,12}") {
            prop_assert_eq!(
                Glob::parse(&pattern).unwrap().matches(&text),
                naive(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
