//! Jobs that nobody asks for by hand: drift that is looked for, shown, told of and gone; pushes and pull requests of a Git host; what the runner's
//! own policy lets be. With a real control plane, runner and OpenTofu; the Git host is its documented deliveries, and the repository a real one.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Method;
use hyper_util::rt::TokioIo;
use runner_tests::ctl::Ctl;
use runner_tests::https::Answer;
use runner_tests::pki;
use runner_tests::process::Program;
use runner_tests::runner::{Setup, deploying, given};
use runner_tests::wait::within;
use runner_tests::{Component, ControlPlane, Engine, Runner, Scratch, Suite, eventually, scratch};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(60);
const JOB: Duration = Duration::from_secs(120);
/// By which notifications are signed.
const SECRET: &str = "0123456789-a-secret-of-the-tests";
/// A variable that nobody has marked as secret, and one that somebody has.
const PLANTED: [&str; 2] = ["hunter2-hunter2", "7531-pin"];
/// A resource that is gone as soon as somebody looks: its time was over before it was made.
const ROTATING: &str = r#"terraform {
  required_providers {
    time = {
      source  = "hashicorp/time"
      version = "0.14.2"
    }
  }
}
resource "time_rotating" "gone" {
  rfc3339       = "2020-01-01T00:00:00Z"
  rotation_days = 1
}
"#;
const STAYS: &str = "resource \"terraform_data\" \"stays\" { input = \"stays\" }\n";

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Tofu])
        .test("drift_is_found_shown_told_and_gone", found_and_gone)
        .test("nothing_is_told_to_addresses_inside", inside)
        .test("what_reconciles_is_applied_where_the_runners_policy_lets_it_be", reconciles)
        .needs(&[Component::Tofu, Component::Git])
        .test("a_push_is_a_job_at_its_commit_and_only_of_its_stack", pushes)
        .test("a_pull_request_gets_no_secret", pull_requests)
        .test("rules_hold_for_what_schedules_and_hooks_make", rules)
        .run()
}

/// A control plane and a runner of its organization.
struct World {
    control_plane: ControlPlane,
    _runner: Runner,
    ctl: Ctl,
    _engine: Engine,
}

impl World {
    async fn new(control_plane: ControlPlane, with: impl FnOnce(Setup) -> Result<Setup>) -> Result<Self> {
        let (engine, runner, ctl) = deploying(&control_plane, with).await?;
        Ok(Self { control_plane, _runner: runner, ctl, _engine: engine })
    }
    /// One whose runner takes repositories from below that folder, and has a connection with credentials.
    async fn with_git() -> Result<Self> {
        std::fs::create_dir_all(repositories())?;
        let connection = "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://127.0.0.1:9\"";
        Self::new(ControlPlane::start().await?, |setup| {
            Ok(setup
                .env("AWS_ACCESS_KEY_ID", "AKIAPLANTED000000000")
                .env("AWS_SECRET_ACCESS_KEY", "planted-key-of-the-connection")
                .table("connections.account", connection)
                .table("sources", "allow_file = true")
                .env("RUNNERD_JOBS_HOOKS", "true")
                .reads(&repositories()))
        })
        .await
    }
    async fn deploy(&self, stack: &str, main: &str, options: &str) -> Result<i32> {
        let folder = Scratch::new("module")?;
        folder.write("main.tf", main)?;
        let path = folder.path().display().to_string();
        let mut words = vec!["deploy", &path, "--name", stack];
        words.extend(options.split_whitespace());
        Ok(self.ctl.run(&words).await?.code())
    }
    /// The stack's newest job.
    async fn newest(&self, stack: &str) -> Result<Value> {
        let list = self.ctl.json(&["job", "list", "--stack", stack]).await?;
        let id = list["items"][0]["id"].as_str().context("a job")?;
        self.ctl.json(&["job", "show", id]).await
    }
    async fn jobs(&self, stack: &str) -> Result<usize> {
        let list = self.ctl.json(&["job", "list", "--stack", stack]).await?;
        Ok(list["items"].as_array().map_or(0, Vec::len))
    }
    /// Sends what GitHub would, signed by that secret.
    async fn deliver(&self, hook: &Value, secret: &str, event: &str, body: &Value) -> Result<Answer> {
        let body = body.to_string();
        let signature = format!("sha256={}", shared_proto::hex::encode(hmac(secret.as_bytes(), body.as_bytes())));
        let headers = [
            ("content-type", "application/json"),
            ("x-github-event", event),
            ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
            ("x-hub-signature-256", &signature),
        ];
        let path = hook["path"].as_str().context("a path")?;
        self.control_plane.admin().client().anonymous().request(Method::POST, path, &headers, body).await
    }
}

