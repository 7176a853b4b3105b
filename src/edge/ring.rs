//! The ring (vùng ghi vòng) of one camera: its last days of original video on the box's disk.
//!
//! ```text
//! <ring>/<device>/20260301T170000.040Z-1f6c2a90.mp4   a segment: init segment + whole fragments
//! <ring>/<device>/index/                              a journal: runs, segments, fragments, coverage
//! ```
//!
//! Owns these files and what they hold. May not know cameras, decode, or touch the network. All calls
//! block on the disk.
//!
//! **Durability.** A fragment is written when it is complete and durable after [`Ring::sync`]: first
//! the file, then its entry in the journal, so an entry never stands for bytes that were not there.
//! [`RING_SYNC_INTERVAL`] bounds what a power cut can take.
//!
//! **Recovery.** Entries of the last segment are checked against the file by hash; from the first that
//! fails on, the file is cut and the loss reported. Whole fragments behind the last entry (a killed
//! process leaves them) are adopted after a check of their structure, and hashed; the torn rest is cut.
//! A file whose segment was never entered is removed: nothing was ever said about it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::RingConfig;
use super::fmp4::{self, TIMESCALE, Track};
use crate::journal::{Item, Journal, JournalError};
use crate::limits::{
    COVERAGE_REPEAT_MAX, FRAGMENT_BYTES_MAX, RING_JOURNAL_SEGMENT_BYTES_MAX, RING_RECENT_FRAGMENTS_MAX,
    RING_SYNC_INTERVAL,
};
use crate::model::merkle::MerkleTree;
use crate::model::{ClockQuality, Coverage, RunCommitment, Sha256Hash, Time};

/// What went wrong with a ring, and where.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("ring {path}: cannot {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("ring journal")]
    Journal(#[from] JournalError),
    #[error("ring {path}: no run is open")]
    NoRun { path: PathBuf },
    #[error("ring {path}: fragment {number} of run {run} at byte {offset} is not what was recorded")]
    Changed { path: PathBuf, run: Uuid, number: u64, offset: u64 },
}

/// A recorded run: one camera session (or a part of it) with one clock and one set of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub run: Uuid,
    pub start: Time,
    /// Whose clock its times are, and how good that was when the run began.
    pub clock: ClockQuality,
    pub track: Track,
}

/// One fragment of the ring.
#[derive(Debug, Clone, PartialEq)]
pub struct FragmentEntry {
    pub run: Arc<Run>,
    /// Counts from 0 within the run.
    pub number: u64,
    pub path: Arc<PathBuf>,
    pub offset: u64,
    pub bytes: u32,
    pub sha256: Sha256Hash,
    pub start: Time,
    pub end: Time,
    pub first_pts: i64,
    pub end_pts: i64,
    pub sync: bool,
}

/// What of a run is durable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Durable {
    pub run: Uuid,
    pub start: Time,
    pub end: Time,
    pub commitment: RunCommitment,
}

/// What opening found.
#[derive(Debug, Default)]
pub struct RingRecovery {
    /// Bytes cut off the last segment.
    pub torn_bytes: u64,
    /// Whole fragments found behind the last entry.
    pub adopted: u64,
    /// Entries whose bytes are not there, or not what was recorded.
    pub lost: Vec<String>,
    /// The last run, as far as it is durable.
    pub last_run: Option<Durable>,
    /// The latest report of each of the last spans, oldest first.
    pub reports: Vec<Coverage>,
}

/// The ring of one camera. One writer.
pub struct Ring {
    dir: PathBuf,
    config: RingConfig,
    journal: Journal,
    /// Entries that are not yet in the journal.
    pending: Vec<Vec<u8>>,
    segments: VecDeque<Segment>,
    recent: VecDeque<FragmentEntry>,
    /// `recent` does not reach back to the first fragment.
    recent_cut: bool,
    open: Option<OpenRun>,
    synced: Option<Instant>,
}

struct Segment {
    path: Arc<PathBuf>,
    run: Arc<Run>,
    /// The journal's record of its run stands here or behind.
    record: u64,
    start: Time,
    end: Time,
    bytes: u64,
    /// Number in the run of its first fragment.
    first: u64,
}

struct OpenRun {
    run: Arc<Run>,
    record: u64,
    tree: MerkleTree,
    end: Time,
    file: Option<File>,
    durable: Option<Durable>,
}

