//! Reading a journal: in order from a number on, or one record by its number, also while another thread writes.
//!
//! Owns telling damage from a torn tail when reading, and the small memory of what was read last. May not change
//! anything on the disk.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::disk::{Access, Disk, DiskFile, RealDisk};
use super::scan::{Bad, OpenError, Scan, Step, Want};
use super::segment::{self, Frame, Kind, Unpacked};
use super::store::{Damage, JournalError, io_error};
use crate::limits::{JOURNAL_CACHE_FRAMES_MAX, JOURNAL_CACHE_SEGMENTS_MAX};

/// One record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub number: u64,
    pub payload: Vec<u8>,
}

/// What a reader yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Record(Record),
    Damage(Damage),
}

/// As [`Item`], without a copy of the payload.
#[derive(Debug, PartialEq, Eq)]
pub enum ItemRef<'a> {
    Record { number: u64, payload: &'a [u8] },
    Damage(Damage),
}

/// What is durable in a journal, for any number of readers. Clones share what they remember.
#[derive(Clone)]
pub struct Records {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    extent: RwLock<Extent>,
    recent: Mutex<Recent>,
}

/// What there is to read.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    /// First record number of each segment, oldest first.
    pub segments: Vec<u64>,
    /// Records from here on are not durable yet.
    pub durable: u64,
}

/// What was read last, newest at the back.
#[derive(Default)]
struct Recent {
    frames: VecDeque<Arc<Unpacked>>,
    segments: VecDeque<Arc<OpenSegment>>,
}

struct OpenSegment {
    first: u64,
    file: Arc<dyn DiskFile>,
    /// Number and offset of a frame every [`INDEX_BYTES`], as far as somebody has walked.
    index: Mutex<Vec<(u64, u64)>>,
}

/// Distance of the places that are remembered in a segment.
const INDEX_BYTES: u64 = 64 << 10;

impl Records {
    /// The journal in `dir`, also while somebody else writes it: what stands in its files. A reader sees those that
    /// were there when it was made; [`Records::read_record`] looks for new ones.
    pub fn of_dir(dir: &Path) -> Result<Self, JournalError> {
        Self::of_dir_on(Arc::new(RealDisk), dir)
    }

    /// As [`Records::of_dir`], on another disk.
    pub fn of_dir_on(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, JournalError> {
        let segments = list_segments(disk.as_ref(), dir)?;
        Ok(Self::new(disk, dir, Extent { segments, durable: u64::MAX }))
    }

    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, extent: Extent) -> Self {
        let (extent, recent) = (RwLock::new(extent), Mutex::default());
        Self { shared: Arc::new(Shared { disk, dir: dir.to_owned(), extent, recent }) }
    }

