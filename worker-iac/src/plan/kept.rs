//! What of a plan is kept where there is more of it than a document takes: what may be lost by the plan stays longest. First the attributes of what is
//! read, created and changed go, then whole resources in the same order. Never more is held than the document takes, and one resource.

use shared_proto::plan::ResourceChange;

/// Ranks of actions, from what is lost for good to what is only read ([`shared_proto::plan::Action::rank`]).
const RANKS: usize = 5;

/// Resources within a bound.
#[derive(Debug)]
pub(super) struct Kept {
    /// None: it was left out.
    resources: Vec<Option<ResourceChange>>,
    /// By rank those whose attributes are there, and those that are there; by their place in `resources`, with the bytes that go with them.
    attributes: [Vec<(usize, usize)>; RANKS],
    whole: [Vec<(usize, usize)>; RANKS],
    bytes: usize,
    most: usize,
    /// How many were left out.
    pub(super) left_out: u32,
}

// === impl Kept ===

impl Kept {
    /// With room for so many bytes of JSON.
    pub(super) fn new(most: usize) -> Self {
        let (attributes, whole) = Default::default();
        Self { resources: Vec::new(), attributes, whole, bytes: 0, most, left_out: 0 }
    }

    /// Takes one more; whatever matters least goes for it, which may be itself.
    pub(super) fn push(&mut self, resource: ResourceChange) {
        let rank = usize::from(resource.action.rank()).min(RANKS - 1);
        let of_attributes = length(&resource.attributes);
        // with what says that its attributes were left out
        let of_head = length(&resource).saturating_sub(of_attributes) + NOTE;
        let at = self.resources.len();
        self.bytes += of_attributes + of_head;
        if !resource.attributes.is_empty() {
            self.attributes[rank].push((at, of_attributes));
        }
        self.whole[rank].push((at, of_head));
        self.resources.push(Some(resource));
        while self.bytes > self.most && (self.drop_attributes() || self.drop_one()) {}
    }

    fn drop_attributes(&mut self) -> bool {
        let Some((at, bytes)) = self.attributes.iter_mut().rev().find_map(Vec::pop) else { return false };
        if let Some(Some(resource)) = self.resources.get_mut(at) {
            let count = u32::try_from(std::mem::take(&mut resource.attributes).len()).unwrap_or(u32::MAX);
            resource.attributes_left_out = resource.attributes_left_out.saturating_add(count);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        true
    }

    fn drop_one(&mut self) -> bool {
        let Some((at, bytes)) = self.whole.iter_mut().rev().find_map(Vec::pop) else { return false };
        if let Some(resource) = self.resources.get_mut(at) {
            *resource = None;
            self.left_out = self.left_out.saturating_add(1);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        true
    }

    /// Those that are left: what may be lost first, else as they came; and how many attributes of them are missing.
    pub(super) fn into_resources(self) -> (Vec<ResourceChange>, u32) {
        let mut resources: Vec<_> = self.resources.into_iter().flatten().collect();
        resources.sort_by_key(|resource| resource.action.rank());
        let missing = resources.iter().fold(0_u32, |sum, r| sum.saturating_add(r.attributes_left_out));
        (resources, missing)
    }
}

/// What `,"attributes_left_out":200` and the comma behind a resource take.
const NOTE: usize = 32;

/// The bytes of its JSON, with the comma behind it.
pub(super) fn length(of: &impl serde::Serialize) -> usize {
    // what is made of texts, numbers and lists becomes JSON
    serde_json::to_string(of).map_or(0, |json| json.len() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::plan::{Action, AttributeChange};

    fn resource(n: usize, action: Action) -> ResourceChange {
        let value = Some("v".repeat(1000).into());
        let attributes = vec![AttributeChange { path: "a".into(), after: value, ..Default::default() }];
        ResourceChange { address: format!("t.r[{n}]"), action, attributes, ..Default::default() }
    }

    #[test]
    fn what_may_be_lost_stays_longest() {
        let mut kept = Kept::new(80_000);
        let actions = [Action::Create, Action::Delete, Action::Read, Action::Update, Action::Replace];
        for n in 0..100 {
            kept.push(resource(n, actions[n % 5]));
            assert!(kept.bytes <= 80_000, "{}", kept.bytes);
        }
        assert_eq!(kept.left_out, 0);
        let (resources, missing) = kept.into_resources();
        assert_eq!(resources.len(), 100);
        assert!(serde_json::to_string(&resources).expect("JSON").len() <= 80_000);
        let with = |rank: u8| resources.iter().filter(|r| r.action.rank() == rank && !r.attributes.is_empty()).count();
        assert_eq!((with(0), with(2), with(4)), (40, 20, 0));
        assert_eq!(usize::try_from(missing).expect("fits"), 100 - 60 - with(3));
        assert!(resources[0].action.destroys() && resources[99].action == Action::Read);
        // in the order in which they came, otherwise
        assert_eq!(resources[0].address, "t.r[1]");
    }

    #[test]
    fn whole_resources_go_where_attributes_are_not_enough() {
        let mut kept = Kept::new(10_000);
        for n in 0..1000 {
            kept.push(resource(n, if n % 100 == 99 { Action::Replace } else { Action::Create }));
        }
        let left_out = kept.left_out;
        let (resources, _) = kept.into_resources();
        assert!(serde_json::to_string(&resources).expect("JSON").len() <= 10_000);
        assert_eq!(resources.len() + usize::try_from(left_out).expect("fits"), 1000);
        assert_eq!(resources.iter().filter(|r| r.action == Action::Replace).count(), 10);
        // one that is larger than all there is
        let mut kept = Kept::new(100);
        kept.push(resource(1, Action::Delete));
        assert_eq!((kept.left_out, kept.into_resources().0.len()), (1, 0));
    }
}
