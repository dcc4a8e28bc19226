//! What the service manager is told: that the runner is up, that it reads its configuration again, that it stops, and that it still answers.
//!
//! It is the protocol of sd_notify(3): one datagram a message, to the socket that `NOTIFY_SOCKET` names. Without that variable nothing is said.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// What is for this process alone: nobody below it could say anything with it.
pub(super) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
/// So many questions are asked within the time after which the service manager gives up: three may go unanswered.
const ASKED_WITHIN: u32 = 4;
/// The shortest time between two questions.
const ASK_MIN: Duration = Duration::from_millis(50);

/// The service manager's socket, and its watchdog.
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it is asked whether all answer; `None`: there is no watchdog.
    every: Option<Duration>,
    /// When it is asked next.
    pub(super) ask: Option<Instant>,
}

// === impl Manager ===

impl Manager {
    /// As this process's variables say. What is malformed there is as if it were not there.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|name| open(&name).ok());
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        // it may have been meant for whoever started us
        let ours = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
        let every = number("WATCHDOG_USEC")
            .filter(|us| ours && *us > 0 && socket.is_some())
            .map(|us| (Duration::from_micros(us) / ASKED_WITHIN).max(ASK_MIN));
        Self { socket, every, ask: every.map(|every| Instant::now() + every) }
    }

    /// It is up, or has read its configuration again.
    pub(super) fn ready(&self) {
        self.say("READY=1\nSTATUS=running");
    }
    /// It reads its configuration again.
    pub(super) fn reloading(&self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
            Duration::new(t.tv_sec().try_into().unwrap_or(0), t.tv_nsec().try_into().unwrap_or(0)).as_micros()
        });
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }
    /// It stops.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=finishing what is in flight; jobs go on");
    }
    /// Something that people may want to know.
    pub(super) fn status(&self, text: &str) {
        self.say(&format!("STATUS={text}"));
    }
    /// All answered.
    pub(super) fn answered(&self) {
        if self.every.is_some() {
            self.say("WATCHDOG=1");
        }
    }
    /// Whether it is time to ask; the next time is set by it.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        let due = self.ask.is_some_and(|ask| ask <= now);
        if due {
            self.ask = self.every.map(|every| now + every);
        }
        due
    }

    fn say(&self, message: &str) {
        if let Some((socket, manager)) = &self.socket {
            // one that does not read must not hold this process up, and one that is gone needs nothing
            let _ = socket.send_to_addr(message.as_bytes(), manager);
        }
    }
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::ffi::OsString;

    fn manager(variables: &[(&str, &OsStr)]) -> Manager {
        let variables: HashMap<_, _> = variables.iter().map(|(n, v)| ((*n).to_owned(), OsString::from(v))).collect();
        Manager::from_environment(|name| variables.get(name).cloned())
    }

    #[test]
    fn it_says_what_it_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let name = format!("runner-notify-{}", std::process::id());
        let bound = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).expect("bound")),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("bound"),
            ),
        ];
        for (address, socket) in bound {
            let manager = manager(&[("NOTIFY_SOCKET", &address)]);
            let heard = || {
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).expect("a message");
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            };
            manager.ready();
            assert!(heard().starts_with("READY=1\n"));
            manager.reloading();
            let said = heard();
            let at = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&said);
            assert!(at.parse::<u64>().is_ok_and(|us| us > 0), "{said}");
            // no watchdog, no sign of life
            manager.answered();
            manager.stopping();
            assert!(heard().starts_with("STOPPING=1\n"));
        }
    }

    #[test]
    fn without_a_socket_nothing_is_said_and_nothing_asked() {
        let second = OsStr::new("1000000");
        for variables in [&[][..], &[("NOTIFY_SOCKET", OsStr::new("relative"))], &[("WATCHDOG_USEC", second)]] {
            let mut manager = manager(variables);
            manager.ready();
            assert!(!manager.asks(Instant::now() + Duration::from_secs(3600)), "{variables:?}");
        }
    }

    #[test]
    fn who_is_watched_is_asked_four_times_in_that_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let _socket = UnixDatagram::bind(&path).expect("bound");
        let own = std::process::id().to_string();
        let watched = |usec: &str, pid: &str| {
            manager(&[
                ("NOTIFY_SOCKET", path.as_os_str()),
                ("WATCHDOG_USEC", OsStr::new(usec)),
                ("WATCHDOG_PID", OsStr::new(pid)),
            ])
        };
        let mut ours = watched("20000000", &own);
        let start = ours.ask.expect("watched");
        assert!(!ours.asks(start - Duration::from_millis(1)) && ours.asks(start) && !ours.asks(start));
        assert_eq!(ours.ask, Some(start + Duration::from_secs(5)));
        assert_eq!(watched("1", &own).every, Some(ASK_MIN));
        for (usec, pid) in [("0", &*own), ("x", &*own), ("20000000", "1"), ("20000000", "x")] {
            assert_eq!(watched(usec, pid).every, None, "{usec} {pid}");
        }
    }
}
