//! `rules`: the organization's rules for plans, and what rules have said of one.

use super::Session;
use crate::output::{escape, table};
use crate::stop::{self, Done};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::rules::{Effect, FolderError, Gathering, Judgement, Set, load, rego};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

/// The most bytes of a bundle, unpacked, that are looked at.
const BUNDLE_MAX: u64 = 64 * 1024 * 1024;

/// `rules`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RulesCommand {
    /// The organization's rules
    Show,
    /// Put those of a folder, or of an OPA bundle, in their place: `*.toml`, `*.rego` and `data.json` (docs/rules.md)
    Set {
        /// The folder, or the bundle as it is packed (`*.tar.gz`)
        #[arg(value_name = "FOLDER|BUNDLE")]
        from: PathBuf,
    },
    /// Have no rules; those of runners stay
    Remove,
}

/// `rules …`
pub(crate) async fn run(command: RulesCommand, session: &Session) -> Done {
    let client = &session.client;
    match command {
        RulesCommand::Show => {
            let found = session.wait("asking", client.get("/rules")).await?;
            session.output.document(&found, shown)
        }
        RulesCommand::Set { from } => {
            let set = serde_json::to_value(read(&from)?).unwrap_or_default();
            let found = session.wait("putting the rules in place", client.put("/rules", &set)).await?;
            session.output.document(&found, shown)
        }
        RulesCommand::Remove => {
            session.wait("removing the rules", client.delete("/rules")).await?;
            session.output.document(&Value::Null, |_| "The organization has no rules for plans.\n".to_owned())
        }
    }
}

fn read(from: &Path) -> Result<Set, Failure> {
    std::fs::metadata(from).map_err(|e| stop::file(from, &e))?;
    let found = if from.is_file() { unpacked(from).map(Some) } else { load(from) };
    let found = found.map_err(|e| Code::InvalidArgument.on(e.to_string()).next("Correct the file."))?;
    let nothing = || {
        Code::InvalidArgument
            .on(format!("{}: there are no rules in it", from.display()))
            .next("Name a folder with `*.toml` or `*.rego`; `runnerctl rules remove` removes them.")
    };
    let set = found.filter(|set| !set.is_empty()).ok_or_else(nothing)?;
    let unreadable = |what: String| {
        Code::InvalidArgument
            .on(format!("{}: its rules in Rego cannot be read: {what}", from.display()))
            .next("Correct the module: every plan would be denied for it.")
    };
    rego::read(&set).map_err(unreadable)?;
    Ok(set)
}

/// The rules of a bundle. It is read no further than a set may be long, whatever it unpacks to.
fn unpacked(bundle: &Path) -> Result<Set, FolderError> {
    let no_archive = |e: std::io::Error| FolderError::Wrong {
        path: bundle.to_owned(),
        what: format!("it is no tar archive that is packed with gzip: {e}"),
    };
    let unreadable = |source| FolderError::Unreadable { path: bundle.to_owned(), source };
    let file = std::fs::File::open(bundle).map_err(unreadable)?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file).take(BUNDLE_MAX));
    let mut gathering = Gathering::new(bundle);
    for entry in archive.entries().map_err(no_archive)? {
        let entry = entry.map_err(no_archive)?;
        let kind = entry.header().entry_type();
        // `/x`, as `opa build` writes it, `./x`, as tar does, and `x` are one
        let written = entry.path().map_err(no_archive)?.into_owned();
        let wrong = |what: &str| FolderError::Wrong { path: bundle.join(&written), what: what.to_owned() };
        if written.components().any(|part| part == Component::ParentDir) {
            return Err(wrong("its name leads out of the bundle"));
        }
        let name: PathBuf = written.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        if (kind.is_file() || kind.is_symlink() || kind.is_hard_link()) && gathering.wants(&name)? {
            if !kind.is_file() {
                return Err(wrong("it is a link, and none is followed"));
            }
            gathering.add(&name, entry)?;
        }
    }
    gathering.finish()
}

