//! Artifacts of OCI registries and modules of registries of modules, from servers that answer as their specifications say, and from servers that
//! somebody made to have something else fetched.

mod common;

use common::{Job, bodies, engine, packed, result};
use runner_tests::Scratch;
use runner_tests::served::{Answer, Asked, Https, basic, git, repository};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineProgram, Event, JobKind, OciSource, RegistrySource, Source, SourceAccess, source::Kind};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

const MAIN: &str = "output \"version\" { value = \"one\" }\n";
const TOKEN: &str = "planted-token-of-the-tests";
const PACKAGE: &str = "application/vnd.opentofu.modulepkg";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", shared_proto::hex::encode(Sha256::digest(content)))
}

fn zipped(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, content) in files {
        zip.start_file(*path, zip::write::SimpleFileOptions::default()).expect("starts");
        zip.write_all(content.as_bytes()).expect("packs");
    }
    zip.finish().expect("packs").into_inner()
}

/// What a registry has, by its paths below `/v2/org/net/`, with their types.
type Held = Arc<Mutex<BTreeMap<String, (String, Vec<u8>)>>>;

fn put(held: &Held, path: &str, kind: &str, content: &[u8]) {
    held.lock().expect("whole").insert(path.to_owned(), (kind.to_owned(), content.to_owned()));
}

/// A manifest with one layer, put there under a tag and its digest, the layer as well; its digest.
fn publish(held: &Held, tag: &str, kind: &str, layer: &[u8], change: impl FnOnce(&mut Value)) -> String {
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": PACKAGE,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [{"mediaType": kind, "digest": digest(layer), "size": layer.len()}],
    });
    put(held, &format!("blobs/{}", digest(layer)), "application/octet-stream", layer);
    change(&mut manifest);
    let text = manifest.to_string();
    let named = digest(text.as_bytes());
    for name in [tag, &named] {
        put(held, &format!("manifests/{name}"), MANIFEST, text.as_bytes());
    }
    named
}

/// Pulling as the distribution specification has it, for whoever shows a bearer token that this very server has given for the user's password.
fn registry(held: &Held) -> Https {
    let held = Arc::clone(held);
    let own: Arc<Mutex<String>> = Arc::default();
    let realm = Arc::clone(&own);
    let server = Https::start(move |asked| {
        let realm = realm.lock().expect("whole").clone();
        if asked.path == "/token" {
            let scope = asked.query.contains("scope=repository%3Aorg%2Fnet%3Apull");
            return match asked.header("authorization") == basic("robot", TOKEN) && scope {
                true => Answer::of("application/json", json!({"token": "given-for-the-password"}).to_string()),
                false => Answer::status(401),
            };
        }
        if asked.header("authorization") != "Bearer given-for-the-password" {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"registry\",scope=\"repository:org/net:pull\"");
            return Answer::status(401).header("www-authenticate", challenge);
        }
        let held = held.lock().expect("whole");
        match asked.path.strip_prefix("/v2/org/net/").and_then(|path| held.get(path)) {
            Some((kind, content)) => Answer::of(kind, content.clone()).header("docker-content-digest", digest(content)),
            None => Answer::status(404),
        }
    })
    .expect("starts");
    *own.lock().expect("whole") = server.url("token");
    server
}

fn access(pattern: &str, server: &Https) -> SourceAccess {
    SourceAccess {
        entry: "hub".into(),
        pattern: pattern.into(),
        user: "robot".into(),
        password: TOKEN.into(),
        ca_pem: server.ca_pem().into(),
        modules: true,
        ..Default::default()
    }
}

fn run(engine: &EngineProgram, kind: Kind, path: &str, access: SourceAccess) -> (Job, Vec<Event>) {
    let mut job = Job::new(engine, JobKind::Outputs, &[]);
    job.request().format = 4;
    job.request().source = Some(Source { kind: Some(kind), path: path.into() });
    job.start.source_access = Some(access);
    let ended = job.run_here("plan");
    assert!(!format!("{ended:?}").contains(TOKEN), "{ended:#?}");
    (job, ended)
}

fn oci(server: &Https, reference: &str) -> Kind {
    Kind::Oci(OciSource { reference: format!("{}/org/net{reference}", server.address()) })
}

fn revision(events: &[Event]) -> String {
    let resolved = |body: &Body| match body {
        Body::SourceResolved(resolved) => Some(format!("{} {}", resolved.kind, resolved.revision)),
        _ => None,
    };
    bodies(events).find_map(resolved).unwrap_or_default()
}

