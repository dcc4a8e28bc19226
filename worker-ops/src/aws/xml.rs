//! The little XML that the query protocol needs: elements of one name, and the text of what stands directly in them.

use quick_xml::Reader;
use quick_xml::events::Event;
use std::collections::HashMap;

/// Deeper nesting than any answer has.
const DEPTH_MAX: usize = 32;

/// For each element of that name, the texts of its children by their names. Prefixes of namespaces do not count.
///
/// # Errors
/// The text is not well-formed XML.
pub(crate) fn records(text: &[u8], name: &str) -> Result<Vec<HashMap<String, String>>, String> {
    let mut reader = Reader::from_reader(text);
    let mut records: Vec<HashMap<String, String>> = Vec::new();
    // the depth at which the present record began
    let mut begun: Option<usize> = None;
    let (mut depth, mut field, mut value) = (0_usize, String::new(), String::new());
    let mut buffer = Vec::new();
    let mut seen = false;
    loop {
        let wrong = |e: &dyn std::fmt::Display| format!("malformed XML: {e}");
        match reader.read_event_into(&mut buffer).map_err(|e| wrong(&e))? {
            Event::Start(start) => {
                seen = true;
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err("the XML is nested too deeply".to_owned());
                }
                let local = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                match begun {
                    None if local == name => {
                        begun = Some(depth);
                        records.push(HashMap::new());
                    }
                    Some(at) if depth == at + 1 => {
                        field = local;
                        value.clear();
                    }
                    _ => {}
                }
            }
            Event::End(_) => {
                match (begun, records.last_mut()) {
                    (Some(at), Some(record)) if depth == at + 1 => {
                        record.insert(std::mem::take(&mut field), value.trim().to_owned());
                    }
                    (Some(at), _) if depth == at => begun = None,
                    _ => {}
                }
                depth = depth.saturating_sub(1);
            }
            Event::Text(text) if begun.is_some_and(|at| depth == at + 1) => {
                value.push_str(&text.decode().map_err(|e| wrong(&e))?);
            }
            Event::CData(text) if begun.is_some_and(|at| depth == at + 1) => {
                value.push_str(&text.decode().map_err(|e| wrong(&e))?);
            }
            Event::GeneralRef(reference) if begun.is_some_and(|at| depth == at + 1) => {
                if let Some(c) = reference.resolve_char_ref().map_err(|e| wrong(&e))? {
                    value.push(c);
                } else {
                    let name = reference.decode().map_err(|e| wrong(&e))?;
                    let known = quick_xml::escape::resolve_predefined_entity(&name);
                    value.push_str(known.ok_or("an unknown entity in XML")?);
                }
            }
            Event::Eof => break,
            _ => {}
        }
        buffer.clear();
    }
    if depth > 0 || !seen { Err("the XML ends early".to_owned()) } else { Ok(records) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_list() {
        let text = br#"<?xml version="1.0"?>
            <DescribeRegionsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId>
            <regionInfo><item><regionName>eu-west-1</regionName><optInStatus>opt-in-not-required</optInStatus></item>
            <item><regionName> a &amp; &#98; </regionName><nested><regionName>no</regionName></nested><empty/></item>
            </regionInfo></DescribeRegionsResponse>"#;
        let items = records(text, "item").expect("XML");
        assert_eq!(items.len(), 2);
        assert_eq!(items[0]["regionName"], "eu-west-1");
        assert_eq!(items[0]["optInStatus"], "opt-in-not-required");
        assert_eq!(items[1]["regionName"], "a & b");
        assert!(records(text, "nothing").expect("XML").is_empty());
    }

    #[test]
    fn what_is_no_xml() {
        let deep = "<a>".repeat(40);
        for bad in ["", "text", "<a><b></a>", "<a>", &deep, "<item><x>&unknown;</x></item>"] {
            assert!(records(bad.as_bytes(), "item").is_err(), "{bad}");
        }
    }
}
