//! What was set aside, offered again: after an update that knows its type, or a registry that knows its device.
//!
//! Owns the choice of what is offered, and the count of what became of it. The record of what was set aside stays
//! as it is; an event that comes of it is a record of its own, with the time of its first arrival. The truth sees to
//! it that each becomes an event once, however often it is replayed. May not write: whoever owns the truth does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::aside;
use super::ingest::{IngestError, SpeaksFor, check_device};
use super::truth::{Arrived, HubRecord, Outcome, TruthItem, read_from};
use crate::journal::JournalError;
use crate::limits::REPLAY_EVENTS_MAX;
use crate::model::{BoxId, Time};
use crate::wire::{self, Decoded, RefusalReason};

/// What shall be offered again; every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    #[serde(rename = "box", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub box_id: Option<BoxId>,
    /// For instance `not_allowed`. Without it, all but `revoked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Arrived at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Time>,
    /// Arrived at this time or earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Time>,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replayed {
    /// Events that are new now.
    pub replayed: u64,
    /// Had become events before.
    pub known: u64,
    /// Became events under a place that another one has.
    pub conflicts: u64,
    /// Are still refused, by the reason of now.
    pub still_refused: BTreeMap<String, u64>,
}

/// Why a replay ended early. What was replayed before that stays so.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("what was set aside can't be read")]
    Journal(#[from] JournalError),
    #[error("what was offered again can't be kept")]
    Ingest(#[from] IngestError),
}

/// A replay on the running hub. Blocks.
pub type Replay = Arc<dyn Fn(&Filter) -> Result<Replayed, ReplayError> + Send + Sync>;

impl Filter {
    fn wants(&self, of: &BoxId, received: Time, reason: &str) -> bool {
        self.box_id.as_ref().is_none_or(|box_id| box_id == of)
            && match &self.reason {
                Some(wanted) => wanted == reason,
                // Whoever held a revoked box may have written it: only who asks for just that gets it.
                None => reason != RefusalReason::Revoked.as_str(),
            }
            && self.from.is_none_or(|from| received >= from)
            && self.to.is_none_or(|to| received <= to)
    }
}

/// Offers what `filter` wants of the records below `upto`, in the order in which it came. `offer` makes records
/// durable and says what each one was.
pub fn replay(
    journal_dir: &Path,
    upto: u64,
    filter: &Filter,
    speaks_for: &SpeaksFor,
    mut offer: impl FnMut(Vec<HubRecord>) -> Result<Vec<Outcome>, IngestError>,
) -> Result<Replayed, ReplayError> {
    let mut told = Replayed::default();
    let mut batch = Vec::new();
    for item in read_from(journal_dir, 0)? {
        let (position, record) = match item? {
            TruthItem::Record { position, record } => (position, record),
            TruthItem::Unreadable { position, .. } if position < upto => continue,
            TruthItem::Damage(damage) if damage.last_lost < upto => continue,
            _ => break,
        };
        if position >= upto {
            break;
        }
        let HubRecord::Refused { box_id, received, reason, detail, body, .. } = record else { continue };
        if !filter.wants(&box_id, received, &reason) {
            continue;
        }
        if body.is_empty() && !aside::is_of_its_own(&detail) {
            // Another place of a message whose body stands with the first.
            continue;
        }
        if body.is_empty() && aside::is_body_lost(&detail) {
            *told.still_refused.entry("body_not_kept".into()).or_default() += 1;
            continue;
        }
        for mut item in wire::decode(&box_id, &body) {
            check_device(speaks_for, &box_id, &mut item);
            match item {
                Decoded::Event { event, json } => {
                    let box_id = box_id.clone();
                    batch.push(HubRecord::Event(Arrived { box_id, received, conflict: false, event, json }));
                }
                Decoded::Refused(refusal) => {
                    *told.still_refused.entry(refusal.reason.as_str().into()).or_default() += 1;
                }
            }
        }
        if batch.len() >= REPLAY_EVENTS_MAX {
            told.add(&offer(std::mem::take(&mut batch))?);
        }
    }
    if !batch.is_empty() {
        told.add(&offer(batch)?);
    }
    tracing::info!(?filter, ?told, "what was set aside was offered again");
    Ok(told)
}

impl Replayed {
    fn add(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::New => self.replayed += 1,
                Outcome::Duplicate | Outcome::Refused => self.known += 1,
                Outcome::Conflict => self.conflicts += 1,
            }
        }
    }
}

