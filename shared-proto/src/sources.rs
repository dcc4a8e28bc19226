//! Addresses of sources, and the patterns by which an entry of the runner's configuration says which of them it is for. Supervisor and worker
//! read the same one out of them: the one chooses the entry, the other gives what it holds to the addresses that the pattern covers, and to no other.

use std::fmt;

/// The longest address, bytes.
pub const ADDRESS_MAX: usize = 2048;

/// How a source is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Git by HTTPS.
    Https,
    /// Git by SSH.
    Ssh,
    /// An artifact of an OCI registry.
    Oci,
    /// A module of a registry of modules.
    Registry,
}

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// How it is fetched.
    pub scheme: Scheme,
    /// As whom, by SSH; empty: nobody is named.
    pub user: String,
    /// A name, in lower case, or an address; of IPv6 without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands behind the host, without the slash before it.
    pub path: String,
}

/// Places that an entry is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    place: Place,
    /// Whether it is for all below, and not for that one place.
    below: bool,
}

/// An artifact by its reference. <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciReference {
    /// The registry and the repository.
    pub place: Place,
    /// A tag, or a digest as `sha256:HEX`; a reference with both goes by its digest.
    pub reference: String,
}

/// A module of a registry. <https://developer.hashicorp.com/terraform/internals/module-registry-protocol>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAddress {
    /// The registry, and the module's namespace, name and provider.
    pub place: Place,
}

// === impl Place ===

impl Place {
    /// Of an address that git is given: `https://…`, `ssh://…` or `user@host:path`.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it: it may carry a password.
    pub fn of_git(url: &str) -> Result<Self, &'static str> {
        if url.is_empty() || url.len() > ADDRESS_MAX {
            return Err("is empty or too long");
        }
        if url.starts_with('-') {
            return Err("starts with `-`");
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("holds a control character or a space");
        }
        if names_a_helper(url) {
            return Err("names a remote helper (`::`)");
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            // scp-like: user@host:path, and nothing that git takes for a local path
            let (authority, path) = url.split_once(':').ok_or("is a local path")?;
            if authority.is_empty() || authority.contains('/') {
                return Err("is a local path");
            }
            if path.is_empty() || path.starts_with('-') {
                return Err("has no path, or one that starts with `-`");
            }
            return Self::new(Scheme::Ssh, authority, path);
        };
        let scheme = match scheme {
            "https" => Scheme::Https,
            "ssh" => Scheme::Ssh,
            _ => return Err("is neither https:// nor ssh://"),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err("has no path");
        }
        Self::new(scheme, authority, path)
    }

    fn new(scheme: Scheme, authority: &str, path: &str) -> Result<Self, &'static str> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some(user) = user {
            if scheme != Scheme::Ssh || user.contains(':') {
                return Err("holds a user and password: give access on the runner instead");
            }
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if user.is_empty() || user.starts_with('-') || !user.bytes().all(plain) {
                return Err("holds a strange user");
            }
        }
        let (host, port) = host_and_port(host)?;
        let port = port.unwrap_or(if scheme == Scheme::Ssh { 22 } else { 443 });
        let path = path.trim_start_matches('/').to_owned();
        Ok(Self { scheme, user: user.unwrap_or_default().to_owned(), host, port, path })
    }

    /// Host and port as they stand in an address: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let own = if self.scheme == Scheme::Ssh { 22 } else { 443 };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == own { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Https => "https",
            Scheme::Ssh => "ssh",
            Scheme::Oci => "oci",
            Scheme::Registry => "registry",
        };
        let at = if self.user.is_empty() { "" } else { "@" };
        write!(f, "{scheme}://{}{at}{}/{}", self.user, self.authority(), self.path)
    }
}

/// `ext::COMMAND` and its like have git run a program. An address of IPv6 in brackets has two colons, too.
fn names_a_helper(url: &str) -> bool {
    let rest = url.strip_prefix("https://[").or_else(|| url.strip_prefix("ssh://[")).and_then(|r| r.split_once(']'));
    let outside = rest.map_or(url, |(_, behind)| behind);
    outside.contains("::")
}

/// The host, in lower case and without brackets, and its port.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or("holds a strange host")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("holds a strange host");
            }
            (host, if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or("holds a strange host")?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    if host.is_empty() || host.starts_with(['-', '.']) || !host.bytes().all(plain) {
        return Err("holds a strange host");
    }
    let number = |port: &str| port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    let port = port.map(|port| number(port).filter(|n| *n > 0).ok_or("holds a strange port")).transpose()?;
    Ok((host.to_ascii_lowercase(), port))
}

/// Whether a path has one reading: what a server may read in another way than we do is covered by no pattern.
fn is_plain(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~+@".contains(&b);
    path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(plain))
}

fn without_git(path: &str) -> &str {
    path.strip_suffix(".git").unwrap_or(path)
}

// === impl Pattern ===

