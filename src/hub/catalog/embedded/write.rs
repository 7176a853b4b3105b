//! What records change: rows of events, and uploads, and the keys of what is rare (clips, spans, corrections, refused).
//!
//! Owns the meaning of a record to the index. Changes nothing itself: the caller takes all of the changes or none.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::RwLock;

use uuid::Uuid;

use super::block::{Row, kind_code};
use super::clip_block::ClipEntry;
use super::day_files::DayFiles;
use super::keys::{
    Key, as_recorded_key, clip_id_key, clip_key, epoch_key, id_of, kind, moved_key, span_id_key,
};
use super::packed::{Moved, Packed, Upload, upload};
use super::sources::Sources;
use super::span_block::SpanEntry;
use super::state::{EpochPlace, State};
use super::values::{
    ClipValue, ClockValue, DeviceValue, EpochValue, RefusedValue, RingValue, SeenValue, SpanValue,
    StillValue, encode,
};
use super::view::{Layer, View};
use super::{Basis, CatalogError, ClipKey, Correction, Order, place_in_time, unlocked};
use crate::hub::catalog::uncertain_us;
use crate::hub::truth::{Arrived, HubRecord};
use crate::limits::INDEX_CORRECTIONS_MAX;
use crate::model::{
    BoxId, ClipCut, ClockCorrection, Coverage, DeviceId, Epoch, Event, EventData, Sha256Hash, Time,
};
use crate::wire;

/// Bytes of a refused body that the index shows; the journal has the rest.
pub const REFUSED_BODY_BYTES: usize = 4 << 10;
/// Characters of a refusal's detail that the index shows.
const REFUSED_DETAIL_CHARS: usize = 1000;

/// Changes of some records, which read what the earlier ones of them change.
pub struct Pending<'a> {
    tree: &'a sled::Tree,
    files: &'a DayFiles,
    state: &'a State,
    sources: &'a RwLock<Sources>,
    pub changes: Changes,
}

/// What [`Pending`] comes to.
#[derive(Default)]
pub struct Changes {
    pub writes: Layer,
    pub bytes: usize,
    pub rows: Vec<Row>,
    pub uploads: Vec<Upload>,
    pub epochs: HashMap<EpochPlace, EpochValue>,
    pub devices: HashMap<DeviceId, DeviceValue>,
    /// Boxes that were heard of by something without an epoch, by their number.
    pub seen: HashMap<u32, SeenValue>,
    /// What boxes said of their rings, by the number of box and device.
    pub rings: HashMap<u32, RingValue>,
    /// Clips that stay keys.
    pub replaced: Vec<Uuid>,
    /// Those of them that lie in a closed run.
    pub moved: Vec<Moved>,
    pub corrected: Vec<BoxId>,
    pub latest: Option<Time>,
}

impl<'a> Pending<'a> {
    pub fn new(
        tree: &'a sled::Tree,
        files: &'a DayFiles,
        state: &'a State,
        sources: &'a RwLock<Sources>,
    ) -> Self {
        Self { tree, files, state, sources, changes: Changes::default() }
    }

    pub fn record(&mut self, position: u64, record: &HubRecord) -> Result<(), CatalogError> {
        match record {
            HubRecord::Event(arrived) => self.event(position, arrived),
            HubRecord::Refused { box_id, received, reason, detail, epoch, sequence, body, id: _ } => self
                .refused(
                    position,
                    RefusedValue {
                        box_id: box_id.clone(),
                        received: *received,
                        reason: reason.clone(),
                        detail: detail.chars().take(REFUSED_DETAIL_CHARS).collect(),
                        epoch: *epoch,
                        sequence: *sequence,
                        body: body[..body.len().min(REFUSED_BODY_BYTES)].to_vec(),
                        body_bytes: body.len() as u64,
                    },
                ),
            HubRecord::Stored(file) => {
                self.arrived(file.received);
                self.upload(upload(file.clip, &file.sha256));
                self.seen(&file.box_id, file.received);
                Ok(())
            }
        }
    }

