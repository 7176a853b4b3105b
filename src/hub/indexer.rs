//! The catalog follows the truth.
//!
//! Owns bringing an index up to the journal: from its position at the start, and then batch by batch as ingest
//! commits. May not decide what is new (the truth did), nor lose a position: what can't be read stands in the
//! index as lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use prometheus::IntCounter;

use super::catalog::Catalog;
use super::truth::{HubRecord, TruthItem, read_from};
use crate::limits::COMMIT_EVENTS_MAX;
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

    /// Applies batches until ingest ends.
    pub fn run(mut self, batches: mpsc::Receiver<Batch>, failures: &IntCounter) {
        while let Ok((first, records)) = batches.recv() {
            let upto = first + records.len() as u64;
            if self.catalog.applied() == first && self.catalog.apply(first, &records).is_ok() {
                continue;
            }
            failures.inc();
            if let Err(error) = self.catch_up(upto, |_, _| {}) {
                tracing::error!(%error, "the index lags behind; it goes on with the next events");
            }
        }
    }

    /// Applies what the catalog lacks, from the journal, telling how far it is.
    pub fn catch_up(&mut self, upto: u64, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<()> {
        let mut from = self.catalog.applied();
        if from < upto {
            tracing::info!(from, upto, "the index catches up with the journal");
        }
        let mut records = Vec::new();
        let mut reader = read_from(&self.journal_dir, from)?;
        while from + (records.len() as u64) < upto {
            match reader.next().transpose()? {
                Some(TruthItem::Record { position, record }) => {
                    anyhow::ensure!(
                        position == from + records.len() as u64,
                        "record {position} out of order"
                    );
                    records.push(record);
                }
                Some(TruthItem::Damage(damage)) => {
                    tracing::error!(%damage, "the index goes on without these records");
                    let lost =
                        damage.first_lost.max(from + records.len() as u64)..=damage.last_lost.min(upto - 1);
                    records.extend(lost.map(|_| lost_record()));
                }
                Some(TruthItem::Unreadable { position, why }) => {
                    tracing::error!(position, why, "the index goes on without this record");
                    records.push(lost_record());
                }
                None => anyhow::bail!("the journal ends at record {}", from + records.len() as u64),
            }
            if records.len() >= COMMIT_EVENTS_MAX {
                self.apply(&mut from, &mut records)?;
                progress(from, upto);
            }
        }
        self.apply(&mut from, &mut records)
    }

    fn apply(&mut self, from: &mut u64, records: &mut Vec<HubRecord>) -> anyhow::Result<()> {
        if !records.is_empty() {
            self.catalog.apply(*from, records)?;
            *from += records.len() as u64;
            records.clear();
        }
        Ok(())
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
        body: b"-".to_vec(),
    }
}
