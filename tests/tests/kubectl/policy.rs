//! What the runner's own policy lets through, and what of Secrets.

use super::{SECONDS, Usual, usual, words};
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use nix::sys::signal::Signal;
use runner_tests::clock::Clock;
use runner_tests::control_plane::User;
use runner_tests::ctl::Ctl;
use runner_tests::process::{Ended, Program};
use runner_tests::runner::Setup;
use runner_tests::world::World;
use runner_tests::{Runner, eventually};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// All of Kubernetes, with nothing masked.
pub(super) const SHOWN: &str =
    "version = 1\n[kubernetes]\nsecrets = \"shown\"\n[[kubernetes.rule]]\nname = \"all\"\neffect = \"allow\"\n";

/// What must not get out.
const VALUES: [&str; 3] = ["correct-horse-battery", "staple-4711-staple", "multi\nline-value-0815"];

/// A user with a kubectl of its own, whose runner has this policy.
pub(super) struct Place {
    pub(super) world: World,
    pub(super) ctl: Ctl,
    kubeconfig: PathBuf,
}

impl Place {
    pub(super) async fn new(usual: &Usual, policy: Option<&str>, connection: &str) -> Result<Self> {
        let setup = |setup: Setup| match policy {
            Some(text) => setup.policy(text).expect("its folder is there"),
            None => setup,
        };
        let world = World::beside(&usual.cluster, setup).await?;
        Self::of(world, usual, connection).await
    }
    pub(super) async fn of(world: World, usual: &Usual, connection: &str) -> Result<Self> {
        let ctl = Ctl::new(&world.control_plane, world.user())?;
        let kubeconfig = usual.files.join(format!("{}.kubeconfig", world.control_plane.api().port()));
        let at = kubeconfig.display().to_string();
        ctl.text(&["kubeconfig", connection, "--use", "--file", &at]).await?;
        Ok(Self { world, ctl, kubeconfig })
    }
    pub(super) fn program(&self, name: &str) -> Result<Program> {
        let own = runner_tests::tools::binary("runnerctl")?;
        let own = own.parent().context("a folder")?.display();
        Ok(Program::component(name)?
            .env("HOME", self.ctl.home().display().to_string())
            .env("PATH", format!("{own}:{}", std::env::var("PATH").unwrap_or_default()))
            .env("KUBECONFIG", self.kubeconfig.display().to_string())
            .folder(self.ctl.home()))
    }
    pub(super) async fn kubectl(&self, text: &str) -> Result<Ended> {
        self.program("kubectl")?.args(words(text)).run(SECONDS).await
    }
    /// A plain request to the API that is passed through.
    pub(super) async fn ask(
        &self,
        user: &User,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, String)> {
        let path = format!("/api/v1/connections/cluster/kubernetes{target}");
        let answer = user.client().request(method, &path, headers, "").await?;
        Ok((answer.status.as_u16(), answer.text()))
    }
}

/// No value stands in a text, in whichever form.
fn nothing_of(text: &str) -> Result<()> {
    for value in VALUES {
        let json = serde_json::to_string(value)?;
        for form in [value, STANDARD.encode(value).trim_end_matches('='), json.trim_matches('"')] {
            ensure!(!text.contains(form), "{form:?} got out: {text}");
        }
    }
    Ok(())
}

/// Makes a Secret with those values, as kubectl does.
async fn secret(usual: &Usual, name: &str) -> Result<String> {
    let data: serde_json::Map<_, _> =
        VALUES.iter().enumerate().map(|(n, value)| (format!("k{n}"), STANDARD.encode(value).into())).collect();
    let mut object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "seen" }, "data": data });
    let applied = object.to_string();
    object["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/last-applied-configuration": applied });
    usual.cluster.create("/api/v1/namespaces/seen/secrets", &object).await?;
    Ok(format!("/api/v1/namespaces/seen/secrets/{name}"))
}

