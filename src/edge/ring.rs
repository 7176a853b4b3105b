//! The ring (vùng ghi vòng) of one camera: its last days of original video on the box's disk.
//!
//! ```text
//! <ring>/<device>/0000000042-20260301T170000.040Z-1f6c2a90.mp4   a segment: init segment + whole fragments
//! <ring>/<device>/index/                                         a journal: closed segments, coverage
//! ```
//!
//! Owns these files and what they hold. May not know cameras, decode, or touch the network. All calls block on the
//! disk. The bytes of a segment: `segment`; what the journal holds: `index`.
//!
//! **A poor disk.** A memory card wears by what is written and by each sync. So a segment is only ever appended to,
//! each fragment with its entry in one write, and holds all that must be known of it: a sync of the ring is one sync
//! of one file. The journal gets 51 bytes when a segment is closed, synced along with the next one. Every
//! [`RING_SYNC_INTERVAL`] there is a sync: a longer one would save syncs and let a power cut take more; this one
//! costs a part of a page each time, half a percent at 1 Mbit/s.
//!
//! **Durability.** A fragment is durable after [`Ring::sync`]. After a sync that failed the kernel may have dropped
//! what it was given and hold it for written, so what was not durable before is cut off and the run has ended.
//!
//! **Recovery.** Opening reads the journal and, of the segments, those that it does not know as closed: one or two.
//! Of these it reads the entries, and checks by hash the fragments that were not synced; from the first that is not
//! whole, the file is cut. A journal that is damaged costs time, not footage: its segments are read likewise.
//!
//! **Order.** Segments are numbered as they are written. What is overwritten first, and how old it is, does not depend
//! on clocks that were not held by something better ([`Ring::oldest_age`]).

mod index;
mod segment;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::SignedDuration;
use uuid::Uuid;

pub use self::index::{EraSpans, Report};
use self::index::{Index, SegmentRecord, remember};
use self::segment::{Beginning, ENTRY_BYTES, Entry, Head};
use super::config::RingConfig;
use super::fmp4::{self, TIMESCALE, Track};
use crate::journal::disk::{Access, Disk, DiskFile, RealDisk};
use crate::journal::{Item, Journal, JournalError, Options};
use crate::limits::{
    RING_GIVE_UP_MAX, RING_INDEX_RECORDS_MIN, RING_JOURNAL_SEGMENT_BYTES_MAX, RING_SYNC_INTERVAL,
};
use crate::model::merkle::MerkleTree;
use crate::model::{ClockQuality, RunCommitment, Sha256Hash, SyncState, Time};

/// What went wrong with a ring, and where.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("ring {path}: cannot {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("ring journal")]
    Journal(#[from] JournalError),
    #[error("ring {path}: no run is open")]
    NoRun { path: PathBuf },
    #[error("ring {path}: its run has ended, because its disk failed ({why})")]
    Failed { path: PathBuf, why: String },
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
    /// Bytes cut off segments that were not closed.
    pub torn_bytes: u64,
    /// Footage that was there for sure and is not, or can't be read.
    pub lost: Vec<String>,
    /// The last run, as far as it is durable.
    pub last_run: Option<Durable>,
    /// The latest report of each of the last spans, oldest first.
    pub reports: Vec<Report>,
    /// The spans that a correction of the box's clock may still be about.
    pub eras: VecDeque<EraSpans>,
}

/// The ring of one camera. One writer.
pub struct Ring {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: RingConfig,
    journal: Journal,
    /// In the order of their writing; the last may be open.
    segments: VecDeque<Segment>,
    /// Of all segments.
    bytes: u64,
    next_number: u64,
    open: Option<OpenRun>,
    /// Reports that are not yet in the journal.
    reports: VecDeque<Report>,
    synced: Option<Instant>,
    /// It must be opened anew before it takes something.
    is_journal_failed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    known: SegmentRecord,
    /// Its record in the journal, once it has one.
    record: Option<u64>,
}

struct OpenRun {
    run: Arc<Run>,
    tree: MerkleTree,
    end: Time,
    segment: Option<OpenSegment>,
    durable: Option<Durable>,
    /// Why nothing may follow: the disk failed, and what is on it is not known.
    failed: Option<String>,
}

