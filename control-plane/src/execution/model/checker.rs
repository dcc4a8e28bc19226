//! A breadth-first walk through every state of a model, with what must hold in each of them, and from each of them.

use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{Hash, Hasher};

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

/// A state as bytes: what its hash is made of.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
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
    digest.iter().take(16).fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// Explores everything, or up to the first state that breaks a property; more than `most` states are a mistake of the model.
pub(super) fn check<M: Model>(model: &M, most: usize) -> Found {
    let first = model.standing_for(model.first());
    let mut index = HashMap::from([(digest(&first), 0_u32)]);
    // each in a place of its own: they are large, and many
    let mut states = vec![Box::new(first)];
    let mut from: Vec<Option<(u32, &'static str, usize)>> = vec![None];
    // by what happens by itself, backwards
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let mut queue = VecDeque::from([0_u32]);
    let mut steps = 0;
    let way = |from: &[Option<(u32, &'static str, usize)>], mut at: u32| {
        let mut way = Vec::new();
        while let Some((previous, what, process)) = &from[at as usize] {
            way.push(format!("{process}: {what}"));
            at = *previous;
        }
        way.reverse();
        way
    };
    while let Some(at) = queue.pop_front() {
        let state = &*states[at as usize];
        if let Some(property) = model.broken(state) {
            return Found { states: states.len(), steps, broken: Some((property, way(&from, at))) };
        }
        for next in model.next(state) {
            steps += 1;
            let reached = model.standing_for(next.to);
            let to = *index.entry(digest(&reached)).or_insert_with(|| {
                let number = u32::try_from(states.len()).expect("so many states do not fit");
                states.push(Box::new(reached));
                from.push(Some((at, next.what, next.process)));
                before.push(Vec::new());
                queue.push_back(number);
                number
            });
            if next.progress && to != at {
                before[to as usize].push(at);
            }
        }
        assert!(states.len() <= most, "more than {most} states: the model has no bound");
    }
    let mut good = vec![false; states.len()];
    let ends = states.iter().enumerate().filter(|(_, state)| model.ended(state));
    let mut queue: Vec<u32> = ends.filter_map(|(n, _)| u32::try_from(n).ok()).collect();
    while let Some(at) = queue.pop() {
        if !std::mem::replace(&mut good[at as usize], true) {
            queue.extend(&before[at as usize]);
        }
    }
    let stuck = good.iter().position(|good| !good).and_then(|n| u32::try_from(n).ok());
    let broken = stuck.map(|at| {
        let mut way = way(&from, at);
        way.push(format!("{:?}", states[at as usize]));
        (STUCK, way)
    });
    Found { states: states.len(), steps, broken }
}
