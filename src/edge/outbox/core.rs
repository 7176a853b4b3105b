//! What the outbox decides: places, what is owed, what is brought back, what may be dropped.
//!
//! May not do I/O, read a clock or draw anything: records read back, times, new epochs and new ids come in with the
//! action, what is to be written goes out as an effect. Memory is a few ranges per epoch, however much is owed.

use std::collections::HashMap;

use uuid::Uuid;

use super::record::{self, ReceiptRecord, Record};
use super::{NewEvent, Place, Span};
use crate::limits::STATUS_EPOCHS_MAX;
use crate::model::{Boot, BoxId, ClockQuality, Epoch, Event, EventData, Previous, Ranges, Source, Time};
use crate::wire::Receipt;

/// What an epoch begins with; drawn by the caller.
#[derive(Debug, Clone)]
pub struct EpochStart {
    pub epoch: Epoch,
    /// Id of the boot event.
    pub id: Uuid,
    pub time: Time,
    pub clock: ClockQuality,
}

/// What happened.
#[derive(Debug)]
pub enum Action<'a> {
    /// The disk is read anew, from its first record: at the start, and after a failed write.
    Reread,
    /// A record of that reading.
    Record { number: u64, payload: &'a [u8] },
    /// Everything was read.
    AllRead,
    /// Begin an epoch.
    Begin(EpochStart),
    /// Take these events, with ids drawn by the caller.
    Accept(Vec<(Uuid, NewEvent)>),
    /// What [`Effect::Write`] asked for is durable, from record `first` on.
    Written { first: u64 },
    /// It is not; the caller reads the disk anew.
    WriteFailed,
    /// The hub's word.
    Receipt(&'a Receipt),
    /// What [`Effect::Find`] asked for: the sequences that are still on disk, with their record numbers.
    Found { epoch: Epoch, asked: Ranges, found: Vec<(u64, u64)> },
    /// These are owed, but can't be read from the disk any more.
    Unreadable { epoch: Epoch, sequences: Ranges },
    /// Which closed segments may go? `segments`: for each, oldest first, the number behind its last record.
    Drop { segments: &'a [u64] },
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Begin a new segment, so that older ones can be dropped.
    Roll,
    /// Append and sync, then say [`Action::Written`] or [`Action::WriteFailed`].
    Write(Vec<Vec<u8>>),
    /// Append without a sync: if it is lost, the events are sent once more and the hub knows them.
    Note(Vec<u8>),
    /// These are owed to the hub now.
    Owe(Vec<Span>),
    /// Look on disk for events that were receipted once, then say [`Action::Found`].
    Find { epoch: Epoch, asked: Ranges },
    /// Segments with nothing but records below this number may go.
    DropBefore(u64),
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    box_id: BoxId,
    /// None until the first epoch began.
    current: Option<Previous>,
    /// The newest event that the disk tells of.
    newest_read: Option<Previous>,
    /// Of each epoch that the disk tells of the last sequence, oldest first, a bounded number of them.
    epochs: Vec<Previous>,
    /// In the order of their first event.
    owed: Vec<OwedEpoch>,
    writing: Option<Writing>,
    /// Asked for, and not on disk any more: not looked for again.
    gone: HashMap<Epoch, Ranges>,
}

#[derive(Debug)]
struct OwedEpoch {
    epoch: Epoch,
    sequences: Ranges,
    /// (sequence, record number): where to begin reading. Receipts stand between events, so a record number grows
    /// at least as fast as the sequence, and a mark below gives a lower bound; a hint, where events do not stand in
    /// sequence (two boxes wrote one epoch).
    marks: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Writing {
    epoch: Epoch,
    first: u64,
    last: u64,
}

/// Marks of one epoch; beyond it every second one goes.
const MARKS_MAX: usize = 512;
/// Ranges of one epoch that are remembered as gone.
const GONE_RANGES_MAX: usize = 1000;

impl Core {
    pub fn new(box_id: BoxId) -> Self {
        Self {
            box_id,
            current: None,
            newest_read: None,
            epochs: Vec::new(),
            owed: Vec::new(),
            writing: None,
            gone: HashMap::new(),
        }
    }

    /// One step: takes an action and returns what to do, in order.
    pub fn step(&mut self, action: Action<'_>) -> Vec<Effect> {
        match action {
            Action::Reread => {
                self.owed.clear();
                self.newest_read = None;
                self.epochs.clear();
                Vec::new()
            }
            Action::Record { number, payload } => {
                self.read_back(number, payload);
                Vec::new()
            }
            Action::AllRead => self.all_read(),
            Action::Begin(start) => self.begin(start),
            Action::Accept(events) => self.accept(events),
            Action::Written { first } => self.written(first),
            Action::WriteFailed => {
                self.writing = None;
                Vec::new()
            }
            Action::Receipt(receipt) => self.receipt(receipt),
            Action::Found { epoch, asked, found } => self.found(epoch, asked, found),
            Action::Unreadable { epoch, sequences } => {
                self.give_up(epoch, &sequences);
                Vec::new()
            }
            Action::Drop { segments } => self.drop_segments(segments),
        }
    }

    /// The newest place: the current epoch and its last durable sequence.
    pub fn newest(&self) -> Option<Previous> {
        self.current
    }

    /// The current epoch, then those before that the disk tells of, newest first, each with its last sequence.
    pub fn epochs(&self) -> Vec<Previous> {
        let current = self.current.into_iter();
        let before =
            self.epochs.iter().rev().filter(|of| self.current.is_none_or(|now| now.epoch != of.epoch));
        current.chain(before.copied()).take(STATUS_EPOCHS_MAX).collect()
    }

    /// All that no receipt covers, oldest epoch first.
    pub fn owed(&self) -> impl Iterator<Item = Span> + '_ {
        self.owed.iter().flat_map(|owed| {
            owed.sequences.iter().map(|(first, last)| Span { epoch: owed.epoch, first, last })
        })
    }

    pub fn owed_count(&self) -> u64 {
        self.owed.iter().map(|owed| owed.sequences.count()).sum()
    }

    /// How many events from `from` on are owed without a hole, at most `count`, and a record number at or before
    /// that of the first. None if `from` itself is not owed.
    pub fn locate(&self, from: Place, count: usize) -> Option<(u64, usize)> {
        let owed = self.owed.iter().find(|owed| owed.epoch == from.0)?;
        let (_, last) = owed.sequences.range_at_or_after(from.1).filter(|(first, _)| *first <= from.1)?;
        let mark = owed.marks.partition_point(|&(sequence, _)| sequence <= from.1).checked_sub(1)?;
        let (sequence, number) = owed.marks[mark];
        Some((number + (from.1 - sequence), count.min((last - from.1 + 1) as usize)))
    }

    fn read_back(&mut self, number: u64, payload: &[u8]) {
        match record::decode(payload) {
            Some(Record::Event((epoch, sequence), _)) => {
                self.owed_mut(epoch).add(sequence, number);
                self.heard_of(Previous { epoch, last_sequence: sequence });
            }
            Some(Record::Receipt(word)) => {
                let (epoch, last_sequence) = word.newest;
                self.heard_of(Previous { epoch, last_sequence });
                let receipt = word.into_receipt();
                self.owed_mut(receipt.epoch).sequences.remove_all(&receipt.covered());
            }
            None => tracing::warn!(record = number, "outbox record of unknown kind skipped"),
        }
    }

    fn heard_of(&mut self, place: Previous) {
        self.newest_read = Some(place);
        match self.epochs.iter_mut().rev().find(|of| of.epoch == place.epoch) {
            Some(of) => of.last_sequence = of.last_sequence.max(place.last_sequence),
            None => self.epochs.push(place),
        }
        if self.epochs.len() > STATUS_EPOCHS_MAX {
            self.epochs.remove(0);
        }
    }

    fn all_read(&mut self) -> Vec<Effect> {
        self.forget_empty();
        // A sequence that was given to a durable event is never given again, whatever the disk shows now.
        if let (Some(current), Some(newest)) = (&mut self.current, self.newest_read)
            && newest.epoch == current.epoch
        {
            current.last_sequence = current.last_sequence.max(newest.last_sequence);
        }
        Vec::new()
    }

    fn begin(&mut self, start: EpochStart) -> Vec<Effect> {
        let previous = self.current.or(self.newest_read);
        let software = format!("camnet {}", env!("CARGO_PKG_VERSION"));
        let boot = NewEvent {
            device: None,
            time: start.time,
            clock: start.clock,
            data: EventData::Boot(Boot { previous, software }),
        };
        let mut effects = vec![Effect::Roll];
        effects.extend(self.write(start.epoch, 1, vec![(start.id, boot)]));
        effects
    }

    fn accept(&mut self, events: Vec<(Uuid, NewEvent)>) -> Vec<Effect> {
        let current = self.current.expect("an outbox begins with an epoch");
        self.write(current.epoch, current.last_sequence + 1, events)
    }

    fn write(&mut self, epoch: Epoch, first: u64, events: Vec<(Uuid, NewEvent)>) -> Vec<Effect> {
        if events.is_empty() {
            return Vec::new();
        }
        self.writing = Some(Writing { epoch, first, last: first + events.len() as u64 - 1 });
        let records = events.into_iter().zip(first..).map(|((id, new), sequence)| {
            record::encode_event(&Event {
                id,
                source: Source { box_id: self.box_id.clone(), device: new.device },
                epoch,
                sequence,
                time: new.time,
                clock: new.clock,
                data: new.data,
            })
        });
        vec![Effect::Write(records.collect())]
    }

    fn written(&mut self, number: u64) -> Vec<Effect> {
        let Some(Writing { epoch, first, last }) = self.writing.take() else { return Vec::new() };
        let newest = Previous { epoch, last_sequence: last };
        self.current = Some(newest);
        self.heard_of(newest);
        let owed = self.owed_mut(epoch);
        owed.mark(first, number);
        owed.sequences.insert(first, last);
        vec![Effect::Owe(vec![Span { epoch, first, last }])]
    }

    fn receipt(&mut self, receipt: &Receipt) -> Vec<Effect> {
        let Some(newest) = self.current else { return Vec::new() };
        let before = self.owed_count();
        if let Some(owed) = self.owed.iter_mut().find(|owed| owed.epoch == receipt.epoch) {
            owed.sequences.remove_all(&receipt.covered());
        }
        let mut effects = Vec::new();
        if self.owed_count() < before {
            let word = ReceiptRecord::of(receipt, newest);
            effects.push(Effect::Note(word.encode()));
        }
        let asked = self.asked_again(receipt, newest);
        if !asked.is_empty() {
            effects.push(Effect::Find { epoch: receipt.epoch, asked });
        }
        self.forget_empty();
        effects
    }

    /// What the hub asks for that is not owed: it was receipted once (the hub was restored from a backup).
    fn asked_again(&self, receipt: &Receipt, newest: Previous) -> Ranges {
        let mut asked = receipt.asked();
        if receipt.epoch == newest.epoch {
            asked.remove(newest.last_sequence + 1, u64::MAX);
        }
        if let Some(owed) = self.owed.iter().find(|owed| owed.epoch == receipt.epoch) {
            asked.remove_all(&owed.sequences);
        }
        if let Some(gone) = self.gone.get(&receipt.epoch) {
            asked.remove_all(gone);
        }
        asked
    }

    fn found(&mut self, epoch: Epoch, mut asked: Ranges, found: Vec<(u64, u64)>) -> Vec<Effect> {
        let mut back = Ranges::new();
        for (sequence, number) in found {
            if asked.contains(sequence) {
                self.owed_mut(epoch).add(sequence, number);
                back.insert(sequence, sequence);
            }
        }
        asked.remove_all(&back);
        self.give_up(epoch, &asked);
        // Not noted on disk: a box that restarts before it sent them is asked again, see `wire::BoxStatus`.
        let spans: Vec<Span> = back.iter().map(|(first, last)| Span { epoch, first, last }).collect();
        if spans.is_empty() { Vec::new() } else { vec![Effect::Owe(spans)] }
    }

    /// What is not on disk any more is not looked for again; the hub names it as missing.
    fn give_up(&mut self, epoch: Epoch, sequences: &Ranges) {
        for (from, to) in sequences.iter() {
            tracing::error!(%epoch, from, to, "events that the hub lacks are not on disk any more");
        }
        if let Some(owed) = self.owed.iter_mut().find(|owed| owed.epoch == epoch) {
            owed.sequences.remove_all(sequences);
        }
        let gone = self.gone.entry(epoch).or_default();
        gone.insert_all(sequences);
        if gone.range_count() > GONE_RANGES_MAX {
            *gone = Ranges::new();
        }
    }

    fn drop_segments(&mut self, segments: &[u64]) -> Vec<Effect> {
        let oldest_owed = self.owed.iter().filter_map(OwedEpoch::oldest_record).min().unwrap_or(u64::MAX);
        match segments.iter().take_while(|&&next| next <= oldest_owed).last() {
            Some(&next) => vec![Effect::DropBefore(next)],
            None => Vec::new(),
        }
    }

    fn owed_mut(&mut self, epoch: Epoch) -> &mut OwedEpoch {
        let at = self.owed.iter().position(|owed| owed.epoch == epoch).unwrap_or_else(|| {
            self.owed.push(OwedEpoch { epoch, sequences: Ranges::new(), marks: Vec::new() });
            self.owed.len() - 1
        });
        &mut self.owed[at]
    }

    fn forget_empty(&mut self) {
        self.owed.retain(|owed| !owed.sequences.is_empty());
    }
}

impl OwedEpoch {
    fn add(&mut self, sequence: u64, number: u64) {
        self.sequences.insert(sequence, sequence);
        self.mark(sequence, number);
    }

    /// Notes where `sequence` stands, unless the mark below says as much.
    fn mark(&mut self, sequence: u64, number: u64) {
        let at = self.marks.partition_point(|&(marked, _)| marked <= sequence);
        let says = at.checked_sub(1).map(|below| self.marks[below]);
        if says.is_some_and(|(marked, at_number)| at_number + (sequence - marked) == number) {
            return;
        }
        self.marks.insert(at, (sequence, number));
        if self.marks.len() > MARKS_MAX {
            let mut n = 0;
            // The first stays: everything above leans on it.
            self.marks.retain(|_| {
                n += 1;
                n % 2 == 1
            });
        }
    }

    /// A record number at or before that of the oldest owed event.
    fn oldest_record(&self) -> Option<u64> {
        let oldest = self.sequences.first()?;
        let mark = self.marks.partition_point(|&(sequence, _)| sequence <= oldest).checked_sub(1)?;
        let (sequence, number) = self.marks[mark];
        Some(number + (oldest - sequence))
    }
}
