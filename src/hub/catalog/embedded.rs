//! The embedded catalog: sled 0.34, one tree, derived data only, beside the hub's journal. Only this folder names
//! sled.
//!
//! **What does not change is not a key.** The records of the journal are cut into *runs* of [`INDEX_RUN_RECORDS`]
//! positions. The open run lives in memory (`state.rs`): compact rows of events, uploads, and keys for the rest
//! (clips, spans, corrections, refused). When it is full, it is sealed (`seal.rs`): rows of events, clips, closed spans and
//! uploads become compressed blocks by camera and time, appended to the file of the day (`day_files.rs`); what may
//! still change (open spans, what a clock's correction moved, counts) goes into the store, with the new position, in
//! one batch. A directory of all blocks is in memory (`directory.rs`), so a question opens only what may answer it
//! (`clips.rs`, `events.rs`, `packed.rs`). An event itself is not kept: a page of them is read from the journal by
//! position (`originals.rs`).
//!
//! **Nobody waits for the writer.** Blocks never change. What a question needs of the open run it takes in one go,
//! and reads the closed runs behind that without a lock.
//!
//! **What is on disk depends on the journal alone**, not on batches, restarts or time: a run ends at a record that
//! only the records decide. So a rebuilt index is equal byte for byte. A crash loses the open run, and the hub
//! applies it again from the journal, which takes some seconds.
//!
//! **Periods.** Keys of runs begin with the day (UTC) of the run's latest arrival, and so do their files, so that a
//! whole day can be dropped.
//!
//! What sled does and does not promise was measured (design, section 6); hence: one tree, so that a run and the
//! position it reaches are one atomic write; its file is synced after each run, and the day's before; a panic at open
//! is caught; a store that is unexpectedly empty, of another version, has a hole, or is ahead of the journal is moved
//! aside and built anew; values stay below 64 KiB. May not hold anything that the journal does not.

mod block;
mod clip_block;
mod clips;
mod columns;
mod day_files;
mod directory;
mod events;
mod id_block;
mod keys;
mod originals;
mod packed;
mod packing;
mod reads;
mod seal;
mod sources;
mod span_block;
mod state;
mod values;
mod view;
mod write;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LockResult, Mutex, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    Basis, BoxRow, Buckets, Catalog, CatalogError, ClipKey, ClipQuery, ClipRow, Correction, EpochRow,
    EventKey, EventPage, EventQuery, EventRow, Order, RefusedCount, RefusedPage, RefusedQuery, RefusedRow,
    TimeRange, lay_out, place_in_time,
};
use crate::hub::truth::{HubRecord, TruthRecords};
use crate::limits::{INDEX_CACHE_BYTES, INDEX_RUN_RECORDS, INDEX_SCAN_MAX, INDEX_SETTLE_TRIES};
use crate::model::{BoxId, CoverageSpan, DeviceId, Sha256Hash, Time};
use clips::ClipSearch;
use day_files::DayFiles;
use directory::{Run, Runs};
use events::EventSearch;
use keys::{applied_key, device_of, first_text, id_of, kind, run_key, span_id_key, version_key};
use packed::{Moved, Packed, upload};
use reads::Account;
use seal::{Sealed, seal};
use sources::Sources;
use span_block::SpanEntry;
use state::{Kept, Known, State};
use values::{DeviceValue, RunValue, SourceValue, SpanValue, decode, encode};
use view::{Layer, NOTHING, View};
use write::{Changes, Pending};

/// Version of keys, values and blocks. Another one is not read but built anew.
const VERSION: u8 = 7;

/// The index on this machine's disk.
pub struct Embedded {
    db: sled::Db,
    tree: sled::Tree,
    file: PathBuf,
    files: DayFiles,
    truth: TruthRecords,
    sizes: Sizes,
    applied: AtomicU64,
    /// Held while records are applied: one writer at a time.
    writer: Mutex<()>,
    /// The open run. Written only for moments; a question may hold it for reading while it is answered.
    state: RwLock<State>,
    sources: RwLock<Sources>,
}

