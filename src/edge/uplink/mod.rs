//! Brings the outbox's events to the hub, and the hub's receipts to the outbox.
//!
//! Owns what is on its way and when it is sent again. May not forget an event: only a receipt makes the
//! outbox do that.
//!
//! Three layers: [`core`] decides what is sent when; [`side`] joins it to the outbox and speaks the wire, still without
//! network, threads or a clock, which is what the simulation drives; [`Uplink::run`] drives that with the real link.

pub mod core;
pub mod side;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus::{IntCounter, IntGauge, Registry};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clock;
use super::lamp::command::Orders;
use super::outbox::{Accept, EpochStart, Store};
use super::room::Room;
use super::still::{Asked, Stills};
use crate::limits::{BOX_STATUS_REPEAT, OUTBOX_QUEUE_MAX};
use crate::metrics::Part;
use crate::model::{BoxId, Time};
use crate::mqtt::{LinkEvent, LinkSender, OutMessage, PublishOutcome};
use crate::wire::{BoxStatus, CommandResult};
pub use core::{Action, Core, Parcel};
pub use side::{BoxSide, DeviceCommand};

/// Counters of the uplink. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    accepted: IntCounter,
    refused: IntCounter,
    sent: IntCounter,
    receipts: IntCounter,
    set_aside: IntCounter,
    lost: IntCounter,
    owed: IntGauge,
    link_up: IntGauge,
    link_losses: IntCounter,
    receipt_ms: IntGauge,
}

impl Metrics {
    /// Events without a receipt.
    pub fn owed(&self) -> u64 {
        u64::try_from(self.owed.get()).unwrap_or(0)
    }

    pub fn link_losses(&self) -> u64 {
        self.link_losses.get()
    }

    /// From sending an event to its receipt, of the newest one, milliseconds; None before the first.
    pub fn receipt_ms(&self) -> Option<u64> {
        u64::try_from(self.receipt_ms.get()).ok().filter(|&ms| ms > 0)
    }

    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let part = Part::new(registry, "camnet_edge_");
        Ok(Self {
            accepted: part.counter("events_accepted_total", "Events that the outbox made durable")?,
            refused: part.counter("events_not_accepted_total", "Events that the outbox could not take")?,
            sent: part.counter("events_sent_total", "Events handed to the broker, resends included")?,
            receipts: part.counter("receipts_total", "Receipts from the hub")?,
            set_aside: part.counter("events_set_aside_total", "Events that the hub says it set aside")?,
            lost: part
                .counter("events_lost_total", "Events that the box's disk lost before the hub had them")?,
            owed: part.gauge("events_owed", "Events that no receipt covers yet")?,
            link_up: part.gauge("link_up", "1 while the MQTT link is up")?,
            link_losses: part.counter("link_losses_total", "Times that the MQTT link was lost")?,
            receipt_ms: IntGauge::new("receipt_ms", "Not shown: the box tells it with its health")?,
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
    /// Where lamp commands go, and where what became of them comes from.
    pub orders: Orders,
    /// Where commands for stills go, and where their results are sent.
    pub stills: Stills,
    pub still_results: mpsc::Sender<CommandResult>,
    pub results: mpsc::Receiver<CommandResult>,
    pub signs: Signs,
    pub metrics: Metrics,
}

/// What the hub says to the box about itself, for who looks after that. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Signs {
    /// The hub wants the box to ask.
    pub ask: Arc<Notify>,
    /// A receipt of this start has come.
    pub receipted: CancellationToken,
}

/// A box's last will.
pub fn status_body(online: bool) -> Vec<u8> {
    BoxStatus { online, ..BoxStatus::default() }.to_json()
}

impl Uplink {
    pub async fn run(self, shutdown: CancellationToken) {
        let Self {
            box_id,
            store,
            room,
            accepts,
            link,
            link_events,
            orders,
            stills,
            still_results,
            results,
            signs,
            metrics,
        } = self;
        let side = off_async(|| BoxSide::new(box_id, store, metrics, Instant::now()));
        let unsent = VecDeque::new();
        let commands = Commands { orders, stills, still_results };
        let running = Running { side, room, accepts, link, link_events, commands, results, signs, unsent };
        running.run(shutdown).await;
    }
}

/// Where commands go.
struct Commands {
    orders: Orders,
    stills: Stills,
    still_results: mpsc::Sender<CommandResult>,
}

impl Commands {
    /// Never waits; the result, if the command gets no further.
    fn hand_over(&self, command: DeviceCommand) -> Result<(), CommandResult> {
        match command {
            DeviceCommand::Lamp(command) => self.orders.hand_over(command),
            DeviceCommand::Still(command) => {
                self.stills.hand_over(Asked::Still, command, &self.still_results)
            }
            DeviceCommand::View(command) => self.stills.hand_over(Asked::View, command, &self.still_results),
        }
    }
}

/// [`BoxSide`] with its queues and the link.
struct Running {
    side: BoxSide,
    room: Room,
    accepts: mpsc::Receiver<Accept>,
    link: LinkSender,
    link_events: mpsc::Receiver<LinkEvent>,
    commands: Commands,
    results: mpsc::Receiver<CommandResult>,
    signs: Signs,
    /// Messages that the link did not take yet.
    unsent: VecDeque<OutMessage>,
}

impl Running {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut cleanup = tokio::time::interval(BOX_STATUS_REPEAT);
        let mut batch = Vec::new();
        loop {
            self.flush();
            let messages = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(event) = self.link_events.recv() => self.link_event(event),
                count = self.accepts.recv_many(&mut batch, OUTBOX_QUEUE_MAX) => {
                    if count == 0 {
                        break;
                    }
                    self.accept(std::mem::take(&mut batch))
                }
                Some(result) = self.results.recv() => vec![self.side.result(&result)],
                _ = tick.tick() => {
                    let mut messages = off_async(|| self.side.tick(Instant::now()));
                    // The disk may have filled meanwhile.
                    messages.extend(self.accept(Vec::new()));
                    messages
                }
                _ = cleanup.tick() => off_async(|| {
                    self.side.drop_old(SystemTime::now());
                    self.side.status()
                }),
            };
            self.unsent.extend(messages);
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
        if let Err(error) = off_async(|| self.side.sync()) {
            tracing::error!(%error, "the outbox could not be closed cleanly");
        }
    }

