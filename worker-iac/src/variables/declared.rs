//! Which variables a root module declares, whether each takes a plain text, and whether its values are to be kept from sight. The
//! engine reads its language best; this reads no more than it has to, and says where it is in doubt.

use super::Known;
use super::tokens::{Token, tokens};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::path::{Path, PathBuf};

/// The largest file of a configuration that is read, bytes.
const FILE_MAX: u64 = 8 * 1024 * 1024;

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

/// JSON with every key that is there: in a configuration one may be there twice.
enum Node {
    Object(Vec<(String, Self)>),
    Array(Vec<Self>),
    Text(String),
    Bool(bool),
    Other,
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

/// The files of a configuration, by name.
fn files(root: &Path, extensions: &[&str]) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let ignored = name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'));
        if !ignored && extensions.iter().any(|extension| name.ends_with(extension)) && !entry.path().is_dir() {
            files.push((name, entry.path()));
        }
    }
    // OpenTofu does not read x.tf where there is x.tofu; the other engine knows no such files
    let names: Vec<_> = files.iter().map(|(name, _)| name.clone()).collect();
    files.retain(|(name, _)| {
        let (stem, json) = name.strip_suffix(".json").map_or((name.as_str(), ""), |stem| (stem, ".json"));
        stem.strip_suffix(".tf").is_none_or(|stem| !names.contains(&format!("{stem}.tofu{json}")))
    });
    Ok(files)
}

fn overrides(name: &str) -> bool {
    let stem = name.strip_suffix(".json").unwrap_or(name);
    let stem = stem.strip_suffix(".tf").or_else(|| stem.strip_suffix(".tofu")).unwrap_or(stem);
    stem == "override" || stem.ends_with("_override")
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).ok()?;
    let mut text = String::new();
    let length = file.take(FILE_MAX + 1).read_to_string(&mut text).ok()?;
    (length as u64 <= FILE_MAX).then_some(text)
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

/// How long it goes to the end of the line, over what is in brackets, or to a bracket that closes more.
fn statement(tokens: &[Token]) -> Option<usize> {
    let mut open = 0_usize;
    for (length, token) in tokens.iter().enumerate() {
        match token {
            Token::Newline if open == 0 => return Some(length),
            Token::Open => open += 1,
            // where nothing comes before it, there is nothing that it could close
            Token::Close if open == 0 => return (length > 0).then_some(length),
            Token::Close => open -= 1,
            _ => {}
        }
    }
    (open == 0).then_some(tokens.len())
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

// === impl Node ===

impl Node {
    /// The members of an object, or of every object in a list: both stand for blocks.
    fn members(&self) -> Vec<(&str, &Self)> {
        match self {
            Self::Object(members) => members.iter().map(|(key, value)| (key.as_str(), value)).collect(),
            Self::Array(items) => items.iter().flat_map(Self::members).collect(),
            _ => Vec::new(),
        }
    }
    /// A text without the `${…}` around an expression.
    fn expression(&self) -> Option<&str> {
        let Self::Text(text) = self else { return None };
        let inner = text.strip_prefix("${").and_then(|text| text.strip_suffix('}'));
        Some(inner.unwrap_or(text).trim())
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Node::Array(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = items.next_key::<String>()? {
            // a comment may be anything
            if key == "//" {
                items.next_value::<IgnoredAny>()?;
            } else {
                all.push((key, items.next_value()?));
            }
        }
        Ok(Node::Object(all))
    }
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
