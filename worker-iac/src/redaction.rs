//! Takes the job's secrets out of what is recorded, by value. Thin: as they are and as JSON strings write them; values that the
//! engine knows to be sensitive it masks itself.

/// What stands in a secret's place.
const MASK: &str = "[redacted]";
/// Shorter values are left: taking "dev" or "true" out of every line would hide everything and protect nothing.
const SHORTEST: usize = 8;

/// The values to take out.
#[derive(Clone, Default)]
pub(crate) struct Redaction(Vec<String>);

// === impl Redaction ===

impl Redaction {
    /// Takes these values out; the short ones are ignored.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut values = Vec::new();
        for secret in secrets {
            // a certificate or a key is shown line by line, if at all
            for value in secret.lines().map(str::trim).chain([secret]) {
                if value.len() < SHORTEST || value.starts_with("-----") {
                    continue;
                }
                values.push(value.to_owned());
                let json = serde_json::Value::from(value).to_string();
                let json = &json[1..json.len() - 1];
                if json != value {
                    values.push(json.to_owned());
                }
            }
        }
        // the longest first: one that contains another must not leave its rest behind
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self(values)
    }

    /// The text without the secrets.
    pub(crate) fn apply(&self, text: &mut String) {
        for value in &self.0 {
            if text.contains(value.as_str()) {
                *text = text.replace(value.as_str(), MASK);
            }
        }
    }
}

impl std::fmt::Debug for Redaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redaction({} values)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_in_every_form_and_short_ones_stay() {
        let redaction =
            Redaction::new(["short", "hunter2-hunter2", "with \"quotes\" inside", "line-one-1\nline-two-2"]);
        for (given, expected) in [
            ("a short text", "a short text"),
            ("x=hunter2-hunter2!", "x=[redacted]!"),
            (r#"{"v":"with \"quotes\" inside"}"#, r#"{"v":"[redacted]"}"#),
            ("with \"quotes\" inside", "[redacted]"),
            (r"line-one-1\nline-two-2", "[redacted]"),
            ("only line-two-2 here", "only [redacted] here"),
        ] {
            let mut text = given.to_owned();
            redaction.apply(&mut text);
            assert_eq!(text, expected, "{given}");
        }
        assert!(!format!("{redaction:?}").contains("hunter2"));
    }
}
