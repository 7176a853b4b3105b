//! The records of the outbox's journal: one byte kind, then
//!
//! ```text
//! 'E'  epoch (8, big-endian), sequence (8, big-endian), the event as CloudEvents JSON
//! 'R'  JSON: what was receipted ({"epoch", "upto", "missing"}) and the newest event's place ("newest")
//! ```
//!
//! Owns the bytes; may not decide what they mean for what is owed.

use serde::{Deserialize, Serialize};

use super::Place;
use crate::model::{Epoch, Event, Previous};
use crate::wire::{self, Receipt};

/// A record as read.
pub enum Record<'a> {
    /// The event's place and its JSON.
    Event(Place, &'a [u8]),
    Receipt(ReceiptRecord),
}

#[derive(Serialize, Deserialize)]
pub struct ReceiptRecord {
    epoch: Epoch,
    upto: u64,
    #[serde(default)]
    missing: Vec<(u64, u64)>,
    /// The newest event's place: survives when its own segment is dropped.
    pub newest: Place,
}

impl ReceiptRecord {
    pub fn of(receipt: &Receipt, newest: Previous) -> Self {
        Self {
            epoch: receipt.epoch,
            upto: receipt.upto,
            missing: receipt.missing.clone(),
            newest: (newest.epoch, newest.last_sequence),
        }
    }

    pub fn into_receipt(self) -> Receipt {
        Receipt { epoch: self.epoch, upto: self.upto, missing: self.missing, refused: Vec::new() }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut payload = vec![b'R'];
        serde_json::to_writer(&mut payload, self).expect("a record has only text keys");
        payload
    }
}

pub fn encode_event(event: &Event) -> Vec<u8> {
    let mut payload = vec![b'E'];
    payload.extend_from_slice(&event.epoch.0.to_be_bytes());
    payload.extend_from_slice(&event.sequence.to_be_bytes());
    payload.extend_from_slice(&wire::encode(event));
    payload
}

/// None for what this version does not know.
pub fn decode(payload: &[u8]) -> Option<Record<'_>> {
    match payload.split_first()? {
        (b'E', rest) => {
            let (epoch, rest) = rest.split_first_chunk::<8>()?;
            let (sequence, json) = rest.split_first_chunk::<8>()?;
            let place = (Epoch(u64::from_be_bytes(*epoch)), u64::from_be_bytes(*sequence));
            Some(Record::Event(place, json))
        }
        (b'R', rest) => serde_json::from_slice(rest).ok().map(Record::Receipt),
        _ => None,
    }
}