pub(super) async fn secrets_are_masked() -> Result<()> {
    let usual = usual().await?;
    let path = secret(usual, "vault").await?;
    let place = Place::new(usual, None, "cluster").await?;
    for looks in [
        "get secret vault -n seen -o yaml",
        "get secret vault -n seen -o json --show-managed-fields",
        "get secret vault -n seen -o jsonpath={.data}",
        "get secret vault -n seen -o go-template={{range.data}}{{.}}{{end}}",
        "get secrets -n seen",
        "get secrets -A -o wide",
        "get secrets -A -o yaml",
        "get secrets -A -o json",
        "describe secret vault -n seen",
        "get secret,configmap -n seen -o yaml",
        "get --raw /api/v1/secrets",
        "get --raw /api/v1/secrets?watch=true&timeoutSeconds=1",
        "get --raw /api/v1/watch/namespaces/seen/secrets/vault?timeoutSeconds=1",
        "get secrets -n seen -w -o yaml --request-timeout=2s",
        "apply view-last-applied secret/vault -n seen",
        "patch secret vault -n seen -p '{\"metadata\":{\"labels\":{\"a\":\"b\"}}}' -o yaml",
        "annotate secret vault -n seen note=x -o yaml",
    ] {
        let ended = place.kubectl(looks).await?;
        ensure!(ended.code() == 0, "{looks}: {}", ended.stderr);
        nothing_of(&(ended.stdout + &ended.stderr)).with_context(|| looks)?;
    }
    let user = place.world.user();
    for accept in ["application/vnd.kubernetes.protobuf", "application/yaml", "application/cbor"] {
        let refused = place.ask(user, Method::GET, &path, &[("accept", accept)]).await?;
        ensure!(refused.0 == 406 && refused.1.contains("not_acceptable"), "{accept}: {refused:?}");
    }
    for (name, value) in [
        ("accept", "application/vnd.kubernetes.protobuf,application/json"),
        ("accept-encoding", "gzip"),
        ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
    ] {
        for target in [path.clone(), "/api/v1/secrets".into(), format!("{path}?includeObject=Object")] {
            let (status, text) = place.ask(user, Method::GET, &target, &[(name, value)]).await?;
            // a list is none of one object's metadata: the API server's own refusal
            ensure!(status == 200 || (status == 406 && value.contains("Partial")), "{value}: {status} {text}");
            nothing_of(&text).with_context(|| value.to_owned())?;
        }
    }
    // what was read cannot be written back, and what is new can be written
    let masked = place.kubectl("get secret vault -n seen -o yaml").await?.success()?;
    let back = place.program("kubectl")?.args(words("replace -f -")).input(masked).run(SECONDS).await?;
    ensure!(back.code() == 1 && back.stderr.contains("masked_write"), "{}", back.stderr);
    let written = place.kubectl("patch secret vault -n seen -p '{\"stringData\":{\"k9\":\"new-value\"}}'").await?;
    ensure!(written.code() == 0, "{}", written.stderr);
    let oracle = format!(
        r#"patch secret vault -n seen --type=json -p '[{{"op":"test","path":"/data/k0","value":"{}"}}]'"#,
        STANDARD.encode(VALUES[0])
    );
    let guessed = place.kubectl(&oracle).await?;
    ensure!(guessed.code() == 1 && guessed.stderr.contains("masked_read"), "{}", guessed.stderr);
    let there = usual.cluster.read(&path).await?;
    ensure!(
        there["data"]["k0"] == STANDARD.encode(VALUES[0]) && there["data"]["k9"] == STANDARD.encode("new-value"),
        "{there}"
    );
    Ok(())
}

/// Developers look at one namespace; a person on call has a shell there; nothing else is.
const TEAM: &str = r#"
version = 1
[kubernetes]
[[kubernetes.rule]]
name = "discovery"
effect = "allow"
paths = ["/api", "/api/*", "/apis", "/apis/*", "/openapi/*", "/version"]
[[kubernetes.rule]]
name = "no-database"
effect = "deny"
verbs = ["get", "delete"]
names = ["db-*"]
[[kubernetes.rule]]
name = "on-call"
effect = "allow"
people = ["olga"]
namespaces = ["seen"]
resources = ["pods/exec", "pods/portforward"]
verbs = ["create"]
containers = ["app"]
[[kubernetes.rule]]
name = "developers-read"
effect = "allow"
groups = ["developers"]
namespaces = ["seen"]
read_only = true
secrets = { shown_types = ["helm.sh/release.v1"] }
"#;