/// What limits an index.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Records of one run.
    pub run_records: u64,
    /// Rows that one page of events may touch.
    pub scan_rows: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { run_records: INDEX_RUN_RECORDS, scan_rows: INDEX_SCAN_MAX }
    }
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
    /// Opens the index in `dir` of `truth`. `journal_next` is the number that its next record will get.
    pub fn open(dir: &Path, truth: &TruthRecords, journal_next: u64) -> Result<(Self, Opened), CatalogError> {
        Self::open_with(dir, truth, journal_next, Sizes::default())
    }

    /// As [`Embedded::open`], with other sizes.
    pub fn open_with(
        dir: &Path,
        truth: &TruthRecords,
        journal_next: u64,
        sizes: Sizes,
    ) -> Result<(Self, Opened), CatalogError> {
        let open = || open_store(dir, truth, sizes);
        let existed = dir.join("db").exists();
        let why = match open() {
            Ok(store) if !existed => return Ok((store, Opened::New)),
            Ok(store) => match store.check(journal_next) {
                None => return Ok((store, Opened::Continued)),
                Some(why) => why,
            },
            Err(why) if existed => why,
            Err(why) => return Err(engine("opened")(std::io::Error::other(why))),
        };
        let moved_to = move_aside(dir).map_err(engine("moved aside"))?;
        let store = open().map_err(|why| engine("opened")(std::io::Error::other(why)))?;
        Ok((store, Opened::Rebuild { why, moved_to }))
    }

    /// Makes the closed runs safe on disk. Derived data: what a crash loses is applied again.
    pub fn flush(&self) -> Result<(), CatalogError> {
        self.db.flush().map_err(engine("flushed"))?;
        // sled's own flush ends in sync_file_range, which a power cut does not respect.
        File::open(&self.file).and_then(|file| file.sync_data()).map_err(engine("flushed"))
    }

    /// Position up to which the index is on disk; what was applied beyond it is in memory.
    pub fn stored_upto(&self) -> u64 {
        self.state().start
    }

    /// Every entry by key, the open run's too: for the proof that a rebuilt index equals the old one.
    pub fn dump(&self, mut entry: impl FnMut(&[u8], &[u8])) -> Result<(), CatalogError> {
        let state = self.state();
        let sources = self.sources();
        let mut extra = state.epoch_writes(&sources);
        extra.extend(state.device_writes());
        extra.extend(state.source_writes());
        extra.extend(sources.entries(0).map(|(key, value)| (key, Some(value))));
        let view = View { tree: &self.tree, layers: [&extra, &state.writes, &NOTHING] };
        for item in view.prefix(&[], Order::Oldest) {
            let (key, value) = item?;
            entry(&key, &value);
        }
        for row in &state.rows {
            entry(b"open run", format!("{row:?}").as_bytes());
        }
        for upload in &state.uploads {
            entry(b"open run", format!("{upload:?}").as_bytes());
        }
        for run in state.known.runs.iter() {
            for block in run.blocks.all() {
                let at = run.offset + u64::from(block.offset);
                entry(b"block", &self.files.read(run.day, at, block.bytes).map_err(engine("read"))?);
            }
        }
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0) + self.files.bytes()
    }

    fn check(&self, journal_next: u64) -> Option<String> {
        let applied = self.applied();
        match self.tree.get(version_key()) {
            Err(error) => return Some(error.to_string()),
            Ok(None) => return Some("it is unexpectedly empty".into()),
            Ok(Some(version)) if version.as_ref() != [VERSION] => {
                return Some(format!("it has version {version:?}, this is version {VERSION}"));
            }
            Ok(Some(_)) if applied > journal_next => {
                return Some(format!("it stands at record {applied}, the journal ends at {journal_next}"));
            }
            Ok(Some(_)) => {}
        }
        let state = self.state();
        let runs = &state.known.runs;
        let mut end = runs.first().map_or(0, |run| run.start);
        for run in runs.iter() {
            if run.start != end {
                return Some(format!("records {end} to {} are missing", run.start));
            }
            end = run.end;
        }
        (end != applied).then(|| format!("its runs end at record {end}, it says {applied}"))
    }

    /// Applies records of the open run, as many as it takes. Returns how many.
    fn apply_to_run(&self, from: u64, records: &[HubRecord]) -> Result<usize, CatalogError> {
        let state = self.state();
        let mut pending = Pending::new(&self.tree, &self.files, &state, &self.sources);
        let mut taken = 0;
        for (position, record) in (from..).zip(records) {
            pending.record(position, record)?;
            taken += 1;
            let bytes = state.bytes + pending.changes.bytes;
            if state::is_full(position + 1 - state.start, bytes, self.sizes.run_records) {
                break;
            }
        }
        let changes = pending.changes;
        drop(state);
        self.take(from + taken as u64, changes);
        Ok(taken)
    }

    fn take(&self, next: u64, changes: Changes) {
        let Changes {
            writes,
            bytes,
            rows,
            uploads,
            epochs,
            devices,
            seen,
            rings,
            replaced,
            moved,
            corrected,
            latest,
        } = changes;
        let mut state = unlocked(self.state.write());
        state.writes.extend(writes);
        state.bytes += bytes;
        state.rows.extend(rows);
        state.uploads.extend(uploads);
        for (place, value) in epochs {
            let known = Kept::changed(value);
            match state.epochs.entry(place) {
                Entry::Occupied(mut entry) => *entry.get_mut() = known,
                Entry::Vacant(entry) => drop(entry.insert(known)),
            }
        }
        state.known.has_clip_keys |= devices.values().any(|value| value.has_clip_keys);
        let devices = devices.into_iter().map(|(device, value)| (device, Kept::changed(value)));
        state.known.devices.extend(devices);
        state.known.seen.extend(seen.into_iter().map(|(number, seen)| (number, Kept::changed(seen))));
        state.known.rings.extend(rings.into_iter().map(|(number, ring)| (number, Kept::changed(ring))));
        state.known.corrected.extend(corrected);
        state.replaced.extend(replaced);
        if !moved.is_empty() {
            Arc::make_mut(&mut state.known.moved).extend(moved);
        }
        state.latest = state.latest.max(latest.unwrap_or(Time::MIN));
        state.next = next;
        self.applied.store(next, Ordering::Release);
    }

    /// Writes the open run, if it is full, and begins the next. Questions go on meanwhile: what they find in the
    /// tree early is the same as what lies over it.
    fn end_run_if_full(&self) -> Result<(), CatalogError> {
        let state = self.state();
        if !state.is_full(self.sizes.run_records) {
            return Ok(());
        }
        let sources = self.sources();
        let seconds = state.latest.as_second().max(0);
        let day = u32::try_from(seconds / 86_400).unwrap_or(u32::MAX);
        let of_day = state.known.runs.iter().filter(|run| run.day == day);
        let offset = of_day.map(|run| run.offset_end).max().unwrap_or(0);
        let Sealed { run, bytes, directory_bytes, writes } = seal(&state, &sources, day, offset)?;
        let value = RunValue { end: run.end, offset, bytes: bytes.len() as u64, directory_bytes };
        let mut batch = sled::Batch::default();
        let spans = open_spans_after(&state.known.open_spans, &writes)?;
        let counts = [state.epoch_writes(&sources), state.device_writes(), state.source_writes()];
        for (key, value) in writes.iter().chain(counts.iter().flatten()) {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        for (key, value) in sources.entries(state.sources_stored) {
            batch.insert(key, value);
        }
        batch.insert(run_key(day, run.start), encode(&value));
        batch.insert(applied_key(), &state.next.to_be_bytes());
        let sources_stored = sources.count();
        drop((state, sources));
        self.files.write(day, offset, &bytes).map_err(engine("written"))?;
        self.tree.apply_batch(batch).map_err(engine("written"))?;
        // Questions wait for this lock: what is left of the run is dropped behind it.
        let left = unlocked(self.state.write()).begin_next(sources_stored, run, spans);
        drop(left);
        self.flush()
    }

    /// The closed runs at this moment, and the ids of what they no longer tell.
    fn closed(&self, state: &State) -> Closed<'_> {
        Closed { files: &self.files, runs: state.known.runs.clone(), moved: state.known.moved.clone() }
    }

    /// What a clip's row asks of the index beside itself.
    fn has_file(&self, packed: Packed<'_>, clip: Uuid, sha256: &Sha256Hash) -> Result<bool, CatalogError> {
        let is_new = self.state().uploads.contains(&upload(clip, sha256));
        Ok(is_new || packed.has_upload(clip, sha256)?)
    }

    /// An answer that reads the runs at one moment and the files that came at another: once more, if a run ended
    /// between them.
    fn settled<T>(&self, answer: impl Fn() -> Result<T, CatalogError>) -> Result<T, CatalogError> {
        for _ in 0..INDEX_SETTLE_TRIES {
            let start = self.stored_upto();
            let told = answer()?;
            if self.stored_upto() == start {
                return Ok(told);
            }
        }
        answer()
    }

    /// The store with the open run over it.
    fn view<'a>(&'a self, state: &'a State) -> View<'a> {
        View { tree: &self.tree, layers: [&NOTHING, &state.writes, &state.known.open_spans] }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        unlocked(self.state.read())
    }

    fn sources(&self) -> RwLockReadGuard<'_, Sources> {
        unlocked(self.sources.read())
    }

    /// Answers a question from everything that is applied.
    fn answer<T>(&self, question: impl FnOnce(View<'_>) -> T) -> T {
        let state = self.state();
        question(self.view(&state))
    }
}

