//! The schema of `policy.toml`.

use super::decision::{Effect, Secrets};
use super::limits::{CONCURRENCY_MAX, Limit, Rate};
use super::reader::{self, Keys, Place, PolicyError};
use super::request::Section;
use super::rule::{Matcher, Patterns, Rule};
use super::window::Window;
use super::{Rules, matchers};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;
use toml::de::DeValue;

/// The version of the format.
pub const VERSION: u32 = 1;
/// The longest file, bytes.
pub const FILE_MAX: u64 = 256 << 10;
/// The most rules in all sections together.
pub const RULES_MAX: usize = 512;
/// The longest name of a rule, bytes.
pub const NAME_MAX: usize = 64;

/// The keys that a rule of any section has.
const OF_EVERY_RULE: &[&str] =
    &["name", "effect", "people", "groups", "connections", "hours", "days", "utc_offset", "concurrency", "rate"];
/// The keys that only an allow rule has: they bound what is allowed, and a denial has nothing to bound.
const OF_ALLOW: &[&str] = &["read_only", "secrets", "record", "reconcile", "concurrency", "rate"];

/// The keys that a rule of that section has beside them.
const fn own_keys(section: Section) -> &'static [&'static str] {
    match section {
        Section::Kubernetes => {
            &["verbs", "resources", "namespaces", "names", "containers", "paths", "read_only", "secrets", "record"]
        }
        Section::Aws => &["services", "actions", "regions", "read_only"],
        Section::Gcp | Section::Azure => &["services", "methods", "regions", "read_only"],
        Section::Jobs => &["kinds", "engines", "stacks", "source_hosts", "secret_stores", "reconcile"],
        Section::ConnectionTests => &["providers"],
    }
}

/// Every key of every rule.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    OF_EVERY_RULE.iter().copied().chain(Section::ALL.into_iter().flat_map(own_keys).copied())
}

/// The sections of a file.
///
/// # Errors
/// Where it is wrong.
pub(super) fn parse(text: &str) -> Result<BTreeMap<Section, Rules>, PolicyError> {
    let document = reader::parse(text)?;
    let known: Vec<&str> = ["version"].into_iter().chain(Section::ALL.map(Section::as_str)).collect();
    let top = Keys::new(Place::top(text), document.get_ref(), 0..0, &known)?;
    match top.number("version", 0, u32::MAX)? {
        Some(VERSION) => {}
        Some(_) => {
            return Err(
                top.wrong("version", format!("this runner knows version {VERSION}: write that, or upgrade the runner"))
            );
        }
        None => {
            return Err(top.wrong("version", format!("the file needs `version = {VERSION}`, before its first section")));
        }
    }
    let mut names = BTreeMap::new();
    let mut sections = BTreeMap::new();
    for section in Section::ALL {
        if let Some(value) = top.get(section.as_str()) {
            let place = top.place.within(&format!("[{section}]"));
            if value.get_ref().is_array() {
                let what =
                    format!("the section is a table: write [{section}] once, and [[{section}.rule]] for each rule");
                return Err(place.wrong(value.span().start, "", what));
            }
            let known: &[&str] = if section == Section::Kubernetes { &["exec", "secrets", "rule"] } else { &["rule"] };
            let keys = Keys::of(place, "", value, known)?;
            sections.insert(section, rules(section, &keys, &mut names)?);
        }
    }
    Ok(sections)
}

fn rules(section: Section, keys: &Keys<'_, '_>, names: &mut BTreeMap<Arc<str>, usize>) -> Result<Rules, PolicyError> {
    let exec = keys.flag("exec")?.unwrap_or(true);
    let secrets = secrets(keys)?.unwrap_or_default();
    let mut rules = Vec::new();
    for value in keys.tables("rule")? {
        let rule = rule(section, exec, keys, value)?;
        let line = keys.place.line(value.span().start);
        if names.len() >= RULES_MAX {
            return Err(keys.place.wrong(
                value.span().start,
                "rule",
                format!("the file has more than {RULES_MAX} rules"),
            ));
        }
        if let Some(earlier) = names.insert(Arc::clone(&rule.name), line) {
            let what =
                format!("a rule at line {earlier} has that name already: every rule of the file has one of its own");
            return Err(keys.place.within(&format!("rule {:?}", &*rule.name)).wrong(value.span().start, "name", what));
        }
        rules.push(Arc::new(rule));
    }
    Ok(Rules { exec, secrets, rules })
}

