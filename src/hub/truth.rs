//! The truth: what the hub has durably, in order. Everything else is derived from it.
//!
//! Owns the journal of events and uploads. Which sequences have arrived ([`super::arrivals`]) comes from the journal
//! alone: a receipt never says more than what is on disk. May not know the index.
//!
//! A record of the journal is one byte version (1), one byte kind (`E`vent, `R`efused, `S`tored), a postcard
//! header, and for events and refusals the body as it came.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::arrivals::Arrivals;
use crate::journal::{Damage, Item, ItemRef, Journal, JournalError, Reader, Records, Recovery};
use crate::limits::STATUS_RECEIPTS_MAX;
use crate::model::{BoxId, Epoch, Event, Previous, Sha256Hash, Time};
use crate::wire::{self, Decoded, Receipt};

/// One record of the hub's journal, in the order of its number (the *position*).
#[derive(Debug, Clone, PartialEq)]
pub enum HubRecord {
    /// An event as it came.
    Event(Arrived),
    /// Something that was set aside, with its reason.
    Refused {
        box_id: BoxId,
        received: Time,
        reason: String,
        detail: String,
        epoch: Option<Epoch>,
        sequence: Option<u64>,
        id: Option<Uuid>,
        body: Vec<u8>,
    },
    /// An upload that is complete, whose hash was checked and whose file is durable.
    Stored(StoredFile),
}

/// An event as it came, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrived {
    pub box_id: BoxId,
    pub received: Time,
    /// The same (box, epoch, sequence) was known with another id.
    pub conflict: bool,
    pub event: Box<Event>,
    /// The event's bytes; the journal keeps these.
    pub json: Vec<u8>,
}

impl Arrived {
    /// An event of our own making, as if its box had sent it.
    pub fn of(event: Event, received: Time) -> Self {
        let json = wire::encode(&event);
        let box_id = event.source.box_id.clone();
        Self { box_id, received, conflict: false, event: Box::new(event), json }
    }
}

/// A file that a box uploaded: a clip or a thumbnail, named by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    pub sha256: Sha256Hash,
    pub bytes: u64,
    pub box_id: BoxId,
    pub clip: Uuid,
    pub received: Time,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    New,
    /// Known with the same id; not written again.
    Duplicate,
    /// Known with another id: both are kept.
    Conflict,
    /// Set aside.
    Refused,
}

/// Durable on return of [`Truth::append`]; the only source of receipts.
pub trait Truth {
    /// Takes the records in order. Returns the position of the first one written, those written, and what
    /// became of each one given; or all of them, when they could not be made durable.
    fn append(&mut self, batch: Vec<HubRecord>) -> Result<Appended, AppendError>;

    /// The hub's word about one epoch; None if it never heard of it.
    fn receipt(&self, box_id: &BoxId, epoch: Epoch) -> Option<Receipt>;

    /// A box says how far its epochs reach: what the hub lacks up to there is missing. This is not kept on disk; it
    /// can only make a receipt ask for more, never cover more.
    fn said(&mut self, box_id: &BoxId, epochs: Vec<Previous>);

    /// Epochs of a box of which something is missing, newest first, a bounded number of them.
    fn incomplete(&self, box_id: &BoxId) -> Vec<Epoch>;
}

/// Nothing of the batch counts; it comes back, to be tried again.
#[derive(Debug, thiserror::Error)]
#[error("the truth can't be written")]
pub struct AppendError {
    pub batch: Vec<HubRecord>,
    pub source: JournalError,
}

/// The result of an append.
#[derive(Debug)]
pub struct Appended {
    pub first: u64,
    pub written: Vec<HubRecord>,
    pub outcomes: Vec<Outcome>,
}

/// The truth in a journal on this machine's disk.
pub struct JournalTruth {
    journal: Journal,
    arrivals: Arrivals,
    /// What each box last said of itself.
    said: HashMap<BoxId, Vec<Previous>>,
    /// A write failed and the disk has not been read anew: what is in memory may not be on it.
    is_stale: bool,
}

impl JournalTruth {
    /// Opens the journal in `dir` and reads from it what has arrived.
    pub fn open(dir: &Path) -> Result<(Self, Recovery), JournalError> {
        let (journal, recovery) = Journal::open(dir)?;
        Ok((Self::over(journal)?, recovery))
    }

    /// The truth in an open journal.
    pub fn over(journal: Journal) -> Result<Self, JournalError> {
        let (arrivals, said) = (Arrivals::default(), HashMap::new());
        let mut truth = Self { journal, arrivals, said, is_stale: true };
        truth.replay()?;
        Ok(truth)
    }

