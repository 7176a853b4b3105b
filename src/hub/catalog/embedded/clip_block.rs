//! Clips as blocks: what every question looks at first, then the rest compressed, then what no compression makes
//! smaller.
//!
//! Owns their bytes. Only clips that stand where they were recorded are here ([`Basis::Recorded`]); what a correction
//! moved is a key (`write.rs`). Pure: the bytes depend on the clips alone.
//!
//! A block is one byte version, the count of clips, the bytes of the two next parts (varints), the first part (by
//! column: source, start, length, margin), a zstd frame of the second (all other numbers, and a palette of videos and
//! runs), and by clip its id and hash (16 and 32 bytes), then the thumbnails' hashes.

use uuid::Uuid;

use super::columns::{put, take, unzigzag, zigzag};
use super::directory::BlockBounds;
use super::packing::{pack, unpack};
use super::sources::Sources;
use super::values::{ClipValue, ClockValue, StillValue};
use super::{Basis, VERSION};
use crate::hub::catalog::uncertain_us;
use crate::model::{ClockSource, SyncState, Time, Video};

/// Clips of one block. A question about a camera opens one in each run: what it does not ask for costs as much to read as
/// what it does. Smaller ones are compressed less well.
pub const BLOCK_CLIPS: usize = 32;
/// No second part of [`BLOCK_CLIPS`] clips is larger than this before compression.
const REST_BYTES_MAX: usize = 256 << 10;

/// A clip in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipEntry {
    pub source: u32,
    pub clip: Uuid,
    pub value: ClipValue,
    /// The hub has the file.
    pub stored: bool,
    pub thumbnail_stored: bool,
}

impl ClipEntry {
    pub fn start_us(&self) -> i64 {
        self.value.placed_start.as_microsecond()
    }
}

/// The bytes of some clips, which are by source, start and id.
pub fn write(clips: &[ClipEntry]) -> std::io::Result<(BlockBounds, Vec<u8>)> {
    let mut first = Vec::new();
    let (mut source, mut start) = (0, 0i64);
    for clip in clips {
        put(&mut first, u64::from(clip.source - source));
        source = clip.source;
    }
    for clip in clips {
        put(&mut first, zigzag(clip.start_us().wrapping_sub(start)));
        start = clip.start_us();
    }
    for clip in clips {
        put(&mut first, zigzag(clip.value.placed_end.as_microsecond() - clip.start_us()));
    }
    for clip in clips {
        put(&mut first, margin_us(clip));
    }
    let mut rest = Vec::new();
    pack(&write_rest(clips), &mut rest)?;
    let mut bytes = vec![VERSION];
    put(&mut bytes, clips.len() as u64);
    put(&mut bytes, first.len() as u64);
    put(&mut bytes, rest.len() as u64);
    bytes.extend_from_slice(&first);
    bytes.extend_from_slice(&rest);
    for clip in clips {
        bytes.extend_from_slice(clip.clip.as_bytes());
        bytes.extend_from_slice(&clip.value.sha256);
    }
    for still in clips.iter().filter_map(|clip| clip.value.thumbnail) {
        bytes.extend_from_slice(&still.sha256);
    }
    Ok((bounds(clips), bytes))
}

fn margin_us(clip: &ClipEntry) -> u64 {
    uncertain_us(clip.value.clock.uncertainty_ms) as u64
}

fn bounds(clips: &[ClipEntry]) -> BlockBounds {
    let margin = |clip: &ClipEntry| margin_us(clip) as i64;
    let starts = || clips.iter().map(ClipEntry::start_us);
    let reaches = clips.iter().map(|c| c.value.placed_end.as_microsecond().saturating_add(margin(c)));
    BlockBounds {
        source_min: clips.first().map_or(0, |clip| clip.source),
        source_max: clips.last().map_or(0, |clip| clip.source),
        start_min_us: starts().min().unwrap_or(0),
        start_max_us: starts().max().unwrap_or(0),
        margin_us: clips.iter().map(margin).max().and_then(|us| u32::try_from(us).ok()).unwrap_or(u32::MAX),
        reach_max_us: reaches.max().unwrap_or(0),
        ..BlockBounds::default()
    }
}

