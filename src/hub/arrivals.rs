//! Which sequences of which epoch have arrived, and what a receipt may say of them.
//!
//! Owns that knowledge in memory, derived from the truth's records alone. May not do I/O. Memory: ranges per epoch, and
//! the ids of the newest events only, eight bytes each: an older sequence that comes again counts as a duplicate.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use super::truth::{HubRecord, Outcome};
use crate::limits::{CONFLICTS_PER_EPOCH_MAX, INGEST_IDS_MAX, RECEIPT_MISSING_MAX, RECEIPT_REFUSED_MAX};
use crate::model::{BoxId, Epoch, Event, EventData, Previous, Ranges};
use crate::wire::{Receipt, Refused};

/// What has arrived, of every box.
#[derive(Default)]
pub struct Arrivals {
    numbers: HashMap<BoxId, usize>,
    /// For each box its epochs, the newest last.
    boxes: Vec<Vec<EpochState>>,
    /// Blocks of ids that are kept, oldest first: box, epoch, block.
    id_blocks: VecDeque<(usize, Epoch, u64)>,
}

/// Sequences whose ids are kept or forgotten together.
const ID_BLOCK: u64 = 32;

struct EpochState {
    epoch: Epoch,
    seen: Ranges,
    /// A later epoch's first event said that this one reached so far.
    announced_last: u64,
    /// Half of the id of each event, by block; 0 where none is known.
    ids: HashMap<u64, Box<[u64; ID_BLOCK as usize]>>,
    /// What most epochs never have.
    rare: Option<Box<Rare>>,
}

/// Ids, by sequence, of those whose place another one had: a bounded number of them.
#[derive(Default)]
struct Others {
    ids: HashMap<u64, Vec<u64>>,
    count: usize,
}

#[derive(Default)]
struct Rare {
    conflicts: Others,
    /// The same of what was set aside.
    others_aside: Others,
    refused: VecDeque<Refused>,
    /// Sequences that arrived, were set aside, and are not events yet.
    set_aside: Ranges,
}

impl Arrivals {
    /// Takes note of a record and says what it is.
    pub fn note(&mut self, record: &HubRecord) -> Outcome {
        match record {
            HubRecord::Event(arrived) => self.note_event(&arrived.box_id, &arrived.event),
            HubRecord::Refused {
                box_id, epoch: Some(epoch), sequence: Some(sequence), id, reason, ..
            } => self.note_refused(box_id, *epoch, Refused(*sequence, reason.clone()), *id),
            HubRecord::Refused { .. } => Outcome::Refused,
            HubRecord::Stored(_) => Outcome::New,
        }
    }

    /// The hub's word about one epoch; None if nothing of it arrived or was announced. `said` is what the box last
    /// said of its epochs.
    pub fn receipt(&self, box_id: &BoxId, epoch: Epoch, said: &[Previous]) -> Option<Receipt> {
        let said_last = last_said(said, epoch);
        let states = self.numbers.get(box_id).map_or(&[][..], |&number| &self.boxes[number]);
        match states.iter().rev().find(|state| state.epoch == epoch) {
            Some(state) => Some(state.receipt(said_last.unwrap_or(0))),
            None => said_last.map(|last| EpochState::new(epoch).receipt(last)),
        }
    }

    /// Epochs of a box with something missing, newest first, at most `max`.
    pub fn incomplete(&self, box_id: &BoxId, said: &[Previous], max: usize) -> Vec<Epoch> {
        let states = self.numbers.get(box_id).map_or(&[][..], |&number| &self.boxes[number]);
        let new = said.iter().filter(|said| states.iter().all(|state| state.epoch != said.epoch));
        let known = states.iter().rev();
        let known = known.filter(|state| !state.is_complete(last_said(said, state.epoch).unwrap_or(0)));
        new.map(|said| said.epoch).chain(known.map(|state| state.epoch)).take(max).collect()
    }

