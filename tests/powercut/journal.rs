//! A journal, small segments.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use camnet::journal::check::check;
use camnet::journal::disk::RealDisk;
use camnet::journal::{Item, Journal};

/// Small, so that many cuts fall on a new segment.
const SEGMENT_BYTES: u64 = 64 << 10;
/// The child rests there; the disk of a round is small.
const BYTES_MAX: u64 = 150 << 20;

/// One to some 4000 bytes that only record `n` has; every third can be packed.
fn payload(n: u64) -> Vec<u8> {
    let seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = 1 + (seed >> 52) as usize;
    let step = if n.is_multiple_of(3) { 16 } else { 1 };
    (0..length as u64).map(|i| (seed.rotate_left((i / step % 64) as u32) ^ (i / step)) as u8).collect()
}

/// Appends groups of one to sixteen records and says which are durable; returns the last one that is durable.
pub fn write(dir: &Path, records: u64, out: &mut dyn Write) -> anyhow::Result<i64> {
    let (mut journal, _) = Journal::open_with(dir, SEGMENT_BYTES)?;
    let mut written_bytes = 0;
    while journal.next() < records && written_bytes < BYTES_MAX {
        let first = journal.next();
        for n in first..first + 1 + first % 16 {
            let payload = payload(n);
            written_bytes += payload.len() as u64;
            journal.append(&payload)?;
        }
        journal.sync()?;
        crate::acknowledge(out, first, journal.next())?;
    }
    Ok(journal.next() as i64 - 1)
}

pub fn verify(dir: &Path, last: i64) -> anyhow::Result<()> {
    let (mut journal, recovery) = Journal::open_with(dir, SEGMENT_BYTES)?;
    ensure!(recovery.damage.is_empty(), "damage: {:?}", recovery.damage);
    let mut found = 0;
    for item in journal.read(0) {
        match item? {
            Item::Record(record) => {
                ensure!(record.number == found, "record {} stands where {found} should", record.number);
                ensure!(record.payload == payload(found), "record {found} is not what was written");
                found += 1;
            }
            Item::Damage(damage) => bail!("{damage}"),
        }
    }
    ensure!(found as i64 > last, "{found} records are there, 0 to {last} were acknowledged");
    ensure!(journal.next() == found, "{found} records are there, the next one would be {}", journal.next());
    for report in check(&RealDisk, dir)? {
        ensure!(report.is_good() && report.torn_bytes == 0, "after opening: {report:?}");
    }
    journal.append(&payload(found))?;
    journal.sync().context("going on")
}
