//! What the box still owes the hub: events, durable until a receipt covers them.
//!
//! Owns the journal of accepted events and the knowledge of what was receipted. May not send anything
//! ([`super::uplink`] does), nor forget an event that no receipt covers.
//!
//! Records of the journal: one byte kind, then
//!
//! ```text
//! 'E'  epoch (8, big-endian), sequence (8, big-endian), the event as CloudEvents JSON
//! 'R'  JSON: what was receipted ({"epoch", "upto", "missing"}) and the epoch's last sequence
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::journal::{Item, Journal, JournalError, Recovery};
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_KEEP, OUTBOX_QUEUE_MAX, OUTBOX_SEGMENT_BYTES_MAX};
use crate::model::{Boot, BoxId, ClockQuality, DeviceId, Epoch, Event, EventData, Previous, Source, Time};
use crate::wire::{self, Receipt};

/// An event on its way into the outbox, which gives it id, epoch and sequence.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// None for what concerns the box itself.
    pub device: Option<DeviceId>,
    pub time: Time,
    pub clock: ClockQuality,
    pub data: EventData,
}

/// Why the outbox did not take an event.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    #[error("the outbox is full: {bytes} bytes wait for the hub")]
    Full { bytes: u64 },
    #[error("the outbox can't be written")]
    Disk(#[source] Arc<JournalError>),
    #[error("the outbox is closed")]
    Closed,
}

/// A handle to the outbox, for those who make events. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    accepts: mpsc::Sender<Accept>,
}

/// One event on its way to the outbox's owner.
pub struct Accept {
    pub event: NewEvent,
    /// Answered when the event is durable, or was not taken.
    pub done: oneshot::Sender<Result<(), OutboxError>>,
}

impl Outbox {
    /// A handle and the queue that the outbox's owner serves.
    pub fn new() -> (Self, mpsc::Receiver<Accept>) {
        let (accepts, queue) = mpsc::channel(OUTBOX_QUEUE_MAX);
        (Self { accepts }, queue)
    }

    /// Takes an event. When this returns, the event is durable on the box and will be delivered.
    pub async fn accept(&self, event: NewEvent) -> Result<(), OutboxError> {
        let (done, answer) = oneshot::channel();
        self.accepts.send(Accept { event, done }).await.map_err(|_| OutboxError::Closed)?;
        answer.await.map_err(|_| OutboxError::Closed)?
    }
}

/// Ranges that are remembered as gone.
const GONE_RANGES_MAX: usize = 1000;

/// The place of an event: its epoch and its sequence in it.
pub type Place = (Epoch, u64);

/// The outbox on disk, and what of it no receipt has covered. Blocking; one owner.
pub struct Store {
    box_id: BoxId,
    journal: Journal,
    epoch: Epoch,
    last_sequence: u64,
    /// Epochs in the order of their first event, and for each the events that no receipt covers with their
    /// record numbers.
    unreceipted: Vec<(Epoch, BTreeMap<u64, u64>)>,
    /// Ranges that the hub asked for and that are not on disk any more: not looked for again.
    gone: BTreeSet<(Epoch, u64, u64)>,
    bytes_max: u64,
}

#[derive(Serialize, Deserialize)]
struct ReceiptRecord {
    epoch: Epoch,
    upto: u64,
    #[serde(default)]
    missing: Vec<(u64, u64)>,
    /// The newest event's place: survives when its own segment is dropped.
    newest: (Epoch, u64),
}

