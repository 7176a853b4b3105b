//! A broker as bad as they are: it forgets what it acknowledged, sends twice, and out of order.

use std::collections::{BTreeMap, VecDeque};

use camnet::model::Epoch;
use camnet::mqtt::{OutMessage, PublishOutcome};
use camnet::wire::{self, Decoded, Topic, TopicKind};
use uuid::Uuid;

use super::rng::Rng;

/// A connection's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Box(usize),
    Hub,
}

/// A message on its way to the hub.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub topic: String,
    pub payload: Vec<u8>,
    pub properties: Vec<(String, String)>,
}

impl Delivery {
    /// Whose events these are, by the message's properties.
    pub fn places(&self) -> Option<(String, Epoch, u64, u64)> {
        let property = |name: &str| self.properties.iter().find(|(key, _)| key == name).map(|(_, v)| v);
        let epoch = property(wire::PROPERTY_EPOCH)?.parse().ok()?;
        let (first, last) = property(wire::PROPERTY_SEQUENCES)?.split_once('-')?;
        let topic: Topic = self.topic.parse().ok()?;
        Some((topic.box_id.to_string(), epoch, first.parse().ok()?, last.parse().ok()?))
    }

    /// The ids of the events in it.
    pub fn ids(&self) -> Vec<Uuid> {
        let Ok(topic) = self.topic.parse::<Topic>() else { return Vec::new() };
        let decoded = wire::decode(&topic.box_id, &self.payload).into_iter();
        let ids = decoded.filter_map(|item| match item {
            Decoded::Event { event, .. } => Some(event.id),
            Decoded::Refused(refusal) => refusal.id,
        });
        ids.collect()
    }
}

/// Chances of a hundred that a message is lost, doubled, moved.
#[derive(Default, Clone, Copy)]
pub struct Badness {
    pub lose: u64,
    pub double: u64,
    pub shuffle: u64,
}

#[derive(Default)]
pub struct Broker {
    pub up: bool,
    pub badness: Badness,
    /// Who is connected, by connection.
    pub connections: BTreeMap<u64, Client>,
    /// The hub's session: None if the broker never knew it or forgot it.
    pub hub: Option<HubSession>,
    /// The last status of each box.
    pub retained: BTreeMap<String, Vec<u8>>,
}

#[derive(Default, Clone)]
pub struct HubSession {
    pub connection: Option<u64>,
    queue: VecDeque<Delivery>,
    inflight: BTreeMap<u16, Delivery>,
    next_id: u16,
}

/// As MQTT's receive maximum, small enough to be felt.
const INFLIGHT_MAX: usize = 20;

impl Broker {
    /// Takes a publish of a box; what the broker answers.
    pub fn publish(&mut self, message: OutMessage, rng: &mut Rng) -> PublishOutcome {
        if message.retain {
            self.retained.insert(message.topic.clone(), message.payload.clone());
        }
        let delivery =
            Delivery { topic: message.topic, payload: message.payload, properties: message.user_properties };
        self.route(delivery, rng)
    }

    fn route(&mut self, delivery: Delivery, rng: &mut Rng) -> PublishOutcome {
        let badness = self.badness;
        let Some(session) = &mut self.hub else { return PublishOutcome::NoSubscriber };
        if rng.percent(badness.lose) {
            return PublishOutcome::Taken;
        }
        if rng.percent(badness.double) {
            session.queue.push_back(delivery.clone());
        }
        if rng.percent(badness.shuffle) {
            let at = rng.below(session.queue.len() as u64 + 1) as usize;
            session.queue.insert(at, delivery);
        } else {
            session.queue.push_back(delivery);
        }
        PublishOutcome::Taken
    }

    /// The hub connects and subscribes: it gets what is retained, and what waited if its session is still known.
    pub fn hub_connected(&mut self, connection: u64) {
        let mut session = self.hub.take().unwrap_or_default();
        session.connection = Some(connection);
        for (topic, payload) in &self.retained {
            let delivery =
                Delivery { topic: topic.clone(), payload: payload.clone(), properties: Vec::new() };
            session.queue.push_back(delivery);
        }
        self.hub = Some(session);
    }

    /// The hub's connection is gone. `keep`: the broker still knows the session.
    pub fn hub_gone(&mut self, keep: bool) {
        let Some(mut session) = self.hub.take() else { return };
        if keep {
            session.connection = None;
            for (_, delivery) in std::mem::take(&mut session.inflight).into_iter().rev() {
                session.queue.push_front(delivery);
            }
            self.hub = Some(session);
        }
    }

    /// The box is gone: its last will.
    pub fn will(&mut self, topic: String, payload: Vec<u8>, rng: &mut Rng) {
        self.retained.insert(topic.clone(), payload.clone());
        self.route(Delivery { topic, payload, properties: Vec::new() }, rng);
    }

    /// What can go to the hub now.
    pub fn deliveries(&mut self) -> Vec<(u64, u16, Delivery)> {
        let mut out = Vec::new();
        let Some(session) = &mut self.hub else { return out };
        let Some(connection) = session.connection else { return out };
        while session.inflight.len() < INFLIGHT_MAX
            && let Some(delivery) = session.queue.pop_front()
        {
            // The smallest free id, as clients and brokers choose them: an id is soon used again.
            let id = (1..).find(|id| !session.inflight.contains_key(id)).expect("an id is free");
            session.next_id = id;
            session.inflight.insert(id, delivery.clone());
            out.push((connection, id, delivery));
        }
        out
    }

    /// The hub acknowledged; returns what the broker gives up with it.
    pub fn acked(&mut self, id: u16) -> Option<Delivery> {
        self.hub.as_mut()?.inflight.remove(&id)
    }

    /// No events on their way; boxes say how they are at all times.
    pub fn is_idle(&self) -> bool {
        let is_status = |delivery: &Delivery| delivery.properties.is_empty();
        self.hub
            .as_ref()
            .is_some_and(|session| session.queue.iter().chain(session.inflight.values()).all(is_status))
    }

    /// The broker dies. What it forgets: its sessions with all they acknowledged; perhaps what it retains.
    pub fn crash(&mut self, forgets: bool, forgets_retained: bool) {
        self.up = false;
        self.connections.clear();
        self.hub_gone(!forgets);
        if forgets_retained {
            self.retained.clear();
        }
    }
}

/// Which boxes a message of the hub is for.
pub fn receiver(topic: &str) -> Option<String> {
    let topic: Topic = topic.parse().ok()?;
    matches!(topic.kind, TopicKind::Receipt | TopicKind::Command).then(|| topic.box_id.to_string())
}