/// See [`Embedded::closed`].
struct Closed<'a> {
    files: &'a DayFiles,
    runs: Arc<Runs>,
    moved: Arc<HashSet<Moved>>,
}

impl Closed<'_> {
    fn packed(&self) -> Packed<'_> {
        Packed { files: self.files, runs: &self.runs, moved: &self.moved }
    }
}

fn open_store(dir: &Path, truth: &TruthRecords, sizes: Sizes) -> Result<Embedded, String> {
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
    let files = DayFiles::open(dir).map_err(|error| error.to_string())?;
    let read = || -> Result<(sled::Tree, State, Sources), String> {
        let tree = db.open_tree("index").map_err(|e| e.to_string())?;
        if !existed {
            tree.insert(version_key(), &[VERSION]).map_err(|e| e.to_string())?;
        }
        let (state, sources) = read_state(&tree, &files)?;
        Ok((tree, state, sources))
    };
    let (tree, state, sources) = catch_unwind(AssertUnwindSafe(read))
        .map_err(|panic| format!("sled panicked: {}", panic_text(&panic)))??;
    Ok(Embedded {
        db,
        tree,
        file: dir.join("db"),
        files,
        truth: truth.clone(),
        sizes,
        applied: AtomicU64::new(state.start),
        writer: Mutex::new(()),
        state: RwLock::new(state),
        sources: RwLock::new(sources),
    })
}

