//! Types of AWS, as CloudFormation names them.

use super::Type;

/// Whatever has tags, of any type, by the Resource Groups Tagging API.
pub(super) const TAGGED: &[Type] = &[Type { name: "tagged", service: "tag", operations: &["GetResources"] }];

/// Those that are listed where none is named.
pub(super) const TYPES: &[Type] =
    &[Type { name: "AWS::S3::Bucket", service: "cloudformation", operations: &["ListResources"] }];
