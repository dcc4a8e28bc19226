//! What an operation is, and whether this runner does it at all.

use crate::tunnel::Settings;
use shared_proto::aws;
use shared_proto::bounds::UNARY_DEADLINE;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{self, operation_request::What};
use std::time::Duration;

/// The longest id of an operation, and the most of a text that is logged, characters.
const SHOWN_MAX: usize = 128;
/// Columns and rows of a terminal.
const TERMINAL_MAX: u32 = 10_000;

/// What was decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decided {
    /// When it must be done; streams may have none.
    pub(super) deadline: Option<Duration>,
    /// The entry of the configuration.
    pub(super) connection: String,
    /// What a request to AWS asks for.
    pub(super) asked: Option<aws::Asked>,
}

/// An id or a name as it may stand in a log line: it comes from outside.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The kind's name.
pub(super) fn kind(request: &v1::OperationRequest) -> &'static str {
    request.what.as_ref().map_or("none", |what| describe(what).0)
}

/// Name, provider (empty: any), and whether it is a stream without a deadline of its own.
const fn describe(what: &What) -> (&'static str, &'static str, bool) {
    match what {
        What::ConnectionTest(_) => ("connection_test", "", false),
        What::K8sListNamespaces(_) => ("k8s_list_namespaces", "kubernetes", false),
        What::K8sListPods(_) => ("k8s_list_pods", "kubernetes", false),
        What::K8sDescribePod(_) => ("k8s_describe_pod", "kubernetes", false),
        What::K8sLogs(_) => ("k8s_logs", "kubernetes", true),
        What::K8sExec(_) => ("k8s_exec", "kubernetes", true),
        What::K8sRequest(_) => ("k8s_request", "kubernetes", true),
        What::AwsRequest(_) => ("aws_request", "aws", true),
        What::WhoAmI(_) => ("who_am_i", "", false),
        What::ListPlaces(_) => ("list_places", "", false),
        What::ListResources(_) => ("list_resources", "", false),
        What::GetResource(_) => ("get_resource", "", false),
        What::ListLogs(_) => ("list_logs", "", false),
        What::ReadLogs(_) => ("read_logs", "", true),
        What::ProbePermissions(_) => ("probe_permissions", "", false),
    }
}

/// A terminal of a size that a program can work with; no size at all leaves it to the target.
///
/// # Errors
/// `invalid_argument`.
pub(super) fn check_terminal(size: &v1::TerminalSize) -> Result<(), Failure> {
    let within = 1..=TERMINAL_MAX;
    if within.contains(&size.columns) && within.contains(&size.rows) {
        return Ok(());
    }
    Err(Code::InvalidArgument
        .on(format!("a terminal of {} columns and {} rows; each is from 1 to {TERMINAL_MAX}", size.columns, size.rows)))
}

fn check_id(id: &str) -> Result<(), Failure> {
    let fits = (1..=SHOWN_MAX).contains(&id.len());
    if fits && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Ok(());
    }
    Err(Code::InvalidArgument
        .on(format!("the operation's id is not 1 to {SHOWN_MAX} letters, digits, `-`, `_` and `.`: {:?}", shown(id))))
}

/// Decides.
pub(super) fn decide(request: &v1::OperationRequest, settings: &Settings) -> Result<Decided, Failure> {
    check_id(&request.operation_id)?;
    let ours = &settings.credentials.organization;
    if request.organization_id != *ours {
        return Err(Code::OrganizationMismatch.on(format!(
            "the operation is of organization {:?}, this runner is {ours}'s",
            shown(&request.organization_id)
        )));
    }
    let what = request.what.as_ref().ok_or_else(|| {
        Code::InvalidArgument
            .on("the operation is empty, or of a kind that this runner does not know")
            .next("Upgrade the runner.")
    })?;
    if let What::K8sExec(v1::K8sExec { tty: true, size: Some(size), .. }) = what {
        check_terminal(size)?;
    }
    let (name, provider, stream) = describe(what);
    let connection = &request.connection;
    let entry = settings.config.connections.get(connection).ok_or_else(|| crate::credentials::unknown(connection))?;
    let meant = request.provider.as_str();
    if !meant.is_empty() && entry.provider() != meant {
        return Err(Code::WrongProvider
            .on(format!(
                "connection {connection:?} is of {} in the runner's configuration, and of {} at the control plane",
                entry.provider(),
                shown(meant)
            ))
            .next("Create the connection anew with its entry's provider: `runnerctl connection create`."));
    }
    if !provider.is_empty() && entry.provider() != provider {
        return Err(Code::WrongProvider
            .on(format!("{name} needs {provider}, connection {connection:?} is {}", entry.provider())));
    }
    let asked = match what {
        What::AwsRequest(request) => Some(aws::read(request)?),
        _ => None,
    };
    let deadline = match (request.deadline_ms, stream) {
        (0, true) => None,
        (0, false) => Some(UNARY_DEADLINE),
        (ms, true) => Some(Duration::from_millis(ms.into())),
        (ms, false) => Some(Duration::from_millis(ms.into()).min(UNARY_DEADLINE)),
    };
    Ok(Decided { deadline, connection: connection.clone(), asked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_an_id() {
        for good in ["a", "op_01-x.y", &"a".repeat(SHOWN_MAX)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\0", "a\n", "\u{1b}[2J", "ä", &"a".repeat(SHOWN_MAX + 1)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn both_sides_of_a_terminal() {
        for (columns, rows, good) in [
            (1, 1, true),
            (TERMINAL_MAX, TERMINAL_MAX, true),
            (0, 24, false),
            (80, 0, false),
            (TERMINAL_MAX + 1, 24, false),
            (80, u32::MAX, false),
        ] {
            assert_eq!(check_terminal(&v1::TerminalSize { columns, rows }).is_ok(), good, "{columns}x{rows}");
        }
    }
}