impl Store {
    /// Opens the outbox in `dir`, draws a new epoch, and accepts its first event, which names the previous one.
    pub fn open(
        dir: &Path,
        box_id: &BoxId,
        now: Time,
        clock: ClockQuality,
    ) -> Result<(Self, Recovery), JournalError> {
        let (journal, recovery) = Journal::open_with(dir, OUTBOX_SEGMENT_BYTES_MAX)?;
        let mut store = Self {
            box_id: box_id.clone(),
            journal,
            epoch: Epoch::draw(),
            last_sequence: 0,
            unreceipted: Vec::new(),
            gone: BTreeSet::new(),
            bytes_max: OUTBOX_BYTES_MAX,
        };
        let previous = store.replay()?;
        store.begin_epoch(previous, now, clock)?;
        Ok((store, recovery))
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Starts another epoch because someone else uses the current one.
    pub fn new_epoch(&mut self, now: Time, clock: ClockQuality) -> Result<(), JournalError> {
        let previous = Previous { epoch: self.epoch, last_sequence: self.last_sequence };
        self.begin_epoch(Some(previous), now, clock)
    }

    /// Makes `events` durable with one sync and returns their places, in order.
    pub fn accept(&mut self, events: Vec<NewEvent>) -> Result<Vec<Place>, OutboxError> {
        let bytes = self.journal.bytes();
        if bytes > self.bytes_max {
            self.drop_receipted_now();
            let bytes = self.journal.bytes();
            if bytes > self.bytes_max {
                return Err(OutboxError::Full { bytes });
            }
        }
        self.append(events).map_err(|error| OutboxError::Disk(Arc::new(error)))
    }

    /// Places of all events that no receipt covers: oldest epoch first, in sequence.
    pub fn unreceipted(&self) -> impl Iterator<Item = Place> + '_ {
        self.unreceipted.iter().flat_map(|(epoch, events)| events.keys().map(|&sequence| (*epoch, sequence)))
    }

    pub fn unreceipted_count(&self) -> usize {
        self.unreceipted.iter().map(|(_, events)| events.len()).sum()
    }

    /// The JSON of up to `count` events of one epoch from `from` on, as far as they follow each other without a
    /// hole and are not receipted. Empty if `from` itself is not owed any more.
    pub fn read(&self, from: Place, count: usize) -> Result<Vec<(u64, Vec<u8>)>, JournalError> {
        let Some((_, events)) = self.unreceipted.iter().find(|(epoch, _)| *epoch == from.0) else {
            return Ok(Vec::new());
        };
        let mut wanted: Vec<(u64, u64)> = Vec::new();
        for (&sequence, &number) in events.range(from.1..).take(count) {
            if sequence != from.1 + wanted.len() as u64 {
                break;
            }
            wanted.push((sequence, number));
        }
        let Some(&(_, first)) = wanted.first() else { return Ok(Vec::new()) };
        let mut found = Vec::with_capacity(wanted.len());
        let mut records = self.journal.read(first);
        for (sequence, number) in wanted {
            let json = loop {
                match records.next().transpose()? {
                    Some(Item::Record(record)) if record.number == number => {
                        break decode_event(&record.payload);
                    }
                    Some(Item::Record(record)) if record.number < number => {}
                    // Damaged on disk: it can't be sent; the hub will name it as missing.
                    Some(_) | None => return Ok(found),
                }
            };
            let Some((_, json)) = json else { return Ok(found) };
            found.push((sequence, json));
        }
        Ok(found)
    }

    /// Applies the hub's word. Returns the places that it asks for again although they were receipted once.
    pub fn receipt(&mut self, receipt: &Receipt) -> Result<Vec<Place>, JournalError> {
        let before = self.unreceipted_count();
        if let Some((_, events)) = self.unreceipted.iter_mut().find(|(epoch, _)| *epoch == receipt.epoch) {
            events.retain(|&sequence, _| !receipt.covers(sequence));
        }
        let asked = self.bring_back(receipt)?;
        self.unreceipted.retain(|(epoch, events)| !events.is_empty() || *epoch == self.epoch);
        if self.unreceipted_count() < before || !asked.is_empty() {
            let record = ReceiptRecord {
                epoch: receipt.epoch,
                upto: receipt.upto,
                missing: receipt.missing.clone(),
                newest: (self.epoch, self.last_sequence),
            };
            let mut payload = vec![b'R'];
            serde_json::to_writer(&mut payload, &record).expect("a record has only text keys");
            // Not synced: if it is lost, the events are sent once more and the hub knows them.
            self.journal.append(&payload)?;
        }
        Ok(asked)
    }

