//! Versions of engines, and what is asked of them: constraints as OpenTofu and Terraform have them
//! (<https://developer.hashicorp.com/terraform/language/expressions/version-constraints>), read as their library reads them
//! (<https://github.com/hashicorp/go-version>). What is not understood is an error, never a guess.

use std::cmp::Ordering;
use std::fmt;

/// The longest version or constraint, bytes.
pub const TEXT_MAX: usize = 256;
/// The most conditions of one constraint.
pub const CONDITIONS_MAX: usize = 16;

/// A version of an engine: up to three numbers, and perhaps a pre-release. What is behind a `+` says nothing of order and is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    numbers: [u32; 3],
    /// Empty: a release.
    pre: String,
}

/// Conditions that a version must meet, all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    written: String,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    operator: Operator,
    version: Version,
    /// How many of its numbers were written: `~>` asks.
    numbers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    /// `~>`: the last number that was written may be greater.
    Pessimistic,
}

// === impl Version ===

impl Version {
    /// A version as it was written: `1`, `1.9`, `v1.9.0`, `1.9.0-beta2`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_counting(text).map(|(version, _)| version)
    }

    /// The same, and how many numbers were written.
    fn parse_counting(text: &str) -> Result<(Self, usize), String> {
        let bad = || Err(format!("{:?} is no version, as 1.9.0 is one", shown(text)));
        if text.len() > TEXT_MAX {
            return bad();
        }
        let rest = text.strip_prefix('v').unwrap_or(text);
        let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let is_suffix = |suffix: &str| {
            let is_part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            suffix.split('.').all(is_part)
        };
        if ![pre, build].into_iter().flatten().all(is_suffix) {
            return bad();
        }
        let (mut numbers, mut written) = ([0; 3], 0);
        for part in core.split('.') {
            let number = Some(part).filter(|p| p.bytes().all(|b| b.is_ascii_digit())).and_then(|p| p.parse().ok());
            match (numbers.get_mut(written), number) {
                (Some(to), Some(number)) => *to = number,
                _ => return bad(),
            }
            written += 1;
        }
        Ok((Self { numbers, pre: pre.unwrap_or_default().to_owned() }, written))
    }

    /// A version that is written in full, as folders and files are named by it: `1.9.0`, `1.9.0-beta2`.
    ///
    /// # Errors
    /// As [`Self::parse`]; how it would be written in full.
    pub fn parse_whole(text: &str) -> Result<Self, String> {
        let version = Self::parse(text)?;
        match version.to_string() {
            whole if whole == text => Ok(version),
            whole => Err(format!("{:?} is not written in full, as {whole} is", shown(text))),
        }
    }

    /// Whether it is one before a release.
    pub fn is_pre_release(&self) -> bool {
        !self.pre.is_empty()
    }
    /// Whether it is that release, one before it, or a later one.
    pub fn is_at_least(&self, release: [u32; 3]) -> bool {
        self.numbers >= release
    }
    /// The release that it is one before; a release is its own.
    #[must_use]
    pub fn core(&self) -> Self {
        Self { pre: String::new(), ..self.clone() }
    }
}

impl Ord for Version {
    /// As <https://semver.org/#spec-item-11> has it.
    fn cmp(&self, other: &Self) -> Ordering {
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let (mut one, mut two) = (self.pre.split('.'), other.pre.split('.'));
                loop {
                    match (one.next(), two.next()) {
                        (None, None) => return Ordering::Equal,
                        (None, Some(_)) => return Ordering::Less,
                        (Some(_), None) => return Ordering::Greater,
                        (Some(a), Some(b)) => match compare_parts(a, b) {
                            Ordering::Equal => {}
                            unequal => return unequal,
                        },
                    }
                }
            }
        };
        // how it is written comes last, so that what is equal here is what `Eq` says
        self.numbers.cmp(&other.numbers).then_with(pre).then_with(|| self.pre.cmp(&other.pre))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Numbers by their value, and before words.
fn compare_parts(a: &str, b: &str) -> Ordering {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    match (number(a), number(b)) {
        (true, true) => {
            let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        }
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.pre.is_empty() { Ok(()) } else { write!(f, "-{}", self.pre) }
    }
}

// === impl Constraint ===

