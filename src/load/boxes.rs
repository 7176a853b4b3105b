//! A box of a load run: its own connection and certificate, events at a pace, an outbox in memory.
//!
//! Owns the box's events until a receipt covers them. What is sent when is decided by `edge::uplink::Core`, the very
//! one of a real box; may not decide that itself.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::events::{Mix, SOFTWARE, event, mixed};
use super::report::Totals;
use crate::edge::outbox::Span;
use crate::edge::uplink::{Action, Core, Parcel, status_body};
use crate::limits::{BATCH_BYTES_MAX, MQTT_BOX_INFLIGHT_MAX};
use crate::model::{Boot, BoxId, DeviceId, Epoch, EventData, Previous, Time};
use crate::mqtt::{self, LinkConfig, LinkEvent, LinkSender, OutMessage, PublishOutcome};
use crate::wire::{self, BoxStatus, Receipt, Topic, TopicKind};

/// What all boxes of a run have in common.
pub struct Plan {
    pub broker: String,
    /// Between two events of one box.
    pub pause: Duration,
    /// Events that wait when the box comes back, and over how long they were made.
    pub backlog: u64,
    pub backlog_over: Duration,
    pub began: Time,
    /// Fresh events are made from here on …
    pub go: CancellationToken,
    /// … to here.
    pub enough: CancellationToken,
    pub stop: CancellationToken,
}

impl Plan {
    /// Of boxes that say what they are told to, at once.
    pub fn of_words(broker: String) -> Self {
        Self {
            broker,
            pause: Duration::MAX,
            backlog: 0,
            backlog_over: Duration::ZERO,
            began: Time::now(),
            go: CancellationToken::new(),
            enough: CancellationToken::new(),
            stop: CancellationToken::new(),
        }
    }
}

/// What a box has to say.
pub enum Says {
    /// A ward's usual mix, at the plan's pace.
    Mix(Box<Mix>),
    /// What comes in here, when it comes; `None` is the box itself.
    Told(mpsc::Receiver<(Option<DeviceId>, EventData)>),
}

/// What the box has said in the end.
pub struct Said {
    pub box_id: BoxId,
    pub epoch: Epoch,
    /// Sequences 1 to this.
    pub last: u64,
    /// So many of them a receipt covered.
    pub receipted: u64,
}

/// Runs a box until `plan.stop`. While `linked` is false it has no connection: it went without a word.
pub async fn run(
    box_id: BoxId,
    says: Says,
    tls: Arc<rustls::ClientConfig>,
    plan: Arc<Plan>,
    totals: Arc<Totals>,
    linked: watch::Receiver<bool>,
) -> Said {
    let (mix, told) = match says {
        Says::Mix(mix) => (Some(mix), None),
        Says::Told(told) => (None, Some(told)),
    };
    let load_box = LoadBox {
        epoch: Epoch::draw(),
        core: Core::default(),
        last: 0,
        fresh: BTreeMap::new(),
        old: plan.backlog,
        unsent: VecDeque::new(),
        link: Link::start(&box_id, &plan, tls.clone()),
        was_up: false,
        box_id,
        mix,
        plan,
        totals,
        tls,
    };
    load_box.run(told, linked).await
}

/// The connection, and what it tells.
struct Link {
    sender: LinkSender,
    events: mpsc::Receiver<LinkEvent>,
    task: JoinHandle<()>,
}

impl Link {
    fn start(box_id: &BoxId, plan: &Plan, tls: Arc<rustls::ClientConfig>) -> Self {
        let (sender, events, task) = mqtt::start(link_config(box_id, plan, tls), plan.stop.clone());
        Self { sender, events, task }
    }
}

fn link_config(box_id: &BoxId, plan: &Plan, tls: Arc<rustls::ClientConfig>) -> LinkConfig {
    let topic = |kind| Topic::new(box_id, kind).to_string();
    LinkConfig {
        address: plan.broker.clone(),
        client_id: box_id.to_string(),
        tls: Some(tls),
        subscriptions: vec![topic(TopicKind::Receipt), topic(TopicKind::Command)],
        will: Some((topic(TopicKind::Status), status_body(false))),
        inflight_max: MQTT_BOX_INFLIGHT_MAX,
        session_keep: None,
        login: None,
    }
}

/// A fresh event that no receipt covers.
struct Fresh {
    accepted: Instant,
    json: Vec<u8>,
}

/// What waits for room in the link: rendered only when there is some, so that a backlog costs no memory.
enum Unsent {
    Status,
    Events { parcel: Parcel },
}

struct LoadBox {
    box_id: BoxId,
    mix: Option<Box<Mix>>,
    plan: Arc<Plan>,
    totals: Arc<Totals>,
    tls: Arc<rustls::ClientConfig>,
    link: Link,
    was_up: bool,
    epoch: Epoch,
    core: Core,
    last: u64,
    fresh: BTreeMap<u64, Fresh>,
    /// Backlog events without a receipt. They are sequences 1 to `plan.backlog` and are made again when sent.
    old: u64,
    unsent: VecDeque<Unsent>,
}

