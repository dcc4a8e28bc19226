//! The command line's grammar: what may be typed. What it does is in `commands`.

use crate::commands::{
    aws, ca, connection, deploy, drift, job, k8s, kube_token, kubeconfig, login, logs, notification, operation,
    organization, plan, resources, rules, runner, schedule, stack, state, variables, webhook,
};
use crate::config::Overrides;
use crate::output::Format;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Kubernetes, AWS and infrastructure deployments in networks that only dial out.
#[derive(Debug, Parser)]
#[command(
    name = "runnerctl",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 64 usage, 66 no such thing, 69 unavailable, 70 software, 75 try again (and: a job awaits \
                  approval), 77 denied, 78 configuration, 130 interrupted, 2 changes (with --exit-code); `k8s exec`, `aws --` and `aws shell`: the \
                  command's own, 125 for failures of runnerctl."
)]
pub(crate) struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The saved context to use
    #[arg(long, global = true, env = "RUNNERCTL_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The control plane's API: https://HOST:PORT
    #[arg(long, global = true, env = "RUNNERCTL_ENDPOINT", value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// The control plane's CA, PEM (its ca.pem); `login` saves it
    #[arg(long, visible_alias = "ca", global = true, env = "RUNNERCTL_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A file with the user's token
    #[arg(long, global = true, env = "RUNNERCTL_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The runner to use, instead of the connection's or the organization's default
    #[arg(long, global = true, env = "RUNNERCTL_RUNNER", value_name = "NAME")]
    pub(crate) runner: Option<String>,
    /// How results are printed
    #[arg(short, long, global = true, env = "RUNNERCTL_OUTPUT", value_enum, default_value = "table")]
    pub(crate) output: Format,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Save where the control plane is and who you are to it
    Login(login::Login),
    /// Choose among saved contexts
    #[command(subcommand)]
    Context(login::ContextCommand),
    /// Who you are, and to which control plane
    Whoami,
    /// Organizations
    #[command(subcommand, visible_alias = "org")]
    Organization(organization::OrganizationCommand),
    /// Users of an organization
    #[command(subcommand)]
    User(organization::UserCommand),
    /// Issuing CAs of an organization
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Runners: register them, give them credentials, look at them
    #[command(subcommand)]
    Runner(runner::RunnerCommand),
    /// Connections: named targets behind a runner
    #[command(subcommand)]
    Connection(connection::ConnectionCommand),
    /// Kubernetes through a runner
    K8s(k8s::K8s),
    /// Contexts for kubectl, helm and other clients of Kubernetes, through a runner
    Kubeconfig(kubeconfig::Kubeconfig),
    /// The token of such a context: what kubectl runs
    #[command(hide = true)]
    KubeToken(kube_token::KubeToken),
    /// AWS' own clients through a runner
    Aws(aws::Aws),
    /// Resources of clusters and cloud accounts, of all connections at once
    #[command(subcommand)]
    Resources(resources::ResourcesCommand),
    /// Logs of cloud accounts; those of pods are in `k8s logs`
    #[command(subcommand)]
    Logs(logs::LogsCommand),
    /// Stacks: named pieces of infrastructure
    #[command(subcommand)]
    Stack(stack::StackCommand),
    /// Sets of variables that several stacks share
    #[command(subcommand)]
    Variables(variables::VariablesCommand),
    /// Deploy a folder, a Git repository or a package: create or update its stack, start a job, follow it
    Deploy(deploy::Deploy),
    /// A stack's state: its resources, outputs and lock
    #[command(subcommand)]
    State(state::StateCommand),
    /// Schedules: jobs that a stack has made by itself
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Drift: what others have changed of what stacks manage
    Drift(drift::Drift),
    /// Webhooks: jobs and previews by what Git hosts tell
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Notifications: who is told of drift and of jobs
    #[command(subcommand)]
    Notification(notification::NotificationCommand),
    /// Rules for plans: what a plan must not do, and what others have to approve
    #[command(subcommand)]
    Rules(rules::RulesCommand),
    /// Jobs: runs of a stack
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Plans of jobs: read, compared, rendered for a pull request
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Operations: what is asked of runners right now, and lately
    #[command(subcommand)]
    Operation(operation::OperationCommand),
    /// A demonstration of all of it on this machine, which leaves nothing behind
    Demo(crate::demo::Demo),
    /// The completion script of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// What a shell offers after these words: what the completion scripts run
    #[command(hide = true)]
    Complete {
        /// The words after the program's name, up to the one that is being typed
        #[arg(last = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// The version
    Version,
}

// === impl Global ===

impl Global {
    /// What goes over the saved context.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            context: self.context.clone(),
            endpoint: self.endpoint.clone(),
            ca_file: self.ca_file.clone(),
            token_file: self.token_file.clone(),
        }
    }
}

/// `k=v`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not NAME=VALUE".to_owned()),
    }
}

