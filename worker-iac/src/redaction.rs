//! Takes the job's secrets out of what is recorded, by value and in the forms in which programs write values: as they are, as JSON strings,
//! shell words and URLs write them, in hexadecimal, and in base64 wherever in a longer text it began. Values that the engine knows to be
//! sensitive it masks itself.
//!
//! It is applied to whole lines, before they are parsed, so no secret is cut in two by how they arrived; each line of a secret of several
//! counts as one. It tells how often it found something, never what.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What stands in a secret's place.
const MASK: &str = "[redacted]";
/// The shortest value that is taken out, bytes. Taking "dev" or "true" out of every line would hide everything and protect nothing.
pub const SHORTEST: usize = 8;

/// The longest value that is looked for in UTF-16 as well, bytes: each of its bytes costs the search much more so.
const WIDE_MAX: usize = 1024;

/// How many times JSON in JSON is looked into.
const NESTED: usize = 4;

/// Characters that a value's last bytes may be in, beyond those that are its own alone: of base64, padding included.
const OPEN_END: usize = 4;

/// The values to take out. Cloning is cheap, and the clones count together.
#[derive(Clone, Default)]
pub struct Redaction {
    /// None: there is nothing to take out.
    search: Option<AhoCorasick>,
    /// They are more than can be looked for: nothing may stay.
    blind: bool,
    /// Of the forms those whose end is told with what comes after them.
    open: Arc<[bool]>,
    longest: usize,
    found: Arc<AtomicU64>,
}

// === impl Redaction ===

