//! The box's side of the protocol: outbox and uplink core joined, wire in, wire out.
//!
//! Touches the outbox's disk and nothing else: the network, the clock and new ids are the caller's, so that the
//! simulation drives the very same code. Each method returns the messages to send, in order.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::time::{Instant, SystemTime};

use uuid::Uuid;

use super::Metrics;
use super::core::{Action, Core, Parcel};
use crate::edge::lamp::command::clip;
use crate::edge::outbox::{EpochStart, NewEvent, OutboxError, Span, Store};
use crate::edge::room::Room;
use crate::journal::JournalError;
use crate::limits::BATCH_BYTES_MAX;
use crate::model::{BoxId, Epoch, Previous, Ranges, Time};
use crate::mqtt::{Correlation, OutMessage, PublishOutcome};
use crate::wire::{
    self, BoxStatus, Command, CommandResult, DiskTrouble, LampCommand, Receipt, Refused, StillCommand, Topic,
    TopicKind,
};

/// Ranges of refusals of one epoch that are remembered as told.
const REFUSED_TOLD_RANGES_MAX: usize = 1000;

/// A command that is for a device, not for the box's side of the protocol.
#[derive(Debug)]
pub enum DeviceCommand {
    Lamp(LampCommand),
    Still(StillCommand),
    View(StillCommand),
}

/// See the module.
pub struct BoxSide {
    box_id: BoxId,
    store: Store,
    core: Core,
    metrics: Metrics,
    /// Refusals that were told.
    refused_told: HashMap<Epoch, Ranges>,
    /// Of the messages since the last look; see [`BoxSide::take_commands`].
    commands: Vec<DeviceCommand>,
    /// Why the outbox takes nothing.
    disk: Option<DiskTrouble>,
    /// The hub wants the box to ask about itself.
    is_told_to_ask: bool,
    /// The hub has durably something of the present epoch: it can be reached, there and back.
    has_receipt: bool,
}

impl BoxSide {
    /// Joins an open outbox to a new uplink: all that is owed waits for the link.
    pub fn new(box_id: BoxId, store: Store, metrics: Metrics, now: Instant) -> Self {
        let mut core = Core::default();
        core.step(Action::Owed(store.owed().collect()), now);
        metrics.owed.set(core.owed_count() as i64);
        let (refused_told, commands) = (HashMap::new(), Vec::new());
        let (is_told_to_ask, has_receipt) = (false, false);
        Self { box_id, store, core, metrics, refused_told, commands, disk: None, is_told_to_ask, has_receipt }
    }

    /// The current epoch and the last sequence accepted in it.
    pub fn newest(&self) -> Previous {
        self.store.newest()
    }

    /// Events that no receipt covers.
    pub fn owed_count(&self) -> usize {
        self.core.owed_count()
    }

    /// Makes events durable. After a failed write the outbox recovers from what is on disk.
    pub fn accept(
        &mut self,
        events: Vec<(Uuid, NewEvent)>,
        now: Instant,
    ) -> (Result<(), OutboxError>, Vec<OutMessage>) {
        let count = events.len() as u64;
        let (result, owed) = match self.store.accept_as(events) {
            Ok(owed) => (Ok(()), owed),
            Err(error) => {
                if let OutboxError::Disk(error) = &error {
                    // Once; that it goes on, the box's status says.
                    if self.disk.is_none() {
                        tracing::error!(%error, "the outbox can't be written");
                    }
                    self.reopen();
                }
                // What was receipted may have been forgotten with the write: it is owed again.
                (Err(error), self.store.owed().collect())
            }
        };
        let counter = if result.is_ok() { &self.metrics.accepted } else { &self.metrics.refused };
        counter.inc_by(count);
        let mut messages = self.disk_news(result.as_ref().err());
        messages.extend(self.step(Action::Owed(owed), now));
        (result, messages)
    }

    /// That the disk takes nothing, or does again, is said where no disk is needed for it.
    fn disk_news(&mut self, error: Option<&OutboxError>) -> Vec<OutMessage> {
        let disk = match error {
            Some(error) => {
                let detail = error_chain(error);
                Some(DiskTrouble { full: is_full(error), detail })
            }
            None => None,
        };
        if disk.as_ref().map(|disk| disk.full) == self.disk.as_ref().map(|disk| disk.full) {
            return Vec::new();
        }
        self.disk = disk;
        self.status()
    }

    /// Sees to it that the outbox has room, at the cost of footage.
    pub fn make_room(&mut self, room: &mut Room, now: Time) {
        room.make(&mut self.store, now);
    }

    /// The link is up: the box says where it stands, then sends what it owes.
    pub fn link_up(&mut self, now: Instant) -> Vec<OutMessage> {
        self.metrics.link_up.set(1);
        let mut messages = self.status();
        messages.extend(self.step(Action::LinkUp, now));
        messages
    }

