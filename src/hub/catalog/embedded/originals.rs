//! What the index does not keep of an event, read from the journal by position.
//!
//! Owns reading it for one page. May not scan the journal: every position comes from the index.

use super::{Basis, CatalogError, EventKey, EventRow, engine, place_in_time};
use crate::hub::truth::{Arrived, HubRecord, TruthRecords};
use crate::journal::JournalError;
use crate::wire;

/// The events at these places, in this order. One that the journal can't give any more is named in the log.
pub fn rows(truth: &TruthRecords, keys: &[EventKey]) -> Result<Vec<EventRow>, CatalogError> {
    // By position, so that neighbours are unpacked once.
    let mut by_position: Vec<usize> = (0..keys.len()).collect();
    by_position.sort_unstable_by_key(|&n| keys[n].position);
    let mut rows: Vec<Option<EventRow>> = vec![None; keys.len()];
    for n in by_position {
        let key = keys[n];
        let lost = match truth.record(key.position) {
            Ok(Some(HubRecord::Event(arrived))) => {
                rows[n] = Some(row(key, arrived));
                continue;
            }
            Ok(_) => "there is no such event".to_owned(),
            Err(JournalError::Damaged(damage)) => damage.to_string(),
            Err(error) => return Err(engine("joined with the journal")(error)),
        };
        tracing::error!(
            position = key.position,
            why = lost,
            "an event of the index is left out of an answer"
        );
    }
    Ok(rows.into_iter().flatten().collect())
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
