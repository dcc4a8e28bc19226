//! Certificates are renewed by the runner itself, while everything goes on: with lives of seconds, as lives of months are.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{ControlPlane, User};
use runner_tests::ctl::Ctl;
use runner_tests::engine::{EngineKind, slow_module};
use runner_tests::process::Mark;
use runner_tests::runner::Setup;
use runner_tests::suite::scale;
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, Cutter, Engine, Runner, Scratch, Suite, Wire, eventually};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use shared_proto::identity::CertificateFacts;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(60);
/// A life as short as the control plane gives one, seconds.
const SHORT: &str = "20";
const NAMESPACES: &str = "/connections/cluster/k8s/namespaces";

static CLUSTER: Shared<Cluster> = Shared::new();

fn main() -> ExitCode {
    Suite::new()
        .limit(600)
        .test("it_goes_on_after_restarts_of_either_end", restarts)
        .test("a_damaged_one_gives_way_to_the_credentials_file", damaged)
        .test("revoking_a_runner_covers_what_it_has_renewed", revoked)
        .test("who_was_off_past_the_end_is_told_what_to_do", expired)
        .test("an_older_copy_of_the_control_plane_takes_the_credentials_file", forgotten)
        .test("issuing_cas_rotate_with_overlap", rotation)
        .needs(&[Component::NetworkNamespace])
        .test("instances_share_a_credentials_file_that_cannot_be_written", read_only)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("operations_and_a_job_all_along", all_along)
        .run()
}

/// What the first certificates of a PEM text say, leaf first.
fn chain(pem: &str) -> Result<Vec<CertificateFacts>> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    Ok(chain.iter().map(CertificateFacts::read).collect::<Result<_, _>>()?)
}

/// The chain of the file, the credentials file or a renewed one.
fn of_file(path: &Path) -> Result<Vec<CertificateFacts>> {
    let file: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    chain(file["certificate"].as_str().context("a certificate")?)
}

fn renewed(runner: &Runner) -> Result<Vec<CertificateFacts>> {
    of_file(&runner.state().join("certificate.json"))
}

async fn short() -> Result<ControlPlane> {
    ControlPlane::with_arguments(&["--certificate-seconds", SHORT]).await
}

/// Waits until a moment has passed, by this machine's clock.
async fn passed(unix_seconds: i64) {
    let left = (unix_seconds + 1) * 1000 - shared_proto::now_ms();
    tokio::time::sleep(Duration::from_millis(left.max(0) as u64)).await;
}

async fn shown(user: &User, runner: &Runner) -> Result<Value> {
    Ok(user.get(&format!("/runners/{}", runner.id)).await?["instances"][0]["certificate"].clone())
}

