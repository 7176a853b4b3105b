//! Looking after a journal: is it whole, and what to do where it is not.
//!
//! Owns the account of every segment, and the repair that keeps what can be read under its number. May not guess:
//! what can't be read is marked as lost, and the damaged file is kept beside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Access, Disk, DiskFile, ReadAt};
use super::read::{MARKED_LOST, list_segments};
use super::scan::{OpenError, Scan, Step, Want};
use super::segment::{self, Frame, HEADER_BYTES, Header, HeaderError, Kind};
use super::store::{Damage, JournalError, io_error, is_unborn, take_lock};

/// The account of one segment.
#[derive(Debug, Clone, Default)]
pub struct SegmentReport {
    pub path: PathBuf,
    /// First record, and the number behind the last one.
    pub first: u64,
    pub next: u64,
    pub frames: u64,
    /// Records that can be read.
    pub records: u64,
    /// Of the file, and of the records before they were packed.
    pub bytes: u64,
    pub raw_bytes: u64,
    /// Behind the last good frame of the last segment, and nothing says that it was durable: it is being written,
    /// or the next start will cut it off.
    pub torn_bytes: u64,
    pub damage: Vec<Damage>,
    /// What else is wrong although no record is lost by it.
    pub blemishes: Vec<String>,
}

impl SegmentReport {
    pub fn is_good(&self) -> bool {
        self.damage.is_empty() && self.blemishes.is_empty()
    }
}