#[test]
fn artifacts_by_tag_and_digest() {
    let Some(engine) = engine() else { return };
    let held = Held::default();
    let server = registry(&held);
    let pattern = format!("oci://{}/org/*", server.address());
    let files = [("main.tf", MAIN), ("modules/a/main.tf", MAIN)];
    let zip = publish(&held, "v1", "archive/zip", &zipped(&files), |_| {});
    let tar = publish(&held, "v2", "application/vnd.oci.image.layer.v1.tar+gzip", &packed(&files), |_| {});
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [
            {"mediaType": MANIFEST, "digest": tar, "size": 1, "artifactType": "application/x-other"},
            {"mediaType": MANIFEST, "digest": zip, "size": 1, "artifactType": PACKAGE},
        ],
    });
    put(&held, "manifests/both", INDEX, index.to_string().as_bytes());
    for (reference, path, expected) in [
        (":v1", "", &zip),
        (":v1", "modules/a", &zip),
        (&format!("@{zip}") as &str, "", &zip),
        (&format!(":v2@{zip}"), "", &zip),
        (":v2", "", &tar),
        (":both", "", &zip),
    ] {
        let (_, ended) = run(&engine, oci(&server, reference), path, access(&pattern, &server));
        assert_eq!(result(&ended).code, "ok", "{reference}: {ended:#?}");
        assert_eq!(revision(&ended), format!("oci {expected}"), "{reference}");
    }
    // an entry that is for another repository
    server.forget();
    let other = access(&format!("oci://{}/other/*", server.address()), &server);
    let (_, ended) = run(&engine, oci(&server, ":v1"), "", other);
    assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_empty()));
    let (_, ended) = run(&engine, oci(&server, ":none"), "", access(&pattern, &server));
    assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
}

#[test]
fn hostile_artifacts() {
    let Some(engine) = engine() else { return };
    let held = Held::default();
    let server = registry(&held);
    let pattern = format!("oci://{}/org/*", server.address());
    let good = zipped(&[("main.tf", MAIN)]);
    let with = |tag: &str, change: &dyn Fn(&mut Value)| drop(publish(&held, tag, "archive/zip", &good, change));
    with("foreign", &|m| m["layers"][0]["urls"] = json!(["https://169.254.169.254/x"]));
    with("other-digest", &|m| m["layers"][0]["digest"] = digest(b"other").into());
    with("other-size", &|m| m["layers"][0]["size"] = 1.into());
    with("too-large", &|m| m["layers"][0]["size"] = (1_u64 << 40).into());
    with("two", &|m| {
        let one = m["layers"][0].clone();
        m["layers"] = json!([one, one]);
    });
    with("none", &|m| m["layers"] = json!([]));
    with("weak", &|m| m["layers"][0]["digest"] = "md5:00".into());
    with("path", &|m| m["layers"][0]["digest"] = "sha256:../../x".into());
    with("kind", &|m| m["layers"][0]["mediaType"] = "application/x-sh".into());
    // what its digest names is something else
    put(&held, &format!("blobs/{}", digest(b"other")), "application/octet-stream", b"another content");
    // a manifest under another one's digest, one without end, one that is none
    let named = digest(b"a manifest");
    put(&held, &format!("manifests/{named}"), MANIFEST, b"{}");
    put(&held, "manifests/endless", MANIFEST, format!("{{\"x\":\"{}\"}}", "a".repeat(5 << 20)).as_bytes());
    put(&held, "manifests/text", MANIFEST, b"no manifest");
    let index = json!({"mediaType": INDEX, "manifests": [
        {"mediaType": INDEX, "digest": digest(b"loop"), "size": 1, "artifactType": PACKAGE}]});
    put(&held, "manifests/index-of-none", INDEX, json!({"mediaType": INDEX, "manifests": []}).to_string().as_bytes());
    put(&held, "manifests/index-of-index", INDEX, index.to_string().as_bytes());
    put(&held, &format!("manifests/{}", digest(b"loop")), INDEX, index.to_string().as_bytes());
    publish(&held, "traversal", "archive/zip", &zipped(&[("../x", "x")]), |_| {});
    publish(&held, "no-zip", "archive/zip", b"no zip", |_| {});
    publish(&held, "empty", "archive/zip", &zipped(&[]), |_| {});
    for reference in [
        ":foreign",
        ":other-digest",
        ":other-size",
        ":too-large",
        ":two",
        ":none",
        ":weak",
        ":path",
        ":kind",
        &format!("@{named}") as &str,
        ":endless",
        ":text",
        ":index-of-none",
        ":index-of-index",
        ":traversal",
        ":no-zip",
        ":empty",
        ":-option",
        "",
        "/../x:v1",
    ] {
        let (job, ended) = run(&engine, oci(&server, reference), "", access(&pattern, &server));
        assert_eq!(result(&ended).code, "source_refused", "{reference}: {ended:#?}");
        assert!(!bodies(&ended).any(|b| matches!(b, Body::EngineStarted(_))), "{reference}");
        assert!(!job.work().join("x").exists() && !job.folder.path().join("x").exists(), "{reference}");
    }
}

