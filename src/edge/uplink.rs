//! Brings the outbox's events to the hub, and the hub's receipts to the outbox.
//!
//! Owns what is on its way and when it is sent again. May not forget an event: only a receipt makes the
//! outbox do that.
//!
//! [`Core`] decides and does no I/O: actions in, effects out. [`Uplink::run`] drives it with the real outbox and the
//! real MQTT link.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use prometheus::{IntCounter, IntGauge, Registry};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::clock;
use super::outbox::{Accept, OutboxError, Place, Store};
use super::room::Room;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, OUTBOX_QUEUE_MAX, RESEND_AFTER, UPLINK_WINDOW_EVENTS,
};
use crate::model::{BoxId, Epoch, Time};
use crate::mqtt::{LinkEvent, LinkSender, OutMessage, PublishOutcome};
use crate::wire::{self, Command, Receipt, Topic, TopicKind};

/// What happened.
#[derive(Debug)]
pub enum Action {
    /// These events are in the outbox and owed to the hub.
    Owed(Vec<Place>),
    LinkUp,
    LinkDown,
    /// The broker took or refused the message with this token.
    Published {
        token: u64,
        outcome: PublishOutcome,
    },
    /// The hub's word.
    Receipt(Receipt),
    /// Time has passed.
    Tick,
}

/// What to do: send `count` events from `from` on in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    pub token: u64,
    pub from: Place,
    pub count: usize,
}

/// Decides what to send when. Knows places, not contents.
#[derive(Debug, Default)]
pub struct Core {
    is_up: bool,
    /// Order in which epochs were first seen; older ones are sent first.
    epochs: Vec<Epoch>,
    waiting: BTreeMap<(usize, u64), Place>,
    /// Sent, and when.
    sent: BTreeMap<(usize, u64), Instant>,
    messages: HashMap<u64, Parcel>,
    next_token: u64,
    /// Until then nothing is sent: the broker said that nobody listens.
    pause_until: Option<Instant>,
}

/// How long to wait when the broker says that no hub is subscribed.
const NO_SUBSCRIBER_PAUSE: Duration = Duration::from_secs(1);

impl Core {
    /// One step: takes an action at `now` and returns what to send.
    pub fn step(&mut self, action: Action, now: Instant) -> Vec<Parcel> {
        match action {
            Action::Owed(places) => {
                for place in places {
                    let key = self.key(place);
                    self.waiting.insert(key, place);
                }
            }
            Action::LinkUp => self.is_up = true,
            Action::LinkDown => {
                self.is_up = false;
                self.messages.clear();
                self.take_back(|_, _| true);
            }
            Action::Published { token, outcome } => self.published(token, outcome, now),
            Action::Receipt(receipt) => self.receipt(&receipt, now),
            Action::Tick => self.take_back(|_, sent| now.duration_since(sent) >= RESEND_AFTER),
        }
        self.send(now)
    }

    /// Events sent or waiting.
    pub fn owed_count(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    fn key(&mut self, (epoch, sequence): Place) -> (usize, u64) {
        let at = self.epochs.iter().position(|&e| e == epoch).unwrap_or_else(|| {
            self.epochs.push(epoch);
            self.epochs.len() - 1
        });
        (at, sequence)
    }

    /// Moves what was sent and matches back to what waits.
    fn take_back(&mut self, matches: impl Fn(&(usize, u64), Instant) -> bool) {
        let back: Vec<(usize, u64)> =
            self.sent.iter().filter(|(key, sent)| matches(key, **sent)).map(|(key, _)| *key).collect();
        for key in back {
            self.sent.remove(&key);
            self.waiting.insert(key, (self.epochs[key.0], key.1));
        }
    }

    fn published(&mut self, token: u64, outcome: PublishOutcome, now: Instant) {
        let Some(message) = self.messages.remove(&token) else { return };
        if outcome == PublishOutcome::Taken {
            // It proves nothing: only a receipt does. A lost message is sent again after RESEND_AFTER.
            return;
        }
        let (epoch, first) = self.key(message.from);
        let last = first + message.count as u64;
        self.take_back(|key, _| key.0 == epoch && (first..last).contains(&key.1));
        self.pause_until = Some(now + NO_SUBSCRIBER_PAUSE);
    }

    fn receipt(&mut self, receipt: &Receipt, now: Instant) {
        let Some(epoch) = self.epochs.iter().position(|&e| e == receipt.epoch) else { return };
        self.waiting.retain(|key, _| key.0 != epoch || !receipt.covers(key.1));
        self.sent.retain(|key, _| key.0 != epoch || !receipt.covers(key.1));
        // What the hub misses although it was sent a while ago is lost; what was just sent may be on its way.
        let grace = Duration::from_secs(2);
        self.take_back(|key, sent| {
            key.0 == epoch
                && key.1 <= receipt.upto
                && !receipt.covers(key.1)
                && now.duration_since(sent) >= grace
        });
    }

    fn send(&mut self, now: Instant) -> Vec<Parcel> {
        let mut sends = Vec::new();
        if !self.is_up || self.pause_until.is_some_and(|until| now < until) {
            return sends;
        }
        while self.sent.len() < UPLINK_WINDOW_EVENTS {
            let Some((&first, &from)) = self.waiting.first_key_value() else { break };
            let mut count = 0;
            while count < BATCH_EVENTS_MAX
                && self.waiting.remove(&(first.0, first.1 + count as u64)).is_some()
            {
                self.sent.insert((first.0, first.1 + count as u64), now);
                count += 1;
            }
            self.next_token += 1;
            let send = Parcel { token: self.next_token, from, count };
            self.messages.insert(send.token, send);
            sends.push(send);
        }
        sends
    }
}

/// Counters of the uplink.
pub struct Metrics {
    accepted: IntCounter,
    refused: IntCounter,
    sent: IntCounter,
    receipts: IntCounter,
    set_aside: IntCounter,
    owed: IntGauge,
    link_up: IntGauge,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("camnet_edge_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("camnet_edge_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            accepted: counter("events_accepted_total", "Events that the outbox made durable")?,
            refused: counter("events_not_accepted_total", "Events that the outbox could not take")?,
            sent: counter("events_sent_total", "Events handed to the broker, resends included")?,
            receipts: counter("receipts_total", "Receipts from the hub")?,
            set_aside: counter("events_set_aside_total", "Events that the hub says it set aside")?,
            owed: gauge("events_owed", "Events that no receipt covers yet")?,
            link_up: gauge("link_up", "1 while the MQTT link is up")?,
        })
    }
}

