//! An artifact of an OCI registry: the package that OpenTofu has for modules (one zip), or one layer of tar.gz. What it is made of is named by its
//! hashes, and nothing is unpacked that has another.
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>, <https://opentofu.org/docs/cli/oci_registries/module-package>

use super::Places;
use super::archive::{Packed, unpack_file};
use super::web::{Reply, Wanted, Web};
use crate::cancel::Watcher;
use crate::stop::Stop;
use http::StatusCode;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::sources::{OciReference, Place, is_digest};
use shared_proto::v1::{ArchiveSource, OciSource, SourceResolved};

/// The longest manifest, bytes: what registries have to take. <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests>
const MANIFEST_MAX: usize = 4 * 1024 * 1024;
/// The longest answer with a token, bytes.
const TOKEN_MAX: usize = 256 * 1024;
/// The most layers that are looked at.
const LAYERS_MAX: usize = 64;
/// A manifest of one artifact, and one that names others.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What OpenTofu calls its packages.
const PACKAGE: &str = "application/vnd.opentofu.modulepkg";
/// Layers that can be unpacked.
const LAYERS: [(&str, Packed); 3] = [
    ("archive/zip", Packed::Zip),
    ("application/vnd.oci.image.layer.v1.tar+gzip", Packed::TarGz),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", Packed::TarGz),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    urls: Vec<String>,
}
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// A repository of a registry.
struct Repository<'a> {
    web: Web<'a>,
    place: &'a Place,
    /// Basic, where the entry is for it.
    basic: Option<&'a str>,
    /// What it wants to see, once it has said so.
    shows: Option<String>,
}

/// Fetches and unpacks it.
///
/// # Errors
/// `source_refused`, `source_unavailable`, `disk_full`; cancelled.
pub(super) async fn fetch(
    wanted: &OciSource,
    places: &Places<'_>,
    cancel: &mut Watcher,
) -> Result<SourceResolved, Stop> {
    let refuse = |what: String| Code::SourceRefused.on(format!("the artifact {}: {what}", wanted.reference));
    let reference = OciReference::parse(&wanted.reference)
        .map_err(|why| Code::SourceRefused.on(format!("the reference of the artifact {why}")))?;
    let mut repository = Repository {
        web: Web::new(places.access, places.environment),
        place: &reference.place,
        basic: places.access.authorization(&reference.place),
        shows: None,
    };
    let file = places.tmp.join("artifact");
    let fetching = async {
        let (digest, manifest) = repository.manifest(&reference.reference).await?;
        let layer = manifest.layer().map_err(refuse)?;
        let blob = repository.get(&format!("blobs/{}", layer.0.digest), "").await?.ok()?;
        let (size, sha256) = blob.into_file(&file, layer.0.size.min(ARCHIVE_PACKED_MAX)).await?;
        if format!("sha256:{sha256}") != layer.0.digest || size != layer.0.size {
            let message = format!("its layer is sha256:{sha256} of {size} bytes, its manifest says {}", layer.0.digest);
            return Err(refuse(message).into());
        }
        Ok::<_, Stop>((digest, layer.1, ArchiveSource { sha256, size }))
    };
    let (digest, packed, archive) = tokio::select! {
        fetched = fetching => fetched?,
        _ = cancel.asked() => return Err(Stop::Canceled { forced: false, exit: None }),
    };
    unpack_file(&file, &archive, packed, places.source, cancel).await?;
    let _ = std::fs::remove_file(&file);
    Ok(SourceResolved { kind: "oci".into(), revision: digest, reference: wanted.reference.clone() })
}

// === impl Repository ===

