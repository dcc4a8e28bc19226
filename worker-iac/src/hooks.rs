//! Hooks of a job's stack: programs of its source that run before and after its plan and its apply, in the sandbox and with the credentials of the
//! engine of that step. What they say is told as lines of output, without the job's secrets.
//!
//! The first of them, before the plan, may change the source: what is planned is what it leaves. From then on none may: the others write to a folder
//! of their own and nowhere else, so what is applied is what was planned. None is given what the source is fetched with or what opens the state,
//! none outlives its time, and none ever runs whose source nobody has vouched for.

use crate::cancel::{Cancel, Watcher};
use crate::engine::environment::{self, Folders};
use crate::engine::followed::Followed;
use crate::events;
use crate::journal::Journal;
use crate::process::{self, Asks, Environment, Heard, Program};
use crate::secrets::Secrets;
use crate::stop::{Exit, Stop, Stopped};
use shared_proto::failure::{Code, Failure};
use shared_proto::hooks::{self, Hook};
use shared_proto::v1::event::Body;
use shared_proto::v1::{self, EngineRead, HookStarted, JobKind, JobRequest, JobStart};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hooks' own folder, in the job's temporary one.
const FOLDER: &str = "hooks";
/// In it: the plan as the engine gives it to programs.
const PLAN: &str = "plan.json";
/// The workspace where a stack names none.
const DEFAULT_WORKSPACE: &str = "default";
/// Any of the three bits by which a file may be executed.
const EXECUTABLE: u32 = 0o111;

/// The hooks of one step, ready to be run.
pub(crate) struct Hooks {
    which: v1::Hooks,
    /// The top of the source, which their paths begin at.
    source: PathBuf,
    work: PathBuf,
    /// Their own folder.
    folder: PathBuf,
    environment: Environment,
    grace: Duration,
}

/// How an apply ended, as the hook after it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Well.
    Ok,
    /// With that failure code.
    Failed(String),
}

/// What one hook is run with beside what all have.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// Which.
    pub(crate) hook: Hook,
    /// Where: the root module's folder.
    pub(crate) root: &'a Path,
    /// What is taken out of what it says, beside the job's own secrets.
    pub(crate) secrets: Secrets,
    /// After an apply: how that ended.
    pub(crate) applied: Option<&'a Applied>,
}

// === impl Hooks ===

