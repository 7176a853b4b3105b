//! What ingest decides: what a message brings, and what may be said once it is durable.
//!
//! Owns the order of things: acknowledgement, receipt, command and index batch follow the truth's word that the group
//! is durable, never before. May not do I/O, read a clock or draw anything. What arrived the truth knows, so a receipt
//! goes out as "send what the truth says".
//!
//! A *ticket* is the caller's: what it needs to acknowledge a message, or to answer who waits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::hub::aside::{self, SetAside};
use crate::hub::indexer::Batch;
use crate::hub::truth::{Appended, Arrived, HubRecord, StoredFile};
use crate::limits::{
    NEW_EPOCH_ASK_AGAIN, NEW_EPOCH_FORGET, NEW_EPOCH_PLACES_MAX, SEQUENCE_MAX, STATUS_EPOCHS_MAX,
};
use crate::model::{Boot, BoxId, DeviceId, Epoch, EventData, Previous, Time};
use crate::wire::{self, BoxStatus, Decoded, DiskTrouble, Refusal, RefusalReason, Topic, TopicKind};

/// Answers whether a box may speak for a device: now, or about a time when the device was its own.
pub type SpeaksFor = Arc<dyn Fn(&BoxId, &DeviceId) -> bool + Send + Sync>;

/// Answers whether a box is revoked: what then comes under its name is not its own.
pub type IsOut = Arc<dyn Fn(&BoxId) -> bool + Send + Sync>;

/// What happened.
pub enum Action<'a, T> {
    /// A message came.
    Message {
        topic: &'a str,
        payload: &'a [u8],
        properties: &'a [(String, String)],
        received: Time,
        ticket: T,
    },
    /// An upload is complete.
    Stored { file: StoredFile, ticket: T },
    /// No more for now: make the group durable.
    Commit,
    /// It is durable.
    Appended { appended: Appended, now: Instant },
    /// It is not; the records come back.
    Failed { batch: Vec<HubRecord> },
}

/// What to do.
pub enum Effect<T> {
    /// Append to the truth, then say [`Action::Appended`] or [`Action::Failed`].
    Append(Vec<HubRecord>),
    /// Acknowledge the message.
    Ack(T),
    /// Answer that the upload is noted, at this position or behind it.
    StoredAt(T, u64),
    /// Answer that it could not be noted.
    NotStored(T),
    /// Send the receipt for this epoch, as the truth has it.
    Receipt(BoxId, Epoch),
    /// Send the receipts of all epochs of this box that lack something.
    ReceiptsOfIncomplete(BoxId),
    /// Ask the box for a new epoch instead of this one.
    AskNewEpoch(BoxId, Epoch),
    /// For the index.
    Index(Batch),
    /// The box said whether it is online.
    Online(BoxId, bool, Option<DiskTrouble>),
    /// The box said how far it got in which epochs: for the truth.
    Said(BoxId, Vec<Previous>),
    /// Wait a little, then commit again: nothing was said, and nothing of the group is given up.
    Retry,
}

/// See the module.
pub struct Core<T> {
    speaks_for: SpeaksFor,
    is_out: IsOut,
    aside: SetAside,
    group: Group<T>,
    asked_for_epoch: HashMap<(BoxId, Epoch), Instant>,
}

/// What has been taken and is not yet durable.
struct Group<T> {
    records: Vec<HubRecord>,
    touched: BTreeSet<(BoxId, Epoch)>,
    told: BTreeSet<BoxId>,
    acks: Vec<T>,
    stored: Vec<T>,
}

impl<T> Core<T> {
    pub fn new(speaks_for: SpeaksFor) -> Self {
        Self::with_aside(speaks_for, Arc::new(|_| false), SetAside::default())
    }

    /// As [`Core::new`], with who is revoked, and the counters of what is set aside.
    pub fn with_aside(speaks_for: SpeaksFor, is_out: IsOut, aside: SetAside) -> Self {
        Self { speaks_for, is_out, aside, group: Group::default(), asked_for_epoch: HashMap::new() }
    }

    /// Records that wait for [`Action::Commit`].
    pub fn waiting(&self) -> usize {
        self.group.records.len()
    }

