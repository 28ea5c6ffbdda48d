//! A model checker of a page: breadth-first over every state that actions reach.
//!
//! States are compared by value, so a state that is reached by several ways is
//! looked at once. What is found is the shortest way to a broken invariant.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;

/// How far a search went.
#[derive(Debug)]
pub(super) struct Reached {
    /// States that differ.
    pub(super) states: usize,
    /// Actions on the longest of the shortest ways to one.
    pub(super) depth: usize,
}

/// Looks at every state within `depth` actions of `start`. `next` gives the actions
/// of a state with where they lead; `holds` says what is wrong with a state. Panics
/// with the way to the first state in which something is.
pub(super) fn search<S, A>(
    start: S,
    depth: usize,
    next: impl Fn(&S) -> Vec<(A, S)>,
    holds: impl Fn(&S) -> Result<(), String>,
) -> Reached
where
    S: Clone + Ord,
    A: Clone + Debug,
{
    let mut seen: BTreeMap<S, usize> = BTreeMap::from([(start.clone(), 0)]);
    // The state before and the action that led on, by number of state.
    let mut ways: Vec<Option<(usize, A)>> = vec![None];
    let mut queue = VecDeque::from([(start, 0, 0)]);
    let mut reached = Reached {
        states: 1,
        depth: 0,
    };
    while let Some((state, number, far)) = queue.pop_front() {
        if let Err(problem) = holds(&state) {
            panic!("{problem}, after {:#?}", way(&ways, number));
        }
        reached.depth = far;
        if far == depth {
            continue;
        }
        for (action, after) in next(&state) {
            if seen.contains_key(&after) {
                continue;
            }
            let new = ways.len();
            seen.insert(after.clone(), new);
            ways.push(Some((number, action)));
            queue.push_back((after, new, far + 1));
        }
    }
    reached.states = seen.len();
    reached
}

fn way<A: Clone>(ways: &[Option<(usize, A)>], mut number: usize) -> Vec<A> {
    let mut actions = Vec::new();
    while let Some((before, action)) = &ways[number] {
        actions.push(action.clone());
        number = *before;
    }
    actions.reverse();
    actions
}
