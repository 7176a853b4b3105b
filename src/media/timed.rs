//! A clip's bytes with the times that a demultiplexer needs: a `tfdt` in each fragment that has none.
//!
//! The ring writes fragments without `tfdt`, so that a joined clip begins at zero (`edge/fmp4.rs`); a player counts on
//! from the fragment before, GStreamer's demultiplexer begins at zero again with each. It also shifts all pictures where
//! some are shown before their decode time, as FFmpeg does: so the pictures' own times are read here too. Changes the
//! bytes on their way to the demultiplexer only, and what has a `tfdt`, or is no fragment, not at all. No GStreamer here.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::MP4_HEAD_BYTES_MAX;

/// Bytes that are handed on at once.
const PIECE_BYTES: u64 = 256 << 10;
/// A `tfdt` of version 1: size, type, version and flags, 64 bits of time.
const TFDT_BYTES: usize = 20;
/// `tfhd` flags before the usual duration of a sample, and that one (ISO/IEC 14496-12, 8.8.7).
const TFHD_BASE_OFFSET: u32 = 0x1;
const TFHD_DESCRIPTION: u32 = 0x2;
const TFHD_DURATION: u32 = 0x8;
/// `trun` flags (8.8.8).
const TRUN_DATA_OFFSET: u32 = 0x1;
const TRUN_FIRST_FLAGS: u32 = 0x4;
const TRUN_DURATION: u32 = 0x100;
const TRUN_OFFSET: u32 = 0x800;
/// Those of the fields of a sample, 4 bytes each, and of those before the offset.
const TRUN_FIELDS: u32 = 0xf00;
const TRUN_BEFORE_OFFSET: u32 = 0x700;

/// When the pictures that were handed on are shown, in decode order, nanoseconds from the clip's beginning.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<Mutex<VecDeque<u64>>>);

impl Shown {
    /// That of the next picture; None where the clip does not say it so.
    pub fn next(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn put(&self, times: impl Iterator<Item = u64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(times);
    }
}

/// Reads an MP4 file in pieces, timed.
pub struct Timed<R> {
    file: R,
    /// Ticks of each track up to here.
    clocks: BTreeMap<u32, u64>,
    /// The video's track and its ticks per second; none where its pictures' times can't be told.
    video: Option<(u32, u32)>,
    shown: Shown,
    /// Bytes of the box that is handed on as it is.
    plain: u64,
    audio: Option<[u8; 4]>,
}

impl<R: Read> Timed<R> {
    pub fn new(file: R) -> Self {
        Self { file, clocks: BTreeMap::new(), video: None, shown: Shown::default(), plain: 0, audio: None }
    }

    /// The sample entry of the audio, `mp4a` for instance; known once the piece with the `moov` was read.
    pub fn audio(&self) -> Option<[u8; 4]> {
        self.audio
    }

    /// The times of the pictures that were handed on.
    pub fn shown(&self) -> Shown {
        self.shown.clone()
    }

