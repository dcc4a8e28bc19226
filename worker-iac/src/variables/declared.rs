//! Which variables a root module declares, whether each takes a plain text, and whether its values are to be kept from sight. The
//! engine reads its language best; this reads no more than it has to, and says where it is in doubt.

use super::Known;
use crate::configuration::tokens::{Token, tokens};
use crate::configuration::{Node, files, overrides, read, statement};
use std::path::Path;

/// A declaration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Declared {
    /// Whether its type is one that a plain text becomes (string, number, bool); `None`: it says no type, which takes a text as it is.
    pub(crate) plain: Option<bool>,
    /// Whether its values are not to be shown (`sensitive`) or kept (`ephemeral`).
    pub(crate) sensitive: bool,
}

/// What a root module declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Declarations {
    pub(crate) known: Known,
    /// A file was not understood: there may be more.
    pub(crate) doubtful: bool,
}

// === impl Declarations ===

impl Declarations {
    /// Reads those of the files in the folder that the engine reads.
    pub(crate) fn read(root: &Path, extensions: &[&str]) -> Self {
        let mut all = Self::default();
        let Ok(mut files) = files(root, extensions) else { return Self { doubtful: true, ..all } };
        // what overrides comes after what is overridden
        files.sort_by_key(|(name, _)| (overrides(name), name.clone()));
        for (name, path) in files {
            let text = read(&path);
            match text.as_deref().and_then(|t| if name.ends_with(".json") { of_json(t) } else { of_native(t) }) {
                Some(found) => found.into_iter().for_each(|(name, declared)| all.add(name, declared)),
                None => all.doubtful = true,
            }
        }
        all
    }

    fn add(&mut self, name: String, declared: Declared) {
        let entry = self.known.entry(name).or_default();
        entry.plain = declared.plain.or(entry.plain);
        // once is enough: better too little shown than too much
        entry.sensitive |= declared.sensitive;
    }
}

/// Whether a plain text becomes a value of that type.
fn is_plain(name: &str) -> bool {
    matches!(name, "string" | "number" | "bool")
}

/// The declarations of a file in the engines' own language; `None` where it is not understood.
fn of_native(text: &str) -> Option<Vec<(String, Declared)>> {
    let tokens = tokens(text)?;
    let mut found = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some(first) = rest.first() {
        rest = match rest {
            [Token::Word(word), Token::Text(name) | Token::Word(name), Token::Open, body @ ..]
                if word == "variable" =>
            {
                let (declared, rest) = body_of(body)?;
                found.push((name.clone(), declared));
                rest
            }
            _ if *first == Token::Newline => &rest[1..],
            _ => &rest[statement(rest)?..],
        };
    }
    Some(found)
}

/// What stands between a declaration's braces, and what comes after them.
fn body_of(mut rest: &[Token]) -> Option<(Declared, &[Token])> {
    let mut declared = Declared::default();
    loop {
        rest = match rest {
            [Token::Newline, rest @ ..] => rest,
            [Token::Close, rest @ ..] => return Some((declared, rest)),
            [Token::Word(name), Token::Equals, value @ ..] => {
                let (value, rest) = value.split_at(statement(value)?);
                match name.as_str() {
                    "type" => {
                        let plain = matches!(value, [Token::Word(t) | Token::Text(t)] if is_plain(t));
                        declared.plain = Some(plain);
                    }
                    "sensitive" | "ephemeral" => {
                        declared.sensitive |= !matches!(value, [Token::Word(word)] if word == "false");
                    }
                    _ => {}
                }
                rest
            }
            [] => return None,
            _ => &rest[statement(rest)?..],
        };
    }
}