/// The file that is being written; [`Ring::segments`] ends with it.
struct OpenSegment {
    file: Arc<dyn DiskFile>,
    path: Arc<PathBuf>,
    bytes: u64,
    fragments: Vec<FragmentEntry>,
    durable_bytes: u64,
    durable_fragments: usize,
    is_name_durable: bool,
}

impl Ring {
    /// Opens or creates the ring in `dir`.
    pub fn open(dir: &Path, config: RingConfig) -> Result<(Self, RingRecovery), RingError> {
        Self::open_on(Arc::new(RealDisk), dir, config)
    }

    /// As [`Ring::open`], on any disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: RingConfig,
    ) -> Result<(Self, RingRecovery), RingError> {
        disk.create_dir_all(dir).map_err(io_error("create", dir))?;
        let options = Options { segment_bytes_max: RING_JOURNAL_SEGMENT_BYTES_MAX };
        let (journal, torn) = Journal::open_on(disk.clone(), &dir.join("index"), options)?;
        let mut ring = Self {
            disk,
            dir: dir.to_owned(),
            config,
            journal,
            segments: VecDeque::new(),
            bytes: 0,
            next_number: 0,
            open: None,
            reports: VecDeque::new(),
            synced: None,
            is_journal_failed: false,
        };
        let mut index = Index::default();
        index.lost.extend(torn.damage.iter().map(ToString::to_string));
        for item in ring.journal.read(ring.journal.first()) {
            match item? {
                Item::Record(record) => index.take(record.number, &record.payload),
                Item::Damage(damage) => index.lost.push(damage.to_string()),
            }
        }
        index.finish();
        let mut recovery = RingRecovery::default();
        ring.take_index(index, &mut recovery)?;
        Ok((ring, recovery))
    }

    /// Begins a run; the first fragment makes its first segment.
    pub fn begin_run(&mut self, run: Run) {
        let end = run.start;
        let tree = MerkleTree::new();
        self.open =
            Some(OpenRun { run: Arc::new(run), tree, end, segment: None, durable: None, failed: None });
    }

    /// Writes a fragment behind the others of the open run. A full disk costs the oldest segments. On an error nothing
    /// of the fragment stays.
    pub fn append(
        &mut self,
        fragment: &fmp4::Fragment,
        start: Time,
        end: Time,
    ) -> Result<FragmentEntry, RingError> {
        self.evict_for((fragment.bytes.len() + ENTRY_BYTES) as u64);
        for _ in 0..RING_GIVE_UP_MAX {
            match self.try_append(fragment, start, end) {
                Err(error) if error.is_full() && self.can_give_up() => {
                    tracing::warn!(ring = %self.dir.display(), "the disk is full: the oldest footage makes way");
                    // Some file systems give room back only when the removal is durable.
                    if self.give_up_oldest().is_none() || self.disk.sync_dir(&self.dir).is_err() {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
        self.try_append(fragment, start, end)
    }

    /// Makes what was appended durable, if that is due; says how far the open run is durable.
    pub fn sync_if_due(&mut self, now: Instant) -> Result<Option<Durable>, RingError> {
        let is_due = |at| now.saturating_duration_since(at) >= RING_SYNC_INTERVAL;
        if self.synced.is_none_or(is_due) {
            let durable = self.sync()?;
            self.synced = Some(now);
            return Ok(durable);
        }
        Ok(self.open.as_ref().and_then(|open| open.durable))
    }

    /// Makes everything durable: the file first, then the journal.
    pub fn sync(&mut self) -> Result<Option<Durable>, RingError> {
        self.sync_segment()?;
        self.sync_journal()?;
        Ok(self.open.as_ref().and_then(|open| open.durable))
    }

    /// Ends the open run and says how far it is durable, whatever the disk says now.
    pub fn end_run(&mut self) -> (Option<Durable>, Result<(), RingError>) {
        let synced = self.sync_segment();
        let durable = self.open.take().and_then(|open| open.durable);
        self.synced = None;
        (durable, synced.and(self.sync_journal()))
    }

    /// Remembers what was said about the camera's time. Durable when this returns without error; kept for the next
    /// try if not.
    pub fn report(&mut self, reports: Vec<Report>) -> Result<(), RingError> {
        reports.into_iter().for_each(|report| remember(&mut self.reports, report));
        self.sync_journal()
    }

    /// Oldest moment that the ring still holds.
    pub fn from(&self) -> Option<Time> {
        // Not the first: a clock that was ahead wrote that, until it was set.
        self.segments.iter().map(|s| s.known.start).min()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// End of the newest picture.
    pub fn upto(&self) -> Option<Time> {
        self.segments.back().map(|s| s.known.end)
    }

    /// The fragments that overlap `from` to `to`, in the order of their recording. A segment that can't be read is
    /// logged and left out; an error if that leaves nothing.
    pub fn fragments(&self, from: Time, to: Time) -> Result<Vec<FragmentEntry>, RingError> {
        let mut found: Vec<FragmentEntry> = Vec::new();
        let (mut run, mut failed) = (None, None);
        for (n, segment) in self.segments.iter().enumerate() {
            if segment.known.start >= to || segment.known.end <= from {
                continue;
            }
            match self.open_segment().filter(|_| n + 1 == self.segments.len()) {
                Some(open) => found.extend(open.fragments.iter().cloned()),
                None => match self.read_segment(&segment.known, &mut run) {
                    Ok(fragments) => found.extend(fragments),
                    Err(error) => {
                        tracing::error!(error = error.with_cause(), "footage can't be read");
                        failed = Some(error);
                    }
                },
            }
        }
        found.retain(|f| f.start < to && f.end > from);
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
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

    /// How long ago the oldest segment began, as far as it can be known: by the clock where that was held by something
    /// better, or went on without a break; else at least as long as was recorded since.
    pub fn oldest_age(&self) -> SignedDuration {
        let mut oldest = SignedDuration::ZERO;
        self.look_at_ages(|_, age| oldest = age);
        oldest
    }

    /// When the oldest segment began, as far as it can be known.
    pub fn oldest_start(&self) -> Option<Time> {
        let upto = self.upto()?;
        Some(upto.checked_sub(self.oldest_age()).unwrap_or(Time::MIN))
    }

    /// How long ago each segment began, newest first.
    fn look_at_ages(&self, mut look: impl FnMut(&SegmentRecord, SignedDuration)) {
        let keep = self.keep();
        let Some(last) = self.segments.back() else { return };
        let mut behind = &last.known;
        let mut age = length_of(behind);
        let mut sure = behind.is_sure.then_some((behind.start, age));
        look(behind, age);
        for segment in self.segments.iter().rev().skip(1) {
            let this = &segment.known;
            let step = behind.start.duration_since(this.start);
            let is_steady = (SignedDuration::ZERO..=keep).contains(&step) && this.is_sure == behind.is_sure;
            age += if is_steady { step } else { length_of(this) };
            if this.is_sure {
                if let Some((start, age_then)) = sure {
                    age = age.max(age_then + start.duration_since(this.start));
                }
                sure = Some((this.start, age));
            }
            look(this, age);
            behind = this;
        }
    }

    fn try_append(
        &mut self,
        fragment: &fmp4::Fragment,
        start: Time,
        end: Time,
    ) -> Result<FragmentEntry, RingError> {
        let path = || self.dir.clone();
        let open = self.open.as_ref().ok_or_else(|| RingError::NoRun { path: path() })?;
        if let Some(why) = open.failed.clone() {
            return Err(RingError::Failed { path: path(), why });
        }
        if self.segment_is_due(open, fragment, start) {
            self.sync_segment()?;
            self.begin_segment(start)?;
        }
        let open = self.open.as_mut().expect("looked at above");
        let segment = open.segment.as_mut().expect("begun above");
        let entry = Entry {
            number: open.tree.len(),
            durable: open.durable.map_or(0, |durable| durable.commitment.fragments),
            start,
            end,
            first_pts: fragment.first_pts,
            end_pts: fragment.end_pts,
            bytes: fragment.bytes.len() as u32,
            sync: fragment.sync,
            sha256: Sha256Hash::of(&fragment.bytes),
        };
        let bytes = [&entry.encode(), &fragment.bytes[..]].concat();
        if let Err(error) = segment.file.write_at(segment.bytes, &bytes) {
            // What stays of it would be torn off at the next start; better now, to give the bytes back.
            let path = segment.path.clone();
            if segment.file.set_len(segment.bytes).is_err() {
                self.roll_back(&error);
            }
            return Err(io_error("write", &path)(error));
        }
        let added = placed(&open.run, &segment.path, &entry, segment.bytes + ENTRY_BYTES as u64);
        segment.bytes += bytes.len() as u64;
        segment.fragments.push(added.clone());
        open.tree.push(&entry.sha256);
        open.end = end;
        let known = &mut self.segments.back_mut().expect("it stands for the file").known;
        (known.end, known.bytes) = (end, segment.bytes);
        self.bytes += bytes.len() as u64;
        Ok(added)
    }

    fn segment_is_due(&self, open: &OpenRun, fragment: &fmp4::Fragment, start: Time) -> bool {
        match (&open.segment, self.segments.back()) {
            (Some(_), Some(last)) => {
                fragment.sync && start.duration_since(last.known.start) >= self.config.segment
            }
            _ => true,
        }
    }

    fn begin_segment(&mut self, start: Time) -> Result<(), RingError> {
        let open = self.open.as_mut().expect("callers looked");
        let run = &open.run;
        let known = SegmentRecord {
            number: self.next_number,
            run: run.run,
            start,
            end: start,
            bytes: 0,
            is_sure: run.clock.sync == SyncState::Synced,
        };
        let path = self.dir.join(file_name(&known));
        let head = Head { run: run.run, start: run.start, clock: run.clock, tree: open.tree.clone() };
        let begin = segment::beginning(&run.track, &head);
        let disk = &self.disk;
        let make = || {
            let file = disk.create(&path)?;
            file.write_at(0, &begin).map(|()| file)
        };
        // A name is used once, even if it can't be taken away again.
        self.next_number = self.next_number.saturating_add(1);
        let file = make().map_err(|error| {
            let _ = disk.remove(&path);
            io_error("create", &path)(error)
        })?;
        let bytes = begin.len() as u64;
        open.segment = Some(OpenSegment {
            file,
            path: Arc::new(path),
            bytes,
            fragments: Vec::new(),
            durable_bytes: 0,
            durable_fragments: 0,
            is_name_durable: false,
        });
        self.segments.push_back(Segment { known: SegmentRecord { bytes, ..known }, record: None });
        self.bytes += bytes;
        self.evict_old();
        Ok(())
    }

    fn open_segment(&self) -> Option<&OpenSegment> {
        self.open.as_ref().and_then(|open| open.segment.as_ref())
    }

    /// Syncs the file that is being written. If that fails, what was not durable before is gone.
    fn sync_segment(&mut self) -> Result<(), RingError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(segment) = open.segment.as_mut().filter(|s| s.bytes > s.durable_bytes) else {
            return Ok(());
        };
        let path = segment.path.clone();
        let mut synced = segment.file.sync();
        if !segment.is_name_durable {
            synced = synced.and_then(|()| self.disk.sync_dir(&self.dir));
        }
        if let Err(error) = synced {
            self.roll_back(&error);
            return Err(io_error("sync", &path)(error));
        }
        segment.is_name_durable = true;
        segment.durable_bytes = segment.bytes;
        segment.durable_fragments = segment.fragments.len();
        if !open.tree.is_empty() {
            let commitment = RunCommitment { fragments: open.tree.len(), merkle_root: open.tree.root() };
            let (run, start) = (open.run.run, open.run.start);
            open.durable = Some(Durable { run, start, end: open.end, commitment });
        }
        Ok(())
    }

    /// After a failure that leaves unknown what is on the disk: the run ends with what was durable. If the rest can't be
    /// cut off, the index does not count it.
    fn roll_back(&mut self, why: &io::Error) {
        let Some(open) = &mut self.open else { return };
        open.failed = Some(why.to_string());
        let Some(mut segment) = open.segment.take() else { return };
        let Some(mut last) = self.segments.pop_back() else { return };
        self.bytes -= last.known.bytes;
        segment.fragments.truncate(segment.durable_fragments);
        let result = match segment.fragments.last() {
            Some(end) => {
                (last.known.end, last.known.bytes) = (end.end, segment.durable_bytes);
                self.bytes += last.known.bytes;
                self.segments.push_back(last);
                segment.file.set_len(segment.durable_bytes)
            }
            None => self.disk.remove(&segment.path),
        };
        if let Err(error) = result {
            tracing::debug!(%error, path = %segment.path.display(), "what is not durable can't be cut off");
        }
    }

    /// Enters closed segments and reports.
    fn sync_journal(&mut self) -> Result<(), RingError> {
        let is_open = usize::from(self.open_segment().is_some());
        let closed = self.segments.len().saturating_sub(is_open);
        let first = self.segments.range(..closed).rposition(|s| s.record.is_some()).map_or(0, |n| n + 1);
        if first == closed && self.reports.is_empty() {
            return Ok(());
        }
        if self.is_journal_failed {
            self.journal.reopen()?;
            self.is_journal_failed = false;
        }
        let append = |journal: &mut Journal, segments: &VecDeque<Segment>, reports: &VecDeque<Report>| {
            let mut records = Vec::new();
            for segment in segments.range(first..closed) {
                records.push(journal.append(&segment.known.encode())?);
            }
            reports.iter().try_for_each(|report| journal.append(&report.encode()).map(drop))?;
            journal.sync()?;
            Ok(records)
        };
        match append(&mut self.journal, &self.segments, &self.reports) {
            Ok(records) => {
                let entered = self.segments.range_mut(first..closed);
                entered.zip(records).for_each(|(segment, record)| segment.record = Some(record));
                self.reports.clear();
                self.shorten_journal();
                Ok(())
            }
            Err(error) => {
                // What was not entered is tried again; should it have got in all the same, it stands there twice.
                self.is_journal_failed = true;
                Err(RingError::Journal(error))
            }
        }
    }

    fn keep(&self) -> SignedDuration {
        SignedDuration::from_hours(24 * i64::from(self.config.days))
    }

    /// Removes the oldest segments until `bytes` more fit.
    fn evict_for(&mut self, bytes: u64) {
        while self.can_give_up() && self.bytes + bytes > self.config.bytes_per_camera {
            if self.remove_oldest().is_none() {
                break;
            }
        }
    }

    /// Removes the segments that ended longer ago than the ring keeps them.
    fn evict_old(&mut self) {
        let keep = self.keep();
        let (Some(first), Some(last)) = (self.segments.front(), self.segments.back()) else { return };
        let between = last.known.end.duration_since(first.known.start);
        if first.known.is_sure && last.known.is_sure && between <= keep {
            return;
        }
        let mut too_old = 0;
        self.look_at_ages(|segment, age| too_old += usize::from(age - length_of(segment) > keep));
        for _ in 0..too_old {
            if self.remove_oldest().is_none() {
                break;
            }
        }
    }

    fn remove_oldest(&mut self) -> Option<u64> {
        let oldest = self.segments.front().filter(|_| self.can_give_up())?;
        let path = self.dir.join(file_name(&oldest.known));
        if let Err(error) = self.disk.remove(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, path = %path.display(), "ring segment can't be removed");
            return None;
        }
        let bytes = self.segments.pop_front().map(|segment| segment.known.bytes)?;
        self.bytes -= bytes;
        Some(bytes)
    }

    /// Drops the part of the journal that no segment needs any more.
    fn shorten_journal(&mut self) {
        let for_reports = self.journal.next().saturating_sub(RING_INDEX_RECORDS_MIN);
        let for_segments = self.segments.front().and_then(|oldest| oldest.record).unwrap_or(for_reports);
        if let Err(error) = self.journal.drop_before(for_segments.min(for_reports)) {
            tracing::error!(%error, "ring journal can't be shortened");
        }
    }

    fn take_index(&mut self, mut index: Index, recovery: &mut RingRecovery) -> Result<(), RingError> {
        let mut names = self.numbers_on_disk(recovery)?;
        let numbers = names.keys().next_back().max(index.segments.keys().next_back());
        self.next_number = numbers.map_or(0, |number| number.saturating_add(1));
        let mut segments = BTreeMap::new();
        for (number, (known, record)) in std::mem::take(&mut index.segments) {
            if names.remove(&number).is_some() {
                segments.insert(number, Segment { known, record: Some(record) });
            } else if !segments.is_empty() {
                // Before the first that is there: overwritten. Later: lost.
                recovery.lost.push(format!("{} is missing", file_name(&known)));
            }
        }
        let is_unclosed = !names.is_empty();
        for (number, name) in names {
            let path = self.dir.join(name);
            match self.recover(number, &path, recovery) {
                Ok(Some(known)) => drop(segments.insert(number, Segment { known, record: None })),
                Ok(None) => {}
                Err(error) => recovery.lost.push(format!("{}: {error}", path.display())),
            }
        }
        if is_unclosed {
            self.disk.sync_dir(&self.dir).map_err(io_error("sync", &self.dir))?;
        }
        self.segments = segments.into_values().collect();
        self.bytes = self.segments.iter().map(|segment| segment.known.bytes).sum();
        recovery.last_run = self.last_run(recovery);
        recovery.lost.append(&mut index.lost);
        recovery.reports = index.reports.into();
        recovery.eras = index.eras;
        self.check_reports(recovery);
        self.sync_journal()
    }

    /// The segment files by their numbers.
    fn numbers_on_disk(&self, recovery: &mut RingRecovery) -> Result<BTreeMap<u64, String>, RingError> {
        let (mut names, mut strangers) = (BTreeMap::new(), 0);
        for name in self.disk.list(&self.dir).map_err(io_error("list", &self.dir))? {
            match number_of(&name) {
                Some(number) => drop(names.insert(number, name)),
                None => strangers += u64::from(name.ends_with(".mp4")),
            }
        }
        if strangers > 0 {
            let dir = self.dir.display();
            recovery.lost.push(format!("{strangers} files in {dir} are not of this version; take them away"));
        }
        Ok(names)
    }

    /// What a segment that is not known as closed holds; cuts off what is not whole. None if that is all of it: then
    /// the file is removed, nothing was ever said about it.
    fn recover(
        &self,
        number: u64,
        path: &Path,
        recovery: &mut RingRecovery,
    ) -> io::Result<Option<SegmentRecord>> {
        let file = self.disk.open(path, Access::Write)?;
        let length = file.size()?;
        let mut found = None;
        if let Ok(begin) = segment::read_beginning(file.as_ref())? {
            let entries = whole_entries(file.as_ref(), &begin, length)?;
            if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
                let known = SegmentRecord {
                    number,
                    run: begin.head.run,
                    start: first.0.start,
                    end: last.0.end,
                    bytes: last.1 + u64::from(last.0.bytes),
                    is_sure: begin.head.clock.sync == SyncState::Synced,
                };
                // Its name says the same, or it could not be found again.
                found = (path.file_name() == Some(file_name(&known).as_ref())).then_some(known);
            }
        }
        recovery.torn_bytes += length - found.map_or(0, |known| known.bytes);
        match &found {
            Some(known) if known.bytes < length => file.set_len(known.bytes)?,
            Some(_) => {}
            None => self.disk.remove(path)?,
        }
        if found.is_some() {
            file.sync()?;
        }
        Ok(found)
    }

    fn last_run(&self, recovery: &mut RingRecovery) -> Option<Durable> {
        let last = &self.segments.back()?.known;
        let path = self.dir.join(file_name(last));
        match self.read_file(&path, last.bytes) {
            Ok((begin, entries)) => {
                let mut tree = begin.head.tree;
                entries.iter().for_each(|(entry, _)| tree.push(&entry.sha256));
                let commitment = RunCommitment { fragments: tree.len(), merkle_root: tree.root() };
                Some(Durable { run: last.run, start: begin.head.start, end: last.end, commitment })
            }
            Err(error) => {
                recovery.lost.push(error.with_cause());
                None
            }
        }
    }

    /// A report commits fragments: those of the last run must be there.
    fn check_reports(&self, recovery: &mut RingRecovery) {
        let Some(last) = recovery.last_run else { return };
        let said = recovery.reports.iter().find(|report| report.coverage.span == last.run);
        let said = said.and_then(|report| report.coverage.run).map_or(0, |run| run.fragments);
        if said > last.commitment.fragments {
            let (from, upto) = (last.commitment.fragments, said - 1);
            recovery.lost.push(format!("fragments {from} to {upto} of run {} were durable", last.run));
        }
    }

    fn read_file(&self, path: &Path, until: u64) -> Result<(Beginning, Vec<(Entry, u64)>), RingError> {
        let read = || {
            let file = self.disk.open(path, Access::Read)?;
            let begin = segment::read_beginning(file.as_ref())?.map_err(io::Error::other)?;
            let entries = segment::read_entries(file.as_ref(), &begin, until)?.entries;
            Ok((begin, entries))
        };
        read().map_err(io_error("read", path))
    }

    /// The fragments of a closed segment. `run` is that of the one before.
    fn read_segment(
        &self,
        known: &SegmentRecord,
        run: &mut Option<Arc<Run>>,
    ) -> Result<Vec<FragmentEntry>, RingError> {
        let path = Arc::new(self.dir.join(file_name(known)));
        let (begin, entries) = self.read_file(&path, known.bytes)?;
        let Beginning { head, track, .. } = begin;
        let new = Run { run: head.run, start: head.start, clock: head.clock, track };
        let run = match run {
            Some(run) if **run == new => run.clone(),
            run => run.insert(Arc::new(new)).clone(),
        };
        Ok(entries.iter().map(|(entry, offset)| placed(&run, &path, entry, *offset)).collect())
    }
}

impl RingError {
    fn with_cause(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }

    /// True if the disk has no room.
    pub fn is_full(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } | Self::Journal(JournalError::Io { source, .. }) => source,
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The entries up to the first whose fragment is not whole. What was synced before the last of them was written is not
/// read: the disk has said that it is there, and reading a fragment checks it.
fn whole_entries(file: &dyn DiskFile, begin: &Beginning, length: u64) -> io::Result<Vec<(Entry, u64)>> {
    let mut entries = segment::read_entries(file, begin, length)?.entries;
    let durable = entries.iter().map(|(entry, _)| entry.durable).max().unwrap_or(0);
    let mut whole = entries.partition_point(|(entry, _)| entry.number < durable);
    let mut bytes = Vec::new();
    while let Some((entry, offset)) = entries.get(whole) {
        bytes.resize(entry.bytes as usize, 0);
        let got = file.read_at(*offset, &mut bytes)?;
        if Sha256Hash::of(&bytes[..got]) != entry.sha256 {
            break;
        }
        whole += 1;
    }
    entries.truncate(whole);
    Ok(entries)
}

/// The fragment's bytes, checked against its hash.
pub fn read_fragment(entry: &FragmentEntry) -> Result<Vec<u8>, RingError> {
    read_fragment_on(&RealDisk, entry)
}

/// As [`read_fragment`], on any disk.
pub fn read_fragment_on(disk: &dyn Disk, entry: &FragmentEntry) -> Result<Vec<u8>, RingError> {
    let mut bytes = vec![0; entry.bytes as usize];
    let read = disk.open(&entry.path, Access::Read).and_then(|file| file.read_at(entry.offset, &mut bytes));
    let got = read.map_err(io_error("read", &entry.path))?;
    if Sha256Hash::of(&bytes[..got]) != entry.sha256 {
        let (path, run) = (entry.path.to_path_buf(), entry.run.run);
        return Err(RingError::Changed { path, run, number: entry.number, offset: entry.offset });
    }
    Ok(bytes)
}

/// `time` and `ticks` of the timeline later (or earlier, if negative).
pub fn after_ticks(time: Time, ticks: i64) -> Time {
    let ns = i128::from(ticks) * 1_000_000_000 / i128::from(TIMESCALE);
    Time::from_nanosecond(time.as_nanosecond() + ns).unwrap_or(time)
}

fn placed(run: &Arc<Run>, path: &Arc<PathBuf>, entry: &Entry, offset: u64) -> FragmentEntry {
    FragmentEntry {
        run: run.clone(),
        number: entry.number,
        path: path.clone(),
        offset,
        bytes: entry.bytes,
        sha256: entry.sha256,
        start: entry.start,
        end: entry.end,
        first_pts: entry.first_pts,
        end_pts: entry.end_pts,
        sync: entry.sync,
    }
}

fn length_of(segment: &SegmentRecord) -> SignedDuration {
    segment.end.duration_since(segment.start).max(SignedDuration::ZERO)
}

/// `0000000042-20260301T170000.040Z-1f6c2a90.mp4`: sorts in the order of writing, and says its run. The number makes it
/// unique, whatever the clock says.
fn file_name(segment: &SegmentRecord) -> String {
    let run = segment.run.simple().to_string();
    format!("{:010}-{}-{}.mp4", segment.number, segment.start.strftime("%Y%m%dT%H%M%S%.3fZ"), &run[24..])
}

fn number_of(name: &str) -> Option<u64> {
    let (number, rest) = name.split_once('-')?;
    let is_number = number.len() >= 10 && number.bytes().all(|b| b.is_ascii_digit());
    (is_number && rest.ends_with(".mp4")).then(|| number.parse().ok())?
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> RingError {
    let path = path.to_owned();
    move |source| RingError::Io { what, path: path.clone(), source }
}