fn rule(section: Section, exec: bool, of: &Keys<'_, '_>, value: &Spanned<DeValue<'_>>) -> Result<Rule, PolicyError> {
    let known: Vec<&'static str> = OF_EVERY_RULE.iter().chain(own_keys(section)).copied().collect();
    // the name first: every other error is said with it
    let named = value.get_ref().as_table().and_then(|table| table.get("name")).and_then(|v| v.get_ref().as_str());
    let place = match named {
        Some(name) => of.place.within(&format!("rule {:?}", name.chars().take(NAME_MAX).collect::<String>())),
        None => of.place.within("a rule"),
    };
    let keys = Keys::of(place, "", value, &known)?;
    let name = keys.text("name")?.ok_or_else(|| keys.wrong("name", "the rule has no name: logs and audit need one"))?;
    if name.is_empty()
        || name.len() > NAME_MAX
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        let what = format!("a name has letters, digits, `-`, `.` and `_`, from 1 to {NAME_MAX} of them");
        return Err(keys.wrong("name", what));
    }
    let name: Arc<str> = name.into();
    let effect = match keys.text("effect")? {
        Some("allow") => Effect::Allow,
        Some("deny") => Effect::Deny,
        Some(_) | None => return Err(keys.wrong("effect", "it must be \"allow\" or \"deny\"")),
    };
    if effect == Effect::Deny
        && let Some(key) = OF_ALLOW.iter().find(|key| keys.get(key).is_some())
    {
        return Err(keys.wrong(key, "it bounds what a rule allows, and this one denies: leave it out"));
    }
    let concurrency = keys.number("concurrency", 1, CONCURRENCY_MAX)?;
    let rate = keys.text("rate")?.map(Rate::parse).transpose().map_err(|what| keys.wrong("rate", what))?;
    let matcher = match section {
        Section::Kubernetes => Matcher::Kubernetes(matchers::kubernetes(&keys, effect, exec)?),
        Section::Aws | Section::Gcp | Section::Azure => Matcher::Cloud(matchers::cloud(section, &keys)?),
        Section::Jobs => Matcher::Jobs(matchers::jobs(&keys)?),
        Section::ConnectionTests => Matcher::ConnectionTests { providers: matchers::providers(&keys)? },
    };
    Ok(Rule {
        effect,
        keys: written(&keys, &known)?,
        people: Patterns(keys.globs("people")?),
        groups: Patterns(keys.globs("groups")?),
        connections: Patterns(keys.globs("connections")?),
        window: window(&keys)?,
        matcher,
        secrets: secrets(&keys)?,
        record: section == Section::Kubernetes && keys.flag("record")?.unwrap_or(false),
        reconcile: section == Section::Jobs && keys.flag("reconcile")?.unwrap_or(false),
        limit: (concurrency.is_some() || rate.is_some()).then(|| Limit { rule: Arc::clone(&name), concurrency, rate }),
        name,
    })
}

fn window(keys: &Keys<'_, '_>) -> Result<Option<Window>, PolicyError> {
    let (hours, offset) = (keys.text("hours")?, keys.text("utc_offset")?);
    let days = keys.list("days")?.map(|days| days.into_iter().map(|(day, _)| day.to_owned()).collect::<Vec<_>>());
    if hours.is_none() && days.is_none() {
        return match offset {
            Some(_) => Err(keys.wrong("utc_offset", "it moves hours and days, and the rule has neither")),
            None => Ok(None),
        };
    }
    Window::parse(hours, days.as_deref(), offset).map(Some).map_err(|(key, what)| keys.wrong(key, what))
}

fn secrets(keys: &Keys<'_, '_>) -> Result<Option<Secrets>, PolicyError> {
    let wanted = "\"masked\", \"shown\" or { shown_types = [\"…\"] }";
    match keys.get("secrets").map(|value| (value, value.get_ref())) {
        None => Ok(None),
        Some((_, DeValue::String(text))) if &**text == "masked" => Ok(Some(Secrets::Masked)),
        Some((_, DeValue::String(text))) if &**text == "shown" => Ok(Some(Secrets::Shown)),
        Some((_, DeValue::String(_))) => Err(keys.wrong("secrets", format!("it must be {wanted}"))),
        Some((value, DeValue::Table(_))) => {
            let inner = Keys::of(keys.place.within("secrets"), "secrets", value, &["shown_types"])?;
            let types = inner.globs("shown_types")?;
            types
                .map(|types| Some(Secrets::ShownTypes(types)))
                .ok_or_else(|| keys.wrong("secrets", format!("it must be {wanted}")))
        }
        Some((value, _)) => Err(keys.misshapen("secrets", value, wanted)),
    }
}

/// What the file says, in its own words, for explanations and for the summary.
fn written(keys: &Keys<'_, '_>, known: &[&'static str]) -> Result<Vec<(&'static str, Vec<String>)>, PolicyError> {
    let mut said = Vec::new();
    for key in known.iter().filter(|key| !matches!(**key, "name" | "effect")) {
        let Some(value) = keys.get(key) else { continue };
        let words = match value.get_ref() {
            DeValue::Array(_) => {
                keys.list(key)?.unwrap_or_default().into_iter().map(|(text, _)| text.to_owned()).collect()
            }
            DeValue::String(text) => vec![text.to_string()],
            DeValue::Boolean(flag) => vec![flag.to_string()],
            DeValue::Integer(number) => vec![number.as_str().to_owned()],
            _ => secrets(keys)?.map(|secrets| vec![secrets.written()]).unwrap_or_default(),
        };
        said.push((*key, words));
    }
    Ok(said)
}
