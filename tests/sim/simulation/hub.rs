//! The hub: production's ingest core and truth on a disk in memory, and a model of the index. Drives, and decides
//! nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use camnet::hub::arrivals::Arrivals;
use camnet::hub::indexer::Batch;
use camnet::hub::ingest::core::{Action, Core, Effect};
use camnet::hub::truth::{
    AppendError, Appended, HubRecord, JournalTruth, Outcome, Truth, decode_record, encode_record,
};
use camnet::journal::disk::Disk;
use camnet::journal::sim_disk::SimDisk;
use camnet::journal::{Item, Journal, Options, Records};
use camnet::model::{BoxId, Epoch, Previous, Ranges, Time};
use camnet::wire::{Command, Receipt, Topic, TopicKind};
use uuid::Uuid;

use super::broker::Delivery;
use super::index::Index;
use super::mutation::{Lie, LyingDisk, Mutation};

const DIR: &str = "/journal";
const SEGMENT_BYTES: u64 = 8_000;
/// Power cuts that are tried on a copy of the disk after a failed write.
const POWER_CUTS: usize = 100;

/// What the hub needs to acknowledge a message: its connection and the packet's id.
pub type Ticket = (u64, u16);

/// What the hub does to the world.
pub enum Out {
    Ack(Ticket),
    /// Topic and payload for a box.
    Publish(String, Vec<u8>),
    /// Try to commit again later.
    Retry,
}

pub struct Hub {
    pub disk: SimDisk,
    running: Option<Running>,
    pub index: Index,
    /// Batches that the indexer has not taken yet.
    batches: Vec<Batch>,
    pub connection: Option<u64>,
    pub reconnect_at: u64,
    pub start_at: u64,
    pub commit_planned: bool,
    /// The oracle's: all that is durable at the hub, by place.
    pub durable: BTreeMap<(String, Epoch), Ranges>,
    /// The oracle's: what a write that failed made durable all the same. The hub may tell of it, and must not lose it
    /// then; until it does, it may cut it off again.
    survivors: BTreeMap<(String, Epoch), Ranges>,
    /// Epochs in which a conflict was kept.
    pub conflicts: Vec<(String, Epoch)>,
    pub mutation: Option<Mutation>,
}

struct Running {
    core: Core<Ticket>,
    truth: Box<dyn HubTruth>,
    shadow: Arrivals,
    disk: Arc<dyn Disk>,
}

/// The truth, and the position of its next record.
trait HubTruth: Truth {
    fn next(&self) -> u64;
}

impl HubTruth for JournalTruth {
    fn next(&self) -> u64 {
        JournalTruth::next(self)
    }
}

