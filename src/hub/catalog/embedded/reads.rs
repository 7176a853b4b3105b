//! Questions about clips, coverage, boxes and what was refused: all of them keys.
//!
//! Owns the answers from one [`View`], which stays as it is while the answer is made.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;

use uuid::Uuid;

use super::keys::{Key, clip_key, kind, last_number, stored_key};
use super::sources::Sources;
use super::values::{ClipValue, DeviceValue, EpochValue, RefusedValue, SpanValue, decode};
use super::view::View;
use super::write::{corrections, of_span};
use super::{
    BoxRow, CatalogError, ClipKey, ClipQuery, ClipRow, Correction, EpochRow, Order, RefusedCount,
    RefusedPage, RefusedQuery, RefusedRow, TimeRange, clock_as_placed, lay_out, place_in_time,
};
use crate::limits::INDEX_SCAN_MAX;
use crate::model::{BoxId, ClockQuality, CoverageSpan, DeviceId, Epoch, Sha256Hash, SpanState, Still, Time};

pub fn clips(view: View<'_>, query: &ClipQuery) -> Result<Vec<ClipRow>, CatalogError> {
    let mut rows = BTreeMap::new();
    for device in &query.devices {
        for &range in &query.ranges {
            let of_device = clips_of(view, device, range, query.order, query.after, query.limit)?;
            rows.extend(of_device.into_iter().map(|row| (row.key(), row)));
        }
    }
    let rows = rows.into_values();
    Ok(match query.order {
        Order::Newest => rows.rev().take(query.limit).collect(),
        Order::Oldest => rows.take(query.limit).collect(),
    })
}

fn clips_of(
    view: View<'_>,
    device: &DeviceId,
    range: TimeRange,
    order: Order,
    after: Option<ClipKey>,
    limit: usize,
) -> Result<Vec<ClipRow>, CatalogError> {
    let first = range.from.as_microsecond().saturating_sub(longest(view, device)?.clip_us_max);
    let mut low = ClipKey { start_us: first, clip: Uuid::nil() };
    let mut high = ClipKey { start_us: range.to.as_microsecond(), clip: Uuid::max() };
    let bounds = match (after, order) {
        (Some(after), Order::Oldest) if after >= low => {
            low = after;
            (Bound::Excluded(clip_key(device, low)), Bound::Included(clip_key(device, high)))
        }
        (Some(after), Order::Newest) if after <= high => {
            high = after;
            (Bound::Included(clip_key(device, low)), Bound::Excluded(clip_key(device, high)))
        }
        _ => (Bound::Included(clip_key(device, low)), Bound::Included(clip_key(device, high))),
    };
    let mut rows = Vec::new();
    for entry in view.scan(bounds, order) {
        if rows.len() >= limit {
            break;
        }
        let (key, value) = entry?;
        let value: ClipValue = decode(&key, &value)?;
        if range.overlaps(value.placed_start, value.placed_end) {
            let clip = Uuid::from_bytes(*key.last_chunk().expect("the key ends with the clip's id"));
            rows.push(clip_row(view, clip, value)?);
        }
    }
    Ok(rows)
}

pub fn clip(view: View<'_>, clip: Uuid) -> Result<Option<ClipRow>, CatalogError> {
    let Some(key) = view.get::<Vec<u8>>(&Key::new(kind::CLIP_BY_ID).uuid(clip).0)? else { return Ok(None) };
    view.get(&key)?.map(|value| clip_row(view, clip, value)).transpose()
}

