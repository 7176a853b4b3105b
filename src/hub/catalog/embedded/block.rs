//! Events as compact rows, and rows as blocks: columns of small numbers, compressed.
//!
//! Owns the two orders of a run (by time; by source and time), how they are cut into blocks, and the blocks' bytes.
//! Pure: no I/O, and the bytes depend on the rows alone.
//!
//! A block is one byte version, the count of bytes before compression (varint), and a zstd frame of: the count of
//! rows, then column by column the times, the sources (by source only), the offsets, and the kinds (a palette,
//! then its indices); all varints, differences where neighbours are alike.

use super::VERSION;
use super::columns::{put, take, unzigzag, zigzag};
use super::directory::BlockBounds;

/// Rows of one block: small enough to be read for one page.
pub const BLOCK_ROWS: usize = 512;
/// No block of [`BLOCK_ROWS`] rows is larger than this before compression.
const BLOCK_BYTES_MAX: usize = 64 << 10;
const COMPRESSION: i32 = 3;

/// An event as the index keeps it; everything else stands in the journal at its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// As placed.
    pub time_us: i64,
    /// Position, counted from the start of the run.
    pub offset: u32,
    /// Number of who speaks.
    pub source: u32,
    pub kind: u16,
}

/// A short code for an event type. Two types may share one, so who finds a row by it looks at the event too.
pub fn kind_code(kind: &str) -> u16 {
    let hash = crc32fast::hash(kind.as_bytes());
    (hash ^ (hash >> 16)) as u16
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    ByTime,
    BySource,
}

/// The rows of a run in one arrangement, cut into blocks, each with what it holds.
pub fn blocks(rows: &mut [Row], arrangement: Arrangement) -> std::io::Result<Vec<(BlockBounds, Vec<u8>)>> {
    match arrangement {
        Arrangement::ByTime => rows.sort_unstable_by_key(|r| (r.time_us, r.offset)),
        Arrangement::BySource => rows.sort_unstable_by_key(|r| (r.source, r.time_us, r.offset)),
    }
    let mut compressor = zstd::bulk::Compressor::new(COMPRESSION)?;
    let mut blocks = Vec::with_capacity(rows.len().div_ceil(BLOCK_ROWS));
    let mut plain = Vec::new();
    for rows in rows.chunks(BLOCK_ROWS) {
        plain.clear();
        write_rows(rows, arrangement, &mut plain);
        let mut bytes = vec![VERSION];
        put(&mut bytes, plain.len() as u64);
        bytes.extend_from_slice(&compressor.compress(&plain)?);
        blocks.push((bounds(rows, arrangement), bytes));
    }
    Ok(blocks)
}

fn bounds(rows: &[Row], arrangement: Arrangement) -> BlockBounds {
    let times = || rows.iter().map(|r| r.time_us);
    let (source_min, source_max) = match arrangement {
        Arrangement::ByTime => (0, 0),
        Arrangement::BySource => (rows[0].source, rows[rows.len() - 1].source),
    };
    let start_max_us = times().max().expect("a chunk has rows");
    BlockBounds {
        source_min,
        source_max,
        start_min_us: times().min().expect("a chunk has rows"),
        start_max_us,
        reach_max_us: start_max_us,
        ..BlockBounds::default()
    }
}

/// The rows of a block, or what is wrong with it. By time, the sources are zero.
pub fn read(bytes: &[u8], arrangement: Arrangement) -> Result<Vec<Row>, String> {
    let (&version, mut rest) = bytes.split_first().ok_or("no bytes")?;
    if version != VERSION {
        return Err(format!("block version {version}"));
    }
    let plain_bytes = take(&mut rest)? as usize;
    if plain_bytes > BLOCK_BYTES_MAX {
        return Err(format!("a block of {plain_bytes} bytes"));
    }
    let plain = zstd::bulk::decompress(rest, plain_bytes).map_err(|e| e.to_string())?;
    read_rows(&plain, arrangement)
}

