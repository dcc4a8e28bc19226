//! A module of a registry of modules as the root: the registry says which versions there are, and where the chosen one is, which is an archive or a
//! commit of Git and nothing else. <https://developer.hashicorp.com/terraform/internals/module-registry-protocol>

use super::archive::{Packed, unpack_file};
use super::web::{Wanted, Web, relative};
use super::{Places, git};
use crate::cancel::Watcher;
use crate::journal::Journal;
use crate::stop::Stop;
use http::{StatusCode, Uri};
use serde::Deserialize;
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::sources::{Place, RegistryAddress};
use shared_proto::v1::{ArchiveSource, GitSource, RegistrySource, SourceResolved};
use shared_proto::version::{Constraint, Version};

/// The longest document of a registry, bytes: of a module with thousands of versions.
const DOCUMENT_MAX: usize = 4 * 1024 * 1024;
/// The longest address that one gives, bytes.
const ADDRESS_MAX: usize = 4096;
/// What archives are called.
const ARCHIVES: [(&str, Packed); 3] = [(".tar.gz", Packed::TarGz), (".tgz", Packed::TarGz), (".zip", Packed::Zip)];

#[derive(Deserialize)]
struct Services {
    #[serde(rename = "modules.v1", default)]
    modules: String,
}
#[derive(Deserialize)]
struct Modules {
    modules: Vec<Module>,
}
#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    versions: Vec<Published>,
}
#[derive(Deserialize)]
struct Published {
    version: String,
}
#[derive(Deserialize)]
struct Location {
    #[serde(default)]
    location: String,
}

/// Where a version is.
#[derive(Debug, PartialEq, Eq)]
enum At {
    Archive { address: String, packed: Packed },
    Git { url: String, reference: String },
}

/// Fetches and unpacks it. The second value is the folder in what was fetched that the module is.
///
/// # Errors
/// `source_refused`, `source_unavailable`, `disk_full`; cancelled.
pub(super) async fn fetch(
    wanted: &RegistrySource,
    places: &Places<'_>,
    cancel: &mut Watcher,
    journal: &Journal,
) -> Result<(SourceResolved, String), Stop> {
    let address = RegistryAddress::parse(&wanted.address)
        .map_err(|why| Code::SourceRefused.on(format!("the module's address {why}")))?;
    let asking = asked(&address, &wanted.version, places);
    let (version, at, folder) = tokio::select! {
        found = asking => found?,
        _ = cancel.asked() => return Err(Stop::Canceled { forced: false, exit: None }),
    };
    let what = match at {
        At::Git { url, reference } => {
            // a folder of this machine is for no registry to name
            Place::of_git(&url)
                .map_err(|why| Code::SourceRefused.on(format!("the Git address of the module {why}")))?;
            journal.note(format!("Version {version} of {} is {url} at {reference}.", wanted.address)).await;
            let source = GitSource { url, reference, ..GitSource::default() };
            git::fetch(&source, "", places, cancel, journal).await?.revision
        }
        At::Archive { address: from, packed } => {
            let file = places.tmp.join("module");
            let fetching = async {
                let web = Web::new(places.access, places.environment);
                // what the entry gives is for the registry's own host
                let own = from.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
                let authorization = places.access.bearer(&address.place);
                let authorization = authorization.filter(|_| own == Some(address.place.authority()));
                let reply =
                    web.get(&from, Wanted { accept: "", authorization: authorization.as_deref() }).await?.ok()?;
                let (size, sha256) = reply.into_file(&file, ARCHIVE_PACKED_MAX).await?;
                Ok::<_, Stop>(ArchiveSource { sha256, size })
            };
            let archive = tokio::select! {
                fetched = fetching => fetched?,
                _ = cancel.asked() => return Err(Stop::Canceled { forced: false, exit: None }),
            };
            unpack_file(&file, &archive, packed, places.source, cancel).await?;
            let _ = std::fs::remove_file(&file);
            format!("sha256:{}", archive.sha256)
        }
    };
    let revision = format!("{version} ({what})");
    Ok((SourceResolved { kind: "registry".into(), revision, reference: wanted.address.clone() }, folder))
}