    fn note_event(&mut self, box_id: &BoxId, event: &Event) -> Outcome {
        let fingerprint = fingerprint(event.id);
        let box_number = self.box_number(box_id);
        // Of two boxes in one epoch, each has its own word of what was before.
        if let EventData::Boot(boot) = &event.data
            && let Some(previous) = boot.previous
        {
            let before = self.state(box_number, previous.epoch);
            before.announced_last = before.announced_last.max(previous.last_sequence);
        }
        let state = self.state(box_number, event.epoch);
        // What was set aside here becomes an event once it can be read: it is replayed, or sent again.
        if state.seen.contains(event.sequence) && !state.take_from_aside(event.sequence, fingerprint) {
            return state.known(event.sequence, fingerprint);
        }
        state.seen.insert(event.sequence, event.sequence);
        self.keep_id(box_number, event.epoch, event.sequence, fingerprint);
        Outcome::New
    }

    fn note_refused(&mut self, box_id: &BoxId, epoch: Epoch, refused: Refused, id: Option<Uuid>) -> Outcome {
        let (box_number, sequence) = (self.box_number(box_id), refused.0);
        let state = self.state(box_number, epoch);
        let is_first = !state.seen.contains(sequence);
        if !is_first && !id.is_some_and(|id| state.is_other_aside(sequence, fingerprint(id))) {
            return Outcome::Duplicate;
        }
        let rare = state.rare.get_or_insert_default();
        rare.refused.push_back(refused);
        if rare.refused.len() > RECEIPT_REFUSED_MAX {
            rare.refused.pop_front();
        }
        if is_first {
            state.seen.insert(sequence, sequence);
            rare.set_aside.insert(sequence, sequence);
            if let Some(id) = id {
                self.keep_id(box_number, epoch, sequence, fingerprint(id));
            }
        }
        Outcome::Refused
    }

    fn keep_id(&mut self, box_number: usize, epoch: Epoch, sequence: u64, fingerprint: u64) {
        if self.state(box_number, epoch).keep_id(sequence, fingerprint) {
            self.id_blocks.push_back((box_number, epoch, sequence / ID_BLOCK));
            self.forget_oldest_ids();
        }
    }

    fn box_number(&mut self, box_id: &BoxId) -> usize {
        if let Some(&number) = self.numbers.get(box_id) {
            return number;
        }
        self.boxes.push(Vec::new());
        self.numbers.insert(box_id.clone(), self.boxes.len() - 1);
        self.boxes.len() - 1
    }

    fn state(&mut self, box_number: usize, epoch: Epoch) -> &mut EpochState {
        let states = &mut self.boxes[box_number];
        let at = states.iter().rposition(|state| state.epoch == epoch).unwrap_or_else(|| {
            states.push(EpochState::new(epoch));
            states.len() - 1
        });
        &mut states[at]
    }

    fn forget_oldest_ids(&mut self) {
        while self.id_blocks.len() as u64 * ID_BLOCK > INGEST_IDS_MAX as u64 {
            let Some((box_number, epoch, block)) = self.id_blocks.pop_front() else { return };
            self.state(box_number, epoch).ids.remove(&block);
        }
    }
}

impl Others {
    /// Takes note of one; false if it is known, or one too many.
    fn is_new(&mut self, sequence: u64, fingerprint: u64) -> bool {
        let is_known = self.ids.get(&sequence).is_some_and(|others| others.contains(&fingerprint));
        if is_known || self.count >= CONFLICTS_PER_EPOCH_MAX {
            return false;
        }
        self.ids.entry(sequence).or_default().push(fingerprint);
        self.count += 1;
        true
    }
}

fn last_said(said: &[Previous], epoch: Epoch) -> Option<u64> {
    said.iter().find(|said| said.epoch == epoch).map(|said| said.last_sequence)
}

/// Half of an id, which is enough to tell two apart.
fn fingerprint(id: Uuid) -> u64 {
    id.as_u64_pair().1
}