fn write_rest(clips: &[ClipEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut column = |number: &dyn Fn(&ClipValue) -> u64| {
        for clip in clips {
            put(&mut out, number(&clip.value));
        }
    };
    let us = |time: Time| time.as_microsecond();
    let beside = |time: Option<Time>, of: Time| match time {
        None => 0,
        Some(time) => zigzag(us(time).wrapping_sub(us(of))).wrapping_add(1),
    };
    column(&|v| zigzag(us(v.received).wrapping_sub(us(v.placed_end))));
    column(&|v| clock_code(v.clock.source, v.clock.sync));
    column(&|v| v.clock.offset_ms.map_or(0, |ms| zigzag(ms).wrapping_add(1)));
    column(&|v| v.clock.uncertainty_ms.map_or(0, |ms| ms.wrapping_add(1)));
    column(&|v| beside(v.motion_start, v.start));
    column(&|v| beside(v.motion_end, v.end));
    column(&|v| score_code(v.peak_score));
    column(&|v| v.bytes);
    column(&|v| v.first_fragment);
    column(&|v| v.fragments);
    column(&|v| v.thumbnail.map_or(0, |still| still.bytes.wrapping_add(1)));
    column(&|v| v.thumbnail.map_or(0, |still| zigzag(us(still.time).wrapping_sub(us(v.start)))));
    for clip in clips {
        out.push(u8::from(clip.stored) | u8::from(clip.thumbnail_stored) << 1);
    }
    for clip in clips.iter().filter(|clip| score_code(clip.value.peak_score) == 0) {
        out.extend_from_slice(&clip.value.peak_score.to_bits().to_le_bytes());
    }
    let mut videos: Vec<(&Video, &Option<String>)> = Vec::new();
    let mut runs: Vec<Uuid> = Vec::new();
    let mut chosen = Vec::new();
    for clip in clips {
        let video = (&clip.value.video, &clip.value.audio_codec);
        put(&mut chosen, place_in(&mut videos, video));
        put(&mut chosen, place_in(&mut runs, clip.value.run));
    }
    put(&mut out, videos.len() as u64);
    for (video, audio) in videos {
        put_text(&mut out, &video.codec);
        put(&mut out, video.width.into());
        put(&mut out, video.height.into());
        put(&mut out, u64::from(audio.is_some()));
        put_text(&mut out, audio.as_deref().unwrap_or_default());
    }
    put(&mut out, runs.len() as u64);
    for run in runs {
        out.extend_from_slice(run.as_bytes());
    }
    out.extend_from_slice(&chosen);
    out
}

/// Where `item` stands in the palette; at its end, if it is new.
fn place_in<T: PartialEq>(palette: &mut Vec<T>, item: T) -> u64 {
    // Neighbours are mostly alike.
    let known = palette.iter().rposition(|known| *known == item);
    known.unwrap_or_else(|| {
        palette.push(item);
        palette.len() - 1
    }) as u64
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn clock_code(source: ClockSource, sync: SyncState) -> u64 {
    let source = match source {
        ClockSource::Camera => 0,
        ClockSource::Box => 1,
    };
    let sync = match sync {
        SyncState::Synced => 0,
        SyncState::Unsynced => 1,
        SyncState::Unknown => 2,
    };
    source * 3 + sync
}

fn clock_of(code: u64) -> Result<(ClockSource, SyncState), String> {
    let source = match code / 3 {
        0 => ClockSource::Camera,
        1 => ClockSource::Box,
        _ => return Err(format!("clock {code}")),
    };
    let sync = [SyncState::Synced, SyncState::Unsynced, SyncState::Unknown][(code % 3) as usize];
    Ok((source, sync))
}

/// Scores of our boxes have four digits; of any other number the bits are kept, and 0 stands here.
fn score_code(score: f64) -> u64 {
    let rounded = (score * 1e4).round();
    let is_short = (0.0..1e6).contains(&rounded) && (rounded / 1e4).to_bits() == score.to_bits();
    if is_short { rounded as u64 + 1 } else { 0 }
}

/// A block, read as far as needed.
pub struct ClipBlock {
    bytes: Vec<u8>,
    heads: Vec<ClipHead>,
    rest: std::ops::Range<usize>,
    fixed: usize,
    values: Option<Rest>,
}

/// What every question looks at.
#[derive(Debug, Clone, Copy)]
pub struct ClipHead {
    pub source: u32,
    pub start_us: i64,
    pub end_us: i64,
    /// What the clock leaves open at both ends.
    pub margin_us: i64,
}

/// The second part, unpacked: column behind column, and what the numbers in them name.
struct Rest {
    columns: Vec<u64>,
    scores: Vec<f64>,
    flags: Vec<u8>,
    videos: Vec<(Video, Option<String>)>,
    runs: Vec<Uuid>,
    /// By clip: number of its video and of its run.
    chosen: Vec<(usize, usize)>,
}

/// The columns of the second part, in their order.
#[derive(Clone, Copy)]
enum Column {
    Received,
    Clock,
    Offset,
    Uncertainty,
    MotionStart,
    MotionEnd,
    Score,
    Bytes,
    FirstFragment,
    Fragments,
    StillBytes,
    StillTime,
}

const COLUMNS: usize = 12;

const FIXED_BYTES: usize = 16 + 32;

impl ClipBlock {
    pub fn open(bytes: Vec<u8>) -> Result<Self, String> {
        let (&version, mut head) = bytes.split_first().ok_or("no bytes")?;
        if version != VERSION {
            return Err(format!("block version {version}"));
        }
        let count = take(&mut head)? as usize;
        let first_bytes = take(&mut head)? as usize;
        let rest_bytes = take(&mut head)? as usize;
        if count > BLOCK_CLIPS || first_bytes > bytes.len() || rest_bytes > bytes.len() {
            return Err(format!("{count} clips, parts of {first_bytes} and {rest_bytes} bytes"));
        }
        let first = bytes.len() - head.len();
        let rest = first + first_bytes..first + first_bytes + rest_bytes;
        let fixed = rest.end;
        if bytes.len() < fixed + count * FIXED_BYTES {
            return Err("it ends early".into());
        }
        let heads = read_heads(&bytes[first..rest.start], count)?;
        Ok(Self { bytes, heads, rest, fixed, values: None })
    }

    pub fn heads(&self) -> &[ClipHead] {
        &self.heads
    }

    pub fn clip(&self, n: usize) -> Uuid {
        Uuid::from_bytes(*self.fixed(n).first_chunk().expect("an id has 16 bytes"))
    }

    fn fixed(&self, n: usize) -> &[u8] {
        &self.bytes[self.fixed + n * FIXED_BYTES..][..FIXED_BYTES]
    }

    /// The clip at this place.
    pub fn entry(&mut self, n: usize, sources: &Sources) -> Result<ClipEntry, String> {
        let values = match self.values.take() {
            Some(values) => values,
            None => self.read_rest()?,
        };
        let entry = self.entry_of(n, &values, sources);
        self.values = Some(values);
        entry
    }

    fn entry_of(&self, n: usize, rest: &Rest, sources: &Sources) -> Result<ClipEntry, String> {
        let head = self.heads[n];
        let (box_id, device) = sources.who(head.source).ok_or_else(|| format!("source {}", head.source))?;
        let device = device.ok_or("a clip of no device")?;
        let time = |us: i64| Time::from_microsecond(us).map_err(|e| e.to_string());
        let number = |column: Column| rest.columns[column as usize * self.heads.len() + n];
        let beside =
            |code: u64, of: i64| code.checked_sub(1).map(|c| time(of.wrapping_add(unzigzag(c)))).transpose();
        let (start, end) = (time(head.start_us)?, time(head.end_us)?);
        let (source, sync) = clock_of(number(Column::Clock))?;
        let (video, run) = rest.chosen[n];
        let (video, audio_codec) = rest.videos.get(video).ok_or("a video that is not there")?.clone();
        let value = ClipValue {
            device: device.clone(),
            box_id: box_id.clone(),
            received: time(head.end_us.wrapping_add(unzigzag(number(Column::Received))))?,
            clock: ClockValue {
                source,
                sync,
                offset_ms: number(Column::Offset).checked_sub(1).map(unzigzag),
                uncertainty_ms: number(Column::Uncertainty).checked_sub(1),
            },
            start,
            end,
            motion_start: beside(number(Column::MotionStart), head.start_us)?,
            motion_end: beside(number(Column::MotionEnd), head.end_us)?,
            peak_score: rest.scores[n],
            bytes: number(Column::Bytes),
            sha256: *self.fixed(n).last_chunk().expect("a hash has 32 bytes"),
            video,
            audio_codec,
            thumbnail: self.thumbnail(n, rest)?,
            run: *rest.runs.get(run).ok_or("a run that is not there")?,
            first_fragment: number(Column::FirstFragment),
            fragments: number(Column::Fragments),
            placed_start: start,
            placed_end: end,
            basis: Basis::Recorded,
        };
        Ok(ClipEntry {
            source: head.source,
            clip: self.clip(n),
            value,
            stored: rest.flags[n] & 1 != 0,
            thumbnail_stored: rest.flags[n] & 2 != 0,
        })
    }

    /// Hash, bytes and time of a clip's thumbnail; the hashes stand behind all clips, of those that have one.
    fn thumbnail(&self, n: usize, rest: &Rest) -> Result<Option<StillValue>, String> {
        let count = self.heads.len();
        let bytes = &rest.columns[Column::StillBytes as usize * count..][..count];
        let Some(of_this) = bytes[n].checked_sub(1) else { return Ok(None) };
        let before = bytes[..n].iter().filter(|&&code| code > 0).count();
        let at = self.fixed + count * FIXED_BYTES + before * 32;
        let sha256 = self.bytes.get(at..at + 32).and_then(|b| b.first_chunk()).ok_or("it ends early")?;
        let behind = unzigzag(rest.columns[Column::StillTime as usize * count + n]);
        let time =
            Time::from_microsecond(self.heads[n].start_us.wrapping_add(behind)).map_err(|e| e.to_string())?;
        Ok(Some(StillValue { sha256: *sha256, bytes: of_this, time }))
    }

    fn read_rest(&self) -> Result<Rest, String> {
        let plain = unpack(&self.bytes[self.rest.clone()], REST_BYTES_MAX)?;
        let mut from = plain.as_slice();
        let from = &mut from;
        let count = self.heads.len();
        let mut columns = Vec::with_capacity(COLUMNS * count);
        for _ in 0..COLUMNS * count {
            columns.push(take(from)?);
        }
        let flags = from.split_off(..count).ok_or("it ends early")?.to_vec();
        let codes = &columns[Column::Score as usize * count..][..count];
        let scores = codes.iter().map(|&code| score_of(code, from)).collect::<Result<Vec<f64>, String>>()?;
        let videos = read_videos(from)?;
        let runs = take(from)? as usize;
        let runs = from.split_off(..runs.saturating_mul(16)).ok_or("it ends early")?;
        let runs =
            runs.chunks_exact(16).map(|id| Uuid::from_bytes(id.try_into().expect("16 bytes"))).collect();
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count {
            chosen.push((take(from)? as usize, take(from)? as usize));
        }
        Ok(Rest { columns, scores, flags, videos, runs, chosen })
    }
}

fn read_heads(mut first: &[u8], count: usize) -> Result<Vec<ClipHead>, String> {
    let mut heads = vec![ClipHead { source: 0, start_us: 0, end_us: 0, margin_us: 0 }; count];
    let (mut source, mut start) = (0u32, 0i64);
    for head in &mut heads {
        source = source.wrapping_add(take(&mut first)? as u32);
        head.source = source;
    }
    for head in &mut heads {
        start = start.wrapping_add(unzigzag(take(&mut first)?));
        head.start_us = start;
    }
    for head in &mut heads {
        head.end_us = head.start_us.wrapping_add(unzigzag(take(&mut first)?));
    }
    for head in &mut heads {
        head.margin_us = take(&mut first)? as i64;
    }
    Ok(heads)
}

fn score_of(code: u64, from: &mut &[u8]) -> Result<f64, String> {
    if code > 0 {
        return Ok((code - 1) as f64 / 1e4);
    }
    let bits = from.split_off(..8).and_then(|bytes| bytes.first_chunk()).ok_or("it ends early")?;
    Ok(f64::from_bits(u64::from_le_bytes(*bits)))
}

fn read_videos(from: &mut &[u8]) -> Result<Vec<(Video, Option<String>)>, String> {
    let count = take(from)? as usize;
    if count > BLOCK_CLIPS {
        return Err(format!("{count} videos"));
    }
    let mut videos = Vec::with_capacity(count);
    for _ in 0..count {
        let codec = take_text(from)?;
        let (width, height) = (take(from)? as u32, take(from)? as u32);
        let has_audio = take(from)? == 1;
        let audio = take_text(from)?;
        videos.push((Video { codec, width, height }, has_audio.then_some(audio)));
    }
    Ok(videos)
}

fn take_text(from: &mut &[u8]) -> Result<String, String> {
    let bytes = take(from)? as usize;
    let text = from.split_off(..bytes).ok_or("it ends early")?;
    String::from_utf8(text.to_vec()).map_err(|e| e.to_string())
}
