//! Boxes, broker and hub in one thread, under a clock of our own and chance from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use camnet::edge::outbox::NewEvent;
use camnet::edge::uplink::{Metrics, status_body};
use camnet::journal::sim_disk::{AfterFailedSync, Fault, SimDisk};
use camnet::limits::BOX_STATUS_REPEAT;
use camnet::model::{EventData, Lamp, LampReason, Ranges, Time};
use camnet::mqtt::{OutMessage, PublishOutcome};
use camnet::wire::{Receipt, Topic, TopicKind};
use uuid::Uuid;

use super::broker::{Badness, Broker, Client, Delivery, receiver};
use super::camera::{Ring, later};
use super::hub::{Hub, Out, Ticket};
use super::mutation::Mutation;
use super::node::{CLOCK, Image, Node};
use super::oracle::{Offered, Oracle};
use super::rng::Rng;

/// What happens at a moment.
enum Event {
    Tick,
    Make(usize),
    ToBroker { connection: u64, message: OutMessage },
    PubAck { connection: u64, token: u64, outcome: PublishOutcome },
    ToHub { connection: u64, id: u16, delivery: Delivery },
    FromHub { connection: u64, topic: String, payload: Vec<u8> },
    HubAck { connection: u64, id: u16 },
    ToBox { connection: u64, topic: String, payload: Vec<u8> },
    HubCommit,
    Strike,
}

/// Kinds of trouble; each seed has some of them.
const TROUBLES: u64 = 16;

pub struct World {
    rng: Rng,
    base: Instant,
    now_ms: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    images: Vec<(usize, Image, BTreeSet<Uuid>)>,
    broker: Broker,
    broker_start_at: u64,
    hub: Hub,
    hub_image: Option<SimDisk>,
    /// The hub's disk was put back to an older state.
    hub_was_restored: bool,
    has_shared_epoch: bool,
    oracle: Oracle,
    next_connection: u64,
    last_arrival: BTreeMap<(u64, bool), u64>,
    troubles: u64,
    faults_until_ms: u64,
    is_healing: bool,
    last_words_said: bool,
    trace: bool,
    problem: Option<String>,
    pub made: u64,
}

impl World {
    pub fn new(seed: u64, mutation: Option<Mutation>, metrics: Metrics, base: Instant, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let boxes = rng.between(1, 3);
        let nodes = (0..boxes).map(|n| {
            let image = Image { disk: SimDisk::new(rng.next()), ring: Ring::default() };
            Node::new(&format!("box-{n:02}"), image, mutation, metrics.clone())
        });
        let nodes: Vec<Node> = nodes.collect();
        let troubles = rng.next() & rng.next() | 1 << rng.below(TROUBLES);
        let faults_until_ms = rng.between(4_000, 10_000);
        let hub = Hub::new(rng.next(), mutation);
        let mut world = Self {
            rng,
            base,
            now_ms: 0,
            order: 0,
            events: BTreeMap::new(),
            nodes,
            images: Vec::new(),
            broker: Broker { up: true, ..Broker::default() },
            broker_start_at: 0,
            hub,
            hub_image: None,
            hub_was_restored: false,
            has_shared_epoch: false,
            oracle: Oracle::default(),
            next_connection: 1,
            last_arrival: BTreeMap::new(),
            troubles,
            faults_until_ms,
            is_healing: false,
            last_words_said: false,
            trace,
            problem: None,
            made: 0,
        };
        if world.has_trouble(0) {
            world.broker.badness = Badness {
                lose: world.rng.below(30),
                double: world.rng.below(30),
                shuffle: world.rng.below(50),
            };
        }
        world.plan(0, Event::Tick);
        world.plan(1_000, Event::Strike);
        for n in 0..world.nodes.len() {
            world.plan(500, Event::Make(n));
        }
        world
    }

