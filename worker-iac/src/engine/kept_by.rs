//! Which instance has applied last to a state that lies in the stack's folder as its engine writes it: those of named workspaces, and Pulumi's. One that
//! comes back to an instance which had it before must not go on with what was left there; what somebody has brought is gone on with.

use crate::stop::io_failure;
use crate::store::read_plain;
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{PULUMI, WORKSPACES};
use shared_proto::v1::JobStart;
use std::path::Path;

/// In a stack's folder: the id of an instance. It goes with the folder, to wherever that is copied.
const KEPT_BY: &str = "kept-by";
/// Its longest content, bytes.
const KEPT_BY_MAX: usize = 256;

/// Refuses what this instance has of a state that another instance has applied to since.
///
/// # Errors
/// `state_elsewhere`; the file system.
pub(super) fn is_the_newest(start: &JobStart) -> Result<(), Failure> {
    let (folder, another) = (Path::new(&start.state_directory), start.state_instance.as_str());
    if another.is_empty() {
        return Ok(());
    }
    let path = folder.join(KEPT_BY);
    let by = read_plain(&path, KEPT_BY_MAX).map_err(|e| io_failure(Code::StateUnusable, path.display(), &e))?;
    if by.is_none_or(|by| String::from_utf8_lossy(&by).trim() != start.instance) {
        return Ok(());
    }
    let next = format!(
        "Take it here: the whole of the stack's folder there, as {}. Where a state was put here in another way, remove {}. Or give the stack back to the \
         runner of that instance.",
        folder.display(),
        path.display()
    );
    Err(from_before(another, next))
}

/// `state_elsewhere`: another instance has the state.
pub(super) fn on_another(another: &str) -> Failure {
    Code::StateElsewhere.on(format!("the stack has no backend, and its state is on the instance {another}"))
}

/// `state_elsewhere`: it has it, and what is here is older. `next`: what to do.
pub(super) fn from_before(another: &str, next: String) -> Failure {
    let message = format!("{}; what this instance has of it is from before that", on_another(another).message);
    Code::StateElsewhere.on(message).next(next)
}

/// Writes down that this instance applies to what lies there.
///
/// # Errors
/// The file system.
pub(super) fn this_instance(start: &JobStart) -> Result<(), Failure> {
    let folder = Path::new(&start.state_directory);
    if start.state_directory.is_empty() || ![PULUMI, WORKSPACES].iter().any(|name| folder.join(name).is_dir()) {
        return Ok(());
    }
    let path = folder.join(KEPT_BY);
    shared_proto::file::write_whole(&path, format!("{}\n", start.instance).as_bytes(), 0o600)
        .map_err(|e| io_failure(Code::StateUnusable, path.display(), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_told_from_what_was_brought() {
        let folder = tempfile::tempdir().expect("a folder");
        let start = |instance: &str, another: &str| JobStart {
            state_directory: folder.path().display().to_string(),
            instance: instance.into(),
            state_instance: another.into(),
            ..JobStart::default()
        };
        // nothing is kept there as it is
        this_instance(&start("a", "")).expect("writes nothing");
        assert!(!folder.path().join(KEPT_BY).exists());
        std::fs::create_dir(folder.path().join(WORKSPACES)).expect("makes");
        // of an earlier version nothing says whose it is
        assert_eq!(is_the_newest(&start("a", "b")), Ok(()));
        this_instance(&start("a", "")).expect("writes");
        assert_eq!(is_the_newest(&start("a", "")), Ok(()));
        let failure = is_the_newest(&start("a", "b")).expect_err("b had it since");
        assert_eq!(failure.code, Code::StateElsewhere);
        assert!(failure.message.contains("on the instance b"), "{failure:?}");
        assert!(failure.next_step.contains(KEPT_BY), "{failure:?}");
        // the folder came from a, and b applies to it; then it goes back
        assert_eq!(is_the_newest(&start("b", "a")), Ok(()));
        this_instance(&start("b", "a")).expect("writes");
        assert_eq!(is_the_newest(&start("a", "b")), Ok(()));
    }
}
