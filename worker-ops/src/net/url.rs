//! The encoding of what stands in a path or a query.

use std::fmt::Write as _;

/// A text as one segment of a path, or as a value in a query: everything but RFC 3986's unreserved characters is escaped.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Name and value pairs as a query, or as the body of a form.
pub(crate) fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&encode(name));
        out.push('=');
        out.push_str(&encode(value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_stays_in_its_segment() {
        assert_eq!(encode("../a b/ü?#&=+"), "..%2Fa%20b%2F%C3%BC%3F%23%26%3D%2B");
        assert_eq!(form([("a", "1 2"), ("b", "c=d")]), "a=1%202&b=c%3Dd");
    }
}
