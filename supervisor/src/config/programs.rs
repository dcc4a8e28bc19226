//! The programs of this machine that jobs use: named by the configuration, or found on PATH.

use super::Config;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

// === impl Config ===

impl Config {
    /// The engines that there are, by the names that jobs use.
    pub fn engine_programs(&self) -> BTreeMap<String, PathBuf> {
        [("opentofu", &self.engines.opentofu, "tofu"), ("terraform", &self.engines.terraform, "terraform")]
            .into_iter()
            .filter_map(|(name, named, program)| {
                Some((name.to_owned(), named.clone().or_else(|| self.on_path(program))?))
            })
            .collect()
    }

    /// Git.
    pub fn git_program(&self) -> PathBuf {
        self.on_path("git").unwrap_or_else(|| PathBuf::from("/usr/bin/git"))
    }

    /// What every job reads besides what is the same on all machines.
    pub(super) fn job_reads(&self) -> Vec<PathBuf> {
        let engines = self.engine_programs().into_values();
        engines
            .chain([self.git_program()])
            .chain(self.engines.cli_config.clone())
            .chain(self.jobs.reads.clone())
            .collect()
    }

    fn on_path(&self, program: &str) -> Option<PathBuf> {
        let path = self.environment.get("PATH")?;
        std::env::split_paths(path).filter(|p| p.is_absolute()).map(|p| p.join(program)).find(|p| is_executable(p))
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}