    fn view(&self) -> View<'_> {
        View {
            tree: self.tree,
            layers: [&self.changes.writes, &self.state.writes, &self.state.known.open_spans],
        }
    }

    fn packed(&self) -> Packed<'a> {
        let known = &self.state.known;
        Packed { files: self.files, runs: &known.runs, moved: &known.moved }
    }

    fn put<T: serde::Serialize>(&mut self, key: Vec<u8>, value: &T) {
        let value = encode(value);
        self.changes.bytes += key.len() + value.len();
        self.changes.writes.insert(key, Some(value));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.changes.bytes += key.len();
        self.changes.writes.insert(key, None);
    }

    fn upload(&mut self, upload: Upload) {
        self.changes.bytes += size_of_val(&upload);
        self.changes.uploads.push(upload);
    }

    /// Keys from `low` to `high`, both included.
    fn keys(&self, low: Vec<u8>, high: Vec<u8>) -> Result<Vec<Vec<u8>>, CatalogError> {
        let entries = self.view().scan((Bound::Included(low), Bound::Included(high)), Order::Oldest);
        entries.map(|entry| Ok(entry?.0)).collect()
    }

    fn arrived(&mut self, received: Time) {
        self.changes.latest = self.changes.latest.max(Some(received));
    }

    fn source(&self, box_id: &BoxId, device: Option<&DeviceId>) -> u32 {
        let known = unlocked(self.sources.read()).get(box_id, device);
        known.unwrap_or_else(|| unlocked(self.sources.write()).add(box_id, device))
    }

    /// Takes note of something that has no place in an epoch.
    fn seen(&mut self, box_id: &BoxId, received: Time) {
        let number = self.source(box_id, None);
        let known = self.changes.seen.get(&number).copied().or_else(|| self.state.seen(number));
        if known.is_none_or(|known| known < SeenValue(received)) {
            self.changes.seen.insert(number, SeenValue(received));
        }
    }

    /// The counts of an epoch, to be changed.
    fn epoch(&mut self, box_id: &BoxId, epoch: Epoch) -> Result<&mut EpochValue, CatalogError> {
        let place = (self.source(box_id, None), epoch);
        if !self.changes.epochs.contains_key(&place) {
            let value = match self.state.epochs.get(&place) {
                Some(known) => known.value,
                None => self.view().get(&epoch_key(box_id, epoch))?.unwrap_or_default(),
            };
            self.changes.epochs.insert(place, value);
        }
        Ok(self.changes.epochs.get_mut(&place).expect("put there above"))
    }

    fn refused(&mut self, position: u64, value: RefusedValue) -> Result<(), CatalogError> {
        let box_id = value.box_id.clone();
        self.arrived(value.received);
        let count_key = Key::new(kind::REFUSED_COUNT).text(box_id.as_str()).text(&value.reason).0;
        let count: u64 = self.view().get(&count_key)?.unwrap_or(0);
        self.put(count_key, &(count + 1));
        match (value.epoch, value.sequence) {
            (Some(epoch), Some(sequence)) => {
                let mark = refused_mark(&box_id, epoch, sequence);
                let is_new = !self.view().has(&mark)?;
                self.put(mark, &());
                let counts = self.epoch(&box_id, epoch)?;
                counts.last_seen = counts.last_seen.max(value.received);
                counts.upto = counts.upto.max(sequence);
                counts.handed_over += u64::from(is_new);
                counts.refused += 1;
            }
            _ => self.seen(&box_id, value.received),
        }
        self.put(Key::new(kind::REFUSED_BY_BOX).text(box_id.as_str()).number(position).0, &());
        self.put(Key::new(kind::REFUSED).number(position).0, &value);
        Ok(())
    }

    /// The truth has decided that the event is new, or a conflict; here nothing is looked up for most events.
    fn event(&mut self, position: u64, arrived: &Arrived) -> Result<(), CatalogError> {
        let Arrived { received, conflict, event, .. } = arrived;
        let (received, conflict) = (*received, *conflict);
        let (box_id, device) = (&event.source.box_id, event.source.device.as_ref());
        self.arrived(received);
        let counts = self.epoch(box_id, event.epoch)?;
        counts.last_seen = counts.last_seen.max(received);
        counts.upto = counts.upto.max(event.sequence);
        counts.conflicts += u64::from(conflict);
        counts.handed_over += u64::from(!conflict);
        // What was set aside and came again after a repair was counted then.
        if counts.refused > 0
            && !conflict
            && self.view().has(&refused_mark(box_id, event.epoch, event.sequence))?
        {
            self.epoch(box_id, event.epoch)?.handed_over -= 1;
        }
        let (placed, _, _) = place_in_time(event.time, event.time, device, &[], received);
        self.changes.rows.push(Row {
            time_us: placed.as_microsecond(),
            offset: (position - self.state.start) as u32,
            source: self.source(box_id, device),
            kind: kind_code(wire::event_type(&event.data)),
        });
        match (&event.data, device) {
            (EventData::Clip(cut), Some(device)) => self.clip(device, event, received, cut),
            (EventData::Coverage(coverage), Some(device)) => self.span(device, event, received, coverage),
            (EventData::Clock(c @ ClockCorrection { spans: Some(spans), .. }), Some(device)) => {
                self.correction_of_spans(box_id, device, c, spans)
            }
            // The box's own word: its cameras say which of their spans it is about.
            (EventData::Clock(ClockCorrection { spans: Some(_), .. }), None) => Ok(()),
            (EventData::Clock(c), _) => {
                let correction = Correction {
                    device: device.cloned(),
                    from: in_microseconds(c.from),
                    upto: in_microseconds(c.upto),
                    correction_ms: c.correction_ms,
                    uncertainty_ms: c.uncertainty_ms,
                };
                self.correction(position, box_id, correction)
            }
            _ => Ok(()),
        }
    }

    fn clip(
        &mut self,
        device: &DeviceId,
        event: &Event,
        received: Time,
        cut: &ClipCut,
    ) -> Result<(), CatalogError> {
        // Another device may have told of it.
        let is_stored = self.state.known.has_clip_keys;
        if self.view().has_or_memory(&clip_id_key(cut.clip), is_stored)? || self.is_packed(cut.clip)? {
            return Ok(());
        }
        let box_id = event.source.box_id.clone();
        let corrections = self.corrections_for(&box_id, cut.run)?;
        let (placed_start, placed_end, basis) =
            place_in_time(cut.start, cut.end, Some(device), &corrections, received);
        self.put(as_recorded_key(&box_id, cut.start, cut.clip), &());
        let value = ClipValue {
            device: device.clone(),
            box_id,
            received,
            clock: ClockValue {
                source: event.clock.source,
                sync: event.clock.sync,
                offset_ms: event.clock.offset_ms,
                uncertainty_ms: event.clock.uncertainty_ms,
            },
            start: cut.start,
            end: cut.end,
            motion_start: cut.motion_start,
            motion_end: cut.motion_end,
            peak_score: cut.peak_score,
            bytes: cut.bytes,
            sha256: cut.sha256.0,
            video: cut.video.clone(),
            audio_codec: cut.audio_codec.clone(),
            thumbnail: cut.thumbnail.as_ref().map(|t| StillValue {
                sha256: t.sha256.0,
                bytes: t.bytes,
                time: t.time,
            }),
            run: cut.run,
            first_fragment: cut.first_fragment,
            fragments: cut.fragments.len() as u64,
            placed_start,
            placed_end,
            basis,
        };
        self.put_clip(cut.clip, &value)
    }

    /// A closed run holds it.
    fn is_packed(&self, clip: Uuid) -> Result<bool, CatalogError> {
        let sources = unlocked(self.sources.read());
        Ok(self.packed().clip_even_if_moved(clip, &sources)?.is_some())
    }

    fn put_clip(&mut self, clip: Uuid, value: &ClipValue) -> Result<(), CatalogError> {
        let start_us = value.placed_start.as_microsecond();
        let margin_us = uncertain_us(value.as_placed().uncertainty_ms);
        let length_us = value.placed_end.as_microsecond() - start_us + margin_us;
        let stays_key = value.basis != Basis::Recorded || self.changes.replaced.contains(&clip);
        self.device(&value.device, |d| {
            d.clip_us_max = d.clip_us_max.max(length_us + 1);
            d.clip_margin_us_max = d.clip_margin_us_max.max(margin_us);
            d.has_clip_keys |= stays_key;
        });
        let key = clip_key(&value.device, ClipKey { start_us, clip });
        self.put(clip_id_key(clip), &key);
        self.put(key, value);
        Ok(())
    }

    fn known(&self, device: &DeviceId) -> DeviceValue {
        self.changes.devices.get(device).copied().unwrap_or_else(|| self.state.device(device))
    }

    fn device(&mut self, device: &DeviceId, change: impl FnOnce(&mut DeviceValue)) {
        let known = self.known(device);
        let mut value = known;
        change(&mut value);
        if value != known {
            self.changes.devices.insert(device.clone(), value);
        }
    }

    /// From here on a key says more of this clip or span of a closed run.
    fn moved(&mut self, moved: Moved) {
        self.put(moved_key(moved), &());
        self.changes.moved.push(moved);
        if moved.0 == kind::CLIP {
            self.changes.replaced.push(moved.2);
        }
    }

    /// Keeps the correction and places anew the clips that were recorded in its span.
    fn correction(
        &mut self,
        position: u64,
        box_id: &BoxId,
        correction: Correction,
    ) -> Result<(), CatalogError> {
        self.put(Key::new(kind::CORRECTION).text(box_id.as_str()).number(position).0, &correction);
        self.changes.corrected.push(box_id.clone());
        self.place_clips_anew(box_id, correction.from, correction.upto, |_| true)
    }

    /// Keeps a correction that names its spans, and places them and their clips anew.
    fn correction_of_spans(
        &mut self,
        box_id: &BoxId,
        device: &DeviceId,
        correction: &ClockCorrection,
        spans: &[Uuid],
    ) -> Result<(), CatalogError> {
        let by = (correction.correction_ms, correction.uncertainty_ms);
        self.changes.corrected.push(box_id.clone());
        let packed = self.packed_spans(box_id, device, correction.from, correction.upto)?;
        for &span in spans {
            self.put(span_correction_key(box_id, span), &by);
            let by_id = span_id_key(device, span);
            let mut value = match self.view().get::<Vec<u8>>(&by_id)? {
                Some(old_key) => {
                    let Some(value) = self.view().get::<SpanValue>(&old_key)? else { continue };
                    if value.box_id != *box_id {
                        continue;
                    }
                    self.remove(old_key);
                    value
                }
                None => {
                    let Some(entry) = packed.iter().find(|entry| entry.span == span) else { continue };
                    self.moved((kind::SPAN, entry.source, span));
                    entry.value.clone()
                }
            };
            value.correction = Some(by);
            self.put_span(device, span, &value)?;
        }
        let named: BTreeSet<&Uuid> = spans.iter().collect();
        self.place_clips_anew(box_id, correction.from, correction.upto, |clip| named.contains(&clip.run))
    }

    /// Places the clips anew that a box recorded in a span of its clock.
    fn place_clips_anew(
        &mut self,
        box_id: &BoxId,
        from: Time,
        upto: Time,
        is_meant: impl Fn(&ClipValue) -> bool,
    ) -> Result<(), CatalogError> {
        for clip in self.packed_clips(box_id, from, upto)? {
            let is_packed = !self.view().has(&clip_id_key(clip.clip))?;
            if is_packed && is_meant(&clip.value) {
                let placed = self.placed_anew(box_id, clip.value.clone())?;
                if placed != clip.value {
                    self.moved((kind::CLIP, clip.source, clip.clip));
                    self.put_uploads_again(&clip);
                    self.put(as_recorded_key(box_id, placed.start, clip.clip), &());
                    self.put_clip(clip.clip, &placed)?;
                }
            }
        }
        let low = as_recorded_key(box_id, from, Uuid::nil());
        let high = as_recorded_key(box_id, upto, Uuid::max());
        for key in self.keys(low, high)? {
            let clip = id_of(&key);
            let Some(old_key) = self.view().get::<Vec<u8>>(&clip_id_key(clip))? else { continue };
            let Some(value) = self.view().get::<ClipValue>(&old_key)? else { continue };
            if !is_meant(&value) {
                continue;
            }
            let placed = self.placed_anew(box_id, value)?;
            self.remove(old_key);
            self.changes.replaced.push(clip);
            self.put_clip(clip, &placed)?;
        }
        Ok(())
    }

    /// What the block told of the clip's files.
    fn put_uploads_again(&mut self, entry: &ClipEntry) {
        if entry.stored {
            self.upload(upload(entry.clip, &Sha256Hash(entry.value.sha256)));
        }
        if let Some(still) = entry.value.thumbnail.filter(|_| entry.thumbnail_stored) {
            self.upload(upload(entry.clip, &Sha256Hash(still.sha256)));
        }
    }

    fn placed_anew(&self, box_id: &BoxId, mut value: ClipValue) -> Result<ClipValue, CatalogError> {
        let corrections = self.corrections_for(box_id, value.run)?;
        (value.placed_start, value.placed_end, value.basis) =
            place_in_time(value.start, value.end, Some(&value.device), &corrections, value.received);
        Ok(value)
    }

    /// Clips of closed runs that a box recorded in a span of its clock.
    fn packed_clips(&self, box_id: &BoxId, from: Time, upto: Time) -> Result<Vec<ClipEntry>, CatalogError> {
        let sources = unlocked(self.sources.read());
        let of = sources.devices_of(box_id);
        self.packed().clips_begun(&of, from.as_microsecond(), upto.as_microsecond(), &sources)
    }

    /// Spans of closed runs that a box told of a camera.
    fn packed_spans(
        &self,
        box_id: &BoxId,
        device: &DeviceId,
        from: Time,
        upto: Time,
    ) -> Result<Vec<SpanEntry>, CatalogError> {
        let sources = unlocked(self.sources.read());
        let of = sources.asked(Some(box_id), Some(device));
        self.packed().spans_within(&of, from.as_microsecond(), upto.as_microsecond(), &sources)
    }

    /// A span of a closed run, of which this is another report: all reports of a span begin at the same time.
    fn packed_span(&self, device: &DeviceId, of: &Coverage) -> Result<Option<SpanEntry>, CatalogError> {
        let sources = unlocked(self.sources.read());
        let spoke = sources.asked(None, Some(device));
        self.packed().span(&spoke, of.start.as_microsecond(), of.span, &sources)
    }

    fn span(
        &mut self,
        device: &DeviceId,
        event: &Event,
        received: Time,
        coverage: &Coverage,
    ) -> Result<(), CatalogError> {
        let by_id = span_id_key(device, coverage.span);
        let box_id = event.source.box_id.clone();
        if let Some(old_key) = self.view().get::<Vec<u8>>(&by_id)? {
            if let Some(old) = self.view().get::<SpanValue>(&old_key)?
                && !is_later(event, coverage, &old)
            {
                return Ok(());
            }
            self.remove(old_key);
        } else {
            let packed = self.packed_span(device, coverage)?;
            if let Some(old) = packed {
                if !is_later(event, coverage, &old.value) {
                    return Ok(());
                }
                self.moved((kind::SPAN, old.source, coverage.span));
            }
        }
        let correction = match self.is_corrected(&box_id) {
            true => self.view().get(&span_correction_key(&box_id, coverage.span))?,
            false => None,
        };
        let value = SpanValue {
            box_id,
            received,
            epoch: event.epoch,
            sequence: event.sequence,
            cause: coverage.cause(),
            start: coverage.start,
            upto: coverage.upto,
            open: coverage.open,
            merkle_root: coverage.run.map(|run| run.merkle_root.0),
            ring_from: coverage.ring_from,
            correction,
        };
        // Here and not with a correction, which says an old report once more.
        self.ring(self.source(&value.box_id, Some(device)), &value);
        self.put_span(device, coverage.span, &value)
    }

    fn put_span(&mut self, device: &DeviceId, span: Uuid, value: &SpanValue) -> Result<(), CatalogError> {
        let (start, upto, basis) = placed(device, value);
        let length_us = upto.as_microsecond() - start.as_microsecond();
        let source = self.source(&value.box_id, Some(device));
        let stays_key = basis != Basis::Recorded || self.is_moved((kind::SPAN, source, span));
        self.device(device, |d| {
            d.has_span_keys |= stays_key;
            d.span_us_max = d.span_us_max.max(length_us + 1);
        });
        let key = Key::new(kind::SPAN).text(device.as_str()).time(start.as_microsecond()).uuid(span).0;
        self.put(span_id_key(device, span), &key);
        self.put(key, value);
        Ok(())
    }

    /// Takes note of the ring that a report tells of. One whose clock is ahead tells nothing.
    fn ring(&mut self, source: u32, value: &SpanValue) {
        let Some(from) = value.ring_from.filter(|from| *from <= value.received) else { return };
        let known = self.changes.rings.get(&source).copied().or_else(|| self.state.ring(source));
        if known.is_none_or(|known| known.received <= value.received) {
            self.changes.rings.insert(source, RingValue { received: value.received, from });
        }
    }

    fn is_moved(&self, thing: Moved) -> bool {
        self.changes.moved.contains(&thing) || self.state.known.moved.contains(&thing)
    }

    /// Something was said of the box's clock.
    fn is_corrected(&self, box_id: &BoxId) -> bool {
        self.state.known.corrected.contains(box_id) || self.changes.corrected.contains(box_id)
    }

    /// What corrects the times of a run: what was said of it, else what was said of its box.
    fn corrections_for(&self, box_id: &BoxId, run: Uuid) -> Result<Vec<Correction>, CatalogError> {
        if !self.is_corrected(box_id) {
            return Ok(Vec::new());
        }
        match self.view().get(&span_correction_key(box_id, run))? {
            Some(by) => Ok(vec![of_span(by)]),
            None => corrections(self.view(), box_id),
        }
    }
}

