//! A tree that is shared and never changed under a reader: writing copies the path
//! to what is written.
//!
//! Two levels of 256, and leaves below: keys are spread evenly, so it is balanced
//! by itself, and never has to be made anew because it has grown. A leaf is one
//! piece of memory, in order, and the evenness also tells about where in it a value
//! lies: of a million values one is found with a look at one place that is in no
//! cache, and at what lies beside it.

use std::sync::Arc;

/// Children of an inner node: one for each value of a byte.
const FAN_OUT: usize = 256;
/// The bits of a place that choose a leaf.
const ABOVE_LEAVES: u32 = 16;

/// A set of values, each with a key of its own.
#[derive(Debug)]
pub(super) struct Tree<V> {
    root: Arc<[Branch<V>; FAN_OUT]>,
}

type Branch<V> = Arc<[Leaf<V>; FAN_OUT]>;

/// Values in the order of their places.
type Leaf<V> = Arc<[V]>;

/// What it is known by.
pub(super) trait Keyed {
    type Key;

    /// Where the key's value is kept: a number, spread evenly over all that there
    /// are, and nearly always one's own.
    fn place_of(key: &Self::Key) -> u64;

    /// Where this value is kept.
    fn place(&self) -> u64;

    /// Whether this is the value of that key.
    fn has(&self, key: &Self::Key) -> bool;
}

impl<V> Clone for Tree<V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
        }
    }
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        // All of them share one empty branch, and that one empty leaf.
        let leaf: Leaf<V> = Arc::from([]);
        let branch = Arc::new(std::array::from_fn(|_| Arc::clone(&leaf)));
        let root = Arc::new(std::array::from_fn(|_| Arc::clone(&branch)));
        Self { root }
    }
}

/// Which branch a place is on, and which of its leaves.
const fn path(place: u64) -> (usize, usize) {
    let [first, second, ..] = place.to_be_bytes();
    (first as usize, second as usize)
}

/// Where in a leaf of so many values a place is, about: no further than they are.
fn guess(place: u64, values: usize) -> usize {
    let share = u128::from(place << ABOVE_LEAVES) * values as u128;
    usize::try_from(share >> u64::BITS).expect("it is less than the number of values")
}

/// Where in a leaf the value is, or where it belongs.
fn position<V: Keyed>(leaf: &[V], place: u64, key: &V::Key) -> Result<usize, usize> {
    let mut at = guess(place, leaf.len());
    while at > 0 && leaf[at - 1].place() >= place {
        at -= 1;
    }
    while let Some(value) = leaf.get(at) {
        if value.place() > place {
            break;
        }
        if value.place() == place && value.has(key) {
            return Ok(at);
        }
        at += 1;
    }
    Err(at)
}

impl<V: Keyed> Tree<V> {
    /// A tree of these values, whose keys all differ. Much faster than one after
    /// the other: memory is written in its order, and each leaf once.
    pub(super) fn of(mut values: Vec<V>) -> Self {
        values.sort_unstable_by_key(V::place);
        let mut values = values.into_iter().peekable();
        let empty: Leaf<V> = Arc::from([]);
        let mut here = Vec::new();
        let mut leaf = |branch: usize, leaf: usize| {
            let is_here = |value: &V| path(value.place()) == (branch, leaf);
            here.extend(std::iter::from_fn(|| values.next_if(is_here)));
            if here.is_empty() {
                Arc::clone(&empty)
            } else {
                here.drain(..).collect()
            }
        };
        let mut branch = |branch: usize| Arc::new(std::array::from_fn(|at| leaf(branch, at)));
        let root = Arc::new(std::array::from_fn(&mut branch));
        Self { root }
    }

    /// Finds a value.
    pub(super) fn find(&self, key: &V::Key) -> Option<&V> {
        let place = V::place_of(key);
        let (branch, leaf) = path(place);
        let leaf = &self.root[branch][leaf];
        let at = position(leaf, place, key).ok()?;
        Some(&leaf[at])
    }
}

impl<V: Keyed + Clone> Tree<V> {
    /// Puts a value in its place, and gives the one that was there.
    pub(super) fn put(&mut self, key: &V::Key, value: V) -> Option<V> {
        let place = value.place();
        let leaf = self.leaf(place);
        match position(leaf, place, key) {
            Ok(at) => {
                let values = Arc::make_mut(leaf);
                Some(std::mem::replace(&mut values[at], value))
            }
            Err(at) => {
                let (before, after) = leaf.split_at(at);
                let before = before.iter().cloned();
                let after = after.iter().cloned();
                *leaf = before.chain(std::iter::once(value)).chain(after).collect();
                None
            }
        }
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, key: &V::Key) -> Option<V> {
        // Nothing is copied where there is nothing to remove.
        let removed = self.find(key)?.clone();
        let place = removed.place();
        let leaf = self.leaf(place);
        let at = position(leaf, place, key).ok()?;
        let (before, after) = (&leaf[..at], &leaf[at + 1..]);
        *leaf = before.iter().chain(after).cloned().collect();
        Some(removed)
    }

    /// A leaf to put another one in its place: the nodes above it are copied where
    /// somebody else has them too.
    fn leaf(&mut self, place: u64) -> &mut Leaf<V> {
        let (branch, leaf) = path(place);
        let root = Arc::make_mut(&mut self.root);
        &mut Arc::make_mut(&mut root[branch])[leaf]
    }
}
