//! Text in which something is looked for, however it is written down.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::MASK;

/// How many layers of escapes are taken off. A string in JSON in a string in JSON is three; what is deeper is no accident.
const LEVELS_MAX: usize = 8;

/// A text as it is, then with its escapes taken off, then with the escapes of that taken off, and so on.
pub(super) fn levels(text: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut next = Some(Cow::Borrowed(text));
    std::iter::from_fn(move || {
        let now = next.take()?;
        next = now.contains(&b'\\').then(|| Cow::Owned(unescape(&now)));
        Some(now)
    })
    .take(LEVELS_MAX)
}

/// Takes off one layer of the escapes of JSON and YAML. What is no escape loses its backslash: where a backslash is only a backslash,
/// the level before has the text right.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let Some((escape, after)) = rest.split_first() else { break };
        rest = after;
        let digits = match escape {
            b'x' => 2,
            b'u' => 4,
            b'U' => 8,
            b'n' | b't' | b'r' => {
                out.push(b' ');
                continue;
            }
            // a line that goes on
            b'\n' | b'\r' => continue,
            other => {
                out.push(*other);
                continue;
            }
        };
        match hex(rest, digits) {
            Some(character) => {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = rest.get(digits..).unwrap_or_default();
            }
            None => out.push(*escape),
        }
    }
    out
}

fn hex(text: &[u8], digits: usize) -> Option<char> {
    let digits = text.get(..digits).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
    let code = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    // half a pair is no character, and none of a mask
    Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
}

/// Whether a text has the mask in it: plain or in base64, at any place of a longer text, broken over lines, in escapes.
pub(super) fn has_mask(text: &[u8]) -> bool {
    let needles = needles();
    levels(text).any(|level| {
        let mut dense = String::with_capacity(level.len());
        // a byte order mark is skipped by readers of YAML wherever it is
        let counts = |c: &char| !c.is_whitespace() && *c != '\u{feff}';
        dense.extend(String::from_utf8_lossy(&level).chars().filter(counts));
        needles.iter().any(|needle| dense.contains(needle.as_str()))
    })
}

/// What the mask looks like without white space: plain, and in base64 after a multiple of three bytes, one more, and two more. Of the base64
/// only those characters that the mask alone decides, so that it does not matter what is before or after it, or how it is padded.
fn needles() -> [String; 4] {
    let plain = MASK.chars().filter(|c| !c.is_whitespace()).collect();
    let encoded = |before: usize| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(MASK.as_bytes());
        let text = STANDARD_NO_PAD.encode(&bytes);
        let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        text.get(from..to).unwrap_or(&text).to_owned()
    };
    [plain, encoded(0), encoded(1), encoded(2)]
}

#[cfg(test)]
mod tests {
    use super::super::MASK_BASE64;
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    #[test]
    fn the_two_masks_are_one() {
        assert_eq!(STANDARD.encode(MASK), MASK_BASE64);
        // so that the alphabet of URLs needs no search of its own
        assert!(needles()[1..].iter().all(|n| n.len() >= 28 && n.bytes().all(|b| b.is_ascii_alphanumeric())));
    }

    #[test]
    fn a_mask_is_found_in_any_dress() {
        for before in ["", "a", "ab", "abc", "password="] {
            for after in ["", "\n", "xy", "xyz"] {
                let text = format!("{before}{MASK}{after}");
                assert!(has_mask(text.as_bytes()));
                for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert!(has_mask(encoded.as_bytes()), "{encoded}");
                    let lines: Vec<_> = encoded.as_bytes().chunks(7).map(String::from_utf8_lossy).collect();
                    assert!(has_mask(lines.join("\n      ").as_bytes()));
                    let escaped: String = encoded.chars().map(|c| format!("\\u{:04X}", u32::from(c))).collect();
                    assert!(has_mask(escaped.as_bytes()));
                }
            }
        }
        for text in [
            r"\u005bmasked by the runner]",
            r"\x5bmasked\x20by\ the runner\U0000005d",
            "[masked by\n    the\n  runner]",
            "[mas\\\n    ked by the runner]",
            "[mas\\\r\n    ked by the runner]",
            r#"{"a":"{\"b\":\"\\u005bmasked by the runner]\"}"}"#,
            "[masked by the\u{2028}runner]",
            "C:\\[masked by the runner]",
            "C:\\xW21hc2tlZCBieSB0aGUgcnVubmVyXQ",
        ] {
            assert!(has_mask(text.as_bytes()), "{text}");
        }
        let mut bytes = vec![0xff, 0xc3, b'\n', 22];
        bytes.extend_from_slice(MASK.as_bytes());
        bytes.extend_from_slice(&[0xe2, 0x80]);
        assert!(has_mask(&bytes));
        for text in ["", "masked by the runner", "[masked by a runner]", "W21hc2tlZCBieSB0", "\\", "\\u", "\\x5"] {
            assert!(!has_mask(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn layers_of_escapes_are_bounded() {
        assert_eq!(levels(&vec![b'\\'; 1 << 20]).count(), LEVELS_MAX);
        assert_eq!(levels(b"plain").count(), 1);
    }
}