pub(super) async fn a_policy_decides() -> Result<()> {
    let usual = usual().await?;
    let mut place = Place::new(usual, Some(TEAM), "cluster").await?;
    let organization = place.world.user().organization.clone();
    let mut users = Vec::new();
    for (name, groups) in [("dora", vec!["developers"]), ("olga", vec!["developers", "on-call"])] {
        users.push(place.world.control_plane.user_in(&organization, name, "member", &groups).await?);
    }
    let [dora, olga] = users.try_into().map_err(|_| anyhow::anyhow!("two"))?;
    let mut ctls = Vec::new();
    for user in [&dora, &olga] {
        let ctl = Ctl::new(&place.world.control_plane, user)?;
        let file = ctl.home().join("kubeconfig");
        ctl.text(&["kubeconfig", "cluster", "--use", "--file", &file.display().to_string()]).await?;
        ctls.push((ctl, file));
    }
    // 0 dora, 1 olga, 2 the administrator, who is in no group
    ctls.push((Ctl::new(&place.world.control_plane, place.world.user())?, place.kubeconfig.clone()));
    let (allowed, denied) = (0, 1);
    for (who, text, code, says) in [
        (0, "get pods -n seen", allowed, "web-1"),
        (0, "get pods -n seen -w --request-timeout=2s", allowed, "web-1"),
        (0, "logs web-1 -n seen -c app", allowed, "app says 0"),
        (0, "get pods -A", denied, "policy_denied"),
        (0, "get pods -n default", denied, "no rule of section kubernetes"),
        (0, "get pod db-1 -n seen", denied, "rule no-database"),
        (0, "get nodes", denied, "policy_denied"),
        (0, "delete pod web-1 -n seen", denied, "delete pods"),
        (0, "create configmap x -n seen", denied, "policy_denied"),
        (0, "exec web-1 -n seen -c app -- true", denied, "policy_denied"),
        (
            0,
            "get --raw /api/v1/namespaces/seen/pods/web-1/exec?command=true&container=app&stdout=true",
            denied,
            "create pods/exec",
        ),
        (0, "get --raw /api/v1/namespaces/seen/pods/web-1/proxy/", denied, "policy_denied"),
        (0, "get --raw /metrics", denied, "policy_denied"),
        (1, "exec web-1 -n seen -c app -- echo in", allowed, "in"),
        (1, "exec web-1 -n seen -c side -- echo in", denied, "policy_denied"),
        (1, "attach web-1 -n seen -c app", denied, "policy_denied"),
        (1, "get pods -n seen", allowed, "web-1"),
        (2, "get pods -n seen", denied, "policy_denied"),
        (2, "version", allowed, "Server Version"),
    ] {
        for spdy in [false, true].into_iter().take(if text.starts_with("exec") { 2 } else { 1 }) {
            let (ctl, file) = &ctls[who];
            let mut program = place.program("kubectl")?.args(words(text)).folder(ctl.home());
            program =
                program.env("HOME", ctl.home().display().to_string()).env("KUBECONFIG", file.display().to_string());
            if spdy {
                program = program.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
            }
            let ended = program.run(SECONDS).await?;
            let said = format!("{}{}", ended.stdout, ended.stderr);
            ensure!(ended.code() == code && said.contains(says), "{text}: {} {said}", ended.code());
        }
    }
    // what runnerctl's own operations ask for goes by the same rules
    for (who, arguments, says) in [
        (0, &["k8s", "--connection", "cluster", "pods", "-n", "seen"][..], "web-1"),
        (0, &["k8s", "--connection", "cluster", "pods", "-n", "default"], "policy_denied"),
        (
            0,
            &["k8s", "--connection", "cluster", "exec", "web-1", "-n", "seen", "-c", "app", "--", "true"],
            "policy_denied",
        ),
        (2, &["k8s", "--connection", "cluster", "namespaces"], "policy_denied"),
    ] {
        let ended = ctls[who].0.run(arguments).await?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        ensure!(said.contains(says), "{arguments:?}: {said}");
    }
    // the control plane shows it beforehand, and as it changes
    let shown = || async {
        let shown = place.world.user().get(&format!("/runners/{}", place.world.runner.id)).await?;
        anyhow::Ok(shown["instances"][0]["policy"].clone())
    };
    let policy = shown().await?;
    ensure!(
        policy["state"] == "read" && policy["sections"]["kubernetes"]["rules"][3]["name"] == "developers-read",
        "{policy}"
    );
    ensure!(
        policy["sections"]["kubernetes"]["default"] == "deny" && policy["sections"]["jobs"]["default"] == "allow",
        "{policy}"
    );
    let control_plane = place.world.control_plane;
    let (user, id) = (control_plane.admin().clone(), place.world.runner.id.clone());
    changes_take_effect(&mut place.world.runner, &ctls[0].0, &user).await?;
    let shown = user.get(&format!("/runners/{id}")).await?;
    ensure!(shown["instances"][0]["policy"]["state"] == "broken", "{shown}");
    Ok(())
}

