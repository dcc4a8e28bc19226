//! What an apply did to each resource, and when, as a picture (SVG 1.1): a line a resource, in the order in which they were begun. By the job's events.
//! Must never give anything of an event to whoever shows the picture but as text.

use crate::v1::event::Body;
use crate::v1::{Event, ResourceProgress};
use std::collections::HashMap;
use std::fmt::Write as _;

/// Lines of a picture; what is more is counted below them.
pub const LINES_MAX: usize = 1000;
/// Characters of a name that are shown.
const NAME_MAX: usize = 60;
/// The picture's parts, in pixels.
const NAMES: usize = 440;
const BARS: usize = 720;
const LINE: usize = 20;
const TOP: usize = 40;
/// Between two marks of the time, seconds: the first of which there are at most ten.
const MARKS: [f64; 12] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 864_000.0];

/// What was done to one resource.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    address: String,
    action: String,
    start_ms: i64,
    /// None: it was not told.
    end_ms: Option<i64>,
    failed: bool,
}

/// What the events tell, as they come.
#[derive(Debug, Default)]
pub struct Timeline {
    lines: Vec<Line>,
    /// Of each resource and action its last line.
    open: HashMap<(String, String), usize>,
    left_out: usize,
    last_ms: i64,
}

impl Timeline {
    /// Takes one event.
    pub fn take(&mut self, event: &Event) {
        self.last_ms = self.last_ms.max(event.time_ms);
        match &event.body {
            // what a plan tells of resources is that they are read
            Some(Body::PhaseChanged(changed)) if changed.phase == "applying" => {
                *self = Self { last_ms: event.time_ms, ..Self::default() };
            }
            Some(Body::ResourceProgress(of)) => self.progress(of, event.time_ms),
            _ => {}
        }
    }

    fn progress(&mut self, of: &ResourceProgress, at: i64) {
        let key = (of.address.clone(), of.action.clone());
        match of.state.as_str() {
            "started" if self.lines.len() >= LINES_MAX => self.left_out += 1,
            "started" => {
                self.open.insert(key, self.lines.len());
                let (address, action) = (of.address.clone(), of.action.clone());
                self.lines.push(Line { address, action, start_ms: at, end_ms: None, failed: false });
            }
            "complete" | "failed" => {
                if let Some(line) = self.open.remove(&key).and_then(|number| self.lines.get_mut(number)) {
                    (line.end_ms, line.failed) = (Some(at), of.state == "failed");
                }
            }
            _ => {}
        }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The picture.
    pub fn svg(&self, title: &str) -> String {
        let start = self.lines.iter().map(|line| line.start_ms).min().unwrap_or(self.last_ms);
        let end = self.lines.iter().filter_map(|line| line.end_ms).max().unwrap_or(start).max(self.end_of_open());
        let seconds = ((end - start).max(1) as f64) / 1000.0;
        let x = |ms: i64| NAMES as f64 + ((ms - start).max(0) as f64 / 1000.0 / seconds).min(1.0) * BARS as f64;
        let (width, height) = (NAMES + BARS + 100, TOP + (self.lines.len() + 2) * LINE);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n",
            escaped(title)
        );
        // writing to a text does not fail
        let _ = writeln!(svg, "<text x=\"8\" y=\"18\" font-weight=\"bold\">{}</text>", escaped(title));
        let step = MARKS.into_iter().find(|step| seconds / step <= 10.0).unwrap_or(seconds);
        for mark in (0..=10).map(|n| f64::from(n) * step).take_while(|mark| *mark <= seconds) {
            let at = NAMES as f64 + mark / seconds * BARS as f64;
            let (top, bottom) = (TOP - 8, height - LINE);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" fill=\"#555\">{}</text>",
                TOP - 12,
                took(mark)
            );
        }
        for (number, line) in self.lines.iter().enumerate() {
            let y = TOP + number * LINE;
            let (from, to) = (x(line.start_ms), x(line.end_ms.unwrap_or(end)));
            let (name, colour) = (escaped(&shown(&line.address)), colour(line));
            let long = ((line.end_ms.unwrap_or(end) - line.start_ms).max(0) as f64) / 1000.0;
            let how = match (line.end_ms, line.failed) {
                (None, _) => ", no end was told",
                (Some(_), true) => ", failed",
                (Some(_), false) => "",
            };
            let said = format!("{} {}{how}", escaped(&line.action), took(long));
            let _ = writeln!(
                svg,
                "<g><title>{}: {said}</title><text x=\"8\" y=\"{}\">{name}</text><rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" rx=\"2\" \
                 fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\" fill=\"#333\">{said}</text></g>",
                escaped(&line.address),
                y + 12,
                (to - from).max(2.0),
                to + 6.0,
                y + 12
            );
        }
        if self.left_out > 0 {
            let y = TOP + self.lines.len() * LINE + 12;
            let _ = writeln!(svg, "<text x=\"8\" y=\"{y}\">and {} more</text>", self.left_out);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Until when what has no end is drawn.
    fn end_of_open(&self) -> i64 {
        if self.lines.iter().any(|line| line.end_ms.is_none()) { self.last_ms } else { i64::MIN }
    }
}

fn colour(line: &Line) -> &'static str {
    match (line.failed, line.end_ms, line.action.as_str()) {
        (true, ..) => "#c0392b",
        (_, None, _) => "#999999",
        (.., "create") => "#2e8b57",
        (.., "delete") => "#d9822b",
        (.., "read") => "#8e7cc3",
        _ => "#3b7dd8",
    }
}