/// The outbox's owner: serves those who make events and talks to the hub until `shutdown`.
pub struct Uplink {
    pub box_id: BoxId,
    pub store: Store,
    pub room: Room,
    pub accepts: mpsc::Receiver<Accept>,
    pub link: LinkSender,
    pub link_events: mpsc::Receiver<LinkEvent>,
    pub metrics: Metrics,
}

/// The retained word of a box about itself, and its last will.
pub fn status_body(online: bool) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({ "online": online })).expect("only text keys")
}

impl Uplink {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut core = Core::default();
        let mut unsent: VecDeque<OutMessage> = VecDeque::new();
        let sends = core.step(Action::Owed(self.store.unreceipted().collect()), Instant::now());
        self.queue(sends, &mut unsent);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut cleanup = tokio::time::interval(Duration::from_secs(600));
        let mut batch = Vec::new();
        loop {
            self.flush(&mut unsent);
            let sends = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(event) = self.link_events.recv() => self.link_event(event, &mut core, &mut unsent),
                count = self.accepts.recv_many(&mut batch, OUTBOX_QUEUE_MAX) => {
                    if count == 0 {
                        break;
                    }
                    let places = self.accept(std::mem::take(&mut batch));
                    core.step(Action::Owed(places), Instant::now())
                }
                _ = tick.tick() => {
                    let mut sends = core.step(Action::Tick, Instant::now());
                    // The disk may have filled meanwhile.
                    let places = self.accept(Vec::new());
                    sends.extend(core.step(Action::Owed(places), Instant::now()));
                    sends
                }
                _ = cleanup.tick() => {
                    self.store.drop_old(SystemTime::now());
                    Vec::new()
                }
            };
            self.queue(sends, &mut unsent);
            self.metrics.owed.set(core.owed_count() as i64);
        }
        self.stop(batch);
    }

    /// What was accepted in the meantime is still made durable; the rest is told that the outbox closes.
    fn stop(mut self, mut batch: Vec<Accept>) {
        self.accepts.close();
        while let Ok(accept) = self.accepts.try_recv() {
            batch.push(accept);
        }
        self.accept(batch);
        if let Err(error) = self.store.sync() {
            tracing::error!(%error, "the outbox could not be closed cleanly");
        }
    }

    /// Makes a batch durable and answers those who wait. The fsync is short and this task has nothing better to
    /// do meanwhile; it moves off the async threads all the same.
    fn accept(&mut self, batch: Vec<Accept>) -> Vec<Place> {
        let now = Time::now();
        off_async(|| self.room.make(&mut self.store, now));
        let news = self.room.news(clock::quality(), now);
        if batch.is_empty() && news.is_empty() {
            return Vec::new();
        }
        let (mut events, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|a| (a.event, a.done)).unzip();
        events.extend(news);
        let result = off_async(|| self.store.accept(events));
        match &result {
            Ok(_) => self.room.accepted(),
            Err(error) if !waiting.is_empty() => self.room.refused(&error.to_string(), now),
            Err(_) => {}
        }
        if let Err(OutboxError::Disk(error)) = &result {
            tracing::error!(%error, "the outbox can't be written");
            if let Err(error) = off_async(|| self.store.reopen()) {
                tracing::error!(%error, "the outbox can't be opened anew");
            }
        }
        let counter = if result.is_ok() { &self.metrics.accepted } else { &self.metrics.refused };
        counter.inc_by(waiting.len() as u64);
        for done in waiting {
            // Whoever gave up waiting changes nothing about the event.
            let _ = done.send(result.as_ref().map(|_| ()).map_err(Clone::clone));
        }
        result.unwrap_or_default()
    }

    fn link_event(
        &mut self,
        event: LinkEvent,
        core: &mut Core,
        unsent: &mut VecDeque<OutMessage>,
    ) -> Vec<Parcel> {
        let now = Instant::now();
        match event {
            LinkEvent::Up { connection } => {
                tracing::info!(connection, owed = core.owed_count(), "mqtt link is up");
                self.metrics.link_up.set(1);
                unsent.push_back(self.status(true));
                core.step(Action::LinkUp, now)
            }
            LinkEvent::Down { .. } => {
                self.metrics.link_up.set(0);
                unsent.clear();
                core.step(Action::LinkDown, now)
            }
            LinkEvent::Published { token, outcome, .. } => {
                if let PublishOutcome::Refused(reason) = &outcome {
                    tracing::warn!(reason, "the broker refused a publish");
                }
                core.step(Action::Published { token, outcome }, now)
            }
            LinkEvent::Message(message) => {
                let sends = self.message(&message.topic, &message.payload, core, now);
                // Receipts and commands are repeated by the hub as needed: nothing is kept for them here.
                let (link, ack) = (self.link.clone(), message.ack);
                tokio::spawn(async move { link.ack(ack).await });
                sends
            }
        }
    }

    fn message(&mut self, topic: &str, payload: &[u8], core: &mut Core, now: Instant) -> Vec<Parcel> {
        match topic.parse::<Topic>() {
            Ok(topic) if topic.kind == TopicKind::Receipt => match Receipt::from_json(payload) {
                Ok(receipt) => self.receipt(receipt, core, now),
                Err(error) => {
                    tracing::warn!(%error, "receipt can't be read");
                    Vec::new()
                }
            },
            Ok(topic) if topic.kind == TopicKind::Command => self.command(payload, core, now),
            _ => {
                tracing::warn!(topic, "message on an unexpected topic");
                Vec::new()
            }
        }
    }

    fn receipt(&mut self, receipt: Receipt, core: &mut Core, now: Instant) -> Vec<Parcel> {
        self.metrics.receipts.inc();
        for refused in &receipt.refused {
            tracing::warn!(epoch = %receipt.epoch, sequence = refused.0, reason = refused.1, "the hub set an event aside");
            self.metrics.set_aside.inc();
        }
        match off_async(|| self.store.receipt(&receipt)) {
            Ok(asked) => {
                let mut sends = core.step(Action::Receipt(receipt), now);
                if !asked.is_empty() {
                    tracing::info!(events = asked.len(), "the hub asks again for receipted events");
                    sends.extend(core.step(Action::Owed(asked), now));
                }
                sends
            }
            Err(error) => {
                tracing::error!(%error, "a receipt could not be noted");
                Vec::new()
            }
        }
    }

    fn command(&mut self, payload: &[u8], core: &mut Core, now: Instant) -> Vec<Parcel> {
        match serde_json::from_slice::<Command>(payload) {
            Ok(Command::NewEpoch { epoch, reason, .. }) if epoch == self.store.epoch() => {
                tracing::warn!(%epoch, reason, "the hub asks for a new epoch");
                let before: Vec<Place> = self.store.unreceipted().collect();
                if let Err(error) = off_async(|| self.store.new_epoch(Time::now(), clock::quality())) {
                    tracing::error!(%error, "no new epoch");
                }
                let owed = self.store.unreceipted().filter(|place| !before.contains(place)).collect();
                core.step(Action::Owed(owed), now)
            }
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "command can't be read");
                Vec::new()
            }
        }
    }

    /// Reads what is to be sent and queues it as messages. Events that are too large together go in several.
    fn queue(&mut self, sends: Vec<Parcel>, unsent: &mut VecDeque<OutMessage>) {
        for send in sends {
            let events = match off_async(|| self.store.read(send.from, send.count)) {
                Ok(events) => events,
                Err(error) => {
                    tracing::error!(%error, "events could not be read from the outbox");
                    continue;
                }
            };
            let mut rest = events.as_slice();
            while !rest.is_empty() {
                let mut bytes = 0;
                let fits = rest.iter().take_while(|(_, json)| {
                    bytes += json.len() + 1;
                    bytes <= BATCH_BYTES_MAX
                });
                let (now, later) = rest.split_at(fits.count().max(1));
                let token = if later.is_empty() { send.token } else { 0 };
                unsent.push_back(self.message_of(send.from.0, now, token));
                rest = later;
            }
        }
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
        }
    }

    fn status(&self, online: bool) -> OutMessage {
        OutMessage {
            topic: Topic::new(&self.box_id, TopicKind::Status).to_string(),
            payload: status_body(online),
            content_type: Some("application/json"),
            user_properties: Vec::new(),
            retain: true,
            token: 0,
        }
    }

    /// Hands over as much as the link takes now; the rest is tried again on the next turn.
    fn flush(&self, unsent: &mut VecDeque<OutMessage>) {
        while let Some(message) = unsent.pop_front() {
            match self.link.try_publish(message) {
                Ok(()) => {}
                Err(Some(message)) => {
                    unsent.push_front(message);
                    return;
                }
                Err(None) => return,
            }
        }
    }
}