/// HMAC-SHA256 (RFC 2104), of the tests' own.
fn hmac(key: &[u8], content: &[u8]) -> [u8; 32] {
    assert!(key.len() <= 64, "longer ones are hashed first");
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|n| key.get(n).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(content).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// A request that a receiver got: its headers by name, and its body.
struct Told {
    headers: hyper::HeaderMap,
    body: Bytes,
}

/// Receives by HTTPS on a loopback; what it answers first is an error, so that it is told again.
struct Receiver {
    address: SocketAddr,
    ca: String,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Receiver {
    async fn start() -> Result<Self> {
        let (config, ca) = pki::server_tls()?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut first = true;
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, tell) = (acceptor.clone(), tell.clone());
                let status = if std::mem::take(&mut first) { 503 } else { 204 };
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                        let tell = tell.clone();
                        async move {
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                            // nobody looks any more: the test is over
                            let _ = tell.send(Told { headers: parts.headers, body });
                            let answer = hyper::Response::builder().status(status).body(Full::<Bytes>::default());
                            Ok::<_, Infallible>(answer.expect("a response"))
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { address, ca, told })
    }
    fn url(&self) -> String {
        format!("https://{}/of/the/tests", self.address)
    }
    /// The next thing that is told, held against its signature.
    async fn next(&mut self) -> Result<Value> {
        let told = within(SOON, "a notification", self.told.recv()).await?.context("a receiver")?;
        let header = |name: &str| told.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let signed =
            [format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes(), &told.body].concat();
        use base64::Engine as _;
        let expected = base64::engine::general_purpose::STANDARD.encode(hmac(SECRET.as_bytes(), &signed));
        ensure!(header("webhook-signature") == format!("v1,{expected}"), "{:?}", told.headers);
        let body: Value = serde_json::from_slice(&told.body)?;
        ensure!(
            body["id"] == header("webhook-id").as_str() && body["event"] == header("runner-event").as_str(),
            "{body}"
        );
        Ok(body)
    }
}

async fn found_and_gone() -> Result<()> {
    let mut receiver = Receiver::start().await?;
    let folder = Scratch::new("roots")?;
    let roots = folder.write("roots.pem", &receiver.ca)?.display().to_string();
    let arguments = ["--notify-network", "127.0.0.0/8"];
    let control_plane = ControlPlane::with_environment(&arguments, vec![("SSL_CERT_FILE", roots)]).await?;
    let world = World::new(control_plane, Ok).await?;
    let secret = folder.write("secret", format!("{SECRET}\n"))?.display().to_string();
    let url = receiver.url();
    world.ctl.text(&["notification", "create", "chat", "--url", &url, "--secret-file", &secret]).await?;

    ensure!(world.deploy("shop", &format!("{ROTATING}{STAYS}"), "--auto-approve").await? == 0);
    // what was refused is told again, as the same
    let first = receiver.next().await?;
    ensure!(first["event"] == "job_applied" && first["stack"]["name"] == "shop", "{first}");
    ensure!(receiver.next().await? == first, "it is told again");
    ensure!(world.ctl.text(&["drift"]).await?.contains("Nobody has looked"));

    let set = world.ctl.text(&["schedule", "set", "shop", "nightly", "--cron", "0 6 * * *"]).await?;
    ensure!(set.contains("drift") && set.contains("next run"), "{set}");
    ensure!(world.ctl.text(&["schedule", "list"]).await?.contains("nightly"));
    let ended = world.ctl.run(&["schedule", "run", "shop", "nightly", "--exit-code"]).await?;
    ensure!(ended.code() == 2, "{ended:?}");
    let job = world.newest("shop").await?;
    ensure!(job["phase"] == "planned" && job["preview_only"] == true && job["origin"] == "schedule nightly", "{job}");
    let told = receiver.next().await?;
    ensure!(
        told["event"] == "drift_found" && told["drift"]["resources"] == 1 && told["job"]["id"] == job["id"],
        "{told}"
    );
    let list = world.ctl.run(&["drift", "--exit-code"]).await?;
    ensure!(list.code() == 2 && list.stdout.contains("shop"), "{list:?}");
    let shown = world.ctl.text(&["drift", "show", "shop"]).await?;
    ensure!(shown.contains("time_rotating.gone") && !shown.contains("terraform_data.stays"), "{shown}");
    // nothing was changed by it, and nothing of it can be
    let refused = world.ctl.run(&["job", "approve", job["id"].as_str().context("an id")?]).await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("conflict"), "{refused:?}");
    let state = world.ctl.text(&["state", "list", "shop"]).await?;
    ensure!(state.contains("time_rotating.gone"), "{state}");

    ensure!(world.deploy("shop", &STAYS.replace("\"stays\" }", "\"other\" }"), "--auto-approve").await? == 0);
    // at the same time
    let told = [receiver.next().await?, receiver.next().await?];
    for expected in ["job_applied", "drift_gone"] {
        ensure!(told.iter().any(|told| told["event"] == expected), "{expected}: {told:?}");
    }
    let ended = world.ctl.run(&["drift", "check", "shop", "--exit-code"]).await?;
    ensure!(ended.code() == 0, "{ended:?}");
    let shown = world.ctl.text(&["drift", "show", "shop"]).await?;
    ensure!(shown.contains("no drift"), "{shown}");
    let notices = world.ctl.text(&["notification", "notices", "chat"]).await?;
    ensure!(notices.contains("HTTP 204") && !notices.contains("of/the/tests"), "{notices}");
    Ok(())
}