/// What of the index is kept in memory: its position, its runs, and who speaks.
fn read_state(tree: &sled::Tree, files: &DayFiles) -> Result<(State, Sources), String> {
    let text = |error: sled::Error| error.to_string();
    let is_other = tree.get(version_key()).map_err(text)?.is_none_or(|v| v.as_ref() != [VERSION]);
    let applied = match tree.get(applied_key()).map_err(text)? {
        Some(bytes) => u64::from_be_bytes(bytes.as_ref().try_into().map_err(|_| "bad position")?),
        None => 0,
    };
    if is_other {
        return Ok((State::new(applied, 0, Known::default()), Sources::default()));
    }
    let mut sources = Sources::default();
    for (number, item) in tree.scan_prefix([kind::SOURCE]).enumerate() {
        let (key, value) = item.map_err(text)?;
        let value: SourceValue = decode(&key, &value).map_err(|e| e.to_string())?;
        if sources.add(&value.box_id, value.device.as_ref()) as usize != number {
            return Err(format!("source {number} is not in its place"));
        }
    }
    let devices = read_devices(tree)?;
    let known = Known {
        runs: Arc::new(read_runs(tree, files)?),
        has_clip_keys: devices.values().any(|known| known.value.has_clip_keys),
        devices,
        seen: read_groups(tree, kind::SEEN)?,
        rings: read_groups(tree, kind::RING)?,
        moved: Arc::new(read_moved(tree)?),
        open_spans: read_open_spans(tree)?,
        corrected: boxes_of(tree, &[kind::CORRECTION, kind::SPAN_CORRECTION])?,
    };
    Ok((State::new(applied, sources.count(), known), sources))
}

