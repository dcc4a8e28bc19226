//! A Pulumi project as far as the runner itself has to know it: its name, where its state is, what it declares and requires
//! (<https://www.pulumi.com/docs/iac/concepts/projects/project-file/>). A source says what is made, never which program makes it: what would
//! name one is refused.

use crate::configuration::{files, read};
use crate::variables::{Declarations, Declared};
use serde_json::{Map, Value};
use shared_proto::failure::{Code, Failure};
use shared_proto::version::{Constraint, Version};
use std::path::Path;

/// What its file may be called. JSON is read as what it is a part of.
pub(super) const FILES: &[&str] = &["Pulumi.yaml", "Pulumi.yml", "Pulumi.json"];
/// The key of the range of versions that it takes.
const REQUIRED: &str = "requiredPulumiVersion";

/// A project.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Project {
    /// What its file is called.
    pub(super) file: String,
    /// Its name.
    pub(super) name: String,
    whole: Map<String, Value>,
}

/// Where a project has its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Backend {
    /// Nowhere that outlives the job.
    Runner,
    /// There, by its address.
    Own(String),
}

// === impl Project ===

impl Project {
    /// The one of a root module.
    ///
    /// # Errors
    /// `source_refused`: it is not understood, or names a program.
    pub(super) fn read(root: &Path) -> Result<Self, Failure> {
        let refused = |file: &str, what: &str| Code::SourceRefused.on(format!("{file}: {what}"));
        let all = files(root, FILES).unwrap_or_default();
        let named = FILES.iter().find_map(|file| all.iter().find(|(name, _)| name == file));
        let Some((file, path)) = named else { return Err(refused(FILES[0], "it is not there")) };
        let whole = read(path).and_then(|text| serde_saphyr::from_str(&text).ok());
        // what it says of it may quote the file
        let Some(Value::Object(whole)) = whole else { return Err(refused(file, "it cannot be read as a project")) };
        let name = whole.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        // https://www.pulumi.com/docs/iac/concepts/projects/#project-name
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(plain) || name.starts_with('.') {
            return Err(refused(file, "it has no name of letters, digits, dashes, underscores and dots"));
        }
        let project = Self { file: file.clone(), name, whole };
        match project.program() {
            None => Ok(project),
            Some(what) => Err(refused(
                file,
                &format!("{what} names a program, and which programs run is not for a source to say"),
            )
            .next("Put the plug-in into the runner's directory of providers, and take this out of the project.")),
        }
    }

    /// What of it names a program, if anything does.
    fn program(&self) -> Option<String> {
        let plugins = self.whole.get("plugins").and_then(Value::as_object).into_iter().flatten();
        let of_plugins = plugins
            .filter(|(_, list)| list.as_array().is_some_and(|list| list.iter().any(|one| one.get("path").is_some())))
            .map(|(kind, _)| format!("plugins.{kind}"));
        let packages = self.whole.get("packages").and_then(Value::as_object).into_iter().flatten();
        let is_path = |package: &Value| {
            let source = package.as_str().or(package["source"].as_str()).unwrap_or_default();
            source.starts_with(['.', '/', '~'])
        };
        let of_packages = packages.filter(|(_, one)| is_path(one)).map(|(name, _)| format!("packages.{name}"));
        let binary = self.whole.get("runtime").is_some_and(|runtime| runtime["options"]["binary"].is_string());
        of_plugins.chain(of_packages).chain(binary.then(|| "runtime.options.binary".to_owned())).next()
    }

