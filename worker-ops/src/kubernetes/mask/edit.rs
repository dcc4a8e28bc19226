//! A JSON text that is copied with some of its values replaced.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::MASK;

/// The text is not the JSON that it has to be. It does not say what is there instead: that could be a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotJson;

/// Copies a text, except for the parts that are replaced, which come in the text's order.
pub(super) struct Edit<'t, 'o> {
    text: &'t str,
    /// How far the text is copied.
    copied: usize,
    out: &'o mut Vec<u8>,
}

// === impl Edit ===

impl<'t, 'o> Edit<'t, 'o> {
    pub(super) fn new(text: &'t str, out: &'o mut Vec<u8>) -> Self {
        Self { text, copied: 0, out }
    }

    /// Writes something else for a value, which is a piece of the text itself.
    pub(super) fn replace(&mut self, value: &'t str, with: &str) -> Result<(), NotJson> {
        // a value is borrowed from the text, so the distance of the two is its place
        let start = value.as_ptr().addr().checked_sub(self.text.as_ptr().addr()).ok_or(NotJson)?;
        let end = start.checked_add(value.len()).filter(|end| *end <= self.text.len()).ok_or(NotJson)?;
        let before = self.text.get(self.copied..start).ok_or(NotJson)?;
        self.out.extend_from_slice(before.as_bytes());
        self.out.extend_from_slice(with.as_bytes());
        self.copied = end;
        Ok(())
    }

    /// Writes a string for a value.
    pub(super) fn string(&mut self, value: &'t str, with: &str) -> Result<(), NotJson> {
        let quoted = serde_json::to_string(with).map_err(|_| NotJson)?;
        self.replace(value, &quoted)
    }

    /// Masks a value; `null` says nothing and stays.
    pub(super) fn mask(&mut self, value: &'t str) -> Result<(), NotJson> {
        if value == "null" { Ok(()) } else { self.string(value, MASK) }
    }

    /// Leaves a string, number, boolean or null; masks what has parts, because nobody looked at those.
    pub(super) fn scalar(&mut self, value: &'t str) -> Result<(), NotJson> {
        if is_object(value) || is_array(value) { self.mask(value) } else { Ok(()) }
    }

    /// Leaves an array, masks what is none.
    pub(super) fn array(&mut self, value: &'t str) -> Result<(), NotJson> {
        if is_array(value) { Ok(()) } else { self.mask(value) }
    }

    /// Copies the rest.
    pub(super) fn finish(self) -> Result<(), NotJson> {
        self.out.extend_from_slice(self.text.get(self.copied..).ok_or(NotJson)?.as_bytes());
        Ok(())
    }
}

pub(super) fn is_object(value: &str) -> bool {
    value.starts_with('{')
}

pub(super) fn is_array(value: &str) -> bool {
    value.starts_with('[')
}

/// A JSON string's text; `None`: it is no string, or one that is no text.
pub(super) fn string(value: &str) -> Option<String> {
    serde_json::from_str(value).ok()
}

/// Goes through the fields of an object, equal keys included. The text has to be valid to its end.
pub(super) fn fields<'t>(text: &'t str, each: impl FnMut(&str, &'t str) -> Result<(), NotJson>) -> Result<(), NotJson> {
    let mut from = serde_json::Deserializer::from_str(text);
    from.deserialize_map(Each(each)).map_err(|_| NotJson)?;
    from.end().map_err(|_| NotJson)
}

/// Goes through the elements of an array.
pub(super) fn elements<'t>(text: &'t str, mut each: impl FnMut(&'t str) -> Result<(), NotJson>) -> Result<(), NotJson> {
    let mut from = serde_json::Deserializer::from_str(text);
    from.deserialize_seq(Each(|_: &str, value| each(value))).map_err(|_| NotJson)?;
    from.end().map_err(|_| NotJson)
}

/// Calls a function for each value, and reads no more of a value than where it ends.
struct Each<F>(F);

impl<'t, F: FnMut(&str, &'t str) -> Result<(), NotJson>> Visitor<'t> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'t>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let value: &'t RawValue = map.next_value()?;
            (self.0)(&key, value.get()).map_err(|_| A::Error::custom("stopped"))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'t>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element_seed(Raw)? {
            (self.0)("", value).map_err(|_| A::Error::custom("stopped"))?;
        }
        Ok(())
    }
}

struct Raw;

impl<'t> DeserializeSeed<'t> for Raw {
    type Value = &'t str;

    fn deserialize<D: Deserializer<'t>>(self, from: D) -> Result<&'t str, D::Error> {
        <&'t RawValue as serde::Deserialize>::deserialize(from).map(RawValue::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_replaced_stays_byte_for_byte() {
        let text = "{ \"a\" : 1.50e+00 ,\n\t\"b\":\"x\",\"b\" : [ true ] , \"\\u0063\":null}";
        let mut out = Vec::new();
        let mut edit = Edit::new(text, &mut out);
        let mut seen = Vec::new();
        fields(text, |key, value| {
            seen.push(key.to_owned());
            if key == "b" { edit.mask(value) } else { edit.scalar(value) }
        })
        .expect("an object");
        edit.finish().expect("the rest");
        assert_eq!(seen, ["a", "b", "b", "c"]);
        let want = "{ \"a\" : 1.50e+00 ,\n\t\"b\":\"[masked by the runner]\",\"b\" : \"[masked by the runner]\" , \"\\u0063\":null}";
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn what_is_no_object_to_its_end_is_none() {
        for text in
            ["", "[]", "{", "{} {}", "{\"a\":1,}", "{\"a\":01}", "{\"a\" 1}", "{\"a\":\"\n\"}", "{\"\\ud800\":1}"]
        {
            assert_eq!(fields(text, |_, _| Ok(())), Err(NotJson), "{text}");
        }
        assert_eq!(elements("[1,]", |_| Ok(())), Err(NotJson));
    }

    #[test]
    fn nesting_is_no_recursion() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(fields(&deep, |_, _| Ok(())), Ok(()));
    }

    #[test]
    fn a_part_of_another_text_is_refused() {
        let (text, other) = ("{\"a\":1}".to_owned(), "1".to_owned());
        let mut out = Vec::new();
        let mut edit = Edit::new(&text, &mut out);
        assert_eq!(edit.replace(&other, "2"), Err(NotJson));
    }
}