impl Repository<'_> {
    /// A manifest and its digest: by an index that of its one package.
    async fn manifest(&mut self, reference: &str) -> Result<(String, Manifest), Failure> {
        let mut reference = reference.to_owned();
        // an index of indexes is none of a package
        for level in 0..2 {
            let accept = format!("{MANIFEST}, {INDEX}");
            let reply = self.get(&format!("manifests/{reference}"), &accept).await?.ok()?;
            let (kind, said) =
                (reply.header("content-type").to_owned(), reply.header("docker-content-digest").to_owned());
            let body = reply.whole(MANIFEST_MAX).await?;
            let digest = format!("sha256:{}", shared_proto::hex::encode(Sha256::digest(&body)));
            let expected = if is_digest(&reference) { &reference } else { &said };
            if !expected.is_empty() && *expected != digest {
                let message =
                    format!("the manifest {reference} of {} is {digest}, it should be {expected}", self.place);
                return Err(Code::SourceRefused.on(message));
            }
            let manifest: Manifest = serde_json::from_slice(&body)
                .map_err(|_| Code::SourceRefused.on(format!("the manifest {reference} of {} is none", self.place)))?;
            let is_index = manifest.media_type == INDEX || manifest.media_type.is_empty() && kind.starts_with(INDEX);
            if !is_index {
                return Ok((digest, manifest));
            }
            let packages: Vec<_> = manifest.manifests.iter().filter(|one| one.artifact_type == PACKAGE).collect();
            match packages.as_slice() {
                [one] if level == 0 && is_digest(&one.digest) => reference = one.digest.clone(),
                _ => break,
            }
        }
        let message = format!("{} at {reference} is an index that does not name one package of a module", self.place);
        Err(Code::SourceRefused.on(message))
    }

    /// Asks for something of the repository, and once more with what the registry then wants to see.
    async fn get(&mut self, what: &str, accept: &str) -> Result<Reply, Failure> {
        let address = format!("https://{}/v2/{}/{what}", self.place.authority(), self.place.path);
        let reply = self.web.get(&address, Wanted { accept, authorization: self.shows.as_deref() }).await?;
        if reply.status != StatusCode::UNAUTHORIZED || self.shows.is_some() {
            return Ok(reply);
        }
        let challenge = reply.header("www-authenticate").to_owned();
        let Some(shows) = self.answer(&challenge).await? else { return Ok(reply) };
        self.shows = Some(shows);
        self.web.get(&address, Wanted { accept, authorization: self.shows.as_deref() }).await
    }

    /// What a challenge is answered with. <https://distribution.github.io/distribution/spec/auth/token/>
    async fn answer(&self, challenge: &str) -> Result<Option<String>, Failure> {
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(self.basic.map(str::to_owned));
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(None);
        }
        let realm = parameter(rest, "realm").unwrap_or_default();
        let mut query = format!("scope=repository%3A{}%3Apull", self.place.path.replace('/', "%2F"));
        if let Some(service) = parameter(rest, "service") {
            query.push_str(&format!("&service={}", escaped(&service)));
        }
        let address = format!("{realm}{}{query}", if realm.contains('?') { "&" } else { "?" });
        let own = self.basic.filter(|_| is_of_registry(&realm, &self.place.host));
        let reply = self.web.get(&address, Wanted { accept: "", authorization: own }).await?.ok()?;
        let body = reply.whole(TOKEN_MAX).await?;
        let wrong = || Code::SourceUnavailable.on(format!("{} gives no token", self.place.authority()));
        let given: Token = serde_json::from_slice(&body).map_err(|_| wrong())?;
        match [given.token, given.access_token].into_iter().find(|token| !token.is_empty()) {
            Some(token) if token.bytes().all(|b| b.is_ascii_graphic()) => Ok(Some(format!("Bearer {token}"))),
            _ => Err(wrong()),
        }
    }
}

// === impl Manifest ===

impl Manifest {
    /// The one layer that can be unpacked.
    fn layer(&self) -> Result<(Descriptor, Packed), String> {
        if self.layers.len() > LAYERS_MAX {
            return Err(format!("it has more than {LAYERS_MAX} layers"));
        }
        let kind =
            |layer: &Descriptor| LAYERS.iter().find(|(name, _)| *name == layer.media_type).map(|(_, packed)| *packed);
        let mut known = self.layers.iter().filter_map(|layer| Some((layer, kind(layer)?)));
        let (Some((layer, packed)), None) = (known.next(), known.next()) else {
            return Err("it does not have exactly one layer of archive/zip or of tar.gz".into());
        };
        if !layer.urls.is_empty() {
            return Err("its layer is elsewhere than in the registry".into());
        }
        if !is_digest(&layer.digest) {
            return Err("its layer is not named by a SHA-256".into());
        }
        if layer.size > ARCHIVE_PACKED_MAX {
            return Err(format!("its layer is larger than {ARCHIVE_PACKED_MAX} bytes"));
        }
        Ok((layer.clone(), packed))
    }
}