impl Hub {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        Self {
            disk: SimDisk::new(seed),
            running: None,
            index: Index::default(),
            batches: Vec::new(),
            connection: None,
            reconnect_at: 0,
            start_at: 0,
            commit_planned: false,
            durable: BTreeMap::new(),
            survivors: BTreeMap::new(),
            conflicts: Vec::new(),
            mutation,
        }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Starts the process. Ok(false) if the disk does not let it; Err if durable events are gone.
    pub fn start(&mut self) -> Result<bool, String> {
        let disk: Arc<dyn Disk> = match self.mutation {
            Some(Mutation::SyncSkippedOnHub) => Arc::new(LyingDisk(self.disk.disk(), Lie::Skips)),
            Some(Mutation::FailedSyncIsSuccessOnHub) => {
                Arc::new(LyingDisk(self.disk.disk(), Lie::HidesFailure))
            }
            _ => self.disk.disk(),
        };
        let options = Options { segment_bytes_max: SEGMENT_BYTES };
        let Ok((journal, _)) = Journal::open_on(disk.clone(), Path::new(DIR), options) else {
            return Ok(false);
        };
        let mut shadow = Arrivals::default();
        let needs_shadow = self.needs_shadow();
        let mut on_disk: BTreeMap<(String, Epoch), Ranges> = BTreeMap::new();
        for item in journal.read(journal.first()) {
            let Ok(Item::Record(record)) = item else { return Ok(false) };
            if needs_shadow {
                shadow.note(&decode_record(&record.payload).map_err(|why| format!("hub's record: {why}"))?);
            }
            if let Some((name, epoch, sequence)) = place_in(&record.payload) {
                on_disk.entry((name, epoch)).or_default().insert(sequence, sequence);
            }
        }
        for (key, ranges) in &self.durable {
            let mut lost = ranges.clone();
            lost.remove_all(on_disk.get(key).unwrap_or(&Ranges::new()));
            if !lost.is_empty() {
                return Err(format!("durable at the hub, and gone after its restart: {key:?} {lost:?}"));
            }
        }
        self.durable = on_disk;
        self.survivors.clear();
        let mutant = match self.mutation {
            Some(
                Mutation::DedupByIdOnly
                | Mutation::DedupBySequenceOnly
                | Mutation::ConflictUnmarked
                | Mutation::ArrivalsNotReplayed
                | Mutation::RefusedNotHandedOver,
            ) => self.mutation,
            _ => None,
        };
        let truth: Box<dyn HubTruth> = match mutant {
            Some(mutation) => Box::new(MutantTruth::over(journal, mutation)),
            None => match JournalTruth::over(journal) {
                Ok(truth) => Box::new(truth),
                Err(_) => return Ok(false),
            },
        };
        if self.index.applied() > truth.next() && !self.is(Mutation::IndexAheadKept) {
            self.index.clear();
        }
        self.running = Some(Running { core: Core::new(Arc::new(|_, _| true)), truth, shadow, disk });
        self.batches.clear();
        self.catch_up();
        Ok(true)
    }

    /// The process is gone; the index keeps what it saved.
    pub fn stop(&mut self) {
        self.running = None;
        self.connection = None;
        self.commit_planned = false;
        self.batches.clear();
        self.index.crash();
    }