    /// Runs until all is quiet after the faults, or something is wrong.
    pub fn run(mut self) -> Result<u64, String> {
        loop {
            let ((at_ms, _), event) = self.events.pop_first().expect("the next tick is always planned");
            self.now_ms = at_ms;
            let is_tick = matches!(event, Event::Tick);
            self.handle(event);
            if let Some(problem) = self.problem.take() {
                return Err(format!("at {} ms: {problem}", self.now_ms));
            }
            if is_tick && self.is_healing && self.is_quiet() {
                // The boxes have nothing more to say now but how they are.
                if self.hub_image.is_some() {
                    self.restore_hub();
                    continue;
                }
                return self.oracle.check(&self.hub).and_then(|()| self.check_epochs()).map(|()| self.made);
            }
            if self.now_ms > self.faults_until_ms + self.patience_ms() {
                let owed: Vec<usize> =
                    self.nodes.iter().map(|n| n.side.as_ref().map_or(0, |side| side.owed_count())).collect();
                let check = self.oracle.check(&self.hub);
                let idle = (self.last_words_said, self.hub.is_idle(), self.broker.is_idle());
                return Err(format!("not quiet: owed {owed:?}, words, hub, broker: {idle:?}, {check:?}"));
            }
        }
    }

    /// How long healing may take: a resend, or the next status where the hub lost what it had.
    fn patience_ms(&self) -> u64 {
        match () {
            () if self.has_shared_epoch || self.hub_was_restored => 800_000,
            () if self.nodes.len() > 3 => 300_000,
            () if self.has_bounce() => 25_000,
            () => 75_000,
        }
    }

    /// Half of the seeds break all connections when the faults end, so that a resend after a reconnect must do; in the
    /// other half the connections stay, and the timeouts must.
    fn has_bounce(&self) -> bool {
        self.troubles >> 40 & 1 == 1
    }

    fn has_trouble(&self, n: u64) -> bool {
        self.troubles >> n & 1 == 1
    }