async fn all_along() -> Result<()> {
    let (life, during) = if scale() == 100 { (120, 300) } else { (20, 60) };
    let control_plane = ControlPlane::with_arguments(&["--certificate-seconds", &life.to_string()]).await?;
    let cluster = CLUSTER.get(usual_cluster).await?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let user = control_plane.admin();
    let setup = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .engines(&[&engine])
        .tunnel_through(&wire)
        .execution_through(&wire);
    let runner = setup.start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    user.stack("slow", "opentofu", &slow_module(during + 10)).await?;
    let job = user.start_job("slow", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&job, &["applying"], SECONDS).await?;

    let (mark, start, mut served) = (runner.mark(), Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(during.into()) {
        user.get(NAMESPACES).await.with_context(|| format!("operation {served}, after {:?}", start.elapsed()))?;
        served += 1;
    }
    let lines = runner.process().stderr().since(mark);
    let said = |message: &str| lines.iter().filter(|l| l.contains(message)).count();
    println!("{served} operations, {} renewals, lives of {life} s", said("\"certificate renewed\""));
    ensure!(said("\"certificate renewed\"") >= 3, "{} renewals", said("certificate renewed"));
    ensure!(said("session ended") == 0 && said("not renewed") == 0, "{lines:?}");

    // the credentials file's is over by now: what comes next is by the newest
    let first = of_file(&runner.folder().join("credentials.json"))?;
    ensure!(first[0].not_after * 1000 < shared_proto::now_ms(), "it is not over yet");
    let mark = runner.mark();
    wire.set(Wire::Reset);
    runner.message(mark, SECONDS, "session ended").await?;
    wire.set(Wire::Pass);
    runner.session(mark, SECONDS).await?;
    user.get(NAMESPACES).await?;
    let certificate = shown(user, &runner).await?;
    ensure!(certificate["renewed"] == true, "{certificate}");
    user.job_in(&job, &["applied"], SECONDS * 2).await?;
    user.events(&job).await?;
    engine.agrees(&runner, user, &job, &slow_module(during + 10)).await?;

    // all of it is written down: whose each is, and what it follows
    let known = control_plane.certificates(&runner.id).await?;
    let instance = std::fs::read_to_string(runner.state().join("instance"))?.trim().to_owned();
    ensure!(known[0].instance.is_none() && known[0].serial == first[0].serial, "{known:?}");
    for pair in known.windows(2) {
        ensure!(pair[1].instance.as_ref() == Some(&instance), "{known:?}");
        ensure!(pair[1].renews.as_ref() == Some(&pair[0].serial), "{known:?}");
    }
    Ok(())
}

async fn restarts() -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mut control_plane = short().await?;
    let mut runner = Runner::start(&control_plane, "runner-1").await?;
    let file = runner.folder().join("credentials.json");
    let look = || -> Result<_> { Ok((std::fs::read(&file)?, file.metadata()?.mtime_nsec(), file.metadata()?.ino())) };
    let before = look()?;
    let (code, status) = runner.status().await?;
    ensure!(code == 0 && status["certificate"]["renewed"] == false, "{status}");
    ensure!(status["certificate"]["file"] == json!(file.display().to_string()), "{status}");
    runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    let own = runner.state().join("certificate.json");
    ensure!(own.metadata()?.permissions().mode() & 0o7777 == 0o600);

    let mark = runner.mark();
    control_plane.kill();
    control_plane.start_again().await?;
    runner.session(mark, SECONDS).await?;
    let certificate = shown(control_plane.admin(), &runner).await?;
    ensure!(certificate["renewed"] == true, "{certificate}");
    runner.message(mark, SECONDS, "certificate renewed").await?;

    passed(of_file(&file)?[0].not_after).await;
    runner.kill_all_but_jobs().await?;
    runner.start_again().await?;
    let (_, status) = runner.status().await?;
    ensure!(status["certificate"]["renewed"] == true, "{status}");
    ensure!(status["certificate"]["file"] == json!(own.display().to_string()), "{status}");
    ensure!(status["certificate"]["serial"] == json!(renewed(&runner)?[0].serial), "{status}");
    ensure!(look()? == before, "the credentials file is another one");
    let secret = std::fs::read_to_string(&own)?;
    let key = secret.lines().find(|l| l.contains("PRIVATE KEY")).context("a key")?;
    let body = key.split("\\n").nth(1).context("its body")?;
    ensure!(!runner.process().stderr().text().contains(body), "the key is in the log");
    let table = Ctl::new(&control_plane, control_plane.admin())?.text(&["runner", "show", "runner-1"]).await?;
    ensure!(table.contains("renewed by the instance"), "{table}");
    Ok(())
}

async fn damaged() -> Result<()> {
    // the credentials file's must still be good when the renewed one is there
    let control_plane = ControlPlane::with_arguments(&["--certificate-seconds", "45"]).await?;
    let mut runner = Runner::start(&control_plane, "runner-1").await?;
    runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    let first = renewed(&runner)?[0].serial.clone();
    runner.kill_all_but_jobs().await?;
    let own = runner.state().join("certificate.json");
    let whole = std::fs::read(&own)?;
    std::fs::write(&own, &whole[..whole.len() / 2])?;
    runner.start_again().await?;
    let said = "the renewed certificate cannot be used, the credentials file's is";
    let line = runner.message(Mark::default(), SECONDS, said).await?;
    ensure!(line["code"] == "credentials_malformed" && line["next_step"].is_string(), "{line}");
    // it is late for the credentials file's too
    runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    ensure!(renewed(&runner)?[0].serial != first);
    let (_, status) = runner.status().await?;
    ensure!(status["certificate"]["trouble"] == "" && status["certificate"]["renewed"] == true, "{status}");
    Ok(())
}

async fn revoked() -> Result<()> {
    let control_plane = short().await?;
    let user = control_plane.admin();
    let mut runner = Runner::start(&control_plane, "runner-1").await?;
    runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    // a session by the renewed one
    runner.kill_all_but_jobs().await?;
    runner.start_again().await?;
    ensure!(shown(user, &runner).await?["renewed"] == true);
    let (mark, start) = (runner.mark(), Instant::now());
    user.post(&format!("/runners/{}/revoke", runner.id), &json!({})).await?;
    runner.message(mark, SECONDS, "session ended").await?;
    ensure!(start.elapsed() < Duration::from_secs(1), "the session went on for {:?}", start.elapsed());
    runner.failed_with(mark, SECONDS, "certificate_revoked").await?;
    runner.kill_all_but_jobs().await?;
    runner.launch_again()?;
    runner.failed_with(Mark::default(), SECONDS, "certificate_revoked").await?;
    let known = control_plane.certificates(&runner.id).await?;
    ensure!(known.len() >= 2 && known.iter().all(|c| c.revoked), "{known:?}");
    Ok(())
}

