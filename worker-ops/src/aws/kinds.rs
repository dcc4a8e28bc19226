//! The types that are listed through their service's own calls: which calls, where the resources stand in the answers, and what of them is
//! name, state, tags, time and link. A table, read by `listing`.
//!
//! It must never have a call that shared-proto's `inventory` does not name for the type: the policy was not asked about it.

mod table;

pub(super) use self::table::KINDS;
use super::connect::{EC2, Protocol, Service};

/// A type. Paths are those of [`super::tree::at`]; patterns are texts with such paths in braces, see [`super::pattern`].
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) service: Service,
    /// What its resources are in: they are listed for each of these.
    pub(super) parents: Option<(Call, Sent)>,
    pub(super) list: Call,
    /// What tells more of them than the list does.
    pub(super) details: Details,
    /// An ARN: a pattern.
    pub(super) id: &'static str,
    /// What `GetResource` wants for it: a pattern; empty: the ARN.
    pub(super) identifier: &'static str,
    pub(super) title: &'static str,
    pub(super) state: &'static str,
    pub(super) created: &'static str,
    pub(super) tags: Tags,
    /// Its page in the console, below its domain: a pattern whose values are escaped.
    pub(super) link: &'static str,
}

/// A call that gives a list.
pub(super) struct Call {
    pub(super) operation: &'static str,
    /// Of REST alone.
    pub(super) path: &'static str,
    /// What every page is asked with, so that none of them is too long.
    pub(super) with: &'static [(&'static str, &'static str)],
    /// As what the mark of the next page is sent, and where it stands; empty: there is one page.
    pub(super) next: (&'static str, &'static str),
    /// Where the items are.
    pub(super) items: &'static str,
    /// Where they are in these, if they have something to tell of what is in them.
    pub(super) within: &'static str,
}

/// As what a value is sent, and from where in an item it is; without a name it stands in the path.
pub(super) struct Sent {
    pub(super) name: &'static str,
    pub(super) from: &'static str,
}

/// How more is asked about what a list gave.
pub(super) enum Details {
    /// It is not.
    None,
    /// One by one.
    Each(Call, Sent),
    /// So many at once, with tags.
    Batch(Call, Sent, usize),
}

/// Where tags are.
pub(super) enum Tags {
    /// In the resource.
    At(&'static str),
    /// In the Tagging API, which calls the type that: asked once for all, <https://docs.aws.amazon.com/resourcegroupstagging/latest/APIReference/>.
    Tagging(&'static str),
    /// In an answer of its own for each, and so only where tags are asked for.
    Each(Call, Sent),
}

const S3: Service = Service { signing: "s3", protocol: Protocol::Rest };

/// The Tagging API, of one page of which an answer is not too long.
pub(super) const TAGGED: Call = Call {
    operation: "GetResources",
    with: &[("ResourcesPerPage", "100")],
    next: ("PaginationToken", "PaginationToken"),
    items: "ResourceTagMappingList",
    ..CALL
};
/// By which a bucket's region is learned where the list did not tell it.
pub(super) const BUCKET_LOCATION: Call = Call { operation: "GetBucketLocation", path: "/{}?location", ..CALL };

const CALL: Call = Call { operation: "", path: "", with: &[], next: ("", ""), items: "", within: "" };
const KIND: Kind = Kind {
    name: "",
    service: EC2,
    parents: None,
    list: CALL,
    details: Details::None,
    id: "",
    identifier: "",
    title: "",
    state: "",
    created: "",
    tags: Tags::At(""),
    link: "",
};

/// The one of that name, whatever the case.
pub(super) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::connect::TAGGING;
    use shared_proto::aws::Endpoint;
    use shared_proto::inventory;
    use shared_proto::v1::{ListResources, operation_request::What};
    use std::collections::BTreeSet;

    /// Every call that is made for it, with the service that it is made to.
    fn calls(kind: &'static Kind) -> Vec<(Service, &'static Call)> {
        let own = |call| (kind.service, call);
        let mut calls = vec![own(&kind.list)];
        calls.extend(kind.parents.iter().map(|(call, _)| own(call)));
        match &kind.details {
            Details::None => {}
            Details::Each(call, _) | Details::Batch(call, _, _) => calls.push(own(call)),
        }
        match &kind.tags {
            Tags::At(_) => {}
            Tags::Tagging(_) => calls.push((TAGGING, &TAGGED)),
            Tags::Each(call, _) => calls.push(own(call)),
        }
        if kind.service == S3 {
            calls.push(own(&BUCKET_LOCATION));
        }
        calls
    }

    #[test]
    fn what_is_called_is_what_the_policy_is_asked_about_and_where_the_supervisor_connects() {
        let known: Vec<_> = inventory::all("aws", false).iter().map(|t| t.name).collect();
        assert_eq!(known, KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>());
        for kind in KINDS {
            let calls = calls(kind);
            let made: BTreeSet<_> = calls.iter().map(|(_, call)| call.operation.to_owned()).collect();
            let asked = inventory::calls("aws", kind.name).into_iter().filter_map(|call| call.operation).collect();
            assert_eq!(made, asked, "{}", kind.name);
            let list = ListResources { types: vec![kind.name.into()], ..Default::default() };
            let reached = inventory::aws_asked(&What::ListResources(list), "eu-central-1");
            let reached: BTreeSet<_> = reached.into_iter().map(|endpoint| endpoint.host).collect();
            let called: BTreeSet<_> =
                calls.iter().map(|(service, _)| Endpoint::of(service.signing, "eu-central-1").host).collect();
            assert_eq!(called, reached, "{}", kind.name);
        }
    }

    #[test]
    fn a_rest_call_has_a_path_and_no_other_has() {
        for kind in KINDS {
            for (service, call) in calls(kind) {
                assert_eq!(service.protocol == Protocol::Rest, !call.path.is_empty(), "{}", call.operation);
            }
            assert!(!kind.id.is_empty() && !kind.title.is_empty() && !kind.link.is_empty(), "{}", kind.name);
        }
    }
}
