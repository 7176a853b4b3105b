//! A directory of segments: open and recover, append, sync, drop the oldest. The one writer.
//!
//! Owns what is durable. Reading is [`super::read`]'s.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::disk::{Access, Disk, DiskFile, ReadAt, RealDisk};
use super::read::{Extent, MARKED_LOST, Reader, Records, list_segments};
use super::scan::{Bad, OpenError, Scan, Step, Want};
use super::segment::{self, Frame, HEADER_BYTES, Header, HeaderError, Kind, Packer};
use crate::limits::{JOURNAL_FRAME_BYTES_MAX, JOURNAL_RECORD_BYTES_MAX, JOURNAL_SEGMENT_BYTES_MAX};

#[cfg(test)]
mod tests;

/// What went wrong with a journal, and where.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal {path}: cannot {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("journal {path}: another process has it open")]
    Locked { path: PathBuf },
    #[error("a record of {bytes} bytes; 1 to {JOURNAL_RECORD_BYTES_MAX} are taken")]
    RecordSize { bytes: usize },
    #[error("journal {path}: an earlier write failed ({why}); it must be opened anew")]
    Poisoned { path: PathBuf, why: String },
    #[error("journal {path} can't be read")]
    Version { path: PathBuf, source: HeaderError },
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// What opening found.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Recovery {
    /// Bytes of a torn tail that were cut off the last segment. Nothing says that they held a durable record.
    pub torn_bytes: u64,
    /// Damage in the last segment; it stays where it is. Older segments are not read when a journal is opened:
    /// who reads them hears of theirs.
    pub damage: Vec<Damage>,
}

/// A stretch of a segment that can't be read, by name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is damaged at byte {offset}: {why}; records {first_lost} to {last_lost} cannot be read")]
pub struct Damage {
    pub path: PathBuf,
    pub offset: u64,
    pub why: String,
    pub first_lost: u64,
    pub last_lost: u64,
}

/// How a journal is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A segment is closed when it reaches this size.
    pub segment_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes_max: JOURNAL_SEGMENT_BYTES_MAX }
    }
}

/// The one writer of a directory.
pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    /// Oldest first; the last one is open for writing.
    segments: Vec<Segment>,
    open: OpenSegment,
    /// Number that the next record gets.
    next: u64,
    /// Records below this are synced.
    durable: u64,
    /// Records of the frame that is being gathered, and how many.
    raw: Vec<u8>,
    raw_count: u32,
    /// Whole frames that the next sync writes.
    sealed: Vec<u8>,
    packer: Packer,
    records: Records,
    poisoned: Option<String>,
    _lock: Box<dyn Send + Sync>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    bytes: u64,
}

/// The segment that is being written.
struct OpenSegment {
    file: Arc<dyn DiskFile>,
    salt: u32,
    /// Where the next frame goes; all before is synced.
    bytes: u64,
    /// Records below this are known as synced to who reads the file.
    marked: u64,
}

impl Journal {
    /// Opens or creates the journal in `dir`, cuts a torn tail off, and says what was found.
    pub fn open(dir: &Path) -> Result<(Self, Recovery), JournalError> {
        Self::open_on(Arc::new(RealDisk), dir, Options::default())
    }

    /// As [`Journal::open`], with segments of another size.
    pub fn open_with(dir: &Path, segment_bytes_max: u64) -> Result<(Self, Recovery), JournalError> {
        Self::open_on(Arc::new(RealDisk), dir, Options { segment_bytes_max })
    }

