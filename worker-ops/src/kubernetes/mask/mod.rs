//! Secrets without their values.
//!
//! A client of a cluster may see which Secrets there are, their keys, types and labels, and may write them; the values stay in the
//! cluster. Three parts, one for each way that a value or a mask could go:
//!
//! ```text
//!  client ── request_headers ──► only what is answered as JSON goes out
//!         ── Writes          ──► nothing goes out that would put a mask in the place of a value
//!         ◄─ Masker          ──  what comes back has no value in it
//! ```
//!
//! **Deny by structure.** The masker knows the fields that an answer about Secrets has and that are harmless. Everything else, at each
//! level that it walks, is masked. What it cannot read it refuses. So a field that a later Kubernetes adds is masked until
//! somebody has looked at it.
//!
//! **Byte for byte.** What is not masked goes on as it came: numbers, order, white space, escapes. The text is edited, not parsed
//! and written again: two features of serde_json that would come near to that (`preserve_order`, `arbitrary_precision`) change the
//! meaning of its types for a whole workspace, and a parsed map forgets the first of two equal keys. Here both are seen, and masked.
//!
//! **One length.** Every value becomes the same mask, the empty one too, so nothing tells how long a value is.
//!
//! # What it cannot hide
//! Who may write a Secret can try guesses: a write of the value that is there changes nothing, which the answer's
//! `resourceVersion` or `managedFields` shows, with `dryRun` without leaving a trace; a server-side apply of another value than
//! the one that is there is a conflict. That finds a value only if there are few to guess. JSON patches that ask outright are refused
//! ([`Writes`]). Who must not even guess must not write, which is for the policy to say. And who may start a pod can mount a Secret.

mod annotation;
mod edit;
mod headers;
mod object;
mod patch;
mod status;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod writes;

pub(crate) use self::headers::{Answer, Refused, answer_headers, request_headers};
pub(crate) use self::stream::{MaskError, Masker};
pub(crate) use self::writes::{WriteRefused, Writes};

/// What stands in the place of a value.
pub(crate) const MASK: &str = "[masked by the runner]";
/// The mask as a value of `data` has it: valid base64, so that clients can decode it.
pub(crate) const MASK_BASE64: &str = "W21hc2tlZCBieSB0aGUgcnVubmVyXQ==";
/// The longest Secret that is masked, and the longest of all else that is held at once, bytes. etcd takes 1.5 MiB.
pub(crate) const ELEMENT_MAX: usize = 8 * 1024 * 1024;
/// The longest body of a write that is looked at, bytes. An API server takes 3 MiB.
pub(crate) const BODY_MAX: usize = 4 * 1024 * 1024;
