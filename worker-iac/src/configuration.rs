//! The files of a root module, read no further than it takes to find what the runner itself has to know of them. The engine reads its
//! language best: nothing is evaluated here, and what is not understood is no answer.

pub(crate) mod tokens;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::path::{Path, PathBuf};
use tokens::Token;

/// The largest file of a configuration that is read, bytes.
const FILE_MAX: u64 = 8 * 1024 * 1024;

/// JSON with every key that is there: in a configuration one may be there twice.
pub(crate) enum Node {
    Object(Vec<(String, Self)>),
    Array(Vec<Self>),
    Text(String),
    Bool(bool),
    Other,
}

/// The files in the folder that the engine reads, by name.
///
/// # Errors
/// The file system's.
pub(crate) fn files(root: &Path, extensions: &[&str]) -> std::io::Result<Vec<(String, PathBuf)>> {
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

/// Whether the engine reads a file of that name last, over what others say.
pub(crate) fn overrides(name: &str) -> bool {
    let stem = name.strip_suffix(".json").unwrap_or(name);
    let stem = stem.strip_suffix(".tf").or_else(|| stem.strip_suffix(".tofu")).unwrap_or(stem);
    stem == "override" || stem.ends_with("_override")
}

/// The text of a file; `None`: it is none, or too long.
pub(crate) fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).ok()?;
    let mut text = String::new();
    let length = file.take(FILE_MAX + 1).read_to_string(&mut text).ok()?;
    (length as u64 <= FILE_MAX).then_some(text)
}

/// How long it goes to the end of the line, over what is in brackets, or to a bracket that closes more.
pub(crate) fn statement(tokens: &[Token]) -> Option<usize> {
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

// === impl Node ===

impl Node {
    /// The members of an object, or of every object in a list: both stand for blocks.
    pub(crate) fn members(&self) -> Vec<(&str, &Self)> {
        match self {
            Self::Object(members) => members.iter().map(|(key, value)| (key.as_str(), value)).collect(),
            Self::Array(items) => items.iter().flat_map(Self::members).collect(),
            _ => Vec::new(),
        }
    }
    /// A text without the `${…}` around an expression.
    pub(crate) fn expression(&self) -> Option<&str> {
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