    pub fn link_down(&mut self, now: Instant) {
        self.metrics.link_losses.inc_by(self.metrics.link_up.get().unsigned_abs());
        self.metrics.link_up.set(0);
        let sends = self.core.step(Action::LinkDown, now);
        debug_assert!(sends.is_empty(), "nothing is sent without a link");
    }

    /// The broker's answer to the message with this token.
    pub fn published(&mut self, token: u64, outcome: PublishOutcome, now: Instant) -> Vec<OutMessage> {
        self.step(Action::Published { token, outcome }, now)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<OutMessage> {
        self.step(Action::Tick, now)
    }

    /// The retained word of the box about itself.
    pub fn status(&self) -> Vec<OutMessage> {
        let status = BoxStatus { online: true, disk: self.disk.clone(), epochs: self.store.epochs() };
        vec![OutMessage {
            topic: Topic::new(&self.box_id, TopicKind::Status).to_string(),
            payload: status.to_json(),
            content_type: Some("application/json"),
            user_properties: Vec::new(),
            retain: true,
            token: 0,
            correlation: None,
        }]
    }

    /// What became of a command.
    pub fn result(&self, result: &CommandResult) -> OutMessage {
        let data = result.correlation.clone().into_bytes();
        OutMessage {
            topic: Topic::new(&self.box_id, TopicKind::Result).to_string(),
            payload: result.to_json(),
            content_type: Some("application/json"),
            user_properties: Vec::new(),
            retain: false,
            token: 0,
            correlation: Some(Box::new(Correlation { data, response_topic: None })),
        }
    }

    /// Commands for devices that came since the last call.
    pub fn take_commands(&mut self) -> Vec<DeviceCommand> {
        std::mem::take(&mut self.commands)
    }

    /// Whether the hub has told the box, since the last call, to ask about itself.
    pub fn take_told_to_ask(&mut self) -> bool {
        std::mem::take(&mut self.is_told_to_ask)
    }

    /// Whether a receipt of the present epoch has come since the start.
    pub fn has_receipt(&self) -> bool {
        self.has_receipt
    }

    /// A message of the hub. `draw` gives the start of a new epoch, if one is asked for.
    pub fn message(
        &mut self,
        topic: &str,
        payload: &[u8],
        draw: impl FnOnce() -> EpochStart,
        now: Instant,
    ) -> Vec<OutMessage> {
        match topic.parse::<Topic>() {
            Ok(topic) if topic.box_id != self.box_id => {
                tracing::warn!(topic = %topic, "message for another box");
                Vec::new()
            }
            Ok(topic) if topic.kind == TopicKind::Receipt => match Receipt::from_json(payload) {
                Ok(receipt) => self.receipt(receipt, now),
                Err(error) => {
                    tracing::warn!(%error, "receipt can't be read");
                    Vec::new()
                }
            },
            Ok(topic) if topic.kind == TopicKind::Command => self.command(payload, draw, now),
            _ => {
                tracing::warn!(topic, "message on an unexpected topic");
                Vec::new()
            }
        }
    }

    /// Drops old segments that hold nothing unreceipted.
    pub fn drop_old(&mut self, now: SystemTime) {
        self.store.drop_old(now);
    }

    /// Makes what was noted without a sync durable too.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.store.sync()
    }

    fn step(&mut self, action: Action, now: Instant) -> Vec<OutMessage> {
        let mut messages = Vec::new();
        let mut parcels = VecDeque::from(self.core.step(action, now));
        while let Some(parcel) = parcels.pop_front() {
            let read = self.messages_of(parcel);
            if read.is_empty() {
                // Each turn gives up something that was owed, so this ends.
                parcels.extend(self.give_up_unreadable(parcel, now));
            }
            messages.extend(read);
        }
        self.metrics.owed.set(self.core.owed_count() as i64);
        messages
    }

    /// What the disk lost must not stand in the way of what comes behind it.
    fn give_up_unreadable(&mut self, parcel: Parcel, now: Instant) -> Vec<Parcel> {
        match self.store.give_up_unreadable(parcel.from, parcel.count) {
            Ok(lost) if lost.is_empty() => Vec::new(),
            Ok(lost) => {
                self.metrics.lost.inc_by(lost.count());
                self.core.step(Action::Gone { epoch: parcel.from.0, sequences: lost }, now)
            }
            Err(error) => {
                tracing::error!(%error, "the outbox can't be read");
                Vec::new()
            }
        }
    }

    fn receipt(&mut self, receipt: Receipt, now: Instant) -> Vec<OutMessage> {
        self.metrics.receipts.inc();
        self.has_receipt |= receipt.epoch == self.store.epoch() && receipt.upto > 0;
        self.tell_refused(&receipt);
        let again = match self.store.receipt(&receipt) {
            Ok(again) => again,
            Err(error) => {
                tracing::error!(%error, "a receipt could not be noted");
                self.reopen();
                self.store.owed().collect()
            }
        };
        let mut messages = self.step(Action::Receipt(receipt), now);
        if let Some(took) = self.core.receipt_took() {
            self.metrics.receipt_ms.set(i64::try_from(took.as_millis()).unwrap_or(i64::MAX).max(1));
        }
        if !again.is_empty() {
            let events: u64 = again.iter().map(Span::count).sum();
            tracing::info!(events, "the hub asks again for receipted events");
            messages.extend(self.step(Action::Owed(again), now));
        }
        messages
    }

