//! Where a stack's code comes from, as it is said on the command line and as the API has it.

use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::sources::{OciReference, RegistryAddress};

/// A source that the runner fetches, and that may be given.
#[derive(Debug, clap::Args)]
pub(crate) struct OptionalSource {
    /// The repository
    #[arg(long = "git", value_name = "URL", conflicts_with = "package")]
    pub(crate) url: Option<String>,
    /// Commit, tag or branch
    #[arg(long = "ref", value_name = "REF", requires = "url", conflicts_with = "package")]
    reference: Option<String>,
    /// With the repository's submodules
    #[arg(long, requires = "url", conflicts_with = "package")]
    submodules: bool,
    /// With what Git LFS keeps of it; the runner's machine needs git-lfs
    #[arg(long, requires = "url", conflicts_with = "package")]
    lfs: bool,
    /// Only the root module's folder (--path) and this one; may be given several times
    #[arg(long, value_name = "FOLDER", requires = "url", conflicts_with = "package")]
    sparse: Vec<String>,
    /// A package: oci://HOST/REPOSITORY:TAG (or @sha256:DIGEST), or registry://HOST/NAMESPACE/NAME/PROVIDER, with ?version=CONSTRAINT
    #[arg(long = "from", value_name = "SOURCE")]
    pub(crate) package: Option<String>,
}

/// One that must be given.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("given").required(true).args(["url", "package"]))]
pub(crate) struct Source {
    #[command(flatten)]
    source: OptionalSource,
}

// === impl OptionalSource ===

impl OptionalSource {
    /// As the API has it; none: it was not given.
    ///
    /// # Errors
    /// `invalid_argument`: what is neither.
    pub(crate) fn value(&self) -> Result<Option<Value>, Failure> {
        if let Some(package) = &self.package {
            return of_package(package).map(Some);
        }
        let Some(url) = &self.url else { return self.nothing().map(|()| None) };
        let mut git = json!({ "url": url, "reference": self.reference.as_deref().unwrap_or_default() });
        for (name, wanted) in [("submodules", self.submodules), ("lfs", self.lfs)] {
            if wanted {
                git[name] = true.into();
            }
        }
        if !self.sparse.is_empty() {
            git["sparse"] = json!(self.sparse);
        }
        Ok(Some(json!({ "git": git })))
    }

    /// Beside --stack the parser does not ask what these need.
    fn nothing(&self) -> Result<(), Failure> {
        let given = [
            ("--ref", self.reference.is_some()),
            ("--submodules", self.submodules),
            ("--lfs", self.lfs),
            ("--sparse", !self.sparse.is_empty()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect();
        if given.is_empty() {
            return Ok(());
        }
        Err(Code::InvalidArgument
            .on(format!("{}: this is of a repository that --git names, and none was named", given.join(", ")))
            .next("Name it with --git; a stack that is there is given another source with `runnerctl stack update`."))
    }
}

// === impl Source ===

impl Source {
    /// As the API has it.
    ///
    /// # Errors
    /// `invalid_argument`: what is neither.
    pub(crate) fn value(&self) -> Result<Value, Failure> {
        let none = || Code::InvalidArgument.on("no source was given").next("Give it with --git or --from.");
        self.source.value()?.ok_or_else(none)
    }
}

fn of_package(text: &str) -> Result<Value, Failure> {
    let wrong = |why: &str| {
        Code::InvalidArgument
            .on(format!("the source {text:?} {why}"))
            .next("Give oci://HOST/REPOSITORY:TAG or registry://HOST/NAMESPACE/NAME/PROVIDER?version=CONSTRAINT.")
    };
    if let Some(reference) = text.strip_prefix("oci://") {
        OciReference::parse(reference).map_err(wrong)?;
        return Ok(json!({ "oci": { "reference": reference } }));
    }
    let module = text.strip_prefix("registry://").ok_or_else(|| wrong("is neither oci:// nor registry://"))?;
    let (address, query) = module.split_once('?').unwrap_or((module, ""));
    let version = match query {
        "" => "",
        query => query.strip_prefix("version=").ok_or_else(|| wrong("asks for something else than a version"))?,
    };
    RegistryAddress::parse(address).map_err(wrong)?;
    Ok(json!({ "registry": { "address": address, "version": version } }))
}

/// A stack's source in one line.
pub(crate) fn shown(stack: &Value) -> String {
    let text = |at: &str| stack.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let git = match (text("/source/git/url"), text("/source/git/reference")) {
        (url, "") => url.to_owned(),
        (url, reference) => format!("{url}@{reference}"),
    };
    let module = match (text("/source/registry/address"), text("/source/registry/version")) {
        ("", _) => String::new(),
        (address, "") => format!("registry://{address}"),
        (address, version) => format!("registry://{address} {version}"),
    };
    let oci = match text("/source/oci/reference") {
        "" => String::new(),
        reference => format!("oci://{reference}"),
    };
    let fetched = [git, module, oci].into_iter().find(|text| !text.is_empty());
    fetched.unwrap_or_else(|| match text("/source/archive/sha256") {
        "" => String::new(),
        hash => format!("archive {hash:.12}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        source: Source,
    }
    fn value(words: &[&str]) -> Result<Value, String> {
        let parsed = Program::try_parse_from(std::iter::once("x").chain(words.iter().copied()));
        parsed.map_err(|e| e.to_string())?.source.value().map_err(|f| f.message)
    }

    #[test]
    fn sources_as_they_are_said() {
        for (words, expected) in [
            (&["--git", "https://h/x"][..], json!({"git": {"url": "https://h/x", "reference": ""}})),
            (
                &["--git", "https://h/x", "--ref", "v1", "--submodules", "--lfs", "--sparse", "a", "--sparse", "b"],
                json!({"git": {"url": "https://h/x", "reference": "v1", "submodules": true, "lfs": true, "sparse": ["a", "b"]}}),
            ),
            (&["--from", "oci://h:5000/a/b:v1"], json!({"oci": {"reference": "h:5000/a/b:v1"}})),
            (&["--from", "registry://h/o/n/aws"], json!({"registry": {"address": "h/o/n/aws", "version": ""}})),
            (
                &["--from", "registry://h/o/n/aws?version=~> 1.0"],
                json!({"registry": {"address": "h/o/n/aws", "version": "~> 1.0"}}),
            ),
        ] {
            assert_eq!(value(words).as_ref(), Ok(&expected), "{words:?}");
        }
        for bad in [
            &[][..],
            &["--ref", "v1"],
            &["--git", "https://h/x", "--from", "oci://h/a:v1"],
            &["--from", "oci://h/a:v1", "--submodules"],
            &["--from", "https://h/x"],
            &["--from", "oci://h/a"],
            &["--from", "registry://h/o/n"],
            &["--from", "registry://h/o/n/aws?other=1"],
        ] {
            assert!(value(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sources_in_one_line() {
        for (source, expected) in [
            (json!({"git": {"url": "https://h/x", "reference": ""}}), "https://h/x"),
            (json!({"git": {"url": "https://h/x", "reference": "v1"}}), "https://h/x@v1"),
            (json!({"oci": {"reference": "h/a:v1"}}), "oci://h/a:v1"),
            (json!({"registry": {"address": "h/o/n/aws", "version": "1.0"}}), "registry://h/o/n/aws 1.0"),
            (json!({"archive": {"sha256": "0123456789abcdef"}}), "archive 0123456789ab"),
        ] {
            assert_eq!(shown(&json!({ "source": source })), expected);
        }
    }
}
