//! The embedded catalog: sled 0.34, one tree, derived data only. The one file that names sled.
//!
//! What sled does and does not promise was measured (design, section 6); hence: one tree, so that a batch
//! and the position it reaches are one atomic write; a panic at open is caught; a store that is
//! unexpectedly empty, of another version, or ahead of the journal is moved aside and built anew from the
//! journal; values stay below 64 KiB. May not hold anything that the journal does not.
//!
//! Keys begin with one letter, see `kind`; ids end with a zero byte, numbers are big-endian.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Basis, BoxRow, Catalog, CatalogError, ClipKey, ClipRow, Correction, EpochRow, EventKey, EventPage,
    EventQuery, EventRow, Order, RefusedCount, RefusedPage, RefusedQuery, RefusedRow, TimeRange,
    clock_as_placed, lay_out, place_in_time,
};
use crate::hub::truth::{Arrived, HubRecord, StoredFile};
use crate::limits::{INDEX_CACHE_BYTES, INDEX_CORRECTIONS_MAX, INDEX_SCAN_MAX};
use crate::model::{
    BoxId, ClipCut, ClockQuality, ClockSource, Coverage, CoverageSpan, DeviceId, Epoch, Event, EventData,
    GapCause, Sha256Hash, SpanState, Still, SyncState, Time, Video,
};
use crate::wire;

/// Version of keys and values. Another one is not read but built anew.
const VERSION: u8 = 1;
/// Values above 64 KiB become files that sled never syncs.
const CHUNK_BYTES: usize = 48 << 10;
/// Bytes of a refused body that the index shows; the journal has the rest.
const REFUSED_BODY_BYTES: usize = 4 << 10;

/// First byte of a key.
mod kind {
    /// Position and version.
    pub const META: u8 = b'!';
    /// box, epoch, sequence, id if a conflict → event
    pub const EVENT: u8 = b'e';
    /// position, chunk → the event's JSON
    pub const JSON: u8 = b'j';
    /// time, position → key of the event
    pub const EVENT_BY_TIME: u8 = b't';
    /// box, device or nothing, time, position → key of the event
    pub const EVENT_BY_SOURCE: u8 = b'u';
    /// device, box → nothing
    pub const DEVICE_BOX: u8 = b'v';
    /// device → longest clip and span, to know how far a scan must look back
    pub const DEVICE: u8 = b'd';
    /// device, start as placed, clip → clip
    pub const CLIP: u8 = b'c';
    /// clip → key of the clip
    pub const CLIP_BY_ID: u8 = b'i';
    /// box, start as recorded, clip → nothing
    pub const CLIP_AS_RECORDED: u8 = b'r';
    /// device, start as placed, span → span
    pub const SPAN: u8 = b'g';
    /// device, span → key of the span
    pub const SPAN_BY_ID: u8 = b's';
    /// box, position → correction
    pub const CORRECTION: u8 = b'k';
    /// sha256 → stored file
    pub const STORED: u8 = b'h';
    /// box → last seen
    pub const BOX: u8 = b'b';
    /// box, epoch → counts
    pub const EPOCH: u8 = b'p';
    /// position → refused
    pub const REFUSED: u8 = b'f';
    /// box, position → nothing
    pub const REFUSED_BY_BOX: u8 = b'o';
    /// box, epoch, sequence → nothing
    pub const REFUSED_SEQUENCE: u8 = b'q';
    /// box, reason → count
    pub const REFUSED_COUNT: u8 = b'n';
}

/// The index on this machine's disk.
pub struct Embedded {
    db: sled::Db,
    tree: sled::Tree,
    applied: AtomicU64,
    /// One writer at a time.
    writer: Mutex<()>,
}

/// What opening did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    New,
    /// It goes on at the position it had.
    Continued,
    /// The old one was moved aside and an empty one begun: apply the journal from its start.
    Rebuild { why: String, moved_to: PathBuf },
}

impl Embedded {
    /// Opens the index in `dir`. `journal_next` is the number that the journal's next record will get.
    pub fn open(dir: &Path, journal_next: u64) -> Result<(Self, Opened), CatalogError> {
        let existed = dir.join("db").exists();
        let why = match open_store(dir) {
            Ok(store) if !existed => return Ok((store, Opened::New)),
            Ok(store) => match store.check(journal_next) {
                None => return Ok((store, Opened::Continued)),
                Some(why) => why,
            },
            Err(why) if existed => why,
            Err(why) => return Err(engine("opened")(std::io::Error::other(why))),
        };
        let moved_to = move_aside(dir).map_err(engine("moved aside"))?;
        let store = open_store(dir).map_err(|why| engine("opened")(std::io::Error::other(why)))?;
        Ok((store, Opened::Rebuild { why, moved_to }))
    }

