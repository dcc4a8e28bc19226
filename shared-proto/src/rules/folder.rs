//! A set as a folder: every `*.toml` at its top has rules (`[[rule]]`), every `*.rego` in it is a module, `data.json` is what they have as `data`, below the
//! names of the folders that it is in. What an OPA bundle is, is one too. Files of tests (`*_test.rego`, `tests.toml`) and what is hidden are passed over.
//!
//! It must never pass over what a rule might need: that is an error.

use super::{MODULES_MAX, Module, Rule, SET_MAX, Set};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The most entries that are looked at.
const ENTRIES_MAX: usize = 1024;
/// The most folders in each other, with the file.
const DEPTH_MAX: usize = 16;

/// Why a folder is no set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It, or a file in it, cannot be read.
    #[error("{}: {source}; see to its owner and its mode", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}: {what}", path.display())]
    Wrong {
        /// The file, or the folder where it is of all of them.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A file of rules.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(default)]
    rule: Vec<Rule>,
}

/// Files that become a set, in whatever order they come: of a folder, or of an OPA bundle as it is packed.
#[derive(Debug)]
pub struct Gathering {
    /// What all of them are in.
    of: PathBuf,
    seen: usize,
    left: usize,
    files: Vec<(PathBuf, String)>,
}

/// Reads a folder with those in it; `None`: there is none.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn load(folder: &Path) -> Result<Option<Set>, FolderError> {
    let mut gathering = Gathering::new(folder);
    match gather(folder, Path::new(""), &mut gathering) {
        Err(FolderError::Unreadable { path, source }) if path == folder && source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        gathered => gathered?,
    }
    gathering.finish().map(Some)
}

fn gather(folder: &Path, below: &Path, gathering: &mut Gathering) -> Result<(), FolderError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError::Unreadable { path, source }
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let entry = entry.map_err(unreadable(folder))?;
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        // a link to a folder is none: it may lead back here
        if entry.file_type().map_err(unreadable(&path))?.is_dir() {
            gathering.saw(&name)?;
            if !is_hidden(&name) {
                gather(&path, &name, gathering)?;
            }
        } else if gathering.wants(&name)? {
            gathering.add(&name, std::fs::File::open(&path).map_err(unreadable(&path))?)?;
        }
    }
    Ok(())
}

/// A part of its way begins with a dot: of what an editor keeps of a file, or what a bundle says of itself.
fn is_hidden(name: &Path) -> bool {
    name.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."))
}

// === impl Gathering ===

impl Gathering {
    /// Nothing yet, of what is called so.
    pub fn new(of: &Path) -> Self {
        Self { of: of.to_owned(), seen: 0, left: SET_MAX, files: Vec::new() }
    }

    /// Whether a file is part of a set. Patterns are at the top alone: further down they would be taken for what is in force, and are an error.
    ///
    /// # Errors
    /// It would be, and cannot be read here; there are too many files.
    pub fn wants(&mut self, name: &Path) -> Result<bool, FolderError> {
        self.saw(name)?;
        if is_hidden(name) {
            return Ok(false);
        }
        let file = name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let at_the_top = name.components().count() == 1;
        match file.rsplit_once('.').map_or("", |(_, extension)| extension) {
            "rego" => Ok(!file.ends_with("_test.rego")),
            "toml" if file == "tests.toml" => Ok(false),
            "toml" if !at_the_top => {
                Err(self.wrong(name, "rules of patterns are read at the top alone: put it there".to_owned()))
            }
            "toml" => Ok(true),
            "wasm" => Err(self.wrong(name, "a compiled policy is not run here: give its modules of Rego".to_owned())),
            "yaml" | "yml" if file.starts_with("data.") => {
                Err(self.wrong(name, "YAML is not read here: give it as data.json".to_owned()))
            }
            _ => Ok(file == "data.json"),
        }
    }

    fn saw(&mut self, name: &Path) -> Result<(), FolderError> {
        self.seen += 1;
        if self.seen > ENTRIES_MAX {
            return Err(self.wrong(Path::new(""), format!("it has more than {ENTRIES_MAX} files")));
        }
        if name.components().count() > DEPTH_MAX {
            return Err(self.wrong(name, format!("it is more than {DEPTH_MAX} folders deep")));
        }
        Ok(())
    }

