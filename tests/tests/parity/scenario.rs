//! What a scenario is: the files of a root module, and what is done with them, step by step.

use runner_tests::{Component, EngineKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The files of a source, by path.
pub(super) type Files = BTreeMap<&'static str, String>;

/// What a person has done with a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Update,
    Preview,
    Refresh,
    Destroy,
}

/// One run of it.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// The phase in which it ends: by hand too, so that both failing is no agreement.
    pub(super) end: &'static str,
    /// What of the files is another one from here on.
    changes: Files,
    pub(super) variables: Value,
    pub(super) targets: &'static [&'static str],
    pub(super) replace: &'static [&'static str],
}

/// Where the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// By hand in that file beside the module, by the runner in its store.
    Here(&'static str),
    /// In a backend of the configuration's own.
    Own,
    /// There is none.
    Nowhere,
}

/// A stack and what becomes of it.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) files: Files,
    pub(super) steps: Vec<Step>,
    /// The root module's folder in the source.
    pub(super) path: &'static str,
    pub(super) workspace: &'static str,
    pub(super) connections: &'static [&'static str],
    pub(super) needs: &'static [Component],
    pub(super) place: Place,
    of_opentofu: bool,
}

/// What stands in files and variables for what is known later.
#[derive(Debug, Clone)]
pub(super) struct Words {
    /// A name that nobody else has: of the scenario, the engine, and whoever runs it.
    pub(super) key: String,
    pub(super) web: String,
    pub(super) postgres: String,
    pub(super) moto: String,
}

const MAIN: &str = "main.tf";

// === impl Step ===

fn step(kind: Kind, end: &'static str) -> Step {
    Step { kind, end, changes: Files::new(), variables: json!({}), targets: &[], replace: &[] }
}
/// An update that ends so.
pub(super) fn update(end: &'static str) -> Step {
    step(Kind::Update, end)
}
/// A preview that ends so.
pub(super) fn preview(end: &'static str) -> Step {
    step(Kind::Preview, end)
}
/// A refresh that ends so.
pub(super) fn refresh(end: &'static str) -> Step {
    step(Kind::Refresh, end)
}
/// A destruction that ends so.
pub(super) fn destroy(end: &'static str) -> Step {
    step(Kind::Destroy, end)
}

impl Step {
    /// With these variables.
    pub(super) fn with(mut self, variables: Value) -> Self {
        self.variables = variables;
        self
    }
    /// Of another `main.tf`.
    pub(super) fn module(self, text: impl Into<String>) -> Self {
        self.file(MAIN, text)
    }
    /// Of another file.
    pub(super) fn file(mut self, path: &'static str, text: impl Into<String>) -> Self {
        self.changes.insert(path, text.into());
        self
    }
    /// Only these.
    pub(super) fn only(mut self, targets: &'static [&'static str]) -> Self {
        self.targets = targets;
        self
    }
    /// These anew.
    pub(super) fn anew(mut self, replace: &'static [&'static str]) -> Self {
        self.replace = replace;
        self
    }
    /// Makes the files those of this step.
    pub(super) fn change(&self, files: &mut Files) {
        files.extend(self.changes.clone());
    }
}

// === impl Scenario ===

impl Scenario {
    /// Of one `main.tf`.
    pub(super) fn new(name: &'static str, main: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            name,
            files: Files::from([(MAIN, main.into())]),
            steps: steps.into_iter().collect(),
            path: "",
            workspace: "",
            connections: &[],
            needs: &[],
            place: Place::Here("terraform.tfstate"),
            of_opentofu: false,
        }
    }
    /// With another file.
    pub(super) fn file(mut self, path: &'static str, text: impl Into<String>) -> Self {
        self.files.insert(path, text.into());
        self
    }
    /// Without `main.tf`, and with the root module in that folder.
    pub(super) fn at(mut self, path: &'static str) -> Self {
        self.files.remove(MAIN);
        self.path = path;
        self
    }
    /// Of another workspace than the default one; `file`: where its state is by hand.
    pub(super) fn workspace(mut self, name: &'static str, file: &'static str) -> Self {
        self.workspace = name;
        self.place = Place::Here(file);
        self
    }
    /// The same, of one whose state is in a backend.
    pub(super) fn in_workspace(mut self, name: &'static str) -> Self {
        self.workspace = name;
        self
    }
    /// Its jobs have the credentials of a connection, and reach what that is for.
    pub(super) fn connection(mut self, connection: &'static [&'static str], needs: &'static [Component]) -> Self {
        self.connections = connection;
        self.needs = needs;
        self
    }
    /// Its state is there.
    pub(super) fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }
    /// The other engine does not have what it is about.
    pub(super) fn of_opentofu(mut self) -> Self {
        self.of_opentofu = true;
        self
    }
    /// Whether an engine has what it is about.
    pub(super) fn is_of(&self, engine: EngineKind) -> bool {
        engine == EngineKind::OpenTofu || !self.of_opentofu
    }
}

// === impl Words ===

impl Words {
    /// A text with what is known.
    pub(super) fn fill(&self, text: &str) -> String {
        let all = [
            // of PostgreSQL's names
            ("%NAME%", self.key.replace('-', "_")),
            ("%KEY%", self.key.clone()),
            ("%WEB%", self.web.clone()),
            ("%POSTGRES%", self.postgres.clone()),
            ("%MOTO%", self.moto.clone()),
        ];
        all.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }
    /// Variables with what is known.
    pub(super) fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill(text).into(),
            Value::Array(items) => items.iter().map(|item| self.fill_value(item)).collect(),
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), self.fill_value(value))).collect(),
            plain => plain.clone(),
        }
    }
}