    /// Writes what is in memory to disk. Derived data: what a crash loses is applied again.
    pub fn flush(&self) -> Result<(), CatalogError> {
        self.db.flush().map(drop).map_err(engine("flushed"))
    }

    /// Every entry, by key: for the proof that a rebuilt index equals the old one.
    pub fn dump(&self, mut entry: impl FnMut(&[u8], &[u8])) -> Result<(), CatalogError> {
        for item in &self.tree {
            let (key, value) = item.map_err(engine("read"))?;
            entry(&key, &value);
        }
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }

    fn check(&self, journal_next: u64) -> Option<String> {
        let applied = self.applied();
        match self.tree.get(version_key()) {
            Err(error) => Some(error.to_string()),
            Ok(None) => Some("it is unexpectedly empty".into()),
            Ok(Some(version)) if version.as_ref() != [VERSION] => {
                Some(format!("it has version {version:?}, this is version {VERSION}"))
            }
            Ok(Some(_)) if applied > journal_next => {
                Some(format!("it stands at record {applied}, the journal ends at {journal_next}"))
            }
            Ok(Some(_)) => None,
        }
    }
}

fn open_store(dir: &Path) -> Result<Embedded, String> {
    let existed = dir.join("db").exists();
    let open = || {
        let config = sled::Config::new().path(dir).cache_capacity(INDEX_CACHE_BYTES);
        // A store that was just closed may hold its lock a moment longer.
        let mut tries = 0;
        loop {
            match config.open() {
                Err(sled::Error::Io(error)) if tries < 20 && error.to_string().contains("lock") => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
    };
    let db = catch_unwind(AssertUnwindSafe(open))
        .map_err(|panic| format!("sled panicked: {}", panic_text(&panic)))?
        .map_err(|error| error.to_string())?;
    let read = || -> Result<(sled::Tree, u64), String> {
        let tree = db.open_tree("index").map_err(|e| e.to_string())?;
        if !existed {
            tree.insert(version_key(), &[VERSION]).map_err(|e| e.to_string())?;
        }
        let applied = match tree.get(applied_key()).map_err(|e| e.to_string())? {
            Some(bytes) => u64::from_be_bytes(bytes.as_ref().try_into().map_err(|_| "bad position")?),
            None => 0,
        };
        Ok((tree, applied))
    };
    let (tree, applied) = catch_unwind(AssertUnwindSafe(read))
        .map_err(|panic| format!("sled panicked: {}", panic_text(&panic)))??;
    Ok(Embedded { db, tree, applied: AtomicU64::new(applied), writer: Mutex::new(()) })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Keeps the newest one aside for whoever wants to look, and no more.
fn move_aside(dir: &Path) -> std::io::Result<PathBuf> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".aside");
    let aside = dir.with_file_name(name);
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::rename(dir, &aside)?;
    Ok(aside)
}

fn engine<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl Fn(E) -> CatalogError {
    move |source| CatalogError::Engine { what, source: source.into() }
}

// --- keys ---

struct Key(Vec<u8>);

impl Key {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }
    fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }
    fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    fn time(self, us: i64) -> Self {
        self.number(us as u64 ^ (1 << 63))
    }
    fn uuid(mut self, id: Uuid) -> Self {
        self.0.extend_from_slice(id.as_bytes());
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

fn version_key() -> Vec<u8> {
    Key::new(kind::META).text("version").0
}
fn applied_key() -> Vec<u8> {
    Key::new(kind::META).text("applied").0
}
fn event_key(box_id: &BoxId, epoch: Epoch, sequence: u64) -> Vec<u8> {
    Key::new(kind::EVENT).text(box_id.as_str()).number(epoch.0).number(sequence).0
}
fn clip_key(device: &DeviceId, key: ClipKey) -> Vec<u8> {
    Key::new(kind::CLIP).text(device.as_str()).time(key.start_us).uuid(key.clip).0
}
fn stored_key(sha256: &Sha256Hash) -> Vec<u8> {
    Key::new(kind::STORED).bytes(&sha256.0).0
}

/// The big-endian number at the end of a key.
fn last_number(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
fn time_of(number: u64) -> i64 {
    (number ^ (1 << 63)) as i64
}

// --- values ---

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("stored values have only types that postcard knows")
}

fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, CatalogError> {
    let corrupt = |why: String| CatalogError::Corrupt { key: key.escape_ascii().to_string(), why };
    match value.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| corrupt(e.to_string())),
        Some((version, _)) => Err(corrupt(format!("value version {version}"))),
        None => Err(corrupt("no value".into())),
    }
}

#[derive(Serialize, Deserialize)]
struct EventValue {
    position: u64,
    id: Uuid,
    device: Option<DeviceId>,
    kind: String,
    time: Time,
    placed_us: i64,
    by_arrival: bool,
    received: Time,
    conflict: bool,
    json_bytes: u32,
}