    /// One step: takes an action and returns what to do, in order.
    pub fn step(&mut self, action: Action<'_, T>) -> Vec<Effect<T>> {
        match action {
            Action::Message { topic, payload, properties, received, ticket } => {
                self.group.acks.push(ticket);
                self.message(topic, payload, properties, received)
            }
            Action::Stored { file, ticket } => {
                self.group.stored.push(ticket);
                self.group.records.push(HubRecord::Stored(file));
                Vec::new()
            }
            Action::Commit => vec![Effect::Append(std::mem::take(&mut self.group.records))],
            Action::Appended { appended, now } => self.appended(appended, now),
            Action::Failed { batch } => self.failed(batch),
        }
    }

    fn message(
        &mut self,
        topic: &str,
        payload: &[u8],
        properties: &[(String, String)],
        received: Time,
    ) -> Vec<Effect<T>> {
        let topic = match topic.parse::<Topic>() {
            Ok(topic) => topic,
            Err(reason) => {
                // The broker's ACL lets nothing else in; there is no box to set it aside for.
                tracing::warn!(reason, "message on an unexpected topic dropped");
                self.aside.count_topic();
                return Vec::new();
            }
        };
        match topic.kind {
            TopicKind::Event => {
                self.events(&topic.box_id, payload, properties, received);
                Vec::new()
            }
            TopicKind::Status => self.status(topic.box_id, payload),
            _ => Vec::new(),
        }
    }

    fn status(&mut self, box_id: BoxId, payload: &[u8]) -> Vec<Effect<T>> {
        if (self.is_out)(&box_id) {
            // Its last will may still come; what it says of itself is not believed.
            return vec![Effect::Online(box_id, false, None)];
        }
        let Ok(status) = BoxStatus::from_json(payload) else {
            tracing::warn!(%box_id, "status of a box can't be read");
            self.aside.count(&box_id, "bad_status", 1);
            return Vec::new();
        };
        let mut effects = vec![Effect::Online(box_id.clone(), status.online, status.disk)];
        // What no box can have is not asked for.
        let mut epochs = status.epochs;
        epochs.truncate(STATUS_EPOCHS_MAX);
        epochs.retain(|epoch| (1..=SEQUENCE_MAX).contains(&epoch.last_sequence));
        if !epochs.is_empty() {
            effects.push(Effect::Said(box_id.clone(), epochs));
            self.group.told.insert(box_id);
        }
        effects
    }

    fn events(&mut self, box_id: &BoxId, payload: &[u8], properties: &[(String, String)], received: Time) {
        let mut items = wire::decode(box_id, payload);
        let mut is_any_refused = false;
        let is_out = (self.is_out)(box_id);
        for item in &mut items {
            check_device(&self.speaks_for, box_id, item);
            if is_out {
                refuse_revoked(box_id, item);
            }
            is_any_refused |= matches!(item, Decoded::Refused(_));
        }
        // Which places the bad ones stand for can only be told from all of the message.
        let places = is_any_refused.then(|| aside::refused_places(&items, wire::read_places(properties)));
        let mut places = places.unwrap_or_default().into_iter();
        let mut last_touched = None;
        for item in items {
            let places = places.next().unwrap_or_default();
            match item {
                Decoded::Event { event, json } => {
                    if last_touched != Some(event.epoch) {
                        last_touched = Some(event.epoch);
                        self.group.touched.insert((box_id.clone(), event.epoch));
                    }
                    // A first event names the epoch before: if that has holes, the box must hear of them.
                    if let EventData::Boot(Boot { previous: Some(previous), .. }) = &event.data {
                        self.group.touched.insert((box_id.clone(), previous.epoch));
                    }
                    let arrived = Arrived { box_id: box_id.clone(), received, conflict: false, event, json };
                    self.group.records.push(HubRecord::Event(arrived));
                }
                Decoded::Refused(refusal) => {
                    for place in &places {
                        self.group.touched.extend(place.0.map(|epoch| (box_id.clone(), epoch)));
                    }
                    let records = self.aside.records(box_id, received, refusal, places);
                    self.group.records.extend(records);
                }
            }
        }
    }