    /// Position of the next record.
    pub fn next(&self) -> u64 {
        self.journal.next()
    }

    pub fn dir(&self) -> PathBuf {
        self.journal.dir().to_owned()
    }

    /// For those who read what is durable.
    pub fn records(&self) -> TruthRecords {
        TruthRecords::of(&self.journal)
    }

    fn said_of(&self, box_id: &BoxId) -> &[Previous] {
        self.said.get(box_id).map_or(&[], Vec::as_slice)
    }

    fn replay(&mut self) -> Result<(), JournalError> {
        self.arrivals = Arrivals::default();
        for item in self.journal.read(self.journal.first()) {
            match item? {
                Item::Record(record) => match decode_record(&record.payload) {
                    Ok(record) => {
                        self.arrivals.note(&record);
                    }
                    Err(why) => tracing::error!(position = record.number, why, "journal record skipped"),
                },
                Item::Damage(damage) => tracing::error!(%damage, "the hub's journal is damaged"),
            }
        }
        self.is_stale = false;
        Ok(())
    }

    fn recover(&mut self) -> Result<(), JournalError> {
        self.journal.reopen()?;
        self.replay()
    }

    /// Writes what is new and syncs; marks conflicts in the batch.
    fn write(&mut self, batch: &mut [HubRecord]) -> Result<Vec<Outcome>, JournalError> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for record in batch {
            let outcome = self.arrivals.note(record);
            outcomes.push(outcome);
            if outcome == Outcome::Duplicate {
                continue;
            }
            if let HubRecord::Event(arrived) = record {
                arrived.conflict = outcome == Outcome::Conflict;
            }
            self.journal.append(&encode_record(record))?;
        }
        self.journal.sync()?;
        Ok(outcomes)
    }
}

impl Truth for JournalTruth {
    fn append(&mut self, mut batch: Vec<HubRecord>) -> Result<Appended, AppendError> {
        if self.is_stale
            && let Err(source) = self.recover()
        {
            return Err(AppendError { batch, source });
        }
        let first = self.journal.next();
        match self.write(&mut batch) {
            Ok(outcomes) => {
                let kept = batch.into_iter().zip(&outcomes).filter(|(_, o)| **o != Outcome::Duplicate);
                Ok(Appended { first, written: kept.map(|(record, _)| record).collect(), outcomes })
            }
            Err(source) => {
                // What was noted may not be on disk: only the disk knows.
                self.is_stale = true;
                if let Err(error) = self.recover() {
                    tracing::warn!(%error, "the hub's journal can't be opened anew yet");
                }
                Err(AppendError { batch, source })
            }
        }
    }

    fn receipt(&self, box_id: &BoxId, epoch: Epoch) -> Option<Receipt> {
        if self.is_stale {
            return None;
        }
        self.arrivals.receipt(box_id, epoch, self.said_of(box_id))
    }

    fn said(&mut self, box_id: &BoxId, epochs: Vec<Previous>) {
        self.said.insert(box_id.clone(), epochs);
    }

    fn incomplete(&self, box_id: &BoxId) -> Vec<Epoch> {
        if self.is_stale {
            return Vec::new();
        }
        self.arrivals.incomplete(box_id, self.said_of(box_id), STATUS_RECEIPTS_MAX)
    }
}

/// Reads the truth of a hub, running or not: records in order with their positions, damage by name.
pub fn read_from(dir: &Path, from: u64) -> Result<TruthReader, JournalError> {
    Ok(TruthRecords(Records::of_dir(dir)?).read(from))
}

/// The truth, for readers; what becomes durable later is seen too. Clones share what they read last.
#[derive(Clone)]
pub struct TruthRecords(Records);

impl TruthRecords {
    /// The truth in an open journal.
    pub fn of(journal: &Journal) -> Self {
        Self(journal.records())
    }

    /// Records in order, from a position on.
    pub fn read(&self, from: u64) -> TruthReader {
        TruthReader { records: self.0.read(from) }
    }

    /// The record at a position; None if there is none, or none that this version knows.
    pub fn record(&self, position: u64) -> Result<Option<HubRecord>, JournalError> {
        let record = self.0.read_record(position)?;
        Ok(record.and_then(|record| decode_record(&record.payload).ok()))
    }
}

/// See [`read_from`].
pub struct TruthReader {
    records: Reader,
}

