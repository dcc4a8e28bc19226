//! Imports that a job asks for, as blocks in the working copy: so they are planned, approved and applied as any other change, and
//! nothing is taken into a state that nobody has seen. <https://opentofu.org/docs/language/import/>

use super::Engine;
use super::environment::private_file;
use serde_json::json;
use shared_proto::failure::Failure;
use shared_proto::v1::ImportedResource;

/// The file in the working copy.
const BLOCKS: &str = "runner_imports.tf.json";

/// Writes them down.
///
/// # Errors
/// The file system.
pub(crate) fn write(engine: &Engine, imports: &[ImportedResource]) -> Result<(), Failure> {
    private_file(&engine.common.root.join(BLOCKS), blocks(imports).as_bytes())
}

/// An address is an expression in JSON too, an id a template: it means what it says only where that is taken back.
fn blocks(imports: &[ImportedResource]) -> String {
    let plain = |id: &str| id.replace("${", "$${").replace("%{", "%%{");
    let blocks: Vec<_> = imports.iter().map(|i| json!({ "to": i.address, "id": plain(&i.id) })).collect();
    json!({ "import": blocks }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_no_template() {
        let one =
            ImportedResource { address: "a.b[\"c\"]".into(), id: "x-${file(\"/etc/passwd\")}-%{ if true }".into() };
        assert_eq!(
            blocks(&[one]),
            r#"{"import":[{"id":"x-$${file(\"/etc/passwd\")}-%%{ if true }","to":"a.b[\"c\"]"}]}"#
        );
    }
}
