//! The instance passes from one process to the next: what the two say to each other, over a socket that the launcher gives the new one.
//!
//! ```text
//!   one that leaves                         one that comes (configuration, credentials, isolation as at any start)
//!     token, instance ───────────────────▶  dials, shows the token
//!     lets go of its jobs  ◀── welcome ───  serves operations from here on
//!     lock, admin socket  ───────────────▶  adopts the jobs, answers on the socket, says to the launcher that it is up
//! ```
//! Until the launcher says which of the two it is the first one can take all of it back. The token is in no argument, variable or file, and
//! nobody ever has the lock to take between the two: it is one lock, and passes as a descriptor.

use crate::launcher::hand_over::Kept;
use nix::sys::signal::Signal;
use runner_sandbox::channel;
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use tokio::io::unix::AsyncFd;

/// The descriptor on which a supervisor that is to follow another one finds its end.
pub const DESCRIPTOR: i32 = 5;
/// The longest message, bytes.
const MESSAGE_MAX: usize = 1024;

/// Messages begin with one of these.
const TOKEN: u8 = b'T';
const WELCOME: u8 = b'W';
const TAKE: u8 = b'L';
const FAILED: u8 = b'F';

/// What happened at the other end.
#[derive(Debug)]
pub enum Heard {
    /// Its session is welcome.
    Welcome,
    /// It does not come, and why.
    Failed(String),
    /// It is gone.
    Gone,
}

/// The end of the one that leaves.
#[derive(Debug)]
pub struct Successor(AsyncFd<OwnedFd>);

/// The end of the one that comes.
#[derive(Debug)]
pub struct Predecessor(OwnedFd);

/// The same, once there is a runtime.
#[derive(Debug)]
pub struct Following(AsyncFd<OwnedFd>);

/// What the one that comes is given in the end.
#[derive(Debug)]
pub struct Given {
    /// The state directory's lock, which is held by it.
    pub lock: File,
    /// The admin socket, where there is one.
    pub admin: Option<UnixListener>,
}

/// A token, as text.
///
/// # Errors
/// There are no random numbers.
pub fn token() -> io::Result<Secret> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(Secret::new(shared_proto::hex::encode(bytes)))
}

/// What the control plane is told of it.
pub fn digest(token: &Secret) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(token.expose().as_bytes()).into()
}

/// A pair: ours, and the one that the launcher is to pass on.
///
/// # Errors
/// The system's.
pub fn pair() -> io::Result<(Successor, OwnedFd)> {
    let (ours, theirs) = channel::pair()?;
    Ok((Successor(crate::descriptor::watch(ours)?), theirs))
}

fn send(to: BorrowedFd<'_>, kind: u8, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut message = vec![kind];
    message.extend(text.bytes().take(MESSAGE_MAX - 1));
    channel::send(to, &message, descriptors)
}

