//! The fleet at work: hears what becomes durable, judges every few seconds, writes down what changed.
//!
//! Owns the thread, and the one lock around mind and book. May not hold up ingest: what is heard is noted and no more.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;
use prometheus::Registry as Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::book::{Book, Entry, KnownIncident, Pen};
use super::cause::{Cause, Incident};
use super::core::Fleet;
use super::figures::Figures;
use super::roster::Roster;
use super::standing::Decided;
use super::sun;
use super::work::{Act, Order, Stage, What, WorkError};
use crate::hub::registry::{History, Registry};
use crate::hub::status::HubStatus;
use crate::hub::truth::{HubRecord, TruthItem, read_from};
use crate::journal::{JournalError, Records};
use crate::limits::{
    FLEET_BURNT_EVERY, FLEET_BURNT_RECORD_MAX, FLEET_CATCH_UP_RECORDS, FLEET_INCIDENT_DEVICES_MAX,
    FLEET_JUDGED_EVERY, WORK_OPENS_AFTER,
};
use crate::model::{DeviceId, DeviceKind, DeviceState, Time, Trouble};

/// Who acts where nobody does.
const HUB: &str = "hub";

/// The fleet, watched. Clones share it.
#[derive(Clone)]
pub struct Keeper(Arc<Shared>);

struct Shared {
    registry: Arc<Registry>,
    status: Arc<HubStatus>,
    /// Number that the next record of the fleet's journal gets, for those who follow it.
    written: watch::Sender<u64>,
    /// Held by who changes anything, as long as that takes.
    pen: Mutex<Pen>,
    inner: Mutex<Inner>,
}

pub struct Inner {
    pub fleet: Fleet,
    pub book: Book,
    pub roster: Arc<Roster>,
    /// The registry that the roster was made of.
    pub history: Arc<History>,
    /// The link to the broker was up at the last look.
    was_up: bool,
    /// When everybody was judged last, or nobody because nothing is heard.
    pub judged: Time,
    /// What the journal did not take; nothing is judged before it has.
    unwritten: Vec<Entry>,
}

/// Why an act of a person was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error("there is no device {0} in the registry")]
    NoDevice(DeviceId),
    #[error("nothing is found wrong with {0}, so there is nothing that a probe could prove mended")]
    Well(DeviceId),
    #[error("the fleet's journal can't be written; nothing was changed")]
    Journal(#[from] JournalError),
}

impl Keeper {
    /// Opens the fleet's journal in `dir`. Blocking.
    pub fn open(
        dir: &Path,
        registry: Arc<Registry>,
        status: Arc<HubStatus>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let (pen, book) = Pen::open(dir)?;
        let mut fleet = Fleet::default();
        fleet.decided = book.known.decided.clone();
        fleet.facts.listening = Time::now();
        fleet.facts.burnt_upto = book.known.burnt_upto;
        for (device, states) in &book.known.states {
            if let Some(&(since, state)) = states.last() {
                let troubles = book.known.troubles.get(device).map_or(&[][..], Vec::as_slice);
                fleet.take_up(device, state, troubles, since);
            }
        }
        for incident in book.known.open.values().filter_map(|id| book.known.incidents.get(id)) {
            let KnownIncident { cause, trouble, since, devices, .. } = incident.clone();
            fleet.take_up_incident(Incident {
                cause,
                since,
                trouble,
                devices: devices.into_iter().collect(),
            });
        }
        for (box_id, (state, since, troubles)) in &book.known.boxes {
            fleet.take_up_box(box_id, *state, troubles, *since);
            if *state == DeviceState::Unreachable {
                fleet.facts.online(box_id, false, *since);
            }
        }
        let history = registry.history();
        let roster = Arc::new(Roster::of(&history, Time::now()));
        let (written, _) = watch::channel(pen.next());
        let (judged, unwritten) = (Time::now(), Vec::new());
        let inner = Mutex::new(Inner { fleet, book, roster, history, was_up: false, judged, unwritten });
        let keeper = Self(Arc::new(Shared { registry, status, written, pen: Mutex::new(pen), inner }));
        Figures::register(keeper.clone(), metrics)?;
        Ok(keeper)
    }