    fn appended(&mut self, appended: Appended, now: Instant) -> Vec<Effect<T>> {
        let group = std::mem::take(&mut self.group);
        let mut effects: Vec<Effect<T>> = group.acks.into_iter().map(Effect::Ack).collect();
        effects.extend(group.stored.into_iter().map(|ticket| Effect::StoredAt(ticket, appended.first)));
        let asked = self.ask_for_new_epochs(&appended.written, &group.touched, now);
        effects.extend(group.touched.into_iter().map(|(box_id, epoch)| Effect::Receipt(box_id, epoch)));
        effects.extend(group.told.into_iter().map(Effect::ReceiptsOfIncomplete));
        effects.extend(asked);
        if !appended.written.is_empty() {
            effects.push(Effect::Index((appended.first, appended.written)));
        }
        effects
    }

    /// Uploads are answered and given up, their boxes offer them again; all else stays to be tried again.
    fn failed(&mut self, batch: Vec<HubRecord>) -> Vec<Effect<T>> {
        let kept = batch.into_iter().filter(|record| !matches!(record, HubRecord::Stored(_)));
        self.group.records = kept.collect();
        let mut effects: Vec<Effect<T>> = self.group.stored.drain(..).map(Effect::NotStored).collect();
        effects.push(Effect::Retry);
        effects
    }

    /// Two boxes with one name, or a box restored from an old image: each must go on under an epoch of its own.
    /// The command may be lost, or reach only one of the two: while events of the epoch come, it is asked again.
    fn ask_for_new_epochs(
        &mut self,
        written: &[HubRecord],
        touched: &BTreeSet<(BoxId, Epoch)>,
        now: Instant,
    ) -> Vec<Effect<T>> {
        let conflicts = written.iter().filter_map(|record| match record {
            HubRecord::Event(arrived) if arrived.conflict => {
                Some((arrived.box_id.clone(), arrived.event.epoch))
            }
            _ => None,
        });
        let mut due: BTreeSet<(BoxId, Epoch)> = conflicts.collect();
        let since = |asked: &Instant| now.saturating_duration_since(*asked);
        self.asked_for_epoch.retain(|_, asked| since(asked) < NEW_EPOCH_FORGET);
        due.extend(touched.iter().filter(|place| self.asked_for_epoch.contains_key(*place)).cloned());
        due.retain(|place| {
            self.asked_for_epoch.get(place).is_none_or(|asked| since(asked) >= NEW_EPOCH_ASK_AGAIN)
        });
        let mut effects = Vec::new();
        for (box_id, epoch) in due {
            tracing::warn!(%box_id, %epoch, "two events with one place: the box is asked for a new epoch");
            if self.asked_for_epoch.len() < NEW_EPOCH_PLACES_MAX {
                self.asked_for_epoch.insert((box_id.clone(), epoch), now);
            }
            effects.push(Effect::AskNewEpoch(box_id, epoch));
        }
        effects
    }
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            touched: BTreeSet::new(),
            told: BTreeSet::new(),
            acks: Vec::new(),
            stored: Vec::new(),
        }
    }
}

/// Sets aside whatever comes under the name of a revoked box: a broker may still let it in.
fn refuse_revoked(box_id: &BoxId, item: &mut Decoded) {
    let Decoded::Event { event, json } = item else { return };
    let detail = format!(
        "box {box_id} is revoked; after it is enrolled again, `camnet journal replay` offers this again"
    );
    let why = (RefusalReason::Revoked, detail);
    *item =
        Decoded::Refused(Refusal::new(why, Some(event.epoch), Some(event.sequence), Some(event.id), json));
}

/// Refuses an event of a device that is not the box's: a box may speak only for itself and its own devices.
pub fn check_device(speaks_for: &SpeaksFor, box_id: &BoxId, item: &mut Decoded) {
    let Decoded::Event { event, json } = item else { return };
    let Some(device) = &event.source.device else { return };
    if speaks_for(box_id, device) {
        return;
    }
    let detail = format!("the registry has no device {device} on box {box_id}; add it to the registry file");
    let why = (RefusalReason::NotAllowed, detail);
    *item =
        Decoded::Refused(Refusal::new(why, Some(event.epoch), Some(event.sequence), Some(event.id), json));
}
