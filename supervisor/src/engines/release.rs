//! A release of an engine as its vendor publishes it: an archive for each platform, a list of their SHA-256s, and a signature of the list. It is
//! found at the vendor's, in a mirror with the same names, or in a folder.

use super::openpgp::{self, Key};
use super::{Engine, fetch};
use crate::config::Config;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::version::Version;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The longest archive that is taken, bytes: the largest of these years is an eighth of it.
const ARCHIVE_MAX: u64 = 512 << 20;
/// The longest list of checksums, bytes.
const SUMS_MAX: u64 = 256 * 1024;
/// What stands for the version in a mirror's address.
const VERSION: &str = "{version}";

/// A version of an engine for this machine.
#[derive(Debug, Clone)]
pub struct Release {
    /// Of which engine.
    pub engine: Engine,
    /// Its version.
    pub version: Version,
}

/// Where a release is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At the vendor's.
    Vendor,
    /// At an address that its files lie directly below. `{version}` in it stands for the version.
    Mirror(String),
    /// In a folder.
    Folder(PathBuf),
    /// This archive; what belongs to it lies beside it.
    Archive(PathBuf),
}

/// Who says that an archive is the vendor's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Whoever installs it named its checksum.
    Named,
    /// The runner's configuration does.
    Configured,
    /// A list that this key of the vendor's has signed.
    Signed(String),
}

/// How an engine's vendor publishes it.
struct Publisher {
    /// Where it has a version's files.
    address: &'static str,
    /// Its keys.
    keys: fn() -> Vec<Key>,
    /// What a signature's name ends in.
    suffix: &'static str,
}

// === impl Engine ===

impl Engine {
    /// Its vendor, as far as it publishes what can be verified here.
    fn vendor(self) -> Option<Publisher> {
        match self {
            Self::OpenTofu => Some(Publisher {
                address: "https://github.com/opentofu/opentofu/releases/download/v{version}",
                keys: openpgp::opentofu,
                suffix: ".gpgsig",
            }),
            Self::Terraform => Some(Publisher {
                address: "https://releases.hashicorp.com/terraform/{version}",
                keys: openpgp::hashicorp,
                suffix: ".sig",
            }),
            // its signatures are by keys that last minutes, and are in a log that is asked for them (cosign)
            Self::Pulumi => None,
        }
    }
}

// === impl Release ===

