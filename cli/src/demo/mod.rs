//! `runnerctl demo`: the whole of it on one machine, in a temporary folder, in under a minute. It starts the real programs, uses
//! the API as a user would, and leaves nothing behind: neither files nor processes, on any way out.

mod engine;
mod narrate;
mod programs;
mod proxy;
mod scene;
mod standin;
mod standin_exec;

use crate::interrupt::Interrupt;
use crate::stop::{self, Done, Stop};
use narrate::Narrator;
use programs::Programs;
use scene::Scene;
use serde_json::json;
use shared_proto::failure::{Code, Failure};
use std::path::PathBuf;

/// Lines of each log that a failure shows.
const TAIL: usize = 15;

/// `demo`
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// The Kubernetes cluster to use; without it a small stand-in cluster inside the demo
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; its current one by default
    #[arg(long = "kube-context", value_name = "NAME", requires = "kubeconfig")]
    kube_context: Option<String>,
    /// End after the steps, instead of staying until Ctrl-C
    #[arg(long)]
    once: bool,
    /// One JSON object a step, for scripts
    #[arg(long)]
    json: bool,
}

/// `demo`
pub(crate) async fn run(command: Demo, interrupt: Interrupt) -> Done {
    let folder =
        tempfile::Builder::new().prefix("runner-demo-").tempdir().map_err(|e| stop::file(&std::env::temp_dir(), &e))?;
    Programs::adopt_orphans()?;
    let path = folder.path().to_owned();
    Interrupt::at_last(move || {
        programs::kill_descendants();
        let _ = std::fs::remove_dir_all(path);
    });
    let mut programs = Programs::default();
    let mut narrator = Narrator::new(command.json);
    let done = tokio::select! {
        biased;
        () = interrupt.requested() => Err(Stop::Interrupted("the demonstration was stopped".into())),
        done = play(&command, folder.path(), &mut programs, &mut narrator) => done,
    };
    // what a failure looked like, before what shows it is gone
    if let Err(Stop::Failure(failure)) = &done {
        narrator.failed(&failure.message);
        eprint!("{}", programs.tails(TAIL));
    }
    let done = match done {
        Ok(scene) => {
            if !command.once {
                narrator.say("\nStays until Ctrl-C.");
                interrupt.requested().await;
            }
            drop(scene);
            Ok(())
        }
        Err(stop) => Err(stop),
    };
    narrator.say("\nEnding the programs, removing the folder …");
    programs.stop().await;
    let removed = folder.close().map_err(|e| stop::file(&std::env::temp_dir(), &e));
    narrator.finish("ended", json!({ "folder_removed": removed.is_ok() }));
    done?;
    Ok(removed?)
}

/// All the steps; gives what must live on while somebody tries it.
async fn play(
    command: &Demo,
    folder: &std::path::Path,
    programs: &mut Programs,
    narrator: &mut Narrator,
) -> Done<Scene> {
    narrator.say("Runner, demonstrated: a control plane and a runner on this machine, joined by a tunnel that the runner dials.\n");
    let mut scene =
        Scene::set(command.kubeconfig.clone(), command.kube_context.clone(), folder, programs, narrator).await?;
    let steps: Result<(), Failure> = async {
        scene.kubernetes(narrator).await?;
        scene.deploy(narrator).await?;
        scene.cut(narrator).await
    }
    .await;
    match steps {
        Ok(()) => {}
        Err(failure) => {
            // a program that is gone explains more than what it could not do any more
            let gone = programs.ended().map(|name| format!("{name} ended; {}", failure.message));
            let message = gone.unwrap_or_else(|| failure.message.clone());
            return Err(Failure { message, ..failure }.into());
        }
    }
    if narrator.elapsed() > 90.0 {
        return Err(Code::DeadlineExceeded.on(format!("the steps took {:.0} s", narrator.elapsed())).into());
    }
    scene.invite(narrator);
    Ok(scene)
}