/// A list of resources goes by the rules that kubectl's own requests go by, those that name an API group too.
pub(super) async fn lists_of_resources_go_by_the_same_rules() -> Result<()> {
    let usual = usual().await?;
    let rules = |first: &str, last: &str| {
        format!("version = 1\n[kubernetes]\n[[kubernetes.rule]]\nname = \"first\"\n{first}\n{last}")
    };
    let others = "[[kubernetes.rule]]\nname = \"others\"\neffect = \"allow\"\n";
    // what kubectl asks beside it
    let paths = "[[kubernetes.rule]]\nname = \"paths\"\neffect = \"allow\"\npaths = [\"*\"]\n";
    for (policy, allowed, refused) in [
        (rules("effect = \"deny\"\nresources = [\"deployments\"]", others), "daemonsets.apps", "deployments.apps"),
        (rules("effect = \"deny\"\nresources = [\"*.apps\", \"secrets\"]", others), "pods", "deployments.apps"),
        (rules("effect = \"deny\"\nresources = [\"secrets\"]", others), "deployments.apps", "secrets."),
        (rules("effect = \"allow\"\nresources = [\"deployments.apps\"]", paths), "deployments.apps", "pods"),
        (rules("effect = \"allow\"\nresources = [\"*.apps\"]", paths), "statefulsets.apps", "pods."),
    ] {
        let place = Place::new(usual, Some(&policy), "cluster").await?;
        let ctl = Ctl::new(&place.world.control_plane, place.world.user())?;
        let list = async |name: &str| ctl.run(&["resources", "list", "-C", "cluster", "--type", name]).await;
        let (fine, denied) = (list(allowed).await?, list(refused).await?);
        ensure!(fine.code() == 0, "{allowed} by {policy}: {fine:?}");
        let said = format!("{}{}", denied.stdout, denied.stderr);
        ensure!(denied.code() == 77 && said.contains("policy_denied"), "{refused} by {policy}: {denied:?}");
        // kubectl has the same answers
        for (name, code) in [(allowed, 0), (refused, 1)] {
            let ended = place.kubectl(&format!("get {} -A", name.trim_end_matches('.'))).await?;
            ensure!(ended.code() == code, "{name} by {policy}: {ended:?}");
        }
    }
    Ok(())
}

/// A policy is read again whole or not at all, and one that is broken at the start allows nothing.
async fn changes_take_effect(runner: &mut Runner, dora: &Ctl, user: &User) -> Result<()> {
    let pods = ["k8s", "--connection", "cluster", "pods", "-n", "seen"];
    let file = runner.folder().join("policy.toml");
    let mark = runner.mark();
    std::fs::write(&file, format!("{TEAM}\nnonsense = 1\n"))?;
    runner.process().signal(Signal::SIGHUP)?;
    let kept = runner.message(mark, SECONDS, "not reloaded, nothing has changed").await?;
    ensure!(kept["reason"].as_str().is_some_and(|r| r.contains("nonsense")), "{kept}");
    dora.text(&pods).await?;
    let mark = runner.mark();
    std::fs::write(&file, "version = 1\n[kubernetes]\n")?;
    runner.process().signal(Signal::SIGHUP)?;
    runner.message(mark, SECONDS, "configuration and credentials read again").await?;
    ensure!(dora.run(&pods).await?.stderr.contains("no rule of section kubernetes"), "it was not read");
    // the control plane is told, in the same session
    eventually(SECONDS, "the control plane to know it", || async {
        let shown = user.get(&format!("/runners/{}", runner.id)).await?;
        let kubernetes = &shown["instances"][0]["policy"]["sections"]["kubernetes"];
        Ok((kubernetes["default"] == "deny" && kubernetes["rules"].is_null()).then_some(()))
    })
    .await?;
    std::fs::write(&file, "version = 1\nkubernetes = nonsense")?;
    runner.process().signal(Signal::SIGTERM)?;
    runner.process().ended(SECONDS).await?;
    runner.start_again().await?;

    eventually(SECONDS, "it to be back", || async {
        let said = dora.run(&pods).await?.stderr;
        Ok((said.contains("policy_denied") && said.contains("cannot be used")).then_some(()))
    })
    .await
}