fn read_runs(tree: &sled::Tree, files: &DayFiles) -> Result<Runs, String> {
    let mut list = Vec::new();
    for item in tree.scan_prefix([kind::RUN]) {
        let (key, value) = item.map_err(|e| e.to_string())?;
        let RunValue { end, offset, bytes, directory_bytes } =
            decode(&key, &value).map_err(|e| e.to_string())?;
        let key: [u8; 13] = key.as_ref().try_into().map_err(|_| "a run's key has another length")?;
        let day = u32::from_be_bytes(key[1..5].try_into().expect("four bytes"));
        let start = keys::last_number(&key);
        let offset_end = offset + bytes;
        let unreadable = |why: String| format!("the run of record {start} can't be read: {why}");
        let at =
            offset_end.checked_sub(directory_bytes.into()).ok_or_else(|| unreadable("its place".into()))?;
        let directory = files.read(day, at, directory_bytes).map_err(|e| unreadable(e.to_string()))?;
        let blocks = directory::decode(&directory).map_err(unreadable)?;
        list.push(Run { day, start, end, offset, offset_end, blocks });
    }
    list.sort_unstable_by_key(|run| run.start);
    let mut runs = Runs::default();
    list.into_iter().for_each(|run| runs.push(run));
    Ok(runs)
}

fn read_devices(tree: &sled::Tree) -> Result<HashMap<DeviceId, Kept<DeviceValue>>, String> {
    let mut devices = HashMap::new();
    for item in tree.scan_prefix([kind::DEVICE]) {
        let (key, value) = item.map_err(|e| e.to_string())?;
        let device = device_of(&key).map_err(|e| e.to_string())?;
        let value = decode(&key, &value).map_err(|e| e.to_string())?;
        devices.insert(device, Kept::stored(value));
    }
    Ok(devices)
}

/// What was kept of sources in groups.
fn read_groups<T: DeserializeOwned>(tree: &sled::Tree, what: u8) -> Result<HashMap<u32, Kept<T>>, String> {
    let mut all = HashMap::new();
    for item in tree.scan_prefix([what]) {
        let (key, value) = item.map_err(|e| e.to_string())?;
        let group: Vec<(u32, T)> = decode(&key, &value).map_err(|e| e.to_string())?;
        all.extend(group.into_iter().map(|(number, value)| (number, Kept::stored(value))));
    }
    Ok(all)
}

fn read_open_spans(tree: &sled::Tree) -> Result<Layer, String> {
    let mut spans = Layer::new();
    for item in tree.scan_prefix([kind::SPAN]) {
        let (key, value) = item.map_err(|e| e.to_string())?;
        if decode::<SpanValue>(&key, &value).map_err(|e| e.to_string())?.open {
            let device = device_of(&key).map_err(|e| e.to_string())?;
            let key = key.to_vec();
            spans.insert(span_id_key(&device, id_of(&key)), Some(encode(&key)));
            spans.insert(key, Some(value.to_vec()));
        }
    }
    Ok(spans)
}

