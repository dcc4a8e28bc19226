//! AWS' own clients through a runner, beside the same against the stand-in itself: what they print and how they end is equal, and no real
//! credential is ever on their side.

mod refusals;
mod table;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use regex::Regex;
use runner_tests::compare::words;
use runner_tests::control_plane::{aws_environment, shown};
use runner_tests::ctl::Ctl;
use runner_tests::process::{Ended, Process, Program};
use runner_tests::recorder::Recorder;
use runner_tests::runner::Setup;
use runner_tests::suite::scale;
use runner_tests::world::{Shared, aws_connection};
use runner_tests::{Component, ControlPlane, Engine, EngineKind, Moto, Runner, Scratch, Suite, tools};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use table::{CHANGES, LOOKS};

const SECONDS: Duration = Duration::from_secs(120);

/// What all scenarios share.
struct Usual {
    moto: Moto,
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
    files: Scratch,
    /// Between runnerctl and the control plane.
    api: Recorder,
    /// Between the runner and moto.
    to_aws: Recorder,
    /// Checks signatures.
    strict: Process,
    /// The keys of the entry `renewed`.
    profile: PathBuf,
    /// Those of the entry `again`.
    again: PathBuf,
}

static USUAL: Shared<Usual> = Shared::new();

async fn usual() -> Result<&'static Usual> {
    USUAL
        .get(|| async {
            let moto = Moto::start().await?;
            let control_plane = ControlPlane::start().await?;
            let user = control_plane.admin();
            let to_aws = Recorder::plain(moto.client().address()).await?;
            let keys = aws_environment();
            let strict = Program::new(python())
                .named("strict")
                .args([script("verify.py").as_str(), keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]])
                .start()?;
            let line = strict.ready(SECONDS, "the strict stand-in listens", |l| l.starts_with("listening")).await?;
            let port: u16 = line.rsplit(' ').next().context("a port")?.parse()?;
            let mut setup = Setup::new()?.cold();
            for (name, value) in keys {
                setup = setup.env(name, value);
            }
            for (name, address) in [("account", to_aws.address()), ("strict", ([127, 0, 0, 1], port).into())] {
                setup = setup.table(
                    &format!("connections.{name}"),
                    &format!(
                        "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://{address}\""
                    ),
                );
            }
            let profile = setup.folder().write("aws-credentials", profile("AKIAOLD"))?;
            let setup = setup.env("AWS_SHARED_CREDENTIALS_FILE", shown(&profile)).table(
                "connections.renewed",
                &format!(
                    "provider = \"aws\"\nsource = \"profile\"\nprofile = \"renewed\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://127.0.0.1:{port}\""
                ),
            );
            let again = setup.folder().write("aws-config", self::profile("AKIAOLD").replace("[renewed]", "[profile again]"))?;
            let setup = setup.env("AWS_CONFIG_FILE", shown(&again)).table(
                "connections.again",
                &format!(
                    "provider = \"aws\"\nsource = \"profile\"\nprofile = \"again\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://127.0.0.1:{port}\""
                ),
            );
            let setup = setup.table(
                "connections.named",
                &format!(
                    "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://{}\"\n\
                     assume_role_arn = \"arn:aws:iam::123456789012:role/named\"\nsession_name = \"r,{{person}}\"\nsource_identity = \"{{person}}\"",
                    to_aws.address()
                ),
            );
            let runner = setup.start(user, "runner-1").await?;
            user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
            aws_connection(user, "account").await?;
            aws_connection(user, "strict").await?;
            aws_connection(user, "renewed").await?;
            aws_connection(user, "again").await?;
            aws_connection(user, "named").await?;
            let ca = std::fs::read_to_string(control_plane.data().join("ca.pem"))?;
            let (api, api_ca) = Recorder::tls(control_plane.api(), &ca).await?;
            let ctl = Ctl::new(&control_plane, user)?;
            let files = Scratch::new("files")?;
            files.write("api-ca.pem", api_ca)?;
            for way in ["direct", "through"] {
                files.write(format!("{way}/small.txt"), "0123456789\n")?;
                files.write(format!("{way}/tree/one.txt"), "1")?;
                files.write(format!("{way}/tree/two.txt"), "2")?;
                files.write(format!("{way}/tree/deep/three.txt"), "3")?;
                let template =
                    json!({ "Resources": { "Topic": { "Type": "AWS::SNS::Topic" } }, "Description": "x".repeat(900) });
                files.write(format!("{way}/template.json"), template.to_string())?;
            }
            Ok(Usual { moto, control_plane, runner, ctl, files, api, to_aws, strict, profile, again })
        })
        .await
}

