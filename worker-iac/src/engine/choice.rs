//! Which of the runner's programs a job gets for its engine: the one that the runner takes otherwise where that is allowed, else the newest
//! of its directory that is. What a folder is called is a claim: the program itself is asked.

use super::Engine;
use super::asked::Asked;
use super::dialect::Dialect;
use crate::journal;
use crate::stop::Stop;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineProgram, JobStart};
use shared_proto::version::Version;
use std::cmp::Reverse;
use std::path::Path;

/// The most versions that a failure names.
const NAMED_MAX: usize = 20;

/// What there is and what is asked.
#[derive(Debug)]
pub(crate) struct Choice {
    dialect: &'static dyn Dialect,
    asked: Asked,
    /// What is taken where nobody asks for another; mostly it is not known of which version it is before it is asked.
    usual: Option<EngineProgram>,
    /// Those of the directory: the one that is to be preferred first.
    others: Vec<(Version, EngineProgram)>,
    /// One that is at work already, and so is not asked.
    at_work: Option<EngineProgram>,
}

// === impl Choice ===

impl Choice {
    /// Among the programs that the supervisor tells of.
    pub(crate) fn new(start: &JobStart, dialect: &'static dyn Dialect, asked: Asked) -> Self {
        let is_one = |program: &EngineProgram| program.name == dialect.name() && !program.path.is_empty();
        let usual = start.engine.clone().filter(is_one);
        let known = |program: EngineProgram| Some((Version::parse(&program.version).ok()?, program));
        let mut others: Vec<_> = start.engines.iter().filter(|p| is_one(p)).cloned().filter_map(known).collect();
        others.sort_by_key(|(version, _)| Reverse((!version.is_pre_release(), version.clone())));
        Self { dialect, asked, usual, others, at_work: None }
    }

    /// What made the saved plan, by the job's events: no other version applies it.
    pub(crate) fn as_planned(start: &JobStart, dialect: &'static dyn Dialect, events: &Path) -> Self {
        let version = planned_with(events).unwrap_or_default();
        Self::new(start, dialect, Asked::as_planned(&version))
    }

    /// The program of a version that is at work already.
    ///
    /// # Errors
    /// `engine_missing`, `engine_version_missing`: it is gone.
    pub(crate) fn at_work(start: &JobStart, dialect: &'static dyn Dialect, version: &str) -> Result<Self, Failure> {
        let mut choice = Self::new(start, dialect, Asked::as_planned(version));
        let program = choice.allowed().next().or(choice.usual.as_ref()).ok_or_else(|| choice.none(None))?;
        choice.at_work = Some(EngineProgram { version: version.to_owned(), ..program.clone() });
        Ok(choice)
    }

    /// The program to begin with, which is asked for its version unless it is at work.
    ///
    /// # Errors
    /// `engine_missing`, `engine_version_missing`.
    pub(crate) fn first(&self) -> Result<EngineProgram, Failure> {
        if let Some(program) = &self.at_work {
            return Ok(program.clone());
        }
        let other = self.allowed().next().cloned().map(unasked);
        let first = match self.usual.clone() {
            // one version alone: there is nothing to prefer
            Some(usual) if !self.asked.is_exact() => Some(usual),
            usual => other.or(usual),
        };
        first.ok_or_else(|| self.none(None))
    }

    /// What is to be taken in the place of what the runner takes otherwise, which is of this version; `None`: it stays.
    fn in_place_of_usual(&self, version: &str) -> Result<Option<EngineProgram>, Failure> {
        let found = Version::parse(version).ok();
        let allowed = match &found {
            Some(version) => self.asked.allows(version),
            None => self.asked.is_nothing(),
        };
        let newer = |other: &&EngineProgram| {
            let other = Version::parse(&other.version).ok();
            // a release before what comes before one
            let rank = |version: Option<Version>| version.map(|version| (!version.is_pre_release(), version));
            rank(other) > rank(found.clone())
        };
        match self.allowed().next() {
            Some(other) if !allowed || self.asked.is_newest() && newer(&other) => Ok(Some(unasked(other.clone()))),
            None if !allowed => Err(self.none(Some(version))),
            _ => Ok(None),
        }
    }