    pub fn message(&mut self, ticket: Ticket, delivery: &Delivery, received: Time) -> Vec<Out> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let effects = running.core.step(Action::Message {
            topic: &delivery.topic,
            payload: &delivery.payload,
            properties: &delivery.properties,
            received,
            ticket,
        });
        let mut out = Vec::new();
        if self.is(Mutation::AckBeforeDurable) {
            out.push(Out::Ack(ticket));
        }
        out.extend(self.perform(effects, Instant::now()));
        out
    }

    pub fn commit(&mut self, now: Instant) -> Vec<Out> {
        self.commit_planned = false;
        let Some(running) = &mut self.running else { return Vec::new() };
        let effects = running.core.step(Action::Commit);
        self.perform(effects, now)
    }

    /// The indexer's turn.
    pub fn index(&mut self) {
        for (first, records) in std::mem::take(&mut self.batches) {
            if self.index.applied() == first || self.is(Mutation::IndexAppliesBlindly) {
                self.index.apply(first, &records);
            } else {
                self.catch_up();
            }
        }
        self.catch_up();
    }

    /// Is everything durable in the index?
    pub fn is_idle(&self) -> bool {
        let idle =
            |running: &Running| running.core.waiting() == 0 && running.truth.next() == self.index.applied();
        self.running.as_ref().is_some_and(idle)
    }

    pub fn receipt(&self, name: &str, epoch: Epoch) -> Option<Receipt> {
        let box_id = BoxId::new(name).expect("a good name");
        self.running.as_ref()?.truth.receipt(&box_id, epoch)
    }

    fn needs_shadow(&self) -> bool {
        matches!(self.mutation, Some(Mutation::ReceiptFromMemory | Mutation::ReceiptBeforeSync))
    }

    /// A write that failed may have made its beginning durable (a full segment was closed on the way): what every one
    /// of many power cuts would leave counts.
    fn note_survivors(&mut self) {
        let mut sure: Option<BTreeMap<(String, Epoch), Ranges>> = None;
        for n in 0..=POWER_CUTS {
            // Each draws from the disk's chance, so that no two are alike.
            let _ = self.disk.draw();
            let image = self.disk.image();
            // What was cut off again may be gone for whoever merely dies, and back after a power cut.
            if n == 0 {
                image.process_crash()
            } else {
                image.power_cut()
            }
            let left = left_on(&image);
            match &mut sure {
                None => sure = Some(left),
                Some(sure) => sure.retain(|key, ranges| {
                    let mut lost = ranges.clone();
                    lost.remove_all(left.get(key).unwrap_or(&Ranges::new()));
                    ranges.remove_all(&lost);
                    !ranges.is_empty()
                }),
            }
            let is_known = |(key, ranges): (&(String, Epoch), &Ranges)| {
                let mut new = ranges.clone();
                new.remove_all(self.durable.get(key).unwrap_or(&Ranges::new()));
                new.is_empty()
            };
            if sure.iter().flatten().all(is_known) {
                return;
            }
        }
        self.survivors = sure.unwrap_or_default();
    }

    /// The hub tells that it has these: what of them is not durable. What it told of it must keep.
    pub fn told(&mut self, name: &str, epoch: Epoch, mut claimed: Ranges) -> Ranges {
        let key = (name.to_owned(), epoch);
        let durable = self.durable.entry(key.clone()).or_default();
        claimed.remove_all(durable);
        if let Some(survivors) = self.survivors.get(&key) {
            for (first, last) in claimed.clone().iter() {
                durable.insert_all(&survivors.overlap(first, last));
            }
            claimed.remove_all(survivors);
        }
        claimed
    }

    /// Applies what the index lacks, from the journal as it stands on the disk.
    fn catch_up(&mut self) {
        let Some(running) = &self.running else { return };
        let (from, upto) = (self.index.applied(), running.truth.next());
        if from >= upto || self.is(Mutation::IndexAppliesBlindly) && from > 0 {
            return;
        }
        let Ok(records) = Records::of_dir_on(running.disk.clone(), Path::new(DIR)) else { return };
        let skipped = u64::from(self.is(Mutation::CatchUpFromWrongPosition) && from > 0);
        let mut found = Vec::new();
        for item in records.read(from) {
            let Ok(Item::Record(record)) = item else { break };
            if record.number >= upto {
                break;
            }
            if let Ok(record) = decode_record(&record.payload) {
                found.push(record);
            }
        }
        if found.len() as u64 == upto - from {
            self.index.apply(from + skipped, &found[skipped as usize..]);
        }
    }

    fn perform(&mut self, effects: Vec<Effect<Ticket>>, now: Instant) -> Vec<Out> {
        let mut out = Vec::new();
        for effect in effects {
            let Some(running) = &mut self.running else { return out };
            match effect {
                Effect::Append(batch) => out.extend(self.append(batch, now)),
                Effect::Ack(ticket) => out.push(Out::Ack(ticket)),
                Effect::Receipt(box_id, epoch) => {
                    let receipt = match self.mutation {
                        Some(Mutation::ReceiptFromMemory) => running.shadow.receipt(&box_id, epoch, &[]),
                        _ => running.truth.receipt(&box_id, epoch),
                    };
                    out.extend(receipt.map(|receipt| to_box(&box_id, TopicKind::Receipt, receipt.to_json())));
                }
                Effect::ReceiptsOfIncomplete(box_id) => {
                    if self.mutation == Some(Mutation::StatusNotAnswered) {
                        continue;
                    }
                    for epoch in running.truth.incomplete(&box_id) {
                        let receipt = running.truth.receipt(&box_id, epoch);
                        out.extend(
                            receipt.map(|receipt| to_box(&box_id, TopicKind::Receipt, receipt.to_json())),
                        );
                    }
                }
                Effect::AskNewEpoch(box_id, epoch) => {
                    let command = Command::NewEpoch {
                        correlation: String::new(),
                        epoch,
                        reason: "simulated".to_owned(),
                    };
                    out.push(to_box(&box_id, TopicKind::Command, command.to_json()));
                }
                Effect::Index(batch) => self.batches.push(batch),
                Effect::Said(box_id, epochs) => running.truth.said(&box_id, epochs),
                Effect::Retry => out.push(Out::Retry),
                Effect::Online(..) => {}
                Effect::StoredAt(..) | Effect::NotStored(_) => unreachable!("no uploads here"),
            }
        }
        out
    }

    fn append(&mut self, batch: Vec<HubRecord>, now: Instant) -> Vec<Out> {
        let Some(mut running) = self.running.take() else { return Vec::new() };
        let mut early = Vec::new();
        if self.needs_shadow() {
            batch.iter().for_each(|record| {
                running.shadow.note(record);
            });
        }
        if self.mutation == Some(Mutation::ReceiptBeforeSync) {
            for (name, epoch, _) in batch.iter().filter_map(place) {
                let box_id = BoxId::new(name).expect("a good name");
                let receipt = running.shadow.receipt(&box_id, epoch, &[]);
                early.extend(receipt.map(|r| to_box(&box_id, TopicKind::Receipt, r.to_json())));
            }
        }
        let action = match running.truth.append(batch) {
            Ok(appended) => {
                for record in &appended.written {
                    if let Some((name, epoch, sequence)) = place(record) {
                        self.durable.entry((name.clone(), epoch)).or_default().insert(sequence, sequence);
                        if matches!(record, HubRecord::Event(arrived) if arrived.conflict) {
                            self.conflicts.push((name, epoch));
                        }
                    }
                }
                Action::Appended { appended, now }
            }
            Err(failed) => {
                self.note_survivors();
                let is_given_up = self.mutation == Some(Mutation::ReceiptFromMemory);
                Action::Failed { batch: if is_given_up { Vec::new() } else { failed.batch } }
            }
        };
        let is_all_known =
            matches!(&action, Action::Appended { appended, .. } if appended.written.is_empty());
        let mut effects = running.core.step(action);
        self.running = Some(running);
        if self.mutation == Some(Mutation::NoReceiptForDuplicates) && is_all_known {
            effects.retain(|effect| !matches!(effect, Effect::Receipt(..)));
        }
        early.extend(self.perform(effects, now));
        early
    }
}

