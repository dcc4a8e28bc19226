//! What of its stack a job is about: addresses, imports, a lock, a workspace. What an address means the engine knows; refused here is
//! what could never be one, or would be another program's option.

use crate::store::{JobKind, Scope};
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1;
use utoipa::ToSchema;

/// Addresses, and imports, of one job.
const ADDRESSES_MAX: usize = 100;
/// An address, or an id to import, bytes.
const ADDRESS_MAX: usize = 1024;
/// A reason, bytes.
const REASON_MAX: usize = 512;
/// A lock's id, bytes; DynamoDB's and S3's hold a bucket and a key.
const LOCK_MAX: usize = 1024;
/// A workspace's name, bytes: what the engines take.
const WORKSPACE_MAX: usize = 90;

/// A resource that is there and is taken into the state.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    /// The address that it gets.
    address: String,
    /// As its provider names it.
    id: String,
}
/// A lock of the state.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    /// As the engine gives it, where it cannot have it.
    id: String,
    /// Why it may be removed: it is kept with the job.
    reason: String,
    /// Also where nothing proves that its holder has ended.
    #[serde(default)]
    pub(super) force: bool,
}
/// A version of the state.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// Its number.
    version: u64,
    /// Why it is gone back to: it is kept with the job, and with the version that is made of it.
    reason: String,
}
/// What a user names of a stack.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Only these.
    pub(super) targets: Vec<String>,
    /// These anew.
    pub(super) replace: Vec<String>,
    /// Taken in.
    pub(super) imports: Vec<Import>,
    /// Removed.
    pub(super) lock: Option<Lock>,
    /// Gone back to.
    pub(super) rollback: Option<Rollback>,
}

// === impl Named ===

impl Named {
    /// Checks it for a job of that kind, in that workspace.
    ///
    /// # Errors
    /// `invalid_argument`, `too_large`: also for what a job of that kind would not heed.
    pub(super) fn checked(self, kind: JobKind, workspace: String) -> Result<Scope, Failure> {
        use JobKind::{Destroy, Import, Preview, Refresh, Rollback, State, Unlock, Update};
        let heeds = |field: &str, given: bool, kinds: &[JobKind]| match given && !kinds.contains(&kind) {
            true => Err(Code::InvalidArgument.on(format!("a job of this kind heeds no {field}"))),
            false => Ok(()),
        };
        heeds("targets", !self.targets.is_empty(), &[Preview, Update, Refresh, Destroy, State])?;
        heeds("replace", !self.replace.is_empty(), &[Preview, Update])?;
        heeds("imports", !self.imports.is_empty(), &[Import])?;
        heeds("lock", self.lock.is_some(), &[Unlock])?;
        heeds("rollback", self.rollback.is_some(), &[Rollback])?;
        if kind == Import && self.imports.is_empty() {
            return Err(Code::InvalidArgument.on("imports names nothing to import"));
        }
        if self.imports.len() > ADDRESSES_MAX {
            let message = format!("imports has {}, the limit is {ADDRESSES_MAX}", self.imports.len());
            return Err(Code::TooLarge.on(message));
        }
        let mut imports = Vec::with_capacity(self.imports.len());
        for import in self.imports {
            let address = checked_address("imports", import.address)?;
            imports.push(v1::ImportedResource { address, id: checked_text("imports", import.id, ADDRESS_MAX)? });
        }
        let (lock_id, mut reason) = match self.lock {
            None if kind == Unlock => return Err(Code::InvalidArgument.on("lock names no lock")),
            None => (String::new(), String::new()),
            Some(lock) => {
                let id = checked_text("lock id", lock.id, LOCK_MAX)?;
                if id.starts_with('-') {
                    return Err(Code::InvalidArgument.on("lock id starts with a dash"));
                }
                let reason = checked_text("lock reason", lock.reason, REASON_MAX)?;
                (id, if lock.force { format!("{reason} (forced)") } else { reason })
            }
        };
        let state_version = match self.rollback {
            None if kind == Rollback => return Err(Code::InvalidArgument.on("rollback names no version")),
            None => 0,
            Some(rollback) if rollback.version == 0 => {
                return Err(Code::InvalidArgument.on("rollback names version 0: the first is 1"));
            }
            Some(rollback) => {
                reason = checked_text("rollback reason", rollback.reason, REASON_MAX)?;
                rollback.version
            }
        };
        Ok(Scope {
            workspace,
            targets: checked_addresses("targets", self.targets)?,
            replace: checked_addresses("replace", self.replace)?,
            imports,
            lock_id,
            state_version,
            reason,
        })
    }
}

/// A workspace's name; the default one's is none.
///
/// # Errors
/// `invalid_argument`.
pub(super) fn checked_workspace(name: String) -> Result<String, Failure> {
    if name == "default" {
        return Ok(String::new());
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    if name.len() <= WORKSPACE_MAX && name.bytes().all(plain) && !name.starts_with(['-', '.']) {
        return Ok(name);
    }
    Err(Code::InvalidArgument.on(format!(
        "workspace must be at most {WORKSPACE_MAX} letters, digits, dashes, underscores, dots or tildes, with no dash or dot first"
    )))
}

fn checked_addresses(field: &str, addresses: Vec<String>) -> Result<Vec<String>, Failure> {
    if addresses.len() > ADDRESSES_MAX {
        let message = format!("{field} has {} addresses, the limit is {ADDRESSES_MAX}", addresses.len());
        return Err(Code::TooLarge.on(message));
    }
    addresses.into_iter().map(|address| checked_address(field, address)).collect()
}

/// An address begins with a name.
fn checked_address(field: &str, address: String) -> Result<String, Failure> {
    let address = checked_text(field, address, ADDRESS_MAX)?;
    if address.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return Ok(address);
    }
    let shown: String = address.chars().take(100).collect();
    Err(Code::InvalidArgument.on(format!("{field} has {shown:?}, which is no resource's address")))
}