/// Reads every byte of every segment. The journal may be open elsewhere.
pub fn check(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentReport>, JournalError> {
    let segments = list_segments(disk, dir)?;
    let mut reports = Vec::with_capacity(segments.len());
    for (at, &first) in segments.iter().enumerate() {
        let path = dir.join(segment::file_name(first));
        let file = match disk.open(&path, Access::Read) {
            Ok(file) => file,
            // Dropped since it was listed: the oldest ones go while a journal is in use.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("read", &path, error)),
        };
        let bytes = file.size().map_err(|e| io_error("read", &path, e))?;
        let below = segments.get(at + 1).copied();
        let report =
            read_segment(file, &path, first, below, |_, _| {}).map_err(|e| io_error("read", &path, e))?;
        reports.push(SegmentReport { bytes, ..report });
    }
    Ok(reports)
}

/// Reads a whole segment from memory and hands out its records. Never fails on any bytes: what it can't read
/// stands in the report.
pub fn read_bytes(bytes: Vec<u8>, each: impl FnMut(u64, &[u8])) -> SegmentReport {
    let first = Header::decode(&bytes).map_or(0, |header| header.first);
    let path = PathBuf::from(segment::file_name(first));
    let size = bytes.len() as u64;
    let report = read_segment(Arc::new(bytes), &path, first, None, each).expect("memory can be read");
    SegmentReport { bytes: size, ..report }
}

/// `below` is the first record of the next segment, None for the last one.
fn read_segment(
    file: Arc<dyn ReadAt>,
    path: &Path,
    first: u64,
    below: Option<u64>,
    mut each: impl FnMut(u64, &[u8]),
) -> io::Result<SegmentReport> {
    let mut report = SegmentReport { path: path.to_owned(), first, next: first, ..SegmentReport::default() };
    let end = below.unwrap_or(u64::MAX);
    let damage = |offset, why: String, first_lost, next: u64| Damage {
        path: path.to_owned(),
        offset,
        why,
        first_lost,
        last_lost: next - 1,
    };
    let mut scan = match begin(&file, first, end, &mut report)? {
        Ok(scan) => scan,
        Err(_) if below.is_none() && is_unborn(file.as_ref())? => {
            report.torn_bytes = file_end(&file, 0)?;
            return Ok(report);
        }
        Err(why) => {
            let next = below.unwrap_or(first + 1);
            report.damage.push(damage(0, why, first, next));
            report.next = next;
            return Ok(report);
        }
    };
    let mut tried_again = None;
    loop {
        let (offset, expected) = scan.place();
        report.next = expected;
        match scan.step(0, Want::Records)? {
            Step::End => {
                if let Some(next) = below.filter(|&next| next > expected) {
                    report.damage.push(damage(offset, "the file ends early".into(), expected, next));
                    report.next = next;
                }
                return Ok(report);
            }
            Step::Frame { frame, offset } => {
                report.frames += 1;
                report.raw_bytes += u64::from(frame.raw_bytes);
                if frame.kind == Kind::Lost {
                    report.damage.push(damage(offset, MARKED_LOST.to_owned(), frame.first, frame.end()));
                    continue;
                }
                report.records += u64::from(frame.count);
                for number in frame.first..frame.end() {
                    each(number, scan.unpacked.record(number).expect("the frame has it"));
                }
            }
            Step::Bad(bad) => {
                let next = bad.next.map(|(_, number)| number);
                if below.is_none() && !(bad.was_durable() && next.is_some()) {
                    report.torn_bytes = file_end(&file, bad.offset)? - bad.offset;
                    return Ok(report);
                }
                // Somebody may have been writing there a moment ago.
                if below.is_none() && tried_again != Some(bad.offset) {
                    tried_again = Some(bad.offset);
                    scan.try_again(&bad);
                    continue;
                }
                let next = next.unwrap_or(end);
                if next > bad.first_lost {
                    report.damage.push(damage(bad.offset, bad.why, bad.first_lost, next));
                } else {
                    let why = format!("at byte {}: {}; no record is lost by it", bad.offset, bad.why);
                    report.blemishes.push(why);
                }
                if bad.next.is_none() {
                    report.next = next;
                    return Ok(report);
                }
            }
        }
    }
}

/// Begins to walk, or says why that is not possible.
fn begin(
    file: &Arc<dyn ReadAt>,
    first: u64,
    below: u64,
    report: &mut SegmentReport,
) -> io::Result<Result<Scan, String>> {
    match Scan::begin(file.clone(), first, below) {
        Ok((scan, why)) => {
            report.blemishes.extend(why.map(|why| format!("{why}; the first frame makes it good")));
            Ok(Ok(scan))
        }
        Err(OpenError::Io(error)) => Err(error),
        Err(OpenError::Header(why)) => Ok(Err(why.to_string())),
    }
}

/// Where a file ends that has a byte at `from` at least.
fn file_end(file: &Arc<dyn ReadAt>, from: u64) -> io::Result<u64> {
    let mut bytes = vec![0; 64 << 10];
    let mut at = from;
    loop {
        match file.read_at(at, &mut bytes)? {
            0 => return Ok(at),
            got => at += got as u64,
        }
    }
}

/// What a repair did with one segment.
#[derive(Debug, Clone)]
pub struct Repaired {
    pub path: PathBuf,
    /// The damaged file, as it was.
    pub kept_as: PathBuf,
    pub records_kept: u64,
    /// First and last record of each range that is now marked as lost.
    pub lost: Vec<(u64, u64)>,
}

/// Writes every damaged segment anew: records that can be read keep their numbers, the lost ones are marked. The
/// damaged file stays beside it. Nobody else may have the journal open.
pub fn repair(disk: &dyn Disk, dir: &Path) -> Result<Vec<Repaired>, JournalError> {
    let _lock = take_lock(disk, dir)?;
    let mut repaired = Vec::new();
    let segments = list_segments(disk, dir)?;
    for report in check(disk, dir)? {
        let is_only_marked = report.damage.iter().all(|damage| damage.why == MARKED_LOST);
        if report.blemishes.is_empty() && is_only_marked {
            continue;
        }
        let below = segments.iter().copied().find(|&first| first > report.first);
        let done =
            repair_segment(disk, dir, &report, below).map_err(|e| io_error("repair", &report.path, e))?;
        repaired.push(done);
    }
    Ok(repaired)
}

fn repair_segment(
    disk: &dyn Disk,
    dir: &Path,
    report: &SegmentReport,
    below: Option<u64>,
) -> io::Result<Repaired> {
    let file = disk.open(&report.path, Access::Read)?;
    refuse_other_version(file.as_ref())?;
    let kept_as = keep_copy(disk, &report.path, file.as_ref())?;
    let name = report.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let made_path = dir.join(format!("{name}.repair"));
    match disk.remove(&made_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let salt = disk.draw();
    let mut made = Made { file: disk.create(&made_path)?, salt, bytes: 0, lost: Vec::new(), records: 0 };
    made.write(&Header { first: report.first, salt }.encode())?;
    copy_readable(file.clone(), report.first, below, &mut made)?;
    made.file.sync()?;
    disk.rename(&made_path, &report.path)?;
    disk.sync_dir(dir)?;
    Ok(Repaired { path: report.path.clone(), kept_as, records_kept: made.records, lost: made.lost })
}

/// Copies the good frames and marks what lies between them.
fn copy_readable(file: Arc<dyn DiskFile>, first: u64, below: Option<u64>, made: &mut Made) -> io::Result<()> {
    let mut expected = first;
    if let Ok((mut scan, _)) = Scan::begin(file, first, below.unwrap_or(u64::MAX)) {
        loop {
            match scan.step(0, Want::Records)? {
                Step::Frame { frame, .. } if frame.kind == Kind::Lost => {}
                Step::Frame { offset, frame } => {
                    made.mark_lost(expected, frame.first)?;
                    expected = frame.end();
                    let bytes = scan.frame_bytes(offset, &frame)?;
                    made.copy(&frame, &bytes[segment::FRAME_HEADER_BYTES..])?;
                }
                Step::Bad(bad) if below.is_none() && !bad.was_durable() => break,
                Step::Bad(_) => {}
                Step::End => break,
            }
        }
        // Behind the last good frame there may be only lost ones.
        made.mark_lost(expected, below.unwrap_or(scan.place().1))
    } else {
        made.mark_lost(expected, below.unwrap_or(first))
    }
}

/// A segment that takes another one's place.
struct Made {
    file: Arc<dyn DiskFile>,
    salt: u32,
    bytes: u64,
    records: u64,
    lost: Vec<(u64, u64)>,
}

impl Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.bytes, bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn copy(&mut self, frame: &Frame, payload: &[u8]) -> io::Result<()> {
        // All of it is synced before it gets the segment's name.
        let frame = Frame { salt: self.salt, durable_upto: frame.first, ..*frame };
        self.records += u64::from(frame.count);
        self.write(&frame.encode())?;
        self.write(payload)
    }

    fn mark_lost(&mut self, from: u64, next: u64) -> io::Result<()> {
        let mut at = from;
        while at < next {
            let count = u32::try_from(next - at).unwrap_or(u32::MAX);
            self.write(&Frame::without_payload(self.salt, at, count).encode())?;
            at += u64::from(count);
        }
        if from < next {
            self.lost.push((from, next - 1));
        }
        Ok(())
    }
}

fn refuse_other_version(file: &dyn DiskFile) -> io::Result<()> {
    let mut bytes = [0; HEADER_BYTES as usize];
    let got = file.read_at(0, &mut bytes)?;
    match Header::decode(&bytes[..got]) {
        Err(error @ HeaderError::Version(_)) => Err(io::Error::new(io::ErrorKind::Unsupported, error)),
        _ => Ok(()),
    }
}

/// Copies a file to `<name>.damaged`, or `<name>.damaged.1` and so on, durably.
fn keep_copy(disk: &dyn Disk, path: &Path, file: &dyn DiskFile) -> io::Result<PathBuf> {
    const COPIES_MAX: u32 = 100;
    let mut attempt = 0;
    let (kept_as, copy) = loop {
        let suffix = if attempt == 0 { ".damaged".to_owned() } else { format!(".damaged.{attempt}") };
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match disk.create(Path::new(&name)) {
            Ok(copy) => break (PathBuf::from(name), copy),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < COPIES_MAX => {
                attempt += 1
            }
            Err(error) => return Err(error),
        }
    };
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(at, &mut bytes)? {
            0 => break,
            got => {
                copy.write_at(at, &bytes[..got])?;
                at += got as u64;
            }
        }
    }
    copy.sync()?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok(kept_as)
}