impl Release {
    /// What its archive for this machine is called.
    ///
    /// # Errors
    /// No vendor makes any for such a machine.
    pub fn archive(&self) -> Result<String, Failure> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => return Err(Code::EngineMissing.on(format!("{} is not made for {other}", self.engine))),
        };
        Ok(format!("{}_{}_linux_{architecture}.zip", self.engine.program(), self.version))
    }

    /// What its archive's SHA-256 has to be, and who says so: a checksum that was named, one of the configuration, or else the vendor's signed
    /// list at that place.
    ///
    /// # Errors
    /// `source_refused`: the signature is not the vendor's, or two of them do not agree; `source_unavailable`: there is no such list.
    pub async fn checksum(
        &self,
        config: &Config,
        place: &Place,
        named: Option<[u8; 32]>,
    ) -> Result<([u8; 32], Word), Failure> {
        let vendor = self.vendor()?;
        self.checksum_by(config, place, named, &(vendor.keys)(), vendor.suffix).await
    }

    async fn checksum_by(
        &self,
        config: &Config,
        place: &Place,
        named: Option<[u8; 32]>,
        keys: &[Key],
        suffix: &str,
    ) -> Result<([u8; 32], Word), Failure> {
        let archive = self.archive()?;
        let configured = config.engines.checksums.get(&archive).copied();
        match (named, configured) {
            (Some(named), Some(configured)) if named != configured => {
                return Err(Code::SourceRefused
                    .on(format!("the checksum that was named for {archive} is not that of engines.checksums"))
                    .next("Correct the one that is wrong."));
            }
            (Some(named), _) => return Ok((named, Word::Named)),
            (None, Some(configured)) => return Ok((configured, Word::Configured)),
            (None, None) => {}
        }
        let list = format!("{}_{}_SHA256SUMS", self.engine.program(), self.version);
        let pinned = |failure: Failure| {
            let next = format!(
                "Give the archive's own checksum with --sha256, or write it into engines.checksums: nothing is installed unverified. {}",
                failure.next_step
            );
            failure.next(next)
        };
        let (mut sums, mut signature) = (Vec::new(), Vec::new());
        self.get(config, place, &list, SUMS_MAX, &mut sums).await.map_err(pinned)?;
        let signed = format!("{list}{suffix}");
        self.get(config, place, &signed, openpgp::SIGNATURE_MAX, &mut signature).await.map_err(pinned)?;
        let key = openpgp::signer(&sums, &signature, keys).map_err(|why| {
            Code::SourceRefused
                .on(format!("{signed} does not vouch for {list}: {why}"))
                .next("Get both from the vendor again.")
        })?;
        let digest = listed(&sums, &archive).ok_or_else(|| {
            Code::SourceRefused
                .on(format!("{list} has no checksum of {archive}"))
                .next("Check the version; the vendor makes none for this machine.")
        })?;
        Ok((digest, Word::Signed(key.fingerprint.clone())))
    }

    /// Writes the archive to a file where it has that SHA-256.
    ///
    /// # Errors
    /// `source_refused`: it has another; `source_unavailable`; `too_large`; the file system's.
    pub async fn fetch(
        &self,
        config: &Config,
        place: &Place,
        expected: [u8; 32],
        to: &mut File,
    ) -> Result<(), Failure> {
        let archive = self.archive()?;
        let mut hashed = Hashed { to, hash: Sha256::new() };
        self.get(config, place, &archive, ARCHIVE_MAX, &mut hashed).await?;
        let found: [u8; 32] = hashed.hash.finalize().into();
        if found == expected {
            return Ok(());
        }
        let [found, expected] = [found, expected].map(shared_proto::hex::encode);
        Err(Code::SourceRefused
            .on(format!("{archive} has the SHA-256 {found}, and should have {expected}"))
            .next("Get it again; if it stays, do not use it, and tell whoever runs the place that it came from."))
    }

    /// Who publishes it.
    fn vendor(&self) -> Result<Publisher, Failure> {
        self.engine.vendor().ok_or_else(|| {
            let beside = self.engine.beside().unwrap_or_default();
            Code::SourceRefused
                .on(format!("a release of {} is many programs, and its vendor's signature of them cannot be verified here", self.engine))
                .next(format!(
                    "Check a release by what its vendor says (cosign), and put {} and the {beside}… programs of it into engines.directory, in {}/{}; or name it with engines.{}.",
                    self.engine.program(), self.engine, self.version, self.engine
                ))
        })
    }

    /// One of its files.
    async fn get(
        &self,
        config: &Config,
        place: &Place,
        name: &str,
        most: u64,
        to: &mut (impl Write + Send),
    ) -> Result<(), Failure> {
        let version = self.version.to_string();
        let below = |address: &str| format!("{}/{name}", address.replace(VERSION, &version).trim_end_matches('/'));
        match place {
            Place::Vendor => fetch::get(config, &below(self.vendor()?.address), most, to).await,
            Place::Mirror(address) => fetch::get(config, &below(address), most, to).await,
            Place::Folder(folder) => copy(&folder.join(name), most, to),
            Place::Archive(path) if name.ends_with(".zip") => copy(path, most, to),
            Place::Archive(path) => copy(&path.with_file_name(name), most, to),
        }
    }
}

struct Hashed<'a> {
    to: &'a mut File,
    hash: Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.to.write(bytes)?;
        self.hash.update(&bytes[..length]);
        Ok(length)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

