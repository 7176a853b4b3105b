//! The closed runs, read: clips, spans and uploads that no longer change.
//!
//! Owns which blocks are opened. Nothing here waits for the writer: a [`Packed`] is a picture of the closed runs, and
//! they never change; what a later record moved is named in `moved` and left out. May not write.

use std::collections::HashSet;

use uuid::Uuid;

use super::clip_block::{BLOCK_CLIPS, ClipBlock, ClipEntry};
use super::day_files::DayFiles;
use super::directory::{BlockBounds, Rows, Run, Runs, Section};
use super::id_block::{self, IdRow};
use super::keys::kind;
use super::sources::Sources;
use super::span_block::{self, SpanEntry};
use super::{CatalogError, engine};
use crate::hub::catalog::embedded::values::corrupt;
use crate::model::Sha256Hash;

/// The closed runs at one moment.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    pub files: &'a DayFiles,
    pub runs: &'a Runs,
    pub moved: &'a HashSet<Moved>,
}

/// A clip or span that stands elsewhere by now: its kind of key, its source and its id.
pub type Moved = (u8, u32, Uuid);

impl Packed<'_> {
    pub fn clips(&self, run: &Run, block: &BlockBounds) -> Result<ClipBlock, CatalogError> {
        ClipBlock::open(self.read(run, block)?).map_err(|why| unreadable(run, block, why))
    }

    fn spans(
        &self,
        run: &Run,
        block: &BlockBounds,
        of: &[u32],
        sources: &Sources,
    ) -> Result<Vec<SpanEntry>, CatalogError> {
        span_block::read(&self.read(run, block)?, of, sources).map_err(|why| unreadable(run, block, why))
    }

    pub fn read(&self, run: &Run, block: &BlockBounds) -> Result<Vec<u8>, CatalogError> {
        let at = run.offset + u64::from(block.offset);
        self.files.read(run.day, at, block.bytes).map_err(engine("read"))
    }

    /// The clip with this id, wherever it stands now.
    pub fn clip_even_if_moved(
        &self,
        clip: Uuid,
        sources: &Sources,
    ) -> Result<Option<ClipEntry>, CatalogError> {
        for (_, run) in self.runs.reaching(Rows::ClipIds, id_block::time_ms(clip) as i64).rev() {
            for row in self.ids(run, &run.blocks.clip_ids, clip)? {
                let (block, n) = (row.number as usize / BLOCK_CLIPS, row.number as usize % BLOCK_CLIPS);
                let Some(bounds) = run.blocks.clips.blocks.get(block) else { continue };
                let mut block = self.clips(run, bounds)?;
                if n < block.heads().len() && block.clip(n) == clip {
                    return block.entry(n, sources).map(Some).map_err(|why| unreadable(run, bounds, why));
                }
            }
        }
        Ok(None)
    }

    pub fn clip(&self, clip: Uuid, sources: &Sources) -> Result<Option<ClipEntry>, CatalogError> {
        let found = self.clip_even_if_moved(clip, sources)?;
        Ok(found.filter(|entry| !self.has_moved(kind::CLIP, entry.source, clip)))
    }

    pub fn has_moved(&self, kind: u8, source: u32, id: Uuid) -> bool {
        !self.moved.is_empty() && self.moved.contains(&(kind, source, id))
    }

    /// The hub got this file of a clip, in another run than the clip's.
    pub fn has_upload(&self, clip: Uuid, sha256: &Sha256Hash) -> Result<bool, CatalogError> {
        let (_, beginning) = upload(clip, sha256);
        for (_, run) in self.runs.reaching(Rows::Uploads, id_block::time_ms(clip) as i64).rev() {
            if self.ids(run, &run.blocks.uploads, clip)?.iter().any(|row| row.number == beginning) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Rows of a section of ids that may be of this one.
    fn ids(&self, run: &Run, section: &Section, id: Uuid) -> Result<Vec<IdRow>, CatalogError> {
        let time = id_block::time_ms(id) as i64;
        let mut found = Vec::new();
        if !section.whole().is_some_and(|whole| whole.may_overlap(time, time)) {
            return Ok(found);
        }
        let first = section.blocks.partition_point(|block| block.reach_max_us < time);
        for block in section.blocks[first..].iter().take_while(|block| block.start_min_us <= time) {
            let rows = id_block::read(&self.read(run, block)?).map_err(|why| unreadable(run, block, why))?;
            found.extend(rows.into_iter().filter(|row| row.is_of(id)));
        }
        Ok(found)
    }

    /// Clips of some sources that began from `from_us` to `to_us`, as recorded.
    pub fn clips_begun(
        &self,
        of: &[u32],
        from_us: i64,
        to_us: i64,
        sources: &Sources,
    ) -> Result<Vec<ClipEntry>, CatalogError> {
        let mut found = Vec::new();
        let is_meant = |bounds: &BlockBounds| bounds.may_begin(from_us, to_us);
        each_block(self.runs, Rows::Clips, of, from_us, is_meant, |run, bounds| {
            let mut block = self.clips(run, bounds)?;
            for n in 0..block.heads().len() {
                let head = block.heads()[n];
                let is_meant = (from_us..=to_us).contains(&head.start_us)
                    && of.binary_search(&head.source).is_ok()
                    && !self.has_moved(kind::CLIP, head.source, block.clip(n));
                if is_meant {
                    found.push(block.entry(n, sources).map_err(|why| unreadable(run, bounds, why))?);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The span with this id, which one of some sources told and which begins at `start_us`.
    pub fn span(
        &self,
        of: &[u32],
        start_us: i64,
        id: Uuid,
        sources: &Sources,
    ) -> Result<Option<SpanEntry>, CatalogError> {
        let mut found = None;
        let is_meant = |bounds: &BlockBounds| bounds.may_begin(start_us, start_us);
        each_block(self.runs, Rows::Spans, of, start_us, is_meant, |run, bounds| {
            let spans = self.spans(run, bounds, of, sources)?;
            let is_it = |entry: &SpanEntry| entry.span == id && !self.has_moved(kind::SPAN, entry.source, id);
            found = spans.into_iter().find(is_it).or_else(|| found.take());
            Ok(())
        })?;
        Ok(found)
    }

    /// Spans of some sources that overlap `from_us` to `to_us`, as recorded.
    pub fn spans_within(
        &self,
        of: &[u32],
        from_us: i64,
        to_us: i64,
        sources: &Sources,
    ) -> Result<Vec<SpanEntry>, CatalogError> {
        let mut found = Vec::new();
        let is_meant = |bounds: &BlockBounds| bounds.may_overlap(from_us, to_us);
        each_block(self.runs, Rows::Spans, of, from_us, is_meant, |run, bounds| {
            let spans = self.spans(run, bounds, of, sources)?;
            found.extend(spans.into_iter().filter(|entry| {
                entry.value.start.as_microsecond() <= to_us
                    && entry.value.upto.as_microsecond() >= from_us
                    && !self.has_moved(kind::SPAN, entry.source, entry.span)
            }));
            Ok(())
        })?;
        Ok(found)
    }
}

/// Visits each block of a section that may hold rows of some sources (smallest first) and is meant.
///
/// None that is meant ends before `from_us`.
pub fn each_block<'a>(
    runs: &'a Runs,
    rows: Rows,
    of: &[u32],
    from_us: i64,
    is_meant: impl Fn(&BlockBounds) -> bool,
    mut visit: impl FnMut(&'a Run, &'a BlockBounds) -> Result<(), CatalogError>,
) -> Result<(), CatalogError> {
    for (_, run) in runs.reaching(rows, from_us) {
        let section = run.section(rows);
        if !section.whole().is_some_and(&is_meant) {
            continue;
        }
        for number in section.of_sources(of) {
            let bounds = &section.blocks[number];
            if is_meant(bounds) {
                visit(run, bounds)?;
            }
        }
    }
    Ok(())
}

/// A file that came: its clip, and the beginning of its hash, which tells the files of one clip apart.
pub type Upload = (Uuid, u64);

pub fn upload(clip: Uuid, sha256: &Sha256Hash) -> Upload {
    (clip, u64::from_be_bytes(*sha256.0.first_chunk().expect("a hash has 32 bytes")))
}

pub fn unreadable(run: &Run, block: &BlockBounds, why: String) -> CatalogError {
    let place = format!("block of run {} at {} of day {}", run.start, block.offset, run.day);
    corrupt(place.as_bytes(), why)
}