/// A file of profiles with that key.
fn profile(id: &str) -> String {
    let secret = aws_environment()["AWS_SECRET_ACCESS_KEY"];
    format!("[renewed]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
}

/// The Python that has boto3.
fn python() -> PathBuf {
    tools::folder().join("moto/bin/python3")
}
fn script(name: &str) -> String {
    format!("{}/tests/aws_cli/{name}", env!("CARGO_MANIFEST_DIR"))
}

// === impl Usual ===

impl Usual {
    /// A program behind runnerctl, which is watched on its way to the control plane.
    fn through(&self, connection: &str, arguments: &[String]) -> Result<Program> {
        let mut words = vec!["aws", "-C", connection];
        words.extend(arguments.iter().map(String::as_str));
        let program = self
            .ctl
            .program(&words)?
            .env("RUNNERCTL_ENDPOINT", format!("https://{}", self.api.address()))
            .env("RUNNERCTL_CA_FILE", shown(&self.files.join("api-ca.pem")));
        Ok(clients(program).folder(&self.files.join("through")))
    }
    /// The AWS CLI behind runnerctl.
    async fn cli(&self, connection: &str, words: &str) -> Result<Ended> {
        let mut arguments = vec!["--".to_owned()];
        arguments.extend(self.words(words, "through"));
        self.through(connection, &arguments)?.run(SECONDS).await
    }
    /// A program behind runnerctl that is no AWS CLI.
    fn shell(&self, connection: &str, words: &[&str]) -> Result<Program> {
        let mut arguments = vec!["shell".to_owned(), "--".to_owned()];
        arguments.extend(words.iter().map(|w| (*w).to_owned()));
        self.through(connection, &arguments)
    }
    /// A script of boto3's behind runnerctl.
    async fn boto(&self, connection: &str, name: &str, more: &[&str]) -> Result<Ended> {
        let (python, script) = (shown(&python()), script(name));
        let words: Vec<&str> = [python.as_str(), script.as_str()].into_iter().chain(more.iter().copied()).collect();
        self.shell(connection, &words)?.run(SECONDS).await
    }
    /// The same, straight to the stand-in, with the credentials that the runner has.
    fn direct(&self, program: Program) -> Program {
        let mut program = clients(program)
            .folder(&self.files.join("direct"))
            .env("HOME", shown(self.ctl.home()))
            .env("AWS_ENDPOINT_URL", self.moto.url())
            // a client that asks another endpoint all the same must not leave the machine
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_DEFAULT_REGION", "eu-central-1");
        for (name, value) in aws_environment() {
            program = program.env(name, value);
        }
        program
    }
    fn words(&self, text: &str, way: &str) -> Vec<String> {
        words(&text.replace("{files}", &shown(&self.files.join(way))))
    }
}

/// What AWS' clients need to be found, and to be the same on every machine.
fn clients(program: Program) -> Program {
    let path = format!("{}:{}", shown(&tools::folder().join("bin")), std::env::var("PATH").unwrap_or_default());
    program
        .env("PATH", path)
        .env("AWS_PAGER", "")
        .env("AWS_MAX_ATTEMPTS", "2")
        .env("PYTHONUTF8", "1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// The same on both ways but for what names the way, and the moment.
fn same(text: &str) -> Result<String> {
    let mut text = text.replace("/direct/", "/WAY/").replace("/through/", "/WAY/");
    for (pattern, by) in [
        // queues' URLs are of the host that was asked
        (r"https?://[\w.:-]+/(\d{12})/", "URL/${1}/"),
        (r"\d+(\.\d+)? (Bytes|KiB|MiB)/s", "SPEED"),
    ] {
        text = Regex::new(pattern)?.replace_all(&text, by).into_owned();
    }
    Ok(text)
}

async fn the_cli_agrees() -> Result<()> {
    let usual = usual().await?;
    for words in CHANGES {
        usual.cli("account", words).await?.success().with_context(|| format!("aws {words}"))?;
    }
    let mut different = Vec::new();
    for words in LOOKS {
        let direct = Program::component("aws")?.args(usual.words(words, "direct"));
        let direct = usual.direct(direct).run(SECONDS).await?;
        let through = usual.cli("account", words).await?;
        let told = |ended: &Ended| Ok::<_, anyhow::Error>((ended.code(), same(&ended.stdout)?, same(&ended.stderr)?));
        let (direct, through) = (told(&direct)?, told(&through)?);
        if direct != through {
            different.push(format!("aws {words}\n  direct:  {direct:?}\n  through: {through:?}"));
        }
    }
    ensure!(different.is_empty(), "{} of {} differ:\n{}", different.len(), LOOKS.len(), different.join("\n"));
    let out = |way: &str| std::fs::read(usual.files.join(format!("{way}/out.txt")));
    ensure!(out("direct")? == out("through")? && out("through")? == b"0123456789\n", "what was got is another");
    let services: std::collections::BTreeSet<_> =
        CHANGES.iter().chain(LOOKS).filter_map(|words| words.split(' ').next()).collect();
    eprintln!(
        "{} calls that change and {} that look agree, of {} services",
        CHANGES.len(),
        LOOKS.len(),
        services.len()
    );
    Ok(())
}

async fn boto3_agrees() -> Result<()> {
    let usual = usual().await?;
    let changed = usual.boto("account", "calls.py", &["change"]).await?.success()?;
    ensure!(!changed.contains("\"error\""), "{changed}");
    let direct = Program::new(python()).arg(script("calls.py"));
    let direct = same(&usual.direct(direct).run(SECONDS).await?.success()?)?;
    let through = same(&usual.boto("account", "calls.py", &[]).await?.success()?)?;
    for (direct, through) in direct.lines().zip(through.lines()) {
        ensure!(direct == through, "direct:  {direct}\nthrough: {through}");
    }
    ensure!(direct.lines().count() == through.lines().count() && direct.lines().count() > 20, "{direct}\n{through}");
    eprintln!("{} calls that change and {} that look agree", changed.lines().count(), direct.lines().count());
    Ok(())
}

async fn signatures_are_right() -> Result<()> {
    let usual = usual().await?;
    let ended = usual.boto("strict", "signed.py", &[]).await?;
    let wrong: Vec<_> =
        usual.strict.stdout().text().lines().filter(|l| !l.starts_with("listening")).map(str::to_owned).collect();
    let text = ended.success().with_context(|| wrong.join("\n"))?;
    ensure!(text.contains("all signed") && wrong.is_empty(), "{text}\n{}", wrong.join("\n"));
    Ok(())
}

async fn refusals_of_aws_pass_unchanged() -> Result<()> {
    let usual = usual().await?;
    for (words, code, said) in [
        (
            "s3api get-object --bucket denied --key k out",
            255,
            "An error occurred (AccessDenied) when calling the GetObject operation: User: arn:aws:iam::1:user/x is not authorized",
        ),
        (
            "dynamodb list-tables",
            255,
            "An error occurred (ExpiredTokenException) when calling the ListTables operation: The security token included in the request is expired",
        ),
        (
            "s3api list-objects-v2 --bucket throttled",
            255,
            "An error occurred (SlowDown) when calling the ListObjectsV2 operation (reached max retries: 1): Please reduce your request rate.",
        ),
    ] {
        let ended = usual.cli("strict", words).await?;
        ensure!(ended.code() == code && ended.stderr.contains(said), "aws {words}: {ended:?}");
    }
    Ok(())
}

/// How large the file is that goes both ways, bytes.
fn large() -> u64 {
    let mib = if scale() >= 100 { 1024 } else { 64 };
    mib * 1024 * 1024
}

fn digest(path: &Path) -> Result<Vec<u8>> {
    let (mut file, mut hash, mut buffer) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 1024 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            n => hash.update(&buffer[..n]),
        }
    }
}

async fn much_both_ways() -> Result<()> {
    let usual = usual().await?;
    let (up, down) = (usual.files.join("through/large"), usual.files.join("through/large-again"));
    let mut file = std::fs::File::create(&up)?;
    let mut piece = vec![0; 1024 * 1024];
    for _ in 0..large() / piece.len() as u64 {
        getrandom::fill(&mut piece).map_err(|e| anyhow::anyhow!("{e}"))?;
        file.write_all(&piece)?;
    }
    drop(file);
    usual.cli("account", "s3 mb s3://large").await?.success()?;
    let started = Instant::now();
    usual.cli("account", "s3 cp {files}/large s3://large/large --no-progress").await?.success()?;
    let went = started.elapsed();
    usual.cli("account", "s3 cp s3://large/large {files}/large-again --no-progress").await?.success()?;
    let came = started.elapsed() - went;
    ensure!(digest(&up)? == digest(&down)?, "what came back is another");
    let resident = usual.runner.resident()?;
    eprintln!(
        "{} MiB went in {went:.1?}, came in {came:.1?}; the runner has {} MiB then",
        large() >> 20,
        resident >> 20
    );
    Ok(())
}

async fn the_state_of_opentofu() -> Result<()> {
    let usual = usual().await?;
    usual.cli("account", "s3 mb s3://states").await?.success()?;
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let folder = Scratch::new("stack")?;
    folder.write(
        "main.tf",
        "terraform {\n  backend \"s3\" {\n    bucket       = \"states\"\n    key          = \"of/the/tests.tfstate\"\n    use_lockfile = true\n  }\n}\n\
         resource \"terraform_data\" \"one\" {\n  input = \"kept by S3\"\n}\noutput \"said\" {\n  value = terraform_data.one.output\n}\n",
    )?;
    let tofu = async |words: &[&str]| {
        let path = shown(engine.path());
        let words: Vec<&str> = std::iter::once(path.as_str()).chain(words.iter().copied()).collect();
        let program = usual
            .shell("account", &words)?
            .folder(folder.path())
            .env("TF_CLI_CONFIG_FILE", shown(engine.config()))
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1");
        program.run(SECONDS).await
    };
    tofu(&["init", "-input=false", "-no-color"]).await?.success()?;
    tofu(&["apply", "-input=false", "-auto-approve", "-no-color"]).await?.success()?;
    let kept = usual.cli("account", "s3 cp s3://states/of/the/tests.tfstate -").await?.success()?;
    ensure!(kept.contains("kept by S3"), "{kept}");
    ensure!(
        tofu(&["plan", "-input=false", "-detailed-exitcode", "-no-color"]).await?.code() == 0,
        "there is something to do"
    );
    // somebody else's lock is seen
    folder.write("lock", json!({ "ID": "1", "Who": "somebody" }).to_string())?;
    let lock = shown(&folder.join("lock"));
    usual.cli("account", &format!("s3 cp {lock} s3://states/of/the/tests.tfstate.tflock")).await?.success()?;
    let locked = tofu(&["apply", "-input=false", "-auto-approve", "-no-color"]).await?;
    ensure!(locked.code() != 0 && locked.stderr.contains("Error acquiring the state lock"), "{locked:?}");
    usual.cli("account", "s3 rm s3://states/of/the/tests.tfstate.tflock").await?.success()?;
    tofu(&["destroy", "-input=false", "-auto-approve", "-no-color"]).await?.success()?;
    Ok(())
}

async fn no_real_credential_on_the_clients_side() -> Result<()> {
    let usual = usual().await?;
    let keys = aws_environment();
    let real = [keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]];
    let program = usual.shell(
        "account",
        &[
            "sh",
            "-c",
            "env; cat \"$AWS_CA_BUNDLE\"; stat -c %a \"$AWS_CA_BUNDLE\"; aws sts get-caller-identity --debug",
        ],
    )?;
    // what a person may have in the environment goes
    let program =
        program.env("AWS_PROFILE", "prod").env("AWS_SESSION_TOKEN", "t0ken-of-a-person").env("NO_PROXY", "*,localhost");
    let ended = program.run(SECONDS).await?;
    let text = format!("{}{}", ended.stdout, ended.stderr);
    ensure!(ended.code() == 0, "{text}");
    for gone in real.into_iter().chain(["AWS_PROFILE=", "t0ken-of-a-person", "PRIVATE KEY"]) {
        ensure!(!text.contains(gone), "the program knows {gone}");
    }
    let value = |name: &str| {
        let start = format!("{name}=");
        ended
            .stdout
            .lines()
            .find_map(|l| l.strip_prefix(start.as_str()))
            .map(str::to_owned)
            .with_context(|| name.to_owned())
    };
    let (id, secret) = (value("AWS_ACCESS_KEY_ID")?, value("AWS_SECRET_ACCESS_KEY")?);
    ensure!(value("AWS_REGION")? == "eu-central-1" && value("AWS_DEFAULT_REGION")? == "eu-central-1", "{text}");
    ensure!(value("NO_PROXY")? == "localhost" && ended.stdout.contains("\n600\n"), "{text}");
    ensure!(!Path::new(&value("AWS_CA_BUNDLE")?).exists(), "the CA's file stayed");
    for folder in [usual.ctl.home().to_path_buf(), usual.files.path().to_path_buf()] {
        for file in files_below(&folder)? {
            let content = std::fs::read(&file)?;
            for real in real {
                ensure!(!holds(&content, real), "{} holds {real}", file.display());
            }
        }
    }
    ensure!(!usual.api.is_empty() && usual.api.has(&id), "the way to the control plane was not watched");
    for gone in real.into_iter().chain([secret.as_str()]) {
        ensure!(!usual.api.has(gone), "{gone} went between runnerctl and the control plane");
    }
    // and on the other side of the runner nothing of the client's
    ensure!(usual.to_aws.has(&format!("Credential={}/", real[0])), "AWS has not seen the runner's key");
    ensure!(!usual.to_aws.has(&id) && !usual.to_aws.has(real[1]), "AWS has seen what it should not");
    Ok(())
}

