//! What the box still owes the hub: events, durable until a receipt covers them.
//!
//! Owns the journal of accepted events and the knowledge of what was receipted. May not send anything
//! ([`super::uplink`] does), nor forget an event that no receipt covers.
//!
//! [`core`] decides and does no I/O; [`Store`] drives it with the journal. The records' bytes: [`record`].

pub mod core;
pub mod record;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::journal::{Item, Journal, JournalError, Recovery};
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_KEEP, OUTBOX_QUEUE_MAX, OUTBOX_SEGMENT_BYTES_MAX};
use crate::model::{BoxId, ClockQuality, DeviceId, Epoch, EventData, Previous, Ranges, Time};
use crate::wire::Receipt;
pub use core::EpochStart;
use core::{Action, Core, Effect};

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

/// The place of an event: its epoch and its sequence in it.
pub type Place = (Epoch, u64);

/// Events in a row of one epoch, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub epoch: Epoch,
    pub first: u64,
    pub last: u64,
}

impl Span {
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let epoch = self.epoch;
        (self.first..=self.last).map(move |sequence| (epoch, sequence))
    }
}

impl EpochStart {
    /// A new epoch, now. Random, so that a box restored from an old image can't draw the same again.
    pub fn draw(time: Time, clock: ClockQuality) -> Self {
        Self { epoch: Epoch::draw(), id: Uuid::now_v7(), time, clock }
    }
}