/// One step of a [`TruthReader`].
#[derive(Debug)]
pub enum TruthItem {
    Record {
        position: u64,
        record: HubRecord,
    },
    Damage(Damage),
    /// Whole on disk, but not a record that this version knows.
    Unreadable {
        position: u64,
        why: String,
    },
}

impl Iterator for TruthReader {
    type Item = Result<TruthItem, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.records.next_ref().transpose()?;
        Some(item.map(|item| match item {
            ItemRef::Damage(damage) => TruthItem::Damage(damage),
            ItemRef::Record { number, payload } => match decode_record(payload) {
                Ok(record) => TruthItem::Record { position: number, record },
                Err(why) => TruthItem::Unreadable { position: number, why },
            },
        }))
    }
}

#[derive(Serialize, Deserialize)]
struct EventHeader {
    box_id: BoxId,
    received_us: i64,
    conflict: bool,
}

#[derive(Serialize, Deserialize)]
struct RefusedHeader {
    box_id: BoxId,
    received_us: i64,
    reason: String,
    detail: String,
    epoch: Option<u64>,
    sequence: Option<u64>,
    id: Option<[u8; 16]>,
}

#[derive(Serialize, Deserialize)]
struct StoredHeader {
    sha256: [u8; 32],
    bytes: u64,
    box_id: BoxId,
    clip: [u8; 16],
    received_us: i64,
}

const RECORD_VERSION: u8 = 1;

/// The bytes of a record, see the module.
pub fn encode_record(record: &HubRecord) -> Vec<u8> {
    let with = |kind: u8, header: Result<Vec<u8>, postcard::Error>, body: &[u8]| {
        let header = header.expect("a header of plain fields");
        let mut payload = Vec::with_capacity(2 + header.len() + body.len());
        payload.extend_from_slice(&[RECORD_VERSION, kind]);
        payload.extend_from_slice(&header);
        payload.extend_from_slice(body);
        payload
    };
    match record {
        HubRecord::Event(arrived) => {
            let header = EventHeader {
                box_id: arrived.box_id.clone(),
                received_us: arrived.received.as_microsecond(),
                conflict: arrived.conflict,
            };
            with(b'E', postcard::to_stdvec(&header), &arrived.json)
        }
        HubRecord::Refused { box_id, received, reason, detail, epoch, sequence, id, body } => {
            let header = RefusedHeader {
                box_id: box_id.clone(),
                received_us: received.as_microsecond(),
                reason: reason.clone(),
                detail: detail.clone(),
                epoch: epoch.map(|e| e.0),
                sequence: *sequence,
                id: id.map(Uuid::into_bytes),
            };
            with(b'R', postcard::to_stdvec(&header), body)
        }
        HubRecord::Stored(file) => {
            let header = StoredHeader {
                sha256: file.sha256.0,
                bytes: file.bytes,
                box_id: file.box_id.clone(),
                clip: file.clip.into_bytes(),
                received_us: file.received.as_microsecond(),
            };
            with(b'S', postcard::to_stdvec(&header), &[])
        }
    }
}

/// An event that this version would not take (an older hub did) is shown as set aside, and blocks nothing.
fn read_event(header: EventHeader, received: Time, json: &[u8]) -> Result<HubRecord, String> {
    let EventHeader { box_id, conflict, .. } = header;
    match wire::decode(&box_id, json).into_iter().next().ok_or("it holds no event")? {
        Decoded::Event { event, json } => {
            Ok(HubRecord::Event(Arrived { box_id, received, conflict, event, json }))
        }
        Decoded::Refused(refusal) => Ok(HubRecord::Refused {
            box_id,
            received,
            reason: refusal.reason.as_str().to_owned(),
            detail: refusal.detail,
            epoch: refusal.epoch,
            sequence: refusal.sequence,
            id: refusal.id,
            body: refusal.body,
        }),
    }
}

