//! What one step came to, whoever did it, in one form: what is by chance of one run (ids, moments, names of places) stands there as what it is.

use anyhow::{Result, bail};
use regex::Regex;
use runner_tests::compare::first_difference;
use serde_json::{Value, json};

/// What was seen of one step.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The phase in which it ended.
    pub(super) end: String,
    /// The engine's command that failed, and its exit code.
    pub(super) failed: Option<(String, i64)>,
    diagnostics: Vec<String>,
    /// What the plan would do.
    planned: Vec<String>,
    /// What was done with which resource.
    done: Vec<String>,
    /// The engine's own words for all of it.
    summaries: Vec<String>,
    pub(super) outputs: Value,
    pub(super) state: Value,
}

/// How a text becomes one that the other way would have, too.
pub(super) struct Plain {
    id: Regex,
    time: Regex,
    variables: Regex,
    call: Regex,
    /// The names of one way, in both spellings, and its folder.
    own: Vec<String>,
}

// === impl Plain ===

impl Plain {
    pub(super) fn new(own: impl IntoIterator<Item = String>) -> Result<Self> {
        Ok(Self {
            id: Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")?,
            time: Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")?,
            variables: Regex::new(r"[^\s<>:]*/variables\.tfvars\.json")?,
            call: Regex::new(r"\(\*GRPCProvider\)\.(\w+)")?,
            own: own.into_iter().collect(),
        })
    }

    fn text(&self, text: &str) -> String {
        let text = self.own.iter().fold(text.to_owned(), |text, own| text.replace(own, "(own)"));
        let text = self.variables.replace_all(&text, "(variables)");
        let text = self.id.replace_all(&text, "(id)");
        self.time.replace_all(&text, "(time)").into_owned()
    }

    pub(super) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(map) => map.iter().map(|(key, value)| (self.text(key), self.value(value))).collect(),
            plain => plain.clone(),
        }
    }

    /// A state without what tells one from another: where nothing is in it, it is none.
    pub(super) fn state(&self, state: &[u8]) -> Result<Value> {
        let mut state: Value = serde_json::from_slice(state)?;
        let is_empty = |part: &str| match &state[part] {
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => true,
        };
        if is_empty("resources") && is_empty("outputs") {
            return Ok(Value::Null);
        }
        // an engine writes them in any order
        if let Some(checks) = state.get_mut("check_results").and_then(Value::as_array_mut) {
            checks.sort_by_cached_key(|check| check["config_addr"].to_string());
        }
        if let Some(state) = state.as_object_mut() {
            state.remove("lineage");
            state.remove("serial");
        }
        Ok(self.value(&state))
    }
}

// === impl Seen ===

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

impl Seen {
    /// A line of the engine's own, as `-json` has it:
    /// <https://developer.hashicorp.com/terraform/internals/machine-readable-ui>.
    pub(super) fn line(&mut self, line: &Value, plain: &Plain) {
        let (kind, hook, change) = (text(line, "type"), &line["hook"], &line["change"]);
        match kind {
            "diagnostic" => {
                let said = &line["diagnostic"];
                let range = &said["range"];
                self.diagnostic(said, text(range, "filename"), &range["start"]["line"], plain);
            }
            "planned_change" | "resource_drift" => {
                let reason = Some(text(change, "reason")).filter(|reason| !reason.is_empty());
                let otherwise = if kind == "resource_drift" { "drift" } else { "" };
                let (address, action) = (text(&change["resource"], "addr"), text(change, "action"));
                self.planned.push(plain.text(&format!("{address} {action} {}", reason.unwrap_or(otherwise))));
            }
            "change_summary" => self.summaries.push(text(line, "@message").to_owned()),
            _ => {
                let Some((what, moment)) = kind.rsplit_once('_').filter(|_| hook.is_object()) else { return };
                let action = match what {
                    "apply" | "ephemeral_op" => text(hook, "action").to_owned(),
                    "refresh" => "refresh".to_owned(),
                    "provision" => format!("provision:{}", text(hook, "provisioner")),
                    _ => return,
                };
                let state = match moment {
                    "complete" => "complete",
                    "errored" => "failed",
                    _ => return,
                };
                self.done(text(&hook["resource"], "addr"), &action, state, plain);
            }
        }
    }

    /// An event of a job.
    pub(super) fn event(&mut self, kind: &str, body: &Value, plain: &Plain) {
        match kind {
            "diagnostic" => self.diagnostic(body, text(body, "file"), &body["line"], plain),
            "planned_change" => {
                let (address, action, reason) = (text(body, "address"), text(body, "action"), text(body, "reason"));
                self.planned.push(plain.text(&format!("{address} {action} {reason}")));
            }
            "change_summary" => self.summaries.push(text(body, "text").to_owned()),
            "resource_progress" if ["complete", "failed"].contains(&text(body, "state")) => {
                self.done(text(body, "address"), text(body, "action"), text(body, "state"), plain);
            }
            _ => {}
        }
    }

    fn diagnostic(&mut self, said: &Value, file: &str, line: &Value, plain: &Plain) {
        let [severity, summary, detail, address] =
            ["severity", "summary", "detail", "address"].map(|key| text(said, key));
        let line = line.as_u64().unwrap_or_default();
        // by what it happens to see first, an engine says either of a call to a plug-in that has died
        let call =
            plain.call.captures(detail).filter(|_| ["Plugin did not respond", "Request cancelled"].contains(&summary));
        let died = call.map(|call| format!("a plug-in that has died did not answer {}", &call[1]));
        // and a circle has no beginning
        let circle = summary.strip_prefix("Cycle: ").map(|names| {
            let mut names: Vec<_> = names.split(", ").collect();
            names.sort_unstable();
            format!("Cycle: {}", names.join(", "))
        });
        let summary = circle.as_deref().unwrap_or(summary);
        let (summary, detail) = died.as_deref().map_or((summary, detail), |died| (died, ""));
        self.diagnostics.push(plain.text(&format!("{severity}: {summary}\n{detail}\n({address}) at {file} :{line}")));
    }

    fn done(&mut self, address: &str, action: &str, state: &str, plain: &Plain) {
        self.done.push(plain.text(&format!("{address} {action} {state}")));
    }

    fn parts(&self) -> [(&'static str, Value); 8] {
        // what is done side by side is told in any order
        let sorted = |all: &[String]| {
            let mut all = all.to_vec();
            all.sort();
            json!(all)
        };
        [
            ("end", json!(self.end)),
            ("exit", json!(self.failed)),
            ("diagnostics", sorted(&self.diagnostics)),
            ("plan", sorted(&self.planned)),
            ("progress", sorted(&self.done)),
            ("summaries", json!(self.summaries)),
            ("outputs", self.outputs.clone()),
            ("state", self.state.clone()),
        ]
    }

    /// Whether the runner has done what is done by hand.
    ///
    /// # Errors
    /// What is another.
    pub(super) fn agrees(&self, by_hand: &Self) -> Result<()> {
        for ((what, ours), (_, theirs)) in self.parts().into_iter().zip(by_hand.parts()) {
            if ours != theirs {
                let (ours, theirs) = (format!("{ours:#}"), format!("{theirs:#}"));
                let (left, right) = first_difference(&ours, &theirs).unwrap_or_default();
                bail!("{what}: {left:?} by the runner, {right:?} by hand\nby the runner: {ours}\nby hand: {theirs}");
            }
        }
        Ok(())
    }
}
