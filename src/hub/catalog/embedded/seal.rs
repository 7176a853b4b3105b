//! The end of a run: what will not change is packed into blocks, what may still change stays keys.
//!
//! Owns which is which. Packed are the rows of events, clips that stand where they were recorded, spans that their box
//! ended, and uploads. Pure but for reading what is given: the bytes depend on the records alone.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::block::{self, Arrangement};
use super::clip_block::{self, BLOCK_CLIPS, ClipEntry};
use super::day_files::append_piece;
use super::directory::{self, BlockBounds, Run, RunBlocks, Section};
use super::id_block::{self, IdRow};
use super::keys::{as_recorded_key, clip_id_key, device_of, id_of, kind, span_id_key};
use super::packed::{Upload, upload};
use super::sources::Sources;
use super::span_block::{self, BLOCK_SPANS, SpanEntry};
use super::state::State;
use super::values::{ClipValue, SpanValue, decode};
use super::view::Layer;
use super::write::placed;
use super::{Basis, CatalogError, engine};
use crate::model::Sha256Hash;

/// A run that ended.
pub struct Sealed {
    pub run: Run,
    /// What belongs into the file of its day, at the run's offset.
    pub bytes: Vec<u8>,
    pub directory_bytes: u32,
    /// Keys that change in the store.
    pub writes: Layer,
}

/// Packs the open run. `offset` is the end of what the file of its day holds.
pub fn seal(state: &State, sources: &Sources, day: u32, offset: u64) -> Result<Sealed, CatalogError> {
    let packing = Packing::of(state, sources)?;
    let mut bytes = Vec::new();
    let blocks = packing.blocks(state, &mut bytes).map_err(engine("compressed"))?;
    let directory_bytes = append_piece(&mut bytes, &directory::encode(&blocks));
    let offset_end = offset + bytes.len() as u64;
    let run = Run { day, start: state.start, end: state.next, offset, offset_end, blocks };
    Ok(Sealed { run, bytes, directory_bytes, writes: packing.writes })
}

struct Packing {
    clips: Vec<ClipEntry>,
    spans: Vec<SpanEntry>,
    uploads: Vec<Upload>,
    writes: Layer,
}

impl Packing {
    fn of(state: &State, sources: &Sources) -> Result<Self, CatalogError> {
        let (clips, spans) = (Vec::new(), Vec::new());
        let uploads = state.uploads.iter().copied().collect();
        let mut packing = Self { clips, spans, uploads, writes: Layer::new() };
        let mut packed: HashSet<Vec<u8>> = HashSet::new();
        for (key, value) in of_kind(state, kind::CLIP) {
            let Some(value) = value else { continue };
            let value: ClipValue = decode(key, value)?;
            let clip = id_of(key);
            let source = source_of(sources, &value.box_id, &value.device)?;
            if value.basis == Basis::Recorded && !state.stays_key((kind::CLIP, source, clip)) {
                let of_clip =
                    [key.clone(), clip_id_key(clip), as_recorded_key(&value.box_id, value.start, clip)];
                packed.extend(of_clip);
                packing.clips.push(ClipEntry { source, clip, value, stored: false, thumbnail_stored: false });
            }
        }
        for (key, value) in of_kind(state, kind::SPAN) {
            let Some(value) = value else { continue };
            let value: SpanValue = decode(key, value)?;
            let span = id_of(key);
            let device = device_of(key)?;
            let source = source_of(sources, &value.box_id, &device)?;
            let is_as_recorded = placed(&device, &value).2 == Basis::Recorded;
            if !value.open && is_as_recorded && !state.stays_key((kind::SPAN, source, span)) {
                packed.extend([key.clone(), span_id_key(&device, span)]);
                packing.spans.push(SpanEntry { source, span, value });
            }
        }
        for (key, value) in &state.writes {
            match key[0] {
                // An earlier report of the span may be in the store.
                kind::SPAN | kind::SPAN_BY_ID if packed.contains(key) => {
                    packing.writes.insert(key.clone(), None);
                }
                _ if packed.contains(key) => {}
                _ => drop(packing.writes.insert(key.clone(), value.clone())),
            }
        }
        packing.clips.sort_by_key(|c| (c.source, c.start_us(), c.clip));
        packing.spans.sort_by_key(|s| (s.source, s.value.start, s.span));
        packing.mark_uploads();
        Ok(packing)
    }

    /// What came for a clip of this run is told by the clip; the rest keeps a row of its own.
    fn mark_uploads(&mut self) {
        let by_id: HashMap<Uuid, usize> = self.clips.iter().enumerate().map(|(n, c)| (c.clip, n)).collect();
        let clips = &mut self.clips;
        self.uploads.retain(|&came| {
            let clip = came.0;
            let Some(entry) = by_id.get(&clip).map(|&n| &mut clips[n]) else { return true };
            let is_video = upload(clip, &Sha256Hash(entry.value.sha256)) == came;
            let still = entry.value.thumbnail;
            let is_still = still.is_some_and(|still| upload(clip, &Sha256Hash(still.sha256)) == came);
            entry.stored |= is_video;
            entry.thumbnail_stored |= is_still;
            !is_video && !is_still
        });
    }

    /// All blocks. One thread does it: the others are for those who ask.
    fn blocks(&self, state: &State, out: &mut Vec<u8>) -> std::io::Result<RunBlocks> {
        let mut rows = state.rows.clone();
        let by_time = block::blocks(&mut rows, Arrangement::ByTime)?;
        let by_source = block::blocks(&mut rows, Arrangement::BySource)?;
        let clips = self.clips.chunks(BLOCK_CLIPS).map(clip_block::write).collect::<Result<Vec<_>, _>>()?;
        let spans = self.spans.chunks(BLOCK_SPANS).map(span_block::write).collect::<Result<Vec<_>, _>>()?;
        let mut ids: Vec<IdRow> = (0..).zip(&self.clips).map(|(n, c)| IdRow::new(c.clip, n)).collect();
        let mut uploads: Vec<IdRow> = self.uploads.iter().map(|&(clip, of)| IdRow::new(clip, of)).collect();
        Ok(RunBlocks {
            events_by_time: section(by_time, out),
            events_by_source: section(by_source, out),
            clips: section(clips, out),
            spans: section(spans, out),
            clip_ids: section(id_block::blocks(&mut ids), out),
            uploads: section(id_block::blocks(&mut uploads), out),
        })
    }
}

/// What one block holds at least and at most, and its bytes.
type Block = (BlockBounds, Vec<u8>);

fn section(blocks: Vec<Block>, out: &mut Vec<u8>) -> Section {
    let mut section = Section::default();
    for (bounds, content) in blocks {
        let offset = out.len() as u32;
        let bytes = append_piece(out, &content);
        section.push(BlockBounds { offset, bytes, ..bounds });
    }
    section
}

fn of_kind(state: &State, kind: u8) -> impl Iterator<Item = (&Vec<u8>, Option<&Vec<u8>>)> {
    state.writes.range(vec![kind]..vec![kind + 1]).map(|(key, value)| (key, value.as_ref()))
}

fn source_of(
    sources: &Sources,
    box_id: &crate::model::BoxId,
    device: &crate::model::DeviceId,
) -> Result<u32, CatalogError> {
    let missing =
        || super::values::corrupt(device.as_str().as_bytes(), format!("{box_id} has no number for it"));
    sources.get(box_id, Some(device)).ok_or_else(missing)
}