#[derive(Serialize, Deserialize)]
struct EventPointer {
    kind: String,
    key: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct ClipValue {
    device: DeviceId,
    box_id: BoxId,
    received: Time,
    clock: ClockValue,
    start: Time,
    end: Time,
    motion_start: Option<Time>,
    motion_end: Option<Time>,
    peak_score: f64,
    bytes: u64,
    sha256: [u8; 32],
    video: Video,
    thumbnail: Option<([u8; 32], u64, Time)>,
    run: Uuid,
    first_fragment: u64,
    fragments: u64,
    placed_start: Time,
    placed_end: Time,
    basis: Basis,
}

#[derive(Serialize, Deserialize)]
struct ClockValue {
    source: ClockSource,
    sync: SyncState,
    offset_ms: Option<i64>,
    uncertainty_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct SpanValue {
    box_id: BoxId,
    received: Time,
    epoch: Epoch,
    sequence: u64,
    cause: Option<GapCause>,
    start: Time,
    upto: Time,
    open: bool,
    merkle_root: Option<[u8; 32]>,
    ring_from: Option<Time>,
}

#[derive(Serialize, Deserialize, Default, PartialEq, Clone, Copy)]
struct DeviceValue {
    clip_us_max: i64,
    span_us_max: i64,
}

#[derive(Serialize, Deserialize, Default)]
struct EpochValue {
    last_seen: Time,
    upto: u64,
    /// Sequences that came, well or refused.
    handed_over: u64,
    refused: u64,
    conflicts: u64,
}

#[derive(Serialize, Deserialize)]
struct RefusedValue {
    box_id: BoxId,
    received: Time,
    reason: String,
    detail: String,
    epoch: Option<Epoch>,
    sequence: Option<u64>,
    body: Vec<u8>,
    body_bytes: u64,
}

// --- writing ---

/// A batch that reads its own writes.
struct Pending<'a> {
    tree: &'a sled::Tree,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Pending<'_> {
    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, CatalogError> {
        match self.writes.get(key) {
            Some(Some(value)) => decode(key, value).map(Some),
            Some(None) => Ok(None),
            None => get(self.tree, key),
        }
    }

    fn has(&self, key: &[u8]) -> Result<bool, CatalogError> {
        match self.writes.get(key) {
            Some(write) => Ok(write.is_some()),
            None => self.tree.contains_key(key).map_err(engine("read")),
        }
    }

    fn put<T: Serialize>(&mut self, key: Vec<u8>, value: &T) {
        self.writes.insert(key, Some(encode(value)));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// Keys from `low` to `high`, both included.
    fn keys(&self, low: Vec<u8>, high: Vec<u8>) -> Result<Vec<Vec<u8>>, CatalogError> {
        let mut keys = BTreeSet::new();
        for key in self.tree.range(low.clone()..=high.clone()).keys() {
            keys.insert(key.map_err(engine("read"))?.to_vec());
        }
        for (key, write) in self.writes.range(low..=high) {
            if write.is_some() {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        Ok(keys.into_iter().collect())
    }

    fn record(&mut self, position: u64, record: &HubRecord) -> Result<(), CatalogError> {
        match record {
            HubRecord::Event(arrived) => self.event(position, arrived),
            HubRecord::Refused { box_id, received, reason, detail, epoch, sequence, body } => self.refused(
                position,
                RefusedValue {
                    box_id: box_id.clone(),
                    received: *received,
                    reason: reason.clone(),
                    detail: detail.clone(),
                    epoch: *epoch,
                    sequence: *sequence,
                    body_bytes: body.len() as u64,
                    body: body.clone(),
                },
            ),
            HubRecord::Stored(file) => {
                let key = stored_key(&file.sha256);
                if !self.has(&key)? {
                    self.put(key, file);
                }
                self.seen(&file.box_id, file.received)
            }
        }
    }

    fn seen(&mut self, box_id: &BoxId, received: Time) -> Result<(), CatalogError> {
        let key = Key::new(kind::BOX).text(box_id.as_str()).0;
        let known: Option<Time> = self.get(&key)?;
        if known.is_none_or(|known| known < received) {
            self.put(key, &received);
        }
        Ok(())
    }

    fn epoch(
        &mut self,
        box_id: &BoxId,
        epoch: Epoch,
        received: Time,
        change: impl FnOnce(&mut EpochValue),
    ) -> Result<(), CatalogError> {
        let key = Key::new(kind::EPOCH).text(box_id.as_str()).number(epoch.0).0;
        let mut value: EpochValue = self.get(&key)?.unwrap_or_default();
        value.last_seen = value.last_seen.max(received);
        change(&mut value);
        self.put(key, &value);
        Ok(())
    }

    fn refused(&mut self, position: u64, mut value: RefusedValue) -> Result<(), CatalogError> {
        value.body.truncate(REFUSED_BODY_BYTES);
        value.detail = value.detail.chars().take(1000).collect();
        let box_id = value.box_id.clone();
        self.seen(&box_id, value.received)?;
        let count_key = Key::new(kind::REFUSED_COUNT).text(box_id.as_str()).text(&value.reason).0;
        let count: u64 = self.get(&count_key)?.unwrap_or(0);
        self.put(count_key, &(count + 1));
        if let (Some(epoch), Some(sequence)) = (value.epoch, value.sequence) {
            let mark =
                Key::new(kind::REFUSED_SEQUENCE).text(box_id.as_str()).number(epoch.0).number(sequence).0;
            let is_new = !self.has(&mark)? && !self.has(&event_key(&box_id, epoch, sequence))?;
            self.put(mark, &());
            self.epoch(&box_id, epoch, value.received, |e| {
                e.upto = e.upto.max(sequence);
                e.handed_over += u64::from(is_new);
                e.refused += 1;
            })?;
        }
        self.put(Key::new(kind::REFUSED_BY_BOX).text(box_id.as_str()).number(position).0, &());
        self.put(Key::new(kind::REFUSED).number(position).0, &value);
        Ok(())
    }

    fn event(&mut self, position: u64, arrived: &Arrived) -> Result<(), CatalogError> {
        let Arrived { received, conflict, event, json, .. } = arrived;
        let (received, conflict) = (*received, *conflict);
        let (box_id, device) = (&event.source.box_id, event.source.device.as_ref());
        self.seen(box_id, received)?;
        let mut key = event_key(box_id, event.epoch, event.sequence);
        let known: Option<EventValue> = self.get(&key)?;
        let is_conflict = conflict || known.as_ref().is_some_and(|known| known.id != event.id);
        if known.as_ref().is_some_and(|known| known.id == event.id) {
            return Ok(());
        }
        if known.is_some() {
            key.extend_from_slice(event.id.as_bytes());
            if self.has(&key)? {
                return Ok(());
            }
        }
        let mark = Key::new(kind::REFUSED_SEQUENCE)
            .text(box_id.as_str())
            .number(event.epoch.0)
            .number(event.sequence);
        let is_new = known.is_none() && !self.has(&mark.0)?;
        self.epoch(box_id, event.epoch, received, |e| {
            e.upto = e.upto.max(event.sequence);
            e.handed_over += u64::from(is_new);
            e.conflicts += u64::from(is_conflict);
        })?;
        let (placed, _, basis) = place_in_time(event.time, event.time, device, &[], received);
        let value = EventValue {
            position,
            id: event.id,
            device: device.cloned(),
            kind: wire::event_type(&event.data).to_owned(),
            time: event.time,
            placed_us: placed.as_microsecond(),
            by_arrival: basis == Basis::Arrival,
            received,
            conflict: is_conflict,
            json_bytes: json.len() as u32,
        };
        self.put_event(&key, box_id, &value, json);
        if let Some(device) = device {
            self.put(Key::new(kind::DEVICE_BOX).text(device.as_str()).text(box_id.as_str()).0, &());
        }
        match (&event.data, device) {
            (EventData::Clip(cut), Some(device)) => self.clip(device, event, received, cut),
            (EventData::Coverage(coverage), Some(device)) => self.span(device, event, received, coverage),
            (EventData::Clock(c), _) => {
                let correction = Correction {
                    device: device.cloned(),
                    from: c.from,
                    upto: c.upto,
                    correction_ms: c.correction_ms,
                    uncertainty_ms: c.uncertainty_ms,
                };
                self.correction(position, box_id, correction)
            }
            _ => Ok(()),
        }
    }

    fn put_event(&mut self, key: &[u8], box_id: &BoxId, value: &EventValue, json: &[u8]) {
        let pointer = EventPointer { kind: value.kind.clone(), key: key.to_vec() };
        let device = value.device.as_ref().map_or("", DeviceId::as_str);
        let by_time = Key::new(kind::EVENT_BY_TIME).time(value.placed_us).number(value.position).0;
        let by_source = source_prefix(box_id, device).time(value.placed_us).number(value.position).0;
        self.put(by_time, &pointer);
        self.put(by_source, &pointer);
        self.put(key.to_vec(), value);
        for (n, chunk) in json.chunks(CHUNK_BYTES).enumerate() {
            let key = Key::new(kind::JSON).number(value.position).number(n as u64).0;
            self.writes.insert(key, Some(chunk.to_vec()));
        }
    }

    fn clip(
        &mut self,
        device: &DeviceId,
        event: &Event,
        received: Time,
        cut: &ClipCut,
    ) -> Result<(), CatalogError> {
        let by_id = Key::new(kind::CLIP_BY_ID).uuid(cut.clip).0;
        if self.has(&by_id)? {
            return Ok(());
        }
        let box_id = event.source.box_id.clone();
        let corrections = self.corrections(&box_id)?;
        let (placed_start, placed_end, basis) =
            place_in_time(cut.start, cut.end, Some(device), &corrections, received);
        let recorded =
            Key::new(kind::CLIP_AS_RECORDED).text(box_id.as_str()).time(cut.start.as_microsecond());
        self.put(recorded.uuid(cut.clip).0, &());
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
            thumbnail: cut.thumbnail.as_ref().map(|t| (t.sha256.0, t.bytes, t.time)),
            run: cut.run,
            first_fragment: cut.first_fragment,
            fragments: cut.fragments.len() as u64,
            placed_start,
            placed_end,
            basis,
        };
        self.put_clip(cut.clip, &value)
    }

    fn put_clip(&mut self, clip: Uuid, value: &ClipValue) -> Result<(), CatalogError> {
        let start_us = value.placed_start.as_microsecond();
        let length_us = value.placed_end.as_microsecond() - start_us;
        self.device(&value.device, |d| d.clip_us_max = d.clip_us_max.max(length_us + 1))?;
        let key = clip_key(&value.device, ClipKey { start_us, clip });
        self.put(Key::new(kind::CLIP_BY_ID).uuid(clip).0, &key);
        self.put(key, value);
        Ok(())
    }

    fn device(
        &mut self,
        device: &DeviceId,
        change: impl FnOnce(&mut DeviceValue),
    ) -> Result<(), CatalogError> {
        let key = Key::new(kind::DEVICE).text(device.as_str()).0;
        let known: DeviceValue = self.get(&key)?.unwrap_or_default();
        let mut value = known;
        change(&mut value);
        if value != known {
            self.put(key, &value);
        }
        Ok(())
    }

    fn corrections(&self, box_id: &BoxId) -> Result<Vec<Correction>, CatalogError> {
        let prefix = Key::new(kind::CORRECTION).text(box_id.as_str());
        let high = Key(prefix.0.clone()).number(u64::MAX).0;
        let keys = self.keys(prefix.0, high)?;
        let newest = keys.len().saturating_sub(INDEX_CORRECTIONS_MAX);
        keys[newest..].iter().filter_map(|key| self.get(key).transpose()).collect()
    }

    /// Keeps the correction and places anew the clips that were recorded in its span.
    fn correction(
        &mut self,
        position: u64,
        box_id: &BoxId,
        correction: Correction,
    ) -> Result<(), CatalogError> {
        self.put(Key::new(kind::CORRECTION).text(box_id.as_str()).number(position).0, &correction);
        let corrections = self.corrections(box_id)?;
        let recorded = |us: i64| Key::new(kind::CLIP_AS_RECORDED).text(box_id.as_str()).time(us);
        let low = recorded(correction.from.as_microsecond()).uuid(Uuid::nil()).0;
        let high = recorded(correction.upto.as_microsecond()).uuid(Uuid::max()).0;
        for key in self.keys(low, high)? {
            let clip = Uuid::from_bytes(*key.last_chunk().expect("the key ends with the clip's id"));
            let Some(old_key) = self.get::<Vec<u8>>(&Key::new(kind::CLIP_BY_ID).uuid(clip).0)? else {
                continue;
            };
            let Some(mut value) = self.get::<ClipValue>(&old_key)? else { continue };
            (value.placed_start, value.placed_end, value.basis) =
                place_in_time(value.start, value.end, Some(&value.device), &corrections, value.received);
            self.remove(old_key);
            self.put_clip(clip, &value)?;
        }
        Ok(())
    }

    fn span(
        &mut self,
        device: &DeviceId,
        event: &Event,
        received: Time,
        coverage: &Coverage,
    ) -> Result<(), CatalogError> {
        let by_id = Key::new(kind::SPAN_BY_ID).text(device.as_str()).uuid(coverage.span).0;
        if let Some(old_key) = self.get::<Vec<u8>>(&by_id)? {
            if let Some(old) = self.get::<SpanValue>(&old_key)?
                && !is_later(event, coverage, &old)
            {
                return Ok(());
            }
            self.remove(old_key);
        }
        let (start, upto, _) = place_in_time(coverage.start, coverage.upto, Some(device), &[], received);
        let length_us = upto.as_microsecond() - start.as_microsecond();
        self.device(device, |d| d.span_us_max = d.span_us_max.max(length_us + 1))?;
        let key =
            Key::new(kind::SPAN).text(device.as_str()).time(start.as_microsecond()).uuid(coverage.span).0;
        let value = SpanValue {
            box_id: event.source.box_id.clone(),
            received,
            epoch: event.epoch,
            sequence: event.sequence,
            cause: coverage.cause(),
            start: coverage.start,
            upto: coverage.upto,
            open: coverage.open,
            merkle_root: coverage.run.map(|run| run.merkle_root.0),
            ring_from: coverage.ring_from,
        };
        self.put(by_id, &key);
        self.put(key, &value);
        Ok(())
    }
}

/// A report replaces an earlier one, in whatever order they arrive.
fn is_later(event: &Event, coverage: &Coverage, old: &SpanValue) -> bool {
    if event.epoch == old.epoch {
        return event.sequence > old.sequence;
    }
    (coverage.upto, !coverage.open) > (old.upto, !old.open)
}

fn source_prefix(box_id: &BoxId, device: &str) -> Key {
    Key::new(kind::EVENT_BY_SOURCE).text(box_id.as_str()).text(device)
}

// --- reading ---

fn get<T: DeserializeOwned>(tree: &sled::Tree, key: &[u8]) -> Result<Option<T>, CatalogError> {
    match tree.get(key).map_err(engine("read"))? {
        Some(value) => decode(key, &value).map(Some),
        None => Ok(None),
    }
}

type Entry = Result<(sled::IVec, sled::IVec), CatalogError>;
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl Embedded {
    fn scan(&self, (low, high): Bounds, order: Order) -> Box<dyn Iterator<Item = Entry> + '_> {
        // sled panics on a range that ends before it begins.
        if let (Bound::Included(l) | Bound::Excluded(l), Bound::Included(h) | Bound::Excluded(h)) =
            (&low, &high)
            && l >= h
            && !(l == h && matches!((&low, &high), (Bound::Included(_), Bound::Included(_))))
        {
            return Box::new(std::iter::empty());
        }
        let range = self.tree.range((low, high)).map(|item| item.map_err(engine("read")));
        match order {
            Order::Oldest => Box::new(range),
            Order::Newest => Box::new(range.rev()),
        }
    }

    fn prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Entry> + '_ {
        self.tree.scan_prefix(prefix).map(|item| item.map_err(engine("read")))
    }

    fn row(&self, clip: Uuid, value: ClipValue) -> Result<ClipRow, CatalogError> {
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
        let has = |sha: &Sha256Hash| self.tree.contains_key(stored_key(sha)).map_err(engine("read"));
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
            run: value.run,
            first_fragment: value.first_fragment,
            fragments: value.fragments,
            stored: has(&sha256)?,
            thumbnail_stored: thumbnail.as_ref().map_or(Ok(false), |t| has(&t.sha256))?,
            thumbnail,
        })
    }

