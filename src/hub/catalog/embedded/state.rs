//! What is applied but not yet in the tree: the open run.
//!
//! Owns the rows, keys and counts since the last run was written. A crash forgets it, and the hub applies it again
//! from the journal. May not do I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::block::Row;
use super::directory::{Run, Runs};
use super::keys::{SOURCES_OF_GROUP, device_key, epoch_key, group_key, kind};
use super::packed::{Moved, Upload};
use super::sources::Sources;
use super::values::{DeviceValue, EpochValue, RingValue, SeenValue, encode};
use super::view::Layer;
use crate::limits::{INDEX_EPOCHS_MAX, INDEX_RUN_BYTES_MAX};
use crate::model::{BoxId, DeviceId, Epoch, Time};

/// Who counts: the box's number and its epoch.
pub type EpochPlace = (u32, Epoch);

/// The open run and what is known of the closed ones.
pub struct State {
    /// Position of the open run's first record; everything before it is in the tree.
    pub start: u64,
    /// Position behind its last record.
    pub next: u64,
    pub rows: Vec<Row>,
    /// Files that came.
    pub uploads: BTreeSet<Upload>,
    pub writes: Layer,
    /// Bytes that went into `writes` since the run began, written over or not.
    pub bytes: usize,
    /// Latest arrival in the run; its day names the run.
    pub latest: Time,
    pub epochs: HashMap<EpochPlace, Kept<EpochValue>>,
    /// Sources that the tree has already.
    pub sources_stored: usize,
    /// Clips that a correction of this run was about: they stay keys.
    pub replaced: HashSet<Uuid>,
    pub known: Known,
}

/// What is in memory of a value of the tree.
#[derive(Clone, Copy)]
pub struct Kept<T> {
    pub value: T,
    /// The tree does not have it yet.
    pub changed: bool,
}

impl<T> Kept<T> {
    pub fn stored(value: T) -> Self {
        Self { value, changed: false }
    }

    pub fn changed(value: T) -> Self {
        Self { value, changed: true }
    }
}

/// What of the closed runs and of the store is kept in memory.
#[derive(Default)]
pub struct Known {
    /// The closed runs, by position.
    pub runs: Arc<Runs>,
    pub devices: HashMap<DeviceId, Kept<DeviceValue>>,
    /// Of some device, clips are keys of the store.
    pub has_clip_keys: bool,
    /// When a box was last heard of by something without an epoch, by its number.
    pub seen: HashMap<u32, Kept<SeenValue>>,
    /// From when on the rings of boxes have footage of a device, by the number of both.
    pub rings: HashMap<u32, Kept<RingValue>>,
    /// The open spans that are keys of the store, by both of their keys: each answer about the present is about one of
    /// them, and so is each report.
    pub open_spans: Layer,
    /// Clips and spans of closed runs of which a key says more.
    pub moved: Arc<HashSet<Moved>>,
    /// Boxes of whose clock something was said.
    pub corrected: HashSet<BoxId>,
}

impl State {
    pub fn new(start: u64, sources_stored: usize, known: Known) -> Self {
        Self {
            start,
            next: start,
            rows: Vec::new(),
            uploads: BTreeSet::new(),
            writes: Layer::new(),
            bytes: 0,
            latest: Time::MIN,
            epochs: HashMap::new(),
            sources_stored,
            replaced: HashSet::new(),
            known,
        }
    }

    /// True when the run ends here. Depends on the records alone, not on how they were batched, so that a rebuilt
    /// index has the same runs.
    pub fn is_full(&self, run_records: u64) -> bool {
        is_full(self.next - self.start, self.bytes, run_records)
    }

    /// Counts that the tree does not have yet, as writes.
    pub fn epoch_writes(&self, sources: &Sources) -> Layer {
        let changed = self.epochs.iter().filter(|(_, known)| known.changed);
        changed
            .map(|(&(number, epoch), known)| {
                (epoch_key(sources.box_of(number), epoch), Some(encode(&known.value)))
            })
            .collect()
    }

    /// What is known of devices and not in the tree yet, as writes.
    pub fn device_writes(&self) -> Layer {
        let changed = self.known.devices.iter().filter(|(_, known)| known.changed);
        changed.map(|(device, known)| (device_key(device), Some(encode(&known.value)))).collect()
    }

    /// When boxes were last heard of and what they said of their rings, as far as the tree does not have it yet, as
    /// writes.
    pub fn source_writes(&self) -> Layer {
        let mut writes = group_writes(kind::SEEN, &self.known.seen);
        writes.extend(group_writes(kind::RING, &self.known.rings));
        writes
    }

    pub fn ring(&self, number: u32) -> Option<RingValue> {
        self.known.rings.get(&number).map(|known| known.value)
    }

    pub fn seen(&self, number: u32) -> Option<SeenValue> {
        self.known.seen.get(&number).map(|known| known.value)
    }

    pub fn device(&self, device: &DeviceId) -> DeviceValue {
        self.known.devices.get(device).map_or_else(DeviceValue::default, |known| known.value)
    }

    /// The clip or span is not packed: a correction was about it, or blocks have it elsewhere already.
    pub fn stays_key(&self, thing: Moved) -> bool {
        thing.0 == kind::CLIP && self.replaced.contains(&thing.2) || self.known.moved.contains(&thing)
    }

    /// The open run is in the tree now: begins the next one. Returns what is left of the old one, which takes long to
    /// drop.
    pub fn begin_next(
        &mut self,
        sources_stored: usize,
        closed: Run,
        open_spans: Layer,
    ) -> impl Sized + use<> {
        self.start = self.next;
        let left = (
            std::mem::take(&mut self.rows),
            std::mem::take(&mut self.uploads),
            std::mem::take(&mut self.writes),
            std::mem::replace(&mut self.known.open_spans, open_spans),
        );
        self.bytes = 0;
        self.latest = Time::MIN;
        self.sources_stored = sources_stored;
        if self.epochs.len() > INDEX_EPOCHS_MAX {
            self.epochs = HashMap::new();
        }
        self.epochs.values_mut().for_each(|known| known.changed = false);
        self.replaced.clear();
        self.known.devices.values_mut().for_each(|known| known.changed = false);
        self.known.seen.values_mut().for_each(|known| known.changed = false);
        self.known.rings.values_mut().for_each(|known| known.changed = false);
        Arc::make_mut(&mut self.known.runs).push(closed);
        left
    }
}

/// The groups in which something changed.
fn group_writes<T: Serialize + Copy>(what: u8, all: &HashMap<u32, Kept<T>>) -> Layer {
    let group_of = |number: u32| number / SOURCES_OF_GROUP;
    let changed: BTreeSet<u32> =
        all.iter().filter(|(_, known)| known.changed).map(|(&number, _)| group_of(number)).collect();
    let mut groups: BTreeMap<u32, Vec<(u32, T)>> = BTreeMap::new();
    for (&number, known) in all.iter().filter(|&(&number, _)| changed.contains(&group_of(number))) {
        groups.entry(group_of(number)).or_default().push((number, known.value));
    }
    let written = groups.into_iter().map(|(group, mut values)| {
        values.sort_unstable_by_key(|&(number, _)| number);
        (group_key(what, group), Some(encode(&values)))
    });
    written.collect()
}

pub fn is_full(records: u64, bytes: usize, run_records: u64) -> bool {
    records >= run_records || bytes >= INDEX_RUN_BYTES_MAX
}
