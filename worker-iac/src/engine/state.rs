//! Where the state of a stack is. A configuration with a backend of its own keeps it there. One without keeps it in the runner's
//! state directory, by an override file in the working copy: the engine's own way, for both engines and every command.

use super::Engine;
use super::environment::private_file;
use crate::stop::{Stop, io_failure};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::path::Path;

/// The file in the working copy. `_override` makes the engine merge it over what the configuration says.
const OVERRIDE: &str = "runner_backend_override.tf.json";

/// What the configuration says about its backend.
#[derive(Debug, PartialEq, Eq)]
enum Backend {
    /// Nothing, or the local one: it would keep the state in the working copy, which goes with the job.
    Local,
    /// One of this kind.
    Other(String),
}

/// Runs `init` so that the state is kept in the right place, and says which that is. `elsewhere`: another instance that took the
/// stack's last job; empty: none did.
///
/// # Errors
/// What `init` fails with; `state_elsewhere`; the file system.
pub(crate) async fn init(engine: &mut Engine, folder: &str, elsewhere: &str) -> Result<(), Stop> {
    let may_have_backend = mentions_backend(&engine.common.root, engine.common.dialect.extensions())?;
    if may_have_backend {
        // the engine reads its own language best: what it then has set up is what the configuration says
        engine.init(false).await?;
        if let Backend::Other(kind) = configured(&engine.common.work.join("data"))? {
            engine.journal.note(format!("The state is in the configuration's own backend ({kind}).")).await;
            return Ok(());
        }
    }
    if folder.is_empty() {
        return Err(Code::Internal.on("the stack has no backend and the runner named no folder for its state").into());
    }
    let folder = Path::new(folder);
    super::private_folder(folder)?;
    let path = folder.join("terraform.tfstate");
    if !elsewhere.is_empty() && !path.exists() {
        // an empty state here would have everything made a second time
        let message = format!("the stack has no backend, and its state is on the instance {elsewhere}");
        return Err(Code::StateElsewhere.on(message).into());
    }
    // that of another workspace than the default one is in a folder of its own there
    let local = json!({ "path": path, "workspace_dir": folder.join("workspaces") });
    let content = json!({ "terraform": { "backend": { "local": local } } });
    private_file(&engine.common.root.join(OVERRIDE), content.to_string().as_bytes())?;
    let note = format!(
        "The configuration has no backend: its state is kept in the runner's state directory, by {OVERRIDE} in the working copy."
    );
    engine.journal.note(note).await;
    if engine.common.root.join("terraform.tfstate").exists() {
        engine.journal.note("The terraform.tfstate that came with the source is not used.").await;
    }
    engine.init(may_have_backend).await
}

/// Whether any file could name a backend at all. Wide: a comment is enough. Where no file has the word, there is none.
fn mentions_backend(root: &Path, extensions: &[&str]) -> Result<bool, Failure> {
    let failed = |e: &std::io::Error| io_failure(Code::SourceRefused, "the root module cannot be read", e);
    for entry in std::fs::read_dir(root).map_err(|e| failed(&e))? {
        let entry = entry.map_err(|e| failed(&e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !extensions.iter().any(|extension| name.ends_with(extension)) || name == OVERRIDE {
            continue;
        }
        // a link inside of the source, or a folder of that name: the engine decides
        let Ok(content) = std::fs::read(entry.path()) else { return Ok(true) };
        let has = |word: &[u8]| content.windows(word.len()).any(|window| window == word);
        if has(b"backend") || has(b"cloud") || (name.ends_with(".json") && has(b"\\u")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What `init` has set up.
fn configured(data: &Path) -> Result<Backend, Failure> {
    let content = match std::fs::read(data.join("terraform.tfstate")) {
        Ok(content) => content,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Backend::Local),
        Err(e) => return Err(io_failure(Code::Internal, "what init has set up", &e)),
    };
    let value: Value = serde_json::from_slice(&content)
        .map_err(|e| Code::EngineFailed.on(format!("what init has set up is no JSON: {e}")))?;
    Ok(match value["backend"]["type"].as_str() {
        None | Some("" | "local") => Backend::Local,
        Some(kind) => Backend::Other(kind.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_name_a_backend_is_left_to_the_engine() {
        for (name, content, expected) in [
            ("main.tf", "resource \"terraform_data\" \"a\" {}", false),
            ("main.tf", "terraform {\n backend \"s3\" {}\n}", true),
            ("main.tf", "terraform {\n cloud {}\n}", true),
            ("main.tf", "# no backend here", true),
            ("x.tf.json", "{\"terraform\":{\"b\\u0061ckend\":{}}}", true),
            ("notes.txt", "backend", false),
            (OVERRIDE, "backend", false),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join(name), content).expect("writes");
            assert_eq!(
                mentions_backend(folder.path(), &[".tf", ".tf.json"]).expect("reads"),
                expected,
                "{name} {content}"
            );
        }
    }

    #[test]
    fn what_init_has_set_up_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(configured(folder.path()).expect("reads"), Backend::Local);
        for (content, expected) in [
            (r#"{"backend":{"type":"local"}}"#, Some(Backend::Local)),
            (r#"{"backend":{"type":"s3"}}"#, Some(Backend::Other("s3".into()))),
            (r#"{"version":3}"#, Some(Backend::Local)),
            ("not JSON", None),
        ] {
            std::fs::write(folder.path().join("terraform.tfstate"), content).expect("writes");
            assert_eq!(configured(folder.path()).ok(), expected, "{content}");
        }
    }
}
