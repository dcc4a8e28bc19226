//! JSON patches that would bring a value to light.
//!
//! `test` says whether a value is the one that it names, and `copy` and `move` put a value where it is shown: into a label, or into
//! a field whose check quotes it. What may be read so is a list of what is shown anyway; into `data` anything may be copied.

use super::edit::{NotJson, elements, fields, is_object, string};

/// What of the metadata is never masked.
const SHOWN_METADATA: [&str; 11] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
];

/// What is wrong with a patch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is no JSON patch.
    NotPatch,
    /// An operation reads what is masked.
    Reads {
        /// `test`, `copy` or `move`.
        operation: &'static str,
        /// The path that it reads.
        path: String,
    },
}

impl From<NotJson> for Wrong {
    fn from(_: NotJson) -> Self {
        Self::NotPatch
    }
}

/// Checks the operations of a JSON patch.
pub(super) fn check(patch: &str) -> Result<(), Wrong> {
    let mut reads = None;
    elements(patch.trim_ascii(), |operation| {
        if reads.is_none() {
            reads = read_by(operation)?;
        }
        Ok(())
    })?;
    match reads {
        Some((operation, path)) => Err(Wrong::Reads { operation, path }),
        None => Ok(()),
    }
}

/// What is masked that an operation reads.
fn read_by(operation: &str) -> Result<Option<(&'static str, String)>, NotJson> {
    if !is_object(operation) {
        return Err(NotJson);
    }
    let (mut op, mut path, mut from) = (None, None, None);
    fields(operation, |key, value| {
        let field = match key {
            "op" => &mut op,
            "path" => &mut path,
            "from" => &mut from,
            _ => return Ok(()),
        };
        // said twice it could be the one or the other
        if field.is_some() {
            return Err(NotJson);
        }
        *field = Some(string(value).ok_or(NotJson)?);
        Ok(())
    })?;
    let path = path.ok_or(NotJson)?;
    match op.as_deref() {
        Some("add" | "remove" | "replace") => Ok(None),
        Some("test") => Ok((!is_shown(&path)).then_some(("test", path))),
        Some(op @ ("copy" | "move")) => {
            let from = from.ok_or(NotJson)?;
            let op = if op == "copy" { "copy" } else { "move" };
            Ok((!is_shown(&from) && !stays_masked(&from, &path)).then_some((op, from)))
        }
        _ => Err(NotJson),
    }
}

/// Whether what a path names is shown anyway. A path that API servers could read in another way is not.
fn is_shown(path: &str) -> bool {
    let mut parts = path.split('/');
    // whatever is before the first slash is skipped by some, so there has to be nothing
    if parts.next() != Some("") {
        return false;
    }
    match parts.next() {
        Some("apiVersion" | "kind" | "type" | "immutable") => parts.next().is_none(),
        Some("metadata") => parts.next().is_some_and(|part| SHOWN_METADATA.contains(&part) || part == "uid"),
        _ => false,
    }
}

/// Whether a value goes from one key of the data to another.
fn stays_masked(from: &str, to: &str) -> bool {
    let key = |path: &str| {
        let mut parts = path.split('/');
        let data = parts.next() == Some("") && matches!(parts.next(), Some("data" | "stringData"));
        data && parts.next().is_some_and(|key| !key.is_empty()) && parts.next().is_none()
    };
    key(from) && key(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_that_read_nothing() {
        for patch in [
            "[]",
            r#" [{"op":"add","path":"/data/a","value":"eA=="},{"op":"remove","path":"/data/b"}]"#,
            r#"[{"op":"replace","path":"/metadata/annotations/a","value":"b"}]"#,
            r#"[{"op":"test","path":"/metadata/resourceVersion","value":"1"}]"#,
            r#"[{"op":"test","path":"/metadata/labels/a~1b","value":"1"},{"op":"test","path":"/type","value":"Opaque"}]"#,
            r#"[{"op":"copy","from":"/data/a","path":"/data/b"},{"op":"move","from":"/data/a~1","path":"/data/c"}]"#,
            r#"[{"op":"copy","from":"/metadata/labels/a","path":"/metadata/annotations/b"}]"#,
        ] {
            assert_eq!(check(patch), Ok(()), "{patch}");
        }
    }

    #[test]
    fn patches_that_read_a_value() {
        for (operation, path, to) in [
            ("test", "/data/a", ""),
            ("test", "/data", ""),
            ("test", "", ""),
            ("test", "/", ""),
            ("test", "x/data/a", ""),
            ("test", "x/metadata/name", ""),
            ("test", "/stringData/a", ""),
            ("test", "/metadata", ""),
            ("test", "/metadata/annotations", ""),
            ("test", "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration", ""),
            ("copy", "/data/a", "/metadata/annotations/b"),
            ("copy", "/data/a", "/metadata/labels/b"),
            ("move", "/data/a", "/type"),
            ("copy", "/data", "/metadata/labels"),
            ("copy", "/data/a", "/data"),
            ("copy", "/data/a", "x/data/b"),
            ("copy", "/data/a/0", "/data/b"),
            ("copy", "/metadata/annotations/a", "/metadata/labels/b"),
            ("copy", "", "/data/b"),
        ] {
            let patch = format!(
                r#"[{{"op":"{operation}","from":"{path}","path":"{}"}}]"#,
                if to.is_empty() { path } else { to }
            );
            assert!(
                matches!(check(&patch), Err(Wrong::Reads { operation: o, path: p }) if o == operation && p == path),
                "{patch}"
            );
            // escapes in JSON make no difference
            let escaped = patch.replace("data", "d\\u0061ta").replace("\"test\"", "\"t\\u0065st\"");
            assert!(matches!(check(&escaped), Err(Wrong::Reads { .. })), "{escaped}");
        }
    }

    #[test]
    fn what_is_no_patch() {
        for patch in [
            "",
            "{}",
            "[1]",
            r#"[{"op":"add"}]"#,
            r#"[{"op":"look","path":"/data/a"}]"#,
            r#"[{"op":"TEST","path":"/data/a"}]"#,
            r#"[{"op":"add","op":"test","path":"/data/a"}]"#,
            r#"[{"op":"test","path":"/kind","path":"/data/a"}]"#,
            r#"[{"op":"copy","path":"/data/a"}]"#,
            r#"[{"op":["test"],"path":"/data/a"}]"#,
        ] {
            assert_eq!(check(patch), Err(Wrong::NotPatch), "{patch}");
        }
    }
}
