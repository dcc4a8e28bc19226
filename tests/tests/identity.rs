//! Who may speak with whom: each refusal happens, with its code at both ends in a line that says what to do; and one
//! organization's user learns nothing about another's things.

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use rcgen::ExtendedKeyUsagePurpose;
use runner_tests::control_plane::{ControlPlane, User};
use runner_tests::pki::{Authority, Forgery, new_key};
use runner_tests::process::Mark;
use runner_tests::runner::Setup;
use runner_tests::world::Shared;
use runner_tests::{Runner, Suite, https};
use serde_json::{Value, json};
use shared_proto::api_key::{Purpose, generate};
use shared_proto::credentials::CredentialsFile;
use shared_proto::secret::Secret;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

const SECONDS: Duration = Duration::from_secs(20);

/// Two organizations, the first with a runner that stays connected throughout.
struct Two {
    control_plane: ControlPlane,
    a: User,
    b: User,
    good: Runner,
}

static TWO: Shared<Two> = Shared::new();

async fn two() -> Result<&'static Two> {
    TWO.get(|| async {
        let control_plane = ControlPlane::start().await?;
        let a = control_plane.organization("alpha").await?;
        let b = control_plane.organization("beta").await?;
        let good = Setup::new()?.start(&a, "good").await?;
        a.post(&format!("/runners/{}/default", good.id), &json!({})).await?;
        Ok(Two { control_plane, a, b, good })
    })
    .await
}

fn main() -> ExitCode {
    Suite::new()
        .test("issuer_of_another_organization", || {
            refused("certificate_organization", async |two: &Two, mut file: CredentialsFile| {
                let forgery = Forgery::runner(&uri(&file)?);
                forge(&mut file, &two.control_plane.issuer_of(&two.b.organization).await?, &forgery)?;
                Ok(file)
            })
        })
        .test("uri_of_another_organization", || {
            refused("certificate_organization", async |two: &Two, mut file: CredentialsFile| {
                let theirs = uri(&file)?.replace(&two.a.organization, &two.b.organization);
                file.organization.clone_from(&two.b.organization);
                forge(&mut file, &two.control_plane.issuer_of(&two.a.organization).await?, &Forgery::runner(&theirs))?;
                Ok(file)
            })
        })
        .test("expired", || {
            refused("certificate_expired", async |two: &Two, mut file: CredentialsFile| {
                let forgery = Forgery { since: 7200, until: -3600, ..Forgery::runner(&uri(&file)?) };
                forge(&mut file, &two.control_plane.issuer_of(&two.a.organization).await?, &forgery)?;
                Ok(file)
            })
        })
        .test("not_yet_valid", || {
            refused("certificate_not_yet_valid", async |two: &Two, mut file: CredentialsFile| {
                let forgery = Forgery { since: -3600, until: 7200, ..Forgery::runner(&uri(&file)?) };
                forge(&mut file, &two.control_plane.issuer_of(&two.a.organization).await?, &forgery)?;
                Ok(file)
            })
        })
        .test("server_certificate_as_client", || {
            refused("certificate_purpose", async |two: &Two, mut file: CredentialsFile| {
                let usage = vec![ExtendedKeyUsagePurpose::ServerAuth];
                let forgery = Forgery { usage, ..Forgery::runner(&uri(&file)?) };
                forge(&mut file, &two.control_plane.root()?, &forgery)?;
                Ok(file)
            })
        })
        .test("unknown_ca", || {
            refused("unknown_ca", async |_: &Two, mut file: CredentialsFile| {
                let forgery = Forgery::runner(&uri(&file)?);
                forge(&mut file, &Authority::new("somebody", Some("spiffe://somebody/org/x"))?, &forgery)?;
                Ok(file)
            })
        })
        .test("unknown_runner", || {
            refused("unknown_runner", async |two: &Two, mut file: CredentialsFile| {
                let theirs = uri(&file)?.replace(&file.runner, "nobody");
                file.runner = "nobody".into();
                forge(&mut file, &two.control_plane.issuer_of(&two.a.organization).await?, &Forgery::runner(&theirs))?;
                Ok(file)
            })
        })
        .test("wrong_api_key", || {
            refused("api_key_invalid", async |_: &Two, mut file: CredentialsFile| {
                file.api_key = generate(Purpose::Runner)?;
                Ok(file)
            })
        })
        .test("api_key_of_another_runner", || {
            refused("api_key_other_runner", async |two: &Two, mut file: CredentialsFile| {
                let other = two.a.register("the-other").await?;
                file.api_key = two.a.credentials(&other).await?.api_key;
                Ok(file)
            })
        })
        .test("no_certificate", no_certificate)
        .test("client_certificate_as_server", client_certificate_as_server)
        .test("control_plane_of_an_unknown_ca", unknown_server)
        .test("revoking_ends_the_session_within_a_second", revoking)
        .test("two_live_sessions_of_one_instance", instance_conflict)
        .test("credentials_files_that_are_not_whole", credentials_files)
        .test("another_organizations_ids_are_unknown_ids", cross_tenant)
        .test("roles_and_tokens", roles_and_tokens)
        .run()
}