    fn corrections_of(&self, device: &DeviceId) -> Result<BTreeMap<BoxId, Vec<Correction>>, CatalogError> {
        let mut all = BTreeMap::new();
        let pending = Pending { tree: &self.tree, writes: BTreeMap::new() };
        for box_id in self.boxes_of(device)? {
            let corrections = pending.corrections(&box_id)?;
            if !corrections.is_empty() {
                all.insert(box_id, corrections);
            }
        }
        Ok(all)
    }

    /// Boxes that ever spoke about the device.
    fn boxes_of(&self, device: &DeviceId) -> Result<Vec<BoxId>, CatalogError> {
        let prefix = Key::new(kind::DEVICE_BOX).text(device.as_str()).0;
        let mut boxes = Vec::new();
        for item in self.prefix(&prefix) {
            let (key, _) = item?;
            let text = std::str::from_utf8(&key[prefix.len()..key.len() - 1]).ok();
            boxes.extend(text.and_then(|t| BoxId::new(t).ok()));
        }
        Ok(boxes)
    }

    /// The lists of events, each by time, that together hold what the query asks for.
    fn event_lists(&self, query: &EventQuery) -> Result<Vec<Vec<u8>>, CatalogError> {
        if let Some(device) = &query.device {
            let boxes = match &query.box_id {
                Some(box_id) => vec![box_id.clone()],
                None => self.boxes_of(device)?,
            };
            return Ok(boxes.iter().map(|b| source_prefix(b, device.as_str()).0).collect());
        }
        let Some(box_id) = &query.box_id else {
            return Ok(vec![vec![kind::EVENT_BY_TIME]]);
        };
        // Skip from one device of the box to the next: one seek each.
        let mut lists = Vec::new();
        let all = Key::new(kind::EVENT_BY_SOURCE).text(box_id.as_str()).0;
        let mut from = all.clone();
        while let Some(item) = self.tree.range(from.clone()..).next() {
            let (key, _) = item.map_err(engine("read"))?;
            if !key.starts_with(&all) {
                break;
            }
            let Some(end) = key[all.len()..].iter().position(|&b| b == 0) else { break };
            let list = key[..all.len() + end + 1].to_vec();
            from = Key(list.clone()).number(u64::MAX).number(u64::MAX).bytes(&[0xff]).0;
            lists.push(list);
        }
        Ok(lists)
    }

