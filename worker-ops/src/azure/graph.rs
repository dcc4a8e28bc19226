//! Questions to Resource Graph, in its own dialect of KQL. Whatever comes from outside stands in them as a literal and as nothing else.
//!
//! <https://learn.microsoft.com/azure/governance/resource-graph/concepts/query-language>

use shared_proto::v1::ListResources;
use std::fmt::Write as _;

/// What of a resource is asked for. Types write their state and when they were made in different places.
const COLUMNS: &str = "| extend state = coalesce(tostring(properties.extended.instanceView.powerState.displayStatus), \
    tostring(properties.provisioningState), tostring(properties.state), tostring(properties.status)), \
    created = coalesce(tostring(properties.timeCreated), tostring(properties.creationTime), \
    tostring(properties.createdAt), tostring(properties.creationDate), tostring(properties.createdDate))\n\
    | project id, name, type, location, tags, state, created\n| order by id asc";

/// All resources of these types in a table that fit, in an order that pages keep. Filters here let no fewer through than `Found` does.
pub(super) fn query(table: &str, types: &[String], list: &ListResources) -> String {
    let named: Vec<String> = types.iter().map(|t| literal(&t.to_ascii_lowercase())).collect();
    let mut query = format!("{table}\n| where type in~ ({})\n", named.join(", "));
    let mut tags: Vec<_> = list.tags.iter().collect();
    tags.sort_unstable();
    for (key, value) in tags {
        let _ = match value.as_str() {
            "" => writeln!(query, "| where isnotnull(tags[{}])", literal(key)),
            value => writeln!(query, "| where tostring(tags[{}]) == {}", literal(key), literal(value)),
        };
    }
    // tags are looked through as JSON, which writes other characters in other ways
    let plain = |b: u8| b.is_ascii_alphanumeric() || b" -_.:".contains(&b);
    if !list.text.is_empty() && list.text.bytes().all(plain) {
        let text = literal(&list.text);
        let _ = writeln!(query, "| where name contains {text} or id contains {text} or tostring(tags) contains {text}");
    }
    query + COLUMNS
}

/// A text between single quotes, as KQL reads it back.
///
/// <https://learn.microsoft.com/kusto/query/scalar-data-types/string>
fn literal(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\\' | '\'' => out.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(tags: &[(&str, &str)], text: &str) -> ListResources {
        let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ListResources { tags, text: text.into(), ..Default::default() }
    }

    /// What stands between quotes, and what is left without it.
    fn read(query: &str) -> (Vec<String>, String) {
        let (mut literals, mut rest, mut chars) = (Vec::new(), String::new(), query.chars());
        while let Some(c) = chars.next() {
            if c != '\'' {
                rest.push(c);
                continue;
            }
            let mut text = String::new();
            loop {
                match chars.next().expect("a closing quote") {
                    '\'' => break,
                    '\\' => match chars.next().expect("an escape") {
                        'u' => {
                            let digits: String = chars.by_ref().take(4).collect();
                            let number = u32::from_str_radix(&digits, 16).expect("digits");
                            text.push(char::from_u32(number).expect("a character"));
                        }
                        c => text.push(c),
                    },
                    '\n' => panic!("a literal over two lines"),
                    c => text.push(c),
                }
            }
            literals.push(text);
        }
        (literals, rest)
    }

    #[test]
    fn whatever_comes_from_outside_stays_a_literal() {
        let evil = [
            "'",
            "\\",
            "\\'",
            "') | union (resources) //",
            "a' or '1' == '1",
            "\n| project id",
            "\r\u{85}\u{2028}\u{2029}\t\0",
            "h@\"x\"",
            "```",
            "ü\u{1f600}",
        ];
        for text in evil {
            let plain = query("resources", &["a/b".into()], &list(&[("k", "v"), ("l", "")], ""));
            let odd = query("resources", &[text.into()], &list(&[(text, text)], text));
            let (literals, rest) = read(&odd);
            assert_eq!(literals, [text.to_ascii_lowercase(), text.to_owned(), text.to_owned()], "{odd}");
            let (_, same) = read(&query("resources", &["a/b".into()], &list(&[("k", "v")], "")));
            assert_eq!(rest, same, "{odd}");
            assert!(plain.contains("isnotnull(tags['l'])") && plain.contains("tostring(tags['k']) == 'v'"), "{plain}");
        }
    }

    #[test]
    fn only_plain_text_is_looked_for_over_there() {
        for (text, there) in
            [("web-1", true), ("a b.c_d:e", true), ("a\"b", false), ("ä", false), ("a/b", false), ("", false)]
        {
            assert_eq!(query("resources", &["a/b".into()], &list(&[], text)).contains(" contains "), there, "{text}");
        }
    }

    #[test]
    fn the_question_as_a_whole() {
        let query = query("resources", &["Microsoft.Compute/disks".into(), "a/B".into()], &list(&[], "x"));
        assert!(query.starts_with(
            "resources\n| where type in~ ('microsoft.compute/disks', 'a/b')\n| where name contains 'x' or id contains 'x' or tostring(tags) contains 'x'\n| extend "
        ), "{query}");
        assert!(query.ends_with("\n| order by id asc"), "{query}");
    }
}