impl LoadBox {
    async fn run(
        mut self,
        mut told: Option<mpsc::Receiver<(Option<DeviceId>, EventData)>>,
        mut linked: watch::Receiver<bool>,
    ) -> Said {
        self.last = self.plan.backlog;
        count(&self.totals.accepted, self.last);
        if self.last > 0 {
            let parcels = self.owe(1);
            self.queue(parcels);
        }
        let plan = self.plan.clone();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pace: Option<tokio::time::Interval> = None;
        loop {
            self.flush();
            let parcels = tokio::select! {
                biased;
                () = plan.stop.cancelled() => break,
                Ok(()) = linked.changed() => {
                    let is_linked = *linked.borrow_and_update();
                    self.relink(is_linked)
                }
                Some(event) = self.link.events.recv() => self.link_event(event),
                () = plan.go.cancelled(), if pace.is_none() => {
                    // Boxes do not speak in step.
                    let share = (mixed(self.epoch.0, 0) % 1000) as f64 / 1000.0;
                    let first = tokio::time::Instant::now() + plan.pause.mul_f64(share);
                    pace = Some(tokio::time::interval_at(first, plan.pause));
                    Vec::new()
                }
                () = due(pace.as_mut()), if self.mix.is_some() && !plan.enough.is_cancelled() => self.make(),
                Some((device, data)) = next(told.as_mut()) => self.tell(device, data),
                _ = tick.tick() => self.core.step(Action::Tick, Instant::now()),
            };
            self.queue(parcels);
        }
        let _ = self.link.task.await;
        let owed = self.fresh.len() as u64 + self.old;
        Said { box_id: self.box_id, epoch: self.epoch, last: self.last, receipted: self.last - owed }
    }

    /// Without a word, or anew.
    fn relink(&mut self, is_linked: bool) -> Vec<Parcel> {
        self.link.task.abort();
        self.unsent.clear();
        if is_linked {
            self.link = Link::start(&self.box_id, &self.plan, self.tls.clone());
        }
        self.core.step(Action::LinkDown, Instant::now())
    }

    fn make(&mut self) -> Vec<Parcel> {
        let Some(mix) = self.mix.as_ref().filter(|_| !self.plan.enough.is_cancelled()) else {
            return Vec::new();
        };
        let json = wire::encode(&mix.event(self.epoch, self.last + 1, Time::now()));
        self.accept(json)
    }

