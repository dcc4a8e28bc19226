//! The words of an API server about a request.
//!
//! A refusal can quote. A webhook that denies a write, a field that is not valid, a patch whose result cannot be read: each is
//! about the object as it would be stored, which has values that the client never sent. So a message is shown where it is known to be made
//! of names: by its reason, by its beginning. Of all else the beginning is shown that is known, and what follows is masked. Names of
//! fields always stay, so that who writes learns where the fault is. A read has nothing to quote but what was asked for.

use serde::Deserialize;

use super::MASK;
use super::edit::{Edit, NotJson, elements, fields, is_array, is_object};
use super::object::{Place, metadata};

/// Reasons whose messages name objects, users and limits.
const OF_NAMES: [&str; 14] = [
    "AlreadyExists",
    "Conflict",
    "Expired",
    "Gone",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "RequestEntityTooLarge",
    "ServerTimeout",
    "ServiceUnavailable",
    "Timeout",
    "TooManyRequests",
    "Unauthorized",
    "UnsupportedMediaType",
];
/// Beginnings of what is said of a write, after which names and numbers follow.
const OF_A_WRITE: [&str; 5] = [
    "illegal base64 data at input byte ",
    "strict decoding error: unknown field ",
    "strict decoding error: duplicate field ",
    "the name of the object (",
    "the namespace of the ",
];
/// The beginning of what a reader of an object says.
const UNREADABLE: &str = "Secret in version \"v1\" cannot be handled as a Secret: ";
const INTERNAL: &str = "Internal error occurred: ";
/// What of the API server itself goes wrong.
const OF_THE_SERVER: [&str; 4] =
    ["etcdserver: ", "context deadline exceeded", "context canceled", "Timeout: request did not complete"];
/// Fields whose values are shown anyway.
const SHOWN_FIELDS: [&str; 7] = [
    "immutable",
    "metadata.generateName",
    "metadata.name",
    "metadata.namespace",
    "metadata.resourceVersion",
    "metadata.uid",
    "type",
];
/// What is said of a field without its value.
const OF_A_FIELD: [&str; 4] = [
    "Required value",
    "Forbidden: field is immutable when `immutable` is set",
    "Too long: must have at most 1048576 bytes",
    "Too long: may not be more than 1048576 bytes",
];

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    causes: Option<Vec<Cause>>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    field: Option<String>,
}

/// Masks a Status. `write`: it answers one.
pub(super) fn status<'t>(edit: &mut Edit<'t, '_>, value: &'t str, write: bool) -> Result<(), NotJson> {
    // one with a field twice is none: its messages are masked
    let read = serde_json::from_str::<Status>(value).ok();
    // a webhook's causes can say anything, as its message can
    let own = read.as_ref().is_some_and(|status| !is_webhooks(status.message.as_deref().unwrap_or_default()));
    fields(value, |key, value| match key {
        "kind" | "apiVersion" | "status" | "reason" | "code" => edit.scalar(value),
        "metadata" => metadata(edit, value, Some(Place::Element)),
        "message" => match read.as_ref().map(|status| (status.message.as_deref(), shown(status, write))) {
            Some((Some(said), shown)) if said == shown => Ok(()),
            Some((Some(_), shown)) => edit.string(value, &shown),
            _ => edit.mask(value),
        },
        "details" if is_object(value) => fields(value, |key, value| match key {
            "name" | "group" | "kind" | "uid" | "retryAfterSeconds" => edit.scalar(value),
            "causes" if is_array(value) => elements(value, |value| cause(edit, value, own)),
            _ => edit.mask(value),
        }),
        _ => edit.mask(value),
    })
}

fn cause<'t>(edit: &mut Edit<'t, '_>, value: &'t str, own: bool) -> Result<(), NotJson> {
    if !is_object(value) {
        return edit.mask(value);
    }
    let shown = own && serde_json::from_str::<Cause>(value).is_ok_and(|cause| cause.is_shown());
    fields(value, |key, value| match key {
        "reason" | "field" => edit.scalar(value),
        "message" if shown => edit.scalar(value),
        _ => edit.mask(value),
    })
}

/// The message as it is shown.
fn shown(status: &Status, write: bool) -> String {
    let message = status.message.as_deref().unwrap_or_default();
    let reason = status.reason.as_deref().unwrap_or_default();
    if let Some(before) = denied(message) {
        return format!("{before}{MASK}");
    }
    let names_only = match reason {
        // before all others: a webhook may give any reason, and ends so when it gives no words
        _ if is_webhooks(message) => message.ends_with("\" denied the request without explanation"),
        _ if OF_NAMES.contains(&reason) => true,
        "Forbidden" => [" is forbidden: User \"", " is forbidden: exceeded quota", "forbidden: User \""]
            .iter()
            .any(|known| message.contains(known)),
        "BadRequest" => {
            let rest = message.strip_prefix(UNREADABLE).unwrap_or(message);
            !write || OF_A_WRITE.iter().any(|known| rest.starts_with(known))
        }
        "InternalError" => {
            let rest = message.strip_prefix(INTERNAL).unwrap_or(message);
            OF_THE_SERVER.iter().any(|known| rest.starts_with(known))
        }
        "Invalid" => return invalid(status),
        _ => false,
    };
    if names_only {
        return message.to_owned();
    }
    let known = [UNREADABLE, INTERNAL].into_iter().find(|known| message.starts_with(known)).unwrap_or_default();
    format!("{known}{MASK}")
}

