//! Whether this runner takes new work: it does until it is told not to (`runner drain`), and then again once that is undone.
//!
//! It holds for as long as the launcher runs: a supervisor that is started again by it does not take work that the one before refused, and a
//! runner that is started anew does. So it is written down beside the launcher that it is for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Its name in the state directory.
const FILE: &str = "draining";
/// The longest text in it that is read, bytes.
const FILE_MAX: u64 = 256;

/// Whether new work is taken. Cheap to clone; who wants to know follows it.
#[derive(Debug, Clone)]
pub struct Intake {
    draining: Arc<watch::Sender<bool>>,
    path: PathBuf,
    /// Which launcher this is about.
    launcher: String,
}

// === impl Intake ===

impl Intake {
    /// As it was left in this state directory under this launcher.
    pub fn of(state_dir: &Path) -> Self {
        Self::under(state_dir, launcher())
    }

    fn under(state_dir: &Path, launcher: String) -> Self {
        let path = state_dir.join(FILE);
        let draining = !launcher.is_empty() && read(&path).is_ok_and(|text| text.trim() == launcher);
        Self { draining: Arc::new(watch::Sender::new(draining)), path, launcher }
    }

    /// Reads it again: the process before, of the same launcher, may have changed it.
    pub fn look(&self) {
        let draining = Self::under(self.path.parent().unwrap_or(&self.path), self.launcher.clone()).draining();
        self.tell(draining, if draining { "drained: no new work is taken" } else { "new work is taken again" });
    }

    /// Takes nothing new. What runs goes on.
    ///
    /// # Errors
    /// It cannot be written down; then nothing has changed.
    pub fn drain(&self) -> io::Result<()> {
        if !self.draining() {
            // whole or not there: this process may be killed at any moment. Not synced: a power cut takes the launcher too
            let partial = self.path.with_extension("new");
            std::fs::write(&partial, format!("{}\n", self.launcher))?;
            std::fs::rename(&partial, &self.path)?;
        }
        self.tell(true, "drained: no new work is taken");
        Ok(())
    }

    /// Takes new work again.
    ///
    /// # Errors
    /// What was written down cannot be removed; then nothing has changed.
    pub fn resume(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.tell(false, "new work is taken again");
        Ok(())
    }

    /// Takes nothing new, because this process is about to leave: that is nothing for the next one to know.
    pub fn close(&self) {
        self.tell(true, "leaving: no new work is taken");
    }

    fn tell(&self, draining: bool, what: &str) {
        let changed = self.draining.send_if_modified(|now| std::mem::replace(now, draining) != draining);
        if changed {
            tracing::info!("{what}");
        }
    }

    /// Whether nothing new is taken.
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Follows it.
    pub fn follow(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// This process's parent: boot, number, start time, and the container's life where it is in one. Nothing where that is not to be known.
fn launcher() -> String {
    let pid = nix::unistd::getppid().as_raw();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let life = crate::container::life();
    let name = |started: u64| format!("{} {pid} {started} {life}", boot.trim()).trim_end().to_owned();
    runner_sandbox::stat(pid).map(|s| name(s.start_time)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_this_launcher_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Intake::of(folder.path());
        assert!(!first.draining());
        let mut followed = first.follow();
        first.drain().expect("written");
        assert!(first.draining() && followed.has_changed().expect("there"));
        followed.mark_unchanged();
        first.drain().expect("written");
        assert!(!followed.has_changed().expect("there"), "nothing has changed by the second");
        // one that is there already sees it when it looks
        let beside = Intake::of(folder.path());
        first.resume().expect("removed");
        assert!(beside.draining());
        beside.look();
        assert!(!beside.draining());
        first.drain().expect("written");
        beside.look();
        assert!(beside.draining());
        // the next supervisor of the same launcher, and one of another
        assert!(Intake::of(folder.path()).draining());
        assert!(!Intake::under(folder.path(), "another boot 1 1".to_owned()).draining());
        // a launcher that is not to be known is nobody's
        std::fs::write(folder.path().join(FILE), "\n").expect("written");
        assert!(!Intake::under(folder.path(), String::new()).draining());
        first.resume().expect("removed");
        assert!(!first.draining() && !Intake::of(folder.path()).draining());
        first.resume().expect("nothing to remove");
    }

    #[test]
    fn it_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let intake = Intake::under(folder.path(), "this one".to_owned());
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut seen = 0;
                while seen < 500 {
                    match read(&folder.path().join(FILE)) {
                        Ok(text) => {
                            assert_eq!(text, "this one\n");
                            seen += 1;
                        }
                        Err(e) => assert_eq!(e.kind(), io::ErrorKind::NotFound),
                    }
                }
            });
            while !looks.is_finished() {
                intake.drain().expect("written");
                intake.drain().expect("there");
                intake.resume().expect("removed");
            }
        });
    }

    #[test]
    fn what_cannot_be_written_down_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let intake = Intake::of(&folder.path().join("missing"));
        assert!(intake.drain().is_err() && !intake.draining());
    }
}
