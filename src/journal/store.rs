//! A directory of segments: open and recover, append, sync, read, drop the oldest.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::segment::{self, HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::limits::{JOURNAL_RECORD_BYTES_MAX, JOURNAL_SEGMENT_BYTES_MAX};

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
}

/// What opening found.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Recovery {
    /// Bytes of a torn tail that were cut off the last segment. They held no durable record.
    pub torn_bytes: u64,
    /// Damage in older segments; it stays where it is.
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

/// The one writer of a directory.
pub struct Journal {
    dir: PathBuf,
    /// First record number of each segment, oldest first; the last one is open for writing.
    segments: Vec<u64>,
    file: File,
    file_bytes: u64,
    next: u64,
    buffer: Vec<u8>,
    poisoned: Option<String>,
    segment_bytes_max: u64,
    _lock: File,
}

impl Journal {
    /// Opens or creates the journal in `dir`, cuts a torn tail off, and says what was found.
    pub fn open(dir: &Path) -> Result<(Self, Recovery), JournalError> {
        Self::open_with(dir, JOURNAL_SEGMENT_BYTES_MAX)
    }

    /// As [`Journal::open`], with segments of another size.
    pub fn open_with(dir: &Path, segment_bytes_max: u64) -> Result<(Self, Recovery), JournalError> {
        std::fs::create_dir_all(dir).map_err(|e| io_error("create", dir, e))?;
        let lock = take_lock(dir)?;
        let mut segments = list_segments(dir)?;
        let mut recovery = Recovery::default();
        for pair in segments.windows(2) {
            recovery.damage.extend(check_segment(dir, pair[0], pair[1])?);
        }
        // A last segment with a torn header never held a durable record: take it away and use its number.
        let mut first_of_new = 0;
        if let Some(&last) = segments.last() {
            let path = dir.join(segment::file_name(last));
            let mut header = Vec::new();
            File::open(&path)
                .and_then(|f| f.take(HEADER_BYTES).read_to_end(&mut header))
                .map_err(|e| io_error("read", &path, e))?;
            if segment::decode_header(&header).is_err() && holds_no_record(&path)? {
                recovery.torn_bytes +=
                    std::fs::metadata(&path).map_err(|e| io_error("read", &path, e))?.len();
                std::fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
                segments.pop();
                first_of_new = last;
            }
        }
        let (file, file_bytes, next) = match segments.last() {
            Some(&last) if first_of_new == 0 => open_last(dir, last, &mut recovery)?,
            _ => {
                let (file, bytes) = create_segment(dir, first_of_new)?;
                segments.push(first_of_new);
                (file, bytes, first_of_new)
            }
        };
        let journal = Self {
            dir: dir.to_owned(),
            segments,
            file,
            file_bytes,
            next,
            buffer: Vec::new(),
            poisoned: None,
            segment_bytes_max,
            _lock: lock,
        };
        Ok((journal, recovery))
    }

    /// Number that the next appended record gets. Record numbers start at 0 and have no holes.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Number of the oldest record that is still here.
    pub fn first(&self) -> u64 {
        self.segments[0]
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
        let pending = self.file_bytes + self.buffer.len() as u64;
        if pending >= self.segment_bytes_max && pending > HEADER_BYTES {
            self.roll()?;
        }
        let number = self.next;
        segment::encode_record(number, payload, &mut self.buffer);
        self.next += 1;
        Ok(number)
    }

