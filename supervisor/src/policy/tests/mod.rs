//! What needs more than one of the parts.

mod decisions;
mod files;
mod targets;

use super::*;
use std::time::{Duration, UNIX_EPOCH};

/// Monday, 5 January 2026, noon, UTC.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_614_400)
}

/// A request of Ann, a developer, for the connection `prod`.
fn asked(method: &str, target: &str) -> Request {
    let attributes = Attributes::parse(method, target.as_bytes()).unwrap();
    Request {
        person: Some("ann".to_owned()),
        groups: Some(vec!["developers".to_owned()]),
        connections: vec!["prod".to_owned()],
        what: What::Kubernetes(Box::new(attributes)),
    }
}