    /// As [`Journal::open`], on any disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Recovery), JournalError> {
        disk.create_dir_all(dir).map_err(|e| io_error("create", dir, e))?;
        let lock = take_lock(disk.as_ref(), dir)?;
        let mut segments = Vec::new();
        for first in list_segments(disk.as_ref(), dir)? {
            let path = dir.join(segment::file_name(first));
            let file = disk.open(&path, Access::Read);
            let bytes = file.and_then(|file| file.size()).map_err(|e| io_error("read", &path, e))?;
            segments.push(Segment { first, bytes });
        }
        if let Some(oldest) = segments.first() {
            check_version(disk.as_ref(), &dir.join(segment::file_name(oldest.first)))?;
        }
        let mut recovery = Recovery::default();
        let unborn = take_away_unborn(disk.as_ref(), dir, &mut segments, &mut recovery)?;
        let (open, next) = match (unborn, segments.last()) {
            (None, Some(last)) => recover_last(disk.as_ref(), dir, last.first, &mut recovery)?,
            (begin_at, _) => {
                // What stands before an unborn segment was synced whole, so it stays closed.
                let begin_at = begin_at.unwrap_or(0);
                segments.push(Segment { first: begin_at, bytes: HEADER_BYTES });
                (create_segment(disk.as_ref(), dir, begin_at)?, begin_at)
            }
        };
        segments.last_mut().expect("always one").bytes = open.bytes;
        let extent =
            Extent { segments: segments.iter().map(|segment| segment.first).collect(), durable: next };
        let journal = Self {
            records: Records::new(disk.clone(), dir, extent),
            disk,
            dir: dir.to_owned(),
            options,
            segments,
            open,
            next,
            durable: next,
            raw: Vec::new(),
            raw_count: 0,
            sealed: Vec::new(),
            packer: Packer::default(),
            poisoned: None,
            _lock: lock,
        };
        Ok((journal, recovery))
    }

    /// Number that the next appended record gets. Record numbers start at 0 and have no holes.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Records below this number are durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Number of the oldest record that is still here.
    pub fn first(&self) -> u64 {
        self.segments[0].first
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes a record; it is durable only after [`Journal::sync`]. Returns its number.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, JournalError> {
        self.check_poison()?;
        if !(1..=JOURNAL_RECORD_BYTES_MAX).contains(&payload.len()) {
            return Err(JournalError::RecordSize { bytes: payload.len() });
        }
        let pending = self.open.bytes + (self.sealed.len() + self.raw.len()) as u64;
        if pending >= self.options.segment_bytes_max && pending > HEADER_BYTES {
            self.roll()?;
        }
        if self.raw.len() + segment::record_bytes_max(payload) > JOURNAL_FRAME_BYTES_MAX {
            self.seal();
        }
        segment::push_record(payload, &mut self.raw);
        self.raw_count += 1;
        let number = self.next;
        self.next += 1;
        Ok(number)
    }

    /// Makes every appended record durable (one write, one sync).
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.check_poison()?;
        self.seal();
        if self.sealed.is_empty() {
            return Ok(());
        }
        let file = &self.open.file;
        let written = file.write_at(self.open.bytes, &self.sealed).and_then(|()| file.sync());
        if let Err(error) = written {
            let path = self.open_path();
            self.poisoned = Some(error.to_string());
            return Err(io_error("write", &path, error));
        }
        self.open.bytes += self.sealed.len() as u64;
        self.open.marked = self.durable;
        self.segments.last_mut().expect("always one").bytes = self.open.bytes;
        self.sealed.clear();
        self.durable = self.next;
        self.records.set_extent(|extent| extent.durable = self.durable);
        Ok(())
    }

    /// The durable records from `from` on, in order. Records appended later are not seen.
    pub fn read(&self, from: u64) -> Reader {
        self.records.read(from)
    }

    /// One durable record.
    pub fn read_record(&self, number: u64) -> Result<Option<super::Record>, JournalError> {
        self.records.read_record(number)
    }

    /// What is durable, for other threads to read.
    pub fn records(&self) -> Records {
        self.records.clone()
    }

    /// Removes whole segments that hold only records below `number`. Returns how many.
    pub fn drop_before(&mut self, number: u64) -> Result<usize, JournalError> {
        let mut dropped = 0;
        let mut result = Ok(());
        while self.segments.len() > 1 && self.segments[1].first <= number {
            let oldest = self.segments[0].first;
            let path = self.path(oldest);
            // Readers first: they must not look for what is being removed.
            self.records.set_extent(|extent| {
                extent.segments.remove(0);
            });
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It stays, and so does what stands behind it: a hole would look like loss.
                    self.records.set_extent(|extent| extent.segments.insert(0, oldest));
                    result = Err(io_error("remove", &path, error));
                    break;
                }
                _ => {}
            }
            self.segments.remove(0);
            dropped += 1;
        }
        if dropped > 0 {
            let synced = self.disk.sync_dir(&self.dir).map_err(|e| io_error("sync", &self.dir, e));
            result = result.and(synced);
        }
        result.map(|()| dropped)
    }

    /// First record of each segment with the segment's file, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = (u64, PathBuf)> + '_ {
        self.segments.iter().map(|segment| (segment.first, self.path(segment.first)))
    }

    /// When the segment that begins with `first` was written last.
    pub fn modified(&self, first: u64) -> Result<SystemTime, JournalError> {
        let path = self.path(first);
        let file = self.disk.open(&path, Access::Read);
        file.and_then(|file| file.modified()).map_err(|e| io_error("read", &path, e))
    }

    /// Bytes of all segments on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Closes the open segment and starts the next, so that the closed one can be dropped later.
    pub fn roll(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        if self.segments.last().expect("always one").first == self.next {
            return Ok(());
        }
        match create_segment(self.disk.as_ref(), &self.dir, self.next) {
            Ok(open) => self.open = open,
            Err(error) => {
                self.poisoned = Some(error.to_string());
                return Err(error);
            }
        }
        self.segments.push(Segment { first: self.next, bytes: HEADER_BYTES });
        self.records.set_extent(|extent| extent.segments.push(self.next));
        Ok(())
    }

    /// After a failed write: goes back to what was synced and takes records again. What was appended but never
    /// synced is gone, also where it reached the file: after a failed sync the kernel may show what is not on the
    /// disk. So is a segment that could not be made whole: it would claim numbers that the open one goes on with.
    pub fn reopen(&mut self) -> Result<Recovery, JournalError> {
        let last = self.segments.last().expect("always one").first;
        let mut recovery = Recovery::default();
        for stray in list_segments(self.disk.as_ref(), &self.dir)?.into_iter().filter(|&first| first > last) {
            let path = self.path(stray);
            self.disk.remove(&path).map_err(|e| io_error("remove", &path, e))?;
        }
        // Before anything is appended: the stray one must not come back behind it.
        self.disk.sync_dir(&self.dir).map_err(|e| io_error("sync", &self.dir, e))?;
        let path = self.path(last);
        let cut = || {
            let file = self.disk.open(&path, Access::Write)?;
            let torn_bytes = file.size()?.saturating_sub(self.open.bytes);
            file.set_len(self.open.bytes)?;
            file.sync()?;
            Ok((file, torn_bytes))
        };
        let (file, torn_bytes) = cut().map_err(|e| io_error("cut", &path, e))?;
        recovery.torn_bytes = torn_bytes;
        self.open.file = file;
        self.next = self.durable;
        self.raw.clear();
        self.raw_count = 0;
        self.sealed.clear();
        self.records.forget();
        self.poisoned = None;
        Ok(recovery)
    }

    /// Closes the frame that is being gathered.
    fn seal(&mut self) {
        if self.raw_count == 0 {
            return;
        }
        let first = self.next - u64::from(self.raw_count);
        let salt = self.open.salt;
        self.packer.add_frame(salt, first, self.raw_count, self.durable, &self.raw, &mut self.sealed);
        self.raw.clear();
        self.raw_count = 0;
    }

    fn path(&self, first: u64) -> PathBuf {
        self.dir.join(segment::file_name(first))
    }

    fn open_path(&self) -> PathBuf {
        self.path(self.segments.last().expect("always one").first)
    }

    fn check_poison(&self) -> Result<(), JournalError> {
        match &self.poisoned {
            Some(why) => Err(JournalError::Poisoned { path: self.dir.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }
}

impl Drop for Journal {
    /// Marks the last frame as synced, so that damage to it will not be taken for a torn write. The mark itself is
    /// not synced: nothing depends on it.
    fn drop(&mut self) {
        if self.poisoned.is_none() && self.open.marked < self.durable {
            let mark = Frame::without_payload(self.open.salt, self.durable, 0).encode();
            if let Err(error) = self.open.file.write_at(self.open.bytes, &mark) {
                tracing::debug!(dir = %self.dir.display(), %error, "journal closed without a mark");
            }
        }
    }
}

/// Refuses a journal of another version, before anything is changed.
fn check_version(disk: &dyn Disk, path: &Path) -> Result<(), JournalError> {
    let mut bytes = [0; HEADER_BYTES as usize];
    let read = disk.open(path, Access::Read).and_then(|file| file.read_at(0, &mut bytes));
    let got = read.map_err(|e| io_error("read", path, e))?;
    match Header::decode(&bytes[..got]) {
        Err(source @ HeaderError::Version(_)) => Err(JournalError::Version { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Takes a last segment away whose header was never whole, and returns its number: it held no record.
fn take_away_unborn(
    disk: &dyn Disk,
    dir: &Path,
    segments: &mut Vec<Segment>,
    recovery: &mut Recovery,
) -> Result<Option<u64>, JournalError> {
    let Some(&last) = segments.last() else { return Ok(None) };
    let path = dir.join(segment::file_name(last.first));
    let file = disk.open(&path, Access::Read);
    if !file.and_then(|file| is_unborn(file.as_ref())).map_err(|e| io_error("read", &path, e))? {
        return Ok(None);
    }
    disk.remove(&path).map_err(|e| io_error("remove", &path, e))?;
    disk.sync_dir(dir).map_err(|e| io_error("sync", dir, e))?;
    recovery.torn_bytes += last.bytes;
    segments.pop();
    Ok(Some(last.first))
}

/// True if the header is not whole and nothing but zeros stands behind it.
pub(super) fn is_unborn(file: &dyn ReadAt) -> io::Result<bool> {
    let mut bytes = vec![0; 64 << 10];
    let mut at = file.read_at(0, &mut bytes[..HEADER_BYTES as usize])? as u64;
    if !matches!(Header::decode(&bytes[..at as usize]), Err(HeaderError::Bad(_))) {
        return Ok(false);
    }
    loop {
        let got = file.read_at(at, &mut bytes)?;
        if bytes[..got].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
        at += got as u64;
    }
}

/// Opens the last segment for writing behind its last good frame. Returns the next record's number with it.
fn recover_last(
    disk: &dyn Disk,
    dir: &Path,
    first: u64,
    recovery: &mut Recovery,
) -> Result<(OpenSegment, u64), JournalError> {
    let path = dir.join(segment::file_name(first));
    let file = disk.open(&path, Access::Write).map_err(|e| io_error("open", &path, e))?;
    let mut scan = match Scan::begin(file.clone(), first, u64::MAX) {
        Ok((scan, None)) => scan,
        Ok((scan, Some(why))) => {
            tracing::error!(path = %path.display(), %why, "journal header is damaged; no record is lost by it");
            scan
        }
        Err(OpenError::Io(error)) => return Err(io_error("read", &path, error)),
        Err(OpenError::Header(source @ HeaderError::Version(_))) => {
            return Err(JournalError::Version { path, source });
        }
        Err(OpenError::Header(HeaderError::Bad(why))) => {
            return Err(Damage { path, offset: 0, why, first_lost: first, last_lost: u64::MAX }.into());
        }
    };
    // Bytes from here on are not known to be synced.
    let mut unmarked_at = 0;
    let mut marked = first;
    let mut damage = |offset, why, first_lost, next: u64| {
        recovery.damage.push(Damage { path: path.clone(), offset, why, first_lost, last_lost: next - 1 });
    };
    let (end, next) = loop {
        let place = scan.place();
        match scan.step(0, Want::Checked).map_err(|e| io_error("read", &path, e))? {
            Step::End => break place,
            Step::Frame { offset, frame } => {
                if frame.durable_upto > marked {
                    marked = frame.durable_upto;
                    unmarked_at = offset;
                }
                if frame.kind == Kind::Lost {
                    damage(offset, MARKED_LOST.to_owned(), frame.first, frame.end());
                }
            }
            Step::Bad(bad) => match bad.next {
                Some((_, next)) if bad.was_durable() && next > bad.first_lost => {
                    damage(bad.offset, bad.why, bad.first_lost, next);
                }
                Some(_) if bad.was_durable() => {
                    let Bad { offset, why, .. } = bad;
                    tracing::error!(path = %path.display(), offset, why, "bad bytes; no record is lost by them");
                }
                _ => break place,
            },
        }
    };
    let tidy = || {
        let size = file.size()?;
        if size > end {
            file.set_len(end)?;
        }
        // A write that was killed, or whose sync failed, may be shown without being on the disk, and held for
        // clean. Written again it is dirty again, and this sync says the truth.
        write_again(file.as_ref(), unmarked_at, end)?;
        file.sync()?;
        disk.sync_dir(dir)?;
        Ok(size.saturating_sub(end))
    };
    recovery.torn_bytes += tidy().map_err(|e| io_error("sync", &path, e))?;
    Ok((OpenSegment { salt: scan.salt(), file, bytes: end, marked }, next))
}

fn write_again(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut bytes = vec![0; (to - from).min(1 << 20) as usize];
    let mut at = from;
    while at < to {
        let part = (to - at).min(bytes.len() as u64) as usize;
        let got = file.read_at(at, &mut bytes[..part])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(at, &bytes[..got])?;
        at += got as u64;
    }
    Ok(())
}

fn create_segment(disk: &dyn Disk, dir: &Path, first: u64) -> Result<OpenSegment, JournalError> {
    let path = dir.join(segment::file_name(first));
    let salt = disk.draw();
    let make = || {
        let file = disk.create(&path)?;
        file.write_at(0, &Header { first, salt }.encode())?;
        file.sync()?;
        disk.sync_dir(dir)?;
        Ok(file)
    };
    let file = make().map_err(|e| io_error("create", &path, e))?;
    Ok(OpenSegment { file, salt, bytes: HEADER_BYTES, marked: first })
}

pub(super) fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>, JournalError> {
    let path = dir.join("lock");
    match disk.lock(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(JournalError::Locked { path: dir.to_owned() }),
        Err(error) => Err(io_error("lock", &path, error)),
    }
}

pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { what, path: path.to_owned(), source }
}