    fn plan(&mut self, after_ms: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now_ms + after_ms, self.order), event);
    }

    /// Over a connection, in order; `up`: towards the broker.
    fn transmit(&mut self, connection: u64, up: bool, event: Event) {
        let at = self.now_ms + self.rng.between(1, 40);
        let last = self.last_arrival.entry((connection, up)).or_default();
        *last = at.max(*last);
        self.order += 1;
        self.events.insert((*last, self.order), event);
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now_ms)
    }

    fn time(&self, n: Option<usize>) -> Time {
        let start = Time::from_second(1_790_000_000).expect("a good time");
        later(start, self.now_ms as i64 + n.map_or(0, |n| self.nodes[n].clock_ms))
    }

    fn log(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now_ms, what());
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Make(n) => self.make(n),
            Event::ToBroker { connection, message } => self.at_broker(connection, message),
            Event::PubAck { connection, token, outcome } => {
                if let Some(n) = self.node_of(connection) {
                    let now = self.instant();
                    let messages = self.nodes[n].published(token, outcome, now);
                    self.send(n, messages);
                }
            }
            Event::ToHub { connection, id, delivery } => self.at_hub(connection, id, delivery),
            Event::FromHub { connection, topic, payload } => self.hub_says(connection, topic, payload),
            Event::HubAck { connection, id } => self.hub_acked(connection, id),
            Event::ToBox { connection, topic, payload } => self.at_box(connection, &topic, &payload),
            Event::HubCommit => {
                if self.hub.is_up() {
                    let outs = self.hub.commit(self.instant());
                    self.after_hub(outs);
                }
            }
            Event::Strike => self.strike(),
        }
    }

    fn tick(&mut self) {
        if !self.is_healing && self.now_ms >= self.faults_until_ms {
            self.heal();
        }
        let is_late = self.is_healing && self.now_ms > self.faults_until_ms + 60_000;
        self.plan(if is_late { 5_000 } else { 1_000 }, Event::Tick);
        if !self.broker.up && self.now_ms >= self.broker_start_at {
            self.broker.up = true;
            self.log(|| "broker starts".into());
        }
        self.hub_tick();
        let first = self.rng.below(self.nodes.len() as u64) as usize;
        for n in 0..self.nodes.len() {
            self.node_tick((first + n) % self.nodes.len());
        }
    }

    fn hub_tick(&mut self) {
        if !self.hub.is_up() && self.now_ms >= self.hub.start_at {
            match self.hub.start() {
                Ok(is_up) => self.log(|| format!("hub starts: {is_up}")),
                Err(problem) => self.problem = Some(problem),
            }
            self.see_disks();
        }
        if self.hub.is_up()
            && self.hub.connection.is_none()
            && self.broker.up
            && self.now_ms >= self.hub.reconnect_at
        {
            let connection = self.connect(Client::Hub);
            self.hub.connection = Some(connection);
            self.broker.hub_connected(connection);
            self.pump();
        }
        if self.hub.is_up() && self.rng.percent(70) {
            self.hub.index();
            if self.rng.percent(40) {
                let is_whole = self.hub.mutation != Some(Mutation::IndexPositionNotAtomic) || self.is_healing;
                self.hub.index.save(is_whole);
            }
        }
    }

    fn node_tick(&mut self, n: usize) {
        if self.nodes[n].side.is_none() && self.now_ms >= self.nodes[n].start_at {
            let (now, time) = (self.instant(), self.time(Some(n)));
            let is_up = self.nodes[n].start(&mut self.rng, now, time);
            self.log(|| format!("box {n} starts: {is_up}"));
            if is_up {
                let device = self.nodes[n].device.clone();
                self.oracle.cameras.entry(device).or_insert(time);
            }
            self.see_disks();
        }
        if self.nodes[n].side.is_none() {
            return;
        }
        let may_connect = self.broker.up && self.now_ms >= self.nodes[n].reconnect_at;
        if self.nodes[n].connection.is_none() && may_connect && self.is_name_free(n) {
            self.nodes[n].connected_ms = self.now_ms;
            let connection = self.connect(Client::Box(n));
            let now = self.instant();
            let messages = self.nodes[n].link_up(connection, now);
            self.log(|| format!("box {n} connects as {connection}, sends {}", messages.len()));
            self.send(n, messages);
        }
        let says_status = self.now_ms >= self.nodes[n].status_at;
        if says_status {
            self.nodes[n].status_at = self.now_ms + BOX_STATUS_REPEAT.as_millis() as u64;
        }
        let now = self.instant();
        let messages = self.nodes[n].tick(now, says_status);
        self.send(n, messages);
        self.camera_tick(n);
    }

    /// Who has the name has it for a moment at least.
    fn is_name_free(&self, n: usize) -> bool {
        let just_connected = |node: &Node| {
            node.box_id == self.nodes[n].box_id
                && node.connection.is_some()
                && self.now_ms < node.connected_ms + 500
        };
        !self.nodes.iter().any(just_connected)
    }

    fn camera_tick(&mut self, n: usize) {
        let time = self.time(Some(n));
        if self.nodes[n].reports.len() < 3 && !self.is_healing {
            let reports = self.nodes[n].camera.step(&mut self.rng, time);
            self.nodes[n].report(reports);
        }
        if self.is_healing && !self.last_words_said {
            let reports = self.nodes[n].camera.last_word(time);
            let device = self.nodes[n].device.clone();
            let end = reports.iter().map(|report| report.upto).max();
            self.nodes[n].report(reports);
            if let Some(end) = end {
                self.oracle.accounted.insert(device, end);
            }
            self.last_words_said = self.nodes.iter().all(|node| node.side.is_some());
        }
        let waiting = self.nodes[n].reports.clone();
        let events = self.nodes[n].take_reports(time);
        if !events.is_empty() && !self.offer(n, events, false) {
            self.nodes[n].reports = waiting;
        }
    }

    /// Someone on the box has something to say.
    fn make(&mut self, n: usize) {
        let pause = if self.is_healing { 20_000 } else { 2_500 };
        let goes_on =
            !self.is_healing || self.has_shared_epoch && self.now_ms < self.faults_until_ms + 60_000;
        if goes_on {
            let after = self.rng.between(50, pause);
            self.plan(after, Event::Make(n));
        }
        if self.nodes[n].side.is_none() {
            return;
        }
        let time = self.time(Some(n));
        let count = if self.rng.percent(20) { self.rng.between(2, 6) } else { 1 };
        let is_bad = self.has_trouble(1) && self.rng.percent(10);
        let events = (0..count).map(|_| NewEvent { device: None, time, clock: CLOCK, data: data(is_bad) });
        let events = events.collect();
        self.offer(n, events, is_bad);
    }

    /// Offers events to the outbox of a box; true if it took them.
    fn offer(&mut self, n: usize, events: Vec<NewEvent>, is_bad: bool) -> bool {
        let named: Vec<(Uuid, NewEvent)> = events.into_iter().map(|event| (self.rng.uuid(), event)).collect();
        let now = self.instant();
        let Some(accepted) = self.nodes[n].accept(named, now) else { return false };
        // A process that died in the middle answers nobody.
        let is_accepted = accepted.is_ok && !self.nodes[n].disk.is_dead();
        self.made += accepted.ids.len() as u64;
        self.log(|| format!("box {n} accepts {} {:?}: {is_accepted}", accepted.ids.len(), accepted.place));
        let box_name = self.nodes[n].box_id.to_string();
        for (id, at) in accepted.ids.into_iter().zip(0..) {
            let place = accepted.place.map(|(epoch, first)| (epoch, first + at));
            let (epoch, sequences) = match place {
                Some((epoch, sequence)) => (epoch, Ranges::of(sequence, sequence)),
                None => accepted.may_stand.clone(),
            };
            let is_shared = self.has_shared_epoch && self.oracle.share(&box_name, epoch, &sequences);
            let may_stand = place.is_none().then_some((epoch, sequences));
            let offered = Offered {
                box_name: box_name.clone(),
                is_accepted,
                place,
                may_stand,
                is_bad,
                may_be_lost: false,
                is_shared,
            };
            self.oracle.offered.insert(id, offered);
        }
        self.send(n, accepted.messages);
        self.see_disks();
        is_accepted
    }

    fn nodes_in(&self, box_name: &str, epoch: camnet::model::Epoch) -> usize {
        let uses = |node: &&Node| {
            node.box_id.as_str() == box_name
                && node.side.as_ref().is_some_and(|side| side.newest().epoch == epoch)
        };
        self.nodes.iter().filter(uses).count()
    }

    fn send(&mut self, n: usize, messages: Vec<OutMessage>) {
        let Some(connection) = self.nodes[n].connection else { return };
        for message in messages {
            self.transmit(connection, true, Event::ToBroker { connection, message });
        }
    }

    fn node_of(&self, connection: u64) -> Option<usize> {
        match self.broker.connections.get(&connection) {
            Some(Client::Box(n)) if self.nodes[*n].connection == Some(connection) => Some(*n),
            _ => None,
        }
    }

    fn connect(&mut self, client: Client) -> u64 {
        if let Client::Box(n) = client {
            // The broker throws out whoever has the same name.
            let name = self.nodes[n].box_id.clone();
            let others: Vec<usize> = (0..self.nodes.len())
                .filter(|&m| m != n && self.nodes[m].box_id == name && self.nodes[m].connection.is_some())
                .collect();
            others.into_iter().for_each(|m| self.box_disconnects(m));
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        self.broker.connections.insert(connection, client);
        connection
    }

    fn box_disconnects(&mut self, n: usize) {
        let Some(connection) = self.nodes[n].connection else { return };
        self.broker.connections.remove(&connection);
        let now = self.instant();
        self.nodes[n].link_down(now);
        self.nodes[n].reconnect_at = self.now_ms + self.backoff_ms();
        let topic = Topic::new(&self.nodes[n].box_id, TopicKind::Status).to_string();
        self.broker.will(topic, status_body(false), &mut self.rng);
        self.pump();
    }

    fn hub_disconnects(&mut self, keeps_session: bool) {
        if let Some(connection) = self.hub.connection.take() {
            self.broker.connections.remove(&connection);
        }
        self.broker.hub_gone(keeps_session);
        self.hub.reconnect_at = self.now_ms + self.backoff_ms();
    }

    fn backoff_ms(&mut self) -> u64 {
        self.rng.between(100, 3_000)
    }

    fn at_broker(&mut self, connection: u64, message: OutMessage) {
        if self.node_of(connection).is_none() {
            return;
        }
        let token = message.token;
        let outcome = self.broker.publish(message, &mut self.rng);
        self.transmit(connection, false, Event::PubAck { connection, token, outcome });
        self.pump();
    }

    /// Hands to the hub what its window allows.
    fn pump(&mut self) {
        for (connection, id, delivery) in self.broker.deliveries() {
            self.transmit(connection, false, Event::ToHub { connection, id, delivery });
        }
    }

    fn at_hub(&mut self, connection: u64, id: u16, delivery: Delivery) {
        if self.hub.connection != Some(connection) || !self.hub.is_up() {
            return;
        }
        self.log(|| format!("hub gets {:?} on {}", delivery.places(), delivery.topic));
        let received = self.time(None);
        let outs = self.hub.message((connection, id), &delivery, received);
        self.after_hub(outs);
        if !self.hub.commit_planned {
            self.hub.commit_planned = true;
            // At times the disk is slow.
            let after = if self.rng.percent(15) { 3_000 } else { 60 };
            let after = self.rng.between(1, after);
            self.plan(after, Event::HubCommit);
        }
    }

    fn after_hub(&mut self, outs: Vec<Out>) {
        if self.hub.disk.is_dead() {
            // The process died in the middle: it says nothing more.
            self.see_disks();
            return;
        }
        for out in outs {
            match out {
                Out::Ack(ticket) => self.hub_acks(ticket),
                Out::Publish(topic, payload) => {
                    self.check_receipt(&topic, &payload);
                    if let Some(connection) = self.hub.connection {
                        self.transmit(connection, true, Event::FromHub { connection, topic, payload });
                    }
                }
                Out::Retry => {
                    self.hub.commit_planned = true;
                    self.plan(200, Event::HubCommit);
                }
            }
        }
    }

    fn hub_acks(&mut self, (of, id): Ticket) {
        let Some(connection) = self.hub.connection else { return };
        // The link drops acknowledgements of an earlier connection.
        if of == connection || self.hub.mutation == Some(Mutation::StaleAck) {
            self.transmit(connection, true, Event::HubAck { connection, id });
        }
    }

    fn hub_acked(&mut self, connection: u64, id: u16) {
        if self.hub.connection != Some(connection) {
            return;
        }
        if let Some(given_up) = self.broker.acked(id)
            && let Some((name, epoch, first, last)) = given_up.places()
        {
            if !self.hub.told(&name, epoch, Ranges::of(first, last)).is_empty() {
                let what = format!("{name} {epoch} {first}-{last}");
                self.problem = Some(format!("acknowledged to the broker, and not durable: {what}"));
            }
            if self.oracle.shared.contains(&name) {
                self.oracle.acknowledged.extend(given_up.ids());
            }
        }
        self.pump();
    }

    /// A receipt says nothing that is not durable.
    fn check_receipt(&mut self, topic: &str, payload: &[u8]) {
        let Ok(receipt) = Receipt::from_json(payload) else { return };
        let Some(name) = receiver(topic) else { return };
        let claimed = self.hub.told(&name, receipt.epoch, receipt.covered());
        if !claimed.is_empty() {
            self.problem = Some(format!("a receipt of {name} covers what is not durable: {claimed:?}"));
        }
    }

    fn hub_says(&mut self, connection: u64, topic: String, payload: Vec<u8>) {
        if self.hub.connection != Some(connection) {
            return;
        }
        let Some(name) = receiver(&topic) else { return };
        let receivers = self.nodes.iter().filter(|node| node.box_id.as_str() == name);
        let connections: Vec<u64> = receivers.filter_map(|node| node.connection).collect();
        for connection in connections {
            if self.rng.percent(self.broker.badness.lose) {
                continue;
            }
            let event = Event::ToBox { connection, topic: topic.clone(), payload: payload.clone() };
            self.transmit(connection, false, event);
        }
    }

    fn at_box(&mut self, connection: u64, topic: &str, payload: &[u8]) {
        let Some(n) = self.node_of(connection) else { return };
        self.log(|| format!("box {n} hears {}", String::from_utf8_lossy(payload)));
        let (now, time) = (self.instant(), self.time(Some(n)));
        let messages = self.nodes[n].message(topic, payload, &mut self.rng, time, now);
        self.send(n, messages);
        self.see_disks();
    }

    /// Trouble.
    fn strike(&mut self) {
        if self.is_healing {
            return;
        }
        let after = self.rng.between(100, 1_300);
        self.plan(after, Event::Strike);
        let kind = self.rng.below(TROUBLES);
        if !self.has_trouble(kind) {
            return;
        }
        let n = self.rng.below(self.nodes.len() as u64) as usize;
        self.log(|| format!("trouble {kind} for box {n}"));
        match kind {
            2 => self.box_disconnects(n),
            3 => {
                let keeps = self.rng.percent(50);
                self.hub_disconnects(keeps);
            }
            4 => self.broker_dies(),
            5 => self.box_dies(n),
            6 => self.hub_dies(),
            7 => {
                let after = self.rng.below(12);
                self.nodes[n].disk.fail(after, Fault::Dead);
            }
            8 => {
                let after = self.rng.below(12);
                self.hub.disk.fail(after, Fault::Dead);
            }
            9 => {
                let (of_box, of_hub) = (self.some_fault(), self.some_fault());
                self.nodes[n].disk.fail(of_box.0, of_box.1);
                self.hub.disk.fail(of_hub.0, of_hub.1);
            }
            10 => self.fill_a_disk(n),
            11 => {
                let ms = self.rng.below(7_200_000) as i64 - 3_600_000;
                self.nodes[n].clock_ms += ms;
                if ms < 0 {
                    self.oracle.set_back.insert(self.nodes[n].box_id.to_string());
                }
            }
            12 => self.restore_box(n),
            13 => self.add_twin(n),
            14 => self.restore_hub(),
            _ => self.broker.badness.lose = self.rng.below(60),
        }
    }

    fn some_fault(&mut self) -> (u64, Fault) {
        let then = [AfterFailedSync::Retries, AfterFailedSync::Forgets, AfterFailedSync::Drops];
        let fault = match self.rng.below(3) {
            0 => Fault::Error,
            1 => Fault::Short,
            _ => Fault::Sync(then[self.rng.below(3) as usize]),
        };
        (self.rng.below(8), fault)
    }

    fn fill_a_disk(&mut self, n: usize) {
        let disk = if self.rng.percent(50) { &self.nodes[n].disk } else { &self.hub.disk };
        let room = if self.rng.percent(60) { Some(disk.used_bytes() + self.rng.below(2_000)) } else { None };
        disk.set_capacity(room);
    }

    fn broker_dies(&mut self) {
        let forgets = self.rng.percent(70);
        let forgets_retained = self.rng.percent(30);
        let connected: Vec<usize> =
            (0..self.nodes.len()).filter(|&n| self.nodes[n].connection.is_some()).collect();
        for n in connected {
            let now = self.instant();
            self.nodes[n].link_down(now);
            self.nodes[n].reconnect_at = self.now_ms + self.backoff_ms();
        }
        self.hub_disconnects(true);
        self.broker.crash(forgets, forgets_retained);
        self.broker_start_at = self.now_ms + self.rng.between(0, 5_000);
    }

    fn box_dies(&mut self, n: usize) {
        if self.rng.percent(50) {
            self.nodes[n].disk.power_cut();
        } else {
            self.nodes[n].disk.process_crash();
        }
        self.box_disconnects(n);
        self.nodes[n].stop();
        self.nodes[n].start_at = self.now_ms + self.rng.below(6_000);
    }

    fn hub_dies(&mut self) {
        if self.rng.percent(50) {
            self.hub.disk.power_cut();
        } else {
            self.hub.disk.process_crash();
        }
        let keeps = self.rng.percent(70);
        self.hub_disconnects(keeps);
        self.hub.stop();
        self.hub.start_at = self.now_ms + self.rng.below(6_000);
    }

    /// Whoever died at a write point is dead now.
    fn see_disks(&mut self) {
        for n in 0..self.nodes.len() {
            if self.nodes[n].disk.is_dead() {
                self.log(|| format!("box {n} died at a write point"));
                self.box_dies(n);
            }
        }
        if self.hub.disk.is_dead() {
            self.log(|| "hub died at a write point".into());
            self.hub_dies();
        }
    }

    /// Keeps an image of a box's disk, or puts an older one in.
    fn restore_box(&mut self, n: usize) {
        let kept = self.images.iter().position(|(of, ..)| *of == n);
        let Some(at) = kept else {
            let known = self.accepted_ids(n);
            self.images.push((n, self.nodes[n].image(), known));
            return;
        };
        let (_, image, known) = self.images.remove(at);
        self.box_dies(n);
        let name = self.nodes[n].box_id.to_string();
        self.oracle.disk_replaced(&name, &known);
        self.nodes[n].disk.restore(&image.disk);
        self.nodes[n].camera.ring = image.ring;
        self.log(|| format!("box {n}: an older image is put in"));
    }

    fn accepted_ids(&self, n: usize) -> BTreeSet<Uuid> {
        let name = self.nodes[n].box_id.as_str();
        let of_box = self.oracle.offered.iter().filter(|(_, offered)| offered.box_name == name);
        of_box.map(|(id, _)| *id).collect()
    }

    /// A second box with the same name, from a copy of the first one's disk; at times in the same epoch.
    fn add_twin(&mut self, n: usize) {
        if self.nodes.len() > 3 || self.nodes[n].side.is_none() {
            return;
        }
        let image = self.nodes[n].image();
        let mut twin = Node::like(&self.nodes[n], image);
        if self.rng.percent(60) {
            twin.forced_epoch = self.nodes[n].side.as_ref().map(|side| side.newest().epoch);
            self.has_shared_epoch = true;
            self.oracle.shared.insert(self.nodes[n].box_id.to_string());
        }
        twin.start_at = self.now_ms;
        self.nodes.push(twin);
        self.plan(500, Event::Make(self.nodes.len() - 1));
    }

    /// Keeps a backup of the hub, or puts it back: later in the troubles, or when all is over. The index may be older, or newer than the journal.
    fn restore_hub(&mut self) {
        let Some(image) = self.hub_image.take() else {
            self.hub_image = Some(self.hub.disk.image());
            return;
        };
        self.hub_dies();
        self.hub.disk.restore(&image);
        self.hub_was_restored = true;
        self.hub.durable.clear();
        self.oracle.acknowledged.clear();
        self.log(|| "hub: yesterday's backup is put in".into());
    }

    /// The faults end: disks work, all come up.
    fn heal(&mut self) {
        self.log(|| "all heals".into());
        self.is_healing = true;
        self.broker.badness = Badness::default();
        self.broker_start_at = self.now_ms;
        self.hub.disk.heal();
        self.hub.start_at = self.hub.start_at.min(self.now_ms);
        if self.has_bounce() {
            for n in 0..self.nodes.len() {
                self.box_disconnects(n);
            }
            self.hub_disconnects(true);
        }
        for node in &mut self.nodes {
            node.disk.heal();
            node.start_at = node.start_at.min(self.now_ms);
        }
    }

    fn is_quiet(&self) -> bool {
        let goes_on = self.has_shared_epoch && self.now_ms < self.faults_until_ms + 80_000;
        let all_said = self.last_words_said
            && self.nodes.iter().all(|node| {
                node.reports.is_empty() && node.side.as_ref().is_some_and(|side| side.owed_count() == 0)
            });
        !goes_on && all_said && self.hub.is_idle() && self.broker.is_idle() && self.oracle.is_done(&self.hub)
    }

    /// Where two boxes shared an epoch and the hub saw it, they do not share it any more.
    fn check_epochs(&self) -> Result<(), String> {
        for (name, epoch) in &self.hub.conflicts {
            if self.nodes_in(name, *epoch) > 1 {
                return Err(format!("two boxes go on as {name} in epoch {epoch}"));
            }
        }
        Ok(())
    }
}

fn data(is_bad: bool) -> EventData {
    if is_bad {
        // A later version of a type that the hub knows: it is set aside.
        return EventData::Unknown { kind: "camnet.motion.v2".into(), data: serde_json::json!({}) };
    }
    EventData::Lamp(Lamp::new(1, LampReason::Change, true, 1.5, 230.0))
}