    /// Where it has its state. A folder of this machine would go with the job, or be none of its own.
    ///
    /// # Errors
    /// `credentials_unavailable`: with a service that jobs have no token of.
    pub(super) fn backend(&self) -> Result<Backend, Failure> {
        let url = self.whole.get("backend").map_or("", |backend| backend["url"].as_str().unwrap_or_default());
        match url.split_once("://") {
            None if url.is_empty() => Ok(Backend::Runner),
            Some(("file", _)) => Ok(Backend::Runner),
            Some(("s3" | "gs" | "azblob", _)) => Ok(Backend::Own(url.to_owned())),
            Some(("http" | "https", _)) => {
                let message =
                    format!("{} has its state in Pulumi Cloud, and jobs have no access token of it", self.file);
                Err(Code::CredentialsUnavailable.on(message).next(
                    "Leave `backend` out, and the runner keeps the state; or name a bucket (s3://, gs://, azblob://) of a connection's account.",
                ))
            }
            _ => Err(Code::SourceRefused.on(format!("{}: its backend is of no kind that is known", self.file))),
        }
    }

    /// The versions that it takes. Ranges with alternatives or placeholders are left to the engine, which refuses in its own words.
    /// <https://pkg.go.dev/github.com/blang/semver#ParseRange>
    pub(super) fn required(&self) -> Option<(String, Constraint)> {
        let range = self.whole.get(REQUIRED)?.as_str()?;
        let mut conditions = Vec::<String>::new();
        let mut operator = String::new();
        for word in range.split_whitespace() {
            let at = word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len());
            let (sign, version) = word.split_at(at);
            operator.push_str(sign);
            if version.is_empty() {
                continue;
            }
            let sign = match std::mem::take(&mut operator).as_str() {
                "" | "=" | "==" => "=",
                "!" | "!=" => "!=",
                ">" => ">",
                ">=" => ">=",
                "<" => "<",
                "<=" => "<=",
                _ => return None,
            };
            Version::parse_whole(version).ok()?;
            conditions.push(format!("{sign} {version}"));
        }
        let constraint = Constraint::parse(&conditions.join(", ")).ok().filter(|_| operator.is_empty())?;
        Some((format!("{REQUIRED} in {}", self.file), constraint))
    }

    /// What it declares of its configuration, and what a stack of it keeps encrypted.
    pub(super) fn declarations(&self, root: &Path, stack: &str) -> Declarations {
        let mut all = Declarations::default();
        for (key, declaration) in self.whole.get("config").and_then(Value::as_object).into_iter().flatten() {
            let Some(name) = self.own(key) else { continue };
            let plain = declaration["type"].as_str().map(|name| !matches!(name, "array" | "object"));
            let sensitive = declaration["secret"] == true;
            all.known.insert(name.to_owned(), Declared { plain, sensitive });
        }
        for (key, value) in self.of_stack(root, stack).as_object().into_iter().flatten() {
            if let Some(name) = self.own(key).filter(|_| holds_secret(value)) {
                all.known.entry(name.to_owned()).or_default().sensitive = true;
            }
        }
        all
    }

    /// The name of a key of its own; `None`: it is a provider's.
    fn own<'a>(&self, key: &'a str) -> Option<&'a str> {
        match key.split_once(':') {
            None => Some(key),
            Some((namespace, name)) => (namespace == self.name).then_some(name),
        }
    }

    /// The values that the source has for a stack.
    fn of_stack(&self, root: &Path, stack: &str) -> Value {
        // older projects have the folder where others have declarations
        let folder =
            ["stackConfigDir", "config"].iter().find_map(|key| self.whole.get(*key)?.as_str()).unwrap_or_default();
        let text =
            ["yaml", "json"].iter().find_map(|end| read(&root.join(folder).join(format!("Pulumi.{stack}.{end}"))));
        let whole: Option<Value> = text.and_then(|text| serde_saphyr::from_str(&text).ok());
        whole.map_or(Value::Null, |mut whole| whole["config"].take())
    }
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key("secure") || map.values().any(holds_secret),
        Value::Array(items) => items.iter().any(holds_secret),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Project, Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("Pulumi.yaml"), text).expect("writes");
        Project::read(folder.path())
    }

    #[test]
    fn a_project_is_read_and_what_is_none_is_refused() {
        assert_eq!(of("name: shop\nruntime: yaml\n").expect("reads").name, "shop");
        for bad in ["", "[]", "name: [", "runtime: yaml", "name: ../x", "name: a b", "name: .x"] {
            let failure = of(bad).expect_err(bad);
            assert!(failure.code == Code::SourceRefused && failure.message.starts_with("Pulumi.yaml: "), "{failure}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Project::read(folder.path()).expect_err("none").code, Code::SourceRefused);
        std::fs::write(folder.path().join("Pulumi.json"), r#"{"name": "shop"}"#).expect("writes");
        assert_eq!(Project::read(folder.path()).expect("reads").file, "Pulumi.json");
    }

    #[test]
    fn a_source_names_no_programs() {
        for (named, text) in [
            ("plugins.providers", "plugins:\n  providers:\n    - name: aws\n      path: ./bin"),
            ("plugins.languages", "plugins: { languages: [{ name: yaml, path: x }] }"),
            ("packages.x", "packages: { x: ./x }"),
            ("packages.x", "packages: { x: { source: /usr/bin/x } }"),
            ("runtime.options.binary", "runtime: { name: go, options: { binary: ./x } }"),
        ] {
            let failure = of(&format!("name: shop\n{text}")).expect_err(named);
            assert!(failure.message.contains(&format!("{named} names a program")), "{failure}");
        }
        for fine in ["packages: { aws: aws@6.0.0 }", "runtime: { name: nodejs, options: { packagemanager: npm } }"] {
            assert!(of(&format!("name: shop\n{fine}")).is_ok(), "{fine}");
        }
    }

    #[test]
    fn where_the_state_is() {
        let backend = |url: &str| of(&format!("name: shop\nbackend: {{ url: \"{url}\" }}")).expect("reads").backend();
        assert_eq!(of("name: shop").expect("reads").backend(), Ok(Backend::Runner));
        assert_eq!(backend("file://~"), Ok(Backend::Runner));
        assert_eq!(backend("s3://bucket?region=r"), Ok(Backend::Own("s3://bucket?region=r".into())));
        assert_eq!(backend("https://api.pulumi.com").expect_err("no token").code, Code::CredentialsUnavailable);
        assert_eq!(backend("postgres://x").expect_err("unknown").code, Code::SourceRefused);
    }

    #[test]
    fn versions_that_it_takes() {
        for (range, expected) in [
            (">=3.5.0 !3.7.7", Some(">= 3.5.0, != 3.7.7")),
            (">= 3.5.0 <4.0.0", Some(">= 3.5.0, < 4.0.0")),
            ("3.5.0", Some("= 3.5.0")),
            ("<3.4.0 || >3.8.0", None),
            ("3.x", None),
            (">=", None),
            ("", None),
        ] {
            let required = of(&format!("name: shop\n{REQUIRED}: \"{range}\"")).expect("reads").required();
            assert_eq!(required.map(|(_, constraint)| constraint.to_string()).as_deref(), expected, "{range}");
        }
    }

    #[test]
    fn what_is_declared_and_what_a_stack_keeps_encrypted() {
        let folder = tempfile::tempdir().expect("a folder");
        let project = "name: shop\nconfig:\n  text: { type: string }\n  shop:secret: { type: string, secret: true }\n  \
            list: { type: array, items: { type: string } }\n  short: hello\n  aws:region: { value: x }\n";
        std::fs::write(folder.path().join("Pulumi.yaml"), project).expect("writes");
        let stack = "config:\n  shop:hidden: { secure: v1:x }\n  aws:key: { secure: v1:x }\n  shop:deep: { a: [{ secure: v1:x }] }\n";
        std::fs::write(folder.path().join("Pulumi.dev.yaml"), stack).expect("writes");
        let all = Project::read(folder.path()).expect("reads").declarations(folder.path(), "dev");
        let shown: Vec<_> = all.known.iter().map(|(name, d)| format!("{name} {:?} {}", d.plain, d.sensitive)).collect();
        assert_eq!(
            shown,
            [
                "deep None true",
                "hidden None true",
                "list Some(false) false",
                "secret Some(true) true",
                "short None false",
                "text Some(true) false",
            ]
        );
    }
}
