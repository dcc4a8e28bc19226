//! What version of its engine a job asks for: the stack's own word, the nearest version file of the source, and what the root module
//! requires. All of them hold together.

use super::dialect::Dialect;
use crate::configuration::tokens::{Token, tokens};
use crate::configuration::{Node, files, overrides, read, statement};
use shared_proto::failure::{Code, Failure};
use shared_proto::version::{Constraint, Version};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The longest version file that is read, bytes.
const VERSION_FILE_MAX: u64 = 4096;
/// The most `required_version`s that are looked at; the engine looks at all of them.
const REQUIRED_MAX: usize = 64;

/// All that is asked of one job's engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    asks: Vec<Ask>,
    /// Somebody asks for the newest that there is, and says so in this file.
    newest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ask {
    /// Who asks, in words.
    by: String,
    constraint: Constraint,
    /// Whether a pre-release stands for its release, as the engines take their own `required_version`.
    by_core: bool,
}

/// What a version file says.
enum Said {
    Constraint(Constraint),
    Newest,
}

// === impl Asked ===

impl Asked {
    /// What is asked. `stack`: what the stack says, empty for nothing; `top`: the source's folder, which has the root module in it.
    ///
    /// # Errors
    /// `invalid_argument` for the stack's word, `source_refused` for a version file's, where they are not understood. What the module requires and is not
    /// understood is left to the engine, which refuses it in its own words.
    pub(crate) fn read(stack: &str, top: &Path, root: &Path, dialect: &'static dyn Dialect) -> Result<Self, Failure> {
        let mut asked = Self::default();
        if !stack.is_empty() {
            let constraint = Constraint::parse(stack)
                .map_err(|what| Code::InvalidArgument.on(format!("the stack's engine version: {what}")))?;
            asked.asks.push(Ask { by: "the stack".into(), constraint, by_core: false });
        }
        let top = top.canonicalize().unwrap_or_else(|_| top.to_owned());
        for folder in root.ancestors().take_while(|folder| folder.starts_with(&top)) {
            let Some(name) = dialect.version_file() else { break };
            let path = folder.join(name);
            let shown = path.strip_prefix(&top).unwrap_or(&path).display().to_string();
            match version_file(&path, &shown)? {
                None => continue,
                Some(Said::Newest) => asked.newest = Some(shown),
                Some(Said::Constraint(constraint)) => asked.asks.push(Ask { by: shown, constraint, by_core: false }),
            }
            break;
        }
        let required = dialect.required(root).into_iter();
        asked.asks.extend(required.map(|(by, constraint)| Ask { by, constraint, by_core: true }));
        Ok(asked)
    }

    /// That version and no other, because the saved plan is of it; nothing where it is no version.
    pub(crate) fn as_planned(version: &str) -> Self {
        let constraint = Version::parse(version).map(|version| Constraint::exactly(&version));
        let ask = |constraint| Ask { by: "the saved plan".into(), constraint, by_core: false };
        Self { asks: constraint.ok().map(ask).into_iter().collect(), newest: None }
    }

    /// Whether nobody asks for anything.
    pub(crate) fn is_nothing(&self) -> bool {
        self.asks.is_empty() && self.newest.is_none()
    }
    /// Whether the newest that is allowed is to be taken, rather than what the runner takes otherwise.
    pub(crate) fn is_newest(&self) -> bool {
        self.newest.is_some()
    }
    /// Whether all who ask allow that version.
    pub(crate) fn allows(&self, version: &Version) -> bool {
        self.asks.iter().all(|ask| ask.allows(version))
    }
    /// Whether somebody asks for one version alone.
    pub(crate) fn is_exact(&self) -> bool {
        self.asks.iter().any(|ask| ask.constraint.only().is_some())
    }
    /// The newest of the versions that are named and that all allow: one to install.
    pub(crate) fn example(&self) -> Option<&Version> {
        self.asks.iter().flat_map(|ask| ask.constraint.named()).filter(|version| self.allows(version)).max()
    }
}

impl std::fmt::Display for Asked {
    /// Each with who asks.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let asks = self.asks.iter().map(|ask| format!("{} ({})", ask.constraint, ask.by));
        let newest = self.newest.iter().map(|file| format!("the newest ({file})"));
        f.write_str(&asks.chain(newest).collect::<Vec<_>>().join(", "))
    }
}

// === impl Ask ===

