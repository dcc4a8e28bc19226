//! Makes bytes from outside harmless for a terminal. A pod's log, an engine's words or a name can carry escape sequences that
//! retitle the window, answer into the shell or hide text; of them only SGR colours pass. Everything else is shown, not obeyed.

/// The longest SGR sequence that passes, bytes after the bracket; what is longer is no colour.
const SGR_MAX: usize = 32;

/// A filter over a stream, whatever the chunks' boundaries.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// The start of a sequence or of a character that is not whole yet; at most SGR_MAX + 3 bytes.
    held: Vec<u8>,
    coloured: bool,
    plain: bool,
}

enum Step {
    /// So many bytes pass as they are.
    Pass(usize),
    /// The same, a colour.
    Colour(usize),
    /// So many bytes are shown as this.
    Show(usize, String),
    /// More bytes are needed to tell.
    More,
}

// === impl Filter ===

impl Filter {
    /// One that lets colours pass, or takes them out.
    pub(crate) fn new(colours: bool) -> Self {
        Self { plain: !colours, ..Self::default() }
    }
    /// Filters a chunk.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(chunk);
        self.run(false)
    }
    /// What was held back, at the end, and the colours off again if there were any.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut out = self.run(true);
        if std::mem::take(&mut self.coloured) {
            out.extend_from_slice(b"\x1b[0m");
        }
        out
    }

    fn run(&mut self, end: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            match step(&self.held[at..], end) {
                Step::Pass(n) => {
                    out.extend_from_slice(&self.held[at..at + n]);
                    at += n;
                }
                Step::Colour(n) if self.plain => at += n,
                Step::Colour(n) => {
                    self.coloured = true;
                    out.extend_from_slice(&self.held[at..at + n]);
                    at += n;
                }
                Step::Show(n, shown) => {
                    out.extend_from_slice(shown.as_bytes());
                    at += n;
                }
                Step::More => break,
            }
        }
        self.held.drain(..at);
        out
    }
}

/// Judges what the bytes begin with; they are not empty.
fn step(bytes: &[u8], end: bool) -> Step {
    match bytes[0] {
        b'\n' | b'\t' | 0x20..=0x7e => Step::Pass(1),
        // a carriage return alone would let a line overwrite itself
        b'\r' => match bytes.get(1) {
            Some(b'\n') => Step::Pass(2),
            None if !end => Step::More,
            _ => Step::Show(1, "^M".into()),
        },
        0x1b => escape(bytes, end),
        control @ 0..=0x1f => Step::Show(1, format!("^{}", char::from(control + 0x40))),
        0x7f => Step::Show(1, "^?".into()),
        _ => character(bytes, end),
    }
}

fn escape(bytes: &[u8], end: bool) -> Step {
    let shown = || Step::Show(1, "^[".into());
    match bytes.get(1) {
        None if !end => return Step::More,
        Some(b'[') => {}
        _ => return shown(),
    }
    for (i, byte) in bytes.iter().enumerate().skip(2).take(SGR_MAX) {
        match byte {
            b'0'..=b'9' | b';' | b':' => {}
            b'm' => return Step::Colour(i + 1),
            _ => return shown(),
        }
    }
    if bytes.len() < 2 + SGR_MAX && !end { Step::More } else { shown() }
}

fn character(bytes: &[u8], end: bool) -> Step {
    let length = match bytes[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Step::Show(1, "\u{fffd}".into()),
    };
    let have = length.min(bytes.len());
    match std::str::from_utf8(&bytes[..have]) {
        Ok(text) => match text.chars().next() {
            Some(c) if is_harmful(c) => Step::Show(have, format!("\\u{{{:x}}}", u32::from(c))),
            _ => Step::Pass(have),
        },
        Err(error) if error.error_len().is_none() && !end => Step::More,
        Err(_) => Step::Show(1, "\u{fffd}".into()),
    }
}

/// C1 controls, and the marks that make text read in another order than it is.
fn is_harmful(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A whole text, with its colours or without.
pub(crate) fn text(bytes: &[u8], colours: bool) -> Vec<u8> {
    let mut filter = Filter::new(colours);
    let mut out = filter.push(bytes);
    out.extend_from_slice(&filter.finish());
    out
}

/// One line of a message or a table's cell: also line breaks, tabs and colours are shown, not obeyed.
pub(crate) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("; "),
            '\t' => out.push(' '),
            '\r' => {}
            c if c.is_control() && c.is_ascii() => {
                out.push('^');
                out.push(char::from((c as u8) ^ 0x40));
            }
            c if is_harmful(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> String {
        String::from_utf8(text(bytes, true)).expect("the filter gives UTF-8")
    }

    #[test]
    fn only_text_and_colours_pass() {
        for (given, expected) in [
            (&b"plain \t text\n"[..], "plain \t text\n"),
            (b"\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m\x1b[0m"),
            (b"\x1b]0;title\x07", "^[]0;title^G"),
            (b"\x1b[2J", "^[[2J"),
            (b"\x1b[6n", "^[[6n"),
            (b"\x1bP+q\x1b\\", "^[P+q^[\\"),
            (b"over\rwrite\r\n", "over^Mwrite\r\n"),
            (b"a\x08b\x00", "a^Hb^@"),
            (b"\x7f", "^?"),
            ("\u{9b}2J".as_bytes(), "\\u{9b}2J"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            ("grüße 🙂".as_bytes(), "grüße 🙂"),
            (b"\xff\xc3", "\u{fffd}\u{fffd}"),
            (b"\x1b", "^["),
            (b"\x1b[31", "^[[31"),
            (b"\r", "^M"),
        ] {
            assert_eq!(shown(given), expected, "{given:?}");
        }
        assert_eq!(text(b"\x1b[31mred\x1b[0m", false), b"red");
        let long = [b"\x1b[".as_slice(), &b"1;".repeat(SGR_MAX), b"m"].concat();
        assert!(shown(&long).starts_with("^["));
    }

    #[test]
    fn chunks_do_not_matter() {
        let all = "a\x1b[1;32mgrün\x1b[0m \x1b]0;x\x07\r\n🙂\u{9b}\x1b[2J\rz".as_bytes();
        let whole = text(all, true);
        for first in 0..all.len() {
            for second in first..all.len() {
                let mut filter = Filter::default();
                let mut out = filter.push(&all[..first]);
                out.extend(filter.push(&all[first..second]));
                out.extend(filter.push(&all[second..]));
                out.extend(filter.finish());
                assert_eq!(out, whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut filter = Filter::default();
        for _ in 0..10_000 {
            filter.push(b"\x1b[1");
            assert!(filter.held.len() <= SGR_MAX + 3);
        }
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(line("a\nb\x1b[31m\u{202e}\u{9b}"), "a; b^[[31m\\u{202e}\\u{9b}");
    }
}
