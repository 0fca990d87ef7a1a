//! A tree that is shared and never changed under a reader: writing copies the path
//! to what is written, where anybody else has it too.
//!
//! Two levels of 256, and leaves below: keys are spread evenly, so it is balanced
//! by itself, and never has to be made anew because it has grown.

use std::sync::Arc;

/// Children of an inner node: one for each value of a byte.
const FAN_OUT: usize = 256;
/// By how much a full leaf grows. A vector's own doubling would waste a quarter of
/// the memory of all leaves.
const LEAF_GROWTH: usize = 4;

/// A set of values, each at a place of its key's.
#[derive(Debug)]
pub(super) struct Tree<V> {
    root: Arc<Root<V>>,
}

/// Where a key's value is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) first: u8,
    pub(super) second: u8,
    /// Tells values of one leaf apart nearly always, and is small, so that a search
    /// reads little memory. The whole key is compared after it.
    pub(super) tag: u64,
}

/// What it is known by.
pub(super) trait Keyed {
    type Key;

    /// Whether this is the value of that key.
    fn has(&self, key: &Self::Key) -> bool;
}

#[derive(Debug)]
struct Root<V>([Arc<Branch<V>>; FAN_OUT]);

#[derive(Debug)]
struct Branch<V>([Arc<Leaf<V>>; FAN_OUT]);

/// Values in the order of their tags.
#[derive(Clone, Debug)]
struct Leaf<V>(Vec<(u64, V)>);

impl<V> Clone for Tree<V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
        }
    }
}

impl<V> Clone for Root<V> {
    fn clone(&self) -> Self {
        Self(self.0.each_ref().map(Arc::clone))
    }
}

impl<V> Clone for Branch<V> {
    fn clone(&self) -> Self {
        Self(self.0.each_ref().map(Arc::clone))
    }
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        // All of them share one empty branch, and that one empty leaf.
        let leaf = Arc::new(Leaf(Vec::new()));
        let branch = Arc::new(Branch(std::array::from_fn(|_| Arc::clone(&leaf))));
        let root = Arc::new(Root(std::array::from_fn(|_| Arc::clone(&branch))));
        Self { root }
    }
}

impl<V> Tree<V> {
    /// A tree of these values, whose keys all differ. Much faster than one after
    /// the other: memory is written in its order, and each leaf once.
    pub(super) fn of(mut values: Vec<(Place, V)>) -> Self {
        values.sort_unstable_by_key(|(place, _)| (place.first, place.second, place.tag));
        let mut values = values.into_iter().peekable();
        let empty = Arc::new(Leaf(Vec::new()));
        let mut leaf = |first: u8, second: u8| {
            let mut here = Vec::new();
            let is_here = |(place, _): &(Place, V)| (place.first, place.second) == (first, second);
            while let Some((place, value)) = values.next_if(is_here) {
                here.push((place.tag, value));
            }
            if here.is_empty() {
                return Arc::clone(&empty);
            }
            here.shrink_to_fit();
            Arc::new(Leaf(here))
        };
        let mut branch = |first: u8| {
            let seconds = (0..=u8::MAX).map(|second| leaf(first, second));
            Arc::new(Branch(fill(seconds)))
        };
        let root = Root(fill((0..=u8::MAX).map(&mut branch)));
        Self {
            root: Arc::new(root),
        }
    }
}

/// As many children as a node has.
fn fill<T>(mut children: impl Iterator<Item = T>) -> [T; FAN_OUT] {
    std::array::from_fn(|_| children.next().expect("there is one for each byte"))
}

impl<V: Keyed> Leaf<V> {
    /// Where the value is, or where it belongs.
    fn position(&self, tag: u64, key: &V::Key) -> Result<usize, usize> {
        let start = self.0.partition_point(|(other, _)| *other < tag);
        for (at, (other, value)) in self.0.iter().enumerate().skip(start) {
            if *other != tag {
                return Err(at);
            }
            if value.has(key) {
                return Ok(at);
            }
        }
        Err(self.0.len())
    }
}

impl<V: Keyed> Tree<V> {
    /// Finds a value.
    pub(super) fn find(&self, place: Place, key: &V::Key) -> Option<&V> {
        let leaf = &self.root.0[usize::from(place.first)].0[usize::from(place.second)];
        let at = leaf.position(place.tag, key).ok()?;
        Some(&leaf.0[at].1)
    }
}

impl<V: Keyed + Clone> Tree<V> {
    /// Puts a value in its place, and gives the one that was there.
    pub(super) fn put(&mut self, place: Place, key: &V::Key, value: V) -> Option<V> {
        let leaf = self.leaf(place);
        match leaf.position(place.tag, key) {
            Ok(at) => Some(std::mem::replace(&mut leaf.0[at].1, value)),
            Err(at) => {
                if leaf.0.len() == leaf.0.capacity() {
                    leaf.0.reserve_exact(LEAF_GROWTH);
                }
                leaf.0.insert(at, (place.tag, value));
                None
            }
        }
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, place: Place, key: &V::Key) -> Option<V> {
        // Nothing is copied where there is nothing to remove.
        self.find(place, key)?;
        let leaf = self.leaf(place);
        let at = leaf.position(place.tag, key).ok()?;
        Some(leaf.0.remove(at).1)
    }

    /// A leaf to write to: it, and the nodes above it, are copied where somebody
    /// else has them too.
    fn leaf(&mut self, place: Place) -> &mut Leaf<V> {
        let root = Arc::make_mut(&mut self.root);
        let branch = Arc::make_mut(&mut root.0[usize::from(place.first)]);
        Arc::make_mut(&mut branch.0[usize::from(place.second)])
    }
}
