//! The published models of AWS' services, as far as names go: which hosts they have, and what a method and a path mean to them.
//!
//! `tests/tools/aws-operations` writes the table, and says what its lines are.

use crate::glob::Glob;
use std::fmt;
use std::sync::OnceLock;

/// The table: a text, so that a change of it can be read.
const TEXT: &str = include_str!("operations.txt");

/// One service.
pub(super) struct Service {
    pub(super) name: &'static str,
    /// The name that its requests are signed for.
    pub(super) signing: &'static str,
    protocols: &'static str,
    /// What stands before the operation in `X-Amz-Target`.
    pub(super) target: &'static str,
    /// The lines below.
    lines: &'static str,
}

/// What a request says beside its path, of which the table knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    /// Of the query, decoded, in their order.
    pub(super) query: &'a [(String, String)],
    /// Names of headers, in lower case.
    pub(super) headers: &'a [&'a str],
}

/// Every service, in the order of the table.
pub(super) fn services() -> &'static [Service] {
    static SERVICES: OnceLock<Vec<Service>> = OnceLock::new();
    SERVICES.get_or_init(|| {
        let parts = TEXT.split("\n= ").map(|part| part.strip_prefix("= ").unwrap_or(part));
        parts
            .map(|part| {
                let (first, lines) = part.split_once('\n').unwrap_or((part, ""));
                let mut words = first.split(' ');
                let mut word = || words.next().unwrap_or_default();
                Service { name: word(), signing: word(), protocols: word(), target: word(), lines }
            })
            .collect()
    })
}

/// The operation of that name in a service that is signed for as `service`.
pub fn operation_of(service: &str, name: &str) -> Option<&'static str> {
    services().iter().filter(|s| s.signing == service).find_map(|s| s.named(name))
}

/// Whether a rule's pattern for actions ([`Glob::parse_lower`] of `s3:GetObject`) matches an operation that the table has. One that it has not may
/// be newer than the table; it may also be an action of IAM that no operation is called, such as `s3:ListBucket`.
pub fn is_of_an_operation(pattern: &Glob) -> bool {
    // most patterns name one service: the others' thousands of operations need no look
    let text = pattern.as_str().to_ascii_lowercase();
    let of_one = text.split_once(':').map(|(service, _)| service).filter(|service| !service.contains('*'));
    let known = |service: &Service| {
        let prefix = prefix_of(service.signing);
        if of_one.is_some_and(|one| one != prefix) {
            return false;
        }
        let mut operations = service.operations();
        operations.any(|operation| pattern.matches(&format!("{prefix}:{operation}").to_ascii_lowercase()))
    };
    services().iter().any(known)
}

/// A service as IAM's policies name it in actions, and rules with them, by the name that its requests are signed for.
pub(super) fn prefix_of(signing: &str) -> &str {
    match signing {
        "monitoring" => "cloudwatch",
        "tagging" => "tag",
        // Cloud Control's own actions are of this service
        "cloudcontrolapi" => "cloudformation",
        "iotdata" | "iot-jobs-data" => "iot",
        service => service,
    }
}

// === impl Service ===

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Service {
    /// Whether it speaks that one of `json`, `query`, `ec2`, `cbor` and `rest`.
    pub(super) fn speaks(&self, protocol: &str) -> bool {
        self.protocols.split(',').any(|p| p == protocol)
    }

    /// Whether it has regional hosts that begin so.
    pub(super) fn begins(&self, front: &str) -> bool {
        self.head('@').any(|line| line.split(' ').any(|pattern| fits(pattern, front)))
    }

    /// Whether it has hosts that are a region and that name.
    pub(super) fn older(&self, name: &str) -> bool {
        self.head('%').any(|line| line == name)
    }

    /// The region that its requests to that host are signed for, where the host is of none.
    pub(super) fn fixed(&self, host: &str) -> Option<&'static str> {
        self.head('!').find_map(|line| line.split_once(' ').filter(|(pattern, _)| fits(pattern, host)).map(|(_, r)| r))
    }

    /// An operation by its name.
    pub(super) fn named(&self, name: &str) -> Option<&'static str> {
        self.operations().find(|operation| *operation == name)
    }

    fn operations(&self) -> impl Iterator<Item = &'static str> {
        // a method and a path stand before it where requests do not name it
        let place = if self.protocols == "rest" { 2 } else { 0 };
        let lines = self.lines.lines().filter(|line| !line.starts_with(['@', '%', '!']));
        lines.filter_map(move |line| line.split(' ').nth(place))
    }

    /// The operations of that method and path that the rest of the request may mean, the most particular ones alone.
    pub(super) fn rest(&self, method: &str, path: &str, said: Said<'_>) -> Vec<&'static str> {
        let mut best = Vec::new();
        let mut most = (0, 0);
        for line in self.lines.lines() {
            let mut words = line.split(' ');
            let (Some(m), Some(pattern), Some(operation)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if m != method {
                continue;
            }
            let Some(literal) = walks(pattern, path) else { continue };
            let Some(needed) = said.fits(words) else { continue };
            if (literal, needed) > most || best.is_empty() {
                most = (literal, needed);
                best.clear();
            }
            if (literal, needed) == most {
                best.push(operation);
            }
        }
        best
    }

    fn head(&self, kind: char) -> impl Iterator<Item = &'static str> {
        let lines = self.lines.lines().take_while(|line| line.starts_with(['@', '%', '!']));
        lines.filter_map(move |line| line.strip_prefix(kind)).map(str::trim_start)
    }
}