    fn event_row(&self, pointer: &EventPointer) -> Result<Option<EventRow>, CatalogError> {
        let key = &pointer.key;
        let Some(value) = get::<EventValue>(&self.tree, key)? else { return Ok(None) };
        let corrupt =
            |why: &str| CatalogError::Corrupt { key: key.escape_ascii().to_string(), why: why.into() };
        let end = key.iter().position(|&b| b == 0).ok_or_else(|| corrupt("no box"))?;
        let box_id = std::str::from_utf8(&key[1..end]).ok().and_then(|t| BoxId::new(t).ok());
        let numbers = key.get(end + 1..end + 17).ok_or_else(|| corrupt("no sequence"))?;
        let mut json = Vec::with_capacity(value.json_bytes as usize);
        for item in self.prefix(&Key::new(kind::JSON).number(value.position).0) {
            json.extend_from_slice(&item?.1);
        }
        Ok(Some(EventRow {
            key: EventKey { time_us: value.placed_us, position: value.position },
            id: value.id,
            box_id: box_id.ok_or_else(|| corrupt("no box"))?,
            device: value.device,
            epoch: Epoch(last_number(&numbers[..8])),
            sequence: last_number(numbers),
            kind: value.kind,
            time: value.time,
            received: value.received,
            by_arrival: value.by_arrival,
            conflict: value.conflict,
            json,
        }))
    }
}

