//! What is applied but not yet in the tree: the open run.
//!
//! Owns the rows, keys and counts since the last run was written. A crash forgets it, and the hub applies it again
//! from the journal. May not do I/O.

use std::collections::HashMap;
use std::sync::Arc;

use super::block::Row;
use super::keys::epoch_key;
use super::sources::Sources;
use super::values::{EpochValue, encode};
use super::view::Layer;
use crate::limits::{INDEX_EPOCHS_MAX, INDEX_RUN_BYTES_MAX};
use crate::model::{Epoch, Time};

/// Who counts: the box's number and its epoch.
pub type EpochPlace = (u32, Epoch);

/// The open run and what is known of the closed ones.
pub struct State {
    /// Position of the open run's first record; everything before it is in the tree.
    pub start: u64,
    /// Position behind its last record.
    pub next: u64,
    pub rows: Vec<Row>,
    pub writes: Layer,
    /// Bytes that went into `writes` since the run began, written over or not.
    pub bytes: usize,
    /// Latest arrival in the run; its day names the run.
    pub latest: Time,
    pub epochs: HashMap<EpochPlace, KnownEpoch>,
    /// Sources that the tree has already.
    pub sources_stored: usize,
    /// The closed runs, by position.
    pub runs: Arc<Vec<RunBounds>>,
}

/// A count in memory.
#[derive(Clone, Copy)]
pub struct KnownEpoch {
    pub value: EpochValue,
    /// The tree does not have it yet.
    pub changed: bool,
}

/// One closed run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunBounds {
    pub day: u32,
    pub start: u64,
    pub end: u64,
    pub rows: u64,
    pub time_min_us: i64,
    pub time_max_us: i64,
}

impl State {
    pub fn new(start: u64, sources_stored: usize, runs: Vec<RunBounds>) -> Self {
        Self {
            start,
            next: start,
            rows: Vec::new(),
            writes: Layer::new(),
            bytes: 0,
            latest: Time::MIN,
            epochs: HashMap::new(),
            sources_stored,
            runs: Arc::new(runs),
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

    /// The open run is in the tree now: begins the next one.
    pub fn begin_next(&mut self, sources_stored: usize, closed: RunBounds) {
        self.start = self.next;
        self.rows.clear();
        self.writes.clear();
        self.bytes = 0;
        self.latest = Time::MIN;
        self.sources_stored = sources_stored;
        if self.epochs.len() > INDEX_EPOCHS_MAX {
            self.epochs = HashMap::new();
        }
        self.epochs.values_mut().for_each(|known| known.changed = false);
        Arc::make_mut(&mut self.runs).push(closed);
    }
}

pub fn is_full(records: u64, bytes: usize, run_records: u64) -> bool {
    records >= run_records || bytes >= INDEX_RUN_BYTES_MAX
}
