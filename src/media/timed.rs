//! A clip's bytes with the times that a demultiplexer needs: a `tfdt` in each fragment that has none.
//!
//! The ring writes fragments without `tfdt`, so that a joined clip begins at zero (`edge/fmp4.rs`); a player counts on
//! from the fragment before, GStreamer's demultiplexer begins at zero again with each. Changes the bytes on their way
//! to the demultiplexer only, and what has a `tfdt`, or is no fragment, not at all. No GStreamer here.

use std::collections::BTreeMap;
use std::io::{self, Read};

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
/// Those of the fields of a sample, 4 bytes each.
const TRUN_FIELDS: u32 = 0xf00;

/// Reads an MP4 file in pieces, timed.
pub struct Timed<R> {
    file: R,
    /// Ticks of each track up to here.
    clocks: BTreeMap<u32, u64>,
    /// Bytes of the box that is handed on as it is.
    plain: u64,
    audio: Option<[u8; 4]>,
}

impl<R: Read> Timed<R> {
    pub fn new(file: R) -> Self {
        Self { file, clocks: BTreeMap::new(), plain: 0, audio: None }
    }

    /// The sample entry of the audio, `mp4a` for instance; known once the piece with the `moov` was read.
    pub fn audio(&self) -> Option<[u8; 4]> {
        self.audio
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
            return Ok(bytes);
        }
        Ok(timed_moof(&bytes, &mut self.clocks).unwrap_or(bytes))
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

/// The `moof` with a `tfdt` in each `traf`; None where one has its own or can't be understood.
fn timed_moof(moof: &[u8], clocks: &mut BTreeMap<u32, u64>) -> Option<Vec<u8>> {
    let body = moof.get(8..)?;
    let parts = boxes(body)?;
    let grown = TFDT_BYTES * parts.iter().filter(|(kind, ..)| kind == b"traf").count();
    let (mut out, mut after) = (moof[..8].to_vec(), clocks.clone());
    for (kind, at, end) in parts {
        if kind != *b"traf" {
            out.extend_from_slice(&body[at..end]);
            continue;
        }
        put_traf(&mut out, &body[at + 8..end], grown, &mut after)?;
    }
    let size = u32::try_from(out.len()).ok()?;
    out[..4].copy_from_slice(&size.to_be_bytes());
    *clocks = after;
    Some(out)
}

fn put_traf(out: &mut Vec<u8>, traf: &[u8], grown: usize, clocks: &mut BTreeMap<u32, u64>) -> Option<()> {
    let size = u32::try_from(8 + traf.len() + TFDT_BYTES).ok()?;
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(b"traf");
    let (mut track, mut usual) = (None, None);
    for (kind, at, end) in boxes(traf)? {
        let part = &traf[at..end];
        match &kind {
            b"tfdt" => return None,
            b"tfhd" => {
                let flags = u32_at(part, 8)? & 0xff_ffff;
                let id = u32_at(part, 12)?;
                let skipped = 8 * usize::from(flags & TFHD_BASE_OFFSET != 0)
                    + 4 * usize::from(flags & TFHD_DESCRIPTION != 0);
                usual = if flags & TFHD_DURATION != 0 { Some(u32_at(part, 16 + skipped)?) } else { None };
                track = Some(id);
                out.extend_from_slice(part);
                out.extend_from_slice(&(TFDT_BYTES as u32).to_be_bytes());
                out.extend_from_slice(b"tfdt\x01\0\0\0");
                out.extend_from_slice(&clocks.get(&id).copied().unwrap_or(0).to_be_bytes());
            }
            b"trun" => {
                let ticks = duration(part, usual)?;
                let clock = clocks.entry(track?).or_default();
                *clock = clock.checked_add(ticks)?;
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

/// Ticks that the samples of a `trun` last; `usual` is for those that do not say.
fn duration(trun: &[u8], usual: Option<u32>) -> Option<u64> {
    let flags = u32_at(trun, 8)? & 0xff_ffff;
    let count = u32_at(trun, 12)? as usize;
    if flags & TRUN_DURATION == 0 {
        return u64::from(usual?).checked_mul(count as u64);
    }
    let first =
        16 + 4 * usize::from(flags & TRUN_DATA_OFFSET != 0) + 4 * usize::from(flags & TRUN_FIRST_FLAGS != 0);
    let step = 4 * (flags & TRUN_FIELDS).count_ones() as usize;
    let samples = trun.get(first..)?;
    if samples.len() / step < count {
        return None;
    }
    samples.chunks_exact(step).take(count).try_fold(0u64, |sum, s| sum.checked_add(u64::from(u32_at(s, 0)?)))
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
