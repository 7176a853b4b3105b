//! The bytes of a segment file of the ring.
//!
//! ```text
//! ftyp moov │ head │ entry fragment │ entry fragment │ …
//!
//! head    free box (14496-12, 8.1.2: players pass over it)
//!     0  4  size
//!     4  4  "free"
//!     8  4  "cnrh"
//!    12  4  crc     of what follows
//!    16  n  JSON    the run, its clock, the number of the first fragment, the Merkle tree of those before
//!
//! entry   free box of 104 bytes, written with its fragment in one go
//!     0  4  size
//!     4  4  "free"
//!     8  4  "cnre"
//!    12  4  crc     of what follows
//!    16  8  number  of the fragment within its run
//!    24  8  durable fragments of the run that were synced before this was written: their number
//!    32  8  start   nanoseconds since 1970
//!    40  8  end
//!    48  8  first_pts, ticks
//!    56  8  end_pts
//!    64  4  bytes   of the fragment
//!    68  4  flags   1: begins with a picture that can be decoded alone
//!    72 32  sha256  of the fragment
//! ```
//!
//! Numbers are big-endian, as all of MP4. A file says everything about itself, so nothing else must be written when a
//! fragment is, and a ring can be read without its index. Owns these bytes. May not decide what is kept.

use std::io;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::edge::fmp4::{self, Track};
use crate::journal::disk::ReadAt;
use crate::limits::{FRAGMENT_BYTES_MAX, RING_HEAD_BYTES_MAX};
use crate::model::merkle::MerkleTree;
use crate::model::{ClockQuality, Sha256Hash, Time};

/// What a segment file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub run: Uuid,
    /// When the run began.
    pub start: Time,
    pub clock: ClockQuality,
    /// The run's tree over the fragments before this segment; the first fragment's number is its length.
    pub tree: MerkleTree,
}

/// What stands before each fragment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub number: u64,
    pub durable: u64,
    pub start: Time,
    pub end: Time,
    pub first_pts: i64,
    pub end_pts: i64,
    pub bytes: u32,
    pub sync: bool,
    pub sha256: Sha256Hash,
}

/// A file's beginning.
#[derive(Debug)]
pub struct Beginning {
    pub head: Head,
    pub track: Track,
    /// Where the first entry stands.
    pub bytes: u64,
}

/// The entries of a file.
#[derive(Debug)]
pub struct Entries {
    /// Each with the place of its fragment.
    pub entries: Vec<(Entry, u64)>,
    /// Behind the last fragment that is whole by its length.
    pub end: u64,
}

pub const ENTRY_BYTES: usize = 104;
const HEAD_TAG: [u8; 8] = *b"freecnrh";
const ENTRY_TAG: [u8; 8] = *b"freecnre";
const SYNC: u32 = 1;

/// What a file begins with: init segment and head.
pub fn beginning(track: &Track, head: &Head) -> Vec<u8> {
    let json = serde_json::to_vec(head).expect("a head has only plain fields");
    let mut out = fmp4::init_segment(track, None);
    out.extend_from_slice(&(16 + json.len() as u32).to_be_bytes());
    out.extend_from_slice(&HEAD_TAG);
    out.extend_from_slice(&crc32fast::hash(&json).to_be_bytes());
    out.extend_from_slice(&json);
    out
}

/// Reads a file's beginning, or says what is wrong with it.
pub fn read_beginning(file: &dyn ReadAt) -> io::Result<Result<Beginning, String>> {
    let mut bytes = vec![0; RING_HEAD_BYTES_MAX];
    let got = file.read_at(0, &mut bytes)?;
    Ok(decode_beginning(&bytes[..got]))
}

fn decode_beginning(bytes: &[u8]) -> Result<Beginning, String> {
    let (at, track) = fmp4::read_init(bytes)?;
    let rest = &bytes[at..];
    if rest.get(4..12) != Some(&HEAD_TAG) || rest.len() < 16 {
        return Err("no head behind the init segment".into());
    }
    let json = rest.get(16..u32_at(rest, 0) as usize).ok_or("the head is cut off")?;
    if crc32fast::hash(json) != u32_at(rest, 12) {
        return Err("the checksum of the head is wrong".into());
    }
    let head = serde_json::from_slice(json).map_err(|e| format!("the head can't be read: {e}"))?;
    Ok(Beginning { head, track, bytes: (at + 16 + json.len()) as u64 })
}

