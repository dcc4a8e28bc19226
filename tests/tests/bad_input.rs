//! Bad input of every kind: each gives a clear error, and a further operation works. The cases are tables; each row says what is
//! sent and with which code it is refused.

use anyhow::{Context as _, Result, bail, ensure};
use hyper::Method;
use runner_tests::archive::{self, Entry};
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{ControlPlane, User};
use runner_tests::engine::{EngineKind, quick_module};
use runner_tests::false_control_plane::FalseControlPlane;
use runner_tests::runner::Setup;
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, Cutter, Engine, Runner, Suite, eventually, https};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use shared_proto::bounds;
use shared_proto::credentials::CredentialsFile;
use shared_proto::v1::{self, operation_input, operation_output, operation_request::What};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tar::EntryType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;

const SECONDS: Duration = Duration::from_secs(30);
const JOB: Duration = Duration::from_secs(120);

struct Usual {
    runner: Runner,
    wire: Cutter,
    control_plane: ControlPlane,
    _engine: Option<Engine>,
}

static CLUSTER: Shared<Cluster> = Shared::new();
static USUAL: Shared<Usual> = Shared::new();

async fn start() -> Result<Usual> {
    let cluster = CLUSTER.get(usual_cluster).await?;
    let control_plane = ControlPlane::start().await?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let engine = Engine::new(EngineKind::OpenTofu).ok();
    let user = control_plane.admin();
    let runner = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .engines(&engine.iter().collect::<Vec<_>>())
        .tunnel_through(&wire)
        .start(user, "runner-1")
        .await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    Ok(Usual { runner, wire, control_plane, _engine: engine })
}

async fn usual() -> Result<&'static Usual> {
    USUAL.get(start).await
}

/// A further operation works.
async fn works(user: &User) -> Result<()> {
    let list = user.get("/connections/cluster/k8s/pods?namespace=seen").await.context("a further operation")?;
    ensure!(list["items"][0]["name"] == "web-1", "{list}");
    Ok(())
}

fn main() -> ExitCode {
    Suite::new()
        .limit(600)
        .needs(&[Component::Cluster])
        .test("api_requests", api_requests)
        .test("api_raw_bytes", api_raw_bytes)
        .test("terminals", terminals)
        .test("first_messages", first_messages)
        .test("control_planes_that_misbehave", misbehaving_control_planes)
        .test("runners_that_misbehave", misbehaving_runners)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("archives", archives)
        .test("git_addresses", git_addresses)
        .run()
}

