//! The engines of this machine: for each the program that jobs get where nobody asks for another, which the configuration names or PATH
//! has, and those of a directory, by version: `DIRECTORY/opentofu/1.9.0/tofu`.
//!
//! The supervisor only lists them: it runs no programs, and takes a folder's name for the version. Whoever runs one asks it. Nothing comes into
//! the directory by what a job does: `runner engines install` verifies what it gets, and moves it in whole.

mod fetch;
pub mod install;
mod openpgp;
pub mod providers;
pub mod release;
pub mod shelf;
mod turn;
mod unpack;

pub use shelf::{Installed, Shelf};

use crate::config::Config;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// OpenTofu.
    OpenTofu,
    /// Terraform.
    Terraform,
    /// Pulumi.
    Pulumi,
}

/// What jobs are given to choose from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engines {
    usual: BTreeMap<Engine, PathBuf>,
    shelf: Shelf,
}

// === impl Engine ===

impl Engine {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OpenTofu, Self::Terraform, Self::Pulumi];

    /// By the name that jobs use.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }
    /// The name that jobs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenTofu => "opentofu",
            Self::Terraform => "terraform",
            Self::Pulumi => "pulumi",
        }
    }
    /// What its program is called.
    pub const fn program(self) -> &'static str {
        match self {
            Self::OpenTofu => "tofu",
            Self::Terraform => "terraform",
            Self::Pulumi => "pulumi",
        }
    }
    /// What the names of programs begin with that it runs from its own folder, where it does.
    pub const fn beside(self) -> Option<&'static str> {
        match self {
            Self::OpenTofu | Self::Terraform => None,
            // a host for each language
            Self::Pulumi => Some("pulumi-"),
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Engines ===

impl Engines {
    /// These programs, and those of a directory.
    pub fn new(usual: impl IntoIterator<Item = (Engine, PathBuf)>, directory: &Path) -> Self {
        Self { usual: usual.into_iter().collect(), shelf: Shelf::new(directory) }
    }
    /// Those of a configuration. The directory is looked at anew each time: what is in it comes and goes.
    pub fn of(config: &Config) -> Self {
        let usual = Engine::ALL.into_iter().filter_map(|engine| Some((engine, config.engine_program(engine)?)));
        Self::new(usual, &config.engines.directory)
    }
    /// The program that jobs get where nobody asks for another.
    pub fn usual(&self, engine: Engine) -> Option<&Path> {
        self.usual.get(&engine).map(PathBuf::as_path)
    }
    /// Those of the directory, newest first.
    pub fn installed(&self, engine: Engine) -> Vec<Installed> {
        self.shelf.list(engine)
    }
    /// The engines of which there is any version, by the names that jobs use.
    pub fn names(&self) -> Vec<String> {
        let is_here = |engine: &Engine| self.usual.contains_key(engine) || !self.installed(*engine).is_empty();
        Engine::ALL.into_iter().filter(is_here).map(|engine| engine.name().to_owned()).collect()
    }
}