impl Ask {
    fn allows(&self, version: &Version) -> bool {
        if self.by_core { self.constraint.allows(&version.core()) } else { self.constraint.allows(version) }
    }
}

/// What a version file says; `None`: it is not there, or says nothing. It takes what tfenv and tenv take
/// (<https://github.com/tfutils/tfenv#terraform-version-file>, <https://github.com/tofuutils/tenv#version-files>): a version, a constraint,
/// `latest`, `latest-stable` and `latest-allowed`, which are one thing where all that is asked holds together. Expressions over versions
/// and the oldest that is allowed are not taken.
fn version_file(path: &Path, shown: &str) -> Result<Option<Said>, Failure> {
    let flags = nix::libc::O_NONBLOCK;
    let Ok(file) = std::fs::File::options().read(true).custom_flags(flags).open(path) else { return Ok(None) };
    let refused = |what: String| {
        Err(Code::SourceRefused
            .on(format!("{shown}: {what}"))
            .next("Write a version as 1.9.0, a constraint as ~> 1.9.0, or latest into it."))
    };
    let mut text = String::new();
    let is_file = file.metadata().is_ok_and(|m| m.is_file());
    match file.take(VERSION_FILE_MAX + 1).read_to_string(&mut text) {
        Ok(length) if is_file && length as u64 <= VERSION_FILE_MAX => {}
        Ok(_) if is_file => return refused(format!("it is longer than {VERSION_FILE_MAX} bytes")),
        _ => return refused("it is no text file".into()),
    }
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty());
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return refused("it has more than one line".into());
    }
    if matches!(line, "latest" | "latest-stable" | "latest-allowed") {
        return Ok(Some(Said::Newest));
    }
    match Constraint::parse(line) {
        Ok(constraint) => Ok(Some(Said::Constraint(constraint))),
        Err(what) => refused(what),
    }
}

/// The `required_version`s of the root module, each with where it is. Those of an overriding file take the place of all before it.
pub(super) fn required(root: &Path, extensions: &[&str]) -> Vec<(String, Constraint)> {
    let mut all = Vec::new();
    let mut files = files(root, extensions).unwrap_or_default();
    files.sort_by_key(|(name, _)| (overrides(name), name.clone()));
    for (name, path) in files {
        let text = read(&path).unwrap_or_default();
        let found = if name.ends_with(".json") { of_json(&text) } else { of_native(&text) };
        let found = found.unwrap_or_default();
        if overrides(&name) && !found.is_empty() {
            all.clear();
        }
        // what names a pre-release is no required_version: the engine says so
        let understood = |text: String| {
            Constraint::parse(&text).ok().filter(|constraint| !constraint.named().any(Version::is_pre_release))
        };
        let by = format!("required_version in {name}");
        all.extend(found.into_iter().filter_map(understood).map(|constraint| (by.clone(), constraint)));
        all.truncate(REQUIRED_MAX);
    }
    all
}

/// Those of a file in the engines' own language; `None` where it is not understood.
fn of_native(text: &str) -> Option<Vec<String>> {
    let tokens = tokens(text)?;
    let mut found = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some(first) = rest.first() {
        rest = match rest {
            [Token::Word(word), Token::Open, body @ ..] if word == "terraform" => settings(body, &mut found)?,
            _ if *first == Token::Newline => &rest[1..],
            _ => &rest[statement(rest)?..],
        };
    }
    Some(found)
}

/// Over what stands between a block's braces. What comes after them.
fn settings<'a>(mut rest: &'a [Token], found: &mut Vec<String>) -> Option<&'a [Token]> {
    loop {
        rest = match rest {
            [Token::Newline, rest @ ..] => rest,
            [Token::Close, rest @ ..] => return Some(rest),
            [] => return None,
            [Token::Word(name), Token::Equals, value @ ..] if name == "required_version" => {
                let (value, rest) = value.split_at(statement(value)?);
                if let [Token::Text(text)] = value {
                    found.push(text.clone());
                }
                rest
            }
            _ => &rest[statement(rest)?..],
        };
    }
}