fn shown(found: &Value) -> String {
    let set: Set = serde_json::from_value(found["rules"].clone()).unwrap_or_default();
    if set.is_empty() {
        return "The organization has no rules for plans.\n".to_owned();
    }
    let of_patterns = set.rule.iter().map(|rule| {
        let effect = match rule.approvals {
            Some(n) => format!("{} {n}", rule.effect.as_str()),
            None => rule.effect.as_str().to_owned(),
        };
        vec![escape::line(&rule.name), effect, escape::line(&rule.message)]
    });
    let programs = set.rego.iter().map(|module| vec![escape::line(&module.name), "rego".into(), String::new()]);
    let mut text = table::rows(&["NAME", "EFFECT", "MESSAGE"], of_patterns.chain(programs), "");
    text.push_str(&format!(
        "\nChanged by {} at {}\n",
        table::text(found, "/changed_by"),
        table::moment(found, "/changed_at_ms")
    ));
    text
}

/// What rules have said of a job's plan.
pub(super) fn judgement(job: &Value) -> Judgement {
    serde_json::from_value(job["plan"]["judgement"].clone()).unwrap_or_default()
}

/// How much they said of each.
pub(super) fn summary(judgement: &Judgement) -> String {
    let count = |effect| judgement.findings.iter().filter(|finding| finding.effect == effect).count();
    let of = [(Effect::Deny, "deny"), (Effect::Approve, "want approval"), (Effect::Warn, "warn")];
    let said = of.map(|(effect, words)| (count(effect), words)).into_iter().filter(|(n, _)| *n > 0);
    said.map(|(n, words)| format!("{n} {words}")).collect::<Vec<_>>().join(", ")
}

/// Each of it in a line.
pub(super) fn findings(judgement: &Judgement) -> Vec<String> {
    let mut lines: Vec<_> = judgement
        .findings
        .iter()
        .map(|finding| {
            let effect = match finding.effect {
                Effect::Deny => "denied".to_owned(),
                Effect::Approve if finding.approvals == 1 => "wants the approval of another person".to_owned(),
                Effect::Approve => format!("wants the approval of {} others", finding.approvals),
                Effect::Warn => "warning".to_owned(),
            };
            let of = if finding.address.is_empty() { String::new() } else { format!("{}: ", finding.address) };
            format!("· {effect} by rule {} of the {}: {of}{}", finding.rule, finding.source, finding.message)
        })
        .collect();
    if judgement.left_out > 0 {
        lines.push(format!("· and {} more", judgement.left_out));
    }
    lines
}

