//! A journal under a power cut: the child and the judge of a harness that copies the disk while the child writes.
//!
//! ```text
//! powercut child DIR           appends and syncs without end, prints `ACK n` for each durable record
//! powercut verify DIR LAST     fails unless records 0 to LAST are there, whole, and nothing is invented
//! ```
//!
//! Cutting needs root and loop devices, so a run without arguments (as `cargo test` does it) checks only a short
//! write and its reading. May not know how the power is cut.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use camnet::journal::{Item, Journal};

/// Small, so that many cuts fall on a new segment.
const SEGMENT_BYTES: u64 = 64 << 10;
/// The child rests there; the disk of a round is small.
const BYTES_MAX: u64 = 150 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["child", dir] => write(Path::new(dir), u64::MAX, &mut std::io::stdout().lock()).map(|_| rest()),
        ["verify", dir, last] => last.parse().context("LAST").and_then(|last| verify(Path::new(dir), last)),
        _ => without_a_cut(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One to some 4000 bytes that only record `n` has.
fn payload(n: u64) -> Vec<u8> {
    let seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = 1 + (seed >> 52) as usize;
    (0..length as u64).map(|i| (seed.rotate_left((i % 64) as u32) ^ i) as u8).collect()
}

/// Appends groups of one to sixteen records and says which are durable; returns the last one that is durable.
fn write(dir: &Path, records: u64, out: &mut impl Write) -> anyhow::Result<i64> {
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
        (first..journal.next()).try_for_each(|n| writeln!(out, "ACK {n}"))?;
        out.flush()?;
    }
    Ok(journal.next() as i64 - 1)
}

fn rest() {
    std::thread::sleep(std::time::Duration::from_secs(120));
}

fn verify(dir: &Path, last: i64) -> anyhow::Result<()> {
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
    journal.append(&payload(found))?;
    journal.sync().context("going on")
}

fn without_a_cut() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let last = write(dir.path(), 500, &mut std::io::sink())?;
    verify(dir.path(), last)?;
    ensure!(verify(dir.path(), last + 2).is_err(), "a record that is not there was not missed");
    Ok(())
}