/// The version that is to be taken, where it is, and the folder in what is there.
async fn asked(
    address: &RegistryAddress,
    version: &str,
    places: &Places<'_>,
) -> Result<(Version, At, String), Failure> {
    let web = Web::new(places.access, places.environment);
    let place = &address.place;
    let token = places.access.bearer(place);
    let wanted = Wanted { accept: "application/json", authorization: token.as_deref() };
    let wrong = |what: &str| Code::SourceUnavailable.on(format!("the registry {}: {what}", place.authority()));
    let constraint = match version {
        "" => None,
        text => Some(
            Constraint::parse(text)
                .map_err(|what| Code::SourceRefused.on(format!("the version of the module {}: {what}", place.path)))?,
        ),
    };
    // of nobody who asks for none in particular a pre-release is meant
    let fits = |one: &Version| constraint.as_ref().map_or(!one.is_pre_release(), |wanted| wanted.allows(one));
    // https://developer.hashicorp.com/terraform/internals/remote-service-discovery
    let reply = web.get(&format!("https://{}/.well-known/terraform.json", place.authority()), wanted).await?.ok()?;
    let from = reply.from.clone();
    let services: Services =
        serde_json::from_slice(&reply.whole(DOCUMENT_MAX).await?).map_err(|_| wrong("what it offers is no JSON"))?;
    if services.modules.is_empty() {
        return Err(wrong("it has no modules"));
    }
    let base = relative(&from, services.modules.trim_end_matches('/'));
    // who asks is the entry's business at the host that it is for
    let base_uri: Uri = base.parse().map_err(|_| wrong("where its modules are is no address"))?;
    let same = base_uri.authority().map(ToString::to_string) == Some(place.authority());
    let wanted = Wanted { authorization: wanted.authorization.filter(|_| same), ..wanted };
    let reply = web.get(&format!("{base}/{}/versions", place.path), wanted).await?.ok()?;
    let listed: Modules =
        serde_json::from_slice(&reply.whole(DOCUMENT_MAX).await?).map_err(|_| wrong("its list of versions is none"))?;
    let versions = listed.modules.into_iter().next().map(|module| module.versions).unwrap_or_default();
    let found = versions.iter().filter_map(|one| Version::parse(&one.version).ok()).filter(fits).max();
    let version = found.ok_or_else(|| {
        Code::SourceUnavailable.on(format!(
            "the registry {} has no version of {} that {version:?} allows",
            place.authority(),
            place.path
        ))
    })?;
    let reply = web.get(&format!("{base}/{}/{version}/download", place.path), wanted).await?;
    let from = reply.from.clone();
    let header = reply.header("x-terraform-get").to_owned();
    let location = match (reply.status, header.as_str()) {
        (StatusCode::NO_CONTENT | StatusCode::OK, location) if !location.is_empty() => location.to_owned(),
        (StatusCode::OK, _) => {
            let body = reply.whole(DOCUMENT_MAX).await?;
            serde_json::from_slice::<Location>(&body).map(|said| said.location).unwrap_or_default()
        }
        _ => return Err(reply.ok().err().unwrap_or_else(|| wrong("it does not say where the module is"))),
    };
    let (at, folder) = located(&from, &location).map_err(|why| {
        Code::SourceRefused.on(format!("where the registry {} says that {} is: {why}", place.authority(), place.path))
    })?;
    Ok((version, at, folder))
}