#[test]
fn a_registry_that_sends_elsewhere_sends_no_credentials_there() {
    let Some(engine) = engine() else { return };
    let layer = zipped(&[("main.tf", MAIN)]);
    let (content, manifest) = (layer.clone(), {
        let held = Held::default();
        publish(&held, "v1", "archive/zip", &layer, |_| {});
        let held = held.lock().expect("whole");
        held["manifests/v1"].1.clone()
    });
    // registries keep their blobs elsewhere: they are fetched from there, by nobody in particular
    let store = Https::start(move |_| Answer::of("application/octet-stream", content.clone())).expect("starts");
    let to = store.url("blob?signed=1");
    let answer = move |asked: &Asked, to: &str| {
        if asked.header("authorization") != basic("robot", TOKEN) {
            return Answer::status(401).header("www-authenticate", "Basic realm=\"x\"");
        }
        match asked.path.contains("/manifests/") {
            true => Answer::of(MANIFEST, manifest.clone()),
            false => Answer::status(307).header("location", to),
        }
    };
    let first = answer.clone();
    let server = Https::start(move |asked| first(asked, &to)).expect("starts");
    let both = |server: &Https| SourceAccess {
        ca_pem: server.ca_pem().into(),
        ..access(&format!("oci://{}/org/*", server.address()), server)
    };
    // another authority has issued its certificate, and whom the entry trusts is for the entry's own host
    let (_, ended) = run(&engine, oci(&server, ":v1"), "", both(&server));
    assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
    assert!(store.asked().is_empty());
    for (to, code) in [
        ("http://127.0.0.1:1/x", "source_refused"),
        ("https://169.254.169.254/latest/meta-data/", "source_refused"),
        ("https://[fd00:ec2::254]/latest/", "source_refused"),
        ("file:///etc/passwd", "source_refused"),
        ("https://user:password@127.0.0.1:1/x", "source_refused"),
        ("", "source_unavailable"),
    ] {
        let answer = answer.clone();
        let server = Https::start(move |asked| answer(asked, to)).expect("starts");
        let (_, ended) = run(&engine, oci(&server, ":v1"), "", both(&server));
        assert_eq!(result(&ended).code, code, "{to}: {ended:#?}");
    }
}

/// A registry of modules that says of version 1.1.0 what it is told to.
fn modules(location: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Https {
    Https::start(move |asked| match asked.path.as_str() {
        "/.well-known/terraform.json" => {
            Answer::of("application/json", json!({"modules.v1": "/v1/modules/"}).to_string())
        }
        _ if asked.header("authorization") != format!("Bearer {TOKEN}") => Answer::status(401),
        "/v1/modules/org/net/aws/versions" => {
            let versions: Vec<_> =
                ["1.0.0", "1.1.0", "2.0.0", "3.0.0-beta1", "nonsense"].iter().map(|v| json!({"version": v})).collect();
            Answer::of("application/json", json!({"modules": [{"versions": versions}]}).to_string())
        }
        _ => location(asked),
    })
    .expect("starts")
}

fn module(server: &Https, version: &str) -> Kind {
    Kind::Registry(RegistrySource { address: format!("{}/org/net/aws", server.address()), version: version.into() })
}

#[test]
fn modules_by_version_from_archives_and_git() {
    let Some(engine) = engine() else { return };
    let (tar, zip) = (packed(&[("sub/main.tf", MAIN)]), zipped(&[("main.tf", MAIN)]));
    let (tar_digest, zip_digest) = (digest(&tar), digest(&zip));
    let server = modules(move |asked| match asked.path.as_str() {
        "/v1/modules/org/net/aws/1.0.0/download" => {
            Answer::status(204).header("x-terraform-get", "/files/x.tar.gz//sub")
        }
        "/v1/modules/org/net/aws/1.1.0/download" => {
            Answer::of("application/json", json!({"location": "./module.zip"}).to_string())
        }
        "/v1/modules/org/net/aws/2.0.0/download" => {
            Answer::status(204).header("x-terraform-get", "https://127.0.0.1:1/x.zip")
        }
        "/files/x.tar.gz" => Answer::of("application/gzip", tar.clone()),
        "/v1/modules/org/net/aws/1.1.0/module.zip" => Answer::of("application/zip", zip.clone()),
        _ => Answer::status(404),
    });
    let pattern = format!("registry://{}/org/*", server.address());
    for (version, expected) in [
        ("1.0.0", format!("registry 1.0.0 ({tar_digest})")),
        ("~> 1.0", format!("registry 1.1.0 ({zip_digest})")),
        ("< 2", format!("registry 1.1.0 ({zip_digest})")),
    ] {
        let (_, ended) = run(&engine, module(&server, version), "", access(&pattern, &server));
        assert_eq!((result(&ended).code.as_str(), revision(&ended)), ("ok", expected), "{version}: {ended:#?}");
    }
    for (version, code) in
        [("", "source_unavailable"), ("4.0.0", "source_unavailable"), ("no version", "source_refused")]
    {
        let (_, ended) = run(&engine, module(&server, version), "", access(&pattern, &server));
        assert_eq!(result(&ended).code, code, "{version}: {ended:#?}");
    }
    // whoever the entry is not for
    let other = access(&format!("registry://{}/other/*", server.address()), &server);
    server.forget();
    let (_, ended) = run(&engine, module(&server, "1.0.0"), "", other);
    assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_empty()));
    // a commit of Git, by a server that is shown nothing of the registry's
    let root = Scratch::new("git").expect("a folder");
    let commit = repository(&root.join("net"), &[("main.tf", MAIN)]).expect("a repository");
    git(&root.join("net"), &["tag", "v1"]).expect("tags");
    let held = root.path().to_owned();
    let server = modules(move |asked| match asked.path.starts_with("/git/") {
        true => Answer::status(404),
        false => {
            Answer::status(204).header("x-terraform-get", format!("git::https://127.0.0.1:1{}?ref=v1", held.display()))
        }
    });
    let pattern = format!("registry://{}/org/*", server.address());
    let (_, ended) = run(&engine, module(&server, "1.1.0"), "", access(&pattern, &server));
    let end = result(&ended);
    assert!(end.code == "source_unavailable" && end.message.contains("git cannot reach"), "{commit}: {end:?}");
}