/// The outbox on disk: drives [`Core`] with the journal. Blocking; one owner.
pub struct Store {
    core: Core,
    journal: Journal,
    bytes_max: u64,
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
        Ok((Self::over(journal, box_id, EpochStart::draw(now, clock))?, recovery))
    }

    /// An outbox over an open journal, in the epoch that the caller drew.
    pub fn over(journal: Journal, box_id: &BoxId, start: EpochStart) -> Result<Self, JournalError> {
        let mut store = Self { core: Core::new(box_id.clone()), journal, bytes_max: OUTBOX_BYTES_MAX };
        store.reread()?;
        store.begin(start)?;
        Ok(store)
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        self.newest().epoch
    }

    /// The current epoch and the last sequence accepted in it.
    pub fn newest(&self) -> Previous {
        self.core.newest().expect("an outbox opens with an epoch")
    }

    /// The current epoch and those before that something may be left of, newest first, each with its last sequence.
    pub fn epochs(&self) -> Vec<Previous> {
        self.core.epochs()
    }

    /// Starts another epoch because someone else uses the current one. Returns what is owed by it.
    pub fn begin(&mut self, start: EpochStart) -> Result<Vec<Span>, JournalError> {
        let effects = self.core.step(Action::Begin(start));
        self.perform(effects)
    }

    /// Makes `events` durable with one sync and returns their places, in order.
    pub fn accept(&mut self, events: Vec<NewEvent>) -> Result<Vec<Span>, OutboxError> {
        self.accept_as(events.into_iter().map(|event| (Uuid::now_v7(), event)).collect())
    }

    /// As [`Store::accept`], with ids drawn by the caller.
    pub fn accept_as(&mut self, events: Vec<(Uuid, NewEvent)>) -> Result<Vec<Span>, OutboxError> {
        if self.journal.bytes() > self.bytes_max {
            self.drop_receipted_now();
            let bytes = self.journal.bytes();
            if bytes > self.bytes_max {
                return Err(OutboxError::Full { bytes });
            }
        }
        let effects = self.core.step(Action::Accept(events));
        self.perform(effects).map_err(|error| OutboxError::Disk(Arc::new(error)))
    }

    /// All events that no receipt covers: oldest epoch first, in sequence.
    pub fn owed(&self) -> impl Iterator<Item = Span> + '_ {
        self.core.owed()
    }

    pub fn unreceipted_count(&self) -> usize {
        self.core.owed_count() as usize
    }

    /// The JSON of up to `count` events of one epoch from `from` on, as far as they follow each other without a
    /// hole and are not receipted. Empty if `from` itself is not owed any more, or, see [`Store::give_up_unreadable`],
    /// can't be read.
    pub fn read(&self, from: Place, count: usize) -> Result<Vec<(u64, Vec<u8>)>, JournalError> {
        let Some((first_record, count)) = self.core.locate(from, count) else { return Ok(Vec::new()) };
        let events = self.read_at(first_record, from, count)?;
        if !events.is_empty() {
            return Ok(events);
        }
        match self.find(from.0, &Ranges::of(from.1, from.1))?.first() {
            Some(&(_, record)) => self.read_at(record, from, count),
            None => Ok(Vec::new()),
        }
    }

    fn read_at(
        &self,
        first_record: u64,
        from: Place,
        count: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, JournalError> {
        let mut found = Vec::with_capacity(count);
        for item in self.journal.read(first_record) {
            // Damaged on disk: it can't be sent; the hub will name it as missing.
            let Item::Record(read) = item? else { break };
            let Some(record::Record::Event((epoch, sequence), json)) = record::decode(&read.payload) else {
                continue;
            };
            let wanted = from.1 + found.len() as u64;
            if epoch != from.0 || sequence > wanted {
                break;
            }
            if sequence == wanted {
                found.push((sequence, json.to_vec()));
            }
            if found.len() == count {
                break;
            }
        }
        Ok(found)
    }

    /// Gives up what of these events is owed and can't be read any more, and says which that is: the disk lost them.
    /// Reads everything: rare, and bounded by the disk.
    pub fn give_up_unreadable(&mut self, from: Place, count: usize) -> Result<Ranges, JournalError> {
        let mut lost = Ranges::new();
        for span in self.core.owed().filter(|span| span.epoch == from.0) {
            lost.insert_all(&Ranges::of(span.first, span.last).overlap(from.1, from.1 + count as u64 - 1));
        }
        for (sequence, _) in self.find(from.0, &lost)? {
            lost.remove(sequence, sequence);
        }
        self.core.step(Action::Unreadable { epoch: from.0, sequences: lost.clone() });
        Ok(lost)
    }

    /// Applies the hub's word. Returns what it asks for again although it was receipted once.
    pub fn receipt(&mut self, receipt: &Receipt) -> Result<Vec<Span>, JournalError> {
        let effects = self.core.step(Action::Receipt(receipt));
        self.perform(effects)
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
        self.reread()
    }

    fn reread(&mut self) -> Result<(), JournalError> {
        self.core.step(Action::Reread);
        for item in self.journal.read(self.journal.first()) {
            match item? {
                Item::Record(record) => {
                    self.core.step(Action::Record { number: record.number, payload: &record.payload });
                }
                Item::Damage(damage) => tracing::error!(%damage, "outbox is damaged"),
            }
        }
        self.core.step(Action::AllRead);
        Ok(())
    }

    /// Does what the core asks for; returns what is owed by it.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<Vec<Span>, JournalError> {
        let mut owed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Roll => self.journal.roll()?,
                Effect::Write(records) => {
                    let action = match self.write(&records) {
                        Ok(first) => Action::Written { first },
                        Err(error) => {
                            self.core.step(Action::WriteFailed);
                            return Err(error);
                        }
                    };
                    let then = self.core.step(action);
                    owed.extend(self.perform(then)?);
                }
                Effect::Note(record) => {
                    self.journal.append(&record)?;
                }
                Effect::Owe(spans) => owed.extend(spans),
                Effect::Find { epoch, asked } => {
                    let found = self.find(epoch, &asked)?;
                    let then = self.core.step(Action::Found { epoch, asked, found });
                    owed.extend(self.perform(then)?);
                }
                Effect::DropBefore(number) => self.drop_before(number),
            }
        }
        Ok(owed)
    }

    fn write(&mut self, records: &[Vec<u8>]) -> Result<u64, JournalError> {
        let mut first = None;
        for record in records {
            let number = self.journal.append(record)?;
            first.get_or_insert(number);
        }
        self.journal.sync()?;
        Ok(first.unwrap_or(self.journal.next()))
    }

    /// Which of `asked` are on disk, with their record numbers. Reads everything: rare, and bounded by the disk.
    fn find(&self, epoch: Epoch, asked: &Ranges) -> Result<Vec<(u64, u64)>, JournalError> {
        let mut found = Vec::new();
        if asked.is_empty() {
            return Ok(found);
        }
        for item in self.journal.read(self.journal.first()) {
            let Item::Record(read) = item? else { continue };
            if let Some(record::Record::Event(place, _)) = record::decode(&read.payload)
                && place.0 == epoch
                && asked.contains(place.1)
            {
                found.push((place.1, read.number));
            }
        }
        Ok(found)
    }

    fn drop_receipted(&mut self, closed_before: SystemTime) {
        let segments: Vec<u64> = self.journal.segments().map(|(first, _)| first).collect();
        let mut old = Vec::new();
        for pair in segments.windows(2) {
            if !self.journal.modified(pair[0]).is_ok_and(|modified| modified < closed_before) {
                break;
            }
            old.push(pair[1]);
        }
        for effect in self.core.step(Action::Drop { segments: &old }) {
            if let Effect::DropBefore(number) = effect {
                self.drop_before(number);
            }
        }
    }

    fn drop_before(&mut self, number: u64) {
        // The newest place must not go with its segment: the receipt that names it may not be on disk yet.
        if let Err(error) = self.journal.sync().and_then(|()| self.journal.drop_before(number)) {
            tracing::warn!(%error, "old outbox segments stay");
        }
    }
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
        let data = EventData::Status(Status::new(true, None));
        NewEvent { device: None, time: Time::now(), clock: CLOCK, data }
    }

    fn places(store: &Store) -> Vec<Place> {
        store.owed().flat_map(|span| span.places()).collect()
    }

    fn owed(store: &Store) -> Vec<u64> {
        places(store).into_iter().filter(|(epoch, _)| *epoch == store.epoch()).map(|(_, s)| s).collect()
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
        assert_eq!(places(&store), [(first, 3), (store.epoch(), 1)]);
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
        assert_eq!(asked, [Span { epoch, first: 2, last: 3 }]);
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
        store.begin(EpochStart::draw(Time::now(), CLOCK)).unwrap();
        let far_future = SystemTime::now() + 2 * OUTBOX_KEEP;
        store.drop_old(far_future);
        assert!(places(&store).contains(&(first, 2)));
        assert_eq!(store.read((first, 1), 10).unwrap().len(), 2);
        store.receipt(&receipt(first, 2, &[])).unwrap();
        let before = store.journal.first();
        store.drop_old(SystemTime::now());
        assert_eq!(store.journal.first(), before, "receipted events stay for a while");
        store.drop_old(far_future);
        assert!(store.journal.first() > before);
    }
}
