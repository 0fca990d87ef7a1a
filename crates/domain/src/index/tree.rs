//! A persistent tree: a write copies the path to the changed leaf, so that readers share
//! the rest and never see a change.
//!
//! It has two levels with a fan-out of 256, and leaves below. Keys are uniformly
//! distributed, so that the tree is balanced and never rebuilt as it grows. A leaf is a
//! sorted array, searched by interpolation: a lookup among a million values costs about one
//! cache miss.

use std::sync::Arc;

/// Children of an inner node: one for each value of a byte.
const FAN_OUT: usize = 256;
/// Leaves of a tree.
pub(super) const LEAVES: usize = FAN_OUT * FAN_OUT;
/// The bits of a place that select the leaf.
const ABOVE_LEAVES: u32 = 16;

/// A set of values with unique keys.
#[derive(Debug)]
pub(super) struct Tree<V> {
    root: Arc<[Branch<V>; FAN_OUT]>,
}

type Branch<V> = Arc<[Leaf<V>; FAN_OUT]>;

/// Values in the order of their places.
type Leaf<V> = Arc<[V]>;

pub(super) trait Keyed {
    type Key;

    /// The place of the key: a uniformly distributed number, nearly always unique.
    fn place_of(key: &Self::Key) -> u64;

    fn place(&self) -> u64;

    fn has(&self, key: &Self::Key) -> bool;
}

impl<V> Clone for Tree<V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
        }
    }
}

impl<V> Tree<V> {
    /// The values of a leaf, by its number below [`LEAVES`]; empty beyond.
    pub(super) fn leaf_at(&self, number: usize) -> &[V] {
        let branch = self.root.get(number / FAN_OUT);
        branch.map_or(&[], |branch| &branch[number % FAN_OUT])
    }
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        // All entries share one empty branch, with one empty leaf.
        let leaf: Leaf<V> = Arc::from([]);
        let branch = Arc::new(std::array::from_fn(|_| Arc::clone(&leaf)));
        let root = Arc::new(std::array::from_fn(|_| Arc::clone(&branch)));
        Self { root }
    }
}

/// The branch and the leaf of a place.
const fn path(place: u64) -> (usize, usize) {
    let [first, second, ..] = place.to_be_bytes();
    (first as usize, second as usize)
}

/// The interpolated position of a place in a leaf; less than `values`, or 0.
fn guess(place: u64, values: usize) -> usize {
    let share = u128::from(place << ABOVE_LEAVES) * values as u128;
    usize::try_from(share >> u64::BITS).expect("it is less than the number of values")
}

/// The position of a key's value in a leaf, or the position to insert it at.
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
    /// A tree of these values, whose keys must be unique. Much faster than insertion one by
    /// one, since each leaf is written once, in the order of memory.
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

    pub(super) fn find(&self, key: &V::Key) -> Option<&V> {
        let place = V::place_of(key);
        let (branch, leaf) = path(place);
        let leaf = &self.root[branch][leaf];
        let at = position(leaf, place, key).ok()?;
        Some(&leaf[at])
    }

    /// All values, in the order of their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        let leaves = self.root.iter().flat_map(|branch| branch.iter());
        leaves.flat_map(|leaf| leaf.iter())
    }
}

impl<V: Keyed + Clone> Tree<V> {
    /// Inserts a value, and returns the one that it replaced.
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

    pub(super) fn remove(&mut self, key: &V::Key) -> Option<V> {
        // Nothing is copied if the key is absent.
        let removed = self.find(key)?.clone();
        let place = removed.place();
        let leaf = self.leaf(place);
        let at = position(leaf, place, key).ok()?;
        let (before, after) = (&leaf[..at], &leaf[at + 1..]);
        *leaf = before.iter().chain(after).cloned().collect();
        Some(removed)
    }

    /// A leaf to be replaced. The nodes above it are copied if a version shares them.
    fn leaf(&mut self, place: u64) -> &mut Leaf<V> {
        let (branch, leaf) = path(place);
        let root = Arc::make_mut(&mut self.root);
        &mut Arc::make_mut(&mut root[branch])[leaf]
    }
}
