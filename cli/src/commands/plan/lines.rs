//! A plan as lines: first what is replaced and destroyed, then the rest by module, then outputs, and apart from them what others have changed and what
//! checks say. Every text of the plan is harmless in them: one line each, and no escape.

use super::values;
use crate::output::escape;
use shared_proto::plan::{Action, AttributeChange, Document, LeftOut, OutputChange, ResourceChange, words};

/// The most attributes of one resource; `-o json` has the rest.
const ATTRIBUTES: usize = 40;

/// What a line says, for whoever has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// A heading.
    Heading,
    /// Beside the plan.
    Remark,
    /// Comes.
    Add,
    /// Changes.
    Change,
    /// Goes.
    Remove,
    /// Stays.
    Plain,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) tone: Tone,
    /// Two columns each.
    pub(super) depth: usize,
    /// Harmless text.
    pub(super) text: String,
}

// === impl Line ===

impl Line {
    pub(super) fn new(tone: Tone, depth: usize, text: String) -> Self {
        Self { tone, depth, text }
    }
    pub(super) fn heading(text: &str) -> Self {
        Self::new(Tone::Heading, 0, text.to_owned())
    }
    pub(super) fn remark(text: &str) -> Self {
        Self::new(Tone::Remark, 0, text.to_owned())
    }
    pub(super) fn blank() -> Self {
        Self::new(Tone::Plain, 0, String::new())
    }
}

/// A heading of many words, broken between them where it is wider.
pub(super) fn headings(text: &str, width: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if 2 * line.depth + line.text.chars().count() + 1 + word.chars().count() <= width => {
                line.text.push(' ');
                line.text.push_str(word);
            }
            last => {
                let depth = usize::from(last.is_some());
                lines.push(Line::new(Tone::Heading, depth, word.to_owned()));
            }
        }
    }
    lines
}

/// Lines as a text.
pub(super) fn text(lines: &[Line], colour: bool) -> String {
    let mut text = String::new();
    for line in lines {
        let colour = match (colour && !line.text.is_empty(), line.tone) {
            (false, _) | (true, Tone::Plain) => "",
            (true, Tone::Heading) => "\x1b[1m",
            (true, Tone::Remark) => "\x1b[2m",
            (true, Tone::Add) => "\x1b[32m",
            (true, Tone::Change) => "\x1b[33m",
            (true, Tone::Remove) => "\x1b[31m",
        };
        let end = if colour.is_empty() { "" } else { "\x1b[0m" };
        text.extend(std::iter::repeat_n("  ", line.depth));
        text.push_str(&format!("{colour}{}{end}\n", line.text));
    }
    text
}

/// The plan without its first line.
pub(super) fn of(document: &Document, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let (first, rest): (Vec<_>, Vec<_>) = document.resources.iter().partition(|r| r.action.destroys());
    section("Replaced and destroyed", &mut lines, |lines| {
        for resource in first {
            self::resource(resource, &resource.address, 1, width, lines);
        }
    });
    section("Other changes", &mut lines, |lines| by_module(rest, width, lines));
    section("Outputs", &mut lines, |lines| document.outputs.iter().for_each(|o| output(o, width, lines)));
    section("Changed by others since the last job (drift), apart from this plan", &mut lines, |lines| {
        for resource in &document.drift {
            self::resource(resource, &resource.address, 1, width, lines);
        }
    });
    section("Checks", &mut lines, |lines| {
        for check in document.checks.iter().filter(|check| check.status != "pass") {
            let tone = if check.status == "unknown" { Tone::Plain } else { Tone::Remove };
            let (address, status) = (escape::line(&check.address), escape::line(&check.status));
            lines.push(Line::new(tone, 1, format!("{address}: {status}")));
            lines.extend(check.problems.iter().map(|problem| Line::new(tone, 2, escape::line(problem))));
        }
    });
    lines
}

/// Resources alone, with what changes in them.
pub(super) fn of_resources(of: &[ResourceChange], width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    of.iter().for_each(|of| resource(of, &of.address, 1, width, &mut lines));
    lines
}

/// A section, where there is anything in it.
fn section(heading: &str, lines: &mut Vec<Line>, fill: impl FnOnce(&mut Vec<Line>)) {
    let mut inside = Vec::new();
    fill(&mut inside);
    if !inside.is_empty() {
        lines.extend([Line::blank(), Line::heading(heading)]);
        lines.append(&mut inside);
    }
}