/// What an address in the engines' own form leads to, and the folder in it. <https://developer.hashicorp.com/terraform/language/modules/sources>
fn located(from: &Uri, location: &str) -> Result<(At, String), String> {
    if location.is_empty()
        || location.len() > ADDRESS_MAX
        || location.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err("it is empty, too long or no address".into());
    }
    let (kind, rest) = match location.split_once("::") {
        Some((kind, rest)) => (kind, rest.to_owned()),
        None => ("", relative(from, location)),
    };
    if !matches!(kind, "" | "git") {
        return Err(format!("it is of the kind {kind:?}, and neither an archive nor Git"));
    }
    let (rest, query) = rest.split_once('?').map_or((rest.as_str(), ""), |(rest, query)| (rest, query));
    // a folder stands behind the second double slash
    let scheme = rest.find("://").map_or(0, |at| at + 3);
    let (whole, folder) = match rest[scheme..].find("//") {
        Some(at) => (&rest[..scheme + at], &rest[scheme + at + 2..]),
        None => (rest, ""),
    };
    if folder.split('/').any(|part| part == "..") || folder.starts_with('/') {
        return Err("its folder leads out".into());
    }
    let (mut others, mut reference, mut archive) = (Vec::new(), "", "");
    for (key, value) in
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    {
        match key {
            "ref" if kind == "git" => reference = value,
            "archive" if kind.is_empty() => archive = value,
            "checksum" => return Err("it names a checksum, which is not looked at".into()),
            "depth" if kind == "git" => {}
            _ if kind == "git" => return Err(format!("it has {key:?} for Git, which is not given to it")),
            _ => others.push(format!("{key}={value}")),
        }
    }
    if kind == "git" {
        let at = At::Git { url: whole.to_owned(), reference: reference.replace("%2F", "/").replace("%2f", "/") };
        return Ok((at, folder.to_owned()));
    }
    if !whole.starts_with("https://") {
        return Err("it is not https://".into());
    }
    let named = if archive.is_empty() { whole.to_owned() } else { format!(".{archive}") };
    let packed = ARCHIVES.iter().find(|(end, _)| named.ends_with(end)).map(|(_, packed)| *packed);
    let packed = packed.ok_or("it is no archive of tar.gz or zip")?;
    let address = if others.is_empty() { whole.to_owned() } else { format!("{whole}?{}", others.join("&")) };
    Ok((At::Archive { address, packed }, folder.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_modules_are() {
        let from: Uri = "https://h/v1/modules/o/n/p/1.0.0/download".parse().expect("an address");
        let archive = |address: &str, packed| At::Archive { address: address.into(), packed };
        let git = |url: &str, reference: &str| At::Git { url: url.into(), reference: reference.into() };
        for (location, at, folder) in [
            ("https://h/x.tar.gz", archive("https://h/x.tar.gz", Packed::TarGz), ""),
            ("https://h/x.zip?sig=a%2Fb&e=1", archive("https://h/x.zip?sig=a%2Fb&e=1", Packed::Zip), ""),
            ("https://h/x?archive=tar.gz", archive("https://h/x", Packed::TarGz), ""),
            ("https://h/x.tgz//modules/a?y=1", archive("https://h/x.tgz?y=1", Packed::TarGz), "modules/a"),
            ("./x.tar.gz", archive("https://h/v1/modules/o/n/p/1.0.0/x.tar.gz", Packed::TarGz), ""),
            ("/x.tar.gz", archive("https://h/x.tar.gz", Packed::TarGz), ""),
            ("git::https://g/o/r?ref=v1.0.0", git("https://g/o/r", "v1.0.0"), ""),
            ("git::https://g/o/r.git//sub?ref=a%2Fb&depth=1", git("https://g/o/r.git", "a/b"), "sub"),
            ("git::ssh://git@g/o/r", git("ssh://git@g/o/r", ""), ""),
        ] {
            assert_eq!(located(&from, location), Ok((at, folder.to_owned())), "{location}");
        }
        for bad in [
            "",
            "file:///etc/passwd",
            "http://h/x.tar.gz",
            "https://h/x",
            "https://h/x.exe",
            "s3::https://s3.amazonaws.com/b/x.zip",
            "gcs::https://www.googleapis.com/storage/v1/b/x.zip",
            "hg::https://h/x",
            "file::/etc",
            "git::git::https://h/x?sshkey=AAAA",
            "git::ssh://git@g/o/r?sshkey=AAAA",
            "https://h/x.zip//../../etc",
            "https://h/x.zip?checksum=md5:0",
            "https://h/x.zip\nX: y",
            "ftp://h/x.zip",
        ] {
            assert!(located(&from, bad).is_err(), "{bad}");
        }
    }
}
