//! A stack that gets a backend of its own after the runner has kept its state, or another backend than it had: nothing of it may be made a second
//! time. The engine's own part says what is left with the runner and what the backend has; here is what follows.

use crate::journal::Journal;
use crate::stop::{Stop, io_failure};
use crate::store::{Backend, Store, Taken, read_plain};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::STATE_MAX;
use shared_proto::v1::{JobKind, JobRequest};
use std::path::Path;

/// What the runner has of a state, beside a backend.
#[derive(Debug)]
pub(super) struct Left<'a> {
    /// The backend.
    pub(super) backend: &'a Backend,
    /// What is left, behind "a state of this stack".
    pub(super) what: String,
    /// What the backend has of it.
    pub(super) there: There,
    /// How it gets there.
    pub(super) next: String,
}

/// What a backend has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing.
    Nothing,
    /// Another state.
    Another,
    /// What the runner has, or what came of it.
    Taken,
}

/// A state that an engine keeps in a file of the stack's folder. None: there is none. What runs in a job can write there, too.
///
/// # Errors
/// It is no plain file, or longer than a state may be; the file system.
pub(super) fn kept_in(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let state = read_plain(path, STATE_MAX + 1).map_err(|e| io_failure(Code::StateUnusable, path.display(), &e))?;
    if state.as_ref().is_some_and(|state| state.len() > STATE_MAX) {
        return Err(Code::TooLarge.on(format!("{} has more than {STATE_MAX} bytes", path.display())));
    }
    Ok(state)
}

// === impl Left ===

impl Left<'_> {
    /// Goes on where the backend has what is left, and writes that down in the stack's folder, unless this job only looks: what is left is not gone on
    /// with then.
    ///
    /// # Errors
    /// `state_elsewhere`: the backend does not have it. A preview is only told so.
    pub(super) async fn judge(self, request: &JobRequest, folder: &Path, journal: &Journal) -> Result<(), Stop> {
        let Self { backend, what, there, next } = self;
        let kind = &backend.kind;
        let has = match there {
            There::Taken => {
                if !only_looks(request) {
                    Store::taken_to(folder, backend)?;
                    journal.note(format!("The state was taken to the configuration's own backend ({kind}).")).await;
                }
                return Ok(());
            }
            There::Another => "which has another state",
            There::Nothing => "which has none",
        };
        let message = format!(
            "the runner has a state of this stack {what}, and the configuration has a backend of its own now ({kind}), {has}: what is in it would \
             be made a second time"
        );
        let next = format!("{next} Or take the backend out of the configuration again.");
        refuse(request, Code::StateElsewhere.on(message).next(next), journal).await
    }
}

/// Goes on with a backend that has no state, of a stack that is known to have one in another backend, for jobs that only look.
///
/// # Errors
/// `state_elsewhere`: the job may apply.
pub(super) async fn is_not_in(
    before: &Taken,
    backend: &Backend,
    request: &JobRequest,
    journal: &Journal,
) -> Result<(), Stop> {
    let Backend { kind, .. } = backend;
    let message = format!(
        "the state of the stack is in {}, and the backend that the configuration has now ({kind}) is another one, which has none: what is in it would be \
         made a second time",
        before.at
    );
    let next = format!(
        "Put the former backend into the configuration again, or take the state from there to the new one. Where the stack is to begin anew, remove {}.",
        before.says.display()
    );
    refuse(request, Code::StateElsewhere.on(message).next(next), journal).await
}

/// Fails, unless the job only looks: it is told so, and goes on.
async fn refuse(request: &JobRequest, failure: Failure, journal: &Journal) -> Result<(), Stop> {
    if !only_looks(request) {
        return Err(failure.into());
    }
    journal.note(failure.message).await;
    Ok(())
}

fn only_looks(request: &JobRequest) -> bool {
    request.kind() == JobKind::Preview || request.preview_only || request.untrusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;

    #[test]
    fn only_a_plain_file_is_read_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        assert_eq!(kept_in(&at("none")), Ok(None));
        std::fs::write(at("state"), "x").expect("writes");
        assert_eq!(kept_in(&at("state")), Ok(Some(b"x".to_vec())));
        nix::unistd::mkfifo(&at("pipe"), Mode::S_IRWXU).expect("a pipe");
        std::os::unix::fs::symlink(at("state"), at("link")).expect("a link");
        for name in ["pipe", "link"] {
            assert_eq!(kept_in(&at(name)).expect_err(name).code, Code::StateUnusable, "{name}");
        }
        // both sides of the longest
        let file = std::fs::File::create(at("long")).expect("a file");
        file.set_len(STATE_MAX as u64).expect("grows");
        assert!(kept_in(&at("long")).is_ok_and(|state| state.is_some_and(|state| state.len() == STATE_MAX)));
        file.set_len(STATE_MAX as u64 + 1).expect("grows");
        assert_eq!(kept_in(&at("long")).expect_err("too long").code, Code::TooLarge);
    }
}
