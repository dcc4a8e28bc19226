//! Values and attributes in a line or a few, whatever they hold: quoted as JSON, made harmless, cut where they are long.

use super::lines::{Line, Tone};
use crate::output::escape;
use serde_json::Value;
use shared_proto::plan::AttributeChange;

/// The most characters of a value; `-o json` has the rest.
const SHOWN: usize = 160;
/// The most lines of each side of a text that has several.
const LINES: usize = 20;
/// What is known once the plan was applied.
const LATER: &str = "(known after apply)";
/// What is not shown.
const HIDDEN: &str = "(sensitive)";

/// A value in one line.
pub(super) fn value(of: &Value) -> String {
    // its quotes and escapes are JSON's, so that a line break in a text is none here
    let text = escape::line(&of.to_string());
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], of.as_str().map_or(text.len(), str::len)),
        None => text,
    }
}

/// What changes in one place, in one line where it fits into the width. `whole`: all of it comes or goes, and nothing is to be said of its other side.
pub(super) fn attribute(of: &AttributeChange, whole: bool, depth: usize, width: usize, lines: &mut Vec<Line>) {
    let path = if of.path.is_empty() { String::new() } else { format!("{}: ", escape::line(&of.path)) };
    let note = note(of);
    if let (Some(Value::String(before)), Some(Value::String(after))) = (&of.before, &of.after)
        && let Some((before, after)) = several(before, after)
    {
        heading(&path, &note, depth, lines);
        return several_lines(&before, &after, depth + 1, lines);
    }
    let (before, after) = (of.before.as_ref().map(value), of.after.as_ref().map(value));
    let after = match (of.unknown, of.sensitive) {
        (true, false) => Some(LATER.to_owned()),
        _ => after,
    };
    let (tone, text) = match (before, after) {
        _ if of.sensitive && of.unknown => (Tone::Change, format!("{HIDDEN}, {}", LATER.trim_matches(['(', ')']))),
        _ if of.sensitive => (Tone::Change, HIDDEN.to_owned()),
        (Some(before), Some(after)) => {
            let one = format!("{path}{before} → {after}{note}");
            if 2 * depth + one.chars().count() > width {
                heading(&path, &note, depth, lines);
                lines.push(Line::new(Tone::Remove, depth + 1, format!("- {before}")));
                lines.push(Line::new(Tone::Add, depth + 1, format!("+ {after}")));
                return;
            }
            (Tone::Change, format!("{before} → {after}"))
        }
        (Some(before), None) if whole => (Tone::Remove, before),
        (Some(before), None) => (Tone::Remove, format!("{before} → (nothing)")),
        (None, Some(after)) => (Tone::Add, after),
        (None, None) => (Tone::Change, "(too long to be shown)".to_owned()),
    };
    lines.push(Line::new(tone, depth, format!("{path}{text}{note}")));
}

/// What stands above lines of their own, where there is anything.
fn heading(path: &str, note: &str, depth: usize, lines: &mut Vec<Line>) {
    let text = format!("{}{note}", path.trim_end());
    if !text.is_empty() {
        lines.push(Line::new(Tone::Change, depth, text));
    }
}

fn note(of: &AttributeChange) -> String {
    let mut note = String::new();
    if of.only_sensitivity {
        note.push_str(", the same: what changes is whether it is sensitive");
    }
    if of.cut > 0 {
        note.push_str(&format!(", {} bytes left out", of.cut));
    }
    if of.forces_replacement {
        note.push_str("  # forces replacement");
    }
    note
}

/// Both sides as lines, where either has several: texts as they are, JSON as people write it.
fn several(before: &str, after: &str) -> Option<(Vec<String>, Vec<String>)> {
    let json = |text: &str| {
        let parsed: Value = serde_json::from_str(text).ok().filter(|v: &Value| v.is_object() || v.is_array())?;
        serde_json::to_string_pretty(&parsed).ok()
    };
    let lines = |text: &str| text.split('\n').map(escape::line).collect::<Vec<_>>();
    match (json(before), json(after)) {
        (Some(before), Some(after)) => Some((lines(&before), lines(&after))),
        _ if before.contains('\n') || after.contains('\n') => Some((lines(before), lines(after))),
        _ => None,
    }
}

/// What is between the lines with which both begin and end.
fn several_lines(before: &[String], after: &[String], depth: usize, lines: &mut Vec<Line>) {
    let shorter = before.len().min(after.len());
    let first = (0..shorter).take_while(|&n| before[n] == after[n]).count();
    let last = (0..shorter - first).take_while(|&n| before[before.len() - 1 - n] == after[after.len() - 1 - n]).count();
    let mut side = |sign: &str, tone: Tone, of: &[String]| {
        for line in of.iter().take(LINES) {
            let text: String = line.chars().take(SHOWN).collect();
            let cut = if text.len() < line.len() { "…" } else { "" };
            lines.push(Line::new(tone, depth, format!("{sign} {text}{cut}").trim_end().to_owned()));
        }
        if of.len() > LINES {
            lines.push(Line::new(tone, depth, format!("{sign} … {} lines more", of.len() - LINES)));
        }
    };
    side("-", Tone::Remove, &before[first..before.len() - last]);
    side("+", Tone::Add, &after[first..after.len() - last]);
}