/// What a rule allows ends with its time window, also where it runs already.
pub(super) async fn a_time_window_ends_what_runs() -> Result<()> {
    const MINUTE_MS: i64 = 60_000;
    let usual = usual().await?;
    let now = shared_proto::now_ms();
    // a window that ends with a minute which is not yet over
    let end = (now + 10_000).div_euclid(MINUTE_MS) * MINUTE_MS + MINUTE_MS;
    let clock_of = |ms: i64| {
        let minutes = ms.div_euclid(MINUTE_MS).rem_euclid(24 * 60);
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    };
    let policy = format!(
        "version = 1\n[kubernetes]\n[[kubernetes.rule]]\nname = \"by-day\"\neffect = \"allow\"\nhours = \"{}-{}\"\n",
        clock_of(end - 120 * MINUTE_MS),
        clock_of(end)
    );
    let clock = Clock::new()?;
    let world =
        World::beside(&usual.cluster, |setup| setup.policy(&policy).expect("its folder is there").by_clock(&clock));
    let world = world.await?;
    let user = world.user();
    let path = "/api/v1/connections/cluster/k8s/namespaces/seen/pods/web-1/logs?container=app&follow=true";
    let begun = Instant::now();
    clock.wall(end - 5000 - shared_proto::now_ms())?;
    let mut log = user.client().stream(path, &[("te", "trailers")]).await?;
    ensure!(log.status.is_success(), "{}", log.status);
    tokio::time::timeout(SECONDS, log.rest()).await.context("the window's end")??;
    let outcome = log.outcome()?;
    ensure!(outcome["code"] == "policy_denied", "{outcome}");
    ensure!(outcome["message"].as_str().is_some_and(|m| m.contains("time window of rule by-day")), "{outcome}");
    ensure!(begun.elapsed() >= Duration::from_secs(4), "it ended too early: {:?}", begun.elapsed());
    clock.wall(end + 1000 - shared_proto::now_ms())?;
    ensure!(user.refused("/connections/cluster/k8s/namespaces").await?.1 == "policy_denied");
    Ok(())
}

/// A chart's releases are Secrets, which helm reads and writes: their type alone is shown, and nothing else of what is masked gets out.
pub(super) async fn helm_where_secrets_are_masked() -> Result<()> {
    const RELEASES: &str = "version = 1\n[kubernetes]\nsecrets = { shown_types = [\"helm.sh/release.v1\"] }\n[[kubernetes.rule]]\nname = \"all\"\neffect = \"allow\"\n";
    let usual = usual().await?;
    secret(usual, "beside-helm").await?;
    let shown = Place::new(usual, Some(RELEASES), "cluster").await?;
    let side = &usual.sides[1];
    super::helm::chart(usual, side)?;
    for (step, code) in super::helm::STEPS {
        let text = step.replace("{ns}", side.namespace);
        let program = shown.program("helm")?.folder(&usual.files.join(side.namespace));
        let ended = program.args(words(&text)).run(SECONDS).await.with_context(|| *step)?;
        ensure!(ended.code() == *code, "helm {step}: {} {}", ended.code(), ended.stderr);
    }
    nothing_of(&shown.kubectl("get secret beside-helm -n seen -o yaml").await?.stdout)?;
    // where no type is shown, helm is told, and nothing of a release is lost
    let masked = Place::new(usual, None, "cluster").await?;
    let helm = async |place: &Place, text: &str| {
        let program = place.program("helm")?.folder(&usual.files.join(side.namespace));
        program.args(words(&text.replace("{ns}", side.namespace))).run(SECONDS).await
    };
    ensure!(helm(&shown, "install shop chart -n {ns}").await?.code() == 0);
    let upgrade = helm(&masked, "upgrade shop chart -n {ns}").await?;
    ensure!(upgrade.code() != 0, "{upgrade:?}");
    ensure!(helm(&shown, "status shop -n {ns}").await?.stdout.contains("STATUS: deployed"));
    ensure!(helm(&shown, "uninstall shop -n {ns}").await?.code() == 0);
    Ok(())
}

