//! Questions about events, over the open run in memory and the closed ones in blocks.
//!
//! Owns which blocks are read, and exact paging. A run and a block are opened only when something in them may come
//! before what was found so far, so a page of the newest events reads few of them.

use std::collections::{BTreeSet, BinaryHeap};

use super::block::{self, Arrangement, Row, kind_code};
use super::directory::{BlockBounds, Run, Section};
use super::packed::{Packed, unreadable};
use super::{CatalogError, EventKey, EventQuery, Order};

/// One question, and the best rows for it so far.
pub struct EventSearch {
    from_us: i64,
    to_us: i64,
    after: Option<EventKey>,
    order: Order,
    kind: Option<u16>,
    /// Who may have spoken, smallest number first; None: anybody.
    sources: Option<Vec<u32>>,
    limit: usize,
    /// Rows of blocks after which the page may end early.
    scan_rows: usize,
    /// One more than asked for, to know whether there is more.
    best: BTreeSet<EventKey>,
}

/// A closed run or one of its blocks, not opened yet. The greatest is opened first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Chunk {
    /// Rises with what comes first.
    rank: i64,
    run: usize,
    block: Option<usize>,
}

impl EventSearch {
    pub fn new(query: &EventQuery, sources: Option<Vec<u32>>, scan_rows: usize) -> Self {
        let (mut from_us, mut to_us) = (query.range.from.as_microsecond(), query.range.to.as_microsecond());
        // What the pages before had is not looked at again. A place without a row ends a page that ended early.
        match (query.after, query.order) {
            (None, _) => {}
            (Some(after), Order::Newest) => to_us = to_us.min(after.time_us),
            (Some(EventKey { time_us, position: u64::MAX }), Order::Oldest) => {
                from_us = from_us.max(time_us.saturating_add(1));
            }
            (Some(after), Order::Oldest) => from_us = from_us.max(after.time_us),
        }
        Self {
            from_us,
            to_us,
            after: query.after,
            order: query.order,
            kind: query.kind.as_deref().map(kind_code),
            sources,
            limit: query.limit,
            scan_rows,
            best: BTreeSet::new(),
        }
    }

    /// Takes a row if it is asked for and among the first.
    pub fn offer(&mut self, start: u64, row: &Row) {
        let key = EventKey { time_us: row.time_us, position: start + u64::from(row.offset) };
        let is_behind_page = self.after.is_none_or(|after| match self.order {
            Order::Newest => key < after,
            Order::Oldest => key > after,
        });
        let is_asked = (self.from_us..=self.to_us).contains(&row.time_us)
            && is_behind_page
            && self.kind.is_none_or(|kind| kind == row.kind)
            && self.sources.as_ref().is_none_or(|s| s.binary_search(&row.source).is_ok());
        if !is_asked {
            return;
        }
        self.best.insert(key);
        if self.best.len() > self.limit + 1 {
            match self.order {
                Order::Newest => self.best.pop_first(),
                Order::Oldest => self.best.pop_last(),
            };
        }
    }

    /// Looks through the closed runs. Returns where the next page begins if this one ends before all was seen.
    pub fn look_through(&mut self, packed: Packed<'_>) -> Result<Option<EventKey>, CatalogError> {
        let mut chunks = BinaryHeap::new();
        for (run, section) in packed.runs.iter().map(|run| self.section(run)).enumerate() {
            if let Some(whole) = section.whole() {
                chunks.extend(self.chunk(run, None, whole.start_min_us, whole.start_max_us));
            }
        }
        let first_rank = self.rank(match self.order {
            Order::Newest => self.to_us,
            Order::Oldest => self.from_us,
        });
        let mut touched = 0;
        while let Some(chunk) = chunks.pop() {
            if self.is_complete_before(chunk.rank) {
                break;
            }
            // A page that ends here must be ahead of where it began, or the next one would find the same.
            if touched >= self.scan_rows && chunk.rank < first_rank {
                return Ok(Some(self.end_before(chunk.rank)));
            }
            let run = &packed.runs[chunk.run];
            let blocks = &self.section(run).blocks;
            match chunk.block {
                None => {
                    for (number, bounds) in
                        blocks.iter().enumerate().filter(|(_, bounds)| self.may_hold(bounds))
                    {
                        let (min, max) = (bounds.start_min_us, bounds.start_max_us);
                        chunks.extend(self.chunk(chunk.run, Some(number), min, max));
                    }
                }
                Some(number) => {
                    let rows = self.rows_of(packed, run, &blocks[number])?;
                    touched += rows.len();
                    rows.iter().for_each(|row| self.offer(run.start, row));
                }
            }
        }
        Ok(None)
    }

    /// The keys of the page in order, and where the next one begins. `early` is what [`Self::look_through`] said.
    pub fn page(self, early: Option<EventKey>) -> (Vec<EventKey>, Option<EventKey>) {
        let mut keys: Vec<EventKey> = match self.order {
            Order::Newest => self.best.into_iter().rev().collect(),
            Order::Oldest => self.best.into_iter().collect(),
        };
        if keys.len() <= self.limit {
            return (keys, early);
        }
        keys.truncate(self.limit);
        let next = keys.last().copied();
        (keys, next)
    }

    fn arrangement(&self) -> Arrangement {
        if self.sources.is_some() { Arrangement::BySource } else { Arrangement::ByTime }
    }

    /// Rises with what comes first in the order asked for.
    fn rank(&self, time_us: i64) -> i64 {
        match self.order {
            Order::Newest => time_us,
            Order::Oldest => !time_us,
        }
    }

    fn chunk(&self, run: usize, block: Option<usize>, min_us: i64, max_us: i64) -> Option<Chunk> {
        if max_us < self.from_us || min_us > self.to_us {
            return None;
        }
        let first_us = match self.order {
            Order::Newest => max_us.min(self.to_us),
            Order::Oldest => min_us.max(self.from_us),
        };
        Some(Chunk { rank: self.rank(first_us), run, block })
    }

    /// The page is full, and nothing of this rank or a lower one can come before any of its rows.
    fn is_complete_before(&self, rank: i64) -> bool {
        let worst = match self.order {
            Order::Newest => self.best.first(),
            Order::Oldest => self.best.last(),
        };
        self.best.len() > self.limit && worst.is_some_and(|worst| self.rank(worst.time_us) > rank)
    }

    /// Keeps what surely comes before all that was not looked at; returns the place from which to go on.
    fn end_before(&mut self, rank: i64) -> EventKey {
        match self.order {
            Order::Newest => {
                let place = EventKey { time_us: rank, position: u64::MAX };
                self.best.retain(|key| *key > place);
                place
            }
            Order::Oldest => {
                let place = EventKey { time_us: (!rank).saturating_sub(1), position: u64::MAX };
                self.best.retain(|key| *key <= place);
                place
            }
        }
    }

    fn section<'r>(&self, run: &'r Run) -> &'r Section {
        match self.arrangement() {
            Arrangement::ByTime => &run.blocks.events_by_time,
            Arrangement::BySource => &run.blocks.events_by_source,
        }
    }

    fn may_hold(&self, bounds: &BlockBounds) -> bool {
        self.sources.as_ref().is_none_or(|sources| {
            let at = sources.partition_point(|&s| s < bounds.source_min);
            sources.get(at).is_some_and(|&s| s <= bounds.source_max)
        })
    }

    fn rows_of(&self, packed: Packed<'_>, run: &Run, bounds: &BlockBounds) -> Result<Vec<Row>, CatalogError> {
        let bytes = packed.read(run, bounds)?;
        block::read(&bytes, self.arrangement()).map_err(|why| unreadable(run, bounds, why))
    }
}
