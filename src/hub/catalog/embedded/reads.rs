//! Questions about one clip, coverage, boxes and what was refused: keys, and what closed runs hold.
//!
//! Owns the answers from one [`View`], which stays as it is while the answer is made.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;

use uuid::Uuid;

use super::clip_block::ClipEntry;
use super::keys::{Key, id_of, kind, last_number};
use super::sources::Sources;
use super::state::State;
use super::values::{ClipValue, EpochValue, RefusedValue, SpanValue, decode};
use super::view::View;
use super::write::{corrections, of_span};
use super::{
    BoxRow, CatalogError, ClipRow, Correction, EpochRow, Order, RefusedCount, RefusedPage, RefusedQuery,
    RefusedRow, TimeRange, lay_out, place_in_time,
};
use crate::limits::INDEX_SCAN_MAX;
use crate::model::{BoxId, CoverageSpan, DeviceId, Epoch, Sha256Hash, SpanState, Still, Time};

/// The clip with this id, if it is a key.
pub fn keyed_clip(view: View<'_>, clip: Uuid) -> Result<Option<ClipEntry>, CatalogError> {
    let Some(key) = view.get::<Vec<u8>>(&Key::new(kind::CLIP_BY_ID).uuid(clip).0)? else { return Ok(None) };
    let Some(value) = view.get::<ClipValue>(&key)? else { return Ok(None) };
    Ok(Some(ClipEntry { source: 0, clip, value, stored: false, thumbnail_stored: false }))
}

/// The account of one device in the making.
pub struct Account {
    device: DeviceId,
    range: TimeRange,
    /// What was said of the clocks of the boxes that told of it.
    corrections: BTreeMap<BoxId, Vec<Correction>>,
    spans: Vec<CoverageSpan>,
}

/// The accounts of some devices, with the spans that are keys.
pub fn accounts(
    view: View<'_>,
    state: &State,
    sources: &Sources,
    devices: &[DeviceId],
    range: TimeRange,
) -> Result<Vec<Account>, CatalogError> {
    let mut accounts = Vec::with_capacity(devices.len());
    for device in devices {
        let corrections = corrections_of(view, state, sources, device)?;
        let mut account = Account { device: device.clone(), range, corrections, spans: Vec::new() };
        let at = |us: i64, span: Uuid| Key::new(kind::SPAN).text(device.as_str()).time(us).uuid(span).0;
        let (shift_us, longest_us) = (account.shift_us(), state.device(device).span_us_max);
        let first = range.from.as_microsecond().saturating_sub(longest_us).saturating_sub(shift_us);
        let last = range.to.as_microsecond().saturating_add(shift_us);
        let bounds = (Bound::Included(at(first, Uuid::nil())), Bound::Included(at(last, Uuid::max())));
        let is_stored = state.device(device).has_span_keys;
        for entry in view.scan_or_memory(bounds, Order::Newest, is_stored).take(INDEX_SCAN_MAX) {
            let (key, value) = entry?;
            let span = id_of(&key);
            account.add(span, &decode(&key, &value)?);
        }
        accounts.push(account);
    }
    Ok(accounts)
}

impl Account {
    /// Adds a span, if it overlaps the range where it is placed.
    pub fn add(&mut self, span: Uuid, value: &SpanValue) {
        let own = value.correction.map(of_span);
        let of_box = self.corrections.get(&value.box_id).map_or(&[][..], Vec::as_slice);
        let of_box = own.as_ref().map_or(of_box, std::slice::from_ref);
        let (start, end, _) =
            place_in_time(value.start, value.upto, Some(&self.device), of_box, value.received);
        if self.range.overlaps(start, end) && start < end {
            self.spans.push(CoverageSpan {
                span: Some(span),
                state: value.cause.map_or(SpanState::Recorded, |cause| SpanState::Gap { cause }),
                start,
                end,
                open: value.open,
                merkle_root: value.merkle_root.map(Sha256Hash),
            });
        }
    }

    /// How far a correction may move a span, microseconds.
    pub fn shift_us(&self) -> i64 {
        let shift_ms = self.corrections.values().flatten().map(|c| c.correction_ms.saturating_abs()).max();
        shift_ms.unwrap_or(0).saturating_mul(1000)
    }

    pub fn laid_out(self) -> Vec<CoverageSpan> {
        lay_out(self.spans)
    }
}