#[test]
fn hostile_registries_of_modules() {
    let Some(engine) = engine() else { return };
    let far = "a".repeat(5000);
    for (location, code) in [
        ("file:///etc/passwd", "source_refused"),
        ("file::/etc", "source_refused"),
        ("/../../../etc/passwd", "source_refused"),
        ("http://127.0.0.1:1/x.tar.gz", "source_refused"),
        ("https://169.254.169.254/latest/x.tar.gz", "source_refused"),
        ("https://[::ffff:169.254.169.254]/x.zip", "source_refused"),
        ("s3::https://s3.amazonaws.com/bucket/x.zip", "source_refused"),
        ("gcs::https://www.googleapis.com/storage/v1/b/x.zip", "source_refused"),
        ("hg::https://127.0.0.1:1/x", "source_refused"),
        ("git::ext::sh -c touch% /tmp/x", "source_refused"),
        ("git::file:///etc", "source_refused"),
        ("git::--upload-pack=x", "source_refused"),
        ("git::https://user:password@127.0.0.1:1/x", "source_refused"),
        ("git::https://127.0.0.1:1/x?sshkey=AAAA", "source_refused"),
        ("git::https://127.0.0.1:1/x?ref=--upload-pack=x", "source_refused"),
        ("https://127.0.0.1:1/x.zip//../../etc", "source_refused"),
        ("https://127.0.0.1:1/x", "source_refused"),
        ("", "source_unavailable"),
        (&far as &str, "source_refused"),
    ] {
        let to = location.to_owned();
        let server = modules(move |_| match to.as_str() {
            "" => Answer::status(404),
            to => Answer::status(204).header("x-terraform-get", to),
        });
        let mut entry = access(&format!("registry://{}/org/*", server.address()), &server);
        entry.modules = false;
        let mut job = Job::new(&engine, JobKind::Outputs, &[]);
        job.start.environment.insert("RUNNER_ALLOW_FILE_SOURCES".into(), "1".into());
        job.request().source = Some(Source { kind: Some(module(&server, "1.1.0")), path: String::new() });
        job.start.source_access = Some(entry);
        let ended = job.run_here("plan");
        assert_eq!(result(&ended).code, code, "{location}: {ended:#?}");
        assert!(!bodies(&ended).any(|b| matches!(b, Body::EngineStarted(_))), "{location}");
        assert!(!format!("{ended:?}").contains("password@"), "{location}");
    }
    // services that are elsewhere get nothing that is the registry's own
    let thief = Https::start(|_| Answer::status(401)).expect("starts");
    for to in [thief.url("v1/"), "http://127.0.0.1:1/v1/".to_owned(), "file:///v1/".to_owned(), String::new()] {
        let said = to.clone();
        let server = Https::start(move |_| Answer::of("application/json", json!({"modules.v1": said}).to_string()))
            .expect("starts");
        let mut entry = access(&format!("registry://{}/org/*", server.address()), &server);
        entry.ca_pem.push_str(thief.ca_pem());
        let (_, ended) = run(&engine, module(&server, "1.1.0"), "", entry);
        assert!(result(&ended).code.starts_with("source_"), "{to}: {ended:#?}");
    }
    assert!(thief.asked().iter().all(|asked| asked.header("authorization").is_empty()));
}