fn event_bounds(list: &[u8], query: &EventQuery) -> Bounds {
    let at = |us: i64, position: u64| Key(list.to_vec()).time(us).number(position).0;
    let low = Bound::Included(at(query.range.from.as_microsecond(), 0));
    let high = Bound::Included(at(query.range.to.as_microsecond(), u64::MAX));
    match (query.after, query.order) {
        (None, _) => (low, high),
        (Some(after), Order::Oldest) => (Bound::Excluded(at(after.time_us, after.position)), high),
        (Some(after), Order::Newest) => (low, Bound::Excluded(at(after.time_us, after.position))),
    }
}

impl Catalog for Embedded {
    fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn apply(&self, from: u64, records: &[HubRecord]) -> Result<(), CatalogError> {
        let _writer = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let applied = self.applied();
        if from != applied {
            return Err(CatalogError::Position { applied, from });
        }
        let mut pending = Pending { tree: &self.tree, writes: BTreeMap::new() };
        for (position, record) in (from..).zip(records) {
            pending.record(position, record)?;
        }
        let next = from + records.len() as u64;
        let mut batch = sled::Batch::default();
        for (key, value) in pending.writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch.insert(applied_key(), &next.to_be_bytes());
        self.tree.apply_batch(batch).map_err(engine("written"))?;
        self.applied.store(next, Ordering::Release);
        Ok(())
    }