pub fn coverage(
    view: View<'_>,
    sources: &Sources,
    device: &DeviceId,
    range: TimeRange,
) -> Result<Vec<CoverageSpan>, CatalogError> {
    let corrections = corrections_of(view, sources, device)?;
    let shift_us = corrections.values().flatten().map(|c| c.correction_ms.saturating_abs()).max();
    let shift_us = shift_us.unwrap_or(0).saturating_mul(1000);
    let at = |us: i64, span: Uuid| Key::new(kind::SPAN).text(device.as_str()).time(us).uuid(span).0;
    let longest_us = longest(view, device)?.span_us_max;
    let first = range.from.as_microsecond().saturating_sub(longest_us).saturating_sub(shift_us);
    let last = range.to.as_microsecond().saturating_add(shift_us);
    let bounds = (Bound::Included(at(first, Uuid::nil())), Bound::Included(at(last, Uuid::max())));
    let mut spans = Vec::new();
    for entry in view.scan(bounds, Order::Newest).take(INDEX_SCAN_MAX) {
        let (key, value) = entry?;
        let value: SpanValue = decode(&key, &value)?;
        let own = value.correction.map(of_span);
        let of_box = corrections.get(&value.box_id).map_or(&[][..], Vec::as_slice);
        let of_box = own.as_ref().map_or(of_box, std::slice::from_ref);
        let (start, end, _) = place_in_time(value.start, value.upto, Some(device), of_box, value.received);
        if range.overlaps(start, end) && start < end {
            spans.push(CoverageSpan {
                span: Some(Uuid::from_bytes(*key.last_chunk().expect("the key ends with the span's id"))),
                state: value.cause.map_or(SpanState::Recorded, |cause| SpanState::Gap { cause }),
                start,
                end,
                open: value.open,
                merkle_root: value.merkle_root.map(Sha256Hash),
            });
        }
    }
    Ok(lay_out(spans))
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

pub fn boxes(view: View<'_>, sources: &Sources) -> Result<Vec<BoxRow>, CatalogError> {
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
        let seen: Option<Time> = view.get(&Key::new(kind::BOX).text(box_id.as_str()).0)?;
        // A source that was numbered by a batch which could not be applied has said nothing yet.
        let Some(last_seen) = seen.max(epochs.first().map(|e| e.last_seen)) else { continue };
        boxes.push(BoxRow { box_id, last_seen, epochs });
    }
    Ok(boxes)
}

fn longest(view: View<'_>, device: &DeviceId) -> Result<DeviceValue, CatalogError> {
    Ok(view.get(&Key::new(kind::DEVICE).text(device.as_str()).0)?.unwrap_or_default())
}

fn corrections_of(
    view: View<'_>,
    sources: &Sources,
    device: &DeviceId,
) -> Result<BTreeMap<BoxId, Vec<Correction>>, CatalogError> {
    let mut all = BTreeMap::new();
    for box_id in sources.boxes_of(device) {
        let corrections = corrections(view, &box_id)?;
        if !corrections.is_empty() {
            all.insert(box_id, corrections);
        }
    }
    Ok(all)
}

fn clip_row(view: View<'_>, clip: Uuid, value: ClipValue) -> Result<ClipRow, CatalogError> {
    let shift = value.placed_start.duration_since(value.start);
    let shifted = |time: Option<Time>| time.and_then(|t| t.checked_add(shift).ok());
    let clock = ClockQuality {
        source: value.clock.source,
        sync: value.clock.sync,
        offset_ms: value.clock.offset_ms,
        uncertainty_ms: value.clock.uncertainty_ms,
    };
    let sha256 = Sha256Hash(value.sha256);
    let thumbnail =
        value.thumbnail.map(|(sha256, bytes, time)| Still { sha256: Sha256Hash(sha256), bytes, time });
    let has = |sha: &Sha256Hash| view.has(&stored_key(sha));
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
        clock: clock_as_placed(clock, value.basis),
        bytes: value.bytes,
        sha256,
        video: value.video,
        audio_codec: value.audio_codec,
        run: value.run,
        first_fragment: value.first_fragment,
        fragments: value.fragments,
        stored: has(&sha256)?,
        thumbnail_stored: thumbnail.as_ref().map_or(Ok(false), |t| has(&t.sha256))?,
        thumbnail,
    })
}
