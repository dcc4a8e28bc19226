//! Names of sessions that say who asks and for what: texts with `{person}` and `{operation}` in them, which become what STS takes,
//! `[\w+=,.@-]`, <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>.
//!
//! It must never give one text for two people. Letters, digits and `_.@+-` stay; every other byte becomes `=` and two hexadecimal digits; a
//! value that has no room ends in `=.` and 16 digits of its SHA-256, which no other text has; between two values stands a comma, which is in
//! none. So two texts are the same only where 64 bits of a digest are.

use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::hex;

/// The least room of a value, characters: a digest, and something of the value before it.
const ROOM_MIN: usize = 24;
/// Hexadecimal digits of a digest, and what stands before them.
const DIGITS: usize = 16;
const CUT: &str = "=.";
/// What STS takes at least.
const LENGTH_MIN: usize = 2;

/// Who asks, and for what: a person's name, and the id of an operation or a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker<'a> {
    /// As the control plane knows them; empty: nobody.
    pub person: &'a str,
    /// As it stands in the audit log.
    pub operation: &'a str,
}

/// A text with places for values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// What each value gets where they do not all fit as they are, characters.
    room: usize,
    /// What all of it has at most, characters.
    most: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Person,
    Operation,
}

// === impl Template ===

impl Template {
    /// Reads one that has at most so many characters when it is filled.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, most: usize) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("has a { without its }")?;
            let part = match name {
                "person" => Part::Person,
                "operation" => Part::Operation,
                other => return Err(format!("has {{{other}}}, there are {{person}} and {{operation}}")),
            };
            match parts.last() {
                Some(Part::Person | Part::Operation) if !before.contains(',') => {
                    return Err("must have a comma between two values: only that is never in one".to_owned());
                }
                _ => {}
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(part);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let texts: Vec<_> =
            parts.iter().filter_map(|p| if let Part::Text(t) = p { Some(t.as_str()) } else { None }).collect();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
        if !texts.iter().all(|text| text.bytes().all(fits)) {
            return Err("must have letters, digits and _+=,.@- only".to_owned());
        }
        let (literal, values) = (texts.iter().map(|t| t.len()).sum::<usize>(), parts.len() - texts.len());
        let room = most.saturating_sub(literal) / values.max(1);
        if values == 0 && !(LENGTH_MIN..=most).contains(&literal) {
            return Err(format!("must have {LENGTH_MIN} to {most} characters"));
        }
        if values > 0 && room < ROOM_MIN {
            return Err(format!("leaves its values {room} characters each, and must leave them {ROOM_MIN}"));
        }
        Ok(Self { parts, room, most })
    }

    /// Whether it says who asks.
    pub fn has_person(&self) -> bool {
        self.parts.contains(&Part::Person)
    }
    /// Whether it says for what.
    pub fn has_operation(&self) -> bool {
        self.parts.contains(&Part::Operation)
    }

    /// With its values.
    ///
    /// # Errors
    /// `policy_denied`: it says who asks, and nobody does.
    pub fn fill(&self, asker: Asker<'_>) -> Result<String, Failure> {
        let whole = self.fill_within(asker, self.most)?;
        // what was cut has a sign in it that nothing else has: no two fill it with the same
        if whole.len() <= self.most { Ok(whole) } else { self.fill_within(asker, self.room) }
    }

    fn fill_within(&self, asker: Asker<'_>, room: usize) -> Result<String, Failure> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Person if asker.person.is_empty() => {
                    return Err(Code::PolicyDenied.on("the connection's sessions say who asks, and nobody does"));
                }
                Part::Person => out.push_str(&value(asker.person, room)),
                Part::Operation => out.push_str(&value(asker.operation, room)),
            }
        }
        if out.len() < LENGTH_MIN {
            out.push_str(CUT);
        }
        Ok(out)
    }
}