/// Whether credentials for a registry are for where it has tokens given: on its own host, or on another one of its domain.
fn is_of_registry(realm: &str, registry: &str) -> bool {
    let Some(rest) = realm.strip_prefix("https://") else { return false };
    let host = rest.split(['/', '?', '#', ':']).next().unwrap_or_default().to_ascii_lowercase();
    let domain = |host: &str| {
        let labels: Vec<_> = host.rsplit('.').take(2).map(str::to_owned).collect();
        // an address has no domain
        (labels.len() == 2 && labels[0].parse::<u8>().is_err()).then_some(labels)
    };
    host == registry || domain(&host).is_some_and(|own| domain(registry) == Some(own))
}

/// A parameter of a challenge. <https://www.rfc-editor.org/rfc/rfc9110#name-challenge-and-response>
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (key, behind) = rest.split_once('=')?;
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => behind.split_once(',').unwrap_or((behind, "")),
        };
        if key.trim_matches([' ', ',']).eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = behind;
    }
}

fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let text =
            r#"realm="https://auth.example/token?x=1",service="registry.example", scope="repository:a/b:pull,push""#;
        assert_eq!(parameter(text, "realm").as_deref(), Some("https://auth.example/token?x=1"));
        assert_eq!(parameter(text, "service").as_deref(), Some("registry.example"));
        assert_eq!(parameter(text, "SCOPE").as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(parameter("realm=x, service=y", "service").as_deref(), Some("y"));
        for none in ["", "realm", "realm=\"x", "other=\"realm=x\""] {
            assert_eq!(parameter(none, "realm"), None, "{none}");
        }
    }

    #[test]
    fn where_credentials_of_a_registry_go() {
        for (realm, registry, goes) in [
            ("https://registry.example.com/token", "registry.example.com", true),
            ("https://auth.docker.io/token", "registry-1.docker.io", true),
            ("https://gitlab.com/jwt/auth", "registry.gitlab.com", true),
            ("https://127.0.0.1:5000/token", "127.0.0.1", true),
            ("https://evil.example/token", "registry.example.com", false),
            ("http://registry.example.com/token", "registry.example.com", false),
            ("https://registry.example.com.evil.example/", "registry.example.com", false),
            ("https://registry.example.com@evil.example/", "registry.example.com", false),
            ("https://10.0.0.1/token", "11.0.0.1", false),
            ("", "registry.example.com", false),
        ] {
            assert_eq!(is_of_registry(realm, registry), goes, "{realm} {registry}");
        }
    }

    #[test]
    fn layers() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let layer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":1}}"#);
        let manifest = |layers: &str| serde_json::from_str::<Manifest>(&format!(r#"{{"layers":[{layers}]}}"#));
        let of = |layers: &str| manifest(layers).expect("a manifest").layer();
        assert_eq!(of(&layer("archive/zip")).map(|(_, packed)| packed), Ok(Packed::Zip));
        assert!(of(&format!("{},{}", layer("text/plain"), layer("archive/zip"))).is_ok());
        for (layers, says) in [
            (String::new(), "exactly one"),
            (layer("text/plain"), "exactly one"),
            (format!("{},{}", layer("archive/zip"), layer("archive/zip")), "exactly one"),
            (layer("archive/zip").replace("\"size\"", "\"urls\":[\"https://x/\"],\"size\""), "elsewhere"),
            (layer("archive/zip").replace("sha256:", "sha512:"), "SHA-256"),
            (layer("archive/zip").replace("\"size\":1", &format!("\"size\":{}", ARCHIVE_PACKED_MAX + 1)), "larger"),
            (vec![layer("text/plain"); LAYERS_MAX + 1].join(","), "more than"),
        ] {
            assert!(of(&layers).map(|_| ()).expect_err(says).contains(says), "{layers}");
        }
        assert!(
            of(&vec![layer("text/plain"); LAYERS_MAX - 1].join(",").replacen("text/plain", "archive/zip", 1)).is_ok()
        );
    }
}
