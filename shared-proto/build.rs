//! Compiles the protocol with protox, so that no `protoc` is needed, and gives the messages that carry secrets a Debug written
//! by hand (`src/redacted.rs`).

use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::path::Path;

/// Messages that carry a secret: their derived Debug would print it.
const SECRET: &[&str] = &[
    "Hello",
    "WorkerRequest",
    "K8sRequest",
    "AwsRequest",
    "HttpHeader",
    "Target",
    "Target.kind",
    "KubernetesTarget",
    "AwsTarget",
    "GcpTarget",
    "AzureTarget",
    "ResolveRequest",
    "ResolveRequest.how",
    "ResolveKubeconfig",
    "ResolveAws",
    "AwsRole",
    "ResolveAzure",
    "ResolveSource",
    "SourceAccess",
    "AwsSession",
    "ResolveReply",
    "ResolveReply.kind",
    "JobStart",
    "JobTarget",
    "JobRequest",
    "PresentRequest",
    "VaultTarget",
    "SecretReads",
    "SecretReply",
    "SecretReply.kind",
];
/// Messages that go on to the API as JSON.
const JSON: &[&str] = &[
    "Event",
    "PhaseChanged",
    "SourceResolved",
    "OutputLine",
    "ResourceProgress",
    "Diagnostic",
    "CodeSnippet",
    "ChangeSummary",
    "PlannedChange",
    "Outputs",
    "EngineMessage",
    "PlanPart",
    "PlanJudged",
    "PlanSaved",
    "CancelProgress",
    "EngineStarted",
    "HookStarted",
    "JobResult",
    "Redacted",
    "StateResource",
    "StateVersion",
    "StateLock",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    let files = ["session", "operations", "execution", "worker_iac"].map(|f| format!("runner/v1/{f}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, [root])?;
    keep(&descriptors)?;
    let mut build = tonic_prost_build::configure()
        .bytes(".runner.v1.OperationInput")
        .bytes(".runner.v1.OperationOutput")
        .bytes(".runner.v1.SourceChunk");
    for name in SECRET {
        build = build.skip_debug([format!(".runner.v1.{name}")]);
    }
    for name in JSON {
        build = build.type_attribute(
            format!(".runner.v1.{name}"),
            "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"snake_case\")]",
        );
    }
    // what an earlier version wrote has it not
    for field in [
        "PhaseChanged.isolation_level",
        "StateLock.job",
        "StateLock.holder_gone",
        "EngineStarted.host",
        "JobResult.nothing_left",
        "JobResult.applied",
    ] {
        build = build.field_attribute(format!(".runner.v1.{field}"), "#[serde(default)]");
    }
    // the runner's own business
    build = build.field_attribute(".runner.v1.Event.engine_read", "#[serde(skip)]");
    build.compile_fds(descriptors)?;
    Ok(())
}

/// The protocol as it is, without its comments: what `kept/` has of earlier versions, and today's to compare them with.
fn keep(descriptors: &FileDescriptorSet) -> Result<(), Box<dyn std::error::Error>> {
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    let out = std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?;
    Ok(std::fs::write(Path::new(&out).join("protocol.binpb"), bare.encode_to_vec())?)
}