/// A value as it stands in a text.
fn value(text: &str, room: usize) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.@+-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('=');
            out.push_str(&hex::encode([byte]));
        }
    }
    if out.len() > room {
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        out.truncate(room - CUT.len() - DIGITS);
        // not within an escape: what is left of one could be another text's
        if let Some(at) = out.rfind('=').filter(|at| at + 3 > out.len()) {
            out.truncate(at);
        }
        out.push_str(CUT);
        out.push_str(&digest[..DIGITS]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn fill(template: &str, person: &str, operation: &str) -> String {
        let template = Template::parse(template, 64).expect(template);
        template.fill(Asker { person, operation }).expect("somebody")
    }

    #[test]
    fn values_become_what_sts_takes() {
        assert_eq!(fill("runner-prod", "jo", "op-1"), "runner-prod");
        assert_eq!(fill("{person}", "jo@example.com", ""), "jo@example.com");
        assert_eq!(fill("r-{person},{operation}", "Jörg K", "op_1"), "r-J=c3=b6rg=20K,op_1");
        assert_eq!(fill("{person}", "a", ""), "a=.");
        // where both fit as they are, neither is cut
        let operation = format!("op_{}", "0".repeat(32));
        assert_eq!(fill("runner,{person},{operation}", "admin", &operation), format!("runner,admin,{operation}"));
        let person = "x".repeat(64 - "runner,,".len() - operation.len());
        assert_eq!(fill("runner,{person},{operation}", &person, &operation).len(), 64);
        let cut = fill("runner,{person},{operation}", &format!("{person}y"), &operation);
        assert!(cut.len() <= 64 && cut.contains("=.") && !cut.ends_with(&operation), "{cut}");
        let long = fill("runner,{person},{operation}", &"ä".repeat(200), &"o".repeat(128));
        assert!(long.len() <= 64 && long.contains("=."), "{long}");
    }

    #[test]
    fn no_two_people_have_one_text() {
        let long = "x".repeat(80);
        let people = [
            "a",
            "a=",
            "a=.",
            "a b",
            "a=20b",
            "a,b",
            "a=2cb",
            "A",
            "ä",
            "=c3=a4",
            "a\0",
            &long,
            &format!("{long}y"),
            &format!("{}=.{}", "x".repeat(46), "0".repeat(16)),
            "aa",
            "jo@example.com",
            "jo=40example.com",
        ];
        let texts: BTreeSet<_> = people.iter().map(|person| fill("{person}", person, "")).collect();
        assert_eq!(texts.len(), people.len(), "{texts:?}");
        let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        assert!(texts.iter().all(|t| (2..=64).contains(&t.len()) && t.chars().all(fits)), "{texts:?}");
        // what belongs to the one cannot be taken for the other's
        assert_ne!(fill("{person},{operation}", "a,b", "c"), fill("{person},{operation}", "a", "b,c"));
    }

    #[test]
    fn both_sides_of_a_template() {
        assert!(Template::parse(&"a".repeat(64), 64).is_ok() && Template::parse("ab", 64).is_ok());
        assert!(Template::parse(&format!("{}{{person}}", "a".repeat(40)), 64).is_ok());
        for (bad, word) in [
            ("a", "2 to 64"),
            ("", "2 to 64"),
            (&"a".repeat(65), "2 to 64"),
            (&format!("{}{{person}}", "a".repeat(41)), "leaves its values 23"),
            ("{person}{operation}", "comma"),
            ("{person}-{operation}", "comma"),
            ("{who}", "{who}"),
            ("{person", "without its }"),
            ("a/b{person}", "letters, digits"),
        ] {
            assert!(Template::parse(bad, 64).expect_err(bad).contains(word), "{bad}");
        }
        let nobody = Template::parse("{person}", 64).expect("fine").fill(Asker { person: "", operation: "o" });
        assert_eq!(nobody.expect_err("nobody").code, Code::PolicyDenied);
    }
}