/// A row: method, path, body (a text that is sent as it is), and the status and code of the refusal.
type Row = (Method, String, String, u16, &'static str);

async fn api_requests() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    user.stack("bad-input", "opentofu", quick_module()).await?;
    let pods = |query: &str| format!("/connections/cluster/k8s/pods?{query}");
    let logs = |query: &str| format!("/connections/cluster/k8s/namespaces/seen/pods/web-1/logs?container=app&{query}");
    let get =
        |path: String, status: u16, code: &'static str| -> Row { (Method::GET, path, String::new(), status, code) };
    let post = |path: &str, body: Value, status: u16, code: &'static str| -> Row {
        (Method::POST, path.to_owned(), body.to_string(), status, code)
    };
    let raw =
        |path: &str, body: &str| -> Row { (Method::POST, path.to_owned(), body.to_owned(), 400, "invalid_argument") };
    let long = "x".repeat(5000);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(9 << 20));
    let bad = "invalid_argument";
    let source = json!({ "archive": { "sha256": "0".repeat(64), "size": 10 } });
    let stack = |name: &str, engine: &str, source: Value| json!({ "name": name, "engine": engine, "source": source });
    let table: Vec<Row> = vec![
        // bodies
        raw("/runners", ""),
        raw("/runners", "{"),
        raw("/runners", "null"),
        raw("/runners", "[]"),
        raw("/runners", "\"name\""),
        raw("/runners", "{\"name\": 7}"),
        raw("/runners", "{}"),
        raw("/runners", "\u{feff}{\"name\":\"x\"}"),
        raw("/runners", &deep),
        (Method::POST, "/runners".into(), huge, 413, "too_large"),
        post("/runners", json!({ "name": "" }), 400, bad),
        post("/runners", json!({ "name": long }), 400, bad),
        post("/runners", json!({ "name": "a/b" }), 400, bad),
        post("/runners", json!({ "name": "../x" }), 400, bad),
        post("/runners", json!({ "name": "a\u{0}b" }), 400, bad),
        post("/runners", json!({ "name": "a\nb" }), 400, bad),
        post("/runners", json!({ "name": "\u{202e}x" }), 400, bad),
        post("/runners", json!({ "name": "runner-1" }), 409, "conflict"),
        post("/runners/runner-1/credentials", json!({}), 400, bad),
        post("/runners/runner-1/credentials", json!({ "csr": "no csr" }), 400, bad),
        post(
            "/runners/runner-1/credentials",
            json!({ "csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n" }),
            400,
            bad,
        ),
        post("/connections", json!({ "name": "x", "provider": "mainframe" }), 400, bad),
        post("/connections", json!({ "name": "x" }), 400, bad),
        post("/connections", json!({ "name": "x", "provider": "kubernetes", "entry": "/etc/passwd" }), 400, bad),
        post("/stacks", stack("x", "make", source.clone()), 400, bad),
        post("/stacks", stack("x", "opentofu", json!({})), 400, bad),
        // what its runner does not have would only end its jobs
        post(
            "/stacks",
            json!({ "name": "x", "engine": "opentofu", "source": { "git": { "url": "https://example.com/x.git" } },
                    "connections": ["cluster", "clutser"] }),
            409,
            "unknown_connection",
        ),
        post("/stacks", stack("x", "opentofu", json!({ "archive": { "sha256": "xyz", "size": 1 } })), 400, bad),
        post("/stacks/bad-input/jobs", json!({ "kind": "explode" }), 400, bad),
        post("/stacks/bad-input/jobs", json!({ "kind": "preview", "variables": [1] }), 400, bad),
        post("/stacks/none/jobs", json!({ "kind": "preview" }), 404, "not_found"),
        // ids
        get("/runners/none".into(), 404, "not_found"),
        get("/runners/..%2f..%2fadmin-token".into(), 404, "not_found"),
        get(format!("/runners/{long}"), 404, "not_found"),
        get("/runners/%00".into(), 404, "not_found"),
        get("/runners/%ff%fe".into(), 400, bad),
        get("/runners/'%20OR%201=1--".into(), 404, "not_found"),
        get("/jobs/none".into(), 404, "not_found"),
        get("/operations/none".into(), 404, "not_found"),
        get("/connections/none/k8s/pods".into(), 404, "not_found"),
        get("/no/such/path".into(), 404, "not_found"),
        (Method::PATCH, "/runners".into(), "{}".into(), 405, "method_not_allowed"),
        (Method::PUT, format!("/archives/{}", "0".repeat(64)), "not what the digest says".into(), 400, bad),
        (Method::PUT, "/archives/no-digest".into(), "x".into(), 400, bad),
        (Method::PUT, "/archives/..%2f..%2fadmin-token".into(), "x".into(), 400, bad),
        // selectors, names and numbers of operations
        get(pods("labels=%3D%3D%3D"), 422, "target_refused"),
        get(pods("labels=a%20in%20("), 422, "target_refused"),
        get(pods("fields=no.such.field%3Dx"), 422, "target_refused"),
        get(pods(&format!("labels={}", "a".repeat(20_000))), 400, bad),
        get(pods("all_namespaces=maybe"), 400, bad),
        get(pods("namespace=..%2f..%2fsecrets"), 400, bad),
        get(pods("namespace=UPPER"), 400, bad),
        get("/connections/cluster/k8s/namespaces/seen/pods/..%2f..%2fx".into(), 400, bad),
        get("/connections/cluster/k8s/namespaces/seen/pods/web-1%3fcontainer=x/logs".into(), 400, bad),
        get(logs("tail=-1"), 400, bad),
        get(logs("tail=ten"), 400, bad),
        get(logs("since_seconds=99999999999999999999"), 400, bad),
        get(logs("since_seconds=-5"), 400, bad),
        get(logs("limit_bytes=0"), 400, bad),
        get("/connections/cluster/k8s/namespaces/seen/pods/web-1/logs?container=none".into(), 422, "target_refused"),
        get("/jobs?limit=-1".into(), 400, bad),
        get("/jobs?limit=many".into(), 400, bad),
    ];
    let mut wrong = Vec::new();
    for (method, path, body, status, code) in &table {
        let headers = [("content-type", "application/json")];
        let answer = user.client().request(method.clone(), &format!("/api/v1{path}"), &headers, body.clone()).await;
        let short: String = format!("{method} {path} {body}").chars().take(120).collect();
        match answer {
            Err(e) => wrong.push(format!("{short}: {e:#}")),
            Ok(answer) => {
                let error = answer.json().unwrap_or_default()["error"].clone();
                let told = ["message", "next_step"].iter().all(|f| error[f].as_str().is_some_and(|t| !t.is_empty()));
                // a name that cannot exist may be told as wrong or as unknown: both are clear
                let fits = (answer.status.as_u16(), answer.code().as_str()) == (*status, *code)
                    || (*code == "not_found" && answer.code() == bad)
                    || (*code == "target_refused" && ["target_not_found", bad].contains(&answer.code().as_str()))
                    || (*code == bad && answer.code() == "too_large")
                    || (*code == bad && *status == 400 && method == Method::GET && answer.code() == "target_not_found");
                if !fits || !told {
                    let text: String = answer.text().chars().take(200).collect();
                    wrong.push(format!("{short}: expected {status} {code}, got {} {text}", answer.status));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), table.len(), wrong.join("\n"));
    ensure!(table.len() >= 60, "{}", table.len());
    works(user).await
}

async fn api_raw_bytes() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let ca = std::fs::read_to_string(usual.control_plane.data().join("ca.pem"))?;
    let config = rustls::ClientConfig::builder_with_provider(https::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(https::roots(&ca)?)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", (0..5000).map(|n| format!("x-{n}: y\r\n")).collect::<String>());
    for bytes in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /api/v1/runners HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/runners HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/v1/runners HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let stream = TcpStream::connect(usual.control_plane.api()).await?;
        let mut stream = connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
        // the other end may close while we write
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(SECONDS, stream.read_to_end(&mut answer))
            .await
            .context("the connection stays open")?;
        ensure!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    // no TLS at all, on both ports
    for address in [usual.control_plane.api(), usual.control_plane.runner_address()] {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(SECONDS, stream.read_to_end(&mut answer)).await.context("it stays open")?;
    }
    works(user).await
}

async fn terminals() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let path =
        |query: &str| format!("/api/v1/connections/cluster/k8s/namespaces/seen/pods/web-1/exec?container=app&{query}");
    for query in [
        "",
        "tty=true",
        "command=",
        "command=sh&columns=0&rows=0&tty=true",
        "command=sh&columns=-1&rows=24&tty=true",
        "command=sh&columns=70000&rows=24&tty=true",
        "command=sh&columns=wide&tty=true",
        "command=sh&tty=perhaps",
        "command=a%00b",
    ] {
        // refused before the upgrade, or as the first thing said on the socket
        let said = match user.client().socket(&path(query), "runner.exec.v1").await {
            Err(e) => format!("{e:#}"),
            Ok(mut socket) => match tokio::time::timeout(SECONDS, socket.next()).await.context("it hangs")? {
                Ok(Some((3, outcome))) => String::from_utf8_lossy(&outcome).into_owned(),
                other => bail!("{query:.60}: {other:?}"),
            },
        };
        let clear = ["invalid_argument", "too_large", "414", "431"].iter().any(|w| said.contains(w));
        ensure!(clear, "{query:.60}: {said}");
    }
    // an unknown protocol is not spoken
    ensure!(user.client().socket(&path("command=true"), "v5.channel.k8s.io").await.is_err());
    // a plain request is told what is missing
    let answer = user.client().get(&path("command=true")).await?;
    ensure!(answer.status.is_client_error() && !answer.code().is_empty(), "{} {}", answer.status, answer.text());
    // bad messages within
    use tokio_tungstenite::tungstenite::Message;
    for message in [
        Message::Text("not binary".into()),
        Message::Binary(bytes::Bytes::new()),
        Message::Binary(vec![9, 1, 2].into()),
        Message::Binary([&[4u8][..], b"{\"columns\":0,\"rows\":0}"].concat().into()),
        Message::Binary([&[4u8][..], b"{\"columns\":99999999999,\"rows\":1}"].concat().into()),
        Message::Binary([&[4u8][..], b"{"].concat().into()),
        Message::Binary(vec![0; 9 << 20].into()),
    ] {
        let mut socket =
            user.exec("cluster", "seen", "web-1", &["sleep", "1000"], "container=app&stdin=true&tty=true").await?;
        let what: String = format!("{message:?}").chars().take(60).collect();
        let _ = socket.send_message(message).await;
        let end = async {
            loop {
                match socket.next().await {
                    Ok(Some((3, outcome))) => return String::from_utf8_lossy(&outcome).into_owned(),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return "closed".to_owned(),
                }
            }
        };
        let said = tokio::time::timeout(SECONDS, end).await.with_context(|| format!("{what} changes nothing"))?;
        ensure!(!said.contains("\"ok\""), "{what}: {said}");
    }
    usual.runner.no_workers(SECONDS).await?;
    works(user).await
}