/// The next message; `None` at the end.
async fn receive(from: &AsyncFd<OwnedFd>) -> io::Result<Option<(u8, String, Vec<OwnedFd>)>> {
    let mut buffer = [0; MESSAGE_MAX];
    loop {
        let mut guard = from.readable().await?;
        match channel::receive(from.get_ref().as_fd(), &mut buffer) {
            Ok(received) if received.length == 0 => return Ok(None),
            Ok(received) => {
                let text = String::from_utf8_lossy(&buffer[1..received.length]).into_owned();
                return Ok(Some((buffer[0], text, received.descriptors)));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            // told once, where it ended before it had read all: what it said last is still there
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            Err(e) => return Err(e),
        }
    }
}

// === impl Successor ===

impl Successor {
    /// Tells it whom it follows, and what it shows for it.
    ///
    /// # Errors
    /// It is gone.
    pub fn tell(&self, token: &Secret, whose: &str) -> io::Result<()> {
        send(self.0.get_ref().as_fd(), TOKEN, &format!("{} {whose}", token.expose()), &[])
    }
    /// What it says next, or that it is gone.
    pub async fn hear(&self) -> Heard {
        match receive(&self.0).await {
            Ok(Some((WELCOME, ..))) => Heard::Welcome,
            Ok(Some((FAILED, why, _))) => Heard::Failed(why),
            _ => Heard::Gone,
        }
    }
    /// Gives it all that is ours.
    ///
    /// # Errors
    /// It is gone.
    pub fn give(&self, lock: BorrowedFd<'_>, admin: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let descriptors: Vec<_> = [lock].into_iter().chain(admin).collect();
        send(self.0.get_ref().as_fd(), TAKE, "", &descriptors)
    }
}

// === impl Predecessor ===

impl Predecessor {
    /// The one that the launcher has left us, if it has.
    pub fn inherited() -> Option<Self> {
        runner_sandbox::inherited_descriptor(DESCRIPTOR).ok().map(Self)
    }
    /// Says why we do not come. Whoever is not there any more has no use for it.
    pub fn failed(&self, why: &str) {
        let _ = send(self.0.as_fd(), FAILED, why, &[]);
    }
    /// The same end in a runtime, and this one for a last word.
    ///
    /// # Errors
    /// The system's.
    pub fn follow(&self) -> io::Result<Following> {
        Ok(Following(crate::descriptor::watch(self.0.try_clone()?)?))
    }
}

// === impl Following ===

impl Following {
    /// Waits for the token, and whose place it is for.
    ///
    /// # Errors
    /// The one before is gone.
    pub async fn token(&self) -> Result<(Secret, String), Failure> {
        match receive(&self.0).await {
            Ok(Some((TOKEN, text, _))) => match text.split_once(' ') {
                Some((token, whose)) => Ok((Secret::new(token), whose.to_owned())),
                None => Err(broken()),
            },
            _ => Err(broken()),
        }
    }
    /// Says that our session is welcome, and waits for what the one before has.
    ///
    /// # Errors
    /// The one before is gone.
    pub async fn take(&self) -> Result<Given, Failure> {
        send(self.0.get_ref().as_fd(), WELCOME, "", &[]).map_err(|_| broken())?;
        let Ok(Some((TAKE, _, descriptors))) = receive(&self.0).await else { return Err(broken()) };
        let mut descriptors = descriptors.into_iter();
        let lock = File::from(descriptors.next().ok_or_else(broken)?);
        Ok(Given { lock, admin: descriptors.next().map(UnixListener::from) })
    }
}

fn broken() -> Failure {
    Code::Conflict.on("the process before this one ended, or kept its place").next("Nothing to do: a runner is there.")
}

/// Why there is no successor, for people.
pub fn kept(why: Kept, said: Option<String>) -> String {
    let how = match why {
        Kept::Exited(code) => format!("the new supervisor exited with code {code}"),
        Kept::Signalled(number) => match Signal::try_from(number) {
            Ok(signal) => format!("the new supervisor was ended by {signal}"),
            Err(_) => format!("the new supervisor was ended by signal {number}"),
        },
        Kept::Spawner => "the new spawner ended".to_owned(),
        Kept::Late => "the new supervisor was not up in time".to_owned(),
        Kept::NotStarted(errno) => {
            format!("the program at the runner's path cannot be started: {}", nix::errno::Errno::from_raw(errno).desc())
        }
        Kept::Busy => "a hand-over is under way, or the runner is stopping".to_owned(),
    };
    match said {
        Some(said) if !said.is_empty() => format!("{how}: {said}"),
        _ => how,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_of_it_passes_and_the_lock_is_held_all_along() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let open = || File::options().create(true).truncate(false).write(true).open(&path).expect("opens");
        let (successor, theirs) = pair().expect("a pair");
        let predecessor = Predecessor(theirs);
        let following = predecessor.follow().expect("watched");
        let shown = token().expect("random");
        assert!(shown.expose().len() == 64 && shown != token().expect("random"));
        successor.tell(&shown, "i-1").expect("told");
        assert_eq!(following.token().await.expect("told"), (shown, "i-1".to_owned()));
        let lock = open();
        lock.try_lock().expect("locked");
        let admin = UnixListener::bind(folder.path().join("socket")).expect("bound");
        let taking = tokio::spawn(async move { following.take().await.expect("given") });
        assert!(matches!(successor.hear().await, Heard::Welcome));
        successor.give(lock.as_fd(), Some(admin.as_fd())).expect("given");
        let given = taking.await.expect("given");
        assert!(given.admin.is_some());
        drop(lock);
        assert!(open().try_lock().is_err(), "it was free");
        drop(given);
        open().try_lock().expect("free");
    }

    #[tokio::test]
    async fn who_does_not_come_says_why_and_who_is_gone_is_noticed() {
        let (successor, theirs) = pair().expect("a pair");
        let predecessor = Predecessor(theirs);
        let following = predecessor.follow().expect("watched");
        predecessor.failed(&"x".repeat(2 * MESSAGE_MAX));
        assert!(matches!(successor.hear().await, Heard::Failed(why) if why.len() == MESSAGE_MAX - 1));
        drop((predecessor, following));
        assert!(matches!(successor.hear().await, Heard::Gone));
        // also where it has not read what it was told
        let (successor, theirs) = pair().expect("a pair");
        successor.tell(&token().expect("random"), "i-1").expect("told");
        Predecessor(theirs).failed("no");
        assert!(matches!(successor.hear().await, Heard::Failed(why) if why == "no"));
        let (successor, theirs) = pair().expect("a pair");
        drop(successor);
        let following = Predecessor(theirs).follow().expect("watched");
        assert!(following.token().await.is_err() && following.take().await.is_err());
    }

    #[test]
    fn why_there_is_no_successor_is_said() {
        assert_eq!(kept(Kept::Exited(78), None), "the new supervisor exited with code 78");
        assert_eq!(kept(Kept::Exited(78), Some("line 3".into())), "the new supervisor exited with code 78: line 3");
        assert!(kept(Kept::Signalled(9), Some(String::new())).ends_with("SIGKILL"));
        assert!(kept(Kept::NotStarted(8), None).contains("xec"));
    }
}
