//! Two plans side by side, as lines.

use super::lines::{self, Line, Tone};
use super::values;
use crate::output::escape;
use shared_proto::plan::compare::{Comparison, Difference, Entry};
use shared_proto::plan::{Action, AttributeChange, words};

/// What the plan of the job `now` would do that the one of `before` would not.
pub(super) fn lines(of: &Comparison, before: &str, now: &str, stack: &str, width: usize) -> Vec<Line> {
    let counts =
        format!("{} new, {} gone, {} changed, {} the same", of.new.len(), of.gone.len(), of.changed.len(), of.same);
    let mut lines = vec![
        Line::heading(&format!("{}: {counts}", escape::line(stack))),
        Line::remark(&format!("job {} beside job {}", escape::line(now), escape::line(before))),
    ];
    for (heading, entries) in [("New", &of.new), ("Gone: no longer planned", &of.gone)] {
        if !entries.is_empty() {
            lines.extend([Line::blank(), Line::heading(heading)]);
            entries.iter().for_each(|entry| self::entry(entry, width, &mut lines));
        }
    }
    if !of.changed.is_empty() {
        lines.extend([Line::blank(), Line::heading("Changed")]);
    }
    for changed in &of.changed {
        let what = match (changed.was, changed.is) {
            (was, is) if was == is => words::action(is).to_owned(),
            (was, is) => format!("{} before, {} now", words::action(was), words::action(is)),
        };
        let sign = words::sign(changed.is, None);
        lines.push(Line::new(tone(changed.is), 1, format!("{sign:<3} {}  ({what})", escape::line(&changed.address))));
        changed.attributes.iter().for_each(|difference| self::difference(difference, width, &mut lines));
    }
    if of.partial {
        lines.extend([Line::blank(), Line::remark("something of either plan was left out, and is not compared")]);
    }
    lines
}

fn tone(action: Action) -> Tone {
    if action.destroys() { Tone::Remove } else { Tone::Change }
}

fn entry(of: &Entry, width: usize, lines: &mut Vec<Line>) {
    let (sign, what) = (words::sign(of.action, None), words::action(of.action));
    lines.push(Line::new(tone(of.action), 1, format!("{sign:<3} {}  ({what})", escape::line(&of.address))));
    let whole = matches!(of.action, Action::Create | Action::Delete);
    lines::attributes(&of.attributes, 0, whole, 3, width, lines);
}

fn difference(of: &Difference, width: usize, lines: &mut Vec<Line>) {
    let mut depth = 3;
    if !of.path.is_empty() {
        lines.push(Line::new(Tone::Plain, depth, escape::line(&of.path)));
        depth += 1;
    }
    for (side, attribute) in [("before:", &of.was), ("now:", &of.is)] {
        let Some(attribute) = attribute else {
            lines.push(Line::new(Tone::Plain, depth, format!("{side} not changed")));
            continue;
        };
        let mut own = Vec::new();
        let attribute = AttributeChange { path: String::new(), ..attribute.clone() };
        values::attribute(&attribute, false, depth, width.saturating_sub(side.len() + 1), &mut own);
        match own.as_mut_slice() {
            [one] => one.text = format!("{side} {}", one.text),
            several => {
                several.iter_mut().for_each(|line| line.depth += 1);
                lines.push(Line::new(Tone::Plain, depth, side.to_owned()));
            }
        }
        lines.append(&mut own);
    }
}