    /// Where the fleet's journal ends, told anew when something was written.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.0.written.subscribe()
    }

    /// The fleet's journal for other threads to read, and its end.
    pub fn records(&self) -> (Records, u64) {
        let pen = self.pen();
        (pen.records(), pen.next())
    }

    /// Takes note of records that became durable, or were before a restart.
    pub fn hear(&self, records: &[HubRecord]) {
        let mut guard = self.lock();
        let Inner { fleet, roster, .. } = &mut *guard;
        for record in records {
            if let HubRecord::Event(arrived) = record
                && !arrived.conflict
            {
                fleet.hear(&arrived.event, arrived.received, roster);
            }
        }
    }

    /// Hears again what was said before a restart: the end of the journal, which goes to `upto`. Blocking.
    pub fn catch_up(&self, journal_dir: &Path, upto: u64) -> anyhow::Result<()> {
        let from = upto.saturating_sub(FLEET_CATCH_UP_RECORDS);
        for item in read_from(journal_dir, from)? {
            // What is damaged is told by who brings the index up.
            if let TruthItem::Record { record, .. } = item? {
                self.hear(std::slice::from_ref(&record));
            }
        }
        Ok(())
    }

    /// Judges every few seconds until `stop`. Blocking.
    pub fn run(&self, stop: &CancellationToken) {
        let mut outage = crate::outage::Outage::default();
        while !stop.is_cancelled() {
            match self.judge(Time::now()) {
                Ok(()) => drop(outage.ended()),
                Err(error) => {
                    let error = error.to_string();
                    if outage.failed(&error) {
                        tracing::error!(error, "the fleet's journal can't be written; it is tried again");
                    }
                }
            }
            std::thread::sleep(FLEET_JUDGED_EVERY);
        }
        if let Err(error) = self.write_burnt(Time::now()) {
            tracing::error!(%error, "how long lamps burnt lately is not written down");
        }
    }

    /// Judges everybody at `now`, and writes what changed. Whoever hears or looks waits for the judging, not for the disk.
    pub fn judge(&self, now: Time) -> Result<(), JournalError> {
        let mut pen = self.pen();
        self.write(&mut pen, now, Vec::new())?;
        let entries = self.judge_all(now);
        self.write(&mut pen, now, entries)?;
        let burnt_upto = self.lock().book.known.burnt_upto;
        match now.duration_since(burnt_upto) >= FLEET_BURNT_EVERY {
            true => self.write_burnt_with(&mut pen, now),
            false => Ok(()),
        }
    }

    fn judge_all(&self, now: Time) -> Vec<Entry> {
        let history = self.0.registry.history();
        let mut guard = self.lock();
        let inner = &mut *guard;
        if !Arc::ptr_eq(&history, &inner.history) {
            inner.roster = Arc::new(Roster::of(&history, now));
            inner.history = history;
        }
        // Who hears nothing knows nothing.
        let is_up = self.0.status.broker_up.load(std::sync::atomic::Ordering::Acquire);
        if !std::mem::replace(&mut inner.was_up, is_up) {
            inner.fleet.facts.listening = now;
        }
        inner.judged = now;
        if !is_up {
            return Vec::new();
        }
        for (box_id, (online, at)) in self.0.status.all_online() {
            inner.fleet.facts.online(&box_id, online, at);
        }
        inner.fleet.facts.disks(self.0.status.disks());
        let told = inner.fleet.judge(&inner.roster, now);
        let mut entries = inner.book.entries(told);
        entries.extend(inner.work(now).into_iter().map(|act| Entry::Work { act }));
        entries
    }

    /// Writes entries behind those that the journal did not take before. Who holds the pen is the only one who changes
    /// anything.
    fn write(&self, pen: &mut Pen, now: Time, more: Vec<Entry>) -> Result<(), JournalError> {
        let mut entries = std::mem::take(&mut self.lock().unwritten);
        entries.extend(more);
        let (written, result) = pen.write(now, &entries);
        let mut inner = self.lock();
        let left = entries.split_off(written);
        entries.into_iter().for_each(|entry| inner.book.known.take(entry));
        inner.unwritten = left;
        drop(inner);
        if written > 0 {
            self.0.written.send_replace(pen.next());
        }
        result
    }

    /// Writes an act of a person: it is done, or nothing of it.
    fn write_act(&self, pen: &mut Pen, now: Time, entry: Entry) -> Result<(), JournalError> {
        self.write(pen, now, Vec::new())?;
        let (written, result) = pen.write(now, std::slice::from_ref(&entry));
        if written == 0 {
            return result;
        }
        self.lock().book.known.take(entry);
        self.0.written.send_replace(pen.next());
        Ok(())
    }

    /// Writes down how long lamps burnt since the last time.
    fn write_burnt(&self, now: Time) -> Result<(), JournalError> {
        self.write_burnt_with(&mut self.pen(), now)
    }

    fn write_burnt_with(&self, pen: &mut Pen, now: Time) -> Result<(), JournalError> {
        let mut of = Vec::new();
        for (device, facts) in &mut self.lock().fleet.facts.devices {
            let circuits = facts.circuits.iter_mut();
            let burnt = circuits.filter_map(|(&circuit, known)| Some((circuit, known.burning.take()?)));
            of.extend(burnt.map(|(circuit, burnt)| (device.clone(), circuit, burnt)));
        }
        let mut entries: Vec<Entry> =
            of.chunks(FLEET_BURNT_RECORD_MAX).map(|of| Entry::Burnt { upto: now, of: of.to_vec() }).collect();
        if entries.is_empty() {
            entries.push(Entry::Burnt { upto: now, of });
        }
        self.write(pen, now, entries)
    }

    /// Does an act of a person on a work order.
    pub fn act(&self, act: Act) -> Result<Order, ActError> {
        let mut pen = self.pen();
        // Tried on a copy first: what can't be done is not written.
        let known = self.lock().book.known.orders.get(act.order).cloned();
        let known = known.ok_or(WorkError::Unknown(act.order))?;
        known.clone().take(&act)?;
        let (order, time) = (act.order, act.time);
        self.write_act(&mut pen, time, Entry::Work { act })?;
        Ok(self.lock().book.known.orders.get(order).cloned().unwrap_or(known))
    }

    /// The order about what a device suffers from: opened now, before it opens by itself, unless there is one. True if it
    /// is new.
    pub fn open_order(&self, device: &DeviceId, actor: &str, now: Time) -> Result<(Order, bool), ActError> {
        let mut pen = self.pen();
        let incident = {
            let inner = self.lock();
            if !inner.roster.devices.contains_key(device) {
                return Err(ActError::NoDevice(device.clone()));
            }
            let incident = inner.fleet.incidents().find(|incident| incident.devices.contains(device));
            let incident = incident.cloned().ok_or_else(|| ActError::Well(device.clone()))?;
            if let Some(order) = inner.book.known.orders.open_about(&incident.cause) {
                return Ok((order.clone(), false));
            }
            incident
        };
        let (order, actor) = (Uuid::now_v7(), actor.to_owned());
        let act = Act { order, time: now, actor, what: opens(&incident) };
        self.write_act(&mut pen, now, Entry::Work { act })?;
        let opened = self.lock().book.known.orders.get(order).cloned();
        Ok((opened.ok_or(WorkError::Unknown(order))?, true))
    }

    /// Takes a device out of service, or back into it.
    pub fn decide(
        &self,
        device: &DeviceId,
        decided: Decided,
        actor: &str,
        why: &str,
    ) -> Result<(), ActError> {
        let mut pen = self.pen();
        if !self.lock().roster.devices.contains_key(device) {
            return Err(ActError::NoDevice(device.clone()));
        }
        let (actor, why) = (actor.to_owned(), why.to_owned());
        let entry = Entry::Decided { device: device.clone(), decided, actor, why };
        self.write_act(&mut pen, Time::now(), entry)?;
        self.lock().fleet.decided.insert(device.clone(), decided);
        Ok(())
    }

    /// Everything that is known, for whoever shows it; nothing is judged meanwhile.
    pub fn look<T>(&self, at: impl FnOnce(&Inner) -> T) -> T {
        at(&self.lock())
    }

    /// Always taken before [`Keeper::lock`], which is never held while the disk is waited for.
    fn pen(&self) -> MutexGuard<'_, Pen> {
        self.0.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What becomes of work orders: causes that last open one, good probes close it, bad ones send it back.
    fn work(&self, now: Time) -> Vec<Act> {
        let act = |order: Uuid, what: What| Act { order, time: now, actor: HUB.to_owned(), what };
        let mut acts = Vec::new();
        let orders = &self.book.known.orders;
        for incident in self.fleet.incidents() {
            let lasts = now.duration_since(incident.since) >= WORK_OPENS_AFTER;
            if lasts && orders.open_about(&incident.cause).is_none() {
                acts.push(act(Uuid::now_v7(), opens(incident)));
            }
        }
        for order in orders.all_open() {
            acts.extend(self.proofs(order, now).into_iter().map(|what| act(order.id, what)));
        }
        acts
    }

    /// What the newest words of its devices say of an order: that it is proved, disproved, or needed no more.
    fn proofs(&self, order: &Order, now: Time) -> Vec<What> {
        // A box may be in trouble while its devices are well.
        let box_suffers = matches!(order.cause, Cause::Box(_))
            && self.fleet.incidents().any(|incident| incident.cause == order.cause);
        // Another, lesser trouble is another order's.
        let is_well = |device: &DeviceId| {
            let concerns =
                |trouble: Trouble| trouble == order.trouble || trouble.state() >= order.trouble.state();
            let standing = self.fleet.device(device);
            !box_suffers
                && standing.is_some_and(|standing| {
                    !standing.troubles().iter().any(|&(trouble, _)| concerns(trouble))
                })
        };
        // What was replaced and left the registry proves nothing any more.
        let in_use = || order.devices.iter().filter(|device| self.roster.devices.contains_key(*device));
        let Some(mended) = order.mended.filter(|_| order.stage == Stage::Unproved) else {
            // Power came back, say. A cause that became part of a wider one has not gone.
            let recovered = !box_suffers && in_use().all(is_well);
            return recovered.then_some(What::Recover { probed: now }).into_iter().collect();
        };
        if in_use().all(|device| order.proved.contains_key(device)) {
            return vec![What::Recover { probed: now }];
        }
        let mut proofs = Vec::new();
        for device in in_use() {
            if order.proved.contains_key(device) {
                continue;
            }
            let Some(standing) = self.fleet.device(device) else { continue };
            let facts = self.fleet.facts.devices.get(device);
            let is_after = facts.and_then(|facts| facts.rhythm.last()).filter(|&heard| heard > mended);
            match is_after {
                Some(probed) if is_well(device) => {
                    proofs.push(What::Prove { device: device.clone(), probed })
                }
                // It had its time, said something that could show it, and is as it was.
                Some(_)
                    if now.duration_since(mended) >= WORK_OPENS_AFTER
                        && self.could_show(device, order.trouble, mended) =>
                {
                    let trouble = standing.troubles().first().map_or(order.trouble, |&(trouble, _)| trouble);
                    return vec![What::Disprove { trouble }];
                }
                _ => {}
            }
        }
        proofs
    }

    /// Whether something was said since `mended` that would show that a trouble is gone: a lamp that is off by day shows
    /// neither that it burns again nor that it does not.
    fn could_show(&self, device: &DeviceId, trouble: Trouble, mended: Time) -> bool {
        let Some(facts) = self.fleet.facts.devices.get(device) else { return false };
        let point = self.roster.devices.get(device).and_then(|member| member.point);
        let is_night = |at: Time| {
            point.is_some_and(|point| sun::light(point, at, super::core::LIGHT_MARGIN) == sun::Light::Night)
        };
        let mut words = facts
            .circuits
            .values()
            .filter(|circuit| circuit.troubles.contains_key(&trouble) && circuit.word.at > mended)
            .map(|circuit| &circuit.word);
        match trouble {
            Trouble::SupplyLoss | Trouble::LampFailure | Trouble::OnByDay => words.any(|word| word.what.on),
            Trouble::OffByNight => words.any(|word| !word.what.on && is_night(word.at)),
            Trouble::SelfTestFailed => {
                let health = facts.health.as_ref().and_then(|said| said.what.self_test.as_ref());
                health.is_some_and(|test| test.at > mended)
            }
            Trouble::RingShort => false,
            _ => true,
        }
    }
}

fn opens(incident: &Incident) -> What {
    What::Open {
        cause: incident.cause.clone(),
        trouble: incident.trouble,
        devices: incident.devices.iter().take(FLEET_INCIDENT_DEVICES_MAX).cloned().collect(),
        since: incident.since,
    }
}

/// How long ago something began, for people who sort by it.
pub fn age(since: Time, now: Time) -> SignedDuration {
    now.duration_since(since).max(SignedDuration::ZERO)
}

pub fn kind_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Camera => "camera",
        DeviceKind::Lamp => "lamp",
        DeviceKind::Gate => "gate",
    }
}

pub fn state_name(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Working => "working",
        DeviceState::Degraded => "degraded",
        DeviceState::NotRecording => "not_recording",
        DeviceState::Unreachable => "unreachable",
        DeviceState::Maintenance => "maintenance",
        DeviceState::Retired => "retired",
    }
}
