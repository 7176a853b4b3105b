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

use crate::hub::indexer::Batch;
use crate::hub::truth::{Appended, Arrived, HubRecord, StoredFile};
use crate::limits::{BATCH_EVENTS_MAX, EVENT_BYTES_MAX, NEW_EPOCH_ASK_AGAIN};
use crate::model::{Boot, BoxId, DeviceId, Epoch, EventData, Previous, Time};
use crate::wire::{self, BoxStatus, Decoded, Refusal, RefusalReason, Topic, TopicKind};

/// Answers whether a box may speak for a device: now, or about a time when the device was its own.
pub type SpeaksFor = Arc<dyn Fn(&BoxId, &DeviceId) -> bool + Send + Sync>;

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
    Online(BoxId, bool),
    /// The box said how far it got: for the truth.
    Said(BoxId, Previous),
    /// Wait a little, then commit again: nothing was said, and nothing of the group is given up.
    Retry,
}

/// See the module.
pub struct Core<T> {
    speaks_for: SpeaksFor,
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
        Self { speaks_for, group: Group::default(), asked_for_epoch: HashMap::new() }
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
        let Ok(status) = BoxStatus::from_json(payload) else {
            tracing::warn!(%box_id, "status of a box can't be read");
            return Vec::new();
        };
        let mut effects = vec![Effect::Online(box_id.clone(), status.online)];
        if let Some(newest) = status.newest {
            effects.push(Effect::Said(box_id.clone(), newest));
            self.group.told.insert(box_id);
        }
        effects
    }

    fn events(&mut self, box_id: &BoxId, payload: &[u8], properties: &[(String, String)], received: Time) {
        let mut last_touched = None;
        for decoded in wire::decode(box_id, payload) {
            let refusal = match decoded {
                Decoded::Event { event, json } => {
                    let device = event.source.device.as_ref();
                    if device.is_none_or(|device| (self.speaks_for)(box_id, device)) {
                        if last_touched != Some(event.epoch) {
                            last_touched = Some(event.epoch);
                            self.group.touched.insert((box_id.clone(), event.epoch));
                        }
                        // A first event names the epoch before: if that has holes, the box must hear of them.
                        if let EventData::Boot(Boot { previous: Some(previous), .. }) = &event.data {
                            self.group.touched.insert((box_id.clone(), previous.epoch));
                        }
                        let arrived =
                            Arrived { box_id: box_id.clone(), received, conflict: false, event, json };
                        self.group.records.push(HubRecord::Event(arrived));
                        continue;
                    }
                    let device = device.map(DeviceId::as_str).unwrap_or_default();
                    Refusal {
                        reason: RefusalReason::NotAllowed,
                        detail: format!(
                            "the registry has no device {device} on box {box_id}; add it to the registry file"
                        ),
                        epoch: Some(event.epoch),
                        sequence: Some(event.sequence),
                        body: json,
                    }
                }
                Decoded::Refused(refusal) => refusal,
            };
            self.refuse(box_id, received, refusal, properties);
        }
    }

    /// Sets something aside. A body that can't be read still has its place in the message's properties.
    fn refuse(&mut self, box_id: &BoxId, received: Time, refusal: Refusal, properties: &[(String, String)]) {
        tracing::warn!(%box_id, reason = refusal.reason.as_str(), detail = refusal.detail, "event set aside");
        let places: Vec<(Option<Epoch>, Option<u64>)> = match (refusal.epoch, refusal.sequence) {
            (Some(epoch), Some(sequence)) => vec![(Some(epoch), Some(sequence))],
            _ => match places_of(properties) {
                Some((epoch, first, last)) => (first..=last).map(|s| (Some(epoch), Some(s))).collect(),
                None => vec![(None, None)],
            },
        };
        for (n, (epoch, sequence)) in places.into_iter().enumerate() {
            let mut body = if n == 0 { refusal.body.clone() } else { Vec::new() };
            body.truncate(EVENT_BYTES_MAX);
            self.group.touched.extend(epoch.map(|epoch| (box_id.clone(), epoch)));
            self.group.records.push(HubRecord::Refused {
                box_id: box_id.clone(),
                received,
                reason: refusal.reason.as_str().to_owned(),
                detail: refusal.detail.clone(),
                epoch,
                sequence,
                body,
            });
        }
    }

    fn appended(&mut self, appended: Appended, now: Instant) -> Vec<Effect<T>> {
        let group = std::mem::take(&mut self.group);
        let mut effects: Vec<Effect<T>> = group.acks.into_iter().map(Effect::Ack).collect();
        effects.extend(group.stored.into_iter().map(|ticket| Effect::StoredAt(ticket, appended.first)));
        effects.extend(group.touched.into_iter().map(|(box_id, epoch)| Effect::Receipt(box_id, epoch)));
        effects.extend(group.told.into_iter().map(Effect::ReceiptsOfIncomplete));
        effects.extend(self.ask_for_new_epochs(&appended.written, now));
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
    fn ask_for_new_epochs(&mut self, written: &[HubRecord], now: Instant) -> Vec<Effect<T>> {
        let conflicts = written.iter().filter_map(|record| match record {
            HubRecord::Event(arrived) if arrived.conflict => {
                Some((arrived.box_id.clone(), arrived.event.epoch))
            }
            _ => None,
        });
        let epochs: BTreeSet<(BoxId, Epoch)> = conflicts.collect();
        self.asked_for_epoch.retain(|_, asked| now.saturating_duration_since(*asked) < NEW_EPOCH_ASK_AGAIN);
        let mut effects = Vec::new();
        for (box_id, epoch) in epochs {
            if self.asked_for_epoch.insert((box_id.clone(), epoch), now).is_none() {
                tracing::warn!(%box_id, %epoch, "two events with one place: the box is asked for a new epoch");
                effects.push(Effect::AskNewEpoch(box_id, epoch));
            }
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

/// Epoch and range of sequences from the message's user properties.
fn places_of(properties: &[(String, String)]) -> Option<(Epoch, u64, u64)> {
    let property = |name: &str| properties.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let epoch = property(wire::PROPERTY_EPOCH)?.parse().ok()?;
    let (first, last) = property(wire::PROPERTY_SEQUENCES)?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let is_sane = first >= 1 && last >= first && last - first < BATCH_EVENTS_MAX as u64;
    is_sane.then_some((epoch, first, last))
}