/// Whether a message has the words of a webhook.
fn is_webhooks(message: &str) -> bool {
    message.starts_with("admission webhook \"")
}

/// Who denied a write, of a message that then says why in words of its own.
fn denied(message: &str) -> Option<&str> {
    let (marker, starts) = if is_webhooks(message) {
        ("\" denied the request: ", true)
    } else {
        ("' denied request: ", message.contains(" is forbidden: ValidatingAdmissionPolicy '"))
    };
    let end = message.find(marker)? + marker.len();
    if starts { message.get(..end) } else { Some("") }
}

/// Says again which fields are not valid, and why where that quotes nothing.
fn invalid(status: &Status) -> String {
    let Some(details) = &status.details else { return MASK.to_owned() };
    let (Some(name), Some(causes)) = (&details.name, &details.causes) else { return MASK.to_owned() };
    if causes.is_empty() {
        return MASK.to_owned();
    }
    let said = causes.iter().map(|cause| {
        let message = cause.message.as_deref().filter(|_| cause.is_shown()).unwrap_or(MASK);
        format!("{}: {message}", cause.field.as_deref().unwrap_or_default())
    });
    let said: Vec<_> = said.collect();
    let said = if let [one] = said.as_slice() { one.clone() } else { format!("[{}]", said.join(", ")) };
    format!("Secret \"{name}\" is invalid: {said}")
}

// === impl Cause ===

impl Cause {
    /// Its message is made of names.
    fn is_shown(&self) -> bool {
        let message = self.message.as_deref().unwrap_or_default();
        (self.reason.as_deref() == Some("FieldManagerConflict") && message.starts_with("conflict with \""))
            || self.field.as_deref().is_some_and(|field| SHOWN_FIELDS.contains(&field))
            || OF_A_FIELD.contains(&message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reason: &str, message: &str, write: bool) -> String {
        shown(&Status { reason: Some(reason.into()), message: Some(message.into()), details: None }, write)
    }

    #[test]
    fn messages_of_names_stay() {
        for (reason, text) in [
            ("NotFound", "secrets \"a\" not found"),
            ("AlreadyExists", "secrets \"a\" already exists"),
            ("Conflict", "Apply failed with 1 conflict: conflict with \"kubectl\" using v1: .data.password"),
            ("Expired", "too old resource version: 1 (2)"),
            ("Forbidden", "secrets \"a\" is forbidden: User \"u\" cannot get resource \"secrets\" in API group \"\""),
            ("Forbidden", "secrets \"a\" is forbidden: exceeded quota: q, requested: secrets=1"),
            ("Forbidden", "admission webhook \"w.example.org\" denied the request without explanation"),
            ("BadRequest", "the name of the object (a) does not match the name on the URL (b)"),
            (
                "BadRequest",
                "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 4",
            ),
            ("InternalError", "Internal error occurred: etcdserver: request timed out"),
        ] {
            assert_eq!(message(reason, text, true), text);
        }
        assert_eq!(
            message("BadRequest", "unable to parse requirement: x y", false),
            "unable to parse requirement: x y"
        );
    }

    #[test]
    fn messages_that_may_quote_do_not() {
        for (reason, text, want) in [
            ("BadRequest", "patch is wrong: ...|{\"data\":{\"a\":\"hunter2\"}}|", MASK.to_owned()),
            ("", "hunter2", MASK.to_owned()),
            ("Forbidden", "secrets \"a\" is forbidden: hunter2", MASK.to_owned()),
            ("Invalid", "Secret \"a\" is invalid: hunter2", MASK.to_owned()),
            ("InternalError", "Internal error occurred: hunter2", format!("{INTERNAL}{MASK}")),
            (
                "NotFound",
                "admission webhook \"w\" denied the request: hunter2",
                format!("admission webhook \"w\" denied the request: {MASK}"),
            ),
            ("NotFound", "admission webhook \"w\" hunter2", MASK.to_owned()),
            (
                "Timeout",
                "secrets \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: hunter2",
                format!(
                    "secrets \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {MASK}"
                ),
            ),
            ("Timeout", "hunter2 ' denied request: hunter2", MASK.to_owned()),
            (
                "BadRequest",
                "Secret in version \"v1\" cannot be handled as a Secret: json: cannot unmarshal number 1234 into x",
                format!("{UNREADABLE}{MASK}"),
            ),
        ] {
            assert_eq!(message(reason, text, true), want);
        }
    }
}
