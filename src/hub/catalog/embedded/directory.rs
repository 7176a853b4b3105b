//! The closed runs, in memory: what each holds, and where its blocks lie.
//!
//! Owns the directory of a run and its bytes. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::VERSION;

/// One closed run. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Days since 1970 (UTC) of its latest arrival; names its file.
    pub day: u32,
    /// Positions of its first record, and behind its last.
    pub start: u64,
    pub end: u64,
    /// Where in its file it begins and ends.
    pub offset: u64,
    pub offset_end: u64,
    pub blocks: RunBlocks,
}

/// The closed runs, by position.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    list: Vec<Arc<Run>>,
    /// How far the rows of a run and of all before it reach, by [`Rows`]: most questions and all that comes in are
    /// about late runs, and need not look at the others.
    reach: [Vec<i64>; 4],
}

/// Rows that are looked for by time, in the time of their section.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    Clips,
    Spans,
    ClipIds,
    Uploads,
}

impl Runs {
    const ROWS: [Rows; 4] = [Rows::Clips, Rows::Spans, Rows::ClipIds, Rows::Uploads];

    pub fn push(&mut self, run: Run) {
        for rows in Self::ROWS {
            let reach = &mut self.reach[rows as usize];
            let own = run.section(rows).whole().map_or(i64::MIN, |whole| whole.reach_max_us);
            reach.push(reach.last().map_or(own, |&before| before.max(own)));
        }
        self.list.push(Arc::new(run));
    }

    /// The runs, with their numbers, but for the first ones that hold nothing which reaches `from`.
    pub fn reaching(&self, rows: Rows, from: i64) -> impl DoubleEndedIterator<Item = (usize, &Run)> {
        let first = self.reach[rows as usize].partition_point(|&reach| reach < from);
        (first..self.list.len()).map(|n| (n, self.list[n].as_ref()))
    }
}

impl std::ops::Deref for Runs {
    type Target = [Arc<Run>];

    fn deref(&self) -> &[Arc<Run>] {
        &self.list
    }
}

impl Run {
    pub fn section(&self, rows: Rows) -> &Section {
        match rows {
            Rows::Clips => &self.blocks.clips,
            Rows::Spans => &self.blocks.spans,
            Rows::ClipIds => &self.blocks.clip_ids,
            Rows::Uploads => &self.blocks.uploads,
        }
    }
}

/// The blocks of a run, by what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBlocks {
    pub events_by_time: Section,
    pub events_by_source: Section,
    /// By source and start.
    pub clips: Section,
    /// Closed spans of coverage, by source and start.
    pub spans: Section,
    /// Where in `clips` a clip stands, by its id. Times are those in the ids.
    pub clip_ids: Section,
    /// Uploads whose clip is in another run, by the clip's id.
    pub uploads: Section,
}

/// Blocks in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    pub blocks: Vec<BlockBounds>,
    /// Around all of them; without meaning when there is none.
    whole: BlockBounds,
}

/// What one block holds at least and at most, and where it lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockBounds {
    /// Zero where rows are not ordered by source.
    pub source_min: u32,
    pub source_max: u32,
    /// When its rows begin.
    pub start_min_us: i64,
    pub start_max_us: i64,
    /// Rows are met from so long before `start_min_us` …
    pub margin_us: u32,
    /// … to here: their ends, and what their clocks leave open.
    pub reach_max_us: i64,
    /// From the run's offset.
    pub offset: u32,
    pub bytes: u32,
}

impl RunBlocks {
    /// Every block of the run.
    pub fn all(&self) -> impl Iterator<Item = &BlockBounds> {
        let Self { events_by_time, events_by_source, clips, spans, clip_ids, uploads } = self;
        let sections = [events_by_time, events_by_source, clips, spans, clip_ids, uploads];
        sections.into_iter().flat_map(|section| &section.blocks)
    }
}

impl BlockBounds {
    pub fn reach_min_us(&self) -> i64 {
        self.start_min_us.saturating_sub(self.margin_us.into())
    }

    /// Some row may be met from `from_us` to `to_us`.
    pub fn may_overlap(&self, from_us: i64, to_us: i64) -> bool {
        self.reach_min_us() <= to_us && self.reach_max_us >= from_us
    }

    /// Some row may begin from `from_us` to `to_us`.
    pub fn may_begin(&self, from_us: i64, to_us: i64) -> bool {
        self.start_min_us <= to_us && self.start_max_us >= from_us
    }

    /// The bounds of both.
    fn around(&self, other: &Self) -> Self {
        let start_min_us = self.start_min_us.min(other.start_min_us);
        let margin_us = start_min_us - self.reach_min_us().min(other.reach_min_us());
        Self {
            source_min: self.source_min.min(other.source_min),
            source_max: self.source_max.max(other.source_max),
            start_min_us,
            start_max_us: self.start_max_us.max(other.start_max_us),
            margin_us: u32::try_from(margin_us).unwrap_or(u32::MAX),
            reach_max_us: self.reach_max_us.max(other.reach_max_us),
            ..Self::default()
        }
    }
}

impl Section {
    pub fn push(&mut self, block: BlockBounds) {
        self.whole = if self.blocks.is_empty() { block } else { self.whole.around(&block) };
        self.blocks.push(block);
    }

    /// What its blocks hold at least and at most together.
    pub fn whole(&self) -> Option<&BlockBounds> {
        (!self.blocks.is_empty()).then_some(&self.whole)
    }

    /// Numbers of the blocks that may hold rows of one of `sources` (smallest first).
    pub fn of_sources<'a>(&'a self, sources: &'a [u32]) -> impl Iterator<Item = usize> + 'a {
        let mut next = 0;
        let mut wanted = sources.iter().copied().peekable();
        std::iter::from_fn(move || {
            while let Some(&source) = wanted.peek() {
                let rest = &self.blocks[next..];
                let at = next + rest.partition_point(|block| block.source_max < source);
                match self.blocks.get(at) {
                    Some(block) if block.source_min <= source => {
                        next = at + 1;
                        return Some(at);
                    }
                    Some(block) => {
                        // Whoever speaks in this block has a greater number: go on with the next that is asked for.
                        let from = block.source_min;
                        while wanted.next_if(|&source| source < from).is_some() {}
                        next = at;
                    }
                    None => return None,
                }
            }
            None
        })
    }
}

/// The directory as it stands behind the run's blocks.
pub fn encode(blocks: &RunBlocks) -> Vec<u8> {
    postcard::to_extend(blocks, vec![VERSION]).expect("a directory has only types that postcard knows")
}

pub fn decode(bytes: &[u8]) -> Result<RunBlocks, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| e.to_string()),
        Some((version, _)) => Err(format!("version {version}")),
        None => Err("no bytes".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_who_speaks_in_them() {
        let mut section = Section::default();
        for (source_min, source_max) in [(0, 2), (2, 2), (2, 5), (9, 9), (9, 20)] {
            section.push(BlockBounds { source_min, source_max, ..BlockBounds::default() });
        }
        let table: [(&[u32], &[usize]); 8] = [
            (&[], &[]),
            (&[0], &[0]),
            (&[2], &[0, 1, 2]),
            (&[3, 4, 5], &[2]),
            (&[6, 7, 8], &[]),
            (&[1, 9], &[0, 3, 4]),
            (&[7, 20, 21], &[4]),
            (&[2, 9, 30], &[0, 1, 2, 3, 4]),
        ];
        for (sources, expected) in table {
            assert_eq!(section.of_sources(sources).collect::<Vec<_>>(), expected, "{sources:?}");
        }
    }
}
