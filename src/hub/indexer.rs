//! The catalog follows the truth.
//!
//! Owns bringing an index up to the journal: from its position at the start, and then batch by batch as ingest
//! commits. May not decide what is new (the truth did), nor lose a position: what can't be read stands in the
//! index as lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use prometheus::IntCounter;

use super::catalog::Catalog;
use super::truth::{HubRecord, TruthItem, read_from};
use crate::limits::{INDEX_REBUILD_BATCHES_MAX, INDEX_REBUILD_RECORDS};
use crate::model::{BoxId, Time};

/// Batches that wait for the index before ingest waits too.
pub const INDEX_BATCHES_MAX: usize = 64;

/// Position of the first record, and the records.
pub type Batch = (u64, Vec<HubRecord>);

/// Brings one catalog up to one journal.
pub struct Indexer {
    journal_dir: PathBuf,
    catalog: Arc<dyn Catalog>,
}

impl Indexer {
    pub fn new(journal_dir: PathBuf, catalog: Arc<dyn Catalog>) -> Self {
        Self { journal_dir, catalog }
    }

    /// Applies batches until ingest ends; `heard` hears of each, whatever becomes of it here, and `applied` of each that can
    /// be searched from now on.
    pub fn run(
        mut self,
        batches: mpsc::Receiver<Batch>,
        failures: &IntCounter,
        heard: impl Fn(&[HubRecord]),
        applied: impl Fn(&[HubRecord]),
    ) {
        while let Ok((first, records)) = batches.recv() {
            heard(&records);
            let upto = first + records.len() as u64;
            if self.catalog.applied() == first {
                match self.catalog.apply(first, &records) {
                    Ok(()) => {
                        applied(&records);
                        continue;
                    }
                    Err(error) => tracing::warn!(%error, first, "the index did not take a batch at once"),
                }
            }
            failures.inc();
            match self.catch_up(upto, |_, _| Ok(())) {
                Ok(()) => applied(&records),
                Err(error) => {
                    tracing::error!(%error, "the index lags behind; it goes on with the next events");
                }
            }
        }
    }

    /// Applies what the catalog lacks, from the journal. `progress` hears how far it is, and may end it by an error.
    /// One thread reads, this one applies.
    pub fn catch_up(
        &mut self,
        upto: u64,
        mut progress: impl FnMut(u64, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let from = self.catalog.applied();
        if from >= upto {
            return Ok(());
        }
        tracing::info!(from, upto, "the index catches up with the journal");
        let (batches, read) = mpsc::sync_channel(INDEX_REBUILD_BATCHES_MAX);
        let journal_dir = self.journal_dir.as_path();
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || read_batches(journal_dir, from, upto, &batches));
            for (first, records) in read {
                self.catalog.apply(first, &records)?;
                progress(first + records.len() as u64, upto)?;
            }
            reading.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the reading of the journal panicked")))
        })
    }
}

/// Reads the records `from` to `upto` in batches, each position once; ends early when nobody takes them.
fn read_batches(
    journal_dir: &Path,
    from: u64,
    upto: u64,
    batches: &mpsc::SyncSender<Batch>,
) -> anyhow::Result<()> {
    let mut first = from;
    let mut records = Vec::with_capacity(INDEX_REBUILD_RECORDS);
    let mut reader = read_from(journal_dir, from)?;
    loop {
        let next = first + records.len() as u64;
        let is_end = next >= upto;
        if is_end || records.len() >= INDEX_REBUILD_RECORDS {
            let batch = std::mem::replace(&mut records, Vec::with_capacity(INDEX_REBUILD_RECORDS));
            let is_taken = batch.is_empty() || batches.send((first, batch)).is_ok();
            if is_end || !is_taken {
                return Ok(());
            }
            first = next;
        }
        match reader.next().transpose()? {
            Some(TruthItem::Record { position, record }) => {
                anyhow::ensure!(position == next, "record {position} stands where {next} should be");
                records.push(record);
            }
            Some(TruthItem::Damage(damage)) => {
                tracing::error!(%damage, "the index goes on without these records");
                let last = damage.last_lost.min(upto - 1);
                // A long stretch goes in batches too, so that memory stays bounded.
                for _ in damage.first_lost.max(next)..=last {
                    records.push(lost_record());
                    if records.len() >= INDEX_REBUILD_RECORDS {
                        let count = records.len() as u64;
                        if batches.send((first, std::mem::take(&mut records))).is_err() {
                            return Ok(());
                        }
                        first += count;
                    }
                }
            }
            Some(TruthItem::Unreadable { position, why }) => {
                tracing::error!(position, why, "the index goes on without this record");
                records.push(lost_record());
            }
            None => anyhow::bail!("the journal ends at record {next}, not at {upto}"),
        }
    }
}

/// Stands in the index for a record that can't be read, so that positions stay in step and the loss shows.
fn lost_record() -> HubRecord {
    HubRecord::Refused {
        box_id: BoxId::new("unknown").expect("a good id"),
        received: Time::UNIX_EPOCH,
        reason: "damaged".into(),
        detail: "the hub's journal is damaged here".into(),
        epoch: None,
        sequence: None,
        id: None,
        body: b"-".to_vec(),
    }
}