/// Runs blocking work without stalling the runtime's other tasks.
fn off_async<T>(work: impl FnOnce() -> T) -> T {
    if tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Epoch = Epoch(1);
    const B: Epoch = Epoch(2);

    fn places(epoch: Epoch, sequences: std::ops::RangeInclusive<u64>) -> Vec<Place> {
        sequences.map(|s| (epoch, s)).collect()
    }

    fn spans(sends: &[Parcel]) -> Vec<(Epoch, u64, usize)> {
        sends.iter().map(|s| (s.from.0, s.from.1, s.count)).collect()
    }

    fn receipt(epoch: Epoch, upto: u64, missing: &[(u64, u64)]) -> Action {
        Action::Receipt(Receipt { epoch, upto, missing: missing.to_vec(), refused: Vec::new() })
    }

    #[test]
    fn nothing_is_sent_while_the_link_is_down_and_all_of_it_when_it_comes_up() {
        let (mut core, now) = (Core::default(), Instant::now());
        assert_eq!(core.step(Action::Owed(places(A, 5..=7)), now), []);
        assert_eq!(core.step(Action::Owed(places(B, 1..=1)), now), []);
        assert_eq!(spans(&core.step(Action::LinkUp, now)), [(A, 5, 3), (B, 1, 1)]);
        assert_eq!(core.step(Action::LinkDown, now), []);
        assert_eq!(spans(&core.step(Action::LinkUp, now)), [(A, 5, 3), (B, 1, 1)], "sent again");
    }

    #[test]
    fn a_publish_that_was_taken_is_still_owed_until_the_receipt() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        let sends = core.step(Action::Owed(places(A, 1..=3)), now);
        let taken = Action::Published { token: sends[0].token, outcome: PublishOutcome::Taken };
        assert_eq!(core.step(taken, now), []);
        assert_eq!(core.owed_count(), 3);
        let later = now + RESEND_AFTER;
        assert_eq!(spans(&core.step(Action::Tick, later)), [(A, 1, 3)], "no receipt came");
        core.step(receipt(A, 3, &[]), later);
        assert_eq!(core.owed_count(), 0);
        assert_eq!(core.step(Action::Tick, later + RESEND_AFTER), []);
    }

    #[test]
    fn what_the_hub_misses_is_sent_again_but_not_what_was_just_sent() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        core.step(Action::Owed(places(A, 1..=9)), now);
        assert_eq!(core.step(receipt(A, 9, &[(2, 3)]), now), [], "it may be on its way");
        let later = now + Duration::from_secs(3);
        assert_eq!(spans(&core.step(receipt(A, 9, &[(2, 3)]), later)), [(A, 2, 2)]);
    }

    #[test]
    fn nobody_subscribed_means_a_pause_and_then_again() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        let sends = core.step(Action::Owed(places(A, 1..=2)), now);
        let lost = Action::Published { token: sends[0].token, outcome: PublishOutcome::NoSubscriber };
        assert_eq!(core.step(lost, now), []);
        assert_eq!(core.step(Action::Tick, now + NO_SUBSCRIBER_PAUSE / 2), []);
        assert_eq!(spans(&core.step(Action::Tick, now + NO_SUBSCRIBER_PAUSE)), [(A, 1, 2)]);
    }

    #[test]
    fn the_window_bounds_what_is_on_its_way() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        let many = UPLINK_WINDOW_EVENTS as u64 * 3;
        let sends = core.step(Action::Owed(places(A, 1..=many)), now);
        let on_its_way: usize = sends.iter().map(|s| s.count).sum();
        assert!((UPLINK_WINDOW_EVENTS..UPLINK_WINDOW_EVENTS + BATCH_EVENTS_MAX).contains(&on_its_way));
        let sends = core.step(receipt(A, 1000, &[]), now);
        assert!(!sends.is_empty(), "a receipt makes room");
    }
}