/// Records of the ring's journal; behind a byte with their version.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Record {
    Run {
        run: Uuid,
        start: Time,
        clock: ClockQuality,
    },
    Segment {
        run: Uuid,
        file: String,
    },
    Fragment {
        run: Uuid,
        number: u64,
        offset: u64,
        bytes: u32,
        sha256: Sha256Hash,
        start: Time,
        end: Time,
        first_pts: i64,
        end_pts: i64,
        sync: bool,
    },
    Report {
        coverage: Coverage,
    },
}

const RECORD_VERSION: u8 = 1;

impl Ring {
    /// Opens or creates the ring in `dir`.
    pub fn open(dir: &Path, config: RingConfig) -> Result<(Self, RingRecovery), RingError> {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let (journal, torn) = Journal::open_with(&dir.join("index"), RING_JOURNAL_SEGMENT_BYTES_MAX)?;
        let mut recovery = RingRecovery::default();
        recovery.lost.extend(torn.damage.iter().map(ToString::to_string));
        let mut ring = Self {
            dir: dir.to_owned(),
            config,
            journal,
            pending: Vec::new(),
            segments: VecDeque::new(),
            recent: VecDeque::new(),
            recent_cut: false,
            open: None,
            synced: None,
        };
        let mut scan = Scan::default();
        ring.read_journal(ring.journal.first(), &mut scan)?;
        ring.take_scan(scan, &mut recovery)?;
        ring.remove_unknown_files(&mut recovery)?;
        Ok((ring, recovery))
    }

    /// Begins a run; the first fragment makes its first segment.
    pub fn begin_run(&mut self, run: Run) {
        let record = self.journal.next() + self.pending.len() as u64;
        self.pending.push(encode(&Record::Run { run: run.run, start: run.start, clock: run.clock }));
        let (run, end) = (Arc::new(run), self.segments.back().map_or(Time::MIN, |s| s.end));
        self.open = Some(OpenRun { run, record, tree: MerkleTree::new(), end, file: None, durable: None });
    }

    /// Writes a fragment behind the others of the open run. On an error nothing of it stays.
    pub fn append(
        &mut self,
        fragment: &fmp4::Fragment,
        start: Time,
        end: Time,
    ) -> Result<FragmentEntry, RingError> {
        self.evict(end, fragment.bytes.len() as u64);
        let mut open = self.open.take().ok_or_else(|| RingError::NoRun { path: self.dir.clone() })?;
        let result = self.append_to(&mut open, fragment, start, end);
        self.open = Some(open);
        result
    }

    /// Makes what was appended durable, if that is due; says how far the open run is durable.
    pub fn sync_if_due(&mut self) -> Result<Option<Durable>, RingError> {
        if self.synced.is_none_or(|at| at.elapsed() >= RING_SYNC_INTERVAL) {
            return self.sync();
        }
        Ok(self.open.as_ref().and_then(|open| open.durable))
    }

    /// Makes everything durable: the file first, then the journal.
    pub fn sync(&mut self) -> Result<Option<Durable>, RingError> {
        if let Some(file) = self.open.as_ref().and_then(|open| open.file.as_ref()) {
            let path = &self.segments.back().expect("a file has a segment").path;
            file.sync_data().map_err(io_error("sync", path))?;
        }
        self.sync_journal()?;
        self.synced = Some(Instant::now());
        let Some(open) = &mut self.open else { return Ok(None) };
        if !open.tree.is_empty() {
            let commitment = RunCommitment { fragments: open.tree.len(), merkle_root: open.tree.root() };
            let (run, start) = (open.run.run, open.run.start);
            open.durable = Some(Durable { run, start, end: open.end, commitment });
        }
        Ok(open.durable)
    }

    /// Ends the open run and says how far it is durable.
    pub fn end_run(&mut self) -> Result<Option<Durable>, RingError> {
        let result = self.sync();
        self.open = None;
        self.synced = None;
        result
    }

    /// Remembers what was said about the camera's time. Durable when this returns without error.
    pub fn report(&mut self, coverage: &Coverage) -> Result<(), RingError> {
        self.pending.push(encode(&Record::Report { coverage: coverage.clone() }));
        self.sync_journal()
    }