    pub(super) fn set_extent(&self, change: impl FnOnce(&mut Extent)) {
        change(&mut self.shared.extent.write().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    fn extent(&self) -> Extent {
        self.shared.extent.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The records from `from` on, in order. Records that become durable later are not seen.
    pub fn read(&self, from: u64) -> Reader {
        Reader::new(self.clone(), self.extent(), from)
    }

    /// One record; None if it was dropped or is not there yet. Damage is an error that names what is lost.
    pub fn read_record(&self, number: u64) -> Result<Option<Record>, JournalError> {
        let mut found = self.frame_of(number)?;
        if found.is_none() && self.is_of_dir() && self.refresh()? {
            found = self.frame_of(number)?;
        }
        let payload = found.as_ref().and_then(|frame| frame.record(number));
        Ok(payload.map(|payload| Record { number, payload: payload.to_vec() }))
    }

    /// True if nobody tells us what is new.
    fn is_of_dir(&self) -> bool {
        self.shared.extent.read().unwrap_or_else(|poisoned| poisoned.into_inner()).durable == u64::MAX
    }

    /// Looks for segments that were begun or dropped since; true if there are any.
    fn refresh(&self) -> Result<bool, JournalError> {
        let segments = list_segments(self.shared.disk.as_ref(), &self.shared.dir)?;
        let has_changed = segments != self.extent().segments;
        self.set_extent(|extent| extent.segments = segments);
        Ok(has_changed)
    }

    fn frame_of(&self, number: u64) -> Result<Option<Arc<Unpacked>>, JournalError> {
        let Some((first, below, durable)) = self.segment_of(number) else { return Ok(None) };
        if let Some(frame) = self.recent().frame_of(number) {
            return Ok(Some(frame));
        }
        // The last segment of a journal that another process may be writing: what is bad there is not written yet.
        let is_live_tail = below == u64::MAX && durable == u64::MAX;
        let end = below.min(durable);
        let lost = |offset, why, from, next: u64| Err(self.damage(first, offset, why, from, next - 1).into());
        let mut walk = match self.begin(first, below) {
            Ok(walk) => walk,
            Err(Begin::Gone) => return Ok(None),
            Err(Begin::Damaged(_)) if is_live_tail => return Ok(None),
            Err(Begin::Damaged(why)) => return lost(0, why, first, end),
            Err(Begin::Failed(error)) => return Err(error),
        };
        walk.go_near(number);
        let found = walk.find(number).map_err(|error| io_error("read", &self.path(first), error))?;
        match found {
            Found::Frame => {
                let frame = Arc::new(std::mem::take(&mut walk.scan.unpacked));
                self.recent().keep_frame(frame.clone());
                Ok(Some(frame))
            }
            Found::Nothing | Found::Lost { next: None, .. } if is_live_tail => Ok(None),
            Found::Nothing => {
                let (offset, expected) = walk.scan.place();
                lost(offset, "the file ends early".into(), expected, end)
            }
            Found::Lost { offset, why, first_lost, next } => {
                lost(offset, why, first_lost, next.unwrap_or(end))
            }
        }
    }

    /// The segment that has or had the record, the next one's first record, and what is durable.
    fn segment_of(&self, number: u64) -> Option<(u64, u64, u64)> {
        let extent = self.shared.extent.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let at = extent.segments.partition_point(|&first| first <= number);
        let first = *extent.segments.get(at.checked_sub(1)?)?;
        let below = extent.segments.get(at).copied().unwrap_or(u64::MAX);
        (number < extent.durable).then_some((first, below, extent.durable))
    }

    /// Begins to walk through a segment.
    fn begin(&self, first: u64, below: u64) -> Result<Walk, Begin> {
        let known = self.recent().segment(first);
        let is_known = known.is_some();
        let path = self.path(first);
        let segment = match known {
            Some(segment) => segment,
            None => match self.shared.disk.open(&path, Access::Read) {
                Ok(file) => Arc::new(OpenSegment { first, file, index: Mutex::default() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.was_dropped(first) => {
                    return Err(Begin::Gone);
                }
                Err(error) => return Err(Begin::Failed(io_error("read", &path, error))),
            },
        };
        match Scan::begin(segment.file.clone(), first, below) {
            Ok((scan, _)) => {
                if !is_known {
                    self.recent().keep_segment(segment.clone());
                }
                Ok(Walk { scan, segment })
            }
            Err(OpenError::Io(error)) => Err(Begin::Failed(io_error("read", &path, error))),
            Err(OpenError::Header(error @ segment::HeaderError::Version(_))) => {
                Err(Begin::Failed(JournalError::Version { path, source: error }))
            }
            Err(OpenError::Header(error)) => Err(Begin::Damaged(error.to_string())),
        }
    }

    fn was_dropped(&self, first: u64) -> bool {
        if self.is_of_dir() && self.refresh().is_err() {
            return false;
        }
        !self.extent().segments.contains(&first)
    }

    fn path(&self, first: u64) -> PathBuf {
        self.shared.dir.join(segment::file_name(first))
    }

    fn damage(&self, segment: u64, offset: u64, why: String, first_lost: u64, last_lost: u64) -> Damage {
        Damage { path: self.path(segment), offset, why, first_lost, last_lost }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.shared.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Forgets what was read: the files have changed in a way that they do not in good order.
    pub(super) fn forget(&self) {
        *self.recent() = Recent::default();
    }
}

impl Recent {
    fn frame_of(&mut self, number: u64) -> Option<Arc<Unpacked>> {
        let at = self.frames.iter().position(|frame| frame.record(number).is_some())?;
        let frame = self.frames.remove(at)?;
        self.frames.push_back(frame.clone());
        Some(frame)
    }

    fn keep_frame(&mut self, frame: Arc<Unpacked>) {
        self.frames.push_back(frame);
        if self.frames.len() > JOURNAL_CACHE_FRAMES_MAX {
            self.frames.pop_front();
        }
    }

    fn segment(&self, first: u64) -> Option<Arc<OpenSegment>> {
        self.segments.iter().find(|segment| segment.first == first).cloned()
    }

    fn keep_segment(&mut self, segment: Arc<OpenSegment>) {
        self.segments.push_back(segment);
        if self.segments.len() > JOURNAL_CACHE_SEGMENTS_MAX {
            self.segments.pop_front();
        }
    }
}

enum Begin {
    /// The segment was dropped meanwhile.
    Gone,
    Damaged(String),
    Failed(JournalError),
}

/// A way through one segment that remembers places.
struct Walk {
    scan: Scan,
    segment: Arc<OpenSegment>,
}

enum Found {
    /// In the scan's `unpacked`.
    Frame,
    Lost {
        offset: u64,
        why: String,
        first_lost: u64,
        next: Option<u64>,
    },
    Nothing,
}

impl Walk {
    /// Goes to the last place that is known before `number`.
    fn go_near(&mut self, number: u64) {
        let index = self.index();
        let at = index.partition_point(|&(known, _)| known <= number);
        let place = at.checked_sub(1).map(|at| index[at]);
        drop(index);
        if let Some((known, offset)) = place {
            self.scan.go_to(offset, known);
        }
    }

    fn find(&mut self, number: u64) -> io::Result<Found> {
        loop {
            match self.step(number, Want::Records)? {
                Step::End => return Ok(Found::Nothing),
                Step::Frame { frame, .. } if frame.end() <= number => {}
                Step::Frame { offset, frame: Frame { kind: Kind::Lost, first, count, .. } } => {
                    let next = Some(first + u64::from(count));
                    let why = MARKED_LOST.to_owned();
                    return Ok(Found::Lost { offset, why, first_lost: first, next });
                }
                Step::Frame { .. } => return Ok(Found::Frame),
                Step::Bad(Bad { next: Some((_, next)), .. }) if next <= number => {}
                Step::Bad(Bad { offset, why, first_lost, next, .. }) => {
                    let next = next.map(|(_, next)| next);
                    return Ok(Found::Lost { offset, why, first_lost, next });
                }
            }
        }
    }

    /// As [`Scan::step`], and remembers the place.
    fn step(&mut self, skip_below: u64, want: Want) -> io::Result<Step> {
        let step = self.scan.step(skip_below, want)?;
        if let Step::Frame { offset, frame } = &step
            && frame.count > 0
        {
            let mut index = self.index();
            if index.last().is_none_or(|&(_, last)| *offset >= last + INDEX_BYTES) {
                index.push((frame.first, *offset));
            }
        }
        Ok(step)
    }

    fn index(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.segment.index.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Why records of a frame of kind lost can't be read.
pub(super) const MARKED_LOST: &str = "marked as lost by a repair";

/// Reads records in order; damage is an item of its own, and reading goes on behind it.
pub struct Reader {
    records: Records,
    segments: VecDeque<u64>,
    walk: Option<Walk>,
    /// Next record to yield.
    number: u64,
    until: u64,
}

impl Reader {
    fn new(records: Records, extent: Extent, from: u64) -> Self {
        let skip = extent.segments.partition_point(|&first| first <= from).saturating_sub(1);
        let segments: VecDeque<u64> = extent.segments.into_iter().skip(skip).collect();
        let number = from.max(segments.front().copied().unwrap_or(0));
        Self { records, segments, walk: None, number, until: extent.durable }
    }

    /// Reads a journal that another process may have open; sees what stands in its files now.
    pub fn of_dir(dir: &Path, from: u64) -> Result<Self, JournalError> {
        Ok(Records::of_dir(dir)?.read(from))
    }

    /// As [`Iterator::next`], without a copy of the payload.
    pub fn next_ref(&mut self) -> Result<Option<ItemRef<'_>>, JournalError> {
        loop {
            if self.number >= self.until {
                return Ok(None);
            }
            if self.walk.as_ref().is_some_and(|walk| walk.scan.unpacked.record(self.number).is_some()) {
                break;
            }
            if self.walk.is_none() {
                match self.open_next()? {
                    Opened::Segment => {}
                    Opened::Damage(damage) => return Ok(Some(ItemRef::Damage(damage))),
                    Opened::Nothing => return Ok(None),
                }
            }
            if let Some(damage) = self.advance()? {
                return Ok(Some(ItemRef::Damage(damage)));
            }
        }
        let number = self.number;
        self.number += 1;
        let walk = self.walk.as_ref().expect("it has the record");
        let payload = walk.scan.unpacked.record(number).expect("it has the record");
        Ok(Some(ItemRef::Record { number, payload }))
    }

    fn open_next(&mut self) -> Result<Opened, JournalError> {
        loop {
            let Some(first) = self.segments.pop_front() else { return Ok(Opened::Nothing) };
            if first >= self.until {
                return Ok(Opened::Nothing);
            }
            match self.records.begin(first, self.below()) {
                Ok(mut walk) => {
                    walk.go_near(self.number);
                    self.walk = Some(walk);
                    return Ok(Opened::Segment);
                }
                Err(Begin::Failed(error)) => return Err(error),
                Err(Begin::Gone) => {
                    self.number = self.number.max(self.segments.front().copied().unwrap_or(0))
                }
                Err(Begin::Damaged(why)) if self.is_live_tail() => {
                    tracing::debug!(segment = first, why, "a segment is just being made");
                    return Ok(Opened::Nothing);
                }
                Err(Begin::Damaged(why)) => {
                    let last_lost = self.below().min(self.until) - 1;
                    self.number = last_lost + 1;
                    return Ok(Opened::Damage(self.records.damage(first, 0, why, first, last_lost)));
                }
            }
        }
    }

    /// Goes on to the next frame that has something new. Leaves the segment at its end.
    fn advance(&mut self) -> Result<Option<Damage>, JournalError> {
        let (below, is_live_tail) = (self.below(), self.is_live_tail());
        let walk = self.walk.as_mut().expect("opened before");
        let first = walk.segment.first;
        let mut tried_again = None;
        loop {
            let step = walk.step(self.number, Want::Records);
            let step = step.map_err(|error| io_error("read", &self.records.path(first), error))?;
            let (offset, why, first_lost, next) = match step {
                Step::Frame { frame, .. } if frame.end() <= self.number => continue,
                Step::Frame { offset, frame } if frame.kind == Kind::Lost => {
                    (offset, MARKED_LOST.to_owned(), frame.first, Some(frame.end()))
                }
                Step::Frame { .. } => return Ok(None),
                Step::End => {
                    let (offset, expected) = walk.scan.place();
                    self.walk = None;
                    let end = below.min(self.until);
                    if is_live_tail || expected >= end {
                        return Ok(None);
                    }
                    self.number = end;
                    let why = "the file ends early".to_owned();
                    return Ok(Some(self.records.damage(first, offset, why, expected, end - 1)));
                }
                // Just being written, or torn: not damage.
                Step::Bad(bad) if is_live_tail && !bad.was_durable() => {
                    self.walk = None;
                    self.until = self.number;
                    return Ok(None);
                }
                Step::Bad(bad) if is_live_tail && tried_again != Some(bad.offset) => {
                    tried_again = Some(bad.offset);
                    walk.scan.try_again(&bad);
                    continue;
                }
                Step::Bad(bad) => (bad.offset, bad.why, bad.first_lost, bad.next.map(|(_, number)| number)),
            };
            let end = next.unwrap_or(below).min(self.until);
            if end <= self.number {
                continue;
            }
            if next.is_none() {
                self.walk = None;
            }
            self.number = end;
            return Ok(Some(self.records.damage(first, offset, why, first_lost, end - 1)));
        }
    }

    /// First record of the segment behind the one that was opened last.
    fn below(&self) -> u64 {
        self.segments.front().copied().unwrap_or(u64::MAX)
    }

    /// True in the last segment of a journal that another process may be writing.
    fn is_live_tail(&self) -> bool {
        self.segments.is_empty() && self.until == u64::MAX
    }
}

enum Opened {
    Segment,
    Damage(Damage),
    Nothing,
}

impl Iterator for Reader {
    type Item = Result<Item, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_ref().transpose()?;
        Some(item.map(|item| match item {
            ItemRef::Record { number, payload } => Item::Record(Record { number, payload: payload.to_vec() }),
            ItemRef::Damage(damage) => Item::Damage(damage),
        }))
    }
}

pub(super) fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, JournalError> {
    let names = disk.list(dir).map_err(|error| io_error("list", dir, error))?;
    let mut segments: Vec<u64> = names.iter().filter_map(|name| segment::parse_file_name(name)).collect();
    segments.sort_unstable();
    Ok(segments)
}
