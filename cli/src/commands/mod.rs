//! The commands, one file a group. Each asks the control plane, shows what it answers and says how it ended; none knows the
//! inside of another.

mod applying;
pub(crate) mod aws;
mod aws_proxy;
pub(crate) mod ca;
pub(crate) mod connection;
pub(crate) mod deploy;
pub(crate) mod drift;
pub(crate) mod follow;
pub(crate) mod job;
pub(crate) mod k8s;
pub(crate) mod kube_token;
pub(crate) mod kubeconfig;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod notification;
pub(crate) mod operation;
pub(crate) mod organization;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod resources;
pub(crate) mod rules;
pub(crate) mod runner;
pub(crate) mod schedule;
pub(crate) mod seal;
pub(crate) mod source;
pub(crate) mod stack;
pub(crate) mod state;
pub(crate) mod variables;
pub(crate) mod webhook;

use crate::args::{Arguments, Command, Global};
use crate::client::Client;
use crate::config::{self, ConfigFile};
use crate::interrupt::Interrupt;
use crate::output::{Format, Output, progress};
use crate::stop::Done;
use clap::CommandFactory as _;
use shared_proto::failure::{Code, Failure};
use std::future::Future;

/// What a command needs.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// To the control plane.
    pub(crate) client: Client,
    /// To the user.
    pub(crate) output: Output,
    /// `--runner`
    pub(crate) runner: Option<String>,
    /// Ctrl-C
    pub(crate) interrupt: Interrupt,
}

// === impl Session ===

impl Session {
    /// For the context that flags, environment and the saved configuration name.
    fn open(global: &Global, interrupt: &Interrupt) -> Done<Self> {
        Ok(Self {
            client: Client::new(&context(global)?)?,
            output: Output::new(global.output),
            runner: global.runner.clone(),
            interrupt: interrupt.clone(),
        })
    }
    /// Waits for an answer with a spinner; Ctrl-C drops the request, and the operation with it.
    pub(crate) async fn wait<T>(&self, what: &str, work: impl Future<Output = Result<T, Failure>>) -> Done<T> {
        let spinner = progress::spinner(what);
        let note = format!("{what}: cancelled; nothing goes on");
        let done = self.interrupt.guard(&note, async { Ok(work.await?) }).await;
        spinner.finish_and_clear();
        done
    }
    /// The query of an operation: its own part and the runner.
    pub(crate) fn query<'a>(
        &'a self,
        own: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Vec<(&'a str, &'a str)> {
        own.into_iter()
            .chain([("runner", self.runner.as_deref())])
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect()
    }
}

/// The control plane and the user that flags, environment and the saved configuration name.
fn context(global: &Global) -> Done<config::Context> {
    // without a home there is no saved configuration, and the environment may say all
    let file = match ConfigFile::path() {
        Ok(path) => ConfigFile::load(&path)?,
        Err(_) => ConfigFile::default(),
    };
    config::resolve(&file, &global.overrides())
}

/// Runs the command.
///
/// # Errors
/// How it stopped.
pub(crate) async fn run(arguments: Arguments) -> Done {
    let Arguments { global, command } = arguments;
    let runs_a_program = matches!(&command, Command::Aws(command) if command.runs_a_program());
    let interrupt = if runs_a_program { Interrupt::deaf() } else { Interrupt::listen() };
    let output = Output::new(global.output);
    let session = || Session::open(&global, &interrupt);
    let has_names = matches!(&command, Command::K8s(command) if command.has_names());
    if global.output == Format::Name && !has_names {
        return Err(Code::InvalidArgument
            .on("this command does not print names alone")
            .next("Take -o table, json or yaml; `k8s get` prints names.")
            .into());
    }
    match command {
        Command::Login(command) => login::login(command, &global, &interrupt).await,
        Command::Context(command) => login::context(command, output),
        Command::Whoami => login::whoami(&session()?).await,
        Command::Ca(command) => ca::run(command, &session()?).await,
        Command::Organization(command) => organization::organization(command, &session()?).await,
        Command::User(command) => organization::user(command, &session()?).await,
        Command::Runner(command) => runner::run(command, &session()?).await,
        Command::Connection(command) => connection::run(command, &session()?).await,
        Command::K8s(command) => k8s::run(command, session).await,
        Command::Kubeconfig(command) => kubeconfig::run(command, &global, &context(&global)?, &session()?).await,
        Command::KubeToken(command) => kube_token::run(command, &context(&global)?).await,
        Command::Aws(command) => aws::run(command, &session()?).await,
        Command::Resources(command) => resources::run(command, &session()?).await,
        Command::Logs(command) => logs::run(command, &session()?).await,
        Command::Stack(command) => stack::run(command, &session()?).await,
        Command::Deploy(command) => deploy::run(command, &session()?).await,
        Command::Schedule(command) => schedule::run(command, &session()?).await,
        Command::Drift(command) => drift::run(command, &session()?).await,
        Command::Webhook(command) => webhook::run(command, &context(&global)?.endpoint, &session()?).await,
        Command::Notification(command) => notification::run(command, &session()?).await,
        Command::Rules(command) => rules::run(command, &session()?).await,
        Command::Variables(command) => variables::run(command, &session()?).await,
        Command::State(command) => state::run(command, &session()?).await,
        Command::Job(command) => job::run(command, &session()?).await,
        Command::Plan(command) => plan::run(command, &session()?).await,
        Command::Operation(command) => operation::run(command, &session()?).await,
        Command::Demo(command) => crate::demo::run(command, interrupt).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "runnerctl", &mut script);
            script.extend_from_slice(k8s::complete::appended(shell).as_bytes());
            // a script is read by a shell, not by a terminal
            Output { terminal: false, ..output }.text(&String::from_utf8_lossy(&script))
        }
        Command::Complete { words } => k8s::complete::run(&words, &global, &interrupt).await,
        Command::Version => output.document(&serde_json::json!({ "version": shared_proto::VERSION }), |_| {
            format!("runnerctl {}\n", shared_proto::VERSION)
        }),
    }
}