async fn archives() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let main = Entry::file("main.tf", quick_module());
    let outside = usual.runner.folder().join("outside");
    let shown = outside.display().to_string();
    let with = |entries: Vec<Entry>| archive::pack(&[vec![main.clone()], entries].concat());
    let mut bomb = Vec::new();
    {
        use std::io::Write as _;
        let mut header = tar::Header::new_gnu();
        header.set_path("bomb")?;
        header.set_size(bounds::SOURCE_UNPACKED_MAX + 1);
        header.set_mode(0o644);
        header.set_cksum();
        let mut packed = flate2::write::GzEncoder::new(&mut bomb, flate2::Compression::best());
        packed.write_all(header.as_bytes())?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..=bounds::SOURCE_UNPACKED_MAX >> 20 {
            packed.write_all(&zeros)?;
        }
        packed.finish()?;
    }
    let mut many = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for n in 0..=bounds::SOURCE_FILES_MAX {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        many.append_data(&mut header, format!("f{n}"), &[][..])?;
    }
    let many = many.into_inner()?.finish()?;
    let whole = archive::module(quick_module())?;
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("an absolute path", with(vec![Entry::file(&format!("{shown}/absolute"), "x")])?),
        ("a path that leaves", with(vec![Entry::file("../../../outside", "x")])?),
        ("a path that leaves and comes back", with(vec![Entry::file("a/../../work/x", "x")])?),
        ("a link to an absolute path", with(vec![Entry::link(EntryType::Symlink, "link", "/etc/passwd")])?),
        ("a link that leaves", with(vec![Entry::link(EntryType::Symlink, "a/link", "../../../own/request.bin")])?),
        (
            "a file through a link",
            with(vec![Entry::link(EntryType::Symlink, "d", "/tmp"), Entry::file("d/through", "x")])?,
        ),
        ("a hard link outside", with(vec![Entry::link(EntryType::Link, "hard", "/etc/passwd")])?),
        ("a hard link that leaves", with(vec![Entry::link(EntryType::Link, "hard", "../../own/request.bin")])?),
        ("a character device", with(vec![Entry::special(EntryType::Char, "null")])?),
        ("a block device", with(vec![Entry::special(EntryType::Block, "disk")])?),
        ("a fifo", with(vec![Entry::special(EntryType::Fifo, "fifo")])?),
        ("a path with a zero byte", with(vec![Entry::file("a\u{0}b/../../x", "x")]).unwrap_or_default()),
        ("a bomb", bomb),
        ("too many files", many),
        ("no archive at all", b"this is no archive".to_vec()),
        ("nothing", Vec::new()),
        ("half an archive", whole[..whole.len() / 2].to_vec()),
        ("gzip of something else", {
            use std::io::Write as _;
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&[7; 10_000])?;
            packed.finish()?
        }),
    ];
    for (name, archive) in &table {
        let digest = archive::sha256(archive);
        let path = format!("/api/v1/archives/{digest}");
        let answer = user.client().request(Method::PUT, &path, &[], archive.clone()).await?;
        if !answer.status.is_success() {
            // refused before it is stored is as good
            ensure!(!answer.code().is_empty(), "{name}: {}", answer.text());
            continue;
        }
        let source = json!({ "archive": { "sha256": digest, "size": archive.len() } });
        let stack = format!("archive-{}", &digest[..12]);
        user.post("/stacks", &json!({ "name": stack, "engine": "opentofu", "source": source })).await?;
        let id = user.start_job(&stack, &json!({ "kind": "preview" })).await?;
        let job = user.job_in(&id, &["failed", "planned"], JOB).await.with_context(|| (*name).to_owned())?;
        // a name cut at its zero byte is a harmless one
        if *name != "a path with a zero byte" {
            ensure!(job.phase() == "failed" && job.code() == "source_refused", "{name}: {}", job.0);
        }
        ensure!(!outside.exists() && !std::path::Path::new("/tmp/through").exists(), "{name} got out");
    }
    // an archive that is not there
    let source = json!({ "archive": { "sha256": "1".repeat(64), "size": 10 } });
    let answer =
        user.ask(Method::POST, "/stacks", &json!({ "name": "absent", "engine": "opentofu", "source": source })).await?;
    if answer.status.is_success() {
        let started = user.ask(Method::POST, "/stacks/absent/jobs", &json!({ "kind": "preview" })).await?;
        if started.status.is_success() {
            let id = started.json()?["id"].as_str().context("an id")?.to_owned();
            let job = user.job_in(&id, &["failed"], JOB).await?;
            ensure!(job.code().starts_with("source_") || job.code() == "not_found", "{}", job.0);
        }
    }
    works(user).await
}