    fn tell(&mut self, device: Option<DeviceId>, data: EventData) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        if self.last == 0 {
            parcels =
                self.accept_new(None, EventData::Boot(Boot { previous: None, software: SOFTWARE.into() }));
        }
        parcels.extend(self.accept_new(device, data));
        parcels
    }

    fn accept_new(&mut self, device: Option<DeviceId>, data: EventData) -> Vec<Parcel> {
        let now = Time::now();
        let id = uuid::Uuid::now_v7();
        let json = wire::encode(&event(&self.box_id, device, (self.epoch, self.last + 1), (id, now), data));
        self.accept(json)
    }

    fn accept(&mut self, json: Vec<u8>) -> Vec<Parcel> {
        self.last += 1;
        self.fresh.insert(self.last, Fresh { accepted: Instant::now(), json });
        count(&self.totals.accepted, 1);
        self.owe(self.last)
    }

    /// Events `first` to the last one are in the outbox.
    fn owe(&mut self, first: u64) -> Vec<Parcel> {
        let span = Span { epoch: self.epoch, first, last: self.last };
        self.core.step(Action::Owed(vec![span]), Instant::now())
    }

    fn link_event(&mut self, event: LinkEvent) -> Vec<Parcel> {
        let now = Instant::now();
        match event {
            LinkEvent::Up { .. } => {
                if !std::mem::replace(&mut self.was_up, true) {
                    count(&self.totals.connected, 1);
                }
                self.unsent.push_back(Unsent::Status);
                self.core.step(Action::LinkUp, now)
            }
            LinkEvent::Down { .. } => {
                count(&self.totals.links_lost, 1);
                self.unsent.clear();
                self.core.step(Action::LinkDown, now)
            }
            LinkEvent::Published { token, outcome, .. } => {
                if let PublishOutcome::Refused(reason) = &outcome {
                    tracing::warn!(box_id = %self.box_id, reason, "the broker refused a publish");
                }
                self.core.step(Action::Published { token, outcome }, now)
            }
            LinkEvent::Message(message) => {
                let parcels = match message.topic.parse::<Topic>().map(|topic| topic.kind) {
                    Ok(TopicKind::Receipt) => self.receipt(&message.payload, now),
                    _ => Vec::new(),
                };
                let _ = self.link.sender.ack(vec![message.ack]);
                parcels
            }
        }
    }

    fn receipt(&mut self, payload: &[u8], now: Instant) -> Vec<Parcel> {
        let receipt = match Receipt::from_json(payload) {
            Ok(receipt) if receipt.epoch == self.epoch => receipt,
            Ok(_) => return Vec::new(),
            Err(error) => {
                tracing::warn!(box_id = %self.box_id, %error, "receipt can't be read");
                return Vec::new();
            }
        };
        count(&self.totals.receipts, 1);
        count(&self.totals.refused, receipt.refused.len() as u64);
        let mut covered = 0;
        self.fresh.retain(|&sequence, event| {
            let is_covered = receipt.covers(sequence);
            if is_covered {
                covered += 1;
                self.totals.fresh.add(now.duration_since(event.accepted));
            }
            !is_covered
        });
        let old = self.old_uncovered(&receipt).min(self.old);
        count(&self.totals.old_receipted, self.old - old);
        covered += self.old - old;
        self.old = old;
        count(&self.totals.receipted, covered);
        self.core.step(Action::Receipt(receipt), now)
    }

    /// Backlog events that the receipt leaves open.
    fn old_uncovered(&self, receipt: &Receipt) -> u64 {
        let backlog = self.plan.backlog;
        let upto = receipt.upto.min(backlog);
        let missing = |&(from, to): &(u64, u64)| (to.min(upto) + 1).saturating_sub(from);
        backlog - upto + receipt.missing.iter().map(missing).sum::<u64>()
    }

    fn queue(&mut self, parcels: Vec<Parcel>) {
        self.unsent.extend(parcels.into_iter().map(|parcel| Unsent::Events { parcel }));
    }

    /// Hands over as much as the link takes now.
    fn flush(&mut self) {
        while let Some(unsent) = self.unsent.pop_front() {
            let taken = match &unsent {
                Unsent::Status => self.link.sender.try_publish(self.status()),
                Unsent::Events { parcel } => self.send(*parcel),
            };
            match taken {
                Ok(()) => {}
                Err(Some(_)) => {
                    self.unsent.push_front(unsent);
                    return;
                }
                Err(None) => return,
            }
        }
    }

    /// One message for the parcel; events that a receipt has covered meanwhile are left out.
    fn send(&self, parcel: Parcel) -> Result<(), Option<OutMessage>> {
        let (epoch, first) = parcel.from;
        let events = self.events(first..first + parcel.count as u64);
        let Some(((from, _), (to, _))) = events.first().zip(events.last()) else { return Ok(()) };
        let bytes: usize = events.iter().map(|(_, json)| json.len() + 1).sum();
        debug_assert!(bytes <= BATCH_BYTES_MAX, "the mix has small events only");
        let (payload, content_type) = match events.as_slice() {
            [(_, json)] => (json.clone(), wire::CONTENT_TYPE_EVENT),
            _ => {
                let bodies = events.iter().map(|(_, json)| json.as_slice());
                (wire::encode_batch(bodies), wire::CONTENT_TYPE_BATCH)
            }
        };
        self.link.sender.try_publish(OutMessage {
            topic: Topic::new(&self.box_id, TopicKind::Event).to_string(),
            payload,
            content_type: Some(content_type),
            user_properties: vec![
                (wire::PROPERTY_EPOCH.into(), epoch.to_string()),
                (wire::PROPERTY_SEQUENCES.into(), format!("{from}-{to}")),
            ],
            retain: false,
            token: parcel.token,
            correlation: None,
        })?;
        count(&self.totals.sent, events.len() as u64);
        count(&self.totals.messages, 1);
        Ok(())
    }

    fn events(&self, sequences: Range<u64>) -> Vec<(u64, Vec<u8>)> {
        let json = |sequence: u64| {
            if sequence <= self.plan.backlog {
                let mix = self.mix.as_ref()?;
                return Some(wire::encode(&mix.event(self.epoch, sequence, self.old_time(sequence))));
            }
            self.fresh.get(&sequence).map(|event| event.json.clone())
        };
        sequences.filter_map(|sequence| Some((sequence, json(sequence)?))).collect()
    }

    /// Evenly over the time that the box was offline.
    fn old_time(&self, sequence: u64) -> Time {
        let back = self.plan.backlog_over.as_secs_f64() * (self.plan.backlog - sequence + 1) as f64
            / self.plan.backlog as f64;
        self.plan.began - SignedDuration::from_millis((back * 1000.0) as i64)
    }

    fn status(&self) -> OutMessage {
        let newest = Previous { epoch: self.epoch, last_sequence: self.last };
        let status = BoxStatus {
            online: true,
            disk: None,
            epochs: (self.last > 0).then_some(newest).into_iter().collect(),
        };
        OutMessage {
            topic: Topic::new(&self.box_id, TopicKind::Status).to_string(),
            payload: status.to_json(),
            content_type: Some("application/json"),
            user_properties: Vec::new(),
            retain: true,
            token: 0,
            correlation: None,
        }
    }
}

async fn due(pace: Option<&mut tokio::time::Interval>) {
    match pace {
        Some(pace) => {
            pace.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn next<T>(told: Option<&mut mpsc::Receiver<T>>) -> Option<T> {
    match told {
        Some(told) => told.recv().await,
        None => std::future::pending().await,
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