impl Pattern {
    /// From an address (`https://HOST/PATH`, `ssh://USER@HOST/PATH`, `USER@HOST:PATH`, `oci://HOST/PATH`, `registry://HOST/PATH`) that is the
    /// place itself, or ends in `/*` (`:*`) for all below.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > ADDRESS_MAX {
            return Err("is too long");
        }
        let (address, below) = match text.strip_suffix('*') {
            Some(address) if address.ends_with(['/', ':']) => (address, true),
            Some(_) => return Err("has its `*` not behind a slash"),
            None => (text, false),
        };
        // a place of its own where nothing stands behind the host
        let filled = if below { format!("{address}x") } else { address.to_owned() };
        let mut place = match filled.split_once("://") {
            Some(("oci", rest)) => Self::behind(Scheme::Oci, rest)?,
            Some(("registry", rest)) => Self::behind(Scheme::Registry, rest)?,
            _ => Place::of_git(&filled)?,
        };
        if below {
            place.path.pop();
            if place.path.ends_with('/') {
                place.path.pop();
            }
        }
        if !(place.path.is_empty() && below || is_plain(&place.path)) {
            return Err("has a path that is not made of plain names");
        }
        Ok(Self { place, below })
    }

    fn behind(scheme: Scheme, rest: &str) -> Result<Place, &'static str> {
        let (authority, path) = rest.split_once('/').filter(|(_, path)| !path.is_empty()).ok_or("has no path")?;
        Place::new(scheme, authority, path)
    }

    /// Whether it is for that place. By SSH the user is a part of it.
    pub fn covers(&self, place: &Place) -> bool {
        let own = &self.place;
        let same =
            (own.scheme, own.port) == (place.scheme, place.port) && own.host == place.host && own.user == place.user;
        if !same || !is_plain(&place.path) {
            return false;
        }
        if !self.below {
            return without_git(&own.path) == without_git(&place.path);
        }
        own.path.is_empty() || place.path.strip_prefix(&own.path).is_some_and(|rest| rest.starts_with('/'))
    }

    /// How narrow it is: of two that cover a place, the one with the greater value is narrower.
    pub fn narrowness(&self) -> (usize, bool) {
        (self.place.path.len(), !self.below)
    }

    /// The place itself, or that above all it is for.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether it is for all below its place, and not for the place itself.
    pub fn is_below(&self) -> bool {
        self.below
    }

    /// The addresses, as git compares its `http.<url>` with what it fetches, that are this pattern's: each for itself and all below.
    /// <https://git-scm.com/docs/git-config#Documentation/git-config.txt-httplturlgt>
    pub fn git_addresses(&self) -> Vec<String> {
        let address = |path: &str| format!("https://{}/{path}", self.place.authority());
        match (self.place.scheme, self.below) {
            (Scheme::Https, true) => vec![address(&self.place.path)],
            (Scheme::Https, false) => {
                let path = without_git(&self.place.path);
                vec![address(path), address(&format!("{path}.git"))]
            }
            _ => Vec::new(),
        }
    }
}

// === impl OciReference ===

impl OciReference {
    /// From `HOST[:PORT]/REPOSITORY`, with `:TAG`, `@sha256:HEX` or both behind it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > ADDRESS_MAX {
            return Err("is too long");
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (authority, path) = name.split_once('/').ok_or("has no repository")?;
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err("has a digest that is no sha256:HEX");
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err("has a strange tag");
        }
        if path.len() > 255 || !path.split('/').all(is_name_of_oci) {
            return Err("has a strange repository");
        }
        let reference = digest.or(tag).ok_or("has neither a tag nor a digest")?.to_owned();
        Ok(Self { place: Place::new(Scheme::Oci, authority, path)?, reference })
    }

    /// Whether it names its content, and not what a tag leads to now.
    pub fn is_digest(&self) -> bool {
        is_digest(&self.reference)
    }
}

/// Whether it is a SHA-256 as registries write it.
pub fn is_digest(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b"._-".contains(&b))
}

fn is_name_of_oci(part: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inside = |b: u8| letter(b) || b"._-".contains(&b);
    let ends = [part.bytes().next(), part.bytes().last()];
    ends.into_iter().all(|b| b.is_some_and(letter)) && part.bytes().all(inside) && !part.contains("..")
}

// === impl RegistryAddress ===

impl RegistryAddress {
    /// From `HOST[:PORT]/NAMESPACE/NAME/PROVIDER`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > ADDRESS_MAX {
            return Err("is too long");
        }
        let (authority, path) = text.split_once('/').ok_or("is not HOST/NAMESPACE/NAME/PROVIDER")?;
        let parts: Vec<_> = path.split('/').collect();
        let plain = |part: &&str| {
            let letter = |b: u8| b.is_ascii_alphanumeric();
            let ends = [part.bytes().next(), part.bytes().last()];
            part.len() <= 64
                && ends.into_iter().all(|b| b.is_some_and(letter))
                && part.bytes().all(|b| letter(b) || b"-_".contains(&b))
        };
        if parts.len() != 3 || !parts.iter().all(plain) {
            return Err("is not HOST/NAMESPACE/NAME/PROVIDER");
        }
        Ok(Self { place: Place::new(Scheme::Registry, authority, path)? })
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
