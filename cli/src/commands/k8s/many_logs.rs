//! The logs of many pods together: those of a selector, of a deployment, of names that begin so; while they are followed also of pods that
//! come later. Each container has a stream and a place to go on after a cut of its own; one writer puts their lines out.

use super::api::{Api, JSON};
use super::kinds::{Kind, Kinds};
use super::log::{Log, Logs, Out, Tail};
use super::watch::{Change, Watch};
use super::words::{Name, Selectors, find, name_of, objects};
use super::{PODS, PodName, targets};
use crate::commands::Session;
use crate::output::{escape, remark, streams, table};
use crate::stop::{self, Done, Stop};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Lines that wait for the writer, in pieces as they came: a slow reader slows the logs.
const QUEUE: usize = 64;
/// Lines of each container where nobody says how many, as kubectl has it.
const TAIL: u32 = 10;
/// Runs of containers that are remembered, so that none is shown twice; those of pods that are gone are forgotten.
const RUNS_MAX: usize = 20_000;
/// A line that comes in pieces is cut where this many bytes have come without its end.
const HELD_MAX: usize = 1024 * 1024;
/// Of a cut that ends many streams one is told.
const SAID_AGAIN: Duration = Duration::from_secs(5);
/// Colours of names, by SGR: none that is hard to read on black or on white.
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];

/// Which pods.
struct Chosen {
    namespace: String,
    selectors: Selectors,
    beginning: Option<String>,
}

/// One run of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    pod: String,
    uid: String,
    container: String,
    /// How often it was started before.
    restarts: u64,
}

/// What is followed, and what waits.
#[derive(Debug, Default)]
struct Followed {
    seen: HashMap<(String, String), u64>,
    waiting: VecDeque<(Run, bool)>,
    told_of_waiting: bool,
}

/// `k8s logs` of many.
pub(super) async fn run(mut command: Logs, api: &Api, session: &Session) -> Done {
    if command.tail.is_none() && command.since.is_none() && command.since_time.is_none() {
        command.tail = Some(Tail::Lines(TAIL));
    }
    let kinds = Kinds::of(api).await?;
    let chosen = choose(&command, api, &kinds).await?;
    let pods = kinds.one("pods")?.clone();
    let (lines, queue) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(write_lines(queue, session.output.terminal, session.output.colour));
    let done = if command.follow {
        follow(command, &chosen, &pods, api, session, lines).await
    } else {
        once(&command, &chosen, &pods, api, session, lines).await
    };
    match writer.await {
        Ok(written) => done.and(written),
        Err(_) => done,
    }
}

async fn choose(command: &Logs, api: &Api, kinds: &Kinds) -> Result<Chosen, Failure> {
    let namespace = api.namespace(command.namespace.as_deref()).await?;
    let mut chosen =
        Chosen { namespace, selectors: Selectors { labels: command.labels.clone(), fields: None }, beginning: None };
    let Some(word) = &command.pod else { return Ok(chosen) };
    let (kind, name) = word.split_once('/').unwrap_or((PODS[0], word));
    match Name::read(name) {
        Name::Beginning(beginning) if PODS.contains(&kind) => chosen.beginning = Some(beginning.to_owned()),
        _ => {
            let found = find(api, kinds, (kind, name), Some(&chosen.namespace)).await?;
            chosen.selectors.labels = Some(targets::selector(&found)?);
        }
    }
    Ok(chosen)
}

// === impl Chosen ===

impl Chosen {
    fn is_meant(&self, pod: &Value) -> bool {
        self.beginning.as_ref().is_none_or(|beginning| name_of(pod).starts_with(beginning.as_str()))
    }
    fn nothing(&self) -> Failure {
        Code::TargetNotFound.on(format!("no pod in namespace {} is meant by that", self.namespace))
    }
}

/// The containers of a pod that have begun, in the pod's order.
fn runs(pod: &Value, only: Option<&str>) -> Vec<Run> {
    let mut all = Vec::new();
    for (specs, statuses) in [
        ("/spec/initContainers", "/status/initContainerStatuses"),
        ("/spec/containers", "/status/containerStatuses"),
        ("/spec/ephemeralContainers", "/status/ephemeralContainerStatuses"),
    ] {
        let list = |at: &str| pod.pointer(at).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for spec in list(specs) {
            let container = table::text(spec, "/name");
            let Some(status) = list(statuses).iter().find(|s| s["name"] == container.as_str()) else { continue };
            let has_begun = ["/state/running", "/state/terminated", "/lastState/terminated"]
                .into_iter()
                .any(|at| status.pointer(at).is_some_and(Value::is_object));
            if has_begun && only.is_none_or(|only| only == container) {
                all.push(Run {
                    pod: name_of(pod).to_owned(),
                    uid: table::text(pod, "/metadata/uid"),
                    container,
                    restarts: status["restartCount"].as_u64().unwrap_or(0),
                });
            }
        }
    }
    all
}