async fn git_addresses() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let proof = usual.runner.folder().join("git-ran-it");
    let touch = format!("touch {}", proof.display());
    let table: Vec<(String, String)> = [
        (format!("ext::sh -c '{touch}'"), ""),
        (format!("ext::{touch}"), ""),
        ("fd::0".to_owned(), ""),
        ("--upload-pack=touch".to_owned(), ""),
        (format!("--upload-pack={touch}"), "HEAD"),
        ("-oProxyCommand=touch".to_owned(), ""),
        (format!("ssh://-oProxyCommand={touch}/x"), ""),
        (format!("ssh://h@-oProxyCommand={touch}/x"), ""),
        ("file:///etc".to_owned(), ""),
        ("/etc".to_owned(), ""),
        ("../../own".to_owned(), ""),
        ("http://127.0.0.1:1/x.git".to_owned(), ""),
        ("ftp://127.0.0.1/x.git".to_owned(), ""),
        ("https://user:password@127.0.0.1/x.git".to_owned(), ""),
        ("https://127.0.0.1/x.git\nfoo".to_owned(), ""),
        ("https://127.0.0.1:1/x.git".to_owned(), "--upload-pack=touch"),
        ("https://127.0.0.1:1/x.git".to_owned(), "-f"),
        ("https://127.0.0.1:1/x.git".to_owned(), "a..b"),
        ("https://127.0.0.1:1/x.git".to_owned(), "refs/heads/x:refs/heads/y"),
        (String::new(), ""),
        (format!("https://127.0.0.1/{}", "x".repeat(10_000)), ""),
    ]
    .into_iter()
    .map(|(url, reference)| (url, reference.to_owned()))
    .collect();
    for (number, (url, reference)) in table.iter().enumerate() {
        let name = format!("git-{number}");
        let body =
            json!({ "name": name, "engine": "opentofu", "source": { "git": { "url": url, "reference": reference } } });
        let made = user.ask(Method::POST, "/stacks", &body).await?;
        if !made.status.is_success() {
            ensure!(!made.code().is_empty(), "{url:.80}: {}", made.text());
            continue;
        }
        let id = user.start_job(&name, &json!({ "kind": "preview" })).await?;
        let job = user.job_in(&id, &["failed"], JOB).await.with_context(|| format!("{url:.80} {reference}"))?;
        ensure!(job.code() == "source_refused", "{url:.80} {reference}: {}", job.0);
        ensure!(!job.0.to_string().contains("user:password"), "a password is shown: {}", job.0);
        ensure!(!proof.exists(), "{url:.80} was run");
    }
    // well formed and nobody there
    let source = json!({ "git": { "url": "https://127.0.0.1:1/x.git", "reference": "main" } });
    user.post("/stacks", &json!({ "name": "git-absent", "engine": "opentofu", "source": source })).await?;
    let id = user.start_job("git-absent", &json!({ "kind": "preview" })).await?;
    let job = user.job_in(&id, &["failed"], JOB).await?;
    ensure!(job.code() == "source_unavailable", "{}", job.0);
    works(user).await
}