/// The URI that a credentials file's certificate carries.
fn uri(file: &CredentialsFile) -> Result<String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let leaf = CertificateDer::from_pem_slice(file.certificate.as_bytes())?;
    let facts = shared_proto::identity::CertificateFacts::read(&leaf)?;
    facts.uris.into_iter().next().context("the certificate has a URI")
}

/// Puts a forged certificate with a key of its own into a credentials file.
fn forge(file: &mut CredentialsFile, issuer: &Authority, forgery: &Forgery) -> Result<()> {
    let key = new_key()?;
    file.certificate = issuer.issue(&key, forgery)?;
    file.private_key = Secret::new(key.serialize_pem());
    Ok(())
}

fn says(line: &str, code: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|v| v["code"] == code)
}

/// Starts a runner with credentials that were tampered with: both ends must say that code, with what to do next on the
/// runner's, and nothing else changes.
async fn refused(code: &str, tamper: impl AsyncFnOnce(&Two, CredentialsFile) -> Result<CredentialsFile>) -> Result<()> {
    let two = two().await?;
    let session_of_good = two.a.get(&format!("/runners/{}", two.good.id)).await?["instances"][0]["session_id"].clone();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = two.a.register(&format!("bad-{number}-{}", code.replace('_', "-"))).await?;
    let file = tamper(two, two.a.credentials(&id).await?).await?;
    let log = two.control_plane.process().stderr();
    let mark = log.mark();
    // often: why a connection was refused is lost where it is reset before that is read
    let often = "backoff_first_ms = 50\nbackoff_early_max_ms = 500\nbackoff_max_ms = 500";
    let runner = Setup::new()?.table("tunnel", often).credentials(file).launch(&two.a, &id).await?;
    let failed = runner.failed_with(Mark::default(), SECONDS, code).await?;
    ensure!(failed["next_step"].as_str().is_some_and(|s| !s.is_empty()), "{failed}");
    ensure!(failed["message"] == "attempt failed", "{failed}");
    // the execution service, which is dialled by itself, refuses it for the same reason and in the same words
    let own = runner.process().stderr();
    own.message(Mark::default(), SECONDS, "execution service not reached", |v| v["code"] == code).await?;
    log.line(mark, SECONDS, &format!("the control plane's {code}"), |l| says(l, code)).await?;
    let good = two.a.get(&format!("/runners/{}", two.good.id)).await?;
    ensure!(good["instances"][0]["session_id"] == session_of_good, "{good}");
    ensure!(two.a.get(&format!("/runners/{id}")).await?["instances"] == json!([]));
    Ok(())
}

