//! `runner isolation`: what workers would get on this machine, without a control plane, credentials or a running runner. The probes are those
//! of every start; this must show nothing else than what a runner that is started as the caller would find.

use crate::config::{Config, Isolation};
use crate::isolation::{Guarantee, Guarantees, Held, Kind};
use crate::spawner::sandboxes::{self, Described};
use crate::spawner::wire::Mechanisms;
use crate::{cli, exit, supervisor};
use serde_json::json;
use std::fmt::Write as _;
use std::os::fd::AsFd as _;

/// Prints it; the exit code: 78 where it is less than `isolation.require`.
pub fn run(config: &Config, profiles: bool, as_json: bool) -> i32 {
    // jobs' folders may be another file system's, which counts
    let found = supervisor::nearest(&config.state_dir).and_then(|state| sandboxes::probe(state.as_fd()));
    let mechanisms = match found {
        Ok(mechanisms) => mechanisms,
        Err(e) => {
            eprintln!("runner: the probes: {e}");
            return exit::OS_ERROR;
        }
    };
    let guarantees = Guarantees::with(&mechanisms);
    let described = if profiles { sandboxes::described(&mechanisms, config) } else { Vec::new() };
    let required = config.isolation_require;
    cli::out(&if as_json {
        as_object(&mechanisms, &guarantees, required, &described).to_string()
    } else {
        table(&mechanisms, &guarantees, required, &described)
    });
    match guarantees.suffice(required) {
        Ok(()) => 0,
        Err(failure) => cli::failed(&failure),
    }
}

fn words(held: Held) -> String {
    match held {
        Held::Enforced(by) => by.to_owned(),
        Held::Partial(why) => format!("partly: {why}"),
        Held::Absent => "NO".to_owned(),
    }
}

fn table(m: &Mechanisms, guarantees: &Guarantees, required: Isolation, described: &[Described]) -> String {
    let mut text = format!(
        "level      {} (operations {}, jobs {}); required: {}\n",
        guarantees.level.as_str(),
        guarantees.operations.as_str(),
        guarantees.jobs.as_str(),
        required.as_str()
    );
    for kind in [Kind::Operation, Kind::Job] {
        let _ = writeln!(text, "{}", kind.as_str());
        for guarantee in Guarantee::ALL {
            let _ = writeln!(text, "  {:24} {}", guarantee.as_str(), words(guarantee.held(kind, m)));
        }
    }
    if !guarantees.missing.is_empty() {
        let _ = writeln!(text, "missing");
        for missing in &guarantees.missing {
            let _ = writeln!(text, "  {missing}");
        }
    }
    for profile in described {
        let _ = writeln!(text, "\nprofile    {}\n  {}", profile.name, profile.what);
        for (name, value) in &profile.facts {
            let _ = writeln!(text, "  {name:24} {value}");
        }
        let _ = writeln!(text, "  {:24} {}", "system calls", profile.calls.join(" "));
    }
    text.trim_end().to_owned()
}

fn as_object(
    m: &Mechanisms,
    guarantees: &Guarantees,
    required: Isolation,
    described: &[Described],
) -> serde_json::Value {
    let of = |kind: Kind, level: Isolation| {
        let held = Guarantee::ALL.map(|g| {
            let held = match g.held(kind, m) {
                Held::Enforced(by) => json!({ "held": "enforced", "by": by }),
                Held::Partial(why) => json!({ "held": "partly", "why": why }),
                Held::Absent => json!({ "held": "no" }),
            };
            (g.as_str().to_owned(), held)
        });
        json!({ "level": level.as_str(), "guarantees": serde_json::Map::from_iter(held) })
    };
    let profiles: Vec<_> = described
        .iter()
        .map(|p| {
            let facts: serde_json::Map<_, _> = p.facts.iter().map(|(n, v)| ((*n).to_owned(), json!(v))).collect();
            json!({ "name": p.name, "what": p.what, "facts": facts, "calls": p.calls })
        })
        .collect();
    json!({
        "level": guarantees.level.as_str(),
        "required": required.as_str(),
        "operations": of(Kind::Operation, guarantees.operations),
        "jobs": of(Kind::Job, guarantees.jobs),
        "missing": guarantees.missing,
        "profiles": profiles,
    })
}