pub fn refused(view: View<'_>, query: &RefusedQuery) -> Result<RefusedPage, CatalogError> {
    let prefix = match &query.box_id {
        Some(box_id) => Key::new(kind::REFUSED_BY_BOX).text(box_id.as_str()).0,
        None => vec![kind::REFUSED],
    };
    let low = Bound::Included(Key(prefix.clone()).number(0).0);
    let high = Bound::Excluded(Key(prefix).number(query.before.unwrap_or(u64::MAX)).0);
    let mut page = RefusedPage { rows: Vec::new(), next: None };
    for (scanned, entry) in view.scan((low, high), Order::Newest).enumerate() {
        let position = last_number(&entry?.0);
        if page.rows.len() == query.limit || scanned == INDEX_SCAN_MAX {
            page.next = Some(position + 1);
            break;
        }
        let Some(value) = view.get::<RefusedValue>(&Key::new(kind::REFUSED).number(position).0)? else {
            continue;
        };
        let is_asked = query.range.overlaps(value.received, value.received)
            && query.reason.as_ref().is_none_or(|reason| *reason == value.reason);
        if !is_asked {
            continue;
        }
        page.rows.push(RefusedRow {
            position,
            box_id: value.box_id,
            received: value.received,
            reason: value.reason,
            detail: value.detail,
            epoch: value.epoch,
            sequence: value.sequence,
            body: value.body,
            body_bytes: value.body_bytes,
        });
    }
    Ok(page)
}

pub fn refused_counts(view: View<'_>) -> Result<Vec<RefusedCount>, CatalogError> {
    let mut counts = Vec::new();
    for entry in view.prefix(&[kind::REFUSED_COUNT], Order::Oldest) {
        let (key, value) = entry?;
        let mut texts = key[1..].split(|&b| b == 0).filter_map(|t| std::str::from_utf8(t).ok());
        let (Some(box_id), Some(reason)) = (texts.next(), texts.next()) else { continue };
        let Ok(box_id) = BoxId::new(box_id) else { continue };
        counts.push(RefusedCount { box_id, reason: reason.into(), count: decode(&key, &value)? });
    }
    Ok(counts)
}

pub fn boxes(view: View<'_>, state: &State, sources: &Sources) -> Result<Vec<BoxRow>, CatalogError> {
    let mut boxes = Vec::new();
    for box_id in sources.boxes() {
        let mut epochs = Vec::new();
        for entry in view.prefix(&Key::new(kind::EPOCH).text(box_id.as_str()).0, Order::Oldest) {
            let (key, value) = entry?;
            let value: EpochValue = decode(&key, &value)?;
            epochs.push(EpochRow {
                epoch: Epoch(last_number(&key)),
                last_seen: value.last_seen,
                upto: value.upto,
                missing: value.upto.saturating_sub(value.handed_over),
                refused: value.refused,
                conflicts: value.conflicts,
            });
        }
        epochs.sort_by_key(|e| (Reverse(e.last_seen), e.epoch));
        let seen = sources.get(&box_id, None).and_then(|number| state.seen(number)).map(|seen| seen.0);
        // A source that was numbered by a batch which could not be applied has said nothing yet.
        let Some(last_seen) = seen.max(epochs.first().map(|e| e.last_seen)) else { continue };
        boxes.push(BoxRow { box_id, last_seen, epochs });
    }
    Ok(boxes)
}

fn corrections_of(
    view: View<'_>,
    state: &State,
    sources: &Sources,
    device: &DeviceId,
) -> Result<BTreeMap<BoxId, Vec<Correction>>, CatalogError> {
    let mut all = BTreeMap::new();
    for box_id in sources.boxes_of(device) {
        if !state.known.corrected.contains(&box_id) {
            continue;
        }
        let corrections = corrections(view, &box_id)?;
        if !corrections.is_empty() {
            all.insert(box_id, corrections);
        }
    }
    Ok(all)
}

/// A clip as the index tells it. `has` says whether a file of it came in another run than the clip.
pub fn clip_row(
    entry: ClipEntry,
    has: impl Fn(Uuid, &Sha256Hash) -> Result<bool, CatalogError>,
) -> Result<ClipRow, CatalogError> {
    let ClipEntry { clip, value, stored, thumbnail_stored, .. } = entry;
    let shift = value.placed_start.duration_since(value.start);
    let shifted = |time: Option<Time>| time.and_then(|t| t.checked_add(shift).ok());
    let sha256 = Sha256Hash(value.sha256);
    let clock = value.as_placed();
    let thumbnail =
        value.thumbnail.map(|s| Still { sha256: Sha256Hash(s.sha256), bytes: s.bytes, time: s.time });
    let has_thumbnail = match &thumbnail {
        Some(still) => thumbnail_stored || has(clip, &still.sha256)?,
        None => false,
    };
    Ok(ClipRow {
        clip,
        device: value.device,
        box_id: value.box_id,
        received: value.received,
        start: value.placed_start,
        end: value.placed_end,
        motion_start: shifted(value.motion_start),
        motion_end: shifted(value.motion_end),
        basis: value.basis,
        recorded_start: value.start,
        recorded_end: value.end,
        peak_score: value.peak_score,
        clock,
        bytes: value.bytes,
        sha256,
        video: value.video,
        audio_codec: value.audio_codec,
        run: value.run,
        first_fragment: value.first_fragment,
        fragments: value.fragments,
        stored: stored || has(clip, &sha256)?,
        thumbnail_stored: has_thumbnail,
        thumbnail,
    })
}