    /// Adds a file that is wanted.
    ///
    /// # Errors
    /// It cannot be read, or is too much.
    pub fn add(&mut self, name: &Path, content: impl io::Read) -> Result<(), FolderError> {
        let mut text = String::new();
        let most = u64::try_from(self.left).unwrap_or(u64::MAX).saturating_add(1);
        content
            .take(most)
            .read_to_string(&mut text)
            .map_err(|source| FolderError::Unreadable { path: self.of.join(name), source })?;
        self.left = self
            .left
            .checked_sub(text.len())
            .ok_or_else(|| self.wrong(Path::new(""), format!("its files take more than {SET_MAX} bytes together")))?;
        self.files.push((name.to_owned(), text));
        Ok(())
    }

    /// The set.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub fn finish(mut self) -> Result<Set, FolderError> {
        // the same set whatever order they came in
        self.files.sort();
        let mut set = Set::default();
        let mut data = Map::new();
        for (name, text) in std::mem::take(&mut self.files) {
            match name.extension().and_then(|extension| extension.to_str()) {
                Some("toml") => {
                    let rules: Rules =
                        toml::from_str(&text).map_err(|e| self.wrong(&name, e.to_string().trim_end().to_owned()))?;
                    set.rule.extend(rules.rule);
                }
                Some("rego") if set.rego.len() < MODULES_MAX => {
                    let parts: Vec<_> = name.components().map(|p| p.as_os_str().to_string_lossy()).collect();
                    set.rego.push(Module { name: parts.join("."), text });
                }
                Some("rego") => {
                    return Err(self.wrong(Path::new(""), format!("it has more than {MODULES_MAX} modules of Rego")));
                }
                _ => {
                    let value = serde_json::from_str(&text).map_err(|e| self.wrong(&name, e.to_string()))?;
                    let folders = name.parent().into_iter().flat_map(Path::components);
                    let at: Vec<_> = folders.map(|f| f.as_os_str().to_string_lossy().into_owned()).collect();
                    put(&mut data, &at, value).map_err(|what| self.wrong(&name, what))?;
                    set.data = Some(Value::Object(data.clone()));
                }
            }
        }
        set.check().map_err(|what| self.wrong(Path::new(""), what))?;
        Ok(set)
    }

    fn wrong(&self, name: &Path, what: String) -> FolderError {
        let path = if name.as_os_str().is_empty() { self.of.clone() } else { self.of.join(name) };
        FolderError::Wrong { path, what }
    }
}

/// Puts what a file says below the names of its folders, as OPA does: <https://www.openpolicyagent.org/docs/management-bundles#bundle-file-format>.
fn put(data: &mut Map<String, Value>, at: &[String], value: Value) -> Result<(), String> {
    let Some((first, rest)) = at.split_first() else {
        let Value::Object(value) = value else { return Err("data is no object".to_owned()) };
        for (key, value) in value {
            put_one(data, key, value)?;
        }
        return Ok(());
    };
    let below = data.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(below) = below else { return Err(format!("another file says what {first:?} is")) };
    put(below, rest, value)
}