/// A record of its bytes, or what is wrong with them.
pub fn decode_record(payload: &[u8]) -> Result<HubRecord, String> {
    let (&[version, kind], rest) =
        payload.split_first_chunk::<2>().ok_or_else(|| "it has less than two bytes".to_owned())?;
    if version != RECORD_VERSION {
        return Err(format!("version {version}; this hub knows {RECORD_VERSION}"));
    }
    let time = |us: i64| Time::from_microsecond(us).map_err(|error| error.to_string());
    let bad = |error: postcard::Error| error.to_string();
    match kind {
        b'E' => {
            let (header, json): (EventHeader, _) = postcard::take_from_bytes(rest).map_err(bad)?;
            let received = time(header.received_us)?;
            read_event(header, received, json)
        }
        b'R' => {
            let (header, body): (RefusedHeader, _) = postcard::take_from_bytes(rest).map_err(bad)?;
            Ok(HubRecord::Refused {
                box_id: header.box_id,
                received: time(header.received_us)?,
                reason: header.reason,
                detail: header.detail,
                epoch: header.epoch.map(Epoch),
                sequence: header.sequence,
                id: header.id.map(Uuid::from_bytes),
                body: body.to_vec(),
            })
        }
        b'S' => {
            let header: StoredHeader = postcard::from_bytes(rest).map_err(bad)?;
            Ok(HubRecord::Stored(StoredFile {
                sha256: Sha256Hash(header.sha256),
                bytes: header.bytes,
                box_id: header.box_id,
                clip: Uuid::from_bytes(header.clip),
                received: time(header.received_us)?,
            }))
        }
        other => Err(format!("kind {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Boot, ClockQuality, ClockSource, EventData, Source, Status, SyncState};
    use crate::wire::Refused;

    const A: Epoch = Epoch(0xa);
    const B: Epoch = Epoch(0xb);

    fn box_id() -> BoxId {
        BoxId::new("box-01").unwrap()
    }

    fn event(epoch: Epoch, sequence: u64, id: u128, data: EventData) -> HubRecord {
        let clock = ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Unknown,
            offset_ms: None,
            uncertainty_ms: None,
        };
        let event = Event {
            id: Uuid::from_u128(id),
            source: Source::of_box(&box_id()),
            epoch,
            sequence,
            time: Time::UNIX_EPOCH,
            clock,
            data,
        };
        HubRecord::Event(Arrived::of(event, Time::UNIX_EPOCH))
    }

    fn status(epoch: Epoch, sequence: u64, id: u128) -> HubRecord {
        event(epoch, sequence, id, EventData::Status(Status::new(true, None)))
    }

    #[test]
    fn each_event_is_written_once_and_conflicts_are_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut truth, _) = JournalTruth::open(dir.path()).unwrap();
        let batch =
            vec![status(A, 1, 1), status(A, 1, 1), status(A, 2, 2), status(A, 2, 99), status(A, 2, 99)];
        let appended = truth.append(batch).unwrap();
        use Outcome::*;
        assert_eq!(appended.outcomes, [New, Duplicate, New, Conflict, Duplicate]);
        drop(truth);

        let (mut truth, _) = JournalTruth::open(dir.path()).unwrap();
        assert_eq!(truth.next(), 3);
        let appended = truth.append(vec![status(A, 1, 1), status(A, 2, 99), status(A, 3, 3)]).unwrap();
        assert_eq!(appended.outcomes, [Duplicate, Duplicate, New], "known from the journal alone");
        let kept: Vec<bool> = read_from(dir.path(), 0)
            .unwrap()
            .map(|item| match item.unwrap() {
                TruthItem::Record { record: HubRecord::Event(arrived), .. } => arrived.conflict,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(kept, [false, false, true, false]);
    }

    #[test]
    fn receipts_name_holes_and_what_a_later_epoch_announced() {
        let dir = tempfile::tempdir().unwrap();
        let (mut truth, _) = JournalTruth::open(dir.path()).unwrap();
        assert_eq!(truth.receipt(&box_id(), A), None);
        truth.append(vec![status(A, 2, 2), status(A, 5, 5)]).unwrap();
        let receipt = truth.receipt(&box_id(), A).unwrap();
        assert_eq!((receipt.upto, receipt.missing), (5, vec![(1, 1), (3, 4)]));
        let boot = Boot { previous: Some(Previous { epoch: A, last_sequence: 7 }), software: String::new() };
        truth.append(vec![event(B, 1, 10, EventData::Boot(boot))]).unwrap();
        let receipt = truth.receipt(&box_id(), A).unwrap();
        assert_eq!((receipt.upto, receipt.missing), (7, vec![(1, 1), (3, 4), (6, 7)]));
        truth.append([1, 3, 4, 6, 7].map(|s| status(A, s, s as u128)).to_vec()).unwrap();
        let receipt = truth.receipt(&box_id(), A).unwrap();
        assert_eq!((receipt.upto, receipt.missing), (7, vec![]));
    }

    #[test]
    fn what_was_refused_counts_as_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (mut truth, _) = JournalTruth::open(dir.path()).unwrap();
        let refused = HubRecord::Refused {
            box_id: box_id(),
            received: Time::UNIX_EPOCH,
            reason: "bad_time".into(),
            detail: String::new(),
            epoch: Some(A),
            sequence: Some(2),
            id: None,
            body: b"{}".to_vec(),
        };
        let batch = vec![status(A, 1, 1), refused.clone(), refused, status(A, 3, 3)];
        let appended = truth.append(batch).unwrap();
        assert_eq!(appended.written.len(), 3, "a resent refusal is not kept twice");
        let receipt = truth.receipt(&box_id(), A).unwrap();
        assert_eq!(
            (receipt.upto, receipt.missing, receipt.refused),
            (3, vec![], vec![Refused(2, "bad_time".into())])
        );
    }

    #[test]
    fn what_two_boxes_in_one_epoch_say_is_kept_though_one_of_them_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut truth, _) = JournalTruth::open(dir.path()).unwrap();
        let refused = |sequence, id| HubRecord::Refused {
            box_id: box_id(),
            received: Time::UNIX_EPOCH,
            reason: "bad_data".into(),
            detail: String::new(),
            epoch: Some(A),
            sequence: Some(sequence),
            id: Some(Uuid::from_u128(id)),
            body: b"{}".to_vec(),
        };
        use Outcome::*;
        // One place after another: first an event and then what is refused, the other way round, and two refused.
        let given = [
            (status(A, 1, 1), New),
            (refused(1, 91), Outcome::Refused),
            (refused(2, 92), Outcome::Refused),
            (status(A, 2, 2), New),
            (refused(3, 93), Outcome::Refused),
            (refused(3, 94), Outcome::Refused),
        ];
        let records: Vec<HubRecord> = given.iter().map(|(record, _)| record.clone()).collect();
        let outcomes: Vec<Outcome> = given.iter().map(|(_, outcome)| *outcome).collect();
        assert_eq!(truth.append(records.clone()).unwrap().outcomes, outcomes);
        for _ in 0..2 {
            assert_eq!(truth.append(records.clone()).unwrap().written, [], "sent again it is known");
            drop(truth);
            (truth, _) = JournalTruth::open(dir.path()).unwrap();
        }
        let replayed = truth.append(vec![status(A, 2, 92), status(A, 3, 93)]).unwrap();
        assert_eq!(replayed.outcomes, [Conflict, New], "what can be read now becomes an event");
    }

    #[test]
    fn what_was_set_aside_becomes_an_event_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut truth, _) = JournalTruth::open(dir.path()).unwrap();
        let refused = |sequence| HubRecord::Refused {
            box_id: box_id(),
            received: Time::UNIX_EPOCH,
            reason: "not_allowed".into(),
            detail: String::new(),
            epoch: Some(A),
            sequence: Some(sequence),
            id: Some(Uuid::from_u128(sequence.into())),
            body: b"{}".to_vec(),
        };
        use Outcome::*;
        truth.append(vec![refused(1), refused(2), refused(3)]).unwrap();
        let appended = truth.append(vec![status(A, 2, 2), status(A, 2, 2), refused(2)]).unwrap();
        assert_eq!(appended.outcomes, [New, Duplicate, Duplicate]);
        for again in [false, true] {
            if again {
                drop(truth);
                (truth, _) = JournalTruth::open(dir.path()).unwrap();
            }
            let receipt = truth.receipt(&box_id(), A).unwrap();
            let still = [1, 3].map(|sequence| crate::wire::Refused(sequence, "not_allowed".into()));
            assert_eq!((receipt.upto, receipt.missing), (3, vec![]));
            assert_eq!(receipt.refused, still, "known from the journal alone");
        }
        let appended = truth.append(vec![status(A, 2, 2), status(A, 2, 99), status(A, 3, 3)]).unwrap();
        assert_eq!(appended.outcomes, [Duplicate, Conflict, New]);
    }

    #[test]
    fn records_round_trip() {
        let stored = HubRecord::Stored(StoredFile {
            sha256: Sha256Hash::of(b"x"),
            bytes: 7,
            box_id: box_id(),
            clip: Uuid::from_u128(5),
            received: Time::UNIX_EPOCH,
        });
        for record in [status(A, 1, 1), stored] {
            assert_eq!(decode_record(&encode_record(&record)).unwrap(), record);
        }
        for bad in [&b""[..], b"\x01", b"\x02E", b"\x01Z", b"\x01E"] {
            assert!(decode_record(bad).is_err());
        }
    }
}