impl std::fmt::Display for Replayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replayed {}, known before {}, conflicts {}", self.replayed, self.known, self.conflicts)?;
        let all: u64 = self.still_refused.values().sum();
        write!(f, ", still refused {all}")?;
        for (n, (reason, count)) in self.still_refused.iter().enumerate() {
            let before = if n == 0 { ": " } else { ", " };
            write!(f, "{before}{reason} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::truth::{JournalTruth, Truth};
    use crate::model::{
        ClockQuality, ClockSource, DeviceId, Epoch, Event, EventData, Source, Status, SyncState,
    };

    fn refused(n: u64, reason: &str, device: &str, received: i64) -> HubRecord {
        let box_id = BoxId::new("box-01").unwrap();
        let clock = ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Unknown,
            offset_ms: None,
            uncertainty_ms: None,
        };
        let event = Event {
            id: uuid::Uuid::from_u128(n.into()),
            source: Source::of_device(&box_id, &DeviceId::new(device).unwrap()),
            epoch: Epoch(7),
            sequence: n,
            time: Time::UNIX_EPOCH,
            clock,
            data: EventData::Status(Status::new(true, None)),
        };
        HubRecord::Refused {
            box_id,
            received: Time::from_second(received).unwrap(),
            reason: reason.into(),
            detail: "why".into(),
            epoch: Some(Epoch(7)),
            sequence: Some(n),
            id: Some(event.id),
            body: wire::encode(&event),
        }
    }

    #[test]
    fn what_can_be_read_now_becomes_an_event_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut truth, _) = JournalTruth::open(dir.path()).unwrap();
        let records = (1..=1200).map(|n| match n % 4 {
            0 => refused(n, "not_allowed", "new-camera", 10),
            1 => refused(n, "not_allowed", "no-camera", 10),
            2 => refused(n, "bad_time", "new-camera", 10),
            _ => refused(n, "not_allowed", "new-camera", 99),
        });
        truth.append(records.collect()).unwrap();
        let speaks_for: SpeaksFor = Arc::new(|_, device| device.as_str() == "new-camera");
        let filter = Filter {
            box_id: Some(BoxId::new("box-01").unwrap()),
            reason: Some("not_allowed".into()),
            from: Some(Time::UNIX_EPOCH),
            to: Some(Time::from_second(50).unwrap()),
        };
        for round in 0..3 {
            let mut order = Vec::new();
            let upto = truth.next();
            let told = replay(dir.path(), upto, &filter, &speaks_for, |batch| {
                assert!(batch.len() <= REPLAY_EVENTS_MAX);
                let appended = truth.append(batch).unwrap();
                for record in &appended.written {
                    let HubRecord::Event(arrived) = record else { panic!("{record:?}") };
                    assert_eq!(arrived.received, Time::from_second(10).unwrap(), "when it came first");
                    order.push(arrived.event.sequence);
                }
                Ok(appended.outcomes)
            })
            .unwrap();
            let expected: Vec<u64> = if round == 0 { (1..=300).map(|n| n * 4).collect() } else { vec![] };
            assert_eq!(order, expected);
            let still = BTreeMap::from([("not_allowed".to_owned(), 300)]);
            let (replayed, known) = if round == 0 { (300, 0) } else { (0, 300) };
            assert_eq!(told, Replayed { replayed, known, conflicts: 0, still_refused: still });
        }
    }
}