impl EpochState {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, seen: Ranges::new(), announced_last: 0, ids: HashMap::new(), rare: None }
    }

    /// True if this began a new block of ids.
    fn keep_id(&mut self, sequence: u64, fingerprint: u64) -> bool {
        let before = self.ids.len();
        let block = self.ids.entry(sequence / ID_BLOCK).or_insert_with(|| Box::new([0; ID_BLOCK as usize]));
        block[(sequence % ID_BLOCK) as usize] = fingerprint;
        self.ids.len() > before
    }

    fn id_of(&self, sequence: u64) -> Option<u64> {
        let id = self.ids.get(&(sequence / ID_BLOCK))?[(sequence % ID_BLOCK) as usize];
        (id != 0).then_some(id)
    }

    /// True if the sequence was set aside; from now on it is not. What was set aside may be another box's: it is
    /// known when it comes again.
    fn take_from_aside(&mut self, sequence: u64, fingerprint: u64) -> bool {
        let aside = self.id_of(sequence).filter(|aside| *aside != fingerprint);
        let Some(rare) = self.rare.as_mut().filter(|rare| rare.set_aside.contains(sequence)) else {
            return false;
        };
        rare.set_aside.remove(sequence, sequence);
        rare.refused.retain(|refused| refused.0 != sequence);
        if let Some(aside) = aside {
            rare.others_aside.is_new(sequence, aside);
        }
        true
    }

    /// True if this is one that can't be taken, at a place that another one has: two boxes share the epoch.
    fn is_other_aside(&mut self, sequence: u64, fingerprint: u64) -> bool {
        let is_other = self.id_of(sequence).is_some_and(|known| known != fingerprint);
        is_other && self.rare.get_or_insert_default().others_aside.is_new(sequence, fingerprint)
    }

    fn known(&mut self, sequence: u64, fingerprint: u64) -> Outcome {
        match self.id_of(sequence) {
            Some(known) if known != fingerprint => {}
            _ => return Outcome::Duplicate,
        }
        match self.rare.get_or_insert_default().conflicts.is_new(sequence, fingerprint) {
            true => Outcome::Conflict,
            false => Outcome::Duplicate,
        }
    }

    fn newest(&self, said: u64) -> u64 {
        self.seen.last().unwrap_or(0).max(self.announced_last).max(said)
    }

    fn is_complete(&self, said: u64) -> bool {
        let newest = self.newest(said);
        newest == 0 || self.seen.range_at_or_after(1) == Some((1, newest))
    }

    fn receipt(&self, said: u64) -> Receipt {
        let newest = self.newest(said);
        let mut holes = Ranges::of(1, newest);
        holes.remove_all(&self.seen);
        let mut missing: Vec<(u64, u64)> = holes.iter().take(RECEIPT_MISSING_MAX + 1).collect();
        // What does not fit is asked for with the next receipt: `upto` stays below it.
        let upto = missing.get(RECEIPT_MISSING_MAX).map_or(newest, |&(from, _)| from - 1);
        missing.truncate(RECEIPT_MISSING_MAX);
        let refused = self.rare.as_ref().map(|rare| rare.refused.iter().cloned().collect());
        Receipt { epoch: self.epoch, upto, missing, refused: refused.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_holes_than_a_receipt_can_name_are_named_later() {
        let mut state = EpochState::new(Epoch(1));
        for n in 0..200 {
            state.seen.insert(2 * n + 2, 2 * n + 2);
        }
        let receipt = state.receipt(0);
        assert_eq!(receipt.missing.len(), RECEIPT_MISSING_MAX);
        for sequence in 1..=receipt.upto {
            assert_eq!(receipt.covers(sequence), state.seen.contains(sequence), "{sequence}");
        }
    }

    #[test]
    fn what_a_box_says_of_itself_shows_what_the_hub_lacks() {
        let box_id = BoxId::new("box-01").unwrap();
        let said = [7, 5].map(|epoch| Previous { epoch: Epoch(epoch), last_sequence: epoch + 2 });
        let arrivals = Arrivals::default();
        assert_eq!(arrivals.receipt(&box_id, Epoch(7), &[]), None);
        assert_eq!(arrivals.incomplete(&box_id, &said, 5), [Epoch(7), Epoch(5)]);
        let receipt = arrivals.receipt(&box_id, Epoch(7), &said).unwrap();
        assert_eq!((receipt.upto, receipt.missing), (9, vec![(1, 9)]));
    }
}
