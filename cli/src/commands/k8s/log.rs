//! `k8s logs`: one pod's as it is, followed over cuts of the connection; those of many pods are in `many_logs`.

use super::api::Api;
use super::log_lines::Lines;
use super::watch::is_passing;
use super::words::Name;
use super::{PODS, PodName, many_logs, write};
use crate::args::seconds;
use crate::client::job_events::{BACKOFF, PATIENCE};
use crate::commands::{Session, outcome};
use crate::output::{escape::Filter, streams};
use crate::stop::{self, Done};
use http_body_util::BodyExt as _;
use shared_proto::failure::{Code, Failure};
use std::time::Instant;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

/// `k8s logs`
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  runnerctl k8s logs web-1 -f\n  runnerctl k8s logs deployment/web -f\n  runnerctl k8s logs -l app=web --tail 100\n  \
                        runnerctl k8s logs 'web-*' -c app\n\nOf several pods: all their containers unless -c names one, each line after \
                        [POD/CONTAINER], the last 10 lines of each unless --tail or --since says otherwise; with -f pods that come later too. A line \
                        of more than a mebibyte comes as several there."
)]
pub(super) struct Logs {
    /// The pod, also as pod/NAME; or several: deployment/NAME, service/NAME, the beginning of names with a star
    #[arg(required_unless_present = "labels")]
    pub(super) pod: Option<String>,
    /// Its namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// Of the pods with these labels, such as app=web
    #[arg(short = 'l', long = "selector", value_name = "SELECTOR", conflicts_with = "pod")]
    pub(super) labels: Option<String>,
    /// The container; may be left out where there is one only
    #[arg(short, long)]
    pub(super) container: Option<String>,
    /// Of all containers, each line with its container's name
    #[arg(long, conflicts_with = "container")]
    pub(super) all_containers: bool,
    /// Go on with what is logged from now on
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Of the container's previous run
    #[arg(short, long)]
    pub(super) previous: bool,
    /// Not older than this: 30s, 5m, 1h
    #[arg(long, value_parser = seconds, allow_hyphen_values = true, value_name = "DURATION")]
    pub(super) since: Option<u64>,
    /// Not older than that moment, in RFC 3339: 2026-01-02T15:04:05Z
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub(super) since_time: Option<String>,
    /// Only the last lines; -1 for all
    #[arg(long, value_parser = lines, allow_negative_numbers = true, value_name = "LINES")]
    pub(super) tail: Option<Tail>,
    /// At most so many bytes
    #[arg(long, allow_negative_numbers = true, value_name = "BYTES")]
    pub(super) limit_bytes: Option<u64>,
    /// Each line with its time
    #[arg(long)]
    pub(super) timestamps: bool,
    /// End where the connection is lost (connection_lost) instead of going on after the last line once it is back
    #[arg(long, requires = "follow")]
    pub(super) no_resume: bool,
    /// Of several pods: containers that are followed at once; more wait
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(super) max_streams: u16,
}

/// How much of a log's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// As kubectl has it: -1.
    All,
    /// So many lines.
    Lines(u32),
}

/// A number of lines, -1 for all of them.
fn lines(text: &str) -> Result<Tail, String> {
    match text {
        "-1" => Ok(Tail::All),
        _ => text.parse().map(Tail::Lines).map_err(|_| "it is neither a number of lines nor -1 for all".to_owned()),
    }
}

/// `k8s logs`
pub(super) async fn run(command: Logs, named: Option<&str>, session: &Session) -> Done {
    let note = "the log is no longer followed; nothing goes on";
    let following = async {
        let api = Api::of(session, named).await?;
        match command.one()? {
            Some(pod) => {
                let mut log = Log::new(&command, pod, command.container.as_deref(), Out::standard(session)?);
                log.read_all(&command, &api, session).await
            }
            None => many_logs::run(command, &api, session).await,
        }
    };
    session.interrupt.guard(note, following).await
}

// === impl Logs ===

impl Logs {
    /// The one pod that is meant; none where it may be several.
    pub(super) fn one(&self) -> Result<Option<PodName>, Failure> {
        let Some(text) = &self.pod else { return Ok(None) };
        let name = match text.split_once('/') {
            None => text,
            Some((kind, name)) if PODS.contains(&kind) && !name.is_empty() && !name.contains('/') => name,
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => return Ok(None),
            Some(_) => return Err(Code::InvalidArgument.on(format!("{text:?} is neither a pod's name nor KIND/NAME"))),
        };
        Ok(match Name::read(name) {
            Name::Whole(name) => Some(PodName { pod: name.to_owned(), namespace: self.namespace.clone() }),
            Name::Beginning(_) => None,
        })
    }
}

/// Where a log begins.
#[derive(Debug)]
enum From {
    /// Where the user says.
    Asked,
    /// So many seconds ago.
    Since(u64),
    /// At that time.
    Time(String),
}

/// Where a log's bytes go.
#[derive(Debug)]
pub(super) enum Out {
    /// To standard output, with nothing else.
    Standard {
        /// It.
        stdout: tokio::fs::File,
        /// Makes them harmless for a terminal.
        filter: Option<Filter>,
    },
    /// To whoever writes the lines of several.
    Shared(mpsc::Sender<Vec<u8>>),
}

