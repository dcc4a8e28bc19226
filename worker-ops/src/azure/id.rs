//! Ids and types of resources. Azure does not tell upper from lower case in either; here a type is written as who asked wrote it, or the table.

use shared_proto::azure::is_guid;
use shared_proto::failure::Code;
use shared_proto::inventory;

use crate::fault::Fault;
use crate::net::url;

/// The type of what holds resources.
pub(super) const GROUPS: &str = "Microsoft.Resources/subscriptions/resourceGroups";
/// The longest name of a type, and of a part of an id, bytes.
const PART_MAX: usize = 260;
/// The most parts of an id.
const PARTS_MAX: usize = 24;

/// A resource's id, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Id<'a> {
    pub(super) subscription: &'a str,
    /// `Microsoft.Compute/virtualMachines`, as it stands there.
    pub(super) type_name: String,
    parts: Vec<&'a str>,
}

// === impl Id ===

impl<'a> Id<'a> {
    /// `/subscriptions/S/resourceGroups/G` or `…/providers/NAMESPACE/TYPE/NAME[/TYPE/NAME]…`, and nothing that could be read in two ways.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(super) fn parse(text: &'a str) -> Result<Self, Fault> {
        let wrong = || {
            Fault::new(Code::InvalidArgument, format!("{text:?} is no id of a resource"))
                .next("Name it by its id, /subscriptions/…/providers/…, as lists show it.")
        };
        let parts: Vec<&str> = text.strip_prefix('/').ok_or_else(wrong)?.split('/').collect();
        let is = |at: usize, name: &str| parts.get(at).is_some_and(|part| part.eq_ignore_ascii_case(name));
        if parts.len() > PARTS_MAX || !parts.iter().all(|part| is_part(part)) || !is(0, "subscriptions") {
            return Err(wrong());
        }
        let subscription = parts.get(1).copied().filter(|s| is_guid(s)).ok_or_else(wrong)?;
        let providers = if is(2, "resourceGroups") { 4 } else { 2 };
        let type_name = match parts.len() {
            4 if providers == 4 => GROUPS.to_owned(),
            _ if !is(providers, "providers") => return Err(wrong()),
            // a resource of another's, such as a lock, has two of them: which type it is would be told by the second
            _ if parts[providers + 1..].iter().any(|part| part.eq_ignore_ascii_case("providers")) => {
                return Err(wrong());
            }
            _ => {
                let (namespace, rest) = parts[providers + 1..].split_first().ok_or_else(wrong)?;
                if rest.is_empty() || rest.len() % 2 != 0 {
                    return Err(wrong());
                }
                let kinds: Vec<&str> = rest.iter().step_by(2).copied().collect();
                format!("{namespace}/{}", kinds.join("/"))
            }
        };
        Ok(Self { subscription, type_name, parts })
    }

    /// As it stands in a request.
    pub(super) fn path(&self) -> String {
        self.parts.iter().map(|part| format!("/{}", url::encode(part))).collect()
    }
}

fn is_part(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && !matches!(c, '\\' | '%' | '?' | '#');
    (1..=PART_MAX).contains(&text.len()) && text.chars().all(plain) && !matches!(text, "." | "..")
}

/// `NAMESPACE/TYPE[/TYPE]…`.
///
/// # Errors
/// `invalid_argument`.
pub(super) fn check_type(name: &str) -> Result<(), Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let part = |p: &str| !p.is_empty() && p.bytes().all(plain) && !matches!(p, "." | "..");
    if name.len() <= PART_MAX && (2..=8).contains(&name.split('/').count()) && name.split('/').all(part) {
        return Ok(());
    }
    Err(Fault::new(Code::InvalidArgument, format!("{name:?} is no type of resource"))
        .next("Name one as Resource Manager does, such as Microsoft.Compute/virtualMachines."))
}