fn checked_text(field: &str, text: String, max: usize) -> Result<String, Failure> {
    if text.len() > max {
        return Err(Code::TooLarge.on(format!("{field} has {} bytes, the limit is {max}", text.len())));
    }
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(Code::InvalidArgument.on(format!("{field} is empty, or has control characters")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }
    fn code(named: Named, kind: JobKind) -> Result<Scope, Code> {
        named.checked(kind, String::new()).map_err(|f| f.code)
    }
    fn back(version: u64, reason: &str) -> Named {
        Named { rollback: Some(super::Rollback { version, reason: reason.into() }), ..Named::default() }
    }
    fn import(address: &str, id: &str) -> Import {
        Import { address: address.into(), id: id.into() }
    }

    #[test]
    fn a_job_is_about_what_its_kind_heeds() {
        use JobKind::{Destroy, Import, Outputs, Preview, Refresh, Rollback, State, Unlock, Update, Versions};
        for kind in [Preview, Update, Refresh, Destroy, Outputs, Import, State, Unlock, Versions, Rollback] {
            let targets = || Named { targets: all(&["module.a", "a.b[\"c d\"]"]), ..Named::default() };
            let heeds = matches!(kind, Preview | Update | Refresh | Destroy | State);
            assert_eq!(code(targets(), kind).is_ok(), heeds, "{kind:?}");
            let replace = || Named { replace: all(&["a.b"]), ..Named::default() };
            assert_eq!(code(replace(), kind).is_ok(), matches!(kind, Preview | Update), "{kind:?}");
            let imports = || Named { imports: vec![import("a.b", "${x}")], ..Named::default() };
            assert_eq!(code(imports(), kind).is_ok(), kind == Import, "{kind:?}");
            let lock =
                || Named { lock: Some(Lock { id: "1".into(), reason: "r".into(), force: false }), ..Named::default() };
            assert_eq!(code(lock(), kind).is_ok(), kind == Unlock, "{kind:?}");
            assert_eq!(code(back(1, "r"), kind).is_ok(), kind == Rollback, "{kind:?}");
            assert_eq!(code(Named::default(), kind).is_ok(), !matches!(kind, Import | Unlock | Rollback), "{kind:?}");
        }
    }

    #[test]
    fn both_sides_of_the_bounds() {
        let targets = |of: Vec<String>| code(Named { targets: of, ..Named::default() }, JobKind::Update).map(drop);
        assert_eq!(targets(vec!["a.b".into(); ADDRESSES_MAX]), Ok(()));
        assert_eq!(targets(vec!["a.b".into(); ADDRESSES_MAX + 1]), Err(Code::TooLarge));
        assert_eq!(targets(vec!["a".repeat(ADDRESS_MAX)]), Ok(()));
        assert_eq!(targets(vec!["a".repeat(ADDRESS_MAX + 1)]), Err(Code::TooLarge));
        for bad in ["", " ", "-a", "1.b", "a\nb", "\"a\".b"] {
            assert_eq!(targets(all(&[bad])), Err(Code::InvalidArgument), "{bad:?}");
        }
        let imports =
            |count| code(Named { imports: vec![import("a.b", "1"); count], ..Named::default() }, JobKind::Import);
        assert!(imports(ADDRESSES_MAX).is_ok() && imports(ADDRESSES_MAX + 1) == Err(Code::TooLarge));
        let lock = |id: &str, reason: &str| {
            let lock = Some(Lock { id: id.into(), reason: reason.into(), force: false });
            code(Named { lock, ..Named::default() }, JobKind::Unlock).map(drop)
        };
        assert_eq!(lock("bucket/key", &"r".repeat(REASON_MAX)), Ok(()));
        assert_eq!(lock("1", &"r".repeat(REASON_MAX + 1)), Err(Code::TooLarge));
        assert_eq!((lock("-1", "r"), lock("1", "")), (Err(Code::InvalidArgument), Err(Code::InvalidArgument)));
        let back = |version, reason: &str| code(back(version, reason), JobKind::Rollback).map(|s| s.state_version);
        assert_eq!((back(7, &"r".repeat(REASON_MAX)), back(0, "r")), (Ok(7), Err(Code::InvalidArgument)));
        assert_eq!(
            (back(7, &"r".repeat(REASON_MAX + 1)), back(7, "")),
            (Err(Code::TooLarge), Err(Code::InvalidArgument))
        );
    }

    #[test]
    fn a_workspace_has_a_plain_name() {
        for (name, expected) in [("", Some("")), ("default", Some("")), ("prod-1.x_y~", Some("prod-1.x_y~"))] {
            assert_eq!(checked_workspace(name.into()).ok().as_deref(), expected);
        }
        assert!(checked_workspace("a".repeat(WORKSPACE_MAX)).is_ok());
        for bad in ["a".repeat(WORKSPACE_MAX + 1).as_str(), "-a", "..", "a/b", "a b", "ä"] {
            assert!(checked_workspace(bad.into()).is_err(), "{bad}");
        }
    }
}