/// Box, epoch and sequence of a record.
fn place(record: &HubRecord) -> Option<(String, Epoch, u64)> {
    match record {
        HubRecord::Event(arrived) => {
            Some((arrived.box_id.to_string(), arrived.event.epoch, arrived.event.sequence))
        }
        HubRecord::Refused { box_id, epoch: Some(epoch), sequence: Some(sequence), .. } => {
            Some((box_id.to_string(), *epoch, *sequence))
        }
        _ => None,
    }
}

/// What can be read of a disk's journal.
fn left_on(image: &SimDisk) -> BTreeMap<(String, Epoch), Ranges> {
    let mut left: BTreeMap<(String, Epoch), Ranges> = BTreeMap::new();
    let Ok(records) = Records::of_dir_on(image.disk(), Path::new(DIR)) else { return left };
    for item in records.read(0) {
        if let Ok(Item::Record(record)) = item
            && let Some((name, epoch, sequence)) = place_in(&record.payload)
        {
            left.entry((name, epoch)).or_default().insert(sequence, sequence);
        }
    }
    left
}

/// As [`place`], from a record's bytes: what the event's own JSON says first. Cheap, since it is done often.
fn place_in(payload: &[u8]) -> Option<(String, Epoch, u64)> {
    let json = &payload[payload.iter().position(|&byte| byte == b'{')?..];
    let value = |key: &str, length: usize| {
        let at = json.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
        std::str::from_utf8(json.get(at..at + length)?).ok()
    };
    let name = value(r#""source":"/"#, 6)?.to_owned();
    Some((name, value(r#""epoch":""#, 16)?.parse().ok()?, value(r#""sequence":""#, 20)?.parse().ok()?))
}

fn to_box(box_id: &BoxId, kind: TopicKind, payload: Vec<u8>) -> Out {
    Out::Publish(Topic::new(box_id, kind).to_string(), payload)
}

/// A truth that is wrong in one way.
struct MutantTruth {
    journal: Journal,
    arrivals: Arrivals,
    ids: HashSet<Uuid>,
    said: BTreeMap<BoxId, Vec<Previous>>,
    mutation: Mutation,
}

impl MutantTruth {
    fn over(journal: Journal, mutation: Mutation) -> Self {
        let (arrivals, ids, said) = (Arrivals::default(), HashSet::new(), BTreeMap::new());
        let mut truth = Self { journal, arrivals, ids, said, mutation };
        if mutation != Mutation::ArrivalsNotReplayed {
            truth.replay();
        }
        truth
    }

    fn replay(&mut self) {
        self.arrivals = Arrivals::default();
        for item in self.journal.read(self.journal.first()) {
            if let Ok(Item::Record(record)) = item
                && let Ok(record) = decode_record(&record.payload)
            {
                self.arrivals.note(&record);
            }
        }
    }

    fn outcome(&mut self, record: &mut HubRecord) -> Outcome {
        let noted = self.arrivals.note(record);
        match (self.mutation, record) {
            (Mutation::DedupByIdOnly, HubRecord::Event(arrived)) => {
                if self.ids.insert(arrived.event.id) {
                    Outcome::New
                } else {
                    Outcome::Duplicate
                }
            }
            (Mutation::DedupBySequenceOnly, _) if noted == Outcome::Conflict => Outcome::Duplicate,
            (Mutation::ConflictUnmarked, _) if noted == Outcome::Conflict => Outcome::New,
            (_, HubRecord::Event(arrived)) => {
                arrived.conflict = noted == Outcome::Conflict;
                noted
            }
            _ => noted,
        }
    }
}

impl HubTruth for MutantTruth {
    fn next(&self) -> u64 {
        self.journal.next()
    }
}

impl Truth for MutantTruth {
    fn append(&mut self, mut batch: Vec<HubRecord>) -> Result<Appended, AppendError> {
        if self.mutation == Mutation::RefusedNotHandedOver {
            batch.retain(|record| matches!(record, HubRecord::Event(_)));
        }
        let first = self.journal.next();
        let mut outcomes = Vec::new();
        let mut write = || {
            for record in &mut batch {
                let outcome = self.outcome(record);
                outcomes.push(outcome);
                if outcome != Outcome::Duplicate {
                    self.journal.append(&encode_record(record))?;
                }
            }
            self.journal.sync()
        };
        if let Err(source) = write() {
            let _ = self.journal.reopen();
            self.replay();
            return Err(AppendError { batch, source });
        }
        let kept = batch.into_iter().zip(&outcomes).filter(|(_, outcome)| **outcome != Outcome::Duplicate);
        Ok(Appended { first, written: kept.map(|(record, _)| record).collect(), outcomes })
    }

    fn receipt(&self, box_id: &BoxId, epoch: Epoch) -> Option<Receipt> {
        self.arrivals.receipt(box_id, epoch, self.said.get(box_id).map_or(&[], Vec::as_slice))
    }

    fn said(&mut self, box_id: &BoxId, epochs: Vec<Previous>) {
        self.said.insert(box_id.clone(), epochs);
    }

    fn incomplete(&self, box_id: &BoxId) -> Vec<Epoch> {
        self.arrivals.incomplete(box_id, self.said.get(box_id).map_or(&[], Vec::as_slice), 32)
    }
}