fn span_correction_key(box_id: &BoxId, span: Uuid) -> Vec<u8> {
    Key::new(kind::SPAN_CORRECTION).text(box_id.as_str()).uuid(span).0
}

/// The correction of a span that is named, whatever its times.
pub fn of_span((correction_ms, uncertainty_ms): (i64, u64)) -> Correction {
    Correction { device: None, from: Time::MIN, upto: Time::MAX, correction_ms, uncertainty_ms }
}

/// The newest clock corrections of a box, oldest first.
pub fn corrections(view: View<'_>, box_id: &BoxId) -> Result<Vec<Correction>, CatalogError> {
    let prefix = Key::new(kind::CORRECTION).text(box_id.as_str()).0;
    let mut newest = Vec::new();
    for entry in view.prefix(&prefix, Order::Newest).take(INDEX_CORRECTIONS_MAX) {
        let (key, value) = entry?;
        newest.push(super::values::decode(&key, &value)?);
    }
    newest.reverse();
    Ok(newest)
}

fn refused_mark(box_id: &BoxId, epoch: Epoch, sequence: u64) -> Vec<u8> {
    Key::new(kind::REFUSED_SEQUENCE).text(box_id.as_str()).number(epoch.0).number(sequence).0
}

/// As precise as what is kept.
fn in_microseconds(time: Time) -> Time {
    Time::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// Where a span stands, by what was said of it.
pub fn placed(device: &DeviceId, value: &SpanValue) -> (Time, Time, Basis) {
    let own: Vec<Correction> = value.correction.map(of_span).into_iter().collect();
    place_in_time(value.start, value.upto, Some(device), &own, value.received)
}

/// A report replaces an earlier one, in whatever order they arrive.
fn is_later(event: &Event, coverage: &Coverage, old: &SpanValue) -> bool {
    if event.epoch == old.epoch {
        return event.sequence > old.sequence;
    }
    // What is kept has microseconds, what arrives may have more.
    (coverage.upto.as_microsecond(), !coverage.open) > (old.upto.as_microsecond(), !old.open)
}