/// The open spans as these writes leave them.
fn open_spans_after(before: &Layer, writes: &Layer) -> Result<Layer, CatalogError> {
    let mut spans = before.clone();
    for (key, write) in writes.range(vec![kind::SPAN]..vec![kind::SPAN + 1]) {
        let is_open = match write {
            Some(value) => decode::<SpanValue>(key, value)?.open,
            None => false,
        };
        keep(&mut spans, key, write.as_ref().filter(|_| is_open));
    }
    for (key, write) in writes.range(vec![kind::SPAN_BY_ID]..vec![kind::SPAN_BY_ID + 1]) {
        let of: Option<Vec<u8>> = write.as_ref().map(|of| decode(key, of)).transpose()?;
        let is_open = of.is_some_and(|of| spans.contains_key(&of));
        keep(&mut spans, key, write.as_ref().filter(|_| is_open));
    }
    Ok(spans)
}

fn keep(layer: &mut Layer, key: &[u8], value: Option<&Vec<u8>>) {
    match value {
        Some(value) => drop(layer.insert(key.to_vec(), Some(value.clone()))),
        None => drop(layer.remove(key)),
    }
}

fn read_moved(tree: &sled::Tree) -> Result<HashSet<Moved>, String> {
    let moved = tree.scan_prefix([kind::MOVED]).keys().map(|key| {
        let key = key.map_err(|e| e.to_string())?;
        keys::moved_of(&key).ok_or_else(|| "what was moved can't be read".to_owned())
    });
    moved.collect()
}

/// The boxes that keys of these kinds begin with.
fn boxes_of(tree: &sled::Tree, kinds: &[u8]) -> Result<HashSet<BoxId>, String> {
    let mut boxes = HashSet::new();
    for &kind in kinds {
        for key in tree.scan_prefix([kind]).keys() {
            let key = key.map_err(|e| e.to_string())?;
            let text = first_text(&key).map_err(|e| e.to_string())?;
            boxes.insert(BoxId::new(text).map_err(|e| e.to_string())?);
        }
    }
    Ok(boxes)
}

