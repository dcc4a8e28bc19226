//! A plan in Markdown for a comment of a pull request. Nothing of the plan is Markdown, HTML, a link or a mention there: what stands in a line is in
//! `<code>` with every sign of it as a character reference, and the rest is in a fenced block whose fence it does not contain.

use super::Plan;
use super::lines::{self, Line, Tone};
use crate::output::escape;
use shared_proto::plan::{ResourceChange, words};

/// The most characters that GitHub takes in a comment. They are counted as UTF-16 has them, which is never less.
const COMMENT_MAX: usize = 65_536;
/// What is said of rules takes of them at most.
const RULES_MAX: usize = 12_000;
/// What the head and the table take of them at most.
const TABLE_MAX: usize = 24_000;
/// The most lines of the table.
const ROWS: usize = 100;
/// What is kept for what has to come after a block.
const RESERVE: usize = 1024;
/// The most characters of a name in the head.
const NAME: usize = 100;
/// The columns into which the lines of the block are broken.
const WIDTH: usize = 120;

/// The comment.
pub(super) fn render(plan: &Plan) -> String {
    let of = &plan.document;
    let name = |text: &str| code(&text.chars().take(NAME).collect::<String>());
    let mut text = format!("### {}: {}\n\n", name(&plan.stack), plain(&plan.status()));
    rules(&plan.of_rules(), &mut text);
    let engine = format!("{} {}", of.engine.name, of.engine.version);
    text.push_str(&format!("Job {}, {}, {}.", name(&plan.job), name(&of.kind), name(&engine)));
    if of.is_partial() {
        text.push_str(&format!(" {}.", plain(&lines::left_out(&of.left_out))));
    }
    text.push('\n');
    table("", &of.resources, &mut text);
    let lines = lines::of(of, WIDTH);
    if !lines.is_empty() {
        block("What changes", &lines, &mut text);
    }
    text
}

/// What rules make of it and have found, each in a line, within [`RULES_MAX`].
fn rules(said: &[String], text: &mut String) {
    let begin = units(text);
    for (n, line) in said.iter().enumerate() {
        let line = format!("- {}\n", code(line.trim_start_matches("· ")));
        if units(text) - begin + units(&line) > RULES_MAX {
            text.push_str(&format!("- … {} more\n", said.len() - n));
            break;
        }
        text.push_str(&line);
    }
    if !said.is_empty() {
        text.push('\n');
    }
}

/// A table of resources, within [`TABLE_MAX`].
fn table(heading: &str, resources: &[ResourceChange], text: &mut String) {
    if resources.is_empty() {
        return;
    }
    text.push_str(&format!("{heading}\n| | resource | |\n|---|---|---|\n"));
    for (n, resource) in resources.iter().enumerate() {
        let remarks: Vec<_> = words::remarks(resource, |text| text.to_owned()).iter().map(|r| code(r)).collect();
        let sign = words::sign(resource.action, resource.order).trim();
        let sign = if sign.is_empty() { String::new() } else { format!("{} ", code(sign)) };
        let action = words::action(resource.action);
        let row = format!("| {sign}{action} | {} | {} |\n", code(&resource.address), remarks.join(", "));
        if n >= ROWS || units(text) + units(&row) > TABLE_MAX {
            text.push_str(&format!("| | … {} more | |\n", resources.len() - n));
            return;
        }
        text.push_str(&row);
    }
}

/// Lines in a fenced block that is folded, as many as there is room for.
fn block(summary: &str, lines: &[Line], text: &mut String) {
    let blank = lines.iter().take_while(|line| line.text.is_empty()).count();
    let lines = &lines[blank..];
    let ticks = lines.iter().map(|line| longest_run(&line.text)).max().unwrap_or(0);
    let fence = "`".repeat((ticks + 1).max(3));
    // a fence that would be longer than all there is room for stands for lines that nobody reads
    let room = COMMENT_MAX.saturating_sub(units(text) + 2 * fence.len() + RESERVE);
    if fence.len() > RESERVE {
        text.push_str(&format!("\n{summary}: not shown here\n"));
        return;
    }
    text.push_str(&format!("\n<details><summary>{summary}</summary>\n\n{fence}diff\n"));
    let mut used = 0;
    for (n, line) in lines.iter().enumerate() {
        let line = of_diff(line);
        let own = units(&line) + 1;
        if used + own > room {
            text.push_str(&format!("# … {} lines more\n", lines.len() - n));
            break;
        }
        used += own;
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str(&format!("{fence}\n\n</details>\n"));
}

/// A line as a diff has it: the first column says what becomes of it.
fn of_diff(line: &Line) -> String {
    let sign = match line.tone {
        Tone::Heading => "#",
        Tone::Add => "+",
        Tone::Change => "!",
        Tone::Remove => "-",
        Tone::Remark | Tone::Plain => " ",
    };
    format!("{sign} {}{}", "  ".repeat(line.depth), line.text).trim_end().to_owned()
}

/// The longest run of backticks.
fn longest_run(text: &str) -> usize {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// A text that is shown as it is, in one line: whoever renders it finds no sign in it, and looks for no mention in code.
fn code(text: &str) -> String {
    format!("<code>{}</code>", plain(&escape::line(text)))
}

/// Every ASCII character that is no letter, digit, space or dash, as a reference to it.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !c.is_ascii() || c.is_ascii_alphanumeric() || c == ' ' || c == '-' => out.push(c),
            c => out.push_str(&format!("&#{};", u32::from(c))),
        }
    }
    out
}

/// How long GitHub takes it to be, at most.
fn units(text: &str) -> usize {
    text.encode_utf16().count()
}