fn copy(from: &Path, most: u64, to: &mut impl Write) -> Result<(), Failure> {
    let shown = from.display();
    let unavailable = |e: std::io::Error| Code::SourceUnavailable.on(format!("{shown}: {e}")).next("Check the path.");
    let file = File::open(from).map_err(unavailable)?;
    let length = std::io::copy(&mut file.take(most + 1), to).map_err(unavailable)?;
    if length > most {
        return Err(Code::TooLarge.on(format!("{shown} is longer than {most} bytes")));
    }
    Ok(())
}

/// The SHA-256 that a list has of a file: `HEX  NAME` a line.
fn listed(sums: &[u8], name: &str) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(sums).ok()?;
    text.lines().find_map(|line| {
        let (digest, file) = line.split_once([' ', '\t'])?;
        (file.trim_start_matches([' ', '\t', '*']) == name).then(|| parse_sha256(digest))?
    })
}

/// 64 hexadecimal digits.
pub fn parse_sha256(digits: &str) -> Option<[u8; 32]> {
    let all = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| shared_proto::hex::decode(digits).try_into().ok())?
}

// === impl Place ===

impl Place {
    /// As it was written: an address, an archive or a folder.
    pub fn parse(text: &str) -> Self {
        let path = PathBuf::from(text);
        match text {
            _ if text.starts_with("https://") || text.starts_with("http://") => Self::Mirror(text.to_owned()),
            _ if text.ends_with(".zip") => Self::Archive(path),
            _ => Self::Folder(path),
        }
    }
}

