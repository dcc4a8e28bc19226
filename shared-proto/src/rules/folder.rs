//! A set as a folder: every `*.toml` has rules (`[[rule]]`), every `*.rego` is a module, `data.json` is what they have as `data`. What an OPA bundle is,
//! unpacked, is one too. Files of tests (`*_test.rego`, `tests.toml`) and folders are passed over.

use super::{MODULES_MAX, Module, Rule, SET_MAX, Set};
use serde::Deserialize;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 1024;

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

/// Reads a folder; `None`: there is none.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn load(folder: &Path) -> Result<Option<Set>, FolderError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError::Unreadable { path, source }
    };
    let wrong = |path: &Path, what: String| FolderError::Wrong { path: path.to_owned(), what };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(unreadable(folder))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        if files.len() >= ENTRIES_MAX {
            return Err(wrong(folder, format!("it has more than {ENTRIES_MAX} files")));
        }
        files.push(entry.map_err(unreadable(folder))?.path());
    }
    // the same set whatever order a file system has
    files.sort();
    let mut set = Set::default();
    let mut left = SET_MAX;
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_test = name.ends_with("_test.rego") || name == "tests.toml";
        let counts = matches!(extension, "toml" | "rego") || name == "data.json";
        // of a hidden one an editor may keep a copy of what it changes
        if is_test || !counts || name.starts_with('.') || path.is_dir() {
            continue;
        }
        let text = read(&path, left).map_err(unreadable(&path))?;
        let Some(text) = text else {
            return Err(wrong(folder, format!("its files take more than {SET_MAX} bytes together")));
        };
        left -= text.len();
        match extension {
            "toml" => {
                let rules: Rules =
                    toml::from_str(&text).map_err(|e| wrong(&path, e.to_string().trim_end().to_owned()))?;
                set.rule.extend(rules.rule);
            }
            "rego" if set.rego.len() < MODULES_MAX => set.rego.push(Module { name, text }),
            "rego" => return Err(wrong(folder, format!("it has more than {MODULES_MAX} modules of Rego"))),
            _ => set.data = Some(serde_json::from_str(&text).map_err(|e| wrong(&path, e.to_string()))?),
        }
    }
    set.check().map_err(|what| wrong(folder, what))?;
    Ok(Some(set))
}

/// `None`: it is longer than that.
fn read(path: &Path, most: usize) -> io::Result<Option<String>> {
    let mut text = String::new();
    let more = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)?.take(more).read_to_string(&mut text)?;
    Ok(Some(text).filter(|text| text.len() <= most))
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
