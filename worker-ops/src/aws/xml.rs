//! The little XML that AWS answers with, in the shape that JSON would have: an element with elements in it is an object, elements of one
//! name beside each other are an array, every other one is a text.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Map, Value};

/// Deeper nesting than any answer has.
const DEPTH_MAX: usize = 32;

/// An element that has begun.
#[derive(Default)]
struct Open {
    name: String,
    inside: Map<String, Value>,
    text: String,
}

/// What is in the outermost element. Attributes and prefixes of namespaces do not count; a list with one member cannot be told from a member:
/// [`super::tree::at`] takes both.
///
/// # Errors
/// The text is not well-formed XML.
pub(crate) fn tree(text: &[u8]) -> Result<Value, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("malformed XML: {e}");
    let mut reader = Reader::from_reader(text);
    let (mut open, mut root): (Vec<Open>, Option<Value>) = (Vec::new(), None);
    let mut buffer = Vec::new();
    loop {
        match reader.read_event_into(&mut buffer).map_err(|e| wrong(&e))? {
            Event::Start(start) => {
                if open.len() == DEPTH_MAX {
                    return Err("the XML is nested too deeply".to_owned());
                }
                let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                open.push(Open { name, ..Open::default() });
            }
            Event::Empty(empty) => {
                let name = String::from_utf8_lossy(empty.local_name().as_ref()).into_owned();
                close(Open { name, ..Open::default() }, &mut open, &mut root);
            }
            Event::End(_) => {
                if let Some(ended) = open.pop() {
                    close(ended, &mut open, &mut root);
                }
            }
            Event::Text(text) => {
                if let Some(inner) = open.last_mut() {
                    inner.text.push_str(&text.decode().map_err(|e| wrong(&e))?);
                }
            }
            Event::CData(text) => {
                if let Some(inner) = open.last_mut() {
                    inner.text.push_str(&text.decode().map_err(|e| wrong(&e))?);
                }
            }
            Event::GeneralRef(reference) => {
                let Some(inner) = open.last_mut() else { continue };
                if let Some(c) = reference.resolve_char_ref().map_err(|e| wrong(&e))? {
                    inner.text.push(c);
                } else {
                    let name = reference.decode().map_err(|e| wrong(&e))?;
                    let known = quick_xml::escape::resolve_predefined_entity(&name);
                    inner.text.push_str(known.ok_or("an unknown entity in XML")?);
                }
            }
            Event::Eof => break,
            _ => {}
        }
        buffer.clear();
    }
    match root {
        Some(root) if open.is_empty() => Ok(root),
        _ => Err("the XML ends early".to_owned()),
    }
}

/// Puts what has ended where it belongs.
fn close(ended: Open, open: &mut [Open], root: &mut Option<Value>) {
    let value =
        if ended.inside.is_empty() { Value::String(ended.text.trim().to_owned()) } else { Value::Object(ended.inside) };
    match open.last_mut() {
        None => *root = Some(value),
        Some(parent) => match parent.inside.get_mut(&ended.name) {
            None => drop(parent.inside.insert(ended.name, value)),
            Some(Value::Array(list)) => list.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn elements_are_objects_lists_and_texts() {
        let text = br#"<?xml version="1.0"?>
            <DescribeRegionsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId>
            <regionInfo><item><regionName>eu-west-1</regionName></item>
            <item><regionName> a &amp; &#98; </regionName><nested><x:deep>no</x:deep></nested><empty/></item>
            </regionInfo><tags/></DescribeRegionsResponse>"#;
        assert_eq!(
            tree(text).expect("XML"),
            json!({
                "requestId": "1",
                "regionInfo": {"item": [
                    {"regionName": "eu-west-1"},
                    {"regionName": "a & b", "nested": {"deep": "no"}, "empty": ""},
                ]},
                "tags": "",
            })
        );
        assert_eq!(tree(b"<LocationConstraint>EU</LocationConstraint>"), Ok(json!("EU")));
        assert_eq!(tree(b"<LocationConstraint/>"), Ok(json!("")));
    }

    #[test]
    fn what_is_no_xml() {
        let deep = format!("{}{}", "<a>".repeat(DEPTH_MAX + 1), "</a>".repeat(DEPTH_MAX + 1));
        for bad in ["", "text", "<a><b></a>", "<a>", &deep, "<item><x>&unknown;</x></item>"] {
            assert!(tree(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(tree(format!("{}{}", "<a>".repeat(DEPTH_MAX), "</a>".repeat(DEPTH_MAX)).as_bytes()).is_ok());
    }
}
