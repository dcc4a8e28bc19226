//! Commands in containers: against kwok, and against a container of our own for what kwok does not pass on.

use anyhow::{Result, ensure};
use runner_tests::{Component, Suite};
use sha2::{Digest as _, Sha256};
use shared_proto::frame::Kind;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{K8sExec, KubernetesTarget, TerminalSize};

use crate::container::Container;
use crate::harness::{Worker, operation, request};
use crate::kubernetes::{admin, the_cluster};

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[Component::Cluster])
        .test("exec_gives_output_and_keeps_the_streams_apart", exec)
        .test("exec_echoes_more_than_any_buffer_holds", exec_echo)
        .test("exec_has_a_terminal", exec_terminal)
        .test("a_command_that_cannot_start_is_refused", exec_missing)
        .needs(&[])
        .test("exec_gives_the_remote_exit_code", exec_code)
        .test("exec_passes_the_end_of_input_on", exec_end_of_input)
        .test("exec_with_an_old_api_server_ends_with_its_input", exec_old)
}

fn command(words: &[&str]) -> K8sExec {
    K8sExec {
        namespace: "seen".into(),
        pod: "web-1".into(),
        container: "app".into(),
        command: words.iter().map(|w| (*w).to_owned()).collect(),
        ..Default::default()
    }
}

async fn exec() -> Result<()> {
    let cluster = the_cluster().await?;
    let run = |request: K8sExec| operation(What::K8sExec(request), admin(cluster));
    let given = run(command(&["sh", "-c", "echo out; echo 'err & more' >&2"])).await?;
    ensure!(given.outcome.code == "ok" && given.outcome.exit_code == 0, "{:?}", given.outcome);
    ensure!(given.data == b"out\n" && given.stderr == b"err & more\n", "{given:?}");
    let given = run(command(&["true"])).await?;
    ensure!(given.outcome.code == "ok" && given.outcome.exit_code == 0 && given.data.is_empty(), "{given:?}");
    run(command(&[])).await?.failed("invalid_argument", "no command")?;
    run(K8sExec { container: String::new(), ..command(&["true"]) }).await?.failed("invalid_argument", "app, side")?;
    Ok(())
}

async fn exec_echo() -> Result<()> {
    let cluster = the_cluster().await?;
    let exec = K8sExec { stdin: true, ..command(&["head", "-c", &(400 * Kind::Data.limit()).to_string()]) };
    let worker = Worker::operation(&request(What::K8sExec(exec), admin(cluster))).await?;
    echo(worker).await
}

/// Feeds 25 MiB in and sees them come back, both at once.
async fn echo(worker: Worker) -> Result<()> {
    let piece: Vec<u8> = (0..Kind::Data.limit()).map(|n| (n * 7 + n / 251) as u8).collect();
    let pieces = 400;
    let mut expected = Sha256::new();
    for _ in 0..pieces {
        expected.update(&piece);
    }
    let (given, _) = worker.feed(move |n| (n < pieces).then(|| piece.clone())).await?;
    ensure!(given.outcome.code == "ok" && given.outcome.exit_code == 0, "{:?}", given.outcome);
    ensure!(Sha256::digest(&given.data) == expected.finalize(), "{} bytes came back", given.data.len());
    Ok(())
}

async fn exec_terminal() -> Result<()> {
    let cluster = the_cluster().await?;
    let size = Some(TerminalSize { columns: 101, rows: 37 });
    // the size travels beside the input, and kwok drops what a command says as it ends: each step is waited for
    let script = r#"waits() { until [ "$(stty size)" = "$1" ]; do sleep 0.05; done; echo "is $1"; read x; }
waits "37 101"; waits "20 90""#;
    let exec = K8sExec { stdin: true, tty: true, size, ..command(&["sh", "-c", script]) };
    let mut worker = Worker::operation(&request(What::K8sExec(exec), admin(cluster))).await?;
    for (expected, next) in [("is 37 101", Some((90, 20))), ("is 20 90", None)] {
        let mut text = String::new();
        while !text.contains(expected) {
            text.push_str(&String::from_utf8_lossy(&worker.at_least(1).await?));
        }
        if let Some((columns, rows)) = next {
            let resized = prost::Message::encode_to_vec(&TerminalSize { columns, rows });
            worker.send(Kind::Resize, &resized).await?;
        }
        worker.send(Kind::Data, b"\n").await?;
    }
    let given = worker.rest().await?;
    ensure!(given.outcome.code == "ok" && given.stderr.is_empty(), "{given:?}");
    Ok(())
}

async fn exec_missing() -> Result<()> {
    let cluster = the_cluster().await?;
    let given = operation(What::K8sExec(command(&["no-such-program"])), admin(cluster)).await?;
    given.failed("target_refused", "no-such-program")
}

fn plain(container: &Container) -> Target {
    Target::Kubernetes(KubernetesTarget { server: container.url.clone(), ..Default::default() })
}

async fn exec_code() -> Result<()> {
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let container = Container::start(protocol).await?;
        let what = What::K8sExec(command(&["sh", "-c", "echo out; echo 'err & more' >&2; exit 7"]));
        let given = operation(what, plain(&container)).await?;
        ensure!(given.outcome.code == "ok" && given.outcome.exit_code == 7, "{:?}", given.outcome);
        ensure!(given.data == b"out\n" && given.stderr == b"err & more\n", "{given:?}");
    }
    let container = Container::start("v1.other").await?;
    operation(What::K8sExec(command(&["true"])), plain(&container))
        .await?
        .failed("target_failed", "no version of the exec protocol")
}

async fn exec_end_of_input() -> Result<()> {
    let container = Container::start("v5.channel.k8s.io").await?;
    let exec = K8sExec { stdin: true, ..command(&["cat"]) };
    echo(Worker::operation(&request(What::K8sExec(exec), plain(&container))).await?).await
}

async fn exec_old() -> Result<()> {
    let container = Container::start("v4.channel.k8s.io").await?;
    let exec = K8sExec { stdin: true, ..command(&["cat"]) };
    let worker = Worker::operation(&request(What::K8sExec(exec), plain(&container))).await?;
    let (given, _) = worker.feed(|_| None).await?;
    given.failed("target_lost", "without telling how the command ended")
}