/// Those of a file in JSON; `None` where it is not understood.
fn of_json(text: &str) -> Option<Vec<String>> {
    let root: Node = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
    let blocks = root.members().into_iter().filter(|(key, _)| *key == "terraform");
    let settings = blocks.flat_map(|(_, block)| block.members());
    let required = settings.filter(|(key, _)| *key == "required_version");
    Some(required.filter_map(|(_, value)| value.expression().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::opentofu::OPENTOFU;
    use super::super::terraform::TERRAFORM;
    use super::*;
    use std::fs;

    fn source(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            fs::write(path, text).expect("writes");
        }
        folder
    }
    fn asked(
        stack: &str,
        files: &[(&str, &str)],
        root: &str,
        dialect: &'static dyn Dialect,
    ) -> Result<String, Failure> {
        let folder = source(files);
        let root = folder.path().join(root).canonicalize().expect("is there");
        Asked::read(stack, folder.path(), &root, dialect).map(|asked| asked.to_string())
    }

    #[test]
    fn required_versions_are_found_where_the_engine_finds_them() {
        for (text, expected) in [
            ("terraform {\n  required_version = \">= 1.5\"\n}", &[">= 1.5"][..]),
            (
                "terraform { required_version = \"~> 1.9.0\" }\nterraform {\n required_version = \"!= 1.9.3\"\n}",
                &["~> 1.9.0", "!= 1.9.3"],
            ),
            ("terraform {\n required_providers {\n  required_version = { version = \"1\" }\n }\n}", &[]),
            (
                "terraform {\n backend \"s3\" {\n  required_version = \"9\"\n }\n required_version = \"1.9.0\" # so\n}",
                &["1.9.0"],
            ),
            ("# terraform { required_version = \"9\" }\nlocals {\n required_version = \"9\"\n}", &[]),
            ("resource \"terraform\" \"x\" {\n required_version = \"9\"\n}", &[]),
            ("terraform {\n required_version = var.x\n}", &[]),
            ("", &[]),
        ] {
            assert_eq!(
                of_native(text).as_deref(),
                Some(expected).map(|e| e.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{text}"
            );
        }
        for text in ["terraform {", "terraform { required_version = \"1", "}"] {
            assert_eq!(of_native(text), None, "{text}");
        }
        for (text, expected) in [
            (r#"{"terraform":{"required_version":">= 1.5"}}"#, Some(vec![">= 1.5".to_owned()])),
            (
                r#"{"terraform":[{"required_version":"1.9"},{"backend":{"required_version":"9"}}]}"#,
                Some(vec!["1.9".to_owned()]),
            ),
            (r#"{"//":{"required_version":"9"},"locals":{"required_version":"9"}}"#, Some(vec![])),
            ("{", None),
        ] {
            assert_eq!(of_json(text), expected, "{text}");
        }
    }

    #[test]
    fn all_that_is_asked_is_found_with_who_asks() {
        let files = [
            (".opentofu-version", "1.8.0\n"),
            (".terraform-version", "1.5.7\n"),
            ("infra/main.tf", "terraform {\n required_version = \">= 1.6\"\n}"),
            ("infra/other.tf", "terraform {\n required_version = \">= 1.7.0-beta1\"\n}"),
            ("infra/not.tf", "terraform {\n required_version = \"whatever\"\n}"),
            ("infra/x.tf.json", r#"{"terraform":{"required_version":"< 2"}}"#),
        ];
        let found = asked("~> 1.8", &files, "infra", &OPENTOFU);
        let required = ">= 1.6 (required_version in main.tf), < 2 (required_version in x.tf.json)";
        assert_eq!(found, Ok(format!("~> 1.8 (the stack), 1.8.0 (.opentofu-version), {required}")));
        assert_eq!(asked("", &files, "infra", &TERRAFORM), Ok(format!("1.5.7 (.terraform-version), {required}")));
        // no more than that are looked at
        let many: String =
            (0..=REQUIRED_MAX).map(|n| format!("terraform {{\n required_version = \"!= 0.0.{n}\"\n}}\n")).collect();
        let found = asked("", &[("main.tf", &many)], "", &OPENTOFU).expect("reads");
        assert_eq!(found.matches("required_version").count(), REQUIRED_MAX);
        // an overriding file says it alone
        let mut overridden = files.to_vec();
        overridden.push(("infra/a_override.tf", "terraform {\n required_version = \"1.9.9\"\n}"));
        let found = asked("", &overridden[2..], "infra", &OPENTOFU);
        assert_eq!(found, Ok("1.9.9 (required_version in a_override.tf)".to_owned()));
        assert_eq!(asked("", &[("main.tf", "")], "", &OPENTOFU), Ok(String::new()));
        let failure = asked("latest", &[("main.tf", "")], "", &OPENTOFU).expect_err("no constraint");
        assert_eq!(failure.code, Code::InvalidArgument);
    }

    #[test]
    fn the_nearest_version_file_counts_and_none_outside_of_the_source() {
        let of = |files: &[(&str, &str)]| {
            let mut files = files.to_vec();
            files.push(("source/a/b/main.tf", ""));
            let folder = source(&files);
            let top = folder.path().join("source");
            let root = top.join("a/b").canonicalize().expect("is there");
            Asked::read("", &top, &root, &TERRAFORM).map(|asked| asked.to_string())
        };
        let name = ".terraform-version";
        let [here, above, top, outside] =
            ["source/a/b", "source/a", "source", ""].map(|folder| Path::new(folder).join(name).display().to_string());
        let said = |text: &str| Ok(text.to_owned());
        assert_eq!(of(&[(&here, "1.1.1"), (&above, "1.2.2")]), said("1.1.1 (a/b/.terraform-version)"));
        assert_eq!(of(&[(&above, "1.2.2"), (&top, "1.3.3")]), said("1.2.2 (a/.terraform-version)"));
        // one that says nothing is passed over
        assert_eq!(of(&[(&here, "# nothing\n\n"), (&top, "1.3.3")]), said("1.3.3 (.terraform-version)"));
        assert_eq!(of(&[(&outside, "1.4.4")]), said(""));
    }

    #[test]
    fn a_version_file_says_a_version_a_constraint_or_the_newest() {
        let of = |text: &str| asked("", &[(".opentofu-version", text), ("main.tf", "")], "", &OPENTOFU);
        for (text, expected) in [
            ("1.9.0", "1.9.0"),
            ("v1.9.0\r\n", "v1.9.0"),
            ("\u{feff}1.9.0 # as in production\n", "1.9.0"),
            ("~> 1.9.0, != 1.9.3", "~> 1.9.0, != 1.9.3"),
            ("latest", "the newest"),
            ("latest-stable\n", "the newest"),
            ("latest-allowed", "the newest"),
        ] {
            assert_eq!(of(text), Ok(format!("{expected} (.opentofu-version)")), "{text}");
        }
        let just = format!("1.9.0{}", " ".repeat(VERSION_FILE_MAX as usize - 5));
        assert!(of(&just).is_ok());
        for text in ["latest:^1.9", "min-required", "latest-pre", "1.9.0\n1.8.0", "one", &format!("{just} ")] {
            let failure = of(text).expect_err(text);
            assert_eq!(failure.code, Code::SourceRefused, "{text}");
            assert!(failure.message.starts_with(".opentofu-version: "), "{failure}");
            assert!(failure.next_step.contains("1.9.0"), "{failure}");
        }
        let folder = source(&[("main.tf", ""), (".opentofu-version/x", "")]);
        assert!(Asked::read("", folder.path(), &folder.path().canonicalize().expect("real"), &OPENTOFU).is_err());
    }

    #[test]
    fn all_hold_together_and_a_required_version_takes_a_pre_release_for_its_release() {
        let folder = source(&[("main.tf", "terraform {\n required_version = \">= 1.9.0, < 1.11\"\n}")]);
        let root = folder.path().canonicalize().expect("real");
        let of = |stack: &str| Asked::read(stack, folder.path(), &root, &OPENTOFU).expect("reads");
        let allows = |asked: &Asked, text: &str| asked.allows(&Version::parse(text).expect("a version"));
        assert!(allows(&of(""), "1.9.0") && allows(&of(""), "1.10.0-beta1") && !allows(&of(""), "1.11.0"));
        assert!(allows(&of("!= 1.9.1"), "1.9.0") && !allows(&of("!= 1.9.1"), "1.9.1"));
        assert!(!allows(&of("~> 1.9"), "1.10.0-beta1"));
        let example = |stack: &str| of(stack).example().map(ToString::to_string);
        assert_eq!(
            (example(""), example("1.10.3"), example("1.8.0")),
            (Some("1.9.0".into()), Some("1.10.3".into()), None)
        );
        assert!(of("1.9.0").is_exact() && !of("").is_exact());
        let planned = Asked::as_planned("1.12.6-dev");
        assert!(allows(&planned, "1.12.6-dev") && !allows(&planned, "1.12.6"));
        assert!(Asked::as_planned("").is_nothing());
    }
}
