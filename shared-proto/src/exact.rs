//! Variables from JSON, of which nothing is lost on the way: a number that would come out as another one, and a name that stands twice in an
//! object, are refused with where they stand. An error must never say a value: it may be secret.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// How deep a value may be: less than the 128 that readers of JSON go, as it stands in other documents.
const DEPTH_MAX: usize = 100;

/// Why an object was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Inexact {
    /// It is no JSON, or no object.
    #[error("it is not a JSON object (line {}, column {})", .0.line(), .0.column())]
    Form(#[from] serde_json::Error),
    /// A number that is none of those which are kept.
    #[error(
        "the number at {0} has more digits, or is larger, than numbers are kept with: give it as a text, in quotes; the engine makes a number of it"
    )]
    Number(String),
    /// A name that stands twice in one object.
    #[error("{0} stands there twice: only one of the two can be meant")]
    Twice(String),
    /// Lists and objects in one another.
    #[error("{0} is more than {max} lists and objects deep", max = DEPTH_MAX)]
    Deep(String),
}

/// The members of an object, as they are written.
struct Members<'t>(Vec<(String, &'t RawValue)>);

/// A decimal number: its sign, its digits without zeros before and after them, and the power of ten that they are multiplied with.
#[derive(PartialEq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

/// Reads an object.
///
/// # Errors
/// [`Inexact`].
pub fn object(text: &str) -> Result<Map<String, Value>, Inexact> {
    members(text, "", 0)
}

fn members(text: &str, at: &str, depth: usize) -> Result<Map<String, Value>, Inexact> {
    let Members(all) = serde_json::from_str(text)?;
    let mut map = Map::new();
    for (name, raw) in all {
        let here = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let value = value(raw.get(), &here, depth + 1)?;
        if map.insert(name, value).is_some() {
            return Err(Inexact::Twice(here));
        }
    }
    Ok(map)
}

fn value(text: &str, at: &str, depth: usize) -> Result<Value, Inexact> {
    if depth > DEPTH_MAX {
        return Err(Inexact::Deep(at.to_owned()));
    }
    match text.as_bytes().first() {
        Some(b'{') => members(text, at, depth).map(Value::Object),
        Some(b'[') => {
            let all: Vec<&RawValue> = serde_json::from_str(text)?;
            let all = all.into_iter().enumerate();
            all.map(|(n, raw)| value(raw.get(), &format!("{at}[{n}]"), depth + 1)).collect()
        }
        Some(b'-' | b'0'..=b'9') => {
            let inexact = || Inexact::Number(at.to_owned());
            let kept: Value = serde_json::from_str(text).map_err(|_| inexact())?;
            if Decimal::of(text) == Decimal::of(&kept.to_string()) { Ok(kept) } else { Err(inexact()) }
        }
        _ => Ok(serde_json::from_str(text)?),
    }
}

// === impl Members ===

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Members<'de> {
    type Value = Self;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(member) = map.next_entry()? {
            self.0.push(member);
        }
        Ok(self)
    }
}

// === impl Decimal ===

impl Decimal {
    /// Of a number as JSON has it.
    fn of(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let all = format!("{whole}{part}");
        let ended = all.trim_end_matches('0');
        let digits = ended.trim_start_matches('0');
        if digits.is_empty() {
            return Self { negative: false, digits: String::new(), exponent: 0 };
        }
        // one that does not fit is of no number that is kept
        let exponent = exponent.parse().unwrap_or(i64::MAX);
        let moved = i64::try_from(all.len() - ended.len()).unwrap_or(0) - i64::try_from(part.len()).unwrap_or(0);
        Self { negative, digits: digits.to_owned(), exponent: exponent.saturating_add(moved) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_kept_is_the_same_number() {
        for number in [
            "0",
            "-0",
            "-1",
            "1.0",
            "1.50",
            "1e3",
            "100E-2",
            "0.1",
            "-12.25",
            "1e300",
            "5e-324",
            "9007199254740993",
            "18446744073709551615",
            "-9223372036854775808",
            "1E+2",
            "0e99999999999999999999",
        ] {
            let read = object(&format!(r#"{{"n": {number}}}"#));
            assert!(read.is_ok(), "{number}: {read:?}");
        }
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "3.14159265358979323846264338327950288",
            "0.1000000000000000055511151231257827",
            "1e400",
            "1e-400",
            "1e99999999999999999999",
        ] {
            let failure = object(&format!(r#"{{"a": {{"list": [1, {number}]}}}}"#)).expect_err(number);
            assert!(matches!(&failure, Inexact::Number(at) if at == "a.list[1]"), "{number}: {failure}");
            assert!(!failure.to_string().contains(number), "{failure}");
        }
    }

    #[test]
    fn a_name_stands_once_in_an_object() {
        let good = r#"{"b": {"a": 1}, "a": [{"a": null}, {"a": "x\u00fc"}], "c": true}"#;
        let read = object(good).expect("reads");
        assert_eq!(Value::Object(read), json!({"b": {"a": 1}, "a": [{"a": null}, {"a": "xü"}], "c": true}));
        for (text, at) in [(r#"{"a": 1, "a": 1}"#, "a"), (r#"{"a": [{"b": {"c": 1, "\u0063": 2}}]}"#, "a[0].b.c")] {
            let failure = object(text).expect_err(text);
            assert!(matches!(&failure, Inexact::Twice(found) if found == at), "{failure}");
        }
    }

    #[test]
    fn what_is_no_object_and_what_is_too_deep() {
        for text in ["", "[]", "1", "{", r#"{"a": 1} x"#, r#"{"a": 01}"#] {
            assert!(matches!(object(text), Err(Inexact::Form(_))), "{text}");
        }
        let nested = |depth: usize| format!(r#"{{"a": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(object(&nested(DEPTH_MAX)).is_ok());
        assert!(matches!(object(&nested(DEPTH_MAX + 1)), Err(Inexact::Deep(_))));
    }
}