    /// Those of the directory that are allowed.
    fn allowed(&self) -> impl Iterator<Item = &EngineProgram> {
        self.others.iter().filter(|(version, _)| self.asked.allows(version)).map(|(_, program)| program)
    }

    /// There is none. `usual`: the version of what the runner takes otherwise.
    fn none(&self, usual: Option<&str>) -> Failure {
        let name = self.dialect.name();
        if self.usual.is_none() && self.others.is_empty() {
            return Code::EngineMissing.on(format!("the runner has no {name}"));
        }
        let usual = usual.map(|version| format!("{version} (which it takes otherwise)"));
        let others = self.others.iter().map(|(version, _)| version.to_string());
        let mut there: Vec<_> = usual.into_iter().chain(others).collect();
        if there.len() > NAMED_MAX {
            let more = there.len() - NAMED_MAX;
            there.truncate(NAMED_MAX);
            there.push(format!("{more} more"));
        }
        let has = if there.is_empty() { "none that is known".to_owned() } else { there.join(", ") };
        let failure = Code::EngineVersionMissing.on(format!(
            "of {name} this is asked for: {}; the runner has {has}",
            if self.asked.is_nothing() { "any".to_owned() } else { self.asked.to_string() }
        ));
        failure.next(match self.asked.example() {
            Some(version) => format!("Install it on the runner: `runner engines install {name} {version}`."),
            None => format!(
                "Install one that all of them allow on the runner, with `runner engines install {name} VERSION`, or change what asks for another."
            ),
        })
    }
}

/// The version of the engine that the last of its commands was of.
fn planned_with(events: &Path) -> Option<String> {
    let versions = journal::told(events).filter_map(|event| match event.body {
        // that it is asked for its version is told before it is known
        Some(Body::EngineStarted(started)) if !started.version.is_empty() => Some(started.version),
        _ => None,
    });
    versions.last()
}

/// Without what its folder is called.
fn unasked(program: EngineProgram) -> EngineProgram {
    EngineProgram { version: String::new(), ..program }
}

