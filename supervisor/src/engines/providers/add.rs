//! Gets the packages that a lock file names, and keeps those that have one of its hashes: from the providers' own registries, a network mirror, or
//! a folder in either of the engines' layouts with archives.

use super::lock::Locked;
use super::{Package, hashes, platform};
use crate::config::Config;
use crate::engines::fetch;
use crate::engines::release::Place;
use crate::engines::turn::{Turn, make_folder, sync, unusable};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The longest package that is taken, bytes: the largest of these years is a fifth of it.
const PACKAGE_MAX: u64 = 1 << 30;
/// The longest answer of a registry or mirror, bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// What came of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It is there now, and has this hash.
    Added(PathBuf, String),
    /// It was there, and has this hash.
    Already(PathBuf, String),
}

/// Adds a package, if it has one of the hashes: nothing is kept that the lock file does not vouch for.
///
/// # Errors
/// `source_refused`: it has none of the hashes; `conflict`: what is there has none of them; `source_unavailable`, `too_large`, `state_unusable`.
/// Nothing has changed then.
pub async fn add(config: &Config, locked: &Locked, place: &Place) -> Result<Done, Failure> {
    let Locked { package, hashes } = locked;
    let directory = &config.engines.providers;
    let at = package.place(directory);
    let turn = Turn::begin(config, directory)?;
    match File::open(&at) {
        Ok(mut file) => {
            return match vouched(&mut file, hashes).map_err(|e| unusable(&at, &e))? {
                Some(hash) => Ok(Done::Already(at, hash)),
                None => Err(Code::Conflict
                    .on(format!("{} has none of the lock file's hashes of {package}", at.display()))
                    .next(format!("Remove it first: `runner providers remove {package}`."))),
            };
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(unusable(&at, &e)),
    }
    let failed = |e: io::Error| unusable(turn.made(), &e);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(turn.made()).map_err(failed)?;
    get(config, package, place, &mut file).await?;
    let Some(hash) = vouched(&mut file, hashes).map_err(failed)? else {
        return Err(Code::SourceRefused
            .on(format!("the package of {package} has none of the lock file's hashes"))
            .next("Get it from where the lock file was made, or have the engine write its hashes for this machine into the file: `tofu providers lock`."));
    };
    file.set_permissions(Permissions::from_mode(0o444)).and_then(|()| file.sync_all()).map_err(failed)?;
    let mut parent = directory.clone();
    for part in at.parent().and_then(|parent| parent.strip_prefix(directory).ok()).unwrap_or(Path::new("")) {
        parent.push(part);
        make_folder(&parent).and_then(|()| sync(&parent)).map_err(|e| unusable(&parent, &e))?;
    }
    std::fs::rename(turn.made(), &at).and_then(|()| sync(&at)).map_err(|e| unusable(&at, &e))?;
    Ok(Done::Added(at, hash))
}

/// Which of these hashes a package has.
pub fn vouched(file: &mut File, hashes: &[String]) -> io::Result<Option<String>> {
    let archive = hashes::of_archive(file)?;
    if hashes.contains(&archive) {
        return Ok(Some(archive));
    }
    // one over its contents takes unpacking, of what is no package too
    if hashes.iter().any(|hash| hash.starts_with("h1:")) {
        let contents = hashes::of_contents(file).ok();
        return Ok(contents.filter(|contents| hashes.contains(contents)));
    }
    Ok(None)
}

async fn get(config: &Config, package: &Package, place: &Place, to: &mut File) -> Result<(), Failure> {
    let address = match place {
        Place::Folder(folder) => return copy(folder, package, to),
        Place::Archive(path) => {
            return Err(Code::InvalidArgument
                .on(format!("{} is one archive", path.display()))
                .next("Name the folder that it lies in, or a mirror."));
        }
        Place::Mirror(address) => of_mirror(config, package, address).await?,
        Place::Vendor => of_registry(config, package).await?,
    };
    fetch::get(config, &address, PACKAGE_MAX, to).await
}

/// From a folder with the packages in their providers' folders, or all in one.
fn copy(folder: &Path, package: &Package, to: &mut File) -> Result<(), Failure> {
    let places = [package.place(folder), folder.join(package.file())];
    let Some(from) = places.iter().find(|path| path.is_file()) else {
        return Err(Code::SourceUnavailable
            .on(format!("{} is not in {}", places[0].display(), folder.display()))
            .next("`tofu providers mirror` fills such a folder."));
    };
    let shown = from.display();
    let unavailable = |e: io::Error| Code::SourceUnavailable.on(format!("{shown}: {e}")).next("Check its mode.");
    let length =
        io::copy(&mut File::open(from).map_err(unavailable)?.take(PACKAGE_MAX + 1), to).map_err(unavailable)?;
    if length > PACKAGE_MAX {
        return Err(Code::TooLarge.on(format!("{shown} is longer than {PACKAGE_MAX} bytes")));
    }
    Ok(())
}

/// <https://developer.hashicorp.com/terraform/internals/provider-network-mirror-protocol>
async fn of_mirror(config: &Config, package: &Package, mirror: &str) -> Result<String, Failure> {
    let at = format!("{}/{}/{}.json", mirror.trim_end_matches('/'), package.provider, package.version);
    let answer = document(config, &at).await?;
    let url = answer["archives"][platform()]["url"].as_str();
    url.map(|url| resolved(url, &at)).ok_or_else(|| not_told(&at, package))
}

/// <https://developer.hashicorp.com/terraform/internals/remote-service-discovery> and
/// <https://developer.hashicorp.com/terraform/internals/provider-registry-protocol>
async fn of_registry(config: &Config, package: &Package) -> Result<String, Failure> {
    let provider = &package.provider;
    let at = format!("https://{}/.well-known/terraform.json", provider.host);
    let answer = document(config, &at).await?;
    let base = answer["providers.v1"].as_str().map(|base| resolved(base, &at)).ok_or_else(|| not_told(&at, package))?;
    let (system, architecture) =
        platform().split_once('_').map(|(s, a)| (s.to_owned(), a.to_owned())).unwrap_or_default();
    let at = format!(
        "{}/{}/{}/{}/download/{system}/{architecture}",
        base.trim_end_matches('/'),
        provider.namespace,
        provider.kind,
        package.version
    );
    let answer = document(config, &at).await?;
    answer["download_url"].as_str().map(|url| resolved(url, &at)).ok_or_else(|| not_told(&at, package))
}

async fn document(config: &Config, at: &str) -> Result<Value, Failure> {
    let mut text = Vec::new();
    fetch::get(config, at, ANSWER_MAX, &mut text).await?;
    serde_json::from_slice(&text).map_err(|e| {
        Code::SourceUnavailable
            .on(format!("{at} is no JSON: {e}"))
            .next("Check that it is a registry's or a mirror's address.")
    })
}

fn not_told(at: &str, package: &Package) -> Failure {
    Code::SourceUnavailable
        .on(format!("{at} does not tell where the package of {package} for {} is", platform()))
        .next("Check the version; its makers may not make it for this machine.")
}

/// An address as it stands in what was read there.
fn resolved(address: &str, there: &str) -> String {
    if address.starts_with("https://") || address.starts_with("http://") {
        return address.to_owned();
    }
    let host = there.find("://").map_or(0, |at| at + 3);
    let end = match address.strip_prefix('/') {
        Some(_) => there[host..].find('/').map_or(there.len(), |at| host + at),
        // beside it
        None => there[host..].rfind('/').map_or(there.len(), |at| host + at + 1),
    };
    format!("{}{address}", &there[..end])
}

#[cfg(test)]
mod tests {
    use super::super::{Provider, list};
    use super::*;
    use crate::engines::unpack::tests::archive;
    use sha2::{Digest as _, Sha256};
    use shared_proto::version::Version;
    use std::collections::BTreeMap;

    struct Set {
        folder: tempfile::TempDir,
        config: Config,
        locked: Locked,
        bytes: Vec<u8>,
    }

    impl Set {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let mut config = Config::load(None, &BTreeMap::new(), &BTreeMap::new()).expect("a configuration");
            config.engines.providers = folder.path().join("state/providers");
            let provider = Provider::parse("registry.example/acme/time").expect("a provider");
            let version = Version::parse("0.14.2").expect("a version");
            let bytes = archive(&[("terraform-provider-time_v0.14.2", b"a provider")]);
            let zh = format!("zh:{}", shared_proto::hex::encode(Sha256::digest(&bytes)));
            let locked = Locked { package: Package { provider, version }, hashes: vec!["zh:other".into(), zh] };
            Self { folder, config, locked, bytes }
        }
        /// Where its package is, in a folder.
        fn mirror(&self) -> Place {
            let path = self.locked.package.place(&self.folder.path().join("mirror"));
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            std::fs::write(path, &self.bytes).expect("writes");
            Place::Folder(self.folder.path().join("mirror"))
        }
        async fn add(&self, place: &Place) -> Result<Done, Failure> {
            add(&self.config, &self.locked, place).await
        }
        fn listed(&self) -> Vec<PathBuf> {
            list(&self.config.engines.providers).into_iter().map(|(_, path)| path).collect()
        }
    }

    #[tokio::test]
    async fn a_package_that_the_lock_file_knows_is_kept() {
        let mut set = Set::new();
        let place = set.mirror();
        let Ok(Done::Added(path, hash)) = set.add(&place).await else { panic!("is added") };
        assert_eq!((set.listed(), &hash), (vec![path.clone()], &set.locked.hashes[1]));
        let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o444, 0o755));
        assert_eq!(set.add(&place).await, Ok(Done::Already(path.clone(), hash)));
        // by what is in it
        set.locked.hashes = vec![hashes::of_contents(&mut File::open(&path).expect("opens")).expect("hashes")];
        assert!(matches!(set.add(&place).await, Ok(Done::Already(_, hash)) if hash.starts_with("h1:")));
        set.locked.hashes = vec!["zh:other".into()];
        assert_eq!(set.add(&place).await.expect_err("another").code, Code::Conflict);
        super::super::remove(&set.config, &set.locked.package).expect("removes");
        assert_eq!(super::super::remove(&set.config, &set.locked.package).expect_err("gone").code, Code::NotFound);
        assert!(set.listed().is_empty());
    }

    #[tokio::test]
    async fn a_package_that_nobody_vouches_for_leaves_nothing() {
        let mut set = Set::new();
        let place = set.mirror();
        for hashes in [vec![], vec!["zh:other".to_owned()], vec!["h1:other".to_owned()]] {
            set.locked.hashes = hashes;
            assert_eq!(set.add(&place).await.expect_err("refused").code, Code::SourceRefused);
            assert!(set.listed().is_empty());
        }
        let names = std::fs::read_dir(&set.config.engines.providers).expect("reads").flatten();
        assert_eq!(names.map(|e| e.file_name()).collect::<Vec<_>>(), [".lock"]);
        let nowhere = set.add(&Place::Folder("/nowhere".into())).await.expect_err("nowhere");
        assert_eq!(nowhere.code, Code::SourceUnavailable);
        assert_eq!(set.add(&Place::Archive("/x.zip".into())).await.expect_err("one").code, Code::InvalidArgument);
    }

    #[tokio::test]
    async fn a_network_mirror_tells_where_its_packages_are() {
        let set = Set::new();
        let here = platform();
        let answer = format!(r#"{{"archives":{{"{here}":{{"url":"time.zip"}}}}}}"#);
        let found = |body: &[u8]| {
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
        };
        let answers = [
            ("/m/registry.example/acme/time/0.14.2.json", found(answer.as_bytes())),
            ("/m/registry.example/acme/time/time.zip", found(&set.bytes)),
            ("/none/registry.example/acme/time/0.14.2.json", found(br#"{"archives":{}}"#)),
            ("/bad/registry.example/acme/time/0.14.2.json", found(b"<html>")),
        ];
        let (address, _) = fetch::tests::server(&answers).await;
        for path in ["none", "bad", "nothing"] {
            let failure = set.add(&Place::Mirror(format!("{address}/{path}"))).await.expect_err(path);
            assert_eq!(failure.code, Code::SourceUnavailable, "{path}: {failure}");
        }
        assert!(matches!(set.add(&Place::Mirror(format!("{address}/m/"))).await, Ok(Done::Added(..))));
    }

    #[test]
    fn addresses_stand_beside_below_or_elsewhere() {
        let there = "https://a.example/x/y.json";
        for (address, expected) in [
            ("z.zip", "https://a.example/x/z.zip"),
            ("/z.zip", "https://a.example/z.zip"),
            ("https://b.example/z.zip", "https://b.example/z.zip"),
        ] {
            assert_eq!(resolved(address, there), expected);
        }
        assert_eq!(resolved("/v1/", "https://a.example"), "https://a.example/v1/");
    }
}
