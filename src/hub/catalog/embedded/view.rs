//! The tree as it will be: sled, with what is still in memory laid over it.
//!
//! Owns the merging of the two. May not write.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use serde::de::DeserializeOwned;

use super::values::decode;
use super::{CatalogError, Order, engine};

/// Writes that are not in the tree yet, by key; None removes.
pub type Layer = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
pub type Entry = Result<(Vec<u8>, Vec<u8>), CatalogError>;
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

pub static NOTHING: Layer = BTreeMap::new();

/// The newest layer stands first.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub tree: &'a sled::Tree,
    pub layers: [&'a Layer; 3],
}

impl<'a> View<'a> {
    pub fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, CatalogError> {
        for layer in self.layers {
            if let Some(write) = layer.get(key) {
                return write.as_ref().map(|value| decode(key, value)).transpose();
            }
        }
        let value = self.tree.get(key).map_err(engine("read"))?;
        value.map(|value| decode(key, &value)).transpose()
    }

    pub fn has(&self, key: &[u8]) -> Result<bool, CatalogError> {
        self.has_or_memory(key, true)
    }

    /// As [`View::has`]; without `stored` only of what is in memory.
    pub fn has_or_memory(&self, key: &[u8], stored: bool) -> Result<bool, CatalogError> {
        for layer in self.layers {
            if let Some(write) = layer.get(key) {
                return Ok(write.is_some());
            }
        }
        Ok(stored && self.tree.contains_key(key).map_err(engine("read"))?)
    }

    /// Every entry whose key begins with `prefix`, by key.
    pub fn prefix(&self, prefix: &[u8], order: Order) -> Merged<'a> {
        let mut behind = prefix.to_vec();
        // Prefixes end with a letter or the zero behind a text.
        let high = match behind.last_mut() {
            Some(last) => {
                *last += 1;
                Bound::Excluded(behind)
            }
            None => Bound::Unbounded,
        };
        self.scan((Bound::Included(prefix.to_vec()), high), order)
    }

    /// The entries within `bounds` in `order`.
    pub fn scan(&self, bounds: Bounds, order: Order) -> Merged<'a> {
        self.scan_or_memory(bounds, order, true)
    }

    /// As [`View::scan`]; without `stored` only of what is not in the tree yet.
    pub fn scan_or_memory(&self, bounds: Bounds, order: Order, stored: bool) -> Merged<'a> {
        if is_empty(&bounds) {
            let nothing = Box::new(std::iter::empty()) as Box<dyn Iterator<Item = Entry>>;
            let writes = Box::new(std::iter::empty()) as Box<dyn Iterator<Item = _>>;
            return Merged { stored: nothing.peekable(), writes: writes.peekable(), order };
        }
        let mut writes: BTreeMap<&'a [u8], Option<&'a [u8]>> = BTreeMap::new();
        for layer in self.layers.iter().rev() {
            let range = layer.range::<Vec<u8>, Bounds>(bounds.clone());
            writes.extend(range.map(|(key, write)| (key.as_slice(), write.as_deref())));
        }
        let tree = stored.then(|| self.tree.range(bounds));
        let stored = tree.into_iter().flatten().map(|item| {
            let (key, value) = item.map_err(engine("read"))?;
            Ok((key.to_vec(), value.to_vec()))
        });
        let (stored, writes): (Box<dyn Iterator<Item = Entry> + 'a>, Box<dyn Iterator<Item = _> + 'a>) =
            match order {
                Order::Oldest => (Box::new(stored), Box::new(writes.into_iter())),
                Order::Newest => (Box::new(stored.rev()), Box::new(writes.into_iter().rev())),
            };
        Merged { stored: stored.peekable(), writes: writes.peekable(), order }
    }
}

/// sled and BTreeMap panic on a range that ends before it begins.
fn is_empty((low, high): &Bounds) -> bool {
    let (Bound::Included(l) | Bound::Excluded(l), Bound::Included(h) | Bound::Excluded(h)) = (low, high)
    else {
        return false;
    };
    l > h || l == h && !matches!((low, high), (Bound::Included(_), Bound::Included(_)))
}

type Write<'a> = (&'a [u8], Option<&'a [u8]>);

/// See [`View::scan`].
pub struct Merged<'a> {
    stored: Peekable<Box<dyn Iterator<Item = Entry> + 'a>>,
    writes: Peekable<Box<dyn Iterator<Item = Write<'a>> + 'a>>,
    order: Order,
}

impl Iterator for Merged<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let Some(&(key, write)) = self.writes.peek() else { return self.stored.next() };
            match self.stored.peek() {
                Some(Err(_)) => return self.stored.next(),
                Some(Ok((stored, _))) if stored.as_slice() == key => {
                    // What is written later replaces what is stored.
                    self.stored.next();
                }
                Some(Ok((stored, _))) if (stored.as_slice() < key) == (self.order == Order::Oldest) => {
                    return self.stored.next();
                }
                _ => {}
            }
            self.writes.next();
            if let Some(value) = write {
                return Some(Ok((key.to_vec(), value.to_vec())));
            }
        }
    }
}