/// A well-formed request, to be spoilt.
fn request(file: &CredentialsFile, what: What) -> v1::OperationRequest {
    v1::OperationRequest {
        operation_id: "op-1".into(),
        organization_id: file.organization.clone(),
        caller: Some(v1::Caller { user_id: "u".into(), user_name: "u".into(), ..Default::default() }),
        provider: String::new(),
        connection: "cluster".into(),
        deadline_ms: 10_000,
        output_credit: 64 * 1024,
        what: Some(what),
    }
}

fn exec(command: &[&str]) -> v1::K8sExec {
    v1::K8sExec {
        namespace: "seen".into(),
        pod: "web-1".into(),
        container: "app".into(),
        command: command.iter().map(|c| (*c).to_owned()).collect(),
        stdin: true,
        tty: false,
        size: None,
    }
}

fn first(request: v1::OperationRequest) -> operation_input::Kind {
    operation_input::Kind::Request(request)
}

/// Runs an operation with those messages, and says how it ended: an outcome's code, or the status of the stream.
async fn run(channel: &Channel, inputs: Vec<Option<operation_input::Kind>>) -> Result<String> {
    let (sender, messages) = tokio::sync::mpsc::channel(4);
    let mut client = v1::operations_client::OperationsClient::new(channel.clone()).max_encoding_message_size(64 << 20);
    tokio::spawn(async move {
        for kind in inputs {
            if sender.send(v1::OperationInput { kind }).await.is_err() {
                return;
            }
        }
        // the input stays open: the runner must end it by itself
        sender.closed().await;
    });
    let exchange = async {
        let mut output = match client.run(tokio_stream::wrappers::ReceiverStream::new(messages)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return format!("status {:?} {}", status.code(), status.message()),
        };
        loop {
            match output.message().await {
                Ok(Some(v1::OperationOutput { kind: Some(operation_output::Kind::Outcome(outcome)), .. })) => {
                    return outcome.code;
                }
                Ok(Some(_)) => {}
                Ok(None) => return "ended without an outcome".to_owned(),
                Err(status) => return format!("status {:?} {}", status.code(), status.message()),
            }
        }
    };
    tokio::time::timeout(SECONDS, exchange).await.context("it hangs")
}