    /// The next bytes; empty at the end of the file.
    pub fn piece(&mut self) -> io::Result<Vec<u8>> {
        if self.plain > 0 {
            let mut piece = Vec::new();
            (&mut self.file).take(self.plain.min(PIECE_BYTES)).read_to_end(&mut piece)?;
            // A file that ends within a box is for the demultiplexer to judge.
            self.plain = if piece.is_empty() { 0 } else { self.plain - piece.len() as u64 };
            return Ok(piece);
        }
        let mut head = Vec::new();
        (&mut self.file).take(8).read_to_end(&mut head)?;
        let Some((size, kind)) = size_and_kind(&head) else { return Ok(head) };
        match (size, &kind) {
            (8.., b"moov" | b"moof") => self.head(head, size, kind),
            (8.., _) => {
                self.plain = size - 8;
                Ok(head)
            }
            // To the end of the file, or a size of 64 bits.
            (0, _) => {
                self.plain = u64::MAX;
                Ok(head)
            }
            (1, _) => {
                (&mut self.file).take(8).read_to_end(&mut head)?;
                let large = head.get(8..16).and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?)));
                self.plain = large.unwrap_or(0).saturating_sub(16);
                Ok(head)
            }
            _ => Err(invalid("a box is shorter than its own head")),
        }
    }

    fn head(&mut self, mut bytes: Vec<u8>, size: u64, kind: [u8; 4]) -> io::Result<Vec<u8>> {
        if size > MP4_HEAD_BYTES_MAX {
            return Err(invalid("a head is larger than any clip's"));
        }
        (&mut self.file).take(size - 8).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(invalid("the file ends within a head"));
        }
        if kind == *b"moov" {
            self.audio = audio_entry(&bytes[8..]);
            self.video = video_track(&bytes[8..]);
            return Ok(bytes);
        }
        let mut moof = Moof { clocks: self.clocks.clone(), video: self.video, ticks: Vec::new() };
        let Some(timed) = moof.timed(&bytes) else {
            // From here on pictures and times would not match.
            self.video = None;
            return Ok(bytes);
        };
        (self.clocks, self.video) = (moof.clocks, moof.video);
        if let Some((_, timescale)) = self.video {
            let ns = |ticks: &i64| ((*ticks).max(0) as u128 * 1_000_000_000 / u128::from(timescale)) as u64;
            self.shown.put(moof.ticks.iter().map(ns));
        }
        Ok(timed)
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn size_and_kind(bytes: &[u8]) -> Option<(u64, [u8; 4])> {
    Some((u64::from(u32_at(bytes, 0)?), bytes.get(4..8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The boxes that stand in `bytes`: kind, and where each begins and ends. None if they do not fill it.
fn boxes(bytes: &[u8]) -> Option<Vec<([u8; 4], usize, usize)>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let (size, kind) = size_and_kind(&bytes[at..])?;
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        if size < 8 || end > bytes.len() {
            return None;
        }
        found.push((kind, at, end));
        at = end;
    }
    Some(found)
}

fn child<'a>(bytes: &'a [u8], wanted: &[u8; 4]) -> Option<&'a [u8]> {
    let (_, at, end) = boxes(bytes)?.into_iter().find(|(kind, ..)| kind == wanted)?;
    Some(&bytes[at + 8..end])
}

/// The kind of the first sample entry of a track whose media is sound.
fn audio_entry(moov: &[u8]) -> Option<[u8; 4]> {
    boxes(moov)?.into_iter().filter(|(kind, ..)| kind == b"trak").find_map(|(_, at, end)| {
        let mdia = child(&moov[at + 8..end], b"mdia")?;
        let is_sound = child(mdia, b"hdlr")?.get(8..12)? == b"soun";
        let stsd = child(child(child(mdia, b"minf")?, b"stbl")?, b"stsd")?;
        stsd.get(12..16)?.try_into().ok().filter(|_| is_sound)
    })
}

/// Id and ticks per second of the first track whose media is video.
fn video_track(moov: &[u8]) -> Option<(u32, u32)> {
    boxes(moov)?.into_iter().filter(|(kind, ..)| kind == b"trak").find_map(|(_, at, end)| {
        let trak = &moov[at + 8..end];
        let mdia = child(trak, b"mdia")?;
        let is_video = child(mdia, b"hdlr")?.get(8..12)? == b"vide";
        // Two times stand before either, of 32 or 64 bits by the version.
        let behind_times = |full: &[u8]| u32_at(full, if full.first() == Some(&1) { 20 } else { 12 });
        let id = behind_times(child(trak, b"tkhd")?)?;
        let timescale = behind_times(child(mdia, b"mdhd")?)?;
        (is_video && timescale > 0).then_some((id, timescale))
    })
}

/// A `moof` on its way.
struct Moof {
    clocks: BTreeMap<u32, u64>,
    video: Option<(u32, u32)>,
    /// When its pictures are shown.
    ticks: Vec<i64>,
}

