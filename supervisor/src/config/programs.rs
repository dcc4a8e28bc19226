//! The programs of this machine that jobs use: named by the configuration, or found on PATH.

use super::settings::{SETTINGS, Source};
use super::{Config, ConfigError};
use crate::engines::Engine;
use std::path::{Path, PathBuf};

/// The most programs that are looked for beside an engine: a release of Pulumi has a dozen.
const BESIDE_MAX: usize = 32;

// === impl Config ===

impl Config {
    /// The program of an engine that jobs get where nobody asks for another, if there is one.
    pub fn engine_program(&self, engine: Engine) -> Option<PathBuf> {
        let named = match engine {
            Engine::OpenTofu => &self.engines.opentofu,
            Engine::Terraform => &self.engines.terraform,
            Engine::Pulumi => &self.engines.pulumi,
        };
        named.clone().or_else(|| self.on_path(engine.program()))
    }

    /// Whether the programs are there that somebody named: one that is missing would be missed only when it is needed. Those that
    /// nobody named are looked for when they are.
    ///
    /// # Errors
    /// The setting, the path, and what would be right.
    pub fn check_programs(&self) -> Result<(), ConfigError> {
        let paths = [
            ("workers.ops", Some(&self.workers.ops)),
            ("workers.iac", Some(&self.workers.iac)),
            ("engines.opentofu", self.engines.opentofu.as_ref()),
            ("engines.terraform", self.engines.terraform.as_ref()),
            ("engines.pulumi", self.engines.pulumi.as_ref()),
        ];
        for (key, path) in paths {
            let source = self.shown.iter().find(|s| s.key == key).map_or(Source::Default, |s| s.source);
            let Some(path) = path.filter(|path| source != Source::Default && !is_executable(path)) else { continue };
            let what = if path.exists() { "is no program that this user may execute" } else { "does not exist" };
            let setting = SETTINGS.iter().find(|s| s.key == key);
            let said = match (source, setting, &self.file) {
                (Source::Flag, Some(setting), _) => format!("--{}: ", setting.flag()),
                (Source::Variable, Some(setting), _) => format!("{}: ", setting.variable()),
                (_, _, Some(file)) => format!("{}: ", file.display()),
                _ => String::new(),
            };
            return Err(ConfigError(format!(
                "{said}{key}: {} {what}; install it there, or name the program's own path",
                path.display()
            )));
        }
        Ok(())
    }

    /// Git.
    pub fn git_program(&self) -> PathBuf {
        self.on_path("git").unwrap_or_else(|| PathBuf::from("/usr/bin/git"))
    }

    /// What every job reads besides what is the same on all machines.
    pub(super) fn job_reads(&self) -> Vec<PathBuf> {
        let engines = Engine::ALL.into_iter().filter_map(|engine| Some((engine, self.engine_program(engine)?)));
        engines
            .flat_map(|(engine, program)| with_those_beside(engine, program))
            .chain([self.engines.directory.clone(), self.engines.providers.clone(), self.git_program()])
            .chain(self.engines.cli_config.clone())
            .chain(self.jobs.reads.clone())
            .collect()
    }

    fn on_path(&self, program: &str) -> Option<PathBuf> {
        let path = self.environment.get("PATH")?;
        std::env::split_paths(path).filter(|p| p.is_absolute()).map(|p| p.join(program)).find(|p| is_executable(p))
    }
}

/// A program of an engine with those that it runs from its own folder: through a link, from where it leads to.
fn with_those_beside(engine: Engine, program: PathBuf) -> Vec<PathBuf> {
    let Some(start) = engine.beside() else { return vec![program] };
    let real = program.canonicalize().unwrap_or_else(|_| program.clone());
    let entries = real.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let mut beside: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(start)))
        .map(|entry| entry.path())
        .filter(|path| is_executable(path))
        .take(BESIDE_MAX)
        .collect();
    beside.sort();
    // a link is nothing without what it leads to
    let real = Some(real).filter(|real| *real != program);
    std::iter::once(program).chain(real).chain(beside).collect()
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_an_engine_runs_from_its_own_folder_is_read_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().canonicalize().expect("real").join(name);
        for (name, mode) in
            [("pulumi", 0o755), ("pulumi-language-yaml", 0o755), ("pulumi-notes.txt", 0o644), ("other", 0o755)]
        {
            std::fs::write(at(name), "").expect("writes");
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).expect("sets");
        }
        let with = |program: &str| with_those_beside(Engine::Pulumi, at(program));
        assert_eq!(with("pulumi"), [at("pulumi"), at("pulumi-language-yaml")]);
        assert_eq!(with_those_beside(Engine::OpenTofu, at("pulumi")), [at("pulumi")]);
        // through a link, where it leads to
        std::fs::create_dir(at("bin")).expect("makes");
        std::os::unix::fs::symlink(at("pulumi"), at("bin/pulumi")).expect("links");
        assert_eq!(with("bin/pulumi"), [at("bin/pulumi"), at("pulumi"), at("pulumi-language-yaml")]);
        for n in 0..2 * BESIDE_MAX {
            std::fs::write(at(&format!("pulumi-{n}")), "").expect("writes");
            std::fs::set_permissions(at(&format!("pulumi-{n}")), std::fs::Permissions::from_mode(0o755)).expect("sets");
        }
        assert_eq!(with("pulumi").len(), 1 + BESIDE_MAX);
    }
}