/// Each thing that the plan would destroy, without what changes in it.
pub(super) fn heads_of_destroyed(document: &Document) -> Vec<Line> {
    document.resources.iter().filter(|r| r.action.destroys()).map(|r| head(r, &r.address, 1)).collect()
}

fn by_module(mut resources: Vec<&ResourceChange>, width: usize, lines: &mut Vec<Line>) {
    // the root module's come first; within a module they stay in their order
    resources.sort_by_key(|resource| modules(&resource.module));
    let mut open: Vec<&str> = Vec::new();
    for of in resources {
        let modules = modules(&of.module);
        let common = open.iter().zip(&modules).take_while(|(a, b)| a == b).count();
        for (depth, module) in modules.iter().enumerate().skip(common) {
            lines.push(Line::new(Tone::Heading, depth + 1, escape::line(module)));
        }
        let depth = modules.len() + 1;
        open = modules;
        let own = of.address.strip_prefix(&of.module).and_then(|own| own.strip_prefix('.'));
        resource(of, own.filter(|_| !of.module.is_empty()).unwrap_or(&of.address), depth, width, lines);
    }
}

/// The modules that an address of one goes through: `module.a["x.y"].module.b` are two.
fn modules(address: &str) -> Vec<&str> {
    let (mut found, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_usize);
    for (at, c) in address.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth = depth.saturating_sub(1),
            '.' if !quoted && depth == 0 && address[at + 1..].starts_with("module.") => {
                found.push(&address[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < address.len() {
        found.push(&address[start..]);
    }
    found
}

fn tone(action: Action) -> Tone {
    match action {
        Action::Replace | Action::Delete | Action::Forget => Tone::Remove,
        Action::Update => Tone::Change,
        Action::Create => Tone::Add,
        Action::Read | Action::NoOp | Action::Other => Tone::Plain,
    }
}

/// One line of a resource: its sign, its address as it is to be called here, and what is to be said of it.
fn head(of: &ResourceChange, called: &str, depth: usize) -> Line {
    let sign = words::sign(of.action, of.order);
    let remarks = words::remarks(of, escape::line).join("; ");
    let remarks = if remarks.is_empty() { remarks } else { format!("  ({remarks})") };
    Line::new(tone(of.action), depth, format!("{sign:<3} {}{remarks}", escape::line(called)))
}

fn resource(of: &ResourceChange, called: &str, depth: usize, width: usize, lines: &mut Vec<Line>) {
    let head = head(of, called, depth);
    if 2 * depth + head.text.chars().count() > width {
        // what is said of it goes below
        let sign = words::sign(of.action, of.order);
        lines.push(Line::new(head.tone, depth, format!("{sign:<3} {}", escape::line(called))));
        let remarks = words::remarks(of, escape::line).into_iter();
        lines.extend(remarks.map(|remark| Line::new(Tone::Remark, depth + 2, format!("({remark})"))));
    } else {
        lines.push(head);
    }
    let whole = matches!(of.action, Action::Create | Action::Delete | Action::Read);
    attributes(&of.attributes, of.attributes_left_out, whole, depth + 2, width, lines);
}

fn output(of: &OutputChange, width: usize, lines: &mut Vec<Line>) {
    let (sign, name) = (words::sign(of.action, None), escape::line(&of.name));
    lines.push(Line::new(tone(of.action), 1, format!("{sign:<3} {name}")));
    let whole = matches!(of.action, Action::Create | Action::Delete);
    attributes(&of.attributes, of.attributes_left_out, whole, 3, width, lines);
}

/// What changes, and how much more there is.
pub(super) fn attributes(
    of: &[AttributeChange],
    left_out: u32,
    whole: bool,
    depth: usize,
    width: usize,
    lines: &mut Vec<Line>,
) {
    for attribute in of.iter().take(ATTRIBUTES) {
        values::attribute(attribute, whole, depth, width, lines);
    }
    let shown = of.len().min(ATTRIBUTES);
    let more = of.len() - shown + usize::try_from(left_out).unwrap_or(usize::MAX).min(u32::MAX as usize);
    if more > 0 {
        lines.push(Line::new(Tone::Remark, depth, format!("… {more} attributes more")));
    }
}

/// What did not fit, in words.
pub(super) fn left_out(of: &LeftOut) -> String {
    let counts = [
        (of.resources, "resources"),
        (of.drift, "resources of the drift"),
        (of.outputs, "outputs"),
        (of.checks, "checks"),
        (of.attributes, "attributes"),
    ];
    let words: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    format!("left out, because it is too long: {}", words.join(", "))
}
