//! Blocks of ids: which clip of a run has an id, and which files of clips came in a run.
//!
//! Owns their bytes and how ids are ordered: by the time in them (UUIDv7, RFC 9562: milliseconds in the first 48
//! bits), so that neighbours in time are neighbours here. A block ends where the times make a leap, so that a few old
//! ids do not make it stand for years. Pure.

use uuid::Uuid;

use super::VERSION;
use super::columns::{put, take};
use super::directory::BlockBounds;

/// Ids of one block.
const BLOCK_IDS: usize = 512;
/// A leap of the time in two ids.
const LEAP_MS: u64 = 3_600_000;

/// An id in short, and what it is for: the number of a clip in its run, or the beginning of a file's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdRow {
    pub time_ms: u64,
    /// Its last 32 bits, which are random.
    pub tail: u32,
    pub number: u64,
}

impl IdRow {
    pub fn new(id: Uuid, number: u64) -> Self {
        Self { time_ms: time_ms(id), tail: tail(id), number }
    }

    pub fn is_of(&self, id: Uuid) -> bool {
        self.time_ms == time_ms(id) && self.tail == tail(id)
    }
}

/// What stands for the time of an id in a block's bounds.
pub fn time_ms(id: Uuid) -> u64 {
    (id.as_u128() >> 80) as u64
}

fn tail(id: Uuid) -> u32 {
    id.as_u128() as u32
}

/// Rows in blocks; sorts them first.
pub fn blocks(rows: &mut [IdRow]) -> Vec<(BlockBounds, Vec<u8>)> {
    rows.sort_unstable();
    let mut blocks = Vec::new();
    let mut rest = &*rows;
    while !rest.is_empty() {
        let leap = rest.windows(2).take(BLOCK_IDS).position(|two| two[1].time_ms - two[0].time_ms > LEAP_MS);
        let count = leap.map_or(rest.len(), |at| at + 1).min(BLOCK_IDS);
        let (block, behind) = rest.split_at(count);
        blocks.push((bounds(block), write(block)));
        rest = behind;
    }
    blocks
}

fn bounds(rows: &[IdRow]) -> BlockBounds {
    let time = |row: Option<&IdRow>| row.map_or(0, |row| row.time_ms as i64);
    BlockBounds {
        start_min_us: time(rows.first()),
        start_max_us: time(rows.last()),
        reach_max_us: time(rows.last()),
        ..BlockBounds::default()
    }
}

fn write(rows: &[IdRow]) -> Vec<u8> {
    let mut out = vec![VERSION];
    put(&mut out, rows.len() as u64);
    let mut before = 0;
    for row in rows {
        put(&mut out, row.time_ms - before);
        out.extend_from_slice(&row.tail.to_le_bytes());
        put(&mut out, row.number);
        before = row.time_ms;
    }
    out
}

pub fn read(bytes: &[u8]) -> Result<Vec<IdRow>, String> {
    let (&version, mut rest) = bytes.split_first().ok_or("no bytes")?;
    if version != VERSION {
        return Err(format!("block version {version}"));
    }
    let count = take(&mut rest)? as usize;
    if count > BLOCK_IDS {
        return Err(format!("{count} ids"));
    }
    let mut rows = Vec::with_capacity(count);
    let mut time_ms = 0u64;
    for _ in 0..count {
        time_ms = time_ms.wrapping_add(take(&mut rest)?);
        let tail = rest.split_off(..4).and_then(|b| b.first_chunk()).ok_or("it ends early")?;
        let tail = u32::from_le_bytes(*tail);
        rows.push(IdRow { time_ms, tail, number: take(&mut rest)? });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_give_back_their_ids_and_end_at_a_leap() {
        let hour = LEAP_MS;
        let times = (0..700).map(|n| 1000 + n).chain([10 * hour, 10 * hour + 1, u64::MAX >> 16]);
        let mut rows: Vec<IdRow> =
            times.map(|time_ms| IdRow { time_ms, tail: time_ms as u32 ^ 77, number: time_ms * 3 }).collect();
        rows.reverse();
        let blocks = blocks(&mut rows);
        let counts: Vec<usize> = blocks.iter().map(|(_, bytes)| read(bytes).unwrap().len()).collect();
        assert_eq!(counts, [512, 188, 2, 1]);
        let all: Vec<IdRow> = blocks.iter().flat_map(|(_, bytes)| read(bytes).unwrap()).collect();
        assert_eq!(all, rows);
        for (bounds, bytes) in &blocks {
            let times: Vec<i64> = read(bytes).unwrap().iter().map(|r| r.time_ms as i64).collect();
            assert_eq!((bounds.start_min_us, bounds.reach_max_us), (times[0], times[times.len() - 1]));
        }
        assert!(read(&[VERSION, 9]).is_err() && read(&[]).is_err());
    }
}