// === impl Word ===

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named => f.write_str("checksum named at its installation"),
            Self::Configured => f.write_str("checksum of the configuration"),
            Self::Signed(key) => write!(f, "signed by {key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::openpgp::tests::Vendor;
    use super::*;

    fn release(engine: Engine, version: &str) -> Release {
        Release { engine, version: Version::parse(version).expect("a version") }
    }
    fn config(checksums: &[(String, [u8; 32])]) -> Config {
        let mut config = Config::load(None, &Default::default(), &Default::default()).expect("a configuration");
        config.engines.checksums = checksums.iter().cloned().collect();
        config
    }

    #[test]
    fn a_place_is_an_address_an_archive_or_a_folder() {
        assert_eq!(Place::parse("https://mirror.example/x"), Place::Mirror("https://mirror.example/x".into()));
        assert_eq!(
            Place::parse("/srv/tofu_1.9.0_linux_amd64.zip"),
            Place::Archive("/srv/tofu_1.9.0_linux_amd64.zip".into())
        );
        assert_eq!(Place::parse("/srv/engines"), Place::Folder("/srv/engines".into()));
    }

    #[test]
    fn a_list_says_the_checksum_of_a_file() {
        let (one, two) = ("0a".repeat(32), "0b".repeat(32));
        let sums = format!("{one}  a.zip\n{two} *b.zip\nshort  c.zip\n");
        assert_eq!(listed(sums.as_bytes(), "a.zip"), Some([10; 32]));
        assert_eq!(listed(sums.as_bytes(), "b.zip"), Some([11; 32]));
        for name in ["c.zip", "d.zip", "zip", ""] {
            assert_eq!(listed(sums.as_bytes(), name), None, "{name}");
        }
        assert_eq!(parse_sha256(&format!("{one}0")), None);
    }

    #[tokio::test]
    async fn the_vendors_list_vouches_where_its_key_has_signed_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let release = release(Engine::Terraform, "1.9.8");
        let place = Place::Folder(folder.path().to_owned());
        let config = config(&[]);
        let ask = async || release.checksum(&config, &place, None).await;
        let failure = ask().await.expect_err("there is nothing");
        assert_eq!(failure.code, Code::SourceUnavailable);
        assert!(failure.next_step.contains("--sha256") && failure.next_step.contains("engines.checksums"), "{failure}");
        let put = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).expect("writes");
        let sums = include_bytes!("testdata/terraform_1.9.8_SHA256SUMS");
        let signature: String =
            include_str!("testdata/terraform_1.9.8_SHA256SUMS.sig.hex").split_whitespace().collect();
        put("terraform_1.9.8_SHA256SUMS", sums);
        assert_eq!(ask().await.expect_err("no signature").code, Code::SourceUnavailable);
        put("terraform_1.9.8_SHA256SUMS.sig", &shared_proto::hex::decode(&signature));
        let (digest, word) = ask().await.expect("the vendor's");
        assert_eq!(word, Word::Signed("374EC75B485913604A831CC7C820C6D5CD27AB87".into()));
        assert_eq!(Some(digest), listed(sums, &release.archive().expect("a name")));
        // somebody else's
        put("terraform_1.9.8_SHA256SUMS.sig", &Vendor::new().sign(sums));
        assert_eq!(ask().await.expect_err("another's").code, Code::SourceRefused);
        put("terraform_1.9.8_SHA256SUMS.sig", &vec![0; openpgp::SIGNATURE_MAX as usize + 1]);
        assert_eq!(ask().await.expect_err("too long").code, Code::TooLarge);
        // a true list without the archive
        let vendor = Vendor::new();
        let other = format!("{}  terraform_1.9.8_plan9_mips.zip\n", "0a".repeat(32));
        put("terraform_1.9.8_SHA256SUMS", other.as_bytes());
        put("terraform_1.9.8_SHA256SUMS.sig", &vendor.sign(other.as_bytes()));
        let keys = [vendor.key];
        let failure = release.checksum_by(&config, &place, None, &keys, ".sig").await.expect_err("not in it");
        assert_eq!((failure.code, failure.message.contains("has no checksum of")), (Code::SourceRefused, true));
    }

    #[tokio::test]
    async fn what_cannot_be_verified_is_refused_and_says_what_to_do() {
        let failure = release(Engine::Pulumi, "3.255.0").checksum(&config(&[]), &Place::Vendor, Some([2; 32])).await;
        let failure = failure.expect_err("refused");
        assert_eq!(failure.code, Code::SourceRefused);
        assert!(
            failure.next_step.contains("pulumi/3.255.0") && failure.next_step.contains("engines.pulumi"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn a_checksum_that_is_named_or_configured_goes_before() {
        let release = release(Engine::OpenTofu, "1.9.0");
        let archive = release.archive().expect("a name");
        let place = Place::Folder("/nowhere".into());
        let ask = async |config: &Config, named| release.checksum(config, &place, named).await;
        let (none, one) = (config(&[]), config(&[(archive, [1; 32])]));
        assert_eq!(ask(&none, Some([2; 32])).await, Ok(([2; 32], Word::Named)));
        assert_eq!(ask(&one, None).await, Ok(([1; 32], Word::Configured)));
        assert_eq!(ask(&one, Some([1; 32])).await, Ok(([1; 32], Word::Named)));
        assert_eq!(ask(&one, Some([2; 32])).await.expect_err("two words").code, Code::SourceRefused);
    }

    #[tokio::test]
    async fn an_archive_is_what_its_checksum_says_or_it_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let release = release(Engine::OpenTofu, "1.9.0");
        std::fs::write(folder.path().join(release.archive().expect("a name")), "an archive").expect("writes");
        let digest: [u8; 32] = Sha256::digest("an archive").into();
        for place in [
            Place::Folder(folder.path().to_owned()),
            Place::Archive(folder.path().join(release.archive().expect("a name"))),
        ] {
            let mut to = tempfile::tempfile().expect("a file");
            release.fetch(&config(&[]), &place, digest, &mut to).await.expect("fetches");
            let failure = release.fetch(&config(&[]), &place, [0; 32], &mut to).await.expect_err("another");
            assert_eq!(failure.code, Code::SourceRefused);
            assert!(failure.message.contains(&shared_proto::hex::encode(digest)), "{failure}");
        }
    }

    #[test]
    fn what_is_longer_than_it_may_be_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").expect("writes");
        let mut to = Vec::new();
        assert_eq!(copy(&path, 5, &mut to), Ok(()));
        assert_eq!(copy(&path, 4, &mut to).expect_err("too long").code, Code::TooLarge);
    }
}