    /// Receipts name the newest refusals again and again, in no order; each is told once.
    fn tell_refused(&mut self, receipt: &Receipt) {
        let told = self.refused_told.entry(receipt.epoch).or_default();
        for Refused(sequence, reason) in receipt.refused.iter() {
            if !told.contains(*sequence) {
                tracing::warn!(epoch = %receipt.epoch, sequence, reason, "the hub set an event aside");
                self.metrics.set_aside.inc();
                told.insert(*sequence, *sequence);
            }
        }
        if told.range_count() > REFUSED_TOLD_RANGES_MAX {
            *told = Ranges::new();
        }
    }

    fn command(
        &mut self,
        payload: &[u8],
        draw: impl FnOnce() -> EpochStart,
        now: Instant,
    ) -> Vec<OutMessage> {
        match Command::from_json(payload) {
            Ok(Command::NewEpoch { epoch, reason, .. }) if epoch == self.store.epoch() => {
                tracing::warn!(%epoch, reason, "the hub asks for a new epoch");
                let owed = match self.store.begin(draw()) {
                    Ok(owed) => owed,
                    Err(error) => {
                        tracing::error!(%error, "no new epoch");
                        self.reopen();
                        self.store.owed().collect()
                    }
                };
                self.step(Action::Owed(owed), now)
            }
            Ok(Command::NewEpoch { .. }) => Vec::new(),
            Ok(Command::Lamp(command)) => {
                self.commands.push(DeviceCommand::Lamp(command));
                Vec::new()
            }
            Ok(Command::View(command)) => {
                self.commands.push(DeviceCommand::View(command));
                Vec::new()
            }
            Ok(Command::Still(command)) => {
                self.commands.push(DeviceCommand::Still(command));
                Vec::new()
            }
            Ok(Command::Configure { version, .. }) => {
                tracing::info!(version, "the hub has set something for this box");
                self.is_told_to_ask = true;
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(%error, "command can't be read");
                let refused = |correlation: String| {
                    let why =
                        format!("this box can't read the command, perhaps it is older than the hub: {error}");
                    self.result(&CommandResult::refused(clip(&correlation), why))
                };
                Command::correlation_of(payload).map(refused).into_iter().collect()
            }
        }
    }

    fn reopen(&mut self) {
        if let Err(error) = self.store.reopen()
            && self.disk.is_none()
        {
            tracing::error!(%error, "the outbox can't be opened anew");
        }
    }

    /// Reads what is to be sent. Events that are too large together go in several messages.
    fn messages_of(&self, parcel: Parcel) -> Vec<OutMessage> {
        let events = match self.store.read(parcel.from, parcel.count) {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(%error, "events could not be read from the outbox");
                return Vec::new();
            }
        };
        let mut messages = Vec::new();
        let mut rest = events.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|(_, json)| {
                bytes += json.len() + 1;
                bytes <= BATCH_BYTES_MAX
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let token = if later.is_empty() { parcel.token } else { 0 };
            messages.push(self.message_of(parcel.from.0, now, token));
            rest = later;
        }
        messages
    }

    fn message_of(&self, epoch: Epoch, events: &[(u64, Vec<u8>)], token: u64) -> OutMessage {
        let (first, last) = (events[0].0, events[events.len() - 1].0);
        let (payload, content_type) = match events {
            [(_, json)] => (json.clone(), wire::CONTENT_TYPE_EVENT),
            _ => {
                (wire::encode_batch(events.iter().map(|(_, json)| json.as_slice())), wire::CONTENT_TYPE_BATCH)
            }
        };
        self.metrics.sent.inc_by(events.len() as u64);
        OutMessage {
            topic: Topic::new(&self.box_id, TopicKind::Event).to_string(),
            payload,
            content_type: Some(content_type),
            user_properties: vec![
                (wire::PROPERTY_EPOCH.into(), epoch.to_string()),
                (wire::PROPERTY_SEQUENCES.into(), format!("{first}-{last}")),
            ],
            retain: false,
            token,
            correlation: None,
        }
    }
}
/// No room is left, on the disk or in the outbox's share of it.
fn is_full(error: &OutboxError) -> bool {
    match error {
        OutboxError::Full { .. } => true,
        OutboxError::Disk(error) => match &**error {
            JournalError::Io { source, .. } => {
                matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            }
            JournalError::Poisoned { why, .. } => why.contains(&ErrorKind::StorageFull.to_string()),
            _ => false,
        },
        OutboxError::Closed => false,
    }
}

/// The error with its causes.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
