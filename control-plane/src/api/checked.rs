//! Text that comes from outside, held against its form before it goes any further. Each refusal names the field and the bound.

use shared_proto::failure::{Code, Failure};
use shared_proto::inventory::{TAGS_MAX, TEXT_MAX};
use std::collections::HashMap;

/// Arguments of one command.
const ARGUMENTS_MAX: usize = 256;
/// All arguments of one command together, bytes.
const COMMAND_MAX: usize = 64 * 1024;
/// A selector, bytes.
const SELECTOR_MAX: usize = 4096;
/// What a provider knows a resource or a log by, bytes.
const IDENTIFIER_MAX: usize = 1024;
/// A filter in a provider's own language, bytes: CloudWatch takes 1,024, Cloud Logging 20,000.
const FILTER_MAX: usize = 20_000;
/// Columns or rows of a terminal.
pub(crate) const TERMINAL_MAX: u32 = 1000;

/// A name of ours: like a DNS label, at most 63 characters. It has no underscore, so it is never an id.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn name(field: &str, text: &str) -> Result<String, Failure> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err(bad(field, text, "must be 1 to 63 lower-case letters, digits or dashes, with no dash first or last"))
}

/// The name of an entry in a runner's configuration.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn entry(field: &str, text: &str) -> Result<String, Failure> {
    if (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Ok(text.to_owned());
    }
    Err(bad(field, text, "must be 1 to 63 letters, digits, dashes or underscores"))
}

/// The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header-07), with or without the quotes of a structured field.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn idempotency_key(headers: &http::HeaderMap) -> Result<Option<String>, Failure> {
    const HEADER: &str = "idempotency-key";
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(HEADER) {
            true => Err(Code::InvalidArgument.on("there is more than one Idempotency-Key")),
            false => Ok(None),
        };
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(&text);
    entry("Idempotency-Key", bare).map(Some)
}

/// A Kubernetes namespace or container: a DNS label.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn k8s_label(field: &str, text: String) -> Result<String, Failure> {
    if is_label(&text) {
        Ok(text)
    } else {
        Err(bad(field, &text, "is not a Kubernetes name (a DNS label of at most 63 characters)"))
    }
}

/// A Kubernetes pod: a DNS subdomain.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn k8s_name(field: &str, text: String) -> Result<String, Failure> {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('-')
            && !p.ends_with('-')
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(part) {
        return Ok(text);
    }
    Err(bad(field, &text, "is not a Kubernetes name (a DNS subdomain of at most 253 characters)"))
}

/// A moment, in RFC 3339.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn time(field: &str, text: String) -> Result<String, Failure> {
    match time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339) {
        Ok(_) => Ok(text),
        Err(_) => Err(bad(field, &text, "is not a time in RFC 3339, such as 2026-01-02T15:04:05Z")),
    }
}

/// A Kubernetes label or field selector. Its grammar is the API server's to judge.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(crate) fn selector(field: &str, text: String) -> Result<String, Failure> {
    if text.len() > SELECTOR_MAX {
        return Err(Code::TooLarge.on(format!("{field} is {} bytes long, the limit is {SELECTOR_MAX}", text.len())));
    }
    if text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Ok(text);
    }
    Err(bad(field, &text, "may hold printable ASCII only"))
}

/// A command to run in a container: program and arguments, not a shell's line.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(crate) fn command(arguments: Vec<String>) -> Result<Vec<String>, Failure> {
    if arguments.first().is_none_or(String::is_empty) {
        return Err(Code::InvalidArgument.on("command is missing: name the program, then each argument"));
    }
    if arguments.len() > ARGUMENTS_MAX {
        return Err(
            Code::TooLarge.on(format!("command has {} arguments, the limit is {ARGUMENTS_MAX}", arguments.len()))
        );
    }
    let bytes: usize = arguments.iter().map(String::len).sum();
    if bytes > COMMAND_MAX {
        return Err(Code::TooLarge.on(format!("command is {bytes} bytes long, the limit is {COMMAND_MAX}")));
    }
    if arguments.iter().any(|a| a.contains('\0')) {
        return Err(Code::InvalidArgument.on("command holds a NUL character"));
    }
    Ok(arguments)
}

