//! What the index does not keep of an event, read from the journal by position.
//!
//! Owns reading it for one page. May not scan the journal: every position comes from the index.

use std::path::PathBuf;

use super::{Basis, CatalogError, EventKey, EventRow, engine, place_in_time};
use crate::hub::truth::{Arrived, HubRecord, TruthItem, read_from};
use crate::wire;

/// The hub's journal, as far as the index reads it.
pub struct Originals {
    journal_dir: PathBuf,
}

impl Originals {
    pub fn new(journal_dir: PathBuf) -> Self {
        Self { journal_dir }
    }

    /// The events at these places, in this order. One that the journal can't give any more is named in the log.
    pub fn rows(&self, keys: &[EventKey]) -> Result<Vec<EventRow>, CatalogError> {
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            match self.record(key.position)? {
                Some(HubRecord::Event(arrived)) => rows.push(row(*key, arrived)),
                Some(_) | None => tracing::error!(
                    position = key.position,
                    "an event of the index can't be read from the journal; it is left out of an answer"
                ),
            }
        }
        Ok(rows)
    }

    fn record(&self, position: u64) -> Result<Option<HubRecord>, CatalogError> {
        let item = read_from(&self.journal_dir, position).map_err(engine("joined with the journal"))?.next();
        match item.transpose().map_err(engine("joined with the journal"))? {
            Some(TruthItem::Record { position: at, record }) if at == position => Ok(Some(record)),
            _ => Ok(None),
        }
    }
}

fn row(key: EventKey, arrived: Arrived) -> EventRow {
    let Arrived { box_id, received, conflict, event, json } = arrived;
    let (_, _, basis) = place_in_time(event.time, event.time, event.source.device.as_ref(), &[], received);
    EventRow {
        key,
        id: event.id,
        box_id,
        kind: wire::event_type(&event.data).to_owned(),
        device: event.source.device,
        epoch: event.epoch,
        sequence: event.sequence,
        time: event.time,
        received,
        by_arrival: basis == Basis::Arrival,
        conflict,
        json,
    }
}