/// One of the types that were asked for, as the table writes it, or whoever asked; `None`: it was not asked for.
pub(super) fn among<'a>(types: &'a [String], found: &str) -> Option<&'a str> {
    let named = types.iter().find(|t| t.eq_ignore_ascii_case(found))?;
    Some(inventory::find("azure", named).map_or(named.as_str(), |t| t.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: &str = "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590";

    #[test]
    fn what_an_id_says() {
        for (rest, type_name) in [
            ("/resourceGroups/g", GROUPS),
            ("/RESOURCEGROUPS/g", GROUPS),
            ("/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v", "Microsoft.Compute/virtualMachines"),
            ("/resourcegroups/g/PROVIDERS/microsoft.sql/servers/s/databases/d", "microsoft.sql/servers/databases"),
            ("/providers/Microsoft.X/y/z", "Microsoft.X/y"),
        ] {
            let id = format!("{S}{rest}");
            let parsed = Id::parse(&id).expect(rest);
            assert_eq!((parsed.type_name.as_str(), parsed.path()), (type_name, id.clone()));
        }
        let odd = format!("{S}/resourceGroups/a (b)/providers/Microsoft.X/y/ü");
        assert_eq!(
            Id::parse(&odd).expect("fine").path(),
            format!("{S}/resourceGroups/a%20%28b%29/providers/Microsoft.X/y/%C3%BC")
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_none() {
        for rest in [
            "",
            "/",
            "/resourceGroups",
            "/resourceGroups/",
            "/resourceGroups/g/",
            "/resourceGroups/g/providers",
            "/resourceGroups/g/providers/Microsoft.X",
            "/resourceGroups/g/providers/Microsoft.X/y",
            "/resourceGroups/g/providers/Microsoft.X/y/z/w",
            "/resourceGroups/g/other/Microsoft.X/y/z",
            "/resourceGroups/g/providers/Microsoft.X/y/z/providers/Microsoft.Authorization/locks/l",
            "/resourceGroups/../providers/Microsoft.X/y/z",
            "/resourceGroups/g/providers/Microsoft.X/y/..",
            "/resourceGroups/g/providers/Microsoft.X/y/a%2fb",
            "/resourceGroups/g/providers/Microsoft.X/y/a?b=c",
            "/resourceGroups/g/providers/Microsoft.X/y/a#b",
            "/resourceGroups/g/providers/Microsoft.X/y/a\\b",
            "/resourceGroups/g/providers/Microsoft.X//z",
        ] {
            assert_eq!(Id::parse(&format!("{S}{rest}")).expect_err(rest).code(), Code::InvalidArgument);
        }
        for bad in ["", "subscriptions/x", "/subscriptions/x/resourceGroups/g", "https://evil.example/subscriptions"] {
            assert!(Id::parse(bad).is_err(), "{bad}");
        }
        let long = |n| format!("{S}/resourceGroups/g/providers/Microsoft.X/y/{}", "z".repeat(n));
        assert!(Id::parse(&long(PART_MAX)).is_ok() && Id::parse(&long(PART_MAX + 1)).is_err());
        let deep = |n| format!("{S}/resourceGroups/g/providers/Microsoft.X{}", "/y/z".repeat(n));
        assert!(Id::parse(&deep(9)).is_ok() && Id::parse(&deep(10)).is_err());
    }

    #[test]
    fn types() {
        for good in ["Microsoft.Compute/virtualMachines", "a/b/c", GROUPS] {
            assert!(check_type(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "a/",
            "/b",
            "a//b",
            "a/b'",
            "a/b c",
            "a/..",
            "a/b) or (1 eq 1",
            "a/b/c/d/e/f/g/h/i",
            &format!("a/{}", "b".repeat(PART_MAX)),
        ] {
            assert_eq!(check_type(bad).expect_err(bad).code(), Code::InvalidArgument);
        }
        let asked = ["microsoft.compute/virtualMACHINES".to_owned(), "Microsoft.X/Y".to_owned()];
        assert_eq!(among(&asked, "MICROSOFT.compute/virtualmachines"), Some("Microsoft.Compute/virtualMachines"));
        assert_eq!((among(&asked, "microsoft.x/y"), among(&asked, "microsoft.x/z")), (Some("Microsoft.X/Y"), None));
    }
}
