//! Field selectors, as far as the API server looks into one before it decides: the name that it requires.

/// The name that a field selector requires of an object: `metadata.name=NAME` or `==`, and no other.
///
/// # Errors
/// What is wrong with it. The API server would go on without the name and fail later; two names that differ select nothing.
pub(super) fn required_name(selector: &str) -> Result<Option<String>, &'static str> {
    let mut name: Option<String> = None;
    for term in terms(selector).into_iter().filter(|term| !term.is_empty()) {
        let (field, operator, value) = split(term).ok_or("a term of it has no `=`, `==` or `!=`")?;
        let value = unescape(value)?;
        if field != "metadata.name" || operator == "!=" || value.is_empty() {
            continue;
        }
        if name.as_ref().is_some_and(|earlier| *earlier != value) {
            return Err("it requires two names at once: select one");
        }
        name = Some(value);
    }
    // what cannot stand in a path names nothing; the server then sees a request without a name
    Ok(name.filter(|name| !matches!(name.as_str(), "." | "..") && !name.contains(['/', '%'])))
}

/// At its commas, but not at escaped ones.
fn terms(selector: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

/// At its first operator.
fn split(term: &str) -> Option<(&str, &'static str, &str)> {
    let operators = |at| ["!=", "==", "="].into_iter().find(|operator| term[at..].starts_with(operator));
    term.char_indices().find_map(|(at, _)| {
        let operator = operators(at)?;
        Some((&term[..at], operator, &term[at + operator.len()..]))
    })
}

fn unescape(value: &str) -> Result<String, &'static str> {
    let mut plain = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                _ => return Err("a `\\` of it stands before something else than `\\`, `,` and `=`"),
            },
            ',' | '=' => return Err("a value of it has a `,` or `=` without `\\` before it"),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_server_reads_them() {
        for (selector, expected) in [
            ("", None),
            ("metadata.name=a", Some("a")),
            ("metadata.name==a", Some("a")),
            ("metadata.name!=a", None),
            ("metadata.name=", None),
            ("status.phase=Running,metadata.name=a", Some("a")),
            ("metadata.name=a,metadata.name=a", Some("a")),
            ("metadata.name=a\\,b", Some("a,b")),
            (" metadata.name=a", None),
            ("Metadata.name=a", None),
            ("metadata.name=..", None),
            ("metadata.name=a/b", None),
            ("metadata.name=a%2fb", None),
            (",,metadata.name=a,", Some("a")),
        ] {
            assert_eq!(required_name(selector), Ok(expected.map(str::to_owned)), "{selector}");
        }
        for bad in [
            "x",
            "metadata.name=a,foo",
            "metadata.name=a=b",
            "metadata.name=\\a",
            "a=\\",
            "metadata.name=a,metadata.name=b",
        ] {
            assert!(required_name(bad).is_err(), "{bad}");
        }
    }
}