/// Who has approved a job's plan, of the people whom rules want.
pub(super) fn approvers(job: &Value) -> Vec<String> {
    let names = job["plan"]["approvers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

/// What rules make of a plan as a whole, in a sentence; none where they leave it as it is.
pub(super) fn verdict(judgement: &Judgement, approvers: &[String]) -> Option<String> {
    if judgement.denied {
        return Some("Rules deny it: nothing of it is applied.".to_owned());
    }
    let people = match judgement.approvals {
        0 => return None,
        1 => "another person".to_owned(),
        several => format!("{several} other people"),
    };
    let by = if approvers.is_empty() { String::new() } else { format!(", {}", approvers.join(", ")) };
    Some(format!("Rules want the approval of {people} before it is applied; given by {}{by}.", approvers.len()))
}

/// The same in few words, nothing of which comes from outside.
pub(super) fn verdict_in_short(judgement: &Judgement, approvers: &[String]) -> Option<String> {
    match judgement.approvals {
        _ if judgement.denied => Some("denied by rules".to_owned()),
        0 => None,
        wanted => {
            let approvals = if wanted == 1 { "approval" } else { "approvals" };
            Some(format!("{wanted} {approvals} wanted by rules, {} given", approvers.len()))
        }
    }
}

/// What rules still want of people, where they do.
pub(super) fn people(job: &Value) -> Option<String> {
    let wanted = judgement(job).approvals;
    if wanted == 0 || job["phase"] != "awaiting_approval" {
        return None;
    }
    let names = approvers(job);
    let by = if names.is_empty() { String::new() } else { format!(" ({})", escape::line(&names.join(", "))) };
    Some(format!("{} of {wanted}{by}", names.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_still_wanted_is_said() {
        let job = |approvals: u32, approvers: &[&str]| json!({ "phase": "awaiting_approval", "plan": { "judgement": { "approvals": approvals }, "approvers": approvers } });
        assert_eq!(people(&job(0, &[])), None);
        assert_eq!(people(&job(2, &[])).as_deref(), Some("0 of 2"));
        assert_eq!(people(&job(2, &["bob"])).as_deref(), Some("1 of 2 (bob)"));
        let mut applying = job(2, &["bob", "eve"]);
        applying["phase"] = "applying".into();
        assert_eq!(people(&applying), None);
    }

    /// A bundle with these files.
    fn bundle(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let bundle = tempfile::NamedTempFile::new().expect("a file");
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(&bundle, flate2::Compression::fast()));
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(text.len() as u64);
            header.set_cksum();
            tar.append(&header, text.as_bytes()).expect("packs");
        }
        tar.into_inner().expect("packs").finish().expect("compresses");
        bundle
    }

    #[test]
    fn a_bundle_is_read_as_it_is_packed() {
        let packed = bundle(&[
            ("/data.json", "{\"a\": 1}"),
            ("/policies/plan.rego", "package runner.plan"),
            ("/.manifest", "{}"),
            ("./rules.toml", "[[rule]]\nname = \"stays\"\n"),
        ]);
        let set = read(packed.path()).expect("rules");
        assert_eq!((set.rule.len(), set.rego[0].name.as_str()), (1, "policies.plan.rego"));
        assert_eq!(set.data, Some(json!({ "a": 1 })));
        for (files, words) in [
            (&[("README.md", "words")][..], "no rules in it"),
            (&[("a.toml", "[[rule]]\nnam = 1\n")], "a.toml: TOML parse error"),
            (&[("../plan.rego", "package runner.plan")], "leads out of the bundle"),
        ] {
            let packed = bundle(files);
            let failure = read(packed.path()).expect_err(words);
            assert!(failure.message.contains(words), "{failure}");
        }
        let linked = tempfile::NamedTempFile::new().expect("a file");
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(&linked, flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "data.json", "/etc/passwd").expect("packs");
        tar.into_inner().expect("packs").finish().expect("compresses");
        let failure = read(linked.path()).expect_err("a link");
        assert!(failure.message.contains("data.json: it is a link"), "{failure}");
        let broken = bundle(&[("a.rego", "package runner.plan")]);
        let bytes = std::fs::read(broken.path()).expect("reads");
        std::fs::write(broken.path(), &bytes[..bytes.len() / 2]).expect("cuts");
        assert_eq!(read(broken.path()).expect_err("half of it").code, Code::InvalidArgument);
    }

    #[test]
    fn what_is_no_folder_and_no_bundle_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let said = |path: &Path| read(path).expect_err("refused").message;
        assert!(said(&folder.path().join("gone")).contains("No such file"));
        assert!(said(folder.path()).contains("there are no rules in it"));
        let plain = folder.path().join("plain.tar");
        std::fs::write(&plain, vec![0; 1024]).expect("writes");
        assert!(said(&plain).contains("no tar archive that is packed with gzip"), "{}", said(&plain));
    }

    #[test]
    fn findings_are_lines() {
        let judgement: Judgement = serde_json::from_value(json!({
            "findings": [
                { "source": "runner", "rule": "stays", "effect": "deny", "message": "it is destroyed", "address": "a.b" },
                { "source": "organization", "rule": "two", "effect": "approve", "message": "ask", "approvals": 2 },
            ],
            "left_out": 3,
        }))
        .expect("a judgement");
        assert_eq!(
            findings(&judgement),
            [
                "· denied by rule stays of the runner: a.b: it is destroyed",
                "· wants the approval of 2 others by rule two of the organization: ask",
                "· and 3 more",
            ]
        );
        assert_eq!(summary(&judgement), "1 deny, 1 want approval");
    }

    #[test]
    fn what_rules_make_of_a_plan_is_a_sentence() {
        let of = |denied: bool, approvals: u32, names: &[&str]| {
            let judgement = Judgement { denied, approvals, ..Judgement::default() };
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            (verdict(&judgement, &names).unwrap_or_default(), verdict_in_short(&judgement, &names).unwrap_or_default())
        };
        assert_eq!(of(false, 0, &["ann"]), (String::new(), String::new()));
        assert!(of(true, 2, &[]).0.starts_with("Rules deny it") && of(true, 2, &[]).1 == "denied by rules");
        let (long, short) = of(false, 2, &["bob"]);
        assert_eq!(long, "Rules want the approval of 2 other people before it is applied; given by 1, bob.");
        assert_eq!(short, "2 approvals wanted by rules, 1 given");
        assert!(of(false, 1, &[]).0.contains("of another person before it is applied; given by 0."));
    }
}
