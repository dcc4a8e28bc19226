//! Links the unwinder into the program: every worker is a process, and libgcc_s, loaded for nothing else, asks the processor for all of its
//! features at its start, which in a virtual machine takes longer than loading it. Where the archive is not to be had the shared one stays.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let here = |name: &str| std::env::var(name).unwrap_or_default();
    if here("CARGO_CFG_TARGET_ENV") != "gnu" || here("HOST") != here("TARGET") {
        return;
    }
    if let Some(folder) = unwinder().as_deref().and_then(Path::parent) {
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// The compiler's own, as the compiler names it: a path, or the mere name of what it does not have.
fn unwinder() -> Option<PathBuf> {
    let said = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let path = PathBuf::from(String::from_utf8(said.stdout).ok()?.trim());
    path.is_absolute().then_some(path).filter(|path| path.is_file())
}