    /// Makes every appended record durable (one write, one fdatasync).
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.check_poison()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(segment::file_name(*self.segments.last().expect("always one")));
        let written = self.file.write_all(&self.buffer).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.poisoned = Some(error.to_string());
            return Err(io_error("write", &path, error));
        }
        self.file_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The durable records from `from` on, in order. Records appended later are not seen.
    pub fn read(&self, from: u64) -> Reader {
        Reader::new(self.dir.clone(), self.segments.clone(), from, self.durable_next())
    }

    /// Removes whole segments that hold only records below `number`. Returns how many.
    pub fn drop_before(&mut self, number: u64) -> Result<usize, JournalError> {
        let mut dropped = 0;
        while self.segments.len() > 1 && self.segments[1] <= number {
            let path = self.dir.join(segment::file_name(self.segments[0]));
            std::fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
            self.segments.remove(0);
            dropped += 1;
        }
        Ok(dropped)
    }

    /// First record of each segment with the segment's file, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = (u64, PathBuf)> + '_ {
        self.segments.iter().map(|&first| (first, self.dir.join(segment::file_name(first))))
    }

    /// Bytes of all segments on disk.
    pub fn bytes(&self) -> u64 {
        self.segments().filter_map(|(_, path)| std::fs::metadata(path).ok()).map(|m| m.len()).sum()
    }

    /// Closes the open segment and starts the next, so that the closed one can be dropped later.
    pub fn roll(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        if self.file_bytes <= HEADER_BYTES {
            return Ok(());
        }
        let made = create_segment(&self.dir, self.next);
        let (file, bytes) = match made {
            Ok(made) => made,
            Err(error) => {
                self.poisoned = Some(error.to_string());
                return Err(error);
            }
        };
        self.file = file;
        self.file_bytes = bytes;
        self.segments.push(self.next);
        Ok(())
    }

    /// After a failed write: goes back to what was synced and takes records again. What was appended but never
    /// synced is gone, also where it reached the file: after a failed sync the kernel may show what is not on the
    /// disk. So is a segment that could not be made whole: it would claim numbers that the open one goes on with.
    pub fn reopen(&mut self) -> Result<Recovery, JournalError> {
        let mut recovery = Recovery::default();
        let last = *self.segments.last().expect("always one");
        for stray in list_segments(&self.dir)?.into_iter().filter(|&first| first > last) {
            let path = self.dir.join(segment::file_name(stray));
            std::fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
        }
        let path = self.dir.join(segment::file_name(last));
        recovery.torn_bytes = cut_back(&path, self.file_bytes).map_err(|e| io_error("cut", &path, e))?;
        let (file, file_bytes, next) = open_last(&self.dir, last, &mut recovery)?;
        (self.file, self.file_bytes, self.next) = (file, file_bytes, next);
        self.buffer.clear();
        self.poisoned = None;
        Ok(recovery)
    }

    fn durable_next(&self) -> u64 {
        let mut at = 0;
        let mut pending = 0;
        while at < self.buffer.len() {
            let length = u32::from_le_bytes(self.buffer[at..at + 4].try_into().expect("four bytes"));
            at += RECORD_HEADER_BYTES as usize + length as usize;
            pending += 1;
        }
        self.next - pending
    }

    fn check_poison(&self) -> Result<(), JournalError> {
        match &self.poisoned {
            Some(why) => Err(JournalError::Poisoned { path: self.dir.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }
}

/// Reads records in order; damage is an item of its own, and reading goes on at the next segment.
pub struct Reader {
    dir: PathBuf,
    segments: VecDeque<u64>,
    open: Option<OpenSegment>,
    from: u64,
    until: u64,
}

struct OpenSegment {
    path: PathBuf,
    file: BufReader<File>,
    offset: u64,
    number: u64,
}

impl Reader {
    fn new(dir: PathBuf, segments: Vec<u64>, from: u64, until: u64) -> Self {
        let skip = segments.partition_point(|&first| first <= from).saturating_sub(1);
        Self { dir, segments: segments.into_iter().skip(skip).collect(), open: None, from, until }
    }

    /// Reads a journal that another process may have open; sees what stands in its files now.
    pub fn of_dir(dir: &Path, from: u64) -> Result<Self, JournalError> {
        Ok(Self::new(dir.to_owned(), list_segments(dir)?, from, u64::MAX))
    }

    fn read_next(&mut self) -> Result<Option<Item>, JournalError> {
        loop {
            if self.open.is_none() {
                let Some(first) = self.segments.pop_front() else { return Ok(None) };
                if first >= self.until {
                    return Ok(None);
                }
                let path = self.dir.join(segment::file_name(first));
                match open_for_reading(&path, first) {
                    Ok(open) => self.open = Some(open),
                    Err(OpenError::Io(error)) => return Err(io_error("read", &path, error)),
                    Err(OpenError::Bad(why)) => return Ok(Some(self.damage(path, 0, why, first))),
                }
            }
            let open = self.open.as_mut().expect("opened above");
            if open.number >= self.until {
                return Ok(None);
            }
            let (number, offset) = (open.number, open.offset);
            match open.next_record() {
                Ok(Some(record)) if record.number < self.from => continue,
                Ok(Some(record)) => return Ok(Some(Item::Record(record))),
                Ok(None) => {
                    let path = open.path.clone();
                    self.open = None;
                    match self.segments.front() {
                        Some(&next) if next != number => {
                            let why = "the file ends early".to_owned();
                            return Ok(Some(self.damage(path, offset, why, number)));
                        }
                        _ => continue,
                    }
                }
                Err(OpenError::Io(error)) => return Err(io_error("read", &open.path, error)),
                Err(OpenError::Bad(why)) => {
                    let path = open.path.clone();
                    self.open = None;
                    if self.segments.is_empty() && self.until == u64::MAX {
                        // The tail of a journal that is being written: not damage.
                        return Ok(None);
                    }
                    return Ok(Some(self.damage(path, offset, why, number)));
                }
            }
        }
    }

    fn damage(&self, path: PathBuf, offset: u64, why: String, first_lost: u64) -> Item {
        let next = self.segments.front().copied().unwrap_or(self.until);
        Item::Damage(Damage { path, offset, why, first_lost, last_lost: next.saturating_sub(1) })
    }
}

impl Iterator for Reader {
    type Item = Result<Item, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

enum OpenError {
    Io(io::Error),
    Bad(String),
}

impl OpenSegment {
    /// The next record, or None at a clean end.
    fn next_record(&mut self) -> Result<Option<Record>, OpenError> {
        let mut header = [0; RECORD_HEADER_BYTES as usize];
        match read_up_to(&mut self.file, &mut header).map_err(OpenError::Io)? {
            0 => return Ok(None),
            n if n < header.len() => return Err(OpenError::Bad("the last record is cut off".into())),
            _ => {}
        }
        let record = segment::decode_record_header(header).map_err(OpenError::Bad)?;
        let Some(record) = record else {
            return Err(OpenError::Bad("zeros where a record should be".into()));
        };
        let mut payload = vec![0; record.length];
        if read_up_to(&mut self.file, &mut payload).map_err(OpenError::Io)? < record.length {
            return Err(OpenError::Bad("the last record is cut off".into()));
        }
        let length = header[..4].try_into().expect("four bytes");
        if segment::record_crc(self.number, length, &payload) != record.crc {
            return Err(OpenError::Bad(format!("the checksum of record {} is wrong", self.number)));
        }
        let number = self.number;
        self.number += 1;
        self.offset += RECORD_HEADER_BYTES + record.length as u64;
        Ok(Some(Record { number, payload }))
    }
}

fn open_for_reading(path: &Path, first: u64) -> Result<OpenSegment, OpenError> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path).map_err(OpenError::Io)?);
    let mut header = [0; HEADER_BYTES as usize];
    let got = read_up_to(&mut file, &mut header).map_err(OpenError::Io)?;
    let says = segment::decode_header(&header[..got]).map_err(OpenError::Bad)?;
    if says != first {
        return Err(OpenError::Bad(format!("its name says record {first}, its header record {says}")));
    }
    Ok(OpenSegment { path: path.to_owned(), file, offset: HEADER_BYTES, number: first })
}

fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// Opens the last segment for writing behind its last good record.
fn open_last(dir: &Path, first: u64, recovery: &mut Recovery) -> Result<(File, u64, u64), JournalError> {
    let path = dir.join(segment::file_name(first));
    let mut open = match open_for_reading(&path, first) {
        Ok(open) => open,
        Err(OpenError::Io(error)) => return Err(io_error("read", &path, error)),
        Err(OpenError::Bad(why)) => {
            let error = io::Error::new(io::ErrorKind::InvalidData, why);
            return Err(io_error("read the header of", &path, error));
        }
    };
    loop {
        match open.next_record() {
            Ok(Some(_)) => {}
            Ok(None) | Err(OpenError::Bad(_)) => break,
            Err(OpenError::Io(error)) => return Err(io_error("read", &path, error)),
        }
    }
    let mut file = OpenOptions::new().write(true).open(&path).map_err(|e| io_error("open", &path, e))?;
    let length = file.metadata().map_err(|e| io_error("read", &path, e))?.len();
    if length > open.offset {
        recovery.torn_bytes += length - open.offset;
        file.set_len(open.offset).map_err(|e| io_error("cut", &path, e))?;
    }
    // A process that was killed may have written this without a sync; who reads it takes it for durable.
    file.sync_all().and_then(|()| File::open(dir)?.sync_all()).map_err(|e| io_error("sync", &path, e))?;
    file.seek(SeekFrom::End(0)).map_err(|e| io_error("open", &path, e))?;
    Ok((file, open.offset, open.number))
}

/// Shortens a file; returns by how many bytes.
fn cut_back(path: &Path, to_bytes: u64) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let too_many = file.metadata()?.len().saturating_sub(to_bytes);
    if too_many > 0 {
        file.set_len(to_bytes)?;
    }
    Ok(too_many)
}

fn check_segment(dir: &Path, first: u64, next: u64) -> Result<Option<Damage>, JournalError> {
    let mut reader = Reader::new(dir.to_owned(), vec![first], first, next);
    let mut expected = first;
    loop {
        match reader.read_next()? {
            Some(Item::Record(record)) => expected = record.number + 1,
            Some(Item::Damage(damage)) => return Ok(Some(damage)),
            None if expected == next => return Ok(None),
            None => {
                let path = dir.join(segment::file_name(first));
                let why = "the file ends early".to_owned();
                return Ok(Some(Damage { path, offset: 0, why, first_lost: expected, last_lost: next - 1 }));
            }
        }
    }
}

/// True if the file has nothing behind its (bad) header but zeros or nothing.
fn holds_no_record(path: &Path) -> Result<bool, JournalError> {
    let bytes = std::fs::read(path).map_err(|e| io_error("read", path, e))?;
    Ok(bytes.len() <= HEADER_BYTES as usize || bytes[HEADER_BYTES as usize..].iter().all(|&b| b == 0))
}

fn create_segment(dir: &Path, first: u64) -> Result<(File, u64), JournalError> {
    let path = dir.join(segment::file_name(first));
    let make = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(&segment::encode_header(first))?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    make().map(|file| (file, HEADER_BYTES)).map_err(|e| io_error("create", &path, e))
}

fn list_segments(dir: &Path) -> Result<Vec<u64>, JournalError> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| io_error("list", dir, e))? {
        let entry = entry.map_err(|e| io_error("list", dir, e))?;
        segments.extend(entry.file_name().to_str().and_then(segment::parse_file_name));
    }
    segments.sort_unstable();
    Ok(segments)
}

fn take_lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error("create", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(JournalError::Locked { path: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(e)) => Err(io_error("lock", &path, e)),
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { what, path: path.to_owned(), source }
}