async fn inside() -> Result<()> {
    let mut receiver = Receiver::start().await?;
    let control_plane = ControlPlane::start().await?;
    let ctl = Ctl::new(&control_plane, control_plane.admin())?;
    let folder = Scratch::new("secret")?;
    let secret = folder.write("secret", SECRET)?.display().to_string();
    let port = receiver.address.port();
    for (name, url) in [
        ("loopback", format!("https://127.0.0.1:{port}/")),
        ("named", format!("https://localhost:{port}/")),
        ("mapped", format!("https://[::ffff:127.0.0.1]:{port}/")),
        ("metadata", "https://169.254.169.254/latest/meta-data/".to_owned()),
    ] {
        ctl.text(&["notification", "create", name, "--url", &url, "--secret-file", &secret]).await?;
        ctl.text(&["notification", "test", name]).await?;
        let said = eventually(SOON, "an attempt", || async {
            let list = ctl.json(&["notification", "notices", name]).await?;
            Ok(list["items"][0]["said"].as_str().map(str::to_owned))
        })
        .await?;
        ensure!(said.contains("no public address") && said.contains("--notify-network"), "{name}: {said}");
    }
    ensure!(receiver.told.try_recv().is_err(), "nothing was sent");
    Ok(())
}

async fn reconciles() -> Result<()> {
    let policy = "version = 1\n[jobs]\n[[jobs.rule]]\nname = \"web\"\neffect = \"allow\"\nstacks = [\"web-*\"]\nreconcile = true\n\
                  [[jobs.rule]]\nname = \"rest\"\neffect = \"allow\"\n";
    let world = World::new(ControlPlane::start().await?, |setup| setup.policy(policy)).await?;
    for (stack, phase, by) in
        [("web-shop", "applied", json!("the runner's own policy")), ("db-shop", "awaiting_approval", Value::Null)]
    {
        ensure!(world.deploy(stack, STAYS, "--kind preview").await? == 0);
        world.ctl.text(&["schedule", "set", stack, "set-right", "--cron", "@hourly", "--kind", "reconcile"]).await?;
        let ended = world.ctl.run(&["schedule", "run", stack, "set-right"]).await?;
        ensure!(ended.code() == if phase == "applied" { 0 } else { 75 }, "{stack}: {ended:?}");
        let job = world.newest(stack).await?;
        ensure!(job["phase"] == phase && job["approved_by"] == by && job["reconcile"] == true, "{job}");
    }
    Ok(())
}

