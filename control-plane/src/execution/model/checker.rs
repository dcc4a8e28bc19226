//! A breadth-first walk through every state of a model, with what must hold in each of them, and from each of them.

use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Where one step leads.
pub(super) struct Next<S> {
    /// What happens.
    pub(super) what: &'static str,
    /// To which process.
    pub(super) process: usize,
    /// It happens sooner or later by itself; else it is a fault, or somebody's wish, and may never come.
    pub(super) progress: bool,
    pub(super) to: S,
}

/// What is explored.
pub(super) trait Model {
    type State: Hash + Debug;
    fn first(&self) -> Self::State;
    /// The one of all states that stands for those which differ from it by nothing but names: whatever holds for one of them holds for all.
    fn standing_for(&self, state: Self::State) -> Self::State;
    fn next(&self, state: &Self::State) -> Vec<Next<Self::State>>;
    /// The property that a state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// Whether all is done.
    fn ended(&self, state: &Self::State) -> bool;
}

/// The property that from every state an end is reachable without another fault.
pub(super) const STUCK: &str = "no job is stuck";

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) steps: usize,
    /// The property that does not hold, and the shortest way there.
    pub(super) broken: Option<(&'static str, Vec<String>)>,
}

/// A state as bytes: what its digest is made of.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn write_u8(&mut self, byte: u8) {
        self.0.push(byte);
    }
    // how many there are of something
    fn write_usize(&mut self, number: usize) {
        self.0.push(u8::try_from(number).expect("a state has few of everything"));
    }
    // which of an enum's variants it is
    fn write_isize(&mut self, number: isize) {
        self.0.push(u8::try_from(number).expect("an enum has few variants"));
    }
    fn finish(&self) -> u64 {
        0
    }
}

/// By which a state is known: two of them have one by a chance of one in 2^88, of all that are ever explored.
fn digest(state: &impl Hash) -> u128 {
    let mut bytes = Bytes::default();
    state.hash(&mut bytes);
    let digest = Sha256::digest(&bytes.0);
    u128::from_le_bytes(digest[..16].try_into().expect("32 bytes"))
}

/// What is a digest is as good as its hash.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a digest is one number");
    }
    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is known of the states that were reached. A state itself is kept until it is explored, and no longer: they are many, and large.
struct Reached<'a, M: Model> {
    model: &'a M,
    numbers: HashMap<u128, u32, BuildHasherDefault<AsItIs>>,
    /// From which state each was reached first, by what, and to which process that happened.
    from: Vec<Option<(u32, &'static str, usize)>>,
}

impl<M: Model> Reached<'_, M> {
    /// The shortest way to a state, and the state.
    fn way(&self, mut at: u32) -> (Vec<String>, M::State) {
        let (mut way, mut numbers) = (Vec::new(), Vec::new());
        while let Some((previous, what, process)) = &self.from[at as usize] {
            way.push(format!("{process}: {what}"));
            numbers.push(at);
            at = *previous;
        }
        way.reverse();
        let mut state = self.model.standing_for(self.model.first());
        for number in numbers.iter().rev() {
            let next = self.model.next(&state).into_iter().map(|next| self.model.standing_for(next.to));
            let mut next = next.filter(|next| self.numbers.get(&digest(next)) == Some(number));
            state = next.next().expect("what was reached once is reached again");
        }
        (way, state)
    }
}

/// Explores everything, or up to the first state that breaks a property; more than `most` states are a mistake of the model.
pub(super) fn check<M: Model>(model: &M, most: usize) -> Found {
    let first = model.standing_for(model.first());
    let numbers = HashMap::from_iter([(digest(&first), 0)]);
    let mut reached = Reached { model, numbers, from: vec![None] };
    // what happens by itself: from where, and where to
    let mut steps_on: Vec<(u32, u32)> = Vec::new();
    let mut ends: Vec<u32> = Vec::new();
    let mut queue = VecDeque::from([(0_u32, first)]);
    let mut steps = 0;
    while let Some((at, state)) = queue.pop_front() {
        if let Some(property) = model.broken(&state) {
            return Found { states: reached.from.len(), steps, broken: Some((property, reached.way(at).0)) };
        }
        if model.ended(&state) {
            ends.push(at);
        }
        for next in model.next(&state) {
            steps += 1;
            let state = model.standing_for(next.to);
            let to = *reached.numbers.entry(digest(&state)).or_insert_with(|| {
                let number = u32::try_from(reached.from.len()).expect("so many states do not fit");
                reached.from.push(Some((at, next.what, next.process)));
                queue.push_back((number, state));
                number
            });
            if next.progress && to != at {
                steps_on.push((to, at));
            }
        }
        assert!(reached.from.len() <= most, "more than {most} states: the model has no bound");
    }
    // backwards, from the ends
    steps_on.sort_unstable();
    let mut good = vec![false; reached.from.len()];
    while let Some(at) = ends.pop() {
        if !std::mem::replace(&mut good[at as usize], true) {
            let first = steps_on.partition_point(|(to, _)| *to < at);
            ends.extend(steps_on[first..].iter().take_while(|(to, _)| *to == at).map(|(_, from)| *from));
        }
    }
    let stuck = good.iter().position(|good| !good).and_then(|n| u32::try_from(n).ok());
    let broken = stuck.map(|at| {
        let (mut way, state) = reached.way(at);
        way.push(format!("{state:?}"));
        (STUCK, way)
    });
    Found { states: reached.from.len(), steps, broken }
}
