//! Imports that a job asks for, as blocks in the working copy: so they are planned, approved and applied as any other change, and
//! nothing is taken into a state that nobody has seen. <https://opentofu.org/docs/language/import/>

use super::Engine;
use super::environment::private_file;
use serde_json::json;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{ImportedResource, JobKind, JobRequest};

/// The file in the working copy.
pub(super) const BLOCKS: &str = "runner_imports.tf.json";

/// Writes them down.
///
/// # Errors
/// The file system.
pub(crate) fn write(engine: &Engine, imports: &[ImportedResource]) -> Result<(), Failure> {
    private_file(&engine.common.root.join(BLOCKS), blocks(imports).as_bytes())
}

/// Why a plan that imports so many is none of that job, if it is none: an engine passes over an import of what it manages already, and whoever
/// asked for it must not be told that all is well. `imports`: none: nobody can tell.
pub(crate) fn missed(request: &JobRequest, imports: Option<u64>) -> Option<Failure> {
    let wanted = request.imports.len() as u64;
    let imports = imports.filter(|imports| request.kind() == JobKind::Import && *imports < wanted)?;
    Some(
        Code::EngineFailed
            .on(format!("the plan imports {imports} of the {wanted} resources that were named: what the state has already is not imported"))
            .next("Look whether the state has it, and under which id: `runnerctl state list`, `runnerctl state show`."),
    )
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
    fn what_is_not_imported_is_told() {
        let one = ImportedResource { address: "a.b".into(), id: "x".into() };
        let request =
            JobRequest { kind: JobKind::Import as i32, imports: vec![one.clone(), one], ..JobRequest::default() };
        assert!(missed(&request, Some(1)).expect("one is missing").message.contains("1 of the 2 resources"));
        assert!(missed(&request, Some(2)).is_none() && missed(&request, None).is_none());
        assert!(missed(&JobRequest { kind: JobKind::Update as i32, ..request }, Some(0)).is_none());
    }

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