fn repositories() -> PathBuf {
    scratch::root().join("repositories-of-hooks")
}

/// A repository below that folder.
struct Repository {
    work: Scratch,
    url: String,
}

impl Repository {
    async fn new(name: &str) -> Result<Self> {
        let work = Scratch::below(&repositories(), name)?;
        let repository = Self { url: format!("file://{}", work.path().display()), work };
        repository.git(&["init", "-q", "-b", "main"]).await?;
        Ok(repository)
    }
    async fn git(&self, arguments: &[&str]) -> Result<String> {
        let own = ["-c", "safe.directory=*", "-c", "user.name=tests", "-c", "user.email=tests@localhost"];
        let all = own.iter().chain(arguments).copied();
        Program::new("git").args(all).folder(self.work.path()).run(SOON).await?.success()
    }
    /// Commits that content; the commit.
    async fn commit(&self, main: &str) -> Result<String> {
        self.work.write("infra/main.tf", main)?;
        self.git(&["add", "-A"]).await?;
        self.git(&["commit", "-q", "-m", "one more"]).await?;
        given(&repositories()).await?;
        Ok(self.git(&["rev-parse", "HEAD"]).await?.trim().to_owned())
    }
    /// As GitHub tells of a repository.
    fn told(&self) -> Value {
        json!({ "id": 1, "clone_url": self.url, "default_branch": "main" })
    }
    fn push(&self, commit: &str, branch: &str, file: &str) -> Value {
        json!({
            "ref": format!("refs/heads/{branch}"), "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "after": commit,
            "created": false, "deleted": false, "forced": false, "repository": self.told(),
            "commits": [{ "id": commit, "added": [], "modified": [file], "removed": [] }],
        })
    }
    /// Of somebody else's repository.
    fn pull_request(&self, commit: &str) -> Value {
        json!({
            "action": "synchronize", "number": 2,
            "pull_request": { "head": { "ref": "changes", "sha": commit, "repo": { "id": 2 } }, "base": { "ref": "main", "repo": self.told() } },
        })
    }
}

/// A module that has a variable which nobody calls secret, and shows it.
fn shows(input: &str) -> String {
    format!(
        "variable \"password\" {{ default = \"none\" }}\nvariable \"pin\" {{ default = \"none\" }}\nvariable \"region\" {{ default = \"none\" }}\n\
         resource \"terraform_data\" \"a\" {{ input = \"{input} ${{var.region}}\" }}\n\
         output \"shown\" {{ value = \"${{var.password}} ${{var.pin}} ${{var.region}}\" }}\n"
    )
}

async fn stack_of(world: &World, name: &str, repository: &Repository) -> Result<()> {
    let body = json!({
        "name": name, "engine": "opentofu", "path": "infra", "connections": ["account"],
        "source": { "git": { "url": repository.url, "reference": "main" } },
        "variables": { "password": PLANTED[0], "pin": PLANTED[1], "region": "eu-central-1" }, "not_redacted": ["pin"],
    });
    world.control_plane.admin().post("/stacks", &body).await.map(drop)
}