impl Moof {
    /// The bytes with a `tfdt` in each `traf`; None where one has its own or can't be understood.
    fn timed(&mut self, moof: &[u8]) -> Option<Vec<u8>> {
        let body = moof.get(8..)?;
        let parts = boxes(body)?;
        let grown = TFDT_BYTES * parts.iter().filter(|(kind, ..)| kind == b"traf").count();
        let mut out = moof[..8].to_vec();
        for (kind, at, end) in parts {
            if kind == *b"traf" {
                self.put_traf(&mut out, &body[at + 8..end], grown)?;
            } else {
                out.extend_from_slice(&body[at..end]);
            }
        }
        let size = u32::try_from(out.len()).ok()?;
        out[..4].copy_from_slice(&size.to_be_bytes());
        Some(out)
    }

    fn put_traf(&mut self, out: &mut Vec<u8>, traf: &[u8], grown: usize) -> Option<()> {
        let size = u32::try_from(8 + traf.len() + TFDT_BYTES).ok()?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(b"traf");
        let (mut track, mut usual) = (None, None);
        for (kind, at, end) in boxes(traf)? {
            let part = &traf[at..end];
            match &kind {
                b"tfdt" => return None,
                b"tfhd" => {
                    let id = u32_at(part, 12)?;
                    (track, usual) = (Some(id), usual_duration(part)?);
                    out.extend_from_slice(part);
                    out.extend_from_slice(&(TFDT_BYTES as u32).to_be_bytes());
                    out.extend_from_slice(b"tfdt\x01\0\0\0");
                    out.extend_from_slice(&self.clocks.get(&id).copied().unwrap_or(0).to_be_bytes());
                }
                b"trun" => {
                    self.count(part, track?, usual)?;
                    let begins = out.len();
                    out.extend_from_slice(part);
                    if u32_at(part, 8)? & TRUN_DATA_OFFSET != 0 {
                        let offset = u32_at(part, 16)?.checked_add(u32::try_from(grown).ok()?)?;
                        out.get_mut(begins + 16..begins + 20)?.copy_from_slice(&offset.to_be_bytes());
                    }
                }
                _ => out.extend_from_slice(part),
            }
        }
        track.map(|_| ())
    }

    /// Moves the track's clock on by the samples of a `trun`, and notes when they are shown.
    fn count(&mut self, trun: &[u8], track: u32, usual: Option<u32>) -> Option<()> {
        let flags = u32_at(trun, 8)?;
        let count = u32_at(trun, 12)? as usize;
        let clock = self.clocks.entry(track).or_default();
        let is_video = self.video.is_some_and(|(id, _)| id == track);
        if flags & TRUN_DURATION == 0 {
            *clock = clock.checked_add(u64::from(usual?).checked_mul(count as u64)?)?;
            // The ring never writes it so; then the demultiplexer's times have to do.
            self.video = self.video.filter(|_| !is_video);
            return Some(());
        }
        let optional = |flag: u32| 4 * usize::from(flags & flag != 0);
        let first = 16 + optional(TRUN_DATA_OFFSET) + optional(TRUN_FIRST_FLAGS);
        let step = 4 * (flags & TRUN_FIELDS).count_ones() as usize;
        let samples = trun.get(first..)?;
        if samples.len() / step < count {
            return None;
        }
        for sample in samples.chunks_exact(step).take(count) {
            if is_video {
                self.ticks.push(i64::try_from(*clock).ok()?.checked_add(offset(sample, flags)?)?);
            }
            *clock = clock.checked_add(u64::from(u32_at(sample, 0)?))?;
        }
        Some(())
    }
}

/// From decoding to showing; signed from version 1 on, which stands before the flags.
fn offset(sample: &[u8], flags: u32) -> Option<i64> {
    if flags & TRUN_OFFSET == 0 {
        return Some(0);
    }
    let offset = u32_at(sample, 4 * (flags & TRUN_BEFORE_OFFSET).count_ones() as usize)?;
    Some(if flags >> 24 == 0 { i64::from(offset) } else { i64::from(offset as i32) })
}

