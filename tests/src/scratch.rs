//! Folders of a test's own, all below one root that goes with the test binary.

use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "runner-tests-";

/// A folder that goes when it is dropped (unless `RUNNER_TEST_KEEP=1`).
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

fn keep() -> bool {
    std::env::var_os("RUNNER_TEST_KEEP").is_some_and(|v| v == "1")
}

/// The root of this test binary's folders.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        remove_stale();
        let root = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        // a path that cannot be made shows at its first use
        let _ = std::fs::create_dir_all(&root);
        root
    })
}

/// Removes what test binaries left that were killed.
fn remove_stale() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else { continue };
        if pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes this test binary's root.
pub fn remove_root() {
    if keep() {
        eprintln!("kept: {}", root().display());
    } else {
        let _ = std::fs::remove_dir_all(root());
    }
}

impl Scratch {
    /// A new, empty folder with mode 0700.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(name: &str) -> Result<Self> {
        Self::below(root(), name)
    }
    /// The same below another folder, for what must not lie where temporary files do.
    ///
    /// # Errors
    /// The file system's.
    pub fn below(folder: &Path, name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = folder.join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&path)
            .with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
    /// Writes a file in it, with the folders on the way.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !keep() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
