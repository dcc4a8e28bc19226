//! What a request to AWS asks for: service, region and operation, read out of host, path, headers and signature alone. Command line,
//! supervisor and worker must read the same: the first refuses early, the second decides and says what may be connected to, the third signs.
//!
//! ```text
//!   host ──▶ services that answer there, region ─┐
//!   signature's scope ──▶ service, region ───────┴▶ they agree ─▶ the service's protocol ─▶ operation, or none that is certain
//! ```
//! Nothing here verifies a signature: what it is made with is no secret of AWS'. It says what the request is for, and that is compared.
//! It must never give an operation that the request might not be: where two could be meant, there is none.

mod endpoint;
mod host;
mod operations;
mod request;
mod signature;

pub use endpoint::{Endpoint, Partition, is_region};
pub use host::{Host, Place};
pub use operations::{is_of_an_operation, operation_of};
pub use request::{Asked, FORM_MAX, HEADERS_MAX, TARGET_MAX, action, is_form, read, without_signature};
pub use signature::{Payload, Signature};

/// The headers in which a request to AWS stands on its way to the control plane, whose own headers it must not meet.
pub mod headers {
    /// The host, as AWS has it.
    pub const HOST: &str = "aws-host";
    /// Path and query. Not in the path: what stands between may write a path in another way, and S3 would take it for another key.
    pub const TARGET: &str = "aws-target";
    /// The action that the form in the body names, where one does.
    pub const ACTION: &str = "aws-action";
    /// What stands before the name of each header that is meant for AWS.
    pub const PREFIX: &str = "aws-header-";
    /// In an answer, with [`OF_AWS`]: it is AWS' own, and no failure of what is between.
    pub const ANSWER: &str = "runner-answer";
    /// See [`ANSWER`].
    pub const OF_AWS: &str = "aws";
}

#[cfg(test)]
mod tests;