/// How long a sample lasts that does not say it, by the `tfhd`.
fn usual_duration(tfhd: &[u8]) -> Option<Option<u32>> {
    let flags = u32_at(tfhd, 8)?;
    if flags & TFHD_DURATION == 0 {
        return Some(None);
    }
    let base = 8 * usize::from(flags & TFHD_BASE_OFFSET != 0);
    let description = 4 * usize::from(flags & TFHD_DESCRIPTION != 0);
    u32_at(tfhd, 16 + base + description).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&(body.len() as u32 + 8).to_be_bytes()[..], kind, &body].concat()
    }

    fn words(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_be_bytes()).collect()
    }

    /// A fragment of one track with two samples of 10 and 20 ticks, as the ring writes it.
    fn fragment(track: u32) -> Vec<u8> {
        let tfhd = boxed(b"tfhd", &[&words(&[0x02_0000, track])]);
        let trun = boxed(b"trun", &[&words(&[0x301, 2, 100, 10, 5, 20, 6])]);
        let moof = boxed(b"moof", &[&boxed(b"mfhd", &[&words(&[0, 1])]), &boxed(b"traf", &[&tfhd, &trun])]);
        [moof, boxed(b"mdat", &[b"abcdefghijk"])].concat()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (mut timed, mut out) = (Timed::new(bytes), Vec::new());
        loop {
            let piece = timed.piece()?;
            if piece.is_empty() {
                return Ok(out);
            }
            out.extend(piece);
        }
    }

    #[test]
    fn each_fragment_gets_its_place_and_nothing_else_changes() {
        let timed = read(&[fragment(1), fragment(2), fragment(1)].concat()).unwrap();
        let places: Vec<u64> = timed
            .windows(8)
            .enumerate()
            .filter(|(_, w)| w == b"tfdt\x01\0\0\0")
            .map(|(at, _)| u64::from_be_bytes(timed[at + 8..at + 16].try_into().unwrap()))
            .collect();
        assert_eq!(places, [0, 0, 30]);
        // The offset to the data grew with the moof.
        let trun = timed.windows(4).position(|w| w == b"trun").unwrap();
        assert_eq!(u32_at(&timed, trun + 12), Some(120));
        assert!(boxes(&timed).is_some());
        // Once timed it stays as it is, and so does what is no fragment.
        let plain = [boxed(b"ftyp", &[b"isom"]), boxed(b"mdat", &[b"x"]), timed.clone()].concat();
        for bytes in [&timed[..], &plain, b"", b"abc"] {
            assert_eq!(read(bytes).unwrap(), bytes);
        }
        let torn = &fragment(1)[..40];
        assert!(read(torn).is_err() && read(&[0, 0, 0, 2, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn pictures_say_when_they_are_shown_where_some_are_shown_before_they_are_decoded() {
        let trak = |id: u32, media: &[u8; 4], timescale: u32| {
            let hdlr = boxed(b"hdlr", &[&words(&[0, 0]), media]);
            let mdia = boxed(b"mdia", &[&boxed(b"mdhd", &[&words(&[0, 0, 0, timescale, 0])]), &hdlr]);
            boxed(b"trak", &[&boxed(b"tkhd", &[&words(&[0, 0, 0, id])]), &mdia])
        };
        let moov = boxed(b"moov", &[&trak(2, b"soun", 8000), &trak(1, b"vide", 10)]);
        // Decoded first, shown third; then two that are shown before.
        let tfhd = |id: u32| boxed(b"tfhd", &[&words(&[0x02_0000, id])]);
        let trun = words(&[0x0100_0901, 3, 100, 1, 2, 1, -1i32 as u32, 1, -1i32 as u32]);
        let video = boxed(b"traf", &[&tfhd(1), &boxed(b"trun", &[&trun])]);
        let sound = boxed(b"traf", &[&tfhd(2), &boxed(b"trun", &[&words(&[0x101, 1, 90, 160])])]);
        let moof = boxed(b"moof", &[&video, &sound]);
        let film = [moov, moof.clone(), moof].concat();
        let mut timed = Timed::new(&film[..]);
        while !timed.piece().unwrap().is_empty() {}
        let shown = timed.shown();
        let times: Vec<u64> = std::iter::from_fn(|| shown.next()).map(|ns| ns / 100_000_000).collect();
        assert_eq!(times, [2, 0, 1, 5, 3, 4]);
    }

    #[test]
    fn what_is_not_understood_is_handed_on_or_refused_and_never_a_panic() {
        let whole = fragment(1);
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = read(&bytes);
            }
        }
    }
}