async fn no_certificate() -> Result<()> {
    let two = two().await?;
    let log = two.control_plane.process().stderr();
    let mark = log.mark();
    let ca = std::fs::read_to_string(two.control_plane.data().join("ca.pem"))?;
    for alpn in [shared_proto::TUNNEL_ALPN, shared_proto::EXECUTION_ALPN] {
        let mut config = rustls::ClientConfig::builder_with_provider(https::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(https::roots(&ca)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(two.control_plane.runner_address()).await?;
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1")?;
        // TLS 1.3: the refusal comes after our side is done
        let refusal = match tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await {
            Err(e) => e,
            Ok(mut stream) => {
                let mut bytes = Vec::new();
                tokio::time::timeout(SECONDS, stream.read_to_end(&mut bytes)).await?.err().context("it was let in")?
            }
        };
        ensure!(refusal.to_string().to_lowercase().contains("certificate"), "{refusal}");
    }
    log.line(mark, SECONDS, "the refusal", |l| says(l, "certificate_missing")).await?;
    Ok(())
}

/// A TLS server that shows a certificate to whoever comes.
async fn server(chain_pem: &str, key_pem: &str) -> Result<(std::net::SocketAddr, tokio::task::JoinHandle<()>)> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let mut config = rustls::ServerConfig::builder_with_provider(https::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?)?;
    config.alpn_protocols = vec![shared_proto::TUNNEL_ALPN.to_vec(), shared_proto::EXECUTION_ALPN.to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            });
        }
    });
    Ok((address, task))
}

async fn client_certificate_as_server() -> Result<()> {
    let two = two().await?;
    let id = two.a.register("meets-a-runner").await?;
    // another runner of the same organization plays the control plane
    let thief = two.a.credentials(&two.a.register("thief").await?).await?;
    let (address, task) = server(&thief.certificate, thief.private_key.expose()).await?;
    let runner = Setup::new()?.endpoint(address).launch(&two.a, &id).await?;
    let failed = runner.failed_with(Mark::default(), SECONDS, "certificate_purpose").await?;
    ensure!(failed["next_step"].as_str().is_some_and(|s| !s.is_empty()), "{failed}");
    task.abort();
    Ok(())
}

async fn unknown_server() -> Result<()> {
    let two = two().await?;
    let id = two.a.register("meets-a-stranger").await?;
    let (stranger, key) = (Authority::new("stranger", None)?, new_key()?);
    let forgery = Forgery {
        uris: Vec::new(),
        names: vec!["127.0.0.1".into()],
        usage: vec![ExtendedKeyUsagePurpose::ServerAuth],
        since: 60,
        until: 3600,
    };
    let (address, task) = server(&stranger.issue(&key, &forgery)?, &key.serialize_pem()).await?;
    let runner = Setup::new()?.endpoint(address).launch(&two.a, &id).await?;
    let log = runner.process().stderr();
    let fits = |l: &str| says(l, "tls_inspected") || says(l, "server_untrusted") || says(l, "unknown_ca");
    // whoever signed what was shown is named
    let line = log.line(Mark::default(), SECONDS, "the refusal", fits).await?;
    ensure!(line.contains("stranger"), "{line}");
    task.abort();
    Ok(())
}

async fn revoking() -> Result<()> {
    let two = two().await?;
    let runner = Setup::new()?.start(&two.a, "to-be-revoked").await?;
    let mark = runner.mark();
    let start = Instant::now();
    two.a.post(&format!("/runners/{}/revoke", runner.id), &json!({})).await?;
    runner.message(mark, SECONDS, "session ended").await?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(1), "the session went on for {took:?}");
    runner.failed_with(mark, SECONDS, "certificate_revoked").await?;
    let shown = two.a.get(&format!("/runners/{}", runner.id)).await?;
    ensure!(shown["state"] == "revoked" && shown["instances"] == json!([]), "{shown}");
    Ok(())
}

async fn instance_conflict() -> Result<()> {
    let two = two().await?;
    let first = Setup::new()?.start(&two.a, "twin").await?;
    let instance = std::fs::read(first.state().join("instance"))?;
    let setup = Setup::new()?;
    setup.folder().write("state/instance", instance)?;
    let second = setup.launch(&two.a, &first.id).await?;
    second.failed_with(Mark::default(), SECONDS, "instance_conflict").await?;
    ensure!(two.a.get(&format!("/runners/{}", first.id)).await?["instances"].as_array().is_some_and(|i| i.len() == 1));
    Ok(())
}