    /// Oldest moment that the ring still holds.
    pub fn from(&self) -> Option<Time> {
        self.segments.front().map(|s| s.start)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// End of the newest picture.
    pub fn upto(&self) -> Option<Time> {
        self.segments.back().map(|s| s.end)
    }

    /// The fragments that overlap `from` to `to`, in order of time.
    pub fn fragments(&self, from: Time, to: Time) -> Result<Vec<FragmentEntry>, RingError> {
        let overlaps = |f: &FragmentEntry| f.start < to && f.end > from;
        let recent_from = self.recent.front().map_or(Time::MAX, |f| f.start);
        let mut found = Vec::new();
        if self.recent_cut && from < recent_from {
            let mut scan = Scan::default();
            if let Some(segment) = self.segments.iter().find(|s| s.end > from) {
                self.read_journal(segment.record, &mut scan)?;
            }
            let on_disk = |f: &FragmentEntry| self.segments.iter().any(|s| s.path == f.path);
            found = scan.fragments();
            found.retain(|f| f.start < recent_from && overlaps(f) && on_disk(f));
        }
        found.extend(self.recent.iter().filter(|f| overlaps(f)).cloned());
        Ok(found)
    }

    fn append_to(
        &mut self,
        open: &mut OpenRun,
        fragment: &fmp4::Fragment,
        start: Time,
        end: Time,
    ) -> Result<FragmentEntry, RingError> {
        if self.segment_is_due(open, fragment, start) {
            self.begin_segment(open, start)?;
        }
        let segment = self.segments.back_mut().expect("begun above");
        let file = open.file.as_mut().expect("begun above");
        let offset = segment.bytes;
        if let Err(error) = file.write_all(&fragment.bytes) {
            // What stays of it would be torn off at the next start; better now, to give the bytes back.
            let cut = file.set_len(offset).and_then(|()| file.seek(SeekFrom::Start(offset)));
            if cut.is_err() {
                open.file = None;
            }
            return Err(io_error("write", &segment.path)(error));
        }
        let entry = FragmentEntry {
            run: open.run.clone(),
            number: open.tree.len(),
            path: segment.path.clone(),
            offset,
            bytes: fragment.bytes.len() as u32,
            sha256: Sha256Hash::of(&fragment.bytes),
            start,
            end,
            first_pts: fragment.first_pts,
            end_pts: fragment.end_pts,
            sync: fragment.sync,
        };
        segment.bytes += fragment.bytes.len() as u64;
        segment.end = end;
        open.tree.push(&entry.sha256);
        open.end = end;
        self.pending.push(encode(&record_of(&entry)));
        self.remember(entry.clone());
        Ok(entry)
    }

    fn segment_is_due(&self, open: &OpenRun, fragment: &fmp4::Fragment, start: Time) -> bool {
        match (&open.file, self.segments.back()) {
            (Some(_), Some(last)) => fragment.sync && start.duration_since(last.start) >= self.config.segment,
            _ => true,
        }
    }

    fn begin_segment(&mut self, open: &mut OpenRun, start: Time) -> Result<(), RingError> {
        if let (Some(file), Some(last)) = (open.file.take(), self.segments.back()) {
            file.sync_data().map_err(io_error("sync", &last.path))?;
        }
        let name = file_name(start, open.run.run);
        let path = self.dir.join(&name);
        let init = fmp4::init_segment(&open.run.track, None);
        let make = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.write_all(&init)?;
            File::open(&self.dir)?.sync_all()?;
            Ok(file)
        };
        let file = make().map_err(|error| {
            let _ = std::fs::remove_file(&path);
            io_error("create", &path)(error)
        })?;
        self.pending.push(encode(&Record::Segment { run: open.run.run, file: name }));
        self.segments.push_back(Segment {
            path: Arc::new(path),
            run: open.run.clone(),
            record: open.record,
            start,
            end: start,
            bytes: init.len() as u64,
            first: open.tree.len(),
        });
        open.file = Some(file);
        // Enter the new segment in the journal with its first fragment.
        self.synced = None;
        Ok(())
    }

    fn remember(&mut self, entry: FragmentEntry) {
        if self.recent.len() == RING_RECENT_FRAGMENTS_MAX {
            self.recent.pop_front();
            self.recent_cut = true;
        }
        self.recent.push_back(entry);
    }

    /// True if there is more than the segment that is being written.
    pub fn can_give_up(&self) -> bool {
        self.segments.len() > 1
    }

    /// Removes the oldest segment, but never the last one, to make room for what matters more; how many bytes that
    /// gave. [`Ring::from`] tells it.
    pub fn give_up_oldest(&mut self) -> Option<u64> {
        let bytes = self.remove_oldest()?;
        self.shorten_journal();
        Some(bytes)
    }