/// A place or a type of resources, as a provider names it: what it means is the runner's to judge.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn word(field: &str, text: String) -> Result<String, Failure> {
    if (1..=TEXT_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text);
    }
    Err(bad(field, &text, "must be 1 to 256 printable ASCII characters without a space"))
}

/// What a provider knows a resource or a log by.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn identifier(field: &str, text: String) -> Result<String, Failure> {
    if (1..=IDENTIFIER_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(bad(field, &text, "must be 1 to 1024 bytes without control characters"))
}

/// A filter in a provider's own language, which is the provider's to judge.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(crate) fn filter(field: &str, text: String) -> Result<String, Failure> {
    if text.len() > FILTER_MAX {
        return Err(Code::TooLarge.on(format!("{field} is {} bytes long, the limit is {FILTER_MAX}", text.len())));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(bad(field, &text, "has a character in it that no filter has"));
    }
    Ok(text)
}

/// Tag filters, each `KEY=VALUE`; an empty value means any.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(crate) fn tags(field: &str, texts: Vec<String>) -> Result<HashMap<String, String>, Failure> {
    if texts.len() > TAGS_MAX {
        return Err(Code::TooLarge.on(format!("{field} is there {} times, the limit is {TAGS_MAX}", texts.len())));
    }
    let mut tags = HashMap::with_capacity(texts.len());
    for text in texts {
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        let good = (1..=128).contains(&key.len()) && value.len() <= 256 && !text.chars().any(char::is_control);
        if !good {
            return Err(bad(field, &text, "is not KEY=VALUE with a key of 1 to 128 and a value of at most 256 bytes"));
        }
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(bad(field, key, "is there twice"));
        }
    }
    Ok(tags)
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn bad(field: &str, text: &str, what: &str) -> Failure {
    let shown: String = text.chars().take(64).collect();
    Code::InvalidArgument.on(format!("{field} {what}, not {shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "prod-1", "0", &"x".repeat(63)] {
            assert!(name("name", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a b", "ä", "a/b", "..", "run_1", &"x".repeat(64), "a\0"] {
            assert!(name("name", bad).is_err(), "{bad:?}");
            assert!(k8s_label("namespace", bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kubernetes() {
        for good in ["a.b-c.d", "web-0", &"x".repeat(253)] {
            assert!(k8s_name("pod", good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "a/../b", "A", "a.", &"x".repeat(254), "a%2fb", "-a"] {
            assert!(k8s_name("pod", bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(selector("labels", "app in (a,b),!c".into()).is_ok());
        assert!(selector("labels", "a\nb".into()).is_err());
        assert_eq!(selector("labels", "a".repeat(5000)).expect_err("too long").code, Code::TooLarge);
    }

    #[test]
    fn commands() {
        assert!(command(vec!["sh".into(), "-c".into(), String::new()]).is_ok());
        for bad in [vec![], vec![String::new()], vec!["a\0b".into()], vec!["a".into(); 257], vec!["a".repeat(65_537)]] {
            assert!(command(bad).is_err());
        }
    }

    #[test]
    fn clouds() {
        for good in ["AWS::S3::Bucket", "eu-central-1", "Microsoft.Compute/virtualMachines", &"x".repeat(256)] {
            assert!(word("type", good.into()).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(257)] {
            assert!(word("type", bad.into()).is_err(), "{bad:?}");
        }
        assert!(identifier("identifier", "x".repeat(1024)).is_ok());
        for bad in ["", "a\0", &"x".repeat(1025)] {
            assert!(identifier("identifier", bad.into()).is_err(), "{bad:?}");
        }
        assert!(filter("filter", "a\n".repeat(10_000)).is_ok() && filter("filter", "\u{1b}".into()).is_err());
        assert_eq!(filter("filter", "a".repeat(20_001)).expect_err("too long").code, Code::TooLarge);
        assert_eq!(tags("tag", vec!["a=b=c".into()]).expect("parses").get("a").map(String::as_str), Some("b=c"));
        assert!(tags("tag", vec!["=b".into()]).is_err());
        assert!(tags("tag", vec!["a=1".into(), "a=2".into()]).is_err());
    }
}