/// The declarations of a file in JSON; `None` where it is not understood.
fn of_json(text: &str) -> Option<Vec<(String, Declared)>> {
    let root: Node = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
    let mut found = Vec::new();
    for (_, variables) in root.members().into_iter().filter(|(key, _)| *key == "variable") {
        for (name, body) in variables.members() {
            let mut declared = Declared::default();
            for (key, value) in body.members() {
                match key {
                    "type" => declared.plain = Some(value.expression().is_some_and(is_plain)),
                    "sensitive" | "ephemeral" => {
                        let no = matches!(value, Node::Bool(false)) || value.expression() == Some("false");
                        declared.sensitive |= !no;
                    }
                    _ => {}
                }
            }
            found.push((name.to_owned(), declared));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(found: Option<Vec<(String, Declared)>>) -> String {
        let Some(found) = found else { return "in doubt".into() };
        let one = |(name, declared): (String, Declared)| {
            let plain = match declared.plain {
                None => "untyped",
                Some(true) => "plain",
                Some(false) => "other",
            };
            format!("{name}:{plain}{}", if declared.sensitive { ":sensitive" } else { "" })
        };
        found.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn declarations_in_the_engines_language() {
        for (text, expected) in [
            ("variable \"a\" {}", "a:untyped"),
            ("variable a { type = string }", "a:plain"),
            (
                "variable \"a\" {\n type = \"string\"\n sensitive = true\n}\nvariable \"b\" {}",
                "a:plain:sensitive b:untyped",
            ),
            (
                "variable \"a\" { sensitive = false }\nvariable \"b\" { ephemeral = true }",
                "a:untyped b:untyped:sensitive",
            ),
            ("variable \"a\" {\n type = number # list(string)\n /* sensitive = true */\n}", "a:plain"),
            ("variable \"a\" {\n type = list(\n  string\n )\n}", "a:other"),
            ("variable \"a\" { type = any }\nvariable \"b\" { type = bool }", "a:other b:plain"),
            ("variable \"a\" {\n type = object({\n  sensitive = string\n  type = string\n })\n}", "a:other"),
            (
                "variable \"a\" {\n default = <<EOT\n}\nsensitive = true\nEOT\n description = \"} variable \\\"x\\\" {\"\n type = map(string)\n}",
                "a:other",
            ),
            (
                "variable \"a\" {\n validation {\n  condition = var.a != \"\"\n  error_message = \"type = list ${\"}\"}\"\n }\n sensitive = !false\n}",
                "a:untyped:sensitive",
            ),
            ("locals {\n variable = { a = 1 }\n}\noutput \"variable\" {\n value = [\n  variable.a\n ]\n}", ""),
            ("# variable \"a\" {}\n// variable \"b\" {}\n/*\nvariable \"c\" {}\n*/", ""),
            ("resource \"a\" \"b\" {\n variable \"c\" {}\n}\nvariable \"d\" {}", "d:untyped"),
            ("x = \"\"\"\nvariable \"a\" {}", "in doubt"),
            ("variable \"a\" {", "in doubt"),
            ("variable \"a\" {}\n}\n", "in doubt"),
            ("resource {", "in doubt"),
            ("", ""),
        ] {
            assert_eq!(shown(of_native(text)), expected, "{text}");
        }
    }

    #[test]
    fn declarations_in_json() {
        for (text, expected) in [
            (r#"{"variable":{"a":{},"b":{"type":"string","sensitive":true}}}"#, "a:untyped b:plain:sensitive"),
            (r#"{"variable":[{"a":{"type":"list(string)"}},{"b":[{"type":"${number}"}]}]}"#, "a:other b:plain"),
            (
                r#"{"variable":{"a":{"sensitive":"${false}"}},"variable":{"b":{"ephemeral":"true"}}}"#,
                "a:untyped b:untyped:sensitive",
            ),
            (r#"{"//":"variable","variable":{"//":{"x":1},"a":{"default":[1,-2,1.5,null]}}}"#, "a:untyped"),
            (r#"{"resource":{"variable":{"a":{}}}}"#, ""),
            ("{", "in doubt"),
        ] {
            assert_eq!(shown(of_json(text)), expected, "{text}");
        }
    }

    #[test]
    fn the_engines_files_are_read_and_what_overrides_comes_last() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("a_override.tf", "variable \"a\" { type = list(string) }"),
            ("b.tf.json", r#"{"variable":{"b":{"sensitive":true}}}"#),
            ("main.tf", "variable \"a\" {\n type = string\n sensitive = true\n}"),
            (".hidden.tf", "variable \"x\" {"),
            ("old.tf~", "variable \"x\" {"),
            ("readme.md", "variable \"x\" {"),
        ] {
            std::fs::write(folder.path().join(name), text).expect("writes");
        }
        std::fs::create_dir(folder.path().join("folder.tf")).expect("a folder");
        let read = |extensions: &[&str]| {
            let all = Declarations::read(folder.path(), extensions);
            assert!(!all.doubtful);
            shown(Some(all.known.into_iter().collect()))
        };
        assert_eq!(read(&[".tf", ".tf.json"]), "a:other:sensitive b:untyped:sensitive");
        std::fs::write(folder.path().join("main.tofu"), "variable \"c\" {}\nvariable \"a\" {}").expect("writes");
        assert_eq!(read(&[".tf", ".tf.json"]), "a:other:sensitive b:untyped:sensitive");
        assert_eq!(read(&[".tf", ".tf.json", ".tofu", ".tofu.json"]), "a:other b:untyped:sensitive c:untyped");
        std::fs::write(folder.path().join("broken.tf"), b"variable \"x\" \xff").expect("writes");
        assert!(Declarations::read(folder.path(), &[".tf"]).doubtful);
        assert!(Declarations::read(&folder.path().join("nowhere"), &[".tf"]).doubtful);
    }
}