    /// Removes the oldest segments until `bytes` more fit and none is too old; then drops the part of
    /// the journal that told of them.
    fn evict(&mut self, now: Time, bytes: u64) {
        let keep = SignedDuration::from_hours(24 * i64::from(self.config.days));
        let mut removed = false;
        while self.can_give_up() {
            let too_old = now.duration_since(self.segments[0].end) > keep;
            if !too_old && self.bytes() + bytes <= self.config.bytes_per_camera {
                break;
            }
            if self.remove_oldest().is_none() {
                break;
            }
            removed = true;
        }
        if removed {
            self.shorten_journal();
        }
    }

    fn remove_oldest(&mut self) -> Option<u64> {
        let oldest = self.segments.front().filter(|_| self.can_give_up())?;
        if let Err(error) = std::fs::remove_file(&*oldest.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, path = %oldest.path.display(), "ring segment can't be removed");
            return None;
        }
        let path = oldest.path.clone();
        self.recent.retain(|f| f.path != path);
        self.segments.pop_front().map(|segment| segment.bytes)
    }

    fn shorten_journal(&mut self) {
        if let Some(oldest) = self.segments.front()
            && let Err(error) = self.journal.drop_before(oldest.record)
        {
            tracing::error!(%error, "ring journal can't be shortened");
        }
    }

    fn sync_journal(&mut self) -> Result<(), RingError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let append = |journal: &mut Journal, pending: &[Vec<u8>]| {
            pending.iter().try_for_each(|payload| journal.append(payload).map(|_| ()))?;
            journal.sync()
        };
        if let Err(error) = append(&mut self.journal, &self.pending) {
            // The entries stay pending; those that got in all the same are told apart by their number.
            self.journal.reopen()?;
            return Err(error.into());
        }
        self.pending.clear();
        Ok(())
    }

    fn read_journal(&self, from: u64, scan: &mut Scan) -> Result<(), RingError> {
        for item in self.journal.read(from) {
            match item? {
                Item::Record(record) => scan.take(&self.dir, record.number, &record.payload),
                Item::Damage(damage) => scan.lost.push(damage.to_string()),
            }
        }
        Ok(())
    }

    fn take_scan(&mut self, scan: Scan, recovery: &mut RingRecovery) -> Result<(), RingError> {
        let last = scan.segments.len().saturating_sub(1);
        let mut any_kept = false;
        for (i, mut scanned) in scan.segments.into_iter().enumerate() {
            let Ok(length) = std::fs::metadata(&*scanned.path).map(|m| m.len()) else {
                // Before the first file that is there: overwritten. Later: lost.
                if any_kept {
                    recovery.lost.push(format!("{} is missing", scanned.path.display()));
                }
                continue;
            };
            any_kept = true;
            if i == last {
                self.recover_last(&mut scanned, recovery)?;
            } else if scanned.fragments.last().is_some_and(|f| f.offset + u64::from(f.bytes) > length) {
                recovery.lost.push(format!("{} is shorter than recorded", scanned.path.display()));
                scanned.fragments.retain(|f| f.offset + u64::from(f.bytes) <= length);
            }
            let (Some(first), Some(end)) = (scanned.fragments.first(), scanned.fragments.last()) else {
                continue;
            };
            self.segments.push_back(Segment {
                path: scanned.path.clone(),
                run: scanned.run.clone(),
                record: scanned.record,
                start: first.start,
                end: end.end,
                bytes: std::fs::metadata(&*scanned.path).map_or(length, |m| m.len()),
                first: first.number,
            });
            for fragment in scanned.fragments {
                self.remember(fragment);
            }
        }
        recovery.lost.extend(scan.lost);
        recovery.reports = scan.reports.into();
        recovery.last_run = self.last_run()?;
        self.sync_journal()
    }

    /// Checks the last segment, adopts whole fragments behind its entries, cuts the rest off.
    fn recover_last(&mut self, scanned: &mut Scanned, recovery: &mut RingRecovery) -> Result<(), RingError> {
        let path = scanned.path.clone();
        let mut file =
            OpenOptions::new().read(true).write(true).open(&*path).map_err(io_error("open", &path))?;
        let length = file.metadata().map_err(io_error("read", &path))?.len();
        let good = scanned.fragments.iter().take_while(|f| read_from(&mut file, f).is_ok()).count();
        let lost_before = recovery.lost.len();
        for lost in scanned.fragments.drain(good..) {
            let why =
                format!("fragment {} of run {} is not in {}", lost.number, lost.run.run, path.display());
            recovery.lost.push(why);
        }
        let mut at = match scanned.fragments.last() {
            Some(last) => last.offset + u64::from(last.bytes),
            None => read_init_of(&mut file, &path).map_or(0, |(bytes, _)| bytes as u64),
        };
        // Behind an entry that fails nothing is adopted: what was changed must not get a fresh hash.
        let intact = recovery.lost.len() == lost_before;
        while intact
            && let Some(entry) = adopt(&mut file, scanned, at, length).map_err(io_error("read", &path))?
        {
            at += u64::from(entry.bytes);
            self.pending.push(encode(&record_of(&entry)));
            scanned.fragments.push(entry);
            recovery.adopted += 1;
        }
        if at < length {
            recovery.torn_bytes += length - at;
            file.set_len(at).map_err(io_error("cut", &path))?;
        }
        file.sync_all().map_err(io_error("sync", &path))
    }

    fn last_run(&self) -> Result<Option<Durable>, RingError> {
        let Some(last) = self.segments.back() else { return Ok(None) };
        let mut scan = Scan::default();
        self.read_journal(last.record, &mut scan)?;
        let mut leaves = scan.fragments();
        leaves.retain(|f| f.run.run == last.run.run);
        // What is in memory was checked; the journal only has what stood in earlier segments.
        leaves.retain(|f| f.number < last.first);
        leaves.extend(self.recent.iter().filter(|f| f.path == last.path).cloned());
        let tree = MerkleTree::from_leaves(leaves.iter().map(|f| &f.sha256));
        let commitment = RunCommitment { fragments: tree.len(), merkle_root: tree.root() };
        Ok(Some(Durable { run: last.run.run, start: last.run.start, end: last.end, commitment }))
    }

    fn remove_unknown_files(&self, recovery: &mut RingRecovery) -> Result<(), RingError> {
        for entry in std::fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let path = entry.map_err(io_error("list", &self.dir))?.path();
            let is_segment = path.extension().is_some_and(|e| e == "mp4");
            if is_segment && !self.segments.iter().any(|s| *s.path == path) {
                recovery.torn_bytes += std::fs::metadata(&path).map_or(0, |m| m.len());
                std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// The fragment's bytes, checked against its hash.
pub fn read_fragment(entry: &FragmentEntry) -> Result<Vec<u8>, RingError> {
    let mut file = File::open(&*entry.path).map_err(io_error("open", &entry.path))?;
    read_from(&mut file, entry)
}

fn read_from(file: &mut File, entry: &FragmentEntry) -> Result<Vec<u8>, RingError> {
    let mut bytes = vec![0; entry.bytes as usize];
    file.seek(SeekFrom::Start(entry.offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(io_error("read", &entry.path))?;
    if Sha256Hash::of(&bytes) != entry.sha256 {
        let (path, run) = (entry.path.to_path_buf(), entry.run.run);
        return Err(RingError::Changed { path, run, number: entry.number, offset: entry.offset });
    }
    Ok(bytes)
}

/// What the journal says, segment by segment.
#[derive(Default)]
struct Scan {
    runs: Vec<(Uuid, u64, Time, ClockQuality)>,
    segments: Vec<Scanned>,
    reports: VecDeque<Coverage>,
    lost: Vec<String>,
}

struct Scanned {
    path: Arc<PathBuf>,
    run: Arc<Run>,
    record: u64,
    fragments: Vec<FragmentEntry>,
}

impl Scan {
    fn fragments(self) -> Vec<FragmentEntry> {
        self.segments.into_iter().flat_map(|s| s.fragments).collect()
    }

    fn take(&mut self, dir: &Path, number: u64, payload: &[u8]) {
        match decode(payload) {
            Ok(record) => self.take_record(dir, number, record),
            Err(why) => self.lost.push(format!("ring journal {}: record {number}: {why}", dir.display())),
        }
    }

    fn take_record(&mut self, dir: &Path, number: u64, record: Record) {
        match record {
            Record::Run { run, start, clock } => {
                if self.runs.last().is_none_or(|r| r.0 != run) {
                    self.runs.push((run, number, start, clock));
                }
            }
            Record::Segment { run, file } => self.take_segment(dir, run, file),
            Record::Fragment { run, number, offset, bytes, sha256, start, end, first_pts, end_pts, sync } => {
                let Some(segment) = self.segments.last_mut().filter(|s| s.run.run == run) else { return };
                let known = segment.fragments.last().is_some_and(|f| f.number >= number);
                if !known && bytes as usize <= FRAGMENT_BYTES_MAX * 2 {
                    let (run, path) = (segment.run.clone(), segment.path.clone());
                    segment.fragments.push(FragmentEntry {
                        run,
                        number,
                        path,
                        offset,
                        bytes,
                        sha256,
                        start,
                        end,
                        first_pts,
                        end_pts,
                        sync,
                    });
                }
            }
            Record::Report { coverage } => {
                self.reports.retain(|r| r.span != coverage.span);
                self.reports.push_back(coverage);
                if self.reports.len() > COVERAGE_REPEAT_MAX {
                    self.reports.pop_front();
                }
            }
        }
    }

    fn take_segment(&mut self, dir: &Path, run: Uuid, file: String) {
        let path = dir.join(&file);
        let known = self.segments.iter().rev().take(2).any(|s| *s.path == path);
        let Some(&(_, record, start, clock)) = self.runs.iter().rev().find(|r| r.0 == run) else { return };
        if known || Path::new(&file).components().count() != 1 {
            return;
        }
        let run = match self.segments.last() {
            Some(last) if last.run.run == run => last.run.clone(),
            _ => {
                let track = File::open(&path).ok().and_then(|mut f| read_init_of(&mut f, &path));
                let track = track.map_or_else(
                    || Track { sample_entry: vec![], width: 0, height: 0, audio: None },
                    |(_, track)| track,
                );
                Arc::new(Run { run, start, clock, track })
            }
        };
        self.segments.push(Scanned { path: Arc::new(path), run, record, fragments: Vec::new() });
    }
}

/// The whole fragment at `at`, if there is one that follows what stands before it.
fn adopt(file: &mut File, scanned: &Scanned, at: u64, length: u64) -> io::Result<Option<FragmentEntry>> {
    if at == 0 || at >= length {
        return Ok(None);
    }
    let mut bytes = vec![0; (length - at).min(2 * FRAGMENT_BYTES_MAX as u64) as usize];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    let Ok(found) = fmp4::find_fragment(&bytes) else { return Ok(None) };
    let Some(last) = scanned.fragments.last() else { return Ok(None) };
    let start = found.wall.time;
    let end = after_ticks(start, found.end_pts - found.first_pts);
    if found.first_pts < last.first_pts || start < last.start {
        return Ok(None);
    }
    Ok(Some(FragmentEntry {
        run: scanned.run.clone(),
        number: last.number + 1,
        path: scanned.path.clone(),
        offset: at,
        bytes: found.bytes as u32,
        sha256: Sha256Hash::of(&bytes[..found.bytes]),
        start,
        end,
        first_pts: found.first_pts,
        end_pts: found.end_pts,
        sync: found.sync,
    }))
}

/// `time` and `ticks` of the timeline later (or earlier, if negative).
pub fn after_ticks(time: Time, ticks: i64) -> Time {
    let ns = i128::from(ticks) * 1_000_000_000 / i128::from(TIMESCALE);
    Time::from_nanosecond(time.as_nanosecond() + ns).unwrap_or(time)
}

fn read_init_of(file: &mut File, path: &Path) -> Option<(usize, Track)> {
    const INIT_BYTES_MAX: u64 = 64 << 10;
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(INIT_BYTES_MAX).read_to_end(&mut head).ok()?;
    fmp4::read_init(&head)
        .map_err(|why| tracing::warn!(path = %path.display(), why, "ring segment has no init segment"))
        .ok()
}

fn record_of(entry: &FragmentEntry) -> Record {
    Record::Fragment {
        run: entry.run.run,
        number: entry.number,
        offset: entry.offset,
        bytes: entry.bytes,
        sha256: entry.sha256,
        start: entry.start,
        end: entry.end,
        first_pts: entry.first_pts,
        end_pts: entry.end_pts,
        sync: entry.sync,
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = vec![RECORD_VERSION];
    serde_json::to_writer(&mut bytes, record).expect("a record has only plain fields");
    bytes
}

fn decode(payload: &[u8]) -> Result<Record, String> {
    match payload.split_first() {
        Some((&RECORD_VERSION, json)) => serde_json::from_slice(json).map_err(|e| e.to_string()),
        Some((version, _)) => Err(format!("version {version} is not known")),
        None => Err("it is empty".into()),
    }
}

/// `20260301T170000.040Z-1f6c2a90.mp4`: sorts by time, and says its run.
fn file_name(start: Time, run: Uuid) -> String {
    let run = run.simple().to_string();
    format!("{}-{}.mp4", start.strftime("%Y%m%dT%H%M%S%.3fZ"), &run[24..])
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> RingError {
    let path = path.to_owned();
    move |source| RingError::Io { what, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::edge::fmp4::{Sample, WallClock};
    use crate::model::{ClockSource, SyncState};

    const SECOND: i64 = TIMESCALE as i64;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_772_000_000 + seconds).unwrap()
    }

    fn run_from(seconds: i64) -> Run {
        let clock = ClockQuality {
            source: ClockSource::Camera,
            sync: SyncState::Synced,
            offset_ms: Some(3),
            uncertainty_ms: Some(8),
        };
        let mut sample_entry = vec![0; 120];
        sample_entry[..4].copy_from_slice(&120u32.to_be_bytes());
        sample_entry[4..8].copy_from_slice(b"avc1");
        let track = Track { sample_entry, width: 0, height: 0, audio: None };
        Run { run: Uuid::now_v7(), start: at(seconds), clock, track }
    }

    /// Two pictures in one second, at `seconds` on the timeline of a run that began at 0.
    fn second(seconds: i64) -> fmp4::Fragment {
        let sample = |half: i64| Sample {
            pts: seconds * SECOND + half * SECOND / 2,
            sync: half == 0,
            data: fmp4::tests::nal(0x65, 500 + (seconds % 7) as usize),
        };
        let wall = WallClock { time: at(seconds), camera: true };
        fmp4::fragment(1, &[sample(0), sample(1)], Some((seconds + 1) * SECOND), seconds * SECOND, wall)
    }

    fn config(bytes_per_camera: u64) -> RingConfig {
        RingConfig { days: 1, bytes_per_camera, segment: SignedDuration::from_secs(4) }
    }

    fn record(ring: &mut Ring, seconds: std::ops::Range<i64>) -> Vec<Sha256Hash> {
        let mut append = |s| ring.append(&second(s), at(s), at(s + 1)).unwrap().sha256;
        seconds.map(&mut append).collect()
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        let mut found: Vec<PathBuf> = all.filter(|p| p.extension().is_some_and(|e| e == "mp4")).collect();
        found.sort();
        found
    }

    #[test]
    fn what_was_recorded_is_found_by_time_and_proved_by_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        ring.begin_run(run_from(0));
        let hashes = record(&mut ring, 0..10);
        let durable = ring.end_run().unwrap().unwrap();
        assert_eq!(durable.commitment.fragments, 10);
        assert_eq!(durable.commitment.merkle_root, MerkleTree::from_leaves(&hashes).root());
        assert_eq!((durable.start, durable.end), (at(0), at(10)));
        assert_eq!(files(dir.path()).len(), 3, "segments of four seconds");
        drop(ring);
        let (ring, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        assert_eq!(recovery.last_run, Some(durable));
        assert_eq!((recovery.torn_bytes, recovery.adopted, recovery.lost.len()), (0, 0, 0));
        for (from, to, numbers) in [(0, 10, 0..10), (3, 5, 3..5), (9, 99, 9..10), (10, 99, 0..0)] {
            let found = ring.fragments(at(from), at(to)).unwrap();
            let got: Vec<u64> = found.iter().map(|f| f.number).collect();
            assert_eq!(got, numbers.collect::<Vec<u64>>(), "{from} to {to}");
            for fragment in found {
                assert_eq!(
                    Sha256Hash::of(&read_fragment(&fragment).unwrap()),
                    hashes[fragment.number as usize]
                );
            }
        }
    }

    #[test]
    fn a_changed_byte_is_never_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        ring.begin_run(run_from(0));
        record(&mut ring, 0..1);
        let fragment = ring.fragments(at(0), at(1)).unwrap().remove(0);
        let mut bytes = fs::read(&*fragment.path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&*fragment.path, bytes).unwrap();
        assert!(matches!(read_fragment(&fragment), Err(RingError::Changed { number: 0, .. })));
    }

    /// Ends of the file that a crash can leave, and what is made of them.
    #[test]
    fn after_a_crash_the_ring_plays_to_its_last_whole_fragment() {
        type Harm = fn(&Path);
        let append = |path: &Path, bytes: &[u8]| {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(bytes).unwrap();
        };
        let cases: [(&str, Harm, u64, usize); 5] = [
            ("nothing", |_| {}, 5, 0),
            ("half a fragment", |p| harm_file(p, |b| b.truncate(b.len() - 100)), 4, 0),
            (
                "zeros",
                |p| {
                    harm_file(p, |b| {
                        let n = b.len();
                        b[n - 300..].fill(0)
                    })
                },
                4,
                0,
            ),
            (
                "the file is shorter than the journal says",
                |p| harm_file(p, |b| b.truncate(b.len() - 2_000)),
                3,
                1,
            ),
            (
                "a bit of an entered fragment has flipped",
                |p| {
                    harm_file(p, |b| {
                        let n = b.len();
                        b[n - 2_000] ^= 1
                    })
                },
                3,
                1,
            ),
        ];
        for (name, harm, fragments, lost) in cases {
            let dir = tempfile::tempdir().unwrap();
            let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
            ring.begin_run(run_from(0));
            record(&mut ring, 0..4);
            ring.sync().unwrap();
            // Killed: what follows is in the file, but not in the journal.
            drop(ring);
            let path = files(dir.path()).pop().unwrap();
            append(&path, &second(4).bytes);
            harm(&path);
            let (mut ring, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
            let last_run = recovery.last_run.unwrap();
            assert_eq!(last_run.commitment.fragments, fragments, "{name}: {recovery:?}");
            assert_eq!(last_run.end, at(fragments as i64), "{name}");
            assert_eq!(recovery.lost.len(), lost, "{name}: {:?}", recovery.lost);
            let found = ring.fragments(at(0), at(99)).unwrap();
            assert!(found.iter().all(|f| read_fragment(f).is_ok()), "{name}");
            let hashes: Vec<_> = found.iter().map(|f| f.sha256).collect();
            assert_eq!(MerkleTree::from_leaves(&hashes).root(), last_run.commitment.merkle_root, "{name}");
            ring.begin_run(run_from(20));
            record(&mut ring, 20..22);
            ring.end_run().unwrap();
            drop(ring);
            let (ring, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
            assert_eq!(ring.fragments(at(0), at(99)).unwrap().len() as u64, fragments + 2, "{name}");
            assert_eq!(recovery.last_run.unwrap().commitment.fragments, 2, "{name}");
        }
    }

    fn harm_file(path: &Path, harm: impl Fn(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        harm(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn the_oldest_go_first_and_the_journal_follows() {
        let dir = tempfile::tempdir().unwrap();
        let bytes_max = 60_000;
        let (mut ring, _) = Ring::open(dir.path(), config(bytes_max)).unwrap();
        for run in 0..40 {
            ring.begin_run(run_from(run * 100));
            let mut append = |s| ring.append(&second(s), at(run * 100 + s), at(run * 100 + s + 1)).unwrap();
            (0..10).for_each(|s| drop(append(s)));
            ring.end_run().unwrap();
            assert!(ring.bytes() <= bytes_max + 10_000, "{}", ring.bytes());
        }
        let on_disk: u64 = files(dir.path()).iter().map(|p| fs::metadata(p).unwrap().len()).sum();
        assert_eq!(on_disk, ring.bytes());
        let from = ring.from().unwrap();
        assert!(from > at(3_000) && ring.upto() == Some(at(3_910)), "{from}");
        let before = ring.fragments(at(0), at(9_999)).unwrap();
        assert_eq!(before[0].start, from);
        drop(ring);
        let (ring, recovery) = Ring::open(dir.path(), config(bytes_max)).unwrap();
        assert!(recovery.lost.is_empty(), "{:?}", recovery.lost);
        assert_eq!(ring.from(), Some(from));
        assert_eq!(ring.fragments(at(0), at(9_999)).unwrap().len(), before.len());
    }

    #[test]
    fn days_bound_the_ring_too() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ring, _) = Ring::open(dir.path(), config(1 << 30)).unwrap();
        ring.begin_run(run_from(0));
        record(&mut ring, 0..8);
        ring.end_run().unwrap();
        let next_day = 86_400 + 6;
        ring.begin_run(run_from(next_day));
        record(&mut ring, next_day..next_day + 1);
        assert_eq!(ring.from(), Some(at(4)), "the segment that ended at 4 is more than a day old");
    }

    #[test]
    fn reports_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        let (span, state) = (Uuid::now_v7(), crate::model::SpanState::Recorded);
        let mut coverage = Coverage {
            span,
            state,
            start: at(0),
            upto: at(1),
            open: true,
            run: None,
            ring_from: None,
            detail: None,
        };
        ring.report(&coverage).unwrap();
        coverage.upto = at(2);
        ring.report(&coverage).unwrap();
        drop(ring);
        let (_, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        assert_eq!(recovery.reports, [coverage]);
    }
}
