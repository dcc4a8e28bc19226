//! What people see, kept as files beside the tests that show it. `UPDATE_DOCS=1` writes them anew.

use crate::compare::first_difference;
use anyhow::{Context as _, Result};
use std::path::Path;

/// Holds a screen against the one that is kept under that name; how they differ, where they do.
///
/// # Errors
/// None is kept; the file system.
pub fn difference(folder: &Path, name: &str, text: &str) -> Result<Option<String>> {
    let file = folder.join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(folder)?;
        std::fs::write(&file, text)?;
    }
    let kept =
        std::fs::read_to_string(&file).with_context(|| format!("{}: run it with UPDATE_DOCS=1", file.display()))?;
    let found = first_difference(text, &kept);
    Ok(found.map(|(ours, theirs)| format!("{name}\n  ours:   {ours:?}\n  theirs: {theirs:?}")))
}