    /// Drops segments that were closed before `now` − [`OUTBOX_KEEP`] and hold nothing unreceipted.
    pub fn drop_old(&mut self, now: SystemTime) {
        self.drop_receipted(now.checked_sub(OUTBOX_KEEP).unwrap_or(SystemTime::UNIX_EPOCH));
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// How large it may become.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Drops every closed segment that holds nothing unreceipted, however new.
    pub fn drop_receipted_now(&mut self) {
        self.drop_receipted(SystemTime::UNIX_EPOCH + std::time::Duration::MAX / 4);
    }

    /// Makes what was appended without a sync durable too; called when the box stops.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.journal.sync()
    }

    /// After a write that failed: recovers from what is on disk.
    pub fn reopen(&mut self) -> Result<(), JournalError> {
        self.journal.reopen()?;
        self.unreceipted.clear();
        if let Some(previous) = self.replay()?
            && previous.epoch == self.epoch
        {
            self.last_sequence = previous.last_sequence;
        }
        Ok(())
    }

    fn begin_epoch(
        &mut self,
        previous: Option<Previous>,
        time: Time,
        clock: ClockQuality,
    ) -> Result<(), JournalError> {
        self.epoch = Epoch::draw();
        self.last_sequence = 0;
        self.journal.roll()?;
        let software = format!("camnet {}", env!("CARGO_PKG_VERSION"));
        let boot = EventData::Boot(Boot { previous, software });
        self.append(vec![NewEvent { device: None, time, clock, data: boot }]).map(|_| ())
    }

    fn append(&mut self, events: Vec<NewEvent>) -> Result<Vec<Place>, JournalError> {
        let mut placed = Vec::with_capacity(events.len());
        for new in events {
            let sequence = self.last_sequence + 1 + placed.len() as u64;
            let event = Event {
                id: Uuid::now_v7(),
                source: Source { box_id: self.box_id.clone(), device: new.device },
                epoch: self.epoch,
                sequence,
                time: new.time,
                clock: new.clock,
                data: new.data,
            };
            let number = self.journal.append(&encode_event(&event))?;
            placed.push((sequence, number));
        }
        self.journal.sync()?;
        let epoch = self.epoch;
        self.last_sequence += placed.len() as u64;
        let owed = self.owed_mut(epoch);
        owed.extend(placed.iter().copied());
        Ok(placed.into_iter().map(|(sequence, _)| (epoch, sequence)).collect())
    }

    fn owed_mut(&mut self, epoch: Epoch) -> &mut BTreeMap<u64, u64> {
        let at = self.unreceipted.iter().position(|(e, _)| *e == epoch).unwrap_or_else(|| {
            self.unreceipted.push((epoch, BTreeMap::new()));
            self.unreceipted.len() - 1
        });
        &mut self.unreceipted[at].1
    }

    /// Reads the journal back; returns the newest event's epoch and sequence.
    fn replay(&mut self) -> Result<Option<Previous>, JournalError> {
        let mut newest: Option<(Epoch, u64)> = None;
        for item in self.journal.read(self.journal.first()) {
            let record = match item? {
                Item::Record(record) => record,
                Item::Damage(damage) => {
                    tracing::error!(%damage, "outbox is damaged");
                    continue;
                }
            };
            match record.payload.first() {
                Some(b'E') => {
                    let Some(((epoch, sequence), _)) = decode_event(&record.payload) else { continue };
                    self.owed_mut(epoch).insert(sequence, record.number);
                    newest = Some((epoch, sequence));
                }
                Some(b'R') => {
                    let Ok(word) = serde_json::from_slice::<ReceiptRecord>(&record.payload[1..]) else {
                        continue;
                    };
                    let receipt = Receipt {
                        epoch: word.epoch,
                        upto: word.upto,
                        missing: word.missing,
                        refused: Vec::new(),
                    };
                    self.owed_mut(word.epoch).retain(|&sequence, _| !receipt.covers(sequence));
                    newest = newest.or(Some(word.newest));
                }
                _ => tracing::warn!(record = record.number, "outbox record of unknown kind skipped"),
            }
        }
        self.unreceipted.retain(|(_, events)| !events.is_empty());
        Ok(newest.map(|(epoch, last_sequence)| Previous { epoch, last_sequence }))
    }