async fn hook(world: &World, words: &[&str]) -> Result<Value> {
    let made = world.ctl.json(&[&["webhook", "create", "github"][..], words].concat()).await?;
    let (url, path) = (made["url"].as_str().context("an url")?, made["path"].as_str().context("a path")?);
    ensure!(url.starts_with("https://") && url.ends_with(path), "{made}");
    Ok(made)
}

async fn pushes() -> Result<()> {
    let world = World::with_git().await?;
    let repository = Repository::new("pushed").await?;
    let commit = repository.commit(&shows("one")).await?;
    stack_of(&world, "shop", &repository).await?;
    let hook = hook(&world, &["--stack", "shop", "--path", "infra/*"]).await?;
    let secret = hook["secret"].as_str().context("a secret")?;
    let good = repository.push(&commit, "main", "infra/main.tf");
    let refused = world.deliver(&hook, "another secret", "push", &good).await?;
    let unknown = json!({ "path": format!("/api/v1/hooks/whk_{}", "0".repeat(32)) });
    let nobody = world.deliver(&unknown, secret, "push", &good).await?;
    ensure!(refused.status == 401 && nobody.status == 401 && refused.body == nobody.body, "{}", refused.text());
    ensure!(world.jobs("shop").await? == 0);
    // sent three times it is one job
    let mut told = Vec::new();
    for _ in 0..3 {
        let answer = world.deliver(&hook, secret, "push", &good).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        told.push(serde_json::from_slice::<Value>(&answer.body)?);
    }
    ensure!(told.windows(2).all(|two| two[0] == two[1]) && world.jobs("shop").await? == 1, "{told:?}");
    let id = told[0]["jobs"][0]["job"].as_str().context("a job")?;
    let user = world.control_plane.admin();
    let planned = user.job_in(id, &["awaiting_approval"], JOB).await?;
    ensure!(planned.0["revision"] == json!(commit) && planned.0["kind"] == "update", "{}", planned.0);
    world.ctl.text(&["job", "approve", id]).await?;
    user.job_in(id, &["applied"], JOB).await?;
    // none of these is of the stack
    let elsewhere = Repository::new("elsewhere").await?;
    for (body, why) in [
        (repository.push(&commit, "dev", "infra/main.tf"), "another branch"),
        (repository.push(&commit, "main", "README.md"), "no file of its paths"),
        (elsewhere.push(&commit, "main", "infra/main.tf"), "another repository"),
    ] {
        let answer = world.deliver(&hook, secret, "push", &body).await?;
        ensure!(answer.status == 200 && answer.text().contains(why), "{why}: {}", answer.text());
    }
    ensure!(world.jobs("shop").await? == 1);
    let came = world.ctl.text(&["webhook", "deliveries", hook["id"].as_str().context("an id")?]).await?;
    ensure!(came.contains(id) && came.contains("another branch"), "{came}");
    ensure!(!world.ctl.text(&["webhook", "list"]).await?.contains(secret));
    // a commit that is not the branch's newest is the one that is taken
    repository.commit(&shows("two")).await?;
    let answer = world.deliver(&hook, secret, "push", &repository.push(&commit, "main", "infra/x.tf")).await?;
    let again: Value = serde_json::from_slice(&answer.body)?;
    let id = again["jobs"][0]["job"].as_str().context("a job")?;
    let done = user.job_in(id, &["no_changes"], JOB).await?;
    ensure!(done.0["revision"] == json!(commit), "{}", done.0);
    Ok(())
}