fn holds(content: &[u8], text: &str) -> bool {
    content.windows(text.len()).any(|w| w == text.as_bytes())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Read, and put objects in one region; no deletes.
const POLICY: &str = "version = 1
[aws]
[[aws.rule]]
name = \"no-deletes\"
effect = \"deny\"
actions = [\"s3:Delete*\", \"s3:HeadBucket\"]
[[aws.rule]]
name = \"readers\"
effect = \"allow\"
services = [\"s3\", \"iam\", \"ec2\", \"dynamodb\", \"cloudwatch\"]
read_only = true
[[aws.rule]]
name = \"putters\"
effect = \"allow\"
actions = [\"s3:PutObject\"]
regions = [\"eu-central-1\"]
";

async fn the_policy_decides_by_operation() -> Result<()> {
    let usual = usual().await?;
    let user = usual.control_plane.admin();
    let mut setup = Setup::new()?.cold();
    for (name, value) in aws_environment() {
        setup = setup.env(name, value);
    }
    let entry = format!(
        "provider = \"aws\"\nsource = \"environment\"\nregion = \"eu-central-1\"\nendpoint_url = \"http://{}\"",
        usual.to_aws.address()
    );
    let runner = setup.policy(POLICY)?.table("connections.ruled", &entry).start(user, "runner-2").await?;
    user.connection("ruled", "aws", Some(&runner.id)).await?;
    usual.cli("account", "s3 mb s3://ruled").await?.success()?;
    for (words, allowed) in [
        ("s3api put-object --bucket ruled --key k --body {files}/small.txt", true),
        ("s3 ls s3://ruled", true),
        ("s3api head-object --bucket ruled --key k", true),
        ("s3api delete-object --bucket ruled --key k", false),
        ("s3api put-bucket-acl --bucket ruled --acl public-read", false),
        ("s3api copy-object --bucket ruled --key l --copy-source ruled/k", false),
        ("s3api create-multipart-upload --bucket ruled --key l", false),
        // of another region
        ("--region eu-west-1 s3api put-object --bucket ruled --key k --body {files}/small.txt", false),
        // the operation stands in the body
        ("iam list-users", true),
        ("iam create-access-key", false),
        ("ec2 describe-vpcs", true),
        ("ec2 create-vpc --cidr-block 10.8.0.0/16", false),
        // in a header
        ("dynamodb list-tables", true),
        ("dynamodb delete-table --table-name of-the-tests", false),
        // under another name than the signature's
        ("cloudwatch describe-alarms", true),
        ("cloudwatch delete-alarms --alarm-names of-the-tests", false),
        ("sqs list-queues", false),
        ("sts get-caller-identity", false),
    ] {
        let mut arguments: Vec<String> = ["--region", "eu-central-1", "--"].map(str::to_owned).into();
        arguments.extend(usual.words(words, "through"));
        let ended = usual.through("ruled", &arguments)?.run(SECONDS).await?;
        let denied = ended.stderr.contains("policy_denied") || ended.stderr.contains("(403)");
        ensure!((ended.code() == 0) == allowed && denied != allowed, "aws {words}: {ended:?}");
    }
    // an answer to HEAD has no words, and its failure is told all the same
    let ended = usual.cli("ruled", "--region eu-central-1 s3api head-bucket --bucket ruled").await?;
    let said = &ended.stderr;
    ensure!(ended.code() != 0 && said.contains("policy_denied") && said.contains("rule no-deletes"), "{said}");
    // without being allowed to ask who it is
    let ended = usual.cli("ruled", "--region eu-central-1 s3 ls s3://ruled").await?;
    ensure!(ended.code() == 0 && ended.stderr.contains("cannot be asked for (policy_denied)"), "{ended:?}");
    Ok(())
}

async fn the_programs_end_is_runnerctls() -> Result<()> {
    let usual = usual().await?;
    for (words, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let ended = usual.shell("account", &["sh", "-c", words])?.run(SECONDS).await?;
        ensure!(ended.code() == code, "{words}: {ended:?}");
    }
    let ended = usual.shell("account", &["no-such-program"])?.run(SECONDS).await?;
    ensure!(ended.code() == 125 && ended.stderr.contains("no-such-program"), "{ended:?}");
    let ended = usual.shell("nowhere", &["true"])?.run(SECONDS).await?;
    ensure!(ended.code() == 125 && ended.stderr.contains("not_found"), "{ended:?}");
    usual.control_plane.admin().connection("not-aws", "kubernetes", None).await?;
    let ended = usual.shell("not-aws", &["true"])?.run(SECONDS).await?;
    ensure!(ended.code() == 125 && ended.stderr.contains("wrong_provider"), "{ended:?}");
    // what comes to runnerctl alone goes on to the program
    for (signal, name, code) in [(Signal::SIGTERM, "TERM", 9), (Signal::SIGHUP, "HUP", 9)] {
        let words = format!("trap 'exit 9' {name}; echo ready; sleep 300 & wait");
        let process = usual.shell("account", &["sh", "-c", &words])?.start()?;
        process.ready(SECONDS, "the program is there", |l| l == "ready").await?;
        process.signal(signal)?;
        let status = process.ended(SECONDS).await?;
        ensure!(status.code() == Some(code), "{name}: {status:?}");
    }
    // of the terminal's own runnerctl takes none away, and does not end before the program
    let process = usual.shell("account", &["sh", "-c", "trap '' INT; echo ready; read line; exit 5"])?.start()?;
    process.ready(SECONDS, "the program is there", |l| l == "ready").await?;
    process.signal(Signal::SIGINT).ok();
    ensure!(process.ended(SECONDS).await?.code() == Some(5), "it did not end as the program");
    Ok(())
}

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(1200)
        .needs(&[Component::Moto, Component::AwsClients])
        .test("the_cli_agrees", the_cli_agrees)
        .test("boto3_agrees", boto3_agrees)
        .test("signatures_are_right", signatures_are_right)
        .test("refusals_of_aws_pass_unchanged", refusals_of_aws_pass_unchanged)
        .test("what_the_proxy_refuses", refusals::by_the_proxy)
        .test("what_runner_and_control_plane_refuse", refusals::by_the_rest)
        .test("expired_credentials_are_resolved_again", refusals::expired)
        .test("sessions_bear_the_name_of_whoever_asks", refusals::named)
        .test("an_operation_whose_credentials_expired_is_done_with_new_ones", refusals::again)
        .test("the_policy_decides_by_operation", the_policy_decides_by_operation)
        .test("the_programs_end_is_runnerctls", the_programs_end_is_runnerctls)
        .test("much_both_ways", much_both_ways)
        .needs(&[Component::Moto, Component::AwsClients, Component::Tofu])
        .test("the_state_of_opentofu", the_state_of_opentofu)
        .needs(&[Component::Moto, Component::AwsClients])
        .test("no_real_credential_on_the_clients_side", no_real_credential_on_the_clients_side)
        .run()
}