impl Hooks {
    /// Those of a step; none: its job has none, or is not to run any.
    ///
    /// # Errors
    /// A path that cannot be one of a source's; credentials that cannot be written down; the file system.
    pub(crate) fn new(
        start: &JobStart,
        request: &JobRequest,
        folders: &Folders<'_>,
        grace: Duration,
    ) -> Result<Option<Self>, Failure> {
        let Some(which) = request.hooks.clone().filter(|which| hooks::of(which).next().is_some()) else {
            return Ok(None);
        };
        if request.untrusted || !plans(request.kind()) {
            return Ok(None);
        }
        for (hook, path) in hooks::of(&which) {
            hooks::check_path(path).map_err(|why| refused(hook, path, why))?;
        }
        let mut environment = environment::for_hooks(start, folders, FOLDER)?;
        let workspace = Some(request.workspace.as_str()).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_WORKSPACE);
        for (name, value) in [
            ("RUNNER_STACK", request.stack_name.as_str()),
            ("RUNNER_JOB", &request.job_id),
            ("RUNNER_JOB_KIND", crate::plan::name(request.kind())),
            ("RUNNER_WORKSPACE", workspace),
        ] {
            environment.insert(name.into(), value.into());
        }
        let (source, folder) = (folders.work.join("source"), folders.tmp.join(FOLDER));
        Ok(Some(Self { which, source, work: folders.work.to_owned(), folder, environment, grace }))
    }

    /// Whether there is that one.
    pub(crate) fn has(&self, hook: Hook) -> bool {
        hook.of(&self.which).is_some()
    }

    /// Looks whether these can be run, as far as there are such: one that is missed after an apply is missed too late.
    ///
    /// # Errors
    /// `source_refused`.
    pub(crate) fn are_there(&self, which: &[Hook]) -> Result<(), Failure> {
        for (hook, path) in hooks::of(&self.which).filter(|(hook, _)| which.contains(hook)) {
            self.program(path).map_err(|why| refused(hook, path, &why))?;
        }
        Ok(())
    }

    /// The file that has the plan as a document while the hook after it runs; none: no hook looks at it.
    pub(crate) fn plan(&self) -> Option<PathBuf> {
        self.has(Hook::AfterPlan).then(|| self.folder.join(PLAN))
    }

    /// Where a program is. A link may lead to another file of the source.
    fn program(&self, path: &str) -> Result<PathBuf, String> {
        let top = self.source.canonicalize().map_err(|e| format!("the source: {e}"))?;
        let program = self.source.join(path).canonicalize().map_err(|e| e.to_string())?;
        if !program.starts_with(&top) {
            return Err("it leads out of the source".into());
        }
        let found = program.metadata().map_err(|e| e.to_string())?;
        if !found.is_file() {
            return Err("it is no file".into());
        }
        match found.permissions().mode() & EXECUTABLE {
            0 => Err("it is not executable".into()),
            _ => Ok(program),
        }
    }

    /// Runs one, to its end.
    ///
    /// # Errors
    /// It failed or was cancelled: [`Stop::Hook`]; cancelled before it was begun.
    pub(crate) async fn run(&self, call: Call<'_>, cancel: &mut Watcher, journal: &Journal) -> Result<(), Stop> {
        let Some(path) = call.hook.of(&self.which) else { return Ok(()) };
        if cancel.now() != Cancel::No {
            return Err(Stop::Canceled { forced: false, exit: None });
        }
        let program = self.program(path).map_err(|why| self.failed(&call, &format!("cannot be run: {why}")))?;
        let environment = self.environment(&call);
        let (out, err) = self.output();
        // whoever follows this worker takes no program before it for the hook
        process::forget();
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        journal.has_read(EngineRead { out: length(&out), err: length(&err) });
        let (hook, result) = (call.hook.name().to_owned(), call.applied.map(Applied::as_str).unwrap_or_default());
        let started = HookStarted { hook, program: path.to_owned(), result: result.to_owned() };
        journal.record(Body::HookStarted(started)).await;
        journal.flush().await;
        let own = [Some(self.folder.as_path()), (call.hook == Hook::BeforePlan).then_some(self.source.as_path())];
        let program = Program {
            path: &program,
            arguments: Vec::<OsString>::new(),
            folder: call.root,
            environment: &environment,
            input: None,
            output: (&out, &err),
            writes: own.into_iter().flatten().collect(),
            // not where that would be the source and the plan
            writes_tmp: !self.work.starts_with(process::TMP),
            asks: Asks::Group,
        };
        let hear = async |heard: Heard| tell(&call, journal, heard).await;
        let ended = process::run(program, cancel, self.grace, journal, hear).await;
        self.over(&call, ended).await
    }

    /// Attends one that a worker before this one has started, to its end.
    ///
    /// # Errors
    /// As of [`Self::run`].
    pub(crate) async fn take_over(
        &self,
        call: Call<'_>,
        followed: &Followed,
        cancel: &mut Watcher,
        journal: &Journal,
    ) -> Result<(), Stop> {
        let path = self.source.join(call.hook.of(&self.which).unwrap_or_default());
        let (out, err) = self.output();
        let orphan = followed.orphan(&path, (&out, &err), Asks::Group);
        let hear = async |heard: Heard| tell(&call, journal, heard).await;
        let ended = process::take_over(orphan, cancel, self.grace, journal, hear).await;
        self.over(&call, ended).await
    }

    /// Where what they say goes.
    fn output(&self) -> (PathBuf, PathBuf) {
        (self.work.join("hook.log"), self.work.join("hook.err"))
    }

    fn environment(&self, call: &Call<'_>) -> Environment {
        let mut environment = self.environment.clone();
        environment.insert("RUNNER_HOOK".into(), call.hook.name().into());
        let plan = self.folder.join(PLAN);
        if call.hook == Hook::AfterPlan && plan.is_file() {
            environment.insert("RUNNER_PLAN_JSON".into(), plan.into());
        }
        if let Some(applied) = call.applied {
            environment.insert("RUNNER_RESULT".into(), applied.as_str().into());
        }
        environment
    }

    /// Judges its end, once nothing of it is left.
    async fn over(&self, call: &Call<'_>, ended: Result<Exit, Stop>) -> Result<(), Stop> {
        process::end_left_behind().await;
        match ended {
            Ok(Exit::Code(0)) => Ok(()),
            Ok(exit) => Err(self.failed(call, &format!("ended with {}", exit.describe()))),
            Err(Stop::Canceled { forced, exit: Some(exit) }) => {
                let how = match forced {
                    false => format!("was asked to stop, and did ({})", exit.describe()),
                    true => format!("was asked to stop, did not, and was killed ({})", exit.describe()),
                };
                Err(Stop::Hook(Stopped { canceled: true, ..self.stopped(call, Code::Cancelled, &how) }))
            }
            Err(Stop::Failed(failure, _)) if failure.code == Code::DiskFull => {
                Err(Stop::Hook(self.stopped(call, Code::DiskFull, &format!("cannot be run: {}", failure.message))))
            }
            // its interpreter is not there, or it has none
            Err(Stop::Failed(failure, _)) => {
                let why = "A script begins with a line such as `#!/bin/sh`, and what it names is on the runner";
                Err(self.failed(call, &format!("cannot be run: {}. {why}", failure.message)))
            }
            Err(other) => Err(other),
        }
    }

    fn failed(&self, call: &Call<'_>, what: &str) -> Stop {
        Stop::Hook(self.stopped(call, Code::HookFailed, what))
    }

    fn stopped(&self, call: &Call<'_>, code: Code, what: &str) -> Stopped {
        let (name, path) = (call.hook.name(), call.hook.of(&self.which).unwrap_or_default());
        let applied = call.applied == Some(&Applied::Ok);
        let then = match call.applied {
            None => "Nothing was changed".to_owned(),
            Some(Applied::Ok) => "The plan is applied: what it was to change is changed".to_owned(),
            Some(Applied::Failed(code)) => format!("The apply before it failed ({code})"),
        };
        let mut failure = code.on(format!("the hook {name} ({path}) {what}. {then}."));
        if applied {
            failure = failure.next("Read what the hook said, in the job's output, and do what it was to do: the job is not to be run again for it.");
        }
        Stopped { failure, canceled: false, applied }
    }
}