async fn expired() -> Result<()> {
    let control_plane = short().await?;
    let mut runner = Runner::start(&control_plane, "runner-1").await?;
    runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    runner.kill_all_but_jobs().await?;
    passed(renewed(&runner)?[0].not_after).await;
    runner.launch_again()?;
    let failed = runner.failed_with(Mark::default(), SECONDS, "certificate_expired").await?;
    ensure!(failed["next_step"].as_str().is_some_and(|s| s.contains("generate-credentials")), "{failed}");
    ensure!(failed["detail"].as_str().is_some_and(|s| s.contains("this machine's clock says")), "{failed}");
    // and what it was told helps, while it runs
    let file = control_plane.admin().credentials(&runner.id).await?;
    file.write(&runner.folder().join("credentials.json"))?;
    let mark = runner.mark();
    runner.process().signal(Signal::SIGHUP)?;
    runner.session(mark, SECONDS).await?;
    Ok(())
}

/// A control plane that was restored from a back-up does not know what was renewed since.
async fn forgotten() -> Result<()> {
    let mut control_plane = ControlPlane::with_arguments(&["--certificate-seconds", "60"]).await?;
    let runner = Runner::start(&control_plane, "runner-1").await?;
    control_plane.stop().await?;
    let database = control_plane.data().join("control-plane.db");
    let backup = std::fs::read(&database)?;
    control_plane.start_again().await?;
    runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    let mark = runner.mark();
    control_plane.stop().await?;
    for left in ["control-plane.db-wal", "control-plane.db-shm"] {
        let _ = std::fs::remove_file(control_plane.data().join(left));
    }
    std::fs::write(&database, backup)?;
    control_plane.start_again().await?;
    let refused = "the renewed certificate was refused, the credentials file's is tried";
    runner.message(mark, SECONDS, refused).await?;
    runner.session(mark, SECONDS).await?;
    ensure!(shown(control_plane.admin(), &runner).await?["serial"].is_string());
    Ok(())
}

async fn rotation() -> Result<()> {
    let control_plane = ControlPlane::with_arguments(&["--certificate-seconds", "30"]).await?;
    let user = control_plane.admin();
    let ctl = Ctl::new(&control_plane, user)?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let runner = Setup::new()?.tunnel_through(&wire).execution_through(&wire).start(user, "runner-1").await?;
    let before = of_file(&runner.folder().join("credentials.json"))?;
    let rotated = ctl.json(&["ca", "rotate"]).await?;
    let (now, old) = (rotated["items"][0]["serial"].clone(), rotated["items"][1]["serial"].clone());
    ensure!(old == json!(before[1].serial) && now != old, "{rotated}");
    ensure!(
        rotated["items"][0]["retired_at_ms"].is_null() && rotated["items"][1]["retired_at_ms"].is_i64(),
        "{rotated}"
    );

    // what the one before has issued opens sessions
    let mark = runner.mark();
    wire.set(Wire::Reset);
    runner.message(mark, SECONDS, "session ended").await?;
    wire.set(Wire::Pass);
    runner.session(mark, SECONDS).await?;
    let (_, status) = runner.status().await?;
    ensure!(status["certificate"]["serial"] == json!(before[0].serial), "it was renewed too early to show anything");
    // and it is renewed under the new one, which new credentials are of as well
    runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    ensure!(json!(renewed(&runner)?[1].serial) == now);
    let mark = runner.mark();
    wire.set(Wire::Reset);
    runner.message(mark, SECONDS, "session ended").await?;
    wire.set(Wire::Pass);
    runner.session(mark, SECONDS).await?;
    let second = Runner::start(&control_plane, "runner-2").await?;
    ensure!(json!(of_file(&second.folder().join("credentials.json"))?[1].serial) == now);
    let list = ctl.text(&["ca", "list"]).await?;
    ensure!(list.contains("issues") && list.contains("retired"), "{list}");
    Ok(())
}

async fn read_only() -> Result<()> {
    let control_plane = short().await?;
    let user = control_plane.admin();
    let id = user.register("runner-1").await?;
    let mounted = Scratch::new("mounted")?;
    let file = mounted.join("credentials.json");
    user.credentials(&id).await?.write(&file)?;
    let before = std::fs::read(&file)?;
    let folder = mounted.path().display().to_string();
    let script =
        "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && ! touch \"$0/x\" 2>/dev/null && exec \"$@\"";
    let mut instances = Vec::new();
    for _ in 0..2 {
        let setup = Setup::new()?.setting(&format!("credentials = {:?}", file.display().to_string())).under([
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            &folder,
        ]);
        let runner = setup.launch_as_it_is(&id)?;
        runner.session(Mark::default(), SECONDS).await?;
        instances.push(runner);
    }
    for runner in &instances {
        runner.message(Mark::default(), SECONDS, "certificate renewed").await?;
    }
    let serials = [&instances[0], &instances[1]].map(|r| renewed(r).map(|c| c[0].serial.clone()));
    let [Ok(first), Ok(second)] = serials else { anyhow::bail!("not renewed") };
    ensure!(first != second && std::fs::read(&file)? == before);
    eventually(SECONDS, "both instances' certificates to be shown", || async {
        let shown = user.get(&format!("/runners/{id}")).await?;
        let of_both =
            shown["instances"].as_array().context("a list")?.iter().all(|i| i["certificate"]["renewed"] == true);
        Ok(of_both.then_some(()))
    })
    .await
}
