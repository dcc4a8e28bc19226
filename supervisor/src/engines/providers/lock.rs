//! Dependency lock files, `.terraform.lock.hcl`, as both engines write them
//! (<https://developer.hashicorp.com/terraform/language/files/dependency-lock>): of which provider which version was chosen, and by which hashes
//! its packages are known. They are written by machines: what does not look so is refused.

use super::{Package, Provider};
use shared_proto::version::Version;

/// The longest lock file that is read, bytes.
pub const LOCK_MAX: u64 = 1024 * 1024;
/// The most providers in one.
const PROVIDERS_MAX: usize = 256;
/// The most hashes of a provider.
const HASHES_MAX: usize = 256;

/// What a lock file says of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// Which version of it.
    pub package: Package,
    /// The hashes of its packages, for all platforms: `h1:…`, `zh:…`.
    pub hashes: Vec<String>,
}

/// All that a lock file says.
///
/// # Errors
/// In which line there is something else.
pub fn parse(text: &str) -> Result<Vec<Locked>, String> {
    let mut lines =
        text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut all: Vec<Locked> = Vec::new();
    while let Some((number, line)) = lines.next() {
        let bad = |what: &str| format!("line {}: {what}", number + 1);
        let address = line.strip_prefix("provider ").and_then(|rest| quoted(rest.strip_suffix('{')?.trim()));
        let provider =
            Provider::parse(address.ok_or_else(|| bad("a provider's block is expected"))?).map_err(|e| bad(&e))?;
        let (mut version, mut hashes, mut in_hashes) = (None, Vec::new(), false);
        loop {
            let (number, line) = lines.next().ok_or_else(|| bad("its block does not end"))?;
            let bad = |what: &str| format!("line {}: {what}", number + 1);
            match (in_hashes, line) {
                (true, "]") => in_hashes = false,
                (true, line) => {
                    let hash = line.strip_suffix(',').and_then(quoted).ok_or_else(|| bad("a hash is expected"))?;
                    hashes.push(hash.to_owned());
                    if hashes.len() > HASHES_MAX {
                        return Err(bad(&format!("there are more than {HASHES_MAX} hashes")));
                    }
                }
                (false, "}") => break,
                (false, line) => match line.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                    Some(("version", value)) => {
                        let text = quoted(value).ok_or_else(|| bad("a version is expected"))?;
                        version = Some(Version::parse_whole(text).map_err(|e| bad(&e))?);
                    }
                    Some(("constraints", value)) if quoted(value).is_some() => {}
                    Some(("hashes", "[")) => in_hashes = true,
                    _ => return Err(bad("something else than a lock file has")),
                },
            }
        }
        let version = version.ok_or_else(|| bad("it has no version"))?;
        all.push(Locked { package: Package { provider, version }, hashes });
        if all.len() > PROVIDERS_MAX {
            return Err(bad(&format!("there are more than {PROVIDERS_MAX} providers")));
        }
    }
    Ok(all)
}

/// What stands between quotes, and has nothing in it that would have to be read.
fn quoted(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains(['"', '\\', '$', '%'])).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = r#"# This file is maintained automatically by "tofu init".
# Manual edits may be lost in future updates.

provider "registry.opentofu.org/hashicorp/time" {
  version     = "0.14.2"
  constraints = "0.14.2"
  hashes = [
    "h1:one=",
    "zh:two",
  ]
}

provider "registry.opentofu.org/hashicorp/null" {
  version = "3.2.3"
}
"#;

    #[test]
    fn what_engines_write_is_read() {
        let found = parse(REAL).expect("a lock file");
        let shown: Vec<_> = found.iter().map(|locked| (locked.package.to_string(), locked.hashes.join(" "))).collect();
        let time = ("registry.opentofu.org/hashicorp/time 0.14.2".to_owned(), "h1:one= zh:two".to_owned());
        let null = ("registry.opentofu.org/hashicorp/null 3.2.3".to_owned(), String::new());
        assert_eq!(shown, [time, null]);
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn anything_else_is_refused_with_its_line() {
        let with = |from: &str, to: &str| parse(&REAL.replacen(from, to, 1));
        for (from, to, line) in [
            ("provider \"registry", "resource \"registry", "line 4"),
            ("hashicorp/time\"", "../time\"", "line 4"),
            ("0.14.2\"\n", "~> 0.14\"\n", "line 5"),
            ("  constraints", "  surprise", "line 6"),
            ("    \"zh:two\",", "    zh:two,", "line 9"),
            ("    \"zh:two\",", "    \"zh:${two}\",", "line 9"),
            ("  version = \"3.2.3\"\n", "", "line 13"),
            ("  version = \"3.2.3\"\n}", "", "line 13"),
        ] {
            let refused = with(from, to).expect_err(to);
            assert!(refused.starts_with(line), "{to}: {refused}");
        }
        let hashes = |count: usize| {
            format!("provider \"a/b/c\" {{\nversion = \"1.0.0\"\nhashes = [\n{}]\n}}\n", "\"zh:x\",\n".repeat(count))
        };
        assert!(parse(&hashes(HASHES_MAX)).is_ok() && parse(&hashes(HASHES_MAX + 1)).is_err());
        let providers = |count: usize| "provider \"a/b/c\" {\nversion = \"1.0.0\"\n}\n".repeat(count);
        assert!(parse(&providers(PROVIDERS_MAX)).is_ok() && parse(&providers(PROVIDERS_MAX + 1)).is_err());
    }
}