// === impl Said ===

impl Said<'_> {
    /// How many of the keys must be there and are; `None` where one is missing, stands twice, or is none of the operation's.
    fn fits<'k>(self, keys: impl Iterator<Item = &'k str>) -> Option<usize> {
        let mut needed = 0;
        let mut any = false;
        let mut known: Vec<&str> = Vec::new();
        let count = |name: &str| self.query.iter().filter(|(n, _)| n == name).count();
        for key in keys {
            let Some((kind, name)) = key.split_at_checked(1) else { continue };
            match kind {
                "?" => {
                    let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
                    let there = self.query.iter().find(|(n, _)| n == name)?;
                    if count(name) != 1 || value.is_some_and(|value| value != there.1) {
                        return None;
                    }
                    known.push(name);
                    needed += 1;
                }
                "+" => {
                    if count(name) == 0 {
                        return None;
                    }
                    known.push(name);
                    needed += 1;
                }
                "^" => {
                    if !self.headers.contains(&name) {
                        return None;
                    }
                    needed += 1;
                }
                "*" => any = true,
                _ => known.push(name),
            }
        }
        (any || self.query.iter().all(|(name, _)| known.contains(&name.as_str()))).then_some(needed)
    }
}

/// Whether a name is of that pattern, in which a star is one label.
fn fits(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == name;
    }
    let (mut wanted, mut labels) = (pattern.split('.'), name.split('.'));
    loop {
        match (wanted.next(), labels.next()) {
            (None, None) => return true,
            (Some("*"), Some(label)) if !label.is_empty() => {}
            (Some(wanted), Some(label)) if wanted == label => {}
            _ => return false,
        }
    }
}

/// How many segments of a path are the pattern's own, where it is of that pattern.
fn walks(pattern: &str, path: &str) -> Option<usize> {
    let mut literal = 0;
    let mut path = path.strip_prefix('/')?;
    let mut segments = pattern.strip_prefix('/')?.split('/').peekable();
    while let Some(wanted) = segments.next() {
        let last = segments.peek().is_none();
        if wanted == "{+}" {
            if last {
                return (!path.is_empty()).then_some(literal);
            }
            // what stands behind it ends the path
            let tail: Vec<&str> = segments.collect();
            let tail = tail.join("/");
            let before = path.strip_suffix(tail.as_str())?.strip_suffix('/')?;
            return (!before.is_empty() && !tail.contains('{')).then_some(literal + tail.split('/').count());
        }
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) if !last => (segment, rest),
            None if last => (path, ""),
            _ => return None,
        };
        match wanted {
            "{}" if !segment.is_empty() => {}
            // a name and more in one segment: of a few services, and told by what is before and behind
            wanted if wanted.contains("{}") => {
                let (before, behind) = wanted.split_once("{}")?;
                let inner = segment.strip_prefix(before)?.strip_suffix(behind)?;
                if inner.is_empty() {
                    return None;
                }
                literal += 1;
            }
            wanted if wanted == segment => literal += 1,
            _ => return None,
        }
        path = rest;
    }
    Some(literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        assert!(services().len() > 400);
        for service in services() {
            assert!(!service.name.is_empty() && !service.signing.is_empty() && !service.target.is_empty());
            for line in service.lines.lines() {
                let ok = match line.chars().next() {
                    Some('@' | '%' | '!') => true,
                    _ if service.protocols == "rest" => line.split(' ').count() >= 3,
                    _ => !line.contains(' '),
                };
                assert!(ok, "{}: {line:?}", service.name);
            }
        }
        assert!(TEXT.len() < 1_500_000, "the table is a part of every program");
    }

    #[test]
    fn paths() {
        for (pattern, path, expected) in [
            ("/", "/", Some(1)),
            ("/{}", "/bucket", Some(0)),
            ("/{}", "/", None),
            ("/{}", "/a/b", None),
            ("/{}/{+}", "/bucket/a//b/", Some(0)),
            ("/{}/{+}", "/bucket/", None),
            ("/tags/{+}/all", "/tags/a/b/all", Some(2)),
            ("/tags/{+}/all", "/tags/all", None),
            ("/a/{}/c", "/a/b/c", Some(2)),
            ("/a/{}/c", "/a//c", None),
            ("/a/{}/c/", "/a/b/c", None),
            ("/a/x-{}", "/a/x-1", Some(2)),
            ("/a/x-{}", "/a/x-", None),
        ] {
            assert_eq!(walks(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn names_with_labels_that_anybody_chooses() {
        assert!(fits("*.ddb", "123456789012.ddb") && fits("sts", "sts"));
        assert!(!fits("*.ddb", "a.b.ddb") && !fits("*.ddb", ".ddb") && !fits("*.ddb", "ddb") && !fits("sts", "x.sts"));
    }
}
