//! The truth: what the hub has durably, in order. Everything else is derived from it.
//!
//! Owns the journal of events and uploads, and the knowledge of which sequences of which epoch have
//! arrived. That knowledge comes from the journal alone: a receipt never says more than what is on disk.
//! May not know the index.
//!
//! A record of the journal is one byte version (1), one byte kind (`E`vent, `R`efused, `S`tored), a postcard
//! header, and for events and refusals the body as it came.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::journal::{Damage, Item, Journal, JournalError, Reader, Recovery};
use crate::limits::{CONFLICTS_PER_EPOCH_MAX, INGEST_IDS_MAX, RECEIPT_MISSING_MAX, RECEIPT_REFUSED_MAX};
use crate::model::{BoxId, Epoch, Event, EventData, Sha256Hash, Time};
use crate::wire::{self, Decoded, Receipt, Refused};

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
    /// became of each one given.
    fn append(&mut self, batch: Vec<HubRecord>) -> Result<Appended, JournalError>;

    /// The hub's word about one epoch; None if nothing of it ever arrived.
    fn receipt(&self, box_id: &BoxId, epoch: Epoch) -> Option<Receipt>;
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
}

impl JournalTruth {
    /// Opens the journal in `dir` and reads from it what has arrived.
    pub fn open(dir: &Path) -> Result<(Self, Recovery), JournalError> {
        let (journal, recovery) = Journal::open(dir)?;
        let mut truth = Self { journal, arrivals: Arrivals::default() };
        truth.replay()?;
        Ok((truth, recovery))
    }

    /// Position of the next record.
    pub fn next(&self) -> u64 {
        self.journal.next()
    }

    pub fn dir(&self) -> PathBuf {
        self.journal.dir().to_owned()
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
        Ok(())
    }
}

impl Truth for JournalTruth {
    fn append(&mut self, batch: Vec<HubRecord>) -> Result<Appended, JournalError> {
        let first = self.journal.next();
        let mut written = Vec::with_capacity(batch.len());
        let mut outcomes = Vec::with_capacity(batch.len());
        let write = || {
            for mut record in batch {
                let outcome = self.arrivals.note(&record);
                outcomes.push(outcome);
                if outcome == Outcome::Duplicate {
                    continue;
                }
                if let HubRecord::Event(arrived) = &mut record {
                    arrived.conflict = outcome == Outcome::Conflict;
                }
                self.journal.append(&encode_record(&record))?;
                written.push(record);
            }
            self.journal.sync()
        };
        if let Err(error) = write() {
            // What was noted may not be on disk: only the disk knows.
            self.journal.reopen()?;
            self.replay()?;
            return Err(error);
        }
        Ok(Appended { first, written, outcomes })
    }

    fn receipt(&self, box_id: &BoxId, epoch: Epoch) -> Option<Receipt> {
        self.arrivals.epochs.get(&(box_id.clone(), epoch)).map(|state| state.receipt(epoch))
    }
}

/// Reads the truth of a hub, running or not: records in order with their positions, damage by name.
pub fn read_from(dir: &Path, from: u64) -> Result<TruthReader, JournalError> {
    Ok(TruthReader { records: Reader::of_dir(dir, from)? })
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
        Some(self.records.next()?.map(|item| match item {
            Item::Damage(damage) => TruthItem::Damage(damage),
            Item::Record(record) => match decode_record(&record.payload) {
                Ok(decoded) => TruthItem::Record { position: record.number, record: decoded },
                Err(why) => TruthItem::Unreadable { position: record.number, why },
            },
        }))
    }
}

/// Which sequences of which epoch arrived.
#[derive(Default)]
struct Arrivals {
    epochs: HashMap<(BoxId, Epoch), EpochState>,
    ids_count: usize,
    /// Epochs whose ids are kept, oldest first.
    ids_order: VecDeque<(BoxId, Epoch)>,
}

#[derive(Default)]
struct EpochState {
    /// Inclusive ranges, sorted, apart from each other.
    seen: Vec<(u64, u64)>,
    /// A later epoch's first event said that this one reached so far.
    announced_last: u64,
    /// Last eight bytes of the id of each event, to tell a duplicate from a conflict.
    ids: HashMap<u64, u64>,
    conflicts: HashMap<u64, Vec<u64>>,
    refused: VecDeque<Refused>,
    /// Ranges of `seen` that were set aside and are not events yet.
    set_aside: Vec<(u64, u64)>,
}