/// A log that is read.
#[derive(Debug)]
pub(super) struct Log<'a> {
    pod: PodName,
    container: Option<&'a str>,
    /// It is followed, and goes on after a cut.
    lines: Option<Lines>,
    out: Out,
    /// Streams whose head has come.
    opened: u32,
}

// === impl Out ===

impl Out {
    fn standard(session: &Session) -> Result<Self, Failure> {
        let filter = session.output.terminal.then(|| Filter::new(session.output.colour));
        Ok(Self::Standard { stdout: streams::stdout()?, filter })
    }
    async fn write(&mut self, data: Vec<u8>) -> Done {
        match self {
            Self::Standard { stdout, filter } => write(stdout, filter.as_mut(), &data).await,
            Self::Shared(lines) => lines.send(data).await.map_err(|_| stop::Stop::ReaderGone),
        }
    }
    async fn finish(&mut self) -> Done {
        if let Self::Standard { stdout, filter } = self {
            if let Some(filter) = filter {
                stdout.write_all(&filter.finish()).await.map_err(stop::stdout)?;
            }
            stdout.flush().await.map_err(stop::stdout)?;
        }
        Ok(())
    }
}

// === impl Log ===

impl<'a> Log<'a> {
    /// Of a pod, and of one of its containers where that is named.
    pub(super) fn new(command: &Logs, pod: PodName, container: Option<&'a str>, out: Out) -> Self {
        // so many bytes of it would have to be counted over all connections
        let resumes = command.follow && !command.no_resume && command.limit_bytes.is_none();
        let prefixed = command.all_containers && container.is_none();
        let lines = resumes.then(|| Lines::new(prefixed, command.timestamps));
        Self { pod, container, lines, out, opened: 0 }
    }

    /// All of it, and once more from where it was cut as long as it is followed.
    pub(super) async fn read_all(&mut self, command: &Logs, api: &Api, session: &Session) -> Done {
        let start = Instant::now();
        let mut from = From::Asked;
        let (mut backoff, mut cut_since) = (BACKOFF.0, None);
        loop {
            let opened = self.opened;
            let ended = self.read(command, api, session, &from).await;
            let failure = match &ended {
                Err(stop) => stop.failure().filter(|failure| is_passing(failure)),
                Ok(()) => None,
            };
            let (Some(failure), Some(lines), 1..) = (failure, &mut self.lines, self.opened) else { return ended };
            if self.opened > opened {
                (backoff, cut_since) = (BACKOFF.0, None);
                if matches!(self.out, Out::Standard { .. }) {
                    crate::output::remark(&format!("{}: the log goes on after its last line", failure.message));
                } else {
                    many_logs::say_once(&failure.message);
                }
            }
            if cut_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return ended;
            }
            from = match lines.resume() {
                Some(time) => From::Time(time),
                // nothing came yet of what is new since then
                None if command.tail == Some(Tail::Lines(0)) => From::Since(start.elapsed().as_secs() + 1),
                None => From::Asked,
            };
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// One stream of it, to its end.
    async fn read(&mut self, command: &Logs, api: &Api, session: &Session, from: &From) -> Done {
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let tail = match command.tail {
            Some(Tail::Lines(lines)) => Some(lines.into()),
            Some(Tail::All) | None => None,
        };
        let (tail, since, time) = match from {
            From::Asked => (number(tail), number(command.since), command.since_time.clone()),
            From::Since(seconds) => (None, Some(seconds.to_string()), None),
            From::Time(time) => (None, None, Some(time.clone())),
        };
        let limit = number(command.limit_bytes);
        let flag = |on: bool| on.then_some("true");
        let query = session.query([
            ("container", self.container),
            ("all_containers", flag(command.all_containers && self.container.is_none())),
            ("follow", flag(command.follow)),
            ("previous", flag(command.previous)),
            ("timestamps", flag(command.timestamps || self.lines.is_some())),
            ("tail", tail.as_deref()),
            ("since_seconds", since.as_deref()),
            ("since_time", time.as_deref()),
            ("limit_bytes", limit.as_deref()),
        ]);
        let at = self.pod.path(&api.connection, Some("logs"), &query);
        let mut body = api.client.stream(&at, &[("accept", "text/plain")]).await?.into_body();
        self.opened += 1;
        let mut ended = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                Code::ConnectionLost.on("the connection to the control plane was cut before the log's end")
            })?;
            match frame.into_data() {
                Ok(data) => {
                    let data = self.lines.as_mut().map_or_else(|| data.to_vec(), |lines| lines.add(&data));
                    if !data.is_empty() {
                        self.out.write(data).await?;
                    }
                }
                Err(other) => {
                    if let Ok(trailers) = other.into_trailers() {
                        ended = trailers.get("runner-outcome").map(|v| outcome::read(v.as_bytes()));
                    }
                }
            }
        }
        let ended = ended.unwrap_or_else(|| Err(outcome::missing())).map_err(choose_container);
        // what the next stream brings again is not written twice
        if self.lines.is_none() || !ended.as_ref().is_err_and(is_passing) {
            let rest = self.lines.as_mut().map(Lines::rest).unwrap_or_default();
            self.out.write(rest).await?;
            self.out.finish().await?;
        }
        Ok(ended.map(|_| ())?)
    }
}

fn choose_container(failure: Failure) -> Failure {
    if failure.code == Code::InvalidArgument && failure.message.contains("container") {
        failure.next("Name one with -c, or take --all-containers.")
    } else {
        failure
    }
}