// === impl Applied ===

impl Applied {
    /// As the hook is told.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Ok => "ok",
            Self::Failed(code) => code,
        }
    }
    /// As an event has it.
    pub(crate) fn from_event(result: &str) -> Self {
        if result == "ok" { Self::Ok } else { Self::Failed(result.to_owned()) }
    }
}

/// Whether a job of that kind makes a plan: the others run no hooks.
const fn plans(kind: JobKind) -> bool {
    matches!(kind, JobKind::Preview | JobKind::Update | JobKind::Refresh | JobKind::Destroy | JobKind::Import)
}

fn refused(hook: Hook, path: &str, why: &str) -> Failure {
    let shown: String = path.chars().take(200).collect();
    Code::SourceRefused
        .on(format!("the hook {}, {shown:?} in the source: {why}", hook.name()))
        .next("Name an executable file of the source: `runnerctl stack update STACK --hook NAME=PATH`.")
}

/// Tells a line of it.
async fn tell(call: &Call<'_>, journal: &Journal, heard: Heard) {
    let (Heard::Out(line) | Heard::Err(line)) = heard;
    let mut text = line.text;
    call.secrets.apply(&mut text);
    if line.left_out > 0 {
        journal.redact_line(&mut text, true);
        text.push_str(&format!("… [cut: {} bytes left out]", line.left_out));
    }
    journal.record(events::output(call.hook.name(), &text)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(folder: &Path, which: v1::Hooks) -> Hooks {
        Hooks {
            which,
            source: folder.join("source"),
            work: folder.to_owned(),
            folder: folder.join("tmp").join(FOLDER),
            environment: Environment::new(),
            grace: Duration::ZERO,
        }
    }
    fn call(hook: Hook, applied: Option<&Applied>) -> Call<'_> {
        Call { hook, root: Path::new("/"), secrets: Secrets::default(), applied }
    }

    #[test]
    fn a_program_is_an_executable_file_of_the_source_or_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("source");
        std::fs::create_dir_all(source.join("scripts")).expect("makes");
        let write = |path: &Path, mode: u32| {
            std::fs::write(path, "#!/bin/sh\n").expect("writes");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets");
        };
        write(&source.join("scripts/run.sh"), 0o700);
        write(&source.join("plain.sh"), 0o600);
        write(&folder.path().join("outside.sh"), 0o700);
        std::os::unix::fs::symlink("scripts/run.sh", source.join("link.sh")).expect("links");
        std::os::unix::fs::symlink("../outside.sh", source.join("out.sh")).expect("links");
        std::os::unix::fs::symlink("/bin/sh", source.join("shell")).expect("links");
        let hooks = hooks(folder.path(), v1::Hooks::default());
        for good in ["scripts/run.sh", "./scripts/run.sh", "link.sh"] {
            assert!(hooks.program(good).is_ok_and(|program| program.ends_with("scripts/run.sh")), "{good}");
        }
        for (bad, why) in [
            ("plain.sh", "not executable"),
            ("scripts", "no file"),
            ("out.sh", "out of the source"),
            ("shell", "out of the source"),
            ("missing.sh", "No such file"),
        ] {
            let said = hooks.program(bad).expect_err(bad);
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn a_failure_says_which_hook_how_it_ended_and_what_was_changed() {
        let which = v1::Hooks { before_apply: "a.sh".into(), after_apply: "b.sh".into(), ..Default::default() };
        let hooks = hooks(Path::new("/"), which);
        let failed = Applied::Failed("engine_failed".into());
        for (hook, applied, says) in [
            (Hook::BeforeApply, None, "the hook before-apply (a.sh) ended with exit code 3. Nothing was changed."),
            (
                Hook::AfterApply,
                Some(&Applied::Ok),
                "the hook after-apply (b.sh) ended with exit code 3. The plan is applied: what it was to change is changed.",
            ),
            (
                Hook::AfterApply,
                Some(&failed),
                "the hook after-apply (b.sh) ended with exit code 3. The apply before it failed (engine_failed).",
            ),
        ] {
            let Stop::Hook(stopped) = hooks.failed(&call(hook, applied), "ended with exit code 3") else { panic!() };
            assert_eq!((stopped.failure.code, stopped.failure.message.as_str()), (Code::HookFailed, says));
            assert_eq!(stopped.applied, applied == Some(&Applied::Ok));
        }
    }

    #[test]
    fn each_is_told_what_is_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let which = v1::Hooks { after_plan: "a".into(), after_apply: "b".into(), ..Default::default() };
        let hooks = hooks(folder.path(), which);
        let names = |call: Call<'_>| hooks.environment(&call).into_keys().collect::<Vec<_>>();
        assert_eq!(names(call(Hook::AfterPlan, None)), ["RUNNER_HOOK"], "there is no document");
        let plan = hooks.plan().expect("a hook looks at it");
        std::fs::create_dir_all(plan.parent().expect("a folder")).expect("makes");
        std::fs::write(&plan, "{}").expect("writes");
        assert_eq!(names(call(Hook::AfterPlan, None)), ["RUNNER_HOOK", "RUNNER_PLAN_JSON"]);
        assert_eq!(names(call(Hook::BeforeApply, None)), ["RUNNER_HOOK"]);
        assert_eq!(names(call(Hook::AfterApply, Some(&Applied::Ok))), ["RUNNER_HOOK", "RUNNER_RESULT"]);
    }

    #[test]
    fn none_is_run_that_nobody_vouches_for_or_whose_job_makes_no_plan() {
        let folder = tempfile::tempdir().expect("a folder");
        let which = Some(v1::Hooks { before_plan: "a.sh".into(), ..Default::default() });
        let folders = Folders { work: folder.path(), tmp: folder.path() };
        let made = |kind: JobKind, untrusted: bool, hooks: Option<v1::Hooks>| {
            let request = JobRequest { kind: kind.into(), untrusted, hooks, ..Default::default() };
            Hooks::new(&JobStart::default(), &request, &folders, Duration::ZERO).map(|made| made.is_some())
        };
        assert_eq!(made(JobKind::Preview, false, which.clone()), Ok(true));
        assert_eq!(made(JobKind::Preview, true, which.clone()), Ok(false));
        assert_eq!(made(JobKind::State, false, which), Ok(false));
        assert_eq!(made(JobKind::Preview, false, Some(v1::Hooks::default())), Ok(false));
        assert_eq!(made(JobKind::Preview, false, None), Ok(false));
        for out in ["/bin/sh", "../a.sh"] {
            let which = Some(v1::Hooks { after_apply: out.into(), ..Default::default() });
            assert_eq!(made(JobKind::Update, false, which).expect_err(out).code, Code::SourceRefused);
        }
    }
}