/// What two readers could take for two things does not pass.
pub(super) async fn tricks_do_not_pass() -> Result<()> {
    let usual = usual().await?;
    let policy = "version = 1\n[kubernetes]\n[[kubernetes.rule]]\nname = \"configmaps\"\neffect = \"allow\"\nnamespaces = [\"seen\"]\nresources = [\"configmaps\"]\n";
    let place = Place::new(usual, Some(policy), "cluster").await?;
    let user = place.world.user();
    let base = "/api/v1/namespaces/seen/configmaps";
    let (status, text) = place.ask(user, Method::GET, base, &[]).await?;
    ensure!(status == 200 && text.contains("ConfigMapList"), "{status} {text}");
    for target in [
        "/api/v1/namespaces/seen/configmaps/../secrets",
        "/api/v1/namespaces/seen/configmaps/%2e%2e/secrets",
        "/api/v1/namespaces/seen/configmaps/%2E./secrets",
        "/api/v1/namespaces/seen/configmaps%2f..%2fsecrets",
        "/api/v1/namespaces/seen/configmaps/..%2fsecrets",
        "/api/v1/namespaces/seen%2fsecrets/configmaps",
        "//api/v1/namespaces/seen/configmaps",
        "/api/v1//namespaces/seen/configmaps",
        "/api/v1/namespaces/seen/configmaps//",
        "/api/v1/namespaces//configmaps",
        "/api/v1/namespaces/seen/secrets",
        "/api/v1/namespaces/seen/%73ecrets",
        "/api/v1/namespaces/default/configmaps",
        "/api/v1/configmaps",
        "/api/v1/configmaps?namespace=seen",
        "/api/v1/namespaces/seen/configmaps?watch=true&watch=false",
        "/api/v1/namespaces/seen/configmaps?watch=true;x=1",
        "/api/v1/namespaces/seen/configmaps?dryRun=Nothing",
        "/api/v1/namespaces/seen/configmaps/%00",
        "/api/v1/namespaces/seen/configmaps/%zz",
        "/api/v1/namespaces/seen/configmaps/%ff",
        "/apis/v1/namespaces/seen/configmaps",
        "/api/v1/proxy/namespaces/seen/services/x",
        "/api/v1/watch/namespaces/seen/secrets",
        "/",
        "",
    ] {
        let (status, text) = place.ask(user, Method::GET, target, &[]).await?;
        ensure!(
            (status == 400 && text.contains("invalid_argument")) || (status == 403 && text.contains("policy_denied")),
            "{target}: {status} {text}"
        );
    }
    for method in ["TRACE", "get", "PROPFIND", "BREW"] {
        let (status, text) = place.ask(user, Method::from_bytes(method.as_bytes())?, base, &[]).await?;
        ensure!((400..500).contains(&status), "{method}: {status} {text}");
    }
    for protocol in ["h2c", "websocket, h2c", "TLS/1.0"] {
        let headers = [("connection", "upgrade"), ("upgrade", protocol)];
        let (status, text) = place.ask(user, Method::GET, base, &headers).await?;
        ensure!(status == 400 && text.contains("switch"), "{protocol}: {status} {text}");
    }
    // nobody becomes somebody else by a header
    for name in ["impersonate-user", "impersonate-group", "impersonate-uid", "Impersonate-Extra-x"] {
        let (status, text) = place.ask(user, Method::GET, base, &[(name, "system:masters")]).await?;
        ensure!(status == 403 && text.contains("impersonate"), "{name}: {status} {text}");
    }
    for (name, value) in [("x-remote-user", "admin"), ("x-http-method-override", "DELETE")] {
        let path = "/api/v1/namespaces/seen/configmaps";
        let (status, text) = place.ask(user, Method::GET, path, &[(name, value)]).await?;
        ensure!(status == 200 || status == 403, "{name}: {status} {text}");
    }
    let long = format!("{base}/{}", "a".repeat(60_000));
    let (status, text) = place.ask(user, Method::GET, &long, &[]).await?;
    ensure!((400..500).contains(&status), "{status} {text}");
    // and a length and chunks together, as two servers might read them apart
    let answer = user
        .client()
        .request(
            Method::POST,
            &format!("/api/v1/connections/cluster/kubernetes{base}"),
            &[("transfer-encoding", "chunked"), ("content-length", "4"), ("content-type", "application/json")],
            "0\r\n\r\nDELETE /api/v1/namespaces/seen HTTP/1.1\r\n\r\n",
        )
        .await;
    if let Ok(answer) = answer {
        ensure!(answer.status.is_client_error(), "{} {}", answer.status, answer.text());
    }
    usual.cluster.read("/api/v1/namespaces/seen").await?;
    place.world.runner.no_workers(SECONDS).await?;
    Ok(())
}