    /// Makes a batch durable and answers those who wait. The fsync is short and this task has nothing better to
    /// do meanwhile; it moves off the async threads all the same.
    fn accept(&mut self, batch: Vec<Accept>) -> Vec<OutMessage> {
        let now = Time::now();
        off_async(|| self.side.make_room(&mut self.room, now));
        let news = self.room.news(clock::quality(), now);
        if batch.is_empty() && news.is_empty() {
            return Vec::new();
        }
        let (mut events, waiting): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|accept| ((Uuid::now_v7(), accept.event), accept.done)).unzip();
        events.extend(news.into_iter().map(|event| (Uuid::now_v7(), event)));
        let (result, messages) = off_async(|| self.side.accept(events, Instant::now()));
        match &result {
            Ok(()) => self.room.accepted(),
            Err(error) if !waiting.is_empty() => self.room.refused(&error.to_string(), now),
            Err(_) => {}
        }
        for done in waiting {
            // Whoever gave up waiting changes nothing about the event.
            let _ = done.send(result.clone());
        }
        messages
    }

    fn link_event(&mut self, event: LinkEvent) -> Vec<OutMessage> {
        let now = Instant::now();
        match event {
            LinkEvent::Up { connection } => {
                tracing::info!(connection, owed = self.side.owed_count(), "mqtt link is up");
                off_async(|| self.side.link_up(now))
            }
            LinkEvent::Down { .. } => {
                self.unsent.clear();
                self.side.link_down(now);
                Vec::new()
            }
            LinkEvent::Published { token, outcome, .. } => {
                if let PublishOutcome::Refused(reason) = &outcome {
                    tracing::warn!(reason, "the broker refused a publish");
                }
                off_async(|| self.side.published(token, outcome, now))
            }
            LinkEvent::Message(message) => {
                let draw = || EpochStart::draw(Time::now(), clock::quality());
                let mut messages =
                    off_async(|| self.side.message(&message.topic, &message.payload, draw, now));
                for command in self.side.take_commands() {
                    if let Err(result) = self.commands.hand_over(command) {
                        tracing::warn!(why = result.why, "command refused");
                        messages.push(self.side.result(&result));
                    }
                }
                if self.side.take_told_to_ask() {
                    self.signs.ask.notify_one();
                }
                if self.side.has_receipt() {
                    self.signs.receipted.cancel();
                }
                // Receipts and commands are repeated by the hub as needed: nothing is kept for them here.
                let _ = self.link.ack(vec![message.ack]);
                messages
            }
        }
    }

    /// Hands over as much as the link takes now; the rest is tried again on the next turn.
    fn flush(&mut self) {
        while let Some(message) = self.unsent.pop_front() {
            match self.link.try_publish(message) {
                Ok(()) => {}
                Err(Some(message)) => {
                    self.unsent.push_front(message);
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