impl Arrivals {
    /// Takes note of a record and says what it is.
    fn note(&mut self, record: &HubRecord) -> Outcome {
        match record {
            HubRecord::Event(arrived) => self.note_event(&arrived.box_id, &arrived.event),
            HubRecord::Refused { box_id, epoch: Some(epoch), sequence: Some(sequence), reason, .. } => {
                let state = self.state(box_id, *epoch);
                if state.has(*sequence) {
                    return Outcome::Duplicate;
                }
                state.add(*sequence);
                add_to(&mut state.set_aside, *sequence);
                state.refused.push_back(Refused(*sequence, reason.clone()));
                if state.refused.len() > RECEIPT_REFUSED_MAX {
                    state.refused.pop_front();
                }
                Outcome::Refused
            }
            HubRecord::Refused { .. } => Outcome::Refused,
            HubRecord::Stored(_) => Outcome::New,
        }
    }

    fn note_event(&mut self, box_id: &BoxId, event: &Event) -> Outcome {
        let fingerprint = event.id.as_u64_pair().1;
        let state = self.state(box_id, event.epoch);
        // What was set aside here becomes an event once it can be read: it is replayed, or sent again.
        if state.has(event.sequence) && !state.take_from_aside(event.sequence) {
            return state.known(event.sequence, fingerprint);
        }
        state.add(event.sequence);
        state.ids.insert(event.sequence, fingerprint);
        let is_first_id = state.ids.len() == 1;
        if let EventData::Boot(boot) = &event.data
            && let Some(previous) = boot.previous
        {
            let before = self.state(box_id, previous.epoch);
            before.announced_last = before.announced_last.max(previous.last_sequence);
        }
        if is_first_id {
            self.ids_order.push_back((box_id.clone(), event.epoch));
        }
        self.ids_count += 1;
        self.forget_oldest_ids();
        Outcome::New
    }

    fn state(&mut self, box_id: &BoxId, epoch: Epoch) -> &mut EpochState {
        self.epochs.entry((box_id.clone(), epoch)).or_default()
    }

    /// Keeps memory bounded: without its ids, a repeated sequence of an old epoch counts as duplicate.
    fn forget_oldest_ids(&mut self) {
        while self.ids_count > INGEST_IDS_MAX && self.ids_order.len() > 1 {
            let Some(oldest) = self.ids_order.pop_front() else { return };
            if let Some(state) = self.epochs.get_mut(&oldest) {
                self.ids_count -= state.ids.len();
                state.ids = HashMap::new();
            }
        }
    }
}

impl EpochState {
    fn has(&self, sequence: u64) -> bool {
        is_in(&self.seen, sequence)
    }

    fn add(&mut self, sequence: u64) {
        add_to(&mut self.seen, sequence);
    }

    /// True if the sequence was set aside; from now on it is not.
    fn take_from_aside(&mut self, sequence: u64) -> bool {
        let was_aside = is_in(&self.set_aside, sequence);
        if was_aside {
            remove_from(&mut self.set_aside, sequence);
            self.refused.retain(|refused| refused.0 != sequence);
        }
        was_aside
    }

    fn known(&mut self, sequence: u64, fingerprint: u64) -> Outcome {
        match self.ids.get(&sequence) {
            Some(&known) if known != fingerprint => {}
            _ => return Outcome::Duplicate,
        }
        let count: usize = self.conflicts.values().map(Vec::len).sum();
        let others = self.conflicts.entry(sequence).or_default();
        if others.contains(&fingerprint) || count >= CONFLICTS_PER_EPOCH_MAX {
            return Outcome::Duplicate;
        }
        others.push(fingerprint);
        Outcome::Conflict
    }

    fn receipt(&self, epoch: Epoch) -> Receipt {
        let newest = self.seen.last().map_or(0, |&(_, last)| last).max(self.announced_last);
        let mut missing = Vec::new();
        let mut expected = 1;
        for &(first, last) in &self.seen {
            if expected < first {
                missing.push((expected, first - 1));
            }
            expected = last + 1;
        }
        if expected <= newest {
            missing.push((expected, newest));
        }
        // What does not fit is asked for with the next receipt: `upto` stays below it.
        let upto = missing.get(RECEIPT_MISSING_MAX).map_or(newest, |&(from, _)| from - 1);
        missing.truncate(RECEIPT_MISSING_MAX);
        Receipt { epoch, upto, missing, refused: self.refused.iter().cloned().collect() }
    }
}