    fn clips(
        &self,
        device: &DeviceId,
        range: TimeRange,
        order: Order,
        after: Option<ClipKey>,
        limit: usize,
    ) -> Result<Vec<ClipRow>, CatalogError> {
        let stats: DeviceValue =
            get(&self.tree, &Key::new(kind::DEVICE).text(device.as_str()).0)?.unwrap_or_default();
        let first = range.from.as_microsecond().saturating_sub(stats.clip_us_max);
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
        for item in self.scan(bounds, order) {
            if rows.len() >= limit {
                break;
            }
            let (key, value) = item?;
            let value: ClipValue = decode(&key, &value)?;
            if range.overlaps(value.placed_start, value.placed_end) {
                let clip = Uuid::from_bytes(*key.last_chunk().expect("the key ends with the clip's id"));
                rows.push(self.row(clip, value)?);
            }
        }
        Ok(rows)
    }

    fn clip(&self, clip: Uuid) -> Result<Option<ClipRow>, CatalogError> {
        // A correction may move the clip between the two reads.
        for _ in 0..3 {
            let Some(key) = get::<Vec<u8>>(&self.tree, &Key::new(kind::CLIP_BY_ID).uuid(clip).0)? else {
                return Ok(None);
            };
            if let Some(value) = get(&self.tree, &key)? {
                return self.row(clip, value).map(Some);
            }
        }
        Ok(None)
    }

