//! Questions about clips of many cameras, best first.
//!
//! Owns the merging of closed runs and keys in the order that is asked for, and exact paging. A block is opened only
//! when something in it may come before what was found so far, so a page costs what it shows, not what is kept.

use std::collections::BinaryHeap;
use std::ops::Bound;

use uuid::Uuid;

use super::clip_block::{ClipBlock, ClipEntry, ClipHead};
use super::directory::{BlockBounds, Rows};
use super::keys::{clip_key, id_of, kind};
use super::packed::{Packed, each_block, unreadable};
use super::sources::Sources;
use super::state::State;
use super::values::{ClipValue, decode};
use super::view::View;
use super::{Buckets, CatalogError, ClipKey, ClipQuery, Order, TimeRange};
use crate::hub::catalog::uncertain_us;
use crate::model::DeviceId;

/// One question on its way.
pub struct ClipSearch<'a> {
    query: &'a ClipQuery,
    /// Who may have recorded, smallest number first.
    sources: Vec<u32>,
    heap: BinaryHeap<Place>,
    /// Clips that are keys, and blocks that were opened; places name them by number.
    keyed: Vec<Option<ClipEntry>>,
    blocks: Vec<(usize, usize, ClipBlock)>,
}

/// Where something stands in the order; the greatest is taken first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: (i64, u128),
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Keyed(usize),
    /// Number of the opened block, and of the clip in it.
    Packed(usize, usize),
    /// A block that was not opened yet.
    Block {
        run: usize,
        block: usize,
    },
    /// A run whose blocks were not looked at yet.
    Run(usize),
}

impl<'a> ClipSearch<'a> {
    pub fn new(query: &'a ClipQuery, sources: &Sources) -> Self {
        let sources = sources.of_devices(&query.devices);
        Self { query, sources, heap: BinaryHeap::new(), keyed: Vec::new(), blocks: Vec::new() }
    }

    /// Takes the clips that are keys, at most a page of each camera.
    pub fn add_keyed(&mut self, view: View<'_>, state: &State) -> Result<(), CatalogError> {
        for device in &self.query.devices {
            let known = state.device(device);
            let Some((low, high)) = self.bounds(device, known.clip_us_max, known.clip_margin_us_max) else {
                continue;
            };
            let mut taken = 0;
            for entry in view.scan_or_memory((low, high), self.query.order, known.has_clip_keys) {
                if taken == self.query.limit {
                    break;
                }
                let (key, value) = entry?;
                let value: ClipValue = decode(&key, &value)?;
                let clip = id_of(&key);
                let head = head_of(&value);
                if self.is_asked(&head, clip) {
                    taken += 1;
                    let what = What::Keyed(self.keyed.len());
                    self.heap.push(Place { rank: self.rank(head.start_us, clip.as_u128()), what });
                    let (stored, thumbnail_stored) = (false, false);
                    self.keyed.push(Some(ClipEntry { source: 0, clip, value, stored, thumbnail_stored }));
                }
            }
        }
        Ok(())
    }

    /// The page's clips in order.
    pub fn page(&mut self, packed: Packed<'_>, sources: &Sources) -> Result<Vec<ClipEntry>, CatalogError> {
        self.add_runs(packed);
        let mut page = Vec::new();
        while page.len() < self.query.limit
            && let Some(place) = self.heap.pop()
        {
            match place.what {
                What::Keyed(n) => page.extend(self.keyed[n].take()),
                What::Packed(n, clip) => {
                    let (run, bounds, block) = &mut self.blocks[n];
                    let entry = block.entry(clip, sources).map_err(|why| {
                        let run = &packed.runs[*run];
                        unreadable(run, &run.blocks.clips.blocks[*bounds], why)
                    })?;
                    page.push(entry);
                }
                What::Block { run, block } => self.open(packed, run, block)?,
                What::Run(run) => self.add_blocks(packed, run),
            }
        }
        Ok(page)
    }

    /// Takes the runs that may hold something; what is in them is looked at when its turn comes.
    fn add_runs(&mut self, packed: Packed<'_>) {
        for (run, closed) in packed.runs.reaching(Rows::Clips, from_us(self.query)) {
            let whole = closed.section(Rows::Clips).whole();
            if let Some(whole) = whole.filter(|whole| is_meant(self.query, whole)) {
                let rank = first_rank(self.query, whole.start_min_us, whole.start_max_us);
                self.heap.push(Place { rank, what: What::Run(run) });
            }
        }
    }

    fn add_blocks(&mut self, packed: Packed<'_>, run: usize) {
        let section = packed.runs[run].section(Rows::Clips);
        for block in section.of_sources(&self.sources) {
            let bounds = &section.blocks[block];
            if is_meant(self.query, bounds) {
                let rank = first_rank(self.query, bounds.start_min_us, bounds.start_max_us);
                self.heap.push(Place { rank, what: What::Block { run, block } });
            }
        }
    }

    fn open(&mut self, packed: Packed<'_>, run: usize, block: usize) -> Result<(), CatalogError> {
        let bounds = &packed.runs[run].blocks.clips.blocks[block];
        let opened = packed.clips(&packed.runs[run], bounds)?;
        let number = self.blocks.len();
        for (n, head) in opened.heads().iter().enumerate() {
            if self.sources.binary_search(&head.source).is_err() || !self.overlaps(head) {
                continue;
            }
            let clip = opened.clip(n);
            if self.is_asked(head, clip) && !packed.has_moved(kind::CLIP, head.source, clip) {
                let what = What::Packed(number, n);
                self.heap.push(Place { rank: self.rank(head.start_us, clip.as_u128()), what });
            }
        }
        self.blocks.push((run, block, opened));
        Ok(())
    }