// Sequences as inclusive ranges, sorted, apart from each other.

fn is_in(ranges: &[(u64, u64)], sequence: u64) -> bool {
    let at = ranges.partition_point(|&(_, last)| last < sequence);
    ranges.get(at).is_some_and(|&(first, _)| first <= sequence)
}

fn add_to(ranges: &mut Vec<(u64, u64)>, sequence: u64) {
    if is_in(ranges, sequence) {
        return;
    }
    let at = ranges.partition_point(|&(_, last)| last < sequence);
    let joins_before = at > 0 && ranges[at - 1].1 + 1 == sequence;
    let joins_after = ranges.get(at).is_some_and(|&(first, _)| first == sequence + 1);
    match (joins_before, joins_after) {
        (true, true) => {
            ranges[at - 1].1 = ranges[at].1;
            ranges.remove(at);
        }
        (true, false) => ranges[at - 1].1 = sequence,
        (false, true) => ranges[at].0 = sequence,
        (false, false) => ranges.insert(at, (sequence, sequence)),
    }
}

fn remove_from(ranges: &mut Vec<(u64, u64)>, sequence: u64) {
    let at = ranges.partition_point(|&(_, last)| last < sequence);
    let Some(&(first, last)) = ranges.get(at).filter(|&&(first, _)| first <= sequence) else { return };
    let rest = [(first, sequence.wrapping_sub(1)), (sequence + 1, last)];
    let rest = rest.into_iter().zip([sequence > first, sequence < last]);
    ranges.splice(at..=at, rest.filter(|(_, is_left)| *is_left).map(|(range, _)| range));
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

/// A record as the journal keeps it.
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
        HubRecord::Refused { box_id, received, reason, detail, epoch, sequence, body } => {
            let header = RefusedHeader {
                box_id: box_id.clone(),
                received_us: received.as_microsecond(),
                reason: reason.clone(),
                detail: detail.clone(),
                epoch: epoch.map(|e| e.0),
                sequence: *sequence,
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
            body: refusal.body,
        }),
    }
}

/// The record that a payload of the journal stands for, or why it can't be read.
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
    use crate::model::{Boot, ClockQuality, ClockSource, Event, Previous, Source, Status, SyncState};

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
        event(epoch, sequence, id, EventData::Status(Status { working: true, detail: None }))
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
            let still = [1, 3].map(|sequence| super::Refused(sequence, "not_allowed".into()));
            assert_eq!((receipt.upto, receipt.missing), (3, vec![]));
            assert_eq!(receipt.refused, still, "known from the journal alone");
        }
        let appended = truth.append(vec![status(A, 2, 2), status(A, 2, 99), status(A, 3, 3)]).unwrap();
        assert_eq!(appended.outcomes, [Duplicate, Conflict, New]);
    }

    #[test]
    fn ranges_hold_what_was_added_and_not_removed() {
        let mut ranges = Vec::new();
        let mut model = std::collections::BTreeSet::new();
        let mut state = 1u64;
        for _ in 0..5000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (sequence, is_add) = (1 + (state >> 33) % 40, (state >> 50) % 2 == 0);
            if is_add {
                add_to(&mut ranges, sequence);
                model.insert(sequence);
            } else {
                remove_from(&mut ranges, sequence);
                model.remove(&sequence);
            }
            assert!((0..=42).all(|s| is_in(&ranges, s) == model.contains(&s)), "{ranges:?}");
            assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "apart: {ranges:?}");
        }
    }

    #[test]
    fn more_holes_than_a_receipt_can_name_are_named_later() {
        let mut state = EpochState::default();
        for n in 0..200 {
            state.add(2 * n + 2);
        }
        let receipt = state.receipt(A);
        assert_eq!(receipt.missing.len(), RECEIPT_MISSING_MAX);
        for sequence in 1..=receipt.upto {
            assert_eq!(receipt.covers(sequence), state.has(sequence), "{sequence}");
        }
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