    fn coverage(&self, device: &DeviceId, range: TimeRange) -> Result<Vec<CoverageSpan>, CatalogError> {
        let stats: DeviceValue =
            get(&self.tree, &Key::new(kind::DEVICE).text(device.as_str()).0)?.unwrap_or_default();
        let corrections = self.corrections_of(device)?;
        let shift_us = corrections.values().flatten().map(|c| c.correction_ms.saturating_abs()).max();
        let shift_us = shift_us.unwrap_or(0).saturating_mul(1000);
        let at = |us: i64, span: Uuid| Key::new(kind::SPAN).text(device.as_str()).time(us).uuid(span).0;
        let first = range.from.as_microsecond().saturating_sub(stats.span_us_max).saturating_sub(shift_us);
        let last = range.to.as_microsecond().saturating_add(shift_us);
        let bounds = (Bound::Included(at(first, Uuid::nil())), Bound::Included(at(last, Uuid::max())));
        let mut spans = Vec::new();
        for item in self.scan(bounds, Order::Newest).take(INDEX_SCAN_MAX) {
            let (key, value) = item?;
            let value: SpanValue = decode(&key, &value)?;
            let of_box = corrections.get(&value.box_id).map_or(&[][..], Vec::as_slice);
            let (start, end, _) =
                place_in_time(value.start, value.upto, Some(device), of_box, value.received);
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

    fn events(&self, query: &EventQuery) -> Result<EventPage, CatalogError> {
        let lists = self.event_lists(query)?;
        let mut heads: Vec<_> = Vec::with_capacity(lists.len());
        for list in &lists {
            heads.push(self.scan(event_bounds(list, query), query.order).peekable());
        }
        let mut page = EventPage { events: Vec::new(), next: None };
        let mut last = None;
        for _ in 0..INDEX_SCAN_MAX {
            let mut best: Option<(EventKey, usize)> = None;
            for (n, head) in heads.iter_mut().enumerate() {
                let Some(item) = head.peek() else { continue };
                let Ok((key, _)) = item else {
                    best = Some((EventKey { time_us: 0, position: 0 }, n));
                    break;
                };
                let at = EventKey {
                    time_us: time_of(last_number(&key[..key.len() - 8])),
                    position: last_number(key),
                };
                let is_better = best.is_none_or(|(b, _)| match query.order {
                    Order::Newest => at > b,
                    Order::Oldest => at < b,
                });
                if is_better {
                    best = Some((at, n));
                }
            }
            let Some((at, n)) = best else { return Ok(page) };
            if page.events.len() >= query.limit {
                break;
            }
            let (key, value) = heads[n].next().expect("peeked above")?;
            let pointer: EventPointer = decode(&key, &value)?;
            last = Some(at);
            if query.kind.as_ref().is_none_or(|kind| *kind == pointer.kind) {
                page.events.extend(self.event_row(&pointer)?);
            }
        }
        page.next = last;
        Ok(page)
    }

    fn refused(&self, query: &RefusedQuery) -> Result<RefusedPage, CatalogError> {
        let prefix = match &query.box_id {
            Some(box_id) => Key::new(kind::REFUSED_BY_BOX).text(box_id.as_str()).0,
            None => vec![kind::REFUSED],
        };
        let low = Key(prefix.clone()).number(0).0;
        let high = Key(prefix).number(query.before.unwrap_or(u64::MAX)).0;
        let mut page = RefusedPage { rows: Vec::new(), next: None };
        for (scanned, item) in self.tree.range(low..high).rev().enumerate() {
            let (key, _) = item.map_err(engine("read"))?;
            let position = last_number(&key);
            if page.rows.len() == query.limit || scanned == INDEX_SCAN_MAX {
                page.next = Some(position + 1);
                break;
            }
            let Some(value) = get::<RefusedValue>(&self.tree, &Key::new(kind::REFUSED).number(position).0)?
            else {
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

    fn refused_counts(&self) -> Result<Vec<RefusedCount>, CatalogError> {
        let mut counts = Vec::new();
        for item in self.prefix(&[kind::REFUSED_COUNT]) {
            let (key, value) = item?;
            let mut texts = key[1..].split(|&b| b == 0).filter_map(|t| std::str::from_utf8(t).ok());
            let (Some(box_id), Some(reason)) = (texts.next(), texts.next()) else { continue };
            let Ok(box_id) = BoxId::new(box_id) else { continue };
            counts.push(RefusedCount { box_id, reason: reason.into(), count: decode(&key, &value)? });
        }
        Ok(counts)
    }

    fn boxes(&self) -> Result<Vec<BoxRow>, CatalogError> {
        let mut boxes = Vec::new();
        for item in self.prefix(&[kind::BOX]) {
            let (key, value) = item?;
            let text = std::str::from_utf8(&key[1..key.len() - 1]).unwrap_or_default();
            let Ok(box_id) = BoxId::new(text) else { continue };
            let mut epochs = Vec::new();
            for item in self.prefix(&Key::new(kind::EPOCH).text(text).0) {
                let (key, value) = item?;
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
            epochs.sort_by_key(|e| (std::cmp::Reverse(e.last_seen), e.epoch));
            boxes.push(BoxRow { box_id, last_seen: decode(&key, &value)?, epochs });
        }
        Ok(boxes)
    }

    fn stored(&self, sha256: &Sha256Hash) -> Result<Option<StoredFile>, CatalogError> {
        get(&self.tree, &stored_key(sha256))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "index not flushed, its tail will be applied again");
        }
    }
}

#[cfg(test)]
mod tests;