/// The value behind a lock: whoever panicked while holding it left it whole, since it is changed only in steps that
/// don't panic.
fn unlocked<T>(lock: LockResult<T>) -> T {
    lock.unwrap_or_else(|poisoned| poisoned.into_inner())
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

impl Catalog for Embedded {
    fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn apply(&self, from: u64, records: &[HubRecord]) -> Result<(), CatalogError> {
        let _writer = unlocked(self.writer.lock());
        let applied = self.applied();
        if from != applied {
            return Err(CatalogError::Position { applied, from });
        }
        // One that could not be written before.
        self.end_run_if_full()?;
        let mut done = 0;
        while done < records.len() {
            done += self.apply_to_run(from + done as u64, &records[done..])?;
            self.end_run_if_full()?;
        }
        Ok(())
    }

    fn clips(&self, query: &ClipQuery) -> Result<Vec<ClipRow>, CatalogError> {
        self.settled(|| {
            let mut search = ClipSearch::new(query, &self.sources());
            let closed = {
                let state = self.state();
                search.add_keyed(self.view(&state), &state)?;
                self.closed(&state)
            };
            let packed = closed.packed();
            let page = search.page(packed, &self.sources())?;
            page.into_iter()
                .map(|entry| reads::clip_row(entry, |clip, sha256| self.has_file(packed, clip, sha256)))
                .collect()
        })
    }

    fn clip_counts(
        &self,
        devices: &[DeviceId],
        ranges: &[TimeRange],
        buckets: Buckets,
    ) -> Result<Vec<u64>, CatalogError> {
        let (devices, ranges) = (devices.to_vec(), ranges.to_vec());
        let query = ClipQuery { devices, ranges, order: Order::Oldest, after: None, limit: 0 };
        let search = ClipSearch::new(&query, &self.sources());
        let (keyed, closed) = {
            let state = self.state();
            let view = self.view(&state);
            (clips::keyed_starts(view, &state, &query)?, self.closed(&state))
        };
        clips::counts(&search, &keyed, closed.packed(), buckets)
    }

    fn clip(&self, clip: Uuid) -> Result<Option<ClipRow>, CatalogError> {
        self.settled(|| {
            let (keyed, closed) = {
                let state = self.state();
                (reads::keyed_clip(self.view(&state), clip)?, self.closed(&state))
            };
            let packed = closed.packed();
            let entry = match keyed {
                Some(entry) => Some(entry),
                None => packed.clip(clip, &self.sources())?,
            };
            entry.map(|e| reads::clip_row(e, |clip, sha256| self.has_file(packed, clip, sha256))).transpose()
        })
    }

    fn coverage(
        &self,
        devices: &[DeviceId],
        range: TimeRange,
    ) -> Result<Vec<Vec<CoverageSpan>>, CatalogError> {
        let sources = self.sources();
        let (mut accounts, closed) = {
            let state = self.state();
            let accounts = reads::accounts(self.view(&state), &state, &sources, devices, range)?;
            (accounts, self.closed(&state))
        };
        let shift_us = accounts.iter().map(Account::shift_us).max().unwrap_or(0);
        let (low, high) = (range.from.as_microsecond(), range.to.as_microsecond());
        let (low, high) = (low.saturating_sub(shift_us), high.saturating_add(shift_us));
        let mut packed: HashMap<&DeviceId, Vec<SpanEntry>> = HashMap::new();
        for entry in closed.packed().spans_within(&sources.of_devices(devices), low, high, &sources)? {
            let Some((_, Some(device))) = sources.who(entry.source) else { continue };
            packed.entry(device).or_default().push(entry);
        }
        for (device, account) in devices.iter().zip(&mut accounts) {
            let of_device = packed.get(device).map_or(&[][..], Vec::as_slice);
            of_device.iter().for_each(|entry| account.add(entry.span, &entry.value));
        }
        Ok(accounts.into_iter().map(Account::laid_out).collect())
    }

    fn ring_from(&self, device: &DeviceId) -> Result<Option<Time>, CatalogError> {
        // A camera that changed its box has footage on both.
        let state = self.state();
        let rings = self.sources().of_devices(std::slice::from_ref(device));
        Ok(rings.into_iter().filter_map(|source| state.ring(source)).map(|ring| ring.from).min())
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, CatalogError> {
        let asks_who = query.device.is_some() || query.box_id.is_some();
        let sources = asks_who.then(|| {
            let sources = self.sources();
            sources.asked(query.box_id.as_ref(), query.device.as_ref())
        });
        let mut search = EventSearch::new(query, sources, self.sizes.scan_rows);
        // Closed runs never change, so they are read without holding anybody up.
        let closed = {
            let state = self.state();
            state.rows.iter().for_each(|row| search.offer(state.start, row));
            self.closed(&state)
        };
        let early = search.look_through(closed.packed())?;
        let (keys, next) = search.page(early);
        let mut events = originals::rows(&self.truth, &keys)?;
        // Two types may share a code.
        events.retain(|row| query.kind.as_ref().is_none_or(|kind| *kind == row.kind));
        Ok(EventPage { events, next })
    }

    fn refused(&self, query: &RefusedQuery) -> Result<RefusedPage, CatalogError> {
        self.answer(|view| reads::refused(view, query))
    }

    fn refused_counts(&self) -> Result<Vec<RefusedCount>, CatalogError> {
        self.answer(reads::refused_counts)
    }

    fn boxes(&self) -> Result<Vec<BoxRow>, CatalogError> {
        let state = self.state();
        let sources = self.sources();
        let counts: Layer = state.epoch_writes(&sources);
        reads::boxes(View { tree: &self.tree, layers: [&counts, &state.writes, &NOTHING] }, &state, &sources)
    }

    fn has_upload(&self, clip: Uuid, sha256: &Sha256Hash) -> Result<bool, CatalogError> {
        self.settled(|| {
            if let Some(row) = self.clip(clip)? {
                let is_still = row.thumbnail.as_ref().is_some_and(|still| still.sha256 == *sha256);
                if (row.sha256 == *sha256 && row.stored) || (is_still && row.thumbnail_stored) {
                    return Ok(true);
                }
            }
            let closed = self.closed(&self.state());
            self.has_file(closed.packed(), clip, sha256)
        })
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