/// Seconds as people say them.
fn took(seconds: f64) -> String {
    match seconds {
        short if short < 10.0 => format!("{short:.1} s"),
        some if some < 120.0 => format!("{some:.0} s"),
        long if long < 7200.0 => format!("{:.0} min", long / 60.0),
        longer => format!("{:.1} h", longer / 3600.0),
    }
}

/// A long name loses its beginning: the end tells resources of a module apart.
fn shown(address: &str) -> String {
    let count = address.chars().count();
    if count <= NAME_MAX {
        return address.to_owned();
    }
    std::iter::once('…').chain(address.chars().skip(count - NAME_MAX + 1)).collect()
}

/// As text of a picture: nothing of it is obeyed, and what XML does not allow is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::PhaseChanged;

    fn of(address: &str, action: &str, state: &str, time_ms: i64) -> Event {
        let (address, action, state) = (address.to_owned(), action.to_owned(), state.to_owned());
        let progress = ResourceProgress { address, action, state, ..ResourceProgress::default() };
        Event { time_ms, body: Some(Body::ResourceProgress(progress)), ..Event::default() }
    }
    fn applying(time_ms: i64) -> Event {
        let changed = PhaseChanged { phase: "applying".into(), ..PhaseChanged::default() };
        Event { time_ms, body: Some(Body::PhaseChanged(changed)), ..Event::default() }
    }
    fn taken(events: &[Event]) -> Timeline {
        let mut timeline = Timeline::default();
        events.iter().for_each(|event| timeline.take(event));
        timeline
    }

    #[test]
    fn a_line_a_resource_with_its_time_and_how_it_ended() {
        let timeline = taken(&[
            of("data.x.read", "read", "started", 500),
            applying(1000),
            of("x.a", "create", "started", 1000),
            of("x.b", "delete", "started", 2000),
            of("x.a", "create", "running", 3000),
            of("x.a", "create", "complete", 6000),
            of("x.b", "delete", "failed", 4000),
            of("x.c", "create", "started", 5000),
            of("x.a", "create", "complete", 9000),
        ]);
        let svg = timeline.svg("shop");
        for part in ["x.a: create 5.0 s", "x.b: delete 2.0 s, failed", "x.c: create 4.0 s, no end was told"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("data.x.read"));
        // x.a has five of eight seconds
        assert!(svg.contains("<rect x=\"440.0\" y=\"40\" width=\"450.0\""), "{svg}");
        assert!(Timeline::default().is_empty() && !timeline.is_empty());
        assert!(Timeline::default().svg("").ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_of_an_event_is_obeyed() {
        let hostile = "x[\"</title><script>alert(1)</script>\u{1b}\u{0}'\"]";
        let svg = taken(&[of(hostile, "<b>", "started", 1)]).svg("<i>&");
        assert!(!svg.contains("<script") && !svg.contains("<b>") && !svg.contains("<i>"), "{svg}");
        assert!(!svg.chars().any(|c| c.is_control() && c != '\n'));
        assert!(svg.contains("&lt;script&gt;"));
    }

    #[test]
    fn both_sides_of_the_bound() {
        let many = |count: usize| {
            let events: Vec<_> = (0..count).map(|n| of(&format!("x.r{n}"), "create", "started", 1)).collect();
            taken(&events).svg("")
        };
        assert!(!many(LINES_MAX).contains("more</text>"));
        assert!(many(LINES_MAX + 2).contains("and 2 more</text>"));
        let long = format!("module.a.{}", "b".repeat(NAME_MAX));
        assert_eq!(shown(&long).chars().count(), NAME_MAX);
        assert!(shown(&long).starts_with('…'));
    }
}