    /// Finds what `receipt` names as missing but was receipted before, as long as it is still on disk.
    fn bring_back(&mut self, receipt: &Receipt) -> Result<Vec<Place>, JournalError> {
        let owed =
            self.unreceipted.iter().find(|(epoch, _)| *epoch == receipt.epoch).map(|(_, events)| events);
        let is_known = |sequence: u64| owed.is_some_and(|events| events.contains_key(&sequence));
        let newest = if receipt.epoch == self.epoch { self.last_sequence } else { u64::MAX };
        let is_new = |&(from, to): &(u64, u64)| {
            let is_owed = is_known(from) && is_known(to.min(newest));
            let is_gone = self.gone.contains(&(receipt.epoch, from, to));
            !is_owed && !is_gone
        };
        if !receipt.missing.iter().any(is_new) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for item in self.journal.read(self.journal.first()) {
            let Item::Record(record) = item? else { continue };
            let Some((place, _)) = decode_event(&record.payload) else { continue };
            let is_asked = receipt.missing.iter().any(|&(from, to)| (from..=to).contains(&place.1));
            if place.0 == receipt.epoch && is_asked && !is_known(place.1) {
                found.push((place, record.number));
            }
        }
        for &(from, to) in &receipt.missing {
            let is_found = found.iter().any(|&((_, sequence), _)| (from..=to).contains(&sequence));
            if !is_found && self.gone.len() < GONE_RANGES_MAX {
                tracing::warn!(epoch = %receipt.epoch, from, to, "the hub asks for events that are not on disk any more");
                self.gone.insert((receipt.epoch, from, to));
            }
        }
        for &((epoch, sequence), number) in &found {
            self.owed_mut(epoch).insert(sequence, number);
        }
        Ok(found.into_iter().map(|(place, _)| place).collect())
    }

    fn drop_receipted(&mut self, closed_before: SystemTime) {
        let oldest_owed = self.unreceipted.iter().flat_map(|(_, events)| events.values()).min();
        let owed = oldest_owed.copied().unwrap_or(u64::MAX);
        let segments: Vec<(u64, std::path::PathBuf)> = self.journal.segments().collect();
        let mut keep_from = self.journal.first();
        for pair in segments.windows(2) {
            let modified = std::fs::metadata(&pair[0].1).and_then(|meta| meta.modified());
            let is_old = modified.is_ok_and(|modified| modified < closed_before);
            if !is_old || pair[1].0 > owed {
                break;
            }
            keep_from = pair[1].0;
        }
        if let Err(error) = self.journal.drop_before(keep_from) {
            tracing::warn!(%error, "old outbox segments stay");
        }
    }
}

fn encode_event(event: &Event) -> Vec<u8> {
    let mut payload = vec![b'E'];
    payload.extend_from_slice(&event.epoch.0.to_be_bytes());
    payload.extend_from_slice(&event.sequence.to_be_bytes());
    payload.extend_from_slice(&wire::encode(event));
    payload
}

