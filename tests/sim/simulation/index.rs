//! A small model of the index: rows and a position that are saved together, and a tail that a crash takes.

use std::collections::BTreeMap;

use camnet::hub::truth::HubRecord;
use camnet::model::{Coverage, DeviceId, Epoch, EventData};
use uuid::Uuid;

/// One thing that the index shows.
#[derive(Debug, Clone)]
pub struct Row {
    pub box_name: String,
    pub epoch: Epoch,
    pub sequence: u64,
    pub id: Uuid,
    pub conflict: bool,
    pub coverage: Option<(DeviceId, Coverage)>,
}

pub type Aside = (String, Epoch, u64, Uuid);

#[derive(Clone, Default)]
struct Content {
    applied: u64,
    rows: Vec<Row>,
    /// Events that were set aside by box, epoch, sequence and id, with how often.
    refused: BTreeMap<Aside, u32>,
}

#[derive(Clone, Default)]
pub struct Index {
    shown: Content,
    saved: Content,
}

impl Index {
    pub fn applied(&self) -> u64 {
        self.shown.applied
    }

    pub fn rows(&self) -> &[Row] {
        &self.shown.rows
    }

    pub fn refused(&self) -> &BTreeMap<Aside, u32> {
        &self.shown.refused
    }

    /// Applies records; the caller has checked the position, or does it wrong on purpose.
    pub fn apply(&mut self, from: u64, records: &[HubRecord]) {
        let content = &mut self.shown;
        for record in records {
            match record {
                HubRecord::Event(arrived) => {
                    let event = &arrived.event;
                    let coverage = match (&event.data, &event.source.device) {
                        (EventData::Coverage(coverage), Some(device)) => {
                            Some((device.clone(), coverage.clone()))
                        }
                        _ => None,
                    };
                    content.rows.push(Row {
                        box_name: arrived.box_id.to_string(),
                        epoch: event.epoch,
                        sequence: event.sequence,
                        id: event.id,
                        conflict: arrived.conflict,
                        coverage,
                    });
                }
                HubRecord::Refused { box_id, epoch: Some(epoch), sequence: Some(sequence), id, .. } => {
                    let id = id.expect("the bad events have one");
                    *content.refused.entry((box_id.to_string(), *epoch, *sequence, id)).or_default() += 1;
                }
                _ => {}
            }
        }
        content.applied = from + records.len() as u64;
    }

    pub fn save(&mut self, whole: bool) {
        let position = self.saved.applied;
        self.saved = self.shown.clone();
        if !whole {
            self.saved.applied = position;
        }
    }

    pub fn crash(&mut self) {
        self.shown = self.saved.clone();
    }

    /// Thrown away, to be built anew.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