async fn first_messages() -> Result<()> {
    // its own set: the runner is led away from the real control plane
    let set = start().await?;
    let file: CredentialsFile = serde_json::from_slice(&std::fs::read(set.runner.folder().join("credentials.json"))?)?;
    let false_one = FalseControlPlane::new(&set.control_plane).await?;
    set.wire.lead_to(false_one.address());
    set.wire.set(runner_tests::Wire::Reset);
    set.wire.set(runner_tests::Wire::Pass);
    let channel = false_one.session().await?.welcome().await?;

    let namespaces = || What::K8sListNamespaces(v1::K8sListNamespaces {});
    let good = || request(&file, namespaces());
    let one = |request: v1::OperationRequest| vec![Some(first(request))];
    let with = |change: &dyn Fn(&mut v1::OperationRequest)| {
        let mut request = good();
        change(&mut request);
        one(request)
    };
    let pods = |selector: &str| {
        let list = v1::K8sListPods { namespace: "seen".into(), label_selector: selector.into(), ..Default::default() };
        one(request(&file, What::K8sListPods(list)))
    };
    let logs = |change: &dyn Fn(&mut v1::K8sLogs)| {
        let mut logs = v1::K8sLogs {
            namespace: "seen".into(),
            pod: "web-1".into(),
            container: "app".into(),
            ..Default::default()
        };
        change(&mut logs);
        one(request(&file, What::K8sLogs(logs)))
    };
    let sized = |columns, rows| {
        let size = Some(v1::TerminalSize { columns, rows });
        one(request(&file, What::K8sExec(v1::K8sExec { tty: true, size, ..exec(&["true"]) })))
    };
    let cat = || first(request(&file, What::K8sExec(exec(&["cat"]))));
    let stdin = |length: usize| operation_input::Kind::Stdin(vec![7; length].into());
    let huge = "x".repeat(bounds::FIRST_MESSAGE_MAX + 1);

    ensure!(run(&channel, one(good())).await? == "ok", "a good request is not served");
    let table: Vec<(&str, Vec<Option<operation_input::Kind>>)> = vec![
        ("nothing in it", vec![None]),
        ("standard input first", vec![Some(stdin(10))]),
        ("a resize first", vec![Some(operation_input::Kind::Resize(v1::TerminalSize { columns: 1, rows: 1 }))]),
        ("credit first", vec![Some(operation_input::Kind::Flow(v1::Flow { credit: 1 }))]),
        ("no request in the request", with(&|r| r.what = None)),
        ("no operation id", with(&|r| r.operation_id.clear())),
        ("an operation id of 100,000 characters", with(&|r| r.operation_id = "x".repeat(100_000))),
        ("an operation id with control characters", with(&|r| r.operation_id = "a\u{0}\n\u{1b}[31m".into())),
        ("another organization", with(&|r| r.organization_id = "another".into())),
        ("no organization", with(&|r| r.organization_id.clear())),
        ("no connection", with(&|r| r.connection.clear())),
        ("an unknown connection", with(&|r| r.connection = "unknown".into())),
        ("a path as connection", with(&|r| r.connection = "../../etc/passwd".into())),
        ("the credentials file as connection", with(&|r| r.connection = "credentials.json".into())),
        ("AWS on a cluster", one(request(&file, What::AwsRequest(v1::AwsRequest::default())))),
        ("too large a first message", with(&|r| r.connection.clone_from(&huge))),
        ("a selector that is none", pods("===")),
        ("a selector of 100,000 characters", pods(&"a".repeat(100_000))),
        (
            "a namespace that is a path",
            one(request(&file, What::K8sListPods(v1::K8sListPods { namespace: "../..".into(), ..Default::default() }))),
        ),
        ("a pod that is a query", logs(&|l| l.pod = "web-1?x=y".into())),
        ("an empty pod", logs(&|l| l.pod.clear())),
        ("a negative tail", logs(&|l| l.tail_lines = Some(-5))),
        ("a negative since", logs(&|l| l.since_seconds = Some(i64::MIN))),
        ("a negative limit", logs(&|l| l.limit_bytes = Some(-1))),
        ("an unknown container", logs(&|l| l.container = "none".into())),
        ("no command", one(request(&file, What::K8sExec(exec(&[]))))),
        ("an empty command", one(request(&file, What::K8sExec(exec(&[""]))))),
        ("a terminal of no size", sized(0, 0)),
        ("a terminal of 4 billion columns", sized(u32::MAX, 24)),
        ("two requests", vec![Some(cat()), Some(first(good()))]),
        ("an empty later message", vec![Some(cat()), None]),
        ("too large a later message", vec![Some(cat()), Some(stdin(bounds::MESSAGE_MAX * 4))]),
        (
            "more input than was granted",
            std::iter::once(cat()).chain((0..2000).map(|_| stdin(60_000))).map(Some).collect(),
        ),
        (
            "a resize without a terminal to no size",
            vec![Some(cat()), Some(operation_input::Kind::Resize(v1::TerminalSize { columns: 0, rows: u32::MAX }))],
        ),
    ];
    let mut wrong = Vec::new();
    let count = table.len();
    for (name, inputs) in table {
        match run(&channel, inputs).await {
            Ok(end) if end == "ok" || end == "ended without an outcome" => wrong.push(format!("{name}: {end}")),
            Ok(end) if end.starts_with("status") && end.contains("Unknown") => wrong.push(format!("{name}: {end}")),
            Ok(_) => {}
            Err(e) => wrong.push(format!("{name}: {e:#}")),
        }
        if let Err(e) = run(&channel, one(good())).await.and_then(|end| {
            ensure!(end == "ok", "{end}");
            Ok(())
        }) {
            bail!("after {name:?} a further operation fails: {e:#}\n{}", wrong.join("\n"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    set.runner.no_workers(SECONDS).await?;
    // credit without end and a deadline without end are no harm
    let fine = with(&|r| {
        r.output_credit = u64::MAX;
        r.deadline_ms = u32::MAX;
    });
    ensure!(run(&channel, fine).await? == "ok");
    set.wire.lead_to(set.control_plane.runner_address());
    set.wire.set(runner_tests::Wire::Reset);
    set.wire.set(runner_tests::Wire::Pass);
    eventually(SECONDS, "the runner to be back", || async { works(set.control_plane.admin()).await.map(Some) }).await
}

async fn misbehaving_control_planes() -> Result<()> {
    let set = start().await?;
    let supervisor = set.runner.supervisor()?;
    let false_one = FalseControlPlane::new(&set.control_plane).await?;
    set.wire.lead_to(false_one.address());
    set.wire.set(runner_tests::Wire::Reset);
    set.wire.set(runner_tests::Wire::Pass);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frame = |kind: u8, flags: u8, stream: u32, content: &[u8]| -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
    };
    let settings = frame(4, 0, 0, &[]);
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", vec![0xff; 4096]),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("half a preface", preface[..10].to_vec()),
        ("no settings", [&preface[..], &frame(0, 0, 1, b"data")].concat()),
        ("settings of a bad length", [&preface[..], &frame(4, 0, 0, b"abc")].concat()),
        ("a frame of 16 MiB", [&preface[..], &settings, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("data on a stream that is not open", [&preface[..], &settings, &frame(0, 0, 7, b"x")].concat()),
        ("headers that are no HPACK", [&preface[..], &settings, &frame(1, 4, 1, &[0xff; 64])].concat()),
        ("a continuation of nothing", [&preface[..], &settings, &frame(9, 4, 1, b"x")].concat()),
        ("a window of zero", [&preface[..], &settings, &frame(8, 0, 0, &[0; 4])].concat()),
        ("a push", [&preface[..], &settings, &frame(5, 4, 1, &[0; 8])].concat()),
    ];
    for (name, bytes) in &rows {
        let mut stream = false_one.accept().await.with_context(|| format!("before {name}"))?;
        stream.write_all(bytes).await?;
        stream.flush().await?;
        let mut rest = Vec::new();
        // it ends the connection, by itself or as nothing sensible follows
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        ensure!(ended.is_ok(), "{name}: the runner keeps the connection");
    }
    // it speaks well and then says what it should not
    let session = false_one.session().await?;
    let nonce = v1::control_message::Kind::Pong(v1::Pong { nonce: 42 });
    // a pong before the welcome
    session.send(nonce).await?;
    let mark = set.runner.mark();
    let mut session = session;
    let refusal = v1::Refusal {
        code: "no_such_code".into(),
        message: "a code from the future\u{1b}[31m".into(),
        ..Default::default()
    };
    let _ = session.send(v1::control_message::Kind::Refusal(refusal)).await;
    while let Ok(Some(_)) = session.next().await {}
    drop(session);
    set.runner.message(mark, SECONDS, "attempt failed").await.ok();
    set.wire.lead_to(set.control_plane.runner_address());
    set.wire.set(runner_tests::Wire::Reset);
    set.wire.set(runner_tests::Wire::Pass);
    eventually(Duration::from_secs(40), "the runner to be back", || async {
        works(set.control_plane.admin()).await.map(Some)
    })
    .await?;
    ensure!(set.runner.supervisor()? == supervisor, "the supervisor was another one");
    Ok(())
}

/// TLS to the runners' port with a runner's credentials.
async fn as_runner(
    usual: &Usual,
    file: &CredentialsFile,
    alpn: &[u8],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let chain = CertificateDer::pem_slice_iter(file.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(file.private_key.expose().as_bytes())?;
    let mut config = rustls::ClientConfig::builder_with_provider(https::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(https::roots(&file.ca)?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(usual.control_plane.runner_address()).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?)
}

async fn misbehaving_runners() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let id = user.register("misbehaves").await?;
    let file = user.credentials(&id).await?;
    let before = runner_tests::procfs::counts(usual.control_plane.process().pid())?;
    let rows: Vec<(&[u8], &str, Vec<u8>)> = vec![
        (shared_proto::TUNNEL_ALPN, "garbage", vec![0xff; 4096]),
        (shared_proto::TUNNEL_ALPN, "settings of a bad length", vec![0, 0, 3, 4, 0, 0, 0, 0, 0, 1, 2, 3]),
        (shared_proto::TUNNEL_ALPN, "a frame of 16 MiB", vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        (shared_proto::TUNNEL_ALPN, "HTTP/1.1", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        (shared_proto::TUNNEL_ALPN, "silence", Vec::new()),
        (shared_proto::TUNNEL_ALPN, "settings and silence", vec![0, 0, 0, 4, 0, 0, 0, 0, 0]),
        (shared_proto::EXECUTION_ALPN, "garbage", vec![0xff; 4096]),
        (shared_proto::EXECUTION_ALPN, "HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
    ];
    for (alpn, name, bytes) in rows {
        let mut stream = as_runner(usual, &file, alpn).await?;
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut rest)).await;
        ensure!(ended.is_ok(), "{} on {}: it stays open", name, String::from_utf8_lossy(alpn));
        works(user).await.with_context(|| name.to_owned())?;
    }
    // an unknown protocol, and none
    ensure!(as_runner(usual, &file, b"http/1.1").await.is_err(), "an unknown protocol is spoken");
    // two hundred that connect and go
    for _ in 0..200 {
        drop(as_runner(usual, &file, shared_proto::TUNNEL_ALPN).await?);
    }
    works(user).await?;
    user.client().forget_connections();
    let pid = usual.control_plane.process().pid();
    eventually(SECONDS, "the control plane's descriptors to be back", || async {
        let now = runner_tests::procfs::counts(pid)?;
        ensure!(now.descriptors <= before.descriptors + 16, "{now:?}, before {before:?}");
        Ok(Some(()))
    })
    .await?;
    ensure!(user.get(&format!("/runners/{id}")).await?["instances"] == json!([]));
    Ok(())
}