/// One container after the other.
async fn once(
    command: &Logs,
    chosen: &Chosen,
    kind: &Kind,
    api: &Api,
    session: &Session,
    lines: mpsc::Sender<(Run, Vec<u8>)>,
) -> Done {
    let mut pods = objects(api, kind, Some(&chosen.namespace), &chosen.selectors).await?;
    pods.retain(|pod| chosen.is_meant(pod));
    if pods.is_empty() {
        return Err(chosen.nothing().into());
    }
    for run in pods.iter().flat_map(|pod| runs(pod, command.container.as_deref())) {
        ended(&run, read(command, &run, chosen, api, session, lines.clone()).await)?;
    }
    Ok(())
}

/// All containers at once, and those that come.
async fn follow(
    command: Logs,
    chosen: &Chosen,
    kind: &Kind,
    api: &Api,
    session: &Session,
    lines: mpsc::Sender<(Run, Vec<u8>)>,
) -> Done {
    let selected = chosen.selectors.query();
    let target = |more: &[(&str, &str)]| kind.path(Some(&chosen.namespace), None, None, &[&selected, more].concat());
    let mut watch = Watch::new(api, JSON);
    let mut followed = Followed::default();
    let mut streams = JoinSet::new();
    let most = usize::from(command.max_streams);
    // of what comes later all is new
    let whole = Logs { tail: None, since: None, since_time: None, ..command.clone() };
    let (command, whole, place) = (Arc::new(command), Arc::new(whole), chosen.namespace.clone());
    let mut is_first = true;
    loop {
        while streams.len() < most
            && let Some((run, is_new)) = followed.waiting.pop_front()
        {
            let command = Arc::clone(if is_new { &whole } else { &command });
            let (api, session, lines) = (api.clone(), session.clone(), lines.clone());
            let chosen = Chosen { namespace: place.clone(), selectors: Selectors::default(), beginning: None };
            streams.spawn(async move {
                let ended = read(&command, &run, &chosen, &api, &session, lines).await;
                (run, ended)
            });
        }
        followed.tell_of_waiting(most);
        let change = tokio::select! {
            change = watch.next(&target) => change?,
            Some(one) = streams.join_next() => {
                if let Ok((run, how)) = one {
                    ended(&run, how)?;
                }
                continue;
            }
        };
        let (pods, gone) = match change {
            Change::All(mut page) => (page["items"].as_array_mut().map(std::mem::take).unwrap_or_default(), false),
            Change::One { gone, object } => (vec![object], gone),
        };
        for pod in pods.iter().filter(|pod| chosen.is_meant(pod)) {
            if gone {
                followed.forget(&table::text(pod, "/metadata/uid"));
                continue;
            }
            for run in runs(pod, command.container.as_deref()) {
                followed.add(run, !is_first);
            }
        }
        if std::mem::take(&mut is_first) && pods.is_empty() {
            remark(&format!("{}; those that come are followed", chosen.nothing().message));
        }
    }
}

// === impl Followed ===

impl Followed {
    /// One that is seen for the first time waits for its turn.
    fn add(&mut self, run: Run, is_new: bool) {
        let key = (run.uid.clone(), run.container.clone());
        let before = self.seen.get(&key).copied();
        if before.is_some_and(|restarts| restarts >= run.restarts) || self.seen.len() >= RUNS_MAX {
            return;
        }
        self.seen.insert(key, run.restarts);
        self.waiting.push_back((run, is_new || before.is_some()));
    }
    fn forget(&mut self, uid: &str) {
        self.seen.retain(|(of, _), _| of != uid);
    }
    fn tell_of_waiting(&mut self, most: usize) {
        let Some((next, _)) = self.waiting.front().filter(|_| !self.told_of_waiting) else { return };
        self.told_of_waiting = true;
        remark(&format!(
            "{most} containers are followed, which is the most at once (--max-streams); {}/{} and {} more wait until one ends",
            next.pod,
            next.container,
            self.waiting.len() - 1
        ));
    }
}

/// What one container's log ended with is told; it ends the others only where it ends them all.
fn ended(run: &Run, ended: Done) -> Done {
    match ended {
        Ok(()) => Ok(()),
        Err(Stop::Failure(failure))
            if matches!(failure.code, Code::TargetNotFound | Code::TargetRefused | Code::TargetLost) =>
        {
            remark(&format!("{}/{}: {} [{}]", run.pod, run.container, failure.message, failure.code));
            Ok(())
        }
        Err(stop) => Err(stop),
    }
}