    fn is_asked(&self, head: &ClipHead, clip: Uuid) -> bool {
        let key = ClipKey { start_us: head.start_us, clip };
        let is_behind_page = self.query.after.is_none_or(|after| match self.query.order {
            Order::Newest => key < after,
            Order::Oldest => key > after,
        });
        is_behind_page && self.overlaps(head)
    }

    fn overlaps(&self, head: &ClipHead) -> bool {
        self.query.ranges.iter().any(|range| overlaps(head, range))
    }

    /// Rises with what comes first in the order asked for.
    fn rank(&self, start_us: i64, clip: u128) -> (i64, u128) {
        match self.query.order {
            Order::Newest => (start_us, clip),
            Order::Oldest => (!start_us, !clip),
        }
    }

    /// Keys of a camera between which all that is asked for lies.
    fn bounds(&self, device: &DeviceId, longest_us: i64, margin_us: i64) -> Option<super::view::Bounds> {
        let from_us = us(self.query.ranges.first()?).0.saturating_sub(longest_us);
        let to_us = us(self.query.ranges.last()?).1.saturating_add(margin_us);
        let low = ClipKey { start_us: from_us, clip: Uuid::nil() };
        let high = ClipKey { start_us: to_us, clip: Uuid::max() };
        let (mut from, mut to) = (Bound::Included(low), Bound::Included(high));
        match (self.query.after, self.query.order) {
            (Some(after), Order::Oldest) if after >= low => from = Bound::Excluded(after),
            (Some(after), Order::Newest) if after <= high => to = Bound::Excluded(after),
            _ => {}
        }
        Some((from.map(|key| clip_key(device, key)), to.map(|key| clip_key(device, key))))
    }
}

/// No clip of a block with these starts comes before this rank.
fn first_rank(query: &ClipQuery, start_min_us: i64, start_max_us: i64) -> (i64, u128) {
    match query.order {
        Order::Newest => (start_max_us, u128::MAX),
        Order::Oldest => (!start_min_us, u128::MAX),
    }
}

/// Whether something within these bounds may be asked for, and stand behind what was told already.
fn is_meant(query: &ClipQuery, bounds: &BlockBounds) -> bool {
    let is_behind_page = query.after.is_none_or(|after| match query.order {
        Order::Newest => bounds.start_min_us <= after.start_us,
        Order::Oldest => bounds.start_max_us >= after.start_us,
    });
    is_behind_page && query.ranges.iter().any(|range| bounds.may_overlap(us(range).0, us(range).1))
}

/// Where a question's time begins.
fn from_us(query: &ClipQuery) -> i64 {
    query.ranges.iter().map(|range| us(range).0).min().unwrap_or(i64::MAX)
}

/// How many clips begin in each bucket; `keyed` are the starts of those that are keys.
pub fn counts(
    search: &ClipSearch<'_>,
    keyed: &[i64],
    packed: Packed<'_>,
    buckets: Buckets,
) -> Result<Vec<u64>, CatalogError> {
    let mut counts = vec![0; buckets.count];
    let mut add = |start_us: i64| {
        let is_asked = search.query.ranges.iter().any(|r| (us(r).0..=us(r).1).contains(&start_us));
        if let Some(n) = buckets.of(start_us).filter(|_| is_asked) {
            counts[n] += 1;
        }
    };
    keyed.iter().for_each(|&start_us| add(start_us));
    let begins =
        |bounds: &BlockBounds| search.query.ranges.iter().any(|r| bounds.may_begin(us(r).0, us(r).1));
    each_block(packed.runs, Rows::Clips, &search.sources, from_us(search.query), begins, |run, bounds| {
        let block = packed.clips(run, bounds)?;
        for (n, head) in block.heads().iter().enumerate() {
            if search.sources.binary_search(&head.source).is_ok()
                && !packed.has_moved(kind::CLIP, head.source, block.clip(n))
            {
                add(head.start_us);
            }
        }
        Ok(())
    })?;
    Ok(counts)
}

/// Starts of the cameras' clips that are keys.
pub fn keyed_starts(view: View<'_>, state: &State, query: &ClipQuery) -> Result<Vec<i64>, CatalogError> {
    let mut starts = Vec::new();
    for device in &query.devices {
        let at = |us: i64, clip: Uuid| clip_key(device, ClipKey { start_us: us, clip });
        for range in &query.ranges {
            let (low, high) = (at(us(range).0, Uuid::nil()), at(us(range).1, Uuid::max()));
            let bounds = (Bound::Included(low), Bound::Included(high));
            for entry in view.scan_or_memory(bounds, Order::Oldest, state.device(device).has_clip_keys) {
                let (key, value) = entry?;
                starts.push(decode::<ClipValue>(&key, &value)?.placed_start.as_microsecond());
            }
        }
    }
    Ok(starts)
}

fn us(range: &TimeRange) -> (i64, i64) {
    (range.from.as_microsecond(), range.to.as_microsecond())
}

fn head_of(value: &ClipValue) -> ClipHead {
    let uncertainty_ms = value.as_placed().uncertainty_ms;
    ClipHead {
        source: 0,
        start_us: value.placed_start.as_microsecond(),
        end_us: value.placed_end.as_microsecond(),
        margin_us: uncertain_us(uncertainty_ms),
    }
}

fn overlaps(head: &ClipHead, range: &TimeRange) -> bool {
    let (from_us, to_us) = us(range);
    head.start_us.saturating_sub(head.margin_us) <= to_us
        && head.end_us.saturating_add(head.margin_us) >= from_us
}