impl Constraint {
    /// A constraint as it was written: conditions with commas between.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("a constraint is {} bytes long, the most is {TEXT_MAX}", text.len()));
        }
        let conditions: Vec<_> = text.split(',').map(Condition::parse).collect::<Result<_, _>>()?;
        if conditions.len() > CONDITIONS_MAX {
            return Err(format!("a constraint has {} conditions, the most is {CONDITIONS_MAX}", conditions.len()));
        }
        Ok(Self { written: text.trim().to_owned(), conditions })
    }

    /// The one that allows that version alone.
    pub fn exactly(version: &Version) -> Self {
        Self {
            written: version.to_string(),
            conditions: vec![Condition { operator: Operator::Equal, version: version.clone(), numbers: 3 }],
        }
    }

    /// Whether a version meets all of it. A pre-release meets what names a pre-release of the same release, or it itself, and nothing else.
    pub fn allows(&self, version: &Version) -> bool {
        self.conditions.iter().all(|condition| condition.holds(version))
    }

    /// The only version that it can allow, if there is one such.
    pub fn only(&self) -> Option<&Version> {
        self.conditions.iter().find(|c| c.operator == Operator::Equal).map(|c| &c.version)
    }
    /// The versions that it names, whether it allows them or not.
    pub fn named(&self) -> impl Iterator<Item = &Version> {
        self.conditions.iter().map(|c| &c.version)
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

// === impl Condition ===

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (operator, rest) = [
            (">=", Operator::GreaterEqual),
            ("<=", Operator::LessEqual),
            ("!=", Operator::NotEqual),
            ("~>", Operator::Pessimistic),
            (">", Operator::Greater),
            ("<", Operator::Less),
            ("=", Operator::Equal),
        ]
        .into_iter()
        .find_map(|(sign, operator)| Some((operator, text.strip_prefix(sign)?)))
        .unwrap_or((Operator::Equal, text));
        let (version, numbers) = Version::parse_counting(rest.trim_start()).map_err(|_| {
            format!("{:?} is no condition on a version, as \"~> 1.9\" or \">= 1.8.0, < 2.0.0\" has them", shown(text))
        })?;
        Ok(Self { operator, version, numbers })
    }

    fn holds(&self, version: &Version) -> bool {
        let named = &self.version;
        let comparable = match (version.is_pre_release(), named.is_pre_release()) {
            (true, true) => version.numbers == named.numbers,
            (true, false) => false,
            (false, _) => true,
        };
        match self.operator {
            Operator::Equal => version == named,
            Operator::NotEqual => version != named,
            Operator::Greater => comparable && version > named,
            Operator::GreaterEqual => comparable && version >= named,
            Operator::Less => comparable && version < named,
            Operator::LessEqual => comparable && version <= named,
            Operator::Pessimistic => {
                let fixed = self.numbers.saturating_sub(1);
                comparable
                    && version.is_pre_release() == named.is_pre_release()
                    && version >= named
                    && version.numbers[..fixed] == named.numbers[..fixed]
            }
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).expect(text)
    }

    #[test]
    fn versions_are_read_and_written() {
        for (text, whole) in [
            ("1", "1.0.0"),
            ("1.9", "1.9.0"),
            ("1.9.0", "1.9.0"),
            ("v1.9.3", "1.9.3"),
            ("1.10.0-beta2", "1.10.0-beta2"),
            ("1.12.6-dev", "1.12.6-dev"),
            ("1.0.0-alpha-1.x+build.7", "1.0.0-alpha-1.x"),
            ("0.0.4294967295", "0.0.4294967295"),
        ] {
            assert_eq!(version(text).to_string(), whole, "{text}");
            assert_eq!(Version::parse_whole(text).is_ok(), text == whole, "{text}");
        }
        let long = format!("1.0.0-{}", "a".repeat(TEXT_MAX));
        for text in [
            "",
            "v",
            "latest",
            "1.",
            ".1",
            "1..2",
            "1.2.3.4",
            "1.x",
            "1.0.0-",
            "1.0.0-a..b",
            "1.0.0-ä",
            "1.0.0+",
            "-1",
            "+1",
            "1 .0",
            " 1.0",
            "0.0.4294967296",
            "1.0.0/../..",
            &long,
        ] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
        let just = format!("1.0.0-{}", "a".repeat(TEXT_MAX - 6));
        assert!(Version::parse(&just).is_ok());
    }

    #[test]
    fn versions_have_an_order() {
        // https://semver.org/#spec-item-11, and what engines have had
        let ascending = [
            "0.15.5",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.9.0",
            "1.10.0-beta1",
            "1.10.0",
        ];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("1.9"), version("v1.9.0+build"));
    }

    #[test]
    fn constraints_allow_what_the_engines_own_library_allows() {
        for (constraint, text, allowed) in [
            // the documentation of both engines
            (">= 1.2.0, < 2.0.0", "1.2.0", true),
            (">= 1.2.0, < 2.0.0", "1.99.9", true),
            (">= 1.2.0, < 2.0.0", "2.0.0", false),
            ("~> 1.0.4", "1.0.5", true),
            ("~> 1.0.4", "1.0.10", true),
            ("~> 1.0.4", "1.1.0", false),
            ("~> 1.1", "1.2.0", true),
            ("~> 1.1", "1.10.0", true),
            ("~> 1.1", "2.0.0", false),
            // the library's own table, as far as versions have three numbers
            (">= 1.0, < 1.2", "1.1.5", true),
            ("< 1.0, < 1.2", "1.1.5", false),
            ("= 1.0", "1.1.5", false),
            ("= 1.0", "1.0.0", true),
            ("1.0", "1.0.0", true),
            ("~> 1.0", "2.0", false),
            ("~> 1.0", "1.1", true),
            ("~> 1.0", "1.2.3", true),
            ("~> 1.0.0", "1.2.3", false),
            ("~> 1.0.0", "1.0.7", true),
            ("~> 1.0.7", "1.0.4", false),
            ("~> 1.0.7", "1.0.7", true),
            ("~> 1.0.7", "1.0.8", true),
            ("~> 2.0", "2.1.0-beta", false),
            ("~> 2.1.0-a", "2.2.0", false),
            ("~> 2.1.0-a", "2.1.0", false),
            ("~> 2.1.0-a", "2.1.0-beta", true),
            ("~> 2.1.0-a", "2.2.0-alpha", false),
            ("> 2.0", "2.1.0-beta", false),
            (">= 2.1.0-a", "2.1.0-beta", true),
            (">= 2.1.0-a", "2.1.1-beta", false),
            (">= 2.0.0", "2.1.0-beta", false),
            (">= 2.1.0-a", "2.1.1", true),
            (">= 2.1.0-a", "2.1.0", true),
            ("<= 2.1.0-a", "2.0.0", true),
            // and the edges
            ("~> 1", "1.0.0", true),
            ("~> 1", "2.5.0", true),
            ("~> 1", "0.9.0", false),
            ("!= 1.9.0", "1.9.0", false),
            ("!= 1.9.0", "1.9.1", true),
            ("!= 1.9.0", "1.9.0-rc1", true),
            ("> 1.9", "1.9.0", false),
            ("> 1.9", "1.9.1", true),
            ("<= 1.9", "1.9.0", true),
            ("<= 1.9", "1.9.1", false),
            ("1.9.0-rc1", "1.9.0-rc1", true),
            ("1.9.0", "1.9.0-rc1", false),
            ("v1.9.0", "1.9.0", true),
            (">=1.2,<1.9", "1.8.9", true),
            ("  ~>1.9.0 ", "1.9.4", true),
            ("= 1.9.0, = 1.9.1", "1.9.0", false),
        ] {
            let parsed = Constraint::parse(constraint).expect(constraint);
            assert_eq!(parsed.allows(&version(text)), allowed, "{constraint} and {text}");
        }
    }

    #[test]
    fn what_is_no_constraint_is_refused() {
        let many = vec![">= 1.0"; CONDITIONS_MAX + 1].join(",");
        let long = format!(">= 1.0{}", " ".repeat(TEXT_MAX));
        for text in ["", ",", ">= 1.x", ">= 1.0,", "=> 1.0", "== 1.0", ">", "^1.0", "1.0 2.0", "latest", &many, &long] {
            assert!(Constraint::parse(text).is_err(), "{text}");
        }
        assert!(Constraint::parse(&vec![">= 1.0"; CONDITIONS_MAX].join(",")).is_ok());
        assert!(Constraint::parse(&format!(">= 1.0{}", " ".repeat(TEXT_MAX - 6))).is_ok());
    }

    #[test]
    fn a_constraint_says_what_it_names() {
        let constraint = Constraint::parse(" >= 1.8, != 1.8.2 ").expect("reads");
        assert_eq!((constraint.to_string().as_str(), constraint.only()), (">= 1.8, != 1.8.2", None));
        assert_eq!(constraint.named().map(ToString::to_string).collect::<Vec<_>>(), ["1.8.0", "1.8.2"]);
        let exact = Constraint::exactly(&version("1.9"));
        assert_eq!((exact.to_string().as_str(), exact.only()), ("1.9.0", Some(&version("1.9"))));
        assert!(exact.allows(&version("1.9.0")) && !exact.allows(&version("1.9.1")));
    }
}