async fn credentials_files() -> Result<()> {
    let two = two().await?;
    let id = two.a.register("files").await?;
    let good = two.a.credentials(&id).await?;
    let other_key = Secret::new(new_key()?.serialize_pem());
    let mismatched = CredentialsFile { private_key: other_key, ..good.clone() };
    let whole = serde_json::to_string(&good)?;
    let cases: [(&str, u32, String); 5] = [
        ("credentials_permissions", 0o644, whole.clone()),
        ("credentials_permissions", 0o640, whole.clone()),
        ("credentials_malformed", 0o600, whole[..whole.len() / 2].to_owned()),
        ("credentials_version", 0o600, whole.replace("\"version\":1", "\"version\":2")),
        ("credentials_mismatch", 0o600, serde_json::to_string(&mismatched)?),
    ];
    for (code, mode, text) in cases {
        use std::os::unix::fs::PermissionsExt as _;
        let setup = Setup::new()?;
        let path = setup.folder().write("bad.json", &text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        let runner = setup.env("RUNNERD_CREDENTIALS", path.display().to_string()).launch_as_it_is(&id)?;
        let status = runner.process().ended(SECONDS).await?;
        runner.process().stderr().end(SECONDS).await?;
        let said = runner.process().stderr().text();
        ensure!(status.code() == Some(78), "{code}: {status} {said}");
        ensure!(said.contains(code), "{code}: {said}");
        ensure!(!said.contains(good.api_key.expose()) && !said.contains("PRIVATE KEY"), "a secret in: {said}");
    }
    Ok(())
}

async fn cross_tenant() -> Result<()> {
    let two = two().await?;
    let (a, b) = (&two.a, &two.b);
    a.connection("theirs", "kubernetes", Some(&two.good.id)).await?;
    let connection = a.get("/connections/theirs").await?["id"].as_str().context("an id")?.to_owned();
    // of a runner that is not there: which engines the other has is the machine's affair
    a.post("/runners", &json!({ "name": "away" })).await?;
    let source = json!({ "git": { "url": "https://git.example/theirs.git" } });
    let stack = json!({ "name": "theirs", "engine": "opentofu", "runner": "away", "source": source });
    let stack = a.post("/stacks", &stack).await?["id"].as_str().context("an id")?.to_owned();
    let job = a.start_job("theirs", &json!({ "kind": "preview" })).await?;
    // an operation that fails is one too
    let answer = a.ask(Method::GET, "/connections/theirs/k8s/namespaces", &Value::Null).await?;
    let operation = answer.headers.get("runner-operation").context("an id")?.to_str()?.to_owned();
    let runner = two.good.id.as_str();

    let mut asked = Vec::new();
    for (method, path, id, body) in [
        (Method::GET, "/runners/{}", runner, Value::Null),
        (Method::POST, "/runners/{}/revoke", runner, json!({})),
        (Method::POST, "/runners/{}/default", runner, json!({})),
        (Method::POST, "/runners/{}/credentials", runner, json!({ "csr": runner_tests::pki::request(&new_key()?)? })),
        (Method::GET, "/connections/{}", &connection, Value::Null),
        (Method::DELETE, "/connections/{}", &connection, Value::Null),
        (Method::POST, "/connections/{}/test", &connection, json!({})),
        (Method::GET, "/connections/{}/k8s/namespaces", &connection, Value::Null),
        (Method::GET, "/connections/{}/k8s/pods", &connection, Value::Null),
        (Method::GET, "/connections/{}/k8s/namespaces/x/pods/y", &connection, Value::Null),
        (Method::GET, "/connections/{}/k8s/namespaces/x/pods/y/logs", &connection, Value::Null),
        (Method::GET, "/connections/{}/identity", &connection, Value::Null),
        (Method::GET, "/stacks/{}", &stack, Value::Null),
        (Method::DELETE, "/stacks/{}", &stack, Value::Null),
        (Method::POST, "/stacks/{}/jobs", &stack, json!({ "kind": "preview" })),
        (Method::GET, "/jobs/{}", &job, Value::Null),
        (Method::GET, "/jobs/{}/events", &job, Value::Null),
        (Method::POST, "/jobs/{}/approve", &job, json!({})),
        (Method::POST, "/jobs/{}/cancel", &job, json!({})),
        (Method::POST, "/jobs/{}/discard", &job, json!({})),
        (Method::GET, "/operations/{}", &operation, Value::Null),
        (Method::POST, "/operations/{}/cancel", &operation, json!({})),
    ] {
        // an id of the same form that nobody has: the last digits are others
        let unknown: String = id
            .chars()
            .rev()
            .map(|c| if c.is_ascii_hexdigit() { '0' } else { c })
            .collect::<String>()
            .chars()
            .rev()
            .collect();
        let theirs = b.ask(method.clone(), &path.replace("{}", id), &body).await?;
        let nobodys = b.ask(method.clone(), &path.replace("{}", &unknown), &body).await?;
        ensure!(
            theirs.status == nobodys.status && theirs.status == 404,
            "{method} {path}: {} for theirs, {} for nobody's",
            theirs.status,
            nobodys.status
        );
        let same = |text: String| text.replace(id, "ID").replace(&unknown, "ID");
        ensure!(
            same(theirs.text()) == same(nobodys.text()),
            "{method} {path}: {} and {}",
            theirs.text(),
            nobodys.text()
        );
        asked.push(path);
    }
    ensure!(asked.len() == 22);
    // and in a body: a connection that names another organization's runner
    let body = json!({ "name": "mine", "provider": "kubernetes", "runner": runner });
    let theirs = b.ask(Method::POST, "/connections", &body).await?;
    let body = json!({ "name": "mine", "provider": "kubernetes", "runner": "nobody" });
    let nobodys = b.ask(Method::POST, "/connections", &body).await?;
    ensure!(theirs.status == nobodys.status && !theirs.status.is_success(), "{} {}", theirs.text(), nobodys.text());
    for list in ["/runners", "/connections", "/stacks", "/jobs", "/operations"] {
        ensure!(b.get(list).await?["items"] == json!([]), "{list}");
    }
    // nothing of it did anything
    ensure!(a.get(&format!("/runners/{runner}")).await?["state"] == "connected");
    ensure!(a.get("/connections/theirs").await?["id"] == json!(connection));
    Ok(())
}

async fn roles_and_tokens() -> Result<()> {
    let two = two().await?;
    let member = two.control_plane.user(&two.a.organization, "member", "member").await?;
    for (user, method, path, body, status, code) in [
        (&member, Method::POST, "/organizations", json!({ "name": "x" }), 403, "permission_denied"),
        (&two.a, Method::POST, "/organizations", json!({ "name": "x" }), 403, "permission_denied"),
    ] {
        let answer = user.ask(method, path, &body).await?;
        ensure!(answer.status == status && answer.code() == code, "{path}: {} {}", answer.status, answer.text());
    }
    let other = generate(Purpose::User)?;
    let token = two.a.token();
    for bad in ["", "x", &token[..token.len() - 1], other.expose()] {
        let answer = two.a.client().with_token(bad).get("/api/v1/runners").await?;
        ensure!(answer.status == 401 && answer.code() == "unauthenticated", "{bad:?}: {}", answer.text());
    }
    ensure!(two.a.client().anonymous().get("/api/v1/runners").await?.status == 401);
    for open in ["/healthz", "/readyz", "/api/v1/openapi.json"] {
        let answer = two.a.client().anonymous().get(open).await?;
        ensure!(answer.status == 200, "{open}: {}", answer.status);
    }
    // no token is ever logged
    ensure!(!two.control_plane.process().stderr().text().contains(token), "a token in the log");
    Ok(())
}