fn write_rows(rows: &[Row], arrangement: Arrangement, out: &mut Vec<u8>) {
    put(out, rows.len() as u64);
    let mut before = 0i64;
    for row in rows {
        put(out, zigzag(row.time_us.wrapping_sub(before)));
        before = row.time_us;
    }
    if arrangement == Arrangement::BySource {
        let mut before = 0;
        for row in rows {
            put(out, u64::from(row.source - before));
            before = row.source;
        }
    }
    let mut before = 0i64;
    for row in rows {
        put(out, zigzag(i64::from(row.offset) - before));
        before = row.offset.into();
    }
    let mut palette: Vec<u16> = rows.iter().map(|r| r.kind).collect();
    palette.sort_unstable();
    palette.dedup();
    put(out, palette.len() as u64);
    for kind in &palette {
        put(out, u64::from(*kind));
    }
    for row in rows {
        put(out, palette.binary_search(&row.kind).expect("it was put there") as u64);
    }
}

fn read_rows(plain: &[u8], arrangement: Arrangement) -> Result<Vec<Row>, String> {
    let mut rest = plain;
    let count = take(&mut rest)? as usize;
    if count > BLOCK_ROWS {
        return Err(format!("{count} rows"));
    }
    let mut rows = vec![Row { time_us: 0, offset: 0, source: 0, kind: 0 }; count];
    let mut before = 0i64;
    for row in &mut rows {
        before = before.wrapping_add(unzigzag(take(&mut rest)?));
        row.time_us = before;
    }
    if arrangement == Arrangement::BySource {
        let mut before = 0u32;
        for row in &mut rows {
            before = before.wrapping_add(take(&mut rest)? as u32);
            row.source = before;
        }
    }
    let mut before = 0i64;
    for row in &mut rows {
        before = before.wrapping_add(unzigzag(take(&mut rest)?));
        row.offset = u32::try_from(before).map_err(|_| format!("offset {before}"))?;
    }
    let kinds = take(&mut rest)? as usize;
    if kinds > BLOCK_ROWS {
        return Err(format!("{kinds} kinds"));
    }
    let palette = (0..kinds).map(|_| Ok(take(&mut rest)? as u16)).collect::<Result<Vec<u16>, String>>()?;
    for row in &mut rows {
        let at = take(&mut rest)? as usize;
        row.kind = *palette.get(at).ok_or_else(|| format!("kind {at} of {kinds}"))?;
    }
    if rest.is_empty() { Ok(rows) } else { Err(format!("{} bytes too many", rest.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let time = prop_oneof![any::<i64>(), 0i64..1000, 1_800_000_000_000_000i64..1_800_000_100_000_000];
        let row = (time, any::<u32>(), 0u32..2000, any::<u16>())
            .prop_map(|(time_us, offset, source, kind)| Row { time_us, offset, source, kind });
        prop::collection::vec(row, 1..1200)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn blocks_give_back_their_rows_and_bound_them(rows in rows()) {
            for arrangement in [Arrangement::ByTime, Arrangement::BySource] {
                let mut sorted = rows.clone();
                let blocks = blocks(&mut sorted, arrangement).unwrap();
                let mut got = Vec::new();
                for (bounds, bytes) in &blocks {
                    let part = read(bytes, arrangement).unwrap();
                    for row in &part {
                        prop_assert!((bounds.start_min_us..=bounds.start_max_us).contains(&row.time_us));
                        prop_assert!((bounds.source_min..=bounds.source_max).contains(&row.source));
                    }
                    got.extend(part);
                }
                if arrangement == Arrangement::ByTime {
                    sorted.iter_mut().for_each(|row| row.source = 0);
                }
                prop_assert_eq!(got, sorted);
            }
        }

        #[test]
        fn junk_is_an_error_and_never_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_rows(&bytes, Arrangement::BySource);
            bytes.insert(0, VERSION);
            let _ = read(&bytes, Arrangement::ByTime);
        }
    }
}