fn decode_event(payload: &[u8]) -> Option<(Place, Vec<u8>)> {
    if payload.first() != Some(&b'E') || payload.len() < 17 {
        return None;
    }
    let epoch = u64::from_be_bytes(payload[1..9].try_into().expect("eight bytes"));
    let sequence = u64::from_be_bytes(payload[9..17].try_into().expect("eight bytes"));
    Some(((Epoch(epoch), sequence), payload[17..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClockSource, Status, SyncState};

    const CLOCK: ClockQuality = ClockQuality {
        source: ClockSource::Box,
        sync: SyncState::Unknown,
        offset_ms: None,
        uncertainty_ms: None,
    };

    fn open(dir: &Path) -> Store {
        Store::open(dir, &BoxId::new("box-01").unwrap(), Time::now(), CLOCK).unwrap().0
    }

    fn status() -> NewEvent {
        let data = EventData::Status(Status { working: true, detail: None });
        NewEvent { device: None, time: Time::now(), clock: CLOCK, data }
    }

    fn owed(store: &Store) -> Vec<u64> {
        store.unreceipted().filter(|(epoch, _)| *epoch == store.epoch()).map(|(_, s)| s).collect()
    }

    fn receipt(epoch: Epoch, upto: u64, missing: &[(u64, u64)]) -> Receipt {
        Receipt { epoch, upto, missing: missing.to_vec(), refused: Vec::new() }
    }

    #[test]
    fn an_event_is_owed_until_a_receipt_covers_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        store.accept(vec![status(), status(), status()]).unwrap();
        assert_eq!(owed(&store), [1, 2, 3, 4], "the boot event is the first");
        store.receipt(&receipt(store.epoch(), 3, &[(2, 2)])).unwrap();
        assert_eq!(owed(&store), [2, 4]);
        store.receipt(&receipt(Epoch(1), 9, &[])).unwrap();
        assert_eq!(owed(&store), [2, 4], "a receipt for another epoch changes nothing");
        assert_eq!(store.read((store.epoch(), 2), 10).unwrap().len(), 1, "a batch has no hole");
    }

    #[test]
    fn a_restart_keeps_what_is_owed_and_names_the_epoch_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        store.accept(vec![status(), status()]).unwrap();
        let first = store.epoch();
        store.receipt(&receipt(first, 2, &[])).unwrap();
        store.sync().unwrap();
        drop(store);

        let store = open(dir.path());
        assert_ne!(store.epoch(), first);
        assert_eq!(store.unreceipted().collect::<Vec<_>>(), [(first, 3), (store.epoch(), 1)]);
        let (_, json) = store.read((store.epoch(), 1), 1).unwrap().remove(0);
        let text = String::from_utf8(json).unwrap();
        assert!(text.contains(&format!(r#""previous":{{"epoch":"{first}","last_sequence":3}}"#)), "{text}");
    }

    #[test]
    fn the_hub_may_ask_again_for_what_it_receipted() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        store.accept(vec![status(), status(), status()]).unwrap();
        let epoch = store.epoch();
        store.receipt(&receipt(epoch, 4, &[])).unwrap();
        assert_eq!(store.unreceipted_count(), 0);
        let asked = store.receipt(&receipt(epoch, 4, &[(2, 3)])).unwrap();
        assert_eq!(asked, [(epoch, 2), (epoch, 3)]);
        assert_eq!(store.read((epoch, 2), 10).unwrap().len(), 2);
        let again = store.receipt(&receipt(epoch, 4, &[(2, 3)])).unwrap();
        assert_eq!(again, [], "asked twice, brought back once");
    }

    #[test]
    fn only_receipted_segments_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let first = store.epoch();
        store.accept(vec![status()]).unwrap();
        store.new_epoch(Time::now(), CLOCK).unwrap();
        let far_future = SystemTime::now() + 2 * OUTBOX_KEEP;
        store.drop_old(far_future);
        assert!(store.unreceipted().any(|place| place == (first, 2)));
        assert_eq!(store.read((first, 1), 10).unwrap().len(), 2);
        store.receipt(&receipt(first, 2, &[])).unwrap();
        let before = store.journal.first();
        store.drop_old(SystemTime::now());
        assert_eq!(store.journal.first(), before, "receipted events stay for a while");
        store.drop_old(far_future);
        assert!(store.journal.first() > before);
    }
}