/// `k=v`, or `k` alone, as it is sent.
pub(crate) fn tag(text: &str) -> Result<String, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("it is neither KEY=VALUE nor KEY".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Seconds from `90`, `90s`, `5m`, `1h30m`, `2d`.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a duration such as 30s, 5m, 1h30m or 2d");
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let (mut total, mut number) = (0_u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let count: u64 = std::mem::take(&mut number).parse().map_err(|_| wrong())?;
        total = count.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
    }
    if number.is_empty() && !text.is_empty() { Ok(total) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_people_type() {
        for line in [
            "login https://localhost:1 --ca ca.pem --token-file t",
            "whoami -o json",
            "org list",
            "user create anna --role member",
            "ca list",
            "ca rotate --organization o",
            "runner generate-credentials r1 --out f --days 30",
            "runner set-default r1",
            "connection create c --provider kubernetes --runner r --entry e",
            "k8s -C c pods -n demo -l app=web --field-selector status.phase=Running -o wide",
            "k8s pods -A",
            "k8s logs web -f -p -c main --since 5m --tail 10 --timestamps -n demo",
            "k8s logs web --all-containers",
            "k8s exec -it web -c main -- sh -c 'echo hi'",
            "resources list --type AWS::S3::Bucket --region eu-central-1 --tag a=b --tag c",
            "resources search web --all-regions -C a -C b --provider aws",
            "resources get -C account --type AWS::S3::Bucket name",
            "resources types --provider kubernetes",
            "logs list -C account /aws/lambda/x --prefix 2026",
            "logs read -C account /aws/lambda/x -f --since 5m --stream a --filter ERROR",
            "connection whoami account --place eu-west-1",
            "connection places account",
            "aws -C c -- s3 ls --recursive s3://b",
            "aws --region eu-west-1 -- aws sts get-caller-identity --output json",
            "aws shell",
            "aws shell -C c -- tofu init",
            "stack create s --git https://example.org/x.git --ref main --engine terraform",
            "deploy . --name n --engine opentofu --var a=b --var-file v.json --auto-approve --connection c --runner r --kind destroy",
            "deploy --git https://example.org/x.git --ref v1 --name n",
            "deploy . --secret password=vault:apps/shop#password --sealed token=f --seal-key abc --variables-set base",
            "stack update s --sealed token --secret a=files:b",
            "stack seal s token --file f --seal-key abc",
            "stack unseal s token",
            "variables set base --var a=b --secret c=v:p",
            "variables remove base a b",
            "variables list",
            "job list --stack s --limit 5",
            "job cancel j --force",
            "job logs j",
            "job watch j --exit-code",
            "deploy . --kind preview --exit-code",
            "plan show shop --exit-code -o json",
            "plan show job_1 --text",
            "plan compare job_2",
            "plan compare job_2 job_1 --exit-code",
            "plan render job_1 --status",
            "schedule set web nightly --cron @daily",
            "schedule set web nightly --cron @daily --kind reconcile --utc-offset -05:30 --jitter 10m --late skip",
            "schedule list",
            "schedule run web nightly --exit-code",
            "drift",
            "drift --exit-code",
            "drift show web -o json",
            "drift check web --exit-code",
            "webhook create github --stack web --branch main --path modules/* --pull-requests trust-own --variable region",
            "webhook deliveries whk_1 --limit 5",
            "notification create chat --url https://hooks.example.com/x --secret-file f --event job_failed --event drift_found",
            "notification notices chat",
            "operation list",
            "completion bash",
            "demo --once --json",
        ] {
            let words = std::iter::once("runnerctl").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "",
            "k8s exec web",
            "deploy",
            "deploy . --git x",
            "k8s logs web --since x",
            "aws resources --tag novalue",
            "aws",
            "aws s3 ls",
            "aws shell tofu init",
            "deploy . --sealed token=",
            "deploy . --secret password",
            "schedule set web nightly",
            "schedule set web nightly --cron @daily --jitter 61m",
            "webhook create svn --stack web",
            "webhook create github",
            "notification create chat",
            "plan",
            "plan compare",
            "pods",
        ] {
            let words = std::iter::once("runnerctl").chain(line.split(' ').filter(|w| !w.is_empty()));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn the_ca_has_two_spellings_everywhere() {
        for line in ["login https://a:1 --ca f", "login https://a:1 --ca-file f", "--ca f whoami", "whoami --ca-file f"]
        {
            let words = std::iter::once("runnerctl").chain(line.split(' '));
            let parsed = Arguments::try_parse_from(words).expect(line);
            assert_eq!(parsed.global.ca_file, Some(PathBuf::from("f")), "{line}");
        }
    }

    #[test]
    fn durations() {
        let good = [("90", 90), ("0s", 0), ("5m", 300), ("1h30m", 5400), ("2d", 172_800)];
        for (text, expected) in good {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "m", "5", "5x", "1h30", "-5s", "5 m", "99999999999999999999d", "1.5h"] {
            assert_eq!(seconds(bad).is_ok(), bad == "5", "{bad}");
        }
    }
}