impl Redaction {
    /// Takes these values out; the short ones are ignored.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut forms, mut open) = (BTreeSet::new(), BTreeSet::new());
        let mut all = Vec::new();
        for secret in secrets {
            with_parts(secret, NESTED, &mut all);
        }
        for secret in &all {
            // a certificate or a key is shown line by line, if at all, behind whatever an engine puts before a line
            for value in secret.lines().map(str::trim).chain([secret.trim_end()]) {
                if value.len() >= SHORTEST && !value.starts_with("-----") {
                    forms_of(value, &mut forms);
                    in_base64(value, &mut open);
                }
            }
        }
        let open_ends = forms.union(&open).map(|form| open.contains(form)).collect();
        forms.append(&mut open);
        let longest = forms.iter().map(String::len).max().unwrap_or(0);
        // of two that begin at the same place the longer one: what contains another must not leave its rest behind
        // of the kinds of automata the one that stays small where a value is long
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest).kind(Some(AhoCorasickKind::ContiguousNFA));
        let search = if forms.is_empty() { None } else { builder.build(&forms).ok() };
        let blind = search.is_none() && !forms.is_empty();
        Self { search, blind, open: open_ends, longest, found: Arc::default() }
    }

    /// The same values as another, and counting on where that one is.
    pub fn counting_on(mut self, earlier: &Self) -> Self {
        self.found = Arc::clone(&earlier.found);
        self
    }

    /// The text without the secrets.
    pub fn apply(&self, text: &mut String) {
        if self.blind {
            MASK.clone_into(text);
        }
        let Some(search) = &self.search else { return };
        let mut clean = String::new();
        let (mut kept, mut count) = (0_usize, 0);
        for found in search.find_iter(text.as_str()) {
            // what goes with the one before may reach into this one
            clean.push_str(text.get(kept..found.start()).unwrap_or_default());
            clean.push_str(MASK);
            kept = found.end();
            if self.open.get(found.pattern().as_usize()) == Some(&true) {
                // the last two bytes may be in characters that others share
                let rest = text.as_bytes()[kept..].iter().take(OPEN_END);
                kept += rest.take_while(|b| b.is_ascii_alphanumeric() || b"+/-_=".contains(b)).count();
            }
            count += 1;
        }
        if count > 0 {
            clean.push_str(&text[kept..]);
            *text = clean;
            self.found.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// The same for a text whose rest was left out: what may be the beginning of a secret goes as well.
    pub fn apply_to_cut(&self, text: &mut String) {
        self.apply(text);
        if self.search.is_some() {
            let mut end = text.len().saturating_sub(self.longest);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
    }

    /// How often something was taken out.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Redaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redaction(of {})", self.search.as_ref().map_or(0, AhoCorasick::patterns_len))
    }
}

/// A secret, and where it is a JSON document the texts in it: an engine shows these by themselves. `deep`: of documents in documents.
fn with_parts(secret: &str, deep: usize, all: &mut Vec<String>) {
    all.push(secret.to_owned());
    let begins = secret.trim_start().starts_with(['{', '[']);
    let Some(document) = serde_json::from_str(secret).ok().filter(|_| begins && deep > 0) else { return };
    let mut left = vec![&document];
    while let Some(value) = left.pop() {
        match value {
            serde_json::Value::String(text) => with_parts(text, deep - 1, all),
            serde_json::Value::Array(items) => left.extend(items),
            serde_json::Value::Object(members) => left.extend(members.values()),
            _ => {}
        }
    }
}

/// Every way in which a program may write a value.
fn forms_of(value: &str, forms: &mut BTreeSet<String>) {
    let shell = value.replace('\'', "'\\''");
    let shell_in_double = value.replace('\'', "'\"'\"'");
    let ansi_quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
    let double_quoted = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`");
    let html = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut written = BTreeSet::from([shell, double_quoted, shell_in_double, ansi_quoted, html.clone()]);
    for (quot, apos) in [("&quot;", "&#39;"), ("&#34;", "&#39;"), ("&quot;", "&#x27;"), ("&quot;", "&apos;")] {
        written.insert(html.replace('"', quot).replace('\'', apos));
    }
    // as queries are written, as paths are, and by those who escape less
    for stay in ["", "/", "!'()*", "!$&'()*+,;=:@", "!$&'()*+,;=:@/"] {
        let upper = escaped(value, stay, |b| format!("%{b:02X}"));
        let lower = escaped(value, stay, |b| format!("%{b:02x}"));
        written.extend([upper.replace("%20", "+"), upper, lower.replace("%20", "+"), lower]);
    }
    let hex = shared_proto::hex::encode(value);
    written.extend([hex.to_ascii_uppercase(), hex]);
    // events are lines of JSON, and what they tell is often JSON already
    forms.extend(in_json(BTreeSet::from([value.to_owned()]), NESTED));
    forms.extend(in_json(written, 1));
    forms.retain(|form| form.len() >= SHORTEST);
}

/// These, and as JSON strings write them, so many times one inside another: by those who escape what they must, by those who also escape what
/// HTML knows (Go, and `jsonencode` of the engines), and by those who leave ASCII alone (Python).
fn in_json(texts: BTreeSet<String>, times: usize) -> BTreeSet<String> {
    let mut all = texts.clone();
    let mut last = texts;
    for _ in 0..times {
        let once = last.iter().flat_map(|text| {
            let json = serde_json::Value::from(text.as_str()).to_string();
            let json = json[1..json.len() - 1].to_owned();
            let html_safe = escaped_in_json(&json, |c| "<>&\u{2028}\u{2029}".contains(c));
            [escaped_in_json(&json, |c| !c.is_ascii()), html_safe, json]
        });
        last = once.filter(|text| !all.contains(text)).collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// With these characters as JSON's `\u` escapes.
fn escaped_in_json(text: &str, which: impl Fn(char) -> bool) -> String {
    text.chars().fold(String::new(), |mut text, c| {
        if which(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
        text
    })
}

/// In base64, of UTF-8 and UTF-16, wherever in a longer text it began. What depends on the bytes before and after is not ours: those characters are left out, at the
/// beginning so many.
fn in_base64(value: &str, forms: &mut BTreeSet<String>) {
    let units = || value.encode_utf16().filter(|_| value.len() <= WIDE_MAX);
    let (little, big) = (units().flat_map(u16::to_le_bytes).collect(), units().flat_map(u16::to_be_bytes).collect());
    // as texts are, and as Windows takes them (a command for PowerShell, the data of a machine)
    for bytes in [value.as_bytes().to_vec(), little, big] {
        for (offset, shared) in [(0, 0), (1, 2), (2, 3)] {
            let padded = [&[0; 2][..offset], &bytes].concat();
            let end = padded.len() / 3 * 4;
            forms.extend([STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|e| e.encode(&padded)[shared..end].to_owned()));
        }
    }
    forms.retain(|form| form.len() >= SHORTEST);
}

/// With everything escaped but letters, digits, `-._~`, and these.
fn escaped(value: &str, stay: &str, escape: impl Fn(u8) -> String) -> String {
    value.bytes().fold(String::new(), |mut text, b| {
        let stays = b.is_ascii_alphanumeric() || b"-._~".contains(&b) || stay.as_bytes().contains(&b);
        if stays {
            text.push(char::from(b));
        } else {
            text.push_str(&escape(b));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(redaction: &Redaction, text: &str) -> String {
        let mut text = text.to_owned();
        redaction.apply(&mut text);
        text
    }

    #[test]
    fn values_go_in_every_form_and_short_ones_stay() {
        let redaction = Redaction::new([
            "short",
            "hunter2-hunter2",
            "with \"quotes\" inside",
            "line-one-1\nline-two-2\n",
            "a b&c=d/e+f?g",
        ]);
        for (given, expected) in [
            ("a short text", "a short text"),
            ("x=hunter2-hunter2!", "x=[redacted]!"),
            (r#"{"v":"with \"quotes\" inside"}"#, r#"{"v":"[redacted]"}"#),
            (r#"{"v":"{\"v\":\"with \\\"quotes\\\" inside\"}"}"#, r#"{"v":"{\"v\":\"[redacted]\"}"}"#),
            ("with \"quotes\" inside", "[redacted]"),
            (r"line-one-1\nline-two-2", "[redacted]"),
            ("│   only line-two-2 here", "│   only [redacted] here"),
            ("?q=a%20b%26c%3Dd%2Fe%2Bf%3Fg", "?q=[redacted]"),
            ("?q=a+b%26c%3Dd%2Fe%2Bf%3Fg", "?q=[redacted]"),
            ("?q=a%20b%26c%3dd/e%2bf%3fg", "?q=[redacted]"),
            ("68756e746572322d68756e74657232", "[redacted]"),
            ("68756E746572322D68756E74657232", "[redacted]"),
        ] {
            assert_eq!(applied(&redaction, given), expected, "{given}");
        }
        assert_eq!(redaction.found(), 11);
        assert!(!format!("{redaction:?}").contains("hunter2"));
        assert_eq!(applied(&Redaction::default(), "anything"), "anything");
    }

    #[test]
    fn as_shells_markup_and_urls_write_it() {
        let value = "pA+ss/w&rd\"q'<tok>%9zQ~x";
        let redaction = Redaction::new([value]);
        for written in [
            // Python's shlex.quote, POSIX shells, bash's $'...'
            r#"'pA+ss/w&rd"q'"'"'<tok>%9zQ~x'"#,
            r#"'pA+ss/w&rd"q'\''<tok>%9zQ~x'"#,
            r#"$'pA+ss/w&rd"q\'<tok>%9zQ~x'"#,
            "pA+ss/w&amp;rd&quot;q&#39;&lt;tok&gt;%9zQ~x",
            "pA+ss/w&amp;rd&#34;q&#39;&lt;tok&gt;%9zQ~x",
            "pA%2Bss/w%26rd%22q%27%3Ctok%3E%259zQ~x",
            "pA%2bss%2fw%26rd%22q%27%3ctok%3e%259zQ~x",
        ] {
            let clean = applied(&redaction, written);
            assert!(clean.contains(MASK) && clean.len() < MASK.len() + 4, "{clean} of {written}");
        }
        for offset in 0..3 {
            let text = [&b"xx"[..offset], value.as_bytes()].concat();
            let clean =
                applied(&redaction, &format!("v: {} w", base64::engine::general_purpose::STANDARD.encode(text)));
            assert!(clean.ends_with("[redacted] w") && clean.len() <= "v: [redacted] w".len() + 3, "{clean}");
        }
    }

    #[test]
    fn the_texts_of_a_document_are_secrets_as_well() {
        let inner = r#"{"token":"inner-token-7"}"#;
        let document = serde_json::json!({
            "private_key": "-----BEGIN PRIVATE KEY-----\nMIIplanted15planted\n-----END PRIVATE KEY-----\n",
            "accounts": [{"password": "hunter2-hunter2", "port": 5432}], "inner": inner, "short": "short",
        });
        for text in [document.to_string(), serde_json::to_string_pretty(&document).expect("JSON")] {
            let redaction = Redaction::new([text.as_str()]);
            for shown in ["  MIIplanted15planted", "password = hunter2-hunter2", "inner-token-7", &text] {
                assert!(applied(&redaction, shown).contains(MASK), "{shown}");
            }
            assert_eq!(applied(&redaction, "short 5432"), "short 5432");
        }
        // a text that only begins like one
        assert_eq!(applied(&Redaction::new(["{not-json-at-all"]), "x {not-json-at-all"), "x [redacted]");
    }

    #[test]
    fn json_in_json_in_an_events_line() {
        let value = r#"a"b\c&x=<y>'ä"#;
        let redaction = Redaction::new([value]);
        // what `jsonencode(jsonencode(value))` of an engine gives, in an event, in a line of another program's log
        let plain = |text: &str| serde_json::Value::from(text).to_string();
        let go = |text: &str| plain(text).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        let python = |text: &str| plain(text).replace('ä', "\\u00e4");
        for written in [
            go(&go(value)),
            plain(&go(&go(value))),
            go(&go(&go(value))),
            plain(&plain(&go(&go(value)))),
            python(value),
            plain(&python(value)),
            python(&plain(value)),
            plain(&go(&python(value))),
            // of a shell that shows what it runs
            plain(&format!("+ echo '{}'", value.replace('\'', r"'\''"))),
        ] {
            let clean = applied(&redaction, &written);
            assert!(clean.contains(MASK) && !clean.contains("x="), "{clean} of {written}");
        }
    }

    #[test]
    fn the_beginning_of_a_secret_at_a_cut_goes_with_it() {
        let redaction = Redaction::new(["hunter2-hunter2"]);
        let mut text = format!("{}hunter2-hun", "ä".repeat(100));
        redaction.apply_to_cut(&mut text);
        assert!(!text.contains("hunter2") && text.starts_with("ää"), "{text}");
    }

    proptest! {
        /// Wherever in a text, however encoded: nothing is left from which the value could be read.
        #[test]
        fn no_form_of_a_value_survives(
            value in "[ -~äß]{12,48}", before in "[a-z \"\\\\]{0,20}", after in "[a-z \"]{0,20}", offset in 0_usize..3
        ) {
            let value = value.trim().to_owned();
            prop_assume!(value.len() >= 12 && !value.starts_with("-----"));
            let redaction = Redaction::new([value.as_str()]);
            let mut forms = BTreeSet::new();
            forms_of(&value, &mut forms);
            in_base64(&value, &mut forms);
            for form in &forms {
                let clean = applied(&redaction, &format!("{before}{form}{after}"));
                prop_assert!(clean.contains(MASK), "{form:?}");
                prop_assert!(!clean.contains(form.as_str()), "{clean:?} of {form:?}");
            }
            // in base64 of something longer: at most the bytes that share a character with a neighbour are left
            let longer = [&vec![b'x'; offset][..], value.as_bytes(), b"yyy"].concat();
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                let clean = applied(&redaction, &engine.encode(&longer));
                prop_assert!(clean.contains(MASK), "{clean}");
                prop_assert!(clean.replace(MASK, "").len() <= 12, "{clean}");
            }
            // and where the longer one is for Windows
            let text = format!("{}{value}yyy", "x".repeat(offset));
            let longer: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let clean = applied(&redaction, &STANDARD_NO_PAD.encode(&longer));
            prop_assert!(clean.contains(MASK) && clean.replace(MASK, "").len() <= 20, "{clean}");
        }
    }
}