impl Entry {
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..4].copy_from_slice(&(ENTRY_BYTES as u32).to_be_bytes());
        out[4..12].copy_from_slice(&ENTRY_TAG);
        let numbers = [
            self.number,
            self.durable,
            ns_of(self.start) as u64,
            ns_of(self.end) as u64,
            self.first_pts as u64,
            self.end_pts as u64,
        ];
        for (n, number) in numbers.into_iter().enumerate() {
            out[16 + 8 * n..24 + 8 * n].copy_from_slice(&number.to_be_bytes());
        }
        out[64..68].copy_from_slice(&self.bytes.to_be_bytes());
        out[68..72].copy_from_slice(&(if self.sync { SYNC } else { 0 }).to_be_bytes());
        out[72..].copy_from_slice(&self.sha256.0);
        let crc = crc32fast::hash(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// None if no whole entry stands here.
    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let is_entry = bytes[4..12] == ENTRY_TAG && u32_at(bytes, 12) == crc32fast::hash(&bytes[16..]);
        let number = |n: usize| u64::from_be_bytes(*bytes[16 + 8 * n..].first_chunk().expect("it fits"));
        let length = u32_at(bytes, 64);
        let is_sized = (1..=2 * FRAGMENT_BYTES_MAX).contains(&(length as usize));
        (is_entry && is_sized).then(|| Self {
            number: number(0),
            durable: number(1),
            start: time_of(number(2) as i64),
            end: time_of(number(3) as i64),
            first_pts: number(4) as i64,
            end_pts: number(5) as i64,
            bytes: length,
            sync: u32_at(bytes, 68) & SYNC != 0,
            sha256: Sha256Hash(*bytes[72..].first_chunk().expect("it fits")),
        })
    }
}

/// The entries from `beginning` on whose fragments end at or before `until`. Ends at what is not the next entry.
pub fn read_entries(file: &dyn ReadAt, beginning: &Beginning, until: u64) -> io::Result<Entries> {
    let mut found = Entries { entries: Vec::new(), end: beginning.bytes };
    let mut number = beginning.head.tree.len();
    let mut bytes = [0; ENTRY_BYTES];
    while found.end + (ENTRY_BYTES as u64) < until {
        if file.read_at(found.end, &mut bytes)? < ENTRY_BYTES {
            break;
        }
        let Some(entry) = Entry::decode(&bytes).filter(|entry| entry.number == number) else { break };
        let at = found.end + ENTRY_BYTES as u64;
        if at + u64::from(entry.bytes) > until {
            break;
        }
        found.entries.push((entry, at));
        found.end = at + u64::from(entry.bytes);
        number += 1;
    }
    Ok(found)
}

/// Nanoseconds since 1970; years beyond 1677 to 2262 stand at the ends.
pub fn ns_of(time: Time) -> i64 {
    time.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

pub fn time_of(ns: i64) -> Time {
    Time::from_nanosecond(ns.into()).expect("64 bits of nanoseconds are within the calendar")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("it was looked whether it is there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry {
            number,
            durable: number / 2,
            start: Time::from_second(-5).unwrap(),
            end: Time::from_second(5_000_000_000).unwrap(),
            first_pts: -7,
            end_pts: 90_000,
            bytes: 3,
            sync: number == 4,
            sha256: Sha256Hash::of(&number.to_be_bytes()),
        }
    }

    #[test]
    fn an_entry_is_read_back_and_every_changed_bit_is_seen() {
        for number in [4, 5, u64::MAX] {
            let bytes = entry(number).encode();
            assert_eq!(Entry::decode(&bytes), Some(entry(number)));
            for bit in 32..ENTRY_BYTES * 8 {
                let mut changed = bytes;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Entry::decode(&changed), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn entries_end_where_a_fragment_is_not_whole() {
        let mut tree = MerkleTree::new();
        (0..4u8).for_each(|n| tree.push(&Sha256Hash::of(&[n])));
        let clock = ClockQuality {
            source: crate::model::ClockSource::Box,
            sync: crate::model::SyncState::Unsynced,
            offset_ms: None,
            uncertainty_ms: Some(9),
        };
        let head = Head { run: Uuid::now_v7(), start: Time::UNIX_EPOCH, clock, tree };
        let mut sample_entry = vec![0; 120];
        sample_entry[3] = 120;
        sample_entry[4..8].copy_from_slice(b"avc1");
        let track = Track { sample_entry, width: 0, height: 0, audio: None };
        let mut file = beginning(&track, &head);
        let begin = read_beginning(&file).unwrap().unwrap();
        assert_eq!((&begin.head, &begin.track, begin.bytes), (&head, &track, file.len() as u64));
        for number in 4..7 {
            file.extend_from_slice(&entry(number).encode());
            file.extend_from_slice(b"abc");
        }
        let whole = file.len() as u64;
        let count = |file: &Vec<u8>, until| read_entries(file, &begin, until).unwrap().entries.len();
        assert_eq!(count(&file, whole), 3);
        assert_eq!(count(&file, whole - 1), 2, "what stands behind `until` does not count");
        file.truncate(file.len() - 3);
        assert_eq!(count(&file, file.len() as u64), 2, "an entry without its fragment");
        let mut twice = file.clone();
        twice.extend_from_slice(b"abc");
        twice.extend_from_slice(&entry(6).encode());
        twice.extend_from_slice(b"abc");
        assert_eq!(count(&twice, twice.len() as u64), 3, "a number comes once");
        file[begin.bytes as usize - 1] ^= 1;
        assert!(read_beginning(&file).unwrap().is_err());
    }
}