/// The log of one run, to the writer.
async fn read(
    command: &Logs,
    run: &Run,
    chosen: &Chosen,
    api: &Api,
    session: &Session,
    lines: mpsc::Sender<(Run, Vec<u8>)>,
) -> Done {
    let (out, mut came) = mpsc::channel::<Vec<u8>>(1);
    let pod = PodName { pod: run.pod.clone(), namespace: Some(chosen.namespace.clone()) };
    let reading = async {
        let mut log = Log::new(command, pod, Some(&run.container), Out::Shared(out));
        log.read_all(command, api, session).await
    };
    let passing = async {
        let mut held = Vec::new();
        while let Some(data) = came.recv().await {
            held.extend_from_slice(&data);
            let whole = match held.iter().rposition(|b| *b == b'\n') {
                Some(at) => at + 1,
                None if held.len() >= HELD_MAX => held.len(),
                None => continue,
            };
            let rest = held.split_off(whole);
            if lines.send((run.clone(), std::mem::replace(&mut held, rest))).await.is_err() {
                return;
            }
        }
        if !held.is_empty() {
            let _ = lines.send((run.clone(), held)).await;
        }
    };
    tokio::join!(reading, passing).0
}

/// Puts out lines as they come, each after its container's name.
async fn write_lines(mut queue: mpsc::Receiver<(Run, Vec<u8>)>, terminal: bool, colour: bool) -> Done {
    let mut stdout = streams::stdout()?;
    let mut colours: HashMap<String, usize> = HashMap::new();
    while let Some((run, data)) = queue.recv().await {
        let name = format!("{}/{}", run.pod, run.container);
        let next = colours.len();
        let number = *colours.entry(name.clone()).or_insert(next);
        let text = prefixed(&name, number, &data, terminal, colour);
        stdout.write_all(&text).await.map_err(stop::stdout)?;
        stdout.flush().await.map_err(stop::stdout)?;
        if colours.len() > RUNS_MAX {
            colours.clear();
        }
    }
    Ok(())
}

/// Lines, each after the name; each ends.
fn prefixed(name: &str, number: usize, data: &[u8], terminal: bool, colour: bool) -> Vec<u8> {
    let name = escape::line(name);
    let before = match COLOURS.get(number % COLOURS.len()) {
        Some(sgr) if colour => format!("\x1b[{sgr}m[{name}]\x1b[0m "),
        _ => format!("[{name}] "),
    };
    let mut out = Vec::with_capacity(data.len() + before.len());
    for line in data.split_inclusive(|b| *b == b'\n') {
        out.extend_from_slice(before.as_bytes());
        if terminal {
            out.extend_from_slice(&escape::text(line, colour));
        } else {
            out.extend_from_slice(line);
        }
        if !line.ends_with(b"\n") {
            out.push(b'\n');
        }
    }
    out
}

/// A cut ends all streams, and is told once.
pub(super) fn say_once(message: &str) {
    static SAID: Mutex<Option<Instant>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.is_none_or(|said| said.elapsed() > SAID_AGAIN) {
        remark(&format!("{message}: the logs go on after their last lines"));
        *said = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        let running = |name: &str| json!({"name": name, "restartCount": 1, "state": {"running": {}}});
        json!({
            "metadata": {"name": "web", "uid": "u"},
            "spec": {"initContainers": [{"name": "init"}], "containers": [{"name": "app"}, {"name": "side"}, {"name": "late"}]},
            "status": {"initContainerStatuses": [{"name": "init", "state": {"terminated": {}}}], "containerStatuses": [
                running("side"), running("app"), {"name": "late", "state": {"waiting": {}}}]},
        })
    }

    #[test]
    fn containers_that_have_begun_are_read_once_a_run() {
        let names: Vec<_> = runs(&pod(), None).into_iter().map(|r| r.container).collect();
        assert_eq!(names, ["init", "app", "side"]);
        assert_eq!(runs(&pod(), Some("side")).len(), 1);
        let mut followed = Followed::default();
        for _ in 0..2 {
            runs(&pod(), None).into_iter().for_each(|run| followed.add(run, false));
        }
        assert_eq!(followed.waiting.len(), 3);
        let again = Run { restarts: 2, ..runs(&pod(), Some("app")).remove(0) };
        followed.add(again, false);
        assert!(followed.waiting.len() == 4 && followed.waiting[3].1, "a new run is read from its start");
        followed.forget("u");
        assert!(followed.seen.is_empty());
    }

    #[test]
    fn each_line_has_its_name_and_is_harmless_on_a_terminal() {
        let text = |terminal, colour| {
            String::from_utf8(prefixed("web/app", 1, b"one\x1b[2J\n\x1b[31mtwo", terminal, colour)).expect("text")
        };
        assert_eq!(text(false, false), "[web/app] one\u{1b}[2J\n[web/app] \u{1b}[31mtwo\n");
        assert_eq!(text(true, false), "[web/app] one^[[2J\n[web/app] two\n");
        let coloured = text(true, true);
        assert!(
            coloured.starts_with("\u{1b}[33m[web/app]\u{1b}[0m one^[[2J\n") && coloured.ends_with("\u{1b}[0m\n"),
            "{coloured:?}"
        );
    }
}