async fn pull_requests() -> Result<()> {
    let world = World::with_git().await?;
    let repository = Repository::new("pulled").await?;
    repository.commit(&shows("one")).await?;
    stack_of(&world, "shop", &repository).await?;
    // what the stack's own jobs would run, and its stranger has
    world.ctl.text(&["stack", "update", "shop", "--hook", "before-plan=main.tf"]).await?;
    // what somebody would like to be merged: it shows what it gets
    repository.git(&["checkout", "-q", "-b", "changes"]).await?;
    let commit = repository.commit(&shows("of a stranger")).await?;
    let hook = hook(&world, &["--stack", "shop", "--variable", "region", "--variable", "pin"]).await?;
    let secret = hook["secret"].as_str().context("a secret")?;
    let answer = world.deliver(&hook, secret, "pull_request", &repository.pull_request(&commit)).await?;
    let told: Value = serde_json::from_slice(&answer.body)?;
    let id = told["jobs"][0]["job"].as_str().with_context(|| told.to_string())?;
    let user = world.control_plane.admin();
    let planned = user.job_in(id, &["planned"], JOB).await?;
    ensure!(planned.0["untrusted"] == true && planned.0["kind"] == "preview", "{}", planned.0);
    ensure!(planned.0["revision"] == json!(commit), "{}", planned.0);
    let plan = world.ctl.json(&["plan", "show", id]).await?.to_string();
    // the one that the hook names, and of that what nobody has marked
    ensure!(plan.contains("of a stranger eu-central-1") && plan.contains("none none eu-central-1"), "{plan}");
    let events = serde_json::to_string(&user.events(id).await?)?;
    ensure!(
        events.contains("is not given connection account, variable password, variable pin, hook before-plan"),
        "{events}"
    );
    ensure!(!events.contains("hook_started"), "{events}");
    for secret in [PLANTED[0], PLANTED[1], "planted-key-of-the-connection"] {
        ensure!(!plan.contains(secret) && !events.contains(secret), "{secret}");
    }
    let refused = world.ctl.run(&["job", "approve", id]).await?;
    ensure!(refused.code() != 0, "{refused:?}");
    ensure!(world.ctl.text(&["job", "show", id]).await?.contains("untrusted source"));
    // without the hook's word there is nothing
    let other = json!({ "kind": "preview", "untrusted": true });
    let job = user.post("/stacks/shop/jobs", &other).await?;
    let id = job["id"].as_str().context("an id")?;
    user.job_in(id, &["planned"], JOB).await?;
    let plan = world.ctl.json(&["plan", "show", id]).await?.to_string();
    ensure!(plan.contains("none none none"), "{plan}");
    Ok(())
}

async fn rules() -> Result<()> {
    let world = World::with_git().await?;
    let repository = Repository::new("ruled").await?;
    let commit = repository.commit(&shows("one")).await?;
    stack_of(&world, "shop", &repository).await?;
    let rules = Scratch::new("rules")?;
    rules.write("no.toml", "[[rule]]\nname = \"nothing-is-made\"\neffect = \"deny\"\nactions = [\"create\"]\n")?;
    world.ctl.text(&["rules", "set", &rules.path().display().to_string()]).await?;
    let user = world.control_plane.admin();
    for kind in ["preview", "update", "reconcile"] {
        world.ctl.text(&["schedule", "set", "shop", kind, "--cron", "@daily", "--kind", kind]).await?;
        let ended = world.ctl.run(&["schedule", "run", "shop", kind]).await?;
        ensure!(ended.code() == 77 && ended.stderr.contains("plan_denied"), "{kind}: {ended:?}");
    }
    let hook = hook(&world, &["--stack", "shop"]).await?;
    let secret = hook["secret"].as_str().context("a secret")?;
    let deliveries =
        [("push", repository.push(&commit, "main", "x")), ("pull_request", repository.pull_request(&commit))];
    for (event, body) in deliveries {
        let answer = world.deliver(&hook, secret, event, &body).await?;
        let told: Value = serde_json::from_slice(&answer.body)?;
        let id = told["jobs"][0]["job"].as_str().with_context(|| told.to_string())?;
        let denied = user.job_in(id, &["failed"], JOB).await?;
        ensure!(denied.code() == "plan_denied", "{event}: {}", denied.0);
    }
    let state = world.ctl.json(&["state", "list", "shop"]).await?;
    ensure!(state["items"].as_array().is_none_or(Vec::is_empty), "nothing was made: {state}");
    Ok(())
}