impl Engine {
    /// Learns the version of its program, and takes another one where the choice says so. What a user is to know of it.
    ///
    /// # Errors
    /// `engine_version_missing`; the program does not run, or is not of the version that its folder is called by.
    pub(crate) async fn choose(&mut self, choice: &Choice) -> Result<Option<String>, Stop> {
        self.learn_version().await?;
        let usual = choice.usual.as_ref().map(|p| Path::new(&p.path));
        if usual == Some(self.common.program.as_path())
            && let Some(other) = choice.in_place_of_usual(&self.common.version)?
        {
            self.take(&other)?;
            self.learn_version().await?;
        }
        let claimed = choice.others.iter().find(|(_, program)| self.common.program == Path::new(&program.path));
        if let Some((version, program)) = claimed
            && Version::parse(&self.common.version).as_ref() != Ok(version)
        {
            let message = format!("{} says that it is of version {}", program.path, self.common.version);
            let next =
                format!("Put it in order on the runner: `runner engines remove {} {version}`.", choice.dialect.name());
            return Err(Code::EngineVersionMissing.on(message).next(next).into());
        }
        if choice.asked.is_nothing() {
            return Ok(None);
        }
        Ok(Some(format!(
            "{} {} is taken. What is asked for: {}.",
            choice.dialect.name(),
            self.common.version,
            choice.asked
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::opentofu::OPENTOFU;
    use super::*;

    fn program(version: &str, path: &str) -> EngineProgram {
        EngineProgram { name: "opentofu".into(), path: path.into(), version: version.into() }
    }
    fn start(usual: bool, others: &[&str]) -> JobStart {
        let engine = Some(program("", if usual { "/usr/bin/tofu" } else { "" }));
        let mut engines: Vec<_> = others.iter().map(|v| program(v, &format!("/engines/{v}"))).collect();
        engines.push(EngineProgram { name: "terraform".into(), ..program("9.9.9", "/engines/other") });
        JobStart { engine, engines, ..Default::default() }
    }
    fn choice(usual: bool, others: &[&str], asks: &str) -> Choice {
        let folder = tempfile::tempdir().expect("a folder");
        let (stack, file) = asks.split_once('|').unwrap_or((asks, ""));
        if !file.is_empty() {
            std::fs::write(folder.path().join(".opentofu-version"), file).expect("writes");
        }
        let root = folder.path().canonicalize().expect("real");
        let asked = Asked::read(stack, &root, &root, &OPENTOFU).expect("reads");
        Choice::new(&start(usual, others), &OPENTOFU, asked)
    }
    /// What is taken where the usual one is 1.8.0.
    fn taken(choice: &Choice) -> Result<String, Failure> {
        let first = choice.first()?;
        if Some(&first.path) != choice.usual.as_ref().map(|u| &u.path) {
            return Ok(first.path);
        }
        Ok(choice.in_place_of_usual("1.8.0")?.unwrap_or(first).path)
    }

    #[test]
    fn the_usual_one_is_taken_where_it_is_allowed_else_the_newest() {
        let others = ["1.7.0", "1.10.1", "1.9.3", "1.11.0-rc1"];
        for (usual, asks, expected) in [
            (true, "", "/usr/bin/tofu"),
            (true, ">= 1.7", "/usr/bin/tofu"),
            (true, "~> 1.9.0", "/engines/1.9.3"),
            (true, ">= 1.9", "/engines/1.10.1"),
            (true, "1.8.0", "/usr/bin/tofu"),
            (true, "1.9.3", "/engines/1.9.3"),
            (true, "1.11.0-rc1", "/engines/1.11.0-rc1"),
            (true, "|latest", "/engines/1.10.1"),
            (true, "< 1.9|latest", "/usr/bin/tofu"),
            (true, "< 1.8|latest-allowed", "/engines/1.7.0"),
            (true, ">= 1.7|1.7.0", "/engines/1.7.0"),
            (false, "", "/engines/1.10.1"),
            (false, "< 1.10", "/engines/1.9.3"),
        ] {
            assert_eq!(taken(&choice(usual, &others, asks)).as_deref(), Ok(expected), "{usual} {asks}");
        }
        assert_eq!(taken(&choice(false, &["1.11.0-rc1"], "")).as_deref(), Ok("/engines/1.11.0-rc1"));
    }

    #[test]
    fn where_there_is_none_it_is_said_what_is_asked_what_is_there_and_what_to_do() {
        let failure = taken(&choice(true, &["1.7.0"], "~> 1.9.2|>= 1.6")).expect_err("none");
        assert_eq!(failure.code, Code::EngineVersionMissing);
        assert_eq!(
            failure.message,
            "of opentofu this is asked for: ~> 1.9.2 (the stack), >= 1.6 (.opentofu-version); \
             the runner has 1.8.0 (which it takes otherwise), 1.7.0"
        );
        assert_eq!(failure.next_step, "Install it on the runner: `runner engines install opentofu 1.9.2`.");
        // what does not go together has no version
        let failure = taken(&choice(false, &["1.7.0"], "1.9.2|1.9.3")).expect_err("none");
        assert!(failure.message.ends_with("; the runner has 1.7.0"), "{failure}");
        assert!(failure.next_step.contains("or change what asks"), "{failure}");
        assert_eq!(taken(&choice(false, &[], "")).expect_err("none").code, Code::EngineMissing);
        let many: Vec<_> = (0..=NAMED_MAX).map(|n| format!("1.0.{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let failure = taken(&choice(false, &many, "2.0.0")).expect_err("none");
        assert!(failure.message.ends_with("1.0.1, 1 more"), "{failure}");
    }

    #[test]
    fn what_is_no_version_is_good_where_nobody_asks() {
        assert_eq!(choice(true, &[], "").in_place_of_usual("new"), Ok(None));
        assert_eq!(
            choice(true, &[], ">= 1.0").in_place_of_usual("new").expect_err("asked").code,
            Code::EngineVersionMissing
        );
    }

    #[test]
    fn what_is_at_work_is_not_asked() {
        let at = |usual: bool, version: &str| Choice::at_work(&start(usual, &["1.9.3"]), &OPENTOFU, version)?.first();
        assert_eq!(at(true, "1.9.3"), Ok(program("1.9.3", "/engines/1.9.3")));
        assert_eq!(at(true, "1.8.0"), Ok(program("1.8.0", "/usr/bin/tofu")));
        assert_eq!(at(false, "1.8.0").expect_err("gone").code, Code::EngineVersionMissing);
    }
}