fn put_one(data: &mut Map<String, Value>, key: String, value: Value) -> Result<(), String> {
    match (data.get_mut(&key), value) {
        (None, value) => {
            data.insert(key, value);
            Ok(())
        }
        (Some(Value::Object(there)), Value::Object(more)) => {
            more.into_iter().try_for_each(|(key, value)| put_one(there, key, value))
        }
        (Some(_), _) => Err(format!("another file says what {key:?} is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Effect;

    #[test]
    fn a_folder_is_a_set() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(load(&folder.path().join("none")).expect("reads"), None);
        for (name, text) in [
            ("b.toml", "[[rule]]\nname = \"second\"\neffect = \"warn\"\n"),
            ("a.toml", "[[rule]]\nname = \"first\"\neffect = \"deny\"\n"),
            ("x.rego", "package runner.plan"),
            ("x_test.rego", "package runner.plan"),
            ("tests.toml", "[[case]]"),
            ("data.json", "{\"a\": 1}"),
            ("README.md", "words"),
            (".a.toml.swp", "words"),
        ] {
            std::fs::write(folder.path().join(name), text).expect("writes");
        }
        std::fs::create_dir(folder.path().join("plans.toml")).expect("a folder");
        let set = load(folder.path()).expect("reads").expect("a set");
        let names: Vec<_> = set.rule.iter().map(|rule| (rule.name.as_str(), rule.effect)).collect();
        assert_eq!(names, [("first", Effect::Deny), ("second", Effect::Warn)]);
        assert_eq!(set.rego.len(), 1);
        assert_eq!(set.data, Some(serde_json::json!({ "a": 1 })));
    }

    /// Files of a bundle, and the set or what is wrong.
    fn gathered(files: &[(&str, &str)]) -> Result<Set, FolderError> {
        let mut gathering = Gathering::new(Path::new("b.tar.gz"));
        for (name, text) in files {
            let name = Path::new(name);
            if gathering.wants(name)? {
                gathering.add(name, text.as_bytes())?;
            }
        }
        gathering.finish()
    }

    #[test]
    fn an_opa_bundle_is_a_set() {
        let files = [
            ("lib/names.rego", "package lib"),
            ("plan.rego", "package runner.plan"),
            ("plan_test.rego", "package runner.plan"),
            (".manifest", "{\"revision\": \"1\"}"),
            (".signatures.json", "{}"),
            ("data.json", "{\"zones\": {\"eu\": [1]}}"),
            ("zones/data.json", "{\"us\": [2]}"),
            ("a/b/data.json", "{\"c\": 3}"),
            ("plans/tests.toml", "none of ours"),
            ("plans/destroy.json", "{}"),
        ];
        let expected = gathered(&files).expect("a set");
        let modules: Vec<_> = expected.rego.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(modules, ["lib.names.rego", "plan.rego"]);
        let data = serde_json::json!({ "zones": { "eu": [1], "us": [2] }, "a": { "b": { "c": 3 } } });
        assert_eq!(expected.data, Some(data));
        // unpacked it is the same
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        assert_eq!(load(folder.path()).expect("reads"), Some(expected));
    }

    #[test]
    fn what_a_bundle_has_and_nobody_reads_here_is_an_error() {
        let deep = |folders: usize| format!("{}x.rego", "f/".repeat(folders));
        assert!(gathered(&[(&deep(DEPTH_MAX - 1), "")]).is_ok());
        for (files, words) in [
            (&[("policy.wasm", "")][..], "compiled policy"),
            (&[("sub/a.toml", "")], "sub/a.toml: rules of patterns are read at the top alone"),
            (&[("a/data.yaml", "a: 1")], "a/data.yaml: YAML is not read"),
            (&[("data.json", "[1]")], "data is no object"),
            (&[("data.json", "{\"a\": 1}"), ("a/data.json", "{\"b\": 2}")], "another file says what \"a\" is"),
            (&[("a/data.json", "{\"b\": 1}"), ("data.json", "{\"a\": {\"b\": 2}}")], "another file says what \"b\" is"),
            (&[(&deep(DEPTH_MAX), "")], "folders deep"),
        ] {
            let error = gathered(files).expect_err(words).to_string();
            assert!(error.starts_with("b.tar.gz") && error.contains(words), "{error}");
        }
        let mut gathering = Gathering::new(Path::new("b"));
        for n in 0..ENTRIES_MAX {
            assert!(gathering.wants(Path::new("README.md")).is_ok(), "{n}");
        }
        assert!(gathering.wants(Path::new("README.md")).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_file() {
        for (name, text, words) in [
            ("a.toml", "[[rule]]\nname = \"a\"\ntyps = []\n", "a.toml: TOML parse error at line 3"),
            ("a.toml", "[[rules]]\nname = \"a\"\n", "unknown field `rules`"),
            ("a.toml", "[[rule]]\nname = \"a\"\nactions = [\"x\"]\n", "rule \"a\": \"x\" is no action"),
            ("data.json", "[", "data.json: EOF"),
            ("x.rego", &"x".repeat(SET_MAX + 1), "more than 262144 bytes"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join(name), text).expect("writes");
            let error = load(folder.path()).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        for n in 0..=MODULES_MAX {
            assert!(load(folder.path()).is_ok(), "{n}");
            std::fs::write(folder.path().join(format!("{n}.rego")), "").expect("writes");
        }
        assert!(load(folder.path()).expect_err("too many").to_string().contains("modules"));
    }
}
